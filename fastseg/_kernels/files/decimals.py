"""Text to numbers, for the plain decimals that nearly all files hold."""

import numpy as np

from fastseg._kernels.jit import kernel

NEWLINE, RETURN, SPACE, PLUS, MINUS, POINT = 10, 13, 32, 43, 45, 46
ZERO, NINE = 48, 57
# Whole numbers up to here, and powers of ten up to this one, are float64 exactly, so
# their quotient is the float64 nearest to the decimal (Clinger 1990, "How to read
# floating point numbers accurately").
LARGEST = 10**15
MOST_PLACES = 22


@kernel
def parse_decimal(text, start, stop):
    """Return a decimal's value, and where it ends; its start if it is not plain.

    text : uint8 (n,); plain is: a sign or none, up to 15 digits, a point or none
    """
    place = start
    negative = place < stop and text[place] == MINUS
    if negative or (place < stop and text[place] == PLUS):
        place += 1
    number, digits, places = np.int64(0), 0, -1
    while place < stop:
        if text[place] == POINT and places < 0:
            places = 0
        elif ZERO <= text[place] <= NINE and number < LARGEST // 10:
            number = 10 * number + np.int64(text[place] - ZERO)
            digits += 1
            places += places >= 0
        else:
            break
        place += 1
    if digits == 0 or places > MOST_PLACES:
        return 0.0, start
    scale = 1.0
    for _ in range(places):
        scale *= 10.0
    value = float(number) / scale
    return -value if negative else value, place


@kernel
def parse_pairs(text, out):
    """Read lines of two plain decimals with one space between, as "120.50 137.00".

    text : uint8 (n,), lines that end in LF or CRLF
    out  : float64 (m, 2), room for as many lines

    Returns the number of lines, -1 if one is otherwise.
    """
    place, count, stop = 0, 0, len(text)
    while place < stop:
        x, middle = parse_decimal(text, place, stop)
        if middle == place or middle >= stop or text[middle] != SPACE:
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
        place = end + 1
    return count
