"""Augmentation beside its peers: microseconds per sample, one thread for everybody.

    python benchmarks/augment_speed.py [--quick] [--no-save] [--folder FOLDER]

Samples of 256 x 256, uint16 images and uint8 masks, become augmented batches of 32,
float32 and uint8, by four tasks; see augment_peers.py for what each side does. Before
they are timed, all go through the store once: what is determined must be alike pixel
for pixel, what is drawn must have the same moments and areas. Then all sides of a task
take turns, because the clock of a shared machine changes from one second to the next,
and ratios are those within a turn. At last, a loader with two threads takes turns with
one that has one.

The tables and the plot are saved to benchmarks/results and put into the README. FOLDER
must have room for 0.5 GB; by default it is that for temporary files.
"""

import argparse
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import augment_peers as peers
import numpy as np
from augment_peers import OURS, TASKS
from epoch_rate import PROJECT, put_into_readme
from loader_data import BATCH, SIDE, make_store
from loader_plot import OURS as OUR_COLOUR
from loader_plot import PEER as PEER_COLOUR
from loader_plot import plt
from loader_promises import row, spread
from loader_speed import table_of

import fastseg

RESULTS = PROJECT / "benchmarks" / "results"
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

# Task, side, how many times faster ours must be, and in whose words.
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

# How far sides may be apart: relative areas of masks, and, in deviations of ours, mean
# and deviation of images. Some draw scales uniformly, others their logarithm, which is
# worth 7 % of an area; the rest is chance.
AREAS, MOMENTS = 0.15, 0.15
# Share of pixels that may differ from OpenCV's: it knows places to 1/32 of a pixel, and
# mixes the border with what is outside.
OFF_IMAGE, OFF_MASK = 0.02, 0.002
# What is a difference, in standard deviations of an image.
APART = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured.

    samples, checked : in the store, and those that all sides make before
    rounds           : turns, of at least so many seconds and batches each
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


def batch_places(count):
    """Return the samples of the batches of an epoch: int64 (n, BATCH)."""
    places = np.random.default_rng(0).permutation(count)
    return places[: count // BATCH * BATCH].reshape(-1, BATCH)


def sides_of(task, inputs):
    """Return the sides of a task, ready to work, and what others lack, by side."""
    ready, missing = {}, {}
    for name, side in TASKS[task].items():
        try:
            ready[name] = side(inputs)
        except ImportError as exc:
            missing[name] = exc.name.partition(".")[0]
            print(f"{name}: left out, {missing[name]} is not installed", flush=True)
    return ready, missing


# What comes out -----------------------------------------------------------------------


def facts(fill, places):
    """Return mean and deviation of images, and the share of pixels with a class."""
    image, mask = new_batch()
    found = []
    for epoch, batch in enumerate(places):
        image.fill(np.nan), mask.fill(255)
        fill(batch, image, mask, epoch)
        assert np.isfinite(image).all(), "an image is not filled"
        found.append([image.mean(), image.std(), (mask != 0).mean()])
    return np.mean(found, axis=0)


def check(task, sides, places):
    """Hold what the sides of a task make against ours; raises AssertionError."""
    compared = {name: facts(fill, places) for name, fill in sides.items()}
    mean, deviation, area = compared[OURS]
    for name, found in compared.items():
        if name == peers.CV2_READY:  # has one image in place of all
            found = (mean, deviation, found[2])
        apart = abs(found[0] - mean) / deviation, abs(found[1] / deviation - 1)
        words = f"mean {found[0]:.3f}, deviation {found[1]:.3f}, area {found[2]:.4f}"
        print(f"{task}, {name}: {words}", flush=True)
        assert max(apart) < MOMENTS, (task, name)
        assert abs(found[2] / area - 1) < AREAS, (task, name)


def check_affine(sides, places):
    """Hold OpenCV's images and masks against ours, pixel for pixel."""
    if peers.CV2_SAME not in sides:
        return
    (image, mask), (other, field), (_, exact) = (new_batch() for _ in range(3))
    off, areas = [], []
    for epoch, batch in enumerate(places):
        sides[peers.NEAREST](batch, image, mask, epoch)
        sides[peers.CV2_SAME](batch, other, field, epoch)
        off.append([(np.abs(image - other) > APART).mean(), (mask != field).mean()])
        sides[OURS](batch, image, exact, epoch)
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


# How long it takes --------------------------------------------------------------------


def timed(fill, places, batch, turn, effort):
    """Return microseconds per sample of filling a batch over and over."""
    done, start = 0, time.perf_counter()
    while done < effort.batches or time.perf_counter() - start < effort.seconds:
        fill(places[(turn + done) % len(places)], *batch, turn)
        done += 1
    return 1e6 * (time.perf_counter() - start) / (done * BATCH)


def race(sides, places, effort):
    """Let sides take turns; return microseconds per sample and turn, by side."""
    batch = new_batch()
    for fill in sides.values():  # warms
        timed(fill, places, batch, 0, effort)
    spent = {name: [] for name in sides}
    for turn in range(effort.rounds):
        for name, fill in sides.items():
            spent[name].append(timed(fill, places, batch, turn, effort))
    return {name: np.array(values) for name, values in spent.items()}


def threads_race(inputs, effort):
    """Let loaders with one thread and with two take turns, whole epochs each.

    Returns microseconds per sample and turn, and how many cores were at work, by side.
    """
    options = {"batch_size": BATCH, "augment": peers.MIXED, **peers.UNIT}
    loaders = {
        name: fastseg.Loader(inputs.store, threads=threads, **options)
        for name, threads in ((ONE, 1), (TWO, 2))
    }
    for alone, helped in zip(*loaders.values(), strict=True):  # warms, too
        np.testing.assert_array_equal(alone.image, helped.image)
        np.testing.assert_array_equal(alone.mask, helped.mask)
    spent, cores = ({name: [] for name in loaders} for _ in range(2))
    for _ in range(effort.rounds):
        for name, loader in loaders.items():
            count, start, busy = 0, time.perf_counter(), time.process_time()
            while time.perf_counter() - start < effort.seconds:
                count += sum(len(batch) for batch in loader)
            elapsed = time.perf_counter() - start
            spent[name].append(1e6 * elapsed / count)
            cores[name].append((time.process_time() - busy) / elapsed)
    return {name: np.array(values) for name, values in spent.items()}, cores


# What is shown ------------------------------------------------------------------------


def rows_of(results):
    """Yield the rows of the table of all sides, the fastest of a task first."""
    yield "task", "", "µs per sample (median, quartiles)", "times fastseg"
    for task, spent in results.items():
        base = spent[next(iter(spent))]
        shown = task
        for name in sorted(spent, key=lambda name: np.median(spent[name])):
            words = spread(spent[name], "{:,.0f}"), spread(spent[name] / base, "{:.2f}")
            yield shown, f"**{name}**" if name == OURS else name, *words
            shown = ""


def bars_of(results, cores):
    """Yield the rows of what was promised; cores are those that two threads had."""
    yield "how many times faster", "measured", "bar", "reached"
    for task, side, bar, words in BARS:
        spent = results[task]
        if side == BEST:
            others = {k: v for k, v in spent.items() if not k.startswith(OURS)}
            side = min(others, key=lambda name: np.median(others[name]), default=None)
            words = f"{BEST} ({side})" if side else BEST
            theirs = np.min(list(others.values()), axis=0) if others else None
        else:
            theirs = spent.get(side)
        what = f"{task}: {words}"
        if theirs is None:
            yield row(what, "not measured", f"≥ {bar}")
            continue
        ratio = theirs / spent[OURS]
        enough = bool(np.median(ratio) >= bar)
        yield row(what, spread(ratio, "{:.2f}"), f"≥ {bar}", enough)
    ratio = results[THREADS_TASK][ONE] / results[THREADS_TASK][TWO]
    enough = bool(np.median(ratio) >= THREADS_BAR)
    what = f"two threads, of one (they had {cores:.2f} cores)"
    yield row(what, spread(ratio, "{:.2f}"), f"≥ {THREADS_BAR}", enough)


def picture(results, path):
    """Draw a panel of bars for each task."""
    heights = [len(spent) for spent in results.values()]
    figure, panels = plt.subplots(
        len(results),
        figsize=(9, 0.3 * sum(heights) + 0.62 * len(results)),
        height_ratios=[height + 0.4 for height in heights],
        dpi=150,
    )
    for axes, (task, spent) in zip(panels, results.items(), strict=True):
        names = sorted(spent, key=lambda name: -np.median(spent[name]))
        low, middle, high = np.array(
            [np.percentile(spent[name], [25, 50, 75]) for name in names]
        ).T
        ours = [task == THREADS_TASK or name.startswith(OURS) for name in names]
        colours = [OUR_COLOUR if own else PEER_COLOUR for own in ours]
        places = np.arange(len(names))
        axes.barh(places, middle, color=colours, height=0.72)
        error = [middle - low, high - middle]
        axes.errorbar(middle, places, xerr=error, fmt="none", ecolor="#333")
        for place, value, end in zip(places, middle, high, strict=True):
            axes.annotate(
                f"{value:,.0f}",
                (end, place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        axes.set_yticks(places, names, fontsize=8)
        axes.set_xlim(0, 1.1 * high.max())
        axes.set_ylim(-0.7, len(names) - 0.3)
        axes.set_xticks([])
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "bottom", "left"]].set_visible(False)
        axes.set_title(task.replace("`", ""), loc="left", fontsize=9, weight="bold")
    title = f"Augmentation, µs per sample of {SIDE} × {SIDE}: shorter is faster"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    figure.supxlabel("median; the line spans the quartiles", fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def versions():
    """Return the packages in question with their versions, in words."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def measure(folder, effort):
    """Measure all tasks; return the text with the tables, and the results by task."""
    start = time.perf_counter()
    make_store(folder, effort.samples)
    inputs = peers.Inputs(folder)
    places = batch_places(inputs.count)
    results, missing = {}, {}
    for task in TASKS:
        sides, lacking = sides_of(task, inputs)
        missing |= lacking
        checked = places[: effort.checked // BATCH]
        check(task, sides, checked)
        if task == peers.AFFINE_TASK:
            check_affine(sides, checked)
        results[task] = race(sides, places, effort)
    results[THREADS_TASK], cores = threads_race(inputs, effort)
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
{versions()}; {time.strftime("%Y-%m-%d")}, {minutes:.0f} minutes.
"""
    for package in sorted(set(missing.values())):
        lost = [name for name in missing if missing[name] == package]
        text += f"\nLeft out, {package} is not installed: {'; '.join(lost)}.\n"
    return text, results


def main():
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--no-save", action="store_true", help="print only")
    parser.add_argument("--folder", type=Path, help="where to put the samples")
    arguments = parser.parse_args()
    peers.limit_threads()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        effort = QUICK if arguments.quick else FULL
        text, results = measure(Path(name), effort)
    print("\n" + text)
    if not arguments.no_save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "augment.md").write_text(text, encoding="utf-8")
        picture(results, RESULTS / "augment.png")
        put_into_readme("augment", text)


if __name__ == "__main__":
    main()
