"""The index of a store is read without HDF5, if it is as fastseg wrote it."""

import contextlib
import random
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastseg
from fastseg.errors import StoreError
from fastseg.links import LinkTable
from fastseg.store import checks, index_scan
from fastseg.store.index_scan import Unusual, scan
from fastseg.store.metadata import metadata_ranges

FLIPS = 200


def scan_path(path):
    with checks.open_file(path) as file:
        return scan(file)


@pytest.fixture
def unlabelled(sample_study, tmp_path):
    """A store without contours: some of its datasets are empty."""
    of_image = {link.dicom_path: link for link in fastseg.link(sample_study).links}
    some = [
        link._replace(contour_path="", label="", format="")
        for link in of_image.values()
    ]
    path = tmp_path / "unlabelled.h5"
    fastseg.build(LinkTable(base=sample_study, links=some), path)
    return path


@pytest.mark.parametrize("kind", ["labelled", "unlabelled"])
def test_it_reads_what_hdf5_reads(store, unlabelled, kind):
    """Attributes, shapes, types and offsets are those that h5py returns."""
    path = store.path if kind == "labelled" else unlabelled
    scanned = scan_path(path)
    with h5py.File(path) as file:
        assert scanned.attributes.keys() == file.attrs.keys()
        for name, value in file.attrs.items():
            assert_array_equal(scanned.attribute(name, None), value)
        names = [f"{group}/{name}" for group in file for name in file[group]]
        assert sorted(scanned.datasets) == sorted(names)
        for name, dataset in scanned.datasets.items():
            assert dataset.shape == file[name].shape
            assert dataset.dtype == file[name].dtype
            assert dataset.offset == (file[name].id.get_offset() or 0)
        ranks = scanned.datasets["items/percentiles"].attributes["q"]
        assert_array_equal(ranks, file["items/percentiles"].attrs["q"])


@pytest.mark.parametrize(
    "dtype",
    ["|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8"],
)
def test_all_types_of_numbers_are_known(dtype):
    """Each type has the bytes that HDF5 writes for it."""
    # Behind two bytes of versions.
    encoded = h5py.h5t.py_create(np.dtype(dtype)).encode()[2:]
    assert index_scan._dtype(encoded) == np.dtype(dtype)


def metadata_bytes(path):
    """Return the offsets of the bytes of a store that are no data."""
    with h5py.File(path) as file:
        every = [file[group][name].id for group in file for name in file[group]]
        extents = [(d.get_offset(), d.get_storage_size()) for d in every]
        length = path.stat().st_size
    ranges = metadata_ranges([np.array([e for e in extents if e[1]])], length)
    return [k for start, stop in ranges for k in range(start, stop)]


def flip_bytes(store, path):
    """Yield after each change of a byte of a copy of a store that is no data."""
    whole = bytearray(store.path.read_bytes())
    drawn = random.Random(0)
    for offset in drawn.sample(metadata_bytes(store.path), FLIPS):
        changed = bytearray(whole)
        changed[offset] ^= drawn.randrange(1, 256)
        path.write_bytes(changed)
        yield offset


def test_a_changed_byte_is_left_to_hdf5(store, tmp_path):
    """Whichever byte of the index was changed, its checksum tells."""
    path = tmp_path / "changed.h5"
    for _ in flip_bytes(store, path):
        with pytest.raises(Unusual):
            scan_path(path)


def test_without_a_checksum_nothing_outside_of_the_file_is_read(
    store, tmp_path, monkeypatch
):
    """A file with a forged checksum gives arrays inside of the map, or an error."""
    path = tmp_path / "changed.h5"

    def forge(ranges, read, text):
        return int(text, 16), [0]

    monkeypatch.setattr(index_scan, "metadata_checksum", forge)
    scanned = 0
    for _ in flip_bytes(store, path):
        length = path.stat().st_size
        try:
            datasets = scan_path(path).datasets.values()
        except Unusual:
            pass
        else:
            scanned += 1
            assert all(0 <= d.offset <= length - d.size for d in datasets)
        with contextlib.suppress(StoreError):
            fastseg.open(path).close()
    assert scanned > FLIPS // 4


def test_a_store_that_others_changed_is_read_by_hdf5(store, tmp_path, monkeypatch):
    """An attribute of its own costs a user nothing but time."""
    path = tmp_path / "changed.h5"
    path.write_bytes(store.path.read_bytes())
    with h5py.File(path, "r+") as file:
        file["items/row"].attrs["note"] = "mine"
    with pytest.raises(Unusual):
        scan_path(path)
    opened = fastseg.open(path)
    assert opened.fingerprint == store.fingerprint
    for name, column in store.items.items():
        assert_array_equal(opened.items[name], column)


def test_hdf5_is_not_asked_for_a_store_as_it_was_written(store, monkeypatch):
    """Opening 100 stores takes a fourth of a second, not more than one."""
    monkeypatch.setattr(checks, "open_hdf5", None)
    assert fastseg.open(Path(store.path)).fingerprint == store.fingerprint
