"""Rules about the grid of contours: half a pixel off the images, and whole numbers.

Along an outline, the values of an image change most across it. If all outlines of a
store fit better a little further in one direction, they were drawn in another grid: one
whose pixels have their corner at whole numbers, or that counts from 1.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.quality.facts import Facts
from fastseg.quality.findings import Finding
from fastseg.quality.rule import Rule, threshold
from fastseg.reprs import many

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

# Lengths in pixels. Profiles across the outline are sampled at this distance; a change
# of values is measured between two points that lie two of these distances to each side.
STEP = 0.25
# Shifts (dx, dy) that are tried, each at most this; and by how much the outline may lie
# within or without the edge, all around.
REACH, REACH_ACROSS = 1.5, 1.0
# A profile reaches as far as a shift and that may lead.
PROFILE = np.arange(-13, 14) * STEP
# Directions across the outline, in which profiles are added.
DIRECTIONS = 24
# The direction of the outline is that between two points so far apart: outlines that
# follow pixels have stairs.
CHORD = 4.0
# Rings that are measured: at most so many of a class, and in all; smaller ones are not.
MOST_OF_CLASS, MOST_RINGS = 120, 600
LEAST_AREA = 30.0
# With fewer samples of a class, nothing is concluded.
LEAST_SAMPLES = 10
# A class counts if the shifts of so many of its samples lie so near to their median.
LEAST_AGREEING, AGREEMENT = 0.6, 0.375
# How near the shift is to half a pixel or one along x and y, and how near those of all
# classes are to it.
NEAR, ALIKE = 0.2, 0.3
# With fewer vertices, it may be chance that all are whole numbers.
LEAST_VERTICES = 12
# Vertices that are read from millimetres are rounded in these, half pixels.
ROUNDED = 0.002


class Fit(NamedTuple):
    """How the outlines of a class fit the edges in images.

    shift   : (dx, dy), by which they fit best, the median of patients or samples
    agree   : fraction of the patients, or of samples of few patients, whose own shift
        is near to that
    samples : those that were measured
    gain    : the change of values across the outlines there, divided by that at (0, 0)
    """

    shift: tuple[float, float]
    agree: float
    samples: list[int]
    gain: float


class PixelOffset(Rule):
    """All masks lie off by that much: a small region loses a tenth of its overlap with
    a perfect prediction. `build(origin="corner")` moves contours by half a pixel whose
    grid has the corner of the first pixel at (0, 0).
    """

    name = "pixel-offset"
    title = "Contours that lie off the edges in all images, by half a pixel or one"
    severity = "warning"
    needs = "contours"
    agree: float = threshold(60, "percent", "of patients (or samples) that agree on it")

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return at most one finding, for the store."""
        fits = {
            klass: fit
            for klass, rings in _choose_rings(facts).items()
            if (fit := _fit_class(facts, rings)) and 100 * fit.agree >= self.agree
        }
        if not fits:
            return
        shifts = np.array([fit.shift for fit in fits.values()])
        shift = np.quantile(shifts, 0.5, axis=0)
        off = np.abs(shift)
        if (np.abs(shifts - shift) > ALIKE).any() or not (
            (np.abs(off - 0.5) <= NEAR).all() or (np.abs(off - 1) <= NEAR).all()
        ):
            return
        samples = [sample for fit in fits.values() for sample in fit.samples]
        names = tuple(facts.classes[klass] for klass in fits)
        agree = sum(fit.agree * len(fit.samples) for fit in fits.values())
        dx, dy = shift.tolist()
        yield Finding(
            rule=self.name,
            severity=self.severity,
            text=(
                f"The contours fit the edges in the images best if they are moved by "
                f"({dx:+.2g}, {dy:+.2g}) pixels (x, y): {agree / len(samples):.0%} of "
                f"{many(len(samples), 'contour')} that were measured agree. They seem "
                f"to be drawn on another grid than that of the images."
            ),
            samples=tuple(dict.fromkeys(samples)),
            classes=names,
            amount=math.hypot(dx, dy),
            unit="pixels",
        )


class WholeNumbers(Rule):
    """Vertices on a coarse grid were rounded, or follow the pixels of a mask. Rounding
    moves an outline by up to half a step, and by half a pixel on average if it cuts.
    """

    name = "whole-numbers"
    title = "Vertices at whole or half pixels"
    severity = "note"
    needs = "contours"

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each class of which all vertices are on such a grid."""
        rings = facts.rings
        for klass in np.unique(rings.klass, return_counts=True)[0].tolist():
            chosen = np.flatnonzero(rings.klass == klass)
            some = _spread(chosen, MOST_RINGS)
            points = np.concatenate([facts.ring_points(k) for k in some.tolist()])
            doubled = np.rint(points * 2)
            rest = np.abs(points * 2 - doubled).max(initial=0.0)
            if rest > ROUNDED or len(points) < LEAST_VERTICES:
                continue
            halves = np.mean(doubled % 2 == 1)
            if halves == 0:
                where = "at the centres of pixels"
            elif halves == 1:
                where = "at the corners of pixels"
            else:
                where = "at multiples of half a pixel"
            samples = np.unique(rings.sample[chosen], return_counts=True)[0]
            name = facts.classes[klass]
            yield Finding(
                rule=self.name,
                severity=self.severity,
                text=f"All vertices of {name} lie {where}.",
                samples=tuple(samples.tolist()),
                classes=(name,),
                amount=float(len(samples)),
                unit="samples",
            )


def _choose_rings(facts: Facts) -> dict[int, Indices]:
    """Return rings that are measured, by class: one of a sample, the largest."""
    rings, labels = facts.rings, facts.labels
    area = np.abs(rings.area)
    filled = np.flatnonzero(labels.last > labels.first)
    # By label, then by area: the last ring of each label is its largest.
    label_of = np.repeat(filled, (labels.last - labels.first)[filled])
    order = labels.order[np.lexsort([area[labels.order], label_of])]
    each = np.sort(order[labels.last[filled] - 1])
    each = each[area[each] >= LEAST_AREA]
    chosen: dict[int, Indices] = {}
    for klass in range(len(facts.classes)):
        of_class = each[rings.klass[each] == klass]
        if len(of_class) >= LEAST_SAMPLES:
            chosen[klass] = of_class
    most = min(MOST_OF_CLASS, max(MOST_RINGS // max(len(chosen), 1), LEAST_SAMPLES))
    return {klass: _spread(of_class, most) for klass, of_class in chosen.items()}


def _spread(rings: Indices, most: int) -> Indices:
    """Return at most so many rings, evenly among all."""
    if len(rings) <= most:
        return rings
    return rings[np.arange(most) * len(rings) // most]


def _fit_class(facts: Facts, rings: Indices) -> Fit | None:
    """Return how the outlines of a class fit; None if they lie along no clear edge."""
    samples = facts.rings.sample[rings].tolist()
    ring_of = dict(zip(samples, rings.tolist(), strict=True))

    def measure(sample: int) -> Floats:
        return profiles(facts.image(sample), facts.ring_points(ring_of[sample]))

    table = np.stack(facts.map(measure, samples, "compare with edges"))
    weights, shifts = _shifts()
    scores = table.reshape(len(samples), -1) @ weights.T
    total = scores.sum(axis=0)
    best = int(np.abs(total).argmax())
    if (np.abs(shifts[best]) >= (REACH, REACH, REACH_ACROSS)).any():
        return None
    patient = facts.patient[samples]
    starts = np.flatnonzero(np.diff(patient, prepend=-1))
    if len(starts) >= LEAST_SAMPLES:
        scores = np.add.reduceat(scores, starts)
    own = shifts[(scores * np.sign(total[best])).argmax(axis=1), :2]
    shift = np.quantile(own, 0.5, axis=0)
    near = (np.abs(own - shift) <= AGREEMENT).all(axis=1)
    unmoved = np.abs(total[(shifts[:, :2] == 0).all(axis=1)]).max()
    return Fit(
        shift=(float(shift[0]), float(shift[1])),
        agree=float(near.mean()),
        samples=samples,
        gain=float(np.abs(total[best]) / max(unmoved, 1e-30)),
    )


def profiles(image: NDArray[Any], ring: Floats) -> Floats:
    """Return how an image changes across an outline, by direction and distance.

    image : (H, W)
    ring  : float64 (n, 2), (x, y) in pixels

    Returns float64 (DIRECTIONS, PROFILE): the sum of the changes, from inside to
    outside, of points of the outline that face into a direction, at distances PROFILE
    from the outline. The magnitudes of all add up to 1, if they are not 0.
    """
    places, outward = _along(ring)
    reach = len(PROFILE) // 2 + 2
    steps = np.arange(-reach, reach + 1) * STEP
    x = places[:, :1] + outward[:, :1] * steps
    y = places[:, 1:] + outward[:, 1:] * steps
    values = _sample(image, x, y)
    change = values[:, 4:] - values[:, :-4]
    angle = np.arctan2(outward[:, 1], outward[:, 0])
    facing = np.rint(angle * (DIRECTIONS / (2 * math.pi))).astype(np.int64)
    table = np.zeros((DIRECTIONS, len(PROFILE)))
    np.add.at(table, facing % DIRECTIONS, change)
    table /= max(float(np.abs(table).sum()), 1e-30)
    return table


def _along(ring: Floats) -> tuple[Floats, Floats]:
    """Return points along a ring, about a pixel apart, and unit vectors outward."""
    closed = np.concatenate([ring, ring[:1]])
    lengths = np.append(0.0, np.cumsum(np.hypot(*np.diff(closed, axis=0).T)))
    count = max(int(lengths[-1]), 8)
    at = np.arange(count) * (lengths[-1] / count)
    places = np.column_stack([np.interp(at, lengths, closed[:, k]) for k in range(2)])
    half = max(1, min(round(CHORD / 2 * count / lengths[-1]), count // 4))
    chord = np.roll(places, -half, axis=0) - np.roll(places, half, axis=0)
    x, y = (ring - ring[0]).T
    is_positive = float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) >= 0
    length = np.hypot(chord[:, 0], chord[:, 1])
    outward = np.column_stack([chord[:, 1], -chord[:, 0]])
    length = np.maximum(length, 1e-12) * (1.0 if is_positive else -1.0)
    return places, outward / length[:, None]


def _sample(image: NDArray[Any], x: Floats, y: Floats) -> Floats:
    """Return the values of an image at points, between the four pixels around each."""
    height, width = image.shape
    x, y = x.clip(0, width - 1), y.clip(0, height - 1)
    column = np.minimum(x.astype(np.int64), max(width - 2, 0))
    row = np.minimum(y.astype(np.int64), max(height - 2, 0))
    right, below = min(1, width - 1), min(1, height - 1) * width
    first = row * width + column
    cells = image.ravel().astype(np.float32)
    u, v = x - column, y - row
    above = cells[first] * (1 - u) + cells[first + right] * u
    under = cells[first + below] * (1 - u) + cells[first + below + right] * u
    values: Floats = above * (1 - v) + under * v
    return values


def _shifts() -> tuple[Floats, Floats]:
    """Return what a table of profiles is multiplied with, and the shifts of each row.

    Returns float64 (s, DIRECTIONS * PROFILE), the weights of the profiles at the place
    to which a shift moves the outline across itself, and float64 (s, 3): dx, dy, and
    how far all the outline moves outward.
    """
    steps = np.arange(-REACH, REACH + STEP / 2, STEP)
    across = np.arange(-REACH_ACROSS, REACH_ACROSS + STEP / 2, STEP)
    shifts = np.stack(np.meshgrid(steps, steps, across, indexing="ij"), axis=-1)
    shifts = shifts.reshape(-1, 3)
    angle = np.arange(DIRECTIONS) * (2 * math.pi / DIRECTIONS)
    outward = np.stack([np.cos(angle), np.sin(angle), np.ones(DIRECTIONS)])
    at = (shifts @ outward - PROFILE[0]) / STEP
    low = np.floor(at.clip(0, len(PROFILE) - 1.001)).astype(np.int64)
    rest = at - low
    weights = np.zeros((len(shifts), DIRECTIONS, len(PROFILE)))
    which = np.arange(len(shifts))[:, None], np.arange(DIRECTIONS)
    weights[(*which, low)] = 1 - rest
    weights[(*which, low + 1)] = rest
    return weights.reshape(len(shifts), -1), shifts


RULES: tuple[type[Rule], ...] = (PixelOffset, WholeNumbers)
