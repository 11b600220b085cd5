"""Functional groups: what enhanced files say of each frame, and of all of them."""

import itertools
import random
import time
from io import BytesIO

import numba
import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose
from pydicom import uid
from pydicom.dataset import Dataset

from fastseg import dicom
from fastseg.dicom import fallback, scan
from fastseg.dicom.header import ENHANCED
from fastseg.errors import DicomError
from tests import dicom_damage as damage
from tests.dicom.test_read_image import (
    BIG,
    EXPLICIT,
    FRAMES,
    IMPLICIT,
    PIXELS,
    dicom_bytes,
    write_dicom,
)
from tests.nifti import read_nifti

pytestmark = pytest.mark.kernel
DEFLATED = uid.DeflatedExplicitVRLittleEndian
# Sequence, element and value of each field of a Header.
GROUPS = {
    "spacing_mm": ("PixelMeasuresSequence", "PixelSpacing", (0.5, 0.75)),
    "slice_thickness_mm": ("PixelMeasuresSequence", "SliceThickness", 2.5),
    "position_mm": ("PlanePositionSequence", "ImagePositionPatient", (1, -2.5, 3)),
    "directions": (
        *("PlaneOrientationSequence", "ImageOrientationPatient"),
        (0, 1, 0, 0, 0, -1),
    ),
    "slope": ("PixelValueTransformationSequence", "RescaleSlope", 4.0),
    "intercept": ("PixelValueTransformationSequence", "RescaleIntercept", -1024.0),
    "temporal_position": ("FrameContentSequence", "TemporalPositionIndex", 7),
    "trigger_time_ms": (
        *("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
        12.5,
    ),
}
WINDOW = {"WindowCenter": "40", "WindowWidth": "400", "VOILUTFunction": "LINEAR_EXACT"}


def group(**sequences):
    """Return an item with a sequence of one item for each dict of elements."""
    item = Dataset()
    for keyword, elements in sequences.items():
        inner = Dataset()
        for name, value in elements.items():
            setattr(inner, name, value)
        setattr(item, keyword, [inner])
    return item


def item_of(fields):
    """Return an item with these fields of a Header, as functional groups."""
    sequences = {}
    for field, value in fields.items():
        sequence, keyword, _ = GROUPS[field]
        value = list(value) if isinstance(value, tuple) else value
        sequences.setdefault(sequence, {})[keyword] = value
    return group(**sequences)


def enhanced(shared=None, frames=None, pixels=FRAMES, syntax=EXPLICIT, **header):
    """Return the bytes of an enhanced file.

    shared : fields of a Header for all frames; None for no sequence
    frames : the same of each frame
    """
    groups = {}
    if shared is not None:
        groups["SharedFunctionalGroupsSequence"] = [item_of(shared)]
    if frames is not None:
        groups["PerFrameFunctionalGroupsSequence"] = list(map(item_of, frames))
    header = {"SOPClassUID": uid.EnhancedMRImageStorage, **groups, **header}
    return dicom_bytes(pixels, syntax, **header)


def headers_of(tmp_path, data):
    """Return the header of each frame, by which function it may be read."""
    path = tmp_path / "a.dcm"
    path.write_bytes(data)
    headers = dicom.read_frame_headers(path)
    for frame, header in enumerate(headers):
        assert dicom.read_header(path, frame) == header
        assert dicom.read_image(path, frame).header == header
        assert dicom.decode(data, "a.dcm", frame).header == header
    return headers


ALL = {field: value for field, (_, _, value) in GROUPS.items()}


@pytest.mark.parametrize("field", GROUPS)
@pytest.mark.parametrize("level", ["shared", "per frame"])
def test_each_element_is_read(tmp_path, field, level):
    """Each element comes from the shared groups, or from those of a frame."""
    given = {"slice_thickness_mm": 9.0, field: ALL[field]}
    data = enhanced(given) if level == "shared" else enhanced(frames=[given] * 3)
    for header in headers_of(tmp_path, data):
        assert getattr(header, field) == ALL[field]
        assert header.sop_class in ENHANCED


@pytest.mark.parametrize("top", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("frames", [False, True])
def test_a_frame_precedes_what_is_shared_and_the_top_level(
    tmp_path, top, shared, frames
):
    """The nearest level counts: that of the frame, the shared one, the file's."""
    data = enhanced(
        {"slice_thickness_mm": 1.0, **({"slope": 3.0} if shared else {})},
        [{"slope": 4.0 + k} if frames else {} for k in range(3)],
        **({"RescaleSlope": "2"} if top else {}),
    )
    slopes = [header.slope for header in headers_of(tmp_path, data)]
    if frames:
        assert slopes == [4, 5, 6]
    else:
        assert slopes == [3 if shared else 2 if top else 1] * 3


def test_the_top_level_is_the_last(tmp_path):
    """What no group gives is taken from the top level, but for a position."""
    top = {
        "RescaleSlope": "2",
        "PixelSpacing": [1, 2],
        "ImagePositionPatient": [1, 2, 3],
    }
    data = enhanced({"slice_thickness_mm": 1.0}, [{}] * 3, **top)
    for header in headers_of(tmp_path, data):
        assert header.slope == 2
        assert header.spacing_mm == (1, 2)
        assert header.position_mm is None
    single = enhanced({"slice_thickness_mm": 1.0}, pixels=PIXELS, **top)
    (header,) = headers_of(tmp_path, single)
    assert header.position_mm == (1, 2, 3)


def test_elements_that_belong_together_come_from_one_level(tmp_path):
    """A slope of a frame is not combined with an intercept of other levels."""
    frames = [{"slope": 4.0}, {"slope": 5.0}, {"slope": 6.0}]
    shared = {"slope": 3.0, "intercept": -7.0}
    headers = headers_of(tmp_path, enhanced(shared, frames, RescaleIntercept="-1024"))
    assert [(h.slope, h.intercept) for h in headers] == [(4, 0), (5, 0), (6, 0)]


@pytest.mark.parametrize("syntax", [EXPLICIT, BIG])
@pytest.mark.parametrize("blank", [None, "", " "])
@pytest.mark.parametrize("field", ["slope", "intercept"])
def test_each_frame_has_a_rescale_or_none_has(tmp_path, field, blank, syntax):
    """A frame without a slope that others have would get 1: the file is refused."""
    whole = {"slope": 2.0, "intercept": -5.0}
    frames = list(map(item_of, [whole] * 3))
    (inner,) = frames[1].PixelValueTransformationSequence
    keyword = GROUPS[field][1]
    if blank is None:
        del inner[keyword]
    else:
        inner[keyword].value = blank
    data = enhanced(PerFrameFunctionalGroupsSequence=frames, syntax=syntax)
    expected = rf"a\.dcm: frame 1, counted from 0, has no {keyword}, but other frames"
    with pytest.raises(DicomError, match=expected):
        headers_of(tmp_path, data)


@pytest.mark.parametrize("level", ["shared", "top", "none"])
def test_a_frame_without_a_rescale_needs_another_level(tmp_path, level):
    """What frames lack comes from the shared groups or the file, else it is refused."""
    whole = {"slope": 2.0, "intercept": -5.0}
    frames = [whole, {"position_mm": (0, 0, 1)}, whole]
    shared = {"spacing_mm": (1, 2)}
    if level == "shared":
        shared |= {"slope": 3, "intercept": 7}
    top = {"RescaleSlope": "3", "RescaleIntercept": "7"} if level == "top" else {}
    data = enhanced(shared, frames, **top)
    if level == "none":
        with pytest.raises(DicomError, match=r"frame 1, .* has no RescaleSlope"):
            headers_of(tmp_path, data)
    else:
        header = headers_of(tmp_path, data)[1]
        assert (header.slope, header.intercept) == (3, 7)


CT = (uid.EnhancedCTImageStorage, uid.LegacyConvertedEnhancedCTImageStorage)


@pytest.mark.parametrize("frames", [None, [{"position_mm": (0, 0, 1)}] * 3])
@pytest.mark.parametrize("sop_class", ENHANCED)
def test_without_any_rescale_hounsfield_units_are_a_guess(tmp_path, sop_class, frames):
    """A CT file needs a rescale, on any level; MR and PET files do not."""
    shared = {"spacing_mm": (1, 2)}
    if sop_class not in CT:
        headers = headers_of(tmp_path, enhanced(shared, frames, SOPClassUID=sop_class))
        assert {(h.slope, h.intercept) for h in headers} == {(1, 0)}
        return
    for some, lack in (({}, "Slope"), ({"slope": 2.0}, "Intercept")):
        data = enhanced(shared | some, frames, SOPClassUID=sop_class)
        with pytest.raises(DicomError, match=f"no Rescale{lack}; its Hounsfield units"):
            headers_of(tmp_path, data)
    top = {"RescaleSlope": "1", "RescaleIntercept": "-1024"}
    data = enhanced(shared, frames, SOPClassUID=sop_class, **top)
    assert {h.intercept for h in headers_of(tmp_path, data)} == {-1024}


def test_a_localizer_needs_no_rescale(tmp_path):
    """It is no image to learn from, and its values need not be Hounsfield units."""
    image_type = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    shared = {"spacing_mm": (1, 2)}
    data = enhanced(shared, SOPClassUID=CT[0], ImageType=image_type)
    assert all(header.is_localizer for header in headers_of(tmp_path, data))


@pytest.mark.parametrize("field", ["position_mm", "directions", "spacing_mm"])
def test_a_frame_may_lack_its_plane(tmp_path, field):
    """A frame without position, directions or spacing is read, and has none."""
    frames = [ALL, {key: ALL[key] for key in ALL.keys() - {field}}, ALL]
    headers = headers_of(tmp_path, enhanced(frames=frames))
    values = [getattr(header, field) for header in headers]
    assert values == [ALL[field], None, ALL[field]]


def test_a_window_of_a_frame_is_read(tmp_path):
    """Centre, width and function come from Frame VOI LUT."""
    item = group(
        FrameVOILUTSequence=WINDOW, PixelMeasuresSequence={"SliceThickness": 1}
    )
    data = enhanced(
        WindowCenter="1", WindowWidth="2", SharedFunctionalGroupsSequence=[item]
    )
    for header in headers_of(tmp_path, data):
        assert header.window == (40.5, 401)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG, DEFLATED])
@pytest.mark.parametrize("defined", [True, False], ids=["defined", "undefined"])
def test_all_encodings_are_read(tmp_path, syntax, defined):
    """Byte order, VRs, compression and undefined lengths change no header."""
    frames = [{**ALL, "slope": 1.0 + k} for k in range(3)]
    data = enhanced({"slice_thickness_mm": 9.0}, frames, syntax=syntax)
    dataset = pydicom.dcmread(BytesIO(data))

    def set_lengths(items):
        for inner in items:
            inner.is_undefined_length_sequence_item = not defined
            for element in inner:
                if element.VR == "SQ":
                    element.is_undefined_length = not defined
                    set_lengths(element.value)

    set_lengths([dataset])
    dataset.save_as(written := BytesIO())
    headers = headers_of(tmp_path, written.getvalue())
    for k, header in enumerate(headers):
        assert header.slope == 1 + k
        for field in GROUPS.keys() - {"slope"}:
            assert getattr(header, field) == ALL[field], field


@pytest.mark.parametrize("count", [0, 1, 2, 4])
@pytest.mark.parametrize("sop_class", [uid.EnhancedMRImageStorage, uid.MRImageStorage])
def test_each_frame_needs_its_groups(tmp_path, count, sop_class):
    """Groups of fewer or more frames than the file has are refused, in any class."""
    data = enhanced(ALL, [ALL] * count, SOPClassUID=sop_class)
    with pytest.raises(DicomError, match=f"groups of {count} frames, but 3 frames"):
        headers_of(tmp_path, data)


@pytest.mark.parametrize("sop_class", ENHANCED)
@pytest.mark.parametrize("pixels", [FRAMES, PIXELS], ids=["frames", "one frame"])
@pytest.mark.parametrize("groups", [(None, None), ({}, None), ({}, {})])
def test_an_enhanced_file_has_groups(tmp_path, sop_class, pixels, groups):
    """Without groups, or with empty ones, its rescale would be a guess."""
    shared, frame = groups
    frames = None if frame is None else [frame] * (3 if pixels.ndim == 3 else 1)
    data = enhanced(shared, frames, pixels, SOPClassUID=sop_class)
    assert damage.compare(data) == (0, {})
    expected = f"{ENHANCED[sop_class]} but has no functional groups"
    with pytest.raises(DicomError, match=expected):
        headers_of(tmp_path, data)


@pytest.mark.parametrize("keyword", ["Shared", "PerFrame"])
def test_one_empty_item_takes_the_fast_path(keyword):
    """Real MR files of one frame have an item without content: it says nothing."""
    groups = {f"{keyword}FunctionalGroupsSequence": [Dataset()]}
    assert damage.compare(dicom_bytes(PIXELS, **groups)) == (3, {})
    assert damage.compare(dicom_bytes(FRAMES, **groups))[1] == {}


def test_frames_without_groups_share_a_header(tmp_path):
    """All frames of other files have one header, whose position is unknown."""
    data = dicom_bytes(FRAMES, ImagePositionPatient=[1, 2, 3], RescaleSlope="2")
    headers = headers_of(tmp_path, data)
    assert len(headers) == 3
    assert set(headers) == {headers[0]}
    assert headers[0].position_mm is None


@pytest.mark.parametrize("frame", [-1, 3])
def test_a_frame_that_does_not_exist_is_refused(tmp_path, frame):
    """read_header counts frames from 0, with and without groups."""
    for data in (dicom_bytes(FRAMES), enhanced(ALL, [ALL] * 3)):
        path = tmp_path / "a.dcm"
        path.write_bytes(data)
        with pytest.raises(DicomError, match=f"has no frame {frame}, expected 0 to 2"):
            dicom.read_header(path, frame)


def test_frames_are_not_listed_without_end(tmp_path):
    """A header that announces a billion frames gives no billion headers."""
    path = write_dicom(tmp_path / "a.dcm", PIXELS, NumberOfFrames=10**9)
    with pytest.raises(DicomError, match="1000000000 frames, expected at most 1048576"):
        dicom.read_frame_headers(path)


BAD = {
    "RescaleSlope": ("PixelValueTransformationSequence", b"GEHEIM"),
    "ImagePositionPatient": ("PlanePositionSequence", b"1\\2 "),
    "ImageOrientationPatient": ("PlaneOrientationSequence", b"1\\0\\0 "),
    "PixelSpacing": ("PixelMeasuresSequence", b"GEHEIM^A"),
}


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
@pytest.mark.parametrize("keyword", BAD)
def test_a_bad_value_of_a_frame_is_named(tmp_path, keyword, syntax):
    """It is an error of its frame, names the element and quotes nothing."""
    sequence, value = BAD[keyword]
    item = item_of(ALL)
    (inner,) = item[sequence].value
    tag = pydicom.tag.Tag(keyword)
    raw = pydicom.dataelem.RawDataElement(tag, "DS", len(value), value, 0, False, True)
    inner[tag] = raw
    path = tmp_path / "a.dcm"
    groups = {"PerFrameFunctionalGroupsSequence": [item_of(ALL), item, item_of(ALL)]}
    path.write_bytes(enhanced(**groups, syntax=syntax))
    for frame in (0, 2):
        assert dicom.read_header(path, frame).slope == 4
    for read in (dicom.read_header, dicom.read_image):
        with pytest.raises(DicomError, match=keyword) as caught:
            read(path, 1)
        assert "GEHEIM" not in str(caught.value)
    with pytest.raises(DicomError, match=keyword):
        dicom.read_frame_headers(path)


def test_real_frames_lie_where_the_reference_puts_them(real_data):
    """Corners of all frames are voxels of the reference, with its values."""
    (path,) = (real_data / "series/enhanced_philips").iterdir()
    voxels, reference = read_nifti(real_data / "series/enhanced_philips.nii.gz")
    headers = dicom.read_frame_headers(path)
    assert len(headers) == 8
    for frame, header in enumerate(headers):
        values = dicom.read_image(path, frame).values()
        along_row, along_column = np.reshape(header.directions, (2, 3))
        between_rows, between_columns = header.spacing_mm
        for row, column in itertools.product((0, 100, 255), repeat=2):
            point = (
                np.array(header.position_mm)
                + column * between_columns * along_row
                + row * between_rows * along_column
            )
            index = np.rint(np.linalg.solve(reference, [*point, 1]))
            assert_allclose((reference @ index)[:3], point, atol=1e-4, rtol=0)
            x, y, z, _ = index.astype(int)
            assert_allclose(voxels[x, y, z], values[row, column], rtol=1e-6)


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="is about time")
def test_a_thousand_frames_take_no_seconds(tmp_path):
    """The headers of a thousand frames take a fifth of a second of processor time."""
    count = 1000
    parts, _ = damage.split_file(enhanced(frames=[ALL], pixels=PIXELS))
    number = damage.Element(0x00280008, b"IS", b"%d" % count)
    # One item of one frame, and its pixels, become a thousand.
    long = {part.tag: part for part in [*parts, number]}
    for tag in (0x52009230, 0x7FE00010):
        long[tag] = long[tag]._replace(value=long[tag].value * count)
    path = tmp_path / "a.dcm"
    path.write_bytes(damage.write_file(sorted(long.values()), explicit=True))
    dicom.read_header(path)  # compiles
    start = time.process_time()
    headers = dicom.read_frame_headers(path)
    assert time.process_time() - start < 1
    assert len(headers) == count
    assert headers[-1].position_mm == ALL["position_mm"]


def test_spoilt_groups_raise_nothing_else(tmp_path):
    """A spoilt enhanced file gives headers or a DicomError that names it."""
    rng = random.Random(5)
    data = enhanced({"slope": 2.0}, [ALL] * 3)
    start = data.index(b"\x00\x52\x29\x92")
    path = tmp_path / "a.dcm"
    messages = []
    for _ in range(200):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 1, 2))):
            at = rng.randrange(start, len(data) - FRAMES.nbytes)
            damaged[at] = rng.choice((0, 255, 1, 0x41, rng.randrange(256)))
        path.write_bytes(damaged)
        try:
            dicom.read_frame_headers(path)
        except DicomError as exc:
            messages.append(str(exc))
    assert all(message.startswith(f"{path}: ") for message in messages)
    assert 25 < len(messages) < 175


def test_the_kernel_and_pydicom_agree(tmp_path, monkeypatch):
    """Headers are the same if only pydicom takes the groups apart."""
    data = enhanced({"slope": 2.0}, [{**ALL, "slope": k + 0.5} for k in range(3)])
    headers = headers_of(tmp_path, data)
    monkeypatch.setattr(fallback.groups, "find_grouped", lambda *_: -1)
    assert headers_of(tmp_path, data) == headers
    monkeypatch.setattr(fallback.groups, "MAX_PARSED_BYTES", 100)
    with pytest.raises(DicomError, match=r"GroupsSequence has \d+ bytes"):
        headers_of(tmp_path, data)


def test_files_with_groups_go_to_the_fallback():
    """The fast path reads no groups."""
    assert scan.parse(enhanced(ALL, [ALL] * 3)) is None
