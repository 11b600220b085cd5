"""Building a store: beside the loop that people write, and beside the disk's limit.

    python benchmarks/build_speed.py [STUDY]

STUDY is a folder that `fastseg link` understands: by default the real Sunnybrook data
where they are (see tests/conftest.py), else a phantom of that size. The clock of a
shared machine changes from one second to the next: each peer is called right after
`fastseg.build` with one worker, and its ratio is that of these two calls. The tables
are printed, saved to benchmarks/results/build.md and put into the README.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import groupby
from pathlib import Path

import h5py
import numpy as np
import pydicom
from epoch_rate import PROJECT, REAL, put_into_readme
from PIL import Image, ImageDraw

import fastseg
from fastseg.threads import usable_cores

REPEATS, WAITS = 11, []
CHANGED, RESUMED = "again, one image changed", "resumed after 98 %"
FIRST_CALL = """import sys, time, fastseg; from fastseg.ingest.builder import build
table, start = fastseg.link(sys.argv[1]), time.perf_counter()
build(table, sys.argv[2], threads=1), print(time.perf_counter() - start)"""


def plain_build(images, classes, output):
    """Write images, masks and vertices as a script without fastseg does."""
    # Pixels are kept until all shapes are known: faster than to read headers before.
    buckets, rings = defaultdict(list), []
    for path, contours, *_ in images:
        pixels, mask = pydicom.dcmread(path).pixel_array, None
        for label, contour in contours:
            text = contour.read_text(encoding="ascii")
            rings.append(np.array(text.split(), float).reshape(-1, 2))
            drawn = Image.new("L", pixels.shape[::-1], 0)
            ImageDraw.Draw(drawn).polygon(rings[-1].ravel().tolist(), fill=1, outline=1)
            bits = np.asarray(drawn) << classes.index(label)
            mask = bits if mask is None else mask | bits
        buckets[pixels.shape, pixels.dtype].append((pixels, mask))
    with h5py.File(output, "w") as file:
        for (shape, dtype), pairs in buckets.items():
            name, size = f"{shape[0]}x{shape[1]}_{dtype.name}", (len(pairs), *shape)
            stored = file.create_dataset(f"images/{name}", size, dtype)
            masks = file.create_dataset(f"masks/{name}", size, np.uint8)
            for row, (pixels, mask) in enumerate(pairs):
                stored[row] = pixels
                if mask is not None:  # the others are zeros that cost nothing
                    masks[row] = mask
        file["contours/points"] = np.concatenate(rings)
        file["contours/offsets"] = np.cumsum([0, *map(len, rings)])


def differing_pixels(store, path):
    """Compare what the loop wrote with our store; return how many pixels of masks."""
    with h5py.File(path) as file:
        for name in store.images:
            np.testing.assert_array_equal(file["images"][name], store.images[name])
        ours = store.contours["points"]
        np.testing.assert_array_equal(file["contours/points"], ours)
        pairs = [(file["masks"][name][...], ours) for name, ours in store.masks.items()]
    return sum(np.count_nonzero(theirs != ours) for theirs, ours in pairs)


def plain_copy(images, output, *, holes=False, sync=False, threads=1):
    """Read all sources and write as many bytes, but for empty masks if holes may be."""
    image_at, mask_at = 0, sum(image for *_, image, _ in images)
    zeros, places = memoryview(bytes(max(mask for *_, mask in images))), []
    for *_, image, mask in images:
        places.append((image_at, mask_at))
        image_at, mask_at = image_at + image, mask_at + mask

    def copy(part):
        with output.open("r+b", buffering=0) as file:
            for (path, contours, image, mask), (at, behind) in part:
                for source in (*(contour for _, contour in contours), path):
                    handle = os.open(source, os.O_RDONLY)
                    data = os.read(handle, os.fstat(handle).st_size)
                    os.close(handle)
                file.seek(at)
                file.write(memoryview(data)[-image:])
                if contours or not holes:
                    file.seek(behind)
                    file.write(zeros[:mask])

    with output.open("wb") as file:
        file.truncate(mask_at)
        pairs = list(zip(images, places, strict=True))
        size = -(-len(pairs) // threads)
        parts = [pairs[k : k + size] for k in range(0, len(pairs), size)]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(copy, parts))
        if sync:
            os.fsync(file.fileno())


def timed_fsync(handle, fsync=os.fsync):
    """Wait as os.fsync does, and note how long."""
    start = time.perf_counter()
    fsync(handle)
    WAITS.append(time.perf_counter() - start)


def flip(path):
    """Change a bit of a file's last pixel."""
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


def interrupt(table, output, place):
    """Begin a build that ends before an image, as by a crash."""

    def stop(items, label, total):
        for k, item in enumerate(items):
            if (label, k) == ("build", place):
                raise InterruptedError
            yield item

    with suppress(InterruptedError):
        fastseg.build(table, output, progress=stop)


def timed(work, fresh, prepare=None):
    """Return seconds of a call that may write a new file: in os.fsync, and the rest."""
    fresh.unlink(missing_ok=True)
    if prepare:
        prepare()
    WAITS.clear()
    start = time.perf_counter()
    work()
    return sum(WAITS), time.perf_counter() - start - sum(WAITS)


def in_turns(base, peers, fresh, prepare=None):
    """Return of each peer its seconds (base or peer, fsync or rest, repeat)."""
    times = {name: [] for name in peers}
    for _ in range(1 + REPEATS):  # the first time warms
        for name, work in peers.items():
            before = (prepare or {}).get(name)
            times[name].append((timed(base, fresh), timed(work, fresh, before)))
    return {name: np.array(t[1:]).transpose(1, 2, 0) for name, t in times.items()}


def spread(values, digits=2):
    """Return median and quartiles in words."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return f"{median:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def measure(study, folder):
    """Yield the lines of the tables; folder is for temporary files."""
    fresh, kept = folder / "fresh.h5", folder / "kept.h5"
    settings = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "numba")}
    command = [sys.executable, "-c", FIRST_CALL, study, fresh]
    compiling = float(subprocess.check_output(command, env=settings))
    table = fastseg.link(study, keep_unlabelled=True)
    store = fastseg.open(fastseg.build(table, kept).path)
    images = []
    groups = groupby(table.links, key=lambda link: link.dicom_path)
    for (path, links), item in zip(groups, store, strict=True):
        files = [(x.label, table.base / x.contour_path) for x in links if x.label]
        images.append((table.base / path, files, item.image.nbytes, item.mask.nbytes))
    plain_build(images, table.classes, fresh)
    differing = differing_pixels(store, fresh)

    copy = partial(plain_copy, images, fresh)
    own = shutil.copytree(study, folder / "study")
    other = fastseg.link(own, keep_unlabelled=True)
    fastseg.build(other, folder / "other.h5")
    prepare = {
        CHANGED: partial(flip, own / other.links[0].dicom_path),
        RESUMED: partial(interrupt, table, fresh, len(store) * 98 // 100),
    }
    peers = {
        "fastseg.build, 2 threads": partial(fastseg.build, table, fresh, threads=2),
        "again, nothing changed": partial(fastseg.build, table, kept, threads=1),
        CHANGED: partial(fastseg.build, other, folder / "other.h5", threads=1),
        RESUMED: partial(fastseg.build, table, fresh, threads=1),
        "pydicom + PIL + h5py": partial(plain_build, images, table.classes, fresh),
        "read and write all bytes": copy,
        "the same, but no empty masks": partial(copy, holes=True),
        "no empty masks, 2 threads": partial(copy, holes=True, threads=2),
        "no empty masks, with fsync": partial(copy, holes=True, sync=True),
    }
    base = partial(fastseg.build, table, fresh, threads=1)
    times = in_turns(base, peers, fresh, prepare)
    ours = np.concatenate([pair[0] for pair in times.values()], axis=-1)
    yield "| | µs an image | in fsync | ratio | without fsync |\n|---|---|---|---|---|"
    for name, (our, its) in {"fastseg.build, 1 worker": (ours, ours), **times}.items():
        micro = 1e6 / len(store) * its
        ratios = [spread(its.sum(0) / our.sum(0)), spread(its[1] / our[1])]
        cells = [name, spread(micro.sum(0), 0), f"{np.median(micro[0]):,.0f}"]
        yield f"| {' | '.join(cells + (['1', '1'] if its is ours else ratios))} |"

    one, two = (partial(fastseg.verify, store, threads=n) for n in (1, 2))
    speeds = one().bytes_read / 1e9 / in_turns(one, {"": two}, fresh)[""].sum(1)
    size, on_disk = kept.stat().st_size / 1e6, kept.stat().st_blocks * 512 / 1e6
    covered = sum(map(np.count_nonzero, store.masks.values()))
    yield f"""
`fastseg.verify`: {spread(speeds[0])} GB/s with one thread, {spread(speeds[1] / 2)} GB/s
for each of two. A first build with all kernels to compile takes {compiling:.1f} s.

{len(store)} images from {study.name}. The store has {size:.0f} MB, {on_disk:.0f} MB of
them on the disk, since empty masks are holes. The loop writes images, masks and
vertices, but no checksums, statistics and facts; images and vertices are equal,
{differing:,} pixels of masks are not (PIL's rule; ours cover {covered:,}). Page cache
warm, medians and quartiles of {REPEATS} pairs of calls in turn, {usable_cores()} of
{os.cpu_count()} cores ({platform.machine()}), {time.strftime("%Y-%m-%d")}.

From bytes on disk to pixels alone:
"""
    reader = [sys.executable, PROJECT / "benchmarks" / "dicom_speed.py", study]
    output = subprocess.check_output(reader, text=True)
    yield output[output.index("|") :]


def main():
    """Measure, print and save the tables."""
    os.fsync = timed_fsync
    with tempfile.TemporaryDirectory() as name:
        study = Path(sys.argv[1]) if sys.argv[1:] else REAL / "sunnybrook"
        if not sys.argv[1:] and not study.is_dir():
            study = Path(name) / "phantom"
            fastseg.make_phantom(study, patients=5, sizes=256, slices=10, phases=10)
        text = "\n".join(measure(study, Path(name)))
    print(text)
    (PROJECT / "benchmarks/results/build.md").write_text(text, encoding="utf-8")
    put_into_readme("build", text)


if __name__ == "__main__":
    main()
