"""The images of a tree in stacks, and the images on whose planes contours lie.

images ──> Stacks: the parallel images of a series, by position
contours ──┬─ resolve: the images that they name
           └─ match: the images on whose planes all of their points lie

A contour belongs to the images that it names if it lies on their planes. If it names
none that is there, it belongs to the image nearest to it among the candidates: those of
the series that its structure set names, else those of the same patient in the same
frame of reference. All points must lie within the tolerance of the plane.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg import geometry
from fastseg.dicom.structure_set import StructureSet
from fastseg.errors import OptionError, real_number
from fastseg.geometry import SAME_POSITION_MM
from fastseg.links import Links
from fastseg.sources.series import Planes, number_series
from fastseg.sources.tree import TreeImage

# mm. A contour may be at least so far off a plane: positions are written with two
# digits or one, and public structure sets are off by up to 0.06 mm.
LEAST_TOLERANCE_MM = 0.1
# As a fraction of the least distance between neighbouring positions of a stack. Up to
# half of it, only one plane is near enough; farther off than a tenth, something is
# wrong.
TOLERANCE_FRACTION = 0.1
# mm. Slices are thinner than this; a greater tolerance could draw a contour anywhere.
MAX_PLANE_TOLERANCE_MM = 10.0

NOWHERE = (
    "names no image and no series that is here, and no image of its patient has its "
    "frame of reference"
)
# How a contour was matched.
BY_INSTANCE, BY_SERIES, BY_FRAME = range(3)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def check_tolerance(value: object) -> float:
    """Return the option `plane_tolerance_mm`, or raise OptionError."""
    number = real_number("plane_tolerance_mm", value)
    if not 0 < number <= MAX_PLANE_TOLERANCE_MM:
        raise OptionError(
            f"plane_tolerance_mm is {number:g}, expected more than 0 and at most "
            f"{MAX_PLANE_TOLERANCE_MM:g} mm"
        )
    return number


@dataclass(slots=True, kw_only=True, eq=False)
class Stack:
    """The parallel images of a series that have planes.

    series     : number of the series, see `Stacks`
    rows       : int64 (n,), the images, by position
    normal     : float64 (3,)
    positions  : float64 (s,), mm along the normal, rising, where there are images
    first      : int64 (s + 1,): the images at position k are
        `rows[first[k]:first[k + 1]]`
    step       : mm between neighbouring positions, at least; of one position the
        thickness of its slice; 0 if that is unknown
    tolerance  : mm
    spread     : mm, how far apart contours of one slice may lie
    is_uniform : whether all images have the same directions
    """

    series: int
    rows: Ints
    normal: Floats
    positions: Floats
    first: Ints
    step: float
    tolerance: float
    spread: float
    is_uniform: bool

    def nearest(self, low: Floats, high: Floats) -> tuple[Ints, Ints, Floats]:
        """Return the positions nearest to contours, and how far off these are.

        low, high : float64 (k,), mm, what the contours extend over along the normal

        Returns first and stop, int64 (k,), of a range of `positions`: of two, if a
        contour lies in the middle between them; and float64 (k,), mm, the distance of
        the farthest point.
        """
        middle = (low + high) / 2
        count = len(self.positions)
        after = np.searchsorted(self.positions, middle).clip(0, count - 1)
        before = (after - 1).clip(0)
        to_after = np.abs(self.positions[after] - middle)
        to_before = np.abs(middle - self.positions[before])
        first = np.where(to_after - to_before > -SAME_POSITION_MM, before, after)
        stop = np.where(to_before - to_after > -SAME_POSITION_MM, after, before) + 1
        nearest = self.positions[np.where(to_before < to_after, before, after)]
        return first, stop, np.maximum(high - nearest, nearest - low)


class Stacks:
    """Images in columns, and the stacks that they form; row k is image k.

    images  : as given
    patients_known : the patients
    series  : int64 (n,), numbers of the series, see `number_series`
    frames  : int64 (n,), the number of frames of the file of each
    stack   : int64 (n,), the index in `stacks`, -1 for an image without a plane
    by_instance : the first frame of each SOPInstanceUID
    """

    def __init__(
        self,
        images: Sequence[TreeImage],
        links: Links,
        planes: Planes,
        tolerance_mm: float | None,
    ):
        self.images = images
        self.patients_known = {*links.patient.texts}
        self.series = number_series(links)
        # Numbers are in the order of the first images.
        firsts = np.unique(self.series, return_index=True)[1]
        self._first_rows: list[int] = firsts.tolist()
        self._patients = links.patient.pick(firsts).values()
        self.frames = np.array([image.header.frames for image in images], np.int64)
        self.by_instance: dict[bytes, int] = {}
        self._by_series: dict[str, dict[int, None]] = defaultdict(dict)
        self._by_frame: dict[str, dict[int, None]] = defaultdict(dict)
        for row, (image, number) in enumerate(
            zip(images, self.series.tolist(), strict=True)
        ):
            header = image.header
            if header.sop_instance:
                self.by_instance.setdefault(header.sop_instance.encode(), row)
            if header.series:
                self._by_series[header.series][number] = None
            if header.frame_of_reference:
                self._by_frame[header.frame_of_reference][number] = None
        self._number_stacks(planes, tolerance_mm)

    def _number_stacks(self, planes: Planes, tolerance_mm: float | None) -> None:
        """Set `stacks`, and the columns of images that depend on them."""
        origins, directions, spacings, _ = planes
        known = np.flatnonzero(geometry.have_planes(origins, directions, spacings))
        self.stack = np.full(len(self.images), -1)
        self.positions = np.full(len(self.images), np.nan)
        self.tolerances = np.full(len(self.images), np.nan)
        self.spreads = np.full(len(self.images), np.nan)
        self._origins = origins
        self._directions = directions
        self.stacks: list[Stack] = []
        self._of_series: dict[int, list[int]] = defaultdict(list)
        if not len(known):
            return
        stack = geometry.number_stacks(directions[known], self.series[known])
        normals = geometry.stack_normals(directions[known], stack)
        self.stack[known] = stack
        positions = np.sum(origins[known] * normals[stack], axis=1)
        self.positions[known] = positions
        order = np.lexsort((positions, stack))
        bounds = np.searchsorted(stack[order], np.arange(len(normals) + 1))
        for k, normal in enumerate(normals):
            rows = known[order[bounds[k] : bounds[k + 1]]]
            made = self._stack(rows, normal, tolerance_mm)
            self.tolerances[rows] = made.tolerance
            self.spreads[rows] = made.spread
            self._of_series[made.series].append(k)
            self.stacks.append(made)

    def _stack(self, rows: Ints, normal: Floats, tolerance_mm: float | None) -> Stack:
        """Return the stack of some images, sorted by position."""
        positions = self.positions[rows]
        is_new = np.diff(positions, prepend=-np.inf) > SAME_POSITION_MM
        first = np.flatnonzero(is_new)
        sites = positions[first]
        if len(sites) > 1:
            distance = float(np.diff(sites).min())
        else:
            thicknesses = [self.images[k].header.slice_thickness_mm for k in rows]
            distance = min((x for x in thicknesses if x), default=0.0)
        spread = max(TOLERANCE_FRACTION * distance, LEAST_TOLERANCE_MM)
        tolerance = tolerance_mm
        if tolerance is None:
            least = spread if len(sites) > 1 else max(distance / 2, LEAST_TOLERANCE_MM)
            tolerance = min(least, MAX_PLANE_TOLERANCE_MM)
        directions = self._directions[rows]
        return Stack(
            series=int(self.series[rows[0]]),
            rows=rows,
            normal=normal,
            positions=sites,
            first=np.append(first, len(rows)),
            step=distance,
            tolerance=tolerance,
            spread=spread,
            is_uniform=bool((directions == directions[0]).all()),
        )

    def in_series(self, uid: str) -> list[int]:
        """Return the numbers of the series with a SeriesInstanceUID: one a patient."""
        return list(self._by_series.get(uid, ()))

    def in_frame(self, uid: str, patient: str) -> list[int]:
        """Return the numbers of a patient's series in a frame of reference.

        patient : "" for any
        """
        return [
            number
            for number in self._by_frame.get(uid, ())
            if not patient or self.patient_of(number) == patient
        ]

    def patient_of(self, series: int) -> str:
        """Return the patient of a series."""
        return self._patients[series]

    def first_row(self, series: int) -> int:
        """Return the first image of a series."""
        return self._first_rows[series]

    def stacks_of(self, series: Iterable[int]) -> list[Stack]:
        """Return the stacks of some series."""
        return [self.stacks[k] for number in series for k in self._of_series[number]]

    def distances(self, row: int, points: Floats) -> Floats:
        """Return how far points lie off the plane of an image, mm, (n, 3) to (n,)."""
        directions = self._directions[row]
        normal = np.cross(directions[:3], directions[3:])
        normal /= np.sqrt(np.sum(normal * normal))
        distances: Floats = np.abs((points - self._origins[row]) @ normal)
        return distances


def resolve(
    stacks: Stacks, structure_set: StructureSet, contours: Ints
) -> tuple[Ints, Ints]:
    """Return the images that contours name, as pairs.

    contours : int64 (k,), indices of contours

    Returns two int64 (p,): numbers of contours, from 0 to k - 1, and images. A file
    without a frame number means all of its frames.
    """
    columns = structure_set.contours
    bounds = columns.ref_bounds
    starts = bounds[contours]
    counts = bounds[contours + 1] - starts
    owner = np.repeat(np.arange(len(contours)), counts)
    references = _ranges(starts, counts)
    instances = columns.ref_instances[references].tolist()
    frame = columns.ref_frames[references]
    first = np.array([stacks.by_instance.get(uid, -1) for uid in instances], np.int64)
    known = np.flatnonzero(first >= 0)
    owner, first, frame = owner[known], first[known], frame[known]
    frames = stacks.frames[first]
    are_all = frame == 0
    known = np.flatnonzero(are_all | (frame <= frames))
    owner, first, frame = owner[known], first[known], frame[known]
    counts = np.where(are_all, frames, 1)[known]
    starts = first + np.maximum(frame - 1, 0)
    return np.repeat(owner, counts), _ranges(starts, counts)


class Candidates(NamedTuple):
    """Where contours without a resolved reference may lie.

    way      : BY_SERIES or BY_FRAME
    series   : numbers of series
    frame    : FrameOfReferenceUID that an image must have; "" for any
    """

    way: int
    series: tuple[int, ...]
    frame: str = ""


class Unmatched(NamedTuple):
    """A contour that belongs to no image.

    contour : its number
    kind    : why, in words that other contours share
    text    : why
    off_mm  : its distance from the plane; NaN if that is not the reason
    images  : those that it may belong to
    """

    contour: int
    kind: str
    text: str
    off_mm: float
    images: tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class Matches:
    """Which contours belong to which images.

    contour, image : int64 (p,), pairs
    off_mm    : float64 (p,), how far the contour lies off the plane of the image
    middle_mm : float64 (p,), on which side of the plane its middle lies, and how far
    ways      : int64 (k,), how each contour was matched, -1 for one that was not
    unmatched : those contours
    """

    contour: Ints
    image: Ints
    off_mm: Floats
    middle_mm: Floats
    ways: Ints
    unmatched: list[Unmatched]


def match(
    stacks: Stacks,
    points: tuple[Floats, Ints],
    references: tuple[Ints, Ints],
    candidates: Sequence[Candidates],
    group: Ints,
) -> Matches:
    """Return the images to which contours belong.

    points     : float64 (n, 3), mm, and int64 (k + 1,), where each contour begins
    references : of `resolve`
    candidates : of some groups of contours
    group      : int64 (k,), the group of each contour
    """
    return _Matching(stacks, _Extents(*points), len(group)).run(
        references, candidates, group
    )


@dataclass(slots=True)
class _Extents:
    """What contours extend over along normals.

    points : float64 (n, 3), mm; rows with NaN do not count
    ends   : int64 (k + 1,)
    """

    points: Floats
    ends: Ints
    _known: dict[bytes, tuple[Floats, Floats]] = field(default_factory=dict)

    def along(self, normal: Floats) -> tuple[Floats, Floats]:
        """Return low and high, float64 (k,), mm; NaN of a contour without points."""
        key = normal.tobytes()
        if key not in self._known:
            on_normal = self.points @ normal
            counts = np.diff(self.ends)
            low = np.full(len(counts), np.nan)
            high = low.copy()
            filled = np.flatnonzero(counts)
            if len(filled):
                starts = self.ends[:-1][filled]
                low[filled] = np.fmin.reduceat(on_normal, starts)
                high[filled] = np.fmax.reduceat(on_normal, starts)
            self._known[key] = low, high
        return self._known[key]

    def of(self, contour: int) -> Floats:
        """Return the points of a contour."""
        return self.points[self.ends[contour] : self.ends[contour + 1]]


class _Matching:
    """Matches the contours of one structure set."""

    def __init__(self, stacks: Stacks, extents: _Extents, count: int):
        self._stacks = stacks
        self._extents = extents
        self._ways = np.full(count, -1)
        self._pairs: list[tuple[Ints, Ints, Floats]] = []
        self._unmatched: list[Unmatched] = []

    def run(
        self,
        references: tuple[Ints, Ints],
        candidates: Sequence[Candidates],
        group: Ints,
    ) -> Matches:
        """Match all contours."""
        named = np.zeros(len(group), np.bool_)
        named[references[0]] = True
        self._match_references(*references)
        astray = np.flatnonzero(named & (self._ways < 0))
        for k, some in enumerate(candidates):
            of_group = np.flatnonzero(~named & (group == k))
            if len(of_group):
                owner, image = references
                named_by_others = image[group[owner] == k]
                self._match_positions(of_group, some, named_by_others)
        if len(astray):
            self._report_astray(astray, *references)
        contour, image, off = map(np.concatenate, zip(*self._pairs, strict=True))
        return Matches(
            contour=contour,
            image=image,
            off_mm=off,
            middle_mm=self._middles(contour, image),
            ways=self._ways,
            unmatched=self._unmatched,
        )

    def _middles(self, contour: Ints, image: Ints) -> Floats:
        """Return `Matches.middle_mm` of some pairs."""
        middles = np.empty(len(contour))
        numbers = self._stacks.stack[image]
        for number in {*numbers.tolist()}:
            low, high = self._extents.along(self._stacks.stacks[number].normal)
            pairs = np.flatnonzero(numbers == number)
            some = contour[pairs]
            middles[pairs] = (low[some] + high[some]) / 2
        middles -= self._stacks.positions[image]
        return middles

    def _match_references(self, owner: Ints, image: Ints) -> None:
        """Match the contours that lie on the planes of images that they name."""
        off = self._off_planes(owner, image)
        with np.errstate(invalid="ignore"):
            fits = np.flatnonzero(off <= self._stacks.tolerances[image])
        self._ways[owner[fits]] = BY_INSTANCE
        self._pairs.append((owner[fits], image[fits], off[fits]))

    def _off_planes(self, owner: Ints, image: Ints) -> Floats:
        """Return how far contours are off the planes of images, pair by pair, mm."""
        off = np.full(len(owner), np.nan)
        numbers = self._stacks.stack[image]
        for number in {*numbers.tolist()} - {-1}:
            stack = self._stacks.stacks[number]
            pairs = np.flatnonzero(numbers == number)
            if stack.is_uniform:
                low, high = self._extents.along(stack.normal)
                at = self._stacks.positions[image[pairs]]
                some = owner[pairs]
                off[pairs] = np.maximum(high[some] - at, at - low[some])
                continue
            for k in pairs.tolist():
                off[k] = self._off_plane(int(owner[k]), int(image[k]))
        return off

    def _off_plane(self, contour: int, image: int) -> float:
        distances = self._stacks.distances(image, self._extents.of(contour))
        return float(np.fmax.reduce(distances, initial=-np.inf))

    def _match_positions(
        self, contours: Ints, candidates: Candidates, named: Ints
    ) -> None:
        """Match contours with the candidates that are nearest to them.

        named : images that other contours of the group name
        """
        stacks = self._stacks.stacks_of(candidates.series)
        if not stacks:
            text = NOWHERE
            if candidates.series:
                text = "may belong to a series, but its images have no plane"
            # Masks that are drawn of the others may lack it.
            series = dict.fromkeys(self._stacks.series[named].tolist())
            self._unmatched += [
                Unmatched(k, text, text, np.nan, tuple(self._fitting(k, series)))
                for k in contours.tolist()
            ]
            return
        off = np.empty((len(stacks), len(contours)))
        first = np.empty(off.shape, np.int64)
        stop = np.empty(off.shape, np.int64)
        for row, stack in enumerate(stacks):
            low, high = (x[contours] for x in self._extents.along(stack.normal))
            first[row], stop[row], off[row] = stack.nearest(low, high)
        off[np.isnan(off)] = np.inf
        limits = np.array([[stack.tolerance] for stack in stacks])
        fits = off <= limits
        counts = fits.sum(axis=0)
        best = np.argmax(fits, axis=0)
        for row in {*best[counts == 1].tolist()}:
            self._match_stack(
                stacks[row],
                candidates,
                contours,
                np.flatnonzero((counts == 1) & (best == row)),
                (first[row], stop[row], off[row]),
            )
        for k in np.flatnonzero(counts == 0).tolist():
            nearest = int(np.argmin(off[:, k]))
            contour, distance = int(contours[k]), float(off[nearest, k])
            stack = stacks[nearest]
            unmatched = _off_plane(
                contour,
                distance,
                stack.tolerance,
                self._touched(contour, stacks),
                is_missing=self._lacks_image(contour, distance, stack),
            )
            self._unmatched.append(unmatched)
        for k in np.flatnonzero(counts > 1).tolist():
            images = [
                image
                for row in np.flatnonzero(fits[:, k]).tolist()
                for image in _images_at(stacks[row], first[row, k], stop[row, k])
            ]
            self._refuse_several(int(contours[k]), images)

    def _match_stack(
        self,
        stack: Stack,
        candidates: Candidates,
        contours: Ints,
        chosen: Ints,
        nearest: tuple[Ints, Ints, Floats],
    ) -> None:
        """Match contours with the images of one stack, on which they lie.

        chosen  : indices of contours
        nearest : of all contours, positions first to stop and distances
        """
        first, stop, off = (values[chosen] for values in nearest)
        begin, end = stack.first[first], stack.first[stop]
        is_one = end - begin == 1
        image = stack.rows[begin]
        if not stack.is_uniform or candidates.frame:
            for k in np.flatnonzero(is_one).tolist():
                row, contour = int(image[k]), int(contours[chosen[k]])
                header = self._stacks.images[row].header
                if candidates.frame not in ("", header.frame_of_reference):
                    is_one[k] = False
                    text = "lies on an image of another frame of reference"
                    self._unmatched.append(
                        Unmatched(contour, text, text, np.nan, (row,))
                    )
                elif not stack.is_uniform:
                    exact = self._off_plane(contour, row)
                    if not exact <= stack.tolerance:
                        is_one[k] = False
                        self._unmatched.append(
                            _off_plane(contour, exact, stack.tolerance, (row,))
                        )
                    off[k] = exact
        owner = contours[chosen[is_one]]
        self._ways[owner] = candidates.way
        self._pairs.append((owner, image[is_one], off[is_one]))
        for k in np.flatnonzero(end - begin > 1).tolist():
            images = stack.rows[begin[k] : end[k]].tolist()
            self._refuse_several(int(contours[chosen[k]]), images)

    def _lacks_image(self, contour: int, distance: float, stack: Stack) -> bool:
        """Return whether a contour lies where another image of the stack could be.

        It is parallel to the images, and about as far from them as these from each
        other.

        distance : mm, from the nearest image
        """
        low, high = self._extents.along(stack.normal)
        is_parallel = high[contour] - low[contour] <= stack.tolerance
        is_free = distance >= (1 - TOLERANCE_FRACTION) * stack.step > 0
        return bool(is_parallel and is_free)

    def _touched(self, contour: int, stacks: Sequence[Stack]) -> tuple[int, ...]:
        """Return the images on whose planes most points of a contour lie.

        A single point that is off a plane makes the contour unusable, but it is a part
        of the mask there. An oblique contour, which crosses planes, is not.
        """
        points = self._extents.of(contour)
        found: list[int] = []
        for stack in stacks:
            low, high = self._extents.along(stack.normal)
            if not high[contour] - low[contour] > stack.tolerance:
                continue
            on_normal = points @ stack.normal
            middle = np.sort(on_normal)[len(points) // 2 :][:1]
            first, stop, _ = stack.nearest(middle, middle)
            off = np.abs(on_normal - stack.positions[first])
            if 2 * np.count_nonzero(off <= stack.tolerance) > len(points):
                found += _images_at(stack, first[0], stop[0])
        return tuple(found)

    def _refuse_several(self, contour: int, images: Sequence[int]) -> None:
        """List a contour that fits several images."""
        series = {int(self._stacks.series[k]): None for k in images}
        if len(series) > 1:
            kind = "fits several series equally, and names no image of any"
            names = [name_series(self._stacks, number) for number in series]
            text = f"fits {len(series)} series equally, and names no image of any"
        else:
            kind = "fits several images equally, and names none of them"
            names = [self._name(k) for k in images]
            text = f"fits {len(images)} images equally, and names none of them"
        text += f": {list_names(names)}"
        self._unmatched.append(Unmatched(contour, kind, text, np.nan, tuple(images)))

    def _report_astray(self, contours: Ints, owner: Ints, image: Ints) -> None:
        """List contours that do not lie on the planes of the images that they name."""
        off = self._off_planes(owner, image)
        order = np.lexsort((off, owner))
        for k in contours.tolist():
            rows = order[
                np.searchsorted(owner[order], k) : np.searchsorted(owner[order], k + 1)
            ]
            named = [int(image[row]) for row in rows.tolist()]
            nearest = int(rows[0])
            path = self._name(named[0])
            if np.isnan(off[nearest]):
                kind = "names an image without a plane"
                text = f"names {path}, which has no plane"
                self._unmatched.append(Unmatched(k, kind, text, np.nan, tuple(named)))
                continue
            kind = "lies off the plane of the image that it names"
            text = f"names {path}, but lies {off[nearest]:.4g} mm off its plane"
            others = self._fitting(
                k, {int(self._stacks.series[x]): None for x in named}
            )
            if others:
                paths = [self._name(row) for row in others]
                text += f", on that of {list_names(paths)}"
            images = (*named, *others)
            self._unmatched.append(Unmatched(k, kind, text, off[nearest], images))

    def _name(self, image: int) -> str:
        """Return the path of an image, and the frame from 1 if the file has several."""
        path, frame, header = self._stacks.images[image]
        if header.frames == 1:
            return path
        return f"{path} (frame {frame + 1} of {header.frames})"

    def _fitting(self, contour: int, series: Iterable[int]) -> list[int]:
        """Return the images of some series on which a contour lies."""
        found: list[int] = []
        for stack in self._stacks.stacks_of(series):
            low, high = (
                values[contour : contour + 1]
                for values in self._extents.along(stack.normal)
            )
            first, stop, off = stack.nearest(low, high)
            if off[0] <= stack.tolerance:
                found += _images_at(stack, first[0], stop[0])
        return found


def name_series(stacks: Stacks, number: int) -> str:
    """Return a series in words, for messages: "CT in folder"."""
    image = stacks.images[stacks.first_row(number)]
    folder = image.path.rpartition("/")[0] or "."
    return f"{image.header.modality or 'a series'} in {folder}"


def _off_plane(
    contour: int,
    distance: float,
    tolerance: float,
    images: tuple[int, ...],
    *,
    is_missing: bool = False,
) -> Unmatched:
    """Return a contour that lies on no plane.

    images     : those that it may belong to
    is_missing : whether an image that it belongs to seems to be missing
    """
    if not np.isfinite(distance):
        text = "has no points that could lie on a plane"
        return Unmatched(contour, text, text, np.nan, ())
    where = "where an image seems to be missing, " if is_missing else ""
    kind = f"lies {where}off the nearest plane by more than {tolerance:.3g} mm"
    text = f"lies {distance:.4g} mm off the nearest plane, more than {tolerance:.3g} mm"
    if is_missing:
        text += "; an image seems to be missing there"
    return Unmatched(contour, kind, text, distance, images)


def _images_at(stack: Stack, first: int, stop: int) -> list[int]:
    """Return the images at some positions of a stack."""
    images: list[int] = stack.rows[stack.first[first] : stack.first[stop]].tolist()
    return images


def list_names(names: Sequence[str], most: int = 3) -> str:
    """Return the first of some names, uncut, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _ranges(starts: Ints, counts: Ints) -> Ints:
    """Return the numbers of some ranges, one after the other."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    numbers: Ints = np.arange(total) + np.repeat(starts - (ends - counts), counts)
    return numbers
