"""Contours through a mapping: vertices go from the image to the output.

`warp` describes the mapping, which goes from the output to the image; here each step of
it is inverted. A displacement turns a straight edge into a curve: the edge is halved
until each piece is within TOLERANCE of that curve.
"""

import math

import numpy as np

from fastseg._kernels.augment.coordinates import multiply_affines
from fastseg._kernels.augment.spline import differentiate_point
from fastseg._kernels.jit import empty, inlined, kernel, zeros

# Greatest distance between the straight pieces and the true curve of an edge, in pixels
# of the output. It changes about one pixel of a mask per 100 pixels of outline at most.
TOLERANCE = 0.01
# The distance is measured at a few points; between them it may be a little more.
MEASURED_LIMIT = 0.5 * TOLERANCE
# Lengths of an edge along an axis, in units of the control points' spacing. An edge up
# to SHORT bends to one side only, or nearly so: its middle shows how far. A longer one
# is measured at its quarters as well. One above LONG is always halved if it lies over
# the grid of control points.
SHORT, LONG = 0.125, 1.0
# Bounds the work and the stack of `bend_edge`: after 24 halvings, a piece is 6e-8 of
# its edge.
MOST_HALVINGS = 24
# From an error of CLOSE pixels, one more Newton step leads to about 1e-10. It squares
# the error and multiplies it by half the displacement's second derivative (along an
# axis at most 4 * 0.48 / spacing: 0.06 for a spacing of 32 pixels, 0.96 for 2) and by
# the inverse Jacobian, which is large only where the displacement nearly folds.
CLOSE = 1e-5
# Two or three steps are usual; more only where the displacement nearly folds.
MOST_STEPS = 60


@kernel
def invert_affine(matrix):
    """Return the inverse of an affine matrix (2, 3)."""
    a, b, c, d = matrix[0, 0], matrix[0, 1], matrix[1, 0], matrix[1, 1]
    determinant = a * d - b * c
    inverse = empty((2, 3), np.float64)
    inverse[0, 0], inverse[0, 1] = d / determinant, -b / determinant
    inverse[1, 0], inverse[1, 1] = -c / determinant, a / determinant
    for r in range(2):
        inverse[r, 2] = -(inverse[r, 0] * matrix[0, 2] + inverse[r, 1] * matrix[1, 2])
    return inverse


@inlined
def apply_affine(matrix, x, y):
    """Return the point to which a matrix (2, 3) maps (x, y)."""
    return (
        matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2],
        matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2],
    )


@kernel
def invert_displacement(control, spacing, rx, ry, x, y):
    """Return the point that the displacement moves to (rx, ry).

    control, spacing : the displacement, which must not move two points to the same one
    x, y : where the search starts

    Newton's method; each step is halved until it reduces the distance to (rx, ry).
    """
    dx, dy, dx_x, dx_y, dy_x, dy_y = differentiate_point(control, spacing, x, y)
    residual_x, residual_y = rx - x - dx, ry - y - dy
    squared = residual_x * residual_x + residual_y * residual_y
    for _ in range(MOST_STEPS):
        a, d = 1.0 + dx_x, 1.0 + dy_y
        determinant = a * d - dx_y * dy_x
        step_x = (d * residual_x - dx_y * residual_y) / determinant
        step_y = (a * residual_y - dy_x * residual_x) / determinant
        step_squared = step_x * step_x + step_y * step_y
        if squared < CLOSE * CLOSE and step_squared < CLOSE * CLOSE:
            return x + step_x, y + step_y
        previous = squared
        for _ in range(MOST_STEPS):
            dx, dy, dx_x, dx_y, dy_x, dy_y = differentiate_point(
                control, spacing, x + step_x, y + step_y
            )
            residual_x = rx - (x + step_x) - dx
            residual_y = ry - (y + step_y) - dy
            squared = residual_x * residual_x + residual_y * residual_y
            if squared < previous:
                break
            step_x, step_y = 0.5 * step_x, 0.5 * step_y
        x, y = x + step_x, y + step_y
    return x, y


@inlined
def distance_to_line(x0, y0, x1, y1, x, y):
    """Return the distance of (x, y) from the straight line through two points."""
    line_x, line_y = x1 - x0, y1 - y0
    length = math.sqrt(line_x * line_x + line_y * line_y)
    if length == 0.0:
        return math.sqrt((x - x0) * (x - x0) + (y - y0) * (y - y0))
    return abs(line_x * (y - y0) - line_y * (x - x0)) / length


@inlined
def is_long(r0, r1, spacing, count):
    """Return whether an edge is longer than LONG over the grid, along one axis.

    r0, r1 : coordinates of its ends along the axis
    count  : control points along the axis

    From one spacing beyond the outermost control points on, the displacement no longer
    changes along this axis, because they are repeated without end. It still changes
    along the other axis.
    """
    # The outermost control points are at -spacing and (count - 2) * spacing.
    margin = 2.0 * spacing
    is_over = max(r0, r1) >= -margin and min(r0, r1) <= (count - 3) * spacing + margin
    return is_over and abs(r1 - r0) > LONG * spacing


@kernel
def grow_points(points, count):
    """Return points, or a larger copy if the array is full with `count` of them."""
    if count < len(points):
        return points
    larger = empty((2 * len(points) + 16, 2), np.float64)
    for k in range(count):
        larger[k, 0], larger[k, 1] = points[k, 0], points[k, 1]
    return larger


@kernel
def bend_edge(control, spacing, to_output, ends, stack, out, count):
    """Append the points between the two ends of an edge to out[:count].

    ends  : float64 (2, 4), for each end rx, ry, and x, y: the point that the
        displacement moves to (rx, ry)
    to_output : float64 (2, 3), maps (x, y) to the output
    stack : float64 (MOST_HALVINGS + 2, 4), overwritten

    Returns out, or a larger copy, and the new count. The points do not depend on the
    direction of the edge.
    """
    # (rx0, ry0, x0, y0) is the start of the current piece. The stack holds the ends of
    # the pieces from there on, the nearest one on top; depths[k] is the number of
    # halvings of the piece that ends at stack[k].
    rx0, ry0, x0, y0 = ends[0]
    for k in range(4):
        stack[0, k] = ends[1, k]
    depths = zeros(MOST_HALVINGS + 2, np.int64)
    top, depth = 0, 0
    while top >= 0:
        rx1, ry1, x1, y1 = stack[top]
        depth = depths[top]
        # The search for the middle starts halfway between the ends, so that both
        # directions of the edge give the same point.
        rx, ry = 0.5 * (rx0 + rx1), 0.5 * (ry0 + ry1)
        x, y = 0.5 * (x0 + x1), 0.5 * (y0 + y1)
        split = False
        if depth < MOST_HALVINGS:
            length = max(abs(rx1 - rx0), abs(ry1 - ry0)) / spacing
            x, y = invert_displacement(control, spacing, rx, ry, x, y)
            px0, py0 = apply_affine(to_output, x0, y0)
            px1, py1 = apply_affine(to_output, x1, y1)
            px, py = apply_affine(to_output, x, y)
            split = distance_to_line(px0, py0, px1, py1, px, py) > MEASURED_LIMIT
            split = split or is_long(rx0, rx1, spacing, control.shape[1])
            split = split or is_long(ry0, ry1, spacing, control.shape[0])
            if not split and length > SHORT:
                for side in range(2):
                    if side == 0:
                        sx, sy = 0.5 * (rx0 + rx), 0.5 * (ry0 + ry)
                        tx, ty = 0.5 * (x0 + x), 0.5 * (y0 + y)
                    else:
                        sx, sy = 0.5 * (rx + rx1), 0.5 * (ry + ry1)
                        tx, ty = 0.5 * (x + x1), 0.5 * (y + y1)
                    tx, ty = invert_displacement(control, spacing, sx, sy, tx, ty)
                    px, py = apply_affine(to_output, tx, ty)
                    if distance_to_line(px0, py0, px1, py1, px, py) > MEASURED_LIMIT:
                        split = True
        if split:
            depths[top] = depth + 1
            top += 1
            stack[top, 0], stack[top, 1], stack[top, 2], stack[top, 3] = rx, ry, x, y
            depths[top] = depth + 1
            continue
        top -= 1
        rx0, ry0, x0, y0 = rx1, ry1, x1, y1
        if top >= 0:
            out = grow_points(out, count)
            out[count, 0], out[count, 1] = apply_affine(to_output, x0, y0)
            count += 1
    return out, count


@kernel
def bend_rings(points, offsets, outer, control, spacing, inner):
    """Map rings to the output, and return their points and offsets.

    points  : float64 (P, 2), (x, y) in pixels of the image, pixel centres at integers
    offsets : int64 (R + 1,), ring k is points[offsets[k]:offsets[k + 1]]
    outer, control, spacing, inner : the mapping, see `warp`. No control point may be
        displaced by more than 0.48 * spacing along an axis: then the displacement has
        an inverse (Choi & Lee, "Injectivity conditions of 2D and 3D uniform cubic
        B-spline functions", 2000)

    Returns new arrays, the points as (x, y) in pixels of the output. Without control
    points, the number of points stays the same. With them, edges get further points,
    so that they lie within TOLERANCE of the true curve of the edge. Edges that two
    rings have in common get the same points in both.
    """
    if control.shape[0] == 0:
        to_output = invert_affine(multiply_affines(inner, outer))
        moved = empty(points.shape, np.float64)
        for k in range(len(points)):
            moved[k, 0], moved[k, 1] = apply_affine(
                to_output, points[k, 0], points[k, 1]
            )
        return moved, offsets.copy()
    from_image = invert_affine(inner)
    to_output = invert_affine(outer)
    out = empty((4 * len(points) + 16, 2), np.float64)
    out_offsets = zeros(len(offsets), np.int64)
    stack = empty((MOST_HALVINGS + 2, 4), np.float64)
    ends = empty((2, 4), np.float64)
    count = np.int64(0)  # numba would compile `bend_edge` once more for a literal 0
    for ring in range(len(offsets) - 1):
        start, stop = offsets[ring], offsets[ring + 1]
        for k in range(start, stop + (stop > start)):
            for axis in range(4):
                ends[0, axis] = ends[1, axis]
            # After the last point, the first one again closes the ring.
            vertex = k if k < stop else start
            rx, ry = apply_affine(from_image, points[vertex, 0], points[vertex, 1])
            dx, dy, _, _, _, _ = differentiate_point(control, spacing, rx, ry)
            x, y = invert_displacement(control, spacing, rx, ry, rx - dx, ry - dy)
            ends[1, 0], ends[1, 1], ends[1, 2], ends[1, 3] = rx, ry, x, y
            if k > start:
                out, count = bend_edge(
                    control, spacing, to_output, ends, stack, out, count
                )
            if k < stop:
                out = grow_points(out, count)
                out[count, 0], out[count, 1] = apply_affine(to_output, x, y)
                count += 1
        out_offsets[ring + 1] = count
    return out[:count].copy(), out_offsets
