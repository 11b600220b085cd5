"""The decorators that compile kernels; no other module sets numba's options.

nogil
    threads of the loader and the builder run kernels in parallel; but see `brief`
cache
    numba saves compiled code on disk, so that a second process starts at once. It
    notices when a kernel's own file changes, but not when the file of a kernel that
    it calls changes: after such an edit, delete the *.nbi and *.nbc files (pytest
    does)
error_model="numpy"
    a division by zero gives inf or NaN, as in numpy; no branch, no exception
no fastmath
    it may change labels
no parallel
    callers start the threads; numba's own pool is unsafe inside thread pools

The logger `fastseg.compile` reports each kernel that is compiled, which takes seconds.
"""

import logging
import math
import warnings
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import event
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic

log = logging.getLogger("fastseg.compile")


class _CompileLogger(event.Listener):  # type: ignore[misc]
    """Logs each kernel that numba compiles, but not the kernels that it calls."""

    def __init__(self) -> None:
        self._depth = 0  # one for all threads: numba compiles in one at a time

    def on_start(self, started: Any) -> None:
        # numba reports every function that it compiles, also those of other packages.
        function: Any = getattr(started.data["dispatcher"], "py_func", None)
        is_own = str(getattr(function, "__module__", "")).startswith("fastseg.")
        if is_own and not self._depth:
            log.info("compiling %s", function.__name__)
        self._depth += 1

    def on_end(self, ended: Any) -> None:
        self._depth -= 1


event.register("numba:compile", _CompileLogger())


def inlined(function: Callable[..., Any]) -> Any:
    """Compile `function` as a kernel that is inlined into each of its callers.

    For kernels that an inner loop calls: numba passes an array as seven to nine
    numbers, which takes longer than many small kernels do.
    """
    return kernel(function, forceinline=True)


def brief(function: Callable[..., Any]) -> Any:
    """Compile `function` as a kernel that keeps Python's global lock.

    For kernels that take a few microseconds: a thread that releases the lock waits
    up to 5 ms to get it back if the training loop runs Python code.
    """
    return kernel(function, nogil=False)


def kernel(function: Callable[..., Any], **overrides: Any) -> Any:
    """Compile `function` when it is first called, for the types of its arguments."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", **overrides}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError as exc:  # numba finds no folder that it can write to
        warnings.warn(
            f"numba cannot save compiled kernels on disk ({exc}); every process "
            "compiles them again. Set NUMBA_CACHE_DIR to a writable folder.",
            RuntimeWarning,
            stacklevel=3,
        )
        return numba.njit(**options)(function)


if numba.config.DISABLE_JIT:

    def trailing_zeros(bits: Any) -> int:
        """Return the index of the lowest set bit of a uint64 that is not 0."""
        number = int(bits)
        return (number & -number).bit_length() - 1

    def fma(a: Any, b: Any, c: Any) -> Any:
        """Return a * b + c, float32, rounded once.

        The product is exact in float64. An inexact sum is rounded to the neighbour
        whose last bit is 1, so that the second rounding, to float32, gives the right
        result: Boldo and Melquiond, "Emulation of FMA and correctly rounded sums"
        (2008).
        """
        product = float(a) * float(b)
        c = float(c)
        total = product + c
        back = total - product
        error = (product - (total - back)) + (c - back)
        if error and not np.float64(total).view(np.int64) & 1:
            total = math.nextafter(total, math.copysign(math.inf, error))
        return np.float32(total)

    def read_only(array: Any) -> Any:
        """Return a view that cannot be written to."""
        view = array.view()
        view.flags.writeable = False
        return view

else:

    @intrinsic  # type: ignore[untyped-decorator]
    def _count_trailing_zeros(typing_context: Any, bits: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return builder.cttz(values[0], ir.Constant(ir.IntType(1), 1))

        return types.int64(types.uint64), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def _fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return builder.fma(*values)

        return types.float32(types.float32, types.float32, types.float32), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def read_only(typing_context: Any, array: Any) -> Any:
        """Return a view that cannot be written to.

        A kernel that takes it need not be compiled again: the code for read-only
        arrays, which Python makes from bytes, serves both.
        """

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            kind = signature.return_type
            return impl_ret_borrowed(context, builder, kind, values[0])

        return array.copy(readonly=True)(array), generate

    @inlined
    def fma(a, b, c):  # type: ignore[no-untyped-def]
        """Return a * b + c, float32, rounded once.

        One instruction instead of two, and the same bits on every machine: compilers
        fuse a product and a sum only where code asks for it.
        """
        return _fma(a, b, c)

    @kernel
    def trailing_zeros(bits):  # type: ignore[no-untyped-def]
        """Return the index of the lowest set bit of a uint64 that is not 0.

        One instruction: masks take 1.3 times as long with a lookup table.
        """
        return _count_trailing_zeros(bits)
