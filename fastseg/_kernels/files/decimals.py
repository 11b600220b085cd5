"""Text to numbers, for simple decimals.

A simple decimal has an optional sign, up to 15 significant digits, an optional point
and no exponent. Nearly all numbers in files are like this.
"""

import numpy as np

from fastseg._kernels.jit import entry, inlined, kernel

NEWLINE, RETURN, SPACE, PLUS, MINUS, POINT = 10, 13, 32, 43, 45, 46
ZERO, NINE = 48, 57
CAPITAL_E, SMALL_E = 69, 101
# float64 holds integers up to 10**15 and powers of ten up to 10**22 exactly, so their
# product and quotient are the float64 nearest to the decimal (Clinger 1990, "How to
# read floating point numbers accurately").
LARGEST = 10**15
LARGEST_POWER = 22


@inlined
def read_digits(text, start, stop):
    """Read the digits at the start of text[start:stop], with a sign and a point.

    Returns (their number without the point, digits after the point or -1 without one,
    whether it is negative, the index after them). The index is `start` if there is no
    digit.
    """
    index = start
    negative = index < stop and text[index] == MINUS
    if negative or (index < stop and text[index] == PLUS):
        index += 1
    first = index
    point = -1
    number = np.int64(0)
    while index < stop:
        digit = np.int64(text[index]) - ZERO
        if 0 <= digit <= NINE - ZERO and number < LARGEST // 10:
            number = 10 * number + digit
        elif digit == POINT - ZERO and point < 0:
            point = index
        else:
            break
        index += 1
    decimals = index - point - 1 if point >= 0 else -1
    return (
        number,
        decimals,
        negative,
        (index if index > first + (point >= 0) else start),
    )


@inlined
def scaled(number, power, negative):
    """Return a number times a power of ten, correctly rounded.

    number : at most LARGEST
    power  : from -LARGEST_POWER to LARGEST_POWER
    """
    scale = 1.0
    for _ in range(abs(power)):
        scale *= 10.0
    value = float(number) * scale if power > 0 else float(number) / scale
    return -value if negative else value


@kernel
def parse_decimal(text, start, stop):
    """Parse the simple decimal at the start of text[start:stop].

    text : uint8 (n,)

    Returns its value and the index after it, or (0.0, start) if there is none.
    """
    number, decimals, negative, index = read_digits(text, start, stop)
    if index == start or decimals > LARGEST_POWER:
        return 0.0, start
    return scaled(number, -max(decimals, 0), negative), index


@kernel
def parse_scientific(text, start, stop):
    """Parse the decimal at the start of text[start:stop], maybe with an exponent.

    text : uint8 (n,)

    Returns its value and the index after it, or (0.0, start) if there is none or it is
    not simple: a number of at most 15 digits, times or divided by a power of ten that
    is at most 10**LARGEST_POWER.
    """
    number, decimals, negative, index = read_digits(text, start, stop)
    if index == start:
        return 0.0, start
    power = -max(decimals, 0)
    if index < stop and (text[index] == CAPITAL_E or text[index] == SMALL_E):
        exponent, more, falls, end = read_digits(text, index + 1, stop)
        if end == index + 1 or more >= 0:
            return 0.0, start
        power += -exponent if falls else exponent
        index = end
    if abs(power) > LARGEST_POWER:
        return 0.0, start
    return scaled(number, power, negative), index


@entry(text="const uint8[::1]", out="float64[:, ::1]")
def parse_pairs(text, out):
    """Parse lines of two simple decimals with one space between, as "120.50 137.00".

    text : uint8 (n,), lines that end in LF or CRLF
    out  : float64 (m, 2), for up to m lines

    Returns the number of lines, or -1 if a line has another form or out is too short.
    """
    index = np.int64(0)  # numba compiles `parse_decimal` once more for a literal
    count = 0
    stop = len(text)
    while index < stop:
        x, middle = parse_decimal(text, index, stop)
        if middle == index or middle >= stop or text[middle] != SPACE:
            return -1
        y, end = parse_decimal(text, middle + 1, stop)
        if end == middle + 1:
            return -1
        if end < stop and text[end] == RETURN:
            end += 1
        if end >= stop or text[end] != NEWLINE or count == len(out):
            return -1
        out[count, 0], out[count, 1] = x, y
        count += 1
        index = end + 1
    return count
