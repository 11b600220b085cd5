"""All entries, and the types that they declare: what a wheel or `warmup` compiles."""

import pkgutil
from importlib import import_module

from fastseg import _kernels
from fastseg._kernels import native
from fastseg._kernels.jit import Kernel
from fastseg._kernels.native import signatures


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
