"""Resample an image or a mask through a mapping, see `mapping`.

Each output row goes through loops over arrays in the first-level cache: find the points
(`map_row`), load the pixels there, interpolate and scale. With CUBIC, and for pixels
that are not packed in quads, one loop loads and interpolates. A single loop for all
took five times as long, because compilers do not vectorize it.
"""

from typing import Any, NamedTuple

import numpy as np

from fastseg._kernels.augment.coordinates import (
    Area,
    Field,
    Frame,
    Points,
    columns_inside,
    fill_row_outside,
    line_of,
    map_row,
    map_row_reflected,
    range_needed,
    row_capacity,
)
from fastseg._kernels.augment.interpolation import (
    interpolate_cubic,
    interpolate_pixels,
    interpolate_quads,
    load_pixels,
    load_quads,
    scale,
)
from fastseg._kernels.augment.mapping import is_whole
from fastseg._kernels.augment.spline import (
    CONSTANT,
    REACH,
    REFLECT,
    displace_row,
    prepare_bend,
    spline_coefficients,
)
from fastseg._kernels.jit import empty, flat, inlined, kernel, reinterpret, zeros

F = np.float32

NEAREST, LINEAR, CUBIC = 0, 1, 3
# Spline coefficients outside the used pixels that points between these need.
MARGIN = 2


class Sampling(NamedTuple):
    """How images are resampled.

    order  : NEAREST, LINEAR, or CUBIC, a B-spline through the pixels
    border : what points outside the image show, which reaches RIM beyond the outermost
        pixel centres. CONSTANT: the `fill` of a Scaling; EDGE: the nearest pixel;
        REFLECT: the image reflected, d c b a | a b c d
    """

    order: int
    border: int


@inlined
def empty_points(capacity):
    """Return Points of a row."""
    return Points(empty(capacity, np.int32), empty(capacity, F), empty(capacity, F))


@inlined
def empty_field(capacity, is_used):
    """Return a Field of a row, zeros."""
    return Field(zeros(capacity, F), zeros(capacity, F), is_used)


@inlined
def fill_ends(cells, first, stop, value):
    """Set all cells of a row outside [first, stop) to a value."""
    before, behind = cells[:first], cells[stop:]
    for k in range(len(before)):
        before[k] = value
    for k in range(len(behind)):
        behind[k] = value


@inlined
def fill_field(bend, outer, row, width, field):
    """Write the displacement of each pixel of an output row to a Field, up to width."""
    if len(bend.lines) > 0:
        displace_row(
            bend.lines,
            bend.spacing,
            outer.yy * row + outer.y0,
            field.x[:width],
            field.y[:width],
        )
    else:
        field_x, field_y, _ = field
        row_x, row_y = bend.rows[row, 0], bend.rows[row, 1]
        for k in range(width):
            field_x[k], field_y[k] = row_x[k], row_y[k]


@inlined
def has_bend(bend):
    """Return whether a Bend displaces anything."""
    return len(bend.lines) > 0 or len(bend.rows) > 0


@inlined
def find_points(
    mapping, row, columns, bend, field, border, nearest, frame, area, points
):  # fmt: skip
    """Find the points of an output row; return the columns [first, stop) they are of.

    columns : of the output
    bend    : Bend or None
    field   : Field for it, overwritten; None for None
    border  : as in Sampling
    nearest : whether to round points to pixels
    frame   : Frame
    area    : Area
    points  : Points, overwritten; the first one is that of column `first`

    What [first, stop) leaves out is outside the image, and the border is CONSTANT.
    Where something is displaced, these are all columns.
    """
    line = line_of(mapping.whole, row)
    first, stop = 0, columns
    is_displaced = False
    if bend is not None:
        is_displaced = field.is_used
        if is_displaced:
            fill_field(bend, mapping.outer, row, columns, field)
    if not is_displaced and border == CONSTANT:
        last_x, last_y = frame.width - 1.0, frame.height - 1.0
        first, stop = columns_inside(line, 0.0, 0.0, last_x, last_y, columns)
    x0, y0 = line.x + first * line.step_x, line.y + first * line.step_y
    count = stop - first
    if bend is not None and border == REFLECT:
        map_row_reflected(x0, y0, line, count, field, nearest, frame, area, points)
    else:
        x0, y0 = x0 + (frame.margin - frame.left), y0 + (frame.margin - frame.top)
        map_row(x0, y0, line, count, field, nearest, area, points)
    return first, stop


@kernel
def bend_of(displacement, mapping, height, width):
    """Return the Bend of a displacement for an output (height, width); None for None.

    All images that are resampled alike share it.
    """
    if displacement is None:
        return None
    return prepare_bend(displacement, mapping, height, width, row_capacity(width))


@kernel
def warp_image(image, mapping, bend, sampling, scaling, out):
    """Resample an image, and scale.

    image    : integers (H, W), C-contiguous
    mapping  : Mapping
    bend     : what `bend_of` returns. With None, the code for CUBIC and REFLECT is left
        out, too
    sampling : Sampling
    scaling  : Scaling
    out      : float32 (h, w), C-contiguous, every cell is written

    Points of the image beyond the outermost pixel centres show the nearest point
    between these. At points between these, the values equal those of
    scipy.ndimage.map_coordinates in its modes constant, nearest and reflect, up to
    float32 rounding and an error of each point of 1e-5 of a pixel, times the step from
    point to point if this is above one pixel. Where a computed point is exactly a pixel
    centre, the output gets exactly the value that `gather_images` gives; with CUBIC,
    only if there is no displacement and the matrix is whole (`is_whole`).
    """
    order, border = sampling.order, sampling.border
    height, width = image.shape
    rows, columns = out.shape
    capacity = row_capacity(columns)
    whole = mapping.whole
    is_displaced = False
    reach_x = reach_y = 0.0
    field: Any = None
    if bend is not None:
        is_displaced = has_bend(bend)
        reach_x, reach_y = bend.reach_x, bend.reach_y
        field = empty_field(capacity, is_displaced)
    if not is_displaced and is_whole(whole):
        order = NEAREST

    # Find the rows and columns that are needed, and prepare them for interpolation.
    grow = 2 * REACH if order == CUBIC else 2
    left, right = range_needed(
        whole.x0, whole.xx * columns, whole.xy * rows, reach_x, width, grow, border
    )
    top, bottom = range_needed(
        whole.y0, whole.yx * columns, whole.yy * rows, reach_y, height, grow, border
    )
    used = (bottom - top) * (right - left)
    # Packing takes time for each used pixel: too much if the output is far smaller than
    # the used part of the image.
    in_quads = order == LINEAR and image.itemsize <= 2 and used <= 4 * out.size
    stride, margin = width, 0
    if in_quads:
        stride = right - left
    elif order == CUBIC:
        margin = MARGIN
        stride = right - left + 2 * margin
    else:
        left, top, right, bottom = 0, 0, width, height
    quads = load_quads(image, top, bottom if in_quads else top, left, right)
    if bend is not None:
        coefficients = empty(0, F)
        if order == CUBIC:
            coefficients = flat(
                spline_coefficients(image, top, bottom, left, right, border, margin)
            )
        weights = empty((8, capacity if order == CUBIC else 0), F)
        sums = empty(4 * weights.shape[1], F)
    cells, out_cells = flat(image), flat(out)
    bias = np.uint32(0x8000 if np.iinfo(image.dtype).min < 0 else 0)
    area = Area(
        float(margin),
        float(margin + right - left - 1),
        float(margin),
        float(margin + bottom - top - 1),
        stride,
    )
    nearest = order == NEAREST
    points = empty_points(capacity)
    pixels = empty(capacity, image.dtype)
    loaded = empty(capacity, np.uint64)
    halves = reinterpret(loaded, np.uint32)  # low half first, on little-endian machines
    frame = Frame(width, height, left, top, margin)
    for row in range(rows):
        cells_out = out[row]
        first, stop = find_points(
            mapping, row, columns, bend, field, border, nearest, frame, area, points
        )
        fill_ends(cells_out, first, stop, scaling.fill)
        count = stop - first
        span = cells_out[first:stop]
        if in_quads:
            load_pixels(quads, points.indices, loaded[:count])
            at = row * columns + first
            interpolate_quads(halves, bias, points, scaling, out_cells, at, count)
        elif order == LINEAR:
            interpolate_pixels(cells, width, points, scaling, span)
        elif order == NEAREST:
            load_pixels(cells, points.indices, pixels[:count])
            for k in range(count):
                span[k] = scale(F(pixels[k]), scaling)
        elif bend is not None:
            interpolate_cubic(
                coefficients, stride, points, weights, sums, scaling, span
            )
        if bend is not None and is_displaced and border == CONSTANT:
            fill_row_outside(
                line_of(whole, row), reach_x, reach_y, field, width - 1.0, height - 1.0,
                scaling.fill, cells_out,
            )  # fmt: skip


@kernel
def warp_mask(mask, mapping, displacement, out):
    """Resample a mask: nearest pixels, and 0 outside the image.

    mask         : integers (H, W), C-contiguous
    mapping      : Mapping
    displacement : Displacement or None
    out          : of the same dtype (h, w), C-contiguous, every cell is written

    What belongs to the image, and the error of each point, are as in `warp_image`. Of
    two equally near pixels, takes the right or lower one.
    """
    height, width = mask.shape
    last_x, last_y = width - 1.0, height - 1.0
    rows, columns = out.shape
    capacity = row_capacity(columns)
    is_displaced = False
    field: Any = None
    if displacement is not None:
        is_displaced = len(displacement.control) > 0
        bend = prepare_bend(displacement, mapping, rows, columns, capacity)
        field = empty_field(capacity, is_displaced)
    cells = flat(mask)
    none = mask.dtype.type(0)
    area = Area(0.0, last_x, 0.0, last_y, width)
    points = empty_points(capacity)
    for row in range(rows):
        line = line_of(mapping.whole, row)
        cells_out = out[row]
        first, stop = 0, columns
        if displacement is not None and is_displaced:
            fill_field(bend, mapping.outer, row, columns, field)
        if not is_displaced:
            first, stop = columns_inside(line, 0.0, 0.0, last_x, last_y, columns)
            fill_ends(cells_out, first, stop, none)
        x0, y0 = line.x + first * line.step_x, line.y + first * line.step_y
        map_row(x0, y0, line, stop - first, field, True, area, points)
        load_pixels(cells, points.indices, cells_out[first:stop])
        if displacement is not None and is_displaced:
            fill_row_outside(
                line, bend.reach_x, bend.reach_y, field, last_x, last_y, none,
                cells_out,
            )  # fmt: skip


@kernel
def clear_outside(height, width, mapping, displacement, out):
    """Set to 0 the pixels of a mask whose points are outside an image.

    height, width : of the image
    mapping       : Mapping
    displacement  : Displacement or None
    out           : integers (h, w), C-contiguous, updated in place
    """
    last_x, last_y = width - 1.0, height - 1.0
    rows, columns = out.shape
    none = out.dtype.type(0)
    reach_x = reach_y = 0.0
    field: Any = None
    if displacement is not None:
        bend = prepare_bend(displacement, mapping, rows, columns, columns)
        reach_x, reach_y = bend.reach_x, bend.reach_y
        field = empty_field(columns, len(displacement.control) > 0)
    for row in range(rows):
        line = line_of(mapping.whole, row)
        if displacement is not None and field.is_used:
            fill_field(bend, mapping.outer, row, columns, field)
        # Without a displacement, all points that need a look are outside.
        fill_row_outside(
            line, reach_x, reach_y, field, last_x, last_y, none, out[row]
        )  # fmt: skip
