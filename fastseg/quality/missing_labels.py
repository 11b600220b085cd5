"""Rules about labels that are not there.

A mask is 0 where nobody outlined anything, as it is outside of a contour: a network
cannot tell these apart. All findings are notes, because it is usual in many sets.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fastseg.quality.facts import Facts
from fastseg.quality.findings import Finding
from fastseg.quality.outliers import FEWEST_OTHERS
from fastseg.quality.robust import Indices, deviations, group_medians
from fastseg.quality.rule import Rule, threshold
from fastseg.reprs import many

# Patients without a class are listed one by one up to this number, and up to this
# fraction of all.
MOST_LISTED = 20
LARGEST_FRACTION = 0.5
# The least usual deviation of the fraction of samples that have a class.
FRACTION_FLOOR = 0.05


def count_by_patient(facts: Facts) -> tuple[Indices, NDArray[np.int64]]:
    """Count the samples of each patient that have something outlined, and each class.

    Returns int64 (p,) and int64 (p, K).
    """
    labels = facts.labels
    patients = len(facts.patient_names)
    has_label = facts.items["labelled"] != 0
    samples = np.bincount(facts.patient[has_label], minlength=patients)
    width = len(facts.classes)
    key = labels.patient * width + labels.klass
    counts = np.bincount(key, minlength=patients * width).reshape(patients, width)
    return samples, counts


class PatientWithoutClass(Rule):
    """All masks of the patient teach that the class is not there."""

    name = "patient-without-class"
    title = "A patient without any contour, or without one of a class"
    severity = "note"
    needs = "masks"

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each patient, or one for a class that many lack."""
        samples, counts = count_by_patient(facts)
        first = np.unique(facts.patient, return_index=True)[1]
        for patient in np.flatnonzero(samples == 0).tolist():
            theirs = np.flatnonzero(facts.patient == patient)
            yield Finding(
                rule=self.name,
                severity=self.severity,
                text=(
                    f"Nothing is outlined for this patient, on "
                    f"{many(len(theirs), 'sample')}."
                ),
                samples=tuple(theirs.tolist()),
                amount=float(len(theirs)),
                unit="samples",
            )
        with_labels = np.flatnonzero(samples)
        for k, name in enumerate(facts.classes):
            lacking = with_labels[counts[with_labels, k] == 0]
            few = min(MOST_LISTED, LARGEST_FRACTION * len(with_labels))
            if len(lacking) > few:
                yield Finding(
                    rule=self.name,
                    severity=self.severity,
                    text=(
                        f"{name} is not outlined for {len(lacking)} of "
                        f"{many(len(with_labels), 'patient')}."
                    ),
                    samples=tuple(np.sort(first[lacking]).tolist()),
                    classes=(name,),
                    amount=float(len(lacking)),
                    unit="patients",
                )
                continue
            for patient in lacking.tolist():
                theirs = np.flatnonzero(
                    (facts.patient == patient) & (facts.items["labelled"] != 0)
                )
                yield Finding(
                    rule=self.name,
                    severity=self.severity,
                    text=(
                        f"{name} is not outlined for this patient, but for "
                        f"{len(with_labels) - len(lacking)} of "
                        f"{many(len(with_labels), 'patient')}."
                    ),
                    samples=tuple(theirs.tolist()),
                    classes=(name,),
                    amount=float(len(theirs)),
                    unit="samples",
                )


class ClassOnPart(Rule):
    """A network learns from the other samples that the class is not there."""

    name = "class-on-part"
    title = "A class that is outlined on part of the samples"
    severity = "note"
    needs = "masks"
    deviations: float = threshold(
        5,
        "deviations",
        "how far the fraction of a patient's samples that have the class is below the "
        "usual one",
    )

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each class, and for each patient that has it rarely."""
        labelled = facts.items["labelled"]
        has_label = labelled != 0
        count = int(has_label.sum())
        if count < facts.count:
            yield self._about_store(facts, np.flatnonzero(~has_label), "Nothing", ())
        samples, counts = count_by_patient(facts)
        for k, name in enumerate(facts.classes):
            bit = labelled.dtype.type(1 << k)
            lacks = has_label & (labelled & bit == 0)
            if not lacks.any() or not counts[:, k].any():
                continue
            yield self._about_store(facts, np.flatnonzero(lacks), name, (name,))
            theirs = np.flatnonzero(counts[:, k])
            fraction = counts[theirs, k] / samples[theirs]
            if len(theirs) <= FEWEST_OTHERS:
                continue
            far = deviations(fraction, FRACTION_FLOOR)
            usual = float(group_medians(fraction, np.zeros_like(theirs), 1)[0])
            for row in np.flatnonzero(far < -self.deviations).tolist():
                patient = int(theirs[row])
                rows = np.flatnonzero(lacks & (facts.patient == patient))
                yield Finding(
                    rule=self.name,
                    severity=self.severity,
                    text=(
                        f"{name} is outlined on {counts[patient, k]} of "
                        f"{many(int(samples[patient]), 'sample')} of this patient that "
                        f"have a contour, usually on {100 * usual:.0f} %."
                    ),
                    samples=tuple(rows.tolist()),
                    classes=(name,),
                    amount=float(len(rows)),
                    unit="samples",
                )

    def _about_store(
        self, facts: Facts, lacking: Indices, what: str, classes: tuple[str, ...]
    ) -> Finding:
        """Return a finding that names the first sample of each patient concerned."""
        first = np.unique(facts.patient[lacking], return_index=True)[1]
        among = " that have a contour" if classes else ""
        total = int((facts.items["labelled"] != 0).sum()) if classes else facts.count
        verb = "is not" if classes else "is"
        return Finding(
            rule=self.name,
            severity=self.severity,
            text=(
                f"{what} {verb} outlined on {len(lacking)} of "
                f"{many(total, 'sample')}{among}; the first one of each patient is "
                "listed."
            ),
            samples=tuple(np.sort(lacking[first]).tolist()),
            classes=classes,
            amount=100 * len(lacking) / total,
            unit="percent",
        )


# In the order in which they are asked.
RULES: tuple[type[Rule], ...] = (
    PatientWithoutClass,
    ClassOnPart,
)
