"""What a build knows of each finished item, and the journal that keeps it.

A build appends to a journal beside the store in the making, some records at a time.
Each such frame has a checksum, so that one which was cut short, by a crash or a full
disk, is told from a whole one. The index of the finished store is written from the
journal.
"""

import json
import os
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fastseg.store import layout

# Columns of /items that are known when all items are.
LATE_COLUMNS = ("bucket", "row", "source", "contours")

# Length and XXH3-64 of what follows: the length of the heads, heads, facts, points.
FRAME = struct.Struct("<QQ")
HEAD_LENGTH = struct.Struct("<Q")
# Records of a frame: as many are lost when a process is killed. Alone, a record takes
# 13 µs; so, it takes 5.
FRAME_RECORDS = 32
# Frames that are at hand when they are read again, some 3 MB: all of a small set, and
# of others enough for items of an interrupted build, which stand elsewhere.
FRAMES_AT_HAND = 64


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
    places  : where its image and its mask begin in the file that is being written,
        and of chunks also how many bytes they have
    stamps  : what the file system said of each source when it was read; tells a
        resumed build that nothing has changed, and is not stored
    sources : the image's file, then those of its contours
    rings   : by class; points are their vertices
    facts   : the columns of /items but LATE_COLUMNS and strings, a `fact_dtype`
    points  : float64 (P, 2)
    """

    links: int
    places: tuple[int, ...]
    stamps: tuple[tuple[int, ...], ...]
    patient: str
    series: str
    sources: tuple[Source, ...]
    rings: tuple[Rings, ...]
    facts: bytes
    points: NDArray[np.float64]


@cache
def fact_dtype(classes: tuple[str, ...]) -> np.dtype[Any]:
    """Return the dtype of a record's facts."""
    columns = layout.column_layout(classes)
    return np.dtype(
        [(name, *columns[name]) for name in columns if name not in LATE_COLUMNS]
    )


@cache
def _fact_struct(classes: tuple[str, ...]) -> tuple[struct.Struct, tuple[Any, ...]]:
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


def pack_facts(values: Mapping[str, Any], classes: tuple[str, ...]) -> bytes:
    """Return the facts of a record from plain numbers by column.

    Where a column has several for an item, they are a flat sequence.
    """
    packer, names = _fact_struct(classes)
    numbers: list[Any] = []
    for name, several in names:
        if several:
            numbers += values[name]
        else:
            numbers.append(values[name])
    return packer.pack(*numbers)


def unpack_facts(records: Iterable[Record], classes: tuple[str, ...]) -> NDArray[Any]:
    """Return the facts of records, one row each."""
    data = b"".join(record.facts for record in records)
    return np.frombuffer(data, fact_dtype(classes))


def _encode(records: Sequence[Record]) -> bytes:
    heads = [(*record[:-2], len(record.points)) for record in records]
    head = json.dumps(heads, separators=(",", ":")).encode()
    body = b"".join(
        (
            HEAD_LENGTH.pack(len(head)),
            head,
            *(record.facts for record in records),
            *(record.points.tobytes() for record in records if len(record.points)),
        )
    )
    return FRAME.pack(len(body), xxh3_64_intdigest(body)) + body


def _decode(body: bytes, classes: tuple[str, ...]) -> list[Record]:
    (length,) = HEAD_LENGTH.unpack_from(body)
    at = HEAD_LENGTH.size + length
    heads, size = json.loads(body[HEAD_LENGTH.size : at]), fact_dtype(classes).itemsize
    vertices, first = np.frombuffer(body, "<f8", -1, at + len(heads) * size), 0
    vertices = vertices.reshape(-1, 2)
    records = []
    for links, places, stamps, patient, series, sources, rings, count in heads:
        records.append(
            Record(
                links=links,
                places=tuple(places),
                stamps=tuple(map(tuple, stamps)),
                patient=patient,
                series=series,
                sources=tuple(map(Source._make, sources)),
                rings=tuple(Rings(bit, k, tuple(sizes)) for bit, k, sizes in rings),
                facts=body[at : at + size],
                points=vertices[first : first + count],
            )
        )
        at, first = at + size, first + count
    return records


class Kept(NamedTuple):
    """A record of an earlier process: its number in the journal, and its pixels'."""

    at: int
    places: tuple[int, ...]


class Journal:
    """The records of a build, in a file; `kind` says under which rules they were made.

    kept : what was there already, by the hash of the links

    A file of another kind is begun anew. What is behind the last whole frame is cut
    off. Used by one thread.
    """

    def __init__(self, path: Path, kind: bytes, classes: Sequence[str]):
        self.path, self.classes = path, tuple(classes)
        self.kept: dict[int, Kept] = {}
        # Of each frame: where it begins, and the number of its first record.
        self._frames, self._firsts = array("q"), array("q")
        self._count = 0
        self._new: list[Record] = []
        self._at_hand: dict[int, list[Record]] = {}
        self._file = path.open("r+b" if path.exists() else "w+b")
        try:
            self._end = FRAME.size + len(kind)
            if self._read_frame(0) == kind:
                for record in self._scan():
                    self.kept[record.links] = Kept(self._count, record.places)
                    self._count += 1
            else:
                self._file.truncate(0)
                self._write(FRAME.pack(len(kind), xxh3_64_intdigest(kind)) + kind, 0)
            self._file.truncate(self._end)
        except BaseException:
            self._file.close()
            raise

    def append(self, record: Record) -> int:
        """Add a record and return its number. It is written with those that follow."""
        self._new.append(record)
        self._count += 1
        if len(self._new) == FRAME_RECORDS:
            self.flush()
        return self._count - 1

    def read(self, number: int) -> Record:
        """Return the record of a number that `append` or `kept` has told."""
        if number >= self._count - len(self._new):
            return self._new[number - self._count]
        frame = bisect_right(self._firsts, number) - 1
        if frame not in self._at_hand:
            body = self._read_frame(self._frames[frame])
            if body is None:
                raise OSError(f"{self.path}: was damaged while it was in use")
            self._hold(frame, _decode(body, self.classes))
        return self._at_hand[frame][number - self._firsts[frame]]

    def flush(self) -> None:
        """Write what has been added: to the system, where it survives this process."""
        records, self._new = self._new, []
        if records:
            data = _encode(records)
            self._write(data, self._end)
            self._note(self._count - len(records))
            self._hold(len(self._frames) - 1, records)
            self._end += len(data)

    def close(self) -> None:
        """Write what has been added and close the file, which stays."""
        try:
            self.flush()
        finally:
            self._file.close()

    def _hold(self, frame: int, records: list[Record]) -> None:
        if len(self._at_hand) == FRAMES_AT_HAND:
            del self._at_hand[next(iter(self._at_hand))]
        self._at_hand[frame] = records

    def _note(self, first: int) -> None:
        self._frames.append(self._end)
        self._firsts.append(first)

    def _scan(self) -> Iterator[Record]:
        while (body := self._read_frame(self._end)) is not None:
            self._note(self._count)
            yield from _decode(body, self.classes)
            self._end += FRAME.size + len(body)

    def _write(self, data: bytes, place: int) -> None:
        self._file.seek(place)
        self._file.write(data)
        self._file.flush()

    def _read_frame(self, place: int) -> bytes | None:
        """Return what a whole frame holds, None if there is none."""
        self._file.seek(place)
        frame = self._file.read(FRAME.size)
        if len(frame) < FRAME.size:
            return None
        length, digest = FRAME.unpack(frame)
        # A damaged length must not ask for more memory than the file has bytes.
        if length > os.fstat(self._file.fileno()).st_size:
            return None
        body = self._file.read(length)
        whole = len(body) == length and xxh3_64_intdigest(body) == digest
        return body if whole else None
