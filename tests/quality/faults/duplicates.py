"""Faults of contours, images and series that are there twice."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from tests.quality.study import Fault, Image, Put, Study

Ring = NDArray[np.float64]


def another_patient(study: Study, rng: np.random.Generator) -> Put | None:
    """Give an image the contours of another patient's, of all classes of both."""
    return _from_another_patient(study, rng, lambda ring: ring.copy())


def another_start(study: Study, rng: np.random.Generator) -> Put | None:
    """The same, with another first vertex and direction."""
    return _from_another_patient(study, rng, lambda ring: np.roll(ring[::-1], 3, 0))


def rounded(study: Study, rng: np.random.Generator) -> Put | None:
    """The same, with vertices rounded to 0.01 pixels."""
    return _from_another_patient(study, rng, lambda ring: ring.round(2))


def shifted(study: Study, rng: np.random.Generator) -> Put | None:
    """The same, moved by some pixels."""
    step = rng.integers(2, 6, 2) * rng.choice([-1, 1], 2)
    return _from_another_patient(study, rng, lambda ring: ring + step)


def two_classes(study: Study, rng: np.random.Generator) -> Put | None:
    """Give a class the contour of another one on the same image."""
    keys = _keys(study, rng)
    for index, name in keys:
        others = [label for k, label in keys if k == index and label != name]
        if others and len(study.contours[index, name]) == 1:
            rings = study.contours[index, name]
            study.contours[index, others[0]] = [ring.copy() for ring in rings]
            return Put("contour-of-two-classes", (study.images[index].path,), name)
    return None


def next_image(study: Study, rng: np.random.Generator) -> Put | None:
    """Give an image the contour of a neighbour of its series."""
    for index, name in _keys(study, rng):
        image = study.images[index]
        theirs = [k for k in study.labelled(name) if k.patient == image.patient]
        number = theirs.index(image)
        if number + 1 < len(theirs):
            after = theirs[number + 1]
            rings = study.contours[index, name]
            study.contours[after.index, name] = [ring.copy() for ring in rings]
            return Put("contour-repeated", (after.path,), name)
    return None


def image_of_another(study: Study, rng: np.random.Generator) -> Put | None:
    """Give an image the pixels of another patient's."""
    return _copy_pixels(study, rng, "image-across-patients", is_own=False)


def image_twice(study: Study, rng: np.random.Generator) -> Put | None:
    """Give an image the pixels of another one of the patient."""
    return _copy_pixels(study, rng, "image-repeated", is_own=True)


def image_rescaled(study: Study, rng: np.random.Generator) -> Put | None:
    """Give an image the pixels of another patient's, times a scale, plus an offset."""
    scale, offset = rng.uniform(0.3, 1.5), rng.integers(-20, 20)

    def change(pixels: NDArray[np.int64]) -> NDArray[np.int64]:
        least = pixels.min()
        return np.rint((pixels - least) * scale + least + max(offset, 0))

    return _copy_pixels(study, rng, "image-rescaled", is_own=False, change=change)


def series_twice(study: Study, rng: np.random.Generator) -> Put | None:
    """Give the images of a patient the pixels of another one's."""
    for image in _images(study, rng):
        own = [k for k in study.images if k.patient == image.patient]
        for name in rng.permutation(sorted({k.patient for k in study.images})).tolist():
            theirs = [k for k in study.images if k.patient == name]
            if (
                name != image.patient
                and len(own) == len(theirs)
                and _alike(study, image, theirs[0])
            ):
                for mine, other in zip(own, theirs, strict=True):
                    study.set_pixels(mine, study.pixels(other))
                return Put("series-repeated", tuple(k.path for k in own))
    return None


FAULTS: Mapping[str, Fault] = {
    "contours of another patient": another_patient,
    "contours of another patient, from another vertex": another_start,
    "contours of another patient, rounded": rounded,
    "contours of another patient, shifted": shifted,
    "a contour for two classes": two_classes,
    "a contour of the next image": next_image,
    "an image of another patient": image_of_another,
    "an image twice": image_twice,
    "an image of another patient, rescaled": image_rescaled,
    "a series of another patient": series_twice,
}


def _keys(study: Study, rng: np.random.Generator) -> list[tuple[int, str]]:
    """Return the keys of contours in random order."""
    keys = sorted(study.contours)
    return [keys[k] for k in rng.permutation(len(keys))]


def _images(study: Study, rng: np.random.Generator) -> list[Image]:
    """Return the images that have contours in random order."""
    return list(dict.fromkeys(study.images[index] for index, _ in _keys(study, rng)))


def _alike(study: Study, one: Image, other: Image) -> bool:
    """Return whether two images have the same shape."""
    shapes = {study.clean[image.index].image.shape for image in (one, other)}
    return len(shapes) == 1


def _pair(study: Study, rng: np.random.Generator) -> tuple[Image, Image] | None:
    """Return images of one shape of two patients."""
    images = _images(study, rng)
    for image in images:
        for other in images:
            if other.patient != image.patient and _alike(study, image, other):
                return image, other
    return None


def _from_another_patient(
    study: Study, rng: np.random.Generator, change: Callable[[Ring], Ring]
) -> Put | None:
    pair = _pair(study, rng)
    if pair is None:
        return None
    image, other = pair
    for index, name in sorted(study.contours):
        if index == other.index and (image.index, name) in study.contours:
            rings = study.contours[index, name]
            study.contours[image.index, name] = [change(ring) for ring in rings]
    return Put("contour-across-patients", (image.path, other.path))


def _copy_pixels(
    study: Study,
    rng: np.random.Generator,
    rule: str,
    *,
    is_own: bool,
    change: Callable[[NDArray[np.int64]], NDArray[np.int64]] = lambda pixels: pixels,
) -> Put | None:
    images = _images(study, rng)
    for image in images:
        for other in images:
            is_same = other.patient == image.patient
            if other != image and is_same == is_own and _alike(study, image, other):
                pixels = study.pixels(other).astype(np.int64)
                study.set_pixels(image, change(pixels))
                return Put(rule, (image.path, other.path))
    return None
