"""Loads object code by llvmlite alone, and makes its entries callable.

An entry has the form that CPython calls fastest (METH_FASTCALL): it gets the arguments
as a C array of objects, checks them, and reads arrays from numpy's own structs. What it
does not take, it hands on to a Python function, its *fallback*. The offsets below are
those of CPython 3.11 to 3.13 with a global lock and of numpy 2; `layouts_hold` tries
them once.
"""

import ctypes
import functools
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding

from fastseg._kernels.native.external import ADDRESSES

METH_FASTCALL = 0x80
# Offsets in bytes: of an object's type; what lies behind its head, in a tuple the
# number of items; a tuple's items.
TYPE = 8
HEAD = 16
ITEMS = 24
# In an array, behind its head: pointers to data, dimensions, strides and dtype, the
# number of dimensions, and its flags.
DATA, NDIM, DIMENSIONS, STRIDES, DTYPE, FLAGS = 16, 24, 32, 40, 56, 64
# In a dtype: letters for its kind and byte order, and the size of an item.
KIND, BYTE_ORDER, ITEM_SIZE = 24, 26, 40
# Bits of the flags.
CONTIGUOUS, ALIGNED, WRITEABLE = 0x1, 0x100, 0x400


class Context(NamedTuple):
    """What an entry reads besides its arguments: the `self` of its function.

    fallback : called with arguments that the entry does not take
    array    : numpy.ndarray
    *rest    : the classes of the signature's NamedTuples, in its order
    """

    fallback: Callable[..., Any]
    array: type


def _read(address: int, kind: Any) -> Any:
    return kind.from_address(address).value


def layouts_hold() -> bool:
    """Return whether objects, arrays and dtypes lie in memory as this module says."""
    if object.__basicsize__ != HEAD or tuple.__basicsize__ != ITEMS:
        return False
    word, char, number = ctypes.c_ssize_t, ctypes.c_char, ctypes.c_int
    pair = (np, word)
    if _read(id(pair) + ITEMS + 8, word) != id(word):
        return False
    examples = [
        np.zeros((3, 4), np.int16)[:, 1:],
        np.arange(5, dtype=">f8"),
        np.frombuffer(b"12345678", np.uint64),
    ]
    return all(_is_laid_out(array, word, char, number) for array in examples)


def _is_laid_out(array: Any, word: Any, char: Any, number: Any) -> bool:
    start, dtype = id(array), array.dtype
    sizes = [_read(start + place, word) for place in (DIMENSIONS, STRIDES)]
    flags = _read(start + FLAGS, number)
    return bool(
        _read(start + TYPE, word) == id(np.ndarray)
        and _read(start + DATA, word) == array.ctypes.data
        and _read(start + NDIM, number) == array.ndim
        and all(_read(sizes[0] + 8 * k, word) == n for k, n in enumerate(array.shape))
        and all(_read(sizes[1] + 8 * k, word) == n for k, n in enumerate(array.strides))
        and _read(start + DTYPE, word) == id(dtype)
        and _read(id(dtype) + KIND, char) == dtype.kind.encode()
        and _read(id(dtype) + BYTE_ORDER, char) == dtype.byteorder.encode()
        and _read(id(dtype) + ITEM_SIZE, word) == dtype.itemsize
        and bool(flags & CONTIGUOUS) == array.flags.c_contiguous
        and bool(flags & ALIGNED) == array.flags.aligned
        and bool(flags & WRITEABLE) == array.flags.writeable
    )


class _Method(ctypes.Structure):
    """PyMethodDef of CPython."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_keep = ctypes.pythonapi.Py_IncRef
_keep.restype = None
_keep.argtypes = (ctypes.py_object,)
_new_function = ctypes.pythonapi.PyCFunction_NewEx
_new_function.restype = ctypes.py_object
_new_function.argtypes = (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)


# Held while an object is loaded, which takes milliseconds. No fork happens meanwhile:
# the child would find locks of llvmlite's that nobody there gives back. A handler of a
# signal may load another object in the same thread.
_loading = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_loading.acquire,
        after_in_parent=_loading.release,
        after_in_child=_loading.release,
    )


class Engine:
    """Holds the object code that a process has loaded, until the process ends."""

    def __init__(self) -> None:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        self._machine = binding.Target.from_default_triple().create_target_machine(
            jit=True
        )
        self._engine = binding.create_mcjit_compiler(
            binding.parse_assembly(""), self._machine
        )

    def load(
        self, code: bytes, symbol: str, contexts: Sequence[tuple[Any, ...]]
    ) -> list[Callable[..., Any]]:
        """Load an object; return its entry as a function, once for each context.

        symbol   : the name of the entry in the object
        contexts : see `Context`
        """
        with _loading:
            for name, address in ADDRESSES.items():
                binding.add_symbol(name, address)
            self._engine.add_object_file(binding.ObjectFileRef.from_data(code))
            address = self._engine.get_function_address(symbol)
            if not address:
                raise RuntimeError(f"object code without its entry {symbol}")
            method = _Method(symbol.encode(), address, METH_FASTCALL, None)
            # It stays for ever: when Python ends, it clears modules in any order, and
            # a function reads its method when it goes.
            _keep(method)
            place = ctypes.addressof(method)
            return [_new_function(place, context, None) for context in contexts]


@functools.cache
def engine() -> Engine:
    """Return the engine of this process."""
    return Engine()
