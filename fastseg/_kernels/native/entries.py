"""From an entry to the function that Python calls: finds, compiles and loads objects.

The first call of an entry loads the object for the types of its arguments. The function
that it makes stands for the entry from then on; what it does not take goes on to the
functions loaded before, and last to `_Loader.extend`, which loads another one.
"""

import contextlib
import functools
import logging
import os
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastseg._kernels.native import cache, machine, signatures
from fastseg._kernels.native.signatures import Signature
from fastseg.errors import CompileError

if TYPE_CHECKING:
    from fastseg._kernels.jit import Kernel

log = logging.getLogger("fastseg.cache")

_lock = threading.RLock()


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()  # another thread may have held it during the fork


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


@functools.cache
def levels() -> list[str]:
    """Return the processor levels that may run here, the best first."""
    return machine.runnable_levels()


def start(kernel: "Kernel") -> None:
    """Set the function to call for a kernel that has not been called yet."""
    with _lock:
        if kernel._call != kernel._first_call:
            return  # another thread has set it
        if kernel.declared is None or not machine.uses_objects():
            kernel._call = kernel.dispatcher
        else:
            kernel._call = _Loader(kernel).extend


class _Loader:
    """Loads the objects of one entry."""

    def __init__(self, kernel: "Kernel") -> None:
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

        try:
            code = find_code(self.kernel, signature)
        except CompileError as exc:
            # As with a version of numba that this one does not know.
            log.warning("%s. numba compiles it in this process instead", exc)
            self.loaded[signature] = self.kernel.dispatcher
            return
        symbol = cache.symbol_of(self.kernel.path, signatures.join(signature))
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


def signature_for(kernel: "Kernel", args: tuple[Any, ...]) -> Signature:
    """Return a declared signature that takes plain arguments, else one like it.

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
    declared = zip(*kernel.signatures, strict=True)
    return tuple(map(signatures.closest, declared, args))


def prepare(wanted: Iterable[tuple["Kernel", dict[str, Any]]]) -> None:
    """Compile what will be needed and is not there, side by side.

    wanted : entries, each with what is known of its arguments, see `Kernel.matching`;
        all declared signatures that fit are compiled
    """
    if machine.INTERPRETED or not machine.uses_objects():
        return
    requests = [
        (kernel.path, signatures.join(signature))
        for kernel, known in wanted
        for signature in kernel.matching(known)
    ]
    missing = [
        request
        for request in dict.fromkeys(requests)
        if request not in _prepared and cache.read(*request, levels()) is None
    ]
    if missing:
        from fastseg._kernels.native import workers

        with contextlib.suppress(CompileError):  # it comes again where it is needed
            workers.compile_objects(missing, levels()[0])
    _prepared.update(requests)


# What `prepare` has found or compiled in this process.
_prepared: set[tuple[str, str]] = set()


def find_code(kernel: "Kernel", signature: Signature) -> bytes:
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
