"""What a store of a million samples costs before its first pixel is read.

    python benchmarks/scale.py [SAMPLES]

The store is sparse (see tests/sparse.py): 180 GB long, of which the columns lie on the
disk. It is in the page cache when it is measured, as after a build; each figure is the
median of several runs. Opening is measured in a process of its own, whose memory is
that of Python, numpy and h5py and whatever opening adds.

The table is printed and saved to benchmarks/results/scale.md.
"""

import argparse
import contextlib
import io
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fastseg
from fastseg.cli.main import app

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))
from tests.sparse import make_sparse_store  # noqa: E402

REPEATS, LOOKS = 7, 20_000

OPENING = """
import sys, time
import fastseg.store.reader
import fastseg
start = time.perf_counter()
fastseg.open(sys.argv[1])
seconds = time.perf_counter() - start
with open("/proc/self/status") as status:
    (peak,) = [line.split()[1] for line in status if line.startswith("VmHWM")]
print(1e3 * seconds, int(peak) / 1024)
"""


def measure(work, repeats=REPEATS):
    """Return the median seconds of several calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def per_sample(store, look):
    """Return the microseconds of a look at samples all over the store."""
    places = [random.Random(0).randrange(len(store)) for _ in range(LOOKS)]
    return 1e6 / LOOKS * measure(lambda: [look(store[k]) for k in places])


def open_in_new_process(path):
    """Return milliseconds and, at most, megabytes of resident memory."""
    command = [sys.executable, "-c", OPENING, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return map(float, run.stdout.split())


def print_info(path):
    """Run `fastseg info`, unseen, without the start of a Python."""
    with contextlib.redirect_stdout(io.StringIO()):
        app(["info", str(path)], standalone_mode=False)


def rows_of(path):
    """Yield what was measured, in words, and the bar."""
    opened = [open_in_new_process(path) for _ in range(REPEATS)]
    milliseconds, peaks = zip(*opened, strict=True)
    yield "open", f"{statistics.median(milliseconds):.0f} ms", "100 ms"
    yield "resident memory, at most", f"{max(peaks):.0f} MB", "200 MB"

    places = per_sample(fastseg.open(path), lambda sample: sample)
    yield "store[i], anywhere", f"{places:.2f} µs", "20 µs"
    for name in ("image", "mask", "patient", "contours", "meta"):
        store = fastseg.open(path)
        cost = per_sample(store, lambda sample, name=name: getattr(sample, name))
        yield f"store[i].{name}", f"{cost:.2f} µs", ""
    seconds = measure(lambda: fastseg.open(path).patients)
    yield "open and list the patients", f"{1e3 * seconds:.0f} ms", ""
    seconds = measure(lambda: print_info(path))
    yield "open and print `info`", f"{1e3 * seconds:.0f} ms", ""
    store = fastseg.open(path)
    seconds = measure(lambda: fastseg.Loader(store, size=256))
    yield "make a Loader", f"{1e3 * seconds:.0f} ms", ""

    def first_batch():
        epoch = iter(fastseg.Loader(store, size=256, prefetch=1, threads=1))
        next(epoch)
        epoch.close()

    first_batch()  # compile
    yield "its first batch: shuffle, read", f"{1e3 * measure(first_batch):.0f} ms", ""
    seconds = measure(lambda: store.select(classes=["icontour"]))
    yield "select a class", f"{1e3 * seconds:.0f} ms", ""
    parts = {"train": 0.8, "val": 0.2}
    seconds = measure(lambda: store.split(parts, by="patient"))
    yield "split by patient", f"{1e3 * seconds:.0f} ms", ""


def main():
    """Measure, print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("samples", nargs="?", type=int, default=1_000_000)
    samples = parser.parse_args().samples
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sparse.h5"
        make_sparse_store(path, samples)
        rows = list(rows_of(path))
        size = path.stat().st_size / 1e9
    table = [
        f"| {samples:,} samples, {size:.0f} GB | measured | must stay under |",
        "|---|---|---|",
        *(f"| {what} | {cost} | {bar} |" for what, cost, bar in rows),
        "",
        f"Python {platform.python_version()}, {platform.system()} "
        f"{platform.machine()}, {os.cpu_count()} cores.",
    ]
    text = "\n".join(table)
    print(text)
    saved = PROJECT / "benchmarks" / "results" / "scale.md"
    saved.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
