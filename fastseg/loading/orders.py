"""Orders of samples: pure functions of (seed, epoch) and of what is said of samples.

All randomness is raw 64-bit numbers of the Philox generator (Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3", SC 2011), which numpy promises never to change;
it makes no such promise of its distributions and shuffles.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.errors import whole_number

# Streams of random numbers, apart from each other in each epoch. Resumed runs rely
# on them: a number is never given to another use.
SAMPLES, GROUPS, LINE, START, DRAWN, CYCLES, POOL, PLACES = range(8)

LARGEST_WORD = 2**64 - 1
# Relative error of an expected count: five roundings of float64 at most.
COUNT_ERROR = 2.0**-50
# Relative error of a share of a batch, as typed: 0.1 * 30 is 3, 5/6 * 6 is 5.
SHARE_ERROR = 1e-12


def random_words(
    count: int, seed: int, epoch: int, stream: int = SAMPLES
) -> NDArray[np.uint64]:
    """Return random 64-bit numbers, uint64 (count,).

    The generator's key is (seed, epoch): two words, not their sum, so no two pairs
    share their numbers. The stream is the highest word of its counter, where no
    other stream ever counts to.
    """
    key = np.array([seed, epoch], np.uint64)
    counter = np.array([0, 0, 0, stream], np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(count)


def permutation(
    count: int, seed: int, epoch: int, stream: int = SAMPLES
) -> NDArray[np.int64]:
    """Return 0 to count - 1 in the order that sorts `random_words`, int64 (count,)."""
    return np.argsort(random_words(count, seed, epoch, stream), kind="stable")


def epoch_order(count: int, seed: int, epoch: int, shuffle: bool) -> NDArray[np.int64]:
    """Return the samples of an epoch in their order, int64 (count,)."""
    return permutation(count, seed, epoch) if shuffle else np.arange(count)


def grouped_order(
    groups: NDArray[np.int64], seed: int, epoch: int
) -> NDArray[np.int64]:
    """Return the samples with groups in random order, each in random order within.

    groups : int64 (n,), any number per group

    Returns a permutation, int64 (n,).
    """
    numbers, group = np.unique(groups, return_inverse=True)
    place = permutation(len(numbers), seed, epoch, GROUPS)[group]
    return np.lexsort((random_words(len(groups), seed, epoch), place))


def weighted_order(
    weights: NDArray[np.float64], seed: int, epoch: int
) -> NDArray[np.int64]:
    """Return n draws among n samples, each sample as often as its weight says.

    weights : float64 (n,), finite, not negative, not all 0

    Returns int64 (n,), in random order. Sample i comes n * weights[i] / sum(weights)
    times, rounded up or down at random so that this is its mean. It is systematic
    sampling in random order (Madow, "On the theory of systematic sampling, II", Ann.
    Math. Statist. 20, 1949): stretches as long as the expected counts are laid on a
    line, which is marked at every whole number from a random start on.
    """
    n = len(weights)
    expected = weights / weights.max()
    expected *= n / math.fsum(expected.tolist())
    whole = np.rint(expected)
    near = np.abs(expected - whole) <= COUNT_ERROR * expected
    # From here on in whole numbers, of which `one` are a count of 1: sums are exact.
    bits = 62 - n.bit_length()
    one = 2**bits
    length = np.rint(np.where(near, whole, expected) * one).astype(np.int64)
    line = permutation(n, seed, epoch, LINE)
    ends = np.cumsum(length[line])
    # Of rounding, the line is not quite n long. The start keeps away from its ends by
    # as much, so that there are always n marks.
    surplus = int(ends[-1]) - n * one
    start = int(random_words(1, seed, epoch, START)[0]) % one
    start = min(max(start, -surplus), one - 1 - surplus)
    counts = np.diff((ends + start) >> bits, prepend=0)
    return np.repeat(line, counts)[permutation(n, seed, epoch, DRAWN)]


def foreground_order(
    flags: NDArray[np.bool_],
    share: float,
    sizes: NDArray[np.int64],
    seed: int,
    epoch: int,
) -> NDArray[np.int64]:
    """Return samples for batches of given sizes, with enough flagged ones in each.

    flags : bool (n,), at least one of them set
    share : of each batch that is flagged at least, above 0 and up to 1
    sizes : int64 (b,), of the batches

    Returns int64 (sum(sizes),), batch after batch, in random order within. No sample
    comes twice where the flagged ones suffice for that. Where they do not, they come
    in cycles, each in another order, and some of the others do not come; a batch in
    which a cycle ends may have one twice.
    """
    total = int(sizes.sum())
    flagged, others = np.flatnonzero(flags), np.flatnonzero(~flags)
    needed = np.ceil(share * (1 - SHARE_ERROR) * sizes).astype(np.int64)
    kept = int(needed.sum())
    # What the batches do not need is put back among the others.
    drawn = max(kept, len(flagged), total - len(others))
    cycles = (-(-drawn // len(flagged)), len(flagged))
    keys = random_words(math.prod(cycles), seed, epoch, CYCLES).reshape(cycles)
    marked = flagged[np.argsort(keys, kind="stable")].ravel()[:drawn]
    pool = np.concatenate([marked[kept:], others])
    pool = pool[permutation(len(pool), seed, epoch, POOL)][: total - kept]
    number = np.arange(len(sizes))
    batch = np.repeat(np.append(number, number), np.append(needed, sizes - needed))
    order = np.lexsort((random_words(total, seed, epoch, PLACES), batch))
    return np.append(marked[:kept], pool)[order]


def check_seed(seed: Any) -> int:
    """Return a seed as an int from 0 to 2**64 - 1, or raise OptionError."""
    return whole_number("seed", seed, 0, LARGEST_WORD)
