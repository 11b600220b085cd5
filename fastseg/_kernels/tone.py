"""Intensity: what is true of an image's stored values."""

import numpy as np

from fastseg._kernels.jit import kernel


@kernel
def sum_values(image):
    """Return min, max, sum and the sum of squares as (high, low) halves; all exact.

    image : integers (H, W) of at most 32 bits; the sum of squares is
        high * 2**32 + low
    """
    least = greatest = np.int64(image[0, 0])
    total = high = low = np.int64(0)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            value = np.int64(image[row, column])
            least = min(least, value)
            greatest = max(greatest, value)
            total += value
            square = np.uint64(abs(value)) * np.uint64(abs(value))
            low += np.int64(square & np.uint64(0xFFFFFFFF))
            high += np.int64(square >> np.uint64(32))
    return least, greatest, total, high, low


@kernel
def rank_values(image, least, greatest, ranks, out):
    """Find order statistics by counting.

    image : integers (H, W), all between least and greatest
    ranks : int64 (q,), ascending, 0 is the smallest value's rank
    out   : float64 (q,), the values of those ranks
    """
    counts = np.zeros(greatest - least + 1, np.int64)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            counts[np.int64(image[row, column]) - least] += 1
    seen = np.int64(0)
    q = 0
    for k in range(len(counts)):
        seen += counts[k]
        while q < len(ranks) and ranks[q] < seen:
            out[q] = least + k
            q += 1


@kernel
def measure_classes(mask, pixels, boxes):
    """Count each class's pixels and find its bounding box.

    mask   : bit field (H, W)
    pixels : int64 (K,), overwritten
    boxes  : int64 (K, 4), overwritten: top, left, bottom, right, the last two
        exclusive; zeros for a class without pixels
    """
    height, width = mask.shape
    pixels[:] = 0
    boxes[:, :2] = max(height, width)
    boxes[:, 2:] = 0
    for row in range(height):
        for column in range(width):
            bits = np.uint64(mask[row, column])
            k = 0
            while bits:
                if bits & np.uint64(1):
                    pixels[k] += 1
                    boxes[k, 0] = min(boxes[k, 0], row)
                    boxes[k, 1] = min(boxes[k, 1], column)
                    boxes[k, 2] = max(boxes[k, 2], row + 1)
                    boxes[k, 3] = max(boxes[k, 3], column + 1)
                bits >>= np.uint64(1)
                k += 1
    for k in range(len(pixels)):
        if pixels[k] == 0:
            boxes[k, :] = 0
