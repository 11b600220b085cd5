"""The file format, version 1, on one page.

A store is a plain HDF5 file, little-endian throughout. All datasets are contiguous
and unfiltered, so that each can be mapped at its offset; in a compressed store, all
but those of images and masks. Strings are UTF-8 of fixed length, padded with NUL.
"Item" and "sample" are the same thing, counted from 0 in the order of the links table.

Root attributes

    format           "fastseg-store"
    version          1
    classes          (K,) names; bit k of a mask says that class k covers the pixel
    buckets          (B,) names of the datasets in /images and /masks, sorted
    options          JSON: origin, edges, fill of the masks
    software         JSON: versions of what wrote the file
    checksums        JSON: XXH3-64, in 16 hex digits, of the bytes of each dataset in
                     /items, /contours and /sources, by its name, and of the text of
                     `software`; the points have theirs by item, in contour_xxh3
    fingerprint      SHA-256 in hex over content and options (see `fingerprint`)
    compression      "zstd" in a compressed store, which has the same fingerprint as
                     one that is not; else absent
    complete         1, written last

/images/<bucket>     (n, H, W) stored values as in the DICOM file; a bucket holds
                     the images of one shape and dtype, `256x256_int16`
/masks/<bucket>      (n, H, W) bit field, the smallest unsigned integer for K bits

                     In a compressed store, each (1, H, W) of both is a chunk: a zstd
                     frame that tells its content's size, as HDF5's filter 32015 reads
                     it, of images after HDF5's shuffle where a value has several bytes.

/items/<column>      first axis: the item
    bucket           uint16      index into the attribute `buckets`
    row              int64       index into the bucket's first axis
    patient          string
    series           string      SeriesInstanceUID
    instance         int64       InstanceNumber, -1 if absent
    source           int64       index into /sources
    frame            int64       frame of the source, from 0
    spacing_mm       float64 (2) between rows, between columns; NaN if absent
    slope, intercept float64     image value = slope * stored + intercept; negative
                                 slope where MONOCHROME1 was inverted
    window           float64 (2) centre and width in image values; NaN if absent
    mean, std        float64     of the stored values; std divides by their number
    min, max         float64     of the stored values
    percentiles      float64 (7) of the stored values, nearest rank, at the attribute
                                 `q` of this dataset: 0.5, 1, 5, 50, 95, 99, 99.5
    labelled         as masks    bit k: class k has a contour, be it off the image
    pixels           int64 (K)   pixels per class
    bbox             int64 (K,4) top, left, bottom, right (the last two exclusive)
                                 of each class; zeros if it has no pixel
    contours         int64 (2)   start and stop in /contours: the rings of this item,
                                 which begin where those of the item before it end
    image_xxh3, mask_xxh3, contour_xxh3
                     uint64      XXH3-64 of the bytes of the image, the mask and
                                 the vertices of the item
    inputs_xxh3      uint64      XXH3-64 of what the item was made from: its links and
                                 the content of its files; a later build compares it
    image_chunk, mask_chunk
                     int64 (2)   in a compressed store alone: where in the file the
                                 item's chunk begins, and its bytes

/contours/...        rings, by item
    points           float64 (P, 2)  x, y in pixels, pixel centres at integers
    offsets          int64 (R + 1)   ring r is points[offsets[r]:offsets[r + 1]]
    item             int64 (R)
    class            int64 (R)
    source           int64 (R)       index into /sources

/sources/...         the files that the store was made from, sorted by path
    path             string          relative to the root of the data set
    size             int64           bytes
    xxh3             uint64          XXH3-64 of the content
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from xxhash import xxh3_64_hexdigest

from fastseg.errors import BuildError

FORMAT = "fastseg-store"
VERSION = 1
MAX_CLASSES = 64
# An attribute has room for 64 KB.
MAX_CLASS_BYTES = 1000
PERCENTILES = (0.5, 1.0, 5.0, 50.0, 95.0, 99.0, 99.5)

# Large datasets begin on a page, so that maps and direct reads are aligned.
PAGE = 4096
ALIGN_FROM = 65536

# What tells where the data lay and who wrote them, and not what they are.
PROVENANCE = {
    "items/source",
    "items/inputs_xxh3",
    "items/image_chunk",
    "items/mask_chunk",
    "contours/source",
    "sources/path",
    "sources/size",
    "sources/xxh3",
    "software",
}


@dataclass(frozen=True, slots=True)
class Bucket:
    """The place of all images of one shape and dtype."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]

    @property
    def name(self) -> str:
        """Its dataset's name, as in 256x256_int16."""
        return f"{self.shape[0]}x{self.shape[1]}_{self.dtype.name}"


def check_classes(classes: Sequence[str]) -> None:
    """Raise BuildError for more or longer names than a store holds."""
    if len(classes) > MAX_CLASSES:
        raise BuildError(
            f"the links have {len(classes)} classes, a store holds at most "
            f"{MAX_CLASSES}; link fewer labels"
        )
    for name in classes:
        if len(name.encode()) > MAX_CLASS_BYTES:
            raise BuildError(
                f"the class {name[:20]!r}... has a name of {len(name.encode())} bytes, "
                f"a store holds at most {MAX_CLASS_BYTES}; use a shorter label"
            )


def mask_dtype(classes: Sequence[str]) -> np.dtype[Any]:
    """Return the smallest unsigned integer with a bit for each class."""
    return np.min_scalar_type(2 ** len(classes) - 1).newbyteorder("<")


def column_layout(classes: Sequence[str]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return dtype and trailing shape of each numeric column of /items."""
    k = len(classes)
    return {
        "bucket": ("<u2", ()),
        "row": ("<i8", ()),
        "instance": ("<i8", ()),
        "source": ("<i8", ()),
        "frame": ("<i8", ()),
        "spacing_mm": ("<f8", (2,)),
        "slope": ("<f8", ()),
        "intercept": ("<f8", ()),
        "window": ("<f8", (2,)),
        "mean": ("<f8", ()),
        "std": ("<f8", ()),
        "min": ("<f8", ()),
        "max": ("<f8", ()),
        "percentiles": ("<f8", (len(PERCENTILES),)),
        "labelled": (mask_dtype(classes).str, ()),
        "pixels": ("<i8", (k,)),
        "bbox": ("<i8", (k, 4)),
        "contours": ("<i8", (2,)),
        "image_xxh3": ("<u8", ()),
        "mask_xxh3": ("<u8", ()),
        "contour_xxh3": ("<u8", ()),
        "inputs_xxh3": ("<u8", ()),
    }


STRING_COLUMNS = ("patient", "series")
CHUNK_COLUMNS = {"image_chunk": ("<i8", (2,)), "mask_chunk": ("<i8", (2,))}
CONTOUR_COLUMNS = {
    "points": ("<f8", (2,)),
    "offsets": ("<i8", ()),
    "item": ("<i8", ()),
    "class": ("<i8", ()),
    "source": ("<i8", ()),
}
SOURCE_COLUMNS = {"path": ("|S", ()), "size": ("<i8", ()), "xxh3": ("<u8", ())}


def tables(
    classes: Sequence[str], compression: str = ""
) -> dict[str, dict[str, tuple[str, tuple[int, ...]]]]:
    """Return the columns of /items, /contours and /sources as `column_layout` does.

    The dtype of strings, of whatever length, is "|S".
    """
    items: dict[str, tuple[str, tuple[int, ...]]] = column_layout(classes)
    items |= dict.fromkeys(STRING_COLUMNS, ("|S", ()))
    if compression:
        items |= CHUNK_COLUMNS
    return {
        "items": items,
        "contours": dict(CONTOUR_COLUMNS),
        "sources": dict(SOURCE_COLUMNS),
    }


def checksum_names(classes: Sequence[str], compression: str = "") -> set[str]:
    """Return what the attribute `checksums` has an entry for."""
    columns = {
        f"{table}/{name}"
        for table, names in tables(classes, compression).items()
        for name in names
    }
    return columns - {"contours/points"} | {"software"}


def checksum(data: Any) -> str:
    """Return the XXH3-64 of bytes or of a contiguous array's, in 16 hex digits."""
    return xxh3_64_hexdigest(data)


def fingerprint(
    classes: Sequence[str],
    buckets: Sequence[str],
    options: Mapping[str, Any],
    checksums: Mapping[str, str],
) -> str:
    """Return the SHA-256, in hex, of what a store holds and how it was made.

    Hashed are the version, classes, buckets, options and all checksums but those of
    provenance, as canonical JSON in UTF-8. Among what has a checksum are the columns
    of checksums that stand for pixels and vertices.
    """
    content = {
        "version": VERSION,
        "classes": list(classes),
        "buckets": list(buckets),
        "options": dict(options),
        "checksums": {
            name: text for name, text in checksums.items() if name not in PROVENANCE
        },
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
