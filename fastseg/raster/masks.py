"""Contours to masks: `rasterize`, `rasterize_batch`, `rasterize_labels`."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg._kernels.contours import polygon
from fastseg.calls import check_call
from fastseg.choices import Edges, Fill, Origin
from fastseg.errors import OptionError, is_iterable, shown
from fastseg.raster.rings import (
    Contours,
    as_grouped_rings,
    as_groups,
    as_offsets,
    as_vertices,
    check_rings,
    check_shape,
    convert_rings,
    ring_error,
    sort_rings,
)
from fastseg.raster.rules import Rules, make_rules
from fastseg.threads import WorkerPool, check_threads

MOST_CLASSES = 64


@check_call()
def rasterize(
    contours: Contours,
    shape: tuple[int, int],
    out: NDArray[Any] | None = None,
    *,
    groups: ArrayLike | None = None,
    edges: Edges = "half-open",
    fill: Fill = "even-odd",
    origin: Origin = "center",
) -> NDArray[Any]:
    """Return the mask of the pixels whose centre lies inside the contours.

    contours : one ring, array-like (n, 2), or a sequence of rings; columns (x, y)
        in pixels, closed implicitly (a repeated last vertex is fine). An array
        (n, 1, 2), as OpenCV's findContours returns it, is one ring
    shape : (rows, columns) of the mask
    out : bool or uint8 of that shape, C-contiguous; every cell is written. By
        default a new bool array.
    groups : integers (number of rings,), at least 0; rings with equal numbers are one
        group. By default all rings are, or with fill="union" each ring is
    edges, fill, origin : see `Rules`; a hole is a ring of its own

    Returns `out`, indexed `[row, column]`. Contours are cut at the border of the
    image; a contour wholly outside gives an empty mask.

    For every finite input, the mask is the one that rational arithmetic on the given
    numbers gives. Floating-point arithmetic decides where its error bound allows it;
    elsewhere a sum of products decides, computed without rounding (see `polygon` and
    `exact` in `_kernels.contours`). So the mask does not depend on the direction of a
    ring, its first vertex, repeated vertices, the size of the image or the machine.

    Raises GeometryError for vertices that are not finite numbers in an (n, 2)
    array or a ring with fewer than three distinct ones, OptionError for a bad
    shape, rule or group.
    """
    rules = make_rules(edges, fill, origin)
    size = check_shape(shape)
    if out is None:
        out = np.empty(size, np.bool_)
    else:
        _check_out(out, size)
    cells = out.view(np.uint8, np.ndarray)
    if groups is None:
        points, offsets, name = convert_rings(contours)
        draw_rings(points, offsets, cells, 0, rules, clear=True, name=name)
    else:
        points, offsets, numbers = as_grouped_rings(contours, groups, rules)
        draw_rings(points, offsets, cells, 0, rules, groups=numbers, clear=True)
    return out


@check_call()
def rasterize_labels(
    classes: Mapping[str, Contours] | Sequence[Contours],
    shape: tuple[int, int],
    *,
    edges: Edges = "half-open",
    fill: Fill = "even-odd",
    origin: Origin = "center",
) -> NDArray[np.unsignedinteger[Any]]:
    """Return a bit field: bit k of a pixel is set if class k covers its centre.

    classes : the contours of each class, as `rasterize` takes them: a sequence, or a
        mapping whose values are the classes in order. At most 64; an empty sequence
        of contours covers nothing.
    shape, edges, fill, origin : as for `rasterize`

    Returns (rows, columns) of the smallest unsigned dtype that holds all classes.
    Raises the same errors as `rasterize`.
    """
    rules = make_rules(edges, fill, origin)
    if not is_iterable(classes):
        raise OptionError(
            f"classes is {shown(classes)}, expected the contours of each class, as in "
            "{'icontour': [ring]}"
        )
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


@check_call()
def rasterize_batch(
    points: ArrayLike,
    offsets: ArrayLike,
    shape: tuple[int, int],
    out: NDArray[Any] | None = None,
    *,
    mask_offsets: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    threads: int = 1,
    edges: Edges = "half-open",
    fill: Fill = "even-odd",
    origin: Origin = "center",
) -> NDArray[Any]:
    """Fill many masks in one call.

    points  : (P, 2) or (P, 1, 2), (x, y) in pixels, the vertices of all rings in
        sequence
    offsets : integers (R + 1,), ring k is points[offsets[k]:offsets[k + 1]]
    shape   : (rows, columns) of each mask
    out     : bool or uint8 (n, rows, columns), C-contiguous; every cell is written.
        By default a new bool array.
    mask_offsets : integers (n + 1,), mask m is filled from the rings
        [mask_offsets[m], mask_offsets[m + 1]); by default each ring has a mask of its
        own
    groups  : integers (R,), as for `rasterize`; rings of different masks are never one
        group. Needs `mask_offsets`
    threads : number of threads that fill masks; the result does not depend on it
    edges, fill, origin : as for `rasterize`

    Returns `out`. Raises GeometryError, which names argument and index, for the
    vertices that `rasterize` refuses and for offsets that do not ascend from 0 to the
    end, OptionError for anything else.
    """
    rules = make_rules(edges, fill, origin)
    height, width = check_shape(shape)
    vertices = as_vertices(points, "points")
    ring_offsets = as_offsets(offsets, "offsets", len(vertices))
    check_rings(vertices, ring_offsets, "offsets[{}]")
    ring_count = len(ring_offsets) - 1
    ring_groups = rules.groups(ring_count) if fill == "union" else None
    if mask_offsets is None:
        if groups is not None:
            raise OptionError(
                "groups is given without mask_offsets, so each ring has a mask of its "
                "own; pass mask_offsets (which were called groups before)"
            )
        bounds = np.arange(ring_count + 1, dtype=np.int64)
    else:
        bounds = as_offsets(mask_offsets, "mask_offsets", ring_count)
    count = len(bounds) - 1
    if groups is not None:
        ring_groups = as_groups(groups, ring_count)
        ring_masks = np.repeat(np.arange(count), np.diff(bounds))
        order = np.lexsort([ring_groups, ring_masks])
        vertices, ring_offsets = sort_rings(vertices, ring_offsets, order)
        ring_groups = ring_groups[order]
    if out is None:
        out = np.empty((count, height, width), np.bool_)
    _check_out(out, (count, height, width))
    threads = check_threads(threads)
    cells = out.view(np.uint8, np.ndarray)
    rings = vertices, ring_offsets, ring_groups, bounds
    rule = rules.kernel_rule(height, width)

    def fill_range(span: tuple[int, int]) -> bool:
        if span[0] < span[1]:
            polygon.fill_many(*rings, rules.shift, rule, cells, *span)
        return True

    ends = [count * k // threads for k in range(threads + 1)]
    own, *others = pairwise(ends)
    pool = WorkerPool[tuple[int, int], bool](threads - 1, fill_range, "fastseg-raster")
    with pool, pool:  # twice, see WorkerPool
        for span in others:
            pool.submit(span)
        fill_range(own)  # in this thread: to start one more takes 100 us
        for _ in others:
            pool.get_result()
    return out


def draw_rings(
    points: NDArray[np.float64],
    offsets: NDArray[np.int64],
    mask: NDArray[Any],
    bit: int,
    rules: Rules,
    *,
    groups: NDArray[np.int64] | None = None,
    clear: bool = False,
    name: str = "contours",
) -> None:
    """Set one bit of a mask where rings cover a pixel's centre.

    points, offsets : as `join_rings` returns them
    mask   : unsigned (H, W), C-contiguous
    groups : int64 (R,), the group of each ring, as `polygon.fill_one` takes them; by
        default those that `fill` says
    clear  : whether to set the pixels that no ring covers to 0
    name   : name of a ring in messages; "{}" stands for its number

    Raises GeometryError that names the invalid ring and vertex.
    """
    if groups is None and rules.fill == "union":
        groups = rules.groups(len(offsets) - 1)
    rule = rules.kernel_rule(*mask.shape)
    ring, fault = polygon.fill_one(
        points, offsets, groups, rules.shift, rule, mask, 1 << bit, clear
    )
    if ring >= 0:
        raise ring_error(points, offsets, ring, fault, name)


def _check_out(out: Any, shape: tuple[int, ...]) -> None:
    is_array = isinstance(out, np.ndarray) and not isinstance(out, np.ma.MaskedArray)
    if not is_array or out.dtype.char not in "?B":
        kind = getattr(out, "dtype", type(out).__name__)
        raise OptionError(f"out is {kind}, expected an array of bool or uint8")
    if out.shape != shape:
        raise OptionError(f"out has shape {out.shape}, expected {shape}")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise OptionError("out must be C-contiguous and writeable; pass out.copy()")
