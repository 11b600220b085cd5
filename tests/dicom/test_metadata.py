"""Of whom an image is, where it lies and when it was taken: both readers agree."""

import random

import numba
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastseg import dicom
from fastseg.dicom import fallback, scan
from fastseg.dicom.header import HEADER_ELEMENTS, MODALITIES
from fastseg.errors import ColourImageError, DicomError, NoImageError
from tests import dicom_damage as damage
from tests.dicom.test_read_image import FRAMES, PIXELS, dicom_bytes, write_dicom

pytestmark = pytest.mark.kernel


def file_with(values, explicit=True):
    """Return a valid file in which elements have other values; None removes one."""
    parts = {e.tag: e for e in damage.make_elements(random.Random(0), explicit, 0)}
    for keyword, value in values.items():
        tag, vr = HEADER_ELEMENTS[keyword]
        parts.pop(tag, None)
        if value is not None:
            parts[tag] = damage.Element(tag, vr.encode(), damage.even(value))
    return damage.write_file(sorted(parts.values()), explicit)


def read_with(keyword, value, answered=3):
    """Return the header of a file with this value, on which both readers agree.

    answered : how many readings the fast path answers
    """
    data = file_with({"NumberOfFrames": b"1", keyword: value})
    assert damage.compare(data) == (answered, {})
    return dicom.decode(data, "a.dcm").header


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"1\\-2.5\\3 ", (1, -2.5, 3)),
        (b" 1 \\ 2\\3\0", (1, 2, 3)),
        (b"-0.0\\0\\-0", (0, 0, 0)),
        (b"-1e-3\\1E2\\+.5", (-0.001, 100, 0.5)),
        (b"-256.61886606561\\0.00000000000001\\123456789012345", None),
        (b"1234567890123456\\0\\0", (1234567890123456, 0, 0)),
        (b"", None),
        (None, None),
        (b"1\\2\\1e21", None),
    ],
)
def test_a_position_has_three_numbers(value, expected):
    """Signs of 0.0 are dropped; a number over the bound makes a position unknown."""
    if value and expected is None and b"e" not in value:
        expected = tuple(map(float, value.split(b"\\")))
    position = read_with("ImagePositionPatient", value).position_mm
    assert repr(position) == repr(expected and tuple(map(float, expected)))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"1\\0\\0\\0\\.6\\-.8 ", (1, 0, 0, 0, 0.6, -0.8)),
        (b"-0\\1\\-0.0\\0\\0\\1e0", (0, 1, 0, 0, 0, 1)),
        (b"0\\0\\0\\0\\0\\0", (0,) * 6),
        (b"1\\0\\0\\1\\0\\0", (1, 0, 0, 1, 0, 0)),
        (None, None),
    ],
)
def test_directions_are_kept_as_they_are(value, expected):
    """Whether they are orthogonal unit vectors is not asked here."""
    directions = read_with("ImageOrientationPatient", value).directions
    assert repr(directions) == repr(expected and tuple(map(float, expected)))


WRONG = {
    "ImagePositionPatient": [b"1\\2 ", b"1\\2\\3\\4 ", b"1"],
    "ImageOrientationPatient": [b"1\\0\\0", b"1\\0\\0\\0\\1\\0\\0"],
    "SliceThickness": [b"1\\2 "],
    "TriggerTime": [b"1\\2 "],
    "TemporalPositionIdentifier": [b"1\\2 "],
    "SOPInstanceUID": [b"1.2\\1.3 "],
    "StudyInstanceUID": [b"1.2\\1.3 "],
    "FrameOfReferenceUID": [b"1.2\\1.3 "],
}


@pytest.mark.parametrize("keyword", WRONG)
@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "implicit"])
def test_a_wrong_number_of_values_is_refused(keyword, explicit):
    """The error names the element, and how many values were expected."""
    for value in WRONG[keyword]:
        data = file_with({"NumberOfFrames": b"1", keyword: value}, explicit)
        assert damage.compare(data) == (0, {})
        count = value.count(b"\\") + 1
        with pytest.raises(
            DicomError, match=rf"{keyword} has {count} values, expected"
        ):
            dicom.decode(data, "a.dcm")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"2.5 ", 2.5), (b"0 ", None), (b"-1", None), (b"1e21", None), (None, None)],
)
def test_a_thickness_is_above_zero(value, expected):
    """Any other SliceThickness is unknown."""
    assert read_with("SliceThickness", value).slice_thickness_mm == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(b"18.75 ", 18.75), (b"0", 0), (b"1e21", None), (b"", None)]
)
def test_a_trigger_time_is_read(value, expected):
    """TriggerTime is a number of milliseconds, unknown over the bound."""
    assert read_with("TriggerTime", value).trigger_time_ms == expected


@pytest.mark.parametrize(
    ("value", "expected", "answered"),
    [(b"7 ", 7, 3), (b" 007", 7, 3), (b"7.0 ", 7, 0), (b"", None, 3)],
)
def test_a_temporal_position_is_read(value, expected, answered):
    """TemporalPositionIdentifier is a whole number."""
    header = read_with("TemporalPositionIdentifier", value, answered)
    assert header.temporal_position == expected


@pytest.mark.parametrize(
    ("value", "expected", "answered"),
    [
        (b"CT", "CT", 3),
        (b"CT\\MR", "", 0),
        (b"ct", "", 0),
        (b"GEHEIM", "", 3),
        (b"GEHEIM^NAME, 1961", "", 0),
        (None, "", 3),
    ],
)
def test_a_modality_is_a_term_of_the_standard(value, expected, answered):
    """Anything else could be text of any kind, and counts as unknown."""
    assert read_with("Modality", value, answered).modality == expected
    assert "CT" in MODALITIES


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"ORIGINAL\\PRIMARY\\LOCALIZER", True),
        (b"DERIVED\\SECONDARY\\ LOCALIZER \\X", True),
        (b"LOCALIZER\\PRIMARY\\AXIAL", False),
        (b"LOCALIZER", False),
        (b"\xff\xfe\\\\", False),
        (None, False),
    ],
)
def test_a_localizer_is_told_by_the_third_value(value, expected):
    """ImageType is never an error, whatever it holds."""
    assert read_with("ImageType", value).is_localizer == expected


@pytest.mark.parametrize(
    ("value", "character_set", "expected", "answered"),
    [
        (b" AB-12 ", b"ISO_IR 100", "AB-12", 3),
        (b"12^3~\0", b"ISO_IR 13", "12^3~", 3),
        (b"Zo\xeb", b"ISO_IR 100", "Zo\xeb", 0),
        (b"Zo\xc3\xab", b"ISO_IR 192", "Zo\xeb", 0),
        (b"A\\B", b"", "A\\B", 0),
        (b"x" * 300, b"", "x" * 300, 0),
        (b"", b"", "", 3),
        (None, b"", "", 3),
    ],
)
def test_a_patient_id_is_text(value, character_set, expected, answered):
    """It is decoded by the file's character set; no ID makes a file unreadable."""
    data = file_with({"PatientID": value})
    charset = damage.Element(0x00080005, b"CS", damage.even(character_set))
    parts, _ = damage.split_file(data)
    data = damage.write_file(
        sorted({e.tag: e for e in [*parts, charset]}.values()), explicit=True
    )
    assert damage.compare(data) == (answered, {})
    header = dicom.decode(data, "a.dcm").header
    assert header.patient_id == expected
    assert "patient_id" not in repr(header)


@pytest.mark.parametrize("vr", [b"OB", b"US", b"SQ", b"AT"])
@pytest.mark.parametrize("keyword", ["PatientID", "Modality", "ImageType"])
def test_texts_of_another_kind_are_unknown(keyword, vr):
    """Bytes, numbers or a sequence as one of these texts do not refuse a file."""
    tag, _ = HEADER_ELEMENTS[keyword]
    parts = {e.tag: e for e in damage.make_elements(random.Random(0), True, 0)}
    parts[tag] = damage.Element(tag, vr, b"12345678")
    data = damage.write_file(sorted(parts.values()), True)
    header = dicom.decode(data, "a.dcm").header
    assert (header.patient_id, header.modality, header.is_localizer)[
        ["PatientID", "Modality", "ImageType"].index(keyword)
    ] in ("", False)


def decimals(least=-1e4, most=1e4):
    """Draw numbers as DICOM's decimal strings, with their padding."""
    plain = st.floats(least, most).map(lambda x: f"{x:.10g}"[:16])
    return st.tuples(st.sampled_from(["", " "]), plain, st.sampled_from(["", " "])).map(
        "".join
    )


UIDS = st.lists(st.integers(0, 10**9), min_size=1, max_size=6).map(
    lambda numbers: ".".join(map(str, numbers))[:64]
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        **{
            keyword: UIDS
            for keyword, (_, vr) in HEADER_ELEMENTS.items()
            if vr == "UI" and keyword != "SOPClassUID"
        },
        "ImagePositionPatient": st.tuples(*[decimals()] * 3).map("\\".join),
        "ImageOrientationPatient": st.tuples(*[decimals(-1, 1)] * 6).map("\\".join),
        "PixelSpacing": st.tuples(*[decimals(0.01, 10)] * 2).map("\\".join),
        "SliceThickness": decimals(),
        "TriggerTime": decimals(),
        "TemporalPositionIdentifier": st.integers(-1, 10**9).map(str),
        "InstanceNumber": st.integers(-1, 10**9).map(str),
        "Modality": st.sampled_from(sorted(MODALITIES)),
        "PatientID": st.text("AZaz09 ^~-_", max_size=20),
        "ImageType": st.lists(
            st.sampled_from(["ORIGINAL", "AXIAL", "LOCALIZER", ""]), max_size=4
        ).map("\\".join),
        "NumberOfFrames": st.just("1"),
    },
)


@given(HEADERS, st.booleans())
def test_both_readers_give_equal_headers(values, explicit):
    """Any valid header is read by the fast path, and as pydicom reads it."""
    given_values = {keyword: value.encode() for keyword, value in values.items()}
    data = file_with(
        {"SOPClassUID": b"1.2.840.10008.5.1.4.1.1.2", **given_values}, explicit
    )
    assert damage.compare(data) == (3, {})
    header = dicom.decode(data, "a.dcm").header
    assert header.sop_instance == values.get("SOPInstanceUID", header.sop_instance)
    assert header.study == values.get("StudyInstanceUID", header.study)
    assert header.patient_id == values.get("PatientID", header.patient_id).strip()


def scan_all(folder, contents):
    """Return the header scans of files with these contents."""
    paths = [folder / f"{k}.dcm" for k in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return scan.scan_headers(map(str, paths))


def slices(count, **header):
    """Return the files of a series, which differ in all per-file fields."""
    return [
        dicom_bytes(
            PIXELS,
            InstanceNumber=k,
            SOPInstanceUID=f"1.2.{k}",
            FrameOfReferenceUID=f"1.3.{k}",
            ImagePositionPatient=[0, 0, 2.5 * k],
            TriggerTime=f"{k}.25",
            TemporalPositionIdentifier=k,
            WindowCenter=str(k),
            WindowWidth="10",
            **header,
        )
        for k in range(count)
    ]


def test_a_series_shares_a_header(tmp_path):
    """Files that differ in nothing but per-file fields have one header, and columns."""
    contents = slices(5, Modality="MR", SliceThickness="2.5")
    scans = scan_all(tmp_path, contents)
    assert len(scans.headers) == 1
    assert scans.header_index.tolist() == [0] * 5
    assert scans.per_file[3].tolist() == [3, 3, 10, 3, 3.25, 0, 0, 7.5]
    assert scans.sop_instances[3] == b"1.2.3"
    assert scans.frames_of_reference[3] == b"1.3.3"
    for k, content in enumerate(contents):
        assert scans.header_of(k) == dicom.decode(content, "a.dcm").header


def test_a_header_can_be_put_among_scans(tmp_path):
    """What pydicom has read takes the same columns as what was scanned."""
    contents = slices(3, Modality="MR")
    scans = scan_all(tmp_path, contents)
    expected = [scans.header_of(k) for k in range(3)]
    bare = dicom_bytes(FRAMES, SOPInstanceUID="1.9")
    for k, content in enumerate([contents[2], bare]):
        header = fallback.parse(content, "a.dcm", 2**20).header
        scans.put(k, header)
        assert scans.header_of(k) == header
    assert scans.header_of(2) == expected[2]
    assert scans.header_of(0) == expected[2]


def test_long_headers_are_scanned_by_further_calls(tmp_path, monkeypatch):
    """Each file is read as far as its header goes, whatever its neighbours need."""
    private = [0, 0, 5000, 100, 20_000, 60_000, 10, 90_000, 5000, 5000]
    contents = []
    for k, (size, content) in enumerate(zip(private, slices(10), strict=True)):
        dataset = pydicom.dcmread(pydicom.filebase.BytesIO(content))
        dataset.add_new(0x00091001, "OB", bytes(size))
        if k == 3:
            dataset.Modality = "CT"
        dataset.save_as(written := pydicom.filebase.BytesIO())
        contents.append(written.getvalue())
    contents.append(contents[4][:12_000])  # cut in its header
    contents.append(b"")
    asked = []
    read_files = scan.content.read_files
    monkeypatch.setattr(
        scan.content,
        "read_files",
        lambda names, first, most, *more: (
            asked.append((most, len(names.starts) - 1))
            or read_files(names, first, most, *more)
        ),
    )
    scans = scan_all(tmp_path, contents)
    assert scans.header_index[10:].tolist() == [scan.UNKNOWN] * 2
    assert asked == [(2**12, 12), (2**14, 7), (2**16, 3), (2**20, 1)]
    for k in range(10):
        assert scans.header_of(k) == dicom.decode(contents[k], "a.dcm").header


def test_many_files_are_scanned_in_parts(tmp_path, monkeypatch):
    """The arrays of a call are bounded; its results are the same."""
    contents = [*slices(4), b"", *slices(3, Modality="MR"), dicom_bytes(PIXELS)]
    whole = scan_all(tmp_path, contents)
    monkeypatch.setattr(scan, "MOST_FILES", 2)
    parts = scan_all(tmp_path, contents)
    assert (parts.header_index == scan.UNKNOWN).tolist() == [
        k == 4 for k in range(len(contents))
    ]
    assert parts.all_headers() == whole.all_headers()
    assert whole.all_headers()[3:6] == [whole.header_of(3), None, whole.header_of(5)]
    nothing = scan.scan_headers([])
    assert (len(nothing.headers), nothing.per_file.shape) == (0, (0, 8))


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="reads 850 files")
def test_both_readers_agree_on_all_real_files(real_data):
    """Headers of the compiled scan are pydicom's, for every public file."""
    paths = [path for path in sorted(real_data.rglob("*.dcm")) if path.is_file()]
    scans = scan.scan_headers(map(str, paths))
    compared = 0
    for k, path in enumerate(paths):
        # Neighbours of a series differ in what is compared for all of them at once.
        if scans.header_index[k] == scan.UNKNOWN or (len(paths) > 400 and k % 3):
            continue
        with path.open("rb", buffering=0) as file:
            header = fallback.read_header(file, str(path))
        assert scans.header_of(k) == header
        compared += 1
    assert compared > 100


def test_the_kind_of_no_image_is_told(tmp_path):
    """NoImageError names the class of a file that is no image, as the standard does."""
    elements = dict.fromkeys(("Rows", "Columns", "PixelData"))
    structures = pydicom.uid.RTStructureSetStorage
    path = write_dicom(tmp_path / "a.dcm", PIXELS, SOPClassUID=structures, **elements)
    with pytest.raises(NoImageError, match="RT Structure Set Storage") as caught:
        dicom.read_header(path)
    assert caught.value.kind == "RT Structure Set Storage"
    assert NoImageError("a.dcm: is none").kind == ""
    assert str(NoImageError("a.dcm: is none")) == "a.dcm: is none"


@pytest.mark.parametrize(
    "elements",
    [{"SamplesPerPixel": 3}, {"PhotometricInterpretation": "PALETTE COLOR"}],
    ids=["samples", "palette"],
)
def test_colour_is_told_from_damage(tmp_path, elements):
    """A colour image raises ColourImageError, a damaged one another DicomError."""
    path = write_dicom(tmp_path / "a.dcm", PIXELS, **elements)
    with pytest.raises(ColourImageError, match="only grey-scale images"):
        dicom.read_header(path)
    path = write_dicom(tmp_path / "b.dcm", PIXELS, BitsAllocated=None)
    with pytest.raises(DicomError) as caught:
        dicom.read_header(path)
    assert not isinstance(caught.value, ColourImageError)
