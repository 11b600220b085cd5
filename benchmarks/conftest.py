"""Fixtures and set-up of the benchmarks."""

import hashlib
import os
import shutil

import pytest

from benchmarks.inputs import PROJECT, Inputs

# Rounds of a case that needs something done before each call; pytest-benchmark chooses
# those of the others.
ROUNDS = 10


def pytest_configure(config):
    """Keep compiled kernels in a folder of their own for each state of their sources.

    numba compares the source file of a cached kernel, but not those of the kernels that
    it calls: an edited callee would be timed in its old form.
    """
    digest = hashlib.sha256()
    for path in sorted((PROJECT / "fastseg" / "_kernels").rglob("*.py")):
        digest.update(path.read_bytes())
    folder = config.cache.mkdir(f"kernels-{digest.hexdigest()[:16]}")
    for older in folder.parent.glob("kernels-*"):
        if older != folder:
            shutil.rmtree(older)
    os.environ.setdefault("NUMBA_CACHE_DIR", str(folder))


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """The files and stores that the cases work on."""
    return Inputs(tmp_path_factory.mktemp("drawn"), tmp_path_factory.mktemp("stores"))


@pytest.fixture
def timed(benchmark, inputs):
    """Times a case; returns the result of its last call, and the items of a call."""

    def run(case):
        work = case.prepare(inputs)
        if work.before:
            work.before()
        work.call()  # compiles, and warms the page cache
        benchmark.group = case.subject
        benchmark.extra_info.update(
            data=case.data, unit=case.unit, items=work.items, case=case.name
        )
        if work.before is None:
            result = benchmark(work.call)
        else:
            result = benchmark.pedantic(work.call, setup=work.before, rounds=ROUNDS)
        return result, work.items

    return run
