"""Link and build CT series with structure sets, beside reading and writing their bytes.

    python -m benchmarks.structure_sets.build [--series 100] [--slices 100] [--side 512]
        [--repeats 3] [--settle 30] [--folder FOLDER] [--no-save]

At full size, 5.4 GB are read and 7.9 GB written, so FOLDER needs 14 GB: the series, and
a store or a copy. The other side reads each file once and writes as many bytes of
images and masks as the store holds, by as many threads; it knows beforehand where each
belongs. Both wait until the bytes are on the disk. They take turns, and the first turn
of each is not counted; files are in the page cache as far as they fit. A build runs in
a process of its own, so that the peak of resident memory is that of linking and
building.

What a turn has written is removed before the next one, and a virtual machine may return
the memory to its host, in seconds (4 GB in 14 s on one); writing then takes several
times as long until it is back. Each turn waits for that, or a side that writes at once
would be faster than one that links first.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

import fastseg
from benchmarks.build.race import Source, plain_copy
from benchmarks.inputs import PROJECT
from benchmarks.structure_sets.clinic import ORGANS, OUTLINED, make_clinic
from benchmarks.tables import publish, split_page, spread, table_of

# Links and builds; prints seconds of both, numbers of samples, links and rejects, and
# the peak of resident memory in megabytes.
LINK_AND_BUILD = """
import json, sys, time, fastseg
root, output, threads = sys.argv[1:]
start = time.perf_counter()
table = fastseg.link(root, slices="series")
linked = time.perf_counter()
report = fastseg.build(table, output, threads=int(threads))
built = time.perf_counter()
with open("/proc/self/status") as status:
    (peak,) = [int(x.split()[1]) / 1024 for x in status if x.startswith("VmHWM")]
rejects = len(table.rejects) + len(report.rejects)
print(json.dumps([linked - start, built - linked, report.samples, report.links, rejects,
                  peak]))
"""
THREADS = (1, 2)


def link_and_build(root, output, threads, expected):
    """Return seconds of linking and building, and megabytes, of a new process."""
    command = [sys.executable, "-c", LINK_AND_BUILD, root, output, threads]
    run = subprocess.run(
        [*map(str, command)], stdout=subprocess.PIPE, text=True, check=True, cwd=PROJECT
    )
    linking, building, samples, links, rejects, peak = json.loads(run.stdout)
    assert (samples, links, rejects) == (*expected, 0), (samples, links, rejects)
    return linking, building, peak


def sources_of(root):
    """Return what is read and written: the Source of each image.

    A structure set is read once, with the first image of its series.
    """
    table = fastseg.link(root, slices="series")
    sources = {}
    sets = set()
    for link in table.links:
        path = table.base / link.dicom_path
        contours = []
        if link.contour_path not in sets:
            sets.add(link.contour_path)
            contours.append((link.label, table.base / link.contour_path))
        image_bytes = link.rows * link.columns * np.dtype(link.dtype).itemsize
        sources.setdefault(
            path, Source(path, [], image_bytes, link.rows * link.columns)
        )
        sources[path].contours.extend(contours)
    return list(sources.values())


def timed(work, outputs, settle):
    """Return the seconds of a call and what it returns.

    outputs : files that are removed first
    settle  : seconds to wait then
    """
    for path in outputs:
        path.unlink(missing_ok=True)
    os.sync()
    time.sleep(settle)
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def measure(root, folder, expected, repeats, settle):
    """Return {threads: float64 (repeats, 4)}, and the path of the last store.

    The columns are seconds of the copy, of link and of build, and megabytes.
    """
    outputs = copy, store = folder / "copy", folder / "store.h5"
    sources = sources_of(root)
    figures = {threads: [] for threads in THREADS}
    for _ in range(1 + repeats):
        for threads, rows in figures.items():
            reading_and_writing = partial(
                plain_copy, sources, copy, sync=True, threads=threads
            )
            own = partial(link_and_build, root, store, threads, expected)
            seconds, _ = timed(reading_and_writing, outputs, settle)
            rows.append((seconds, *timed(own, outputs, settle)[1]))
    return {threads: np.array(rows[1:]) for threads, rows in figures.items()}, store


def rows_of(figures):
    """Yield the rows of the table."""
    yield "", "seconds", "of reading and writing", "peak (MB)"
    for threads, rows in figures.items():
        copy, link, build, peak = rows.T
        words = f"{threads} thread{'s' * (threads > 1)}"
        yield f"read and write all bytes, {words}", spread(copy, "{:.2f}"), "1", ""
        yield f"link, {words}", spread(link, "{:.2f}"), "", ""
        yield f"build, {words}", spread(build, "{:.2f}"), "", ""
        yield (
            f"**link and build, {words}**",
            spread(link + build, "{:.2f}"),
            spread((link + build) / copy, "{:.2f}"),
            f"{peak.max():.0f}",
        )


def main():
    """Make the series, measure, print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--series", type=int, default=100)
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--settle", type=float, default=30, help="seconds between turns"
    )
    parser.add_argument("--folder", type=Path, help="where the files are made")
    parser.add_argument("--no-save", action="store_true", help="print only")
    arguments = parser.parse_args()
    if not arguments.no_save:
        split_page("structure_sets_build")
    images = arguments.series * arguments.slices
    outlined = arguments.series * min(arguments.slices, OUTLINED) * len(ORGANS)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        root = folder / "clinic"
        read = make_clinic(root, arguments.series, arguments.slices, arguments.side)
        figures, store = measure(
            *(root, folder, (images, outlined), arguments.repeats, arguments.settle)
        )
        written = store.stat().st_blocks * 512
    side = arguments.side
    text = (
        f"{table_of(rows_of(figures))}\n{arguments.series} CT series of "
        f"{arguments.slices} slices of {side} × {side}, each with a structure set of "
        f"{outlined // arguments.series} contours of 100 vertices: {read / 1e9:.1f} GB "
        f"are read, {written / 1e9:.1f} GB are written and waited for. Median and "
        f"quartiles of {arguments.repeats} turns on {os.cpu_count()} cores "
        f"({platform.machine()}), {time.strftime('%Y-%m-%d')}.\n"
    )
    print(text)
    if not arguments.no_save:
        publish("structure_sets_build", text)


if __name__ == "__main__":
    main()
