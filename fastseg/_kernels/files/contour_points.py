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
def check_text(data, start, stop, most_mm):
    """Return (what data[start:stop] is as a contour, its number of values).

    most_mm : coordinates that are larger are TOO_FAR
    """
    start, stop = trim(data, start, stop)
    if start == stop:
        return EMPTY, 0
    values = 0
    is_far = False
    x = y = x0 = y0 = z0 = x1 = y1 = z1 = 0.0
    distinct = 0
    while start <= stop:
        value, start = next_decimal(data, start, stop)
        if start == 0:
            return IRREGULAR, 0
        values += 1
        is_far |= abs(value) > most_mm
        axis = values % 3
        if axis == 1:
            x = value
        elif axis == 2:
            y = value
        elif distinct == 0:
            x0, y0, z0, distinct = x, y, value, 1
        elif distinct < 3 and (x != x0 or y != y0 or value != z0):
            if distinct == 1:
                x1, y1, z1, distinct = x, y, value, 2
            elif x != x1 or y != y1 or value != z1:
                distinct = 3
    if values % 3:
        return NO_TRIPLES, values
    if is_far:
        return TOO_FAR, values
    return (VALID if distinct == 3 else FEW_POINTS), values


@entry(
    data="const uint8[::1]",
    spans="const int64[:, ::1]",
    most_mm="float64",
    checks="int64[:, ::1]",
)
def check_contours(data, spans, most_mm, checks):
    """Check the points of contours.

    data    : uint8 (n,)
    spans   : int64 (c, 2), offset and length of each ContourData; the length is
        negative if there is none
    most_mm : coordinates that are larger are TOO_FAR
    checks  : int64 (c, 2), written: what each contour is, and its number of values, 0
        for IRREGULAR
    """
    for k in range(len(spans)):
        start = spans[k, 0]
        stop = start + max(spans[k, 1], 0)
        checks[k, 0], checks[k, 1] = check_text(data, start, stop, most_mm)


@entry(
    data="const uint8[::1]",
    spans="const int64[:, ::1]",
    ends="const int64[::1]",
    points="float64[:, ::1]",
)
def read_points(data, spans, ends, points):
    """Read the points of contours that `check_contours` did not find IRREGULAR.

    data   : uint8 (n,)
    spans  : int64 (k, 2), as there
    ends   : int64 (k + 1,), 0 and where the points of each contour end in `points`. A
        contour that gets no points there is skipped
    points : float64 (p, 3), written, (x, y, z) in mm
    """
    for k in range(len(spans)):
        start, stop = trim(data, spans[k, 0], spans[k, 0] + max(spans[k, 1], 0))
        for row in range(ends[k], ends[k + 1]):
            for axis in range(3):
                points[row, axis], start = next_decimal(data, start, stop)


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
