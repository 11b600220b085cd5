"""Builds that are killed at random moments: run by test_kills.py in its own process.

    python -m tests.kills FOLDER COUNT SEED

A process that has its kernels ready forks children that build and are killed. What
each has left is checked, then the same build is done to its end. Prints, as JSON,
which files the dead had left, and how often.
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
    """Kill builds and go on with them."""
    folder, count, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    study = folder / "study"
    fastseg.make_phantom(study, patients=4, slices=8, phases=8, seed=1)
    table = fastseg.link(study, keep_unlabelled=True)
    output, plain = folder / "o.h5", folder / "plain.h5"
    fastseg.build(table, plain)  # compiles what is not yet
    plain.unlink()
    start = time.perf_counter()
    fastseg.build(table, plain, threads=1)
    seconds = time.perf_counter() - start
    whole = plain.read_bytes()
    draw, found = random.Random(seed), Counter()
    for k in range(count):
        output.unlink(missing_ok=True)
        older = None
        if k % 3 == 0:  # something else is under that name
            edges = draw.choice(["half-open", "closed"])
            older = fastseg.build(fastseg.link(study), output, edges=edges)
            older = older.path.read_bytes()
        for _ in range(draw.choice([1, 1, 2, 3])):
            kill_a_build(table, output, draw, draw.uniform(0, 1.1 * seconds))
            if output.exists():
                assert output.read_bytes() in (whole, older)
                fastseg.open(output)
            else:
                assert older is None
        found[" ".join(sorted(path.name for path in folder.glob("o.h5*")))] += 1
        fastseg.build(table, output, threads=draw.choice([1, 2, 3]))
        assert output.read_bytes() == whole
        assert list(folder.glob("o.h5*")) == [output]
    print(json.dumps(found))


def kill_a_build(table, output, draw, delay):
    """Build in another process and kill it after so many seconds."""
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
