"""Contours of many images in one call: from text to vertices, masks and statistics."""

import numpy as np

from fastseg._kernels.contours.polygon import check_rings, fill_groups
from fastseg._kernels.files.decimals import parse_pairs
from fastseg._kernels.files.system import address_of, hash_bytes
from fastseg._kernels.images.statistics import measure_classes
from fastseg._kernels.jit import entry, zeros


@entry(
    data="const uint8[::1]",
    offsets="const int64[::1]",
    sizes="const int64[:]",
    first="int64",
    stop="int64",
    out="float64[:, ::1]",
    counts="int64[::1]",
)
def parse_files(data, offsets, sizes, first, stop, out, counts):
    """Parse the vertices of files [first, stop), as `parse_pairs` does.

    data    : uint8 (m,), the contents of the files
    offsets : int64 (n,), where in data each file begins; negative if it was not read
    sizes   : int64 (n,), in bytes
    out     : float64 (p, 2), vertices of all files one after another; p is large enough
    counts  : int64 (n,), vertices of each file; 0 if `parse_pairs` cannot parse it, or
        they bound no region
    """
    total = np.int64(0)
    ends = zeros(2, np.int64)
    for k in range(first, stop):
        counts[k] = 0
        if offsets[k] >= 0:
            text = data[offsets[k] : offsets[k] + sizes[k]]
            count = max(parse_pairs(text, out[total:]), 0)
            ring = out[total : total + count]
            ends[1] = count
            if check_rings(ring, ends)[0] < 0:
                counts[k] = count
                total += count


@entry(
    points="const float64[:, ::1]",
    ends="const int64[::1]",
    rings="const int64[::1]",
    bits="const int64[::1]",
    groups="const int64[::1]",
    shift="float64",
    edges="int64",
    nonzero="bool",
    rows="int64",
    first="int64",
    stop="int64",
    masks="T[:, :, ::1]",
    pixels="int64[:, ::1]",
    boxes="int64[:, :, ::1]",
    mask_hashes="uint64[::1]",
    valid="bool[::1]",
    T=("uint8", "uint16", "uint32", "uint64"),
)
def draw_masks(
    points, ends, rings, bits, groups, shift, edges, nonzero, rows, first, stop,
    masks, pixels, boxes, mask_hashes, valid,
):  # fmt: skip
    """Draw the contours of images [first, stop) into masks, measure and hash the masks.

    points      : float64 (p, 2), (x, y) in pixels
    ends        : int64 (r + 1,), ring k is points[ends[k]:ends[k + 1]]
    rings       : int64 (n + 1,), image k has rings [rings[k], rings[k + 1])
    bits        : int64 (r,), the bit of each ring's class
    groups      : int64 (r,), the group of each ring, as for `fill_groups`. The rings of
        an image, class and group are neighbours
    shift, edges, nonzero, rows : as for `fill_groups`
    masks       : unsigned (m, H, W), overwritten: the masks of images with rings
    pixels      : int64 (n, K), as for `measure_classes`
    boxes       : int64 (n, K, 4), as for `measure_classes`
    mask_hashes : uint64 (n,), XXH3-64 of the masks
    valid       : bool (n,), set to False for an image with a ring that cannot be drawn
    """
    drawn = 0
    for k in range(first, stop):
        if rings[k] == rings[k + 1]:
            continue
        mask = masks[drawn]
        mask[:] = 0
        ring, last = rings[k], rings[k + 1]
        while ring < last:
            end = ring + 1
            while end < last and bits[end] == bits[ring]:
                end += 1
            value = masks.dtype.type(np.uint64(1) << np.uint64(bits[ring]))
            fault, _ = fill_groups(
                points[ends[ring] : ends[end]],
                ends[ring : end + 1] - ends[ring],
                groups[ring:end],
                shift, edges, nonzero, rows, mask, value, False,
            )  # fmt: skip
            valid[k] &= fault < 0
            ring = end
        measure_classes(mask, pixels[k], boxes[k])
        mask_hashes[k] = hash_bytes(address_of(mask), mask.size * mask.itemsize)
        drawn += 1
