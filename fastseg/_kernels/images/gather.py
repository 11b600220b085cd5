"""Slices to a batch, in one pass from the mapped file.

Inner loops run over slices that are indexed from 0, because compilers vectorize only
such loops. They write to a short array in the first-level cache, which `put` copies to
the batch, past the caches if `streams` is set.

All kernels take slices of one stack, an array (n, H, W): a sample is one slice, a
sample with its neighbours and a patch of a volume are several. Slice j of a batch,
out[j], shows h x w pixels of image rows[j] from a corner on, and what pads the image
where they lie beyond it: every cell is filled.

An entry makes images and masks in one call. A thread that returns to Python waits up to
5 ms for the interpreter lock while the training loop runs Python. One call for both
makes the wait for a batch four times shorter then.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg._kernels.images.prefetch import AHEAD, prefetch_cells
from fastseg._kernels.images.stream import CHUNK, put, settle
from fastseg._kernels.jit import empty, entry, flat, inlined, kernel, zeros

# The label of pixels whose class nobody has outlined.
IGNORED = 255
ONE = np.uint64(1)
# Bits of float32: 2**-14, the least normal float16, and 2**16, beyond the greatest.
SMALL, LARGE = np.uint32(0x38800000), np.uint32(0x47800000)
# Bits of float16.
INFINITE, NAN = np.uint32(0x7C00), np.uint32(0x7E00)
# Rows of slices that are in another stack, which are left alone, and of those that no
# image is for, because they lie outside of their volume: padding fills them.
ELSEWHERE, OUTSIDE = -1, -2


class Slices(NamedTuple):
    """Where the m slices of a batch come from.

    rows    : int64 (m,), the row of the image in the stack; or ELSEWHERE or OUTSIDE
    corners : int64 (m, 2), (row, column) of the image's pixel that the first pixel of
        the slice shows; negative where what pads the image comes first
    """

    rows: NDArray[np.int64]
    corners: NDArray[np.int64]


class Scaling(NamedTuple):
    """How stored values of m slices become numbers of a batch.

    They become min(max((value - shift) * gain, low), high), in float32.

    shift, gain : float32 (m,)
    low, high   : limits, rounded to float32
    pad         : float32 (m,), what lies around the image of each slice
    """

    shift: NDArray[np.float32]
    gain: NDArray[np.float32]
    low: float
    high: float
    pad: NDArray[np.float32]


class Lines(NamedTuple):
    """The lines of an image that a slice of a batch shows.

    start, to      : indices of the first line, in the flat stack and in the flat slice
    step, to_step  : from a line to the next one
    number, length : of lines, and of pixels of each
    """

    start: int
    to: int
    step: int
    to_step: int
    number: int
    length: int


SCALING = (
    Scaling,
    *("const float32[::1]", "const float32[::1]", "float64", "float64"),
    "const float32[::1]",
)
SLICES = (Slices, "const int64[::1]", "const int64[:, ::1]")
# Of images and masks, but for the values of images.
SAMPLES = {
    "images": "const I[:, :, ::1]",
    "masks": "const uint8[:, :, ::1]",
    "slices": SLICES,
    "mask_slices": SLICES,
    "classes": "const int64[::1]",
    "missing": "const uint64[::1]",
    "streams": "bool",
    "mask": "uint8[:, :, ::1] | uint8[:, :, :, :, ::1]",
}


@entry(
    **SAMPLES,
    scaling=SCALING,
    image="float32[:, :, ::1]",
    I=("int16", "uint16", "uint8", "int32"),
)
def gather_samples(
    images, masks, slices, mask_slices, scaling, classes, missing, streams, image, mask
):  # fmt: skip
    """Do the work of `gather_images`, as float32, and of `gather_masks`."""
    gather_images(images, slices, scaling, single, streams, image)
    gather_masks(masks, mask_slices, classes, missing, streams, mask)


@entry(**SAMPLES, scaling=SCALING, image="uint16[:, :, ::1]", I=("int16", "uint16"))
def gather_half_samples(
    images, masks, slices, mask_slices, scaling, classes, missing, streams, image, mask
):  # fmt: skip
    """Do the work of `gather_images`, as bits of float16, and of `gather_masks`."""
    gather_images(images, slices, scaling, half_bits, streams, image)
    gather_masks(masks, mask_slices, classes, missing, streams, mask)


@entry(**SAMPLES, pad="const I[::1]", image="I[:, :, ::1]", I=("int16", "uint16"))
def copy_samples(
    images, masks, slices, mask_slices, pad, classes, missing, streams, image, mask
):  # fmt: skip
    """Do the work of `gather_values` for images, and of `gather_masks`."""
    gather_values(images, slices, pad, streams, image)
    gather_masks(masks, mask_slices, classes, missing, streams, mask)


@inlined
def single(value):
    """Return a float32 as it is."""
    return value


@inlined
def half_bits(value):
    """Return the bits of the float16 nearest to a float32, ties to even.

    From 65520 on it is infinite. After Giesen's "float_to_half_fast3_rtne" (2012),
    with selections in place of its branches.
    """
    # Each result is cast back, because numba widens to 64 bits, at half the speed.
    every = np.float32(value).view(np.uint32)
    bits = np.uint32(every & np.uint32(0x7FFFFFFF))
    # Below 2**-14 a float16 is a multiple of 2**-24: adding 1/2 leaves these
    # multiples in the last bits of the sum.
    moved = np.float32(abs(value) + np.float32(0.5)).view(np.uint32)
    odd = np.uint32((bits >> np.uint32(13)) & np.uint32(1))
    normal = np.uint32(np.uint32(max(bits, SMALL) - np.uint32(0x37FFF001)) + odd)
    half = np.uint32(normal >> np.uint32(13))
    half = np.uint32(moved - np.uint32(0x3F000000)) if bits < SMALL else half
    half = np.uint32(INFINITE) if bits >= LARGE else half
    half = np.uint32(NAN) if bits > np.uint32(0x7F800000) else half
    return np.uint16(half | np.uint32(every >> np.uint32(16)) & np.uint32(0x8000))


@kernel
def overlap(corner, source, target):
    """Return (start in the source, start in the target, length) along one axis.

    Cell k of the target shows cell `corner + k` of the source, if it has one.
    """
    start = max(corner, 0)
    stop = min(corner + target, source)
    return start, start - corner, max(stop - start, 0)


@kernel
def lines_of(slices, j, height, width, to_height, to_width):
    """Return which lines of images (height, width) slice j of a batch shows, as Lines.

    Where no column is cut or padded, all rows are one line, so that loops over a line
    are longer. A slice outside of its volume shows no line.
    """
    row = slices.rows[j]
    first_y, to_y, rows = overlap(slices.corners[j, 0], height, to_height)
    first_x, to_x, columns = overlap(slices.corners[j, 1], width, to_width)
    start = (row * height + first_y) * width + first_x
    to = to_y * to_width + to_x
    if row == OUTSIDE:
        return Lines(0, 0, width, to_width, 0, 0)
    if columns == width and width == to_width:
        return Lines(start, to, width, to_width, 1, rows * columns)
    return Lines(start, to, width, to_width, rows, columns)


@inlined
def prefetch_line(cells, lines, start):
    """Ask for the line that is AHEAD of the one that begins at `start`."""
    if lines.number > 1:
        prefetch_cells(cells, start + AHEAD * lines.step, lines.length)


@inlined
def fill(cells, start, count, value):
    """Write a value to `count` cells."""
    part = cells[start : start + count]
    for k in range(len(part)):
        part[k] = value


@kernel
def gather_images(images, slices, scaling, convert, streams, out):
    """Write scaled values, and around them what pads an image.

    images  : integers (n, H, W), C-contiguous
    slices  : Slices, m of them
    scaling : Scaling of m slices
    convert : `single` or `half_bits`
    streams : whether to write past the caches
    out     : float32 (m, h, w), C-contiguous; or uint16 for `half_bits`
    """
    _, height, width = images.shape
    _, to_height, to_width = out.shape
    to_size = to_height * to_width
    values, cells = flat(images), flat(out)
    scaled = empty(CHUNK, out.dtype)
    low, high = np.float32(scaling.low), np.float32(scaling.high)
    for j in range(len(slices.rows)):
        if slices.rows[j] == ELSEWHERE:
            continue
        lines = lines_of(slices, j, height, width, to_height, to_width)
        if lines.number * lines.length < to_size:
            fill(cells, j * to_size, to_size, convert(scaling.pad[j]))
        shift, gain = scaling.shift[j], scaling.gain[j]
        for y in range(lines.number):
            start = lines.start + y * lines.step
            prefetch_line(values, lines, start)
            to = j * to_size + lines.to + y * lines.to_step
            for done in range(0, lines.length, CHUNK):
                count = min(lines.length - done, CHUNK)
                line = values[start + done : start + done + count]
                for x in range(len(line)):
                    value = (np.float32(line[x]) - shift) * gain
                    value = low if low > value else value
                    scaled[x] = convert(high if high < value else value)
                put(scaled, count, cells, to + done, streams)
    settle()


@kernel
def gather_values(images, slices, pad, streams, out):
    """Copy values (n, H, W) to out (m, h, w) of the same dtype, `pad` around them.

    pad : of the same dtype (m,), one per slice
    """
    _, height, width = images.shape
    _, to_height, to_width = out.shape
    to_size = to_height * to_width
    values, cells = flat(images), flat(out)
    for j in range(len(slices.rows)):
        if slices.rows[j] == ELSEWHERE:
            continue
        lines = lines_of(slices, j, height, width, to_height, to_width)
        if lines.number * lines.length < to_size:
            fill(cells, j * to_size, to_size, pad[j])
        for y in range(lines.number):
            start = lines.start + y * lines.step
            prefetch_line(values, lines, start)
            to = j * to_size + lines.to + y * lines.to_step
            line = values[start : start + lines.length]
            put(line, lines.length, cells, to, streams)
    settle()


@entry(
    masks="const uint8[:, :, ::1]",
    slices=SLICES,
    classes="const int64[::1]",
    missing="const uint64[::1]",
    streams="bool",
    out="uint8[:, :, ::1] | uint8[:, :, :, :, ::1]",
)
def gather_masks(masks, slices, classes, missing, streams, out):
    """Write the masks of m slices in one of three forms.

    classes : int64 (c,). For a channel per class if out is 5-D, see `gather_classes`;
        else the priority for `gather_labels`; none for the bit fields as they are
    missing : uint64 (m,), unused without classes
    """
    if out.ndim == 5:
        gather_classes(masks, slices, classes, missing, streams, out)
    elif len(classes) > 0:
        gather_labels(masks, slices, classes, missing, streams, out)
    else:
        pad = zeros(len(slices.rows), masks.dtype)
        gather_values(masks, slices, pad, streams, out)


@kernel
def gather_classes(masks, slices, classes, missing, streams, out):
    """Write one channel of 0 and 1 for each listed class.

    masks   : bit fields (n, H, W), C-contiguous
    slices  : Slices, b * d of them: d neighbours belong to one sample
    classes : int64 (c,), bits of the classes
    missing : uint64 (b * d,), bit k of a slice fills its channel of class k with
        IGNORED
    out     : uint8 (b, c, d, h, w), C-contiguous
    """
    _, height, width = masks.shape
    _, _, depth, to_height, to_width = out.shape
    to_size = to_height * to_width
    values, cells = flat(masks), flat(out)
    channel = empty(CHUNK, np.uint8)
    for j in range(len(slices.rows)):
        if slices.rows[j] == ELSEWHERE:
            continue
        lines = lines_of(slices, j, height, width, to_height, to_width)
        for c in range(len(classes)):
            channels = j // depth * len(classes) + c  # before this one
            base = (channels * depth + j % depth) * to_size
            bit = np.uint64(classes[c])
            if (missing[j] >> bit) & ONE:
                fill(cells, base, to_size, IGNORED)
                continue
            if lines.number * lines.length < to_size:
                fill(cells, base, to_size, 0)
            for y in range(lines.number):
                start = lines.start + y * lines.step
                prefetch_line(values, lines, start)
                to = base + lines.to + y * lines.to_step
                for done in range(0, lines.length, CHUNK):
                    count = min(lines.length - done, CHUNK)
                    line = values[start + done : start + done + count]
                    for x in range(len(line)):
                        channel[x] = (np.uint64(line[x]) >> bit) & ONE
                    put(channel, count, cells, to + done, streams)
    settle()


@kernel
def top_label(bits, priority, missing):
    """Return the label of a pixel: k + 1 for the first class k in priority it has.

    0 if it has none of them, and IGNORED if a class that is missing comes earlier in
    priority: that class might be on top.
    """
    for k in priority:
        if (bits >> np.uint64(k)) & ONE:
            return k + 1
        if (missing >> np.uint64(k)) & ONE:
            return IGNORED
    return 0


@kernel
def gather_labels(masks, slices, priority, missing, streams, out):
    """Write one label per pixel, see `top_label`.

    masks    : bit fields (n, H, W), C-contiguous
    slices   : Slices, m of them
    priority : int64 (K,), bits of the classes, the one on top first
    missing  : uint64 (m,), bit k of a slice says that class k may be anywhere in it
    out      : uint8 (m, h, w), C-contiguous
    """
    _, height, width = masks.shape
    _, to_height, to_width = out.shape
    to_size = to_height * to_width
    values, cells = flat(masks), flat(out)
    is_filled, unlabelled = False, np.uint64(0)
    none = np.uint8(0)
    bits_of, labels_of = zeros(8, np.uint8), zeros(8, np.uint8)
    labels = empty(CHUNK, np.uint8)
    for j in range(len(slices.rows)):
        if slices.rows[j] == ELSEWHERE:
            continue
        lines = lines_of(slices, j, height, width, to_height, to_width)
        if not is_filled or missing[j] != unlabelled:
            is_filled, unlabelled = True, missing[j]
            none = np.uint8(top_label(np.uint64(0), priority, unlabelled))
            if masks.itemsize == 1:
                for n in range(len(priority)):
                    bit = ONE << np.uint64(priority[n])
                    bits_of[n] = bit
                    labels_of[n] = top_label(bit, priority, unlabelled)
        if lines.number * lines.length < to_size:
            fill(cells, j * to_size, to_size, none)
        for y in range(lines.number):
            start = lines.start + y * lines.step
            prefetch_line(values, lines, start)
            to = j * to_size + lines.to + y * lines.to_step
            for done in range(0, lines.length, CHUNK):
                count = min(lines.length - done, CHUNK)
                line = values[start + done : start + done + count]
                if masks.itemsize == 1:
                    choose_labels(line, bits_of, labels_of, none, labels)
                else:
                    for x in range(len(line)):
                        labels[x] = top_label(np.uint64(line[x]), priority, unlabelled)
                put(labels, count, cells, to + done, streams)
    settle()


@inlined
def choose_labels(line, bits, labels, none, out):
    """Write the label of the first of eight bits that is set in each mask of a line.

    line         : uint8 (n,)
    bits, labels : uint8 (8,); bits that are 0 are never set
    none         : uint8, the label where none is set
    out          : uint8, at least n

    Vector instructions do this, for 32 pixels at once; they cannot look up a table.
    """
    b0, b1, b2, b3 = bits[0], bits[1], bits[2], bits[3]
    b4, b5, b6, b7 = bits[4], bits[5], bits[6], bits[7]
    v0, v1, v2, v3 = labels[0], labels[1], labels[2], labels[3]
    v4, v5, v6, v7 = labels[4], labels[5], labels[6], labels[7]
    for x in range(len(line)):
        mask = line[x]
        label = v7 if np.uint8(mask & b7) else none
        label = v6 if np.uint8(mask & b6) else label
        label = v5 if np.uint8(mask & b5) else label
        label = v4 if np.uint8(mask & b4) else label
        label = v3 if np.uint8(mask & b3) else label
        label = v2 if np.uint8(mask & b2) else label
        label = v1 if np.uint8(mask & b1) else label
        out[x] = v0 if np.uint8(mask & b0) else label
