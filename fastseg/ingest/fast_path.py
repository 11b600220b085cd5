"""The fast path: builds many items in one call of compiled code.

It takes only the items of a block whose links and files are as the kernels expect them
and unchanged since the plan. It reports no errors: an item that it does not take goes
to `item`, which alone decides what is wrong with it.
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
    ItemBuilder,
    hash_inputs,
    hash_of_zeros,
    mean_and_std,
    percentile_ranks,
)
from fastseg.ingest.plan import NOT_SCANNED, Block, join_paths
from fastseg.links import Link
from fastseg.raster.rings import shift_origin
from fastseg.raster.rules import scratch_rows
from fastseg.store import layout
from fastseg.store.layout import Bucket
from fastseg.store.writing.partial import Partial
from fastseg.store.writing.records import Records, as_texts, join, meta_dtype

# Pixels of the masks that are drawn before any is written.
MASK_PIXELS_AT_ONCE = 2**22
# Bytes of each thread's buffers. Images are measured and written while they are in a
# core's second cache: with a buffer twice or half as large, a build takes a twentieth
# longer. The vertices of a text take at most four times its bytes.
BUFFER_BYTES = {"images": 2**20, "text": 2**20, "vertices": 2**22}
# Contour files that one call reads. A file that does not fit into what these leave of
# the text buffer goes to `item`.
TEXTS_AT_ONCE = 16


class SharedHeaders:
    """The fields of a block's shared headers that the fast path needs, as columns.

    is_single    : bool (h,), whether a file has one frame
    is_inverted  : bool (h,), whether low values are white
    value_limits : int64 (h, 2), the least and the greatest value that may be stored
    value_maps   : float64 (h, 2), slope and intercept
    spacings     : float64 (h, 2), mm between rows and between columns; NaN if absent
    """

    def __init__(self, headers: list[dicom.Header]):
        self.is_single = np.array([header.frames == 1 for header in headers], np.bool_)
        inverted = [header.photometric != "MONOCHROME2" for header in headers]
        self.is_inverted = np.array(inverted, np.bool_)
        limits = list(map(_value_limits, headers))
        self.value_limits = np.array(limits, np.int64).reshape(-1, 2)
        value_maps = [header.value_map for header in headers]
        self.value_maps = np.array(value_maps).reshape(-1, 2)
        spacings = [header.spacing_mm or (np.nan, np.nan) for header in headers]
        self.spacings = np.array(spacings).reshape(-1, 2)


def _value_limits(header: dicom.Header) -> tuple[int, int]:
    """Return the least and the greatest value that the stored bits can hold."""
    if header.dtype.kind == "u":
        return 0, 2**header.bits_stored - 1
    half = 2 ** (header.bits_stored - 1)
    return -half, half - 1


class Files(NamedTuple):
    """The files of n items of one bucket: first all n images, then all c contours.

    block  : that holds the items
    shared : the shared headers of the block
    items  : int64 (n,), indices of the items in the block
    links  : of each image, then of each contour
    contour_bounds : int64 (n + 1,), item k has the contours from contour_bounds[k] to
        contour_bounds[k + 1]
    class_bits     : int64 (c,), the bit of each contour's class in the mask
    paths          : uint8, real paths, a NUL after each
    path_offsets   : int64 (n + c + 1,), where in `paths` each begins, then the end
    sizes          : int64 (n + c,), bytes of each file, UNKNOWN for contours
    pixel_offsets  : int64 (n + c,), offset of the pixels in each image's file, 0 for
        contours
    header_hashes  : uint64 (n,), XXH3-64 of an image file's bytes before its pixels
    value_limits   : int64 (n, 2), the least and the greatest value that may be stored
    """

    block: Block
    shared: SharedHeaders
    items: NDArray[np.int64]
    links: list[Link]
    contour_bounds: NDArray[np.int64]
    class_bits: NDArray[np.int64]
    paths: NDArray[np.uint8]
    path_offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    pixel_offsets: NDArray[np.int64]
    header_hashes: NDArray[np.uint64]
    value_limits: NDArray[np.int64]


def group_files(
    block: Block, items: Sequence[int], item_builder: ItemBuilder
) -> Iterator[tuple[Bucket, Files]]:
    """Yield the files of some items of a block, by bucket.

    It leaves out items whose headers, links or paths kernels cannot handle.
    """
    header_index = block.scans.header_index
    chosen = np.asarray(items, np.int64)
    shared = SharedHeaders(block.scans.headers)
    chosen = chosen[header_index[chosen] != NOT_SCANNED]
    chosen = chosen[shared.is_single[header_index[chosen]]]
    if system.AVAILABLE:
        numbers = block.slots.bucket[chosen]
        for number in np.unique(numbers).tolist():
            bucket = block.buckets[number]
            members = chosen[numbers == number].tolist()
            yield bucket, _files_of(bucket, block, shared, members, item_builder)


def _files_of(
    bucket: Bucket,
    block: Block,
    shared: SharedHeaders,
    items: list[int],
    item_builder: ItemBuilder,
) -> Files:
    """Return the files of those items whose links and paths the fast path takes."""
    scans = block.scans
    direct = item_builder.paths.direct
    bits = {name: bit for bit, name in enumerate(item_builder.classes)}
    size = bucket.shape[0] * bucket.shape[1] * bucket.dtype.itemsize
    usable: list[int] = []
    images: list[Link] = []
    contours: list[Link] = []
    image_paths: list[str] = []
    contour_paths: list[str] = []
    contour_bounds = [0]
    has_expected_size = scans.pixel_spans[items, 1] == size + size % 2
    for k in itertools.compress(items, has_expected_size.tolist()):
        links = block.links[k]
        link = links[0]
        path = direct(link.dicom_path, link.root)
        if path is None:
            continue
        if len(links) > 1 or link.contour_path:
            with_contour = [each for each in links if each.contour_path]
            more = [direct(each.contour_path, each.root) for each in with_contour]
            if not _can_parse(with_contour, more):
                continue
            contours += with_contour
            contour_paths.extend(filter(None, more))
        usable.append(k)
        images.append(link)
        image_paths.append(path)
        contour_bounds.append(len(contours))
    joined, path_offsets = join_paths([*image_paths, *contour_paths])
    spans = scans.pixel_spans[usable]
    unknown = np.full(len(contours), content.UNKNOWN)
    return Files(
        block=block,
        shared=shared,
        items=np.array(usable, np.int64),
        links=images + contours,
        contour_bounds=np.array(contour_bounds, np.int64),
        class_bits=np.array([bits[link.label] for link in contours], np.int64),
        paths=np.frombuffer(joined, np.uint8),
        path_offsets=path_offsets,
        sizes=np.concatenate([spans.sum(axis=1), unknown]),
        pixel_offsets=np.concatenate([spans[:, 0], np.zeros_like(unknown)]),
        header_hashes=scans.header_hashes[usable],
        value_limits=shared.value_limits[scans.header_index[usable]],
    )


def _can_parse(contours: list[Link], paths: list[str | None]) -> bool:
    """Return whether kernels can parse an image's contours.

    paths : their real paths, None where `Paths.resolve` has to find it
    """
    point_lists = {x.format for x in sources.SOURCES.values() if x.is_point_list}
    are_pairs = all(
        sources.format_of(x) in point_lists and not x.contour_key for x in contours
    )
    is_one_each = len({link.label for link in contours}) == len(contours)
    return are_pairs and is_one_each and None not in paths


class _Results:
    """The arrays into which kernels write what they find in n images and c contours.

    offsets     : int64 (n + c,), where in the buffer each file begins; UNREAD if it
        was not read or is not as expected
    stamps      : int64 (n + c, 4), as `files.Stamp`
    file_hashes : uint64 (n + c,), XXH3-64 of the content of each file
    sums        : int64 (n, 5), least, greatest, and what `sum_values` returns
    percentiles : float64 (n, q)
    pixel_hashes, mask_hashes : uint64 (n,), XXH3-64
    is_valid    : bool (n,), whether the item is done
    points      : float64 (p, 2), the vertices of all contours, as in their files
    ring_ends   : int64 (c + 1,), where in `points` the vertices of each contour end,
        after a leading 0
    pixels      : int64 (n, K), of each class
    boxes       : int64 (n, K, 4), as of `measure_classes`
    """

    def __init__(self, files: Files, classes: int):
        images = len(files.items)
        count = len(files.links)
        self.offsets = np.full(count, content.UNREAD, np.int64)
        self.stamps = np.empty((count, 4), np.int64)
        self.file_hashes = np.empty(count, np.uint64)
        self.sums = np.empty((images, 5), np.int64)
        self.percentiles = np.empty((images, len(layout.PERCENTILES)))
        self.pixel_hashes = np.empty(images, np.uint64)
        self.mask_hashes = np.empty(images, np.uint64)
        self.is_valid = np.zeros(images, np.bool_)
        self.points = NO_POINTS
        self.ring_ends = np.zeros(count - images + 1, np.int64)
        self.pixels = np.zeros((images, classes), np.int64)
        self.boxes = np.zeros((images, classes, 4), np.int64)


class FastPath:
    """Builds items of blocks as an ItemBuilder would. Threads share it."""

    def __init__(self, item_builder: ItemBuilder):
        self.item_builder = item_builder
        self._local = threading.local()
        self._mask_dtype = layout.mask_dtype(item_builder.classes)

    def build_items(
        self, block: Block, items: Sequence[int], partial: Partial
    ) -> tuple[list[int], Records | None]:
        """Build those of some items of a block that it can, and write their pixels.

        Returns the indices of these, in any order, and their records.
        """
        done: list[int] = []
        records: list[Records] = []
        for bucket, files in group_files(block, items, self.item_builder):
            results = _Results(files, len(self.item_builder.classes))
            chosen, offsets = self._build_bucket(bucket, files, results, partial)
            if chosen:
                done += files.items[chosen].tolist()
                records.append(self._records(bucket, files, results, chosen, offsets))
        return done, join(records) if records else None

    def inputs_hashes(self, block: Block) -> dict[int, int]:
        """Return `inputs_xxh3` of the items of a block that it can read.

        It only hashes the files: an item may still be one that cannot be built.
        """
        hashes: dict[int, int] = {}
        for _, files in group_files(block, range(len(block)), self.item_builder):
            results = _Results(files, len(self.item_builder.classes))
            count = len(files.items)
            self._read_points(files, results)
            buffer = self._image_buffer(files)
            first = 0
            while first < count:
                first = content.read_files(
                    *(files.paths, files.path_offsets, first, files.sizes[:count]),
                    *(files.pixel_offsets, buffer, results.offsets, results.stamps),
                    results.file_hashes,
                )
            bounds = files.contour_bounds.tolist()
            for j, item in enumerate(files.items.tolist()):
                order = [j, *range(count + bounds[j], count + bounds[j + 1])]
                if (results.offsets[order] >= 0).all():
                    links_hash = int(block.slots.links[item])
                    file_hashes = results.file_hashes[order].tolist()
                    hashes[item] = hash_inputs(links_hash, file_hashes)
        return hashes

    def _build_bucket(
        self, bucket: Bucket, files: Files, results: _Results, partial: Partial
    ) -> tuple[list[int], NDArray[np.int64]]:
        """Read, measure, draw and write images.

        Returns which of the n items are done, and their offsets in the store.
        """
        count = len(files.items)
        buffer = self._image_buffer(files)
        slots = files.block.slots.pick(files.items)
        handle, offsets = partial.direct_output(slots)
        masks_at_once = MASK_PIXELS_AT_ONCE // (bucket.shape[0] * bucket.shape[1])
        self._read_points(files, results)
        first = 0
        while first < count:
            last = min(first + max(masks_at_once, 1), count)
            stop = self._transfer_images(
                bucket, files, results, first, last, handle, offsets, buffer
            )
            if handle >= 0 and stop < last:
                # The kernel could not write this image. To write it from Python
                # raises the reason, or succeeds.
                start = int(results.offsets[stop] + files.pixel_offsets[stop])
                partial.write_many(slots.pick([stop]), buffer, [start], {})
                stop += 1
            masks = self._draw(bucket, files, results, first, stop)
            valid = np.flatnonzero(results.is_valid[first:stop]) + first
            drawn = {k: masks[j] for k, j in enumerate(valid.tolist()) if j in masks}
            if handle >= 0:
                partial.write_masks(slots.pick(valid), drawn)
            elif len(valid):
                starts = (results.offsets[valid] + files.pixel_offsets[valid]).tolist()
                offsets[valid] = partial.write_many(
                    slots.pick(valid), buffer, starts, drawn
                )
            first = stop
        done = np.flatnonzero(results.is_valid)
        return done.tolist(), offsets[done]

    def _transfer_images(
        self,
        bucket: Bucket,
        files: Files,
        results: _Results,
        first: int,
        last: int,
        handle: int,
        offsets: NDArray[np.int64],
        buffer: NDArray[np.uint8],
    ) -> int:
        """Read and measure images [first, last), and write them to the handle.

        Without a handle (-1), the images stay in the buffer. Returns the index of the
        next image, before `last` if the buffer is full or an image was not written.
        """
        pixels = bucket.shape[0] * bucket.shape[1]
        stop: int = transfer.transfer_images(
            *(files.paths, files.path_offsets, first, files.sizes[:last]),
            *(files.pixel_offsets, files.header_hashes, files.value_limits),
            *(np.empty(0, bucket.dtype), pixels, WIDEST_COUNT),
            *(percentile_ranks(pixels), handle, offsets[:, 0], buffer),
            *(results.offsets, results.stamps, results.file_hashes, results.sums),
            *(results.percentiles, results.pixel_hashes, results.is_valid),
        )
        return stop

    def _image_buffer(self, files: Files) -> NDArray[np.uint8]:
        largest = int(files.sizes[: len(files.items)].max(initial=0))
        return self._buffer("images", largest + content.LINE)

    def _draw(
        self, bucket: Bucket, files: Files, results: _Results, first: int, stop: int
    ) -> dict[int, NDArray[Any]]:
        """Return the masks of those items [first, stop) that have contours."""
        bounds = files.contour_bounds
        if bounds[first] == bounds[stop]:
            return {}
        with_contours = np.flatnonzero(np.diff(bounds[first : stop + 1])) + first
        rules = self.item_builder.rules
        masks = np.empty((len(with_contours), *bucket.shape), self._mask_dtype)
        labels.draw_masks(
            *(results.points, results.ring_ends, bounds, files.class_bits),
            np.zeros_like(files.class_bits),  # a contour file has one ring
            *(rules.shift, rules.edges_code, rules.fill == "nonzero"),
            *(scratch_rows(*bucket.shape, rules), first, stop, masks),
            *(results.pixels, results.boxes, results.mask_hashes, results.is_valid),
        )
        return dict(zip(with_contours.tolist(), masks, strict=True))

    def _read_points(self, files: Files, results: _Results) -> None:
        """Read the vertices of all contours; a file for `item` has none."""
        first = len(files.items)
        stop = len(files.links)
        if first == stop:
            return
        text = self._buffer("text", 0)
        vertices = self._buffer("vertices", 0).view(np.float64).reshape(-1, 2)
        counts = np.empty(stop, np.int64)
        points = []
        for k in range(first, stop, TEXTS_AT_ONCE):
            last = min(k + TEXTS_AT_ONCE, stop)
            content.read_files(
                *(files.paths, files.path_offsets, k, files.sizes[:last]),
                *(files.pixel_offsets, text, results.offsets, results.stamps),
                results.file_hashes,
            )
            sizes = results.stamps[:, 0]
            labels.parse_files(text, results.offsets, sizes, k, last, vertices, counts)
            points.append(vertices[: counts[k:last].sum()].copy())
        results.points = np.concatenate(points)
        np.cumsum(counts[first:], out=results.ring_ends[1:])

    def _buffer(self, name: str, size: int) -> NDArray[np.uint8]:
        """Return this thread's buffer of that name, at least `size` bytes long."""
        buffer: NDArray[np.uint8] | None = getattr(self._local, name, None)
        if buffer is None or len(buffer) < size:
            buffer = np.empty(max(size, BUFFER_BYTES[name]), np.uint8)
            setattr(self._local, name, buffer)
        return buffer

    def _records(
        self,
        bucket: Bucket,
        files: Files,
        results: _Results,
        done: list[int],
        offsets: NDArray[np.int64],
    ) -> Records:
        """Return the records of the items that are done."""
        block = files.block
        items = files.items[done]
        count = len(files.items)
        links_hashes = block.slots.links[items]
        meta = self._meta(bucket, files, results, done)
        # A store has vertices in the frame in which pixel centres are integers.
        points = shift_origin(results.points, self.item_builder.rules.origin)
        points_of: list[NDArray[np.float64]] = []
        # Indices of the files of each item: its image, then its contours.
        order: list[int] = []
        rings: list[tuple[int, int, int, int]] = []
        bits = files.class_bits.tolist()
        ends = results.ring_ends.tolist()
        bounds = files.contour_bounds.tolist()
        for k, j in enumerate(done):
            order.append(j)
            first, stop = bounds[j], bounds[j + 1]
            if first < stop:
                order += range(count + first, count + stop)
                rings += [
                    (k, bits[ring], ring - first + 1, ends[ring + 1] - ends[ring])
                    for ring in range(first, stop)
                ]
                points_of.append(points[ends[first] : ends[stop]])
                meta["labelled"][k] = sum(1 << bit for bit in bits[first:stop])
                meta["contour_xxh3"][k] = xxh3_64_intdigest(points_of[-1].data)
        counts = 1 + np.diff(files.contour_bounds)[done]
        file_hashes = results.file_hashes[order]
        meta["inputs_xxh3"] = [
            hash_inputs(links_hash, file_hashes[end - size : end].tolist())
            for links_hash, end, size in zip(
                links_hashes.tolist(),
                np.cumsum(counts).tolist(),
                counts.tolist(),
                strict=True,
            )
        ]
        links = [files.links[j] for j in order]
        within = self.item_builder.paths.within_root
        paths = [
            within(link.dicom_path if j < count else link.contour_path, link.root)
            for j, link in zip(order, links, strict=True)
        ]
        headers = block.scans.headers
        series = [headers[k].series for k in block.scans.header_index[items].tolist()]
        return Records(
            links=links_hashes,
            offsets=offsets,
            patient=as_texts(files.links[j].patient for j in done),
            series=as_texts(series),
            stamp_counts=counts,
            stamps=results.stamps[order],
            file_counts=counts,
            path=as_texts(paths),
            size=results.stamps[order, 0],
            xxh3=file_hashes,
            rings=np.array(rings, np.int64).reshape(-1, 4),
            meta=meta,
            points=np.concatenate([NO_POINTS, *points_of]),
        )

    def _meta(
        self, bucket: Bucket, files: Files, results: _Results, done: list[int]
    ) -> NDArray[Any]:
        """Return the metadata of items, except that of their contours and inputs."""
        block = files.block
        shared = files.shared
        items = files.items[done]
        meta = np.zeros(len(items), meta_dtype(self.item_builder.classes))
        header_index = block.scans.header_index[items]
        per_file = block.scans.per_file[items]
        sums = results.sums[done]
        meta["instance"] = np.where(np.isnan(per_file[:, 0]), -1, per_file[:, 0])
        meta["spacing_mm"] = shared.spacings[header_index]
        meta["slope"], meta["intercept"] = shared.value_maps[header_index].T
        meta["window"] = per_file[:, 1:]
        for k in np.flatnonzero(shared.is_inverted[header_index]).tolist():
            header_scan = block[int(items[k])].header_scan
            assert header_scan is not None  # group_files yields no other items
            meta["window"][k] = header_scan.header.value_window or np.nan
        pixels = bucket.shape[0] * bucket.shape[1]
        totals = sums[:, 2].tolist()
        squares = sums[:, 3:].tolist()
        moments = [
            mean_and_std(pixels, total, (high << 32) + low)
            for total, (high, low) in zip(totals, squares, strict=True)
        ]
        meta["mean"], meta["std"] = np.array(moments).T
        meta["min"] = sums[:, 0]
        meta["max"] = sums[:, 1]
        meta["percentiles"] = results.percentiles[done]
        meta["image_xxh3"] = results.pixel_hashes[done]
        meta["pixels"] = results.pixels[done]
        meta["bbox"] = results.boxes[done]
        has_contours = np.diff(files.contour_bounds)[done] > 0
        empty = np.uint64(hash_of_zeros(pixels * self._mask_dtype.itemsize))
        meta["mask_xxh3"] = np.where(has_contours, results.mask_hashes[done], empty)
        meta["contour_xxh3"] = hash_of_zeros(0)
        return meta
