"""A made clinic: CT series, each with a structure set that references its slices.

Six organs are outlined in each structure set, with 600 contours of 100 vertices if the
series has 100 slices or more. Numbers have two decimals, as planning systems write
them, and both files are in explicit little-endian.
"""

import numpy as np
from pydicom.uid import RTStructureSetStorage

from benchmarks.dicom.tree import make_slice, uid
from tests.structure_sets import make_contour, make_structure_set, save

# Organs: where their centres lie, and their radii, as fractions of the field of view.
ORGANS = {
    "BODY": (0.5, 0.5, 0.42),
    "Lung_L": (0.68, 0.45, 0.15),
    "Lung_R": (0.32, 0.45, 0.15),
    "Heart": (0.55, 0.42, 0.09),
    "SpinalCord": (0.5, 0.72, 0.02),
    "GTV": (0.36, 0.4, 0.03),
}
OUTLINED = 100  # slices on which each organ is outlined, at most
VERTICES = 100
FIELD_MM = 350.0
NOISE = 256  # added to pixels, so that no two slices are alike
HARMONICS = 5


def make_clinic(root, series, slices, side):
    """Write CT series and structure sets; return how many bytes they have.

    series : number of series, each in a folder of its own
    slices : number of slices in each, 1 mm apart
    side   : rows and columns of a slice
    """
    random = np.random.default_rng(0)
    total = 0
    for k in range(series):
        folder = root / f"P{k // 2:04d}" / f"S{k}"
        folder.mkdir(parents=True)
        images = [make_image(k, n, side, random) for n in range(slices)]
        for n, ds in enumerate(images):
            ds.save_as(folder / f"IM-{n + 1:04d}.dcm", enforce_file_format=True)
        save(outline(images, k, random), folder.with_name(f"RS{k}.dcm"))
        total += sum(path.stat().st_size for path in folder.iterdir())
        total += folder.with_name(f"RS{k}.dcm").stat().st_size
    return total


def make_image(series, number, side, random):
    """Return a slice of 12 bits, whose pixels are noise."""
    ds = make_slice(series, number)
    ds.Rows = ds.Columns = side
    ds.PixelSpacing = [f"{FIELD_MM / side:.8f}"] * 2
    ds.PixelData = random.integers(900, 900 + NOISE, (side, side), np.uint16).tobytes()
    return ds


def outline(images, series, random):
    """Return the structure set of a series, as a dataset."""
    count = min(len(images), OUTLINED)
    middle = images[(len(images) - count) // 2 :][:count]
    rois = {
        name: [
            make_contour(ring, data=text_of(ring), images=[ds.SOPInstanceUID])
            for ds, ring in zip(middle, rings_of(organ, middle, random), strict=True)
        ]
        for name, organ in ORGANS.items()
    }
    first = images[0]
    return make_structure_set(
        rois,
        patient=first.PatientID,
        series=(first.SeriesInstanceUID,),
        frame=first.FrameOfReferenceUID,
        StudyInstanceUID=first.StudyInstanceUID,
        SOPClassUID=RTStructureSetStorage,
        SOPInstanceUID=uid("set", series),
    )


def rings_of(organ, images, random):
    """Return a wobbly ring in each image, float64 (images, vertices, 3), mm."""
    x, y, radius = organ
    angles = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    orders = np.arange(2, 2 + HARMONICS)
    sizes = random.normal(0, 0.03, (len(images), HARMONICS, 1)) / orders[:, None]
    waves = np.sin(orders[:, None] * angles + random.uniform(0, 6, (HARMONICS, 1)))
    radii = radius * (1 + (sizes * waves).sum(1))
    left, top, _ = images[0].ImagePositionPatient
    points = np.empty((len(images), VERTICES, 3))
    points[..., 0] = left + FIELD_MM * (x + radii * np.cos(angles))
    points[..., 1] = top + FIELD_MM * (y + radii * np.sin(angles))
    points[..., 2] = [[ds.ImagePositionPatient[2]] for ds in images]
    return points


def text_of(ring):
    """Return points as the text of ContourData, with two decimals."""
    return "\\".join([f"{number:.2f}" for number in ring.ravel().tolist()])
