"""The metadata that fastseg reads from an image file, and the checks of its values."""

import re
from collections.abc import Callable, Container, Mapping, MutableSequence, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.bounds import MAX_DECIMAL, MAX_FRAMES, MAX_INTEGER_DIGITS, MAX_UID_BYTES
from fastseg.errors import ColourImageError, DicomError

# Keyword, tag and VR of the elements that are read: header and pixels.
HEADER_ELEMENTS = {
    "ImageType": (0x00080008, "CS"),
    "SOPClassUID": (0x00080016, "UI"),
    "SOPInstanceUID": (0x00080018, "UI"),
    "Modality": (0x00080060, "CS"),
    "PatientID": (0x00100020, "LO"),
    "SliceThickness": (0x00180050, "DS"),
    "TriggerTime": (0x00181060, "DS"),
    "StudyInstanceUID": (0x0020000D, "UI"),
    "SeriesInstanceUID": (0x0020000E, "UI"),
    "InstanceNumber": (0x00200013, "IS"),
    "ImagePositionPatient": (0x00200032, "DS"),
    "ImageOrientationPatient": (0x00200037, "DS"),
    "FrameOfReferenceUID": (0x00200052, "UI"),
    "TemporalPositionIdentifier": (0x00200100, "IS"),
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
    "ModalityLUTSequence": (0x00283000, "SQ"),
    "SharedFunctionalGroupsSequence": (0x52009229, "SQ"),
    "PerFrameFunctionalGroupsSequence": (0x52009230, "SQ"),
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
# Defined terms of Modality (PS3.3 C.7.3.1.1.1), with the retired ones. Another value
# could be any text.
MODALITIES = frozenset(
    term
    for terms in (
        "ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DG DMS DOC DX ECG EEG EMG EOG",
        "EPS ES FID GM HC HD IO IOL IVOCT IVUS KER KO LEN LS M3D MG MR NM OAM OCT OP",
        "OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG RTDOSE",
        "RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR",
        "SRF STAIN TEXTUREMAP TG US VA XA XAPROTOCOL XC",
        "AS CD CF CP CS DD DF DM DS EC FA FS LP MA MS OPR ST VF",
    )
    for term in terms.split()
)
# Classes of enhanced images (PS3.4 B.5), whose rescale and geometry are in functional
# groups.
ENHANCED = {
    "1.2.840.10008.5.1.4.1.1.2.1": "Enhanced CT Image Storage",
    "1.2.840.10008.5.1.4.1.1.2.2": "Legacy Converted Enhanced CT Image Storage",
    "1.2.840.10008.5.1.4.1.1.4.1": "Enhanced MR Image Storage",
    "1.2.840.10008.5.1.4.1.1.4.4": "Legacy Converted Enhanced MR Image Storage",
    "1.2.840.10008.5.1.4.1.1.128.1": "Legacy Converted Enhanced PET Image Storage",
    "1.2.840.10008.5.1.4.1.1.130": "Enhanced PET Image Storage",
}
# What values of a VR consist of (PS3.5 6.2), and what messages call it.
CODE = re.compile("[A-Z0-9_ ]{0,16}")
UID = re.compile("[0-9.]*")
EXPECTED = {
    "CS": "a code of the standard",
    "DS": "a number",
    "IS": "a whole number",
    "LO": "text",
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


class Header(NamedTuple):
    """The metadata of a frame of a grey-scale image file, checked.

    In an enhanced file, functional groups may give each frame other values. In all
    other files, the frames have one header.

    rows, columns, frames : numbers of each
    dtype       : dtype of the stored values, little-endian
    bits_stored : number of the allocated bits that hold the value
    photometric : "MONOCHROME1" (low is white) or "MONOCHROME2" (low is black)
    slope, intercept : RescaleSlope and RescaleIntercept, 1 and 0 if absent
    window      : (centre, width) of a linear ramp as PS3.3 C.11.2.1.2 defines it for
        LINEAR, in rescaled values; the first one if there are several
    spacing_mm  : (between rows, between columns), PixelSpacing
    series      : SeriesInstanceUID, "" if absent
    instance    : InstanceNumber
    modality    : Modality, "" if absent or no term of the standard
    sop_class, sop_instance, study, frame_of_reference : SOPClassUID, SOPInstanceUID,
        StudyInstanceUID, FrameOfReferenceUID; "" if absent
    patient_id  : PatientID without blanks around it, "" if absent. It is in no message,
        and not in the repr
    is_localizer : whether ImageType says so
    position_mm : (x, y, z), ImagePositionPatient; None if absent, or if it is one for
        several frames
    directions  : ImageOrientationPatient as it is: along a row (x, y, z), then along a
        column
    slice_thickness_mm : SliceThickness, None if it is not above 0
    temporal_position  : TemporalPositionIdentifier, or TemporalPositionIndex of a frame
    trigger_time_ms    : TriggerTime, or NominalCardiacTriggerDelayTime of a frame
    """

    rows: int
    columns: int
    frames: int
    dtype: np.dtype[Any]
    bits_stored: int
    photometric: str
    slope: float
    intercept: float
    spacing_mm: tuple[float, float] | None
    series: str
    modality: str
    sop_class: str
    study: str
    patient_id: str
    is_localizer: bool
    directions: tuple[float, float, float, float, float, float] | None
    slice_thickness_mm: float | None
    # The fields that differ between the files of a series, see `scan`.
    instance: int | None
    window: tuple[float, float] | None
    temporal_position: int | None
    trigger_time_ms: float | None
    position_mm: tuple[float, float, float] | None
    sop_instance: str
    frame_of_reference: str

    def __repr__(self) -> str:
        values = self._asdict()
        del values["patient_id"]
        return f"Header({', '.join(f'{x}={value!r}' for x, value in values.items())})"

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


def check_header(
    get: Callable[[str], Any],
    name: str,
    frame_values: Mapping[str, Any] = MappingProxyType({}),
) -> Header:
    """Return the header with these values, checked.

    get  : returns the value of a keyword in HEADER_ELEMENTS: a number, a string, a
        tuple of floats or strings, or pydicom's MultiValue; None or "" if there is none
    name : name of the file in messages
    frame_values : what functional groups say of the frame, by keyword

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
    rows = _whole(get, "Rows", name)
    columns = _whole(get, "Columns", name)
    frames = _whole(get, "NumberOfFrames", name, default=1)
    if rows < 1 or columns < 1 or frames < 1:
        raise DicomError(f"{name}: {frames} frames of {rows} x {columns} hold no pixel")
    sop_class = _uid(get, "SOPClassUID", name)
    if sop_class in ENHANCED and not frame_values:
        raise DicomError(
            f"{name}: is of the class {ENHANCED[sop_class]} but has no functional "
            "groups, which hold its rescale, spacing and position. It is damaged; get "
            "the file again"
        )

    def get_of_frame(keyword: str) -> Any:
        return frame_values[keyword] if keyword in frame_values else get(keyword)

    slope = _number(get_of_frame, "RescaleSlope", name, default=1.0)
    if abs(slope) * MAX_DECIMAL < 1:
        raise DicomError(
            f"{name}: RescaleSlope is {slope:.9g}, all values would be equal"
        )
    # There may be several windows.
    centres = _numbers(get_of_frame, "WindowCenter", name)
    widths = _numbers(get_of_frame, "WindowWidth", name)
    if not have_pairs(centres, widths):
        raise DicomError(
            f"{name}: WindowCenter has {len(centres)} values and WindowWidth "
            f"{len(widths)}, expected as many of each"
        )
    thickness = _decimal(get_of_frame, "SliceThickness", name)
    position = None
    if frames == 1 or "ImagePositionPatient" in frame_values:
        position = _vector(get_of_frame, "ImagePositionPatient", name, 3)
    return Header(
        rows=rows,
        columns=columns,
        frames=frames,
        dtype=DTYPES[allocated, signed],
        bits_stored=stored,
        photometric=photometric,
        slope=slope,
        intercept=_number(get_of_frame, "RescaleIntercept", name, default=0.0),
        window=linear_window(
            [*centres[:1], *widths[:1]],
            _code(get_of_frame, "VOILUTFunction", name) or "LINEAR",
        ),
        spacing_mm=_spacing(get_of_frame, "PixelSpacing", name),
        series=_uid(get, "SeriesInstanceUID", name),
        instance=_optional_whole(get, "InstanceNumber", name),
        modality=_modality(get),
        sop_class=sop_class,
        sop_instance=_uid(get, "SOPInstanceUID", name),
        study=_uid(get, "StudyInstanceUID", name),
        frame_of_reference=_uid(get, "FrameOfReferenceUID", name),
        patient_id=_text(get, "PatientID"),
        is_localizer=_texts(get, "ImageType")[2:3] == ["LOCALIZER"],
        position_mm=position,
        directions=_vector(get_of_frame, "ImageOrientationPatient", name, 6),
        slice_thickness_mm=thickness if thickness and thickness > 0 else None,
        temporal_position=_optional_whole(
            get_of_frame, "TemporalPositionIdentifier", name
        ),
        trigger_time_ms=_decimal(get_of_frame, "TriggerTime", name),
    )


def check_grey(get: Callable[[str], Any], name: str) -> tuple[str, int | None]:
    """Return PhotometricInterpretation and SamplesPerPixel, "" and None if absent.

    Raises ColourImageError if either is that of a colour image.
    """
    samples = _whole(get, "SamplesPerPixel", name, default=ABSENT)
    photometric = _code(get, "PhotometricInterpretation", name, PHOTOMETRICS)
    if samples not in (1, ABSENT) or photometric not in ("", *GREY):
        given = "an unknown number of" if samples == ABSENT else samples
        raise ColourImageError(
            f"{name}: {photometric or 'no PhotometricInterpretation'} with "
            f"{given} samples per pixel; only grey-scale images "
            "(MONOCHROME1, MONOCHROME2) can be used"
        )
    return photometric, None if samples == ABSENT else samples


def check_frame(header: Header, frame: int, name: str) -> None:
    """Raise DicomError for a frame that does not exist."""
    if not 0 <= frame < header.frames:
        raise DicomError(
            f"{name}: has no frame {frame}, expected 0 to {header.frames - 1}"
        )


def check_frames(header: Header, name: str) -> None:
    """Raise DicomError for more frames than MAX_FRAMES."""
    if header.frames > MAX_FRAMES:
        raise DicomError(
            f"{name}: has {header.frames} frames, expected at most {MAX_FRAMES}"
        )


def check_groups(count: int | None, header: Header, name: str) -> None:
    """Raise DicomError unless each frame has functional groups of its own, or none has.

    count : of how many frames the file has groups; None if it does not say
    """
    if count not in (None, header.frames):
        raise DicomError(
            f"{name}: has functional groups of {count} frames, but {header.frames} "
            "frames; it is damaged, get the file again"
        )


def check_request(header: Header, frame: int, limit: int, name: str) -> None:
    """Raise DicomError for a frame that does not exist or pixels over the limit.

    limit : max_pixel_bytes
    """
    check_frame(header, frame, name)
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


def _modality(get: Callable[[str], Any]) -> str:
    """Return Modality if it is one of MODALITIES, otherwise ""."""
    code = _text(get, "Modality")
    return code if code in MODALITIES else ""


def _text(get: Callable[[str], Any], keyword: str) -> str:
    """Return the text of an element, "" if it is absent or of another kind."""
    return "\\".join(_texts(get, keyword)).strip(" \0")


def _texts(get: Callable[[str], Any], keyword: str) -> list[str]:
    """Return the texts of an element, without blanks around them."""
    try:
        value = get(keyword)
    except DicomError:  # of another VR; nothing depends on these texts
        return []
    several = isinstance(value, tuple | MutableSequence)
    texts = list(value) if several else [value]
    if not all(isinstance(text, str) for text in texts):
        return []
    return [str(text).strip(" \0") for text in texts]


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


def _optional_whole(get: Callable[[str], Any], keyword: str, name: str) -> int | None:
    number = _whole(get, keyword, name, default=ABSENT)
    return None if number == ABSENT else number


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


def _decimal(get: Callable[[str], Any], keyword: str, name: str) -> float | None:
    """Return a number, None if it is absent or over the bound."""
    number = _single(get, keyword, name)
    return number if number is not None and abs(number) <= MAX_DECIMAL else None


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
    get: Callable[[str], Any], keyword: str, name: str
) -> tuple[float, float] | None:
    """Return a spacing, None if it is absent or not valid."""
    pair = _numbers(get, keyword, name)
    if not pair:
        return None
    if len(pair) != 2:
        raise DicomError(f"{name}: {keyword} has {len(pair)} values, expected two")
    rows, columns = pair
    is_valid = 0 < rows <= MAX_DECIMAL and 0 < columns <= MAX_DECIMAL
    return (rows, columns) if is_valid else None


def _vector(
    get: Callable[[str], Any], keyword: str, name: str, count: int
) -> tuple[Any, ...] | None:
    """Return so many numbers, None if they are absent or one is over the bound."""
    numbers = _numbers(get, keyword, name)
    if not numbers:
        return None
    if len(numbers) != count:
        raise DicomError(
            f"{name}: {keyword} has {len(numbers)} values, expected {count}"
        )
    return as_vector(numbers)


def as_vector(numbers: Sequence[float]) -> tuple[Any, ...] | None:
    """Return numbers as a tuple without -0.0; None if one is over the bound."""
    if not all(abs(number) <= MAX_DECIMAL for number in numbers):
        return None
    return tuple(number + 0.0 for number in numbers)
