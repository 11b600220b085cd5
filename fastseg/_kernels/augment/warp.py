"""Resampling: an image, or a mask, seen through a mapping.

A mapping says which point q of the image is shown at pixel (x, y) of the output:

    p = outer (x, y, 1)     r = p + displacement at p     q = inner (r, 1)

outer, inner : float64 (2, 3), on columns of (x, y, 1); pixel centres at integers
control, spacing : the displacement, see `spline`; an empty grid for none

Since r is p with something added, q is the product of both matrices on (x, y, 1) with
the displacement turned by `inner` added. So rows are steps of equal length, with or
without a displacement, and that of an output row comes as two rows of numbers.

A row goes through stages, each a loop over arrays in the first-level cache: where its
pixels come from (`place_row`), what stands there, and what becomes of it. Of these
only the loading is not done by vector instructions. One loop for all took five times
as long: compilers then use none at all.
"""

import numpy as np

from fastseg._kernels.augment.coordinates import (
    BLOCK,
    SLACK,
    fill_outside,
    inside_span,
    inverse,
    is_whole,
    join_affines,
    place_folded,
    place_row,
    used_span,
)
from fastseg._kernels.augment.interpolation import (
    join_pairs,
    load_pixels,
    mix_cubic,
    mix_pixels,
    mix_quads,
    view_quads,
)
from fastseg._kernels.augment.spline import (
    CONSTANT,
    EDGE,
    REACH,
    REFLECT,
    displace_point,
    displace_row,
    spline_coefficients,
    stretch_control,
    turn_control,
)
from fastseg._kernels.jit import inlined, kernel

F = np.float32

NEAREST, LINEAR, CUBIC = 0, 1, 3

# Beyond an edge that goes on for ever, ripples of the spline are kept for so many
# pixels, as scipy does.
RIPPLES = 12


@kernel
def greatest_sizes(control):
    """Return the greatest size of dx and of dy that control points can cause."""
    dx = dy = 0.0
    for j in range(control.shape[0]):
        for i in range(control.shape[1]):
            dx = max(dx, abs(control[j, i, 0]))
            dy = max(dy, abs(control[j, i, 1]))
    return dx, dy


@kernel
def start_bend(control, spacing, outer, inner, width, room):
    """Return what `bend_row` needs for all rows of an output.

    turned : float64 (gy, gx, 2), the displacement turned by inner
    lines  : as `stretch_control` has them; empty where output columns are no columns
        of the control points' frame, or there is no displacement
    """
    turned = turn_control(control, inner)
    if control.shape[0] > 0 and outer[0, 1] == 0.0 and outer[1, 0] == 0.0:
        lines = stretch_control(turned, spacing, outer[0, 0], outer[0, 2], width, room)
    else:
        lines = np.empty((0, 2, room), F)
    return turned, lines


@inlined
def bend_row(turned, lines, spacing, outer, row, width, bend_x, bend_y):
    """Write the displacements of an output row.

    bend_x, bend_y : float32, overwritten up to width
    """
    if lines.shape[0] > 0:
        displace_row(
            lines,
            spacing,
            outer[1, 1] * row + outer[1, 2],
            bend_x[:width],
            bend_y[:width],
        )
    else:
        for k in range(width):
            bend_x[k], bend_y[k] = displace_point(
                turned,
                spacing,
                outer[0, 0] * k + outer[0, 1] * row + outer[0, 2],
                outer[1, 0] * k + outer[1, 1] * row + outer[1, 2],
            )


@kernel
def warp_image(
    image, outer, control, spacing, inner,
    order, border, fill, shift, gain, low, high, out,
):  # fmt: skip
    """Resample, and scale: out = min(max((value - shift) * gain, low), high).

    image  : integers (H, W), C-contiguous
    outer, control, spacing, inner : the mapping, as the module has it
    order  : NEAREST, LINEAR, or CUBIC, a B-spline through the pixels
    border : what points outside the outermost pixel centres show: CONSTANT `fill`, as
        it is; the nearest pixel at the EDGE; or the image REFLECTed, d c b a | a b c d
    out    : float32 (h, w), C-contiguous, every cell is written

    As scipy.ndimage.map_coordinates interpolates in its modes constant, nearest and
    reflect, to float32 rounding and 1e-5 of a pixel. Where pixel centres come from
    pixel centres, they have exactly the values that `gather_images` gives.
    """
    fill, shift, gain, low, high = F(fill), F(shift), F(gain), F(low), F(high)
    height, width = image.shape
    last_x, last_y = width - 1.0, height - 1.0
    rows, columns = out.shape
    room = (columns + BLOCK - 1) // BLOCK * BLOCK + BLOCK
    matrix = join_affines(inner, outer)
    bent = control.shape[0] > 0
    if not bent and is_whole(matrix):
        order = NEAREST
    turned, lines = start_bend(control, spacing, outer, inner, columns, room)
    reach_x, reach_y = greatest_sizes(turned)
    dx, dy = matrix[0, 0], matrix[1, 0]
    per_x, per_y = inverse(dx), inverse(dy)

    # The part of the image that is needed, made ready for its order.
    grow = 2 * REACH if order == CUBIC else 2
    left, right = used_span(
        matrix[0, 2], dx * columns, matrix[0, 1] * rows, reach_x, width, grow, border
    )
    top, bottom = used_span(
        matrix[1, 2], dy * columns, matrix[1, 1] * rows, reach_y, height, grow, border
    )
    used = (bottom - top) * (right - left)
    cells = image.reshape(image.size)
    margin = 0
    ripples = 0.0
    pairs = np.zeros(2, np.uint32)
    coefficients = np.empty((0, 0), F)
    in_quads = order == LINEAR and image.itemsize <= 2 and used <= 4 * out.size
    stride = width
    if in_quads:
        pairs = np.empty((used + 2) // 2 * 2, np.uint32)
        join_pairs(image, top, bottom, left, right, pairs)
        stride = right - left
    elif order == CUBIC:
        if border == EDGE:
            ripples = float(RIPPLES)
        elif border == REFLECT:
            ripples = 0.5
        margin = 2 if border != EDGE else RIPPLES + 2
        coefficients = spline_coefficients(
            image, top, bottom, left, right, border, margin
        )
        stride = coefficients.shape[1]
    else:
        left, top, right, bottom = 0, 0, width, height
    quads = view_quads(pairs)
    spline_cells = coefficients.reshape(coefficients.size)
    bias = np.uint32(0x8000 if np.iinfo(image.dtype).min < 0 else 0)

    nearest = order == NEAREST
    low_x, high_x = margin - ripples, margin + right - left - 1 + ripples
    low_y, high_y = margin - ripples, margin + bottom - top - 1 + ripples
    places = np.empty(room, np.int32)
    share_x, share_y = np.empty(room, F), np.empty(room, F)
    bend_x, bend_y = np.zeros(room, F), np.zeros(room, F)
    pixels = np.empty(room, image.dtype)
    flat = out.reshape(out.size)
    loaded = np.empty(room, np.uint64)
    halves = loaded.view(np.uint32)  # low half first: little-endian machines
    weights = np.empty((8, room if order == CUBIC else 0), F)
    sums = np.empty(4 * weights.shape[1], F)
    for row in range(rows):
        x0 = matrix[0, 1] * row + matrix[0, 2]
        y0 = matrix[1, 1] * row + matrix[1, 2]
        line = out[row]
        first, stop = 0, columns
        if bent:
            bend_row(turned, lines, spacing, outer, row, columns, bend_x, bend_y)
        elif border == CONSTANT:
            first, stop = inside_span(
                x0, y0, per_x, per_y, -SLACK, -SLACK, last_x, last_y, columns
            )
            line[:first] = fill
            line[stop:] = fill
        part = line[first:stop]
        if border == REFLECT:
            place_folded(
                x0 + first * dx, y0 + first * dy, dx, dy, len(part),
                bent, bend_x, bend_y, nearest, width, height, left, top, margin,
                low_x, high_x, low_y, high_y, stride, places, share_x, share_y,
            )  # fmt: skip
        else:
            place_row(
                x0 + first * dx + (margin - left), y0 + first * dy + (margin - top),
                dx, dy, len(part), bent, bend_x, bend_y, nearest,
                low_x, high_x, low_y, high_y, stride, places, share_x, share_y,
            )  # fmt: skip
        if in_quads:
            load_pixels(quads, places, loaded[: len(part)])
            mix_quads(
                halves, bias, share_x, share_y, shift, gain, low, high,
                flat, row * columns + first, stop - first,
            )  # fmt: skip
        elif order == LINEAR:
            mix_pixels(
                cells, width, places, share_x, share_y, shift, gain, low, high, part
            )
        elif order == CUBIC:
            mix_cubic(
                spline_cells, stride, places, share_x, share_y, weights, sums,
                shift, gain, low, high, part,
            )  # fmt: skip
        else:
            values = pixels[: len(part)]
            load_pixels(cells, places, values)
            for k in range(len(part)):
                part[k] = min(max((F(values[k]) - shift) * gain, low), high)
        if bent and border == CONSTANT:
            first, stop = inside_span(
                x0, y0, per_x, per_y, reach_x, reach_y, last_x, last_y, columns
            )
            fill_outside(
                x0, y0, dx, dy, bend_x, bend_y, last_x, last_y, 0, fill, line[:first]
            )
            fill_outside(
                x0, y0, dx, dy, bend_x, bend_y, last_x, last_y, stop, fill, line
            )


@kernel
def warp_mask(mask, outer, control, spacing, inner, out):
    """Take the nearest pixels of a mask, 0 outside the outermost pixel centres.

    mask : integers (H, W), C-contiguous
    outer, control, spacing, inner : the mapping, as the module has it
    out  : of the same dtype (h, w), C-contiguous, every cell is written

    The first of two that are as near: as scipy.ndimage.map_coordinates does with
    order 0 and mode constant, to 1e-5 of a pixel.
    """
    height, width = mask.shape
    last_x, last_y = width - 1.0, height - 1.0
    rows, columns = out.shape
    room = (columns + BLOCK - 1) // BLOCK * BLOCK + BLOCK
    matrix = join_affines(inner, outer)
    bent = control.shape[0] > 0
    turned, lines = start_bend(control, spacing, outer, inner, columns, room)
    reach_x, reach_y = greatest_sizes(turned)
    dx, dy = matrix[0, 0], matrix[1, 0]
    per_x, per_y = inverse(dx), inverse(dy)
    cells = mask.reshape(mask.size)
    none = mask.dtype.type(0)
    places = np.empty(room, np.int32)
    share_x, share_y = np.empty(room, F), np.empty(room, F)
    bend_x, bend_y = np.zeros(room, F), np.zeros(room, F)
    for row in range(rows):
        x0 = matrix[0, 1] * row + matrix[0, 2]
        y0 = matrix[1, 1] * row + matrix[1, 2]
        line = out[row]
        first, stop = 0, columns
        if bent:
            bend_row(turned, lines, spacing, outer, row, columns, bend_x, bend_y)
        else:
            first, stop = inside_span(
                x0, y0, per_x, per_y, -SLACK, -SLACK, last_x, last_y, columns
            )
            line[:first] = none
            line[stop:] = none
        part = line[first:stop]
        place_row(
            x0 + first * dx, y0 + first * dy, dx, dy, len(part), bent, bend_x, bend_y,
            True, 0.0, last_x, 0.0, last_y, width, places, share_x, share_y,
        )  # fmt: skip
        load_pixels(cells, places, part)
        if bent:
            first, stop = inside_span(
                x0, y0, per_x, per_y, reach_x, reach_y, last_x, last_y, columns
            )
            fill_outside(
                x0, y0, dx, dy, bend_x, bend_y, last_x, last_y, 0, none, line[:first]
            )
            fill_outside(
                x0, y0, dx, dy, bend_x, bend_y, last_x, last_y, stop, none, line
            )
