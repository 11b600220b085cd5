"""Names of ROIs that look alike stand together, and those of other sides never."""

from itertools import combinations

import pytest

from fastseg.sources.lookalikes import group_names, is_near, spelling_of

SAME = [
    ("Lung_L", "LUNG L", "LungL", "Left lung", "lung-lt", "LLung", "lung  left"),
    ("SpinalCord", "Spinal_Cord", "spinal cord", "SPINALCORD"),
    ("PTV_60", "PTV60", "ptv 60"),
    ("Oesophagus", "esophagus", "\u00d6sophagus", "O\u0308sophagus"),
    ("B\u00e9b\u00e9", "Be\u0301be\u0301", "bebe"),
    ("heart_v2", "Heart V2"),
]
NEAR = [
    ("Heart", "Herat"),
    ("Heart", "Haert_1"),
    ("Lung_L", "Lnug_L"),
    ("Heart", "heart_v2"),
    ("Heart", "Heart old"),
    ("Heart", "Heart1"),
    ("Bladder", "Blader"),
    ("Rectum", "Rektum"),
    ("Brainstem", "Brainstme"),
    ("Parotid_L", "Left Partoid"),
    ("Small Bowel", "Bowel_Small"),
    ("Spinal_Cord", "Spinlcord"),
    ("PTV-50", "PTV_50"),
]
FAR = [
    ("Lung_L", "Lung_R"),
    ("Lung_L", "Lungs"),
    ("Lung_L", "Lung"),
    ("lungl", "lungr"),
    ("lungl", "lung"),
    ("kidneylt", "kidneyrt"),
    ("femurdx", "femursx"),
    ("Left lung", "right lung"),
    ("PTV", "CTV"),
    ("PTV boost", "CTV boost"),
    ("CTV_HR", "CTV_IR"),
    ("CTVHR", "CTVLR"),
    ("GTVp", "GTVn"),
    ("PTV_50", "PTV_60"),
    ("GTV1", "GTV2"),
    ("PTV+3mm", "PTV+5mm"),
    ("T11", "T12"),
    ("L1", "L"),
    ("Brain", "Brainstem"),
    ("Heart", "Heart_PRV"),
    ("Eye_L", "Ear_L"),
    ("Lung", "Lump"),
    ("Rib", "Rbi"),
    ("***", "?"),
    ("", "Heart"),
]


@pytest.mark.parametrize("names", SAME, ids=lambda names: names[0])
def test_variants_have_one_spelling(names):
    """Case, separators, accents, and where the side stands, make no other name."""
    assert len({spelling_of(name).key for name in names}) == 1


@pytest.mark.parametrize(("one", "other"), NEAR)
def test_slips_and_versions_are_near(one, other):
    """A slip of a finger, a version, a number of one digit; in both directions."""
    assert spelling_of(one).key != spelling_of(other).key
    assert is_near(spelling_of(one), spelling_of(other))
    assert is_near(spelling_of(other), spelling_of(one))


@pytest.mark.parametrize(("one", "other"), FAR)
def test_other_structures_are_not_near(one, other):
    """Sides, targets, doses, margins and vertebrae are never taken for one another."""
    assert spelling_of(one).key != spelling_of(other).key
    assert not is_near(spelling_of(one), spelling_of(other))
    assert not is_near(spelling_of(other), spelling_of(one))


def test_names_stand_in_groups():
    """Frequent words come first; each name is in one group, and near names in it."""
    sizes = {"Cord": 3, "Lung_R": 8, "LUNG R": 1, "Lung_L": 9, "Heart": 7, "Herat": 1}
    sizes |= {"Hurt": 1, "Heart_PRV": 2, "Lungs": 4, "Empty": 0, "HEART": 2}
    patients = {name: range(size) for name, size in sizes.items()}
    groups = group_names(patients)
    expected = [
        (["Lung_L"], []),
        (["Lung_R", "LUNG R"], []),
        (["Lungs"], []),
        (["Heart", "HEART"], ["Herat"]),
        (["Heart_PRV"], []),
        (["Cord"], []),
        (["Hurt"], []),
        (["Empty"], []),
    ]
    assert groups == expected
    backwards = dict(reversed(patients.items()))
    assert group_names(backwards) == expected


def test_all_names_are_in_just_one_group():
    """Whatever is like what, no name is lost or doubled."""
    words = ["Heart", "Herat", "Haert", "HEART1", "Hearts", "Hart", "L", "R", "*", ""]
    names = [*words, *(f"{a} {b}" for a, b in combinations(words, 2))]
    groups = group_names({name: range(k % 7) for k, name in enumerate(names)})
    listed = [name for group in groups for name in (*group.names, *group.near)]
    assert sorted(listed) == sorted(names)
