"""Rules about labels along a volume, and over the times of a slice.

A label is compared with those on the slices before and after it. What is usual is taken
from all labels of its class in the store, so that a class that changes from slice to
slice, as a tumour does, may do so.
"""

from collections.abc import Iterator
from itertools import pairwise
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
    mostly_below,
)
from fastseg.quality.rule import AGAINST_CLASSES, AGAINST_THE_REST, Rule, threshold
from fastseg.quality.tracks import Shapes, Tracks, number_rows
from fastseg.reprs import many

# A change counts if it is this many times as large as four in five of the class are.
TIMES_USUAL = 5.0
FOUR_IN_FIVE = 0.8
# Slices that follow each other fit if 1 - Dice is at most this many times as large as
# of nine in ten of the class.
USUAL_COSTS = 1.2
NINE_IN_TEN = 0.9
# Pixels along the outline of a shape of n pixels are in it or not by chance: their
# number, a few times sqrt(n), changes by its own root, so the area by n ** -0.75.
PIXEL_NOISE = 2.0
# A gap of more slices than this, or between shapes that do not overlap, may lie between
# two separate parts of a class.
LONGEST_GAP = 2
LEAST_OVERLAP = 0.1
# A class with gaps in this fraction of its volumes is outlined here and there.
USUAL_GAPS = 0.3
FEWEST_TRACKS = 5
# Of two shapes, one lies in the other if their Dice is this part of the greatest one
# that shapes of their areas can have.
NESTED = 0.97
# A shape is the largest one of its neighbours if its area is this many times as large.
LARGEST = 1.05
# It is usual in a class if this fraction of its ends have it beside them.
USUAL_PEAKS = 0.1
# Shapes that are compared need this many others of their class to know what is usual.
FEWEST_OTHERS = 10


def between(shapes: Shapes) -> Indices:
    """Return the rows that have a label one slot before and one after."""
    return np.flatnonzero((shapes.before >= 0) & (shapes.after >= 0))


def beyond_neighbours(shapes: Shapes, row: Indices) -> Floats:
    """Return how far the area lies beyond those of both neighbours, as a logarithm."""
    here = shapes.log_mm2[row]
    from_before = here - shapes.log_mm2[shapes.before[row]]
    from_after = here - shapes.log_mm2[shapes.after[row]]
    nearer = np.minimum(np.abs(from_before), np.abs(from_after))
    result: Floats = np.where(from_before * from_after > 0, nearer, 0.0)
    return np.copysign(result, from_before)


def off_the_way(shapes: Shapes, row: Indices) -> Floats:
    """Return how many pixels the centre lies off the way between its neighbours'."""
    start = shapes.centre[shapes.before[row]]
    step = shapes.centre[shapes.after[row]] - start
    off = shapes.centre[row] - start
    square = (step**2).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        along = np.clip(np.nan_to_num((off * step).sum(1) / square), 0, 1)
    rest = off - along[:, None] * step
    result: Floats = np.hypot(rest[:, 0], rest[:, 1])
    return result


def loss_of_dice(shapes: Shapes, row: Indices) -> Floats:
    """Return by how much neighbours fit each other better than they fit the label.

    That is, the Dice of both neighbours less the better one of each with the label: of
    shapes that change steadily it is negative. A shape that both neighbours only exceed
    in size, or it them, as the largest one of a tumour, loses nothing.
    """
    before, after = shapes.before[row], shapes.after[row]
    own = np.fmax(shapes.dice[before, 0], shapes.dice[row, 0])
    loss: Floats = np.nan_to_num(shapes.dice[before, 1] - own, nan=-1.0)
    # Of shapes of these areas, one within the other.
    most = np.fmax(
        _greatest_dice(shapes.area[before], shapes.area[row]),
        _greatest_dice(shapes.area[after], shapes.area[row]),
    )
    return np.where(own > NESTED * most, np.minimum(loss, 0.0), loss)


def _greatest_dice(first: Floats, second: Floats) -> Floats:
    """Return the greatest Dice that shapes of two areas can have."""
    result: Floats = 2 * np.minimum(first, second) / (first + second)
    return result


def usual_limit(
    values: Floats,
    klass: Indices,
    least: float,
    times: float = TIMES_USUAL,
    fraction: float = FOUR_IN_FIVE,
) -> Floats:
    """Return what a value must exceed: `least`, or more in a class that varies.

    values, klass : (n,)
    times         : how many times what a fraction of values do not exceed
    """
    limit = np.full(len(values), least)
    for k in np.flatnonzero(np.bincount(klass)).tolist():
        chosen = klass == k
        limit[chosen] = max(least, times * mostly_below(values[chosen], fraction))
    return limit


def pixel_noise(shapes: Shapes, row: Indices) -> Floats:
    """Return how well the area of the least of three neighbours is known."""
    least = np.minimum(shapes.area[row], shapes.area[shapes.before[row]])
    return noise_of(np.minimum(least, shapes.area[shapes.after[row]]))


def noise_of(area: Floats) -> Floats:
    """Return how well an area in pixels is known, as a fraction of it."""
    result: Floats = PIXEL_NOISE * area**-0.75
    return result


class SliceWithoutContour(Rule):
    """The mask of the slice is empty: a network learns that there is nothing."""

    name = "slice-without-contour"
    title = "A slice without a contour between slices with one"
    severity = "warning"
    needs = "volumes"

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each gap in a track."""
        tracks, shapes = facts.along_slices, facts.slice_shapes
        labels, stacks = facts.labels, facts.stacks
        step = np.diff(tracks.slot)
        is_gap = (np.diff(tracks.track) == 0) & (step > 1)
        gaps = np.flatnonzero(is_gap)
        is_usual = self._usual_classes(facts, tracks, gaps)
        # Samples by stack and slot, and whether any time has an image there.
        here = {
            key: sample
            for sample, key in enumerate(
                zip(stacks.stack.tolist(), stacks.slot.tolist(), strict=True)
            )
        }
        anywhere = set(zip(stacks.series.tolist(), stacks.slot.tolist(), strict=True))
        for row in gaps.tolist():
            klass = int(shapes.klass[row])
            first, last = labels.sample[tracks.label[row : row + 2]].tolist()
            slots = range(int(tracks.slot[row]) + 1, int(tracks.slot[row + 1]))
            stack, series = int(stacks.stack[first]), int(stacks.series[first])
            known = [here[stack, k] for k in slots if (stack, k) in here]
            is_certain = all((series, k) in anywhere for k in slots)
            if not is_certain and not stacks.is_even[first]:
                continue
            lag = len(slots)
            smaller = min(shapes.area[row], shapes.area[row + 1])
            is_apart = (
                lag > LONGEST_GAP or tracks.shared[row, lag] < LEAST_OVERLAP * smaller
            )
            absent = "" if known else ", which is not in the store"
            yield Finding(
                rule=self.name,
                severity="note" if is_apart or is_usual[klass] else self.severity,
                text=(
                    f"{facts.name_of(klass)} is outlined on the slices before and "
                    f"after, but not on {many(lag, 'slice')} between them{absent}."
                ),
                samples=(*known, first, last),
                classes=(facts.name_of(klass),),
                amount=float(lag),
                unit="slices",
                points=_points(shapes.centre[row]),
            )

    def _usual_classes(
        self, facts: Facts, tracks: Tracks, gaps: Indices
    ) -> NDArray[np.bool_]:
        """Return of each class whether gaps are usual."""
        count = len(facts.classes)
        klass = facts.labels.klass[tracks.label]
        long = np.unique(tracks.track, return_index=True, return_counts=True)
        all_tracks = np.bincount(klass[long[1][long[2] > 1]], minlength=count)
        with_gap = np.unique(tracks.track[gaps], return_index=True)[1]
        gap_tracks = np.bincount(klass[gaps[with_gap]], minlength=count)
        result: NDArray[np.bool_] = (all_tracks >= FEWEST_TRACKS) & (
            gap_tracks > USUAL_GAPS * all_tracks
        )
        return result


class AreaJumps(Rule):
    """One slice with another area than its neighbours is often a slip of the mouse."""

    name = "area-jump"
    title = "An area unlike those on the slices before and after"
    severity = "warning"
    needs = "volumes"
    explains = (
        "centre-jump",
        "overlap-jump",
        *AGAINST_CLASSES,
        *AGAINST_THE_REST,
    )
    percent: float = threshold(
        22, "percent", "how far an area lies beyond those of both neighbours"
    )

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each label whose area jumps."""
        shapes = facts.slice_shapes
        row = _not_swapped(facts, between(shapes))
        beyond = beyond_neighbours(shapes, row)
        least = float(np.log1p(self.percent / 100))
        limit = usual_limit(np.abs(beyond), shapes.klass[row], least)
        limit += pixel_noise(shapes, row)
        for k in np.flatnonzero(np.abs(beyond) > limit).tolist():
            here = int(row[k])
            before, after = int(shapes.before[here]), int(shapes.after[here])
            unit = _area_unit(facts, facts.along_slices, here)
            areas = [
                f"{np.exp(shapes.log_mm2[one]):.0f}" for one in (here, before, after)
            ]
            yield _finding(
                self,
                facts,
                facts.along_slices,
                (here, before, after),
                text=(
                    f"covers {areas[0]} {unit}, but {areas[1]} and {areas[2]} {unit} "
                    "on the slices before and after."
                ),
                amount=100 * float(np.expm1(abs(beyond[k]))),
                unit="percent",
            )


class CentreJumps(Rule):
    """A contour that is displaced on one slice marks other tissue than it names."""

    name = "centre-jump"
    title = "A contour that is shifted against the slices before and after"
    severity = "warning"
    needs = "volumes"
    explains = (
        "overlap-jump",
        *AGAINST_CLASSES,
        *AGAINST_THE_REST,
    )
    percent: float = threshold(
        12,
        "percent",
        "of the width of the shape: how far its centre lies off the way between those "
        "of both neighbours",
    )
    pixels: float = threshold(1.5, "pixels", "the least distance that counts")

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each label whose centre jumps."""
        shapes = facts.slice_shapes
        row = _not_swapped(facts, between(shapes))
        off = off_the_way(shapes, row)
        before, after = shapes.before[row], shapes.after[row]
        width = np.sqrt((shapes.area[before] + shapes.area[after]) / 2)
        limit = usual_limit(off / width, shapes.klass[row], self.percent / 100)
        limit += pixel_noise(shapes, row)
        is_far = (off > limit * width) & (off > self.pixels)
        for k in np.flatnonzero(is_far).tolist():
            here = int(row[k])
            amount, unit = _length(facts, facts.along_slices, here, float(off[k]))
            yield _finding(
                self,
                facts,
                facts.along_slices,
                (here, int(before[k]), int(after[k])),
                text=(
                    f"is shifted by {amount:.1f} {unit} against the slices before and "
                    "after."
                ),
                amount=amount,
                unit=unit,
            )


class OverlapJumps(Rule):
    """A shape between two that fit each other, and not it, is often a wrong one."""

    name = "overlap-jump"
    title = "A shape unlike those on the slices before and after"
    severity = "warning"
    needs = "volumes"
    explains = (
        *AGAINST_CLASSES,
        *AGAINST_THE_REST,
    )
    loss: float = threshold(
        0.04,
        "Dice",
        "by how much the Dice of both neighbours exceeds that of each with the shape",
    )

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each label that fits its neighbours less."""
        tracks, shapes = facts.along_slices, facts.slice_shapes
        row = _not_swapped(facts, between(shapes))
        loss = loss_of_dice(shapes, row)
        limit = usual_limit(np.maximum(loss, 0), shapes.klass[row], self.loss)
        limit += pixel_noise(shapes, row)
        for k in np.flatnonzero(loss > limit).tolist():
            here = int(row[k])
            before, after = int(shapes.before[here]), int(shapes.after[here])
            both = shapes.dice[before, 1]
            own = max(shapes.dice[before, 0], shapes.dice[here, 0])
            yield _finding(
                self,
                facts,
                tracks,
                (here, before, after),
                text=(
                    "has another shape than on the slices before and after: its Dice "
                    f"with them is at most {own:.2f}, theirs with each other "
                    f"{both:.2f}."
                ),
                amount=float(loss[k]),
                unit="Dice",
            )


class Swap(NamedTuple):
    """Two labels of a track that fit the slices better in the other order.

    first, second : rows of Tracks
    saving : how much Dice the other order saves
    """

    first: int
    second: int
    saving: float


def find_swaps(
    tracks: Tracks, shapes: Shapes, saving: float = 0.05, ratio: float = 0.9
) -> list[Swap]:
    """Return the pairs of labels that fit better if they are swapped, the best first.

    saving : of 1 - Dice between slices that follow each other, in sum
    ratio  : largest part of this sum that remains
    """
    cost = 1 - shapes.dice
    usual = usual_limit(
        np.nan_to_num(cost[:, 0]), shapes.klass, 0.0, USUAL_COSTS, NINE_IN_TEN
    )
    found = []
    for lag in (1, 2):
        first = np.flatnonzero(tracks.after[:, lag - 1] >= 0)
        second = tracks.after[first, lag - 1]
        middle = tracks.after[first, 0]
        inner = cost[first, 0]
        total = inner.copy()
        if lag == 2:
            # The slice between both needs a label, too.
            inner = np.where(middle >= 0, np.maximum(inner, cost[middle, 0]), np.nan)
            total = total + cost[middle, 0]
        before, after = shapes.before[first], shapes.after[second]
        # The label before lies lag + 1 slots from the second one.
        left = np.where(before >= 0, cost[before, 0], 0.0)
        left_new = np.where(before >= 0, cost[before, lag], 0.0)
        right = np.where(after >= 0, cost[second, 0], 0.0)
        right_new = np.where(after >= 0, cost[first, lag], 0.0)
        saved = left + right - left_new - right_new
        total = total + left + right
        # Where a track ends, the slice beside its end may just be the largest one.
        area = shapes.area
        is_peak = (before < 0) & (
            area[second] > LARGEST * np.maximum(area[first], area[after])
        )
        is_peak |= (after < 0) & (
            area[first] > LARGEST * np.maximum(area[second], area[before])
        )
        # That is no excuse in a class of which ends are otherwise the smallest ones.
        klass, is_end = shapes.klass[first], (before < 0) != (after < 0)
        ends = np.bincount(klass[is_end], minlength=1 + int(klass.max(initial=0)))
        peaks = np.bincount(klass[is_end & is_peak], minlength=len(ends))
        is_peak &= (peaks > USUAL_PEAKS * ends)[klass]
        noise = noise_of(np.minimum(shapes.area[first], shapes.area[second]))
        with np.errstate(invalid="ignore"):
            is_better = (saved > saving + noise) & (total - saved < ratio * total)
            # If only one of both is wrong, it does not fit the other either, and after
            # the swap it fits what is beside it as little.
            is_better &= inner < 0.8 * np.maximum(left, right)
            worst = np.maximum(inner, np.maximum(left_new, right_new))
            is_better &= worst < usual[first] + noise / 2
        is_better &= ~is_peak
        found += [
            Swap(int(first[k]), int(second[k]), float(saved[k]))
            for k in np.flatnonzero(is_better)
        ]
    chosen: list[Swap] = []
    taken: set[int] = set()
    for swap in sorted(found, key=lambda one: (-one.saving, one)):
        rows = range(swap.first - 1, swap.second + 2)
        if taken.isdisjoint(rows):
            taken.update((swap.first, swap.second))
            chosen.append(swap)
    return chosen


class SlicesSwapped(Rule):
    """Contours on each other's slices are wrong on both."""

    name = "slices-swapped"
    title = "Contours of two slices that seem to be swapped"
    severity = "warning"
    needs = "volumes"
    explains = (
        "time-jump",
        *AGAINST_CLASSES,
        *AGAINST_THE_REST,
    )
    saving: float = threshold(
        0.05,
        "Dice",
        "by how much the slices fit their neighbours better after the swap, in sum",
    )

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each pair of labels that seem to be swapped."""
        tracks, shapes = facts.along_slices, facts.slice_shapes
        for swap in find_swaps(tracks, shapes, self.saving):
            yield _finding(
                self,
                facts,
                tracks,
                (swap.first, swap.second),
                text=(
                    "seems to be swapped between these two slices: exchanged, its "
                    "contours fit the slices before and after better (by a Dice of "
                    f"{swap.saving:.2f}, in sum)."
                ),
                amount=swap.saving,
                unit="Dice",
            )


class EndSliceUnlikeRest(Rule):
    """A stray contour beyond the end of a structure marks tissue that is not it."""

    name = "end-slice-unlike-rest"
    title = "A first or last contour unlike that of the next slice"
    severity = "warning"
    needs = "volumes"
    explains = (*AGAINST_THE_REST,)
    outside: float = threshold(
        25, "percent", "of the smaller of both shapes that lies outside the other one"
    )
    growth: float = threshold(
        60, "percent", "by how much the area is larger than on the next slice"
    )
    deviations: float = threshold(
        6, "deviations", "of the change of area from what is usual at this end"
    )

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each end of a track that is unlike what follows it."""
        tracks, shapes = facts.along_slices, facts.slice_shapes
        swapped = _swapped(facts)
        for is_last in (False, True):
            outer, inner = (
                (shapes.after, shapes.before)
                if is_last
                else (shapes.before, shapes.after)
            )
            end = np.flatnonzero((outer < 0) & (inner >= 0))
            follows = inner[inner[end]] >= 0
            end = np.array(
                [row for row in end[follows].tolist() if row not in swapped], np.int64
            )
            follows_end = inner[end]
            earlier = np.minimum(end, follows_end)
            smaller = np.minimum(shapes.area[end], shapes.area[follows_end])
            outside = 1 - tracks.shared[earlier, 0] / smaller
            noise = noise_of(smaller)
            limit = usual_limit(outside, shapes.klass[end], self.outside / 100) + noise
            growth = shapes.log_mm2[end] - shapes.log_mm2[follows_end]
            is_large = growth > np.log1p(self.growth / 100) + noise
            for k in np.flatnonzero(np.bincount(shapes.klass[end])).tolist():
                chosen = shapes.klass[end] == k
                usual = deviations(growth[chosen], 0.1)
                if chosen.sum() > FEWEST_OTHERS:
                    is_large[chosen] &= usual > self.deviations
            for k in np.flatnonzero((outside > limit) | is_large).tolist():
                where, beside = ("last", "before") if is_last else ("first", "after")
                if outside[k] > limit[k]:
                    amount = 100 * float(outside[k])
                    text = (
                        f"on the {where} slice does not fit the slice {beside} it: "
                        f"{amount:.0f} % of the smaller contour lie outside the larger "
                        "one."
                    )
                else:
                    amount = 100 * float(np.expm1(growth[k]))
                    text = (
                        f"on the {where} slice is {amount:.0f} % larger than on the "
                        f"slice {beside} it."
                    )
                yield _finding(
                    self,
                    facts,
                    tracks,
                    (int(end[k]), int(follows_end[k])),
                    text=text,
                    amount=amount,
                    unit="percent",
                )


class TimeJumps(Rule):
    """A contour of another time marks a heart that beats the other way."""

    name = "time-jump"
    title = "A shape unlike those at the times before and after"
    severity = "warning"
    needs = "volumes"
    explains = (*AGAINST_THE_REST,)
    percent: float = threshold(
        22, "percent", "how far an area lies beyond those of the times before and after"
    )
    shift: float = threshold(
        12,
        "percent",
        "of the width of the shape: how far its centre lies off the way between those "
        "of the times before and after",
    )
    against: float = threshold(
        10,
        "percent",
        "by how much an area grows where it shrinks on the other slices, or shrinks "
        "where it grows there",
    )

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each label that jumps over time."""
        tracks, shapes = facts.along_times, facts.time_shapes
        if not len(tracks.label):
            return
        row = between(shapes)
        beyond = beyond_neighbours(shapes, row)
        noise = pixel_noise(shapes, row)
        klass = shapes.klass[row]
        limit = usual_limit(np.abs(beyond), klass, float(np.log1p(self.percent / 100)))
        off = off_the_way(shapes, row) / np.sqrt(
            (shapes.area[shapes.before[row]] + shapes.area[shapes.after[row]]) / 2
        )
        far = usual_limit(off, klass, self.shift / 100)
        is_jump = (np.abs(beyond) > limit + noise) | (off > far + noise)
        for k in np.flatnonzero(is_jump).tolist():
            here = int(row[k])
            before, after = int(shapes.before[here]), int(shapes.after[here])
            ratio = 100 * float(np.expm1(abs(beyond[k])))
            size = f"{ratio:.0f} % {'larger' if beyond[k] > 0 else 'smaller'}"
            shift = f"shifted by {100 * off[k]:.0f} % of its width"
            if off[k] <= far[k] + noise[k]:
                text = f"is {size} than at the times before and after."
            elif abs(beyond[k]) <= limit[k] + noise[k]:
                text = f"is {shift} against the times before and after."
            else:
                text = f"is {size} than at the times before and after, and {shift}."
            yield _finding(
                self,
                facts,
                tracks,
                (here, before, after),
                text=text,
                amount=max(ratio, 100 * float(off[k])),
                unit="percent",
            )
        yield from self._against_others(facts, tracks, shapes)

    def _against_others(
        self, facts: Facts, tracks: Tracks, shapes: Shapes
    ) -> Iterator[Finding]:
        """Return a finding where a class grows, and shrinks on the other slices."""
        row = np.flatnonzero(shapes.after >= 0)
        other = shapes.after[row]
        change = shapes.log_mm2[other] - shapes.log_mm2[row]
        series = facts.stacks.series[facts.labels.sample[tracks.label[row]]]
        group = number_rows(shapes.klass[row], series, tracks.slot[row])
        count = int(group.max(initial=-1)) + 1
        usual = group_medians(change, group, count)[group]
        size = np.bincount(group, minlength=count)[group]
        noise = noise_of(np.minimum(shapes.area[row], shapes.area[other]))
        least = np.log1p(self.against / 100)
        is_against = (
            (size >= 3)
            & (np.abs(usual) > 2 * least)
            & (change * np.sign(usual) < -(least + noise))
        )
        for k in np.flatnonzero(is_against).tolist():
            grows = change[k] > 0
            amount = 100 * float(np.expm1(abs(change[k])))
            yield _finding(
                self,
                facts,
                tracks,
                (int(row[k]), int(other[k])),
                text=(
                    f"{'grows' if grows else 'shrinks'} by {amount:.0f} % from this "
                    f"time to the next, but {'shrinks' if grows else 'grows'} on the "
                    "other slices: the contours of the two times may be swapped."
                ),
                amount=amount,
                unit="percent",
            )


class ContourOfOtherTime(Rule):
    """The slice lacks its contour, and an image of another time has it by mistake."""

    name = "contour-of-other-time"
    title = "A contour that seems to belong to another time"
    severity = "warning"
    needs = "volumes"
    explains = (
        "slice-without-contour",
        "end-slice-unlike-rest",
        *AGAINST_THE_REST,
    )

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each contour that seems to belong to another time."""
        tracks, shapes = facts.along_times, facts.time_shapes
        if not len(tracks.label):
            return
        labels, stacks = facts.labels, facts.stacks
        sample = labels.sample[tracks.label]
        slice_ = stacks.slot[sample]
        family = number_rows(shapes.klass, stacks.series[sample])
        column = number_rows(family, tracks.slot)  # a class, series and time
        counts = np.bincount(column)[column]
        order = np.lexsort((slice_, tracks.slot, family))
        bounds = np.flatnonzero(np.diff(family[order], prepend=-1, append=-1))
        for start, stop in pairwise(bounds.tolist()):
            rows = order[start:stop]
            main = rows[counts[rows] >= 3]
            stray = rows[counts[rows] == 1]
            if not len(main):
                continue
            for row in stray.tolist():
                yield from self._place(facts, tracks, shapes, slice_, main, row)

    def _place(
        self,
        facts: Facts,
        tracks: Tracks,
        shapes: Shapes,
        slice_: Indices,
        main: Indices,
        row: int,
    ) -> Iterator[Finding]:
        """Return a finding if a time that is outlined lacks the slice of a label."""
        number = int(slice_[row])
        times = sorted(
            set(tracks.slot[main].tolist()),
            key=lambda time: abs(time - int(tracks.slot[row])),
        )
        for time in times:
            there = main[tracks.slot[main] == time]
            slices = slice_[there]
            beside = there[np.abs(slices - number) == 1]
            if number in slices.tolist() or not len(beside):
                continue
            klass = facts.name_of(int(shapes.klass[row]))
            samples = facts.labels.sample[tracks.label[[row, *beside.tolist()]]]
            yield Finding(
                rule=self.name,
                severity=self.severity,
                text=(
                    f"At this time, no other slice has a contour of {klass}. At "
                    "another time, the slices beside this one have it and this one has "
                    "not: the contour may belong there."
                ),
                samples=tuple(samples.tolist()),
                classes=(klass,),
                amount=float(len(there)),
                unit="slices",
                points=_points(shapes.centre[row]),
            )
            return


def _swaps(facts: Facts) -> list[Swap]:
    return find_swaps(facts.along_slices, facts.slice_shapes)


def _swapped(facts: Facts) -> set[int]:
    """Return the rows of `along_slices` that are explained by a swap."""
    return {row for swap in _swaps(facts) for row in (swap.first, swap.second)}


def _not_swapped(facts: Facts, rows: Indices) -> Indices:
    """Return the rows that no swap explains."""
    swapped = np.array(sorted(_swapped(facts)), np.int64)
    return rows[~np.isin(rows, swapped)]


def _finding(
    rule: Rule,
    facts: Facts,
    tracks: Tracks,
    rows: tuple[int, ...],
    *,
    text: str,
    amount: float,
    unit: str,
) -> Finding:
    """Return a finding about labels of a track, the first of which is to look at."""
    labels = facts.labels
    chosen = tracks.label[list(rows)]
    klass = facts.name_of(int(labels.klass[chosen[0]]))
    return Finding(
        rule=rule.name,
        severity=rule.severity,
        text=f"{klass} {text}",
        samples=tuple(labels.sample[chosen].tolist()),
        classes=(klass,),
        amount=amount,
        unit=unit,
        points=_points(labels.centroid[chosen[0]]),
        rings=tuple(facts.rings_of(int(chosen[0])).tolist()),
    )


def _points(centre: Floats) -> tuple[tuple[float, float], ...]:
    x, y = centre.tolist()
    return ((x, y),)


def _area_unit(facts: Facts, tracks: Tracks, row: int) -> str:
    has_mm = np.isfinite(facts.labels.area_mm2[tracks.label[row]])
    return "mm²" if has_mm else "pixels"


def _length(facts: Facts, tracks: Tracks, row: int, pixels: float) -> tuple[float, str]:
    """Return a length in mm if the spacing is known, and its unit."""
    sample = facts.labels.sample[tracks.label[row]]
    spacing = float(np.sqrt(facts.spacing_mm[sample].prod()))
    return (pixels * spacing, "mm") if np.isfinite(spacing) else (pixels, "pixels")


# In the order in which they are asked.
RULES: tuple[type[Rule], ...] = (
    SliceWithoutContour,
    AreaJumps,
    CentreJumps,
    OverlapJumps,
    SlicesSwapped,
    EndSliceUnlikeRest,
    TimeJumps,
    ContourOfOtherTime,
)
