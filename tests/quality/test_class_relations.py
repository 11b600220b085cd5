"""Rules about classes against each other."""

import numpy as np
import pytest

import fastseg
from fastseg.quality.class_relations import RULES
from fastseg.quality.overlaps import are_opposite
from tests.quality.faults import relations
from tests.quality.faulty import check, elsewhere, missed, put_all

PATIENT = "PHANTOM0003"
NAMES = [rule.name for rule in RULES]


def test_each_fault_is_found_and_nothing_else(cine, tmp_path):
    """Two faults of each kind, each in another patient."""
    study = cine.copy(tmp_path)
    puts = put_all(study, [*relations.FAULTS.values()] * 2, seed=2)
    findings = check(study, RULES)
    assert {put.rule for put in puts} == {*NAMES}
    assert not missed(findings, puts)
    assert not elsewhere(findings, puts)


def test_clean_data_have_no_finding(cine, chests):
    """Neither hearts nor chests."""
    for study in (cine, chests):
        assert not list(fastseg.check(study.clean, rules=NAMES))


def test_chests_have_classes_within_and_beside_each_other(chests, tmp_path):
    """A tumour lies within a lung, whose labels may be swapped."""
    study = chests.copy(tmp_path)
    puts = put_all(study, [*relations.FAULTS.values()], seed=1)
    findings = check(study, RULES)
    assert not missed(findings, puts)
    assert not elsewhere(findings, puts)


def test_a_contour_that_leaves_another_is_measured(cine, tmp_path):
    """In pixels and mm, with points where it does; images of a patient are one."""
    study = cine.copy(tmp_path)
    one, two, *_ = (i for i in study.labelled("ocontour") if i.patient == PATIENT)
    for image, shift in ((one, 3.0), (two, 5.0)):
        outer = study.contours[image.index, "ocontour"][0]
        inner = study.contours[image.index, "icontour"][0]
        # The rightmost point of the inner contour comes to lie right of the outer one.
        wall = outer[:, 0].max() - inner[:, 0].max()
        study.contours[image.index, "icontour"] = [inner + (wall + shift, 0)]
    # Papillary muscles have stayed, and so leave the inner contour.
    (finding,) = check(study, RULES[:1]).of(label="ocontour")
    assert finding.samples == (two.index, one.index)
    assert finding.classes == ("icontour", "ocontour")
    assert finding.severity == "error"
    spacing = study.clean[two.index].meta["spacing_mm"][1]
    assert finding.unit == "mm"
    assert finding.amount == pytest.approx(5 * spacing, rel=0.3)
    mask = finding_mask(study, two)
    assert f"{mask.sum()} pixels of icontour lie outside ocontour" in finding.text
    assert "1 more image" in finding.text
    assert "On 62 of 64 images, icontour lies inside" in finding.text
    x = np.array(finding.points)[:, 0]
    assert (x > inner[:, 0].max()).all()


def finding_mask(study, image):
    """Return the pixels of the inner contour outside the outer one."""
    shape = study.clean[image.index].image.shape
    rings = (study.contours[image.index, name] for name in ("icontour", "ocontour"))
    inner, outer = (fastseg.rasterize(those, shape) for those in rings)
    return inner & ~outer


def test_a_relation_with_many_exceptions_is_a_warning(cine, tmp_path):
    """Unless it is given."""
    study = cine.copy(tmp_path)
    for image in study.labelled("p1contour")[:8]:
        (ring,) = study.contours[image.index, "p1contour"]
        study.contours[image.index, "p1contour"] = [ring + 30]
    store = study.store()
    found = fastseg.check(store, rules="not-inside")
    assert {(f.severity, f.classes) for f in found} == {
        ("warning", ("p1contour", "icontour"))
    }
    pairs = [("p1contour", "ocontour"), ("icontour", "ocontour")]
    found = fastseg.check(store, rules="not-inside", inside=pairs)
    assert {(f.severity, f.classes) for f in found} == {
        ("error", ("p1contour", "ocontour"))
    }


def test_few_images_teach_nothing(cine, tmp_path):
    """One of two images may be an exception, or the rule."""
    study = cine.copy(tmp_path)
    kept = [image.index for image in study.labelled("ocontour")[:7]]
    for key in list(study.contours):
        if key[0] not in kept:
            del study.contours[key]
    ring = study.contours[kept[0], "icontour"][0]
    study.contours[kept[0], "icontour"] = [ring + 20]
    assert not list(check(study, RULES))


def test_labels_that_are_far_from_usual_are_not_swapped():
    """They must also be near to the opposite of what is usual."""
    rng = np.random.default_rng(0)
    usual = np.array([30.0, -5, 0, -0.7])
    rows = usual + rng.normal(0, [2, 2, 0.1, 0.1], (200, 4))
    rows[3] *= -1
    rows[5, :3] = 90
    assert np.flatnonzero(are_opposite(rows)).tolist() == [3]
    # Classes that differ in nothing cannot be told apart.
    assert not are_opposite(rng.normal(0, [2, 2, 0.1, 0.1], (200, 4))).any()


def test_the_outer_contour_that_does_not_contain_its_inner_one(real_data, tmp_path):
    """It is the one known fault of this kind in the Sunnybrook data here."""
    table = fastseg.link(real_data / "sunnybrook")
    store = fastseg.open(fastseg.build(table, tmp_path / "s.h5").path)
    (finding,) = fastseg.check(store, rules=NAMES)
    assert store[finding.samples[0]].meta["source"] == "dicoms/SCD0000101/59.dcm"
    assert (finding.rule, finding.severity) == ("not-inside", "error")
    assert "1 pixel of icontour lies outside ocontour" in finding.text
