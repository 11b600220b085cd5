"""DICOM files in and out: every file here is written by pydicom, read by fastseg."""

import random
from io import BytesIO

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.testing import assert_array_equal
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from fastseg import dicom
from fastseg.errors import DicomError, MissingExtraError

DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4")
NATIVE = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
)
PIXELS = np.array([[0, 1, 2, 3], [400, 500, 600, 700], [4095, 8, 7, 6]], "u2")
FRAMES = np.stack([PIXELS, PIXELS + 1, PIXELS * 2])


def write_dicom(
    path, pixels, syntax=uid.ExplicitVRLittleEndian, bare=False, pack=None, **header
):
    """Write a grey-scale image and return its path.

    path : file or BytesIO; bare : without preamble and file meta group
    pack : transfer syntax to compress into, after which `header` is applied
    header : replaces elements, None removes one
    """
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = uid.MRImageStorage, "1.2.3"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        ds.NumberOfFrames = len(pixels)
    bits = 8 * pixels.dtype.itemsize
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    little = syntax != uid.ExplicitVRBigEndian
    data = pixels.astype(pixels.dtype.newbyteorder("<" if little else ">")).tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB" if bits == 8 else "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    if pack:
        ds.compress(pack, generate_instance_uid=False)
    with pydicom.config.disable_value_validation():
        for keyword, value in header.items():
            setattr(ds, keyword, value)
            if value is None:
                delattr(ds, keyword)
        if bare:
            del ds.file_meta
            implicit = syntax == uid.ImplicitVRLittleEndian
            ds.save_as(path, implicit_vr=implicit, little_endian=little)
        else:
            ds.save_as(path, enforce_file_format=True)
    return path


def dicom_bytes(pixels, *arguments, **header):
    """Return such a file's bytes."""
    return write_dicom(BytesIO(), pixels, *arguments, **header).getvalue()


def stored_values(pixels, bits_stored):
    """Return what the low bits of pixels mean, in plain Python."""

    def value(number):
        number %= 2**bits_stored
        negative = pixels.dtype.kind == "i" and number >= 2 ** (bits_stored - 1)
        return number - 2**bits_stored if negative else number

    values = [value(number) for number in pixels.ravel().tolist()]
    return np.array(values, pixels.dtype).reshape(pixels.shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("bare", [False, True], ids=["part 10", "bare"])
def test_pixels_are_those_written(tmp_path, dtype, syntax, bare):
    """All widths, signs and byte orders give back their pixels, file meta or not."""
    info = np.iinfo(dtype)
    pixels = np.array([[info.min, info.max, 0], [1, 2, 3], [100, 0, 77]], dtype)
    path = write_dicom(tmp_path / "a.dcm", pixels, syntax, bare)
    image = dicom.read_image(path)
    assert_array_equal(image.pixels, pixels)
    assert image.pixels.dtype == image.header.dtype == np.dtype(f"<{dtype}")


@given(
    pixels=st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays(dtype, array_shapes(min_dims=2, max_dims=3, max_side=4))
    ),
    syntax=st.sampled_from(NATIVE),
    data=st.data(),
)
def test_rubbish_above_the_stored_bits_is_cleared(pixels, syntax, data):
    """Any pixels, bits stored and frame: high bits go, the sign bit is extended."""
    stored = data.draw(st.integers(1, 8 * pixels.dtype.itemsize))
    frame = data.draw(st.integers(0, len(pixels) - 1)) if pixels.ndim == 3 else 0
    file = dicom_bytes(pixels, syntax, BitsStored=stored, HighBit=stored - 1)
    image = dicom.decode(file, "a.dcm", frame)
    expected = stored_values(pixels, stored)
    assert_array_equal(image.pixels, expected[frame] if pixels.ndim == 3 else expected)
    assert image.header.bits_stored == stored


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2"])
@pytest.mark.parametrize("spare", [0, 3])
def test_run_lengths_are_decoded(dtype, spare):
    """RLE gives the pixels of each frame, with its high bits cleared as well."""
    pixels = np.random.default_rng(1).integers(0, 256, (3, 5, 16), np.uint8).view(dtype)
    stored = 8 * pixels.dtype.itemsize - spare
    file = dicom_bytes(
        pixels, pack=uid.RLELossless, BitsStored=stored, HighBit=stored - 1
    )
    for frame, expected in enumerate(stored_values(pixels, stored)):
        assert_array_equal(dicom.decode(file, "a.dcm", frame).pixels, expected)


def test_a_missing_preamble_is_no_obstacle():
    """A file that begins with its file meta group is read."""
    file = dicom_bytes(PIXELS)
    assert file[128:132] == b"DICM"
    assert_array_equal(dicom.decode(file[132:], "a.dcm").pixels, PIXELS)


def test_the_header_holds_what_the_file_says(tmp_path):
    """Each listed fact arrives, with pixels and without."""
    path = write_dicom(
        tmp_path / "a.dcm",
        FRAMES.astype("i2"),
        BitsStored=14,
        HighBit=13,
        RescaleSlope="0.5",
        RescaleIntercept="-1024",
        WindowCenter="40",
        WindowWidth="400",
        PixelSpacing=["1.5", "0.75"],
        SeriesInstanceUID="1.2.3.4",
        InstanceNumber="17",
    )
    header = dicom.read_header(path)
    assert header == dicom.read_image(path).header
    assert header == dicom.Header(
        rows=3,
        columns=4,
        frames=3,
        dtype=np.dtype("<i2"),
        bits_stored=14,
        photometric="MONOCHROME2",
        slope=0.5,
        intercept=-1024.0,
        window=(40.0, 400.0),
        spacing_mm=(1.5, 0.75),
        series="1.2.3.4",
        instance=17,
    )


def test_a_header_needs_no_pixels(tmp_path):
    """read_header takes a file without pixel data, read_image tells what is missing."""
    path = write_dicom(tmp_path / "a.dcm", PIXELS, PixelData=None)
    assert dicom.read_header(path).rows == 3
    with pytest.raises(DicomError, match=r"a\.dcm: has no pixel data"):
        dicom.read_image(path)


@pytest.mark.parametrize(
    ("header", "fact", "expected"),
    [
        ({"WindowCenter": ["40", "50"], "WindowWidth": ["9", "8"]}, "window", (40, 9)),
        ({"WindowCenter": "40", "WindowWidth": ["9", "8"]}, "window", (40, 9)),
        ({"WindowCenter": "40", "WindowWidth": "1"}, "window", (40, 1)),
        ({"WindowCenter": "40", "WindowWidth": "0.5"}, "window", None),
        ({"WindowCenter": "40", "WindowWidth": "-9"}, "window", None),
        ({"WindowCenter": "", "WindowWidth": ""}, "window", None),
        ({"WindowCenter": "40"}, "window", None),
        ({"PixelSpacing": [2, 3], "ImagerPixelSpacing": [4, 5]}, "spacing_mm", (2, 3)),
        ({"ImagerPixelSpacing": [4, 5]}, "spacing_mm", (4, 5)),
        ({"PixelSpacing": "", "ImagerPixelSpacing": [4, 5]}, "spacing_mm", (4, 5)),
        ({"PixelSpacing": [2, 0]}, "spacing_mm", None),
        ({}, "spacing_mm", None),
        ({"InstanceNumber": ""}, "instance", None),
        ({"NumberOfFrames": ""}, "frames", 1),
    ],
)
def test_optional_facts(header, fact, expected):
    """The first window counts if it is one, spacing is (rows, columns) or absent."""
    read = dicom.decode(dicom_bytes(PIXELS, **header), "a.dcm").header
    assert getattr(read, fact) == expected


@pytest.mark.parametrize(
    ("header", "slope", "intercept"),
    [
        ({"RescaleSlope": "2"}, 2, 0),
        ({"RescaleIntercept": "-3"}, 1, -3),
        ({"RescaleSlope": "2", "RescaleIntercept": "0"}, 2, 0),
        ({"RescaleSlope": "-0.5", "RescaleIntercept": "7"}, -0.5, 7),
        ({"RescaleSlope": "", "RescaleIntercept": ""}, 1, 0),
        ({}, 1, 0),
    ],
)
def test_values_are_rescaled(header, slope, intercept):
    """Slope and intercept count each without the other, and an intercept of 0 too."""
    values = dicom.decode(dicom_bytes(PIXELS, **header), "a.dcm").values()
    assert_array_equal(values, PIXELS.astype(float) * slope + intercept)
    assert values.dtype == np.float64


# Stored pixels, bits, slope and intercept; by hand: their values when inverted, the
# value map, and what becomes of a window.
UNSIGNED = ([0, 5, 15], "u1", 4, 2, -3, [27, 17, -3], (-2, 27), (10, 7), (15, 7))
SIGNED = (
    *([-2048, 0, 2047], "i2", 12, 0.5, 10),
    *([1033.5, 9.5, -1014], (-0.5, 9.5), (40, 81), (-19.5, 81)),
)
inverted = pytest.mark.parametrize(
    ("pixels", "dtype", "bits", "slope", "intercept", "values", "map", "window", "to"),
    [UNSIGNED, SIGNED],
    ids=["unsigned", "signed"],
)


def read_inverted(pixels, dtype, bits, slope, intercept, window):
    header = {"BitsStored": bits, "HighBit": bits - 1, "RescaleSlope": str(slope)}
    header |= {"RescaleIntercept": str(intercept)}
    header |= dict(zip(("WindowCenter", "WindowWidth"), map(str, window), strict=True))
    header["PhotometricInterpretation"] = "MONOCHROME1"
    return dicom.decode(dicom_bytes(np.array([pixels], dtype), **header), "a.dcm")


@inverted
def test_monochrome1_is_inverted(
    pixels, dtype, bits, slope, intercept, values, map, window, to
):
    """High is bright: stored values turn round in their range before the rescale."""
    image = read_inverted(pixels, dtype, bits, slope, intercept, window)
    assert_array_equal(image.pixels, [pixels])
    assert_array_equal(image.values(), [values])
    assert image.header.value_map == map


@inverted
def test_a_window_of_monochrome1_is_mirrored(
    pixels, dtype, bits, slope, intercept, values, map, window, to
):
    """The linear window of PS3.3 C.11.2.1.2 shows inverted values as the negative."""
    header = read_inverted(pixels, dtype, bits, slope, intercept, window).header

    def linear(values, centre, width):
        return (np.array(values) - (centre - 0.5)) / (width - 1) + 0.5

    rescaled = np.array(pixels) * slope + intercept
    negative = 1 - linear(rescaled, *window)
    np.testing.assert_allclose(linear(values, *header.value_window), negative)
    assert header.value_window == to


LUT = Dataset()
LUT.LUTDescriptor, LUT.LUTData = [1, 0, 8], b"\0\0"


def replaced_syntax(file, name):
    """Return a file with another transfer syntax of the same length."""
    old = str(uid.ExplicitVRLittleEndian).encode()
    assert file.count(old) == 1
    return file.replace(old, name.ljust(len(old), b"\0"))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (b"", "is empty"),
        (b"patient_id,original_id\n" * 20, "is not a DICOM file"),
        (b"x", "is not a DICOM file"),
        (bytes(128) + b"DICM", "has no Rows and Columns"),
        (dicom_bytes(PIXELS, PixelData=None), "has no pixel data"),
        (dicom_bytes(PIXELS, PixelData=b""), "pixel data"),
        (dicom_bytes(PIXELS, PixelData=bytes(22)), "holds 22 bytes.* says 24"),
        (dicom_bytes(PIXELS, PixelData=bytes(26)), "holds 26 bytes.* says 24"),
        (dicom_bytes(PIXELS, SamplesPerPixel=3), "3 samples per pixel"),
        (dicom_bytes(PIXELS, PhotometricInterpretation="PALETTE COLOR"), "PALETTE"),
        (dicom_bytes(PIXELS, PhotometricInterpretation=None), "no PhotometricInterpr"),
        (dicom_bytes(PIXELS, PixelData=None, FloatPixelData=bytes(48)), "floating"),
        (dicom_bytes(PIXELS, ModalityLUTSequence=[LUT]), "Modality LUT"),
        (dicom_bytes(PIXELS, RescaleSlope="0"), "RescaleSlope is 0"),
        (dicom_bytes(PIXELS, RescaleIntercept="1e999"), "RescaleIntercept is inf"),
        (dicom_bytes(PIXELS, RescaleSlope=["1", "2"]), "RescaleSlope"),
        (dicom_bytes(PIXELS, PixelSpacing="1"), "PixelSpacing"),
        (dicom_bytes(PIXELS, NumberOfFrames=0), "0 frames"),
        (dicom_bytes(PIXELS, Rows=0), "hold no pixel"),
        (dicom_bytes(PIXELS, NumberOfFrames=10**9), "over the limit.*max_pixel_bytes"),
        (dicom_bytes(PIXELS, BitsAllocated=None), "no BitsAllocated"),
        (dicom_bytes(PIXELS, BitsAllocated=12, BitsStored=12, HighBit=11), "8, 16 or"),
        (dicom_bytes(PIXELS, BitsAllocated=8), "16 bits stored in 8 allocated"),
        (dicom_bytes(PIXELS, BitsStored=12), "HighBit is 15, expected 11"),
        (dicom_bytes(PIXELS, PixelRepresentation=2), "PixelRepresentation is 2"),
        (dicom_bytes(PIXELS, uid.DeflatedExplicitVRLittleEndian), "deflated"),
        (replaced_syntax(dicom_bytes(PIXELS), b"1.2.3.4"), "transfer syntax"),
        (replaced_syntax(dicom_bytes(PIXELS), b""), "transfer syntax"),
    ],
)
def test_bad_files_are_named_with_the_reason(tmp_path, file, text):
    """What cannot be used is a DicomError with the file's path and what is wrong."""
    path = tmp_path / "a.dcm"
    path.write_bytes(file)
    with pytest.raises(DicomError, match=f"(?i){text}") as caught:
        dicom.read_image(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("frame", [-1, 3])
def test_a_frame_beyond_the_file_is_refused(frame):
    """Frames are counted from 0 to the last, not from the end."""
    with pytest.raises(DicomError, match=f"a.dcm: frame {frame} .* has 3"):
        dicom.decode(dicom_bytes(FRAMES), "a.dcm", frame)


def test_the_limit_of_pixel_bytes_is_exact():
    """A file of just max_pixel_bytes is read, with one less refused."""
    file = dicom_bytes(FRAMES)
    limit = FRAMES.nbytes
    assert dicom.decode(file, "a.dcm", max_pixel_bytes=limit).header.frames == 3
    with pytest.raises(DicomError, match=f"need {limit} bytes, over the limit"):
        dicom.decode(file, "a.dcm", max_pixel_bytes=limit - 1)


def test_a_missing_file_is_an_os_error(tmp_path):
    """A path that leads nowhere is no fault of DICOM's."""
    for read in (dicom.read_image, dicom.read_header):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "a.dcm")


FILES = {
    "explicit": dicom_bytes(PIXELS, RescaleSlope="2", PixelSpacing=[1, 2]),
    "implicit": dicom_bytes(PIXELS, uid.ImplicitVRLittleEndian, WindowWidth="9"),
    "bare": dicom_bytes(PIXELS, bare=True),
    "packed": dicom_bytes(FRAMES, pack=uid.RLELossless),
}


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_noticed(tmp_path, name):
    """However short a file is cut: a DicomError, never half an image."""
    file = FILES[name]
    # The mark that ends compressed pixels is not missed: tag and length, 8 bytes.
    whole = len(file) - (8 if name == "packed" else 0)
    path = tmp_path / "cut.dcm"
    for cut in range(whole):
        path.write_bytes(file[:cut])
        with pytest.raises(DicomError, match=r"cut\.dcm: "):
            dicom.read_image(path)
        try:
            assert dicom.read_header(path).rows == len(PIXELS)
        except DicomError:
            continue


@pytest.mark.parametrize("name", FILES)
def test_damaged_headers_raise_nothing_else(name):
    """Bytes changed anywhere in a header: an image of that header, or our error."""
    file = FILES[name]
    dataset = pydicom.dcmread(BytesIO(file), force=True)
    pixels_from = dataset.get_item("PixelData").value_tell
    draw = random.Random(name)
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(file)
        for _ in range(draw.choice([1, 1, 2, 5])):
            byte = draw.choice([0, 255, draw.randrange(256), draw.choice(file)])
            damaged[draw.randrange(0 if name == "bare" else 128, pixels_from)] = byte
        try:
            image = dicom.decode(bytes(damaged), "a.dcm")
        except (DicomError, MissingExtraError) as exc:
            assert str(exc).startswith("a.dcm: ")
            outcomes.add("refused")
        else:
            assert image.pixels.shape == (image.header.rows, image.header.columns)
            assert image.pixels.dtype == image.header.dtype
            outcomes.add("read")
    assert outcomes == {"read", "refused"}
