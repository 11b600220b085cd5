"""The loader beside its peers, beside the limit of memory, and its other promises.

    python -m benchmarks.loader.race [--quick] [--ours] [--no-save] [--folder FOLDER]

4,000 samples, uint16 images of 256 x 256 and uint8 masks, become batches of 32 scaled
float32 images and masks, shuffled, page cache warm, on two cores for everybody. Each
side (see peers.py) is a process of its own; before it is timed, another process
compares all its batches with ours. Then all sides take turns, because the clock of a
shared machine changes from one second to the next, and ratios are those within a turn.
promises.py measures the other figures of our loader.

The tables and the plot are saved to benchmarks/results, and the tables are put into
docs/benchmarks.md. FOLDER must be on a disk, with 3 GB free; by default it is that for
temporary files.
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
from pathlib import Path

import numpy as np

from benchmarks.inputs import PROJECT
from benchmarks.loader.peers import AHEAD, CORES, LIMIT, OURS, SIDES
from benchmarks.loader.plot import draw
from benchmarks.loader.promises import FULL, QUICK, promises
from benchmarks.loader.samples import BATCH, make_store
from benchmarks.tables import RESULTS, publish, split_page, spread, table_of, versions

LIMITS = tuple(name for name in SIDES if name.startswith("bare"))
PEERS = tuple(x for x in SIDES if x not in LIMITS and not x.startswith(OURS))
PACKAGES = ["numpy", "numba", "h5py", "torch", "monai", "grain", "spdl-core", "blosc2"]
POOLS = ("OMP", "OPENBLAS", "MKL", "NUMBA")
WAITS = ("p50", "p99")
PATIENCE = 10  # seconds for a side to end
DUEL = 0.25  # seconds of ours and of the limit, one right after the other


class Side:
    """A process of side.py; `missing` is the package that it lacks, if any.

    Between two requests it is stopped, and so are its workers: some sides would load
    ahead meanwhile, and take time from the others.
    """

    def __init__(self, name, folder):
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.loader.side", name, folder],
            cwd=PROJECT,
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
    """Compare the batches of sides with ours; return missing packages, by side."""
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
            sides[name].ask("run", seconds=effort.seconds)  # warms up
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
        waits = [[1e3 * answer[key] for key in WAITS] for answer in answers[name]]
        yield (
            f"**{name}**" if name == OURS else name,
            spread(rates[name], "{:,.0f}"),
            spread(rates[name] / rates[OURS], "{:.3f}"),
            f"{np.median(rates[name] / rates[LIMIT]):.3f}",
            "" if name in LIMITS else "{:.2f}, {:.2f}".format(*np.median(waits, 0)),
        )


def picture(answers, path):
    """Draw the rates of all sides."""
    rows = []
    for name, rounds in answers.items():
        kind = "limit" if name in LIMITS else "peer" if name in PEERS else "ours"
        rows.append((name, kind, [BATCH * answer["rate"] for answer in rounds]))
    title = f"Batches of {BATCH}, uint16 256 × 256 to float32, two cores, cached"
    draw(rows, title, path)


def measure(folder, effort, asked):
    """Measure the sides that are asked for, and the promises of ours.

    Returns the text with the tables, and the answers of the sides.
    """
    start = time.perf_counter()
    make_store(folder, effort.samples)
    missing = compare(asked, folder)
    names = [name for name in asked if name not in missing]
    answers, duel = race(names, folder, effort)
    promised = promises(folder, effort, answers, duel, set(PEERS))
    minutes = (time.perf_counter() - start) / 60
    text = f"""{table_of(rows_of(answers))}
The limit is a kernel of this benchmark that writes the same bytes into the same two
buffers over and over, two threads, no queue, no consumer; where it has as many buffers
as a loader must hold, less stays in the cores' caches. All sides read the same
uncompressed file and scale each image each time, except two: MONAI's cache holds scaled
float32 images, and blosc2's cases, as in nnU-Net, are two compressed files each. "Whole
batches" are filled by numpy; without it, a framework stacks samples. Workers are
processes if they are not called threads.

{table_of(promised)}
{effort.samples:,} samples, uint16 256 × 256 and uint8 masks, in batches of {BATCH},
shuffled, {AHEAD} batches ahead where that can be chosen; the batches of all sides were
compared with ours. Medians and quartiles of {effort.rounds} turns of {effort.seconds} s
each, page cache warm; the rate beside the limit is of {effort.duels} pairs, one right
after the other. {CORES} of {os.cpu_count()} cores ({platform.machine()}),
Python {platform.python_version()}, {versions(PACKAGES)};
{time.strftime("%Y-%m-%d")}, {minutes:.0f} minutes.
"""
    for package in sorted(set(missing.values())):
        names = [name for name in missing if missing[name] == package]
        text += f"\nLeft out, {package} is not installed: {'; '.join(names)}.\n"
    return text, answers


def main():
    """Measure, print and save the tables and the plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--ours", action="store_true", help="leave out the peers")
    parser.add_argument("--no-save", action="store_true", help="print only")
    parser.add_argument("--folder", type=Path, help="where to put the samples")
    arguments = parser.parse_args()
    saves = not arguments.no_save and not arguments.ours
    if saves:
        split_page("loader")
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)  # of all processes that are started from here
    os.environ |= {f"{pool}_NUM_THREADS": str(CORES) for pool in POOLS}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        os.environ["NUMBA_CACHE_DIR"] = str(Path(name) / "numba")
        effort = QUICK if arguments.quick else FULL
        asked = [x for x in SIDES if not (arguments.ours and x in PEERS)]
        text, answers = measure(Path(name).resolve(), effort, asked)
    print(text)
    if saves:
        publish("loader", text)
        picture(answers, RESULTS / "loader.png")


if __name__ == "__main__":
    main()
