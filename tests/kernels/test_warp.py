"""Images and masks through a mapping, compared with scipy and numpy."""

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from fastseg._kernels.augment import batch, spline
from fastseg._kernels.augment.intensity import PARAMETERS, Steps
from fastseg._kernels.augment.mapping import Affines, Displacements
from fastseg._kernels.augment.noise import Keys
from fastseg._kernels.augment.warp import CUBIC, REFLECT, Sampling
from tests.strategies import examples
from tests.warp_reference import (
    IDENTITY,
    MODES,
    NO_CONTROL,
    affines,
    displacement,
    mappings,
    output_to_image,
    pixel_centres,
    points_within,
    product,
    resample,
    rotation,
    seeds,
)

pytestmark = pytest.mark.kernel

F = np.float32
INFINITE = F(np.inf)
FIRST = np.array([0])
ONE_IMAGE = batch.PatchSlices(FIRST[:, None, None], np.zeros((1, 1), F))
NO_STEPS = Steps(np.empty((1, 0), np.int64), np.empty((1, 0, PARAMETERS)), 0)
KEYS = Keys(0, np.zeros(1, np.uint64))
# To compile the kernel of images takes some seconds for each dtype. Compiled, these
# differ in all that it depends on: signed or not, packed in quads or not (4 bytes), 1
# byte or 2. As Python, it runs with every dtype.
IMAGE_DTYPES = ["u1", "i1", "<u2", "<i2", "<u4", "<i4"]
MASK_DTYPES = ["u1", "<u2", "<u4", "<u8"]
if not numba.config.DISABLE_JIT:
    IMAGE_DTYPES = ["i1", "<u2", "<i4"]
    MASK_DTYPES = ["u1", "<u8"]
image_dtypes = st.sampled_from(IMAGE_DTYPES)
mask_dtypes = st.sampled_from(MASK_DTYPES)
sides = st.integers(1, 24)
orders = st.sampled_from([0, 1, 3])
borders = st.sampled_from([0, 1, 2])
# An error of 1.5e-5 of a pixel times the steepest slope, and the rounding of ten sums.
TOLERANCE = 4e-5


def mapped(mapping, always=False):
    """Return a mapping for kernels: Affines, and Displacements or None.

    always : whether there are Displacements, if only of an empty grid
    """
    outer, control, spacing, inner = mapping
    affines = Affines(*(np.array([matrix], float) for matrix in (outer, inner)))
    if not always and control.size == 0:
        return affines, None
    return affines, Displacements(control[None].astype(float), float(spacing))


def warped(
    image, mapping, shape, order, border, fill=-7, scaling=(0, 1, -INFINITE, INFINITE),
    always=False,
):  # fmt: skip
    """Return the image through a mapping, written to an array full of 77.

    scaling : shift, gain, low, high
    always  : whether to use the code for what is rare
    """
    out = np.full((1, 1, *shape), 77, F)
    shift, gain, low, high = scaling
    columns = (np.full((1, 1, 1), number, F) for number in (shift, gain, fill))
    batch.augment_images(
        read_only(image)[None], ONE_IMAGE,
        *mapped(mapping, always or order == CUBIC or border == REFLECT),
        Sampling(order, border), batch.Scalings(*columns, float(low), float(high)),
        NO_STEPS, KEYS, False, out,
    )  # fmt: skip
    return out[0, 0]


def warp_mask(mask, mapping, out):
    """Write a mask through a mapping to out."""
    batch.warp_masks(read_only(mask)[None], FIRST, *mapped(mapping), out[None])


def read_only(image):
    """Return a view with the type of a store's pixels, for which a Loader compiles."""
    view = image.view()
    view.flags.writeable = False
    return view


def random_image(dtype, shape, seed, most=30000):
    """Return random pixels over the range of the dtype, or from -most to most."""
    limits = np.iinfo(dtype)
    least, most = max(limits.min, -most), min(limits.max, most)
    random = np.random.default_rng(seed)
    return random.integers(least, most, shape, dtype, endpoint=True)


def assert_equals_scipy(image, mapping, shape, order, border):
    expected, doubtful = resample(image, mapping, shape, order, MODES[border])
    expected = np.where(np.isnan(expected), -7, expected)
    actual = warped(image, mapping, shape, order, border)
    size = float(np.abs(image.astype(float)).max()) + 1
    slope = max(1.0, np.abs(product(mapping[3], mapping[0])[:, :2]).max())
    error = np.where(doubtful, 0, np.abs(actual - expected))
    assert error.max(initial=0) <= TOLERANCE * size * slope


@given(image_dtypes, sides, sides, sides, sides, mappings(), orders, borders, seeds)
@examples(150)
def test_images_equal_scipy(dtype, H, W, h, w, mapping, order, border, seed):
    """Every order and border equals map_coordinates, with and without displacement."""
    if (order, border) == (3, 2):
        # In mode reflect, scipy's filter ignores one end of a line: its error is
        # 0.27**(2 * length - 1).
        H, W = max(H, 9), max(W, 9)
    image = random_image(dtype, (H, W), seed)
    assert_equals_scipy(image, mapping, (h, w), order, border)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("border", [0, 1, 2])
def test_large_images_equal_scipy(order, border):
    """Coordinates far from the origin of a large image are as exact as near it."""
    image = random_image("u2", (40, 4096), 3, most=4000)
    mapping = rotation(0.2, 0.99, (4000, 2)), NO_CONTROL, 1.0, IDENTITY
    assert_equals_scipy(image, mapping, (30, 300), order, border)


def test_short_reflected_lines_are_interpolated():
    """In mode reflect, the spline of a short line is that of the reflected image."""
    image = random_image("u2", (2, 3), 5)
    wide = np.pad(image, 40, "symmetric").astype(float)
    mapping = rotation(20, 0.5), NO_CONTROL, 1.0, IDENTITY
    points = output_to_image(mapping, pixel_centres((6, 7)))
    x, y = points_within(points, np.array([3, 2]), "reflect").T + 40
    expected = ndimage.map_coordinates(wide, [y, x], order=3).reshape(6, 7)
    assert_allclose(warped(image, mapping, (6, 7), 3, 2), expected, rtol=0, atol=0.1)


@given(image_dtypes, sides, sides, orders, borders, seeds)
def test_identity_is_exact(dtype, height, width, order, border, seed):
    """The identity gives float32 scaled pixels bit for bit, as `gather_images` does."""
    image = random_image(dtype, (height, width), seed, most=2**40)
    scaling = F(3.3), F(0.37), F(-100), F(500)
    expected = np.clip(
        (image.astype(np.float32) - scaling[0]) * scaling[1], *scaling[2:]
    )
    mapping = IDENTITY, NO_CONTROL, 1.0, IDENTITY
    out = warped(image, mapping, image.shape, order, border, 9, scaling)
    assert_array_equal(out, expected)


@given(image_dtypes, sides, sides, borders, seeds)
def test_pixel_centres_are_exact(dtype, height, width, border, seed):
    """Points on pixel centres have exact values, also beside points between them."""
    image = random_image(dtype, (height, width), seed, most=2**40)
    half = np.array([[0.5, 0, 0], [0, 0.5, 0]])
    shape = 2 * height - 1, 2 * width - 1
    out = warped(image, (half, NO_CONTROL, 1.0, IDENTITY), shape, 1, border)
    assert_array_equal(out[::2, ::2], image.astype(np.float32))


@given(image_dtypes, sides, sides, sides, affines(), seeds)
@examples(30)
def test_the_code_for_rare_things_changes_nothing(
    dtype, height, width, side, outer, seed
):
    """Images that need no displacements come out alike with the code for them."""
    image = random_image(dtype, (height, width), seed)
    mapping = outer, NO_CONTROL, 1.0, IDENTITY
    for order, border in np.ndindex(2, 2):
        one = warped(image, mapping, (side, side), order, border)
        other = warped(image, mapping, (side, side), order, border, always=True)
        assert_array_equal(one, other)


@given(mask_dtypes, sides, sides, sides, sides, mappings(), seeds)
def test_masks_take_the_nearest(dtype, H, W, h, w, mapping, seed):
    """Every pixel of a mask comes from the nearest pixel, or is 0 outside."""
    bits = np.random.default_rng(seed).bytes(H * W * np.dtype(dtype).itemsize)
    mask = np.frombuffer(bits, dtype).reshape(H, W)
    out = np.full((h, w), 77, dtype)
    warp_mask(mask, mapping, out)
    numbers = np.arange(1, H * W + 1).reshape(H, W)
    nearest, doubtful = resample(numbers, mapping, (h, w), 0, "constant")
    chosen = np.concatenate([[0], mask.ravel()])[np.nan_to_num(nearest).astype(int)]
    assert_array_equal(np.where(doubtful, 0, out), np.where(doubtful, 0, chosen))


@given(arrays("<u2", st.tuples(sides, sides)), orders, borders)
def test_quarter_turns_are_exact(image, order, border):
    """A quarter turn is exactly np.rot90, and four of them give the same image."""
    turned = image
    for _ in range(4):
        height, width = turned.shape
        quarter = np.array([[0.0, -1, width - 1], [1, 0, 0]])
        out = warped(
            turned, (quarter, NO_CONTROL, 1.0, IDENTITY), (width, height), order, 0
        )
        assert_array_equal(out, np.rot90(turned))
        turned = out.astype("<u2")
    assert_array_equal(turned, image)


@given(st.sampled_from([1, 2, 4, 8]), orders)
def test_a_half_turn_keeps_the_outermost_pixels(scale, order):
    """Points that rounding moves outside the image show the outermost pixels."""
    image = random_image("u2", (9, 11), scale, most=99)
    half = product(rotation(0, 1, (5, 4)), rotation(180, 1), rotation(0, 1, (-5, -4)))
    out = warped(image, (half, NO_CONTROL, 1.0, IDENTITY), image.shape, order, 0)
    assert_allclose(out, image[::-1, ::-1], atol=0.01)
    labels = image.astype("u1")
    mask = np.empty_like(labels)
    warp_mask(labels, (half, NO_CONTROL, 1.0, IDENTITY), mask)
    assert_array_equal(mask, labels[::-1, ::-1])


@given(affines(reach=5), affines(reach=5))
@examples(30)
def test_one_mapping_equals_the_sequence(first, second):
    """On a smooth image, one composed mapping gives the same as two in sequence."""
    height, width = 40, 50
    y, x = np.mgrid[:height, :width]
    smooth = np.sin(x / 9) * np.cos(y / 7)
    image = np.rint(1e6 * smooth).astype(np.int32)
    once = warped(
        image, (first, NO_CONTROL, 1.0, second), (height, width), 3, 0, np.nan
    )
    points = output_to_image(
        (first, NO_CONTROL, 1.0, second), pixel_centres(once.shape)
    )
    exact = 1e6 * np.sin(points[:, 0] / 9) * np.cos(points[:, 1] / 7)
    inside = ((points > 4) & (points < [width - 5, height - 5])).all(axis=1)
    middle = warped(image, (second, NO_CONTROL, 1.0, IDENTITY), (height, width), 3, 1)
    twice = warped(
        np.rint(middle).astype(np.int32),
        (first, NO_CONTROL, 1.0, IDENTITY), (height, width), 3, 1,
    )  # fmt: skip
    between = output_to_image(
        (first, NO_CONTROL, 1.0, IDENTITY), pixel_centres(once.shape)
    )
    inside &= ((between > 4) & (between < [width - 5, height - 5])).all(axis=1)
    # The image in between may be rough where it shows the outside of the first image.
    for dx, dy in np.ndindex(9, 9):
        near = output_to_image(
            (second, NO_CONTROL, 1.0, IDENTITY), between + [dx - 4, dy - 4]
        )
        inside &= ((near > 0) & (near < [width - 1, height - 1])).all(axis=1)
    assert_allclose(once.ravel()[inside], exact[inside], atol=1e3)
    # Steps of up to 2.5 * sqrt(1.6) pixels, a third of a radian of the sines.
    assert_allclose(once.ravel()[inside], twice.ravel()[inside], atol=6e3)


@given(seeds, borders)
def test_values_are_scaled_but_fill_is_not(seed, border):
    """shift, gain and limits change the values of the image, but not `fill`."""
    image = random_image("i4", (12, 9), seed)
    mapping = rotation(30, 1.3, (-4, 2)), NO_CONTROL, 1.0, IDENTITY
    unscaled = warped(image, mapping, (20, 20), 1, border, fill=np.nan)
    scaling = F(100), F(0.01), F(-50), F(60)
    out = warped(image, mapping, (20, 20), 1, border, 1e9, scaling)
    scaled = np.clip((unscaled - scaling[0]) * scaling[1], scaling[2], scaling[3])
    expected = np.where(np.isnan(unscaled), F(1e9), scaled)
    assert_array_equal(out, expected)


@given(mappings(straight=False), st.floats(-90, 90), st.floats(-90, 90))
def test_displacements_equal_the_definition(mapping, x, y):
    """Displacements are sums of B-splines; derivatives are limits of differences."""
    _, control, spacing, _ = mapping
    given = spline.Displacement(control, spacing)
    actual = spline.differentiate_point(given, x, y)
    expected = displacement(control, spacing, np.array([[x, y]]))[0]
    assert_allclose(actual[:2], expected, atol=1e-9)
    assert_array_equal(actual[:2], spline.displace_point(given, x, y))
    step = 1e-4 * spacing
    for k, (dx, dy) in enumerate([(step, 0), (0, step)]):
        after = spline.displace_point(given, x + dx, y + dy)
        before = spline.displace_point(given, x - dx, y - dy)
        slope = (np.array(after) - before) / (2 * step)
        assert_allclose([actual[2 + k], actual[4 + k]], slope, atol=1e-5)


@pytest.mark.parametrize("border", [0, 1, 2])
@pytest.mark.parametrize("shape", [(30, 41), (1, 9), (16, 1), (3, 2)])
def test_coefficients_reproduce_the_pixels(border, shape):
    """At the pixels, the spline of the coefficients has the pixels' values."""
    image = read_only(random_image("u2", shape, 1))
    actual = spline.spline_coefficients(image, 0, shape[0], 0, shape[1], border, 2)
    kernel = np.outer([1, 4, 1], [1, 4, 1]) / 36
    values = ndimage.convolve(actual.astype(float), kernel)[2:-2, 2:-2]
    assert_allclose(values, image, atol=1e-6 * 30000)
