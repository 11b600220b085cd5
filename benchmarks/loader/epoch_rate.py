"""Epoch rate of the loader beside a plain loop that parses every file every time.

    python -m benchmarks.loader.epoch_rate [STUDY] [--no-save]

STUDY is a folder that `fastseg link` understands: by default the Sunnybrook data where
they are (see benchmarks/inputs.py), else the sample data. Both sides do the same work
for the same samples in the same order: a float32 image scaled to mean 0 and standard
deviation 1, and a mask of the inner contour, stacked in batches. The plain loop is what
people write: pydicom, numpy.loadtxt-like parsing, PIL's polygon.

The table is printed, saved to benchmarks/results/epoch_rate.md and put into
docs/benchmarks.md.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from itertools import count
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image, ImageDraw

import fastseg
from benchmarks.inputs import default_study
from benchmarks.tables import publish, split_page, table_of
from fastseg.loading.orders import epoch_order
from fastseg.raster.rings import as_rings, shoelace_area

BATCH = 8
REPEATS = 7
SECONDS = 1.0
THREADS = (1, 2)


def plain_batches(table, order, size):
    """Yield (image, mask) batches as a script without fastseg makes them."""
    for start in range(0, len(order), BATCH):
        images = []
        masks = []
        for k in order[start : start + BATCH]:
            link = table.links[k]
            pixels = pydicom.dcmread(table.base / link.dicom_path).pixel_array
            image = pixels.astype(np.float32)
            images.append(fit((image - image.mean()) / image.std(), size))
            with (table.base / link.contour_path).open() as file:
                vertices = [tuple(map(float, line.split())) for line in file]
            mask = Image.new("L", pixels.shape[::-1], 0)
            ImageDraw.Draw(mask).polygon(vertices, outline=0, fill=1)
            masks.append(fit(np.array(mask, np.uint8), size))
        yield np.stack(images)[:, None], np.stack(masks)


def fit(image, size):
    """Cut or pad about the centre, as the loader does."""
    out = np.zeros(size, image.dtype)
    sources = []
    targets = []
    for have, want in zip(image.shape, size, strict=True):
        length = min(have, want)
        source = (have - length) // 2
        target = (want - length) // 2
        sources.append(slice(source, source + length))
        targets.append(slice(target, target + length))
    out[tuple(targets)] = image[tuple(sources)]
    return out


def rate(epoch):
    """Return the median, least and greatest images/s of several timings."""
    epoch()  # compiles and warms the page cache
    rates = []
    for _ in range(REPEATS):
        images = 0
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < SECONDS:
            images += epoch()
        rates.append(images / elapsed)
    return statistics.median(rates), min(rates), max(rates)


def bias(masks, store):
    """Return the mean relative error of the masks' areas."""
    errors = []
    for mask, sample in zip(masks, store, strict=True):
        area = shoelace_area(*as_rings(sample.contours["icontour"]))
        errors.append(mask.sum() / area - 1)
    return statistics.mean(errors)


def measure(study, folder):
    """Return the text with the table; folder is for temporary files."""
    table = fastseg.link(study, labels=["icontour"])
    store = fastseg.open(fastseg.build(table, folder / "store.h5").path)
    shapes = [bucket.shape for bucket in store.buckets.values()]
    size = tuple(max(sides) for sides in zip(*shapes, strict=True))
    options = {"batch_size": BATCH, "size": size, "masks": "icontour"}

    ours = list(fastseg.Loader(store, shuffle=False, **options))
    theirs = list(plain_batches(table, np.arange(len(store)), size))
    for batch, (image, _) in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(batch.image, image, atol=1e-4)

    epochs = count()

    def plain_epoch():
        order = epoch_order(len(store), 0, next(epochs), shuffle=True)
        return sum(len(image) for image, _ in plain_batches(table, order, size))

    def loader_epoch(threads):
        loader = fastseg.Loader(store, threads=threads, **options)
        return lambda: sum(len(batch) for batch in loader)

    our_bias = bias(np.concatenate([batch.mask for batch in ours]), store)
    plain_bias = bias(np.concatenate([mask for _, mask in theirs]), store)
    plain = "pydicom + PIL, every file in every epoch"
    rates = {plain: rate(plain_epoch)}
    biases = {plain: plain_bias}
    for threads in THREADS:
        name = f"fastseg.Loader, {threads} thread{'s' if threads > 1 else ''}"
        rates[name] = rate(loader_epoch(threads))
        biases[name] = our_bias
    rows = [("loop", "images/s (median, range)", "ratio", "area of the masks")]
    for name, (median, least, greatest) in rates.items():
        spread = f"{median:,.0f} ({least:,.0f} to {greatest:,.0f})"
        ratio = f"{median / rates[plain][0]:.1f}"
        rows.append((name, spread, ratio, f"{biases[name]:+.1%}"))
    height, width = size
    return (
        f"{table_of(rows)}\n{len(store)} images of {height}x{width} from {study.name}, "
        f"batches of {BATCH}, page cache warm, {REPEATS} timings of {SECONDS:g} s each "
        f"on {os.cpu_count()} cores ({platform.machine()}); compilation not counted.\n"
    )


def main():
    """Compare images, measure, print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", nargs="?", type=Path, default=default_study())
    parser.add_argument("--no-save", action="store_true", help="print only")
    arguments = parser.parse_args()
    if not arguments.no_save:
        split_page("epoch_rate")
    with tempfile.TemporaryDirectory() as folder:
        text = measure(arguments.study, Path(folder))
    print(text)
    if not arguments.no_save:
        publish("epoch_rate", text)


if __name__ == "__main__":
    main()
