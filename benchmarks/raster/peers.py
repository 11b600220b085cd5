"""The tools of benchmarks/raster/race.py: ours and others, and the contours they fill.

A tool is a function of the side of the images and their contours. It returns another
one, `fill`, which clears or makes a mask for each contour, fills it and returns all of
them, on one thread. A tool imports what it needs: one that is not installed raises
ImportError.
"""

import numpy as np

import fastseg
from benchmarks.cases import noisy_star
from benchmarks.inputs import SAMPLE_DATA, SUNNYBROOK
from fastseg.raster.masks import rasterize, rasterize_batch
from fastseg.raster.rings import as_rings

SIDES = (256, 512, 1024, 4096)
VERTICES = (16, 64, 256, 4096, 100_000)
# Side of the image: number of masks in a call. One of the largest exceeds the caches.
STARS = {256: 16, 512: 8, 1024: 4, 4096: 1}


def sunnybrook_contours():
    """Return the 54 real contours."""
    folder = SUNNYBROOK / "contourfiles"
    return [np.loadtxt(path) for path in sorted(folder.glob("*/*/*.txt"))]


def phantom_contours():
    """Return the inner and outer contours of the sample data, moved to the middle."""
    folder = SAMPLE_DATA / "contourfiles"
    paths = sorted(folder.glob("*/[io]-*/*.txt"))
    return [np.loadtxt(path) + 80 for path in paths]


def stars(side, vertices):
    """Return noisy stars for one call."""
    return [noisy_star(side, vertices, k) for k in range(STARS[side])]


# Ours ---------------------------------------------------------------------------------


def fastseg_batch(side, contours):
    """One call for all contours, checks included, into an array that exists."""
    out = np.empty((len(contours), side, side), np.bool_)
    points, offsets = as_rings(contours)
    return lambda: rasterize_batch(points, offsets, (side, side), out)


def fastseg_closed(side, contours):
    """The same with all centres on the outline in, as DICOM has it."""
    out = np.empty((len(contours), side, side), np.bool_)
    points, offsets = as_rings(contours)
    return lambda: rasterize_batch(points, offsets, (side, side), out, edges="closed")


def fastseg_single(side, contours):
    """One call of rasterize() a contour, from a float array, checks included."""
    return lambda: [rasterize(ring, (side, side)) for ring in contours]


def fastseg_coverage(side, contours):
    """One call of coverage() a contour: areas, not a mask."""
    return lambda: [fastseg.coverage(ring, (side, side)) for ring in contours]


# Others -------------------------------------------------------------------------------


def fixed_point(contours):
    """Return contours as OpenCV takes them: int32, in 1/256 of a pixel."""
    return [np.round(ring * 256).astype(np.int32)[None] for ring in contours]


def cv2_fixed(side, contours):
    """cv2.fillPoly into an array of masks; vertices are fixed-point before."""
    import cv2

    cv2.setNumThreads(1)
    fixed = fixed_point(contours)
    masks = list(np.empty((len(contours), side, side), np.uint8))

    def fill():
        for mask, ring in zip(masks, fixed, strict=True):
            mask[:] = 0
            cv2.fillPoly(mask, ring, 1, shift=8)
        return masks

    return fill


def cv2_hot(side, contours):
    """cv2.fillPoly into one mask, again and again: all but the last are lost.

    So the masks that it returns, to be compared, are filled by cv2_fixed.
    """
    import cv2

    cv2.setNumThreads(1)
    fixed = fixed_point(contours)
    mask = np.empty((side, side), np.uint8)

    def fill():
        for ring in fixed:
            mask[:] = 0
            cv2.fillPoly(mask, ring, 1, shift=8)

    fill.checked = cv2_fixed(side, contours)
    return fill


def cv2_float(side, contours):
    """cv2.fillPoly from float arrays, conversion and a new mask included."""
    import cv2

    cv2.setNumThreads(1)

    def fill_one(ring):
        mask = np.zeros((side, side), np.uint8)
        fixed = np.round(ring * 256).astype(np.int32)
        return cv2.fillPoly(mask, [fixed], 1, shift=8)

    return lambda: [fill_one(ring) for ring in contours]


def pil(side, contours):
    """PIL.ImageDraw.polygon with the outline drawn."""
    from PIL import Image, ImageDraw

    vertices = [[tuple(vertex) for vertex in ring.tolist()] for ring in contours]

    def fill_one(ring):
        mask = Image.new("1", (side, side))
        ImageDraw.Draw(mask).polygon(ring, outline=1, fill=1)
        return np.asarray(mask)

    return lambda: [fill_one(ring) for ring in vertices]


def skimage(side, contours):
    """skimage.draw.polygon2mask; its axes are (row, column)."""
    from skimage.draw import polygon2mask

    turned = [ring[:, ::-1] for ring in contours]
    return lambda: [polygon2mask((side, side), ring) for ring in turned]


OURS, CV2 = "fastseg.rasterize_batch", "cv2.fillPoly, fixed-point vertices ready"
TOOLS = {
    OURS: fastseg_batch,
    CV2: cv2_fixed,
    "cv2.fillPoly into one mask, again and again": cv2_hot,
    'fastseg.rasterize_batch, edges="closed"': fastseg_closed,
    "fastseg.rasterize, one call a contour": fastseg_single,
    "fastseg.coverage, areas of at least half a pixel": fastseg_coverage,
    "cv2.fillPoly from floats": cv2_float,
    "PIL ImageDraw.polygon": pil,
    "skimage.draw.polygon2mask": skimage,
}
