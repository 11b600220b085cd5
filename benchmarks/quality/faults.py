"""Which share of faults `fastseg check` finds, and how often it is wrong.

    python -m benchmarks.quality.faults --placements 200 --patients 20

Faults of each kind of `tests.quality.faults.FAULTS` are put at random places of phantom
studies, which are linked, built and checked. A fault is found if a finding of its rule
names one of its images. Then clean phantoms of other seeds are checked: how many
findings above a note are there in a thousand samples?
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import fastseg
from benchmarks.tables import table_of
from tests.quality.faults import FAULTS
from tests.quality.study import Put, Study

KINDS = {"cine": {"slices": "series"}, "rtstruct": None}
# Of each kind; placements take them in turn.
PHANTOMS = 5
# A fault of more patients than this has a study of its own.
MOST_PATIENTS = 3


def main() -> None:
    """Print how many faults were found, then what was found in clean data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--placements", type=int, default=200)
    parser.add_argument("--patients", type=int, default=20)
    parser.add_argument("--clean", type=int, default=10_000, help="clean samples")
    parser.add_argument("--fault", action="append", choices=FAULTS, default=[])
    parser.add_argument("--first-seed", type=int, default=1000)
    options = parser.parse_args()
    chosen = options.fault or list(FAULTS)
    with tempfile.TemporaryDirectory() as folder:
        found, put = place(Path(folder), chosen, options)
    rows = [
        (name, kind, str(put[name, kind]), f"{found[name, kind] / put[name, kind]:.1%}")
        for name in chosen
        for kind in KINDS
        if put[name, kind]
    ]
    print(table_of([("fault", "phantom", "put", "found"), *rows]))
    lost = [name for name in chosen if not any(put[name, kind] for kind in KINDS)]
    if lost:
        print("never put:", ", ".join(lost))
    if options.clean:
        print_clean(options)


def place(
    folder: Path, chosen: list[str], options: argparse.Namespace
) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
    """Put each fault at so many places; return how often it was found, and put."""
    found: Counter[tuple[str, str]] = Counter()
    put: Counter[tuple[str, str]] = Counter()
    for kind, link in KINDS.items():
        studies = []
        for number in range(PHANTOMS):
            (folder / f"{kind}{number}").mkdir()
            seed = options.first_seed + number
            studies.append(
                Study.phantom(
                    folder / f"{kind}{number}",
                    kind,
                    link,
                    patients=options.patients,
                    seed=seed,
                )
            )
        alone: set[str] = set()
        absent: set[str] = set()
        for placement in range(options.placements):
            rng = np.random.default_rng((placement, kind == "cine"))
            waiting = [name for name in rng.permutation(chosen) if name not in absent]
            while waiting:
                with tempfile.TemporaryDirectory(dir=folder) as copy:
                    study = studies[placement % PHANTOMS].copy(Path(copy))
                    puts, waiting = fill(study, rng, waiting, alone, absent)
                    if not puts:
                        continue
                    findings = fastseg.check(study.store())
                    for name, one in puts.items():
                        put[name, kind] += 1
                        found[name, kind] += is_found(findings, one)
                        if not is_found(findings, one):
                            print(f"missed: {name} in {kind}, {one}", flush=True)
    return found, put


def fill(
    study: Study,
    rng: np.random.Generator,
    waiting: list[str],
    alone: set[str],
    absent: set[str],
) -> tuple[dict[str, Put], list[str]]:
    """Put faults into different patients; return them, and what has to wait.

    alone  : faults of many patients, which get a study of their own
    absent : faults for which this kind of phantom has no place
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
        one = FAULTS[name](study, rng)
        hidden = {
            key: rings
            for key, rings in everything.items()
            if study.images[key[0]].patient in taken
        }
        study.contours = {**study.contours, **hidden}
        if one is None:
            absent.add(name)
            continue
        patients = {patient_of[path] for path in one.paths}
        if patients & taken or (puts and len(patients) > MOST_PATIENTS):
            # It cannot be taken back: what lies under it does not count.
            if len(patients) > MOST_PATIENTS:
                alone.add(name)
            return {}, waiting[:]
        puts[name] = one
        taken |= patients
        rest = len(set(patient_of.values())) - len(taken)
        if name in alone or len(patients) > MOST_PATIENTS or rest < MOST_PATIENTS:
            break
    return puts, [name for name in waiting if name not in puts and name not in absent]


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


def clean_findings(
    options: argparse.Namespace,
) -> Iterator[tuple[str, int, Counter[str]]]:
    """Yield the kind, the number of samples and the rules that found something."""
    for kind, link in KINDS.items():
        seed, samples = options.first_seed + 500, 0
        while samples < options.clean // len(KINDS):
            with tempfile.TemporaryDirectory() as folder:
                study = Study.phantom(
                    Path(folder), kind, link, patients=options.patients, seed=seed
                )
                findings = fastseg.check(study.clean)
                rules = Counter(f.rule for f in findings if f.severity != "note")
                for finding in findings.at_least("warning"):
                    print(f"{kind}, seed {seed}: {finding.rule}: {finding.text}")
                yield kind, len(study.clean), rules
                seed, samples = seed + 1, samples + len(study.clean)


def print_clean(options: argparse.Namespace) -> None:
    """Print how many findings clean data have."""
    samples: Counter[str] = Counter()
    wrong: Counter[tuple[str, str]] = Counter()
    for kind, count, rules in clean_findings(options):
        samples[kind] += count
        for rule, times in rules.items():
            wrong[kind, rule] += times
    total = sum(samples.values())
    print(
        f"clean: {sum(wrong.values())} findings above a note in {total} samples, "
        f"{1000 * sum(wrong.values()) / max(total, 1):.2f} in a thousand"
    )
    for (kind, rule), times in wrong.most_common():
        print(f"  {rule} in {kind}: {times}")


if __name__ == "__main__":
    main()
