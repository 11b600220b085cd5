"""Scan conversion of polygons, exact for every finite float64 vertex.

A row of pixel centres y = r meets an edge a -> b, taken downwards so that ya < yb,
where ya <= r < yb. The edge changes the winding number, and the parity, of all
centres at or right of it: of all from one column on. Floating arithmetic finds that
column wherever its error bound keeps clear of a whole number, which is nearly
everywhere; `exact` settles the rest. Comparing, rounding up and clipping a float64
are exact, so the mask is the one that rational arithmetic gives.

Pixel centres lie at integers plus `shift`, 0 or 0.5. Subtracting 0.5 from a float64
before rounding up is exact wherever it matters: from 0.5 on no bit is lost, and below
that the result is clipped to 0.

The first two columns of a row are kept as they are, and a row that has no more is one
run: that is most rows of drawn contours, a third of the whole time less than by the
general way. That way is a scratch of one bit per pixel: edges toggle the bit of their
first column, and the runs between set bits are written to the mask. All is linear in
vertices, crossings and pixels, however a ring winds.

    counts  : int32 (rows,), columns found in each row; zero between calls
    pairs   : int32 (rows, 2), the first two of them; (rows, 0) where all go into bits
    bits    : uint64 (rows, words), zero between calls; words = width // 64 + 1
    touched : uint64 (rows,), which groups of words of a row have bits; zero between
              calls
    marks   : like bits, for centres on the outline; no rows if edges are half-open
    winding : int32 (rows, width + 1), zero between calls; no rows for even-odd
    after   : int32 (n,), the first row at or below each vertex of a ring
    crossed : int32 (n,), the edges that cross a row
    columns : int32 (rows,), the first column right of an edge in each of its rows
    box     : int64 (4,), first and last + 1 row, first and last column touched

Masks larger than the scratch are filled in bands of its rows.
"""

import numpy as np

from fastseg._kernels.contours.exact import first_column, side_of_edge
from fastseg._kernels.contours.runs import (
    ONE,
    apply_marks,
    clear_run,
    group_shift,
    u64,
    unwind,
    write_run,
    write_runs,
)
from fastseg._kernels.jit import inlined, kernel

HALF_OPEN, CLOSED, OPEN = 0, 1, 2

# Bound on the rounding error of xa + (r - ya) * ((xb - xa) / (yb - ya)), relative to
# |xa| + |xb - xa| + 1: eight roundings of 2**-53 each, doubled for comfort.
RELATIVE_ERROR = 16 * 2.0**-53
# A slope below this may have lost bits to underflow.
SMALLEST_SLOPE = 1e-280
# With a larger bound than this, many columns would have to be looked at.
LARGEST_ERROR = 0.25

EXPONENT = np.int64(0x7FF0000000000000)


@kernel
def slope_and_error(xa, ya, xb, yb):
    """Return dx / dy and a bound on the error of x along the edge, inf for none."""
    dx = xb - xa
    slope = dx / (yb - ya)
    error = RELATIVE_ERROR * (abs(xa) + abs(dx) + 1.0)
    # Written so that NaN and infinities fail.
    if error < LARGEST_ERROR and (SMALLEST_SLOPE < abs(slope) < np.inf or dx == 0.0):
        return slope, error
    return 0.0, np.inf


@inlined
def index_after(x, low, high):
    """Return the first whole number at or after x, in [low, high]."""
    # 32 bits, because processors convert those by vector instructions.
    return np.int32(np.ceil(min(max(x, low), high)))


@kernel
def settle_columns(xa, ya, xb, yb, first, stop, shift, width, columns):
    """Find the columns of an edge in rows [first, stop), each by the surest means."""
    slope, error = slope_and_error(xa, ya, xb, yb)
    right = float(width)
    for r in range(first, stop):
        y = float(r) + shift
        if y == ya:
            column = index_after(xa - shift, 0.0, right)
        else:
            x = xa + (y - ya) * slope - shift
            column = index_after(x - error, 0.0, right)
            limit = index_after(x + error, 0.0, right)
            if column != limit:
                column = first_column(xa, ya, xb, yb, y, column, limit, shift)
        columns[r - first] = column


@kernel
def toggle_ring(
    ring, shift, top, rows, width,
    counts, pairs, bits, touched, winding, after, crossed, columns, box,
):  # fmt: skip
    """Toggle the first column right of each edge, in rows [top, top + rows).

    ring : float64 (n, 2), (x, y) in pixels, closed implicitly
    """
    nonzero = winding.shape[0] > 0
    paired = pairs.shape[1]
    low, high, right = float(top), float(top + rows), float(width)
    count = len(ring)
    group = group_shift(bits.shape[1])
    # First the rows of all vertices, by vector instructions; then the edges that
    # cross a row at all, without a branch, since a third of a drawn contour's edges
    # do and no processor can guess which: both twice as fast as one plain loop.
    for k in range(count):
        after[k] = index_after(ring[k, 1] - shift, low, high)
    found = 0
    before = after[count - 1]
    for k in range(count):
        here = after[k]
        crossed[u64(found)] = k
        found += here != before
        before = here
    first_row, last_row, first_col, last_col = box[0], box[1], box[2], box[3]
    for edge in range(found):
        k = crossed[edge]
        j = k - 1 if k > 0 else count - 1
        x0, y0 = ring[u64(j), 0], ring[u64(j), 1]
        x1, y1 = ring[u64(k), 0], ring[u64(k), 1]
        down = y0 < y1
        # Chosen one by one: 1.3 times faster than choosing the place to load from.
        xa = x0 if down else x1
        ya = y0 if down else y1
        xb = x1 if down else x0
        yb = y1 if down else y0
        row = min(after[u64(j)], after[u64(k)])
        stop = max(after[u64(j)], after[u64(k)])
        first_row = min(first_row, row)
        last_row = max(last_row, stop)
        crossings = stop - row
        if crossings == 1 and float(row) + shift == ya:
            # The usual edge of a drawn contour: one row, and that at its upper end.
            columns[0] = index_after(xa - shift, 0.0, right)
        else:
            # All rows of the edge at once, by vector instructions, and a note whether
            # any is too close to a whole number to be decided like this.
            slope, error = slope_and_error(xa, ya, xb, yb)
            sure = True
            if crossings == 1:  # a tenth faster than a loop of one
                x = xa + (float(row) + shift - ya) * slope - shift
                column = index_after(x, 0.0, right)
                columns[0] = column
                sure = error < float(column) - x < 1.0 - error
            else:
                for i in range(crossings):
                    x = xa + (float(row + i) + shift - ya) * slope - shift
                    column = index_after(x, 0.0, right)
                    columns[i] = column
                    sure &= error < float(column) - x < 1.0 - error
            if not sure:
                settle_columns(xa, ya, xb, yb, row, stop, shift, width, columns)
        for i in range(crossings):
            column = columns[u64(i)]
            line = u64(row - top + i)
            known = counts[line]
            counts[line] = known + 1
            if known < paired:
                pairs[line, u64(known)] = column
                continue
            word = column >> 6
            bit = ONE << u64(column & 63)
            if nonzero:
                winding[line, u64(column)] += 1 if down else -1
                bits[line, u64(word)] |= bit
            else:
                bits[line, u64(word)] ^= bit
            touched[line] |= ONE << u64(word >> group)
            first_col = min(first_col, column)
            last_col = max(last_col, column)
    box[0], box[1], box[2], box[3] = first_row, last_row, first_col, last_col


@kernel
def mark_columns(line, first, stop):
    """Set the bits of columns [first, stop)."""
    for column in range(first, stop):
        line[column >> 6] |= ONE << u64(column & 63)


@kernel
def mark_ring(ring, shift, top, rows, width, marks, box):
    """Mark the pixel centres exactly on the ring, in rows [top, top + rows)."""
    low, high, right = float(top), float(top + rows), float(width)
    count = len(ring)
    for k in range(count):
        j = k - 1 if k > 0 else count - 1
        a, b = (j, k) if ring[j, 1] < ring[k, 1] else (k, j)
        xa, ya, xb, yb = ring[a, 0], ring[a, 1], ring[b, 0], ring[b, 1]
        first_row = index_after(ya - shift, low, high)
        stop_row = index_after(yb - shift, low, high)
        if float(stop_row) + shift == yb and stop_row < top + rows:
            stop_row += 1  # the lower end itself
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
                # An end, or both ends of an edge along the row, or a vertical edge.
                left = min(xa, xb) if ya == yb else (xb if y == yb else xa)
                last = max(xa, xb) if ya == yb else left
                first = index_after(left - shift, 0.0, right)
                stop = index_after(last - shift, 0.0, right)
                if stop < width and float(stop) + shift == last:
                    stop += 1
            else:
                x = xa + (y - ya) * slope - shift
                first = index_after(x - error, 0.0, right)
                stop = index_after(x + error, 0.0, right)
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
    counts, pairs, bits, touched, marks, winding, after, crossed, columns, box,
):  # fmt: skip
    """Set the bits of value in one mask where rings [first, last) cover it.

    points  : float64 (P, 2), (x, y) in pixels, pixel centres at integers + shift
    offsets : int64, ring k is points[offsets[k]:offsets[k + 1]]
    edges   : HALF_OPEN, CLOSED or OPEN
    cells   : 1-D view of unsigned masks; the mask begins at cells[base]
    clear   : whether to set all other pixels to 0
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
                counts, pairs, bits, touched, winding, after, crossed, columns, box,
            )  # fmt: skip
            if edges != HALF_OPEN:
                mark_ring(ring, shift, top, rows, width, marks, box)
        first_word, last_word = box[2] >> 6, box[3] >> 6
        if edges != HALF_OPEN:  # a run may end in the word after the last mark
            last_word = min(last_word + 1, words - 1)
        for row in range(box[0], box[1]):
            if winding.shape[0] > 0:
                unwind(bits, winding, row - top, first_word, last_word)
            if edges != HALF_OPEN:
                apply_marks(
                    bits, touched, marks, row - top, first_word, last_word,
                    edges == CLOSED,
                )  # fmt: skip
            line = u64(base + row * width)
            known = counts[u64(row - top)]
            counts[u64(row - top)] = 0
            if edges == HALF_OPEN and known <= pairs.shape[1]:
                if known > 0:  # then both: rings are closed
                    one, two = pairs[u64(row - top), 0], pairs[u64(row - top), 1]
                    start, stop = line + u64(min(one, two)), line + u64(max(one, two))
                    done = write_run(cells, done, start, stop, value, clear)
                continue
            for k in range(pairs.shape[1]):
                toggle_column(bits, touched, row - top, pairs[u64(row - top), u64(k)])
            done = write_runs(bits, touched, row - top, cells, done, line, value, clear)
    if clear:
        clear_run(cells, done, u64(base + height * width))


@kernel
def make_scratch(rows, width, vertices, edges, nonzero):
    """Return counts, pairs, bits, touched, marks, winding, after, ... and box."""
    words = width // 64 + 1
    return (
        np.zeros(rows, np.int32),
        np.empty((rows, 2 if edges == HALF_OPEN and not nonzero else 0), np.int32),
        np.zeros((rows, words), np.uint64),
        np.zeros(rows, np.uint64),
        np.zeros((rows if edges != HALF_OPEN else 0, words), np.uint64),
        np.zeros((rows if nonzero else 0, width + 1), np.int32),
        np.empty(vertices, np.int32),
        np.empty(vertices, np.int32),
        np.empty(rows, np.int32),
        np.empty(4, np.int64),
    )


@kernel
def fill_one(points, offsets, shift, edges, nonzero, rows, mask, value, clear):
    """Check rings and set the bits of value in a mask where they cover it.

    rows : of the scratch, at most those of the mask
    mask : unsigned (H, W), C-contiguous; clear says whether to set the rest to 0

    Returns what `check_rings` does; the mask is left alone if there is a fault.
    """
    ring, fault = check_rings(points, offsets)
    if ring < 0:
        height, width = mask.shape
        counts, pairs, bits, touched, marks, winding, after, crossed, columns, box = (
            make_scratch(rows, width, len(points), edges, nonzero)
        )
        fill_mask(
            points, offsets, 0, len(offsets) - 1, shift, edges,
            mask.reshape(mask.size), 0, height, width, value, clear,
            counts, pairs, bits, touched, marks, winding, after, crossed, columns, box,
        )  # fmt: skip
    return ring, fault


@kernel
def fill_many(points, offsets, groups, shift, edges, nonzero, rows, masks, first, last):
    """Overwrite masks [first, last): mask m is filled from rings groups[m:m + 2].

    groups : int64 (n + 1,)
    masks  : uint8 (n, H, W), C-contiguous
    """
    height, width = masks.shape[1], masks.shape[2]
    cells = masks.reshape(masks.size)
    longest = 0
    for k in range(len(offsets) - 1):
        longest = max(longest, offsets[k + 1] - offsets[k])
    counts, pairs, bits, touched, marks, winding, after, crossed, columns, box = (
        make_scratch(rows, width, longest, edges, nonzero)
    )
    for m in range(first, last):
        fill_mask(
            points, offsets, groups[m], groups[m + 1], shift, edges,
            cells, m * height * width, height, width, np.uint8(1), True,
            counts, pairs, bits, touched, marks, winding, after, crossed, columns, box,
        )  # fmt: skip


@kernel
def check_offsets(offsets, total):
    """Return the first place where offsets fall, 0 if they do not go from 0 to total.

    -1 says that they are sound.
    """
    for k in range(1, len(offsets)):
        if offsets[k] < offsets[k - 1]:
            return k
    return -1 if offsets[0] == 0 and offsets[-1] == total else 0


@kernel
def check_rings(points, offsets):
    """Return (ring, vertex) of the first fault, (-1, -1) if there is none.

    vertex is that of a number that is not finite, or -1 - d for a ring of d < 3
    distinct vertices.
    """
    # As whole numbers, whose maximum is found by vector instructions: the exponent
    # of what is not finite is all ones.
    highest = np.int64(0)
    words = points.reshape(points.size).view(np.int64)
    for k in range(len(words)):
        highest = max(highest, words[k] & EXPONENT)
    finite = highest < EXPONENT
    for ring in range(len(offsets) - 1):
        first, stop = offsets[ring], offsets[ring + 1]
        if not finite:
            for k in range(first, stop):
                if not (abs(points[k, 0]) < np.inf and abs(points[k, 1]) < np.inf):
                    return ring, k - first
        distinct = 0
        one = two = 0
        for k in range(first, stop):
            x, y = points[k, 0], points[k, 1]
            if distinct == 0:
                distinct, one = 1, k
            elif x != points[one, 0] or y != points[one, 1]:
                if distinct == 1:
                    distinct, two = 2, k
                elif x != points[two, 0] or y != points[two, 1]:
                    distinct = 3
                    break
        if distinct < 3:
            return ring, -1 - distinct
    return -1, -1
