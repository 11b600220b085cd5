"""Sources of images and contours, by the format of their contour files.

`base` says what a source must do; each other module is one.
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
from fastseg.sources.sunnybrook import Sunnybrook

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
    progress: Progress = silent,
) -> LinkTable:
    """Find the images and contours under a folder and link them.

    root : folder of a data set that one of the sources knows
    labels : the classes to link, all by default
    slices : "labelled" (the default) links images with a contour, "all" also those
        without
    keep_unlabelled : the same as `slices="all"`

    Returns a LinkTable. Files and rows that cannot be used are in its `rejects` with
    file, line and reason, and a RejectedWarning counts them. Its `unlabelled` is the
    number of images without contours.

    Raises LinkError if no source knows the folder, or it holds several data sets, or
    its table of patients cannot be read, OptionError for an unknown class or an invalid
    option.
    """
    if slices is not None:
        choice("slices", slices, get_args(Slices))
    keep_unlabelled = true_or_false("keep_unlabelled", keep_unlabelled)
    if keep_unlabelled and slices == "labelled":
        raise OptionError(
            "slices is 'labelled', but keep_unlabelled is set, which means 'all'; "
            "leave one of them out"
        )
    wanted: Slices = "all" if keep_unlabelled else slices or "labelled"
    names = [labels] if isinstance(labels, str) else labels
    if names is not None and not is_iterable(names):
        raise OptionError(f"labels is {shown(labels)}, expected classes to link")
    folder = as_path("root", root)
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise LinkError(f"{folder}: {problem}, expected the folder of a data set")
    with name_path(folder):
        seen = _recognise(folder)
    if len(seen) == 1:
        ((source, _),) = seen
        # The second one is for the build: it is compiled beside the first.
        prepare([(content.note_headers, {}), (content.read_files, {})])
        with name_path(folder):
            table = source.find_links(
                folder, None if names is None else list(names), wanted, progress
            )
        if table.rejects:
            warnings.warn(
                f"{len(table.rejects)} files or rows under {folder} cannot be used, "
                "see `rejects` of the table",
                RejectedWarning,
                stacklevel=3,
            )
        return table
    if seen:
        layouts = "; and ".join(text for _, text in seen)
        raise LinkError(
            f"{folder}: holds several layouts at once; separate them: {layouts}"
        )
    below = [
        child
        for child in sorted(folder.iterdir())
        if child.is_dir() and _recognise(child)
    ]
    hint = f"; did you mean {below[0]}?" if below else ""
    known = "; or ".join(source.outline for source in SOURCES.values())
    raise LinkError(
        f"{folder}: has no layout that fastseg knows{hint}; expected {known}"
    )


def _recognise(folder: Path) -> list[tuple[Source, str]]:
    """Return each layout that a source sees in a folder, in words, with the source."""
    return [
        (source, text)
        for source in SOURCES.values()
        for text in source.recognise(folder)
    ]
