"""Times two commits of fastseg in turns, and prints how many times longer NEW takes.

Each commit is checked out into a temporary folder and gets a process of its own, with a
cache of compiled kernels of its own. Both compile and prepare a case; then it is timed
in OLD, NEW, OLD, NEW, and so on. A ratio is that of two timings right after each other,
because the clock of a shared machine changes from one second to the next. All cases
take about ten minutes.
"""

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np  # noqa: E402

from benchmarks.cases import CASES  # noqa: E402
from benchmarks.changes import duration  # noqa: E402
from benchmarks.inputs import PROJECT  # noqa: E402

EXAMPLES = """
examples:
  python benchmarks/compare.py main .
      what the uncommitted changes cost
  python benchmarks/compare.py v0.1.0 HEAD --only loader --only build-1-thread
      two commits, all cases with "loader" in their name and one more
  python benchmarks/compare.py HEAD HEAD
      one commit beside itself: how far the ratios of this machine vary
"""
WORKING_TREE = "."
# A case is timed in short turns, because a machine's speed changes within a tenth of a
# second: another process on the same core's second thread makes all code 1.4 times
# slower. Each commit has its turn at least so often, and so many seconds a case.
LEAST_ROUNDS = 25
CASE_SECONDS = 4.0
# Seconds of a turn, and of each of its repeats, whose median counts. A call that takes
# longer is a turn of its own.
TURN_SECONDS = 0.01
REPEAT_SECONDS = 0.001
# A ratio further from 1 is listed below the table, if its quartiles are on one side.
ALLOWED = 0.03
HEADINGS = "case", "old", "new", "new / old (quartiles)"
WIDTHS = 26, 20, 20, 24


class Worker:
    """A process of worker.py that times one commit."""

    def __init__(self, name, tree, drawn, folder):
        self.name = name
        folder.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", tree, drawn, folder],
            cwd=PROJECT,
            env={**os.environ, "NUMBA_CACHE_DIR": str(folder / "kernels")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # Ctrl-C reaches this process alone, which ends the others
        )

    def ask(self, what, **more):
        """Send a request; `answer` returns its answer."""
        with contextlib.suppress(BrokenPipeError):  # `answer` reports it
            request = json.dumps({"do": what, **more})
            print(request, file=self._process.stdin, flush=True)

    def answer(self):
        """Wait for the answer to a request."""
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"the process that times {self.name} ended, see above")
        return json.loads(line)

    def close(self):
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()


def git(*arguments, check=True):
    """Run git in this repository; return what it prints."""
    if shutil.which("git") is None:
        sys.exit("git is not installed; it checks out the commits to compare")
    run = subprocess.run(
        # Hooks are for the working tree, not for temporary folders.
        ["git", "-C", PROJECT, "-c", "core.hooksPath=/dev/null", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if check and run.returncode:
        sys.exit(f"git {' '.join(map(str, arguments))} failed: {run.stderr.strip()}")
    return run.stdout.strip()


def commit_of(text):
    """Return the hash of a commit, "." for the working tree; argparse calls this."""
    if text == WORKING_TREE:
        return text
    found = git("rev-parse", "--verify", "--quiet", f"{text}^{{commit}}", check=False)
    if not found:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no commit of the repository at {PROJECT}; "
            "`git log --oneline --all` lists them, . is the working tree"
        )
    return found


def cases_named(text):
    """Return the names of the cases whose name contains a text."""
    names = [name for name in CASES if text in name]
    if not names:
        raise argparse.ArgumentTypeError(
            f"no case has {text!r} in its name; the cases are {', '.join(CASES)}"
        )
    return names


def positive(text):
    """Return a number of rounds."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, got {text!r}")
    return int(text)


@contextlib.contextmanager
def uninterrupted():
    """Hold back Ctrl-C and SIGTERM: git would leave a locked worktree behind."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


@contextlib.contextmanager
def worktree(commit, path):
    """Check out a commit into a new folder, and remove it in the end."""
    try:
        with uninterrupted():
            git("worktree", "add", "--detach", "--quiet", path, commit)
        yield path
    finally:
        with uninterrupted():
            git("worktree", "remove", "--force", path, check=False)
            git("worktree", "prune", check=False)


@contextlib.contextmanager
def workers(commits):
    """Start a process for each commit; end them and remove their folders in the end."""
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastseg-")))
        started = []
        for side, commit in zip(("old", "new"), commits, strict=True):
            tree = PROJECT
            if commit != WORKING_TREE:
                tree = stack.enter_context(worktree(commit, root / f"{side}-tree"))
            worker = Worker(describe(commit), tree, root / "drawn", root / side)
            stack.callback(worker.close)
            started.append(worker)
        yield started


def describe(commit):
    """Return a commit in words."""
    return "working tree" if commit == WORKING_TREE else commit[:7]


def ask_both(pair, what, **more):
    """Send a request to both processes, which work at once; return their answers."""
    for worker in pair:
        worker.ask(what, **more)
    return [worker.answer() for worker in pair]


def race(pair, name, seconds, rounds):
    """Time a case in turns; return seconds of a call, float64 (2, rounds).

    seconds : of a call, about
    rounds  : pairs of timings, None for the usual number

    Both commits of a pair are timed on the same core, and pairs change the core.
    """
    calls = math.ceil(REPEAT_SECONDS / seconds)
    repeats = max(1, round(TURN_SECONDS / (calls * seconds)))
    request = {"case": name, "calls": calls, "repeats": repeats}
    times = []
    end = time.monotonic() + (CASE_SECONDS if rounds is None else 0)
    while len(times) < (rounds or LEAST_ROUNDS) or time.monotonic() < end:
        turn = []
        for worker in pair:
            worker.ask("time", core=len(times), **request)
            turn.append(worker.answer()["seconds"])
        times.append(turn)
    return np.array(times).T


def line(cells):
    """Return a row of the table."""
    padded = [cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)]
    return f"| {' | '.join(padded)} |"


def quartiles(times):
    """Return the quartiles of the ratios of times, float64 (2, rounds)."""
    return np.percentile(times[1] / times[0], [25, 50, 75])


def cells_of(name, times, items):
    """Return the row of a case."""
    unit = CASES[name].unit
    medians = np.median(times, axis=1) / items
    low, ratio, high = quartiles(times)
    words = [f"{duration(seconds)} per {unit}" for seconds in medians]
    return name, *words, f"{ratio:.3f} ({low:.3f} to {high:.3f})"


def compare(pair, names, rounds):
    """Print the table and a summary."""
    # The images are drawn once, so that both read the same.
    pair[0].ask("draw")
    pair[0].answer()
    print(line(HEADINGS))
    print(line(["-" * width for width in WIDTHS]), flush=True)
    changed = []
    missing = []
    for name in names:
        answers = ask_both(pair, "prepare", case=name)
        errors = [
            f"{worker.name}: {answer['error']}"
            for worker, answer in zip(pair, answers, strict=True)
            if "error" in answer
        ]
        if errors:
            missing.append(f"{name}: {'; '.join(errors)}")
            continue
        items = {answer["items"] for answer in answers}
        if len(items) > 1:
            missing.append(f"{name}: the commits have different numbers of items")
            continue
        seconds = min(answer["seconds"] for answer in answers)
        times = race(pair, name, seconds, rounds)
        print(line(cells_of(name, times, items.pop())), flush=True)
        low, ratio, high = quartiles(times)
        if abs(ratio - 1) > ALLOWED and (low > 1 or high < 1):
            changed.append(f"{name} {ratio - 1:+.0%}")
    pairs = rounds or f"at least {LEAST_ROUNDS}"
    print(f"\nMedians and quartiles of {pairs} pairs of timings in turns.")
    print(f"Changed by more than {ALLOWED:.0%}: {', '.join(changed) or 'none'}.")
    for text in missing:
        print(f"Not timed: {text}")


def main():
    """Read the command line, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("old", type=commit_of, help="a commit, or . (the working tree)")
    parser.add_argument("new", type=commit_of, help="another one")
    parser.add_argument(
        "--only",
        metavar="NAME",
        type=cases_named,
        action="append",
        help="time only cases with NAME in their name; may be given several times",
    )
    parser.add_argument(
        "--rounds",
        metavar="N",
        type=positive,
        help="pairs of timings of each case (default: as many as 4 seconds have, "
        f"at least {LEAST_ROUNDS})",
    )
    arguments = parser.parse_args()
    wanted = set(chain.from_iterable(arguments.only or [CASES]))
    names = [name for name in CASES if name in wanted]
    commits = arguments.old, arguments.new
    # A shell lets a command in the background ignore Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    old, new = map(describe, commits)
    print(
        f"old: {old}, new: {new}, {len(names)} cases. Both compile kernels first.\n",
        flush=True,
    )
    try:
        with workers(commits) as pair:
            compare(pair, names, arguments.rounds)
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; processes and worktrees are removed")


if __name__ == "__main__":
    main()
