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
image_dtypes = st.sampled_from(["u1", "i1", "<u2", "<i2", "<u4", "<i4"])
mask_dtypes = st.sampled_from(["u1", "<u2", "<u4", "<u8"])


def centred(image, size, fill):
    """Return an image padded and cropped about its centre, slow and obviously right."""
    out = np.full(size, fill, np.result_type(image, type(fill)))
    (y0, ty, h), (x0, tx, w) = (
        ((s - t) // 2, 0, t) if s >= t else (0, (t - s) // 2, s)
        for s, t in zip(image.shape, size, strict=True)
    )
    out[ty : ty + h, tx : tx + w] = image[y0 : y0 + h, x0 : x0 + w]
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
def round_all(values, rows, scaling, out):
    """Write the bits of float16."""
    gather.gather_images(values, rows, scaling, gather.half_bits, True, out)


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


ROWS = np.array([-1, 2, -1, 0])
# No class is missing on any sample.
NONE_MISSING = np.zeros(len(ROWS), np.uint64)
NO_CLASSES = np.zeros(0, np.int64)
FILLED = [(1, 2), (3, 0)]  # (slot, row) where ROWS is not negative


@given(stacks(image_dtypes), sides, sides, st.booleans())
def test_images_are_scaled_and_centred(images, height, width, streams):
    """Every cell of the listed slots has numpy's value; other slots do not change."""
    out = dirty((4, height, width), np.float32)
    half = out.astype(np.uint16)
    shift, gain = np.array([[0, 3, 0, -1], [0, 0.5, 0, -2]], np.float32)
    low, high = -100.0, 100.0
    pad = np.array([0, -7, 0, 5], np.float32)
    scaling = gather.Scaling(shift, gain, low, high, pad)
    masks = np.zeros(images.shape, np.uint8)
    mask = dirty(out.shape, np.uint8)
    rest = masks, ROWS, scaling, NO_CLASSES, NONE_MISSING, streams
    gather.gather_samples(images, *rest, out, mask)
    gather.gather_half_samples(images, *rest, half, mask)
    for slot, row in FILLED:
        scaled = (images[row].astype(np.float32) - shift[slot]) * gain[slot]
        expected = centred(np.clip(scaled, low, high), (height, width), pad[slot])
        assert_array_equal(out[slot], expected)
        assert_array_equal(half[slot].view(np.float16), expected.astype(np.float16))
    assert (out[[0, 2]] == 77).all()
    assert (half[[0, 2]] == 77).all()


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
    round_all(values[None, None], np.array([0]), scaling, out)
    assert_array_equal(out[0, 0], expected)


@given(stacks(mask_dtypes), sides, sides, st.booleans())
def test_bits_are_copied_and_centred(masks, height, width, streams):
    """Values are copied unchanged, with those of `pad` around them."""
    out = dirty((4, height, width), masks.dtype)
    pad = np.array([0, 7, 0, 5], masks.dtype)
    gather.gather_values(masks, ROWS, pad, streams, out)
    for slot, row in FILLED:
        assert_array_equal(out[slot], centred(masks[row], (height, width), pad[slot]))
    assert (out[[0, 2]] == 77).all()


@given(stacks(mask_dtypes), sides, sides, st.booleans(), st.data())
def test_classes_become_channels(masks, height, width, streams, data):
    """Channel c is 1 where bit classes[c] is set and 0 elsewhere."""
    bit = st.integers(0, 8 * masks.dtype.itemsize - 1)
    classes = np.array(data.draw(st.lists(bit, min_size=1, max_size=3)))
    out = dirty((4, len(classes), height, width), np.uint8)
    gather.gather_classes(masks, ROWS, classes, NONE_MISSING, streams, out)
    for slot, row in FILLED:
        for c, k in enumerate(classes.tolist()):
            expected = (masks[row] >> masks.dtype.type(k)) & masks.dtype.type(1)
            assert_array_equal(out[slot, c], centred(expected, (height, width), 0))
    assert (out[[0, 2]] == 77).all()


@given(stacks(mask_dtypes), sides, sides, st.booleans(), st.data())
def test_missing_classes_hide_what_lies_below(masks, height, width, streams, data):
    """A label is 255 where a missing class comes before the first one that covers."""
    priority = data.draw(st.permutations(range(8)))
    missing = np.array(data.draw(st.lists(st.integers(0, 255), min_size=4, max_size=4)))
    out = dirty((4, height, width), np.uint8)
    gather.gather_labels(
        masks, ROWS, np.array(priority), missing.astype(np.uint64), streams, out
    )
    for slot, row in FILLED:
        expected = np.zeros(masks.shape[1:], np.uint8)
        outside = 0
        for k in reversed(priority):
            if missing[slot] >> k & 1:
                expected[:], outside = 255, 255
            expected[(masks[row] >> masks.dtype.type(k)) & masks.dtype.type(1) == 1] = (
                k + 1
            )
        assert_array_equal(out[slot], centred(expected, (height, width), outside))


@given(stacks(mask_dtypes), sides, sides, st.booleans(), st.permutations(range(8)))
def test_labels_show_the_top_class(masks, height, width, streams, priority):
    """A pixel's label is that of the first class in priority that covers it."""
    out = dirty((4, height, width), np.uint8)
    gather.gather_labels(masks, ROWS, np.array(priority), NONE_MISSING, streams, out)
    for slot, row in FILLED:
        expected = np.zeros(masks.shape[1:], np.uint8)
        for k in reversed(priority):
            one = masks.dtype.type(1)
            expected[(masks[row] >> masks.dtype.type(k)) & one == 1] = k + 1
        assert_array_equal(out[slot], centred(expected, (height, width), 0))


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


@given(sides, sides)
def test_cropping_undoes_padding(small, more):
    """Cropping an axis that was padded gives back the axis."""
    large = small + more
    start, target, length = gather.centre_overlap(small, large)
    assert (start, length) == (0, small)
    assert gather.centre_overlap(large, small) == (target, 0, small)


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
    total, high, low = statistics.sum_values(image)
    least, greatest = statistics.range_of_values(image)
    assert (least, greatest, total) == (min(values), max(values), sum(values))
    assert (int(high) << 32) + int(low) == sum(v * v for v in values)


@given(arrays("<i2", 35, elements=st.integers(-50, 50)))
def test_order_statistics_equal_sorting(image):
    """Counting gives the same order statistics as sorting."""
    ranks = np.array([0, 0, 3, 17, 33, 34])
    actual = np.empty(len(ranks))
    least, greatest = statistics.range_of_values(image)
    sums = statistics.count_values(image, least, greatest, ranks, actual)
    assert sums == statistics.sum_values(image)
    assert_array_equal(actual, np.sort(image, axis=None)[ranks])


@given(stacks(mask_dtypes, count=1))
def test_classes_are_measured(stack):
    """The pixel count and bounding box of each bit equal numpy's."""
    mask = stack[0]
    count = 8 * mask.dtype.itemsize
    pixels, boxes = dirty(count, np.int64), dirty((count, 4), np.int64)
    statistics.measure_classes(mask, pixels, boxes)
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
