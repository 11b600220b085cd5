"""Rules on stores that lack what most have: none may fail, and none invents faults."""

import numpy as np
import pytest

import fastseg
from fastseg.links import LinkTable
from fastseg.quality.rules import RULES
from tests.quality.study import Study


def check_all(table, tmp_path, **options):
    report = fastseg.build(table, tmp_path / "odd.h5", **options)
    assert not report.rejects
    return fastseg.check(report.path)


@pytest.fixture
def study(tmp_path):
    """A small study of two patients."""
    return Study.phantom(tmp_path, patients=2, phases=2, slices=3, sizes=64)


def without(study, *keywords):
    """Remove elements from the headers of all images."""

    def remove(dataset):
        for keyword in keywords:
            del dataset[keyword]

    for image in study.images:
        study.change(image.path, remove)
    return fastseg.link(study.root)


def test_a_store_without_contours(study, tmp_path):
    """Rules about labels say why they did not run."""
    table = fastseg.link(study.root / "dicoms", slices="all")
    findings = check_all(table, tmp_path)
    assert not findings.at_least("warning")
    assert findings.not_run["area-unlike-others"]
    assert findings.not_run["outline-unlike-others"]


def test_a_store_without_spacing_and_volumes(study, tmp_path):
    """Areas are compared in pixels; nothing is known along volumes."""
    table = without(
        study, "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"
    )
    findings = check_all(table, tmp_path)
    assert not findings.at_least("warning")
    assert findings.not_run["area-jump"] == "the store has no volumes"


def test_a_store_of_one_sample_and_class(tmp_path):
    """It is compared with nothing."""
    study = Study.phantom(tmp_path, patients=1, phases=2, slices=1, sizes=64)
    table = fastseg.link(study.root, labels="ocontour")
    findings = check_all(table, tmp_path)
    assert len(findings.store) == 1
    assert not list(findings)


def test_a_compressed_store_has_the_same_findings(study, tmp_path):
    """Whatever is found."""
    pytest.importorskip("zstandard")
    study.contours[1, "icontour"] = [study.contours[1, "icontour"][0] + 12]
    study.set_pixels(study.images[2], np.zeros((64, 64), np.uint16))
    plain = fastseg.check(study.store())
    packed = check_all(fastseg.link(study.root), tmp_path, compress=True)
    assert [f.identity for f in plain] == [f.identity for f in packed]
    assert len(plain.at_least("warning")) >= 2


def test_contours_off_the_image_and_empty_masks(study, tmp_path):
    """A contour that covers no pixel has no area and no centre."""
    for key in list(study.contours)[:4]:
        study.contours[key] = [study.contours[key][0] + 500]
    findings = fastseg.check(study.store())
    assert {*findings.rules} == {*RULES}


def test_hundreds_of_rings_on_an_image(chests, tmp_path):
    """Specks that lie all over a contour."""
    study = chests.copy(tmp_path)
    image = study.labelled("heart")[0]
    (ring,) = study.contours[image.index, "heart"]
    middle = ring.mean(axis=0)
    moves = np.random.default_rng(0).uniform(-0.6, 0.6, (300, 1))
    specks = [middle + (ring - middle) * 0.03 + (ring[0] - middle) * k for k in moves]
    study.contours[image.index, "heart"] = [ring, *specks]
    findings = fastseg.check(study.store())
    assert len(findings.store[image.index].contours["heart"]) == 301
    assert image.index in findings.samples(severity="note")


def test_64_classes(study, tmp_path):
    """As many as a store may have, all with the same contour."""
    links = [link for link in fastseg.link(study.root).links if link.contour_path]
    of_image = {link.dicom_path: link for link in links}
    links = [
        link._replace(label=f"c{k}") for link in of_image.values() for k in range(64)
    ]
    findings = check_all(LinkTable(base=study.root, links=links), tmp_path)
    assert len(findings.store.classes) == 64
    assert "contour-of-two-classes" in {f.rule for f in findings}


def test_a_ring_of_many_vertices_in_noise(chests, tmp_path):
    """Each vertex may be the tip of a spike; they are looked at together."""
    study = chests.copy(tmp_path)
    image = study.labelled("heart")[0]
    (ring,) = study.contours[image.index, "heart"]
    angle = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    radius = 20 + np.random.default_rng(0).normal(0, 0.5, len(angle))
    middle = ring.mean(axis=0)
    noisy = middle + np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None]
    study.contours[image.index, "heart"] = [noisy]
    findings = fastseg.check(study.store())
    assert image.index in findings.samples(severity="note")
