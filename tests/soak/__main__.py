"""Runs parts of the soak, two at a time, and prints a table of what happened."""

import argparse
import concurrent.futures
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.soak import Fault

# Tries of each part at scale 1: about an hour on two cores.
TRIES = {
    "stores": 150_000,
    "codecs": 35_000,
    "system_calls": 3_000,
    "metadata": 60_000,
    "dicom_files": 200_000,
    "structure_sets": 20_000,
    "interrupts": 3_000,
    "kills": 100,
    "executors": 40,
    "polygons": 5_000,
    "public_files": 100,
    "compiling": 160,
}
FAULTS_SHOWN = 20


def main():
    """Run what the arguments name; the exit status is 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(TRIES))
    parser.add_argument("--scale", type=float, default=1.0, help="tries: times this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one part, in this process")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(TRIES):
        parser.error(f"no part is named {', '.join(sorted(unknown))}")
    counts = {
        name: max(1, round(TRIES[name] * arguments.scale))
        for name in arguments.parts or TRIES
    }
    if arguments.json:
        ((name, tries),) = counts.items()
        return run_here(name, tries, arguments.seed)
    workers = min(2, os.cpu_count() or 1)
    print("| part | tries | outcomes | faults | minutes |\n|---|---|---|---|---|")
    faults = []
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        running = [
            pool.submit(run_apart, name, tries, arguments)
            for name, tries in counts.items()
        ]
        for done in concurrent.futures.as_completed(running):
            row, found = done.result()
            print(row, flush=True)
            faults += found
    for text in faults[:FAULTS_SHOWN]:
        print(f"\n{text}")
    return 1 if faults else 0


def run_here(name, tries, seed):
    """Run a part in this process; print its outcomes and faults as JSON."""
    run = importlib.import_module(f"tests.soak.{name}").run
    outcomes, faults = Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        for outcome in run(Path(folder).resolve(), tries, seed):
            if isinstance(outcome, Fault):
                faults.append(f"{name}: {outcome}")
            else:
                outcomes[outcome] += 1
    print(json.dumps({"outcomes": outcomes, "faults": faults}))
    return 1 if faults else 0


def run_apart(name, tries, arguments):
    """Run a part in another process; return its row of the table and its faults."""
    start = time.monotonic()
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.soak", name, "--json"]
    command += ["--scale", str(arguments.scale), "--seed", str(arguments.seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    minutes = (time.monotonic() - start) / 60
    try:
        result = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        error = done.stderr[-3000:]
        text = f"{name}: the process ended with {done.returncode}: {error}"
        result = {"outcomes": {}, "faults": [text]}
    outcomes = Counter(result["outcomes"])
    text = ", ".join(f"{count:,} {what}" for what, count in outcomes.most_common())
    faults = result["faults"]
    tried = sum(outcomes.values()) + len(faults)
    row = f"| {name} | {tried:,} | {text} | {len(faults)} | {minutes:.1f} |"
    return row, faults


if __name__ == "__main__":
    sys.exit(main())
