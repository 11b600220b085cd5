"""One item of a store: what it is made from, and how."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import ceil, nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fastseg import dicom, sources
from fastseg._kernels import tone
from fastseg.dicom import Image
from fastseg.errors import ContourError, DicomError, LinkError
from fastseg.files import Stamp, read_file, stamp_of
from fastseg.links import Paths, Reject, reason_of
from fastseg.planning import Planned, Refusal, hash_links, within_root
from fastseg.raster import Rules, draw_rings, join_rings, shift_origin
from fastseg.store import layout
from fastseg.store.layout import Bucket
from fastseg.store.records import Record, Rings, Source, pack_facts

# Order statistics are counted up to this range of values and sorted beyond it.
WIDEST_COUNT = 2**17
# No file of contours is longer; the largest known has 10 MB.
MAX_CONTOUR_BYTES = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Contour:
    """The rings of one class, as their file has them, and their place in `sources`."""

    bit: int
    source: int
    rings: list[NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
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


class Maker:
    """Makes items by one set of rules; threads share it, and it never changes."""

    def __init__(
        self, paths: Paths, classes: Sequence[str], rules: Rules, max_pixel_bytes: int
    ):
        self.paths, self.rules = paths, rules
        self.max_pixel_bytes = max_pixel_bytes
        self.classes = tuple(classes)
        self._masks = layout.mask_dtype(classes)
        self._last = threading.local()

    def stamps(self, item: Planned) -> tuple[Stamp, ...] | None:
        """Return the stamps of all files of an item, None if one cannot be had."""
        try:
            return tuple(
                stamp_of(self.paths.resolve(path, link.root))
                for link, path in item.files()
            )
        except (LinkError, OSError):
            return None

    def read(self, item: Planned) -> Material:
        """Read the files of an item, or raise Refusal."""
        link = item.links[0]
        try:
            path = self.paths.resolve(link.dicom_path, link.root)
            data, stamp = self._read_image(path, link.frame)
        except (LinkError, OSError) as exc:
            reason = reason_of(exc, link.dicom_path)
            raise Refusal(item.links, reason, ()) from None
        found = [_source(within_root(link.dicom_path, link), data)]
        stamps, rejects, contours = [stamp], [], []
        used = []
        labels = [other.label for other in item.links]
        for other in item.links:
            if not other.contour_path:
                continue
            try:
                path = self.paths.resolve(other.contour_path, other.root)
                text, stamp = read_file(path, MAX_CONTOUR_BYTES)
                stamps.append(stamp)
                source = _source(within_root(other.contour_path, other), text)
                alike = labels.count(other.label)
                if alike > 1:
                    raise LinkError(
                        f"is one of {alike} links of class {other.label} to "
                        f"{other.dicom_path}, frame {other.frame}; keep one"
                    )
                rings = sources.read_rings(
                    text, other.contour_path, other.format, other.contour_key
                )
            except (ContourError, LinkError, OSError) as exc:
                line = exc.line if isinstance(exc, ContourError) else None
                reason = reason_of(exc, other.contour_path)
                rejects.append(Reject(other.contour_path, line, reason))
                continue
            bit = self.classes.index(other.label)
            contours.append(Contour(bit=bit, source=len(found), rings=rings))
            found.append(source)
            used.append(other)
        if not contours and rejects:
            reason = "left out: none of its contours can be used"
            raise Refusal(item.links, reason, rejects)
        return Material(
            data=data,
            sources=tuple(found),
            stamps=tuple(stamps),
            contours=contours,
            rejects=rejects,
            hash=_hash_inputs(hash_links(used) if rejects else item.hash, found),
        )

    def _read_image(self, path: str, frame: int) -> tuple[bytes, Stamp]:
        # The frames of a file come one after another, and the file may be large.
        last = getattr(self._last, "file", None)
        if frame and last and last[0] == path and last[2] == stamp_of(path):
            _, data, stamp = last
            return data, stamp
        data, stamp = read_file(path, self.max_pixel_bytes + dicom.MAX_OTHER_BYTES)
        self._last.file = path, data, stamp
        return data, stamp

    def decode(self, item: Planned, material: Material) -> Image:
        """Return the pixels of an item, or raise Refusal."""
        link = item.links[0]
        try:
            image = dicom.decode(
                material.data,
                link.dicom_path,
                link.frame,
                max_pixel_bytes=self.max_pixel_bytes,
            )
            if Bucket(image.pixels.shape, image.pixels.dtype) != item.bucket:
                raise DicomError("has changed while the store was built; build again")
        except (DicomError, ImportError) as exc:
            reason = reason_of(exc, link.dicom_path)
            raise Refusal(item.links, reason, material.rejects) from None
        return image

    def make(
        self,
        item: Planned,
        material: Material,
        image: Image,
    ) -> tuple[Record, NDArray[Any] | None]:
        """Draw the contours and measure all; return a record and the mask, if any."""
        link, header, pixels = item.links[0], image.header, image.pixels
        mask = self._draw(material.contours, pixels.shape)
        # Stored in the frame in which pixel centres are integers.
        moved = [
            shift_origin(ring, self.rules.origin)
            for contour in material.contours
            for ring in contour.rings
        ]
        points = np.concatenate([*moved, np.empty((0, 2))])
        slope, intercept = header.value_map
        facts = {
            "instance": _or(header.instance, -1),
            "frame": link.frame,
            "spacing_mm": _or(header.spacing_mm, (nan, nan)),
            "slope": slope,
            "intercept": intercept,
            "window": _or(header.value_window, (nan, nan)),
            **_statistics(pixels),
            **self._measure(mask, pixels.shape),
            "labelled": sum(1 << contour.bit for contour in material.contours),
            "image_xxh3": xxh3_64_intdigest(pixels.data),
            "contour_xxh3": xxh3_64_intdigest(points.data),
            "inputs_xxh3": material.hash,
        }
        record = Record(
            # An item that lost a contour is looked at again, so that its loss is told.
            links=0 if material.rejects else item.hash,
            stamps=material.stamps,
            patient=link.patient,
            series=header.series,
            sources=material.sources,
            rings=tuple(
                Rings(contour.bit, contour.source, tuple(map(len, contour.rings)))
                for contour in material.contours
            ),
            facts=pack_facts(facts, self.classes),
            points=points,
        )
        return record, mask

    def _draw(
        self, contours: list[Contour], shape: tuple[int, ...]
    ) -> NDArray[Any] | None:
        if not contours:
            return None
        mask = np.zeros(shape, self._masks)
        for contour in contours:
            draw_rings(*join_rings(contour.rings), mask, contour.bit, self.rules)
        return mask

    def _measure(
        self, mask: NDArray[Any] | None, shape: tuple[int, ...]
    ) -> dict[str, Any]:
        pixels = np.zeros(len(self.classes), np.int64)
        boxes = np.zeros((len(self.classes), 4), np.int64)
        if mask is None:
            digest = _hash_of_zeros(shape[0] * shape[1] * self._masks.itemsize)
        else:
            tone.measure_classes(mask, pixels, boxes)
            digest = xxh3_64_intdigest(mask.data)
        return {"pixels": pixels, "bbox": boxes, "mask_xxh3": digest}


def _hash_inputs(links: int, files: Sequence[Source]) -> int:
    sums = b"".join(file.xxh3.to_bytes(8) for file in files)
    return xxh3_64_intdigest(links.to_bytes(8) + sums)


def _source(path: str, data: bytes) -> Source:
    return Source(path=path, size=len(data), xxh3=xxh3_64_intdigest(data))


@cache
def _hash_of_zeros(size: int) -> int:
    return xxh3_64_intdigest(bytes(size))


def _statistics(image: NDArray[Any]) -> Mapping[str, Any]:
    """Return the statistics columns of stored values, exact before the last rounding.

    Sums are whole numbers, so they depend on neither order nor machine.
    """
    least, greatest = tone.range_of_values(image)
    ranks = _percentile_ranks(image.size)
    if greatest - least < WIDEST_COUNT:
        percentiles = np.empty(len(ranks))
        sums = tone.count_values(image, least, greatest, ranks, percentiles)
    else:
        sums = tone.sum_values(image)
        percentiles = np.partition(image, ranks, axis=None)[ranks].astype(np.float64)
    total, high, low = map(int, sums)
    count, squares = image.size, (high << 32) + low
    # Python divides whole numbers of any size as exactly as a float can tell.
    variance = (count * squares - total * total) / (count * count)
    return {
        "mean": total / count,
        "std": sqrt(variance),
        "min": float(least),
        "max": float(greatest),
        "percentiles": percentiles,
    }


@cache
def _percentile_ranks(count: int) -> NDArray[np.int64]:
    """Return the nearest ranks (0 the smallest) of `layout.PERCENTILES`."""
    shares = (Fraction(str(q)) / 100 for q in layout.PERCENTILES)
    return np.array([max(ceil(share * count), 1) - 1 for share in shares], np.int64)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
