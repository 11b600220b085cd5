"""Checks and reads the points of contours, which are texts of decimals.

The values of a DS are separated by backslashes and may have spaces around them. Nearly
all have at most 15 digits; a contour with any other value is read by Python.
"""

import numpy as np

from fastseg._kernels.files.decimals import LARGEST, SPACE, parse_scientific
from fastseg._kernels.files.sequences import trim
from fastseg._kernels.jit import entry, inlined, kernel

BACKSLASH = 92
# What a contour is. Its points can be read from FEW_POINTS on.
IRREGULAR, EMPTY, NO_NUMBER, NO_TRIPLES, TOO_FAR, FEW_POINTS, VALID = range(7)
# Instead of a number from 0.
ABSENT, NOT_WHOLE = -1, -2


@inlined
def next_decimal(data, start, stop):
    """Return the decimal at an offset, and the offset of the one behind it.

    The offset is `stop + 1` after the last decimal, 0 if there is none at `start`, or
    none that kernels parse.
    """
    while start < stop and data[start] == SPACE:
        start += 1
    value, offset = parse_scientific(data, start, stop)
    if offset == start:
        return 0.0, 0
    while offset < stop and data[offset] == SPACE:
        offset += 1
    if offset < stop and data[offset] != BACKSLASH:
        return 0.0, 0
    return value, offset + 1


@kernel
def read_text(data, start, stop, most_mm, numbers, first):
    """Read data[start:stop] as a contour; return what it is, and how many values.

    most_mm : coordinates that are larger are TOO_FAR
    numbers : float64 (n,), the values are written from index `first` on
    """
    start, stop = trim(data, start, stop)
    if start == stop:
        return EMPTY, 0
    values = 0
    is_far = False
    while start <= stop:
        value, start = next_decimal(data, start, stop)
        if start == 0 or first + values == len(numbers):
            return IRREGULAR, 0
        is_far |= abs(value) > most_mm
        numbers[first + values] = value
        values += 1
    if values % 3:
        return NO_TRIPLES, values
    if is_far:
        return TOO_FAR, values
    is_valid = has_three_points(numbers, first, first + values)
    return (VALID if is_valid else FEW_POINTS), values


@kernel
def has_three_points(numbers, first, stop):
    """Return whether points, three numbers each, are at least three distinct ones."""
    second = first + 3
    while second < stop and are_equal(numbers, second, first):
        second += 3
    for third in range(second + 3, stop, 3):
        if not are_equal(numbers, third, first) and not are_equal(
            numbers, third, second
        ):
            return True
    return False


@inlined
def are_equal(numbers, k, other):
    """Return whether the points at two indices are equal."""
    return (
        numbers[k] == numbers[other]
        and numbers[k + 1] == numbers[other + 1]
        and numbers[k + 2] == numbers[other + 2]
    )


@entry(
    data="const uint8[::1]",
    spans="const int64[:, ::1]",
    most_mm="float64",
    checks="int64[:, ::1]",
    numbers="float64[::1]",
)
def read_contours(data, spans, most_mm, checks, numbers):
    """Read and check the points of contours.

    data    : uint8 (n,)
    spans   : int64 (c, 2), offset and length of each ContourData; the length is
        negative if there is none
    most_mm : coordinates that are larger are TOO_FAR
    checks  : int64 (c, 2), written: what each contour is, and its number of values, 0
        for IRREGULAR
    numbers : float64 (m,), written: the values of all contours from FEW_POINTS on, one
        after another. m is at least the number of all backslashes, and c

    Returns how many numbers are written.
    """
    count = np.int64(0)
    for k in range(len(spans)):
        start = spans[k, 0]
        stop = start + max(spans[k, 1], 0)
        checks[k, 0], checks[k, 1] = read_text(
            data, start, stop, most_mm, numbers, count
        )
        if checks[k, 0] >= FEW_POINTS:
            count += checks[k, 1]
    return count


@entry(data="const uint8[::1]", spans="const int64[:, ::1]", numbers="int64[::1]")
def read_whole_numbers(data, spans, numbers):
    """Read values of one whole number each, which may be absent or empty.

    data    : uint8 (n,)
    spans   : int64 (m, 2), offset and length of each value; the length is negative if
        there is none
    numbers : int64 (m,), written: ABSENT if there is none, NOT_WHOLE if it is anything
        else than a whole number from 0
    """
    for k in range(len(spans)):
        start, stop = trim(data, spans[k, 0], spans[k, 0] + max(spans[k, 1], 0))
        numbers[k] = ABSENT
        if start < stop:
            value, end = next_decimal(data, start, stop)
            is_whole = end > stop and 0 <= value < LARGEST and value == int(value)
            numbers[k] = np.int64(value) if is_whole else NOT_WHOLE
