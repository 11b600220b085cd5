"""The store that a build replaces: what is one, and its items that can be reused."""

from io import FileIO
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from xxhash import xxh3_64, xxh3_64_intdigest

from fastseg.errors import StoreError
from fastseg.store import checks
from fastseg.store.reader import Store
from fastseg.store.writing.hash_index import HashIndex

# Rows of a column that are hashed at once.
ROWS_AT_ONCE = 2**14


class _StoreKind:
    """The kind of output that a build writes, see `outputs.Kind`."""

    name = "a store"

    def recognises(self, file: FileIO) -> bool:
        """Return whether a file is a store, of any version, damaged or not.

        A file that HDF5 cannot open, because it is cut, is not recognised.
        """
        try:
            with checks.open_hdf5(file) as opened:
                return checks.has_format(opened)
        except StoreError:
            return False


STORE = _StoreKind()


class OlderStore:
    """The items of a store, found by the hash of their inputs (`inputs_xxh3`)."""

    def __init__(self, store: Store):
        self.store = store
        self._by_inputs = HashIndex(store.items["inputs_xxh3"])

    def is_valid(self) -> bool:
        """Return whether all columns have their checksums.

        Pixels are not read here: `verify` finds damage in them.
        """
        checksums = self.store.checksums
        return all(
            self._checksum(column) == checksums[f"{table}/{name}"]
            for table, columns in self.store.tables.items()
            for name, column in columns.items()
            if f"{table}/{name}" in checksums
        )

    def _checksum(self, column: NDArray[Any]) -> str:
        """Return the checksum of a column, with few of its rows in memory at once."""
        digest = xxh3_64()
        for start in range(0, len(column), ROWS_AT_ONCE):
            rows = column[start : start + ROWS_AT_ONCE]
            digest.update(np.ascontiguousarray(rows).data)
            self.store.release()
        return digest.hexdigest()

    def find(self, digests: ArrayLike) -> NDArray[np.int64]:
        """Return the indices of items with these inputs; -1 if there is none.

        digests : `inputs_xxh3` of each
        """
        return self._by_inputs.find(digests)

    def has_same_items(self, indices: NDArray[np.int64]) -> bool:
        """Return whether these items have the same inputs as all, in the same order."""
        digests = self.store.items["inputs_xxh3"]
        return len(indices) == len(self.store) and np.array_equal(
            digests[indices], digests
        )

    def image(self, digest: int) -> NDArray[Any] | None:
        """Return the image of an item, None if there is none, or it is damaged.

        digest : its `inputs_xxh3`
        """
        (index,) = self.find([digest]).tolist()
        if index < 0:
            return None
        try:
            image = self.store[index].image
        except StoreError:
            return None
        is_valid = (
            xxh3_64_intdigest(image.data) == self.store.items["image_xxh3"][index]
        )
        return image if is_valid else None
