"""Preprocessing of patches: from the slices of volumes to blocks of voxels."""

import math
from dataclasses import replace
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg._kernels.images.gather import ELSEWHERE, OUTSIDE, Slices
from fastseg.loading.batches import Batch
from fastseg.loading.format import MINIMUM, BatchFormat
from fastseg.loading.normalization import minima
from fastseg.loading.placement import Placement, Positions, volumes_of
from fastseg.loading.preprocessing import KERNELS, Preprocessing, StageTimes
from fastseg.store.reader import Store


class PatchPreprocessing(Preprocessing):
    """Makes images and masks of patches, for a PatchLoader.

    volumes   : int64 (v,), indices of the volumes that patches are cut from
    format    : what values and labels become; its `size` has no effect
    placement : where the patches lie
    seed      : 0 to 2**64 - 1

    image_shape, (1, d, h, w), and mask_shape, (d, h, w) or with a channel for each
    class (K, d, h, w), are those of one patch. An entry is a volume and the number of a
    patch, see `placement`. A class that is outlined on any slice of a volume counts as
    outlined on all of them. Raises what Preprocessing and Positions raise.
    """

    noun = "volume"

    def __init__(
        self,
        store: Store,
        volumes: NDArray[np.int64],
        format: BatchFormat,
        placement: Placement,
        *,
        seed: int = 0,
    ):
        self.placement = placement
        samples, first = _samples_of(store, volumes)
        labelled = np.bitwise_or.reduceat(store.items["labelled"][samples], first)
        # Of each volume of the store, 0 for those that are not chosen.
        self._outlined = np.zeros(len(store.volumes), np.uint64)
        self._outlined[volumes] = labelled
        super().__init__(store, samples, replace(format, size=placement.patch[1:]))
        channels = self.mask_shape[:-2]
        self.image_shape = (1, *placement.patch)
        self.mask_shape = (*channels, *placement.patch)
        self.sample_bytes = (
            math.prod(self.image_shape) * self.image_dtype.itemsize
            + math.prod(self.mask_shape) * self.mask_dtype.itemsize
        )
        if format.pad_value == MINIMUM:
            # One value around a whole patch: that of the volume's darkest slice.
            items = store.items
            darkest = items["slope"] * minima(store) + items["intercept"]
            for part in np.split(samples, first[1:]):
                self._pad[part] = self._pad[part[np.argmin(darkest[part])]]
        candidate = format.masks if format.masks in store.classes else None
        self.positions = Positions(store, volumes, placement, candidate, seed)

    def fill(
        self,
        entries: NDArray[np.int64],
        image: NDArray[Any],
        mask: NDArray[Any],
        epoch: int = 0,
    ) -> StageTimes:
        """Write images and masks of the patches of an epoch.

        entries : int64 (b,)
        image   : of image_dtype (b, *image_shape), every cell is written
        mask    : of mask_dtype (b, *mask_shape), every cell is written

        Raises StoreError if the file has changed or a slice is damaged.
        """
        corners = self.positions.corners(entries, epoch)
        return self._gather(volumes_of(entries), corners, image, mask)

    def whole(self, volume: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return image (1, D, H, W) and mask of a whole volume, as patches show it."""
        shape = tuple(self.positions.shapes[volume].tolist())
        channels = self.mask_shape[:-3]
        image = np.empty((1, 1, *shape), self.image_dtype)
        mask = np.empty((1, *channels, *shape), self.mask_dtype)
        corner = np.zeros((1, 3), np.int64)
        self._gather(np.array([volume]), corner, image, mask)
        return image[0], mask[0]

    def _gather(
        self,
        volumes: NDArray[np.int64],
        corners: NDArray[np.int64],
        image: NDArray[Any],
        mask: NDArray[Any],
    ) -> StageTimes:
        """Write the parts of volumes from their corners on, int64 (b, 3).

        image : (b, 1, d, h, w)
        mask  : (b, d, h, w) or (b, K, d, h, w)
        """
        started = perf_counter_ns()
        self.store.check()
        depth = image.shape[2]
        first, count = self.positions.slices_of(volumes)
        begin, end = _slices_needed(corners[:, 0], depth, count)
        in_volume = corners[:, :1] + np.arange(depth)
        is_inside = (in_volume >= 0) & (in_volume < count[:, None])
        steps = in_volume - begin[:, None]
        samples = first[:, None] + np.clip(in_volume, 0, count[:, None] - 1)
        in_plane = np.repeat(corners[:, 1:], depth, axis=0)
        missing = np.repeat(self._unlabelled(volumes), depth)
        kernel = KERNELS[self.format.dtype]
        if self.format.dtype == "float16":
            image = image.view(np.uint16)
        read = copied = 0
        for images, masks, rows, subset in self.store.runs(first + begin, first + end):
            located = perf_counter_ns()
            lines = np.where(is_inside[subset], rows[:, None] + steps[subset], OUTSIDE)
            lines[rows < 0] = ELSEWHERE
            start, stop, _ = subset.indices(len(volumes))
            part = slice(start * depth, stop * depth)
            slices = Slices(lines.ravel(), in_plane[part])
            kernel(
                images,
                masks,
                slices,
                slices,
                self._scaling(samples[subset].ravel()),
                self._classes,
                missing[part],
                self.streams,
                image[subset].reshape(-1, *image.shape[3:]),
                self._view_masks(mask[subset]),
            )
            read += located - started
            started = perf_counter_ns()
            copied += started - located
        return StageTimes(read, copied)

    def assemble(
        self,
        image: NDArray[Any],
        mask: NDArray[Any],
        entries: NDArray[np.int64],
        epoch: int,
        *,
        with_params: bool = False,
    ) -> Batch:
        """Return the batch of arrays that `fill` has written, with the corners."""
        corner = self.positions.corners(entries, epoch)
        return Batch(image, mask, volumes_of(entries), corner=corner)

    def read_ahead(self, entries: NDArray[np.int64], epoch: int) -> None:
        """Ask the system to read the slices that patches need, without waiting."""
        first, count = self.positions.slices_of(volumes_of(entries))
        corners = self.positions.corners(entries, epoch)
        depth = self.placement.patch[0]
        begin, end = _slices_needed(corners[:, 0], depth, count)
        for start, stop in zip(first + begin, first + end, strict=True):
            self.store.read_ahead(np.arange(start, stop))

    def identity(self) -> dict[str, Any]:
        """Return the options of what a patch becomes, as values for JSON."""
        return {**super().identity(), **self.placement.as_dict()}

    def index_of(self, entry: int) -> int:
        """Return the volume under which a loader lists what it has skipped."""
        return entry % 2**32

    def describe_entry(self, entry: int) -> str:
        """Return a patch's volume, patient and store, for an error's note."""
        volume = self.index_of(entry)
        name = f"a patch of volume {volume}"
        if self.store.is_unchanged:  # else the mapped columns cannot be read
            name += f" (patient {self.store.volumes[volume].patient})"
        return f"{name} of {self.store.path}"

    def _view_masks(self, mask: NDArray[Any]) -> NDArray[Any]:
        """Return the view that kernels fill: (b * d, h, w), or (b, c, d, h, w)."""
        if self.format.masks == "onehot":
            return mask
        if self.format.masks in self.store.classes:
            return mask[:, None]
        return mask.reshape(-1, *mask.shape[2:])

    def _units(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return what classes are outlined on: the volumes of samples."""
        volumes = self.store.items["volume"][samples]
        return volumes[np.flatnonzero(np.diff(volumes, prepend=-1))]

    def _labelled(self, units: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return bit fields of the classes that were outlined, uint64 (b,)."""
        return self._outlined[units]


def _samples_of(
    store: Store, volumes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the slices of volumes, and the index of the first one of each.

    volumes : int64 (v,)
    """
    table = store.tables["volumes"]
    lengths = table["slices"][volumes]
    first = np.cumsum(lengths) - lengths
    samples = np.repeat(table["first"][volumes] - first, lengths)
    return samples + np.arange(len(samples)), first


def _slices_needed(
    first: NDArray[np.int64], depth: int, count: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the slices [begin, end) of volumes that patches show.

    first : int64 (b,), the slice of the volume that is the first of each patch
    count : int64 (b,), slices of each volume
    """
    return np.maximum(first, 0), np.minimum(first + depth, count)
