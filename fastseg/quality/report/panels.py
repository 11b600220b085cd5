"""Which pictures a finding has: of which samples, and which part of their images.

The first one is large: the sample to look at, cropped to the classes concerned. Small
ones show a detail, where in the image all of that lies, and other samples: those that
the finding names, such as twins, or else the neighbours in the volume.
"""

import math
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.pictures.view import aspect_of
from fastseg.quality.findings import Finding
from fastseg.reprs import short
from fastseg.store.reader import Store
from fastseg.store.text import decode

# A crop shows this many times what it is about, and at least so many pixels.
MARGIN = 1.5
LEAST_PIXELS = 40
DETAIL_MARGIN = 2.5
DETAIL_PIXELS = 16
# There is a detail, or a picture of the whole image, if the crop is not nearly that:
# longer by this factor.
MUCH_LONGER = 2.0
# If a contour lies outside its image, by more than so many pixels, the picture shows
# both. It goes beyond the image at most by this fraction of that.
OUTSIDE = 1.0
BEYOND = 0.5
# Small pictures of a finding, at most.
MOST_SMALL = 4

Points = NDArray[np.float64]


class Box(NamedTuple):
    """A part of an image in pixels, before `right` and `bottom`; may go beyond it."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.bottom - self.top


class Panel(NamedTuple):
    """One picture of a finding.

    marks : points (x, y) in pixels with a circle around them
    frame : what another picture shows of the same image, drawn as a rectangle
    """

    sample: int
    box: Box
    caption: str
    is_large: bool = False
    marks: tuple[tuple[float, float], ...] = ()
    frame: Box | None = None


def choose_panels(store: Store, finding: Finding) -> list[Panel]:
    """Return the pictures of a finding, the large one first."""
    if not finding.samples:
        return []
    first, *others = finding.samples
    shape = shape_of(store, first)
    aspect = aspect_of(store.items["spacing_mm"][first])
    points = tuple(point for point in finding.points if all(map(math.isfinite, point)))
    rings = rings_concerned(store, finding, first)
    what = [*rings, np.array(points).reshape(-1, 2)]
    box = box_around(what, shape, aspect) or whole(shape)
    small: list[Panel] = []
    detail = points and box_around(
        [np.array(points)], shape, aspect, DETAIL_MARGIN, DETAIL_PIXELS
    )
    if detail and max(detail.width, detail.height) * MUCH_LONGER < box.width:
        small.append(Panel(first, detail, "detail", marks=points))
    else:
        detail = None
    if max(shape) > MUCH_LONGER * max(box.width, box.height) and len(others) < 3:
        small.append(Panel(first, whole(shape), "whole image", frame=box))
    small = other_panels(store, finding, box, MOST_SMALL - len(small)) + small
    main = Panel(
        first,
        box,
        f"sample {first}",
        is_large=True,
        marks=() if detail else points,
        frame=detail or None,
    )
    return [main, *small]


def other_panels(store: Store, finding: Finding, box: Box, most: int) -> list[Panel]:
    """Return pictures of other samples, on the scale of the part `box` of the first."""
    first, *others = finding.samples
    volume = int(store.items["volume"][first])
    if not others and volume >= 0:
        slices = store.volumes[volume].samples
        others = [k for k in (first - 1, first + 1) if k in slices]
    panels = []
    for sample in in_turn(store, [first, *others])[1 : most + 1]:
        shape = shape_of(store, sample)
        part = box
        if volume < 0 or int(store.items["volume"][sample]) != volume:
            rings = rings_concerned(store, finding, sample)
            aspect = aspect_of(store.items["spacing_mm"][sample])
            size = (box.width, box.height)
            # If it is not outlined, there where the first one is, if there are such.
            is_alike = shape == shape_of(store, first)
            otherwise = box if is_alike else whole(shape)
            part = box_around(rings, shape, aspect, size=size) or otherwise
        panels.append(Panel(sample, part, relation(store, first, sample)))
    return panels


def in_turn(store: Store, samples: list[int]) -> list[int]:
    """Return samples with those of each series in turn, so that twins come first."""
    turn: Counter[bytes] = Counter()
    ranks = []
    for series in store.items["series"][samples].tolist():
        ranks.append(turn[series])
        turn[series] += 1
    order = sorted(range(len(samples)), key=ranks.__getitem__)
    return [samples[k] for k in order]


def relation(store: Store, first: int, other: int) -> str:
    """Return what another sample of a finding is, seen from the first one."""
    items = store.items
    name = f"sample {other}"
    if items["patient"][other] != items["patient"][first]:
        (patient,) = decode(store, [items["patient"][other]])
        return f"{name}, patient {short(patient)}"
    volume = items["volume"][first]
    if volume >= 0 and items["volume"][other] == volume:
        step = other - first
        side = "after" if step > 0 else "before"
        count = "next slice" if abs(step) == 1 else f"{abs(step)} slices {side}"
        return f"{name}, {'slice before' if step == -1 else count}"
    is_one_position = (
        items["series"][other] == items["series"][first]
        and items["position_mm"][other] == items["position_mm"][first]
    )
    time = items["time"][other]
    if is_one_position and np.isfinite(time):
        return f"{name}, time {time:g}"
    return name


def shape_of(store: Store, sample: int) -> tuple[int, int]:
    """Return (height, width) of the image of a sample."""
    names = tuple(store.buckets)
    return store.buckets[names[store.items["bucket"][sample]]].shape


def whole(shape: tuple[int, int]) -> Box:
    """Return all of an image."""
    return Box(0, 0, shape[1], shape[0])


def rings_concerned(store: Store, finding: Finding, sample: int) -> list[Points]:
    """Return the rings of a sample that a finding is about, (n, 2) each."""
    named = set(finding.rings)
    classes = {store.class_index(name) for name in finding.classes}
    return [
        ring for row, k, ring in rings_of(store, sample) if row in named or k in classes
    ]


def rings_of(store: Store, sample: int) -> list[tuple[int, int, Points]]:
    """Return row in /contours, class and vertices of the rings of a sample."""
    contours = store.contours
    start, stop = store.items["contours"][sample].tolist()
    bounds = contours["offsets"][start : stop + 1].tolist()
    classes = contours["class"][start:stop].tolist()
    return [
        (start + k, klass, contours["points"][bounds[k] : bounds[k + 1]])
        for k, klass in enumerate(classes)
    ]


def box_around(
    parts: Iterable[Points],
    shape: tuple[int, int],
    aspect: float,
    margin: float = MARGIN,
    least: int = LEAST_PIXELS,
    size: tuple[int, int] | None = None,
) -> Box | None:
    """Return a part of an image around points, a square in mm; None without points.

    aspect : how many times as high as wide a pixel is
    size   : width and height in pixels instead

    If a point lies outside of the image, this is all of the image, and beyond.
    """
    parts = [part for part in parts if len(part)]
    if not parts:
        return None
    points = np.concatenate(parts)
    sides = np.array(shape[::-1])
    points = points.clip(-BEYOND * sides, (1 + BEYOND) * sides)
    low, high = points.min(axis=0), points.max(axis=0)
    if (low < -0.5 - OUTSIDE).any() or (high > sides - 0.5 + OUTSIDE).any():
        left, top = np.minimum(np.floor(low) - 2, 0).astype(int).tolist()
        right, bottom = np.maximum(np.ceil(high) + 3, sides).astype(int).tolist()
        return Box(left, top, right, bottom)
    if size is None:
        unit = np.array([1.0, aspect])
        side = max(margin * ((high - low) * unit).max(), least)
        across, down = np.ceil(side / unit).astype(int).tolist()
        size = (across, down)
    spans = map(_span, low.tolist(), high.tolist(), size, sides.tolist())
    (left, right), (top, bottom) = spans
    return Box(left, top, right, bottom)


def _span(low: float, high: float, length: int, side: int) -> tuple[int, int]:
    """Return begin and end of a part of a side, with low to high in the middle."""
    length = min(length, side)
    start = round((low + high) / 2 - (length - 1) / 2)
    start = min(max(start, 0), side - length)
    return start, start + length
