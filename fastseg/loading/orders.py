"""Orders of samples: pure functions of seed, epoch and an array along the samples.

All random numbers are raw 64-bit words of the streams in `fastseg.randomness`.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.errors import whole_number
from fastseg.randomness import (
    BATCH_ORDER,
    CANDIDATE_ORDER,
    DRAW_ORDER,
    FLAGGED_ORDER,
    GROUP_ORDER,
    INTERVAL_ORDER,
    INTERVAL_START,
    SAMPLE_ORDER,
    philox,
)

MAX_WORD = 2**64 - 1
# Relative error of an expected count: at most five roundings of float64.
COUNT_ERROR = 2.0**-50
# Relative error of a fraction of a batch that a user typed: 0.1 * 30 is 3, and 5/6 * 6
# is 5.
FRACTION_ERROR = 1e-12


def random_words(
    count: int, seed: int, epoch: int, stream: int = SAMPLE_ORDER
) -> NDArray[np.uint64]:
    """Return random 64-bit numbers, uint64 (count,)."""
    return philox(seed, epoch, stream).random_raw(count)


def permutation(
    count: int, seed: int, epoch: int, stream: int = SAMPLE_ORDER
) -> NDArray[np.int64]:
    """Return 0 to count - 1 in the order that sorts `random_words`, int64 (count,)."""
    return np.argsort(random_words(count, seed, epoch, stream), kind="stable")


def epoch_order(count: int, seed: int, epoch: int, shuffle: bool) -> NDArray[np.int64]:
    """Return the samples of an epoch in their order, int64 (count,)."""
    return permutation(count, seed, epoch) if shuffle else np.arange(count)


def grouped_order(
    groups: NDArray[np.int64], seed: int, epoch: int
) -> NDArray[np.int64]:
    """Return the samples group by group, with groups and their samples shuffled.

    groups : int64 (n,), any number per group

    Returns a permutation, int64 (n,).
    """
    numbers, group = np.unique(groups, return_inverse=True)
    rank = permutation(len(numbers), seed, epoch, GROUP_ORDER)[group]
    return np.lexsort((random_words(len(groups), seed, epoch), rank))


def weighted_order(
    weights: NDArray[np.float64], seed: int, epoch: int
) -> NDArray[np.int64]:
    """Return n draws among n samples, in proportion to their weights.

    weights : float64 (n,), finite, not negative, not all 0

    Returns int64 (n,), in random order. Sample i comes n * weights[i] / sum(weights)
    times, rounded up or down at random so that this is the mean. The method is
    systematic sampling in random order (Madow, "On the theory of systematic sampling,
    II", Ann. Math. Statist. 20, 1949): intervals as long as the expected counts are
    laid end to end from a random start between 0 and 1. A sample is drawn once for each
    whole number in its interval.
    """
    n = len(weights)
    expected = weights / weights.max()
    expected *= n / math.fsum(expected.tolist())
    whole = np.rint(expected)
    near = np.abs(expected - whole) <= COUNT_ERROR * expected
    # Integers from here on, in units of 1 / `one`, so that sums are exact.
    bits = 62 - n.bit_length()
    one = 2**bits
    lengths = np.rint(np.where(near, whole, expected) * one).astype(np.int64)
    order = permutation(n, seed, epoch, INTERVAL_ORDER)
    ends = np.cumsum(lengths[order])
    # The total length differs from n by rounding. The start keeps this distance from 0
    # or 1, so that the intervals always contain exactly n whole numbers.
    surplus = int(ends[-1]) - n * one
    start = int(random_words(1, seed, epoch, INTERVAL_START)[0]) % one
    start = min(max(start, -surplus), one - 1 - surplus)
    counts = np.diff((ends + start) >> bits, prepend=0)
    return np.repeat(order, counts)[permutation(n, seed, epoch, DRAW_ORDER)]


def foreground_order(
    flags: NDArray[np.bool_],
    fraction: float,
    sizes: NDArray[np.int64],
    seed: int,
    epoch: int,
) -> NDArray[np.int64]:
    """Return samples for batches of given sizes, with enough flagged ones in each.

    flags    : bool (n,), at least one of them set
    fraction : minimum fraction of flagged samples in each batch, above 0 and up to 1
    sizes    : int64 (b,), sizes of the batches

    Returns int64 (sum(sizes),), batch after batch, in random order within each batch.
    If there are enough flagged samples, none comes twice. Else they come in cycles,
    each in a new order, and some of the unflagged samples do not come; a batch in which
    a cycle ends may contain a sample twice.
    """
    total = int(sizes.sum())
    flagged = np.flatnonzero(flags)
    unflagged = np.flatnonzero(~flags)
    required = np.ceil(fraction * (1 - FRACTION_ERROR) * sizes).astype(np.int64)
    total_required = int(required.sum())
    # All flagged samples are drawn at least once. Those beyond the required ones, and
    # the unflagged samples, are candidates for the rest of the batches.
    count = max(total_required, len(flagged), total - len(unflagged))
    cycles = (-(-count // len(flagged)), len(flagged))
    keys = random_words(math.prod(cycles), seed, epoch, FLAGGED_ORDER).reshape(cycles)
    drawn = flagged[np.argsort(keys, kind="stable")].ravel()[:count]
    candidates = np.concatenate([drawn[total_required:], unflagged])
    order = permutation(len(candidates), seed, epoch, CANDIDATE_ORDER)
    rest = candidates[order][: total - total_required]
    number = np.arange(len(sizes))
    batch = np.repeat(np.append(number, number), np.append(required, sizes - required))
    shuffled = np.lexsort((random_words(total, seed, epoch, BATCH_ORDER), batch))
    return np.append(drawn[:total_required], rest)[shuffled]


def check_seed(seed: Any) -> int:
    """Return a seed as an int from 0 to 2**64 - 1, or raise OptionError."""
    return whole_number("seed", seed, 0, MAX_WORD)
