"""What of a sample is shown: its contours of some classes, a crop, every nth pixel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.augment.mapping import pixel_ratios
from fastseg.bounds import MAX_SPACING_RATIO
from fastseg.choices import Window
from fastseg.store.reader import Store

# A zoom shows this many times what is labelled, and at least so many pixels.
ZOOM_MARGIN = 1.6
ZOOM_PIXELS = 16
# Vertices (x, y) in pixels, float64 (n, 2).
Ring = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class View:
    """What is shown of each sample.

    bits        : of the classes that are drawn
    most_pixels : rows and columns of an image that are drawn at most, about
    """

    store: Store
    bits: tuple[int, ...]
    window: Window | tuple[float, float]
    zoom: bool
    most_pixels: int


class Crop(NamedTuple):
    """The part of an image that is shown: from left and top to before right, bottom."""

    left: int
    top: int
    right: int
    bottom: int

    def steps(self, view: View) -> tuple[int, int]:
        """Return the distances between the rows and between the columns drawn."""
        height, width = self.bottom - self.top, self.right - self.left
        return max(1, height // view.most_pixels), max(1, width // view.most_pixels)

    def cut(self, image: NDArray[Any], view: View) -> NDArray[Any]:
        """Return the pixels that are drawn; of several, the one in the middle."""
        down, across = self.steps(view)
        return image[
            self.top + down // 2 : self.bottom : down,
            self.left + across // 2 : self.right : across,
        ]


def rings_of(view: View, contours: Mapping[str, list[Ring]]) -> list[tuple[int, Ring]]:
    """Return the rings of the classes that are drawn, each with its class."""
    names = view.store.classes
    return [(k, ring) for k in view.bits for ring in contours.get(names[k], ())]


def crop_to(
    view: View,
    shape: tuple[int, ...],
    rings: Sequence[tuple[int, Ring]],
    spacing_mm: NDArray[np.float64],
    size: tuple[int, int] | None = None,
) -> Crop:
    """Return the part of an image that is shown: all of it, or around its contours.

    shape : (height, width) of the image
    size  : (width, height) of the part in pixels, by default from the contours: a
        square in millimetres
    """
    height, width = shape
    if not (view.zoom and rings):
        return Crop(0, 0, width, height)
    points = np.concatenate([ring for _, ring in rings])
    points = points.clip((-0.5, -0.5), (width - 0.5, height - 0.5))
    low, high = points.min(axis=0), points.max(axis=0)
    if size is None:
        # Heights count as many times as widths as a pixel is higher than wide.
        unit = np.array([1.0, aspect_of(spacing_mm)])
        side = max(ZOOM_MARGIN * ((high - low) * unit).max(), ZOOM_PIXELS)
        across, down = np.ceil(side / unit).astype(int).tolist()
        size = (across, down)
    start, stop = [], []
    for middle, part, most in zip((low + high) / 2, size, (width, height), strict=True):
        part = min(part, most)
        first = min(max(round(middle - (part - 1) / 2), 0), most - part)
        start.append(first)
        stop.append(first + part)
    return Crop(*start, *stop)


def aspect_of(spacing_mm: NDArray[np.float64]) -> float:
    """Return how many times as high as wide a pixel is drawn; spacing_mm is (2,)."""
    ratio = float(pixel_ratios(spacing_mm[None])[0])
    # Beyond, the spacing is wrong, and one side of the picture would vanish.
    return min(max(ratio, 1 / MAX_SPACING_RATIO), MAX_SPACING_RATIO)
