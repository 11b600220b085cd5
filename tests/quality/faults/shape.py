"""Faults of the shape of contours, and of their grid."""

import numpy as np

from tests.quality.study import Fault, Image, Put, Ring, Study

# Classes of one ring, and those that may get a second one.
ONE_RING = ("icontour", "ocontour", "heart", "lung_left", "cord", "p1contour")
SEVERAL_RINGS = ("heart", "lung_left")


def cross_itself(study: Study, rng: np.random.Generator) -> Put:
    """Turn round the order of a fifth to half of the vertices."""
    image, name, ring = pick_ring(study, rng)
    count = len(ring)
    ring = np.roll(ring, int(rng.integers(count)), axis=0)
    some = int(count * rng.uniform(0.2, 0.5))
    ring[:some] = ring[:some][::-1].copy()
    study.contours[image.index, name] = [ring]
    return Put("self-intersection", (image.path,), name)


def add_spike(study: Study, rng: np.random.Generator) -> Put:
    """Add a vertex 8 to 20 pixels outside, between two neighbours."""
    image, name, ring = pick_ring(study, rng)
    k = int(rng.integers(len(ring)))
    middle = (ring[k] + ring[k - 1]) / 2
    away = middle - ring.mean(axis=0)
    tip = middle + away / np.hypot(*away) * rng.uniform(8, 20)
    study.contours[image.index, name] = [np.insert(ring, k, tip, axis=0)]
    return Put("spike", (image.path,), name)


def jump(study: Study, rng: np.random.Generator) -> Put:
    """Move neighbouring vertices far away, or leave out a third to half of all."""
    image, name, ring = pick_ring(study, rng, ("icontour", "ocontour", "heart"))
    count = len(ring)
    ring = np.roll(ring, int(rng.integers(count)), axis=0)
    if rng.random() < 0.5:
        ring = ring[int(count * rng.uniform(0.3, 0.5)) :]
    else:
        angle = rng.uniform(0, 2 * np.pi)
        some = int(rng.integers(2, 5))
        ring[:some] += rng.uniform(12, 30) * np.array([np.cos(angle), np.sin(angle)])
    study.contours[image.index, name] = [ring]
    return Put("jump", (image.path,), name)


def add_tiny_ring(study: Study, rng: np.random.Generator) -> Put:
    """Put a ring of less than a pixel in the place of a contour, or beside it."""
    image, name, ring = pick_ring(study, rng)
    tiny = circle(ring.mean(axis=0), rng.uniform(0.05, 0.5), 5)
    rings = [tiny] if study.kind == "cine" else [ring, tiny]
    study.contours[image.index, name] = rings
    return Put("tiny-ring", (image.path,), name)


def add_speck(study: Study, rng: np.random.Generator) -> Put | None:
    """Add an island of 1.3 to 3.5 pixels beside a contour."""
    if study.kind == "cine":
        return None
    image, name, ring = pick_ring(study, rng, SEVERAL_RINGS)
    k = int(rng.integers(len(ring)))
    centre = ring[k] + 0.3 * (ring[k] - ring.mean(axis=0))
    speck = circle(centre, float(np.sqrt(rng.uniform(1.3, 3.5) / np.pi)), 24)
    study.contours[image.index, name] = [ring, speck]
    return Put("speck", (image.path,), name)


def move_outside(study: Study, rng: np.random.Generator) -> Put:
    """Move a contour out of its image."""
    image, name, ring = pick_ring(study, rng)
    shift = np.zeros(2)
    shift[rng.integers(2)] = rng.choice([-1, 1]) * rng.uniform(150, 400)
    study.contours[image.index, name] = [ring + shift]
    return Put("outside-image", (image.path,), name)


def move_across_border(study: Study, rng: np.random.Generator) -> Put:
    """Move a contour until the border cuts through it."""
    image, name, ring = pick_ring(study, rng, ("icontour", "ocontour", "heart"))
    axis = int(rng.integers(2))
    last = study.clean[image.index].image.shape[::-1][axis] - 0.5
    low, high = ring[:, axis].min(), ring[:, axis].max()
    cut = low + (high - low) * rng.uniform(0.3, 0.7)
    ring[:, axis] += (-0.5 if rng.random() < 0.5 else last) - cut
    study.contours[image.index, name] = [ring]
    return Put("cut-by-border", (image.path,), name)


def overlap_in_part(study: Study, rng: np.random.Generator) -> Put | None:
    """Add a copy of a ring, moved by up to half its size."""
    if study.kind == "cine":
        return None
    image, name, ring = pick_ring(study, rng, SEVERAL_RINGS)
    angle = rng.uniform(0, 2 * np.pi)
    size = float(np.ptp(ring, axis=0).min()) * rng.uniform(0.1, 0.5)
    copy = ring + size * np.array([np.cos(angle), np.sin(angle)])
    study.contours[image.index, name] = [ring, copy]
    return Put("crossing-rings", (image.path,), name)


def repeat_ring(study: Study, rng: np.random.Generator) -> Put | None:
    """Add a ring a second time."""
    if study.kind == "cine":
        return None
    image, name, ring = pick_ring(study, rng, SEVERAL_RINGS)
    study.contours[image.index, name] = [ring, np.roll(ring, 3, axis=0)]
    return Put("crossing-rings", (image.path,), name)


def nest(study: Study, rng: np.random.Generator) -> Put | None:
    """Add a smaller ring within another, in the same direction."""
    if study.kind == "cine":
        return None
    image, name, ring = pick_ring(study, rng, ("heart",))
    study.contours[image.index, name] = [ring, shrunk(ring, rng.uniform(0.3, 0.7))]
    return Put("nested-rings", (image.path,), name)


def nest_the_other_way(study: Study, rng: np.random.Generator) -> Put | None:
    """Add a smaller ring within another, in the opposite direction."""
    if study.kind == "cine":
        return None
    image, name, ring = pick_ring(study, rng, ("heart",))
    inner = shrunk(ring, rng.uniform(0.3, 0.7))[::-1]
    study.contours[image.index, name] = [ring, inner]
    return Put("opposite-winding", (image.path,), name)


def shift_all(study: Study, rng: np.random.Generator) -> Put:
    """Move all contours by half a pixel along x and y."""
    shift = rng.choice([-0.5, 0.5], 2)
    for key, rings in study.contours.items():
        study.contours[key] = [ring + shift for ring in rings]
    _, name = study.pick(rng, ("icontour", "heart"))
    paths = tuple(image.path for image in study.labelled(name))
    return Put("pixel-offset", paths, name)


def round_all(study: Study, rng: np.random.Generator) -> Put:
    """Round all vertices of a class to whole pixels."""
    name = "icontour" if study.kind == "cine" else "heart"
    images = study.labelled(name)
    for image in images:
        (ring,) = study.contours[image.index, name]
        study.contours[image.index, name] = [np.rint(ring)]
    return Put("whole-numbers", tuple(image.path for image in images), name)


def pick_ring(
    study: Study, rng: np.random.Generator, names: tuple[str, ...] = ONE_RING
) -> tuple[Image, str, Ring]:
    """Return a random contour of one of these classes, to be changed at will."""
    image, name = study.pick(rng, names)
    return image, name, study.contours[image.index, name][0].copy()


def circle(centre: Ring, radius: float, count: int) -> Ring:
    """Return a regular polygon."""
    angle = np.arange(count) * 2 * np.pi / count
    return centre + radius * np.column_stack([np.cos(angle), np.sin(angle)])


def shrunk(ring: Ring, factor: float) -> Ring:
    """Return a ring that is smaller, about its centre."""
    centre = ring.mean(axis=0)
    return centre + factor * (ring - centre)


FAULTS: dict[str, Fault] = {
    "contour crosses itself": cross_itself,
    "contour has a spike": add_spike,
    "contour jumps": jump,
    "ring has almost no area": add_tiny_ring,
    "ring of few pixels": add_speck,
    "contour lies outside the image": move_outside,
    "contour is cut by the border": move_across_border,
    "rings overlap in part": overlap_in_part,
    "ring is there twice": repeat_ring,
    "rings lie within each other": nest,
    "rings of opposite winding": nest_the_other_way,
    "all contours are half a pixel off": shift_all,
    "all vertices of a class are rounded": round_all,
}
