"""Sampling points: the point of the image whose value each output pixel gets.

`mapping` describes how they are found: the points of an output row are equally spaced
on a line, and a displacement adds one array to their x and one to their y. A point
(x, y) becomes the index of pixel (floor(x), floor(y)) in the flat image, and the
fractional parts of x and y.

Where kernels take a Field, None leaves out the code for displacements. Loops take the
arrays out of NamedTuples first: numba counts references to an array each time that it
is read from one, and LLVM does not vectorize that.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from fastseg._kernels.augment.spline import REFLECT
from fastseg._kernels.jit import fma, inlined

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


class Line(NamedTuple):
    """The points of an output row without their displacement, float64.

    x, y           : the first point
    step_x, step_y : from pixel to pixel
    per_x, per_y   : `reciprocal` of the steps
    """

    x: float
    y: float
    step_x: float
    step_y: float
    per_x: float
    per_y: float


class Field(NamedTuple):
    """The displacement of each pixel of an output row, in pixels of the image.

    x, y    : float32 (n,); n is `row_capacity`
    is_used : whether anything is displaced; if not, x and y are zeros
    """

    x: Any
    y: Any
    is_used: bool


class Area(NamedTuple):
    """The pixels, in a flat array, that points are clamped to.

    low_x, high_x, low_y, high_y : float64, whole numbers, columns and rows, ends
        included
    stride : pixels from one row to the next in the flat array
    """

    low_x: float
    high_x: float
    low_y: float
    high_y: float
    stride: int


class Points(NamedTuple):
    """Where the points of a row are in the flat image; n is `row_capacity`.

    indices : int32 (n,), row * stride + column of the nearest pixel, or of pixel
        (floor(x), floor(y))
    x, y    : float32 (n,), the fractional parts of x and y, if it is the latter
    """

    indices: Any
    x: Any
    y: Any


@inlined
def row_capacity(columns):
    """Return the length of arrays for a row: loops run on to a multiple of LANES."""
    return (columns + BLOCK - 1) // BLOCK * BLOCK + BLOCK


@inlined
def reciprocal(step):
    """Return 1 / step, or 0 for a step below SMALLEST_STEP."""
    return 1.0 / step if abs(step) >= SMALLEST_STEP else 0.0


@inlined
def line_of(affine, row):
    """Return the Line of an output row."""
    return Line(
        affine.xy * row + affine.x0,
        affine.yy * row + affine.y0,
        affine.xx,
        affine.yx,
        reciprocal(affine.xx),
        reciprocal(affine.yx),
    )


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
def columns_inside(line, inset_x, inset_y, last_x, last_y, count):
    """Return the columns [first, stop) whose points keep a distance from the edges.

    Edges are the lines RIM outside the outermost pixel centres.

    inset_x, inset_y : least distance inside the edges, in pixels; 0 for all points that
        belong to the image
    last_x, last_y   : coordinates of the last pixel centres of the image
    count            : columns of the output
    """
    out_x, out_y = RIM - inset_x, RIM - inset_y
    first, stop = columns_between(line.x, line.per_x, -out_x, last_x + out_x, count)
    start, end = columns_between(line.y, line.per_y, -out_y, last_y + out_y, count)
    first = max(first, start)
    return first, max(min(stop, end), first)


@inlined
def map_row(x0, y0, line, count, field, nearest, area, points):
    """Find the sampling points of the pixels of a row, clamped to an area.

    (x0, y0) : point of the first pixel, relative to the area's first pixel
    line     : Line, for the steps
    count    : pixels of the row. The loop rounds it up to a multiple of LANES
    field    : Field or None, added to the points
    nearest  : whether to round points to pixels
    area     : Area
    points   : Points, overwritten
    """
    step_x, step_y = line.step_x, line.step_y
    step32_x, step32_y = F(step_x), F(step_y)
    stride32 = I(area.stride)
    indices, fraction_x, fraction_y = points
    if field is not None:
        field_x, field_y, is_displaced = field
    for s in range(0, count, BLOCK):
        middle_x = x0 + step_x * (s + BLOCK // 2)
        middle_y = y0 + step_y * (s + BLOCK // 2)
        left = np.floor(min(max(middle_x, -FARTHEST), FARTHEST))
        top = np.floor(min(max(middle_y, -FARTHEST), FARTHEST))
        from_x, from_y = F(middle_x - left), F(middle_y - top)
        least_x, most_x = F(area.low_x - left), F(area.high_x - left)
        least_y, most_y = F(area.low_y - top), F(area.high_y - top)
        # Far outside, this may wrap around, as may the sum below. The result is right
        # nevertheless, because each index fits into int32.
        origin = I(int(top) * area.stride + int(left))
        start = u64(s)
        for k in range(min((count - s + LANES - 1) // LANES * LANES, BLOCK)):
            here = start + u64(k)
            along = F(I(k - BLOCK // 2))
            x, y = fma(along, step32_x, from_x), fma(along, step32_y, from_y)
            if field is not None and is_displaced:
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
def reflect(x, count):
    """Return x reflected at -1/2 and count - 1/2 until it lies between them."""
    x += 0.5
    x -= 2.0 * count * np.floor(x / (2.0 * count))
    return min(x, 2.0 * count - x) - 0.5


class Frame(NamedTuple):
    """An image, and where it is in the array that indices refer to.

    width, height     : of the image
    left, top, margin : pixel (left, top) of the image is element [margin, margin]
    """

    width: int
    height: int
    left: int
    top: int
    margin: int


@inlined
def map_row_reflected(x0, y0, line, count, field, nearest, frame, area, points):
    """Do the same as `map_row`, but first reflect points at the image's outer edges.

    These are half a pixel outside the outermost pixel centres.

    (x0, y0) : point of the first pixel, in the image
    field    : Field
    frame    : Frame
    """
    indices, fraction_x, fraction_y = points
    field_x, field_y, is_displaced = field
    for k in range(count):
        x, y = x0 + k * line.step_x, y0 + k * line.step_y
        if is_displaced:
            x += field_x[k]
            y += field_y[k]
        x, y = reflect(x, frame.width), reflect(y, frame.height)
        x = min(max(x - frame.left + frame.margin, area.low_x), area.high_x)
        y = min(max(y - frame.top + frame.margin, area.low_y), area.high_y)
        if nearest:
            column, row = np.floor(x + 0.5), np.floor(y + 0.5)
        else:
            column, row = np.floor(x), np.floor(y)
            fraction_x[k] = x - column
            fraction_y[k] = y - row
        indices[k] = int(row) * area.stride + int(column)


@inlined
def fill_outside(line, field, last_x, last_y, start, value, out):
    """Set out[k] to `value` for each k >= start whose point is outside the image.

    field : Field or None
    """
    if field is not None:
        field_x, field_y, _ = field
    for k in range(start, len(out)):
        x, y = line.x + k * line.step_x, line.y + k * line.step_y
        if field is not None:
            x += field_x[k]
            y += field_y[k]
        inside = (x >= -RIM) & (x <= last_x + RIM) & (y >= -RIM) & (y <= last_y + RIM)
        out[k] = out[k] if inside else value


@inlined
def fill_row_outside(line, reach_x, reach_y, field, last_x, last_y, value, out):
    """Do the work of `fill_outside` for a whole row.

    reach_x, reach_y : greatest displacement: points farther inside need no look
    """
    first, stop = columns_inside(line, reach_x, reach_y, last_x, last_y, len(out))
    fill_outside(line, field, last_x, last_y, 0, value, out[:first])
    fill_outside(line, field, last_x, last_y, stop, value, out)


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
