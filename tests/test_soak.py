"""Each part of the soak runs, in small numbers, and finds no broken promise."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import PROJECT
from tests.soak.__main__ import TRIES

# Tries of each part in this test, and how many different outcomes there must be.
FEW = {
    "kills": (9, 2),
    "executors": (2, 1),
    "system_calls": (30, 2),
    "interrupts": (24, 6),
    "stores": (150, 3),
    "metadata": (120, 2),
    "codecs": (21, 7),
    "dicom_files": (500, 3),
    "structure_sets": (150, 3),
    "public_files": (100, 2),
    "polygons": (300, 5),
    "compiling": (8, 2),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("part", FEW)
def test_no_promise_is_broken(part):
    """A part ends with few tries, different outcomes and no fault."""
    if part == "system_calls" and not (sys.platform == "linux" and shutil.which("cc")):
        pytest.skip("needs Linux and a C compiler")
    tries, kinds = FEW[part]
    scale = tries / TRIES[part]
    command = [sys.executable, "-m", "tests.soak", part, "--json", "--seed", "7"]
    done = subprocess.run(
        [*command, "--scale", str(scale)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    outcomes = json.loads(done.stdout)["outcomes"]
    assert sum(outcomes.values()) >= min(tries, 60)  # there are 80 public files
    assert len(outcomes) >= kinds, outcomes


def test_every_part_is_tested():
    """No part is missing from these tests."""
    assert FEW.keys() == TRIES.keys()
