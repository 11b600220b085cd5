"""The order of samples: pure functions of (seed, epoch) and the number of samples."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.errors import whole_number


def epoch_order(count: int, seed: int, epoch: int, shuffle: bool) -> NDArray[np.int64]:
    """Return the samples of an epoch in their order, int64 (count,).

    Shuffled, it is the permutation that sorts `count` random 64-bit numbers of the
    Philox generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
    SC 2011) under the key (seed, epoch): a key is two words, not their sum, so no
    two pairs share an order. numpy promises that these raw numbers never change.
    """
    if not shuffle:
        return np.arange(count, dtype=np.int64)
    key = np.array([seed, epoch], dtype=np.uint64)
    keys = np.random.Philox(key=key).random_raw(count)
    return np.argsort(keys, kind="stable")


def check_seed(seed: Any) -> int:
    """Return a seed as an int from 0 to 2**64 - 1, or raise OptionError."""
    return whole_number("seed", seed, 0, 2**64 - 1)


def batch_count(count: int, batch_size: int, drop_last: bool) -> int:
    """Return the number of batches of an epoch."""
    return count // batch_size if drop_last else -(-count // batch_size)
