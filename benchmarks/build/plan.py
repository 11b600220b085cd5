"""The plan of a million images from a links table that has all columns.

    python -m benchmarks.build.plan [ROWS] [--no-save]

No image exists: a plan that touched one would reject it. Reading the table and planning
are timed in a process of their own, which holds Python, numpy and this work.

The table is printed, saved to benchmarks/results/plan.md and put into
docs/benchmarks.md.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.inputs import PROJECT, SIDE
from benchmarks.tables import publish, table_of
from fastseg.links import COLUMNS

ROWS = 1_000_000
REPEATS = 3
# A patient has one series: so many times of so many slices.
TIMES, SLICES = 20, 12

# Prints seconds of reading and of planning, the peak of resident memory in megabytes,
# and the numbers of images and rejects.
PLANNING = """
import sys, time
from fastseg.bounds import MAX_PIXEL_BYTES
from fastseg.ingest.plan import plan_build
from fastseg.links import LinkTable
from fastseg.paths import Paths
from fastseg.progress import silent
start = time.perf_counter()
table = LinkTable.load(sys.argv[1])
read = time.perf_counter()
plan, rejects = plan_build(
    table, Paths(table.base), MAX_PIXEL_BYTES, False, 1, silent
)
end = time.perf_counter()
with open("/proc/self/status") as status:
    (peak,) = [line.split()[1] for line in status if line.startswith("VmHWM")]
print(read - start, end - read, int(peak) / 1024, len(plan), len(rejects))
"""


def write_table(path, rows, side=SIDE):
    """Write a links table of images and contours that are not there.

    side : pixels of the images in both directions
    """
    with path.open("w", newline="\n") as file:
        file.write(",".join(COLUMNS) + "\n")
        for k in range(rows):
            patient, image = divmod(k, TIMES * SLICES)
            time, slice_ = divmod(image, SLICES)
            file.write(
                f"SCD{patient:07},dicoms/SCD{patient:07}/{image}.dcm,"
                f"contourfiles/SC-{patient}/IM-0001-{image:04}-icontour-manual.txt,0,"
                f"icontour,,sunnybrook,.,1.2.840.113619.2.55.3.{patient},"
                f"{10 * slice_ - 54.125},{time},{side},{side},int16\n"
            )


def measure(path, rows):
    """Return seconds of reading and planning, and megabytes, of a new process."""
    command = [sys.executable, "-c", PLANNING, str(path)]
    run = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=PROJECT
    )
    *figures, images, rejects = map(float, run.stdout.split())
    assert (images, rejects) == (rows, 0)
    return figures


def main():
    """Measure, print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("rows", nargs="?", type=int, default=ROWS)
    parser.add_argument("--no-save", action="store_true", help="print only")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "links.csv"
        write_table(path, arguments.rows)
        figures = [measure(path, arguments.rows) for _ in range(REPEATS)]
    reads, plans, peaks = zip(*figures, strict=True)
    totals = [read + plan for read, plan in zip(reads, plans, strict=True)]
    rows = [
        (f"{arguments.rows:,} rows, all columns", "measured", "must stay under"),
        ("read the table", f"{statistics.median(reads):.1f} s", ""),
        ("plan", f"{statistics.median(plans):.1f} s", ""),
        ("both", f"{statistics.median(totals):.1f} s", "60 s"),
        ("resident memory, at most", f"{max(peaks):.0f} MB", "500 MB"),
    ]
    text = (
        f"{table_of(rows)}\nPython {platform.python_version()}, {platform.system()} "
        f"{platform.machine()}, {os.cpu_count()} cores.\n"
    )
    print(text)
    if not arguments.no_save:
        publish("plan", text)


if __name__ == "__main__":
    main()
