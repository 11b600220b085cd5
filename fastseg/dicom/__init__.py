"""One DICOM file: an image, its pixels and metadata, or a structure set.

    file ──> scan ──> Header, Image
               └─ not fully understood ──> fallback (pydicom) ──> the same, or an error

header         `Header` and `Image`, the listed elements, and the checks of their values
scan           the fast path: uncompressed, little-endian files
fallback       every other file, read by pydicom
groups         functional groups: what enhanced files say of each frame
structure_set  RT structure sets: ROIs and contours

Pixels are *stored values*: the numbers in the file, with unused high bits cleared or
sign-extended, and no further change. `Header.value_map` maps them to image values.

Most files are uncompressed and little-endian; the fast path reads those 15 times as
fast as pydicom. The fallback reads all others and raises nearly all errors. Compressed
pixels are decoded by processes of their own (`fastseg.codecs`), as a damaged file can
end the process that decodes it.
"""

import os
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol, cast

from numpy.typing import NDArray

from fastseg.bounds import MAX_DECODE_SECONDS, MAX_HEADER_BYTES, MAX_PIXEL_BYTES
from fastseg.calls import check_call
from fastseg.codecs.pool import Pool, check_timeout
from fastseg.dicom import scan
from fastseg.dicom.header import (
    HEADER_ELEMENTS,
    PIXEL_ELEMENTS,
    Header,
    Image,
    check_frame,
    check_frames,
    check_request,
)
from fastseg.dicom.scan import (
    INSTANCE,
    TEMPORAL_POSITION,
    TRIGGER_TIME,
    UNKNOWN,
    WINDOW_CENTRE,
    WINDOW_WIDTH,
    HeaderScans,
    X,
    Y,
    Z,
    header_arrays,
    note_headers,
    read_headers,
    scan_headers,
    stored_range,
)
from fastseg.errors import DicomError, OptionError, shown, whole_number
from fastseg.files import open_regular
from fastseg.paths import path_text

__all__ = [
    "HEADER_ELEMENTS",
    "INSTANCE",
    "PIXEL_ELEMENTS",
    "TEMPORAL_POSITION",
    "TRIGGER_TIME",
    "UNKNOWN",
    "WINDOW_CENTRE",
    "WINDOW_WIDTH",
    "Header",
    "HeaderScans",
    "Image",
    "ParsedFile",
    "X",
    "Y",
    "Z",
    "check_request",
    "decode",
    "header_arrays",
    "is_dicom",
    "note_headers",
    "parse",
    "read_frame_headers",
    "read_header",
    "read_headers",
    "read_image",
    "scan_headers",
    "stored_range",
]

# The first bytes of a file without a preamble: a tag, its VR or none, and its length.
# In a big-endian file, each number is the other way round.
BARE = re.compile(
    rb"\x02\x00\x00\x00UL\x04\x00"
    rb"|\x08\x00\x00\x00(UL\x04\x00|\x04\x00\x00\x00)"
    rb"|\x08\x00[\x01\x05\x08\x12-\x18]\x00([A-Z]{2}|[\x00-\x40]\x00\x00\x00)"
    rb"|\x00\x08\x00[\x00\x01\x05\x08\x12-\x18][A-Z]{2}"
)
# In bytes. Reading a whole file up to this size takes less time than to scan its
# header first and then read one frame.
SMALL_FILE = 2**20


class ParsedFile(Protocol):
    """The content of an image file."""

    @property
    def header(self) -> Header:
        """The checked header of the first frame."""

    def header_of(self, frame: int, /) -> Header:
        """Return the header of a frame, counted from 0, or raise DicomError."""

    def read(self, frame: int) -> Image:
        """Return one frame, counted from 0, or raise DicomError, MissingExtraError."""

    def start(self, frame: int, decoders: Pool, /) -> Callable[[], NDArray[Any]]:
        """Start to read a frame; return a function that gives its pixels.

        They are not a view of the file's bytes. Both raise the same errors as `read`.
        """


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is DICOM by its first 132 bytes, whatever its name is.

    Without a preamble, it must begin as datasets do: with an element of the file meta
    group, or with one of the first ones of group 0008. Raises OSError if the file
    cannot be read.
    """
    with open_regular(path) as file:
        head = file.read(132)
    return head[128:] == b"DICM" or BARE.match(head) is not None


@check_call()
def read_header(path: str | os.PathLike[str], frame: int = 0) -> Header:
    """Read the metadata of one frame (counted from 0) without its pixels.

    Raises DicomError unless the header is that of a valid grey-scale image and the
    frame exists, OSError if the file cannot be opened, OptionError.
    """
    path = path_text("path", path)
    if type(frame) is not int:
        frame = whole_number("frame", frame, 0)
    with open_regular(path) as file:
        header = scan.read_header(file)
        if header is None:
            file.seek(0)
            return cast(Header, _fallback().read_header(file, path, frame))
    check_frame(header, frame, path)
    return header


@check_call()
def read_frame_headers(path: str | os.PathLike[str]) -> tuple[Header, ...]:
    """Read the metadata of each frame of an image file without its pixels.

    Without functional groups, all frames have the same header. Raises DicomError unless
    the headers are those of a valid grey-scale image of at most `bounds.MAX_FRAMES`
    frames, OSError if the file cannot be opened.
    """
    path = path_text("path", path)
    with open_regular(path) as file:
        header = scan.read_header(file)
        if header is None:
            file.seek(0)
            return tuple(_fallback().read_frame_headers(file, path))
    check_frames(header, path)
    return (header,) * header.frames


@check_call()
def read_image(
    path: str | os.PathLike[str],
    frame: int = 0,
    *,
    max_pixel_bytes: int = MAX_PIXEL_BYTES,
    decode_timeout: float = MAX_DECODE_SECONDS,
) -> Image:
    """Read one frame (counted from 0) of an image file.

    max_pixel_bytes : limit on the pixels of all frames together; the size that the
        header announces is checked before any pixels are read
    decode_timeout : seconds that decoding a compressed frame may take

    Raises DicomError unless the file is a valid grey-scale image, MissingExtraError
    if its decoder is not installed, OSError if the file cannot be opened,
    DecoderStartError if no process can be started for a decoder, OptionError.
    """
    name = path = path_text("path", path)
    frame, max_pixel_bytes = _check_options(frame, max_pixel_bytes)
    with open_regular(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size > SMALL_FILE:
            image = scan.read_image(file, name, frame, max_pixel_bytes)
            if image is not None:
                return image
            if size > max_pixel_bytes + MAX_HEADER_BYTES:
                raise DicomError(
                    f"{name}: is {size} bytes long, over the limit of "
                    f"{max_pixel_bytes} for pixels and {MAX_HEADER_BYTES} for "
                    "everything else; raise max_pixel_bytes if the file is valid"
                )
            file.seek(0)
            data = file.readall()
        else:
            data = file.read(size)
    return decode(
        data,
        name,
        frame,
        max_pixel_bytes=max_pixel_bytes,
        decode_timeout=decode_timeout,
    )


@check_call()
def decode(
    data: bytes,
    name: str,
    frame: int = 0,
    *,
    max_pixel_bytes: int = MAX_PIXEL_BYTES,
    decode_timeout: float = MAX_DECODE_SECONDS,
) -> Image:
    """Read one frame (counted from 0) of an image file's bytes.

    name : name of the file in messages

    If possible, the pixels are a read-only view of `data`. Raises the same errors as
    `read_image`, except OSError.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise OptionError(
            f"data is {shown(data)}, expected the bytes of a file; read_image takes "
            "its path"
        )
    frame, max_pixel_bytes = _check_options(frame, max_pixel_bytes)
    file = parse(data, name, max_pixel_bytes, decode_timeout)
    check_request(file.header, frame, max_pixel_bytes, name)
    return file.read(frame)


def parse(
    data: bytes,
    name: str,
    max_pixel_bytes: int,
    decode_timeout: float = MAX_DECODE_SECONDS,
) -> ParsedFile:
    """Return the checked header of a file's bytes, and what reads its frames.

    name           : name of the file in messages
    decode_timeout : seconds that decoding a compressed frame may take

    Raises DicomError unless the header is that of a valid grey-scale image, and
    OptionError. Call `check_request` before `read` or `start`.
    """
    timeout = check_timeout(decode_timeout)
    return scan.parse(data) or _fallback().parse(data, name, max_pixel_bytes, timeout)


def _check_options(frame: int, max_pixel_bytes: int) -> tuple[int, int]:
    """Return both as ints, or raise OptionError; `check_request` checks the frame."""
    if type(frame) is not int:
        frame = whole_number("frame", frame, 0)
    return frame, whole_number("max_pixel_bytes", max_pixel_bytes, 1)


def _fallback() -> ModuleType:
    # Most programs never need pydicom, and its import takes 0.2 s.
    from fastseg.dicom import fallback

    return fallback
