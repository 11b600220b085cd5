"""Rules about labels that are unlike the same class elsewhere in the store.

What is usual is estimated robustly, see `robust`, from at least FEWEST_OTHERS others:
each label is compared with all of its class, and each patient with the other patients.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.quality.facts import Facts
from fastseg.quality.findings import Finding
from fastseg.quality.robust import (
    Floats,
    Indices,
    deviations,
    group_medians,
    median,
)
from fastseg.quality.rule import Rule, threshold
from fastseg.quality.tracks import number_rows
from fastseg.reprs import digits, many
from fastseg.store.selection import distinct

FEWEST_OTHERS = 10
# The least usual deviation of a logarithm of areas, and of intensities and contrasts,
# in standard deviations of the image.
AREA_FLOOR = 0.15
INTENSITY_FLOOR = 0.1
CONTRAST_FLOOR = 0.05
# The same of positions, as a fraction of the width of the class, but at least a pixel.
POSITION_FLOOR = 0.06
# Pixels. How far inside and outside of an outline its contrast is measured, and the
# least area whose inside can be told from its outside.
BESIDE_OUTLINE = 1.5
LEAST_AREA = 30
# Samples whose outlines are measured in one go.
SAMPLES_AT_ONCE = 64


class Compared(NamedTuple):
    """How unusual labels are.

    group    : int64 (n,), labels of the same group are compared with each other
    far      : float64 (n,), usual deviations off what is usual; 0 if it is not known
    usual    : float64 (n, m), the median of each number in the group
    patient_far    : float64 (n,), the same of the patient's medians
    patient_median : float64 (n, m), of the patient's labels of this group
    """

    group: Indices
    far: Floats
    usual: Floats
    patient_far: Floats
    patient_median: Floats


def compare(
    values: Floats,
    floor: Floats,
    group: Indices,
    sample: Indices,
    patient: Indices,
    *,
    limit: float,
    relative_floor: Floats | None = None,
) -> Compared:
    """Compare the numbers of labels within groups.

    values : float64 (n, m); NaN is unknown
    floor  : float64 (n,), the least usual deviation; of a group, their median
    group, sample, patient : int64 (n,)
    limit  : deviations from which a label counts as far
    relative_floor : compare what differs from the other classes of the sample, too,
        with this floor, float64 (n,). Only the farthest label of a sample counts then
    """
    count = int(group.max(initial=-1)) + 1
    usual = np.column_stack(
        [group_medians(column, group, count)[group] for column in values.T]
    )
    # Patients.
    own = number_rows(group, patient)
    rows = np.unique(own, return_index=True)[1]
    medians = np.column_stack(
        [group_medians(column, own, len(rows)) for column in values.T]
    )
    patient_far = _deviate(medians, floor[rows], group[rows])[own]
    # All labels of an unusual patient have one finding, and say nothing of others.
    is_usual = patient_far <= limit
    alone = np.where(
        is_usual,
        _deviate(values, floor, group, is_usual),
        _deviate(values, floor, group),
    )
    far = alone
    if relative_floor is not None:
        beside = _deviate(beside_others(values - usual, sample), relative_floor, group)
        # Of two labels, both differ alike: the one that is unusual alone is wrong.
        worse = beside + alone / 1000
        is_farthest = worse >= _greatest(worse, sample)
        far = np.where(is_farthest & (beside > limit), np.maximum(alone, beside), alone)
    return Compared(group, far, usual, patient_far, medians[own])


def beside_others(off: Floats, sample: Indices) -> Floats:
    """Return how a label differs from the median of the other labels of its sample.

    off    : float64 (n, m), what differs from the usual of each class
    sample : int64 (n,), sorted
    """
    result = np.full(off.shape, np.nan)
    starts = np.flatnonzero(np.diff(sample, prepend=-1))
    sizes = np.diff(np.append(starts, len(sample)))
    # Samples of one number of labels at once.
    for size in np.flatnonzero(np.bincount(sizes)).tolist():
        rows = starts[sizes == size][:, None] + np.arange(size)
        own = off[rows]
        order = np.argsort(own, axis=1, kind="stable")  # NaN is last
        rank = np.argsort(order, axis=1, kind="stable")
        known = np.take_along_axis(own, order, 1)
        others = np.isfinite(own).sum(1, keepdims=True) - np.ones_like(rank)
        # Both middle ones of the others: those from a label's own rank on follow it.
        low, high = np.maximum(others - 1, 0) // 2, np.maximum(others, 0) // 2
        low, high = low + (low >= rank), high + (high >= rank)
        middle = sum(
            np.take_along_axis(known, np.minimum(one, size - 1), 1)
            for one in (low, high)
        )
        result[rows] = np.where(others > 0, own - middle / 2, np.nan)
    return result


def _deviate(
    values: Floats,
    floor: Floats,
    group: Indices,
    is_usual: NDArray[np.bool_] | None = None,
) -> Floats:
    """Return the greatest deviation of the numbers of each label; 0 if not known.

    is_usual : which labels say what is usual, if they are enough; by default all
    """
    far = np.zeros(len(values))
    order = np.argsort(group, kind="stable")
    bounds = np.flatnonzero(np.diff(group[order], prepend=-1, append=-1))
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        rows = order[start:stop]
        for column in values[rows].T:
            known = np.isfinite(column)
            if is_usual is not None:
                some = known & is_usual[rows]
                known = some if some.sum() > FEWEST_OTHERS else known
            if known.sum() > FEWEST_OTHERS:
                least = median(floor[rows][known])
                off = deviations(column, least, column[known])
                off = np.nan_to_num(np.abs(off))
                far[rows] = np.maximum(far[rows], off)
    return far


def _greatest(values: Floats, sample: Indices) -> Floats:
    """Return the greatest value of each sample, for each label."""
    if not len(values):
        return values
    starts = np.flatnonzero(np.diff(sample, prepend=-1))
    sizes = np.diff(np.append(starts, len(sample)))
    return np.repeat(np.maximum.reduceat(values, starts), sizes)


class AreaUnlikeOthers(Rule):
    """An area far from the usual one is often a slip, or a contour of another class."""

    name = "area-unlike-others"
    title = "An area that is unusual for the class"
    severity = "warning"
    needs = "masks"
    explains = (
        "intensity-unlike-others",
        "outline-unlike-others",
    )
    deviations: float = threshold(
        4.5, "deviations", "how far the logarithm of an area lies off the usual one"
    )

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each label, and each patient, of unusual area."""
        labels = facts.labels
        has_mm = bool(np.isfinite(labels.area_mm2).all())
        size = labels.area_mm2 if has_mm else labels.pixels.astype(np.float64)
        unit = "mm²" if has_mm else "pixels"
        log = np.log(np.where(labels.pixels > 0, size, np.nan))[:, None]
        compared = compare(
            log,
            np.full(len(log), AREA_FLOOR),
            labels.klass,
            labels.sample,
            labels.patient,
            limit=self.deviations,
            relative_floor=np.full(len(log), 2 * AREA_FLOOR),
        )

        def describe(value: Floats, usual: Floats) -> str:
            return (
                f"covers {digits(np.exp(value[0]))} {unit}, usually "
                f"{digits(np.exp(usual[0]))} {unit}"
            )

        yield from _findings(self, facts, log, compared, self.deviations, describe)


class PositionUnlikeOthers(Rule):
    """A contour at an unusual place often marks something else, or another image."""

    name = "position-unlike-others"
    title = "A position that is unusual for the class"
    severity = "warning"
    needs = "masks"
    explains = (
        "intensity-unlike-others",
        "outline-unlike-others",
    )
    deviations: float = threshold(
        6, "deviations", "how far a position lies off the usual one"
    )

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each label, and each patient, of unusual position."""
        labels = facts.labels
        spacing = facts.spacing_mm[labels.sample]
        has_mm = bool(np.isfinite(spacing).all())
        if not has_mm:
            spacing = np.ones_like(spacing)
        unit = "mm" if has_mm else "pixels"
        middle = (facts.shapes[labels.sample, ::-1] - 1) / 2
        position = (labels.centroid - middle) * spacing[:, ::-1]
        width = np.sqrt(labels.pixels * spacing.prod(1))
        width[labels.pixels == 0] = np.nan
        count = len(facts.classes)
        floor = np.maximum(
            POSITION_FLOOR * group_medians(width, labels.klass, count)[labels.klass],
            np.sqrt(spacing.prod(1)),
        )
        compared = compare(
            position,
            floor,
            labels.klass,
            labels.sample,
            labels.patient,
            limit=self.deviations,
            relative_floor=floor,
        )

        def describe(value: Floats, usual: Floats) -> str:
            off = np.hypot(*(value - usual))
            return f"lies {digits(off)} {unit} off its usual position in the image"

        yield from _findings(self, facts, position, compared, self.deviations, describe)


class IntensityUnlikeOthers(Rule):
    """Another intensity than usual is other tissue, or an image of another kind."""

    name = "intensity-unlike-others"
    title = "Image values that are unusual inside the class"
    severity = "warning"
    needs = "masks"
    explains = ("outline-unlike-others",)
    deviations: float = threshold(
        5.5, "deviations", "how far the mean lies off the usual one"
    )

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each label, and each patient, of unusual intensity."""
        labels = facts.labels
        mean = _in_deviations_of_image(facts, class_means(facts))[:, None]
        compared = compare(
            mean,
            np.full(len(mean), INTENSITY_FLOOR),
            _classes_of_modalities(facts),
            labels.sample,
            labels.patient,
            limit=self.deviations,
        )

        def describe(value: Floats, usual: Floats) -> str:
            side = "higher" if value[0] > usual[0] else "lower"
            return (
                f"has {side} image values than usual: {value[0]:+.2f} instead of "
                f"{usual[0]:+.2f} standard deviations from the mean of the image"
            )

        yield from _findings(self, facts, mean, compared, self.deviations, describe)


class OutlineUnlikeOthers(Rule):
    """An outline without its usual contrast does not follow the edge that it marks."""

    name = "outline-unlike-others"
    title = "A contrast that is unusual at the outline of the class"
    severity = "warning"
    needs = "contours"
    deviations: float = threshold(
        5, "deviations", "how far the contrast lies off the usual one"
    )

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each label, and each patient, of unusual contrast."""
        labels = facts.labels
        contrast = outline_contrasts(facts)
        compared = compare(
            contrast,
            np.full(len(contrast), CONTRAST_FLOOR),
            _classes_of_modalities(facts),
            labels.sample,
            labels.patient,
            limit=self.deviations,
        )

        def describe(value: Floats, usual: Floats) -> str:
            # Which of the three is most unlike the usual.
            number = int(np.argmax(np.nan_to_num(np.abs(value - usual))))
            what = (
                "from outside to inside of its outline, the image changes by",
                "the contrast at its outline is",
                "the contrast varies along its outline by",
            )[number]
            sign = "" if number else "+"
            return (
                f"does not follow its usual edge: {what} {value[number]:{sign}.2f} "
                f"instead of {usual[number]:{sign}.2f} standard deviations of the image"
            )

        yield from _findings(self, facts, contrast, compared, self.deviations, describe)


def class_means(facts: Facts) -> Floats:
    """Return the mean stored value inside each label, float64 (n,); NaN without any."""
    labels, table = facts.labels, facts.store.tables["histograms"]
    width = max(len(facts.classes), 1)
    rows = np.flatnonzero(table["class"] >= 0)
    key = table["item"][rows].astype(np.int64) * width + table["class"][rows]
    order = np.argsort(key, kind="stable")
    rows, key = rows[order], key[order]
    wanted = labels.sample * width + labels.klass
    mean = np.full(len(wanted), np.nan)
    if len(key):
        there = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
        is_there = key[there] == wanted
        mean[is_there] = table["mean"][rows[there[is_there]]]
    return mean


def outline_contrasts(facts: Facts) -> Floats:
    """Return by how much each label is brighter inside of its outline than outside.

    In standard deviations of the image, float64 (n, 3): the mean along the outline of
    the difference, and of its absolute value, and the standard deviation of the values
    inside. Of the largest ring; NaN of small ones.
    """
    labels, rings = facts.labels, facts.rings
    owner = np.full(len(rings.area), -1, np.int64)
    counts = labels.last - labels.first
    starts = np.cumsum(counts) - counts
    members = np.arange(int(counts.sum())) + np.repeat(labels.first - starts, counts)
    owner[labels.order[members]] = np.repeat(np.arange(len(counts)), counts)
    # The largest ring of each label is the last one.
    order = np.lexsort((np.abs(rings.area), owner))
    order = order[owner[order] >= 0]
    is_last = np.append(owner[order][1:] != owner[order][:-1], True)[: len(order)]
    ring = order[is_last]
    ring = ring[np.abs(rings.area[ring]) >= LEAST_AREA]
    ring = ring[np.argsort(rings.sample[ring], kind="stable")]
    contrast = np.full((len(labels.sample), 3), np.nan)
    samples, firsts = np.unique(rings.sample[ring], return_index=True)
    firsts = np.append(firsts, len(ring))

    def measure(block: int) -> None:
        last = min(block + SAMPLES_AT_ONCE, len(samples))
        chosen = ring[firsts[block] : firsts[last]]
        inside, outside, starts = _beside_outlines(facts, chosen)
        difference = np.empty(len(inside))
        within = np.empty(len(inside))
        bounds = np.append(starts, len(inside))[
            firsts[block : last + 1] - firsts[block]
        ]
        for k, sample in enumerate(samples[block:last].tolist()):
            image = facts.image(sample)
            part = slice(int(bounds[k]), int(bounds[k + 1]))
            within[part] = _at(image, inside[part])
            difference[part] = within[part] - _at(image, outside[part])
        sizes = np.diff(np.append(starts, len(inside)))
        for k, values in enumerate((difference, np.abs(difference), within)):
            contrast[owner[chosen], k] = np.add.reduceat(values, starts) / sizes
        off = (within - np.repeat(contrast[owner[chosen], 2], sizes)) ** 2
        contrast[owner[chosen], 2] = np.sqrt(np.add.reduceat(off, starts) / sizes)

    facts.map(measure, range(0, len(samples), SAMPLES_AT_ONCE), "measure outlines")
    std = facts.items["std"][labels.sample]
    contrast[:, 0] *= np.sign(facts.items["slope"][labels.sample])
    contrast /= np.where(std > 0, std, np.nan)[:, None]
    return contrast


def _beside_outlines(facts: Facts, ring: Indices) -> tuple[Floats, Floats, Indices]:
    """Return points beside the vertices of rings, inside and outside of them.

    Also returns the first row of each ring. A point lies BESIDE_OUTLINE pixels from its
    vertex, at a right angle to the line through the vertices before and after.
    """
    rings = facts.rings
    sizes = rings.stop[ring] - rings.start[ring]
    starts = np.cumsum(sizes) - sizes
    rows = np.arange(int(sizes.sum())) + np.repeat(rings.start[ring] - starts, sizes)
    points = facts.points[rows]
    following = np.arange(1, len(points) + 1)
    following[starts + sizes - 1] = starts
    preceding = np.arange(-1, len(points) - 1)
    preceding[starts] = starts + sizes - 1
    along = points[following] - points[preceding]
    length = np.hypot(along[:, 0], along[:, 1])
    scale = np.repeat(np.sign(rings.area[ring]), sizes) * BESIDE_OUTLINE
    scale = np.where(length > 0, scale / np.where(length > 0, length, 1), 0)
    outwards = np.column_stack([along[:, 1], -along[:, 0]]) * scale[:, None]
    return points - outwards, points + outwards, starts


def _at(image: NDArray[np.generic], points: Floats) -> Floats:
    """Return the values of the pixels nearest to points."""
    height, width = image.shape
    x = np.clip(np.rint(points[:, 0]), 0, width - 1).astype(np.int64)
    y = np.clip(np.rint(points[:, 1]), 0, height - 1).astype(np.int64)
    values: Floats = image[y, x].astype(np.float64)
    return values


def _in_deviations_of_image(facts: Facts, value: Floats) -> Floats:
    """Return stored values relative to mean and deviation of their images."""
    sample = facts.labels.sample
    items = facts.items
    std = np.where(items["std"][sample] > 0, items["std"][sample], np.nan)
    sign = np.sign(items["slope"][sample])
    result: Floats = sign * (value - items["mean"][sample]) / std
    return result


def _classes_of_modalities(facts: Facts) -> Indices:
    """Return a number for each label: labels of a class and modality have the same."""
    labels = facts.labels
    return number_rows(
        labels.klass, distinct(facts.items["modality"])[1][labels.sample]
    )


def _findings(
    rule: Rule,
    facts: Facts,
    values: Floats,
    compared: Compared,
    limit: float,
    describe: Callable[[Floats, Floats], str],
) -> Iterator[Finding]:
    """Return a finding for each patient, and for each other label, that is unusual.

    describe : returns a text about a value and the usual one
    """
    labels = facts.labels
    is_patient = compared.patient_far > limit
    own = number_rows(compared.group, labels.patient)
    for number in np.unique(own[is_patient], return_index=True)[0].tolist():
        rows = np.flatnonzero(own == number)
        first = int(rows[0])
        klass = facts.name_of(int(labels.klass[first]))
        text = describe(compared.patient_median[first], compared.usual[first])
        yield Finding(
            rule=rule.name,
            severity=rule.severity,
            text=(
                f"{klass} {text} (median of {many(len(rows), 'sample')} of "
                "this patient)."
            ),
            samples=tuple(labels.sample[rows].tolist()),
            classes=(klass,),
            amount=float(compared.patient_far[first]),
            unit="deviations",
        )
    alone = np.bincount(own, minlength=int(own.max(initial=-1)) + 1) == 1
    is_reported = is_patient & alone[own] if len(own) else is_patient
    for row in np.flatnonzero((compared.far > limit) & ~is_reported).tolist():
        klass = facts.name_of(int(labels.klass[row]))
        x, y = labels.centroid[row].tolist()
        yield Finding(
            rule=rule.name,
            severity=rule.severity,
            text=f"{klass} {describe(values[row], compared.usual[row])}.",
            samples=(int(labels.sample[row]),),
            classes=(klass,),
            amount=float(compared.far[row]),
            unit="deviations",
            points=((x, y),),
            rings=tuple(facts.rings_of(row).tolist()),
        )


# In the order in which they are asked.
RULES: tuple[type[Rule], ...] = (
    AreaUnlikeOthers,
    PositionUnlikeOthers,
    IntensityUnlikeOthers,
    OutlineUnlikeOthers,
)
