"""Rules about contours, images and series that are there twice."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.choices import Severity
from fastseg.quality.contour_matches import (
    Matches,
    Outlines,
    expected_by_chance,
    measure_outlines,
    moved,
    same_place,
    same_place_elsewhere,
)
from fastseg.quality.facts import Facts, Indices
from fastseg.quality.findings import Finding
from fastseg.quality.image_matches import Rescaled, find_rescaled, same_pixels
from fastseg.quality.near_pairs import join_pairs, members_of
from fastseg.quality.rule import (
    AGAINST_CLASSES,
    AGAINST_THE_REST,
    ALONG_VOLUMES,
    Rule,
    threshold,
)
from fastseg.quality.tracks import number_rows
from fastseg.reprs import many

Floats = NDArray[np.float64]
# Rings of a class that are the same, by the class and their samples, and whether they
# are at one place or moved.
Repeated = dict[tuple[int, tuple[int, ...]], tuple[list[int], str]]

# A class that has another one's contours on more than this part of a patient's images
# is a copy of it, or a part: it is drawn once, and given two names.
MOSTLY = 1 / 3
# On so many images at least.
LEAST_COMMON = 3
# Images of a series whose pixels another one has, at least, and as a part of those of
# the shorter one.
LEAST_IMAGES = 2
WHOLE_SERIES = 0.75
# Series that have an image in common and are compared, at most.
MOST_SERIES = 20
# Moved contours have no place in which they could differ, so that chance is estimated
# from few measures: of 10 000 CT phantom images, 9 pairs were rarer than one a store.
MOVED_CHANCE = 1 / 20
# Positions of slices are equal up to this, in mm.
POSITION_ERROR = 1e-3


class Copies(NamedTuple):
    """The outlines of a store, and which rings of one patient are the same.

    outlines : of all rings
    rings    : int64 (n,), the rings that are outlines, rows of `facts.rings`
    which    : int64 (n,), their outlines
    patient  : int64 (n,)
    group    : int64 (n,), the lowest row of the same outline of the same patient
    order    : int64 (n,), rows by group
    """

    outlines: Outlines
    rings: Indices
    which: Indices
    patient: Indices
    group: Indices
    order: Indices

    def rings_like(self, rows: Indices) -> Indices:
        """Return all rings that are equal to those of some rows, sorted."""
        ordered = self.group[self.order]
        groups = np.unique(self.group[rows], return_index=True)[0]
        start = np.searchsorted(ordered, groups).tolist()
        stop = np.searchsorted(ordered, groups, side="right").tolist()
        parts = [self.order[a:b] for a, b in zip(start, stop, strict=True)]
        return self.rings[np.sort(np.concatenate(parts))]


@lru_cache(maxsize=1)
def find_outlines(facts: Facts) -> Outlines:
    """Return the outlines of a store."""
    offsets = np.append(facts.rings.start, facts.rings.stop[-1:])
    return measure_outlines(facts.points, offsets)


@lru_cache(maxsize=4)
def find_copies(facts: Facts, tolerance: float) -> Copies:
    """Return which rings of a patient are the same within a tolerance, in pixels."""
    outlines = find_outlines(facts)
    rings = np.flatnonzero(outlines.number >= 0)
    which = outlines.number[rings]
    patient = facts.patient[facts.rings.sample[rings]]
    # Compare each outline once for each patient, then join the rings that are equal.
    key = patient * (which.max(initial=0) + 1) + which
    _, first, index = np.unique(key, return_index=True, return_inverse=True)
    found = same_place(outlines, which[first], tolerance, patient[first])
    group = join_pairs(len(first), found.pairs)
    lowest = np.full(len(first), len(rings))
    np.minimum.at(lowest, group[index], np.arange(len(rings)))
    group = lowest[group[index]]
    order = np.argsort(group, kind="stable")
    return Copies(outlines, rings, which, patient, group, order)


class ContourRule(Rule):
    """What the rules about the same contours have in common."""

    needs = "contours"

    def finding(
        self,
        facts: Facts,
        rings: Indices,
        text: str,
        *,
        severity: Severity | None = None,
    ) -> Finding:
        """Return a finding about rings that are the same."""
        samples = sorted({*facts.rings.sample[rings].tolist()})
        return Finding(
            rule=self.name,
            severity=severity or self.severity,
            text=text,
            samples=tuple(samples),
            classes=_class_names(facts, rings),
            amount=float(len(samples)),
            unit="samples",
            rings=tuple(sorted(rings.tolist())),
        )


class ContourAcrossPatients(ContourRule):
    """One of the patients has labels that are none of theirs.

    A network learns them, or is measured by them, and if the patients are in different
    parts of a split, it is measured by what it has seen.
    """

    name = "contour-across-patients"
    title = "The same contour in several patients"
    severity = "error"
    explains = (*AGAINST_CLASSES, *ALONG_VOLUMES, *AGAINST_THE_REST)
    tolerance: float = threshold(
        0.05, "pixels", "distance up to which contours are equal"
    )
    near: float = threshold(
        0.75, "pixels", "distance up to which they are nearly equal"
    )
    vertices: float = threshold(
        0.02, "pixels", "distance of vertices of moved contours"
    )
    chance: float = threshold(1.0, "pairs", "that a store may have by chance")

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each contour that several patients have."""
        copies = find_copies(facts, self.tolerance)
        if len(np.unique(copies.patient, return_counts=True)[0]) < 2:
            return
        rows = _rows_of_patients(copies)
        place = _certain(facts, self.tolerance, self.near, self.chance, is_placed=True)
        shape = _certain(
            facts, self.tolerance, self.vertices, self.chance, is_placed=False
        )
        patient = copies.patient[rows]
        shape = _others(shape, patient[shape.pairs[:, 0]] != patient[shape.pairs[:, 1]])
        image = _same_pixels(facts)
        seen: set[tuple[int, ...]] = set()
        for pairs, how in ((place, "at one place"), (shape, "moved")):
            for members, largest in _groups(len(rows), pairs):
                rings = copies.rings_like(rows[members])
                samples = facts.rings.sample[rings]
                patients = len({*facts.patient[samples].tolist()})
                known = tuple(sorted({*samples.tolist()}))
                images = {*image[samples].tolist()}
                if known in seen or len(images) < 2:
                    continue
                seen.add(known)
                is_same = how == "at one place" and largest <= self.tolerance
                detail = (
                    f"moved by {_how_far(facts, rings):.3g} pixels"
                    if how == "moved"
                    else "at the same position"
                    if is_same
                    else f"within {largest:.2f} pixels"
                )
                yield self.finding(
                    facts,
                    rings,
                    f"{many(len(known), 'image')} of {many(patients, 'patient')} have "
                    f"the same contour of {_listed(facts, rings)}, {detail}.",
                    severity="error" if is_same else "warning",
                )


class ContourOfTwoClasses(ContourRule):
    """A network cannot tell the classes apart there, and learns to mix them up."""

    name = "contour-of-two-classes"
    title = "One contour for two classes"
    severity = "error"
    explains = (*AGAINST_CLASSES, *ALONG_VOLUMES, *AGAINST_THE_REST)
    tolerance: float = threshold(
        0.05, "pixels", "distance up to which contours are equal"
    )

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each image, or for a patient if it is so on many."""
        copies = find_copies(facts, self.tolerance)
        signatures = _signatures(facts, copies)
        equal: dict[tuple[int, int, int], dict[int, list[int]]] = defaultdict(dict)
        apart: dict[tuple[int, tuple[int, ...]], set[int]] = defaultdict(set)
        for members in members_of(copies.group):
            rings = copies.rings[members]
            klass, sample = facts.rings.klass[rings], facts.rings.sample[rings]
            if (klass == klass[0]).all():
                continue
            patient = int(copies.patient[members[0]])
            classes_of: dict[int, set[int]] = defaultdict(set)
            for k, s in zip(klass.tolist(), sample.tolist(), strict=True):
                classes_of[s].add(k)
            together = False
            for s, classes in classes_of.items():
                ordered = sorted(classes)
                for i, one in enumerate(ordered):
                    for other in ordered[i + 1 :]:
                        together = True
                        if signatures[s, one] == signatures[s, other]:
                            both = rings[(sample == s) & np.isin(klass, [one, other])]
                            pair = equal[patient, one, other].setdefault(s, [])
                            pair += both.tolist()
            if not together and _is_one_series(facts, sample):
                key = patient, tuple(sorted({*sample.tolist()}))
                apart[key].update(rings.tolist())
        for (patient, one, other), found in equal.items():
            yield from self._of_patient(facts, signatures, patient, one, other, found)
        for (_, samples), rings_apart in apart.items():
            rings = np.array(sorted(rings_apart))
            yield self.finding(
                facts,
                rings,
                f"{many(len(samples), 'image')} of a series have the same contour, "
                f"each of another class: {_listed(facts, rings)}.",
                severity="warning",
            )

    def _of_patient(
        self,
        facts: Facts,
        signatures: "dict[tuple[int, int], Counter[int]]",
        patient: int,
        one: int,
        other: int,
        found: dict[int, list[int]],
    ) -> Iterator[Finding]:
        samples = np.flatnonzero(facts.patient == patient).tolist()
        both = [s for s in samples if {(s, one), (s, other)} <= signatures.keys()]
        parts = sum(_is_part(signatures[s, one], signatures[s, other]) for s in both)
        names = f"{facts.name_of(one)} and {facts.name_of(other)}"
        is_usual = len(found) > MOSTLY * len(both)
        if len(both) >= LEAST_COMMON and (is_usual or parts == len(both)):
            rings = np.array(sorted({ring for some in found.values() for ring in some}))
            yield self.finding(
                facts,
                rings,
                f"{names} have the same contours on {len(found)} of the "
                f"{many(len(both), 'image')} of a patient with both.",
                severity="warning" if is_usual else "note",
            )
            return
        for some in found.values():
            yield self.finding(
                facts, np.array(sorted({*some})), f"{names} have the same contour."
            )


class ContourRepeated(ContourRule):
    """A contour that was copied fits its own image best.

    People who outline volumes copy a contour to the next slice or time and leave it if
    it fits, so this is a note. It is a warning if another contour lies between two that
    are the same: then one of them may be that of another image.
    """

    name = "contour-repeated"
    title = "The same contour on several images of a patient"
    severity = "note"
    explains = (*AGAINST_CLASSES, *ALONG_VOLUMES, *AGAINST_THE_REST)
    tolerance: float = threshold(
        0.05, "pixels", "distance up to which contours are equal"
    )
    vertices: float = threshold(
        0.02, "pixels", "distance of vertices of moved contours"
    )
    chance: float = threshold(1.0, "pairs", "that a store may have by chance")

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each contour that several images of a patient have."""
        copies = find_copies(facts, self.tolerance)
        image = _same_pixels(facts)
        found: Repeated = {}
        for members in members_of(copies.group):
            for klass, rings in _by_class(facts, copies.rings[members]):
                samples = tuple(sorted({*facts.rings.sample[rings].tolist()}))
                if len({*image[list(samples)].tolist()}) > 1:
                    kept, _ = found.setdefault((klass, samples), ([], "same"))
                    kept += rings.tolist()
        rows = _rows_of_patients(copies)
        shape = _certain(
            facts, self.tolerance, self.vertices, self.chance, is_placed=False
        )
        a, b = rows[shape.pairs].T
        is_within = (copies.patient[a] == copies.patient[b]) & (
            copies.group[a] != copies.group[b]
        )
        for members, _ in _groups(len(rows), _others(shape, is_within)):
            for klass, rings in _by_class(facts, copies.rings_like(rows[members])):
                samples = tuple(sorted({*facts.rings.sample[rings].tolist()}))
                if len({*image[list(samples)].tolist()}) > 1:
                    kept, _ = found.setdefault((klass, samples), ([], "moved"))
                    kept += rings.tolist()
        apart = _are_apart(facts, copies, found, self.chance)
        for key, (kept, how) in found.items():
            klass, samples = key
            rings = np.array(sorted({*kept}))
            severity: Severity = "note"
            detail = ""
            if how == "moved":
                detail = f", moved by {_how_far(facts, rings):.3g} pixels"
            elif key in apart:
                severity = "warning"
                detail = ", and other images between them have another one"
            yield self.finding(
                facts,
                rings,
                f"{many(len(samples), 'image')} of a patient have the same contour of "
                f"{facts.name_of(klass)}{detail}.",
                severity=severity,
            )


class ImageRule(Rule):
    """What the rules about the same images have in common."""

    needs = "images"

    def finding(
        self, samples: Iterable[int], text: str, *, severity: Severity | None = None
    ) -> Finding:
        """Return a finding about images that are the same."""
        chosen = tuple(sorted({*samples}))
        return Finding(
            rule=self.name,
            severity=severity or self.severity,
            text=text,
            samples=chosen,
            amount=float(len(chosen)),
            unit="samples",
        )


class ImageAcrossPatients(ImageRule):
    """Either a patient is there under two names, or an image is not theirs.

    If they are in different parts of a split, a network is measured by images that it
    has seen.
    """

    name = "image-across-patients"
    title = "The same image in several patients"
    severity = "error"
    explains = (*AGAINST_THE_REST, "values-unlike-rest", "few-values")

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each image that several patients have."""
        for samples in _groups_of_images(facts):
            patients = len({*facts.patient[samples].tolist()})
            if patients > 1:
                yield self.finding(
                    samples.tolist(),
                    f"{many(len(samples), 'image')} of {many(patients, 'patient')} "
                    "have the same pixels.",
                )


class ImageRepeated(ImageRule):
    """Such an image counts twice, and perhaps with two different labels."""

    name = "image-repeated"
    title = "The same image twice in a patient"
    severity = "warning"
    explains = (*AGAINST_THE_REST, "values-unlike-rest", "few-values")

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each image that a patient has several times."""
        for everywhere in _groups_of_images(facts):
            patient = facts.patient[everywhere]
            for one in np.flatnonzero(np.bincount(patient) > 1).tolist():
                samples = everywhere[patient == one]
                labels = {*facts.items["mask_xxh3"][samples].tolist()}
                rest = ", but their masks differ" if len(labels) > 1 else ""
                yield self.finding(
                    samples.tolist(),
                    f"{many(len(samples), 'image')} of a patient have the same "
                    f"pixels{rest}.",
                )


class ImageRescaled(ImageRule):
    """It is the same image, exported once more with other numbers.

    It counts twice, and is a leak if the two are in different parts of a split.
    """

    name = "image-rescaled"
    title = "The same image but for scale and offset"
    severity = "warning"
    explains = (*AGAINST_THE_REST, "values-unlike-rest", "few-values")

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each such image; of several patients, it is an error."""
        first = _same_pixels(facts)
        series = find_series(facts)
        repeated = _repeated_series(facts)
        found = _rescaled(facts)
        group = join_pairs(facts.count, found.pairs)
        pair_of = dict(zip(group[found.pairs[:, 0]].tolist(), count(), strict=False))
        for samples in members_of(group[first]):
            k = pair_of.get(int(group[first[samples[0]]]), -1)
            if k < 0:
                continue
            if _are_repeated(series[samples], repeated):
                continue
            patients = len({*facts.patient[samples].tolist()})
            scale, offset = found.scale[k], found.offset[k]
            yield self.finding(
                samples.tolist(),
                f"{many(len(samples), 'image')} of {many(patients, 'patient')} have "
                f"the same pixels, but for a scale of {scale:.4g} and an offset of "
                f"{offset:.4g}.",
                severity="error" if patients > 1 else "warning",
            )


class SeriesRepeated(ImageRule):
    """A series that was exported or copied twice counts twice.

    If it belongs to several patients, one of them has images that are none of theirs,
    or is there under two names: then it is an error.
    """

    name = "series-repeated"
    title = "A series stored twice"
    severity = "warning"
    explains = (*AGAINST_THE_REST, "values-unlike-rest", "few-values")

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for the series that have the same images."""
        series = find_series(facts)
        repeated = _repeated_series(facts)
        if not repeated:
            return
        pairs = np.array(sorted(repeated), np.int64)
        for members in members_of(join_pairs(int(series.max()) + 1, pairs)):
            samples = np.flatnonzero(np.isin(series, members))
            patients = len({*facts.patient[samples].tolist()})
            yield self.finding(
                samples.tolist(),
                f"{len(members)} series of {many(patients, 'patient')} have the same "
                "images.",
                severity="error" if patients > 1 else "warning",
            )


RULES: tuple[type[Rule], ...] = (
    ContourAcrossPatients,
    ContourOfTwoClasses,
    ContourRepeated,
    SeriesRepeated,
    ImageAcrossPatients,
    ImageRepeated,
    ImageRescaled,
)


class Pairs(NamedTuple):
    """Pairs of rows that are the same for certain: int64 (m, 2), and by how much."""

    pairs: Indices
    largest: NDArray[np.float64]


def _rows_of_patients(copies: Copies) -> Indices:
    """Return rows of `copies`, each outline of each patient once."""
    key = copies.patient * (copies.which.max(initial=0) + 1) + copies.which
    return np.unique(key, return_index=True)[1]


@lru_cache(maxsize=8)
def _matches(
    facts: Facts, tolerance: float, distance: float, is_placed: bool
) -> tuple[Pairs, Floats]:
    """Return pairs of `_rows_of_patients`, and how many to expect by chance."""
    copies = find_copies(facts, tolerance)
    rows = _rows_of_patients(copies)
    which, patient = copies.which[rows], copies.patient[rows]
    if is_placed:
        found = same_place_elsewhere(copies.outlines, which, distance, patient)
    else:
        found = moved(copies.outlines, which, distance)
    kind = facts.rings.klass[copies.rings[rows]]
    chance = expected_by_chance(
        copies.outlines,
        which,
        kind,
        found,
        is_placed=is_placed,
        owner=patient if is_placed else None,
    )
    a, b = patient[found.pairs].T
    across = np.flatnonzero(a != b)
    if not is_placed and len(across):
        # Few neighbours say how many ways shapes differ in: the better of two answers.
        chance[across] = np.minimum(
            chance[across],
            expected_by_chance(
                copies.outlines,
                which,
                kind,
                Matches(found.pairs[across], found.largest[across], found.rms[across]),
                is_placed=False,
                owner=patient,
            ),
        )
    if is_placed:
        sample = facts.rings.sample[copies.rings[rows]]
        equal = np.flatnonzero(found.largest <= tolerance)
        chance[equal] = _with_other_classes(
            chance[equal], found.pairs[equal], kind, sample
        )
    return Pairs(found.pairs, found.largest), chance


def _with_other_classes(
    chance: Floats, pairs: Indices, kind: Indices, sample: Indices
) -> Floats:
    """Return how many pairs to expect where two classes of two images are the same.

    chance : float64 (m,), how many to expect of each pair
    pairs  : int64 (m, 2), rows
    kind, sample : int64 (n,), class and sample of each row

    Classes that lie alike on both images are taken to do so by chance independently of
    each other, but not more than two of them: how large a patient is changes them all.
    """
    if not len(pairs):
        return chance
    images = number_rows(*np.sort(sample[pairs], axis=1).T)
    classes = number_rows(images, *kind[pairs].T)
    # The rarest pair of two classes on two images, then the two rarest of these.
    order = np.lexsort((chance, classes))
    order = order[np.append(True, np.diff(classes[order]) > 0)]
    order = order[np.lexsort((chance[order], images[order]))]
    first = np.flatnonzero(np.append(True, np.diff(images[order]) > 0))
    second = np.minimum(first + 1, len(order) - 1)
    has_two = images[order[second]] == images[order[first]]
    has_two &= second > first
    rows = len(sample)
    rare = np.minimum(chance[order] / rows, 1)
    both = np.full(int(images.max()) + 1, np.inf)
    some = first[has_two]
    both[images[order[some]]] = rows * rare[some] * rare[some + 1]
    result: Floats = np.minimum(chance, both[images])
    return result


def _certain(
    facts: Facts, tolerance: float, distance: float, chance: float, *, is_placed: bool
) -> Pairs:
    """Return pairs of `_rows_of_patients` that are hardly the same by chance.

    Where too few others say what chance is, outlines at one place within the tolerance
    are.
    """
    found, expected = _matches(facts, tolerance, distance, is_placed)
    chance *= 1 if is_placed else MOVED_CHANCE
    unknown = np.isinf(expected) & (found.largest <= tolerance)
    return _others(found, (expected <= chance) | (unknown & is_placed))


def _others(found: Pairs, chosen: NDArray[np.bool_]) -> Pairs:
    return Pairs(found.pairs[chosen], found.largest[chosen])


def _groups(count: int, found: Pairs) -> Iterator[tuple[Indices, float]]:
    """Yield rows that pairs join, and the largest difference of a pair among them."""
    group = join_pairs(count, found.pairs)
    largest = np.zeros(count)
    np.maximum.at(largest, group[found.pairs[:, 0]], found.largest)
    for members in members_of(group):
        yield members, float(largest[group[members[0]]])


def _by_class(facts: Facts, rings: Indices) -> Iterator[tuple[int, Indices]]:
    """Yield the rings of each class, sorted by their sample."""
    klass = facts.rings.klass[rings]
    for k in np.flatnonzero(np.bincount(klass)).tolist():
        yield k, rings[klass == k]


def _class_names(facts: Facts, rings: Indices) -> tuple[str, ...]:
    klass = np.flatnonzero(np.bincount(facts.rings.klass[rings]))
    return tuple(facts.name_of(k) for k in klass.tolist())


def _listed(facts: Facts, rings: Indices) -> str:
    return " and ".join(_class_names(facts, rings))


def _how_far(facts: Facts, rings: Indices) -> float:
    """Return the largest distance between two rings that are the same, in pixels."""
    low = facts.rings.low[rings]
    return float(np.hypot(*(low - low[0]).T).max())


def _signatures(facts: Facts, copies: Copies) -> dict[tuple[int, int], Counter[int]]:
    """Return the groups of the rings of each (sample, class)."""
    found: dict[tuple[int, int], Counter[int]] = defaultdict(Counter)
    sample = facts.rings.sample[copies.rings].tolist()
    klass = facts.rings.klass[copies.rings].tolist()
    for s, k, group in zip(sample, klass, copies.group.tolist(), strict=True):
        found[s, k][group] += 1
    return found


def _is_part(one: Counter[int], other: Counter[int]) -> bool:
    """Return whether one of two classes has all rings of the other."""
    return one <= other or other <= one


def _is_one_series(facts: Facts, samples: Indices) -> bool:
    series = find_series(facts)[samples]
    return bool((series == series[0]).all())


def _are_apart(
    facts: Facts, copies: Copies, found: Repeated, chance: float
) -> set[tuple[int, tuple[int, ...]]]:
    """Return the keys of those that are copies, and that have others between them.

    Copies are equal, and hardly by chance: some slices of a ball are nearly the same.
    """
    between = _Between(facts)
    keys, pairs = [], []
    for key, (rings, how) in found.items():
        rows = np.searchsorted(copies.rings, sorted({*rings}))
        which, counts = np.unique(copies.which[rows], return_counts=True)
        if how == "same" and counts.max() > 1 and between.is_another(*key):
            equal = rows[copies.which[rows] == which[counts.argmax()]]
            keys.append(key)
            pairs.append(equal[:2].tolist())
    none = np.zeros(len(keys))
    same = Matches(np.array(pairs, np.int64).reshape(-1, 2), none, none)
    expected = expected_by_chance(
        copies.outlines,
        copies.which,
        facts.rings.klass[copies.rings],
        same,
        is_placed=True,
    )
    return {key for key, number in zip(keys, expected, strict=True) if number <= chance}


class _Between:
    """Finds out whether another contour lies between some that are the same."""

    def __init__(self, facts: Facts):
        items = facts.items
        position = np.round(items["position_mm"] / POSITION_ERROR)
        time = np.where(np.isnan(items["time"]), -1.0, items["time"])
        # Samples of a series without positions follow each other.
        unknown = np.isnan(position)
        self._position = np.where(unknown, np.arange(facts.count), position)
        self._time = np.where(unknown, -1.0, time)
        self._series = find_series(facts)
        self._classes = len(facts.classes)
        labels = facts.labels
        key = self._series[labels.sample] * self._classes + labels.klass
        order = np.argsort(key, kind="stable")
        self._keys, self._samples = key[order], labels.sample[order]

    def is_another(self, klass: int, samples: tuple[int, ...]) -> bool:
        """Return whether a sample is no neighbour of another one of its series."""
        chosen = np.array(samples)
        series = self._series[chosen]
        for code in {*series.tolist()}:
            key = code * self._classes + klass
            start, stop = np.searchsorted(self._keys, [key, key + 1]).tolist()
            track = self._samples[start:stop]
            if not self._are_connected(chosen[series == code], track):
                return True
        return False

    def _are_connected(self, samples: Indices, track: Indices) -> bool:
        chosen = np.isin(track, samples)
        found = []
        for along, across in (
            (self._position, self._time),
            (self._time, self._position),
        ):
            order = np.lexsort((along[track], across[track]))
            a, b = order[:-1], order[1:]
            near = chosen[a] & chosen[b] & (across[track[a]] == across[track[b]])
            found.append(np.stack([a[near], b[near]], axis=1))
        group = join_pairs(len(track), np.concatenate(found))
        return len({*group[chosen].tolist()}) < 2


@lru_cache(maxsize=4)
def find_series(facts: Facts) -> Indices:
    """Return the series of each sample: without a UID, it is that of the patient."""
    series = facts.items["series"]
    codes = np.unique(series, return_inverse=True)[1]
    both = facts.patient * (codes.max(initial=0) + 1) + codes
    index: Indices = np.unique(both, return_inverse=True)[1]
    return index


@lru_cache(maxsize=4)
def _same_pixels(facts: Facts) -> Indices:
    """Return the first sample with the same pixels as each one."""
    items = facts.items
    is_constant = items["min"] == items["max"]
    return same_pixels(items["bucket"], items["image_xxh3"], is_constant)


@lru_cache(maxsize=4)
def same_images(facts: Facts) -> Indices:
    """Return the first sample that is the same but for scale and offset as each one."""
    image: Indices = join_pairs(facts.count, _rescaled(facts).pairs)[
        _same_pixels(facts)
    ]
    return image


@lru_cache(maxsize=4)
def _rescaled(facts: Facts) -> Rescaled:
    """Return the pairs of samples that differ by scale and offset; each image once."""
    chosen = np.unique(_same_pixels(facts), return_index=True)[0]
    items = facts.items
    found = find_rescaled(
        lambda k: facts.image(int(chosen[k])),
        facts.shapes[chosen] @ np.array([2**32, 1]),
        *(items[name][chosen] for name in ("mean", "std", "percentiles")),
    )
    return found._replace(pairs=chosen[found.pairs])


@lru_cache(maxsize=4)
def _repeated_series(facts: Facts) -> set[tuple[int, int]]:
    """Return pairs of series, the lower first, that have the same images."""
    image = same_images(facts)
    series = find_series(facts)
    items = facts.items
    varied = items["min"] != items["max"]
    count = np.bincount(series, weights=varied)
    common: Counter[tuple[int, int]] = Counter()
    for samples in members_of(image):
        some = sorted({*series[samples].tolist()})
        # One image in very many series is no series that is repeated.
        for k, one in enumerate(some[:MOST_SERIES]):
            for other in some[k + 1 : MOST_SERIES]:
                common[one, other] += 1
    return {
        pair
        for pair, number in common.items()
        if number >= LEAST_IMAGES
        and number >= WHOLE_SERIES * min(count[pair[0]], count[pair[1]])
    }


def _are_repeated(series: Indices, repeated: set[tuple[int, int]]) -> bool:
    """Return whether images lie in different series that are the same."""
    some = sorted(series.tolist())
    return all(
        one != other and (one, other) in repeated
        for k, one in enumerate(some)
        for other in some[k + 1 :]
    )


def _groups_of_images(facts: Facts) -> Iterator[Indices]:
    """Yield samples with the same pixels, unless their series are the same."""
    series = find_series(facts)
    repeated = _repeated_series(facts)
    for samples in members_of(_same_pixels(facts)):
        if not _are_repeated(series[samples], repeated):
            yield samples
