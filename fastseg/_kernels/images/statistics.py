"""Statistics of images' stored values, and of the classes of a mask."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg._kernels.files.system import address_of, hash_bytes
from fastseg._kernels.jit import empty, entry, kernel, zeros

# Order statistics are found by counting where the values span at most this many
# integers. Python sorts where they span more.
WIDEST_COUNT = 2**17
TABLES = 8  # tables of counts, see `count_values`
MOST_COUNTED = TABLES * (2**16 - 1)  # with more values, a table could overflow
ZERO, ONE = np.uint64(0), np.uint64(1)
# Columns of a mask that are counted in one byte.
COLUMNS_AT_ONCE = 64


class Measures(NamedTuple):
    """What `measure_images` writes of n images.

    sums        : int64 (n, 5), least and greatest value, their sum, and the sum of
        their squares in two halves: the last number times 2**32 and the fourth one
    percentiles : float64 (n, q), the values of the ranks
    is_counted  : bool (n,), whether the sums and percentiles are written: the values
        span at most WIDEST_COUNT integers
    hashes      : uint64 (n,), XXH3-64 of the values
    """

    sums: NDArray[np.int64]
    percentiles: NDArray[np.float64]
    is_counted: NDArray[np.bool_]
    hashes: NDArray[np.uint64]


MEASURES = (
    Measures,
    *("int64[:, ::1]", "float64[:, ::1]", "bool[::1]", "uint64[::1]"),
)


@entry(values="const T[::1]", T=("int32", "uint32"))
def sum_values(values):
    """Return total, high and low: the exact sum, and that of squares in two halves.

    values : integers (n,) of at most 32 bits

    The sum of squares is high * 2**32 + low.
    """
    total = high = low = np.int64(0)
    for k in range(len(values)):
        value = np.int64(values[k])
        total += value
        square = np.uint64(abs(value)) * np.uint64(abs(value))
        low += np.int64(square & np.uint64(0xFFFFFFFF))
        high += np.int64(square >> np.uint64(32))
    return total, high, low


@kernel
def range_of_values(values):
    """Return the least and the greatest value of integers (n,)."""
    least = greatest = values[0]
    for k in range(len(values)):
        value = values[k]
        least = value if value < least else least
        greatest = value if value > greatest else greatest
    return np.int64(least), np.int64(greatest)


@kernel
def count_values(values, least, greatest, ranks, out):
    """Find sums and order statistics by counting how often each value occurs.

    values : integers (n,) of at most 32 bits, all from least to greatest
    ranks  : int64 (q,), ascending, the smallest value has rank 0
    out    : float64 (q,), overwritten by the values of these ranks

    Returns total, high and low as `sum_values` does.
    """
    span = greatest - least + 1
    # Neighbouring pixels are often equal, and adding to the same count twice in a row
    # waits for memory: eight tables in turn take half the time. Tables of 16 bits fit
    # into the first-level cache, which saves an eighth of that.
    tables = empty((TABLES, span), np.uint16)
    counts = zeros(span, np.int64)
    first = 0
    while first < len(values):
        stop = min(first + MOST_COUNTED, len(values))
        whole = first + (stop - first) // TABLES * TABLES
        for table in range(TABLES):
            for k in range(span):
                tables[table, k] = 0
        for k in range(first, whole, TABLES):
            for table in range(TABLES):
                value = np.int64(values[np.uint64(k + table)])
                tables[np.uint64(table), np.uint64(value - least)] += np.uint16(1)
        for k in range(whole, stop):
            counts[np.int64(values[k]) - least] += 1
        for table in range(TABLES):
            for k in range(span):
                counts[k] += np.int64(tables[table, k])
        first = stop
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


@entry(
    values="const T[::1]",
    offsets="const int64[::1]",
    first="int64",
    stop="int64",
    size="int64",
    ranks="const int64[::1]",
    measures=MEASURES,
    T=("int16", "uint16", "uint8"),
)
def measure_images(values, offsets, first, stop, size, ranks, measures):
    """Measure and hash images [first, stop), which lie anywhere in an array.

    values   : integers (m,) of at most 32 bits
    offsets  : int64 (n,), where in values each image begins, in bytes; a multiple of
        the size of a pixel, or negative for an image that is left out
    size     : number of pixels of an image
    ranks    : as for `count_values`
    measures : Measures of n images, written
    """
    for k in range(first, stop):
        if offsets[k] < 0:
            continue
        start = offsets[k] // values.itemsize
        image = values[start : start + size]
        sums = measures.sums[k]
        least, greatest = range_of_values(image)
        sums[0], sums[1] = least, greatest
        measures.is_counted[k] = greatest - least < WIDEST_COUNT
        if greatest - least < WIDEST_COUNT:
            sums[2], sums[3], sums[4] = count_values(
                image, least, greatest, ranks, measures.percentiles[k]
            )
        measures.hashes[k] = hash_bytes(address_of(image), size * values.itemsize)


@kernel
def measure_row(line, flag):
    """Count the pixels of a row that have a flag, and find the first and the last one.

    line : unsigned (W,), with such a pixel
    flag : one bit, of the same type

    Returns count, left and right, the last one exclusive. Counts of some columns fit
    into a byte, which vector instructions add four times as fast as larger numbers; and
    only in the first and the last of such ranges is a pixel looked for, one by one.
    """
    width = len(line)
    total = 0
    first = last = -1
    for start in range(0, width, COLUMNS_AT_ONCE):
        count = np.uint8(0)
        for column in range(start, min(start + COLUMNS_AT_ONCE, width)):
            count = np.uint8(count + np.uint8(line[np.uint64(column)] & flag != 0))
        if count:
            if first < 0:
                first = start
            last = start
            total += int(count)
    left = first
    while not line[np.uint64(left)] & flag:
        left += 1
    right = min(last + COLUMNS_AT_ONCE, width)
    while not line[np.uint64(right - 1)] & flag:
        right -= 1
    return total, left, right


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
        seen = line.dtype.type(0)
        # Most rows are empty, and vector instructions find that out quickly.
        for column in range(width):
            seen = line.dtype.type(seen | line[np.uint64(column)])
        bits = np.uint64(seen)
        bit = ZERO
        while bits:
            if bits & ONE:
                flag = line.dtype.type(ONE << bit)
                count, left, right = measure_row(line, flag)
                pixels[bit] += count
                boxes[bit, 0] = min(boxes[bit, 0], row)
                boxes[bit, 1] = min(boxes[bit, 1], left)
                boxes[bit, 2] = row + 1
                boxes[bit, 3] = max(boxes[bit, 3], right)
            bits >>= ONE
            bit += ONE
    for k in range(len(pixels)):
        if pixels[k] == 0:
            boxes[k, :] = 0
