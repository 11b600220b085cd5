"""The metadata that fastseg reads from an image file, and the checks of its values."""

import math
from collections.abc import Callable, MutableSequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.bounds import MAX_INSTANCE_DIGITS
from fastseg.errors import DicomError

# Keyword, tag and VR of the elements that are read: header and pixels.
HEADER_ELEMENTS = {
    "SeriesInstanceUID": (0x0020000E, "UI"),
    "InstanceNumber": (0x00200013, "IS"),
    "SamplesPerPixel": (0x00280002, "US"),
    "PhotometricInterpretation": (0x00280004, "CS"),
    "NumberOfFrames": (0x00280008, "IS"),
    "Rows": (0x00280010, "US"),
    "Columns": (0x00280011, "US"),
    "PixelSpacing": (0x00280030, "DS"),
    "BitsAllocated": (0x00280100, "US"),
    "BitsStored": (0x00280101, "US"),
    "HighBit": (0x00280102, "US"),
    "PixelRepresentation": (0x00280103, "US"),
    "WindowCenter": (0x00281050, "DS"),
    "WindowWidth": (0x00281051, "DS"),
    "RescaleIntercept": (0x00281052, "DS"),
    "RescaleSlope": (0x00281053, "DS"),
    "VOILUTFunction": (0x00281056, "CS"),
    "ImagerPixelSpacing": (0x00181164, "DS"),
    "ModalityLUTSequence": (0x00283000, "SQ"),
}
PIXEL_ELEMENTS = {
    "PlanarConfiguration": (0x00280006, "US"),
    "ExtendedOffsetTable": (0x7FE00001, "OV"),
    "ExtendedOffsetTableLengths": (0x7FE00002, "OV"),
    "FloatPixelData": (0x7FE00008, "OF"),
    "DoubleFloatPixelData": (0x7FE00009, "OD"),
    "PixelData": (0x7FE00010, "OW"),
}
DTYPES = {
    (bits, signed): np.dtype(f"<{'ui'[signed]}{bits // 8}")
    for bits in (8, 16, 32)
    for signed in (0, 1)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The metadata of a grey-scale image file, checked.

    rows, columns, frames : numbers of each
    dtype       : dtype of the stored values, little-endian
    bits_stored : number of the allocated bits that hold the value
    photometric : "MONOCHROME1" (low is white) or "MONOCHROME2" (low is black)
    slope, intercept : RescaleSlope and RescaleIntercept, 1 and 0 if absent
    window      : (centre, width) of a linear ramp as PS3.3 C.11.2.1.2 defines it for
        LINEAR, in rescaled values; the first one if there are several
    spacing_mm  : (between rows, between columns), PixelSpacing or ImagerPixelSpacing
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
    def pixel_bytes(self) -> int:
        """Size of the pixels of all frames, in bytes."""
        return self.rows * self.columns * self.frames * self.dtype.itemsize

    @property
    def value_map(self) -> tuple[float, float]:
        """(slope, intercept) from stored values to image values, high is bright.

        MONOCHROME1 is inverted before the rescale: v becomes lowest + highest - v, of
        the range that the stored bits span.
        """
        if self.photometric == "MONOCHROME2":
            return self.slope, self.intercept
        return -self.slope, self.slope * self._range_sum + self.intercept

    @property
    def value_window(self) -> tuple[float, float] | None:
        """(centre, width) of the window in image values, as `value_map` gives them."""
        if self.window is None or self.photometric == "MONOCHROME2":
            return self.window
        centre, width = self.window
        # PS3.3 C.11.2.1.2: the middle of a window is half a value below its centre.
        # Inversion mirrors the middle; the new centre is half a value above it.
        middle = self.slope * self._range_sum + 2 * self.intercept - (centre - 0.5)
        return middle + 0.5, width

    @property
    def _range_sum(self) -> int:
        """Lowest plus highest value of the stored bits."""
        return -1 if self.dtype.kind == "i" else 2**self.bits_stored - 1


@dataclass(frozen=True, slots=True)
class Image:
    """One frame: `pixels`, stored values (rows, columns), and the file's header."""

    pixels: NDArray[Any]
    header: Header

    def values(self) -> NDArray[np.float64]:
        """Return float64 (rows, columns): rescaled, MONOCHROME1 inverted."""
        slope, intercept = self.header.value_map
        return self.pixels * slope + intercept


def check_header(get: Callable[[str], Any], name: str) -> Header:
    """Return the header with these values, checked.

    get  : returns the value of a keyword in HEADER_ELEMENTS: a number, a string, a
        tuple of floats or pydicom's MultiValue; None or "" if there is none
    name : name of the file in messages

    Raises DicomError unless the header is that of a valid grey-scale image.
    """
    samples = _whole(get, "SamplesPerPixel", name)
    photometric = str(get("PhotometricInterpretation") or "").strip()
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise DicomError(
            f"{name}: {photometric or 'no PhotometricInterpretation'} with "
            f"{samples} samples per pixel; only grey-scale images "
            "(MONOCHROME1, MONOCHROME2) can be used"
        )
    if get("ModalityLUTSequence"):
        raise DicomError(
            f"{name}: has a Modality LUT; only linear rescale is supported"
        )
    allocated = _whole(get, "BitsAllocated", name)
    stored = _whole(get, "BitsStored", name)
    signed = _whole(get, "PixelRepresentation", name)
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated:
        raise DicomError(
            f"{name}: {stored} bits stored in {allocated} allocated; expected "
            "8, 16 or 32 allocated and no more stored than that"
        )
    high_bit = _whole(get, "HighBit", name, default=stored - 1)
    if high_bit != stored - 1:
        raise DicomError(
            f"{name}: HighBit is {high_bit}, expected {stored - 1}; "
            "shifted pixel values are not supported"
        )
    if signed not in (0, 1):
        raise DicomError(f"{name}: PixelRepresentation is {signed}, not 0 or 1")
    slope = _number(get, "RescaleSlope", name, default=1.0)
    if slope == 0:
        raise DicomError(f"{name}: RescaleSlope is 0, all values would be equal")
    rows = _whole(get, "Rows", name)
    columns = _whole(get, "Columns", name)
    frames = _whole(get, "NumberOfFrames", name, default=1)
    if rows < 1 or columns < 1 or frames < 1:
        raise DicomError(f"{name}: {frames} frames of {rows} x {columns} hold no pixel")
    window = _numbers(get, "WindowCenter", name)[:1]
    window += _numbers(get, "WindowWidth", name)[:1]
    spacing = _numbers(get, "PixelSpacing", name)
    spacing = spacing or _numbers(get, "ImagerPixelSpacing", name)
    return Header(
        rows=rows,
        columns=columns,
        frames=frames,
        dtype=DTYPES[allocated, signed],
        bits_stored=stored,
        photometric=photometric,
        slope=slope,
        intercept=_number(get, "RescaleIntercept", name, default=0.0),
        window=linear_window(window, str(get("VOILUTFunction") or "LINEAR")),
        spacing_mm=_spacing(spacing, name),
        series=str(get("SeriesInstanceUID") or "").strip(),
        instance=_instance(_numbers(get, "InstanceNumber", name), name),
    )


def check_request(header: Header, frame: int, limit: int, name: str) -> None:
    """Raise DicomError for a frame that does not exist or pixels over the limit.

    limit : max_pixel_bytes
    """
    if not 0 <= frame < header.frames:
        raise DicomError(
            f"{name}: has no frame {frame}, expected 0 to {header.frames - 1}"
        )
    if header.pixel_bytes > limit:
        raise DicomError(
            f"{name}: {header.frames} frames of {header.rows} x {header.columns} "
            f"need {header.pixel_bytes} bytes, over the limit of {limit}; raise "
            "max_pixel_bytes if the file is valid"
        )


def _whole(
    get: Callable[[str], Any], keyword: str, name: str, default: int | None = None
) -> int:
    value = get(keyword)
    if type(value) is int:
        return value
    if value is None or value == "":
        if default is None:
            raise DicomError(f"{name}: has no {keyword}; it is damaged or no image")
        return default
    return int(value)


def _number(
    get: Callable[[str], Any], keyword: str, name: str, default: float
) -> float:
    numbers = _numbers(get, keyword, name) or [default]
    if len(numbers) > 1:
        raise DicomError(f"{name}: {keyword} is {numbers}, expected one number")
    if not math.isfinite(numbers[0]):
        raise DicomError(f"{name}: {keyword} is {numbers[0]}, expected a finite number")
    return numbers[0]


def _instance(numbers: list[float], name: str) -> int | None:
    if not numbers:
        return None
    if not (numbers[0].is_integer() and abs(numbers[0]) < 10**MAX_INSTANCE_DIGITS):
        raise DicomError(
            f"{name}: InstanceNumber is {numbers[0]:.17g}, expected a whole number of "
            f"at most {MAX_INSTANCE_DIGITS} digits"
        )
    return int(numbers[0])


def _numbers(get: Callable[[str], Any], keyword: str, name: str) -> list[float]:
    """Return the values of an element, an empty list if it is absent or empty."""
    value = get(keyword)
    if type(value) is tuple:  # of floats
        return list(value)
    if value is None or value == "":
        return []
    try:
        if isinstance(value, MutableSequence):
            return list(map(float, value))
        return [float(value)]
    except (TypeError, ValueError):
        raise DicomError(f"{name}: {keyword} is {value!r}, expected a number") from None


def linear_window(pair: list[float], function: str) -> tuple[float, float] | None:
    """Return (centre, width) of the function LINEAR (PS3.3 C.11.2.1.2).

    pair     : WindowCenter and WindowWidth, fewer if one is absent
    function : VOILUTFunction

    Returns None where these describe no linear ramp.
    """
    if len(pair) < 2:
        return None
    centre, width = pair
    if not (math.isfinite(centre) and math.isfinite(width)):
        return None
    if function == "LINEAR_EXACT" and width > 0:  # the same ramp, written for LINEAR
        return centre + 0.5, width + 1
    # LINEAR allows no width below 1; SIGMOID is not a linear ramp.
    return (centre, width) if function == "LINEAR" and width >= 1 else None


def _spacing(pair: list[float], name: str) -> tuple[float, float] | None:
    if not pair:
        return None
    if len(pair) != 2:
        raise DicomError(f"{name}: PixelSpacing is {pair}, expected two numbers")
    rows, columns = pair
    is_valid = 0 < rows < math.inf and 0 < columns < math.inf
    return (rows, columns) if is_valid else None
