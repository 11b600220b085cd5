"""Code streams that only libjpeg reads: JPEG with 12 bits, JPEG-LS with 6 or 7."""

import importlib.util
import struct

import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder

from fastseg import dicom
from fastseg.codecs.codestream import CodedFrame, needs_libjpeg
from fastseg.codecs.pool import Pool
from fastseg.errors import DicomError, MissingExtraError
from tests.codecs.test_codestream import jpeg, segment
from tests.dicom.test_read_image import dicom_bytes

has_libjpeg = importlib.util.find_spec("libjpeg") is not None
needs_package = pytest.mark.skipif(not has_libjpeg, reason="needs pylibjpeg-libjpeg")
EXTENDED, LS, LOSSY_LS = (
    uid.JPEGExtended12Bit,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
)
# Symbols of coefficients: end of block, 16 zeros, and (zeros before, bits).
SYMBOLS = [0, 0xF0, *(16 * run + bits for run in range(16) for bits in range(1, 15))]
ZIGZAG = sorted(np.ndindex(8, 8), key=lambda at: (sum(at), at[1 - sum(at) % 2]))
WAVES = np.cos((2 * np.arange(8) + 1) * np.arange(8)[:, None] * np.pi / 16) / 2
WAVES[0] /= np.sqrt(2)


def signed_bits(value):
    """Return the number of bits of a coefficient, and them (ISO 10918-1, F.1.2.1)."""
    size = abs(value).bit_length()
    shifted = value if value > 0 else value + 2**size - 1
    return size, f"{shifted:0{size}b}" if size else ""


def encode_extended(pixels):
    """Return JPEG Extended with 12 bits (ISO 10918-1): every value is right within 1.

    pixels : (H, W), both multiples of 8. All codes of one table have the same length.
    """
    height, width = pixels.shape
    bits = ""
    last = 0
    for row, column in np.ndindex(height // 8, width // 8):
        block = pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] - 2048.0
        scaled = np.rint(WAVES @ block @ WAVES.T).astype(int)
        first, *values = (int(scaled[at]) for at in ZIGZAG)
        size, text = signed_bits(first - last)
        bits += f"{size:05b}{text}"
        last = first
        zeros = 0
        while values and not values[-1]:
            values.pop()
        for value in values:
            if not value:
                zeros += 1
                continue
            bits += f"{SYMBOLS.index(0xF0):08b}" * (zeros // 16)
            size, text = signed_bits(value)
            bits += f"{SYMBOLS.index(16 * (zeros % 16) + size):08b}{text}"
            zeros = 0
        bits += f"{SYMBOLS.index(0):08b}" if len(values) < 63 else ""
    bits += "1" * (-len(bits) % 8)
    data = bytes(int(bits[k : k + 8], 2) for k in range(0, len(bits), 8))
    return (
        b"\xff\xd8"
        + segment(0xDB, bytes([0] + [1] * 64))
        + segment(0xC1, struct.pack(">BHHB", 12, height, width, 1) + b"\1\x11\0")
        + segment(0xC4, bytes([0x00, *[0] * 4, 16, *[0] * 11, *range(16)]))
        + segment(0xC4, bytes([0x10, *[0] * 7, len(SYMBOLS), *[0] * 8, *SYMBOLS]))
        + segment(0xDA, b"\1\1\0\0\x3f\0")
        + data.replace(b"\xff", b"\xff\0")
        + b"\xff\xd9"
    )


ROWS, COLUMNS = np.indices((6, 9))
# Written by CharLS: values (31 row + 5 column²) modulo 2 to the power of bits.
JPEG_LS = {
    (
        7,
        0,
    ): "ffd8fff7000b070006000901011100ffda0008010100000000830003000002c0266a291cba0"
    "000017a0800042034000005e0c1e800001d2000005e93854ecfbdcf1e369b4b19391bbc7494661dfd6"
    "ee8172055cdeb9890ffd9",
    (
        6,
        0,
    ): "ffd8fff7000b060006000901011100ffda00080101000000008300033e3ca328d7000007d04"
    "0200000380bb900e000007c01589db57a5c3b76a2352d5f4b695a958cb377fecd4b16e0ffd9",
    (7, 2): "ffd8fff7000b070006000901011100ffda00080101000200"
    "00b30c0c93cf5809081080621e0010126534c5cc1132dca68a7008a63175cd021194d10d38ffd9",
}


def pixels_of(bits):
    return ((31 * ROWS + 5 * COLUMNS**2) % 2**bits).astype(np.uint8)


def write(pixels, bits, stream, syntax, **elements):
    """Return a file with a code stream in place of its pixels."""
    elements = {"BitsStored": bits, "HighBit": bits - 1, **elements}
    data = dicom_bytes(pixels, PixelData=encapsulate([stream]), **elements)
    dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(data))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset["PixelData"].is_undefined_length = True
    file = pydicom.filebase.DicomBytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def extended_file(rng=None, **elements):
    """Return 12-bit pixels and a file that holds them as JPEG Extended."""
    rng = np.random.default_rng(3)
    rows, columns = np.indices((16, 24))
    pixels = 200 * rows + 30 * columns + rng.integers(0, 300, (16, 24))
    pixels = pixels.astype(np.uint16)
    return pixels, write(pixels, 12, encode_extended(pixels), EXTENDED, **elements)


@needs_package
@pytest.mark.parametrize("signed", [0, 1])
def test_jpeg_with_12_bits_is_read(signed):
    """Every value is the one that was encoded within 1, also as a signed one."""
    pixels, data = extended_file(PixelRepresentation=signed)
    expected = pixels.astype(int) - 4096 * (signed & (pixels >= 2048))
    # Rounding may carry a value over the end of the signed numbers.
    is_clear = abs(pixels.astype(int) - 2048) > 1
    found = dicom.decode(data, "a.dcm").pixels
    assert found.dtype == ("<i2" if signed else "<u2")
    assert_allclose(found[is_clear], expected[is_clear], atol=1, rtol=0)


@needs_package
@pytest.mark.parametrize("allocated", [8, 16])
@pytest.mark.parametrize(("bits", "error"), JPEG_LS)
def test_jpeg_ls_with_few_bits_is_read(bits, error, allocated):
    """Every value is the one that was encoded, within the error that it allows."""
    stream = bytes.fromhex(JPEG_LS[bits, error])
    pixels = pixels_of(bits)
    data = write(
        *(pixels.astype(f"u{allocated // 8}"), bits, stream),
        LOSSY_LS if error else LS,
    )
    image = dicom.decode(data, "a.dcm")
    assert image.pixels.dtype == f"<u{allocated // 8}".replace("<u1", "u1")
    assert_allclose(image.pixels.astype(int), pixels, atol=error, rtol=0)


def test_without_libjpeg_the_extra_is_named(monkeypatch):
    """The error names the form, the packages and their licence, which is the GPL."""
    files = {"JPEG Extended with 12 bits": extended_file()[1]}
    for (bits, error), stream in JPEG_LS.items():
        syntax = LOSSY_LS if error else LS
        data = write(pixels_of(bits), bits, bytes.fromhex(stream), syntax)
        files[f"JPEG-LS with {bits} bits"] = data
    for syntax in (EXTENDED, LS, LOSSY_LS):
        available = {"gdcm": lambda: None}
        monkeypatch.setattr(get_decoder(syntax), "_available", available)
    for form, data in files.items():
        with pytest.raises(
            MissingExtraError,
            match=rf"^a\.dcm: decoding {form} needs optional packages: pip install "
            r"pylibjpeg pylibjpeg-libjpeg \(.* GPL v3\)$",
        ):
            dicom.decode(data, "a.dcm")


def test_a_cut_stream_is_refused():
    """libjpeg would fill up what is cut off without a word."""
    pixels, _ = extended_file()
    stream = encode_extended(pixels)
    for size in (len(stream) // 2, len(stream) - 20, len(stream) - 1):
        data = write(pixels, 12, stream[:size], EXTENDED)
        with pytest.raises(DicomError, match=r"^a\.dcm: .* no end; it is truncated"):
            dicom.decode(data, "a.dcm")


def frame(syntax, bits, stored, signed=False):
    marker = 0xC1 if syntax == EXTENDED else 0xF7
    stream = jpeg(marker, precision=bits)
    return CodedFrame(stream, syntax, 100, 70, 16, stored, signed, "MONOCHROME2")


@pytest.mark.parametrize(
    ("syntax", "bits", "stored", "form"),
    [
        (EXTENDED, 12, 12, "JPEG Extended with 12 bits"),
        (EXTENDED, 12, 16, "JPEG Extended with 12 bits"),
        (EXTENDED, 8, 8, ""),
        (LS, 7, 7, "JPEG-LS with 7 bits"),
        (LS, 7, 8, "JPEG-LS with 7 bits"),
        (LS, 8, 6, "JPEG-LS with 6 bits"),
        (LS, 5, 5, ""),
        (LS, 12, 12, ""),
        (LOSSY_LS, 5, 8, "JPEG-LS with 5 bits"),
        (LOSSY_LS, 8, 8, ""),
        (LOSSY_LS, 8, 5, ""),
    ],
)
def test_libjpeg_reads_what_gdcm_cannot(syntax, bits, stored, form):
    """GDCM reads all other forms; so it reads them where libjpeg is installed too."""
    assert needs_libjpeg(frame(syntax, bits, stored)) == form


def test_signed_jpeg_ls_with_loss_and_few_bits_needs_libjpeg():
    """GDCM reads it only if it is not signed."""
    assert needs_libjpeg(frame(LOSSY_LS, 8, 5, True)) == "JPEG-LS with 5 bits"


@needs_package
def test_damage_is_refused_with_libjpeg_installed():
    """A stream that GDCM refuses is not handed on to libjpeg."""
    gdcm = pytest.importorskip("gdcm")
    assert gdcm
    from tests import codec_damage

    stream = codec_damage.stream_of("jpeg lossless")
    data = codec_damage.write_file("jpeg lossless", stream)
    expected = codec_damage.pixels_of("jpeg lossless")
    with Pool() as pool:
        parsed = dicom.parse(data, "a.dcm", 2**20)
        assert_array_equal(parsed.start(0, pool)(), expected)
        cut = codec_damage.write_file("jpeg lossless", stream[: len(stream) // 2])
        parsed = dicom.parse(cut, "a.dcm", 2**20)
        with pytest.raises(DicomError, match="decoded") as caught:
            parsed.start(0, pool)()
        assert "pylibjpeg" not in str(caught.value)
