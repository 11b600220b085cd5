"""Where the images of a series lie, and which of them make up volumes.

All of it depends on what the headers say and on nothing else: neither the order of the
images, nor their names, nor InstanceNumber changes a position or a time.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg import geometry
from fastseg.dicom import Header
from fastseg.dicom.header import DTYPES
from fastseg.links import Links, column_of

# `dtype.name` takes microseconds.
DTYPE_NAMES = {dtype: dtype.name for dtype in DTYPES.values()}

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Planes(NamedTuple):
    """The planes of images in columns; NaN where a header does not say it.

    origins     : float64 (n, 3), mm, of the centre of the first pixel
    directions  : float64 (n, 6), of a row and of a column
    spacings    : float64 (n, 2), mm, between rows and between columns
    thicknesses : float64 (n,), mm
    """

    origins: Floats
    directions: Floats
    spacings: Floats
    thicknesses: Floats

    @classmethod
    def of(cls, headers: Sequence[Header]) -> "Planes":
        """Return the planes of images."""
        return cls(
            _column([header.position_mm for header in headers], 3),
            _column([header.directions for header in headers], 6),
            _column([header.spacing_mm for header in headers], 2),
            _numbers([header.slice_thickness_mm for header in headers]),
        )

    def pick(self, rows: Ints) -> "Planes":
        """Return the planes of some images, given by their indices."""
        return Planes(*(column[rows] for column in self))


def place_images(
    links: Links, headers: Sequence[Header], planes: Planes | None = None
) -> Links:
    """Return links with series, rows, columns, dtype, position and time of the images.

    links   : one of each image, in any order
    headers : of the same images; those of a series must all be there, because times
        are counted within a series
    planes  : of the same images, if they are known

    Images of a series (see `number_series`) that are parallel have positions along a
    common normal, so that rounded directions do not change their order. An image has no
    position if its header gives no plane. `geometry.number_times` says which images
    have a time.
    """
    links = replace(
        links,
        series=column_of("series", [x.series for x in headers]),
        rows=column_of("rows", [x.rows for x in headers]),
        columns=column_of("columns", [x.columns for x in headers]),
        dtype=column_of("dtype", [DTYPE_NAMES[x.dtype] for x in headers]),
    )
    series = number_series(links)
    origins, directions, *_ = planes or Planes.of(headers)
    positions = geometry.positions_along_normal(origins, directions, series)
    times = geometry.number_times(
        positions,
        _numbers([header.temporal_position for header in headers]),
        _numbers([header.trigger_time_ms for header in headers]),
        geometry.number_stacks(directions, _number_kinds(links, series)),
    )
    return replace(links, position_mm=positions, time=times)


def number_series(links: Links) -> Ints:
    """Return int64 (n,): the images of one series have the same number.

    The first image has 0, and each further series the next number. A series is what has
    one SeriesInstanceUID and patient; without the UID, each file is one, as in the
    store.
    """
    patient, uids = links.patient, links.series
    number = patient.codes.astype(np.int64) * len(uids.texts) + uids.codes
    lacks_uid = np.array([text == "" for text in uids.texts], np.bool_)[uids.codes]
    rows = np.flatnonzero(lacks_uid)
    files: dict[tuple[int, str], int] = {}
    for k, path in zip(
        rows.tolist(), links.dicom_path.pick(rows).values(), strict=True
    ):
        number[k] = -1 - files.setdefault((int(patient.codes[k]), path), len(files))
    _, first, numbers = np.unique(number, return_index=True, return_inverse=True)
    in_order = np.empty(len(first), np.int64)
    in_order[np.argsort(first)] = np.arange(len(first))
    return in_order[numbers]


def rows_of_series(links: Links) -> list[Ints]:
    """Return the indices of the links of each series, by `number_series`."""
    series = number_series(links)
    ends = np.cumsum(np.bincount(series))[:-1]
    return np.split(np.argsort(series, kind="stable"), ends) if len(series) else []


def are_in_volumes(links: Links, planes: Planes) -> NDArray[np.bool_]:
    """Return which images are slices of volumes in a store, bool (n,).

    links : one of each image, sorted, as `place_images` returns them
    """
    are_in = np.zeros(len(links), np.bool_)
    for members in _find_volumes(links, planes).members:
        are_in[members] = _are_neighbours(members)
    return are_in


def find_problems(links: Links, planes: Planes, rows: Ints) -> list[str]:
    """Return why images of a series are in no volume of a store, [] if all are in one.

    links : one of each image, sorted, as `place_images` returns them
    rows  : of the images of the series

    The texts are those of `geometry.find_volumes`, or "interleaved: ...".
    """
    volumes = _find_volumes(links.pick(rows), planes.pick(rows))
    problems = list(volumes.problems)
    apart = sum(not _are_neighbours(rows[members]) for members in volumes.members)
    if apart:
        stacks = f"{apart} stacks" if apart > 1 else "a stack"
        problems.append(f"interleaved: other images lie between the slices of {stacks}")
    return problems


def _find_volumes(links: Links, planes: Planes) -> geometry.Volumes:
    """Return the volumes of all series together."""
    return geometry.find_volumes(
        origins=planes.origins,
        directions=planes.directions,
        spacings_mm=planes.spacings,
        thicknesses_mm=planes.thicknesses,
        kinds=_number_kinds(links, number_series(links)),
        times=links.time,
    )


def _are_neighbours(rows: Ints) -> bool:
    """Return whether the slices of a volume follow each other in a table."""
    return bool((np.diff(rows) == 1).all())


def _number_kinds(links: Links, series: Ints) -> Ints:
    """Return int64 (n,): images of one series, shape and dtype have the same number."""
    kinds = series
    for column in (links.rows, links.columns, links.dtype.codes):
        # Unknown numbers are -1.
        most = int(column.max(initial=0)) + 2
        kinds = np.unique(kinds * most + column + 1, return_inverse=True)[1]
    return kinds


def _column(values: Sequence[tuple[float, ...] | None], width: int) -> Floats:
    """Return float64 (n, width), NaN where a value is None."""
    unknown = (np.nan,) * width
    numbers = chain.from_iterable(unknown if x is None else x for x in values)
    return np.fromiter(numbers, np.float64, width * len(values)).reshape(-1, width)


def _numbers(values: Sequence[float | None]) -> Floats:
    """Return float64 (n,), NaN where a value is None."""
    return np.array([np.nan if x is None else x for x in values], np.float64)
