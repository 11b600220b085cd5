"""Compares the fast path of DICOM reading with pydicom on a hundred thousand files.

    python -m benchmarks.dicom.soak [--files 100000] [--seed 0]

A third is the sample data with bytes and elements changed, the rest are small files of
every kind that `tests/dicom_damage.py` makes, half of them damaged. Each is read in
three ways: its bytes, the file with a frame asked for, its header. Where the fast path
answers, pydicom must give the same pixels and metadata, or the same error. The number
of files that differ is printed; the exit status is 1 if any does.
"""

import argparse
import random
import sys
import time
from collections import Counter

from benchmarks.inputs import SAMPLE_DATA
from fastseg.dicom import scan
from tests import dicom_damage as damage

# Numbers of bytes that are read at first, then more; short ones end within elements.
PIECES = (scan.SIZES, (200, 700), (17, 400))


def damage_sample(rng, samples):
    """Return one of the sample files with a few things changed."""
    data = rng.choice(samples)
    elements, end = damage.split_file(data)
    if rng.random() < 0.4:
        for _ in range(rng.choice((1, 2))):
            damage.spoil_elements(rng, elements)
        return damage.write_file(elements, explicit=rng.random() < 0.8)
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = damage.spoil_bytes(rng, data, min(end, len(data)))
    return data


def main():
    """Compare and count."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    samples = [path.read_bytes() for path in sorted(SAMPLE_DATA.glob("dicoms/*/*.dcm"))]
    answers = Counter()
    differing = 0
    start = time.monotonic()
    for k in range(1, arguments.files + 1):
        from_sample = rng.random() < 1 / 3
        data = damage_sample(rng, samples) if from_sample else damage.make_file(rng)
        scan.SIZES = rng.choice(PIECES)
        answered, differences = damage.compare(data, rng.choice((0, 0, 0, 1, 2, 3)))
        answers["none" if answered == 0 else "all" if answered == 3 else "some"] += 1
        if differences:
            differing += 1
            print(f"file {k}: {differences}\n{data[128:2000]!r}")
        if k % 10_000 == 0:
            seconds = time.monotonic() - start
            print(f"{k:,} files, {differing} differ, {seconds:.0f} s", flush=True)
    print(
        f"{arguments.files:,} files: the fast path answers {answers['all']:,} in all "
        f"three ways, {answers['some']:,} in some, and leaves {answers['none']:,} to "
        f"pydicom; {differing} differ"
    )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
