"""Builds by parts: what parts cost, and what processes gain, beside a build at once.

    python -m benchmarks.build.parts [--images N] [--links N] [--only NAME ...]

overhead  : 64 parts, plan and finish against one build, each in one process with one
    thread, of N small images (20 000)
plan      : the plan of N links (1 000 000) of images that are not there, and how long a
    part takes to open it
finish    : the same images as `overhead`, joined: seconds and memory for each image
processes : two processes against one, of images that only pydicom decodes

Each build runs in a process of its own, so that its processor time and the peak of its
memory are its own. Ratios are of processor time where one process works, because others
may share the machine, and of time where two do. Written files are removed.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pydicom

import fastseg
from benchmarks.build.memory import draw, link_copies
from benchmarks.build.plan import write_table
from benchmarks.inputs import PROJECT
from benchmarks.tables import table_of
from fastseg.links import LinkTable

IMAGES, LINKS, PARTS = 20_000, 1_000_000, 64
# Images that pydicom decodes, per image of the other measurements: 10 ms each.
DECODED = 0.1
SIDE = 64
# Runs one line, and prints seconds, seconds of the processor with its children, and the
# peak of memory in megabytes.
TIMED = """
import resource, sys, time, fastseg
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
    print(seconds, cpu, used[0].ru_maxrss / 1024)
"""
BUILD = "fastseg.build(table, output)"
PLAN = "fastseg.plan_parts(table, output)"
ALL_PARTS = "[fastseg.build_part(plan, f'{k}/COUNT') for k in range(1, COUNT + 1)]"
FINISH = "fastseg.finish_parts(plan)"
OPEN = "next(iter(PlanFolder(__import__('pathlib').Path(plan)).read_blocks(0, 1)))"
POOL = """with process_pool({count}) as pool:
        list(pool.map(abs, range({count})))  # processes are there
        start = time.perf_counter()
        fastseg.build(table, output, executor=pool)
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


def small_images(root, count):
    """Return the table of copies of a small image, each with another pixel."""
    study = fastseg.make_phantom(
        root / "study", patients=1, sizes=SIDE, slices=1, phases=2
    )
    link = fastseg.link(study).links[0]
    image = (study / link.dicom_path).read_bytes()
    return link_copies(root, image, (study / link.contour_path).read_bytes(), count)


def overhead(root, count):
    """Yield rows: 64 parts against one build, and `finish`."""
    table = small_images(root, count)
    output = root / "store.h5"
    run(BUILD, table, output)  # compiles, and the files are in memory
    expected = output.read_bytes()
    output.unlink()
    _, whole, _ = run(BUILD, table, output)
    output.unlink()
    _, planned, _ = run(PLAN, table, output)
    _, made, _ = run(ALL_PARTS.replace("COUNT", str(PARTS)), table, output)
    seconds, joined, peak = run(FINISH, table, output)
    assert output.read_bytes() == expected
    output.unlink()
    ratio = (planned + made + joined) / whole - 1
    yield f"{PARTS} parts, {count:,} images: more than at once", f"{ratio:.0%}", "15 %"
    yield f"finish of {count:,} images", f"{seconds:.1f} s, {peak:.0f} MB", ""


def plan(root, count):
    """Yield rows: planning, and opening the plan."""
    table = root / "links.csv"
    write_table(table, count)
    output = root / "store.h5"
    seconds, _, peak = run(PLAN, table, output)
    yield f"plan of {count:,} links", f"{seconds:.1f} s, {peak:.0f} MB", "60 s, 500 MB"
    seconds, _, _ = run(OPEN, table, output)
    yield "a part opens it", f"{seconds:.2f} s", "0.5 s"
    shutil.rmtree(root / "store.h5.plan")


def processes(root, count):
    """Yield a row: two processes against one, of images that pydicom decodes."""
    table = LinkTable.load(link_copies(root, *draw(root), count))
    for link in table.links:
        path = root / link.dicom_path
        image = pydicom.dcmread(path)
        image.compress(pydicom.uid.RLELossless)
        image.save_as(path)
    output = root / "store.h5"
    seconds = []
    for number in (1, 2):
        seconds.append(run(POOL.format(count=number), root / "links.csv", output)[0])
        output.unlink()
    gain = seconds[0] / seconds[1]
    yield f"two processes against one, {count:,} RLE images", f"{gain:.2f} x", "1.8 x"


def main():
    """Measure what is asked for, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--links", type=int, default=LINKS)
    work = {"overhead": overhead, "plan": plan, "processes": processes}
    parser.add_argument("--only", nargs="*", choices=work, default=list(work))
    arguments = parser.parse_args()
    counts = {
        "overhead": arguments.images,
        "plan": arguments.links,
        "processes": max(10, int(arguments.images * DECODED)),
    }
    rows = [("measured", "", "bar")]
    for name in arguments.only:
        with tempfile.TemporaryDirectory(prefix="fastseg-parts-") as folder:
            rows += work[name](Path(folder), counts[name])
    print(table_of(rows))


if __name__ == "__main__":
    main()
