"""Intensity steps, compared with numpy and scipy."""

import zlib

import numba
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from fastseg._kernels.augment import batch, intensity, noise
from tests.intensity_reference import (
    bias_reference,
    contrast_reference,
    gamma_reference,
    lower_reference,
)

pytestmark = pytest.mark.kernel

SLOW = bool(numba.config.DISABLE_JIT)
FEW = settings(max_examples=10 if SLOW else 100)
# Some roundings of float32 values near 1, where float32 has steps of 1.2e-7.
ROUNDING = 1e-6
# Relative errors that the docstrings promise.
POWER_ERROR, EXP_ERROR = 1e-6, 2e-7

values = st.floats(-8, 8, width=32)
shapes = st.tuples(st.integers(1, 12), st.integers(1, 20))
planes = arrays(np.float32, shapes, elements=values)
KEY = np.uint64(1), np.uint64(2), np.uint32(3)


def F(value):
    return np.float32(value)


def changed(kernel, plane, *arguments):
    """Return a copy of a plane, changed by a kernel."""
    out = plane.copy()
    kernel(out, *arguments)
    assert out.dtype == np.float32
    return out


def test_powers_to_the_stated_precision():
    """base**gamma has a relative error below 1e-6 over the range of float32."""
    rng = np.random.default_rng(1)
    count = 100 if SLOW else 5000
    bases = np.concatenate(
        [
            np.geomspace(2.0**-126, 1, count),
            rng.uniform(0.5, 1, count),
            1 - np.geomspace(2.0**-24, 0.3, count),
            2.0 ** np.arange(-126, 25),
            np.sqrt(0.5) * 2.0 ** np.arange(-125, 25),
            [1, 1 + 2.0**-23, 1e7],
        ]
    ).astype(np.float32)
    for gamma in (0.05, 0.5, 2 / 3, 0.7, 1.0, 1.5, 1.9999, 2.0, np.pi, 5.0):
        high, low = map(np.float32, intensity.split_exponent(gamma))
        assert float(high) + float(low) == pytest.approx(gamma, rel=1e-10)
        assert int(high.view(np.int32)) % 2**12 == 0
        actual = np.array([intensity.power(base, high, low) for base in bases])
        expected = bases.astype(float) ** gamma
        fits = (expected > 2.0**-125) & (expected < 2.0**126)
        error = np.abs(actual / expected - 1)[fits]
        assert error.max() < POWER_ERROR
        assert (actual[expected <= 2.0**-125] <= 2.0**-124).all()
        assert (actual >= 0).all()


def test_powers_at_the_ends():
    """0, negative and subnormal bases give 0, and 1 gives exactly 1."""
    for gamma in (0.05, 0.7, 1.0, 3.0, 5.0):
        high, low = map(np.float32, intensity.split_exponent(gamma))
        for base in (0.0, -0.0, -1.0, 1e-45, 1e-39):
            assert intensity.power(F(base), high, low) == 0
        assert intensity.power(F(1), high, low) == 1


def test_exponentials_to_the_stated_precision():
    """2**x has a relative error below 2e-7 if x is exact."""
    steps = np.arange(-125 * 64, 126 * 64, 37 if SLOW else 1) / 64
    for x in steps.astype(np.float32):
        shifted = x + intensity.ROUNDER
        f = x - (shifted - intensity.ROUNDER)
        assert abs(f) <= 0.5
        actual = float(intensity.scaled_power(shifted, f))
        assert abs(actual / 2.0 ** float(x) - 1) < EXP_ERROR
    assert intensity.scaled_power(intensity.ROUNDER, F(0)) == 1


@given(planes)
@FEW
def test_range_and_moments(plane):
    """The range is exact, and mean and deviation equal those in float64."""
    low, high = intensity.find_range(plane)
    assert (low, high) == (plane.min(), plane.max())
    mean, deviation = intensity.find_mean_and_deviation(plane)
    for actual in (mean, intensity.find_mean(plane)):
        assert actual == pytest.approx(plane.astype(float).mean(), rel=1e-12, abs=1e-12)
    assert deviation == pytest.approx(plane.astype(float).std(), rel=1e-9, abs=1e-12)


def test_moments_of_more_values_than_lanes():
    """A plane of more than LANES values is summed to its end."""
    plane = np.random.default_rng(1).normal(3, 1, (7, 113)).astype(np.float32)
    exact = plane.astype(float)
    assert intensity.find_mean(plane) == pytest.approx(exact.mean())
    actual = intensity.find_mean_and_deviation(plane)
    assert actual == pytest.approx((exact.mean(), exact.std()))


def test_a_small_deviation_beside_a_large_mean():
    """The deviation of values close to a large mean keeps its digits."""
    plane = np.full((64, 64), 3000, np.float32)
    plane[5:9] += np.float32(2**-11)
    exact = plane.astype(float).std()
    _, deviation = intensity.find_mean_and_deviation(plane)
    assert deviation == pytest.approx(exact, rel=1e-9)


@given(planes, values, values)
@FEW
def test_brightness(plane, multiply, add):
    """Each value becomes value * multiply + add, rounded twice."""
    actual = changed(intensity.apply_brightness, plane, F(multiply), F(add))
    assert_array_equal(actual, plane * F(multiply) + F(add))


@given(planes, st.floats(0, 4), st.booleans())
@FEW
def test_contrast(plane, factor, preserve_range):
    """Differences from the mean are multiplied; preserve_range keeps the range."""
    actual = changed(intensity.apply_contrast, plane, F(factor), preserve_range)
    expected = contrast_reference(plane, factor, preserve_range)
    if preserve_range:
        assert actual.min() >= plane.min()
        assert actual.max() <= plane.max()
    assert_allclose(actual, expected, rtol=0, atol=40 * ROUNDING)


@given(planes, st.booleans())
@FEW
def test_contrast_of_one_changes_nothing(plane, preserve_range):
    """Factor 1 changes no bit."""
    actual = changed(intensity.apply_contrast, plane, F(1), preserve_range)
    assert_array_equal(actual, plane)


def apply_gamma(plane, gamma, invert=False, keep_stats=False):
    limits = intensity.find_range(plane)
    return changed(intensity.apply_gamma, plane, gamma, *limits, invert, keep_stats)


# Multiples of 1/1024: the precision is stated for values, not for their differences.
steps = st.integers(-8192, 8192).map(lambda k: k / 1024)
stepped = arrays(np.float32, shapes, elements=steps)


@given(stepped, st.floats(0.3, 3), st.booleans())
@FEW
def test_gamma(plane, gamma, invert):
    """Values equal batchgenerators' formula, inverted or not."""
    actual = apply_gamma(plane, gamma, invert)
    expected = gamma_reference(plane, gamma, invert, False)
    assert_allclose(actual, expected, rtol=0, atol=40 * ROUNDING)


@given(stepped, st.floats(0.5, 2), st.booleans())
@FEW
def test_gamma_that_keeps_statistics(plane, gamma, invert):
    """keep_stats keeps mean and deviation, and values equal the formula."""
    actual = apply_gamma(plane, gamma, invert, True)
    expected = gamma_reference(plane, gamma, invert, True)
    assert_allclose(actual, expected, rtol=0, atol=200 * ROUNDING)
    before, after = plane.astype(float), actual.astype(float)
    assert after.mean() == pytest.approx(before.mean(), abs=20 * ROUNDING)
    assert after.std() == pytest.approx(before.std(), abs=20 * ROUNDING)


@given(stepped, st.floats(0.3, 3), st.booleans())
@FEW
def test_inverted_gamma_is_gamma_of_the_negative(plane, gamma, keep_stats):
    """invert negates before and after: bit for bit, unless statistics are kept."""
    one = apply_gamma(plane, gamma, True, keep_stats)
    other = -apply_gamma(-plane, gamma, False, keep_stats)
    assert_allclose(one, other, rtol=0, atol=20 * ROUNDING if keep_stats else 0)


@given(st.floats(0.3, 3), values, st.booleans(), st.booleans())
@FEW
def test_gamma_keeps_a_constant_plane(gamma, value, invert, keep_stats):
    """A plane of one value does not change."""
    plane = np.full((3, 4), value, np.float32)
    assert_array_equal(apply_gamma(plane, gamma, invert, keep_stats), plane)


def test_gamma_keeps_ends_and_order():
    """The ends and the order of values stay, and gamma 1 changes nearly nothing."""
    plane = np.linspace(-2, 3, 401, dtype=np.float32).reshape(1, -1)
    for gamma in (0.4, 1.0, 2.5):
        for invert in (False, True):
            actual = apply_gamma(plane, gamma, invert)[0]
            assert_allclose(actual[[0, -1]], [-2, 3], rtol=0, atol=ROUNDING)
            assert (np.diff(actual) >= 0).all()
    assert_allclose(apply_gamma(plane, 1.0), plane, rtol=0, atol=5 * ROUNDING)
    assert (apply_gamma(plane, 2.0)[0, 1:-1] < plane[0, 1:-1]).all()


coefficients = arrays(float, 10, elements=st.floats(-0.5, 0.5))


@given(planes, st.floats(-3, 3, width=32), coefficients)
@FEW
def test_bias_field(plane, floor, coefficients):
    """The difference from the floor is multiplied by exp of the polynomial."""
    actual = changed(intensity.apply_bias_field, plane, F(floor), coefficients)
    expected = bias_reference(plane, floor, coefficients)
    assert_allclose(actual, expected, rtol=3e-6, atol=1e-5)


@given(planes, st.floats(-3, 3, width=32))
@FEW
def test_no_bias_field_changes_nothing(plane, floor):
    """Coefficients of 0 change no bit."""
    actual = changed(intensity.apply_bias_field, plane, F(floor), np.zeros(10))
    assert_array_equal(actual, plane)


def test_bias_field_axes():
    """The second coefficient brightens the right side, the fifth the lower side."""
    plane, slope = np.ones((5, 7), np.float32), np.zeros(10)
    slope[1] = 1
    right = changed(intensity.apply_bias_field, plane, F(0), slope)
    assert_allclose(right[:, [0, 3, 6]], np.tile(np.exp([-1, 0, 1]), (5, 1)), rtol=1e-6)
    slope[[1, 4]] = 0, 1
    down = changed(intensity.apply_bias_field, plane, F(0), slope)
    assert_allclose(down[[0, 2, 4], 0], np.exp([-1, 0, 1]), rtol=1e-6)


def blurred(plane, sigma):
    scratch = np.full(plane.size, np.nan, np.float32)
    return changed(intensity.blur, plane, sigma, scratch)


@given(planes, st.floats(0, 6))
@example(np.eye(3, dtype=np.float32), 0.125)
@example(np.eye(3, dtype=np.float32), 5.0)
@example(np.ones((1, 1), np.float32), 3.0)
@FEW
def test_blur_equals_scipy(plane, sigma):
    """The blur equals gaussian_filter, also with a Gaussian wider than the plane."""
    actual = blurred(plane, sigma)
    if sigma == 0:
        expected = plane
    else:
        expected = ndimage.gaussian_filter(plane.astype(float), sigma, truncate=4)
    assert_allclose(actual, expected, rtol=0, atol=10 * ROUNDING)


@pytest.mark.parametrize("sigma", [0.3, 0.5, 0.75, 1.0, 1.5, 3.3, 5.0])
def test_blur_of_larger_planes(sigma):
    """The blur equals gaussian_filter for sizes at which vector instructions run."""
    shape = (20, 70) if SLOW else (97, 131)
    plane = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    expected = ndimage.gaussian_filter(plane, sigma, truncate=4)
    assert_allclose(blurred(plane, sigma), expected, rtol=0, atol=2 * ROUNDING)


def test_a_narrow_blur_changes_nothing():
    """A sigma below 1/8 of a pixel changes no bit."""
    plane = np.random.default_rng(2).normal(size=(5, 6)).astype(np.float32)
    for sigma in (0.0, 0.01, 0.1249):
        assert_array_equal(blurred(plane, sigma), plane)


@given(st.floats(-700, 0))
def test_exponential_of_the_weights(x):
    """The exponential for the weights has a relative error below 1e-12."""
    assert intensity.small_exp(x) == pytest.approx(np.exp(x), rel=1e-12)


@given(planes, st.floats(0.01, 1))
@FEW
def test_lower_resolution(plane, factor):
    """Pixels are those of the reference, although the plane is changed in place."""
    actual = changed(intensity.lower_resolution, plane, factor)
    assert_allclose(actual, lower_reference(plane, factor), rtol=0, atol=10 * ROUNDING)


@given(planes)
@FEW
def test_full_resolution_changes_nothing(plane):
    """Factor 1 changes no bit."""
    assert_array_equal(changed(intensity.lower_resolution, plane, 1.0), plane)


def test_lower_resolution_of_a_larger_plane():
    """Pixels are those of the reference where rows are overwritten long after use."""
    plane = np.random.default_rng(3).normal(size=(64, 48)).astype(np.float32)
    for factor in (0.5, 0.51, 0.66, 0.75, 0.9, 0.99):
        actual = changed(intensity.lower_resolution, plane, factor)
        expected = lower_reference(plane, factor)
        assert_allclose(actual, expected, rtol=0, atol=3 * ROUNDING)


# (code, parameters) of each step.
EVERY_STEP = [
    (intensity.BRIGHTNESS, [1.25, 0.5]),
    (intensity.CONTRAST, [1.5, 1]),
    (intensity.CONTRAST, [0.75, 0]),
    (intensity.GAMMA, [0.7, 0, 0]),
    (intensity.GAMMA, [1.4, 1, 1]),
    (intensity.BIAS_FIELD, [-2, *np.linspace(-0.5, 0.4, 10)]),
    (intensity.GAUSSIAN, [0.1]),
    (intensity.RICIAN, [0.2, -2]),
    (intensity.BLUR, [0.8]),
    (intensity.LOW_RESOLUTION, [0.6]),
]


def apply_steps(plane, steps, stream=3):
    """Do steps in place, with the keys of KEY."""
    params = np.full((1, len(steps), intensity.PARAMETERS), np.nan)
    for row, (_, parameters) in zip(params[0], steps, strict=True):
        row[: len(parameters)] = parameters
    codes = np.array([[code for code, _ in steps]], np.int64)
    key0, key1 = (int(key) for key in KEY[:2])
    keys = noise.Keys(key0, np.array([key1], np.uint64))
    batch.apply_intensity_batch(
        plane[None, None], intensity.Steps(codes, params, stream), keys
    )


def apply_alone(plane, code, p, key0, key1, stream):
    """Do one step with its own kernel."""
    scratch = np.empty(plane.size, np.float32)
    if code == intensity.BRIGHTNESS:
        intensity.apply_brightness(plane, F(p[0]), F(p[1]))
    elif code == intensity.CONTRAST:
        intensity.apply_contrast(plane, F(p[0]), bool(p[1]))
    elif code == intensity.GAMMA:
        limits = intensity.find_range(plane)
        intensity.apply_gamma(plane, p[0], *limits, bool(p[1]), bool(p[2]))
    elif code == intensity.BIAS_FIELD:
        intensity.apply_bias_field(plane, F(p[0]), np.array(p[1:]))
    elif code == intensity.GAUSSIAN:
        noise.add_gaussian(plane, F(p[0]), key0, key1, stream)
    elif code == intensity.RICIAN:
        noise.add_rician(plane, F(p[0]), F(p[1]), key0, key1, stream)
    elif code == intensity.BLUR:
        intensity.blur(plane, p[0], scratch)
    else:
        intensity.lower_resolution(plane, p[0])


@given(st.lists(st.sampled_from(range(len(EVERY_STEP))), max_size=6))
@FEW
def test_steps_in_a_row_equal_single_steps(chosen):
    """Steps in one call give bit for bit the same as the kernels of each step."""
    plane = np.random.default_rng(4).normal(size=(9, 14)).astype(np.float32)
    steps = [EVERY_STEP[k] for k in chosen]
    actual = changed(apply_steps, plane, steps)
    expected = plane.copy()
    for k, (code, parameters) in enumerate(steps):
        apply_alone(expected, code, parameters, KEY[0], KEY[1], np.uint32(3 + k))
    assert_array_equal(actual, expected)


@given(st.floats(0, 2), st.floats(-2, 2))
@settings(max_examples=10)
def test_float64_arguments_are_rounded_first(one, other):
    """A kernel gives the same bits for a float64 argument as for float32."""
    plane = np.random.default_rng(5).normal(size=(3, 5)).astype(np.float32)
    for kernel, more in [
        (intensity.apply_brightness, ()),
        (intensity.apply_bias_field, ()),
        (noise.add_rician, KEY),
    ]:
        pair = (one, other)
        if kernel is intensity.apply_bias_field:
            pair, more = (one,), (np.linspace(-0.5, 0.4, 10),)
        double = changed(kernel, plane, *pair, *more)
        single = changed(kernel, plane, *map(F, pair), *more)
        assert_array_equal(double, single)


def test_streams_wrap_around():
    """The stream after 2**32 - 1 is 0."""
    plane = np.zeros((2, 3), np.float32)
    steps = [(intensity.GAUSSIAN, [0.0]), (intensity.GAUSSIAN, [1.0])]
    actual = changed(apply_steps, plane, steps, 2**32 - 1)
    expected = changed(noise.add_gaussian, plane, F(1), *KEY[:2], np.uint32(0))
    assert_array_equal(actual, expected)


# crc32 after each of EVERY_STEP; the same with AVX-512, AVX2, SSE2 (which has no fused
# multiply-add) and without numba.
BITS = [
    922236174, 956818293, 2881888613, 3478896731, 98882791,
    3221734596, 2822050743, 2737614019, 990146131, 609027561,
]  # fmt: skip


def test_every_machine_makes_these_bits():
    """After each step, the plane has the same checksum on every machine."""
    k = np.arange(33 * 47, dtype=np.int64).reshape(33, 47)
    plane = ((k * k % 1009 - 504) / 256).astype(np.float32)
    actual = []
    for step in EVERY_STEP:
        apply_steps(plane, [step])
        actual.append(zlib.crc32(plane.astype("<f4").tobytes()))
    assert actual == BITS
