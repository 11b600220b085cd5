"""Finding items by a 64-bit hash."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


class HashIndex:
    """The place of each hash in a column, of those that are there twice the last.

    It takes 16 bytes for each, a seventh of what a dict takes.
    """

    def __init__(self, hashes: NDArray[np.uint64]):
        self._places = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._places]

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, hashes: ArrayLike) -> NDArray[np.int64]:
        """Return the place of each hash; -1 if it is not there."""
        wanted = np.asarray(hashes, np.uint64)
        places = np.full(len(wanted), -1, np.int64)
        if len(self):
            last = np.searchsorted(self._hashes, wanted, "right") - 1
            found = (last >= 0) & (self._hashes[last] == wanted)
            places[found] = self._places[last[found]]
        return places
