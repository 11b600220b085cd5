"""Contours of many images in one call: from text to vertices and masks."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg._kernels.contours.polygon import (
    RULE,
    Rule,
    Target,
    ceil_clipped,
    fill_group,
    find_fault,
    longest_ring,
    make_fill_scratch,
    rule_of_group,
)
from fastseg._kernels.contours.runs import ZERO, fill_run, u64
from fastseg._kernels.files.decimals import parse_pairs
from fastseg._kernels.files.system import address_of, hash_bytes
from fastseg._kernels.jit import empty, entry, flat, kernel, zeros


class ImageRings(NamedTuple):
    """The contours of images.

    points  : float64 (p, 2), (x, y) in pixels
    offsets : int64 (r + 1,), ring k is points[offsets[k]:offsets[k + 1]]
    bounds  : int64 (n + 1,), image k has rings [bounds[k], bounds[k + 1])
    bits    : int64 (r,), the bit of each ring's class
    groups  : int64 (r,), the group of each ring, see `polygon`. The rings of an image,
        class and group are neighbours
    """

    points: NDArray[np.float64]
    offsets: NDArray[np.int64]
    bounds: NDArray[np.int64]
    bits: NDArray[np.int64]
    groups: NDArray[np.int64]


class MaskResults(NamedTuple):
    """What is found out about the masks of images.

    hashes : uint64 (n,), XXH3-64 of the masks
    valid  : bool (n,), set to False for an image with a ring that cannot be drawn
    """

    hashes: NDArray[np.uint64]
    valid: NDArray[np.bool_]


IMAGE_RINGS = (ImageRings, "const float64[:, ::1]", *["const int64[::1]"] * 4)
MASK_RESULTS = (
    MaskResults,
    "uint64[::1]",
    "bool[::1]",
)


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
    bounds = empty(2, np.int64)
    total = np.int64(0)
    for k in range(first, stop):
        counts[k] = 0
        if offsets[k] >= 0:
            text = data[offsets[k] : offsets[k] + sizes[k]]
            count = parse_pairs(text, out[total:])
            if count > 0:
                bounds[0], bounds[1] = total, total + count
                if find_fault(out, bounds, 0, 1)[0] < 0:
                    counts[k] = count
                    total += count


@entry(
    rings=IMAGE_RINGS,
    shift="float64",
    rule=RULE,
    first="int64",
    stop="int64",
    masks="T[:, :, ::1]",
    results=MASK_RESULTS,
    T=("uint8", "uint16"),
)
def draw_masks(rings, shift, rule, first, stop, masks, results):
    """Draw the contours of images [first, stop) into masks, and hash the masks.

    shift, rule : see `polygon`
    masks       : unsigned (m, H, W), overwritten: the masks of images with rings
    """
    points, offsets = rings.points, rings.offsets
    bits, groups = rings.bits, rings.groups
    _, height, width = masks.shape
    cells = flat(masks)
    most_vertices = longest_ring(offsets, len(offsets) - 1)
    scratch = make_fill_scratch(most_vertices, height, width, rule)
    drawn = 0
    for k in range(first, stop):
        ring, last = rings.bounds[k], rings.bounds[k + 1]
        if ring == last:
            continue
        base = drawn * height * width
        fill_run(cells, u64(base), u64(base + height * width), ZERO)
        if find_fault(points, offsets, ring, last)[0] >= 0:
            results.valid[k] = False
            ring = last
        while ring < last:
            bit, group = bits[ring], groups[ring]
            end = ring + 1
            while end < last and bits[end] == bit and groups[end] == group:
                end += 1
            value = np.uint64(1) << np.uint64(bit)
            fill_group(
                points, offsets, ring, end, shift, rule_of_group(rule, group),
                Target(cells, base, height, width, value), False, scratch,
            )  # fmt: skip
            ring = end
        mask = masks[drawn]
        results.hashes[k] = hash_bytes(address_of(mask), mask.size * mask.itemsize)
        drawn += 1


# Bits of the pixels that each rule covers, for `compare_rules`.
BY_EVEN_ODD, BY_NONZERO, BY_UNION = np.uint64(1), np.uint64(2), np.uint64(4)
BY_ALL = np.uint64(7)


@entry(
    rings=IMAGE_RINGS,
    shift="float64",
    rule=(Rule, "int64", "bool", "int64"),
    height="int64",
    width="int64",
    differ="bool[::1]",
)
def compare_rules(rings, shift, rule, height, width, differ):
    """Find out whether even-odd, nonzero and union give a class different masks.

    rings  : the rings of one class of an image are an image here; they are valid
    shift  : see `polygon`
    rule   : of nonzero; its `edges` hold for all masks
    differ : bool (n,), overwritten

    By union, each ring is a group of its own. Groups with a negative number are filled
    by even-odd in each mask.
    """
    points, offsets, groups = rings.points, rings.offsets, rings.groups
    even_odd = Rule(rule.edges, False, rule.rows)
    most_vertices = longest_ring(offsets, len(offsets) - 1)
    scratch = make_fill_scratch(most_vertices, height, width, rule)
    cells = zeros(height * width, np.uint8)
    for k in range(len(differ)):
        first, last = rings.bounds[k], rings.bounds[k + 1]
        ring = first
        while ring < last:
            end = ring + 1
            while end < last and groups[end] == groups[ring]:
                end += 1
            value = BY_EVEN_ODD
            if groups[ring] < 0:
                value = BY_ALL
            elif end == ring + 1:
                value = BY_EVEN_ODD | BY_UNION
            target = Target(cells, 0, height, width, value)
            fill_group(
                points, offsets, ring, end, shift, even_odd, target, False, scratch
            )
            if groups[ring] >= 0:
                target = Target(cells, 0, height, width, BY_NONZERO)
                fill_group(
                    points, offsets, ring, end, shift, rule, target, False, scratch
                )
                if end > ring + 1:
                    target = Target(cells, 0, height, width, BY_UNION)
                    for own in range(ring, end):
                        fill_group(
                            points, offsets, own, own + 1, shift, even_odd, target,
                            False, scratch,
                        )  # fmt: skip
            ring = end
        top, bottom = find_rows(points, offsets[first], offsets[last], shift, height)
        is_different = False
        for c in range(top * width, bottom * width):
            cell = cells[u64(c)]
            is_different |= (cell != 0) & (cell != np.uint8(BY_ALL))
            cells[u64(c)] = 0
        differ[k] = is_different


@kernel
def find_rows(points, start, stop, shift, height):
    """Return the rows, from the first to that behind the last, that rings may cover."""
    low, high = np.inf, -np.inf
    for k in range(start, stop):
        low = min(low, points[k, 1])
        high = max(high, points[k, 1])
    limit = float(height)
    top = ceil_clipped(low - shift, 0.0, limit)
    bottom = ceil_clipped(high - shift + 1.0, 0.0, limit)
    return int(top), int(bottom)
