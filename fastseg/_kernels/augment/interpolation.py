"""What stands between pixels: a row of points at a time, found by `places`."""

import numpy as np
from numpy.lib.stride_tricks import as_strided

from fastseg._kernels.jit import fma, inlined, kernel

F = np.float32
I = np.int32  # noqa: E741 (beside F)
# Pixels that are mixed together, as a loop of constant length.
STRIP = 64
u64 = np.uint64


@inlined
def load_pixels(cells, places, out):
    """Copy cells[places] to out."""
    for k in range(len(out)):
        out[k] = cells[u64(places[k])]


@kernel
def join_pairs(image, top, bottom, left, right, pairs):
    """Put each pixel of a part of an image beside the one below it.

    image : integers of at most 16 bits (H, W); rows [top, bottom), columns
        [left, right) are taken, and the last row goes on below
    pairs : uint32, overwritten; the upper pixel in the low 16 bits
    """
    mask = np.uint32(0xFFFF)
    width = right - left
    for r in range(top, bottom):
        upper = image[r, left:right]
        lower = image[min(r + 1, bottom - 1), left:right]
        line = pairs[(r - top) * width : (r - top + 1) * width]
        for c in range(width):
            line[c] = np.uint32(np.uint32(upper[c]) & mask) | np.uint32(
                np.uint32(lower[c]) << np.uint32(16)
            )
    pairs[(bottom - top) * width :] = 0


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
    upper, lower = fma(x, b - a, a), fma(x, d - c, c)
    return fma(y, lower - upper, upper)


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
def mix_quads(
    halves, bias, share_x, share_y, shift, gain, low, high, out, at, count
):  # fmt: skip
    """Mix and scale the pixels of a row.

    halves : uint32 (2 * n,), low and high half of quads
    share_x, share_y : float32 (n,)
    bias   : uint32, 0x8000 if the pixels are signed, else 0
    out    : float32 (m,); from `at` on, `count` pixels are written, at most n
    """
    begin, strip = u64(at), STRIP if count >= STRIP else 1
    for s in range(0, count, strip):
        # The last whole strip overlaps the one before: pixels left over, one by one,
        # cost as much as a strip of them.
        start = u64(min(s, count - strip))
        for k in range(strip):
            here = start + u64(k)
            left, right = halves[u64(2) * here], halves[u64(2) * here + u64(1)]
            a, c = low_half(left, bias), high_half(left, bias)
            b, d = low_half(right, bias), high_half(right, bias)
            value = mix(a, b, c, d, share_x[here], share_y[here])
            out[begin + here] = min(max((value - shift) * gain, low), high)


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
        # Four sums of four at a time.
        i = u64(places[k]) - below - u64(1)
        j = i + below
        m = j + below
        n = m + below
        p, q, r = u64(1), u64(2), u64(3)
        w0, w1, w2, w3 = e[k], f[k], g[k], h[k]
        t0 = w0 * cells[i] + w1 * cells[j] + w2 * cells[m] + w3 * cells[n]
        t1 = (
            w0 * cells[i + p]
            + w1 * cells[j + p]
            + w2 * cells[m + p]
            + w3 * cells[n + p]
        )
        t2 = (
            w0 * cells[i + q]
            + w1 * cells[j + q]
            + w2 * cells[m + q]
            + w3 * cells[n + q]
        )
        t3 = (
            w0 * cells[i + r]
            + w1 * cells[j + r]
            + w2 * cells[m + r]
            + w3 * cells[n + r]
        )
        at = u64(4) * u64(k)
        sums[at], sums[at + p], sums[at + q], sums[at + r] = t0, t1, t2, t3
    a, b, c, d = weights[0], weights[1], weights[2], weights[3]
    for k in range(len(out)):
        value = (a[k] * sums[4 * k] + b[k] * sums[4 * k + 1]) + (
            c[k] * sums[4 * k + 2] + d[k] * sums[4 * k + 3]
        )
        out[k] = min(max((value - shift) * gain, low), high)
