"""Lists and sorting in temporary files, for more items than fit into memory."""

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

# A list of more bytes than this is moved to a temporary file.
BYTES_IN_MEMORY = 2**20
# `Sorter` sorts this many items in memory into one run, and holds this many items of
# each run in memory when it merges them.
SORTED_AT_ONCE = 2**14
MERGED_AT_ONCE = 64


class Spool(Generic[T]):
    """A list on disk, to append to and to read; it takes 8 bytes of memory an entry.

    folder : where the temporary file is made

    Entries are pickled into a temporary file, which the system removes when the
    process ends; the file has no name, except on Windows. For one thread.
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
    """Sorts more items than fit into memory; items that come sorted cost little.

    folder : where temporary files are made
    key    : sort key, as for `sorted`; items with equal keys keep their order

    Add the items, then iterate in order, as often as needed.
    """

    def __init__(self, folder: Path, key: Callable[[T], Any] | None = None):
        self._key = key or _identity
        # Key of the last item in the spool.
        self._last_key: Any = None
        # Items that are not yet in the spool.
        self._new: list[T] = []
        self._folder = folder
        # Sorted runs in sequence, each entry a list of MERGED_AT_ONCE items.
        self._spool: Spool[list[T]] = Spool(folder)
        # Index in the spool at which each run starts.
        self._runs: list[int] = []

    def add(self, item: T) -> None:
        """Add an item, or raise OSError."""
        self._new.append(item)
        if len(self._new) >= SORTED_AT_ONCE:
            self._spool_new()

    def __iter__(self) -> Iterator[T]:
        if not self._runs:
            self._new.sort(key=self._key)
            return iter(self._new)
        if self._new:
            self._spool_new()
        if len(self._runs) > 1:
            self._merge()
        return _entries(self._spool, 0, len(self._spool))

    def _spool_new(self) -> None:
        """Move the new items to the spool, into the last run if that stays sorted."""
        new, self._new = self._new, []
        new.sort(key=self._key)
        if not self._runs or self._key(new[0]) < self._last_key:
            self._runs.append(len(self._spool))
        self._append(new)

    def _merge(self) -> None:
        """Merge all runs into one: each further iteration takes a third of the time."""
        ends = [*self._runs[1:], len(self._spool)]
        pairs = zip(self._runs, ends, strict=True)
        runs = [_entries(self._spool, *pair) for pair in pairs]
        merged = heapq.merge(*runs, key=self._key)
        self._spool = Spool(self._folder)
        self._runs = [0]
        while items := list(islice(merged, SORTED_AT_ONCE)):
            self._append(items)

    def _append(self, items: list[T]) -> None:
        for start in range(0, len(items), MERGED_AT_ONCE):
            self._spool.append(items[start : start + MERGED_AT_ONCE])
        self._last_key = self._key(items[-1])


def _entries(spool: Spool[list[T]], start: int, stop: int) -> Iterator[T]:
    for k in range(start, stop):
        yield from spool[k]


def _close(file: IO[bytes]) -> None:
    # Closing flushes, which fails on a full disk; nobody needs the content any more.
    with contextlib.suppress(OSError):
        file.close()


def _identity(item: Any) -> Any:
    return item
