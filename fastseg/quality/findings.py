"""Finding and Findings: what `fastseg.check` returns."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from fastseg.calls import check_call
from fastseg.choices import Severity
from fastseg.errors import OptionError, choice, one_of
from fastseg.findings_table import SEVERITIES, at_least
from fastseg.quality.facts import Facts
from fastseg.reprs import many

# The most places of a finding that a picture marks.
MOST_POINTS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is wrong with samples, or may be.

    rule     : the name of the rule that found it
    severity : "error": it is wrong; "warning": it probably is; "note": it is usual in
        many data sets, and good to know
    text     : a sentence
    samples  : indices of the samples concerned; the first is the one to look at
    classes  : the classes concerned
    amount   : how much, in `unit`
    points   : (x, y) in pixels of the first sample: where to look, at most MOST_POINTS
    rings    : rows of `store.contours` concerned
    identity : 16 hex digits, a hash of rule, sources and classes. It is the same if the
        store is built again
    is_accepted : whether somebody has looked at it and found it right
    """

    rule: str
    severity: Severity
    text: str
    samples: tuple[int, ...]
    classes: tuple[str, ...] = ()
    amount: float
    unit: str
    points: tuple[tuple[float, float], ...] = ()
    rings: tuple[int, ...] = ()
    identity: str = ""
    is_accepted: bool = False


class Findings(Sequence[Finding]):
    """Findings of a store, the worst first, then by rule and sample.

    store   : the store that was checked
    facts   : what is known of it
    rules   : the names of the rules that were asked, in their order
    not_run : why a rule could not be asked, by its name
    thresholds : of these rules, by names such as "area-unlike-others.deviations"
    """

    def __init__(
        self,
        found: Iterable[Finding],
        *,
        facts: Facts,
        rules: Sequence[str],
        not_run: Mapping[str, str],
        thresholds: Mapping[str, float] = MappingProxyType({}),
    ):
        order = {severity: k for k, severity in enumerate(SEVERITIES)}
        rank = {name: k for k, name in enumerate(rules)}
        self._found = sorted(
            found, key=lambda f: (order[f.severity], rank[f.rule], f.samples)
        )
        self.facts = facts
        self.store = facts.store
        self.rules = tuple(rules)
        self.not_run = dict(not_run)
        self.thresholds = dict(thresholds)

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> list[Finding]: ...
    def __getitem__(self, index: int | slice) -> Finding | list[Finding]:
        """Return one finding, or a list of several."""
        return self._found[index]

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._found)

    def __repr__(self) -> str:
        counts = self.counts()
        parts = [many(counts[severity], severity) for severity in SEVERITIES]
        return f"<Findings of {self.store.name}: {', '.join(parts)}>"

    def counts(self) -> dict[Severity, int]:
        """Return how many findings there are by severity, without accepted ones."""
        found = [f.severity for f in self._found if not f.is_accepted]
        return {severity: found.count(severity) for severity in SEVERITIES}

    @check_call()
    def at_least(self, severity: Severity) -> list[Finding]:
        """Return those of a severity or a worse one, without accepted ones."""
        wanted = at_least(severity)
        return [f for f in self._found if f.severity in wanted and not f.is_accepted]

    @check_call()
    def of(
        self,
        *,
        rule: str | None = None,
        severity: Severity | None = None,
        label: str | None = None,
        patient: str | None = None,
    ) -> "Findings":
        """Return those of a rule, a severity, a class and a patient.

        Raises OptionError for a rule or severity that there is none, UnknownClassError,
        and OptionError for a patient that is not in the store.
        """
        found: Iterable[Finding] = self._found
        if rule is not None:
            known = choice("rule", rule, self.rules)
            found = [f for f in found if f.rule == known]
        if severity is not None:
            worst = choice("severity", severity, SEVERITIES)
            found = [f for f in found if f.severity == worst]
        if label is not None:
            self.store.class_index(label)
            found = [f for f in found if label in f.classes]
        if patient is not None:
            if patient not in self.store.patients:
                raise OptionError(one_of("patient", patient, self.store.patients))
            theirs = set(self.store.select(patients=patient).tolist())
            found = [f for f in found if not theirs.isdisjoint(f.samples)]
        return self._with(found)

    @check_call("findings.samples(severity='warning')")
    def samples(
        self, *, severity: Severity = "error", first_only: bool = False
    ) -> NDArray[np.int64]:
        """Return the samples that findings concern, sorted, int64 (n,).

        severity   : of findings of this severity or a worse one, without accepted ones
        first_only : of each finding, only the sample to look at; not its twins
        """
        wanted: set[int] = set()
        for finding in self.at_least(severity):
            wanted.update(finding.samples[:1] if first_only else finding.samples)
        return np.array(sorted(wanted), np.int64)

    def _with(self, found: Iterable[Finding]) -> "Findings":
        return Findings(
            found,
            facts=self.facts,
            rules=self.rules,
            not_run=self.not_run,
            thresholds=self.thresholds,
        )

    def rows(self, finding: Finding) -> Iterator[Sequence[Any]]:
        """Yield a row of `findings_table.TABLE` for each sample of a finding."""
        sources = self.facts.sources(finding.samples)
        for number, (sample, source) in enumerate(
            zip(finding.samples, sources, strict=True)
        ):
            # The image that it is compared with: of the first one, the next.
            other = sources[0] if number else next(iter(sources[1:]), "")
            yield (
                finding.identity,
                finding.rule,
                finding.severity,
                self.store[sample].patient,
                source,
                other,
                ", ".join(finding.classes),
                f"{finding.amount:.6g}",
                finding.unit,
                finding.text,
            )

    def accepting(self, identities: Iterable[str]) -> "Findings":
        """Return the same findings, those with these identities as accepted."""
        known = set(identities)
        return self._with(
            replace(f, is_accepted=True) if f.identity in known else f
            for f in self._found
        )
