"""One DICOM file: its pixels and the few facts of its header that matter here.

Pixels are *stored values*: what the file holds, with unused high bits cleared or
sign-extended, and nothing else done to them. `Header.value_map` says what they
mean.
"""

import math
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.multival import MultiValue
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from fastseg.errors import DicomError, FastsegError, missing_extra

# A file may ask for no more memory than this for its pixels: a damaged header
# must not take the machine down.
MAX_PIXEL_BYTES = 2**30

DEFLATED = b"1.2.840.10008.1.2.1.99"
# Longest file meta group that is searched for it, in bytes.
MOST_META = 2**20
# `catch_warnings` changes and restores what belongs to the whole process.
_WARNINGS = threading.RLock()
FACTS = (
    "SeriesInstanceUID",
    "InstanceNumber",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "RescaleIntercept",
    "RescaleSlope",
    "ModalityLUTSequence",
)
PIXELS = (
    "PlanarConfiguration",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The listed facts of a grey-scale image file, checked.

    rows, columns, frames : how many
    dtype       : of the stored values, little-endian
    bits_stored : how many of the allocated bits carry the value
    photometric : "MONOCHROME1" (low is white) or "MONOCHROME2" (low is black)
    slope, intercept : the file's rescale, 1 and 0 where it has none
    window      : (centre, width) of a linear ramp as PS3.3 C.11.2.1.2 defines it for
        LINEAR, in rescaled values; the first if there are several
    spacing_mm  : (between rows, between columns)
    series      : SeriesInstanceUID, "" if absent
    instance    : InstanceNumber
    """

    rows: int
    columns: int
    frames: int
    dtype: np.dtype[Any]
    bits_stored: int
    photometric: str
    slope: float
    intercept: float
    window: tuple[float, float] | None
    spacing_mm: tuple[float, float] | None
    series: str
    instance: int | None

    @property
    def value_map(self) -> tuple[float, float]:
        """(slope, intercept) from stored values to image values, high is bright.

        MONOCHROME1 is inverted about the middle of the range that the stored bits
        span, before the rescale: v becomes lowest + highest - v.
        """
        if self.photometric == "MONOCHROME2":
            return self.slope, self.intercept
        return -self.slope, self.slope * self._range_sum + self.intercept

    @property
    def value_window(self) -> tuple[float, float] | None:
        """(centre, width) in image values, those that `value_map` gives."""
        if self.window is None or self.photometric == "MONOCHROME2":
            return self.window
        centre, width = self.window
        # PS3.3 C.11.2.1.2: the window's middle is half a value below its centre,
        # and its mirror image half a value below the new one.
        middle = self.slope * self._range_sum + 2 * self.intercept - (centre - 0.5)
        return middle + 0.5, width

    @property
    def _range_sum(self) -> int:
        return -1 if self.dtype.kind == "i" else 2**self.bits_stored - 1


@dataclass(frozen=True, slots=True)
class Image:
    """One frame: `pixels` (rows, columns), stored values, and its header."""

    pixels: NDArray[Any]
    header: Header

    def values(self) -> NDArray[np.float64]:
        """Return float64 (rows, columns): rescaled, MONOCHROME1 inverted."""
        slope, intercept = self.header.value_map
        return self.pixels * slope + intercept


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read the listed facts of an image file without its pixels.

    Raises DicomError for anything but a sound grey-scale header, OSError where the
    file cannot be opened.
    """
    with Path(path).open("rb") as file:
        dataset = _parse(file, str(path), FACTS, stop_before_pixels=True)
    return _header(dataset, str(path))


def read_image(
    path: str | os.PathLike[str],
    frame: int = 0,
    *,
    max_pixel_bytes: int = MAX_PIXEL_BYTES,
) -> Image:
    """Read one frame (counted from 0) of an image file.

    Raises DicomError for anything but a sound grey-scale image, MissingExtraError
    where a decoder is not installed, OSError where the file cannot be opened.
    """
    data = Path(path).read_bytes()
    return decode(data, str(path), frame, max_pixel_bytes=max_pixel_bytes)


def decode(
    data: bytes, name: str, frame: int = 0, *, max_pixel_bytes: int = MAX_PIXEL_BYTES
) -> Image:
    """Read one frame of an image file's bytes; `name` is for messages."""
    dataset = _parse(BytesIO(data), name, FACTS + PIXELS)
    header = _header(dataset, name)
    if not 0 <= frame < header.frames:
        raise DicomError(
            f"{name}: frame {frame} asked for, the file has {header.frames} "
            "(counted from 0)"
        )
    with _pydicom_failures(name):
        has_pixels = bool(dataset.get("PixelData"))
    if not has_pixels:
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise DicomError(f"{name}: floating-point pixel data are not supported")
        raise DicomError(f"{name}: has no pixel data; it is damaged or no image")
    bits = header.rows * header.columns * header.frames * int(dataset.BitsAllocated)
    if bits // 8 > max_pixel_bytes:
        raise DicomError(
            f"{name}: {header.frames} frames of {header.rows} x {header.columns} "
            f"need {bits // 8} bytes, over the limit of {max_pixel_bytes}; raise "
            "max_pixel_bytes if the file is sound"
        )
    with _pydicom_failures(name):
        _set_transfer_syntax(dataset)
        syntax = dataset.file_meta.TransferSyntaxUID
        if syntax.is_encapsulated:
            _require_decoder(syntax, name)
        else:
            _check_length(len(dataset.PixelData), -(-bits // 8), name)
        pixels = pixel_array(dataset, raw=True, index=frame)
    if pixels.shape != (header.rows, header.columns):
        raise DicomError(
            f"{name}: decodes to shape {pixels.shape}, its header says "
            f"{(header.rows, header.columns)}"
        )
    return Image(np.ascontiguousarray(pixels, dtype=header.dtype), header)


def _parse(file: BinaryIO, name: str, tags: tuple[str, ...], **options: Any) -> Any:
    head = file.read(144)
    if not head:
        raise DicomError(f"{name}: is empty")
    # The file meta group, whose length is the value of its first element.
    meta_length = int.from_bytes(head[140:144], "little")
    is_known = head[128:138] == b"DICM\2\0\0\0UL"
    meta = file.read(min(meta_length if is_known else 2048, MOST_META))
    file.seek(0)
    if DEFLATED in meta:
        # pydicom inflates without a bound: a 1 MB file can become 1 GB.
        raise DicomError(f"{name}: deflated files are not supported; inflate it first")
    with _pydicom_failures(name):
        dataset = pydicom.dcmread(file, force=True, specific_tags=list(tags), **options)
    if "Rows" not in dataset or "Columns" not in dataset:
        if head[128:132] != b"DICM":
            raise DicomError(f"{name}: is not a DICOM file")
        raise DicomError(
            f"{name}: has no Rows and Columns; it is truncated or no image"
        )
    return dataset


@contextmanager
def _pydicom_failures(name: str) -> Iterator[None]:
    # On damaged files pydicom raises whatever its parser trips over, so all of it
    # is caught and its text kept. Its warnings concern values that are not used
    # or are checked here (UIDs, lengths).
    try:
        with _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except FastsegError:
        raise
    except Exception as exc:
        text = " ".join(str(exc).split()) or type(exc).__name__
        raise DicomError(f"{name}: cannot be read: {text}") from exc


def _header(dataset: Any, name: str) -> Header:
    with _pydicom_failures(name):
        samples = _whole(dataset, "SamplesPerPixel", name)
        photometric = str(dataset.get("PhotometricInterpretation") or "").strip()
        if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
            raise DicomError(
                f"{name}: {photometric or 'no PhotometricInterpretation'} with "
                f"{samples} samples per pixel; only grey-scale images "
                "(MONOCHROME1, MONOCHROME2) can be used"
            )
        if dataset.get("ModalityLUTSequence"):
            raise DicomError(
                f"{name}: has a Modality LUT; only linear rescale is supported"
            )
        allocated = _whole(dataset, "BitsAllocated", name)
        stored = _whole(dataset, "BitsStored", name)
        signed = _whole(dataset, "PixelRepresentation", name)
        if allocated not in (8, 16, 32) or not 0 < stored <= allocated:
            raise DicomError(
                f"{name}: {stored} bits stored in {allocated} allocated; expected "
                "8, 16 or 32 allocated and no more stored than that"
            )
        if _whole(dataset, "HighBit", name, default=stored - 1) != stored - 1:
            raise DicomError(
                f"{name}: HighBit is {dataset.HighBit}, expected {stored - 1}; "
                "shifted pixel values are not supported"
            )
        if signed not in (0, 1):
            raise DicomError(f"{name}: PixelRepresentation is {signed}, not 0 or 1")
        slope = _number(dataset, "RescaleSlope", name, default=1.0)
        if slope == 0:
            raise DicomError(f"{name}: RescaleSlope is 0, all values would be equal")
        rows = _whole(dataset, "Rows", name)
        columns = _whole(dataset, "Columns", name)
        frames = _whole(dataset, "NumberOfFrames", name, default=1)
        if min(rows, columns, frames) < 1:
            raise DicomError(
                f"{name}: {frames} frames of {rows} x {columns} hold no pixel"
            )
        instance = _numbers(dataset, "InstanceNumber", name)
        window = _numbers(dataset, "WindowCenter", name)[:1]
        window += _numbers(dataset, "WindowWidth", name)[:1]
        spacing = _numbers(dataset, "PixelSpacing", name)
        spacing = spacing or _numbers(dataset, "ImagerPixelSpacing", name)
        return Header(
            rows=rows,
            columns=columns,
            frames=frames,
            dtype=np.dtype(f"<{'i' if signed else 'u'}{allocated // 8}"),
            bits_stored=stored,
            photometric=photometric,
            slope=slope,
            intercept=_number(dataset, "RescaleIntercept", name, default=0.0),
            window=_window(window, str(dataset.get("VOILUTFunction") or "LINEAR")),
            spacing_mm=_spacing(spacing, name),
            series=str(dataset.get("SeriesInstanceUID") or "").strip(),
            instance=int(instance[0]) if instance else None,
        )


def _whole(dataset: Any, keyword: str, name: str, default: int | None = None) -> int:
    value = dataset.get(keyword)
    if value is None or value == "":
        if default is None:
            raise DicomError(f"{name}: has no {keyword}; it is damaged or no image")
        return default
    return int(value)


def _number(dataset: Any, keyword: str, name: str, default: float) -> float:
    numbers = _numbers(dataset, keyword, name) or [default]
    if len(numbers) > 1:
        raise DicomError(f"{name}: {keyword} is {numbers}, expected one number")
    if not math.isfinite(numbers[0]):
        raise DicomError(f"{name}: {keyword} is {numbers[0]}, expected a finite number")
    return numbers[0]


def _numbers(dataset: Any, keyword: str, name: str) -> list[float]:
    """Return the values of an element, none if it is absent or empty."""
    value = dataset.get(keyword)
    if value is None or value == "":
        return []
    try:
        several = isinstance(value, MultiValue | list | tuple)
        return [float(number) for number in (value if several else [value])]
    except (TypeError, ValueError):
        raise DicomError(f"{name}: {keyword} is {value!r}, no number") from None


def _window(pair: list[float], function: str) -> tuple[float, float] | None:
    """Return (centre, width) of the function LINEAR (PS3.3 C.11.2.1.2)."""
    if len(pair) < 2 or not all(map(math.isfinite, pair)):
        return None
    centre, width = pair
    if function == "LINEAR_EXACT" and width > 0:  # the same ramp in LINEAR's terms
        return centre + 0.5, width + 1
    # A width below 1 means nothing in LINEAR; SIGMOID is no ramp.
    return (centre, width) if function == "LINEAR" and width >= 1 else None


def _spacing(pair: list[float], name: str) -> tuple[float, float] | None:
    if not pair:
        return None
    if len(pair) != 2:
        raise DicomError(f"{name}: PixelSpacing is {pair}, expected two numbers")
    known = all(0 < number < math.inf for number in pair)
    return (pair[0], pair[1]) if known else None


def _set_transfer_syntax(dataset: Any) -> None:
    """Name the syntax of a file without a file meta group by how it was parsed."""
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        syntax = ImplicitVRLittleEndian if implicit else explicit
        dataset.file_meta.TransferSyntaxUID = syntax


def _require_decoder(syntax: Any, name: str) -> None:
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        raise DicomError(
            f"{name}: transfer syntax {syntax.name} cannot be decoded"
        ) from None
    if not available:
        raise missing_extra(f"{name}: decoding {syntax.name}", "codecs")


def _check_length(given: int, expected: int, name: str) -> None:
    # DICOM pads values to an even length with one byte.
    if given not in (expected, expected + expected % 2):
        raise DicomError(
            f"{name}: holds {given} bytes of pixel data, its header says {expected}; "
            "it is truncated or damaged"
        )
