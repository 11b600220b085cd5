"""Totals of all items, needed before the first column of a store is written."""

from collections.abc import Iterator
from itertools import islice
from operator import ne
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.spool import Sorter
from fastseg.store import layout
from fastseg.store.writing.records import Records

# Files that are compared, and then written, at once.
FILES_AT_ONCE = 2**12


class Totals:
    """Counts rings and points of all records, and collects the files that they name.

    rings, points : how many there are
    longest       : bytes of the longest text of each string column and of "path"
    """

    def __init__(self, folder: Path):
        """Begin without records.

        folder : for a temporary file, if there are many files
        """
        self.rings = 0
        self.points = 0
        self._added_files = 0
        self.longest = dict.fromkeys((*layout.STRING_COLUMNS, "path"), 1)
        # Path, size and checksum of each file, and its number in the order of `add`.
        self._files: Sorter[tuple[bytes, int, int, int]] = Sorter(folder)

    def add(self, records: Records) -> None:
        """Add the next records."""
        self.rings += len(records.rings)
        self.points += len(records.points)
        for name in self.longest:
            longest = np.char.str_len(getattr(records, name)).max(initial=1)
            self.longest[name] = max(self.longest[name], int(longest))
        stop = self._added_files + len(records.path)
        columns = records.path.tolist(), records.size.tolist(), records.xxh3.tolist()
        for file in zip(*columns, range(self._added_files, stop), strict=True):
            self._files.add(file)
        self._added_files = stop

    def rows(self) -> tuple[int, NDArray[Any]]:
        """Return how many rows /sources has, and the row of each file as added.

        /sources is sorted and has each file once.
        """
        rows = np.empty(self._added_files, np.min_scalar_type(self._added_files))
        count = 0
        for block, is_first in self._blocks():
            rows[[number for *_, number in block]] = count - 1 + np.cumsum(is_first)
            count += int(np.count_nonzero(is_first))
        return count, rows

    def sources(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the columns of /sources, a block of rows at a time."""
        for block, is_first in self._blocks():
            paths, sizes, checksums, _ = zip(*block, strict=True)
            columns = {"path": np.array(paths, np.bytes_)}
            columns["size"] = np.array(sizes, "<i8")
            columns["xxh3"] = np.array(checksums, "<u8")
            yield {name: column[is_first] for name, column in columns.items()}

    def _blocks(
        self,
    ) -> Iterator[tuple[list[tuple[bytes, int, int, int]], NDArray[np.bool_]]]:
        """Yield the sorted files, and whether each differs from the one before it."""
        files = iter(self._files)
        last = None
        while block := list(islice(files, FILES_AT_ONCE)):
            identities = [file[:3] for file in block]
            yield block, np.fromiter(map(ne, identities, [last, *identities]), np.bool_)
            last = identities[-1]
