"""Writes what HDF5 must know of a store: first where the pixels go, then the rest.

HDF5 never touches the pixels. It makes an index, a file with everything but them and
holes in their place; what fills the holes is written by others, in any order and by
many at a time. `merge_index` then puts the rest around the pixels.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64

from fastseg.errors import BuildError
from fastseg.store import compression, layout
from fastseg.store.compression import Codec
from fastseg.store.layout import Bucket
from fastseg.store.writing.hdf5_file import open_hdf5
from fastseg.store.writing.records import Records, Slots
from fastseg.store.writing.totals import Totals

COPIED_AT_ONCE = 2**20
# Large datasets begin on a page; behind chunks, all begin where arrays of numbers may.
PIXELS_ALIGNED = {
    "alignment_threshold": layout.ALIGN_FROM,
    "alignment_interval": layout.PAGE,
}
ARRAYS_ALIGNED = {"alignment_threshold": 1, "alignment_interval": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What decides where the pixels of a store lie.

    classes     : names
    counts      : each bucket and how many items it has, by name
    compression : "" or that of `layout`
    """

    classes: tuple[str, ...]
    counts: tuple[tuple[Bucket, int], ...]
    compression: str = ""

    @property
    def items(self) -> int:
        """How many there are."""
        return sum(count for _, count in self.counts)


class Batch(NamedTuple):
    """Neighbours among all items: their records and where they stand."""

    records: Records
    slots: Slots


@dataclass(frozen=True, slots=True, kw_only=True)
class Extents:
    """Where datasets of pixels begin in the file, by name of the bucket; its size."""

    images: Mapping[str, int]
    masks: Mapping[str, int]
    size: int


def reserve_pixels(path: Path, shape: Shape) -> Extents:
    """Return where the pixels of a store of that shape lie; path is for a moment."""
    try:
        with _create(path, shape) as file:
            extents = _extents(file, shape)
        return Extents(**{**extents, "size": path.stat().st_size})
    finally:
        path.unlink(missing_ok=True)


def write_index(
    path: Path,
    shape: Shape,
    batches: Callable[[], Iterable[Batch]],
    tally: Totals,
    *,
    options: Mapping[str, Any],
    software: Mapping[str, str],
) -> tuple[Extents, str]:
    """Write a store without its pixels; return their places and the fingerprint.

    batches : gives all items, in their order
    tally   : of their records, in their order

    The same arguments give the same bytes.
    """
    with _create(path, shape) as file:
        extents = _extents(file, shape)
        checksums = _write_columns(file, shape, batches, tally, {})
        fingerprint = _write_attributes(file, shape, checksums, options, software)
    return Extents(**{**extents, "size": path.stat().st_size}), fingerprint


def write_compressed(
    path: Path,
    shape: Shape,
    batches: Callable[[], Iterable[Batch]],
    tally: Totals,
    chunks: Callable[[list[int]], tuple[Any, Any]],
    *,
    options: Mapping[str, Any],
    software: Mapping[str, str],
) -> str:
    """Write a compressed store, the pixels by item and then the rest.

    batches, tally : as for `write_index`
    chunks         : gives those of image and mask that lie at the places of a record

    Returns the fingerprint. The same arguments give the same bytes.
    """
    # Where chunks had to begin at certain places, HDF5 would remember each gap.
    with open_hdf5(path, "w") as file:
        _allocate_pixels(file, shape)
        names = [bucket.name for bucket, _ in shape.counts]
        images = [file[f"images/{name}"] for name in names]
        masks = [file[f"masks/{name}"] for name in names]
        for records, slots in batches():
            places = records.offsets.tolist(), slots.bucket.tolist(), slots.row.tolist()
            for lie, number, row in zip(*places, strict=True):
                image, mask = chunks(lie)
                images[number].id.write_direct_chunk((row, 0, 0), image)
                masks[number].id.write_direct_chunk((row, 0, 0), mask)
        index = {
            column: list(map(compression.chunk_index, datasets))
            for column, datasets in (("image_chunk", images), ("mask_chunk", masks))
        }
    with open_hdf5(path, "r+", **ARRAYS_ALIGNED) as file:
        checksums = _write_columns(file, shape, batches, tally, index)
        return _write_attributes(file, shape, checksums, options, software)


def merge_index(index: Path, output: BinaryIO, shape: Shape, extents: Extents) -> None:
    """Copy an index into the file that holds the pixels, around them."""
    holes = []
    masks = layout.mask_dtype(shape.classes).itemsize
    for bucket, count in shape.counts:
        pixels = count * bucket.shape[0] * bucket.shape[1]
        start = extents.images[bucket.name]
        holes.append((start, start + pixels * bucket.dtype.itemsize))
        start = extents.masks[bucket.name]
        holes.append((start, start + pixels * masks))
    output.truncate(extents.size)
    with index.open("rb") as file:
        start = 0
        for first, stop in [*sorted(holes), (extents.size, extents.size)]:
            file.seek(start)
            output.seek(start)
            while start < first:
                data = file.read(min(first - start, COPIED_AT_ONCE))
                output.write(data)
                start += len(data)
            start = stop


@contextmanager
def _create(path: Path, shape: Shape) -> Iterator[Any]:
    """Create an HDF5 file with room for the pixels."""
    with open_hdf5(path, "w", **PIXELS_ALIGNED) as file:
        _allocate_pixels(file, shape)
        yield file


def _allocate_pixels(file: Any, shape: Shape) -> None:
    masks = layout.mask_dtype(shape.classes)
    for bucket, count in shape.counts:
        size = (count, *bucket.shape)
        codecs = compression.codecs(bucket, masks)
        for group, codec in zip(("images", "masks"), codecs, strict=True):
            name = f"{group}/{bucket.name}"
            packed = codec if shape.compression else None
            _allocate(file, name, size, codec.dtype, packed)


def _extents(file: Any, shape: Shape) -> dict[str, Any]:
    names = [bucket.name for bucket, _ in shape.counts]
    return {
        group: {name: file[f"{group}/{name}"].id.get_offset() for name in names}
        for group in ("images", "masks")
    }


class _Column:
    """A dataset that is written from its beginning to its end."""

    def __init__(self, file: Any, name: str, shape: tuple[int, ...], dtype: Any):
        self._name, self._shape, self._dtype = name, shape, dtype
        self._dataset = _allocate(file, name, shape, dtype)
        self._type = self._dataset.get_type()
        self._hash, self._end = xxh3_64(), 0

    def add(self, values: Any) -> None:
        """Write the next values."""
        array = np.ascontiguousarray(values, self._dtype)
        if array.size:
            place = memory = h5py.h5s.ALL
            if array.shape != self._shape:
                # A fourth of the time that h5py's own indexing takes.
                place = self._dataset.get_space()
                start = self._end, *[0] * (array.ndim - 1)
                place.select_hyperslab(start, array.shape)
                memory = h5py.h5s.create_simple(array.shape)
            self._dataset.write(memory, place, array, self._type)
            self._hash.update(array.data)
        self._end += len(array)

    def checksum(self) -> str:
        """Return the XXH3-64 of all that was written, which must be all there is."""
        if self._end != self._shape[0]:
            raise BuildError(
                f"{self._name} got {self._end} of {self._shape[0]} values; "
                "this is a defect of fastseg"
            )
        return str(self._hash.hexdigest())


def _write_columns(
    file: Any,
    shape: Shape,
    batches: Callable[[], Iterable[Batch]],
    tally: Totals,
    chunks: Mapping[str, Sequence[NDArray[np.int64]]],
) -> dict[str, str]:
    """Write /items, /contours and /sources; return their checksums.

    chunks : by column of /items, where those of each bucket lie
    """
    sources, files = tally.rows()
    lengths = {
        "items": shape.items,
        "contours": tally.rings,
        "sources": sources,
        "contours/offsets": tally.rings + 1,
        "contours/points": tally.points,
    }
    widths = {f"items/{name}": width for name, width in tally.longest.items()}
    widths["sources/path"] = tally.longest["path"]
    columns = {}
    for table, names in layout.tables(shape.classes, shape.compression).items():
        for name, (kind, trailing) in names.items():
            place = f"{table}/{name}"
            strings = h5py.string_dtype("utf-8", widths.get(place, 1))
            dtype = strings if kind == "|S" else np.dtype(kind)
            size = (lengths.get(place, lengths[table]), *trailing)
            columns[place] = _Column(file, place, size, dtype)
    for block in tally.sources():
        for name, column in block.items():
            columns[f"sources/{name}"].add(column)
    columns["contours/offsets"].add([0])
    start = rings = points = seen = 0
    for batch, slots in batches():
        for name in batch.meta.dtype.names or ():
            columns[f"items/{name}"].add(batch.meta[name])
        for name in layout.STRING_COLUMNS:
            columns[f"items/{name}"].add(getattr(batch, name))
        columns["items/bucket"].add(slots.bucket)
        columns["items/row"].add(slots.row)
        for name, index in chunks.items():
            columns[f"items/{name}"].add(_by_slot(index, slots))
        # The image's file comes first, then those of the contours.
        firsts = seen + np.cumsum(batch.file_counts) - batch.file_counts
        columns["items/source"].add(files[firsts])
        items, bits, places, sizes = batch.rings.T
        ends = rings + np.cumsum(np.bincount(items, minlength=batch.items))
        columns["items/contours"].add(np.column_stack([np.r_[rings, ends[:-1]], ends]))
        columns["contours/item"].add(start + items)
        columns["contours/class"].add(bits)
        columns["contours/source"].add(files[firsts[items] + places])
        columns["contours/offsets"].add(points + np.cumsum(sizes))
        columns["contours/points"].add(batch.points)
        start, rings, points = (
            start + batch.items,
            int(ends[-1]),
            points + int(sizes.sum()),
        )
        seen += len(batch.path)
    return {name: column.checksum() for name, column in columns.items()}


def _by_slot(index: Sequence[NDArray[np.int64]], slots: Slots) -> NDArray[np.int64]:
    """Return the rows of items, each from the table of its bucket."""
    rows = np.empty((len(slots.row), index[0].shape[1]), np.int64)
    for number in set(slots.bucket.tolist()):
        own = slots.bucket == number
        rows[own] = index[number][slots.row[own]]
    return rows


def _write_attributes(
    file: Any,
    shape: Shape,
    checksums: dict[str, str],
    options: Mapping[str, Any],
    software: Mapping[str, str],
) -> str:
    """Write the attributes of the file; return its fingerprint."""
    names = [bucket.name for bucket, _ in shape.counts]
    wrote = layout.canonical_json(dict(software))
    del checksums["contours/points"]  # have theirs by item
    checksums["software"] = layout.checksum(wrote.encode())
    _describe(file["items/percentiles"], q=np.array(layout.PERCENTILES))
    attributes: dict[str, Any] = {}
    attributes["format"] = _text(layout.FORMAT)
    attributes["version"] = np.array(layout.VERSION)
    attributes["classes"] = _texts(shape.classes)
    attributes["buckets"] = _texts(names)
    attributes["options"] = _text(layout.canonical_json(dict(options)))
    attributes["software"] = _text(wrote)
    attributes["checksums"] = _text(layout.canonical_json(checksums))
    fingerprint = layout.fingerprint(shape.classes, names, options, checksums)
    attributes["fingerprint"] = _text(fingerprint)
    if shape.compression:
        attributes["compression"] = _text(shape.compression)
    attributes["complete"] = np.array(1)
    _describe(file, **attributes)
    return fingerprint


def _describe(place: Any, **attributes: NDArray[Any]) -> None:
    """Give a group or dataset attributes, four times as fast as h5py's own way."""
    for name, value in attributes.items():
        space = h5py.h5s.create_simple(value.shape)
        kind = h5py.h5t.py_create(value.dtype, logical=True)
        h5py.h5a.create(place.id, name.encode(), kind, space).write(value)


def grid_of(shape: Shape, extents: Extents) -> NDArray[np.int64]:
    """Return of image and mask, by bucket, where the first begins and its bytes.

    int64 (2, b, 2), the last axis image and mask.
    """
    masks = layout.mask_dtype(shape.classes).itemsize
    first, size = [], []
    for bucket, _ in shape.counts:
        pixels = bucket.shape[0] * bucket.shape[1]
        first.append((extents.images[bucket.name], extents.masks[bucket.name]))
        size.append((pixels * bucket.dtype.itemsize, pixels * masks))
    return np.array([first, size], np.int64).reshape(2, -1, 2)


def _allocate(
    file: Any,
    name: str,
    shape: tuple[int, ...],
    dtype: Any,
    codec: Codec | None = None,
) -> Any:
    """Create a dataset and return its number for HDF5, as h5py wraps it."""
    creation, links = _properties(codec)
    space = h5py.h5s.create_simple(shape)
    kind = h5py.h5t.py_create(dtype, logical=True)
    return h5py.h5d.create(file.id, name.encode(), kind, space, creation, links)


@cache  # there are some forty datasets, and a store may be small
def _properties(codec: Codec | None) -> tuple[Any, Any]:
    """Return how HDF5 is to create datasets, and links to them."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if codec:
        creation.set_chunk((1, *codec.shape))
        for number, values in codec.filters:
            # HDF5 takes an optional filter that it does not have: it is not to use it.
            creation.set_filter(number, h5py.h5z.FLAG_OPTIONAL, values)
    else:
        # Allocated at once and never filled: offsets are known from the start, and
        # the file stays sparse until real bytes arrive.
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
    return np.array(encoded, h5py.string_dtype("utf-8", length))


def _text(text: str) -> NDArray[np.bytes_]:
    """Return a text as a string of fixed length: damaged, the others crash HDF5."""
    return np.array(text.encode(), h5py.string_dtype("utf-8", len(text.encode())))
