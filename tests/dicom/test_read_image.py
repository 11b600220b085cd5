"""Reading DICOM files: pydicom writes every file here, fastseg reads it."""

import random
import re
from io import BytesIO

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.testing import assert_allclose, assert_array_equal
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from fastseg import dicom
from fastseg.errors import DicomError, MissingExtraError

DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4")
EXPLICIT, IMPLICIT = uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian
NATIVE = (EXPLICIT, IMPLICIT, BIG := uid.ExplicitVRBigEndian)
PIXELS = np.array([[0, 1, 2, 3], [400, 500, 600, 700], [4095, 8, 7, 6]], "u2")
FRAMES = np.stack([PIXELS, PIXELS + 1, PIXELS * 2])


def write_dicom(path, pixels, syntax=EXPLICIT, bare=False, packed=False, **header):
    """Write a grey-scale image and return `path`.

    path   : a file name or BytesIO
    bare   : without file meta group
    packed : with RLE
    header : elements that replace those of the image; None removes one
    """
    ds = Dataset()
    bits = 8 * pixels.dtype.itemsize
    ds.SOPClassUID = uid.MRImageStorage
    ds.SOPInstanceUID = "1.2.3"
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        ds.NumberOfFrames = len(pixels)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    little = syntax != BIG
    data = pixels.astype(pixels.dtype.newbyteorder("<" if little else ">")).tobytes()
    ds.add_new("PixelData", "OB" if bits == 8 else "OW", data + b"\0" * (len(data) % 2))
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    if packed:
        ds.compress(uid.RLELossless, generate_instance_uid=False)
    with pydicom.config.disable_value_validation():
        for keyword, value in header.items():
            setattr(ds, keyword, value)
            if value is None:
                delattr(ds, keyword)
        if bare:
            del ds.file_meta
            ds.save_as(path, implicit_vr=syntax == IMPLICIT, little_endian=little)
        else:
            ds.save_as(path, enforce_file_format=True)
    return path


def dicom_bytes(*arguments, **header):
    """Return the bytes of the file that `write_dicom` writes."""
    return write_dicom(BytesIO(), *arguments, **header).getvalue()


def stored_values(pixels, bits):
    """Return the values of the low bits of pixels, computed in Python's integers."""
    low = pixels.astype(object) % 2**bits
    if pixels.dtype.kind == "i":
        low -= 2**bits * (low >= 2 ** (bits - 1))
    return low.astype(pixels.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("form", ["part 10", "no preamble", "no file meta"])
def test_pixels_are_those_written(tmp_path, dtype, syntax, form):
    """Pixels of all widths, signs and byte orders are read, with and without meta."""
    info, path = np.iinfo(dtype), tmp_path / "a.dcm"
    pixels = np.array([[info.min, info.max, 0], [1, 2, 3], [100, 0, 77]], dtype)
    write_dicom(path, pixels, syntax, bare=form == "no file meta")
    if form == "no preamble":
        path.write_bytes(path.read_bytes().partition(b"DICM")[2])
    image = dicom.read_image(path)
    assert_array_equal(image.pixels, pixels)
    assert image.pixels.dtype == image.header.dtype == np.dtype(f"<{dtype}")


@given(
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays(dtype, array_shapes(min_dims=2, max_dims=3, max_side=5))
    ),
    st.sampled_from(NATIVE),
    st.data(),
)
def test_rubbish_above_the_stored_bits_is_cleared(pixels, syntax, data):
    """High bits are cleared or sign-extended, for any pixels, bits and frame."""
    bits = data.draw(st.integers(1, 8 * pixels.dtype.itemsize))
    file = dicom_bytes(pixels, syntax, BitsStored=bits, HighBit=bits - 1)
    expected = stored_values(pixels, bits).reshape(-1, *pixels.shape[-2:])
    frame = data.draw(st.integers(0, len(expected) - 1))
    assert_array_equal(dicom.decode(file, "a.dcm", frame).pixels, expected[frame])


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2"])
@pytest.mark.parametrize("unused", [0, 3])
def test_run_lengths_are_decoded(dtype, unused):
    """RLE gives the pixels of each frame, with its high bits cleared as well."""
    pixels = np.random.default_rng(1).integers(0, 256, (3, 5, 16), np.uint8).view(dtype)
    bits = 8 * pixels.dtype.itemsize - unused
    file = dicom_bytes(pixels, packed=True, BitsStored=bits, HighBit=bits - 1)
    for frame, expected in enumerate(stored_values(pixels, bits)):
        assert_array_equal(dicom.decode(file, "a.dcm", frame).pixels, expected)


def test_the_header_holds_the_metadata(tmp_path):
    """read_header and read_image both return each listed value."""
    rescale = {"RescaleSlope": "0.5", "RescaleIntercept": "-1024"}
    window = {"WindowCenter": "40", "WindowWidth": "400"}
    names = {"SeriesInstanceUID": "1.2.3.4", "InstanceNumber": "17"}
    bits = {"BitsStored": 14, "HighBit": 13, "PixelRepresentation": 1}
    geometry = {
        "PixelSpacing": [1.5, 0.75],
        "ImageOrientationPatient": [1, 0, 0, 0, 0.6, 0.8],
        "SliceThickness": "2.5",
    }
    names |= {"StudyInstanceUID": "1.2", "FrameOfReferenceUID": "1.9", "Modality": "CT"}
    names |= {"PatientID": "AB 12", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    times = {"TemporalPositionIdentifier": "3", "TriggerTime": "12.5"}
    meta = {**geometry, **names, **bits, **rescale, **window, **times}
    path = write_dicom(tmp_path / "a.dcm", FRAMES, **meta)
    header = dicom.read_header(path)
    assert header == dicom.read_image(path).header
    assert header[:6] == (3, 4, 3, np.dtype("<i2"), 14, "MONOCHROME2")
    assert header[6:11] == (0.5, -1024, (1.5, 0.75), "1.2.3.4", "CT")
    assert header[11:15] == (uid.MRImageStorage, "1.2", "AB 12", True)
    assert header[15:21] == ((1, 0, 0, 0, 0.6, 0.8), 2.5, 17, (40, 400), 3, 12.5)
    # One position of several frames is that of none.
    assert header[21:] == (None, "1.2.3", "1.9")
    assert "AB 12" not in repr(header)


def test_a_header_needs_no_pixels(tmp_path):
    """read_header needs no pixel data; read_image names the path of such a file."""
    path = write_dicom(tmp_path / "a.dcm", PIXELS, PixelData=None)
    assert dicom.read_header(path).rows == 3
    with pytest.raises(DicomError, match=f"^{re.escape(str(path))}: has no pixel data"):
        dicom.read_image(path)


@pytest.mark.parametrize(
    ("header", "field", "expected"),
    [
        ({"WindowCenter": ["40", "50"], "WindowWidth": ["9", "8"]}, "window", (40, 9)),
        ({"WindowCenter": "40", "WindowWidth": "1"}, "window", (40, 1)),
        ({"WindowCenter": "40", "WindowWidth": "0.5"}, "window", None),
        ({"WindowCenter": "40"}, "window", None),
        ({"PixelSpacing": [2, 3], "ImagerPixelSpacing": [4, 5]}, "spacing_mm", (2, 3)),
        ({"ImagerPixelSpacing": [4, 5]}, "spacing_mm", None),
        ({"PixelSpacing": "", "ImagerPixelSpacing": [4, 5]}, "spacing_mm", None),
        ({"PixelSpacing": [2, 0]}, "spacing_mm", None),
        ({"InstanceNumber": ""}, "instance", None),
        ({"NumberOfFrames": ""}, "frames", 1),
    ],
)
def test_optional_metadata(header, field, expected):
    """The first window and spacing are read; if they are not valid, they are None."""
    read = dicom.decode(dicom_bytes(PIXELS, **header), "a.dcm").header
    assert getattr(read, field) == expected


@pytest.mark.parametrize(
    ("header", "slope", "intercept"),
    [
        ({"RescaleSlope": "2"}, 2, 0),
        ({"RescaleIntercept": "-3"}, 1, -3),
        ({"RescaleSlope": "2", "RescaleIntercept": "0"}, 2, 0),
        ({"RescaleSlope": "-0.5", "RescaleIntercept": "7"}, -0.5, 7),
    ],
)
def test_values_are_rescaled(header, slope, intercept):
    """Slope and intercept apply, also one without the other."""
    image = dicom.decode(dicom_bytes(PIXELS, **header), "a.dcm")
    assert_array_equal(image.values(), PIXELS.astype(float) * slope + intercept)


UNSIGNED, SIGNED = np.array([0, 5, 15], "u1"), np.array([-2048, 0, 2047], "i2")
# meta is (bits stored, slope, intercept, centre, width); the inverted values, value map
# and window are computed by hand.
inverted = pytest.mark.parametrize(
    ("pixels", "meta", "values", "value_map", "window"),
    [
        (UNSIGNED, (4, 2, -3, 10, 7), [27, 17, -3], (-2, 27), (15, 7)),
        (SIGNED, (12, 0.5, 9, 40, 81), [1032.5, 8.5, -1015], (-0.5, 8.5), (-21.5, 81)),
    ],
)


def read_inverted(pixels, meta):
    keywords = ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth")
    header = dict(zip(keywords, map(str, meta[1:]), strict=True))
    header |= {"BitsStored": meta[0], "HighBit": meta[0] - 1}
    header["PhotometricInterpretation"] = "MONOCHROME1"
    return dicom.decode(dicom_bytes(pixels[None], **header), "a.dcm")


@inverted
def test_monochrome1_is_inverted(pixels, meta, values, value_map, window):
    """Stored values are mirrored in their range before the rescale: high is bright."""
    image = read_inverted(pixels, meta)
    assert_array_equal(image.pixels, [pixels])
    assert_array_equal(image.values(), [values])
    assert image.header.value_map == value_map


@inverted
def test_a_window_of_monochrome1_is_mirrored(pixels, meta, values, value_map, window):
    """The linear window of PS3.3 C.11.2.1.2 shows inverted values as the negative."""

    def linear(values, centre, width):
        return (np.array(values) - (centre - 0.5)) / (width - 1) + 0.5

    _, slope, intercept, *file_window = meta
    value_window = read_inverted(pixels, meta).header.value_window
    negative = 1 - linear(pixels.astype(float) * slope + intercept, *file_window)
    assert_allclose(linear(values, *value_window), negative, atol=1e-12)
    assert value_window == window


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (b"", "is empty"),
        (b"patient_id,original_id\n" * 20, "is not a DICOM file"),
        (bytes(128) + b"DICM", "has no Rows and Columns"),
        (dicom_bytes(PIXELS, PixelData=None), "has no pixel data"),
        (dicom_bytes(PIXELS, PixelData=b""), "pixel data"),
        (dicom_bytes(PIXELS, PixelData=bytes(22)), "holds 22 bytes.* says 24"),
        (dicom_bytes(PIXELS, PixelData=b"\1" * 48), "holds 48 bytes.* says 24"),
        (dicom_bytes(PIXELS, SamplesPerPixel=3), "3 samples per pixel"),
        (
            dicom_bytes(PIXELS, PhotometricInterpretation="PALETTE COLOR"),
            "PALETTE",
        ),
        (
            dicom_bytes(PIXELS, PixelData=None, FloatPixelData=bytes(48)),
            "floating",
        ),
        (dicom_bytes(PIXELS, ModalityLUTSequence=[Dataset()]), "Modality LUT"),
        (dicom_bytes(PIXELS, RescaleSlope="0"), "RescaleSlope is 0"),
        (
            dicom_bytes(PIXELS, InstanceNumber=10**15),
            "InstanceNumber is no whole number of at most 15 digits",
        ),
        (
            dicom_bytes(PIXELS, InstanceNumber=2**63),
            "InstanceNumber is no whole number",
        ),
        (
            dicom_bytes(PIXELS, RescaleIntercept="1e999"),
            "RescaleIntercept is inf",
        ),
        (dicom_bytes(PIXELS, RescaleSlope=["1", "2"]), "RescaleSlope"),
        (dicom_bytes(PIXELS, PixelSpacing="1"), "PixelSpacing"),
        (dicom_bytes(PIXELS, NumberOfFrames=0), "0 frames"),
        (
            dicom_bytes(PIXELS, NumberOfFrames=10**9),
            "over the limit.*max_pixel_bytes",
        ),
        (dicom_bytes(PIXELS, BitsAllocated=None), "no BitsAllocated"),
        (
            dicom_bytes(PIXELS, BitsAllocated=12, BitsStored=12, HighBit=11),
            "8, 16 or",
        ),
        (dicom_bytes(PIXELS, BitsStored=12), "HighBit is 15, expected 11"),
        (
            dicom_bytes(PIXELS, PixelRepresentation=2),
            "PixelRepresentation is 2",
        ),
        (
            dicom_bytes(PIXELS).replace(b".1.2.1\0", b".9.9.9\0"),
            "transfer syntax",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_files_are_named_with_the_reason(file, text):
    """A file that cannot be used raises DicomError with its name and the reason."""
    with pytest.raises(DicomError, match=rf"^a\.dcm: .*{text}"):
        dicom.decode(file, "a.dcm")


def test_frames_and_bytes_have_exact_limits():
    """The last frame and max_pixel_bytes are allowed, one beyond is refused."""
    file = dicom_bytes(FRAMES)
    limit = FRAMES.nbytes
    assert dicom.decode(file, "a.dcm", 2, max_pixel_bytes=limit).pixels[0, 3] == 6
    for frame in (-1, 3):
        with pytest.raises(
            DicomError, match=rf"a\.dcm: has no frame {frame}, expected 0 to 2"
        ):
            dicom.decode(file, "a.dcm", frame)
    with pytest.raises(DicomError, match=rf"a\.dcm: .*need {limit} bytes, over the"):
        dicom.decode(file, "a.dcm", max_pixel_bytes=limit - 1)


END_OF_FRAMES = b"\xfe\xff\xdd\xe0" + bytes(4)  # the pixels are whole without it
FILES = {
    "explicit": dicom_bytes(PIXELS, RescaleSlope="2", PixelSpacing=[1, 2]),
    "implicit": dicom_bytes(PIXELS, IMPLICIT, WindowWidth="9"),
    "bare": dicom_bytes(PIXELS, bare=True),
    "packed": dicom_bytes(FRAMES, packed=True),
}


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_noticed(name):
    """A file that is cut anywhere raises DicomError."""
    file = FILES[name].removesuffix(END_OF_FRAMES)
    for cut in range(len(file)):
        with pytest.raises(DicomError, match=r"^a\.dcm: "):
            dicom.decode(file[:cut], "a.dcm")


@pytest.mark.parametrize("name", FILES)
def test_damaged_headers_raise_nothing_else(name):
    """Any changed bytes in a header give a consistent image or a DicomError."""
    file = FILES[name]
    rng = random.Random(name)
    images = 0
    pixels = pydicom.dcmread(BytesIO(file), force=True).get_item("PixelData")
    offsets = range(0 if name == "bare" else 128, pixels.value_tell)
    for _ in range(300):
        damaged = bytearray(file)
        for offset in rng.choices(offsets, k=rng.choice([1, 1, 2, 5])):
            damaged[offset] = rng.choice([0, 255, rng.randrange(256)])
        try:
            image = dicom.decode(bytes(damaged), "a.dcm")
        except (DicomError, MissingExtraError):
            continue
        assert image.pixels.shape == (image.header.rows, image.header.columns)
        assert image.pixels.dtype == image.header.dtype
        images += 1
    assert 30 < images < 270
