"""Arrays of several files as one array, without a copy: mapped side by side.

A kernel takes the samples of a batch from one array. If each file has an array of its
own, a batch of 32 samples from 100 files takes 27 calls instead of one. So a range of
addresses is reserved, and the arrays are mapped into it at multiples of the size of a
row, as MAP_FIXED of mmap(2) allows: the result is one array, with zeros in between.
"""

import ctypes
import math
import mmap
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.store.layout import ALIGN_FROM

# Of mmap(2); the same on Linux and macOS.
MAP_FIXED = 0x10
MAP_FAILED = ctypes.c_void_p(-1).value
# Bytes of addresses that are reserved at most; a process has 2**47.
MOST_RESERVED = 2**44


class FileArray(NamedTuple):
    """An array in a file.

    array  : of any shape, C-contiguous
    handle : of the open file
    offset : byte at which it begins there
    """

    array: NDArray[Any]
    handle: int
    offset: int


class JoinedArrays(NamedTuple):
    """Arrays of several files as one.

    arrays : one for each member of the tuples that were joined, read-only
    first  : the row at which each of the tuples begins in them
    mapped : what of their memory is mapped files: map, offset and size in bytes
    """

    arrays: tuple[NDArray[Any], ...]
    first: list[int]
    mapped: list[tuple[mmap.mmap, int, int]]

    def release(self) -> None:
        """Release this process's pages; the system keeps them in its cache."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for reserved, offset, size in self.mapped:
                reserved.madvise(mmap.MADV_DONTNEED, offset, size)


def join(files: Sequence[tuple[FileArray, ...]]) -> JoinedArrays | None:
    """Return arrays of several files as one, which begin at the same rows.

    files : of each file so many arrays of the same number of rows. The first ones of
        all files are joined, and so are the second ones: they have one dtype, and one
        shape but for the number of rows

    Returns None where that cannot be done: on 32-bit systems, and for arrays that do
    not begin at the start of a page, but for small ones, which are copied.
    """
    rows = [array.nbytes // max(len(array), 1) for array, _, _ in files[0]]
    # All begin at the start of a page.
    page = mmap.ALLOCATIONGRANULARITY
    step = math.lcm(*(page // math.gcd(page, row) for row in rows))
    first = []
    total = 0
    for together in files:
        first.append(total)
        if not all(_fits(each) for each in together):
            return None
        total += -(-len(together[0].array) // step) * step
    if sys.maxsize < 2**32 or not total or total * max(rows) > MOST_RESERVED:
        return None
    mapped: list[tuple[mmap.mmap, int, int]] = []
    try:
        joined = [
            _map(arrays, first, total, mapped) for arrays in zip(*files, strict=True)
        ]
    except (OSError, AttributeError):  # too many maps or addresses, or no mmap(2)
        return None
    return JoinedArrays(tuple(joined), first, mapped)


def _fits(file: FileArray) -> bool:
    """Return whether an array can be mapped at any page, or is small."""
    is_aligned = file.offset % mmap.ALLOCATIONGRANULARITY == 0
    return is_aligned or file.array.nbytes < ALIGN_FROM


def _map(
    files: Sequence[FileArray],
    first: Sequence[int],
    total: int,
    mapped: list[tuple[mmap.mmap, int, int]],
) -> NDArray[Any]:
    """Return arrays as one of `total` rows, each from its first row on.

    mapped : what is mapped is added to it, see JoinedArrays
    """
    shape = (total, *files[0].array.shape[1:])
    dtype = files[0].array.dtype
    row = math.prod(shape[1:]) * dtype.itemsize
    # Zeros that take no memory. What is mapped over them goes when this object does.
    reserved = mmap.mmap(
        -1,
        total * row,
        flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
        prot=mmap.PROT_READ,
    )
    joined = np.frombuffer(reserved, dtype).reshape(shape)
    begin = joined.ctypes.data
    for (array, handle, offset), start in zip(files, first, strict=True):
        address = begin + start * row
        if not array.nbytes:
            continue
        if offset % mmap.ALLOCATIONGRANULARITY:
            _map_at(
                address,
                array.nbytes,
                mmap.PROT_READ | mmap.PROT_WRITE,
                mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
                (-1, 0),
            )
            ctypes.memmove(address, array.ctypes.data, array.nbytes)
        else:
            source = handle, offset
            _map_at(address, array.nbytes, mmap.PROT_READ, mmap.MAP_SHARED, source)
            mapped.append((reserved, start * row, array.nbytes))
    return joined


def _map_at(
    address: int, size: int, access: int, flags: int, source: tuple[int, int]
) -> None:
    """Map bytes at an address, in place of what is mapped there; or raise OSError.

    source : handle of a file, and the offset there
    """
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    function.argtypes = (
        *(ctypes.c_void_p, ctypes.c_size_t),
        *(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64),
    )
    mapped = function(address, size, access, flags | MAP_FIXED, *source)
    if mapped != address:
        raise OSError(ctypes.get_errno(), "mmap failed")
