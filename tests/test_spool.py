"""Lists and sorting in temporary files."""

import os
import tempfile
from operator import itemgetter
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastseg import spool
from fastseg.spool import Sorter, Spool
from fastseg.store.writing.hash_index import HashIndex

FOLDER = Path(tempfile.gettempdir())


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers())),
    st.integers(1, 20),
    st.integers(1, 5),
)
def test_items_come_sorted_and_keep_their_order(items, sorted_at_once, merged_at_once):
    """Each iteration equals `sorted`, however many items fit into memory."""
    with (
        mock.patch.object(spool, "SORTED_AT_ONCE", sorted_at_once),
        mock.patch.object(spool, "MERGED_AT_ONCE", merged_at_once),
    ):
        sorter = Sorter(FOLDER, itemgetter(0))
        for item in items:
            sorter.add(item)
        for _ in range(2):
            assert list(sorter) == sorted(items, key=itemgetter(0))


@pytest.mark.parametrize("numbers", [range(100), range(99, -1, -1)])
def test_sorted_items_are_not_sorted_again(tmp_path, monkeypatch, numbers):
    """Items that came sorted, or were read before, are read without comparing keys."""
    monkeypatch.setattr(spool, "SORTED_AT_ONCE", 10)
    keys = []

    def key(item):
        keys.append(item)
        return item

    sorter = Sorter(tmp_path, key)
    for k in numbers:
        sorter.add(k)
    if numbers[0]:
        assert list(sorter) == list(range(100))
    keys.clear()
    assert list(sorter) == list(range(100))
    assert not keys
    for k in (3, 100):
        sorter.add(k)
    assert list(sorter) == sorted([*range(101), 3])


def test_entries_beyond_memory_are_in_a_temporary_file(tmp_path):
    """Entries are read back in any order; their temporary file has no name."""
    entries = Spool(tmp_path)
    for k in range(5):
        entries.append((k, np.full(spool.BYTES_IN_MEMORY // 16, k)))
    assert os.name == "nt" or not list(tmp_path.iterdir())
    for k in (4, 0, 2):
        assert entries[k][0] == k
        assert (entries[k][1] == k).all()
    assert [number for number, _ in entries] == list(range(5))
    entries.append("more")
    assert entries[5] == "more"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    """Entries beyond memory raise OSError if no temporary file can be made."""
    entries = Spool(tmp_path / "absent")
    with pytest.raises(OSError, match="absent"):
        entries.append(bytes(spool.BYTES_IN_MEMORY + 1))


@given(st.lists(st.integers(0, 12)), st.lists(st.integers(0, 2**64 - 1)))
def test_hashes_are_found_at_their_last_index(few, many):
    """A lookup gives the last index of a hash, as a dict would, and -1 if absent."""
    column = few + many
    indices = {value: k for k, value in enumerate(column)}
    wanted = [*range(13), *many, 2**64 - 1]
    found = HashIndex(np.array(column, np.uint64)).find(wanted)
    assert found.tolist() == [indices.get(value, -1) for value in wanted]
