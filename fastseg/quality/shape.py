"""Rules about the shape of contours: crossings, spikes, jumps, specks, the border."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fastseg.choices import Severity
from fastseg.quality.facts import Facts
from fastseg.quality.findings import MOST_POINTS, Finding
from fastseg.quality.outlines import (
    Relation,
    chunks_of,
    crossings_of,
    jumps_of,
    loops_of,
    rings_with_long_edges,
    rings_with_tips,
    spikes_of,
)
from fastseg.quality.rule import Rule, threshold
from fastseg.reprs import digits, many

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
T = TypeVar("T")
# How much, and (x, y) in pixels.
Place = tuple[float, float, float]
# Those of rings.
Places = dict[int, list[Place]]

# A speck is smaller than the largest ring of its class by this factor at least.
SPECK = 20.0
# From the centres of an image's outermost pixels to its border.
EDGE = 0.5


class SelfIntersection(Rule):
    """Whether the pixels within a loop belong to the class depends on the fill rule and
    on the direction of the loop: other tools draw another mask.
    """

    name = "self-intersection"
    title = "A contour that crosses itself"
    severity = "warning"
    needs = "contours"
    explains = (
        "spike",
        "jump",
    )
    area: float = threshold(1, "pixels", "of the smaller loop; below, it is a note")

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each sample and class."""
        crossed = _over_rings(facts, crossings_of, "look for crossings")
        places, counts = {}, {}
        for ring, count, edges in crossed:
            loops = loops_of(facts.ring_points(ring), edges)
            if loops:
                places[ring] = loops
                counts[ring] = count - len(edges) + len(loops)
        for rings, worst in _by_label(places, facts):
            area = worst[0][0]
            severity: Severity = self.severity if area >= self.area else "note"
            number = sum(counts[ring] for ring in rings)
            times = "once" if number == 1 else f"{number} times"
            yield _finding(
                facts,
                self,
                rings,
                worst,
                f"crosses itself {times}; the largest loop has {digits(area)} pixels",
                severity=severity,
            )


class Spike(Rule):
    """A slip of the mouse, or a wrong digit: the class gets pixels far from where it
    is, and boxes and distances that are measured on the mask end at the tip.
    """

    name = "spike"
    title = "A contour with a spike"
    severity = "warning"
    needs = "contours"
    explains = (
        "jump",
        "not-inside",
        "overlap",
        "outline-unlike-others",
    )
    length: float = threshold(3, "pixels", "from the tip to the outline", least=0.5)

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each sample and class."""
        sharp = _over_rings(facts, rings_with_tips, "look for spikes")
        places = {
            ring: spikes_of(facts.ring_points(ring), self.length) for ring in sharp
        }
        for rings, worst in _by_label(places, facts):
            yield _finding(
                facts,
                self,
                rings,
                worst,
                f"has {many(len(worst), 'spike')}, {_at_most(worst)} pixels long",
            )


class Jump(Rule):
    """Vertices are missing, or lie elsewhere, as after a wrong digit or a click beside
    the organ: the edge cuts off what should be inside, or adds what should not.
    """

    name = "jump"
    title = "An edge far longer than the others of its contour"
    severity = "warning"
    needs = "contours"
    explains = ("outline-unlike-others",)
    factor: float = threshold(5, "times", "the usual length of an edge", least=1)
    length: float = threshold(4, "pixels", "of the edge, at least")

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each sample and class."""

        def look(facts: Facts, first: int, stop: int) -> Indices:
            return rings_with_long_edges(facts, first, stop, self.factor, self.length)

        places = {
            ring: jumps_of(facts.ring_points(ring), self.factor, self.length)
            for ring in _over_rings(facts, look, "look for jumps")
        }
        for rings, worst in _by_label(places, facts):
            yield _finding(
                facts,
                self,
                rings,
                worst,
                f"has {many(len(worst), 'edge')} far longer than the others, "
                f"{_at_most(worst)} pixels long",
            )


class TinyRing(Rule):
    """A stray click, or a remainder of editing. It covers a pixel or none, and the
    sample counts as one that has the class.
    """

    name = "tiny-ring"
    title = "A ring with almost no area"
    severity = "warning"
    needs = "contours"
    area: float = threshold(1, "pixels", "of the ring, less than")

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each sample and class."""
        area = np.abs(facts.rings.area)
        tiny = area < self.area
        places = _at_rings(facts, np.flatnonzero(tiny), area)
        for chosen, worst in _by_label(places, facts):
            yield _finding(
                facts,
                self,
                chosen,
                worst,
                f"has {many(len(chosen), 'ring')} with almost no area "
                f"({worst[0][0]:.2g} pixels)",
            )


class Speck(Rule):
    """An island, or a hole, of a few pixels beside a large region is what brushes and
    thresholds leave behind: it moves boxes and surface distances, and adds an object.
    """

    name = "speck"
    title = "A ring of few pixels beside a large one"
    severity = "warning"
    needs = "contours"
    area: float = threshold(4, "pixels", "of the ring, less than")
    tiny: float = threshold(1, "pixels", "of the ring, below which it is a tiny-ring")

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each sample and class."""
        area, labels = np.abs(facts.rings.area), facts.labels
        largest = np.zeros(len(area))
        if len(labels.order):
            filled = labels.last > labels.first
            of_label = np.maximum.reduceat(area[labels.order], labels.first[filled])
            counts = (labels.last - labels.first)[filled]
            largest[labels.order] = np.repeat(of_label, counts)
        small = (area >= self.tiny) & (area < self.area) & (area * SPECK < largest)
        places = _at_rings(facts, np.flatnonzero(small), area)
        for chosen, worst in _by_label(places, facts):
            yield _finding(
                facts,
                self,
                chosen,
                worst,
                f"has {many(len(chosen), 'ring')} of few pixels beside a large one "
                f"({worst[0][0]:.2g} pixels)",
            )


class OutsideImage(Rule):
    """No pixel of it is labelled: it belongs to another image, or its coordinates are
    those of another grid.
    """

    name = "outside-image"
    title = "A contour that lies outside its image"
    severity = "error"
    needs = "contours"
    explains = ("slice-without-contour",)

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each sample and class."""
        off, beyond = _beyond_border(facts)
        places = _at_rings(facts, np.flatnonzero(off), beyond)
        for chosen, worst in _by_label(places, facts):
            yield _finding(
                facts,
                self,
                chosen,
                worst,
                f"lies outside the image, by {digits(worst[0][0])} pixels",
            )


class CutByBorder(Rule):
    """What lies outside the image has no pixel: areas and volumes are too small there.
    Often the contour was drawn on a larger image, or in another grid.
    """

    name = "cut-by-border"
    title = "A contour that the border of the image cuts"
    severity = "warning"
    needs = "contours"
    pixels: float = threshold(1, "pixels", "that the contour reaches out, more than")
    usual: float = threshold(10, "percent", "of a class's images, above it is a note")

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each sample and class, or a note for the whole class."""
        off, beyond = _beyond_border(facts)
        cut = np.flatnonzero(~off & (beyond > self.pixels))
        found: dict[int, list[Finding]] = {}
        for chosen, worst in _by_label(_at_rings(facts, cut, beyond), facts):
            finding = _finding(
                facts,
                self,
                chosen,
                worst,
                "is cut by the border of the image: it reaches out by "
                f"{digits(worst[0][0])} pixels",
            )
            found.setdefault(int(facts.rings.klass[chosen[0]]), []).append(finding)
        for klass, findings in found.items():
            images = int((facts.labels.klass == klass).sum())
            if len(findings) == 1 or 100 * len(findings) <= self.usual * images:
                yield from findings
                continue
            worst_first = sorted(findings, key=lambda finding: -finding.amount)
            yield replace(
                worst_first[0],
                severity="note",
                text=(
                    f"{facts.classes[klass]} is cut by the border of the image on "
                    f"{len(findings)} of {many(images, 'image')}."
                ),
                samples=tuple(finding.samples[0] for finding in worst_first),
            )


class CrossingRings(Rule):
    """What two rings of a class share is cut out of the mask, or not, as the fill rule
    says; of a ring that is there twice, nothing may be left.
    """

    name = "crossing-rings"
    title = "Rings of one class that cross each other, or are there twice"
    severity = "warning"
    needs = "contours"

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each sample and class."""
        for relation in facts.ring_relations:
            if relation.kind == "cross":
                yield _finding(
                    facts,
                    self,
                    relation.rings,
                    [(float(len(relation.rings)), *relation.place)],
                    "has rings that overlap in part, or are the same: which pixels "
                    "belong to it depends on the fill rule",
                    unit="rings",
                )


class NestedRings(Rule):
    """An inner ring in the same direction is a hole under "even-odd", but filled under
    "nonzero" and "union": the store must be built by what the annotators meant.
    """

    name = "nested-rings"
    title = "Rings of one class within each other, in the same direction"
    severity = "note"
    needs = "contours"

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each class."""
        text = "has rings within each other, in the same direction,"
        return _note_relations(facts, self, "same", text)


class OppositeWinding(Rule):
    """An inner ring in the opposite direction is meant as a hole, which "even-odd" and
    "nonzero" leave out, but "union" fills.
    """

    name = "opposite-winding"
    title = "Rings of one class within each other, in opposite directions"
    severity = "note"
    needs = "contours"

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each class."""
        text = "has rings within each other, in opposite directions,"
        return _note_relations(facts, self, "opposite", text)


def _note_relations(
    facts: Facts, rule: Rule, kind: str, text: str
) -> Iterator[Finding]:
    """Yield a finding for each class that has such rings, of all its samples."""
    by_class: dict[int, list[Relation]] = {}
    for relation in facts.ring_relations:
        if relation.kind == kind:
            klass = int(facts.rings.klass[relation.rings[0]])
            by_class.setdefault(klass, []).append(relation)
    for klass, relations in by_class.items():
        samples = facts.rings.sample[[relation.rings[0] for relation in relations]]
        images = int((facts.labels.klass == klass).sum())
        yield Finding(
            rule=rule.name,
            severity=rule.severity,
            text=(
                f"{facts.classes[klass]} {text} on {len(relations)} of "
                f"{many(images, 'image')}: there its mask depends on the fill rule."
            ),
            samples=tuple(samples.tolist()),
            classes=(facts.classes[klass],),
            amount=float(len(relations)),
            unit="samples",
            points=(relations[0].place,),
            rings=tuple(relations[0].rings),
        )


def _over_rings(
    facts: Facts, look: Callable[[Facts, int, int], Iterable[T]], label: str
) -> list[T]:
    """Return what a function finds in ranges of all rings, by several threads."""
    ranges = chunks_of(facts)
    found = facts.map(lambda k: look(facts, *ranges[k]), range(len(ranges)), label)
    return [each for part in found for each in part]


def _beyond_border(facts: Facts) -> tuple[NDArray[np.bool_], Floats]:
    """Return which rings lie outside their image, and how far each reaches out."""
    rings = facts.rings
    last = facts.shapes[rings.sample][:, ::-1] - 1 + EDGE
    reach = np.maximum(-EDGE - rings.low, rings.high - last).max(axis=1)
    within = np.minimum(rings.high + EDGE, last - rings.low).min(axis=1)
    return within < 0, reach


def _at_rings(facts: Facts, chosen: Indices, amount: Floats) -> Places:
    """Return the amount and the centroid of rings."""
    return {
        ring: [(float(amount[ring]), *facts.rings.centroid[ring].tolist())]
        for ring in chosen.tolist()
    }


def _by_label(places: Places, facts: Facts) -> Iterator[tuple[list[int], list[Place]]]:
    """Yield the rings of each label that have places, and these, the worst first."""
    by_label: dict[tuple[int, int], list[int]] = {}
    for ring, found in sorted(places.items()):
        if found:
            label = int(facts.rings.sample[ring]), int(facts.rings.klass[ring])
            by_label.setdefault(label, []).append(ring)
    for _, rings in sorted(by_label.items()):
        worst = sorted((p for ring in rings for p in places[ring]), reverse=True)
        yield rings, worst


def _at_most(worst: list[Place]) -> str:
    """Return the greatest amount, for a sentence about all of them."""
    return f"{'up to ' if len(worst) > 1 else ''}{digits(worst[0][0])}"


def _finding(
    facts: Facts,
    rule: Rule,
    rings: list[int],
    worst: list[Place],
    text: str,
    *,
    severity: Severity | None = None,
    unit: str = "pixels",
) -> Finding:
    """Return a finding about rings of a label, with the worst place first.

    text : what the contour does, without a subject
    """
    name = facts.classes[int(facts.rings.klass[rings[0]])]
    return Finding(
        rule=rule.name,
        severity=severity or rule.severity,
        text=f"The contour of {name} {text}.",
        samples=(int(facts.rings.sample[rings[0]]),),
        classes=(name,),
        amount=worst[0][0],
        unit=unit,
        points=tuple((x, y) for _, x, y in worst[:MOST_POINTS]),
        rings=tuple(rings),
    )


RULES: tuple[type[Rule], ...] = (
    SelfIntersection,
    Spike,
    Jump,
    TinyRing,
    Speck,
    OutsideImage,
    CutByBorder,
    CrossingRings,
    NestedRings,
    OppositeWinding,
)
