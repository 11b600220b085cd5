"""Rules about the shape of contours."""

import numpy as np
import pytest

import fastseg
from fastseg.quality.shape import RULES
from tests.quality.faults import shape
from tests.quality.faulty import check, elsewhere, missed, put_all

NAMES = [rule.name for rule in RULES]
# Those that concern single contours.
FAULTS = [fault for name, fault in shape.FAULTS.items() if not name.startswith("all ")]
OF_ONE_RING = [
    shape.cross_itself,
    shape.add_spike,
    shape.jump,
    shape.add_tiny_ring,
    shape.move_outside,
    shape.move_across_border,
]


def test_each_fault_is_found_and_nothing_else(chests, tmp_path):
    """One fault of each kind, each in another patient."""
    study = chests.copy(tmp_path)
    puts = put_all(study, FAULTS, seed=1)
    findings = check(study, RULES)
    assert {put.rule for put in puts} == {*NAMES}
    assert not missed(findings, puts)
    assert not elsewhere(findings, puts)
    for finding in findings:
        # Where to look is said, in pixels of the first sample.
        assert finding.points
        assert finding.rings
        name = finding.classes[0]
        assert finding.text.startswith((f"The contour of {name} ", f"{name} "))


def test_faults_of_single_contours_are_found(cine, tmp_path):
    """In contour files, each fault twice."""
    study = cine.copy(tmp_path)
    puts = put_all(study, OF_ONE_RING * 2, seed=1)
    findings = check(study, RULES)
    assert not missed(findings, puts)
    assert not elsewhere(findings, puts)


def test_clean_data_have_no_finding_but_notes(cine, chests):
    """Islands, holes, keyholes and rings of CLOSEDPLANAR_XOR are no faults."""
    assert not list(fastseg.check(cine.clean, rules=NAMES))
    (note,) = fastseg.check(chests.clean, rules=NAMES)
    assert (note.rule, note.severity) == ("nested-rings", "note")
    assert note.classes == ("lung_right",)
    dependent = chests.clean.items["rule_dependent"]
    assert note.samples == tuple(np.flatnonzero(dependent).tolist())


def test_several_places_of_a_class_are_one_finding(chests, tmp_path):
    """With all points, the worst one first."""
    study = chests.copy(tmp_path)
    image = study.labelled("heart")[0]
    (ring,) = study.contours[image.index, "heart"]
    middle = ring.mean(axis=0)
    tips = [middle + 2.2 * (ring[3] - middle), middle + 1.8 * (ring[9] - middle)]
    ring = np.insert(np.insert(ring, 10, tips[1], axis=0), 4, tips[0], axis=0)
    study.contours[image.index, "heart"] = [ring, shape.circle(middle, 0.3, 6)]
    findings = check(study, RULES)
    (spikes,) = findings.of(rule="spike")
    assert "has 2 spikes, up to" in spikes.text
    assert np.array(spikes.points) == pytest.approx(np.array(tips), abs=0.01)
    (tiny,) = findings.of(rule="tiny-ring")
    assert tiny.points[0] == pytest.approx(tuple(middle), abs=0.01)
    assert len(tiny.rings) == 1


def test_a_loop_of_less_than_a_pixel_is_a_note(cine, tmp_path):
    """It changes no mask, or one pixel."""
    study = cine.copy(tmp_path)
    for image, size in zip(study.labelled("ocontour")[::8], (0.5, 3), strict=False):
        (ring,) = study.contours[image.index, "ocontour"]
        side = (ring[1] - ring[0]) / np.hypot(*(ring[1] - ring[0]))
        up = size * np.array([side[1], -side[0]])
        # From the start of an edge to the other side of its end, and back.
        loop = [ring[0] + size * side + up, ring[0] + size * side - up]
        loop += [ring[0] - size * side - up]
        study.contours[image.index, "ocontour"] = [np.insert(ring, 1, loop, axis=0)]
    found = check(study, RULES[:1])
    assert [f.severity for f in found] == ["warning", "note"]


def test_a_class_that_the_border_often_cuts_is_a_note(cine, tmp_path):
    """It is drawn that way."""
    study = cine.copy(tmp_path)
    moved = study.labelled("ocontour")[:8]
    for image in moved:
        (ring,) = study.contours[image.index, "ocontour"]
        middle = ring[:, 0].mean() + image.index % 3
        study.contours[image.index, "ocontour"] = [ring - (middle, 0)]
    store = study.store()
    (note,) = fastseg.check(store, rules="cut-by-border")
    assert note.severity == "note"
    assert len(note.samples) == len(moved)
    found = fastseg.check(
        store, rules="cut-by-border", thresholds={"cut-by-border.usual": 20}
    )
    assert {f.severity for f in found} == {"warning"}
    assert len(found) == len(moved)
