"""HDF5's byte shuffle: the first bytes of all values, then all second bytes, and on.

Bytes of like meaning stand together, so that they compress better.
"""

import numpy as np

from fastseg._kernels.jit import kernel


@kernel
def split_bytes(values, planes):
    """Take values apart.

    values : unsigned integers (n,)
    planes : uint8 (bytes of a value, n), the lowest byte first
    """
    for k in range(len(planes)):
        plane, shift = planes[k], np.uint64(8 * k)
        for i in range(len(values)):
            plane[i] = (np.uint64(values[i]) >> shift) & np.uint64(255)


@kernel
def join_bytes(planes, values):
    """Put values together again; the arguments are those of `split_bytes`."""
    values[:] = 0
    for k in range(len(planes)):
        plane, shift = planes[k], np.uint64(8 * k)
        for i in range(len(values)):
            values[i] |= np.uint64(plane[i]) << shift
