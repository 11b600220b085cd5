"""Distances from pixel centres to line segments, by branch and bound.

A block of pixels starts with the list of segments of its parent block, and drops those
that cannot be nearest to any of its pixels. Then it is divided into quarters, until few
segments or few pixels are left: here every pixel is compared with every segment. (This
is a branch and bound as in a quadtree search; distance transforms of masks, such as
Felzenszwalb and Huttenlocher 2012, know pixels only, not segments.) Convexity says
which segments can be dropped:

    Let n be the point of segment i nearest to the centre c of the block. All of i lies
    beyond the line through n that is perpendicular to n - c, so the distance to this
    line is a lower bound of the distance to i. It is linear in the pixel. The distance
    to any segment j is convex. Hence if j is nearer than the line at the four corners
    of the block, j is nearer than i in all of it.

Lengths have two scales. A length in *units* is a length in pixels times a power of two,
which rounds nothing; weights (wx, wy) in [1, 2) turn it into a true length. A centre on
a segment has a cross product of zero in units, hence distance zero, wherever the
products of the coordinates are exact.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg._kernels.jit import entry, inlined, kernel

# Sides of the largest and of the smallest blocks, in pixels. For 256 x 256 pixels and
# 250 vertices all distances take 1 to 2.2 ms; without blocks they take 45 ms, and with
# smallest blocks of 4 pixels a tenth longer.
FIRST_SIDE, LAST_SIDE = 64, 8
LEVELS = 4  # sides 64, 32, 16, 8
# A block with this number of segments or fewer is not divided.
FEW = 6
# A square below this may have lost bits to underflow.
SMALLEST_SQUARE = 1e-280


class Grid(NamedTuple):
    """The pixels of an image.

    columns        : float64 (W,), x of the pixels, in units
    step_x, step_y : distance between pixels, in units
    wx, wy         : weights; a unit along x is wx * unit * raised mm long
    """

    columns: NDArray[np.float64]
    step_x: float
    step_y: float
    wx: float
    wy: float
    unit: float
    raised: float


class DistanceScratch(NamedTuple):
    """Arrays that `measure_distances` uses; `make_distance_scratch` makes them.

    segments     : float64 (S, 7): x, y of the start; x, y of the vector to the end; two
                   factors, whose dot product with the vector from the start to a point
                   is the fraction along the segment, 0 at its start and 1 at its end;
                   and the factor from a cross product to a distance. The first four are
                   in units, with pixel centres at multiples of the steps
    all_segments : int32 (S,), 0 to S - 1
    candidates   : int32 (LEVELS, S), the list of segments of the block of each level
    counts       : int64 (LEVELS,), the lengths of these lists
    blocks       : int64 (4 * LEVELS, 4), blocks still to do: top, left, side, level
    vectors      : float64 (3, S), from the centre of a block to the nearest point of
                   each segment: x, y, squared length
    least        : float64 (FIRST_SIDE,), squared distances of a row of a block
    """

    segments: NDArray[np.float64]
    all_segments: NDArray[np.int32]
    candidates: NDArray[np.int32]
    counts: NDArray[np.int64]
    blocks: NDArray[np.int64]
    vectors: NDArray[np.float64]
    least: NDArray[np.float64]


GRID = (Grid, "const float64[::1]", *["float64"] * 6)
DISTANCE_SCRATCH = (
    DistanceScratch,
    "float64[:, ::1]",
    "int32[::1]",
    "int32[:, ::1]",
    "int64[::1]",
    "int64[:, ::1]",
    "float64[:, ::1]",
    "float64[::1]",
)


def make_distance_scratch(count: int) -> DistanceScratch:
    """Return the scratch for so many segments."""
    return DistanceScratch(
        np.empty((count, 7)),
        np.arange(count, dtype=np.int32),
        np.empty((LEVELS, count), np.int32),
        np.empty(LEVELS, np.int64),
        np.empty((4 * LEVELS, 4), np.int64),
        np.empty((3, count)),
        np.empty(FIRST_SIDE),
    )


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
            for i in range(2, 7):
                segments[k, i] = 0.0


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
def list_nearest(segments, parent_list, count, x, y, rx, ry, grid, vectors, block_list):
    """List the segments that may be nearest somewhere in a block; return their number.

    parent_list : int32, the segments of the parent block, `count` of them
    block_list  : int32, written; must be another array
    x, y        : centre of the block, in units
    rx, ry      : half of its sides, in units
    """
    wx, wy = grid.wx, grid.wy
    # The vector from the centre to each segment.
    nearest = 0
    least = np.inf
    for i in range(count):
        k = parent_list[i]
        dx, dy = segments[k, 0] - x, segments[k, 1] - y
        along = -(dx * segments[k, 4] + dy * segments[k, 5])
        along = min(max(along, 0.0), 1.0)
        dx = wx * (dx + along * segments[k, 2])
        dy = wy * (dy + along * segments[k, 3])
        square = dx * dx + dy * dy
        vectors[0, i], vectors[1, i], vectors[2, i] = dx, dy, square
        nearest, least = (i, square) if square < least else (nearest, least)
    # The distance of the nearest one from each corner.
    k = parent_list[nearest]
    a = math.sqrt(square_distance(segments, k, x - rx, y - ry, wx, wy))
    b = math.sqrt(square_distance(segments, k, x + rx, y - ry, wx, wy))
    c = math.sqrt(square_distance(segments, k, x - rx, y + ry, wx, wy))
    d = math.sqrt(square_distance(segments, k, x + rx, y + ry, wx, wy))
    tx, ty = wx * rx, wy * ry
    list_size = 0
    for i in range(count):
        dx, dy, square = tx * vectors[0, i], ty * vectors[1, i], vectors[2, i]
        length = math.sqrt(square)
        # Both sides of each comparison are multiplied by `length`.
        farther = (
            (square > SMALLEST_SQUARE)
            & (square + dx + dy > a * length)
            & (square - dx + dy > b * length)
            & (square + dx - dy > c * length)
            & (square - dx - dy > d * length)
        )
        block_list[list_size] = parent_list[i]
        list_size += (not farther) | (i == nearest)
    return list_size


@kernel
def measure_block(
    segments, block_list, count, top, left, side, grid, inside, least, out
):
    """Write the signed distances of one block of pixels."""
    columns, wx, wy = grid.columns, grid.wx, grid.wy
    height, width = out.shape
    block_width = min(side, width - left)
    for r in range(top, min(top + side, height)):
        y = r * grid.step_y
        for c in range(block_width):
            least[c] = np.inf
        for i in range(count):
            k = block_list[i]
            ax, ex, ey = segments[k, 0], segments[k, 2], segments[k, 3]
            fx, fy, cross_factor = segments[k, 4], segments[k, 5], segments[k, 6]
            dy = y - segments[k, 1]
            along_y, across_y = dy * fy, dy * ex
            start_y, end_y = (wy * dy) ** 2, (wy * (dy - ey)) ** 2
            # The same as `square_distance`, but without a branch, so that vector
            # instructions can be used: 0.35 ms for a square contour instead of 1.4 ms.
            for c in range(block_width):
                dx = columns[left + c] - ax
                along = dx * fx + along_y
                across = (dx * ey - across_y) * cross_factor
                is_beyond = along >= 1.0
                to_end = wx * (dx - ex if is_beyond else dx)
                square = to_end * to_end + (end_y if is_beyond else start_y)
                square = across * across if 0.0 < along < 1.0 else square
                least[c] = square if square < least[c] else least[c]
        for c in range(block_width):
            length = math.sqrt(least[c]) * grid.unit * grid.raised
            out[r, left + c] = 0.0 - length if inside[r, left + c] else length


@entry(
    ends="const float64[:, ::1]",
    grid=GRID,
    inside="const uint8[:, ::1]",
    scratch=DISTANCE_SCRATCH,
    out="float32[:, ::1]",
)
def measure_distances(ends, grid, inside, scratch, out):
    """Write the signed distance of every pixel to the nearest of S > 0 segments.

    ends   : float64 (S, 4), of each segment ax, ay, bx, by, in units
    inside : uint8 (H, W), 1 where the distance is negative
    out    : float32 (H, W)
    """
    segments, blocks, counts = scratch.segments, scratch.blocks, scratch.counts
    prepare_segments(ends, grid.wx, grid.wy, segments)
    height, width = out.shape
    for first_row in range(0, height, FIRST_SIDE):
        for first_column in range(0, width, FIRST_SIDE):
            blocks[0, 0], blocks[0, 1] = first_row, first_column
            blocks[0, 2], blocks[0, 3] = FIRST_SIDE, 0
            block_count = 1
            while block_count:
                block_count -= 1
                top, left = blocks[block_count, 0], blocks[block_count, 1]
                side, level = blocks[block_count, 2], blocks[block_count, 3]
                # Depth first, so that the parent's list is valid until all four
                # quarters are done.
                parent_list, count = scratch.all_segments, len(segments)
                if level:
                    parent_list = scratch.candidates[level - 1]
                    count = counts[level - 1]
                rx = 0.5 * grid.step_x * (min(side, width - left) - 1)
                ry = 0.5 * grid.step_y * (min(side, height - top) - 1)
                block_list = scratch.candidates[level]
                list_size = list_nearest(
                    segments, parent_list, count,
                    left * grid.step_x + rx, top * grid.step_y + ry, rx, ry,
                    grid, scratch.vectors, block_list,
                )  # fmt: skip
                counts[level] = list_size
                if list_size <= FEW or side <= LAST_SIDE:
                    measure_block(
                        segments, block_list, list_size, top, left, side,
                        grid, inside, scratch.least, out,
                    )  # fmt: skip
                    continue
                half = side // 2
                for r in range(top, min(top + side, height), half):
                    for c in range(left, min(left + side, width), half):
                        blocks[block_count, 0], blocks[block_count, 1] = r, c
                        blocks[block_count, 2], blocks[block_count, 3] = half, level + 1
                        block_count += 1
