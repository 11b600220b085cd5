"""Rules about labels unlike the same class elsewhere, and about labels not there."""

import numpy as np
import pytest

import fastseg
from fastseg.quality import missing_labels, outliers
from fastseg.quality.outliers import beside_others, compare
from tests.quality.faults.outliers import FAULTS
from tests.quality.faulty import check, elsewhere, missed, put_all

RULES = (*outliers.RULES, *missing_labels.RULES)
NAMES = [rule.name for rule in RULES]


def test_each_fault_is_found_and_nothing_else(cine, tmp_path):
    """One fault of each kind, each in another patient."""
    study = cine.copy(tmp_path)
    puts = put_all(study, FAULTS.values(), seed=1)
    findings = check(study, RULES)
    assert {put.rule for put in puts} == {*NAMES}
    assert not missed(findings, puts)
    assert not elsewhere(findings, puts)
    notes = [
        f for f in findings if f.severity == "note" and "follow from" not in f.text
    ]
    assert {f.rule for f in notes} == {rule.name for rule in missing_labels.RULES}


def test_clean_data_have_only_notes(cine):
    """The classes that are outlined at one of two times, and images without any."""
    findings = fastseg.check(cine.clean, rules=NAMES)
    assert {f.severity for f in findings} == {"note"}
    amounts = {f.classes: f.amount for f in findings}
    assert amounts == {
        (): pytest.approx(100 / 3),
        ("ocontour",): 50,
        ("p1contour",): 50,
        ("p2contour",): 50,
    }


def test_few_others_say_nothing(cine, tmp_path):
    """A store with 10 labels of a class has no label with 10 others."""
    study = cine.copy(tmp_path)
    kept = [key for key in study.contours if key[1] == "icontour"][:10]
    study.contours = {key: study.contours[key] for key in kept}
    index, label = kept[0]
    study.contours[index, label] = [ring * 0.4 for ring in study.contours[kept[0]]]
    assert not check(study, outliers.RULES)


def test_an_unusual_patient_hides_no_unusual_label_of_another_one():
    """The labels of the one say nothing of what is usual, and are not found again."""
    rng = np.random.default_rng(1)
    values = rng.uniform(-1, 1, (200, 1))
    patient = np.arange(200) // 10
    values[patient == 7] += 5
    values[55] = 3
    zeros = np.zeros(200, np.int64)
    compared = compare(
        values, np.full(200, 0.05), zeros, np.arange(200), patient, limit=5
    )
    assert (compared.patient_far > 5).tolist() == (patient == 7).tolist()
    others = np.flatnonzero(compared.far > 5)
    assert others[patient[others] != 7].tolist() == [55]


def test_labels_are_compared_with_the_others_of_their_sample():
    """Against a loop, with unknown values and samples of one label."""
    rng = np.random.default_rng(0)
    sample = np.sort(rng.integers(0, 40, 150))
    off = rng.integers(0, 9, (150, 2)).astype(float)
    off[rng.random((150, 2)) < 0.3] = np.nan
    expected = np.full(off.shape, np.nan)
    for row in range(150):
        for axis in range(2):
            others = (sample == sample[row]) & (np.arange(150) != row)
            known = off[others, axis][np.isfinite(off[others, axis])]
            if len(known):
                expected[row, axis] = off[row, axis] - np.median(known)
    np.testing.assert_array_equal(beside_others(off, sample), expected)
