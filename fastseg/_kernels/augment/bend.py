"""Contours through a mapping: vertices go from the image to the output.

That is the other way than pixels do (`warp` has the mapping), so everything is
inverted. A straight edge becomes a bent one where there is a displacement: it is
halved until the pieces lie on its true image.
"""

import math

import numpy as np

from fastseg._kernels.augment.coordinates import join_affines
from fastseg._kernels.augment.spline import differentiate_point
from fastseg._kernels.jit import inlined, kernel

# How far pieces may lie off the true image of an edge, in pixels of the output.
TOLERANCE = 0.01
# What is measured at a few points may be a little more between them.
MEASURED = 0.5 * TOLERANCE
# An edge of at most so many control spacings bends to one side, or nearly: its middle
# tells how far. Of longer ones the quarters are looked at too, and those longer than
# a whole spacing are halved in any case where there are control points.
SHORT, LONG = 0.125, 1.0
MOST_HALVINGS = 24
# From an error of so many pixels, one more of Newton's steps leads below 1e-10: a
# step squares it, and multiplies by the field's bend, 0.1 at most.
CLOSE = 1e-5
# Two or three steps are usual; more only where the displacement nearly folds.
MOST_STEPS = 60


@kernel
def invert_affine(matrix):
    """Return the matrix (2, 3) of the way back."""
    a, b, c, d = matrix[0, 0], matrix[0, 1], matrix[1, 0], matrix[1, 1]
    scale = a * d - b * c
    back = np.empty((2, 3))
    back[0, 0], back[0, 1] = d / scale, -b / scale
    back[1, 0], back[1, 1] = -c / scale, a / scale
    for r in range(2):
        back[r, 2] = -(back[r, 0] * matrix[0, 2] + back[r, 1] * matrix[1, 2])
    return back


@inlined
def apply_affine(matrix, x, y):
    """Return where a matrix (2, 3) takes a point."""
    return (
        matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2],
        matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2],
    )


@kernel
def unbend_point(control, spacing, rx, ry, x, y):
    """Return the point that a displacement takes to (rx, ry).

    x, y : where to start

    There must be one such point only. Newton's steps, each halved until it leads
    closer.
    """
    dx, dy, dx_x, dx_y, dy_x, dy_y = differentiate_point(control, spacing, x, y)
    off_x, off_y = rx - x - dx, ry - y - dy
    off = off_x * off_x + off_y * off_y
    for _ in range(MOST_STEPS):
        a, d = 1.0 + dx_x, 1.0 + dy_y
        scale = a * d - dx_y * dy_x
        step_x = (d * off_x - dx_y * off_y) / scale
        step_y = (a * off_y - dy_x * off_x) / scale
        if off < CLOSE * CLOSE and step_x * step_x + step_y * step_y < CLOSE * CLOSE:
            return x + step_x, y + step_y
        old = off
        for _ in range(MOST_STEPS):
            dx, dy, dx_x, dx_y, dy_x, dy_y = differentiate_point(
                control, spacing, x + step_x, y + step_y
            )
            off_x, off_y = rx - (x + step_x) - dx, ry - (y + step_y) - dy
            off = off_x * off_x + off_y * off_y
            if off < old:
                break
            step_x, step_y = 0.5 * step_x, 0.5 * step_y
        x, y = x + step_x, y + step_y
    return x, y


@inlined
def height_over(x0, y0, x1, y1, x, y):
    """Return how far a point lies off the straight line through two others."""
    along, down = x1 - x0, y1 - y0
    length = math.sqrt(along * along + down * down)
    if length == 0.0:
        return math.sqrt((x - x0) * (x - x0) + (y - y0) * (y - y0))
    return abs(along * (y - y0) - down * (x - x0)) / length


@inlined
def is_long(r0, r1, spacing, count):
    """Return whether an edge is long along an axis, where there are control points.

    Beyond those, by two spacings, the displacement does not change along the axis; it
    still does along the other one, as the outermost coefficients go on for ever.
    """
    margin = 2.0 * spacing
    is_over = max(r0, r1) >= -margin and min(r0, r1) <= (count - 3) * spacing + margin
    return is_over and abs(r1 - r0) > LONG * spacing


@kernel
def grow_points(points, count):
    """Return points, in a larger array if there is no room for `count` and one more."""
    if count < len(points):
        return points
    larger = np.empty((2 * len(points) + 16, 2))
    for k in range(count):
        larger[k, 0], larger[k, 1] = points[k, 0], points[k, 1]
    return larger


@kernel
def bend_edge(control, spacing, back, ends, stack, out, count):
    """Add the points between the ends of an edge to out[count:].

    ends  : float64 (2, 4), of each end rx, ry, and its place x, y before displacement
    back  : from there to the output, float64 (2, 3)
    stack : float64 (MOST_HALVINGS + 2, 4), overwritten

    Returns out, or a larger copy, and the new count. The points do not depend on the
    direction of the edge.
    """
    rx0, ry0, x0, y0 = ends[0]
    for k in range(4):
        stack[0, k] = ends[1, k]
    depths = np.zeros(MOST_HALVINGS + 2, np.int64)
    top, depth = 0, 0
    while top >= 0:
        rx1, ry1, x1, y1 = stack[top]
        depth = depths[top]
        # The middle starts between its neighbours, which is the same from both sides.
        rx, ry = 0.5 * (rx0 + rx1), 0.5 * (ry0 + ry1)
        x, y = 0.5 * (x0 + x1), 0.5 * (y0 + y1)
        split = False
        if depth < MOST_HALVINGS:
            length = max(abs(rx1 - rx0), abs(ry1 - ry0)) / spacing
            x, y = unbend_point(control, spacing, rx, ry, x, y)
            px0, py0 = apply_affine(back, x0, y0)
            px1, py1 = apply_affine(back, x1, y1)
            px, py = apply_affine(back, x, y)
            split = height_over(px0, py0, px1, py1, px, py) > MEASURED
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
                    tx, ty = unbend_point(control, spacing, sx, sy, tx, ty)
                    px, py = apply_affine(back, tx, ty)
                    if height_over(px0, py0, px1, py1, px, py) > MEASURED:
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
            out[count, 0], out[count, 1] = apply_affine(back, x0, y0)
            count += 1
    return out, count


@kernel
def bend_rings(points, offsets, outer, control, spacing, inner):
    """Return points and offsets of rings in the output, through the mapping's inverse.

    points  : float64 (P, 2), (x, y) in pixels of the image, their centres at integers
    offsets : int64 (R + 1,), ring k is points[offsets[k]:offsets[k + 1]]
    outer, control, spacing, inner : the mapping, as `warp` has it. No coefficient may
        be larger than 0.48 * spacing: so the displacement has an inverse (Choi & Lee,
        "Injectivity conditions of 2D and 3D uniform cubic B-spline functions", 2000).

    The points are new arrays, (x, y) in pixels of the output. Without control points
    there are as many as before; with them, edges have further ones in between, so that
    they lie within TOLERANCE of the true image of the edge. Edges that two rings share
    get the same points in both.
    """
    if control.shape[0] == 0:
        back = invert_affine(join_affines(inner, outer))
        moved = np.empty(points.shape)
        for k in range(len(points)):
            moved[k, 0], moved[k, 1] = apply_affine(back, points[k, 0], points[k, 1])
        return moved, offsets.copy()
    back_inner, back = invert_affine(inner), invert_affine(outer)
    out = np.empty((4 * len(points) + 16, 2))
    out_offsets = np.zeros(len(offsets), np.int64)
    stack = np.empty((MOST_HALVINGS + 2, 4))
    ends = np.empty((2, 4))
    count = np.int64(0)  # not the literal, for which `bend_edge` would be compiled too
    for ring in range(len(offsets) - 1):
        start, stop = offsets[ring], offsets[ring + 1]
        for k in range(start, stop + (stop > start)):
            for axis in range(4):
                ends[0, axis] = ends[1, axis]
            # The ring's first point once more, to close it.
            vertex = k if k < stop else start
            rx, ry = apply_affine(back_inner, points[vertex, 0], points[vertex, 1])
            dx, dy, _, _, _, _ = differentiate_point(control, spacing, rx, ry)
            x, y = unbend_point(control, spacing, rx, ry, rx - dx, ry - dy)
            ends[1, 0], ends[1, 1], ends[1, 2], ends[1, 3] = rx, ry, x, y
            if k > start:
                out, count = bend_edge(control, spacing, back, ends, stack, out, count)
            if k < stop:
                out = grow_points(out, count)
                out[count, 0], out[count, 1] = apply_affine(back, x, y)
                count += 1
        out_offsets[ring + 1] = count
    return out[:count].copy(), out_offsets
