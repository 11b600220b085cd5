"""Rules about images: values and geometry that are wrong, or unlike the rest."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fastseg.choices import Severity
from fastseg.quality.facts import Facts
from fastseg.quality.findings import Finding
from fastseg.quality.outliers import FEWEST_OTHERS
from fastseg.quality.robust import Floats, Indices, deviations, group_medians
from fastseg.quality.rule import Rule, threshold
from fastseg.quality.tracks import number_rows
from fastseg.reprs import many
from fastseg.store.histograms import read_histograms
from fastseg.store.layout import PERCENTILES, WHOLE_IMAGE
from fastseg.store.selection import distinct

Bools = NDArray[np.bool_]

# If this fraction of all images is clipped, that is how the set was made.
USUAL_FRACTION = 0.3
# The least usual deviation of logarithms of spacings, and of their ratio.
SPACING_FLOOR = 0.1
RATIO_FLOOR = 0.05
# By how much spacings of a series may differ, of themselves, and cosines.
SAME_SPACING = 0.01
SAME_DIRECTION = 0.02
# A few images of a series are unlike the rest if these are this fraction, at least.
LEAST_MAJORITY = 0.75
# A direction is unlike that of others if this fraction of them have the same.
LEAST_SHARED = 0.9
# The least usual deviation of values, as a fraction of the usual range.
VALUES_FLOOR = 0.1


class ConstantImage(Rule):
    """A network learns from it that labels are where nothing is to be seen."""

    name = "constant-image"
    title = "An image of one value"
    severity = "error"
    needs = "images"
    explains = (
        "clipped-image",
        "few-values",
        "window-off-values",
        "values-unlike-rest",
        "intensity-unlike-others",
        "outline-unlike-others",
    )

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each image of one value."""
        items = facts.items
        for sample in np.flatnonzero(items["min"] == items["max"]).tolist():
            value = items["min"][sample]
            yield Finding(
                rule=self.name,
                severity=self.severity if items["labelled"][sample] else "warning",
                text=f"All pixels have the stored value {value:g}.",
                samples=(sample,),
                amount=float(value),
                unit="stored value",
            )


class ClippedImage(Rule):
    """What was brighter, or darker, than the limit is lost."""

    name = "clipped-image"
    title = "An image with many pixels at its greatest or least value"
    severity = "warning"
    needs = "images"

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each clipped image, or one if that is usual."""
        items = facts.items
        ranks = items["percentiles"]
        varies = items["min"] < items["max"]
        top = ranks[:, PERCENTILES.index(99.0)] == items["max"]
        bottom = ranks[:, PERCENTILES.index(50.0)] == items["min"]
        kinds: tuple[tuple[Bools, Severity, int, str], ...] = (
            (top & varies, "warning", 1, "greatest"),
            (bottom & varies & ~top, "note", 50, "least"),
        )
        for is_clipped, severity, share, which in kinds:
            found = np.flatnonzero(is_clipped)
            if facts.count > FEWEST_OTHERS and len(found) > (
                USUAL_FRACTION * facts.count
            ):
                yield Finding(
                    rule=self.name,
                    severity="note",
                    text=(
                        f"{many(len(found), 'image')} of {facts.count} have at least "
                        f"{share} % of their pixels at their {which} value."
                    ),
                    samples=tuple(found.tolist()),
                    amount=100 * len(found) / facts.count,
                    unit="percent",
                )
                continue
            for sample in found.tolist():
                yield Finding(
                    rule=self.name,
                    severity=severity,
                    text=(
                        f"At least {share} % of the pixels have the {which} value of "
                        "the image."
                    ),
                    samples=(sample,),
                    amount=float(share),
                    unit="percent",
                )


class FewValues(Rule):
    """An image of a few grey levels has lost its contrasts, or is a mask."""

    name = "few-values"
    title = "An image of few values"
    severity = "warning"
    needs = "images"
    values: float = threshold(16, "values", "the most that are few", least=2)

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each image of few values."""
        items = facts.items
        varies = np.flatnonzero(items["min"] < items["max"])
        if not len(varies):
            return
        # A bin with pixels has at least one value.
        histograms = read_histograms(facts.store, varies, WHOLE_IMAGE)
        bins = np.bincount(histograms.owner, minlength=len(varies))
        maybe = varies[bins <= self.values]

        def count(sample: int) -> int:
            return len(np.unique(facts.image(sample), return_counts=True)[0])

        counts = facts.map(count, maybe.tolist(), "count values")
        for sample, number in zip(maybe.tolist(), counts, strict=True):
            if number <= self.values:
                yield Finding(
                    rule=self.name,
                    severity=self.severity,
                    text=f"The image has only {number} different values.",
                    samples=(sample,),
                    amount=float(number),
                    unit="values",
                )


class SpacingUnlikeRest(Rule):
    """Distances and areas in mm are wrong, and so is what is resampled by them."""

    name = "spacing-unlike-rest"
    title = "A spacing unlike that of the rest"
    severity = "warning"
    needs = "images"
    deviations: float = threshold(
        6, "deviations", "how far the logarithm of a spacing lies off the usual one"
    )

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for images unlike their series, and for each such series."""
        spacing = facts.spacing_mm
        known: Bools = np.logical_and.reduce(np.isfinite(spacing), axis=1)
        log = np.log(np.where(known[:, None], spacing, 1.0))
        series = _series(facts)
        kinds = number_rows(*np.rint(log / SAME_SPACING).astype(np.int64).T)
        for rows, usual in _minorities(kinds, series, known):
            yield Finding(
                rule=self.name,
                severity=self.severity,
                text=(
                    f"{many(len(rows), 'image')} of the series "
                    f"{'has' if len(rows) == 1 else 'have'} a spacing of "
                    f"{_by(spacing[rows[0]])} mm, the others of "
                    f"{_by(spacing[usual])} mm."
                ),
                samples=(*rows.tolist(), usual),
                amount=float(np.exp(np.abs(log[rows[0]] - log[usual]).max())),
                unit="times",
            )
        distance = _slice_distances(facts)
        with np.errstate(divide="ignore"):
            columns = np.column_stack(
                [log.mean(1), log[:, 0] - log[:, 1], np.log(distance)]
            )
        columns[~known, :2] = np.nan
        floors = (SPACING_FLOOR, RATIO_FLOOR, SPACING_FLOOR)
        for rows, far, column, usual_value in _unusual_series(
            facts, columns, floors, self.deviations
        ):
            if column == 2:
                text = (
                    f"Slices are {distance[rows[0]]:.4g} mm apart, usually "
                    f"{np.exp(usual_value):.4g} mm."
                )
            elif column == 1:
                text = (
                    f"Pixels are {_by(spacing[rows[0]])} mm, rows are usually "
                    f"{np.exp(usual_value):.3g} times as far apart as columns."
                )
            else:
                text = (
                    f"Pixels are {_by(spacing[rows[0]])} mm, usually "
                    f"{np.exp(usual_value):.3g} mm."
                )
            yield Finding(
                rule=self.name,
                severity=self.severity,
                text=text,
                samples=tuple(rows.tolist()),
                amount=far,
                unit="deviations",
            )


class OrientationUnlikeRest(Rule):
    """A network sees such images turned or mirrored."""

    name = "orientation-unlike-rest"
    title = "An orientation unlike that of the rest"
    severity = "warning"
    needs = "images"

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for images unlike their series, and for each such series."""
        directions = np.asarray(facts.items["directions"], np.float64)
        known: Bools = np.logical_and.reduce(np.isfinite(directions), axis=1)
        directions = np.where(known[:, None], directions, 0.0)
        series = _series(facts)
        kinds = number_rows(*np.rint(directions / SAME_DIRECTION).astype(np.int64).T)
        # Rounding may divide what is alike: compare with the usual one again.
        for rows, usual in _minorities(kinds, series, known):
            off = np.abs(directions[rows] - directions[usual]).max(1)
            rows = rows[off > 2 * SAME_DIRECTION]
            if len(rows):
                yield Finding(
                    rule=self.name,
                    severity=self.severity,
                    text=(
                        f"{many(len(rows), 'image')} of the series "
                        f"{'has' if len(rows) == 1 else 'have'} another orientation "
                        "than the others."
                    ),
                    samples=(*rows.tolist(), usual),
                    amount=_degrees(directions[rows[0]], directions[usual]),
                    unit="degrees",
                )
        yield from self._series(facts, directions, known, series)

    def _series(
        self,
        facts: Facts,
        directions: Floats,
        known: Bools,
        series: Indices,
    ) -> Iterator[Finding]:
        """Return a finding for each series that most others are turned against."""
        axes = directions.reshape(-1, 2, 3)
        nearest = np.abs(axes).argmax(2)
        signs = np.sign(np.take_along_axis(axes, nearest[:, :, None], 2))[:, :, 0]
        code = number_rows(*nearest.T, *signs.T.astype(np.int64))
        modality = distinct(facts.items["modality"])[1]
        # One image of each series.
        first = np.unique(series, return_index=True)[1]
        first = first[known[first]]
        for row in first.tolist():
            others = first[
                (modality[first] == modality[row])
                & (facts.patient[first] != facts.patient[row])
            ]
            if len(np.unique(facts.patient[others], return_index=True)[0]) < (
                FEWEST_OTHERS
            ):
                continue
            usual = np.bincount(code[others]).argmax()
            shared = code[others] == usual
            if code[row] == usual or shared.mean() < LEAST_SHARED:
                continue
            theirs = np.flatnonzero(series == series[row])
            other = int(others[np.flatnonzero(shared)[0]])
            yield Finding(
                rule=self.name,
                severity=self.severity,
                text=(
                    f"Rows and columns of the {many(len(theirs), 'image')} of this "
                    f"series run to {_axes(directions[row])}, but of "
                    f"{100 * shared.mean():.0f} % of the others to "
                    f"{_axes(directions[other])}."
                ),
                samples=tuple(theirs.tolist()),
                amount=_degrees(directions[row], directions[other]),
                unit="degrees",
            )


class WindowOffValues(Rule):
    """What normalises by the window makes the image black or white."""

    name = "window-off-values"
    title = "A window outside of the values of the image"
    severity = "warning"
    needs = "images"

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each series with such images."""
        items = facts.items
        slope, intercept = items["slope"], items["intercept"]
        ends = np.sort(
            slope[:, None] * np.column_stack([items["min"], items["max"]])
            + intercept[:, None]
        )
        centre, width = items["window"].T
        low, high = centre - width / 2, centre + width / 2
        with np.errstate(invalid="ignore"):
            is_off = (low > ends[:, 1]) | (high < ends[:, 0])
        found = np.flatnonzero(is_off)
        series = _series(facts)[found]
        for number in np.unique(series, return_index=True)[0].tolist():
            rows = found[series == number]
            k = int(rows[0])
            yield Finding(
                rule=self.name,
                severity=self.severity,
                text=(
                    f"The window shows {low[k]:g} to {high[k]:g}, but the values of "
                    f"the image go from {ends[k, 0]:g} to {ends[k, 1]:g}"
                    + (f", on {len(rows)} images." if len(rows) > 1 else ".")
                ),
                samples=tuple(rows.tolist()),
                amount=float(max(low[k] - ends[k, 1], ends[k, 0] - high[k])),
                unit="image value",
            )


class ValuesUnlikeRest(Rule):
    """Another scale or offset is another image to a network: see rescale and units."""

    name = "values-unlike-rest"
    title = "Image values unlike those of the rest"
    severity = "warning"
    needs = "images"
    explains = (
        "intensity-unlike-others",
        "outline-unlike-others",
    )
    deviations: float = threshold(
        6,
        "deviations",
        "how far the percentiles 5, 50 and 95 of image values lie off the usual ones",
    )

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each patient and image of unusual values."""
        items = facts.items
        ranks = [PERCENTILES.index(q) for q in (5.0, 50.0, 95.0)]
        values = items["percentiles"][:, ranks] * items["slope"][:, None]
        values = np.sort(values + items["intercept"][:, None], axis=1)
        modality = distinct(items["modality"])[1]
        for kind in np.flatnonzero(np.bincount(modality)).tolist():
            rows = np.flatnonzero(modality == kind)
            yield from self._compare(facts, rows, values[rows])

    def _compare(
        self, facts: Facts, rows: Indices, values: Floats
    ) -> Iterator[Finding]:
        """Compare the images of one modality, and their patients."""
        patients, own = np.unique(facts.patient[rows], return_inverse=True)
        theirs = np.column_stack(
            [group_medians(column, own, len(patients)) for column in values.T]
        )
        usual = np.array(
            [group_medians(c, np.zeros(len(c), np.int64), 1)[0] for c in theirs.T]
        )
        floor = VALUES_FLOOR * max(float(usual[2] - usual[0]), 1e-9)
        unusual = np.zeros(len(patients), np.bool_)
        if len(patients) > FEWEST_OTHERS:
            far = _most(theirs, floor)
            unusual = far > self.deviations
            for k in np.flatnonzero(unusual).tolist():
                samples = rows[own == k]
                yield Finding(
                    rule=self.name,
                    severity=self.severity,
                    text=(
                        f"The middle 90 % of values, {_range(theirs[k])}, of the "
                        f"{many(len(samples), 'image')} of this patient are unlike the "
                        f"usual ones, {_range(usual)}."
                    ),
                    samples=tuple(samples.tolist()),
                    amount=float(far[k]),
                    unit="deviations",
                )
        if len(rows) > FEWEST_OTHERS:
            # Images of a patient differ more than patients do: so do their parts.
            far = _most(values - theirs[own], 1.5 * floor)
            several = np.bincount(own)[own] > 2
            for k in np.flatnonzero((far > self.deviations) & several).tolist():
                yield Finding(
                    rule=self.name,
                    severity=self.severity,
                    text=(
                        f"The middle 90 % of values, {_range(values[k])}, are unlike "
                        "those of the patient's other images, "
                        f"{_range(theirs[own[k]])}."
                    ),
                    samples=(int(rows[k]),),
                    amount=float(far[k]),
                    unit="deviations",
                )


class ValuesWrap(Rule):
    """Negative values that were read as unsigned are the brightest of the image."""

    name = "values-wrap"
    title = "Values that seem to be negative, but are read as large ones"
    severity = "warning"
    needs = "images"
    explains = (
        "values-unlike-rest",
        "clipped-image",
        "intensity-unlike-others",
        "outline-unlike-others",
    )

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each image whose values leave out half a range."""
        dtypes = [bucket.dtype for bucket in facts.store.buckets.values()]
        span = np.array(
            [256.0**dtype.itemsize if dtype.kind == "u" else np.inf for dtype in dtypes]
        )[facts.items["bucket"]]
        step = np.diff(facts.items["percentiles"], axis=1).max(1)
        for sample in np.flatnonzero(step > span / 2).tolist():
            yield Finding(
                rule=self.name,
                severity=self.severity,
                text=(
                    f"The stored values leave out a range of {step[sample]:g}, half of "
                    "all that they can have: the large ones may be negative ones."
                ),
                samples=(sample,),
                amount=float(step[sample]),
                unit="stored value",
            )


def _series(facts: Facts) -> Indices:
    """Return a number for each sample: images of a patient's series have the same."""
    return number_rows(facts.patient, distinct(facts.items["series"])[1])


def _minorities(
    kind: Indices, series: Indices, known: Bools
) -> Iterator[tuple[Indices, int]]:
    """Yield the few images of a series that are of another kind than most, and one."""
    order = np.lexsort((kind, series))
    order = order[known[order]]
    if not len(order):
        return
    # Most series are of one kind.
    bounds = np.flatnonzero(np.diff(series[order], prepend=-1, append=-1))
    first = kind[order][bounds[:-1]]
    last = kind[order][bounds[1:] - 1]
    for k in np.flatnonzero(first != last).tolist():
        rows = np.sort(order[bounds[k] : bounds[k + 1]])
        counts = np.bincount(kind[rows])
        usual = int(counts.argmax())
        if counts[usual] < max(3, LEAST_MAJORITY * len(rows)):
            continue
        yield rows[kind[rows] != usual], int(rows[kind[rows] == usual][0])


def _unusual_series(
    facts: Facts, columns: Floats, floors: tuple[float, ...], limit: float
) -> Iterator[tuple[Indices, float, int, float]]:
    """Yield the samples of each series whose numbers are unlike those of others.

    columns : float64 (n, m), the same for most images of a series

    Also yields how many deviations it is off, which column is, and its usual value.
    """
    series = _series(facts)
    first = np.unique(series, return_index=True)[1]
    count = len(first)
    medians = np.column_stack([group_medians(c, series, count) for c in columns.T])
    modality = distinct(facts.items["modality"])[1][first]
    far = np.zeros((count, len(floors)))
    usual = np.zeros((count, len(floors)))
    for kind in np.flatnonzero(np.bincount(modality)).tolist():
        rows = np.flatnonzero(modality == kind)
        patients = np.unique(facts.patient[first[rows]], return_index=True)[0]
        if len(patients) <= FEWEST_OTHERS:
            continue
        for k, floor in enumerate(floors):
            values = medians[rows, k]
            if np.isfinite(values).sum() > FEWEST_OTHERS:
                far[rows, k] = np.nan_to_num(np.abs(deviations(values, floor)))
                usual[rows, k] = group_medians(values, np.zeros_like(rows), 1)[0]
    for row in np.flatnonzero((far > limit).any(1)).tolist():
        column = int(far[row].argmax())
        yield (
            np.flatnonzero(series == row),
            float(far[row, column]),
            column,
            float(usual[row, column]),
        )


def _slice_distances(facts: Facts) -> Floats:
    """Return the distance of slices of each sample's volume in mm, or NaN."""
    table = facts.store.tables["volumes"]["spacing_mm"]
    distance = np.full(facts.count, np.nan)
    inside = facts.volume >= 0
    distance[inside] = table[facts.volume[inside]]
    return distance


def _most(columns: Floats, floor: float) -> Floats:
    """Return the greatest deviation of each row."""
    off = [np.abs(deviations(column, floor)) for column in columns.T]
    result: Floats = np.nan_to_num(np.max(off, axis=0))
    return result


def _degrees(one: Floats, other: Floats) -> float:
    """Return the angle of the turn from one pair of directions to another."""
    first, second = one.reshape(2, 3), other.reshape(2, 3)
    frames = [np.vstack([pair, np.cross(*pair)]) for pair in (first, second)]
    trace = float((frames[0] * frames[1]).sum())
    return float(np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1))))


def _axes(directions: Floats) -> str:
    """Return where rows and columns run, as in "left and back"."""
    names = (("right", "left"), ("front", "back"), ("feet", "head"))
    words = []
    for axis in directions.reshape(2, 3):
        nearest = int(np.abs(axis).argmax())
        words.append(names[nearest][int(axis[nearest] > 0)])
    return " and ".join(words)


def _by(spacing: Floats) -> str:
    return f"{spacing[0]:.4g} x {spacing[1]:.4g}"


def _range(values: Floats) -> str:
    return f"{values[0]:.4g} to {values[2]:.4g}"


# In the order in which they are asked.
RULES: tuple[type[Rule], ...] = (
    ConstantImage,
    ClippedImage,
    FewValues,
    SpacingUnlikeRest,
    OrientationUnlikeRest,
    WindowOffValues,
    ValuesUnlikeRest,
    ValuesWrap,
)
