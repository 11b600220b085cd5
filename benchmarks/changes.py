"""Says in words what changed between the last two runs of `make bench`.

    python -m benchmarks.changes [BEFORE.json AFTER.json]

A benchmark counts as changed if its median differs by more than 5 % and the quartiles
of the two runs do not overlap. Without arguments, the two newest files under
.benchmarks are compared; the first run on a machine has nothing to be compared with.
"""

import argparse
import json
from pathlib import Path

from benchmarks.inputs import PROJECT

SAVED = PROJECT / ".benchmarks"
LEAST_CHANGE = 0.05
UNITS = ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def newest_runs(folder):
    """Return the files of the two newest saved runs, the older one first."""
    return sorted(folder.glob("*/*.json"), key=lambda path: path.stat().st_mtime)[-2:]


def load(path):
    """Return a saved run."""
    return json.loads(path.read_text(encoding="utf-8"))


def benchmarks_of(run):
    """Return the benchmarks of a run by their names."""
    return {bench["fullname"]: bench for bench in run["benchmarks"]}


def describe(run):
    """Return time and commit of a run in words."""
    commit = run["commit_info"]["id"][:7]
    dirty = ", with uncommitted changes" if run["commit_info"]["dirty"] else ""
    return f"{run['datetime'][:16].replace('T', ' ')}, commit {commit}{dirty}"


def duration(seconds):
    """Return seconds with three digits and a fitting unit."""
    size, unit = next((pair for pair in UNITS if seconds >= pair[0]), UNITS[-1])
    return f"{seconds / size:.3g} {unit}"


def compare(before, after):
    """Yield the lines that say what changed from one run to another."""
    older, newer = benchmarks_of(before), benchmarks_of(after)
    yield f"Compared with the run of {describe(before)}:"
    changed = []
    for name in newer:
        if name not in older:
            continue
        old, new = older[name]["stats"], newer[name]["stats"]
        ratio = new["median"] / old["median"]
        apart = new["q1"] > old["q3"] or new["q3"] < old["q1"]
        if apart and abs(ratio - 1) > LEAST_CHANGE:
            changed.append((ratio, name))
    width = max((len(label(newer[name])) for _, name in changed), default=0)
    for ratio, name in sorted(changed, reverse=True):
        word = "slower" if ratio > 1 else "faster"
        old, new = per_item(older[name]), per_item(newer[name])
        title = label(newer[name]).ljust(width)
        yield f"  {word}  {title}  {old:>9} -> {new:>9}  {ratio - 1:+.0%}"
    same = len(older.keys() & newer.keys()) - len(changed)
    yield f"  {same} changed by at most {LEAST_CHANGE:.0%}, or within their own spread"
    for word, names in (
        ("new", newer.keys() - older.keys()),
        ("not run", older.keys() - newer.keys()),
    ):
        if names:
            yield f"  {word}: {', '.join(sorted(names))}"
    if changed:
        case = newer[changed[0][1]]["extra_info"]["case"]
        commit = before["commit_info"]["id"][:7]
        yield "The machine's own speed changes as well. To compare commits in turns:"
        yield f"  python benchmarks/compare.py {commit} . --only {case}"


def label(bench):
    """Return the name of a benchmark, with what one of its times is for."""
    return f"{bench['param'] or bench['name']}, per {bench['extra_info']['unit']}"


def per_item(bench):
    """Return the median time of one mask, file or sample."""
    return duration(bench["stats"]["median"] / bench["extra_info"]["items"])


def main():
    """Print what changed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN.json")
    runs = parser.parse_args().runs or newest_runs(SAVED)
    if len(runs) == 1:
        print(f"{runs[0].name} is the first saved run: nothing to compare with.")
    elif len(runs) != 2:
        parser.error(f"expected two runs, got {len(runs)}; `make bench` saves one")
    else:
        print("\n".join(compare(*map(load, runs))))


if __name__ == "__main__":
    main()
