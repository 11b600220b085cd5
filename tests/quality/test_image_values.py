"""Rules about the values and the geometry of images."""

import numpy as np
import pytest

import fastseg
from fastseg.quality.image_values import RULES
from tests.quality.faults.images import FAULTS
from tests.quality.faulty import check, elsewhere, missed, put_all

NAMES = [rule.name for rule in RULES]


def test_each_fault_is_found_and_nothing_else(cine, tmp_path):
    """One fault of each kind, each in another patient."""
    study = cine.copy(tmp_path)
    puts = put_all(study, FAULTS.values(), seed=1)
    findings = check(study, RULES)
    assert {put.rule for put in puts} == {*NAMES}
    assert not missed(findings, puts)
    assert not elsewhere(findings, puts)


def test_clean_data_have_no_finding(cine):
    """Of hearts."""
    assert not list(fastseg.check(cine.clean, rules=NAMES))


def test_a_constant_image_without_a_label_is_a_warning(cine, tmp_path):
    """A network may well learn that nothing is on it."""
    study = cine.copy(tmp_path)
    outlined = {index for index, _ in study.contours}
    image = next(image for image in study.images if image.index not in outlined)
    study.set_pixels(image, np.zeros_like(study.pixels(image)))
    (finding,) = check(study, RULES[:1])
    assert finding.severity == "warning"


@pytest.mark.parametrize(("share", "severity"), [(0.2, "warning"), (0.4, "note")])
def test_clipped_images_are_a_note_if_they_are_usual(cine, tmp_path, share, severity):
    """As in a set that was exported with its window."""
    study = cine.copy(tmp_path)
    images = study.images[: round(share * len(study.images))]
    for image in images:
        pixels = study.pixels(image)
        study.set_pixels(image, np.minimum(pixels, 300))
    findings = check(study, [rule for rule in RULES if rule.name == "clipped-image"])
    assert {finding.severity for finding in findings} == {severity}
    assert sorted(k for f in findings for k in f.samples) == [
        image.index for image in images
    ]


def test_an_image_turned_within_its_series_is_found(cine, tmp_path):
    """One image of twelve."""
    study = cine.copy(tmp_path)
    image = study.images[7]
    study.set_header(image, ImageOrientationPatient=[0, 1, 0, -1, 0, 0])
    findings = check(
        study, [rule for rule in RULES if rule.name == "orientation-unlike-rest"]
    )
    assert findings.facts.sources(findings[0].samples[:1]) == [image.path]
    assert findings[0].amount == pytest.approx(90)
