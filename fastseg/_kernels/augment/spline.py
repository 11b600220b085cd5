"""Cubic B-splines: a displacement on a coarse grid, and the coefficients of an image.

The control points of a Displacement are `control`, last axis (dx, dy). Control point
[j, i] is at ((i - 1) * spacing, (j - 1) * spacing), so a grid needs only one cell more
at each end than the area that it displaces. Outside the grid, the outermost
coefficients are repeated without end. An empty grid, (0, 0, 2), displaces nothing.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from fastseg._kernels.jit import empty, inlined, kernel, zeros

F = np.float32
u64 = np.uint64

CONSTANT, EDGE, REFLECT = 0, 1, 2

# The pole of the filter that finds coefficients: a pixel's influence shrinks by this
# factor per pixel, and after REACH pixels is below float32's rounding (7e-10).
POLE = math.sqrt(3.0) - 2.0
REACH = 16
# 1 / ((1 - z E)(1 - z / E)), E being a step to the next pixel, is the product over
# n = 1, 2, 4, 8, ... of (1 + a**2) * (1 + b * (E**n + E**-n)), with a = z**n and
# b = a / (1 + a**2). The first four factors reach 15 pixels.
B1 = F(POLE / (1 + POLE**2))
B2 = F(POLE**2 / (1 + POLE**4))
B4 = F(POLE**4 / (1 + POLE**8))
B8 = F(POLE**8 / (1 + POLE**16))
# The gain -6z along rows, with the factors (1 + a**2), times the gain 6 along columns.
GAIN = F(-36 * POLE * (1 + POLE**2) * (1 + POLE**4) * (1 + POLE**8) * (1 + POLE**16))
FIRST_GAIN = F(1 / (1 - POLE))
POLE32 = F(POLE)


class Displacement(NamedTuple):
    """A displacement of points.

    control : float64 (gy, gx, 2), control points
    spacing : float64, distance between control points, pixels
    """

    control: Any
    spacing: float


class Bend(NamedTuple):
    """A displacement, in pixels of the image, as an output needs it.

    spacing : distance between control points, pixels
    lines   : float32 (gy, 2, n), second axis (dx, dy): each row of control points at
        the columns of the output, see `displace_row`; (0, 2, n) if there is no
        displacement, or if columns of the output are no columns of control points
    rows    : float32 (h, 2, n), the displacement of each pixel of the output in the
        latter case; else (0, 2, n)
    reach_x, reach_y : the greatest |dx| and |dy| that it can cause
    """

    spacing: float
    lines: Any
    rows: Any
    reach_x: float
    reach_y: float


@inlined
def spline_weights(t):
    """Return the weights of four control points, t in [0, 1] from second to third."""
    s = 1.0 - t
    return (
        s * s * s / 6.0,
        2.0 / 3.0 - t * t * (2.0 - t) / 2.0,
        2.0 / 3.0 - s * s * (2.0 - s) / 2.0,
        t * t * t / 6.0,
    )


@inlined
def spline_slopes(t):
    """Return the derivatives of the four weights by t."""
    s = 1.0 - t
    return (
        -s * s / 2.0,
        t * (1.5 * t - 2.0),
        s * (2.0 - 1.5 * s),
        t * t / 2.0,
    )


@inlined
def find_cell(coordinate, spacing, count):
    """Return (cell, t): control points cell - 1 to cell + 2 count, weighted by t."""
    # Farther out, the outermost control point stands for all four.
    scaled = min(max(coordinate / spacing + 1.0, -2.0), count + 1.0)
    cell = math.floor(scaled)
    return cell, scaled - cell


@inlined
def control_index(k, count):
    """Return the index of a control point; outside the grid, that of the outermost one.

    As uint64, which saves the test for negative indices.
    """
    return u64(min(max(k, 0), count - 1))


@inlined
def sum_columns(control, row, axis, columns, weights):
    """Return the weighted sum of four control points of a row."""
    i0, i1, i2, i3 = columns
    w0, w1, w2, w3 = weights
    left = w0 * control[row, i0, axis] + w1 * control[row, i1, axis]
    return left + (w2 * control[row, i2, axis] + w3 * control[row, i3, axis])


@inlined
def sum_block(control, rows, columns, down, along):
    """Return the weighted sums (dx, dy) of four by four control points."""
    dx = dy = 0.0
    for b in range(4):
        dx += down[b] * sum_columns(control, rows[b], 0, columns, along)
        dy += down[b] * sum_columns(control, rows[b], 1, columns, along)
    return dx, dy


@inlined
def control_indices(cell, count):
    """Return the indices of the four control points that influence a cell."""
    return (
        control_index(cell - 1, count),
        control_index(cell, count),
        control_index(cell + 1, count),
        control_index(cell + 2, count),
    )


@kernel
def displace_point(displacement, x, y):
    """Return the displacement (dx, dy) at a point."""
    control, spacing = displacement
    i, t = find_cell(x, spacing, control.shape[1])
    j, s = find_cell(y, spacing, control.shape[0])
    columns = control_indices(i, control.shape[1])
    rows = control_indices(j, control.shape[0])
    return sum_block(control, rows, columns, spline_weights(s), spline_weights(t))


@kernel
def differentiate_point(displacement, x, y):
    """Return the displacement at a point, and its derivatives.

    In the order dx, dy, d dx / dx, d dx / dy, d dy / dx, d dy / dy.
    """
    control, spacing = displacement
    i, t = find_cell(x, spacing, control.shape[1])
    j, s = find_cell(y, spacing, control.shape[0])
    columns = control_indices(i, control.shape[1])
    rows = control_indices(j, control.shape[0])
    along, down = spline_weights(t), spline_weights(s)
    dx, dy = sum_block(control, rows, columns, down, along)
    dx_x, dy_x = sum_block(control, rows, columns, down, spline_slopes(t))
    dx_y, dy_y = sum_block(control, rows, columns, spline_slopes(s), along)
    return dx, dy, dx_x / spacing, dx_y / spacing, dy_x / spacing, dy_y / spacing


@kernel
def prepare_bend(displacement, mapping, height, width, capacity):
    """Return the Bend of a displacement.

    mapping  : Mapping
    height, width : of the output
    capacity : columns to allocate, at least width
    """
    outer, inner = mapping.outer, mapping.inner
    control, spacing = displacement
    rows, columns = control.shape[0], control.shape[1]
    moved = empty((rows, columns, 2), np.float64)
    reach_x = reach_y = 0.0
    for j in range(rows):
        for i in range(columns):
            dx, dy = control[j, i, 0], control[j, i, 1]
            image_x = inner.xx * dx + inner.xy * dy
            image_y = inner.yx * dx + inner.yy * dy
            moved[j, i, 0], moved[j, i, 1] = image_x, image_y
            reach_x, reach_y = max(reach_x, abs(image_x)), max(reach_y, abs(image_y))
    is_upright = outer.xy == 0.0 and outer.yx == 0.0
    lines = zeros((rows if is_upright else 0, 2, capacity), F)
    for x in range(width if len(lines) > 0 else 0):
        i, t = find_cell(outer.xx * x + outer.x0, spacing, columns)
        w0, w1, w2, w3 = spline_weights(t)
        i0, i1, i2, i3 = control_indices(i, columns)
        for j in range(rows):
            for axis in range(2):
                line = moved[j, :, axis]
                lines[j, axis, x] = (
                    w0 * line[i0] + w1 * line[i1] + w2 * line[i2] + w3 * line[i3]
                )
    pixels = empty((0 if is_upright or rows == 0 else height, 2, capacity), F)
    for y in range(len(pixels)):
        for x in range(width):
            pixels[y, 0, x], pixels[y, 1, x] = displace_point(
                Displacement(moved, spacing),
                outer.xx * x + outer.xy * y + outer.x0,
                outer.yx * x + outer.yy * y + outer.y0,
            )
    return Bend(spacing, lines, pixels, reach_x, reach_y)


@inlined
def displace_row(lines, spacing, y, dx, dy):
    """Write the displacement of an output row, the weighted sum of four control rows.

    lines  : those of a Bend
    y      : coordinate of the row, in the frame of the control points
    dx, dy : float32, overwritten
    """
    rows = lines.shape[0]
    j, s = find_cell(y, spacing, rows)
    w0, w1, w2, w3 = spline_weights(s)
    w0, w1, w2, w3 = F(w0), F(w1), F(w2), F(w3)
    j0, j1, j2, j3 = control_indices(j, rows)
    for axis in range(2):
        out = dx if axis == 0 else dy
        a, b, c, d = lines[j0, axis], lines[j1, axis], lines[j2, axis], lines[j3, axis]
        for k in range(len(out)):
            out[k] = w0 * a[k] + w1 * b[k] + w2 * c[k] + w3 * d[k]


@kernel
def border_index(k, count, border):
    """Return the index of the pixel that continues a line of `count` pixels at k.

    As scipy continues images for splines, CONSTANT as (d c b | a b c d | c b a).
    """
    if 0 <= k < count:
        return k
    if border == EDGE or count == 1:
        return 0 if k < 0 else count - 1
    if border == REFLECT:
        k %= 2 * count
        return k if k < count else 2 * count - 1 - k
    k %= 2 * count - 2
    return k if k < count else 2 * count - 2 - k


@inlined
def add_neighbours(line, step, weight, out):
    """Write out[k] = line[k + step] + weight * (line[k] + line[k + 2 * step])."""
    before, here, after = line[:], line[step:], line[2 * step :]
    for k in range(len(after)):
        out[k] = here[k] + weight * (before[k] + after[k])


@kernel
def spline_coefficients(image, top, bottom, left, right, border, margin):
    """Return the coefficients of the cubic B-spline through pixels of an image.

    image  : numbers (H, W), of which rows [top, bottom) and columns [left, right) are
        used
    border : how these are continued, see `border_index`
    margin : coefficients to add at each end

    Returns float32 (bottom - top + 2 * margin, right - left + 2 * margin).
    """
    height, width = bottom - top, right - left
    wide = width + 2 * margin
    tall = height + 2 * margin + 2 * REACH
    cells = empty((tall, wide), F)
    # Along rows: one[k] is pixel k - before; each step shortens the line at both ends.
    before = margin + 15
    one = empty(width + 2 * before, F)
    two = empty(width + 2 * before, F)
    for r in range(height):
        source = image[top + r, left:right]
        middle = one[before : before + width]
        for c in range(width):
            middle[c] = F(source[c]) * GAIN
        for k in range(before):
            one[k] = middle[border_index(k - before, width, border)]
            one[before + width + k] = middle[border_index(width + k, width, border)]
        length = len(one)
        add_neighbours(one, 1, B1, two)
        add_neighbours(two[: length - 2], 2, B2, one)
        add_neighbours(one[: length - 6], 4, B4, two)
        add_neighbours(two[: length - 14], 8, B8, cells[r + margin + REACH])
    # Along columns: rows outside the image are copies of rows inside. The recursions
    # start at the outermost rows, as if these were repeated without end.
    for r in range(margin + REACH):
        above = border_index(r - margin - REACH, height, border) + margin + REACH
        below = border_index(height + r, height, border) + margin + REACH
        for c in range(wide):
            cells[r, c] = cells[above, c]
            cells[margin + REACH + height + r, c] = cells[below, c]
    for c in range(wide):
        cells[0, c] *= FIRST_GAIN
    for r in range(1, tall):
        last, line = cells[r - 1], cells[r]
        for c in range(wide):
            line[c] += POLE32 * last[c]
    for c in range(wide):
        cells[tall - 1, c] *= -POLE32 * FIRST_GAIN
    for r in range(tall - 2, -1, -1):
        last, line = cells[r + 1], cells[r]
        for c in range(wide):
            line[c] = POLE32 * (last[c] - line[c])
    return cells[REACH : tall - REACH]
