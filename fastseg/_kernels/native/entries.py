"""From an entry to the function that Python calls: finds, compiles and loads objects.

The first call of an entry loads the object for the types of its arguments. The function
that it makes stands for the entry from then on; what it does not take goes on to the
functions loaded before, and last to `_Loader.extend`, which loads another one.
"""

import functools
import logging
import os
import pkgutil
import threading
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import numpy as np

from fastseg import _kernels
from fastseg._kernels import native
from fastseg._kernels.jit import INTERPRETED, Kernel
from fastseg._kernels.native import cache, machine, signatures
from fastseg._kernels.native.signatures import Signature

log = logging.getLogger("fastseg.cache")

_lock = threading.RLock()


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()  # another thread may have held it during the fork


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


@functools.cache
def uses_objects() -> bool:
    """Return whether kernels are loaded as object code in this process."""
    if not machine.is_supported():
        return False
    from fastseg._kernels.native import engine

    if not engine.layouts_hold():
        log.warning(
            "this Python or numpy lays out its objects in another way than fastseg's "
            "compiled code expects: numba compiles it in each process"
        )
        return False
    return True


@functools.cache
def levels() -> list[str]:
    """Return the processor levels that may run here, the best first."""
    return machine.runnable_levels()


def symbol_of(kernel: Kernel, signature: Signature) -> str:
    """Return the name of an entry in its object."""
    name = cache.name_of(kernel.path, signatures.join(signature))
    return f"fastseg_entry_{name.replace('-', '_')}"


def callable_for(kernel: Kernel) -> Callable[..., Any]:
    """Return the function to call for a kernel that has not been called yet."""
    if kernel.declared is None or not uses_objects():
        dispatcher: Callable[..., Any] = kernel.dispatcher
        return dispatcher
    return _Loader(kernel).extend


class _Loader:
    """Loads the objects of one entry."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        # For each signature a function that refuses what it does not take.
        self.loaded: dict[Signature, Callable[..., Any]] = {}
        # The function for all signatures.
        self.first: Callable[..., Any] = self.extend

    def extend(self, *args: Any) -> Any:
        """Call the entry with arguments of types for which nothing is loaded yet."""
        args = tuple(map(signatures.plain, args))
        with _lock:
            signature = signature_for(self.kernel, args)
            if signature not in self.loaded:
                self.load(signature)
            function = self.loaded[signature]
        return function(*args)

    def load(self, signature: Signature) -> None:
        """Load the object for a signature; compile it if there is none."""
        from fastseg._kernels.native.engine import Context, engine

        code = find_code(self.kernel, signature)
        symbol = symbol_of(self.kernel, signature)
        classes = [record.made_by for record in signatures.records(signature)]
        contexts = [
            (*Context(fallback, np.ndarray), *classes)
            for fallback in (self.first, self.refuse)
        ]
        functions = engine().load(code, symbol, contexts)
        self.first, self.loaded[signature] = functions
        self.kernel._call = self.first

    def refuse(self, *args: Any) -> Any:
        """Raise TypeError."""
        raise TypeError(
            f"{self.kernel.__name__} does not take "
            + ", ".join(map(signatures.describe, args))
        )


def signature_for(kernel: Kernel, args: tuple[Any, ...]) -> Signature:
    """Return a declared signature that takes plain arguments, else their own.

    Raises TypeError for arguments that no signature can take.
    """
    signature: Signature
    for signature in kernel.signatures:
        if len(signature) != len(args):
            raise TypeError(
                f"{kernel.__name__} takes {len(signature)} arguments, not {len(args)}"
            )
        if all(map(signatures.accepts, signature, args)):
            return signature
    return tuple(map(signatures.type_of, args))


def all_entries() -> list[Kernel]:
    """Return all entries, sorted by module and name."""
    found = []
    for module in sorted(
        info.name
        for info in pkgutil.walk_packages(_kernels.__path__, f"{_kernels.__name__}.")
        if not info.name.startswith(native.__name__)
    ):
        values = vars(import_module(module)).values()
        found += [
            value
            for value in values
            if isinstance(value, Kernel)
            and value.declared is not None
            and value.__module__ == module
        ]
    return sorted(found, key=lambda kernel: kernel.path)


def all_requests() -> list[tuple[str, str]]:
    """Return the full name of each entry, with each signature that it declares."""
    return [
        (kernel.path, signatures.join(signature))
        for kernel in all_entries()
        for signature in kernel.signatures
    ]


def prepare(wanted: Iterable[tuple[Kernel, dict[str, str]]]) -> None:
    """Compile what will be needed and is not there, side by side.

    wanted : entries, each with the types that some of its parameters will have; all
        declared signatures that have them are compiled
    """
    if INTERPRETED or not uses_objects():
        return
    requests = [
        (kernel.path, signatures.join(signature))
        for kernel, types in wanted
        for signature in kernel.matching(types)
    ]
    missing = [
        request
        for request in dict.fromkeys(requests)
        if request not in _prepared and cache.read(*request, levels()) is None
    ]
    if missing:
        from fastseg._kernels.native import workers

        workers.compile_objects(missing, levels()[0])
    _prepared.update(requests)


# What `prepare` has found or compiled in this process.
_prepared: set[tuple[str, str]] = set()


def find_code(kernel: Kernel, signature: Signature) -> bytes:
    """Return the object code of an entry; compile it if there is none."""
    path, text = kernel.path, signatures.join(signature)
    code = cache.read(path, text, levels())
    if code is None:
        from fastseg._kernels.native import workers

        workers.compile_objects([(path, text)], levels()[0])
        code = cache.read(path, text, levels())
    if code is None:
        raise RuntimeError(f"the object code of {path} vanished after it was made")
    return code
