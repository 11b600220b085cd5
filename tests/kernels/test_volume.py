"""Volumes through affine mappings in space, compared with scipy."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from fastseg._kernels import jit
from fastseg._kernels.augment import batch, volume
from fastseg._kernels.augment.intensity import BLUR, GAMMA, GAUSSIAN, PARAMETERS, Steps
from fastseg._kernels.augment.noise import Keys
from fastseg._kernels.augment.spline import CONSTANT, EDGE
from tests.warp_reference import COORDINATE_ERROR, seeds

pytestmark = pytest.mark.kernel

F = np.float32
NO_STEPS = Steps(np.empty((1, 0), np.int64), np.empty((1, 0, PARAMETERS)), 0)
KEYS = Keys(3, np.zeros(1, np.uint64))
FILL = -9
LOW, HIGH = -2.5, 2.5
BEFORE = 2  # slices of another volume in the stack, and scalings of others
SMALL_BOX = 128  # voxels of copies
borders = st.sampled_from([CONSTANT, EDGE])
sides = st.integers(1, 12)
shapes = st.tuples(sides, sides, sides)


@st.composite
def matrices(draw):
    """Draw matrices (3, 4) that turn about any axis, scale, flip and shift."""
    turn = np.eye(3)
    for axis in range(3):
        angle = math.radians(draw(st.sampled_from([0, 0, 90]) | st.floats(-180, 180)))
        cos, sin = math.cos(angle), math.sin(angle)
        step = np.eye(3)
        first, second = [k for k in range(3) if k != axis]
        step[first, first] = step[second, second] = cos
        step[first, second], step[second, first] = -sin, sin
        turn = turn @ step
    scales = [draw(st.sampled_from([-1, 1]) | st.floats(0.3, 2.5)) for _ in range(3)]
    shift = [draw(st.integers(-4, 12) | st.floats(-4, 12)) for _ in range(3)]
    return np.column_stack([turn * scales, shift])


@st.composite
def volumes(draw):
    """Draw (images, shape of the volume, shift, gain): BEFORE others come before it."""
    count, height, width = draw(shapes)
    random = np.random.default_rng(draw(seeds))
    shape = (BEFORE + count + 1, height, width)
    images = random.integers(-1000, 1000, shape, np.int16)
    # Each slice has another scaling, as those of PET do.
    shift = random.uniform(-50, 50, 2 * BEFORE + count + 1).astype(F)
    gain = random.uniform(1e-3, 3e-3, len(shift)).astype(F)
    return images, (count, height, width), shift, gain


def warp(case, matrix, shape, border, steps=NO_STEPS, streams=False):
    """Return a volume through a matrix, written to an array full of 77."""
    images, (count, _, _), shift, gain = case
    out = np.full((1, *shape), 77, F)
    volume.augment_volumes(
        images,
        volume.Volumes(np.array([BEFORE]), np.array([count])),
        matrix[None].astype(float),
        border,
        volume.SliceScalings(
            shift, gain, np.array([2 * BEFORE]), np.array([FILL], F), LOW, HIGH
        ),
        steps,
        KEYS,
        streams,
        out,
    )
    return out[0]


def scaled(case):
    """Return the values of the volume, float64, not clipped."""
    images, (count, _, _), shift, gain = case
    less, times = (column[2 * BEFORE :][:count, None, None] for column in (shift, gain))
    return (images[BEFORE:][:count].astype(F) - less) * times.astype(float)


def points_of(matrix, shape):
    """Return the points of a patch, float64 (d, h, w, 3)."""
    voxels = np.stack(np.mgrid[tuple(map(slice, shape))], axis=-1)
    return voxels @ matrix[:, :3].T + matrix[:, 3]


def outside(points, shape):
    """Return which points are outside a volume, and which are too close to tell."""
    size = np.array(shape)
    out = (np.abs(points - (size - 1) / 2) > size / 2).any(axis=-1)
    gap = np.minimum(np.abs(points + 0.5), np.abs(points + 0.5 - size))
    return out, (gap < COORDINATE_ERROR).any(axis=-1)


def tolerance_of(matrix):
    """Return the greatest error of a point, in voxels."""
    return 1.5 * COORDINATE_ERROR * max(1, float(np.abs(matrix[:, 2]).max()))


@settings(max_examples=150)
@given(volumes(), matrices(), shapes, borders)
def test_images_equal_scipy(case, matrix, shape, border):
    """Voxels are those of map_coordinates: scaled, interpolated, then clipped."""
    actual = warp(case, matrix, shape, border)
    points = points_of(matrix, shape)
    values = scaled(case)
    expected = ndimage.map_coordinates(
        values, np.moveaxis(points, -1, 0), order=1, mode="nearest"
    )
    expected = np.clip(expected, LOW, HIGH)
    doubtful = np.zeros(shape, bool)
    if border == CONSTANT:
        is_out, doubtful = outside(points, case[1])
        expected[is_out] = FILL
    greatest = np.abs(values).max()
    allowed = 6 * greatest * tolerance_of(matrix) + 3e-6
    off = np.where(doubtful, 0, np.abs(actual - expected))
    assert off.max(initial=0) <= allowed


@settings(max_examples=150)
@given(volumes(), matrices(), shapes)
def test_masks_equal_nearest_voxels(case, matrix, shape):
    """Each voxel of a mask is the nearest one of the volume, or 0 outside."""
    images, volume_shape, _, _ = case
    masks = (images & 255).astype(np.uint8)
    out = np.full((1, *shape), 77, np.uint8)
    first, count = np.array([BEFORE]), np.array([volume_shape[0]])
    volume.warp_volume_masks(masks, volume.Volumes(first, count), matrix[None], out)
    points = points_of(matrix, shape)
    is_out, doubtful = outside(points, volume_shape)
    within = np.clip(points, 0, np.array(volume_shape) - 1)
    doubtful |= (np.abs(within % 1 - 0.5) < tolerance_of(matrix)).any(axis=-1)
    z, y, x = np.moveaxis(np.floor(within + 0.5).astype(int), -1, 0)
    expected = np.where(is_out, 0, masks[BEFORE + z, y, x])
    assert_array_equal(out[0][~doubtful], expected[~doubtful])


@st.composite
def whole_turns(draw):
    """Draw matrices (3, 4) that map voxel centres to voxel centres."""
    order = draw(st.permutations(range(3)))
    signs = draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    shift = draw(st.tuples(*[st.integers(-3, 14)] * 3))
    return np.column_stack([np.eye(3)[order] * signs, shift]).astype(float)


@settings(max_examples=60)
@given(volumes(), whole_turns(), shapes, borders)
def test_voxel_centres_get_exactly_their_values(case, matrix, shape, border):
    """A mapping of voxels to voxels copies values bit for bit."""
    images, volume_shape, shift, gain = case
    actual = warp(case, matrix, shape, border)
    points = points_of(matrix, shape).astype(int)
    count = volume_shape[0]
    less, times = (column[2 * BEFORE :][:count, None, None] for column in (shift, gain))
    values = (images[BEFORE:][:count].astype(F) - less) * times
    z, y, x = np.moveaxis(np.clip(points, 0, np.array(volume_shape) - 1), -1, 0)
    expected = np.clip(values[z, y, x], F(LOW), F(HIGH))
    if border == CONSTANT:
        expected[outside(points, volume_shape)[0]] = FILL
    assert_array_equal(actual, expected)


@pytest.mark.skipif(
    not jit.INTERPRETED, reason="no entry takes the copies: compiling takes 15 s"
)
@settings(max_examples=60)
@given(volumes(), matrices(), shapes, borders)
def test_blocks_copy_all_that_they_need(case, matrix, shape, border):
    """What was in the memory of copies before never shows, whatever the blocks."""
    images, (count, _, _), shift, gain = case
    part = images[BEFORE : BEFORE + count]
    columns = (column[2 * BEFORE :][:count] for column in (shift, gain))
    scaling = volume.VolumeScaling(*columns, F(LOW), F(HIGH), F(FILL))
    image, mask = np.empty(shape, F), np.empty(shape, np.uint8)
    copy, copied_mask = np.full(SMALL_BOX, np.nan, F), np.full(SMALL_BOX, 255, np.uint8)
    volume.warp_volume(part, matrix, border, scaling, copy, image)
    masks = (part & 127).astype(np.uint8)
    volume.warp_volume(masks, matrix, CONSTANT, None, copied_mask, mask)
    assert np.isfinite(image).all()
    assert mask.max(initial=0) < 128
    whole = warp(case, matrix, shape, border)
    allowed = 6 * np.abs(scaled(case)).max() * tolerance_of(matrix) + 3e-6
    inside = (image != FILL) & (whole != FILL)
    assert_allclose(image[inside], whole[inside], rtol=0, atol=allowed)


long_sides = st.integers(1, 400)


@settings(max_examples=60)
@given(
    matrices(),
    st.sampled_from([1, 1, 30, 1000]),
    shapes,
    st.tuples(long_sides, long_sides, long_sides),
    st.sampled_from([64, SMALL_BOX, 5000]),
)
def test_what_a_block_needs_fits_into_the_copy(
    matrix, factor, shape, volume_shape, most
):
    """The ranges of a block have `most` voxels at most, with one more on each axis."""
    matrix[:, :3] *= factor
    lengths = volume.block_sides(matrix, shape, volume_shape, most)
    firsts = map(range, (0, 0, 0), shape, lengths)
    for corner in product(*firsts):
        block = tuple(map(min, lengths, np.subtract(shape, corner).tolist()))
        ranges = [
            volume.range_of(matrix, axis, corner, block, volume_shape[axis])
            for axis in range(3)
        ]
        assert math.prod(each.length + 1 for each in ranges) <= most


def big_case():
    """Return a volume that needs many blocks."""
    random = np.random.default_rng(0)
    images = random.integers(-1000, 200, (40, 70, 90), np.int16)
    columns = np.full(60, 20, F), np.full(60, 3e-3, F)
    return images, (37, 70, 90), *columns


def test_rows_longer_than_a_block_of_coordinates():
    """A patch of rows above BLOCK equals scipy as well."""
    case = big_case()
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    shape = (20, 33, 150)
    shift = np.array([18, 35, 45]) - 0.6 * turn @ ((np.array(shape) - 1) / 2)
    matrix = np.column_stack([0.6 * turn, shift])
    actual = warp(case, matrix, shape, EDGE)
    points = points_of(matrix, shape)
    expected = ndimage.map_coordinates(
        scaled(case), np.moveaxis(points, -1, 0), order=1, mode="nearest"
    )
    assert_allclose(actual, np.clip(expected, LOW, HIGH), rtol=0, atol=4e-4)


def test_volumes_of_other_stacks_are_left_alone():
    """Where a volume is in another stack, neither image nor mask is written."""
    images, (count, _, _), shift, gain = big_case()
    some = volume.Volumes(np.array([-1, BEFORE]), np.array([count] * 2))
    unmoved = np.repeat(np.eye(3, 4)[None], 2, axis=0)
    zeros = np.zeros(2, np.int64)
    out = np.full((2, 3, 4, 5), 77, F)
    steps = Steps(np.empty((2, 0), np.int64), np.empty((2, 0, PARAMETERS)), 0)
    scalings = volume.SliceScalings(shift, gain, zeros, np.zeros(2, F), LOW, HIGH)
    keys = Keys(0, np.zeros(2, np.uint64))
    volume.augment_volumes(
        images, some, unmoved, CONSTANT, scalings, steps, keys, False, out
    )
    masks = np.full((2, 3, 4, 5), 77, np.uint8)
    stored = (images & 127).astype(np.uint8)
    volume.warp_volume_masks(stored, some, unmoved, masks)
    assert (out[0] == 77).all()
    assert (masks[0] == 77).all()
    assert_array_equal(masks[1], stored[BEFORE:][:3, :4, :5])
    assert not (out[1] == 77).any()


def test_steps_come_after_the_warp():
    """Intensity steps change the patch as they change one that is made before."""
    params = np.zeros((1, 3, PARAMETERS))
    params[0, :, 0] = [0.8, 1.3, 0.2]
    steps = Steps(np.array([[BLUR, GAMMA, GAUSSIAN]]), params, 5)
    matrix = np.column_stack([0.9 * np.eye(3), [1, 2, 3]])
    case = big_case()
    for streams in (False, True):
        actual = warp(case, matrix, (6, 20, 30), CONSTANT, steps, streams)
        expected = warp(case, matrix, (6, 20, 30), CONSTANT)[None]
        batch.apply_intensity_batch(expected, steps, KEYS)
        assert_array_equal(actual, expected[0])
