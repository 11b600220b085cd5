"""Builds by parts: what parts cost, and what processes gain, beside a build at once.

    python -m benchmarks.build.parts [--images N] [--links N] [--only NAME ...]
        [--no-save]

overhead  : plan, 64 parts and finish against one build, each in one process with one
    thread, of N small images (20 000); and what a process costs before its part begins
plan      : the plan of N links (1 000 000) of images that are not there, and how long a
    part takes to open it
finish    : N items (1 000 000) are joined. No image is read: journals repeat the
    records of a few images under other names, with other checksums. Their pixels are
    few, as `finish` does not read them; bytes at the ends of blocks, which it writes,
    are as many as if there were more
processes : two processes against one, of images that only pydicom reads, under the lock
    of the interpreter. (Compressed images are decoded in processes of their own, by one
    build as by several.)

Each step runs in a process of its own, so that its processor time and the peak of its
memory are its own. Overhead is a ratio of processor time, because others may share the
machine; two processes are a ratio of time, so nobody may share it then. Written files
are removed; the largest, of `finish`, take 15 GB.

The table is printed and, if all is measured, saved to benchmarks/results/parts.md and
put into docs/benchmarks.md.
"""

import argparse
import datetime
import io
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pydicom

import fastseg
from benchmarks.build.memory import draw, link_copies
from benchmarks.build.plan import write_table
from benchmarks.inputs import PROJECT
from benchmarks.tables import publish, split_page, table_of
from fastseg.ingest.part_journal import Journals, JournalWriter, Made
from fastseg.ingest.parts import blocks_of
from fastseg.ingest.plan_folder import PlanFolder
from fastseg.links import LinkTable
from fastseg.store.writing.records import Records, as_texts
from fastseg.store.writing.shared_pixels import SharedWriter

IMAGES, LINKS, PARTS = 20_000, 1_000_000, 64
# Images that pydicom reads, for each of the overhead.
DECODED = 0.2
SIDE = 64
REPEATS = 3
# Images of which `finish` repeats the records: those of one block. And the side of
# those that it joins: the pixels of a block are some pages, most of them at its ends.
REPEATED = 128
TINY = 16
# Runs one line, and prints its seconds, those of the processor for the whole process
# and its children, and the peak of memory in megabytes.
TIMED = """
import resource, sys, time, fastseg
from pathlib import Path
from fastseg.ingest.plan_folder import PlanFolder
from fastseg.tasks import process_pool
if __name__ == "__main__":
    table, output = sys.argv[1:3]
    plan = output + ".plan"
    start = time.perf_counter()
    {line}
    seconds = time.perf_counter() - start
    who = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    used = [resource.getrusage(k) for k in who]
    cpu = sum(use.ru_utime + use.ru_stime for use in used)
    # Unlike ru_maxrss, this does not begin with the memory of the process that forked.
    status = Path("/proc/self/status").read_text()
    (peak,) = [line.split()[1] for line in status.splitlines() if "VmHWM" in line]
    print(seconds, cpu, int(peak) / 1024)
"""
START = "fastseg.build_part"
BUILD = "fastseg.build(table, output)"
PLAN = "fastseg.plan_parts(table, output)"
ALL_PARTS = "[fastseg.build_part(plan, f'{k}/COUNT') for k in range(1, COUNT + 1)]"
FINISH = "fastseg.finish_parts(plan)"
OPEN = "next(iter(PlanFolder(Path(plan)).read_blocks(BLOCK, BLOCK + 1)))"
POOL = """with process_pool({count}) as pool:
        list(pool.map(abs, range({count})))  # processes are there
        start = time.perf_counter()
        fastseg.build(table, output, executor=pool, threads={threads})
        seconds = time.perf_counter() - start
    start = time.perf_counter() - seconds"""


def run(line, table, output):
    """Run a line in a new process; return its seconds, processor time and megabytes."""
    script = table.parent / "script.py"
    script.write_text(TIMED.replace("{line}", line), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), str(table), str(output)],
        capture_output=True,
        text=True,
        check=True,
        cwd=PROJECT,
    )
    return [float(text) for text in done.stdout.split()]


def overhead(root, count, repeats):
    """Yield rows: 64 parts against one build, and the start of a process."""
    study = fastseg.make_phantom(
        root / "study", patients=1, sizes=SIDE, slices=1, phases=2
    )
    link = fastseg.link(study).links[0]
    image = (study / link.dicom_path).read_bytes()
    ring = (study / link.contour_path).read_bytes()
    table = link_copies(root, image, ring, count)
    output = root / "store.h5"
    run(BUILD, table, output)  # compiles, and the files are in memory
    expected = output.read_bytes()
    start = statistics.median(run(START, table, output)[1] for _ in range(repeats))
    figures = []
    for _ in range(repeats):
        output.unlink()
        whole = run(BUILD, table, output)[1]
        output.unlink()
        lines = PLAN, ALL_PARTS.replace("COUNT", str(PARTS)), FINISH
        steps = [run(line, table, output)[1] for line in lines]
        assert output.read_bytes() == expected
        figures.append((whole - start, *(cpu - start for cpu in steps)))
    whole, *steps = map(statistics.median, zip(*figures, strict=True))
    ratio = statistics.median((sum(f[1:]) / f[0]) - 1 for f in figures)
    yield (
        f"{count:,} images of {SIDE} × {SIDE} at once",
        f"{whole:.1f} s of processor time",
        "",
    )
    yield (
        f"plan, {PARTS} parts and finish",
        f"{steps[0]:.1f} + {steps[1]:.1f} + {steps[2]:.1f} s, {ratio:+.0%}",
        "+15 %",
    )
    yield "each process, until it begins", f"{start:.2f} s more", ""


def plan(root, count, _):
    """Yield rows: planning, and opening the plan in its middle."""
    table = root / "links.csv"
    write_table(table, count)
    output = root / "store.h5"
    seconds, cpu, peak = run(PLAN, table, output)
    size = sum(path.stat().st_size for path in (root / "store.h5.plan").glob("b*"))
    yield (
        f"plan of {count:,} links, {size / 1e6:.0f} MB",
        f"{seconds:.1f} s ({cpu:.1f} of the processor), {peak:.0f} MB of memory",
        "60 s, 500 MB",
    )
    block = PlanFolder(root / "store.h5.plan").blocks // 2
    line = OPEN.replace("BLOCK", str(block))
    seconds, _, _ = run(line, table, output)
    yield "a part opens it", f"{seconds:.3f} s", "0.5 s"
    shutil.rmtree(root / "store.h5.plan")


def finish(root, count, _):
    """Yield a row: `finish` of items that no file was read for."""
    drawn = root / "drawn.h5"
    small = link_copies(root, *draw(root), REPEATED)
    made = fastseg.plan_parts(small, drawn)
    fastseg.build_part(made, "1/1")
    folder = PlanFolder(made)
    journals = Journals(folder.journals, folder.identity, folder.classes)
    with closing(journals):
        template = journals.read(0)
    table = root / "links.csv"
    write_table(table, count, TINY)
    output = root / "store.h5"
    run(PLAN, table, output)
    write_journals(PlanFolder(root / "store.h5.plan"), template)
    journals = (root / "store.h5.plan" / "journals").iterdir()
    size = sum(path.stat().st_size for path in journals)
    seconds, cpu, peak = run(FINISH, table, output)
    with fastseg.open(output) as store:
        assert len(store) == count
        assert len({store[0].meta["image_xxh3"], store[count - 1].meta["image_xxh3"]})
    yield (
        f"finish of {count:,} items, {size / 1e9:.1f} GB of journals",
        f"{seconds:.1f} s ({cpu:.1f} of the processor), {peak:.0f} MB of memory",
        "60 s, 500 MB",
    )
    output.unlink()


def write_journals(folder, template):
    """Write the journals of all parts of a plan, from the records of other images."""
    for k in range(1, PARTS + 1):
        first, stop = blocks_of(f"{k}/{PARTS}", folder.blocks)
        journal = JournalWriter(
            folder.journals, folder.identity, f"{k}/{PARTS}", first, stop
        )
        with closing(journal):
            for number, block in enumerate(folder.read_blocks(first, stop), first):
                journal.append(number, repeated(folder, block, template))
            journal.flush()


def repeated(folder, block, template):
    """Return a block as if it was made, with the records of other images."""
    count = len(block)
    records = template.records.pick(np.arange(count) % template.records.items)
    links = [rows[0] for rows in block.links]
    paths = [path for link in links for path in (link.dicom_path, link.contour_path)]
    stamps = records.stamps.copy()
    stamps[:, 0] += block.items.repeat(2)
    stamps[:, -1] = 2 * block.items.repeat(2) + np.tile([0, 1], count)
    meta = records.meta.copy()
    for name in ("image_xxh3", "mask_xxh3", "inputs_xxh3"):
        meta[name] += block.slots.links
    meta["time"] = [link.time for link in links]
    meta["origin_mm"][:, 2] = [link.position_mm for link in links]
    series = as_texts([link.series for link in links])
    records = records._replace(
        links=block.slots.links,
        patient=as_texts([link.patient for link in links]),
        series=series,
        sop_instance=np.char.add(series, np.char.mod(b".%d", block.items)),
        frame_of_reference=series,
        stamps=stamps,
        path=as_texts(paths),
        xxh3=records.xxh3 + block.slots.links.repeat(2),
        meta=meta,
    )
    assert isinstance(records, Records)
    pixels = SharedWriter(
        *(folder.offsets, folder.shape, block.slots, None), is_new=True
    )
    edges = [(offset, bytes(data)) for offset, data in pixels.edges.items()]
    return Made(np.arange(count), records, {}, edges)


def processes(root, count, repeats):
    """Yield rows: two processes, and two threads, against one."""
    image, ring = draw(root)
    table = LinkTable.load(link_copies(root, big_endian(image), ring, count))
    # As `fastseg.link` does, say what is in the headers: the plan reads none.
    dataset = pydicom.dcmread(io.BytesIO(image))
    header = {
        "rows": dataset.Rows,
        "columns": dataset.Columns,
        "dtype": dataset.pixel_array.dtype.name,
    }
    links = [
        link._replace(series=dataset.SeriesInstanceUID, position_mm=float(k), **header)
        for k, link in enumerate(table.links)
    ]
    table = LinkTable(base=root, links=links).save(root / "links.csv", force=True)
    output = root / "store.h5"
    gains = []
    for _ in range(repeats):
        seconds = []
        for count_of_processes, threads in ((1, 1), (2, 1), (1, 2)):
            line = POOL.format(count=count_of_processes, threads=threads)
            seconds.append(run(line, table, output)[0])
            output.unlink()
        gains.append((seconds[0] / seconds[1], seconds[0] / seconds[2]))
    by_processes, by_threads = map(statistics.median, zip(*gains, strict=True))
    yield (
        f"two processes against one, {count:,} images that pydicom reads",
        f"{by_processes:.2f} ×",
        "at least 1.8 ×",
    )
    yield "two threads of one process", f"{by_threads:.2f} ×", ""


def big_endian(image):
    """Return an image file in big-endian order, which only pydicom reads."""
    dataset = pydicom.dcmread(io.BytesIO(image))
    dataset.PixelData = dataset.pixel_array.byteswap().tobytes()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
    file = io.BytesIO()
    pydicom.dcmwrite(
        *(file, dataset),
        implicit_vr=False,
        little_endian=False,
        force_encoding=True,
    )
    return file.getvalue()


def main():
    """Measure what is asked for, and print, and perhaps save, a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--links", type=int, default=LINKS)
    work = {
        "overhead": overhead,
        "plan": plan,
        "finish": finish,
        "processes": processes,
    }
    parser.add_argument("--only", nargs="*", choices=work, default=list(work))
    parser.add_argument("--repeats", type=int, default=REPEATS, help="of ratios")
    parser.add_argument("--no-save", action="store_true", help="print only")
    arguments = parser.parse_args()
    saves = not arguments.no_save and arguments.only == list(work)
    if saves:
        split_page("parts")
    counts = {
        "overhead": arguments.images,
        "plan": arguments.links,
        "finish": arguments.links,
        "processes": max(10, int(arguments.images * DECODED)),
    }
    rows = [("step", "measured", "must stay under")]
    for name in arguments.only:
        with tempfile.TemporaryDirectory(prefix="fastseg-parts-") as folder:
            rows += work[name](Path(folder), counts[name], arguments.repeats)
    text = (
        f"{table_of(rows)}\nPython {platform.python_version()}, {platform.system()} "
        f"{platform.machine()}, {os.cpu_count()} cores, "
        f"{datetime.date.today().isoformat()}.\n"
    )
    print(text)
    if saves:
        publish("parts", text)


if __name__ == "__main__":
    main()
