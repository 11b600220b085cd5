"""What a finished store offers to the build of the next one."""

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

# Rows of a column that are looked at together.
ROWS_AT_ONCE = 2**14


class OlderStore:
    """The items of a store by the hash of what they were made from."""

    def __init__(self, store: Store):
        self.store = store
        self._lookup = HashIndex(store.items["inputs_xxh3"])
        self._numbers = store.items["bucket"]
        self._buckets = list(store.buckets.values())

    def is_valid(self) -> bool:
        """Return whether all columns are what was written: `record` copies them."""
        sums = self.store.checksums
        return all(
            self._checksum(column) == sums[f"{table}/{name}"]
            for table in ("items", "contours", "sources")
            for name, column in getattr(self.store, table).items()
            if f"{table}/{name}" in sums
        )

    def _checksum(self, column: NDArray[Any]) -> str:
        """Return the checksum of a column, of which little is in memory at once."""
        digest = xxh3_64()
        for start in range(0, len(column), ROWS_AT_ONCE):
            rows = column[start : start + ROWS_AT_ONCE]
            digest.update(np.ascontiguousarray(rows).data)
            self.store.release()
        return digest.hexdigest()

    def find(
        self, digests: Sequence[int], buckets: Sequence[Bucket]
    ) -> NDArray[np.int64]:
        """Return which items of these buckets were made from that; -1 if none was."""
        places = self._lookup.find(digests)
        for k in np.flatnonzero(places >= 0).tolist():
            if self._buckets[self._numbers[places[k]]] != buckets[k]:
                places[k] = -1
        return places

    def same_inputs(self, one: int, other: int) -> bool:
        """Return whether two items were made from the same."""
        digests = self.store.items["inputs_xxh3"]
        return bool(
            digests[one] == digests[other]
            and self._numbers[one] == self._numbers[other]
        )

    def pixels(self, index: int) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Return image and mask, None if they, or the contours, are damaged."""
        sample, items = self.store[index], self.store.items
        try:
            image, mask = sample.image, sample.mask
        except StoreError:
            return None
        sound = (
            xxh3_64_intdigest(image.data) == items["image_xxh3"][index]
            and xxh3_64_intdigest(mask.data) == items["mask_xxh3"][index]
            and xxh3_64_intdigest(self._points(index)) == items["contour_xxh3"][index]
        )
        return (image, mask) if sound else None

    def _points(self, index: int) -> NDArray[np.float64]:
        """Return the vertices of an item, a copy."""
        contours = self.store.contours
        bounds = contours["offsets"][self.store.items["contours"][index]]
        return np.array(contours["points"][bounds[0] : bounds[1]])

    def record(self, index: int, **more: Any) -> Record:
        """Return the record of an item; more are those fields that no store keeps."""
        items, contours, store = self.store.items, self.store.contours, self.store
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
                Rings(bit, 1 + k, tuple(sizes))
                for k, ((bit, _), sizes) in enumerate(lengths.items())
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
        path, size, digest = (
            self.store.sources[name][file].item() for name in ("path", "size", "xxh3")
        )
        return Source(path.decode(), size, digest)
