"""The promises of the loader beside its rate, as rows of a table.

Each figure is measured in processes of its own, see probes.py.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np

from benchmarks.inputs import PROJECT
from benchmarks.loader.peers import OURS
from benchmarks.loader.samples import BATCH
from benchmarks.tables import spread
from tests.sparse import make_sparse_store

# A training script up to its first batches; prints when it reaches each line.

START = """
import time
marks = [time.monotonic()]
import numpy, h5py
marks.append(time.monotonic())
import numba
marks.append(time.monotonic())
import sys, fastseg
fastseg.open, fastseg.Loader
marks.append(time.monotonic())
store = fastseg.open(sys.argv[1])
marks.append(time.monotonic())
for _ in range(2):
    batches = iter(
        fastseg.Loader(store, batch_size=32, threads=2, prefetch=4, masks="bits")
    )
    next(batches)
    marks.append(time.monotonic())
    batches.close()
    marks.append(time.monotonic())
print(*marks)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured.

    rounds, seconds : turns in the race, and the time of each side in a turn
    duels           : pairs of ours and the limit
    repeats         : of the short measurements
    computing       : seconds of each consumer that computes
    epochs          : over which memory is measured
    largest         : samples of the larger sparse store
    """

    samples: int
    rounds: int
    seconds: float
    duels: int
    repeats: int
    computing: float
    epochs: int
    largest: int


FULL = Effort(
    samples=4000,
    rounds=9,
    seconds=0.7,
    duels=40,
    repeats=7,
    computing=8.0,
    epochs=50,
    largest=1_000_000,
)
QUICK = Effort(
    samples=640,
    rounds=5,
    seconds=0.2,
    duels=10,
    repeats=3,
    computing=1.5,
    epochs=10,
    largest=100_000,
)


def probe(*arguments, **settings):
    """Return the result of a probe, see probes.py."""
    output = subprocess.check_output(
        [sys.executable, "-m", "benchmarks.loader.probes", *map(str, arguments)],
        cwd=PROJECT,
        env={**os.environ, **settings},
    )
    return json.loads(output.splitlines()[-1])


def promises(folder, effort, answers, duel, peers):
    """Yield the rows of the table: what is promised, measured, bar, reached."""
    path = folder / "store.h5"
    yield "fastseg.Loader", "measured", "bar", "reached"
    yield from rates(answers, duel, peers)
    yield from latency(answers[OURS])
    yield from first_batch(path, effort)
    yield from process_start(path, effort)
    yield from consumers(path, effort)
    yield memory("the same store", path, effort, effort.samples)
    yield from cold(folder, effort)
    yield from sparse(folder, effort)


def row(title, measured, bar="", reached=None):
    """Return a row in words; reached is None if there is no bar."""
    return title, measured, bar, {None: "", True: "yes", False: "**no**"}[reached]


def rates(answers, duel, peers):
    """Yield the rows of our rate beside the limit's and the best peer's."""
    ratio = duel[0] / duel[1]
    enough = np.median(ratio) >= 0.9
    yield row("rate, of the limit", spread(ratio, "{:.0%}"), "≥ 90 %", enough)
    if not peers & answers.keys():
        return
    rate = {
        name: np.array([answer["rate"] for answer in answers[name]])
        for name in {OURS} | (peers & answers.keys())
    }
    best = max(rate.keys() - {OURS}, key=lambda name: np.median(rate[name]))
    ratio = rate[OURS] / rate[best]
    # If a peer is missing, it may be the best one.
    enough = np.median(ratio) >= 5 if peers <= answers.keys() else None
    title = f"rate, of the best peer ({best})"
    yield row(title, spread(ratio, "{:.1f} ×"), "≥ 5 ×", enough)


def latency(ours):
    """Yield the row of waits at full speed, without an epoch's first batch."""
    p50, p99, ratio = np.median(
        [(1e3 * a["p50"], 1e3 * a["p99"], a["p99"] / a["p50"]) for a in ours], axis=0
    )
    title = f"`next()` at full speed: p50 {p50:.2f} ms, p99 {p99:.2f} ms"
    yield row(title, f"{ratio:.1f} × p50", "≤ 2 × p50", ratio <= 2)


def first_batch(path, effort):
    """Yield the row of the first batch of a new loader."""
    times = 1e3 * np.array(probe("first_batches", path, 3 * effort.repeats))
    title = "first batch after `Loader(...)`, kernels loaded"
    enough = np.median(times) <= 20
    yield row(title, spread(times, "{:.1f} ms"), "≤ 20 ms", enough)


def process_start(path, effort):
    """Yield the rows of the first batch of a new process, and of what it waits for."""
    command = [sys.executable, "-c", START, path]
    runs = []
    for _ in range(effort.repeats):
        start = time.monotonic()
        output = subprocess.check_output(command, text=True, cwd=PROJECT)
        marks = output.split()
        runs.append([float(mark) - start for mark in marks])
    marks = np.median(runs, axis=0)
    python, arrays, numba, imported, opened, first, closed, second, _ = marks
    kernels = max(first - opened - (second - closed), 0)
    phases = {
        "Python": python,
        "import numpy and h5py": arrays - python,
        "import numba": numba - arrays,
        "import fastseg": imported - numba,
        "open the store": opened - imported,
        "read kernels from numba's cache": kernels,
        "the batch": first - opened - kernels,
    }
    total = [run[5] for run in runs]
    title = "from process start to first batch, kernels in the disk cache"
    yield row(title, spread(total, "{:.2f} s"), "≤ 2 s", np.median(total) <= 2)
    words = ", ".join(f"{name} {1e3 * x:.0f}" for name, x in phases.items())
    yield row("of that, in ms", words)
    settings = {**os.environ, "NUMBA_CACHE_DIR": str(path.parent / "empty")}
    start = time.monotonic()
    output = subprocess.check_output(command, text=True, cwd=PROJECT, env=settings)
    marks = output.split()
    yield row(
        "the very first time, kernels compiled", f"{float(marks[5]) - start:.1f} s"
    )


def consumers(path, effort):
    """Yield the rows of consumers that compute."""
    kinds = {
        "numpy": "waits of a consumer that multiplies matrices, 5 ms a batch",
        "python": "of one that runs Python, 5 ms a batch, the GIL held",
    }
    for kind, title in kinds.items():
        # One thread of BLAS: the consumer has one core, and the loader the other.
        options = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        waits = probe("consumer", path, kind, effort.computing, **options)
        p50, p99 = 1e3 * np.percentile(waits, [50, 99])
        words = f"median {p50:.3f} ms, p99 {p99:.3f} ms"
        yield row(title, words, "median ≤ 0.1 ms", p50 <= 0.1)


def memory(which, path, effort, samples):
    """Return the row of anonymous memory over epochs of a number of samples."""
    batches = min(samples // BATCH, 125)
    most, buffers = np.array(probe("memory", path, effort.epochs, batches)) / 1e6
    title = f"anonymous memory, {effort.epochs} epochs, {which}"
    words = f"{most:.0f} MB above import, {buffers:.0f} of them buffers: "
    enough = most - buffers <= 100
    return row(title, words + f"{most - buffers:.0f} MB", "≤ 100 MB", enough)


def cold(folder, effort):
    """Yield the rows of reading from the disk, nothing cached."""
    readers = {
        "dd": ("cold_dd", folder),
        "dd, direct": ("cold_dd", folder, "iflag=direct"),
        "preads": ("cold_preads", folder),
        "ours": ("cold_epoch", folder),
    }
    rounds = []
    cached = 0.0
    for _ in range(effort.repeats):
        answers = [probe(*arguments) for arguments in readers.values()]
        rounds.append([size / seconds / 1e9 for size, seconds, _ in answers])
        cached = max(cached, *(fraction for *_, fraction in answers))
    if cached > 0.01:
        yield row("cold page cache", f"not measured: {cached:.0%} could not be dropped")
        return
    rates = dict(zip(readers, np.array(rounds).T, strict=True))
    best = np.maximum(rates["dd"], rates["dd, direct"])
    speeds = ", ".join(f"{name} {np.median(x):.2f}" for name, x in rates.items())
    ratio = rates["ours"] / best
    enough = np.median(ratio) >= 0.8
    title = f"cold page cache, shuffled, of the faster `dd` (GB/s: {speeds})"
    yield row(title, spread(ratio, "{:.0%}"), "≥ 80 %", enough)
    ratio = rates["ours"] / rates["preads"]
    title = "the same, of plain `pread`s of these samples by two threads"
    yield row(title, spread(ratio, "{:.0%}"))


def sparse(folder, effort):
    """Yield the rows of large stores whose pixels are holes."""
    paths = {count: folder / f"{count}.h5" for count in (1000, effort.largest)}
    for count, path in paths.items():
        make_sparse_store(path, count)
    small, large = map(np.array, probe("growth", 5 * effort.repeats, *paths.values()))
    ratio, largest = large / small, f"{effort.largest:,}"
    title = f"a batch of 1,000 samples out of {largest}, of one out of 1,000; cached"
    enough = np.median(ratio) <= 1.1
    yield row(title, spread(ratio - 1, "{:+.0%}"), "≤ 10 % more", enough)
    path = paths[effort.largest]
    times = 1e3 * np.array(probe("shuffled_starts", path, effort.repeats))
    title = f"first batch of an epoch of {largest} shuffled samples, cached"
    yield row(title, spread(times, "{:.0f} ms"))
    # A few batches of each epoch: all would be 190 GB of zeros.
    yield memory(f"{largest} samples", path, effort, 5 * BATCH)
