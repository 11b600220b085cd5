"""Orthogonal planes of a volume, as pictures show them: values, labels and outlines."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.augment import Compose, Transform
from fastseg.loading.patches import PatchLoader
from fastseg.pictures.view import ZOOM_MARGIN, ZOOM_PIXELS, Crop, Ring, View, rings_of
from fastseg.store.reader import Store
from fastseg.store.volumes import Volume

# Names of the planes whose normals are the axes of the patient, and the directions in
# which the axes go: left, back, head, and against them.
NAMES = ("sagittal", "coronal", "axial")
LETTERS = (("L", "R"), ("P", "A"), ("H", "F"))
# A plane has the name of an axis if the cosine between its normal and the axis is at
# least this: 26 degrees.
NAMED_COSINE = 0.9
# A direction has the letters of those axes to which its cosine is at least this: one
# letter within 30 degrees of an axis.
LETTER_COSINE = 0.5
# Directions that go up in a picture, where there is a choice.
UPWARDS = ("H", "A", "R")

# Transforms, as a PatchLoader takes them.
Augment = Compose | Sequence[Transform] | str
# From start to before stop.
Range = tuple[int, int]


class VolumePlane(NamedTuple):
    """A plane of voxels through a volume.

    heading    : as in "coronal, row 48"
    values     : float64 (h, w), rescaled values
    mask       : (h, w), bit fields
    rings      : outlines of the classes that are drawn, each with its bit
    spacing_mm : float64 (2,), between its rows and between its columns
    crop       : the part that is shown
    crossing   : (x, y), the pixel in which the three planes meet
    letters    : directions in the patient, to the right and down
    """

    heading: str
    values: NDArray[np.float64]
    mask: NDArray[Any]
    rings: list[tuple[int, Ring]]
    spacing_mm: NDArray[np.float64]
    crop: Crop
    crossing: tuple[int, int]
    letters: tuple[str, str]


class Version(NamedTuple):
    """An augmented version of a volume.

    values : float32 (D, H, W), rescaled values
    mask   : (D, H, W), bit fields
    """

    values: NDArray[np.float32]
    mask: NDArray[Any]


class Labelled(NamedTuple):
    """Where a volume is labelled, along each axis (slice, row, column).

    centre : the voxel at the mean of what is labelled; of the volume, if nothing is
    ranges : from the first to behind the last labelled voxel; None if nothing is
    """

    centre: tuple[int, int, int]
    ranges: tuple[Range, Range, Range] | None


def find_labelled(volume: Volume, bits: Sequence[int]) -> Labelled:
    """Return where a volume has pixels of the classes with these bits."""
    wanted = volume.labelled.dtype.type(sum(1 << k for k in bits))
    mask = volume.mask
    counts = [np.zeros(side, np.int64) for side in volume.shape]
    for z in np.flatnonzero(volume.labelled & wanted).tolist():
        covered = (mask[z] & wanted) != 0
        counts[0][z] = np.count_nonzero(covered)
        counts[1] += np.count_nonzero(covered, axis=1)
        counts[2] += np.count_nonzero(covered, axis=0)
    if not counts[0].any():
        depth, height, width = (side // 2 for side in volume.shape)
        return Labelled((depth, height, width), None)
    z, y, x = (round(np.arange(len(n)) @ n / n.sum()) for n in counts)
    ranges = [np.flatnonzero(n)[[0, -1]].tolist() for n in counts]
    first, second, third = ((start, last + 1) for start, last in ranges)
    return Labelled((z, y, x), (first, second, third))


def orthogonal_planes(
    view: View, volume: Volume, version: Version | None = None
) -> tuple[VolumePlane, VolumePlane, VolumePlane]:
    """Return the planes along the axes of a volume, through what is labelled.

    The first is a slice as it is stored. The others have a row for each slice: heads
    are up, as far as the direction of the slices says.

    version : what is shown instead of the volume itself, in the same planes; without
        letters, as it may be turned
    """
    centre, ranges = find_labelled(volume, view.bits)
    shown = [(0, side) for side in volume.shape]
    if view.zoom and ranges is not None:
        sides = zip(ranges, volume.shape, strict=True)
        shown = [_widened(part, side) for part, side in sides]
    z, y, x = centre
    if version is None:
        image, mask = volume.image, volume.mask
        slope, intercept = (
            view.store.items[name][volume.samples][:, None]
            for name in ("slope", "intercept")
        )
        rings = rings_of(view, view.store[volume.samples[z]].contours)
    else:
        image, mask = version
        slope, intercept = np.ones((len(volume), 1)), np.zeros((len(volume), 1))
        rings = _outlines_of(mask[z], view.bits)
    spacing = np.array(volume.spacing_mm)
    steps = volume.affine[:3, :3] / spacing
    letters = [_letters(direction) for direction in steps.T]
    # Down in a picture, the position of slices falls if it rises towards the head.
    is_up = letters[0][:1] in UPWARDS
    turn = slice(None, None, -1) if is_up else slice(None)
    down = _letters(-steps[:, 0]) if is_up else letters[0]
    rows, crossing = shown[0], z
    if is_up:
        depth = len(volume)
        rows, crossing = (depth - rows[1], depth - rows[0]), depth - 1 - z
    # Their rows are slices.
    along_rows, along_columns = mask[turn, y], mask[turn, :, x]
    if version is not None:
        letters, down = ["", "", ""], ""
    return (
        VolumePlane(
            _heading(steps[:, 0], f"slice {z}"),
            image[z] * slope[z] + intercept[z],
            mask[z],
            rings,
            spacing[1:],
            _crop(shown[1], shown[2]),
            (x, y),
            (letters[2], letters[1]),
        ),
        VolumePlane(
            _heading(steps[:, 1], f"row {y}"),
            (image[:, y] * slope + intercept)[turn],
            along_rows,
            _outlines_of(along_rows, view.bits),
            spacing[[0, 2]],
            _crop(rows, shown[2]),
            (x, crossing),
            (letters[2], down),
        ),
        VolumePlane(
            _heading(steps[:, 2], f"column {x}"),
            (image[:, :, x] * slope + intercept)[turn],
            along_columns,
            _outlines_of(along_columns, view.bits),
            spacing[:2],
            _crop(rows, shown[1]),
            (y, crossing),
            (letters[1], down),
        ),
    )


def augmented_version(
    store: Store, volume: Volume, augment: Augment, seed: int, epoch: int
) -> Version:
    """Return a volume as an epoch of a PatchLoader shows it, in one patch.

    Raises OptionError for transforms that do not fit patches, or this volume.
    """
    loader = PatchLoader(
        store,
        volume.shape,
        indices=np.array(volume.samples),
        centred=0.0,
        masks="bits",
        augment=augment,
        seed=seed,
    )
    preprocessing = loader.preprocessing
    image = np.empty((1, 1, *volume.shape), np.float32)
    mask = np.empty((1, *volume.shape), preprocessing.mask_dtype)
    preprocessing.fill(np.array([volume.index]), image, mask, epoch)
    return Version(preprocessing.rescale(image[0, 0], volume.samples[0]), mask[0])


def opposite(letters: str) -> str:
    """Return the letters of the direction against another one."""
    pairs = {a: b for pair in LETTERS for a, b in (pair, pair[::-1])}
    return "".join(pairs[letter] for letter in letters)


def outlines(region: NDArray[np.bool_]) -> list[Ring]:
    """Return the borders of a region as rings, float64 (n, 2), (x, y) in pixels.

    They go along the edges of the pixels, from corner to corner.
    """
    padded = np.pad(region, 1)
    # From each corner of pixels, (row, column), the corners to which borders go: they
    # have the region on their right hand.
    ends: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for axis in (0, 1):
        steps = np.diff(padded.astype(np.int8), axis=axis)
        for row, column in np.argwhere(steps).tolist():
            # Between two rows a border goes along a row, between columns along one.
            if axis == 0:
                one, other = (row, column - 1), (row, column)
            else:
                one, other = (row, column), (row - 1, column)
            start, end = (one, other) if steps[row, column] > 0 else (other, one)
            ends[start].append(end)
    rings = []
    while ends:
        corner = first = next(iter(ends))
        ring = []
        while True:
            ring.append(corner)
            following = ends[corner].pop()
            if not ends[corner]:
                del ends[corner]
            corner = following
            if corner == first:
                break
        rings.append(np.array(ring)[:, ::-1] - 0.5)
    return rings


def _outlines_of(mask: NDArray[Any], bits: Sequence[int]) -> list[tuple[int, Ring]]:
    regions = [(k, (mask >> mask.dtype.type(k)) & 1 == 1) for k in bits]
    return [(k, ring) for k, region in regions for ring in outlines(region)]


def _crop(rows: Range, columns: Range) -> Crop:
    return Crop(columns[0], rows[0], columns[1], rows[1])


def _widened(part: Range, side: int) -> Range:
    """Return a range with a margin on both sides, within a side of the volume."""
    length = min(side, max(round(ZOOM_MARGIN * (part[1] - part[0])), ZOOM_PIXELS))
    start = min(max((part[0] + part[1] - length) // 2, 0), side - length)
    return start, start + length


def _heading(normal: NDArray[np.float64], text: str) -> str:
    """Return a text with the name of a plane before it, if the normal has one."""
    axis = int(np.abs(normal).argmax())
    is_named = abs(normal[axis]) >= NAMED_COSINE
    return f"{NAMES[axis]}, {text}" if is_named else text


def _letters(direction: NDArray[np.float64]) -> str:
    """Return the letters of a direction in the patient, the nearest axis first."""
    order = np.argsort(-np.abs(direction), kind="stable").tolist()
    return "".join(
        LETTERS[axis][0 if direction[axis] > 0 else 1]
        for axis in order
        if abs(direction[axis]) >= LETTER_COSINE
    )
