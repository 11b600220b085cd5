"""Totals of all items, needed before the first column of a store is written."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fastseg.store import layout
from fastseg.store.writing.records import Records


class Totals:
    """Numbers of rings and points, widths of texts, and the rows of /sources.

    rings, points : how many there are
    histograms, codes : how many there are, and bytes of their counts
    longest       : bytes of the longest text of each string column and of "path"
    file_rows     : int64 (f,), the row in /sources of each file of each record
    is_first      : bool (f,), whether it is the first record that names the file
    """

    def __init__(self, records: Iterable[Records]):
        self.rings = 0
        self.points = 0
        self.histograms = 0
        self.codes = 0
        self.longest = dict.fromkeys((*layout.STRING_COLUMNS, "path"), 1)
        digests = [np.empty(0, np.uint64)]
        for block in records:
            self.rings += len(block.rings)
            self.points += len(block.points)
            self.histograms += len(block.histograms)
            self.codes += len(block.codes)
            for name in self.longest:
                longest = np.char.str_len(getattr(block, name)).max(initial=1)
                self.longest[name] = max(self.longest[name], int(longest))
            digests.append(_identities(block))
        _, first, inverse = np.unique(
            np.concatenate(digests), return_index=True, return_inverse=True
        )
        self.file_rows = np.argsort(np.argsort(first))[inverse]
        self.is_first = np.zeros(len(inverse), np.bool_)
        self.is_first[first] = True

    @property
    def sources(self) -> int:
        """Number of rows of /sources."""
        return int(self.is_first.sum())


def _identities(records: Records) -> NDArray[np.uint64]:
    """Return the XXH3-64 of path, size and checksum of each file."""
    lengths = np.char.str_len(records.path)
    rows = np.empty(
        len(lengths), [("size", "<i8"), ("xxh3", "<u8"), ("path", records.path.dtype)]
    )
    rows["size"] = records.size
    rows["xxh3"] = records.xxh3
    rows["path"] = records.path
    # Each without the zeros that pad its path: how many there are is chance.
    width = rows.itemsize
    ends = np.arange(len(rows)) * width + 16 + lengths
    data = memoryview(rows.tobytes())
    digests = [
        xxh3_64_intdigest(data[start:stop])
        for start, stop in zip(range(0, len(data), width), ends.tolist(), strict=True)
    ]
    return np.array(digests, np.uint64)
