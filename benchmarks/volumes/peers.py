"""Patches of volumes: CPU time for one, by each tool, one thread each.

    python -m benchmarks.volumes.peers [--rounds 15] [--count 8] [--python PYTHON]
        [--folder FOLDER] [--no-save]

Volumes of 100 x 512 x 512, int16 with five classes, lie in a store; patches.py says
what each tool makes of them. A tool works in a process of its own, with the Python of
an environment that has it: by default this one, for which `make bench-volumes` installs
all. First, all make the same patches, whose middles must have the same mean, deviation
and area of organs. Then they take turns, in each of which they make `count` other
patches; ratios are those within a turn. Files are in the page cache, and times are CPU
time.

FOLDER must have 1 GB free; by default it is that for temporary files.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.inputs import PROJECT
from benchmarks.tables import publish, split_page, spread, table_of
from benchmarks.volumes.patches import (
    ANY_AXIS,
    BATCH,
    CROP,
    IN_PLANE,
    OURS,
    SHAPE,
    TOOLS,
)
from benchmarks.volumes.study import make_study

TASKS = (CROP, IN_PLANE, ANY_AXIS)
# Sides that run in this environment, whatever the peers' is.
OWN = {OURS, "bare gather", "numpy"}
PACKAGES = ("torch", "batchgeneratorsv2", "monai", "torchio")
VOLUMES, SLICES, SIDE = 4, 100, 512
CHECKED = 64
# How far the middles of patches may differ from those of the first side of a task: in
# the mean, as a fraction of the deviation, and as a fraction of the area of organs.
# Sides draw other numbers, and some draw logarithms of scales and gammas.
MEANS, DEVIATIONS, AREAS = 0.05, 0.2, 0.2


class Tool:
    """A process of patches.py.

    tasks   : what it can do
    missing : the package that its environment lacks, None if it has all
    """

    def __init__(self, name, python, study):
        command = [python, Path(__file__).with_name("patches.py"), name, study]
        self.process = subprocess.Popen(
            [*map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
        )
        self.name = name
        answer = self._answer()
        self.tasks = answer.get("tasks", [])
        self.missing = answer.get("missing")

    def make(self, task, count, seed, is_measured=False):
        """Return what patches.py answers."""
        asked = {"task": task, "count": count, "seed": seed, "is_measured": is_measured}
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        return self._answer()

    def close(self):
        """End the process."""
        self.process.stdin.close()
        self.process.wait()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name}: patches.py ended; start it alone to see why")
        return json.loads(line)


def check(task, tools):
    """Compare the moments of all tools; raises AssertionError."""
    expected = None
    for tool in tools:
        moments = tool.make(task, CHECKED, 0, is_measured=True)["moments"]
        mean, deviation, area = moments
        words = f"mean {mean:.3f}, deviation {deviation:.3f}, area {area:.3f}"
        print(f"{task}, {tool.name}: {words}", flush=True)
        expected = expected or moments
        assert abs(mean - expected[0]) < MEANS, (task, tool.name)
        assert abs(deviation / expected[1] - 1) < DEVIATIONS, (task, tool.name)
        assert abs(area / expected[2] - 1) < AREAS, (task, tool.name)


def race(task, tools, rounds, count):
    """Let tools take turns; return milliseconds per patch and turn, by tool."""
    figures = {tool.name: [] for tool in tools}
    for turn in range(1, rounds + 1):
        for tool in tools:
            figures[tool.name].append(tool.make(task, count, turn)["ms"])
    return {name: np.array(values) for name, values in figures.items()}


def measure(tools, rounds, count):
    """Check and time all tasks; return {task: {tool: milliseconds}}."""
    figures = {}
    for task in TASKS:
        able = [tool for tool in tools if task in tool.tasks]
        if able:
            check(task, able)
            figures[task] = race(task, able, rounds, count)
    return figures


def rows_of(figures):
    """Yield the rows of the table, the fastest of a task first."""
    yield (
        "task",
        "",
        "ms of CPU time (median, quartiles)",
        "times the fastest",
    )
    for task, own in figures.items():
        names = sorted(own, key=lambda name: np.median(own[name]))
        shown = task
        for name in names:
            ratio = spread(own[name] / own[names[0]], "{:.2f}")
            title = f"**{name}**" if name == OURS else name
            yield shown, title, spread(own[name], "{:.2f}"), ratio
            shown = ""


def versions_of(python):
    """Return the peers of an environment with their versions, in words."""
    listing = subprocess.check_output(
        [python, "-m", "pip", "list", "--format=freeze"], text=True
    )
    found = dict(line.split("==") for line in listing.split() if "==" in line)
    return ", ".join(f"{name} {found.get(name, 'missing')}" for name in PACKAGES)


def main():
    """Make the store, measure, print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--count", type=int, default=8, help="patches in a turn")
    parser.add_argument("--python", default=sys.executable, help="that of the peers")
    parser.add_argument("--folder", type=Path, help="where the store is made")
    parser.add_argument("--no-save", action="store_true", help="print only")
    arguments = parser.parse_args()
    if not arguments.no_save:
        split_page("volumes")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as study:
        make_study(Path(study), VOLUMES, SLICES, SIDE)
        tools = [
            Tool(name, sys.executable if name in OWN else arguments.python, study)
            for name in TOOLS
        ]
        figures = measure(tools, arguments.rounds, arguments.count)
        for tool in tools:
            tool.close()
    d, h, w = SHAPE
    text = (
        f"{table_of(rows_of(figures))}\nPatches of {d} x {h} x {w} with labels, of "
        f"{VOLUMES} volumes of {SLICES} x {SIDE} x {SIDE}, int16 with five classes, in "
        "a mapped store. Peers cut the patch and augment it, so that its corners are "
        "empty after a turn. Labels are those of the nearest voxels. One thread each, "
        f"page cache warm; fastseg makes batches of {BATCH}, the others patch by "
        f"patch. {arguments.rounds} rounds of {arguments.count} patches on "
        f"one of {os.cpu_count()} cores ({platform.machine()}), Python "
        f"{platform.python_version()}; {versions_of(arguments.python)}; "
        f"{time.strftime('%Y-%m-%d')}.\n"
    )
    for tool in tools:
        if tool.missing:
            text += f"\nLeft out: {tool.name}, {tool.missing} is not installed.\n"
    print(text)
    if not arguments.no_save:
        publish("volumes", text)


if __name__ == "__main__":
    main()
