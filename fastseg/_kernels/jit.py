"""The decorators that make functions kernels; they need no numba.

A kernel that Python calls is an *entry*: it declares the types of its arguments, and is
compiled to object code, see `native`. Other kernels are called by kernels alone. (Tests
call them as well: numba compiles them then, as it does all where there is no object
code for this platform.)

nogil
    threads of the loader and the builder run kernels in parallel; but see `brief`
error_model="numpy"
    a division by zero gives inf or NaN, as in numpy; no branch, no exception
no fastmath
    it may change labels
no parallel
    callers start the threads; numba's own pool is unsafe inside thread pools

With NUMBA_DISABLE_JIT=1 kernels are the Python functions that they are written as.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastseg._kernels.native.machine import INTERPRETED as INTERPRETED


class Kernel:
    """A function that is compiled; see `kernel` and `entry`."""

    def __init__(
        self,
        function: Callable[..., Any],
        nogil: bool,
        inlined: bool,
        declared: tuple[dict[str, Any], dict[str, tuple[str, ...]]] | None = None,
    ) -> None:
        self.__name__, self.__doc__ = function.__name__, function.__doc__
        self.__module__ = function.__module__
        self.function = function
        self.nogil, self.inlined, self.declared = nogil, inlined, declared
        self._call = self._first_call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def _first_call(self, *args: Any) -> Any:
        from fastseg._kernels.native import entries

        entries.start(self)
        return self._call(*args)

    @property
    def path(self) -> str:
        """The full name of the function."""
        return f"{self.__module__}.{self.__name__}"

    @functools.cached_property
    def signatures(self) -> list[Any]:
        """The signatures that an entry declares."""
        from fastseg._kernels.native.signatures import expand

        return [] if self.declared is None else list(expand(*self.declared))

    def matching(self, known: dict[str, Any]) -> list[Any]:
        """Return the declared signatures that fit what is known.

        known : values of some parameters, or what some capital letters stand for
        """
        from fastseg._kernels.native.signatures import accepts, bind, expand

        if self.declared is None:
            return []
        declared, variables = self.declared
        chosen = {
            letters: tuple(
                names
                for names in options
                if all(known.get(x, name) == name for x, name in bind(letters, names))
            )
            for letters, options in variables.items()
        }
        places = {k: known[name] for k, name in enumerate(declared) if name in known}
        return [
            signature
            for signature in expand(declared, chosen)
            if all(accepts(signature[k], value) for k, value in places.items())
        ]

    @functools.cached_property
    def dispatcher(self) -> Any:
        """numba's form of this kernel."""
        from fastseg._kernels.native.numba_kernels import make_dispatcher

        return make_dispatcher(self)

    @property
    def _numba_type_(self) -> Any:
        """What numba takes a kernel for that another kernel calls."""
        return self.dispatcher._numba_type_


class Intrinsic:
    """A function of `native.intrinsics` or an external one, made when numba asks."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    @functools.cached_property
    def _numba_type_(self) -> Any:
        """What numba takes it for where a kernel calls it."""
        from numba.core.registry import cpu_target

        made = self.make()
        cpu_target.typing_context.refresh()  # it reads what has been registered since
        return cpu_target.typing_context.resolve_value_type(made)


def intrinsic(name: str) -> Any:
    """Return a function of `native.intrinsics` for kernels to call."""

    def make() -> Any:
        from fastseg._kernels.native import intrinsics

        return getattr(intrinsics, name)

    return Intrinsic(make)


def kernel(function: Callable[..., Any]) -> Any:
    """Make a function a kernel that other kernels call."""
    return function if INTERPRETED else Kernel(function, True, False)


def inlined(function: Callable[..., Any]) -> Any:
    """Make a function a kernel that is inlined into each of its callers.

    For kernels that an inner loop calls: numba passes an array as seven to nine
    numbers, which takes longer than many small kernels do.
    """
    return function if INTERPRETED else Kernel(function, True, True)


def entry(**types: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make a function a kernel that Python calls.

    types : for each parameter the types that are worth having compiled beforehand, see
        `native.signatures.expand`; and for each capital letter in them a tuple of the
        names that it stands for. Other types are compiled when they are met

    The kernel returns None, a number, or a tuple of numbers. It takes no keywords.
    """
    return functools.partial(_make_entry, types, True)


def brief_entry(**types: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make a function an `entry` that keeps Python's global lock.

    For kernels that take a few microseconds: a thread that releases the lock waits
    up to 5 ms to get it back if the training loop runs Python code.
    """
    return functools.partial(_make_entry, types, False)


def _make_entry(
    types: dict[str, Any], nogil: bool, function: Callable[..., Any]
) -> Any:
    names = list(inspect.signature(function).parameters)
    variables = {name: types[name] for name in types if name not in names}
    declared = ({name: types[name] for name in names}, variables)
    return function if INTERPRETED else Kernel(function, nogil, False, declared)


if INTERPRETED:

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

    def flat(array: Any) -> Any:
        """Return all cells of a C-contiguous array as a 1-D array: a view."""
        return array.reshape(array.size)

    def reinterpret(array: Any, dtype: Any) -> Any:
        """Return the bytes of a C-contiguous 1-D array as another dtype: a view."""
        return array.view(dtype)

    def overlapping(array: Any, dtype: Any) -> Any:
        """Return a view with one item less, of a dtype of twice the size.

        Item k has the bytes of items k and k + 1 of the C-contiguous 1-D array, which
        has an even number of items.
        """
        from numpy.lib.stride_tricks import as_strided

        return as_strided(array.view(dtype), (len(array) - 1,), array.strides)

    empty: Any = np.empty
    zeros: Any = np.zeros
else:
    trailing_zeros = intrinsic("trailing_zeros")
    fma = intrinsic("fma")
    read_only = intrinsic("read_only")
    flat = intrinsic("flat")
    # numpy's own compile a function for each shape and dtype.
    reinterpret, overlapping = intrinsic("reinterpret"), intrinsic("overlapping")
    empty, zeros = intrinsic("empty"), intrinsic("zeros")
