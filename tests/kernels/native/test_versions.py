"""Object code with the lowest versions allowed of what it is made and loaded by."""

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import numpy
import pytest

from fastseg._kernels.jit import INTERPRETED
from fastseg._kernels.native import machine

pytestmark = pytest.mark.skipif(
    INTERPRETED or not machine.uses_objects(), reason="there is no object code here"
)

PROJECT = Path(__file__).parents[3]
# The calls that reach each kind of argument and result.
TESTS = ("test_entries.py", "-k", "numbers_go or any_form or named_tuple or memory_of")


def lowest(name):
    """Return the lowest version that pyproject.toml allows."""
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    return re.search(rf'"{name}>=([0-9.]+)"', text)[1]


def test_the_lowest_versions_make_and_run_object_code(tmp_path):
    """They are installed beside the other packages of this environment."""
    versions = [f"{name}=={lowest(name)}.*" for name in ("numba", "llvmlite", "numpy")]
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "install",
         "--quiet", "--no-deps", "--no-compile", "--only-binary=:all:",
         "--target", str(site), *versions],
        capture_output=True,
        text=True,
    )  # fmt: skip
    if installed.returncode:
        pytest.skip(f"they cannot be installed here: {installed.stderr[-500:]}")
    (site / "rest.pth").write_text(str(Path(numpy.__file__).parents[1]))
    finished = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
         "-o", "addopts=", "-o", "filterwarnings=",
         str(Path(__file__).parent / TESTS[0]), *TESTS[1:]],
        cwd=PROJECT,
        env={
            **os.environ,
            "PYTHONPATH": str(PROJECT),
            "PYTHONMALLOC": "debug",  # finds what is written beside Python's objects
            "MALLOC_PERTURB_": "165",  # and what is read after it is freed
            "FASTSEG_CACHE_DIR": str(tmp_path / "cache"),
        },
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
    assert "passed" in finished.stdout
