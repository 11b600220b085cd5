"""SharedWriter: writes the pixels of one block into a file that others write, too.

Machines that share a file system write whole pages. If two of them change parts of the
same page, one change may be lost: systems such as NFS do not keep their caches alike.
So a block writes the pages that lie within it, and keeps what is left at both ends of
its images and of its masks, its *edges*, for `finish`, which writes them alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.store.layout import Bucket
from fastseg.store.writing.hdf5_index import PixelOffsets, StoreShape
from fastseg.store.writing.pixel_file import PixelFile
from fastseg.store.writing.pixel_writers import PlannedWriter
from fastseg.store.writing.records import Slots

# Bytes of a page, at most: those of caches of shared file systems.
SHARED_PAGE = 2**16


class SharedWriter(PlannedWriter):
    """Writes pixels to their planned offsets, but for the edges.

    edges : bytes that others must write, by their offset in the file
    """

    def __init__(
        self,
        offsets: PixelOffsets,
        shape: StoreShape,
        block: Slots,
        file: PixelFile,
        *,
        is_new: bool,
    ):
        """Begin to write a block.

        block  : the slots of all its items: consecutive rows of one bucket
        is_new : whether nobody has written to its part of the file before
        """
        super().__init__(offsets, shape, None)
        self._file = file
        self._is_new = is_new
        self.edges: dict[int, bytearray] = {}
        # Of each kind of pixels, the range of whole pages.
        self._whole: list[tuple[int, int]] = []
        bucket, first = int(block.bucket[0]), int(block.row[0])
        for kind in range(2):
            size = int(self._sizes[bucket, kind])
            start = int(self._first[bucket, kind]) + size * first
            stop = start + size * len(block.row)
            whole = -(-start // SHARED_PAGE) * SHARED_PAGE
            whole_stop = max(stop // SHARED_PAGE * SHARED_PAGE, whole)
            if whole >= stop:  # no page lies within it
                whole = whole_stop = stop
            self._whole.append((whole, whole_stop))
            for low, high in ((start, whole), (whole_stop, stop)):
                if high > low:
                    self.edges[low] = bytearray(high - low)

    def _write(
        self, slots: Slots, kind: int, buffers: Mapping[int, memoryview]
    ) -> NDArray[np.int64]:
        """Write images (kind 0) or masks (kind 1) of some items; return all offsets."""
        bucket = slots.bucket[0]
        offsets = np.empty((len(slots.row), 2), np.int64)
        offsets[:, 1] = size = self._sizes[bucket, kind]
        offsets[:, 0] = starts = self._first[bucket, kind] + size * slots.row
        whole, whole_stop = self._whole[kind]
        places: list[int] = []
        parts: list[memoryview] = []
        for j in sorted(buffers):
            start = int(starts[j])
            stop = start + len(buffers[j])
            low, high = max(start, whole), min(stop, whole_stop)
            if low < high:
                places.append(low)
                parts.append(buffers[j][low - start : high - start])
            if start < whole or stop > whole_stop:
                self._keep(start, buffers[j])
        self._file.write_all(places, parts)
        return offsets

    def _keep(self, start: int, buffer: memoryview) -> None:
        """Keep what of a buffer lies in edges."""
        stop = start + len(buffer)
        for first, edge in self.edges.items():
            low, high = max(start, first), min(stop, first + len(edge))
            if low < high:
                edge[low - first : high - first] = buffer[low - start : high - start]

    def view_images(
        self, bucket: Bucket, offsets: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return values (m,) among which images lie that this thread has written.

        As PlannedWriter does, but edges are not in the file.
        """
        first = int(offsets[:, 0].min())
        stop = int(offsets.sum(axis=1).max())
        touched = [
            (start, edge)
            for start, edge in self.edges.items()
            if start < stop and start + len(edge) > first
        ]
        if not touched:
            return super().view_images(bucket, offsets)
        data = self._file.read(first, (stop - first,), np.uint8)
        view = memoryview(data)
        for start, edge in touched:
            low, high = max(first, start), min(stop, start + len(edge))
            view[low - first : high - first] = edge[low - start : high - start]
        return data.view(bucket.dtype), offsets[:, 0] - first


def write_edges(file: PixelFile, edges: Sequence[tuple[int, bytes]]) -> None:
    """Write the edges of a block, in `finish` alone."""
    for offset, data in edges:
        file.write(offset, np.frombuffer(data, np.uint8))
