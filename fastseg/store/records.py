"""What a build knows of each finished item, and the journal that keeps it.

A build appends one record an item to a journal beside the store in the making. Each
record has a checksum, so that one which was cut short, by a crash or a full disk, is
told from a whole one. The index of the finished store is written from the journal.
"""

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fastseg.store import layout

# Columns of /items that are known when all items are.
LATE_COLUMNS = ("bucket", "row", "source", "contours")

# Length and XXH3-64 of what follows: the length of the head, head, facts, points.
FRAME = struct.Struct("<QQ")
HEAD_LENGTH = struct.Struct("<Q")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """All that a store holds of an item but its pixels.

    links   : XXH3-64 of its rows in the links table
    places  : where its image and its mask begin in the file that is being written,
        and of chunks also how many bytes they have
    stamps  : what the file system said of each source when it was read; tells a
        resumed build that nothing has changed, and is not stored
    sources : the image's file, then those of its contours
    rings   : by class; points float64 (P, 2) are their vertices
    facts   : the columns of /items but LATE_COLUMNS and strings, a structured scalar
    """

    links: int
    places: tuple[int, ...] = ()
    stamps: tuple[tuple[int, ...], ...]
    patient: str
    series: str
    sources: tuple[Source, ...]
    rings: tuple[Rings, ...]
    facts: Any
    points: NDArray[np.float64]


@cache
def fact_dtype(classes: tuple[str, ...]) -> np.dtype[Any]:
    """Return the dtype of a record's facts."""
    columns = layout.column_layout(classes)
    return np.dtype(
        [(name, *columns[name]) for name in columns if name not in LATE_COLUMNS]
    )


def pack_facts(values: Mapping[str, Any], classes: tuple[str, ...]) -> Any:
    """Return the facts of a record from values by column."""
    dtype = fact_dtype(classes)
    return np.array(tuple(values[name] for name in dtype.names or ()), dtype)


def _encode(record: Record) -> bytes:
    head = json.dumps(
        [
            record.links,
            record.places,
            record.stamps,
            record.patient,
            record.series,
            record.sources,
            record.rings,
        ]
    ).encode()
    body = b"".join(
        (
            HEAD_LENGTH.pack(len(head)),
            head,
            record.facts.tobytes(),
            record.points.tobytes(),
        )
    )
    return FRAME.pack(len(body), xxh3_64_intdigest(body)) + body


def _decode(body: bytes, classes: tuple[str, ...]) -> Record:
    (length,) = HEAD_LENGTH.unpack_from(body)
    start = HEAD_LENGTH.size + length
    links, places, stamps, patient, series, sources, rings = json.loads(
        body[HEAD_LENGTH.size : start]
    )
    dtype = fact_dtype(classes)
    return Record(
        links=links,
        places=tuple(places),
        stamps=tuple(map(tuple, stamps)),
        patient=patient,
        series=series,
        sources=tuple(Source(*source) for source in sources),
        rings=tuple(Rings(bit, k, tuple(lengths)) for bit, k, lengths in rings),
        facts=np.frombuffer(body, dtype, 1, start)[0],
        points=np.frombuffer(body, "<f8", -1, start + dtype.itemsize).reshape(-1, 2),
    )


class Kept(NamedTuple):
    """A record of an earlier process: its place in the journal, and its pixels'."""

    at: int
    places: tuple[int, ...]


class Journal:
    """The records of a build, in a file; `kind` says under which rules they were made.

    kept : what was there already, by the hash of the links

    A file of another kind is begun anew. What is behind the last whole record is cut
    off. Used by one thread.
    """

    def __init__(self, path: Path, kind: bytes, classes: Sequence[str]):
        self.path, self.classes = path, tuple(classes)
        self.kept: dict[int, Kept] = {}
        self._file = path.open("r+b" if path.exists() else "w+b")
        try:
            self._end = FRAME.size + len(kind)
            if self._read_frame(0) == kind:
                for at, record in self._scan():
                    self.kept[record.links] = Kept(at, record.places)
            else:
                self._file.truncate(0)
                self._append(FRAME.pack(len(kind), xxh3_64_intdigest(kind)) + kind, 0)
            self._file.truncate(self._end)
        except BaseException:
            self._file.close()
            raise

    def append(self, record: Record) -> int:
        """Add a record and return its place."""
        place = self._end
        data = _encode(record)
        self._append(data, place)
        self._end = place + len(data)
        return place

    def read(self, place: int) -> Record:
        """Return the record at a place that `append` or `kept` has told."""
        body = self._read_frame(place)
        if body is None:
            raise OSError(f"{self.path}: was damaged while it was in use")
        return _decode(body, self.classes)

    def close(self) -> None:
        """Close the file, which stays."""
        self._file.close()

    def _scan(self) -> Iterator[tuple[int, Record]]:
        while (body := self._read_frame(self._end)) is not None:
            yield self._end, _decode(body, self.classes)
            self._end += FRAME.size + len(body)

    def _append(self, data: bytes, place: int) -> None:
        self._file.seek(place)
        self._file.write(data)
        self._file.flush()  # to the system: it survives the death of this process

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
