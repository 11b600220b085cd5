"""Kernels that fill batches and measure images, compared with numpy."""

import math
from fractions import Fraction

import numba
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal

from fastseg._kernels import jit
from fastseg._kernels.files import decimals
from fastseg._kernels.images import gather, shuffle, statistics
from fastseg._kernels.images.stream import put, settle
from fastseg._kernels.jit import fma

pytestmark = pytest.mark.kernel

sides = st.integers(1, 9)
# Each dtype that an entry does not declare takes seconds to compile, and as Python all
# are alike: those of images that are declared, and masks of one byte or eight.
DECLARED = ["u1", "<u2", "<i2", "<i4"]
image_dtypes = st.sampled_from(
    [*DECLARED, "i1", "<u4"] if jit.INTERPRETED else DECLARED
)
copied_dtypes = image_dtypes if jit.INTERPRETED else st.sampled_from(["<u2", "<i2"])
mask_dtypes = st.sampled_from(
    ["u1", "<u2", "<u4", "<u8"] if jit.INTERPRETED else ["u1", "<u8"]
)


def shown_from(image, corner, size, fill):
    """Return what a slice shows of an image, or of None; slow and obviously right."""
    out = np.full(size, fill)
    for y, x in np.ndindex(*size):
        r, c = y + corner[0], x + corner[1]
        if image is not None and 0 <= r < image.shape[0] and 0 <= c < image.shape[1]:
            out[y, x] = image[r, c]
    return out


def stacks(dtypes, count=3):
    return st.builds(lambda d, h, w: (d, (count, h, w)), dtypes, sides, sides).flatmap(
        lambda pair: arrays(*pair)
    )


def dirty(shape, dtype):
    """Return an array full of 77, for kernels that must overwrite every cell."""
    return np.full(shape, 77, dtype)


@jit.kernel
def fused(a, b, c):
    """Call `fma`, which only kernels can call."""
    return fma(a, b, c)


@jit.kernel
def put_and_settle(values, count, cells, start, streams):
    """Call `put` and `settle`."""
    put(values, count, cells, start, streams)
    settle()


@jit.kernel
def round_all(values, slices, scaling, out):
    """Write the bits of float16."""
    gather.gather_images(values, slices, scaling, gather.half_bits, True, out)


# Scaled integers of 24 bits: many products are close to the middle between two float32,
# and many sums cancel.
singles = st.builds(
    lambda whole, power: np.float32(math.ldexp(whole, power)),
    st.integers(-(2**24), 2**24),
    st.integers(-40, 10),
)


@given(singles, singles, singles)
@example(np.float32(1 + 2**-12), np.float32(1 + 2**-12), np.float32(2**-60))
@example(np.float32(1 + 2**-12), np.float32(1 + 2**-12), np.float32(-(2**-60)))
def test_fma_rounds_once(a, b, c):
    """fma returns the float32 nearest to the exact a * b + c, ties to even."""
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    actual = np.float32(fused(a, b, c))
    neighbours = [np.nextafter(actual, np.float32(end)) for end in (-np.inf, np.inf)]
    error, *other_errors = (
        abs(Fraction(float(x)) - exact) for x in (actual, *neighbours)
    )
    even = not actual.view(np.int32) & 1
    least = min(other_errors)
    assert error < least or (error == least and even)


# Of slices of three images.
ROWS = np.array([gather.ELSEWHERE, 2, gather.OUTSIDE, gather.ELSEWHERE, 0, 0])
# No class is missing on any slice.
NONE_MISSING = np.zeros(len(ROWS), np.uint64)
NO_CLASSES = np.zeros(0, np.int64)

slices = st.lists(
    st.tuples(st.integers(-12, 12), st.integers(-12, 12)),
    min_size=len(ROWS),
    max_size=len(ROWS),
).map(lambda corners: gather.Slices(ROWS, np.array(corners)))


def check_slices(out, images, slices, pad):
    """Assert that slices show images (3, H, W), and that those elsewhere are 77."""
    for j, (row, corner) in enumerate(zip(*slices, strict=True)):
        if row == gather.ELSEWHERE:
            assert (out[j] == 77).all()
        else:
            image = None if row == gather.OUTSIDE else images[j][row]
            expected = shown_from(image, corner, out[j].shape, pad[j])
            assert_array_equal(out[j], expected)


@given(stacks(image_dtypes), slices, sides, sides, st.booleans())
def test_images_are_scaled_and_padded(images, slices, height, width, streams):
    """Every cell of a slice has numpy's value; slices elsewhere do not change."""
    out = dirty((len(ROWS), height, width), np.float32)
    half = out.astype(np.float16)
    shift, gain, pad = np.array(
        [[0, 3, 0, 0, -1, 1], [0, 0.5, 0, 0, -2, 1], [0, -7, 6, 0, 5, 4]], np.float32
    )
    low, high = -100.0, 100.0
    scaling = gather.Scaling(shift, gain, low, high, pad)
    masks = np.zeros(images.shape, np.uint8)
    mask = dirty(out.shape, np.uint8)
    rest = masks, slices, slices, scaling, NO_CLASSES, NONE_MISSING, streams
    gather.gather_samples(images, *rest, out, mask)
    in_half = jit.INTERPRETED or images.itemsize == 2
    if in_half:
        gather.gather_half_samples(images, *rest, half.view(np.uint16), mask)
    scaled = [
        np.clip((images.astype(np.float32) - shift[j]) * gain[j], low, high)
        for j in range(len(ROWS))
    ]
    check_slices(out, scaled, slices, pad)
    if in_half:
        check_slices(half, [each.astype(np.float16) for each in scaled], slices, pad)


@given(stacks(copied_dtypes), slices, slices, sides, sides)
def test_masks_have_slices_of_their_own(images, slices, mask_slices, height, width):
    """One call makes images of some slices, and masks of fewer other ones."""
    out = dirty((len(ROWS), height, width), images.dtype)
    mask = dirty((2, height, width), np.uint8)
    mask_slices = gather.Slices(*(array[1:3] for array in mask_slices))
    masks = np.arange(images.size, dtype=np.uint8).reshape(images.shape)
    rest = np.zeros(len(ROWS), images.dtype), NO_CLASSES, NONE_MISSING[:2], True
    gather.copy_samples(images, masks, slices, mask_slices, *rest, out, mask)
    check_slices(out, [images] * len(ROWS), slices, [0] * len(ROWS))
    check_slices(mask, [masks] * 2, mask_slices, [0] * 2)


def test_float16_values_are_the_nearest():
    """Every float16, its neighbours in float32 and all ties round as numpy rounds."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    with np.errstate(over="ignore"):
        above = np.nextafter(halves, np.float16(np.inf)).astype(np.float32)
    ties = (halves.astype(np.float32) + above) / 2
    exact = [*halves, *ties, 65519.996, 65520, 1e38, np.inf, -np.inf]
    exact = np.array(exact, np.float32)
    up, down = (np.nextafter(exact, np.float32(end)) for end in (np.inf, -np.inf))
    values = np.concatenate([exact, up, down])[:: 97 if numba.config.DISABLE_JIT else 1]
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16).view(np.uint16)
    out = np.empty((1, 1, len(values)), np.uint16)
    none, one = np.zeros(1, np.float32), np.ones(1, np.float32)
    scaling = gather.Scaling(none, one, -np.inf, np.inf, none)
    slices = gather.Slices(np.array([0]), np.array([[0, 0]]))
    round_all(values[None, None], slices, scaling, out)
    assert_array_equal(out[0, 0], expected)


@given(stacks(mask_dtypes), slices, sides, sides, st.booleans())
def test_bits_are_copied_and_padded(masks, slices, height, width, streams):
    """Values are copied unchanged, with those of `pad` around them."""
    out = dirty((len(ROWS), height, width), masks.dtype)
    pad = np.array([0, 7, 6, 0, 5, 4], masks.dtype)
    gather.gather_values(masks, slices, pad, streams, out)
    check_slices(out, [masks] * len(ROWS), slices, pad)


missing_classes = st.lists(
    st.integers(0, 255), min_size=len(ROWS), max_size=len(ROWS)
).map(lambda bits: np.array(bits, np.uint64))


@given(
    stacks(mask_dtypes),
    slices,
    missing_classes,
    st.sampled_from([1, 2, 3]),
    sides,
    sides,
    st.booleans(),
    st.data(),
)
def test_classes_become_channels(
    masks, slices, missing, depth, height, width, streams, data
):
    """Channel c is bit classes[c], 255 if it is missing and 0 outside of images."""
    bit = st.integers(0, 8 * masks.dtype.itemsize - 1)
    classes = np.array(data.draw(st.lists(bit, min_size=1, max_size=3)))
    shape = len(ROWS) // depth, len(classes), depth, height, width
    out = dirty(shape, np.uint8)
    gather.gather_masks(masks, slices, classes, missing, streams, out)
    for c, k in enumerate(classes.tolist()):
        channel = (masks >> masks.dtype.type(k)) & masks.dtype.type(1)
        labels = [
            np.full_like(channel, 255) if bits >> k & 1 else channel
            for bits in missing.tolist()
        ]
        pad = [255 * (bits >> k & 1) for bits in missing.tolist()]
        slots = out[:, c].reshape(len(ROWS), height, width)
        check_slices(slots, labels, slices, pad)


@given(
    stacks(mask_dtypes),
    slices,
    missing_classes,
    st.permutations(range(8)),
    sides,
    sides,
    st.booleans(),
)
def test_missing_classes_hide_what_lies_below(
    masks, slices, missing, priority, height, width, streams
):
    """A label is 255 where a missing class comes before the first one that covers."""
    check_labels(masks, slices, missing, priority, (height, width), streams)


@given(
    stacks(mask_dtypes),
    slices,
    st.permutations(range(8)),
    sides,
    sides,
    st.booleans(),
)
def test_labels_show_the_top_class(masks, slices, priority, height, width, streams):
    """A pixel's label is that of the first class in priority that covers it."""
    check_labels(masks, slices, NONE_MISSING, priority, (height, width), streams)


def check_labels(masks, slices, missing, priority, size, streams):
    """Assert that labels are those of classes painted from the bottom to the top."""
    out = dirty((len(ROWS), *size), np.uint8)
    gather.gather_masks(masks, slices, np.array(priority), missing, streams, out)
    labels = np.zeros((len(ROWS), *masks.shape), np.uint8)
    pad = np.zeros(len(ROWS), np.uint8)
    for j, bits in enumerate(missing.tolist()):
        for k in reversed(priority):
            if bits >> k & 1:
                labels[j], pad[j] = 255, 255
            covered = (masks >> masks.dtype.type(k)) & masks.dtype.type(1)
            labels[j][covered == 1] = k + 1
    check_slices(out, labels, slices, pad)


@given(
    st.sampled_from([np.uint8, np.uint16, np.float32, np.uint64]),
    st.integers(0, 300),
    st.integers(0, 100),
    st.booleans(),
)
def test_put_writes_exactly_its_range(dtype, count, start, streams):
    """At any alignment, only the cells of the range change, to the given values."""
    values = np.arange(1, 301).astype(dtype)
    cells = dirty(500, dtype)
    put_and_settle(values, count, cells, start, streams)
    expected = dirty(500, dtype)
    expected[start : start + count] = values[:count]
    assert_array_equal(cells, expected)


@given(mask_dtypes.flatmap(lambda dtype: arrays(dtype, st.integers(1, 50))))
def test_bytes_are_split_and_joined(values):
    """Plane k holds byte k of each value, and joining the planes gives the values."""
    planes = dirty((values.itemsize, len(values)), np.uint8)
    shuffle.split_bytes(values, planes)
    assert_array_equal(planes, values.view(np.uint8).reshape(-1, values.itemsize).T)
    joined = dirty(len(values), values.dtype)
    shuffle.join_bytes(planes, joined)
    assert_array_equal(joined, values, strict=True)


@given(stacks(image_dtypes, count=1))
def test_sums_are_exact(stack):
    """Minimum, maximum, sum and sum of squares equal those of Python's integers."""
    image = stack.reshape(-1)
    values = image.tolist()
    least, greatest = statistics.range_of_values(image)
    codes = dirty(statistics.MAX_CODES, np.uint8)
    total, high, low, _ = statistics.sum_values(image, least, greatest, codes)
    assert (least, greatest, total) == (min(values), max(values), sum(values))
    assert (int(high) << 32) + int(low) == sum(v * v for v in values)


@given(arrays("<i2", 35, elements=st.integers(-50, 50)))
def test_order_statistics_equal_sorting(image):
    """Counting gives the same order statistics as sorting."""
    ranks = np.array([0, 0, 3, 17, 33, 34])
    actual = np.empty(len(ranks))
    least, greatest = statistics.range_of_values(image)
    codes, others = dirty((2, statistics.MAX_CODES), np.uint8)
    sums = statistics.count_values(image, least, greatest, ranks, actual, codes)
    assert sums == statistics.sum_values(image, least, greatest, others)
    assert_array_equal(codes[: sums[-1]], others[: sums[-1]])
    assert_array_equal(actual, np.sort(image, axis=None)[ranks])


@given(stacks(mask_dtypes, count=1))
def test_classes_are_measured(stack):
    """The pixel count and bounding box of each bit equal numpy's."""
    mask = stack[0]
    count = 8 * mask.dtype.itemsize
    pixels, boxes = dirty(count, np.int64), dirty((count, 4), np.int64)
    runs = dirty((mask.size, 3), np.int32)
    found = statistics.find_runs(mask, runs)
    statistics.measure_classes(mask, runs[:found], pixels, boxes)
    for k in range(count):
        where = np.argwhere((mask >> mask.dtype.type(k)) & mask.dtype.type(1))
        assert pixels[k] == len(where)
        box = [*where.min(axis=0), *where.max(axis=0) + 1] if len(where) else [0] * 4
        assert_array_equal(boxes[k], box)


@given(st.from_regex(r"[-+]?([0-9]{1,17}\.?[0-9]{0,17}|\.[0-9]{1,17})", fullmatch=True))
@example("9" * 15)
@example("999999999999999.")
@example("0." + "0" * 21 + "1")
@example("0." + "0" * 23 + "1")
@example("-0.0")
def test_decimals_are_the_nearest_floats(text):
    """A decimal is parsed to Python's float, sign of zero included, or not at all."""
    data = np.frombuffer(text.encode(), np.uint8)
    value, end = decimals.parse_decimal(data, 0, len(data))
    if end == len(data):
        assert (value, math.copysign(1, value)) == (
            float(text),
            math.copysign(1, float(text)),
        )
    digits = text.strip("+-").replace(".", "").lstrip("0")
    if len(digits) <= 14 and len(text.partition(".")[2]) <= 20:
        assert end == len(data)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (b"", 0),
        (b"1 2\n3.5 -4\r\n", 2),
        (b"1 2", -1),
        (b"1 2\n\n", -1),
        (b"1  2\n", -1),
        (b"1 2 3\n", -1),
        (b"1 2\r3 4\n", -1),
        (b"1e1 2\n", -1),
        (b". 2\n", -1),
        (b"- 2\n", -1),
        (b"1.2.3 2\n", -1),
        (b"nan 2\n", -1),
    ],
)
def test_only_lines_of_two_decimals_are_parsed(text, count):
    """Lines of two decimals and one space are parsed; any other line gives -1."""
    out = np.full((9, 2), np.nan)
    data = np.frombuffer(text, np.uint8)
    assert decimals.parse_pairs(data, out) == count
    if count == 2:
        assert out[:2].tolist() == [[1, 2], [3.5, -4]]
