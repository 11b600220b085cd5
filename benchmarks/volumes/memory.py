"""Memory of loaders of volumes, over many epochs of a store of 200 GB.

    python -m benchmarks.volumes.memory [--epochs N] [--patches N] [--no-save]

The store is sparse (see tests/sparse.py): CT of 100 slices of 512 x 512, of which only
the columns and some rows of masks lie on the disk, so that patches can be centred on a
voxel. Each loader runs in a process of its own, with default options but for those that
are named. While it works, a thread reads every millisecond how much anonymous memory
the process has, which is all but what is mapped of files. What it had after the imports
is subtracted; of the rest, the loader says how much are the buffers of batches.

An epoch ends after so many patches. Each has another number, and so other patches.

The table is printed, saved to benchmarks/results/volumes_memory.md and put into
docs/benchmarks.md.
"""

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

import fastseg
from benchmarks.inputs import PROJECT
from benchmarks.tables import publish, split_page, table_of
from fastseg.store.layout import Bucket
from tests.sparse import label_volumes, make_sparse_store

SAMPLES = 254_400  # 200 GB
SLICES = 100
BUCKETS = (Bucket((512, 512), np.dtype("<i2")), Bucket((512, 512), np.dtype("<u2")))
PATCH = (16, 96, 96)
LIMIT_MB = 100
LOADERS = {
    "patches": (fastseg.PatchLoader, {"patch": PATCH}),
    "patches, augmented": (
        fastseg.PatchLoader,
        {"patch": PATCH, "augment": "standard"},
    ),
    "`neighbours=2`": (
        fastseg.Loader,
        {"size": 96, "neighbours": 2, "normalize_by": "volume"},
    ),
}


def anonymous_mb():
    """Return the anonymous resident memory of this process in megabytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (size,) = (x.split()[1] for x in status.splitlines() if x.startswith("RssAnon"))
    return int(size) / 1024


class Peak:
    """The most anonymous memory within a `with` block, in megabytes."""

    def __enter__(self):
        self.most = anonymous_mb()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()

    def _watch(self):
        while not self._done.wait(0.001):
            self.most = max(self.most, anonymous_mb())


def measure(path, name, epochs, patches):
    """Return megabytes above the imports, at most, and those of the buffers."""
    kind, options = LOADERS[name]
    before = anonymous_mb()
    with Peak() as peak:
        loader = kind(path, **options)
        for _ in range(epochs):
            for batch in itertools.islice(loader, -(-patches // loader.batch_size)):
                assert len(batch)
    return peak.most - before, loader.stats().buffer_bytes / 2**20


def row_of(path, name, arguments):
    """Return a row of the table, measured in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, "--measure", str(path), name]
    command += ["--epochs", str(arguments.epochs), "--patches", str(arguments.patches)]
    start = time.monotonic()
    most, buffers = json.loads(
        subprocess.check_output(command, cwd=PROJECT).splitlines()[-1]
    )
    print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    rest = most - buffers
    reached = "yes" if rest <= LIMIT_MB else "**no**"
    return [name, *(f"{x:.0f} MB" for x in (most, buffers, rest)), reached]


def main():
    """Make the store, measure, print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--patches", type=int, default=500, help="in an epoch")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--no-save", action="store_true", help="print only")
    arguments = parser.parse_args()
    if arguments.measure:
        given = arguments.epochs, arguments.patches
        print(json.dumps(measure(*arguments.measure, *given)))
        return
    if not arguments.no_save:
        split_page("volumes_memory")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sparse.h5"
        make_sparse_store(path, arguments.samples, BUCKETS, SLICES)
        label_volumes(path, slice(250, 260), slice(200, 300))
        size = path.stat().st_size / 1e9
        rows = [row_of(path, name, arguments) for name in LOADERS]
    headings = (
        "loader",
        "above the imports",
        "buffers",
        "the rest",
        f"at most {LIMIT_MB} MB",
    )
    text = (
        f"{table_of([headings, *rows])}\nAnonymous memory, at most, over "
        f"{arguments.epochs} epochs of {arguments.patches:,} patches or samples of a "
        f"sparse store of {size:.0f} GB: {arguments.samples:,} slices of 512 x 512 in "
        f"volumes of {SLICES}. Python {platform.python_version()}, {os.cpu_count()} "
        f"cores ({platform.machine()}), {time.strftime('%Y-%m-%d')}.\n"
    )
    print(text)
    if not arguments.no_save:
        publish("volumes_memory", text)


if __name__ == "__main__":
    main()
