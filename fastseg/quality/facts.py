"""Facts: what rules ask about a store, each computed once, when it is first asked for.

Labels are the pairs (sample, class) that somebody has outlined. All coordinates are
(x, y) in pixels, float64; areas are in square pixels unless their name says mm.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastseg.findings_table import source_name
from fastseg.progress import Progress, silent
from fastseg.quality.outlines import Relation, relate_rings
from fastseg.quality.overlaps import (
    Overlaps,
    count_overlaps,
    find_swapped,
    infer_inside,
)
from fastseg.quality.tracks import (
    Shapes,
    Stacks,
    Tracks,
    along_slices,
    along_times,
    find_stacks,
    measure_shapes,
)
from fastseg.store.selection import distinct
from fastseg.store.text import decode
from fastseg.threads import map_ordered

if TYPE_CHECKING:
    from fastseg.store.reader import Store

T = TypeVar("T")
R = TypeVar("R")
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

# What a rule needs of a store.
Needs = Literal["contours", "masks", "images", "volumes", "splits"]
# Points that are measured in one go, so that memory does not grow with the store.
POINTS_AT_ONCE = 2**20
# Samples that a thread looks at before it reports.
SAMPLES_AT_ONCE = 32


class Rings(NamedTuple):
    """The rings of a store, one row for each row of `store.contours`.

    sample, klass, group : int64 (r,)
    start, stop : int64 (r,), rows of `facts.points`
    area     : float64 (r,), positive if x turns towards y, as on a screen clockwise
    length   : float64 (r,), of the closed outline, in pixels
    centroid : float64 (r, 2), of the area; the mean of the vertices if it is 0
    low, high : float64 (r, 2), the least and the greatest coordinates
    """

    sample: Indices
    klass: Indices
    group: Indices
    start: Indices
    stop: Indices
    area: Floats
    length: Floats
    centroid: Floats
    low: Floats
    high: Floats


class Labels(NamedTuple):
    """What is outlined: a row for each (sample, class), by sample, then by class.

    sample, klass : int64 (n,)
    first, last : int64 (n,), its rings are `order[first:last]`, rows of Rings
    order    : int64 (r,)
    pixels   : int64 (n,), that the mask covers
    area_mm2 : float64 (n,), of these; NaN without a spacing
    box      : int64 (n, 4), top, left, bottom, right of these, the last two exclusive
    centroid : float64 (n, 2), of these; NaN if there are none
    patient, volume : int64 (n,), see Facts
    """

    sample: Indices
    klass: Indices
    first: Indices
    last: Indices
    order: Indices
    pixels: Indices
    area_mm2: Floats
    box: Indices
    centroid: Floats
    patient: Indices
    volume: Indices


class Facts:
    """What is known of a store.

    store   : it
    classes : names; index k is bit k of a mask
    items   : columns of all samples
    count   : number of samples
    splits  : int64 (n,) arrays of samples, by the name of the part; empty if none given
    inside  : pairs of indices of classes (inner, outer) that the user gave
    """

    def __init__(
        self,
        store: "Store",
        *,
        inside: Iterable[tuple[int, int]] = (),
        splits: Mapping[str, Indices] | None = None,
        threads: int = 1,
        progress: Progress = silent,
    ):
        self.store = store
        self.classes = store.classes
        self.items = store.items
        self.count = len(store)
        self.inside = tuple(inside)
        self.splits = dict(splits or {})
        self._threads = threads
        self._progress = progress

    def lacks(self, needs: Needs) -> str:
        """Return what the store lacks of what a rule needs, "" if it has that."""
        if needs == "contours" and not len(self.store.contours["item"]):
            return "the store has no contours"
        if needs == "masks" and not self.items["labelled"].any():
            return "nothing is outlined"
        if needs == "volumes" and not len(self.store.volumes):
            return "the store has no volumes"
        if needs == "splits" and not self.splits:
            return "no split is given"
        return ""

    @cached_property
    def patient(self) -> Indices:
        """The patient of each sample, an index into `patient_names`, int64 (n,)."""
        return distinct(self.items["patient"])[1]

    @cached_property
    def patient_names(self) -> tuple[str, ...]:
        """The IDs of patients."""
        return tuple(decode(self.store, distinct(self.items["patient"])[0].tolist()))

    @cached_property
    def spacing_mm(self) -> Floats:
        """Distances between rows and between columns, float64 (n, 2), or NaN."""
        spacing = np.array(self.items["spacing_mm"], np.float64)
        spacing[~(np.isfinite(spacing) & (spacing > 0)).all(1)] = np.nan
        return spacing

    @cached_property
    def volume(self) -> Indices:
        """The volume of each sample, an index into `store.volumes`; -1 if none."""
        return self.items["volume"].astype(np.int64)

    @cached_property
    def shapes(self) -> Indices:
        """Height and width of each sample's image, int64 (n, 2)."""
        shapes = np.array(
            [bucket.shape for bucket in self.store.buckets.values()], np.int64
        ).reshape(-1, 2)
        of_sample: Indices = shapes[self.items["bucket"]]
        return of_sample

    @cached_property
    def points(self) -> Floats:
        """All vertices, (x, y) in pixels, float64 (p, 2): a view of the store."""
        return self.store.contours["points"]

    @cached_property
    def rings(self) -> Rings:
        """All rings, measured."""
        table = self.store.contours
        offsets = table["offsets"].astype(np.int64)
        count = len(offsets) - 1
        area, length = np.zeros(count), np.zeros(count)
        centroid, low, high = (np.zeros((count, 2)) for _ in range(3))
        # As many rings at once as have about POINTS_AT_ONCE points.
        cuts = np.searchsorted(offsets, np.arange(0, offsets[-1], POINTS_AT_ONCE))
        bounds = sorted({*cuts.tolist(), 0, count})
        for first, last in pairwise(bounds):
            points = self.points[offsets[first] : offsets[last]]
            measured = _measure(points, offsets[first : last + 1] - offsets[first])
            for column, values in zip(
                (area, length, centroid, low, high), measured, strict=True
            ):
                column[first:last] = values
        return Rings(
            sample=table["item"].astype(np.int64),
            klass=table["class"].astype(np.int64),
            group=table["group"].astype(np.int64),
            start=offsets[:-1],
            stop=offsets[1:],
            area=area,
            length=length,
            centroid=centroid,
            low=low,
            high=high,
        )

    @cached_property
    def labels(self) -> Labels:
        """What is outlined."""
        labelled = self.items["labelled"]
        bits = np.arange(len(self.classes), dtype=labelled.dtype)
        is_labelled = (labelled[:, None] >> bits) & labelled.dtype.type(1)
        sample, klass = np.nonzero(is_labelled)
        rings, width = self.rings, max(len(self.classes), 1)
        key = rings.sample * width + rings.klass
        order = np.argsort(key, kind="stable")
        wanted = sample * width + klass
        pixels = self.items["pixels"][sample, klass].astype(np.int64)
        box = self.items["bbox"][sample, klass].astype(np.int64)
        return Labels(
            sample=sample,
            klass=klass,
            first=np.searchsorted(key[order], wanted),
            last=np.searchsorted(key[order], wanted, side="right"),
            order=order,
            pixels=pixels,
            area_mm2=pixels * self.spacing_mm[sample].prod(1),
            box=box,
            centroid=self._centroids(sample, klass, box),
            patient=self.patient[sample],
            volume=self.volume[sample],
        )

    @cached_property
    def stacks(self) -> Stacks:
        """Where each sample lies in the stack of its series and time."""
        return find_stacks(self)

    @cached_property
    def along_slices(self) -> Tracks:
        """The labels of each class along the slices of each stack."""
        return along_slices(self)

    @cached_property
    def slice_shapes(self) -> Shapes:
        """What is measured of `along_slices`."""
        return measure_shapes(self.labels, self.along_slices)

    @cached_property
    def along_times(self) -> Tracks:
        """The labels of each class along the times of each slice."""
        return along_times(self)

    @cached_property
    def time_shapes(self) -> Shapes:
        """What is measured of `along_times`."""
        return measure_shapes(self.labels, self.along_times)

    @cached_property
    def overlaps(self) -> Overlaps:
        """How many pixels classes share on each image."""
        return count_overlaps(self)

    @cached_property
    def inside_pairs(self) -> tuple[tuple[int, int], ...]:
        """Classes (inner, outer), one within the other: given, or else inferred."""
        return self.inside or infer_inside(self.overlaps)

    @cached_property
    def swapped(self) -> NDArray[np.bool_]:
        """Which rows of `overlaps` are of classes whose labels look swapped."""
        return find_swapped(self)

    @cached_property
    def ring_relations(self) -> list[Relation]:
        """How rings of a class lie to each other where fill rules differ."""
        return relate_rings(self)

    def label_at(self, sample: int, klass: int) -> int:
        """Return the row of a sample and class in `labels`, -1 if there is none."""
        labels = self.labels
        first, last = np.searchsorted(labels.sample, [sample, sample + 1]).tolist()
        found = np.flatnonzero(labels.klass[first:last] == klass)
        return first + int(found[0]) if len(found) else -1

    def rings_of(self, label: int) -> Indices:
        """Return the rings of a row of `labels`, rows of `rings`."""
        labels = self.labels
        return labels.order[labels.first[label] : labels.last[label]]

    def ring_points(self, ring: int) -> Floats:
        """Return the vertices of a ring, float64 (n, 2)."""
        return self.points[self.rings.start[ring] : self.rings.stop[ring]]

    def image(self, sample: int) -> NDArray[Any]:
        """Return the stored values of a sample, (H, W)."""
        return self.store[sample].image

    def mask(self, sample: int) -> NDArray[Any]:
        """Return the bit field of a sample, (H, W)."""
        return self.store[sample].mask

    def name_of(self, klass: int) -> str:
        """Return the name of a class."""
        return self.classes[klass]

    def sources(self, samples: Iterable[int]) -> list[str]:
        """Return the image file of each sample, with # and the frame if it has many."""
        chosen = np.array(list(samples), np.int64)
        source = self.items["source"][chosen]
        names = decode(self.store, self.store.sources["path"][source].tolist())
        frames = self.items["frame"][chosen].tolist()
        several = self._has_frames[source].tolist()
        return [
            source_name(name, frame, is_many)
            for name, frame, is_many in zip(names, frames, several, strict=True)
        ]

    @cached_property
    def _has_frames(self) -> NDArray[np.bool_]:
        """Whether each source has several samples, or another frame than its first."""
        source = self.items["source"].astype(np.int64)
        frames = np.bincount(source, minlength=len(self.store.sources["path"]))
        frames[source[self.items["frame"] > 0]] = 2
        return frames > 1

    def map(
        self,
        function: Callable[[int], R],
        samples: Iterable[int],
        label: str,
    ) -> list[R]:
        """Return the result of a function for each sample, by several threads.

        label : what the progress bar says
        """
        chosen = list(samples)
        parts = [
            chosen[first : first + SAMPLES_AT_ONCE]
            for first in range(0, len(chosen), SAMPLES_AT_ONCE)
        ]

        def each(part: list[int]) -> list[R]:
            return [function(sample) for sample in part]

        found: list[R] = []
        with self._progress(label, len(chosen)) as advance:
            for results in map_ordered(each, parts, self._threads):
                found += results
                advance(len(results))
        return found

    def _centroids(self, sample: Indices, klass: Indices, box: Indices) -> Floats:
        """Return the centre of the pixels of each label."""
        centroid = np.full((len(sample), 2), np.nan)
        starts = np.flatnonzero(np.append(True, sample[1:] != sample[:-1]))[
            : len(sample)
        ].tolist()

        def measure(first_and_last: Any) -> None:
            first, last = first_and_last
            mask = self.mask(int(sample[first]))
            for row in range(first, last):
                top, left, bottom, right = box[row].tolist()
                if bottom > top:
                    bit = mask.dtype.type(1 << int(klass[row]))
                    part = (mask[top:bottom, left:right] & bit) != 0
                    rows, columns = part.sum(1), part.sum(0)
                    total = rows.sum()
                    centroid[row] = (
                        left + columns @ np.arange(right - left) / total,
                        top + rows @ np.arange(bottom - top) / total,
                    )

        spans = list(pairwise([*starts, len(sample)]))
        chosen: Any = spans
        self.map(measure, chosen, "measure")
        return centroid


def _measure(
    points: Floats, offsets: Indices
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Return area, length, centroid, low and high of rings that follow each other."""
    starts = offsets[:-1]
    counts = np.diff(offsets)
    # Relative to the first vertex, so that little is lost to rounding.
    origin = points[starts]
    moved = points - np.repeat(origin, counts, axis=0)
    following = np.roll(moved, -1, axis=0)
    following[offsets[1:] - 1] = 0.0
    cross = moved[:, 0] * following[:, 1] - following[:, 0] * moved[:, 1]
    area = np.add.reduceat(cross, starts) / 2
    step = following - moved
    length = np.add.reduceat(np.hypot(step[:, 0], step[:, 1]), starts)
    sums = np.add.reduceat((moved + following) * cross[:, None], starts)
    means = np.add.reduceat(moved, starts) / counts[:, None]
    has_area = np.abs(area) > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        centroid = np.where(has_area[:, None], sums / (6 * area[:, None]), means)
    low = np.minimum.reduceat(points, starts)
    high = np.maximum.reduceat(points, starts)
    return area, length, origin + centroid, low, high
