"""What a step notes for itself, and what is too long for memory: in temporary files."""

import contextlib
import heapq
import pickle
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

T = TypeVar("T")

# A temporary file begins when there are more bytes than this.
BYTES_IN_MEMORY = 2**20
# Of what is sorted, so much is in memory at once; and so much of each run when they are
# merged.
SORTED_AT_ONCE = 2**14
MERGED_AT_ONCE = 64


class Spool(Generic[T]):
    """A list that is appended to and read, and needs no memory: 8 bytes an entry.

    The entries are pickled into a temporary file, which is gone when the process is;
    but on Windows, nobody sees its name. Used by one thread.
    """

    def __init__(self, folder: Path):
        self._file = tempfile.SpooledTemporaryFile(  # noqa: SIM115
            BYTES_IN_MEMORY, dir=str(folder)
        )
        weakref.finalize(self, _close, self._file)
        self._starts = array("q")
        self._end = 0

    def __len__(self) -> int:
        return len(self._starts)

    def append(self, entry: T) -> None:
        """Add an entry, or raise OSError."""
        data = pickle.dumps(entry, pickle.HIGHEST_PROTOCOL)
        self._file.seek(self._end)
        self._file.write(data)
        self._starts.append(self._end)
        self._end += len(data)

    def __getitem__(self, k: int) -> T:
        self._file.seek(self._starts[k])
        entry: T = pickle.load(self._file)
        return entry

    def __iter__(self) -> Iterator[T]:
        return map(self.__getitem__, range(len(self)))


class Sorter(Generic[T]):
    """Sorts more than memory holds; what comes sorted already costs little.

    key : what to sort by, as for `sorted`; those of equal keys keep their order

    Any number may be added, then they are read in order as often as one likes.
    """

    def __init__(self, folder: Path, key: Callable[[T], Any] | None = None):
        self._key = key or _itself
        self._last: Any = None
        self._new: list[T] = []
        self._folder = folder
        self._spool: Spool[list[T]] = Spool(folder)
        # Of each sorted run, where in the spool it begins.
        self._runs: list[int] = []

    def add(self, item: T) -> None:
        """Add an item, or raise OSError."""
        self._new.append(item)
        if len(self._new) >= SORTED_AT_ONCE:
            self._begin_run()

    def __iter__(self) -> Iterator[T]:
        if not self._runs:
            self._new.sort(key=self._key)
            return iter(self._new)
        if self._new:
            self._begin_run()
        if len(self._runs) > 1:
            self._merge()
        return _entries(self._spool, 0, len(self._spool))

    def _begin_run(self) -> None:
        """Move to the file what is in memory; it may go on where a run has ended."""
        new, self._new = self._new, []
        new.sort(key=self._key)
        if not self._runs or self._key(new[0]) < self._last:
            self._runs.append(len(self._spool))
        self._append(new)

    def _merge(self) -> None:
        """Make one run of all: what is read again takes a third of the time then."""
        ends = [*self._runs[1:], len(self._spool)]
        pairs = zip(self._runs, ends, strict=True)
        runs = [_entries(self._spool, *pair) for pair in pairs]
        merged = heapq.merge(*runs, key=self._key)
        self._spool, self._runs = Spool(self._folder), [0]
        while items := list(islice(merged, SORTED_AT_ONCE)):
            self._append(items)

    def _append(self, items: list[T]) -> None:
        for start in range(0, len(items), MERGED_AT_ONCE):
            self._spool.append(items[start : start + MERGED_AT_ONCE])
        self._last = self._key(items[-1])


def _entries(spool: Spool[list[T]], start: int, stop: int) -> Iterator[T]:
    for k in range(start, stop):
        yield from spool[k]


def _close(file: IO[bytes]) -> None:
    # What a full disk has not taken is of no use any more.
    with contextlib.suppress(OSError):
        file.close()


def _itself(item: Any) -> Any:
    return item
