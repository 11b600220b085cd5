"""Samples to a batch, in one pass from the mapped file.

Inner loops run over slices that are indexed from 0, because compilers vectorize only
such loops. They write to a short array in the first-level cache, which `put` copies to
the batch, past the caches if `streams` is set.

All kernels take samples of one stack, an array (n, H, W): sample rows[j] goes to
out[j] and fills every cell of it. Where rows[j] is negative, the sample is in another
stack and out[j] is left alone. An image smaller than the batch is centred in it, a
larger one is cut to its centre. Half pixels are rounded towards the top left.
"""

import numpy as np

from fastseg._kernels.images.stream import CHUNK, put, settle
from fastseg._kernels.jit import empty, entry, flat, inlined, kernel, zeros

# The label of pixels whose class nobody has outlined.
IGNORED = 255


@kernel
def centre_overlap(source, target):
    """Return (start in the source, start in the target, length) along one axis."""
    if source >= target:
        return (source - target) // 2, 0, target
    return 0, (target - source) // 2, source


# Bits of float32: 2**-14, the least normal float16, and 2**16, beyond the greatest.
SMALL, LARGE = np.uint32(0x38800000), np.uint32(0x47800000)
# Bits of float16.
INFINITE, NAN = np.uint32(0x7C00), np.uint32(0x7E00)


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


@inlined
def lines_of(height, width, target_height, target_width):
    """Return which lines of an image to copy.

    Returns the first row and column, the row and column in the target that they go to,
    and the numbers of lines and of columns. Where no column is cut or padded, all rows
    are one line, so that loops over a line are longer.
    """
    first_y, to_y, rows = centre_overlap(height, target_height)
    first_x, to_x, columns = centre_overlap(width, target_width)
    if width == target_width:
        return first_y, 0, to_y, 0, 1, rows * columns
    return first_y, first_x, to_y, to_x, rows, columns


@entry(
    images="const I[:, :, ::1]",
    masks="const uint8[:, :, ::1]",
    rows="const int64[::1]",
    shift="const float32[::1]",
    gain="const float32[::1]",
    low="float64",
    high="float64",
    pad="const float32[::1]",
    classes="C",
    missing="const uint64[::1]",
    streams="bool",
    image="O[:, :, ::1]",
    mask="M",
    I=("int16", "uint16", "uint8", "int32"),
    O=("float32", "uint16"),
    CM=(
        ("none", "uint8[:, :, ::1]"),
        ("const int64[::1]", "uint8[:, :, ::1]"),
        ("const int64[::1]", "uint8[:, :, :, ::1]"),
    ),
)
def gather_samples(
    images, masks, rows, shift, gain, low, high, pad, classes, missing, streams,
    image, mask,
):  # fmt: skip
    """Do the work of `gather_images` and `gather_masks` in one call.

    A thread that returns to Python waits up to 5 ms for the interpreter lock while the
    training loop runs Python. One call for both makes the wait for a batch four times
    shorter then.

    shift : None to copy stored values, as `gather_values` does
    """
    if shift is None:
        gather_values(images, rows, pad, streams, image)
    else:
        gather_images(images, rows, shift, gain, low, high, pad, streams, image)
    gather_masks(masks, rows, classes, missing, streams, mask)


@kernel
def gather_images(images, rows, shift, gain, low, high, pad, streams, out):
    """Write min(max((value - shift) * gain, low), high), and `pad` around the image.

    images      : integers (n, H, W), C-contiguous
    rows        : int64 (b,)
    shift, gain, pad : float32 (b,), one per sample
    low, high   : rounded to float32
    streams     : whether to write past the caches
    out         : float32 (b, h, w), C-contiguous, or uint16 for the bits of float16
    """
    halves = out.itemsize == 2  # known to the compiler
    size, to_size = images[0].size, out[0].size
    step, to_step = images.shape[2], out.shape[2]
    first_y, first_x, to_y, to_x, lines, length = lines_of(
        images.shape[1], step, out.shape[1], to_step
    )
    values, cells = flat(images), flat(out)
    scaled = empty(CHUNK, out.dtype)
    low, high = np.float32(low), np.float32(high)
    for j in range(len(rows)):
        if rows[j] < 0:
            continue
        if lines * length < to_size:
            if halves:
                cells[j * to_size : (j + 1) * to_size] = half_bits(pad[j])
            else:
                cells[j * to_size : (j + 1) * to_size] = pad[j]
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
    """Copy values (n, H, W) to out (b, h, w) of the same dtype, `pad` around them.

    pad : of the same dtype (b,), one per sample
    """
    size, to_size = images[0].size, out[0].size
    step, to_step = images.shape[2], out.shape[2]
    first_y, first_x, to_y, to_x, lines, length = lines_of(
        images.shape[1], step, out.shape[1], to_step
    )
    values, cells = flat(images), flat(out)
    for j in range(len(rows)):
        if rows[j] < 0:
            continue
        if lines * length < to_size:
            cells[j * to_size : (j + 1) * to_size] = pad[j]
        for y in range(lines):
            start = rows[j] * size + (first_y + y) * step + first_x
            to = j * to_size + (to_y + y) * to_step + to_x
            put(values[start : start + length], length, cells, to, streams)
    settle()


@entry(
    masks="const uint8[:, :, ::1]",
    rows="const int64[::1]",
    classes="const int64[::1]",
    missing="const uint64[::1]",
    streams="bool",
    out="uint8[:, :, ::1] | uint8[:, :, :, ::1]",
)
def gather_masks(masks, rows, classes, missing, streams, out):
    """Write the masks of samples in one of three forms.

    classes : None for the bit fields as they are; int64 (c,) for a channel per class if
        out is 4-D, see `gather_classes`; else the priority for `gather_labels`
    missing : uint64 (b,), unused without classes
    """
    if classes is None:
        gather_values(masks, rows, zeros(len(rows), masks.dtype), streams, out)
    elif out.ndim == 4:
        gather_classes(masks, rows, classes, missing, streams, out)
    else:
        gather_labels(masks, rows, classes, missing, streams, out)


@kernel
def gather_classes(masks, rows, classes, missing, streams, out):
    """Write one channel of 0 and 1 for each listed class.

    masks   : bit fields (n, H, W), C-contiguous
    classes : int64 (c,), bits of the classes
    missing : uint64 (b,), bit k of a sample fills the channel of class k with IGNORED
    out     : uint8 (b, c, h, w), C-contiguous
    """
    size, to_size = masks[0].size, out[0, 0].size
    step, to_step = masks.shape[2], out.shape[3]
    first_y, first_x, to_y, to_x, lines, length = lines_of(
        masks.shape[1], step, out.shape[2], to_step
    )
    values, cells = flat(masks), flat(out)
    channel = empty(CHUNK, np.uint8)
    for j in range(len(rows)):
        if rows[j] < 0:
            continue
        for c in range(len(classes)):
            base = (j * len(classes) + c) * to_size
            bit = np.uint64(classes[c])
            if (missing[j] >> bit) & np.uint64(1):
                cells[base : base + to_size] = IGNORED
                continue
            if lines * length < to_size:
                cells[base : base + to_size] = 0
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
def top_label(bits, priority, missing):
    """Return the label of a pixel: k + 1 for the first class k in priority it has.

    0 if it has none of them, and IGNORED if a class that is missing comes earlier in
    priority: that class might be on top.
    """
    for k in priority:
        if (bits >> np.uint64(k)) & np.uint64(1):
            return k + 1
        if (missing >> np.uint64(k)) & np.uint64(1):
            return IGNORED
    return 0


@kernel
def gather_labels(masks, rows, priority, missing, streams, out):
    """Write one label per pixel, see `top_label`.

    masks    : bit fields (n, H, W), C-contiguous
    priority : int64 (K,), bits of the classes, the one on top first
    missing  : uint64 (b,), bit k of a sample says that class k may be anywhere in it
    out      : uint8 (b, h, w), C-contiguous
    """
    size, to_size = masks[0].size, out[0].size
    step, to_step = masks.shape[2], out.shape[2]
    first_y, first_x, to_y, to_x, lines, length = lines_of(
        masks.shape[1], step, out.shape[1], to_step
    )
    values, cells = flat(masks), flat(out)
    # Up to 8 classes, a table gives the label of each of 256 masks: 5 times faster.
    table, unlabelled = empty(256, np.uint8), np.uint64(0)
    for bits in range(256):
        table[bits] = top_label(np.uint64(bits), priority, unlabelled)
    labels = empty(CHUNK, np.uint8)
    for j in range(len(rows)):
        if rows[j] < 0:
            continue
        if missing[j] != unlabelled:
            unlabelled = missing[j]
            for bits in range(256):
                table[bits] = top_label(np.uint64(bits), priority, unlabelled)
        if lines * length < to_size:
            cells[j * to_size : (j + 1) * to_size] = table[0]
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
                        labels[x] = top_label(np.uint64(line[x]), priority, unlabelled)
                put(labels, len(line), cells, to + done, streams)
    settle()
