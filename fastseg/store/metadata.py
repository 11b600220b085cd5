"""The checksum of all bytes of a store that are no raw data.

HDF5 keeps there where the data lie and how they are read: a changed bit in a type or a
fill value shows other numbers to other programs, though no datum has changed. The raw
data have checksums of their own, so every byte of a store is covered.

The checksum is an attribute, so it lies among the bytes that it covers. These 16 bytes
count as NUL, and are found by their value, which occurs once in them.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64

# Bytes that are read at once.
READ_AT_ONCE = 2**20

Range = tuple[int, int]


def metadata_ranges(extents: Iterable[NDArray[np.int64]], length: int) -> list[Range]:
    """Return start and stop of the ranges of a file that are no raw data, ascending.

    extents : int64 (n, 2) each, offset and size in bytes of raw data
    length  : bytes of the file
    """
    joined = np.concatenate([np.empty((0, 2), np.int64), *extents])
    starts, sizes = joined[np.argsort(joined[:, 0], kind="stable")].T
    begins = np.append(0, np.maximum.accumulate(starts + sizes))
    ends = np.append(starts, length)
    is_gap = ends > begins
    return list(zip(begins[is_gap].tolist(), ends[is_gap].tolist(), strict=True))


def metadata_checksum(
    ranges: Iterable[Range], read: Callable[[int, int], Any], text: bytes
) -> tuple[int, list[int]]:
    """Return the XXH3-64 of ranges, with a text as NUL, and the text's offsets.

    read : returns the bytes from start to stop of the file
    """
    digest = xxh3_64()
    offsets = []
    for start, stop in ranges:
        done = start
        while done < stop:
            end = min(done + READ_AT_ONCE, stop)
            data = bytes(read(done, end))
            found = data.find(text)
            if found >= 0:
                offsets.append(done + found)
                digest.update(data[:found])
                digest.update(bytes(len(text)))
                done += found + len(text)
            else:
                # A text that begins in the last bytes is found by the next read.
                rest = len(text) - 1 if end < stop else 0
                digest.update(data[: len(data) - rest])
                done = end - rest
    return digest.intdigest(), offsets
