"""Checks that a file is a valid store, when it is opened.

h5py reads which datasets the file has and at which offsets. The checks compare them
with the format in `layout`, down to dtypes, lengths and indices. So no later loop reads
outside of the memory map, whether the file is damaged or crafted on purpose.
"""

import json
import math
import mmap
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from fastseg.errors import StoreError, StoreVersionError
from fastseg.store import compression, layout
from fastseg.store.compression import Codec
from fastseg.store.layout import Bucket

Columns = Mapping[str, NDArray[Any]]

# Indices are checked in blocks of this many samples, which fit into a core's caches.
SAMPLES_AT_ONCE = 2**15


class _FormatError(StoreError):
    """A file deviates from the format of its version."""


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open a file with h5py; raise errors in the `with` block as StoreErrors.

    Their texts begin with the path. HDF5 and h5py report damage by errors of a dozen
    types, hence `Exception`.
    """
    try:
        file = h5py.File(path, "r", locking=False)
    except Exception as exc:
        raise StoreError(
            f"{path}: is no HDF5 file, or is truncated ({exc}); build it again"
        ) from None
    try:
        with file:
            yield file
    except _FormatError as exc:
        text = f"{path}: {exc}; the file is damaged or was changed: build it again"
        raise StoreError(text) from None
    except StoreError as exc:
        raise type(exc)(f"{path}: {exc}") from None
    except Exception as exc:
        raise StoreError(
            f"{path}: cannot be read, probably damaged ({exc!r}); build it again"
        ) from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """The root attributes of a store, see `layout`."""

    classes: tuple[str, ...]
    buckets: tuple[str, ...]
    options: Mapping[str, Any]
    software: Mapping[str, str]
    checksums: Mapping[str, str]
    fingerprint: str
    compression: str


_ATTRIBUTES = ("format", "version", "complete", *Attributes.__dataclass_fields__)


def read_attributes(file: Any) -> Attributes:
    """Return the attributes of a complete store, or raise StoreError."""
    values = {name: _attribute(file, name) for name in _ATTRIBUTES}
    if not _equals(values["format"], layout.FORMAT.encode()):
        raise StoreError("is an HDF5 file, but not a fastseg store")
    version = values["version"]
    if not _equals(version, layout.VERSION):
        is_newer = np.ndim(version) == 0 and version and version > layout.VERSION
        remedy = "upgrade fastseg, or build it again" if is_newer else "build it again"
        raise StoreVersionError(
            f"has version {version}, this fastseg reads version {layout.VERSION}; "
            f"{remedy}"
        )
    if not _equals(values["complete"], 1):
        raise StoreError("is incomplete; build it again")
    attributes = Attributes(
        classes=_names(values, "classes"),
        buckets=_names(values, "buckets"),
        options=_record(values, "options"),
        software=_record(values, "software"),
        checksums=_record(values, "checksums"),
        fingerprint=_text(values, "fingerprint"),
        compression=""
        if values["compression"] is None
        else _text(values, "compression"),
    )
    if attributes.compression not in ("", compression.NAME):
        raise StoreError(
            f"is compressed by {attributes.compression!r}, this fastseg reads "
            f"{compression.NAME!r}; upgrade fastseg or build it again"
        )
    if len(attributes.classes) > layout.MAX_CLASSES:
        raise _FormatError(
            f"has {len(attributes.classes)} classes, expected at most "
            f"{layout.MAX_CLASSES}"
        )
    names = layout.checksum_names(attributes.classes, attributes.compression)
    if attributes.checksums.keys() != names:
        raise _FormatError(
            "the attribute checksums does not have the names that the format lists"
        )
    if not all(_is_hex(text, 16) for text in attributes.checksums.values()):
        raise _FormatError(
            "the attribute checksums has values that are not 16 hex digits"
        )
    if not _is_hex(attributes.fingerprint, 64):
        raise _FormatError(
            f"the fingerprint is {attributes.fingerprint!r}, expected 64 hex digits"
        )
    return attributes


class Datasets:
    """Turns the datasets of an open file into read-only arrays over its map.

    offsets : the byte at which each dataset begins, by its name
    """

    def __init__(self, file: Any, map: mmap.mmap):
        self._file = file
        self._map = map
        self._file_number = h5py.h5o.get_info(file.id).fileno
        self.offsets: dict[str, int] = {}

    def table(
        self, table: str, classes: Sequence[str], compression: str
    ) -> dict[str, NDArray[Any]]:
        """Return the columns of /items, /contours or /sources, by name."""
        columns = layout.tables(classes, compression)[table]
        return {
            name: self._array(f"{table}/{name}", dtype, trailing)
            for name, (dtype, trailing) in columns.items()
        }

    def bucket(self, name: str, classes: Sequence[str]) -> tuple[Bucket, int]:
        """Return shape and dtype of a bucket's images, and how many there are."""
        _, images, dtype = self._dataset(f"images/{name}")
        is_stack = len(images) == 3 and 0 not in images[1:]
        if not is_stack or dtype.kind not in "iuf":
            raise _FormatError(f"images/{name} is {dtype} {images}, expected images")
        bucket = Bucket((images[1], images[2]), dtype)
        if bucket.name != name:
            raise _FormatError(f"images/{name} holds images of {bucket.name}")
        expected = layout.mask_dtype(classes).str
        _, masks, _ = self._dataset(f"masks/{name}", expected, bucket.shape)
        if masks[0] != images[0]:
            raise _FormatError(
                f"masks/{name} has {masks[0]} masks for {images[0]} images"
            )
        return bucket, images[0]

    def pixels(self, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return images and masks of a bucket, (n, H, W) each."""
        return self._array(f"images/{name}"), self._array(f"masks/{name}")

    def codecs(self, bucket: Bucket, classes: Sequence[str]) -> tuple[Codec, Codec]:
        """Return the codecs of a bucket's images and masks.

        Raises StoreError if the file does not declare these filters and chunks.
        """
        codecs = compression.codecs(bucket, layout.mask_dtype(classes))
        for group, codec in zip(("images", "masks"), codecs, strict=True):
            name = f"{group}/{bucket.name}"
            dataset, _, _ = self._dataset(name)
            creation = dataset.id.get_create_plist()
            listed = [creation.get_filter(k) for k in range(creation.get_nfilters())]
            filters = [(number, values) for number, _, values, _ in listed]
            if dataset.chunks != (1, *bucket.shape) or not codec.reads(filters):
                raise _FormatError(
                    f"{name} has chunks {dataset.chunks} and filters {filters}, "
                    f"expected {(1, *bucket.shape)} and {codec.filters}"
                )
        return codecs

    def percentile_ranks(self) -> tuple[float, ...]:
        """Return the attribute `q` of items/percentiles."""
        column = self._file["items/percentiles"]
        ranks = tuple(np.ravel(_attribute(column, "q")).tolist())
        if ranks != layout.PERCENTILES:
            raise _FormatError(
                f"items/percentiles are at {ranks}, expected {layout.PERCENTILES}"
            )
        return ranks

    def release(self) -> None:
        """Release the pages of the map, see `release`."""
        release(self._map)

    def _dataset(
        self, name: str, dtype: str | None = None, trailing: tuple[int, ...] = ()
    ) -> tuple[Any, tuple[int, ...], np.dtype[Any]]:
        """Return a dataset, its shape and dtype; raise StoreError if they are wrong.

        dtype    : the expected one, "|S" for strings of any length, None for any dtype
            that is not big-endian
        trailing : the expected shape without the first axis; ignored without a dtype
        """
        dataset = self._file.get(name)
        if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
            raise _FormatError(f"has no dataset {name}")
        if h5py.h5o.get_info(dataset.id).fileno != self._file_number:
            raise _FormatError(f"{name} is a link into another file")
        shape = tuple(map(int, dataset.shape))
        stored = np.dtype(dataset.dtype.str)  # without h5py's metadata on strings
        text = "|S" if stored.kind == "S" else stored.str
        is_wrong = dtype is not None and (text, shape[1:]) != (dtype, trailing)
        if is_wrong or not shape or stored.byteorder == ">":
            axes = ", ".join(map(str, ("n", *trailing)))
            expected = "little-endian" if dtype is None else f"{dtype} ({axes})"
            raise _FormatError(f"{name} is {stored.str} {shape}, expected {expected}")
        return dataset, shape, stored

    def _array(
        self, name: str, dtype: str | None = None, trailing: tuple[int, ...] = ()
    ) -> NDArray[Any]:
        dataset, shape, stored = self._dataset(name, dtype, trailing)
        size = math.prod(shape) * stored.itemsize
        offset = dataset.id.get_offset() if size else 0
        if offset is None:
            raise _FormatError(f"{name} is not contiguous, so it cannot be mapped")
        if offset + size > len(self._map):
            raise _FormatError(
                f"{name} ends at byte {offset + size}, the file has {len(self._map)}"
            )
        self.offsets[name] = offset
        if not size:
            return np.empty(shape, stored)
        array: NDArray[Any] = np.ndarray(shape, stored, self._map, offset)
        if not array.flags.aligned:
            # Kernels need aligned arrays. fastseg aligns datasets from ALIGN_FROM bytes
            # on, so that only small ones are copied.
            array = array.copy()
            array.flags.writeable = False
        return array


def release(mapped: mmap.mmap) -> None:
    """Release this process's pages of a map; the system keeps them in its cache."""
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def check_columns(
    items: Columns,
    contours: Columns,
    sources: Columns,
    counts: Sequence[int],
    release: Callable[[], None],
) -> None:
    """Raise StoreError for columns of unequal length and indices outside of their data.

    counts  : how many images each bucket has
    release : called after each block of samples, so that only one block is in memory at
        a time
    """
    samples = _common_length("items", items)
    files = _common_length("sources", sources)
    by_ring = {n: contours[n] for n in ("item", "class", "group", "source")}
    rings = _common_length("contours", {**by_ring, "offsets": contours["offsets"][1:]})
    _need(samples == sum(counts), "items/row")
    _need(len(contours["offsets"]) > 0, "contours/offsets")
    classes = items["pixels"].shape[1]
    lengths = np.array([*counts, 0])
    ring = point = 0
    for start in range(0, samples, SAMPLES_AT_ONCE):
        block = slice(start, start + SAMPLES_AT_ONCE)
        bucket = items["bucket"][block]
        row = items["row"][block]
        _need_index(bucket, len(counts), "items/bucket")
        _need((_unsigned(row) < _unsigned(lengths)[bucket]).all(), "items/row")
        _need_index(items["source"][block], files, "items/source")

        first, stop = items["contours"][block].T
        follows = first[0] == ring and (first[1:] == stop[:-1]).all()
        _need(follows and (first <= stop).all(), "items/contours")
        _need(stop[-1] <= rings, "items/contours")
        block_rings = slice(ring, int(stop[-1]))
        ring = block_rings.stop
        _need_index(contours["item"][block_rings], samples, "contours/item")
        _need_index(contours["class"][block_rings], classes, "contours/class")
        _need_index(contours["source"][block_rings], files, "contours/source")

        offsets = contours["offsets"][block_rings.start : block_rings.stop + 1]
        _need(offsets[0] == point, "contours/offsets")
        _need((offsets[1:] >= offsets[:-1]).all(), "contours/offsets")
        point = int(offsets[-1])
        release()
    _need(ring == rings, "items/contours")
    _need(contours["offsets"][0] == 0, "contours/offsets")
    _need(point == len(contours["points"]), "contours/offsets")


def check_chunks(items: Columns, length: int, release: Callable[[], None]) -> None:
    """Raise StoreError for chunks that are not inside a file of that length."""
    for name in layout.CHUNK_COLUMNS:
        column = items[name]
        for start in range(0, len(column), SAMPLES_AT_ONCE):
            offset, size = _unsigned(column[start : start + SAMPLES_AT_ONCE]).T
            inside = (size > 0) & (size <= length) & (offset <= length - size)
            _need(inside.all(), f"items/{name}")
            release()


def _common_length(table: str, columns: Columns) -> int:
    """Return the length of all columns of a table, or raise StoreError."""
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise _FormatError(f"/{table} has columns of lengths {sorted(lengths)}")
    return lengths.pop()


def _need_index(values: NDArray[Any], count: int, name: str) -> None:
    _need(values.size == 0 or _unsigned(values).max() < count, name)


def _unsigned(values: NDArray[Any]) -> NDArray[Any]:
    """Return integers as unsigned ones, so that negative indices become too large."""
    unsigned: NDArray[Any] = values.view(f"u{values.itemsize}")
    return unsigned


def _need(is_valid: Any, name: str) -> None:
    if not is_valid:
        raise _FormatError(f"{name} is invalid or does not fit the rest of the file")


def _attribute(file: Any, name: str) -> Any:
    """Return an attribute, None if it is missing or of a type that no store has.

    Such an attribute is not read: damaged strings of variable length crash HDF5.
    """
    if name not in file.attrs:
        return None
    kind = file.attrs.get_id(name).get_type()
    if isinstance(kind, h5py.h5t.TypeStringID):
        is_readable = not kind.is_variable_str()
    else:
        is_readable = isinstance(kind, h5py.h5t.TypeIntegerID | h5py.h5t.TypeFloatID)
    return file.attrs[name] if is_readable else None


def _text(attributes: Mapping[str, Any], name: str) -> str:
    try:
        return bytes.decode(attributes[name])
    except (TypeError, UnicodeDecodeError):
        raise _FormatError(f"the attribute {name} is not text") from None


def _names(attributes: Mapping[str, Any], name: str) -> tuple[str, ...]:
    array = np.asarray(attributes[name])
    if array.ndim == 1 and array.dtype.kind == "S":
        names = tuple(text.decode(errors="replace") for text in array.tolist())
        if all(names) and len(set(names)) == len(names):
            return names
    raise _FormatError(f"the attribute {name} is not a list of names")


def _record(attributes: Mapping[str, Any], name: str) -> dict[str, Any]:
    try:
        record = json.loads(_text(attributes, name))
        # Raises ValueError for a lone surrogate, which JSON allows and UTF-8 does not.
        layout.canonical_json(record).encode()
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise _FormatError(f"the attribute {name} is not a JSON object")
    return record


def _equals(value: Any, expected: Any) -> bool:
    return np.ndim(value) == 0 and bool(value == expected)


def _is_hex(text: Any, digits: int) -> bool:
    return isinstance(text, str) and bool(re.fullmatch(f"[0-9a-f]{{{digits}}}", text))
