"""The one place that sets numba's options.

nogil
    threads of the loader and the builder run kernels side by side; but see `brief`
cache
    compiled code is kept on disk, so that a second process starts at once; numba
    notices when a kernel's own file changes, not when one that it calls does: after
    editing those, delete the *.nbi and *.nbc files (`make test` does)
error_model="numpy"
    a division by zero gives inf or NaN, as in numpy; no branch, no exception
no fastmath
    it may change labels
no parallel
    threads belong to the caller; numba's own pool is unsafe inside thread pools

What is compiled, which takes seconds, is told to the logger `fastseg.compile`.
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


class _Telling(event.Listener):  # type: ignore[misc]
    """Logs which kernel is compiled; others that become part of it, it does not."""

    def __init__(self) -> None:
        self._depth = 0  # one for all threads: numba lets one compile at a time

    def on_start(self, started: Any) -> None:
        # All that numba compiles in this process is told, whoever has written it.
        function: Any = getattr(started.data["dispatcher"], "py_func", None)
        is_own = str(getattr(function, "__module__", "")).startswith("fastseg.")
        if is_own and not self._depth:
            log.info("compiling %s", function.__name__)
        self._depth += 1

    def on_end(self, ended: Any) -> None:
        self._depth -= 1


event.register("numba:compile", _Telling())


def inlined(function: Callable[..., Any]) -> Any:
    """Compile `function` as a kernel that becomes part of each of its callers.

    For what is called in an inner loop: an array is passed as seven to nine numbers,
    which costs more than many a small kernel does.
    """
    return kernel(function, forceinline=True)


def brief(function: Callable[..., Any]) -> Any:
    """Compile `function` as a kernel that keeps Python's lock.

    For what takes a few microseconds: a thread that gives the lock away waits up to
    5 ms for it where the loop runs Python.
    """
    return kernel(function, nogil=False)


def kernel(function: Callable[..., Any], **more: Any) -> Any:
    """Compile `function` when it is first called, for the types it is called with."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", **more}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError as exc:  # numba finds no folder that it may write to
        warnings.warn(
            f"compiled kernels cannot be kept on disk ({exc}); they are compiled "
            "anew in every process. Set NUMBA_CACHE_DIR to a writable folder.",
            RuntimeWarning,
            stacklevel=3,
        )
        return numba.njit(**options)(function)


if numba.config.DISABLE_JIT:

    def trailing_zeros(bits: Any) -> int:
        """Return the place of the lowest set bit of a uint64 that is not 0."""
        number = int(bits)
        return (number & -number).bit_length() - 1

    def fma(a: Any, b: Any, c: Any) -> Any:
        """Return a * b + c, float32, rounded once.

        In float64 the product is exact, and a sum whose last bit tells that it is not
        is rounded once more as if it were: Boldo and Melquiond, "Emulation of FMA and
        correctly rounded sums" (2008).
        """
        product, c = float(a) * float(b), float(c)
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

        So that what is called with it is not compiled once more, but is the same as
        for the bytes that Python hands over.
        """

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            kind = signature.return_type
            return impl_ret_borrowed(context, builder, kind, values[0])

        return array.copy(readonly=True)(array), generate

    @inlined
    def fma(a, b, c):  # type: ignore[no-untyped-def]
        """Return a * b + c, float32, rounded once.

        One instruction where there were two, and the same bits on every machine: what
        is not asked for, compilers do not fuse.
        """
        return _fma(a, b, c)

    @kernel
    def trailing_zeros(bits):  # type: ignore[no-untyped-def]
        """Return the place of the lowest set bit of a uint64 that is not 0.

        One instruction: 1.3 times faster masks than with a table of places.
        """
        return _count_trailing_zeros(bits)
