"""Frames: numbered records; Journal: those of a build, in a file.

A build appends the records of a block of items as one frame. Each frame has a checksum,
so that a resumed build recognizes one that a crash or a full disk has cut short. At the
end, the columns of the store are written from the journal.
"""

import os
import struct
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fastseg.outputs import create_work, open_work
from fastseg.store.writing.hash_index import HashIndex
from fastseg.store.writing.records import Records, from_bytes, join, to_bytes

# Length and XXH3-64 of the body of a frame. The body of the first frame is the rules
# of the build, those of the others are records.
FRAME = struct.Struct("<QQ")
# Frames that stay in memory, some 2 MB: all of a small data set. A resumed build reads
# its items in another order than their frames', for which this is enough.
CACHED_FRAMES = 4


class Frames(ABC):
    """Records that are numbered from 0, in frames of which a few stay in memory.

    Used by one thread.
    """

    def __init__(self) -> None:
        # Of each frame, the number of its first record.
        self._firsts = array("q")
        self._count = 0
        self._cache: dict[int, Records] = {}

    def read(self, numbers: NDArray[np.int64]) -> Records:
        """Return the records with these numbers, at least one, in their order."""
        order = np.argsort(numbers)
        blocks = list(self._read_sorted(numbers[order]))
        if np.array_equal(order, np.arange(len(numbers))):
            return join(blocks)
        return join(blocks).pick(np.argsort(order))

    @abstractmethod
    def _load(self, frame: int) -> Records:
        """Return the records of a frame that is not in memory."""

    def _read_sorted(self, numbers: NDArray[np.int64]) -> Iterator[Records]:
        """Yield the records with these numbers, which ascend, in blocks."""
        frames = np.searchsorted(np.array(self._firsts), numbers, "right") - 1
        ends = np.flatnonzero(np.diff(frames, append=-1)) + 1
        start = 0
        for stop in ends.tolist():
            frame = int(frames[start])
            records = self._frame(frame)
            items = numbers[start:stop] - self._firsts[frame]
            is_all = np.array_equal(items, np.arange(records.items))
            yield records if is_all else records.pick(items)
            start = stop

    def _frame(self, frame: int) -> Records:
        if frame not in self._cache:
            self._keep(frame, self._load(frame))
        return self._cache[frame]

    def _keep(self, frame: int, records: Records) -> None:
        """Keep the records of a frame in memory, instead of the oldest ones there."""
        if len(self._cache) == CACHED_FRAMES:
            del self._cache[next(iter(self._cache))]
        self._cache[frame] = records

    def number(self, records: Records) -> NDArray[np.int64]:
        """Add a frame, and return the numbers of its records."""
        first = self._count
        self._firsts.append(first)
        self._count += records.items
        self._keep(len(self._firsts) - 1, records)
        return np.arange(first, self._count)


class Journal(Frames):
    """The records of a build, in a file. Records are numbered from 0.

    path      : the file; it is continued if it has the same rules, else begun again
    rules     : all that the records depend on besides the items, as bytes
    resumable : the records that the file had when it was opened: from the hash of the
        links to the number of the record

    Opening cuts off all that follows the last complete frame. Used by one thread.
    """

    def __init__(self, path: Path, rules: bytes, classes: Sequence[str]):
        super().__init__()
        self.path = path
        self.classes = tuple(classes)
        self.resumable = HashIndex(np.zeros(0, np.uint64))
        # Of each frame.
        self._offsets = array("q")
        handle = open_work(path) if os.path.lexists(path) else create_work(path)
        self._file = FileIO(handle, "r+")
        try:
            self._end = FRAME.size + len(rules)
            if self._read_frame(0) == rules:
                self._scan()
            else:
                self._file.truncate(0)
                self._write(rules, 0)
            self._file.truncate(self._end)
        except BaseException:
            self._file.close()
            raise

    def append(self, records: Records) -> NDArray[np.int64]:
        """Append records, which then survive the death of this process.

        Returns their numbers.
        """
        size = self._write(to_bytes(records), self._end)
        numbers = self._add_frame(records)
        self._end += size
        return numbers

    def offsets(self) -> NDArray[np.int64]:
        """Return `Records.offsets` of all records."""
        frames = range(len(self._offsets))
        return np.concatenate([self._frame(k).offsets.copy() for k in frames])

    def close(self) -> None:
        """Close the file; it is not removed."""
        self._file.close()

    def _load(self, frame: int) -> Records:
        body = self._read_frame(self._offsets[frame])
        if body is None:
            raise OSError(f"{self.path}: was damaged while it was in use")
        return from_bytes(body, self.classes)

    def _add_frame(self, records: Records) -> NDArray[np.int64]:
        """Register a frame with these records at the end of the file."""
        self._offsets.append(self._end)
        return self.number(records)

    def _scan(self) -> None:
        """Register all complete frames of the file, up to the first incomplete one."""
        links = []
        while (body := self._read_frame(self._end)) is not None:
            records = from_bytes(body, self.classes)
            links.append(records.links.copy())
            self._add_frame(records)
            self._end += FRAME.size + len(body)
        if links:
            self.resumable = HashIndex(np.concatenate(links))

    def _write(self, body: bytes, offset: int) -> int:
        """Write a frame and return its size in bytes."""
        view = memoryview(FRAME.pack(len(body), xxh3_64_intdigest(body)) + body)
        self._file.seek(offset)
        size = len(view)
        while len(view):  # a full disk may take some bytes before it raises an error
            view = view[self._file.write(view) :]
        return size

    def _read_frame(self, offset: int) -> bytes | None:
        """Return the body of a frame, None if there is no complete one."""
        self._file.seek(offset)
        header = self._file.read(FRAME.size)
        if len(header) < FRAME.size:
            return None
        length, digest = FRAME.unpack(header)
        # A damaged length must not allocate more memory than the file has bytes.
        if length > os.fstat(self._file.fileno()).st_size:
            return None
        body = self._file.read(length)
        is_complete = len(body) == length and xxh3_64_intdigest(body) == digest
        return body if is_complete else None
