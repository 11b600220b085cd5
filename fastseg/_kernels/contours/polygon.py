"""Scan conversion of polygons, exact for every finite float64 vertex.

Walk an edge a -> b downwards, so that ya < yb. It crosses the row of pixel centres
y = r if ya <= r < yb. In this row it changes the winding number, and the parity, of all
centres at or right of it: of its *first column* and all columns after that. Usually
floating-point arithmetic finds the first column. Where a whole number lies within the
error bound of x, `exact` decides. Comparing, rounding up and clipping a float64 are
exact, so the mask is the one that rational arithmetic gives.

Pixel centres lie at integers plus `shift`, 0 or 0.5. Subtracting 0.5 from a float64
before rounding up is exact where it matters: from 0.5 on no bit is lost, and below
that the result is clipped to 0.

By the usual rule, half-open and even-odd, `pairs` stores the first two columns that a
row gets. A row that gets no more has one run, which is written directly: most rows of
drawn contours are like this, and it saves a third of the whole time. All other rows use
one bit per pixel: each edge toggles the bit of its first column, then the runs between
set bits are written to the mask. The time is linear in vertices, crossings and pixels,
however often a ring winds.

`fill_group` is the core; `fill_groups` calls it for one group after the other, and
`find_fault` checks rings. Python calls `fill_one`, which does all this for one mask,
and `fill_many`. They have in common:

    points  : float64 (p, 2), (x, y) in pixels, pixel centres at integers + shift
    offsets : int64 (r + 1,), ring k is points[offsets[k]:offsets[k + 1]], closed
              implicitly
    groups  : int64 (r,). Consecutive rings of a mask with equal numbers are one group;
              if the number is negative, it is filled even-odd whatever the rule says.
              What is inside any group is inside. None if all rings are one group
    rule    : a Rule, or None for the usual one. Types decide what is compiled, so the
              usual rule need not wait for code that it does not use
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg._kernels.contours.exact import first_column, side_of_edge
from fastseg._kernels.contours.runs import (
    ONE,
    ZERO,
    apply_marks,
    apply_winding,
    fill_run,
    group_shift,
    mark_column,
    set_column,
    toggle_column,
    u64,
    write_run,
    write_runs,
)
from fastseg._kernels.jit import empty, entry, flat, inlined, kernel, zeros

HALF_OPEN, CLOSED, OPEN = 0, 1, 2

# Bound on the rounding error of xa + (r - ya) * ((xb - xa) / (yb - ya)), relative to
# |xa| + |xb - xa| + 1: eight roundings of 2**-53 each, doubled to be safe.
RELATIVE_ERROR = 16 * 2.0**-53
# A slope below this may have lost bits to underflow.
SMALLEST_SLOPE = 1e-280
# With a larger error bound, the exact search would test many columns.
LARGEST_ERROR = 0.25


class Rule(NamedTuple):
    """Which pixels a group of rings covers.

    edges   : HALF_OPEN, CLOSED or OPEN
    nonzero : whether the winding number counts, not its parity
    rows    : number of rows that are filled at a time, to bound the memory for winding
        numbers
    """

    edges: int
    nonzero: bool
    rows: int


RULE = ["none", (Rule, "int64", "bool", "int64")]


class FillScratch(NamedTuple):
    """Arrays that filling uses, for bands of some rows; `make_fill_scratch` makes them.

    pairs    : int32 (rows, 3), how many first columns a row has, zero between calls,
               and the first two of them; None if there is a Rule: all go to bits
    bits     : uint64 (rows, words + 1), zero between calls: a bit for each pixel, with
               words = width // 64 + 1, and in the last word a bit for each group of
               words that have set bits
    group    : binary logarithm of the number of words in such a group
    marks    : uint64 (rows, words), zero between calls: a bit for each centre on the
               outline; no rows for HALF_OPEN, None without a Rule
    winding  : int32 (rows, width + 1), zero between calls: the changes of the winding
               number; no rows for even-odd, None without a Rule
    vertices : int32 (2, n), the first row at or below each vertex of a ring, and the
               edges that cross a row
    columns  : int32 (rows,), the first columns of one edge, row by row
    """

    pairs: NDArray[np.int32] | None
    bits: NDArray[np.uint64]
    group: int
    marks: NDArray[np.uint64] | None
    winding: NDArray[np.int32] | None
    vertices: NDArray[np.int32]
    columns: NDArray[np.int32]


class Target(NamedTuple):
    """A mask to fill.

    cells         : 1-D view of unsigned masks; the mask begins at cells[base]
    height, width : its size
    value         : uint64, the bits to set
    """

    cells: NDArray[np.unsignedinteger]
    base: int
    height: int
    width: int
    value: np.uint64


@kernel
def slope_and_error(xa, ya, xb, yb):
    """Return dx / dy and a bound on the error of x along the edge.

    Return (0, inf) if the bound is too large to be of use.
    """
    dx = xb - xa
    slope = dx / (yb - ya)
    error = RELATIVE_ERROR * (abs(xa) + abs(dx) + 1.0)
    # Written so that NaN and infinities fail.
    if error < LARGEST_ERROR and (SMALLEST_SLOPE < abs(slope) < np.inf or dx == 0.0):
        return slope, error
    return 0.0, np.inf


@inlined
def ceil_clipped(x, low, high):
    """Return x clipped to [low, high] and rounded up."""
    # 32 bits, because processors convert these with vector instructions.
    x = low if x < low else x
    return np.int32(np.ceil(high if x > high else x))


@kernel
def find_exact_columns(xa, ya, xb, yb, first, stop, shift, width, columns):
    """Find the first columns of an edge in rows [first, stop), without error."""
    slope, error = slope_and_error(xa, ya, xb, yb)
    right = float(width)
    for r in range(first, stop):
        y = float(r) + shift
        if y == ya:
            column = ceil_clipped(xa - shift, 0.0, right)
        else:
            x = xa + (y - ya) * slope - shift
            column = ceil_clipped(x - error, 0.0, right)
            limit = ceil_clipped(x + error, 0.0, right)
            if column != limit:
                column = first_column(xa, ya, xb, yb, y, column, limit, shift)
        columns[r - first] = column


@kernel
def toggle_ring(ring, shift, top, end, width, rule, scratch):
    """Toggle the first column of each edge, in rows [top, end).

    ring : float64 (n, 2), (x, y) in pixels, closed implicitly

    Returns the first row that has any, and the last one + 1.
    """
    bits, group, columns = scratch.bits, scratch.group, scratch.columns
    vertices = scratch.vertices
    low, high = float(top), float(end)
    right = float(width)
    count = len(ring)
    # The first loop rounds all vertices to rows with vector instructions. The second
    # one lists the edges that cross a row, without a branch: a third of a drawn
    # contour's edges do, and no processor can predict which. Together they are twice
    # as fast as one simple loop.
    for k in range(count):
        vertices[0, k] = ceil_clipped(ring[k, 1] - shift, low, high)
    edge_count = 0
    previous_row = vertices[0, count - 1]
    for k in range(count):
        vertex_row = vertices[0, k]
        vertices[1, u64(edge_count)] = k
        edge_count += vertex_row != previous_row
        previous_row = vertex_row
    first_row, last_row = end, top
    for edge in range(edge_count):
        k = vertices[1, edge]
        j = k - 1 if k > 0 else count - 1
        x0, y0, row0 = ring[u64(j), 0], ring[u64(j), 1], vertices[0, u64(j)]
        x1, y1, row1 = ring[u64(k), 0], ring[u64(k), 1], vertices[0, u64(k)]
        down = y0 < y1
        # To select each value is 1.3 times faster than to select the index.
        xa = x0 if down else x1
        ya = y0 if down else y1
        xb = x1 if down else x0
        yb = y1 if down else y0
        row = row0 if down else row1
        stop = row1 if down else row0
        first_row = row if row < first_row else first_row
        last_row = stop if stop > last_row else last_row
        crossings = stop - row
        if crossings == 1 and float(row) + shift == ya:
            # The usual edge of a drawn contour crosses one row, at its upper end.
            columns[0] = ceil_clipped(xa - shift, 0.0, right)
        else:
            # Vector instructions find the columns of all rows. If any x is too close
            # to a whole number to be certain, they are all found again exactly.
            slope, error = slope_and_error(xa, ya, xb, yb)
            is_certain = True
            if crossings == 1:  # a tenth faster than the loop
                x = xa + (float(row) + shift - ya) * slope - shift
                column = ceil_clipped(x, 0.0, right)
                columns[0] = column
                is_certain = error < float(column) - x < 1.0 - error
            else:
                for i in range(crossings):
                    x = xa + (float(row + i) + shift - ya) * slope - shift
                    column = ceil_clipped(x, 0.0, right)
                    columns[i] = column
                    is_certain &= error < float(column) - x < 1.0 - error
            if not is_certain:
                find_exact_columns(xa, ya, xb, yb, row, stop, shift, width, columns)
        for i in range(crossings):
            column = columns[u64(i)]
            band_row = u64(row - top + i)
            if rule is None:
                pairs = scratch.pairs
                earlier = pairs[band_row, 0]
                pairs[band_row, 0] = earlier + 1
                if earlier < 2:
                    pairs[band_row, u64(earlier + 1)] = column
                    continue
            elif rule.nonzero:
                scratch.winding[band_row, u64(column)] += 1 if down else -1
                set_column(bits, group, band_row, column)
                continue
            toggle_column(bits, group, band_row, column)
    return first_row, last_row


@kernel
def mark_ring(ring, shift, top, end, width, bits, marks, group):
    """Mark the pixel centres exactly on the ring, in rows [top, end).

    Returns the first row that may have any, and the last one + 1.
    """
    low, high = float(top), float(end)
    right = float(width)
    count = len(ring)
    first_row, last_row = end, top
    for k in range(count):
        j = k - 1 if k > 0 else count - 1
        a, b = (j, k) if ring[j, 1] < ring[k, 1] else (k, j)
        xa, ya, xb, yb = ring[a, 0], ring[a, 1], ring[b, 0], ring[b, 1]
        row = ceil_clipped(ya - shift, low, high)
        stop_row = ceil_clipped(yb - shift, low, high)
        if float(stop_row) + shift == yb and stop_row < end:
            stop_row += 1  # the row through the lower end
        if row >= stop_row:
            continue
        first_row = min(first_row, row)
        last_row = max(last_row, stop_row)
        slope, error = 0.0, 0.0
        if ya < yb:
            slope, error = slope_and_error(xa, ya, xb, yb)
        for r in range(row, stop_row):
            y = float(r) + shift
            if xa == xb or not ya < y < yb:
                # An end of the edge, a horizontal edge, or a vertical one.
                left = min(xa, xb) if ya == yb else (xb if y == yb else xa)
                last = max(xa, xb) if ya == yb else left
                first = ceil_clipped(left - shift, 0.0, right)
                stop = ceil_clipped(last - shift, 0.0, right)
                if stop < width and float(stop) + shift == last:
                    stop += 1
            else:
                x = xa + (y - ya) * slope - shift
                first = ceil_clipped(x - error, 0.0, right)
                stop = ceil_clipped(x + error, 0.0, right)
                if first != stop:
                    first = first_column(xa, ya, xb, yb, y, first, stop, shift)
                    on = first < stop or stop < width
                    if on:
                        x = float(first) + shift
                        on = side_of_edge(xa, ya, xb, yb, x, y) == 0
                    stop = first + 1 if on else first
            for column in range(first, stop):
                mark_column(bits, marks, group, u64(r - top), column)
    return first_row, last_row


@kernel
def fill_group(points, offsets, first, last, shift, rule, target, clear, scratch):
    """Set the bits of a mask where rings [first, last), one group, cover it.

    clear : whether to set all other pixels to 0
    """
    height, width = target.height, target.width
    cells, value = target.cells, target.value
    bits, group = scratch.bits, scratch.group
    done = u64(target.base)
    for top in range(0, height, len(bits)):
        end = top + len(bits)
        end = height if height < end else end
        first_row, last_row = end, top
        for k in range(first, last):
            ring = points[offsets[k] : offsets[k + 1]]
            low, high = toggle_ring(ring, shift, top, end, width, rule, scratch)
            first_row = low if low < first_row else first_row
            last_row = high if high > last_row else last_row
            if rule is not None and rule.edges != HALF_OPEN:
                low, high = mark_ring(
                    ring, shift, top, end, width, bits, scratch.marks, group
                )
                first_row, last_row = min(first_row, low), max(last_row, high)
        for row in range(first_row, last_row):
            band_row = u64(row - top)
            row_start = u64(target.base + row * width)
            if rule is None:
                pairs = scratch.pairs
                count = pairs[band_row, 0]
                pairs[band_row, 0] = 0
                c0 = pairs[band_row, 1]
                c1 = pairs[band_row, 2]
                if count <= 2:
                    if count > 0:  # then 2, as rings are closed
                        start = row_start + u64(c0 if c0 < c1 else c1)
                        stop = row_start + u64(c1 if c0 < c1 else c0)
                        done = write_run(cells, done, start, stop, value, clear)
                    continue
                toggle_column(bits, group, band_row, c0)
                toggle_column(bits, group, band_row, c1)
            else:
                if rule.nonzero:
                    apply_winding(bits, scratch.winding, group, band_row)
                if rule.edges != HALF_OPEN:
                    is_closed = rule.edges == CLOSED
                    apply_marks(bits, scratch.marks, group, band_row, is_closed)
            done = write_runs(
                bits, group, band_row, cells, done, row_start, value, clear
            )
    if clear:
        fill_run(cells, done, u64(target.base + height * width), ZERO)


@kernel
def longest_ring(offsets, count):
    """Return the number of vertices of the longest of the first `count` rings."""
    most_vertices = 0
    for k in range(count):
        most_vertices = max(most_vertices, offsets[k + 1] - offsets[k])
    return most_vertices


@kernel
def make_fill_scratch(most_vertices, height, width, rule):
    """Return the FillScratch for masks of this size, and rings of so many vertices."""
    words = width // 64 + 1
    if rule is None:
        rows = height
        pairs = zeros((rows, 3), np.int32)
        marks = winding = None
    else:
        rows = rule.rows
        pairs = None
        marks = zeros((0 if rule.edges == HALF_OPEN else rows, words), np.uint64)
        winding = zeros((rows if rule.nonzero else 0, width + 1), np.int32)
    return FillScratch(
        pairs,
        zeros((rows, words + 1), np.uint64),
        group_shift(words),
        marks,
        winding,
        empty((2, most_vertices), np.int32),
        empty(rows, np.int32),
    )


@kernel
def rule_of_group(rule, group):
    """Return the rule for a group with this number."""
    if rule is None:
        return None
    return Rule(rule.edges, rule.nonzero and group >= 0, rule.rows)


@kernel
def fill_groups(
    points, offsets, groups, first, last, shift, rule, target, clear, scratch
):
    """Set the bits of a mask where any group of the rings [first, last) covers it."""
    start = first
    while start < last or clear:
        stop = start
        group = 0
        if start < last:
            group = groups[start]
        while stop < last and groups[stop] == group:
            stop += 1
        own_rule = rule_of_group(rule, group)
        fill_group(
            points, offsets, start, stop, shift, own_rule, target, clear, scratch
        )
        clear = False
        start = stop


@kernel
def find_fault(points, offsets, first, last):
    """Return (ring, vertex) of the first fault of rings [first, last), else (-1, -1).

    vertex is the index within the ring of a vertex that is not finite, or -1 - d for
    a ring with only d < 3 distinct vertices.
    """
    # One loop for all, because vector instructions do it.
    numbers = flat(points)
    are_finite = True
    for k in range(2 * offsets[first], 2 * offsets[last]):
        are_finite &= -np.inf < numbers[u64(k)] < np.inf
    for ring in range(first, last):
        start, stop = offsets[ring], offsets[ring + 1]
        if not are_finite:
            for k in range(2 * start, 2 * stop):
                if not -np.inf < numbers[k] < np.inf:
                    return ring, (k >> 1) - start
        distinct = 0
        x0 = y0 = x1 = y1 = 0.0
        for k in range(start, stop):
            x, y = points[k, 0], points[k, 1]
            if distinct == 0:
                x0, y0, distinct = x, y, 1
            elif x != x0 or y != y0:
                if distinct == 1:
                    x1, y1, distinct = x, y, 2
                elif x != x1 or y != y1:
                    distinct = 3
                    break
        if distinct < 3:
            return ring, -1 - distinct
    return -1, -1


@entry(
    points="const float64[:, ::1]",
    offsets="const int64[::1]",
    groups="none | const int64[::1]",
    shift="float64",
    rule=RULE,
    mask="T[:, ::1]",
    value="uint64",
    clear="bool",
    T=("uint8",),
)
def fill_one(points, offsets, groups, shift, rule, mask, value, clear):
    """Check rings and set the bits of value in a mask where they cover it.

    mask  : unsigned (H, W), C-contiguous
    clear : whether to set all other pixels to 0

    Returns what `find_fault` returns; a fault leaves the mask unchanged.
    """
    height, width = mask.shape
    rings = len(offsets) - 1
    most_vertices = longest_ring(offsets, rings)
    scratch = make_fill_scratch(most_vertices, height, width, rule)
    target = Target(flat(mask), 0, height, width, u64(value))
    return fill_checked(
        points, offsets, groups, rings, shift, rule, target, clear, scratch
    )


@kernel
def fill_checked(points, offsets, groups, rings, shift, rule, target, clear, scratch):
    """Do the work of `fill_one` for the first `rings` rings."""
    # np.int64, because numba compiles kernels once more for a literal.
    first, stop = np.int64(0), rings
    ring, fault = find_fault(points, offsets, first, stop)
    if ring < 0:
        if groups is None:
            fill_group(
                points, offsets, first, stop, shift, rule, target, clear, scratch
            )
        else:
            fill_groups(
                points, offsets, groups, first, stop, shift, rule,
                target, clear, scratch,
            )  # fmt: skip
    return ring, fault


@entry(
    points="const float64[:, ::1]",
    offsets="const int64[::1]",
    groups="none | const int64[::1]",
    mask_offsets="const int64[::1]",
    shift="float64",
    rule=RULE,
    masks="uint8[:, :, ::1]",
    first="int64",
    last="int64",
)
def fill_many(points, offsets, groups, mask_offsets, shift, rule, masks, first, last):
    """Overwrite masks [first, last), each filled from its rings, which are valid.

    mask_offsets : int64 (n + 1,), mask m is filled from the rings
        [mask_offsets[m], mask_offsets[m + 1])
    masks        : uint8 (n, H, W), C-contiguous
    """
    _, height, width = masks.shape
    cells = flat(masks)
    most_vertices = longest_ring(offsets, len(offsets) - 1)
    scratch = make_fill_scratch(most_vertices, height, width, rule)
    for m in range(first, last):
        target = Target(cells, m * height * width, height, width, ONE)
        start, stop = mask_offsets[m], mask_offsets[m + 1]
        if groups is None:
            fill_group(points, offsets, start, stop, shift, rule, target, True, scratch)
        else:
            fill_groups(
                points, offsets, groups, start, stop, shift, rule, target, True, scratch
            )


@entry(points="const float64[:, ::1]", offsets="const int64[::1]")
def check_rings(points, offsets):
    """Return what `find_fault` returns for all rings."""
    return find_fault(points, offsets, 0, len(offsets) - 1)
