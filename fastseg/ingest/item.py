"""One item of a store: reads its files, draws its contours, measures its pixels."""

import struct
import threading
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from math import ceil, nan, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fastseg import dicom, sources
from fastseg._kernels.images import statistics
from fastseg.dicom import Image
from fastseg.errors import ContourError, DicomError, LinkError
from fastseg.files import Stamp, read_file, read_handle, stamp_of
from fastseg.ingest.plan import ItemRejected, PlannedItem, hash_links
from fastseg.links import Link
from fastseg.paths import Paths
from fastseg.raster.masks import draw_rings
from fastseg.raster.rings import join_rings, shift_origin
from fastseg.raster.rules import Rules
from fastseg.store import layout
from fastseg.store.writing.records import Record, Rings, Source, pack_meta
from fastseg.tables import Reject, reason_of

# Percentiles are found by counting where the values span at most this many integers,
# by sorting where they span more.
WIDEST_COUNT = 2**17
# Longer contour files are rejected; the largest known has 10 MB.
MAX_CONTOUR_BYTES = 2**30
NO_POINTS = np.empty((0, 2))


class Contour(NamedTuple):
    """The rings of one class, as their file has them.

    bit    : of the class in the mask
    source : index of the contour file in the sources of its item
    """

    bit: int
    source: int
    rings: list[NDArray[np.float64]]


class ItemContours(NamedTuple):
    """The contours of an image, as read from their files.

    contours : those that can be used
    sources  : the files of these, in the same order
    stamps   : of all contour files that could be read
    rejects  : of the other contours
    used     : the links of the contours that can be used
    """

    contours: list[Contour]
    sources: list[Source]
    stamps: list[Stamp]
    rejects: list[Reject]
    used: list[Link]


class ItemInputs(NamedTuple):
    """The content of an item's files, before the image is decoded or a mask drawn.

    data    : content of the image's file
    sources : that file, then the files of the contours that can be used
    stamps  : of the image's file, then of all contour files that could be read
    rejects : of the contours that cannot be used
    hash    : XXH3-64 of the links and files that are used: items of equal hash are
        equal
    """

    data: bytes
    sources: tuple[Source, ...]
    stamps: tuple[Stamp, ...]
    contours: list[Contour]
    rejects: list[Reject]
    hash: int


class ItemBuilder:
    """Builds items one at a time. Threads share it; it never changes."""

    def __init__(
        self, paths: Paths, classes: Sequence[str], rules: Rules, max_pixel_bytes: int
    ):
        self.paths = paths
        self.rules = rules
        self.max_pixel_bytes = max_pixel_bytes
        self.classes = tuple(classes)
        self._mask_dtype = layout.mask_dtype(classes)
        self._zero_pixels = [0] * len(classes)
        self._zero_boxes = [0] * 4 * len(classes)
        self._max_file_bytes = max_pixel_bytes + dicom.MAX_OTHER_BYTES
        self._cache = threading.local()

    def stamps(self, item: PlannedItem) -> tuple[Stamp, ...] | None:
        """Return the stamps of all files of an item; None if a file is missing."""
        try:
            return tuple(
                stamp_of(self.paths.resolve(path, link.root))
                for link, path in item.files()
            )
        except (LinkError, OSError):
            return None

    def read(self, item: PlannedItem) -> ItemInputs:
        """Read the files of an item, or raise ItemRejected."""
        link = item.links[0]
        try:
            data, stamp = self._read_image(item)
        except (LinkError, OSError) as exc:
            reason = reason_of(exc, link.dicom_path)
            raise ItemRejected(item.links, reason, ()) from None
        read = self.read_contours(item.links)
        if not read.contours and read.rejects:
            reason = "left out: none of its contours can be used"
            raise ItemRejected(item.links, reason, read.rejects)
        path = self.paths.within_root(link.dicom_path, link.root)
        files = (Source(path, len(data), xxh3_64_intdigest(data)), *read.sources)
        links_hash = item.links_hash
        if read.rejects:
            links_hash = hash_links(read.used, self.paths)
        return ItemInputs(
            data=data,
            sources=files,
            stamps=(stamp, *read.stamps),
            contours=read.contours,
            rejects=read.rejects,
            hash=hash_inputs(links_hash, [file.xxh3 for file in files]),
        )

    def read_contours(self, links: Sequence[Link]) -> ItemContours:
        """Read the contours of an image; `rejects` lists those that cannot be used."""
        read = ItemContours([], [], [], [], [])
        labels = [link.label for link in links]
        for link in links:
            if not link.contour_path:
                continue
            try:
                handle = self.paths.open(link.contour_path, link.root)
                text, stamp = read_handle(handle, MAX_CONTOUR_BYTES)
                read.stamps.append(stamp)
                same_class = labels.count(link.label)
                if same_class > 1:
                    raise LinkError(
                        f"is one of {same_class} links of class {link.label} to "
                        f"{link.dicom_path}, frame {link.frame}; keep one"
                    )
                source_format = sources.source_of(link)
                parsed = source_format.parse(text, link.contour_path)
                groups = source_format.rings(parsed, link, None)
                rings = [ring for group in groups for ring in group.rings]
            except (ContourError, LinkError, OSError) as exc:
                line = exc.line if isinstance(exc, ContourError) else None
                reason = reason_of(exc, link.contour_path)
                read.rejects.append(Reject(link.contour_path, line, reason))
                continue
            bit = self.classes.index(link.label)
            # The sources of the item begin with the image's file.
            source = len(read.sources) + 1
            read.contours.append(Contour(bit=bit, source=source, rings=rings))
            path = self.paths.within_root(link.contour_path, link.root)
            read.sources.append(Source(path, len(text), xxh3_64_intdigest(text)))
            read.used.append(link)
        return read

    def _read_image(self, item: PlannedItem) -> tuple[bytes, Stamp]:
        link = item.links[0]
        if item.header_scan and item.header_scan.shared.frames == 1:
            handle = self.paths.open(link.dicom_path, link.root)
            return read_handle(handle, self._max_file_bytes)
        # The frames of a file follow each other in the plan, and the file may be
        # large: each thread keeps the file that it read last.
        path = self.paths.resolve(link.dicom_path, link.root)
        last = getattr(self._cache, "file", None)
        if last is None or last[0] != path or last[2] != stamp_of(path):
            self._cache.file = path, *read_file(path, self._max_file_bytes)
        _, data, stamp = self._cache.file
        return data, stamp

    def decode(self, item: PlannedItem, inputs: ItemInputs) -> Image:
        """Return the pixels of an item, or raise ItemRejected."""
        link = item.links[0]
        scan = item.header_scan
        if scan and not scan.holds(inputs.data, item.header_hash):
            scan = None
        try:
            image = dicom.decode(
                inputs.data,
                link.dicom_path,
                link.frame,
                max_pixel_bytes=self.max_pixel_bytes,
                start=scan,
            )
            pixels = image.pixels
            planned = item.bucket
            if pixels.shape != planned.shape or pixels.dtype != planned.dtype:
                raise DicomError("has changed while the store was built; build again")
        except (DicomError, ImportError) as exc:
            reason = reason_of(exc, link.dicom_path)
            raise ItemRejected(item.links, reason, inputs.rejects) from None
        return image

    def draw_and_measure(
        self, item: PlannedItem, inputs: ItemInputs, image: Image
    ) -> tuple[Record, NDArray[Any] | None]:
        """Draw the contours and measure all; return a record and the mask, if any.

        The record has no offsets: they are known when the pixels have been written.
        """
        link = item.links[0]
        header = image.header
        pixels = image.pixels
        slope, intercept = header.value_map
        meta = {
            "instance": _value_or(header.instance, -1),
            "frame": link.frame,
            "spacing_mm": _value_or(header.spacing_mm, (nan, nan)),
            "slope": slope,
            "intercept": intercept,
            "window": _value_or(header.value_window, (nan, nan)),
            "image_xxh3": xxh3_64_intdigest(pixels.data),
            "inputs_xxh3": inputs.hash,
        }
        _measure_values(pixels, meta)
        mask, points = self.draw_mask(inputs.contours, pixels.shape, meta)
        record = Record(
            # 0 makes the next build read an item with a rejected contour again, so
            # that it reports the reject again.
            links=0 if inputs.rejects else item.links_hash,
            offsets=(),
            stamps=inputs.stamps,
            patient=link.patient,
            series=header.series,
            sources=inputs.sources,
            rings=tuple(
                Rings(contour.bit, contour.source, tuple(map(len, contour.rings)))
                for contour in inputs.contours
            ),
            meta=pack_meta(meta, self.classes),
            points=points,
        )
        return record, mask

    def draw_mask(
        self, contours: list[Contour], shape: tuple[int, ...], meta: dict[str, Any]
    ) -> tuple[NDArray[Any] | None, NDArray[np.float64]]:
        """Return mask and vertices, and add their metadata to `meta`."""
        meta["labelled"] = sum(1 << contour.bit for contour in contours)
        if not contours:
            meta["pixels"] = self._zero_pixels
            meta["bbox"] = self._zero_boxes
            size = shape[0] * shape[1] * self._mask_dtype.itemsize
            meta["mask_xxh3"] = hash_of_zeros(size)
            meta["contour_xxh3"] = hash_of_zeros(0)
            return None, NO_POINTS
        mask = np.zeros(shape, self._mask_dtype)
        for contour in contours:
            draw_rings(*join_rings(contour.rings), mask, contour.bit, self.rules)
        pixels = np.zeros(len(self.classes), np.int64)
        boxes = np.zeros((len(self.classes), 4), np.int64)
        statistics.measure_classes(mask, pixels, boxes)
        # A store has vertices in the frame in which pixel centres are integers.
        points = np.concatenate(
            [
                shift_origin(ring, self.rules.origin)
                for contour in contours
                for ring in contour.rings
            ]
        )
        meta["pixels"] = pixels.tolist()
        meta["bbox"] = boxes.ravel().tolist()
        meta["mask_xxh3"] = xxh3_64_intdigest(mask.data)
        meta["contour_xxh3"] = xxh3_64_intdigest(points.data)
        return mask, points


def hash_inputs(links_hash: int, file_hashes: Sequence[int]) -> int:
    """Return the XXH3-64 of the hash of an item's links and those of its files."""
    return xxh3_64_intdigest(
        struct.pack(f">Q{len(file_hashes)}Q", links_hash, *file_hashes)
    )


@cache
def hash_of_zeros(size: int) -> int:
    """Return the XXH3-64 of `size` zero bytes."""
    return xxh3_64_intdigest(bytes(size))


def _measure_values(image: NDArray[Any], meta: dict[str, Any]) -> None:
    """Add the statistics of stored values to `meta`.

    They come from sums of integers, so they depend neither on order nor on machine.
    """
    ranks = percentile_ranks(image.size)
    percentiles = np.empty(len(ranks))
    counted, least, greatest, total, high, low = statistics.measure_values(
        image, WIDEST_COUNT, ranks, percentiles
    )
    if not counted:
        percentiles = np.partition(image, ranks, axis=None)[ranks].astype(np.float64)
    squares = (high << 32) + low
    meta["mean"], meta["std"] = mean_and_std(image.size, total, squares)
    meta["min"] = float(least)
    meta["max"] = float(greatest)
    meta["percentiles"] = percentiles.tolist()


def mean_and_std(count: int, total: int, squares: int) -> tuple[float, float]:
    """Return mean and standard deviation of integers.

    total, squares : the sums of the integers and of their squares

    Python rounds the quotient of two integers correctly, however large they are.
    """
    variance = (count * squares - total * total) / (count * count)
    return total / count, sqrt(variance)


@cache
def percentile_ranks(count: int) -> NDArray[np.int64]:
    """Return the nearest ranks (0 is the smallest) of `layout.PERCENTILES`."""
    fractions = (Fraction(str(q)) / 100 for q in layout.PERCENTILES)
    ranks = [max(ceil(fraction * count), 1) - 1 for fraction in fractions]
    return np.array(ranks, np.int64)


def _value_or(value: Any, default: Any) -> Any:
    return default if value is None else value
