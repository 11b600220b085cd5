"""The value at each point of a row, interpolated between pixels.

`coordinates` gives the Points: for each, the index of pixel (floor(x), floor(y)) in the
flat image, and the fractional parts of x and y.
"""

from typing import NamedTuple

import numpy as np

from fastseg._kernels.jit import empty, fma, inlined, kernel, overlapping

F = np.float32
I = np.int32  # noqa: E741 (int32, as F is float32)
# Pixels that are interpolated together, in a loop of constant length.
STRIP = 64
u64 = np.uint64


class Scaling(NamedTuple):
    """How an image's values become those of a batch; all float32.

    shift, gain, low, high : min(max((value - shift) * gain, low), high)
    fill : what points outside the image get if the border is CONSTANT, not scaled
    """

    shift: np.float32
    gain: np.float32
    low: np.float32
    high: np.float32
    fill: np.float32


@inlined
def scale(value, scaling):
    """Return a value, float32, as a Scaling says."""
    scaled = (value - scaling.shift) * scaling.gain
    return min(max(scaled, scaling.low), scaling.high)


@inlined
def load_pixels(cells, indices, out):
    """Copy cells[indices] to out."""
    for k in range(len(out)):
        out[k] = cells[u64(indices[k])]


@kernel
def load_quads(image, top, bottom, left, right):
    """Return a rectangle of an image with four neighbouring pixels in each cell.

    image : integers of at most 16 bits (H, W), of which rows [top, bottom) and columns
        [left, right) are used; below the last row, it is repeated

    Returns uint64 (n,), not to be written to, as neighbours overlap. Each cell has in
    its low half a pixel, in the low 16 bits, and the pixel below it; in its high half
    the same of the pixel to the right. One load then brings four pixels: twice as fast
    as one by one, and 8 us per image of 256 x 256 faster than writing the cells out.
    """
    mask = np.uint32(0xFFFF)
    width = right - left
    pairs = empty(((bottom - top) * width + 2) // 2 * 2, np.uint32)
    for r in range(top, bottom):
        upper = image[r, left:right]
        lower = image[min(r + 1, bottom - 1), left:right]
        line = pairs[(r - top) * width : (r - top + 1) * width]
        for c in range(width):
            line[c] = np.uint32(np.uint32(upper[c]) & mask) | np.uint32(
                np.uint32(lower[c]) << np.uint32(16)
            )
    for k in range((bottom - top) * width, len(pairs)):
        pairs[k] = 0
    return overlapping(pairs, np.uint64)


@inlined
def bilinear(a, b, c, d, x, y):
    """Return the bilinear interpolation of a, b and, in the row below, c, d.

    x, y : fractions of a pixel from a; exactly a at (0, 0)
    """
    upper, lower = fma(x, b - a, a), fma(x, d - c, c)
    return fma(y, lower - upper, upper)


@inlined
def low_half(word, bias):
    """Return the pixel in the low 16 bits of a uint32, see `interpolate_quads`."""
    # Flipping the sign bit, then subtracting it, extends the sign to 32 bits.
    bits = np.uint32(np.uint32(word & np.uint32(0xFFFF)) ^ bias)
    return F(I(I(bits) - I(bias)))


@inlined
def high_half(word, bias):
    """Return the pixel in the high 16 bits of a uint32."""
    bits = np.uint32(np.uint32(word >> np.uint32(16)) ^ bias)
    return F(I(I(bits) - I(bias)))


@inlined
def interpolate_quads(halves, bias, points, scaling, out, at, count):
    """Interpolate bilinearly and scale the pixels of a row.

    halves : uint32 (2 * n,), low and high half of each point's cell of `load_quads`
    bias   : uint32, 0x8000 if the pixels are signed, else 0
    points : Points
    out    : float32 (m,), out[at : at + count] is written; count is at most n
    """
    begin = u64(at)
    _, fraction_x, fraction_y = points
    strip = STRIP if count >= STRIP else 1
    for s in range(0, count, strip):
        # The last strip overlaps the one before it: a remainder, pixel by pixel, would
        # take as long as a whole strip.
        start = u64(min(s, count - strip))
        for k in range(strip):
            here = start + u64(k)
            left, right = halves[u64(2) * here], halves[u64(2) * here + u64(1)]
            a, c = low_half(left, bias), high_half(left, bias)
            b, d = low_half(right, bias), high_half(right, bias)
            value = bilinear(a, b, c, d, fraction_x[here], fraction_y[here])
            out[begin + here] = scale(value, scaling)


@inlined
def interpolate_pixels(cells, width, points, scaling, out):
    """Load, interpolate bilinearly and scale the pixels of a row, of any dtype.

    cells : the flat image, of `width` columns
    """
    last = u64(len(cells) - 1)
    below = u64(width)
    indices, fraction_x, fraction_y = points
    for k in range(len(out)):
        here = u64(indices[k])
        # Beyond the end, the weight is 0, but the load must stay in the array.
        a, b = F(cells[here]), F(cells[min(here + u64(1), last)])
        c, d = (
            F(cells[min(here + below, last)]),
            F(cells[min(here + below + u64(1), last)]),
        )
        out[k] = scale(bilinear(a, b, c, d, fraction_x[k], fraction_y[k]), scaling)


@inlined
def interpolate_cubic(cells, stride, points, weights, sums, scaling, out):
    """Sum the 4 by 4 weighted spline coefficients around each point, and scale.

    cells   : float32, the flat array of coefficients
    stride  : number of coefficients in a row
    points  : Points, whose indices are those of coefficients
    weights : float32 (8, n), overwritten
    sums    : float32 (4 * n,), overwritten
    """
    indices, fraction_x, fraction_y = points
    for axis in range(2):
        fractions = fraction_x if axis == 0 else fraction_y
        w0, w1 = weights[4 * axis], weights[4 * axis + 1]
        w2, w3 = weights[4 * axis + 2], weights[4 * axis + 3]
        for k in range(len(out)):
            t = fractions[k]
            s = F(1) - t
            w0[k] = s * s * s * F(1 / 6)
            w1[k] = F(2 / 3) - t * t * (F(2) - t) * F(0.5)
            w2[k] = F(2 / 3) - s * s * (F(2) - s) * F(0.5)
            w3[k] = t * t * t * F(1 / 6)
    e, f, g, h = weights[4], weights[5], weights[6], weights[7]
    below = u64(stride)
    for k in range(len(out)):
        # For each of the four columns, the weighted sum of its four rows.
        i = u64(indices[k]) - below - u64(1)
        j = i + below
        m = j + below
        n = m + below
        p, q, r = u64(1), u64(2), u64(3)
        v0, v1, v2, v3 = e[k], f[k], g[k], h[k]
        t0 = v0 * cells[i] + v1 * cells[j] + v2 * cells[m] + v3 * cells[n]
        t1 = (
            v0 * cells[i + p]
            + v1 * cells[j + p]
            + v2 * cells[m + p]
            + v3 * cells[n + p]
        )
        t2 = (
            v0 * cells[i + q]
            + v1 * cells[j + q]
            + v2 * cells[m + q]
            + v3 * cells[n + q]
        )
        t3 = (
            v0 * cells[i + r]
            + v1 * cells[j + r]
            + v2 * cells[m + r]
            + v3 * cells[n + r]
        )
        at = u64(4) * u64(k)
        sums[at], sums[at + p], sums[at + q], sums[at + r] = t0, t1, t2, t3
    a, b, c, d = weights[0], weights[1], weights[2], weights[3]
    for k in range(len(out)):
        value = (a[k] * sums[4 * k] + b[k] * sums[4 * k + 1]) + (
            c[k] * sums[4 * k + 2] + d[k] * sums[4 * k + 3]
        )
        out[k] = scale(value, scaling)
