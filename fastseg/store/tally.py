"""What must be known of all items before the first column of a store is written."""

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.store import layout
from fastseg.store.records import Records


class Tally:
    """Counts records, in their order, and gathers the files that they name.

    rings, points : their numbers
    longest       : of each string column, the most bytes of a value
    """

    def __init__(self) -> None:
        self.rings = self.points = 0
        self.longest = dict.fromkeys(layout.STRING_COLUMNS, 1)
        # Of the files of all records: sizes, checksums, paths with NUL behind each.
        # A set of Source takes seven times the memory.
        self._sizes, self._sums, self._paths = array("q"), array("Q"), bytearray()

    def add(self, records: Records) -> None:
        """Count records in."""
        self.rings += len(records.rings)
        self.points += len(records.points)
        for name in layout.STRING_COLUMNS:
            longest = np.char.str_len(getattr(records, name)).max(initial=1)
            self.longest[name] = max(self.longest[name], int(longest))
        self._sizes.frombytes(records.size.tobytes())
        self._sums.frombytes(records.xxh3.tobytes())
        self._paths += b"".join([path + b"\0" for path in records.path.tolist()])

    def sources(self) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
        """Return the columns of /sources, and the row in them of each file in turn.

        The rows are sorted, and no file is there twice.
        """
        paths = np.array(bytes(self._paths).split(b"\0"), np.bytes_)
        paths = paths[: len(self._sizes)]
        columns = {"path": paths, "size": np.array(self._sizes, "<i8")}
        columns["xxh3"] = np.array(self._sums, "<u8")
        order = np.lexsort((columns["xxh3"], columns["size"], columns["path"]))
        ordered = {name: column[order] for name, column in columns.items()}
        is_first = np.ones(len(order), np.bool_)
        is_first[1:] = np.logical_or.reduce(
            [column[1:] != column[:-1] for column in ordered.values()]
        )
        rows = np.empty(len(order), np.int64)
        rows[order] = np.cumsum(is_first) - 1
        return {name: column[is_first] for name, column in ordered.items()}, rows
