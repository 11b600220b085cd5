"""Grids: the voxels of volumes, as stored or at a common spacing."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.augment.mapping import identities
from fastseg.bounds import MAX_GRID_CELLS
from fastseg.errors import OptionError
from fastseg.reprs import listed
from fastseg.store.reader import Store

Spacing = tuple[float, float, float]


class Grids(NamedTuple):
    """The voxels of the v volumes of a store; axes are (z, y, x).

    Voxel k of a volume lies at start + factor * k of the stored one, along each axis.

    shapes     : int64 (v, 3), slices, rows and columns
    stored     : int64 (v, 3), those in the store
    starts     : float64 (v, 3)
    factors    : float64 (v, 3)
    spacing_mm : float64 (v, 3), between slices, rows and columns
    to_stored  : float64 (v, 4, 4), from voxels (z, y, x, 1) to stored ones
    is_stored  : whether all voxels of all volumes are stored ones
    """

    shapes: NDArray[np.int64]
    stored: NDArray[np.int64]
    starts: NDArray[np.float64]
    factors: NDArray[np.float64]
    spacing_mm: NDArray[np.float64]
    to_stored: NDArray[np.float64]
    is_stored: bool

    def are_stored(self, volumes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return of which volumes each voxel is a stored one, bool (b,)."""
        same: NDArray[np.bool_] = (self.factors[volumes] == 1).all(axis=1)
        return same

    def nearest(self, volume: int, voxel: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the voxel that is nearest to a stored one, int64 (3,)."""
        at = (voxel - self.starts[volume]) / self.factors[volume]
        near: NDArray[np.int64] = np.floor(at + 0.5).astype(np.int64)
        return near.clip(0, self.shapes[volume] - 1)

    def nearest_slices(
        self, volumes: NDArray[np.int64], slices: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the stored slices that are nearest to slices, int64 (b, d).

        slices : int64 (b, d), those beyond a volume have its outermost one
        """
        if not self.is_stored:
            start, factor = self.starts[volumes, :1], self.factors[volumes, :1]
            slices = np.floor(start + factor * slices + 0.5).astype(np.int64)
        return slices.clip(0, self.stored[volumes, :1] - 1)


def find_grids(
    store: Store, volumes: NDArray[np.int64], spacing: Spacing | None
) -> Grids:
    """Return the Grids of a store, at a spacing in mm or as stored.

    volumes : int64 (n,), those that are used

    At a spacing, a volume has as many voxels along an axis as fit best, at least one,
    about the same centre. Raises OptionError for volumes that have no such grid.
    """
    table = store.tables["volumes"]
    planes = np.array([bucket.shape for bucket in store.buckets.values()], np.int64)
    in_plane = planes.reshape(-1, 2)[store.items["bucket"][table["first"]]]
    stored = np.column_stack([table["slices"], in_plane])
    between = store.items["spacing_mm"][table["first"]]
    stored_mm = np.column_stack([table["spacing_mm"], between])
    factors = np.ones(stored.shape)
    if spacing is None:
        starts = np.zeros(stored.shape)
        to_stored = _as_matrices(factors, starts)
        return Grids(stored, stored, starts, factors, stored_mm, to_stored, True)
    is_known = (np.isfinite(stored_mm) & (stored_mm > 0)).all(axis=1)
    unknown = volumes[~is_known[volumes]].tolist()
    if unknown:
        raise OptionError(
            f"spacing is {spacing}, but that of volumes is unknown "
            f"({listed([str(volume) for volume in unknown])}): leave them out, as "
            "store.select(volumes=[...]) does"
        )
    factors[is_known] = spacing / stored_mm[is_known]
    counts = stored / factors
    large = volumes[(counts[volumes] > MAX_GRID_CELLS).any(axis=1)].tolist()
    if large:
        raise OptionError(
            f"spacing is {spacing}, but volume {large[0]} has voxels of "
            f"{stored_mm[large[0]].tolist()} mm and would have more than "
            f"{MAX_GRID_CELLS} along an axis: give a larger spacing, or leave the "
            "volume out if its spacing is wrong"
        )
    counts = np.minimum(counts, MAX_GRID_CELLS)  # of volumes that are not used
    shapes = np.maximum(np.rint(counts), 1).astype(np.int64)
    starts = (stored - 1) / 2 - factors * (shapes - 1) / 2
    spacing_mm = np.broadcast_to(spacing, stored.shape)
    to_stored = _as_matrices(factors, starts)
    return Grids(shapes, stored, starts, factors, spacing_mm, to_stored, False)


def _as_matrices(
    factors: NDArray[np.float64], starts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return start + factor * k as matrices that act on (k, 1), float64 (v, 4, 4)."""
    matrices = identities(len(factors), 4)
    matrices[:, range(3), range(3)] = factors
    matrices[:, :3, 3] = starts
    return matrices
