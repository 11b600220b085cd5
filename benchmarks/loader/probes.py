"""What benchmarks/loader_speed.py asks of the loader alone, each in a new process.

    python benchmarks/loader_probes.py NAME ARGUMENTS

prints one line of JSON. A probe is a function of this module without an underscore.
"""

import ctypes
import gc
import itertools
import json
import mmap
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from loader_data import BATCH, SAMPLE_BYTES, SEED, SIDE, Samples
from loader_peers import AHEAD, CORES

import fastseg

COMPUTING = 0.005  # seconds of a consumer's step
BUFFERS = AHEAD + CORES + 1


def _loader(path, **options):
    """Return the loader that all probes are about."""
    usual = {"batch_size": BATCH, "seed": SEED, "threads": CORES, "prefetch": AHEAD}
    return fastseg.Loader(fastseg.open(path), **{**usual, **options})


def _first_batch(loader):
    """Return the seconds to the first batch of an epoch, which is then left."""
    start = time.perf_counter()
    batches = iter(loader)
    next(batches)
    seconds = time.perf_counter() - start
    batches.close()
    return seconds


def first_batches(path, repeats):
    """Return seconds from `Loader(...)` to its first batch, kernels loaded."""
    store, times = fastseg.open(path), []
    for _ in range(1 + int(repeats)):
        start = time.perf_counter()
        loader = fastseg.Loader(
            store, batch_size=BATCH, seed=SEED, threads=CORES, prefetch=AHEAD
        )
        made = time.perf_counter() - start
        times.append(made + _first_batch(loader))
    return times[1:]


def _by_numpy():
    """Multiply matrices; BLAS lets go of the GIL."""
    matrix = np.ones((128, 128), np.float32)
    end = time.perf_counter() + COMPUTING
    while time.perf_counter() < end:
        matrix @ matrix


def _by_python():
    """Count; holds the GIL."""
    end = time.perf_counter() + COMPUTING
    while time.perf_counter() < end:
        pass


def consumer(path, kind, seconds):
    """Return the waits in `next()` of one that computes 5 ms a batch.

    kind : "numpy" or "python", which holds the GIL all the time

    An epoch's first wait is left out.
    """
    step = {"numpy": _by_numpy, "python": _by_python}[kind]
    loader, waits = _loader(path), []
    end = time.perf_counter() + float(seconds)
    while time.perf_counter() < end:
        batches = iter(loader)
        next(batches)
        step()
        asked = time.perf_counter()
        for _batch in batches:
            waits.append(time.perf_counter() - asked)
            step()
            asked = time.perf_counter()
    return waits


def _anonymous():
    """Return the anonymous resident memory of this process, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    lines = dict(line.split(":", 1) for line in status.splitlines())
    return 1024 * int(lines["RssAnon"].split()[0])


def memory(path, epochs, batches):
    """Return bytes: what anonymous memory grew by at most, and that of buffers.

    batches : of an epoch, at most

    Before is after the imports, numba's among them, and before the store is opened.
    Buffers are the batches made ahead, one in each thread, and the consumer's.
    """
    assert fastseg.Loader
    before = most = _anonymous()
    loader = _loader(path, size=SIDE)
    for _ in range(int(epochs)):
        loader.epoch = 0  # the same samples again: those of a sparse store are cached
        for batch in itertools.islice(loader, int(batches)):
            size = batch.image.nbytes + batch.mask.nbytes
            most = max(most, _anonymous())
    return most - before, BUFFERS * size


def _drop(path):
    """Drop a file from the page cache; return the share of it that stays there.

    What a process has mapped stays.
    """
    with Path(path).open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    pages = np.memmap(path, np.uint8, "r")
    resident = np.zeros(-(-len(pages) // mmap.PAGESIZE), np.uint8)
    where = ctypes.c_void_p(pages.ctypes.data), ctypes.c_size_t(len(pages))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mincore(*where, ctypes.c_void_p(resident.ctypes.data)):
        raise OSError(ctypes.get_errno(), "mincore failed")
    return float((resident & 1).mean())


def cold_epoch(folder):
    """Return bytes, seconds and the share that was cached, of a shuffled epoch.

    Kernels are loaded before.
    """
    samples = Samples(folder)
    for _ in _loader(samples.path, indices=range(BATCH)):
        pass
    del samples.images, samples.masks
    gc.collect()
    cached = _drop(samples.path)
    loader, count = _loader(samples.path), 0
    start = time.perf_counter()
    for batch in loader:
        count += len(batch)
    return count * SAMPLE_BYTES, time.perf_counter() - start, cached


def cold_preads(folder):
    """Return the same of plain reads by two threads, in the same order."""
    samples = Samples(folder)
    del samples.images, samples.masks
    cached = _drop(samples.path)
    file, pixels = os.open(samples.path, os.O_RDONLY), SIDE * SIDE
    parts = list(zip(samples.offsets, (2 * pixels, pixels), strict=True))

    def read(places):
        buffer = memoryview(bytearray(SAMPLE_BYTES))
        return sum(
            os.preadv(file, [buffer[:size]], start + place * size)
            for place in places
            for start, size in parts
        )

    order = samples.order(0).tolist()
    start = time.perf_counter()
    with ThreadPoolExecutor(CORES) as pool:
        count = sum(pool.map(read, [order[k::CORES] for k in range(CORES)]))
    return count, time.perf_counter() - start, cached


def cold_dd(folder, *flags):
    """Return the same of `dd`, which reads the file from its start to its end."""
    path = Samples(folder).path
    cached = _drop(path)
    command = ["dd", f"if={path}", "of=/dev/null", "bs=4M", *flags]
    start = time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return path.stat().st_size, time.perf_counter() - start, cached


def _cache(store, places):
    """Read samples into the page cache, and nothing beside them."""
    buckets = list(store.buckets.items())
    meta = zip(store.items["bucket"][places], store.items["row"][places], strict=True)
    with store.path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for number, row in meta:
            name, bucket = buckets[number]
            pixels = bucket.shape[0] * bucket.shape[1]
            for kind, size in (("images", 2 * pixels), ("masks", pixels)):
                start = store.offsets[f"{kind}/{name}"] + int(row) * size
                os.pread(file.fileno(), size, start)


def growth(repeats, *paths):
    """Return for each sparse store the seconds a batch of several epochs.

    They read 1000 samples of each, which are spread evenly over it, so that all go
    through as many bytes, and these are cached. The stores take turns; the first time
    warms.
    """
    loaders = []
    for path in paths:
        store = fastseg.open(path)
        places = np.arange(1000) * len(store) // 1000
        _cache(store, places)
        loaders.append(_loader(path, indices=places, size=SIDE))
    times = [[] for _ in paths]
    for _ in range(1 + int(repeats)):
        for loader, seconds in zip(loaders, times, strict=True):
            start = time.perf_counter()
            batches = sum(1 for _ in loader)
            seconds.append((time.perf_counter() - start) / batches)
    return [seconds[1:] for seconds in times]


def shuffled_starts(path, repeats):
    """Return seconds to the first batch of a shuffled epoch of all samples, cached."""
    loader, times = _loader(path, size=SIDE), []
    for _ in range(1 + int(repeats)):
        loader.epoch = 0  # the same samples again
        times.append(_first_batch(loader))
    return times[1:]


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    print(json.dumps(globals()[name](*arguments)))
