"""Positions of pixels in stored masks."""

import numpy as np

from fastseg._kernels.jit import entry

ONE = np.uint64(1)


@entry(
    mask="const T[:, ::1]", bit="int64", box="const int64[::1]", n="int64", T=("uint8",)
)
def find_pixel(mask, bit, box, n):
    """Return row and column of pixel n of a class, counted from 0 row by row.

    mask : bit fields (H, W)
    bit  : of the class
    box  : int64 (4,), the class's bounding box: top, left, bottom, right, the last two
        exclusive

    Returns (-1, -1) if the box has no more than n such pixels.
    """
    flag = mask.dtype.type(ONE << np.uint64(bit))
    seen = np.int64(0)
    for row in range(box[0], box[2]):
        line = mask[row, box[1] : box[3]]
        count = np.int64(0)
        for k in range(len(line)):
            count += np.int64(line[k] & flag != 0)
        if seen + count > n:
            for k in range(len(line)):
                if line[k] & flag:
                    if seen == n:
                        return row, box[1] + k
                    seen += 1
        seen += count
    return np.int64(-1), np.int64(-1)
