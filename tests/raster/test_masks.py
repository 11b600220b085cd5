"""`rasterize` compared with rational arithmetic."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from fastseg import (
    coverage,
    rasterize,
    rasterize_batch,
    rasterize_labels,
    signed_distance,
)
from fastseg._kernels.contours import exact
from fastseg.errors import GeometryError, OptionError
from fastseg.raster.rings import as_rings, shoelace_area
from tests.reference import rasterize_exact
from tests.strategies import (
    coordinates,
    near_image,
    rings,
    rings_split_at_a_chord,
    shapes,
)

# Some inputs overflow on purpose. Without compilation, numpy warns of it.
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning"),
]

SQUARE = [(1, 1), (4, 1), (4, 3), (1, 3)]


@given(st.lists(rings(), min_size=1, max_size=3), shapes)
def test_masks_equal_rational_arithmetic(contours, shape):
    """For every finite input, one or more rings give the mask of exact arithmetic."""
    assert_array_equal(rasterize(contours, shape), rasterize_exact(contours, shape))


@given(rings_split_at_a_chord(near_image))
def test_neighbours_neither_overlap_nor_leave_a_gap(case):
    """If a chord cuts a ring in two, each pixel belongs to exactly one part."""
    whole, *parts = case
    masks = []
    for part in parts:
        assume(len({(x + 0.0, y + 0.0) for x, y in part}) >= 3)
        masks.append(rasterize([part], (12, 14)))
    assert_array_equal(rasterize([whole], (12, 14)), masks[0] ^ masks[1])


@given(rings(), shapes, st.integers(0, 8), st.data())
def test_equal_rings_give_equal_masks(ring, shape, turn, data):
    """Direction, first vertex, repeated and closing vertices do not change the mask."""
    mask = rasterize(ring, shape)
    turn %= len(ring)
    repeats = data.draw(st.lists(st.integers(1, 3), min_size=len(ring), max_size=9))
    doubled = [v for v, n in zip(ring, repeats, strict=False) for _ in range(n)]
    for other in (
        ring[::-1],
        ring[turn:] + ring[:turn],
        [*ring, ring[0]],
        [*doubled, *ring[len(repeats) :]],
    ):
        assert_array_equal(rasterize(other, shape), mask)


@given(rings(near_image), st.integers(1, 6), st.integers(1, 6))
def test_a_smaller_shape_crops_the_mask(ring, rows, columns):
    """The mask of a smaller shape is the top left part of that of a larger one."""
    large = rasterize(ring, (17, 17))
    assert_array_equal(rasterize(ring, (rows, columns)), large[:rows, :columns])


def test_edges_are_half_open():
    """Centres on the top and left edge are in, on the bottom and right edge out."""
    mask = rasterize(SQUARE, (5, 6))
    expected = np.zeros((5, 6), bool)
    expected[1:3, 1:4] = True
    assert_array_equal(mask, expected)


def test_a_second_ring_inside_is_a_hole():
    """Even-odd: a pixel that two rings cover is outside."""
    outer = [(0, 0), (6, 0), (6, 6), (0, 6)]
    mask = rasterize([outer, [(2, 2), (4, 2), (4, 4), (2, 4)]], (6, 6))
    assert mask.sum() == 36 - 4
    assert not mask[2:4, 2:4].any()


def test_corner_origin_shifts_by_half_a_pixel():
    """With origin="corner", a square on pixel borders covers exactly its pixels."""
    mask = rasterize([(1, 1), (4, 1), (4, 3), (1, 3)], (5, 6), origin="corner")
    assert_array_equal(np.argwhere(mask)[[0, -1]], [[1, 1], [2, 3]])
    assert_array_equal(
        rasterize(np.array(SQUARE) + 0.25, (5, 6), origin="corner"),
        rasterize(np.array(SQUARE) - 0.25, (5, 6)),
    )


def test_a_contour_off_the_image_is_empty():
    """A ring beside the image gives an empty mask and no error."""
    for dx, dy in ((100, 0), (-100, 0), (0, 100), (0, -100)):
        assert not rasterize(np.array(SQUARE) + (dx, dy), (5, 6)).any()


@pytest.mark.parametrize(
    "contours",
    [
        SQUARE,
        np.array(SQUARE),
        np.array(SQUARE, np.float32),
        np.array(SQUARE, np.uint8),
        np.array(SQUARE, np.float64, order="F"),
        np.array([[v, v] for v in SQUARE], float)[:, 0],
        [SQUARE],
        np.array([SQUARE]),
        (np.array(SQUARE),),
    ],
)
def test_rings_of_any_type_are_accepted(contours):
    """Lists, integers, float32, strided arrays and lists of rings give equal masks."""
    assert rasterize(contours, (5, 6)).sum() == 6


def test_contours_of_opencv_are_taken_by_their_shape():
    """An int32 array (n, 1, 2) is one ring, alone and among others, everywhere."""
    ring = np.array(SQUARE, np.int32)
    other = ring + 2
    of_opencv = ring[:, None]
    for one in (of_opencv, [of_opencv], (of_opencv.tolist(),), of_opencv.astype("f4")):
        assert_array_equal(rasterize(one, (8, 8)), rasterize(ring, (8, 8)))
    several = (of_opencv, other[:, None])
    for function in (rasterize, coverage, signed_distance):
        assert_array_equal(
            function(several, (8, 8)),
            function([ring, other], (8, 8)),
            function.__name__,
        )
    assert_array_equal(
        rasterize_labels([of_opencv, several], (8, 8)),
        rasterize_labels([ring, [ring, other]], (8, 8)),
    )
    assert_array_equal(
        rasterize_batch(of_opencv, [0, 4], (8, 8)), rasterize([ring], (8, 8))[None]
    )


def test_contours_that_opencv_finds_give_the_mask_back():
    """With closed edges, the outer contours of a mask give its pixels."""
    cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless")
    mask = np.zeros((20, 24), np.uint8)
    mask[3:9, 4:15] = 1
    mask[7:15, 10:20] = 1
    mask[12:18, 1:5] = 1
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    assert {ring.shape[1:] for ring in contours} == {(1, 2)}
    found = rasterize(contours, mask.shape, edges="closed", fill="union")
    assert_array_equal(found, mask)


def test_no_contours_give_an_empty_mask():
    """An empty list of rings covers nothing."""
    assert not rasterize([], (3, 4)).any()


@pytest.mark.parametrize(
    ("contours", "text"),
    [
        ([(0, 0), (1, math.nan), (1, 1)], r"contours\[1\] is \(1.0, nan\)"),
        ([[(0, 0), (1, 0), (math.inf, 1)]], r"contours\[0\]\[2\] is \(inf, 1.0\)"),
        ([(0, 0), (1, 1)], "2 distinct vertices"),
        ([(0, 0), (1, 1), (0, 0), (1, 1)], "2 distinct vertices"),
        ([SQUARE, [(1, 1)]], r"contours\[1\] has 1 distinct"),
        (np.zeros((0, 2)), "0 distinct"),
        ([[(1, 1)], [(4, 1)], [(4, 3)]], r"contours\[0\] has 1 .*numpy\.array"),
        (np.ones((4, 1, 2)), "^contours has 1 distinct vertices, .* 3$"),
        (np.ones((4, 1, 3)), r"contours\[0\] has shape \(1, 3\)"),
        (np.ones((4, 1, 1, 2)), r"contours has shape \(4, 1, 1, 2\)"),
        (np.zeros(6), r"shape \(6,\)"),
        (np.zeros((4, 3)), r"shape \(4, 3\)"),
        (np.zeros((4, 2), complex), "dtype complex128"),
        ([("a", "b"), ("c", "d"), ("e", "f")], "expected real numbers"),
        ([[(1, 2), (3,), (4, 5)]], r"contours\[0\] is no array"),
        (7, "contours is int"),
    ],
)
def test_bad_vertices_are_named(contours, text):
    """Vertices that form no region raise an error that names the wrong ones."""
    with pytest.raises(GeometryError, match=text):
        rasterize(contours, (5, 6))


@pytest.mark.parametrize("shape", [(0, 5), (5, -1), 5, (5, 6, 7), "ab", None])
def test_bad_shapes_are_refused(shape):
    """A shape is two positive integers."""
    with pytest.raises(OptionError, match="shape is"):
        rasterize(SQUARE, shape)


def test_a_misspelt_origin_is_refused():
    """The error names the option that was probably meant."""
    with pytest.raises(OptionError, match=r"did you mean 'center'"):
        rasterize(SQUARE, (5, 6), origin="centre")


def misaligned(values):
    """Return an array that begins at an odd address, as in the middle of a file."""
    values = np.asarray(values)
    content = b"?" + values.tobytes()
    return np.frombuffer(content, values.dtype, offset=1).reshape(values.shape)


def test_arrays_may_begin_anywhere_in_memory():
    """Also offsets, and arrays to write to of a subclass."""
    points, offsets = misaligned(np.array(SQUARE, float)), misaligned([0, 4])
    assert not points.flags.aligned
    mask = rasterize(SQUARE, (5, 6))
    assert_array_equal(rasterize(points, (5, 6)), mask)
    assert_array_equal(rasterize_batch(points, offsets, (5, 6)), mask[None])
    assert_array_equal(coverage(points, (5, 6)), coverage(SQUARE, (5, 6)))
    distances = signed_distance(points, (5, 6))
    assert_array_equal(distances, signed_distance(SQUARE, (5, 6)))
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix(np.ones((5, 6), bool))
    assert_array_equal(rasterize(SQUARE, (5, 6), matrix), mask)


def test_no_masks_take_no_memory():
    """However large they would be."""
    masks = rasterize_batch(np.empty((0, 2)), [0], (2**20, 2**20), threads=2)
    assert masks.shape == (0, 2**20, 2**20)


@given(*[coordinates] * 4, st.integers(0, 20), st.integers(0, 20))
def test_the_side_of_an_edge_is_exact(xa, ya, xb, yb, column, row):
    """`sum_side` and `side_of_edge` give the sign that rational arithmetic gives."""
    from fractions import Fraction

    ax, ay, bx, by = map(Fraction, (xa, ya, xb, yb))
    truth = (column - ax) * (by - ay) - (row - ay) * (bx - ax)
    sign = (truth > 0) - (truth < 0)
    arguments = xa, ya, xb, yb, float(column), float(row)
    assert exact.sum_side(*arguments) == sign
    assert exact.side_of_edge(*arguments) == sign


def test_shoelace_area_sums_the_rings():
    """Each ring adds its own area, in both directions."""
    points, offsets = as_rings([SQUARE, SQUARE[::-1]])
    assert shoelace_area(points, offsets) == 12
