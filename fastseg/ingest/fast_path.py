"""Items many at a time: what is plain of a share, by compiled code.

`making` is the authority on what an item is and on what is wrong with one. Here only
those are made whose files are as plain as nearly all are and just as the plan found
them; all others are left to it.
"""

import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fastseg import dicom, sources
from fastseg._kernels.contours import labels
from fastseg._kernels.files import content, system, transfer
from fastseg.ingest.item import (
    NO_POINTS,
    WIDEST_COUNT,
    ItemMaker,
    hash_inputs,
    hash_of_zeros,
    mean_and_std,
    percentile_ranks,
)
from fastseg.ingest.plan import NOT_SCANNED, Block, join_names
from fastseg.links import Link
from fastseg.raster.rings import shift_origin
from fastseg.raster.rules import scratch_rows
from fastseg.store import layout
from fastseg.store.layout import Bucket
from fastseg.store.writing.partial import Partial
from fastseg.store.writing.records import Records, as_texts, join, meta_dtype

# Pixels of masks that are drawn before they are written.
MASKS_AT_ONCE = 2**22
# Bytes for files that are read at once. Images are measured and written while they are
# in a core's second cache: twice or half as many take a twentieth longer. The vertices
# of texts have at most four times their bytes.
AT_ONCE = {"images": 2**20, "text": 2**20, "vertices": 2**22}
# Contour files that are read at once. Where they are longer than the buffer for texts,
# those without room are left to others.
TEXTS_AT_ONCE = 16


class Commons:
    """What the kernels must know of headers that files have in common, as columns."""

    def __init__(self, commons: list[dicom.Header]):
        self.plain = np.array([each.frames == 1 for each in commons], np.bool_)
        inverted = [each.photometric != "MONOCHROME2" for each in commons]
        self.inverted = np.array(inverted, np.bool_)
        self.limits = np.array(list(map(_limits, commons)), np.int64).reshape(-1, 2)
        self.maps = np.array([each.value_map for each in commons]).reshape(-1, 2)
        spacings = [each.spacing_mm or (np.nan, np.nan) for each in commons]
        self.spacings = np.array(spacings).reshape(-1, 2)


class Files(NamedTuple):
    """The files of n items of one bucket: first all images, then all contours.

    items  : which of the part they are
    links  : of each image, then of each contour
    rings  : int64 (n + 1,), item k has the contours from rings[k] to rings[k + 1]
    bits   : int64 (c,), of the contours' classes
    names, starts : real paths, each with NUL behind it, and where each begins
    sizes, leads  : int64, bytes of a file, -1 if not known, and of what stands before
        an image's pixels
    heads  : uint64 (n,), XXH3-64 of the latter
    limits : int64 (n, 2), the least and the greatest value that may be
    """

    part: Block
    commons: Commons
    items: NDArray[np.int64]
    links: list[Link]
    rings: NDArray[np.int64]
    bits: NDArray[np.int64]
    names: NDArray[np.uint8]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    leads: NDArray[np.int64]
    heads: NDArray[np.uint64]
    limits: NDArray[np.int64]


def group_plain(
    part: Block, items: Sequence[int], maker: ItemMaker
) -> Iterator[tuple[Bucket, Files]]:
    """Yield the files of what is plain of some items, by bucket."""
    common, chosen = part.scans.header_index, np.asarray(items, np.int64)
    commons = Commons(part.scans.headers)
    chosen = chosen[common[chosen] != NOT_SCANNED]
    chosen = chosen[commons.plain[common[chosen]]]
    if system.AVAILABLE:
        buckets = part.slots.bucket[chosen]
        for number in np.unique(buckets).tolist():
            bucket, some = part.buckets[number], chosen[buckets == number]
            yield bucket, _files_of(bucket, part, commons, some.tolist(), maker)


def _files_of(
    bucket: Bucket, part: Block, commons: Commons, items: list[int], maker: ItemMaker
) -> Files:
    """Return the files of those items whose links and paths are plain."""
    scans, direct = part.scans, maker.paths.direct
    bits = {name: bit for bit, name in enumerate(maker.classes)}
    size = bucket.shape[0] * bucket.shape[1] * bucket.dtype.itemsize
    plain, images, contours, rings = [], [], [], [0]
    names: tuple[list[str], list[str]] = [], []
    right = scans.pixel_spans[items, 1] == size + size % 2
    for k in itertools.compress(items, right.tolist()):
        links = part.links[k]
        link = links[0]
        name = direct(link.dicom_path, link.root)
        if name is None:
            continue
        if len(links) > 1 or link.contour_path:
            drawn = [each for each in links if each.contour_path]
            more = [direct(each.contour_path, each.root) for each in drawn]
            if not _are_plain(drawn, more):
                continue
            contours += drawn
            names[1].extend(filter(None, more))
        plain.append(k)
        images.append(link)
        names[0].append(name)
        rings.append(len(contours))
    joined, starts = join_names([*names[0], *names[1]])
    spans = scans.pixel_spans[plain]
    unknown = np.full(len(contours), content.UNKNOWN)
    return Files(
        part=part,
        commons=commons,
        items=np.array(plain, np.int64),
        links=images + contours,
        rings=np.array(rings, np.int64),
        bits=np.array([bits[link.label] for link in contours], np.int64),
        names=np.frombuffer(joined, np.uint8),
        starts=starts,
        sizes=np.concatenate([spans.sum(axis=1), unknown]),
        leads=np.concatenate([spans[:, 0], np.zeros_like(unknown)]),
        heads=scans.header_hashes[plain],
        limits=commons.limits[scans.header_index[plain]],
    )


def _are_plain(contours: list[Link], paths: list[str | None]) -> bool:
    """Return whether kernels read an image's contours that have these real paths."""
    are_pairs = all(x.format in sources.PLAIN and not x.contour_key for x in contours)
    is_one_each = len({link.label for link in contours}) == len(contours)
    return are_pairs and is_one_each and None not in paths


def _limits(common: dicom.Header) -> tuple[int, int]:
    """Return the least and the greatest value that the stored bits can tell."""
    if common.dtype.kind == "u":
        return 0, 2**common.bits_stored - 1
    half = 2 ** (common.bits_stored - 1)
    return -half, half - 1


class _Found:
    """What kernels find in n images and c contours, see where they write it."""

    def __init__(self, files: Files, classes: int):
        count, everything = len(files.items), len(files.links)
        self.offsets = np.full(everything, content.UNREAD, np.int64)
        self.stamps = np.empty((everything, 4), np.int64)
        self.digests = np.empty(everything, np.uint64)
        self.sums = np.empty((count, 5), np.int64)
        self.percentiles = np.empty((count, len(layout.PERCENTILES)))
        self.hashes = np.empty(count, np.uint64)
        self.sound = np.zeros(count, np.bool_)
        # The vertices of all contours, and where those of each end, from 0 on.
        self.points = NO_POINTS
        self.ends = np.zeros(everything - count + 1, np.int64)
        self.pixels = np.zeros((count, classes), np.int64)
        self.boxes = np.zeros((count, classes, 4), np.int64)
        self.masks = np.empty(count, np.uint64)


class FastPath:
    """Makes items of parts of a plan by the rules of a Maker; threads share it."""

    def __init__(self, maker: ItemMaker):
        self.maker = maker
        self._local = threading.local()
        self._masks = layout.mask_dtype(maker.classes)

    def make(
        self, part: Block, items: Sequence[int], partial: Partial
    ) -> tuple[list[int], Records | None]:
        """Put what is plain of some items of a part into the file.

        Returns which these are, in any order, and their records.
        """
        made: list[int] = []
        parts: list[Records] = []
        for bucket, files in group_plain(part, items, self.maker):
            found = _Found(files, len(self.maker.classes))
            done, offsets = self._make(bucket, files, found, partial)
            if done:
                made += files.items[done].tolist()
                parts.append(self._records(bucket, files, found, done, offsets))
        return made, join(parts) if parts else None

    def digests(self, part: Block) -> dict[int, int]:
        """Return `inputs_xxh3` of what is plain of a part, which may be unsound."""
        digests: dict[int, int] = {}
        for _, files in group_plain(part, range(len(part)), self.maker):
            found, count = _Found(files, len(self.maker.classes)), len(files.items)
            self._read_points(files, found)
            buffer, first = self._image_buffer(files), 0
            while first < count:
                first = content.read_files(
                    *(files.names, files.starts, first, files.sizes[:count]),
                    *(files.leads, buffer, found.offsets, found.stamps, found.digests),
                )
            ends = files.rings.tolist()
            for j, item in enumerate(files.items.tolist()):
                order = [j, *range(count + ends[j], count + ends[j + 1])]
                if (found.offsets[order] >= 0).all():
                    sums = found.digests[order].tolist()
                    digests[item] = hash_inputs(int(part.slots.links[item]), sums)
        return digests

    def _make(
        self, bucket: Bucket, files: Files, found: _Found, partial: Partial
    ) -> tuple[list[int], NDArray[np.int64]]:
        """Read, measure, draw and write images.

        Returns which items it was done to, and their offsets in the store.
        """
        count, buffer = len(files.items), self._image_buffer(files)
        slots = files.part.slots.pick(files.items)
        handle, offsets = partial.direct_output(slots)
        masks_at_once = MASKS_AT_ONCE // (bucket.shape[0] * bucket.shape[1])
        self._read_points(files, found)
        first = 0
        while first < count:
            last = min(first + max(masks_at_once, 1), count)
            stop = self._make_images(
                bucket, files, found, first, last, handle, offsets, buffer
            )
            if handle >= 0 and stop < last:
                # The disk did not take it. To write it again tells why, or is enough.
                start = int(found.offsets[stop] + files.leads[stop])
                partial.write_many(slots.pick([stop]), buffer, [start], {})
                stop += 1
            masks = self._draw(bucket, files, found, first, stop)
            some = np.flatnonzero(found.sound[first:stop]) + first
            drawn = {k: masks[j] for k, j in enumerate(some.tolist()) if j in masks}
            if handle >= 0:
                partial.write_masks(slots.pick(some), drawn)
            elif len(some):
                starts = (found.offsets[some] + files.leads[some]).tolist()
                offsets[some] = partial.write_many(
                    slots.pick(some), buffer, starts, drawn
                )
            first = stop
        done = np.flatnonzero(found.sound)
        return done.tolist(), offsets[done]

    def _make_images(
        self,
        bucket: Bucket,
        files: Files,
        found: _Found,
        first: int,
        last: int,
        handle: int,
        offsets: NDArray[np.int64],
        buffer: NDArray[np.uint8],
    ) -> int:
        """Read and measure images [first, last), or as many as there is room for.

        Those that a handle is for are written; returns where it ended.
        """
        pixels = bucket.shape[0] * bucket.shape[1]
        stop: int = transfer.transfer_images(
            *(files.names, files.starts, first, files.sizes[:last], files.leads),
            *(files.heads, files.limits, np.empty(0, bucket.dtype), pixels),
            *(WIDEST_COUNT, percentile_ranks(pixels), handle, offsets[:, 0], buffer),
            *(found.offsets, found.stamps, found.digests, found.sums),
            *(found.percentiles, found.hashes, found.sound),
        )
        return stop

    def _image_buffer(self, files: Files) -> NDArray[np.uint8]:
        largest = int(files.sizes[: len(files.items)].max(initial=0))
        return self._buffer("images", largest + content.LINE)

    def _draw(
        self, bucket: Bucket, files: Files, found: _Found, first: int, stop: int
    ) -> dict[int, NDArray[Any]]:
        """Return the masks of those items [first, stop) that have contours."""
        if files.rings[first] == files.rings[stop]:
            return {}
        some = np.flatnonzero(np.diff(files.rings[first : stop + 1])) + first
        rules = self.maker.rules
        masks = np.empty((len(some), *bucket.shape), self._masks)
        labels.draw_masks(
            *(found.points, found.ends, files.rings, files.bits, rules.shift),
            *(rules.edges_code, rules.fill == "nonzero"),
            *(scratch_rows(*bucket.shape, rules), first, stop, masks),
            *(found.pixels, found.boxes, found.masks, found.sound),
        )
        return dict(zip(some.tolist(), masks, strict=True))

    def _read_points(self, files: Files, found: _Found) -> None:
        """Read the vertices of all contours, none of a file that is odd."""
        first, stop = len(files.items), len(files.links)
        if first == stop:
            return
        text = self._buffer("text", 0)
        vertices = self._buffer("vertices", 0).view(np.float64).reshape(-1, 2)
        counts, parts = np.empty(stop, np.int64), []
        for k in range(first, stop, TEXTS_AT_ONCE):
            last = min(k + TEXTS_AT_ONCE, stop)
            content.read_files(
                *(files.names, files.starts, k, files.sizes[:last], files.leads, text),
                *(found.offsets, found.stamps, found.digests),
            )
            sizes = found.stamps[:, 0]
            labels.parse_files(text, found.offsets, sizes, k, last, vertices, counts)
            parts.append(vertices[: counts[k:last].sum()].copy())
        found.points = np.concatenate(parts)
        np.cumsum(counts[first:], out=found.ends[1:])

    def _buffer(self, name: str, size: int) -> NDArray[np.uint8]:
        """Return this thread's memory for something, of at least that size."""
        buffer: NDArray[np.uint8] | None = getattr(self._local, name, None)
        if buffer is None or len(buffer) < size:
            buffer = np.empty(max(size, AT_ONCE[name]), np.uint8)
            setattr(self._local, name, buffer)
        return buffer

    def _records(
        self,
        bucket: Bucket,
        files: Files,
        found: _Found,
        done: list[int],
        offsets: NDArray[np.int64],
    ) -> Records:
        """Return the records of what has been written."""
        part, items, count = files.part, files.items[done], len(files.items)
        hashes = part.slots.links[items]
        meta = self._meta(bucket, files, found, done)
        # Stored in the frame in which pixel centres are integers.
        points = shift_origin(found.points, self.maker.rules.origin)
        parts: list[NDArray[np.float64]] = []
        # The image's file comes first, then those of its contours.
        order: list[int] = []
        rings: list[tuple[int, int, int, int]] = []
        bits, ends, bounds = (x.tolist() for x in (files.bits, found.ends, files.rings))
        for k, j in enumerate(done):
            order.append(j)
            first, stop = bounds[j], bounds[j + 1]
            if first < stop:
                order += range(count + first, count + stop)
                rings += [
                    (k, bits[ring], ring - first + 1, ends[ring + 1] - ends[ring])
                    for ring in range(first, stop)
                ]
                parts.append(points[ends[first] : ends[stop]])
                meta["labelled"][k] = sum(1 << bit for bit in bits[first:stop])
                meta["contour_xxh3"][k] = xxh3_64_intdigest(parts[-1].data)
        counts, sums = 1 + np.diff(files.rings)[done], found.digests[order]
        meta["inputs_xxh3"] = [
            hash_inputs(digest, sums[end - size : end].tolist())
            for digest, end, size in zip(
                hashes.tolist(),
                np.cumsum(counts).tolist(),
                counts.tolist(),
                strict=True,
            )
        ]
        links = [files.links[j] for j in order]
        within = self.maker.paths.within_root
        paths = [
            within(link.dicom_path if j < count else link.contour_path, link.root)
            for j, link in zip(order, links, strict=True)
        ]
        commons, common = part.scans.headers, part.scans.header_index[items]
        series = [commons[k].series for k in common.tolist()]
        return Records(
            links=hashes,
            offsets=offsets,
            patient=as_texts(files.links[j].patient for j in done),
            series=as_texts(series),
            stamp_counts=counts,
            stamps=found.stamps[order],
            file_counts=counts,
            path=as_texts(paths),
            size=found.stamps[order, 0],
            xxh3=sums,
            rings=np.array(rings, np.int64).reshape(-1, 4),
            meta=meta,
            points=np.concatenate([NO_POINTS, *parts]),
        )

    def _meta(
        self, bucket: Bucket, files: Files, found: _Found, done: list[int]
    ) -> NDArray[Any]:
        """Return the facts of items but those of their contours and inputs."""
        part, commons, items = files.part, files.commons, files.items[done]
        meta = np.zeros(len(items), meta_dtype(self.maker.classes))
        common, own = part.scans.header_index[items], part.scans.per_file[items]
        sums = found.sums[done]
        meta["instance"] = np.where(np.isnan(own[:, 0]), -1, own[:, 0])
        meta["spacing_mm"] = commons.spacings[common]
        meta["slope"], meta["intercept"] = commons.maps[common].T
        meta["window"] = own[:, 1:]
        for k in np.flatnonzero(commons.inverted[common]).tolist():
            start = part[int(items[k])].start
            assert start is not None  # or it would not be plain
            meta["window"][k] = start.header.value_window or np.nan
        pixels = bucket.shape[0] * bucket.shape[1]
        totals, squares = sums[:, 2].tolist(), sums[:, 3:].tolist()
        moments = [
            mean_and_std(pixels, total, (high << 32) + low)
            for total, (high, low) in zip(totals, squares, strict=True)
        ]
        meta["mean"], meta["std"] = np.array(moments).T
        meta["min"], meta["max"] = sums[:, 0], sums[:, 1]
        meta["percentiles"] = found.percentiles[done]
        meta["image_xxh3"] = found.hashes[done]
        meta["pixels"], meta["bbox"] = found.pixels[done], found.boxes[done]
        drawn = np.diff(files.rings)[done] > 0
        empty = np.uint64(hash_of_zeros(pixels * self._masks.itemsize))
        meta["mask_xxh3"] = np.where(drawn, found.masks[done], empty)
        meta["contour_xxh3"] = hash_of_zeros(0)
        return meta
