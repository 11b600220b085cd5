"""`list_rois`: the names in structure sets, and a file of aliases to start with."""

import tomllib
from collections import Counter, defaultdict

import numpy as np
import pydicom
import pytest

import fastseg
from fastseg.errors import LinkError, OptionError, OutputError
from fastseg.sources.aliases import Aliases
from tests.sources.dicom_files import save_slice
from tests.structure_sets import make_contour, make_structure_set, save

SQUARE = np.array([(0, 0, 0), (9, 0, 0), (9, 9, 0), (0, 9, 0)])


def rings(count):
    """Return closed contours, one on each slice."""
    return [make_contour(SQUARE + (0, 0, 3 * k)) for k in range(count)]


POINT = make_contour([(1, 2, 3)], kind="POINT")
BROKEN = make_contour(SQUARE, data="1\\2")
# The names of four patients, with the contours of each.
PATIENTS = {
    "A": {"Heart": rings(3), "Lung_L": rings(2), "ISO": [POINT]},
    "B": {"HEART": rings(4), "Lung_R": rings(2), "Liver": None},
    "C": {"Heart": rings(2), "Herat": rings(1), "Left Lung": rings(5), "PTV": []},
    "D": {"Heart": [*rings(1), BROKEN, POINT], "heart_v2": rings(1), "GTV [1]": None},
}


@pytest.fixture
def clinic(tmp_path):
    """A folder with the structure sets of four patients."""
    root = tmp_path / "clinic"
    for patient, rois in PATIENTS.items():
        save(make_structure_set(rois, patient=patient), root / patient / "RS")
    return root


def columns(table):
    return {
        name.name: (
            *(name.patients, name.structure_sets, name.empty, name.contours),
            dict(name.others),
        )
        for name in table.names
    }


def test_names_are_counted_by_patients_sets_and_contours(clinic):
    """Only closed contours that can be used count; others are told by their kind."""
    save(
        make_structure_set({"Heart": rings(2)}, patient="A", series=("S2",)),
        clinic / "A" / "RS2.dcm",
    )
    table = fastseg.list_rois(clinic)
    assert (table.structure_sets, table.patients) == (5, 4)
    assert columns(table) == {
        "Heart": (3, 4, 0, 8, {"POINT": 1, "invalid": 1}),
        "HEART": (1, 1, 0, 4, {}),
        "Herat": (1, 1, 0, 1, {}),
        "heart_v2": (1, 1, 0, 1, {}),
        "Lung_L": (1, 1, 0, 2, {}),
        "Left Lung": (1, 1, 0, 5, {}),
        "Lung_R": (1, 1, 0, 2, {}),
        "ISO": (0, 0, 0, 0, {"POINT": 1}),
        "Liver": (0, 0, 1, 0, {}),
        "PTV": (0, 0, 1, 0, {}),
        "GTV [1]": (0, 0, 1, 0, {}),
    }
    assert table.rejects == table.classes == table.several == table.notes == ()
    assert repr(table) == (
        f"<RoiList {clinic}: 11 names in 5 structure sets of 4 patients>"
        if len(str(clinic)) <= 40
        else f"<RoiList {str(clinic)[:37]}...: 11 names in 5 structure sets of "
        "4 patients>"
    )


def test_look_alikes_stand_together(clinic):
    """A line for each name, frequent ones first; near names say what they are like."""
    assert str(fastseg.list_rois(clinic)).splitlines() == [
        "patients  sets  contours  name",
        "       3     3         6  Heart      1 POINT, 1 invalid",
        "       1     1         4  HEART",
        "       1     1         1  Herat      like Heart",
        "       1     1         1  heart_v2   like Heart",
        "       1     1         5  Left Lung",
        "       1     1         2  Lung_L",
        "       1     1         2  Lung_R",
        "       0     0         0  GTV [1]    no contours in 1 set",
        "       0     0         0  ISO        1 POINT",
        "       0     0         0  Liver      no contours in 1 set",
        "       0     0         0  PTV        no contours in 1 set",
    ]


def test_aliases_show_what_matches_which_class(clinic):
    """Names of a class, those like one of it, then the others; and what is wrong."""
    rois = ["heart=Heart*", "lung_l=Lung_L|Pulmo*", "any=*_R|*_L"]
    table = fastseg.list_rois(clinic, rois=rois)
    assert str(table).splitlines() == [
        "patients  sets  contours  name       class",
        "       3     3         6  Heart      heart    1 POINT, 1 invalid",
        "       1     1         4  HEART      heart",
        "       1     1         1  heart_v2   heart",
        "       1     1         1  Herat      heart?   like Heart",
        "       1     1         2  Lung_L     lung_l",
        "       1     1         5  Left Lung  lung_l?  like Lung_L",
        "       1     1         2  Lung_R     any",
        "       0     0         0  GTV [1]    -        no contours in 1 set",
        "       0     0         0  ISO        -        1 POINT",
        "       0     0         0  Liver      -        no contours in 1 set",
        "       0     0         0  PTV        -        no contours in 1 set",
    ]
    assert table.summary() == [
        "11 names of ROIs in 4 structure sets of 4 patients",
        "heart: 3 names in 4 of 4 patients",
        "lung_l: 1 name in 1 of 4 patients",
        "any: 1 name in 1 of 4 patients",
        "2 names of no class, but like one that has a class: Herat (heart?), "
        "Left Lung (lung_l?)",
        "4 other names of no class",
        "no name matches 'Pulmo*' of lung_l",
        "heart: several ROIs on one series in 1 patient: Heart and heart_v2, as in "
        "D/RS",
        "`fastseg link` joins several ROIs of a class with --join, and else rejects "
        "them",
    ]
    assert [label.missing for label in table.classes] == [
        (),
        ("B/RS", "C/RS", "D/RS"),
        ("A/RS", "C/RS", "D/RS"),
    ]


def test_names_of_two_classes_are_summed_up(clinic):
    """A line names the classes and patterns; nothing is raised, so that all is seen."""
    table = fastseg.list_rois(clinic, rois=["heart=Heart*", "art=*art*"])
    assert (
        "3 names of several classes, 'heart' ('Heart*') and 'art' ('*art*'): Heart, "
        "HEART, heart_v2; give each name to its class, or narrow a pattern"
    ) in table.summary()
    assert [x.classes for x in table.names if x.name == "HEART"] == [("heart", "art")]
    assert table.several == ()


def test_several_rois_of_a_class_are_found_by_series(tmp_path):
    """Two on one series count, also in two files; two on two series do not."""
    save(make_structure_set([("GTV", rings(1))] * 2, patient="A"), tmp_path / "1.dcm")
    for k, series in enumerate(("S1", "S2")):
        rois = {"gtv": rings(1), f"CTV{k}": rings(1)}
        ds = make_structure_set(rois, patient="B", series=(series,))
        save(ds, tmp_path / f"2{k}.dcm")
        rois = {"Heart": rings(1), f"HEART{k}": [POINT]}
        ds = make_structure_set(rois, patient="C")
        save(ds, tmp_path / f"3{k}.dcm")
    several = [
        (x.label, x.names, x.patients, x.files)
        for x in fastseg.list_rois(tmp_path).several
    ]
    assert several == [
        ("GTV", ("GTV", "GTV"), 1, ("1.dcm",)),
        ("Heart", ("Heart", "Heart"), 1, ("30.dcm", "31.dcm")),
    ]


def test_bad_structure_sets_are_rejected_and_copies_left_out(clinic):
    """What cannot be read is named, and an equal file counts once."""
    data = (clinic / "A" / "RS").read_bytes()
    (clinic / "E").mkdir()
    (clinic / "E" / "copy.dcm").write_bytes(data)
    (clinic / "E" / "short.dcm").write_bytes(data[:-20])
    ds = make_structure_set({"Heart": rings(1)}, patient="B")
    ds.SOPInstanceUID = pydicom.dcmread(clinic / "B" / "RS").SOPInstanceUID
    save(ds, clinic / "B" / "RS.2")
    rois = {"": rings(1), "Cord": rings(1), "\t": None}
    save(make_structure_set(rois), clinic / "E" / "noname")
    save_slice(clinic / "F", 1, patient="F")
    table = fastseg.list_rois(clinic)
    assert table.structure_sets == 4
    reasons = {
        reject.file.removeprefix(f"{clinic}/"): reject.reason
        for reject in table.rejects
    }
    assert sorted(reasons) == ["B/RS", "B/RS.2", "E/short.dcm"]
    assert reasons["B/RS"] == (
        "has the SOPInstanceUID of B/RS.2 but other content; keep one"
    )
    assert table.notes == (
        "1 copy of structure sets are not counted",
        "1 ROI without a name or number that can be used, not counted; `fastseg "
        "link` lists them",
        "1 of 1 patient with images have no structure set",
    )
    assert table.without_set == ("F",)


def test_a_folder_without_structure_sets_is_an_error(tmp_path):
    """The message says what the folder holds."""
    with pytest.raises(LinkError, match="does not exist"):
        fastseg.list_rois(tmp_path / "none")
    save_slice(tmp_path / "images", 1)
    with pytest.raises(LinkError, match="has no RT structure sets; it holds 1 CT ser"):
        fastseg.list_rois(tmp_path)


def test_a_file_to_start_with_has_each_name_once(clinic, tmp_path):
    """Its classes are valid aliases; near and rare names are comments."""
    path = fastseg.list_rois(clinic).save_aliases(tmp_path / "aliases.toml")
    text = path.read_text()
    assert tomllib.loads(text) == {
        "heart": ["Heart"],
        "left_lung": ["Left Lung", "Lung_L"],
        "lung_r": ["Lung_R"],
    }
    assert '    "Heart",  # 4, with HEART\n' in text
    assert '    # "Herat",  # 1, like Heart\n' in text
    assert 'lung_r = ["Lung_R"]  # 1\n' in text
    table = fastseg.list_rois(clinic, rois=path)
    assert table.unused == ()
    assert [x.name for x in table.names if x.like_class] == ["Herat", "heart_v2"]


def test_frequent_names_become_classes_and_others_comments(tmp_path):
    """A class needs a tenth of the patients, or the other side of one that has them."""
    root = tmp_path / "clinic"
    for k in range(11):
        rois = {"Lung_L": rings(1), f"Odd {'abcdefghijk'[k]}": rings(1)}
        if k < 2:
            rois["Eye[*] R"] = rings(1)
        if k == 2:
            rois |= {"Eye[*] L": rings(1), '\u00c9tui "2"': rings(1)}
        ds = make_structure_set(
            rois, patient=f"P{k}", SpecificCharacterSet="ISO_IR 192"
        )
        save(ds, root / f"{k}.dcm")
    table = fastseg.list_rois(root)
    path = table.save_aliases(tmp_path / "a.toml")
    text = path.read_text(encoding="utf-8")
    classes = tomllib.loads(text)
    assert list(classes) == ["lung_l", "eye_r", "eye_l"]
    aliases = Aliases.of(classes)
    assert aliases.class_of("eye[*] r") == "eye_r"
    assert aliases.class_of("Eye1 R") is None
    # All the comments together are aliases, too, which have all other names.
    rest = text.partition("# Names that are in no class above")[2].splitlines()[3:]
    everything = Aliases.of(tomllib.loads("\n".join(line[2:] for line in rest)))
    names = [name.name for name in table.names]
    known = [x for x in names if aliases.class_of(x) or everything.class_of(x)]
    assert known == names


def test_a_file_with_aliases_keeps_their_classes(clinic, tmp_path):
    """The patterns stay, names like theirs follow as comments, and so do the others."""
    table = fastseg.list_rois(clinic, rois={"heart": ["Heart", "Cor*"]})
    text = table.save_aliases(tmp_path / "a.toml").read_text()
    assert (
        'heart = [\n    "Heart",\n    "Cor*",\n    # "Herat",  # 1, like Heart\n'
        '    # "heart_v2",  # 1, like Heart\n]\n'
    ) in text
    assert list(tomllib.loads(text)) == ["heart"]
    assert '# left_lung = [\n#     "Left Lung",  # 1\n' in text
    rois = Aliases.of(["heart=Heart"], match_case=True)
    text = fastseg.list_rois(clinic, rois=rois).save_aliases(tmp_path / "b.toml")
    assert "give --match-case" in text.read_text()


def test_an_edited_file_is_not_replaced(clinic, tmp_path):
    """An unedited one is, and so is any by force."""
    table = fastseg.list_rois(clinic)
    path = table.save_aliases(tmp_path / "aliases.toml")
    text = path.read_text()
    table.save_aliases(path)
    path.write_text(text.replace("Lung_R", "Lung_*"))
    with pytest.raises(OutputError, match="an unedited file of aliases"):
        table.save_aliases(path)
    assert "Lung_*" in path.read_text()
    table.save_aliases(path, force=True)
    assert path.read_text() == text
    with pytest.raises(OptionError, match=r"ends with \.toml"):
        table.save_aliases(tmp_path / "aliases.csv")


def test_real_structure_sets_are_counted_as_pydicom_does(real_data):
    """Contours and kinds of each name equal a loop with pydicom."""
    table = fastseg.list_rois(real_data / "sts")
    counts = defaultdict(Counter)
    for path in real_data.glob("sts/*/*/mask/RS.dcm"):
        ds = pydicom.dcmread(path)
        names = {roi.ROINumber: roi.ROIName for roi in ds.StructureSetROISequence}
        for item in ds.ROIContourSequence:
            for contour in item.ContourSequence:
                name = names[item.ReferencedROINumber]
                counts[name][contour.ContourGeometricType] += 1
    assert {x.name: {"CLOSED_PLANAR": x.contours, **x.others} for x in table.names} == {
        name: dict(kinds) for name, kinds in counts.items()
    }
    assert (table.patients, table.structure_sets) == (2, 6)
