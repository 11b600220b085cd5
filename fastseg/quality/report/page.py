"""`write_report`: orders findings, fills the templates and writes the page."""

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from fastseg.colours import colour_of
from fastseg.errors import missing_extra
from fastseg.escapes import escaped
from fastseg.findings_table import SEVERITIES, TABLE
from fastseg.outputs import check_input, check_target, write_atomically
from fastseg.paths import StrPath, as_path
from fastseg.progress import Advance, Progress, silent
from fastseg.quality.findings import Finding, Findings
from fastseg.quality.report import dataset
from fastseg.quality.report.dataset import count, line_of, number
from fastseg.quality.report.files import GENERATOR, REPORT
from fastseg.quality.report.panels import rings_of
from fastseg.quality.report.pictures import Picture, Pictures, draw_finding
from fastseg.quality.rule import thresholds_of
from fastseg.quality.rules import RULES
from fastseg.reprs import listed, many, short
from fastseg.store.text import decode
from fastseg.threads import map_ordered, usable_cores

# Findings that have pictures, and bytes of these together, about.
MOST_PICTURED = 1000
PICTURE_BYTES = 16_000_000
# No finding needs more.
MOST_BYTES = 400_000
# Of the samples, files and patients of a finding, the page names so many, and a finding
# is found by so many patients.
MOST_NAMED = 8
MOST_PATIENTS = 50
# Characters of a sentence or a name on the page.
MOST_TEXT = 1000
# Where the page may get things from: nowhere. Its one style and one script are known by
# their hashes, so that nothing else in it runs, whatever its names contain.
POLICY = (
    "default-src 'none'; img-src data:; style-src {style}; script-src {script}; "
    "base-uri 'none'; form-action 'none'"
)


class Limit(NamedTuple):
    """A threshold as the page lists it; `default` is "" if that was used."""

    name: str
    value: str
    unit: str
    meaning: str
    default: str


class RuleText(NamedTuple):
    """A rule as the page lists it.

    why    : what it costs to ignore what it finds
    reason : why it was not asked, "" if it was
    """

    name: str
    title: str
    why: str
    reason: str
    thresholds: list[Limit]


class Swatch(NamedTuple):
    """A class with a line as in the pictures; `number` is its bit."""

    number: int
    name: str
    colour: str
    style: int
    is_concerned: bool


class Card(NamedTuple):
    """A finding as its template takes it; all texts are plain.

    row          : the line of a table of findings that accepts it
    has_pictures : whether they follow
    """

    identity: str
    severity: str
    is_accepted: bool
    rule: int
    title: str
    text: str
    amount: str
    patients: list[int]
    classes: list[Swatch]
    facts: list[tuple[str, str]]
    row: str
    has_pictures: bool
    legend: list[Swatch]
    why: str
    is_first_of_rule: bool


def write_report(
    path: StrPath,
    findings: Findings,
    *,
    force: bool = False,
    threads: int | None = None,
    progress: Progress = silent,
) -> Path:
    """Write findings, with pictures, and the data set as one HTML page.

    force    : replace any file; otherwise only a report, or an empty file
    threads  : how many draw the pictures, by default one for each core

    The same findings give the same bytes. Returns the path of the page: where `path`
    points, if that is a symbolic link. Raises MissingExtraError without Jinja2 or
    matplotlib.
    """
    try:
        import jinja2
        import matplotlib  # noqa: F401
        from markupsafe import Markup
    except ImportError:
        raise missing_extra("writing reports", "report") from None
    path = as_path("path", path)
    for source in findings.store.paths:
        check_input(path, source, "the store", REPORT)
    check_target(path, REPORT, force)
    loader = jinja2.PackageLoader("fastseg.quality.report", "templates")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["line"] = line_of
    environment.filters["colour"] = colour_of
    content = Content(findings)
    style, script = (
        loader.get_source(environment, f"report.{suffix}")[0].strip()
        for suffix in ("css", "js")
    )
    with progress("plot", 1) as advance:
        of_dataset = content.dataset()
        advance()
    with (
        write_atomically(path, REPORT, force) as (target, file),
        progress("draw", len(findings)) as advance,
    ):
        template = environment.get_template("report.html")
        for text in template.generate(
            content.facets(),
            generator=GENERATOR,
            policy=POLICY.format(style=_hash(style), script=_hash(script)),
            style=Markup(style),
            script=Markup(script),
            dataset=of_dataset,
            header=TABLE.lines([TABLE.columns]),
            findings=content.cards(threads or usable_cores(), advance),
            drawn=content.drawn,
        ):
            file.write(text.encode())
    return target


def _hash(text: str) -> str:
    """Return what a policy calls a script or style."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


class Content:
    """What the page says of a store and its findings."""

    def __init__(self, findings: Findings):
        self.given = findings
        self.store = findings.store
        self.facts = findings.facts
        # The pictures and legends of findings, once `cards` has come to them.
        self.drawn: list[tuple[str, list[Picture], list[Swatch]]] = []
        self.rules = [
            _rule_text(name, findings.not_run.get(name, ""), findings.thresholds)
            for name in findings.rules
        ]
        self.rule_number = {name: k for k, name in enumerate(findings.rules)}
        # What is accepted comes last.
        self.findings = sorted(findings, key=lambda finding: finding.is_accepted)
        self.patient_names = [*map(short, self.facts.patient_names)]
        self.patients = [self._patients_of(finding) for finding in self.findings]

    def _patients_of(self, finding: Finding) -> list[int]:
        samples = list(finding.samples[:MOST_PATIENTS])
        return list(dict.fromkeys(self.facts.patient[samples].tolist()))

    def facets(self) -> dict[str, Any]:
        """Return what the template says of all findings, and what one filters by."""
        severity = Counter(finding.severity for finding in self.findings)
        pairs = Counter((finding.rule, finding.severity) for finding in self.findings)
        patients = Counter(k for of_one in self.patients for k in of_one)
        classes = Counter(
            name for finding in self.findings for name in set(finding.classes)
        )
        numbers = [
            [pairs[rule.name, name] for name in SEVERITIES] for rule in self.rules
        ]
        order = sorted(
            (k for k, of_rule in enumerate(numbers) if any(of_rule)),
            key=lambda k: [-n for n in numbers[k]],
        )
        asked = [rule for rule in self.rules if not rule.reason]
        contents = dataset.contents(self.store)
        asked_text = f"{many(len(asked), 'rule')} looked at {contents}."
        total = len(self.findings)
        without = total - len(self._pictured)
        hint = (
            f"{count(len(self._pictured))} findings have pictures, some of each rule; "
            f"{count(without)} have none, so that the page stays small. A check of "
            "fewer rules has pictures of more."
        )
        return {
            "store": {
                "name": short(self.store.name),
                "fingerprint": self.store.fingerprint,
                "contents": contents,
            },
            "totals": self._totals(),
            "severities": [(name, severity[name]) for name in SEVERITIES],
            "patients": [
                (k, self.patient_names[k], patients[k]) for k in sorted(patients)
            ],
            "classes": [
                (k, short(name), classes[name])
                for k, name in enumerate(self.store.classes)
                if classes[name]
            ],
            "accepted": sum(finding.is_accepted for finding in self.findings),
            "found_rules": [
                {"number": k, "title": self.rules[k].title, "counts": numbers[k]}
                for k in order
            ],
            "findings_count": total,
            "findings_text": many(total, "finding"),
            "without_pictures": hint if without else "",
            "asked_text": asked_text,
            "asked": [
                {
                    "name": rule.name,
                    "title": rule.title,
                    "why": rule.why,
                    "thresholds": rule.thresholds,
                    "found": sum(numbers[self.rule_number[rule.name]]),
                }
                for rule in asked
            ],
            "not_asked": [
                *(rule for rule in self.rules if rule.reason),
                *(
                    _rule_text(name, "left out of this check", {})
                    for name in RULES
                    if name not in self.rule_number
                ),
            ],
        }

    def _totals(self) -> str:
        counts = Counter(x.severity for x in self.findings if not x.is_accepted)
        parts = [many(counts[name], name) for name in SEVERITIES if counts[name]]
        accepted = len(self.findings) - sum(counts.values())
        return ", ".join([*parts, f"{accepted} accepted"] if accepted else parts)

    def dataset(self) -> dict[str, Any]:
        """Return what the template says of the data set."""
        from fastseg.quality.report.plots import draw_plots

        summary = self.store.summary()
        options = (f"{name} {value}" for name, value in summary["options"].items())
        return {
            "tiles": dataset.tiles(summary),
            "classes": dataset.class_rows(self.store),
            "plots": draw_plots(self.store),
            "buckets": dataset.bucket_rows(summary),
            "provenance": [
                ("fingerprint", summary["fingerprint"]),
                ("masks", ", ".join(options)),
            ],
        }

    @cached_property
    def _pictured(self) -> set[int]:
        """The findings that have pictures: of each rule about as many, in turn."""
        turn: Counter[str] = Counter()
        ranks = []
        for k, finding in enumerate(self.findings):
            ranks.append((turn[finding.rule], k))
            turn[finding.rule] += 1
        return {k for _, k in sorted(ranks)[:MOST_PICTURED]}

    @cached_property
    def _first_of_rule(self) -> dict[str, int]:
        found = enumerate(self.findings)
        return {finding.rule: k for k, finding in reversed([*found])}

    def cards(self, threads: int, advance: Advance) -> Iterator[Card]:
        """Yield the findings in order, with their pictures."""
        budget = min(MOST_BYTES, PICTURE_BYTES // max(len(self._pictured), 1))

        def draw(k: int) -> Pictures:
            if k not in self._pictured:
                return Pictures([], [])
            return draw_finding(self.store, self.findings[k], budget)

        drawn = map_ordered(draw, range(len(self.findings)), threads)
        for k, pictures in enumerate(drawn):
            card = self._card(k, pictures)
            if pictures.pictures:
                self.drawn.append((card.identity, pictures.pictures, card.legend))
            yield card
            advance()

    def _card(self, k: int, pictures: Pictures) -> Card:
        finding = self.findings[k]
        rule = self.rules[self.rule_number[finding.rule]]
        concerned = [self.store.class_index(name) for name in finding.classes]
        shown = dict.fromkeys([*concerned, *pictures.classes])
        swatches = [
            Swatch(
                n,
                short(self.store.classes[n]),
                colour_of(n),
                line_of(n),
                n in concerned,
            )
            for n in shown
        ]
        return Card(
            identity=finding.identity,
            severity=finding.severity,
            is_accepted=finding.is_accepted,
            rule=self.rule_number[finding.rule],
            title=rule.title,
            text=escaped(finding.text)[:MOST_TEXT],
            amount=_amount(finding),
            patients=self.patients[k],
            classes=swatches[: len(set(concerned))],
            facts=self._facts(k),
            row=TABLE.lines(islice(self.given.rows(finding), 1)),
            has_pictures=bool(pictures.pictures),
            legend=swatches if pictures.pictures else swatches[: len(set(concerned))],
            why=rule.why,
            is_first_of_rule=k == self._first_of_rule[finding.rule],
        )

    def _facts(self, k: int) -> list[tuple[str, str]]:
        """Return where a finding is: names and values."""
        finding = self.findings[k]
        if not finding.samples:
            return []
        store, items = self.store, self.store.items
        first = finding.samples[0]
        names = [self.patient_names[n] for n in self.patients[k]]
        facts = [("Patient" if len(names) == 1 else "Patients", listed(names))]
        samples = [str(n) for n in finding.samples[:MOST_NAMED]]
        more = len(finding.samples) - len(samples)
        text = ", ".join(samples) + (f" and {count(more)} more" if more else "")
        facts.append(("Sample" if len(finding.samples) == 1 else "Samples", text))
        (image,) = self.facts.sources([first])
        facts.append(("Image", escaped(image)[:MOST_TEXT]))
        rows = [
            row
            for row, klass, _ in rings_of(store, first)
            if row in finding.rings or store.classes[klass] in finding.classes
        ]
        sources = dict.fromkeys(store.contours["source"][rows].tolist())
        for source in list(sources)[:2]:
            facts.append(("Contours", self._path(source)))
        series = decode(store, [items["series"][first]])[0]
        if series:
            facts.append(("Series", series if len(series) < 20 else f"…{series[-14:]}"))
        volume = int(items["volume"][first])
        if volume >= 0:
            slices = store.volumes[volume].samples
            facts.append(("Slice", f"{first - slices[0] + 1} of {len(slices)}"))
        position, time = items["position_mm"][first], items["time"][first]
        if math.isfinite(position):
            facts.append(("Position", f"{position:.1f} mm"))
        if math.isfinite(time):
            facts.append(("Time", f"{time:g}"))
        return facts

    def _path(self, source: Any) -> str:
        (path,) = decode(self.store, [self.store.sources["path"][source]])
        return escaped(path)[:MOST_TEXT]


def _rule_text(name: str, reason: str, thresholds: Mapping[str, float]) -> RuleText:
    """Return how the page lists a rule, with the thresholds that were used."""
    rule = RULES[name]
    limits = []
    for field in thresholds_of(rule):
        full_name = f"{name}.{field.name}"
        value = thresholds.get(full_name, field.default)
        limits.append(
            Limit(
                full_name,
                f"{value:g}",
                field.metadata["unit"],
                field.metadata["meaning"],
                "" if value == field.default else f"{field.default:g}",
            )
        )
    why = " ".join((rule.__doc__ or "").split())
    return RuleText(name, rule.title, why, reason, limits)


def _amount(finding: Finding) -> str:
    """Return how much, with its unit; "" if that is no number."""
    if not math.isfinite(finding.amount):
        return ""
    unit = finding.unit
    if finding.amount == 1 and unit.endswith("s"):
        unit = unit[:-1]
    return f"{number(finding.amount)} {unit}".strip()
