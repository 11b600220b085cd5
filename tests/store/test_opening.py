"""Opening a store reads its file and no other, and passes on errors of the system."""

import errno
import mmap
import os
import socket
import subprocess
import sys
import tracemalloc
from io import FileIO
from pathlib import Path

import h5py
import numpy as np
import pytest

import fastseg
from fastseg import bounds, files
from fastseg.errors import BuildError, NothingBuiltError, StoreError
from fastseg.store import checks, compression, index_scan, reader
from fastseg.store.layout import Bucket
from tests.sparse import as_utf8

PROJECT = Path(__file__).parents[2]
BUCKET = "96x96_uint16"


@pytest.fixture
def copy(store, tmp_path):
    """The path of a copy of the store."""
    path = tmp_path / "copy.h5"
    path.write_bytes(store.path.read_bytes())
    return path


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("r", {}),
        ("r", {"locking": False}),
        ("r", {"locking": True}),
        ("r", {"libver": "latest"}),
        ("r+", {}),
        ("a", {"locking": False}),
        ("r", {"driver": "stdio"}),
        ("r", {"driver": "core"}),
    ],
)
def test_h5py_may_hold_the_file(study, tmp_path, mode, options):
    """However h5py has a store open in this process, fastseg opens, verifies and
    replaces it."""
    path = tmp_path / "heart.h5"
    fingerprint = fastseg.build(fastseg.link(study), path).fingerprint
    with h5py.File(path, mode, **options) as file:
        assert fastseg.open(path).fingerprint == fingerprint
        reasons = [damage.reason for damage in fastseg.verify(path).damages]
        assert [r[:10] for r in reasons] == ["is in use:"] * (file.mode == "r+")
        assert fastseg.build(fastseg.link(study), path).reused
        changed = fastseg.build(fastseg.link(study, labels=["icontour"]), path)
        assert changed.fingerprint != fingerprint
        assert file.attrs["fingerprint"] == fingerprint.encode()
    assert fastseg.open(path).classes == ("icontour",)


def external_link(name):
    return lambda file, other: put_link(file, name, h5py.ExternalLink(other, "/x"))


def soft_link(name):
    def change(file, other):
        file.move(name, "elsewhere")
        file[name] = h5py.SoftLink("/elsewhere")

    return change


def put_link(file, name, link):
    del file[name]
    file[name] = link


def soft_link_to_external(file, other):
    file.move("items/row", "elsewhere")
    file["outside"] = h5py.ExternalLink(other, "/x")
    file["items/row"] = h5py.SoftLink("/outside/x")


def external_storage(name):
    def change(file, other):
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        external = [(other, 0, h5py.h5f.UNLIMITED)]
        file.create_dataset(name, shape, dtype, external=external)

    return change


def virtual(name, maxshape=None):
    def change(file, other):
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        layout = h5py.VirtualLayout(shape, dtype, maxshape=maxshape)
        layout[...] = h5py.VirtualSource(other, "x", shape, dtype, maxshape=maxshape)
        file.create_virtual_dataset(name, layout)

    return change


def attribute(name, value, dtype=None):
    def change(file, other):
        del file.attrs[name]
        file.attrs.create(name, value, dtype=dtype)

    return change


def reference(file, other):
    del file.attrs["fingerprint"]
    file.attrs["fingerprint"] = file["items/row"].ref


def slashes(file, other):
    file["images/outside"] = h5py.ExternalLink(other, "/")
    file.attrs["buckets"] = as_utf8(["outside/x"])


LEADING_OUT = {
    "a column": external_link("items/row"),
    "a table": external_link("items"),
    "images": external_link("images"),
    "a bucket": external_link(f"masks/{BUCKET}"),
    "percentiles": external_link("items/percentiles"),
    "soft column": soft_link("contours/points"),
    "soft table": soft_link("sources"),
    "soft, then external": soft_link_to_external,
    "external column": external_storage("items/mean"),
    "external bucket": external_storage(f"images/{BUCKET}"),
    "virtual column": virtual("items/mean"),
    "virtual bucket": virtual(f"masks/{BUCKET}"),
    "virtual without end": virtual("items/mean", (None,)),
    "a name of a bucket": slashes,
    "reference": reference,
    "text of any length": attribute("options", "{}"),
    "numbers of any length": attribute(
        "checksums",
        np.array([np.arange(3), np.arange(2)], h5py.vlen_dtype(np.int64)),
    ),
}


def refuse_all(path, pipe):
    """Open a store with each of these changes; print what is not refused."""
    whole = Path(path).read_bytes()
    for name, change in LEADING_OUT.items():
        Path(path).unlink()
        Path(path).write_bytes(whole)
        with h5py.File(path, "r+") as file:
            change(file, pipe)
        for function in (fastseg.open, fastseg.verify):
            try:
                function(path)
            except StoreError as exc:
                if not str(exc).startswith(f"{path}: "):
                    print(name, exc)
            else:
                print(name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
def test_nothing_that_a_store_names_is_opened(copy, tmp_path):
    """Links, and data in other files, are refused; to open this pipe would hang."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code = (
        "from tests.store.test_opening import refuse_all; "
        f"refuse_all({str(copy)!r}, {str(pipe)!r})"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
def test_what_is_no_regular_file_is_refused_at_once(
    copy, tmp_path, fastseg_command, monkeypatch
):
    """A pipe, socket, device or folder, or a link to one, raises StoreError."""
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for name in ("pipe", "folder", "link", "socket", "/dev/null"):
            for function in (fastseg.open, fastseg.verify):
                with pytest.raises(StoreError, match=r"(is a folder|is no regular f)"):
                    function(name)
    for command in ("info", "verify"):
        done = fastseg_command(command, "pipe")
        assert done.returncode == 1
        assert "pipe: is no regular file, expected a store" in done.stderr
    opened = fastseg.open(copy)
    copy.unlink()
    os.mkfifo(copy)
    with pytest.raises(StoreError, match="is no regular file"):
        opened.open_file()
    with pytest.raises(BuildError, match="is no regular file"):
        fastseg.build(fastseg.link(PROJECT / "data" / "phantom"), copy)


class Failing(FileIO):
    """A file whose reads fail after some."""

    left = 0
    error: BaseException

    def readinto(self, buffer):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().readinto(buffer)


def refuse(file):
    raise index_scan.Unusual


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOMEM, errno.ESTALE])
def test_errors_of_the_system_are_no_damage(copy, monkeypatch, number):
    """Whichever read fails, `open`, `verify` and `build` raise that OSError with the
    file's name; none advises to build the store again or to remove it."""
    error = OSError(number, os.strerror(number))
    links = fastseg.link(PROJECT / "data" / "phantom")
    for reads in (0, 1, 2, 5, 20, 50):
        if reads == 5:  # more are needed only if HDF5 reads the file
            monkeypatch.setattr(reader, "scan", refuse)

        def fail(path, reads=reads):
            file = Failing(path)
            file.left, file.error = reads, error
            return file

        monkeypatch.setattr(checks, "open_regular", fail)
        for function in (
            fastseg.open,
            fastseg.verify,
            lambda path: fastseg.build(links, path),
        ):
            with pytest.raises(OSError, match="copy") as caught:
                function(copy)
            assert caught.value.errno == number
            assert caught.value.filename == str(copy)
            assert not isinstance(caught.value, fastseg.FastsegError)


def test_a_failing_map_is_no_damage(copy, monkeypatch):
    """If the system has no memory for a map, OSError names the file."""

    def fail(*_, **__):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(mmap, "mmap", fail)
    with pytest.raises(OSError, match="Cannot allocate") as caught:
        fastseg.open(copy)
    assert caught.value.filename == str(copy)


def test_too_many_open_files_are_no_damage(copy):
    """With no descriptor left for the file, or for its map, OSError names the file."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = [os.open(os.devnull, os.O_RDONLY) for _ in range(4)]
    fastseg.open(copy)  # imports all that it needs
    try:
        for free in (0, 1):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(used) + 1, hard))
            for handle in used[len(used) - free :]:
                os.close(handle)
            with pytest.raises(OSError, match="Too many open files") as caught:
                fastseg.open(copy)
            assert caught.value.filename == str(copy)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for handle in used[:-1]:
            os.close(handle)


def test_a_missing_or_forbidden_file_is_no_damage(copy, tmp_path):
    """FileNotFoundError, NotADirectoryError and PermissionError come unchanged."""
    with pytest.raises(FileNotFoundError, match=r"none\.h5"):
        fastseg.verify(tmp_path / "none.h5")
    with pytest.raises(NotADirectoryError):
        fastseg.open(copy / "below")
    copy.chmod(0)
    if not os.access(copy, os.R_OK):  # the superuser may read everything
        with pytest.raises(PermissionError):
            fastseg.open(copy)


def test_open_regular_leaves_no_descriptor(tmp_path):
    """A file is opened only if it is a regular one, and closed if it is none."""
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    with files.open_regular(path) as file:
        assert (file.read(), file.name) == (b"abc", path)
    with pytest.raises(IsADirectoryError) as caught:
        files.open_regular(tmp_path)
    assert caught.value.errno is None


def replace(name, kind, values=None):
    """Return a function that replaces a dataset by one of another type of HDF5."""

    def change(file):
        array = file[name][()] if values is None else values
        del file[name]
        space = h5py.h5s.create_simple(array.shape)
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        h5py.h5d.create(file.id, name.encode(), kind, space, creation)
        if kind.get_class() != h5py.h5t.STRING:
            file[name].id.write(h5py.h5s.ALL, h5py.h5s.ALL, array)

    return change


def other_type(base, **settings):
    kind = base.copy()
    for name, value in settings.items():
        getattr(kind, f"set_{name}")(*np.atleast_1d(value).tolist())
    return kind


def put_type(name, kind):
    """Return a function that replaces an attribute by one of another type."""

    def change(file):
        value = np.asarray(file.attrs[name])
        del file.attrs[name]
        space = h5py.h5s.create_simple(value.shape)
        h5py.h5a.create(file.id, name.encode(), kind, space).write(value, kind)

    return change


def extend(file):
    values = file["items/mean"][()]
    del file["items/mean"]
    file.create_dataset("items/mean", data=values, maxshape=(None,), chunks=(8,))


def text_type(size, **settings):
    settings = {"cset": h5py.h5t.CSET_UTF8, "strpad": h5py.h5t.STR_NULLPAD} | settings
    return other_type(h5py.h5t.C_S1, size=size, **settings)


INT64, FLOAT64 = h5py.h5t.STD_I64LE, h5py.h5t.IEEE_F64LE
OTHER_TYPES = {
    "precision": replace("items/row", other_type(INT64, precision=40)),
    "offset": replace("items/row", other_type(INT64, precision=40, offset=8)),
    "bias": replace("items/mean", other_type(FLOAT64, ebias=1022)),
    "norm": replace("items/mean", other_type(FLOAT64, norm=h5py.h5t.NORM_NONE)),
    "padding": replace(
        "items/patient", text_type(11, strpad=h5py.h5t.STR_SPACEPAD)
    ),
    "terminated": replace(
        "items/patient", text_type(11, strpad=h5py.h5t.STR_NULLTERM)
    ),
    "ascii": replace("items/series", text_type(11, cset=h5py.h5t.CSET_ASCII)),
    "pixels": replace(f"images/{BUCKET}", other_type(h5py.h5t.STD_U16LE, precision=12)),
    "masks": replace(f"masks/{BUCKET}", other_type(h5py.h5t.STD_U8LE, precision=7)),
    "version": put_type("version", h5py.h5t.STD_I32LE),
    "complete": put_type("complete", h5py.h5t.STD_I64BE),
    "format": put_type("format", text_type(13, cset=h5py.h5t.CSET_ASCII)),
    "options": put_type("options", text_type(99, strpad=h5py.h5t.STR_SPACEPAD)),
    "extended": extend,
}  # fmt: skip


@pytest.mark.parametrize("change", OTHER_TYPES.values(), ids=OTHER_TYPES)
def test_other_types_of_hdf5_are_refused(copy, change):
    """A type that numpy calls the same, but that HDF5 reads otherwise, is refused."""
    with h5py.File(copy, "r+") as file:
        change(file)
    with pytest.raises(StoreError, match=r"copy\.h5: .*(build it again|incomplete)"):
        fastseg.open(copy)


def test_offsets_that_no_file_has_are_damage(copy):
    """If HDF5 asks for such an offset, the system's error is StoreError."""
    whole = copy.read_bytes()
    tree = whole.index(b"TREE")
    for address in (24, 40, 64, 80, 88, tree + 8, tree + 16, tree + 32):
        for bit in (40, 55, 61, 62, 63):
            changed = bytearray(whole)
            changed[address + bit // 8] ^= 1 << bit % 8
            copy.unlink()
            copy.write_bytes(changed)
            try:
                damages = fastseg.verify(copy).damages
            except StoreError:
                continue
            assert "metadata" in {damage.part for damage in damages}


def test_a_large_attribute_takes_no_memory(copy):
    """An attribute that claims more than 64 KiB is not read."""
    whole = copy.read_bytes()
    name = b"fingerprint\0"
    start = whole.index(name)
    size = whole.index((64).to_bytes(4, "little"), start)
    assert size - start < 24
    copy.write_bytes(whole[:size] + (2**31).to_bytes(4, "little") + whole[size + 4 :])
    tracemalloc.start()
    try:
        with pytest.raises(StoreError, match="build it again"):
            fastseg.open(copy)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


NOT_UTF8 = b"\xff\xfe"


@pytest.mark.parametrize(
    ("name", "row", "read", "where"),
    [
        ("items/patient", 5, lambda s: s.patients, "items/patient of sample 5"),
        ("items/patient", 5, lambda s: s[5].patient, "items/patient of sample 5"),
        ("items/patient", 5, lambda s: s[5].meta, "items/patient of sample 5"),
        (
            "items/patient",
            5,
            lambda s: s.select(patients="PHANTOM0001"),
            "items/patient of sample 5",
        ),
        ("items/series", 31, lambda s: s[31].meta, "items/series of sample 31"),
        (
            "items/series",
            31,
            lambda s: s.select(series="1.2"),
            "items/series of sample 31",
        ),
        ("sources/path", 0, lambda s: s[0].meta, "sources/path of sample 0"),
        (
            "items/patient",
            31,
            lambda s: fastseg.write_split(s.path.parent / "t.csv", s, {"a": [31]}),
            "items/patient of sample 31",
        ),
        (
            "sources/path",
            0,
            lambda s: fastseg.write_split(s.path.parent / "t.csv", s, {"a": [0]}),
            "sources/path of sample 0",
        ),
    ],
)
def test_text_that_is_not_utf8_is_named(copy, name, row, read, where):
    """StoreError names the column and the sample; `verify` reports the column."""
    with h5py.File(copy, "r+") as file:
        file[name][row] = NOT_UTF8
    store = fastseg.open(copy)
    with pytest.raises(StoreError, match=rf"copy\.h5: {where} is not UTF-8"):
        read(store)
    assert name in {damage.part for damage in fastseg.verify(copy).damages}


def test_the_path_of_a_contour_that_is_not_utf8_is_named(copy):
    """A file that is no sample's image is named by its row."""
    store = fastseg.open(copy)
    row = int(
        np.setdiff1d(np.arange(len(store.sources["path"])), store.items["source"])[3]
    )
    with h5py.File(copy, "r+") as file:
        file["sources/path"][row] = NOT_UTF8
    store = fastseg.open(copy)
    with pytest.raises(StoreError, match=rf"sources/path of file {row} is not UTF-8"):
        fastseg.store.text.decode(store, store.sources["path"].tolist())


@pytest.mark.parametrize("name", ["classes", "buckets"])
def test_names_that_are_not_utf8_are_refused(copy, name):
    """A class or bucket is not renamed to what its bytes look like."""
    with h5py.File(copy, "r+") as file:
        names = file.attrs[name]
        names[1] = NOT_UTF8
        file.attrs[name] = as_utf8(names)
    with pytest.raises(StoreError, match=f"the attribute {name} is not UTF-8"):
        fastseg.open(copy)


def test_a_compressed_image_has_a_bound(tmp_path):
    """A small store that claims images of 40 000 x 40 000 pixels does not open."""
    study = fastseg.make_phantom(
        tmp_path / "study", patients=1, sizes=(32,), slices=1, phases=2
    )
    path = tmp_path / "s.h5"
    fastseg.build(fastseg.link(study), path, compress=True)
    bucket = Bucket((40_000, 40_000), np.dtype("<u2"))
    codecs = compression.codecs(bucket, np.dtype("u1"))
    with h5py.File(path, "r+") as file:
        (old,) = file["images"]
        for group, codec in zip(("images", "masks"), codecs, strict=True):
            creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            creation.set_chunk((1, *bucket.shape))
            for number, values in codec.filters:
                creation.set_filter(number, h5py.h5z.FLAG_OPTIONAL, values)
            space = h5py.h5s.create_simple((len(file[group][old]), *bucket.shape))
            kind = h5py.h5t.py_create(codec.dtype)
            name = f"{group}/{bucket.name}".encode()
            h5py.h5d.create(file.id, name, kind, space, creation)
        file.attrs["buckets"] = as_utf8([bucket.name])
    with pytest.raises(StoreError, match=r"40000 x 40000 pixels, expected at most"):
        fastseg.open(path)


def test_no_image_beyond_the_bound_is_compressed(tmp_path, monkeypatch):
    """`build` rejects an image that no compressed store may hold, by its table or by
    its header, and so writes no store that cannot be opened."""
    study = fastseg.make_phantom(
        tmp_path / "study", patients=1, sizes=(32, "32x40"), slices=1, phases=2
    )
    table = fastseg.link(study)
    monkeypatch.setattr(bounds, "MAX_COMPRESSED_PIXELS", 32 * 32)
    path = tmp_path / "s.h5"
    fastseg.build(table, path)
    assert len(fastseg.open(path).buckets) == 1
    monkeypatch.setattr(bounds, "MAX_COMPRESSED_PIXELS", 32 * 32 - 1)
    fastseg.build(table, path)  # not compressed, so it has no bound
    with pytest.raises(NothingBuiltError) as caught:
        fastseg.build(table, tmp_path / "z.h5", compress=True)
    assert (
        "has 32 x 32 pixels, a compressed store holds" in caught.value.rejects[0].reason
    )
