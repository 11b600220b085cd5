"""From bytes on disk to pixels: fastseg beside pydicom and dicomsdl.

    python -m benchmarks.dicom.race [STUDY] [--rounds 5]

STUDY is a folder with `dicoms/*/*.dcm`: by default the Sunnybrook data where they are
(see benchmarks/inputs.py), else the sample data. Files are in the page cache. For each
file all readers take turns, and each is called twice and timed the second time, because
the clock of a shared machine changes from one second to the next; a ratio is that of
two calls right after each other. All readers must return the same stored values.
"""

import argparse
import os
import platform
import sys
import time
from io import FileIO
from pathlib import Path

import numpy as np
import pydicom
from pydicom.pixels import pixel_array

from benchmarks.inputs import default_study
from benchmarks.tables import spread, table_of
from fastseg import dicom
from fastseg.dicom import scan

BYTES, OURS, PYDICOM = "the bytes alone", "fastseg", "pydicom, dcmread + pixel_array"


def read_bytes(path):
    """Read the bytes and nothing else: the least that any reader does."""
    with FileIO(path) as file:
        return file.readall()


READERS = {
    BYTES: read_bytes,
    "fastseg, the header": dicom.read_header,
    OURS: lambda path: dicom.read_image(path).pixels,
    PYDICOM: lambda path: pydicom.dcmread(path).pixel_array,
    "pydicom, pixels.pixel_array": lambda path: pixel_array(path, raw=True),
}
try:
    import dicomsdl
except ImportError:
    print("dicomsdl is not installed, so it is left out", file=sys.stderr)
else:
    READERS["dicomsdl"] = lambda path: dicomsdl.open(path).pixelData(storedvalue=True)


def check(paths):
    """Compare the pixels of all readers; return how many files need pydicom."""
    fallbacks = 0
    for path in paths:
        results = {name: read(path) for name, read in READERS.items()}
        expected = results.pop(PYDICOM)
        for result in results.values():
            if isinstance(result, np.ndarray):
                np.testing.assert_array_equal(result, expected, err_msg=path)
        fallbacks += scan.parse(results[BYTES]) is None
    return fallbacks


def measure(paths, rounds):
    """Return the seconds of each reader, float64 (rounds * files,), by name."""
    seconds = {name: [] for name in READERS}
    for _ in range(rounds):
        for path in paths:
            for name, read in READERS.items():
                read(path)
                start = time.perf_counter()
                read(path)
                seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def rows_of(seconds):
    """Yield the rows of the table."""
    yield "reader", "µs a file (median)", "times fastseg (median, quartiles)"
    for name, values in seconds.items():
        micros = f"{np.median(values) * 1e6:.0f}"
        yield name, micros, spread(values / seconds[OURS], "{:.2f}")


def main():
    """Compare the pixels, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", nargs="?", type=Path, default=default_study())
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    paths = sorted(map(str, arguments.study.glob("dicoms/*/*.dcm")))
    if not paths:
        sys.exit(f"{arguments.study}: has no dicoms/*/*.dcm")
    fallbacks = check(paths)
    print(table_of(rows_of(measure(paths, arguments.rounds))))
    size = np.mean([Path(path).stat().st_size for path in paths])
    print(
        f"{len(paths)} files of {size / 1000:.0f} kB from {arguments.study.name} "
        f"({fallbacks} of them need pydicom), page cache warm, {arguments.rounds} "
        f"rounds on one of {os.cpu_count()} cores ({platform.machine()}); pixels equal."
    )


if __name__ == "__main__":
    main()
