"""Images, many in one call: read, measured and written while they are in the caches."""

import numpy as np

from fastseg._kernels.files.content import LINE, UNREAD, aligned_place, read_whole
from fastseg._kernels.files.system import (
    FLAGS,
    STATUS_WORDS,
    address_of,
    close_file,
    hash_bytes,
    open_file,
    write_rows_at,
)
from fastseg._kernels.images.statistics import measure_values
from fastseg._kernels.jit import inlined, kernel

# Images that are written by one call.
LONGEST_RUN = 64


@inlined
def write_run(handle, run, count, place):
    """Write arrays one behind the other; return whether the disk took them all.

    run : int64 (m, 2), address and bytes of each
    """
    size = np.int64(0)
    for k in range(count):
        size += run[k, 1]
    return (
        write_rows_at(np.int32(handle), address_of(run), np.int32(count), place) == size
    )


@kernel
def transfer_images(
    names, starts, first, sizes, leads, heads, limits, like, count, widest, ranks,
    handle, targets, buffer, places, stamps, digests, sums, percentiles, hashes, sound,
):  # fmt: skip
    """Read images from `first` on, measure those that are as they were, write them.

    names, starts, sizes, leads : as for `read_files`, of n files
    heads  : uint64 (n,), XXH3-64 of what stood before the pixels
    limits : int64 (n, 2), the least and the greatest value that may be
    like   : an array of the pixels' dtype; count : pixels of an image
    widest, ranks : as for `measure_values`
    handle, targets : a file that is open to write, and int64 (n,), where in it the
        pixels of each image go; without one, handle is negative
    buffer : uint8, room for the largest file; what is not written stays there
    places, stamps, digests : as places, stamps and sums of `read_files`
    sums   : int64 (n, 5), least, greatest, and what `sum_values` returns
    percentiles : float64 (n, q), as out of `measure_values`
    hashes : uint64 (n,), XXH3-64 of the pixels
    sound  : bool (n,), whether all this is there; the others are left to others

    Returns the next image: the first that has no room, or is not written, or n if there
    is none.
    """
    status, again = np.zeros(STATUS_WORDS, np.int64), np.empty(4, np.int64)
    base, size, end = address_of(buffer), count * like.itemsize, np.int64(0)
    skew = base % LINE
    # Images that are to stand one behind the other are written by one call: eight take
    # two thirds of the time that they take one by one.
    run, waiting, oldest = np.empty((LONGEST_RUN, 2), np.int64), 0, first
    for k in range(first, len(sizes)):
        place = aligned_place(end, leads[k], skew)
        is_full = end > 0 and place + sizes[k] > len(buffer)
        if is_full and handle < 0:
            return k
        follows = targets[k] == targets[oldest] + waiting * size
        if waiting and (is_full or not follows or waiting == LONGEST_RUN):
            if not write_run(handle, run, waiting, targets[oldest]):
                return oldest
            waiting = 0
        if is_full:
            place = aligned_place(0, leads[k], skew)
        places[k], sound[k] = UNREAD, False
        source = open_file(address_of(names) + starts[k], np.int32(FLAGS))
        if source < 0:
            continue
        room = len(buffer) - place
        length = read_whole(
            source, place, room, sizes[k], buffer, status, stamps[k], again
        )
        close_file(np.int32(source))
        start = place + leads[k]
        if length < 0 or hash_bytes(base + place, leads[k]) != heads[k]:
            continue
        places[k], end = place, place + length
        digests[k] = hash_bytes(base + place, length)
        values = buffer[start : start + size].view(like.dtype)
        counted, least, greatest, total, high, low = measure_values(
            values, widest, ranks, percentiles[k]
        )
        sums[k, 0], sums[k, 1] = least, greatest
        sums[k, 2], sums[k, 3], sums[k, 4] = total, high, low
        hashes[k] = hash_bytes(base + start, size)
        sound[k] = counted and least >= limits[k, 0] and greatest <= limits[k, 1]
        if sound[k] and handle >= 0:
            if waiting == 0:
                oldest = k
            run[waiting, 0], run[waiting, 1] = base + start, size
            waiting += 1
    if waiting and not write_run(handle, run, waiting, targets[oldest]):
        return oldest
    return len(sizes)
