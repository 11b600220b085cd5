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
from fastseg.loading.preprocessing import Between, Shown, used_buckets
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
        steps = as_compose(format.augment)
        # Whether slices may lie between those of the volume.
        self._interpolates = any(step.in_space for step in steps)
        for step in steps:
            if step.output_size() is not None:
                raise OptionError(
                    f"augment has {type(step).__name__}, but patches have the size "
                    f"{placement.patch}: leave it out"
                )
        super().__init__(store, volumes, format, placement, seed=seed)

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

    def show_again(
        self, entries: NDArray[np.int64], params: Mapping[str, Any]
    ) -> Shown:
        """Return the slices that the patches of a batch with these params show."""
        corners = _corners(params, len(entries))
        depth = self.placement.patch[0]
        return self.show_parts(entries, volumes_of(entries), corners, depth)

    def _place(self, mappings: Mappings, shown: Shown) -> None:
        """Begin the mappings with the patch: what follows happens to it."""
        volumes = self.store.items["volume"][shown.samples]
        between_mm = self.store.tables["volumes"]["spacing_mm"][volumes]
        # Samples that are shown only to check transforms have no corner.
        corners = shown.corners
        if corners is None:
            corners = np.zeros((len(volumes), 3), np.int64)
        start, rows, columns = corners.T
        mappings.set_depth(shown.slices.shape[1], between_mm, start)
        mappings.set_window(columns, rows, self.size)

    def _move_slices(
        self, shown: Shown, mappings: Mappings, drawn: DrawnParameters
    ) -> Shown:
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
        both = np.stack([before, np.minimum(before + 1, count - 1)], axis=2)
        weights = np.where(is_beyond, 0, at - before).astype(np.float32)
        return shown._replace(between=Between(first[:, :, None] + both, weights))

    def _warp_tilted(
        self,
        shown: Shown,
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
            first, count = map(int, self.positions.slices_of(volumes[j]))
            matrix = mappings.in_space[j, :3].copy()
            low, high = _range_of(matrix[0], image.shape[1:])
            start = int(np.clip(np.floor(low) - 1, 0, count - 1))
            stop = int(np.clip(np.ceil(high) + 2, start + 1, count))
            matrix[0, 3] -= start
            slices = np.arange(first + start, first + stop)
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


def _range_of(
    row: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[np.float64, np.float64]:
    """Return the least and greatest slice of a volume that a patch reaches.

    row   : of a matrix, (4,), acts on voxels (z, y, x, 1) of the patch
    shape : of the patch
    """
    change = row[:3] * (np.array(shape) - 1)
    return row[3] + np.minimum(change, 0).sum(), row[3] + np.maximum(change, 0).sum()


def _corners(params: Mapping[str, Any], count: int) -> NDArray[np.int64]:
    """Return the corners in params, int64 (count, 3), or raise OptionError."""
    try:
        return np.array(params["corner"], np.int64).reshape(count, 3)
    except (KeyError, TypeError, ValueError, OverflowError) as exc:
        raise OptionError(
            f"params are invalid ({exc!r}), expected those of a batch of patches"
        ) from None
