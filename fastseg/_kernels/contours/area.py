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

All arithmetic is float64. The scratch, for n vertices:

    row_starts      : int64 (H + 2,), index of the first piece of each row
    pieces          : float64 (m, 4), (x, y) of the upper and the lower end, m >= n; if
                      m is too small for all pieces, rows are done in several blocks
    directions      : int64 (m,), the number of the ring's group, from 1; negative if
                      the ring runs up the piece
    extents         : float64 (MOST_CHAINS, 4), least and greatest x, then y, of a chain
    chains          : int64 (MOST_CHAINS, 3), direction, last piece + 1, sign of a chain
    heights         : float64 (2 n,), heights of the vertices of a row
    slab_x          : float64 (n, 2), x at the top and bottom of a slab of each piece in
                      it, from left to right
    slab_directions : int64 (n,), directions of these pieces
    windings        : int64 (number of rings + 1,), zero between calls: winding number
                      of each group
    sums            : float64 (W + 1, 2), zero between calls: height and area of the
                      pieces in each column, after those of the pieces left of the image
    bits            : uint64 (W // 64 + 1,), zero between calls: columns with pieces
"""

import math

import numpy as np

from fastseg._kernels.contours.runs import fill_run
from fastseg._kernels.jit import entry, inlined, kernel, trailing_zeros, zeros

# With more chains in a row, `sign_chains` takes as long as slabs.
MOST_CHAINS = 12
# In row heights: more than the rounding errors of a sum of some thousand pieces, each
# of 2**-53.
SUMMING_ERROR = 2.0**-40

u64 = np.uint64
ONE = np.uint64(1)


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
def count_pieces(points, offsets, first, last, delta, height, row_starts):
    """Write to row_starts[r + 1] how many edges pass through row r."""
    row_starts[:] = 0
    for ring in range(first, last):
        y0 = points[offsets[ring + 1] - 1, 1] + delta
        for k in range(offsets[ring], offsets[ring + 1]):
            y1 = points[u64(k), 1] + delta
            top, end = max(min(y0, y1), 0.0), min(max(y0, y1), height)
            if top < end:
                row_starts[u64(math.floor(top)) + ONE] += 1
                row_starts[u64(math.ceil(end)) + ONE] -= 1
            y0 = y1
    total = 0
    for r in range(1, height + 1):
        total += row_starts[r]
        row_starts[r] = total


@kernel
def list_pieces(
    points, offsets, ring_groups, first, last, delta, top, stop,
    row_starts, pieces, directions,
):  # fmt: skip
    """Cut the edges at the borders of rows [top, stop) and list the pieces by row.

    Each row_starts[r] becomes the index after the row's last piece.
    """
    low, high = float(top), float(stop)
    for ring in range(first, last):
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
                pieces[index, 0], pieces[index, 1] = x, y
                if float(r + 1) < yb:
                    y = float(r + 1)
                    x = x_on(xa, ya, xb, yb, y)
                else:
                    x, y = xb, yb
                pieces[index, 2], pieces[index, 3] = x, y


@inlined
def add_to_pixel(sums, bits, column, height, area):
    """Add to the sums of one column, and set its bit."""
    c = u64(column)
    bits[c >> u64(6)] |= ONE << (c & u64(63))
    sums[c + ONE, 0] += height
    sums[c + ONE, 1] += area


@inlined
def add_piece(x0, y0, x1, y1, sign, width, sums, bits):
    """Add the area right of one piece to the sums of its row."""
    height = (y1 - y0) * sign
    right = float(width)
    xl, xr = min(x0, x1), max(x0, x1)
    if xr <= 0.0:
        sums[0, 0] += height
    elif xl < right:
        if xl < 0.0 or xr > right:
            slope = 0.5 * height / (0.5 * xr - 0.5 * xl)
            if xl < 0.0:
                sums[0, 0] += -xl * slope
                xl = 0.0
            xr = min(xr, right)
            height = (xr - xl) * slope
        column, last = math.floor(xl), min(math.floor(xr), width - 1)
        if column >= last:
            mean = float(column + 1) - 0.5 * (xl + xr)
            add_to_pixel(sums, bits, column, height, height * mean)
        else:
            slope = height / (xr - xl)
            span = float(column + 1) - xl
            add_to_pixel(sums, bits, column, span * slope, 0.5 * span * span * slope)
            for between in range(column + 1, last):
                add_to_pixel(sums, bits, between, slope, 0.5 * slope)
            span = xr - float(last)
            slope *= span
            add_to_pixel(sums, bits, last, slope, slope * (1.0 - 0.5 * span))


@inlined
def join_chains(pieces, directions, first, stop, width, extents, chains):
    """Join the pieces of a row to chains; return their number, or -1 for too many."""
    right = float(width)
    count = 0
    end = 0.0
    for k in range(first, stop):
        i = u64(k)
        # Clipped, because beside the image the order of pieces does not matter.
        x0 = min(max(pieces[i, 0], 0.0), right)
        x1 = min(max(pieces[i, 2], 0.0), right)
        low, high = min(x0, x1), max(x0, x1)
        top, bottom, direction = pieces[i, 1], pieces[i, 3], directions[i]
        chain = u64(max(count - 1, 0))
        if (
            count > 0
            and chains[chain, 0] == direction
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
            chains[chain, 0] = direction
        chains[chain, 1] = k + 1
        end = bottom if direction > 0 else top
    return count


@kernel
def sign_chains(extents, chains, count, nonzero, windings):
    """Find the sign of each chain; return False if the row must be cut into slabs.

    The sign is 1 if the inside is right of the chain, -1 if it is left, and 0 if both
    sides are alike. It must not change along a chain.
    """
    if count == 2 and chains[0, 0] == -chains[1, 0]:
        # Nearly every row is like this: the shortcut saves an eighth of the time.
        left = 0 if extents[0, 1] <= extents[1, 0] else 1
        level = extents[0, 2] == extents[1, 2] and extents[0, 3] == extents[1, 3]
        if level and extents[left, 1] <= extents[1 - left, 0]:
            chains[left, 2], chains[1 - left, 2] = 1, -1
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
                        if chains[j, 0] == chains[i, 0]:
                            winding += 1
                        elif chains[j, 0] == -chains[i, 0]:
                            winding -= 1
                        else:
                            add_winding(windings, chains[j, 0])
                            others = True
            sign = is_inside(winding + 1, nonzero) - is_inside(winding, nonzero)
            if others:
                for j in range(count):
                    group = u64(abs(chains[j, 0]))
                    if is_inside(windings[group], nonzero):
                        sign = 0  # another group covers the chain
                    windings[group] = 0
            if y > extents[i, 2] and sign != chains[i, 2]:
                return False
            chains[i, 2] = sign
            y = below
    return True


@kernel
def list_slab(pieces, directions, first, stop, top, bottom, slab_x, slab_directions):
    """List the pieces in a slab, sorted by x at its top; return their number."""
    count = 0
    for i in range(first, stop):
        xa, ya, xb, yb = pieces[i, 0], pieces[i, 1], pieces[i, 2], pieces[i, 3]
        if ya > top or yb < bottom:
            continue
        x0 = xa if ya == top else x_on(xa, ya, xb, yb, top)
        x1 = xb if yb == bottom else x_on(xa, ya, xb, yb, bottom)
        k = count
        while k > 0 and (slab_x[k - 1, 0], slab_x[k - 1, 1]) > (x0, x1):
            slab_x[k, 0], slab_x[k, 1] = slab_x[k - 1, 0], slab_x[k - 1, 1]
            slab_directions[k] = slab_directions[k - 1]
            k -= 1
        slab_x[k, 0], slab_x[k, 1], slab_directions[k] = x0, x1, directions[i]
        count += 1
    return count


@kernel
def add_slabs(
    pieces, directions, first, stop, nonzero, width,
    heights, slab_x, slab_directions, windings, sums, bits,
):  # fmt: skip
    """Add the pieces of any row, cut where one ends or two cross.

    Within a slab between vertices, two neighbours are swapped where they cross. Each
    swap brings their order nearer to the order at the bottom, so the loop ends in spite
    of rounding errors.
    """
    count = 0
    for i in range(first, stop):
        for end in (1, 3):
            height = pieces[i, end]
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
        active = list_slab(
            pieces, directions, first, stop, top, bottom, slab_x, slab_directions
        )
        above = 0.0  # heights within the slab are fractions of it
        while True:
            below, pair = 1.0, -1
            for i in range(active - 1):
                if slab_x[i, 1] > slab_x[i + 1, 1]:
                    gap = max(0.5 * slab_x[i + 1, 0] - 0.5 * slab_x[i, 0], 0.0)
                    lack = 0.5 * slab_x[i, 1] - 0.5 * slab_x[i + 1, 1]
                    crossing = max(gap / (gap + lack), above) if gap > 0.0 else above
                    if pair < 0 or crossing < below:
                        below, pair = crossing, i
            covers = 0  # number of groups that cover the area between two pieces
            y0, y1 = interpolate(top, bottom, above), interpolate(top, bottom, below)
            if y0 < y1:
                for i in range(active):
                    before = covers
                    direction = slab_directions[i]
                    covers -= is_inside(windings[abs(direction)], nonzero)
                    covers += is_inside(add_winding(windings, direction), nonzero)
                    # Rings are closed, so all windings are zero in the end.
                    if (before == 0) != (covers == 0):
                        sign = 1 if before == 0 else -1
                        x0 = interpolate(slab_x[i, 0], slab_x[i, 1], above)
                        x1 = interpolate(slab_x[i, 0], slab_x[i, 1], below)
                        add_piece(x0, y0, x1, y1, sign, width, sums, bits)
            if pair < 0:
                break
            above, k, m = below, pair, pair + 1
            for side in range(2):
                slab_x[k, side], slab_x[m, side] = slab_x[m, side], slab_x[k, side]
            slab_directions[k], slab_directions[m] = (
                slab_directions[m],
                slab_directions[k],
            )


@inlined
def snap_to_whole(height):
    """Return the height clipped to [0, 1], and exactly 0 or 1 if it is nearly that.

    It is the coverage of pixels that no edge touches, or only horizontal edges.
    """
    height = min(max(height, 0.0), 1.0)
    whole = float(math.floor(height + 0.5))
    return whole if abs(height - whole) < SUMMING_ERROR else height


@inlined
def write_row(sums, bits, cells, row_start, width):
    """Write a row of the mask from its sums, and clear the sums and the bits.

    cells     : float32, the mask as 1-D; the row is all zero before
    row_start : uint64, index of the row's first pixel in cells
    """
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
    first="int64",
    last="int64",
    delta="float64",
    nonzero="bool",
    cells="float32[::1]",
    height="int64",
    width="int64",
    row_starts="int64[::1]",
    pieces="float64[:, ::1]",
    directions="int64[::1]",
    extents="float64[:, ::1]",
    chains="int64[:, ::1]",
    heights="float64[::1]",
    slab_x="float64[:, ::1]",
    slab_directions="int64[::1]",
    sums="float64[:, ::1]",
    bits="uint64[::1]",
)
def cover_mask(
    points, offsets, ring_groups, first, last, delta, nonzero, cells, height, width,
    row_starts, pieces, directions, extents, chains,
    heights, slab_x, slab_directions, sums, bits,
):  # fmt: skip
    """Overwrite one mask with the area of each pixel that rings [first, last) cover.

    points  : float64 (P, 2), (x, y) in pixels
    offsets : int64, ring k is points[offsets[k]:offsets[k + 1]]
    ring_groups : int64, number of the group of each ring, from 1; None if all rings are
        one group
    delta   : added to points, so that pixel [0, 0] begins at (0, 0)
    cells   : float32 (H * W,), rows one after another
    row_starts to bits : the scratch, see the module
    """
    windings = zeros(last - first + 1, np.int64)
    count_pieces(points, offsets, first, last, delta, height, row_starts)
    top = 0
    while top < height:
        # The next block consists of the rows whose pieces fit into the array.
        filled, stop = 0, top
        while stop < height and filled + row_starts[stop + 1] <= len(pieces):
            piece_count = row_starts[stop + 1]
            row_starts[stop] = filled
            filled += piece_count
            stop += 1
        list_pieces(
            points, offsets, ring_groups, first, last, delta, top, stop,
            row_starts, pieces, directions,
        )  # fmt: skip
        cells[top * width : stop * width] = 0.0
        begin = 0
        for row in range(top, stop):
            row_start, end = u64(row * width), row_starts[row]
            if begin == end:
                continue
            count = join_chains(pieces, directions, begin, end, width, extents, chains)
            if count >= 0 and sign_chains(extents, chains, count, nonzero, windings):
                k = 0
                for i in range(begin, end):
                    k += i == chains[u64(k), 1]
                    x0, y0 = pieces[u64(i), 0], pieces[u64(i), 1]
                    x1, y1 = pieces[u64(i), 2], pieces[u64(i), 3]
                    sign = chains[u64(k), 2]
                    add_piece(x0, y0, x1, y1, sign, width, sums, bits)
            else:
                add_slabs(
                    pieces, directions, begin, end, nonzero, width,
                    heights, slab_x, slab_directions, windings, sums, bits,
                )  # fmt: skip
            write_row(sums, bits, cells, row_start, width)
            begin = end
        top = stop
