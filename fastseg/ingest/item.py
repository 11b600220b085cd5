"""One item of a store: what it is made from, and how."""

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
from fastseg.links import Link, Paths, Reject, reason_of
from fastseg.raster.masks import draw_rings
from fastseg.raster.rings import join_rings, shift_origin
from fastseg.raster.rules import Rules
from fastseg.store import layout
from fastseg.store.writing.records import Record, Rings, Source, pack_meta

# Order statistics are counted up to this range of values and sorted beyond it.
WIDEST_COUNT = 2**17
# No file of contours is longer; the largest known has 10 MB.
MAX_CONTOUR_BYTES = 2**30
NO_POINTS = np.empty((0, 2))


class Contour(NamedTuple):
    """The rings of one class, as their file has them, and their place in `sources`."""

    bit: int
    source: int
    rings: list[NDArray[np.float64]]


class Drawn(NamedTuple):
    """The contours of an image, read.

    sources : the files of those that can be used, in their order
    stamps  : of all files that could be read
    used    : the links of those that can be used
    """

    contours: list[Contour]
    sources: list[Source]
    stamps: list[Stamp]
    rejects: list[Reject]
    used: list[Link]


class Material(NamedTuple):
    """What an item is made from: read, and nothing done to it yet.

    data    : content of the image's file
    sources : that file, then those of the contours
    stamps  : of all files that the item's links name, also of unusable contours
    rejects : of those contours
    hash    : XXH3-64 of the links and files that are used: equal hash, equal item
    """

    data: bytes
    sources: tuple[Source, ...]
    stamps: tuple[Stamp, ...]
    contours: list[Contour]
    rejects: list[Reject]
    hash: int


class ItemMaker:
    """Makes items by one set of rules; threads share it, and it never changes."""

    def __init__(
        self, paths: Paths, classes: Sequence[str], rules: Rules, max_pixel_bytes: int
    ):
        self.paths, self.rules = paths, rules
        self.max_pixel_bytes = max_pixel_bytes
        self.classes = tuple(classes)
        self._masks = layout.mask_dtype(classes)
        self._no_pixels = [0] * len(classes), [0] * 4 * len(classes)
        self._most = max_pixel_bytes + dicom.MAX_OTHER_BYTES
        self._last = threading.local()

    def stamps(self, item: PlannedItem) -> tuple[Stamp, ...] | None:
        """Return the stamps of all files of an item, None if one cannot be had."""
        try:
            return tuple(
                stamp_of(self.paths.resolve(path, link.root))
                for link, path in item.files()
            )
        except (LinkError, OSError):
            return None

    def read(self, item: PlannedItem) -> Material:
        """Read the files of an item, or raise Refusal."""
        link = item.links[0]
        try:
            data, stamp = self._read_image(item)
        except (LinkError, OSError) as exc:
            reason = reason_of(exc, link.dicom_path)
            raise ItemRejected(item.links, reason, ()) from None
        drawn = self.read_contours(item.links)
        if not drawn.contours and drawn.rejects:
            reason = "left out: none of its contours can be used"
            raise ItemRejected(item.links, reason, drawn.rejects)
        path = self.paths.within_root(link.dicom_path, link.root)
        image = Source(path, len(data), xxh3_64_intdigest(data))
        found = (image, *drawn.sources)
        links = hash_links(drawn.used, self.paths) if drawn.rejects else item.hash
        return Material(
            data=data,
            sources=found,
            stamps=(stamp, *drawn.stamps),
            contours=drawn.contours,
            rejects=drawn.rejects,
            hash=hash_inputs(links, [file.xxh3 for file in found]),
        )

    def read_contours(self, links: Sequence[Link]) -> Drawn:
        """Read the contours of an image; what cannot be used is in `rejects`."""
        drawn = Drawn([], [], [], [], [])
        labels = [link.label for link in links]
        for link in links:
            if not link.contour_path:
                continue
            try:
                handle = self.paths.open(link.contour_path, link.root)
                text, stamp = read_handle(handle, MAX_CONTOUR_BYTES)
                drawn.stamps.append(stamp)
                alike = labels.count(link.label)
                if alike > 1:
                    raise LinkError(
                        f"is one of {alike} links of class {link.label} to "
                        f"{link.dicom_path}, frame {link.frame}; keep one"
                    )
                rings = sources.read_rings(
                    text, link.contour_path, link.format, link.contour_key
                )
            except (ContourError, LinkError, OSError) as exc:
                line = exc.line if isinstance(exc, ContourError) else None
                reason = reason_of(exc, link.contour_path)
                drawn.rejects.append(Reject(link.contour_path, line, reason))
                continue
            # The image's file comes first among the sources.
            place, bit = len(drawn.sources) + 1, self.classes.index(link.label)
            drawn.contours.append(Contour(bit=bit, source=place, rings=rings))
            path = self.paths.within_root(link.contour_path, link.root)
            drawn.sources.append(Source(path, len(text), xxh3_64_intdigest(text)))
            drawn.used.append(link)
        return drawn

    def _read_image(self, item: PlannedItem) -> tuple[bytes, Stamp]:
        link = item.links[0]
        if item.start and item.start.shared.frames == 1:
            return read_handle(self.paths.open(link.dicom_path, link.root), self._most)
        # The frames of a file come one after another, and the file may be large.
        path = self.paths.resolve(link.dicom_path, link.root)
        last = getattr(self._last, "file", None)
        if last is None or last[0] != path or last[2] != stamp_of(path):
            self._last.file = path, *read_file(path, self._most)
        _, data, stamp = self._last.file
        return data, stamp

    def decode(self, item: PlannedItem, material: Material) -> Image:
        """Return the pixels of an item, or raise Refusal."""
        link, start = item.links[0], item.start
        if start and not start.holds(material.data, item.head):
            start = None
        try:
            image = dicom.decode(
                material.data,
                link.dicom_path,
                link.frame,
                max_pixel_bytes=self.max_pixel_bytes,
                start=start,
            )
            found, planned = image.pixels, item.bucket
            if found.shape != planned.shape or found.dtype != planned.dtype:
                raise DicomError("has changed while the store was built; build again")
        except (DicomError, ImportError) as exc:
            reason = reason_of(exc, link.dicom_path)
            raise ItemRejected(item.links, reason, material.rejects) from None
        return image

    def make(
        self,
        item: PlannedItem,
        material: Material,
        image: Image,
    ) -> tuple[Record, NDArray[Any] | None]:
        """Draw the contours and measure all; return a record and the mask, if any.

        The record has no places yet.
        """
        link, header, pixels = item.links[0], image.header, image.pixels
        slope, intercept = header.value_map
        meta = {
            "instance": _or(header.instance, -1),
            "frame": link.frame,
            "spacing_mm": _or(header.spacing_mm, (nan, nan)),
            "slope": slope,
            "intercept": intercept,
            "window": _or(header.value_window, (nan, nan)),
            "image_xxh3": xxh3_64_intdigest(pixels.data),
            "inputs_xxh3": material.hash,
        }
        _measure_values(pixels, meta)
        mask, points = self.draw(material.contours, pixels.shape, meta)
        record = Record(
            # An item that lost a contour is looked at again, so that its loss is told.
            links=0 if material.rejects else item.hash,
            offsets=(),
            stamps=material.stamps,
            patient=link.patient,
            series=header.series,
            sources=material.sources,
            rings=tuple(
                Rings(contour.bit, contour.source, tuple(map(len, contour.rings)))
                for contour in material.contours
            ),
            meta=pack_meta(meta, self.classes),
            points=points,
        )
        return record, mask

    def draw(
        self, contours: list[Contour], shape: tuple[int, ...], meta: dict[str, Any]
    ) -> tuple[NDArray[Any] | None, NDArray[np.float64]]:
        """Return mask and vertices, and add their facts."""
        meta["labelled"] = sum(1 << contour.bit for contour in contours)
        if not contours:
            meta["pixels"], meta["bbox"] = self._no_pixels
            size = shape[0] * shape[1] * self._masks.itemsize
            meta["mask_xxh3"] = hash_of_zeros(size)
            meta["contour_xxh3"] = hash_of_zeros(0)
            return None, NO_POINTS
        mask = np.zeros(shape, self._masks)
        for contour in contours:
            draw_rings(*join_rings(contour.rings), mask, contour.bit, self.rules)
        pixels = np.zeros(len(self.classes), np.int64)
        boxes = np.zeros((len(self.classes), 4), np.int64)
        statistics.measure_classes(mask, pixels, boxes)
        # Stored in the frame in which pixel centres are integers.
        points = np.concatenate(
            [
                shift_origin(ring, self.rules.origin)
                for contour in contours
                for ring in contour.rings
            ]
        )
        meta["pixels"], meta["bbox"] = pixels.tolist(), boxes.ravel().tolist()
        meta["mask_xxh3"] = xxh3_64_intdigest(mask.data)
        meta["contour_xxh3"] = xxh3_64_intdigest(points.data)
        return mask, points


def hash_inputs(links: int, sums: Sequence[int]) -> int:
    """Return the XXH3-64 of what an item is made from: its links and its files'."""
    return xxh3_64_intdigest(struct.pack(f">Q{len(sums)}Q", links, *sums))


@cache
def hash_of_zeros(size: int) -> int:
    """Return the XXH3-64 of so many zeros."""
    return xxh3_64_intdigest(bytes(size))


def _measure_values(image: NDArray[Any], meta: dict[str, Any]) -> None:
    """Add the statistics of stored values, exact before the last rounding.

    Sums are whole numbers, so they depend on neither order nor machine.
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
    meta["min"], meta["max"] = float(least), float(greatest)
    meta["percentiles"] = percentiles.tolist()


def mean_and_std(count: int, total: int, squares: int) -> tuple[float, float]:
    """Return mean and standard deviation of whole numbers, given their sums.

    Python divides whole numbers of any size as exactly as a float can tell.
    """
    variance = (count * squares - total * total) / (count * count)
    return total / count, sqrt(variance)


@cache
def percentile_ranks(count: int) -> NDArray[np.int64]:
    """Return the nearest ranks (0 the smallest) of `layout.PERCENTILES`."""
    shares = (Fraction(str(q)) / 100 for q in layout.PERCENTILES)
    return np.array([max(ceil(share * count), 1) - 1 for share in shares], np.int64)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
