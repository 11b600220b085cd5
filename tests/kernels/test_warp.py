"""Images and masks through a mapping, held against scipy and numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from fastseg._kernels.augment import spline, warp
from tests.warp_reference import (
    IDENTITY,
    MODES,
    STILL,
    affines,
    displacement,
    into_image,
    joined,
    mappings,
    pixel_centres,
    resample,
    seeds,
    turn,
)

pytestmark = pytest.mark.kernel

INFINITE = np.float32(np.inf)
image_dtypes = st.sampled_from(["u1", "i1", "<u2", "<i2", "<u4", "<i4"])
mask_dtypes = st.sampled_from(["u1", "<u2", "<u4", "<u8"])
sides = st.integers(1, 24)
orders = st.sampled_from([0, 1, 3])
borders = st.sampled_from([0, 1, 2])
# 1.5e-5 of a pixel, times the steepest slope; and the rounding of some ten sums.
TOLERANCE = 4e-5


def warped(image, mapping, shape, order, border, fill=-7.0, scaling=(0.0, 1.0)):
    """Return the image through a mapping, all cells of whose memory were rubbish."""
    out = np.full(shape, 77, np.float32)
    limits = -INFINITE, INFINITE
    warp.warp_image(image, *mapping, order, border, fill, *scaling, *limits, out)
    return out


def random_image(dtype, shape, seed, most=30000):
    """Return random pixels, from the least to the greatest of the dtype or `most`."""
    limits = np.iinfo(dtype)
    least, most = max(limits.min, -most), min(limits.max, most)
    random = np.random.default_rng(seed)
    return random.integers(least, most, shape, dtype, endpoint=True)


def check_against_scipy(image, mapping, shape, order, border):
    expected, doubtful = resample(image, mapping, shape, order, MODES[border])
    expected = np.where(np.isnan(expected), -7, expected)
    found = warped(image, mapping, shape, order, border)
    size = float(np.abs(image.astype(float)).max()) + 1
    slope = max(1.0, np.abs(joined(mapping[3], mapping[0])[:, :2]).max())
    off = np.where(doubtful, 0, np.abs(found - expected))
    assert off.max(initial=0) <= TOLERANCE * size * slope


@given(image_dtypes, sides, sides, sides, sides, mappings(), orders, borders, seeds)
@settings(max_examples=150)
def test_images_are_those_of_scipy(dtype, H, W, h, w, mapping, order, border, seed):
    """Each order and border is map_coordinates' own, with and without displacement."""
    if (order, border) == (3, 2):
        # In mode reflect, scipy's filter forgets an end of short lines: its error is
        # 0.27**(2 * length - 1).
        H, W = max(H, 9), max(W, 9)
    image = random_image(dtype, (H, W), seed)
    check_against_scipy(image, mapping, (h, w), order, border)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("border", [0, 1, 2])
def test_large_images_are_those_of_scipy(order, border):
    """Coordinates stay exact enough far from the origin, in part of an image."""
    image = random_image("u2", (40, 4096), 3, most=4000)
    mapping = turn(0.2, 0.99, (4000, 2)), STILL, 1.0, IDENTITY
    check_against_scipy(image, mapping, (30, 300), order, border)


def test_short_reflected_lines_are_interpolated():
    """A spline takes the values of the pixels, and is symmetric about the border."""
    image = random_image("u2", (2, 3), 5)
    wide = np.pad(image, 40, "symmetric")
    mapping = turn(20, 0.5), STILL, 1.0, IDENTITY
    moved = turn(20, 0.5, (40, 40)), STILL, 1.0, IDENTITY
    expected, _ = resample(wide, moved, (6, 7), 3, "reflect")
    assert_allclose(warped(image, mapping, (6, 7), 3, 2), expected, rtol=0, atol=0.1)


@given(image_dtypes, sides, sides, orders, borders, seeds)
def test_identity_is_bit_for_bit(dtype, height, width, order, border, seed):
    """Without a mapping, pixels are scaled in float32, as `gather_images` does it."""
    image = random_image(dtype, (height, width), seed, most=2**40)
    ends = np.float32(3.3), np.float32(0.37), np.float32(-100), np.float32(500)
    expected = np.clip((image.astype(np.float32) - ends[0]) * ends[1], *ends[2:])
    out = np.full((height, width), 77, np.float32)
    mapping = IDENTITY, STILL, 1.0, IDENTITY
    warp.warp_image(image, *mapping, order, border, 9.0, *ends, out)
    assert_array_equal(out, expected)


@given(image_dtypes, sides, sides, borders, seeds)
def test_whole_places_are_exact(dtype, height, width, border, seed):
    """Where a point is a pixel centre, its value is exact among others that are not."""
    image = random_image(dtype, (height, width), seed, most=2**40)
    half = np.array([[0.5, 0, 0], [0, 0.5, 0]])
    shape = 2 * height - 1, 2 * width - 1
    out = warped(image, (half, STILL, 1.0, IDENTITY), shape, 1, border)
    assert_array_equal(out[::2, ::2], image.astype(np.float32))


@given(mask_dtypes, sides, sides, sides, sides, mappings(), seeds)
def test_masks_take_the_nearest(dtype, H, W, h, w, mapping, seed):
    """Every bit of a mask comes from the nearest pixel, and outside there are none."""
    bits = np.random.default_rng(seed).bytes(H * W * np.dtype(dtype).itemsize)
    mask = np.frombuffer(bits, dtype).reshape(H, W)
    out = np.full((h, w), 77, dtype)
    warp.warp_mask(mask, *mapping, out)
    places = np.arange(1, H * W + 1).reshape(H, W)
    nearest, doubtful = resample(places, mapping, (h, w), 0, "constant")
    chosen = np.concatenate([[0], mask.ravel()])[np.nan_to_num(nearest).astype(int)]
    assert_array_equal(np.where(doubtful, 0, out), np.where(doubtful, 0, chosen))


@given(arrays("<u2", st.tuples(sides, sides)), orders, borders)
def test_four_quarters_are_nothing(image, order, border):
    """A quarter turn is numpy's, and four of them give the image again, exactly."""
    turned = image
    for _ in range(4):
        height, width = turned.shape
        quarter = np.array([[0.0, -1, width - 1], [1, 0, 0]])
        out = warped(turned, (quarter, STILL, 1.0, IDENTITY), (width, height), order, 0)
        assert_array_equal(out, np.rot90(turned))
        turned = out.astype("<u2")
    assert_array_equal(turned, image)


@given(st.sampled_from([1, 2, 4, 8]), orders)
def test_a_half_turn_of_sines_and_cosines_loses_nothing(scale, order):
    """What rounding moves out of the image still shows the outermost pixels."""
    image = random_image("u2", (9, 11), scale, most=999)
    half = joined(turn(0, 1, (5, 4)), turn(180, 1), turn(0, 1, (-5, -4)))
    out = warped(image, (half, STILL, 1.0, IDENTITY), image.shape, order, 0)
    assert_allclose(out, image[::-1, ::-1], atol=0.01)
    mask = np.empty_like(image)
    warp.warp_mask(image, half, STILL, 1.0, IDENTITY, mask)
    assert_array_equal(mask, image[::-1, ::-1])


@given(affines(reach=5), affines(reach=5))
def test_one_mapping_is_the_sequence(first, second):
    """On a smooth image, a composed mapping shows what two one after another show."""
    height, width = 40, 50
    y, x = np.mgrid[:height, :width]
    smooth = np.sin(x / 9) * np.cos(y / 7)
    image = np.rint(1e6 * smooth).astype(np.int32)
    once = warped(image, (first, STILL, 1.0, second), (height, width), 3, 0, np.nan)
    points = into_image((first, STILL, 1.0, second), pixel_centres(once.shape))
    truth = 1e6 * np.sin(points[:, 0] / 9) * np.cos(points[:, 1] / 7)
    inside = ((points > 4) & (points < [width - 5, height - 5])).all(axis=1)
    middle = warped(image, (second, STILL, 1.0, IDENTITY), (height, width), 3, 1)
    twice = warped(
        np.rint(middle).astype(np.int32),
        (first, STILL, 1.0, IDENTITY), (height, width), 3, 1,
    )  # fmt: skip
    between = into_image((first, STILL, 1.0, IDENTITY), pixel_centres(once.shape))
    inside &= ((between > 4) & (between < [width - 5, height - 5])).all(axis=1)
    # The second image need not be smooth at pixels that show the first one's outside.
    for dx, dy in np.ndindex(9, 9):
        near = into_image((second, STILL, 1.0, IDENTITY), between + [dx - 4, dy - 4])
        inside &= ((near > 0) & (near < [width - 1, height - 1])).all(axis=1)
    assert_allclose(once.ravel()[inside], truth[inside], atol=1e3)
    # Steps of up to 2.5 * sqrt(1.6) pixels: the sines turn by a third of a radian.
    assert_allclose(once.ravel()[inside], twice.ravel()[inside], atol=6e3)


@given(seeds, borders)
def test_values_are_scaled_and_fill_is_not(seed, border):
    """shift, gain and limits change what comes from the image, and nothing else."""
    image = random_image("i2", (12, 9), seed)
    mapping = turn(30, 1.3, (-4, 2)), STILL, 1.0, IDENTITY
    plain = warped(image, mapping, (20, 20), 1, border, fill=np.nan)
    out = np.empty_like(plain)
    ends = np.float32(100), np.float32(0.01), np.float32(-50), np.float32(60)
    warp.warp_image(image, *mapping, 1, border, 1e9, *ends, out)
    scaled = np.clip((plain - ends[0]) * ends[1], ends[2], ends[3])
    expected = np.where(np.isnan(plain), np.float32(1e9), scaled)
    assert_array_equal(out, expected)


@given(mappings(straight=False), st.floats(-90, 90), st.floats(-90, 90))
def test_displacements_are_those_of_the_definition(mapping, x, y):
    """Values are sums of B-splines, and derivatives are limits of differences."""
    _, control, spacing, _ = mapping
    found = spline.differentiate_point(control, spacing, x, y)
    expected = displacement(control, spacing, np.array([[x, y]]))[0]
    assert_allclose(found[:2], expected, atol=1e-9)
    assert_array_equal(found[:2], spline.displace_point(control, spacing, x, y))
    step = 1e-4 * spacing
    for k, (dx, dy) in enumerate([(step, 0), (0, step)]):
        after = spline.displace_point(control, spacing, x + dx, y + dy)
        before = spline.displace_point(control, spacing, x - dx, y - dy)
        slope = (np.array(after) - before) / (2 * step)
        assert_allclose([found[2 + k], found[4 + k]], slope, atol=1e-5)


@pytest.mark.parametrize("border", [0, 1, 2])
@pytest.mark.parametrize("shape", [(30, 41), (1, 9), (16, 1), (3, 2)])
def test_coefficients_give_the_pixels_again(border, shape):
    """At the pixels, the spline of the coefficients has their values."""
    image = random_image("u2", shape, 1)
    found = spline.spline_coefficients(image, 0, shape[0], 0, shape[1], border, 2)
    kernel = np.outer([1, 4, 1], [1, 4, 1]) / 36
    values = ndimage.convolve(found.astype(float), kernel)[2:-2, 2:-2]
    assert_allclose(values, image, atol=1e-6 * 30000)
