"""Seconds from the start of a process to its first result, with nothing compiled yet.

    python -m benchmarks.kernels.first_use [--wheel FILE] [--old COMMIT] [--no-save]

Four tasks, each in new processes: one contour to a mask, the first batch of a Loader,
plain and with augment="standard", and a build of the sample data (link and build). Each
process has an empty cache; then one more has the cache that it left. All run

- from the wheel that `make wheel` makes, unpacked into an empty folder,
- from the working tree, which compiles on demand,
- and from an older commit, if one is named.

The table is printed, saved to benchmarks/results/first_use.md and put into
docs/benchmarks.md.
"""

import argparse
import compileall
import contextlib
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fastseg
from benchmarks.inputs import PROJECT
from benchmarks.tables import publish, split_page, table_of, versions

ROUNDS = 5
STUDY = PROJECT / "data" / "phantom"
LOADER = """
store = fastseg.open({store!r})
loader = fastseg.Loader(store, batch_size=16, size=(96, 96), seed=1, {options})
batch = next(iter(loader))
"""
TASKS = {
    "`fastseg.rasterize` of one contour": """
mask = fastseg.rasterize([[(2, 2), (200, 30), (100, 250)]], (256, 256))
""",
    "`Loader`, plain, first batch": LOADER.replace("{options}", ""),
    '`Loader(augment="standard")`, first batch': LOADER.replace(
        "{options}", 'augment="standard"'
    ),
    "`fastseg.build` of the sample data": """
fastseg.build(fastseg.link({study!r}), {out!r})
""",
}
END = """
print("numba" in sys.modules, flush=True)
loader = None
"""


def run(tree, task, cache, store, folder):
    """Return the seconds of one process, and whether it has imported numba."""
    out = folder / "out.h5"
    out.unlink(missing_ok=True)
    code = task.replace("{store!r}", repr(str(store)))
    code = code.replace("{study!r}", repr(str(STUDY))).replace(
        "{out!r}", repr(str(out))
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "FASTSEG_CACHE_DIR": str(cache),
        "NUMBA_CACHE_DIR": str(cache),
    }
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", f"import sys\nimport fastseg\n{code}{END}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=folder,
    ) as process:
        line = process.stdout.readline()
        seconds = time.perf_counter() - start
        _, errors = process.communicate()
    if process.returncode:
        sys.exit(f"{tree} failed:\n{errors}")
    return seconds, line.strip() == "True"


def measure(tree, task, store, folder, rounds):
    """Return seconds with an empty cache, with a filled one, and whether numba is."""
    cold, warm = [], []
    for _ in range(rounds):
        cache = folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        seconds, imports_numba = run(tree, task, cache, store, folder)
        cold.append(seconds)
        warm.append(run(tree, task, cache, store, folder)[0])
    return cold, warm, imports_numba


@contextlib.contextmanager
def checked_out(commit, folder):
    """Yield the folder of another commit, which is removed afterwards."""
    tree = folder / "old"
    git = ["git", "-C", str(PROJECT)]
    subprocess.run([*git, "worktree", "add", "-q", str(tree), commit], check=True)
    try:
        yield tree
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", str(tree)], check=True)


def seconds_of(values):
    """Return the median and the range in words."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.2f} ({low:.2f} to {high:.2f})"


def main():
    """Measure, print and publish the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wheel", type=Path, help="a wheel of `make wheel`")
    parser.add_argument("--old", metavar="COMMIT", help="an older commit")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--no-save", action="store_true", help="only print the table")
    options = parser.parse_args()
    if not options.no_save:
        split_page("first_use")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        trees = {"from source": PROJECT}
        if options.wheel:
            trees = {"from the wheel": folder / "wheel", **trees}
            shutil.unpack_archive(options.wheel, folder / "wheel", "zip")
        if options.old:
            old = stack.enter_context(checked_out(options.old, folder))
            trees = {options.old: old, **trees}
        for tree in trees.values():
            # As an installation by pip does; PYTHONDONTWRITEBYTECODE may be set.
            compileall.compile_dir(tree / "fastseg", quiet=1)
        store = folder / "heart.h5"
        fastseg.build(fastseg.link(STUDY), store)
        rows = [("first use", *trees, "compiled before, from source")]
        for name, task in TASKS.items():
            cells = []
            for title, tree in trees.items():
                rounds = options.rounds if title != options.old else 1
                cold, warm, has_numba = measure(tree, task, store, folder, rounds)
                cells.append(seconds_of(cold) + ", imports numba" * has_numba)
                print(f"{title}: {name}: {cells[-1]}", file=sys.stderr)
            rows.append((name, *cells, seconds_of(warm)))
    text = (
        table_of(rows)
        + f"\nSeconds from the start of the process to the result: median and range of "
        f"{options.rounds} processes, each with an empty cache, on "
        f"{len(os.sched_getaffinity(0))} cores ({platform.machine()}); Python "
        f"{platform.python_version()}, {versions(['numba', 'llvmlite', 'numpy'])}.\n"
    )
    if options.old:
        text = text.rstrip() + f" {options.old}: one process each.\n"
    print(text)
    if not options.no_save:
        publish("first_use", text)


if __name__ == "__main__":
    main()
