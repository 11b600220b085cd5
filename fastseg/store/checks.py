"""Checks that a file is a valid store, when it is opened.

`index_scan` or h5py read which datasets the file has and where. The checks compare them
with the format in `layout`, down to types, lengths and indices. So no later loop reads
outside of the memory map, whether the file is damaged or crafted on purpose.

HDF5 gets a file object, not a path: it reads the file that is mapped, also while h5py
has it open in the same process, and errors of the system come through unchanged. It
opens every path that a file names, so links and data outside of the store are refused
before HDF5 follows them.
"""

import contextlib
import errno
import json
import math
import mmap
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from fastseg import bounds
from fastseg.errors import StoreError, StoreVersionError
from fastseg.files import HDF5, kind_of, no_such_file, open_regular
from fastseg.paths import StrPath
from fastseg.store import compression, layout
from fastseg.store.compression import Codec
from fastseg.store.index_scan import ScannedFile
from fastseg.store.layout import Bucket

Columns = Mapping[str, NDArray[Any]]

# Indices are checked in blocks of this many samples, which fit into a core's caches.
SAMPLES_AT_ONCE = 2**15
# Errors of the system for an offset that no file has: HDF5 found it in the file.
BAD_OFFSET = errno.EINVAL, errno.EOVERFLOW
# HDF5 allows an attribute no more bytes, in the form in which fastseg writes them.
MAX_ATTRIBUTE_BYTES = 2**16


class _FormatError(StoreError):
    """A file deviates from the format of its version."""


def open_file(path: StrPath) -> FileIO:
    """Open the file of a store for reading; its `name` is the path.

    Raises OSError, and StoreError if it is no regular file.
    """
    try:
        return open_regular(path)
    except FileNotFoundError:
        raise no_such_file(Path(path), "`fastseg build` writes a store") from None
    except IsADirectoryError as exc:
        if exc.errno is not None:
            raise
        raise StoreError(
            f"{path}: is a folder, expected a store; `fastseg link` and `fastseg "
            "build` make one from a data set"
        ) from None
    except OSError as exc:
        if exc.errno is not None:
            raise
        raise StoreError(f"{exc}, expected a store") from None


@contextmanager
def open_hdf5(file: FileIO) -> Iterator[Any]:
    """Open a file with h5py; raise damage in the `with` block as StoreErrors.

    file : as `open_file` returns it

    Texts of errors begin with the path. HDF5 and h5py report damage by errors of a
    dozen types, hence `Exception`; but errors of the system are raised as they are.
    """
    try:
        hdf5 = h5py.File(file, "r")
    except Exception as exc:
        _raise_system_error(exc, file)
        kind = kind_of(file.name)
        if kind not in ("", HDF5):
            raise StoreError(
                f"{file.name}: is {kind}, expected a store, an HDF5 file that `fastseg "
                "build` makes from a links table"
            ) from None
        raise StoreError(
            f"{file.name}: is no HDF5 file, or is truncated ({exc}); build it again"
        ) from None
    try:
        with hdf5:
            yield hdf5
    except _FormatError as exc:
        text = f"{file.name}: {exc}; the file is damaged or was changed: build it again"
        raise StoreError(text) from None
    except StoreError as exc:
        raise type(exc)(f"{file.name}: {exc}") from None
    except Exception as exc:
        _raise_system_error(exc, file)
        raise StoreError(
            f"{file.name}: cannot be read, probably damaged ({exc!r}); build it again"
        ) from exc


def _raise_system_error(exc: Exception, file: FileIO) -> None:
    """Raise an error of the system, which says nothing about the file, with its name.

    HDF5 makes no system calls on a file object, so its own errors have no `errno`.
    """
    if isinstance(exc, OSError) and exc.errno not in (None, *BAD_OFFSET):
        raise OSError(exc.errno, exc.strerror, str(file.name)) from None
    if isinstance(exc, MemoryError):
        raise exc


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
    metadata_checksum: str


# Types of HDF5, as dtypes: strings of any length; whole numbers.
TEXT = "|S"
NUMBER = "<i8"
_TEXTS = tuple(Attributes.__dataclass_fields__)


def has_format(file: Any) -> bool:
    """Return whether an open HDF5 file says that it is a store, of any version."""
    return _equals(_attribute(file.id, "format"), layout.FORMAT.encode())


def read_attributes(file: Any) -> Attributes:
    """Return the attributes of a complete store, or raise StoreError.

    file : as `open_hdf5` yields it
    """
    root = file.id
    return check_attributes(lambda name, kind: _attribute(root, name, kind))


def check_attributes(read: Callable[[str, str | None], Any]) -> Attributes:
    """Return the attributes of a complete store, or raise StoreError.

    read : returns the attribute of a name, see `_attribute`
    """
    # Other files, and stores of other versions, may have any types here.
    if not _equals(read("format", None), layout.FORMAT.encode()):
        raise StoreError(
            "is an HDF5 file, but not a fastseg store; `fastseg build` makes one from "
            "a links table"
        )
    version = read("version", None)
    if not _equals(version, layout.VERSION):
        is_newer = np.ndim(version) == 0 and version and version > layout.VERSION
        remedy = "upgrade fastseg, or build it again" if is_newer else "build it again"
        raise StoreVersionError(
            f"has version {version}, this fastseg reads version {layout.VERSION}; "
            f"{remedy}"
        )
    if not _equals(read("complete", NUMBER), 1):
        raise StoreError("is incomplete; build it again")
    for name, kind in (("format", TEXT), ("version", NUMBER)):
        if read(name, kind) is None:
            raise _FormatError(f"the attribute {name} has another type of HDF5")
    values = {name: read(name, TEXT) for name in _TEXTS}
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
        metadata_checksum=_text(values, "metadata_checksum"),
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
    if not _is_hex(attributes.metadata_checksum, 16):
        raise _FormatError("the attribute metadata_checksum is not 16 hex digits")
    return attributes


class Datasets:
    """Turns the datasets of an open file into read-only arrays over its map.

    offsets : the byte at which each dataset begins, by its name
    """

    def __init__(self, file: Any, map: mmap.mmap):
        self._root = h5py.h5g.open(file.id, b"/")
        self._groups: dict[str, Any] = {}
        self._map = map
        self.offsets: dict[str, int] = {}

    def table(
        self, table: str, classes: Sequence[str], compression: str
    ) -> dict[str, NDArray[Any]]:
        """Return the columns of one of `layout.TABLES`, by name."""
        columns = layout.tables(classes, compression)[table]
        return {
            name: self._array(f"{table}/{name}", dtype, trailing)
            for name, (dtype, trailing) in columns.items()
        }

    def bucket(
        self, name: str, classes: Sequence[str], compression: str
    ) -> tuple[Bucket, int]:
        """Return shape and dtype of a bucket's images, and how many there are."""
        _, images, dtype = self._dataset(f"images/{name}")
        is_stack = len(images) == 3 and 0 not in images[1:]
        if not is_stack or dtype.kind not in "iuf":
            raise _FormatError(f"images/{name} is {dtype} {images}, expected images")
        bucket = Bucket((images[1], images[2]), dtype)
        if bucket.name != name:
            raise _FormatError(f"images/{name} holds images of {bucket.name}")
        if compression and math.prod(bucket.shape) > bounds.MAX_COMPRESSED_PIXELS:
            raise StoreError(
                f"is compressed and has images of {images[1]} x {images[2]} pixels, "
                f"expected at most {bounds.MAX_COMPRESSED_PIXELS} pixels; build it "
                "without compression"
            )
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
            creation = dataset.get_create_plist()
            listed = [creation.get_filter(k) for k in range(creation.get_nfilters())]
            filters = [(number, values) for number, _, values, _ in listed]
            is_chunked = creation.get_layout() == h5py.h5d.CHUNKED
            chunks = creation.get_chunk() if is_chunked else None
            if chunks != (1, *bucket.shape) or not codec.reads(filters):
                raise _FormatError(
                    f"{name} has chunks {chunks} and filters {filters}, "
                    f"expected {(1, *bucket.shape)} and {codec.filters}"
                )
        return codecs

    def percentile_ranks(self) -> tuple[float, ...]:
        """Return the attribute `q` of items/percentiles."""
        ranks = tuple(np.ravel(self._ranks()).tolist())
        if ranks != layout.PERCENTILES:
            raise _FormatError(
                f"items/percentiles are at {ranks}, expected {layout.PERCENTILES}"
            )
        return ranks

    def release(self) -> None:
        """Release the pages of the map, see `release`."""
        release(self._map)

    def _ranks(self) -> Any:
        column, _, _ = self._dataset("items/percentiles")
        return _attribute(column, "q", "<f8")

    def _dataset(
        self, name: str, dtype: str | None = None, trailing: tuple[int, ...] = ()
    ) -> tuple[Any, tuple[int, ...], np.dtype[Any]]:
        """Return a dataset, its shape and dtype; raise StoreError if they are wrong.

        dtype    : the expected one, "|S" for strings of any length, None for any dtype
            that is not big-endian
        trailing : the expected shape without the first axis; ignored without a dtype
        """
        group, _, column = name.partition("/")
        if group not in self._groups:
            self._groups[group] = self._open(self._root, group, name)
        dataset = self._open(self._groups[group], column, name)
        if not isinstance(dataset, h5py.h5d.DatasetID):
            raise _FormatError(f"has no dataset {name}")
        # What has an offset is contiguous and in this file. To look takes 1 us, to get
        # the properties 28.
        if dataset.get_offset() is None:
            creation = dataset.get_create_plist()
            is_virtual = creation.get_layout() == h5py.h5d.VIRTUAL
            if is_virtual or creation.get_external_count():
                raise _FormatError(f"{name} has its data in other files")
        space = dataset.get_space()
        if space.get_simple_extent_type() == h5py.h5s.NULL:
            raise _FormatError(f"has no dataset {name}")
        shape = space.get_simple_extent_dims()
        kind = dataset.get_type()
        if dtype is not None and dtype != TEXT and kind == _type_of(dtype):
            stored = np.dtype(dtype)  # h5py takes 35 us to find it
        else:
            stored = np.dtype(kind.dtype.str)  # without h5py's metadata on strings
        text = TEXT if stored.kind == "S" else stored.str
        is_wrong = dtype is not None and (text, shape[1:]) != (dtype, trailing)
        if is_wrong or not shape or stored.byteorder == ">":
            axes = ", ".join(map(str, ("n", *trailing)))
            expected = "little-endian" if dtype is None else f"{dtype} ({axes})"
            raise _FormatError(f"{name} is {stored.str} {shape}, expected {expected}")
        if not _is_exactly(kind, text):
            raise _FormatError(f"{name} has another type of HDF5 than {stored.str}")
        if space.get_simple_extent_dims(True) != shape:
            raise _FormatError(f"{name} can be extended")
        return dataset, shape, stored

    def _open(self, parent: Any, child: str, name: str) -> Any:
        """Return what a group contains under a name, opened; follow no link.

        name : of the dataset, for errors
        """
        key = child.encode()
        is_group = isinstance(parent, h5py.h5g.GroupID)
        if not is_group or "/" in child or not parent.links.exists(key):
            raise _FormatError(f"has no dataset {name}")
        if parent.links.get_info(key).type != h5py.h5l.TYPE_HARD:
            raise _FormatError(f"{name} is a link, which may lead into another file")
        if parent is not self._root:
            # Nearly always a dataset. To find out what it is takes 18 us longer.
            with contextlib.suppress(KeyError, ValueError, RuntimeError, TypeError):
                return h5py.h5d.open(parent, key)
        return h5py.h5o.open(parent, key)

    def _array(
        self, name: str, dtype: str | None = None, trailing: tuple[int, ...] = ()
    ) -> NDArray[Any]:
        dataset, shape, stored = self._dataset(name, dtype, trailing)
        size = math.prod(shape) * stored.itemsize
        offset = dataset.get_offset() if size else 0
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


class ScannedDatasets(Datasets):
    """The same of a file that `index_scan` has read."""

    def __init__(self, file: ScannedFile, map: mmap.mmap):
        self._datasets = file.datasets
        self._map = map
        self.offsets = {}

    def _ranks(self) -> Any:
        return self._datasets["items/percentiles"].attributes.get("q")

    def _dataset(
        self, name: str, dtype: str | None = None, trailing: tuple[int, ...] = ()
    ) -> tuple[Any, tuple[int, ...], np.dtype[Any]]:
        """Return a dataset, its shape and dtype; raise StoreError if they are wrong."""
        dataset = self._datasets.get(name)
        if dataset is None:
            raise _FormatError(f"has no dataset {name}")
        text = TEXT if dataset.dtype.kind == "S" else dataset.dtype.str
        if dtype is not None and (text, dataset.shape[1:]) != (dtype, trailing):
            raise _FormatError(f"{name} is {dataset.dtype} {dataset.shape}")
        return dataset, dataset.shape, dataset.dtype


def release(mapped: mmap.mmap) -> None:
    """Release this process's pages of a map; the system keeps them in its cache."""
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def check_columns(
    tables: Mapping[str, Columns],
    counts: Sequence[int],
    release: Callable[[], None],
) -> None:
    """Raise StoreError for columns of unequal length and indices outside of their data.

    tables  : the columns of each of `layout.TABLES`
    counts  : how many images each bucket has
    release : called after each block of samples, so that only one block is in memory at
        a time
    """
    items, contours, sources = (tables[n] for n in ("items", "contours", "sources"))
    samples = _common_length("items", items)
    files = _common_length("sources", sources)
    by_ring = {n: contours[n] for n in ("item", "class", "group", "source")}
    rings = _common_length("contours", {**by_ring, "offsets": contours["offsets"][1:]})
    histograms = tables["histograms"]
    by_row = {name: histograms[name] for name in histograms if name != "counts"}
    _common_length("histograms", {**by_row, "offsets": histograms["offsets"][1:]})
    _need(samples == sum(counts), "items/row")
    _need(len(contours["offsets"]) > 0, "contours/offsets")
    _check_volumes(tables["volumes"], samples)
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
        _check_slices(items, tables["volumes"], start, min(block.stop, samples))

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


def _check_volumes(volumes: Columns, samples: int) -> None:
    """Raise StoreError for volumes outside of the samples, or that overlap."""
    _common_length("volumes", volumes)
    first, slices, spacing = (volumes[n] for n in ("first", "slices", "spacing_mm"))
    is_volume = (slices >= layout.LEAST_SLICES) & (slices <= samples)
    _need(is_volume.all(), "volumes/slices")
    _need_index(first, samples, "volumes/first")
    end = first + slices
    _need((end[:-1] <= first[1:]).all(), "volumes/first")
    _need((end[-1:] <= samples).all(), "volumes/slices")
    _need((np.isfinite(spacing) & (spacing > 0)).all(), "volumes/spacing_mm")


def _check_slices(items: Columns, volumes: Columns, start: int, stop: int) -> None:
    """Raise StoreError if the slices of a volume are not consecutive rows of a bucket.

    start, stop : the range of items to check, and the one before, which may be of the
        same volume
    """
    expected = layout.volumes_of_items(volumes["first"], volumes["slices"], start, stop)
    _need((items["volume"][start:stop] == expected).all(), "items/volume")
    block = slice(max(start - 1, 0), stop)
    volume, bucket, row = (items[n][block] for n in ("volume", "bucket", "row"))
    is_next = (bucket[1:] == bucket[:-1]) & (row[1:] - row[:-1] == 1)
    starts = (volume[1:] != volume[:-1]) | (volume[1:] < 0)
    _need((is_next | starts).all(), "items/volume")


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


def _attribute(owner: Any, name: str, dtype: str | None = None) -> Any:
    """Return an attribute, None if it is missing or of another type.

    owner : h5py's ID of the file or dataset
    dtype : the expected one; None for any number or text of fixed length

    Attributes of other types are not read: damaged strings of variable length crash
    HDF5, and references may lead anywhere.
    """
    key = name.encode()
    if not h5py.h5a.exists(owner, key):
        return None
    attribute = h5py.h5a.open(owner, key)
    kind = attribute.get_type()
    if dtype is not None:
        is_readable = _is_exactly(kind, dtype)
    elif isinstance(kind, h5py.h5t.TypeStringID):
        is_readable = not kind.is_variable_str()
    else:
        is_readable = isinstance(kind, h5py.h5t.TypeIntegerID | h5py.h5t.TypeFloatID)
    space = attribute.get_space()
    if not is_readable or space.get_simple_extent_type() == h5py.h5s.NULL:
        return None
    shape = space.get_simple_extent_dims()
    if math.prod(shape) * kind.get_size() > MAX_ATTRIBUTE_BYTES:
        return None
    array = np.empty(shape, kind.dtype)
    attribute.read(array, mtype=kind)
    return array[()]


def _is_exactly(kind: Any, dtype: str) -> bool:
    """Return whether a type of HDF5 is the one that h5py writes for a dtype.

    kind : h5py's TypeID

    Numbers of one dtype may differ in precision, offset, padding or bias, and strings
    in padding and character set; other programs would read something else.
    """
    if dtype != TEXT:
        return bool(kind == _type_of(dtype))
    return (
        isinstance(kind, h5py.h5t.TypeStringID)
        and not kind.is_variable_str()
        and kind.get_cset() == h5py.h5t.CSET_UTF8
        and kind.get_strpad() == h5py.h5t.STR_NULLPAD
    )


@cache  # a store has few dtypes
def _type_of(dtype: str) -> Any:
    return h5py.h5t.py_create(np.dtype(dtype), logical=True)


def _text(attributes: Mapping[str, Any], name: str) -> str:
    try:
        return bytes.decode(attributes[name])
    except (TypeError, UnicodeDecodeError):
        raise _FormatError(f"the attribute {name} is not text") from None


def _names(attributes: Mapping[str, Any], name: str) -> tuple[str, ...]:
    array = np.asarray(attributes[name])
    if array.ndim == 1 and array.dtype.kind == "S":
        try:
            names = tuple(text.decode() for text in array.tolist())
        except UnicodeDecodeError:
            raise _FormatError(f"the attribute {name} is not UTF-8") from None
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
