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
from fastseg._kernels.jit import empty, entry, inlined, kernel, zeros

# Order statistics are found by counting where the values span at most this many
# integers. Python sorts where they span more.
WIDEST_COUNT = 2**17
# Tables of counts, see `count_values`; and the widest of which there are so many. Wider
# ones are two, which fit into the second-level cache.
TABLES = 4
WIDEST_TABLE = 2**13
MOST_COUNTED = 2**31  # with more values, a table could overflow
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
# Different values of a mask that are counted apart. With 8 of them, an image of 12 took
# nine times as long.
SLOTS = 32
# Squares of deviations up to this one are added up as integers: as many as there are in
# a row of an image cannot overflow.
LARGEST_DEVIATION = 2**23
# Pixels of a mask that are compared at once, by vector instructions.
PIXELS_AT_ONCE = 16
# Each value is counted in a bin of its own, from which sums follow, too, where those of
# an image span at most this many integers.
WIDEST_FINE = 2**12


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
def range_of_bins(bins, stop):
    """Return the first bin that is not empty and the stop behind the last one.

    stop : all bins from this one on are empty; one before it is not
    """
    first = 0
    while not bins[first]:
        first += 1
    while not bins[stop - 1]:
        stop -= 1
    return first, stop


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
def widen_bins(bins, least, shift):
    """Add up bins of one value each to those of values >> shift.

    bins  : int64 (n,), updated
    least : value of the first bin
    """
    # Each bin is the sum of bins that lie at its index or behind.
    base = least >> shift
    for k in range(len(bins)):
        count = bins[k]
        bins[k] = 0
        bins[(least + k >> shift) - base] += count


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
    # waits for memory: four tables in turn take half the time. Counts of 16 bits take
    # up to twice as long as those of 32.
    used = TABLES if span <= WIDEST_TABLE else 2
    last = np.uint64(used - 1)
    counts = zeros(span, np.int64)
    tables = empty(used * span, np.uint32)
    first = 0
    while first < len(values):
        stop = min(first + MOST_COUNTED, len(values))
        whole = first + (stop - first) // TABLES * TABLES
        tables[:] = 0
        for k in range(first, whole, TABLES):
            for table in range(TABLES):
                value = np.int64(values[np.uint64(k + table)])
                start = (np.uint64(table) & last) * np.uint64(span)
                tables[start + np.uint64(value - least)] += np.uint32(1)
        for k in range(whole, stop):
            tables[np.int64(values[k]) - least] += np.uint32(1)
        for table in range(used):
            for k in range(span):
                counts[k] += np.int64(tables[table * span + k])
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
        widen_bins(counts, least, shift)
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


@inlined
def is_uniform(line, start, label):
    """Return whether PIXELS_AT_ONCE pixels of a row, from `start` on, are a label."""
    differences = line.dtype.type(0)
    for k in range(PIXELS_AT_ONCE):
        value = line[np.uint64(start + k)]
        differences = line.dtype.type(differences | (value ^ label))
    return differences == 0


@kernel
def find_runs(mask, runs):
    """Write row, start, stop of the runs of equal labels; return how many.

    mask : unsigned (H, W)
    runs : int32 (m, 3), large enough; runs of 0 are left out
    """
    height, width = mask.shape
    count = 0
    for row in range(height):
        line = mask[row]
        seen = line.dtype.type(0)
        # Most rows are empty, and vector instructions find that out quickly.
        for column in range(width):
            seen = line.dtype.type(seen | line[np.uint64(column)])
        column = 0 if seen else width
        while column < width:
            label = line[np.uint64(column)]
            start = column
            while column + PIXELS_AT_ONCE <= width and is_uniform(line, column, label):
                column += PIXELS_AT_ONCE
            while column < width and line[np.uint64(column)] == label:
                column += 1
            if label:
                runs[count, 0], runs[count, 1], runs[count, 2] = row, start, column
                count += 1
    return count


@kernel
def measure_classes(mask, runs, pixels, boxes):
    """Count each class's pixels and find its bounding box.

    mask   : unsigned (H, W), bit k of a pixel is class k
    runs   : int32 (n, 3), those of the mask, see `find_runs`
    pixels : int64 (K,), overwritten
    boxes  : int64 (K, 4), overwritten: top, left, bottom, right, the last two
        exclusive; zeros for a class without pixels
    """
    pixels[:] = 0
    boxes[:] = 0
    for k in range(len(runs)):
        row = np.int64(runs[k, 0])
        start, stop = np.int64(runs[k, 1]), np.int64(runs[k, 2])
        bits = np.uint64(mask[row, start])
        bit = ZERO
        while bits:
            if bits & ONE:
                box = boxes[bit]
                if pixels[bit] == 0:
                    box[0], box[1] = row, start
                pixels[bit] += stop - start
                box[1] = min(box[1], start)
                box[2] = row + 1
                box[3] = max(box[3], stop)
            bits >>= ONE
            bit += ONE


class LabelledImages(NamedTuple):
    """Images and masks of which `write_histograms` counts the values of classes.

    values  : integers (m,) of at most 32 bits
    offsets : int64 (n,), where in values each image begins, in bytes; a multiple of the
        size of a pixel. No effect for an image without a mask
    masks   : unsigned (k, H, W)
    numbers : int64 (n,), the mask of each image; negative if it has none
    pixels  : int64 (n, K), written as by `measure_classes` if there is a mask
    boxes   : int64 (n, K, 4), likewise
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

    bins    : int64 or uint32 (s, WIDEST_FINE)
    sums    : int64 (s,), of deviations
    squares : float64 (s,), sum of the squares of deviations
    """

    bins: NDArray[np.int64]
    sums: NDArray[np.int64]
    squares: NDArray[np.float64]


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
def range_of_runs(image, width, runs):
    """Return the least and the greatest value of runs of pixels.

    image : integers (H * W,)
    runs  : int32 (n, 3), as of `find_runs`, at least one
    """
    least = greatest = np.int64(image[runs[0, 0] * width + runs[0, 1]])
    for k in range(len(runs)):
        first = np.int64(runs[k, 0]) * width
        low, high = range_of_values(image[first + runs[k, 1] : first + runs[k, 2]])
        least = min(least, low)
        greatest = max(greatest, high)
    return least, greatest


@kernel
def sum_deviations(line, pivot, is_small):
    """Return the sums of the deviations of a run of pixels, and of their squares.

    line     : integers (n,)
    is_small : whether no deviation from the pivot is beyond LARGEST_DEVIATION
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
    return total, squares


@kernel
def sum_bins(bins, least, pivot):
    """Return the same sums of all values, each of which has a bin of its own.

    bins  : int64 (n,)
    least : value of the first bin
    """
    total = squares = np.int64(0)
    for k in range(len(bins)):
        deviation = least + k - pivot
        total += bins[k] * deviation
        squares += bins[k] * deviation * deviation
    return total, np.float64(squares)


class LabelScratch(NamedTuple):
    """Arrays for `count_labels`.

    labels : uint64 (SLOTS,), labels that are counted apart
    slots  : ClassCounts of SLOTS, of these
    totals : ClassCounts of K + 1: of each class, then of any class
    """

    labels: NDArray[np.uint64]
    slots: ClassCounts
    totals: ClassCounts


@kernel
def count_labels(image, mask, limits, runs, pixels, scratch):
    """Count the values of each class of an image, and of any class.

    image   : integers (H * W,)
    mask    : unsigned (H, W)
    limits  : int64 (2,), the least and the greatest value of the image
    runs    : int32 (n, 3), as of `find_runs`, at least one
    pixels  : int64 (K,), of each class
    scratch : LabelScratch; the totals of classes with pixels, and the last, are written

    A value lies in bin (value >> shift) - base. Returns base, shift, the number of bins
    and the pivot of the totals.
    """
    labels, slots, totals = scratch
    classes = len(pixels)
    width = mask.shape[1]
    least, greatest = limits[0], limits[1]
    shift = 0
    is_fine = greatest - least < WIDEST_FINE
    if not is_fine:
        least, greatest = range_of_runs(image, width, runs)
        shift = shift_of_bins(least, greatest, len(image))
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
    for k in range(len(runs)):
        first = np.int64(runs[k, 0]) * width
        label = np.uint64(mask[runs[k, 0], runs[k, 1]])
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
        bins = slots.bins[slot]
        for column in range(len(line)):
            value = np.int64(line[np.uint64(column)])
            bins[np.uint64((value >> shift) - base)] += np.uint32(1)
        if not is_fine:
            total, squares = sum_deviations(line, pivot, is_small)
            slots.sums[slot] += total
            slots.squares[slot] += squares
    add_slots(labels, used, slots, pixels, size, totals)
    if is_fine:
        first, size = range_of_bins(totals.bins[classes], size)
        pivot = least + first + least + size - 1 >> 1
        shift = shift_of_bins(least + first, least + size - 1, len(image))
        for k in range(classes + 1):
            if k == classes or pixels[k]:
                bins = totals.bins[k, :size]
                totals.sums[k], totals.squares[k] = sum_bins(bins, least, pivot)
                if shift:
                    widen_bins(bins, least, shift)
        base = least >> shift
        size = (least + size - 1 >> shift) - base + 1
    return base, shift, size, pivot


@entry(
    images=(
        LabelledImages,
        *("const T[::1]", "const int64[::1]", "const M[:, :, ::1]"),
        *("const int64[::1]", "int64[:, ::1]", "int64[:, :, ::1]"),
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
    """Measure classes and write histograms: of any class, of the image, of each class.

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
    scratch = LabelScratch(
        empty(SLOTS, np.uint64),
        ClassCounts(
            empty((SLOTS, WIDEST_FINE), np.uint32),
            empty(SLOTS, np.int64),
            empty(SLOTS, np.float64),
        ),
        ClassCounts(
            empty((classes + 1, WIDEST_FINE), np.int64),
            empty(classes + 1, np.int64),
            empty(classes + 1, np.float64),
        ),
    )
    totals = scratch.totals
    row = end = 0
    for j in range(len(indices)):
        pixels = images.pixels[j]
        number = images.numbers[j]
        count = np.int64(0)
        if number >= 0:
            count = find_runs(images.masks[number], runs)
            measure_classes(images.masks[number], runs[:count], pixels, images.boxes[j])
        base = shift = size = pivot = np.int64(0)
        if count:
            start = images.offsets[j] // itemsize
            image = values[start : start + height * width]
            limits = measures.sums[indices[j], :2]
            base, shift, size, pivot = count_labels(
                image, images.masks[number], limits, runs[:count], pixels, scratch
            )
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
                first, stop = range_of_bins(bins, size)
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
