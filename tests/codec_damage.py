"""Makes DICOM files with damaged code streams of each codec, and builds stores of them.

All faults come from a `random.Random`, so that codec and seed determine a file.
"""

import random
import struct
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from pathlib import Path

import gdcm
import numpy as np
import pydicom
from pydicom import uid
from pydicom.encaps import encapsulate, get_frame

import fastseg

SHAPE = 24, 40
BITS = {"jpeg": 8}  # of the others 16
# The transfer syntax of each codec, and what GDCM calls its encoder. GDCM has none for
# HTJ2K: its decoder gets streams of JPEG 2000, which it reads as well.
CODECS = {
    "jpeg": (uid.JPEGBaseline8Bit, "JPEGBaselineProcess1"),
    "jpeg lossless": (uid.JPEGLosslessSV1, "JPEGLosslessProcess14_1"),
    "jpeg-ls": (uid.JPEGLSLossless, "JPEGLSLossless"),
    "jpeg 2000": (uid.JPEG2000Lossless, "JPEG2000Lossless"),
    "jpeg 2000 lossy": (uid.JPEG2000, "JPEG2000"),
    "htj2k": (uid.HTJ2KLossless, "JPEG2000Lossless"),
    "rle": (uid.RLELossless, "RLELossless"),
}
LOSSLESS = tuple(name for name in CODECS if name not in ("jpeg", "jpeg 2000 lossy"))
WORDS = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 60_000)


def pixels_of(codec: str, number: int = 0) -> np.ndarray:
    """Return SHAPE pixels that compress in part: a slope, steps and noise."""
    rng = np.random.default_rng(number)
    rows, columns = np.indices(SHAPE)
    values = 3 * rows + 2 * columns + 40 * (columns > 20)
    values[5:12] += rng.integers(0, 30, (7, SHAPE[1]))
    return values.astype(np.uint8 if BITS.get(codec, 16) == 8 else np.uint16)


def encode(codec: str, pixels: np.ndarray) -> bytes:
    """Return the code stream of an image, unsigned, of 8 or 16 bits."""
    # From file to file: GDCM frees an image that Python has made twice.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.dcm"
        path.write_bytes(write_file(None, pixels.tobytes(), pixels.shape))
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        syntax = getattr(gdcm.TransferSyntax, CODECS[codec][1])
        change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(path))
        assert writer.Write()
        return get_frame(pydicom.dcmread(path).PixelData, 0)


@cache
def stream_of(codec: str, number: int = 0) -> bytes:
    """Return the code stream of `pixels_of`."""
    return encode(codec, pixels_of(codec, number))


def write_file(codec: str | None, stream: bytes, shape=SHAPE, **elements) -> bytes:
    """Return a DICOM file of one frame, whatever its code stream is.

    codec : None for pixels that are not compressed
    """
    bits = BITS.get(codec, 16)
    if codec is None:
        bits = 8 * len(stream) // (shape[0] * shape[1])
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = uid.MRImageStorage
    dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = 0
    dataset.PixelData = encapsulate([stream.ljust(2, b"\0")]) if codec else stream
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset["PixelData"].VR = "OB" if codec else "OW"
    dataset["PixelData"].is_undefined_length = codec is not None
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    syntax = CODECS[codec][0] if codec else uid.ExplicitVRLittleEndian
    dataset.file_meta.TransferSyntaxUID = syntax
    file = BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def spoil(rng: random.Random, data: bytes) -> bytes:
    """Return a code stream with one to four faults, half of them in its header."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        size = max(len(damaged), 1)
        at = rng.randrange(min(size, 120) if rng.random() < 0.5 else size)
        kind = rng.randrange(8)
        if kind == 0:
            damaged[at : at + 1] = bytes([rng.choice((0, 1, 0x7F, 0xFF))])
        elif kind == 1:
            damaged[at : at + 1] = rng.randbytes(1)
        elif kind == 2:
            old = damaged[at] if at < len(damaged) else 0
            damaged[at : at + 1] = bytes([old ^ 1 << rng.randrange(8)])
        elif kind == 3:
            form = rng.choice((">H", ">I", "<I"))
            number = rng.choice(WORDS) % 256 ** struct.calcsize(form)
            damaged[at : at + struct.calcsize(form)] = struct.pack(form, number)
        elif kind == 4:
            del damaged[at : at + rng.choice((1, 2, 5, 40))]
        elif kind == 5:
            damaged[at:at] = rng.randbytes(rng.choice((1, 2, 5, 40)))
        elif kind == 6:
            other = rng.randrange(size)
            damaged[at:at] = damaged[other : other + rng.choice((2, 8, 60))]
        else:
            del damaged[rng.randrange(size) :]
    return bytes(damaged)


def make_streams(codec: str, seed: int, count: int) -> Iterator[bytes]:
    """Yield files whose code streams are damaged."""
    for number in range(count):
        rng = random.Random(f"{codec} {seed} {number}")
        stream = spoil(rng, stream_of(codec, rng.randrange(4)))
        yield write_file(codec, stream)


def build_damaged(folder, codec: str, seed: int, count: int, **options) -> Counter:
    """Build a store of damaged files between sound ones, and check what comes of it.

    Returns how many files were built, and how many were rejected for each reason, with
    N for digits. Raises AssertionError if a file is lost without a word or a sound
    one is not built as it is.
    """
    rows = ["patient,dicom_path,contour_path,label"]
    sound = range(0, count + 10, 10)
    for number, data in enumerate(make_streams(codec, seed, count)):
        (folder / f"{number}.dcm").write_bytes(data)
        rows.append(f"p,{number}.dcm,,")
    data = write_file(codec, stream_of(codec))
    for number in sound:
        (folder / f"{number}s.dcm").write_bytes(data)
        rows.append(f"p,{number}s.dcm,,")
    (folder / "links.csv").write_text("\n".join(rows) + "\n")
    report = fastseg.build(folder / "links.csv", folder / "s.h5", **options)
    names = {reject.file for reject in report.rejects}
    store = fastseg.open(report.path)
    built = {sample.meta["source"]: sample.image for sample in store}
    everything = {row.split(",")[1] for row in rows[1:]}
    assert names | built.keys() == everything
    assert not names & built.keys()
    expected = fastseg.dicom.decode(data, "a.dcm").pixels
    for number in sound:
        np.testing.assert_array_equal(built[f"{number}s.dcm"], expected)
    reasons = Counter(
        "".join("N" if x.isdigit() else x for x in reject.reason)
        for reject in report.rejects
    )
    return reasons + Counter({"built": len(built) - len(sound)})
