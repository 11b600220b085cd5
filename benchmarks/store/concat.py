"""The cost of reading many stores as one: opening, and batches from all of them.

    python -m benchmarks.store.concat [STORES] [--no-save]

The same samples, in the same order, are built into one store and into as many as asked
for. First, an epoch of each loader is compared bit for bit. Then processor time of
epochs of both is measured in turn. The table shows medians of the ratios of epochs that
follow each other, with their quartiles, because the clock of a machine changes.

The table is printed, saved to benchmarks/results/concat.md and put into
docs/benchmarks.md.
"""

import argparse
import os
import platform
import shutil
import statistics
import tempfile
import time
import warnings
from itertools import chain
from pathlib import Path

import numpy as np

import fastseg
from benchmarks.tables import publish, split_page, spread, table_of
from fastseg.augment import Affine, Elastic, Noise

STORES = 100
ROUNDS = 15
OPENED = 7
SIDE = 256
# Of one patient, whose images all have contours.
PHANTOM = {"patients": 1, "sizes": SIDE, "slices": 10, "phases": 2}
# Added to the pixels of each copy, so that no two stores hold the same.
NOISE = 16
AUGMENT = [Affine(rotate=20, scale=(0.9, 1.1)), Elastic(magnitude=2), Noise(std=0.1)]
COMMON = {"threads": 1, "missing": "background", "drop_last": True, "seed": 3}
SAMPLES = {"batch_size": 32, **COMMON}
PATCHES = {"batch_size": 4, "patch": (8, 96, 96), "per_volume": 2, **COMMON}
LOADERS = {
    "32 samples": (fastseg.Loader, SAMPLES),
    "32 samples, augmented": (fastseg.Loader, {**SAMPLES, "augment": AUGMENT}),
    "32 samples, augmented, labels nearest": (
        fastseg.Loader,
        {**SAMPLES, "augment": AUGMENT, "labels": "nearest"},
    ),
    "32 samples with their neighbours": (fastseg.Loader, {**SAMPLES, "neighbours": 1}),
    "4 patches of volumes": (fastseg.PatchLoader, PATCHES),
}
# Samples of an epoch that is timed: from all over the stores.
EPOCH = 640


def copy_links(folder, count):
    """Return links of copies of a phantom, each of a patient of its own."""
    study = fastseg.make_phantom(folder / "study", **PHANTOM)
    random = np.random.default_rng(0)
    links = []
    originals = fastseg.link(study).links
    for k in range(count):
        copied = folder / f"copy{k:03}"
        copied.mkdir()
        for path in {link.dicom_path for link in originals}:
            data = (study / path).read_bytes()
            pixels = np.frombuffer(data[-2 * SIDE * SIDE :], "<u2")
            noisy = pixels + random.integers(0, NOISE, pixels.shape, "<u2")
            copy = copied / Path(path).name
            assert not copy.exists()
            copy.write_bytes(data[: -noisy.nbytes] + noisy.tobytes())
        links.append(
            [
                link._replace(
                    patient=f"{k:03}",
                    dicom_path=f"{copied.name}/{Path(link.dicom_path).name}",
                    contour_path=f"study/{link.contour_path}",
                )
                for link in originals
            ]
        )
    return links


def make_stores(folder, count):
    """Return the path of one store, and the paths of stores of the same samples."""
    links = copy_links(folder, count)
    paths = [folder / f"{k:03}.h5" for k in range(count)]
    whole = folder / "one.h5"
    for path, some in zip([whole, *paths], [list(chain(*links)), *links], strict=True):
        table = fastseg.LinkTable(base=folder, links=some)
        fastseg.build(table, path)
    for copy in folder.glob("copy*"):
        shutil.rmtree(copy)
    return whole, paths


def median_seconds(work):
    """Return the median seconds of several calls."""
    times = []
    for _ in range(OPENED):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
        del result
    return statistics.median(times)


def assert_equal_epochs(one, several):
    """Compare an epoch of two loaders, bit for bit."""
    for expected, batch in zip(one, several, strict=True):
        np.testing.assert_array_equal(batch.index, expected.index)
        np.testing.assert_array_equal(batch.image.view("u4"), expected.image.view("u4"))
        np.testing.assert_array_equal(batch.mask, expected.mask)


def seconds_of_epoch(loader):
    """Return the processor seconds of an epoch."""
    start = time.process_time()
    for _ in loader:
        pass
    return time.process_time() - start


def rows_of(whole, paths):
    """Yield what was measured: of one store, of several, their ratio, and the bar."""
    count = len(paths)
    fastseg.concat(paths)
    once = median_seconds(lambda: fastseg.open(whole))
    together = median_seconds(lambda: fastseg.concat(paths))
    yield "open", f"{1e3 * once:.1f} ms", f"{together:.3f} s", "", "0.5 s"
    one, several = fastseg.open(whole), fastseg.concat(paths)
    assert len(one) == len(several) >= EPOCH * count // STORES
    chosen = np.random.default_rng(1).permutation(len(one))[:EPOCH]
    for name, (kind, options) in LOADERS.items():
        if kind is fastseg.Loader:
            options = {**options, "indices": np.sort(chosen)}
        loaders = [kind(store, **options) for store in (one, several)]
        assert_equal_epochs(*loaders)
        seconds = []
        for _ in range(ROUNDS):
            seconds.append(list(map(seconds_of_epoch, loaders)))
        times = np.median(seconds, axis=0) / len(loaders[0])
        single, joined = (f"{1e3 * each:.2f} ms" for each in times)
        more = [100 * (b / a - 1) for a, b in seconds]
        yield name, single, joined, spread(more, "{:+.1f} %"), "+3 %"


def main():
    """Make the stores in a temporary folder; measure, print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("stores", type=int, nargs="?", default=STORES)
    parser.add_argument("--no-save", action="store_true", help="print only")
    arguments = parser.parse_args()
    if not arguments.no_save:
        split_page("concat")
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="fastseg-concat-") as folder:
        rows = list(rows_of(*make_stores(Path(folder), arguments.stores)))
    headings = (
        "the same samples, in the same order",
        "in one store",
        f"in {arguments.stores}",
        "more (quartiles)",
        "must stay under",
    )
    text = (
        f"{table_of([headings, *rows])}\nBatches are equal, bit for bit; processor "
        "time of a batch, with one thread; opening in seconds of the clock. Python "
        f"{platform.python_version()}, {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores.\n"
    )
    print(text)
    if not arguments.no_save:
        publish("concat", text)


if __name__ == "__main__":
    main()
