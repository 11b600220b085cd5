"""Kernels that augment many samples in one call.

Samples are along the first axis of each argument. Random numbers are those of `noise`,
with one key for all samples and another one for each: a sample's index in the store, or
the number of a patch.
"""

from typing import Any, NamedTuple

import numpy as np

from fastseg._kernels.augment.bend import move_rings
from fastseg._kernels.augment.coordinates import RIM
from fastseg._kernels.augment.intensity import (
    STEPS,
    apply_intensity,
    apply_intensity_to,
)
from fastseg._kernels.augment.interpolation import Scaling
from fastseg._kernels.augment.mapping import (
    AFFINES,
    DISPLACEMENTS,
    displacement_of,
    mapping_of,
)
from fastseg._kernels.augment.noise import BLOCKS, KEYS, fill_words
from fastseg._kernels.augment.slices import warp_groups
from fastseg._kernels.augment.warp import (
    Sampling,
    bend_of,
    clear_outside,
    warp_image,
    warp_mask,
)
from fastseg._kernels.contours.polygon import (
    RULE,
    Target,
    fill_checked,
    longest_ring,
    make_fill_scratch,
)
from fastseg._kernels.images.gather import ELSEWHERE, OUTSIDE
from fastseg._kernels.images.stream import settle
from fastseg._kernels.jit import empty, entry, flat, fma, kernel

F = np.float32
u64 = np.uint64
# A double has 53 bits: 26 of one word and 27 of another.
HIGH, LOW = np.uint32(6), np.uint32(5)


class PatchSlices(NamedTuple):
    """The slices of a stack (n, H, W) that become the d slices of b patches.

    rows    : int64 (b, d, s), for each slice of a patch that of one slice of the stack,
        or of two to interpolate between (s is 2). OUTSIDE: a slice full of `fill`.
        ELSEWHERE, for all of a patch: it is of another stack
    weights : float32 (b, d), of the second of two, from 0 to 1; with 0, it is not read
    """

    rows: Any
    weights: Any


class Scalings(NamedTuple):
    """How the values of PatchSlices become those of a batch, see `Scaling`.

    shift, gain, fill : float32 (b, d, s)
    low, high         : float64, rounded to float32
    """

    shift: Any
    gain: Any
    fill: Any
    low: float
    high: float


COLUMN = "const float32[:, :, ::1]"


@kernel
def fill_uniforms(key0, key1, stream, out):
    """Fill out, float64 (n,), with the numbers of `draw_uniforms` for one sample."""
    words = empty((4, BLOCKS), np.uint32)
    for start in range(0, len(out), 2 * BLOCKS):
        fill_words(np.uint64(start // 2), key0, key1, stream, words)
        for k in range(start, min(start + 2 * BLOCKS, len(out))):
            block, half = (k - start) >> 1, 2 * (k & 1)
            high = np.float64(words[half, block] >> HIGH)
            low = np.float64(words[half + 1, block] >> LOW)
            out[k] = (high * 2.0**27 + low) * 2.0**-53


@entry(keys=KEYS, stream="uint32", out="float64[:, ::1]")
def draw_uniforms(keys, stream, out):
    """Fill out with uniform numbers in [0, 1), multiples of 2**-53.

    keys   : Keys
    stream : uint32
    out    : float64 (b, n)
    """
    for j in range(len(out)):
        fill_uniforms(keys.key, keys.samples[j], stream, out[j])


@entry(
    keys=KEYS,
    stream="uint32",
    magnitudes="const float64[::1]",
    grids="const int64[:, ::1]",
    out="float64[:, :, :, ::1]",
)
def draw_fields(keys, stream, magnitudes, grids, out):
    """Draw control points, each coordinate uniform between -magnitude and magnitude.

    keys, stream : as for `draw_uniforms`
    magnitudes : float64 (b,)
    grids      : int64 (b, 2), rows and columns of each sample's own grid
    out        : float64 (b, gy, gx, 2); outside a sample's own grid, its outermost
        control points are repeated
    """
    for j in range(len(out)):
        rows, columns = grids[j, 0], grids[j, 1]
        numbers = empty(2 * rows * columns, np.float64)
        fill_uniforms(keys.key, keys.samples[j], stream, numbers)
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                k = 2 * (min(y, rows - 1) * columns + min(x, columns - 1))
                for axis in range(2):
                    signed = 2 * numbers[k + axis] - 1
                    out[j, y, x, axis] = magnitudes[j] * signed


@kernel
def warp_slices(
    images, slices, j, mapping, displacement, sampling, scalings, pair, grouped, patch
):  # fmt: skip
    """Write the slices of patch j, each interpolated between up to two warped slices.

    images  : integers (n, H, W)
    slices  : PatchSlices; those of equal rows must have equal scalings
    mapping, displacement : Mapping; Displacement or None, of all slices
    sampling : Sampling
    scalings : Scalings
    pair    : float32 (2, h, w), overwritten if slices are interpolated, else unused
    grouped : True, or None, which leaves out the code for several slices at once
    patch   : float32 (d, h, w), C-contiguous, every cell is written

    A slice that neighbours in the patch have in common is warped once.
    """
    rows, weights = slices
    low, high = F(scalings.low), F(scalings.high)
    alone = rows.shape[2] == 1
    bend = bend_of(displacement, mapping, patch.shape[1], patch.shape[2])
    held = empty(2, np.int64)  # the rows that are in `pair`
    held[0] = held[1] = OUTSIDE
    done = 0
    if grouped is not None and alone:
        columns = empty((3, len(patch)), F)
        for k in range(len(patch)):
            columns[0, k] = scalings.shift[j, k, 0]
            columns[1, k] = scalings.gain[j, k, 0]
            columns[2, k] = scalings.fill[j, k, 0]
        done = warp_groups(
            images, rows[j, :, 0], mapping, bend, sampling, (columns, low, high), patch
        )
        for k in range(done):
            if rows[j, k, 0] < 0:
                pixels = flat(patch[k])
                for n in range(len(pixels)):
                    pixels[n] = columns[2, k]
    for k in range(done, len(patch)):
        out = patch[k]
        weight = F(0) if alone else weights[j, k]
        first = 0
        if not alone:
            row, other = rows[j, k, 0], rows[j, k, 1]
            first = int(held[1] == row or (held[0] == other and held[0] != row))
        for i in range(1 if weight == 0 else 2):
            row, target = rows[j, k, i], out
            if not alone:
                place = first ^ i
                if row >= 0 and held[place] == row:
                    continue
                held[place], target = row, pair[place]
            shift, gain, fill = (
                scalings.shift[j, k, i], scalings.gain[j, k, i], scalings.fill[j, k, i]
            )  # fmt: skip
            if row >= 0:
                scaling = Scaling(shift, gain, low, high, fill)
                warp_image(images[row], mapping, bend, sampling, scaling, target)
            else:
                pixels = flat(target)
                for n in range(len(pixels)):
                    pixels[n] = fill
        if not alone:
            near, far, pixels = flat(pair[first]), flat(pair[first ^ 1]), flat(out)
            for n in range(len(pixels)):
                change = far[n] - near[n] if weight != 0 else F(0)
                pixels[n] = fma(weight, change, near[n])


AUGMENTED = {
    "images": "const T[:, :, ::1]",
    "slices": (PatchSlices, "const int64[:, :, ::1]", "const float32[:, ::1]"),
    "affines": AFFINES,
    "displacements": DISPLACEMENTS,
    "sampling": (Sampling, "int64", "int64"),
    "scalings": (Scalings, COLUMN, COLUMN, COLUMN, "float64", "float64"),
    "steps": STEPS,
    "keys": KEYS,
    "streams": "bool",
    "out": "float32[:, :, :, ::1]",
    "T": ("int16", "uint16", "uint8"),
}


@entry(**AUGMENTED)
def augment_images(
    images, slices, affines, displacements, sampling, scalings, steps, keys, streams,
    out,
):  # fmt: skip
    """Do the work of `augment_all`, best for patches of one slice."""
    augment_all(
        images, slices, affines, displacements, sampling, scalings, steps, keys,
        streams, None, out,
    )  # fmt: skip


@entry(**AUGMENTED)
def augment_patches(
    images, slices, affines, displacements, sampling, scalings, steps, keys, streams,
    out,
):  # fmt: skip
    """Do the work of `augment_all`, best for patches of several slices."""
    augment_all(
        images, slices, affines, displacements, sampling, scalings, steps, keys,
        streams, True, out,
    )  # fmt: skip


@kernel
def augment_all(
    images, slices, affines, displacements, sampling, scalings, steps, keys, streams,
    grouped, out,
):  # fmt: skip
    """Apply `warp_slices`, then the intensity steps, to patches, and write them to out.

    Each patch stays in the cache until all its steps are done: a batch does not fit
    into the cache, and warping a whole batch before the first intensity step takes 1.3
    times as long. An image is a patch of one slice.

    images  : integers (n, H, W)
    slices  : PatchSlices; where a patch is ELSEWHERE, out[j] is not changed
    affines : Affines
    displacements : Displacements, or None. With None, the code for what is rare is left
        out, half of the kernel: displacements, CUBIC, REFLECT, BIAS_FIELD and RICIAN.
        Samples that need it must come with Displacements, if only of an empty grid
    sampling, scalings, steps, keys : Sampling, Scalings, Steps, Keys
    streams : bool, whether to write past the caches
    grouped : True, or None, which leaves out the code for several slices at once
    out     : float32 (b, d, h, w), C-contiguous
    """
    rare = None if displacements is None else True
    depth, height, width = out.shape[1], out.shape[2], out.shape[3]
    cells = flat(out)
    patch = empty((depth, height, width), F)
    scratch = empty(height * width, F)
    pair = empty((0 if slices.rows.shape[2] == 1 else 2, height, width), F)
    for j in range(len(out)):
        if slices.rows[j, 0, 0] != ELSEWHERE:
            mapping = mapping_of(affines, j)
            displacement = displacement_of(displacements, j)
            warp_slices(
                images, slices, j, mapping, displacement, sampling, scalings, pair,
                grouped, patch,
            )  # fmt: skip
            apply_intensity_to(
                patch, steps, j, keys, scratch, rare, cells, j * patch.size, streams
            )
    settle()


@entry(
    masks="const T[:, :, ::1]",
    rows="const int64[::1]",
    affines=AFFINES,
    displacements=DISPLACEMENTS,
    out="T[:, :, ::1]",
    T=("uint8",),
)
def warp_masks(masks, rows, affines, displacements, out):
    """Apply `warp_mask` to mask rows[j] of a stack (n, H, W), and write it to out[j].

    Where rows[j] is negative, out[j] is not changed.
    """
    for j in range(len(rows)):
        if rows[j] >= 0:
            mapping = mapping_of(affines, j)
            displacement = displacement_of(displacements, j)
            warp_mask(masks[rows[j]], mapping, displacement, out[j])


@kernel
def reaches_outside(points, first, stop, height, width):
    """Return whether one of the vertices [first, stop) is outside an image."""
    most_x, most_y = width - 1.0 + RIM, height - 1.0 + RIM
    inside = True
    # Without a branch, so that vector instructions do it.
    for k in range(first, stop):
        x, y = points[u64(k), u64(0)], points[u64(k), u64(1)]
        inside &= (x >= -RIM) & (x <= most_x) & (y >= -RIM) & (y <= most_y)
    return not inside


@kernel
def misses(points, count, height, width):
    """Return whether the first `count` vertices are all on one side of an image.

    Then their rings cover no pixel centre.
    """
    left = right = above = below = True
    for k in range(count):
        x, y = points[u64(k), u64(0)], points[u64(k), u64(1)]
        left &= x < 0.0
        right &= x > width - 1.0
        above &= y < 0.0
        below &= y > height - 1.0
    return left or right or above or below


class StoredContours(NamedTuple):
    """All rings of a store; the rings of one sample, class and group are neighbours.

    points     : float64 (P, 2), (x, y) in pixels, pixel centres at integers
    offsets    : int64 (R + 1,), ring k is points[offsets[k]:offsets[k + 1]]
    ring_class : int64 (R,)
    ring_group : int64 (R,), the group of each ring, as for `fill_one`
    """

    points: Any
    offsets: Any
    ring_class: Any
    ring_group: Any


INDICES = "const int64[::1]"
# Room for the points of a sample's class; more is made when it is needed.
FEW_POINTS = 1024


@entry(
    contours=(StoredContours, "const float64[:, ::1]", INDICES, INDICES, INDICES),
    ranges="const int64[:, ::1]",
    sizes="const int64[:, ::1]",
    affines=AFFINES,
    displacements=DISPLACEMENTS,
    rule=RULE,
    values="const T[::1]",
    out="T[:, :, ::1]",
    T=("uint8",),
)
def draw_moved_contours(
    contours, ranges, sizes, affines, displacements, rule, values, out
):
    """Move the contours of samples to the output, and draw them as masks.

    What lies outside the image is 0, as in its stored mask.

    contours : StoredContours
    ranges   : int64 (b, 2), each sample's first ring and the one after its last
    sizes    : int64 (b, 2), height and width of each sample's image
    affines, displacements : Affines; Displacements or None
    rule     : Rule or None, as for `fill_one`
    values   : (K,) of the dtype of out, the bit of each class
    out      : unsigned (b, h, w), every cell is written
    """
    points, offsets, ring_class, ring_group = contours
    rows, columns = out.shape[1], out.shape[2]
    cells, size = flat(out), rows * columns
    moved = empty((FEW_POINTS, 2), np.float64)
    most_vertices = np.int64(FEW_POINTS)
    scratch = make_fill_scratch(most_vertices, rows, columns, rule)
    for j in range(len(ranges)):
        pixels = cells[j * size : (j + 1) * size]
        for k in range(len(pixels)):
            pixels[k] = 0
        mapping = mapping_of(affines, j)
        displacement = displacement_of(displacements, j)
        first, last = ranges[j, 0], ranges[j, 1]
        start = offsets[first]
        while first < last:
            stop = first + 1
            while stop < last and ring_class[stop] == ring_class[first]:
                stop += 1
            moved_offsets = empty(stop - first + 1, np.int64)
            count = len(moved)
            for _ in range(2):
                if count > len(moved):
                    moved = empty((2 * count, 2), np.float64)
                count = move_rings(
                    points, offsets, first, stop, mapping, displacement,
                    moved, moved_offsets,
                )  # fmt: skip
                if count <= len(moved):
                    break
            rings = stop - first
            if not misses(moved, moved_offsets[rings], rows, columns):
                most = longest_ring(moved_offsets, rings)
                if most > most_vertices:
                    most_vertices = 2 * most
                    scratch = make_fill_scratch(most_vertices, rows, columns, rule)
                value = u64(values[ring_class[first]])
                target = Target(cells, j * size, rows, columns, value)
                fill_checked(
                    moved, moved_offsets, ring_group[first:stop], rings, 0.0, rule,
                    target, False, scratch,
                )  # fmt: skip
            first = stop
        height, width = sizes[j, 0], sizes[j, 1]
        if reaches_outside(points, start, offsets[last], height, width):
            clear_outside(height, width, mapping, displacement, out[j])


@entry(patches="float32[:, :, :, ::1]", steps=STEPS, keys=KEYS)
def apply_intensity_batch(patches, steps, keys):
    """Apply `apply_intensity` to each patch; steps whose code is negative are skipped.

    patches : float32 (b, d, h, w)
    steps, keys : Steps, Keys
    """
    scratch = empty(patches.shape[2] * patches.shape[3], F)
    for j in range(len(patches)):
        count = steps.codes.shape[1]
        apply_intensity(patches[j], steps, j, count, keys, scratch, True)
