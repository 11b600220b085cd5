"""Rules about labels along volumes and over time."""

from types import SimpleNamespace

import numpy as np

import fastseg
from fastseg.quality.along_volumes import RULES, between, find_swaps, loss_of_dice
from fastseg.quality.tracks import LAGS, Tracks, measure_shapes
from tests.quality.faults import volumes
from tests.quality.faulty import check, elsewhere, missed, put_all

NAMES = [rule.name for rule in RULES]


def test_each_fault_is_found_and_nothing_else(cine, tmp_path):
    """One fault of each kind, each in another patient."""
    study = cine.copy(tmp_path)
    puts = put_all(study, volumes.FAULTS.values(), seed=1)
    findings = check(study, RULES)
    assert {put.rule for put in puts} == {*NAMES}
    assert not missed(findings, puts)
    assert not elsewhere(findings, puts)
    for finding in findings:
        assert finding.amount > 0
        assert finding.classes[0] in finding.text


def test_clean_data_have_no_finding(cine):
    """Neither hearts nor chests, whose tumours have islands."""
    assert not list(fastseg.check(cine.clean, rules=NAMES))


def test_chests_have_no_finding(tmp_path):
    """Rings, holes, keyholes and islands of structure sets, on 3 patients."""
    table = fastseg.link("data/phantom_rt", slices="series")
    store = fastseg.open(fastseg.build(table, tmp_path / "chest.h5").path)
    assert not list(fastseg.check(store, rules=NAMES))


def test_a_gap_that_is_usual_is_a_note(cine, tmp_path):
    """A class that is outlined on every other slice in each patient."""
    study = cine.copy(tmp_path)
    for label, track in list(volumes.tracks(study)):
        if label == "p1contour":
            del study.contours[track[1], label]
    findings = check(study, RULES[:1])
    assert len(findings) == 16
    assert {finding.severity for finding in findings} == {"note"}


def test_a_swap_is_told_from_one_wrong_shape():
    """Discs of radii in order, with two swapped, or with one too large."""
    usual = [20, 22, 24, 26, 28, 30, 32, 34]

    def swaps(radii):
        # What is usual is known from other tracks.
        tracks, shapes = tracks_of_discs([radii, *[usual] * 5])
        return [swap[:2] for swap in find_swaps(tracks, shapes)]

    assert not swaps(usual)
    swapped = [*usual]
    swapped[3], swapped[4] = swapped[4], swapped[3]
    assert swaps(swapped) == [(3, 4)]
    apart = [*usual]
    apart[2], apart[4] = apart[4], apart[2]
    assert swaps(apart) == [(2, 4)]
    assert not swaps([*usual[:3], 36, *usual[4:]])


def test_the_largest_slice_beside_an_end_is_no_fault():
    """Discs of a small structure, whose second or third slice is the largest."""
    for radii in ([12, 16, 7], [7, 16, 12], [13, 16, 12, 7], [10, 16, 11]):
        tracks, shapes = tracks_of_discs([radii] * 6)
        assert not find_swaps(tracks, shapes)
        assert (loss_of_dice(shapes, between(shapes)) <= 0).all()


def tracks_of_discs(radii):
    """Return a track for each list of radii, slice by slice, and its shapes."""
    y, x = np.mgrid[:99, :99] - 49
    masks = np.array([x**2 + y**2 < radius**2 for track in radii for radius in track])
    track = np.repeat(np.arange(len(radii)), len(radii[0]))
    slot = np.tile(np.arange(len(radii[0])), len(radii))
    rows = np.arange(len(masks))
    after = rows[:, None] + np.arange(1, LAGS + 1)
    after[after >= len(rows)] = -1
    after[track[after] != track[:, None]] = -1
    shared = np.array([(masks[after[k]] & masks[k]).sum((1, 2)) for k in rows])
    tracks = Tracks(rows, track, slot, after, np.where(after < 0, 0, shared))
    pixels = masks.sum((1, 2))
    labels = SimpleNamespace(
        klass=np.zeros_like(rows),
        pixels=pixels,
        area_mm2=pixels * np.nan,
        centroid=np.full((len(rows), 2), 49.0),
    )
    return tracks, measure_shapes(labels, tracks)
