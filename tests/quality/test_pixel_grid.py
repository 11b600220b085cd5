"""Rules about the grid of contours."""

import numpy as np
import pytest

import fastseg
from fastseg.quality.facts import Facts
from fastseg.quality.pixel_grid import RULES, PixelOffset, WholeNumbers, profiles
from tests.quality.faults.shape import circle, round_all, shift_all
from tests.quality.faulty import check, missed


def moved(study, shift):
    """Return the facts of a study whose contours are moved."""
    facts = Facts(study.clean)
    facts.__dict__["points"] = facts.points + np.array(shift)
    return facts


def test_contours_that_are_half_a_pixel_off_are_found(chests, tmp_path):
    """In the files, so that the masks are moved, too."""
    study = chests.copy(tmp_path)
    puts = [shift_all(study, np.random.default_rng(0))]
    (finding,) = findings = check(study, RULES)
    assert not missed(findings, puts)
    assert finding.severity == "warning"
    assert finding.amount == pytest.approx(np.hypot(0.5, 0.5), abs=0.15)
    assert len(finding.samples) >= 10


@pytest.mark.parametrize("shift", [(0.5, 0.5), (-0.5, -0.5), (0.5, -0.5), (1, 1)])
def test_the_shift_is_that_from_the_contours_to_the_edges(cine, shift):
    """Half a pixel in any direction, or one, if somebody counts from 1."""
    (finding,) = PixelOffset().find(moved(cine, shift))
    dx, dy = shift
    assert f"moved by ({-dx:+.2g}, {-dy:+.2g}) pixels" in finding.text
    assert "icontour" in finding.classes


@pytest.mark.parametrize("shift", [(0, 0), (0.2, 0.2), (0.5, 0), (0.5, 1)])
def test_other_shifts_are_no_other_grid(cine, chests, shift):
    """Least of all that of clean data."""
    assert not list(PixelOffset().find(moved(cine, shift)))
    assert not list(PixelOffset().find(moved(chests, shift)))


def test_real_contours_are_on_the_grid_of_their_images(real_data, tmp_path):
    """As far as two patients can tell; their vertices are at half pixels."""
    table = fastseg.link(real_data / "sunnybrook")
    store = fastseg.open(fastseg.build(table, tmp_path / "s.h5").path)
    found = fastseg.check(store, rules=[rule.name for rule in RULES])
    assert [f.text for f in found] == [
        f"All vertices of {name} lie at multiples of half a pixel."
        for name in ("icontour", "ocontour")
    ]


def test_rounded_vertices_are_found(chests, tmp_path):
    """Those of a class; where they lie is said."""
    study = chests.copy(tmp_path)
    puts = [round_all(study, np.random.default_rng(0))]
    (finding,) = findings = check(study, RULES[1:])
    assert not missed(findings, puts)
    assert finding.text == "All vertices of heart lie at the centres of pixels."
    (found,) = WholeNumbers().find(moved_store(study, 0.5))
    assert found.text == "All vertices of heart lie at the corners of pixels."
    assert not list(WholeNumbers().find(moved_store(study, 0.25)))


def moved_store(study, shift):
    """Return the facts of the store that was built, with its contours moved."""
    facts = Facts(fastseg.open(study.root.parent / "faulty.h5"))
    facts.__dict__["points"] = facts.points + shift
    return facts


@pytest.mark.parametrize("turn", [1, -1])
def test_a_profile_is_the_change_across_the_outline(turn):
    """From inside to outside, in whichever direction the ring runs."""
    y, x = np.mgrid[:40, :40]
    disc = np.hypot(x - 20, y - 20) <= 10
    ring = circle(np.array([20.0, 20.0]), 10.0, 60)[::turn]
    table = profiles(disc.astype(np.uint8), ring)
    assert np.abs(table).sum() == pytest.approx(1)
    assert table.sum() == pytest.approx(-1, abs=0.01)
    # The edge is at the outline: in the middle of each profile.
    assert abs(table.sum(axis=0).argmin() - table.shape[1] // 2) <= 1
    # And outside an image, or in one of a single row, nothing changes.
    assert not profiles(np.ones((1, 5)), ring).any()
