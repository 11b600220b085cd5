"""Files, many in one call: read, stamped and hashed; their first elements found.

Whatever is not as it was expected to be is left to others, who read one file at a time
and say what is wrong: kernels tell only that it is.
"""

import numpy as np

from fastseg._kernels.files.decimals import POINT, SPACE, parse_decimal
from fastseg._kernels.files.elements import US, find_elements, vr_code
from fastseg._kernels.files.system import (
    FLAGS,
    STATUS_WORDS,
    address_of,
    close_file,
    hash_bytes,
    open_file,
    read_at,
    stamp_file,
)
from fastseg._kernels.jit import inlined, kernel, read_only

# What is aligned begins at multiples of this many bytes: a line of the caches.
LINE = 64
UNREAD = UNKNOWN = -1
NUL = 0
# Numbers with more letters are left to others; those of 15 digits are exact.
LONGEST_NUMBER = 16
IS = vr_code("IS")


@inlined
def read_all(handle, address, size):
    """Read bytes from the beginning of a file; return how many there are."""
    done = np.int64(0)
    while done < size:
        count = read_at(np.int32(handle), address + done, size - done, done)
        if count <= 0:
            break
        done += count
    return done


@inlined
def read_whole(handle, place, room, expected, buffer, status, stamp, again):
    """Read a regular file into buffer[place:]; return its size, or UNREAD.

    room     : how many bytes it may have
    expected : how many it must have, any if negative
    """
    if not stamp_file(handle, status, stamp):
        return UNREAD
    size = stamp[0]
    if size > room or (expected >= 0 and size != expected):
        return UNREAD
    if read_all(handle, address_of(buffer) + place, size) != size:
        return UNREAD
    # Somebody may have written to it meanwhile.
    stamp_file(handle, status, again)
    for k in range(4):
        if stamp[k] != again[k]:
            return UNREAD
    return size


@inlined
def aligned_place(end, lead, skew):
    """Return the first place from `end` on where what follows the lead is aligned.

    skew : by how much the beginning of all places is not
    """
    return (end + lead + skew + LINE - 1) // LINE * LINE - lead - skew


@kernel
def read_files(names, starts, first, sizes, leads, buffer, places, stamps, sums):
    """Read files from `first` on, as many as the buffer takes; return the next one.

    One of unknown size is never the next one: without room it is not read.

    names  : uint8, paths, each with NUL behind it; starts : int64 (n + 1,), where
    sizes  : int64 (n,), of the files, as they are expected; UNKNOWN for any
    leads  : int64 (n,), so many bytes behind a file's beginning is what is aligned
    buffer : uint8, filled from its beginning
    places : int64 (n,), where in the buffer each file begins, UNREAD if it was not
        read or is not what was expected
    stamps : int64 (n, 4), as `files.Stamp`; sums : uint64 (n,), XXH3-64 of contents
    """
    status, again = np.zeros(STATUS_WORDS, np.int64), np.empty(4, np.int64)
    end = np.int64(0)
    skew = address_of(buffer) % LINE
    for k in range(first, len(sizes)):
        place = aligned_place(end, leads[k], skew)
        if sizes[k] != UNKNOWN and place + sizes[k] > len(buffer) and k > first:
            return k
        places[k] = UNREAD
        handle = open_file(address_of(names) + starts[k], np.int32(FLAGS))
        if handle < 0:
            continue
        room = len(buffer) - place
        size = read_whole(
            handle, place, room, sizes[k], buffer, status, stamps[k], again
        )
        close_file(np.int32(handle))
        if size >= 0:
            places[k], end = place, place + size
            sums[k] = hash_bytes(address_of(buffer) + place, size)
    return len(sizes)


@inlined
def has_same(data, found, other, other_found, count, wanted):
    """Return whether two files have the same elements but for those of their own."""
    for k in range(count - 1):
        row, at, size = found[k, 0], found[k, 1], found[k, 2]
        other_at = other_found[k, 1]
        if row != other_found[k, 0]:
            return False
        if wanted[row, 2]:
            continue
        if size != other_found[k, 2]:
            return False
        if wanted[row, 1] == US:
            if at != other_at:
                return False
            continue
        for j in range(size):
            if data[at + j] != other[other_at + j]:
                return False
    return True


@inlined
def plain_number(text, start, size):
    """Return one number of an element and whether that is what it has.

    NaN is none at all. Padding is as the standard has it: spaces before and behind, or
    NUL behind.
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
def scan_headers(names, starts, wanted, data, found, counts, own, odd, sums):
    """Find the elements that files begin with.

    names, starts : as for `read_files`
    wanted : int64 (w, 3), as for `find_elements`, and 1 + the column in `own` of what
        tells the files of a series apart
    data   : uint8 (n, m), the first bytes of each
    found  : int64 (n, w, 3), as of `find_elements`
    counts : int64 (n,), how many elements; 0 where others must look
    own    : float64 (n, c), NaN where there is no such element
    odd    : bool (n,), whether one of these is otherwise than nearly all are
    sums   : uint64 (n,), XXH3-64 of what stands before the pixels

    Returns bool (n,): whether all else is as it is in the file before.
    """
    status, stamp = np.zeros(STATUS_WORDS, np.int64), np.empty(4, np.int64)
    alike = np.zeros(len(counts), np.bool_)
    for k in range(len(counts)):
        counts[k], own[k], odd[k] = 0, np.nan, False
        handle = open_file(address_of(names) + starts[k], np.int32(FLAGS))
        if handle < 0:
            continue
        size = np.int64(0)
        if stamp_file(handle, status, stamp):
            size = read_all(handle, address_of(data[k]), data.shape[1])
        close_file(np.int32(handle))
        there = read_only(data[k, :size])
        count = find_elements(there, wanted, found[k]) if size else 0
        counts[k] = count
        if count == 0:
            continue
        for j in range(count - 1):
            row, at, length = found[k, j, 0], found[k, j, 1], found[k, j, 2]
            if wanted[row, 2]:
                value, is_plain = plain_number(data[k], at, length)
                own[k, wanted[row, 2] - 1] = value
                odd[k] |= not is_plain
                if wanted[row, 1] == IS:
                    for place in range(at, at + length):
                        odd[k] |= data[k, place] == POINT
        sums[k] = hash_bytes(address_of(data[k]), found[k, count - 1, 1])
        if k > 0 and counts[k - 1] == count:
            alike[k] = has_same(
                data[k], found[k], data[k - 1], found[k - 1], count, wanted
            )
    return alike
