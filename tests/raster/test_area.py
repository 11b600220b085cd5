"""`coverage` compared with rational arithmetic and shapely."""

import math
from fractions import Fraction
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from fastseg import rasterize
from fastseg._kernels.contours import area
from fastseg.errors import GeometryError, OptionError
from fastseg.raster.area import coverage
from fastseg.raster.rings import as_rings, shoelace_area
from fastseg.raster.rules import FILLS
from tests.reference import split_groups
from tests.strategies import (
    examples,
    half_pixels,
    near_image,
    near_pixel_centres,
    rings,
    shapes,
)

# Some inputs overflow on purpose. Without compilation, numpy warns of it.
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning"),
]

# In pixels of area: rounding to float32 gives 6e-8, float64 arithmetic far less.
ROUNDING = 1e-7
# In pixels; float64 arithmetic moves an edge much less than this.
NEAR = Fraction(1, 2**30)

SQUARE = [(1, 1), (4, 1), (4, 3), (1, 3)]
STAR = [(2, -1), (3.3, 4), (-0.7, 0.9), (4.7, 0.9), (0.7, 4)]


@st.composite
def near_pixel_borders(draw):
    """A pixel border, or the next smaller or larger floating-point number."""
    value = draw(st.integers(-2, 6)) - 0.5
    direction = draw(st.sampled_from([0.0, -np.inf, np.inf]))
    return float(np.nextafter(value, direction)) if direction else value


few_halves = st.integers(-3, 11).map(lambda k: k / 2)
far = st.sampled_from([-1e6, -1000.5, 1000.25, 1e6])
mixed_coordinates = st.one_of(
    few_halves,
    near_pixel_centres(),
    near_pixel_borders(),
    st.floats(-2, 6, allow_nan=False),
    far,
)
small_shapes = st.tuples(st.integers(1, 4), st.integers(1, 5))


def edges_of(contours):
    """Yield edges (x0, y0, x1, y1), shifted so that pixel [0, 0] begins at (0, 0)."""
    for ring in contours:
        pts = [(Fraction(x) + Fraction(1, 2), Fraction(y) + Fraction(1, 2))
               for x, y in np.asarray(ring, float).tolist()]  # fmt: skip
        for a, b in pairwise([*pts, pts[0]]):
            yield *a, *b


def x_at(edge, y):
    x0, y0, x1, y1 = edge[:4]
    return x0 + (y - y0) * (x1 - x0) / (y1 - y0)


def crossing_heights(first, second):
    """Return a list with the height at which two lines cross; empty if parallel."""
    slopes = [(e[2] - e[0]) / (e[3] - e[1]) for e in (first, second)]
    if slopes[0] == slopes[1]:
        return []
    gap = x_at(second, 0) - x_at(first, 0)
    return [gap / (slopes[0] - slopes[1])]


def clipped_integral(u):
    """Return the integral from 0 to u of min(max(t, 0), 1) dt, 0 for negative u."""
    return 0 if u <= 0 else u * u / 2 if u <= 1 else u - Fraction(1, 2)


def is_inside(winding, rule):
    return winding % 2 == 1 if rule == "even-odd" else winding != 0


def coverage_exact(contours, shape, fill, groups=None):
    """Return each pixel's area in rational arithmetic: slabs between all crossings."""
    split = split_groups(contours, fill, groups)
    rules = [rule for _, rule in split]
    edges = [
        (*edge, group)
        for group, (rings, _) in enumerate(split)
        for edge in edges_of(rings)
        if edge[1] != edge[3]
    ]
    heights = {Fraction(r) for r in range(shape[0] + 1)}
    heights |= {y for e in edges for y in (e[1], e[3])}
    heights |= {y for pair in combinations(edges, 2) for y in crossing_heights(*pair)}
    slabs = sorted(y for y in heights if 0 <= y <= shape[0])
    mask = [[Fraction(0)] * shape[1] for _ in range(shape[0])]
    for top, bottom in pairwise(slabs):
        slab_edges = [e for e in edges if min(e[1], e[3]) <= top < max(e[1], e[3])]
        slab_edges.sort(key=lambda e: x_at(e, (top + bottom) / 2))
        windings = [0] * len(split)
        for edge in slab_edges:
            before = any(map(is_inside, windings, rules))
            windings[edge[4]] += 1 if edge[1] < edge[3] else -1
            sign = any(map(is_inside, windings, rules)) - before
            for column in range(shape[1]) if sign else ():
                u0, u1 = (column + 1 - x_at(edge, y) for y in (top, bottom))
                if u0 == u1:
                    part = min(max(u0, 0), 1)
                else:
                    part = (clipped_integral(u1) - clipped_integral(u0)) / (u1 - u0)
                mask[int(top)][column] += sign * (bottom - top) * part
    return np.array(mask, float)


def is_near(edge, row, column):
    """Return whether an edge comes within NEAR of a pixel."""
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


@examples(150)
@given(
    st.lists(rings(mixed_coordinates, 6), min_size=1, max_size=2),
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
    """Any rings give each pixel's exact area, however they cross or overlap."""
    assert_allclose(
        coverage(contours, shape, fill=fill),
        coverage_exact(contours, shape, fill),
        rtol=0,
        atol=ROUNDING,
    )


few_groups = st.lists(st.integers(0, 2), min_size=3, max_size=3)


@examples(150)
@given(
    st.lists(rings(mixed_coordinates, 5), min_size=1, max_size=3),
    few_groups,
    small_shapes,
    st.sampled_from(FILLS),
)
@example([SQUARE, SQUARE, STAR], [0, 1, 2], (4, 5), "even-odd")
@example([SQUARE, SQUARE, STAR], [1, 1, 0], (4, 5), "even-odd")
@example([STAR, STAR[::-1], SQUARE], [0, 1, 1], (4, 5), "nonzero")
def test_coverage_of_groups_equals_rational_arithmetic(contours, groups, shape, fill):
    """Each pixel's area is that of the union of the groups, however they overlap."""
    groups = groups[: len(contours)]
    assert_allclose(
        coverage(contours, shape, groups=groups, fill=fill),
        coverage_exact(contours, shape, fill, groups),
        rtol=0,
        atol=ROUNDING,
    )


def list_rows(contours, height, numbers):
    """Return the pieces of all rows, and each row's end index."""
    points, offsets = as_rings(contours)
    size = len(points) * height
    pieces = area.Pieces(np.empty((size, 4)), np.empty(size, np.int64))
    row_starts = np.empty(height + 2, np.int64)
    area.count_pieces(points, offsets, 0.5, height, row_starts)
    ends = np.cumsum(row_starts[1 : height + 1])
    row_starts[: height + 1] = [0, *ends]
    area.list_pieces(points, offsets, numbers, 0.5, 0, height, row_starts, pieces)
    assert_array_equal(row_starts[:height], ends)
    return pieces, ends


@examples(50)
@given(
    st.lists(rings(mixed_coordinates, 6), min_size=1, max_size=3),
    few_groups,
    st.sampled_from(FILLS),
)
def test_chains_and_slabs_give_equal_areas(contours, groups, fill):
    """If every row is cut into slabs, the areas are the same."""
    height, width = 4, 5
    groups = np.array(groups[: len(contours)])
    pieces, ends = list_rows(contours, height, groups + 1)
    cells = np.zeros(height * width, np.float32)
    scratch = area.make_cover_scratch(len(pieces.ends), 3, height, width)
    slab, windings, sums = scratch.slab, scratch.windings, scratch.row
    for row, (first, stop) in enumerate(pairwise([0, *ends])):
        area.add_slabs(pieces, first, stop, fill == "nonzero", slab, windings, sums)
        assert not windings.any()
        area.write_row(sums, cells, np.uint64(row * width))
    assert_allclose(
        coverage(contours, (height, width), groups=groups, fill=fill),
        cells.reshape(height, width),
        rtol=0,
        atol=ROUNDING,
    )


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("numbers", [[1, 1], [1, 2]], ids=str)
def test_drawn_rings_need_no_slabs(fill, direction, numbers):
    """`sign_chains` succeeds in every row of a disc within a disc, in any groups."""
    angles = np.arange(80) * np.pi / 40
    disc = np.c_[np.cos(angles), np.sin(angles)]
    contours = [9.3 + 8 * disc, (9.1 + 5 * disc)[::direction]]
    numbers = np.array(numbers)
    pieces, ends = list_rows(contours, 18, numbers)
    chains = area.make_cover_scratch(160, 2, 18, 18).chains
    for first, stop in pairwise([0, *ends]):
        count = area.join_chains(pieces, first, stop, 18, chains)
        assert count >= 0
        windings = np.zeros(3, np.int64)
        assert area.sign_chains(chains, count, fill == "nonzero", windings)


@st.composite
def rings_with_a_hole(draw):
    """(outer, hole): two star-shaped rings around one point, one inside the other."""
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


@examples(40)
@given(rings_with_a_hole())
def test_coverage_equals_shapely(contours):
    """For valid polygons with a hole, each pixel's area is that of shapely."""
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


@given(rings_with_a_hole(), st.booleans())
def test_a_disc_within_a_disc_adds_nothing_to_the_union(contours, swapped):
    """With "union", a ring within another ring changes no pixel's area."""
    outer = coverage(contours[0], (7, 8))
    both = coverage(contours[::-1] if swapped else contours, (7, 8), fill="union")
    assert_allclose(both, outer, rtol=0, atol=ROUNDING)


@examples(100)
@given(
    st.lists(rings(mixed_coordinates, 6), min_size=1, max_size=4),
    st.permutations(range(4)),
    st.lists(st.integers(0, 2), min_size=4, max_size=4),
    st.sampled_from(FILLS),
)
def test_the_order_of_rings_changes_rounding_only(contours, order, groups, fill):
    """Neither the order of groups nor that of rings in a group changes an area."""
    groups = groups[: len(contours)]
    order = [k for k in order if k < len(contours)]
    assert_allclose(
        coverage(
            [contours[k] for k in order],
            (4, 5),
            groups=[groups[k] for k in order],
            fill=fill,
        ),
        coverage(contours, (4, 5), groups=groups, fill=fill),
        rtol=0,
        atol=ROUNDING,
    )


@given(rings_with_a_hole())
def test_coverage_sums_to_the_shoelace_area(contours):
    """The sum of the coverage is the ring's shoelace area minus the hole's."""
    contours = [ring + 4 for ring in contours]
    outer, hole = (shoelace_area(*as_rings(ring)) for ring in contours)
    assume(hole < outer)
    mask = coverage(contours, (17, 18))
    assert_allclose(mask.sum(dtype=float), outer - hole, rtol=1e-6)


@examples(150)
@given(
    st.lists(rings(st.one_of(half_pixels, near_image)), min_size=1, max_size=2), shapes
)
def test_pixels_away_from_edges_equal_the_mask(contours, shape):
    """A pixel with no edge near it is exactly 0 or 1, as in the mask of `rasterize`."""
    mask = coverage(contours, shape)
    binary = rasterize(contours, shape)
    edges = list(edges_of(contours))
    for row, column in np.ndindex(shape):
        if mask[row, column] != binary[row, column]:
            assert any(is_near(edge, row, column) for edge in edges)


@st.composite
def convex_rings_and_a_chord(draw):
    """(whole, left, right): a ring on an ellipse, and the two parts beside a chord."""
    turns = draw(st.lists(st.integers(0, 99), min_size=4, max_size=9, unique=True))
    angles = np.sort(turns) * 2 * np.pi / 100
    x, y, a, b = (draw(st.floats(1, 9)) for _ in range(4))
    ring = np.c_[x + a * np.cos(angles), y + b * np.sin(angles)]
    end = draw(st.integers(2, len(ring) - 2))
    return ring, ring[: end + 1], np.r_[ring[end:], ring[:1]]


@given(convex_rings_and_a_chord(), st.sampled_from(["center", "corner"]))
def test_parts_of_a_ring_add_up(case, origin):
    """If a chord cuts a convex ring in two, the coverages of the parts add up."""
    whole, left, right = (coverage(ring, (12, 14), origin=origin) for ring in case)
    assert_allclose(left + right, whole, rtol=0, atol=3 * ROUNDING)


@given(rings(mixed_coordinates), st.integers(0, 8), st.sampled_from(FILLS))
def test_equal_rings_give_equal_areas(ring, turn, fill):
    """Direction, first vertex, repeated and closing vertices change rounding only."""
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
    """A ring moved by whole pixels gives the moved coverage."""
    large = coverage(np.array(ring) + 20, (60, 60))
    moved = coverage(np.array(ring) + (20 + right, 20 + down), (60, 60))
    shifted = np.roll(large, (down, right), (0, 1))
    # np.roll wraps around at the borders, so the outer 10 pixels are not compared.
    assert_allclose(moved[10:50, 10:50], shifted[10:50, 10:50], rtol=0, atol=ROUNDING)


@given(
    rings(mixed_coordinates),
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from(FILLS),
)
def test_a_smaller_shape_crops_the_coverage(ring, rows, columns, fill):
    """The coverage of a smaller shape is the top left part of that of a larger one."""
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


def test_a_square_through_pixel_centres():
    """Pixels on its sides are covered by half, those at its corners by a quarter."""
    expected = np.zeros((5, 6))
    expected[1:4, 1:5] = np.outer([0.5, 1, 0.5], [0.5, 1, 1, 0.5])
    assert_array_equal(coverage(SQUARE, (5, 6)), expected)


def test_corner_origin_shifts_by_half_a_pixel():
    """With origin="corner", a square on pixel borders covers exactly its pixels."""
    expected = np.zeros((5, 6))
    expected[1:3, 1:4] = 1
    assert_array_equal(coverage(SQUARE, (5, 6), origin="corner"), expected)


def test_a_contour_off_the_image_leaves_zeros():
    """A ring beside the image covers nothing and raises no error."""
    for dx, dy in ((100, 0), (-100, 0), (0, 100), (0, -100)):
        assert not coverage(np.array(STAR) + (dx, dy), (5, 6)).any()


def test_a_contour_around_the_image_covers_it():
    """A ring around the image covers every pixel fully, however far away it is."""
    for size in (100, 1e15, 1e308):
        ring = [(-size, -size), (size, -size), (size, size), (-size, size)]
        assert (coverage(ring, (5, 70)) == 1).all()


def test_rows_with_many_chains_are_exact():
    """Areas are exact in a row with more than MOST_CHAINS chains that are crossed."""
    teeth = [(x / 4, 0.3 * (x % 2)) for x in range(60)]
    comb = [*teeth, (14.75, 3.0), (0.0, 3.0)]
    for fill in FILLS:
        assert_allclose(
            coverage([comb, STAR], (4, 5), fill=fill),
            coverage_exact([comb, STAR], (4, 5), fill),
            rtol=0,
            atol=ROUNDING,
        )


def test_rows_are_processed_in_blocks():
    """Areas are the same if the array of pieces is too small for all rows."""
    zigzag = [(4 * k, 39 * (k % 2)) for k in range(9)] + [(32, 50), (0, 50)]
    mask = coverage(zigzag, (40, 34))
    transposed = np.array(zigzag)[:, ::-1]
    assert_allclose(mask, coverage(transposed, (34, 40)).T, rtol=0, atol=ROUNDING)


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
    """Vertices that form no region raise an error that names the wrong ones."""
    with pytest.raises(GeometryError, match=text):
        coverage(contours, (5, 6))


def test_bad_options_are_refused():
    """A bad shape or rule raises an error that names the option."""
    with pytest.raises(OptionError, match="shape is"):
        coverage(SQUARE, (0, 5))
    with pytest.raises(OptionError, match=r"did you mean 'center'"):
        coverage(SQUARE, (5, 6), origin="centre")
    with pytest.raises(OptionError, match="fill"):
        coverage(SQUARE, (5, 6), fill="odd")
