"""Read, measure and write many images in one call, while they are in the CPU caches."""

import numpy as np

from fastseg._kernels.files.content import LINE, UNREAD, aligned_offset, read_whole
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
from fastseg._kernels.jit import inlined, kernel

# The most images that one system call writes.
MOST_WRITTEN = 64


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


@kernel
def transfer_images(
    paths, path_starts, first, sizes, pixel_offsets, header_hashes, limits, like,
    pixel_count, widest, ranks, output, output_offsets, buffer,
    offsets, stamps, file_hashes, statistics, percentiles, pixel_hashes, valid,
):  # fmt: skip
    """Read images from index `first` on; measure and write those that are as expected.

    paths, path_starts, sizes, pixel_offsets : as for `read_files`, of n files
    header_hashes  : uint64 (n,), expected XXH3-64 of the bytes in front of the pixels
    limits         : int64 (n, 2), least and greatest value that the pixels may have
    like           : an array of the dtype of the pixels
    pixel_count    : pixels of an image
    widest, ranks  : as for `measure_values`
    output         : file descriptor to write to; negative to write nothing
    output_offsets : int64 (n,), offset in this file of the pixels of each image
    buffer         : uint8, at least LINE bytes longer than the largest file; without an
        output, the images stay in it

    The other arrays are results:

    offsets, stamps, file_hashes : as for `read_files`
    statistics     : int64 (n, 5), least, greatest, and what `sum_values` returns
    percentiles    : float64 (n, q), as `out` of `measure_values`
    pixel_hashes   : uint64 (n,), XXH3-64 of the pixels
    valid          : bool (n,), False if the file, its header or its values are not as
        expected; Python code then handles the image

    Returns the index of the first image that does not fit into the buffer or was not
    written to the file, or n if there is none.
    """
    status = np.zeros(STATUS_WORDS, np.int64)
    stamp_after = np.empty(4, np.int64)
    base = address_of(buffer)
    size = pixel_count * like.itemsize
    end = np.int64(0)
    misalignment = base % LINE
    # Images that are adjacent in the file are written by one call: eight images take
    # two thirds of the time that eight calls take.
    pending = np.empty((MOST_WRITTEN, 2), np.int64)
    pending_count = 0
    first_pending = first
    for k in range(first, len(sizes)):
        offset = aligned_offset(end, pixel_offsets[k], misalignment)
        is_full = end > 0 and offset + sizes[k] > len(buffer)
        if is_full and output < 0:
            return k
        follows = (
            output_offsets[k] == output_offsets[first_pending] + pending_count * size
        )
        if pending_count and (is_full or not follows or pending_count == MOST_WRITTEN):
            if not write_buffers(
                output, pending, pending_count, output_offsets[first_pending]
            ):
                return first_pending
            pending_count = 0
        if is_full:
            offset = aligned_offset(0, pixel_offsets[k], misalignment)
        offsets[k], valid[k] = UNREAD, False
        handle = open_file(address_of(paths) + path_starts[k], np.int32(OPEN_FLAGS))
        if handle < 0:
            continue
        limit = len(buffer) - offset
        length = read_whole(
            handle, offset, limit, sizes[k], buffer, status, stamps[k], stamp_after
        )
        close_file(np.int32(handle))
        start = offset + pixel_offsets[k]
        if (
            length < 0
            or hash_bytes(base + offset, pixel_offsets[k]) != header_hashes[k]
        ):
            continue
        offsets[k], end = offset, offset + length
        file_hashes[k] = hash_bytes(base + offset, length)
        values = buffer[start : start + size].view(like.dtype)
        counted, least, greatest, total, high, low = measure_values(
            values, widest, ranks, percentiles[k]
        )
        statistics[k, 0], statistics[k, 1] = least, greatest
        statistics[k, 2], statistics[k, 3], statistics[k, 4] = total, high, low
        pixel_hashes[k] = hash_bytes(base + start, size)
        valid[k] = counted and least >= limits[k, 0] and greatest <= limits[k, 1]
        if valid[k] and output >= 0:
            if pending_count == 0:
                first_pending = k
            pending[pending_count, 0], pending[pending_count, 1] = base + start, size
            pending_count += 1
    if pending_count and not write_buffers(
        output, pending, pending_count, output_offsets[first_pending]
    ):
        return first_pending
    return len(sizes)
