"""Sources of images and contours, by the format of their contour files.

base            what a source and a reader must do
sunnybrook      a source
tree            all DICOM files below a folder that no source knows
mirror          the objects below a URL as files of a folder
structure_sets  those of a tree, and the images of their contours
set_links       the links of one structure set
named_series    the series on which the contours of a structure set may lie
roi_classes     the classes of ROIs
rtstruct        the reader of structure sets
stacks          the images on whose planes contours lie
repeats         files that have the SOPInstanceUID of another
series          fills in positions and times of images
folder          finds files
pseudonyms      keyed hashes of patients' IDs
aliases         which names of ROIs belong to which class
rois            reads and counts the names of ROIs
roi_list        the names as a list, as JSON and as aliases
lookalikes      names that look alike
starter         a file of aliases to start with
"""

import gc
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from fastseg._kernels.files import content
from fastseg._kernels.native.entries import prepare
from fastseg.calls import check_call
from fastseg.choices import Slices
from fastseg.errors import (
    LinkError,
    OptionError,
    RejectedWarning,
    choice,
    is_iterable,
    one_of,
    shown,
    true_or_false,
)
from fastseg.files import name_path
from fastseg.links import Link, LinkTable
from fastseg.paths import StrPath, as_path, path_text
from fastseg.progress import Progress, silent
from fastseg.sources.aliases import Aliases, Rois
from fastseg.sources.base import Reader, Source
from fastseg.sources.mirror import mirror
from fastseg.sources.pseudonyms import read_key, with_pseudonyms
from fastseg.sources.rtstruct import RtStruct
from fastseg.sources.stacks import check_tolerance
from fastseg.sources.structure_sets import link_structure_sets
from fastseg.sources.sunnybrook import Sunnybrook
from fastseg.sources.tree import STRUCTURE_SET, link_images, read_tree
from fastseg.urls import is_url

if TYPE_CHECKING:
    from concurrent.futures import Executor

# What recognises a folder by its layout, by format.
SOURCES: dict[str, Source] = {source.format: source for source in (Sunnybrook(),)}
# What reads contour files, by format.
READERS: dict[str, Reader] = {**SOURCES, RtStruct.format: RtStruct()}
# The format of links that name none.
DEFAULT_FORMAT = Sunnybrook.format
# Folders with contours that a note names.
LAYOUTS_LISTED = 3


def format_of(link: Link) -> str:
    """Return the format of a link's contour file."""
    return link.format or DEFAULT_FORMAT


def reader_of(link: Link) -> Reader:
    """Return what reads a link's contour file, or raise LinkError."""
    name = format_of(link)
    if name not in READERS:
        raise LinkError(one_of("format", name, READERS))
    return READERS[name]


@check_call()
def link(
    root: StrPath,
    *,
    labels: Iterable[str] | None = None,
    slices: Slices | None = None,
    keep_unlabelled: bool = False,
    rois: "Rois | None" = None,
    match_case: bool = False,
    join: bool = False,
    plane_tolerance_mm: float | None = None,
    pseudonyms: StrPath | None = None,
    executor: Any = None,
    progress: Progress = silent,
) -> LinkTable:
    """Find the images and contours under a folder and link them.

    root : folder of a data set that one of the sources knows, or any folder with DICOM
        images and RT structure sets in it or in folders below it, whatever their names;
        with `slices="all"`, any folder with DICOM images. Or the URL of such a folder,
        as in s3://bucket/study; the table then holds URLs
    labels : the classes to link, all by default
    slices : "labelled" links images with a contour (the default in layouts that a
        source knows); "series" all images of each series that has one, so that volumes
        stay whole (the default with structure sets); "all" all images
    keep_unlabelled : the same as `slices="all"`
    rois : the names of ROIs of each class, see `Aliases.of`; by default, each name is a
        class
    match_case : whether upper and lower case differ in `rois`
    join : join several ROIs of a series that are of one class; by default, they are
        rejected
    plane_tolerance_mm : how far, in mm, a contour may lie off the plane of its image;
        by default a tenth of the distance between slices and at least 0.1, of a single
        slice half its thickness
    pseudonyms : file with a secret key; `patient` then holds keyed hashes of the IDs

    executor : a `concurrent.futures.Executor`, such as a ProcessPoolExecutor, or a
        Client of Dask: its workers read headers and structure sets. They need the same
        paths and packages. The table is the same. Folders in a layout that a source
        knows are read here

    `rois`, `match_case`, `join` and `plane_tolerance_mm` are for structure sets alone.

    Returns a LinkTable. Files and rows that cannot be used are in its `rejects` with
    file, line and reason, and a RejectedWarning counts them. Its `unlabelled` is the
    number of images without contours, `left_out` lists DICOM files that are no images
    to learn from, and `notes` says what else was found.

    Raises LinkError if no source knows the folder, it holds no structure sets and
    `slices` is not "all", or there are no images, or it holds several data sets, or its
    table of patients cannot be read, or there are too many classes; OptionError for an
    unknown class, for labels if the folder has no contours, for an invalid option or
    key file; FileNotFoundError if there is no key file.
    """
    if slices is not None:
        choice("slices", slices, get_args(Slices))
    keep_unlabelled = true_or_false("keep_unlabelled", keep_unlabelled)
    if keep_unlabelled and slices not in (None, "all"):
        raise OptionError(
            f"slices is {slices!r}, but keep_unlabelled is set, which means 'all'; "
            "leave one of them out"
        )
    wanted: Slices | None = "all" if keep_unlabelled else slices
    names = [labels] if isinstance(labels, str) else labels
    if names is not None and not is_iterable(names):
        raise OptionError(f"labels is {shown(labels)}, expected classes to link")
    key = None if pseudonyms is None else read_key(as_path("pseudonyms", pseudonyms))
    source = path_text("root", root)
    classes = None if names is None else list(names)
    options = _RoiOptions.of(rois, match_case, join, plane_tolerance_mm)
    if is_url(source):
        with mirror(source, progress) as objects:
            found = _link_folder(
                objects.folder, classes, wanted, options, executor, progress
            )
            table = objects.table(found)
    else:
        table = _link_folder(Path(source), classes, wanted, options, executor, progress)
    if key is not None:
        table = with_pseudonyms(table, key)
    if table.rejects:
        warnings.warn(
            f"{len(table.rejects)} files or rows under {source} cannot be used, "
            "see `rejects` of the table",
            RejectedWarning,
            stacklevel=3,
        )
    return table


def _link_folder(
    folder: Path,
    classes: list[str] | None,
    slices: Slices | None,
    options: "_RoiOptions",
    executor: Any,
    progress: Progress,
) -> LinkTable:
    """Link the files of a folder, by the source that knows it or as a tree."""
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise LinkError(f"{folder}: {problem}, expected the folder of a data set")
    with name_path(folder):
        seen = _recognise(folder)
    if len(seen) > 1:
        layouts = "; and ".join(text for _, text in seen)
        raise LinkError(
            f"{folder}: holds several layouts at once; separate them: {layouts}"
        )
    pool = None
    if executor is not None:
        from fastseg.tasks import executor_of  # imports multiprocessing

        pool = executor_of(executor)
    # The second one is for the build: it is compiled beside the first.
    prepare([(content.note_headers, {}), (content.read_files, {})])
    with name_path(folder), _paused_collector():
        if seen:
            ((source, outline),) = seen
            options.refuse(f"{folder} has the layout {outline}")
            return source.find_links(folder, classes, slices or "labelled", progress)
        return _link_tree(folder, classes, slices, options, pool, progress)


@contextmanager
def _paused_collector() -> Iterator[None]:
    """Keep Python from looking for cycles of objects among all headers and links.

    There are none, and to look for them takes a twelfth of the time of `link`.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _RoiOptions(NamedTuple):
    """The options of `link` that are for structure sets alone."""

    rois: Aliases | None
    join: bool
    plane_tolerance_mm: float | None

    @classmethod
    def of(
        cls, rois: Any, match_case: Any, join: Any, plane_tolerance_mm: Any
    ) -> "_RoiOptions":
        """Return the options, checked."""
        match_case = true_or_false("match_case", match_case)
        if match_case and rois is None:
            raise OptionError("match_case is set, but it is for rois, which is not")
        tolerance = plane_tolerance_mm
        return cls(
            None if rois is None else Aliases.of(rois, match_case),
            true_or_false("join", join),
            None if tolerance is None else check_tolerance(tolerance),
        )

    def refuse(self, reason: str) -> None:
        """Raise OptionError if any is set where there are no structure sets."""
        for name, value in self._asdict().items():
            if value not in (None, False):
                raise OptionError(
                    f"{name} is for the ROIs of RT structure sets, but {reason}; leave "
                    "it out"
                )


def _link_tree(
    folder: Path,
    labels: list[str] | None,
    slices: Slices | None,
    options: _RoiOptions,
    executor: "Executor | None",
    progress: Progress,
) -> LinkTable:
    """Link the images of a folder that no source knows, and its structure sets.

    Raises LinkError if there are no images, or no structure sets and `slices` is not
    "all", OptionError for labels and options without structure sets.
    """
    known = _find_layouts(folder)
    hint = f"; did you mean {known[0]}?" if known else ""
    hints = [_hint_at(known)] if known else []
    tree = read_tree(folder, progress, executor=executor)
    if STRUCTURE_SET in tree.others:
        return link_structure_sets(
            tree,
            labels=labels,
            slices=slices or "series",
            progress=progress,
            hints=hints,
            executor=executor,
            **options._asdict(),
        )
    if slices == "all" and labels:
        raise OptionError(
            f"labels is {shown(labels)}, but {folder} has no contours that fastseg "
            f"can read{hint}; leave labels out to link the images alone"
        )
    options.refuse(f"{folder} has none{hint}")
    held = tree.describe()
    if slices == "all":
        if tree.images:
            return link_images(tree, hints)
        if tree.others or tree.rejects:
            held += ", and no images that can be linked"
        raise LinkError(f"{folder}: holds {held}")
    if tree.images:
        held += '; slices="all" (--slices all) links the images alone'
    outlines = [source.outline for source in SOURCES.values()]
    expected = "; or ".join([*outlines, "DICOM images with RT structure sets"])
    raise LinkError(
        f"{folder}: has no layout that fastseg knows{hint}; it holds "
        f"{held}; expected {expected}"
    )


def _find_layouts(folder: Path) -> list[Path]:
    """Return the folders in a folder that have contours in a layout of a source."""
    found = []
    for child in sorted(folder.iterdir()):
        # Unlike Path.is_dir, it raises nothing: `read_tree` rejects what it must.
        if os.path.isdir(child):  # noqa: PTH112
            sources = (source for source, _ in _recognise(child))
            if any(source.has_contours(child) for source in sources):
                found.append(child)
    return found


def _hint_at(layouts: list[Path]) -> str:
    """Return a note on folders whose contours are not linked."""
    named = ", ".join(map(str, layouts[:LAYOUTS_LISTED]))
    if len(layouts) > LAYOUTS_LISTED:
        named += f" and {len(layouts) - LAYOUTS_LISTED} more"
    return f"the contours in {named} are not linked; did you mean {layouts[0]}?"


def _recognise(folder: Path) -> list[tuple[Source, str]]:
    """Return each layout that a source sees in a folder, in words, with the source."""
    return [
        (source, text)
        for source in SOURCES.values()
        for text in source.recognise(folder)
    ]
