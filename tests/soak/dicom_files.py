"""Compares the compiled scan of DICOM files with pydicom on spoilt files.

A third is the sample data with bytes and elements changed, the rest are small files of
every kind that `tests/dicom_damage.py` makes, half of them damaged. Each is read in
three ways: its bytes, the file with a frame requested, its header. Where the scan
answers, pydicom must give the same pixels and metadata, or the same error.
"""

import random

from fastseg.dicom import scan
from tests import dicom_damage as damage
from tests.conftest import PROJECT
from tests.soak import Fault

# Numbers of bytes that are read at first, then more; short ones end within elements.
PIECES = (scan.SIZES, (200, 700), (17, 400))


def run(folder, tries, seed):
    """Yield in how many of its three ways each file is read by the scan."""
    rng = random.Random(seed)
    paths = sorted((PROJECT / "data" / "phantom").glob("dicoms/*/*.dcm"))
    samples = [path.read_bytes() for path in paths]
    for k in range(tries):
        from_sample = rng.random() < 1 / 3
        data = damage_sample(rng, samples) if from_sample else damage.make_file(rng)
        scan.SIZES = rng.choice(PIECES)
        answered, differences = damage.compare(data, rng.choice((0, 0, 0, 1, 2, 3)))
        if differences:
            yield Fault(f"file {k}: {differences}\n{data[128:2000]!r}")
        elif answered:
            yield "by the scan" if answered == 3 else "by the scan in part"
        else:
            yield "by pydicom alone"


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
