"""The structure sets of a tree: which of their contours belong to which images.

structure sets ── side by side ──> resolve, match ──> rows: image, ROI, contour_key
rows ── classes ──> LinkTable

Of each structure set only its rows and problems are kept.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128_digest

from fastseg._kernels.native.entries import prepare
from fastseg.bounds import MAX_STRUCTURE_SET_BYTES, MAX_TEXT_BYTES
from fastseg.choices import Slices
from fastseg.dicom.structure_set import (
    CLOSED_PLANAR,
    KERNELS,
    OPEN_NONPLANAR,
    OPEN_PLANAR,
    POINT,
    StructureSet,
    read_structure_set,
)
from fastseg.errors import DicomError, LinkError, choice
from fastseg.files import open_regular
from fastseg.links import MAX_CLASSES, Link, Links, LinkTable, Texts
from fastseg.paths import natural_key
from fastseg.progress import Progress
from fastseg.reprs import listed, many
from fastseg.sources.aliases import Aliases, folded
from fastseg.sources.rtstruct import RtStruct, make_key, name_ranges
from fastseg.sources.stacks import (
    BY_FRAME,
    BY_INSTANCE,
    BY_SERIES,
    NOWHERE,
    Candidates,
    Matches,
    Stacks,
    list_names,
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
from fastseg.threads import map_ordered, usable_cores

# Types of contours that have no inside.
LEFT_OUT = {
    POINT: "POINT contour",
    OPEN_PLANAR: "OPEN_PLANAR contour",
    OPEN_NONPLANAR: "OPEN_NONPLANAR contour",
}
# A ring that its ROI has twice on an image.
COPY = "repeated contour"
EMPTY = "empty RT structure set"
WAYS = {
    BY_INSTANCE: "by the images that they name",
    BY_SERIES: "by position in the series that their structure sets name",
    BY_FRAME: "by position in their frame of reference",
}
# Contours of a structure set that are rejected one by one for a kind of reason; if more
# are, each ROI has one reject.
CONTOURS_LISTED = 20
JOIN = "join the ROIs with --join (join=True)"
TELL_APART = "tell them apart with --roi (rois)"
# Threads that link structure sets, at most: each holds one in memory, and half of the
# time is Python's.
MOST_THREADS = 2

Ints = NDArray[np.int64]


def _no_rows() -> Ints:
    return np.empty(0, np.int64)


@dataclass(slots=True, kw_only=True)
class _SetLinks:
    """What one structure set gave.

    path    : relative to the root of the tree
    sop_instance : its SOPInstanceUID
    rois    : names of its ROIs
    names   : the same, as messages call them
    labels  : the classes of its ROIs, None for those that are not linked
    images, roi : int64 (r,), image and ROI of each row
    keys    : `contour_key` of each row
    rejects : what cannot be used of it, and why
    ways    : the number of contours that were matched in each way
    left_out : ROI and number of the contours that are no rings, by their kind
    without_contours : ROIs
    lacking : images and ROIs whose contours there cannot be used, or not all of them
    lost    : classes of the ROIs that have contours of which nobody knows on which
        images they lie
    series  : those on which contours may lie
    has_other_frame : whether it names images of another frame of reference
    has_other_series : whether it names series that are not here, and contours lie on
        others
    is_empty : whether it has neither contours nor problems
    """

    path: str
    sop_instance: str
    rois: list[str]
    names: list[str]
    labels: list[str | None] = field(default_factory=list)
    images: Ints = field(default_factory=_no_rows)
    roi: Ints = field(default_factory=_no_rows)
    keys: list[str] = field(default_factory=list)
    rejects: list[str] = field(default_factory=list)
    ways: Counter[int] = field(default_factory=Counter)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    without_contours: list[int] = field(default_factory=list)
    lacking: set[tuple[int, int]] = field(default_factory=set)
    lost: dict[int, str] = field(default_factory=dict)
    series: set[int] = field(default_factory=set)
    has_other_frame: bool = False
    has_other_series: bool = False
    is_empty: bool = False

    def drop(self, is_dropped: NDArray[np.bool_]) -> None:
        """Drop some rows."""
        kept = np.flatnonzero(~is_dropped)
        self.images, self.roi = self.images[kept], self.roi[kept]
        self.keys = [self.keys[k] for k in kept.tolist()]

    def reject(self, roi: int, contours: Iterable[int], reason: str) -> None:
        """List contours of an ROI as not usable."""
        numbers = sorted(contours)
        named = f"contour {numbers[0]}"
        if len(numbers) > 1:
            named = f"contours {name_ranges(numbers).replace(',', ', ')}, each"
        self.rejects.append(f"ROI {self.names[roi]}, {named}: {reason}")

    def refuse(
        self, roi: int, kind: str, contours: Sequence[tuple[int, str, float]]
    ) -> None:
        """List contours of an ROI that cannot be used for one kind of reason, at once.

        contours : number, reason, and distance from the plane or NaN
        """
        if len(contours) == 1:
            ((number, reason, _),) = contours
            self.reject(roi, [number], reason)
            return
        off = [distance for _, _, distance in contours if distance == distance]
        if off:
            least, most = f"{min(off):.4g}", f"{max(off):.4g}"
            kind += f", by {least if least == most else f'{least} to {most}'} mm"
        self.reject(roi, [number for number, _, _ in contours], kind)


@dataclass(frozen=True, slots=True)
class _Classes:
    """The class of each ROI.

    labels : the classes that are wanted, None for all
    rois   : names of ROIs by class; None if each name is a class
    """

    labels: Sequence[str] | None
    rois: Aliases | None

    def of(self, name: str) -> str | None:
        """Return the class of an ROI, None if it has none, or OptionError."""
        return name if self.rois is None else self.rois.class_of(name)

    def wanted(self, name: str) -> str | None:
        """Return the class of an ROI, None if it is not wanted."""
        label = self.of(name)
        is_wanted = self.labels is None or label in self.labels
        return label if is_wanted else None

    def check(self, root: object, names: Iterable[str], outlined: Counter[str]) -> None:
        """Raise OptionError for labels that no ROI has, LinkError for too many classes.

        names    : of all ROIs
        outlined : classes that have contours, and in how many structure sets
        """
        classes = [self.of(name) for name in names]
        known = dict.fromkeys([*(self.rois.classes if self.rois else ()), *classes])
        for label in self.labels or ():
            choice("label", label, [x for x in known if x is not None])
        if len(outlined) > MAX_CLASSES:
            frequent = [f"{x!r} ({n})" for x, n in outlined.most_common(6)]
            raise LinkError(
                f"{root}: the structure sets have ROIs of {len(outlined)} classes, and "
                f"a store holds at most {MAX_CLASSES}. Choose some with --label "
                "(labels), or map names of ROIs to classes with --roi or --aliases "
                "(rois); `fastseg rois` lists all names. The most frequent classes are "
                f"{', '.join(frequent)}"
            )

    def other(self, names: Mapping[str, int]) -> list[tuple[str, int]]:
        """Return the names that have no class, the most frequent ones first."""
        found = [(name, n) for name, n in names.items() if self.of(name) is None]
        return sorted(found, key=lambda pair: (-pair[1], natural_key(pair[0])))


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

    Raises LinkError if there are no images, no contours, or more than MAX_CLASSES
    classes; OptionError for a label that no ROI has and a name that two classes match.
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
    paths = others.pop(STRUCTURE_SET)
    found = _link_sets(tree, paths, _Linker(stacks, patients, classes), progress)
    sets: list[_SetLinks] = []
    for path, some in zip(paths, found, strict=True):
        if isinstance(some, str):
            rejects.append(Reject(str(tree.root / path), None, some))
        elif some.is_empty:
            others.setdefault(EMPTY, []).append(path)
        else:
            sets.append(some)
    known = dict.fromkeys(name for some in sets for name in some.rois)
    sets = _without_repeats(tree, sets, others, rejects)
    names: Counter[str] = Counter()
    outlined: Counter[str] = Counter()
    for some in sets:
        names.update(dict.fromkeys(some.rois, 1))
        outlined.update(dict.fromkeys([x for x in some.labels if x is not None], 1))
    classes.check(tree.root, known, outlined)
    if join:
        _drop_incomplete(sets, stacks)
    else:
        _reject_twins(sets, stacks)
    for some in sets:
        file = str(tree.root / some.path)
        rejects += [Reject(file, None, reason) for reason in some.rejects]
        for kind, contours in some.left_out.items():
            others.setdefault(kind, []).extend(f"{some.path}: {x}" for x in contours)
    other = classes.other(names)
    if slices != "all" and not rejects and not any(len(some.keys) for some in sets):
        text = f"{tree.root}: its structure sets have no contours to link"
        kinds = [
            many(len(others[kind]), kind)
            for kind in LEFT_OUT.values()
            if kind in others
        ]
        if kinds:
            text += f" but {', '.join(kinds)}, which have no inside"
        if other:
            text += f": no class has their ROIs ({listed([name for name, _ in other])})"
            text += "; `fastseg rois` lists all names, and which are like those given"
        raise LinkError(f'{text}; slices="all" (--slices all) links the images alone')
    is_outlined = np.zeros(len(images), np.bool_)
    for some in sets:
        is_outlined[some.images] = True
    chosen, kept = _choose(stacks, is_outlined, slices)
    links, order, notes = place_sorted([images[k] for k in chosen], patients, kept)
    unlabelled = int(np.count_nonzero(~is_outlined))
    if slices == "series" and unlabelled:
        linked = int(np.count_nonzero(~is_outlined[chosen]))
        counts = f"{linked} linked"
        if unlabelled > linked:
            counts += (
                f", {unlabelled - linked} left out, because no image of their series "
                "has one"
            )
        notes.append(f"{many(unlabelled, 'image')} without a contour: {counts}")
    return LinkTable(
        base=tree.root,
        links=_with_contours(links, np.array(chosen, np.int64)[order], sets),
        rejects=rejects,
        unlabelled=unlabelled,
        ignored=tree.ignored,
        left_out={kind: others[kind] for kind in sorted(others)},
        notes=[*notes, *_notes(sets, other), *_alike(outlined, rois), *hints],
    )


def _link_sets(
    tree: Tree, paths: Sequence[str], linker: "_Linker", progress: Progress
) -> list["_SetLinks | str"]:
    """Return what each structure set gives, or why it cannot be used."""

    def link(path: str) -> _SetLinks | str:
        try:
            return linker.link(read_structure_set(_read(tree, path), path), path)
        except (DicomError, OSError) as exc:
            return reason_of(exc, path)

    prepare([(kernel, {}) for kernel in KERNELS])
    found = []
    threads = min(usable_cores(), MOST_THREADS, len(paths))
    with (
        progress("read structure sets", len(paths)) as advance,
        closing(map_ordered(link, paths, threads)) as results,
    ):
        for result in results:
            found.append(result)
            advance()
    return found


def _read(tree: Tree, path: str) -> bytes:
    """Return the bytes of a structure set, or raise DicomError, OSError."""
    with open_regular(tree.root / path) as file:
        data: bytes = file.read(MAX_STRUCTURE_SET_BYTES + 1) or b""
    if len(data) > MAX_STRUCTURE_SET_BYTES:
        raise DicomError(
            f"{path}: is a structure set of more than {MAX_STRUCTURE_SET_BYTES} bytes"
        )
    return data


def _without_repeats(
    tree: Tree,
    sets: Sequence[_SetLinks],
    others: dict[str, list[str]],
    rejects: list[Reject],
) -> list[_SetLinks]:
    """Return structure sets without copies; reject those of one SOPInstanceUID.

    others  : the copies are added
    rejects : those that differ are added
    """
    by_instance: dict[str, list[_SetLinks]] = defaultdict(list)
    for k, some in enumerate(sets):
        by_instance[some.sop_instance or f"{k}"].append(some)
    kept = []
    for same in by_instance.values():
        first, *rest = same
        copies = [some for some in rest if _are_equal(tree, first.path, some.path)]
        if len(copies) == len(rest):
            if copies:
                others.setdefault(DUPLICATE, []).extend(x.path for x in copies)
            kept.append(first)
            continue
        for some in same:
            names = list_names([other.path for other in same if other is not some])
            reason = f"has the SOPInstanceUID of {names} but other content; keep one"
            rejects.append(Reject(str(tree.root / some.path), None, reason))
    return kept


def _are_equal(tree: Tree, path: str, other: str) -> bool:
    try:
        return _read(tree, path) == _read(tree, other)
    except (DicomError, OSError):
        return False


def _choose(
    stacks: Stacks, is_outlined: NDArray[np.bool_], slices: Slices
) -> tuple[list[int], set[int] | None]:
    """Return the images of all series that are linked, and which of these are."""
    if slices == "all":
        return list(range(len(is_outlined))), None
    is_linked = np.zeros(int(stacks.series.max()) + 1, np.bool_)
    is_linked[stacks.series[is_outlined]] = True
    chosen = np.flatnonzero(is_linked[stacks.series])
    if slices == "series":
        return chosen.tolist(), None
    return chosen.tolist(), {*np.flatnonzero(is_outlined[chosen]).tolist()}


def _with_contours(links: Links, images: Ints, sets: Sequence[_SetLinks]) -> Links:
    """Return links with a row for each row of structure sets, sorted.

    links  : sorted, without contours
    images : int64 (n,), the image of each
    """
    sets = [some for some in sets if some.keys]
    if not sets:
        return links
    at = np.empty(int(images.max()) + 1, np.int64)
    at[images] = np.arange(len(images))
    position = at[np.concatenate([some.images for some in sets])]
    # Code 0 of each column is for images without contours.
    files = Links.of(
        [Link("p", "i"), *(Link("p", "i", some.path, label="x") for some in sets)]
    ).contour_path
    file = np.repeat(np.arange(1, len(sets) + 1), [len(some.keys) for some in sets])
    labels = ["", *sorted({x for some in sets for x in some.labels if x is not None})]
    codes = {label: code for code, label in enumerate(labels)}
    label = np.concatenate(
        [np.array([codes[x or ""] for x in some.labels])[some.roi] for some in sets]
    )
    keys: dict[str, int] = {"": 0}
    key = np.array(
        [keys.setdefault(key, len(keys)) for some in sets for key in some.keys]
    )
    key_ranks = Texts(np.arange(len(keys), dtype=np.int32), (*keys,)).ranks(natural_key)
    folder_ranks, file_ranks = files.ranks()
    order = np.lexsort(
        [key_ranks[key], file_ranks[file], folder_ranks[file], label, position]
    )
    counts = np.bincount(position, minlength=len(links))
    repeats = np.maximum(counts, 1)
    rows = np.flatnonzero(np.repeat(counts > 0, repeats))

    def column(values: Ints) -> NDArray[np.int32]:
        filled = np.zeros(int(repeats.sum()), np.int32)
        filled[rows] = values[order]
        return filled

    file_column = column(file)
    return replace(
        links.pick(np.repeat(np.arange(len(links)), repeats)),
        contour_path=files.pick(file_column),
        label=Texts(column(label), tuple(labels)),
        contour_key=Texts(column(key), tuple(keys)),
        format=Texts((file_column > 0).astype(np.int32), ("", RtStruct.format)),
    )


def _reject_twins(sets: Sequence[_SetLinks], stacks: Stacks) -> None:
    """Reject the ROIs of a series that belong to one class."""
    owners: dict[tuple[int, str], list[tuple[int, int]]] = defaultdict(list)
    for number, some in enumerate(sets):
        series = stacks.series[some.images]
        pairs = [*zip(series.tolist(), some.roi.tolist(), strict=True)]
        linked = {(one, some.labels[roi]) for one, roi in pairs}
        # What is left of a class may be another ROI than the one that is damaged.
        pairs += [(int(stacks.series[image]), roi) for image, roi in some.lacking]
        pairs += [(one, roi) for one in some.series for roi in some.lost]
        for one, roi in dict.fromkeys(pairs):
            label = some.lost.get(roi, some.labels[roi])
            if (one, label) in linked:
                owners[one, label or ""].append((number, roi))
    # Classes that the same structure sets have on the same series, and their ROIs.
    shared: dict[tuple[int, tuple[int, ...]], list[tuple[str, list[str]]]]
    shared = defaultdict(list)
    for (one, label), twins in owners.items():
        if len(twins) == 1:
            continue
        numbers = tuple(dict.fromkeys(k for k, _ in twins))
        for number in numbers:
            some = sets[number]
            is_label = np.array([x == label for x in some.labels])
            some.drop(is_label[some.roi] & (stacks.series[some.images] == one))
        if len({k for k, _ in twins}) == len(twins):
            names = [sets[k].rois[roi] for k, roi in twins]
            shared[one, numbers].append((label, names))
            continue
        if len(numbers) > 1:
            rois = list_names(
                [f"ROI {sets[k].names[roi]} of {sets[k].path}" for k, roi in twins]
            )
        else:  # the reject has the path
            rois = f"ROIs {list_names([sets[k].names[roi] for k, roi in twins])}"
        for number in numbers:
            sets[number].rejects.append(
                f"{rois} are of one class, {label!r}, on one series "
                f"({name_series(stacks, one)}); {JOIN}, or {TELL_APART}"
            )
    for (one, numbers), found in shared.items():
        labels = listed([repr(label) for label, _ in found])
        classes = many(len(found), "class")
        remedy = f"keep one of these structure sets, or {JOIN}"
        if any(len({*names}) > 1 for _, names in found):
            remedy = f"keep one of these structure sets, {JOIN}, or {TELL_APART}"
        for number in numbers:
            others = list_names([sets[k].path for k in numbers if k != number])
            sets[number].rejects.append(
                f"has {classes} ({labels}) in common with {others} on one series "
                f"({name_series(stacks, one)}); {remedy}"
            )


def _drop_incomplete(sets: Sequence[_SetLinks], stacks: Stacks) -> None:
    """Drop classes where one of their ROIs cannot be used: a mask would lack it."""
    lacking: set[tuple[int, str | None]] = set()
    lost: set[tuple[int, str | None]] = set()
    for some in sets:
        lacking |= {(image, some.labels[roi]) for image, roi in some.lacking}
        lost |= {(one, x) for one in some.series for x in some.lost.values()}
    if not lacking and not lost:
        return
    for some in sets:
        images = some.images.tolist()
        labels = [some.labels[roi] for roi in some.roi.tolist()]
        series = stacks.series[some.images].tolist()
        is_dropped = np.array(
            [
                (image, label) in lacking or (one, label) in lost
                for image, one, label in zip(images, series, labels, strict=True)
            ],
            np.bool_,
        )
        for roi in dict.fromkeys(some.roi[is_dropped].tolist()):
            rows = some.images[is_dropped & (some.roi == roi)].tolist()
            paths = list_names([stacks.images[row].path for row in rows])
            some.rejects.append(
                f"ROI {some.names[roi]}: is left out on {many(len(rows), 'image')} "
                f"({paths}), where another ROI of its class, {some.labels[roi]!r}, "
                "cannot be used"
            )
        some.drop(is_dropped)


def _alike(labels: Iterable[str], rois: Aliases | None) -> list[str]:
    """Return a note on classes that differ in case or Unicode form alone."""
    if rois is not None:
        return []
    spellings: dict[str, list[str]] = defaultdict(list)
    for label in sorted(labels):
        spellings[folded(label, match_case=False)].append(label)
    alike = [" and ".join(map(repr, some)) for some in spellings.values() if some[1:]]
    if not alike:
        return []
    return [
        f"classes that differ in upper and lower case alone: {list_names(alike)}; make "
        "one of them with --roi (rois), or look at `fastseg rois`"
    ]


def _notes(sets: Sequence[_SetLinks], other: Sequence[tuple[str, int]]) -> list[str]:
    """Return what was found in structure sets, in words.

    other : names of ROIs that have no class, and how many structure sets have them
    """
    ways: Counter[int] = sum((some.ways for some in sets), Counter())
    counts = [f"{ways[way]} {text}" for way, text in WAYS.items() if ways[way]]
    note = many(len(sets), "structure set")
    if counts:
        note += f", contours matched: {', '.join(counts)}"
    notes = [note]
    others = sum(some.has_other_frame for some in sets)
    if others:
        notes.append(
            f"{many(others, 'structure set')} with another frame of reference than the "
            "images that are named: matched all the same"
        )
    others = sum(some.has_other_series for some in sets)
    if others:
        notes.append(
            f"{many(others, 'structure set')} whose named series are not here: drawn "
            "on others in the same frame of reference"
        )
    empty = Counter(some.rois[roi] for some in sets for roi in some.without_contours)
    if empty:
        names = [f"{x!r} ({n})" if n > 1 else repr(x) for x, n in empty.most_common()]
        notes.append(f"{many(empty.total(), 'ROI')} without contours: {listed(names)}")
    if other:
        names = [f"{x!r} ({n})" if n > 1 else repr(x) for x, n in other]
        notes.append(
            f"{many(len(names), 'ROI name')} of no class, left out: {listed(names)}; "
            "`fastseg rois` lists all"
        )
    return notes


@dataclass(frozen=True, slots=True)
class _Linker:
    """Links structure sets; threads share it."""

    stacks: Stacks
    patients: Patients
    classes: _Classes

    def link(self, structure_set: StructureSet, path: str) -> _SetLinks:
        """Return what a structure set gives."""
        return _SetLinker(self.stacks, self.patients, structure_set, path).link(
            [self.classes.wanted(roi.name) for roi in structure_set.rois]
        )


class _SetLinker:
    """Links the contours of one structure set."""

    def __init__(
        self,
        stacks: Stacks,
        patients: Patients,
        structure_set: StructureSet,
        path: str,
    ):
        self._stacks = stacks
        self._patients = patients
        self._set = structure_set
        rois = [roi.name for roi in structure_set.rois]
        counts = Counter(rois)
        self._result = _SetLinks(
            path=path,
            sop_instance=structure_set.sop_instance,
            rois=rois,
            names=[
                repr(name) + (f" (number {roi.number})" if counts[name] > 1 else "")
                for name, roi in zip(rois, structure_set.rois, strict=True)
            ],
        )

    def link(self, labels: Sequence[str | None]) -> _SetLinks:
        """Return the rows of the structure set, and what is wrong with it.

        labels : the class of each ROI, None for one that is not wanted
        """
        parsed, result = self._set, self._result
        result.is_empty = not len(parsed.contours.roi) and not parsed.problems
        problems = self._problems()
        result.labels = self._usable(labels, problems)
        chosen = self._rings()
        if not len(chosen) and not result.lost:
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
        result.series = {*self._stacks.series[image].tolist()}
        result.series.update(*(some.series for some in candidates))
        if not len(chosen):
            return result
        matches = match(
            self._stacks,
            self._points(chosen),
            (owner, image),
            candidates,
            parsed.contours.roi[chosen],
        )
        self._note_frames(matches, chosen)
        self._add_rows(matches, chosen, problems)
        result.has_other_series = bool(parsed.series and result.ways[BY_FRAME])
        return result

    def _points(self, chosen: Ints) -> tuple[NDArray[np.float64], Ints]:
        """Return the points of contours; of those that are damaged what can be read.

        It says on which image another ring is missing.
        """
        points, ends = self._set.points(chosen)
        is_valid = self._set.contours.is_valid[chosen]
        unread = np.flatnonzero(~is_valid & (np.diff(ends) == 0)).tolist()
        if not unread:
            return points, ends
        parts = np.split(points, ends[1:-1])
        for k in unread:
            parts[k] = self._set.readable_points(int(chosen[k]))
        ends = np.cumsum([0, *map(len, parts)])
        return np.concatenate(parts), ends

    def _problems(self) -> dict[tuple[int, int], str]:
        """Return what is wrong with ROIs and contours; reject what belongs to no ROI.

        By index of the ROI and of the contour, -1 for a whole ROI.
        """
        problems: dict[tuple[int, int], str] = {}
        for roi, contour, text, _ in self._set.problems:
            if roi < 0:
                self._result.rejects.append(text)
            elif (roi, contour) in problems:
                problems[roi, contour] += f"; {text}"
            else:
                problems[roi, contour] = text
        return problems

    def _usable(
        self,
        labels: Sequence[str | None],
        problems: Mapping[tuple[int, int], str],
    ) -> list[str | None]:
        """Return the labels, None for ROIs that are lost or have no contours.

        Both are noted in the result. An ROI that has no contours, or is not wanted,
        loses nothing by its problems.
        """
        result = self._result
        has_contours = self._set.have_contours()
        usable = list(labels)
        for k, label in enumerate(labels):
            if label is None:
                continue
            if not has_contours[k]:
                usable[k] = None
                result.without_contours.append(k)
            elif (k, -1) in problems:
                usable[k] = None
                result.lost[k] = label
                result.rejects.append(f"ROI {result.names[k]}: {problems[k, -1]}")
        return usable

    def _rings(self) -> Ints:
        """Return the indices of the contours to link; list those that are no rings."""
        contours, result = self._set.contours, self._result
        # The last one is for contours that belong to no ROI.
        is_wanted = [*(label is not None for label in result.labels), False]
        is_ring = np.array(is_wanted)[contours.roi]
        for kind, name in LEFT_OUT.items():
            of_kind = np.flatnonzero(is_ring & (contours.kind == kind))
            is_ring[of_kind] = False
            if len(of_kind):
                result.left_out[name] = [
                    f"ROI {result.names[contours.roi[k]]}, contour {contours.number[k]}"
                    for k in of_kind.tolist()
                ]
        nothing: dict[tuple[int, str], list[int]] = defaultdict(list)
        for roi, contour, text, covers_nothing in self._set.problems:
            if covers_nothing and is_ring[contour]:
                is_ring[contour] = False
                nothing[roi, text].append(int(contours.number[contour]))
        for (roi, text), numbers in nothing.items():
            result.reject(roi, numbers, text)
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
        # Images that have lost their PatientID are those of their study.
        is_lost = own not in stacks.patients_known or theirs == {parsed.study}
        if is_lost and parsed.study in stacks.patients_known:
            own = parsed.study
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
        named: dict[int, set[str]] = defaultdict(set)
        for series in parsed.series:
            for number in stacks.in_series(series.uid):
                if stacks.patient_of(number) == patient:
                    named[number].add(series.frame_of_reference)
        if named:
            # What tells several of them apart: the items that name them, or else their
            # images.
            ours = [k for k, frames in named.items() if frame and frame in frames]
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
    ) -> None:
        """Add a row for each ROI and image, unless any of its contours is unusable.

        A mask without one of its rings would be wrong, and nobody would see it.
        """
        result, contours = self._result, self._set.contours
        lacking, lost = self._refuse(matches, chosen, problems)
        result.lacking = lacking
        result.lost.update({of: result.labels[of] or "" for of in lost})
        is_valid = contours.is_valid[chosen]
        ways = matches.ways[is_valid & (matches.ways >= 0)]
        result.ways.update(ways.tolist())
        pairs = np.flatnonzero(is_valid[matches.contour])
        image, contour = matches.image[pairs], chosen[matches.contour[pairs]]
        order = np.lexsort((contour, contours.roi[contour], image))
        image, contour = image[order], contour[order]
        # A contour may name an image twice.
        is_new = (np.diff(image, prepend=-1) != 0) | (np.diff(contour, prepend=-1) != 0)
        is_new &= ~self._are_copies(image, contour)
        image, contour, pairs = image[is_new], contour[is_new], pairs[order[is_new]]
        off, middle = matches.off_mm[pairs], matches.middle_mm[pairs]
        roi, kind = contours.roi[contour], contours.kind[contour]
        is_first = np.diff(image, prepend=-1) != 0
        is_first |= np.diff(roi, prepend=-1) != 0
        first = np.flatnonzero(is_first)
        result.images, result.roi = image[first], roi[first]
        if not len(first):
            return
        numbers = contours.number[contour].tolist()
        counts = np.bincount(contours.roi[contours.roi >= 0]).tolist()
        columns = zip(
            result.roi.tolist(),
            pairwise([*first.tolist(), len(image)]),
            np.maximum.reduceat(off, first).tolist(),
            strict=True,
        )
        result.keys = [
            make_key(self._set.rois[k].number, numbers[start:stop], counts[k], farthest)
            for k, (start, stop), farthest in columns
        ]
        reasons: dict[str, NDArray[np.bool_]] = {}
        if lost:
            reason = "is left out: nobody knows on which image another contour lies"
            reasons[reason] = np.array([of in lost for of in result.roi.tolist()])
        if lacking:
            reason = "is left out: another contour of its image cannot be used"
            pairs_of_rows = zip(
                result.images.tolist(), result.roi.tolist(), strict=True
            )
            reasons[reason] = np.array([pair in lacking for pair in pairs_of_rows])
        reason = (
            "lies on an image with both CLOSED_PLANAR and CLOSEDPLANAR_XOR contours of "
            "the ROI, which do not go together"
        )
        reasons[reason] = np.minimum.reduceat(kind, first) != np.maximum.reduceat(
            kind, first
        )
        spread = np.maximum.reduceat(middle, first) - np.minimum.reduceat(middle, first)
        reason = (
            "is not as far off the plane of its image as other contours of the ROI "
            "there; they are of several slices"
        )
        reasons[reason] = spread > self._stacks.spreads[result.images]
        if max(map(len, result.keys)) > MAX_TEXT_BYTES:
            reason = "is one of too many on its image"
            reasons[reason] = np.array([len(x) > MAX_TEXT_BYTES for x in result.keys])
        self._drop(reasons, roi, numbers, is_first)

    def _are_copies(self, image: Ints, contour: Ints) -> NDArray[np.bool_]:
        """Return which contours are copies of another one of their ROI and image.

        image, contour : int64 (p,), pairs, sorted by image, ROI and contour

        By the even-odd rule, two equal rings would cover nothing. They are left out,
        but in CLOSEDPLANAR_XOR, where that is meant.
        """
        contours, result = self._set.contours, self._result
        roi = contours.roi[contour]
        is_copy = np.zeros(len(contour), np.bool_)
        if not len(contour):
            return is_copy
        # Those of equal length are few; only these are compared.
        columns = [contour, self._set.text_lengths(contour), roi, image]
        order = np.lexsort(columns)
        is_like = np.all([np.diff(x[order]) == 0 for x in columns[1:]], axis=0)
        several = order[np.append(is_like, False) | np.append(False, is_like)]
        seen: dict[tuple[int, int, bytes], int] = {}
        for k in several.tolist():
            index = int(contour[k])
            if contours.kind[index] != CLOSED_PLANAR:
                continue
            digest = xxh3_128_digest(self._set.text(index))
            key = (int(image[k]), int(roi[k]), digest)
            if seen.setdefault(key, index) != index:
                is_copy[k] = True
        copies = dict.fromkeys(contour[is_copy].tolist())
        if copies:
            result.left_out[COPY] = [
                f"ROI {result.names[contours.roi[k]]}, contour {contours.number[k]}"
                for k in copies
            ]
        return is_copy

    def _drop(
        self,
        reasons: Mapping[str, NDArray[np.bool_]],
        roi: Ints,
        numbers: Sequence[int],
        is_first: NDArray[np.bool_],
    ) -> None:
        """Drop rows for some reasons, and reject their contours.

        reasons  : bool (r,), which rows each is for
        roi, numbers, is_first : of their contours: ROI, number, and whether it is the
            first one of a row
        """
        result = self._result
        row = np.cumsum(is_first) - 1
        is_dropped = np.zeros(len(result.keys), np.bool_)
        for reason, is_so in reasons.items():
            dropped = np.flatnonzero((is_so & ~is_dropped)[row])
            is_dropped |= is_so
            by_roi: dict[int, set[int]] = defaultdict(set)
            for k in dropped.tolist():
                by_roi[int(roi[k])].add(numbers[k])
            for of, some in by_roi.items():
                result.reject(of, some, reason)
        if is_dropped.any():
            images, rois = result.images[is_dropped], result.roi[is_dropped]
            result.lacking.update(zip(images.tolist(), rois.tolist(), strict=True))
            result.drop(is_dropped)

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
            elif not images and np.isnan(off):
                lost.add(roi[k])
        for pair in np.flatnonzero(~is_valid[matches.contour]).tolist():
            lacking.add((int(matches.image[pair]), roi[matches.contour[pair]]))
        counts: Counter[str] = Counter()
        for (_, kind), some in refused.items():
            counts[kind] += len(some)
        for (of, kind), some in refused.items():
            if counts[kind] > CONTOURS_LISTED:
                result.refuse(of, kind, some)
                continue
            for n, reason, _ in some:
                result.reject(of, [n], reason)
        return lacking, lost
