"""RT structure sets: contours of regions of interest (ROIs) in millimetres.

tree ── structure sets, one at a time ──> match ──> rows: image, class, contour_key
build: structure set ── parse, once ──> rings, for each row ──> groups in pixels

A link has the contours of one ROI on one image. Its `contour_key` is the ROINumber and
the numbers of the contours, "4:17,18" or "4:17-30": they count the items of the ROI's
ContourSequence from 1. So a build matches nothing again.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from math import nan
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.bounds import (
    MAX_STRUCTURE_SET_BYTES,
    MAX_STRUCTURE_SET_VALUES,
    MAX_TEXT_BYTES,
)
from fastseg.choices import Slices
from fastseg.dicom import Header
from fastseg.dicom.structure_set import (
    CLOSED_PLANAR,
    CLOSEDPLANAR_XOR,
    OPEN_NONPLANAR,
    OPEN_PLANAR,
    POINT,
    StructureSet,
    read_structure_set,
)
from fastseg.errors import (
    ContourError,
    DicomError,
    GeometryError,
    LinkError,
    choice,
)
from fastseg.files import open_regular
from fastseg.geometry import Plane, have_planes, patient_to_pixel
from fastseg.links import MAX_CLASSES, Link, Links, LinkTable
from fastseg.progress import Progress
from fastseg.reprs import listed, many
from fastseg.sources.aliases import Aliases
from fastseg.sources.base import Group
from fastseg.sources.stacks import (
    BY_FRAME,
    BY_INSTANCE,
    BY_SERIES,
    MAX_PLANE_TOLERANCE_MM,
    NOWHERE,
    Candidates,
    Matches,
    Stacks,
    match,
    name_series,
    resolve,
)
from fastseg.sources.tree import (
    DUPLICATE,
    STRUCTURE_SET,
    Patients,
    Tree,
    linkable_images,
    place_sorted,
)
from fastseg.tables import Reject, reason_of

FORMAT = "rtstruct"
KEY = re.compile(r"([0-9]{1,18}):((?:[0-9]{1,9}(?:-[0-9]{1,9})?(?:,(?!$)|$))+)")
# Types of contours that have no inside.
LEFT_OUT = {
    POINT: "POINT contour",
    OPEN_PLANAR: "OPEN_PLANAR contour",
    OPEN_NONPLANAR: "OPEN_NONPLANAR contour",
}
WAYS = {
    BY_INSTANCE: "by the images that they name",
    BY_SERIES: "by position in the series that their structure sets name",
    BY_FRAME: "by position in their frame of reference",
}
EMPTY = "empty RT structure set"
# Contours of an ROI that are rejected one by one for a kind of reason; more are one
# reject.
CONTOURS_LISTED = 20

# Points of `RtStruct.many_rings` that are converted at once: their planes take 112
# bytes for each.
POINTS_AT_ONCE = 2**14

Ints = NDArray[np.int64]


class RtStruct:
    """Reads the contours of RT structure sets."""

    format = FORMAT
    is_point_list = False
    joins = True
    max_bytes = MAX_STRUCTURE_SET_BYTES

    def parse(self, data: bytes, name: str) -> StructureSet:
        """Return a structure set, or raise ContourError."""
        try:
            return read_structure_set(data, name)
        except DicomError as exc:
            raise ContourError(str(exc)) from None

    def rings(
        self, parsed: StructureSet, link: Link, header: Header | None
    ) -> list[Group]:
        """Return the contours that a link names, in pixels of its image.

        CLOSEDPLANAR_XOR contours are a group that is always even-odd. Raises
        ContourError for contours that are not there or cannot be used, and if the image
        has no plane, or another one than where the contours lie.
        """
        name = link.contour_path
        number, wanted = _parse_key(link)
        try:
            contours = parsed.find(number)
        except ContourError as exc:
            raise ContourError(f"{name}: {exc}; link the images again") from None
        if wanted[-1] > len(contours):
            raise ContourError(
                f"{name}: ROI {number} has no contour {wanted[-1]}; link the images "
                "again"
            )
        indices = np.array([contours[k - 1] for k in wanted], np.int64)
        kinds = {*parsed.contours.kind[indices].tolist()}
        are_valid = bool(parsed.contours.is_valid[indices].all())
        if not are_valid or kinds not in ({CLOSED_PLANAR}, {CLOSEDPLANAR_XOR}):
            raise ContourError(
                f"{name}: contours {link.contour_key} are open, damaged or of several "
                "types; link the images again"
            )
        plane = _plane_of(header, link)
        points, ends = parsed.points(indices)
        pixels, off = plane.patient_to_pixel(points)
        farthest = float(np.abs(off).max(initial=0.0))
        if farthest > MAX_PLANE_TOLERANCE_MM:
            raise ContourError(
                f"{name}: {link.contour_key} lies {farthest:.4g} mm off the plane of "
                f"{link.dicom_path}; link the images again"
            )
        bounds = ends.tolist()
        rings = [pixels[a:b] for a, b in pairwise(bounds)]
        return [Group(rings, is_xor=kinds == {CLOSEDPLANAR_XOR})]

    def many_rings(
        self, parsed: StructureSet, links: Sequence[Link], headers: Sequence[Header]
    ) -> list[list[Group] | None]:
        """Return the contours of many links, each as `rings` does, or None."""
        results: list[list[Group] | None] = [None] * len(links)
        contours: list[int] = []
        stops: list[int] = []
        known = []
        for k, link in enumerate(links):
            with suppress(ContourError, IndexError):
                number, wanted = _parse_key(link)
                of_roi = parsed.find(number)
                contours += [of_roi[n - 1] for n in wanted]
                stops.append(len(contours))
                known.append(k)
        if not known:
            return results
        planes = np.array([_plane_row(headers[k]) for k in known])
        indices = np.array(contours, np.int64)
        sizes = np.diff(stops, prepend=0)
        firsts = np.cumsum(sizes) - sizes
        kind = parsed.contours.kind[indices]
        kinds = np.minimum.reduceat(kind, firsts)
        are_usable = (
            np.logical_and.reduceat(parsed.contours.is_valid[indices], firsts)
            & (kinds == np.maximum.reduceat(kind, firsts))
            & ((kinds == CLOSED_PLANAR) | (kinds == CLOSEDPLANAR_XOR))
            & have_planes(planes[:, :3], planes[:, 3:9], planes[:, 9:])
        )
        usable = np.flatnonzero(are_usable)
        indices = indices[np.repeat(are_usable, sizes)]
        counts = parsed.contours.count[indices]
        ends = np.cumsum(sizes[usable])
        points = np.diff(np.cumsum(counts)[ends - 1], prepend=0)
        # Ranges of links with about so many points.
        part = np.cumsum(points) // POINTS_AT_ONCE
        for some in np.split(np.arange(len(usable)), np.flatnonzero(np.diff(part)) + 1):
            if not len(some):
                continue
            first = ends[some[0]] - sizes[usable[some[0]]]
            chosen = indices[first : ends[some[-1]]]
            patient, bounds = parsed.points(chosen)
            own = planes[usable[some]]
            pixels, off = patient_to_pixel(
                patient, points[some], own[:, :3], own[:, 3:9], own[:, 9:]
            )
            starts = np.cumsum(points[some]) - points[some]
            farthest = np.maximum.reduceat(np.abs(off), starts)
            is_near = (farthest <= MAX_PLANE_TOLERANCE_MM).tolist()
            rings = [pixels[a:b] for a, b in pairwise(bounds.tolist())]
            start = 0
            for j, near in zip(usable[some].tolist(), is_near, strict=True):
                stop = start + int(sizes[j])
                if near:
                    is_xor = bool(kinds[j] == CLOSEDPLANAR_XOR)
                    results[known[j]] = [Group(rings[start:stop], is_xor=is_xor)]
                start = stop
        return results


def _plane_row(header: Header) -> tuple[float, ...]:
    """Return origin, directions and spacing of an image, NaN if they are unknown."""
    if header.position_mm and header.directions and header.spacing_mm:
        return *header.position_mm, *header.directions, *header.spacing_mm
    return (nan,) * 11


def _parse_key(link: Link) -> tuple[int, list[int]]:
    """Return the ROINumber and the contours that a `contour_key` names."""
    found = KEY.fullmatch(link.contour_key)
    if found is None:
        raise ContourError(
            f"{link.contour_path}: contour_key is {link.contour_key!r}, expected a "
            "ROINumber and contours from 1, as in '4:17,18'"
        )
    numbers: list[int] = []
    for part in found[2].split(","):
        first, _, last = part.partition("-")
        start, stop = int(first), int(last or first) + 1
        if not (numbers[-1] if numbers else 0) < start < stop:
            raise ContourError(
                f"{link.contour_path}: contour_key is {link.contour_key!r}, expected "
                "rising numbers from 1"
            )
        if stop > MAX_STRUCTURE_SET_VALUES:
            raise ContourError(f"{link.contour_path}: has no contour {stop - 1}")
        numbers += range(start, stop)
    return int(found[1]), numbers


def make_key(number: int, contours: Sequence[int]) -> str:
    """Return the `contour_key` of some contours, by rising numbers from 1."""
    return f"{number}:{_ranges(contours)}"


def _ranges(numbers: Sequence[int]) -> str:
    """Return rising numbers as text: "1,2,4-9"."""
    parts = []
    for _, some in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [contour for _, contour in some]
        if len(run) > 2:
            parts.append(f"{run[0]}-{run[-1]}")
        else:
            parts += map(str, run)
    return ",".join(parts)


def _plane_of(header: Header | None, link: Link) -> Plane:
    """Return the plane of a link's image, or raise ContourError."""
    problem = "has no position, directions or pixel spacing"
    if header and header.position_mm and header.directions and header.spacing_mm:
        try:
            return Plane(
                origin=np.array(header.position_mm),
                row_direction=np.array(header.directions[:3]),
                column_direction=np.array(header.directions[3:]),
                spacing_mm=header.spacing_mm,
            )
        except GeometryError as exc:
            problem = f"has no plane: {exc}"
    raise ContourError(
        f"{link.contour_path}: cannot be drawn, because {link.dicom_path} {problem}"
    )


class _Row(NamedTuple):
    """The contours of an ROI on an image.

    image : index of the image
    roi   : index of the ROI in its structure set
    """

    image: int
    roi: int
    label: str
    key: str


@dataclass(slots=True, kw_only=True)
class _SetLinks:
    """What the link of one structure set gave.

    path    : relative to the root of the tree
    names   : of its ROIs, as messages call them
    rejects : what cannot be used of it, and why
    ways    : the number of contours that were matched in each way
    left_out : ROI and number of the contours that are no rings, by their kind
    empty   : names of ROIs without contours
    has_other_frame : whether it names images of another frame of reference
    is_empty : whether it has neither contours nor problems
    """

    path: str
    sop_instance: str
    names: list[str]
    rows: list[_Row] = field(default_factory=list)
    rejects: list[str] = field(default_factory=list)
    ways: Counter[int] = field(default_factory=Counter)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    has_other_frame: bool = False
    is_empty: bool = False

    def replace_by(self, reject: str) -> None:
        """Drop everything, because the structure set as a whole cannot be used."""
        self.rows.clear()
        self.ways.clear()
        self.left_out.clear()
        self.empty.clear()
        self.has_other_frame = False
        self.rejects = [reject]

    def reject(self, roi: int, contours: Iterable[int], reason: str) -> None:
        """List contours of an ROI as not usable."""
        numbers = sorted(contours)
        named = f"contour {numbers[0]}"
        if len(numbers) > 1:
            named = f"contours {_ranges(numbers).replace(',', ', ')}, each"
        self.rejects.append(f"ROI {self.names[roi]}, {named}: {reason}")

    def refuse(
        self, roi: int, kind: str, contours: Sequence[tuple[int, str, float]]
    ) -> None:
        """List contours of an ROI that cannot be used for one kind of reason.

        contours : number, reason, and distance from the plane or NaN
        """
        if len(contours) <= CONTOURS_LISTED:
            for number, reason, _ in contours:
                self.reject(roi, [number], reason)
            return
        off = [distance for _, _, distance in contours if distance == distance]
        if off:
            kind += f", by {min(off):.4g} to {max(off):.4g} mm"
        self.reject(roi, [number for number, _, _ in contours], kind)


class _Classes:
    """The class of each name of an ROI.

    other : names that belong to no class, and in how many structure sets
    known : names that belong to one, and in how many
    """

    def __init__(self, labels: Sequence[str] | None, rois: Aliases | None):
        self._labels = labels
        self._rois = rois
        self.known: Counter[str] = Counter()
        self.other: Counter[str] = Counter()
        self._all: dict[str, None] = dict.fromkeys(rois.classes if rois else ())

    def of(self, name: str) -> str | None:
        """Return the class of an ROI, None if it is not wanted."""
        label = name if self._rois is None else self._rois.class_of(name)
        if label is None:
            self.other[name] += 1
            return None
        self._all[label] = None
        if self._labels is not None and label not in self._labels:
            return None
        self.known[label] += 1
        return label

    def check(self, root: object) -> None:
        """Raise OptionError for labels that no ROI has, LinkError for too many."""
        for label in self._labels or ():
            choice("label", label, self._all)
        if len(self.known) > MAX_CLASSES:
            frequent = [f"{x!r} ({n})" for x, n in self.known.most_common(6)]
            raise LinkError(
                f"{root}: the structure sets have ROIs of {len(self.known)} names, and "
                f"each is a class; a store holds at most {MAX_CLASSES} classes. Choose "
                "some with --label (labels), or map names to classes with --roi or "
                "--aliases (rois); `fastseg rois` lists all names. The most frequent "
                f"ones are {', '.join(frequent)}"
            )


def link_structure_sets(
    tree: Tree,
    *,
    labels: Sequence[str] | None,
    rois: Aliases | None,
    join: bool,
    slices: Slices,
    plane_tolerance_mm: float | None,
    progress: Progress,
    hints: Sequence[str] = (),
) -> LinkTable:
    """Link the images of a tree with the contours of its structure sets.

    labels : the classes to link, None for all
    rois   : names of ROIs by class; None if each name is a class
    join   : whether several ROIs of a series may belong to one class
    plane_tolerance_mm : how far points may lie off the plane of their image; None for
        the default of each stack, see `stacks`
    hints  : further notes

    Raises LinkError if there are no images, or more than MAX_CLASSES classes,
    OptionError for a label that no ROI has and a name that two classes match.
    """
    images, patients, rejects = linkable_images(tree)
    if not images:
        raise LinkError(
            f"{tree.root}: holds {tree.describe()}, and no images that can be linked"
        )
    owners = [patients.of(image.header) for image in images]
    stacks = Stacks(images, owners, plane_tolerance_mm)
    classes = _Classes(labels, rois)
    others = {kind: list(paths) for kind, paths in tree.others.items()}
    sets: list[_SetLinks] = []
    by_instance: dict[str, _SetLinks] = {}
    digests: set[bytes] = set()
    paths = others.pop(STRUCTURE_SET, [])
    with progress("read structure sets", len(paths)) as advance:
        for path in paths:
            try:
                some = _link_set(tree, path, stacks, patients, classes, digests)
            except (DicomError, OSError) as exc:
                reason = reason_of(exc, path)
                rejects.append(Reject(str(tree.root / path), None, reason))
            else:
                if some is None:
                    others.setdefault(DUPLICATE, []).append(path)
                elif some.is_empty:
                    others.setdefault(EMPTY, []).append(path)
                else:
                    _add_set(some, sets, by_instance)
            advance()
    classes.check(tree.root)
    if not join:
        _reject_twins(sets, stacks)
    if slices != "all" and not any(some.rows or some.rejects for some in sets):
        _refuse_nothing(tree, classes, rejects)
    for some in sets:
        file = str(tree.root / some.path)
        rejects += [Reject(file, None, reason) for reason in some.rejects]
        for kind, names in some.left_out.items():
            others.setdefault(kind, []).extend(f"{some.path}: {x}" for x in names)
    rows: dict[int, list[tuple[str, _Row]]] = defaultdict(list)
    for some in sets:
        for row in some.rows:
            rows[row.image].append((some.path, row))
    chosen, kept = _choose(stacks, rows, slices)
    bare, order, notes = place_sorted([images[k] for k in chosen], patients, kept)
    links: list[Link] = []
    for link, k in zip(bare, order, strict=True):
        found = rows.get(chosen[k])
        if not found:
            links.append(link)
            continue
        links += [
            link._replace(
                contour_path=path, label=row.label, contour_key=row.key, format=FORMAT
            )
            for path, row in found
        ]
    unlabelled = len(images) - len(rows)
    if slices == "series" and unlabelled:
        linked = len(bare) - len(rows)
        counts = f"{linked} linked"
        if unlabelled > linked:
            counts += (
                f", {unlabelled - linked} left out, because no image of their series "
                "has one"
            )
        notes.append(f"{many(unlabelled, 'image')} without a contour: {counts}")
    return LinkTable(
        base=tree.root,
        links=Links.of(links).sorted(),
        rejects=rejects,
        unlabelled=unlabelled,
        ignored=tree.ignored,
        left_out={kind: others[kind] for kind in sorted(others)},
        notes=[*notes, *_notes(sets, classes), *hints],
    )


def _link_set(
    tree: Tree,
    path: str,
    stacks: Stacks,
    patients: Patients,
    classes: _Classes,
    digests: set[bytes],
) -> _SetLinks | None:
    """Return the links of a structure set, None if it is a copy of another.

    digests : of the bytes of those before

    Raises DicomError, OSError.
    """
    data = _read(tree, path)
    digest = hashlib.sha256(data).digest()
    if digest in digests:
        return None
    digests.add(digest)
    parsed = read_structure_set(data, path)
    return _SetLinker(stacks, patients, classes, parsed).link(path)


def _add_set(
    some: _SetLinks, sets: list[_SetLinks], by_instance: dict[str, _SetLinks]
) -> None:
    """Add a structure set; reject it and another one that has its SOPInstanceUID."""
    sets.append(some)
    uid = some.sop_instance
    other = by_instance.setdefault(uid, some) if uid else some
    if other is not some:
        text = "has the SOPInstanceUID of {} but other content; keep one"
        other.replace_by(text.format(some.path))
        some.replace_by(text.format(other.path))


def _read(tree: Tree, path: str) -> bytes:
    """Return the bytes of a structure set, or raise DicomError, OSError."""
    with open_regular(tree.root / path) as file:
        data: bytes = file.read(MAX_STRUCTURE_SET_BYTES + 1) or b""
    if len(data) > MAX_STRUCTURE_SET_BYTES:
        raise DicomError(
            f"{path}: is a structure set of more than {MAX_STRUCTURE_SET_BYTES} bytes"
        )
    return data


def _refuse_nothing(tree: Tree, classes: _Classes, rejects: Sequence[Reject]) -> None:
    """Raise LinkError if there is no contour to link, and no reject says why."""
    if rejects:
        return
    text = f"{tree.root}: its structure sets have no contours to link"
    if classes.other:
        text += f": no class has their ROIs ({listed([*classes.other])})"
    raise LinkError(f'{text}; slices="all" (--slices all) links the images alone')


def _choose(
    stacks: Stacks, rows: Mapping[int, object], slices: Slices
) -> tuple[list[int], set[int] | None]:
    """Return the images of all series that are linked, and which of these are."""
    if slices == "all":
        return list(range(len(stacks.images))), None
    series = {int(stacks.series[k]) for k in rows}
    chosen = [k for k, x in enumerate(stacks.series.tolist()) if x in series]
    if slices == "series":
        return chosen, None
    return chosen, {k for k, image in enumerate(chosen) if image in rows}


def _reject_twins(sets: Sequence[_SetLinks], stacks: Stacks) -> None:
    """Reject the ROIs of a series that belong to one class."""
    owners: dict[tuple[int, str], dict[tuple[int, int], None]] = defaultdict(dict)
    for number, some in enumerate(sets):
        for row in some.rows:
            owners[int(stacks.series[row.image]), row.label][number, row.roi] = None
    for (series, label), twins in owners.items():
        if len(twins) == 1:
            continue
        names = [
            f"ROI {sets[number].names[roi]} of {sets[number].path}"
            for number, roi in twins
        ]
        for number in {number: None for number, _ in twins}:
            some = sets[number]
            some.rows = [
                row
                for row in some.rows
                if row.label != label or int(stacks.series[row.image]) != series
            ]
            some.rejects.append(
                f"{listed(names)} are of one class, {label!r}, on one series "
                f"({name_series(stacks, series)}); join them with --join (join=True), "
                "or tell them apart with --roi (rois)"
            )


def _notes(sets: Sequence[_SetLinks], classes: _Classes) -> list[str]:
    """Return what was found in structure sets, in words."""
    ways: Counter[int] = sum((some.ways for some in sets), Counter())
    counts = [f"{ways[way]} {text}" for way, text in WAYS.items() if ways[way]]
    note = many(len(sets), "structure set")
    if counts:
        note += f", contours matched: {', '.join(counts)}"
    notes = [note]
    other = sum(some.has_other_frame for some in sets)
    if other:
        notes.append(
            f"{many(other, 'structure set')} with another frame of reference than the "
            "images that are named: matched all the same"
        )
    empty = Counter(name for some in sets for name in some.empty)
    if empty:
        names = [f"{name} ({n})" if n > 1 else name for name, n in empty.most_common()]
        notes.append(f"{many(empty.total(), 'ROI')} without contours: {listed(names)}")
    if classes.other:
        names = [f"{name!r} ({n})" for name, n in classes.other.most_common()]
        notes.append(
            f"{many(len(names), 'ROI name')} of no class, left out: {listed(names)}; "
            "`fastseg rois` lists all"
        )
    return notes


class _SetLinker:
    """Links the contours of one structure set."""

    def __init__(
        self,
        stacks: Stacks,
        patients: Patients,
        classes: _Classes,
        structure_set: StructureSet,
    ):
        self._stacks = stacks
        self._patients = patients
        self._classes = classes
        self._set = structure_set

    def link(self, path: str) -> _SetLinks:
        """Return the rows of the structure set, and what is wrong with it."""
        parsed = self._set
        names = [repr(roi.name) for roi in parsed.rois]
        repeated = {name for name, count in Counter(names).items() if count > 1}
        for k, roi in enumerate(parsed.rois):
            if names[k] in repeated:
                names[k] += f" (number {roi.number})"
        result = _SetLinks(path=path, sop_instance=parsed.sop_instance, names=names)
        self._result = result
        result.is_empty = not len(parsed.contours.roi) and not parsed.problems
        problems = self._problems()
        labels = self._labels({roi for roi, contour in problems if contour < 0})
        chosen = self._rings(labels)
        if not len(chosen):
            return result
        owner, image = resolve(self._stacks, parsed, chosen)
        patient, problem = self._patient(image)
        if problem:
            result.rejects.append(problem)
            return result
        candidates = [
            self._candidates(roi.frame_of_reference, patient) for roi in parsed.rois
        ]
        if not len(owner) and not any(x.series for x in candidates):
            result.rejects.append(self._nowhere())
            return result
        matches = match(
            self._stacks,
            parsed.points(chosen),
            (owner, image),
            candidates,
            parsed.contours.roi[chosen],
        )
        self._note_frames(matches, chosen)
        self._add_rows(matches, chosen, problems, labels)
        return result

    def _problems(self) -> dict[tuple[int, int], str]:
        """Return what is wrong with ROIs and contours; reject the ROIs.

        By index of the ROI and of the contour, -1 for a whole ROI.
        """
        problems = {}
        for roi, contour, text, _ in self._set.problems:
            if roi < 0:
                self._result.rejects.append(text)
            else:
                problems[roi, contour] = text
                if contour < 0:
                    name = self._result.names[roi]
                    self._result.rejects.append(f"ROI {name}: {text}")
        return problems

    def _labels(self, unusable: set[int]) -> list[str | None]:
        """Return the class of each ROI, None for one that is not linked."""
        of = self._set.contours.roi
        counts = np.bincount(of[of >= 0], minlength=len(self._set.rois)).tolist()
        labels: list[str | None] = []
        for k, roi in enumerate(self._set.rois):
            label = None if k in unusable else self._classes.of(roi.name)
            if label is not None and not counts[k]:
                self._result.empty.append(self._result.names[k])
                label = None
            labels.append(label)
        return labels

    def _rings(self, labels: Sequence[str | None]) -> Ints:
        """Return the indices of the contours to link; list those that are no rings."""
        contours, result = self._set.contours, self._result
        # The last one is for contours that belong to no ROI.
        is_wanted = np.array([*(label is not None for label in labels), False])
        is_ring = is_wanted[contours.roi]
        for kind, name in LEFT_OUT.items():
            of_kind = np.flatnonzero(is_ring & (contours.kind == kind))
            is_ring[of_kind] = False
            if len(of_kind):
                result.left_out[name] = [
                    f"ROI {result.names[contours.roi[k]]}, contour {contours.number[k]}"
                    for k in of_kind.tolist()
                ]
        for roi, contour, text, covers_nothing in self._set.problems:
            if covers_nothing and is_ring[contour]:
                is_ring[contour] = False
                result.reject(roi, [int(contours.number[contour])], text)
        return np.flatnonzero(is_ring)

    def _patient(self, images: Ints) -> tuple[str, str]:
        """Return the patient of the structure set, and why it cannot be linked.

        images : those that it names

        The patient is "" if nobody knows it. The reason quotes no ID.
        """
        parsed, stacks = self._set, self._stacks
        own = parsed.patient_id or self._patients.named("", parsed.study)
        if not parsed.patient_id and own not in stacks.patients_known:
            own = ""
        series = {*stacks.series[images].tolist()}
        theirs = {stacks.patient_of(k) for k in series}
        for named in parsed.series:
            some = {stacks.patient_of(k) for k in stacks.in_series(named.uid)}
            theirs |= {own} if own in some else some
        if not own and len(theirs) == 1:
            (own,) = theirs
        if len(theirs) > 1:
            return own, "names images of several patients; it is damaged, or mixed up"
        if theirs - {own}:
            return own, (
                "is of another patient than the images that it names; correct "
                "PatientID, or remove the files that do not belong together"
            )
        return own, ""

    def _candidates(self, frame: str, patient: str) -> Candidates:
        """Return where contours of an ROI may lie whose references are not resolved.

        frame : frame of reference of the ROI
        """
        stacks, parsed = self._stacks, self._set
        named = {
            number: series.frame_of_reference
            for series in parsed.series
            for number in stacks.in_series(series.uid)
            if stacks.patient_of(number) == patient
        }
        if named:
            # Whatever tells apart several of them: the item that names each, or else
            # their images.
            ours = [k for k, other in named.items() if frame and other == frame]
            if len(named) > 1 and len(ours) in (0, len(named)):
                in_frame = stacks.in_frame(frame, patient)
                ours = [k for k in named if k in in_frame]
            return Candidates(BY_SERIES, tuple(ours or named))
        frame = frame or parsed.frame_of_reference
        found = stacks.in_frame(frame, patient) if frame else []
        if len({stacks.patient_of(k) for k in found}) > 1:
            found = []
        return Candidates(BY_FRAME, tuple(found), frame)

    def _nowhere(self) -> str:
        """Return why no contour can be matched."""
        uids = [series.uid for series in self._set.series]
        named = f" (it names {listed(uids)})" if uids else ""
        return f"{NOWHERE}{named}; add the images that it was drawn on"

    def _note_frames(self, matches: Matches, chosen: Ints) -> None:
        """Note whether images have another frame of reference than the contours."""
        rois = self._set.contours.roi[chosen[matches.contour]]
        series = self._stacks.series[matches.image]
        for roi, number in {*zip(rois.tolist(), series.tolist(), strict=True)}:
            frame = self._set.rois[roi].frame_of_reference
            row = self._stacks.first_row(number)
            other = self._stacks.images[row].header.frame_of_reference
            if frame and other and frame != other:
                self._result.has_other_frame = True

    def _add_rows(
        self,
        matches: Matches,
        chosen: Ints,
        problems: Mapping[tuple[int, int], str],
        labels: Sequence[str | None],
    ) -> None:
        """Add a row for each ROI and image, unless any of its contours is unusable.

        A mask without one of its rings would be wrong, and nobody would see it.
        """
        parsed, result = self._set, self._result
        contours = parsed.contours
        lacking, lost = self._refuse(matches, chosen, problems)
        is_valid = contours.is_valid[chosen]
        ways = matches.ways[is_valid & (matches.ways >= 0)]
        result.ways.update(ways.tolist())
        pairs = np.flatnonzero(is_valid[matches.contour])
        image, contour = matches.image[pairs], chosen[matches.contour[pairs]]
        order = np.lexsort((contour, contours.roi[contour], image))
        image, contour = image[order], contour[order]
        roi, kind = contours.roi[contour], contours.kind[contour]
        is_first = np.diff(image, prepend=-1) != 0
        is_first |= np.diff(roi, prepend=-1) != 0
        bounds = [*np.flatnonzero(is_first).tolist(), len(order)]
        images, rois = image.tolist(), roi.tolist()
        numbers = contours.number[contour].tolist()
        dropped: dict[tuple[int, str], dict[int, None]] = defaultdict(dict)
        for start, stop in pairwise(bounds):
            of = rois[start]
            key = make_key(parsed.rois[of].number, numbers[start:stop])
            reason = ""
            if of in lost:
                reason = "is left out: nobody knows on which image another contour lies"
            elif (images[start], of) in lacking:
                reason = "is left out: another contour of its image cannot be used"
            elif stop > start + 1 and (kind[start:stop] != kind[start]).any():
                reason = (
                    "lies on an image with both CLOSED_PLANAR and CLOSEDPLANAR_XOR "
                    "contours of the ROI, which do not go together"
                )
            elif len(key) > MAX_TEXT_BYTES:
                reason = "is one of too many on its image"
            label = labels[of]
            if reason or label is None:
                dropped[of, reason].update(dict.fromkeys(numbers[start:stop]))
            else:
                result.rows.append(_Row(images[start], of, label, key))
        for (of, reason), unused in dropped.items():
            result.reject(of, unused, reason)

    def _refuse(
        self,
        matches: Matches,
        chosen: Ints,
        problems: Mapping[tuple[int, int], str],
    ) -> tuple[set[tuple[int, int]], set[int]]:
        """Reject the contours that are damaged or belong to no image.

        Returns the images and ROIs that lack a contour, and the ROIs of which nobody
        knows which images do.
        """
        contours, result = self._set.contours, self._result
        roi, number = contours.roi[chosen].tolist(), contours.number[chosen].tolist()
        is_valid = contours.is_valid[chosen]
        refused: dict[tuple[int, str], list[tuple[int, str, float]]] = defaultdict(list)
        for k in np.flatnonzero(~is_valid).tolist():
            text = problems[roi[k], int(chosen[k])]
            refused[roi[k], text].append((number[k], text, np.nan))
        lacking: set[tuple[int, int]] = set()
        lost: set[int] = set()
        for k, kind, text, off, images in matches.unmatched:
            lacking.update((image, roi[k]) for image in images)
            if is_valid[k]:
                refused[roi[k], kind].append((number[k], text, off))
            elif not images:
                lost.add(roi[k])
        for pair in np.flatnonzero(~is_valid[matches.contour]).tolist():
            lacking.add((int(matches.image[pair]), roi[matches.contour[pair]]))
        for (of, kind), some in refused.items():
            result.refuse(of, kind, some)
        return lacking, lost
