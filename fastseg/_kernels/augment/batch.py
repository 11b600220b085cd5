"""Kernels that augment many samples in one call.

Samples are along the first axis of each argument. Random numbers are those of `noise`,
with one key for all samples and each sample's index in the store as the second key.
"""

import numpy as np

from fastseg._kernels.augment.bend import bend_rings
from fastseg._kernels.augment.coordinates import RIM
from fastseg._kernels.augment.intensity import GAUSSIAN, apply_intensity, step_stream
from fastseg._kernels.augment.noise import BLOCKS, fill_words, write_with_gaussian
from fastseg._kernels.augment.warp import clear_outside, warp_image, warp_mask
from fastseg._kernels.contours.polygon import RULE, fill_one
from fastseg._kernels.images.stream import put, settle
from fastseg._kernels.jit import empty, entry, flat, kernel

# A double has 53 bits: 26 of one word and 27 of another.
HIGH, LOW = np.uint32(6), np.uint32(5)


@entry(
    key="uint64",
    samples="const uint64[::1]",
    stream="uint32",
    out="float64[:, ::1]",
)
def draw_uniforms(key, samples, stream, out):
    """Fill out with uniform numbers in [0, 1), multiples of 2**-53.

    key     : uint64
    samples : uint64 (b,)
    stream  : uint32
    out     : float64 (b, n)
    """
    words = empty((4, BLOCKS), np.uint32)
    for j in range(len(samples)):
        for start in range(0, out.shape[1], 2 * BLOCKS):
            fill_words(np.uint64(start // 2), key, samples[j], stream, words)
            for k in range(start, min(start + 2 * BLOCKS, out.shape[1])):
                block, half = (k - start) >> 1, 2 * (k & 1)
                high = np.float64(words[half, block] >> HIGH)
                low = np.float64(words[half + 1, block] >> LOW)
                out[j, k] = (high * 2.0**27 + low) * 2.0**-53


@entry(
    key="uint64",
    samples="const uint64[::1]",
    stream="uint32",
    magnitudes="const float64[::1]",
    grids="const int64[:, ::1]",
    out="float64[:, :, :, ::1]",
)
def draw_fields(key, samples, stream, magnitudes, grids, out):
    """Draw control points, each coordinate uniform between -magnitude and magnitude.

    key, samples, stream : as for `draw_uniforms`
    magnitudes : float64 (b,)
    grids      : int64 (b, 2), rows and columns of each sample's own grid
    out        : float64 (b, gy, gx, 2); outside a sample's own grid, its outermost
        control points are repeated
    """
    for j in range(len(samples)):
        rows, columns = grids[j]
        numbers = empty((1, 2 * rows * columns), np.float64)
        draw_uniforms(key, samples[j : j + 1], stream, numbers)
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                k = 2 * (min(y, rows - 1) * columns + min(x, columns - 1))
                for axis in range(2):
                    signed = 2 * numbers[0, k + axis] - 1
                    out[j, y, x, axis] = magnitudes[j] * signed


@entry(
    images="const T[:, :, ::1]",
    rows="const int64[::1]",
    outer="const float64[:, :, ::1]",
    control="const float64[:, :, :, ::1]",
    spacing="float64",
    inner="const float64[:, :, ::1]",
    order="int64",
    border="int64",
    fill="const float32[::1]",
    shift="const float32[::1]",
    gain="const float32[::1]",
    low="float64",
    high="float64",
    codes="const int64[:, ::1]",
    params="const float64[:, :, ::1]",
    stream="uint32",
    key="uint64",
    samples="const uint64[::1]",
    streams="bool",
    out="float32[:, :, ::1]",
    T=("int16", "uint16", "uint8"),
)
def augment_images(
    images, rows, outer, control, spacing, inner, order, border, fill,
    shift, gain, low, high, codes, params, stream, key, samples, streams, out,
):  # fmt: skip
    """Apply `warp_image`, then `apply_intensity` to image rows[j], and write to out[j].

    Each image stays in the cache until all its steps are done: a batch does not fit
    into the cache, and warping a whole batch before the first intensity step takes 1.3
    times as long.

    images : integers (n, H, W)
    rows   : int64 (b,); where it is negative, out[j] is not changed
    outer, inner : float64 (b, 2, 3); control : float64 (b, gy, gx, 2)
    shift, gain, fill : float32 (b,)
    codes, params, stream, key, samples : as for `apply_intensity_batch`
    streams : bool, whether to write past the caches
    out     : float32 (b, h, w), C-contiguous
    """
    cells = flat(out)
    size = out[0].size
    plane = empty(out.shape[1:], np.float32)
    scratch = empty(size, np.float32)
    for j in range(len(rows)):
        if rows[j] >= 0:
            warp_image(
                images[rows[j]], outer[j], control[j], spacing, inner[j], order, border,
                fill[j], shift[j], gain[j], low, high, plane,
            )  # fmt: skip
            last = len(codes[j]) - 1
            while last >= 0 and codes[j, last] < 0:
                last -= 1
            noisy = last >= 0 and codes[j, last] == GAUSSIAN
            count = last if noisy else last + 1
            apply_intensity(
                plane, codes[j, :count], params[j], key, samples[j], stream, scratch
            )
            if noisy:
                noise_stream = step_stream(stream, last)
                write_with_gaussian(
                    plane, params[j, last, 0], key, samples[j], noise_stream,
                    cells, j * size, streams,
                )  # fmt: skip
            else:
                put(flat(plane), size, cells, j * size, streams)
    settle()


@entry(
    masks="const T[:, :, ::1]",
    rows="const int64[::1]",
    outer="const float64[:, :, ::1]",
    control="const float64[:, :, :, ::1]",
    spacing="float64",
    inner="const float64[:, :, ::1]",
    out="T[:, :, ::1]",
    T=("uint8",),
)
def warp_masks(masks, rows, outer, control, spacing, inner, out):
    """Apply `warp_mask` to mask rows[j] of a stack (n, H, W), and write it to out[j].

    Where rows[j] is negative, out[j] is not changed.
    """
    for j in range(len(rows)):
        if rows[j] >= 0:
            warp_mask(masks[rows[j]], outer[j], control[j], spacing, inner[j], out[j])


@kernel
def reaches_outside(points, height, width):
    """Return whether a vertex (x, y) of points (n, 2) is outside an image."""
    least_x = least_y = 0.0
    most_x, most_y = width - 1.0, height - 1.0
    for k in range(len(points)):
        least_x, most_x = min(least_x, points[k, 0]), max(most_x, points[k, 0])
        least_y, most_y = min(least_y, points[k, 1]), max(most_y, points[k, 1])
    return (
        min(least_x, least_y) < -RIM
        or most_x > width - 1.0 + RIM
        or most_y > height - 1.0 + RIM
    )


@entry(
    points="const float64[:, ::1]",
    offsets="const int64[::1]",
    ring_class="const int64[::1]",
    ring_group="const int64[::1]",
    ranges="const int64[:, ::1]",
    sizes="const int64[:, ::1]",
    outer="const float64[:, :, ::1]",
    control="const float64[:, :, :, ::1]",
    spacing="float64",
    inner="const float64[:, :, ::1]",
    rule=RULE,
    values="const T[::1]",
    out="T[:, :, ::1]",
    T=("uint8",),
)
def draw_moved_contours(
    points, offsets, ring_class, ring_group, ranges, sizes,
    outer, control, spacing, inner, rule, values, out,
):  # fmt: skip
    """Move the contours of samples to the output, and draw them as masks.

    What lies outside the image is 0, as in its stored mask.

    points, offsets, ring_class : all rings of a store; the rings of one sample and
        class are neighbours
    ring_group : the group of each ring, as for `fill_one`; the rings of one sample,
        class and group are neighbours
    ranges : int64 (b, 2), each sample's first ring and the one after its last
    sizes  : int64 (b, 2), height and width of each sample's image
    outer, control, spacing, inner : as for `augment_images`
    rule   : as for `fill_one`
    values : (K,) of the dtype of out, the bit of each class
    out    : unsigned (b, h, w), every cell is written
    """
    for j in range(len(ranges)):
        mask = out[j]
        mask[:] = 0
        first, last = ranges[j]
        height, width = sizes[j]
        drawn = points[offsets[first] : offsets[last]]
        while first < last:
            stop = first + 1
            while stop < last and ring_class[stop] == ring_class[first]:
                stop += 1
            class_points = points[offsets[first] : offsets[stop]]
            starts = offsets[first : stop + 1] - offsets[first]
            moved, starts = bend_rings(
                class_points, starts, outer[j], control[j], spacing, inner[j]
            )
            groups = ring_group[first:stop].astype(np.int64)
            value = values[ring_class[first]]
            fill_one(moved, starts, groups, 0.0, rule, mask, value, False)
            first = stop
        if reaches_outside(drawn, height, width):
            clear_outside(height, width, outer[j], control[j], spacing, inner[j], mask)


@entry(
    planes="float32[:, :, ::1]",
    codes="const int64[:, ::1]",
    params="const float64[:, :, ::1]",
    stream="uint32",
    key="uint64",
    samples="const uint64[::1]",
)
def apply_intensity_batch(planes, codes, params, stream, key, samples):
    """Apply `apply_intensity` to each plane; steps whose code is negative are skipped.

    planes : float32 (b, h, w)
    codes  : int64 (b, k); params : float64 (b, k, PARAMETERS)
    stream, key, samples : as for `draw_uniforms`
    """
    scratch = empty(planes[0].size, np.float32)
    for j in range(len(planes)):
        apply_intensity(
            planes[j], codes[j], params[j], key, samples[j], stream, scratch
        )
