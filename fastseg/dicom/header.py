"""The metadata that fastseg reads from an image file, and the checks of its values."""

import re
from collections.abc import Callable, Container, MutableSequence, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.bounds import MAX_DECIMAL, MAX_INTEGER_DIGITS, MAX_UID_BYTES
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
# Defined terms of PhotometricInterpretation (PS3.3 C.7.6.3.1.2), which messages may
# quote.
PHOTOMETRICS = frozenset(
    ["", "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "XYB", "HSV", "ARGB"]
    + ["CMYK", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420"]
    + ["YBR_ICT", "YBR_RCT"]
)
GREY = ("MONOCHROME1", "MONOCHROME2")
# What values of a VR consist of (PS3.5 6.2), and what messages call it.
CODE = re.compile("[A-Z0-9_ ]{0,16}")
UID = re.compile("[0-9.]*")
EXPECTED = {
    "CS": "a code of the standard",
    "DS": "a number",
    "IS": "a whole number",
    "SQ": "a sequence",
    "UI": f"a UID: up to {MAX_UID_BYTES} digits and points",
    "US": "a whole number",
}
# The tag with which a fragment of compressed pixels begins.
ITEM = b"\xfe\xff\x00\xe0"
# Stands for a whole number that is absent.
ABSENT = 10**MAX_INTEGER_DIGITS
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

    Raises DicomError unless the header is that of a valid grey-scale image. It quotes
    no text of the file but known codes.
    """
    photometric, samples = check_grey(get, name)
    if samples is None:
        raise DicomError(f"{name}: has no SamplesPerPixel; it is damaged or no image")
    if not photometric:
        raise DicomError(
            f"{name}: has no PhotometricInterpretation; it is damaged or no image"
        )
    if get("ModalityLUTSequence"):
        raise DicomError(
            f"{name}: has a Modality LUT; only linear rescale is supported"
        )
    allocated = _whole(get, "BitsAllocated", name)
    if allocated == 1:
        raise DicomError(
            f"{name}: has pixels of one bit, as a DICOM segmentation (SEG) has; only "
            "images of 8, 16 or 32 bits can be used"
        )
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
    if abs(slope) * MAX_DECIMAL < 1:
        raise DicomError(
            f"{name}: RescaleSlope is {slope:.9g}, all values would be equal"
        )
    rows = _whole(get, "Rows", name)
    columns = _whole(get, "Columns", name)
    frames = _whole(get, "NumberOfFrames", name, default=1)
    if rows < 1 or columns < 1 or frames < 1:
        raise DicomError(f"{name}: {frames} frames of {rows} x {columns} hold no pixel")
    # There may be several windows.
    centres = _numbers(get, "WindowCenter", name)
    widths = _numbers(get, "WindowWidth", name)
    if not have_pairs(centres, widths):
        raise DicomError(
            f"{name}: WindowCenter has {len(centres)} values and WindowWidth "
            f"{len(widths)}, expected as many of each"
        )
    spacings = [
        _spacing(_numbers(get, keyword, name), keyword, name)
        for keyword in ("PixelSpacing", "ImagerPixelSpacing")
    ]
    instance = _whole(get, "InstanceNumber", name, default=ABSENT)
    return Header(
        rows=rows,
        columns=columns,
        frames=frames,
        dtype=DTYPES[allocated, signed],
        bits_stored=stored,
        photometric=photometric,
        slope=slope,
        intercept=_number(get, "RescaleIntercept", name, default=0.0),
        window=linear_window(
            [*centres[:1], *widths[:1]],
            _code(get, "VOILUTFunction", name) or "LINEAR",
        ),
        spacing_mm=next((pair for pair, is_given in spacings if is_given), None),
        series=_uid(get, "SeriesInstanceUID", name),
        instance=None if instance == ABSENT else instance,
    )


def check_grey(get: Callable[[str], Any], name: str) -> tuple[str, int | None]:
    """Return PhotometricInterpretation and SamplesPerPixel, "" and None if absent.

    Raises DicomError if either is that of a colour image.
    """
    samples = _whole(get, "SamplesPerPixel", name, default=ABSENT)
    photometric = _code(get, "PhotometricInterpretation", name, PHOTOMETRICS)
    if samples not in (1, ABSENT) or photometric not in ("", *GREY):
        given = "an unknown number of" if samples == ABSENT else samples
        raise DicomError(
            f"{name}: {photometric or 'no PhotometricInterpretation'} with "
            f"{given} samples per pixel; only grey-scale images "
            "(MONOCHROME1, MONOCHROME2) can be used"
        )
    return photometric, None if samples == ABSENT else samples


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


def is_padded(length: int, head: bytes, header: Header) -> bool:
    """Return whether uncompressed pixel data are what the header needs, and padding.

    length : of the pixel data in bytes
    head   : the first four of them, or all

    They may be longer than needed (PS3.5 8.1.1), by less than one frame: a whole frame
    more is no padding, but frames or bits that the header does not announce. Nor are
    items, in which pixels are compressed. All values have an even length.
    """
    needed = header.pixel_bytes
    if length == needed + needed % 2:
        return True
    return needed <= length < needed + needed // header.frames and head != ITEM


def have_pairs(centres: Sequence[float], widths: Sequence[float]) -> bool:
    """Return whether there is a width for each centre of a window, or none at all."""
    return not (centres and widths) or len(centres) == len(widths)


def describe(value: Any) -> str:
    """Return the kind and length of a value that must not be quoted, in words."""
    # pydicom keeps the text of a number.
    value = getattr(value, "original_string", value)
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, tuple | MutableSequence):
        return f"{len(value)} values"
    if isinstance(value, int | float):
        return "a number"
    return f"text of {len(str(value).encode(errors='replace'))} bytes"


def value_error(name: str, keyword: str, value: Any) -> DicomError:
    """Return the error for a value of another kind; it does not quote the value."""
    expected = EXPECTED[HEADER_ELEMENTS[keyword][1]]
    return DicomError(f"{name}: {keyword} is {describe(value)}, expected {expected}")


def _one(get: Callable[[str], Any], keyword: str, name: str) -> Any:
    """Return the value of an element that has one, "" if it is absent or empty."""
    value = get(keyword)
    if isinstance(value, tuple | MutableSequence):
        if len(value) > 1:
            raise DicomError(f"{name}: {keyword} has {len(value)} values, expected one")
        value = value[0] if value else ""
    return "" if value is None else value


def _code(
    get: Callable[[str], Any], keyword: str, name: str, known: Container[str] = ()
) -> str:
    """Return a code (VR CS), "" if it is absent.

    known : if given, the defined terms; all others are refused
    """
    value = _one(get, keyword, name)
    code = value.strip(" \0") if isinstance(value, str) else None
    if code is None or not CODE.fullmatch(code) or (known and code not in known):
        raise value_error(name, keyword, value)
    return code


def _uid(get: Callable[[str], Any], keyword: str, name: str) -> str:
    value = _one(get, keyword, name)
    uid = value.strip(" \0") if isinstance(value, str) else None
    if uid is None or not is_uid(uid):
        raise value_error(name, keyword, value)
    return uid


def is_uid(text: str) -> bool:
    """Return whether a text consists of what a UID may contain, or is empty."""
    return len(text) <= MAX_UID_BYTES and UID.fullmatch(text) is not None


def _whole(
    get: Callable[[str], Any], keyword: str, name: str, default: int | None = None
) -> int:
    value = get(keyword)
    if type(value) is int and abs(value) < 10**MAX_INTEGER_DIGITS:
        return value
    number = _single(get, keyword, name)
    if number is None:
        if default is None:
            raise DicomError(f"{name}: has no {keyword}; it is damaged or no image")
        return default
    if not (number.is_integer() and abs(number) < 10**MAX_INTEGER_DIGITS):
        raise DicomError(
            f"{name}: {keyword} is no whole number of at most {MAX_INTEGER_DIGITS} "
            "digits"
        )
    return int(number)


def _number(
    get: Callable[[str], Any], keyword: str, name: str, default: float
) -> float:
    number = _single(get, keyword, name)
    if number is None:
        return default
    if not abs(number) <= MAX_DECIMAL:
        raise DicomError(
            f"{name}: {keyword} is {number:.9g}, expected a finite number of at most "
            f"{MAX_DECIMAL:g}"
        )
    return number


def _single(get: Callable[[str], Any], keyword: str, name: str) -> float | None:
    """Return the number of an element that has one, None if it is absent or empty."""
    value = _one(get, keyword, name)
    try:
        return None if value == "" else _as_float(value)
    except (TypeError, ValueError, OverflowError):
        raise value_error(name, keyword, value) from None


def _numbers(get: Callable[[str], Any], keyword: str, name: str) -> list[float]:
    """Return the values of an element, an empty list if it is absent or empty."""
    value = get(keyword)
    if type(value) is tuple:  # of floats
        return list(value)
    if value is None or value == "":
        return []
    try:
        several = isinstance(value, MutableSequence)
        return list(map(_as_float, value if several else [value]))
    except (TypeError, ValueError, OverflowError):
        raise value_error(name, keyword, value) from None


def _as_float(value: Any) -> float:
    # An element of another VR may hold text or bytes.
    if not isinstance(value, int | float | str):
        raise TypeError
    text = getattr(value, "original_string", value)
    # Of another VR, such as AT, whose values are tags.
    if isinstance(text, int) and type(text) is not int:
        raise TypeError
    # Python reads 1_0 as 10, and pydicom with it.
    if isinstance(text, str) and "_" in text:
        raise ValueError
    return float(value)


def linear_window(pair: list[float], function: str) -> tuple[float, float] | None:
    """Return (centre, width) of the function LINEAR (PS3.3 C.11.2.1.2).

    pair     : WindowCenter and WindowWidth, fewer if one is absent
    function : VOILUTFunction

    Returns None where these describe no linear ramp.
    """
    if len(pair) < 2:
        return None
    centre, width = pair
    if not (abs(centre) <= MAX_DECIMAL and abs(width) <= MAX_DECIMAL):
        return None
    if function == "LINEAR_EXACT" and width > 0:  # the same ramp, written for LINEAR
        return centre + 0.5, width + 1
    # LINEAR allows no width below 1; SIGMOID is not a linear ramp.
    return (centre, width) if function == "LINEAR" and width >= 1 else None


def _spacing(
    pair: list[float], keyword: str, name: str
) -> tuple[tuple[float, float] | None, bool]:
    """Return a spacing, None if it is not valid, and whether the element is given."""
    if not pair:
        return None, False
    if len(pair) != 2:
        raise DicomError(f"{name}: {keyword} has {len(pair)} values, expected two")
    rows, columns = pair
    is_valid = 0 < rows <= MAX_DECIMAL and 0 < columns <= MAX_DECIMAL
    return (rows, columns) if is_valid else None, True
