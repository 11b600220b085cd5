"""Windows cover a volume, and what is predicted for them is joined without a seam."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import fastseg
from fastseg.errors import ArgumentError, OptionError
from tests.series import table_of, write_stack

WEIGHTS = ("gaussian", "mean")


@st.composite
def grids(draw):
    """(shape of a volume, shape of a patch, overlap along each axis)."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 12)))
    patch = draw(st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 8)))
    fraction = st.sampled_from([0, 0.25, 1 / 3, 0.5, 0.75, 0.99])
    return shape, patch, draw(st.tuples(fraction, fraction, fraction))


def values(shape, seed=0, dtype=np.float32):
    """Return random numbers, all of them within the range of int16."""
    return np.random.default_rng(seed).uniform(-1000, 1000, shape).astype(dtype)


def inside(corner, patch, shape):
    """Return the voxels of a window in a volume, and the same voxels in the window."""
    first = [max(start, 0) for start in corner]
    last = [min(c + n, size) for c, n, size in zip(corner, patch, shape, strict=True)]
    return (
        tuple(slice(a, b) for a, b in zip(first, last, strict=True)),
        tuple(slice(a - c, b - c) for a, b, c in zip(first, last, corner, strict=True)),
    )


@given(grids())
def test_every_voxel_is_in_a_window(case):
    """The first window begins with the volume, the last ends with it, without gaps."""
    shape, patch, overlap = case
    windows = fastseg.windows(np.zeros(shape, np.int16), patch, overlap=overlap)
    seen = np.zeros(shape, int)
    for corner, _ in windows:
        seen[inside(corner, patch, shape)[0]] += 1
    assert seen.min() > 0
    ends = [c + n for c, n in zip(windows[-1].corner, patch, strict=True)]
    for axis in range(3):
        if shape[axis] >= patch[axis]:
            assert windows[0].corner[axis] == 0
            assert ends[axis] == shape[axis]


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("size", range(8, 60))
def test_windows_lie_where_those_of_nnunet_do(size, overlap):
    """Steps along an axis are those of its predictor, evenly spread and rounded."""
    length = 8
    target = length * (1 - overlap)
    count = math.ceil((size - length) / target) + 1
    step = (size - length) / (count - 1) if count > 1 else 0
    expected = [round(step * k) for k in range(count)]
    image = np.zeros((1, 1, size), np.int16)
    windows = fastseg.windows(image, (1, 1, length), overlap=overlap)
    assert [window.corner[2] for window in windows] == expected


@given(grids())
def test_neighbours_share_the_overlap(case):
    """A step is never longer than the overlap allows, up to the next whole voxel."""
    shape, patch, overlap = case
    windows = fastseg.windows(np.zeros(shape, np.int16), patch, overlap=overlap)
    for axis in range(3):
        starts = sorted({window.corner[axis] for window in windows})
        longest = math.ceil(patch[axis] * (1 - overlap[axis]) - 1e-9)
        assert np.diff(starts).max(initial=0) <= longest
        assert len(windows) == math.prod(
            len({window.corner[k] for window in windows}) for k in range(3)
        )


def test_rounding_adds_no_window():
    """10 steps of a tenth of the patch are 10, although 1 - 0.9 is less than 0.1."""
    windows = fastseg.windows(np.zeros((1, 1, 20)), (1, 1, 10), overlap=0.9)
    assert [window.corner[2] for window in windows] == [*range(11)]


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_windows_are_views_of_the_image(channels):
    """They show its values, share its memory and cannot change it."""
    image = values((*channels, 6, 9, 12), dtype=np.int16)
    windows = fastseg.windows(image, (4, 5, 6))
    assert windows.channels == (channels[0] if channels else None)
    for (z, y, x), patch in windows:
        assert_array_equal(patch, image[..., z : z + 4, y : y + 5, x : x + 6])
        assert np.shares_memory(patch, image)
        assert not patch.flags.writeable
    assert image.flags.writeable


@given(grids(), st.sampled_from([(), (1,), (2,)]), st.sampled_from(["minimum", -7]))
def test_a_smaller_volume_lies_in_the_middle(case, channels, pad_value):
    """Around it lies the least value of each channel, or a number."""
    shape, patch, overlap = case
    image = values((*channels, *shape), dtype=np.int16)
    least = image.min(axis=(-3, -2, -1), keepdims=True)
    around = least if pad_value == "minimum" else pad_value
    for corner, shown in fastseg.windows(
        image, patch, overlap=overlap, pad_value=pad_value
    ):
        expected = np.zeros((*channels, *patch), np.int16) + around
        voxels, within = inside(corner, patch, shape)
        expected[(..., *within)] = image[(..., *voxels)]
        assert shown.dtype == np.int16
        assert_array_equal(shown, expected)
        for axis in range(3):
            missing = max(patch[axis] - shape[axis], 0)
            assert missing == 0 or corner[axis] == -(missing // 2)


@pytest.mark.parametrize("weights", WEIGHTS)
@given(case=grids(), channels=st.sampled_from([(), (1,), (3,)]))
def test_a_volume_is_what_its_windows_join_to(case, channels, weights):
    """Stitching the windows of an image gives the image, to the rounding of float32."""
    shape, patch, overlap = case
    image = values((*channels, *shape))
    windows = fastseg.windows(image, patch, overlap=overlap)
    joined = fastseg.stitch(windows, (w.patch for w in windows), weights=weights)
    assert joined.dtype == np.float32
    np.testing.assert_allclose(joined, image, rtol=1e-5, atol=0)


@pytest.mark.parametrize("weights", WEIGHTS)
@given(case=grids(), seed=st.integers(0, 9))
def test_one_window_decides_alone(case, seed, weights):
    """A voxel in one window has what was predicted there, bit for bit."""
    shape, patch, overlap = case
    windows = fastseg.windows(np.zeros(shape, np.int16), patch, overlap=overlap)
    bits = np.random.default_rng(seed)
    seen = np.zeros(shape, int)
    expected = np.zeros(shape, np.float32)
    predictions = []
    for corner, _ in windows:
        # Of all magnitudes, from 1e-30 to 1e30.
        prediction = values(patch, seed) * 10.0 ** bits.integers(-30, 28, patch)
        predictions.append(prediction.astype(np.float32))
        voxels, within = inside(corner, patch, shape)
        seen[voxels] += 1
        expected[voxels] = predictions[-1][within]
    joined = fastseg.stitch(windows, predictions, weights=weights)
    assert_array_equal(joined[seen == 1], expected[seen == 1])


def test_without_overlap_both_weights_are_the_mean():
    """Gaussian weights change nothing where no windows overlap."""
    windows = fastseg.windows(np.zeros((4, 10, 9)), (2, 5, 3), overlap=0)
    predictions = values((len(windows), 2, 2, 5, 3))
    gaussian, mean = (
        fastseg.stitch(windows, predictions, weights=weights) for weights in WEIGHTS
    )
    assert len(windows) == 12
    assert_array_equal(gaussian, mean)


@pytest.mark.parametrize("weights", WEIGHTS)
@given(case=grids())
def test_overlaps_are_weighted_means(case, weights):
    """Predictions are joined as sums of weights and products in float64 say."""
    shape, patch, overlap = case
    windows = fastseg.windows(np.zeros(shape, np.int16), patch, overlap=overlap)
    predictions = values((len(windows), 2, *patch))
    z, y, x = (
        np.exp(-(((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) / 2) for n in patch
    )
    importance = z[:, None, None] * y[:, None] * x
    if weights == "mean":
        importance[...] = 1
    total, products = np.zeros(shape), np.zeros((2, *shape))
    for window, prediction in zip(windows, predictions, strict=True):
        voxels, within = inside(window.corner, patch, shape)
        total[voxels] += importance[within]
        products[(..., *voxels)] += (prediction * importance)[(..., *within)]
    joined = fastseg.stitch(windows, predictions, weights=weights)
    np.testing.assert_allclose(joined, products / total, rtol=0, atol=1e-3)


@pytest.mark.parametrize("channels", [(), (2,)])
def test_batches_hold_the_windows_in_order(channels):
    """Each batch is a copy of the next windows, with an axis of channels."""
    image = values((*channels, 5, 9, 4), dtype=np.int16)
    windows = fastseg.windows(image, (2, 4, 6))
    batches = [*windows.batches(5)]
    assert [len(batch) for batch in batches] == [5, 5, 5, 1]
    assert all(batch.flags.writeable for batch in batches)
    assert not any(np.shares_memory(batch, image) for batch in batches)
    patches = [window.patch.reshape(-1, 2, 4, 6) for window in windows]
    assert_array_equal(np.concatenate(batches), patches)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_batches_of_predictions_are_joined_as_single_ones(size):
    """The result does not depend on how many windows are predicted at once."""
    windows = fastseg.windows(values((5, 9, 7)), (2, 4, 3))
    single = fastseg.stitch(windows, (w.patch[None] * 2 for w in windows))
    batches = fastseg.stitch(windows, (batch * 2 for batch in windows.batches(size)))
    assert batches.shape == (1, 5, 9, 7)
    assert_array_equal(batches, single)


def test_tensors_are_joined_as_arrays():
    """Also those that have a gradient, and of dtypes that numpy lacks."""
    torch = pytest.importorskip("torch")
    windows = fastseg.windows(values((5, 9, 7)), (2, 4, 3))
    layer = torch.nn.Conv3d(1, 2, 1)
    tensors = [layer(torch.from_numpy(batch)) for batch in windows.batches(4)]
    joined = fastseg.stitch(windows, tensors)
    arrays = [tensor.detach().numpy() for tensor in tensors]
    assert_array_equal(joined, fastseg.stitch(windows, arrays))
    assert joined.shape == (2, 5, 9, 7)
    short = [tensor.bfloat16() for tensor in tensors]
    same = fastseg.stitch(windows, [tensor.float() for tensor in short])
    assert_array_equal(fastseg.stitch(windows, short), same)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_joined_in_float32(dtype):
    """Half and double precision give a result of single precision."""
    windows = fastseg.windows(np.zeros((3, 4, 5)), (3, 4, 3))
    predictions = values((len(windows), 3, 4, 3), dtype=dtype)
    joined = fastseg.stitch(windows, predictions)
    assert joined.dtype == np.float32
    expected = fastseg.stitch(windows, predictions.astype(np.float32))
    np.testing.assert_allclose(joined, expected, rtol=1e-6)


@pytest.mark.parametrize("compress", [False, True])
def test_windows_of_a_volume_of_a_store(tmp_path, compress):
    """They show its stored values, and stitch back to them."""
    if compress:
        pytest.importorskip("zstandard")
    write_stack(tmp_path / "stack", [7, 4, 1], shape=(5, 9))
    path = tmp_path / "store.h5"
    fastseg.build(table_of(tmp_path), path, compress=compress)
    (volume,) = fastseg.open(path).volumes
    windows = fastseg.windows(volume, (2, 3, 4))
    assert windows.shape == (3, 5, 9) == volume.shape
    joined = fastseg.stitch(windows, (w.patch.astype(np.float32) for w in windows))
    assert volume.image.max() > volume.image.min()
    np.testing.assert_allclose(joined, volume.image, rtol=1e-6)


def test_windows_are_a_sequence():
    """They have a length, are found by number from both ends, and in slices."""
    windows = fastseg.windows(np.zeros((4, 6, 8), np.int16), (2, 3, 4), overlap=0)
    corners = [
        (z, y, x) for z in range(0, 4, 2) for y in range(0, 6, 3) for x in (0, 4)
    ]
    assert len(windows) == 8
    assert [window.corner for window in windows] == corners
    assert [window.corner for window in windows[1:7:2]] == corners[1:7:2]
    assert windows[-1].corner == corners[-1]
    assert windows[np.int64(3)].corner == corners[3]
    with pytest.raises(IndexError, match="window 8 is outside 8 windows"):
        windows[8]
    for index in (True, 1.0, "1", None):
        with pytest.raises(TypeError, match="indexed by one whole number"):
            windows[index]


def test_windows_say_what_they_are():
    """Their number and shape, and those of the image."""
    image = np.zeros((2, 4, 6, 8), np.int16)
    windows = fastseg.windows(image, (2, 3, 4), overlap=0)
    assert repr(windows) == "<Windows: 8 of 2x3x4 in 2 channels 4x6x8 int16>"
    windows = fastseg.windows(image[0], (9, 9, 9))
    assert repr(windows) == "<Windows: 1 of 9x9x9 in 4x6x8 int16>"


def test_what_a_prediction_raises_is_raised():
    """An error of the network ends the call unchanged."""
    windows = fastseg.windows(np.zeros((4, 6, 8)), (2, 3, 4))

    def predict(patch):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fastseg.stitch(windows, (predict(w.patch) for w in windows))


IMAGE = np.zeros((4, 6, 8), np.int16)
PATCH = (2, 3, 4)
BAD_WINDOWS = {
    "a slice": (lambda: fastseg.windows(IMAGE[0], PATCH), r"image has shape \(6, 8\)"),
    "no voxels": (lambda: fastseg.windows(IMAGE[:0], PATCH), r"shape \(0, 6, 8\)"),
    "a path": (lambda: fastseg.windows("heart.h5", PATCH), "image has dtype"),
    "complex": (lambda: fastseg.windows(IMAGE + 1j, PATCH), "image has dtype complex"),
    "masked": (
        lambda: fastseg.windows(np.ma.array(IMAGE, mask=True), PATCH),
        "image has masked values",
    ),
    "one side": (lambda: fastseg.windows(IMAGE, 4), r"patch is 4, expected \(slices"),
    "two sides": (lambda: fastseg.windows(IMAGE, (4, 4)), "patch is"),
    "a set": (lambda: fastseg.windows(IMAGE, {1, 2, 3}), "patch is"),
    "text": (lambda: fastseg.windows(IMAGE, "123"), "patch is '123'"),
    "no side": (lambda: fastseg.windows(IMAGE, (0, 4, 4)), "patch is 0, expected"),
    "half": (lambda: fastseg.windows(IMAGE, (1.5, 4, 4)), "patch is 1.5, expected"),
    "huge": (lambda: fastseg.windows(IMAGE, (2**20,) * 3), "at most 134217728 voxels"),
    "all": (lambda: fastseg.windows(IMAGE, PATCH, overlap=1), "overlap is 1, expected"),
    "negative": (lambda: fastseg.windows(IMAGE, PATCH, overlap=-0.1), "overlap is -0"),
    "NaN": (lambda: fastseg.windows(IMAGE, PATCH, overlap=np.nan), "overlap is nan"),
    "percent": (lambda: fastseg.windows(IMAGE, PATCH, overlap="50%"), "overlap is '50"),
    "two": (lambda: fastseg.windows(IMAGE, PATCH, overlap=(0, 0)), "overlap is"),
    "no order": (lambda: fastseg.windows(IMAGE, PATCH, overlap={0, 0.5, 0.1}), "overl"),
    "low": (
        lambda: fastseg.windows(IMAGE, PATCH, pad_value=-40000),
        "-40000, expected",
    ),
    "fraction": (
        lambda: fastseg.windows(IMAGE, PATCH, pad_value=0.5),
        "value of int16",
    ),
    "bool": (lambda: fastseg.windows(IMAGE > 0, PATCH, pad_value=2), "value of bool"),
    "half float": (
        lambda: fastseg.windows(IMAGE.astype(np.float16), PATCH, pad_value=1e6),
        "value of float16",
    ),
    "mode": (lambda: fastseg.windows(IMAGE, PATCH, pad_value="edge"), "or 'minimum'"),
    "no batch": (lambda: fastseg.windows(IMAGE, PATCH).batches(0), "batch_size is 0"),
}


@pytest.mark.parametrize("name", BAD_WINDOWS)
def test_bad_windows_are_refused(name):
    """An image, patch, overlap or fill that cannot be meant is an OptionError."""
    call, text = BAD_WINDOWS[name]
    with pytest.raises(OptionError, match=text):
        call()


def stitch(predictions, **options):
    return fastseg.stitch(
        fastseg.windows(IMAGE, PATCH, overlap=0), predictions, **options
    )


ONE = np.zeros(PATCH, np.float32)
BAD_PREDICTIONS = {
    "none": (lambda: stitch([]), "predictions for 0 of 8 windows"),
    "fewer": (lambda: stitch([ONE] * 7), "predictions for 7 of 8 windows"),
    "more": (lambda: stitch([ONE] * 9), "more predictions than 8 windows"),
    "smaller": (
        lambda: stitch([ONE, ONE[:1]]),
        r"prediction 1 has shape \(1, 3, 4\), expected \(2, 3, 4\), \(C, 2, 3, 4\)",
    ),
    "too many axes": (lambda: stitch([ONE[None, None, None]] * 8), "prediction 0 has"),
    "other channels": (
        lambda: stitch([np.stack([ONE, ONE]), ONE]),
        r"prediction 1 has shape \(2, 3, 4\), the first one has \(2, 2, 3, 4\)",
    ),
    "labels": (
        lambda: stitch([ONE.astype(int)] * 8),
        "0 has dtype int64.*largest clas",
    ),
    "masks": (lambda: stitch([ONE > 0] * 8), "prediction 0 has dtype bool"),
    "pairs": (lambda: stitch([((0, 0, 0), ONE)] * 8), "prediction 0 is a tuple"),
    "nothing": (lambda: stitch(None), "predictions is None, expected one for each"),
    "weights": (lambda: stitch([ONE] * 8, weights="gauss"), "mean 'gaussian'"),
    "order": (
        lambda: fastseg.stitch([ONE] * 8, fastseg.windows(IMAGE, PATCH)),
        "expected what fastseg.windows returned",
    ),
}


@pytest.mark.parametrize("name", BAD_PREDICTIONS)
def test_bad_predictions_are_refused(name):
    """What cannot be joined is an OptionError that says which prediction it is."""
    call, text = BAD_PREDICTIONS[name]
    with pytest.raises(OptionError, match=text):
        call()


def test_names_of_other_libraries_are_understood():
    """Their arguments, attributes and functions lead to ours."""
    with pytest.raises(ArgumentError, match="did you mean 'patch'"):
        fastseg.windows(IMAGE, roi_size=PATCH)
    with pytest.raises(ArgumentError, match="did you mean 'overlap'"):
        fastseg.windows(IMAGE, PATCH, tile_step_size=0.5)
    with pytest.raises(AttributeError, match=r"windows\[k\].patch"):
        _ = fastseg.windows(IMAGE, PATCH).patches
    with pytest.raises(AttributeError, match=r"fastseg\.stitch"):
        _ = fastseg.sliding_window_inference
