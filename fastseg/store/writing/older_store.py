"""Items of the store that a build replaces, which it can reuse."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64, xxh3_64_intdigest

from fastseg.errors import StoreError
from fastseg.store.layout import Bucket
from fastseg.store.reader import Store
from fastseg.store.writing.hash_index import HashIndex
from fastseg.store.writing.records import Record, Rings, Source, pack_meta

# Rows of a column that are hashed at once.
ROWS_AT_ONCE = 2**14


class OlderStore:
    """The items of a store, found by the hash of their inputs (`inputs_xxh3`)."""

    def __init__(self, store: Store):
        self.store = store
        self._by_inputs = HashIndex(store.items["inputs_xxh3"])
        self._bucket = store.items["bucket"]
        self._buckets = list(store.buckets.values())

    def is_valid(self) -> bool:
        """Return whether all columns, which `record` copies, have their checksums."""
        checksums = self.store.checksums
        return all(
            self._checksum(column) == checksums[f"{table}/{name}"]
            for table in ("items", "contours", "sources")
            for name, column in getattr(self.store, table).items()
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

    def find(
        self, digests: Sequence[int], buckets: Sequence[Bucket]
    ) -> NDArray[np.int64]:
        """Return the indices of items with these inputs; -1 if there is none.

        digests : `inputs_xxh3` of each
        buckets : bucket of each; the item must be in the same one
        """
        indices = self._by_inputs.find(digests)
        for k in np.flatnonzero(indices >= 0).tolist():
            if self._buckets[self._bucket[indices[k]]] != buckets[k]:
                indices[k] = -1
        return indices

    def same_inputs(self, one: int, other: int) -> bool:
        """Return whether two items were made from the same inputs."""
        digests = self.store.items["inputs_xxh3"]
        return bool(
            digests[one] == digests[other] and self._bucket[one] == self._bucket[other]
        )

    def pixels(self, index: int) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Return image and mask of an item, None if it is damaged."""
        sample = self.store[index]
        items = self.store.items
        try:
            image = sample.image
            mask = sample.mask
        except StoreError:
            return None
        is_valid = (
            xxh3_64_intdigest(image.data) == items["image_xxh3"][index]
            and xxh3_64_intdigest(mask.data) == items["mask_xxh3"][index]
            and xxh3_64_intdigest(self._points(index)) == items["contour_xxh3"][index]
        )
        return (image, mask) if is_valid else None

    def _points(self, index: int) -> NDArray[np.float64]:
        """Return a copy of the vertices of an item."""
        contours = self.store.contours
        bounds = contours["offsets"][self.store.items["contours"][index]]
        return np.array(contours["points"][bounds[0] : bounds[1]])

    def record(self, index: int, **more: Any) -> Record:
        """Return the record of an item, without offsets.

        more : the fields that are not in a store: links and stamps
        """
        store = self.store
        items = store.items
        contours = store.contours
        first, stop = items["contours"][index].tolist()
        bounds = contours["offsets"][first : stop + 1]
        lengths: dict[tuple[int, int], list[int]] = {}
        for ring in range(first, stop):
            key = int(contours["class"][ring]), int(contours["source"][ring])
            lengths.setdefault(key, []).append(
                int(bounds[ring - first + 1] - bounds[ring - first])
            )
        files = [int(items["source"][index]), *(file for _, file in lengths)]
        return Record(
            patient=items["patient"][index].decode(),
            series=items["series"][index].decode(),
            sources=tuple(self._source(file) for file in files),
            rings=tuple(
                Rings(bit, 1 + k, tuple(vertices))
                for k, ((bit, _), vertices) in enumerate(lengths.items())
            ),
            offsets=(),
            meta=pack_meta(
                {
                    name: column[index].ravel().tolist()
                    if column.ndim > 1
                    else column[index].item()
                    for name, column in items.items()
                    if column.dtype.kind != "S"
                },
                store.classes,
            ),
            points=self._points(index),
            **more,
        )

    def _source(self, file: int) -> Source:
        path, size, checksum = (
            self.store.sources[name][file].item() for name in ("path", "size", "xxh3")
        )
        return Source(path.decode(), size, checksum)
