"""The items of a block: from files to pixels in the store and records.

    read ──> contours ──> decode ──> draw ──> records

A stage works on all items of the block that are still to do. An item that fails is
marked in the block with its rejects, and later stages skip it.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import chain, islice, pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fastseg import remote
from fastseg._kernels.contours import labels
from fastseg._kernels.files import content, system
from fastseg._kernels.images import statistics
from fastseg._kernels.images.statistics import HistogramRows, LabelledImages
from fastseg.errors import DicomError, LinkError
from fastseg.file_batches import FileBatch
from fastseg.files import stamps_of
from fastseg.ingest.annotations import Annotations, BlockFiles, Contour
from fastseg.ingest.block import Block, hash_links, number_files
from fastseg.ingest.images import (
    BlockImages,
    DecodedImage,
    ImageReader,
    StartedImage,
    write_columns,
)
from fastseg.links import Link
from fastseg.paths import Paths
from fastseg.raster.rings import shift_origin, sort_rings
from fastseg.raster.rules import Rules
from fastseg.store import layout
from fastseg.store.writing.older_store import OlderStore
from fastseg.store.writing.partial import Partial, Resumable
from fastseg.store.writing.pixel_writers import PixelWriter
from fastseg.store.writing.records import Records, as_texts, meta_dtype
from fastseg.tables import reason_of
from fastseg.threads import keep_ahead

# Pixels that are decoded by Python before they are measured and written.
PIXELS_AT_ONCE = 2**22
# Pixels of the images that are being decoded or wait for it, beyond one image.
PIXELS_IN_FLIGHT = 2**26
# Pixels of the masks that are drawn before any is written.
MASK_PIXELS_AT_ONCE = 2**21
# Bytes of the buffer into which files are read to be hashed.
HASHED_AT_ONCE = 2**21
NO_POINTS = np.empty((0, 2))


class Rings(NamedTuple):
    """The rings of n items as columns; those of one item, then of one group follow.

    columns : int64 (r, 5), as `Records.rings`
    groups  : int64 (r,), of each ring as its reader gave it, whatever `fill` is
    bounds  : int64 (n + 1,), item k has the rings bounds[k] to bounds[k + 1]
    points  : float64 (p, 2), (x, y) in pixels as in their files
    """

    columns: NDArray[np.int64]
    groups: NDArray[np.int64]
    bounds: NDArray[np.int64]
    points: NDArray[np.float64]

    def ends(self) -> NDArray[np.int64]:
        """Return int64 (r + 1,): ring k has the points from ends[k] to ends[k + 1]."""
        return np.concatenate([[0], np.cumsum(self.columns[:, -1])])


class BuiltItems(NamedTuple):
    """The items of a block that are done.

    items     : int64 (n,), indices in the block
    records   : of these
    is_reused : bool (n,), whether the older store has the same
    """

    items: NDArray[np.int64]
    records: Records
    is_reused: NDArray[np.bool_]


class ItemBuilder:
    """Builds the items of blocks. Threads share it; it never changes."""

    def __init__(
        self,
        paths: Paths,
        classes: Sequence[str],
        rules: Rules,
        images: ImageReader,
    ):
        self.classes = tuple(classes)
        self._paths = paths
        self._rules = rules
        self._bits = {name: bit for bit, name in enumerate(classes)}
        self._mask_dtype = layout.mask_dtype(classes)
        self._images = images
        self._annotations = Annotations(paths)

    def resume(self, block: Block, partial: Partial, resumable: Resumable) -> list[int]:
        """Return which of the resumable items are still valid: indices in `resumable`.

        Their files have not changed, and their pixels have the checksums.
        """
        items = resumable.items.tolist()
        paths: list[list[str]] = []
        for k in items:
            try:
                paths.append(self._real_paths(block.links[k]))
            except (LinkError, OSError):
                paths.append([])
        found = iter(stamps_of(list(chain.from_iterable(paths))))
        valid = []
        for j, k in enumerate(items):
            stamps = list(islice(found, len(paths[j])))
            if not stamps or any(isinstance(stamp, OSError) for stamp in stamps):
                continue
            same = np.array_equal(resumable.records.stamps_of(j), np.array(stamps))
            if same and partial.resume(block.slots, resumable, j):
                valid.append(j)
                block.is_todo[k] = False
        return valid

    def _real_paths(self, links: Sequence[Link]) -> list[str]:
        """Return the paths of all files of an image: its own, then the contours'."""
        files = (links[0].dicom_path, links[0].root), *number_files(links)
        return [self._paths.resolve(*file) for file in files]

    def input_hashes(self, block: Block) -> tuple[list[int | None], NDArray[np.int64]]:
        """Return `inputs_xxh3` of each item if all its files can be used; else None.

        Also returns the stamps of the images, int64 (n, 4), all -1 where unknown.
        """
        files = [
            [
                (links[0].dicom_path, links[0].root),
                *((x.contour_path, x.root) for x in links if x.contour_path),
            ]
            for links in block.links
        ]
        # Several items may name one file, such as all frames of a large one.
        different = list(dict.fromkeys(chain.from_iterable(files)))
        hashed, stamps = self._hash_files(different)
        digests = dict(zip(different, hashed, strict=True))
        numbers = {file: k for k, file in enumerate(different)}
        results: list[int | None] = []
        for named, links_hash in zip(files, block.slots.links.tolist(), strict=True):
            usable = [x for x in map(digests.get, named) if x is not None]
            is_complete = len(usable) == len(named)
            results.append(hash_inputs(links_hash, usable) if is_complete else None)
        return results, stamps[[numbers[image] for image, *_ in files]]

    def _hash_files(
        self, files: Sequence[tuple[str, str]]
    ) -> tuple[list[int | None], NDArray[np.int64]]:
        """Return the XXH3-64 of files and their stamps; None, -1 for unreadable ones.

        files : path and root of each
        """
        count = len(files)
        offsets = np.full(count, content.UNREAD)
        hashes = np.empty(count, np.uint64)
        stamps = np.full((count, 4), -1)
        if system.AVAILABLE:
            batch = FileBatch(self._paths.direct(*file) for file in files)
            buffer = np.empty(HASHED_AT_ONCE, np.uint8)
            first = 0
            while first < count:
                first = batch.read(
                    first, content.WHOLE, 0, buffer, offsets, stamps, hashes
                )
        digests: list[int | None] = [*hashes.tolist()]
        for k in np.flatnonzero(offsets < 0).tolist():
            stamps[k] = -1
            try:
                digests[k], stamps[k] = self._images.hash_file(*files[k])
            except (LinkError, OSError):
                digests[k] = None
        return digests, stamps

    @remote.keeping()
    def build(
        self, block: Block, pixels: PixelWriter | None, older: OlderStore | None
    ) -> BuiltItems:
        """Build all items of a block that are to do, and write their pixels.

        pixels : writes them; None to write nothing
        older  : a store with the same options, whose images need not be decoded again

        `block.rejects` says afterwards why some items are not done.
        """
        files = self._annotations.read(block)
        images = self._images.read(block, pixels)
        self._annotations.read_many(block, files, images.scans)
        contours: dict[int, list[Contour]] = {}
        hashes: dict[int, int] = {}
        decoded: dict[int, DecodedImage] = {}
        is_decoded = np.zeros(len(block), np.bool_)
        size = prod(block.bucket.shape)
        most = min(2 * self._images.decoders.size, PIXELS_IN_FLIGHT // size)
        started = self._start_images(
            block, images, files, older, contours, hashes, is_decoded
        )
        for k, image in keep_ahead(started, most):
            try:
                decoded[k] = image.decode()
            except DicomError as exc:
                block.reject(k, reason_of(exc, block.links[k][0].dicom_path))
            if len(decoded) * size >= PIXELS_AT_ONCE:
                self._images.add(block, images, decoded, pixels)
                decoded = {}
        self._images.add(block, images, decoded, pixels)
        items = np.array(block.todo(), np.int64)
        block.is_todo[items] = False
        digests = [hashes[k] for k in items.tolist()]
        is_reused = np.zeros(len(items), np.bool_)
        if older is not None and len(items):
            is_reused = (older.find(digests) >= 0) & ~is_decoded[items]
        meta = np.zeros(len(items), meta_dtype(self.classes))
        write_columns(block, images, items, meta)
        meta["inputs_xxh3"] = digests
        rings = self._join_rings(items, contours, meta)
        offsets = np.zeros((len(items), 4), np.int64)
        offsets[:, ::2] = images.offsets[items]
        self._compare_rules(block, rings, meta)
        histograms = self._draw(block, items, images, rings, meta, pixels, offsets)
        records = self._records(
            block, items, images, contours, rings, meta, offsets, histograms
        )
        return BuiltItems(items, records, is_reused)

    def _start_images(
        self,
        block: Block,
        images: BlockImages,
        files: BlockFiles,
        older: OlderStore | None,
        contours: dict[int, list[Contour]],
        hashes: dict[int, int],
        is_decoded: NDArray[np.bool_],
    ) -> Iterator[tuple[int, StartedImage]]:
        """Yield the images that kernels have not read, their decoding started.

        Also reads the contours and the hash of the inputs of each image of the block,
        and notes whether it has to be decoded.
        """
        for k in block.todo():
            try:
                image = None if images.is_read[k] else self._images.open(block, k)
                if image:
                    header = partial(image.file.header_of, block.links[k][0].frame)
                    digest = image.xxh3
                else:
                    header = partial(images.scans.header_of, k)
                    digest = int(images.file_hashes[k])
                contours[k] = self._annotations.contours(block, k, files, header)
                if not block.is_todo[k]:
                    continue
                hashes[k] = self._hash_inputs(block, k, digest, contours[k])
                if image is None:
                    continue
                values = older.image(hashes[k]) if older is not None else None
                is_decoded[k] = values is None
                started = self._images.start(block, k, image, values)
            except (DicomError, LinkError, ImportError, OSError) as exc:
                block.reject(k, reason_of(exc, block.links[k][0].dicom_path))
            else:
                yield k, started

    def _hash_inputs(
        self, block: Block, k: int, digest: int, contours: list[Contour]
    ) -> int:
        """Return the hash of the links and files of an item that are used.

        digest : XXH3-64 of the image's file
        """
        links_hash = int(block.slots.links[k])
        if k in block.rejects:
            used = [contour.link for contour in contours]
            if not used:
                image = block.links[k][0]
                used = [image._replace(contour_path="", label="", contour_key="")]
            links_hash = hash_links(used, block.bucket.name, self._paths)
        return hash_inputs(links_hash, [digest, *(x.xxh3 for x in contours)])

    def _join_rings(
        self,
        items: NDArray[np.int64],
        contours: Mapping[int, list[Contour]],
        meta: NDArray[Any],
    ) -> Rings:
        """Return the rings of items as columns, and write their columns of `meta`."""
        columns: list[tuple[int, int, int, int, int]] = []
        groups: list[int] = []
        bounds = [0]
        points = [NO_POINTS]
        is_union = self._rules.fill == "union"
        for j, k in enumerate(items.tolist()):
            if not contours[k]:
                bounds.append(len(columns))
                continue
            labelled = 0
            sources = number_files(contour.link for contour in contours[k])
            numbers: dict[int, int] = {}  # of the next group of each class
            for contour in contours[k]:
                link = contour.link
                source = sources[link.contour_path, link.root]
                bit = self._bits[link.label]
                labelled |= 1 << bit
                number = numbers.get(bit, 0)
                for group in contour.groups:
                    own = -1 - number if group.is_xor else number
                    for ring in group.rings:
                        signed = -1 - number if group.is_xor else number
                        columns.append((j, bit, source, signed, len(ring)))
                        groups.append(own)
                        points.append(ring)
                        number += is_union and not group.is_xor
                    number += 1
                numbers[bit] = number
            meta["labelled"][j] = labelled
            bounds.append(len(columns))
        # A store has vertices in the frame in which pixel centres are integers.
        rings = Rings(
            np.array(columns, np.int64).reshape(-1, 5),
            np.array(groups, np.int64),
            np.array(bounds),
            np.concatenate(points),
        )
        stored = shift_origin(rings.points, self._rules.origin)
        ends = rings.ends()[rings.bounds].tolist()
        meta["contour_xxh3"] = [
            xxh3_64_intdigest(stored[start:stop].data) for start, stop in pairwise(ends)
        ]
        return rings

    def _compare_rules(self, block: Block, rings: Rings, meta: NDArray[Any]) -> None:
        """Find out which masks depend on `fill`: write their column of `meta`."""
        pair, ring, counts = find_several(rings.columns[:, 0], rings.columns[:, 1])
        if not len(pair):
            return
        shape = block.bucket.shape
        points, offsets = sort_rings(rings.points, rings.ends(), ring)
        several = labels.ImageRings(
            points,
            offsets,
            np.concatenate([[0], np.cumsum(counts)]),
            rings.columns[ring, 1],
            rings.groups[ring],
        )
        differ = np.empty(len(pair), np.bool_)
        rule = replace(self._rules, fill="nonzero").kernel_rule(*shape)
        labels.compare_rules(several, self._rules.shift, rule, *shape, differ)
        bits = meta["rule_dependent"]
        for item, bit in pair[differ].tolist():
            bits[item] |= bits.dtype.type(1 << bit)

    def _draw(
        self,
        block: Block,
        items: NDArray[np.int64],
        images: BlockImages,
        rings: Rings,
        meta: NDArray[Any],
        pixels: PixelWriter | None,
        offsets: NDArray[np.int64],
    ) -> HistogramRows:
        """Draw, measure and write the masks of items, if any pixels are written.

        offsets : as in Records; those of the masks are written

        Returns the histograms of the items; none if nothing is written.
        """
        if pixels is None:
            return join_histograms([], meta)
        shape = block.bucket.shape
        size = prod(shape) * self._mask_dtype.itemsize
        counts = np.zeros((len(items), len(self.classes)), np.int64)
        boxes = np.zeros((*counts.shape, 4), np.int64)
        hashes = np.zeros(len(items), np.uint64)
        is_empty = np.diff(rings.bounds) == 0
        if is_empty.any():
            hashes[is_empty] = hash_of_zeros(size)
        is_valid = np.ones(len(items), np.bool_)
        rules = self._rules
        columns = np.ascontiguousarray(rings.columns.T)
        image_rings = labels.ImageRings(
            rings.points, rings.ends(), rings.bounds, columns[1], columns[3]
        )
        results = labels.MaskResults(hashes, is_valid)
        rule = rules.kernel_rule(*shape)
        histograms = []
        step = max(MASK_PIXELS_AT_ONCE // prod(shape), 1)
        ring_counts = np.diff(rings.bounds)
        # Used again and again: it is in a core's caches, and in memory that is mapped.
        masks = np.empty((min(step, len(items)), *shape), self._mask_dtype)
        for first in range(0, len(items), step):
            stop = min(first + step, len(items))
            some = slice(first, stop)
            drawn = np.flatnonzero(ring_counts[some])
            values = np.empty(0, block.bucket.dtype)
            starts = np.zeros(stop - first, np.int64)
            numbers = np.full(stop - first, -1)
            if len(drawn):
                labels.draw_masks(
                    image_rings, rules.shift, rule, first, stop, masks, results
                )
                where = offsets[first + drawn, ::2]
                values, starts[drawn] = pixels.view_images(block.bucket, where)
                numbers[drawn] = np.arange(len(drawn))
            slots = block.slots.pick(items[some])
            by_item = dict(zip(drawn.tolist(), masks, strict=False))
            offsets[some, 1::2] = pixels.write_masks(slots, by_item)
            labelled = LabelledImages(
                *(values, starts, masks, numbers, counts[some], boxes[some])
            )
            most = np.minimum(ring_counts[some], len(self.classes))
            rows = count_classes(labelled, images.measures, items[some], most)
            rows.numbers[:, 0] += first
            histograms.append(rows)
        assert is_valid.all(), "a ring was not checked"
        meta["pixels"] = counts
        meta["bbox"] = boxes
        meta["mask_xxh3"] = hashes
        return join_histograms(histograms, meta)

    def _records(
        self,
        block: Block,
        items: NDArray[np.int64],
        images: BlockImages,
        contours: Mapping[int, list[Contour]],
        rings: Rings,
        meta: NDArray[Any],
        offsets: NDArray[np.int64],
        histograms: HistogramRows,
    ) -> Records:
        """Return the records of the items that are done."""
        within = self._paths.within_root
        paths: list[str] = []
        files: list[tuple[tuple[int, ...], int]] = []
        file_counts = []
        links_hashes = block.slots.links[items]
        stamps = images.stamps[items].tolist()
        digests = images.file_hashes[items].tolist()
        for j, k in enumerate(items.tolist()):
            link = block.links[k][0]
            paths.append(within(link.dicom_path, link.root))
            files.append((stamps[j], digests[j]))
            file_counts.append(1)
            if contours[k]:
                read = {(x.link.contour_path, x.link.root): x for x in contours[k]}
                for file, contour in read.items():
                    paths.append(within(*file))
                    files.append((contour.stamp, contour.xxh3))
                file_counts[-1] += len(read)
            if k in block.rejects:
                # The next build reads the item again, so that it reports the rejects
                # again.
                links_hashes[j] = 0
        stamp_rows = np.array([stamp for stamp, _ in files], np.int64).reshape(-1, 4)
        scans = images.scans
        index = scans.header_index[items]
        return Records(
            links=links_hashes,
            offsets=offsets,
            patient=as_texts(block.links[k][0].patient for k in items.tolist()),
            series=as_texts(header.series for header in scans.headers)[index],
            modality=as_texts(header.modality for header in scans.headers)[index],
            sop_instance=scans.sop_instances[items],
            frame_of_reference=scans.frames_of_reference[items],
            file_counts=np.array(file_counts, "<i8"),
            stamps=stamp_rows,
            path=as_texts(paths),
            size=stamp_rows[:, 0].copy(),
            xxh3=np.array([digest for _, digest in files], "<u8"),
            rings=rings.columns,
            meta=meta,
            points=shift_origin(rings.points, self._rules.origin),
            histograms=histograms.numbers,
            moments=histograms.moments,
            codes=histograms.codes,
        )


def count_classes(
    images: LabelledImages,
    measures: statistics.Measures,
    items: NDArray[np.int64],
    most: NDArray[np.int64],
) -> HistogramRows:
    """Measure the classes of images; return their histograms and those of the images.

    measures, items : of a block, and the indices of the images in it
    most            : int64 (n,), how many classes may have pixels, at most
    """
    kinds = int(most.sum() + np.count_nonzero(most))  # any class
    # A bin takes at most a code for its count and one for those before it.
    area = prod(images.masks.shape[1:])
    largest = min(2 * statistics.MAX_CODE * area, statistics.MAX_CODES)
    size = int(measures.code_sizes[items].sum()) + kinds * largest
    rows = HistogramRows(
        np.empty((len(items) + kinds, statistics.HISTOGRAM_NUMBERS), np.int64),
        np.empty((len(items) + kinds, 2)),
        np.empty(size, np.uint8),
    )
    count, end = statistics.write_histograms(images, measures, items, rows)
    return HistogramRows(
        rows.numbers[:count], rows.moments[:count], rows.codes[:end].copy()
    )


def join_histograms(
    histograms: Sequence[HistogramRows], meta: NDArray[Any]
) -> HistogramRows:
    """Return the histograms of all items of a block as one, with those of its images.

    meta : of the items, with mean and std
    """
    none = HistogramRows(
        np.empty((0, statistics.HISTOGRAM_NUMBERS), np.int64),
        np.empty((0, 2)),
        np.empty(0, np.uint8),
    )
    rows = HistogramRows(*map(np.concatenate, zip(none, *histograms, strict=True)))
    is_image = rows.numbers[:, 1] == statistics.WHOLE_IMAGE
    if histograms:
        rows.moments[is_image] = np.column_stack([meta["mean"], meta["std"]])
    return rows


def find_several(
    item: NDArray[np.int64], bit: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Find the classes that have several rings on an image.

    item, bit : int64 (r,), the item and the bit of the class of each ring

    Returns item and bit of each such pair, int64 (m, 2), sorted; the indices of their
    rings, pair by pair, in their order; and how many rings each pair has, int64 (m,).
    """
    key = item * layout.MAX_CLASSES + bit
    keys, index, counts = np.unique(key, return_inverse=True, return_counts=True)
    rings = np.flatnonzero(counts[index] > 1)
    rings = rings[np.argsort(key[rings], kind="stable")]
    several = counts > 1
    pairs = np.column_stack(np.divmod(keys[several], layout.MAX_CLASSES))
    return pairs, rings, counts[several]


def hash_inputs(links_hash: int, file_hashes: Sequence[int]) -> int:
    """Return the XXH3-64 of the hash of an item's links and those of its files."""
    return xxh3_64_intdigest(
        struct.pack(f">Q{len(file_hashes)}Q", links_hash, *file_hashes)
    )


@cache
def hash_of_zeros(size: int) -> int:
    """Return the XXH3-64 of `size` zero bytes."""
    return xxh3_64_intdigest(bytes(size))
