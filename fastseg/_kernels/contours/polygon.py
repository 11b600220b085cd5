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

`pairs` stores the first two columns that a row gets. A row that gets no more has one
run, which is written directly: most rows of drawn contours are like this, and it saves
a third of the whole time. All other rows use one bit per pixel: each edge toggles the
bit of its first column, then the runs between set bits are written to the mask. The
time is linear in vertices, crossings and pixels, however often a ring winds.

    counts         : int32 (rows,), how many first columns a row has; zero between calls
    pairs          : int32 (rows, 2), the first two of them; (rows, 0) if all go to bits
    bits           : uint64 (rows, words), zero between calls; words = width // 64 + 1
    touched        : uint64 (rows,), which groups of a row's words have set bits; zero
                     between calls
    marks          : like bits, for centres on the outline; no rows for HALF_OPEN
    winding        : int32 (rows, width + 1), the changes of the winding number; zero
                     between calls; no rows for even-odd
    vertex_rows    : int32 (n,), the first row at or below each vertex of a ring
    crossing_edges : int32 (n,), the edges that cross a row
    columns        : int32 (rows,), the first columns of one edge, row by row
    box            : int64 (4,), first row, last row + 1, first and last column that may
                     have bits

A mask with more rows than the scratch is filled in bands of rows.

All this fills the rings of one group. `fill_groups` and `fill_many_groups` call it for
one group after the other and join the groups:

    groups         : int64 (number of rings,). Consecutive rings of a mask with equal
                     numbers are one group; if the number is negative, it is filled
                     even-odd whatever `nonzero` says
"""

import numpy as np

from fastseg._kernels.contours.exact import first_column, side_of_edge
from fastseg._kernels.contours.runs import (
    ONE,
    apply_marks,
    apply_winding,
    clear_run,
    group_shift,
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

EXPONENT_BITS = np.int64(0x7FF0000000000000)


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
    return np.int32(np.ceil(min(max(x, low), high)))


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
def toggle_ring(
    ring, shift, top, rows, width,
    counts, pairs, bits, touched, winding, vertex_rows, crossing_edges, columns, box,
):  # fmt: skip
    """Toggle the first column of each edge, in rows [top, top + rows).

    ring : float64 (n, 2), (x, y) in pixels, closed implicitly
    """
    nonzero = winding.shape[0] > 0
    pair_size = pairs.shape[1]
    low, high = float(top), float(top + rows)
    right = float(width)
    count = len(ring)
    group = group_shift(bits.shape[1])
    # The first loop rounds all vertices to rows with vector instructions. The second
    # one lists the edges that cross a row, without a branch: a third of a drawn
    # contour's edges do, and no processor can predict which. Together they are twice
    # as fast as one simple loop.
    for k in range(count):
        vertex_rows[k] = ceil_clipped(ring[k, 1] - shift, low, high)
    edge_count = 0
    previous_row = vertex_rows[count - 1]
    for k in range(count):
        vertex_row = vertex_rows[k]
        crossing_edges[u64(edge_count)] = k
        edge_count += vertex_row != previous_row
        previous_row = vertex_row
    first_row, last_row, first_col, last_col = box[0], box[1], box[2], box[3]
    for edge in range(edge_count):
        k = crossing_edges[edge]
        j = k - 1 if k > 0 else count - 1
        x0, y0 = ring[u64(j), 0], ring[u64(j), 1]
        x1, y1 = ring[u64(k), 0], ring[u64(k), 1]
        down = y0 < y1
        # To select each value is 1.3 times faster than to select the index.
        xa = x0 if down else x1
        ya = y0 if down else y1
        xb = x1 if down else x0
        yb = y1 if down else y0
        row = min(vertex_rows[u64(j)], vertex_rows[u64(k)])
        stop = max(vertex_rows[u64(j)], vertex_rows[u64(k)])
        first_row = min(first_row, row)
        last_row = max(last_row, stop)
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
            earlier = counts[band_row]
            counts[band_row] = earlier + 1
            if earlier < pair_size:
                pairs[band_row, u64(earlier)] = column
                continue
            word = column >> 6
            bit = ONE << u64(column & 63)
            if nonzero:
                winding[band_row, u64(column)] += 1 if down else -1
                bits[band_row, u64(word)] |= bit
            else:
                bits[band_row, u64(word)] ^= bit
            touched[band_row] |= ONE << u64(word >> group)
            first_col = min(first_col, column)
            last_col = max(last_col, column)
    box[0], box[1], box[2], box[3] = first_row, last_row, first_col, last_col


@kernel
def mark_columns(row_bits, first, stop):
    """Set the bits of columns [first, stop) in the words of one row."""
    for column in range(first, stop):
        row_bits[column >> 6] |= ONE << u64(column & 63)


@kernel
def mark_ring(ring, shift, top, rows, width, marks, box):
    """Mark the pixel centres exactly on the ring, in rows [top, top + rows)."""
    low, high = float(top), float(top + rows)
    right = float(width)
    count = len(ring)
    for k in range(count):
        j = k - 1 if k > 0 else count - 1
        a, b = (j, k) if ring[j, 1] < ring[k, 1] else (k, j)
        xa, ya, xb, yb = ring[a, 0], ring[a, 1], ring[b, 0], ring[b, 1]
        first_row = ceil_clipped(ya - shift, low, high)
        stop_row = ceil_clipped(yb - shift, low, high)
        if float(stop_row) + shift == yb and stop_row < top + rows:
            stop_row += 1  # the row through the lower end
        if first_row >= stop_row:
            continue
        box[0] = min(box[0], first_row)
        box[1] = max(box[1], stop_row)
        slope, error = 0.0, 0.0
        if ya < yb:
            slope, error = slope_and_error(xa, ya, xb, yb)
        for r in range(first_row, stop_row):
            y = float(r) + shift
            if y in (ya, yb) or xa == xb:
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
            if first < stop:
                mark_columns(marks[r - top], first, stop)
                box[2] = min(box[2], first)
                box[3] = max(box[3], stop - 1)


@inlined
def toggle_column(bits, touched, row, column):
    """Toggle a column's bit."""
    word = column >> 6
    bits[u64(row), u64(word)] ^= ONE << u64(column & 63)
    touched[u64(row)] |= ONE << u64(word >> group_shift(bits.shape[1]))


@kernel
def fill_mask(
    points, offsets, first, last, shift, edges,
    cells, base, height, width, value, clear,
    counts, pairs, bits, touched, marks, winding,
    vertex_rows, crossing_edges, columns, box,
):  # fmt: skip
    """Set the bits of value in one mask where rings [first, last) cover it.

    points  : float64 (P, 2), (x, y) in pixels, pixel centres at integers + shift
    offsets : int64, ring k is points[offsets[k]:offsets[k + 1]]
    edges   : HALF_OPEN, CLOSED or OPEN
    cells   : 1-D view of unsigned masks; the mask begins at cells[base]
    clear   : whether to set all other pixels to 0
    counts to box : the scratch, see the module
    """
    words = bits.shape[1]
    done = u64(base)
    for top in range(0, height, bits.shape[0]):
        rows = min(bits.shape[0], height - top)
        box[0], box[1], box[2], box[3] = height, 0, width, 0
        for k in range(first, last):
            ring = points[offsets[k] : offsets[k + 1]]
            toggle_ring(
                ring, shift, top, rows, width,
                counts, pairs, bits, touched, winding,
                vertex_rows, crossing_edges, columns, box,
            )  # fmt: skip
            if edges != HALF_OPEN:
                mark_ring(ring, shift, top, rows, width, marks, box)
        first_word, last_word = box[2] >> 6, box[3] >> 6
        if edges != HALF_OPEN:  # a run may end in the word after the last mark
            last_word = min(last_word + 1, words - 1)
        for row in range(box[0], box[1]):
            if winding.shape[0] > 0:
                apply_winding(bits, winding, row - top, first_word, last_word)
            if edges != HALF_OPEN:
                apply_marks(
                    bits, touched, marks, row - top, first_word, last_word,
                    edges == CLOSED,
                )  # fmt: skip
            row_start = u64(base + row * width)
            column_count = counts[u64(row - top)]
            counts[u64(row - top)] = 0
            if edges == HALF_OPEN and column_count <= pairs.shape[1]:
                if column_count > 0:  # then 2, as rings are closed
                    c0, c1 = pairs[u64(row - top), 0], pairs[u64(row - top), 1]
                    start = row_start + u64(min(c0, c1))
                    stop = row_start + u64(max(c0, c1))
                    done = write_run(cells, done, start, stop, value, clear)
                continue
            for k in range(pairs.shape[1]):
                toggle_column(bits, touched, row - top, pairs[u64(row - top), u64(k)])
            done = write_runs(
                bits, touched, row - top, cells, done, row_start, value, clear
            )
    if clear:
        clear_run(cells, done, u64(base + height * width))


@kernel
def make_scratch(rows, width, vertices, edges, nonzero):
    """Return the scratch arrays, in the order in which `fill_mask` takes them."""
    words = width // 64 + 1
    return (
        zeros(rows, np.int32),
        empty((rows, 2 if edges == HALF_OPEN and not nonzero else 0), np.int32),
        zeros((rows, words), np.uint64),
        zeros(rows, np.uint64),
        zeros((rows if edges != HALF_OPEN else 0, words), np.uint64),
        zeros((rows if nonzero else 0, width + 1), np.int32),
        empty(vertices, np.int32),
        empty(vertices, np.int32),
        empty(rows, np.int32),
        empty(4, np.int64),
    )


@entry(
    points="const float64[:, ::1]",
    offsets="const int64[::1]",
    shift="float64",
    edges="int64",
    nonzero="bool",
    rows="int64",
    mask="T[:, ::1]",
    value="T",
    clear="bool",
    T=("uint8", "uint16", "uint32", "uint64"),
)
def fill_one(points, offsets, shift, edges, nonzero, rows, mask, value, clear):
    """Check rings and set the bits of value in a mask where they cover it.

    rows  : number of rows of the scratch, at most H
    mask  : unsigned (H, W), C-contiguous
    clear : whether to set all other pixels to 0

    Returns what `check_rings` returns; a fault leaves the mask unchanged.
    """
    ring, fault = check_rings(points, offsets)
    if ring < 0:
        height, width = mask.shape
        (
            counts, pairs, bits, touched, marks, winding,
            vertex_rows, crossing_edges, columns, box,
        ) = make_scratch(rows, width, len(points), edges, nonzero)  # fmt: skip
        fill_mask(
            points, offsets, 0, len(offsets) - 1, shift, edges,
            flat(mask), 0, height, width, value, clear,
            counts, pairs, bits, touched, marks, winding,
            vertex_rows, crossing_edges, columns, box,
        )  # fmt: skip
    return ring, fault


@entry(
    points="const float64[:, ::1]",
    offsets="const int64[::1]",
    groups="const int64[::1]",
    shift="float64",
    edges="int64",
    nonzero="bool",
    rows="int64",
    mask="T[:, ::1]",
    value="T",
    clear="bool",
    T=("uint8", "uint16", "uint32", "uint64"),
)
def fill_groups(
    points, offsets, groups, shift, edges, nonzero, rows, mask, value, clear
):
    """Check rings and set the bits of value in a mask where any group covers it.

    groups : see the module; all other arguments are those of `fill_one`

    Returns what `check_rings` returns; after a fault, some groups may be drawn.
    """
    start = 0
    while True:
        stop = min(start + 1, len(groups))
        while stop < len(groups) and groups[stop] == groups[start]:
            stop += 1
        ring, fault = fill_one(
            points[offsets[start] : offsets[stop]],
            offsets[start : stop + 1] - offsets[start],
            shift, edges, nonzero and stop > 0 and groups[start] >= 0, rows,
            mask, value, clear and start == 0,
        )  # fmt: skip
        if ring >= 0:
            return start + ring, fault
        if stop >= len(groups):
            return ring, fault
        start = stop


@entry(
    points="const float64[:, ::1]",
    offsets="const int64[::1]",
    mask_offsets="const int64[::1]",
    shift="float64",
    edges="int64",
    nonzero="bool",
    rows="int64",
    masks="uint8[:, :, ::1]",
    first="int64",
    last="int64",
)
def fill_many(
    points, offsets, mask_offsets, shift, edges, nonzero, rows, masks, first, last
):
    """Overwrite masks [first, last), each filled from one group of rings.

    mask_offsets : int64 (n + 1,), mask m is filled from the rings
        [mask_offsets[m], mask_offsets[m + 1])
    masks        : uint8 (n, H, W), C-contiguous
    """
    height, width = masks.shape[1], masks.shape[2]
    cells = flat(masks)
    most_vertices = 0
    for k in range(len(offsets) - 1):
        most_vertices = max(most_vertices, offsets[k + 1] - offsets[k])
    (
        counts, pairs, bits, touched, marks, winding,
        vertex_rows, crossing_edges, columns, box,
    ) = make_scratch(rows, width, most_vertices, edges, nonzero)  # fmt: skip
    for m in range(first, last):
        fill_mask(
            points, offsets, mask_offsets[m], mask_offsets[m + 1], shift, edges,
            cells, m * height * width, height, width, np.uint8(1), True,
            counts, pairs, bits, touched, marks, winding,
            vertex_rows, crossing_edges, columns, box,
        )  # fmt: skip


@entry(
    points="const float64[:, ::1]",
    offsets="const int64[::1]",
    groups="const int64[::1]",
    mask_offsets="const int64[::1]",
    shift="float64",
    edges="int64",
    nonzero="bool",
    rows="int64",
    masks="uint8[:, :, ::1]",
    first="int64",
    last="int64",
)
def fill_many_groups(
    points, offsets, groups, mask_offsets, shift, edges, nonzero, rows,
    masks, first, last,
):  # fmt: skip
    """Overwrite masks [first, last), each filled from groups of rings.

    groups : see the module; all other arguments are those of `fill_many`
    """
    for m in range(first, last):
        start, stop = mask_offsets[m], mask_offsets[m + 1]
        fill_groups(
            points[offsets[start] : offsets[stop]],
            offsets[start : stop + 1] - offsets[start],
            groups[start:stop],
            shift, edges, nonzero, rows, masks[m], np.uint8(1), True,
        )  # fmt: skip


@entry(offsets="const int64[::1]", total="int64")
def check_offsets(offsets, total):
    """Return -1 if offsets are valid: ascending from 0 to total.

    Otherwise return the first k with offsets[k] < offsets[k - 1], or 0 if the first
    offset is not 0 or the last one not total.
    """
    for k in range(1, len(offsets)):
        if offsets[k] < offsets[k - 1]:
            return k
    return -1 if offsets[0] == 0 and offsets[-1] == total else 0


@entry(
    points="const float64[:, ::1]",
    offsets="const int64[::1]",
)
def check_rings(points, offsets):
    """Return (ring, vertex) of the first fault, or (-1, -1) if there is none.

    vertex is the index within the ring of a vertex that is not finite, or -1 - d for
    a ring with only d < 3 distinct vertices.
    """
    # Infinities and NaN have all exponent bits set. The numbers are read as integers,
    # because vector instructions find the maximum of integers.
    highest = np.int64(0)
    words = flat(points).view(np.int64)
    for k in range(len(words)):
        highest = max(highest, words[k] & EXPONENT_BITS)
    finite = highest < EXPONENT_BITS
    for ring in range(len(offsets) - 1):
        first, stop = offsets[ring], offsets[ring + 1]
        if not finite:
            for k in range(first, stop):
                if not (abs(points[k, 0]) < np.inf and abs(points[k, 1]) < np.inf):
                    return ring, k - first
        distinct = 0
        first_vertex = second_vertex = 0
        for k in range(first, stop):
            x, y = points[k, 0], points[k, 1]
            if distinct == 0:
                distinct, first_vertex = 1, k
            elif x != points[first_vertex, 0] or y != points[first_vertex, 1]:
                if distinct == 1:
                    distinct, second_vertex = 2, k
                elif x != points[second_vertex, 0] or y != points[second_vertex, 1]:
                    distinct = 3
                    break
        if distinct < 3:
            return ring, -1 - distinct
    return -1, -1
