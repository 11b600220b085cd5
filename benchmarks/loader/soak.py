"""Goes through a small store for hours, in every way that a training script might.

    python benchmarks/soak_loader.py [--minutes 60] [--seed 0]

Each loader has its own threads, prefetch, batch size, size, scaling, kind of masks and
chosen samples. Its epochs are left early, at the end, by an exception, by dropping the
loop or the loader; several run at once. Every batch is made again, from the store's own
arrays, when it comes; some are kept, or views of them alone, and looked at again long
afterwards: nothing may have been written into them. Once a minute, and at the end, no
thread may be left; memory and time per batch are printed. The exit status is 1 if
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
KEPT = 40  # batches, at most
NAME = "fastseg"  # that of the loader's threads begins with it
GRACE = 2.0  # seconds for threads to end
# So many megabytes may anonymous memory grow after the first minute: what is kept
# differs from one minute to the next.
GROWTH_MB = 60


def anonymous_mb():
    """Return the anonymous resident memory of this process in megabytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    lines = dict(line.split(":", 1) for line in status.splitlines())
    return int(lines["RssAnon"].split()[0]) / 1024


def options(rng, store):
    """Return the arguments of a loader, at random."""
    count = len(store)
    chosen = rng.sample(range(count), rng.randint(1, count))
    return {
        "indices": chosen,
        "batch_size": rng.randint(1, min(len(chosen), rng.choice((2, 8, 33)))),
        "shuffle": rng.random() < 0.8,
        "seed": rng.randrange(2**64),
        "threads": rng.choice((1, 1, 2, 3, 8)),
        "prefetch": rng.choice((1, 2, 4, 16)),
        "normalize": rng.choice(("none", "zscore", "percentile")),
        "masks": rng.choice(("bits", "labels", "onehot", "icontour")),
        "drop_last": rng.random() < 0.3,
    }


def expected(store, arguments):
    """Return a function that makes a sample again: its image and its mask."""
    names = {"masks": arguments["masks"], "normalize": arguments["normalize"]}
    plain = fastseg.Loader(
        store, batch_size=1, shuffle=False, threads=1, size=SIZE, **names
    )
    made = [(batch.image[0].copy(), batch.mask[0].copy()) for batch in plain]
    return made.__getitem__


class Soak:
    """What was seen so far, and the batches that were kept."""

    def __init__(self, store, seed):
        self.store, self.rng = store, random.Random(seed)
        self.kept, self.wrong = [], []
        self.loaders = self.epochs = self.left = self.batches = self.samples = 0
        self.known = {}

    def complain(self, text):
        """Note and print what is wrong."""
        self.wrong.append(text)
        print(text, flush=True)

    def again(self, arguments):
        """Return what makes samples again, for loaders with such images and masks."""
        key = arguments["masks"], arguments["normalize"]
        if key not in self.known:
            self.known[key] = expected(self.store, arguments)
        return self.known[key]

    def one_loader(self):
        """Make a loader and go through some of its epochs."""
        arguments = options(self.rng, self.store)
        loader = fastseg.Loader(self.store, size=SIZE, **arguments)
        self.loaders += 1
        for _ in range(self.rng.randint(1, 4)):
            self.one_epoch(loader, arguments)
        if self.rng.random() < 0.3:  # two loops at once
            for pair in itertools.islice(zip(loader, loader, strict=True), 5):
                for batch in pair:
                    self.look_at(batch, arguments)

    def one_epoch(self, loader, arguments):
        """Go through an epoch, or leave it early."""
        self.epochs += 1
        last = self.rng.choice((None, None, 0, 1, self.rng.randint(0, len(loader))))
        seen = []
        batches = iter(loader)
        try:
            for k, batch in enumerate(batches):
                self.look_at(batch, arguments)
                seen.append(batch.index)
                if k == last:
                    raise KeyError("the consumer's own")
        except KeyError:
            self.left += 1
            if self.rng.random() < 0.5:
                batches.close()
            return  # or it is only dropped
        places = np.concatenate(seen)
        whole = len(arguments["indices"])
        if arguments["drop_last"]:
            whole -= whole % arguments["batch_size"]
        if len(places) != whole or len(np.unique(places)) != whole:
            self.complain(f"{len(places)} samples, expected {whole}: {arguments}")

    def look_at(self, batch, arguments):
        """Compare a batch with its samples; perhaps keep it."""
        make = self.again(arguments)
        for j, place in enumerate(batch.index.tolist()):
            image, mask = make(place)
            if not np.array_equal(batch.image[j], image, equal_nan=True):
                self.complain(f"image of sample {place} differs: {arguments}")
            if not np.array_equal(batch.mask[j], mask):
                self.complain(f"mask of sample {place} differs: {arguments}")
        self.batches += 1
        self.samples += len(batch)
        if self.rng.random() < 0.05:
            what = self.rng.choice((batch.image, batch.mask, batch.image[-1:, :, 3:]))
            self.kept.append((what, digest(what)))
        while len(self.kept) > KEPT or (self.kept and self.rng.random() < 0.02):
            self.forget(self.rng.randrange(len(self.kept)))

    def forget(self, place):
        """Look at a kept array for the last time."""
        what, before = self.kept.pop(place)
        if digest(what) != before:
            self.complain(f"a kept array of {what.shape} was written to")

    def threads(self):
        """Return the names of the loader's threads that are still there."""
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


def report(soak, minute, spent, before):
    """Print a line; return the anonymous memory in MB."""
    if names := soak.threads():
        soak.complain(f"threads are left: {', '.join(names)}")
    memory = anonymous_mb()
    each = 1e6 * spent / max(soak.batches - before, 1)
    print(
        f"minute {minute}: {soak.loaders:,} loaders, {soak.epochs:,} epochs "
        f"({soak.left:,} left early), {soak.batches:,} batches, {soak.samples:,} "
        f"samples; {each:.0f} µs a batch with its comparison, {memory:.0f} MB "
        f"anonymous, {threading.active_count()} threads, {len(soak.wrong)} wrong",
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
        start, memory = time.monotonic(), []
        for minute in itertools.count(1):
            before, began = soak.batches, time.monotonic()
            stop = start + 60 * min(minute, arguments.minutes)
            while time.monotonic() < stop:
                soak.one_loader()
            spent = time.monotonic() - began
            memory.append(report(soak, minute, spent, before))
            if minute >= arguments.minutes:
                break
        while soak.kept:
            soak.forget(0)
    grown = memory[-1] - memory[0]
    if grown > GROWTH_MB:
        soak.complain(f"memory grew by {grown:.0f} MB after the first minute")
    print(f"{soak.batches:,} batches, {len(soak.wrong)} wrong")
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
