"""The Sunnybrook layouts: what belongs together is found, what does not is named."""

import os
import re
import shutil
from itertools import chain
from pathlib import Path

import pydicom
import pytest
from numpy.testing import assert_array_equal

import fastseg
from fastseg.errors import ContourError, LinkError, OptionError, RejectedWarning
from fastseg.links import LinkTable, rejects_path
from fastseg.sources.sunnybrook import read_rings

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
        images = root / "SCD_IMAGES_01" / f"PHANTOM000{k}" / "CINESAX_300"
        images.mkdir(parents=True)
        for path in (study / "dicoms" / f"PHANTOM000{k}").iterdir():
            shutil.copy(path, images / f"IM-0003-{int(path.stem):04d}.dcm")
        folder = f"SCD_ManualContours/PH-0{k}/contours-manual/IRCCI-expert"
        (root / folder).mkdir(parents=True)
        for path in (study / "contourfiles" / f"PH-{k}").rglob("*.txt"):
            shutil.copy(path, root / folder)
    rows = "PatientID,Gender,OriginalID\nPHANTOM0001,F,PH-1\nPHANTOM0002,M,PH-2\n"
    (root / "scd_patientdata.csv").write_text(rows, encoding="utf-8-sig")
    return root


def test_both_layouts_give_the_same_links(study):
    """The same images, contours and classes are joined, however they are arranged."""

    def contents(root):
        table = fastseg.link(root, keep_unlabelled=True)
        assert (table.rejects, table.ignored, table.unlabelled) == ((), (), 4)
        for link in table.links:
            image = (root / link.dicom_path).read_bytes()
            contour = link.contour_path and (root / link.contour_path).read_bytes()
            yield link.patient, image, contour, link.label, link.format, link.root

    assert list(contents(to_original(study))) == list(contents(study))


def test_an_image_is_joined_by_its_instance_number(study):
    """Neither the name of an image nor the middle of a contour's name counts."""
    (study / IMAGE).rename(study / IMAGE.replace("4.dcm", "3-of-7.DCM"))
    path = study / DRAWN.replace("0002", "0004")
    path.rename(path.with_name("im-17-4-ICONTOUR-manual.txt"))
    links = fastseg.link(study).links
    (link,) = [link for link in links if "im-17-4" in link.contour_path]
    assert link.dicom_path == "dicoms/PHANTOM0001/3-of-7.DCM"
    assert link.label == "icontour"


def test_counts_say_what_was_found(study):
    """Counts of classes, images and images without contours are those of the data."""
    table = fastseg.link(study)
    assert len(table) == len(list(study.rglob("*.txt"))) == 20
    assert table.images == 8
    assert table.unlabelled == len(list(study.rglob("*.dcm"))) - 8 == 4
    counts = {"icontour": 8, "ocontour": 4, "p1contour": 4, "p2contour": 4}
    assert dict(table.counts()) == counts
    assert (table.rejects, table.ignored) == ((), ())


@pytest.mark.parametrize("labels", [["ocontour"], ["p1contour", "icontour"], []])
def test_labels_pick_classes(study, labels):
    """Only the links of the classes asked for are in the table, unchanged."""
    everything = fastseg.link(study).links
    table = fastseg.link(study, labels=iter(labels))
    assert table.links == tuple(link for link in everything if link.label in labels)
    assert table.classes == tuple(sorted(labels))


def test_an_unknown_label_is_refused_with_the_near_miss(study):
    """The error names what was asked for and what may have been meant."""
    with pytest.raises(OptionError, match=r"'icontuor'.*did you mean 'icontour'"):
        fastseg.link(study, labels=["ocontour", "icontuor"])


def test_images_without_contours_are_kept_on_request(study):
    """keep_unlabelled adds each image without a contour, and changes nothing else."""
    table = fastseg.link(study)
    both = fastseg.link(study, keep_unlabelled=True)
    added = set(both.links) - set(table.links)
    assert set(table.links) < set(both.links)
    paths = [f"dicoms/PHANTOM000{k}/{n}.dcm" for k in (1, 2) for n in (3, 6)]
    assert sorted(link.dicom_path for link in added) == paths
    assert {(link.contour_path, link.label) for link in added} == {("", "")}
    assert table.unlabelled == both.unlabelled == 4


def test_junk_makes_no_difference(study):
    """What editors and file managers leave behind is passed over in silence."""
    clean = fastseg.link(study)
    junk = [".DS_Store", "._1.dcm", ".1.dcm.swp", "1.dcm~", "x.swp", "Thumbs.db"]
    for folder in [path for path in [study, *study.rglob("*")] if path.is_dir()]:
        for name in [*junk, "._IM-0001-0001-icontour-manual.txt"]:
            (folder / name).write_bytes(b"\0\0\0\1Bud1")
        (folder / ".git").mkdir()
        (folder / ".git" / "1.dcm").touch()
    assert fastseg.link(study) == clean


@pytest.mark.parametrize(
    "name",
    [
        "dicoms/readme.txt",
        "dicoms/PHANTOM0001/DICOMDIR",
        "dicoms/PHANTOM0001/more/1.png",
        "contourfiles/readme.txt",
        "contourfiles/PH-1/i-contours/1.dcm",
    ],
)
def test_strangers_are_counted_as_ignored(study, name):
    """A file that is neither image nor contour is in `ignored` and no reject."""
    clean = fastseg.link(study)
    (study / name).parent.mkdir(exist_ok=True)
    (study / name).write_text("x")
    table = fastseg.link(study)
    assert (table.links, table.ignored) == (clean.links, (name,))


def check_rejected(study, spoil, rejects, lost="", orphans=False):
    """Assert that spoiling a study leads to these rejects and loses no other link.

    rejects : "file:line part of the reason", or without a line
    lost    : part of the paths of the links that go with them
    orphans : whether the contours of these links are rejects as well
    """
    clean = fastseg.link(study)
    spoil(study)
    with pytest.warns(RejectedWarning) as caught:
        table = fastseg.link(study)
    assert re.match(rf"{len(table.rejects)} files or rows", str(caught[0].message))
    assert caught[0].filename == __file__
    gone = [x for x in clean.links if lost and lost in x.dicom_path + x.contour_path]
    assert bool(gone) == bool(lost)
    assert table.links == tuple(link for link in clean.links if link not in gone)
    orphaned = [f"{x.contour_path} has no usable image" for x in gone if orphans]
    told = []
    for file, line, reason in table.rejects:
        assert file not in reason
        place = file.removeprefix(f"{study}{os.sep}") + (f":{line}" if line else "")
        told.append(f"{place} {reason}")
    for text in [*rejects, *orphaned]:
        place, reason = text.split(" ", 1)
        (found,) = [x for x in told if x.startswith(f"{place} ") and reason in x]
        told.remove(found)
    assert told == []


def move_out(path):
    """Move a file or folder out of the study and leave a symbolic link to it."""
    away = next(p for p in path.parents if p.name == "study").with_name("outside")
    path.rename(away)
    path.symlink_to(away)


OPERATIONS = {
    "rm": lambda path: shutil.rmtree(path) if path.is_dir() else path.unlink(),
    "cp": lambda path, to: (shutil.copytree if path.is_dir() else shutil.copy)(
        path, to
    ),
    "mv": Path.rename,
    "ln": lambda path, name: path.symlink_to(name.name),
    "out": move_out,
    "touch": Path.touch,
}
SHORT = {
    "P1": "PHANTOM0001",
    "P2": "PHANTOM0002",
    "C2": "contourfiles/PH-2",
    "IMAGE": IMAGE,
    "COPY": IMAGE.replace("4.dcm", "copy.dcm"),
    "DRAWN": DRAWN,
    "TWIN": DRAWN.replace("IM-0001", "IM-0002"),
    "STRANGER": DRAWN.replace("icontour-m", "xcontour-m"),
}


@pytest.mark.parametrize(
    ("commands", "rejects", "lost"),
    [
        ("out dicoms/P2", ["dicoms/P2 leads outside the data"], "/P2/ and contours"),
        ("out C2", ["C2 leads outside the data folder"], "C2/"),
        ("out IMAGE", ["IMAGE leads outside the data folder"], "IMAGE and contours"),
        ("out DRAWN", ["DRAWN leads outside the data folder"], "DRAWN"),
        ("ln dicoms/P2/up ..", ["dicoms/P2/up is a symbolic link to a folder"], ""),
        ("ln dicoms/P2/7.dcm 8.dcm", ["dicoms/P2/7.dcm No such file"], ""),
        ("rm dicoms/P2", ["link.csv:3 there is no image folder dicoms/P2"], "/P2/"),
        ("rm dicoms/P2, touch dicoms/P2", ["link.csv:3 no image folder"], "/P2/"),
        ("rm C2", ["link.csv:3 there is no contour folder C2"], "C2/"),
        ("rm C2, touch C2", ["link.csv:3 there is no contour folder C2"], "C2/"),
        ("cp C2 contourfiles/x", ["contourfiles/x is not listed in link.csv"], ""),
        ("cp dicoms/P2 dicoms/x", ["dicoms/x is not listed in link.csv"], ""),
        ("cp C2 contourfiles/PH-02", ["link.csv:3 several contour folders"], "C2/"),
        ("rm IMAGE", [], "IMAGE and contours"),
        (
            "cp IMAGE COPY",
            ["IMAGE 4 as does COPY", "COPY 4 as does IMAGE"],
            "IMAGE and",
        ),
        ("cp DRAWN TWIN", ["DRAWN as does TWIN", "TWIN as does DRAWN"], "DRAWN"),
        ("mv DRAWN STRANGER", ["STRANGER is named neither IM-<n>"], "DRAWN"),
    ],
)
def test_what_does_not_fit_is_rejected(study, commands, rejects, lost):
    """Each misfit is told with file, line and reason, and takes only its own along."""

    def spell(text):
        return re.sub(r"\b[A-Z]+\d?\b", lambda word: SHORT.get(word[0], word[0]), text)

    def spoil(study):
        for command in spell(commands).split(", "):
            name, *paths = command.split()
            OPERATIONS[name](*(study / path for path in paths))

    lost, _, orphans = spell(lost).partition(" and")
    check_rejected(
        study, spoil, map(spell, rejects), lost, lost and orphans is not None
    )


def edit(path, **elements):
    """Set elements of a DICOM file, or remove those that are None."""
    dataset = pydicom.dcmread(path)
    for name, value in elements.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)


def shorten(path, tag):
    data = path.read_bytes()
    path.write_bytes(data[: data.index(tag) + 2])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_text("no image"), "is not a DICOM file"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: shorten(path, b"DICM"), "is not a DICOM file"),
        (lambda path: shorten(path, b"\x20\0\x13\0"), "has no Rows and Columns"),
        (lambda path: shorten(path, b"\x28\0\0\1"), "has no BitsAllocated"),
        (lambda path: edit(path, InstanceNumber=None), "has no InstanceNumber"),
        (lambda path: edit(path, InstanceNumber=""), "has no InstanceNumber"),
        (lambda path: edit(path, NumberOfFrames=2), "has 2 frames"),
        (lambda path: edit(path, PhotometricInterpretation="RGB"), "RGB"),
    ],
)
def test_a_bad_image_is_rejected_and_its_contours_too(study, spoil, reason):
    """A .dcm file that cannot be used is told with the reason, its path said once."""
    reject = f"{IMAGE} {reason}"
    check_rejected(study, lambda root: spoil(root / IMAGE), [reject], IMAGE, True)


@pytest.mark.parametrize(
    ("row", "reject"),
    [
        ("PHANTOM0001,PH-1", "link.csv:4 is listed twice"),
        ("PHANTOM0001,PH-9", "link.csv:4 is listed twice"),
        ("PHANTOM0009,PH-01", "link.csv:4 is listed twice"),
        ("PHANTOM0009", "link.csv:4 the row has 1 fields, expected 2"),
        ("\nPHANTOM0009,PH-9,", "link.csv:5 the row has 3 fields, expected 2"),
    ],
)
def test_a_row_that_does_not_fit_is_rejected_alone(study, row, reject):
    """Of two rows for one patient the first holds; the other is told with its line."""
    check_rejected(study, lambda root: write_ids(root, *ID_ROWS, row), [reject])


@pytest.mark.parametrize("row", ["{},PH-9", "PHANTOM0009,{}"])
@pytest.mark.parametrize(
    "name", ["/etc", "..", ".", "", "a/b", r"a\b", "*", "a\0", "a" * 300, "9" * 5000]
)
def test_an_id_that_is_no_folder_is_rejected(study, name, row):
    """An ID cannot lead out of the data folder, match several or stop the search."""
    rows = [*ID_ROWS[:2], row.format(name), ID_ROWS[2]]
    check_rejected(study, lambda root: write_ids(root, *rows), ["link.csv:3 "])


def test_a_name_that_is_not_unicode_is_rejected(study):
    """A name that no table can hold is told, and the table and its list are saved."""
    image = study / IMAGE
    try:
        image.rename(image.with_name("\udcff.dcm"))
    except OSError:
        pytest.skip("this file system has no such names")
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
        (lambda study: (study / "link.csv").unlink(), "/link.csv: is missing; it must"),
        (
            lambda study: write_ids(study, "patient_id"),
            "/link.csv, line 1: no column o",
        ),
        (
            lambda study: write_ids(study),
            "/link.csv, line 1: no column patient_id, ori",
        ),
        (
            lambda study: (study / "scd_patientdata.csv").touch(),
            ": holds several layou",
        ),
        (
            lambda study: [shutil.rmtree(study), study.mkdir()],
            ": has no layout that fa",
        ),
        (lambda study: [shutil.rmtree(study), study.touch()], ": is not a folder"),
        (shutil.rmtree, ": is not a folder"),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused(study, spoil, text):
    """Without one layout and its list of patients, LinkError says what is wrong."""
    spoil(study)
    with pytest.raises(LinkError, match=f"^{re.escape(str(study) + text)}"):
        fastseg.link(study)


def test_the_folder_above_is_refused_with_a_hint(study):
    """Whoever names a folder one too high is told the one that was meant."""
    with pytest.raises(LinkError, match=rf"did you mean {re.escape(str(study))}\?"):
        fastseg.link(study.parent)


RING = b"1 2\n30.5 2\n30.5 40\n"
SPELLINGS = {
    "CRLF": RING.replace(b"\n", b"\r\n"),
    "CR": RING.replace(b"\n", b"\r"),
    "BOM": b"\xef\xbb\xbf" + RING,
    "blank lines": RING.replace(b"\n", b"\n \n\n"),
    "tabs": RING.replace(b" ", b"\t "),
    "no last line end": RING.rstrip(),
    "exponents": b"  1.0  2e0 \n+3.05E1 0.2e+1\n305e-1 40.00",
}
# By the line that is at fault.
BAD_RINGS = {
    None: [b"", b"\xef\xbb\xbf\r\n \n", b"1 2\n", b"1 2\n3 4\n", b"1 2\n3 4\n" * 2],
    "": [bytes(range(256)), b"\x89PNG\r\n\x1a\n", RING.decode().encode("utf-16")],
    1: [b"1 2 3\n4 5 6\n", b"1_0 2\n" + RING, b"0x1 2\n" + RING, b"\0\0"],
    2: [b"1 2\nx 4\n5 6\n", b"1 2\n3 4 five\n5 6\n"],
    3: [b"1 2\n\n3\n5 6\n", b"1 2\r\n\r\n3,4\r\n5 6\r\n"],
    4: [RING + b"nan 2\n", RING + b"1 -inf\n", RING + b"1e999 2\n", RING + b"\0"],
}


@pytest.mark.parametrize("data", SPELLINGS.values(), ids=SPELLINGS)
def test_contours_are_read_however_they_are_written(data):
    """Line ends, byte order marks, blanks, tabs and exponents change no vertex."""
    (ring,) = read_rings(data, "c.txt", "")
    assert ring.dtype == float
    assert_array_equal(ring, [[1, 2], [30.5, 2], [30.5, 40]])


def test_a_contour_may_be_closed_explicitly():
    """A repeated last vertex covers the same pixels."""
    plain, closed = (
        fastseg.rasterize(read_rings(data, "c.txt", ""), (44, 33))
        for data in (RING, RING + b"1 2\n")
    )
    assert plain.any()
    assert_array_equal(closed, plain)


@pytest.mark.parametrize(
    ("data", "line"),
    chain(*([(data, line or None) for data in BAD_RINGS[line]] for line in BAD_RINGS)),
)
def test_a_bad_contour_is_refused_with_its_line(data, line):
    """What is no ring of finite vertices raises ContourError, with the line if any."""
    with pytest.raises(ContourError, match=r"^c\.txt") as caught:
        read_rings(data, "c.txt", "")
    assert caught.value.line == line
    assert (f", line {line}: " in str(caught.value)) == (line is not None)


def test_a_contour_file_holds_one_contour():
    """A key that would pick one of several is refused."""
    with pytest.raises(ContourError, match="contour_key is 'left'"):
        read_rings(RING, "c.txt", "left")
