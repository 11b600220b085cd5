"""Rules about contours, images and series that are there twice."""

import numpy as np
import pytest

import fastseg
from fastseg.quality.duplicates import RULES
from fastseg.quality.image_matches import find_rescaled
from tests.quality.faults import duplicates as faults
from tests.quality.faulty import check, missed, put_all

NAMES = [rule.name for rule in RULES]
# A build says itself that an image is there for several patients.
copies = pytest.mark.filterwarnings("ignore::fastseg.errors.CopiesWarning")
IMAGES = [faults.image_of_another, faults.image_twice, faults.image_rescaled]


@copies
def test_each_fault_is_found_and_nothing_else(cine, tmp_path):
    """Faults of contours and images, each in other patients."""
    study = cine.copy(tmp_path)
    chosen = [
        faults.another_patient,
        faults.shifted,
        faults.two_classes,
        faults.next_image,
        *IMAGES,
    ]
    puts = put_all(study, chosen, seed=3)
    findings = check(study, RULES)
    assert not missed(findings, puts)
    named = {path for put in puts for path in put.paths}
    for finding in findings:
        assert {*findings.facts.sources(finding.samples)} & named
        assert finding.amount == len(finding.samples) or finding.samples[1:] == ()


def test_clean_data_have_no_finding(cine):
    """Hearts of 16 patients, some of whose small contours are nearly the same."""
    assert not list(fastseg.check(cine.clean, rules=NAMES))


def test_chests_have_only_notes(tmp_path):
    """A spinal cord is the same on all slices."""
    table = fastseg.link("data/phantom_rt", slices="series")
    store = fastseg.open(fastseg.build(table, tmp_path / "chest.h5").path)
    found = fastseg.check(store, rules=NAMES)
    assert {(f.rule, f.severity) for f in found} == {("contour-repeated", "note")}


CHANGES = {
    "equal": lambda ring: ring,
    "another first vertex and direction": lambda ring: np.roll(ring[::-1], 5, axis=0),
    "the first vertex again at the end": lambda ring: np.append(ring, ring[:1], axis=0),
    "rounded": lambda ring: ring.round(3),
    "each vertex twice": lambda ring: np.repeat(ring, 2, axis=0),
    "moved": lambda ring: ring + (5, -3),
}


def test_contours_of_another_patient(cine, tmp_path):
    """Whatever a tool does to a copy of a contour, it is the same contour."""
    study = cine.copy(tmp_path)
    images = {image.patient: image for image in study.labelled("ocontour")}
    chosen = [image.index for image in images.values()]
    pairs = list(zip(chosen[::2], chosen[1::2], strict=True))[: len(CHANGES)]
    for (image, other), change in zip(pairs, CHANGES.values(), strict=True):
        (ring,) = study.contours[image, "ocontour"]
        study.contours[other, "ocontour"] = [change(ring)]
    found = {finding.samples: finding for finding in check(study, RULES)}
    assert set(found) == set(pairs)
    for pair, name in zip(pairs, CHANGES, strict=True):
        assert found[pair].rule == "contour-across-patients"
        assert found[pair].severity == ("warning" if name == "moved" else "error")
        assert found[pair].classes == ("ocontour",)
        assert len(found[pair].rings) == 2


def test_a_contour_on_many_images_is_one_finding(cine, tmp_path):
    """One on an image each of 12 patients; copies beside each other and further on."""
    study = cine.copy(tmp_path)
    of_patient = {}
    for image in study.labelled("ocontour"):
        of_patient.setdefault(image.patient, []).append(image.index)
    *many, left, right = of_patient.values()
    (ring,) = study.contours[many[0][0], "ocontour"]
    for images in many:
        study.contours[images[0], "ocontour"] = [ring]
    study.contours[left[1], "ocontour"] = study.contours[left[0], "ocontour"]
    study.contours[right[2], "ocontour"] = study.contours[right[0], "ocontour"]
    found = {finding.samples: finding for finding in check(study, RULES)}
    everywhere = tuple(images[0] for images in many)
    beside, apart = (left[0], left[1]), (right[0], right[2])
    assert set(found) == {everywhere, beside, apart}
    assert f"{len(many)} patients" in found[everywhere].text
    # Somebody may have left it as it is on the next slice, but not on one further on.
    assert found[beside].severity == "note"
    assert found[apart].severity == "warning"
    assert found[beside].rule == found[apart].rule == "contour-repeated"


@copies
def test_a_series_of_two_patients_is_one_finding(cine, tmp_path):
    """All images of a patient under another one's name."""
    study = cine.copy(tmp_path)
    put = faults.series_twice(study, np.random.default_rng(0))
    found = check(study, RULES)
    assert [f.rule for f in found.of(severity="error")] == ["series-repeated"]
    assert len(found[0].samples) == 2 * len(put.paths)


def test_rescaled_images_are_told_from_others():
    """Noise, scaled and rounded; other noise has the same percentiles."""
    rng = np.random.default_rng(0)
    noise = rng.normal(1000, 100, (4, 32, 32)).round()
    images = [*noise, (0.25 * noise[1] + 3).round(), np.sort(noise[2].ravel())]
    images[-1] = images[-1].reshape(32, 32)
    found = find_rescaled(
        lambda k: images[k],
        np.zeros(len(images), np.int64),
        np.array([image.mean() for image in images]),
        np.array([image.std() for image in images]),
        np.array([np.percentile(image, [5, 50, 95]) for image in images]),
    )
    assert found.pairs.tolist() == [[1, 4]]
    assert found.scale[0] == pytest.approx(0.25, abs=0.01)
    assert found.offset[0] == pytest.approx(3, abs=2)
