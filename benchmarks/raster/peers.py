"""The rasterizer beside its peers: make bench-raster.

Each case is an ordinary pytest-benchmark test; run one with, for instance,

    pytest benchmarks/test_raster.py --benchmark-enable -k "sunnybrook and cv2"

Every tool works on one thread and does the same work: a cleared or new mask for each
contour, filled and kept ("hot" alone keeps none). What it gives is compared with the
exact masks, half-open and closed; the lesser count of differing pixels is shown, since
a tool may follow either rule.
"""

import os
import time
from pathlib import Path

import numpy as np
import pytest

import fastseg
from fastseg.raster.masks import rasterize, rasterize_batch
from fastseg.raster.rings import as_rings, shoelace_area

PROJECT = Path(__file__).parents[1]
REAL = Path(os.environ.get("FASTSEG_REAL_DATA", PROJECT.parent / "shared" / "data"))

SIDES = (256, 512, 1024, 4096)
COMPARED_S = 0.4
THREADED_TIMES = 40
VERTICES = (16, 64, 256, 4096, 100_000)
# So many masks a call; one of the largest is more than caches hold.
STARS = {256: 16, 512: 8, 1024: 4, 4096: 1}


def noisy_star(side, count, k):
    """Return the k-th smooth star with noise: float64 (count, 2)."""
    rng = np.random.Generator(np.random.Philox(key=[side * 1000 + k, count]))
    angle = np.arange(count) * (2 * np.pi / count)
    reach = 0.4 * side * (1 + 0.15 * np.cos(5 * angle) + 0.01 * rng.random(count))
    centre = side / 2 - 0.5
    return centre + reach[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])


def sunnybrook_contours():
    """Return the 54 real contours."""
    folder = REAL / "sunnybrook" / "contourfiles"
    return [np.loadtxt(path) for path in sorted(folder.glob("*/*/*.txt"))]


def phantom_contours():
    """Return the inner and outer contours of the sample data."""
    folder = PROJECT / "data" / "phantom" / "contourfiles"
    return [np.loadtxt(path) for path in sorted(folder.glob("*/[io]-*/*.txt"))]


CASES = {
    "phantom": lambda: (256, [ring + 80 for ring in phantom_contours()]),
    **{
        f"{side}-{count}": lambda side=side, count=count: (
            side,
            [noisy_star(side, count, k) for k in range(STARS[side])],
        )
        for side in SIDES
        for count in VERTICES
    },
}
if (REAL / "sunnybrook").is_dir():
    CASES = {"sunnybrook": lambda: (256, sunnybrook_contours()), **CASES}


def fastseg_batch(side, contours):
    """One call for all contours, checks included, into an array that is there."""
    out = np.empty((len(contours), side, side), np.bool_)
    points, offsets = as_rings(contours)
    return lambda: rasterize_batch(points, offsets, (side, side), out)


def fastseg_closed(side, contours):
    """The same with all centres on the outline in, DICOM's reading."""
    out = np.empty((len(contours), side, side), np.bool_)
    points, offsets = as_rings(contours)
    return lambda: rasterize_batch(points, offsets, (side, side), out, edges="closed")


def fastseg_single(side, contours):
    """One call of rasterize() a contour, from a float array, checks included."""
    return lambda: [rasterize(ring, (side, side)) for ring in contours]


def fastseg_coverage(side, contours):
    """One call of coverage() a contour: areas, not a mask."""
    return lambda: [fastseg.coverage(ring, (side, side)) for ring in contours]


def cv2_fixed(side, contours):
    """cv2.fillPoly into an array of masks; vertices are fixed-point beforehand."""
    cv2 = pytest.importorskip("cv2")
    cv2.setNumThreads(1)
    fixed = [np.round(ring * 256).astype(np.int32)[None] for ring in contours]
    masks = list(np.empty((len(contours), side, side), np.uint8))

    def fill():
        for mask, ring in zip(masks, fixed, strict=True):
            mask[:] = 0
            cv2.fillPoly(mask, ring, 1, shift=8)
        return masks

    return fill


def cv2_hot(side, contours):
    """cv2.fillPoly into one mask, again and again: nothing is kept."""
    cv2 = pytest.importorskip("cv2")
    cv2.setNumThreads(1)
    fixed = [np.round(ring * 256).astype(np.int32)[None] for ring in contours]
    mask = np.empty((side, side), np.uint8)

    def fill(keep=False):
        kept = []
        for ring in fixed:
            mask[:] = 0
            cv2.fillPoly(mask, ring, 1, shift=8)
            if keep:
                kept.append(mask.copy())
        return kept

    return fill


def cv2_float(side, contours):
    """cv2.fillPoly from float arrays, conversion and a mask of its own included."""
    cv2 = pytest.importorskip("cv2")
    cv2.setNumThreads(1)

    def fill_one(ring):
        mask = np.zeros((side, side), np.uint8)
        fixed = np.round(ring * 256).astype(np.int32)
        return cv2.fillPoly(mask, [fixed], 1, shift=8)

    return lambda: [fill_one(ring) for ring in contours]


def pil(side, contours):
    """PIL.ImageDraw.polygon with the outline drawn."""
    image = pytest.importorskip("PIL.Image")
    draw = pytest.importorskip("PIL.ImageDraw")
    flat = [[tuple(vertex) for vertex in ring.tolist()] for ring in contours]

    def fill_one(ring):
        mask = image.new("1", (side, side))
        draw.Draw(mask).polygon(ring, outline=1, fill=1)
        return np.asarray(mask)

    return lambda: [fill_one(ring) for ring in flat]


def skimage(side, contours):
    """skimage.draw.polygon2mask; its axes are (row, column)."""
    polygon2mask = pytest.importorskip("skimage.draw").polygon2mask
    turned = [ring[:, ::-1] for ring in contours]
    return lambda: [polygon2mask((side, side), ring) for ring in turned]


TOOLS = {
    "fastseg": fastseg_batch,
    "fastseg-closed": fastseg_closed,
    "fastseg-single": fastseg_single,
    "fastseg-coverage": fastseg_coverage,
    "cv2": cv2_fixed,
    "cv2-hot": cv2_hot,
    "cv2-float": cv2_float,
    "pil": pil,
    "skimage": skimage,
}


def cells():
    """Yield (case, tool) of what is measured."""
    for case in CASES:
        for tool in TOOLS:
            small = case in ("sunnybrook", "phantom")
            if small or tool in ("fastseg", "cv2"):
                yield case, tool


@pytest.mark.parametrize(("case", "tool"), list(cells()))
def test_fill(benchmark, case, tool):
    """Times one tool on one case and notes how far it is from the exact mask."""
    side, contours = CASES[case]()
    fill = TOOLS[tool](side, contours)
    masks = np.asarray(fill(keep=True) if tool == "cv2-hot" else fill())
    if masks.dtype == np.float32:  # an area: what it makes a mask of is at least half
        masks = masks >= 0.5
    masks = masks.astype(bool)
    points, offsets = as_rings(contours)
    truths = [
        rasterize_batch(points, offsets, (side, side), edges=edges)
        for edges in ("half-open", "closed")
    ]
    area = sum(shoelace_area(*as_rings(ring)) for ring in contours)
    benchmark.extra_info.update(
        case=case,
        tool=tool,
        masks=len(contours),
        differing=min(int((masks != truth).sum()) for truth in truths),
        bias=float(masks.sum() / area - 1),
        version=fastseg.__version__,
    )
    if tool != "fastseg":
        ratios = compare(fill, fastseg_batch(side, contours))
        benchmark.extra_info["ratio"] = ratios
    benchmark(fill)


@pytest.mark.parametrize("case", [case for case in CASES if case == "sunnybrook"])
def test_two_threads(benchmark, case):
    """Times two threads on the real contours, each forty times, beside one."""
    side, contours = CASES[case]()
    points, offsets = as_rings(contours * THREADED_TIMES)
    out = np.empty((len(offsets) - 1, side, side), np.bool_)

    def fill(threads, away=0):
        return rasterize_batch(
            points + away, offsets, (side, side), out, threads=threads
        )

    truth = fill(1).copy()
    assert np.array_equal(fill(2), truth)
    benchmark.extra_info.update(
        case=case,
        tool="threads",
        masks=len(out),
        cores=os.cpu_count(),
        ratio=compare(lambda: fill(1), lambda: fill(2)),
        # Contours off the image leave nothing but writing zeros.
        zeros=compare(lambda: fill(1, 1e6), lambda: fill(2, 1e6)),
    )
    benchmark(lambda: fill(2))


def compare(theirs, ours):
    """Return quartiles of how many times longer `theirs` takes, in turn with `ours`.

    The clock of a shared machine changes from one second to the next; calls one after
    the other see the same one. Each is called twice and timed the second time, when
    its data are in the cache.
    """
    ratios = []
    end = time.perf_counter() + COMPARED_S
    while len(ratios) < 7 or time.perf_counter() < end:
        seconds = []
        for fill in (theirs, ours):
            fill()
            start = time.perf_counter()
            fill()
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    return np.percentile(ratios, [25, 50, 75]).tolist()
