"""Builds that are killed at random moments, and the next build of the same store."""

import os
import random
import signal
import time

import fastseg
from tests.soak import Fault


def run(folder, tries, seed):
    """Kill builds and continue them; yield what the killed ones have left."""
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
    for k in range(tries):
        output.unlink(missing_ok=True)
        older = None
        if k % 3 == 0:  # another store has that name
            edges = draw.choice(["half-open", "closed"])
            older = fastseg.build(fastseg.link(study), output, edges=edges)
            older = older.path.read_bytes()
        for _ in range(draw.choice([1, 1, 2, 3])):
            kill_a_build(table, output, draw, draw.uniform(0, 1.1 * seconds))
            if not output.exists():
                is_complete = older is None
            else:
                is_complete = output.read_bytes() in (expected, older)
                fastseg.open(output)
            if not is_complete:
                yield Fault(f"try {k}: the target was neither old nor new")
        left = " ".join(sorted(path.name for path in folder.glob("o.h5*")))
        fastseg.build(table, output, threads=draw.choice([1, 2, 3]))
        if output.read_bytes() != expected or list(folder.glob("o.h5*")) != [output]:
            yield Fault(f"try {k}: the next build gave other bytes or left files")
        yield f"left {left or 'nothing'}"


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
