"""Epoch rate of the loader beside a plain loop that parses every file every time.

    python benchmarks/epoch_rate.py [STUDY]

STUDY is a folder that `fastseg link` understands: by default the real Sunnybrook data
where they are (see tests/conftest.py), else the sample data. Both sides do the same
work for the same samples in the same order: a float32 image scaled to mean 0 and
standard deviation 1, and a mask of the inner contour, stacked in batches. The plain
loop is what people write: pydicom, numpy.loadtxt-like parsing, PIL's polygon.

The table is printed, saved to benchmarks/results/epoch_rate.md and put into the README.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image, ImageDraw

import fastseg
from fastseg.loading.orders import epoch_order
from fastseg.raster.rings import as_rings, shoelace_area

PROJECT = Path(__file__).parents[1]
REAL = Path(os.environ.get("FASTSEG_REAL_DATA", PROJECT.parent / "shared" / "data"))
BATCH, REPEATS, SECONDS = 8, 7, 1.0


def plain_batches(links, base, order, size):
    """Yield (image, mask) batches as a script without fastseg makes them."""
    for start in range(0, len(order), BATCH):
        images, masks = [], []
        for k in order[start : start + BATCH]:
            link = links[k]
            pixels = pydicom.dcmread(base / link.dicom_path).pixel_array
            image = pixels.astype(np.float32)
            images.append(fit((image - image.mean()) / image.std(), size))
            with (base / link.contour_path).open() as file:
                vertices = [tuple(map(float, line.split())) for line in file]
            mask = Image.new("L", pixels.shape[::-1], 0)
            ImageDraw.Draw(mask).polygon(vertices, outline=0, fill=1)
            masks.append(fit(np.array(mask, np.uint8), size))
        yield np.stack(images)[:, None], np.stack(masks)


def fit(image, size):
    """Cut or pad about the centre, as the loader does."""
    out = np.zeros(size, image.dtype)
    places = []
    for have, want in zip(image.shape, size, strict=True):
        length = min(have, want)
        source, target = (have - length) // 2, (want - length) // 2
        places.append((slice(source, source + length), slice(target, target + length)))
    (from_y, to_y), (from_x, to_x) = places
    out[to_y, to_x] = image[from_y, from_x]
    return out


def rate(epoch):
    """Return the median, least and greatest images/s of several timed runs."""
    epoch()  # compile and warm the page cache
    rates = []
    for _ in range(REPEATS):
        images, start = 0, time.perf_counter()
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


def main():
    """Measure, compare what came out, print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sunnybrook = REAL / "sunnybrook"
    usual = sunnybrook if sunnybrook.is_dir() else PROJECT / "data" / "phantom"
    parser.add_argument("study", nargs="?", type=Path, default=usual)
    parser.add_argument("--no-save", action="store_true", help="print only")
    arguments = parser.parse_args()
    table = fastseg.link(arguments.study, labels=["icontour"])
    with tempfile.TemporaryDirectory() as folder:
        store = fastseg.open(fastseg.build(table, Path(folder) / "store.h5").path)
        shapes = [bucket.shape for bucket in store.buckets.values()]
        size = tuple(max(sides) for sides in zip(*shapes, strict=True))
        options = {"batch_size": BATCH, "size": size, "masks": "icontour"}
        in_order = np.arange(len(store))

        def plain():
            order = epoch_order(len(store), 0, next(epochs), shuffle=True)
            batches = plain_batches(table.links, table.base, order, size)
            return sum(len(image) for image, _ in batches)

        def loaded(loader):
            return lambda: sum(len(batch) for batch in loader)

        ours = list(fastseg.Loader(store, shuffle=False, **options))
        theirs = list(plain_batches(table.links, table.base, in_order, size))
        for batch, (image, _) in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(batch.image, image, atol=1e-4)
        epochs = iter(range(10**9))
        rows = [("pydicom + PIL, every file in every epoch", rate(plain))]
        for threads in (1, 2):
            loader = fastseg.Loader(store, threads=threads, **options)
            many = "1 thread" if threads == 1 else f"{threads} threads"
            rows.append((f"fastseg.Loader, {many}", rate(loaded(loader))))
        plain_bias = bias(np.concatenate([mask for _, mask in theirs]), store)
        our_bias = bias(np.concatenate([batch.mask for batch in ours]), store)
        base = rows[0][1][0]
        lines = [
            "| loop | images/s (median, range) | ratio | area of the masks |",
            "|---|---|---|---|",
        ]
        for k, (name, (median, least, greatest)) in enumerate(rows):
            lines.append(
                f"| {name} | {median:,.0f} ({least:,.0f} to {greatest:,.0f}) | "
                f"{median / base:.1f} | {our_bias if k else plain_bias:+.1%} |"
            )
        shape = "x".join(map(str, size))
        lines += [
            "",
            f"{len(store)} images of {shape} from {arguments.study.name}, batches of "
            f"{BATCH}, page cache warm, {REPEATS} runs of {SECONDS:g} s each on "
            f"{os.cpu_count()} cores ({platform.machine()}); compilation not counted.",
        ]
    text = "\n".join(lines) + "\n"
    print(text)
    if not arguments.no_save:
        target = PROJECT / "benchmarks" / "results" / "epoch_rate.md"
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")
        put_into_readme("epoch_rate", text)


def put_into_readme(mark, text):
    """Replace what stands between <!-- mark --> and <!-- /mark --> in the README."""
    readme = PROJECT / "README.md"
    first, last = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
    before, _, rest = readme.read_text(encoding="utf-8").partition(first)
    _, _, after = rest.partition(last)
    assert after, f"README.md has no {first.strip()} ... {last}"
    readme.write_text(before + first + text + last + after, encoding="utf-8")


if __name__ == "__main__":
    main()
