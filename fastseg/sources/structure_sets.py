"""The structure sets of a tree: which of their contours belong to which images.

structure sets ── side by side ──> SetLinks ── classes ──> rows ──> LinkTable

Of each structure set only its rows and problems are kept.
"""

from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128_digest

from fastseg._kernels.native.entries import prepare
from fastseg.bounds import MAX_STRUCTURE_SET_BYTES
from fastseg.choices import Slices
from fastseg.dicom.structure_set import KERNELS, read_structure_set
from fastseg.errors import DicomError, LinkError
from fastseg.files import read_file
from fastseg.links import Links, LinkTable, Texts, column_of
from fastseg.paths import natural_key
from fastseg.progress import Progress
from fastseg.reprs import listed, many
from fastseg.sources.aliases import Aliases
from fastseg.sources.base import note_unlabelled
from fastseg.sources.repeats import find_repeated_sets
from fastseg.sources.roi_classes import (
    RoiClasses,
    drop_incomplete,
    note_similar,
    reject_shared_classes,
)
from fastseg.sources.rtstruct import RtStruct
from fastseg.sources.set_links import LEFT_OUT, SetLinker, SetLinks
from fastseg.sources.stacks import BY_FRAME, BY_INSTANCE, BY_SERIES, Stacks
from fastseg.sources.tree import (
    DUPLICATE,
    STRUCTURE_SET,
    Patients,
    Tree,
    linkable_images,
    sort_links,
)
from fastseg.tables import Reject, reason_of
from fastseg.threads import map_ordered, usable_cores
from fastseg.urls import are_mounted

if TYPE_CHECKING:
    from concurrent.futures import Executor

EMPTY = "empty RT structure set"
WAYS = {
    BY_INSTANCE: "by the images that they name",
    BY_SERIES: "by position in the series that their structure sets name",
    BY_FRAME: "by position in their frame of reference",
}
# Threads that link structure sets, at most: each holds one in memory, and half of the
# time is Python's.
MOST_THREADS = 2

Ints = NDArray[np.int64]


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
    executor: "Executor | None" = None,
) -> LinkTable:
    """Link the images of a tree with the contours of its structure sets.

    labels : the classes to link, None for all
    rois   : names of ROIs by class; None if each name is a class
    join   : whether several ROIs of a series may belong to one class
    plane_tolerance_mm : how far points may lie off the plane of their image; None for
        the default of each stack, see `stacks`
    hints  : further notes
    executor : whose workers read structure sets

    Raises LinkError if there are no images, no contours, or more than MAX_CLASSES
    classes; OptionError for a label that no ROI has and a name that two classes match.
    """
    linkable = linkable_images(tree)
    images, rejects = linkable.images, linkable.rejects
    if not images:
        raise LinkError(
            f"{tree.root}: holds {tree.describe()}, and no images that can be linked"
        )
    stacks = Stacks(images, linkable.links, linkable.planes, plane_tolerance_mm)
    classes = RoiClasses(labels, rois)
    others = {kind: list(paths) for kind, paths in tree.others.items()}
    paths = others.pop(STRUCTURE_SET)
    linker = _Linker(tree.root.absolute(), stacks, linkable.patients, classes)
    found = _link_sets(paths, linker, progress, executor)
    sets: list[SetLinks] = []
    for path, result in zip(paths, found, strict=True):
        if isinstance(result, str):
            rejects.append(Reject(str(tree.root / path), None, result))
        elif result.is_empty:
            others.setdefault(EMPTY, []).append(path)
        else:
            sets.append(result)
    known = dict.fromkeys(name for x in sets for name in x.rois)
    sets = _without_repeats(tree, sets, others, rejects)
    names: Counter[str] = Counter()
    outlined: Counter[str] = Counter()
    for set_links in sets:
        names.update(dict.fromkeys(set_links.rois, 1))
        outlined.update(set_links.classes)
    classes.check(tree.root, known, outlined)
    if join:
        drop_incomplete(sets, stacks)
    else:
        reject_shared_classes(sets, stacks)
    for set_links in sets:
        file = str(tree.root / set_links.path)
        rejects += [Reject(file, None, reason) for reason in set_links.rejects]
        for kind, contours in set_links.left_out.items():
            lines = [f"{set_links.path}: {x}" for x in contours]
            others.setdefault(kind, []).extend(lines)
    other = classes.other(names)
    if slices != "all" and not rejects and not any(len(x.keys) for x in sets):
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
    for set_links in sets:
        is_outlined[set_links.images] = True
    is_linked = _choose(stacks, is_outlined, slices)
    links, rows, notes = sort_links(linkable, is_linked)
    unlabelled = int(np.count_nonzero(~is_outlined))
    notes += note_unlabelled(
        unlabelled,
        images=len(is_outlined),
        linked=int(np.count_nonzero(is_linked & ~is_outlined)),
        slices=slices,
    )
    return LinkTable(
        base=tree.root,
        links=_with_contours(links, rows, sets),
        rejects=rejects,
        unlabelled=unlabelled,
        ignored=tree.ignored,
        left_out={kind: others[kind] for kind in sorted(others)},
        notes=[
            *notes,
            *_notes(sets, other),
            *_note_unusable(sets),
            *note_similar(outlined, rois),
            *hints,
        ],
    )


def _link_sets(
    paths: Sequence[str],
    linker: "_Linker",
    progress: Progress,
    executor: "Executor | None",
) -> list[SetLinks | str]:
    """Return the links of each structure set, or why it cannot be used."""
    prepare([(kernel, {}) for kernel in KERNELS])
    results = []
    with (
        progress("read structure sets", len(paths)) as advance,
        closing(_iterate_links(paths, linker, executor)) as links,
    ):
        for result in links:
            results.append(result)
            advance()
    return results


def _iterate_links(
    paths: Sequence[str], linker: "_Linker", executor: "Executor | None"
) -> Generator[SetLinks | str, None, None]:
    """Yield the links of each structure set, read here or by workers."""
    # Workers do not know objects by the files that stand for them here.
    if executor is None or are_mounted():
        threads = min(usable_cores(), MOST_THREADS, len(paths))
        with closing(map_ordered(linker.link, paths, threads)) as links:
            yield from links
        return
    from fastseg.tasks import count_tasks, in_order, run_tasks, share, workers_of

    # Few tasks: each worker has to receive the metadata of all images.
    count = count_tasks(len(paths), len(paths), workers_of(executor))
    bounds = [len(paths) * k // count for k in range(count + 1)]
    shared = share(executor, linker)
    tasks = [(shared, paths[first:stop]) for first, stop in pairwise(bounds)]
    with closing(run_tasks(executor, _link_task, tasks, _name_task)) as done:
        for some in in_order(done):
            yield from some


def _link_task(linker: "_Linker", paths: Sequence[str]) -> list[SetLinks | str]:
    """Return the links of some structure sets, in a worker."""
    return [*_iterate_links(paths, linker, None)]


def _name_task(linker: Any, paths: Sequence[str]) -> str:
    return f"the structure sets from {paths[0]} to {paths[-1]}"


def _without_repeats(
    tree: Tree,
    sets: Sequence[SetLinks],
    others: dict[str, list[str]],
    rejects: list[Reject],
) -> list[SetLinks]:
    """Return structure sets without copies; reject those of one SOPInstanceUID.

    others  : the copies are added
    rejects : those that differ are added
    """
    repeats = find_repeated_sets({x.path: (x.sop_instance, x.digest) for x in sets})
    for path, reason in repeats.items():
        if reason:
            rejects.append(Reject(str(tree.root / path), None, reason))
        else:
            others.setdefault(DUPLICATE, []).append(path)
    return [x for x in sets if x.path not in repeats]


def _choose(
    stacks: Stacks, is_outlined: NDArray[np.bool_], slices: Slices
) -> NDArray[np.bool_]:
    """Return which images are linked."""
    if slices == "all":
        return np.ones_like(is_outlined)
    if slices == "labelled":
        return is_outlined
    has_outlines = np.zeros(len(is_outlined), np.bool_)  # of each series
    has_outlines[stacks.series[is_outlined]] = True
    return has_outlines[stacks.series]


def _with_contours(links: Links, images: Ints, sets: Sequence[SetLinks]) -> Links:
    """Return links with a row for each row of structure sets, sorted.

    links  : sorted, without contours
    images : int64 (n,), the image of each
    """
    sets = [x for x in sets if x.keys]
    if not sets:
        return links
    at = np.empty(int(images.max()) + 1, np.int64)
    at[images] = np.arange(len(images))
    position = at[np.concatenate([x.images for x in sets])]
    # Code 0 of each column is for images without contours.
    files = column_of("contour_path", ["", *(x.path for x in sets)])
    file = np.repeat(np.arange(1, len(sets) + 1), [len(x.keys) for x in sets])
    labels = ["", *sorted({*chain(*(x.classes for x in sets))})]
    codes = {label: code for code, label in enumerate(labels)}
    label = np.concatenate(
        [np.array([codes[label or ""] for label in x.labels])[x.roi] for x in sets]
    )
    keys: dict[str, int] = {"": 0}
    key = np.array([keys.setdefault(key, len(keys)) for x in sets for key in x.keys])
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


def _notes(sets: Sequence[SetLinks], other: Sequence[tuple[str, int]]) -> list[str]:
    """Return what was found in structure sets, in words.

    other : names of ROIs that have no class, and how many structure sets have them
    """
    ways: Counter[int] = sum((x.ways for x in sets), Counter())
    counts = [f"{ways[way]} {text}" for way, text in WAYS.items() if ways[way]]
    note = many(len(sets), "structure set")
    if counts:
        note += f", {many(ways.total(), 'contour')} matched: {', '.join(counts)}"
    notes = [note]
    others = sum(x.has_other_frame for x in sets)
    if others:
        notes.append(
            f"{many(others, 'structure set')} with another frame of reference than the "
            "images that are named: matched all the same"
        )
    others = sum(x.has_other_series for x in sets)
    if others:
        notes.append(
            f"{many(others, 'structure set')} whose named series are not here: drawn "
            "on others in the same frame of reference"
        )
    empty = Counter(x.rois[roi] for x in sets for roi in x.without_contours)
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


def _note_unusable(sets: Sequence[SetLinks]) -> list[str]:
    """Return a note on the images on which contours of a class cannot be used.

    The store does not tell these from images on which nobody outlined the class.
    """
    pairs = {(x.labels[roi], image) for x in sets for image, roi in x.incomplete}
    counts = Counter(sorted(label for label, _ in pairs if label is not None))
    if not counts:
        return []
    classes = [f"{label!r} on {many(n, 'image')}" for label, n in counts.most_common()]
    return [
        f"contours that cannot be used: of {listed(classes)}; there the class counts "
        "as not labelled, as if nobody had outlined it"
    ]


@dataclass(frozen=True, slots=True)
class _Linker:
    """Links structure sets below a root; threads share it."""

    root: Path
    stacks: Stacks
    patients: Patients
    classes: RoiClasses

    def link(self, path: str) -> SetLinks | str:
        """Return the links of a structure set, or why it cannot be used."""
        try:
            data, _ = read_file(str(self.root / path), MAX_STRUCTURE_SET_BYTES)
            structure_set = read_structure_set(data, path)
        except (DicomError, OSError) as exc:
            return reason_of(exc, path)
        linker = SetLinker(
            self.stacks, self.patients, structure_set, path, xxh3_128_digest(data)
        )
        return linker.link([self.classes.wanted(x.name) for x in structure_set.rois])
