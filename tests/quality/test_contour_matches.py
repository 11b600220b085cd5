"""Outlines that are the same: pairs, distances and chance."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.spatial.distance import cdist

from fastseg._kernels.contours.matching import compare_places, compare_shapes
from fastseg.quality.contour_matches import (
    expected_by_chance,
    measure_outlines,
    moved,
    same_place,
    same_place_elsewhere,
    step_of,
)
from fastseg.quality.near_pairs import join_pairs, members_of, near_pairs


def hand_drawn(rng, count=80, radius=20.0):
    """Return a ring that nobody draws twice."""
    angle = np.arange(count) * 2 * np.pi / count
    size = radius + sum(
        rng.normal() * radius / (5 * k) * np.cos(k * angle + rng.uniform(0, 7))
        for k in range(2, 8)
    )
    centre = rng.normal(100, 10, 2)
    return centre + size[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])


def outlines_of(rings):
    offsets = np.cumsum([0, *map(len, rings)])
    return measure_outlines(np.concatenate(rings), offsets)


def compare(function, rings, tolerance):
    """Call a kernel for the first ring and each other one."""
    offsets = np.cumsum([0, *map(len, rings)])
    pairs = np.array([(0, k) for k in range(1, len(rings))])
    largest, rms = np.empty(len(pairs)), np.empty(len(pairs))
    points = np.concatenate(rings)
    if function is compare_shapes:
        means = np.array([ring.mean(axis=0) for ring in rings])
        function(points, means, offsets, pairs, tolerance, largest, rms)
    else:
        function(points, offsets, pairs, tolerance, largest, rms)
    return largest, rms


def finely(ring):
    """Return many points along a ring, its vertices among them."""
    parts = np.linspace(0, 1, 200, endpoint=False)[:, None, None]
    return (ring + parts * (np.roll(ring, -1, axis=0) - ring)).reshape(-1, 2)


@pytest.mark.kernel
def test_distances_of_outlines_are_those_of_their_vertices():
    """Against the distances between many points of both."""
    rng = np.random.default_rng(0)
    ring = hand_drawn(rng, 24)
    others = [ring + rng.normal(0, size, ring.shape) for size in (0.01, 0.1, 0.3)]
    others += [np.roll(ring[::-1], 3, axis=0), ring[::2], ring + 5]
    largest, rms = compare(compare_places, [ring, *others], 3.0)
    for k, other in enumerate(others[:-1]):
        there = cdist(ring, finely(other)).min(axis=1)
        back = cdist(other, finely(ring)).min(axis=1)
        both = np.concatenate([there, back])
        assert_allclose(largest[k], both.max(), atol=0.03)
        assert_allclose(rms[k], np.sqrt((both**2).mean()), atol=0.03)
    assert np.isinf([largest[-1], rms[-1]]).all()


@pytest.mark.kernel
def test_distances_of_shapes_are_those_of_corresponding_vertices():
    """Whatever the place, the first vertex and the direction."""
    rng = np.random.default_rng(1)
    ring = hand_drawn(rng, 24)
    noise = rng.normal(0, 0.01, ring.shape)
    noise -= noise.mean(axis=0)
    others = [np.roll(ring, 5, axis=0) + 7, np.roll((ring + noise)[::-1], 3, axis=0)]
    largest, rms = compare(compare_shapes, [ring, *others, hand_drawn(rng, 24)], 0.1)
    distances = np.hypot(*noise.T)
    assert_allclose(largest[:2], [0, distances.max()], atol=1e-9)
    assert_allclose(rms[:2], [0, np.sqrt((distances**2).mean())], atol=1e-9)
    assert np.isinf(largest[2])


def test_near_pairs_are_all_pairs_that_agree():
    """Against all pairs, where few rows lie together; codes keep rows apart."""
    rng = np.random.default_rng(2)
    rows = rng.uniform(-1, 1, (300, 6))
    rows[200:] = rows[:100] + rng.uniform(-0.05, 0.05, (100, 6))
    tolerance = np.full(6, 0.04)
    codes = rng.integers(0, 2, 300)
    agree = (np.abs(rows[:, None] - rows) <= tolerance).all(axis=2)
    for given, wanted in ((None, agree), (codes, agree & (codes[:, None] == codes))):
        expected = np.argwhere(np.triu(wanted, 1)).tolist()
        assert expected
        assert near_pairs(rows, tolerance, given).tolist() == expected


def test_near_pairs_connect_rows_that_are_many_times_there():
    """Work does not grow with the square of the number of equal rows."""
    rows = np.repeat(np.arange(2.0)[:, None], 5000, axis=0)
    pairs = near_pairs(rows, np.array([0.1]))
    assert len(pairs) < 16 * len(rows)
    sizes = [len(members) for members in members_of(join_pairs(len(rows), pairs))]
    assert sizes == [5000, 5000]


def test_no_rows_have_no_pairs():
    """Also a single one has none."""
    for count in (0, 1):
        pairs = near_pairs(np.zeros((count, 2)), np.ones(2))
        assert pairs.shape == (0, 2)
        assert not members_of(join_pairs(count, pairs))


def test_outlines_have_no_repeated_vertices():
    """Nor are rings outlines that have too few, or some that are far or not finite."""
    rng = np.random.default_rng(3)
    ring = hand_drawn(rng, 30)
    closed = np.append(np.repeat(ring, 2, axis=0), ring[:1], axis=0)
    broken = np.where(np.arange(30)[:, None] == 4, np.nan, ring)
    point = np.repeat(ring[:1], 4, axis=0)
    outlines = outlines_of([ring, closed, broken, point, ring * 1e300, ring + 1])
    assert outlines.number.tolist() == [0, 0, -1, -1, -1, 1]
    assert outlines.vertex_count.tolist() == [30, 30]
    assert_allclose(outlines.mean[1] - outlines.mean[0], 1)
    assert_allclose(
        outlines.moments[1] - outlines.moments[0], [1, 1, *[0] * 7], atol=1e-9
    )


def test_copies_are_found_among_many():
    """Of others at one place, and moved; those of the same owner are not asked for."""
    rng = np.random.default_rng(4)
    rings = [hand_drawn(rng) for _ in range(200)]
    rings[150] = np.roll(rings[3][::-1], 9, axis=0).round(1)
    rings[151] = rings[4] + (6, -2)
    rings[153] = rings[152].round(2)
    outlines = outlines_of(rings)
    owner = np.arange(200) // 2
    which = outlines.number
    same = same_place(outlines, which, 0.05, owner)
    assert same.pairs.tolist() == [[152, 153]]
    elsewhere = same_place_elsewhere(outlines, which, 0.75, owner)
    assert elsewhere.pairs.tolist() == [[3, 150]]
    assert 0 < elsewhere.rms[0] < elsewhere.largest[0] < 0.1
    shapes = moved(outlines, which, 0.02)
    assert shapes.pairs.tolist() == [[4, 151], [152, 153]]
    for found, is_placed in ((elsewhere, True), (shapes, False)):
        kind = np.zeros(200, np.int64)
        chance = expected_by_chance(outlines, which, kind, found, is_placed=is_placed)
        assert (chance < 1).all()


def test_a_copy_of_a_contour_that_is_usual_for_its_patient_alone_is_found():
    """Its neighbours are those of the patient: they say little of chance."""
    rng = np.random.default_rng(7)
    rings = [hand_drawn(rng) for _ in range(200)]
    unusual = 3 * (rings[0] - rings[0].mean(axis=0))
    for k in range(12):
        rings[k] = (unusual + (90, 90) + 0.004 * k).round(2)
    rings[150] = rings[5].copy()
    outlines = outlines_of(rings)
    which, owner = outlines.number, np.arange(200) // 12
    found = same_place_elsewhere(outlines, which, 0.02, owner)
    kind = np.zeros(200, np.int64)
    chance = expected_by_chance(
        outlines, which, kind, found, is_placed=True, owner=owner
    )
    assert [5, 150] in found.pairs[chance < 1].tolist()


def test_circles_agree_by_chance():
    """The same circles and ellipses everywhere, as of a phantom, are no copies."""
    rng = np.random.default_rng(5)
    angle = np.arange(12) * np.pi / 6
    unit = np.column_stack([np.cos(angle), np.sin(angle)])
    rings = [rng.uniform(3, 5) * unit + rng.normal(50, 1, 2) for _ in range(500)]
    outlines = outlines_of(rings)
    kind = np.zeros(500, np.int64)
    shapes = moved(outlines, outlines.number, 0.02)
    places = same_place_elsewhere(outlines, outlines.number, 0.75, np.arange(500))
    for found, is_placed in ((shapes, False), (places, True)):
        assert len(found.pairs)
        chance = expected_by_chance(
            outlines, outlines.number, kind, found, is_placed=is_placed
        )
        assert (chance > 1).all()


def test_the_step_of_rounded_vertices_is_known():
    """On grids that begin anywhere."""
    ring = hand_drawn(np.random.default_rng(6))
    for step in (1.0, 0.5, 0.01):
        assert step_of((ring / step).round() * step + 0.123) == step
    assert step_of(ring) == 0
