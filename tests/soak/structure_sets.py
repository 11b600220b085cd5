"""Compares `read_structure_set` with pydicom on spoilt RT structure sets.

A third is valid, in every encoding; a third has items and values changed, and a third
has bytes changed, see `tests/structure_set_damage.py`. What is read without a problem
must be what pydicom reads; all else must be an error, or a problem of its contour.
"""

import random

from tests.soak import Fault
from tests.structure_set_damage import compare, make_file


def run(folder, tries, seed):
    """Yield what becomes of each file."""
    rng = random.Random(seed)
    for k in range(tries):
        data = make_file(rng)
        outcome, difference = compare(data)
        yield Fault(f"file {k}: {difference}\n{data!r}") if difference else outcome
