"""Write the pixels of items into the file of pixels: planned, or as chunks.

Without compression, HDF5 chooses the offsets of all pixels before the first is written,
and the file of pixels becomes the store. If it is compressed, the size of a chunk is
known only when it is made: threads append chunks in any order, and the store is written
from them at the end, item by item. So the bytes of both depend neither on threads nor
on interruptions. (HDF5 writes the name of a filter that it knows into the file. In a
process that has imported hdf5plugin, these bytes differ.)
"""

import mmap
import os
import threading
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.errors import StoreError
from fastseg.files import reserve
from fastseg.outputs import open_work
from fastseg.store import compression, layout
from fastseg.store.layout import Bucket
from fastseg.store.writing import hdf5_index
from fastseg.store.writing.hdf5_index import Content, PixelOffsets, StoreShape
from fastseg.store.writing.pixel_file import PixelFile
from fastseg.store.writing.records import Slots


class PlannedWriter:
    """Writes pixels to the offsets that HDF5 gives them.

    offsets : that HDF5 gives them
    shape   : of the store if no item fails
    slots   : of all items of the plan; None if `complete` is not called

    All slots of a call are in one bucket. Offsets of images or masks are returned in
    pairs, int64 (n, 2): offset in the file of pixels, and bytes.
    """

    compression = ""

    def __init__(self, offsets: PixelOffsets, shape: StoreShape, slots: Slots | None):
        self._shape = shape
        self._slots = slots
        self._masks = layout.mask_dtype(shape.classes)
        self._offsets = offsets
        # int64 (B, 2), of image and mask
        self._first, self._sizes = hdf5_index.offsets_and_sizes(shape, self._offsets)

    def _offsets_of(self, slots: Slots) -> NDArray[np.int64]:
        """Return the offsets of image and mask of n items, int64 (n, 2)."""
        offsets: NDArray[np.int64] = (
            self._first[slots.bucket] + self._sizes[slots.bucket] * slots.row[:, None]
        )
        return offsets

    def may_stay(self, slots: Slots, offsets: NDArray[np.int64]) -> bool:
        """Return whether items with these `Records.offsets` need not be moved.

        If there are none, the file holds only other items, and new ones would overwrite
        them.
        """
        is_same = np.array_equal(offsets[:, :2], self._offsets_of(slots))
        return len(offsets) > 0 and is_same

    def open(self, file: PixelFile, is_new: bool, end: int) -> None:
        """Begin to write to a file.

        is_new : whether no item in the file can be resumed
        end    : offset after the last pixels that can be
        """
        self._file = file
        self._is_new = is_new
        # Space on the disk for the images. Masks get none now, because few images may
        # have one.
        file.begin(is_new)
        os.ftruncate(file.handle(), self._offsets.file_size)
        for bucket, count in self._shape.counts:
            size = prod(bucket.shape) * bucket.dtype.itemsize * count
            reserve(file.handle(), self._offsets.images[bucket.name], size)

    def write_images(
        self, slots: Slots, images: Sequence[NDArray[Any]]
    ) -> NDArray[np.int64]:
        """Write images; return their offsets."""
        buffers = [memoryview(image).cast("B") for image in images]
        return self._write(slots, 0, dict(enumerate(buffers)))

    def write_masks(
        self, slots: Slots, masks: Mapping[int, NDArray[Any]]
    ) -> NDArray[np.int64]:
        """Write masks; return their offsets.

        masks : by index of the item in the slots; other items have an empty mask
        """
        buffers = {j: memoryview(mask).cast("B") for j, mask in masks.items()}
        if not self._is_new:  # a new file has holes there, which read as zeros
            for j in set(range(len(slots.row))).difference(masks):
                buffers[j] = memoryview(bytes(int(self._sizes[slots.bucket[j], 1])))
        return self._write(slots, 1, buffers)

    def _write(
        self, slots: Slots, kind: int, buffers: Mapping[int, memoryview]
    ) -> NDArray[np.int64]:
        """Write images (kind 0) or masks (kind 1) of some items; return all offsets."""
        bucket = slots.bucket[0]
        offsets = np.empty((len(slots.row), 2), np.int64)
        offsets[:, 1] = size = self._sizes[bucket, kind]
        offsets[:, 0] = starts = self._first[bucket, kind] + size * slots.row
        order = sorted(buffers)
        self._file.write_all(starts[order].tolist(), [buffers[j] for j in order])
        return offsets

    def read(
        self, file: PixelFile, bucket: Bucket, offsets: Sequence[int]
    ) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Return image and mask of an item, None if they cannot be decoded.

        offsets : its row of `Records.offsets`
        """
        image = file.read(offsets[0], bucket.shape, bucket.dtype)
        return image, file.read(offsets[1], bucket.shape, self._masks)

    def view_images(
        self, bucket: Bucket, offsets: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return values (m,) among which images lie that this thread has written.

        offsets : int64 (n, 2), as `write_images` returns them

        Also returns int64 (n,), where each image begins in the values, in bytes. It
        takes little time to map the file: what is read of it is in memory.
        """
        first = int(offsets[:, 0].min())
        start = first // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        stop = int(offsets.sum(axis=1).max())
        mapped = mmap.mmap(
            *(self._file.handle(), stop - start),
            access=mmap.ACCESS_READ,
            offset=start,
        )
        skipped = first - start
        count = (stop - first) // bucket.dtype.itemsize
        values = np.frombuffer(mapped, bucket.dtype, count, skipped)
        if not values.flags.aligned:  # small images alone
            values = values.copy()
        return values, offsets[:, 0] - first

    def complete(
        self, index: Path, shape: StoreShape, is_done: NDArray[np.bool_],
        content: Content,
    ) -> tuple[Path, str]:  # fmt: skip
        """Write the store of all items that are done; return its path and fingerprint.

        index   : path of the file that HDF5 writes
        shape   : of the store
        is_done : bool (n,), of each item of the plan
        """
        assert self._slots is not None
        final, fingerprint = hdf5_index.write_index(index, shape, content)
        if shape != self._shape:  # items have failed: copy the others without gaps
            path = index
            for number, (bucket, _) in enumerate(self._shape.counts):
                rows = self._slots.row[(self._slots.bucket == number) & is_done]
                if len(rows):
                    targets = final.images[bucket.name], final.masks[bucket.name]
                    self._copy_rows(number, rows, index, targets)
        else:
            path = self._file.path
            moved = [
                name
                for name in ("images", "masks")
                if getattr(final, name) != getattr(self._offsets, name)
            ]
            assert not moved, f"HDF5 has moved the {moved}"
            with os.fdopen(open_work(path), "r+b") as output:
                hdf5_index.merge_index(index, output, shape, final)
        _sync(path)
        return path, fingerprint

    def _copy_rows(
        self, number: int, rows: NDArray[np.int64], index: Path, targets: Sequence[int]
    ) -> None:
        """Copy images and masks of a bucket into the index, without gaps.

        number  : of the bucket
        rows    : int64 (n,), ascending, that are copied
        targets : offsets in the index of the first image and of the first mask
        """
        # Neighbouring rows are copied together.
        blocks = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
        with (
            os.fdopen(open_work(self._file.path), "rb") as pixels,
            os.fdopen(open_work(index), "r+b") as output,
        ):
            for kind, target in enumerate(targets):
                size = int(self._sizes[number, kind])
                end = target
                for block in blocks:
                    start = int(self._first[number, kind] + block[0] * size)
                    length = len(block) * size
                    hdf5_index.copy_bytes(pixels, start, output, end, length)
                    end += length


class ChunkWriter:
    """Appends compressed chunks to the file of pixels; used like PlannedWriter."""

    compression = compression.NAME

    def __init__(self, shape: StoreShape):
        masks = layout.mask_dtype(shape.classes)
        self._codecs = [compression.codecs(bucket, masks) for bucket, _ in shape.counts]
        self._numbers = {bucket: k for k, (bucket, _) in enumerate(shape.counts)}
        self._empty_masks = [
            codec.encode(np.zeros(codec.shape, codec.dtype))
            for _, codec in self._codecs
        ]
        self._lock = threading.Lock()

    def may_stay(self, slots: Slots, offsets: NDArray[np.int64]) -> bool:
        """Return True: a chunk may have any offset."""
        return True

    def open(self, file: PixelFile, is_new: bool, end: int) -> None:
        """Begin to write to a file, from offset `end` on."""
        self._file = file
        self._end = end
        file.begin(is_new)

    def write_images(
        self, slots: Slots, images: Sequence[NDArray[Any]]
    ) -> NDArray[np.int64]:
        """Write images; return their offsets."""
        codec, _ = self._codecs[slots.bucket[0]]
        return self._append(map(codec.encode, images))

    def write_masks(
        self, slots: Slots, masks: Mapping[int, NDArray[Any]]
    ) -> NDArray[np.int64]:
        """Write masks; return their offsets."""
        _, codec = self._codecs[slots.bucket[0]]
        empty = self._empty_masks[slots.bucket[0]]
        items = range(len(slots.row))
        return self._append(
            codec.encode(masks[j]) if j in masks else empty for j in items
        )

    def _append(self, chunks: Any) -> NDArray[np.int64]:
        offsets = []
        for chunk in chunks:
            with self._lock:
                offset = self._end
                self._end += len(chunk)
            self._file.write(offset, np.frombuffer(chunk, np.uint8))
            offsets.append((offset, len(chunk)))
        return np.array(offsets, np.int64).reshape(-1, 2)

    def read(
        self, file: PixelFile, bucket: Bucket, offsets: Sequence[int]
    ) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Return image and mask of an item, None if they cannot be decoded."""
        image_codec, mask_codec = self._codecs[self._numbers[bucket]]
        image, mask, image_size, mask_size = offsets
        try:
            return (
                image_codec.decode(file.read(image, (image_size,), np.uint8)),
                mask_codec.decode(file.read(mask, (mask_size,), np.uint8)),
            )
        except StoreError:
            return None

    def view_images(
        self, bucket: Bucket, offsets: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return the values of images one behind the other, and where each begins."""
        codec, _ = self._codecs[self._numbers[bucket]]
        chunks = (self._file.read(k, (n,), np.uint8) for k, n in offsets.tolist())
        images = np.stack([codec.decode(chunk) for chunk in chunks])
        return images.reshape(-1), np.arange(len(images)) * images[0].nbytes

    def complete(
        self, index: Path, shape: StoreShape, is_done: NDArray[np.bool_],
        content: Content,
    ) -> tuple[Path, str]:  # fmt: skip
        """Write the store of the items that are done; return path and fingerprint."""

        def read(offset: int, size: int) -> NDArray[np.uint8]:
            return self._file.read(offset, (size,), np.uint8)

        fingerprint = hdf5_index.write_compressed(index, shape, content, read)
        _sync(index)
        return index, fingerprint


PixelWriter = PlannedWriter | ChunkWriter


def _sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    with os.fdopen(open_work(path), "r+b") as file:
        os.fsync(file.fileno())
