"""Contours of many images in one call: from their text to masks that are measured."""

import numpy as np

from fastseg._kernels.contours.polygon import fill_one
from fastseg._kernels.files.decimals import parse_pairs
from fastseg._kernels.files.system import address_of, hash_bytes
from fastseg._kernels.images.statistics import measure_classes
from fastseg._kernels.jit import kernel


@kernel
def parse_files(data, places, sizes, first, stop, out, counts):
    """Read the vertices of files [first, stop), as `parse_pairs` does.

    data   : uint8 (m,), the files; places, sizes : int64 (n,), negative for none
    out    : float64 (p, 2), the vertices one after another; room for all
    counts : int64 (n,), how many each has; 0 for a file that is not plain
    """
    end = np.int64(0)
    for k in range(first, stop):
        counts[k] = 0
        if places[k] >= 0:
            text = data[places[k] : places[k] + sizes[k]]
            counts[k] = max(parse_pairs(text, out[end:]), 0)
            end += counts[k]


@kernel
def draw_masks(
    points, ends, rings, bits, shift, edges, nonzero, rows, first, stop,
    masks, pixels, boxes, sums, sound,
):  # fmt: skip
    """Draw the contours of images [first, stop) into masks, measure and hash these.

    points : float64 (p, 2); ends : int64 (r + 1,), where each ring ends, from 0 on
    rings  : int64 (n + 1,), image k has the rings from rings[k] to rings[k + 1]
    bits   : int64 (r,), of each ring's class
    shift, edges, nonzero, rows : as for `fill_one`
    masks  : unsigned (m, H, W), overwritten: of those of the images that have rings
    pixels, boxes : (n, ...), of each image, as of `measure_classes`
    sums   : uint64 (n,), XXH3-64 of the masks
    sound  : bool (n,), set to False for an image with a ring that cannot be drawn
    """
    drawn = 0
    for k in range(first, stop):
        if rings[k] == rings[k + 1]:
            continue
        mask = masks[drawn]
        mask[:] = 0
        for ring in range(rings[k], rings[k + 1]):
            if ends[ring + 1] == ends[ring]:
                sound[k] = False
                break
            value = masks.dtype.type(np.uint64(1) << np.uint64(bits[ring]))
            fault, _ = fill_one(
                points[ends[ring] : ends[ring + 1]],
                np.array([0, ends[ring + 1] - ends[ring]]),
                shift, edges, nonzero, rows, mask, value, False,
            )  # fmt: skip
            sound[k] &= fault < 0
        measure_classes(mask, pixels[k], boxes[k])
        sums[k] = hash_bytes(address_of(mask), mask.size * mask.itemsize)
        drawn += 1
