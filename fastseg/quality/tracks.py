"""Labels of a class along the slices of a stack, and along the times of a slice.

A stack is the images of one patient, series, shape, direction and time. Its slices are
numbered by their positions along the normal, whether or not they are a volume: of a
series of which only the labelled images are in the store, some slices are absent.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.geometry import SAME_POSITION_MM, number_stacks
from fastseg.store.selection import distinct

if TYPE_CHECKING:
    from fastseg.quality.facts import Facts, Labels

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

# Slices that are this fraction of the usual distance apart are at one position.
SAME_SLICE = 0.1
# Overlaps are counted between slices that are at most this far apart.
LAGS = 3


class Stacks(NamedTuple):
    """Where each sample lies in its stack.

    series : int64 (n,), number of its series, shape and direction
    stack  : int64 (n,), number of these and of its time
    slot   : int64 (n,), number of its slice, the same for all times of a series; -1 if
        it is not known, or if several images of the stack are at one position
    is_even : bool (n,), whether most slices of the series follow each other at the
        same distance
    """

    series: Indices
    stack: Indices
    slot: Indices
    is_even: NDArray[np.bool_]


class Tracks(NamedTuple):
    """Labels of one class, in order: a track for each class and stack, or slice.

    label : int64 (t,), rows of Labels, track by track
    track : int64 (t,), number of its track
    slot  : int64 (t,), rising within a track: slice, or rank of the time
    after : int64 (t, LAGS), the row here of the label that is 1, 2, 3 slots further on;
        -1 if there is none
    shared : int64 (t, LAGS), pixels that both cover; 0 if there is none
    """

    label: Indices
    track: Indices
    slot: Indices
    after: Indices
    shared: Indices


class Shapes(NamedTuple):
    """Labels of tracks, measured; a row for each row of Tracks.

    klass   : int64 (t,)
    area    : float64 (t,), pixels
    log_mm2 : float64 (t,), logarithm of the area in mm^2, or in pixels without spacing
    centre  : float64 (t, 2), (x, y) in pixels
    dice    : float64 (t, LAGS), with the labels after it; NaN if there is none
    before  : int64 (t,), the row of the label that is one slot before; -1 if none
    after   : int64 (t,), one slot after; -1 if none
    """

    klass: Indices
    area: Floats
    log_mm2: Floats
    centre: Floats
    dice: Floats
    before: Indices
    after: Indices


def number_rows(*columns: NDArray[np.generic]) -> Indices:
    """Return a number for each row of columns: equal rows have the same, from 0."""
    number = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        codes = np.unique(column, return_inverse=True)[1].reshape(-1).astype(np.int64)
        joined = number * (codes.max(initial=0) + 1) + codes
        number = np.unique(joined, return_inverse=True)[1].reshape(-1)
    return number


def find_stacks(facts: "Facts") -> Stacks:
    """Return where the samples of a store lie in their stacks."""
    items = facts.items
    kind = number_rows(
        facts.patient, distinct(items["series"])[1], items["bucket"].astype(np.int64)
    )
    series = number_stacks(items["directions"], kind)
    time = np.nan_to_num(items["time"].astype(np.float64), nan=-1.0)
    stack = number_rows(series, time)
    position = items["position_mm"].astype(np.float64)
    slot, is_even = number_slices(position, series)
    # Several images of a stack at one position: which one belongs where is not known.
    known = np.flatnonzero(slot >= 0)
    order = known[np.lexsort((slot[known], stack[known]))]
    twice = (np.diff(stack[order]) == 0) & (np.diff(slot[order]) == 0)
    slot[np.isin(stack, stack[order[1:][twice]])] = -1
    return Stacks(series, stack, slot, is_even)


def number_slices(
    position: Floats, series: Indices
) -> tuple[Indices, NDArray[np.bool_]]:
    """Return the number of the slice at each position, from 0 in its series.

    position : float64 (n,), mm along the normal; NaN has the number -1
    series   : int64 (n,)

    A gap in which further slices would fit takes their numbers. Also returns whether at
    least three in four distances of the series are the usual one, bool (n,).
    """
    slot = np.full(len(position), -1, np.int64)
    is_even = np.zeros(len(position), np.bool_)
    known = np.flatnonzero(np.isfinite(position))
    if not len(known):
        return slot, is_even
    order = known[np.lexsort((position[known], series[known]))]
    group = number_rows(series[order])
    step = np.diff(position[order])
    is_same = np.diff(group) == 0
    count = int(group[-1]) + 1
    # The usual distance is the lower quartile: of three slices with a gap between two
    # of them, it is the other distance.
    usual = np.full(count, np.nan)
    real = np.flatnonzero(is_same & (step > SAME_POSITION_MM))
    by_size = real[np.lexsort((step[real], group[1:][real]))]
    sizes = np.bincount(group[1:][real], minlength=count)
    filled = sizes > 0
    starts = np.cumsum(sizes) - sizes
    usual[filled] = step[by_size[starts[filled] + (sizes[filled] - 1) // 4]]
    with np.errstate(invalid="ignore"):
        ratio = step / usual[group[1:]]
        is_new = is_same & (ratio > SAME_SLICE)
        jump = np.where(is_new, np.maximum(np.rint(ratio), 1.0), 0.0).astype(np.int64)
    level = np.append(0, np.cumsum(jump))
    first = np.flatnonzero(np.append(True, ~is_same))
    slot[order] = level - level[first][group]
    steps = np.bincount(group[1:][is_new], minlength=count)
    is_usual = is_new & (np.abs(np.nan_to_num(ratio) - 1) <= SAME_SLICE)
    usual_steps = np.bincount(group[1:][is_usual], minlength=count)
    is_even[order] = (4 * usual_steps >= 3 * steps)[group]
    return slot, is_even


def along_slices(facts: "Facts") -> Tracks:
    """Return the labels with pixels along the slices of stacks."""
    labels, stacks = facts.labels, facts.stacks
    slot = stacks.slot[labels.sample]
    chosen = np.flatnonzero((slot >= 0) & (labels.pixels > 0))
    track = number_rows(labels.klass[chosen], stacks.stack[labels.sample[chosen]])
    return _join(facts, chosen, track, slot[chosen])


def along_times(facts: "Facts") -> Tracks:
    """Return the labels with pixels along the times of a slice of a series.

    Slots are the ranks of times among those at which the class is outlined anywhere in
    the series: neighbours are the times before and after that somebody looked at.
    """
    labels, stacks = facts.labels, facts.stacks
    time = facts.items["time"].astype(np.float64)[labels.sample]
    slice_ = stacks.slot[labels.sample]
    chosen = np.flatnonzero((slice_ >= 0) & np.isfinite(time) & (labels.pixels > 0))
    family = number_rows(labels.klass[chosen], stacks.series[labels.sample[chosen]])
    rank = _ranks(time[chosen], family)
    return _join(facts, chosen, number_rows(family, slice_[chosen]), rank)


def measure_shapes(labels: "Labels", tracks: Tracks) -> Shapes:
    """Return the measures of the labels of tracks."""
    area = labels.pixels[tracks.label].astype(np.float64)
    mm2 = labels.area_mm2[tracks.label]
    other = np.maximum(tracks.after, 0)
    with np.errstate(invalid="ignore"):
        dice = 2 * tracks.shared / (area[:, None] + area[other])
    dice[tracks.after < 0] = np.nan
    before = np.full(len(area), -1, np.int64)
    has_after = tracks.after[:, 0] >= 0
    before[tracks.after[has_after, 0]] = np.flatnonzero(has_after)
    return Shapes(
        klass=labels.klass[tracks.label],
        area=area,
        log_mm2=np.log(np.where(np.isfinite(mm2), mm2, area)),
        centre=labels.centroid[tracks.label],
        dice=dice,
        before=before,
        after=tracks.after[:, 0],
    )


def _ranks(values: Floats, group: Indices) -> Indices:
    """Return the rank of each value among the distinct values of its group."""
    order = np.lexsort((values, group))
    is_same = np.diff(group[order]) == 0
    level = np.append(0, np.cumsum(is_same & (np.diff(values[order]) > 0)))[
        : len(order)
    ]
    first = np.flatnonzero(np.append(True, ~is_same)[: len(order)])
    lengths = np.diff(np.append(first, len(order)))
    rank = np.empty(len(values), np.int64)
    rank[order] = level - np.repeat(level[first], lengths)
    return rank


def _join(facts: "Facts", label: Indices, track: Indices, slot: Indices) -> Tracks:
    """Return tracks in order, with their overlaps."""
    order = np.lexsort((slot, track))
    label, track, slot = label[order], track[order], slot[order]
    after = np.full((len(label), LAGS), -1, np.int64)
    if len(label):
        key = track * (int(slot.max()) + LAGS + 1) + slot
        for lag in range(1, LAGS + 1):
            there = np.searchsorted(key, key + lag)
            there[there == len(key)] = 0
            after[:, lag - 1] = np.where(key[there] == key + lag, there, -1)
    return Tracks(label, track, slot, after, _count_shared(facts, label, track, after))


def _count_shared(
    facts: "Facts", label: Indices, track: Indices, after: Indices
) -> Indices:
    """Return how many pixels each label shares with those after it."""
    labels = facts.labels
    shared = np.zeros(after.shape, np.int64)
    bounds = np.flatnonzero(np.diff(track, prepend=-1, append=-1)).tolist()
    klass, sample = labels.klass[label], labels.sample[label].tolist()
    top, left, bottom, right = labels.box[label].T

    def count(number: int) -> None:
        masks: dict[int, NDArray[Any]] = {}
        first, last = bounds[number], bounds[number + 1]
        bit = 1 << int(klass[first])
        for row in range(first, last):
            for lag in range(LAGS):
                other = int(after[row, lag])
                if other < 0:
                    continue
                rows = slice(
                    int(max(top[row], top[other])), int(min(bottom[row], bottom[other]))
                )
                columns = slice(
                    int(max(left[row], left[other])), int(min(right[row], right[other]))
                )
                if rows.start >= rows.stop or columns.start >= columns.stop:
                    continue
                for one in (row, other):
                    if one not in masks:
                        masks[one] = facts.mask(sample[one])
                both = masks[row][rows, columns] & masks[other][rows, columns]
                shared[row, lag] = np.count_nonzero(both & both.dtype.type(bit))
            masks.pop(row, None)

    facts.map(count, range(len(bounds) - 1), "compare slices")
    return shared
