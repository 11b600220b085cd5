"""Distances from pixel centres to line segments, by branch and bound.

A block of pixels starts with the segments that its parent kept, drops those that
cannot be nearest to any of its pixels, and is quartered, until few segments or few
pixels are left; these are compared one with the other. Dropping rests on convexity
(a branch and bound as in a quadtree search; distance transforms of masks, such as
Felzenszwalb and Huttenlocher 2012, know pixels only, not segments):

    Let n be the point of segment i nearest to the centre of the block. All of i lies
    beyond the line through n at right angles to the way there, so the distance to
    that line bounds the distance to i from below, and is linear in the pixel. The
    distance to any segment j is convex. Hence if j is nearer than that line at the
    four corners of the block, it is nearer than i in all of it.

Lengths are kept in two forms. A *unit* length is a pixel length times a power of
two, which rounds nothing; weights (wx, wy) in [1, 2) turn it into a true length. A
centre on a segment has a cross product of zero in units, hence distance zero,
wherever the products of the coordinates are exact.

    segments : float64 (S, 7): x, y of the start and of the way to the end; two
        numbers whose product with the way from the start is the place along the
        segment, 0 at its start and 1 at its end; and what turns a cross product into
        a distance. All but the last three in units, pixel centres at multiples of
        `step`
    kept     : int32 (LEVELS, S), the segments that a block of each level keeps
    counts   : int64 (LEVELS,)
    blocks   : int64 (4 * LEVELS, 4), blocks to be done: top, left, side, level
    ways     : float64 (3, S), from the centre of a block to each segment: x, y, square
    least    : float64 (FIRST_SIDE,), the squared distances of a row of a block
"""

import math

import numpy as np

from fastseg._kernels.jit import inlined, kernel

# Sides of the first blocks and of the last, in pixels. For 256 x 256 pixels and 250
# vertices all this takes 1 to 2.2 ms, comparing everything 45 ms; with last blocks
# of 4 pixels it takes a tenth longer.
FIRST_SIDE, LAST_SIDE = 64, 8
LEVELS = 4  # sides 64, 32, 16, 8
# A block with so few segments is not divided further.
FEW = 6
# Squares below this may have lost bits to underflow.
SMALLEST_SQUARE = 1e-280


@kernel
def prepare_segments(ends, wx, wy, segments):
    """Fill the table of segments from their ends, float64 (S, 4): ax, ay, bx, by."""
    for k in range(len(ends)):
        ax, ay = ends[k, 0], ends[k, 1]
        dx, dy = ends[k, 2] - ax, ends[k, 3] - ay
        square = (wx * dx) ** 2 + (wy * dy) ** 2
        segments[k, 0], segments[k, 1] = ax, ay
        if square > SMALLEST_SQUARE:
            segments[k, 2], segments[k, 3] = dx, dy
            segments[k, 4] = wx * wx * dx / square
            segments[k, 5] = wy * wy * dy / square
            segments[k, 6] = wx * wy / math.sqrt(square)
        else:  # a point
            segments[k, 2:] = 0.0


@inlined
def square_distance(segments, k, x, y, wx, wy):
    """Return the squared distance from (x, y), in units, to segment k."""
    dx, dy = x - segments[k, 0], y - segments[k, 1]
    ex, ey = segments[k, 2], segments[k, 3]
    along = dx * segments[k, 4] + dy * segments[k, 5]
    if 0.0 < along < 1.0:
        across = (dx * ey - dy * ex) * segments[k, 6]
        return across * across
    if along >= 1.0:
        dx -= ex
        dy -= ey
    return (wx * dx) ** 2 + (wy * dy) ** 2


@inlined
def keep_nearest(segments, listed, count, x, y, rx, ry, wx, wy, ways, kept):
    """Keep the segments that may be nearest somewhere in a block; return how many.

    listed : int32, its first `count` are looked at; kept : int32, may not be listed
    x, y   : centre of the block in units; rx, ry : half of its sides
    """
    # The way from the centre to each segment.
    nearest, least = 0, np.inf
    for i in range(count):
        k = listed[i]
        dx, dy = segments[k, 0] - x, segments[k, 1] - y
        along = -(dx * segments[k, 4] + dy * segments[k, 5])
        along = min(max(along, 0.0), 1.0)
        dx = wx * (dx + along * segments[k, 2])
        dy = wy * (dy + along * segments[k, 3])
        square = dx * dx + dy * dy
        ways[0, i], ways[1, i], ways[2, i] = dx, dy, square
        nearest, least = (i, square) if square < least else (nearest, least)
    # How far the nearest one is from each corner.
    k = listed[nearest]
    a = math.sqrt(square_distance(segments, k, x - rx, y - ry, wx, wy))
    b = math.sqrt(square_distance(segments, k, x + rx, y - ry, wx, wy))
    c = math.sqrt(square_distance(segments, k, x - rx, y + ry, wx, wy))
    d = math.sqrt(square_distance(segments, k, x + rx, y + ry, wx, wy))
    tx, ty = wx * rx, wy * ry
    found = 0
    for i in range(count):
        dx, dy, square = tx * ways[0, i], ty * ways[1, i], ways[2, i]
        away = math.sqrt(square)
        # Both sides of each comparison are multiplied by `away`.
        farther = (
            (square > SMALLEST_SQUARE)
            & (square + dx + dy > a * away)
            & (square - dx + dy > b * away)
            & (square + dx - dy > c * away)
            & (square - dx - dy > d * away)
        )
        kept[found] = listed[i]
        found += (not farther) | (i == nearest)
    return found


@kernel
def measure_block(
    segments, listed, count, top, left, side, step_y, columns, wx, wy,
    unit, raised, inside, least, out,
):  # fmt: skip
    """Write the signed distances of one block of pixels."""
    height, width = out.shape
    wide = min(side, width - left)
    for r in range(top, min(top + side, height)):
        y = r * step_y
        for c in range(wide):
            least[c] = np.inf
        for i in range(count):
            k = listed[i]
            ax, ex, ey = segments[k, 0], segments[k, 2], segments[k, 3]
            fx, fy, turn = segments[k, 4], segments[k, 5], segments[k, 6]
            dy = y - segments[k, 1]
            along_y, across_y = dy * fy, dy * ex
            start_y, end_y = (wy * dy) ** 2, (wy * (dy - ey)) ** 2
            # As `square_distance`, but without a branch, so that several pixels go
            # at once: a square takes 0.35 instead of 1.4 ms.
            for c in range(wide):
                dx = columns[left + c] - ax
                along = dx * fx + along_y
                across = (dx * ey - across_y) * turn
                past = along >= 1.0
                reach = wx * (dx - ex if past else dx)
                square = reach * reach + (end_y if past else start_y)
                square = across * across if 0.0 < along < 1.0 else square
                least[c] = square if square < least[c] else least[c]
        for c in range(wide):
            length = math.sqrt(least[c]) * unit * raised
            out[r, left + c] = 0.0 - length if inside[r, left + c] else length


@kernel
def measure_distances(
    segments, columns, step_x, step_y, wx, wy, unit, raised, inside,
    everything, kept, counts, blocks, ways, least, out,
):  # fmt: skip
    """Write the signed distance of every pixel to the nearest of S > 0 segments.

    columns        : float64 (W,), x of the pixels, in units
    step_x, step_y : from pixel to pixel, in units
    wx, wy         : true length of a unit along x and y, in 1 / (unit * raised) mm
    inside         : uint8 (H, W), where the sign is negative
    everything     : int32 (S,), 0 to S - 1
    out            : float32 (H, W)
    """
    height, width = out.shape
    for first_row in range(0, height, FIRST_SIDE):
        for first_column in range(0, width, FIRST_SIDE):
            blocks[0, 0], blocks[0, 1] = first_row, first_column
            blocks[0, 2], blocks[0, 3] = FIRST_SIDE, 0
            waiting = 1
            while waiting:
                waiting -= 1
                top, left = blocks[waiting, 0], blocks[waiting, 1]
                side, level = blocks[waiting, 2], blocks[waiting, 3]
                # Depth first: the list of the parent is there until all four
                # quarters are done.
                listed, count = everything, len(segments)
                if level:
                    listed, count = kept[level - 1], counts[level - 1]
                rx = 0.5 * step_x * (min(side, width - left) - 1)
                ry = 0.5 * step_y * (min(side, height - top) - 1)
                mine = kept[level]
                found = keep_nearest(
                    segments, listed, count, left * step_x + rx, top * step_y + ry,
                    rx, ry, wx, wy, ways, mine,
                )  # fmt: skip
                counts[level] = found
                if found <= FEW or side <= LAST_SIDE:
                    measure_block(
                        segments, mine, found, top, left, side, step_y, columns,
                        wx, wy, unit, raised, inside, least, out,
                    )  # fmt: skip
                    continue
                half = side // 2
                for r in range(top, min(top + side, height), half):
                    for c in range(left, min(left + side, width), half):
                        blocks[waiting, 0], blocks[waiting, 1] = r, c
                        blocks[waiting, 2], blocks[waiting, 3] = half, level + 1
                        waiting += 1
