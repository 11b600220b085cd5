"""Which object code this machine and this Python run.

Object code is made for Linux on x86-64, by the levels that compilers and the ABI name:
v3 has AVX2 and FMA, v4 has AVX-512. Elsewhere, kernels are compiled by numba in each
process.
"""

import functools
import logging
import os
import platform
import sys
import sysconfig

from fastseg.errors import OptionError, one_of

log = logging.getLogger("fastseg.cache")

# Each processor level, the best first, and the features that it has and the next one
# lacks, by LLVM's names.
LEVELS = {
    "x86-64-v4": ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
    "x86-64-v3": ("avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"),
    "x86-64-v2": ("cx16", "popcnt", "sahf", "sse3", "ssse3", "sse4.1", "sse4.2"),
    "x86-64": ("sse2",),
}
# Levels that a wheel has code for: all processors of servers since 2013 have v3.
IN_WHEELS = ("x86-64-v3", "x86-64-v4")
PLATFORM = "linux"
# Chooses a level below the machine's, for tests and to compare.
CHOICE = "FASTSEG_CPU"


def is_interpreted() -> bool:
    """Return whether kernels are to run as Python."""
    if "numba" in sys.modules:
        return bool(sys.modules["numba"].config.DISABLE_JIT)
    return os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")


INTERPRETED = is_interpreted()


def is_supported() -> bool:
    """Return whether object code can be made and run here."""
    return (
        sys.platform == "linux"
        and sys.implementation.name == "cpython"
        and platform.machine() == "x86_64"
        and sys.maxsize > 2**32
        and not sysconfig.get_config_var("Py_GIL_DISABLED")
    )


@functools.cache
def uses_objects() -> bool:
    """Return whether kernels are loaded as object code in this process."""
    if not is_supported():
        return False
    from fastseg._kernels.native import engine

    if not engine.layouts_hold():
        log.warning(
            "this Python or numpy lays out its objects in another way than fastseg's "
            "compiled code expects: numba compiles it in each process"
        )
        return False
    return True


def runnable_levels() -> list[str]:
    """Return the levels that this machine runs, the best first.

    Raises OptionError if the environment variable FASTSEG_CPU names another one.
    """
    from llvmlite import binding  # takes long, and is not needed to run as Python

    features = binding.get_host_cpu_features()
    levels = list(LEVELS)
    for index in reversed(range(len(levels))):
        if not all(features.get(name) for name in LEVELS[levels[index]]):
            levels = levels[index + 1 :]
            break
    wanted = os.environ.get(CHOICE)
    if wanted:
        if wanted not in LEVELS:
            raise OptionError(one_of(CHOICE, wanted, LEVELS))
        if wanted not in levels:
            raise OptionError(
                f"{CHOICE} is {wanted!r}, but this machine runs only "
                + ", ".join(levels)
            )
        levels = levels[levels.index(wanted) :]
    return levels
