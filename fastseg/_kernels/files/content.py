"""Read many files in one call: contents, stamps, hashes, and the elements of headers.

A kernel marks each file that is not as expected, without a reason. Python code then
reads this file again and reports what is wrong.
"""

import numpy as np

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
from fastseg._kernels.jit import inlined, kernel, read_only

# Pixels are aligned to multiples of this many bytes: one cache line.
LINE = 64
UNREAD = -1  # instead of the offset or size of a file
UNKNOWN = -1  # instead of the expected size of a file
NUL = 0
# `parse_number` refuses values with more characters. It reads up to 15 digits, which
# float64 holds exactly.
LONGEST_NUMBER = 16
IS = vr_code("IS")


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
def read_whole(handle, offset, limit, expected, buffer, status, stamp, stamp_after):
    """Read a regular file into buffer[offset:]; return its size, or UNREAD.

    limit       : the largest size allowed
    expected    : the size that the file must have; negative if any is allowed
    status      : as for `stamp_file`
    stamp       : int64 (4,), written as by `stamp_file`
    stamp_after : int64 (4,), scratch
    """
    if not stamp_file(handle, status, stamp):
        return UNREAD
    size = stamp[0]
    if size > limit or (expected >= 0 and size != expected):
        return UNREAD
    if read_all(handle, address_of(buffer) + offset, size) != size:
        return UNREAD
    # Another process may have written to the file while it was read.
    stamp_file(handle, status, stamp_after)
    for k in range(4):
        if stamp[k] != stamp_after[k]:
            return UNREAD
    return size


@inlined
def aligned_offset(end, pixel_offset, misalignment):
    """Return the first offset from `end` on at which a file has aligned pixels.

    pixel_offset : bytes in front of the pixels in the file
    misalignment : address of the buffer modulo LINE
    """
    return (
        (end + pixel_offset + misalignment + LINE - 1) // LINE * LINE
        - pixel_offset
        - misalignment
    )


@kernel
def read_files(
    paths, path_starts, first, sizes, pixel_offsets,
    buffer, offsets, stamps, file_hashes,
):  # fmt: skip
    """Read files from index `first` on into a buffer until it is full.

    Returns the index of the first file that did not fit. A file of unknown size that
    does not fit is marked UNREAD instead.

    paths         : uint8, all paths, a NUL after each
    path_starts   : int64 (n + 1,), index of the start of each path
    sizes         : int64 (n,), expected size of each file; UNKNOWN if any is allowed
    pixel_offsets : int64 (n,), offset in each file of the byte to align
    buffer        : uint8, filled from its beginning
    offsets       : int64 (n,), written: offset of each file in the buffer, UNREAD if it
        was not read or was not as expected
    stamps        : int64 (n, 4), written, as `files.Stamp`
    file_hashes   : uint64 (n,), written: XXH3-64 of each file
    """
    status = np.zeros(STATUS_WORDS, np.int64)
    stamp_after = np.empty(4, np.int64)
    end = np.int64(0)
    misalignment = address_of(buffer) % LINE
    for k in range(first, len(sizes)):
        offset = aligned_offset(end, pixel_offsets[k], misalignment)
        if sizes[k] != UNKNOWN and offset + sizes[k] > len(buffer) and k > first:
            return k
        offsets[k] = UNREAD
        handle = open_file(address_of(paths) + path_starts[k], np.int32(OPEN_FLAGS))
        if handle < 0:
            continue
        limit = len(buffer) - offset
        size = read_whole(
            handle, offset, limit, sizes[k], buffer, status, stamps[k], stamp_after
        )
        close_file(np.int32(handle))
        if size >= 0:
            offsets[k], end = offset, offset + size
            file_hashes[k] = hash_bytes(address_of(buffer) + offset, size)
    return len(sizes)


@inlined
def have_same_header(data, elements, other, other_elements, count, wanted):
    """Return whether two files have the same elements, per-file fields excepted."""
    for k in range(count - 1):
        row, start, size = elements[k, 0], elements[k, 1], elements[k, 2]
        other_start = other_elements[k, 1]
        if row != other_elements[k, 0]:
            return False
        if wanted[row, 2]:
            continue
        if size != other_elements[k, 2]:
            return False
        if wanted[row, 1] == US:
            if start != other_start:
                return False
            continue
        for j in range(size):
            if data[start + j] != other[other_start + j]:
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
def scan_headers(
    paths, path_starts, wanted,
    data, elements, counts, per_file, irregular, header_hashes,
):  # fmt: skip
    """Find the wanted elements of many files; the arrays from `data` on are written.

    paths, path_starts : as for `read_files`
    wanted        : int64 (w, 3), as for `find_elements`; column 2 is 0 for an element
        that the files of a series share, otherwise 1 + its column in per_file
    data          : uint8 (n, m), the first m bytes of each file
    elements      : int64 (n, w, 3), as for `find_elements`
    counts        : int64 (n,), number of elements; 0 for a file that cannot be read or
        is refused
    per_file      : float64 (n, c), elements that files do not share; NaN if absent
    irregular     : bool (n,), whether one of these is not a simple number, or is an IS
        with a point
    header_hashes : uint64 (n,), XXH3-64 of the bytes in front of the pixels

    Returns bool (n,): whether the shared elements equal those of the previous file.
    """
    status = np.zeros(STATUS_WORDS, np.int64)
    stamp = np.empty(4, np.int64)
    same_as_previous = np.zeros(len(counts), np.bool_)
    for k in range(len(counts)):
        counts[k], per_file[k], irregular[k] = 0, np.nan, False
        handle = open_file(address_of(paths) + path_starts[k], np.int32(OPEN_FLAGS))
        if handle < 0:
            continue
        size = np.int64(0)
        if stamp_file(handle, status, stamp):
            size = read_all(handle, address_of(data[k]), data.shape[1])
        close_file(np.int32(handle))
        beginning = read_only(data[k, :size])
        count = find_elements(beginning, wanted, elements[k]) if size else 0
        counts[k] = count
        if count == 0:
            continue
        for j in range(count - 1):
            row, start, length = elements[k, j, 0], elements[k, j, 1], elements[k, j, 2]
            if wanted[row, 2]:
                value, is_number = parse_number(data[k], start, length)
                per_file[k, wanted[row, 2] - 1] = value
                irregular[k] |= not is_number
                if wanted[row, 1] == IS:
                    for index in range(start, start + length):
                        irregular[k] |= data[k, index] == POINT
        header_hashes[k] = hash_bytes(address_of(data[k]), elements[k, count - 1, 1])
        if k > 0 and counts[k - 1] == count:
            same_as_previous[k] = have_same_header(
                data[k], elements[k], data[k - 1], elements[k - 1], count, wanted
            )
    return same_as_previous
