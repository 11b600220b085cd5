"""The command that looks for what is wrong with labels and images."""

import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer

import fastseg
from fastseg.choices import Severity
from fastseg.cli.executors import Dask, Processes, executor_of_options
from fastseg.cli.terminal import AsJson, Force, Output, command, in_folder
from fastseg.errors import OptionError, shown
from fastseg.reprs import many

# Exit status if there is a finding that fails the check.
EXIT_FINDINGS = 4
# Findings that are printed; files have all of them.
FINDINGS_SHOWN = 20
RULE_LINE = 76


def _outputs(paths: list[Path] | None) -> list[Path]:
    return [in_folder(path) for path in paths or []]


@command
def check(
    output: Output,
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Store to look at.")],
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "--out",
            "-o",
            help="File to write all findings to: .html is a page with pictures, .csv a "
            "table, .json has all that is known. Repeat the option for several.",
            callback=_outputs,
        ),
    ] = None,
    fail_on: Annotated[
        Severity,
        typer.Option(
            help="Exit with status 4 if there is a finding of this severity or a worse "
            "one that is not accepted."
        ),
    ] = "error",
    accept: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Table of findings that somebody has looked at and found right.",
        ),
    ] = None,
    inside: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<inner:outer>",
            help="A class that must lie inside another. Repeat the option for several.",
            show_default="those that mostly do",
        ),
    ] = None,
    splits: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Table of a split: also look for what is in several of its parts.",
        ),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(help="Ask only this rule. Repeat the option for several."),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(help="Do not ask this rule. Repeat the option for several."),
    ] = None,
    thresholds: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="<rule.threshold=number>",
            help="Change a threshold of a rule. Repeat the option for several.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="Number of threads.", show_default="one per core"),
    ] = None,
    processes: Processes = None,
    dask: Dask = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Look for what is wrong with the labels and images of a store.

    The exit status is 4 if there is an error, see --fail-on.

    Example: `fastseg check heart.h5 -o report.html -o findings.csv`

    What was looked at and found right: `fastseg check heart.h5 --accept accepted.csv`

    Which rules there are: `fastseg rules`
    """
    from fastseg.quality.findings_file import as_dict, check_suffix

    paths = out or []
    for path in paths:
        check_suffix(path)
        if paths.count(path) > 1:
            raise OptionError(f"--out is {shown(str(path))} twice, name other files")
    numbers = {
        name: _number(value, text)
        for text in thresholds or []
        for name, value in [_two("--set", text, "=", "rule.threshold=number")]
    }
    pairs = [_two("--inside", text, ":", "inner:outer") for text in inside or []]
    advice = "run the same command again"
    with executor_of_options(output, processes, dask, advice) as executor:
        findings = fastseg.check(
            store,
            rules=rule or None,
            skip=skip or (),
            thresholds=numbers,
            inside=pairs,
            splits=splits,
            accept=accept,
            threads=threads,
            executor=executor,
            progress=output.progress,
        )
    if as_json:
        output.json(as_dict(findings))
    else:
        _print(output, findings)
    for path in paths:
        written = fastseg.write_findings(path, findings, force, output.progress)
        output.written(path, written)
        output.say(f"written: {path}")
    if findings.at_least(fail_on):
        raise typer.Exit(EXIT_FINDINGS)


def _two(option: str, text: str, separator: str, expected: str) -> tuple[str, str]:
    """Return the texts on both sides of a separator."""
    before, found, after = text.partition(separator)
    if not (found and before and after):
        raise OptionError(f"{option} is {shown(text)}, expected {expected}")
    return before, after


def _number(value: str, text: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise OptionError(
            f"--set is {shown(text)}, expected a number after ="
        ) from None


def _print(output: Output, findings: "fastseg.Findings") -> None:
    """Print how many findings there are of each rule, and the first ones."""
    from fastseg.findings_table import SEVERITIES

    counts = findings.counts()
    accepted = sum(finding.is_accepted for finding in findings)
    numbers = [many(counts[severity], severity) for severity in SEVERITIES]
    output.say(
        f"{findings.store.path}: {many(len(findings.store), 'sample')}, "
        f"{', '.join(numbers)}" + (f", {accepted} accepted" if accepted else "")
    )
    wanted = [finding for finding in findings if not finding.is_accepted]
    rows = [
        (
            finding.severity,
            finding.rule,
            findings.store[finding.samples[0]].patient,
            ", ".join(map(str, finding.samples[:2]))
            + (", ..." if len(finding.samples) > 2 else ""),
            finding.text,
        )
        for finding in (wanted if output.verbose else wanted[:FINDINGS_SHOWN])
    ]
    if rows:
        output.say("")
        output.table(rows, ("severity", "rule", "patient", "samples", "what"))
    if len(wanted) > len(rows):
        output.say(
            f"and {len(wanted) - len(rows)} more (--verbose lists all, -o writes them)"
        )
    if findings.not_run:
        output.say("")
        for name, reason in findings.not_run.items():
            output.say(f"not asked: {name}, as {reason}")


@command
def rules(output: Output, as_json: AsJson = False) -> None:
    """List the rules of `fastseg check`: what each finds, and its thresholds.

    Example: `fastseg rules --json`
    """
    from fastseg.quality.rule import thresholds_of
    from fastseg.quality.rules import RULES

    if as_json:
        output.json({"rules": [_rule_as_dict(rule) for rule in RULES.values()]})
        return
    for name, rule in RULES.items():
        output.say(f"{name} ({rule.severity}): {rule.title}")
        cost = " ".join((rule.__doc__ or "").split())
        for line in textwrap.wrap(cost, RULE_LINE):
            output.say(f"    {line}")
        for field in thresholds_of(rule):
            meaning, unit = field.metadata["meaning"], field.metadata["unit"]
            output.say(
                f"    --set {name}.{field.name}={field.default:g}: {meaning} ({unit})"
            )


def _rule_as_dict(rule: Any) -> dict[str, Any]:
    from fastseg.quality.rule import thresholds_of

    return {
        "name": rule.name,
        "severity": rule.severity,
        "title": rule.title,
        "cost": " ".join((rule.__doc__ or "").split()),
        "thresholds": [
            {
                "name": field.name,
                "default": field.default,
                "unit": field.metadata["unit"],
                "meaning": field.metadata["meaning"],
            }
            for field in thresholds_of(rule)
        ],
    }
