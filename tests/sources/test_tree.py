"""DICOM files below a folder are found by content, and said to be what they are."""

import errno
import os
import random
import re
import shutil

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    BasicTextSRStorage,
    ParametricMapStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

import fastseg
from fastseg import dicom
from fastseg.errors import LinkError, OptionError, RejectedWarning
from fastseg.sources.repeats import find_repeats
from fastseg.sources.tree import read_tree
from tests.sources.dicom_files import make_frames, make_slice, save, save_slice, uid


def link_all(root):
    return fastseg.link(root, slices="all")


def save_object(path, sop_class, k=0, **elements):
    """Write a DICOM file without pixels."""
    ds = make_slice(k, SOPClassUID=sop_class, Modality="OT", **elements)
    for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated"):
        delattr(ds, keyword)
    return save(ds, path)


def test_patients_mixed_in_a_directory_are_told_apart(tmp_path):
    """Ten patients whose files lie in one folder, named anyhow, get their own rows."""
    names = [f"{k:x}{'.dcm' if k % 2 else ''}" for k in range(40)]
    random.Random(1).shuffle(names)
    for k, name in enumerate(names):
        save_slice(tmp_path / name, k // 10, patient=f"P{k % 10}", series=k % 10)
    table = link_all(tmp_path)
    assert table.rejects == ()
    assert [link.patient for link in table.links] == [
        f"P{k}" for k in range(10) for _ in range(4)
    ]
    assert [link.position_mm for link in table.links] == [0, 2, 4, 6] * 10
    for link in table.links:
        ds = pydicom.dcmread(tmp_path / link.dicom_path)
        assert (link.patient, link.series) == (ds.PatientID, ds.SeriesInstanceUID)
    assert table.notes == ("10 CT series of 10 patients",)
    assert table.unlabelled == len(table) == 40


def test_series_are_counted_by_modality(tmp_path):
    """The number of patients is that of all series, also of those without modality."""
    for k, modality in enumerate(["CT", "CT", "MR", None]):
        save_slice(tmp_path / f"{k}", patient=f"P{k // 2}", series=k, Modality=modality)
    (note,) = link_all(tmp_path).notes
    assert note == "2 CT, 1 MR and 1 unknown-modality series of 2 patients"
    assert read_tree(tmp_path).describe() == note


def test_series_with_the_same_positions_stay_apart(tmp_path):
    """Two series of a patient at the same positions are sorted one after the other."""
    for k in range(6):
        save_slice(tmp_path / f"{k}", k // 2, series=k % 2)
    table = link_all(tmp_path)
    series = [link.series for link in table.links]
    assert series == sorted(series)
    assert [link.position_mm for link in table.links] == [0, 2, 4] * 2
    assert [link.time for link in table.links] == [None] * 6
    assert table.notes == ("2 CT series of 1 patient",)


@pytest.mark.parametrize(
    ("changes", "positions", "problem"),
    [
        ({"ImagePositionPatient": [0, 0, 0]}, [0, 0, 4, 6], "doubled: 2 images at 0"),
        ({"PixelSpacing": None}, [0, 2, 4, 6], "no plane: 1 image without a pixel"),
        (
            {"ImageOrientationPatient": [1, 0, 0, 0.6, 0.8, 0]},
            [0, 4, 6, None],
            "no plane: 1 image whose directions are not orthogonal",
        ),
        ({"ImagePositionPatient": None}, [0, 4, 6, None], "no plane: 1 image without"),
        ({"ImagePositionPatient": ["1e1", "-0.0", "2.0E0"]}, [0, 2, 4, 6], "shifted:"),
    ],
)
def test_images_that_are_no_volume_are_linked(tmp_path, changes, positions, problem):
    """An image that breaks a volume has its row and is built; a note says why."""
    for k in range(4):
        save_slice(tmp_path / f"{k}.dcm", k, **(changes if k == 1 else {}))
    table = link_all(tmp_path)
    assert [link.position_mm for link in table.links] == positions
    head, count, line = table.notes
    assert head == "1 CT series of 1 patient"
    assert count == "1 series with images that are in no volume:"
    assert line.startswith("  CT series in .: ")
    assert problem in line
    store = fastseg.open(fastseg.build(table, tmp_path / "store.h5").path)
    assert len(store) == 4


def test_the_notes_list_the_first_series_and_count_the_others(tmp_path):
    """Of seven series that are no volume, five lines tell, and one how many more."""
    for k in range(21):
        z = [0, 2, 7][k // 7]
        position = {"ImagePositionPatient": [0, 0, z]}
        save_slice(tmp_path / f"{k % 7}" / f"{k}", k, series=k % 7, **position)
    _, count, *lines = link_all(tmp_path).notes
    assert count == "7 series with images that are in no volume:"
    assert [line.split(":")[0] for line in lines] == [
        *(f"  CT series in {k}" for k in range(5)),
        "  and 2 more",
    ]


def test_files_are_named_by_their_content(tmp_path):
    """Localizers, secondary captures, colours and other objects are listed by kind."""
    save_slice(tmp_path / "image")
    localizer = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    save_slice(tmp_path / "a", 1, ImageType=localizer)
    save_slice(tmp_path / "b", 2, SOPClassUID=SecondaryCaptureImageStorage)
    multi = SecondaryCaptureImageStorage + ".2"
    save_slice(tmp_path / "c", 3, SOPClassUID=pydicom.uid.UID(multi))
    rgb = {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "HighBit": 7}
    rgb |= {"BitsAllocated": 8, "BitsStored": 8, "PlanarConfiguration": 0}
    save_slice(tmp_path / "d", 4, pixels=np.zeros(96), **rgb)
    save_object(tmp_path / "e" / "RS.dcm", RTStructureSetStorage)
    save_object(tmp_path / "f", BasicTextSRStorage)
    bits = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}
    segmentation = {"SOPClassUID": SegmentationStorage, "pixels": np.zeros(4)}
    save_slice(tmp_path / "g", 7, **bits, **segmentation)
    save_object(tmp_path / "h", pydicom.uid.UID("1.3.12.2.1107.5.9.1"))
    save_slice(tmp_path / "i", 8, SOPClassUID=ParametricMapStorage)
    ds = make_slice(9, SOPClassUID=ParametricMapStorage, PixelData=None)
    ds.FloatPixelData = bytes(256)
    save(ds, tmp_path / "j")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").touch()
    (tmp_path / ".hidden").write_bytes((tmp_path / "image").read_bytes())
    (tmp_path / "broken.dcm").write_text("x")
    with pytest.warns(RejectedWarning):
        table = link_all(tmp_path)
    assert [link.dicom_path for link in table.links] == ["image"]
    assert table.left_out == {
        "DICOM object of an unknown class": ("h",),
        "empty RT structure set": ("e/RS.dcm",),
        "colour image": ("d",),
        "localizer": ("a",),
        "parametric map": ("i", "j"),
        "report": ("f",),
        "secondary capture": ("b", "c"),
        "segmentation": ("g",),
    }
    assert table.ignored == ("empty", "notes.txt")
    ((file, _, reason),) = table.rejects
    assert (file, reason) == (str(tmp_path / "broken.dcm"), "is not a DICOM file")


def test_a_damaged_file_is_rejected_alone(tmp_path):
    """A file that ends within its header is a reject; the others are linked."""
    save_slice(tmp_path / "0", 0)
    path = save_slice(tmp_path / "1", 1)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.warns(RejectedWarning):
        table = link_all(tmp_path)
    assert [link.dicom_path for link in table.links] == ["0"]
    assert [reject.file for reject in table.rejects] == [str(path)]


def test_names_of_one_file_are_one_image(tmp_path):
    """Of hard links and symbolic links to a file, the first name in order stays."""
    path = save_slice(tmp_path / "10.dcm")
    os.link(path, tmp_path / "9.dcm")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x").symlink_to(path)
    table = link_all(tmp_path)
    assert [link.dicom_path for link in table.links] == ["9.dcm"]
    assert table.left_out == {"duplicate": ("10.dcm", "sub/x")}


def test_copies_of_an_image_are_left_out(tmp_path):
    """Of files with one SOPInstanceUID and equal pixels the first in order stays."""
    path = save_slice(tmp_path / "b", 0)
    shutil.copy(path, tmp_path / "a")
    save(make_slice(0, StudyDescription="another header"), tmp_path / "c")
    save_slice(tmp_path / "d", 1)
    table = link_all(tmp_path)
    assert [link.dicom_path for link in table.links] == ["a", "d"]
    assert table.left_out == {"duplicate": ("b", "c")}


def test_images_of_one_uid_with_other_pixels_are_rejected(tmp_path):
    """If pixels differ, nobody knows which file is the image: all are named."""
    for name, k in (("a", 0), ("b", 0), ("c", 9)):
        save_slice(tmp_path / name, SOPInstanceUID=uid("x"), pixels=np.full(64, k))
    save_slice(tmp_path / "d", 1)
    with pytest.warns(RejectedWarning):
        table = link_all(tmp_path)
    assert [link.dicom_path for link in table.links] == ["d"]
    rejects = {reject.file: reject.reason for reject in table.rejects}
    assert set(rejects) == {str(tmp_path / name) for name in "abc"}
    assert rejects[str(tmp_path / "a")] == (
        f"has the SOPInstanceUID of {tmp_path / 'b'}, {tmp_path / 'c'} but other "
        "pixels; keep one"
    )


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"PatientID": "P2"}, "another PatientID; raw and pseudonymised copies must"),
        ({"PatientID": None}, "another PatientID"),
        ({"StudyInstanceUID": uid("other")}, "another study"),
        ({"SeriesInstanceUID": uid("other")}, "another series"),
        ({"Rows": 4, "Columns": 16}, "another shape"),
        ({"PixelRepresentation": 1}, "another kind of pixels"),
        ({"Modality": "MR"}, "another modality"),
        ({"RescaleSlope": 2}, "another rescale"),
        ({"ImagePositionPatient": [0, 0, 9]}, "another position"),
        ({"ImagePositionPatient": None}, "another position"),
        ({"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]}, "another orientation"),
        ({"PixelSpacing": [2, 2]}, "another spacing"),
        ({"TriggerTime": 3}, "another time"),
        ({"WindowCenter": 3, "WindowWidth": 8}, "another window"),
    ],
)
def test_copies_whose_headers_differ_are_rejected(tmp_path, change, what):
    """No name decides what an image is: all are rejected, and the reason says why."""
    for name in "ab":
        save_slice(tmp_path / name, **(change if name == "b" else {}))
    save_slice(tmp_path / "c", 1)
    with pytest.warns(RejectedWarning):
        table = link_all(tmp_path)
    assert [link.dicom_path for link in table.links] == ["c"]
    assert [reject.file for reject in table.rejects] == [
        str(tmp_path / name) for name in "ab"
    ]
    for reject in table.rejects:
        assert f" but {what}" in reject.reason
        assert "P1" not in reject.reason.replace(str(tmp_path), "")


def test_copies_numbered_anew_are_copies(tmp_path):
    """InstanceNumber and texts may differ: exports change them."""
    for k, name in enumerate("ab"):
        save_slice(tmp_path / name, InstanceNumber=k, SeriesDescription=name)
    assert link_all(tmp_path).left_out == {"duplicate": ("b",)}


@pytest.mark.parametrize("damaged", range(3))
def test_a_damaged_copy_is_rejected_alone(tmp_path, damaged):
    """Of three copies one of which is cut, the others are compared with each other."""
    for k, name in enumerate("abc"):
        path = save_slice(tmp_path / name, SeriesDescription=name)
        if k == damaged:
            path.write_bytes(path.read_bytes()[:-20])
    with pytest.warns(RejectedWarning):
        table = link_all(tmp_path)
    first, second = (name for k, name in enumerate("abc") if k != damaged)
    assert [link.dicom_path for link in table.links] == [first]
    assert table.left_out == {"duplicate": (second,)}
    ((file, _, reason),) = table.rejects
    assert file == str(tmp_path / "abc"[damaged])
    assert "pixels that cannot be compared" in reason


def test_of_many_files_with_one_uid_a_reject_names_three(tmp_path):
    """The reason of each says how many more there are."""
    header = dicom.read_header(save_slice(tmp_path / "x"))
    files = {f"f{k}": (header._replace(position_mm=(0, 0, k)),) for k in range(200)}
    reasons = find_repeats(files)
    assert len(reasons) == 200
    assert reasons["f1"] == (
        "has the SOPInstanceUID of f0, f2, f3 and 196 more but another position; "
        "keep one"
    )


def test_links_that_lead_elsewhere_are_rejected(tmp_path):
    """A link out of the root, and one to a folder, are rejected and not followed."""
    root = tmp_path / "root"
    save_slice(root / "a" / "0")
    (root / "out").symlink_to(save_slice(tmp_path / "secret", 1))
    (root / "cycle").symlink_to(root / "a")
    os.mkfifo(root / "pipe")
    with pytest.warns(RejectedWarning):
        table = link_all(root)
    assert [link.dicom_path for link in table.links] == ["a/0"]
    reasons = {reject.file: reject.reason for reject in table.rejects}
    assert "leads outside" in reasons.pop(str(root / "out"))
    assert "symbolic link to a folder" in reasons.pop(str(root / "cycle"))
    assert reasons == {str(root / "pipe"): "is no regular file"}


def test_a_link_to_itself_is_rejected_alone(tmp_path):
    """Links in a circle lead to no file: each is a reject; images are linked."""
    save_slice(tmp_path / "image")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "there").symlink_to("back")
    (tmp_path / "back").symlink_to("there")
    with pytest.warns(RejectedWarning):
        table = link_all(tmp_path)
    assert [link.dicom_path for link in table.links] == ["image"]
    assert [reject.file for reject in table.rejects] == [
        str(tmp_path / name) for name in ("back", "self", "there")
    ]
    assert {reject.reason for reject in table.rejects} == {os.strerror(errno.ELOOP)}


def test_a_folder_that_cannot_be_listed_is_rejected(tmp_path, monkeypatch):
    """Its files are lost, but those of its neighbours are not."""
    save_slice(tmp_path / "a" / "0", 0)
    save_slice(tmp_path / "b" / "1", 1)
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.warns(RejectedWarning):
        table = link_all(tmp_path)
    assert [link.dicom_path for link in table.links] == ["b/1"]
    ((file, _, reason),) = table.rejects
    assert (file, reason) == (str(tmp_path / "a"), "Permission denied")


def test_the_order_of_the_file_system_does_not_matter(tmp_path, monkeypatch):
    """Entries in reverse order, and more threads, give the same tree."""
    for k in range(12):
        save_slice(tmp_path / f"{k % 3}" / f"{k}", k)
    (tmp_path / "notes.txt").write_text("x")
    expected = read_tree(tmp_path, threads=1)
    assert [image.path for image in expected.images] == [
        f"{k % 3}/{k}" for first in range(3) for k in range(first, 12, 3)
    ]
    scandir = os.scandir

    class Reversed:
        def __init__(self, path):
            self.entries = sorted(scandir(path), key=lambda x: x.name, reverse=True)

        def __enter__(self):
            return self.entries

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    monkeypatch.setattr("fastseg.sources.tree.FILES_AT_ONCE", 5)
    assert read_tree(tmp_path, threads=3) == expected


def test_names_do_not_change_the_rows(tmp_path):
    """Renamed files with other InstanceNumbers give the same rows but for the names."""
    for k in range(8):
        triggers = {"TriggerTime": 10 * (k % 2), "SOPInstanceUID": uid(k)}
        save_slice(tmp_path / "a" / f"{k}", k // 2, **triggers)
        triggers["InstanceNumber"] = 90 - k
        save_slice(tmp_path / "b" / f"{8 - k}.dcm", k // 2, **triggers)
    first, second = (
        [link._replace(dicom_path="") for link in link_all(tmp_path / name).links]
        for name in "ab"
    )
    assert first == second
    assert [link.time for link in first] == [0] * 4 + [1] * 4


def test_folders_may_have_the_names_of_a_layout(tmp_path):
    """A folder named dicoms makes no Sunnybrook layout of the folder above it."""
    (tmp_path / "dicoms").mkdir()
    save_slice(tmp_path / "dicoms" / "a", 0)
    assert len(link_all(tmp_path).links) == 1


def test_a_patient_without_an_id_is_named_by_the_study(tmp_path):
    """Each study then counts as one, which a note says; without both it is rejected."""
    for k in range(4):
        study = {"StudyInstanceUID": uid("study", k // 2)}
        save_slice(tmp_path / f"{k}", k, patient="", series=k // 2, **study)
    nobody = {"StudyInstanceUID": "", "PatientID": None}
    save_slice(tmp_path / "5", 5, **nobody)
    with pytest.warns(RejectedWarning):
        table = link_all(tmp_path)
    patients = [link.patient for link in table.links]
    assert sorted(patients) == sorted(uid("study", k // 2) for k in range(4))
    assert table.notes[0] == "2 CT series of 2 patients"
    assert table.notes[1].startswith("4 images without PatientID: each study counts as")
    ((file, _, reason),) = table.rejects
    assert file == str(tmp_path / "5")
    assert reason.startswith("has neither PatientID nor StudyInstanceUID")


@pytest.mark.parametrize("missing", [None, ""])
def test_an_image_without_a_patient_is_of_the_patient_of_its_study(tmp_path, missing):
    """A series in which every second file has no PatientID is one volume of one."""
    study = {"StudyInstanceUID": uid("study"), "SeriesInstanceUID": uid("series")}
    for k in range(6):
        save_slice(tmp_path / f"{k}", k, **study, PatientID="" if k % 2 else "P1")
        if k % 2 and missing is None:
            save_slice(tmp_path / f"{k}", k, **study, PatientID=None)
    table = link_all(tmp_path)
    assert [link.patient for link in table.links] == ["P1"] * 6
    assert [link.position_mm for link in table.links] == [0, 2, 4, 6, 8, 10]
    assert table.notes == (
        "1 CT series of 1 patient",
        "3 images without PatientID: other images of the study say whose they are",
    )


def test_an_image_without_a_patient_in_a_study_of_two_is_rejected(tmp_path):
    """Nobody can tell whose it is; that a study has two patients is a note."""
    study = {"StudyInstanceUID": uid("study")}
    for k in range(6):
        patient = ["SECRET1", "SECRET2", ""][k // 2]
        save_slice(tmp_path / f"{k}", k % 2, patient=patient, series=k // 2, **study)
    with pytest.warns(RejectedWarning):
        table = link_all(tmp_path)
    assert [reject.file for reject in table.rejects] == [
        str(tmp_path / name) for name in "45"
    ]
    for reject in table.rejects:
        assert reject.reason.startswith("has no PatientID, and its study has several")
    assert table.notes == (
        "2 CT series of 2 patients",
        "1 study has several PatientIDs, though a study is of one patient: a split "
        "may put one person into two parts",
    )


def test_a_patient_whose_id_cannot_be_decoded_is_rejected(tmp_path):
    """Two IDs of other bytes would decode to one text, and two patients be one."""
    for k, letter in enumerate("ÄÖ"):
        ds = make_slice(k, patient=f"{letter}1", series=k)
        ds.SpecificCharacterSet = "ISO_IR 100"
        path = save(ds, tmp_path / f"{k}")
        data = path.read_bytes()
        path.write_bytes(data.replace(b"ISO_IR 100", b"ISO_IR 192"))
    save_slice(tmp_path / "2", 2)
    with pytest.warns(RejectedWarning):
        table = link_all(tmp_path)
    assert [link.patient for link in table.links] == ["P1"]
    assert [reject.reason for reject in table.rejects] == [
        "has a PatientID with bytes that are not of its character set; correct "
        "SpecificCharacterSet"
    ] * 2


def test_without_contours_the_error_says_what_there_is(tmp_path):
    """LinkError counts series, patients and other objects, and names the option."""
    for k in range(6):
        patient = f"P{k // 3}"
        save_slice(tmp_path / f"{k}", k % 2, patient=patient, series=k, Modality="MR")
    save_slice(tmp_path / "7", 7)
    save_object(tmp_path / "sr", BasicTextSRStorage)
    with pytest.raises(LinkError) as caught:
        fastseg.link(tmp_path)
    assert (
        "; it holds 1 CT and 6 MR series of 2 patients and 1 report; "
        'slices="all" (--slices all) links the images alone; expected link.csv with '
    ) in str(caught.value)
    with pytest.raises(LinkError, match="has no layout that fastseg knows; it holds"):
        fastseg.link(tmp_path, labels="GTV")
    with pytest.raises(
        OptionError, match="has no contours that fastseg can read; leave labels out"
    ):
        fastseg.link(tmp_path, slices="all", labels="GTV")


def test_a_folder_in_it_with_contours_is_named(tmp_path, study):
    """Labels or no contours: the error names the folder that has them, or a note."""
    parent = study.parent
    hint = rf"; did you mean {re.escape(str(study))}\?"
    with pytest.raises(LinkError, match=f"fastseg knows{hint}"):
        fastseg.link(parent, labels="icontour")
    with pytest.raises(OptionError, match=f"can read{hint}; leave labels out"):
        fastseg.link(parent, labels="icontour", slices="all")
    table = fastseg.link(parent, slices="all")
    assert table.notes[-1] == (
        f"the contours in {study} are not linked; did you mean {study}?"
    )
    assert fastseg.link(study / "dicoms", slices="all").notes == table.notes[:-1]
    for k in range(3):
        shutil.copytree(study, parent / f"study {k}")
    text = fastseg.link(parent, slices="all").notes[-1]
    assert f"study 1 and 1 more are not linked; did you mean {study}?" in text
    for path in parent.glob("*/contourfiles"):
        shutil.rmtree(path)
    assert fastseg.link(parent, slices="all").notes == table.notes[:-1]


@pytest.mark.parametrize("slices", ["labelled", "series", "all"])
def test_a_folder_without_images_is_refused(tmp_path, slices):
    """LinkError says that there is no DICOM file, or what there is instead."""
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(LinkError, match=r"holds no DICOM files(; expected .*|)$"):
        fastseg.link(tmp_path, slices=slices)
    save_object(tmp_path / "rs", RTStructureSetStorage)
    with pytest.raises(LinkError, match=r"holds 1 RT structure set(;|, and no images)"):
        fastseg.link(tmp_path, slices=slices)


def test_an_enhanced_file_has_a_row_for_each_frame(tmp_path):
    """Each frame has its own position, by which its row is sorted."""
    ds = make_frames(4, 0, 2, pixels=np.arange(192))
    save(ds, tmp_path / "x")
    table = link_all(tmp_path)
    rows = [(link.frame, link.position_mm, link.rows) for link in table.links]
    assert rows == [(1, 0, 8), (2, 2, 8), (0, 4, 8)]


def test_frames_without_functional_groups_have_no_position(tmp_path):
    """A file of frames that says nothing of each has a row for each all the same."""
    save_slice(tmp_path / "x", pixels=np.arange(192), NumberOfFrames=3)
    table = link_all(tmp_path)
    rows = [(link.frame, link.position_mm) for link in table.links]
    assert rows == [(0, None), (1, None), (2, None)]


def test_real_series_are_found(real_data):
    """Oblique series are volumes; tilted and uneven ones are named with the reason."""
    table = link_all(real_data / "series")
    text = "\n".join(table.notes)
    for folder in ("oblique_philips", "oblique_hitachi", "enhanced_philips"):
        assert folder not in text
    assert "gantry_tilt: gantry tilt: " in text
    assert "uneven_slices: uneven: " in text
    frames = [x for x in table.links if x.dicom_path.startswith("enhanced")]
    assert len(frames) == len({(x.position_mm, x.time) for x in frames}) > 1


def test_real_patients_are_linked(real_data):
    """A patient with CT, MR and PET has three series and three structure sets."""
    table = link_all(real_data / "sts" / "STS_002")
    assert table.rejects == ()
    assert table.notes == (
        "1 CT, 1 MR and 1 PT series of 1 patient",
        "83 images without a contour: 83 linked",
        "3 structure sets, 48 contours matched: 48 by position in the series that "
        "their structure sets name",
    )
    assert table.left_out == {}
    keys = [(link.series, link.position_mm) for link in table.links]
    assert len(set(keys)) == len(keys)
