"""Preprocessing of patches: from the slices of volumes to blocks of voxels."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.errors import OptionError
from fastseg.loading.batches import Batch
from fastseg.loading.format import MINIMUM, BatchFormat
from fastseg.loading.grids import find_grids
from fastseg.loading.normalization import minima
from fastseg.loading.placement import VOLUME_MASK, Placement, Positions, volumes_of
from fastseg.loading.preprocessing import EntrySlices, Preprocessing
from fastseg.reprs import many
from fastseg.store.reader import Store
from fastseg.store.volumes import samples_of_volumes


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

    label_unit = "volume"
    remedy = (
        "choose volumes that have them all (store.volumes[k].classes), as "
        "store.select(volumes=[...]) does"
    )

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
        self.grids = find_grids(store, volumes, placement.spacing)
        self._volumes = volumes
        samples, first = samples_of_volumes(store, volumes)
        labelled = np.bitwise_or.reduceat(store.items["labelled"][samples], first)
        # Of each volume of the store, 0 for those that are not chosen.
        self._outlined = np.zeros(len(store.volumes), np.uint64)
        self._outlined[volumes] = labelled
        in_plane = replace(format, size=placement.patch[1:])
        super().__init__(store, samples, in_plane, seed=seed)
        self._all_masks = self._pads = True
        channels = self.mask_shape[:-2]
        self.image_shape = (1, *placement.patch)
        self.mask_shape = (*channels, *placement.patch)
        if format.pad_value == MINIMUM:
            # One value around a whole patch: that of the volume's darkest slice.
            items = store.items
            darkest = items["slope"] * minima(store) + items["intercept"]
            for part in np.split(samples, first[1:]):
                self._pad[part] = self._pad[part[np.argmin(darkest[part])]]
        candidate = format.masks if format.masks in store.classes else None
        self.positions = Positions(
            store, volumes, self.grids, placement, candidate, seed
        )

    def locate(self, entries: NDArray[np.int64], epoch: int) -> EntrySlices:
        """Return the slices that patches show in an epoch."""
        corners = self.positions.corners(entries, epoch)
        depth = self.placement.patch[0]
        return self.locate_parts(entries, volumes_of(entries), corners, depth)

    def check_files(self, entries: NDArray[np.int64]) -> None:
        """Raise StoreError if the files of the volumes of patches have changed."""
        self.store.check_files(self.positions.first[volumes_of(entries)])

    def make_volume(self, volume: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return image (1, D, H, W) and mask of a whole volume, as patches show it.

        It is one of those that were chosen, and is not augmented.
        """
        shape = tuple(self.grids.shapes[volume].tolist())
        image = np.empty((1, 1, *shape), self.image_dtype)
        mask = np.empty((1, *self.mask_shape[:-3], *shape), self.mask_dtype)
        volumes, corner = np.array([volume]), np.zeros((1, 3), np.int64)
        self.store.check()
        shown = self.locate_parts(volumes, volumes, corner, shape[0])
        self._fill_volume(shown, image, mask)
        self.store.check()  # it may have changed while it was read
        return image[0], mask[0]

    def _fill_volume(
        self, shown: EntrySlices, image: NDArray[Any], mask: NDArray[Any]
    ) -> None:
        """Write image and mask of a whole volume."""
        self._copy(shown, image, mask)

    def locate_parts(
        self,
        entries: NDArray[np.int64],
        volumes: NDArray[np.int64],
        corners: NDArray[np.int64],
        depth: int,
    ) -> EntrySlices:
        """Return so many slices of volumes, from corners on, int64 (b, 3)."""
        first, _ = self.positions.slices_of(volumes)
        wanted = corners[:, :1] + np.arange(depth)
        is_beyond = (wanted < 0) | (wanted >= self.grids.shapes[volumes, :1])
        found = self.grids.nearest_slices(volumes, wanted)
        return EntrySlices(entries, first[:, None] + found, is_beyond, corners)

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
        """Return the batch of arrays that `fill` has written, with the corners."""
        return Batch(image, mask, volumes_of(entries), corner=corners)

    def check_entries(self, entries: NDArray[np.int64]) -> None:
        """Raise OptionError for patches of volumes that were not chosen.

        What is labelled on those, and how they are scaled, is not known here.
        """
        chosen = set(self._volumes.tolist())
        for volume in volumes_of(entries).tolist():
            if volume not in chosen:
                raise OptionError(
                    f"params hold patches of volume {volume}, which is none of the "
                    f"{many(len(chosen), 'volume')} of this loader"
                )

    def read_ahead(self, entries: NDArray[np.int64], epoch: int) -> None:
        """Ask the system to read the rows that patches need, without waiting."""
        least, greatest = self.positions.bounds(entries, epoch)
        depth, height, _ = self.placement.patch
        shown = self.locate_parts(entries, volumes_of(entries), least, depth)
        is_read = ~shown.is_beyond
        first, end = least[:, 1], greatest[:, 1] + height
        rows = np.repeat(np.column_stack([first, end]), is_read.sum(axis=1), axis=0)
        self.store.read_ahead(shown.slices[is_read], rows)

    def identity(self) -> dict[str, Any]:
        """Return the options of what a patch becomes, as values for JSON."""
        placement = self.placement.as_dict()
        return {**super().identity(), **placement, "labels": self.format.labels}

    def index_of(self, entry: int) -> int:
        """Return the volume under which a loader lists what it has skipped."""
        return entry & VOLUME_MASK

    def describe_entry(self, entry: int) -> str:
        """Return a patch's volume, patient and store, for an error's note."""
        volume = self.index_of(entry)
        name = f"a patch of volume {volume}"
        if self.store.is_unchanged:  # else the mapped columns cannot be read
            name += f" (patient {self.store.volumes[volume].patient})"
        return f"{name} of {self.store.path_of(int(self.positions.first[volume]))}"

    @property
    def _has_depth(self) -> bool:
        """Whether an entry has slices: patches do, if only one."""
        return True

    def _label_units(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return what classes are outlined on: a sample of each volume."""
        volumes = self.store.items["volume"][samples]
        return samples[np.flatnonzero(np.diff(volumes, prepend=-1))]

    def _labelled(self, units: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return bit fields of the classes outlined on volumes of samples, (b,)."""
        labelled: NDArray[np.uint64] = self._outlined[self.store.items["volume"][units]]
        return labelled
