"""The fast path never disagrees with pydicom, on valid and on spoilt files.

Longer: python -m tests.soak dicom_files
"""

import random
from collections import Counter
from io import BytesIO

import numba
import pydicom
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from fastseg import dicom
from fastseg._kernels.files import elements
from fastseg.dicom import scan
from fastseg.errors import DicomError, MissingExtraError
from tests import dicom_damage as damage
from tests.dicom.test_read_image import EXPLICIT, FRAMES, IMPLICIT, dicom_bytes

pytestmark = pytest.mark.kernel
# Files per test; interpreted kernels are slower.
FILES = 250 if numba.config.DISABLE_JIT else 1500
SHORT_PIECES = (200, 700)


def tally(files, frames=(0, 0, 0, 1, 2)):
    """Compare all files; count them by how many readings the fast path answers."""
    rng = random.Random(0)
    answers = Counter()
    for data in files:
        answered, differing = damage.compare(data, rng.choice(frames))
        assert not differing, data
        answers[answered] += 1
    return answers


@pytest.mark.parametrize("pieces", [scan.SIZES, SHORT_PIECES], ids=str)
@pytest.mark.parametrize("seed", [1, 2])
def test_valid_and_spoilt_files(monkeypatch, seed, pieces):
    """Headers, pixels and errors agree on small files, of which half are spoilt."""
    monkeypatch.setattr(scan, "SIZES", pieces)
    rng = random.Random(seed)
    answers = tally(damage.make_file(rng) for _ in range(FILES))
    assert answers[3] > FILES / 10
    assert answers[0] > FILES / 3


def test_spoilt_sample_files(sample_study):
    """Headers, pixels and errors agree on the sample data with changes."""
    rng = random.Random(3)
    paths = sorted(sample_study.glob("dicoms/*/*.dcm"))

    def spoilt():
        for _ in range(FILES // 2):
            data = rng.choice(paths).read_bytes()
            parts, end = damage.split_file(data)
            if rng.random() < 0.5:
                yield damage.spoil_bytes(rng, data, end)
            else:
                damage.spoil_elements(rng, parts)
                yield damage.write_file(parts, explicit=True)

    answers = tally(spoilt())
    assert answers[3] > FILES / 20


def test_spoilt_files_raise_nothing_else():
    """A spoilt file gives an image or a DicomError that names the file."""
    rng = random.Random(4)
    images = 0
    for _ in range(FILES // 3):
        data = damage.make_file(rng)
        outcome = damage.outcome(lambda data=data: dicom.decode(data, "a.dcm"))
        if isinstance(outcome[0], type):
            assert issubclass(outcome[0], DicomError | MissingExtraError)
            assert outcome[1].startswith("a.dcm: ")
        images += not isinstance(outcome[0], type)
    assert images > FILES / 20


def with_sequences(data, depth, defined):
    """Return a file with nested sequences, whose lengths are defined or not."""
    file = pydicom.dcmread(BytesIO(data))
    inner = file
    for _ in range(depth):
        item = Dataset()
        item.ReferencedSOPInstanceUID = "1.2.3"
        item.is_undefined_length_sequence_item = not defined
        inner.ReferencedImageSequence = [item, Dataset()]
        inner["ReferencedImageSequence"].is_undefined_length = not defined
        inner = item
    file.save_as(written := BytesIO())
    return written.getvalue()


@pytest.mark.parametrize("defined", [True, False])
@pytest.mark.parametrize("depth", [1, 3, 17])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT], ids=["explicit", "implicit"])
def test_files_with_sequences(syntax, depth, defined):
    """The fast path skips sequences, up to a depth if their lengths are undefined."""
    texts = {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "A^B"}
    numbers = {"RescaleSlope": "0.5", "PixelSpacing": [0.1, 0.2]}
    data = dicom_bytes(FRAMES, syntax, BitsStored=12, HighBit=11, **texts, **numbers)
    data = with_sequences(data, depth, defined)
    assert (b"\xfe\xff\xdd\xe0" in data) == (not defined)
    answered = 3 if defined or depth <= elements.DEEPEST else 0
    for frame in range(-1, 4):
        assert damage.compare(data, frame) == (answered, {})


def undefined(*inside, explicit=True, vr=b"SQ", tag=0x00081140):
    """Return a sequence of undefined length that holds these elements."""
    content = b"".join(element.encode(explicit) for element in inside)
    end = damage.Element(damage.END, b"", b"").encode(True)
    return damage.Element(tag, vr, content + end, damage.UNDEFINED)


def item(*inside, explicit=True, length=None):
    """Return an item that holds these elements; by default its length is true."""
    content = b"".join(element.encode(explicit) for element in inside)
    return damage.Element(damage.ITEM, b"", content, length)


REFERENCE = damage.Element(0x00081150, b"UI", b"1.2\0")
END = damage.Element(damage.END, b"", b"")
ITEM_END = damage.Element(damage.ITEM_END, b"", b"")
IMPLICIT_ITEM = item(REFERENCE._replace(value=END.encode(True)), explicit=False)
# A list of text, which is no sequence, and an element that no dictionary lists.
TEXT, UNLISTED = 0x00081030, 0x00071111
# Elements that the fast path does not fully understand: (element, is explicit).
DOUBTFUL = {
    "no item": (undefined(REFERENCE), True),
    "too short an item": (undefined(item(REFERENCE, length=10)), True),
    "too long an item": (undefined(item(REFERENCE, length=100)), True),
    "an end in a defined item": (undefined(item(ITEM_END, REFERENCE)), True),
    "an end of a sequence in an item": (undefined(item(REFERENCE, END)), True),
    "an item in an item": (undefined(item(item(REFERENCE))), True),
    "its own character set": (undefined(item(REFERENCE._replace(tag=0x80005))), True),
    "bytes of undefined length": (undefined(item(undefined(vr=b"OB"))), True),
    "unknown of undefined length": (undefined(item(REFERENCE), vr=b"UN"), True),
    "an end in a value": (
        undefined(IMPLICIT_ITEM, explicit=False, tag=UNLISTED),
        False,
    ),
    "an end in the value of a text": (
        undefined(IMPLICIT_ITEM, explicit=False, tag=TEXT),
        False,
    ),
    "a sequence in a text": (
        undefined(
            item(undefined(explicit=False), explicit=False), explicit=False, tag=TEXT
        ),
        False,
    ),
    "a text in a sequence": (
        undefined(
            item(undefined(explicit=False, tag=TEXT), explicit=False), explicit=False
        ),
        False,
    ),
    "a length of two letters": (
        REFERENCE._replace(tag=0x00080006, value=bytes(0x4344)),
        False,
    ),
    "an odd length": (REFERENCE._replace(value=b"1.2"), True),
    "no known VR": (REFERENCE._replace(vr=b"ZZ"), True),
    "no letters as VR": (REFERENCE._replace(vr=b"\0\0"), True),
    "a command": (REFERENCE._replace(tag=0x00000002), True),
    "a descending tag": (REFERENCE._replace(tag=0x00800000), True),
}


def test_standard_sequences_are_in_the_dictionary():
    """They are sequences, also to pydicom, and ascend."""
    tags = elements.STANDARD_SEQUENCES.tolist()
    assert {pydicom.datadict.dictionary_VR(tag) for tag in tags} == {"SQ"}
    assert tags == sorted({*tags})


def test_standard_sequences_of_implicit_files_are_skipped():
    """The fast path reads past them, whatever the values in them look like."""
    parts = damage.make_elements(random.Random(0), False, 0)
    found = undefined(IMPLICIT_ITEM, explicit=False)
    assert damage.compare(damage.write_file(sorted([found, *parts]), False)) == (3, {})


@pytest.mark.parametrize("name", DOUBTFUL)
def test_doubtful_elements_go_to_the_fallback(name):
    """One doubtful element in a valid file sends the file to the fallback."""
    doubtful, explicit = DOUBTFUL[name]
    parts = damage.make_elements(random.Random(0), explicit, 0)
    assert damage.compare(damage.write_file(parts, explicit)) == (3, {})
    order = sorted if name != "a descending tag" else list
    data = damage.write_file(order([doubtful, *parts]), explicit)
    assert damage.compare(data) == (0, {})


@given(
    st.sampled_from(
        [
            "WindowCenter",
            "WindowWidth",
            "RescaleSlope",
            "PixelSpacing",
            "InstanceNumber",
        ]
    ),
    st.text("0123456789+-.eE \\\0", max_size=12) | st.text(max_size=8),
)
@example("WindowCenter", "1_0")
@example("InstanceNumber", "9" * 16)
@example("InstanceNumber", "9" * 20)
@example("WindowWidth", "1e400")
@example("WindowCenter", "-1e400")
@example("PixelSpacing", "1\\2\0")
@example("RescaleSlope", "9" * 400)
def test_numbers_are_read_as_by_pydicom(keyword, text):
    """Any text given as a number has pydicom's value, or goes to the fallback."""
    value = text.encode()
    data = damage.write_file(parts_with(keyword, value + b" " * (len(value) % 2)), True)
    assert not damage.compare(data)[1]


def parts_with(keyword, value):
    """Return the elements of a valid image, one of them with another value."""
    parts = damage.make_elements(random.Random(0), True, 0)
    tag, vr = dicom.HEADER_ELEMENTS[keyword]
    changed = {e.tag: e for e in parts} | {tag: damage.Element(tag, vr.encode(), value)}
    return sorted(changed.values())


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_in_a_dataset(rubbish, explicit):
    """Both readers agree on a file with any bytes before, behind or as its elements."""
    parts = damage.make_elements(random.Random(0), explicit, 0)
    head = damage.file_head(explicit)
    body = b"".join(element.encode(explicit) for element in parts)
    for data in (head + rubbish + body, head + body + rubbish, head + rubbish):
        assert not damage.compare(data)[1]


@pytest.mark.parametrize("explicit", [True, False])
def test_every_truncation_goes_to_the_fallback(explicit):
    """A cut file is never an image; its header is read if the cut is in the pixels."""
    parts = damage.make_elements(random.Random(0), explicit, 0)
    data = damage.write_file(parts, explicit)
    start = len(data) - len(parts[-1].value)
    for cut in range(len(data)):
        answered, differing = damage.compare(data[:cut])
        assert not differing
        assert answered == (cut >= start)
