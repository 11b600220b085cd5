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
from fastseg.store import compression
from fastseg.store.layout import Bucket
from fastseg.store.writing import hdf5_index
from fastseg.store.writing.partial import Partial
from fastseg.store.writing.pixel_file import PixelFile
from fastseg.store.writing.records import Slots


class CompressedPartial(Partial):
    """The files of an unfinished compressed store; to be used as `Partial` is."""

    compression = compression.NAME

    def _plan(self) -> None:
        self._codecs = {
            bucket: compression.codecs(bucket, self._masks)
            for bucket, _ in self.shape.counts
        }
        self._empty = {
            bucket: codec.encode(np.zeros(codec.shape, codec.dtype))
            for bucket, (_, codec) in self._codecs.items()
        }
        self._lock = threading.Lock()

    def _fit(self, slots: Slots, offsets: NDArray[np.int64]) -> bool:
        return True  # a chunk may lie anywhere

    def _prepare(self, path: Path) -> None:
        path.open("wb" if self._is_new else "ab").close()
        # Behind what is kept: what is beyond has no record, and is of no use.
        journal, self._end = self._works[0].journal, 0
        for records in journal.read_all(np.arange(len(journal.resumable))):
            ends = records.offsets[:, :2] + records.offsets[:, 2:]
            self._end = max(self._end, int(ends.max()))

    def _read(
        self, bucket: Bucket, work: PixelFile, offsets: tuple[int, ...]
    ) -> tuple[NDArray[Any], NDArray[Any]] | None:
        images, masks = self._codecs[bucket]
        image, mask = _chunks(work, offsets)
        try:
            return images.decode(image), masks.decode(mask)
        except StoreError:
            return None

    def write_many(
        self,
        slots: Slots,
        data: NDArray[np.uint8],
        starts: Sequence[int],
        masks: Mapping[int, NDArray[Any]],
    ) -> NDArray[np.int64]:
        """Write the chunks of items of one bucket; return their places, a row each."""
        bucket = self.bucket(slots, 0)
        images, labels = self._codecs[bucket]
        offsets = []
        for j, start in enumerate(starts):
            image = data[start : start + images.size].view(bucket.dtype)
            first, mask = images.encode(image.reshape(bucket.shape)), masks.get(j)
            second = self._empty[bucket] if mask is None else labels.encode(mask)
            with self._lock:
                place = self._end
                self._end += len(first) + len(second)
            self._works[0].write(place, np.frombuffer(first + second, np.uint8))
            offsets.append((place, place + len(first), len(first), len(second)))
        return np.array(offsets, np.int64)

    def direct_output(self, slots: Slots) -> tuple[int, NDArray[np.int64]]:
        """Return no file, and room for the places of items."""
        return -1, np.zeros((len(slots.row), 4), np.int64)

    def _complete(self) -> tuple[Path, str]:
        work = self._works[0]

        def chunks(offsets: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any]]:
            return _chunks(work, offsets)

        fingerprint = hdf5_index.write_compressed(
            self._index,
            self.shape,
            self._batches,
            self._tally,
            chunks,
            options=self.options,
            software=self.software,
        )
        with self._index.open("r+b") as file:
            os.fsync(file.fileno())
        return self._index, fingerprint


def _chunks(
    work: PixelFile, offsets: Sequence[int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the chunks of image and mask that lie at the places of a record."""
    image, mask, image_size, mask_size = offsets
    first = work.read(image, (image_size,), np.uint8)
    return first, work.read(mask, (mask_size,), np.uint8)
