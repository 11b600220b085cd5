"""Findings as files: a CSV table, JSON, or a page; which ones were accepted."""

import json
from io import FileIO
from pathlib import Path
from typing import Any

from fastseg.calls import check_call
from fastseg.errors import OptionError, shown
from fastseg.escapes import escaped
from fastseg.findings_table import TABLE, read_rows
from fastseg.outputs import write_atomically
from fastseg.paths import StrPath, as_path
from fastseg.progress import Progress, silent
from fastseg.quality.facts import Facts
from fastseg.quality.findings import Finding, Findings

# How a file of findings in JSON begins.
JSON_START = b'{\n "format": "fastseg-findings"'
SUFFIXES = (".csv", ".json", ".html")


class _JsonKind:
    """The kind of output that `write_findings` writes as JSON, see `outputs.Kind`."""

    name = "findings in JSON"

    def recognises(self, file: FileIO) -> bool:
        """Return whether a file begins as ours do."""
        return file.read(len(JSON_START)) == JSON_START


JSON = _JsonKind()


def check_suffix(path: StrPath) -> str:
    """Return the suffix of an output, or raise OptionError if it is none of ours."""
    suffix = as_path("path", path).suffix.lower()
    if suffix not in SUFFIXES:
        raise OptionError(
            f"{escaped(str(path))}: ends in {shown(suffix)}, expected one of "
            f"{', '.join(SUFFIXES)}: a table, JSON or a page"
        )
    return suffix


@check_call("write_findings('report.html', findings)")
def write_findings(
    path: StrPath,
    findings: Findings,
    force: bool = False,
    progress: Progress = silent,
) -> Path:
    """Write findings and return the path of the file; its suffix says what it is.

    path  : ends in .html for a page with pictures, which needs Jinja2 and matplotlib;
        .csv for a table; .json for all that is known of them
    force : replace any file, not only an empty one or one that this has written
    progress : reports how far a page is, see `fastseg.progress`

    Raises OptionError for another suffix, OutputError, MissingExtraError.
    """
    suffix = check_suffix(path)
    if suffix == ".csv":
        rows = (row for finding in findings for row in findings.rows(finding))
        return TABLE.save(path, rows, force)
    if suffix == ".json":
        with write_atomically(path, JSON, force) as (target, file):
            file.write(json.dumps(as_dict(findings), indent=1).encode())
        return target
    from fastseg.quality.report.page import write_report

    return write_report(path, findings, force=force, progress=progress)


def as_dict(findings: Findings) -> dict[str, Any]:
    """Return findings as texts, numbers, lists and dicts."""
    store = findings.store
    return {
        "format": "fastseg-findings",
        "store": store.name,
        "fingerprint": store.fingerprint,
        "samples": len(store),
        "rules": list(findings.rules),
        "not_run": findings.not_run,
        "thresholds": findings.thresholds,
        "counts": findings.counts(),
        "findings": [_as_dict(findings, finding) for finding in findings],
    }


def _as_dict(findings: Findings, finding: Finding) -> dict[str, Any]:
    sources = findings.facts.sources(finding.samples)
    return {
        "finding": finding.identity,
        "rule": finding.rule,
        "severity": finding.severity,
        "accepted": finding.is_accepted,
        "text": finding.text,
        "classes": list(finding.classes),
        "amount": finding.amount,
        "unit": finding.unit,
        "points": [list(point) for point in finding.points],
        "samples": [
            {
                "index": sample,
                "patient": findings.store[sample].patient,
                "source": source,
            }
            for sample, source in zip(finding.samples, sources, strict=True)
        ],
    }


def read_accepted(path: StrPath, facts: Facts) -> set[str]:
    """Return the identities of the findings of a table.

    Raises OptionError if it names no image of the store, and what `read_rows` raises.
    """
    rows = read_rows(path)
    if rows:
        ours = set(map(escaped, facts.sources(range(facts.count))))
        if not any(row.source in ours for row in rows):
            raise OptionError(
                f"{path}: names no image of {facts.store.name}; are these "
                "findings of another store?"
            )
    return {row.finding for row in rows}
