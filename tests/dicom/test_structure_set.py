"""RT structure sets: what is read, what is a problem of a contour, what is refused."""

import math
import random
import tracemalloc
import zlib

import numpy as np
import pydicom
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from fastseg import bounds
from fastseg._kernels.files import contour_points, decimals, sequences
from fastseg.dicom import structure_set
from fastseg.dicom.structure_set import (
    KINDS,
    UNKNOWN_KIND,
    NamedSeries,
    Roi,
    is_structure_set,
    read_structure_set,
)
from fastseg.errors import ContourError, DicomError
from tests.sources.dicom_files import make_slice, save_slice, uid
from tests.structure_set_damage import compare, make_file
from tests.structure_sets import (
    SYNTAXES,
    encode,
    make_contour,
    make_roi_contour,
    make_structure_set,
    rounded,
    set_data,
)

SQUARE = [(0, 0, 5), (0, 10.5, 5), (10.25, 10.5, 5), (10.25, 0, 5)]


UNKNOWN_SEQUENCES = (
    *("ROIContourSequence", "ContourSequence", "RTReferencedStudySequence"),
)


def read(rois, **options):
    """Return a structure set with these ROIs, after writing it."""
    return read_structure_set(encode(make_structure_set(rois, **options)), "a.dcm")


def reasons(found):
    """Return the problems of a set as (ROI, contour, reason)."""
    return [tuple(problem)[:3] for problem in found.problems]


def read_contour(contour):
    """Return what a set with one contour says of it: the set, and its one reason."""
    found = read({"Heart": [make_contour(SQUARE), contour]})
    (problem,) = found.problems
    assert (problem.roi, problem.contour) == (0, 1)
    assert found.contours.is_valid.tolist() == [True, False]
    assert found.contours.number.tolist() == [1, 2]
    return found, problem


def test_its_size_is_the_memory_that_it_takes():
    """`nbytes` counts the file and all points: what is freed with the structure set."""
    contour = make_contour(np.tile(SQUARE, (100, 1)), images=["1.2.3"])
    data = encode(make_structure_set({"Heart": [contour] * 50}))
    read_structure_set(data, "a.dcm")  # whatever is kept for ever
    tracemalloc.start()
    found = read_structure_set(bytearray(data), "a.dcm")
    nbytes = found.nbytes
    before, _ = tracemalloc.get_traced_memory()
    del found
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert before - after == pytest.approx(nbytes, rel=0.05)


@pytest.mark.kernel
@pytest.mark.parametrize("unknown", [(), ("ContourData",), UNKNOWN_SEQUENCES])
@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_encoding(syntax, undefined, unknown):
    """A set in any encoding is read as pydicom reads it, and known by its beginning."""
    images = ["1.2.3", ("1.2.4", 7), ("1.2.5", 1, 3)]
    contours = [make_contour(SQUARE, images=images), make_contour(SQUARE[:3])]
    ds = make_structure_set({"Heart": contours, "Lung": None, "Liver": []})
    data = encode(ds, syntax, undefined=undefined, unknown=unknown)
    assert compare(data) == ("without problems", "")
    assert is_structure_set(data[:1024])
    found = read_structure_set(data, "a.dcm")
    assert found.contours.ref_bounds.tolist() == [0, 4, 4]
    assert found.contours.ref_frames.tolist() == [0, 7, 1, 3]
    points, ends = found.points(np.array([1, 0, 1]))
    assert ends.tolist() == [0, 3, 7, 10]
    assert_array_equal(points, SQUARE[:3] + SQUARE + SQUARE[:3])


def test_what_a_set_says():
    """UIDs, ROIs, series and kinds are those of the file."""
    contours = [make_contour(SQUARE, kind=kind) for kind in KINDS]
    rois = {"Heart": contours[:2], "Lung": [], "Skin": contours[2:]}
    series = ("S1", "S2")
    found = read(rois, numbers=[7, 3, 12], series=series, FrameOfReferenceUID="1.2.9")
    frame = uid("P1", "frame")
    assert (found.patient_id, found.study) == ("P1", uid("P1"))
    assert found.frame_of_reference == "1.2.9"
    assert found.rois == (
        *(Roi(7, "Heart", frame), Roi(3, "Lung", frame), Roi(12, "Skin", frame)),
    )
    assert found.series == tuple(NamedSeries(uid("P1", s), frame) for s in series)
    columns = found.contours
    assert columns.roi.tolist() == [0, 0, 2, 2, 2]
    assert columns.number.tolist() == [1, 2, 1, 2, 3]
    assert columns.kind.tolist() == [0, 1, 2, 3, 4]
    assert columns.count.tolist() == [4] * 5
    assert columns.is_valid.all()
    assert [found.find(k) for k in (7, 3, 12)] == [range(2), range(0), range(2, 5)]
    assert not found.problems
    assert "P1" not in repr(found)
    with pytest.raises(ContourError, match="no ROI with number 8 can be used"):
        found.find(8)


def test_contours_of_more_than_64_kilobytes():
    """A ContourData that is too long for its VR, so UN, is read."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-300, 300, (5000, 3))
    data = encode(make_structure_set({"Body": [make_contour(points)]}))
    assert b"\x06\x30\x50\x00UN" in data
    found, ends = read_structure_set(data, "a.dcm").points(np.array([0]))
    assert ends.tolist() == [0, 5000]
    assert_array_equal(found, rounded(points))


FILES = [
    "rtstruct/breast/rtss.dcm",
    "rtstruct/ge_ct/rt.dcm",
    "rtstruct/bad_reference/invalid_reference_rt.dcm",
    "rtstruct/bad_reference/non_existent_reference_rt.dcm",
    *(f"sts/STS_{k}/{m}/mask/RS.dcm" for k in ("002", "040") for m in ("CT", "PET")),
]


@pytest.mark.parametrize("name", FILES)
def test_real_files(real_data, name):
    """Sets of clinics are read as pydicom reads them, without a problem."""
    data = (real_data / name).read_bytes()
    assert compare(data) == ("without problems", "")
    assert is_structure_set(data[:1024])


def test_the_clinical_set(real_data):
    """The set of the breast has 441 contours of 88 158 points in 9 of 10 ROIs."""
    found = read_structure_set((real_data / FILES[0]).read_bytes(), FILES[0])
    assert len(found.contours.roi) == 441
    assert found.contours.count.sum() == 88158
    assert [found.find(roi.number).stop for roi in found.rois].count(0) == 1


def test_other_files_are_not_structure_sets(tmp_path):
    """An image is not taken for a structure set, even if it references one."""
    ds = Dataset()
    ds.ReferencedSOPClassUID = structure_set.STRUCTURE_SET.decode()
    path = save_slice(tmp_path / "a.dcm", ReferencedRTPlanSequence=[ds])
    data = path.read_bytes()
    assert not is_structure_set(data)
    with pytest.raises(DicomError, match=r"a\.dcm: is no RT structure set, but of cla"):
        read_structure_set(data, "a.dcm")
    for junk in (b"", bytes(200), b"name,age\nx,1\n" * 30, make_slice().PixelData):
        with pytest.raises(DicomError, match=r"^a\.dcm: "):
            read_structure_set(junk, "a.dcm")


def test_files_without_a_preamble():
    """A dataset alone, or a meta group without its length, is read, too."""
    ds = make_structure_set({"Heart": [make_contour(SQUARE)]})
    for syntax in ("explicit", "implicit", "big-endian"):
        data = encode(ds, syntax)
        start = 144 + int.from_bytes(data[140:144], "little")
        for part in (data[start:], data[132:], data[:132] + data[144:]):
            assert compare(part) == ("without problems", "")
            assert is_structure_set(part[:1024])


CHARACTER_SETS = [
    ("ISO_IR 6", "Heart"),
    ("ISO_IR 100", "Schädel"),
    ("ISO_IR 192", "心臓 ♥"),
    ("GB18030", "心脏左"),
    ("ISO_IR 13", "ﾊｲ"),
    (["", "ISO 2022 IR 87"], "肺 Lung"),
    (["ISO 2022 IR 6", "ISO 2022 IR 149"], "심장"),
]


@pytest.mark.parametrize(("character_set", "name"), CHARACTER_SETS)
def test_names_in_any_character_set(character_set, name):
    """Names are read in the SpecificCharacterSet of the file, also of an ROI."""
    ds = make_structure_set({name: []}, SpecificCharacterSet=character_set)
    found = read_structure_set(encode(ds), "a.dcm")
    assert [roi.name for roi in found.rois] == [name]
    assert not found.problems


def set_raw(ds, tag, vr, value):
    """Put any bytes into an element, padded to be even."""
    value += b" " * (len(value) % 2)
    tag = pydicom.tag.Tag(tag)
    ds[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


def make_named(raw, own=None):
    """Return a set whose ROI has a name of any bytes, and maybe a character set."""
    ds = make_structure_set({"Heart": [make_contour(SQUARE)]})
    item = ds.StructureSetROISequence[0]
    if own:
        item.SpecificCharacterSet = own
    set_raw(item, 0x30060026, "LO", raw)
    return encode(ds)


def test_names_that_are_padded_or_of_their_own_character_set():
    """Blanks around a name are no part of it; an ROI may name its character set."""
    for raw, own, name in [
        (b"  Left  lung \0", None, "Left  lung"),
        ("Schädel".encode(), "ISO_IR 192", "Schädel"),
    ]:
        found = read_structure_set(make_named(raw, own=own), "a.dcm")
        assert [roi.name for roi in found.rois] == [name]
        assert not found.problems


@pytest.mark.parametrize(
    ("raw", "own", "reason"),
    [
        (b"", None, "ROIName is empty"),
        (b"  \0", None, "ROIName is empty"),
        (b"He\nart", None, "ROIName has control or format characters"),
        ("He\u202eart".encode(), "ISO_IR 192", "ROIName has control or format char"),
        (b"Sch\xe4del", "ISO_IR 192", "ROIName is not written in the SpecificChar"),
        (b"x" * 1025, None, "ROIName has more than 1024 bytes"),
    ],
)
def test_bad_names(raw, own, reason):
    """A name that cannot be used is a problem of its ROI, and spoils its contours."""
    found = read_structure_set(make_named(raw, own=own), "a.dcm")
    ((roi, contour, text),) = reasons(found)
    assert (roi, contour) == (0, -1)
    assert text.startswith(reason)
    assert found.contours.is_valid.tolist() == [False]
    with pytest.raises(ContourError):
        found.find(1)


BAD_DATA = {
    "": "has no ContourData",
    " ": "has no ContourData",
    "1\\2\\3\\4": "ContourData has 4 values, no multiple of three",
    "1\\2\\3\\4\\5e-1": "ContourData has 5 values, no multiple of three",
    "1\\2\\nan": "value 3 of ContourData is no number",
    "1\\2,5\\3": "value 2 of ContourData is no number",
    "1\\\\3": "value 2 of ContourData is no number",
    "1\\2\\3\\": "value 4 of ContourData is no number",
    "1\\2\\1_0": "value 3 of ContourData is no number",
    "1\\2\\1e400": "a coordinate is over 1e+06 mm",
    "1\\2\\1000001": "a coordinate is over 1e+06 mm",
    "1\\2\\" + "1" * 41: "value 3 of ContourData is no number",
}


@pytest.mark.kernel
@pytest.mark.parametrize("text", BAD_DATA)
def test_bad_points(text):
    """Points that cannot be read are a problem of the contour, which has none."""
    found, problem = read_contour(make_contour(SQUARE, data=text))
    assert problem.reason == BAD_DATA[text]
    assert not problem.covers_nothing
    assert found.contours.count.tolist() == [4, 0]
    assert found.points(np.array([1, 0]))[1].tolist() == [0, 0, 4]


@pytest.mark.kernel
@pytest.mark.parametrize(
    "points",
    [
        SQUARE[:1],
        SQUARE[:2],
        SQUARE[:2] * 3,
        [SQUARE[0]] * 5,
        [(0.0, 0, 0), (-0.0, 0, 0)],
    ],
)
@pytest.mark.parametrize("last", ["5", "5.0000000000000000"])
def test_rings_that_cover_nothing(points, last):
    """A ring of one or two distinct points is a problem, and covers nothing."""
    text = "\\".join(f"{x}\\{y}\\{last}" for x, y, _ in points)
    found, problem = read_contour(make_contour(points, data=text))
    assert problem.reason == "has fewer than three distinct points"
    assert problem.covers_nothing
    assert found.contours.count.tolist() == [4, len(points)]
    kinds = ("POINT", "OPEN_PLANAR")
    others = [make_contour(points, data=text, kind=kind) for kind in kinds]
    assert not read({"Heart": others}).problems


def with_frames(text):
    """Return a contour whose reference names frames by any text."""
    contour = make_contour(SQUARE, images=["1.2.3", ("1.2.3", 1)])
    set_raw(contour.ContourImageSequence[1], 0x00081160, "IS", text.encode())
    return contour


def with_kind(text):
    """Return a contour of a kind of any text."""
    contour = make_contour(SQUARE)
    set_raw(contour, 0x30060042, "CS", text.encode())
    return contour


BAD_CONTOURS = [
    (make_contour(SQUARE, ContourData=None), "has no ContourData"),
    (
        make_contour(SQUARE, NumberOfContourPoints=5),
        "has 4 points, but NumberOfContourPoints is 5",
    ),
    (
        make_contour(SQUARE, NumberOfContourPoints=-1),
        "NumberOfContourPoints is no whole number",
    ),
    (make_contour(SQUARE, ContourGeometricType=None), "ContourGeometricType is missi"),
    (with_kind("CLOSED_SPLINE"), "ContourGeometricType is missing or unknown"),
    (with_kind("CLOSEDPLANAR_XORS "), "ContourGeometricType is missing or unknown"),
    (
        make_contour(SQUARE, ContourOffsetVector=[0, 0, 1]),
        "has a ContourOffsetVector, which is not supported",
    ),
    *(
        (with_frames(text), "ReferencedFrameNumber is no number from 1")
        for text in ("0", "-1", "1\\0", "x", "1\\\\2", "1.5")
    ),
]


@pytest.mark.parametrize(("contour", "reason"), BAD_CONTOURS)
def test_bad_contours(contour, reason):
    """What does not fit together in a contour is a problem of the contour alone."""
    found, problem = read_contour(contour)
    assert problem.reason.startswith(reason)
    assert not problem.covers_nothing
    is_unknown = "ContourGeometricType" in reason
    assert found.contours.kind.tolist() == [0, UNKNOWN_KIND if is_unknown else 0]


def test_what_is_no_problem():
    """Missing counts, zero offsets, padded kinds and references to nothing are none."""
    contours = [
        make_contour(SQUARE, NumberOfContourPoints=None),
        make_contour(SQUARE, ContourOffsetVector=[0, 0, 0]),
        with_kind("CLOSED_PLANAR "),
        with_frames(""),
        make_contour(SQUARE, images=["1.2.3"]),
    ]
    contours[-1].ContourImageSequence.append(Dataset())
    found = read({"Heart": contours})
    assert not found.problems
    assert found.contours.is_valid.all()
    assert found.contours.ref_instances[-2:].tolist() == [b"1.2.3", b""]


def test_numbers_of_rois():
    """ROIs of one number, or of none, cannot be used; all of them are listed."""
    rois = [(name, [make_contour(SQUARE)]) for name in ("A", "B", "C", "D")]
    ds = make_structure_set(rois, numbers=[1, 2, 2, 3])
    del ds.StructureSetROISequence[3].ROINumber
    found = read_structure_set(encode(ds), "a.dcm")
    assert reasons(found) == [
        (1, -1, "2 ROIs have the ROINumber 2"),
        (2, -1, "2 ROIs have the ROINumber 2"),
        (3, -1, "ROINumber is missing, or no number from 0"),
        (
            *(-1, 3),
            "item 4 of ROIContourSequence belongs to no ROI: its ReferencedROINumber "
            "is 3",
        ),
    ]
    assert found.contours.is_valid.tolist() == [True, False, False, False]
    assert found.contours.roi.tolist() == [0, 1, 1, -1]


def test_contours_of_an_roi_in_several_items():
    """Two items of contours for one ROI are a problem, if both have contours."""
    ds = make_structure_set({"A": [make_contour(SQUARE)], "B": [make_contour(SQUARE)]})
    ds.ROIContourSequence.append(make_roi_contour(1, None))
    assert not read_structure_set(encode(ds), "a.dcm").problems
    ds.ROIContourSequence.append(make_roi_contour(1, [make_contour(SQUARE)]))
    found = read_structure_set(encode(ds), "a.dcm")
    text = "several items of ROIContourSequence have its number"
    assert reasons(found) == [(0, -1, text)]
    assert found.contours.is_valid.tolist() == [False, True, False]


def test_a_series_without_a_uid():
    """A series that is named without a UID is a problem of the set."""
    ds = make_structure_set({"A": [make_contour(SQUARE)]}, series=("S1", "S2"))
    study = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    del study.RTReferencedSeriesSequence[0].SeriesInstanceUID
    found = read_structure_set(encode(ds), "a.dcm")
    text = "RTReferencedSeriesSequence names a series without a valid UID"
    assert reasons(found) == [(-1, -1, text)]
    assert [series.uid for series in found.series] == [uid("P1", "S2")]
    assert found.contours.is_valid.all()


def element(tag, value, vr=b"SQ", length=None):
    """Return an explicit element with a long header, whose length may be wrong."""
    head = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little")
    length = len(value) if length is None else length
    return head + vr + b"\0\0" + length.to_bytes(4, "little") + value


def item(value, length=None):
    """Return an item, whose length may be wrong."""
    length = len(value) if length is None else length
    return b"\xfe\xff\x00\xe0" + length.to_bytes(4, "little") + value


UNDEFINED = 0xFFFFFFFF
ITEM_END = b"\xfe\xff\x0d\xe0" + bytes(4)
END = b"\xfe\xff\xdd\xe0" + bytes(4)
ROIS, OUTLINES, CONTOURS = 0x30060020, 0x30060039, 0x30060040
DAMAGED = {
    "a value beyond the file": (element(OUTLINES, b"", length=8), "ends behind what"),
    "an item beyond its sequence": (element(OUTLINES, item(b"", 8)), "ends behind"),
    "a value beyond its item": (
        element(OUTLINES, item(element(CONTOURS, b"", length=2)) + bytes(8)),
        "ends behind",
    ),
    "a sequence that does not end": (
        element(OUTLINES, item(b""), length=UNDEFINED),
        "ends behind",
    ),
    "an item that does not end": (
        element(OUTLINES, item(b"", UNDEFINED) + END, length=UNDEFINED),
        "does not belong there",
    ),
    "no item": (element(OUTLINES, bytes(8)), "does not belong there"),
    "an end of an item of known length": (
        element(OUTLINES, item(ITEM_END)),
        "does not belong there",
    ),
    "a sequence twice": (
        element(OUTLINES, b"") * 2,
        "is there twice",
    ),
    "a sequence that is text": (element(OUTLINES, b"", b"UT"), "is a sequence or none"),
    "text that is a sequence": (
        element(OUTLINES, item(element(0x30060084, END, length=UNDEFINED))),
        "is a sequence or none",
    ),
    "no VR": (element(OUTLINES, b"", b"ZZ"), "has no known VR"),
    "an element of the meta group": (element(0x00020010, b"1.2", b"OB"), "does not be"),
    "zeros and more": (bytes(8) + b"\1", "does not belong there"),
}


def with_tail(tail):
    """Return an explicit file that ends with these bytes in place of contours."""
    ds = make_structure_set({"A": None})
    del ds.ROIContourSequence
    return encode(ds) + tail


@pytest.mark.kernel
@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_files_are_refused(what):
    """Elements that do not fit into one another refuse the file, and say where."""
    tail, reason = DAMAGED[what]
    where = r"element \([0-9A-F]{4},[0-9A-F]{4}\) at byte \d+"
    with pytest.raises(DicomError, match=rf"^a\.dcm: {where} {reason}"):
        read_structure_set(with_tail(tail), "a.dcm")


@pytest.mark.kernel
def test_a_cut_file_is_refused_or_ends_between_elements():
    """A set that is cut anywhere is refused, unless it ends behind a whole element."""
    ds = make_structure_set({"A": [make_contour(SQUARE, images=["1.2.3"])]})
    data = encode(ds)
    start = data.index(b"\x06\x30\x39\x00SQ")
    for cut in range(start, len(data)):
        if cut == start:
            assert len(read_structure_set(data[:cut], "a.dcm").contours.roi) == 0
            continue
        with pytest.raises(DicomError, match="damaged or truncated"):
            read_structure_set(data[:cut], "a.dcm")


@pytest.mark.kernel
@pytest.mark.parametrize("defined", [False, True])
def test_nested_sequences(defined):
    """Sequences nobody reads are skipped by their length, or walked up to a depth."""

    def nested(depth):
        value = b""
        for _ in range(depth):
            inside = item(value) if defined else item(value + ITEM_END, UNDEFINED)
            length = None if defined else UNDEFINED
            value = element(
                0x00091001, inside + (b"" if defined else END), length=length
            )
        return with_tail(element(OUTLINES, item(value)))

    assert not read_structure_set(nested(sequences.DEEPEST - 1), "a.dcm").problems
    if defined:
        assert not read_structure_set(nested(1000), "a.dcm").problems
    else:
        with pytest.raises(DicomError, match="is nested deeper than 16 sequences"):
            read_structure_set(nested(1000), "a.dcm")


def test_padding_behind_the_dataset():
    """Zeros and a padding element behind the last element are no damage."""
    for tail in (bytes(3), bytes(500), element(0xFFFCFFFC, bytes(100), b"OB")):
        data = with_tail(element(OUTLINES, b"") + tail)
        assert len(read_structure_set(data, "a.dcm").rois) == 1


@pytest.mark.parametrize(
    ("name", "most", "message"),
    [
        ("MAX_ROIS", 2, "has 3 ROIs, over the limit of 2"),
        ("MAX_CONTOUR_PROBLEMS", 2, "has 3 contours that cannot be used, over the lim"),
        ("MAX_STRUCTURE_SET_BYTES", 500, r"is \d+ bytes long, over the limit of 500"),
        ("MAX_STRUCTURE_SET_VALUES", 11, "has 14 references, over the limit of 11"),
    ],
)
def test_bounds(monkeypatch, name, most, message):
    """A set over a bound is refused with the bound."""
    assert getattr(bounds, name) > most
    monkeypatch.setattr(structure_set, name, most)
    contours = [make_contour(SQUARE, data="1", images=[("1.2", *range(1, 12))])] * 3
    data = encode(make_structure_set([(name, contours[:1]) for name in "ABC"]))
    with pytest.raises(DicomError, match=rf"^a\.dcm: {message}"):
        read_structure_set(data, "a.dcm")


def test_many_elements(monkeypatch):
    """A set of more elements than are expected at first is read, up to a bound."""
    monkeypatch.setattr(structure_set, "FIRST_ROWS", 10)
    data = encode(make_structure_set({"A": [make_contour(SQUARE)] * 50}))
    assert compare(data) == ("without problems", "")
    monkeypatch.setattr(structure_set, "MAX_STRUCTURE_SET_VALUES", 100)
    with pytest.raises(DicomError, match="has 216 values and items, over the limit"):
        read_structure_set(data, "a.dcm")


def test_deflated_data(monkeypatch):
    """Deflated data that are damaged, cut, or larger than the bound are refused."""
    data = encode(make_structure_set({"A": [make_contour(SQUARE)] * 50}), "deflated")
    start = 144 + int.from_bytes(data[140:144], "little")
    for bad, reason in [
        (data[:start] + b"\xff" + data[start + 1 :], "its deflated data are damaged"),
        (data[:-20], "its deflated data end too early; it is truncated"),
    ]:
        with pytest.raises(DicomError, match=rf"^a\.dcm: {reason}"):
            read_structure_set(bad, "a.dcm")
    monkeypatch.setattr(structure_set, "MAX_STRUCTURE_SET_BYTES", len(data) + 1)
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = data[:start] + deflate.compress(bytes(10**7)) + deflate.flush()
    with pytest.raises(DicomError, match=r"over the limit|inflates to more than"):
        read_structure_set(bomb, "a.dcm")
    with pytest.raises(DicomError, match="inflates to more than"):
        read_structure_set(data, "a.dcm")


@pytest.mark.kernel
@given(
    st.from_regex(
        r"[-+]?([0-9]{1,17}\.?[0-9]{0,17}|\.[0-9]{1,17})([eE][-+]?[0-9]{1,3})?",
        fullmatch=True,
    )
)
@example("9" * 15)
@example("999999999999999e22")
@example("1e-22")
@example("123456789.012345e-7")
@example("1e23")
@example("5.6e-1")
@example("-0e0")
@example("1e9999999999")
def test_numbers_with_exponents_are_the_nearest_floats(text):
    """A number is parsed to Python's float, or declined; short ones are parsed."""
    data = np.frombuffer(text.encode(), np.uint8)
    value, end = decimals.parse_scientific(data, 0, len(data))
    if end == len(data):
        expected = float(text)
        assert (value, math.copysign(1, value)) == (
            expected,
            math.copysign(1, expected),
        )
    digits, _, exponent = text.lower().strip("+-").partition("e")
    places = len(digits.partition(".")[2])
    is_short = len(digits.replace(".", "")) <= 14
    if is_short and abs(int(exponent or 0) - places) <= 22:
        assert end == len(data)


NUMBER_TEXTS = st.sampled_from(
    ["0", "1", "-1", "1.5", " 2.50 ", "1e0", "-3.7e-1", "+.5", "7.", "1000001", "-0"]
    + ["1.0000000000000000", "1e-30", "1e300", "", " ", "nan", "1 2", "1e", "x", "1\0"]
)


@pytest.mark.kernel
@given(st.lists(NUMBER_TEXTS, min_size=1, max_size=12))
@example(["0", "0", "1\0"])
def test_compiled_checks_equal_those_in_python(texts):
    """Compiled code finds the same in a text as Python does, or leaves it to Python."""
    text = "\\".join(texts).encode()
    data = np.frombuffer(text + b"\\", np.uint8)
    spans = np.array([[0, len(text)]])
    checks = np.empty((1, 2), np.int64)
    numbers = np.full(len(texts), np.nan)
    count = contour_points.read_contours(data, spans, 1e6, checks, numbers)
    expected, _ = structure_set._read_irregular(text)
    if checks[0, 0] == contour_points.EMPTY:
        assert not text.strip(b" \0")
    elif checks[0, 0] != contour_points.IRREGULAR:
        assert tuple(checks[0]) == expected
        if checks[0, 0] >= contour_points.FEW_POINTS:
            assert count == len(texts)
            # The last one may have padding.
            assert numbers.tolist() == [float(text.strip(" \0")) for text in texts]
        else:
            assert count == 0


def test_spoilt_sets():
    """What is read of a spoilt set without a problem is what pydicom reads."""
    rng = random.Random(1)
    outcomes = []
    for k in range(120):
        outcome, difference = compare(make_file(rng))
        assert not difference, k
        outcomes.append(outcome)
    assert set(outcomes) == {"refused", "with problems", "without problems"}


def test_irregular_numbers_among_others():
    """A contour that Python has to read is read whole, the others by compiled code."""
    text = "1\\2\\3\\0.12345678901234567\\5\\6\\7\\8\\1e-300"
    contours = [make_contour(SQUARE), make_contour(SQUARE[:3], data=text)]
    found = read({"Heart": contours + contours[:1]})
    points, ends = found.points(np.arange(3))
    assert ends.tolist() == [0, 4, 7, 11]
    numbers = list(map(float, text.split("\\")))
    assert points[4:7].ravel().tolist() == numbers
    assert_array_equal(points[7:], SQUARE)
    # In many pieces, of which the last has a text that is no number.
    set_data(contours[1], "\\".join(["0.12345678901234567"] * 9000 + ["x"]))
    (problem,) = read({"Heart": contours}).problems
    assert problem.reason == "value 9001 of ContourData is no number"
