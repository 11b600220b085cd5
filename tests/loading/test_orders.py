"""The orders of samples; test_schedule tests the batches made from them."""

from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from fastseg.loading import orders
from fastseg.loading.orders import (
    epoch_order,
    foreground_order,
    grouped_order,
    random_words,
    weighted_order,
)

words = st.integers(0, 2**64 - 1)
share = st.fractions(Fraction(1, 100), 1, max_denominator=100)
# Weights as users have them, such as 1/frequency, and arbitrary floats.
weight = st.one_of(
    st.integers(0, 5).map(float),
    st.integers(1, 9).map(lambda k: 1 / k),
    st.floats(0, allow_infinity=False),
)
weights_of_samples = st.lists(weight, min_size=1, max_size=40).filter(any)


def chi_square(seen, kinds):
    """Return the statistic of draws that should be uniform in 0 to kinds - 1."""
    counts = np.bincount(seen, minlength=kinds)
    expected = len(seen) / kinds
    return ((counts - expected) ** 2 / expected).sum()


@given(st.integers(1, 300), words, words)
def test_an_order_is_a_permutation_and_a_function_of_seed_and_epoch(n, seed, epoch):
    """Each sample comes once, and the same seed and epoch give the same order again."""
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


def test_orders_never_change_between_versions():
    """Orders are as written here, because resumed runs depend on them."""
    ramp = np.arange(8.0)
    thirds = np.arange(8) % 3
    sizes = np.array([4, 4])
    assert epoch_order(8, 42, 3, shuffle=True).tolist() == [1, 6, 3, 4, 5, 2, 0, 7]
    assert weighted_order(ramp, 42, 3).tolist() == [7, 2, 6, 5, 6, 4, 3, 7]
    assert grouped_order(thirds, 42, 3).tolist() == [5, 2, 6, 3, 0, 1, 4, 7]
    order = foreground_order(ramp > 5, 0.5, sizes, 42, 3)
    assert order.tolist() == [6, 5, 7, 1, 6, 3, 4, 7]


def test_unshuffled_samples_come_as_stored():
    """Without shuffle, every epoch is in the store's order."""
    assert epoch_order(4, 9, 9, shuffle=False).tolist() == [0, 1, 2, 3]


def check_counts(weights, order):
    """Assert that each sample has its expected count, rounded up or down."""
    n = len(weights)
    counts = np.bincount(order, minlength=n)
    assert counts.sum() == len(counts) == n
    total = sum(map(Fraction, weights))
    for count, w in zip(counts.tolist(), weights, strict=True):
        expected = n * Fraction(w) / total
        assert expected - 1 < count < expected + 1


@given(weights_of_samples, words, words)
def test_counts_follow_the_weights(weights, seed, epoch):
    """Each sample has its expected count, rounded up or down."""
    check_counts(weights, weighted_order(np.array(weights), seed, epoch))


def start_at(word):
    """Return a context in which the intervals start at the position of this word."""

    def words_of(count, seed, epoch, stream=orders.SAMPLE_ORDER):
        if stream == orders.INTERVAL_START:
            return np.array([word], np.uint64)
        return random_words(count, seed, epoch, stream)

    return mock.patch.object(orders, "random_words", words_of)


@pytest.mark.parametrize("word", [0, 2**64 - 1])
@given(weights=weights_of_samples)
def test_counts_are_correct_for_extreme_starts(word, weights):
    """Counts are correct for the least and the greatest start of the intervals."""
    with start_at(word):
        check_counts(weights, weighted_order(np.array(weights), 1, 2))


@pytest.mark.parametrize("word", [0, 2**64 - 1])
def test_whole_counts_are_not_rounded(word):
    """Weights 6 * 0.1 and 15 * 0.1 give counts 6 and 15, despite float rounding."""
    # The first is slightly above 6 in float64, the second slightly below 15.
    weights = np.append([6 * 0.1, 15 * 0.1], np.zeros(19))
    for epoch in range(20):
        with start_at(word):
            order = weighted_order(weights, 1, epoch)
        assert np.bincount(order).tolist() == [6, 15]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 1000, 65_537, 999_983, 1_000_000])
@pytest.mark.parametrize("weight", [1.0, 0.1, 5e-324, 1.7e308])
def test_equal_weights_give_each_sample_once(n, weight):
    """Rounding of sums makes no sample come twice or not at all."""
    order = weighted_order(np.full(n, weight), n, 1)
    assert (np.bincount(order, minlength=n) == 1).all()


def test_a_million_weights_give_a_million_draws():
    """Counts are within 1 of the expected ones, despite a million roundings."""
    n = 1_000_000
    ranks = np.arange(1, n + 1)
    for weights in (1.0 / ranks, np.where(ranks % 2, 1.0, 1 / 3), ranks % 10 * 0.1):
        counts = np.bincount(weighted_order(weights, 7, 1), minlength=n)
        assert counts.sum() == n
        expected = n * (weights / weights.sum())
        assert np.abs(counts - expected).max() < 1 + 1e-6
        assert not counts[weights == 0].any()


def test_mean_counts_are_the_weights():
    """Over many epochs the mean count of a sample is proportional to its weight."""
    weights = np.array([0.5, 1, 1.2, 0.1, 3])
    epochs = 5000
    drawn = np.concatenate([weighted_order(weights, 3, e) for e in range(epochs)])
    mean = np.bincount(drawn, minlength=5) / epochs
    # A count is rounded up or down: its variance is at most 1/4. Five standard errors
    # are exceeded once in a million.
    assert np.abs(mean - 5 * weights / weights.sum()).max() < 5 * 0.5 / epochs**0.5


def test_weighted_draws_come_in_every_order():
    """With equal weights, each sample comes equally often at each index of an epoch."""
    orders = [weighted_order(np.ones(6), 4, e) for e in range(3000)]
    for draws in np.array(orders).T:
        # 5 degrees of freedom: above 33 once in 250 000.
        assert chi_square(draws, 6) < 33


def test_any_two_samples_come_together():
    """Any two of the samples that come in every other epoch share some epoch."""
    # This needs the random order of the intervals: in a fixed order, two neighbours
    # never come in the same epoch.
    weights = np.array([1.0] * 6 + [9.0])
    together = np.zeros((7, 7), int)
    for epoch in range(400):
        present = np.bincount(weighted_order(weights, 5, epoch), minlength=7) > 0
        together += np.outer(present, present)
    assert together.min() > 0


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=60), words, words)
def test_groups_stay_together(groups, seed, epoch):
    """Each sample comes once, and the samples of a group one after another."""
    groups = np.array(groups)
    order = grouped_order(groups, seed, epoch)
    assert_array_equal(np.sort(order), np.arange(len(groups)))
    runs = 1 + np.count_nonzero(np.diff(groups[order]))
    assert runs == len(np.unique(groups))


def test_groups_and_their_samples_are_shuffled():
    """Over many epochs all 2 * 2 * 6 orders of two groups come about equally often."""
    groups = np.array([7, -1, 7, 7, -1])
    orders = np.array([grouped_order(groups, 8, e) for e in range(4800)])
    kinds, seen = np.unique(orders, axis=0, return_inverse=True)
    assert len(kinds) == 24
    # 23 degrees of freedom: above 60 once in 30 000.
    assert chi_square(seen.ravel(), 24) < 60


@given(
    st.lists(st.booleans(), min_size=1, max_size=60).filter(any),
    st.data(),
    share,
    words,
    words,
)
def test_every_batch_has_its_share_of_foreground(flags, data, share, seed, epoch):
    """At least this share is flagged, and no sample comes twice if that is possible."""
    flags = np.array(flags)
    sizes = np.array(data.draw(sizes_that_sum_to_at_most(len(flags))))
    order = foreground_order(flags, float(share), sizes, seed, epoch)
    batches = np.split(order, np.cumsum(sizes)[:-1])
    needed = [-(-share * len(batch) // 1) for batch in batches]
    for least, batch in zip(needed, batches, strict=True):
        assert flags[batch].sum() >= least
    counts = np.bincount(order, minlength=len(flags))
    assert counts[~flags].max(initial=0) <= 1
    if sum(needed) <= flags.sum():
        assert counts.max() <= 1
    else:
        # Cycles: no flagged sample comes again before all of them have come.
        assert np.ptp(counts[flags]) <= 1
        assert counts[flags].sum() == sum(needed)


@st.composite
def sizes_that_sum_to_at_most(draw, total):
    """Sizes of batches, at least one, each at least 1."""
    used = draw(st.integers(1, total))
    cuts = draw(st.sets(st.integers(1, used - 1))) if used > 1 else ()
    return np.diff([0, *sorted(cuts), used]).tolist()


@pytest.mark.parametrize(
    ("share", "size", "least"),
    [
        (0.1, 30, 3),
        (0.07, 100, 7),
        (0.28, 25, 7),
        (5 / 6, 6, 5),
        (0.7, 10, 7),
        (1e-9, 5, 1),
    ],
)
def test_float_rounding_does_not_change_a_share(share, size, least):
    """0.1 of 30 samples are 3, not 4."""
    flags = np.arange(3 * size) < least
    order = foreground_order(flags, share, np.array([size]), 1, 1)
    assert flags[order].sum() == least
    # Two batches, but flagged samples for one: each comes twice, no more.
    order = foreground_order(flags, share, np.array([size, size]), 1, 1)
    assert flags[order].sum() == 2 * least


def test_foreground_comes_at_every_index_of_a_batch():
    """Over many epochs, all indices of a batch have equally many flagged samples."""
    flags = np.arange(40) < 4
    sizes = np.full(4, 5)
    orders = [foreground_order(flags, 0.2, sizes, 6, e) for e in range(1000)]
    columns = np.nonzero(flags[np.array(orders)].reshape(-1, 5))[1]
    # 4 degrees of freedom: above 31 once in 300 000.
    assert chi_square(columns, 5) < 31


def test_samples_without_foreground_come_equally_often():
    """If an epoch leaves out unflagged samples, all are left out equally often."""
    flags = np.arange(22) < 2
    sizes = np.full(4, 5)
    drawn = [foreground_order(flags, 0.4, sizes, 6, e) for e in range(1000)]
    counts = np.bincount(np.ravel(drawn), minlength=22)
    assert counts[:2].tolist() == [4000, 4000]
    # 12 of 20 in each epoch: the variance of a count is 1000 * 0.6 * 0.4.
    assert np.abs(counts[2:] - 600).max() < 5 * 240**0.5
