"""What promises.py measures about the loader, each in a new process.

    python -m benchmarks.loader.probes NAME ARGUMENTS

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

import fastseg
from benchmarks.inputs import SIDE
from benchmarks.loader.peers import AHEAD, CORES
from benchmarks.loader.samples import BATCH, SAMPLE_BYTES, SEED, Samples

COMPUTING = 0.005  # seconds of a consumer's step
BUFFERS = AHEAD + CORES + 1


def _loader(path, **options):
    """Return the loader of all probes."""
    return _loader_of(fastseg.open(path), **options)


def _loader_of(store, **options):
    """Return the loader of a store that is open."""
    usual = {
        "batch_size": BATCH,
        "seed": SEED,
        "threads": CORES,
        "prefetch": AHEAD,
        "masks": "bits",
    }
    return fastseg.Loader(store, **{**usual, **options})


def _first_batch(loader):
    """Return the seconds to the first batch of an epoch, and end the epoch."""
    start = time.perf_counter()
    batches = iter(loader)
    next(batches)
    seconds = time.perf_counter() - start
    batches.close()
    return seconds


def first_batches(path, repeats):
    """Return seconds from `Loader(...)` to its first batch, kernels loaded."""
    store = fastseg.open(path)
    times = []
    for _ in range(1 + int(repeats)):
        start = time.perf_counter()
        loader = _loader_of(store)
        seconds = time.perf_counter() - start
        times.append(seconds + _first_batch(loader))
    return times[1:]


def _by_numpy():
    """Multiply matrices; BLAS releases the GIL."""
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
    """Return the waits in `next()` of a consumer that computes 5 ms a batch.

    kind : "numpy" or "python", which holds the GIL all the time

    An epoch's first wait is left out.
    """
    step = {"numpy": _by_numpy, "python": _by_python}[kind]
    loader = _loader(path)
    waits = []
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
    """Return bytes: the largest growth of anonymous memory, and that of buffers.

    batches : of an epoch, at most

    The growth is that since the imports, numba's among them, when no store is open.
    Buffers are the batches loaded ahead, one in each thread, and the consumer's.
    """
    assert fastseg.Loader  # imports it
    before = most = _anonymous()
    loader = _loader(path, size=SIDE)
    for _ in range(int(epochs)):
        loader.epoch = 0  # the same samples again: those of a sparse store are cached
        for batch in itertools.islice(loader, int(batches)):
            size = batch.image.nbytes + batch.mask.nbytes
            most = max(most, _anonymous())
    return most - before, BUFFERS * size


def _drop(path):
    """Drop a file from the page cache; return the fraction that stays there.

    Pages that a process has mapped stay.
    """
    with Path(path).open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    pages = np.memmap(path, np.uint8, "r")
    resident = np.zeros(-(-len(pages) // mmap.PAGESIZE), np.uint8)
    memory_range = ctypes.c_void_p(pages.ctypes.data), ctypes.c_size_t(len(pages))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mincore(*memory_range, ctypes.c_void_p(resident.ctypes.data)):
        raise OSError(ctypes.get_errno(), "mincore failed")
    return float((resident & 1).mean())


def cold_epoch(folder):
    """Return bytes, seconds and the fraction that was cached, of a shuffled epoch.

    Kernels are loaded before.
    """
    samples = Samples(folder)
    for _ in _loader(samples.path, indices=range(BATCH)):
        pass
    del samples.images, samples.masks
    gc.collect()
    cached = _drop(samples.path)
    loader = _loader(samples.path)
    count = 0
    start = time.perf_counter()
    for batch in loader:
        count += len(batch)
    return count * SAMPLE_BYTES, time.perf_counter() - start, cached


def cold_preads(folder):
    """Return the same for plain reads by two threads, in the same order."""
    samples = Samples(folder)
    del samples.images, samples.masks
    cached = _drop(samples.path)
    file, pixels = os.open(samples.path, os.O_RDONLY), SIDE * SIDE
    # Offset of the first image and of the first mask, and the bytes of each.
    arrays = list(zip(samples.offsets, (2 * pixels, pixels), strict=True))

    def read(indices):
        buffer = memoryview(bytearray(SAMPLE_BYTES))
        return sum(
            os.preadv(file, [buffer[:size]], offset + index * size)
            for index in indices
            for offset, size in arrays
        )

    order = samples.order(0).tolist()
    start = time.perf_counter()
    with ThreadPoolExecutor(CORES) as pool:
        count = sum(pool.map(read, [order[k::CORES] for k in range(CORES)]))
    return count, time.perf_counter() - start, cached


def cold_dd(folder, *flags):
    """Return the same for `dd`, which reads the file from its start to its end."""
    path = Samples(folder).path
    cached = _drop(path)
    command = ["dd", f"if={path}", "of=/dev/null", "bs=4M", *flags]
    start = time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return path.stat().st_size, time.perf_counter() - start, cached


def _cache(store, indices):
    """Read samples into the page cache, and no pages beside them."""
    buckets = list(store.buckets.items())
    rows = zip(store.items["bucket"][indices], store.items["row"][indices], strict=True)
    with store.path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for number, row in rows:
            name, bucket = buckets[number]
            pixels = bucket.shape[0] * bucket.shape[1]
            for kind, size in (("images", 2 * pixels), ("masks", pixels)):
                start = store.offsets[f"{kind}/{name}"] + int(row) * size
                os.pread(file.fileno(), size, start)


def growth(repeats, *paths):
    """Return for each sparse store the seconds a batch of several epochs.

    Of each store 1000 samples are read, spread evenly over it, so that all read equally
    many bytes, and these are cached. The stores take turns; the first turn warms up.
    """
    loaders = []
    for path in paths:
        store = fastseg.open(path)
        indices = np.arange(1000) * len(store) // 1000
        _cache(store, indices)
        loaders.append(_loader(path, indices=indices, size=SIDE))
    times = [[] for _ in paths]
    for _ in range(1 + int(repeats)):
        for loader, seconds in zip(loaders, times, strict=True):
            start = time.perf_counter()
            batches = sum(1 for _ in loader)
            seconds.append((time.perf_counter() - start) / batches)
    return [seconds[1:] for seconds in times]


def shuffled_starts(path, repeats):
    """Return seconds to the first batch of a shuffled epoch of all samples, cached."""
    loader = _loader(path, size=SIDE)
    times = []
    for _ in range(1 + int(repeats)):
        loader.epoch = 0  # the same samples again
        times.append(_first_batch(loader))
    return times[1:]


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    print(json.dumps(globals()[name](*arguments)))
