"""What is no regular file is refused at once, by name, wherever a file is read."""

import os
import signal
import socket
import subprocess
import sys
import warnings

import pytest

import fastseg
from fastseg import dicom
from fastseg.errors import FastsegError
from fastseg.files import open_regular, read_file, stamp_of
from fastseg.links import LinkTable
from fastseg.store.split_table import read_split

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
KINDS = ["pipe", "socket", "device", "endless device", "folder"]
SECONDS = 60


@pytest.fixture(autouse=True)
def limit():
    """Ends a test that waits."""

    def stop(number, frame):
        raise TimeoutError(f"still waiting after {SECONDS} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


def make(kind, path):
    """Make a file of a kind that is not regular; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        folder = os.open(path.parent, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as server:  # its path has 108 bytes at most
            server.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/null" if kind == "device" else "/dev/zero")
    return path


@pytest.fixture(params=KINDS)
def other(request, tmp_path):
    """The path of a file that is not regular."""
    return make(request.param, tmp_path / "other.dcm")


def test_every_reader_refuses_what_is_no_file(other, store):
    """An OSError or an error of ours names the path; no reader waits."""
    calls = [
        lambda: open_regular(other),
        lambda: dicom.read_header(other),
        lambda: dicom.read_image(other),
        lambda: LinkTable.load(other),
        lambda: read_split(other, store),
        lambda: fastseg.build(other, other.with_name("s.h5")),
    ]
    for call in calls:
        with pytest.raises((OSError, FastsegError), match=r"other\.dcm") as caught:
            call()
        text = str(caught.value)
        assert "is no regular file" in text or "is a folder" in text
    for read in (stamp_of, lambda path: read_file(path, 100)):
        with pytest.raises(OSError, match=r"is no regular file|is a folder"):
            read(str(other))


@pytest.mark.parametrize("kind", KINDS[:2])
def test_link_and_build_reject_what_is_no_file(kind, study):
    """Images and contours that are no regular files are rejects; the rest is built."""
    image = sorted(study.glob("dicoms/*/*.dcm"))[0]
    contour = sorted(study.glob("contourfiles/*/i-contours/*.txt"))[-1]
    planted = image.with_name("9999.dcm")
    make(kind, planted)
    contour.unlink()
    make(kind, contour)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        table = fastseg.link(study)
    reasons = {reject.file: reject.reason for reject in table.rejects}
    assert reasons[str(planted)] == reasons[str(contour)] == "is no regular file"
    named = [*table.links]
    changed = study / named[0].dicom_path
    changed.unlink()
    make(kind, changed)
    changed = study / named[-1].contour_path
    changed.unlink()
    make(kind, changed)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        report = fastseg.build(table, study / "s.h5")
    reasons = {reject.file: reject.reason for reject in report.rejects}
    assert reasons[named[0].dicom_path] == "is no regular file"
    assert reasons[named[-1].contour_path] == "is no regular file"
    assert report.samples


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_of_patients_that_is_no_file(kind, study):
    """A link.csv that is no regular file is an error that names it."""
    (study / "link.csv").unlink()
    make(kind, study / "link.csv")
    with pytest.raises((OSError, FastsegError), match=r"link\.csv"):
        fastseg.link(study)


def test_commands_refuse_a_pipe(tmp_path, store):
    """link, build and show end with status 1 on a pipe, and name it."""
    os.mkfifo(tmp_path / "pipe")
    commands = [
        ["build", "pipe", "-o", "o.h5"],
        ["link", "pipe", "-o", "l.csv"],
        ["show", store.path, "-o", "x.png", "--augment", "pipe"],
    ]
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "fastseg", *command],
            cwd=tmp_path,
            timeout=SECONDS,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (1, 2)
        assert "pipe" in done.stderr
        assert "Traceback" not in done.stderr
