"""Contours to masks: the public face of the polygon kernels."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg._kernels.contours import polygon
from fastseg.errors import GeometryError, OptionError, one_of, whole_number

EDGES = ("half-open", "closed", "open")
FILLS = ("even-odd", "nonzero")
ORIGINS = ("center", "corner")
MOST_CLASSES = 64
# Masks are indexed by 32-bit rows and columns in the kernels' loops.
LARGEST_SIDE = 2**31 - 1
# Winding numbers are kept for so many pixels at a time; larger masks go by bands.
WINDING_CELLS = 2**22

Contours = ArrayLike | Sequence[ArrayLike]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What belongs to a region.

    edges  : "half-open" centres on a top or left edge are in, on a bottom or right
                         edge out: regions that share an edge own each pixel once
             "closed"    all centres on the outline are in (DICOM PS3.3 C.8.8.6.3)
             "open"      none is
    fill   : "even-odd"  what an odd number of rings surrounds
             "nonzero"   what rings wind around, however often
    origin : "center"    pixel [r, c] has its centre at (x=c, y=r), as in DICOM
             "corner"    it spans [c, c+1] x [r, r+1]

    Raises OptionError for anything else.
    """

    edges: str = "half-open"
    fill: str = "even-odd"
    origin: str = "center"

    def __post_init__(self) -> None:
        for name, allowed in (("edges", EDGES), ("fill", FILLS), ("origin", ORIGINS)):
            if getattr(self, name) not in allowed:
                raise OptionError(one_of(name, getattr(self, name), allowed))

    @property
    def edges_code(self) -> int:
        """The rule for edges as `_kernels.contours.polygon` numbers it."""
        return EDGES.index(self.edges)

    @property
    def shift(self) -> float:
        """Where the first pixel has its centre, in both coordinates."""
        return 0.5 if self.origin == "corner" else 0.0


def rasterize(
    contours: Contours,
    shape: tuple[int, int],
    out: NDArray[Any] | None = None,
    *,
    edges: str = "half-open",
    fill: str = "even-odd",
    origin: str = "center",
) -> NDArray[Any]:
    """Return the mask of the pixels whose centre lies inside the contours.

    contours : one ring, array-like (n, 2), or a sequence of rings; columns (x, y)
        in pixels, closed implicitly (a repeated last vertex is fine)
    shape : (rows, columns) of the mask
    out : bool or uint8 of that shape, C-contiguous; every cell is written. By
        default a new bool array.
    edges, fill, origin : see `Rules`; holes are further rings

    Returns `out`, indexed `[row, column]`. Parts outside the image are
    cut off; a contour wholly outside gives an empty mask.

    The answer is the one that rational arithmetic on the given numbers gives, for
    every finite input: floating-point arithmetic decides where its error bound
    allows, and what is left is decided by the sign of a sum of products that is
    never rounded (see `polygon` and `exact` in `_kernels.contours`). So it depends
    neither on the direction of a ring, its first vertex or repeated vertices, nor on
    the canvas or the machine.

    Raises GeometryError for vertices that are not finite numbers in an (n, 2)
    array or a ring with fewer than three distinct ones, OptionError for a bad
    shape or rule.
    """
    rules = _rules(edges, fill, origin)
    size = check_shape(shape)
    if out is None:
        out = np.empty(size, np.bool_)
    else:
        _check_out(out, size)
    points, offsets, name = _convert_rings(contours)
    cells = out.view(np.uint8)
    draw_rings(points, offsets, cells, 0, rules, clear=True, name=name)
    return out


def rasterize_labels(
    classes: Mapping[str, Contours] | Sequence[Contours],
    shape: tuple[int, int],
    *,
    edges: str = "half-open",
    fill: str = "even-odd",
    origin: str = "center",
) -> NDArray[np.unsignedinteger[Any]]:
    """Return a bit field: bit k of a pixel says that class k covers it.

    classes : the contours of each class, as `rasterize` takes them; of a mapping,
        the values in its order. At most 64; an empty sequence covers nothing.
    shape, edges, fill, origin : as for `rasterize`

    Returns the smallest unsigned integers that hold all classes, (rows, columns).
    Raises as `rasterize` does.
    """
    rules = _rules(edges, fill, origin)
    regions = list(classes.values() if isinstance(classes, Mapping) else classes)
    if len(regions) > MOST_CLASSES:
        raise OptionError(
            f"{len(regions)} classes given, a mask holds at most {MOST_CLASSES}"
        )
    mask = np.zeros(check_shape(shape), np.min_scalar_type(2 ** len(regions) - 1))
    for k, contours in enumerate(regions):
        points, offsets, name = _convert_rings(contours)
        draw_rings(points, offsets, mask, k, rules, name=name)
    return mask


def rasterize_batch(
    points: ArrayLike,
    offsets: ArrayLike,
    shape: tuple[int, int],
    out: NDArray[Any] | None = None,
    *,
    groups: ArrayLike | None = None,
    threads: int = 1,
    edges: str = "half-open",
    fill: str = "even-odd",
    origin: str = "center",
) -> NDArray[Any]:
    """Fill many masks in one call.

    points  : (P, 2), (x, y) in pixels, the vertices of all rings one after another
    offsets : integers (R + 1,), ring k is points[offsets[k]:offsets[k + 1]]
    shape   : (rows, columns) of each mask
    out     : bool or uint8 (n, rows, columns), C-contiguous; every cell is written.
        By default a new bool array.
    groups  : integers (n + 1,), mask m is filled from rings groups[m] to
        groups[m + 1]; by default each ring has a mask of its own
    threads : how many share the masks; the result does not depend on it
    edges, fill, origin : as for `rasterize`

    Returns `out`. Raises GeometryError, naming argument and index, for vertices as
    `rasterize` does and for offsets or groups that do not ascend from 0 to the end,
    OptionError for anything else.
    """
    rules = _rules(edges, fill, origin)
    height, width = check_shape(shape)
    vertices = _as_vertices(points, "points")
    ends = _as_offsets(offsets, "offsets", len(vertices))
    _check_rings(vertices, ends, "offsets[{}]")
    if groups is None:
        parts = np.arange(len(ends), dtype=np.int64)
    else:
        parts = _as_offsets(groups, "groups", len(ends) - 1)
    count = len(parts) - 1
    if out is None:
        out = np.empty((count, height, width), np.bool_)
    _check_out(out, (count, height, width))
    threads = whole_number("threads", threads, 1)
    cells = out.view(np.uint8)
    rows = scratch_rows(height, width, rules)
    options = rules.shift, rules.edges_code, rules.fill == "nonzero", rows

    def fill_share(first: int, last: int) -> None:
        polygon.fill_many(vertices, ends, parts, *options, cells, first, last)

    if threads == 1:
        fill_share(0, count)
    else:
        shares = [count * k // threads for k in range(threads + 1)]
        with ThreadPoolExecutor(threads - 1, "fastseg-raster") as pool:
            others = pool.map(fill_share, shares[1:-1], shares[2:])
            fill_share(*shares[:2])
            list(others)
    return out


def draw_rings(
    points: NDArray[np.float64],
    offsets: NDArray[np.int64],
    mask: NDArray[Any],
    bit: int,
    rules: Rules,
    *,
    clear: bool = False,
    name: str = "contours",
) -> None:
    """Set one bit of a mask where rings cover it.

    points, offsets : as `join_rings` returns them
    mask  : unsigned (H, W), C-contiguous
    clear : whether to set all other pixels to 0

    Raises GeometryError that names the ring and vertex at fault.
    """
    ring, fault = polygon.fill_one(
        points,
        offsets,
        rules.shift,
        rules.edges_code,
        rules.fill == "nonzero",
        scratch_rows(mask.shape[0], mask.shape[1], rules),
        mask,
        mask.dtype.type(1 << bit),
        clear,
    )
    if ring >= 0:
        raise _fault(points, offsets, ring, fault, name)


def check_shape(shape: Any) -> tuple[int, int]:
    """Return shape as two ints, or raise OptionError."""
    try:
        rows, columns = map(int, shape)
    except (TypeError, ValueError):
        raise OptionError(f"shape is {shape!r}, expected (rows, columns)") from None
    if not (0 < rows <= LARGEST_SIDE and 0 < columns <= LARGEST_SIDE):
        raise OptionError(f"shape is {shape!r}, expected two positive integers")
    return rows, columns


def as_rings(contours: Any) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return points float64 (P, 2) and offsets int64 (R + 1,) of one or more rings.

    Raises GeometryError that names the ring and vertex at fault.
    """
    points, offsets, name = _convert_rings(contours)
    _check_rings(points, offsets, name)
    return points, offsets


def _convert_rings(
    contours: Any,
) -> tuple[NDArray[np.float64], NDArray[np.int64], str]:
    """Return points, offsets and how to name a ring; vertices are not looked at."""
    if _is_one_ring(contours):
        points = _as_vertices(contours, "contours")
        return points, np.array([0, len(points)]), "contours"
    try:
        items = list(contours)
    except TypeError:
        raise GeometryError(
            f"contours is {type(contours).__name__}, expected an (n, 2) array "
            "of (x, y) vertices or a sequence of them"
        ) from None
    rings = [_as_vertices(item, f"contours[{k}]") for k, item in enumerate(items)]
    return *join_rings(rings), "contours[{}]"


def as_ring(vertices: Any, name: str = "contour") -> NDArray[np.float64]:
    """Return one ring as C-contiguous float64 (n, 2), or raise GeometryError."""
    ring = _as_vertices(vertices, name)
    _check_rings(ring, np.array([0, len(ring)]), name)
    return ring


def join_rings(
    rings: Sequence[NDArray[np.float64]],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return points and offsets of rings."""
    offsets = np.zeros(len(rings) + 1, dtype=np.int64)
    np.cumsum([len(ring) for ring in rings], out=offsets[1:])
    points = np.concatenate(rings) if rings else np.empty((0, 2))
    return points, offsets


def shift_origin(points: NDArray[np.float64], origin: str) -> NDArray[np.float64]:
    """Return points (n, 2) in the frame in which pixel centres are integers.

    Numbers below 0.5 may be rounded by half a unit in their last place.
    """
    return points - Rules(origin=origin).shift


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


# Checked once for each choice, and not again in every call of a loop.
@cache
def _rules(edges: str, fill: str, origin: str) -> Rules:
    return Rules(edges=edges, fill=fill, origin=origin)


def scratch_rows(height: int, width: int, rules: Rules) -> int:
    """Return how many rows to fill at a time."""
    if rules.fill == "even-odd":
        return height
    return min(height, max(1, WINDING_CELLS // (width + 1)))


def _as_vertices(vertices: Any, name: str) -> NDArray[np.float64]:
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
    return np.ascontiguousarray(array, dtype=np.float64)


def _fault(
    points: NDArray[np.float64],
    offsets: NDArray[np.int64],
    ring: int,
    fault: int,
    name: str,
) -> GeometryError:
    """Return the error for what `polygon.check_rings` found; {} is the ring."""
    place = name.format(ring)
    if fault < 0:
        return GeometryError(
            f"{place} has {-1 - fault} distinct vertices, a region needs at least 3"
        )
    x, y = points[offsets[ring] + fault].tolist()
    return GeometryError(
        f"{place}[{fault}] is ({x}, {y}); vertices must be finite, remove or repair it"
    )


def _check_rings(
    points: NDArray[np.float64], offsets: NDArray[np.int64], name: str
) -> None:
    ring, fault = polygon.check_rings(points, offsets)
    if ring >= 0:
        raise _fault(points, offsets, ring, fault, name)


def _as_offsets(values: Any, name: str, total: int) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or len(array) < 1 or array.dtype.kind not in "iu":
        raise GeometryError(
            f"{name} is {array.dtype} {array.shape}, expected integers (n + 1,)"
        )
    offsets = np.ascontiguousarray(array, dtype=np.int64)
    fault = polygon.check_offsets(offsets, total)
    if fault > 0:
        raise GeometryError(
            f"{name}[{fault}] is {offsets[fault]} after {offsets[fault - 1]}; "
            f"{name} must ascend"
        )
    if fault == 0:
        raise GeometryError(
            f"{name} goes from {offsets[0]} to {offsets[-1]}, expected 0 to {total}"
        )
    return offsets


def _check_out(out: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(out, np.ndarray) or out.dtype.char not in "?B":
        kind = getattr(out, "dtype", type(out).__name__)
        raise OptionError(f"out is {kind}, expected an array of bool or uint8")
    if out.shape != shape:
        raise OptionError(f"out has shape {out.shape}, expected {shape}")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise OptionError("out must be C-contiguous and writeable; pass out.copy()")
