"""Which share of faults `fastseg check` finds, and how often it is wrong.

    python -m benchmarks.quality.faults --placements 200 --processes 2 -o faults.jsonl

Faults of each kind of `tests.quality.faults.FAULTS` are put at random places of phantom
studies of 20 patients, each into other patients, which are built and checked. A fault
is found if a finding of its rule names one of its images. Then clean phantoms of other
seeds are checked by all rules: how many findings above a note are there in a thousand
samples?

With `-o`, each placement and each clean study is a line of a file as soon as it is
done. The same call with this file continues it.
"""

import argparse
import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastseg
from benchmarks.quality.faulty_store import StoreBuilder
from benchmarks.tables import table_of
from fastseg.errors import CopiesWarning
from tests.quality.faults import FAULTS
from tests.quality.study import Put, Study

KINDS = {"cine": {"slices": "series"}, "rtstruct": None}
# Images of a patient.
IMAGES = {"cine": 24, "rtstruct": 8}
# Studies of each kind; placements take them in turn.
PHANTOMS = 5
# A fault of more patients than this has a study of its own.
MOST_PATIENTS = 3
# A fault that finds no place in so many whole studies has none in this kind.
MOST_TRIES = 8
# Clean studies have other seeds than those that faults are put into.
CLEAN_SEEDS = 500
# A bar of the project: of each kind of faults.
BAR = 0.95

Record = dict[str, Any]


class Source(NamedTuple):
    """Where the studies are: below `folder`, of so many patients."""

    folder: Path
    patients: int
    first_seed: int

    def study(self, kind: str, number: int) -> Path:
        """Return the folder of a study."""
        seed = self.first_seed + number
        return self.folder / f"{kind}-{self.patients}-{seed}"


class Kinds(NamedTuple):
    """Faults that are put into a kind of phantom.

    names : all that have a place there
    alone : those of many patients, which get a study of their own
    """

    names: tuple[str, ...]
    alone: frozenset[str]


def main() -> None:
    """Print how many faults were found, then what was found in clean data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--placements", type=int, default=200)
    parser.add_argument("--patients", type=int, default=20)
    parser.add_argument("--clean", type=int, default=10_000, help="clean samples")
    parser.add_argument("--fault", action="append", choices=FAULTS, default=[])
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--phantoms", type=Path, help="folder to keep phantoms in")
    parser.add_argument("-o", "--output", type=Path, help="file of lines, continued")
    options = parser.parse_args()
    chosen = tuple(options.fault or FAULTS)
    with ExitStack() as stack:
        folder = options.phantoms or Path(
            stack.enter_context(tempfile.TemporaryDirectory())
        )
        folder.mkdir(parents=True, exist_ok=True)
        source = Source(folder, options.patients, options.first_seed)
        # Not forked: threads of kernels may be running.
        pool = stack.enter_context(
            ProcessPoolExecutor(options.processes, get_context("spawn"))
        )
        output = _Output(options.output, source, chosen)
        placed = list(output.run(_placements(pool, source, chosen, options.placements)))
        print_placed(chosen, placed)
        clean = list(output.run(_clean_studies(pool, source, options.clean)))
        if clean:
            print_clean(clean)


class _Output:
    """The records of what is done: known ones are taken, new ones are written."""

    def __init__(self, path: Path | None, source: Source, faults: tuple[str, ...]):
        self._file = None
        self._known: dict[str, Record] = {}
        head = {
            "patients": source.patients,
            "first_seed": source.first_seed,
            "faults": list(faults),
        }
        if path is None:
            return
        lines = path.read_text().splitlines() if path.exists() else []
        records = [json.loads(line) for line in lines]
        if records and records[0] != head:
            raise SystemExit(f"{path}: is of other options; choose another file")
        self._known = {record["task"]: record for record in records[1:]}
        self._file = path.open("a")
        if not records:
            self._write(head)

    def _write(self, record: Record) -> None:
        if self._file is not None:
            print(json.dumps(record), file=self._file, flush=True)

    def run(self, tasks: "Tasks") -> Iterator[Record]:
        """Yield the record of each task, in their order."""
        todo = [name for name in tasks.names if name not in self._known]
        results = iter(tasks.start(todo)) if todo else iter(())
        for done, name in enumerate(tasks.names, 1):
            record = self._known.get(name)
            if record is None:
                record = {"task": name, **next(results)}
                self._write(record)
                for line in tasks.describe(record):
                    print(f"{name} ({done} of {len(tasks.names)}): {line}", flush=True)
            yield record


class Tasks(NamedTuple):
    """What is to be done, by name; `start` yields the records of some of them."""

    names: Sequence[str]
    start: Callable[[list[str]], Iterable[Record]]
    describe: Callable[[Record], Iterable[str]]


def _placements(
    pool: ProcessPoolExecutor, source: Source, chosen: tuple[str, ...], count: int
) -> Tasks:
    names = [f"{kind} {number}" for number in range(count) for kind in KINDS]

    def start(todo: list[str]) -> Iterable[Record]:
        studies = [(kind, k) for kind in KINDS for k in range(min(count, PHANTOMS))]
        list(pool.map(partial(_make_study, source), studies))
        found = pool.map(partial(_kinds, source, chosen), KINDS)
        kinds = dict(zip(KINDS, found, strict=True))
        return pool.map(partial(_place, source, kinds), todo)

    return Tasks(names, start, _describe_placement)


def _clean_studies(pool: ProcessPoolExecutor, source: Source, samples: int) -> Tasks:
    names = [
        f"clean {kind} {number}"
        for kind in KINDS
        for number in range(
            -(-samples // (len(KINDS) * IMAGES[kind] * source.patients))
        )
    ]
    return Tasks(names, partial(pool.map, partial(_check_clean, source)), _describe)


def _make_study(source: Source, which: tuple[str, int]) -> None:
    """Make a study, unless it is there."""
    kind, number = which
    folder = source.study(kind, number)
    if not (folder / "clean.h5").exists():
        folder.mkdir()
        seed = source.first_seed + number
        Study.phantom(folder, kind, KINDS[kind], patients=source.patients, seed=seed)


@cache
def _studies(source: Source, kind: str, number: int) -> tuple[Study, StoreBuilder]:
    study = Study.open(source.study(kind, number), kind, KINDS[kind])
    return study, StoreBuilder(study)


def _kinds(source: Source, chosen: tuple[str, ...], kind: str) -> Kinds:
    """Return which faults have a place in a kind of phantom, and need all of it."""
    study, _ = _studies(source, kind, 0)
    patient_of = {image.path: image.patient for image in study.images}
    names, alone = [], set()
    for name in chosen:
        for number in range(MOST_TRIES):
            with tempfile.TemporaryDirectory(dir=source.folder) as folder:
                copy = study.copy(Path(folder))
                put = FAULTS[name](copy, np.random.default_rng(number))
            if put is not None:
                names.append(name)
                if len({patient_of[path] for path in put.paths}) > MOST_PATIENTS:
                    alone.add(name)
                break
    return Kinds(tuple(names), frozenset(alone))


def _place(source: Source, kinds: dict[str, Kinds], task: str) -> Record:
    """Put each fault once into a study; return which were found."""
    warnings.simplefilter("ignore", CopiesWarning)
    kind, number = task.split()
    placement = int(number)
    study, builder = _studies(source, kind, placement % PHANTOMS)
    rng = np.random.default_rng((placement, kind == "cine"))
    names, alone = kinds[kind]
    waiting = rng.permutation(names).tolist()
    faults = []
    tries: Counter[str] = Counter()
    while waiting:
        with tempfile.TemporaryDirectory(dir=source.folder) as folder:
            copy = study.copy(Path(folder))
            puts = fill(copy, rng, waiting, alone)
            tries.update(waiting[:1])
            waiting = [
                name
                for name in waiting
                if name not in puts and tries[name] < MOST_TRIES
            ]
            if puts:
                rules = sorted({put.rule for put in puts.values()})
                findings = fastseg.check(builder.build(copy), rules=rules, threads=1)
            for name, put in puts.items():
                found = is_found(findings, put)
                faults.append({"fault": name, "found": found, **put._asdict()})
    return {"faults": faults}


def fill(
    study: Study, rng: np.random.Generator, waiting: list[str], alone: frozenset[str]
) -> dict[str, Put]:
    """Put faults into different patients, as many as there are patients for.

    alone : faults of many patients, which get a study of their own
    """
    patient_of = {image.path: image.patient for image in study.images}
    taken: set[str] = set()
    puts: dict[str, Put] = {}
    for name in waiting:
        if name in alone and puts:
            continue
        everything = dict(study.contours)
        for index, label in everything:
            if study.images[index].patient in taken:
                del study.contours[index, label]
        put = FAULTS[name](study, rng)
        hidden = {
            key: rings
            for key, rings in everything.items()
            if study.images[key[0]].patient in taken
        }
        study.contours = {**study.contours, **hidden}
        if put is None:  # there may be a place in a study without other faults
            continue
        patients = {patient_of[path] for path in put.paths}
        assert not patients & taken, f"{name} is put where another fault is"
        puts[name] = put
        taken |= patients
        rest = len(set(patient_of.values())) - len(taken)
        if name in alone or rest < MOST_PATIENTS:
            break
    return puts


def is_found(findings: fastseg.Findings, put: Put) -> bool:
    """Return whether a finding of the rule names an image of the fault."""
    for finding in findings:
        if finding.rule == put.rule and (not put.label or put.label in finding.classes):
            named = {
                name.split("#")[0] for name in findings.facts.sources(finding.samples)
            }
            if named & {*put.paths}:
                return True
    return False


def _check_clean(source: Source, task: str) -> Record:
    """Check a clean study by all rules; return what they found above a note."""
    _, kind, number = task.split()
    seed = source.first_seed + CLEAN_SEEDS + int(number)
    with tempfile.TemporaryDirectory(dir=source.folder) as folder:
        study = Study.phantom(
            Path(folder), kind, KINDS[kind], patients=source.patients, seed=seed
        )
        findings = fastseg.check(study.clean, threads=1)
        return {
            "samples": len(study.clean),
            "findings": [
                {"rule": f.rule, "severity": f.severity, "text": f.text}
                for f in findings.at_least("warning")
            ],
        }


def _describe_placement(record: Record) -> Iterator[str]:
    faults = record["faults"]
    missed = [fault for fault in faults if not fault["found"]]
    yield f"{len(faults) - len(missed)} of {len(faults)} found"
    for fault in missed:
        yield f"missed: {fault['fault']}, {fault['label']} {', '.join(fault['paths'])}"


def _describe(record: Record) -> Iterator[str]:
    yield f"{record['samples']} samples, {len(record['findings'])} findings"
    for finding in record["findings"]:
        yield f"{finding['severity']} {finding['rule']}: {finding['text']}"


def print_placed(chosen: Sequence[str], records: Sequence[Record]) -> None:
    """Print how many faults of each kind were found."""
    found: Counter[tuple[str, str]] = Counter()
    put: Counter[tuple[str, str]] = Counter()
    for record in records:
        kind = record["task"].split()[0]
        for fault in record["faults"]:
            put[fault["fault"], kind] += 1
            found[fault["fault"], kind] += fault["found"]
    rows = []
    for name, kind in ((name, kind) for name in chosen for kind in KINDS):
        if put[name, kind]:
            part = found[name, kind] / put[name, kind]
            below = "" if part >= BAR else "below the bar"
            rows.append((name, kind, str(put[name, kind]), f"{part:.1%}", below))
    if rows:
        print(table_of([("fault", "phantom", "put", "found", ""), *rows]))
    lost = [name for name in chosen if not any(put[name, kind] for kind in KINDS)]
    if records and lost:
        print("never put:", ", ".join(lost))


def print_clean(records: Sequence[Record]) -> None:
    """Print how many findings clean data have."""
    samples = sum(record["samples"] for record in records)
    wrong: Counter[tuple[str, str]] = Counter()
    for record in records:
        _, kind, _ = record["task"].split()
        wrong.update((kind, finding["rule"]) for finding in record["findings"])
    print(
        f"clean: {sum(wrong.values())} findings above a note in {samples} samples, "
        f"{1000 * sum(wrong.values()) / samples:.2f} in a thousand"
    )
    for (kind, rule), times in wrong.most_common():
        print(f"  {rule} in {kind}: {times}")


if __name__ == "__main__":
    main()
