"""`fastseg rois`: from structure sets to a file of aliases, and back."""

import json

import pytest

import fastseg
from tests.sources.dicom_files import save_slice
from tests.structure_sets import make_contour, make_structure_set, save

SQUARE = [(0, 0, 0), (9, 0, 0), (9, 9, 0), (0, 9, 0)]
DOT = make_contour(SQUARE[:1])
MARK = make_contour(SQUARE[:1], kind="POINT")


@pytest.fixture
def clinic(tmp_path, monkeypatch):
    """The current folder, with clinic/: three structure sets."""
    for patient, names in {"A": ["Heart"], "B": ["HEART"], "C": ["Herat"]}.items():
        rois = {name: [make_contour(SQUARE)] for name in names}
        ds = make_structure_set(rois, patient=patient)
        save(ds, tmp_path / "clinic" / f"{patient}.dcm")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_become_a_file_that_shows_what_it_means(call, clinic):
    """The list, the file to start with, and the list with that file."""
    done = call("rois clinic -o a.toml")
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == [
        *str(fastseg.list_rois("clinic")).splitlines(),
        "3 names of ROIs in 3 structure sets of 3 patients",
        "a.toml: edit it, then `fastseg rois clinic --aliases a.toml`",
    ]
    done = call("rois clinic --aliases a.toml --roi lung=Lung*")
    assert done.status == 0
    assert done.out.splitlines()[-4:] == [
        "heart: 2 names in 2 of 3 patients",
        "lung: 0 names in 0 of 3 patients",
        "1 name of no class, but like one that has a class: Herat (heart?)",
        "no name matches 'Lung*' of lung",
    ]
    assert "no heart: C.dcm" in call("rois clinic --aliases a.toml -v").err
    done = call("rois clinic --roi a=Heart --match-case")
    assert "HEART  a?     like Heart" in done.out


def test_verbose_lists_patients_without_a_structure_set(call, clinic):
    """By one of their images each; else they are counted alone."""
    for patient in ("D", "E"):
        for number in (2, 1):
            path = clinic / "clinic" / patient / f"{number}.dcm"
            save_slice(path, number, patient=patient)
    save_slice(clinic / "clinic" / "a.dcm", 1, patient="A")
    done = call("rois clinic")
    note = "2 of 3 patients with images have no structure set"
    assert (done.out.splitlines()[-1], done.err) == (note, "")
    lines = call("rois clinic -v").err.splitlines()
    assert lines == [f"  no structure set: {x}/1.dcm" for x in "DE"]


def test_what_the_user_has_edited_is_kept(call, clinic):
    """An edited file is not replaced, and never the one that is read."""
    assert call("rois clinic -o a.toml -q") == (0, "", "")
    assert call("rois clinic -o a.toml -q") == (0, "", "")
    done = call("rois clinic -o a.toml --aliases a.toml --force")
    assert done.status == 2
    assert "is the file of aliases that is read" in done.err
    text = (clinic / "a.toml").read_text()
    (clinic / "a.toml").write_text(f'{text}lung = ["Lung"]\n')
    assert call("rois clinic -o a.toml").status == 2
    assert call("rois clinic -o b.toml --aliases a.toml").status == 0
    assert call("rois clinic -o a.toml --force").status == 0


def test_json_has_the_whole_list(call, clinic):
    """It is what `as_dict` returns, also with -q and --out."""
    expected = json.loads(json.dumps(fastseg.list_rois("clinic").as_dict()))
    assert json.loads(call("rois clinic --json -q -o a.toml").out) == expected
    assert [name["like"] for name in expected["names"]] == ["", "", "HEART"]
    listed = json.loads(call("rois clinic --json --aliases a.toml").out)
    assert listed["classes"] == [
        {
            "name": "heart",
            "patterns": ["HEART"],
            "names": ["HEART", "Heart"],
            "patients": 2,
            "missing": ["C.dcm"],
        }
    ]


def test_a_bad_structure_set_has_status_3(call, clinic):
    """It is named, the others are listed, and --allow-rejects makes the status 0."""
    for k in range(7):
        path = clinic / "clinic" / f"{k}.dcm"
        path.write_bytes((clinic / "clinic" / "A.dcm").read_bytes()[:-4])
    done = call("rois clinic")
    assert done.status == 3
    assert "3 names of ROIs in 3 structure sets" in done.out
    assert done.err.startswith("7 structure sets cannot be used:\n  clinic/0.dcm: ")
    assert "and 2 more (--verbose)" in done.err
    assert call("rois clinic -v --allow-rejects").err.count(".dcm: ") == 7
    assert call("rois clinic -v --allow-rejects").status == 0


def test_long_reasons_of_rejects_are_shortened_in_the_middle(call, tmp_path):
    """A thousand contours have numbers; the file, and --verbose, have all of them."""
    save_slice(tmp_path / "in" / "image", 0)
    rois = {"A": [make_contour(SQUARE)], "B": [make_contour(SQUARE), *[DOT, MARK] * 99]}
    save(make_structure_set(rois), tmp_path / "in" / "set")
    done = call(["link", tmp_path / "in", "-o", tmp_path / "a.csv"])
    assert done.status == 3
    (line,) = [line for line in done.err.splitlines() if "contours 2, 4" in line]
    assert 320 < len(line.partition("ROI ")[2]) < 330
    assert " ... " in line
    assert line.endswith("each: has fewer than three distinct points")
    done = call(["link", tmp_path / "in", "-o", tmp_path / "a.csv", "-v", "--force"])
    assert ", 190, 192, 194, 196, 198, each: has" in done.err
