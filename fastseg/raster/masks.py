"""Contours to masks: the public face of the polygon kernels."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg._kernels.contours import polygon
from fastseg.errors import OptionError, whole_number
from fastseg.raster.rings import (
    Contours,
    as_offsets,
    as_vertices,
    check_rings,
    check_shape,
    convert_rings,
    ring_error,
)
from fastseg.raster.rules import Rules, make_rules, scratch_rows

MOST_CLASSES = 64


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
    rules = make_rules(edges, fill, origin)
    size = check_shape(shape)
    if out is None:
        out = np.empty(size, np.bool_)
    else:
        _check_out(out, size)
    points, offsets, name = convert_rings(contours)
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
    rules = make_rules(edges, fill, origin)
    regions = list(classes.values() if isinstance(classes, Mapping) else classes)
    if len(regions) > MOST_CLASSES:
        raise OptionError(
            f"{len(regions)} classes given, a mask holds at most {MOST_CLASSES}"
        )
    mask = np.zeros(check_shape(shape), np.min_scalar_type(2 ** len(regions) - 1))
    for k, contours in enumerate(regions):
        points, offsets, name = convert_rings(contours)
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
    rules = make_rules(edges, fill, origin)
    height, width = check_shape(shape)
    vertices = as_vertices(points, "points")
    ends = as_offsets(offsets, "offsets", len(vertices))
    check_rings(vertices, ends, "offsets[{}]")
    if groups is None:
        parts = np.arange(len(ends), dtype=np.int64)
    else:
        parts = as_offsets(groups, "groups", len(ends) - 1)
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
        raise ring_error(points, offsets, ring, fault, name)


def _check_out(out: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(out, np.ndarray) or out.dtype.char not in "?B":
        kind = getattr(out, "dtype", type(out).__name__)
        raise OptionError(f"out is {kind}, expected an array of bool or uint8")
    if out.shape != shape:
        raise OptionError(f"out has shape {out.shape}, expected {shape}")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise OptionError("out must be C-contiguous and writeable; pass out.copy()")
