"""All rules of `rasterize`, `rasterize_batch` and `rasterize_labels`."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from fastseg import rasterize, rasterize_batch, rasterize_labels
from fastseg.errors import GeometryError, OptionError
from fastseg.raster import rules as raster_rules
from fastseg.raster.area import coverage
from fastseg.raster.distance import signed_distance
from fastseg.raster.rings import as_rings
from tests.reference import rasterize_exact, rasterize_whole
from tests.strategies import (
    coordinates,
    examples,
    half_pixels,
    near_image,
    rings,
    shapes,
)

# Some inputs overflow on purpose. Without compilation, numpy warns of it.
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning"),
]

rules = st.fixed_dictionaries(
    {
        "edges": st.sampled_from(raster_rules.EDGES),
        "fill": st.sampled_from(raster_rules.FILLS),
        "origin": st.sampled_from(raster_rules.ORIGINS),
    }
)
several_rings = st.lists(rings(most=7), min_size=1, max_size=3)


def grouped(coordinate=coordinates, most=4):
    """(rings, groups): up to `most` rings, and the number of each one's group."""
    pairs = st.tuples(rings(coordinate, 5), st.integers(0, 2))
    return st.lists(pairs, min_size=1, max_size=most).map(
        lambda pairs: tuple(map(list, zip(*pairs, strict=True)))
    )


@examples(400)
@given(several_rings, shapes, rules)
def test_every_rule_equals_rational_arithmetic(contours, shape, rule):
    """For every finite input and rule, the mask is that of rational arithmetic."""
    expected = rasterize_exact(contours, shape, **rule)
    assert_array_equal(rasterize(contours, shape, **rule), expected)


@examples(200)
@given(several_rings, shapes, rules)
def test_rasterize_whole_equals_rational_arithmetic(contours, shape, rule):
    """`rasterize_whole`, the reference of the soak test, is exact for every rule."""
    expected = rasterize_exact(contours, shape, **rule)
    assert_array_equal(rasterize_whole(contours, shape, **rule), expected)


@examples(200)
@given(st.lists(rings(half_pixels, 7), min_size=1, max_size=2), shapes, rules)
def test_ties_are_decided_exactly(contours, shape, rule):
    """Pixel centres on vertices and edges follow the rule exactly."""
    expected = rasterize_exact(contours, shape, **rule)
    assert_array_equal(rasterize(contours, shape, **rule), expected)


@examples(300)
@given(st.one_of(grouped(), grouped(half_pixels)), shapes, rules)
def test_groups_equal_rational_arithmetic(case, shape, rule):
    """Rings in groups give the mask of exact arithmetic under every rule."""
    contours, groups = case
    expected = rasterize_exact(contours, shape, groups=groups, **rule)
    assert_array_equal(rasterize(contours, shape, groups=groups, **rule), expected)
    whole = rasterize_whole(contours, shape, groups=groups, **rule)
    assert_array_equal(whole, expected)


@given(grouped(), shapes, rules, st.permutations(range(4)))
def test_a_mask_is_the_union_of_its_groups(case, shape, rule, order):
    """A mask is the logical or of its groups' masks, in whatever order rings come."""
    contours, groups = case
    union = np.zeros(shape, bool)
    for group in set(groups):
        pairs = zip(contours, groups, strict=True)
        some = [ring for ring, number in pairs if number == group]
        union |= rasterize(some, shape, groups=[0] * len(some), **rule)
    order = [k for k in order if k < len(contours)]
    shuffled = [contours[k] for k in order]
    numbers = [groups[k] for k in order]
    assert_array_equal(rasterize(shuffled, shape, groups=numbers, **rule), union)


@given(several_rings, shapes, rules)
def test_rings_are_one_group_by_default_and_one_each_under_union(contours, shape, rule):
    """Without `groups`, all rings are one group, or with "union" each is a group."""
    count = len(contours)
    groups = range(count) if rule["fill"] == "union" else [7] * count
    explicit = rasterize(contours, shape, groups=groups, **rule)
    assert_array_equal(rasterize(contours, shape, **rule), explicit)


@given(several_rings, st.integers(60, 70), rules)
def test_wide_masks_are_filled_across_words(contours, width, rule):
    """A run across column 64, where a new word of bits begins, is filled correctly."""
    moved = [[(x + 60, y) for x, y in ring] for ring in contours]
    try:
        expected = rasterize_exact(moved, (2, width + 4), **rule)
        mask = rasterize(moved, (2, width + 4), **rule)
    except GeometryError:  # after the move, two vertices are equal
        assume(False)
    assert_array_equal(mask, expected)


@given(grouped(), shapes, rules)
def test_a_mask_filled_in_bands_is_the_same(case, shape, rule):
    """A mask larger than the scratch is filled in bands, with the same result."""
    contours, rule["groups"] = case
    whole = rasterize(contours, shape, **rule)
    cells = raster_rules.WINDING_CELLS
    raster_rules.WINDING_CELLS = 2 * shape[1] + 2
    try:
        assert_array_equal(rasterize(contours, shape, **rule), whole)
    finally:
        raster_rules.WINDING_CELLS = cells


@given(rings(), shapes, rules, st.integers(0, 8))
def test_equal_rings_give_equal_masks_under_every_rule(ring, shape, rule, turn):
    """Direction, first vertex, repeated and closing vertices do not change the mask."""
    mask = rasterize(ring, shape, **rule)
    turn %= len(ring)
    doubled = [vertex for vertex in ring for _ in range(2)]
    for other in (ring[::-1], ring[turn:] + ring[:turn], [*ring, ring[0]], doubled):
        assert_array_equal(rasterize(other, shape, **rule), mask)


@given(rings(half_pixels), st.integers(0, 5), st.integers(0, 5), rules)
def test_a_mask_moves_with_its_ring(ring, down, right, rule):
    """A ring moved by whole pixels gives the moved mask, cropped at the border."""
    large = rasterize([(x + right, y + down) for x, y in ring], (14, 15), **rule)
    cut = large[down:, right:]
    assert_array_equal(rasterize(ring, cut.shape, **rule), cut)


@given(rings(near_image, 6), st.sampled_from(raster_rules.FILLS))
def test_open_lies_within_half_open_within_closed(ring, fill):
    """Open masks lie within half-open masks, and these within closed masks."""
    closed, half, opened = (
        rasterize(ring, (12, 12), edges=edges, fill=fill)
        for edges in ("closed", "half-open", "open")
    )
    assert (opened <= half).all()
    assert (half <= closed).all()


def star(count, radius=5.0, centre=6.0):
    angle = np.arange(count) * (2 * np.pi / count)
    reach = radius * (1 + 0.3 * np.cos(5 * angle))
    return centre + reach[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])


@given(st.integers(5, 30), near_image, near_image)
def test_triangles_of_a_polygon_add_up_to_it(count, x, y):
    """Half-open triangles from any point to each edge add up to the polygon's mask."""
    ring = star(count)
    total = np.zeros((13, 13), int)
    for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        corners = {tuple(a.tolist()), tuple(b.tolist()), (x, y)}
        if len(corners) == 3:
            turn = np.cross([*(b - a), 0], [x - a[0], y - a[1], 0])[2]
            total += np.sign(turn).astype(int) * rasterize([a, b, (x, y)], (13, 13))
    assert_array_equal(np.abs(total), rasterize(ring, (13, 13)))


def test_holes_and_overlaps_follow_the_fill():
    """Even-odd removes an overlap; nonzero keeps it unless directions are opposite."""
    one, two = [(0, 0), (6, 0), (6, 6), (0, 6)], [(3, 3), (9, 3), (9, 9), (3, 9)]
    overlap = (slice(3, 6), slice(3, 6))
    assert not rasterize([one, two], (9, 9))[overlap].any()
    assert rasterize([one, two], (9, 9), fill="nonzero")[overlap].all()
    assert not rasterize([one, two[::-1]], (9, 9), fill="nonzero")[overlap].any()
    assert rasterize([one, one], (9, 9), fill="nonzero").sum() == 36
    assert rasterize([one, one], (9, 9)).sum() == 0


def test_union_covers_what_any_ring_covers():
    """A union of disjoint, overlapping, nested or equal rings has no hole."""
    one, two = [(0, 0), (6, 0), (6, 6), (0, 6)], [(3, 3), (9, 3), (9, 9), (3, 9)]
    inner, apart = [(2, 2), (4, 2), (4, 4), (2, 4)], [(7, 0), (9, 0), (9, 2), (7, 2)]
    for other, count in ((two, 63), (inner, 36), (apart, 40), (one, 36)):
        for ring in (other, other[::-1]):
            assert rasterize([one, ring], (9, 9), fill="union").sum() == count
            assert rasterize([ring, one], (9, 9), groups=[5, 2]).sum() == count


def test_union_fills_a_ring_that_crosses_itself_even_odd():
    """What a ring surrounds twice is outside it under union, as under even-odd."""
    twice = [(0, 0), (6, 0), (6, 6), (0, 6)] * 2
    assert not rasterize([twice], (9, 9), fill="union").any()
    assert rasterize([twice, twice[:4]], (9, 9), fill="union").sum() == 36


def test_a_hole_is_a_hole_in_its_group_only():
    """The hole of one group is inside if another group covers it."""
    outer, hole = [(0, 0), (6, 0), (6, 6), (0, 6)], [(2, 2), (4, 2), (4, 4), (2, 4)]
    assert rasterize([outer, hole], (6, 6), groups=[0, 0]).sum() == 32
    assert rasterize([outer, hole, hole], (6, 6), groups=[0, 0, 1]).sum() == 36
    assert rasterize([outer, hole, hole], (6, 6), groups=[0, 1, 0]).sum() == 36


def test_a_ring_may_wind_many_times():
    """A winding number of 255, 256 or 257 counts as inside under nonzero."""
    square = [(1, 1), (5, 1), (5, 4), (1, 4)]
    for turns in (255, 256, 257):
        mask = rasterize(square * turns, (6, 7), fill="nonzero")
        assert mask.sum() == 12
        assert rasterize(square * turns, (6, 7)).sum() == 12 * (turns % 2)


def test_closed_and_open_equal_shapely():
    """On polygons with a hole, closed is `covers` and open is `contains_properly`."""
    shapely = pytest.importorskip("shapely")
    rng = np.random.default_rng(5)
    grid = shapely.points(*np.meshgrid(np.arange(13), np.arange(13)))
    for _ in range(60):
        ring = np.round(star(17, 4 + rng.random()) * 2) / 2
        hole = [(6, 6), (7.5, 6), (7, 7.5)]
        polygon = shapely.Polygon(ring, [hole])
        if not polygon.is_valid:
            continue
        closed = rasterize([ring, hole], (13, 13), edges="closed")
        opened = rasterize([ring, hole], (13, 13), edges="open")
        assert_array_equal(closed, shapely.covers(polygon, grid))
        assert_array_equal(opened, shapely.contains_properly(polygon, grid))


@given(
    st.lists(rings(most=6), max_size=5), shapes, rules, st.sampled_from([1, 2, 3, 8])
)
def test_rasterize_batch_equals_a_loop(contours, shape, rule, threads):
    """Masks drawn in one call, by any number of threads, equal masks drawn singly."""
    points, offsets = as_rings(contours)
    out = np.full((len(contours), *shape), 99, np.uint8)
    masks = rasterize_batch(points, offsets, shape, out, threads=threads, **rule)
    assert masks is out
    for mask, ring in zip(masks, contours, strict=True):
        assert_array_equal(mask, rasterize(ring, shape, **rule))
    fresh = rasterize_batch(points, offsets, shape, threads=threads, **rule)
    assert fresh.dtype == np.bool_
    assert_array_equal(fresh, out)


def test_a_mask_may_have_several_rings():
    """With `mask_offsets`, a mask has several rings, or none."""
    one, hole = [(0, 0), (6, 0), (6, 6), (0, 6)], [(2, 2), (4, 2), (4, 4), (2, 4)]
    points, offsets = as_rings([one, hole, hole])
    masks = rasterize_batch(points, offsets, (6, 6), mask_offsets=[0, 2, 2, 3])
    assert masks.sum(axis=(1, 2)).tolist() == [32, 0, 4]


@given(st.lists(grouped(most=3), max_size=4), shapes, rules, st.sampled_from([1, 2]))
def test_rasterize_batch_with_groups_equals_a_loop(cases, shape, rule, threads):
    """Groups hold within each mask, also if two masks have groups of one number."""
    points, offsets = as_rings([ring for contours, _ in cases for ring in contours])
    masks = rasterize_batch(
        points,
        offsets,
        shape,
        mask_offsets=np.cumsum([0, *(len(groups) for _, groups in cases)]),
        groups=np.array([n for _, groups in cases for n in groups], int),
        threads=threads,
        **rule,
    )
    for mask, (contours, groups) in zip(masks, cases, strict=True):
        expected = rasterize(contours, shape, groups=groups, **rule)
        assert_array_equal(mask, expected)


def test_rasterize_batch_fills_a_mapped_file(tmp_path):
    """`out` may be a memory-mapped file; every cell is written."""
    path = tmp_path / "masks.bin"
    out = np.memmap(path, np.uint8, "w+", shape=(2, 5, 6))
    out[:] = 7
    points, offsets = as_rings([[(1, 1), (4, 1), (4, 3), (1, 3)]] * 2)
    rasterize_batch(points, offsets, (5, 6), out)
    out.flush()
    again = np.fromfile(path, np.uint8).reshape(2, 5, 6)
    assert_array_equal(again[1], rasterize([(1, 1), (4, 1), (4, 3), (1, 3)], (5, 6)))


@given(st.lists(st.lists(rings(most=5), max_size=2), max_size=10), shapes, rules)
def test_rasterize_labels_sets_a_bit_per_class(classes, shape, rule):
    """Bit k is the mask of class k; the dtype is the smallest with enough bits."""
    bits = rasterize_labels(classes, shape, **rule)
    assert bits.dtype == (np.uint8 if len(classes) <= 8 else np.uint16)
    for k, contours in enumerate(classes):
        mask = (bits >> bits.dtype.type(k)) & bits.dtype.type(1)
        assert_array_equal(mask, rasterize(contours, shape, **rule))
    named = {str(k): contours for k, contours in enumerate(classes)}
    assert_array_equal(rasterize_labels(named, shape, **rule), bits)


def test_up_to_64_classes_fit():
    """The dtype grows with the number of classes; a 65th class is refused."""
    square = [(0, 0), (1, 0), (1, 1), (0, 1)]
    for count, dtype in ((8, "u1"), (9, "u2"), (17, "u4"), (33, "u8"), (64, "u8")):
        bits = rasterize_labels([square] * count, (2, 2))
        assert bits.dtype == dtype
        assert int(bits[0, 0]) == 2**count - 1
    with pytest.raises(OptionError, match="65 classes given, a mask holds at most 64"):
        rasterize_labels([square] * 65, (2, 2))


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"points": np.zeros((6, 3))}, GeometryError, r"points has shape \(6, 3\)"),
        ({"points": np.zeros((6, 2), "c8")}, GeometryError, "points has dtype complex"),
        ({"points": np.full((6, 2), "1")}, GeometryError, "points has dtype <U1"),
        ({"points": np.full((6, 2), None)}, GeometryError, "points has dtype object"),
        ({"offsets": [0, 4, 3, 6]}, GeometryError, r"offsets\[2\] is 3 after 4"),
        ({"offsets": [0, 3, 7]}, GeometryError, "offsets goes from 0 to 7, expected 0"),
        ({"offsets": [1, 3, 6]}, GeometryError, "offsets goes from 1 to 6"),
        ({"offsets": [0, 2, 6]}, GeometryError, r"offsets\[0\] has 2 distinct"),
        ({"offsets": [0.0, 3, 6]}, GeometryError, "offsets has dtype float64"),
        ({"offsets": []}, GeometryError, "offsets is float64"),
        ({"mask_offsets": [0, 3]}, GeometryError, "mask_offsets goes from 0 to 3"),
        ({"mask_offsets": [0, 2, 1, 2]}, GeometryError, r"offsets\[2\] is 1 after 2"),
        ({"groups": [0, 1]}, OptionError, "groups is given without mask_offsets"),
        ({"mask_offsets": [0, 2], "groups": [0]}, OptionError, "each of 2 rings"),
        ({"out": np.zeros((2, 5, 5), bool)}, OptionError, r"out has shape \(2, 5, 5\)"),
        ({"out": np.zeros((2, 5, 6))}, OptionError, "out is float64"),
        (
            {"out": np.zeros((2, 6, 5), bool).swapaxes(1, 2)},
            OptionError,
            "C-contiguous",
        ),
        ({"out": [1]}, OptionError, "out is list"),
        ({"shape": (5,)}, OptionError, r"shape is \(5,\)"),
        ({"threads": 0}, OptionError, "threads is 0"),
        ({"threads": 1.5}, OptionError, "threads is 1.5, expected a whole number"),
        ({"threads": "2"}, OptionError, "threads is '2'"),
        ({"edges": "shut"}, OptionError, "edges is 'shut', expected one of"),
        ({"fill": "evenodd"}, OptionError, "did you mean 'even-odd'"),
        ({"origin": "middle"}, OptionError, "origin is 'middle'"),
    ],
)
def test_bad_arguments_of_rasterize_batch_are_refused(changes, error, text):
    """The error names the argument, and the index if it has one."""
    triangle = [(0.0, 0.0), (4.0, 0.0), (0.0, 4.0)]
    good = {"points": triangle * 2, "offsets": [0, 3, 6], "shape": (5, 6)}
    with pytest.raises(error, match=text):
        rasterize_batch(**{**good, **changes})


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        ([0], r"groups is int64 \(1,\), expected an integer for each of 2 rings"),
        (0, "expected an integer for each of 2 rings"),
        ([0.0, 1.0], r"groups has dtype float64"),
        ([True, False], r"groups has dtype bool"),
        ([0, -1], r"groups\[1\] is -1, expected 0 to 2\*\*63 - 1"),
        (np.array([0, 2**63], np.uint64), r"groups\[1\] is 9223372036854775808"),
    ],
)
def test_bad_groups_are_refused(groups, text):
    """`rasterize`, `coverage` and `signed_distance` name what is wrong with groups."""
    triangle = [(0.0, 0.0), (4.0, 0.0), (0.0, 4.0)]
    for function in (rasterize, coverage, signed_distance):
        with pytest.raises(OptionError, match=text):
            function([triangle, triangle], (5, 6), groups=groups)


def test_a_bad_ring_of_a_group_is_named_by_its_own_number():
    """The number of a ring in an error is that in the call, whatever its group."""
    triangle = [(0.0, 0.0), (4.0, 0.0), (0.0, 4.0)]
    with pytest.raises(GeometryError, match=r"contours\[2\] has 2 distinct"):
        rasterize([triangle, triangle, triangle[:2]], (5, 6), groups=[1, 2, 0])


def test_rasterize_batch_names_a_vertex_that_is_not_finite():
    """The error names the ring and the index of the vertex within it."""
    points = np.array([(0, 0), (4, 0), (0, 4)] * 2, float)
    points[4, 1] = np.nan
    with pytest.raises(GeometryError, match=r"offsets\[1\]\[1\] is \(4.0, nan\)"):
        rasterize_batch(points, [0, 3, 6], (5, 6))


def test_a_row_may_have_hundreds_of_crossings():
    """A comb of 200 teeth gives every second column."""
    teeth = 200
    x = np.repeat(np.arange(2 * teeth), 2) + 0.25
    y = np.tile([-1.0, 9.0, 9.0, -1.0], teeth)
    mask = rasterize(np.column_stack([x, y]), (8, 2 * teeth + 2))
    assert_array_equal(
        mask[:, : 2 * teeth - 1], np.arange(2 * teeth - 1) % 2 == [[1]] * 8
    )
