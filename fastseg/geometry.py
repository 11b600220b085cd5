"""Where pixels lie in the patient: planes of images, times and volumes of a series.

All of it is numbers: nothing here reads files.

- Points are float64 (n, 3) in mm, in DICOM's patient coordinates (LPS): x grows to the
  patient's left, y to the back, z to the head.
- Pixels are points (x, y) of an image: the centre of pixel `[row, column]` is
  `(x=column, y=row)`. `Plane` converts between both.
- `origins`, float64 (n, 3) in mm, are the centres of the first pixels:
  ImagePositionPatient. `directions`, float64 (n, 6), are unit vectors along a row and
  along a column: ImageOrientationPatient. `spacings_mm`, float64 (n, 2), are the
  distances between rows and between columns: PixelSpacing. NaN means unknown.
- A position is the distance, in mm, of an image's plane from the point (0, 0, 0),
  along the plane's normal.

No result depends on the order of the images.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg._kernels.contours.planes import project_points
from fastseg.arrays import as_array
from fastseg.errors import GeometryError, shown

__all__ = [
    "Plane",
    "Volumes",
    "broken_rules",
    "find_volumes",
    "have_planes",
    "number_stacks",
    "number_times",
    "positions_along_normal",
    "stack_normals",
    "volume_affine",
]

# How far from 1 the length of a direction, and from 0 the product of both, may be.
# Headers that give three digits are within it; a direction that is wrong is not.
DIRECTION_TOLERANCE = 1e-3

# By how much a cosine may differ between parallel images. At 500 mm from the origin of
# an image, the width of a large one, this moves a pixel by 0.05 mm.
PARALLEL_TOLERANCE = 1e-4

# By how much, of itself, a spacing may differ between images that have the same one:
# again 0.05 mm at 500 mm.
SPACING_TOLERANCE = 1e-4

# mm. Images whose positions are nearer than this are at one position. Positions that
# are written with two digits differ by this; no clinical slices are that thin.
SAME_POSITION_MM = 0.01

# mm. How far the first pixel of a slice may lie off the normal through that of the
# first slice: below half of the smallest clinical pixels, above the rounding of
# headers. The gantry of a CT tilts by degrees, by which slices shift some mm.
ALIGNMENT_TOLERANCE_MM = 0.1

# mm, and a fraction of the distance between slices; the smaller one holds. How far a
# slice may lie off the even grid between the first and the last one. It allows for
# positions written with one digit, and a missing slice is always seen.
EVENNESS_TOLERANCE_MM = 0.1
EVENNESS_FRACTION = 0.1

# Slices that are this many times their thickness apart have a gap in which a further
# one fits: 2, less a thousandth because positions are rounded.
GAP_RATIO = 1.999

# How far the distances of uneven slices may be from whole multiples of the least one,
# as a fraction of it, when the message says that slices may be missing.
MULTIPLE_TOLERANCE = 0.05

# By how much, of itself, the interval between images may differ between positions
# whose trigger times are matched: hearts do not beat evenly. Those of Sunnybrook's
# series differ by up to 9 %; 20 and 25 phases of one heartbeat differ by 25 %.
INTERVAL_TOLERANCE = 0.15

# A fraction of the interval between images: how far a trigger time may be from the time
# that it is matched with. As far again, and another time would be as near.
TRIGGER_TOLERANCE = 0.25

# Intervals. A wider gap between trigger times is not measured in intervals: what their
# length is off by adds up.
LONGEST_GAP = 4

# Intervals. The least standard deviation that a trigger time is taken to have: they are
# rounded. And the greatest standard error of where the images of a position begin: one
# that is matched with a wrong time, within TRIGGER_TOLERANCE, is off by six of these.
LEAST_DEVIATION = 0.01
BEGINNING_ERROR = 0.125

# mm. No patient is farther from the origin of the coordinates: 1 km. And no pixel is
# smaller: 1 nm. Within these bounds no computation overflows.
MAX_COORDINATE_MM = 1e6
MIN_SPACING_MM = 1e-6

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plane:
    """The plane of an image in the patient.

    origin           : float64 (3,), mm, LPS: the centre of pixel (0, 0)
    row_direction    : float64 (3,), unit vector along a row: x, the column, grows along
        it. The first three cosines of ImageOrientationPatient
    column_direction : float64 (3,), unit vector along a column: y, the row, grows along
        it. The last three cosines
    spacing_mm       : (between rows, between columns), as PixelSpacing: x is scaled by
        the second value, y by the first
    normal           : float64 (3,), unit vector, row_direction x column_direction

    The directions are used as they are given. They are refused if their lengths differ
    from 1, or their product from 0, by more than DIRECTION_TOLERANCE: GeometryError.
    So are values that are not finite, origins farther than MAX_COORDINATE_MM, and
    spacings that are not from MIN_SPACING_MM to MAX_COORDINATE_MM.

    The conversion is equation C.7.6.2.1-1 of DICOM PS3.3, section C.7.6.2.1.1.
    """

    origin: Floats
    row_direction: Floats
    column_direction: Floats
    spacing_mm: tuple[float, float]
    normal: Floats = field(init=False)

    def __post_init__(self) -> None:
        origin = _vector(self.origin, "origin", 3)
        row = _vector(self.row_direction, "row_direction", 3)
        column = _vector(self.column_direction, "column_direction", 3)
        spacing = _vector(self.spacing_mm, "spacing_mm", 2)
        if not _are_positions(origin):
            raise GeometryError(
                f"origin is {shown(origin.tolist())}, expected three numbers of at "
                f"most {MAX_COORDINATE_MM:g} mm"
            )
        if not _are_directions(np.concatenate([row, column])):
            raise GeometryError(
                f"directions are {row.tolist()} and {column.tolist()}, expected two "
                "orthogonal unit vectors; their lengths and their product may be off "
                f"by {DIRECTION_TOLERANCE:g}"
            )
        if not _are_spacings(spacing):
            raise GeometryError(
                f"spacing_mm is {shown(spacing.tolist())}, expected two numbers from "
                f"{MIN_SPACING_MM:g} to {MAX_COORDINATE_MM:g}"
            )
        normal = _normals(np.concatenate([row, column]))
        for name, value in (
            ("origin", origin),
            ("row_direction", row),
            ("column_direction", column),
            ("normal", normal),
        ):
            value.flags.writeable = False
            object.__setattr__(self, name, value)
        object.__setattr__(self, "spacing_mm", tuple(spacing.tolist()))

    def pixel_to_patient(self, points: ArrayLike) -> Floats:
        """Return where points of the image lie in the patient.

        points : (n, 2), (x, y) in pixels, pixel centres at integers

        Returns float64 (n, 3), mm, LPS. Points are not rounded and need not lie within
        the image. Raises GeometryError for points that are not finite.
        """
        pixels = _table(points, "points", 2)
        between_rows, between_columns = self.spacing_mm
        with np.errstate(over="ignore", invalid="ignore"):
            along_row = pixels[:, :1] * between_columns * self.row_direction
            along_column = pixels[:, 1:] * between_rows * self.column_direction
            patient = self.origin + along_row + along_column
        return _finite(patient, pixels)

    def patient_to_pixel(self, points: ArrayLike) -> tuple[Floats, Floats]:
        """Return the pixel coordinates of points, and how far off the plane they lie.

        points : (n, 3), mm, LPS

        Returns

        - float64 (n, 2), (x, y) in pixels, pixel centres at integers, of the nearest
          point of the plane. It is not rounded and need not lie within the image.
        - float64 (n,), mm, the distance from the plane: positive on the side to which
          the normal points

        Raises GeometryError for points that are not finite.
        """
        patient = _table(points, "points", 3)
        offsets = patient - self.origin
        directions = self.row_direction, self.column_direction
        pixels = _on_plane(offsets, *directions, *self.spacing_mm)
        return _finite(pixels, patient), _dot(offsets, self.normal)


def patient_to_pixel(
    points: Floats, counts: Ints, origins: Floats, directions: Floats, spacings: Floats
) -> tuple[Floats, Floats]:
    """Return what `Plane.patient_to_pixel` does, bit for bit, for many planes at once.

    points    : float64 (n, 3), finite, mm, LPS: those of one plane after the other
    counts    : int64 (m,), number of points of each plane
    origins   : float64 (m, 3), of the planes, which are valid (`have_planes`)
    directions, spacings : float64 (m, 6), (m, 2)
    """
    planes = np.concatenate([origins, directions, spacings, _normals(directions)], 1)
    pixels = np.empty((len(points), 2))
    distances = np.empty(len(points))
    project_points(points, counts, planes, pixels, distances)
    return pixels, distances


def _on_plane(
    offsets: Floats,
    row: Floats,
    column: Floats,
    between_rows: float,
    between_columns: float,
) -> Floats:
    """Return the pixel coordinates of the points of a plane that are nearest to others.

    offsets : float64 (n, 3), mm, from the origin of the plane
    row, column : float64 (3,), directions
    between_rows, between_columns : mm

    `project_points` makes the same steps, so that it gives the same bits.
    """
    # The directions are nearly orthogonal unit vectors, so the lengths along both are
    # those that solve the equations of the nearest point.
    row_row, row_column, column_column = (
        _dot(row, row),
        _dot(row, column),
        _dot(column, column),
    )
    determinant = row_row * column_column - row_column * row_column
    with np.errstate(over="ignore", invalid="ignore"):
        on_row, on_column = _dot(offsets, row), _dot(offsets, column)
        along_row = column_column * on_row - row_column * on_column
        along_column = row_row * on_column - row_column * on_row
        pixels = np.empty((len(offsets), 2))
        pixels[:, 0] = along_row / determinant / between_columns
        pixels[:, 1] = along_column / determinant / between_rows
    return pixels


class Volumes(NamedTuple):
    """The volumes of a series, and why images are in none.

    members     : int64 (d,) for each volume: indices of its images, by rising position.
        Volumes are sorted by time
    spacings_mm : mm between neighbouring slices of each volume, along the normal
    problems    : sentences, each "kind of problem: what was found", sorted. Empty if
        and only if every image is in a volume
    """

    members: tuple[Ints, ...]
    spacings_mm: tuple[float, ...]
    problems: tuple[str, ...]


def have_planes(
    origins: ArrayLike, directions: ArrayLike, spacings_mm: ArrayLike
) -> Bools:
    """Return which images have a plane: all values known, and as `Plane` needs them.

    origins     : (n, 3), mm; NaN means unknown, here and below
    directions  : (n, 6)
    spacings_mm : (n, 2)

    Returns bool (n,). Raises GeometryError for arrays of other shapes.
    """
    columns = (
        _table(origins, "origins", 3),
        _table(directions, "directions", 6),
        _table(spacings_mm, "spacings_mm", 2),
    )
    _check_lengths(*columns)
    have: Bools = (
        _are_positions(columns[0])
        & _are_directions(columns[1])
        & _are_spacings(columns[2])
    )
    return have


def positions_along_normal(
    origins: ArrayLike, directions: ArrayLike, series: ArrayLike | None = None
) -> Floats:
    """Return the positions of images along their normals.

    origins    : (n, 3), mm; NaN means unknown
    directions : (n, 6)
    series     : int (n,): images of one series have the same number; without it, each
        image has its own normal

    Returns float64 (n,), mm: each origin times a unit normal. Parallel images of a
    series (`number_stacks`) share that of the least of their directions, so that
    rounded directions do not change their order. NaN where the origin or the directions
    are unknown or are not as `Plane` needs them. Zero is never negative. Raises
    GeometryError for arrays of other shapes.
    """
    points = _table(origins, "origins", 3)
    vectors = _table(directions, "directions", 6)
    _check_lengths(points, vectors)
    known = _are_positions(points) & _are_directions(vectors)
    normals = _normals(vectors[known])
    if series is not None and len(normals):
        number = _column(series, "series", "iu")
        _check_lengths(points, number)
        stack = number_stacks(vectors[known], number[known])
        normals = stack_normals(vectors[known], stack)[stack]
    positions = np.full(len(points), np.nan)
    positions[known] = _positions(points[known], normals)
    return positions


def number_stacks(directions: ArrayLike, kinds: ArrayLike) -> Ints:
    """Return a number for each image: equal for images of one direction and kind.

    directions : (n, 6); NaN means unknown
    kinds      : int (n,): images of one series, shape and dtype have the same number

    Returns int64 (n,), from 0. Directions of a kind are the same if they differ by no
    more than PARALLEL_TOLERANCE, or if others lie between them by such steps. Positions
    of images in different stacks are along different normals and say nothing of each
    other; `number_times` takes these numbers. Raises GeometryError for arrays of other
    shapes.
    """
    vectors = _table(directions, "directions", 6)
    kind_of = _column(kinds, "kinds", "iu").astype(np.int64)
    _check_lengths(vectors, kind_of)
    return _number_rows(vectors, PARALLEL_TOLERANCE, kind_of)


def stack_normals(directions: ArrayLike, stacks: ArrayLike) -> Floats:
    """Return the normal that the images of each stack share.

    directions : (n, 6), all as `Plane` needs them
    stacks     : int (n,), of `number_stacks`: each number up to the greatest occurs

    Returns float64 (s, 3), unit vectors: that of the least directions of each stack, as
    `positions_along_normal` takes it. Raises GeometryError for arrays of other shapes.
    """
    vectors = _table(directions, "directions", 6)
    stack = _column(stacks, "stacks", "iu")
    _check_lengths(vectors, stack)
    counts = np.bincount(stack)
    return _least_normals(vectors, stack, np.cumsum(counts) - counts)


def number_times(
    positions_mm: ArrayLike,
    temporal_positions: ArrayLike,
    trigger_times_ms: ArrayLike,
    stacks: ArrayLike | None = None,
) -> Floats:
    """Return the times of the images of one series, as numbers from 0.

    positions_mm       : (n,), mm, of `positions_along_normal`; NaN means unknown
    temporal_positions : (n,), TemporalPositionIdentifier; NaN means unknown
    trigger_times_ms   : (n,), ms, TriggerTime; NaN means unknown
    stacks             : int (n,), of `number_stacks`; without it, all images are of one

    Returns float64 (n,), equal for images of one time. A stack is numbered by what
    tells more of its images apart from those at the same position: temporal positions,
    or else trigger times.

    - Temporal positions: the rank among those of the stack, or among those of the
      position if no two images share one and all positions have as many images.
    - Trigger times: the rank at the position, if all have as many images and nothing
      says that others are missing. Else the number of intervals since the first time,
      so that missing images leave holes: see `_match_by_intervals` and
      `_match_by_pattern`.

    The time is NaN

    - in a stack in which no position has several images that are told apart
    - at positions whose images have values that are equal or unknown
    - at positions whose trigger times do not match those of others: a wrong time is
      worse than none
    - where the position is NaN

    Raises GeometryError for arrays of other shapes.
    """
    positions = _column(positions_mm, "positions_mm").astype(np.float64)
    temporal = _column(temporal_positions, "temporal_positions").astype(np.float64)
    trigger = _column(trigger_times_ms, "trigger_times_ms").astype(np.float64)
    if stacks is None:
        stacks = np.zeros(len(positions), dtype=np.int64)
    stack_of = _column(stacks, "stacks", "iu")
    _check_lengths(positions, temporal, trigger, stack_of)

    times = np.full(len(positions), np.nan)
    known = np.flatnonzero(np.isfinite(positions))
    if not len(known):
        return times
    order = known[np.lexsort((positions[known], stack_of[known]))]
    stack = np.unique(stack_of[order], return_inverse=True)[1]
    # A site is one position of a stack.
    is_new = np.diff(positions[order]) > SAME_POSITION_MM
    site = np.concatenate([[0], np.cumsum(is_new | (np.diff(stack) > 0))])
    images_at = np.bincount(site)
    stack_at = stack[np.cumsum(images_at) - images_at]
    values = {"temporal": temporal[order], "trigger": trigger[order]}
    is_told = {name: _are_told_apart(value, site) for name, value in values.items()}
    told = {
        name: np.bincount(stack_at, weights=is_so * images_at * (images_at > 1))
        for name, is_so in is_told.items()
    }
    is_temporal = (told["temporal"] >= told["trigger"]) & (told["temporal"] > 0)
    is_trigger = ~is_temporal & (told["trigger"] > 0)
    for name, is_so, number in (
        ("temporal", is_temporal, _number_by_identifiers),
        ("trigger", is_trigger, _number_by_triggers),
    ):
        rows = np.flatnonzero(is_so[stack] & is_told[name][site])
        rows = rows[np.lexsort((values[name][rows], site[rows]))]
        ends = np.flatnonzero(np.diff(stack[rows])) + 1
        for chosen in np.split(rows, ends) if len(rows) else ():
            times[order[chosen]] = number(values[name][chosen], site[chosen])
    return times


def find_volumes(
    *,
    origins: ArrayLike,
    directions: ArrayLike,
    spacings_mm: ArrayLike,
    thicknesses_mm: ArrayLike,
    kinds: ArrayLike,
    times: ArrayLike,
) -> Volumes:
    """Return the volumes that the images of one series form.

    origins        : (n, 3), mm; NaN means unknown, here and below
    directions     : (n, 6)
    spacings_mm    : (n, 2)
    thicknesses_mm : (n,), mm, SliceThickness
    kinds          : int (n,): images of one shape and dtype have the same number
    times          : (n,), of `number_times`; images whose time is NaN belong together,
        unless others of their direction and kind have times

    All images of one kind and one time are a volume if

    - they are two or more
    - they are parallel, to PARALLEL_TOLERANCE
    - they have the same spacing, to SPACING_TOLERANCE
    - no two are at one position, to SAME_POSITION_MM
    - they are aligned along the normal, to ALIGNMENT_TOLERANCE_MM
    - they are evenly spaced, to EVENNESS_TOLERANCE_MM and EVENNESS_FRACTION
    - the distance between two is less than GAP_RATIO times the thickness, if known

    Images without a plane (`have_planes`) are left out before, and so are those without
    a time if others of their direction and kind have one: at several positions, they
    may be of several times. A problem is named by
    the first of these rules that is broken; the text is of the first time that breaks
    it and says how many more there are. Raises GeometryError for arrays of other
    shapes.
    """
    images = _check_images(
        origins, directions, spacings_mm, thicknesses_mm, kinds, times
    )
    problems = list(_planeless(images.origins, images.directions, images.spacings))
    is_unmatched, candidates = _find_candidates(images)
    if is_unmatched.any():
        problems.append(
            f"unmatched: {_counted(int(is_unmatched.sum()), 'image')} without a "
            "time, where others have one: trigger times fit no time of the series, or "
            "are equal or unknown"
        )
    if candidates is None:
        return Volumes((), (), tuple(sorted(problems)))
    rules = candidates.rules()
    problems += candidates.describe(rules)
    if {"single", "uneven"} & {rule for rule in rules if rule}:
        counts = np.unique(images.kinds[candidates.order], return_counts=True)[1]
        if len(counts) > 1:
            problems.append(
                f"mixed shapes: images of {_several(counts, 'shapes or dtypes')}"
            )
    found = [k for k, rule in enumerate(rules) if not rule]
    found.sort(key=candidates.sort_key)
    return Volumes(
        tuple(candidates.members(k) for k in found),
        tuple(float(candidates.steps[k]) for k in found),
        tuple(sorted(problems)),
    )


def broken_rules(
    *,
    origins: ArrayLike,
    directions: ArrayLike,
    spacings_mm: ArrayLike,
    thicknesses_mm: ArrayLike,
    kinds: ArrayLike,
    times: ArrayLike,
) -> list[str]:
    """Return for each image which rule keeps it out of a volume, "" if it is in one.

    The arguments are those of `find_volumes`, whose problems begin with these words, as
    in "gap". Images of several series may be judged in one call, if each series has
    kinds of its own.
    """
    images = _check_images(
        origins, directions, spacings_mm, thicknesses_mm, kinds, times
    )
    is_unmatched, candidates = _find_candidates(images)
    rules = ["unmatched" if is_so else "no plane" for is_so in is_unmatched.tolist()]
    if candidates is not None:
        of_candidates = candidates.rules()
        pairs = zip(
            candidates.order.tolist(), candidates.candidate.tolist(), strict=True
        )
        for image, candidate in pairs:
            rules[image] = of_candidates[candidate]
    return rules


def volume_affine(
    origins: ArrayLike, directions: ArrayLike, spacing_mm: ArrayLike
) -> Floats:
    """Return the matrix from voxel indices of a volume to the patient.

    origins    : (d, 3), mm, LPS, of the slices by rising position, at least two
    directions : (6,), of the first slice
    spacing_mm : (2,), of the first slice: between rows, between columns

    Returns float64 (4, 4): it times (slice, row, column, 1), the index of a voxel of
    an array (D, H, W), is (x, y, z, 1) in mm, LPS. The step from slice to slice is that
    from the first to the last origin, divided by d - 1. Raises GeometryError for what
    `Plane` refuses, for fewer than two slices and for slices that do not rise.
    """
    points = _table(origins, "origins", 3)
    vectors = _vector(directions, "directions", 6)
    if len(points) < 2:
        raise GeometryError(f"a volume has 2 slices or more, not {len(points)}")
    first = Plane(
        origin=points[0],
        row_direction=vectors[:3],
        column_direction=vectors[3:],
        spacing_mm=spacing_mm,  # type: ignore[arg-type]  # which it checks
    )
    if not _are_positions(points[-1]):
        raise GeometryError(f"the last origin is {shown(points[-1].tolist())}")
    step = (points[-1] - points[0]) / (len(points) - 1)
    if not _dot(step, first.normal) > 0:
        raise GeometryError("the slices are not sorted by rising position")
    between_rows, between_columns = first.spacing_mm
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = first.column_direction * between_rows
    affine[:3, 2] = first.row_direction * between_columns
    affine[:3, 3] = first.origin
    return affine


class _Images(NamedTuple):
    """The arguments of `find_volumes` as arrays of one length."""

    origins: Floats
    directions: Floats
    spacings: Floats
    thicknesses: Floats
    kinds: NDArray[Any]
    times: Floats


def _check_images(
    origins: ArrayLike,
    directions: ArrayLike,
    spacings_mm: ArrayLike,
    thicknesses_mm: ArrayLike,
    kinds: ArrayLike,
    times: ArrayLike,
) -> _Images:
    images = _Images(
        _table(origins, "origins", 3),
        _table(directions, "directions", 6),
        _table(spacings_mm, "spacings_mm", 2),
        _column(thicknesses_mm, "thicknesses_mm").astype(np.float64),
        _column(kinds, "kinds", "iu"),
        _column(times, "times").astype(np.float64),
    )
    _check_lengths(*images)
    return images


def _find_candidates(images: _Images) -> "tuple[Bools, _Candidates | None]":
    """Return which images are unmatched, and the candidates, None if there are none."""
    origins, directions, spacings, thicknesses, kinds, times = images
    known = have_planes(origins, directions, spacings)
    is_unmatched = _are_unmatched(directions, kinds, times, known)
    known &= ~is_unmatched
    if not known.any():
        return is_unmatched, None
    order, first = _sort(origins, directions, kinds, times, np.flatnonzero(known))
    return is_unmatched, _Candidates(
        order=order,
        first=first,
        origins=origins[order],
        directions=directions[order],
        spacings=spacings[order],
        thicknesses=thicknesses[order],
        times=times[order],
    )


@dataclass(slots=True, kw_only=True)
class _Candidates:
    """Images with planes, by candidate for a volume: those of one kind and one time.

    order       : int64 (n,), indices of the images, by candidate, then by position
    first       : int64 (s,), where each candidate begins
    origins, directions, spacings, thicknesses, times : columns, in that order
    normals     : float64 (s, 3), of the least directions of each candidate, in
        lexicographic order
    positions   : float64 (n,), mm, along the normal of the candidate
    steps       : float64 (s,), mm, mean distance between slices; NaN of a single one
    thickest    : float64 (s,), mm, the greatest thickness; NaN if none is known
    """

    order: Ints
    first: Ints
    origins: Floats
    directions: Floats
    spacings: Floats
    thicknesses: Floats
    times: Floats
    counts: Ints = field(init=False)
    candidate: Ints = field(init=False)
    normals: Floats = field(init=False)
    positions: Floats = field(init=False)
    steps: Floats = field(init=False)
    thickest: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.diff(np.append(self.first, len(self.order)))
        self.candidate = np.repeat(np.arange(len(self.first)), self.counts)
        self.normals = _least_normals(self.directions, self.candidate, self.first)
        self.positions = _positions(self.origins, self.normals[self.candidate])
        extents = self.positions[self._last()] - self.positions[self.first]
        self.steps = np.full(len(self.first), np.nan)
        several = self.counts > 1
        self.steps[several] = extents[several] / (self.counts[several] - 1)
        is_thick = np.isfinite(self.thicknesses) & (self.thicknesses > 0)
        thickest = self._reduce(np.maximum, np.where(is_thick, self.thicknesses, 0.0))
        self.thickest = np.where(thickest > 0, thickest, np.nan)

    def rules(self) -> list[str]:
        """Return for each candidate the rule that it breaks, "" for a volume."""
        is_tilted, is_shifted = self._off_normal()
        # The first rule that is broken is named: it explains those after it.
        checks = {
            "single": self.counts < 2,
            "mixed orientations": self._spread(self.directions) > PARALLEL_TOLERANCE,
            "mixed spacings": self._spread(np.log(self.spacings)) > SPACING_TOLERANCE,
            "doubled": self._reduce(np.minimum, self._distances()) <= SAME_POSITION_MM,
            "gantry tilt": is_tilted,
            "shifted": is_shifted,
            "uneven": self._reduce(np.maximum, np.abs(self._off_grid()))
            > np.minimum(EVENNESS_TOLERANCE_MM, EVENNESS_FRACTION * self.steps),
            "gap": self.steps >= GAP_RATIO * self.thickest,
        }
        conditions = list(checks.values())
        names = [*checks, ""]
        indices = np.argmax([*conditions, np.ones(len(self.first), dtype=bool)], axis=0)
        return [names[k] for k in indices.tolist()]

    def describe(self, rules: list[str]) -> list[str]:
        """Return a sentence for each rule that is broken."""
        problems = []
        for rule in sorted({rule for rule in rules if rule}):
            broken = [k for k, name in enumerate(rules) if name == rule]
            if rule == "single":
                images = _counted(len(broken), "image")
                text = f"{images} with no other of the same shape, dtype and time"
                problems.append(f"single: {text}")
                continue
            # The order of candidates of one time may depend on how kinds are numbered.
            times = np.nan_to_num(self.times[self.first[broken]], nan=np.inf)
            time = times.min()
            earliest = np.array(broken)[times == time].tolist()
            text = min(self._text(rule, k) for k in earliest)
            if np.isfinite(time):
                text += f" (at time {time:g}"
                text += f" and {len(broken) - 1} more)" if len(broken) > 1 else ")"
            problems.append(f"{rule}: {text}")
        return problems

    def members(self, k: int) -> Ints:
        """Return the indices of the images of candidate k, by rising position."""
        return self.order[self._slice(k)]

    def sort_key(self, k: int) -> tuple[Any, ...]:
        """Return what volumes are sorted by: time, then where they begin."""
        first = self.first[k]
        time = self.times[first]
        return (np.isnan(time), time if time == time else 0.0, *self.origins[first])

    def _text(self, rule: str, k: int) -> str:
        """Return what was found in candidate k, which breaks a rule."""
        rows = self._slice(k)
        distances = np.diff(self.positions[rows])
        least, greatest = distances.min(), distances.max()
        if rule == "mixed orientations":
            numbers = _number_rows(self.directions[rows], PARALLEL_TOLERANCE)
            return f"images of {_several(np.bincount(numbers), 'directions')}"
        if rule == "mixed spacings":
            numbers = _number_rows(np.log(self.spacings[rows]), SPACING_TOLERANCE)
            return f"images of {_several(np.bincount(numbers), 'pixel spacings')}"
        if rule == "doubled":
            at = self.positions[rows]
            is_doubled = np.zeros(len(at), dtype=bool)
            is_doubled[1:] |= distances <= SAME_POSITION_MM
            is_doubled[:-1] |= distances <= SAME_POSITION_MM
            found = at[is_doubled]
            sites = np.count_nonzero(np.diff(found) > SAME_POSITION_MM) + 1
            where = f"{found[0]:g} mm" if sites == 1 else f"{sites} positions"
            images = _counted(len(found), "image")
            return f"{images} at {where} have no time that tells them apart"
        if rule in ("gantry tilt", "shifted"):
            across = _across(self.origins[rows], self.normals[k])
            drift = float(np.sqrt(_dot(across[-1], across[-1])))
            extent = float(self.positions[rows][-1] - self.positions[rows][0])
            if rule == "gantry tilt":
                angle = np.degrees(np.arctan2(drift, extent))
                return (
                    f"the last of {rows.stop - rows.start} slices is shifted by "
                    f"{drift:.4g} mm over {extent:.4g} mm, by {angle:.3g} degrees"
                )
            most = float(np.sqrt(_dot(across, across)).max())
            return f"slices are shifted by up to {most:.4g} mm in their planes"
        if rule == "uneven":
            text = f"slices are {least:.4g} to {greatest:.4g} mm apart"
            multiples = distances / least
            off = np.abs(multiples - np.round(multiples)).max()
            if off <= MULTIPLE_TOLERANCE and multiples.max() > 1.5:
                text += f", whole multiples of {least:.4g} mm: a slice may be missing"
            return text
        if rule == "gap":
            apart, thickest = self.steps[k], self.thickest[k]
            return f"slices are {apart:.4g} mm apart and {thickest:.4g} mm thick"
        raise AssertionError(rule)

    def _slice(self, k: int) -> slice:
        return slice(int(self.first[k]), int(self.first[k] + self.counts[k]))

    def _last(self) -> Ints:
        return self.first + self.counts - 1

    def _reduce(self, function: np.ufunc, values: Floats) -> Floats:
        result: Floats = function.reduceat(values, self.first)
        return result

    def _spread(self, values: Floats) -> Floats:
        """Return the greatest difference, in any column, of each candidate."""
        least, greatest = (self._reduce(f, values) for f in (np.minimum, np.maximum))
        spread: Floats = (greatest - least).max(axis=1)
        return spread

    def _distances(self) -> Floats:
        """Return the distance from each slice to the next one; inf after the last."""
        distances = np.full(len(self.order), np.inf)
        distances[:-1] = np.diff(self.positions)
        distances[self._last()] = np.inf
        return distances

    def _fractions(self) -> Floats:
        """Return the number of each slice, 0 for the first to 1 for the last."""
        numbers = np.arange(len(self.order)) - self.first[self.candidate]
        fractions: Floats = numbers / np.maximum(self.counts - 1, 1)[self.candidate]
        return fractions

    def _off_grid(self) -> Floats:
        """Return how far each slice lies from its even position, mm."""
        start = self.positions[self.first]
        extent = self.positions[self._last()] - start
        even = start[self.candidate] + self._fractions() * extent[self.candidate]
        return self.positions - even

    def _off_normal(self) -> tuple[Bools, Bools]:
        """Return which candidates are sheared, and which are shifted in another way."""
        starts = self.origins[self.first][self.candidate]
        normals = self.normals[self.candidate]
        across = _across(self.origins, normals, starts)
        ends = across[self._last()][self.candidate]
        # In proportion to the position of a slice, not to its number: a stack that is
        # tilted and uneven is called tilted.
        start = self.positions[self.first][self.candidate]
        extent = (self.positions[self._last()][self.candidate] - start) + 0.0
        extent[extent == 0] = 1.0
        sheared = ends * ((self.positions - start) / extent)[:, np.newaxis]
        rest = across - sheared
        farthest = self._reduce(np.maximum, np.sqrt(_dot(across, across)))
        remaining = self._reduce(np.maximum, np.sqrt(_dot(rest, rest)))
        is_off = farthest > ALIGNMENT_TOLERANCE_MM
        is_sheared = remaining <= ALIGNMENT_TOLERANCE_MM
        return is_off & is_sheared, is_off & ~is_sheared


def _sort(
    origins: Floats,
    directions: Floats,
    kinds: NDArray[Any],
    times: Floats,
    chosen: Ints,
) -> tuple[Ints, Ints]:
    """Return the chosen images by candidate and position, and where each begins."""
    order = chosen[np.lexsort((times[chosen], kinds[chosen]))]
    kind, time = kinds[order], times[order]
    # NaN differs from itself, but all unknown times are one.
    is_same_time = (time[1:] == time[:-1]) | (np.isnan(time[1:]) & np.isnan(time[:-1]))
    is_new = ~is_same_time | (kind[1:] != kind[:-1])
    first = np.flatnonzero(np.concatenate([[True], is_new]))
    candidate = np.concatenate([[0], np.cumsum(is_new)])
    normals = _least_normals(directions[order], candidate, first)
    positions = _positions(origins[order], normals[candidate])
    # Images at one position are no volume, in whichever order they are.
    return order[np.lexsort((positions, candidate))], first


def _least_normals(directions: Floats, candidate: Ints, first: Ints) -> Floats:
    """Return the normal of the least directions of each candidate, float64 (s, 3)."""
    order = np.lexsort((*directions.T[::-1], candidate))
    return _normals(directions[order][first])


def _are_unmatched(
    directions: Floats, kinds: NDArray[Any], times: Floats, known: Bools
) -> Bools:
    """Return which known images have no time, though others of their stack have one."""
    is_unmatched = np.zeros(len(times), dtype=bool)
    if np.isnan(times[known]).any() and np.isfinite(times[known]).any():
        stack = number_stacks(directions[known], kinds[known])
        has_times = np.zeros(len(stack), dtype=bool)
        has_times[stack[np.isfinite(times[known])]] = True
        is_unmatched[known] = np.isnan(times[known]) & has_times[stack]
    return is_unmatched


def _are_told_apart(values: Floats, site: Ints) -> Bools:
    """Return at which sites all values are known, and no two are equal: bool (s,)."""
    is_known = np.isfinite(values)
    order = np.lexsort((np.where(is_known, values, 0.0), site))
    is_equal = (np.diff(values[order]) == 0) & (np.diff(site[order]) == 0)
    is_told = np.ones(site[-1] + 1, dtype=bool)
    is_told[site[~is_known]] = False
    is_told[site[order][1:][is_equal]] = False
    return is_told


def _number_by_identifiers(identifiers: Floats, site: Ints) -> Floats:
    """Return the times of the images of a stack, by temporal position, float64 (n,).

    identifiers : float64 (n,), by site, rising and distinct at each
    """
    images_at = np.bincount(site - site[0])
    images_at = images_at[images_at > 0]
    first = np.cumsum(images_at) - images_at
    rising = np.sort(identifiers)
    is_new = np.diff(rising, prepend=np.nan) != 0
    # They count all images, through the slices.
    if is_new.all() and (images_at == images_at[0]).all():
        ranks = np.arange(len(site)) - np.repeat(first, images_at)
        return ranks.astype(np.float64)
    return np.searchsorted(rising[is_new], identifiers).astype(np.float64)


@dataclass(slots=True, kw_only=True)
class _Triggers:
    """The trigger times of a stack, and the intervals between them.

    times  : float64 (n,), ms, by site, rising and distinct at each
    site   : int64 (n,), from 0
    counts : int64 (s,), images at each site
    first  : int64 (s,), where each site begins
    ranks  : int64 (n,), at the site, from 0
    gaps   : float64 (g,), ms, from each image to the next one of its site
    gap_at : int64 (g,), the site of each
    """

    times: Floats
    site: Ints
    counts: Ints = field(init=False)
    first: Ints = field(init=False)
    ranks: Ints = field(init=False)
    gaps: Floats = field(init=False)
    gap_at: Ints = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.bincount(self.site)
        self.first = np.cumsum(self.counts) - self.counts
        self.ranks = np.arange(len(self.site)) - self.first[self.site]
        is_gap = np.diff(self.site) == 0
        self.gaps = np.diff(self.times)[is_gap]
        self.gap_at = self.site[1:][is_gap]


def _number_by_triggers(times_ms: Floats, site: Ints) -> Floats:
    """Return the times of the images of a stack, by trigger time, float64 (n,).

    times_ms : float64 (n,), by site, rising and distinct at each
    """
    is_new = (np.diff(site, prepend=site[0]) > 0).astype(np.int64)
    triggers = _Triggers(times=times_ms, site=np.cumsum(is_new))
    # Values without sense overflow, or divide by zero: they match nothing.
    with np.errstate(all="ignore"):
        by_pattern = _match_by_pattern(triggers)
        if np.isfinite(by_pattern).all():
            return by_pattern
        by_intervals = _match_by_intervals(triggers)
    known = [np.count_nonzero(np.isfinite(x)) for x in (by_pattern, by_intervals)]
    return by_pattern if known[0] > known[1] else by_intervals


def _match_by_pattern(triggers: _Triggers) -> Floats:
    """Return times by trigger times that are the same at all positions, float64 (n,).

    The pattern is the median over the positions that have the most images. At each time
    of it, these must differ by no more than TRIGGER_TOLERANCE, of the smallest gap that
    any of them has beside this time. Images of other positions must be as near. Such a
    position has times if it has half of the images of the pattern, and each is near
    another time; a single image proves nothing.

    Returns float64 (n,)
    """
    times, site, counts = triggers.times, triggers.site, triggers.counts
    unknown = np.full(len(times), np.nan)
    most = counts.max()
    full = triggers.first[counts == most]
    rows = times[full[:, np.newaxis] + np.arange(most)]
    gaps = np.diff(rows, axis=1).min(axis=0)
    gaps = np.concatenate([[np.inf], gaps, [np.inf]])
    limits = TRIGGER_TOLERANCE * np.minimum(gaps[:-1], gaps[1:])
    if not (np.ptp(rows, axis=0) <= limits).all():
        return unknown
    # Not np.median, which imports numpy.ma when it is first called: 8 ms.
    sorted_rows = np.sort(rows, axis=0)
    pattern = (sorted_rows[(len(rows) - 1) // 2] + sorted_rows[len(rows) // 2]) / 2
    after = np.searchsorted(pattern, times).clip(1, most - 1)
    nearest = after - (times - pattern[after - 1] < pattern[after] - times)
    agrees = np.abs(times - pattern[nearest]) <= limits[nearest]
    agrees[1:] &= (np.diff(nearest) > 0) | (np.diff(site) > 0)
    is_matched = np.logical_and.reduceat(agrees, triggers.first)
    is_matched &= (counts > 1) & (2 * counts >= most)
    return np.where(is_matched[site], nearest, unknown)


def _match_by_intervals(triggers: _Triggers) -> Floats:
    """Return times by numbers of intervals, which each position has of its own.

    Images at a position are regular if their trigger times are near a straight line
    over whole numbers, some of which may be missing. Its slope is the interval. Where
    the line begins, counted in intervals and also in ms, says which number the first
    image has. A position that begins between two numbers has no times. Only if nothing
    is missing anywhere do all have their ranks, wherever they begin.

    Returns float64 (n,)
    """
    site, counts, gap_at = triggers.site, triggers.counts, triggers.gap_at
    steps = triggers.gaps / _lower_medians(triggers.gaps, gap_at)[gap_at]
    whole = np.rint(steps)
    is_odd = ~(np.abs(steps - whole) <= TRIGGER_TOLERANCE)
    is_odd |= (whole < 1) | (whole > LONGEST_GAP)
    is_regular = counts > 1
    is_regular[gap_at[is_odd]] = False

    # The line of each position: its interval and beginning, ms.
    number = np.zeros(len(site))
    number[triggers.ranks > 0] = np.where(is_odd, 1.0, whole)
    number = np.cumsum(number)
    number -= number[triggers.first][site]

    def mean(values: Floats) -> Floats:
        means: Floats = np.bincount(site, weights=values) / counts
        return means

    mean_number, mean_time = mean(number), mean(triggers.times)
    off_number = number - mean_number[site]
    off_time = triggers.times - mean_time[site]
    variance = mean(off_number**2)
    interval = mean(off_number * off_time) / variance
    beginning = mean_time - mean_number * interval
    residuals = off_time / interval[site] - off_number
    is_regular &= np.maximum.reduceat(np.abs(residuals), triggers.first) <= (
        TRIGGER_TOLERANCE
    )
    if not is_regular.any():
        return np.full(len(site), np.nan)
    of_gaps = np.sort(interval[gap_at[is_regular[gap_at]]])
    typical = of_gaps[(len(of_gaps) - 1) // 2]
    ratio = np.log(interval / typical)
    is_regular &= np.abs(ratio) <= np.log1p(INTERVAL_TOLERANCE)

    # Where each site begins, in intervals, and how well this is known.
    surplus = np.maximum(np.sum(counts[is_regular] - 2), 1)
    deviation = np.sqrt(np.sum(residuals[is_regular[site]] ** 2) / surplus)
    deviation = np.maximum(deviation, LEAST_DEVIATION)
    error = deviation * np.sqrt((1 + (mean_time / interval) ** 2 / variance) / counts)
    has_phase = is_regular & (error <= BEGINNING_ERROR)
    phase = beginning / interval
    known_phases = np.sort(phase[has_phase])
    usual = known_phases[(len(known_phases) - 1) // 2] if len(known_phases) else np.nan
    shift = np.rint(phase - usual)
    for off in (phase - usual, (beginning - usual * typical) / interval):
        has_phase &= np.abs(off - shift) <= TRIGGER_TOLERANCE

    # Nothing is missing inside, and all have as many images. Nothing is at the ends if
    # all begin within an interval, or all later than others end. Beginnings that are
    # nearly an interval apart must have others between: slices imaged in turn.
    if is_regular.all() and (counts == counts[0]).all() and (whole == 1).all():
        apart = min(np.ptp(phase), np.ptp(beginning) / typical)
        between = np.diff(np.sort(phase))
        if (
            apart <= 1 - TRIGGER_TOLERANCE
            or (apart < 1 and (between <= TRIGGER_TOLERANCE).all())
            or (between >= counts[0] - TRIGGER_TOLERANCE).all()
        ):
            return triggers.ranks.astype(np.float64)
    times = np.where(has_phase[site], number + shift[site], np.nan)
    return times - np.nanmin(times) if has_phase.any() else times


def _lower_medians(values: Floats, group: Ints) -> Floats:
    """Return the median of each group, float64; of two, the lower one."""
    counts = np.bincount(group)
    middle = np.cumsum(counts) - counts + np.maximum(counts - 1, 0) // 2
    rising: Floats = values[np.lexsort((values, group))]
    medians: Floats = rising[middle.clip(0, len(rising) - 1)]
    return medians


def _planeless(origins: Floats, directions: Floats, spacings: Floats) -> list[str]:
    """Return the problem of the images that have no plane, if there are any."""
    has_position = _are_positions(origins)
    has_directions = np.isfinite(directions).all(axis=1)
    is_orthogonal = _are_directions(directions)
    has_spacing = _are_spacings(spacings)
    conditions = {
        "without a position": ~has_position,
        "without directions": has_position & ~has_directions,
        "whose directions are not orthogonal unit vectors": (
            has_position & has_directions & ~is_orthogonal
        ),
        "without a pixel spacing": has_position & is_orthogonal & ~has_spacing,
    }
    counts = {text: int(np.count_nonzero(is_so)) for text, is_so in conditions.items()}
    found = [
        f"{_counted(count, 'image')} {text}" for text, count in counts.items() if count
    ]
    return [f"no plane: {', '.join(found)}"] if found else []


def _several(counts: NDArray[Any], what: str) -> str:
    """Return for example "2 shapes (20 and 1)", or only how many if there are many."""
    numbers = sorted(map(int, counts), reverse=True)
    if len(numbers) > 5:
        return f"{len(numbers)} {what}"
    if len(numbers) == 1:  # they drift, without a step that would tell them apart
        return f"varying {what}"
    listed = ", ".join(map(str, numbers[:-1]))
    return f"{len(numbers)} {what} ({listed} and {numbers[-1]})"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _number_rows(rows: Floats, tolerance: float, kinds: Ints | None = None) -> Ints:
    """Return a number for each row, from 0, equal for those that hardly differ.

    kinds : int64 (n,); rows of different kinds are told apart

    Rows are told apart where the sorted values of a column have a step that is greater
    than the tolerance. NaN equals NaN alone.
    """
    numbers = np.zeros(len(rows), dtype=np.int64) if kinds is None else kinds.copy()
    for column in np.where(np.isnan(rows), np.inf, rows).T:
        order = np.lexsort((column, numbers))
        with np.errstate(invalid="ignore"):
            is_new = np.diff(column[order]) > tolerance
        is_new |= np.diff(numbers[order]) > 0
        numbers[order[:1]] = 0
        numbers[order[1:]] = np.cumsum(is_new)
    return numbers


def _dot(a: Floats, b: Floats) -> Any:
    """Return the products of vectors: for each alone, unlike a matrix product."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


def _normals(directions: Floats) -> Floats:
    """Return the unit normals of directions, float64 (..., 6) to (..., 3)."""
    normals: Floats = np.cross(directions[..., :3], directions[..., 3:])
    normals /= np.sqrt(_dot(normals, normals))[..., np.newaxis]
    return normals


def _positions(origins: Floats, normals: Floats) -> Floats:
    # Adding zero makes -0.0 positive.
    positions: Floats = _dot(origins, normals) + 0.0
    return positions


def _across(origins: Floats, normals: Floats, starts: Floats | None = None) -> Floats:
    """Return the part across the normal of the way from the first origin, mm."""
    offsets = origins - (origins[0] if starts is None else starts)
    across: Floats = offsets - _dot(offsets, normals)[..., np.newaxis] * normals
    return across


def _are_positions(origins: Floats) -> Any:
    """Return which rows are finite positions within the bounds."""
    return (np.abs(origins) <= MAX_COORDINATE_MM).all(axis=-1)


def _are_directions(directions: Floats) -> Any:
    """Return which rows are two unit vectors that are orthogonal."""
    row, column = directions[..., :3], directions[..., 3:]
    with np.errstate(over="ignore", invalid="ignore"):
        return (
            (np.abs(np.sqrt(_dot(row, row)) - 1) <= DIRECTION_TOLERANCE)
            & (np.abs(np.sqrt(_dot(column, column)) - 1) <= DIRECTION_TOLERANCE)
            & (np.abs(_dot(row, column)) <= DIRECTION_TOLERANCE)
        )


def _are_spacings(spacings: Floats) -> Any:
    """Return which rows are finite spacings within the bounds."""
    is_within = (spacings >= MIN_SPACING_MM) & (spacings <= MAX_COORDINATE_MM)
    return is_within.all(axis=-1)


def _vector(values: ArrayLike, name: str, length: int) -> Floats:
    array = as_array(values, name, GeometryError)
    if array.shape != (length,):
        raise GeometryError(f"{name} has shape {array.shape}, expected ({length},)")
    return array.astype(np.float64)


def _table(values: ArrayLike, name: str, width: int) -> Floats:
    array = as_array(values, name, GeometryError)
    if array.ndim != 2 or array.shape[1] != width:
        raise GeometryError(f"{name} has shape {array.shape}, expected (n, {width})")
    return np.asarray(array, dtype=np.float64)


def _column(values: ArrayLike, name: str, kinds: str = "iuf") -> NDArray[Any]:
    array = as_array(values, name, GeometryError, kinds=kinds)
    if array.ndim != 1:
        raise GeometryError(f"{name} has shape {array.shape}, expected (n,)")
    return array


def _check_lengths(*columns: NDArray[Any]) -> None:
    lengths = [len(column) for column in columns]
    if len({*lengths}) > 1:
        raise GeometryError(f"columns have lengths {lengths}, expected the same")


def _finite(results: Floats, given: Floats) -> Floats:
    """Return results, or raise the error that names a point without one."""
    is_finite = np.isfinite(results).all(axis=1)
    if not is_finite.all():
        k = int(np.argmin(is_finite))
        raise GeometryError(
            f"point {k} is {shown(given[k].tolist())}, expected finite numbers"
        )
    return results
