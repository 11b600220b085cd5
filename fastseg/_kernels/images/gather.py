"""Samples to a batch: one pass from the map into place.

Inner loops run over slices, indexed from 0: compilers turn only such loops into vector
instructions. What they make stands in a short line first, which is then put into its
place, past the caches if it is told so.

All kernels take samples of one stack, an array (n, H, W): sample rows[j] of it goes
to out[j] and fills every cell; where rows[j] is negative, out[j] belongs to another
stack and is left alone. Where the batch is larger than the sample, the sample stands
in its centre; where it is smaller, its centre is cut out. Offsets of half a pixel are
rounded towards the top left.
"""

import numpy as np

from fastseg._kernels.images.stream import CHUNK, put, settle
from fastseg._kernels.jit import inlined, kernel


@kernel
def centre_overlap(source, target):
    """Return (start in the source, start in the target, length) along one axis."""
    if source >= target:
        return (source - target) // 2, 0, target
    return 0, (target - source) // 2, source


# Bits of float32: of 2**-14, the least normal float16, and of the first beyond them.
SMALL, LARGE = np.uint32(0x38800000), np.uint32(0x47800000)
# Bits of float16.
INFINITE, NAN = np.uint32(0x7C00), np.uint32(0x7E00)


@inlined
def half_bits(value):
    """Return the bits of the float16 nearest to a float32, ties to even.

    From 65520 on it is infinite. After Giesen's "float_to_half_fast3_rtne" (2012),
    with selections where that has branches.
    """
    # Each result is cast back: numba widens to 64 bits, at half the speed.
    every = np.float32(value).view(np.uint32)
    bits = np.uint32(every & np.uint32(0x7FFFFFFF))
    # Below 2**-14 a half is a multiple of 2**-24: adding 1/2 leaves just these
    # multiples in the last bits of the sum.
    moved = np.float32(abs(value) + np.float32(0.5)).view(np.uint32)
    odd = np.uint32((bits >> np.uint32(13)) & np.uint32(1))
    normal = np.uint32(np.uint32(max(bits, SMALL) - np.uint32(0x37FFF001)) + odd)
    half = np.uint32(normal >> np.uint32(13))
    half = np.uint32(moved - np.uint32(0x3F000000)) if bits < SMALL else half
    half = np.uint32(INFINITE) if bits >= LARGE else half
    half = np.uint32(NAN) if bits > np.uint32(0x7F800000) else half
    return np.uint16(half | np.uint32(every >> np.uint32(16)) & np.uint32(0x8000))


@inlined
def lines_of(height, width, target_height, target_width):
    """Return how to walk an image: (first row, column; their targets; rows, columns).

    Where no column is cut or padded, all rows are one, and a loop over it is longer.
    """
    first_y, to_y, rows = centre_overlap(height, target_height)
    first_x, to_x, columns = centre_overlap(width, target_width)
    if width == target_width:
        return first_y, 0, to_y, 0, 1, rows * columns
    return first_y, first_x, to_y, to_x, rows, columns


@kernel
def gather_samples(
    images, masks, rows, shift, gain, low, high, pad, classes, streams, image, mask
):
    """Do as `gather_images` and `gather_masks` do, in one call.

    A thread that returns needs Python's lock, for which it waits 5 ms where the loop
    runs Python: one call for both makes the wait for a batch four times shorter then.

    shift : None for stored values, as `gather_values` has them
    """
    if shift is None:
        gather_values(images, rows, pad, streams, image)
    else:
        gather_images(images, rows, shift, gain, low, high, pad, streams, image)
    gather_masks(masks, rows, classes, streams, mask)


@kernel
def gather_images(images, rows, shift, gain, low, high, pad, streams, out):
    """Scale: out = min(max((value - shift) * gain, low), high), `pad` around it.

    images      : integers (n, H, W), C-contiguous
    rows        : int64 (b,)
    shift, gain : float32 (b,), one per sample
    low, high, pad : float32
    streams     : write past the caches
    out         : float32 (b, h, w), C-contiguous, or uint16 for the bits of float16
    """
    halves = out.itemsize == 2  # known to the compiler
    size, to_size = images[0].size, out[0].size
    step, to_step = images.shape[2], out.shape[2]
    first_y, first_x, to_y, to_x, lines, length = lines_of(
        images.shape[1], step, out.shape[1], to_step
    )
    values, cells = images.reshape(images.size), out.reshape(out.size)
    scaled = np.empty(CHUNK, out.dtype)
    for j in range(len(rows)):
        if rows[j] < 0:
            continue
        if lines * length < to_size:
            if halves:
                cells[j * to_size : (j + 1) * to_size] = half_bits(pad)
            else:
                cells[j * to_size : (j + 1) * to_size] = pad
        shift_j, gain_j = shift[j], gain[j]
        for y in range(lines):
            start = rows[j] * size + (first_y + y) * step + first_x
            to = j * to_size + (to_y + y) * to_step + to_x
            for done in range(0, length, CHUNK):
                line = values[start + done : start + min(done + CHUNK, length)]
                for x in range(len(line)):
                    value = (np.float32(line[x]) - shift_j) * gain_j
                    value = np.float32(min(max(value, low), high))
                    if halves:
                        scaled[x] = half_bits(value)
                    else:
                        scaled[x] = value
                put(scaled, len(line), cells, to + done, streams)
    settle()


@kernel
def gather_values(images, rows, pad, streams, out):
    """Copy values (n, H, W) to out (b, h, w) of the same dtype, `pad` around them."""
    size, to_size = images[0].size, out[0].size
    step, to_step = images.shape[2], out.shape[2]
    first_y, first_x, to_y, to_x, lines, length = lines_of(
        images.shape[1], step, out.shape[1], to_step
    )
    values, cells = images.reshape(images.size), out.reshape(out.size)
    for j in range(len(rows)):
        if rows[j] < 0:
            continue
        if lines * length < to_size:
            cells[j * to_size : (j + 1) * to_size] = pad
        for y in range(lines):
            start = rows[j] * size + (first_y + y) * step + first_x
            to = j * to_size + (to_y + y) * to_step + to_x
            put(values[start : start + length], length, cells, to, streams)
    settle()


@kernel
def gather_masks(masks, rows, classes, streams, out):
    """Do as `gather_values` does without classes, else as one of the next two does.

    classes : None; or int64 (c,), for `gather_classes` if out is 4-D; or the priority
        for `gather_labels`
    """
    if classes is None:
        gather_values(masks, rows, masks.dtype.type(0), streams, out)
    elif out.ndim == 4:
        gather_classes(masks, rows, classes, streams, out)
    else:
        gather_labels(masks, rows, classes, streams, out)


@kernel
def gather_classes(masks, rows, classes, streams, out):
    """Write one channel of 0 and 1 for each listed class.

    masks   : bit fields (n, H, W), C-contiguous
    classes : int64 (c,), bits of the classes
    out     : uint8 (b, c, h, w), C-contiguous
    """
    size, to_size = masks[0].size, out[0, 0].size
    step, to_step = masks.shape[2], out.shape[3]
    first_y, first_x, to_y, to_x, lines, length = lines_of(
        masks.shape[1], step, out.shape[2], to_step
    )
    values, cells = masks.reshape(masks.size), out.reshape(out.size)
    channel = np.empty(CHUNK, np.uint8)
    for j in range(len(rows)):
        if rows[j] < 0:
            continue
        for c in range(len(classes)):
            base = (j * len(classes) + c) * to_size
            if lines * length < to_size:
                cells[base : base + to_size] = 0
            bit = np.uint64(classes[c])
            for y in range(lines):
                start = rows[j] * size + (first_y + y) * step + first_x
                to = base + (to_y + y) * to_step + to_x
                for done in range(0, length, CHUNK):
                    line = values[start + done : start + min(done + CHUNK, length)]
                    for x in range(len(line)):
                        channel[x] = (np.uint64(line[x]) >> bit) & np.uint64(1)
                    put(channel, len(line), cells, to + done, streams)
    settle()


@kernel
def top_label(bits, priority):
    """Return k + 1 for the first class k in priority whose bit is set, 0 for none."""
    for k in priority:
        if (bits >> np.uint64(k)) & np.uint64(1):
            return k + 1
    return 0


@kernel
def gather_labels(masks, rows, priority, streams, out):
    """Write 0 for background, k + 1 where class k is the first in priority to cover.

    masks    : bit fields (n, H, W), C-contiguous
    priority : int64 (K,), bits of the classes, the one on top first
    out      : uint8 (b, h, w), C-contiguous
    """
    size, to_size = masks[0].size, out[0].size
    step, to_step = masks.shape[2], out.shape[2]
    first_y, first_x, to_y, to_x, lines, length = lines_of(
        masks.shape[1], step, out.shape[1], to_step
    )
    values, cells = masks.reshape(masks.size), out.reshape(out.size)
    # Up to 8 classes, the label of each of 256 masks is looked up: 5 times faster.
    table = np.zeros(256, np.uint8)
    for bits in range(256):
        table[bits] = top_label(np.uint64(bits), priority)
    labels = np.empty(CHUNK, np.uint8)
    for j in range(len(rows)):
        if rows[j] < 0:
            continue
        if lines * length < to_size:
            cells[j * to_size : (j + 1) * to_size] = 0
        for y in range(lines):
            start = rows[j] * size + (first_y + y) * step + first_x
            to = j * to_size + (to_y + y) * to_step + to_x
            for done in range(0, length, CHUNK):
                line = values[start + done : start + min(done + CHUNK, length)]
                if masks.itemsize == 1:
                    for x in range(len(line)):
                        labels[x] = table[line[x]]
                else:
                    for x in range(len(line)):
                        labels[x] = top_label(np.uint64(line[x]), priority)
                put(labels, len(line), cells, to + done, streams)
    settle()
