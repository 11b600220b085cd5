"""The names of ROIs in all structure sets of a folder, and what aliases make of them.

folder ── read_tree ──> structure sets ── one by one ──> names, counted ──> RoiList
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from xxhash import xxh3_128_digest

from fastseg._kernels.files import content
from fastseg._kernels.native.entries import prepare
from fastseg.bounds import MAX_STRUCTURE_SET_BYTES
from fastseg.calls import check_call
from fastseg.dicom.structure_set import (
    CLOSED_PLANAR,
    CLOSEDPLANAR_XOR,
    KERNELS,
    KINDS,
    StructureSet,
    read_structure_set,
)
from fastseg.errors import DicomError, LinkError
from fastseg.files import name_path, read_file
from fastseg.paths import StrPath, natural_key, path_text
from fastseg.progress import Progress, silent
from fastseg.reprs import many
from fastseg.sources.aliases import WILDCARDS, Aliases, Rois
from fastseg.sources.lookalikes import group_names, is_near, spelling_of
from fastseg.sources.mirror import mirror
from fastseg.sources.repeats import find_repeated_sets
from fastseg.sources.roi_list import RoiClass, RoiList, RoiName, SeveralRois
from fastseg.sources.tree import STRUCTURE_SET, Patients, read_tree
from fastseg.tables import Reject, reason_of
from fastseg.threads import map_ordered, usable_cores
from fastseg.urls import is_url

# Threads that read structure sets, at most: each holds the bytes of one.
MOST_THREADS = 4
# The kinds of contours that are rings.
RINGS = (CLOSED_PLANAR, CLOSEDPLANAR_XOR)


class _Use(NamedTuple):
    """What a structure set has of one name.

    series : where its contours lie, to find several ROIs of a class there
    """

    name: str
    series: tuple[str, ...]
    rings: int
    others: Counter[str]


class _Contents(NamedTuple):
    """What is kept of a structure set.

    digest  : of its bytes
    unnamed : number of ROIs without a name that can be used, or without a number
    """

    patient: str
    instance: str
    digest: bytes
    uses: list[_Use]
    unnamed: int


@check_call()
def list_rois(
    root: StrPath,
    *,
    rois: Rois | None = None,
    match_case: bool = False,
    progress: Progress = silent,
) -> RoiList:
    """List the names of the ROIs in all structure sets below a folder.

    root       : the folder, or its URL
    rois       : classes with the names that belong to them, to see what they match: as
        for `link`
    match_case : whether upper and lower case differ in `rois`

    Raises LinkError if there are no structure sets, or a file of aliases cannot be
    used; OptionError for other aliases that cannot be used; FileNotFoundError.
    """
    aliases = None if rois is None else Aliases.of(rois, match_case)
    source = path_text("root", root)
    if not is_url(source):
        return _list_folder(Path(source), aliases, progress)
    with mirror(source, progress) as objects:
        found = _list_folder(objects.folder, aliases, progress)
        rejects = [*objects.rejects, *map(objects.reject, found.rejects)]
        notes = tuple(map(objects.renamed, found.notes))
        return replace(found, root=source, rejects=tuple(rejects), notes=notes)


def _list_folder(folder: Path, aliases: Aliases | None, progress: Progress) -> RoiList:
    """List the names of the ROIs in all structure sets below a folder."""
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise LinkError(f"{folder}: {problem}, expected a folder with structure sets")
    kernels = (content.note_headers, content.read_files, *KERNELS)
    prepare([(kernel, {}) for kernel in kernels])
    with name_path(folder):
        tree = read_tree(folder, progress)
    paths = tree.others.get(STRUCTURE_SET, ())
    if not paths:
        raise LinkError(
            f"{folder}: has no RT structure sets; it holds {tree.describe()}"
        )
    sets: dict[str, _Contents] = {}
    rejects: dict[str, str] = {}
    patients = Patients(image.header for image in tree.images)

    def read(path: str) -> _Contents | str:
        return _read(folder / path, patients)

    threads = min(usable_cores(), MOST_THREADS)
    with (
        progress("read structure sets", len(paths)) as advance,
        closing(map_ordered(read, paths, threads)) as results,
    ):
        for path, result in zip(paths, results, strict=True):
            if isinstance(result, str):
                rejects[path] = result
            else:
                sets[path] = result
            advance()
    repeats = find_repeated_sets({k: (x.instance, x.digest) for k, x in sets.items()})
    for path, reason in repeats.items():
        del sets[path]
        if reason:
            rejects[path] = reason
    notes = _notes(sets.values(), sum(not reason for reason in repeats.values()))
    first_images: dict[str, str] = {}
    for image in tree.images:
        first_images.setdefault(patients.of(image.header), image.path)
    first_images.pop("", None)
    with_sets = {contents.patient for contents in sets.values()}
    without_set = [x for name, x in first_images.items() if name not in with_sets]
    if without_set:
        notes.append(
            f"{len(without_set)} of {many(len(first_images), 'patient')} with images "
            "have no structure set"
        )
    if tree.rejects:
        notes.append(
            f"{many(len(tree.rejects), 'file')} cannot be read and may be structure "
            "sets; `fastseg link` says why"
        )
    names = _Names(sets, aliases)
    return RoiList(
        root=folder,
        structure_sets=len(sets),
        patients=names.all_patients,
        names=tuple(names.listed()),
        classes=tuple(names.classes()),
        several=tuple(names.several()),
        unused=tuple(aliases.unused(names.patients)) if aliases else (),
        without_set=tuple(without_set),
        rejects=tuple(
            Reject(str(folder / path), None, reason)
            for path, reason in sorted(rejects.items())
        ),
        notes=tuple(notes),
        aliases=aliases,
        _patients=names.patients,
    )


def _read(path: Path, patients: Patients) -> _Contents | str:
    """Return what a structure set holds, or why it cannot be used."""
    try:
        data, _ = read_file(str(path), MAX_STRUCTURE_SET_BYTES)
        structure_set = read_structure_set(data, str(path))
    except (DicomError, OSError) as exc:
        return reason_of(exc, path)
    uses, unnamed = _uses_of(structure_set)
    patient = patients.named(structure_set.patient_id, structure_set.study)
    return _Contents(
        patient or str(path),
        structure_set.sop_instance,
        xxh3_128_digest(data),
        uses,
        unnamed,
    )


def _uses_of(structure_set: StructureSet) -> tuple[list[_Use], int]:
    """Return what a structure set has of each ROI, and how many cannot be used.

    Those without contours do not count: nothing is lost by them.
    """
    contours = structure_set.contours
    unusable = {x.roi for x in structure_set.problems if x.contour < 0 and x.roi >= 0}
    is_ring = np.isin(contours.kind, RINGS) & contours.is_valid
    named = sorted({series.uid for series in structure_set.series})
    uses = []
    for index, roi in enumerate(structure_set.rois):
        if index in unusable:
            continue
        mine = contours.roi == index
        others = Counter(
            KINDS[kind] if kind >= 0 and is_valid else "invalid"
            for kind, is_valid in zip(
                contours.kind[mine & ~is_ring].tolist(),
                contours.is_valid[mine & ~is_ring].tolist(),
                strict=True,
            )
        )
        frame = roi.frame_of_reference or structure_set.frame_of_reference
        where = tuple(named) or (frame or structure_set.sop_instance,)
        rings = int(np.count_nonzero(mine & is_ring))
        uses.append(_Use(roi.name, where, rings, others))
    has_contours = structure_set.have_contours()
    return uses, sum(has_contours[k] for k in unusable)


def _notes(sets: Iterable[_Contents], copies: int) -> list[str]:
    """Return in words what is not counted.

    copies : number of structure sets that are copies of others
    """
    notes = []
    if copies:
        noun = "copy" if copies == 1 else "copies"
        notes.append(f"{copies} {noun} of structure sets are not counted")
    unnamed = sum(contents.unnamed for contents in sets)
    if unnamed:
        notes.append(
            f"{many(unnamed, 'ROI')} without a name or number that can be used, not "
            "counted; `fastseg link` lists them"
        )
    return notes


class _Tally:
    """How often a name occurs.

    patients : those in whom it has contours
    """

    def __init__(self) -> None:
        self.patients: set[int] = set()
        self.sets = self.empty = self.rings = 0
        self.others: Counter[str] = Counter()

    def add(self, patient: int, uses: Sequence[_Use]) -> None:
        """Add the ROIs of one structure set with that name."""
        rings = sum(use.rings for use in uses)
        for use in uses:
            self.others += use.others
        self.rings += rings
        if rings:
            self.patients.add(patient)
            self.sets += 1
        elif not any(use.others for use in uses):
            self.empty += 1


class _Names:
    """The names in some structure sets, and the aliases that some of them belong to.

    patients     : numbers of those in whom a name has contours
    all_patients : how many there are
    """

    def __init__(self, sets: Mapping[str, _Contents], aliases: Aliases | None):
        self._sets = sets
        self._aliases = aliases
        numbers: dict[str, int] = {}
        # Path and patient of each structure set.
        self._files: list[tuple[str, int]] = []
        self._tallies: dict[str, _Tally] = defaultdict(_Tally)
        for path, contents in sets.items():
            patient = numbers.setdefault(contents.patient, len(numbers))
            self._files.append((path, patient))
            uses: dict[str, list[_Use]] = defaultdict(list)
            for use in contents.uses:
                uses[use.name].append(use)
            for name, some in uses.items():
                self._tallies[name].add(patient, some)
        self.all_patients = len(numbers)
        self.patients = {
            name: frozenset(tally.patients) for name, tally in self._tallies.items()
        }
        self._classes: dict[str, list[str]] = {
            name: [match.label for match in aliases.matches(name)] if aliases else []
            for name in self.patients
        }

    def listed(self) -> list[RoiName]:
        """Return all names in the order of RoiList."""
        groups = group_names(self.patients)
        if self._aliases is None:
            return [
                self._name(name, "" if name in group.names else group.names[0])
                for group in groups
                for name in (*group.names, *group.near)
            ]
        names = [name for group in groups for name in (*group.names, *group.near)]
        like = self._likes(names)
        rows = []
        for label in self._aliases.classes:
            mine = [name for name in names if label in self._classes[name][:1]]
            rows += [self._name(name) for name in sorted(mine, key=self._rank)]
            near = [name for name in names if like.get(name, ("", ""))[1] == label]
            rows += [
                self._name(name, *like[name]) for name in sorted(near, key=self._rank)
            ]
        rows += [
            self._name(name)
            for name in names
            if not self._classes[name] and name not in like
        ]
        return rows

    def classes(self) -> list[RoiClass]:
        """Return what belongs to each class of the aliases."""
        if self._aliases is None:
            return []
        classes = []
        for label, patterns in self._aliases.patterns.items():
            names = [name for name, labels in self._classes.items() if label in labels]
            names.sort(key=self._rank)
            patients: frozenset[int] = frozenset().union(
                *(self.patients[name] for name in names)
            )
            classes.append(
                RoiClass(
                    name=label,
                    patterns=patterns,
                    names=tuple(names),
                    patients=len(patients),
                    missing=tuple(path for path, x in self._files if x not in patients),
                )
            )
        return classes

    def several(self) -> Iterator[SeveralRois]:
        """Yield which ROIs share a class on a series: by class, frequent ones first.

        Names of several classes do not count: they are no class yet.
        """
        where: dict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
        for path, contents in self._sets.items():
            for use in contents.uses:
                labels = self._classes[use.name] if self._aliases else [use.name]
                if use.rings and len(labels) == 1:
                    key = (labels[0], contents.patient, *use.series)
                    where[key].append((use.name, path))
        patients: dict[tuple[str, ...], set[str]] = defaultdict(set)
        files: dict[tuple[str, ...], dict[str, None]] = defaultdict(dict)
        for (label, patient, *_), some in where.items():
            if len(some) > 1:
                key = (label, *sorted(name for name, _ in some))
                patients[key].add(patient)
                files[key].update(dict.fromkeys(path for _, path in some))
        classes = self._aliases.classes if self._aliases else sorted(self.patients)
        order = {label: k for k, label in enumerate(classes)}
        for key in sorted(files, key=lambda x: (order[x[0]], -len(patients[x]), x)):
            label, *names = key
            yield SeveralRois(
                label=label,
                names=tuple(names),
                patients=len(patients[key]),
                files=tuple(files[key]),
            )

    def _likes(self, names: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Return what names without a class are like, and its class."""
        models = [
            (text, spelling_of(text), label.name)
            for label in self.classes()
            for text in dict.fromkeys((*label.names, *label.patterns, label.name))
            if not WILDCARDS.search(text) or text in label.names
        ]
        like = {}
        for name in names:
            if self._classes[name]:
                continue
            spelling = spelling_of(name)
            for text, model, label_name in models:
                if model.key == spelling.key or is_near(model, spelling):
                    like[name] = text, label_name
                    break
        return like

    def _rank(self, name: str) -> tuple[int, str, str]:
        return -len(self.patients[name]), natural_key(name), name

    def _name(self, name: str, like: str = "", like_class: str = "") -> RoiName:
        tally = self._tallies[name]
        return RoiName(
            name=name,
            patients=len(tally.patients),
            structure_sets=tally.sets,
            empty=tally.empty,
            contours=tally.rings,
            others=dict(sorted(tally.others.items())),
            classes=tuple(self._classes[name]),
            like=like,
            like_class=like_class,
        )
