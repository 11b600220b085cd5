"""Sampling points: the point of the image whose value each output pixel gets.

`warp` describes the mapping. A point (x, y) becomes the index of pixel
(floor(x), floor(y)) in the flat image, and the fractional parts of x and y.
"""

import math

import numpy as np

from fastseg._kernels.augment.spline import REFLECT
from fastseg._kernels.jit import empty, fma, inlined, kernel

F = np.float32
I = np.int32  # noqa: E741 (int32, as F is float32)
u64 = np.uint64

# An image reaches this many pixels beyond its outermost pixel centres, ends included.
# Half a pixel belongs to it; the millionth covers rounding: a quarter turn made of
# sines and cosines is off by 1e-13, a displacement in float32 by 1e-7 of its length.
RIM = 0.5 + 1e-6
# A smaller step from pixel to pixel counts as none: dividing by it could overflow.
SMALLEST_STEP = 1e-15
# Coordinates are float32, relative to a whole number near the middle of each block of
# BLOCK pixels. Their error grows with the distance from it: to 8e-6 of a pixel for a
# step of one pixel, and in proportion for larger steps.
BLOCK = 128
# Loops over pixels have lengths that are multiples of LANES, so that vector
# instructions leave no remainder.
LANES = 32
# A block's origin is kept within FARTHEST, where float32 still has steps of 1/2.
FARTHEST = 2.0**22


@kernel
def multiply_affines(inner, outer):
    """Return the matrix (2, 3) that applies outer, then inner."""
    product = empty((2, 3), np.float64)
    for r in range(2):
        for c in range(3):
            product[r, c] = inner[r, 0] * outer[0, c] + inner[r, 1] * outer[1, c]
        product[r, 2] += inner[r, 2]
    return product


@kernel
def is_whole(matrix):
    """Return whether all elements of a matrix are whole numbers.

    It then maps pixel centres to pixel centres.
    """
    for value in matrix.flat:  # noqa: SIM110 (numba has no generators here)
        if value != math.floor(value):
            return False
    return True


@inlined
def reciprocal(step):
    """Return 1 / step, or 0 for a step below SMALLEST_STEP."""
    return 1.0 / step if abs(step) >= SMALLEST_STEP else 0.0


@inlined
def columns_between(start, per_step, low, high, count):
    """Return the columns [first, stop) with low <= start + column * step <= high.

    per_step : `reciprocal` of the step; first and stop are in [0, count]
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
def columns_inside(x0, y0, per_x, per_y, inset_x, inset_y, last_x, last_y, count):
    """Return the columns [first, stop) whose points keep a distance from the edges.

    Edges are the lines RIM outside the outermost pixel centres.

    (x0, y0)         : point of the row's first pixel
    per_x, per_y     : `reciprocal` of the steps from pixel to pixel
    inset_x, inset_y : least distance inside the edges, in pixels; 0 for all points that
        belong to the image
    last_x, last_y   : coordinates of the last pixel centres of the image
    count            : columns of the output
    """
    out_x, out_y = RIM - inset_x, RIM - inset_y
    first, stop = columns_between(x0, per_x, -out_x, last_x + out_x, count)
    start, end = columns_between(y0, per_y, -out_y, last_y + out_y, count)
    first = max(first, start)
    return first, max(min(stop, end), first)


@inlined
def reflect(x, count):
    """Return x reflected at -1/2 and count - 1/2 until it lies between them."""
    x += 0.5
    x -= 2.0 * count * np.floor(x / (2.0 * count))
    return min(x, 2.0 * count - x) - 0.5


@inlined
def map_row(
    x0, y0, step_x, step_y, count, displaced, field_x, field_y, nearest,
    low_x, high_x, low_y, high_y, stride, indices, fraction_x, fraction_y,
):  # fmt: skip
    """Find the sampling points of the pixels of a row, clamped to a rectangle.

    (x0, y0), (step_x, step_y) : point of the first pixel, and step from pixel to pixel
    count   : pixels of the row. The loop rounds it up to a multiple of LANES, and all
        arrays must be that long
    field_x, field_y : float32, added to the points if displaced
    nearest : whether to round points to pixels
    low_x, high_x, low_y, high_y : the rectangle, ends included, whole numbers
    stride  : pixels from one row to the next in the flat image
    indices : int32, overwritten by row * stride + column of the nearest pixel if
        nearest, else of pixel (floor(x), floor(y))
    fraction_x, fraction_y : float32, overwritten by the fractional parts of x and y,
        unless nearest
    """
    step32_x, step32_y = F(step_x), F(step_y)
    stride32 = I(stride)
    for s in range(0, count, BLOCK):
        middle_x = x0 + step_x * (s + BLOCK // 2)
        middle_y = y0 + step_y * (s + BLOCK // 2)
        left = np.floor(min(max(middle_x, -FARTHEST), FARTHEST))
        top = np.floor(min(max(middle_y, -FARTHEST), FARTHEST))
        from_x, from_y = F(middle_x - left), F(middle_y - top)
        least_x, most_x = F(low_x - left), F(high_x - left)
        least_y, most_y = F(low_y - top), F(high_y - top)
        # Far outside, this may wrap around, as may the sum below. The result is right
        # nevertheless, because each index fits into int32.
        origin = I(int(top) * stride + int(left))
        start = u64(s)
        for k in range(min((count - s + LANES - 1) // LANES * LANES, BLOCK)):
            here = start + u64(k)
            along = F(I(k - BLOCK // 2))
            x, y = fma(along, step32_x, from_x), fma(along, step32_y, from_y)
            if displaced:
                x += field_x[here]
                y += field_y[here]
            x = min(max(x, least_x), most_x)
            y = min(max(y, least_y), most_y)
            if nearest:
                column, row = np.floor(x + F(0.5)), np.floor(y + F(0.5))
            else:
                column, row = np.floor(x), np.floor(y)
                fraction_x[here] = x - column
                fraction_y[here] = y - row
            indices[here] = I(I(I(row) * stride32) + I(column)) + origin


@inlined
def map_row_reflected(
    x0, y0, step_x, step_y, count, displaced, field_x, field_y, nearest,
    width, height, left, top, margin,
    low_x, high_x, low_y, high_y, stride, indices, fraction_x, fraction_y,
):  # fmt: skip
    """Do the same as `map_row`, but first reflect points at the image's outer edges.

    These are half a pixel outside the outermost pixel centres.

    width, height     : of the image
    left, top, margin : pixel (left, top) of the image is element [margin, margin] of
        the array that `indices` refer to
    """
    for k in range(count):
        x, y = x0 + k * step_x, y0 + k * step_y
        if displaced:
            x += field_x[k]
            y += field_y[k]
        x = min(max(reflect(x, width) - left + margin, low_x), high_x)
        y = min(max(reflect(y, height) - top + margin, low_y), high_y)
        if nearest:
            column, row = np.floor(x + 0.5), np.floor(y + 0.5)
        else:
            column, row = np.floor(x), np.floor(y)
            fraction_x[k] = x - column
            fraction_y[k] = y - row
        indices[k] = int(row) * stride + int(column)


@inlined
def fill_outside(
    x0, y0, step_x, step_y, field_x, field_y, last_x, last_y, start, value, out
):
    """Set out[k] to `value` for each k >= start whose point is outside the image."""
    for k in range(start, len(out)):
        x, y = x0 + k * step_x + field_x[k], y0 + k * step_y + field_y[k]
        inside = (x >= -RIM) & (x <= last_x + RIM) & (y >= -RIM) & (y <= last_y + RIM)
        out[k] = out[k] if inside else value


@inlined
def fill_displaced(
    x0, y0, step_x, step_y, per_x, per_y, reach_x, reach_y, field_x, field_y,
    last_x, last_y, value, out,
):  # fmt: skip
    """Do the work of `fill_outside` for a whole row of displaced points.

    reach_x, reach_y : greatest displacement: points farther inside need no look
    """
    first, stop = columns_inside(
        x0, y0, per_x, per_y, reach_x, reach_y, last_x, last_y, len(out)
    )
    fill_outside(
        x0, y0, step_x, step_y, field_x, field_y, last_x, last_y, 0, value, out[:first]
    )
    fill_outside(
        x0, y0, step_x, step_y, field_x, field_y, last_x, last_y, stop, value, out
    )


@inlined
def range_needed(start, across, down, reach, count, grow, border):
    """Return the columns (or rows) [first, stop) of the image that an output needs.

    start        : coordinate of the output's first pixel
    across, down : total change of the coordinate along a row, and along a column, of
        the output
    reach        : greatest change by the displacement
    count        : columns of the image
    grow         : columns to add at both ends
    border       : with REFLECT, all columns are needed if a point may be outside the
        outermost pixel centres
    """
    low = start + min(across, 0.0) + min(down, 0.0) - reach
    high = start + max(across, 0.0) + max(down, 0.0) + reach
    if border == REFLECT and not (low >= 0 and high <= count - 1):
        return 0, count
    first = math.floor(min(max(low - grow, 0.0), count - 1.0))
    last = math.ceil(min(max(high + grow, 0.0), count - 1.0))
    return int(first), int(last) + 1
