"""Augmentation beside its peers: microseconds per sample, one thread for everybody.

    python -m benchmarks.augment.race [--quick] [--no-save] [--folder FOLDER]

Samples of 256 x 256, uint16 images and uint8 masks, become augmented batches of 32,
float32 and uint8, by four tasks; peers.py says what each side does. Before they are
timed, all sides augment the whole store once: results without random numbers must be
alike pixel for pixel, random ones must have the same moments and areas. Then all sides
of a task take turns, because the clock of a shared machine changes from one second to
the next, and ratios are those within a turn. At last, a loader with two threads takes
turns with a loader with one.

The tables and the plot are saved to benchmarks/results, and the tables are put into
docs/benchmarks.md. FOLDER must have 0.5 GB free; by default it is that for temporary
files.
"""

import argparse
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import fastseg
from benchmarks.augment import peers
from benchmarks.augment.peers import OURS, TASKS
from benchmarks.inputs import SIDE
from benchmarks.loader import plot
from benchmarks.loader.promises import row
from benchmarks.loader.samples import BATCH, make_store
from benchmarks.tables import RESULTS, publish, split_page, spread, table_of, versions

PACKAGES = (
    "numpy",
    "numba",
    "opencv-python-headless",
    "albumentations",
    "torch",
    "monai",
    "torchio",
    "batchgeneratorsv2",
)
THREADS_TASK, ONE, TWO = "`fastseg.Loader`", "1 thread", "2 threads"
BEST = "best peer"

# Task, side, how many times faster ours must be, and the title of the row.
BARS = (
    (peers.MIX_TASK, "albumentations", 5, "albumentations"),
    (peers.MIX_TASK, peers.CV2_HAND, 6, peers.CV2_HAND),
    (peers.MIX_TASK, peers.CV2_TUNED, 6, "the same, tuned"),
    (peers.MIX_TASK, "MONAI", 30, "MONAI"),
    (peers.MIX_TASK, "TorchIO", 60, "TorchIO"),
    (peers.AFFINE_TASK, peers.CV2_SAME, 1.5, "the same work by cv2.warpAffine"),
    (peers.AFFINE_TASK, peers.CV2_READY, 1.5, "less work: images scaled before"),
    (peers.ELASTIC_TASK, BEST, 5, BEST),
    (peers.STANDARD_TASK, peers.NNUNET, 10, peers.NNUNET),
)
THREADS_BAR = 1.8

# Allowed differences between sides: relative areas of masks, and, in deviations of
# ours, mean and deviation of images. Some draw scales uniformly, others their
# logarithm, which changes areas by 7 %; the rest is chance.
AREAS = 0.15
MOMENTS = 0.15
# Fractions of pixels that may differ from OpenCV's: it rounds coordinates to 1/32 of a
# pixel, and mixes the border with what is outside.
OFF_IMAGE = 0.02
OFF_MASK = 0.002
# Values that are further apart differ, in standard deviations of an image.
APART = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured.

    samples, checked : in the store, and those that all sides augment before
    rounds           : turns, each of at least these seconds and batches
    """

    samples: int
    checked: int
    rounds: int
    seconds: float
    batches: int


FULL = Effort(samples=640, checked=640, rounds=15, seconds=0.3, batches=4)
QUICK = Effort(samples=320, checked=192, rounds=7, seconds=0.05, batches=1)


def new_batch():
    """Return arrays for images and masks."""
    shape = SIDE, SIDE
    return np.empty((BATCH, 1, *shape), np.float32), np.empty((BATCH, *shape), np.uint8)


def shuffled_batches(count):
    """Return the samples of the batches of an epoch: int64 (n, BATCH)."""
    indices = np.random.default_rng(0).permutation(count)
    return indices[: count // BATCH * BATCH].reshape(-1, BATCH)


def sides_of(task, samples):
    """Return the sides of a task, ready to work, and missing packages, by side."""
    ready = {}
    missing = {}
    for name, side in TASKS[task].items():
        try:
            ready[name] = side(samples)
        except ImportError as exc:
            missing[name] = exc.name.partition(".")[0]
            print(f"{name}: left out, {missing[name]} is not installed", flush=True)
    return ready, missing


# Comparing results --------------------------------------------------------------------


def moments(fill, batches):
    """Return mean and deviation of images, and the fraction of pixels with a class."""
    image, mask = new_batch()
    results = []
    for epoch, indices in enumerate(batches):
        image.fill(np.nan)
        mask.fill(255)
        fill(indices, image, mask, epoch)
        assert np.isfinite(image).all(), "an image is not filled"
        results.append([image.mean(), image.std(), (mask != 0).mean()])
    return np.mean(results, axis=0)


def check(task, sides, batches):
    """Compare the results of the sides of a task with ours; raises AssertionError."""
    compared = {name: moments(fill, batches) for name, fill in sides.items()}
    our_mean, our_deviation, our_area = compared[OURS]
    for name, (mean, deviation, area) in compared.items():
        words = f"mean {mean:.3f}, deviation {deviation:.3f}, area {area:.4f}"
        print(f"{task}, {name}: {words}", flush=True)
        assert abs(area / our_area - 1) < AREAS, (task, name)
        if name == peers.CV2_READY:  # warps one image instead of all
            continue
        assert abs(mean - our_mean) / our_deviation < MOMENTS, (task, name)
        assert abs(deviation / our_deviation - 1) < MOMENTS, (task, name)


def check_affine(sides, batches):
    """Compare OpenCV's images and masks with ours, pixel for pixel."""
    if peers.CV2_SAME not in sides:
        return
    image, mask = new_batch()
    other, field = new_batch()
    _, exact = new_batch()
    off = []
    areas = []
    for epoch, indices in enumerate(batches):
        sides[peers.NEAREST](indices, image, mask, epoch)
        sides[peers.CV2_SAME](indices, other, field, epoch)
        off.append([(np.abs(image - other) > APART).mean(), (mask != field).mean()])
        sides[OURS](indices, image, exact, epoch)
        areas.append([(exact != 0).sum(), (field != 0).sum()])
    pixels, labels = np.mean(off, axis=0)
    ours, theirs = np.sum(areas, axis=0)
    print(
        f"affine, ours and OpenCV's: {pixels:.2%} of the pixels and {labels:.3%} of "
        f"the labels differ, the area of exact labels by {ours / theirs - 1:+.2%}"
    )
    assert pixels < OFF_IMAGE
    assert labels < OFF_MASK
    assert abs(ours / theirs - 1) < 0.02


# Timing -------------------------------------------------------------------------------


def timed(fill, batches, batch, turn, effort):
    """Return microseconds per sample of filling a batch over and over."""
    count = 0
    start = time.perf_counter()
    while count < effort.batches or time.perf_counter() - start < effort.seconds:
        fill(batches[(turn + count) % len(batches)], *batch, turn)
        count += 1
    return 1e6 * (time.perf_counter() - start) / (count * BATCH)


def race(sides, batches, effort):
    """Let sides take turns; return microseconds per sample and turn, by side."""
    batch = new_batch()
    for fill in sides.values():  # warms up
        timed(fill, batches, batch, 0, effort)
    micros = {name: [] for name in sides}
    for turn in range(effort.rounds):
        for name, fill in sides.items():
            micros[name].append(timed(fill, batches, batch, turn, effort))
    return {name: np.array(values) for name, values in micros.items()}


def threads_race(samples, effort):
    """Let loaders with one thread and with two take turns, whole epochs each.

    Returns microseconds per sample and turn, and the number of busy cores, by side.
    """
    options = {
        "batch_size": BATCH,
        "masks": "bits",
        "augment": peers.MIXED,
        **peers.UNIT,
    }
    loaders = {
        name: fastseg.Loader(samples.store, threads=threads, **options)
        for name, threads in ((ONE, 1), (TWO, 2))
    }
    for alone, helped in zip(*loaders.values(), strict=True):  # warms up, too
        np.testing.assert_array_equal(alone.image, helped.image)
        np.testing.assert_array_equal(alone.mask, helped.mask)
    micros = {name: [] for name in loaders}
    cores = {name: [] for name in loaders}
    for _ in range(effort.rounds):
        for name, loader in loaders.items():
            count = 0
            start = time.perf_counter()
            busy = time.process_time()
            while time.perf_counter() - start < effort.seconds:
                count += sum(len(batch) for batch in loader)
            elapsed = time.perf_counter() - start
            micros[name].append(1e6 * elapsed / count)
            cores[name].append((time.process_time() - busy) / elapsed)
    return {name: np.array(values) for name, values in micros.items()}, cores


# Tables and plot ----------------------------------------------------------------------


def rows_of(results):
    """Yield the rows of the table of all sides, the fastest of a task first."""
    yield "task", "", "µs per sample (median, quartiles)", "times fastseg"
    for task, micros in results.items():
        base = micros[next(iter(micros))]
        shown = task
        for name in sorted(micros, key=lambda name: np.median(micros[name])):
            words = spread(micros[name], "{:,.0f}")
            ratio = spread(micros[name] / base, "{:.2f}")
            yield shown, f"**{name}**" if name == OURS else name, words, ratio
            shown = ""


def bars_of(results, cores):
    """Yield the rows of what was promised; cores are those that two threads had."""
    yield "how many times faster", "measured", "bar", "reached"
    for task, side, bar, title in BARS:
        micros = results[task]
        if side == BEST:
            others = {k: v for k, v in micros.items() if not k.startswith(OURS)}
            best = min(others, key=lambda name: np.median(others[name]), default=None)
            title = f"{BEST} ({best})" if best else BEST
            theirs = np.min(list(others.values()), axis=0) if others else None
        else:
            theirs = micros.get(side)
        title = f"{task}: {title}"
        if theirs is None:
            yield row(title, "not measured", f"≥ {bar}")
            continue
        ratio = theirs / micros[OURS]
        enough = bool(np.median(ratio) >= bar)
        yield row(title, spread(ratio, "{:.2f}"), f"≥ {bar}", enough)
    ratio = results[THREADS_TASK][ONE] / results[THREADS_TASK][TWO]
    enough = bool(np.median(ratio) >= THREADS_BAR)
    title = f"two threads, of one (they had {cores:.2f} cores)"
    yield row(title, spread(ratio, "{:.2f}"), f"≥ {THREADS_BAR}", enough)


def picture(results, path):
    """Draw a panel of bars for each task."""
    heights = [len(micros) for micros in results.values()]
    figure, panels = plot.plt.subplots(
        len(results),
        figsize=(9, 0.3 * sum(heights) + 0.62 * len(results)),
        height_ratios=[height + 0.4 for height in heights],
        dpi=150,
    )
    for axes, (task, micros) in zip(panels, results.items(), strict=True):
        names = sorted(micros, key=lambda name: -np.median(micros[name]))
        quartiles = np.array(
            [np.percentile(micros[name], [25, 50, 75]) for name in names]
        ).T
        ours = [task == THREADS_TASK or name.startswith(OURS) for name in names]
        plot.bars(axes, quartiles, [plot.OURS if own else plot.PEER for own in ours])
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_xlim(0, 1.1 * quartiles.max())
        axes.set_xticks([])
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "bottom", "left"]].set_visible(False)
        axes.set_title(task.replace("`", ""), loc="left", fontsize=9, weight="bold")
    title = f"Augmentation, µs per sample of {SIDE} × {SIDE}: shorter is faster"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    figure.supxlabel("median; the line spans the quartiles", fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    plot.plt.close(figure)


def measure(folder, effort):
    """Measure all tasks; return the text with the tables, and the results by task."""
    start = time.perf_counter()
    make_store(folder, effort.samples)
    samples = peers.ScaledSamples(folder)
    batches = shuffled_batches(samples.count)
    results = {}
    missing = {}
    for task in TASKS:
        sides, missing_here = sides_of(task, samples)
        missing |= missing_here
        checked = batches[: effort.checked // BATCH]
        check(task, sides, checked)
        if task == peers.AFFINE_TASK:
            check_affine(sides, checked)
        results[task] = race(sides, batches, effort)
    results[THREADS_TASK], cores = threads_race(samples, effort)
    minutes = (time.perf_counter() - start) / 60
    text = f"""{table_of(rows_of(results))}
All sides read the same uint16 images of {SIDE} × {SIDE} and the same masks from a
mapped file, scale them, and fill batches of {BATCH}; but "images scaled before" warps
one float32 image, which stays in the cache, again and again. They draw from the same
ranges; images are interpolated linearly. fastseg moves the contours and draws exact
labels, as it does by default; all others, and "labels nearest", take the masks' nearest
pixels, but nnU-Net's default interpolates labels. "Tuned" has the flip in the matrix
and works in place. The loaders do the first task, with the time to start their threads.

{table_of(bars_of(results, np.median(cores[TWO])))}
One thread for everybody but the last row. Medians and quartiles of {effort.rounds}
turns of at least {effort.seconds} s each, page cache warm, compilation not counted.
{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()},
{versions(PACKAGES)}; {time.strftime("%Y-%m-%d")}, {minutes:.0f} minutes.
"""
    for package in sorted(set(missing.values())):
        names = [name for name in missing if missing[name] == package]
        text += f"\nLeft out, {package} is not installed: {'; '.join(names)}.\n"
    return text, results


def main():
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--no-save", action="store_true", help="print only")
    parser.add_argument("--folder", type=Path, help="where to put the samples")
    arguments = parser.parse_args()
    if not arguments.no_save:
        split_page("augment")
    peers.limit_threads()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        effort = QUICK if arguments.quick else FULL
        text, results = measure(Path(name), effort)
    print("\n" + text)
    if not arguments.no_save:
        publish("augment", text)
        picture(results, RESULTS / "augment.png")


if __name__ == "__main__":
    main()
