"""Contours through the inverse of a mapping, checked with the mapping itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from fastseg._kernels import jit
from fastseg._kernels.augment import bend
from fastseg._kernels.augment import mapping as kernels
from fastseg.augment.mapping import MappingArrays
from tests.strategies import examples
from tests.warp_reference import (
    IDENTITY,
    NO_CONTROL,
    affines,
    mappings,
    output_to_image,
    product,
    rotation,
    seeds,
)

pytestmark = pytest.mark.kernel

EACH = 60  # points on each edge at which it is compared with its true curve


def bend_rings(points, offsets, outer, control, spacing, inner):
    """Return the points and offsets of rings in the output."""
    affines = kernels.Affines(*(np.array([m], float) for m in (outer, inner)))
    displacements = None
    if control.size:
        displacements = kernels.Displacements(control[None].astype(float), spacing)
    mapping = MappingArrays(affines, displacements)
    return mapping.move_rings(np.array(points, float), np.array(offsets, np.int64))


def random_rings(seed, count, size):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 6, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return random.uniform(-size, 2 * size, (offsets[-1], 2)), offsets


def dense(ring, each=EACH):
    """Return points along the edges of a ring, including the vertices."""
    fraction = np.linspace(0, 1, each, endpoint=False)[:, None]
    after = np.roll(ring, -1, axis=0)
    return (ring[:, None] * (1 - fraction) + after[:, None] * fraction).reshape(-1, 2)


def distances(points, ring):
    """Return the distance of each point from a ring."""
    along = np.roll(ring, -1, axis=0) - ring
    square = np.maximum((along**2).sum(axis=1), 1e-300)
    away = points[:, None] - ring
    fraction = np.clip((away * along).sum(axis=2) / square, 0, 1)
    return np.linalg.norm(away - fraction[..., None] * along, axis=2).min(axis=1)


@given(affines(), affines(), seeds)
def test_vertices_go_through_the_inverse(outer, inner, seed):
    """Without a displacement, the mapping moves the vertices back; none are added."""
    points, offsets = random_rings(seed, 3, 40)
    mapping = outer, NO_CONTROL, 1.0, inner
    moved, ends = bend_rings(points, offsets, *mapping)
    assert_array_equal(ends, offsets)
    assert_allclose(output_to_image(mapping, moved), points, atol=1e-9)


@given(mappings(straight=False), seeds)
@examples(40)
def test_bent_rings_lie_on_the_true_curves(mapping, seed):
    """Vertices stay, new points are on the edges, and edges are within TOLERANCE."""
    check_rings(mapping, *random_rings(seed, 2, 25))


@pytest.mark.parametrize("ends", [[(-80, -90), (-70, 110)], [(90, 70), (-110, 80)]])
def test_edges_beside_the_control_points_are_bent_too(ends):
    """Edges bend far outside the grid, as the outermost coefficients are repeated."""
    control = np.zeros((5, 5, 2))
    control[2], control[:, 2] = 1.4, 1.4
    mapping = IDENTITY, control, 3.0, IDENTITY
    check_rings(mapping, np.array(ends, float), np.array([0, 2]))


def check_rings(mapping, points, offsets):
    """Check bent rings with the mapping itself."""
    moved, ends = bend_rings(points, offsets, *mapping)
    back = output_to_image(mapping, moved)
    scale = np.abs(mapping[3][:, :2]).max()
    for k in range(len(offsets) - 1):
        ring = points[offsets[k] : offsets[k + 1]]
        bent = moved[ends[k] : ends[k + 1]]
        returned = back[ends[k] : ends[k + 1]]
        assert distances(returned, ring).max() < 1e-8 * max(1, scale)
        gaps = np.linalg.norm(returned[:, None] - ring, axis=2).min(axis=0)
        assert gaps.max() < 1e-8 * max(1, scale)
        along = dense(ring)
        true, _ = bend_rings(along, np.array([0, len(along)]), *mapping)
        assert distances(true, bent).max() < bend.TOLERANCE


@given(mappings(straight=False), seeds)
def test_common_edges_stay_common(mapping, seed):
    """Two rings with a common edge have the same points on it, bit for bit."""
    a, b, c, d = np.random.default_rng(seed).uniform(-10, 60, (4, 2))
    points = np.array([a, b, c, b, a, d])
    moved, ends = bend_rings(points, np.array([0, 3, 6]), *mapping)
    first, second = moved[: ends[1]].tolist(), moved[ends[1] :].tolist()
    edge = first[: first.index(moved[0].tolist()) + 1]
    middle = bend_rings(np.array([a, b]), np.array([0, 2]), *mapping)[0].tolist()
    there = middle[: len(middle) // 2 + 1]
    assert first[: len(there)] == there
    assert second[: len(there)] == there[::-1]
    assert edge == first[:1]


def test_strong_displacements_are_inverted():
    """Points are inverted where a displacement nearly folds."""
    spacing = 20.0
    y, x = np.mgrid[:9, :9]
    control = 0.48 * spacing * np.stack([(-1.0) ** x, (-1.0) ** y], axis=2)
    mapping = IDENTITY, control, spacing, IDENTITY
    count = 20 if jit.INTERPRETED else 200
    points = np.random.default_rng(1).uniform(-20, 160, (count, 2))
    moved, _ = bend_rings(points, np.array([0, count]), *mapping)
    returned = output_to_image(mapping, moved)
    assert distances(returned, points).max() < 1e-8


@given(st.sampled_from([0, 1, 2]))
def test_empty_and_tiny_rings(size):
    """Rings of no, one or two points are bent like others, and so is no ring at all."""
    control = np.random.default_rng(0).uniform(-3, 3, (4, 4, 2))
    mapping = IDENTITY, control, 9.0, rotation(20, 1)
    points = np.ones((size, 2)) * 5
    moved, ends = bend_rings(points, np.array([0, 0, size]), *mapping)
    assert ends.tolist() == [0, 0, size]
    assert_allclose(output_to_image(mapping, moved), points, atol=1e-9)
    _, ends = bend_rings(np.empty((0, 2)), np.array([0]), *mapping)
    assert ends.tolist() == [0]


def test_long_edges_get_few_points():
    """An edge much longer than the grid gets points only where it is bent."""
    control = np.random.default_rng(0).uniform(-3, 3, (9, 9, 2))
    ring = np.array([[-1e6, 30.0], [1e6, 31.0], [0, 1e6]])
    mapping = IDENTITY, control, 9.0, IDENTITY
    moved, _ = bend_rings(ring, np.array([0, 3]), *mapping)
    assert len(moved) < 1000
    near = np.abs(moved).max(axis=1) < 200
    assert near.sum() > 20


def test_affines_are_inverted():
    """Both products of a matrix and its inverse are the identity."""
    matrix = np.array([[0.3, -2.0, 17.0], [1.1, 0.4, -8.0]])
    inverse = np.reshape(
        kernels.invert_affine(kernels.Affine(*matrix.ravel().tolist())), (2, 3)
    )
    assert_allclose(product(matrix, inverse), IDENTITY, atol=1e-13)
    assert_allclose(product(inverse, matrix), IDENTITY, atol=1e-13)
