"""Samples between their neighbours, beside a bare gather of the same bytes.

    python -m benchmarks.volumes.neighbours [--volumes N] [--repeats N] [--no-save]

Both sides make batches of BATCH samples in the same order: float32 images of 2n + 1
slices of 256 x 256, each scaled to mean 0 and deviation 1, and the bit fields of the
middle one. The bare gather is a compiled loop over the map of the store, in one thread,
which writes over the same arrays again and again: it has no queue and no consumer, and
knows which slices to read. It has as many arrays as the loader, or two, which may stay
in the caches. The outputs are compared.

Times are those of the processor, of all threads of the process, so that other programs
matter little. The sides take turns, and a ratio is the median of those of pairs.

The table is printed, saved to benchmarks/results/volumes_neighbours.md and put into
docs/benchmarks.md.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numba
import numpy as np

import fastseg
from benchmarks.tables import publish, split_page, table_of
from benchmarks.volumes.study import make_study

SIDE = 256
SLICES = 40
BATCH = 16
NEIGHBOURS = (0, 1, 2, 4)


@numba.njit(nogil=True, error_model="numpy")
def gather(images, masks, rows, middle, shift, gain, image, mask):
    """Write scaled images (m, n) of rows (m,), and masks (b, n) of the middle ones."""
    for j in range(len(rows)):
        row = rows[j]
        pixels, scaled = images[row], image[j]
        low, factor = shift[row], gain[row]
        for x in range(len(pixels)):
            scaled[x] = (np.float32(pixels[x]) - low) * factor
    for j in range(len(middle)):
        bits, copied = masks[middle[j]], mask[j]
        for x in range(len(bits)):
            copied[x] = bits[x]


class BareGather:
    """The bare gather of a loader's batches, into so many buffers in turn."""

    def __init__(self, loader, buffers):
        store = loader.store
        (name,) = store.buckets
        arrays = store.images[name], store.masks[name]
        self.images, self.masks = (array.reshape(len(array), -1) for array in arrays)
        self.shift = store.items["mean"].astype(np.float32)
        self.gain = (1 / store.items["std"]).astype(np.float32)
        count = loader.schedule.largest_batch
        made = loader.preprocessing
        self.filled = [
            (
                np.empty((count, *made.image_shape), np.float32),
                np.empty((count, *made.mask_shape), np.uint8),
            )
            for _ in range(buffers)
        ]
        self.loader = loader
        row = store.items["row"]
        depth = made.image_shape[0]
        reach = np.arange(depth) - depth // 2
        first = np.repeat([v.samples.start for v in store.volumes], SLICES)
        wanted = np.arange(len(store))[:, None] + reach
        self.rows = row[np.clip(wanted, first[:, None], first[:, None] + SLICES - 1)]
        self.middle = row

    def batches(self, epoch):
        """Yield the batches of an epoch; each is written over by a later one."""
        samples, bounds = self.loader.schedule.epoch(epoch)
        for k in range(len(self.loader)):
            chosen = samples[bounds[k] : bounds[k + 1]]
            image, mask = self.filled[k % len(self.filled)]
            size = self.images.shape[1]
            gather(
                self.images,
                self.masks,
                self.rows[chosen].reshape(-1),
                self.middle[chosen],
                self.shift,
                self.gain,
                image.reshape(-1, size),
                mask.reshape(-1, size),
            )
            yield image, mask


def seconds_of(batches):
    """Return the seconds of processor time that an epoch takes, per sample."""
    start = time.process_time()
    samples = sum(len(image) for image, _ in batches)
    return (time.process_time() - start) / samples


def compare(loader, bare):
    """Raise AssertionError if the two sides differ."""
    loader.epoch = 0
    for (image, mask), (other, bits) in zip(loader, bare.batches(0), strict=True):
        np.testing.assert_allclose(image, other, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(mask, bits)


def measure(store, neighbours, repeats):
    """Return a row of the table."""
    loader = fastseg.Loader(
        store,
        batch_size=BATCH,
        neighbours=neighbours,
        masks="bits",
        threads=1,
        drop_last=True,
    )
    sides = [BareGather(loader, loader.prefetch + 2), BareGather(loader, 2)]
    compare(loader, sides[0])
    times = []
    for epoch in range(repeats):
        loader.epoch = epoch
        ours = seconds_of(loader)
        times.append((ours, *(seconds_of(side.batches(epoch)) for side in sides)))
    ours, *bare = zip(*times, strict=True)
    ratios = [
        statistics.median(b / a for a, b in zip(ours, each, strict=True))
        for each in bare
    ]
    return [
        f"{neighbours}",
        *(f"{statistics.median(each) * 1e6:,.0f}" for each in (ours, *bare)),
        *(f"{ratio:.2f}" for ratio in ratios),
    ]


def main():
    """Measure all numbers of neighbours, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volumes", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--no-save", action="store_true", help="print only")
    given = parser.parse_args()
    if not given.no_save:
        split_page("volumes_neighbours")
    rows = [
        [
            "neighbours",
            "Loader, µs a sample",
            "bare gather, as many arrays",
            "bare gather, two arrays",
            "speed beside as many",
            "speed beside two",
        ]
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = make_study(Path(folder), given.volumes, SLICES, SIDE)
        with fastseg.open(path) as store:
            rows += [measure(store, n, given.repeats) for n in NEIGHBOURS]
    text = (
        f"{table_of(rows)}\nBatches of {BATCH} samples of {SIDE} x {SIDE}, int16 to "
        "float32, with the bit fields of the middle slice; CPU time, one thread, page "
        f"cache warm, medians of {given.repeats} turns on one of {os.cpu_count()} "
        f"cores ({platform.machine()}), Python {platform.python_version()}, "
        f"{time.strftime('%Y-%m-%d')}.\n"
    )
    print(text)
    if not given.no_save:
        publish("volumes_neighbours", text)


if __name__ == "__main__":
    main()
