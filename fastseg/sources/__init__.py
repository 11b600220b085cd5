"""Where images and contours come from: each source finds links and reads contours."""

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastseg.errors import LinkError, RejectedWarning, one_of
from fastseg.links import LinkTable, StrPath
from fastseg.progress import Progress, silent
from fastseg.sources import sunnybrook

# How to read the contours of a file, by the `format` of its links.
READERS = {"sunnybrook": sunnybrook.read_rings}
# Those of which a file is one ring, and its lines, nearly always, two plain decimals:
# `_kernels.labels.parse_files` reads many at a time.
PLAIN = {"sunnybrook"}


def link(
    root: StrPath,
    *,
    labels: Iterable[str] | None = None,
    keep_unlabelled: bool = False,
    progress: Progress = silent,
) -> LinkTable:
    """Find the images and contours under a folder and join them.

    root : folder of a data set in one of the layouts that `sources` knows
    labels : the classes to link, all by default
    keep_unlabelled : link images without contours as well

    Returns a LinkTable. What does not fit is in its `rejects` with file, line and
    reason, and a RejectedWarning tells so; the images without contours are counted
    in `unlabelled`.

    Raises LinkError where the folder has none of the layouts or its list of
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
                f"{len(table.rejects)} files or rows under {folder} do not fit, see "
                "`rejects` of the table",
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

    name : of the file, for messages
    format, key : the link's `format` and `contour_key`

    Returns rings float64 (n, 2), (x, y) in pixels. Raises ContourError with the
    line at fault, LinkError for an unknown format.
    """
    if format not in READERS:
        raise LinkError(one_of("format", format, READERS))
    return READERS[format](data, name, key)
