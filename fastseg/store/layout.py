"""The file format of a store, version 6. Every change of it raises the version.

A store is a plain HDF5 file. Numbers are little-endian; strings are UTF-8 of a fixed
length, padded with NUL. Every dataset is contiguous and has no filter, so that it can
be mapped into memory at its offset. Only the images and masks of a compressed store are
chunked and filtered. An item is a sample; items are numbered from 0, in the order of
the links table: of a sorted one if it was saved, or if headers had to complete it.

B is the number of buckets, K of classes, R of rings, P of vertices, V of volumes, and n
the number of images in a bucket.

Root attributes

    format           "fastseg-store"
    version          6
    classes          (K,) names, at most 64; bit k of a mask belongs to class k
    buckets          (B,) names of the datasets in /images and /masks, sorted
    options          JSON object: edges, fill and origin, by which the masks were drawn
    software         JSON object: versions of the packages that wrote the file
    checksums        JSON object: XXH3-64, as 16 hex digits, of the bytes of each
                     dataset in /items, /contours, /sources, /volumes and /histograms,
                     by its name as in "items/row", and of the text of the attribute
                     `software`. There is none for "contours/points": the vertices have
                     one by item, in the column contour_xxh3
    fingerprint      SHA-256, in hex, of content and options (see `fingerprint`)
    compression      "zstd" in a compressed store, else absent; both have the same
                     fingerprint
    metadata_checksum
                     XXH3-64, as 16 hex digits, of all bytes of the file, in order, that
                     are not the data of a dataset (in a compressed store: of a chunk),
                     with these 16 bytes as NUL. So HDF5's own data are covered, and the
                     gaps between datasets: every byte of the file has a checksum
    complete         1, written last

                     Numbers are int64, texts are scalars, both of exactly the types
                     that h5py writes for them.

/images/<bucket>     (n, H, W) stored values, as in the DICOM files. A bucket holds all
                     images of one shape and dtype, and is named after both, as in
                     256x256_int16
/masks/<bucket>      (n, H, W) bit fields: bit k is set where class k covers the pixel.
                     The dtype is the smallest unsigned integer with at least K bits

                     In a compressed store, each image and each mask is one chunk,
                     (1, H, W): a zstd frame with its content size in the header, as
                     HDF5's filter 32015 reads it. HDF5's shuffle filter comes before
                     zstd for images whose values have more than one byte.

/items/<column>      the first axis is the item
    bucket           uint16      index into the attribute `buckets`
    row              int64       index into the first axis of the bucket's datasets
    patient          string      patient of the item, from the links table
    series           string      SeriesInstanceUID, empty if absent
    modality         string      Modality, empty if absent or not a code of the standard
    sop_instance     string      SOPInstanceUID, empty if absent
    frame_of_reference
                     string      FrameOfReferenceUID, empty if absent
    instance         int64       InstanceNumber, -1 if absent
    source           int64       index into /sources: the image's file
    frame            int64       frame of that file, from 0
    spacing_mm       float64 (2) PixelSpacing: between rows, between columns; NaN if
                                 absent
    origin_mm        float64 (3) ImagePositionPatient: (x, y, z) of the centre of the
                                 first pixel, LPS; NaN if absent
    directions       float64 (6) ImageOrientationPatient: (x, y, z) of the unit vector
                                 along which the column index grows, then of that along
                                 which the row index grows; NaN if absent
    position_mm      float64     origin along the image's own normal, which is the cross
                                 product of the two directions; NaN if not known
    time             float64     tells apart the images of a series at one position, as
                                 in the links table; NaN if there is one image at each
    slice_thickness_mm
                     float64     SliceThickness, NaN if absent
    temporal_position
                     int64       TemporalPositionIdentifier, -1 if absent
    trigger_time_ms  float64     TriggerTime, NaN if absent
    volume           int64       index into /volumes, -1 if the image is in none
    slope, intercept float64     image value = slope * stored value + intercept; the
                                 slope is negative where MONOCHROME1 was inverted
    window           float64 (2) centre and width, in image values; NaN if absent
    mean, std        float64     of the stored values; std divides by their number
    min, max         float64     of the stored values
    percentiles      float64 (7) of the stored values, nearest rank, for the percents in
                                 the attribute `q` of this dataset: 0.5, 1, 5, 50, 95,
                                 99, 99.5
    labelled         as masks    bit k is set if class k has a contour, even one that
                                 covers no pixel of the image
    rule_dependent   as masks    bit k is set if class k has several rings on the image,
                                 and even-odd, nonzero and union do not give the same
                                 mask: other values of `fill` give other pixels
    pixels           int64 (K)   pixels that each class covers
    bbox             int64 (K,4) top, left, bottom, right of each class, the last two
                                 exclusive; zeros if the class covers no pixel
    contours         int64 (2)   start and stop in /contours: rings start to stop - 1
                                 are the item's; the next item starts at stop
    image_xxh3, mask_xxh3, contour_xxh3
                     uint64      XXH3-64 of the bytes of the image, of the mask and of
                                 the vertices of the item
    inputs_xxh3      uint64      XXH3-64 of the item's rows of the links table, its
                                 bucket, and the content of its files; a later build
                                 compares it
    image_chunk, mask_chunk
                     int64 (2)   only in a compressed store: offset in the file and
                                 size in bytes of the item's chunk

/contours/<column>   rings, ordered by item
    points           float64 (P, 2)  vertices (x, y) in pixels; pixel centres are
                                     integers
    offsets          int64 (R + 1)   ring r is points[offsets[r]:offsets[r + 1]]
    item             int64 (R)       the ring's item
    class            int64 (R)       index into the attribute `classes`
    group            int64 (R)       rings of one item and class with the same number
                                     are a group: `fill` acts within groups, and a
                                     class covers what any of its groups covers. The
                                     rings of a negative group are filled by
                                     "even-odd", whatever `fill` is
    source           int64 (R)       index into /sources: the contour's file

/sources/<column>    the files that the store was made from, as used first
    path             string          relative to the root of the data set
    size             int64           bytes
    xxh3             uint64          XXH3-64 of the content

/volumes/<column>    volumes, in the order of their first item: images of one patient,
                     series and time that are parallel, aligned and evenly spaced. The
                     items of a volume follow each other, by rising position, and so do
                     their rows in their bucket: images[row:row + slices] is the
                     volume, (D, H, W)
    first            int64 (V)       its first item
    slices           int64 (V)       number of its items, at least 2
    spacing_mm       float64 (V)     between slices, along the normal
    patient, series  string (V)      as of its items
    time             float64 (V)     as of its items

/histograms/<column> how often stored values occur, ordered by item, then class. Each
                     item has a histogram of its image, and one of each class that has
                     pixels; an item with such a class also has that of the pixels that
                     belong to any class, each of which counts once
    item             int64 (G)
    class            int64 (G)       index into the attribute `classes`; -1 for the
                                     whole image, -2 for any class
    pixels           int64 (G)       how many there are
    mean, std        float64 (G)     of their values; std divides by their number
    width            int64 (G)       a power of 2, the same for all classes of an item:
                                     how many values a bin has. It is the least with
                                     which there are at most 1024 bins, and at most one
                                     for 64 pixels of the image, but 16 in any case
    least            int64 (G)       least value of the first bin, a multiple of width:
                                     histograms of several items merge by adding
    offsets          int64 (G + 1)   histogram g has the bytes counts[offsets[g]:
                                     offsets[g + 1]]
    counts           uint8 (C)       pixels of each bin, from the first to the last that
                                     has any. Each number is in LEB128: seven bits in a
                                     byte, the lowest first; the eighth bit is set where
                                     more bytes follow. A 0 is followed by the number of
                                     bins, one or more, that have none
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_hexdigest

from fastseg.errors import BuildError

FORMAT = "fastseg-store"
VERSION = 6
MAX_CLASSES = 64
# A single image is no volume.
LEAST_SLICES = 2
# MAX_CLASSES names of this length fit into the 64 KiB that HDF5 allows an attribute.
MAX_CLASS_BYTES = 1000
# Of the names of buckets together, each as long as the longest, for the same reason: as
# many as some 4000.
MAX_BUCKET_BYTES = 65_000
# In the column `class` of /histograms: all pixels of an image; those of any class.
WHOLE_IMAGE = -1
ANY_CLASS = -2
# Bins of a histogram, at most.
MAX_BINS = 1024
PERCENTILES = (0.5, 1.0, 5.0, 50.0, 95.0, 99.0, 99.5)

# In a store without compression, datasets of at least ALIGN_FROM bytes begin at a
# multiple of PAGE bytes, so that memory maps and direct reads are aligned.
PAGE = 4096
ALIGN_FROM = 65536

# The fingerprint leaves these checksums out: they depend on where the data came from,
# where they lie in the file and what wrote them, not on what they are.
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
    """What the images of a bucket have in common: shape and dtype."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]

    @property
    def name(self) -> str:
        """Name of its datasets, as in 256x256_int16."""
        return f"{self.shape[0]}x{self.shape[1]}_{self.dtype.name}"


def check_classes(classes: Sequence[str]) -> None:
    """Raise BuildError if there are too many classes or a name is too long."""
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


def check_buckets(buckets: Sequence[Bucket]) -> None:
    """Raise BuildError if the images have too many shapes."""
    longest = max((len(bucket.name) for bucket in buckets), default=0)
    most = MAX_BUCKET_BYTES // max(longest, 1)
    if len(buckets) > most:
        raise BuildError(
            f"the images have {len(buckets)} shapes and dtypes, a store holds at most "
            f"{most}; make several stores, or resample the images to fewer shapes"
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
        "origin_mm": ("<f8", (3,)),
        "directions": ("<f8", (6,)),
        "position_mm": ("<f8", ()),
        "time": ("<f8", ()),
        "slice_thickness_mm": ("<f8", ()),
        "temporal_position": ("<i8", ()),
        "trigger_time_ms": ("<f8", ()),
        "volume": ("<i8", ()),
        "slope": ("<f8", ()),
        "intercept": ("<f8", ()),
        "window": ("<f8", (2,)),
        "mean": ("<f8", ()),
        "std": ("<f8", ()),
        "min": ("<f8", ()),
        "max": ("<f8", ()),
        "percentiles": ("<f8", (len(PERCENTILES),)),
        "labelled": (mask_dtype(classes).str, ()),
        "rule_dependent": (mask_dtype(classes).str, ()),
        "pixels": ("<i8", (k,)),
        "bbox": ("<i8", (k, 4)),
        "contours": ("<i8", (2,)),
        "image_xxh3": ("<u8", ()),
        "mask_xxh3": ("<u8", ()),
        "contour_xxh3": ("<u8", ()),
        "inputs_xxh3": ("<u8", ()),
    }


STRING_COLUMNS = (
    "patient",
    "series",
    "modality",
    "sop_instance",
    "frame_of_reference",
)
CHUNK_COLUMNS = {"image_chunk": ("<i8", (2,)), "mask_chunk": ("<i8", (2,))}
CONTOUR_COLUMNS = {
    "points": ("<f8", (2,)),
    "offsets": ("<i8", ()),
    "item": ("<i8", ()),
    "class": ("<i8", ()),
    "group": ("<i8", ()),
    "source": ("<i8", ()),
}
SOURCE_COLUMNS = {"path": ("|S", ()), "size": ("<i8", ()), "xxh3": ("<u8", ())}
VOLUME_COLUMNS = {
    "first": ("<i8", ()),
    "slices": ("<i8", ()),
    "spacing_mm": ("<f8", ()),
    "patient": ("|S", ()),
    "series": ("|S", ()),
    "time": ("<f8", ()),
}
HISTOGRAM_COLUMNS = {
    "item": ("<i8", ()),
    "class": ("<i8", ()),
    "pixels": ("<i8", ()),
    "mean": ("<f8", ()),
    "std": ("<f8", ()),
    "width": ("<i8", ()),
    "least": ("<i8", ()),
    "offsets": ("<i8", ()),
    "counts": ("|u1", ()),
}
TABLES = ("items", "contours", "sources", "volumes", "histograms")


def tables(
    classes: Sequence[str], compression: str = ""
) -> dict[str, dict[str, tuple[str, tuple[int, ...]]]]:
    """Return the columns of all TABLES as `column_layout` does.

    Strings have the dtype "|S", whatever their length.
    """
    items: dict[str, tuple[str, tuple[int, ...]]] = column_layout(classes)
    items |= dict.fromkeys(STRING_COLUMNS, ("|S", ()))
    if compression:
        items |= CHUNK_COLUMNS
    return {
        "items": items,
        "contours": dict(CONTOUR_COLUMNS),
        "sources": dict(SOURCE_COLUMNS),
        "volumes": dict(VOLUME_COLUMNS),
        "histograms": dict(HISTOGRAM_COLUMNS),
    }


def volumes_of_items(
    first: NDArray[np.int64], slices: NDArray[np.int64], start: int, stop: int
) -> NDArray[np.int64]:
    """Return the column `volume` of the items from `start` to `stop - 1`.

    first, slices : int64 (v,), the columns of /volumes
    """
    # Those that begin in the range, and the one before.
    k, end = np.searchsorted(first, [start, stop]).tolist()
    k = max(k - 1, 0)
    begin = first[k:end]
    bounds = np.stack([begin, begin + slices[k:end]], axis=1).clip(start, stop).ravel()
    # Items between volumes and items of a volume take turns.
    volumes = np.full(len(bounds) + 1, -1)
    volumes[1::2] = np.arange(k, end)
    return np.repeat(volumes, np.diff(bounds, prepend=start, append=stop))


def checksum_names(classes: Sequence[str], compression: str = "") -> set[str]:
    """Return the names that have an entry in the attribute `checksums`."""
    columns = {
        f"{table}/{name}"
        for table, names in tables(classes, compression).items()
        for name in names
    }
    return columns - {"contours/points"} | {"software"}


def checksum(data: Any) -> str:
    """Return the XXH3-64 of bytes, or of a contiguous array's, as 16 hex digits."""
    return xxh3_64_hexdigest(data)


def fingerprint(
    classes: Sequence[str],
    buckets: Sequence[str],
    options: Mapping[str, Any],
    checksums: Mapping[str, str],
) -> str:
    """Return the SHA-256, in hex, of a store's content and options.

    It hashes the version, classes, buckets, options and all checksums except those of
    PROVENANCE, as canonical JSON in UTF-8. It covers pixels and vertices, because the
    columns with their checksums (image_xxh3, mask_xxh3, contour_xxh3) have a checksum.
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
