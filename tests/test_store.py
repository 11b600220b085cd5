"""Stores: what a stranger reads with h5py alone, what the reader hands out."""

import copy
import json
import pickle
import threading

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from xxhash import xxh3_64_intdigest

import fastseg
from fastseg.errors import StoreError, UnknownClassError
from fastseg.store import layout


@pytest.fixture
def damaged(store, tmp_path):
    """Returns a function that changes a copy of a store and gives its path."""

    def damage(change):
        path = tmp_path / "damaged.h5"
        path.write_bytes(store.path.read_bytes())
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    return damage


def test_a_stranger_reads_a_store_with_h5py_alone(store):
    """The format page is enough: every sample is found by plain h5py."""
    with h5py.File(store.path) as file:
        assert file.attrs["format"] == "fastseg-store"
        assert file.attrs["version"] == 1
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
    """All datasets can be mapped; large ones begin on a page."""

    def look(name, item):
        if isinstance(item, h5py.Dataset) and item.size:
            offset = item.id.get_offset()
            assert offset is not None, name
            assert item.dtype.byteorder in "<|=", name
            if item.nbytes >= layout.ALIGN_FROM:
                assert offset % layout.PAGE == 0, name

    with h5py.File(store.path) as file:
        file.visititems(look)
        assert {len(column) for column in file["items"].values()} == {len(store)}


def test_the_format_page_names_every_dataset(store):
    """What a store holds is described in `store.layout`, and nothing else is in it."""
    page = layout.__doc__
    with h5py.File(store.path) as file:
        for group in ("items", "contours", "sources"):
            for name in file[group]:
                assert name in page, f"{group}/{name}"
        for name in file.attrs:
            assert name in page, name
        assert set(file) == {"images", "masks", "items", "contours", "sources"}


def test_the_fingerprint_is_that_of_the_content(store):
    """It can be computed again from what the file holds."""
    assert store.fingerprint == layout.fingerprint(
        store.classes, list(store.buckets), store.options, store.items
    )


def test_samples_are_views_of_the_map(store):
    """Arrays cost no memory, cannot be written to, and outlive store and sample."""
    again = fastseg.open(store.path)
    image, mask = again[3].image, again[3].mask
    assert image.base is not None
    assert not image.flags.writeable
    assert not mask.flags.writeable
    del again
    assert_array_equal(image, store[3].image)


def test_a_store_is_a_sequence_of_samples(store):
    """Length, negative places, iteration and errors are those of a sequence."""
    assert len(store) == 32
    assert store[-1].index == 31
    assert [sample.index for sample in store] == list(range(32))
    assert store[np.int64(2)].index == 2
    for place in (32, -33):
        with pytest.raises(IndexError, match="of a store of 32"):
            store[place]
    with pytest.raises(TypeError, match="list comprehension"):
        store[1:3]


def test_a_store_tells_what_it_holds(store):
    """Classes, patients, buckets, sources and facts are at hand."""
    assert store.classes == ("icontour", "ocontour", "p1contour", "p2contour")
    assert store.patients == tuple(f"PHANTOM000{k}" for k in (1, 2, 3, 4))
    assert list(store.buckets) == ["120x88_uint16", "96x96_uint16"]
    assert len(store.sources["path"]) == 32 + 80
    assert "32 samples" in repr(store)
    sample = store[0]
    assert "96x96" in repr(sample)
    facts = sample.facts
    assert facts["source"] == "dicoms/PHANTOM0001/1.dcm"
    assert facts["bucket"] == "96x96_uint16"
    assert facts["instance"] == 1
    assert facts["pixels"][0] == sample.mask_of("icontour").sum()
    assert json.dumps(facts)


def test_an_unknown_class_is_refused_with_the_near_miss(store):
    """It is a KeyError whose text is readable."""
    with pytest.raises(UnknownClassError, match="did you mean 'icontour'") as caught:
        store[0].mask_of("icontours")
    assert isinstance(caught.value, KeyError)


def test_a_store_can_be_pickled_and_copied(store):
    """Another process opens its own map and finds the same store."""
    for other in (pickle.loads(pickle.dumps(store)), copy.copy(store)):
        assert other.fingerprint == store.fingerprint
        assert_array_equal(other[5].mask, store[5].mask)


def test_a_pickled_store_that_was_replaced_is_refused(study, tmp_path):
    """Unpickling looks at the fingerprint."""
    path = tmp_path / "heart.h5"
    fastseg.build(fastseg.link(study), path)
    frozen = pickle.dumps(fastseg.open(path))
    fastseg.build(fastseg.link(study, labels=["icontour"]), path)
    with pytest.raises(StoreError, match="is another store"):
        pickle.loads(frozen)


def test_threads_read_side_by_side(store):
    """Many threads see the same samples."""
    expected = [sample.image.sum() for sample in store]
    found = {}

    def read(name):
        found[name] = [sample.image.sum() for sample in store]

    threads = [threading.Thread(target=read, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(sums == expected for sums in found.values())
    assert len(found) == 8


def test_a_missing_file_is_a_missing_file(tmp_path):
    """Opening nothing raises FileNotFoundError."""
    with pytest.raises(FileNotFoundError):
        fastseg.open(tmp_path / "none.h5")


@pytest.mark.parametrize(
    "content", [b"", b"patient,dicom_path\n", b"\x89HDF\r\n\x1a\n"]
)
def test_what_is_no_hdf5_file_is_refused(tmp_path, content):
    """Text, nothing, and a lone signature are StoreErrors that name the file."""
    path = tmp_path / "strange.h5"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"strange\.h5: is no HDF5 file"):
        fastseg.open(path)


def test_a_truncated_store_is_refused_at_any_length(store, tmp_path):
    """Opening a cut file is an error and never a signal."""
    whole = store.path.read_bytes()
    path = tmp_path / "cut.h5"
    for length in [1, 100, 2048, 5000, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(StoreError, match=r"cut\.h5"):
            fastseg.open(path)


def test_a_store_cut_while_in_use_is_noticed(store, tmp_path):
    """The loader asks for the file's size before it reads."""
    path = tmp_path / "shrinks.h5"
    path.write_bytes(store.path.read_bytes())
    loader = fastseg.Loader(fastseg.open(path), size=96)
    with path.open("r+b") as file:
        file.truncate(10_000)
    with pytest.raises(StoreError, match="truncated while it was in use"):
        next(iter(loader))


def replace_dataset(file, name, values):
    del file[name]
    file[name] = values


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda f: f.attrs.pop("format"), "no fastseg store"),
        (lambda f: f.attrs.__setitem__("version", 2), "upgrade fastseg"),
        (lambda f: f.attrs.__setitem__("complete", 0), "incomplete"),
        (lambda f: f.attrs.pop("complete"), "incomplete"),
        (lambda f: f.__delitem__("items/row"), "missing"),
        (lambda f: f.__delitem__("masks/96x96_uint16"), "no dataset masks"),
        (lambda f: replace_dataset(f, "items/frame", np.zeros(7)), "lengths"),
        (lambda f: f["items/row"].__setitem__(0, 24), "outside its data"),
        (lambda f: f["items/row"].__setitem__(0, -1), "outside its data"),
        (lambda f: f["items/bucket"].__setitem__(0, 2), "outside its data"),
        (lambda f: f["items/contours"].__setitem__(0, (0, 99)), "outside its data"),
        (lambda f: f["contours/offsets"].__setitem__(3, 10**9), "outside its data"),
        (
            lambda f: replace_dataset(
                f, "masks/96x96_uint16", np.zeros((2, 3, 3), "u1")
            ),
            "outside its data",
        ),
        (
            lambda f: replace_dataset(f, "items/mean", np.zeros(32, ">f8")),
            "little-endian",
        ),
        (
            lambda f: (
                f.__delitem__("items/mean"),
                f.create_dataset("items/mean", data=np.zeros(32), chunks=(8,)),
            ),
            "not contiguous",
        ),
    ],
)
def test_damaged_stores_are_refused(damaged, change, text):
    """Whatever would lead a compiled loop astray is an error at open."""
    path = damaged(change)
    with pytest.raises(StoreError, match=text):
        fastseg.open(path)
