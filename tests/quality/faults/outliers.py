"""Faults of labels that are unlike the same class elsewhere, or that are not there."""

from collections.abc import Mapping

import numpy as np

from fastseg import rasterize
from tests.quality.faults.volumes import (
    LEAST_AREA,
    Key,
    area,
    labels_of,
    move,
    pick,
    put,
    scale,
    width,
)
from tests.quality.study import Fault, Put, Study


def unusual_area(study: Study, rng: np.random.Generator) -> Put | None:
    """Make a contour six times as large as the largest one of its class."""
    image, label = pick(large_labels(study), rng)
    largest = max(area(study, *key) for key in study.contours if key[1] == label)
    scale(study, image, label, np.sqrt(6 * largest / area(study, image, label)))
    return put(study, "area-unlike-others", [image], label)


def unusual_area_of_patient(study: Study, rng: np.random.Generator) -> Put | None:
    """Make all contours of a class of a patient twice as wide."""
    image, label = pick(large_labels(study), rng)
    keys = keys_of(study, study.images[image].patient, label)
    for key in keys:
        scale(study, *key, 2.0)
    return put(study, "area-unlike-others", [image for image, _ in keys], label)


def unusual_position(study: Study, rng: np.random.Generator) -> Put | None:
    """Move a contour by a quarter of the image."""
    image, label = pick(sorted(study.contours), rng)
    move(study, image, label, max(study.pixels(study.images[image]).shape) / 4, rng)
    return put(study, "position-unlike-others", [image], label)


def unusual_position_of_patient(study: Study, rng: np.random.Generator) -> Put | None:
    """Move all contours of a class of a patient by a quarter of the image."""
    image, label = pick(sorted(study.contours), rng)
    keys = keys_of(study, study.images[image].patient, label)
    angle = rng.uniform(0, 2 * np.pi)
    step = np.array([np.cos(angle), np.sin(angle)]) / 4
    for key in keys:
        moved = step * max(study.pixels(study.images[key[0]]).shape)
        study.contours[key] = [ring + moved for ring in study.contours[key]]
    return put(study, "position-unlike-others", [image for image, _ in keys], label)


def unusual_intensity(study: Study, rng: np.random.Generator) -> Put | None:
    """Change the intensity inside of a contour by two deviations of the image."""
    image, label = pick(large_labels(study), rng)
    pixels = study.pixels(study.images[image]).astype(np.float64)
    inside = rasterize(study.contours[image, label], pixels.shape)
    step = 2 * pixels.std()
    least = pixels.min()
    step *= -1 if pixels[inside].mean() - step > least else 1
    pixels[inside] = np.maximum(pixels[inside] + step, least)
    study.set_pixels(
        study.images[image], pixels.astype(study.pixels(study.images[image]).dtype)
    )
    return put(study, "intensity-unlike-others", [image], label)


def outline_off_edge(study: Study, rng: np.random.Generator) -> Put | None:
    """Move a contour by half of its width, off the edge that it follows."""
    image, label = pick(large_labels(study), rng)
    move(study, image, label, 0.5 * width(study, image, label), rng)
    return put(study, "outline-unlike-others", [image], label)


def patient_without_class(study: Study, rng: np.random.Generator) -> Put | None:
    """Remove all contours of a class of a patient, who has others."""
    keys = sorted(study.contours)
    image, label = pick([key for key in keys if len(labels_of(study, key[0])) > 1], rng)
    removed = keys_of(study, study.images[image].patient, label)
    for key in removed:
        del study.contours[key]
    left = {key[0] for key in study.contours}
    images = [image for image, _ in removed if image in left]
    return put(study, "patient-without-class", images, label)


def class_on_part(study: Study, rng: np.random.Generator) -> Put | None:
    """Remove three in four contours of a class of a patient, from the first ones on."""
    labels = sorted({label for _, label in study.contours})
    images = {image for image, _ in study.contours}
    choices = []
    for label in labels:
        on = {image for image, other in study.contours if other == label}
        if len(on) > 0.9 * len(images):
            choices += [
                (patient, label)
                for patient in sorted({study.images[image].patient for image in on})
            ]
    if not choices:
        return None
    patient, label = pick(choices, rng)
    keys = [
        key
        for key in keys_of(study, patient, label)
        if len(labels_of(study, key[0])) > 1
    ]
    removed = keys[: max(1, 3 * len(keys) // 4)]
    for key in removed:
        del study.contours[key]
    return put(study, "class-on-part", [image for image, _ in removed], label)


FAULTS: Mapping[str, Fault] = {
    "unusual area": unusual_area,
    "unusual area of a patient": unusual_area_of_patient,
    "unusual position": unusual_position,
    "unusual position of a patient": unusual_position_of_patient,
    "unusual intensity": unusual_intensity,
    "outline off its edge": outline_off_edge,
    "patient without a class": patient_without_class,
    "class on part": class_on_part,
}


def keys_of(study: Study, patient: str, label: str) -> list[Key]:
    """Return what a patient has of a class, slice by slice."""
    keys = [
        (image, other)
        for image, other in study.contours
        if study.images[image].patient == patient and other == label
    ]
    return sorted(keys)


def large_labels(study: Study) -> list[Key]:
    """Return the labels whose contours are large enough to be compared."""
    keys = sorted(study.contours)
    return [key for key in keys if area(study, *key) >= LEAST_AREA]
