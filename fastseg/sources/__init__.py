"""Sources of images and contours: each finds links and reads contour files."""

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastseg.errors import LinkError, RejectedWarning, one_of
from fastseg.links import LinkTable, StrPath
from fastseg.progress import Progress, silent
from fastseg.sources import sunnybrook

# The function that reads a contour file, by the `format` of its links.
READERS = {"sunnybrook": sunnybrook.read_rings}
# The format of links that name none.
DEFAULT_FORMAT = "sunnybrook"
# Formats of files that hold one ring, nearly always as lines of two decimals without an
# exponent: `_kernels.contours.labels` reads many such files in one call.
PLAIN = {"sunnybrook"}


def link(
    root: StrPath,
    *,
    labels: Iterable[str] | None = None,
    keep_unlabelled: bool = False,
    progress: Progress = silent,
) -> LinkTable:
    """Find the images and contours under a folder and link them.

    root : folder of a data set in one of the known layouts
    labels : the classes to link, all by default
    keep_unlabelled : link images without contours as well

    Returns a LinkTable. Files and rows that cannot be used are in its `rejects` with
    file, line and reason, and a RejectedWarning counts them. Its `unlabelled` is the
    number of images without contours.

    Raises LinkError if the folder has none of the layouts, or several, or its table of
    patients cannot be read, OptionError for an unknown class.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise LinkError(f"{folder}: is not a folder")
    layouts = sunnybrook.detect_layouts(folder)
    if len(layouts) == 1:
        table = sunnybrook.find_links(
            folder, layouts[0], labels, keep_unlabelled, progress
        )
        if table.rejects:
            warnings.warn(
                f"{len(table.rejects)} files or rows under {folder} cannot be used, "
                "see `rejects` of the table",
                RejectedWarning,
                stacklevel=2,
            )
        return table
    known = "; or ".join(layout.outline for layout in sunnybrook.LAYOUTS)
    if layouts:
        raise LinkError(
            f"{folder}: holds several layouts at once; separate them: {known}"
        )
    below = [
        child.name
        for child in sorted(folder.iterdir())
        if child.is_dir() and sunnybrook.detect_layouts(child)
    ]
    hint = f"; did you mean {folder / below[0]}?" if below else ""
    raise LinkError(
        f"{folder}: has no layout that fastseg knows{hint}; expected {known}"
    )


def read_rings(
    data: bytes, name: str, format: str, key: str
) -> list[NDArray[np.float64]]:
    """Read the rings of one link from its contour file's bytes.

    name : name of the file in messages
    format, key : the link's `format` and `contour_key`

    Returns rings float64 (n, 2), (x, y) in pixels. Raises ContourError with the
    invalid line, LinkError for an unknown format.
    """
    format = format or DEFAULT_FORMAT
    if format not in READERS:
        raise LinkError(one_of("format", format, READERS))
    return READERS[format](data, name, key)
