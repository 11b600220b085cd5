"""Kinds of files: fast path, fallback, deflated, compressed, damaged."""

import os
import random
import subprocess
import sys
import time
import tracemalloc
import zlib
from io import FileIO

import numpy as np
import pydicom
import pytest
from numpy.testing import assert_array_equal
from pydicom import uid
from pydicom.pixels import get_decoder

from fastseg import dicom, files
from fastseg.bounds import MAX_ELEMENTS, MAX_VALUE_BYTES
from fastseg.dicom import fallback, scan
from fastseg.errors import DicomError, MissingExtraError, NoImageError
from tests import dicom_damage as damage
from tests.dicom.test_read_image import (
    EXPLICIT,
    FRAMES,
    IMPLICIT,
    PIXELS,
    dicom_bytes,
    write_dicom,
)

DEFLATED = uid.DeflatedExplicitVRLittleEndian
NOISE = np.random.default_rng(0).integers(0, 4096, (2, 16, 24), np.uint16)


def takes_fast_path(data):
    """Return whether the fast path reads the image."""
    return scan.parse(data) is not None


def test_sample_files_take_the_fast_path(sample_study):
    """No file of the sample data needs pydicom, which is not even imported."""
    code = (
        "import sys; from pathlib import Path; from fastseg import dicom\n"
        "for path in Path(sys.argv[1]).glob('dicoms/*/*.dcm'):\n"
        "    assert dicom.read_header(path) == dicom.read_image(path).header\n"
        "print('pydicom' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, sample_study],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "False"


def test_real_files_take_the_fast_path(real_data):
    """The fast path reads every file of the real data, with pydicom's results."""
    paths = sorted((real_data / "sunnybrook").glob("dicoms/*/*.dcm"))[::7]
    # Implicit files; those of PET have sequences within sequences.
    paths += sorted((real_data / "sts").glob("*/*/image/*.dcm"))[::7]
    for path in paths:
        assert damage.compare(path.read_bytes()) == (3, {})


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT], ids=["explicit", "implicit"])
@pytest.mark.parametrize("bits", [16, 13])
def test_pixels_are_a_view_of_the_bytes(syntax, bits):
    """Pixels whose unused bits are clear are a read-only view of the right frame."""
    data = dicom_bytes(FRAMES, syntax, BitsStored=bits, HighBit=bits - 1)
    for frame, expected in enumerate(FRAMES):
        image = dicom.decode(data, "a.dcm", frame)
        assert_array_equal(image.pixels, expected)
        assert np.shares_memory(image.pixels, np.frombuffer(data, np.uint8))
        assert not image.pixels.flags.writeable


def test_pixels_are_aligned():
    """Pixels whose offset is no multiple of their four bytes are copied."""
    seen = set()
    for patient_id in ("", "12"):
        data = dicom_bytes(PIXELS.astype("u4"), PatientID=patient_id)
        pixels = dicom.decode(data, "a.dcm").pixels
        assert_array_equal(pixels, PIXELS)
        assert pixels.flags.aligned
        seen.add(np.shares_memory(pixels, np.frombuffer(data, np.uint8)))
    assert seen == {False, True}


@pytest.mark.parametrize(
    "data",
    [
        dicom_bytes(PIXELS, packed=True),
        dicom_bytes(PIXELS, uid.ExplicitVRBigEndian),
        dicom_bytes(PIXELS, DEFLATED),
        dicom_bytes(PIXELS, bare=True),
        dicom_bytes(PIXELS, SpecificCharacterSet="ISO_IR 100").replace(b"R 1", b"R 9"),
        dicom_bytes(PIXELS, RescaleSlope="2.5").replace(b"2.5 ", b"\t2.5"),
        dicom_bytes(PIXELS) + bytes(2),
    ],
    ids=["packed", "big", "deflated", "bare", "charset", "number", "trailing zeros"],
)
def test_other_files_go_to_the_fallback(data):
    """The fallback gives the same pixels where the fast path gives none."""
    assert not takes_fast_path(data)
    assert_array_equal(dicom.decode(data, "a.dcm").pixels, PIXELS)


def test_one_frame_of_a_large_file_is_read_alone(tmp_path, monkeypatch):
    """Of a large file only header, first pixels and the requested frame are read."""
    amounts = []

    class Counted(FileIO):
        def read(self, size=-1):
            amounts.append(size)
            return super().read(size)

    frames = np.random.default_rng(1).integers(0, 2**16, (40, 200, 100), np.uint16)
    path = write_dicom(tmp_path / "a.dcm", frames)
    assert path.stat().st_size > dicom.SMALL_FILE
    monkeypatch.setattr(files, "FileIO", Counted)
    for frame in (0, 17, 39):
        assert_array_equal(dicom.read_image(path, frame).pixels, frames[frame])
    assert sum(amounts) == 3 * (scan.SIZES[0] + 4 + frames[0].nbytes)
    with pytest.raises(DicomError, match=r"need 1600000 bytes, over the limit"):
        dicom.read_image(path, max_pixel_bytes=1_599_999)
    assert sum(amounts) < 5 * scan.SIZES[0] + 3 * frames[0].nbytes


@pytest.mark.parametrize("tail", [b"", b"\xfc\xff\xfc\xffOB\0\0\2\0\0\0ab", b"tail"])
def test_a_large_file_with_a_tail_is_read_whole(tmp_path, monkeypatch, tail):
    """Bytes behind the pixels of a large file do not change its frames."""
    monkeypatch.setattr(dicom, "SMALL_FILE", 0)
    path = tmp_path / "a.dcm"
    path.write_bytes(dicom_bytes(FRAMES) + tail)
    assert_array_equal(dicom.read_image(path, 2).pixels, FRAMES[2])


@pytest.mark.parametrize("pixels", [PIXELS, FRAMES, PIXELS.astype("i4")])
def test_deflated_files_are_read(tmp_path, pixels):
    """The header and each frame of a deflated dataset are read."""
    path = write_dicom(tmp_path / "a.dcm", pixels, DEFLATED, RescaleSlope="2")
    header = dicom.read_header(path)
    assert header.slope == 2
    for frame, expected in enumerate(pixels.reshape(-1, *pixels.shape[-2:])):
        image = dicom.read_image(path, frame)
        assert_array_equal(image.pixels, expected)
        assert image.header == header


def deflated(*elements):
    """Return a deflated file with these elements."""
    syntax = damage.Element(0x00020010, b"UI", DEFLATED.encode()).encode(True)
    length = damage.Element(0x20000, b"UL", damage.word(len(syntax))).encode(True)
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = b"".join(deflater.compress(e.encode(True)) for e in elements)
    return bytes(128) + b"DICM" + length + syntax + body + deflater.flush()


@pytest.mark.parametrize("tag", [0x00091010, 0xFFFCFFFC], ids=["before", "behind"])
def test_a_deflated_file_cannot_fill_the_memory(tmp_path, monkeypatch, tag):
    """No more is inflated than a header and the pixels that it announces may have."""
    monkeypatch.setattr(fallback, "MAX_HEADER_BYTES", 10_000)
    monkeypatch.setattr(fallback, "PIECE_BYTES", 5000)
    parts = damage.make_elements(random.Random(0), True, 0)
    bomb = damage.Element(tag, b"OB", bytes(5 * 10**7))
    path = tmp_path / "a.dcm"
    path.write_bytes(deflated(*sorted([*parts, bomb])))
    assert path.stat().st_size < 100_000
    del bomb
    tracemalloc.start()
    try:
        for read in (dicom.read_header, dicom.read_image):
            if tag < 0x00280000 or read is dicom.read_image:
                with pytest.raises(DicomError, match="inflates to more than 10"):
                    read(path)
            else:
                assert read(path).rows
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


def test_deflated_pixels_over_the_limit_are_not_inflated(tmp_path):
    """The header of a deflated file is read without its pixels, and says their size."""
    path = write_dicom(tmp_path / "a.dcm", np.zeros((4000, 4000), "u2"), DEFLATED)
    tracemalloc.start()
    try:
        assert dicom.read_header(path).rows == 4000
        with pytest.raises(DicomError, match="need 32000000 bytes, over the limit"):
            dicom.read_image(path, max_pixel_bytes=2000)
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


def test_a_cut_deflated_file_is_noticed():
    """Deflated data that are cut anywhere raise DicomError."""
    data = dicom_bytes(PIXELS, DEFLATED)
    for cut in range(len(data) - 1):
        with pytest.raises(DicomError, match=r"^a\.dcm: "):
            dicom.decode(data[:cut], "a.dcm")


def compressed(tmp_path, syntax, pixels=None):
    """Write NOISE in a compressed transfer syntax with GDCM; return the path.

    pixels : others, of which all bits are stored
    """
    gdcm = pytest.importorskip("gdcm")
    bits = {"BitsStored": 12, "HighBit": 11} if pixels is None else {}
    source = write_dicom(
        tmp_path / "in.dcm", NOISE if pixels is None else pixels, **bits
    )
    reader = gdcm.ImageReader()
    change = gdcm.ImageChangeTransferSyntax()
    reader.SetFileName(str(source))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(tmp_path / "out.dcm"))
    assert writer.Write()
    return tmp_path / "out.dcm"


LOSSLESS = {
    "JPEG lossless": ("JPEGLosslessProcess14_1", uid.JPEGLosslessSV1),
    "JPEG-LS": ("JPEGLSLossless", uid.JPEGLSLossless),
    "JPEG 2000": ("JPEG2000Lossless", uid.JPEG2000Lossless),
    "RLE": ("RLELossless", uid.RLELossless),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_compressed_files_are_read(tmp_path, name):
    """Lossless codecs give the pixels of each frame, and the header."""
    gdcm = pytest.importorskip("gdcm")
    kind, syntax = LOSSLESS[name]
    path = compressed(tmp_path, getattr(gdcm.TransferSyntax, kind))
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
    for frame, expected in enumerate(NOISE):
        assert_array_equal(dicom.read_image(path, frame).pixels, expected)
    assert dicom.read_header(path).frames == 2


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("signed", [0, 1])
def test_compression_changes_no_pixels(tmp_path, name, signed):
    """Bits above the stored ones are cleared or sign-extended, as without it."""
    gdcm = pytest.importorskip("gdcm")
    kind, _ = LOSSLESS[name]
    pixels = NOISE + np.uint16(4096) * (NOISE % 3)
    stored = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": signed}
    # GDCM clears what is above the stored bits, unless all are.
    path = compressed(tmp_path, getattr(gdcm.TransferSyntax, kind), pixels)
    dataset = pydicom.dcmread(path)
    for keyword, value in stored.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)
    expected = dicom.decode(dicom_bytes(pixels, **stored), "a.dcm").pixels
    assert (expected.min() < 0) == bool(signed)
    assert expected.max() < 2**12
    assert_array_equal(dicom.read_image(path).pixels, expected)
    assert dicom.read_image(path).pixels.dtype == expected.dtype


def test_a_missing_codec_is_named(tmp_path, monkeypatch):
    """Without a decoder, the error prints the line that installs one."""
    gdcm = pytest.importorskip("gdcm")
    path = compressed(tmp_path, gdcm.TransferSyntax.JPEGLSLossless)
    monkeypatch.setattr(get_decoder(uid.JPEGLSLossless), "_available", {})
    with pytest.raises(
        MissingExtraError, match=r"out\.dcm: .*pip install python-gdcm pylibjpeg"
    ):
        dicom.read_image(path)


def element(tag, vr, value=b"", length=None):
    return damage.Element(tag, vr, value, length)


def file_with(*elements, explicit=True):
    """Return a valid file with these elements before its own."""
    parts = damage.make_elements(random.Random(0), explicit, 0)
    return damage.write_file([*elements, *parts], explicit)


ENDLESS = element(0x00081140, b"SQ", b"", damage.UNDEFINED).encode(True)
ENDLESS += element(damage.ITEM, b"", b"", damage.UNDEFINED).encode(True)
UNUSABLE = {
    "a private element of 4 GB": file_with(element(0x00091010, b"UN", b"", 2**32 - 2)),
    "a private element of 4 GB in an implicit file": file_with(
        element(0x00091010, b"", b"", 2**32 - 2), explicit=False
    ),
    "a SOPInstanceUID of 4 GB": file_with(element(0x00080018, b"UN", b"", 2**32 - 2)),
    "Rows of 4 GB in an implicit file": damage.write_file(
        [element(0x00280010, b"", b"", 2**32 - 2)], False
    ),
    "a character set of 4 GB": damage.write_file(
        [element(0x00080005, b"UT", b"", 2**32 - 2)], True
    ),
    "sequences that never end": damage.file_head(True) + ENDLESS * 20_000,
    "undefined length": file_with(element(0x00081030, b"OB", b"", damage.UNDEFINED)),
    "text": b"patient_id,original_id\n" * 100,
    "zeros": bytes(10**6),
    "nothing": b"",
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_false_lengths_allocate_nothing(tmp_path, name):
    """An unusable file raises DicomError and allocates nothing for false lengths."""
    path = tmp_path / "a.dcm"
    path.write_bytes(UNUSABLE[name])
    tracemalloc.start()
    try:
        for read in (dicom.read_header, dicom.read_image):
            with pytest.raises(DicomError, match=r"/a\.dcm: "):
                read(path)
        assert tracemalloc.get_traced_memory()[1] < 5e7
    finally:
        tracemalloc.stop()


def with_pixels(data, pixels, length=None):
    """Return the file of PIXELS with other pixel data.

    length : the length that the file gives; None for the true one
    """
    length = len(pixels) if length is None else length
    return data[: -PIXELS.nbytes - 4] + damage.word(length) + pixels


@pytest.mark.parametrize("change", [-25, -3, -2, -1])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT], ids=["explicit", "implicit"])
def test_pixels_that_are_too_short_are_refused(syntax, change):
    """Pixel data must not be shorter than the header says."""
    spoilt = with_pixels(
        dicom_bytes(PIXELS, syntax), bytes(max(PIXELS.nbytes + change, 0))
    )
    with pytest.raises(DicomError, match=r"^a\.dcm: .*pixel data"):
        dicom.decode(spoilt, "a.dcm")


ODD = np.arange(3 * 3 * 5, dtype="u1").reshape(3, 3, 5)
PADDED = {
    "uint16": PIXELS,
    "frames": FRAMES,
    "one odd frame": ODD[0],
    "three odd frames": ODD,
    "one byte": ODD[:1, :1, 4:],
}


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, uid.ExplicitVRBigEndian])
@pytest.mark.parametrize("name", PADDED)
def test_longer_pixels_are_padded(tmp_path, monkeypatch, name, syntax):
    """What follows the pixels, up to a frame, is ignored (PS3.5 8.1.1)."""
    pixels = PADDED[name]
    frames = pixels.reshape(-1, *pixels.shape[-2:])
    exact = dicom_bytes(pixels, syntax)
    needed = pixels.nbytes + pixels.nbytes % 2
    most = max(frames[0].nbytes - pixels.nbytes % 2, 1)
    for excess in range(0, most, 2):
        stored = exact[len(exact) - needed :] + b"\x7f" * excess
        data = dicom_bytes(pixels, syntax, PixelData=stored)
        assert takes_fast_path(data) == (syntax.is_little_endian)
        path = tmp_path / "a.dcm"
        path.write_bytes(data)
        for small in (0, dicom.SMALL_FILE):
            monkeypatch.setattr(dicom, "SMALL_FILE", small)
            for k, frame in enumerate(frames):
                assert_array_equal(dicom.read_image(path, k).pixels, frame)
                parsed = fallback.parse(data, "a.dcm", 2**20)
                assert_array_equal(parsed.read(k).pixels, frame)


@pytest.mark.parametrize("excess", [1, 25, 24, 5000])
def test_odd_lengths_and_zeros_are_padding(excess):
    """Padding has any length, and zeros are padding however many they are."""
    data = with_pixels(dicom_bytes(PIXELS), PIXELS.tobytes() + bytes(excess))
    assert_array_equal(dicom.decode(data, "a.dcm").pixels, PIXELS)


ITEM = b"\xfe\xff\x00\xe0"
NO_PADDING = {
    "a frame more": (PIXELS.tobytes() * 2, None, "48 bytes.* says 24.*A frame or more"),
    "32 bits": (PIXELS.astype("u4").tobytes() + b"\1\0", None, "BitsAllocated"),
    "an item": (ITEM + damage.word(24) + PIXELS.tobytes(), None, "are in items"),
    "an item of undefined length": (
        ITEM + damage.word(24) + PIXELS.tobytes() + b"\xfe\xff\xdd\xe0" + bytes(4),
        damage.UNDEFINED,
        "are in items",
    ),
}


@pytest.mark.parametrize("name", NO_PADDING)
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT], ids=["explicit", "implicit"])
def test_what_is_no_padding_is_refused(syntax, name):
    """A whole frame more, or pixels in items, show that the header is wrong."""
    pixels, length, text = NO_PADDING[name]
    data = with_pixels(dicom_bytes(PIXELS, syntax), pixels, length)
    assert not takes_fast_path(data)
    with pytest.raises(DicomError, match=rf"^a\.dcm: .*{text}"):
        dicom.decode(data, "a.dcm")


# Whatever an image needs, but for its pixels.
BARE = (
    *("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData"),
)
DIRECTORY = uid.MediaStorageDirectoryStorage
OTHER_KINDS = {
    "float": ({"FloatPixelData": bytes(48)}, "floating-point"),
    "double": ({"DoubleFloatPixelData": bytes(96)}, "floating-point"),
    "colour": ({"PhotometricInterpretation": "RGB"}, "RGB with"),
    "colours": ({"SamplesPerPixel": 3}, "with 3 samples per pixel"),
    "palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR"),
    "bits": ({"BitsAllocated": 1, "BitsStored": 1}, "one bit.*segmentation"),
    "structures": ({"SOPClassUID": uid.RTStructureSetStorage}, "RT Structure Set"),
    "report": ({"SOPClassUID": uid.BasicTextSRStorage}, "Basic Text SR Storage"),
    "presentation": (
        {"SOPClassUID": uid.GrayscaleSoftcopyPresentationStateStorage},
        "Grayscale Softcopy Presentation State",
    ),
    "directory": ({"SOPClassUID": DIRECTORY}, "a DICOMDIR"),
}


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, DEFLATED])
@pytest.mark.parametrize("bare", [True, False], ids=["bare", "whole"])
@pytest.mark.parametrize("name", OTHER_KINDS)
def test_a_file_of_another_kind_is_named(tmp_path, name, bare, syntax):
    """What is no grey image is named as what it is, whatever else it lacks."""
    elements, text = OTHER_KINDS[name]
    if name == "bits":
        removed = {"PixelRepresentation": None}
    elif bare:
        removed = dict.fromkeys(BARE)
    else:
        removed = {"PixelData": None}
    path = write_dicom(tmp_path / "a.dcm", PIXELS, syntax, **(removed | elements))
    is_image = "SOPClassUID" not in elements
    for read in (dicom.read_image, dicom.read_header):
        with pytest.raises(DicomError, match=rf"/a\.dcm: .*{text}") as caught:
            read(path)
        assert isinstance(caught.value, NoImageError) != is_image


CSA, PHILIPS, GE = (
    *("1.3.12.2.1107.5.9.1", "1.3.46.670589.11.0.0.12.1"),
    "1.2.840.113619.4.26",
)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, DEFLATED])
@pytest.mark.parametrize("sop_class", [CSA, PHILIPS, GE])
def test_an_object_of_a_private_class_is_no_image(tmp_path, sop_class, syntax):
    """A class that the standard does not list, without Rows and pixels, is no image."""
    elements = dict.fromkeys(BARE) | {"SOPClassUID": sop_class}
    path = write_dicom(tmp_path / "a.dcm", PIXELS, syntax, **elements)
    for read in (dicom.read_image, dicom.read_header):
        with pytest.raises(NoImageError, match=r"/a\.dcm: .*does not list") as caught:
            read(path)
        assert caught.value.kind == ""


@pytest.mark.parametrize(
    "elements",
    [
        {"SOPClassUID": uid.CTImageStorage},
        {"SOPClassUID": CSA, "Rows": 3},
    ],
    ids=["listed", "rows"],
)
def test_a_header_without_rows_or_pixels_may_be_a_damaged_image(tmp_path, elements):
    """An image class, or Rows without pixels, stay errors of an image."""
    elements = dict.fromkeys(BARE) | elements
    path = write_dicom(tmp_path / "a.dcm", PIXELS, **elements)
    with pytest.raises(DicomError, match="has no Rows and Columns") as caught:
        dicom.read_header(path)
    assert not isinstance(caught.value, NoImageError)


def test_a_map_of_numbers_with_a_point_is_named(tmp_path):
    """A parametric map is no image, also one whose pixels cannot be read."""
    elements = {"PixelData": None, "FloatPixelData": bytes(48)}
    elements["SOPClassUID"] = uid.ParametricMapStorage
    path = write_dicom(tmp_path / "a.dcm", PIXELS, **elements)
    with pytest.raises(NoImageError, match="floating-point") as caught:
        dicom.read_header(path)
    assert caught.value.kind == "Parametric Map Storage"


def test_files_that_cannot_be_opened_are_named(tmp_path):
    """A folder, a missing file and an unreadable file raise OSErrors with the name."""
    locked = write_dicom(tmp_path / "locked.dcm", PIXELS)
    locked.chmod(0)
    cases = [(tmp_path, IsADirectoryError), (tmp_path / "none", FileNotFoundError)]
    if os.geteuid():  # root may read every file
        cases.append((locked, PermissionError))
    for path, error in cases:
        for read in (dicom.read_header, dicom.read_image):
            with pytest.raises(error, match=path.name):
                read(path)


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    """The image in a file of 32 GB (a hole) is refused by size, its header is read."""
    path = write_dicom(tmp_path / "a.dcm", PIXELS)
    os.truncate(path, 2**35)
    assert dicom.read_header(path).rows == 3
    with pytest.raises(DicomError, match=r"a\.dcm: is 34359738368 bytes long"):
        dicom.read_image(path)


def enhanced(frames, explicit, defined, levels=10, leaves=9):
    """Return the elements of an image whose frames have 100 elements each.

    defined : whether its sequences give their lengths
    """
    numbers = [element(0x00181000 + 2 * k, b"DS", b"12345.67") for k in range(leaves)]
    content = b"".join(e.encode(explicit) for e in numbers)

    def close(tag, content):
        return content if defined else content + element(tag, b"").encode(explicit)

    def sequence(tag, content, count=1):
        content = close(damage.ITEM_END, content)
        length = None if defined else damage.UNDEFINED
        item = damage.Element(damage.ITEM, b"", content, length).encode(explicit)
        return damage.Element(tag, b"SQ", close(damage.END, item * count), length)

    groups = [sequence(0x00209100 + k, content) for k in range(levels)]
    frame = b"".join(e.encode(explicit) for e in groups)
    return sequence(0x52009230, frame, frames)


@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "implicit"])
@pytest.mark.parametrize("defined", [True, False], ids=["defined", "undefined"])
@pytest.mark.parametrize("kind", ["plain", "deflated", "compressed"])
def test_headers_of_ten_thousand_frames(tmp_path, explicit, defined, kind):
    """A header with a million elements in sequences is read in well under 5 s."""
    parts = damage.make_elements(random.Random(0), explicit, 0)
    frames = enhanced(10_000, explicit, defined)
    number = element(0x00280008, b"IS", b"10000 ")
    parts = [part for part in parts if part.tag != number.tag]
    parts = sorted([*parts, number, frames])
    if kind == "deflated":
        if not explicit:
            pytest.skip("deflated files are explicit")
        data = deflated(*parts)
    else:
        data = damage.write_file(parts, explicit)
    if kind == "compressed":
        jpeg = b"1.2.840.10008.1.2.4.90\0\0"
        if not explicit:
            pytest.skip("compressed files are explicit")
        data = data.replace(
            damage.Element(0x00020010, b"UI", damage.SYNTAXES[True]).encode(True),
            damage.Element(0x00020010, b"UI", jpeg[: len(jpeg) // 2 * 2]).encode(True),
            1,
        )
    path = tmp_path / "a.dcm"
    path.write_bytes(data)
    dicom.read_header(path)  # compiles
    start = time.perf_counter()
    header = dicom.read_header(path)
    assert time.perf_counter() - start < 5
    path.write_bytes(damage.write_file([e for e in parts if e is not frames], explicit))
    assert header == dicom.read_header(path)


TOO_MUCH = {
    "elements": [element(0x00091000 + k, b"LO") for k in range(MAX_ELEMENTS + 10)],
    "elements of the meta group": [
        element(0x00020103 + k % 60_000, b"UI") for k in range(MAX_ELEMENTS + 10)
    ],
    "a value": [element(0x0020000E, b"UT", b"1" * (MAX_VALUE_BYTES + 2))],
    "a character set": [element(0x00080005, b"UT", b"\\" * (MAX_VALUE_BYTES + 2))],
    "windows": [element(0x00281050, b"UT", b"1\\" * MAX_VALUE_BYTES)],
}


@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "implicit"])
@pytest.mark.parametrize("name", TOO_MUCH)
def test_headers_over_a_bound_are_refused_soon(tmp_path, name, explicit):
    """Too many elements or too long a value are refused by all readers."""
    parts = damage.make_elements(random.Random(0), explicit, 0)
    more = TOO_MUCH[name]
    tags = {e.tag for e in more}
    parts = [e for e in parts if e.tag not in tags]
    if "meta" in name:
        head = damage.file_head(True)
        data = head + b"".join(e.encode(True) for e in [*more, *parts])
    else:
        data = damage.write_file(sorted([*parts, *more]), explicit)
    path = tmp_path / "a.dcm"
    path.write_bytes(data)
    start = time.perf_counter()
    for read in (dicom.read_header, dicom.read_image):
        with pytest.raises(DicomError, match=r"a\.dcm: has (more than|a value of) "):
            read(path)
    assert time.perf_counter() - start < 20


def test_a_header_has_a_bound_in_bytes(tmp_path, monkeypatch):
    """Pixels that begin behind the bound are not looked for."""
    monkeypatch.setattr(fallback, "MAX_HEADER_BYTES", 2**20)
    parts = damage.make_elements(random.Random(0), True, 0)
    large = element(0x00091010, b"OB", bytes(2**20))
    path = tmp_path / "a.dcm"
    path.write_bytes(damage.write_file(sorted([*parts, large]), True))
    with pytest.raises(DicomError, match="has a header of more than 1048576 bytes"):
        dicom.read_header(path)


def test_a_tag_is_no_number():
    """An element whose VR is that of tags holds no number, though pydicom has one."""
    slope = element(0x00281053, b"AT", b"\x28\0\x53\x10")
    parts = damage.make_elements(random.Random(0), True, 0)
    others = [part for part in parts if part.tag != slope.tag]
    data = damage.write_file([slope, *others], True)
    with pytest.raises(DicomError, match="RescaleSlope is a number, expected"):
        dicom.decode(data, "a.dcm")


@pytest.mark.parametrize("blank", [b"  ", b"\0\0"])
def test_blanks_are_one_frame(blank):
    """Both readers take a number of frames that is blank for none, which means one."""
    frames = element(0x00280008, b"IS", blank)
    parts = damage.make_elements(random.Random(0), True, 0)
    others = [part for part in parts if part.tag != frames.tag]
    data = damage.write_file([frames, *others], True)
    assert damage.compare(data)[1] == {}
    assert dicom.decode(data, "a.dcm").header.frames == 1
