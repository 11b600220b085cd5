"""The cost of a store of a million samples before its first pixel is read.

    python -m benchmarks.store.scale [SAMPLES] [--no-save]

The store is sparse (see tests/sparse.py): 180 GB long, of which only the columns lie on
the disk. It is in the page cache when it is measured, as after a build; each figure is
the median of several timings. Opening is measured in a process of its own, whose memory
is that of Python, numpy, h5py and of opening.

The table is printed, saved to benchmarks/results/scale.md and put into
docs/benchmarks.md.
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
from benchmarks.inputs import PROJECT, SPARSE_SAMPLES
from benchmarks.tables import publish, table_of
from fastseg.cli.main import app
from tests.sparse import make_sparse_store

REPEATS = 7
# Samples that are read, all over the store.
READS = 20_000
SPLIT = {"train": 0.8, "val": 0.2}

# Opens a store; prints milliseconds and the peak of resident memory in megabytes.
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


def seconds_of(work):
    """Return the median seconds of several calls."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def milliseconds(work):
    """Return the median time of several calls in words."""
    return f"{1e3 * seconds_of(work):.0f} ms"


def per_sample(store, read):
    """Return the time of reading one sample, of many all over the store, in words."""
    rng = random.Random(0)
    indices = [rng.randrange(len(store)) for _ in range(READS)]
    seconds = seconds_of(lambda: [read(store[k]) for k in indices])
    return f"{1e6 / READS * seconds:.2f} µs"


def open_in_new_process(path):
    """Return milliseconds and the peak of resident memory in megabytes."""
    command = [sys.executable, "-c", OPENING, str(path)]
    run = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=PROJECT
    )
    return map(float, run.stdout.split())


def print_info(path):
    """Run `fastseg info` in this process, and drop its output."""
    with contextlib.redirect_stdout(io.StringIO()):
        app(["info", str(path)], standalone_mode=False)


def first_batch(store):
    """Load the first batch of a shuffled epoch."""
    loader = fastseg.Loader(store, size=256, masks="bits", prefetch=1, threads=1)
    epoch = iter(loader)
    next(epoch)
    epoch.close()


def rows_of(path):
    """Yield what was measured, in words, and the bar."""
    opened = [open_in_new_process(path) for _ in range(REPEATS)]
    times, peaks = zip(*opened, strict=True)
    yield "open", f"{statistics.median(times):.0f} ms", "100 ms"
    yield "resident memory, at most", f"{max(peaks):.0f} MB", "200 MB"

    store = fastseg.open(path)
    yield "store[i], anywhere", per_sample(store, lambda sample: sample), "20 µs"
    for name in ("image", "mask", "patient", "contours", "meta"):
        store = fastseg.open(path)
        time_each = per_sample(store, lambda sample, name=name: getattr(sample, name))
        yield f"store[i].{name}", time_each, ""
    listing = milliseconds(lambda: fastseg.open(path).patients)
    yield "open and list the patients", listing, ""
    yield "open and print `info`", milliseconds(lambda: print_info(path)), ""
    store = fastseg.open(path)
    making = milliseconds(lambda: fastseg.Loader(store, size=256, masks="bits"))
    yield "make a Loader", making, ""
    first_batch(store)  # compiles
    loading = milliseconds(lambda: first_batch(store))
    yield "its first batch: shuffle, read", loading, ""
    selecting = milliseconds(lambda: store.select(classes=["icontour"]))
    yield "select a class", selecting, ""
    splitting = milliseconds(lambda: store.split(SPLIT, by="patient"))
    yield "split by patient", splitting, ""


def main():
    """Measure, print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("samples", nargs="?", type=int, default=SPARSE_SAMPLES)
    parser.add_argument("--no-save", action="store_true", help="print only")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sparse.h5"
        make_sparse_store(path, arguments.samples)
        rows = list(rows_of(path))
        size = path.stat().st_size / 1e9
    headings = (
        f"{arguments.samples:,} samples, {size:.0f} GB",
        "measured",
        "must stay under",
    )
    text = (
        f"{table_of([headings, *rows])}\nPython {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores.\n"
    )
    print(text)
    if not arguments.no_save:
        publish("scale", text)


if __name__ == "__main__":
    main()
