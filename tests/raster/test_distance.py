"""`signed_distance` compared with rational arithmetic, shapely and circles."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from fastseg.errors import GeometryError, OptionError
from fastseg.raster.distance import signed_distance
from fastseg.raster.masks import rasterize
from fastseg.raster.rules import FILLS
from tests.strategies import any_finite, examples, half_pixels, near_image, rings

# Some inputs overflow on purpose. Without compilation, numpy warns of it.
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning"),
]

# The documented error: relative to the distance, and to the larger spacing.
RELATIVE = 1e-6
OF_SPACING = 1e-9
LARGEST = float(np.finfo(np.float32).max)
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)

SQUARE = [(1, 1), (4, 1), (4, 3), (1, 3)]

small_shapes = st.tuples(st.integers(1, 3), st.integers(1, 4))
steps = st.one_of(st.sampled_from([1.0, 0.5, 3.0]), st.floats(0.1, 10))
spacings = st.tuples(steps, steps)
any_step = st.floats(0, exclude_min=True, allow_infinity=False)
origins = st.sampled_from(["center", "corner"])
fills = st.sampled_from(FILLS)


def square_exact(ring, x, y, spacing):
    """Return the squared distance from (x, y) to a ring in rational arithmetic."""
    down, right = (Fraction(step) ** 2 for step in spacing)
    points = [(Fraction(u) - x, Fraction(v) - y) for u, v in ring]
    least = None
    for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True):
        dx, dy = bx - ax, by - ay
        length = right * dx * dx + down * dy * dy
        along = -(right * ax * dx + down * ay * dy) / length if length else 0
        along = min(max(along, 0), 1)
        u, v = ax + along * dx, ay + along * dy
        square = right * u * u + down * v * v
        least = square if least is None else min(least, square)
    return least


def root(square):
    """Return the square root of a rational number as a float; inf if above 2**1000."""
    if not square:
        return 0.0
    half = (square.numerator.bit_length() - square.denominator.bit_length()) // 2
    if half > 1000:
        return math.inf
    return math.ldexp(math.sqrt(square / Fraction(4) ** half), half)


def measure_exact(contours, shape, spacing, origin="center"):
    """Return the unsigned distances of pixel centres: slow and obviously right."""
    shift = Fraction(1, 2) if origin == "corner" else Fraction(0)
    distances = np.empty(shape)
    for r, c in np.ndindex(shape):
        distances[r, c] = root(
            min(square_exact(ring, c + shift, r + shift, spacing) for ring in contours)
        )
    return distances


def measure_float(ring, shape, spacing):
    """Return the unsigned distances in float64, from every pixel to every edge."""
    y, x = np.indices(shape) * np.reshape(spacing, (2, 1, 1))
    points = np.asarray(ring, float) * spacing[::-1]
    least = np.full(shape, np.inf)
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0), strict=True):
        dx, dy = bx - ax, by - ay
        length = dx * dx + dy * dy
        along = ((x - ax) * dx + (y - ay) * dy) / length if length else np.zeros(shape)
        along = np.clip(along, 0, 1)
        least = np.minimum(least, np.hypot(ax + along * dx - x, ay + along * dy - y))
    return least


def assert_distances(distances, truth, spacing):
    """Check that the error of |distances| is at most the documented one."""
    assert distances.dtype == np.float32
    assert not np.isnan(distances).any()
    distances = np.abs(distances.astype(float))
    allowed = RELATIVE * truth + OF_SPACING * max(spacing) + SMALLEST
    finite = np.isfinite(distances)
    assert (truth[~finite] + allowed[~finite] >= LARGEST).all()
    assert (np.abs(distances[finite] - truth[finite]) <= allowed[finite]).all()


@examples(60)
@given(st.lists(rings(most=5), min_size=1, max_size=2), small_shapes, spacings, origins)
def test_distances_equal_rational_arithmetic(contours, shape, spacing, origin):
    """Any finite rings, edges up to 1e308 long included, give the exact distance."""
    distances = signed_distance(contours, shape, spacing, origin=origin)
    truth = measure_exact(contours, shape, spacing, origin)
    assert_distances(distances, truth, spacing)


@examples(60)
@given(rings(any_finite, most=4), small_shapes, st.tuples(any_step, any_step))
def test_any_finite_spacing_is_accurate(ring, shape, spacing):
    """Spacings from 5e-324 to 1e308 mm, in any ratio, overflow in the result alone."""
    distances = signed_distance(ring, shape, spacing)
    assert_distances(distances, measure_exact([ring], shape, spacing), spacing)


def circle(radius, count, x=0.0, y=0.0):
    angle = np.arange(count) * 2 * np.pi / count
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)


def star(count):
    radius = np.where(np.arange(count) % 2, 30.0, 8.0)[:, None]
    return circle(1, count) * radius + (33, 31)


def comb(count):
    """Return a comb with teeth one pixel wide, so that many edges are equally near."""
    x = np.repeat(np.arange(count), 2) * 0.5 + 20
    y = np.tile([5.0, 60.0, 60.0, 5.0], count)[: 2 * count]
    return np.stack([x, y], axis=1)


BIG_RINGS = {
    "random": np.random.default_rng(0).uniform(-20, 90, (30, 2)),
    "clustered": np.random.default_rng(1).normal((5, 60), 1.5, (40, 2)),
    "circle about a centre": circle(25, 60, 32, 32),
    "circle far away": circle(25, 60, 5000, -3000),
    "circle around all": circle(3000, 80, 30, 30),
    "star": star(40),
    "comb": comb(24),
    "repeated vertices": np.repeat(circle(20, 12, 40, 20), 3, axis=0),
}


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (3.0, 0.4)], ids=str)
@pytest.mark.parametrize("name", BIG_RINGS)
def test_dropping_segments_changes_nothing(name, spacing):
    """Branch and bound over several blocks gives the distances of a full comparison."""
    shape = (70, 67)
    distances = signed_distance(BIG_RINGS[name], shape, spacing)
    assert_distances(distances, measure_float(BIG_RINGS[name], shape, spacing), spacing)


@examples(25)
@given(rings(st.floats(-10, 50), most=40), spacings)
def test_dropping_segments_is_safe_for_any_ring(ring, spacing):
    """Rings of up to 40 vertices give the distances of a full comparison."""
    shape = (33, 40)
    truth = measure_float(ring, shape, spacing)
    assert_distances(signed_distance(ring, shape, spacing), truth, spacing)


@pytest.mark.parametrize("seed", range(3))
def test_polygons_with_holes_agree_with_shapely(seed):
    """Distances equal those of shapely to the polygon's boundary, negative inside."""
    shapely = pytest.importorskip("shapely")
    rng = np.random.default_rng(seed)
    outer = circle(1, 24) * rng.uniform(14, 19, (24, 1)) + (20.3, 19.8)
    holes = [
        circle(1, 9) * rng.uniform(1, 4, (9, 1)) + centre
        for centre in ((14.2, 17.1), (26.0, 22.5))
    ]
    polygon = shapely.Polygon(outer, holes)
    assert polygon.is_valid
    y, x = np.indices((40, 42))
    points = shapely.points(x, y)
    truth = shapely.distance(polygon.boundary, points)
    truth[shapely.contains(polygon, points)] *= -1
    distances = signed_distance([outer, *holes], (40, 42))
    assert_allclose(distances, truth, rtol=1e-6, atol=1e-9)


@given(
    st.lists(rings(), min_size=1, max_size=3),
    st.one_of(st.none(), st.lists(st.integers(0, 1), min_size=3, max_size=3)),
    small_shapes,
    fills,
    origins,
)
def test_the_sign_is_that_of_the_mask(contours, groups, shape, fill, origin):
    """Off the outline, distances are negative exactly where the mask is set."""
    groups = groups and groups[: len(contours)]
    options = {"groups": groups, "fill": fill, "origin": origin}
    distances = signed_distance(contours, shape, **options)
    mask = rasterize(contours, shape, **options)
    off = distances != 0
    assert_array_equal((distances < 0)[off], mask[off])


@examples(40)
@given(
    st.lists(rings(near_image, 5), min_size=1, max_size=3),
    st.permutations(range(3)),
    st.lists(st.integers(0, 2), min_size=3, max_size=3),
    fills,
)
def test_neither_groups_nor_order_change_the_outline(contours, order, groups, fill):
    """The outline is every edge of every ring, whatever their groups and order."""
    shape = (3, 4)
    order = [k for k in order if k < len(contours)]
    distances = signed_distance(
        [contours[k] for k in order],
        shape,
        groups=[groups[k] for k in order],
        fill=fill,
    )
    assert_distances(distances, measure_exact(contours, shape, (1, 1)), (1, 1))


def test_an_edge_within_the_union_counts_as_outline():
    """Where squares overlap, distances are negative, to the nearest edge of any."""
    left, right = [(0, 0), (6, 0), (6, 6), (0, 6)], [(2, 0), (9, 0), (9, 6), (2, 6)]
    for options in ({"fill": "union"}, {"groups": [0, 1]}, {"fill": "nonzero"}):
        distances = signed_distance([left, right], (7, 10), **options)
        assert distances[3, :7].tolist() == [0, -1, 0, -1, -2, -1, 0]
    assert signed_distance([left, right], (7, 10))[3, 4] == 2


@examples(50)
@given(rings(half_pixels, most=6), spacings, origins)
def test_the_distance_is_zero_exactly_on_the_outline(ring, spacing, origin):
    """With vertices at half pixels, distances are 0.0 on the outline and only there."""
    shape = (6, 7)
    on = measure_exact([ring], shape, spacing, origin) == 0
    assert_array_equal(signed_distance(ring, shape, spacing, origin=origin) == 0, on)


def test_spacing_is_rows_then_columns():
    """The first spacing applies along y, the second along x; distances are in mm."""
    distances = signed_distance(
        [(0, 0), (10, 0), (10, 10), (0, 10)], (14, 13), (2, 0.5)
    )
    assert distances[5, 3] == -1.5
    assert distances[1, 5] == -2.0
    assert distances[12, 5] == 4.0
    assert distances[5, 12] == 1.0
    assert distances[13, 12] == pytest.approx(math.hypot(6, 1), rel=1e-6)


def test_a_distance_transform_of_a_mask_is_less_accurate():
    """For a circle, scipy's transform of the mask is wrong by 0.4 to 1.1 pixels."""
    ndimage = pytest.importorskip("scipy.ndimage")
    x, y = 23.3, 22.6
    radius = 15.2
    shape = (48, 46)
    ring = circle(radius, 4000, x, y)  # at most 5e-6 pixels from the circle
    rows, columns = np.indices(shape)
    truth = np.hypot(columns - x, rows - y) - radius
    mask = rasterize(ring, shape)
    transform = ndimage.distance_transform_edt
    of_mask = np.abs(transform(~mask) - transform(mask) - truth).max()
    of_ring = np.abs(signed_distance(ring, shape) - truth).max()
    assert 0.4 < of_mask < 1.1, f"scipy {of_mask:.3f} px, fastseg {of_ring:.1e} px"
    assert of_ring < 1e-5, f"scipy {of_mask:.3f} px, fastseg {of_ring:.1e} px"


@given(rings(near_image), small_shapes, spacings, st.integers(0, 8))
def test_equal_rings_give_equal_distances(ring, shape, spacing, turn):
    """Direction, first vertex and a closing vertex change only the rounding."""
    distances = signed_distance(ring, shape, spacing)
    turn %= len(ring)
    for other in (ring[::-1], ring[turn:] + ring[:turn], [*ring, ring[0]]):
        again = signed_distance(other, shape, spacing)
        assert_allclose(again, distances, rtol=1e-6, atol=1e-9 * max(spacing))


@given(rings(half_pixels), spacings, st.integers(0, 6), st.integers(0, 6))
def test_moving_by_whole_pixels_moves_the_distances(ring, spacing, down, right):
    """A ring moved by whole pixels gives the moved distances."""
    large = signed_distance(ring, (14, 15), spacing)
    moved = signed_distance(np.array(ring) - (right, down), (8, 9), spacing)
    expected = large[down : down + 8, right : right + 9]
    assert_allclose(moved, expected, rtol=1e-6, atol=1e-9 * max(spacing))


def test_no_contours_are_infinitely_far():
    """Without contours, every distance is +inf."""
    distances = signed_distance([], (3, 4))
    assert distances.dtype == np.float32
    assert_array_equal(distances, np.full((3, 4), np.inf))


def test_a_long_edge_is_accurate():
    """Distances to an edge of 1e300 pixels through the image are accurate."""
    ring = [(-1e300, -1e300), (1e300, 1e300), (-1e300, 1e300)]
    rows, columns = np.indices((20, 70))
    truth = (columns - rows) / math.sqrt(2)
    assert_allclose(signed_distance(ring, (20, 70)), truth, rtol=1e-6, atol=1e-9)


def test_distances_too_large_for_float32_are_infinite():
    """Distances above 3.4e38 mm are inf with their sign; smaller ones are finite."""
    ring = np.array([(-1e300, -1e300), (1e300, -1e300), (0, 1e300)])
    assert_array_equal(signed_distance(ring, (2, 3)), np.full((2, 3), -np.inf))
    assert_array_equal(signed_distance(ring + (0, 9e300), (1, 1)), [[np.inf]])
    near = signed_distance(ring, (2, 3), (1e-300, 1e-300))
    assert_allclose(near, -1 / math.sqrt(5), rtol=1e-6)


@pytest.mark.parametrize(
    "spacing",
    [(0, 1), (1, -1), (math.nan, 1), (1, math.inf), 1.0, (1, 1, 1), "ab", None],
    ids=str,
)
def test_bad_spacings_are_refused(spacing):
    """A spacing is two positive finite numbers."""
    with pytest.raises(OptionError, match="spacing is"):
        signed_distance(SQUARE, (5, 6), spacing)


def test_other_bad_arguments_are_refused():
    """Bad vertices, shapes and rules raise an error that names them."""
    with pytest.raises(GeometryError, match=r"contours\[1\] is \(1.0, nan\)"):
        signed_distance([(0, 0), (1, math.nan), (1, 1)], (5, 6))
    with pytest.raises(OptionError, match="shape is"):
        signed_distance(SQUARE, (0, 6))
    with pytest.raises(OptionError, match="fill is"):
        signed_distance(SQUARE, (5, 6), fill="odd")
    with pytest.raises(OptionError, match="did you mean 'center'"):
        signed_distance(SQUARE, (5, 6), origin="centre")
