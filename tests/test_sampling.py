"""The order of samples."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from fastseg.loading.sampling import batch_count, epoch_order

words = st.integers(0, 2**64 - 1)


@given(st.integers(1, 300), words, words)
def test_an_order_is_a_permutation_and_a_function_of_seed_and_epoch(n, seed, epoch):
    """Each sample comes once, and the same pair gives the same order again."""
    order = epoch_order(n, seed, epoch, shuffle=True)
    assert_array_equal(np.sort(order), np.arange(n))
    assert_array_equal(order, epoch_order(n, seed, epoch, shuffle=True))


def test_seed_and_epoch_are_not_added():
    """No two of many (seed, epoch) pairs share an order; (0, 1) is not (1, 0)."""
    orders = {
        tuple(epoch_order(50, seed, epoch, shuffle=True).tolist())
        for seed in range(30)
        for epoch in range(30)
    }
    assert len(orders) == 900


def test_orders_are_uniform():
    """Over many epochs each of 6 orders of 3 samples comes about as often."""
    seen = [tuple(epoch_order(3, 5, e, shuffle=True).tolist()) for e in range(6000)]
    counts = np.unique(seen, axis=0, return_counts=True)[1]
    # Chi-square with 5 degrees of freedom: above 25.7 once in 10 000 seeds.
    assert len(counts) == 6
    assert ((counts - 1000.0) ** 2 / 1000).sum() < 25.7


def test_the_order_never_changes_between_versions():
    """The shuffle of a pair is written down here: resumed runs rely on it."""
    assert epoch_order(8, 42, 3, shuffle=True).tolist() == [1, 6, 3, 4, 5, 2, 0, 7]


def test_unshuffled_samples_come_as_stored():
    """Without shuffling, every epoch is in the store's order."""
    assert epoch_order(4, 9, 9, shuffle=False).tolist() == [0, 1, 2, 3]


@given(st.integers(1, 100), st.integers(1, 100))
def test_batches_hold_all_or_all_full_ones(count, size):
    """The number of batches is rounded up, or down with drop_last."""
    assert batch_count(count, size, False) == int(np.ceil(count / size))
    assert batch_count(count, size, True) == count // size
