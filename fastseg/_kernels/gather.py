"""Samples to a batch: one pass from the map into place.

Inner loops run over slices of rows, indexed from 0: compilers turn only such loops
into vector instructions.

All kernels take the rows of one bucket and the slots of the batch that they go to:
sample rows[j] of the bucket fills out[slots[j]], every cell of it. Where the batch
is larger than the sample, the sample stands in its centre; where it is smaller, its
centre is cut out. Offsets of half a pixel are rounded towards the top left.
"""

import numpy as np

from fastseg._kernels.jit import kernel


@kernel
def centre_overlap(source, target):
    """Return (start in the source, start in the target, length) along one axis."""
    if source >= target:
        return (source - target) // 2, 0, target
    return 0, (target - source) // 2, source


@kernel
def gather_images(images, rows, slots, shift, gain, low, high, pad, out):
    """Scale: out = min(max((value - shift) * gain, low), high), `pad` around it.

    images      : integers (n, H, W)
    shift, gain : float32 (b,), one per sample
    low, high, pad : float32
    out         : float32 (B, h, w)
    """
    first_y, to_y, height = centre_overlap(images.shape[1], out.shape[1])
    first_x, to_x, width = centre_overlap(images.shape[2], out.shape[2])
    for j in range(len(rows)):
        target = out[slots[j]]
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
def gather_bits(masks, rows, slots, out):
    """Copy bit fields: masks (n, H, W) to out (B, h, w) of the same dtype."""
    first_y, to_y, height = centre_overlap(masks.shape[1], out.shape[1])
    first_x, to_x, width = centre_overlap(masks.shape[2], out.shape[2])
    for j in range(len(rows)):
        target = out[slots[j]]
        if height < target.shape[0] or width < target.shape[1]:
            target[:] = 0
        mask = masks[rows[j]]
        for y in range(height):
            line = mask[first_y + y, first_x : first_x + width]
            place = target[to_y + y, to_x : to_x + width]
            for x in range(width):
                place[x] = line[x]


@kernel
def gather_classes(masks, rows, slots, classes, out):
    """Write one channel of 0 and 1 for each listed class.

    masks   : bit fields (n, H, W)
    classes : int64 (c,), bits of the classes
    out     : uint8 (B, c, h, w)
    """
    first_y, to_y, height = centre_overlap(masks.shape[1], out.shape[2])
    first_x, to_x, width = centre_overlap(masks.shape[2], out.shape[3])
    for j in range(len(rows)):
        mask = masks[rows[j]]
        for c in range(len(classes)):
            target = out[slots[j], c]
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
def gather_labels(masks, rows, slots, priority, out):
    """Write 0 for background, k + 1 where class k is the first in priority to cover.

    masks    : bit fields (n, H, W)
    priority : int64 (K,), bits of the classes, the one on top first
    out      : uint8 (B, h, w)
    """
    first_y, to_y, height = centre_overlap(masks.shape[1], out.shape[1])
    first_x, to_x, width = centre_overlap(masks.shape[2], out.shape[2])
    # Up to 8 classes, the label of each of 256 masks is looked up: 5 times faster.
    table = np.zeros(256, np.uint8)
    for bits in range(256):
        table[bits] = top_label(np.uint64(bits), priority)
    for j in range(len(rows)):
        target = out[slots[j]]
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
