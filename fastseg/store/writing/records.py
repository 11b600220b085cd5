"""What a build knows of each finished item: one by one, or many as columns."""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg.store import layout

# Columns of /items that are known when all items are.
LATE_COLUMNS = ("bucket", "row", "source", "contours")


class Slots(NamedTuple):
    """Where n neighbours among the items of a store will stand in it.

    links  : uint64 (n,), XXH3-64 of their rows in the links table
    bucket : int64 (n,), which of the buckets, by name
    row    : int64 (n,), which of the items of the bucket
    """

    links: NDArray[np.uint64]
    bucket: NDArray[np.int64]
    row: NDArray[np.int64]

    def pick(self, some: Any) -> "Slots":
        """Return the slots of some of the items."""
        return Slots(*(column[some] for column in self))


class Source(NamedTuple):
    """A file that the store is made from: path relative to the data set's root."""

    path: str
    size: int
    xxh3: int


class Rings(NamedTuple):
    """The rings of one class: its bit, which of the sources, vertices of each ring."""

    bit: int
    source: int
    lengths: tuple[int, ...]


class Record(NamedTuple):
    """All that a store holds of an item but its pixels.

    links   : XXH3-64 of its rows in the links table
    offsets : where its image and its mask begin in the file that is being written,
        and of chunks also how many bytes they have
    stamps  : what the file system said of each source when it was read; tells a
        resumed build that nothing has changed, and is not stored
    sources : the image's file, then those of its contours
    rings   : by class; points are their vertices
    meta    : the columns of /items but LATE_COLUMNS and strings, a `meta_dtype`
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
    """Return the dtype of a record's facts."""
    columns = layout.column_layout(classes)
    return np.dtype(
        [(name, *columns[name]) for name in columns if name not in LATE_COLUMNS]
    )


@cache
def _meta_struct(classes: tuple[str, ...]) -> tuple[struct.Struct, tuple[Any, ...]]:
    """Return how facts are packed, and their names with whether they are several."""
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
    """Return the facts of a record from plain numbers by column.

    Where a column has several for an item, they are a flat sequence.
    """
    packer, names = _meta_struct(classes)
    numbers: list[Any] = []
    for name, several in names:
        if several:
            numbers += values[name]
        else:
            numbers.append(values[name])
    return packer.pack(*numbers)


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
# Columns with several numbers a row.
ROWS = {"offsets", "stamps", "rings", "points"}


class Records(NamedTuple):
    """Records of n items as columns, in which what belongs to an item stands together.

    links    : uint64 (n,)
    offsets  : int64 (n, 2), of chunks (n, 4)
    patient, series : bytes (n,), UTF-8
    stamp_counts : int64 (n,), how many of `stamps`, int64 (s, 4), each item has
    file_counts : int64 (n,), how many sources each item has
    path, size, xxh3 : bytes, int64 and uint64 (f,), of these
    rings    : int64 (r, 4), item (counted from 0 in these records), bit, which of the
        item's sources, vertices
    meta     : a `meta_dtype` (n,)
    points   : float64 (p, 2)
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
        """How many they are of."""
        return len(self.links)

    def pick(self, items: ArrayLike) -> "Records":
        """Return the records of some items."""
        chosen = np.asarray(items, np.int64)
        stamps, files = (
            _spans(self.stamp_counts, chosen),
            _spans(self.file_counts, chosen),
        )
        owners, vertices = self.rings[:, 0], self.rings[:, 3]
        counts = np.bincount(owners, minlength=self.items)
        ring_rows = _spans(counts, chosen)
        rings = self.rings[ring_rows]
        rings[:, 0] = np.repeat(np.arange(len(chosen)), counts[chosen])
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
            points=self.points[_spans(vertices, ring_rows)],
        )

    def split(self) -> list[Record]:
        """Return the records one by one."""
        paths = [path.decode() for path in self.path.tolist()]
        files = list(map(Source, paths, self.size.tolist(), self.xxh3.tolist()))
        stamps = list(map(tuple, self.stamps.tolist()))
        rings: list[dict[tuple[int, int], list[int]]] = [{} for _ in self.links]
        points = [0] * self.items
        for item, bit, source, vertices in self.rings.tolist():
            rings[item].setdefault((bit, source), []).append(vertices)
            points[item] += vertices
        columns = zip(
            self.links.tolist(),
            map(tuple, self.offsets.tolist()),
            map(tuple, _parts(stamps, self.stamp_counts)),
            [text.decode() for text in self.patient.tolist()],
            [text.decode() for text in self.series.tolist()],
            map(tuple, _parts(files, self.file_counts)),
            [
                tuple(Rings(*key, tuple(sizes)) for key, sizes in own.items())
                for own in rings
            ],
            [meta.tobytes() for meta in self.meta],
            _parts(self.points, points),
            strict=True,
        )
        return [Record(*values) for values in columns]


def gather(records: Sequence[Record], classes: tuple[str, ...]) -> Records:
    """Return records as columns; there is at least one."""
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


def join(parts: Sequence[Records]) -> Records:
    """Return several Records as one; there is at least one."""
    if len(parts) == 1:
        return parts[0]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    joined = Records(*columns)
    firsts = np.cumsum([0, *(part.items for part in parts[:-1])])
    joined.rings[:, 0] += np.repeat(firsts, [len(part.rings) for part in parts])
    return joined


def as_texts(texts: Iterable[str]) -> NDArray[np.bytes_]:
    """Return texts in UTF-8."""
    return np.array([text.encode() for text in texts], np.bytes_)


def to_bytes(records: Records) -> bytes:
    """Return records as `from_bytes` takes them."""
    shapes = [
        (len(column), prod(column.shape[1:]) * column.itemsize) for column in records
    ]
    parts = [np.array(shapes, "<i8").tobytes(), *(x.tobytes() for x in records)]
    return b"".join(parts)


def from_bytes(data: bytes, classes: tuple[str, ...]) -> Records:
    """Return the records that `to_bytes` was given."""
    shapes = np.frombuffer(data, "<i8", 2 * len(KINDS)).reshape(-1, 2)
    columns: list[Any] = []
    at = shapes.nbytes
    for (count, width), (name, kind) in zip(
        shapes.tolist(), KINDS.items(), strict=True
    ):
        if kind == "S":
            dtype = np.dtype((np.bytes_, width))
        else:
            dtype = meta_dtype(classes) if name == "meta" else np.dtype(kind)
        size = count * width
        column = np.frombuffer(data, dtype, size // dtype.itemsize, at)
        if name in ROWS:
            column = column.reshape(count, width // dtype.itemsize)
        columns.append(column)
        at += size
    return Records(*columns)


def _parts(values: Any, counts: ArrayLike) -> Iterator[Any]:
    """Yield the parts of a sequence that have so many values each."""
    ends = [0, *np.cumsum(counts).tolist()]
    return (values[start:stop] for start, stop in pairwise(ends))


def _spans(counts: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where the parts of chosen items lie, each item having so many of them."""
    sizes = counts[chosen]
    starts = (np.cumsum(counts) - counts)[chosen]
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(sizes.sum())
