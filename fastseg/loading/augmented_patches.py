"""Patches of volumes with augmentation."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.augment import as_compose
from fastseg.errors import OptionError
from fastseg.loading.augmented import AugmentedPreprocessing
from fastseg.loading.batches import Batch
from fastseg.loading.format import BatchFormat
from fastseg.loading.patch_preprocessing import PatchPreprocessing
from fastseg.loading.placement import Placement, volumes_of
from fastseg.loading.preprocessing import Shown
from fastseg.store.reader import Store


class AugmentedPatchPreprocessing(PatchPreprocessing, AugmentedPreprocessing):
    """A PatchPreprocessing that augments patches.

    Geometric transforms happen in the plane of the slices, about the patch's centre,
    to all of its slices alike. Raises OptionError for transforms that change the size.
    """

    def __init__(
        self,
        store: Store,
        volumes: NDArray[np.int64],
        format: BatchFormat,
        placement: Placement,
        *,
        seed: int = 0,
    ):
        for step in as_compose(format.augment):
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


def _corners(params: Mapping[str, Any], count: int) -> NDArray[np.int64]:
    """Return the corners in params, int64 (count, 3), or raise OptionError."""
    try:
        return np.array(params["corner"], np.int64).reshape(count, 3)
    except (KeyError, TypeError, ValueError, OverflowError) as exc:
        raise OptionError(
            f"params are invalid ({exc!r}), expected those of a batch of patches"
        ) from None
