"""Area of every pixel inside polygons: analytic, accumulated edge by edge.

Here pixel [r, c] is the square [c, c + 1] x [r, r + 1]; adding `half`, 0.5 or 0, to
coordinates takes them there. Edges are cut at the borders of the rows into pieces. A
piece at which inside and outside change adds the signed area to its right: to the
pixels that it passes through the part of them that lies there, to all further right
its height; the sum from left to right gives the row. So font rasterizers draw
(FreeType's "smooth" one by David Turner, after libart by Raph Levien), who however take
the winding number for the coverage: wrong where rings cross or overlap.

Which pieces change inside to outside is found row by row. Consecutive pieces that go
the same way form a chain, which cannot cross itself. Where no two chains of a row
that share a height share a column, they keep their order at all heights
(`sign_chains`): that is nearly every row of a drawn contour. Any other row is cut
into slabs at the heights of vertices and crossings (`add_slabs`).

All arithmetic is float64. The scratch, for n vertices:

    places  : int64 (H + 2,), where the pieces of each row begin
    pieces  : float64 (m, 4), (x, y) of the upper and the lower end; m >= n. Rows are
              taken in as many blocks as it takes for m to suffice
    ways    : int64 (m,), 1 for a piece that its ring runs down, -1 for up
    chains, turns : float64 (MOST_CHAINS, 4), least and greatest x, then y; int64
              (MOST_CHAINS, 3), way, last + 1 piece, sign
    heights, ends, order : float64 (2 n,), float64 (n, 2), int64 (n,): heights of the
              vertices; x at top and bottom of what crosses a slab; the ways of these
    sums    : float64 (W + 1, 2), zero between calls: height and area of the pieces in
              each column, after those left of the image
    bits    : uint64 (W // 64 + 1,), zero between calls: columns with pieces
"""

import math

import numpy as np

from fastseg._kernels.contours.runs import fill_run
from fastseg._kernels.jit import inlined, kernel, trailing_zeros

# More than this in one row, and signing chains costs what slabs do.
MOST_CHAINS = 12
# In rows: more than the rounding of a sum of some thousand pieces, of 2**-53 each.
SUMMING_ERROR = 2.0**-40

u64 = np.uint64
ONE = np.uint64(1)


@inlined
def x_on(xa, ya, xb, yb, y):
    """Return x at height y, reckoned from the nearer end; ya < y < yb."""
    if xa == xb:
        return xa
    # Of halves, since a difference may overflow.
    slope = (0.5 * xb - 0.5 * xa) / (0.5 * yb - 0.5 * ya)
    x = xa + (y - ya) * slope if y - ya < yb - y else xb - (yb - y) * slope
    return min(max(x, min(xa, xb)), max(xa, xb))


@inlined
def part_way(xa, xb, t):
    """Return the number a share t of the way from xa to xb."""
    return min(max(xa * (1.0 - t) + xb * t, min(xa, xb)), max(xa, xb))


@inlined
def is_inside(winding, nonzero):
    """Return 1 if the fill rule calls this winding number inside, else 0."""
    return (1 if winding != 0 else 0) if nonzero else winding & 1


@kernel
def count_pieces(points, offsets, first, last, half, height, places):
    """Leave in places[r + 1] how many edges pass through row r."""
    places[:] = 0
    for ring in range(first, last):
        y0 = points[offsets[ring + 1] - 1, 1] + half
        for k in range(offsets[ring], offsets[ring + 1]):
            y1 = points[u64(k), 1] + half
            top, end = max(min(y0, y1), 0.0), min(max(y0, y1), height)
            if top < end:
                places[u64(math.floor(top)) + ONE] += 1
                places[u64(math.ceil(end)) + ONE] -= 1
            y0 = y1
    total = 0
    for r in range(1, height + 1):
        total += places[r]
        places[r] = total


@kernel
def list_pieces(points, offsets, first, last, half, top, stop, places, pieces, ways):
    """Cut the edges at the borders of rows [top, stop) and list them by row."""
    low, high = float(top), float(stop)
    for ring in range(first, last):
        x0 = points[offsets[ring + 1] - 1, 0] + half
        y0 = points[offsets[ring + 1] - 1, 1] + half
        for k in range(offsets[ring], offsets[ring + 1]):
            x1, y1 = points[u64(k), 0] + half, points[u64(k), 1] + half
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
                slot = u64(places[u64(r)])
                places[u64(r)] += 1
                ways[slot] = 1 if down else -1
                pieces[slot, 0], pieces[slot, 1] = x, y
                if float(r + 1) < yb:
                    y = float(r + 1)
                    x = x_on(xa, ya, xb, yb, y)
                else:
                    x, y = xb, yb
                pieces[slot, 2], pieces[slot, 3] = x, y


@inlined
def add_to_pixel(sums, bits, column, height, area):
    """Add to the sums of one column, and note that it has any."""
    c = u64(column)
    bits[c >> u64(6)] |= ONE << (c & u64(63))
    sums[c + ONE, 0] += height
    sums[c + ONE, 1] += area


@inlined
def add_piece(x0, y0, x1, y1, sign, width, sums, bits):
    """Add the area right of one piece, within one row, to its sums."""
    drop = (y1 - y0) * sign
    right = float(width)
    xl, xr = min(x0, x1), max(x0, x1)
    if xr <= 0.0:
        sums[0, 0] += drop
    elif xl < right:
        if xl < 0.0 or xr > right:
            rate = 0.5 * drop / (0.5 * xr - 0.5 * xl)
            if xl < 0.0:
                sums[0, 0] += -xl * rate
                xl = 0.0
            xr = min(xr, right)
            drop = (xr - xl) * rate
        column, last = math.floor(xl), min(math.floor(xr), width - 1)
        if column >= last:
            mean = float(column + 1) - 0.5 * (xl + xr)
            add_to_pixel(sums, bits, column, drop, drop * mean)
        else:
            rate = drop / (xr - xl)
            part = float(column + 1) - xl
            add_to_pixel(sums, bits, column, part * rate, 0.5 * part * part * rate)
            for between in range(column + 1, last):
                add_to_pixel(sums, bits, between, rate, 0.5 * rate)
            part = xr - float(last)
            rate *= part
            add_to_pixel(sums, bits, last, rate, rate * (1.0 - 0.5 * part))


@inlined
def join_chains(pieces, ways, first, stop, width, chains, turns):
    """Join the pieces of a row to chains; return their number, or -1 for too many."""
    right = float(width)
    count = 0
    end = 0.0
    for k in range(first, stop):
        i = u64(k)
        # What lies beside the image may lie there in any order.
        x0 = min(max(pieces[i, 0], 0.0), right)
        x1 = min(max(pieces[i, 2], 0.0), right)
        low, high = min(x0, x1), max(x0, x1)
        top, bottom, way = pieces[i, 1], pieces[i, 3], ways[i]
        at = u64(max(count - 1, 0))
        if count > 0 and turns[at, 0] == way and (top if way > 0 else bottom) == end:
            chains[at, 0] = min(chains[at, 0], low)
            chains[at, 1] = max(chains[at, 1], high)
            chains[at, 2] = min(chains[at, 2], top)
            chains[at, 3] = max(chains[at, 3], bottom)
        else:
            if count == MOST_CHAINS:
                return -1
            at = u64(count)
            count += 1
            chains[at, 0], chains[at, 1] = low, high
            chains[at, 2], chains[at, 3] = top, bottom
            turns[at, 0] = way
        turns[at, 1] = k + 1
        end = bottom if way > 0 else top
    return count


@kernel
def sign_chains(chains, turns, count, nonzero):
    """Find the sign with which each chain changes inside; return if it has one.

    The sign is 1 where a chain has the inside to its right, -1 where to its left, 0
    where it changes nothing; it must be the same along the chain.
    """
    if count == 2 and turns[0, 0] == -turns[1, 0]:
        # Nearly always so: spares an eighth of the time of a mask.
        left = 0 if chains[0, 1] <= chains[1, 0] else 1
        level = chains[0, 2] == chains[1, 2] and chains[0, 3] == chains[1, 3]
        if level and chains[left, 1] <= chains[1 - left, 0]:
            turns[left, 2], turns[1 - left, 2] = 1, -1
            return True
    for i in range(count):
        for j in range(i):
            if (
                max(chains[i, 2], chains[j, 2]) < min(chains[i, 3], chains[j, 3])
                and chains[i, 1] > chains[j, 0]
                and chains[j, 1] > chains[i, 0]
            ):
                return False
    for i in range(count):
        y = chains[i, 2]
        while y < chains[i, 3]:
            below = chains[i, 3]
            winding = 0
            for j in range(count):
                if chains[j, 2] > y:
                    below = min(below, chains[j, 2])
                elif chains[j, 3] > y:
                    below = min(below, chains[j, 3])
                    left = chains[j, 1] <= chains[i, 0]
                    # Two vertical chains in one place: the first is the left one.
                    if left and (j < i or chains[i, 1] > chains[j, 0]):
                        winding += turns[j, 0]
            sign = is_inside(winding + turns[i, 0], nonzero)
            sign -= is_inside(winding, nonzero)
            if y > chains[i, 2] and sign != turns[i, 2]:
                return False
            turns[i, 2] = sign
            y = below
    return True


@kernel
def enter_slab(pieces, ways, first, stop, top, bottom, ends, order):
    """Order the pieces that cross a slab by x at its top; return their number."""
    count = 0
    for i in range(first, stop):
        xa, ya, xb, yb = pieces[i, 0], pieces[i, 1], pieces[i, 2], pieces[i, 3]
        if ya > top or yb < bottom:
            continue
        x0 = xa if ya == top else x_on(xa, ya, xb, yb, top)
        x1 = xb if yb == bottom else x_on(xa, ya, xb, yb, bottom)
        k = count
        while k > 0 and (ends[k - 1, 0], ends[k - 1, 1]) > (x0, x1):
            ends[k, 0], ends[k, 1] = ends[k - 1, 0], ends[k - 1, 1]
            order[k] = order[k - 1]
            k -= 1
        ends[k, 0], ends[k, 1], order[k] = x0, x1, ways[i]
        count += 1
    return count


@kernel
def add_slabs(
    pieces, ways, first, stop, nonzero, width, heights, ends, order, sums, bits
):
    """Add the pieces of any row, cut where one ends or two cross.

    Down a slab between vertices, neighbours that end in the other order change places
    where they cross. Each exchange brings the order nearer to that at the bottom, so
    rounding cannot keep this from ending.
    """
    count = 0
    for i in range(first, stop):
        heights[count], heights[count + 1] = pieces[i, 1], pieces[i, 3]
        count += 2
    heights[:count].sort()
    for h in range(1, count):
        top, bottom = heights[h - 1], heights[h]
        if top == bottom:
            continue
        active = enter_slab(pieces, ways, first, stop, top, bottom, ends, order)
        above = 0.0  # as a share of the slab, like what follows
        while True:
            below, pair = 1.0, -1
            for i in range(active - 1):
                if ends[i, 1] > ends[i + 1, 1]:
                    gap = max(0.5 * ends[i + 1, 0] - 0.5 * ends[i, 0], 0.0)
                    lack = 0.5 * ends[i, 1] - 0.5 * ends[i + 1, 1]
                    crossing = max(gap / (gap + lack), above) if gap > 0.0 else above
                    if pair < 0 or crossing < below:
                        below, pair = crossing, i
            winding = 0
            y0, y1 = part_way(top, bottom, above), part_way(top, bottom, below)
            if y0 < y1:
                for i in range(active):
                    sign = -is_inside(winding, nonzero)
                    winding += order[i]
                    sign += is_inside(winding, nonzero)
                    if sign != 0:
                        x0 = part_way(ends[i, 0], ends[i, 1], above)
                        x1 = part_way(ends[i, 0], ends[i, 1], below)
                        add_piece(x0, y0, x1, y1, sign, width, sums, bits)
            if pair < 0:
                break
            above, k, m = below, pair, pair + 1
            for side in range(2):
                ends[k, side], ends[m, side] = ends[m, side], ends[k, side]
            order[k], order[m] = order[m], order[k]


@inlined
def without_error(height):
    """Return the height that is inside right of a piece, exactly 0 or 1 if nearly so.

    A pixel that only level edges touch, or none, is covered to this height.
    """
    height = min(max(height, 0.0), 1.0)
    whole = float(math.floor(height + 0.5))
    return whole if abs(height - whole) < SUMMING_ERROR else height


@inlined
def write_row(sums, bits, cells, line, width):
    """Write a row that is zero from its sums, which are cleared.

    cells : float32, the mask as 1-D; line : uint64, the row's place
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
                inside = without_error(inside)
                value = np.float32(inside)
                if value > 0.0:
                    fill_run(cells, line + u64(done), line + c, value)
            area = inside + sums[c + ONE, 1]
            cells[line + c] = np.float32(min(max(area, 0.0), 1.0))
            inside += sums[c + ONE, 0]
            sums[c + ONE, 0] = sums[c + ONE, 1] = 0.0
            done = column + 1
    value = np.float32(without_error(inside))
    if value > 0.0:
        fill_run(cells, line + u64(done), line + u64(width), value)


@kernel
def cover_mask(
    points, offsets, first, last, half, nonzero, cells, height, width,
    places, pieces, ways, chains, turns, heights, ends, order, sums, bits,
):  # fmt: skip
    """Overwrite one mask with the area of each pixel that rings [first, last) cover.

    points  : float64 (P, 2), (x, y) in pixels
    offsets : int64, ring k is points[offsets[k]:offsets[k + 1]]
    half    : what is added to points so that pixel [0, 0] begins at (0, 0)
    cells   : float32 (H * W,), rows one after another
    """
    count_pieces(points, offsets, first, last, half, height, places)
    top = 0
    while top < height:
        # As many rows as there is room for the pieces of.
        filled, stop = 0, top
        while stop < height and filled + places[stop + 1] <= len(pieces):
            here = places[stop + 1]
            places[stop] = filled
            filled += here
            stop += 1
        list_pieces(points, offsets, first, last, half, top, stop, places, pieces, ways)
        cells[top * width : stop * width] = 0.0
        begin = 0
        for row in range(top, stop):
            line, end = u64(row * width), places[row]
            if begin == end:
                continue
            count = join_chains(pieces, ways, begin, end, width, chains, turns)
            if count >= 0 and sign_chains(chains, turns, count, nonzero):
                k = 0
                for i in range(begin, end):
                    k += i == turns[u64(k), 1]
                    x0, y0 = pieces[u64(i), 0], pieces[u64(i), 1]
                    x1, y1 = pieces[u64(i), 2], pieces[u64(i), 3]
                    sign = turns[u64(k), 2]
                    add_piece(x0, y0, x1, y1, sign, width, sums, bits)
            else:
                add_slabs(
                    pieces, ways, begin, end, nonzero, width,
                    heights, ends, order, sums, bits,
                )  # fmt: skip
            write_row(sums, bits, cells, line, width)
            begin = end
        top = stop
