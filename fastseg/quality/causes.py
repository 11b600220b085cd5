"""Findings that follow from others: one fault breaks several rules."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from fastseg.findings_table import SEVERITIES
from fastseg.quality.findings import Finding
from fastseg.quality.rules import RULES


def fold(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings, those that follow from another one as notes that say so.

    A finding follows from those of a rule that `explains` its rule, are at least as
    severe, share a class with it, and concern its first sample or at least half of its
    samples: of a pair, say, the one that is wrong.
    """
    found = list(findings)
    causes: dict[int, list[Finding]] = defaultdict(list)
    for cause in found:
        if RULES[cause.rule].explains:
            for sample in cause.samples:
                causes[sample].append(cause)
    return [_folded(finding, causes) for finding in found]


def _folded(finding: Finding, causes: dict[int, list[Finding]]) -> Finding:
    rules = [
        {cause.rule for cause in causes.get(sample, ()) if _explains(cause, finding)}
        for sample in finding.samples
    ]
    explained = sum(map(bool, rules))
    if finding.severity == "note" or not (
        rules[0] or 2 * explained >= len(finding.samples)
    ):
        return finding
    names = set().union(*rules)
    # Of causes that follow from each other, the first one.
    titles = [
        RULES[name].title[0].lower() + RULES[name].title[1:]
        for name in RULES
        if name in names and not any(name in RULES[one].explains for one in names)
    ]
    return replace(
        finding,
        severity="note",
        text=f"{finding.text} This may follow from another finding on the same image: "
        f"{'; '.join(titles)}.",
    )


def _explains(cause: Finding, finding: Finding) -> bool:
    """Return whether a finding of the same sample follows from a cause."""
    return (
        finding.rule in RULES[cause.rule].explains
        and SEVERITIES.index(cause.severity) <= SEVERITIES.index(finding.severity)
        and (
            not (cause.classes and finding.classes)
            or not set(cause.classes).isdisjoint(finding.classes)
        )
    )
