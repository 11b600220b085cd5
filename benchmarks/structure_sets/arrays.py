"""One structure set of a clinic to arrays in pixels: fastseg beside pydicom.

    python -m benchmarks.structure_sets.arrays [FILE] [--rounds 15] [--no-save]

FILE is by default that of the real data: 10 ROIs, 441 contours, 88 000 vertices. All
sides read the bytes, which are in the page cache, and return one array (n, 2) of pixel
coordinates for each contour, by the same Plane; all arrays must be equal to the last
bit. One thread; all take turns in each round.
"""

import argparse
import os
import platform
import time
from pathlib import Path

import numpy as np
import pydicom

from benchmarks.inputs import REAL_DATA
from benchmarks.tables import publish, split_page, spread, table_of
from fastseg.dicom.structure_set import read_structure_set
from fastseg.geometry import Plane

BREAST = REAL_DATA / "rtstruct" / "breast" / "rtss.dcm"
# That of the one slice which is published with it.
PLANE = Plane(
    origin=(-275.0, -524.0, 168.5593),
    row_direction=(1, 0, 0),
    column_direction=(0, 1, 0),
    spacing_mm=(1.074219, 1.074219),
)
CONTOUR_DATA = 0x30060050
OURS = "**fastseg**"
PYDICOM = "pydicom, numbers of its own"
SPLIT = "pydicom, numbers by numpy from the bytes"


def by_fastseg(path):
    """Read it as a build does, all contours at once."""
    structures = read_structure_set(path.read_bytes(), path.name)
    points, ends = structures.points(np.flatnonzero(structures.contours.is_valid))
    pixels, _ = PLANE.patient_to_pixel(points)
    return np.split(pixels, ends[1:-1])


def contours_of(path):
    """Yield the contours of a structure set, as pydicom reads them."""
    for roi in pydicom.dcmread(path).ROIContourSequence:
        yield from roi.get("ContourSequence", ())


def by_pydicom(path):
    """Read it as its documentation does."""
    return [
        to_pixels(np.array(contour.ContourData, float)) for contour in contours_of(path)
    ]


def by_numpy(path):
    """Read the elements by pydicom, and split their bytes without it."""
    return [
        to_pixels(np.array(contour.get_item(CONTOUR_DATA).value.split(b"\\"), float))
        for contour in contours_of(path)
    ]


def to_pixels(numbers):
    """Return pixel coordinates of the numbers of a contour."""
    return PLANE.patient_to_pixel(numbers.reshape(-1, 3))[0]


SIDES = {OURS: by_fastseg, PYDICOM: by_pydicom, SPLIT: by_numpy}


def measure(path, rounds):
    """Return the seconds of each side, float64 (rounds,), by name."""
    expected = by_pydicom(path)
    for side in SIDES.values():
        for ours, theirs in zip(side(path), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    seconds = {name: [] for name in SIDES}
    for _ in range(rounds):
        for name, side in SIDES.items():
            start = time.perf_counter()
            side(path)
            seconds[name].append(time.perf_counter() - start)
    vertices = sum(map(len, expected))
    return {name: np.array(x) for name, x in seconds.items()}, len(expected), vertices


def rows_of(seconds):
    """Yield the rows of the table."""
    yield "", "ms (median, quartiles)", "times fastseg (median, quartiles)"
    for name, values in seconds.items():
        ratio = spread(values / seconds[OURS], "{:.1f}")
        yield name, spread(values * 1e3, "{:.1f}"), ratio


def main():
    """Measure, print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, default=BREAST)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-save", action="store_true", help="print only")
    arguments = parser.parse_args()
    if not arguments.no_save:
        split_page("structure_sets_arrays")
    seconds, contours, vertices = measure(arguments.file, arguments.rounds)
    size = arguments.file.stat().st_size / 1e6
    text = (
        f"{table_of(rows_of(seconds))}\n{arguments.file.parent.name}/"
        f"{arguments.file.name}, {size:.1f} MB: {contours} contours, {vertices:,} "
        "vertices; arrays equal. One thread, page cache warm, "
        f"{arguments.rounds} rounds on one of {os.cpu_count()} cores "
        f"({platform.machine()}); pydicom {pydicom.__version__}, "
        f"{time.strftime('%Y-%m-%d')}.\n"
    )
    print(text)
    if not arguments.no_save:
        publish("structure_sets_arrays", text)


if __name__ == "__main__":
    main()
