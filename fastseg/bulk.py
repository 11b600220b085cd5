"""Items many at a time: what is plain of a share, by compiled code.

`making` is the authority on what an item is and on what is wrong with one. Here only
those are made whose files are as plain as nearly all are and just as the plan found
them; all others are left to it.
"""

import os
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg import dicom
from fastseg._kernels import reading, system, tone
from fastseg.making import (
    NO_POINTS,
    WIDEST_COUNT,
    Drawn,
    Maker,
    hash_inputs,
    hash_of_zeros,
    mean_and_std,
    percentile_ranks,
)
from fastseg.planning import NO_START, Plan, within_root
from fastseg.store import layout
from fastseg.store.layout import Bucket
from fastseg.store.partial import Partial
from fastseg.store.records import Records, as_texts, fact_dtype, join

# Bytes of files that are read before their pixels are written: half of a core's second
# cache, and more written at once is no faster.
READ_AT_ONCE = 2**20


class _Files(NamedTuple):
    """The image files of n items of one bucket, and what kernels find in them.

    names, starts : real paths, each with NUL behind it, and where each begins
    sizes, leads  : int64 (n,), bytes of a file, and of what stands before its pixels
    heads  : uint64 (n,), XXH3-64 of the latter
    limits : int64 (n, 2), the least and the greatest value that may be
    The rest is written by `reading.read_files` and `tone.measure_images`.
    """

    items: NDArray[np.int64]
    names: NDArray[np.uint8]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    leads: NDArray[np.int64]
    heads: NDArray[np.uint64]
    limits: NDArray[np.int64]
    places: NDArray[np.int64]
    stamps: NDArray[np.int64]
    digests: NDArray[np.uint64]
    sums: NDArray[np.int64]
    percentiles: NDArray[np.float64]
    hashes: NDArray[np.uint64]
    measured: NDArray[np.bool_]


class _Labels(NamedTuple):
    """The contours of an item, their vertices, and the facts of its mask."""

    drawn: Drawn
    points: NDArray[np.float64]
    facts: dict[str, Any]


class Bulk:
    """Makes items of a plan by the rules of a Maker; threads share it."""

    def __init__(self, maker: Maker, plan: Plan):
        self.maker, self.plan = maker, plan
        self._local = threading.local()
        # Of each header that files have in common: whether it may be, and its facts.
        commons = plan.commons
        self._plain = np.array([common.frames == 1 for common in commons], np.bool_)
        self._limits = np.array(list(map(_limits, commons)), np.int64).reshape(-1, 2)
        self._maps = np.array([each.value_map for each in commons]).reshape(-1, 2)
        spacings = [each.spacing_mm or (np.nan, np.nan) for each in commons]
        self._spacings = np.array(spacings).reshape(-1, 2)

    def make(
        self, items: Sequence[int], partial: Partial
    ) -> tuple[list[int], Records | None]:
        """Put what is plain of some items into the file.

        Returns which these are, in any order, and their records.
        """
        plan, chosen = self.plan, np.asarray(items, np.int64)
        chosen = chosen[plan.common[chosen] != NO_START]
        chosen = chosen[self._plain[plan.common[chosen]]]
        made: list[int] = []
        parts: list[Records] = []
        if system.AVAILABLE:
            buckets = plan.bucket[chosen]
            for number in np.unique(buckets).tolist():
                bucket = plan.buckets[number]
                files = self._files(bucket, chosen[buckets == number])
                done, labels, places = self._write(bucket, files, partial)
                if done:
                    made += files.items[done].tolist()
                    parts.append(self._records(bucket, files, done, labels, places))
        return made, join(parts) if parts else None

    def _write(
        self, bucket: Bucket, files: _Files, partial: Partial
    ) -> tuple[list[int], dict[int, _Labels], NDArray[np.int64]]:
        """Read, measure, draw and write, as many at a time as the caches take.

        Returns which files it was done to, the labels of those that have some, and the
        places in the store.
        """
        buffer = self._buffer(int(files.sizes.max(initial=0)) + reading.LINE)
        pixels = bucket.shape[0] * bucket.shape[1]
        like, ranks = np.empty(0, bucket.dtype), percentile_ranks(pixels)
        done: list[int] = []
        labels: dict[int, _Labels] = {}
        places: list[NDArray[np.int64]] = []
        first, count = 0, len(files.items)
        while first < count:
            stop = reading.read_files(
                *(files.names, files.starts, first, files.sizes, files.leads, buffer),
                *(files.places, files.stamps, files.digests),
            )
            tone.measure_images(
                *(buffer, files.places, files.leads, files.heads, files.limits),
                *(like, pixels, WIDEST_COUNT, ranks, first, stop),
                *(files.sums, files.percentiles, files.hashes, files.measured),
            )
            some, masks = [], []
            for j in range(first, stop):
                mask = None
                if not files.measured[j]:
                    continue
                links = self.plan.links_of(files.items[j])
                if len(links) > 1 or links[0].contour_path:
                    drawn = self.maker.read_contours(links)
                    if drawn.rejects:
                        continue  # for others to say what is wrong
                    facts: dict[str, Any] = {}
                    mask, points = self.maker.draw(drawn.contours, bucket.shape, facts)
                    labels[j] = _Labels(drawn, points, facts)
                some.append(j)
                masks.append(mask)
            if some:
                at = files.places[some] + files.leads[some]
                places.append(
                    partial.write_many(files.items[some], buffer, at.tolist(), masks)
                )
                done += some
            first = stop
        return done, labels, np.concatenate(places) if places else np.empty(0, np.int64)

    def _files(self, bucket: Bucket, items: NDArray[np.int64]) -> _Files:
        """Return the files of items, those that have a plain path and pixels."""
        plan, paths = self.plan, self.maker.paths
        size = bucket.shape[0] * bucket.shape[1] * bucket.dtype.itemsize
        items = items[plan.places[items, 1] == size + size % 2]
        names, plain = [], []
        for k, first in zip(
            items.tolist(), plan.bounds[items, 0].tolist(), strict=True
        ):
            link = plan.links[first]
            name = paths.direct(link.dicom_path, link.root)
            if name is not None:
                names.append(os.fsencode(name) + b"\0")
                plain.append(k)
        items = np.array(plain, np.int64)
        count, places = len(items), plan.places[items]
        return _Files(
            items=items,
            names=np.frombuffer(b"".join(names) or b"\0", np.uint8),
            starts=np.cumsum([0, *map(len, names)]),
            sizes=places.sum(axis=1),
            leads=places[:, 0].copy(),
            heads=plan.heads[items],
            limits=self._limits[plan.common[items]],
            places=np.empty(count, np.int64),
            stamps=np.empty((count, 4), np.int64),
            digests=np.empty(count, np.uint64),
            sums=np.empty((count, 5), np.int64),
            percentiles=np.empty((count, len(layout.PERCENTILES))),
            hashes=np.empty(count, np.uint64),
            measured=np.zeros(count, np.bool_),
        )

    def _buffer(self, size: int) -> NDArray[np.uint8]:
        """Return this thread's memory for files, of at least that size."""
        buffer: NDArray[np.uint8] | None = getattr(self._local, "buffer", None)
        if buffer is None or len(buffer) < size:
            self._local.buffer = buffer = np.empty(max(size, READ_AT_ONCE), np.uint8)
        return buffer

    def _records(
        self,
        bucket: Bucket,
        files: _Files,
        done: list[int],
        labels: dict[int, _Labels],
        places: NDArray[np.int64],
    ) -> Records:
        """Return the records of what has been written."""
        plan, items = self.plan, files.items[done]
        facts = self._facts(bucket, files, done)
        links = [plan.links[first] for first in plan.bounds[items, 0].tolist()]
        hashes, digests = plan.hashes[items].tolist(), files.digests[done].tolist()
        sizes = files.sizes[done].tolist()
        stamps = files.stamps[done].tolist()
        sources, seen, inputs = [], [], []
        rings, points = [], [NO_POINTS]
        for k, (j, link) in enumerate(zip(done, links, strict=True)):
            sources.append((within_root(link.dicom_path, link), sizes[k], digests[k]))
            seen.append(stamps[k])
            if j in labels:
                drawn, vertices, found = labels[j]
                sources += drawn.sources
                seen += drawn.stamps
                points.append(vertices)
                rings += [
                    (k, contour.bit, contour.source, len(ring))
                    for contour in drawn.contours
                    for ring in contour.rings
                ]
                for name, value in found.items():
                    facts[name][k] = np.reshape(value, facts[name].shape[1:])
                sums = [digests[k], *(source.xxh3 for source in drawn.sources)]
                inputs.append(hash_inputs(hashes[k], sums))
            else:
                inputs.append(hash_inputs(hashes[k], digests[k : k + 1]))
        facts["inputs_xxh3"] = inputs
        counts = np.ones(len(done), np.int64)
        for k, j in enumerate(done):
            if j in labels:
                counts[k] += len(labels[j].drawn.sources)
        paths, lengths, file_sums = zip(*sources, strict=True)
        return Records(
            links=plan.hashes[items],
            places=places,
            patient=as_texts(link.patient for link in links),
            series=as_texts(
                plan.commons[k].series for k in plan.common[items].tolist()
            ),
            stamped=counts,
            stamps=np.array(seen, np.int64),
            files=counts,
            path=as_texts(paths),
            size=np.array(lengths, np.int64),
            xxh3=np.array(file_sums, np.uint64),
            rings=np.array(rings, np.int64).reshape(-1, 4),
            facts=facts,
            points=np.concatenate(points),
        )

    def _facts(self, bucket: Bucket, files: _Files, done: list[int]) -> NDArray[Any]:
        """Return the facts of items without contours."""
        plan, items = self.plan, files.items[done]
        facts = np.zeros(len(items), fact_dtype(self.maker.classes))
        common, own, sums = plan.common[items], plan.own[items], files.sums[done]
        facts["instance"] = np.where(np.isnan(own[:, 0]), -1, own[:, 0])
        facts["spacing_mm"] = self._spacings[common]
        facts["slope"], facts["intercept"] = self._maps[common].T
        facts["window"] = own[:, 1:]
        for j, number in enumerate(common.tolist()):
            if plan.commons[number].photometric != "MONOCHROME2":
                start = plan[int(items[j])].start
                assert start is not None  # or it would not be plain
                facts["window"][j] = start.header.value_window or np.nan
        pixels = bucket.shape[0] * bucket.shape[1]
        totals, squares = sums[:, 2].tolist(), sums[:, 3:].tolist()
        pairs = [
            mean_and_std(pixels, total, (high << 32) + low)
            for total, (high, low) in zip(totals, squares, strict=True)
        ]
        facts["mean"], facts["std"] = np.array(pairs).T
        facts["min"], facts["max"] = sums[:, 0], sums[:, 1]
        facts["percentiles"] = files.percentiles[done]
        facts["image_xxh3"] = files.hashes[done]
        masks = layout.mask_dtype(self.maker.classes)
        facts["mask_xxh3"] = hash_of_zeros(pixels * masks.itemsize)
        facts["contour_xxh3"] = hash_of_zeros(0)
        return facts


def _limits(common: dicom.Header) -> tuple[int, int]:
    """Return the least and the greatest value that the stored bits can tell."""
    if common.dtype.kind == "u":
        return 0, 2**common.bits_stored - 1
    half = 2 ** (common.bits_stored - 1)
    return -half, half - 1
