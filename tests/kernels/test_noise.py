"""Noise: Philox compared with published answers, normal numbers by statistics.

Keys are fixed, so a statistic that passes once always passes. Bounds are in standard
errors of the statistic: chance exceeds SIGMAS of them once in 150,000 times.
"""

import math

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from fastseg._kernels.augment import noise
from tests.noise_reference import box_muller, philox

pytestmark = pytest.mark.kernel

SLOW = bool(numba.config.DISABLE_JIT)
SIGMAS = 4.5
# Greatest errors of normal numbers, compared with the formula of Box and Muller in
# float64. Where the radius is near 0, u is near 1, and few digits of 1 - u are left.
ACCURACY, NEAR_ZERO, ACCURACY_NEAR_ZERO = 1e-5, 0.01, 3e-4
SIDE = 64 if SLOW else 256
PLANES = 2 if SLOW else 40

# "philox4x32 ROUNDS" of tests/kat_vectors in Random123 1.14.0: counter, key, answer.
PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
ONES = (0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2
ZEROS = (0,) * 4, (0,) * 2
PUBLISHED = {
    7: [
        (*ZEROS, (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)),
        (*ONES, (0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662)),
        (*PI, (0x4DFCCABA, 0x190A87F0, 0xC47362BA, 0xB6B5242A)),
    ],
    10: [
        (*ZEROS, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (*ONES, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (*PI, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ],
}

word = st.integers(0, 2**32 - 1)
long_word = st.integers(0, 2**64 - 1)


def words(block, key0, key1, stream):
    """Return the words of the kernel, int64 (BLOCKS, 4)."""
    out = np.full((4, noise.BLOCKS), 77, np.uint32)
    noise.fill_words(
        np.uint64(block), np.uint64(key0), np.uint64(key1), np.uint32(stream), out
    )
    return out.T.astype(np.int64)


def normals(key0=0, key1=0, stream=0, shape=(SIDE, SIDE)):
    """Return the normal numbers that `add_gaussian` adds to a plane."""
    plane = np.zeros(shape, np.float32)
    key = np.uint64(key0), np.uint64(key1), np.uint32(stream)
    noise.add_gaussian(plane, np.float32(1), *key)
    return plane


def assert_close(actual, expected):
    """Check a pair of numbers with that of the formula."""
    near = math.hypot(*expected) < NEAR_ZERO
    tolerance = ACCURACY_NEAR_ZERO if near else ACCURACY
    assert_allclose(actual, expected, rtol=0, atol=tolerance)


def z_score(statistic, expected, variance, count):
    """Return the error of a mean of count values, in standard errors."""
    return abs(statistic - expected) / math.sqrt(variance / count)


@pytest.fixture(scope="module")
def many():
    """float64 (PLANES, SIDE, SIDE): planes of neighbouring keys."""
    return np.array([normals(2026, sample) for sample in range(PLANES)], np.float64)


@pytest.mark.parametrize("rounds", PUBLISHED)
def test_the_reference_gives_published_answers(rounds):
    """The reference is Philox4x32."""
    for counter, key, answer in PUBLISHED[rounds]:
        assert philox(counter, key, rounds) == answer


def test_the_kernel_gives_published_answers():
    """The kernel is Philox4x32 with the number of rounds that it states."""
    for counter, key, answer in PUBLISHED[noise.ROUNDS]:
        (block, stream, low, high), (k0, k1) = counter, key
        actual = words(block, k1 << 32 | k0, high << 32 | low, stream)
        assert tuple(actual[0]) == answer


@given(st.integers(0, 2**32 - noise.BLOCKS), long_word, long_word, word)
@settings(max_examples=5 if SLOW else 50)
def test_all_blocks_equal_the_reference(block, key0, key1, stream):
    """All blocks have the reference's words, for the key and counter of the docs."""
    actual = words(block, key0, key1, stream)
    key = key0 % 2**32, key0 >> 32
    for j in range(noise.BLOCKS):
        counter = (block + j, stream, key1 % 2**32, key1 >> 32)
        assert tuple(actual[j]) == philox(counter, key, noise.ROUNDS)


@given(word, word)
def test_pairs_are_box_and_muller(first, second):
    """A pair of words gives the numbers of the formula to the stated accuracy."""
    actual = noise.normal_pair(np.uint32(first), np.uint32(second))
    assert_close(actual, box_muller(first, second))


def test_pairs_at_the_ends():
    """The least words give 6.66 deviations, the greatest give 0, none is infinite."""
    for first in (0, 1, 2, 3, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1):
        for second in (0, 1, 2, 3, 2**31 - 1, 2**31, 2**32 - 1):
            actual = noise.normal_pair(np.uint32(first), np.uint32(second))
            assert_close(actual, box_muller(first, second))
    greatest = max(noise.normal_pair(np.uint32(0), np.uint32(0)))
    assert greatest == pytest.approx(6.66, abs=0.005)
    assert noise.normal_pair(np.uint32(2**32 - 1), np.uint32(6)) == (0, 0)


def test_accuracy_holds_for_many_words():
    """Every number of a block of pixels has the stated accuracy."""
    actual = normals(3, 4, 5, shape=(1, noise.PIXELS))[0]
    reference = words(0, 3, 4, 5)
    # Axes: half of a pair, pair of a block, block.
    actual = actual.reshape(2, 2, noise.BLOCKS)
    for block, row in enumerate(reference.tolist()):
        assert_close(actual[:, 0, block], box_muller(*row[:2]))
        assert_close(actual[:, 1, block], box_muller(*row[2:]))


def test_moments(many):
    """Mean, variance, skewness and kurtosis are those of the normal distribution."""
    n = many.size
    assert z_score(many.mean(), 0, 1, n) < SIGMAS
    assert z_score((many**2).mean(), 1, 2, n) < SIGMAS
    assert z_score((many**3).mean(), 0, 15, n) < SIGMAS
    assert z_score((many**4).mean(), 3, 96, n) < SIGMAS


def test_each_plane_has_the_mean_and_variance(many):
    """The planes' means and variances scatter as those of normal numbers do."""
    n = many[0].size
    means = many.mean(axis=(1, 2)) * math.sqrt(n)
    squares = ((many**2).mean(axis=(1, 2)) - 1) * math.sqrt(n / 2)
    for scores in (means, squares):
        assert np.abs(scores).max() < SIGMAS
        assert 1e-3 < stats.chi2.cdf((scores**2).sum(), len(scores)) < 0.999


def test_distribution(many):
    """The Kolmogorov-Smirnov test finds no difference from the normal distribution."""
    assert stats.kstest(many.ravel(), "norm").pvalue > 0.01


def test_tails(many):
    """On each side, the numbers beyond 2, 3, 4 and 4.5 deviations are as expected."""
    for limit in (2, 3, 4, 4.5):
        fraction = stats.norm.sf(limit)
        for side in (many, -many):
            expected = fraction * many.size
            actual = np.count_nonzero(side > limit)
            assert abs(actual - expected) < SIGMAS * math.sqrt(expected) + 1
    if not SLOW:
        assert np.abs(many).max() > 5


# The other half of a pair is 2 * BLOCKS pixels away: two rows of 256.
LAGS = [(0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (4, 0), (0, 8), (3, 5), (8, 0)]


@pytest.mark.parametrize("lag", LAGS)
def test_neighbours_are_uncorrelated(many, lag):
    """Values and squares of pixels do not correlate with those of their neighbours."""
    shifted = np.roll(many, lag, axis=(1, 2))
    n = many.size
    assert z_score((many * shifted).mean(), 0, 1, n) < SIGMAS
    squares = (many**2 - 1) * (shifted**2 - 1)
    assert z_score(squares.mean(), 0, 4, n) < SIGMAS


BITS = [(argument, bit) for argument in (0, 1) for bit in (0, 1, 31, 32, 63)]
BITS += [(2, bit) for bit in (0, 1, 31)]  # a stream has 32 bits


@pytest.mark.parametrize(("argument", "bit"), BITS)
def test_keys_are_uncorrelated(argument, bit):
    """Two keys that differ in one bit give numbers that do not correlate."""
    key = [12, 34, 56]
    one = normals(*key).astype(float)
    key[argument] ^= 1 << bit
    other = normals(*key).astype(float)
    n = one.size
    for shift in (0, 1, SIDE, -1):
        shifted = np.roll(other.ravel(), shift).reshape(one.shape)
        assert z_score((one * shifted).mean(), 0, 1, n) < SIGMAS
        assert z_score(((one**2 - 1) * (shifted**2 - 1)).mean(), 0, 4, n) < SIGMAS


def test_samples_are_uncorrelated(many):
    """Correlations of all pairs of samples scatter as those of random numbers do."""
    flat = many.reshape(PLANES, -1)
    scores = (flat @ flat.T / math.sqrt(flat.shape[1]))[np.triu_indices(PLANES, 1)]
    assert np.abs(scores).max() < SIGMAS + 0.5
    assert 1e-3 < stats.chi2.cdf((scores**2).sum(), len(scores)) < 0.999


def test_swapped_keys_differ():
    """Swapping key0, key1 and stream gives other numbers: they are not summed."""
    keys = [(0, 1, 2), (1, 0, 2), (0, 2, 1), (2, 1, 0), (1, 2, 0), (2, 0, 1), (3, 0, 0)]
    planes = {normals(*key, shape=(3, 4)).tobytes() for key in keys}
    assert len(planes) == len(keys)


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 3))
@settings(max_examples=5 if SLOW else 50)
def test_numbers_depend_on_the_flat_index(height, width, key):
    """A plane of any shape gets the first numbers of a long plane."""
    long = normals(key, shape=(1, 2400))[0]
    actual = normals(key, shape=(height, width))
    assert_array_equal(actual.ravel(), long[: height * width])


@given(st.floats(0, 100, width=32), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=5 if SLOW else 50)
def test_noise_is_scaled_and_added(std, height, width):
    """Each value becomes value + std * normal; a std of 0 changes nothing."""
    plane = np.arange(height * width, dtype=np.float32).reshape(height, width)
    expected = plane + np.float32(std) * normals(7, 8, 9, shape=plane.shape)
    noise.add_gaussian(plane, np.float32(std), np.uint64(7), np.uint64(8), np.uint32(9))
    assert_array_equal(plane, expected)


def rician(plane, std, floor, key0=1, key1=2, stream=3):
    out = plane.copy()
    key = np.uint64(key0), np.uint64(key1), np.uint32(stream)
    noise.add_rician(out, np.float32(std), np.float32(floor), *key)
    return out


@given(st.integers(1, 30), st.integers(1, 40), st.floats(0, 3), st.floats(-2, 2))
@settings(max_examples=5 if SLOW else 50)
def test_rician_is_the_magnitude(height, width, std, floor):
    """Each pixel is the length of (m + std n1, std n2), with its own pair n1, n2."""
    std, floor = float(np.float32(std)), float(np.float32(floor))
    plane = np.linspace(-2, 4, height * width, dtype=np.float32).reshape(height, width)
    half = noise.PIXELS // 2
    blocks = -(-plane.size // half)
    numbers = normals(1, 2, 3, shape=(blocks, 2, half)).astype(float)
    real, imaginary = (numbers[:, k].ravel()[: plane.size] for k in (0, 1))
    m = plane.ravel() - floor
    expected = floor + np.hypot(m + std * real, std * imaginary)
    actual = rician(plane, std, floor).ravel()
    assert_allclose(actual, expected, rtol=1e-6, atol=3e-6)
    assert (actual >= np.float32(floor)).all()


def test_rician_without_signal_is_rayleigh():
    """Where there is no signal, the noise is Rayleigh-distributed."""
    plane = np.full((SIDE, SIDE), -1.5, np.float32)
    actual = rician(plane, 0.25, -1.5).astype(float) + 1.5
    assert stats.kstest(actual.ravel(), "rayleigh", args=(0, 0.25)).pvalue > 0.01


@pytest.mark.parametrize("m", [0.5, 2.0, -2.0])
def test_rician_is_rice_distributed(m):
    """Values are Rice-distributed; a negative signal counts by its magnitude."""
    plane = np.full((SIDE, SIDE), m - 1, np.float32)
    actual = rician(plane, 0.5, -1).astype(float) + 1
    expected = stats.rice(abs(m) / 0.5, scale=0.5)
    assert stats.kstest(actual.ravel(), expected.cdf).pvalue > 0.01


def test_rician_without_noise_folds():
    """With std 0, values below the floor are mirrored above it, and others stay."""
    plane = np.array([[-3, -1, 0, 2]], np.float32)
    assert rician(plane, 0, -1).tolist() == [[1, -1, 0, 2]]


def test_rician_pixels_are_uncorrelated():
    """The magnitudes of neighbouring pixels do not correlate."""
    actual = rician(np.zeros((SIDE, SIDE), np.float32), 1, 0).astype(float)
    scores = actual - math.sqrt(math.pi / 2)
    variance = (2 - math.pi / 2) ** 2
    for lag in LAGS:
        shifted = np.roll(scores, lag, axis=(0, 1))
        assert z_score((scores * shifted).mean(), 0, variance, actual.size) < SIGMAS
