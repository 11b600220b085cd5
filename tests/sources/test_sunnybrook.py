"""The Sunnybrook layouts: contours are linked to their images, misfits are rejected."""

import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.testing import assert_array_equal

import fastseg
from fastseg.errors import ContourError, LinkError, OptionError, RejectedWarning
from fastseg.links import LinkTable
from fastseg.sources.sunnybrook import Sunnybrook
from fastseg.tables import rejects_path

BAD_IDS = ["/etc", "..", ".", "", "a/b", r"a\b", "*", "a\0", "ü" * 150, "9" * 5000]
ID_ROWS = ["patient_id,original_id", "PHANTOM0001,PH-1", "PHANTOM0002,PH-2"]
IMAGE = "dicoms/PHANTOM0001/4.dcm"
# The only contour of its image.
DRAWN = "contourfiles/PH-1/i-contours/IM-0001-0002-icontour-manual.txt"


def write_ids(study, *rows):
    (study / "link.csv").write_text("\n".join([*rows, ""]), encoding="utf-8")


def to_original(study):
    """Rearrange a study into the layout of the Cardiac Atlas."""
    root = study.with_name("original")
    for k in (1, 2):
        images = root / f"SCD_IMAGES_01/PHANTOM000{k}/CINESAX_300"
        images.mkdir(parents=True)
        for path in (study / f"dicoms/PHANTOM000{k}").iterdir():
            shutil.copy(path, images / f"IM-0003-{int(path.stem):04d}.dcm")
        contours = root / f"SCD_ManualContours/PH-0{k}/contours-manual/IRCCI-expert"
        contours.mkdir(parents=True)
        for path in (study / f"contourfiles/PH-{k}").rglob("*.txt"):
            shutil.copy(path, contours)
    rows = "PatientID,Gender,OriginalID\nPHANTOM0001,F,PH-1\nPHANTOM0002,M,PH-2\n"
    (root / "scd_patientdata.csv").write_text(rows, encoding="utf-8-sig")
    return root


def test_both_layouts_give_the_same_links(study):
    """Both layouts of the same data link the same images, contours and classes."""

    def contents(root):
        table = fastseg.link(root, keep_unlabelled=True)
        assert (table.rejects, table.ignored, table.unlabelled) == ((), (), 4)
        for link in table.links:
            image = (root / link.dicom_path).read_bytes()
            contour = link.contour_path and (root / link.contour_path).read_bytes()
            yield link.patient, image, contour, link.label, link.format, link.root

    assert list(contents(to_original(study))) == list(contents(study))


def test_an_image_is_found_by_its_instance_number(study):
    """The name of an image and the middle number of a contour's name do not matter."""
    (study / IMAGE).rename(study / IMAGE.replace("4.dcm", "3-of-7.DCM"))
    path = study / DRAWN.replace("0002", "0004")
    path.rename(path.with_name("im-17-4-ICONTOUR-manual.txt"))
    (link,) = [x for x in fastseg.link(study).links if "im-17-4" in x.contour_path]
    assert link.dicom_path == "dicoms/PHANTOM0001/3-of-7.DCM"
    assert link.label == "icontour"


def test_counts_are_those_of_the_data(study):
    """The table counts the links of each class, its images and unlabelled images."""
    table = fastseg.link(study)
    assert len(table) == len(list(study.rglob("*.txt"))) == 20
    assert table.images == 8
    assert table.unlabelled == len(list(study.rglob("*.dcm"))) - 8 == 4
    counts = {"icontour": 8, "ocontour": 4, "p1contour": 4, "p2contour": 4}
    assert dict(table.counts()) == counts


def test_links_hold_what_the_headers_say(study):
    """Series, shape, dtype and position are those of the image; time is a rank."""
    links = fastseg.link(study, keep_unlabelled=True).links
    for link in links:
        dataset = pydicom.dcmread(study / link.dicom_path)
        assert link.series == dataset.SeriesInstanceUID
        assert (link.rows, link.columns) == dataset.pixel_array.shape
        assert link.dtype == dataset.pixel_array.dtype.name
        assert link.position_mm == dataset.ImagePositionPatient[2]
        triggers = {
            pydicom.dcmread(study / other.dicom_path).TriggerTime
            for other in links
            if (other.patient, other.position_mm) == (link.patient, link.position_mm)
        }
        assert sorted(triggers)[int(link.time)] == dataset.TriggerTime


@pytest.mark.parametrize("labels", [["ocontour"], ["p1contour", "icontour"], []])
def test_labels_pick_classes(study, labels):
    """The table holds the links of the requested classes and no others."""
    everything = fastseg.link(study).links
    table = fastseg.link(study, labels=iter(labels))
    assert table.links == tuple(link for link in everything if link.label in labels)
    assert table.classes == tuple(sorted(labels))


def test_an_unknown_label_is_refused_with_the_near_miss(study):
    """The error names the unknown class and the nearest known one."""
    with pytest.raises(OptionError, match=r"'icontuor'.*did you mean 'icontour'"):
        fastseg.link(study, labels=["ocontour", "icontuor"])


def test_images_without_contours_are_kept_on_request(study):
    """keep_unlabelled adds each image without a contour and nothing else."""
    table = fastseg.link(study)
    both = fastseg.link(study, keep_unlabelled=True)
    added = set(both.links) - set(table.links)
    assert set(table.links) < set(both.links)
    paths = [f"dicoms/PHANTOM000{k}/{n}.dcm" for k in (1, 2) for n in (3, 6)]
    assert sorted(link.dicom_path for link in added) == paths
    assert {(link.contour_path, link.label) for link in added} == {("", "")}
    assert table.unlabelled == both.unlabelled == 4


def test_a_whole_series_is_linked_if_an_image_has_a_contour(study):
    """slices="series" adds the other images of a series, and no series without one."""
    shutil.rmtree(study / "contourfiles" / "PH-2")
    (study / "contourfiles" / "PH-2").mkdir()
    labelled, whole, everything = (
        fastseg.link(study, slices=slices) for slices in ("labelled", "series", "all")
    )
    patients = [{x.patient for x in table.links} for table in (whole, everything)]
    assert patients == [{"PHANTOM0001"}, {"PHANTOM0001", "PHANTOM0002"}]
    assert set(labelled.links) < set(whole.links) < set(everything.links)
    assert whole.images == 6
    assert everything.images == 12
    assert labelled.unlabelled == whole.unlabelled == everything.unlabelled == 8
    assert everything.notes == ("8 images without a contour: 8 linked",)
    assert labelled.notes == (
        "8 images without a contour: left out (--slices series or all keeps them)",
    )
    assert whole.notes == (
        "8 images without a contour: 2 linked, 6 left out, because no image of their "
        "series has one",
    )


def test_a_file_without_a_series_has_no_other_images(study):
    """Without SeriesInstanceUID, slices="series" adds no image to labelled ones."""
    for path in (study / "dicoms").rglob("*.dcm"):
        ds = pydicom.dcmread(path)
        del ds.SeriesInstanceUID
        ds.save_as(path)
    whole = fastseg.link(study, slices="series")
    assert whole.links == fastseg.link(study).links
    assert whole.notes[0].startswith("4 images without a contour: 0 linked, 4 left out")


@pytest.mark.filterwarnings("ignore::fastseg.errors.RejectedWarning")
def test_images_without_their_contours_keep_a_series_whole(study):
    """An image whose contours are rejected or of other classes is linked without."""
    images = sorted(path.relative_to(study).as_posix() for path in study.rglob("*.dcm"))
    shutil.copy(study / DRAWN, study / TWIN)  # both are rejected
    for labels, bare in ((None, 1), (["ocontour"], 4)):
        labelled = fastseg.link(study, labels=labels)
        assert labelled.notes == (
            "4 images without a contour: left out (--slices series or all keeps them)",
        )
        for slices in ("series", "all"):
            table = fastseg.link(study, labels=labels, slices=slices)
            assert sorted({link.dicom_path for link in table.links}) == images
            assert [x for x in table.links if x.label] == list(labelled.links)
            assert table.unlabelled == labelled.unlabelled
            count, note = table.notes
            assert count == "4 images without a contour: 4 linked"
            assert note.startswith(f"{bare} image{'s' * (bare > 1)} whose contours are")


def test_junk_makes_no_difference(study):
    """Files that editors and file managers leave behind are ignored silently."""
    clean = fastseg.link(study)
    junk = [".DS_Store", "._1.dcm", ".1.dcm.swp", "1.dcm~", "x.swp", "Thumbs.db"]
    for folder in [path for path in [study, *study.rglob("*")] if path.is_dir()]:
        for name in [*junk, "._IM-0001-0001-icontour-manual.txt"]:
            (folder / name).write_bytes(b"\0\0\0\1Bud1")
        (folder / ".git").mkdir()
        (folder / ".git" / "1.dcm").touch()
    assert fastseg.link(study) == clean


@pytest.mark.parametrize(
    "folder", ["dicoms", "dicoms/PHANTOM0001", "contourfiles", "contourfiles/PH-1"]
)
def test_other_files_are_ignored(study, folder):
    """A file that is neither image nor contour is in `ignored`, not in `rejects`."""
    clean = fastseg.link(study)
    (study / folder / "readme.txt").write_text("x")
    table = fastseg.link(study)
    assert (table.links, table.ignored) == (clean.links, (f"{folder}/readme.txt",))


NAMES = ("IM0000{}", "IMG0001-{}", "{}.IMA", "{}.dicom", "{}.DCM", "1.2.840.113.{}")
NAMES += ("IM-0001-000{}", "{}.dcm.1", "{}.v2.x")


def linked(study):
    """Return the links of a study without the names of the images, and what is left."""
    table = fastseg.link(study, keep_unlabelled=True)
    links = [
        (link._replace(dicom_path=""), (table.base / link.dicom_path).read_bytes())
        for link in table.links
    ]
    key = lambda pair: (pair[0].patient, pair[1], pair[0].contour_path)  # noqa: E731
    return sorted(links, key=key), table.ignored, table.rejects, table.unlabelled


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", ["challenge", "original"])
@pytest.mark.parametrize("some", [True, False], ids=["some", "all"])
def test_images_may_have_any_name(study, name, layout, some):
    """Images are found by their content, and their contours by InstanceNumber."""
    root = study if layout == "challenge" else to_original(study)
    clean = linked(root)
    assert clean[1:3] == ((), ())
    images = sorted(root.glob("dicoms/*/*" if root is study else "SCD_IMAGES*/*/*/*"))
    for path in images[:: 2 if some else 1]:
        number = pydicom.dcmread(path, specific_tags=["InstanceNumber"]).InstanceNumber
        path.rename(path.with_name(name.format(number)))
    assert linked(root) == clean


def test_images_without_a_preamble_are_found(study):
    """A file that begins with its meta group or dataset is an image, under any name."""
    clean = linked(study)
    for path in study.glob("dicoms/PHANTOM0001/*"):
        image = pydicom.dcmread(path)
        path.with_suffix("").write_bytes(path.read_bytes()[132:])
        path.unlink()
        header = fastseg.dicom.read_header(path.with_suffix(""))
        assert header.instance == image.InstanceNumber
    found = linked(study)
    assert [link for link, _ in found[0]] == [link for link, _ in clean[0]]
    assert found[1:] == clean[1:]


def test_other_dicom_files_are_ignored(study):
    """A DICOMDIR or a structure set is no reject, unless its name is *.dcm."""
    clean = linked(study)
    image = pydicom.dcmread(study / IMAGE)
    del image.PixelData
    for name, kind in [
        ("DICOMDIR", pydicom.uid.MediaStorageDirectoryStorage),
        ("RS0001", pydicom.uid.RTStructureSetStorage),
        ("RS0001.dcm", pydicom.uid.RTStructureSetStorage),
    ]:
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = kind
        image.save_as((study / IMAGE).with_name(name), enforce_file_format=False)
    # Bytes that might begin a dataset, but do not, and files that are too short.
    others = [b"", b"\x08\0", b"\x08\0\0\0\x0c\0\0\0" * 40, b"DICM"]
    for k, data in enumerate(others):
        (study / IMAGE).with_name(f"raw{k}").write_bytes(data)
    with pytest.warns(RejectedWarning):
        links, ignored, rejects, _ = linked(study)
    assert links == clean[0]
    folder = "dicoms/PHANTOM0001"
    names = ("DICOMDIR", "RS0001", "raw0", "raw1", "raw2", "raw3")
    assert sorted(ignored) == [f"{folder}/{name}" for name in names]
    ((file, line, reason),) = rejects
    assert (file, line) == (str((study / IMAGE).with_name("RS0001.dcm")), None)
    assert "RT Structure Set Storage" in reason


def test_a_copy_under_another_name_is_ignored(study):
    """Of two files of one InstanceNumber, the only one named *.dcm is the image."""
    clean = linked(study)
    for name in ("4.dcm.bak", "IM00004"):
        shutil.copy(study / IMAGE, (study / IMAGE).with_name(name))
    links, ignored, rejects, unlabelled = linked(study)
    assert (links, rejects, unlabelled) == (clean[0], (), clean[3])
    assert sorted(ignored) == [f"{IMAGE}.bak", "dicoms/PHANTOM0001/IM00004"]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_the_table_of_patients_may_come_from_a_spreadsheet(study, separator):
    """Its columns may be separated otherwise, and an empty line may come first."""
    clean = fastseg.link(study)
    rows = "\n".join(["", *ID_ROWS, ""]).replace(",", separator)
    (study / "link.csv").write_text(rows.replace("\n", "\r\n"), encoding="utf-8-sig")
    assert fastseg.link(study) == clean


# Stands for one reject for each contour that lost its image.
ORPHANS = "and its contours"


def check_rejected(study, spoil, rejects, lost=""):
    """Assert that spoiling a study gives these rejects and loses these links only.

    rejects : as "file:line text", where the reason contains the text
    lost    : part of a path that all lost links have in common, "" for no lost link
    """
    clean = fastseg.link(study)
    spoil(study)
    with pytest.warns(RejectedWarning) as caught:
        table = fastseg.link(study)
    assert re.match(rf"{len(table.rejects)} files or rows", str(caught[0].message))
    assert caught[0].filename == __file__
    gone = [x for x in clean.links if lost and lost in x.dicom_path + x.contour_path]
    assert bool(gone) == bool(lost)
    # Times are counted among the images that are there.
    remaining, expected = (
        sorted(link._replace(time=None) for link in links)
        for links in (table.links, [link for link in clean.links if link not in gone])
    )
    assert remaining == expected
    orphans = [f"{x.contour_path} has no usable" for x in gone if ORPHANS in rejects]
    reported = []
    for file, line, reason in table.rejects:
        assert file not in reason
        source = file.removeprefix(f"{study}{os.sep}") + (f":{line}" if line else "")
        reported.append(f"{source} {reason}")
    for expected in {*rejects, *orphans} - {ORPHANS}:
        source, _, reason = expected.partition(" ")
        (reject,) = [x for x in reported if x.startswith(f"{source} ") and reason in x]
        reported.remove(reject)
    assert reported == []


COMMANDS = {
    "rm": lambda path: shutil.rmtree(path) if path.is_dir() else path.unlink(),
    "cp": lambda path, to: [shutil.copy, shutil.copytree][path.is_dir()](path, to),
    "mv": Path.rename,
    "ln": Path.symlink_to,
}
OUTSIDE = "leads outside the data folder by a symbolic link"
P2, C2 = "dicoms/PHANTOM0002", "contourfiles/PH-2"
COPY, TWIN = IMAGE.replace("4.", "copy."), DRAWN.replace("IM-0001", "IM-0002")
STRANGE = DRAWN.replace("icontour-m", "xcontour-m")


@pytest.mark.parametrize(
    ("commands", "rejects", "lost"),
    [
        (f"mv {P2} ../a, ln {P2} ../a", [f"{P2} {OUTSIDE}", ORPHANS], f"{P2}/"),
        (f"mv {C2} ../a, ln {C2} ../a", [f"{C2} {OUTSIDE}"], f"{C2}/"),
        (f"mv {IMAGE} ../a, ln {IMAGE} ../a", [f"{IMAGE} {OUTSIDE}", ORPHANS], IMAGE),
        (f"mv {DRAWN} ../a, ln {DRAWN} ../a", [f"{DRAWN} {OUTSIDE}"], DRAWN),
        (f"ln {P2}/up dicoms", [f"{P2}/up is a symbolic link to a folder"], ""),
        (f"ln {P2}/7.dcm 8.dcm", [f"{P2}/7.dcm No such file"], ""),
        (f"ln {P2}/7.dcm {P2}/7.dcm", [f"{P2}/7.dcm Too many levels"], ""),
        (f"rm {P2}", [f"link.csv:3 there is no image folder {P2}"], f"{P2}/"),
        (f"rm {P2}, cp link.csv {P2}", [f"link.csv:3 no image folder {P2}"], f"{P2}/"),
        (f"rm {C2}", [f"link.csv:3 there is no contour folder {C2}"], f"{C2}/"),
        (f"rm {C2}, cp link.csv {C2}", ["link.csv:3 no contour folder"], f"{C2}/"),
        (f"cp {C2} contourfiles/x", ["contourfiles/x is not listed in link.csv"], ""),
        (f"cp {P2} dicoms/x", ["dicoms/x is not listed in link.csv"], ""),
        (f"cp {C2} contourfiles/PH-02", ["link.csv:3 several contour f"], f"{C2}/"),
        (f"rm {IMAGE}", [ORPHANS], IMAGE),
        (f"cp {IMAGE} {COPY}", [f"{IMAGE} 4 as", f"{COPY} 4 as", ORPHANS], IMAGE),
        (f"cp {DRAWN} {TWIN}", [f"{DRAWN} as does", f"{TWIN} as does"], DRAWN),
        (f"mv {DRAWN} {STRANGE}", [f"{STRANGE} is not named IM-<n>"], DRAWN),
    ],
)
def test_misfits_are_rejected(study, commands, rejects, lost):
    """A misfit is reported with file, line and reason; only its own links are lost."""

    def spoil(study):
        for name, *paths in map(str.split, commands.split(", ")):
            COMMANDS[name](*(study / path for path in paths))

    check_rejected(study, spoil, rejects, lost)


def patch(path, old, new=None):
    """Replace the first occurrence of bytes, or cut the file after two of them."""
    head, old, tail = path.read_bytes().partition(old)
    path.write_bytes(head + (old[:2] if new is None else new + tail))


NUMBER, ROWS, BITS = b"\x20\0\x13\0", b"\x28\0\x10\0", b"\x28\0\0\1"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_text("no image"), "is not a DICOM file"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: patch(path, NUMBER), "has no Rows and Columns"),
        (lambda path: patch(path, BITS), "has no BitsAllocated"),
        (lambda path: patch(path, NUMBER, b"\x20\0\x14\0"), "has no InstanceNumber"),
        (lambda path: patch(path, b"IS\2\0004 ", b"IS\2\0  "), "has no InstanceNumber"),
        (lambda path: patch(path, ROWS, b"\x28\0\x08\0IS\2\0002 " + ROWS), "2 frames"),
        (lambda path: patch(path, b"MONOCHROME2", b"RGB        "), "RGB"),
    ],
)
def test_a_bad_image_is_rejected_and_its_contours_too(study, spoil, reason):
    """A .dcm file that cannot be used is rejected once, with the reason."""
    rejects = [f"{IMAGE} {reason}", ORPHANS]
    check_rejected(study, lambda root: spoil(root / IMAGE), rejects, IMAGE)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("PHANTOM0001,PH-1", "is listed twice"),
        ("PHANTOM0001,PH-9", "is listed twice"),
        ("PHANTOM0009,PH-01", "is listed twice"),
        ("PHANTOM0009", "the row has 1 fields, expected 2"),
        ("PHANTOM0009,PH-9,", "the row has 3 fields, expected 2"),
        *((f"{name},PH-9", "") for name in BAD_IDS),
        *((f"PHANTOM0009,{name}", "") for name in BAD_IDS),
    ],
)
def test_a_bad_row_is_rejected_alone(study, row, reason):
    """A row with a repeated, unsafe or missing ID is rejected, and no other row."""
    rows = [*ID_ROWS, "", row]
    check_rejected(study, lambda root: write_ids(root, *rows), [f"link.csv:5 {reason}"])


@pytest.mark.parametrize("name", ["patient_id", "original_id"])
def test_a_doubled_column_of_patients_is_refused(study, name):
    """The last of two columns of IDs does not win; other columns may be doubled."""
    notes = [f"{row},note,note" for row in ID_ROWS]
    write_ids(study, *notes)
    assert len(fastseg.link(study)) == 20
    write_ids(study, f"{notes[0]},{name}", *(f"{row},x" for row in notes[1:]))
    with pytest.raises(LinkError, match=f"line 1: a doubled column {name}; expected"):
        fastseg.link(study)


@pytest.mark.skipif(sys.platform != "linux", reason="has no such names")
def test_a_name_that_is_not_unicode_is_rejected(study):
    """A file name that no table can hold is rejected; table and rejects are saved."""
    (study / IMAGE).rename(study / "dicoms" / "PHANTOM0001" / "\udcff.dcm")
    with pytest.warns(RejectedWarning):
        table = fastseg.link(study, keep_unlabelled=True)
    path = table.save(study / "links.csv")
    assert LinkTable.load(path).links == table.links
    assert "dicoms/PHANTOM0001" in rejects_path(path).read_text(encoding="utf-8")


def test_a_file_named_like_a_series_is_no_series(study):
    """In the original layout, an archive beside the folders changes no link."""
    root = to_original(study)
    clean = fastseg.link(root)
    (root / "SCD_IMAGES_01" / "PHANTOM0001" / "CINESAX_300.zip").touch()
    assert fastseg.link(root).links == clean.links


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda root: (root / "link.csv").unlink(), "/link.csv: is missing; it must"),
        (lambda root: write_ids(root, "original_id"), "/link.csv, line 1: no column p"),
        (lambda root: (root / "SCD_ManualContours").mkdir(), ": holds several layouts"),
        (
            lambda root: [shutil.rmtree(root), root.mkdir()],
            ": has no layout that fastseg knows; it holds no DICOM files; expected ",
        ),
        (shutil.rmtree, ": does not exist"),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused(study, spoil, text):
    """Without one layout and its table of patients, LinkError gives the reason."""
    spoil(study)
    with pytest.raises(LinkError, match=f"^{re.escape(str(study) + text)}"):
        fastseg.link(study)


def test_the_folder_above_is_refused_with_a_hint(study):
    """If a subfolder is a data set, the error for its parent names the subfolder."""
    with pytest.raises(LinkError, match=rf"did you mean {re.escape(str(study))}\?"):
        fastseg.link(study.parent)


RING = b"1 2\n30.5 2\n30.5 40\n"
# Invalid files by the number of the invalid line; None and 0 for no line.
BAD_RINGS = {
    None: [b"", b"\xef\xbb\xbf\r\n \n", b"1 2\n", b"1 2\n3 4\n", b"1 2\n3 4\n" * 2],
    0: [bytes(range(256)), b"\x89PNG\r\n\x1a\n", RING.decode().encode("utf-16")],
    1: [b"1 2 3\n4 5 6\n", b"1_0 2\n" + RING, b"0x1 2\n" + RING, b"\0\0"],
    2: [b"1 2\nx 4\n5 6\n", b"1 2\n3 4 five\n5 6\n"],
    3: [b"1 2\n\n3\n5 6\n", b"1 2\r\n\r\n3,4\r\n5 6\r\n"],
    4: [RING + b"nan 2\n", RING + b"1 -inf\n", RING + b"1e999 2\n", RING + b"\0"],
}


@pytest.mark.parametrize(
    "data",
    [
        *(RING.replace(b"\n", end) for end in (b"\r\n", b"\r", b"\n \n\n", b"\t\n")),
        *(b"\xef\xbb\xbf" + RING, RING.replace(b" ", b"\t "), RING.rstrip()),
        b"  1.0  2e0 \n+3.05E1 0.2e+1\n305e-1 40.00",
        RING + b"1 2\n",
    ],
)
def test_contours_are_read_however_they_are_written(data):
    """Line ends, byte order marks, blanks, exponents and closing do not matter."""
    ring = Sunnybrook().parse(data, "c.txt")
    expected = np.array([[1, 2], [30.5, 2], [30.5, 40]])
    assert ring.dtype == expected.dtype
    assert_array_equal(ring[:3], expected)
    masks = fastseg.rasterize(ring, (44, 33)), fastseg.rasterize(expected, (44, 33))
    assert_array_equal(*masks)


@pytest.mark.parametrize(
    ("data", "line"),
    [(data, line or None) for line, bad in BAD_RINGS.items() for data in bad],
)
def test_a_bad_contour_is_refused_with_its_line(data, line):
    """A file without a ring of finite vertices raises ContourError with the line."""
    with pytest.raises(ContourError, match=r"^c\.txt") as caught:
        Sunnybrook().parse(data, "c.txt")
    assert caught.value.line == line
    assert (f", line {line}: " in str(caught.value)) == (line is not None)
