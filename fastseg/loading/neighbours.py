"""Neighbours: the slices that lie beside a sample in its volume."""

import numpy as np
from numpy.typing import NDArray

from fastseg.store.reader import Store


def find_neighbours(
    store: Store, samples: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return samples between their neighbours, and which of these there are not.

    samples : int64 (b,), indices in the store
    count   : number of neighbours on each side

    Returns indices in the store, int64 (b, 2 * count + 1), by rising position, and bool
    of that shape: where it is True, the neighbour lies beyond the end of the volume, or
    the sample is in no volume, and the index is that of the nearest slice there is.
    """
    if count == 0:
        return samples[:, None], np.zeros((len(samples), 1), np.bool_)
    volumes = store.tables["volumes"]
    numbers = store.items["volume"][samples]
    is_inside = numbers >= 0
    first = samples.copy()
    first[is_inside] = volumes["first"][numbers[is_inside]]
    last = samples.copy()
    last[is_inside] = first[is_inside] + volumes["slices"][numbers[is_inside]] - 1
    wanted = samples[:, None] + np.arange(-count, count + 1)
    found = np.clip(wanted, first[:, None], last[:, None])
    return found, found != wanted


def with_neighbours(
    store: Store, samples: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """Return samples and all their neighbours, each once, in store order."""
    if count == 0:
        return samples
    is_read = np.zeros(len(store), np.bool_)
    is_read[find_neighbours(store, samples, count)[0]] = True
    return np.flatnonzero(is_read)
