"""Rules about classes against each other: inside, apart, and in each other's place."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from fastseg.choices import Severity
from fastseg.quality.facts import Facts
from fastseg.quality.findings import MOST_POINTS, Finding
from fastseg.quality.overlaps import LEAST_IMAGES, Bools, Floats, Indices
from fastseg.quality.rule import AGAINST_THE_REST, ALONG_VOLUMES, Rule, threshold
from fastseg.reprs import many

# A class that lies inside another on fewer images than this may be meant to leave it.
NEARLY_ALWAYS = 0.9
# Of more points than this, only some are measured.
MOST_MEASURED = 256


class NotInside(Rule):
    """The wall between an inner and an outer contour has a negative thickness there,
    and a network gets labels that contradict each other: usually one of the contours
    belongs to another image, or was drawn carelessly.
    """

    name = "not-inside"
    title = "A class reaches out of the class that should contain it"
    severity = "error"
    needs = "contours"
    explains = (
        "end-slice-unlike-rest",
        "intensity-unlike-others",
        "outline-unlike-others",
    )
    pixels: float = threshold(1, "pixels", "outside, at least", least=1)

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each patient and two classes.

        It is a warning if the relation was inferred and has many exceptions.
        """
        overlaps, pairs = facts.overlaps, facts.inside_pairs
        present = facts.items["pixels"] > 0
        for inner, outer in pairs:
            rows, of_inner, _ = overlaps.of(inner, outer)
            sample = overlaps.sample[rows]
            outside = of_inner - overlaps.shared[rows]
            broken = (outside >= self.pixels) & ~facts.swapped[rows]
            # A class between both has a finding of its own.
            for middle in {b for a, b in pairs if a == inner and (b, outer) in pairs}:
                broken &= ~present[sample, middle]
            inside = int(np.sum(outside == 0))
            nearly_always = inside >= NEARLY_ALWAYS * len(outside)
            severity: Severity = self.severity
            if not facts.inside and not nearly_always:
                severity = "warning"
            names = facts.classes[inner], facts.classes[outer]
            for samples, counts in by_patient(facts, sample, outside, broken):
                far, points, unit = _how_far(facts, samples[0], inner, outer)
                yield Finding(
                    rule=self.name,
                    severity=severity,
                    text=(
                        f"{many(counts[0], 'pixel')} of {names[0]} "
                        f"{'lies' if counts[0] == 1 else 'lie'} outside {names[1]}, "
                        f"up to {far:.2g} {unit} from it{_more(samples)}. On {inside} "
                        f"of {many(len(outside), 'image')}, {names[0]} lies inside."
                    ),
                    samples=samples,
                    classes=names,
                    amount=far,
                    unit=unit,
                    points=points,
                )


class Overlap(Rule):
    """Pixels get two labels that exclude each other elsewhere: a network that gives one
    class to each pixel is trained on the one or the other, whichever comes first.
    """

    name = "overlap"
    title = "Two classes overlap that should not"
    severity = "warning"
    needs = "masks"
    pixels: float = threshold(4, "pixels", "shared, or a fifth of a class", least=1)
    apart: float = threshold(
        90,
        "percent",
        "of the images of two classes, on which they lie apart",
    )

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each patient and two classes."""
        overlaps = facts.overlaps
        for first, second, rows in overlaps.each():
            sample, shared = overlaps.sample[rows], overlaps.shared[rows]
            apart = int(np.sum(shared == 0))
            if len(shared) < LEAST_IMAGES or 100 * apart < self.apart * len(shared):
                continue
            smaller = np.minimum(overlaps.of_first[rows], overlaps.of_second[rows])
            broken = shared >= np.minimum(self.pixels, np.maximum(smaller / 5, 1))
            broken &= ~facts.swapped[rows]
            names = facts.classes[first], facts.classes[second]
            for samples, counts in by_patient(facts, sample, shared, broken):
                yield Finding(
                    rule=self.name,
                    severity=self.severity,
                    text=(
                        f"{names[0]} and {names[1]} share {many(counts[0], 'pixel')}"
                        f"{_more(samples)}. On {apart} of "
                        f"{many(len(shared), 'image')}, they lie apart."
                    ),
                    samples=samples,
                    classes=names,
                    amount=float(counts[0]),
                    unit="pixels",
                    points=(_middle_of_both(facts, samples[0], first, second),),
                )


class SwappedLabels(Rule):
    """A network is told that left is right, or that the wall is the cavity: a few such
    images cost more than all contours that are a pixel off.
    """

    name = "swapped-labels"
    title = "Two classes whose labels seem to be swapped"
    severity = "error"
    needs = "masks"
    explains = (*ALONG_VOLUMES, *AGAINST_THE_REST)

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each patient and two classes."""
        overlaps = facts.overlaps
        for first, second, rows in overlaps.each():
            sample, swapped = overlaps.sample[rows], facts.swapped[rows]
            sizes = overlaps.of_first[rows] + overlaps.of_second[rows]
            names = facts.classes[first], facts.classes[second]
            for samples, _ in by_patient(facts, sample, sizes, swapped):
                yield Finding(
                    rule=self.name,
                    severity=self.severity,
                    text=(
                        f"The labels {names[0]} and {names[1]} seem to be swapped"
                        f"{_more(samples)}: each is where the other one is on "
                        f"{len(swapped) - int(swapped.sum())} of "
                        f"{many(len(swapped), 'image')}."
                    ),
                    samples=samples,
                    classes=names,
                    amount=float(len(samples)),
                    unit="samples",
                )


def _how_far(
    facts: Facts, sample: int, inner: int, outer: int
) -> tuple[float, tuple[tuple[float, float], ...], str]:
    """Return how far a class reaches out of another one on an image, where, and a unit.

    What is measured are the centres of the pixels outside, and the vertices in these
    pixels, to the outline of the outer class; in mm if the spacing is known.
    """
    mask = facts.mask(sample)
    bits = (mask >> mask.dtype.type(inner)) & ~(mask >> mask.dtype.type(outer)) & 1
    rows, columns = np.nonzero(bits)
    places = np.column_stack([columns, rows]).astype(np.float64)
    rings = facts.rings_of(facts.label_at(sample, inner))
    vertices = np.concatenate([facts.ring_points(ring) for ring in rings.tolist()])
    height, width = mask.shape
    cells = np.rint(vertices.clip(0, [width - 1, height - 1])).astype(np.int64)
    near = vertices[bits[cells[:, 1], cells[:, 0]] != 0]
    starts, ends = _edges(facts, facts.rings_of(facts.label_at(sample, outer)))
    near = near[~_is_inside(near, starts, ends)]
    places = np.concatenate([places, near])
    places = places[:: 1 + len(places) // MOST_MEASURED]
    scale, unit = facts.spacing_mm[sample][::-1], "mm"
    if not np.isfinite(scale).all():
        scale, unit = np.ones(2), "pixels"
    distances = _distances(places * scale, starts * scale, ends * scale)
    worst = np.argsort(-distances, kind="stable")[:MOST_POINTS]
    points = tuple((x, y) for x, y in places[worst].tolist())
    return float(distances[worst[0]]), points, unit


def _edges(facts: Facts, rings: Indices) -> tuple[Floats, Floats]:
    """Return the starts and the ends of all edges of rings, (e, 2) each."""
    starts = [facts.ring_points(ring) for ring in rings.tolist()]
    ends = [np.roll(points, -1, axis=0) for points in starts]
    return np.concatenate(starts), np.concatenate(ends)


def _is_inside(points: Floats, starts: Floats, ends: Floats) -> Bools:
    """Return which points lie inside an odd number of rings."""
    below = starts[:, 1] <= points[:, 1:]
    crosses = below != (ends[:, 1] <= points[:, 1:])
    rise = np.where(ends[:, 1] == starts[:, 1], 1.0, ends[:, 1] - starts[:, 1])
    slope = (ends[:, 0] - starts[:, 0]) / rise
    at = starts[:, 0] + (points[:, 1:] - starts[:, 1]) * slope
    inside: Bools = (crosses & (at <= points[:, :1])).sum(axis=1) % 2 == 1
    return inside


def _distances(points: Floats, starts: Floats, ends: Floats) -> Floats:
    """Return the distance of each point from the nearest edge."""
    along = ends - starts
    square = (along**2).sum(axis=1)
    nearest = np.empty(len(points))
    for k, point in enumerate(points):
        away = point - starts
        fraction = (away * along).sum(axis=1) / np.where(square > 0, square, 1.0)
        away -= fraction.clip(0, 1)[:, None] * along
        nearest[k] = np.sqrt((away**2).sum(axis=1).min())
    return nearest


def _middle_of_both(
    facts: Facts, sample: int, first: int, second: int
) -> tuple[float, float]:
    """Return the middle of the pixels that two classes share, (x, y)."""
    mask = facts.mask(sample)
    bits = (mask >> mask.dtype.type(first)) & (mask >> mask.dtype.type(second)) & 1
    rows, columns = np.nonzero(bits)
    return float(columns.mean()), float(rows.mean())


def by_patient(
    facts: Facts, sample: Indices, amount: Indices, chosen: Bools
) -> Iterator[tuple[tuple[int, ...], list[int]]]:
    """Yield samples and amounts of each patient, those of the largest amount first.

    sample, amount, chosen : (n,), rows; only the chosen ones count
    """
    sample, amount = sample[chosen], amount[chosen]
    patient = facts.patient[sample]
    order = np.lexsort([sample, -amount, patient])
    sample, amount, patient = sample[order], amount[order], patient[order]
    starts = np.flatnonzero(np.diff(patient, prepend=-1)).tolist()
    for first, last in pairwise([*starts, len(sample)]):
        yield tuple(sample[first:last].tolist()), amount[first:last].tolist()


def _more(samples: tuple[int, ...]) -> str:
    """Return how many further images of the patient are concerned, for a sentence."""
    further = len(samples) - 1
    return f" (and on {many(further, 'more image')} of the patient)" if further else ""


RULES: tuple[type[Rule], ...] = (NotInside, Overlap, SwappedLabels)
