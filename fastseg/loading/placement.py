"""Where patches lie in their volumes: a function of (seed, epoch, volume, repeat)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg import randomness
from fastseg._kernels.images.positions import find_pixel
from fastseg.arrays import as_array
from fastseg.bounds import MAX_GRID_CELLS
from fastseg.errors import (
    OptionError,
    StoreError,
    choice,
    in_order,
    is_single,
    real_number,
    shown,
    whole_number,
)
from fastseg.loading.grids import Grids, Spacing
from fastseg.loading.schedule import Schedule
from fastseg.reprs import many
from fastseg.store.reader import Store

Shape3 = tuple[int, int, int]
Corners = NDArray[np.int64]
CentredBy = Literal["class", "voxels"]

CENTRED_BY = get_args(CentredBy)
AXES = ("slices", "rows", "columns")
# An entry is a volume and, in the bits above these, the number of its repeat.
VOLUME_BITS = 32
VOLUME_MASK = (1 << VOLUME_BITS) - 1
MAX_PER_VOLUME = 2**20
# Random numbers of an entry: whether it is centred, the class, its voxel, the corner.
DRAWS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The options that say where patches lie, checked as far as no store is needed.

    patch      : slices, rows and columns of a patch
    per_volume : patches of each volume in an epoch
    centred    : of the patches, this fraction is centred on a voxel of a class; or a
        class and the fraction that is centred on one of its voxels
    centred_by : how the class is drawn, see `PatchLoader`
    spacing    : mm between slices, rows and columns of the voxels, in which patches are
        counted; None for those of each volume

    Raises OptionError.
    """

    patch: Shape3
    per_volume: int = 1
    centred: float | tuple[str, float] = 1 / 3
    centred_by: CentredBy = "class"
    spacing: Spacing | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "patch", patch_shape(self.patch))
        whole_number("per_volume", self.per_volume, 1, MAX_PER_VOLUME)
        object.__setattr__(self, "centred", _centred(self.centred))
        choice("centred_by", self.centred_by, CENTRED_BY)
        object.__setattr__(self, "spacing", _spacing(self.spacing))

    def as_dict(self) -> dict[str, Any]:
        """Return all options as values for JSON, as the state of a loader has them."""
        centred = self.centred
        return {
            "patch": list(self.patch),
            "per_volume": self.per_volume,
            "centred": list(centred) if isinstance(centred, tuple) else centred,
            "centred_by": self.centred_by,
            "spacing": None if self.spacing is None else list(self.spacing),
        }


def entries_of(volumes: NDArray[np.int64], per_volume: int) -> NDArray[np.int64]:
    """Return an entry for each patch of an epoch, volume by volume.

    volumes : int64 (v,), indices of volumes
    """
    repeats = np.arange(per_volume, dtype=np.int64) << VOLUME_BITS
    entries: NDArray[np.int64] = (volumes[:, None] | repeats).ravel()
    return entries


def volumes_of(entries: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the volume of each entry."""
    volumes: NDArray[np.int64] = entries & VOLUME_MASK
    return volumes


class PatchSchedule(Schedule):
    """A Schedule of patches, those of `entries_of`.

    weights : of each entry that of its volume. The patches of a volume are numbered in
        the order of the epoch, so that no patch comes twice however many there are
    """

    def epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the patches of an epoch on this rank, in order, and batch bounds."""
        entries, bounds = super().epoch(epoch)
        if self.weights is None:
            return entries, bounds
        every = np.resize(self.indices[self._order(epoch)], self._total)
        numbered = number_patches(volumes_of(every))
        return numbered[self.rank :: self.world_size], bounds


def number_patches(volumes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return an entry for each of some volumes, which may come many times."""
    order = np.argsort(volumes, kind="stable")
    sorted_volumes = volumes[order]
    starts = np.flatnonzero(np.diff(sorted_volumes, prepend=-1))
    counts = np.diff(starts, append=len(volumes))
    repeats = np.empty_like(volumes)
    repeats[order] = np.arange(len(volumes)) - np.repeat(starts, counts)
    entries: NDArray[np.int64] = volumes | repeats << VOLUME_BITS
    return entries


def select_weights(
    store: Store, entries: NDArray[np.int64], weights: ArrayLike | None
) -> NDArray[np.float64] | None:
    """Return the weight of each entry, from those of all volumes of a store."""
    if weights is None:
        return None
    count = len(store.volumes)
    if isinstance(weights, str):
        raise OptionError(
            f"weights is {weights!r}, expected a number for each of the store's "
            f"{many(count, 'volume')}"
        )
    given = as_array(weights, "weights", kinds="biuf").astype(np.float64)
    if given.shape != (count,):
        raise OptionError(
            f"weights have shape {given.shape}, expected one for each of the store's "
            f"{many(count, 'volume')}"
        )
    chosen = given[volumes_of(entries)]
    bad = np.flatnonzero(~(np.isfinite(chosen) & (chosen >= 0)))
    if bad.size:
        raise OptionError(
            f"the weight of volume {volumes_of(entries)[bad[0]]} is {chosen[bad[0]]}, "
            "expected a finite number, 0 or above"
        )
    if chosen.size and not chosen.any():
        raise OptionError(
            "the weights of all chosen volumes are 0, expected at least one above 0"
        )
    return chosen


class _Label(NamedTuple):
    """A voxel of a class: how many of the class come before it on its slice.

    bit    : of the class
    slice  : of the volume
    number : of the pixel among those of the class on the slice, row by row
    """

    bit: int
    slice: int
    number: int


class Positions:
    """Draws where the patches of a store's volumes lie.

    volumes   : int64 (v,), indices of the volumes
    grids     : their voxels
    placement : the options
    candidate : the class on whose voxels patches may be centred, None for all, if
        `centred` names none
    seed      : 0 to 2**64 - 1

    Raises OptionError or UnknownClassError for options that do not fit the volumes.
    """

    def __init__(
        self,
        store: Store,
        volumes: NDArray[np.int64],
        grids: Grids,
        placement: Placement,
        candidate: str | None,
        seed: int,
    ):
        self._store = store
        self._patch = np.array(placement.patch, np.int64)
        self._seed = seed
        self._by_voxels = placement.centred_by == "voxels"
        self.first = store.tables["volumes"]["first"]
        self._grids = grids
        self._check_patch(volumes, placement.spacing)
        centred = placement.centred
        self._fraction = centred if isinstance(centred, float) else centred[1]
        if not isinstance(centred, float):
            candidate = centred[0]
        pixels = store.items["pixels"]
        # Voxels of each class in each volume, 0 for those that are not wanted.
        self._voxels = np.zeros((len(self.first), len(store.classes)), np.int64)
        wanted = slice(None) if candidate is None else [store.class_index(candidate)]
        for volume in volumes.tolist() if self._fraction else ():
            items = self._items(volume)
            self._voxels[volume, wanted] = pixels[items, wanted].sum(axis=0)
        if self._fraction and not self._voxels.any():
            name = "any class" if candidate is None else f"class {candidate!r}"
            raise OptionError(
                f"centred is {shown(placement.centred)}, but none of the "
                f"{many(len(volumes), 'chosen volume')} has a voxel of {name}: choose "
                "other volumes, or give centred=0"
            )

    def slices_of(
        self, volumes: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first sample of volumes, and their number of slices, (b,) each."""
        return self.first[volumes], self._grids.stored[volumes, 0]

    def corners(self, entries: NDArray[np.int64], epoch: int) -> Corners:
        """Return the first voxel of each patch of an epoch, int64 (b, 3).

        It is (slice, row, column) in the volume; negative along an axis along which the
        volume is smaller than the patch, and lies in its middle.
        """
        corners = np.empty((len(entries), 3), np.int64)
        for j, (volume, uniforms) in enumerate(self._draws(entries, epoch)):
            label = self._draw_label(volume, uniforms)
            corners[j] = (
                self._anywhere(volume, uniforms)
                if label is None
                else self._centred_on(volume, self._find_voxel(volume, label))
            )
        return corners

    def bounds(self, entries: NDArray[np.int64], epoch: int) -> tuple[Corners, Corners]:
        """Return the least and the greatest corner that each patch may have, (b, 3).

        They are known without reading a mask. They differ only in rows and columns, and
        only for patches that are centred on a voxel.
        """
        bounds = np.empty((2, len(entries), 3), np.int64)
        for j, (volume, uniforms) in enumerate(self._draws(entries, epoch)):
            label = self._draw_label(volume, uniforms)
            if label is None:
                bounds[:, j] = self._anywhere(volume, uniforms)
                continue
            top, left, bottom, right = self._box_of(volume, label).tolist()
            for k, in_plane in enumerate([(top, left), (bottom - 1, right - 1)]):
                bounds[k, j] = self._centred_on(volume, (label.slice, *in_plane))
        return bounds[0], bounds[1]

    def _draws(
        self, entries: NDArray[np.int64], epoch: int
    ) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Yield the volume of each entry, and its random numbers in [0, 1)."""
        key = randomness.augmentation_key(self._seed, epoch)
        for entry in entries.tolist():
            words = randomness.philox(key, entry, randomness.PATCHES).random_raw(DRAWS)
            uniforms = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
            yield entry & VOLUME_MASK, uniforms

    def _anywhere(self, volume: int, uniforms: NDArray[np.float64]) -> Corners:
        """Return a corner at which a patch lies inside the volume, if it fits."""
        room = np.maximum(self._grids.shapes[volume] - self._patch, 0)
        return self._in_the_middle(volume, (uniforms[3:] * (room + 1)).astype(np.int64))

    def _centred_on(self, volume: int, voxel: tuple[int, int, int]) -> Corners:
        """Return the corner of a patch about a stored voxel, or as near as can be."""
        room = np.maximum(self._grids.shapes[volume] - self._patch, 0)
        middle = self._grids.nearest(volume, np.array(voxel))
        return self._in_the_middle(volume, np.clip(middle - self._patch // 2, 0, room))

    def _in_the_middle(self, volume: int, corner: Corners) -> Corners:
        """Return a corner, along axes along which the volume is smaller another one."""
        shape = self._grids.shapes[volume]
        middle = -((self._patch - shape) // 2)
        placed: Corners = np.where(shape < self._patch, middle, corner)
        return placed

    def _draw_label(
        self, volume: int, uniforms: NDArray[np.float64]
    ) -> "_Label | None":
        """Return on what a patch is centred, None if on nothing."""
        voxels = self._voxels[volume]
        if uniforms[0] >= self._fraction or not voxels.any():
            return None
        k = _draw(voxels if self._by_voxels else voxels > 0, uniforms[1])[0]
        pixels = self._store.items["pixels"][self._items(volume), k]
        return _Label(k, *_draw(pixels, uniforms[2]))

    def _box_of(self, volume: int, label: "_Label") -> NDArray[np.int64]:
        """Return the first row and column of the class on the slice, and the ends."""
        box = self._store.items["bbox"][self.first[volume] + label.slice, label.bit]
        # A damaged box may reach beyond the mask.
        in_plane = self._grids.stored[volume, 1:]
        clipped: NDArray[np.int64] = np.clip(box, 0, [*in_plane, *in_plane])
        return clipped

    def _find_voxel(self, volume: int, label: "_Label") -> tuple[int, int, int]:
        store = self._store
        item = int(self.first[volume]) + label.slice
        mask = store._pixels.mask(item)
        box = self._box_of(volume, label)
        row, column = find_pixel(mask, label.bit, box, label.number)
        if row < 0:
            raise StoreError(
                f"{store.path_of(item)}: the mask of sample {item} has fewer pixels "
                f"of class {store.classes[label.bit]!r} than are counted: the file is "
                "damaged"
            )
        return label.slice, row, column

    def _items(self, volume: int) -> slice:
        first = int(self.first[volume])
        return slice(first, first + int(self._grids.stored[volume, 0]))

    def _check_patch(self, volumes: NDArray[np.int64], spacing: Spacing | None) -> None:
        """Raise OptionError if a patch is larger than every volume along some axis."""
        largest = self._grids.shapes[volumes].max(axis=0)
        where = "" if spacing is None else f" at a spacing of {spacing} mm"
        for axis, size, most in zip(
            AXES, self._patch.tolist(), largest.tolist(), strict=True
        ):
            if size > most:
                raise OptionError(
                    f"patch has {size} {axis}, but no chosen volume has more than "
                    f"{most}{where}: give a patch of at most "
                    f"({', '.join(map(str, largest.tolist()))})"
                )


def _draw(counts: NDArray[Any], uniform: float) -> tuple[int, int]:
    """Return an index, drawn in proportion to counts, and a number below its count.

    uniform : in [0, 1); the two results are those of one of counts.sum() things
    """
    ends = np.cumsum(counts)
    number = int(uniform * int(ends[-1]))
    index = int(np.searchsorted(ends, number, "right"))
    return index, number - (int(ends[index - 1]) if index else 0)


def patch_shape(given: Any) -> Shape3:
    """Return an option `patch`, (slices, rows, columns), or raise OptionError."""
    try:
        if isinstance(given, str) or is_single(given):
            raise TypeError
        sizes = [whole_number("patch", size, 1) for size in in_order(given)]
        slices, rows, columns = sizes
    except (TypeError, ValueError) as exc:
        reason = "" if not isinstance(exc, OptionError) else f" ({exc})"
        raise OptionError(
            f"patch is {shown(given)}, expected (slices, rows, columns){reason}"
        ) from None
    if slices * rows * columns > MAX_GRID_CELLS:
        raise OptionError(
            f"patch is {shown(given)}, expected at most {MAX_GRID_CELLS} voxels"
        )
    return slices, rows, columns


def _spacing(given: Any) -> Spacing | None:
    if given is None:
        return None
    limits = "(slices, rows, columns) from 0.001 to 1000 mm, or one number for all"
    try:
        if isinstance(given, str):
            raise TypeError
        numbers = [given] * 3 if is_single(given) else in_order(given)
        slices, rows, columns = (real_number("spacing", mm) for mm in numbers)
    except (TypeError, ValueError):  # OptionError is a ValueError
        slices = rows = columns = 0.0
    if not all(1e-3 <= mm <= 1e3 for mm in (slices, rows, columns)):
        raise OptionError(f"spacing is {shown(given)}, expected {limits}")
    return slices, rows, columns


def _centred(given: Any) -> float | tuple[str, float]:
    expected = "a fraction from 0 to 1, or a class and one, as in ('heart', 0.5)"
    name, fraction = None, given
    if not is_single(given):
        try:
            name, fraction = in_order(given)
        except (TypeError, ValueError):
            name = None
        if not isinstance(name, str):
            raise OptionError(f"centred is {shown(given)}, expected {expected}")
    number = real_number("centred", fraction, expected)
    if not 0 <= number <= 1:
        raise OptionError(f"centred is {shown(given)}, expected {expected}")
    return number if name is None else (name, number)
