"""Builds that are killed at random moments: run by test_kills.py in its own process.

    python -m tests.kills FOLDER COUNT SEED

This process compiles the kernels, then forks child processes that build and are
killed. It checks the files that each child has left, then completes the same build. It
prints, as JSON, how often each set of files was left.
"""

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import fastseg


def main():
    """Kill builds and continue them."""
    folder = Path(sys.argv[1])
    count = int(sys.argv[2])
    seed = int(sys.argv[3])
    study = folder / "study"
    fastseg.make_phantom(study, patients=4, slices=8, phases=8, seed=1)
    table = fastseg.link(study, keep_unlabelled=True)
    output = folder / "o.h5"
    reference = folder / "reference.h5"
    fastseg.build(table, reference)  # compiles the kernels
    reference.unlink()
    start = time.perf_counter()
    fastseg.build(table, reference, threads=1)
    seconds = time.perf_counter() - start
    expected = reference.read_bytes()
    draw = random.Random(seed)
    leftovers = Counter()
    for k in range(count):
        output.unlink(missing_ok=True)
        older = None
        if k % 3 == 0:  # another store has that name
            edges = draw.choice(["half-open", "closed"])
            older = fastseg.build(fastseg.link(study), output, edges=edges)
            older = older.path.read_bytes()
        for _ in range(draw.choice([1, 1, 2, 3])):
            kill_a_build(table, output, draw, draw.uniform(0, 1.1 * seconds))
            if output.exists():
                assert output.read_bytes() in (expected, older)
                fastseg.open(output)
            else:
                assert older is None
        leftovers[" ".join(sorted(path.name for path in folder.glob("o.h5*")))] += 1
        fastseg.build(table, output, threads=draw.choice([1, 2, 3]))
        assert output.read_bytes() == expected
        assert list(folder.glob("o.h5*")) == [output]
    print(json.dumps(leftovers))


def kill_a_build(table, output, draw, delay):
    """Build in another process and kill it after `delay` seconds."""
    threads = draw.choice([1, 2])
    child = os.fork()
    if child == 0:
        try:
            fastseg.build(table, output, threads=threads)
        finally:
            os._exit(0)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main()
