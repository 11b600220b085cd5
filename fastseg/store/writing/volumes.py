"""Finds the volumes of a store: which of its items are slices of which volume."""

from array import array
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg import geometry
from fastseg.store.writing.records import Records

# Volumes are searched among so many items, or more if a series has more.
SEARCHED_AT_ONCE = 2**12
# The column `bucket` of items has 16 bits.
MAX_BUCKETS = 2**16
# The last column of `_geometry`.
KIND = 13


class VolumeColumns(NamedTuple):
    """Columns of /volumes, see `layout`; the others are those of the first item."""

    first: NDArray[np.int64]
    slices: NDArray[np.int64]
    spacing_mm: NDArray[np.float64]

    def between(self, start: int, stop: int) -> "VolumeColumns":
        """Return those whose first item is one of `start` to `stop - 1`."""
        some = slice(*np.searchsorted(self.first, [start, stop]).tolist())
        return VolumeColumns(self.first[some], self.slices[some], self.spacing_mm[some])


class VolumeFinder:
    """Finds volumes among items that are added in their order.

    Consecutive items of one patient and SeriesInstanceUID are a series. Of images
    without a SeriesInstanceUID, a file is a series. It holds the geometry of the items
    of one series, or of SEARCHED_AT_ONCE.
    """

    def __init__(self) -> None:
        # Items that were added, and those of them whose volumes have been found.
        self._items = 0
        self._searched = 0
        self._names: tuple[bytes, ...] = ()
        self._series = 0
        # Blocks of `_geometry`, of the items that have not been searched.
        self._blocks: list[NDArray[np.float64]] = []
        self._positions = [np.empty(0)]
        self._first = array("q")
        self._slices = array("q")
        self._spacing = array("d")

    def add(self, records: Records, bucket: NDArray[np.int64]) -> None:
        """Add the next items.

        bucket : int64 (n,), index of the bucket of each
        """
        series = records.series
        if not series.all():
            files = np.cumsum(records.file_counts) - records.file_counts
            series = np.where(series == b"", records.path[files], series)
        columns = records.patient, series
        is_new = np.any([column[1:] != column[:-1] for column in columns], axis=0)
        rows = _geometry(records.meta, bucket)
        for start, stop in pairwise(
            [0, *(np.flatnonzero(is_new) + 1).tolist(), records.items]
        ):
            names = tuple(bytes(column[start]) for column in columns)
            if names != self._names:
                if self._items - self._searched >= SEARCHED_AT_ONCE:
                    self._search()
                self._names = names
                self._series += 1
            rows[start:stop, KIND] += self._series * MAX_BUCKETS
            self._blocks.append(rows[start:stop])
            self._items += stop - start

    def finish(self) -> tuple[VolumeColumns, NDArray[np.float64]]:
        """Return the volumes of all items that were added, and float64 (n,), mm.

        The latter are the positions of the items along the normals of their series.
        """
        self._search()
        volumes = VolumeColumns(
            np.array(self._first, np.int64),
            np.array(self._slices, np.int64),
            np.array(self._spacing, np.float64),
        )
        return volumes, np.concatenate(self._positions)

    def _search(self) -> None:
        """Find the volumes of the items that have not been searched."""
        blocks, self._blocks = self._blocks, []
        before, self._searched = self._searched, self._items
        if not blocks:
            return
        columns = np.concatenate(blocks)
        kinds = columns[:, KIND].astype(np.int64)
        self._positions.append(
            geometry.positions_along_normal(
                columns[:, :3], columns[:, 3:9], kinds // MAX_BUCKETS
            )
        )
        # The images of all series in one call, which takes as long as a call for one:
        # no volume has images of several kinds, and each series has kinds of its own.
        found = geometry.find_volumes(
            origins=columns[:, :3],
            directions=columns[:, 3:9],
            spacings_mm=columns[:, 9:11],
            thicknesses_mm=columns[:, 11],
            times=columns[:, 12],
            kinds=kinds,
        )
        volumes = []
        for members, spacing in zip(found.members, found.spacings_mm, strict=True):
            first, slices = int(members[0]), len(members)
            # Elsewhere, no view of the pixels would be the volume.
            if np.array_equal(members, np.arange(first, first + slices)):
                volumes.append((before + first, slices, spacing))
        for first, slices, spacing in sorted(volumes):
            self._first.append(first)
            self._slices.append(slices)
            self._spacing.append(spacing)


def _geometry(meta: NDArray[Any], bucket: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what decides about volumes as one array, float64 (n, 14).

    Its columns are origin (3), directions (6), spacing (2), slice thickness, time, and
    KIND, the index of the bucket.
    """
    names = "origin_mm", "directions", "spacing_mm", "slice_thickness_mm", "time"
    return np.column_stack([*(meta[name] for name in names), bucket])
