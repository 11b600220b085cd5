"""The area of each pixel inside polygons: analytic, accumulated edge by edge.

Here pixel [r, c] is the square [c, c + 1] x [r, r + 1]: kernels add `delta`, 0.5 or 0,
to all coordinates. Edges are cut at the borders of rows into pieces. A piece that
separates inside from outside adds the signed area to its right: a pixel that the piece
passes through gets the part of its own area that lies right of the piece, and all
pixels further right get the height of the piece. The sum from left to right gives the
row. Font rasterizers do the same (FreeType's "smooth" one by David Turner, after libart
by Raph Levien), but they use the winding number as coverage, which is wrong where rings
cross or overlap.

Rings come in groups. The rule, even-odd or nonzero, applies within each group, and what
is inside any group is inside. So no piece that another group covers separates inside
from outside.

The pieces that separate inside from outside are found row by row. Consecutive pieces of
one group and direction form a chain, which cannot cross itself. If no two chains of a
row that share a height share a column, they keep their order at all heights
(`sign_chains`): nearly every row of a drawn contour is like this. Any other row is cut
into slabs at the heights of vertices and crossings (`add_slabs`).

All arithmetic is float64.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg._kernels.contours.runs import fill_run
from fastseg._kernels.jit import entry, flat, inlined, kernel, trailing_zeros

# With more chains in a row, `sign_chains` takes as long as slabs.
MOST_CHAINS = 12
# In row heights: more than the rounding errors of a sum of some thousand pieces, each
# of 2**-53.
SUMMING_ERROR = 2.0**-40

u64 = np.uint64
ONE = np.uint64(1)


class Pieces(NamedTuple):
    """The pieces of some rows, one row after another.

    ends       : float64 (m, 4), (x, y) of the upper and the lower end
    directions : int64 (m,), the number of the ring's group, from 1; negative if the
        ring runs up the piece
    """

    ends: NDArray[np.float64]
    directions: NDArray[np.int64]


class Chains(NamedTuple):
    """The chains of a row.

    extents : float64 (MOST_CHAINS, 4), least and greatest x, then y
    table   : int64 (MOST_CHAINS, 3), direction, last piece + 1, sign
    """

    extents: NDArray[np.float64]
    table: NDArray[np.int64]


class Slab(NamedTuple):
    """A slab of a row.

    heights    : float64 (2 n,), heights of the vertices of the row
    x          : float64 (n, 2), x at the top and bottom of the slab of each piece in
        it, from left to right
    directions : int64 (n,), directions of these pieces
    """

    heights: NDArray[np.float64]
    x: NDArray[np.float64]
    directions: NDArray[np.int64]


class RowSums(NamedTuple):
    """What the pieces of a row add up to; all zero between calls.

    sums : float64 (W + 1, 2), height and area of the pieces in each column, after those
        of the pieces left of the image
    bits : uint64 (W // 64 + 1,), columns with pieces
    """

    sums: NDArray[np.float64]
    bits: NDArray[np.uint64]


class CoverScratch(NamedTuple):
    """Arrays that `cover_mask` uses; `make_cover_scratch` makes them.

    row_starts : int64 (H + 2,), index of the first piece of each row
    pieces     : of at least as many pieces as there are vertices; if there are not
        enough for all, rows are done in several blocks
    windings   : int64 (number of rings + 1,), zero between calls: winding number of
        each group
    """

    row_starts: NDArray[np.int64]
    pieces: Pieces
    chains: Chains
    slab: Slab
    windings: NDArray[np.int64]
    row: RowSums


COVER_SCRATCH = (
    CoverScratch,
    "int64[::1]",
    (Pieces, "float64[:, ::1]", "int64[::1]"),
    (Chains, "float64[:, ::1]", "int64[:, ::1]"),
    (Slab, "float64[::1]", "float64[:, ::1]", "int64[::1]"),
    "int64[::1]",
    (RowSums, "float64[:, ::1]", "uint64[::1]"),
)


def make_cover_scratch(
    vertices: int, rings: int, height: int, width: int
) -> CoverScratch:
    """Return the scratch for contours of so many vertices and rings."""
    # An edge of a drawn contour lies in one or two rows; with longer edges fewer rows
    # are done at a time.
    capacity = 2 * (vertices + height)
    return CoverScratch(
        np.empty(height + 2, np.int64),
        Pieces(np.empty((capacity, 4)), np.empty(capacity, np.int64)),
        Chains(np.empty((MOST_CHAINS, 4)), np.empty((MOST_CHAINS, 3), np.int64)),
        Slab(
            np.empty(2 * vertices),
            np.empty((vertices, 2)),
            np.empty(vertices, np.int64),
        ),
        np.zeros(rings + 1, np.int64),
        RowSums(np.zeros((width + 1, 2)), np.zeros(width // 64 + 1, np.uint64)),
    )


@inlined
def x_on(xa, ya, xb, yb, y):
    """Return x of an edge at height y, computed from its nearer end; ya < y < yb."""
    if xa == xb:
        return xa
    # Halved, because a difference may overflow.
    slope = (0.5 * xb - 0.5 * xa) / (0.5 * yb - 0.5 * ya)
    x = xa + (y - ya) * slope if y - ya < yb - y else xb - (yb - y) * slope
    return min(max(x, min(xa, xb)), max(xa, xb))


@inlined
def interpolate(xa, xb, t):
    """Return the number at fraction t between xa and xb."""
    return min(max(xa * (1.0 - t) + xb * t, min(xa, xb)), max(xa, xb))


@inlined
def is_inside(winding, nonzero):
    """Return 1 if the fill rule calls this winding number inside, else 0."""
    return (1 if winding != 0 else 0) if nonzero else winding & 1


@inlined
def add_winding(windings, direction):
    """Cross a piece of this direction; return its group's new winding number."""
    group = u64(abs(direction))
    windings[group] += 1 if direction > 0 else -1
    return windings[group]


@kernel
def count_pieces(points, offsets, delta, height, row_starts):
    """Write to row_starts[r + 1] how many edges pass through row r."""
    for row in range(len(row_starts)):
        row_starts[row] = 0
    bottom = float(height)
    for ring in range(len(offsets) - 1):
        y0 = points[offsets[ring + 1] - 1, 1] + delta
        for k in range(offsets[ring], offsets[ring + 1]):
            y1 = points[u64(k), 1] + delta
            top, end = max(min(y0, y1), 0.0), min(max(y0, y1), bottom)
            if top < end:
                row_starts[u64(math.floor(top)) + ONE] += 1
                row_starts[u64(math.ceil(end)) + ONE] -= 1
            y0 = y1
    total = 0
    for row in range(1, height + 1):
        total += row_starts[row]
        row_starts[row] = total


@kernel
def list_pieces(points, offsets, ring_groups, delta, top, stop, row_starts, pieces):
    """Cut the edges at the borders of rows [top, stop) and list the pieces by row.

    Each row_starts[r] becomes the index after the row's last piece.
    """
    low, high = float(top), float(stop)
    ends, directions = pieces.ends, pieces.directions
    for ring in range(len(offsets) - 1):
        group = 1
        if ring_groups is not None:
            group = ring_groups[ring]
        x0 = points[offsets[ring + 1] - 1, 0] + delta
        y0 = points[offsets[ring + 1] - 1, 1] + delta
        for k in range(offsets[ring], offsets[ring + 1]):
            x1, y1 = points[u64(k), 0] + delta, points[u64(k), 1] + delta
            down = y0 < y1
            xa = x0 if down else x1
            ya = y0 if down else y1
            xb = x1 if down else x0
            yb = y1 if down else y0
            x0, y0 = x1, y1
            if not max(ya, low) < min(yb, high):
                continue
            row = math.floor(max(ya, low))
            end = math.ceil(min(yb, high))
            x, y = xa, ya
            if y < float(row):
                y = float(row)
                x = x_on(xa, ya, xb, yb, y)
            for r in range(row, end):
                index = u64(row_starts[u64(r)])
                row_starts[u64(r)] += 1
                directions[index] = group if down else -group
                ends[index, 0], ends[index, 1] = x, y
                if float(r + 1) < yb:
                    y = float(r + 1)
                    x = x_on(xa, ya, xb, yb, y)
                else:
                    x, y = xb, yb
                ends[index, 2], ends[index, 3] = x, y


@inlined
def add_to_pixel(row, column, height, area):
    """Add to the sums of one column, and set its bit."""
    c = u64(column)
    row.bits[c >> u64(6)] |= ONE << (c & u64(63))
    row.sums[c + ONE, 0] += height
    row.sums[c + ONE, 1] += area


@inlined
def add_piece(x0, y0, x1, y1, sign, row):
    """Add the area right of one piece to the sums of its row."""
    width = len(row.sums) - 1
    height = (y1 - y0) * sign
    right = float(width)
    xl, xr = min(x0, x1), max(x0, x1)
    if xr <= 0.0:
        row.sums[0, 0] += height
    elif xl < right:
        if xl < 0.0 or xr > right:
            slope = 0.5 * height / (0.5 * xr - 0.5 * xl)
            if xl < 0.0:
                row.sums[0, 0] += -xl * slope
                xl = 0.0
            xr = min(xr, right)
            height = (xr - xl) * slope
        column, last = math.floor(xl), min(math.floor(xr), width - 1)
        if column >= last:
            mean = float(column + 1) - 0.5 * (xl + xr)
            add_to_pixel(row, column, height, height * mean)
        else:
            slope = height / (xr - xl)
            span = float(column + 1) - xl
            add_to_pixel(row, column, span * slope, 0.5 * span * span * slope)
            for between in range(column + 1, last):
                add_to_pixel(row, between, slope, 0.5 * slope)
            span = xr - float(last)
            slope *= span
            add_to_pixel(row, last, slope, slope * (1.0 - 0.5 * span))


@inlined
def join_chains(pieces, first, stop, width, chains):
    """Join the pieces of a row to chains; return their number, or -1 for too many."""
    ends, directions = pieces.ends, pieces.directions
    extents, table = chains.extents, chains.table
    right = float(width)
    count = 0
    end = 0.0
    for k in range(first, stop):
        i = u64(k)
        # Clipped, because beside the image the order of pieces does not matter.
        x0 = min(max(ends[i, 0], 0.0), right)
        x1 = min(max(ends[i, 2], 0.0), right)
        low, high = min(x0, x1), max(x0, x1)
        top, bottom, direction = ends[i, 1], ends[i, 3], directions[i]
        chain = u64(max(count - 1, 0))
        if (
            count > 0
            and table[chain, 0] == direction
            and (top if direction > 0 else bottom) == end
        ):
            extents[chain, 0] = min(extents[chain, 0], low)
            extents[chain, 1] = max(extents[chain, 1], high)
            extents[chain, 2] = min(extents[chain, 2], top)
            extents[chain, 3] = max(extents[chain, 3], bottom)
        else:
            if count == MOST_CHAINS:
                return -1
            chain = u64(count)
            count += 1
            extents[chain, 0], extents[chain, 1] = low, high
            extents[chain, 2], extents[chain, 3] = top, bottom
            table[chain, 0] = direction
        table[chain, 1] = k + 1
        end = bottom if direction > 0 else top
    return count


@kernel
def sign_chains(chains, count, nonzero, windings):
    """Find the sign of each chain; return False if the row must be cut into slabs.

    The sign is 1 if the inside is right of the chain, -1 if it is left, and 0 if both
    sides are alike. It must not change along a chain.
    """
    extents, table = chains.extents, chains.table
    if count == 2 and table[0, 0] == -table[1, 0]:
        # Nearly every row is like this: the shortcut saves an eighth of the time.
        left = 0 if extents[0, 1] <= extents[1, 0] else 1
        level = extents[0, 2] == extents[1, 2] and extents[0, 3] == extents[1, 3]
        if level and extents[left, 1] <= extents[1 - left, 0]:
            table[left, 2], table[1 - left, 2] = 1, -1
            return True
    for i in range(count):
        for j in range(i):
            if (
                max(extents[i, 2], extents[j, 2]) < min(extents[i, 3], extents[j, 3])
                and extents[i, 1] > extents[j, 0]
                and extents[j, 1] > extents[i, 0]
            ):
                return False
    for i in range(count):
        y = extents[i, 2]
        while y < extents[i, 3]:
            below = extents[i, 3]
            winding = 0  # of the chain's group, left of it; 1 for its own direction
            others = False  # whether chains of other groups are left of it
            for j in range(count):
                if extents[j, 2] > y:
                    below = min(below, extents[j, 2])
                elif extents[j, 3] > y:
                    below = min(below, extents[j, 3])
                    is_left = extents[j, 1] <= extents[i, 0]
                    # Of two vertical chains at the same x, the first is the left one.
                    if is_left and (j < i or extents[i, 1] > extents[j, 0]):
                        if table[j, 0] == table[i, 0]:
                            winding += 1
                        elif table[j, 0] == -table[i, 0]:
                            winding -= 1
                        else:
                            add_winding(windings, table[j, 0])
                            others = True
            sign = is_inside(winding + 1, nonzero) - is_inside(winding, nonzero)
            if others:
                for j in range(count):
                    group = u64(abs(table[j, 0]))
                    if is_inside(windings[group], nonzero):
                        sign = 0  # another group covers the chain
                    windings[group] = 0
            if y > extents[i, 2] and sign != table[i, 2]:
                return False
            table[i, 2] = sign
            y = below
    return True


@kernel
def list_slab(pieces, first, stop, top, bottom, slab):
    """List the pieces in a slab, sorted by x at its top; return their number."""
    ends, x = pieces.ends, slab.x
    count = 0
    for i in range(first, stop):
        xa, ya, xb, yb = ends[i, 0], ends[i, 1], ends[i, 2], ends[i, 3]
        if ya > top or yb < bottom:
            continue
        x0 = xa if ya == top else x_on(xa, ya, xb, yb, top)
        x1 = xb if yb == bottom else x_on(xa, ya, xb, yb, bottom)
        k = count
        while k > 0 and (x[k - 1, 0] > x0 or (x[k - 1, 0] == x0 and x[k - 1, 1] > x1)):
            x[k, 0], x[k, 1] = x[k - 1, 0], x[k - 1, 1]
            slab.directions[k] = slab.directions[k - 1]
            k -= 1
        x[k, 0], x[k, 1] = x0, x1
        slab.directions[k] = pieces.directions[i]
        count += 1
    return count


@kernel
def add_slabs(pieces, first, stop, nonzero, slab, windings, row):
    """Add the pieces of any row, cut where one ends or two cross.

    Within a slab between vertices, two neighbours are swapped where they cross. Each
    swap brings their order nearer to the order at the bottom, so the loop ends in spite
    of rounding errors.
    """
    heights, x, directions = slab.heights, slab.x, slab.directions
    count = 0
    for i in range(2 * first, 2 * stop):
        height = pieces.ends[i >> 1, 1 + 2 * (i & 1)]
        k = count
        while k > 0 and heights[k - 1] > height:
            heights[k] = heights[k - 1]
            k -= 1
        heights[k] = height
        count += 1
    for h in range(1, count):
        top, bottom = heights[h - 1], heights[h]
        if top == bottom:
            continue
        active = list_slab(pieces, first, stop, top, bottom, slab)
        above = 0.0  # heights within the slab are fractions of it
        while True:
            below, pair = 1.0, -1
            for i in range(active - 1):
                if x[i, 1] > x[i + 1, 1]:
                    gap = max(0.5 * x[i + 1, 0] - 0.5 * x[i, 0], 0.0)
                    lack = 0.5 * x[i, 1] - 0.5 * x[i + 1, 1]
                    crossing = max(gap / (gap + lack), above) if gap > 0.0 else above
                    if pair < 0 or crossing < below:
                        below, pair = crossing, i
            covers = 0  # number of groups that cover the area between two pieces
            y0, y1 = interpolate(top, bottom, above), interpolate(top, bottom, below)
            if y0 < y1:
                for i in range(active):
                    before = covers
                    direction = directions[i]
                    covers -= is_inside(windings[abs(direction)], nonzero)
                    covers += is_inside(add_winding(windings, direction), nonzero)
                    # Rings are closed, so all windings are zero in the end.
                    if (before == 0) != (covers == 0):
                        sign = 1 if before == 0 else -1
                        x0 = interpolate(x[i, 0], x[i, 1], above)
                        x1 = interpolate(x[i, 0], x[i, 1], below)
                        add_piece(x0, y0, x1, y1, sign, row)
            if pair < 0:
                break
            above, k, m = below, pair, pair + 1
            for side in range(2):
                x[k, side], x[m, side] = x[m, side], x[k, side]
            directions[k], directions[m] = directions[m], directions[k]


@inlined
def snap_to_whole(height):
    """Return the height clipped to [0, 1], and exactly 0 or 1 if it is nearly that.

    It is the coverage of pixels that no edge touches, or only horizontal edges.
    """
    height = min(max(height, 0.0), 1.0)
    whole = float(math.floor(height + 0.5))
    return whole if abs(height - whole) < SUMMING_ERROR else height


@inlined
def write_row(row, cells, row_start):
    """Write a row of the mask from its sums, and clear the sums and the bits.

    cells     : float32, the mask as 1-D; the row is all zero before
    row_start : uint64, index of the row's first pixel in cells
    """
    sums, bits = row.sums, row.bits
    width = len(sums) - 1
    inside = sums[0, 0]
    sums[0, 0] = 0.0
    done = 0
    for word in range(len(bits)):
        pending = bits[u64(word)]
        bits[u64(word)] = 0
        while pending:
            column = (word << 6) + trailing_zeros(pending)
            pending &= pending - ONE
            c = u64(column)
            if column > done:
                inside = snap_to_whole(inside)
                value = np.float32(inside)
                if value > 0.0:
                    fill_run(cells, row_start + u64(done), row_start + c, value)
            area = inside + sums[c + ONE, 1]
            cells[row_start + c] = np.float32(min(max(area, 0.0), 1.0))
            inside += sums[c + ONE, 0]
            sums[c + ONE, 0] = sums[c + ONE, 1] = 0.0
            done = column + 1
    value = np.float32(snap_to_whole(inside))
    if value > 0.0:
        fill_run(cells, row_start + u64(done), row_start + u64(width), value)


@entry(
    points="const float64[:, ::1]",
    offsets="const int64[::1]",
    ring_groups="none | const int64[::1]",
    delta="float64",
    nonzero="bool",
    out="float32[:, ::1]",
    scratch=COVER_SCRATCH,
)
def cover_mask(points, offsets, ring_groups, delta, nonzero, out, scratch):
    """Overwrite a mask with the area of each pixel that rings cover.

    points  : float64 (P, 2), (x, y) in pixels
    offsets : int64 (R + 1,), ring k is points[offsets[k]:offsets[k + 1]]
    ring_groups : int64 (R,), number of the group of each ring, from 1; None if all
        rings are one group
    delta   : added to points, so that pixel [0, 0] begins at (0, 0)
    out     : float32 (H, W)
    """
    height, width = out.shape
    cells = flat(out)
    row_starts, pieces = scratch.row_starts, scratch.pieces
    ends, chains, windings = pieces.ends, scratch.chains, scratch.windings
    count_pieces(points, offsets, delta, height, row_starts)
    # np.int64, because numba compiles kernels once more for a literal.
    top = np.int64(0)
    while top < height:
        # The next block consists of the rows whose pieces fit into the array.
        filled, stop = 0, top
        while stop < height and filled + row_starts[stop + 1] <= len(ends):
            piece_count = row_starts[stop + 1]
            row_starts[stop] = filled
            filled += piece_count
            stop += 1
        list_pieces(points, offsets, ring_groups, delta, top, stop, row_starts, pieces)
        fill_run(cells, u64(top * width), u64(stop * width), np.float32(0.0))
        begin = np.int64(0)
        for row in range(top, stop):
            end = row_starts[row]
            if begin == end:
                continue
            count = join_chains(pieces, begin, end, width, chains)
            if count >= 0 and sign_chains(chains, count, nonzero, windings):
                k = 0
                for i in range(begin, end):
                    k += i == chains.table[u64(k), 1]
                    x0, y0 = ends[u64(i), 0], ends[u64(i), 1]
                    x1, y1 = ends[u64(i), 2], ends[u64(i), 3]
                    sign = chains.table[u64(k), 2]
                    add_piece(x0, y0, x1, y1, sign, scratch.row)
            else:
                add_slabs(
                    pieces, begin, end, nonzero, scratch.slab, windings, scratch.row
                )
            write_row(scratch.row, cells, u64(row * width))
            begin = end
        top = stop
