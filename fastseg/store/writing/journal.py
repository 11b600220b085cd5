"""The journal of a build: what it knows of its finished items, safe from its death.

A build appends records to a file beside the store in the making, a share of items at a
time. Each such frame has a checksum, so that one which was cut short, by a crash or a
full disk, is told from a whole one. The index of the finished store is written from
the journal.
"""

import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fastseg.store.writing.hash_index import HashIndex
from fastseg.store.writing.records import Record, Records, from_bytes, to_bytes

# Length and XXH3-64 of what follows: the rules of the build, then records.
FRAME = struct.Struct("<QQ")
# Frames that are at hand when they are read again, some 2 MB: all of a small set, and
# of others enough for items of an interrupted build, which stand elsewhere.
FRAMES_AT_HAND = 4


class Journal:
    """The records of a build, in a file; `kind` says under which rules they were made.

    kept : numbers of the records that were there already, by the hash of the links

    A file of another kind, or of an earlier version, is begun anew. What is behind the
    last whole frame is cut off. Used by one thread.
    """

    def __init__(self, path: Path, kind: bytes, classes: Sequence[str]):
        self.path, self.classes = path, tuple(classes)
        self.resumable = HashIndex(np.zeros(0, np.uint64))
        # Of each frame: where it begins, and the number of its first record.
        self._frames, self._firsts = array("q"), array("q")
        self._count = 0
        self._at_hand: dict[int, Records] = {}
        self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        try:
            self._end = FRAME.size + len(kind)
            if self._read_frame(0) == kind:
                self._scan()
            else:
                self._file.truncate(0)
                self._write(kind, 0)
            self._file.truncate(self._end)
        except BaseException:
            self._file.close()
            raise

    def append(self, records: Records) -> int:
        """Add records: to the system, where they survive this process.

        Returns the number of the first; those of the others follow.
        """
        first = self._count
        size = self._write(to_bytes(records), self._end)
        self._note(records)
        self._end += size
        return first

    def records(self, numbers: NDArray[np.int64]) -> Iterator[Record]:
        """Yield the records of these numbers, in their order, one by one."""
        return (record for some in self.read_all(numbers) for record in some.split())

    def offsets(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the places of these, a row each; there is at least one."""
        return np.concatenate([each.offsets for each in self.read_all(numbers)])

    def read_all(self, numbers: NDArray[np.int64]) -> Iterator[Records]:
        """Yield the records of these numbers, in their order, some at a time."""
        if not len(numbers):
            return
        frames = np.searchsorted(np.array(self._firsts), numbers, "right") - 1
        ends = np.flatnonzero(np.diff(frames, append=-1)) + 1
        start = 0
        for stop in ends.tolist():
            frame = int(frames[start])
            records = self._frame(frame)
            items = numbers[start:stop] - self._firsts[frame]
            whole = np.array_equal(items, np.arange(records.items))
            yield records if whole else records.pick(items)
            start = stop

    def close(self) -> None:
        """Close the file, which stays."""
        self._file.close()

    def _frame(self, frame: int) -> Records:
        if frame not in self._at_hand:
            body = self._read_frame(self._frames[frame])
            if body is None:
                raise OSError(f"{self.path}: was damaged while it was in use")
            self._hold(frame, from_bytes(body, self.classes))
        return self._at_hand[frame]

    def _hold(self, frame: int, records: Records) -> None:
        if len(self._at_hand) == FRAMES_AT_HAND:
            del self._at_hand[next(iter(self._at_hand))]
        self._at_hand[frame] = records

    def _note(self, records: Records) -> None:
        """Note where a frame is that begins at the end."""
        self._frames.append(self._end)
        self._firsts.append(self._count)
        self._count += records.items
        self._hold(len(self._frames) - 1, records)

    def _scan(self) -> None:
        links = []
        while (body := self._read_frame(self._end)) is not None:
            records = from_bytes(body, self.classes)
            links.append(records.links.copy())
            self._note(records)
            self._end += FRAME.size + len(body)
        if links:
            self.resumable = HashIndex(np.concatenate(links))

    def _write(self, body: bytes, place: int) -> int:
        """Write a frame and return its size."""
        view = memoryview(FRAME.pack(len(body), xxh3_64_intdigest(body)) + body)
        self._file.seek(place)
        size = len(view)
        while len(view):  # a full disk may take a part before it says so
            view = view[self._file.write(view) :]
        return size

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
