"""Records of finished items: all that a store holds of them but their pixels.

`Record` is one item, `Records` are many items as columns.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg.store import layout

# Columns of /items that no record has: they depend on the other items of the store.
LATE_COLUMNS = ("bucket", "row", "source", "contours")


class Slots(NamedTuple):
    """Where n consecutive items will be in the store.

    links  : uint64 (n,), XXH3-64 of each item's rows of the links table
    bucket : int64 (n,), index of its bucket; buckets are sorted by name
    row    : int64 (n,), its row in the bucket
    """

    links: NDArray[np.uint64]
    bucket: NDArray[np.int64]
    row: NDArray[np.int64]

    def pick(self, some: Any) -> "Slots":
        """Return the slots of some of the items."""
        return Slots(*(column[some] for column in self))


class Source(NamedTuple):
    """A file that the store is made from; its path is relative to the data set."""

    path: str
    size: int
    xxh3: int


class Rings(NamedTuple):
    """The rings of one class of an item, which are from one file.

    bit     : bit of the class in masks
    source  : index into the sources of the record
    lengths : number of vertices of each ring
    """

    bit: int
    source: int
    lengths: tuple[int, ...]


class Record(NamedTuple):
    """All that a store holds of an item but its pixels.

    links   : XXH3-64 of its rows of the links table
    offsets : of its image and its mask in the file of pixels; for compressed chunks,
        followed by their sizes in bytes
    stamps  : the `files.Stamp` of each file when it was read. A resumed build compares
        them to see whether the files have changed; they are not in the store
    sources : the image's file, then those of its contours
    rings   : by class; `points` has their vertices
    meta    : its values in the columns of /items, except LATE_COLUMNS and strings, as
        the bytes of a `meta_dtype`
    points  : float64 (P, 2)
    """

    links: int
    offsets: tuple[int, ...]
    stamps: tuple[tuple[int, ...], ...]
    patient: str
    series: str
    sources: tuple[Source, ...]
    rings: tuple[Rings, ...]
    meta: bytes
    points: NDArray[np.float64]


@cache
def meta_dtype(classes: tuple[str, ...]) -> np.dtype[Any]:
    """Return the dtype of a record's metadata."""
    columns = layout.column_layout(classes)
    return np.dtype(
        [(name, *columns[name]) for name in columns if name not in LATE_COLUMNS]
    )


@cache
def _meta_struct(classes: tuple[str, ...]) -> tuple[struct.Struct, tuple[Any, ...]]:
    """Return the packer of a record's metadata, and for each column its name and
    whether it has several values.
    """
    formats = {"i8": "q", "u8": "Q", "f8": "d", "u4": "I", "u2": "H", "u1": "B"}
    columns = layout.column_layout(classes)
    names = [name for name in columns if name not in LATE_COLUMNS]
    codes = [
        f"{prod(trailing)}{formats[dtype[1:]]}"
        for dtype, trailing in map(columns.__getitem__, names)
    ]
    packed = tuple((name, columns[name][1] != ()) for name in names)
    return struct.Struct("<" + "".join(codes)), packed


def pack_meta(values: Mapping[str, Any], classes: tuple[str, ...]) -> bytes:
    """Return the metadata of a record as bytes.

    values : by column, a number, or a flat sequence where an item has several
    """
    packer, names = _meta_struct(classes)
    numbers: list[Any] = []
    for name, several in names:
        if several:
            numbers += values[name]
        else:
            numbers.append(values[name])
    return packer.pack(*numbers)


# Dtypes of the columns of Records.
KINDS = {
    "links": "<u8",
    "offsets": "<i8",
    "patient": "S",
    "series": "S",
    "stamp_counts": "<i8",
    "stamps": "<i8",
    "file_counts": "<i8",
    "path": "S",
    "size": "<i8",
    "xxh3": "<u8",
    "rings": "<i8",
    "meta": "V",
    "points": "<f8",
}
# Columns of Records with several numbers in a row.
ROWS = {"offsets", "stamps", "rings", "points"}


class Records(NamedTuple):
    """Records of n items as columns; all rows of one item are neighbours.

    links        : uint64 (n,)
    offsets      : int64 (n, 2), for compressed chunks (n, 4)
    patient, series : bytes (n,), UTF-8
    stamp_counts : int64 (n,), number of stamps of each item
    stamps       : int64 (s, 4)
    file_counts  : int64 (n,), number of sources of each item
    path, size, xxh3 : bytes, int64 and uint64 (f,), of the sources
    rings        : int64 (r, 4): index of the item in these records, bit of the class,
        index into the item's sources, number of vertices
    meta         : `meta_dtype` (n,)
    points       : float64 (p, 2)
    """

    links: NDArray[np.uint64]
    offsets: NDArray[np.int64]
    patient: NDArray[np.bytes_]
    series: NDArray[np.bytes_]
    stamp_counts: NDArray[np.int64]
    stamps: NDArray[np.int64]
    file_counts: NDArray[np.int64]
    path: NDArray[np.bytes_]
    size: NDArray[np.int64]
    xxh3: NDArray[np.uint64]
    rings: NDArray[np.int64]
    meta: NDArray[Any]
    points: NDArray[np.float64]

    @property
    def items(self) -> int:
        """Number of items."""
        return len(self.links)

    def pick(self, items: ArrayLike) -> "Records":
        """Return the records of some items."""
        chosen = np.asarray(items, np.int64)
        stamps = _rows_of(self.stamp_counts, chosen)
        files = _rows_of(self.file_counts, chosen)
        ring_counts = np.bincount(self.rings[:, 0], minlength=self.items)
        ring_rows = _rows_of(ring_counts, chosen)
        rings = self.rings[ring_rows]
        rings[:, 0] = np.repeat(np.arange(len(chosen)), ring_counts[chosen])
        return Records(
            links=self.links[chosen],
            offsets=self.offsets[chosen],
            patient=self.patient[chosen],
            series=self.series[chosen],
            stamp_counts=self.stamp_counts[chosen],
            stamps=self.stamps[stamps],
            file_counts=self.file_counts[chosen],
            path=self.path[files],
            size=self.size[files],
            xxh3=self.xxh3[files],
            rings=rings,
            meta=self.meta[chosen],
            points=self.points[_rows_of(self.rings[:, 3], ring_rows)],
        )

    def split(self) -> list[Record]:
        """Return the records one by one."""
        paths = [path.decode() for path in self.path.tolist()]
        files = list(map(Source, paths, self.size.tolist(), self.xxh3.tolist()))
        stamps = list(map(tuple, self.stamps.tolist()))
        rings: list[dict[tuple[int, int], list[int]]] = [{} for _ in self.links]
        point_counts = [0] * self.items
        for item, bit, source, vertices in self.rings.tolist():
            rings[item].setdefault((bit, source), []).append(vertices)
            point_counts[item] += vertices
        columns = zip(
            self.links.tolist(),
            map(tuple, self.offsets.tolist()),
            map(tuple, _slices(stamps, self.stamp_counts)),
            [text.decode() for text in self.patient.tolist()],
            [text.decode() for text in self.series.tolist()],
            map(tuple, _slices(files, self.file_counts)),
            [
                tuple(Rings(*key, tuple(lengths)) for key, lengths in groups.items())
                for groups in rings
            ],
            [meta.tobytes() for meta in self.meta],
            _slices(self.points, point_counts),
            strict=True,
        )
        return [Record(*values) for values in columns]


def gather(records: Sequence[Record], classes: tuple[str, ...]) -> Records:
    """Return one or more records as columns."""
    files = [source for record in records for source in record.sources]
    rings = [
        (k, group.bit, group.source, vertices)
        for k, record in enumerate(records)
        for group in record.rings
        for vertices in group.lengths
    ]
    stamps = [stamp for record in records for stamp in record.stamps]
    return Records(
        links=np.array([record.links for record in records], "<u8"),
        offsets=np.array([record.offsets for record in records], "<i8"),
        patient=as_texts(record.patient for record in records),
        series=as_texts(record.series for record in records),
        stamp_counts=np.array([len(record.stamps) for record in records], "<i8"),
        stamps=np.array(stamps, "<i8").reshape(-1, 4),
        file_counts=np.array([len(record.sources) for record in records], "<i8"),
        path=as_texts(file.path for file in files),
        size=np.array([file.size for file in files], "<i8"),
        xxh3=np.array([file.xxh3 for file in files], "<u8"),
        rings=np.array(rings, "<i8").reshape(-1, 4),
        meta=np.frombuffer(
            b"".join(record.meta for record in records), meta_dtype(classes)
        ),
        points=np.concatenate([record.points for record in records]),
    )


def join(blocks: Sequence[Records]) -> Records:
    """Return the items of one or more Records as one, in their order."""
    if len(blocks) == 1:
        return blocks[0]
    columns = [np.concatenate(column) for column in zip(*blocks, strict=True)]
    joined = Records(*columns)
    firsts = np.cumsum([0, *(block.items for block in blocks[:-1])])
    joined.rings[:, 0] += np.repeat(firsts, [len(block.rings) for block in blocks])
    return joined


def as_texts(texts: Iterable[str]) -> NDArray[np.bytes_]:
    """Return texts as an array of bytes, in UTF-8."""
    return np.array([text.encode() for text in texts], np.bytes_)


def to_bytes(records: Records) -> bytes:
    """Return records as bytes: length and row size of each column, then the columns."""
    shapes = [
        (len(column), prod(column.shape[1:]) * column.itemsize) for column in records
    ]
    header = np.array(shapes, "<i8").tobytes()
    return b"".join([header, *(column.tobytes() for column in records)])


def from_bytes(data: bytes, classes: tuple[str, ...]) -> Records:
    """Return the records of which `to_bytes` made the data."""
    shapes = np.frombuffer(data, "<i8", 2 * len(KINDS)).reshape(-1, 2)
    columns: list[Any] = []
    offset = shapes.nbytes
    for (count, width), (name, kind) in zip(
        shapes.tolist(), KINDS.items(), strict=True
    ):
        if kind == "S":
            dtype = np.dtype((np.bytes_, width))
        else:
            dtype = meta_dtype(classes) if name == "meta" else np.dtype(kind)
        size = count * width
        column = np.frombuffer(data, dtype, size // dtype.itemsize, offset)
        if name in ROWS:
            column = column.reshape(count, width // dtype.itemsize)
        columns.append(column)
        offset += size
    return Records(*columns)


def _slices(values: Any, counts: ArrayLike) -> Iterator[Any]:
    """Yield consecutive slices of a sequence, of these lengths."""
    ends = [0, *np.cumsum(counts).tolist()]
    return (values[start:stop] for start, stop in pairwise(ends))


def _rows_of(counts: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of chosen items in a column with counts[k] rows for item k."""
    sizes = counts[chosen]
    starts = (np.cumsum(counts) - counts)[chosen]
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(sizes.sum())
