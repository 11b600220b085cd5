"""The cost of reading many stores as one: opening, and batches from all of them.

    python -m benchmarks.store.concat [STORES]

Batches of shuffled samples of as many stores, each a phantom of its own, are compared
with those of one store of as many samples: CPU time of this process, in turn, medians.
Opening is compared with opening the stores one by one.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import fastseg
from fastseg.augment import Affine, Elastic, Noise

ROUNDS = 7
PHANTOM = {"sizes": (256,), "slices": 5, "phases": 4}
AUGMENT = [Affine(rotate=20, scale=(0.9, 1.1)), Elastic(magnitude=2), Noise(std=0.1)]
LOADERS = {
    "plain": {},
    "augmented": {"augment": AUGMENT},
    "augmented, labels nearest": {"augment": AUGMENT, "labels": "nearest"},
}


def make_stores(folder, count):
    """Return the paths of stores, and of one store of as many patients."""
    paths = [folder / f"{k:03}.h5" for k in range(count)]
    for k, path in enumerate(paths):
        study = folder / f"study{k}"
        fastseg.make_phantom(study, patients=1, seed=k, **PHANTOM)
        fastseg.build(fastseg.link(study), path)
    study = folder / "study"
    fastseg.make_phantom(study, patients=count, seed=count, **PHANTOM)
    fastseg.build(fastseg.link(study), folder / "one.h5")
    return paths, folder / "one.h5"


def seconds_of(*works):
    """Return the median CPU seconds of each of some functions, called in turn."""
    times = [[] for _ in works]
    for _ in range(ROUNDS):
        for taken, work in zip(times, works, strict=True):
            start = time.process_time()
            work()
            taken.append(time.process_time() - start)
    return map(statistics.median, times)


def main():
    """Make the stores in a temporary folder, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stores", type=int, nargs="?", default=100)
    count = parser.parse_args().stores
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        paths, one = make_stores(Path(name), count)
        separate, together = seconds_of(
            lambda: [fastseg.open(path) for path in paths],
            lambda: fastseg.concat(paths),
        )
        print(
            f"opening {count} stores: {separate:.3f} s one by one, "
            f"{together:.3f} s as one"
        )
        stores = fastseg.open(one), fastseg.concat(paths)
        print(f"samples: {len(stores[0])} in one store, {len(stores[1])} in {count}")
        for name, options in LOADERS.items():
            loaders = [
                fastseg.Loader(
                    store,
                    batch_size=32,
                    threads=1,
                    missing="background",
                    drop_last=True,
                    **options,
                )
                for store in stores
            ]
            for loader in loaders:
                next(iter(loader))
            single, several = (
                1e3 * seconds / len(loader)
                for seconds, loader in zip(
                    seconds_of(*(partial(run_epoch, k) for k in loaders)),
                    loaders,
                    strict=True,
                )
            )
            print(
                f"{name}: {single:.2f} ms a batch of one store, {several:.2f} ms of "
                f"{count} ({several / single - 1:+.1%})"
            )


def run_epoch(loader):
    """Run through an epoch."""
    for _ in loader:
        pass


if __name__ == "__main__":
    main()
