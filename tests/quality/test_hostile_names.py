"""Names of ROIs and patients are anybody's text: what comes of hostile ones."""

import csv
import json

import pydicom
import pytest

import fastseg
from tests.quality.study import Study

HOSTILE = (
    "<script>alert(1)</script>",
    '=HYPERLINK("http://a")',
    "\"'><img src=x onerror=alert(1)>",
    "+1, @SUM(1)",
    "red \x1b[31m",
    "two\nlines",
)
FORMULAS = ("=", "+", "-", "@", "\t", "\r")
PATIENT = "=cmd|' /C calc'!A0<b>"


@pytest.fixture
def findings(tmp_path):
    """Those of chests whose names are hostile, with constant images."""
    study = Study.phantom(tmp_path, "rtstruct", patients=1, slices=4, sizes=64)
    for image in study.images[:2]:
        study.set_pixels(image, 0 * study.pixels(image))
    for file in study.root.rglob("*.dcm"):
        dataset = pydicom.dcmread(file)
        dataset.PatientID = PATIENT
        for name, roi in zip(
            HOSTILE, dataset.get("StructureSetROISequence", []), strict=False
        ):
            with pydicom.config.disable_value_validation():
                roi.ROIName = name
        dataset.save_as(file)
    with pytest.warns(fastseg.errors.RejectedWarning):
        table = fastseg.link(study.root)
    # Names with characters that a terminal obeys come no further.
    assert not [name for name in table.classes if not name.isprintable()]
    assert {*HOSTILE[:4]} <= {*table.classes}
    with pytest.warns(fastseg.errors.RejectedWarning):
        path = fastseg.build(table, tmp_path / "a.h5").path
    found = fastseg.check(path)
    assert {*HOSTILE[:4]} & {name for f in found for name in f.classes}
    return found


def test_no_cell_of_the_table_is_a_formula(findings, tmp_path):
    """And what is read again names the same images."""
    path = fastseg.write_findings(tmp_path / "f.csv", findings)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert not [
        cell for row in rows for cell in row.values() if cell.startswith(FORMULAS)
    ]
    assert {row["patient"] for row in rows} == {f"'{PATIENT}"}
    again = fastseg.check(findings.store, accept=path)
    assert all(f.is_accepted for f in again)


def test_the_json_holds_the_names_as_they_are(findings, tmp_path):
    """In ASCII: whoever shows them escapes them."""
    path = fastseg.write_findings(tmp_path / "f.json", findings)
    content = json.loads(path.read_bytes().decode("ascii"))
    classes = {name for f in content["findings"] for name in f["classes"]}
    assert classes == {name for f in findings for name in f.classes}


def test_the_page_has_no_markup_of_theirs(findings, tmp_path):
    """Neither in texts nor in attributes."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    path = fastseg.write_findings(tmp_path / "f.html", findings)
    page = path.read_text()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "A0<b>" not in page
    assert "&lt;script&gt;alert" in page
