"""The rule about splits: what is in two parts of a table."""

from collections.abc import Iterator

import numpy as np

from fastseg.quality.duplicates import find_series, same_images
from fastseg.quality.facts import Facts, Indices
from fastseg.quality.findings import Finding
from fastseg.quality.rule import Rule
from fastseg.reprs import many


class SplitLeak(Rule):
    """A network is measured by what it was trained on, so that it seems too good."""

    name = "split-leak"
    title = "A patient, series or image in two parts of a split"
    severity = "error"
    needs = "splits"

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each patient, series and image in several parts.

        Of a patient in several parts, series and images are not reported again.
        """
        parts = [
            np.unique(part, return_index=True)[0] for part in facts.splits.values()
        ]
        sample = np.concatenate([*parts, np.empty(0, np.int64)]).astype(np.int64)
        part = np.repeat(np.arange(len(parts)), [len(some) for some in parts])
        leaking = np.zeros(facts.count, bool)
        known: set[tuple[int, ...]] = set()
        for kind, code in (
            ("patient", facts.patient),
            ("series", _named_series(facts)),
            ("image", same_images(facts)),
        ):
            for rows in _divided(code[sample], part):
                samples = np.unique(sample[rows], return_index=True)[0]
                patient = facts.patient[samples]
                is_one = bool((patient == patient[0]).all())
                key = tuple(samples.tolist())
                if key in known or (is_one and kind != "patient" and leaking[key[0]]):
                    continue
                known.add(key)
                if kind == "patient":
                    leaking[samples] = True
                yield self._finding(facts, kind, samples, part[rows])

    def _finding(
        self, facts: Facts, kind: str, samples: Indices, part: Indices
    ) -> Finding:
        names = list(facts.splits)
        counts = np.bincount(part, minlength=len(names)).tolist()
        listed = [
            f"{many(count, 'sample')} in {names[k]}"
            for k, count in enumerate(counts)
            if count
        ]
        return Finding(
            rule=self.name,
            severity=self.severity,
            text=f"One {kind} is in several parts: {', '.join(listed)}.",
            samples=tuple(samples.tolist()),
            amount=float(len(samples)),
            unit="samples",
        )


def _named_series(facts: Facts) -> Indices:
    """Return the series of each sample; those without a UID differ by patient."""
    uid = facts.items["series"]
    of_uid = np.unique(uid, return_inverse=True)[1]
    own = find_series(facts) + of_uid.max(initial=0) + 1
    return np.where(uid == b"", own, of_uid)


def _divided(code: Indices, part: Indices) -> Iterator[Indices]:
    """Yield the rows of each code that have several parts."""
    order = np.argsort(code, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(code[order]) != 0)[: len(order)])
    for rows in np.split(order, starts[1:]):
        if len(rows) and (part[rows] != part[rows[0]]).any():
            yield rows


RULES: tuple[type[Rule], ...] = (SplitLeak,)
