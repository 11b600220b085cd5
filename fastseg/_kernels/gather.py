"""Samples to a batch: one pass from the map into place.

Inner loops run over slices of rows, indexed from 0: compilers turn only such loops
into vector instructions.

All kernels take samples of one stack, an array (n, H, W): sample rows[j] of it goes
to out[j] and fills every cell; where rows[j] is negative, out[j] belongs to another
stack and is left alone. Where the batch is larger than the sample, the sample stands
in its centre; where it is smaller, its centre is cut out. Offsets of half a pixel are
rounded towards the top left.
"""

import numpy as np

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


@kernel
def gather_images(images, rows, shift, gain, low, high, pad, out):
    """Scale: out = min(max((value - shift) * gain, low), high), `pad` around it.

    images      : integers (n, H, W)
    rows        : int64 (b,)
    shift, gain : float32 (b,), one per sample
    low, high, pad : float32
    out         : float32 (b, h, w)
    """
    first_y, to_y, height = centre_overlap(images.shape[1], out.shape[1])
    first_x, to_x, width = centre_overlap(images.shape[2], out.shape[2])
    for j in range(len(rows)):
        if rows[j] < 0:
            continue
        target = out[j]
        if height < target.shape[0] or width < target.shape[1]:
            target[:] = pad
        image = images[rows[j]]
        shift_j, gain_j = shift[j], gain[j]
        for y in range(height):
            line = image[first_y + y, first_x : first_x + width]
            place = target[to_y + y, to_x : to_x + width]
            for x in range(width):
                value = (np.float32(line[x]) - shift_j) * gain_j
                place[x] = min(max(value, low), high)


@kernel
def gather_half_images(images, rows, shift, gain, low, high, pad, out):
    """Do as `gather_images` does, and round to float16.

    out : uint16 (b, h, w), the bits of float16
    """
    first_y, to_y, height = centre_overlap(images.shape[1], out.shape[1])
    first_x, to_x, width = centre_overlap(images.shape[2], out.shape[2])
    for j in range(len(rows)):
        if rows[j] < 0:
            continue
        target = out[j]
        if height < target.shape[0] or width < target.shape[1]:
            target[:] = half_bits(pad)
        image = images[rows[j]]
        shift_j, gain_j = shift[j], gain[j]
        for y in range(height):
            line = image[first_y + y, first_x : first_x + width]
            place = target[to_y + y, to_x : to_x + width]
            for x in range(width):
                value = (np.float32(line[x]) - shift_j) * gain_j
                place[x] = half_bits(np.float32(min(max(value, low), high)))


@kernel
def gather_values(values, rows, pad, out):
    """Copy values (n, H, W) to out (b, h, w) of the same dtype, `pad` around them."""
    first_y, to_y, height = centre_overlap(values.shape[1], out.shape[1])
    first_x, to_x, width = centre_overlap(values.shape[2], out.shape[2])
    for j in range(len(rows)):
        if rows[j] < 0:
            continue
        target = out[j]
        if height < target.shape[0] or width < target.shape[1]:
            target[:] = pad
        value = values[rows[j]]
        for y in range(height):
            line = value[first_y + y, first_x : first_x + width]
            place = target[to_y + y, to_x : to_x + width]
            for x in range(width):
                place[x] = line[x]


@kernel
def gather_classes(masks, rows, classes, out):
    """Write one channel of 0 and 1 for each listed class.

    masks   : bit fields (n, H, W)
    classes : int64 (c,), bits of the classes
    out     : uint8 (b, c, h, w)
    """
    first_y, to_y, height = centre_overlap(masks.shape[1], out.shape[2])
    first_x, to_x, width = centre_overlap(masks.shape[2], out.shape[3])
    for j in range(len(rows)):
        if rows[j] < 0:
            continue
        mask = masks[rows[j]]
        for c in range(len(classes)):
            target = out[j, c]
            if height < target.shape[0] or width < target.shape[1]:
                target[:] = 0
            bit = np.uint64(classes[c])
            for y in range(height):
                line = mask[first_y + y, first_x : first_x + width]
                place = target[to_y + y, to_x : to_x + width]
                for x in range(width):
                    place[x] = (np.uint64(line[x]) >> bit) & np.uint64(1)


@kernel
def top_label(bits, priority):
    """Return k + 1 for the first class k in priority whose bit is set, 0 for none."""
    for k in priority:
        if (bits >> np.uint64(k)) & np.uint64(1):
            return k + 1
    return 0


@kernel
def gather_labels(masks, rows, priority, out):
    """Write 0 for background, k + 1 where class k is the first in priority to cover.

    masks    : bit fields (n, H, W)
    priority : int64 (K,), bits of the classes, the one on top first
    out      : uint8 (b, h, w)
    """
    first_y, to_y, height = centre_overlap(masks.shape[1], out.shape[1])
    first_x, to_x, width = centre_overlap(masks.shape[2], out.shape[2])
    # Up to 8 classes, the label of each of 256 masks is looked up: 5 times faster.
    table = np.zeros(256, np.uint8)
    for bits in range(256):
        table[bits] = top_label(np.uint64(bits), priority)
    for j in range(len(rows)):
        if rows[j] < 0:
            continue
        target = out[j]
        if height < target.shape[0] or width < target.shape[1]:
            target[:] = 0
        mask = masks[rows[j]]
        for y in range(height):
            line = mask[first_y + y, first_x : first_x + width]
            place = target[to_y + y, to_x : to_x + width]
            if masks.itemsize == 1:
                for x in range(width):
                    place[x] = table[line[x]]
            else:
                for x in range(width):
                    place[x] = top_label(np.uint64(line[x]), priority)
