"""Text where it does not belong is refused by both readers, and never quoted."""

import logging
import random
import warnings

import numba
import pytest

from fastseg import dicom
from fastseg.bounds import MAX_DECIMAL, MAX_INTEGER_DIGITS, MAX_UID_BYTES
from fastseg.dicom import scan
from fastseg.dicom.header import HEADER_ELEMENTS, PHOTOMETRICS
from fastseg.errors import DicomError
from tests import dicom_damage as damage

pytestmark = pytest.mark.kernel
SECRETS = ["GEHEIM^NAME 19610203", "GEHEIM", "Geheim_1961", "GEHEIM\\GEHEIM"]
SECRETS += ["1.2.GEHEIM", "19610203\\GEHEIM", "GEHEIM" * 40]
VALUES = {"UI": b"1.2.3", "IS": b"7", "DS": b"1.5", "CS": b"LINEAR", "US": b"\1\0"}
# No value of these is refused.
TEXTS = ("ImageType", "Modality", "PatientID")
VRS = [
    b"UI",
    b"IS",
    b"DS",
    b"CS",
    b"US",
    b"LO",
    b"PN",
    b"SH",
    b"UN",
    b"OB",
    b"ST",
    b"SQ",
]


def file_with(keyword, value, vr=None, explicit=True):
    """Return a valid file in which one element has another value."""
    tag, usual = HEADER_ELEMENTS[keyword]
    parts = damage.make_elements(random.Random(0), explicit, 0)
    changed = {e.tag: e for e in parts}
    changed[tag] = damage.Element(tag, vr or usual.encode(), damage.even(value))
    return damage.write_file(sorted(changed.values()), explicit)


def read_all(tmp_path, data):
    """Return the errors of all readers of a file, None where it is read."""
    path = tmp_path / "a.dcm"
    path.write_bytes(data)
    results = []
    for read in (dicom.read_header, dicom.read_image):
        try:
            read(path)
        except DicomError as exc:
            results.append(str(exc))
        else:
            results.append(None)
    return results


@pytest.mark.parametrize("keyword", HEADER_ELEMENTS)
def test_no_text_of_a_header_is_quoted(tmp_path, capfd, caplog, keyword):
    """A name in any listed element, under any VR, is in no error, warning or log."""
    caplog.set_level(logging.DEBUG)
    refused = 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number, secret in enumerate(SECRETS):
            # A third of the VRs for each text, others of them for the next element.
            start = (number + list(HEADER_ELEMENTS).index(keyword)) % 3
            for vr in [None] if numba.config.DISABLE_JIT else [None, *VRS[start::3]]:
                for explicit in (True, False):
                    data = file_with(keyword, secret.encode(), vr, explicit)
                    assert not damage.compare(data)[1]
                    for text in read_all(tmp_path, data):
                        refused += text is not None
                        assert "GEHEIM" not in (text or "").upper()
    assert refused or keyword in ("VOILUTFunction", *TEXTS)
    output = "".join([caplog.text, *capfd.readouterr(), *map(str, caught)])
    assert "GEHEIM" not in output.upper()


@pytest.mark.parametrize("secret", SECRETS)
def test_a_series_that_is_no_uid(tmp_path, secret):
    """Text as SeriesInstanceUID rejects the image, by its kind and length."""
    size = len(secret.encode()) + len(secret) % 2
    expected = (
        rf"SeriesInstanceUID is text of ({size}|{size - 1}) bytes, expected a UID"
    )
    if "\\" in secret:
        expected = "SeriesInstanceUID has 2 values, expected one"
    path = tmp_path / "a.dcm"
    path.write_bytes(file_with("SeriesInstanceUID", secret.encode()))
    for read in (dicom.read_header, dicom.read_image):
        with pytest.raises(DicomError, match=expected):
            read(path)


@pytest.mark.parametrize("explicit", [True, False])
def test_a_uid_has_64_bytes_at_most(tmp_path, explicit):
    """A UID is up to 64 digits and points, padded with a NUL or space."""
    longest = "1." + "2" * (MAX_UID_BYTES - 2)
    for given, padding in [(longest, b""), (longest[:-1], b"\0"), (longest[:-1], b" ")]:
        value = given.encode() + padding
        data = file_with("SeriesInstanceUID", value, explicit=explicit)
        assert damage.compare(data) == (3, {})
        assert dicom.decode(data, "a.dcm").header.series == given
    for length in (MAX_UID_BYTES + 1, 300, 60_000):
        data = file_with("SeriesInstanceUID", b"1" * length, explicit=explicit)
        assert damage.compare(data) == (0, {})
        text, _ = read_all(tmp_path, data)
        assert text.endswith("expected a UID: up to 64 digits and points")


ONE_VALUE = [
    keyword
    for keyword, (_, vr) in HEADER_ELEMENTS.items()
    if vr != "SQ" and keyword not in TEXTS and keyword != "ImagePositionPatient"
]


@pytest.mark.parametrize("keyword", ONE_VALUE)
@pytest.mark.parametrize("explicit", [True, False])
def test_values_of_another_multiplicity_are_refused(tmp_path, keyword, explicit):
    """Three values are refused, by name of the element; several windows are valid."""
    vr = HEADER_ELEMENTS[keyword][1]
    value = VALUES[vr] * 3 if vr == "US" else b"\\".join([VALUES[vr]] * 3)
    data = file_with(keyword, value, explicit=explicit)
    assert not damage.compare(data)[1]
    if keyword.startswith("Window"):
        other = {"WindowCenter": "WindowWidth"}.get(keyword, "WindowCenter")
        parts, _ = damage.split_file(data) if explicit else (None, 0)
        if parts is None:
            return
        for given, is_valid in [(b"4\\5\\6 ", True), (b"4 ", False), (b"4\\5 ", False)]:
            tag = HEADER_ELEMENTS[other][0]
            changed = {e.tag: e for e in parts}
            changed[tag] = damage.Element(tag, b"DS", damage.even(given))
            some = damage.write_file(sorted(changed.values()), True)
            assert not damage.compare(some)[1]
            texts = read_all(tmp_path, some)
            assert (texts == [None, None]) == is_valid
            assert is_valid or "expected as many of each" in texts[0]
        return
    for text in read_all(tmp_path, data):
        assert f"a.dcm: {keyword} has 3 values, expected" in text


@pytest.mark.parametrize("value", [b"1\\2 ", b"1\\", b"\\1", b"1\\\\2 "])
def test_an_instance_has_one_number(tmp_path, value):
    """InstanceNumber 1\\2 is an error, not 1, of every reader."""
    data = file_with("InstanceNumber", value)
    assert scan.parse(data) is None
    for text in read_all(tmp_path, data):
        assert "InstanceNumber has" in text
        assert "expected one" in text


NUMBERS = [
    ("RescaleSlope", b"1e21", False),
    ("RescaleSlope", b"1e-21 ", False),
    ("RescaleSlope", b"-1e20 ", True),
    ("RescaleIntercept", b"-1e21 ", False),
    ("RescaleIntercept", b"1e20", True),
    ("InstanceNumber", b"9" * MAX_INTEGER_DIGITS, True),
    ("InstanceNumber", b"9" * (MAX_INTEGER_DIGITS + 1), False),
    ("InstanceNumber", b"9" * 60_000, False),
    ("NumberOfFrames", b"9" * 60_000, False),
    ("NumberOfFrames", b"9" * 4000, False),
    ("NumberOfFrames", b"1.5 ", False),
]


@pytest.mark.parametrize(("keyword", "value", "is_valid"), NUMBERS)
def test_numbers_have_bounds(keyword, value, is_valid):
    """A number over its bound is refused with a short message by both readers."""
    data = file_with(keyword, value)
    assert not damage.compare(data)[1]
    if is_valid:
        dicom.decode(data, "a.dcm")
        return
    with pytest.raises(DicomError, match=keyword) as caught:
        dicom.decode(data, "a.dcm")
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("value", [b"1_0 ", b"1_000.5 "])
def test_a_number_has_no_underscores(value):
    """Python and pydicom read 1_0 as 10; here it is text, as in a table."""
    keywords = [k for k, (_, vr) in HEADER_ELEMENTS.items() if vr in ("DS", "IS")]
    for keyword in keywords:
        several = value + b"\\" + value if "Spacing" in keyword else value
        for explicit in (True, False):
            data = file_with(keyword, several, explicit=explicit)
            assert not damage.compare(data)[1]
            with pytest.raises(DicomError, match=f"{keyword} is .*(text|values)"):
                dicom.decode(data, "a.dcm")


def test_a_window_or_spacing_over_the_bound_is_unknown():
    """It counts as absent, as one of 0 or infinity does, in both readers."""
    data = file_with("PixelSpacing", b"1e21\\1")
    assert not damage.compare(data)[1]
    assert dicom.decode(data, "a.dcm").header.spacing_mm is None
    data = file_with("WindowCenter", b"1e21")
    assert not damage.compare(data)[1]
    assert dicom.decode(data, "a.dcm").header.window is None
    assert MAX_DECIMAL == 1e20


def test_known_codes_are_quoted():
    """PhotometricInterpretation is quoted if it is a term of the standard."""
    for term in sorted(PHOTOMETRICS - {"", "MONOCHROME1", "MONOCHROME2"}):
        with pytest.raises(DicomError, match=rf": {term} with 1 samples"):
            dicom.decode(file_with("PhotometricInterpretation", term.encode()), "a.dcm")


def test_a_transfer_syntax_is_a_uid(tmp_path):
    """Text as TransferSyntaxUID is refused without a quote."""
    data = file_with("InstanceNumber", b"7 ")
    syntax = damage.SYNTAXES[True]
    for text in (b"GEHEIM^NAME 1961030\0", b"1.2.840.10008.9.9.9\0"):
        spoilt = data.replace(syntax, text, 1)
        for error in read_all(tmp_path, spoilt):
            assert "GEHEIM" not in (error or "")
    assert (
        "TransferSyntaxUID is text of"
        in read_all(tmp_path, data.replace(syntax, b"GEHEIM^NAME 1961030\0", 1))[0]
    )
