"""Sources of images and contours, by the format of their contour files.

base        what a source must do
sunnybrook  a source
tree        all DICOM files below a folder that no source knows
series      fills in positions and times of images
folder      finds files
pseudonyms  keyed hashes of patients' IDs
"""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

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
from fastseg.paths import StrPath, as_path
from fastseg.progress import Progress, silent
from fastseg.sources.base import Source
from fastseg.sources.pseudonyms import read_key, with_pseudonyms
from fastseg.sources.sunnybrook import Sunnybrook
from fastseg.sources.tree import link_images, read_tree

SOURCES: dict[str, Source] = {source.format: source for source in (Sunnybrook(),)}
# The format of links that name none.
DEFAULT_FORMAT = Sunnybrook.format


def format_of(link: Link) -> str:
    """Return the format of a link's contour file."""
    return link.format or DEFAULT_FORMAT


def source_of(link: Link) -> Source:
    """Return the source that reads a link's contour file, or raise LinkError."""
    name = format_of(link)
    if name not in SOURCES:
        raise LinkError(one_of("format", name, SOURCES))
    return SOURCES[name]


@check_call()
def link(
    root: StrPath,
    *,
    labels: Iterable[str] | None = None,
    slices: Slices | None = None,
    keep_unlabelled: bool = False,
    pseudonyms: StrPath | None = None,
    progress: Progress = silent,
) -> LinkTable:
    """Find the images and contours under a folder and link them.

    root : folder of a data set that one of the sources knows; with `slices="all"`, any
        folder with DICOM images in it or in folders below it, whatever their names
    labels : the classes to link, all by default
    slices : "labelled" (the default) links images with a contour; "series" all images
        of each series that has one, so that volumes stay whole; "all" all images
    keep_unlabelled : the same as `slices="all"`
    pseudonyms : file with a secret key; `patient` then holds keyed hashes of the IDs

    Returns a LinkTable. Files and rows that cannot be used are in its `rejects` with
    file, line and reason, and a RejectedWarning counts them. Its `unlabelled` is the
    number of images without contours, `left_out` lists DICOM files that are no images
    to learn from, and `notes` says what else was found.

    Raises LinkError if no source knows the folder and `slices` is not "all", or there
    are no images, or it holds several data sets, or its table of patients cannot be
    read; OptionError for an unknown class, an invalid option or key file;
    FileNotFoundError if there is no key file.
    """
    if slices is not None:
        choice("slices", slices, get_args(Slices))
    keep_unlabelled = true_or_false("keep_unlabelled", keep_unlabelled)
    if keep_unlabelled and slices not in (None, "all"):
        raise OptionError(
            f"slices is {slices!r}, but keep_unlabelled is set, which means 'all'; "
            "leave one of them out"
        )
    wanted: Slices = "all" if keep_unlabelled else slices or "labelled"
    names = [labels] if isinstance(labels, str) else labels
    if names is not None and not is_iterable(names):
        raise OptionError(f"labels is {shown(labels)}, expected classes to link")
    key = None if pseudonyms is None else read_key(as_path("pseudonyms", pseudonyms))
    folder = as_path("root", root)
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
    classes = None if names is None else list(names)
    # The second one is for the build: it is compiled beside the first.
    prepare([(content.note_headers, {}), (content.read_files, {})])
    with name_path(folder):
        if seen:
            ((source, _),) = seen
            table = source.find_links(folder, classes, wanted, progress)
        else:
            table = _link_tree(folder, classes, wanted, progress)
    if key is not None:
        table = with_pseudonyms(table, key)
    if table.rejects:
        warnings.warn(
            f"{len(table.rejects)} files or rows under {folder} cannot be used, "
            "see `rejects` of the table",
            RejectedWarning,
            stacklevel=3,
        )
    return table


def _link_tree(
    folder: Path, labels: list[str] | None, slices: Slices, progress: Progress
) -> LinkTable:
    """Link the images of a folder that no source knows, or raise LinkError."""
    if slices != "all":
        below = [
            child
            for child in sorted(folder.iterdir())
            if child.is_dir() and _recognise(child)
        ]
        hint = f"; did you mean {below[0]}?" if below else ""
        known = "; or ".join(source.outline for source in SOURCES.values())
    if labels:
        raise OptionError(
            f"labels is {shown(labels)}, but {folder} has no contours that fastseg "
            "can read; leave it out"
        )
    tree = read_tree(folder, progress)
    if tree.images and slices == "all":
        return link_images(tree)
    held = tree.describe()
    if slices == "all":
        raise LinkError(f"{folder}: holds {held}, and no images that can be linked")
    if tree.images:
        held += (
            ", but no contours that fastseg can read; --slices all links the images "
            "alone"
        )
    raise LinkError(
        f"{folder}: has no layout that fastseg knows{hint}; it holds {held}; expected "
        f"{known}"
    )


def _recognise(folder: Path) -> list[tuple[Source, str]]:
    """Return each layout that a source sees in a folder, in words, with the source."""
    return [
        (source, text)
        for source in SOURCES.values()
        for text in source.recognise(folder)
    ]
