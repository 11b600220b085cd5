"""Statistics of an image's stored values, and of the classes of a mask."""

import numpy as np

from fastseg._kernels.jit import empty, entry, flat, kernel, zeros

TABLES = 8  # tables of counts, see `count_values`
MOST_COUNTED = TABLES * (2**16 - 1)  # with more values, a table could overflow
ZERO, ONE = np.uint64(0), np.uint64(1)


@kernel
def sum_values(image):
    """Return total, high and low: the exact sum, and that of squares in two halves.

    image : integers of at most 32 bits, C-contiguous

    The sum of squares is high * 2**32 + low.
    """
    total = high = low = np.int64(0)
    values = flat(image)
    for k in range(len(values)):
        value = np.int64(values[k])
        total += value
        square = np.uint64(abs(value)) * np.uint64(abs(value))
        low += np.int64(square & np.uint64(0xFFFFFFFF))
        high += np.int64(square >> np.uint64(32))
    return total, high, low


@entry(image="const T[:, ::1]", T=("int16", "uint16", "uint8"))
def range_of_values(image):
    """Return the least and the greatest value of integers, C-contiguous."""
    values = flat(image)
    least = greatest = values[0]
    for k in range(len(values)):
        least = min(least, values[k])
        greatest = max(greatest, values[k])
    return np.int64(least), np.int64(greatest)


@kernel
def count_values(image, least, greatest, ranks, out):
    """Find sums and order statistics by counting how often each value occurs.

    image : integers of at most 32 bits, C-contiguous, all from least to greatest
    ranks : int64 (q,), ascending, the smallest value has rank 0
    out   : float64 (q,), overwritten by the values of these ranks

    Returns total, high and low as `sum_values` does.
    """
    values = flat(image)
    span = greatest - least + 1
    # Neighbouring pixels are often equal, and adding to the same count twice in a row
    # waits for memory: eight tables in turn take half the time. Tables of 16 bits fit
    # into the first-level cache, which saves an eighth of that.
    tables = empty((TABLES, span), np.uint16)
    counts = zeros(span, np.int64)
    for first in range(0, len(values), MOST_COUNTED):
        stop = min(first + MOST_COUNTED, len(values))
        whole = first + (stop - first) // TABLES * TABLES
        tables[:] = 0
        for k in range(first, whole, TABLES):
            for table in range(TABLES):
                value = np.int64(values[np.uint64(k + table)])
                tables[np.uint64(table), np.uint64(value - least)] += np.uint16(1)
        for k in range(whole, stop):
            counts[np.int64(values[k]) - least] += 1
        for table in range(TABLES):
            for k in range(span):
                counts[k] += np.int64(tables[table, k])
    total = high = low = seen = np.int64(0)
    for k in range(span):
        value = least + k
        total += counts[k] * value
        square = np.uint64(abs(value)) * np.uint64(abs(value))
        low += counts[k] * np.int64(square & np.uint64(0xFFFFFFFF))
        high += counts[k] * np.int64(square >> np.uint64(32))
    q = 0
    for k in range(span):
        seen += counts[k]
        while q < len(ranks) and ranks[q] < seen:
            out[q] = least + k
            q += 1
    return total, high, low


@kernel
def measure_values(image, widest, ranks, out):
    """Find the range, sums and, if the range is not too wide, order statistics.

    image      : integers of at most 32 bits, C-contiguous
    widest     : out is filled only if greatest - least is below it
    ranks, out : as for `count_values`

    Returns whether out is filled, least, greatest, and total, high and low as
    `sum_values` does.
    """
    least, greatest = range_of_values(image)
    if greatest - least < widest:
        total, high, low = count_values(image, least, greatest, ranks, out)
        return True, least, greatest, total, high, low
    total, high, low = sum_values(image)
    return False, least, greatest, total, high, low


@kernel
def measure_classes(mask, pixels, boxes):
    """Count each class's pixels and find its bounding box.

    mask   : unsigned (H, W), bit k of a pixel is class k
    pixels : int64 (K,), overwritten
    boxes  : int64 (K, 4), overwritten: top, left, bottom, right, the last two
        exclusive; zeros for a class without pixels
    """
    height, width = mask.shape
    pixels[:] = 0
    boxes[:, :2] = max(height, width)
    boxes[:, 2:] = 0
    for row in range(height):
        line = mask[row]
        seen = ZERO
        # Most rows are empty, and vector instructions find that out quickly.
        for column in range(width):
            seen |= np.uint64(line[column])
        bit = ZERO
        while seen:
            if seen & ONE:
                count = np.int64(0)
                for column in range(width):
                    count += np.int64((np.uint64(line[column]) >> bit) & ONE)
                left, right = 0, width
                while not (np.uint64(line[left]) >> bit) & ONE:
                    left += 1
                while not (np.uint64(line[right - 1]) >> bit) & ONE:
                    right -= 1
                pixels[bit] += count
                boxes[bit, 0] = min(boxes[bit, 0], row)
                boxes[bit, 1] = min(boxes[bit, 1], left)
                boxes[bit, 2] = row + 1
                boxes[bit, 3] = max(boxes[bit, 3], right)
            seen >>= ONE
            bit += ONE
    for k in range(len(pixels)):
        if pixels[k] == 0:
            boxes[k, :] = 0
