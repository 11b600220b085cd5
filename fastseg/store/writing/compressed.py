"""An unfinished compressed store: its chunks, one behind another, in any order.

The size of a chunk is known only when it is made. So the threads append chunks to
`<name>.partial`, and the journal has their offsets. At the end, the store is written
from both, item by item, so that its bytes depend neither on threads nor on
interruptions. (HDF5 writes the name of a filter that it knows into the file. In a
process that has imported hdf5plugin, these bytes differ.)
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
    """The files of an unfinished compressed store; used like `Partial`."""

    compression = compression.NAME

    def _prepare_offsets(self) -> None:
        self._codecs = {
            bucket: compression.codecs(bucket, self._masks)
            for bucket, _ in self.shape.counts
        }
        self._empty_masks = {
            bucket: codec.encode(np.zeros(codec.shape, codec.dtype))
            for bucket, (_, codec) in self._codecs.items()
        }
        self._lock = threading.Lock()

    def _may_stay(self, slots: Slots, offsets: NDArray[np.int64]) -> bool:
        return True  # a chunk may have any offset

    def _prepare_file(self, path: Path) -> None:
        path.open("wb" if self._is_new else "ab").close()
        # New chunks begin behind the last one that has a record.
        journal = self._pixel_files[0].journal
        self._end = 0
        for records in journal.read_all(np.arange(len(journal.resumable))):
            ends = records.offsets[:, :2] + records.offsets[:, 2:]
            self._end = max(self._end, int(ends.max()))

    def _read(
        self, bucket: Bucket, pixel_file: PixelFile, offsets: tuple[int, ...]
    ) -> tuple[NDArray[Any], NDArray[Any]] | None:
        image_codec, mask_codec = self._codecs[bucket]
        image, mask = _read_chunks(pixel_file, offsets)
        try:
            return image_codec.decode(image), mask_codec.decode(mask)
        except StoreError:
            return None

    def write_many(
        self,
        slots: Slots,
        data: NDArray[np.uint8],
        starts: Sequence[int],
        masks: Mapping[int, NDArray[Any]],
    ) -> NDArray[np.int64]:
        """Write the chunks of n items of one bucket; return their `Record.offsets`."""
        bucket = self.bucket(slots, 0)
        image_codec, mask_codec = self._codecs[bucket]
        offsets = []
        for j, start in enumerate(starts):
            values = data[start : start + image_codec.size].view(bucket.dtype)
            image = image_codec.encode(values.reshape(bucket.shape))
            if j in masks:
                mask = mask_codec.encode(masks[j])
            else:
                mask = self._empty_masks[bucket]
            with self._lock:
                offset = self._end
                self._end += len(image) + len(mask)
            self._pixel_files[0].write(offset, np.frombuffer(image + mask, np.uint8))
            offsets.append((offset, offset + len(image), len(image), len(mask)))
        return np.array(offsets, np.int64)

    def direct_output(self, slots: Slots) -> tuple[int, NDArray[np.int64]]:
        """Return -1, for no file, and an array for the offsets of n items."""
        return -1, np.zeros((len(slots.row), 4), np.int64)

    def _complete(self) -> tuple[Path, str]:
        pixel_file = self._pixel_files[0]

        def chunks(offsets: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any]]:
            return _read_chunks(pixel_file, offsets)

        fingerprint = hdf5_index.write_compressed(
            self._index,
            self.shape,
            self._finished_items,
            self._totals,
            chunks,
            options=self.options,
            software=self.software,
        )
        with self._index.open("r+b") as file:
            os.fsync(file.fileno())
        return self._index, fingerprint


def _read_chunks(
    pixel_file: PixelFile, offsets: Sequence[int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the chunks of image and mask; offsets are those of a record."""
    image_offset, mask_offset, image_size, mask_size = offsets
    image = pixel_file.read(image_offset, (image_size,), np.uint8)
    return image, pixel_file.read(mask_offset, (mask_size,), np.uint8)
