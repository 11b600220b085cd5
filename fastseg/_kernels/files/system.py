"""System calls and xxhash for kernels, without Python in between.

Python releases and takes back the GIL for each system call, which costs some
microseconds more than the call itself; a file needs five calls. AVAILABLE says whether
kernels can make them: on 64-bit Linux. Arguments are numbers, some of them addresses
(`array.ctypes.data`). Without compilation, ctypes calls the same functions.
"""

import ctypes
import os
import sys
from typing import Any

import numpy as np
import xxhash  # noqa: F401  loads the library whose functions are used here

from fastseg._kernels.jit import INTERPRETED, Intrinsic, inlined
from fastseg._kernels.native.external import ADDRESSES, PREFIX

# statx(2) of the open file itself, with all basic fields: if fewer are requested, a
# network file system may return old values without asking its server.
AT_EMPTY_PATH = 0x1000
STATX_BASIC_STATS = 0x7FF
FILE_TYPE, REGULAR = 0o170000, 0o100000
# Indices of fields in struct statx, in words of 64 bits; the same on all machines.
MODE, INODE, SIZE, CHANGED, MODIFIED = 3, 4, 5, 12, 14
STATUS_WORDS = 32
NANO = 1_000_000_000
LOW_HALF = 0xFFFFFFFF
# Do not wait if the file is a pipe, and do not follow a symbolic link.
OPEN_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
OPEN_FLAGS |= os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
# The types of numbers in C, and their names in numba.
NUMBA_TYPES = {
    ctypes.c_int: "int32",
    ctypes.c_uint: "uint32",
    ctypes.c_ssize_t: "intp",
    ctypes.c_int64: "int64",
    ctypes.c_uint64: "uint64",
}


def _library(path: str | None) -> Any:
    try:
        return ctypes.CDLL(path)
    except OSError:  # a module that is linked into Python itself has no file
        return None


def _external(library: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Return a library function that kernels can call; None if there is none."""
    function = getattr(library, name, None)
    if function is None:
        return None
    if INTERPRETED:
        function.argtypes = arguments
        function.restype = result
        return lambda *values: function(*map(int, values))
    own_name = PREFIX + name
    ADDRESSES[own_name] = ctypes.cast(function, ctypes.c_void_p).value or 0

    def make() -> Any:
        from llvmlite import binding
        from numba import types

        binding.add_symbol(own_name, ADDRESSES[own_name])
        numba_types = [
            getattr(types, NUMBA_TYPES[c_type]) for c_type in (result, *arguments)
        ]
        return types.ExternalFunction(own_name, numba_types[0](*numba_types[1:]))

    return Intrinsic(make)


# The types below assume 64-bit addresses and file offsets.
_is_linux = sys.platform == "linux" and sys.maxsize > 2**32
_libc = _library(None) if _is_linux else None
_xxhash_path = getattr(sys.modules.get("xxhash._xxhash"), "__file__", None)
_xxhash = _library(_xxhash_path) if _libc and _xxhash_path else None
_int, _long = ctypes.c_int, ctypes.c_ssize_t

# open(path, flags), close(handle), pread(handle, buffer, count, offset),
# statx(handle, path, flags, mask, buffer), XXH3_64bits(data, size)
open_file = _external(_libc, "open", _int, _long, _int)
close_file = _external(_libc, "close", _int, _int)
read_at = _external(_libc, "pread", _long, _int, _long, _long, ctypes.c_int64)
stat_file = _external(_libc, "statx", _int, _int, _long, _int, ctypes.c_uint, _long)
# The first one exists on x86-64 and uses the widest vector instructions of the machine:
# with 512 bits it takes half the time of the second one.
_hash_names = ("XXH3_64bits_dispatch", "XXH3_64bits")
_hash_name = next((name for name in _hash_names if hasattr(_xxhash, name)), "")
hash_bytes = _external(_xxhash, _hash_name, ctypes.c_uint64, _long, _long)

AVAILABLE = sys.byteorder == "little" and None not in (
    open_file,
    close_file,
    read_at,
    stat_file,
    hash_bytes,
)


@inlined
def address_of(array):
    """Return the address of an array, as a signed number."""
    return np.int64(array.ctypes.data)


@inlined
def stamp_file(handle, status, stamp):
    """Write the stamp of an open file; return whether it is a regular file.

    status : int64 (STATUS_WORDS,), scratch whose last word is 0
    stamp  : int64 (4,), written: size, times and inode in the order of `files.Stamp`
    """
    address = address_of(status)
    empty_path = address + 8 * (STATUS_WORDS - 1)
    flags = np.int32(AT_EMPTY_PATH)
    mask = np.uint32(STATX_BASIC_STATS)
    if stat_file(np.int32(handle), empty_path, flags, mask, address) != 0:
        return False
    stamp[0] = status[SIZE]
    stamp[1] = status[MODIFIED] * NANO + (status[MODIFIED + 1] & LOW_HALF)
    stamp[2] = status[CHANGED] * NANO + (status[CHANGED + 1] & LOW_HALF)
    stamp[3] = status[INODE]
    return (status[MODE] >> 32) & FILE_TYPE == REGULAR
