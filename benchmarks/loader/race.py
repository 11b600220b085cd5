"""The loader beside its peers, beside what memory allows, and what else was promised.

    python benchmarks/loader_speed.py [--quick] [--ours] [--no-save] [--folder FOLDER]

4,000 samples, uint16 images of 256 x 256 and uint8 masks, become batches of 32 scaled
float32 images and masks, shuffled, page cache warm, on two cores for everybody. Each
side (see loader_peers.py) is a process of its own; before it is timed, another one
holds all its batches against ours. Then all take turns, because the clock of a shared
machine changes from one second to the next, and ratios are those within a turn. What
is asked of ours alone is in loader_promises.py.

The tables and the plot are saved to benchmarks/results and put into the README.
FOLDER must be on a disk, with 3 GB of room; by default it is that for temporary files.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from epoch_rate import PROJECT, put_into_readme
from loader_data import BATCH, make_store
from loader_peers import AHEAD, CORES, LIMIT, OURS, SIDES
from loader_plot import draw
from loader_promises import FULL, QUICK, promises, spread

RESULTS = PROJECT / "benchmarks" / "results"
LIMITS = tuple(name for name in SIDES if name.startswith("bare"))
PEERS = tuple(x for x in SIDES if x not in LIMITS and not x.startswith(OURS))
PACKAGES = ["numpy", "numba", "h5py", "torch", "monai", "grain", "spdl-core", "blosc2"]
POOLS = ("OMP", "OPENBLAS", "MKL", "NUMBA")
WAITS = ("p50", "p99")
PATIENCE = 10  # seconds for a side to end
DUEL = 0.25  # seconds of each side, one right after the other


class Side:
    """A process of loader_side.py; `missing` is the package that it lacks, if any.

    Between two requests it stands still, and so do its workers: what some sides do
    while nobody asks would be taken from the others.
    """

    def __init__(self, name, folder):
        self.name = name
        script = Path(__file__).with_name("loader_side.py")
        self._process = subprocess.Popen(
            [sys.executable, script, name, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self.missing = self._answer().get("missing")

    def ask(self, what, **more):
        """Return the answer to a request."""
        os.killpg(self._process.pid, signal.SIGCONT)
        print(json.dumps({"do": what, **more}), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: its process died")
        os.killpg(self._process.pid, signal.SIGSTOP)
        return json.loads(line)

    def close(self):
        """End the process and its workers."""
        group = self._process.pid
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGCONT)
            self._process.stdin.close()
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(group, signal.SIGKILL)
                self._process.wait()


def compare(names, folder):
    """Hold the batches of sides against ours; return what is missing, by side."""
    missing = {}
    for name in names:
        with contextlib.closing(Side(name, folder)) as side:
            if side.missing:
                missing[name] = side.missing
                print(f"{name}: left out, {side.missing} is not installed", flush=True)
            else:
                compared = side.ask("compare")["compared"]
                print(f"{name}: {compared} samples are as ours", flush=True)
    return missing


def race(names, folder, effort):
    """Let sides take turns; return their answers by round, and those of the duel."""
    with contextlib.ExitStack() as stack:
        sides = {}
        for name in names:
            sides[name] = stack.enter_context(contextlib.closing(Side(name, folder)))
            sides[name].ask("run", seconds=effort.seconds)  # warms
        answers = {name: [] for name in names}
        for _ in range(effort.rounds):
            for name, side in sides.items():
                answers[name].append(side.ask("run", seconds=effort.seconds))
        duel = [
            [sides[name].ask("run", seconds=DUEL)["rate"] for name in (OURS, LIMIT)]
            for _ in range(effort.duels)
        ]
    return answers, np.array(duel).T


def rows_of(answers):
    """Yield the rows of the table of all sides, the fastest first."""
    yield (
        "",
        "samples/s (median, quartiles)",
        "of fastseg",
        "of the limit",
        "`next()`: median, p99 (ms)",
    )
    rates = {n: BATCH * np.array([a["rate"] for a in answers[n]]) for n in answers}
    for name in sorted(rates, key=lambda name: -np.median(rates[name])):
        waits = [[1e3 * answer[part] for part in WAITS] for answer in answers[name]]
        yield (
            f"**{name}**" if name == OURS else name,
            spread(rates[name], "{:,.0f}"),
            spread(rates[name] / rates[OURS], "{:.3f}"),
            f"{np.median(rates[name] / rates[LIMIT]):.3f}",
            "" if name in LIMITS else "{:.2f}, {:.2f}".format(*np.median(waits, 0)),
        )


def table_of(rows):
    """Return rows as a table in Markdown."""
    first, *others = rows
    lines = [first, ["---"] * len(first), *others]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def picture(answers, path):
    """Draw the rates of all sides."""
    rows = []
    for name, found in answers.items():
        kind = "limit" if name in LIMITS else "peer" if name in PEERS else "ours"
        rows.append((name, kind, [BATCH * answer["rate"] for answer in found]))
    title = f"Batches of {BATCH}, uint16 256 × 256 to float32, two cores, cached"
    draw(rows, title, path)


def versions():
    """Return the packages in question with their versions, in words."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def measure(folder, effort, asked):
    """Measure the sides that are asked for, and what ours has promised.

    Returns the text with the tables, and the race's answers.
    """
    start = time.perf_counter()
    make_store(folder, effort.samples)
    missing = compare(asked, folder)
    names = [name for name in asked if name not in missing]
    answers, duel = race(names, folder, effort)
    kept = promises(folder, effort, answers, duel, set(PEERS))
    minutes = (time.perf_counter() - start) / 60
    text = f"""{table_of(rows_of(answers))}
The limit is a kernel of this benchmark that writes the same bytes into the same two
buffers over and over, two threads, no queue, no consumer; where it has as many buffers
as a loader must hold, less stays in the cores' caches. All sides read the same plain
file and scale each image each time, but for two: MONAI's cache holds scaled float32
images, and blosc2's cases, as in nnU-Net, are two compressed files each. "Whole
batches" are filled in place by numpy; without it, a framework stacks samples. Workers
are processes if they are not called threads.

{table_of(kept)}
{effort.samples:,} samples, uint16 256 × 256 and uint8 masks, in batches of {BATCH},
shuffled, {AHEAD} batches ahead where that can be chosen; the batches of all sides were
compared with ours. Medians and quartiles of {effort.rounds} turns of {effort.seconds} s
each, page cache warm; the rate beside the limit is of {effort.duels} pairs, one right
after the other. {CORES} of {os.cpu_count()} cores ({platform.machine()}),
Python {platform.python_version()}, {versions()};
{time.strftime("%Y-%m-%d")}, {minutes:.0f} minutes.
"""
    for package in sorted(set(missing.values())):
        lost = [name for name in missing if missing[name] == package]
        text += f"\nLeft out, {package} is not installed: {'; '.join(lost)}.\n"
    return text, answers


def main():
    """Measure, print and save the tables and the plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--ours", action="store_true", help="leave out the peers")
    parser.add_argument("--no-save", action="store_true", help="print only")
    parser.add_argument("--folder", type=Path, help="where to put the samples")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)  # of all processes that are started from here
    os.environ |= {f"{pool}_NUM_THREADS": str(CORES) for pool in POOLS}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        os.environ["NUMBA_CACHE_DIR"] = str(Path(name) / "numba")
        effort = QUICK if arguments.quick else FULL
        asked = [x for x in SIDES if not (arguments.ours and x in PEERS)]
        text, answers = measure(Path(name), effort, asked)
    print(text)
    if not arguments.no_save and not arguments.ours:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "loader.md").write_text(text, encoding="utf-8")
        picture(answers, RESULTS / "loader.png")
        put_into_readme("loader", text)


if __name__ == "__main__":
    main()
