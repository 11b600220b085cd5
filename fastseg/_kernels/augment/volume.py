"""Resample volumes through affine mappings in space: rotations about any axis, scales.

A volume is a range of slices of a stack. A mapping leads from voxel (z, y, x) of a
patch to a point (z, y, x) of the volume, voxel centres at integers. As in
`coordinates`, the points of a row of the patch are equally spaced on a line.

A patch is made block by block. What a block needs of the volume is scaled and copied
first: where a row crosses slices, its voxels are whole images apart in memory, which
caches are not made for.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from fastseg._kernels.augment.coordinates import (
    BLOCK,
    FARTHEST,
    LANES,
    RIM,
    columns_between,
    reciprocal,
    row_capacity,
)
from fastseg._kernels.augment.intensity import STEPS, apply_intensity_to
from fastseg._kernels.augment.interpolation import STRIP, bilinear, load_pixels
from fastseg._kernels.augment.noise import KEYS
from fastseg._kernels.augment.spline import CONSTANT
from fastseg._kernels.images.prefetch import AHEAD, prefetch_cells
from fastseg._kernels.images.stream import settle
from fastseg._kernels.jit import (
    empty,
    entry,
    flat,
    fma,
    inlined,
    kernel,
    overlapping,
    reinterpret,
)

F = np.float32
I = np.int32  # noqa: E741 (int32, as F is float32)
u64 = np.uint64

# Most voxels of the box around what a block needs: 1 MB of float32. With twice as many,
# images take 1.4 times as long, because the copy falls out of the second-level cache.
MOST_COPIED = 2**18
# Voxels that are needed around a block: one for the interpolation, and RIM.
NEEDED_AROUND = 1.6
# Planes are as steep as this at least, so that a line along x crosses them.
STEEPEST = 1e-3


class Volumes(NamedTuple):
    """The volumes of b patches.

    first  : int64 (b,), row of the first slice in the stack; where it is negative, the
        volume is in another stack
    slices : int64 (b,), number of slices
    """

    first: Any
    slices: Any


class SliceScalings(NamedTuple):
    """How the values of the slices of volumes become those of a batch, see `Scaling`.

    shift, gain : float32 (m,), of all slices that there are
    start       : int64 (b,), index in these of the first slice of each volume
    fill        : float32 (b,)
    low, high   : float64, rounded to float32
    """

    shift: Any
    gain: Any
    start: Any
    fill: Any
    low: float
    high: float


class VolumeScaling(NamedTuple):
    """How the values of a volume become those of a batch, see `Scaling`; all float32.

    shift, gain : (D,), of each slice
    """

    shift: Any
    gain: Any
    low: Any
    high: Any
    fill: Any


INDICES = "const int64[::1]"
COLUMN = "const float32[::1]"
VOLUMES = (Volumes, INDICES, INDICES)
MATRICES = "const float64[:, :, ::1]"


class Axis(NamedTuple):
    """One coordinate of the points of a row, float64.

    start : of the first point
    step  : from point to point
    """

    start: float
    step: float


class Range(NamedTuple):
    """The voxels of a volume that a block needs, along one axis.

    first   : index of the first one
    length  : number of voxels, to which points are clamped
    total   : number of voxels of the volume
    outside : whether the block also shows what is farther outside than RIM
    """

    first: int
    length: int
    total: int
    outside: bool


class RowPoints(NamedTuple):
    """Where the points of a row are, as Points; n is `row_capacity`.

    indices : int32 (n,), of the nearest voxel, or of voxel (floor(z), floor(y),
        floor(x)), in the flat copy
    z, y, x : float32 (n,), the fractional parts, if it is the latter
    """

    indices: Any
    z: Any
    y: Any
    x: Any


@inlined
def axis_of(matrix, axis, z, y, x):
    """Return an Axis of the points of the patch's row from voxel (z, y, x) on."""
    m = matrix[axis]
    return Axis(m[0] * z + m[1] * y + m[2] * x + m[3], m[2])


@inlined
def voxels_inside(axis, voxels, first, stop):
    """Return those of the voxels [first, stop) of a row whose points are in a volume.

    axis   : Axis
    voxels : number of the volume's voxels along it
    """
    start, end = columns_between(
        axis.start, reciprocal(axis.step), -RIM, voxels - 1.0 + RIM, stop
    )
    first = max(first, start)
    return first, max(min(stop, end), first)


@inlined
def row_inside(z, y, x, shape, count):
    """Return the voxels [first, stop) of a row whose points are in a volume.

    z, y, x : Axis
    shape   : of the volume
    count   : voxels of the row
    """
    first, stop = voxels_inside(z, shape[0], 0, count)
    first, stop = voxels_inside(y, shape[1], first, stop)
    return voxels_inside(x, shape[2], first, stop)


@kernel
def extent(matrix, axis, sides):
    """Return by how much a coordinate of the volume changes over a block, at most."""
    total = 0.0
    for k in range(3):
        total += abs(matrix[axis, k]) * (sides[k] - 1)
    return total


@kernel
def block_sides(matrix, shape, volume_shape, most):
    """Return sides (z, y, x) of blocks, each of which needs `most` voxels at most.

    shape : of the patch
    most  : at least 64, which a block of one voxel needs
    """
    sides = empty(3, np.int64)
    for k in range(3):
        sides[k] = shape[k]
    while True:
        copied = 1.0
        for axis in range(3):
            # Both ends are rounded outwards, and one voxel more is copied.
            copied *= min(extent(matrix, axis, sides), volume_shape[axis]) + 4.0
        # Long rows are faster: the last side may be twice as long as the others.
        longest = 0 if sides[0] >= sides[1] else 1
        if sides[2] > 2 * sides[longest] or sides[longest] == 1:
            longest = 2
        if copied <= most or sides[longest] == 1:
            return sides[0], sides[1], sides[2]
        sides[longest] = (sides[longest] + 1) // 2


@inlined
def range_of(matrix, axis, corner, sides, count):
    """Return the Range of a block along an axis.

    corner : first voxel of the block in the patch
    sides  : of the block
    count  : voxels of the volume along the axis
    """
    m = matrix[axis]
    low = m[0] * corner[0] + m[1] * corner[1] + m[2] * corner[2] + m[3]
    high = low
    for k in range(3):
        change = m[k] * (sides[k] - 1)
        low, high = low + min(change, 0.0), high + max(change, 0.0)
    first = math.floor(min(max(low, 0.0), count - 1.0))
    last = math.ceil(min(max(high, 0.0), count - 1.0))
    outside = low < -RIM or high > count - 1.0 + RIM
    return Range(int(first), int(last) - int(first) + 1, count, outside)


@kernel
def find_bounds(matrix, corner, sides, ranges, bounds):
    """Find between which two x of a volume the voxels are that a block needs.

    bounds : float64 (2, 3, 3), overwritten. In row r of slice k of the copy, the first
        column is the greatest of three sums a + b * k + c * r, the last one the least
        of three others. The last axis is for a, b and c

    A block is a parallelepiped in the volume, bounded by three pairs of planes. If a
    part of it is outside of the volume, whole rows are needed.
    """
    for j in range(3):
        for k in range(3):
            bounds[0, j, k] = bounds[1, j, k] = 0.0
        bounds[1, j, 0] = ranges[2].length
    if ranges[0].outside or ranges[1].outside or ranges[2].outside:
        return
    m = matrix
    p = empty(3, np.float64)
    for axis in range(3):
        p[axis] = m[axis, 0] * corner[0] + m[axis, 1] * corner[1]
        p[axis] += m[axis, 2] * corner[2] + m[axis, 3] - ranges[axis].first
    for j in range(3):
        one, two = (j + 1) % 3, (j + 2) % 3
        # The normal of two planes: 0 along it on one, `across` on the other.
        z = m[1, one] * m[2, two] - m[1, two] * m[2, one]
        y = m[2, one] * m[0, two] - m[2, two] * m[0, one]
        x = m[0, one] * m[1, two] - m[0, two] * m[1, one]
        determinant = z * m[0, j] + y * m[1, j] + x * m[2, j]
        across = determinant * (sides[j] - 1)
        low, high = min(across, 0.0), max(across, 0.0)
        margin = NEEDED_AROUND * (abs(z) + abs(y) + abs(x))
        # A plane along x is turned a little, which moves it by this much at most.
        least = STEEPEST * (abs(z) + abs(y))
        if abs(x) < least:
            margin += 2.0 * least * (ranges[2].length + NEEDED_AROUND)
            x = least
        base = z * p[0] + y * p[1] + x * p[2]
        low, high = (low - margin + base) / x, (high + margin + base) / x
        bounds[0, j, 0], bounds[1, j, 0] = min(low, high), max(low, high)
        bounds[0, j, 1] = bounds[1, j, 1] = -z / x
        bounds[0, j, 2] = bounds[1, j, 2] = -y / x


@inlined
def sums_in_slice(sums, k):
    """Return a + b * k of the three sums of one bound, see `find_bounds`."""
    return (
        sums[0, 0] + sums[0, 1] * k,
        sums[1, 0] + sums[1, 1] * k,
        sums[2, 0] + sums[2, 1] * k,
    )


@inlined
def prepared(value, less, times):
    """Return a voxel as it is copied: scaled, or with None as it is."""
    if times is None:
        return value
    return (F(value) - less) * times


@kernel
def copy_needed(volume, scaling, ranges, bounds, copy):
    """Copy what a block needs of a volume, scaled but not clipped.

    volume  : integers (D, H, W), C-contiguous
    scaling : VolumeScaling, or None: values are only copied
    ranges  : Range of z, y and x
    bounds  : see `find_bounds`
    copy    : (n,), voxels (z, y, x) of the ranges, with one more at the end of each
        axis. Those out of bounds are not written
    """
    range_z, range_y, range_x = ranges
    stride, width = range_x.length + 1, range_x.total
    voxels = flat(volume)
    less, times = None, None
    slope0, slope1, slope2 = bounds[0, 0, 2], bounds[0, 1, 2], bounds[0, 2, 2]
    at = 0
    for k in range(range_z.length + 1):
        plane = min(range_z.first + k, range_z.total - 1)
        if scaling is not None:
            less, times = scaling.shift[plane], scaling.gain[plane]
        low0, low1, low2 = sums_in_slice(bounds[0], k)
        high0, high1, high2 = sums_in_slice(bounds[1], k)
        for r in range(range_y.length + 1):
            by0, by1, by2 = slope0 * r, slope1 * r, slope2 * r
            low = max(max(low0 + by0, low1 + by1), max(low2 + by2, 0.0))
            high = min(min(high0 + by0, high1 + by1), min(high2 + by2, stride - 1.0))
            if low < high + 1.0:
                start, stop = int(low), int(high + 1.0)
                row = plane * range_y.total + min(range_y.first + r, range_y.total - 1)
                line = row * width + range_x.first
                # Indices are faster than slices, as in `add_taps`.
                source, out = u64(line + start), u64(at + start)
                stored = min(stop, width - range_x.first) - start
                prefetch_cells(voxels, line + start + AHEAD * width, stored)
                for c in range(stored):
                    value = voxels[source + u64(c)]
                    copy[out + u64(c)] = prepared(value, less, times)
                if start + stored < stop:
                    value = voxels[u64(row * width + width - 1)]
                    copy[u64(at + stop - 1)] = prepared(value, less, times)
            at += stride


@inlined
def relative(axis, s, first):
    """Return a whole number near the middle of a block of points, and the rest.

    s     : index of the block's first point
    first : number that counts as 0
    """
    middle = axis.start + axis.step * (s + BLOCK // 2) - first
    whole = np.floor(min(max(middle, -FARTHEST), FARTHEST))
    return whole, F(middle - whole)


@inlined
def map_row_3d(axes, ranges, count, nearest, points):
    """Find the points of a row, clamped to the ranges.

    axes, ranges : Axis and Range of z, y and x
    count   : voxels of the row. The loop rounds it up to a multiple of LANES
    nearest : whether to round points to voxels
    points  : RowPoints, overwritten
    """
    axis_z, axis_y, axis_x = axes
    range_z, range_y, range_x = ranges
    step_z, step_y, step_x = F(axis_z.step), F(axis_y.step), F(axis_x.step)
    rows, stride = range_y.length + 1, range_x.length + 1
    rows32, stride32, half = I(rows), I(stride), F(0.5)
    indices, fraction_z, fraction_y, fraction_x = points
    for s in range(0, count, BLOCK):
        near, from_z = relative(axis_z, s, range_z.first)
        top, from_y = relative(axis_y, s, range_y.first)
        left, from_x = relative(axis_x, s, range_x.first)
        least_z, most_z = F(-near), F(range_z.length - 1 - near)
        least_y, most_y = F(-top), F(range_y.length - 1 - top)
        least_x, most_x = F(-left), F(range_x.length - 1 - left)
        # This may wrap around, as in `map_row`.
        origin = I((int(near) * rows + int(top)) * stride + int(left))
        start = u64(s)
        for k in range(min((count - s + LANES - 1) // LANES * LANES, BLOCK)):
            here = start + u64(k)
            along = F(I(k - BLOCK // 2))
            z = min(max(fma(along, step_z, from_z), least_z), most_z)
            y = min(max(fma(along, step_y, from_y), least_y), most_y)
            x = min(max(fma(along, step_x, from_x), least_x), most_x)
            if nearest:
                plane, row = np.floor(z + half), np.floor(y + half)
                column = np.floor(x + half)
            else:
                plane, row, column = np.floor(z), np.floor(y), np.floor(x)
                fraction_z[here] = z - plane
                fraction_y[here] = y - row
                fraction_x[here] = x - column
            line = I(I(I(plane) * rows32) + I(row))
            indices[here] = I(I(line * stride32) + I(column)) + origin


@inlined
def interpolate_row_3d(pairs, ranges, points, loaded, scaling, out, at, count):
    """Interpolate the points of a row between eight voxels each, and clip.

    pairs  : uint64 (n,), a voxel of the copy and the next one
    ranges : Range of z, y and x
    points : RowPoints
    loaded : uint64 (4, n), overwritten
    out    : float32 (m,), out[at : at + count] is written
    """
    low, high = scaling.low, scaling.high
    indices, fraction_z, fraction_y, fraction_x = points
    below = u64(ranges[2].length + 1)
    behind = u64((ranges[1].length + 1) * (ranges[2].length + 1))
    one, two, three, four = loaded[0], loaded[1], loaded[2], loaded[3]
    for k in range(count):
        here = u64(indices[k])
        one[k], two[k] = pairs[here], pairs[here + below]
        three[k], four[k] = pairs[here + behind], pairs[here + behind + below]
    a, b = reinterpret(one, F), reinterpret(two, F)
    c, d = reinterpret(three, F), reinterpret(four, F)
    begin = u64(at)
    strip = STRIP if count >= STRIP else 1
    for s in range(0, count, strip):
        # The last strip overlaps the one before it, as in `interpolate_quads`.
        start = u64(min(s, count - strip))
        for k in range(strip):
            here = start + u64(k)
            left, right = u64(2) * here, u64(2) * here + u64(1)
            x, y, z = fraction_x[here], fraction_y[here], fraction_z[here]
            near = bilinear(a[left], a[right], b[left], b[right], x, y)
            far = bilinear(c[left], c[right], d[left], d[right], x, y)
            out[begin + here] = min(max(fma(z, far - near, near), low), high)


@kernel
def warp_volume(volume, matrix, border, scaling, copy, patch):
    """Resample a volume: an image by trilinear interpolation, a mask by nearest voxels.

    volume  : integers (D, H, W), C-contiguous
    matrix  : float64 (3, 4), from (z, y, x, 1) of the patch to (z, y, x), invertible
    border  : CONSTANT or EDGE, what points outside the volume show, see `Sampling`; it
        reaches RIM beyond the outermost voxel centres
    scaling : VolumeScaling, or None for a mask, which is 0 outside
    copy    : float32, or of the dtype of a mask, (n,) for the voxels of a block; n is
        even, overwritten
    patch   : like copy (d, h, w), C-contiguous, every cell is written

    Slices are scaled first; what is interpolated between them is clipped. Values equal
    those of scipy.ndimage.map_coordinates for the scaled slices, as in `warp_image`. Of
    two equally near voxels of a mask, takes the one with the greater index.
    """
    shape = (patch.shape[0], patch.shape[1], patch.shape[2])
    volume_shape = (volume.shape[0], volume.shape[1], volume.shape[2])
    cells = flat(patch)
    fill = patch.dtype.type(0)
    if scaling is not None:
        fill = scaling.fill
        pairs = overlapping(copy, np.uint64)
    depth, height, width = block_sides(matrix, shape, volume_shape, len(copy))
    capacity = row_capacity(width)
    loaded = empty((4, capacity), np.uint64)
    bounds = empty((2, 3, 3), np.float64)
    points = RowPoints(
        empty(capacity, np.int32),
        empty(capacity, F),
        empty(capacity, F),
        empty(capacity, F),
    )
    across, down = -(-shape[2] // width), -(-shape[1] // height)
    for block in range(-(-shape[0] // depth) * down * across):
        x0 = block % across * width
        y0 = block // across % down * height
        z0 = block // across // down * depth
        corner = (z0, y0, x0)
        sides = (
            min(depth, shape[0] - z0), min(height, shape[1] - y0),
            min(width, shape[2] - x0),
        )  # fmt: skip
        ranges = (
            range_of(matrix, 0, corner, sides, volume_shape[0]),
            range_of(matrix, 1, corner, sides, volume_shape[1]),
            range_of(matrix, 2, corner, sides, volume_shape[2]),
        )
        find_bounds(matrix, corner, sides, ranges, bounds)
        copy_needed(volume, scaling, ranges, bounds, copy)
        for row in range(sides[0] * sides[1]):
            z, y = z0 + row // sides[1], y0 + row % sides[1]
            at = (z * shape[1] + y) * shape[2] + x0
            axis_z = axis_of(matrix, 0, z, y, x0)
            axis_y = axis_of(matrix, 1, z, y, x0)
            axis_x = axis_of(matrix, 2, z, y, x0)
            first, stop = 0, sides[2]
            if border == CONSTANT:
                first, stop = row_inside(axis_z, axis_y, axis_x, volume_shape, stop)
                line = cells[at : at + sides[2]]
                for k in range(first):
                    line[k] = fill
                for k in range(stop, len(line)):
                    line[k] = fill
            if first == stop:
                continue
            axes = (
                Axis(axis_z.start + first * axis_z.step, axis_z.step),
                Axis(axis_y.start + first * axis_y.step, axis_y.step),
                Axis(axis_x.start + first * axis_x.step, axis_x.step),
            )
            count = stop - first
            if scaling is None:
                map_row_3d(axes, ranges, count, True, points)
                load_pixels(copy, points.indices, cells[at + first : at + stop])
            else:
                map_row_3d(axes, ranges, count, False, points)
                interpolate_row_3d(
                    pairs, ranges, points, loaded, scaling, cells, at + first, count
                )


@entry(
    images="const T[:, :, ::1]",
    volumes=VOLUMES,
    matrices=MATRICES,
    border="int64",
    scalings=(SliceScalings, COLUMN, COLUMN, INDICES, COLUMN, "float64", "float64"),
    steps=STEPS,
    keys=KEYS,
    streams="bool",
    out="float32[:, :, :, ::1]",
    T=("int16", "uint16", "uint8"),
)
def augment_volumes(
    images, volumes, matrices, border, scalings, steps, keys, streams, out
):
    """Apply `warp_volume`, then the intensity steps, to volumes, and write them to out.

    images   : integers (n, H, W)
    volumes  : Volumes; where a volume is in another stack, out[j] is not changed
    matrices : float64 (b, 3, 4)
    border   : CONSTANT or EDGE
    scalings, steps, keys : SliceScalings, Steps, Keys
    streams  : bool, whether to write past the caches
    out      : float32 (b, d, h, w), C-contiguous
    """
    cells = flat(out)
    patch = empty((out.shape[1], out.shape[2], out.shape[3]), F)
    scratch = empty(out.shape[2] * out.shape[3], F)
    copy = empty(MOST_COPIED, F)
    for j in range(len(out)):
        first, count = volumes.first[j], volumes.slices[j]
        if first >= 0:
            start, stop = scalings.start[j], scalings.start[j] + count
            scaling = VolumeScaling(
                scalings.shift[start:stop], scalings.gain[start:stop],
                F(scalings.low), F(scalings.high), scalings.fill[j],
            )  # fmt: skip
            volume = images[first : first + count]
            warp_volume(volume, matrices[j], border, scaling, copy, patch)
            apply_intensity_to(
                patch, steps, j, keys, scratch, True, cells, j * patch.size, streams
            )
    settle()


@entry(
    masks="const T[:, :, ::1]",
    volumes=VOLUMES,
    matrices=MATRICES,
    out="T[:, :, :, ::1]",
    T=("uint8",),
)
def warp_volume_masks(masks, volumes, matrices, out):
    """Apply `warp_volume` to the masks of volumes, and write them to out.

    masks    : bit fields (n, H, W)
    volumes  : Volumes; where a volume is in another stack, out[j] is not changed
    matrices : float64 (b, 3, 4)
    out      : of the same dtype (b, d, h, w), C-contiguous
    """
    copy = empty(MOST_COPIED, masks.dtype)
    for j in range(len(out)):
        first, count = volumes.first[j], volumes.slices[j]
        if first >= 0:
            volume = masks[first : first + count]
            warp_volume(volume, matrices[j], CONSTANT, None, copy, out[j])
