"""Stores at URLs: copied with their checksum, and compared with it."""

import hashlib
from pathlib import Path
from typing import ClassVar

import pytest

import fastseg
from fastseg import remote
from fastseg.errors import (
    MissingObjectError,
    NoAnswerError,
    OptionError,
    OutputError,
    PathError,
    RemoteError,
    StoreError,
)

fsspec = pytest.importorskip("fsspec")
memory_module = pytest.importorskip("fsspec.implementations.memory")
SECRET = "verysecret12345"
URL = "memory://bucket/heart.h5"
pytestmark = pytest.mark.usefixtures("requests")


def sha256_of(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_a_store_arrives_with_its_checksum(store, memory, monkeypatch):
    """All bytes, in many parts; the line beside them is that of `sha256sum`."""
    monkeypatch.setattr(remote, "PART_BYTES", 10_000)
    monkeypatch.setattr(remote, "RANGE_BYTES", 7_000)
    report = fastseg.upload(store.path, URL)
    digest = sha256_of(store.path)
    assert report.sent
    assert memory.cat_file(URL) == store.path.read_bytes()
    assert memory.cat_file(f"{URL}.sha256") == f"{digest}  heart.h5\n".encode()
    found = fastseg.verify_upload(URL)
    assert (found.sha256, found.size, found.is_valid) == (digest, report.size, True)
    assert found.as_dict()["is_valid"] is True


def test_a_store_that_is_there_is_not_sent_again(store, memory, tmp_path):
    """Another one replaces it, as its checksum says that it is an upload."""
    fastseg.upload(store.path, URL)
    assert not fastseg.upload(store.path, URL).sent
    other = tmp_path / "other.h5"
    copy_of_fewer(store, other)
    assert fastseg.upload(other, URL).sent
    assert fastseg.verify_upload(URL).sha256 == sha256_of(other)


def copy_of_fewer(store, path):
    """Build a store of another content."""
    study = Path(__file__).parents[2] / "data" / "phantom"
    fastseg.build(fastseg.link(study, labels="icontour"), path)


def test_objects_of_others_are_not_replaced(store, memory):
    """Unless it is forced; and what is no store is never sent."""
    memory.pipe_file(URL, b"precious")
    with pytest.raises(OutputError, match="without the checksum"):
        fastseg.upload(store.path, URL)
    assert memory.cat_file(URL) == b"precious"
    assert fastseg.upload(store.path, URL, force=True).sent
    with pytest.raises(StoreError):
        fastseg.upload(__file__, URL)
    with pytest.raises(OptionError, match=r"url is 'heart\.h5', expected a URL"):
        fastseg.upload(store.path, "heart.h5")
    with pytest.raises(PathError) as caught:
        fastseg.upload(store.path, f"s3://u:{SECRET}@bucket/x.h5")
    assert SECRET not in str(caught.value)


def test_verify_upload_sees_every_change(store, memory):
    """A bit, missing bytes, a missing store or checksum."""
    fastseg.upload(store.path, URL)
    data = store.path.read_bytes()
    memory.pipe_file(URL, data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    found = fastseg.verify_upload(URL)
    assert not found.is_valid
    assert found.reason == f"its checksum says {sha256_of(store.path)}"
    memory.pipe_file(URL, data[:-1])
    assert not fastseg.verify_upload(URL).is_valid
    memory.pipe_file(f"{URL}.sha256", b"else")
    with pytest.raises(MissingObjectError, match="no checksum of an upload"):
        fastseg.verify_upload(URL)
    memory.rm_file(URL)
    with pytest.raises(MissingObjectError, match="no such object"):
        fastseg.verify_upload(URL)
    with pytest.raises(OptionError, match="expected one"):
        fastseg.verify_upload("heart.h5")


class Full(memory_module.MemoryFileSystem):
    """memory:// that fails while a store is written."""

    protocol = "full"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    cachable = False
    error: ClassVar[list] = []
    closed: ClassVar[list] = []

    def _open(self, path, mode="rb", **options):
        if mode == "rb" or path.endswith(".sha256"):
            return super()._open(path, mode, **options)
        return FullFile(self.error[0], self.closed)


class FullFile:
    closed = False

    def __init__(self, error, events):
        self._error = error
        self._events = events
        self._parts = 0

    def write(self, data):
        self._parts += 1
        if self._parts == 2:
            raise self._error

    def discard(self):
        self._events.append("discarded")

    def close(self):
        self._events.append("closed")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (OSError(28, SECRET), RemoteError, "cannot be written: OSError"),
        (PermissionError(SECRET), RemoteError, "that may write there"),
        (TimeoutError(SECRET), NoAnswerError, "does not answer in time"),
    ],
)
def test_a_store_that_cannot_be_written_leaves_nothing(
    store, monkeypatch, error, kind, text
):
    """No object, no checksum; the parts that were sent are discarded."""
    fsspec.register_implementation("full", Full, clobber=True)
    monkeypatch.setattr(remote, "PART_BYTES", 10_000)
    Full.error[:] = [error]
    Full.closed.clear()
    Full.store.clear()
    with pytest.raises(kind, match=text) as caught:
        fastseg.upload(store.path, "full://bucket/heart.h5")
    assert SECRET not in str(caught.value)
    assert "full://bucket/heart.h5" in str(caught.value)
    assert Full.closed == ["discarded"]
    assert not Full.store
