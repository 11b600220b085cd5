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
only the loading is not done by vector instructions. One loop for all would be a
third slower: processors of today gather no faster than they load one by one, and the
rest of such a loop suffers.
"""

import math

import numpy as np
from numpy.lib.stride_tricks import as_strided

from fastseg._kernels.jit import inlined, kernel
from fastseg._kernels.spline import (
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

F = np.float32
I = np.int32  # noqa: E741 (beside F)
u64 = np.uint64

NEAREST, LINEAR, CUBIC = 0, 1, 3

# Points this far outside the image, in pixels, still count as on its outermost
# centres: a rotation by 180 degrees, made of sines and cosines, is off by 1e-13.
SLACK = 1e-6
# Coordinates are float32, relative to a whole number close by: their error grows with
# the distance from the middle of so many pixels, to 6e-6 of a step between pixels.
BLOCK = 128
# A block's origin is kept within this, where float32 still knows halves.
FARTHEST = 2.0**22
# Beyond an edge that goes on for ever, ripples of the spline are kept for so many
# pixels, as scipy does.
RIPPLES = 12


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
    for value in matrix.flat:
        if value != math.floor(value):
            return False
    return True


@inlined
def span_between(start, step, low, high, count):
    """Return the columns [first, stop) with low <= start + column * step <= high.

    Both are in [0, count].
    """
    if step == 0.0:
        return (0, count) if low <= start <= high else (0, 0)
    one, two = (low - start) / step, (high - start) / step
    first = math.ceil(min(max(min(one, two), 0.0), count))
    last = math.floor(min(max(max(one, two), -1.0), count - 1.0))
    return int(first), int(max(last + 1, first))


@inlined
def inside_span(x0, y0, dx, dy, inset_x, inset_y, last_x, last_y, count):
    """Return the columns [first, stop) whose points lie inside the image by an inset.

    (x0, y0), (dx, dy) : origin of the first pixel, and step from one to the next
    """
    first, stop = span_between(x0, dx, inset_x, last_x - inset_x, count)
    start, end = span_between(y0, dy, inset_y, last_y - inset_y, count)
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
    x0, y0, dx, dy, count, bent, bend_x, bend_y, half,
    low_x, high_x, low_y, high_y, stride, places, share_x, share_y,
):  # fmt: skip
    """Find where the pixels of a row come from, and move points outside to the border.

    (x0, y0), (dx, dy) : origin of the first pixel, and step from one to the next
    count     : pixels; arrays hold them and a BLOCK more, and are filled beyond it
    bend_x, bend_y : float32, added where bent
    half      : float32, 1/2 to round to the nearest pixel, or 0
    low_x ... : multiples of 1/2 that limit points; stride : from one row to the next
    places    : int32, overwritten by y * stride + x of the pixel at or above left
    share_x, share_y : float32, overwritten by what lies between it and the point
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
        block = places[s : s + BLOCK]
        block_x, block_y = share_x[s : s + BLOCK], share_y[s : s + BLOCK]
        more_x, more_y = bend_x[s : s + BLOCK], bend_y[s : s + BLOCK]
        for k in range(BLOCK):
            along = F(I(k - BLOCK // 2))
            x, y = from_x + along * step_x, from_y + along * step_y
            if bent:
                x += more_x[k]
                y += more_y[k]
            x = min(max(x, least_x), most_x)
            y = min(max(y, least_y), most_y)
            column, row = np.floor(x + half), np.floor(y + half)
            block[k] = I(I(I(row) * stride32) + I(column)) + origin
            block_x[k] = x - column
            block_y[k] = y - row


@inlined
def place_folded(
    x0, y0, dx, dy, count, bent, bend_x, bend_y, half, width, height, left, top, margin,
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
        column, row = np.floor(x + half), np.floor(y + half)
        places[k] = int(row) * stride + int(column)
        share_x[k] = x - column
        share_y[k] = y - row


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
def load_pixels(cells, places, out):
    """Copy cells[places] to out."""
    for k in range(len(out)):
        out[k] = cells[u64(places[k])]


@kernel
def join_pairs(image, pairs):
    """Put each pixel beside the one below it.

    image : integers of at most 16 bits (H, W), whose last row goes on below
    pairs : uint32 (H * W + 1 or more,), overwritten; the upper pixel in the low 16 bits
    """
    mask = np.uint32(0xFFFF)
    height, width = image.shape
    for r in range(height):
        upper, lower = image[r], image[min(r + 1, height - 1)]
        line = pairs[r * width : (r + 1) * width]
        for c in range(width):
            line[c] = np.uint32(np.uint32(upper[c]) & mask) | np.uint32(
                np.uint32(lower[c]) << np.uint32(16)
            )
    pairs[height * width :] = 0


@inlined
def view_quads(pairs):
    """Return uint64 (n - 1,): each pair, in its low half, with the one on its right.

    They overlap, so four pixels are loaded at once: twice as fast as one by one, and
    8 us per image of 256 x 256 less than writing them side by side. Read only.
    """
    return as_strided(pairs.view(np.uint64), (len(pairs) - 1,), (4,))


@inlined
def mix(a, b, c, d, x, y):
    """Return what lies between four values; exactly one of them if x and y are 0."""
    left, up = F(1) - x, F(1) - y
    return (a * left + b * x) * up + (c * left + d * x) * y


@inlined
def low_half(word, bias):
    """Return the value of the low 16 bits of a uint32; bias as `mix_quads` has it."""
    # Turning over the sign's bit adds as much as is taken off: a number's sign spreads.
    bits = np.uint32(np.uint32(word & np.uint32(0xFFFF)) ^ bias)
    return F(I(I(bits) - I(bias)))


@inlined
def high_half(word, bias):
    """Return the value of the high 16 bits."""
    bits = np.uint32(np.uint32(word >> np.uint32(16)) ^ bias)
    return F(I(I(bits) - I(bias)))


@inlined
def mix_quads(halves, bias, share_x, share_y, shift, gain, low, high, out):
    """Mix and scale the pixels of a row.

    halves : uint32 (2 * n,), low and high half of quads
    bias   : uint32, 0x8000 if the pixels are signed, else 0
    """
    for k in range(len(out)):
        left, right = halves[2 * k], halves[2 * k + 1]
        a, c = low_half(left, bias), high_half(left, bias)
        b, d = low_half(right, bias), high_half(right, bias)
        value = mix(a, b, c, d, share_x[k], share_y[k])
        out[k] = min(max((value - shift) * gain, low), high)


@inlined
def mix_pixels(cells, width, places, share_x, share_y, shift, gain, low, high, out):
    """Load, mix and scale the pixels of a row, of any dtype."""
    last, below = u64(len(cells) - 1), u64(width)
    for k in range(len(out)):
        here = u64(places[k])
        # At the ends, what is loaded counts nothing, but must exist.
        a, b = F(cells[here]), F(cells[min(here + u64(1), last)])
        c, d = (
            F(cells[min(here + below, last)]),
            F(cells[min(here + below + u64(1), last)]),
        )
        value = mix(a, b, c, d, share_x[k], share_y[k])
        out[k] = min(max((value - shift) * gain, low), high)


@inlined
def mix_cubic(
    cells, wide, places, share_x, share_y, weights, sums, shift, gain, low, high, out
):
    """Sum 4 by 4 coefficients around each point of a row, and scale.

    cells   : float32 coefficients, 1-D; wide : of one row of them
    places  : of the coefficient at or above left of the point
    weights : float32 (8, n), and
    sums    : float32 (4 * n,), are overwritten
    """
    for axis in range(2):
        shares = share_x if axis == 0 else share_y
        w0, w1 = weights[4 * axis], weights[4 * axis + 1]
        w2, w3 = weights[4 * axis + 2], weights[4 * axis + 3]
        for k in range(len(out)):
            t = shares[k]
            s = F(1) - t
            w0[k] = s * s * s * F(1 / 6)
            w1[k] = F(2 / 3) - t * t * (F(2) - t) * F(0.5)
            w2[k] = F(2 / 3) - s * s * (F(2) - s) * F(0.5)
            w3[k] = t * t * t * F(1 / 6)
    e, f, g, h = weights[4], weights[5], weights[6], weights[7]
    below = u64(wide)
    for k in range(len(out)):
        # Four sums of four at a time, stored side by side: so compilers use vectors.
        i = u64(places[k]) - below - u64(1)
        j = i + below
        m = j + below
        n = m + below
        p, q, r = u64(1), u64(2), u64(3)
        w0, w1, w2, w3 = e[k], f[k], g[k], h[k]
        t0 = w0 * cells[i] + w1 * cells[j] + w2 * cells[m] + w3 * cells[n]
        t1 = w0 * cells[i + p] + w1 * cells[j + p] + w2 * cells[m + p] + w3 * cells[n + p]
        t2 = w0 * cells[i + q] + w1 * cells[j + q] + w2 * cells[m + q] + w3 * cells[n + q]
        t3 = w0 * cells[i + r] + w1 * cells[j + r] + w2 * cells[m + r] + w3 * cells[n + r]
        at = u64(4) * u64(k)
        sums[at], sums[at + p], sums[at + q], sums[at + r] = t0, t1, t2, t3
    a, b, c, d = weights[0], weights[1], weights[2], weights[3]
    for k in range(len(out)):
        value = (a[k] * sums[4 * k] + b[k] * sums[4 * k + 1]) + (
            c[k] * sums[4 * k + 2] + d[k] * sums[4 * k + 3]
        )
        out[k] = min(max((value - shift) * gain, low), high)


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

    bend_x, bend_y : float32 (room,), overwritten up to width at least
    """
    if lines.shape[0] > 0:
        displace_row(lines, spacing, outer[1, 1] * row + outer[1, 2], bend_x, bend_y)
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

    # The part of the image that is needed, made ready for its order.
    grow = 2 * REACH if order == CUBIC else 2
    left, right = used_span(
        matrix[0, 2], dx * columns, matrix[0, 1] * rows, reach_x, width, grow, border
    )
    top, bottom = used_span(
        matrix[1, 2], dy * columns, matrix[1, 1] * rows, reach_y, height, grow, border
    )
    window = image[top:bottom, left:right]
    cells = image.reshape(image.size)
    margin = 0
    ripples = 0.0
    pairs = np.zeros(2, np.uint32)
    coefficients = np.empty((0, 0), F)
    in_quads = (
        order == LINEAR and image.itemsize <= 2 and window.size <= 4 * out.size
    )
    stride = width
    if in_quads:
        pairs = np.empty((window.size + 2) // 2 * 2, np.uint32)
        join_pairs(window, pairs)
        stride = right - left
    elif order == CUBIC:
        if border == EDGE:
            ripples = float(RIPPLES)
        elif border == REFLECT:
            ripples = 0.5
        margin = 2 if border != EDGE else RIPPLES + 2
        coefficients = spline_coefficients(window, border, margin)
        stride = coefficients.shape[1]
    else:
        left, top, right, bottom = 0, 0, width, height
    quads = view_quads(pairs)
    spline_cells = coefficients.reshape(coefficients.size)
    bias = np.uint32(0x8000 if np.iinfo(image.dtype).min < 0 else 0)

    half = F(0.5 if order == NEAREST else 0.0)
    low_x, high_x = margin - ripples, margin + right - left - 1 + ripples
    low_y, high_y = margin - ripples, margin + bottom - top - 1 + ripples
    places = np.empty(room, np.int32)
    share_x, share_y = np.empty(room, F), np.empty(room, F)
    bend_x, bend_y = np.zeros(room, F), np.zeros(room, F)
    pixels = np.empty(room, image.dtype)
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
                x0, y0, dx, dy, -SLACK, -SLACK, last_x, last_y, columns
            )
            line[:first] = fill
            line[stop:] = fill
        part = line[first:stop]
        if border == REFLECT:
            place_folded(
                x0 + first * dx, y0 + first * dy, dx, dy, len(part),
                bent, bend_x, bend_y, half, width, height, left, top, margin,
                low_x, high_x, low_y, high_y, stride, places, share_x, share_y,
            )  # fmt: skip
        else:
            place_row(
                x0 + first * dx + (margin - left), y0 + first * dy + (margin - top),
                dx, dy, len(part), bent, bend_x, bend_y, half,
                low_x, high_x, low_y, high_y, stride, places, share_x, share_y,
            )  # fmt: skip
        if in_quads:
            load_pixels(quads, places, loaded[: len(part)])
            mix_quads(halves, bias, share_x, share_y, shift, gain, low, high, part)
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
                x0, y0, dx, dy, reach_x, reach_y, last_x, last_y, columns
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
                x0, y0, dx, dy, -SLACK, -SLACK, last_x, last_y, columns
            )
            line[:first] = none
            line[stop:] = none
        part = line[first:stop]
        place_row(
            x0 + first * dx, y0 + first * dy, dx, dy, len(part), bent, bend_x, bend_y,
            F(0.5), 0.0, last_x, 0.0, last_y, width, places, share_x, share_y,
        )  # fmt: skip
        load_pixels(cells, places, part)
        if bent:
            first, stop = inside_span(
                x0, y0, dx, dy, reach_x, reach_y, last_x, last_y, columns
            )
            fill_outside(
                x0, y0, dx, dy, bend_x, bend_y, last_x, last_y, 0, none, line[:first]
            )
            fill_outside(
                x0, y0, dx, dy, bend_x, bend_y, last_x, last_y, stop, none, line
            )
