"""Iterates over a small store for hours, in all the ways a training script might.

    python -m benchmarks.loader.soak [--minutes 60] [--seed 0]

Each loader has its own threads, prefetch, batch size, normalization, kind of masks and
chosen samples. Its epochs end early, at the end, by an exception, or when the loop or
the loader is dropped; several run at once. Every batch is compared with samples loaded
one by one before. Some batches, or views of them alone, are held and compared again
long afterwards: nothing may have been written into them. Once a minute, and at the end,
no thread may be running; memory and time per batch are printed. The exit status is 1 if
anything was wrong.
"""

import argparse
import gc
import itertools
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from xxhash import xxh3_64_intdigest

import fastseg

SIZE = 96
# Options of the loader that decide what a sample becomes.
SAMPLE_OPTIONS = ("dtype", "normalize", "masks", "missing")
MOST_HELD = 40  # arrays
NAME = "fastseg"  # the names of the loader's threads begin with it
GRACE = 2.0  # seconds for threads to end
# Growth of anonymous memory after the first minute that is allowed: the arrays that are
# held differ from one minute to the next.
GROWTH_MB = 60


def anonymous_mb():
    """Return the anonymous resident memory of this process in megabytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    lines = dict(line.split(":", 1) for line in status.splitlines())
    return int(lines["RssAnon"].split()[0]) / 1024


def random_options(rng, store):
    """Return the arguments of a loader, at random."""
    count = len(store)
    indices = rng.sample(range(count), rng.randint(1, count))
    options = {
        "indices": indices,
        "batch_size": rng.randint(1, min(len(indices), rng.choice((2, 8, 33)))),
        "shuffle": rng.random() < 0.8,
        "seed": rng.randrange(2**64),
        "threads": rng.choice((1, 1, 2, 3, 8)),
        "prefetch": rng.choice((1, 2, 4, 16)),
        "dtype": rng.choice(("float32", "raw")),
        "masks": rng.choice(("bits", "labels", "onehot", "icontour")),
        "drop_last": rng.random() < 0.3,
    }
    if options["dtype"] != "raw":  # stored values are not normalized
        options["normalize"] = rng.choice(("zscore", "percentile"))
    if options["masks"] != "bits":  # bit fields take no `missing`
        options["missing"] = rng.choice(("background", "ignore"))
    return options


def load_one_by_one(store, options):
    """Return (image, mask) of each sample of the store."""
    loader = fastseg.Loader(
        store, batch_size=1, shuffle=False, threads=1, size=SIZE, **options
    )
    return [(batch.image[0].copy(), batch.mask[0].copy()) for batch in loader]


class Soak:
    """The counts so far, what was wrong, and the arrays that are held."""

    def __init__(self, store, seed):
        self.store = store
        self.rng = random.Random(seed)
        self.held = []
        self.wrong = []
        self.loaders = 0
        self.epochs = 0
        self.ended_early = 0
        self.batches = 0
        self.samples = 0
        self._expected = {}

    def complain(self, text):
        """Note and print what is wrong."""
        self.wrong.append(text)
        print(text, flush=True)

    def expected(self, options):
        """Return (image, mask) of each sample, for loaders with these options."""
        own = {name: options[name] for name in SAMPLE_OPTIONS if name in options}
        key = tuple(own.items())
        if key not in self._expected:
            self._expected[key] = load_one_by_one(self.store, own)
        return self._expected[key]

    def one_loader(self):
        """Make a loader and iterate over some of its epochs."""
        options = random_options(self.rng, self.store)
        loader = fastseg.Loader(self.store, size=SIZE, **options)
        self.loaders += 1
        for _ in range(self.rng.randint(1, 4)):
            self.one_epoch(loader, options)
        if self.rng.random() < 0.3:  # two loops at once
            for pair in itertools.islice(zip(loader, loader, strict=True), 5):
                for batch in pair:
                    self.check(batch, options)

    def one_epoch(self, loader, options):
        """Iterate over an epoch, or a part of it."""
        self.epochs += 1
        last = self.rng.choice((None, None, 0, 1, self.rng.randint(0, len(loader))))
        seen = []
        batches = iter(loader)
        try:
            for k, batch in enumerate(batches):
                self.check(batch, options)
                seen.append(batch.index)
                if k == last:
                    raise KeyError("the consumer's own")
        except KeyError:
            self.ended_early += 1
            if self.rng.random() < 0.5:
                batches.close()
            return  # otherwise the loop is only dropped
        indices = np.concatenate(seen)
        count = len(options["indices"])
        if options["drop_last"]:
            count -= count % options["batch_size"]
        if len(indices) != count or len(np.unique(indices)) != count:
            self.complain(f"{len(indices)} samples, expected {count}: {options}")

    def check(self, batch, options):
        """Compare a batch with its samples; perhaps hold it, or a view of it."""
        expected = self.expected(options)
        for j, index in enumerate(batch.index.tolist()):
            image, mask = expected[index]
            if not np.array_equal(batch.image[j], image, equal_nan=True):
                self.complain(f"image of sample {index} differs: {options}")
            if not np.array_equal(batch.mask[j], mask):
                self.complain(f"mask of sample {index} differs: {options}")
        self.batches += 1
        self.samples += len(batch)
        if self.rng.random() < 0.05:
            views = (batch.image, batch.mask, batch.image[-1:, :, 3:])
            array = self.rng.choice(views)
            self.held.append((array, digest(array)))
        while len(self.held) > MOST_HELD or (self.held and self.rng.random() < 0.02):
            self.release(self.rng.randrange(len(self.held)))

    def release(self, k):
        """Compare a held array for the last time."""
        array, before = self.held.pop(k)
        if digest(array) != before:
            self.complain(f"a held array of {array.shape} was written to")

    def running_threads(self):
        """Return the names of the loader's threads that still run."""
        gc.collect()
        end = time.monotonic() + GRACE
        while time.monotonic() < end:
            names = [t.name for t in threading.enumerate() if t.name.startswith(NAME)]
            if not names:
                return []
            time.sleep(0.01)
        return names


def digest(array):
    """Return a checksum of an array."""
    return xxh3_64_intdigest(np.ascontiguousarray(array))


def report(soak, minute, seconds, batches):
    """Print a line about a minute with its batches; return anonymous memory in MB."""
    if names := soak.running_threads():
        soak.complain(f"threads still run: {', '.join(names)}")
    memory = anonymous_mb()
    micros = 1e6 * seconds / max(batches, 1)
    print(
        f"minute {minute}: {soak.loaders:,} loaders, {soak.epochs:,} epochs "
        f"({soak.ended_early:,} ended early), {soak.batches:,} batches, "
        f"{soak.samples:,} samples; {micros:.0f} µs a batch with its comparison, "
        f"{memory:.0f} MB anonymous, {threading.active_count()} threads, "
        f"{len(soak.wrong)} wrong",
        flush=True,
    )
    return memory


def main():
    """Soak and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        study = fastseg.make_phantom(Path(name) / "study")
        path = fastseg.build(fastseg.link(study), Path(name) / "store.h5").path
        soak = Soak(fastseg.open(path), arguments.seed)
        start = time.monotonic()
        memory = []
        for minute in itertools.count(1):
            before = soak.batches
            begin = time.monotonic()
            stop = start + 60 * min(minute, arguments.minutes)
            while time.monotonic() < stop:
                soak.one_loader()
            seconds = time.monotonic() - begin
            memory.append(report(soak, minute, seconds, soak.batches - before))
            if minute >= arguments.minutes:
                break
        while soak.held:
            soak.release(0)
    growth = memory[-1] - memory[0]
    if growth > GROWTH_MB:
        soak.complain(f"memory grew by {growth:.0f} MB after the first minute")
    print(f"{soak.batches:,} batches, {len(soak.wrong)} wrong")
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
