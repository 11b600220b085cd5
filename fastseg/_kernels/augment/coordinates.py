"""Where the pixels of an output row come from: `warp` says what a mapping is."""

import math

import numpy as np

from fastseg._kernels.augment.spline import REFLECT
from fastseg._kernels.jit import fma, inlined, kernel

F = np.float32
I = np.int32  # noqa: E741 (beside F)
u64 = np.uint64

# Points this far outside the image, in pixels, still count as on its outermost
# centres: a rotation by 180 degrees, made of sines and cosines, is off by 1e-13.
SLACK = 1e-6
# Smaller steps between pixels lead nowhere, and dividing by them could overflow.
SMALLEST_STEP = 1e-15
# Coordinates are float32, relative to a whole number close by: their error grows with
# the distance from the middle of so many pixels, to 8e-6 of a pixel.
BLOCK = 128
# Loops over places have lengths that are multiples of it: no pixels are left over.
LANES = 32
# A block's origin is kept within this, where float32 still knows halves.
FARTHEST = 2.0**22


@kernel
def join_affines(inner, outer):
    """Return the matrix (2, 3) of first outer, then inner."""
    joined = np.empty((2, 3))
    for r in range(2):
        for c in range(3):
            joined[r, c] = inner[r, 0] * outer[0, c] + inner[r, 1] * outer[1, c]
        joined[r, 2] += inner[r, 2]
    return joined


@kernel
def is_whole(matrix):
    """Return whether pixel centres come from pixel centres."""
    for value in matrix.flat:  # noqa: SIM110 (numba knows no generators here)
        if value != math.floor(value):
            return False
    return True


@inlined
def inverse(step):
    """Return 1 / step, or 0 for a step that leads nowhere."""
    return 1.0 / step if abs(step) >= SMALLEST_STEP else 0.0


@inlined
def span_between(start, per_step, low, high, count):
    """Return the columns [first, stop) with low <= start + column * step <= high.

    per_step : `inverse` of the step. Both columns are in [0, count]
    """
    if low > high:
        return 0, 0
    if per_step == 0.0:
        return (0, count) if low <= start <= high else (0, 0)
    one, two = (low - start) * per_step, (high - start) * per_step
    first = math.ceil(min(max(min(one, two), 0.0), count))
    last = math.floor(min(max(max(one, two), -1.0), count - 1.0))
    return int(first), int(max(last + 1, first))


@inlined
def inside_span(x0, y0, per_x, per_y, inset_x, inset_y, last_x, last_y, count):
    """Return the columns [first, stop) whose points lie inside the image by an inset.

    (x0, y0)     : origin of the first pixel
    per_x, per_y : `inverse` of the steps from one to the next
    """
    first, stop = span_between(x0, per_x, inset_x, last_x - inset_x, count)
    start, end = span_between(y0, per_y, inset_y, last_y - inset_y, count)
    first = max(first, start)
    return first, max(min(stop, end), first)


@inlined
def fold(x, count):
    """Return x reflected at -1/2 and count - 1/2 as often as needed."""
    x += 0.5
    x -= 2.0 * count * np.floor(x / (2.0 * count))
    return min(x, 2.0 * count - x) - 0.5


@inlined
def place_row(
    x0, y0, dx, dy, count, bent, bend_x, bend_y, nearest,
    low_x, high_x, low_y, high_y, stride, places, share_x, share_y,
):  # fmt: skip
    """Find where the pixels of a row come from, and move points outside to the border.

    (x0, y0), (dx, dy) : origin of the first pixel, and step from one to the next
    count     : pixels; arrays have room for a multiple of LANES, and it is filled
    bend_x, bend_y : float32, added where bent
    nearest   : whether to round points to pixels
    low_x ... : multiples of 1/2 that limit points; stride : from one row to the next
    places    : int32, overwritten by y * stride + x of the pixel, or of that at or
        above left
    share_x, share_y : float32, overwritten by what lies between this and the point
    """
    step_x, step_y, stride32 = F(dx), F(dy), I(stride)
    for s in range(0, count, BLOCK):
        middle_x, middle_y = x0 + dx * (s + BLOCK // 2), y0 + dy * (s + BLOCK // 2)
        left = np.floor(min(max(middle_x, -FARTHEST), FARTHEST))
        top = np.floor(min(max(middle_y, -FARTHEST), FARTHEST))
        from_x, from_y = F(middle_x - left), F(middle_y - top)
        least_x, most_x = F(low_x - left), F(high_x - left)
        least_y, most_y = F(low_y - top), F(high_y - top)
        origin = I(int(top) * stride + int(left))
        start = u64(s)
        for k in range(min((count - s + LANES - 1) // LANES * LANES, BLOCK)):
            here = start + u64(k)
            along = F(I(k - BLOCK // 2))
            x, y = fma(along, step_x, from_x), fma(along, step_y, from_y)
            if bent:
                x += bend_x[here]
                y += bend_y[here]
            x = min(max(x, least_x), most_x)
            y = min(max(y, least_y), most_y)
            if nearest:
                column, row = np.floor(x + F(0.5)), np.floor(y + F(0.5))
            else:
                column, row = np.floor(x), np.floor(y)
                share_x[here] = x - column
                share_y[here] = y - row
            places[here] = I(I(I(row) * stride32) + I(column)) + origin


@inlined
def place_folded(
    x0, y0, dx, dy, count, bent, bend_x, bend_y, nearest,
    width, height, left, top, margin,
    low_x, high_x, low_y, high_y, stride, places, share_x, share_y,
):  # fmt: skip
    """Do as `place_row` does, but reflect points outside first.

    (width, height) : of the image, whose pixel (left, top) stands at (margin, margin)
    """
    for k in range(count):
        x, y = x0 + k * dx, y0 + k * dy
        if bent:
            x += bend_x[k]
            y += bend_y[k]
        x = min(max(fold(x, width) - left + margin, low_x), high_x)
        y = min(max(fold(y, height) - top + margin, low_y), high_y)
        if nearest:
            column, row = np.floor(x + 0.5), np.floor(y + 0.5)
        else:
            column, row = np.floor(x), np.floor(y)
            share_x[k] = x - column
            share_y[k] = y - row
        places[k] = int(row) * stride + int(column)


@inlined
def fill_outside(x0, y0, dx, dy, bend_x, bend_y, last_x, last_y, start, value, out):
    """Overwrite pixels of a row, from column start on, that come from outside."""
    for k in range(start, len(out)):
        x, y = x0 + k * dx + bend_x[k], y0 + k * dy + bend_y[k]
        inside = (
            (x >= -SLACK)
            & (x <= last_x + SLACK)
            & (y >= -SLACK)
            & (y <= last_y + SLACK)
        )
        out[k] = out[k] if inside else value


@inlined
def used_span(start, step, over, reach, count, grow, border):
    """Return the columns [first, stop) of an image of which an output may need pixels.

    start      : where its first pixel comes from
    step, over : to its other end, along rows and from row to row
    reach      : how far a displacement may go; grow : pixels more at both ends
    """
    low = start + min(step, 0.0) + min(over, 0.0) - reach
    high = start + max(step, 0.0) + max(over, 0.0) + reach
    if border == REFLECT and not (low >= 0 and high <= count - 1):
        return 0, count
    first = math.floor(min(max(low - grow, 0.0), count - 1.0))
    last = math.ceil(min(max(high + grow, 0.0), count - 1.0))
    return int(first), int(last) + 1
