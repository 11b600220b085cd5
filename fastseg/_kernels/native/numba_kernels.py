"""Kernels as numba runs them in this process: where there is no object code for them.

Compiled code is kept in numba's own form, in a folder of ours that the sources of all
kernels name: numba alone would not notice an edited callee. One process writes at a
time: two that compile a kernel for different types at once could take each other's
file (numba issue 4807).
"""

import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
from numba import types
from numba.core import event
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

from fastseg._kernels.native import cache, machine

if TYPE_CHECKING:
    from fastseg._kernels.jit import Kernel

log = logging.getLogger("fastseg.compile")
cache_log = logging.getLogger("fastseg.cache")

_functions: set[Any] = set()

# What `compiler` adds, as its code does not run in the process that makes it.
only_code: dict[str, Any] = {}


def make_dispatcher(kernel: "Kernel") -> Any:
    """Return a kernel as numba has it."""
    dispatcher = numba.njit(
        nogil=kernel.nogil,
        error_model="numpy",
        forceinline=kernel.inlined,
        **only_code,
    )(kernel.function)
    _functions.add(kernel.function)
    template = dispatcher.get_call_template
    # numba would compile a kernel again for each constant that it is called with.
    dispatcher.get_call_template = lambda args, kws: template(
        tuple(map(types.unliteral, args)), kws
    )
    if not only_code and (folder := _folder()) is not None:
        dispatcher._cache = _Cache(kernel.function, folder)
    return dispatcher


@functools.cache
def _folder() -> Path | None:
    """Return the folder for compiled code, or None and warn if there can be none."""
    try:
        return cache.make_folder("numba")
    except OSError as exc:
        cache_log.warning("%s. Each process compiles for itself alone", exc)
        return None


class _Reporter(event.Listener):  # type: ignore[misc]
    """Logs each kernel that numba compiles, but not the kernels that it calls."""

    def __init__(self) -> None:
        self._depth = 0  # one for all threads: numba compiles in one at a time
        self._is_first = True

    def on_start(self, started: Any) -> None:
        # numba reports every function that it compiles, also those of other packages.
        function: Any = getattr(started.data["dispatcher"], "py_func", None)
        if function in _functions and not self._depth:
            if self._is_first and not machine.uses_objects():
                log.warning(
                    "fastseg is compiling its code for this machine, which takes up to "
                    "a minute; it is kept for the next time"
                )
                self._is_first = False
            log.info("compiling %s", function.__name__)
        self._depth += 1

    def on_end(self, ended: Any) -> None:
        self._depth -= 1


event.register("numba:compile", _Reporter())


class _Locator(_CacheLocator):  # type: ignore[misc]
    """Says where numba keeps compiled code, and when it is outdated."""

    def get_cache_path(self) -> str:
        return str(_folder())

    def get_source_stamp(self) -> str:
        return cache.digest()

    def get_disambiguator(self) -> None:
        return None

    @classmethod
    def from_function(cls, function: Any, file: str) -> Any:
        return cls()


class _Implementation(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = [_Locator]  # noqa: RUF012


class _Cache(FunctionCache):  # type: ignore[misc]
    _impl_class = _Implementation

    def __init__(self, function: Any, folder: Path) -> None:
        super().__init__(function)
        self._lock = folder / self._name

    def save_overload(self, sig: Any, data: Any) -> None:
        with cache.locked(self._lock):
            super().save_overload(sig, data)
