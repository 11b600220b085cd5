"""Contours to coverage, held against rational arithmetic and shapely."""

import math
from fractions import Fraction
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from fastseg import rasterize
from fastseg._kernels.contours import area
from fastseg.errors import GeometryError, OptionError
from fastseg.raster.area import coverage
from fastseg.raster.rings import as_rings, shoelace_area
from tests.strategies import (
    half_pixels,
    inside,
    near_pixel_centres,
    rings,
    shapes,
)

# The arithmetic overflows on purpose; compiled code says nothing about it.
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning"),
]

# In pixels: the rounding to float32, 6e-8, and that of float64 before it.
ROUNDING = 1e-7
# How far float64 may move an edge, in pixels, and much more: 1 / 2**30.
NEAR = Fraction(1, 2**30)

SQUARE = [(1, 1), (4, 1), (4, 3), (1, 3)]
STAR = [(2, -1), (3.3, 4), (-0.7, 0.9), (4.7, 0.9), (0.7, 4)]
FILLS = ("even-odd", "nonzero")


@st.composite
def near_pixel_borders(draw):
    """A half or one of its neighbours among the floating-point numbers."""
    value = draw(st.integers(-2, 6)) - 0.5
    way = draw(st.sampled_from([0.0, -np.inf, np.inf]))
    return float(np.nextafter(value, way)) if way else value


few_halves = st.integers(-3, 11).map(lambda k: k / 2)
far = st.sampled_from([-1e6, -1000.5, 1000.25, 1e6])
places = st.one_of(
    few_halves,
    near_pixel_centres(),
    near_pixel_borders(),
    st.floats(-2, 6, allow_nan=False),
    far,
)
small_shapes = st.tuples(st.integers(1, 4), st.integers(1, 5))


def edges_of(contours):
    """Yield the edges, (x0, y0, x1, y1), where pixel [0, 0] begins at (0, 0)."""
    for ring in contours:
        pts = [(Fraction(x) + Fraction(1, 2), Fraction(y) + Fraction(1, 2))
               for x, y in np.asarray(ring, float).tolist()]  # fmt: skip
        for a, b in pairwise([*pts, pts[0]]):
            yield *a, *b


def x_at(edge, y):
    x0, y0, x1, y1 = edge
    return x0 + (y - y0) * (x1 - x0) / (y1 - y0)


def crossing_heights(first, second):
    """Return the height at which two lines cross, in a list, empty for parallels."""
    slopes = [(e[2] - e[0]) / (e[3] - e[1]) for e in (first, second)]
    if slopes[0] == slopes[1]:
        return []
    gap = x_at(second, 0) - x_at(first, 0)
    return [gap / (slopes[0] - slopes[1])]


def right_of(u):
    """Integral of the part of a pixel that lies right of an edge u before its end."""
    return 0 if u <= 0 else u * u / 2 if u <= 1 else u - Fraction(1, 2)


def coverage_exact(contours, shape, fill):
    """Area of each pixel in rational arithmetic: slabs between all crossings."""
    edges = [e for e in edges_of(contours) if e[1] != e[3]]
    heights = {Fraction(r) for r in range(shape[0] + 1)}
    heights |= {y for e in edges for y in (e[1], e[3])}
    heights |= {y for pair in combinations(edges, 2) for y in crossing_heights(*pair)}
    slabs = sorted(y for y in heights if 0 <= y <= shape[0])
    mask = [[Fraction(0)] * shape[1] for _ in range(shape[0])]
    for top, bottom in pairwise(slabs):
        here = [e for e in edges if min(e[1], e[3]) <= top < max(e[1], e[3])]
        here.sort(key=lambda e: x_at(e, (top + bottom) / 2))
        winding = 0
        for edge in here:
            before = winding
            winding += 1 if edge[1] < edge[3] else -1
            if fill == "even-odd":
                sign = (winding & 1) - (before & 1)
            else:
                sign = (winding != 0) - (before != 0)
            for column in range(shape[1]) if sign else ():
                u0, u1 = (column + 1 - x_at(edge, y) for y in (top, bottom))
                if u0 == u1:
                    part = min(max(u0, 0), 1)
                else:
                    part = (right_of(u1) - right_of(u0)) / (u1 - u0)
                mask[int(top)][column] += sign * (bottom - top) * part
    return np.array(mask, float)


def meets(edge, row, column):
    """Return whether an edge comes near a closed pixel: the line cut to the square."""
    x0, y0, x1, y1 = edge
    first, last = Fraction(0), Fraction(1)
    for start, step, low in ((x0, x1 - x0, column), (y0, y1 - y0, row)):
        low, high = low - NEAR, low + 1 + NEAR
        if step == 0:
            if not low <= start <= high:
                return False
        else:
            ends = sorted(((low - start) / step, (high - start) / step))
            first, last = max(first, ends[0]), min(last, ends[1])
    return first <= last


@settings(max_examples=150)
@given(
    st.lists(rings(places, 6), min_size=1, max_size=2),
    small_shapes,
    st.sampled_from(FILLS),
)
@example([STAR], (4, 5), "even-odd")
@example([STAR], (4, 5), "nonzero")
@example([STAR, STAR], (4, 5), "nonzero")
@example([STAR, STAR[::-1]], (4, 5), "nonzero")
@example([SQUARE, [(2, 0), (3, 0), (3, 4), (2, 4)]], (4, 5), "even-odd")
@example([SQUARE, [(2, 0), (3, 0), (3, 4), (2, 4)]], (4, 5), "nonzero")
def test_coverage_equals_rational_arithmetic(contours, shape, fill):
    """Any rings give each pixel's exact area, whichever way they cross or overlap."""
    assert_allclose(
        coverage(contours, shape, fill=fill),
        coverage_exact(contours, shape, fill),
        rtol=0,
        atol=ROUNDING,
    )


def list_rows(contours, height):
    """Return (pieces, ways, ends) as the kernel lists them, all rows in one block."""
    points, offsets = as_rings(contours)
    room = len(points) * height
    pieces, ways = np.empty((room, 4)), np.empty(room, np.int64)
    begins = np.empty(height + 2, np.int64)
    rings_and_frame = points, offsets, 0, len(contours), 0.5
    area.count_pieces(*rings_and_frame, height, begins)
    ends = np.cumsum(begins[1 : height + 1])
    begins[: height + 1] = [0, *ends]
    area.list_pieces(*rings_and_frame, 0, height, begins, pieces, ways)
    assert_array_equal(begins[:height], ends)
    return pieces, ways, ends


@settings(max_examples=50)
@given(st.lists(rings(places, 6), min_size=1, max_size=2), st.sampled_from(FILLS))
def test_the_short_way_and_slabs_give_one_answer(contours, fill):
    """Cutting every row into slabs changes nothing but the time it takes."""
    height, width = 4, 5
    pieces, ways, ends = list_rows(contours, height)
    cells = np.zeros(height * width, np.float32)
    sums, bits = np.zeros((width + 1, 2)), np.zeros(1, np.uint64)
    count = len(pieces)
    scratch = np.empty(2 * count), np.empty((count, 2)), np.empty(count, np.int64)
    for row, (first, stop) in enumerate(pairwise([0, *ends])):
        area.add_slabs(
            pieces, ways, first, stop, fill == "nonzero", width, *scratch, sums, bits
        )
        area.write_row(sums, bits, cells, np.uint64(row * width), width)
    assert_allclose(
        coverage(contours, (height, width), fill=fill),
        cells.reshape(height, width),
        rtol=0,
        atol=ROUNDING,
    )


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("way", [1, -1])
def test_drawn_rings_need_no_slabs(fill, way):
    """The short way serves every row of a round ring with a hole, drawn either way."""
    angles = np.arange(80) * np.pi / 40
    disc = np.c_[np.cos(angles), np.sin(angles)]
    contours = [9.3 + 8 * disc, (9.1 + 5 * disc)[::way]]
    pieces, ways, ends = list_rows(contours, 18)
    chains = np.empty((area.MOST_CHAINS, 4))
    turns = np.empty((area.MOST_CHAINS, 3), np.int64)
    for first, stop in pairwise([0, *ends]):
        count = area.join_chains(pieces, ways, first, stop, 18, chains, turns)
        assert count >= 0
        assert area.sign_chains(chains, turns, count, fill == "nonzero")


@st.composite
def rings_with_a_hole(draw):
    """(outer, hole), star-shaped around one point, the hole inside the outer ring."""
    count = draw(st.integers(5, 9))
    x, y = draw(st.tuples(st.floats(2, 6), st.floats(2, 6)))
    contours = []
    for least, most in ((3.0, 5.0), (0.5, 2.0)):
        radii = draw(st.lists(st.floats(least, most), min_size=count, max_size=count))
        turn = draw(st.floats(0, 1))
        angles = (np.arange(count) + turn) * 2 * np.pi / count
        ring = np.c_[x + radii * np.cos(angles), y + radii * np.sin(angles)]
        contours.append(ring[:: draw(st.sampled_from([1, -1]))])
    return contours


@settings(max_examples=40)
@given(rings_with_a_hole())
def test_coverage_equals_shapely(contours):
    """A valid polygon with a hole has the area in each pixel that shapely finds."""
    shapely = pytest.importorskip("shapely")
    polygon = shapely.Polygon(contours[0], [contours[1]])
    assume(polygon.is_valid)
    rows, columns = np.mgrid[:7, :8] - 0.5
    pixels = shapely.box(columns, rows, columns + 1, rows + 1)
    truth = shapely.area(shapely.intersection(polygon, pixels))
    mask = coverage(contours, (7, 8))
    assert_allclose(mask, truth, rtol=0, atol=ROUNDING)
    clipped = polygon.intersection(shapely.box(-0.5, -0.5, 7.5, 6.5)).area
    assert_allclose(mask.sum(dtype=float), clipped, rtol=1e-6)


@given(rings_with_a_hole())
def test_the_sum_is_the_area(contours):
    """Ring less hole: their shoelace areas, to a millionth, whatever the directions."""
    contours = [ring + 4 for ring in contours]
    outer, hole = (shoelace_area(*as_rings(ring)) for ring in contours)
    assume(hole < outer)
    mask = coverage(contours, (17, 18))
    assert_allclose(mask.sum(dtype=float), outer - hole, rtol=1e-6)


@settings(max_examples=150)
@given(st.lists(rings(st.one_of(half_pixels, inside)), min_size=1, max_size=2), shapes)
def test_pixels_off_the_edges_are_those_of_the_mask(contours, shape):
    """Where no edge comes near, a pixel is exactly 0 or 1, as `rasterize` has it."""
    mask = coverage(contours, shape)
    binary = rasterize(contours, shape)
    edges = list(edges_of(contours))
    for row, column in np.ndindex(shape):
        if mask[row, column] != binary[row, column]:
            assert any(meets(edge, row, column) for edge in edges)


@st.composite
def convex_rings_and_a_chord(draw):
    """(whole, left, right): a ring on an ellipse and the two parts of it."""
    turns = draw(st.lists(st.integers(0, 99), min_size=4, max_size=9, unique=True))
    angles = np.sort(turns) * 2 * np.pi / 100
    x, y, a, b = (draw(st.floats(1, 9)) for _ in range(4))
    ring = np.c_[x + a * np.cos(angles), y + b * np.sin(angles)]
    end = draw(st.integers(2, len(ring) - 2))
    return ring, ring[: end + 1], np.r_[ring[end:], ring[:1]]


@given(convex_rings_and_a_chord(), st.sampled_from(["center", "corner"]))
def test_the_parts_of_a_ring_add_up(case, origin):
    """A convex ring cut at a chord: two coverages add up to that of the whole."""
    whole, left, right = (coverage(ring, (12, 14), origin=origin) for ring in case)
    assert_allclose(left + right, whole, rtol=0, atol=3 * ROUNDING)


@given(rings(places), st.integers(0, 8), st.sampled_from(FILLS))
def test_the_way_a_ring_is_written_makes_no_difference(ring, turn, fill):
    """Direction, first vertex, repeats and an explicit closing change nothing."""
    mask = coverage(ring, (5, 6), fill=fill)
    turn %= len(ring)
    for other in (
        ring[::-1],
        ring[turn:] + ring[:turn],
        [*ring, ring[0]],
        [vertex for vertex in ring for _ in range(2)],
    ):
        assert_allclose(coverage(other, (5, 6), fill=fill), mask, rtol=0, atol=ROUNDING)


@given(rings(half_pixels), st.integers(-9, 9), st.integers(-9, 9))
def test_coverage_moves_with_the_ring(ring, right, down):
    """A shift by whole pixels shifts the coverage."""
    large = coverage(np.array(ring) + 20, (60, 60))
    moved = coverage(np.array(ring) + (20 + right, 20 + down), (60, 60))
    shifted = np.roll(large, (down, right), (0, 1))
    # What moves off the image on one side comes back on the other: leave that out.
    assert_allclose(moved[10:50, 10:50], shifted[10:50, 10:50], rtol=0, atol=ROUNDING)


@given(rings(places), st.integers(1, 6), st.integers(1, 6), st.sampled_from(FILLS))
def test_a_canvas_cuts_and_changes_nothing(ring, rows, columns, fill):
    """A small canvas shows a part of what a large one shows."""
    large = coverage(ring, (7, 70), fill=fill)
    small = coverage(ring, (rows, columns), fill=fill)
    assert_allclose(small, large[:rows, :columns], rtol=0, atol=ROUNDING)


@given(st.lists(rings(), min_size=1, max_size=3), shapes, st.sampled_from(FILLS))
def test_coverage_lies_between_0_and_1(contours, shape, fill):
    """Every finite input, however large, gives float32 numbers in [0, 1]."""
    mask = coverage(contours, shape, fill=fill)
    assert mask.dtype == np.float32
    assert mask.shape == shape
    assert (mask >= 0).all()
    assert (mask <= 1).all()


def test_a_square_on_half_pixels_covers_halves():
    """Borders through pixel centres halve the sides and quarter the corners."""
    expected = np.zeros((5, 6))
    expected[1:4, 1:5] = np.outer([0.5, 1, 0.5], [0.5, 1, 1, 0.5])
    assert_array_equal(coverage(SQUARE, (5, 6)), expected)


def test_the_corner_origin_lies_half_a_pixel_up_and_left():
    """With origin="corner" a square on pixel borders covers just these pixels."""
    expected = np.zeros((5, 6))
    expected[1:3, 1:4] = 1
    assert_array_equal(coverage(SQUARE, (5, 6), origin="corner"), expected)


def test_a_contour_off_the_image_leaves_zeros():
    """Nothing is covered, and nothing raised, for a ring beside the image."""
    for dx, dy in ((100, 0), (-100, 0), (0, 100), (0, -100)):
        assert not coverage(np.array(STAR) + (dx, dy), (5, 6)).any()


def test_a_contour_around_the_image_covers_it():
    """What lies left of the image counts fully, what lies right of it not at all."""
    for size in (100, 1e15, 1e308):
        ring = [(-size, -size), (size, -size), (size, size), (-size, size)]
        assert (coverage(ring, (5, 70)) == 1).all()


def test_rows_with_many_chains_are_right():
    """Teeth, more in a row than the short way takes, and crossed: all add up."""
    teeth = [(x / 4, 0.3 * (x % 2)) for x in range(60)]
    comb = [*teeth, (14.75, 3.0), (0.0, 3.0)]
    for fill in FILLS:
        assert_allclose(
            coverage([comb, STAR], (4, 5), fill=fill),
            coverage_exact([comb, STAR], (4, 5), fill),
            rtol=0,
            atol=ROUNDING,
        )


def test_more_pieces_than_room_are_taken_block_by_block():
    """Many edges that all cross many rows are listed a few rows at a time."""
    zigzag = [(4 * k, 39 * (k % 2)) for k in range(9)] + [(32, 50), (0, 50)]
    mask = coverage(zigzag, (40, 34))
    wide = np.array(zigzag)[:, ::-1]  # the same shape lying down
    assert_allclose(mask, coverage(wide, (34, 40)).T, rtol=0, atol=ROUNDING)


def test_no_contours_cover_nothing():
    """An empty list of rings gives zeros."""
    assert not coverage([], (3, 4)).any()


@pytest.mark.parametrize(
    ("contours", "text"),
    [
        ([(0, 0), (1, math.nan), (1, 1)], r"contours\[1\] is \(1.0, nan\)"),
        ([(0, 0), (1, 1)], "2 distinct vertices"),
        (np.zeros((4, 3)), r"shape \(4, 3\)"),
        (7, "contours is int"),
    ],
)
def test_bad_vertices_are_named(contours, text):
    """What is no region is refused with the place at fault."""
    with pytest.raises(GeometryError, match=text):
        coverage(contours, (5, 6))


def test_bad_options_are_refused():
    """A shape is two positive integers; the error for a rule lists what is allowed."""
    with pytest.raises(OptionError, match="shape is"):
        coverage(SQUARE, (0, 5))
    with pytest.raises(OptionError, match=r"did you mean 'center'"):
        coverage(SQUARE, (5, 6), origin="centre")
    with pytest.raises(OptionError, match="fill"):
        coverage(SQUARE, (5, 6), fill="odd")
