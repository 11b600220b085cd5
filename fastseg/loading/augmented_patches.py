"""Patches of volumes with augmentation."""

from collections.abc import Mapping
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg._kernels.augment import intensity, volume
from fastseg._kernels.augment.coordinates import RIM
from fastseg._kernels.augment.noise import Keys
from fastseg._kernels.native.entries import prepare
from fastseg.augment import as_compose
from fastseg.augment.mapping import Mappings
from fastseg.errors import OptionError
from fastseg.loading.augmented import AugmentedPreprocessing, DrawnParameters
from fastseg.loading.batches import Batch
from fastseg.loading.format import BatchFormat
from fastseg.loading.patch_preprocessing import PatchPreprocessing
from fastseg.loading.placement import Placement, volumes_of
from fastseg.loading.preprocessing import (
    Between,
    EntrySlices,
    Preprocessing,
    used_buckets,
)
from fastseg.store.reader import Store

# A slice that is this near, in units of the distance between slices, is not
# interpolated: it comes from rounding.
SAME_SLICE = 1e-6


class AugmentedPatchPreprocessing(PatchPreprocessing, AugmentedPreprocessing):
    """A PatchPreprocessing that augments patches.

    Geometric transforms happen about the patch's centre, to all of its slices alike.
    Patches whose slices cross those of their volume are resampled in space, the others
    in the plane of the slices. Raises OptionError for transforms that change the size.
    """

    _in_space = True

    def __init__(
        self,
        store: Store,
        volumes: NDArray[np.int64],
        format: BatchFormat,
        placement: Placement,
        *,
        seed: int = 0,
    ):
        if format.dtype != "float32":
            raise OptionError(
                f"dtype is {format.dtype!r}, but patches at another spacing than that "
                "of their volume are 'float32'"
            )
        steps = as_compose(() if format.augment is None else format.augment)
        for step in steps:
            if step.output_size() is not None:
                raise OptionError(
                    f"augment has {type(step).__name__}, but patches have the size "
                    f"{placement.patch}: leave it out"
                )
        super().__init__(store, volumes, format, placement, seed=seed)
        # Whether slices may lie between those of the volume.
        self._interpolates = bool(
            (self.grids.factors[volumes, 0] != 1).any()
            or any(step.in_space for step in steps)
        )

    def assemble(
        self,
        image: NDArray[Any],
        mask: NDArray[Any],
        entries: NDArray[np.int64],
        corners: NDArray[np.int64],
        epoch: int,
        *,
        with_params: bool = False,
    ) -> Batch:
        """Return the batch of arrays that `fill` has written in an epoch."""
        arrays = image, mask, entries, corners
        batch = PatchPreprocessing.assemble(self, *arrays, epoch)
        if with_params:
            params = self.describe(entries, epoch)
            batch.params = {**params, "corner": corners.tolist()}
        return batch

    def locate_again(
        self, entries: NDArray[np.int64], params: Mapping[str, Any]
    ) -> EntrySlices:
        """Return the slices that the patches of a batch with these params show."""
        corners = _corners(params, len(entries))
        depth = self.placement.patch[0]
        return self.locate_parts(entries, volumes_of(entries), corners, depth)

    def begin_mappings(self, shown: EntrySlices, size: tuple[int, ...]) -> Mappings:
        """Return the mappings of patches: what follows happens to the patch."""
        volumes = self.store.items["volume"][shown.samples]
        spacing_mm = self.grids.spacing_mm[volumes]
        between_mm, in_plane = spacing_mm[:, 0], spacing_mm[:, 1:]
        matrices = self.grids.to_stored[volumes]
        # Samples that are shown only to check transforms have no corner.
        if shown.corners is not None:
            matrices[:, :3, 3] += self.grids.factors[volumes] * shown.corners
        sizes = np.full((len(volumes), 2), size)
        boxes = self._boxes_of(shown.samples)
        mappings = Mappings(shown.entries, sizes, in_plane, boxes)
        mappings.begin_patches(shown.slices.shape[1], matrices, between_mm, in_plane)
        return mappings

    def _move_slices(
        self,
        shown: EntrySlices,
        mappings: Mappings,
        drawn: DrawnParameters | None = None,
    ) -> EntrySlices:
        """Return the slices that patches show: the nearest, and those around them.

        Those of tilted patches are not used.
        """
        volumes = self.store.items["volume"][shown.samples]
        first, count = (column[:, None] for column in self.positions.slices_of(volumes))
        step, start = mappings.in_space[:, 0, 0], mappings.in_space[:, 0, 3]
        at = step[:, None] * np.arange(mappings.depth) + start[:, None]
        is_beyond = (at < -RIM) | (at > count - 1 + RIM)
        at = np.clip(at, 0, count - 1)
        nearest = np.floor(at + 0.5)
        slices = first + nearest.astype(np.int64)
        shown = shown._replace(slices=slices, is_beyond=is_beyond)
        if not self._interpolates:
            return shown
        at = np.where(np.abs(at - nearest) < SAME_SLICE, nearest, at)
        before = np.floor(at).astype(np.int64)
        weights = np.where(is_beyond, 0, at - before).astype(np.float32)
        both = np.stack([before, before + (weights > 0)], axis=2)
        return shown._replace(between=Between(first[:, :, None] + both, weights))

    def _warp_tilted(
        self,
        shown: EntrySlices,
        mappings: Mappings,
        steps: intensity.Steps,
        keys: Keys,
        image: NDArray[Any],
        bits: NDArray[Any],
    ) -> int:
        """Resample tilted patches in space, one after the other."""
        took = 0
        volumes = self.store.items["volume"][shown.samples]
        for j in np.flatnonzero(mappings.is_tilted).tolist():
            slices = self._slices_across(shown, mappings, j, image.shape[1:])
            matrix = mappings.in_space[j, :3].copy()
            matrix[0, 3] -= slices[0] - self.positions.first[volumes[j]]
            one = slice(j, j + 1)
            for images, masks, rows, _ in self.store.stacks(slices[None]):
                if rows[0, 0] < 0:  # this stack has no slice of the volume
                    continue
                began = perf_counter_ns()
                part = volume.Volumes(rows[:, 0].copy(), np.array([len(slices)]))
                volume.augment_volumes(
                    images,
                    part,
                    matrix[None],
                    self._sampling.border,
                    volume.SliceScalings(
                        self._shift[slices],
                        self._gain[slices],
                        np.zeros(1, np.int64),
                        self._pad[slices[:1]],
                        *map(float, self._limits),
                    ),
                    intensity.Steps(steps.codes[one], steps.params[one], steps.stream),
                    Keys(keys.key, keys.samples[one]),
                    self.streams,
                    image[one],
                )
                took += perf_counter_ns() - began
                volume.warp_volume_masks(masks, part, matrix[None], bits[one])
        return took

    def _slices_across(
        self, shown: EntrySlices, mappings: Mappings, j: int, shape: tuple[int, ...]
    ) -> NDArray[np.int64]:
        """Return the slices that tilted patch j reaches, and one on each side."""
        volume = self.store.items["volume"][shown.samples[j]]
        first, count = map(int, self.positions.slices_of(volume))
        low, high = _extent(mappings.in_space[j, 0], shape)
        start = int(np.clip(np.floor(low) - 1, 0, count - 1))
        stop = int(np.clip(np.ceil(high) + 2, start + 1, count))
        return np.arange(first + start, first + stop)

    def _fill_volume(
        self, shown: EntrySlices, image: NDArray[Any], mask: NDArray[Any]
    ) -> None:
        """Write image and mask of a whole volume, which no transform changes."""
        if self.grids.are_stored(volumes_of(shown.entries)).all():
            super()._fill_volume(shown, image, mask)
            return
        mappings = self.begin_mappings(shown, image.shape[-2:])
        steps = intensity.Steps(
            np.empty((1, 0), np.int64), np.empty((1, 0, intensity.PARAMETERS)), 0
        )
        moved = self._move_slices(shown, mappings)
        keys = Keys(0, np.zeros(1, np.uint64))
        self._warp(moved, mappings, steps, keys, image[:, 0], mask)

    def read_ahead(self, entries: NDArray[np.int64], epoch: int) -> None:
        """Ask the system to read the rows that patches need, without waiting."""
        least, greatest = self.positions.bounds(entries, epoch)
        volumes, shape = volumes_of(entries), self.placement.patch
        shown = self.locate_parts(entries, volumes, least, shape[0])
        mappings = self.find_mappings(shown, self.draw(entries, epoch))
        moved = self._move_slices(shown, mappings)
        low, high = _extent(mappings.in_space[:, 1], shape)
        high += self.grids.factors[volumes, 1] * (greatest - least)[:, 1]
        # As far as the image may be bent, and what is interpolated.
        bent = np.abs(mappings.inner[:, 1, :2]).sum(axis=1) * mappings.max_displacement
        # There is always a row, if a patch lies beyond the image.
        last = self.grids.stored[volumes, 1] - 1
        first = np.clip(np.floor(low - bent) - 1, 0, last)
        end = np.clip(np.ceil(high + bent) + 2, first + 1, last + 1)
        slices = []
        for j, is_tilted in enumerate(mappings.is_tilted.tolist()):
            if is_tilted:
                slices.append(self._slices_across(shown, mappings, j, shape))
                continue
            shows = (
                moved.slices[j] if moved.between is None else moved.between.slices[j]
            )
            slices.append(shows[~moved.is_beyond[j]].reshape(-1))
        counts = [len(some) for some in slices]
        ends = np.column_stack([first, end]).astype(np.int64)
        rows = np.repeat(ends, counts, axis=0)
        self.store.read_ahead(np.concatenate(slices), rows)

    def _check_steps(self, indices: NDArray[np.int64]) -> None:
        """Raise OptionError if transforms do not fit a shape or spacing of a volume."""
        super()._check_steps(indices)
        first = self.store.tables["volumes"]["first"][self._volumes]
        shown = Preprocessing.locate(self, first, 0)
        self.find_mappings(shown, self.draw(first, 0))

    def _prepare_kernels(self, indices: NDArray[np.int64]) -> None:
        """Compile what batches are going to need, if it is not there."""
        super()._prepare_kernels(indices)
        if not any(step.tilts for step in self.compose):
            return
        wanted: list[tuple[Any, dict[str, Any]]] = [
            (volume.augment_volumes, {"T": bucket.dtype.name})
            for bucket in used_buckets(self.store, indices)
        ]
        masks = {"T": self._bits_dtype.name}
        prepare([*wanted, (volume.warp_volume_masks, masks)])


def _extent(row: NDArray[np.float64], shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Return the least and greatest coordinate that patches reach along an axis, (b,).

    row   : of matrices, (b, 4), act on voxels (z, y, x, 1) of the patch
    shape : of the patch
    """
    change = row[..., :3] * (np.array(shape) - 1)
    least, greatest = np.minimum(change, 0), np.maximum(change, 0)
    return row[..., 3] + least.sum(axis=-1), row[..., 3] + greatest.sum(axis=-1)


def _corners(params: Mapping[str, Any], count: int) -> NDArray[np.int64]:
    """Return the corners in params, int64 (count, 3), or raise OptionError."""
    try:
        return np.array(params["corner"], np.int64).reshape(count, 3)
    except (KeyError, TypeError, ValueError, OverflowError) as exc:
        raise OptionError(
            f"params are invalid ({exc!r}), expected those of a batch of patches"
        ) from None
