"""Resample an image or a mask through a mapping.

A mapping gives the point q of the image that pixel (x, y) of the output shows:

    p = outer (x, y, 1)     r = p + displacement at p     q = inner (r, 1)

outer, inner : float64 (2, 3), applied to (x, y, 1); pixel centres at integers
control, spacing : the displacement, see `spline`; an empty grid for none

As the displacement is added to p, q is inner(outer(x, y)) plus the displacement times
the linear part of `inner`. So the points of an output row are equally spaced on a line,
and a displacement adds one array to their x and one to their y.

Each output row goes through loops over arrays in the first-level cache: find the points
(`map_row`), load the pixels there, interpolate and scale. With CUBIC, and for pixels
that are not packed in pairs, one loop loads and interpolates. A single loop for all
took five times as long, because compilers do not vectorize it.
"""

import numpy as np

from fastseg._kernels.augment.coordinates import (
    BLOCK,
    columns_inside,
    fill_displaced,
    is_whole,
    map_row,
    map_row_reflected,
    multiply_affines,
    range_needed,
    reciprocal,
)
from fastseg._kernels.augment.interpolation import (
    interpolate_cubic,
    interpolate_pixels,
    interpolate_quads,
    join_pairs,
    load_pixels,
    view_quads,
)
from fastseg._kernels.augment.spline import (
    CONSTANT,
    REACH,
    REFLECT,
    displace_point,
    displace_row,
    evaluate_control_rows,
    spline_coefficients,
    transform_control,
)
from fastseg._kernels.jit import empty, flat, inlined, kernel, zeros

F = np.float32

NEAREST, LINEAR, CUBIC = 0, 1, 3
# Spline coefficients outside the used pixels that points between these need.
MARGIN = 2


@kernel
def displacement_bounds(control):
    """Return the greatest |dx| and |dy| that control points can cause."""
    dx = dy = 0.0
    for j in range(control.shape[0]):
        for i in range(control.shape[1]):
            dx = max(dx, abs(control[j, i, 0]))
            dy = max(dy, abs(control[j, i, 1]))
    return dx, dy


@kernel
def prepare_displacement(control, spacing, outer, inner, width, capacity):
    """Return image_control and control_rows, which `fill_displacement` needs.

    width    : columns of the output
    capacity : columns to allocate, at least width

    image_control : float64 (gy, gx, 2), the displacements of the control points times
        the linear part of inner
    control_rows  : see `evaluate_control_rows`; no rows if there is no displacement, or
        if outer does not map rows to rows and columns to columns
    """
    image_control = transform_control(control, inner)
    if control.shape[0] > 0 and outer[0, 1] == 0.0 and outer[1, 0] == 0.0:
        control_rows = evaluate_control_rows(
            image_control, spacing, outer[0, 0], outer[0, 2], width, capacity
        )
    else:
        control_rows = empty((0, 2, capacity), F)
    return image_control, control_rows


@inlined
def fill_displacement(
    image_control, control_rows, spacing, outer, row, width, field_x, field_y
):
    """Write the displacement of each pixel of an output row, in pixels of the image.

    field_x, field_y : float32, overwritten up to width
    """
    if control_rows.shape[0] > 0:
        displace_row(
            control_rows,
            spacing,
            outer[1, 1] * row + outer[1, 2],
            field_x[:width],
            field_y[:width],
        )
    else:
        for k in range(width):
            field_x[k], field_y[k] = displace_point(
                image_control,
                spacing,
                outer[0, 0] * k + outer[0, 1] * row + outer[0, 2],
                outer[1, 0] * k + outer[1, 1] * row + outer[1, 2],
            )


@kernel
def warp_image(
    image, outer, control, spacing, inner,
    order, border, fill, shift, gain, low, high, out,
):  # fmt: skip
    """Resample an image, and scale: min(max((value - shift) * gain, low), high).

    image  : integers (H, W), C-contiguous
    outer, control, spacing, inner : the mapping, see the module
    order  : NEAREST, LINEAR, or CUBIC, a B-spline through the pixels
    border : what points outside the image show, which reaches RIM beyond the outermost
        pixel centres. CONSTANT: `fill`, not scaled; EDGE: the nearest pixel; REFLECT:
        the image reflected, d c b a | a b c d
    out    : float32 (h, w), C-contiguous, every cell is written

    Points of the image beyond the outermost pixel centres show the nearest point
    between these. At points between these, the values equal those of
    scipy.ndimage.map_coordinates in its modes constant, nearest and reflect, up to
    float32 rounding and an error of each point of 1e-5 of a pixel, times the step from
    point to point if this is above one pixel. Where a computed point is exactly a pixel
    centre, the output gets exactly the value that `gather_images` gives; with CUBIC,
    only if there is no displacement and the matrix is whole (`is_whole`).
    """
    fill, shift, gain, low, high = F(fill), F(shift), F(gain), F(low), F(high)
    height, width = image.shape
    last_x, last_y = width - 1.0, height - 1.0
    rows, columns = out.shape
    # `map_row` needs arrays of at least `columns`, rounded up to a multiple of LANES.
    capacity = (columns + BLOCK - 1) // BLOCK * BLOCK + BLOCK
    matrix = multiply_affines(inner, outer)
    displaced = control.shape[0] > 0
    if not displaced and is_whole(matrix):
        order = NEAREST
    image_control, control_rows = prepare_displacement(
        control, spacing, outer, inner, columns, capacity
    )
    reach_x, reach_y = displacement_bounds(image_control)
    step_x, step_y = matrix[0, 0], matrix[1, 0]
    per_x, per_y = reciprocal(step_x), reciprocal(step_y)

    # Find the rows and columns that are needed, and prepare them for interpolation.
    grow = 2 * REACH if order == CUBIC else 2
    left, right = range_needed(
        matrix[0, 2], step_x * columns, matrix[0, 1] * rows,
        reach_x, width, grow, border,
    )  # fmt: skip
    top, bottom = range_needed(
        matrix[1, 2], step_y * columns, matrix[1, 1] * rows,
        reach_y, height, grow, border,
    )  # fmt: skip
    used = (bottom - top) * (right - left)
    cells = flat(image)
    margin = 0
    pairs = zeros(2, np.uint32)
    coefficients = empty((0, 0), F)
    # Packing takes time for each used pixel: too much if the output is far smaller than
    # the used part of the image.
    in_quads = order == LINEAR and image.itemsize <= 2 and used <= 4 * out.size
    stride = width
    if in_quads:
        pairs = empty((used + 2) // 2 * 2, np.uint32)
        join_pairs(image, top, bottom, left, right, pairs)
        stride = right - left
    elif order == CUBIC:
        margin = MARGIN
        coefficients = spline_coefficients(
            image, top, bottom, left, right, border, margin
        )
        stride = coefficients.shape[1]
    else:
        left, top, right, bottom = 0, 0, width, height
    quads = view_quads(pairs)
    spline_cells = flat(coefficients)
    bias = np.uint32(0x8000 if np.iinfo(image.dtype).min < 0 else 0)

    nearest = order == NEAREST
    low_x, high_x = float(margin), float(margin + right - left - 1)
    low_y, high_y = float(margin), float(margin + bottom - top - 1)
    indices = empty(capacity, np.int32)
    fraction_x, fraction_y = empty(capacity, F), empty(capacity, F)
    field_x, field_y = zeros(capacity, F), zeros(capacity, F)
    pixels = empty(capacity, image.dtype)
    out_cells = flat(out)
    loaded = empty(capacity, np.uint64)
    halves = loaded.view(np.uint32)  # low half first, on little-endian machines
    weights = empty((8, capacity if order == CUBIC else 0), F)
    sums = empty(4 * weights.shape[1], F)
    for row in range(rows):
        x0 = matrix[0, 1] * row + matrix[0, 2]
        y0 = matrix[1, 1] * row + matrix[1, 2]
        line = out[row]
        first, stop = 0, columns
        if displaced:
            fill_displacement(
                image_control, control_rows, spacing, outer, row, columns,
                field_x, field_y,
            )  # fmt: skip
        elif border == CONSTANT:
            first, stop = columns_inside(
                x0, y0, per_x, per_y, 0.0, 0.0, last_x, last_y, columns
            )
            line[:first] = fill
            line[stop:] = fill
        span = line[first:stop]
        if border == REFLECT:
            map_row_reflected(
                x0 + first * step_x, y0 + first * step_y, step_x, step_y, len(span),
                displaced, field_x, field_y, nearest, width, height, left, top, margin,
                low_x, high_x, low_y, high_y, stride, indices, fraction_x, fraction_y,
            )  # fmt: skip
        else:
            map_row(
                x0 + first * step_x + (margin - left),
                y0 + first * step_y + (margin - top),
                step_x, step_y, len(span), displaced, field_x, field_y, nearest,
                low_x, high_x, low_y, high_y, stride, indices, fraction_x, fraction_y,
            )  # fmt: skip
        if in_quads:
            load_pixels(quads, indices, loaded[: len(span)])
            interpolate_quads(
                halves, bias, fraction_x, fraction_y, shift, gain, low, high,
                out_cells, row * columns + first, stop - first,
            )  # fmt: skip
        elif order == LINEAR:
            interpolate_pixels(
                cells, width, indices, fraction_x, fraction_y,
                shift, gain, low, high, span,
            )  # fmt: skip
        elif order == CUBIC:
            interpolate_cubic(
                spline_cells, stride, indices, fraction_x, fraction_y, weights, sums,
                shift, gain, low, high, span,
            )  # fmt: skip
        else:
            values = pixels[: len(span)]
            load_pixels(cells, indices, values)
            for k in range(len(span)):
                span[k] = min(max((F(values[k]) - shift) * gain, low), high)
        if displaced and border == CONSTANT:
            fill_displaced(
                x0, y0, step_x, step_y, per_x, per_y, reach_x, reach_y,
                field_x, field_y, last_x, last_y, fill, line,
            )  # fmt: skip


@kernel
def warp_mask(mask, outer, control, spacing, inner, out):
    """Resample a mask: nearest pixels, and 0 outside the image.

    mask : integers (H, W), C-contiguous
    outer, control, spacing, inner : the mapping, see the module
    out  : of the same dtype (h, w), C-contiguous, every cell is written

    What belongs to the image, and the error of each point, are as in `warp_image`. Of
    two equally near pixels, takes the right or lower one.
    """
    height, width = mask.shape
    last_x, last_y = width - 1.0, height - 1.0
    rows, columns = out.shape
    capacity = (columns + BLOCK - 1) // BLOCK * BLOCK + BLOCK  # as in `warp_image`
    matrix = multiply_affines(inner, outer)
    displaced = control.shape[0] > 0
    image_control, control_rows = prepare_displacement(
        control, spacing, outer, inner, columns, capacity
    )
    reach_x, reach_y = displacement_bounds(image_control)
    step_x, step_y = matrix[0, 0], matrix[1, 0]
    per_x, per_y = reciprocal(step_x), reciprocal(step_y)
    cells = flat(mask)
    none = mask.dtype.type(0)
    indices = empty(capacity, np.int32)
    fraction_x, fraction_y = empty(capacity, F), empty(capacity, F)
    field_x, field_y = zeros(capacity, F), zeros(capacity, F)
    for row in range(rows):
        x0 = matrix[0, 1] * row + matrix[0, 2]
        y0 = matrix[1, 1] * row + matrix[1, 2]
        line = out[row]
        first, stop = 0, columns
        if displaced:
            fill_displacement(
                image_control, control_rows, spacing, outer, row, columns,
                field_x, field_y,
            )  # fmt: skip
        else:
            first, stop = columns_inside(
                x0, y0, per_x, per_y, 0.0, 0.0, last_x, last_y, columns
            )
            line[:first] = none
            line[stop:] = none
        span = line[first:stop]
        map_row(
            x0 + first * step_x, y0 + first * step_y, step_x, step_y, len(span),
            displaced, field_x, field_y, True,
            0.0, last_x, 0.0, last_y, width, indices, fraction_x, fraction_y,
        )  # fmt: skip
        load_pixels(cells, indices, span)
        if displaced:
            fill_displaced(
                x0, y0, step_x, step_y, per_x, per_y, reach_x, reach_y,
                field_x, field_y, last_x, last_y, none, line,
            )  # fmt: skip


@kernel
def clear_outside(height, width, outer, control, spacing, inner, out):
    """Set to 0 the pixels of a mask whose points are outside an image.

    height, width : of the image
    outer, control, spacing, inner : the mapping, see the module
    out : integers (h, w), C-contiguous, updated in place
    """
    last_x, last_y = width - 1.0, height - 1.0
    rows, columns = out.shape
    matrix = multiply_affines(inner, outer)
    displaced = control.shape[0] > 0
    image_control, control_rows = prepare_displacement(
        control, spacing, outer, inner, columns, columns
    )
    reach_x, reach_y = displacement_bounds(image_control)
    step_x, step_y = matrix[0, 0], matrix[1, 0]
    per_x, per_y = reciprocal(step_x), reciprocal(step_y)
    none = out.dtype.type(0)
    field_x, field_y = zeros(columns, F), zeros(columns, F)
    for row in range(rows):
        x0 = matrix[0, 1] * row + matrix[0, 2]
        y0 = matrix[1, 1] * row + matrix[1, 2]
        if displaced:
            fill_displacement(
                image_control, control_rows, spacing, outer, row, columns,
                field_x, field_y,
            )  # fmt: skip
        # Without a displacement, all points that need a look are outside.
        fill_displaced(
            x0, y0, step_x, step_y, per_x, per_y, reach_x, reach_y,
            field_x, field_y, last_x, last_y, none, out[row],
        )  # fmt: skip
