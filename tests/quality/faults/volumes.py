"""Faults of labels along volumes and over time: each changes a study at random."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.quality.study import Fault, Put, Study, signed_area

Ring = NDArray[np.float64]
Track = list[int]  # indices of images
Key = tuple[int, str]

# Pixels. Smaller contours are known too badly to compare them.
LEAST_AREA = 100
LEAST_AREA_OF_SHAPE = 200


def area_jump(study: Study, rng: np.random.Generator) -> Put | None:
    """Make a contour between two others 80 % larger, or half as large."""
    choices = [
        (image, label)
        for label, track, k in between(study)
        if steady(study, label, track[k - 1 : k + 2])
        for image in [track[k]]
    ]
    if not choices:
        return None
    image, label = pick(choices, rng)
    factor = np.sqrt(rng.choice([1.8, 0.5]))
    scale(study, image, label, factor)
    return put(study, "area-jump", [image], label)


def centre_jump(study: Study, rng: np.random.Generator) -> Put | None:
    """Move a contour between two others by 0.4 of its width."""
    choices = [
        (track[k], label)
        for label, track, k in between(study)
        if steady(study, label, track[k - 1 : k + 2])
    ]
    if not choices:
        return None
    image, label = pick(choices, rng)
    move(study, image, label, 0.4 * width(study, image, label), rng)
    return put(study, "centre-jump", [image], label)


def overlap_jump(study: Study, rng: np.random.Generator) -> Put | None:
    """Stretch a contour between two others by 1.5, without another area or centre."""
    choices = [
        (track[k], label)
        for label, track, k in between(study)
        if steady(study, label, track[k - 1 : k + 2])
        and area(study, track[k], label) >= LEAST_AREA_OF_SHAPE
    ]
    if not choices:
        return None
    image, label = pick(choices, rng)
    centre = centroid(study, image, label)
    angle = rng.uniform(0, np.pi)
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    stretched = 1.5 * np.outer(along, along) + np.outer(across, across) / 1.5
    rings = study.contours[image, label]
    study.contours[image, label] = [(r - centre) @ stretched + centre for r in rings]
    return put(study, "overlap-jump", [image], label)


def missing_slice(study: Study, rng: np.random.Generator) -> Put | None:
    """Remove a contour between two others, from an image with contours left."""
    choices = [
        (track[k], label)
        for label, track, k in between(study, 0)
        if len(labels_of(study, track[k])) > 1
        and steady(study, label, track[k - 1 : k + 2], 0)
    ]
    if not choices:
        return None
    image, label = pick(choices, rng)
    del study.contours[image, label]
    return put(study, "slice-without-contour", [image], label)


def swapped_slices(study: Study, rng: np.random.Generator) -> Put | None:
    """Swap the contours of two slices that differ by a quarter in area."""
    choices = []
    for label, track in tracks(study):
        sizes = [area(study, image, label) for image in track]
        for step in (1, 2):
            for k in range(len(track) - step):
                some = sizes[k : k + step + 1]
                is_steady = (np.diff(some) > 0).all() or (np.diff(some) < 0).all()
                is_large = min(some) >= LEAST_AREA
                if is_steady and is_large and max(some) >= 1.25 * min(some):
                    choices.append((track[k], track[k + step], label))
    if not choices:
        return None
    first, second, label = pick(choices, rng)
    swap(study, (first, label), (second, label))
    return put(study, "slices-swapped", [first, second], label)


def stray_end(study: Study, rng: np.random.Generator) -> Put | None:
    """Move the contour of a first or last slice by 0.8 of its width."""
    choices = ends(study)
    if not choices:
        return None
    image, label = pick(choices, rng)
    move(study, image, label, 0.8 * width(study, image, label), rng)
    return put(study, "end-slice-unlike-rest", [image], label)


def large_end(study: Study, rng: np.random.Generator) -> Put | None:
    """Make a first or last contour two and a half times as large as the next one."""
    choices = [
        (track[end], track[following], label)
        for label, track in tracks(study)
        for end, following in ((0, 1), (-1, -2))
        if area(study, track[end], label) >= LEAST_AREA
    ]
    if not choices:
        return None
    image, other, label = pick(choices, rng)
    ratio = area(study, other, label) / area(study, image, label)
    scale(study, image, label, np.sqrt(2.5 * ratio))
    return put(study, "end-slice-unlike-rest", [image], label)


def swapped_times(study: Study, rng: np.random.Generator) -> Put | None:
    """Swap the contours of two times of a slice that differ by a quarter in area."""
    at: dict[object, Track] = defaultdict(list)
    for image, label in sorted(study.contours):
        *where, _ = place(study, image)
        at[*where, label].append(image)
    choices = []
    for (*_, label), images in at.items():
        images.sort(key=lambda image: time_of(study, image))
        for first, second in pairwise(images):
            sizes = [area(study, image, label) for image in (first, second)]
            if min(sizes) >= LEAST_AREA and max(sizes) >= 1.25 * min(sizes):
                choices.append((first, second, label))
    if not choices:
        return None
    first, second, label = pick(choices, rng)
    swap(study, (first, label), (second, label))
    return put(study, "time-jump", [first, second], label)


def contour_of_other_time(study: Study, rng: np.random.Generator) -> Put | None:
    """Move a contour to the image of another time, where nothing is outlined.

    Only of studies that are linked with whole series.
    """
    outlined = {
        (study.images[image].series, time_of(study, image))
        for image, _ in study.contours
    }
    free: dict[object, Track] = defaultdict(list)
    for image in study.images:
        series, position, time = place(study, image.index)
        if (series, time) not in outlined:
            free[series, position].append(image.index)
    choices = [
        (image, other, label)
        for image, label in sorted(study.contours)
        for other in free[place(study, image)[:2]]
        if len(labels_of(study, image)) > 1
    ]
    if not choices:
        return None
    image, other, label = pick(choices, rng)
    study.contours[other, label] = study.contours.pop((image, label))
    return put(study, "contour-of-other-time", [other], label)


FAULTS: Mapping[str, Fault] = {
    "area jump": area_jump,
    "centre jump": centre_jump,
    "overlap jump": overlap_jump,
    "missing slice": missing_slice,
    "swapped slices": swapped_slices,
    "stray end": stray_end,
    "large end": large_end,
    "swapped times": swapped_times,
    "contour of other time": contour_of_other_time,
}


def put(study: Study, rule: str, images: Sequence[int], label: str = "") -> Put:
    """Return a fault on images, by their paths."""
    return Put(rule, tuple(study.images[image].path for image in images), label)


def time_of(study: Study, image: int) -> float:
    """Return the time of an image, -1 if there is one image at each position."""
    return study.images[image].time


def place(study: Study, image: int) -> tuple[str, float, float]:
    """Return series, position and time of an image."""
    known = study.images[image]
    return known.series, round(known.position, 1), known.time


def tracks(study: Study) -> Iterator[tuple[str, Track]]:
    """Yield the images with a contour of a class along a series at a time."""
    found: dict[tuple[str, float, str], Track] = defaultdict(list)
    for image, label in sorted(study.contours):
        series, _, time = place(study, image)
        found[series, time, label].append(image)
    for (*_, label), track in found.items():
        track.sort(key=lambda image: study.images[image].position)
        if len(track) >= 3:
            yield label, track


def between(
    study: Study, least: float = LEAST_AREA
) -> Iterator[tuple[str, Track, int]]:
    """Yield the contours with one before and one after, of an area."""
    for label, track in tracks(study):
        for k in range(1, len(track) - 1):
            if area(study, track[k], label) >= least:
                yield label, track, k


def steady(study: Study, label: str, images: Track, least: float = LEAST_AREA) -> bool:
    """Return whether contours change by at most a third from slice to slice."""
    sizes = [area(study, image, label) for image in images]
    ratios = [max(pair) / min(pair) for pair in pairwise(sizes)]
    return min(sizes) >= least and max(ratios) <= 4 / 3


def ends(study: Study) -> list[Key]:
    """Return the first and last contours along volumes."""
    return [
        (track[end], label)
        for label, track in tracks(study)
        for end in (0, -1)
        if area(study, track[end], label) >= LEAST_AREA
    ]


def labels_of(study: Study, image: int) -> list[str]:
    """Return the classes that are outlined on an image."""
    return [label for label in study.clean.classes if (image, label) in study.contours]


def pick(choices: Sequence[Any], rng: np.random.Generator) -> Any:
    """Return one of several."""
    return choices[int(rng.integers(len(choices)))]


def area(study: Study, image: int, label: str) -> float:
    """Return the area of the largest ring of a label, in pixels."""
    return study.area(image, label)


def width(study: Study, image: int, label: str) -> float:
    """Return the side of a square of the area of a label, in pixels."""
    return float(np.sqrt(area(study, image, label)))


def centroid(study: Study, image: int, label: str) -> Ring:
    """Return the middle of the vertices of the largest ring of a label."""
    ring = max(study.contours[image, label], key=lambda one: abs(signed_area(one)))
    return ring.mean(0)


def scale(study: Study, image: int, label: str, factor: float) -> None:
    """Make the contours of a label larger, about their centre."""
    centre = centroid(study, image, label)
    rings = study.contours[image, label]
    study.contours[image, label] = [centre + factor * (r - centre) for r in rings]


def move(
    study: Study, image: int, label: str, pixels: float, rng: np.random.Generator
) -> None:
    """Move the contours of a label in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    step = pixels * np.array([np.cos(angle), np.sin(angle)])
    rings = study.contours[image, label]
    study.contours[image, label] = [ring + step for ring in rings]


def swap(study: Study, first: Key, second: Key) -> None:
    """Give each of two labels the contours of the other one."""
    contours = study.contours
    contours[first], contours[second] = contours[second], contours[first]
