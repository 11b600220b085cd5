"""Patches of several slices, compared with the same slices one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from fastseg._kernels.augment import batch, intensity
from fastseg._kernels.augment.intensity import PARAMETERS, Steps
from fastseg._kernels.augment.mapping import Affines, Displacements
from fastseg._kernels.augment.noise import Keys
from fastseg._kernels.augment.warp import CUBIC, REFLECT, Sampling
from fastseg._kernels.images.gather import ELSEWHERE, OUTSIDE
from tests.warp_reference import mappings, seeds

pytestmark = pytest.mark.kernel

F = np.float32
STACK = 5
SHAPE = (9, 7)
LIMITS = (-200.0, 300.0)
FILL = 77
KEY = 11
# (code, parameters) of steps that look at single values, range or mean of a patch, and
# of those that look at each plane.
OF_PATCHES = [
    (intensity.BRIGHTNESS, [1.25, 0.5]),
    (intensity.CONTRAST, [1.5, 1]),
    (intensity.GAMMA, [1.4, 1, 1]),
    (intensity.GAMMA, [0.7, 0, 0]),
    (intensity.GAUSSIAN, [0.1]),
    (intensity.RICIAN, [0.2, -2]),
]
OF_PLANES = [
    (intensity.BIAS_FIELD, [-2, *np.linspace(-0.5, 0.4, 10)]),
    (intensity.BLUR, [0.8]),
    (intensity.LOW_RESOLUTION, [0.6]),
]
rows_of_stack = st.integers(0, STACK - 1) | st.just(OUTSIDE)


def steps_of(steps, count=1):
    """Return Steps for `count` samples, the same for each."""
    params = np.full((count, len(steps), PARAMETERS), np.nan)
    for k, (_, parameters) in enumerate(steps):
        params[:, k, : len(parameters)] = parameters
    codes = np.array([[code for code, _ in steps]] * count, np.int64)
    return Steps(codes.reshape(count, len(steps)), params, 3)


def keys_of(count=1):
    """Return Keys of `count` samples."""
    return Keys(KEY, np.arange(count, dtype=np.uint64))


def mapped(mapping, count):
    """Return a mapping for the kernels, the same for each of `count` samples."""
    outer, control, spacing, inner = mapping
    affines = Affines(*(np.array([m] * count, float) for m in (outer, inner)))
    controls = np.array([control] * count, float)
    return affines, Displacements(controls, float(spacing))


def augment(
    images, rows, weights, mapping, sampling=(1, 0), steps=(), shape=SHAPE,
    streams=False,
):  # fmt: skip
    """Return patches of a stack, float32 (b, d, h, w), written to cells full of 9.

    rows, weights : lists, see `PatchSlices`; row k is scaled by k and 1 + k
    """
    rows = np.array(rows, np.int64)
    b, d, _ = rows.shape
    out = np.full((b, d, *shape), 9, F)
    shift, gain = rows.astype(F), (1 + np.abs(rows)).astype(F)
    several = rows.shape[1] > 1
    (batch.augment_patches if several else batch.augment_images)(
        images,
        batch.PatchSlices(rows, np.array(weights, F).reshape(b, d)),
        *mapped(mapping, b),
        Sampling(*sampling),
        batch.Scalings(shift, gain, np.full(rows.shape, FILL, F), *LIMITS),
        steps_of(steps, b),
        keys_of(b),
        streams,
        out,
    )
    return out


def some_images(seed, shape=(8, 10)):
    """Return a stack of random images."""
    random = np.random.default_rng(seed)
    return random.integers(-100, 100, (STACK, *shape), np.int16)


@settings(max_examples=60)
@given(
    seeds, mappings(), st.sampled_from([0, 1, CUBIC]), st.sampled_from([0, 1, REFLECT]),
    st.lists(rows_of_stack, min_size=1, max_size=12),
    st.sampled_from([(8, 10), (5, 7), (23, 37)]),
)  # fmt: skip
def test_slices_of_a_patch_equal_single_images(
    seed, mapping, order, border, rows, shape
):  # fmt: skip
    """Each slice of a patch has the bits of that image alone, or is full of `fill`."""
    images, sampling = some_images(seed, shape), (order, border)
    stacked = [[row] for row in rows]
    actual = augment(images, [stacked], [0] * len(rows), mapping, sampling)[0]
    alone = augment(
        images, [[row] for row in stacked], [0] * len(rows), mapping, sampling
    )
    assert_array_equal(actual, alone[:, 0])
    assert_array_equal(actual[np.array(rows) == OUTSIDE], FILL)


@settings(max_examples=60)
@given(
    seeds, mappings(),
    st.lists(
        st.tuples(rows_of_stack, rows_of_stack, st.sampled_from([0, 0.25, 0.5, 1])),
        min_size=1, max_size=8,
    ),
)  # fmt: skip
def test_slices_are_interpolated_between_two_warped_ones(seed, mapping, slices):
    """A slice is (1 - weight) times one warped slice plus weight times the other."""
    images = some_images(seed)
    pairs = [pair[:2] for pair in slices]
    weights = np.array([weight for _, _, weight in slices], F)
    actual = augment(images, [pairs], weights, mapping)[0]
    near, far = (
        augment(images, [[[row]] for row in column], [0] * len(pairs), mapping)[:, 0]
        for column in zip(*pairs, strict=True)
    )
    along = weights[:, None, None].astype(float)
    assert_allclose(actual, (1 - along) * near + along * far, rtol=0, atol=1e-4)
    assert_array_equal(actual[weights == 0], near[weights == 0])


@given(seeds)
@settings(max_examples=10)
def test_patches_of_other_stacks_are_left_alone(seed):
    """A patch that is ELSEWHERE keeps its old cells; its neighbours are written."""
    images = some_images(seed)
    mapping = (np.eye(2, 3), np.empty((0, 0, 2)), 1.0, np.eye(2, 3))
    elsewhere = [[ELSEWHERE]] * 2
    actual = augment(
        images, [[[1], [2]], elsewhere, [[3], [0]]], [[0] * 2] * 3, mapping
    )
    alone = augment(images, [[[1], [2]], [[3], [0]]], [[0] * 2] * 2, mapping)
    assert_array_equal(
        actual, np.stack([alone[0], np.full((2, *SHAPE), 9, F), alone[1]])
    )


def changed(patches, steps):
    """Return a copy of patches (b, d, h, w) after steps."""
    copy = patches.copy()
    batch.apply_intensity_batch(copy, steps_of(steps, len(copy)), keys_of(len(copy)))
    return copy


def test_steps_that_see_no_neighbours_see_the_whole_patch():
    """Range, mean and noise of a patch are those of one plane with the same values."""
    patch = np.random.default_rng(0).normal(size=(1, 4, 6, 5)).astype(F)
    for step in OF_PATCHES:
        actual = changed(patch, [step])
        expected = changed(patch.reshape(1, 1, 24, 5), [step])
        assert_array_equal(actual, expected.reshape(patch.shape))


def test_noise_differs_from_slice_to_slice():
    """No voxel of a patch gets the noise of another."""
    for code in (intensity.GAUSSIAN, intensity.RICIAN):
        actual = changed(np.full((1, 4, 6, 5), 3, F), [(code, [0.5, 0])])
        assert len(np.unique(actual, return_index=True)[0]) == actual.size


def test_steps_that_see_neighbours_change_each_slice_alone():
    """Blur, resolution and bias field of a patch are those of each of its slices."""
    patch = np.random.default_rng(1).normal(size=(1, 4, 9, 7)).astype(F)
    for step in OF_PLANES:
        slices = np.concatenate(
            [changed(patch[:, k : k + 1], [step]) for k in range(4)]
        )
        assert_array_equal(changed(patch, [step])[0], slices[:, 0])


@settings(max_examples=30)
@given(
    seeds, mappings(), st.lists(st.sampled_from([*OF_PATCHES, *OF_PLANES]), max_size=4)
)
def test_patches_are_warped_and_then_changed(seed, mapping, steps):
    """One call does the same as warping, and then the steps."""
    images = some_images(seed)
    rows, weights = [[[2, 3], [3, 4], [0, 1]]] * 2, [[0.5, 0.25, 0]] * 2
    actual = augment(images, rows, weights, mapping, steps=steps)
    expected = changed(augment(images, rows, weights, mapping), steps)
    assert_array_equal(actual, expected)


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (33, 47), (32, 64)])
def test_steps_may_be_done_while_values_are_written(shape, streams):
    """A gamma and noise at the end give what they give in a pass of their own."""
    images = np.random.default_rng(2).integers(-100, 100, (1, *shape), np.int16)
    mapping = (np.eye(2, 3), np.empty((0, 0, 2)), 1.0, np.eye(2, 3))
    curve, noise = (intensity.GAMMA, [0.7, 1, 0]), (intensity.GAUSSIAN, [0.5])
    skipped = (-1, [])
    plain = augment(images, [[[0]]], [0], mapping, shape=shape)
    for steps in ([curve], [noise], [curve, skipped, noise, skipped]):
        actual = augment(
            images, [[[0]]], [0], mapping, steps=steps, shape=shape, streams=streams
        )
        assert_array_equal(actual, changed(plain, steps))
