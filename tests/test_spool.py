"""Temporary files of what is too long for memory."""

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

HERE = Path(tempfile.gettempdir())


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers())),
    st.integers(1, 20),
    st.integers(1, 5),
)
def test_items_come_sorted_and_keep_their_order(items, sorted_at_once, merged_at_once):
    """They are as `sorted` gives them, whatever fits into memory, as often as read."""
    with (
        mock.patch.object(spool, "SORTED_AT_ONCE", sorted_at_once),
        mock.patch.object(spool, "MERGED_AT_ONCE", merged_at_once),
    ):
        sorter = Sorter(HERE, itemgetter(0))
        for item in items:
            sorter.add(item)
        for _ in range(2):
            assert list(sorter) == sorted(items, key=itemgetter(0))


@pytest.mark.parametrize("numbers", [range(100), range(99, -1, -1)])
def test_what_is_sorted_once_is_one_run(tmp_path, monkeypatch, numbers):
    """It comes sorted already, or was read before: no item is compared again."""
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
    """Each is what was appended, in any order, and nobody sees the file's name."""
    spool = Spool(tmp_path)
    for k in range(5):
        spool.append((k, np.full(spool.BYTES_IN_MEMORY // 16, k)))
    assert os.name == "nt" or not list(tmp_path.iterdir())
    for k in (4, 0, 2):
        assert spool[k][0] == k
        assert (spool[k][1] == k).all()
    assert [number for number, _ in spool] == list(range(5))
    spool.append("more")
    assert spool[5] == "more"


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    """What does not fit into memory raises OSError where no file can be made."""
    spool = Spool(tmp_path / "absent")
    with pytest.raises(OSError, match="absent"):
        spool.append(bytes(spool.BYTES_IN_MEMORY + 1))


@given(st.lists(st.integers(0, 12)), st.lists(st.integers(0, 2**64 - 1)))
def test_hashes_are_found_at_their_last_place(few, many):
    """A lookup says what a dict of the places says, and -1 for what is absent."""
    column = few + many
    places = {value: k for k, value in enumerate(column)}
    wanted = [*range(13), *many, 2**64 - 1]
    found = HashIndex(np.array(column, np.uint64)).find(wanted)
    assert found.tolist() == [places.get(value, -1) for value in wanted]
