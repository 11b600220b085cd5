"""Contours through a mapping: vertices go from the image to the output.

`mapping` describes the mapping, which goes from the output to the image; here each step
of it is inverted. A displacement turns a straight edge into a curve: the edge is halved
until each piece is within TOLERANCE of that curve.
"""

import math

import numpy as np

from fastseg._kernels.augment.mapping import (
    AFFINES,
    DISPLACEMENTS,
    apply_affine,
    displacement_of,
    invert_affine,
    mapping_of,
)
from fastseg._kernels.augment.spline import differentiate_point
from fastseg._kernels.jit import empty, entry, inlined, kernel

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
def invert_displacement(displacement, rx, ry, x, y):
    """Return the point that a displacement moves to (rx, ry).

    displacement : Displacement, which must not move two points to the same one
    x, y : where the search starts

    Newton's method; each step is halved until it reduces the distance to (rx, ry).
    """
    dx, dy, dx_x, dx_y, dy_x, dy_y = differentiate_point(displacement, x, y)
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
                displacement, x + step_x, y + step_y
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


@inlined
def is_bent(displacement, to_output, start, stop, x, y, middle_x, middle_y):
    """Return whether an edge bends too much at a point to be straight.

    start, stop : (x, y) of the ends of the edge in the output
    x, y        : coordinates of the point after the displacement
    middle_x, middle_y : where the search for the point begins

    Also returns the point.
    """
    x, y = invert_displacement(displacement, x, y, middle_x, middle_y)
    px, py = apply_affine(to_output, x, y)
    off = distance_to_line(start[0], start[1], stop[0], stop[1], px, py)
    return off > MEASURED_LIMIT, x, y


@kernel
def bend_edge(displacement, to_output, start, stop, stack, out, count):
    """Append the points between the two ends of an edge to out[:count].

    start, stop : the ends, (rx, ry, x, y); the displacement moves (x, y) to (rx, ry)
    to_output : Affine, maps (x, y) to the output
    stack : float64 (MOST_HALVINGS + 2, 5), overwritten
    out   : float64 (n, 2), written as far as it reaches

    Returns the new count. The points do not depend on the direction of the edge.
    """
    # (rx0, ry0, x0, y0) is the start of the current piece. The stack holds the ends of
    # the pieces from there on, the nearest one on top, and the number of halvings of
    # the piece that ends there.
    rx0, ry0, x0, y0 = start
    spacing = displacement.spacing
    rows, columns = displacement.control.shape[0], displacement.control.shape[1]
    push(stack, 0, stop, 0)
    top = 0
    while top >= 0:
        rx1, ry1, x1, y1, depth = (
            stack[top, 0],
            stack[top, 1],
            stack[top, 2],
            stack[top, 3],
            stack[top, 4],
        )
        # The search for the middle starts halfway between the ends, so that both
        # directions of the edge give the same point.
        rx, ry = 0.5 * (rx0 + rx1), 0.5 * (ry0 + ry1)
        x, y = 0.5 * (x0 + x1), 0.5 * (y0 + y1)
        split = False
        if depth < MOST_HALVINGS:
            length = max(abs(rx1 - rx0), abs(ry1 - ry0)) / spacing
            begin = apply_affine(to_output, x0, y0)
            end = apply_affine(to_output, x1, y1)
            split, x, y = is_bent(displacement, to_output, begin, end, rx, ry, x, y)
            split = split or is_long(rx0, rx1, spacing, columns)
            split = split or is_long(ry0, ry1, spacing, rows)
            if not split and length > SHORT:
                for side in range(2):
                    if side == 0:
                        sx, sy = 0.5 * (rx0 + rx), 0.5 * (ry0 + ry)
                        tx, ty = 0.5 * (x0 + x), 0.5 * (y0 + y)
                    else:
                        sx, sy = 0.5 * (rx + rx1), 0.5 * (ry + ry1)
                        tx, ty = 0.5 * (x + x1), 0.5 * (y + y1)
                    bends, _, _ = is_bent(
                        displacement, to_output, begin, end, sx, sy, tx, ty
                    )
                    split = split or bends
        if split:
            stack[top, 4] = depth + 1
            top += 1
            push(stack, top, (rx, ry, x, y), depth + 1)
            continue
        top -= 1
        rx0, ry0, x0, y0 = rx1, ry1, x1, y1
        if top >= 0:
            count = append_point(out, count, apply_affine(to_output, x0, y0))
    return count


@inlined
def push(stack, top, end, depth):
    """Write a row of the stack of `bend_edge`."""
    stack[top, 0], stack[top, 1], stack[top, 2], stack[top, 3] = end
    stack[top, 4] = depth


@inlined
def append_point(out, count, point):
    """Write a point to row `count` of out if there is one; return the next row."""
    if count < len(out):
        out[count, 0], out[count, 1] = point
    return count + 1


@kernel
def move_straight_rings(points, offsets, first, stop, mapping, out, out_offsets):
    """Do the work of `move_rings` where nothing is displaced."""
    to_output = invert_affine(mapping.whole)
    start = offsets[first]
    count = offsets[stop] - start
    if count <= len(out):
        for k in range(count):
            x, y = points[start + k, 0], points[start + k, 1]
            out[k, 0], out[k, 1] = apply_affine(to_output, x, y)
        for ring in range(first, stop + 1):
            out_offsets[ring - first] = offsets[ring] - start
    return count


@kernel
def move_rings(points, offsets, first, stop, mapping, displacement, out, out_offsets):
    """Map the rings [first, stop) to the output; see `bend_rings`.

    mapping      : Mapping
    displacement : Displacement or None
    """
    if displacement is None:
        return move_straight_rings(
            points, offsets, first, stop, mapping, out, out_offsets
        )
    if len(displacement.control) == 0:
        return move_straight_rings(
            points, offsets, first, stop, mapping, out, out_offsets
        )
    out_offsets[0] = count = 0
    to_output, from_image = invert_affine(mapping.outer), invert_affine(mapping.inner)
    stack = empty((MOST_HALVINGS + 2, 5), np.float64)
    end = (0.0, 0.0, 0.0, 0.0)
    for ring in range(first, stop):
        begin, behind = offsets[ring], offsets[ring + 1]
        for k in range(begin, behind + (behind > begin)):
            start = end
            # After the last point, the first one again closes the ring.
            vertex = k if k < behind else begin
            rx, ry = apply_affine(from_image, points[vertex, 0], points[vertex, 1])
            dx, dy, _, _, _, _ = differentiate_point(displacement, rx, ry)
            x, y = invert_displacement(displacement, rx, ry, rx - dx, ry - dy)
            end = (rx, ry, x, y)
            if k > begin:
                count = bend_edge(
                    displacement, to_output, start, end, stack, out, count
                )
            if k < behind:
                count = append_point(out, count, apply_affine(to_output, x, y))
        out_offsets[ring - first + 1] = count
    return count


@entry(
    points="const float64[:, ::1]",
    offsets="const int64[::1]",
    affines=AFFINES,
    displacements=DISPLACEMENTS,
    out="float64[:, ::1]",
    out_offsets="int64[::1]",
)
def bend_rings(points, offsets, affines, displacements, out, out_offsets):
    """Map the rings of one sample to the output; return the number of points there.

    points  : float64 (P, 2), (x, y) in pixels of the image, pixel centres at integers
    offsets : int64 (R + 1,), ring k is points[offsets[k]:offsets[k + 1]]
    affines : Affines of one sample
    displacements : Displacements of one sample, or None. No control point may be
        displaced by more than 0.48 * spacing along an axis: then the displacement has
        an inverse (Choi & Lee, "Injectivity conditions of 2D and 3D uniform cubic
        B-spline functions", 2000)
    out     : float64 (n, 2), overwritten by the points, (x, y) in pixels of the output.
        If n is less than the number of points, the rest is left out
    out_offsets : int64 (R + 1,), overwritten

    Without displacements, the number of points stays the same. With them, edges get
    further points, so that they lie within TOLERANCE of the true curve of the edge.
    Edges that two rings have in common get the same points in both.
    """
    mapping = mapping_of(affines, 0)
    displacement = displacement_of(displacements, 0)
    rings = len(offsets) - 1
    return move_rings(
        points, offsets, 0, rings, mapping, displacement, out, out_offsets
    )
