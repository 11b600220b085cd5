"""Findings that are written down, not found, and a store with hostile names."""

import csv
import shutil
from dataclasses import replace

import fastseg
from fastseg.quality.facts import Facts
from fastseg.quality.findings import Finding, Findings
from fastseg.quality.rules import RULES

SCRIPT = "</script><script>document.title = 'hacked'</script>"
HANDLER = '"><img src=x onerror="document.title=\'hacked\'">'
MATH = r"$\frac$ \u202eevil"


def finding(**changes):
    """Return a finding with some values changed."""
    values = {
        "rule": next(iter(RULES)),
        "severity": "error",
        "text": "icontour lies outside ocontour.",
        "samples": (3,),
        "classes": (),
        "amount": 1.5,
        "unit": "mm",
    }
    return Finding(**values | changes)


def findings_of(store, found, not_run=None):
    """Return findings as `check` does."""
    named = [replace(one, identity=f"{k:016x}") for k, one in enumerate(found)]
    return Findings(named, facts=Facts(store), rules=list(RULES), not_run=not_run or {})


def some_findings(store, count):
    """Return as many findings of all severities, each of other samples."""
    found = []
    for k in range(count):
        sample = k % len(store)
        contours = store[sample].contours
        name = [*contours, None][k % (len(contours) + 1)]
        points = contours[name][0][:2].tolist() if name else []
        others = [(sample + 1 + k // len(store)) % len(store)] if k % 2 else []
        found.append(
            finding(
                rule=list(RULES)[k % len(RULES)],
                severity=("error", "warning", "note")[k % 3],
                text=f"number {k}: {name} is not as it should be.",
                samples=(sample, *others),
                classes=(name,) if name else (),
                points=tuple(map(tuple, points)),
                amount=float(k),
            )
        )
    return findings_of(store, found)


def hostile_store(study, folder):
    """Return a store whose patients, classes and files have names with HTML in them."""
    root = folder / "hostile"
    shutil.copytree(study, root)
    table = folder / "hostile.csv"
    fastseg.link(root).save(table)
    with table.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    patients = sorted({row["patient"] for row in rows})
    labels = sorted({row["label"] for row in rows})
    renamed = {}
    for row in rows:
        path = row["dicom_path"]
        if not renamed:
            name = HANDLER.replace("/", "")
            renamed[path] = f"{root.name}/{name}.dcm"
            (folder / path).rename(folder / renamed[path])
        row["dicom_path"] = renamed.get(path, path)
        row["patient"] = (HANDLER, MATH)[patients.index(row["patient"]) % 2]
        place = labels.index(row["label"])
        row["label"] = (SCRIPT, HANDLER, MATH, "'")[place % 4]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, reader.fieldnames)
        writer.writeheader()
        writer.writerows(rows)
    path = fastseg.build(table, folder / "hostile.h5").path
    return fastseg.open(path)
