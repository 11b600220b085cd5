"""Faults of classes against each other."""

import numpy as np

from tests.quality.study import Fault, Image, Put, Ring, Study

# (inner, outer), and classes that lie apart, of both kinds of phantom.
INSIDE = (
    ("icontour", "ocontour"),
    ("p1contour", "icontour"),
    ("p2contour", "icontour"),
    ("tumour", "lung_left"),
)
APART = (
    ("p1contour", "p2contour"),
    ("cord", "vertebra"),
    ("heart", "lung_left"),
    ("heart", "lung_right"),
    ("oesophagus", "heart"),
)


def leave_outer(study: Study, rng: np.random.Generator) -> Put | None:
    """Move an inner contour until it reaches 1.5 to 5 pixels out of the outer one."""
    found = pick_pair(study, rng, INSIDE)
    if found is None:
        return None
    image, inner, outer = found
    rings = study.contours[image.index, inner]
    ring = study.contours[image.index, outer][0]
    vertex = rings[0][rng.integers(len(rings[0]))]
    away = vertex - rings[0].mean(axis=0)
    away = away / np.hypot(*away)
    distance = 0.0
    while is_inside(vertex + distance * away, ring):
        distance += 0.25
    distance += rng.uniform(1.5, 5)
    study.contours[image.index, inner] = [r + distance * away for r in rings]
    return Put("not-inside", (image.path,), inner)


def overlap(study: Study, rng: np.random.Generator) -> Put | None:
    """Move a contour onto the edge of another one."""
    found = pick_pair(study, rng, APART)
    if found is None:
        return None
    image, moved, other = found
    rings = study.contours[image.index, moved]
    ring = study.contours[image.index, other][0]
    vertex = ring[rng.integers(len(ring))]
    target = vertex + 0.2 * (ring.mean(axis=0) - vertex)
    shift = target - rings[0].mean(axis=0)
    study.contours[image.index, moved] = [r + shift for r in rings]
    return Put("overlap", (image.path,), moved)


def swap_labels(study: Study, rng: np.random.Generator) -> Put | None:
    """Exchange the labels of two classes of an image."""
    image, first = study.pick(rng)
    others = [
        name for index, name in study.contours if index == image.index and name != first
    ]
    if not others:
        return None
    second = others[int(rng.integers(len(others)))]
    one, two = (image.index, first), (image.index, second)
    contours = study.contours
    contours[one], contours[two] = contours[two], contours[one]
    return Put("swapped-labels", (image.path,), first)


def pick_pair(
    study: Study, rng: np.random.Generator, pairs: tuple[tuple[str, str], ...]
) -> tuple[Image, str, str] | None:
    """Return a random image that has both classes of a pair, and the pair."""
    found = [
        (image, first, second)
        for first, second in pairs
        for image in study.labelled(first)
        if (image.index, second) in study.contours
    ]
    return found[int(rng.integers(len(found)))] if found else None


def is_inside(point: Ring, ring: Ring) -> bool:
    """Return whether a point lies inside a ring."""
    (x0, y0), (x1, y1) = ring.T, np.roll(ring, -1, axis=0).T
    x, y = point
    with np.errstate(all="ignore"):
        at = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
    return int((((y0 <= y) != (y1 <= y)) & (at <= x)).sum()) % 2 == 1


FAULTS: dict[str, Fault] = {
    "inner contour leaves the outer one": leave_outer,
    "classes that lie apart overlap": overlap,
    "labels are swapped": swap_labels,
}
