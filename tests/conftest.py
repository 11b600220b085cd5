"""What several tests share: sample data, real data, a store."""

import gc
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import fastseg
from fastseg import remote
from fastseg._kernels import jit
from tests.commands import run_command
from tests.strategies import MOST_INTERPRETED

# The first example of a kernel compiles it, so no example has a deadline. And a busy
# machine is no fault of a test.
settings.register_profile(
    "fastseg", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "interpreted", settings.get_profile("fastseg"), max_examples=MOST_INTERPRETED
)
settings.load_profile("interpreted" if jit.INTERPRETED else "fastseg")

# What a shell starts in the background ignores Ctrl-C, and so would all that the tests
# start to press it.
signal.signal(signal.SIGINT, signal.default_int_handler)

PROJECT = Path(__file__).parents[1]


def pytest_collection_finish():
    """Take what the tests import, such as PyTorch, out of each later `gc.collect`.

    Many tests call it. It takes 0.3 s with all of that, and without it 10 ms.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def sample_study():
    """The committed phantom; not to be written to."""
    return PROJECT / "data" / "phantom"


@pytest.fixture(scope="session")
def studies(sample_study):
    """The committed phantoms by kind; not to be written to."""
    folders = {"cine": "phantom", "rtstruct": "phantom_rt", "faulty": "phantom_faulty"}
    return {kind: PROJECT / "data" / folder for kind, folder in folders.items()}


@pytest.fixture(scope="session")
def small_study(tmp_path_factory):
    """A phantom of two patients with images of different shapes; read only."""
    return fastseg.make_phantom(
        tmp_path_factory.mktemp("small") / "study",
        patients=2,
        sizes=(40, "48x36"),
        slices=2,
        phases=3,
    )


@pytest.fixture
def study(small_study, tmp_path):
    """A copy of the small phantom, to be spoiled."""
    return shutil.copytree(small_study, tmp_path / "study")


@pytest.fixture(scope="session")
def store(sample_study, tmp_path_factory):
    """A store of the committed phantom: two shapes, four classes."""
    path = tmp_path_factory.mktemp("store") / "heart.h5"
    fastseg.build(fastseg.link(sample_study), path)
    return fastseg.open(path)


@pytest.fixture(scope="session")
def real_data():
    """The folder of real data; tests are skipped where it is absent."""
    folder = Path(
        os.environ.get("FASTSEG_REAL_DATA", PROJECT.parent / "shared" / "data")
    )
    if not (folder / "sunnybrook").is_dir():
        pytest.skip(f"no real data at {folder}; set FASTSEG_REAL_DATA to its folder")
    return folder


@pytest.fixture
def requests(monkeypatch):
    """Let threads that make requests end soon; there are none after the test."""
    monkeypatch.setattr(remote, "IDLE", 0.05)
    yield
    names = ("fastseg-remote", "fastseg-request")
    deadline = time.monotonic() + 10
    while left := [t for t in threading.enumerate() if t.name.startswith(names)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


@pytest.fixture
def memory(requests, monkeypatch):
    """An empty file system of fsspec behind memory://, and quick attempts."""
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")

    def clear():
        system.store.clear()
        system.pseudo_dirs[:] = [""]

    clear()
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    yield system
    clear()


@pytest.fixture
def fastseg_command(tmp_path):
    """Runs the command line in tmp_path and returns the finished process."""

    def run(*arguments, cwd=tmp_path):
        return run_command([*map(str, arguments)], cwd)

    return run
