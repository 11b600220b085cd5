"""What kernels ask of the system and of xxhash, with no Python in between.

A call from Python hands the GIL over twice and takes some microseconds more than the
system does; a file needs five. AVAILABLE says whether kernels may ask here: on Linux
they may. Arguments are numbers, of which some are addresses (`array.ctypes.data`);
without compilation ctypes calls the same functions.
"""

import ctypes
import os
import sys
from typing import Any

import numba
import numpy as np
import xxhash  # noqa: F401  which loads the library that is asked for here
from llvmlite import binding
from numba import types

from fastseg._kernels.jit import inlined

# statx(2): of the file that is open itself; what is known without asking a server again
# is not enough, all basic facts are wanted.
EMPTY_PATH, BASIC_FACTS = 0x1000, 0x7FF
FILE_TYPE, REGULAR = 0o170000, 0o100000
# Places of facts in the words of struct statx, which is the same on all machines.
MODE, INODE, SIZE, CHANGED, MODIFIED = 3, 4, 5, 12, 14
STATUS_WORDS = 32
NANO = 1_000_000_000
LOW_HALF = 0xFFFFFFFF
# Without waiting, should it be a pipe; not through a symbolic link.
FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
FLAGS |= os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
# Numbers of C and what numba calls them.
KINDS = {
    ctypes.c_int: "int32",
    ctypes.c_uint: "uint32",
    ctypes.c_ssize_t: "intp",
    ctypes.c_int64: "int64",
    ctypes.c_uint64: "uint64",
}


def _library(path: str | None) -> Any:
    try:
        return ctypes.CDLL(path)
    except OSError:  # what is linked into Python itself has no file
        return None


def _external(library: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Return a function of a library for kernels; None where it has none."""
    found = getattr(library, name, None)
    if found is None:
        return None
    if numba.config.DISABLE_JIT:
        found.argtypes, found.restype = arguments, result
        return lambda *values: found(*map(int, values))
    own_name = f"fastseg_{name}"
    address = ctypes.cast(found, ctypes.c_void_p).value
    binding.add_symbol(own_name, address)
    kinds = [getattr(types, KINDS[kind]) for kind in (result, *arguments)]
    return types.ExternalFunction(own_name, kinds[0](*kinds[1:]))


# Where addresses and places in files are of 64 bits, as they are told here.
_is_linux = sys.platform == "linux" and sys.maxsize > 2**32
_libc = _library(None) if _is_linux else None
_loaded = getattr(sys.modules.get("xxhash._xxhash"), "__file__", None)
_xxhash = _library(_loaded) if _libc and _loaded else None
_int, _long = ctypes.c_int, ctypes.c_ssize_t

# open(path, flags), close(handle), pread(handle, buffer, count, offset),
# pwritev(handle, addresses and sizes, count, offset),
# statx(handle, path, flags, mask, buffer), XXH3_64bits(data, size)
open_file = _external(_libc, "open", _int, _long, _int)
close_file = _external(_libc, "close", _int, _int)
read_at = _external(_libc, "pread", _long, _int, _long, _long, ctypes.c_int64)
write_rows_at = _external(_libc, "pwritev", _long, _int, _long, _int, ctypes.c_int64)
status_of = _external(_libc, "statx", _int, _int, _long, _int, ctypes.c_uint, _long)
# The first is there on x86-64 and takes the widest vectors that the machine has: half
# the time of the second where these are of 512 bits.
_hashes = ("XXH3_64bits_dispatch", "XXH3_64bits")
_hash = next((name for name in _hashes if hasattr(_xxhash, name)), "")
hash_bytes = _external(_xxhash, _hash, ctypes.c_uint64, _long, _long)

AVAILABLE = sys.byteorder == "little" and None not in (
    open_file,
    close_file,
    read_at,
    write_rows_at,
    status_of,
    hash_bytes,
)


@inlined
def address_of(array):
    """Return where an array begins in memory, as a signed number."""
    return np.int64(array.ctypes.data)


@inlined
def stamp_file(handle, status, stamp):
    """Tell an open file's size, times and inode; return whether it is a regular file.

    status : int64 (STATUS_WORDS,), scratch; its last word is 0
    stamp  : int64 (4,), written as `files.Stamp`
    """
    address = address_of(status)
    empty = address + 8 * (STATUS_WORDS - 1)
    flags, mask = np.int32(EMPTY_PATH), np.uint32(BASIC_FACTS)
    if status_of(np.int32(handle), empty, flags, mask, address) != 0:
        return False
    stamp[0] = status[SIZE]
    stamp[1] = status[MODIFIED] * NANO + (status[MODIFIED + 1] & LOW_HALF)
    stamp[2] = status[CHANGED] * NANO + (status[CHANGED + 1] & LOW_HALF)
    stamp[3] = status[INODE]
    return (status[MODE] >> 32) & FILE_TYPE == REGULAR
