"""Eight processes start at once with an empty cache, and compile for several dtypes.

Each compares all results with numpy's. In every other group, also the first, one
process is killed at a random moment, as is what it has started.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from tests.soak import Fault

GROUP = 8
DTYPES = ("int16", "float64", "uint8")
CODE = """
import sys
import numpy as np
from fastseg._kernels.native import workers
from tests.kernels.native import examples

workers.PATIENCE = 0
for dtype in sys.argv[1:]:
    array = (np.arange(35).reshape(5, 7) * 3).astype(dtype)
    rows, columns = np.indices(array.shape)
    expected = float((array * (1.0 + 31.0 * rows + columns)).sum())
    assert examples.weigh(array) == expected, dtype
"""


def run(folder, tries, seed):
    """Yield what each process did."""
    for start in range(0, tries, GROUP):
        cache = folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        rng = random.Random(seed * 1_000_003 + start)
        processes = [begin(cache, rng) for _ in range(GROUP)]
        victim = None if (start // GROUP) % 2 else processes[0]
        if victim is not None:
            time.sleep(rng.uniform(0.1, 2))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(victim.pid, signal.SIGKILL)
        for process in processes:
            _, errors = process.communicate()
            if process is victim and process.returncode == -signal.SIGKILL:
                yield "killed"
            elif process.returncode:
                yield Fault(f"seed {seed}, group {start}: {errors}")
            else:
                yield "compiled" if "compiling" in errors else "found all compiled"
        if left := [path.name for path in cache.rglob("*") if is_left(path, victim)]:
            yield Fault(f"seed {seed}, group {start}: {left} are left")


def is_left(path, victim):
    """Return whether a file of the cache is no object, and no lock."""
    is_temporary = path.is_file() and path.suffix not in (".o", ".lock")
    return is_temporary and victim is None


def begin(cache, rng):
    """Return a new process, in a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *rng.sample(DTYPES, len(DTYPES))],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "FASTSEG_CACHE_DIR": str(cache),
        },
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
