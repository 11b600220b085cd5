"""Statistics of images' stored values, and of the classes of a mask.

The counts of a histogram are written as codes: numbers from the first bin to the last,
neither of which is 0, in LEB128: seven bits in a byte, the lowest first, and the eighth
bit is set where more bytes follow. A 0 is followed by the number of bins, one or more,
that have no values.
"""

import math
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
# Bins of a histogram, at most: of a large image; of any other one for so many pixels,
# but at least MIN_BINS. So histograms take about a hundredth of the bytes of an image.
MAX_BINS = 1024
PIXELS_OF_A_BIN = 64
MIN_BINS = 16
# Bytes of the codes of a count, at most.
MAX_CODE = 5
# Bytes of the codes of a histogram, at most.
MAX_CODES = MAX_BINS * MAX_CODE
# As in `store.layout`.
WHOLE_IMAGE = -1
ANY_CLASS = -2
# Numbers in a row that `write_histograms` writes of a histogram.
HISTOGRAM_NUMBERS = 6
# Different values of a mask that are counted apart.
SLOTS = 8
# Squares of deviations up to this one are added up as integers: as many as there are in
# a row of an image cannot overflow.
LARGEST_DEVIATION = 2**23
# Columns of a mask that are counted in one byte.
COLUMNS_AT_ONCE = 64


class Measures(NamedTuple):
    """What `measure_images` writes of n images.

    sums        : int64 (n, 5), least and greatest value, their sum, and the sum of
        their squares in two halves: the last number times 2**32 and the fourth one
    percentiles : float64 (n, q), the values of the ranks
    is_counted  : bool (n,), whether the sums, percentiles and codes are written: the
        values span at most WIDEST_COUNT integers
    hashes      : uint64 (n,), XXH3-64 of the values
    codes       : uint8 (n, MAX_CODES), the codes of the histogram of the values
    code_sizes  : int64 (n,), how many bytes they have
    """

    sums: NDArray[np.int64]
    percentiles: NDArray[np.float64]
    is_counted: NDArray[np.bool_]
    hashes: NDArray[np.uint64]
    codes: NDArray[np.uint8]
    code_sizes: NDArray[np.int64]


MEASURES = (
    Measures,
    *("int64[:, ::1]", "float64[:, ::1]", "bool[::1]", "uint64[::1]"),
    *("uint8[:, ::1]", "int64[::1]"),
)


@kernel
def shift_of_bins(least, greatest, pixels):
    """Return the least s with which values >> s are few enough integers.

    pixels : of the image
    """
    most = min(max(pixels // PIXELS_OF_A_BIN, MIN_BINS), MAX_BINS)
    shift = 0
    while (greatest >> shift) - (least >> shift) >= most:
        shift += 1
    return shift


@kernel
def write_code(number, codes, start):
    """Write a number from 0 in LEB128; return where the next one begins."""
    while number >= 128:
        codes[start] = np.uint8(number & 127 | 128)
        number >>= 7
        start += 1
    codes[start] = np.uint8(number)
    return start + 1


@kernel
def write_codes(counts, first, stop, codes, start):
    """Write the codes of the counts of bins [first, stop); return where they end."""
    empty_bins = 0
    for k in range(first, stop):
        count = np.int64(counts[k])
        if count == 0:
            empty_bins += 1
            continue
        if empty_bins:
            codes[start] = 0
            start = write_code(empty_bins, codes, start + 1)
            empty_bins = 0
        start = write_code(count, codes, start)
    return start


@entry(
    values="const T[::1]",
    least="int64",
    greatest="int64",
    codes="uint8[::1]",
    T=("int32", "uint32"),
)
def sum_values(values, least, greatest, codes):
    """Return total, high and low: the exact sum, and that of squares in two halves.

    values : integers (n,) of at most 32 bits, all from least to greatest
    codes  : uint8 (MAX_CODES,), overwritten by the codes of their histogram

    The sum of squares is high * 2**32 + low. Also returns the number of codes.
    """
    total = high = low = np.int64(0)
    shift = shift_of_bins(least, greatest, len(values))
    base = least >> shift
    bins = zeros(MAX_BINS, np.int64)
    for k in range(len(values)):
        value = np.int64(values[k])
        total += value
        square = np.uint64(abs(value)) * np.uint64(abs(value))
        low += np.int64(square & np.uint64(0xFFFFFFFF))
        high += np.int64(square >> np.uint64(32))
        bins[(value >> shift) - base] += 1
    stop = (greatest >> shift) - base + 1
    return total, high, low, write_codes(bins, 0, stop, codes, 0)


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
def count_values(values, least, greatest, ranks, out, codes):
    """Find sums and order statistics by counting how often each value occurs.

    values : integers (n,) of at most 32 bits, all from least to greatest
    ranks  : int64 (q,), ascending, the smallest value has rank 0
    out    : float64 (q,), overwritten by the values of these ranks
    codes  : as for `sum_values`

    Returns total, high, low and the number of codes as `sum_values` does.
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
    shift = shift_of_bins(least, greatest, len(values))
    first = least >> shift
    if shift:
        # Each bin is the sum of counts that lie at its index or behind.
        for k in range(span):
            count = counts[k]
            counts[k] = 0
            counts[(least + k >> shift) - first] += count
    stop = (greatest >> shift) - first + 1
    return total, high, low, write_codes(counts, 0, stop, codes, 0)


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
            sums[2], sums[3], sums[4], measures.code_sizes[k] = count_values(
                *(image, least, greatest, ranks),
                *(measures.percentiles[k], measures.codes[k]),
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


class LabelledImages(NamedTuple):
    """Images and masks of which `write_histograms` counts the values of classes.

    values  : integers (m,) of at most 32 bits
    offsets : int64 (n,), where in values each image begins, in bytes; a multiple of the
        size of a pixel. No effect for an image without a mask
    masks   : unsigned (k, H, W)
    numbers : int64 (n,), the mask of each image; negative if it has none
    pixels  : int64 (n, K), as for `measure_classes`
    boxes   : int64 (n, K, 4), as for `measure_classes`
    """

    values: NDArray[np.signedinteger]
    offsets: NDArray[np.int64]
    masks: NDArray[np.unsignedinteger]
    numbers: NDArray[np.int64]
    pixels: NDArray[np.int64]
    boxes: NDArray[np.int64]


class HistogramRows(NamedTuple):
    """What `write_histograms` writes of h histograms.

    numbers : int64 (h, HISTOGRAM_NUMBERS): index of the image; class, or WHOLE_IMAGE or
        ANY_CLASS; first value of the first bin; values in a bin; pixels; bytes of codes
    moments : float64 (h, 2), mean and standard deviation; not of WHOLE_IMAGE
    codes   : uint8 (c,), the codes of all, one behind the other
    """

    numbers: NDArray[np.int64]
    moments: NDArray[np.float64]
    codes: NDArray[np.uint8]


class ClassCounts(NamedTuple):
    """Histograms of the values of s kinds of pixels, with deviations from a pivot.

    bins    : int64 (s, MAX_BINS)
    sums    : int64 (s,), of deviations
    squares : float64 (s,), sum of the squares of deviations
    """

    bins: NDArray[np.int64]
    sums: NDArray[np.int64]
    squares: NDArray[np.float64]


@kernel
def find_runs(mask, box, runs):
    """Write row, start, stop of the runs of equal labels in a box; return how many.

    mask : unsigned (H, W)
    box  : top, left, bottom, right
    runs : int32 (m, 3), large enough; runs of 0 are left out
    """
    top, left, bottom, right = box
    count = 0
    for row in range(top, bottom):
        line = mask[row]
        column = left
        while column < right:
            label = line[np.uint64(column)]
            start = column
            column += 1
            while column < right and line[np.uint64(column)] == label:
                column += 1
            if label:
                runs[count, 0], runs[count, 1], runs[count, 2] = row, start, column
                count += 1
    return count


@kernel
def deviation_of(count, total, squares):
    """Return the standard deviation of numbers: 0 if all are equal.

    count, total, squares : how many, their sum, and the sum of their squares
    """
    if squares < 2.0**53 and squares * count < 2.0**62:
        difference = np.float64(count * np.int64(squares) - total * total)
        return math.sqrt(difference) / count
    of_mean = np.float64(total) * np.float64(total) / count
    return math.sqrt(max(squares - of_mean, 0.0) / count)


@kernel
def add_slots(labels, used, slots, pixels, size, totals):
    """Add the counts of labels to their classes, the last row to any class.

    labels : uint64 (SLOTS,), of which `used` have counts
    slots  : ClassCounts of SLOTS
    pixels : int64 (K,), of each class; classes without any are left out
    size   : number of bins
    totals : ClassCounts of K + 1, updated
    """
    classes = len(pixels)
    for slot in range(used):
        label = labels[slot]
        for k in range(classes + 1):
            if k == classes or (pixels[k] and label >> np.uint64(k) & ONE):
                for b in range(size):
                    totals.bins[k, b] += slots.bins[slot, b]
                totals.sums[k] += slots.sums[slot]
                totals.squares[k] += slots.squares[slot]


@kernel
def count_run(line, base, shift, pivot, is_small, bins):
    """Count the values of a run of pixels; return the sums of `ClassCounts`.

    line     : integers (n,)
    base     : of the values, shifted to the right, the least
    is_small : whether no deviation from the pivot is beyond LARGEST_DEVIATION
    bins     : int64 (MAX_BINS,), updated
    """
    total = np.int64(0)
    squares = 0.0
    if is_small:
        whole = np.int64(0)
        for k in range(len(line)):
            deviation = np.int64(line[k]) - pivot
            total += deviation
            whole += deviation * deviation
        squares = np.float64(whole)
    else:
        for k in range(len(line)):
            deviation = np.int64(line[k]) - pivot
            total += deviation
            squares += np.float64(deviation) * np.float64(deviation)
    for k in range(len(line)):
        bins[(np.int64(line[k]) >> shift) - base] += 1
    return total, squares


@entry(
    images=(
        LabelledImages,
        *("const T[::1]", "const int64[::1]", "const M[:, :, ::1]"),
        *("const int64[::1]", "const int64[:, ::1]", "const int64[:, :, ::1]"),
    ),
    measures=MEASURES,
    indices="const int64[::1]",
    rows=(HistogramRows, "int64[:, ::1]", "float64[:, ::1]", "uint8[::1]"),
    TM=(
        ("int16", "uint8"),
        ("uint16", "uint8"),
        ("uint8", "uint8"),
        ("int16", "uint16"),
        ("uint16", "uint16"),
    ),
)
def write_histograms(images, measures, indices, rows):
    """Write the histograms of images: of any class, of the whole image, of each class.

    images   : LabelledImages
    measures : Measures, of more images
    indices  : int64 (n,), of the images in measures
    rows     : HistogramRows, large enough

    Returns how many histograms, and how many bytes of codes. An image without labels
    has one histogram; a class without pixels has none.
    """
    _, height, width = images.masks.shape
    values, itemsize = images.values, images.values.itemsize
    classes = images.pixels.shape[1]
    runs = empty((height * width, 3), np.int32)
    labels = empty(SLOTS, np.uint64)
    slots = ClassCounts(
        empty((SLOTS, MAX_BINS), np.int64),
        empty(SLOTS, np.int64),
        empty(SLOTS, np.float64),
    )
    totals = ClassCounts(
        empty((classes + 1, MAX_BINS), np.int64),
        empty(classes + 1, np.int64),
        empty(classes + 1, np.float64),
    )
    box = empty(4, np.int64)
    row = end = 0
    for j in range(len(indices)):
        pixels = images.pixels[j]
        number = images.numbers[j]
        count = np.int64(0)
        least = greatest = np.int64(0)
        if number >= 0:
            box[:2] = max(height, width)
            box[2:] = 0
            for k in range(classes):
                if pixels[k]:
                    for side in range(2):
                        box[side] = min(box[side], images.boxes[j, k, side])
                        box[side + 2] = max(box[side + 2], images.boxes[j, k, side + 2])
            count = find_runs(images.masks[number], box, runs)
        if count:
            start = images.offsets[j] // itemsize
            image = values[start : start + height * width]
            least = greatest = np.int64(image[runs[0, 0] * width + runs[0, 1]])
            for k in range(count):
                first = np.int64(runs[k, 0]) * width
                low, high = range_of_values(
                    image[first + runs[k, 1] : first + runs[k, 2]]
                )
                least = min(least, low)
                greatest = max(greatest, high)
            shift = shift_of_bins(least, greatest, height * width)
            base = least >> shift
            size = (greatest >> shift) - base + 1
            pivot = least + greatest >> 1
            is_small = greatest - least < LARGEST_DEVIATION
            for k in range(classes + 1):
                if k == classes or pixels[k]:
                    totals.bins[k, :size] = 0
                    totals.sums[k] = 0
                    totals.squares[k] = 0.0
            used = slot = 0
            for k in range(count):
                first = np.int64(runs[k, 0]) * width
                label = np.uint64(images.masks[number, runs[k, 0], runs[k, 1]])
                if used == 0 or labels[slot] != label:
                    slot = 0
                    while slot < used and labels[slot] != label:
                        slot += 1
                    if slot == used:
                        if used == SLOTS:
                            add_slots(labels, used, slots, pixels, size, totals)
                            used = slot = 0
                        labels[slot] = label
                        slots.bins[slot, :size] = 0
                        slots.sums[slot] = 0
                        slots.squares[slot] = 0.0
                        used += 1
                line = image[first + runs[k, 1] : first + runs[k, 2]]
                total, squares = count_run(
                    line, base, shift, pivot, is_small, slots.bins[slot]
                )
                slots.sums[slot] += total
                slots.squares[slot] += squares
            add_slots(labels, used, slots, pixels, size, totals)
        # ANY_CLASS, WHOLE_IMAGE, then the classes.
        for kind in range(ANY_CLASS, classes):
            begin = end
            if kind == WHOLE_IMAGE:
                sums = measures.sums[indices[j]]
                wide = shift_of_bins(sums[0], sums[1], height * width)
                rows.numbers[row, 2] = sums[0] >> wide << wide
                rows.numbers[row, 3] = np.int64(1) << wide
                rows.numbers[row, 4] = height * width
                codes = measures.codes[indices[j]]
                for k in range(measures.code_sizes[indices[j]]):
                    rows.codes[end + k] = codes[k]
                end += measures.code_sizes[indices[j]]
            elif count and (kind == ANY_CLASS or pixels[kind]):
                k = classes if kind == ANY_CLASS else kind
                bins = totals.bins[k]
                first, stop = 0, size
                while not bins[first]:
                    first += 1
                while not bins[stop - 1]:
                    stop -= 1
                total = np.int64(0)
                for b in range(first, stop):
                    total += bins[b]
                rows.numbers[row, 2] = base + first << shift
                rows.numbers[row, 3] = np.int64(1) << shift
                rows.numbers[row, 4] = total
                rows.moments[row, 0] = pivot + totals.sums[k] / total
                rows.moments[row, 1] = deviation_of(
                    total, totals.sums[k], totals.squares[k]
                )
                end = write_codes(bins, first, stop, rows.codes, end)
            else:
                continue
            rows.numbers[row, 0] = j
            rows.numbers[row, 1] = kind
            rows.numbers[row, 5] = end - begin
            row += 1
    return row, end
