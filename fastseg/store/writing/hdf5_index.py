"""Writes the columns and attributes of a store with HDF5.

In a store without compression, HDF5 never touches the pixels. `reserve_pixels` asks it
for their offsets, and the threads of a build write them there, in any order, into the
file of pixels. `write_index` writes an HDF5 file with all the rest, the index. It has
holes where the pixels belong; `merge_index` copies it around the pixels.

`write_compressed` writes a whole compressed store.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64

from fastseg.errors import BuildError
from fastseg.outputs import open_work
from fastseg.store import compression, layout
from fastseg.store.compression import Codec
from fastseg.store.layout import Bucket
from fastseg.store.metadata import metadata_checksum, metadata_ranges
from fastseg.store.writing.hdf5_file import open_hdf5
from fastseg.store.writing.records import Records, Slots
from fastseg.store.writing.totals import Totals
from fastseg.store.writing.volumes import VolumeColumns

# Bytes of the index that are copied at once.
COPIED_AT_ONCE = 2**20
# Large datasets begin at a memory page. In a compressed store, columns begin at a
# multiple of 8 bytes, as arrays of numbers must.
PIXELS_ALIGNED = {
    "alignment_threshold": layout.ALIGN_FROM,
    "alignment_interval": layout.PAGE,
}
ARRAYS_ALIGNED = {"alignment_threshold": 1, "alignment_interval": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreShape:
    """What the offsets of a store's pixels depend on.

    classes     : names
    counts      : each bucket and how many items it has, sorted by name
    compression : "" or "zstd"
    """

    classes: tuple[str, ...]
    counts: tuple[tuple[Bucket, int], ...]
    compression: str = ""

    @property
    def items(self) -> int:
        """Number of items."""
        return sum(count for _, count in self.counts)


class FinishedItems(NamedTuple):
    """Consecutive items that are finished: their records and slots."""

    records: Records
    slots: Slots


class Content(NamedTuple):
    """All that an index is written from.

    finished : a function that yields all items, in their order
    totals   : of their records
    volumes  : that they make up
    positions_mm : float64 (n,), of the items along the normals of their series
    options, software : as the attributes of a store
    """

    finished: Callable[[], Iterable[FinishedItems]]
    totals: Totals
    volumes: VolumeColumns
    positions_mm: NDArray[np.float64]
    options: Mapping[str, Any]
    software: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelOffsets:
    """Offsets of the datasets of pixels, by name of the bucket, and the file's size."""

    images: Mapping[str, int]
    masks: Mapping[str, int]
    file_size: int


def reserve_pixels(path: Path, shape: StoreShape) -> PixelOffsets:
    """Return the offsets that HDF5 gives the pixels of a store of that shape.

    path : for a temporary file
    """
    try:
        with _create(path, shape) as file:
            offsets = _pixel_offsets(file, shape)
        return PixelOffsets(**offsets, file_size=path.stat().st_size)
    finally:
        path.unlink(missing_ok=True)


def write_index(
    path: Path, shape: StoreShape, content: Content
) -> tuple[PixelOffsets, str]:
    """Write a store without its pixels; return their offsets and the fingerprint.

    The same arguments give the same bytes.
    """
    with _create(path, shape) as file:
        offsets = _pixel_offsets(file, shape)
        tables = _write_tables(file, shape, content, {})
    pixels = PixelOffsets(**offsets, file_size=path.stat().st_size)
    starts, sizes = offsets_and_sizes(shape, pixels)
    counts = np.array([count for _, count in shape.counts])
    extents = np.stack([starts, sizes * counts[:, None]], -1).reshape(-1, 2)
    _write_metadata_checksum(path, tables, [extents])
    return pixels, tables.fingerprint


def write_compressed(
    path: Path,
    shape: StoreShape,
    content: Content,
    read: Callable[[int, int], NDArray[np.uint8]],
) -> str:
    """Write a compressed store: the chunks, item by item, then the rest.

    read : returns the bytes at an offset in the file of pixels, given their number

    Returns the fingerprint. The same arguments give the same bytes.
    """
    # Chunks are not aligned, because HDF5 would keep a list of the gaps between them.
    with open_hdf5(path, "w") as file:
        _allocate_pixels(file, shape)
        names = [bucket.name for bucket, _ in shape.counts]
        images = [file[f"images/{name}"] for name in names]
        masks = [file[f"masks/{name}"] for name in names]
        for records, slots in content.finished():
            columns = records.offsets, slots.bucket, slots.row
            items = zip(*(column.tolist() for column in columns), strict=True)
            for (image, mask, image_size, mask_size), bucket, row in items:
                chunk = row, 0, 0
                images[bucket].id.write_direct_chunk(chunk, read(image, image_size))
                masks[bucket].id.write_direct_chunk(chunk, read(mask, mask_size))
        chunk_columns = {
            column: list(map(compression.chunk_index, datasets))
            for column, datasets in (("image_chunk", images), ("mask_chunk", masks))
        }
    with open_hdf5(path, "r+", **ARRAYS_ALIGNED) as file:
        tables = _write_tables(file, shape, content, chunk_columns)
    extents = [index for indices in chunk_columns.values() for index in indices]
    _write_metadata_checksum(path, tables, extents)
    return tables.fingerprint


def merge_index(
    index: Path, output: BinaryIO, shape: StoreShape, offsets: PixelOffsets
) -> None:
    """Copy an index into the file of pixels, around the pixels.

    index  : path of the index
    output : the file of pixels
    """
    starts, sizes = offsets_and_sizes(shape, offsets)
    counts = np.array([count for _, count in shape.counts])
    ends = starts + sizes * counts[:, None]
    holes = zip(starts.ravel().tolist(), ends.ravel().tolist(), strict=True)
    end = offsets.file_size
    output.truncate(end)
    with os.fdopen(open_work(index), "rb") as file:
        start = 0
        for first, stop in [*sorted(holes), (end, end)]:
            copy_bytes(file, start, output, start, first - start)
            start = stop


def copy_bytes(
    source: BinaryIO, start: int, output: BinaryIO, target: int, size: int
) -> None:
    """Copy a range of bytes from one open file to another."""
    source.seek(start)
    output.seek(target)
    while size > 0:
        data = source.read(min(size, COPIED_AT_ONCE))
        output.write(data)
        size -= len(data)


@contextmanager
def _create(path: Path, shape: StoreShape) -> Iterator[Any]:
    """Create an HDF5 file with datasets for the pixels, which it reserves."""
    with open_hdf5(path, "w", **PIXELS_ALIGNED) as file:
        _allocate_pixels(file, shape)
        yield file


def _allocate_pixels(file: Any, shape: StoreShape) -> None:
    masks = layout.mask_dtype(shape.classes)
    for bucket, count in shape.counts:
        size = (count, *bucket.shape)
        codecs = compression.codecs(bucket, masks)
        for group, codec in zip(("images", "masks"), codecs, strict=True):
            name = f"{group}/{bucket.name}"
            packed = codec if shape.compression else None
            _allocate(file, name, size, codec.dtype, packed)


def _pixel_offsets(file: Any, shape: StoreShape) -> dict[str, Any]:
    names = [bucket.name for bucket, _ in shape.counts]
    return {
        group: {name: file[f"{group}/{name}"].id.get_offset() for name in names}
        for group in ("images", "masks")
    }


class _Column:
    """A dataset that is written block by block, from its first row to its last."""

    def __init__(
        self, file: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
    ):
        self._name = name
        self._shape = shape
        self._dtype = dtype
        self._dataset = _allocate(file, name, shape, dtype)
        self._type = _type_of(dtype.str)
        self._hash = xxh3_64()
        self._end = 0

    def add(self, values: Any) -> None:
        """Write the next rows."""
        array = np.ascontiguousarray(values, self._dtype)
        if array.size:
            target = memory = h5py.h5s.ALL
            if array.shape != self._shape:
                # This takes a fourth of the time of h5py's indexing.
                target = self._dataset.get_space()
                start = self._end, *[0] * (array.ndim - 1)
                target.select_hyperslab(start, array.shape)
                memory = h5py.h5s.create_simple(array.shape)
            self._dataset.write(memory, target, array, self._type)
            self._hash.update(array.data)
        self._end += len(array)

    @property
    def extent(self) -> tuple[int, int]:
        """Offset in the file and size in bytes."""
        size = prod(self._shape) * self._type.get_size()
        return (self._dataset.get_offset(), size) if size else (0, 0)

    def checksum(self) -> str:
        """Return the XXH3-64 of all rows, which must have been written."""
        if self._end != self._shape[0]:
            raise BuildError(
                f"{self._name} got {self._end} of {self._shape[0]} rows; this is a bug "
                "in fastseg"
            )
        return str(self._hash.hexdigest())


class _Tables(NamedTuple):
    """Columns and attributes that have been written.

    extents     : int64 (n, 2), offset in the file and size in bytes of each column
    fingerprint : of the store
    placeholder : the value of the attribute `metadata_checksum`, until HDF5 has closed
        the file
    """

    extents: NDArray[np.int64]
    fingerprint: str
    placeholder: bytes


def _write_tables(
    file: Any,
    shape: StoreShape,
    content: Content,
    chunks: Mapping[str, Sequence[NDArray[np.int64]]],
) -> _Tables:
    """Write columns and attributes."""
    columns = _write_columns(file, shape, content, chunks)
    checksums = {name: column.checksum() for name, column in columns.items()}
    fingerprint, placeholder = _write_attributes(file, shape, checksums, content)
    extents = np.array([column.extent for column in columns.values()], np.int64)
    return _Tables(extents, fingerprint, placeholder)


def _write_metadata_checksum(
    path: Path, tables: _Tables, extents: Sequence[NDArray[np.int64]]
) -> None:
    """Replace the placeholder in a file that HDF5 has closed.

    extents : int64 (n, 2) each, offset and size in bytes of the pixels
    """
    with os.fdopen(open_work(path), "r+b") as file:

        def read(start: int, stop: int) -> bytes:
            file.seek(start)
            return file.read(stop - start)

        length = file.seek(0, os.SEEK_END)
        ranges = metadata_ranges([tables.extents, *extents], length)
        digest, offsets = metadata_checksum(ranges, read, tables.placeholder)
        if len(offsets) != 1:
            raise BuildError(
                f"{path}: holds the placeholder of metadata_checksum {len(offsets)} "
                "times, expected once; this is a bug in fastseg"
            )
        file.seek(offsets[0])
        file.write(f"{digest:016x}".encode())


def _write_columns(
    file: Any,
    shape: StoreShape,
    content: Content,
    chunks: Mapping[str, Sequence[NDArray[np.int64]]],
) -> dict[str, _Column]:
    """Write all tables; return their columns.

    chunks : for image_chunk and mask_chunk, the `chunk_index` of each bucket
    """
    totals, volumes = content.totals, content.volumes
    lengths = {
        "items": shape.items,
        "contours": totals.rings,
        "sources": totals.sources,
        "volumes": len(volumes.first),
        "contours/offsets": totals.rings + 1,
        "contours/points": totals.points,
        "histograms": totals.histograms,
        "histograms/offsets": totals.histograms + 1,
        "histograms/counts": totals.codes,
    }
    widths = {f"items/{name}": width for name, width in totals.longest.items()}
    widths["sources/path"] = totals.longest["path"]
    widths["volumes/patient"] = totals.longest["patient"]
    widths["volumes/series"] = totals.longest["series"]
    columns = {}
    for table, names in layout.tables(shape.classes, shape.compression).items():
        for name, (kind, trailing) in names.items():
            path = f"{table}/{name}"
            dtype = np.dtype(f"S{widths[path]}" if kind == "|S" else kind)
            size = (lengths.get(path, lengths[table]), *trailing)
            columns[path] = _Column(file, path, size, dtype)
    columns["contours/offsets"].add([0])
    columns["histograms/offsets"].add([0])
    # How many of each have been written.
    items = rings = points = files = codes = 0
    for records, slots in content.finished():
        for name in records.meta.dtype.names or ():
            columns[f"items/{name}"].add(records.meta[name])
        for name in layout.STRING_COLUMNS:
            columns[f"items/{name}"].add(getattr(records, name))
        positions = content.positions_mm[items : items + records.items]
        columns["items/position_mm"].add(positions)
        columns["items/bucket"].add(slots.bucket)
        columns["items/row"].add(slots.row)
        numbers = layout.volumes_of_items(
            volumes.first, volumes.slices, items, items + records.items
        )
        columns["items/volume"].add(numbers)
        _add_volumes(columns, volumes, items, records)
        for name, index in chunks.items():
            columns[f"items/{name}"].add(_by_slot(index, slots))
        is_new = totals.is_first[files : files + len(records.path)]
        for name in layout.SOURCE_COLUMNS:
            columns[f"sources/{name}"].add(getattr(records, name)[is_new])
        # The image's file comes first, then those of the contours.
        firsts = files + np.cumsum(records.file_counts) - records.file_counts
        columns["items/source"].add(totals.file_rows[firsts])
        item, bit, source, group, vertices = records.rings.T
        ends = rings + np.cumsum(np.bincount(item, minlength=records.items))
        columns["items/contours"].add(np.column_stack([np.r_[rings, ends[:-1]], ends]))
        columns["contours/item"].add(items + item)
        columns["contours/class"].add(bit)
        columns["contours/group"].add(group)
        columns["contours/source"].add(totals.file_rows[firsts[item] + source])
        columns["contours/offsets"].add(points + np.cumsum(vertices))
        columns["contours/points"].add(records.points)
        _add_histograms(columns, records, items, codes)
        items += records.items
        codes += len(records.codes)
        rings = int(ends[-1])
        points += int(vertices.sum())
        files += len(records.path)
    return columns


def _add_volumes(
    columns: Mapping[str, _Column], volumes: VolumeColumns, start: int, records: Records
) -> None:
    """Write the rows of /volumes that begin with some items.

    start   : the first of the items
    records : of the items
    """
    beginning = volumes.between(start, start + records.items)
    for name, values in zip(beginning._fields, beginning, strict=True):
        columns[f"volumes/{name}"].add(values)
    firsts = beginning.first - start
    columns["volumes/patient"].add(records.patient[firsts])
    columns["volumes/series"].add(records.series[firsts])
    columns["volumes/time"].add(records.meta["time"][firsts])


def _add_histograms(
    columns: Mapping[str, _Column], records: Records, items: int, codes: int
) -> None:
    """Write the rows of /histograms of some items.

    items, codes : how many items, and bytes of counts, have been written before
    """
    item, number, least, width, pixels, sizes = records.histograms.T
    mean, std = records.moments.T
    values = {
        "item": items + item,
        "class": number,
        "pixels": pixels,
        "mean": mean,
        "std": std,
        "width": width,
        "least": least,
        "offsets": codes + np.cumsum(sizes),
        "counts": records.codes,
    }
    for name, column in values.items():
        columns[f"histograms/{name}"].add(column)


def _by_slot(index: Sequence[NDArray[np.int64]], slots: Slots) -> NDArray[np.int64]:
    """Return for each item the row of its slot, from a table for each bucket."""
    rows = np.empty((len(slots.row), index[0].shape[1]), np.int64)
    for bucket in set(slots.bucket.tolist()):
        is_in = slots.bucket == bucket
        rows[is_in] = index[bucket][slots.row[is_in]]
    return rows


def _write_attributes(
    file: Any,
    shape: StoreShape,
    checksums: dict[str, str],
    content: Content,
) -> tuple[str, bytes]:
    """Write the attributes of the file.

    Returns the fingerprint and the value of `metadata_checksum`, a placeholder.
    """
    names = [bucket.name for bucket, _ in shape.counts]
    options = dict(content.options)
    versions = layout.canonical_json(dict(content.software))
    del checksums["contours/points"]  # they have checksums by item
    checksums["software"] = layout.checksum(versions.encode())
    _set_attributes(file["items/percentiles"], q=np.array(layout.PERCENTILES))
    attributes: dict[str, Any] = {}
    attributes["format"] = _text(layout.FORMAT)
    attributes["version"] = np.array(layout.VERSION, np.int64)
    attributes["classes"] = _texts(shape.classes)
    attributes["buckets"] = _texts(names)
    attributes["options"] = _text(layout.canonical_json(options))
    attributes["software"] = _text(versions)
    attributes["checksums"] = _text(layout.canonical_json(checksums))
    fingerprint = layout.fingerprint(shape.classes, names, options, checksums)
    attributes["fingerprint"] = _text(fingerprint)
    if shape.compression:
        attributes["compression"] = _text(shape.compression)
    # Any text will do that occurs nowhere else.
    placeholder = layout.checksum(f"metadata_checksum of {fingerprint}".encode())
    attributes["metadata_checksum"] = _text(placeholder)
    attributes["complete"] = np.array(1, np.int64)
    _set_attributes(file, **attributes)
    return fingerprint, placeholder.encode()


def _set_attributes(target: Any, **attributes: NDArray[Any]) -> None:
    """Set attributes of a group or dataset, four times as fast as h5py's `attrs`."""
    for name, value in attributes.items():
        kind, space = _type_of(value.dtype.str), _space_of(value.shape)
        attribute = h5py.h5a.create(target.id, name.encode(), kind, space)
        attribute.write(value, kind)


def offsets_and_sizes(shape: StoreShape, offsets: PixelOffsets) -> NDArray[np.int64]:
    """Return the offset of the first image and mask of each bucket, and their sizes.

    int64 (2, B, 2): offset or size in bytes, bucket, image or mask.
    """
    masks = layout.mask_dtype(shape.classes).itemsize
    first = []
    size = []
    for bucket, _ in shape.counts:
        pixels = bucket.shape[0] * bucket.shape[1]
        first.append((offsets.images[bucket.name], offsets.masks[bucket.name]))
        size.append((pixels * bucket.dtype.itemsize, pixels * masks))
    return np.array([first, size], np.int64).reshape(2, -1, 2)


def _allocate(
    file: Any,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    codec: Codec | None = None,
) -> Any:
    """Create a dataset and return its h5py DatasetID."""
    creation, links = _properties(codec)
    kind, space = _type_of(dtype.str), _space_of(shape)
    return h5py.h5d.create(file.id, name.encode(), kind, space, creation, links)


# Of the 85 us that a column takes, types and spaces that are made anew are 38.
@lru_cache(64)
def _type_of(dtype: str) -> Any:
    """Return the type that h5py writes for a dtype; strings are UTF-8."""
    kind = np.dtype(dtype)
    if kind.kind == "S":
        kind = h5py.string_dtype("utf-8", kind.itemsize)
    return h5py.h5t.py_create(kind, logical=True)


@lru_cache(64)
def _space_of(shape: tuple[int, ...]) -> Any:
    return h5py.h5s.create_simple(shape)


@cache  # a store has some forty datasets, and may be small otherwise
def _properties(codec: Codec | None) -> tuple[Any, Any]:
    """Return the HDF5 property lists to create datasets, and links to them."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if codec:
        creation.set_chunk((1, *codec.shape))
        for number, values in codec.filters:
            # Optional, because HDF5 need not have the filter: it does not apply it.
            creation.set_filter(number, h5py.h5z.FLAG_OPTIONAL, values)
    else:
        # Allocated at once, so that the offsets are known from the start; without fill
        # values (see below), so that the file stays sparse until pixels are written.
        creation.set_layout(h5py.h5d.CONTIGUOUS)
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)  # the same content gives the same bytes
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    return creation, links


def _texts(texts: Sequence[str]) -> NDArray[np.bytes_]:
    encoded = [text.encode() for text in texts]
    length = max(map(len, encoded), default=0) or 1
    return np.array(encoded, f"S{length}")


def _text(text: str) -> NDArray[np.bytes_]:
    """Return a string of fixed length: damaged ones of variable length crash HDF5."""
    return np.array(text.encode(), f"S{len(text.encode())}")
