"""Faults of images: their values, and what their headers say."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.quality.faults.volumes import pick, put
from tests.quality.study import Fault, Image, Put, Study

Pixels = NDArray[Any]


def constant(study: Study, rng: np.random.Generator) -> Put:
    """Give all pixels of an image its mean."""
    return of_image(study, rng, "constant-image", lambda p: np.full_like(p, p.mean()))


def clipped(study: Study, rng: np.random.Generator) -> Put:
    """Clip an image at a value that one pixel in twenty has, or a greater one."""

    def clip(pixels: Pixels) -> Pixels:
        return np.minimum(pixels, np.sort(pixels.ravel())[-pixels.size // 20])

    return of_image(study, rng, "clipped-image", clip)


def few_values(study: Study, rng: np.random.Generator) -> Put:
    """Round an image to eight values."""

    def coarsen(pixels: Pixels) -> Pixels:
        step = max(1, int(pixels.max()) // 7)
        return pixels // step * step

    return of_image(study, rng, "few-values", coarsen)


def wrapped_values(study: Study, rng: np.random.Generator) -> Put:
    """Store negative values of an image in 16 bits, and say that none is negative."""
    image = pick(outlined(study), rng)
    pixels = study.pixels(image).astype(np.int64)
    pixels -= int(np.quantile(pixels, rng.uniform(0.1, 0.6)))
    study.set_header(image, BitsStored=16, HighBit=15, PixelRepresentation=0)
    study.set_pixels(image, pixels.astype(np.uint16))
    return put(study, "values-wrap", [image.index])


def values_of_image(study: Study, rng: np.random.Generator) -> Put:
    """Scale the values of an image by three."""
    return of_image(study, rng, "values-unlike-rest", lambda p: np.minimum(3 * p, 4095))


def values_of_patient(study: Study, rng: np.random.Generator) -> Put:
    """Give the images of a patient another intercept."""
    shift = int(rng.choice([2000, -3000]))
    return of_patient(
        study,
        rng,
        "values-unlike-rest",
        lambda _: {"RescaleIntercept": shift, "RescaleSlope": 1},
    )


def spacing_of_patient(study: Study, rng: np.random.Generator) -> Put | None:
    """Say that the pixels of a patient are three times as large."""
    if study.kind != "cine":
        return None  # contours in mm would not fit any more
    spacing = study.clean.items["spacing_mm"]
    return of_patient(
        study,
        rng,
        "spacing-unlike-rest",
        lambda image: {"PixelSpacing": (3 * spacing[image.index]).tolist()},
    )


def spacing_of_image(study: Study, rng: np.random.Generator) -> Put | None:
    """Say that the pixels of one image are twice as large."""
    if study.kind != "cine":
        return None
    image = pick(outlined(study), rng)
    spacing = (2 * study.clean.items["spacing_mm"][image.index]).tolist()
    study.set_header(image, PixelSpacing=spacing)
    return put(study, "spacing-unlike-rest", [image.index])


def orientation_of_patient(study: Study, rng: np.random.Generator) -> Put | None:
    """Say that the rows of a patient's images run the other way."""
    if study.kind != "cine":
        return None
    return of_patient(
        study,
        rng,
        "orientation-unlike-rest",
        lambda _: {"ImageOrientationPatient": [-1, 0, 0, 0, -1, 0]},
    )


def window(study: Study, rng: np.random.Generator) -> Put:
    """Give the images of a patient a window far above their values."""
    return of_patient(
        study,
        rng,
        "window-off-values",
        lambda _: {"WindowCenter": 20000, "WindowWidth": 100},
    )


FAULTS: Mapping[str, Fault] = {
    "constant image": constant,
    "clipped image": clipped,
    "few values": few_values,
    "negative values without a sign": wrapped_values,
    "values of an image": values_of_image,
    "values of a patient": values_of_patient,
    "spacing of an image": spacing_of_image,
    "spacing of a patient": spacing_of_patient,
    "orientation of a patient": orientation_of_patient,
    "window off the values": window,
}


def outlined(study: Study) -> list[Image]:
    """Return the images with a contour."""
    return [study.images[k] for k in sorted({index for index, _ in study.contours})]


def of_image(
    study: Study,
    rng: np.random.Generator,
    rule: str,
    change: Callable[[Pixels], Pixels],
) -> Put:
    """Change the pixels of an image."""
    image = pick(outlined(study), rng)
    study.set_pixels(image, change(study.pixels(image)))
    return put(study, rule, [image.index])


def of_patient(
    study: Study,
    rng: np.random.Generator,
    rule: str,
    elements: Callable[[Image], dict[str, Any]],
) -> Put:
    """Change the headers of all images of a patient."""
    patient = pick(outlined(study), rng).patient
    images = [image for image in study.images if image.patient == patient]
    for image in images:
        study.set_header(image, **elements(image))
    return put(study, rule, [image.index for image in images])
