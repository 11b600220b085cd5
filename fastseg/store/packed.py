"""A compressed store in the making: chunks one after another, in any order.

How long a chunk is, is known only when it is made. So `<name>.partial` gets chunks as
they come, the journal tells where they are, and at the end the store is written from
both, by item: its bytes depend on neither the workers nor what interrupted them. (HDF5
notes the name of a filter if it knows it: in a process that has imported hdf5plugin,
the bytes are others in that place.)
"""

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.errors import StoreError
from fastseg.store import compression, layout, writer
from fastseg.store.partial import Partial
from fastseg.store.work import Work


class CompressedPartial(Partial):
    """The files of an unfinished compressed store; to be used as `Partial` is."""

    compression = compression.NAME

    def _plan(self) -> None:
        masks = layout.mask_dtype(self.shape.classes)
        self._codecs = {
            bucket: compression.codecs(bucket, masks)
            for bucket in set(self.shape.buckets)
        }
        self._empty = {
            bucket: codec.encode(np.zeros(codec.shape, codec.dtype))
            for bucket, (_, codec) in self._codecs.items()
        }
        self._lock = threading.Lock()

    def _fits(self, k: int, places: tuple[int, ...]) -> bool:
        return True  # a chunk may lie anywhere

    def _prepare(self, path: Path) -> None:
        path.open("wb" if self._is_new else "ab").close()
        # Behind what is kept: what is beyond has no record, and is of no use.
        kept = self._works[0].journal.kept.values()
        ends = [
            max(image + image_size, mask + mask_size)
            for image, mask, image_size, mask_size in (each.places for each in kept)
        ]
        self._end = max(ends, default=0)

    def _read(
        self, k: int, work: Work, places: tuple[int, ...]
    ) -> tuple[NDArray[Any], NDArray[Any]] | None:
        images, masks = self._codecs[self.shape.buckets[k]]
        image, mask = _chunks(work, places)
        try:
            return images.decode(image), masks.decode(mask)
        except StoreError:
            return None

    def write(
        self, k: int, image: NDArray[Any], mask: NDArray[Any] | None
    ) -> tuple[int, ...]:
        """Write the chunks of an item; return their places for its record."""
        bucket = self.shape.buckets[k]
        images, masks = self._codecs[bucket]
        first = images.encode(image)
        second = self._empty[bucket] if mask is None else masks.encode(mask)
        with self._lock:
            start = self._end
            self._end += len(first) + len(second)
        self._works[0].write(start, np.frombuffer(first + second, np.uint8))
        return start, start + len(first), len(first), len(second)

    def write_many(
        self,
        items: NDArray[np.int64],
        data: NDArray[np.uint8],
        starts: Sequence[int],
        masks: Mapping[int, NDArray[Any]],
    ) -> NDArray[np.int64]:
        """Write the chunks of items of one bucket; return their places, a row each."""
        places = []
        for j, (k, start) in enumerate(zip(items.tolist(), starts, strict=True)):
            bucket = self.shape.buckets[k]
            size = bucket.shape[0] * bucket.shape[1] * bucket.dtype.itemsize
            image = data[start : start + size].view(bucket.dtype)
            places.append(self.write(k, image.reshape(bucket.shape), masks.get(j)))
        return np.array(places, np.int64)

    def _complete(self) -> tuple[Path, str]:
        work = self._works[0]

        def chunks(places: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any]]:
            return _chunks(work, places)

        fingerprint = writer.write_compressed(
            self._index,
            self.shape,
            self._records,
            self._tally,
            chunks,
            options=self.options,
            software=self.software,
        )
        with self._index.open("r+b") as file:
            os.fsync(file.fileno())
        return self._index, fingerprint


def _chunks(
    work: Work, places: Sequence[int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the chunks of image and mask that lie at the places of a record."""
    image, mask, image_size, mask_size = places
    first = work.read(image, (image_size,), np.uint8)
    return first, work.read(mask, (mask_size,), np.uint8)
