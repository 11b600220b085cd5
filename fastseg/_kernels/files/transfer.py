"""Read, measure and write many images in one call, while they are in the CPU caches."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg._kernels.files.content import (
    FILE_NAMES,
    HEADER_ARRAYS,
    TOO_LARGE,
    UNREAD,
    note_header,
    parse_number,
    read_whole,
)
from fastseg._kernels.files.elements import ITEM, read_tag
from fastseg._kernels.files.system import (
    OPEN_FLAGS,
    STATUS_WORDS,
    address_of,
    close_file,
    hash_bytes,
    open_file,
    write_buffers_at,
)
from fastseg._kernels.images.statistics import measure_values
from fastseg._kernels.jit import empty, entry, flat, inlined, read_only, zeros

# Pixels are aligned to multiples of this many bytes: one cache line.
LINE = 64
# The most images that one system call writes.
MOST_WRITTEN = 64
# What `expected` of `read_images` says of an element instead of its number.
UNCHECKED, IS_ONE, IS_UNSIGNED_BITS, IS_SIGNED_BITS = -1, -2, -3, -4


class ImageArrays(NamedTuple):
    """What `read_images` and `measure_images` write of n images.

    offsets      : int64 (n,), of the pixels in the buffer; UNREAD if the file cannot be
        read or is refused
    stamps       : int64 (n, 4), as `files.Stamp`
    file_hashes  : uint64 (n,), XXH3-64 of the file
    sums         : int64 (n, 5), least, greatest, and what `sum_values` returns
    percentiles  : float64 (n, q), as `out` of `measure_values`
    counted      : bool (n,), whether `percentiles` is filled
    pixel_hashes : uint64 (n,), XXH3-64 of the pixels
    """

    offsets: NDArray[np.int64]
    stamps: NDArray[np.int64]
    file_hashes: NDArray[np.uint64]
    sums: NDArray[np.int64]
    percentiles: NDArray[np.float64]
    counted: NDArray[np.bool_]
    pixel_hashes: NDArray[np.uint64]


IMAGE_ARRAYS = (
    ImageArrays,
    *("int64[::1]", "int64[:, ::1]", "uint64[::1]", "int64[:, ::1]"),
    *("float64[:, ::1]", "bool[::1]", "uint64[::1]"),
)


@inlined
def write_buffers(handle, buffers, count, offset):
    """Write buffers one after another in one system call.

    handle  : file descriptor
    buffers : int64 (m, 2), address and size in bytes of each; `count` of them are used
    offset  : offset in the file of the first one

    Returns whether all bytes were written.
    """
    size = np.int64(0)
    for k in range(count):
        size += buffers[k, 1]
    return (
        write_buffers_at(np.int32(handle), address_of(buffers), np.int32(count), offset)
        == size
    )


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


@inlined
def find_pixels(data, headers, k, expected):
    """Return offset of the pixels, least and greatest value; offset 0 if refused.

    data              : uint8 (m,), the file
    headers, expected : as for `read_images`, after `note_header`
    """
    elements = headers.elements[k]
    count = headers.counts[k]
    checked = 0
    least = greatest = np.int64(0)
    for j in range(count - 1):
        wish = expected[elements[j, 0]]
        if wish == IS_ONE:
            value, _ = parse_number(headers.values[k], elements[j, 1], elements[j, 2])
            if value != 1.0:
                return 0, 0, 0
        elif wish == IS_UNSIGNED_BITS:
            greatest = (np.int64(1) << elements[j, 1]) - 1
        elif wish == IS_SIGNED_BITS:
            greatest = (np.int64(1) << (elements[j, 1] - 1)) - 1
            least = -greatest - 1
        elif wish != UNCHECKED:
            if elements[j, 1] != wish:
                return 0, 0, 0
            checked += 1
    for row in range(len(expected) - 1):
        checked -= expected[row] >= 0
    start, length = elements[count - 1, 1], elements[count - 1, 2]
    needed = expected[-1]
    if count == 0 or checked or start + length != len(data):
        return 0, 0, 0
    # As in `dicom.header.is_padded`.
    if length != needed + needed % 2:
        is_padded = needed <= length < 2 * needed and read_tag(data, start) != ITEM
        if not is_padded:
            return 0, 0, 0
    return start, least, greatest


@inlined
def measure_image(values, k, widest, ranks, images):
    """Measure and hash an image, integers (m,), into row k of ImageArrays."""
    counted, least, greatest, total, high, low = measure_values(
        values, widest, ranks, images.percentiles[k]
    )
    images.counted[k] = counted
    images.sums[k, 0], images.sums[k, 1] = least, greatest
    images.sums[k, 2], images.sums[k, 3], images.sums[k, 4] = total, high, low
    images.pixel_hashes[k] = hash_bytes(
        address_of(values), values.size * values.itemsize
    )


@entry(
    names=FILE_NAMES,
    first="int64",
    wanted="const int64[:, ::1]",
    expected="const int64[::1]",
    headers=HEADER_ARRAYS,
    like="const T[::1]",
    widest="int64",
    ranks="const int64[::1]",
    output="int64",
    output_offsets="const int64[::1]",
    buffer="uint8[::1]",
    images=IMAGE_ARRAYS,
    T=("int16", "uint16", "uint8"),
)
def read_images(
    names, first, wanted, expected, headers, like, widest, ranks,
    output, output_offsets, buffer, images,
):  # fmt: skip
    """Read images from index `first` on; measure and write those that are as expected.

    names    : FileNames of n files of one image each
    wanted   : as for `note_header`
    expected : int64 (w,), for each wanted element a number that it must have, IS_ONE
        if it must be absent or 1, IS_SIGNED_BITS or IS_UNSIGNED_BITS for the bits
        stored, or UNCHECKED; for the pixels, their size in bytes without padding
    headers  : HeaderArrays, written
    like     : an array of the dtype of the pixels
    widest, ranks  : as for `measure_values`
    output         : file descriptor to write to; negative to write nothing
    output_offsets : int64 (n,), offset in this file of the pixels of each image
    buffer         : uint8; a file must be at least LINE bytes shorter. Without an
        output, the pixels are in it on return
    images         : ImageArrays, written

    Returns n, or where it stopped: without an output, at the first file that did not
    fit behind the others in the buffer; with one, at the first image that it could not
    write (files after it may have been read already).
    """
    status = zeros(STATUS_WORDS, np.int64)
    stamp_after = empty(4, np.int64)
    base = address_of(buffer)
    bytes_each = expected[-1]
    misalignment = base % LINE
    # Where the pixels begin in the last file, and so probably in the next one.
    pixel_offset = np.int64(0)
    end = np.int64(0)
    # Images that are adjacent in the file are written by one call: eight images take
    # two thirds of the time that eight calls take.
    pending = empty((MOST_WRITTEN, 2), np.int64)
    pending_count = 0
    first_pending = first
    stop = len(names.starts) - 1
    for k in range(first, stop):
        images.offsets[k] = UNREAD
        headers.counts[k] = 0
        handle = open_file(
            address_of(names.joined) + names.starts[k], np.int32(OPEN_FLAGS)
        )
        if handle < 0:
            continue
        offset = aligned_offset(end, pixel_offset, misalignment)
        size = read_whole(handle, offset, buffer, status, images.stamps[k], stamp_after)
        if size == TOO_LARGE and end > 0:
            if output < 0:
                close_file(np.int32(handle))
                return k
            if pending_count and not write_buffers(
                output, pending, pending_count, output_offsets[first_pending]
            ):
                close_file(np.int32(handle))
                return first_pending
            pending_count = 0
            offset = aligned_offset(0, pixel_offset, misalignment)
            size = read_whole(
                handle, offset, buffer, status, images.stamps[k], stamp_after
            )
        close_file(np.int32(handle))
        if size < 0:
            continue
        images.file_hashes[k] = hash_bytes(base + offset, size)
        data = read_only(buffer[offset : offset + size])
        note_header(data, k, wanted, headers)
        found, least, greatest = find_pixels(data, headers, k, expected)
        if found == 0:
            continue
        pixel_offset, start = found, offset + found
        excess = (base + start) % like.itemsize
        if excess:
            start -= excess
            for index in range(start, start + bytes_each):
                buffer[index] = buffer[index + excess]
        values = buffer[start : start + bytes_each].view(like.dtype)
        measure_image(values, k, widest, ranks, images)
        if images.sums[k, 0] < least or images.sums[k, 1] > greatest:
            continue
        images.offsets[k], end = start, offset + size
        if output < 0:
            continue
        follows = (
            output_offsets[k]
            == output_offsets[first_pending] + pending_count * bytes_each
        )
        if pending_count and (not follows or pending_count == MOST_WRITTEN):
            if not write_buffers(
                output, pending, pending_count, output_offsets[first_pending]
            ):
                return first_pending
            pending_count = 0
        if pending_count == 0:
            first_pending = k
        pending[pending_count, 0], pending[pending_count, 1] = base + start, bytes_each
        pending_count += 1
    if pending_count and not write_buffers(
        output, pending, pending_count, output_offsets[first_pending]
    ):
        return first_pending
    return stop


@entry(
    pixels="const T[:, :, ::1]",
    rows="const int64[::1]",
    widest="int64",
    ranks="const int64[::1]",
    images=IMAGE_ARRAYS,
    T=("int16", "uint16", "uint8"),
)
def measure_images(pixels, rows, widest, ranks, images):
    """Measure images in memory as `read_images` does.

    pixels : integers (c, H, W), C-contiguous
    rows   : int64 (c,), the row of each in `images`
    """
    for j in range(len(pixels)):
        values = flat(pixels[j])
        measure_image(values, rows[j], widest, ranks, images)
