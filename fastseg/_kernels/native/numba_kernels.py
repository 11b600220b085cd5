"""Kernels as numba runs them in this process: where there is no object code for them.

Compiled code is kept in numba's own form, in a folder of ours that the sources of all
kernels name: numba alone would not notice an edited callee. One process writes at a
time: two that compile a kernel for different types at once could take each other's
file (numba issue 4807).
"""

import contextlib
from typing import Any

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

from fastseg._kernels.jit import Kernel
from fastseg._kernels.native import cache

# What `compiler` adds, as its code does not run in the process that makes it.
only_code: dict[str, Any] = {}


def make_dispatcher(kernel: Kernel) -> Any:
    """Return a kernel as numba has it."""
    dispatcher = numba.njit(
        nogil=kernel.nogil,
        error_model="numpy",
        forceinline=kernel.inlined,
        **only_code,
    )(kernel.function)
    if not only_code:
        with contextlib.suppress(OSError):
            dispatcher._cache = _Cache(kernel.function)
    return dispatcher


class _Locator(_CacheLocator):  # type: ignore[misc]
    """Says where numba keeps compiled code, and when it is outdated."""

    def get_cache_path(self) -> str:
        return str(cache.make_folder("numba"))

    def get_source_stamp(self) -> str:
        return cache.digest()

    def get_disambiguator(self) -> None:
        return None

    @classmethod
    def from_function(cls, function: Any, file: str) -> Any:
        locator = cls()
        locator.ensure_cache_path()
        return locator


class _Implementation(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = [_Locator]  # noqa: RUF012


class _Cache(FunctionCache):  # type: ignore[misc]
    _impl_class = _Implementation

    def save_overload(self, sig: Any, data: Any) -> None:
        with cache.locked(cache.make_folder("numba") / self._name):
            super().save_overload(sig, data)
