"""Crossings, spikes and jumps of rings, and how rings lie to each other."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastseg._kernels.contours.crossings import MOST_COUNTED, find_crossings
from fastseg.quality.outlines import (
    MOST_KEPT,
    area_of,
    jumps_of,
    loops_of,
    next_vertices,
    rings_cross,
    spikes_of,
)
from tests.quality.faults.shape import circle

SQUARE = np.array([[0.0, 0], [10, 0], [10, 10], [0, 10]])
ROUND = circle(np.array([30.0, 30.0]), 12.0, 75)
HOLE = circle(np.array([30.0, 30.0]), 4.0, 20)[::-1]
HOLE = np.roll(HOLE, 1, axis=0)  # to begin at the right


def crossings(ring):
    """Return the edges of a ring that cross, and how many do."""
    points = np.array(ring, np.float64)
    bounds = np.array([0, len(points)])
    found = np.empty((1, MOST_KEPT, 2), np.int64)
    counts = np.zeros(1, np.int64)
    find_crossings(points, next_vertices(bounds), bounds, 0, 1, found, counts)
    return found[0, : counts[0]], int(counts[0])


def crossings_in_fractions(ring):
    """Return the number of pairs of edges that cross, by rational arithmetic."""

    def side(a, b, c):
        value = (c[0] - a[0]) * (b[1] - a[1]) - (c[1] - a[1]) * (b[0] - a[0])
        return (value > 0) - (value < 0)

    points = [(Fraction(x), Fraction(y)) for x, y in ring]
    edges = list(zip(points, points[1:] + points[:1], strict=True))
    return sum(
        side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
        for (a, b), (c, d) in combinations(edges, 2)
    )


@pytest.mark.kernel
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.1, 0.2, 0.30000000000000004, 0.5, 1.0, 1e-200]),
            st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 1.0, -1e200, 5e-324]),
        ),
        min_size=3,
        max_size=7,
    )
    | st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=35, max_size=40)
)
def test_crossings_are_those_of_rational_arithmetic(ring):
    """Also of points on a line, of tiny and huge numbers, and across blocks."""
    _, count = crossings(ring)
    expected = crossings_in_fractions(ring)
    assert count == expected


@pytest.mark.parametrize(
    "ring",
    [
        SQUARE,
        np.concatenate([SQUARE, SQUARE[:1]]),
        # A keyhole: in to a hole and back out on the same line.
        [
            (0, 0),
            (9, 0),
            (9, 9),
            (0, 9),
            (0, 0),
            (3, 3),
            (3, 6),
            (6, 6),
            (6, 3),
            (3, 3),
        ],
        # Two squares that touch at a vertex, or at a vertex and an edge.
        [(0, 0), (2, 0), (2, 2), (4, 2), (4, 4), (2, 4), (2, 2), (0, 2)],
        [(0, 0), (4, 0), (2, 2), (4, 4), (0, 4), (2, 2)],
    ],
    ids=["square", "closed", "keyhole", "vertex", "edge"],
)
def test_what_touches_does_not_cross(ring):
    """Nor does an outline that closes itself by a vertex of its own."""
    assert crossings(ring)[1] == 0


def test_a_crossing_has_the_area_of_the_smaller_loop():
    """And the point where the edges cross."""
    ring = np.array([[0.0, 0], [10, 0], [10, 8], [4, 8], [4, -2], [0, -2]])
    edges, count = crossings(ring)
    assert count == 1
    ((area, x, y),) = loops_of(ring, edges)
    assert (x, y) == (4, 0)
    assert area == pytest.approx(8)  # 4 x 2; the other loop has 6 x 8


def test_sides_of_a_keyhole_may_cross():
    """They run back along each other, off by what was rounded; so may its mouth."""
    ring = np.concatenate([ROUND, ROUND[:1], HOLE, HOLE[:1] + (0, 0.01)])
    ring[0, 1] -= 0.01
    edges, count = crossings(ring)
    assert count
    assert loops_of(ring, edges) == []


def test_a_scribble_is_not_counted_to_its_end():
    """It has as many crossings as pairs of edges."""
    rng = np.random.default_rng(0)
    edges, count = crossings(rng.random((3000, 2)))
    assert len(edges) == MOST_KEPT
    assert MOST_COUNTED <= count < 100 * MOST_COUNTED


def test_rings_cross_in_part_only():
    """Not if one lies within the other, beside it, or on it."""
    assert rings_cross([SQUARE, SQUARE / 2 + 1]) is None
    assert rings_cross([SQUARE, SQUARE + (10, 0)]) is None
    assert rings_cross([SQUARE, SQUARE]) is None
    assert rings_cross([SQUARE, SQUARE + 5]) in [(10, 5), (5, 10)]
    # A ring that crosses itself does not cross another.
    assert rings_cross([SQUARE[[0, 2, 1, 3]], SQUARE + 50]) is None


@pytest.mark.parametrize("length", [5, 8, 15])
def test_a_spike_is_found_at_its_tip(length):
    """Of one vertex, of many along both sides, and with the tip twice."""
    outward = np.array([1.0, 0.0])
    tip = ROUND[0] + length * outward
    there = np.linspace(ROUND[0], tip, 6)
    for ring in (
        np.insert(ROUND, 1, tip, axis=0),
        np.concatenate([there, there[::-1] + (0, 0.2), ROUND[1:]]),
        np.concatenate([ROUND[:1], [tip, tip], ROUND[1:]]),
        np.concatenate([ROUND[:1], [tip], ROUND[1:], ROUND[:1]]),
    ):
        ((found, x, y), *more) = spikes_of(ring, 3)
        assert (x, y) == pytest.approx(tuple(tip), abs=0.3)
        assert found == pytest.approx(length, rel=0.3)
        assert len(more) < 2


@pytest.mark.parametrize(
    "ring",
    [
        ROUND,
        SQUARE,
        np.concatenate([ROUND, ROUND[:1]]),
        circle(np.zeros(2), 1.0, 12),  # smaller than a spike
        np.array([[0.0, 0], [20, 0], [3, 12]]),  # corners of 50 and 60 degrees
        np.concatenate([ROUND, ROUND[:1], HOLE, HOLE[:1]]),
    ],
    ids=["round", "square", "closed", "small", "triangle", "keyhole"],
)
def test_what_is_no_spike(ring):
    """Corners, small rings and keyholes."""
    assert spikes_of(ring, 3) == []


def test_an_edge_that_jumps_is_found():
    """Where vertices are missing, or lie elsewhere."""
    ((length, x, y),) = jumps_of(ROUND[20:], 5, 4)
    assert (x, y) == pytest.approx(tuple((ROUND[20] + ROUND[-1]) / 2))
    assert length == pytest.approx(np.hypot(*(ROUND[20] - ROUND[-1])))
    moved = ROUND.copy()
    moved[10:13] += (13.0, 7.0)
    assert len(jumps_of(moved, 5, 4)) == 2


@pytest.mark.parametrize(
    "ring",
    [
        ROUND,
        np.concatenate([ROUND, ROUND[:1]]),
        # Along rows and columns, as outlines of masks.
        np.concatenate([np.arange(20)[:, None] * (0.5, -0.5), [(9.5, 10), (0, 10)]]),
        # A keyhole, whose sides are one and the same line.
        np.concatenate(
            [ROUND, ROUND[:1], circle(np.full(2, 30.0), 3, 12)[[*range(12), 0]]]
        ),
    ],
    ids=["round", "closed", "steps", "keyhole"],
)
def test_what_is_no_jump(ring):
    """Outlines of masks and keyholes have long edges."""
    assert jumps_of(ring, 5, 4) == []


def test_area_has_a_sign():
    """It is positive if x turns towards y."""
    assert area_of(SQUARE) == 100
    assert area_of(SQUARE[::-1] + 1e6) == -100
