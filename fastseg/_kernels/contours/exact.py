"""On which side of an edge a pixel centre lies, without rounding.

Walk an edge a -> b downwards (ya < yb). The centre (x, y) of a pixel lies right of it,
on it or left of it if

    D = (x - xa) (yb - ya) - (y - ya) (xb - xa)

is positive, zero or negative. Three methods find the sign of D, from the fastest to
the slowest:

1. If the differences are exact in floating point and the rounded products differ, the
   rounded products decide: rounding never changes the order of two numbers.
2. If the differences are exact and the rounded products are equal, the rounding errors
   of the products decide; they are floating-point numbers (T. J. Dekker, "A
   floating-point technique for extending the available precision", 1971).
3. Otherwise D is multiplied out into six products of given numbers. An accumulator
   that is wide enough for every product of two doubles sums them (U. Kulisch,
   "Computer Arithmetic and Validity", 2nd ed. 2013, ch. 8).
"""

import math

import numpy as np

from fastseg._kernels.jit import kernel, zeros

# The accumulator counts in units of 2**-2272, which is less than the product of the two
# smallest doubles. 140 limbs of 32 bits hold more than the square of the largest.
LOWEST_BIT = 2272
LIMBS = 140
LIMB_MASK = 0xFFFFFFFF

# Dekker's product is exact if the factors are below the first limit and the product is
# above the second: then nothing overflows or underflows.
LARGEST_FACTOR = 1e140
SMALLEST_PRODUCT = 1e-250
SPLITTER = 2.0**27 + 1.0


@kernel
def add_product(limbs, a, b):
    """Add a * b, not rounded, to the accumulator."""
    if a == 0.0 or b == 0.0:
        return
    sign = -1 if (a < 0.0) != (b < 0.0) else 1
    fraction_a, exponent_a = math.frexp(abs(a))
    fraction_b, exponent_b = math.frexp(abs(b))
    whole_a = int(fraction_a * 2.0**53)
    whole_b = int(fraction_b * 2.0**53)
    # Split into 26 and 27 bits, so that no partial product exceeds 55 bits.
    high_a, low_a = whole_a >> 27, whole_a & 0x7FFFFFF
    high_b, low_b = whole_b >> 27, whole_b & 0x7FFFFFF
    shift = exponent_a + exponent_b - 106 + LOWEST_BIT
    part = low_a * low_b
    for k in range(3):
        limb = shift >> 5
        bits = shift & 31
        low = (part & LIMB_MASK) << bits
        high = (part >> 32) << bits
        limbs[limb] += sign * (low & LIMB_MASK)
        limbs[limb + 1] += sign * ((low >> 32) + (high & LIMB_MASK))
        limbs[limb + 2] += sign * (high >> 32)
        part = high_a * low_b + low_a * high_b if k == 0 else high_a * high_b
        shift += 27


@kernel
def sum_side(xa, ya, xb, yb, x, y):
    """Return the sign of D by the accumulator; exact for all finite numbers."""
    limbs = zeros(LIMBS, np.int64)
    # D multiplied out. The two terms xa * ya cancel.
    add_product(limbs, x, yb)
    add_product(limbs, -x, ya)
    add_product(limbs, -xa, yb)
    add_product(limbs, -y, xb)
    add_product(limbs, y, xa)
    add_product(limbs, ya, xb)
    # Normalised, the limbs tell the sign.
    carry = 0
    nonzero = False
    for i in range(LIMBS):
        value = limbs[i] + carry
        carry = value >> 32
        nonzero |= value & LIMB_MASK != 0
    if carry < 0:
        return -1
    return 1 if nonzero else 0


@kernel
def difference_error(a, b, difference):
    """Return (a - b) - difference, exactly, where difference is a - b rounded."""
    b_virtual = a - difference
    a_virtual = difference + b_virtual
    return (a - a_virtual) + (b_virtual - b)


@kernel
def product_error(a, b, product):
    """Return a * b - product, exactly, where product is a * b rounded."""
    a_scaled = SPLITTER * a
    a_high = a_scaled - (a_scaled - a)
    a_low = a - a_high
    b_scaled = SPLITTER * b
    b_high = b_scaled - (b_scaled - b)
    b_low = b - b_high
    return a_low * b_low - (
        ((product - a_high * b_high) - a_low * b_high) - a_high * b_low
    )


@kernel
def side_of_edge(xa, ya, xb, yb, x, y):
    """Return the sign of D: 1 right of the edge, 0 on it, -1 left of it.

    xa, ya, xb, yb : float64, finite, ya < yb
    x, y           : float64, whole numbers or halves below 2**31
    """
    right = x - xa
    height = yb - ya
    down = y - ya
    width = xb - xa
    if (
        -LARGEST_FACTOR < right < LARGEST_FACTOR
        and -LARGEST_FACTOR < width < LARGEST_FACTOR
        and height < LARGEST_FACTOR
        and down < LARGEST_FACTOR
        and difference_error(x, xa, right) == 0.0
        and difference_error(yb, ya, height) == 0.0
        and difference_error(y, ya, down) == 0.0
        and difference_error(xb, xa, width) == 0.0
    ):
        first = right * height
        second = down * width
        if first > second:
            return 1
        if first < second:
            return -1
        if abs(first) > SMALLEST_PRODUCT:
            first = product_error(right, height, first)
            second = product_error(down, width, second)
            if first > second:
                return 1
            return -1 if first < second else 0
        if right == 0.0 and (width == 0.0 or down == 0.0):
            return 0
    return sum_side(xa, ya, xb, yb, x, y)


@kernel
def first_column(xa, ya, xb, yb, y, low, high, shift):
    """Return the first column in [low, high) at or right of the edge, or else high.

    The pixel centres have x = column + shift and this y.
    """
    while low < high:
        middle = (low + high) >> 1
        if side_of_edge(xa, ya, xb, yb, float(middle) + shift, y) >= 0:
            high = middle
        else:
            low = middle + 1
    return low
