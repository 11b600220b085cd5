"""Rings of vertices: cast, checked and joined, ready for the kernels."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg._kernels.contours import polygon
from fastseg.arrays import as_array, as_contiguous
from fastseg.choices import Origin
from fastseg.errors import GeometryError, OptionError, in_order, shown, whole_number
from fastseg.raster.rules import Rules

# The kernels' loops index masks by 32-bit rows and columns.
LARGEST_SIDE = 2**31 - 1
Contours = ArrayLike | Sequence[ArrayLike]


def check_shape(shape: Any) -> tuple[int, int]:
    """Return shape as two ints, or raise OptionError."""
    try:
        rows, columns = shape if type(shape) is tuple else in_order(shape)
        if type(rows) is not int or type(columns) is not int:
            rows, columns = (whole_number("shape", side, 1) for side in shape)
    except (TypeError, ValueError):
        is_nested = isinstance(shape, list | tuple) and any(map(_is_nested, shape))
        is_nested |= getattr(shape, "ndim", 1) > 1
        order = "; the contours come first, then the shape" if is_nested else ""
        raise OptionError(
            f"shape is {shown(shape)}, expected (rows, columns), two whole numbers"
            f"{order}"
        ) from None
    if not (0 < rows <= LARGEST_SIDE and 0 < columns <= LARGEST_SIDE):
        raise OptionError(f"shape is {shown(shape)}, expected two positive integers")
    return rows, columns


def as_rings(contours: Any) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return points float64 (P, 2) and offsets int64 (R + 1,) of one or more rings.

    Raises GeometryError that names the invalid ring and vertex.
    """
    points, offsets, name = convert_rings(contours)
    check_rings(points, offsets, name)
    return points, offsets


def as_grouped_rings(
    contours: Any, groups: Any, rules: Rules
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64] | None]:
    """Return points, offsets and groups; the rings of each group are neighbours.

    groups : the group of each ring, or None for what `rules` say

    Raises GeometryError that names the invalid ring and vertex, and OptionError for bad
    groups.
    """
    points, offsets = as_rings(contours)
    if groups is None:
        return points, offsets, rules.groups(len(offsets) - 1)
    numbers = as_groups(groups, len(offsets) - 1)
    order = np.argsort(numbers, kind="stable")
    return *sort_rings(points, offsets, order), numbers[order]


def convert_rings(
    contours: Any,
) -> tuple[NDArray[np.float64], NDArray[np.int64], str]:
    """Return points and offsets, unchecked, and the name of a ring in messages."""
    if _is_one_ring(contours):
        points = as_vertices(contours, "contours")
        return points, _offsets_of_one(len(points)), "contours"
    try:
        items = None if isinstance(contours, str | bytes) else list(contours)
    except TypeError:
        items = None
    if items is None:
        raise GeometryError(
            f"contours is {type(contours).__name__}, expected an (n, 2) array "
            "of (x, y) vertices or a sequence of them"
        )
    rings = [as_vertices(item, f"contours[{k}]") for k, item in enumerate(items)]
    return *join_rings(rings), "contours[{}]"


def as_ring(vertices: Any, name: str = "contour") -> NDArray[np.float64]:
    """Return one ring as C-contiguous float64 (n, 2), or raise GeometryError."""
    ring = as_vertices(vertices, name)
    check_rings(ring, _offsets_of_one(len(ring)), name)
    return ring


@lru_cache(1024)
def _offsets_of_one(count: int) -> NDArray[np.int64]:
    """Return the offsets of one ring; cached, as numpy takes a while to make them."""
    offsets = np.array([0, count], np.int64)
    offsets.flags.writeable = False
    return offsets


def join_rings(
    rings: Sequence[NDArray[np.float64]],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return points and offsets of rings."""
    offsets = np.zeros(len(rings) + 1, dtype=np.int64)
    np.cumsum([len(ring) for ring in rings], out=offsets[1:])
    points = np.concatenate(rings) if rings else np.empty((0, 2))
    return points, offsets


def as_groups(groups: Any, count: int) -> NDArray[np.int64]:
    """Return the groups of `count` rings as int64 (count,), or raise OptionError."""
    array = as_array(groups, "groups", kinds="iu")
    if array.shape != (count,):
        raise OptionError(
            f"groups is {array.dtype} {array.shape}, expected an integer for each of "
            f"{count} rings"
        )
    numbers = array.astype(np.int64)
    if (numbers < 0).any():
        k = int(np.argmax(numbers < 0))
        raise OptionError(f"groups[{k}] is {array[k]}, expected 0 to 2**63 - 1")
    return numbers


def sort_rings(
    points: NDArray[np.float64],
    offsets: NDArray[np.int64],
    order: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return points and offsets of some rings, in this order."""
    lengths = np.diff(offsets)[order]
    sorted_offsets = np.concatenate([[0], np.cumsum(lengths)])
    moves = np.repeat(offsets[order] - sorted_offsets[:-1], lengths)
    return points[np.arange(sorted_offsets[-1]) + moves], sorted_offsets


def shift_origin(points: NDArray[np.float64], origin: Origin) -> NDArray[np.float64]:
    """Return points (n, 2) in the frame in which pixel centres are integers.

    Coordinates below 0.5 may lose their last bit.
    """
    return points - Rules(origin=origin).shift


def shoelace_area(points: NDArray[np.float64], offsets: NDArray[np.int64]) -> float:
    """Return the sum of the rings' areas, in pixels, by the shoelace formula.

    Where rings overlap, the area counts once for each ring. The lobes of a ring that
    crosses itself may cancel.
    """
    area = 0.0
    for start, stop in pairwise(offsets.tolist()):
        x, y = points[start:stop].T
        area += abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    return area


def _is_one_ring(contours: Any) -> bool:
    """Return whether contours is one sequence of (x, y) pairs, not one of rings.

    An array (n, 1, 2) is one ring, as OpenCV returns it: n rings of one vertex would
    bound nothing. Of a sequence of n sequences this is not certain, so it is n rings.
    """
    if isinstance(contours, np.ndarray):
        return contours.ndim != 3 or _is_from_opencv(contours)
    return (
        _is_nested(contours)
        and len(contours) > 0
        and _is_nested(contours[0])
        and not (len(contours[0]) and _is_nested(contours[0][0]))
    )


def _is_from_opencv(array: NDArray[Any]) -> bool:
    """Return whether an array holds vertices as `cv2.findContours` returns them."""
    return array.ndim == 3 and array.shape[1:] == (1, 2) and len(array) > 0


def _is_nested(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def as_vertices(vertices: Any, name: str) -> NDArray[np.float64]:
    """Return vertices as C-contiguous float64 (n, 2), or raise GeometryError.

    vertices : (n, 2), or (n, 1, 2) as OpenCV returns them
    """
    array = vertices
    # The usual case passes without the call, which takes a tenth of a small mask.
    if type(array) is not np.ndarray or array.dtype.char != "d":
        array = as_array(vertices, name, GeometryError)
    if array.ndim != 2 or array.shape[1] != 2:
        if not _is_from_opencv(array):
            raise GeometryError(
                f"{name} has shape {array.shape}, expected (n, 2): columns x and y"
            )
        array = array[:, 0]
    return as_contiguous(array, np.float64)


def ring_error(
    points: NDArray[np.float64],
    offsets: NDArray[np.int64],
    ring: int,
    fault: int,
    name: str,
) -> GeometryError:
    """Return the error for a fault that `polygon.check_rings` returned.

    fault : index of a vertex in the ring, or -1 - d for a ring of d distinct vertices
    name  : name of a ring in the message; "{}" stands for its number
    """
    label = name.format(ring)
    if fault < 0:
        count = len(points)
        are_vertices = label.startswith("contours[") and count == len(offsets) - 1 > 2
        remedy = (
            f"; if the {count} rings of one vertex are one ring of OpenCV in lists, "
            "pass numpy.array(contours)"
        )
        return GeometryError(
            f"{label} has {-1 - fault} distinct vertices, a region needs at least 3"
            f"{remedy if are_vertices else ''}"
        )
    x, y = points[offsets[ring] + fault].tolist()
    return GeometryError(
        f"{label}[{fault}] is ({x}, {y}); vertices must be finite, remove or repair it"
    )


def check_rings(
    points: NDArray[np.float64], offsets: NDArray[np.int64], name: str
) -> None:
    """Raise GeometryError that names the first invalid ring and vertex.

    name : name of a ring in the message; "{}" stands for its number
    """
    ring, fault = polygon.check_rings(points, offsets)
    if ring >= 0:
        raise ring_error(points, offsets, ring, fault, name)


def as_offsets(values: Any, name: str, total: int) -> NDArray[np.int64]:
    """Return int64 (n + 1,) that ascend from 0 to total, or raise GeometryError."""
    array = as_array(values, name, GeometryError, kinds="iu")
    if array.ndim != 1 or len(array) < 1:
        raise GeometryError(
            f"{name} is {array.dtype} {array.shape}, expected integers (n + 1,)"
        )
    offsets = as_contiguous(array, np.int64)
    falls = offsets[1:] < offsets[:-1]
    if np.count_nonzero(falls):  # half the time of `any`
        k = int(np.argmax(falls)) + 1
        raise GeometryError(
            f"{name}[{k}] is {offsets[k]} after {offsets[k - 1]}; {name} must ascend"
        )
    if offsets[0] != 0 or offsets[-1] != total:
        raise GeometryError(
            f"{name} goes from {offsets[0]} to {offsets[-1]}, expected 0 to {total}"
        )
    return offsets
