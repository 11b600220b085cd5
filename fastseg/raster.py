"""Contours to masks: the public face of the polygon kernels."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg._kernels import polygon
from fastseg.errors import GeometryError, OptionError, one_of

ORIGINS = ("center", "corner")
# Masks are indexed by 32-bit rows and columns in the kernels' loops.
LARGEST_SIDE = 2**31 - 1


def rasterize(
    contours: ArrayLike | Sequence[ArrayLike],
    shape: tuple[int, int],
    *,
    origin: str = "center",
) -> NDArray[np.bool_]:
    """Return the mask of the pixels whose centre lies inside the contours.

    contours : one ring, array-like (n, 2), or a sequence of rings; columns (x, y)
        in pixels, closed implicitly (a repeated last vertex is fine). Several
        rings are filled by the even-odd rule: holes are further rings.
    shape : (rows, columns) of the mask
    origin : "center" if pixel [r, c] has its centre at (x=c, y=r), as in DICOM;
        "corner" if it spans [c, c+1] x [r, r+1]

    Returns a bool array of that shape, `[row, column]`.

    Edges are half-open: a centre exactly on a top or left edge is in, on a bottom
    or right edge out, so regions that share an edge own each pixel exactly once
    and the area is unbiased. The answer is the one that rational arithmetic on
    the given numbers gives, for every finite input (see `_kernels.polygon`).
    Parts outside the image are cut off; a contour wholly outside gives an empty
    mask.

    Raises GeometryError for vertices that are not finite numbers in an (n, 2)
    array or a ring with fewer than three distinct ones, OptionError for a bad
    shape or origin.
    """
    rows, columns = check_shape(shape)
    points, offsets = as_rings(contours)
    mask = np.empty((rows, columns), dtype=np.bool_)
    polygon.fill_rings(shift_origin(points, origin), offsets, mask)
    return mask


def shift_origin(points: NDArray[np.float64], origin: str) -> NDArray[np.float64]:
    """Return points (n, 2) in the frame in which pixel centres are integers."""
    if origin not in ORIGINS:
        raise OptionError(one_of("origin", origin, ORIGINS))
    return points - 0.5 if origin == "corner" else points


def check_shape(shape: Any) -> tuple[int, int]:
    """Return shape as two ints, or raise OptionError."""
    try:
        rows, columns = (int(side) for side in shape)
    except (TypeError, ValueError):
        raise OptionError(f"shape is {shape!r}, expected (rows, columns)") from None
    if not (0 < rows <= LARGEST_SIDE and 0 < columns <= LARGEST_SIDE):
        raise OptionError(f"shape is {shape!r}, expected two positive integers")
    return rows, columns


def as_rings(contours: Any) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return points float64 (P, 2) and offsets int64 (R + 1,) of one or more rings.

    Raises GeometryError that names the ring at fault.
    """
    if _is_one_ring(contours):
        rings = [as_ring(contours, "contours")]
    else:
        try:
            items = list(contours)
        except TypeError:
            raise GeometryError(
                f"contours is {type(contours).__name__}, expected an (n, 2) array "
                "of (x, y) vertices or a sequence of them"
            ) from None
        rings = [as_ring(item, f"contours[{k}]") for k, item in enumerate(items)]
    return join_rings(rings)


def join_rings(
    rings: Sequence[NDArray[np.float64]],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return points and offsets of rings that `as_ring` has checked."""
    offsets = np.zeros(len(rings) + 1, dtype=np.int64)
    np.cumsum([len(ring) for ring in rings], out=offsets[1:])
    points = np.concatenate(rings) if rings else np.empty((0, 2))
    return points, offsets


def as_ring(vertices: Any, name: str = "contour") -> NDArray[np.float64]:
    """Return one ring as C-contiguous float64 (n, 2), or raise GeometryError."""
    try:
        array = np.asarray(vertices)
    except ValueError as exc:
        raise GeometryError(f"{name} is not an (n, 2) array: {exc}") from None
    if array.dtype.kind not in "iuf" and array.size:
        raise GeometryError(
            f"{name} has dtype {array.dtype}, expected real numbers; convert it first"
        )
    if array.ndim != 2 or array.shape[1] != 2:
        raise GeometryError(
            f"{name} has shape {array.shape}, expected (n, 2): columns x and y"
        )
    ring = np.ascontiguousarray(array, dtype=np.float64)
    if not np.isfinite(ring).all():
        bad = int(np.flatnonzero(~np.isfinite(ring).all(axis=1))[0])
        raise GeometryError(
            f"{name}[{bad}] is ({ring[bad, 0]}, {ring[bad, 1]}); "
            "vertices must be finite, remove or repair it"
        )
    distinct = polygon.count_distinct(ring, 3)
    if distinct < 3:
        raise GeometryError(
            f"{name} has {distinct} distinct vertices, a region needs at least 3"
        )
    return ring


def shoelace_area(points: NDArray[np.float64], offsets: NDArray[np.int64]) -> float:
    """Return the summed area, in pixels, that the rings enclose, each by itself.

    Rings that cross themselves or one another count as the shoelace formula does.
    """
    area = 0.0
    for start, stop in pairwise(offsets.tolist()):
        x, y = points[start:stop].T
        area += abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    return area


def _is_one_ring(contours: Any) -> bool:
    """Return whether this is a sequence of (x, y) pairs and not of rings."""
    if isinstance(contours, np.ndarray):
        return contours.ndim != 3
    return (
        _is_nested(contours)
        and len(contours) > 0
        and _is_nested(contours[0])
        and not (len(contours[0]) and _is_nested(contours[0][0]))
    )


def _is_nested(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
