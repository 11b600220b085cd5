"""The faulty study of the sample data: `check` finds what its list names."""

import csv

import pytest

import fastseg
from fastseg.errors import CopiesWarning


def test_each_listed_fault_is_found(studies, tmp_path):
    """By its rule, at its file."""
    root = studies["faulty"]
    with pytest.warns(CopiesWarning, match="1 image is in the store under several"):
        report = fastseg.build(fastseg.link(root), tmp_path / "a.h5")
    store = fastseg.open(report.path)
    findings = fastseg.check(store)
    with (root / "faults.csv").open(newline="") as file:
        faults = list(csv.DictReader(file))
    assert len(faults) == 7
    contours = {link.contour_path: link.dicom_path for link in fastseg.link(root).links}
    for fault in faults:
        image = contours.get(fault["file"], fault["file"])
        found = [
            finding
            for finding in findings.of(rule=fault["rule"])
            if image in findings.facts.sources(finding.samples)
        ]
        assert found, fault
    assert findings.counts()["error"] >= 4
