"""Several faults in one study, each in another patient."""

from collections.abc import Iterable

import numpy as np

import fastseg
from fastseg.quality.findings import Finding
from fastseg.quality.rule import Rule
from tests.quality.study import Fault, Put, Study


def put_all(study: Study, faults: Iterable[Fault], seed: int) -> list[Put]:
    """Put faults into a study, each into a patient that has none yet."""
    rng = np.random.default_rng(seed)
    patient_of = {image.path: image.patient for image in study.images}
    taken: set[str] = set()
    puts = []
    for fault in faults:
        hidden = {
            key: study.contours.pop(key)
            for key in list(study.contours)
            if study.images[key[0]].patient in taken
        }
        put = fault(study, rng)
        study.contours |= hidden
        assert put is not None
        patients = {patient_of[path] for path in put.paths}
        assert not patients & taken, "choose another seed"
        taken |= patients
        puts.append(put)
    return puts


def check(study: Study, rules: Iterable[type[Rule]]) -> fastseg.Findings:
    """Build a study and ask rules about it."""
    return fastseg.check(study.store(), rules=[rule.name for rule in rules])


def missed(findings: fastseg.Findings, puts: Iterable[Put]) -> list[Put]:
    """Return the faults that no finding of their rule names."""
    return [
        put
        for put in puts
        if not any(
            finding.rule == put.rule
            and (not put.label or put.label in finding.classes)
            and {*findings.facts.sources(finding.samples)} & {*put.paths}
            for finding in findings
        )
    ]


def elsewhere(findings: fastseg.Findings, puts: Iterable[Put]) -> list[Finding]:
    """Return the findings above a note of patients without a fault."""
    store = findings.store
    names = {path for put in puts for path in put.paths}
    faulty = {
        store.patients.index(store[k].patient)
        for k, name in enumerate(findings.facts.sources(range(len(store))))
        if name in names
    }
    return [
        finding
        for finding in findings.at_least("warning")
        if store.patients.index(store[finding.samples[0]].patient) not in faulty
    ]
