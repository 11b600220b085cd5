"""The process of one commit in benchmarks/compare.py.

    python -m benchmarks.worker TREE DRAWN FOLDER

TREE is the folder that fastseg is imported from; the cases are those of this folder,
whatever commit is timed. DRAWN and FOLDER are those of Inputs. Requests are lines of
JSON on stdin, and each is answered by one on stdout:

    {"do": "draw"}
        draws the images
    {"do": "prepare", "case": NAME}
        compiles, and answers with the seconds and items of a call, or with an error
    {"do": "time", "case": NAME, "calls": N, "repeats": M, "core": K}
        answers with the seconds of a call: the median of M times, each of N calls. N
        is 1 for a case that needs something done before each call. A case of one core
        is timed on the K-th
"""

import gc
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

# The first entry was the folder of this package: from here on, Python imports
# everything but this package from the tree.
TREE = Path(sys.argv[1]).resolve()
sys.path[0] = str(TREE)

import fastseg  # noqa: E402
from benchmarks.cases import CASES  # noqa: E402
from benchmarks.inputs import Inputs  # noqa: E402

# Bytes of an array that is freed before anything is timed. From then on, glibc keeps
# freed memory up to twice this size, where it first gives back what is above 128 KB.
# Else a commit that happened to free such an array, as numba does, would be timed
# without the faults of new pages, and the other one with them: 18 and 63 us a mask.
FREED = 30 << 20
# The first call compiles, the others tell how long a call takes.
WARM_UPS = 3


def time_calls(work, calls, repeats, core=None):
    """Repeat a number of calls; return the median of the seconds of a call.

    core : which core of this process runs calls that need one, by its number from 0
    """
    before = work.before or (lambda: None)
    seconds = []
    cores = os.sched_getaffinity(0)
    gc.collect()
    gc.disable()
    try:
        if core is not None and work.cores == 1:
            os.sched_setaffinity(0, {sorted(cores)[core % len(cores)]})
        for _ in range(repeats):
            before()
            start = time.perf_counter()
            for _ in range(calls):
                work.call()
            seconds.append((time.perf_counter() - start) / calls)
    finally:
        os.sched_setaffinity(0, cores)
        gc.enable()
    return statistics.median(seconds)


def prepare(name, inputs, works):
    """Prepare a case and call it; return its seconds and items, or its error."""
    try:
        works[name] = work = CASES[name].prepare(inputs)
        seconds = min(time_calls(work, 1, 1) for _ in range(WARM_UPS))
    except Exception as exc:  # this commit cannot do it; the other cases can go on
        return {"error": f"{type(exc).__name__}: {exc}"}
    return {"seconds": seconds, "items": work.items}


def main():
    """Answer the requests until stdin ends."""
    assert TREE in Path(fastseg.__file__).parents, (
        f"{fastseg.__file__} is not in {TREE}"
    )
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    np.empty(FREED, np.uint8)
    inputs = Inputs(*sys.argv[2:])
    works = {}
    for line in sys.stdin:
        request = json.loads(line)
        match request["do"]:
            case "draw":
                inputs.draw()
                answer = {}
            case "prepare":
                answer = prepare(request["case"], inputs, works)
            case "time":
                work = works[request["case"]]
                counts = request["calls"], request["repeats"]
                answer = {"seconds": time_calls(work, *counts, request["core"])}
            case unknown:
                raise ValueError(f"unknown request {unknown!r}")
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
