"""What must be known of all items before the first column of a store is written."""

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

# So many files are looked at, and then written, at once.
FILES_AT_ONCE = 2**12


class Totals:
    """Counts records, in their order, and gathers the files that they name.

    rings, points : their numbers
    longest       : of each string column, and of the files' paths, the most bytes
    """

    def __init__(self, folder: Path):
        """Begin with nothing; folder is for a temporary file, should it be much."""
        self.rings = self.points = self._seen = 0
        self.longest = dict.fromkeys((*layout.STRING_COLUMNS, "path"), 1)
        # Path, size and checksum of each file, and its number among all.
        self._files: Sorter[tuple[bytes, int, int, int]] = Sorter(folder)

    def add(self, records: Records) -> None:
        """Count records in."""
        self.rings += len(records.rings)
        self.points += len(records.points)
        for name in self.longest:
            longest = np.char.str_len(getattr(records, name)).max(initial=1)
            self.longest[name] = max(self.longest[name], int(longest))
        stop = self._seen + len(records.path)
        columns = records.path.tolist(), records.size.tolist(), records.xxh3.tolist()
        for file in zip(*columns, range(self._seen, stop), strict=True):
            self._files.add(file)
        self._seen = stop

    def rows(self) -> tuple[int, NDArray[Any]]:
        """Return how many rows /sources has, and the row of each file in turn.

        The rows are sorted, and no file is there twice.
        """
        rows, count = np.empty(self._seen, np.min_scalar_type(self._seen)), 0
        for block, is_first in self._blocks():
            rows[[number for *_, number in block]] = count - 1 + np.cumsum(is_first)
            count += int(np.count_nonzero(is_first))
        return count, rows

    def sources(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the columns of /sources, some of their rows at a time."""
        for block, is_first in self._blocks():
            paths, sizes, sums, _ = zip(*block, strict=True)
            columns = {"path": np.array(paths, np.bytes_)}
            columns["size"] = np.array(sizes, "<i8")
            columns["xxh3"] = np.array(sums, "<u8")
            yield {name: column[is_first] for name, column in columns.items()}

    def _blocks(
        self,
    ) -> Iterator[tuple[list[tuple[bytes, int, int, int]], NDArray[np.bool_]]]:
        """Yield files in order, and whether each is the first of its like."""
        files, last = iter(self._files), None
        while block := list(islice(files, FILES_AT_ONCE)):
            alike = [file[:3] for file in block]
            yield block, np.fromiter(map(ne, alike, [last, *alike]), np.bool_)
            last = alike[-1]
