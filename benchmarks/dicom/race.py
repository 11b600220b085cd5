"""From bytes on disk to pixels: fastseg beside pydicom and dicomsdl.

    python benchmarks/dicom_speed.py [STUDY] [--rounds 5]

STUDY is a folder with `dicoms/*/*.dcm`: by default the real Sunnybrook data where they
are (see tests/conftest.py), else the sample data. Files are in the page cache. For
each file all readers take turns, each called twice and timed the second time, because
the clock of a shared machine changes from one second to the next; a ratio is that of
two calls one after the other. What the readers give is compared: stored values are
equal, pixel for pixel.
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

from fastseg import dicom
from fastseg.dicom import scan

PROJECT = Path(__file__).parents[1]
REAL = Path(os.environ.get("FASTSEG_REAL_DATA", PROJECT.parent / "shared" / "data"))


def read_bytes(path):
    """Read the bytes and nothing else: the least that any reader does."""
    with FileIO(path) as file:
        return file.readall()


READERS = {
    "the bytes alone": read_bytes,
    "fastseg, the header": lambda path: dicom.read_header(path),
    "fastseg": lambda path: dicom.read_image(path).pixels,
    "pydicom, dcmread + pixel_array": lambda path: pydicom.dcmread(path).pixel_array,
    "pydicom, pixels.pixel_array": lambda path: pixel_array(path, raw=True),
}
try:
    import dicomsdl
except ImportError:
    print("dicomsdl is not installed, so it is left out")
else:
    READERS["dicomsdl"] = lambda path: dicomsdl.open(path).pixelData(storedvalue=True)


def check(paths):
    """Compare what all readers give; return how many files need pydicom."""
    fallbacks = 0
    for path in paths:
        results = {name: read(path) for name, read in READERS.items()}
        expected = results.pop("pydicom, dcmread + pixel_array")
        for result in results.values():
            if isinstance(result, np.ndarray):
                np.testing.assert_array_equal(result, expected, err_msg=path)
        data = results["the bytes alone"]
        fallbacks += scan.decode(data, path, 0, dicom.MAX_PIXEL_BYTES) is None
    return fallbacks


def main():
    """Measure, compare what came out, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sunnybrook = REAL / "sunnybrook"
    usual = sunnybrook if sunnybrook.is_dir() else PROJECT / "data" / "phantom"
    parser.add_argument("study", nargs="?", type=Path, default=usual)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    paths = sorted(map(str, arguments.study.glob("dicoms/*/*.dcm")))
    if not paths:
        sys.exit(f"{arguments.study}: no dicoms/*/*.dcm there")
    fallbacks = check(paths)
    seconds = {name: [] for name in READERS}
    for _ in range(arguments.rounds):
        for path in paths:
            for name, read in READERS.items():
                read(path)
                start = time.perf_counter()
                read(path)
                seconds[name].append(time.perf_counter() - start)
    ours = np.array(seconds["fastseg"])
    print("| reader | µs a file (median) | times fastseg (median, quartiles) |")
    print("|---|---|---|")
    for name, taken in seconds.items():
        low, ratio, high = np.percentile(np.array(taken) / ours, [25, 50, 75])
        print(
            f"| {name} | {np.median(taken) * 1e6:.0f} | "
            f"{ratio:.2f} ({low:.2f} to {high:.2f}) |"
        )
    size = np.mean([Path(path).stat().st_size for path in paths])
    print(
        f"\n{len(paths)} files of {size / 1000:.0f} kB from {arguments.study.name} "
        f"({fallbacks} of them need pydicom), page cache warm, {arguments.rounds} "
        f"rounds on one of {os.cpu_count()} cores ({platform.machine()}); pixels equal."
    )


if __name__ == "__main__":
    main()
