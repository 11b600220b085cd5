"""Read many files in one call: contents, stamps, hashes, and the elements of headers.

Python calls `read_files` for as many files as fit into its buffer, then the kernels for
what is there, such as `note_headers`, and so on until all are read. A kernel marks
each file that is not as expected, without a reason. Python code then reads this file
again and reports what is wrong.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg._kernels.files.decimals import (
    NINE,
    POINT,
    SPACE,
    ZERO,
    parse_decimal,
)
from fastseg._kernels.files.elements import (
    ITEM,
    US,
    find_elements,
    read_tag,
    vr_code,
)
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
from fastseg._kernels.jit import entry, inlined, kernel, zeros
from fastseg.bounds import MAX_UID_BYTES

UNREAD, TOO_LARGE = -1, -2  # instead of the offset or size of a file
WHOLE = 2**62  # reads all bytes of a file, however many they are
LINE = 64  # bytes of a cache line, to which files are aligned in a buffer
NUL, BACKSLASH = 0, 92
# `parse_number` refuses values with more characters. It reads up to 15 digits, which
# float64 holds exactly.
LONGEST_NUMBER = 16
IS = vr_code("IS")
UID_BYTES = MAX_UID_BYTES
SHARED = 0  # column 2 of what `note_headers` wants; negative numbers are UIDs


class FileNames(NamedTuple):
    """The paths of n files, as kernels take them.

    joined : uint8, all paths, a NUL after each
    starts : int64 (n + 1,), index of the start of each path, then the end
    """

    joined: NDArray[np.uint8]
    starts: NDArray[np.int64]


FILE_NAMES = (FileNames, "const uint8[::1]", "const int64[::1]")


class HeaderArrays(NamedTuple):
    """What `note_headers` writes of n files.

    elements  : int64 (n, w, 3), as of `find_elements`, but the offset of a text is that
        in `values`
    counts    : int64 (n,), number of elements; 0 for a file that cannot be read or is
        refused, CUT for one whose data end before its pixels
    values    : uint8 (n, m), the texts of the elements, one after another
    per_file  : float64 (n, c), elements that the files of a series do not share; NaN if
        absent
    uids      : uint8 (n, u, UID_BYTES), UIDs that the files of a series do not share;
        NUL behind each
    irregular : bool (n,), whether one of these is not a simple number, is an IS with a
        point, or is no UID
    repeats   : bool (n,), whether the shared elements equal those of the file before
    pixels    : int64 (n,), where in the data the pixels begin; UNREAD if the file is
        refused, or does not end with as many pixels as wanted
    """

    elements: NDArray[np.int64]
    counts: NDArray[np.int64]
    values: NDArray[np.uint8]
    per_file: NDArray[np.float64]
    uids: NDArray[np.uint8]
    irregular: NDArray[np.bool_]
    repeats: NDArray[np.bool_]
    pixels: NDArray[np.int64]


HEADER_ARRAYS = (
    HeaderArrays,
    *("int64[:, :, ::1]", "int64[::1]", "uint8[:, ::1]", "float64[:, ::1]"),
    *("uint8[:, :, ::1]", "bool[::1]", "bool[::1]", "int64[::1]"),
)


@inlined
def read_regular(handle, most, buffer, offset, status, stamp):
    """Read the first `most` bytes of a regular file into buffer[offset:].

    status : as for `stamp_file`
    stamp  : int64 (4,), written as by `stamp_file`

    Returns how many bytes were read, UNREAD if the file is not regular or changes while
    it is read, or TOO_LARGE for what remains of the buffer.
    """
    if not stamp_file(handle, status, stamp):
        return UNREAD
    size, modified, changed, inode = stamp[0], stamp[1], stamp[2], stamp[3]
    wanted = size if size < most else most
    if wanted > len(buffer) - offset:
        return TOO_LARGE
    address = address_of(buffer) + offset
    done = np.int64(0)
    while done < wanted:
        count = read_at(handle, address + done, wanted - done, done)
        if count <= 0:
            return UNREAD
        done += count
    # Another process may have written to the file while it was read.
    stamp_file(handle, status, stamp)
    if size != stamp[0] or modified != stamp[1]:
        return UNREAD
    return done if changed == stamp[2] and inode == stamp[3] else UNREAD


@entry(
    names=FILE_NAMES,
    first="int64",
    most="int64",
    lead="int64",
    buffer="uint8[::1]",
    offsets="int64[::1]",
    stamps="int64[:, ::1]",
    file_hashes="uint64[::1]",
)
def read_files(names, first, most, lead, buffer, offsets, stamps, file_hashes):
    """Read files from index `first` on into a buffer until it is full.

    Returns the index of the first file that did not fit.

    names       : FileNames of n files
    most        : bytes to read of each file at most, from its beginning
    lead        : the byte of each file that gets an offset in the buffer which is a
        multiple of LINE
    buffer      : uint8, filled from its beginning
    offsets     : int64 (n,), written: offset of each file in the buffer, UNREAD if it
        cannot be read or is larger than the buffer
    stamps      : int64 (n, 4), written, as `files.Stamp`
    file_hashes : uint64 (n,), written: XXH3-64 of what was read of each file
    """
    status = zeros(STATUS_WORDS, np.int64)
    end = np.int64(0)
    count = len(names.starts) - 1
    for k in range(first, count):
        offsets[k] = UNREAD
        handle = open_file(
            address_of(names.joined) + names.starts[k], np.int32(OPEN_FLAGS)
        )
        if handle < 0:
            continue
        offset = end + (-(end + lead) & (LINE - 1))
        size = read_regular(handle, most, buffer, offset, status, stamps[k])
        close_file(handle)
        if size == TOO_LARGE and end > 0:
            return k
        if size >= 0:
            offsets[k] = offset
            end = offset + size
            file_hashes[k] = hash_bytes(address_of(buffer) + offset, size)
    return count


@kernel
def have_same_header(headers, k, wanted):
    """Return whether files k and k - 1 share all elements but the per-file fields."""
    elements, earlier = headers.elements[k], headers.elements[k - 1]
    values, earlier_values = headers.values[k], headers.values[k - 1]
    for j in range(headers.counts[k] - 1):
        row, start, size = elements[j, 0], elements[j, 1], elements[j, 2]
        earlier_start = earlier[j, 1]
        if row != earlier[j, 0]:
            return False
        if wanted[row, 2] != SHARED:
            continue
        if size != earlier[j, 2]:
            return False
        if wanted[row, 1] == US:
            size = 0
            if start != earlier_start:
                return False
        for index in range(size):
            if values[start + index] != earlier_values[earlier_start + index]:
                return False
    return True


@kernel
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
def parse_numbers(text, start, size, numbers):
    """Write the numbers of an element, with backslashes between them.

    numbers : float64 (c,), NaN, updated

    Returns whether there are as many simple numbers, or the value has length 0.
    """
    if size == 0:
        return True
    stop = start + size
    last = len(numbers) - 1
    for k in range(last):
        middle = start
        while middle < stop and text[middle] != BACKSLASH:
            middle += 1
        value, is_number = parse_number(text, start, middle - start)
        if not is_number or np.isnan(value) or middle == stop:
            return False
        numbers[k] = value
        start = middle + 1
    value, is_number = parse_number(text, start, stop - start)
    numbers[last] = value
    return is_number and (last == 0 or not np.isnan(value))


@kernel
def note_uid(text, start, size, uid):
    """Write a UID without its padding; return whether it is one, or nothing.

    uid : uint8 (UID_BYTES,), zeros, written
    """
    while size > 0 and text[start + size - 1] in (NUL, SPACE):
        size -= 1
    if size > len(uid):
        return False
    for k in range(size):
        character = text[start + k]
        if character != POINT and not ZERO <= character <= NINE:
            return False
        uid[k] = character
    return True


@kernel
def note_elements(data, k, wanted, headers):
    """Write what file k holds of the wanted elements; return their number.

    As `note_headers`, for one file; 0 if it is refused, CUT if its data end too early.
    """
    elements, values = headers.elements[k], headers.values[k]
    count = find_elements(data, wanted, elements)
    end = 0
    for j in range(count - 1):
        row, start, size = elements[j, 0], elements[j, 1], elements[j, 2]
        if wanted[row, 1] == US:
            continue
        if end + size > len(values):
            return 0
        for index in range(size):
            values[end + index] = data[start + index]
        elements[j, 1] = end
        column = wanted[row, 2]
        if column < SHARED:
            uid = headers.uids[k, -1 - column]
            headers.irregular[k] |= not note_uid(values, end, size, uid)
        elif column > SHARED:
            numbers = headers.per_file[k, column - 1 : column - 1 + wanted[row, 3]]
            headers.irregular[k] |= not parse_numbers(values, end, size, numbers)
            if wanted[row, 1] == IS:
                for index in range(end, end + size):
                    headers.irregular[k] |= values[index] == POINT
        end += size
    return count


@kernel
def ends_with_pixels(data, start, length, wanted):
    """Return whether a file ends with its pixels and these are as long as wanted.

    start, length : offset and size in bytes of the pixels, as the file gives them
    wanted        : their size in bytes without padding
    """
    if start + length != len(data):
        return False
    if length == wanted + wanted % 2:
        return True
    # As in `dicom.header.is_padded`.
    return wanted <= length < 2 * wanted and read_tag(data, start) != ITEM


@entry(
    data="const uint8[::1]",
    offsets="const int64[::1]",
    sizes="const int64[:]",
    first="int64",
    stop="int64",
    wanted="const int64[:, ::1]",
    pixel_bytes="int64",
    headers=HEADER_ARRAYS,
)
def note_headers(
    data, offsets, sizes, first, stop, wanted, pixel_bytes, headers
):  # fmt: skip
    """Write what the headers of files [first, stop) hold of the wanted elements.

    data        : uint8 (m,), the files or their beginnings
    offsets     : int64 (n,), where in the data each file begins; negative if it was not
        read
    sizes       : int64 (n,), in bytes, of what was read of each file
    wanted      : int64 (w, 4), as for `find_elements`. Column 2 is SHARED for an
        element that the files of a series share, 1 + its first column in `per_file`, or
        -1 - its index in `uids`; column 3 is its number of values
    pixel_bytes : size of the pixels in bytes without padding
    headers     : HeaderArrays; rows [first, stop) are written, and the row before them
        is compared. What is not written of a file that is not read or is refused, keeps
        its value
    """
    for k in range(first, stop):
        offset = offsets[k]
        if offset < 0:
            continue
        file = data[offset : offset + sizes[k]]
        count = note_elements(file, k, wanted, headers)
        headers.counts[k] = count
        if count <= 0:
            continue
        start = headers.elements[k, count - 1, 1]
        length = headers.elements[k, count - 1, 2]
        if ends_with_pixels(file, start, length, pixel_bytes):
            headers.pixels[k] = offset + start
        if k > 0 and headers.counts[k - 1] == count:
            headers.repeats[k] = have_same_header(headers, k, wanted)
