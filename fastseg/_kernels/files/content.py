"""Read many files in one call: contents, stamps, hashes, and the elements of headers.

A kernel marks each file that is not as expected, without a reason. Python code then
reads this file again and reports what is wrong.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg._kernels.files.decimals import POINT, SPACE, parse_decimal
from fastseg._kernels.files.elements import US, find_elements, vr_code
from fastseg._kernels.files.system import (
    OPEN_FLAGS,
    STATUS_WORDS,
    address_of,
    close_file,
    hash_bytes,
    open_file,
    read_at,
    stamp_file,
)
from fastseg._kernels.jit import empty, entry, inlined, kernel, read_only, zeros

UNREAD, TOO_LARGE = -1, -2  # instead of the offset or size of a file
NUL = 0
# `parse_number` refuses values with more characters. It reads up to 15 digits, which
# float64 holds exactly.
LONGEST_NUMBER = 16
IS = vr_code("IS")


class FileNames(NamedTuple):
    """The paths of n files, as kernels take them.

    joined : uint8, all paths, a NUL after each
    starts : int64 (n + 1,), index of the start of each path, then the end
    """

    joined: NDArray[np.uint8]
    starts: NDArray[np.int64]


FILE_NAMES = (FileNames, "const uint8[::1]", "const int64[::1]")


class HeaderArrays(NamedTuple):
    """What `note_header` writes of n files.

    elements  : int64 (n, w, 3), as of `find_elements`, but the offset of a text is that
        in `values`
    counts    : int64 (n,), number of elements; 0 for a file that cannot be read or is
        refused
    values    : uint8 (n, m), the texts of the elements, one after another
    per_file  : float64 (n, c), elements that the files of a series do not share; NaN if
        absent
    irregular : bool (n,), whether one of these is not a simple number, or is an IS with
        a point
    repeats   : bool (n,), whether the shared elements equal those of the file before
    """

    elements: NDArray[np.int64]
    counts: NDArray[np.int64]
    values: NDArray[np.uint8]
    per_file: NDArray[np.float64]
    irregular: NDArray[np.bool_]
    repeats: NDArray[np.bool_]


HEADER_ARRAYS = (
    HeaderArrays,
    *("int64[:, :, ::1]", "int64[::1]", "uint8[:, ::1]", "float64[:, ::1]"),
    *("bool[::1]", "bool[::1]"),
)


@inlined
def read_all(handle, address, size):
    """Read the first `size` bytes of a file; return how many it has."""
    done = np.int64(0)
    while done < size:
        count = read_at(np.int32(handle), address + done, size - done, done)
        if count <= 0:
            break
        done += count
    return done


@inlined
def read_whole(handle, offset, buffer, status, stamp, stamp_after):
    """Read a regular file into buffer[offset:].

    status      : as for `stamp_file`
    stamp       : int64 (4,), written as by `stamp_file`
    stamp_after : int64 (4,), scratch

    Returns its size, UNREAD if it is not regular or changes while it is read, or
    TOO_LARGE for what remains of the buffer.
    """
    if not stamp_file(handle, status, stamp):
        return UNREAD
    size = stamp[0]
    if size > len(buffer) - offset:
        return TOO_LARGE
    if read_all(handle, address_of(buffer) + offset, size) != size:
        return UNREAD
    # Another process may have written to the file while it was read.
    stamp_file(handle, status, stamp_after)
    for k in range(4):
        if stamp[k] != stamp_after[k]:
            return UNREAD
    return size


@entry(
    names=FILE_NAMES,
    first="int64",
    buffer="uint8[::1]",
    offsets="int64[::1]",
    stamps="int64[:, ::1]",
    file_hashes="uint64[::1]",
)
def read_files(names, first, buffer, offsets, stamps, file_hashes):
    """Read files from index `first` on into a buffer until it is full.

    Returns the index of the first file that did not fit.

    names       : FileNames of n files
    buffer      : uint8, filled from its beginning
    offsets     : int64 (n,), written: offset of each file in the buffer, UNREAD if it
        cannot be read or is larger than the buffer
    stamps      : int64 (n, 4), written, as `files.Stamp`
    file_hashes : uint64 (n,), written: XXH3-64 of each file
    """
    status = zeros(STATUS_WORDS, np.int64)
    stamp_after = empty(4, np.int64)
    end = np.int64(0)
    for k in range(first, len(names.starts) - 1):
        offsets[k] = UNREAD
        handle = open_file(
            address_of(names.joined) + names.starts[k], np.int32(OPEN_FLAGS)
        )
        if handle < 0:
            continue
        size = read_whole(handle, end, buffer, status, stamps[k], stamp_after)
        close_file(np.int32(handle))
        if size == TOO_LARGE and end > 0:
            return k
        if size >= 0:
            offsets[k] = end
            end += size
            file_hashes[k] = hash_bytes(address_of(buffer) + offsets[k], size)
    return len(names.starts) - 1


@inlined
def have_same_header(headers, k, wanted):
    """Return whether files k and k - 1 share all elements but the per-file fields."""
    elements, values = headers.elements, headers.values
    for j in range(headers.counts[k] - 1):
        row, start, size = elements[k, j, 0], elements[k, j, 1], elements[k, j, 2]
        other_start = elements[k - 1, j, 1]
        if row != elements[k - 1, j, 0]:
            return False
        if wanted[row, 2]:
            continue
        if size != elements[k - 1, j, 2]:
            return False
        if wanted[row, 1] == US:
            if start != other_start:
                return False
            continue
        for index in range(size):
            if values[k, start + index] != values[k - 1, other_start + index]:
                return False
    return True


@inlined
def parse_number(text, start, size):
    """Return the number of an element, and whether its value is one simple number.

    A value of length 0 is NaN, and counts as simple. As in the standard, a value may be
    padded with spaces on both sides, or with NUL at the end.
    """
    stop = start + size
    if size > LONGEST_NUMBER:
        return np.nan, False
    while stop > start and text[stop - 1] in (NUL, SPACE):
        stop -= 1
    while start < stop and text[start] == SPACE:
        start += 1
    if start == stop:
        return np.nan, size == 0
    value, end = parse_decimal(text, start, stop)
    return value, end == stop


@kernel
def note_header(data, k, wanted, headers):
    """Write what the header of file k holds of the wanted elements.

    data    : uint8 (m,), the file or its beginning, read-only
    wanted  : int64 (w, 3), as for `find_elements`; column 2 is 0 for an element that
        the files of a series share, otherwise 1 + its column in per_file
    headers : HeaderArrays; row k is written, and row k - 1 compared
    """
    elements, values = headers.elements[k], headers.values[k]
    headers.counts[k], headers.irregular[k], headers.repeats[k] = 0, False, False
    headers.per_file[k] = np.nan
    count = find_elements(data, wanted, elements)
    end = 0
    for j in range(count - 1):
        row, start, size = elements[j, 0], elements[j, 1], elements[j, 2]
        if wanted[row, 1] == US:
            continue
        if end + size > len(values):
            return
        for index in range(size):
            values[end + index] = data[start + index]
        elements[j, 1] = end
        if wanted[row, 2]:
            value, is_number = parse_number(values, end, size)
            headers.per_file[k, wanted[row, 2] - 1] = value
            headers.irregular[k] |= not is_number
            if wanted[row, 1] == IS:
                for index in range(end, end + size):
                    headers.irregular[k] |= values[index] == POINT
        end += size
    headers.counts[k] = count
    if k > 0 and count > 0 and headers.counts[k - 1] == count:
        headers.repeats[k] = have_same_header(headers, k, wanted)


@entry(
    names=FILE_NAMES,
    wanted="const int64[:, ::1]",
    buffer="uint8[::1]",
    headers=HEADER_ARRAYS,
)
def scan_headers(names, wanted, buffer, headers):
    """Note the headers of many files, from the first bytes of each.

    names   : FileNames of n files
    wanted  : as for `note_header`
    buffer  : uint8, scratch; as many bytes are read of each file
    headers : HeaderArrays of n files, written
    """
    status = zeros(STATUS_WORDS, np.int64)
    stamp = empty(4, np.int64)
    for k in range(len(names.starts) - 1):
        handle = open_file(
            address_of(names.joined) + names.starts[k], np.int32(OPEN_FLAGS)
        )
        size = np.int64(0)
        if handle >= 0:
            if stamp_file(handle, status, stamp):
                size = read_all(handle, address_of(buffer), len(buffer))
            close_file(np.int32(handle))
        note_header(read_only(buffer[:size]), k, wanted, headers)
