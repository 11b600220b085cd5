"""Scan conversion of polygons, exact for every finite float64 vertex.

A row of pixel centres y = r meets an edge a -> b (taken downwards, ya < yb) where
ya <= r < yb. The centre (c, r) lies at or right of the edge exactly when

    D(c) = (c - xa) (yb - ya) - (r - ya) (xb - xa) >= 0,

so the edge toggles all centres of the row from the smallest such c on. Floating
arithmetic finds that c whenever its error bound keeps clear of an integer. What
remains undecided is settled by the sign of D itself, summed without rounding in
an accumulator as wide as all products of two doubles (U. Kulisch, "Computer
Arithmetic and Validity", 2nd ed. 2013, ch. 8).
"""

import math

import numpy as np

from fastseg._kernels.jit import kernel

# Bound on the rounding error of `xa + (r - ya) * dx / dy` relative to
# |xa| + |the offset from it|: seven roundings of 2**-53 each, doubled for comfort.
RELATIVE_ERROR = 16 * 2.0**-53
# Products and quotients below this may have lost bits to underflow.
SMALLEST_SAFE = 1e-280

# The accumulator counts in units of 2**-2272, below the product of the two least
# doubles, in limbs of 32 bits; 140 limbs reach beyond the square of the greatest.
LOWEST_BIT = 2272
LIMBS = 140
LIMB_MASK = 0xFFFFFFFF


@kernel
def add_shifted(limbs, value, shift, sign):
    """Add sign * value * 2**shift to the accumulator; 0 <= value < 2**62."""
    i = shift >> 5
    s = shift & 31
    low = (value & LIMB_MASK) << s
    high = (value >> 32) << s
    limbs[i] += sign * (low & LIMB_MASK)
    limbs[i + 1] += sign * ((low >> 32) + (high & LIMB_MASK))
    limbs[i + 2] += sign * (high >> 32)


@kernel
def add_product(limbs, a, b, sign):
    """Add sign * a * b, not rounded, to the accumulator."""
    if a == 0.0 or b == 0.0:
        return
    if (a < 0.0) != (b < 0.0):
        sign = -sign
    fraction_a, exponent_a = math.frexp(abs(a))
    fraction_b, exponent_b = math.frexp(abs(b))
    whole_a = int(fraction_a * 2.0**53)
    whole_b = int(fraction_b * 2.0**53)
    shift = exponent_a + exponent_b - 106 + LOWEST_BIT
    # Halves of 26 and 27 bits, so that no partial product exceeds 55 bits.
    high_a, low_a = whole_a >> 27, whole_a & 0x7FFFFFF
    high_b, low_b = whole_b >> 27, whole_b & 0x7FFFFFF
    add_shifted(limbs, low_a * low_b, shift, sign)
    add_shifted(limbs, high_a * low_b + low_a * high_b, shift + 27, sign)
    add_shifted(limbs, high_a * high_b, shift + 54, sign)


@kernel
def accumulator_sign(limbs):
    """Return -1, 0 or 1; the limbs are normalised in place."""
    carry = 0
    nonzero = False
    for i in range(LIMBS):
        value = limbs[i] + carry
        carry = value >> 32
        limbs[i] = value & LIMB_MASK
        nonzero |= limbs[i] != 0
    if carry < 0:
        return -1
    return 1 if nonzero else 0


@kernel
def side_of_edge(xa, ya, xb, yb, column, row, limbs):
    """Return the exact sign of D(column): 1 right of the edge, 0 on it, -1 left."""
    limbs[:] = 0
    # D multiplied out; the two terms xa * ya cancel.
    add_product(limbs, column, yb, 1)
    add_product(limbs, column, ya, -1)
    add_product(limbs, xa, yb, -1)
    add_product(limbs, row, xb, -1)
    add_product(limbs, row, xa, 1)
    add_product(limbs, ya, xb, 1)
    return accumulator_sign(limbs)


@kernel
def first_column(xa, ya, xb, yb, row, width):
    """Return the smallest column in [0, width] at or right of the edge (ya < yb)."""
    low, high = 0, width
    step = (row - ya) * (xb - xa)
    offset = step / (yb - ya)
    safe = min(abs(step), abs(offset)) > SMALLEST_SAFE or row == ya or xa == xb
    x = xa + offset
    error = RELATIVE_ERROR * (abs(xa) + abs(offset))
    if safe and error < width:  # false for NaN and infinities as well
        if x - error > width - 1:
            return width
        if x + error <= 0.0:
            return 0
        low = max(0, math.ceil(x - error))
        high = min(width, math.ceil(x + error))
    if low == high:
        return low
    limbs = np.zeros(LIMBS, np.int64)
    while low < high:
        middle = (low + high) >> 1
        if side_of_edge(xa, ya, xb, yb, float(middle), float(row), limbs) >= 0:
            high = middle
        else:
            low = middle + 1
    return low


@kernel
def toggle_ring(ring, parity):
    """XOR a mark at the first pixel centre at or right of each edge, per row.

    ring   : float64 (n, 2), (x, y) in pixels, closed implicitly
    parity : bool (H, W), updated in place
    """
    height, width = parity.shape
    last = len(ring) - 1
    x1, y1 = ring[last, 0], ring[last, 1]
    for k in range(len(ring)):
        x0, y0 = x1, y1
        x1, y1 = ring[k, 0], ring[k, 1]
        # Every edge is walked downwards: polygons that share it decide alike.
        if y0 < y1:
            xa, ya, xb, yb = x0, y0, x1, y1
        else:
            xa, ya, xb, yb = x1, y1, x0, y0
        if yb <= 0.0 or ya > height - 1:
            continue
        for row in range(math.ceil(max(ya, 0.0)), math.ceil(min(yb, float(height)))):
            column = first_column(xa, ya, xb, yb, row, width)
            if column < width:
                parity[row, column] ^= True


@kernel
def fill_rings(points, offsets, mask):
    """Fill the even-odd interior of several rings, half-open at the edges.

    points  : float64 (P, 2), (x, y) in pixels, pixel centres at integers
    offsets : int64 (R + 1,), ring k is points[offsets[k]:offsets[k + 1]]
    mask    : bool (H, W), overwritten
    """
    mask[:] = False
    for k in range(len(offsets) - 1):
        toggle_ring(points[offsets[k] : offsets[k + 1]], mask)
    height, width = mask.shape
    for row in range(height):
        inside = False
        for column in range(width):
            inside ^= mask[row, column]
            mask[row, column] = inside


@kernel
def count_distinct(ring, enough):
    """Return the number of distinct vertices, counting no further than `enough` <= 3.

    ring : float64 (n, 2)
    """
    count = 0
    first = second = 0
    for k in range(len(ring)):
        x, y = ring[k, 0], ring[k, 1]
        if count == 0:
            count = 1
        elif x != ring[first, 0] or y != ring[first, 1]:
            if count == 1:
                count, second = 2, k
            elif x != ring[second, 0] or y != ring[second, 1]:
                count = 3
        if count >= enough:
            break
    return count
