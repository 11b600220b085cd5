"""Stores: h5py alone can read them, Store maps them, and damaged ones are refused."""

import copy
import json
import os
import pickle
import re
import threading
import tracemalloc

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from xxhash import xxh3_64_intdigest

import fastseg
from fastseg.errors import StoreError, UnknownClassError
from fastseg.store import layout
from fastseg.store.index_scan import scan
from tests.sparse import as_utf8, make_sparse_store


@pytest.fixture
def damaged(store, tmp_path):
    """A function that changes a copy of a store and returns its path."""

    def damage(change):
        path = tmp_path / "damaged.h5"
        path.write_bytes(store.path.read_bytes())
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    return damage


def test_h5py_alone_reads_a_store(store):
    """Every sample can be read with h5py, as `layout` describes it."""
    with h5py.File(store.path) as file:
        assert file.attrs["format"] == b"fastseg-store"
        assert file.attrs["version"] == layout.VERSION == 6
        assert file.attrs["complete"] == 1
        classes = [name.decode() for name in file.attrs["classes"]]
        buckets = [name.decode() for name in file.attrs["buckets"]]
        assert json.loads(file.attrs["options"])["edges"] == "half-open"
        items, contours = file["items"], file["contours"]
        assert list(items["percentiles"].attrs["q"]) == [0.5, 1, 5, 50, 95, 99, 99.5]
        for i in range(len(store)):
            bucket, row = buckets[items["bucket"][i]], items["row"][i]
            image, mask = file["images"][bucket][row], file["masks"][bucket][row]
            assert_array_equal(store[i].image, image)
            assert_array_equal(store[i].mask, mask)
            assert items["image_xxh3"][i] == xxh3_64_intdigest(image.tobytes())
            assert items["mask_xxh3"][i] == xxh3_64_intdigest(mask.tobytes())
            assert items["patient"][i].decode() == store[i].patient
            for ring in range(*items["contours"][i]):
                first, last = contours["offsets"][ring : ring + 2]
                name = classes[contours["class"][ring]]
                assert contours["item"][ring] == i
                mine = store[i].contours[name]
                assert_array_equal(mine[0], contours["points"][first:last])


def test_everything_is_little_endian_contiguous_and_aligned(store):
    """All datasets can be mapped; large ones begin at a multiple of PAGE bytes."""

    def check(name, item):
        if isinstance(item, h5py.Dataset) and item.size:
            offset = item.id.get_offset()
            assert offset is not None, name
            assert item.dtype.byteorder in "<|=", name
            if item.nbytes >= layout.ALIGN_FROM:
                assert offset % layout.PAGE == 0, name

    with h5py.File(store.path) as file:
        file.visititems(check)
        assert {len(column) for column in file["items"].values()} == {len(store)}


def test_the_format_describes_every_dataset(store):
    """`store.layout` names each dataset and attribute of a store."""
    description = layout.__doc__
    with h5py.File(store.path) as file:
        for group in layout.TABLES:
            for name in file[group]:
                assert name in description, f"{group}/{name}"
        for name in file.attrs:
            assert name in description, name
        assert set(file) == {"images", "masks", *layout.TABLES}


def test_samples_are_views_of_the_map(store):
    """Arrays are read-only views, which stay valid without the Store."""
    again = fastseg.open(store.path)
    image, mask = again[3].image, again[3].mask
    assert image.base is not None
    assert not image.flags.writeable
    assert not mask.flags.writeable
    del again
    assert_array_equal(image, store[3].image)


def test_a_store_is_a_sequence_of_samples(store):
    """Length, negative indices, iteration and errors are those of a sequence."""
    assert len(store) == 32
    assert store[-1].index == 31
    assert [sample.index for sample in store] == list(range(32))
    assert store[np.int64(2)].index == 2
    for index in (32, -33):
        with pytest.raises(IndexError, match="outside a store of 32 samples"):
            store[index]
    with pytest.raises(TypeError, match="for k in"):
        store[1:3]


def test_a_store_describes_its_content(store):
    """It has classes, patients, buckets, sources and the metadata of each sample."""
    assert store.classes == ("icontour", "ocontour", "p1contour", "p2contour")
    assert store.patients == tuple(f"PHANTOM000{k}" for k in (1, 2, 3, 4))
    assert list(store.buckets) == ["120x88_uint16", "96x96_uint16"]
    assert len(store.sources["path"]) == 32 + 80
    assert "32 samples" in repr(store)
    sample = store[0]
    assert "96x96" in repr(sample)
    meta = sample.meta
    assert meta["source"] == "dicoms/PHANTOM0001/19.dcm"
    assert meta["bucket"] == "96x96_uint16"
    assert meta["instance"] == 19
    assert meta["pixels"][0] == sample.mask_of("icontour").sum()
    assert json.dumps(meta)


def test_an_unknown_class_is_refused_with_a_suggestion(store):
    """UnknownClassError is a KeyError, but its text is not a repr."""
    with pytest.raises(UnknownClassError, match="did you mean 'icontour'") as caught:
        store[0].mask_of("icontours")
    assert isinstance(caught.value, KeyError)


def test_a_store_can_be_pickled_and_copied(store):
    """Another process opens its own map and finds the same store."""
    for other in (pickle.loads(pickle.dumps(store)), copy.copy(store)):
        assert other.fingerprint == store.fingerprint
        assert_array_equal(other[5].mask, store[5].mask)


def test_a_pickled_store_that_was_replaced_is_refused(study, tmp_path):
    """Unpickling compares the fingerprint."""
    path = tmp_path / "heart.h5"
    fastseg.build(fastseg.link(study), path)
    pickled = pickle.dumps(fastseg.open(path))
    fastseg.build(fastseg.link(study, labels=["icontour"]), path)
    with pytest.raises(StoreError, match="is another store"):
        pickle.loads(pickled)


def test_threads_may_share_a_store(store):
    """Eight threads read the same samples at the same time."""
    expected = [sample.image.sum() for sample in store]
    sums = {}

    def read(name):
        sums[name] = [sample.image.sum() for sample in store]

    threads = [threading.Thread(target=read, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(each == expected for each in sums.values())
    assert len(sums) == 8


def test_a_missing_file_is_not_a_store_error(tmp_path):
    """Opening a missing file raises FileNotFoundError."""
    with pytest.raises(FileNotFoundError):
        fastseg.open(tmp_path / "none.h5")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is an empty file, expected a store"),
        ("patient,dicom_path\né".encode()[:-1], "is a text file, expected a store"),
        (b"\x89HDF\r\n\x1a\n", "is no HDF5 file, or is truncated"),
        (b"\1\2", "is no HDF5 file"),
        (b"\xff\xfe", "is no HDF5 file"),
    ],
)
def test_a_file_that_is_not_hdf5_is_refused(tmp_path, content, text):
    """The StoreError names the file, and what it is, as far as its bytes tell."""
    path = tmp_path / "other.h5"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=rf"other\.h5: {text}"):
        fastseg.open(path)


def test_a_truncated_store_is_refused_at_any_length(small_study, tmp_path):
    """Opening a cut file raises StoreError and never crashes the process."""
    path = tmp_path / "cut.h5"
    fastseg.build(fastseg.link(small_study), path)
    size = path.stat().st_size
    for length in [*range(size - 1, size - 200, -1), *range(size - 200, -1, -31), 0]:
        os.truncate(path, length)
        text = "is no HDF5 file, or is trunc" if length else "is an empty file"
        with pytest.raises(StoreError, match=rf"cut\.h5: {text}"):
            fastseg.open(path)


def test_a_store_is_opened_once(store, tmp_path, monkeypatch):
    """The map and the index are of one file, also if another takes its name."""
    path = tmp_path / "heart.h5"
    path.write_bytes(store.path.read_bytes())
    other = tmp_path / "other.h5"
    other.write_bytes(b"another file")

    def replace_first(file):
        other.replace(path)
        return scan(file)

    monkeypatch.setattr("fastseg.store.reader.scan", replace_first)
    opened = fastseg.open(path)
    assert opened.fingerprint == store.fingerprint
    assert_array_equal(opened[7].image, store[7].image)
    with pytest.raises(StoreError, match="was replaced since it was opened"):
        opened.open_file()


def test_a_store_cut_while_in_use_is_noticed(store, tmp_path):
    """A Loader checks the size of the file before it reads from the map."""
    path = tmp_path / "shrinks.h5"
    path.write_bytes(store.path.read_bytes())
    loader = fastseg.Loader(fastseg.open(path), size=96)
    with path.open("r+b") as file:
        file.truncate(10_000)
    with pytest.raises(StoreError, match="truncated while it was in use"):
        next(iter(loader))


def put(file, name, values):
    del file[name]
    file[name] = values


def put_at(name, index, value):
    return lambda file: file[name].__setitem__(index, value)


def set_attribute(name, value):
    if np.asarray(value).dtype.kind == "S":
        value = as_utf8(value)
    return lambda file: file.attrs.__setitem__(name, value)


def shorten(name):
    return lambda file: put(file, name, file[name][:-1])


def link_outside(file):
    with h5py.File(f"{file.filename}.other", "w") as other:
        other["mean"] = file["items/mean"][()]
    del file["items/mean"]
    file["items/mean"] = h5py.ExternalLink(other_name(file), "mean")


def other_name(file):
    return f"{file.filename}.other"


def put_chunked(file):
    values = file["items/mean"][()]
    del file["items/mean"]
    file.create_dataset("items/mean", data=values, chunks=(8,))


def rename_bucket(file):
    for table in ("images", "masks"):
        file[table].move("96x96_uint16", "96x96_uint8")
    names = [b"120x88_uint16", b"96x96_uint8"]
    file.attrs["buckets"] = as_utf8(names)


ATTRIBUTES = (
    "classes",
    "buckets",
    "options",
    "software",
    "checksums",
    "fingerprint",
)
CHANGES = [
    (lambda f: f.attrs.pop("format"), "not a fastseg store"),
    (set_attribute("format", np.bytes_("other-store")), "not a fastseg store"),
    (
        set_attribute("version", layout.VERSION + 1),
        f"has version {layout.VERSION + 1}, this fastseg reads version "
        f"{layout.VERSION}; upgrade",
    ),
    (
        set_attribute("version", 4),
        f"has version 4, this fastseg reads version {layout.VERSION}; build",
    ),
    (set_attribute("version", 0), "has version 0"),
    (set_attribute("version", 1.5), "has version 1.5"),
    (lambda f: f.attrs.pop("version"), "has version None"),
    (set_attribute("complete", 0), "incomplete"),
    (lambda f: f.attrs.pop("complete"), "incomplete"),
    *((lambda f, n=n: f.attrs.pop(n), f"attribute {n} is not") for n in ATTRIBUTES),
    # Not read at all, because damaged strings of variable length crash HDF5.
    (set_attribute("options", "{}"), "options is not a JSON object"),
    (set_attribute("options", np.bytes_("{")), "options is not a JSON object"),
    (set_attribute("options", np.bytes_("[]")), "options is not a JSON object"),
    (set_attribute("options", np.bytes_("[" * 20_000)), "options is not a JSON object"),
    (
        set_attribute("software", np.bytes_('{"a": "\\ud800"}')),
        "software is not a JSON object",
    ),
    (set_attribute("software", np.bytes_(b"\xff")), "software is not a JSON object"),
    (
        set_attribute("checksums", np.bytes_("{}")),
        "checksums does not have the names that the format lists",
    ),
    (set_attribute("fingerprint", np.bytes_("?")), "the fingerprint is"),
    (set_attribute("fingerprint", 5), "fingerprint is not text"),
    (
        set_attribute("classes", np.array([b"a", b"a"])),
        "classes is not a list of names",
    ),
    (set_attribute("classes", np.array([b"a", b""])), "classes is not a list of names"),
    (set_attribute("classes", 4), "classes is not a list of names"),
    (
        set_attribute("classes", np.arange(65).astype("S2")),
        "has 65 classes, expected at most 64",
    ),
    (
        set_attribute("buckets", np.array([b"96x96_uint16"])),
        "items/row is invalid",
    ),
    (
        set_attribute("buckets", np.array([b"96x96_uint16", b"x"])),
        "no dataset images/x",
    ),
    (rename_bucket, "images/96x96_uint8 holds images of 96x96_uint16"),
    (lambda f: f["items/percentiles"].attrs.__setitem__("q", 1.0), "are at"),
    (lambda f: f["items/percentiles"].attrs.pop("q"), "are at"),
    (lambda f: f.__delitem__("items/row"), "no dataset items/row"),
    (lambda f: f.__delitem__("items"), "no dataset items/bucket"),
    (lambda f: f.__delitem__("masks/96x96_uint16"), "no dataset masks"),
    (lambda f: (f.__delitem__("items/row"), f.create_group("items/row")), "no dataset"),
    (shorten("items/frame"), "/items has columns of lengths [31, 32]"),
    (shorten("sources/size"), "/sources has columns of lengths [111, 112]"),
    (shorten("contours/class"), "/contours has columns of lengths [79, 80]"),
    (shorten("contours/offsets"), "/contours has columns of lengths [79, 80]"),
    (shorten("contours/points"), "contours/offsets is invalid"),
    (shorten("masks/96x96_uint16"), "masks/96x96_uint16 has 23 masks for 24 images"),
    (shorten("images/96x96_uint16"), "masks/96x96_uint16 has 24 masks for 23 images"),
    (put_at("items/row", 0, 24), "items/row is invalid"),
    (put_at("items/row", 0, -1), "items/row is invalid"),
    (put_at("items/bucket", 0, 2), "items/bucket is invalid"),
    (put_at("items/source", 31, 112), "items/source is invalid"),
    (put_at("items/source", 31, -1), "items/source is invalid"),
    (put_at("items/contours", 0, (0, 99)), "items/contours is invalid"),
    (put_at("items/contours", 0, (-1, 1)), "items/contours is invalid"),
    (put_at("items/contours", 3, (0, 4)), "items/contours is invalid"),
    (put_at("items/contours", (31, 1), 79), "is invalid"),
    (put_at("contours/offsets", 0, 1), "contours/offsets is invalid"),
    (
        put_at("contours/offsets", 3, 10**9),
        "contours/offsets is invalid",
    ),
    (put_at("contours/offsets", 3, 0), "contours/offsets is invalid"),
    (put_at("contours/offsets", 80, 99), "contours/offsets is invalid"),
    (put_at("contours/item", 7, 32), "contours/item is invalid"),
    (put_at("contours/class", 7, 4), "contours/class is invalid"),
    (put_at("contours/class", 7, -1), "contours/class is invalid"),
    (put_at("contours/source", 7, 112), "contours/source is invalid"),
    (
        lambda f: put(f, "masks/96x96_uint16", np.zeros((24, 3, 3), "u1")),
        "masks/96x96_uint16 is |u1 (24, 3, 3), expected |u1 (n, 96, 96)",
    ),
    (
        lambda f: put(f, "masks/96x96_uint16", np.zeros((24, 96, 96), "<u2")),
        "expected |u1 (n, 96, 96)",
    ),
    (
        lambda f: put(f, "images/96x96_uint16", np.zeros((24, 96, 96), ">u2")),
        "images/96x96_uint16 is >u2 (24, 96, 96), expected little-endian",
    ),
    (
        lambda f: put(f, "images/96x96_uint16", np.zeros((24, 96), "<u2")),
        "expected images",
    ),
    (
        lambda f: put(f, "images/96x96_uint16", as_utf8(np.zeros((2, 2, 2), "S2"))),
        "expected images",
    ),
    (
        lambda f: put(f, "items/mean", np.zeros(32, ">f8")),
        "items/mean is >f8 (32,), expected <f8 (n)",
    ),
    (lambda f: put(f, "items/mean", np.zeros(32, "<f4")), "expected <f8 (n)"),
    (lambda f: put(f, "items/bbox", np.zeros((32, 4, 3), "<i8")), "(n, 4, 4)"),
    (lambda f: put(f, "items/row", 5), "items/row is <i8 (), expected <i8 (n)"),
    (lambda f: put(f, "items/row", h5py.Empty("<i8")), "no dataset items/row"),
    (lambda f: put(f, "items/patient", np.arange(32)), "expected |S (n)"),
    (lambda f: put(f, "items/patient", ["x"] * 32), "expected |S (n)"),
    (put_chunked, "items/mean is not contiguous"),
    (link_outside, "items/mean is a link, which may lead into another file"),
]


@pytest.mark.parametrize(("change", "text"), CHANGES)
def test_damaged_stores_are_refused(damaged, change, text):
    """A store that could make a compiled loop read outside the map does not open."""
    path = damaged(change)
    with pytest.raises(StoreError, match=re.escape(text)) as caught:
        fastseg.open(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_an_offset_outside_the_file_is_refused(store, tmp_path):
    """A dataset whose offset is beyond the end of the file raises StoreError."""
    name = "96x96_uint16"
    size = store.images[name].nbytes.to_bytes(8, "little")
    offset = store.offsets[f"images/{name}"].to_bytes(8, "little")
    whole = store.path.read_bytes()
    assert whole.count(offset + size) == 1
    path = tmp_path / "moved.h5"
    for wrong in (len(whole) - 1, 2**62, 2**64 - 2):
        path.unlink(missing_ok=True)
        moved = wrong.to_bytes(8, "little") + size
        path.write_bytes(whole.replace(offset + size, moved))
        with pytest.raises(StoreError, match=r"moved\.h5: "):
            fastseg.open(path)


def test_a_store_without_contours_opens(study, tmp_path):
    """A store without classes and rings is valid."""
    for contour in study.rglob("*contour*.txt"):
        contour.unlink()
    path = tmp_path / "bare.h5"
    fastseg.build(fastseg.link(study, keep_unlabelled=True), path)
    store = fastseg.open(path)
    assert store.classes == ()
    assert store[0].contours == {}
    assert fastseg.verify(store).is_valid


def test_a_large_store_takes_little_memory(tmp_path):
    """Opening reads only columns, a block at a time, and samples are views."""
    path = tmp_path / "large.h5"
    make_sparse_store(path, 200_000)
    assert path.stat().st_size > 20e9
    assert path.stat().st_blocks * 512 < 100e6
    tracemalloc.start()
    store = fastseg.open(path)
    for k in range(0, len(store), 20):
        _ = store[k].image
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()
    sample = store[123_456]
    assert sample.image.shape == (256, 256)
    assert sample.patient == "SCD0001234"
    assert len(sample.contours["ocontour"][0]) == 40
