"""Where the images of a series lie, and which of them make up volumes.

All of it depends on what the headers say and on nothing else: neither the order of the
images, nor their names, nor InstanceNumber changes a position or a time.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg import geometry
from fastseg.dicom import Header
from fastseg.dicom.header import DTYPES
from fastseg.links import Link

# `dtype.name` takes microseconds.
DTYPE_NAMES = {dtype: dtype.name for dtype in DTYPES.values()}


def place_images(links: Sequence[Link], headers: Sequence[Header]) -> list[Link]:
    """Return links with series, rows, columns, dtype, position and time of the images.

    links   : one of each image, in any order
    headers : of the same images; those of a series must all be there, because times
        are counted within a series

    Images of a series (see `series_of`) that are parallel have positions along a common
    normal, so that rounded directions do not change their order. An image has no
    position if its header gives no plane. `geometry.number_times` says which images
    have a time.
    """
    filled: list[Link] = [*links]
    of_series: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for k, (link, header) in enumerate(zip(links, headers, strict=True)):
        key = series_of(link.patient, header.series, link.dicom_path)
        of_series[key].append(k)
    for members in of_series.values():
        some = [headers[k] for k in members]
        shapes = [(x.rows, x.columns, DTYPE_NAMES[x.dtype]) for x in some]
        positions, times = _positions_and_times(some, _number_kinds(shapes))
        for k, header, position, time, shape in zip(
            members, some, positions, times, shapes, strict=True
        ):
            known = header.series, _or_none(position), _or_none(time), *shape
            # The last fields, HEADER_COLUMNS. `_replace` takes three times as long.
            filled[k] = Link._make(filled[k][: -len(known)] + known)
    return filled


def by_series(links: Iterable[Link]) -> list[list[int]]:
    """Return the indices of the links of each series, as `series_of` tells them."""
    members: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for k, link in enumerate(links):
        members[series_of(link.patient, link.series, link.dicom_path)].append(k)
    return list(members.values())


def series_of(patient: str, uid: str, path: str) -> tuple[str, ...]:
    """Return what the images of one series have in common, and no others.

    uid : SeriesInstanceUID; without one, each file is a series, as in the store
    """
    return (patient, uid) if uid else (patient, uid, path)


def find_problems(
    links: Sequence[Link], headers: Sequence[Header], rows: Sequence[int]
) -> list[str]:
    """Return why images of a series are in no volume of a store, [] if all are in one.

    links   : of the images of one series, as `place_images` returns them
    headers : of the same images
    rows    : of the same images in the sorted table: the slices of a volume must follow
        each other

    The texts are those of `geometry.find_volumes`, or "interleaved: ...".
    """
    volumes = geometry.find_volumes(
        origins=_origins(headers),
        directions=_directions(headers),
        spacings_mm=_column([header.spacing_mm for header in headers], 2),
        thicknesses_mm=_numbers([header.slice_thickness_mm for header in headers]),
        kinds=_number_kinds([(x.rows, x.columns, x.dtype) for x in links]),
        times=_numbers([link.time for link in links]),
    )
    problems = list(volumes.problems)
    apart = sum(
        [rows[k] for k in members.tolist()]
        != list(range(rows[members[0]], rows[members[0]] + len(members)))
        for members in volumes.members
    )
    if apart:
        stacks = f"{apart} stacks" if apart > 1 else "a stack"
        problems.append(f"interleaved: other images lie between the slices of {stacks}")
    return problems


def _positions_and_times(
    headers: Sequence[Header], kinds: NDArray[np.int64]
) -> tuple[list[float], list[float]]:
    """Return position and time of the images of a series, NaN where there is none.

    kinds : int64 (n,): images of one shape and dtype have the same number
    """
    origins, directions = _origins(headers), _directions(headers)
    one_series = np.zeros_like(kinds)
    positions = geometry.positions_along_normal(origins, directions, one_series)
    if len(headers) == 1:
        return positions.tolist(), [np.nan]
    times = geometry.number_times(
        positions,
        _numbers([header.temporal_position for header in headers]),
        _numbers([header.trigger_time_ms for header in headers]),
        geometry.number_stacks(directions, kinds),
    )
    return positions.tolist(), times.tolist()


def _number_kinds(shapes: Sequence[tuple[Any, ...]]) -> NDArray[np.int64]:
    """Return int64 (n,): images of one shape and dtype have the same number."""
    numbers = {shape: k for k, shape in enumerate(dict.fromkeys(shapes))}
    return np.array([numbers[shape] for shape in shapes], np.int64)


def _origins(headers: Sequence[Header]) -> NDArray[np.float64]:
    return _column([header.position_mm for header in headers], 3)


def _directions(headers: Sequence[Header]) -> NDArray[np.float64]:
    return _column([header.directions for header in headers], 6)


def _column(
    values: Sequence[tuple[float, ...] | None], width: int
) -> NDArray[np.float64]:
    """Return float64 (n, width), NaN where a value is None."""
    unknown = (np.nan,) * width
    rows = [unknown if value is None else value for value in values]
    return np.array(rows, np.float64).reshape(len(rows), width)


def _numbers(values: Sequence[float | None]) -> NDArray[np.float64]:
    """Return float64 (n,), NaN where a value is None."""
    return np.array([np.nan if x is None else x for x in values], np.float64)


def _or_none(value: float) -> float | None:
    return None if value != value else value
