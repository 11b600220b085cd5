"""HDF5's byte shuffle: byte 0 of all values, then byte 1 of all values, and so on.

Bytes of the same significance are then neighbours, and compress better.
"""

import numpy as np

from fastseg._kernels.jit import entry


@entry(values="const T[::1]", planes="uint8[:, ::1]", T=("uint16", "uint32"))
def split_bytes(values, planes):
    """Write byte k of each value to planes[k].

    values : unsigned integers (n,)
    planes : uint8 (itemsize, n), least significant byte first
    """
    for k in range(len(planes)):
        plane, shift = planes[k], np.uint64(8 * k)
        for i in range(len(values)):
            plane[i] = (np.uint64(values[i]) >> shift) & np.uint64(255)


@entry(planes="const uint8[:, ::1]", values="T[::1]", T=("uint16", "uint32"))
def join_bytes(planes, values):
    """Undo `split_bytes`: read planes, and overwrite values."""
    values[:] = 0
    for k in range(len(planes)):
        plane, shift = planes[k], np.uint64(8 * k)
        for i in range(len(values)):
            values[i] |= np.uint64(plane[i]) << shift
