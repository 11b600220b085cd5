"""Building a store: beside the loop that people write, and beside the disk's limit.

    python -m benchmarks.build.race [STUDY] [--no-save]

STUDY is a folder that `fastseg link` understands: by default the Sunnybrook data where
they are (see benchmarks/inputs.py), else a phantom of that size. The clock of a shared
machine changes from one second to the next: each peer is called right after
`fastseg.build` with one thread, and its ratio is that of these two calls. The tables
are printed, saved to benchmarks/results/build.md and put into docs/benchmarks.md.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pydicom
from PIL import Image, ImageDraw

import fastseg
from benchmarks.inputs import PROJECT, STUDY_PHANTOM, SUNNYBROOK
from benchmarks.tables import publish, split_page, spread, table_of
from fastseg.threads import usable_cores

REPEATS = 11
# Seconds of each call of os.fsync since `timed` began.
FSYNC_SECONDS = []
CHANGED, RESUMED = "again, one image changed", "resumed after 98 %"
# A build in a new process with an empty cache of kernels; prints its seconds.
FIRST_CALL = """import sys, time, fastseg; from fastseg.ingest.builder import build
table, start = fastseg.link(sys.argv[1]), time.perf_counter()
build(table, sys.argv[2], threads=1), print(time.perf_counter() - start)"""


class Source(NamedTuple):
    """The files of an image, and what they become in a store.

    contours : (class, path) of each contour file
    image_bytes, mask_bytes : of the stored image and its mask
    """

    path: Path
    contours: list[tuple[str, Path]]
    image_bytes: int
    mask_bytes: int


def plain_build(sources, classes, output):
    """Write images, masks and vertices as a script without fastseg does."""
    # Pixels stay in memory until all shapes are known: faster than to read all headers
    # first.
    buckets = defaultdict(list)
    rings = []
    for source in sources:
        pixels = pydicom.dcmread(source.path).pixel_array
        mask = None
        for label, contour in source.contours:
            text = contour.read_text(encoding="ascii")
            rings.append(np.array(text.split(), float).reshape(-1, 2))
            drawn = Image.new("L", pixels.shape[::-1], 0)
            ImageDraw.Draw(drawn).polygon(rings[-1].ravel().tolist(), fill=1, outline=1)
            bits = np.asarray(drawn) << classes.index(label)
            mask = bits if mask is None else mask | bits
        buckets[pixels.shape, pixels.dtype].append((pixels, mask))
    with h5py.File(output, "w") as file:
        for (shape, dtype), pairs in buckets.items():
            name = f"{shape[0]}x{shape[1]}_{dtype.name}"
            size = (len(pairs), *shape)
            images = file.create_dataset(f"images/{name}", size, dtype)
            masks = file.create_dataset(f"masks/{name}", size, np.uint8)
            for row, (pixels, mask) in enumerate(pairs):
                images[row] = pixels
                if mask is not None:  # the others are zeros that cost nothing
                    masks[row] = mask
        file["contours/points"] = np.concatenate(rings)
        file["contours/offsets"] = np.cumsum([0, *map(len, rings)])


def differing_pixels(store, path):
    """Compare the loop's file with our store; return how many pixels of masks differ.

    Images and vertices must be equal.
    """
    with h5py.File(path) as file:
        for name in store.images:
            np.testing.assert_array_equal(file["images"][name], store.images[name])
        ours = store.contours["points"]
        np.testing.assert_array_equal(file["contours/points"], ours)
        pairs = [(file["masks"][name][...], ours) for name, ours in store.masks.items()]
    return sum(np.count_nonzero(theirs != ours) for theirs, ours in pairs)


def plain_copy(sources, output, *, holes=False, sync=False, threads=1):
    """Read all files and write the number of bytes that a store has.

    holes : leave out empty masks, as a build does
    """
    image_offset = 0
    mask_offset = sum(source.image_bytes for source in sources)
    zeros = memoryview(bytes(max(source.mask_bytes for source in sources)))
    offsets = []
    for source in sources:
        offsets.append((image_offset, mask_offset))
        image_offset += source.image_bytes
        mask_offset += source.mask_bytes

    def copy(block):
        with output.open("r+b", buffering=0) as file:
            for source, (image_offset, mask_offset) in block:
                for path in (*(path for _, path in source.contours), source.path):
                    handle = os.open(path, os.O_RDONLY)
                    data = os.read(handle, os.fstat(handle).st_size)
                    os.close(handle)
                file.seek(image_offset)
                file.write(memoryview(data)[-source.image_bytes :])
                if source.contours or not holes:
                    file.seek(mask_offset)
                    file.write(zeros[: source.mask_bytes])

    with output.open("wb") as file:
        file.truncate(mask_offset)
        pairs = list(zip(sources, offsets, strict=True))
        length = -(-len(pairs) // threads)
        blocks = [pairs[k : k + length] for k in range(0, len(pairs), length)]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(copy, blocks))
        if sync:
            os.fsync(file.fileno())


def timed_fsync(handle, fsync=os.fsync):
    """Wait as os.fsync does, and note how long."""
    start = time.perf_counter()
    fsync(handle)
    FSYNC_SECONDS.append(time.perf_counter() - start)


def flip(path):
    """Change a bit of a file's last pixel."""
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


def interrupt(table, output, count):
    """Begin a build that ends after a number of images, as by a crash."""

    @contextmanager
    def stop(label, total):
        done = 0

        def advance(n=1):
            nonlocal done
            done += n
            if label == "build" and done > count:
                raise InterruptedError

        yield advance

    with suppress(InterruptedError):
        fastseg.build(table, output, progress=stop)


def timed(work, fresh, prepare=None):
    """Return seconds of a call that may write a new file: in os.fsync, and the rest."""
    fresh.unlink(missing_ok=True)
    if prepare:
        prepare()
    FSYNC_SECONDS.clear()
    start = time.perf_counter()
    work()
    elapsed = time.perf_counter() - start
    return sum(FSYNC_SECONDS), elapsed - sum(FSYNC_SECONDS)


def in_turns(base, peers, fresh, prepare=None):
    """Return seconds of each peer and of base, timed right before it.

    An array for each peer, float64 (base or peer, fsync or rest, repeat).
    """
    times = {name: [] for name in peers}
    for _ in range(1 + REPEATS):  # the first time warms up
        for name, work in peers.items():
            before = (prepare or {}).get(name)
            times[name].append((timed(base, fresh), timed(work, fresh, before)))
    return {name: np.array(t[1:]).transpose(1, 2, 0) for name, t in times.items()}


def first_call(study, folder):
    """Return the seconds of a build in a new process that compiles all kernels."""
    settings = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "numba")}
    command = [sys.executable, "-c", FIRST_CALL, study, folder / "first.h5"]
    return float(subprocess.check_output(command, cwd=PROJECT, env=settings))


def sources_of(table, store):
    """Return the Source of each sample."""
    sources = []
    groups = groupby(table.links, key=lambda link: link.dicom_path)
    for (path, links), item in zip(groups, store, strict=True):
        contours = [(x.label, table.base / x.contour_path) for x in links if x.label]
        nbytes = item.image.nbytes, item.mask.nbytes
        sources.append(Source(table.base / path, contours, *nbytes))
    return sources


def rows_of(times, count):
    """Yield the rows of the table of builds of so many images."""
    ours = np.concatenate([pair[0] for pair in times.values()], axis=-1)
    yield "", "µs an image", "in fsync", "ratio", "without fsync"
    for name, (our, its) in {"fastseg.build, 1 thread": (ours, ours), **times}.items():
        micros = 1e6 / count * its
        ratios = ["1", "1"]
        if its is not ours:
            whole = its.sum(0) / our.sum(0)
            ratios = [spread(values, "{:,.2f}") for values in (whole, its[1] / our[1])]
        fsync = f"{np.median(micros[0]):,.0f}"
        yield name, spread(micros.sum(0), "{:,.0f}"), fsync, *ratios


def measure(study, folder):
    """Return the text with the tables; folder is for temporary files."""
    fresh, built, other = (folder / f"{x}.h5" for x in ("fresh", "built", "other"))
    compiling = first_call(study, folder)
    table = fastseg.link(study, keep_unlabelled=True)
    store = fastseg.open(fastseg.build(table, built).path)
    sources = sources_of(table, store)
    plain_build(sources, table.classes, fresh)
    differing = differing_pixels(store, fresh)

    copy = partial(plain_copy, sources, fresh)
    own_study = shutil.copytree(study, folder / "study")
    own_table = fastseg.link(own_study, keep_unlabelled=True)
    fastseg.build(own_table, other)
    prepare = {
        CHANGED: partial(flip, own_study / own_table.links[0].dicom_path),
        RESUMED: partial(interrupt, table, fresh, len(store) * 98 // 100),
    }
    peers = {
        "fastseg.build, 2 threads": partial(fastseg.build, table, fresh, threads=2),
        "again, nothing changed": partial(fastseg.build, table, built, threads=1),
        CHANGED: partial(fastseg.build, own_table, other, threads=1),
        RESUMED: partial(fastseg.build, table, fresh, threads=1),
        "pydicom + PIL + h5py": partial(plain_build, sources, table.classes, fresh),
        "read and write all bytes": copy,
        "the same, but no empty masks": partial(copy, holes=True),
        "no empty masks, 2 threads": partial(copy, holes=True, threads=2),
        "no empty masks, with fsync": partial(copy, holes=True, sync=True),
    }
    base = partial(fastseg.build, table, fresh, threads=1)
    times = in_turns(base, peers, fresh, prepare)
    builds = table_of(rows_of(times, len(store)))

    one, two = (partial(fastseg.verify, store, threads=n) for n in (1, 2))
    seconds = in_turns(one, {"": two}, fresh)[""].sum(1)
    speeds = one().bytes_read / 1e9 / seconds
    size = built.stat().st_size / 1e6
    on_disk = built.stat().st_blocks * 512 / 1e6
    covered = sum(map(np.count_nonzero, store.masks.values()))
    reader = [sys.executable, "-m", "benchmarks.dicom.race", study]
    readers = subprocess.check_output(reader, text=True, cwd=PROJECT)
    return f"""{builds}
`fastseg.verify`: {spread(speeds[0], "{:,.2f}")} GB/s with one thread,
{spread(speeds[1] / 2, "{:,.2f}")} GB/s for each of two. A first build with all kernels
to compile takes {compiling:.1f} s.

{len(store)} images from {study.name}. The store has {size:.0f} MB, {on_disk:.0f} MB of
them on the disk, since empty masks are holes. The loop writes images, masks and
vertices, but no checksums, statistics and metadata; images and vertices are equal,
{differing:,} pixels of masks are not (PIL's rule; ours cover {covered:,}). Page cache
warm, medians and quartiles of {REPEATS} pairs of calls in turns, {usable_cores()} of
{os.cpu_count()} cores ({platform.machine()}), {time.strftime("%Y-%m-%d")}.

From bytes on disk to pixels alone:

{readers}"""


def main():
    """Measure, print and save the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", nargs="?", type=Path)
    parser.add_argument("--no-save", action="store_true", help="print only")
    arguments = parser.parse_args()
    if not arguments.no_save:
        split_page("build")
    os.fsync = timed_fsync
    with tempfile.TemporaryDirectory() as name:
        study = (arguments.study or SUNNYBROOK).resolve()
        if not arguments.study and not study.is_dir():
            study = fastseg.make_phantom(Path(name) / "phantom", **STUDY_PHANTOM)
        text = measure(study, Path(name))
    print(text)
    if not arguments.no_save:
        publish("build", text)


if __name__ == "__main__":
    main()
