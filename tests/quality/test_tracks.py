"""Slices and times of labels."""

import numpy as np

from fastseg.quality.tracks import number_rows, number_slices


def slots(position, series=None):
    position = np.asarray(position, float)
    if series is None:
        series = np.zeros(len(position), np.int64)
    slot, is_even = number_slices(position, np.asarray(series))
    return slot.tolist(), is_even.tolist()


def test_slices_are_numbered_by_position():
    """In any order, at several times, of several series, and where unknown."""
    assert slots([30, 10, 20])[0] == [2, 0, 1]
    assert slots([0, 10, 10.0001, 0])[0] == [0, 1, 1, 0]
    assert slots([5, 0, np.nan, 3, 0], [0, 0, 0, 1, 1])[0] == [1, 0, -1, 1, 0]
    assert slots([np.nan])[0] == [-1]


def test_a_gap_takes_the_numbers_of_its_slices():
    """The usual distance is known from two that are not the gap, or one."""
    slot, is_even = slots([0, 3, 6, 15, 18, 21])
    assert slot == [0, 1, 2, 5, 6, 7]
    assert all(is_even)
    assert slots([0, 10, 30])[0] == [0, 1, 3]


def test_uneven_slices_are_not_even():
    """Distances that grow have no usual one."""
    slot, is_even = slots([0, 1, 2.5, 5, 9])
    assert slot[:2] == [0, 1]
    assert np.all(np.diff(slot) > 0)
    assert not any(is_even)


def test_equal_rows_have_one_number():
    """As numpy's unique rows, whatever the order of columns."""
    rng = np.random.default_rng(0)
    columns = rng.integers(0, 4, (3, 100))
    number = number_rows(*columns)
    same = (columns[:, :, None] == columns[:, None, :]).all(0)
    np.testing.assert_array_equal(number[:, None] == number[None, :], same)
    assert number.min() == 0
    assert number.max() == len(set(number.tolist())) - 1
