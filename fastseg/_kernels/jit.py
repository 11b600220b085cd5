"""The one place that sets numba's options.

nogil
    threads of the loader and the builder run kernels side by side
cache
    compiled code is kept on disk, so that a second process starts at once
error_model="numpy"
    a division by zero gives inf or NaN, as in numpy; no branch, no exception
no fastmath
    it may change labels
no parallel
    threads belong to the caller; numba's own pool is unsafe inside thread pools
"""

import warnings
from collections.abc import Callable
from typing import Any

import numba


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` when it is first called, for the types it is called with."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
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
