"""One DICOM file: its pixels and the few facts of its header that matter here.

Pixels are *stored values*: what the file holds, with unused high bits cleared or
sign-extended, and nothing else done to them. `Header.value_map` says what they
mean.

Most files are uncompressed and little-endian: `plain` reads those 15 times as fast
as pydicom. All others, and every error, are the business of `full`, which asks
pydicom.
"""

import os
from io import FileIO
from types import ModuleType

from fastseg.dicom import scan
from fastseg.dicom.header import (
    HEADER_ELEMENTS,
    MAX_OTHER_BYTES,
    MAX_PIXEL_BYTES,
    PIXEL_ELEMENTS,
    Header,
    Image,
    check_request,
)
from fastseg.dicom.scan import UNKNOWN, HeaderScan, HeaderScans, scan_headers
from fastseg.errors import DicomError

__all__ = [
    "HEADER_ELEMENTS",
    "MAX_OTHER_BYTES",
    "MAX_PIXEL_BYTES",
    "PIXEL_ELEMENTS",
    "UNKNOWN",
    "Header",
    "HeaderScan",
    "HeaderScans",
    "Image",
    "check_request",
    "decode",
    "read_header",
    "read_image",
    "scan_headers",
]

# Below this many bytes, reading a whole file takes less time than looking first
# which part of it is needed.
SMALL_FILE = 2**20


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read the listed facts of an image file without its pixels.

    Raises DicomError for anything but a sound grey-scale header, OSError where the
    file cannot be opened.
    """
    with FileIO(path) as file:
        header = scan.read_header(file)
        if header is None:
            file.seek(0)
            header = _full().read_header(file, str(path))
    return header


def read_image(
    path: str | os.PathLike[str],
    frame: int = 0,
    *,
    max_pixel_bytes: int = MAX_PIXEL_BYTES,
) -> Image:
    """Read one frame (counted from 0) of an image file.

    max_pixel_bytes : what the pixels of all frames may take; compared with what the
        header promises before any are read

    Raises DicomError for anything but a sound grey-scale image, MissingExtraError
    where a decoder is not installed, OSError where the file cannot be opened.
    """
    name = str(path)
    with FileIO(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > SMALL_FILE:
            image = scan.read_image(file, name, frame, max_pixel_bytes)
            if image is not None:
                return image
            if size > max_pixel_bytes + MAX_OTHER_BYTES:
                raise DicomError(
                    f"{name}: is {size} bytes long, over the limit of "
                    f"{max_pixel_bytes} for pixels and {MAX_OTHER_BYTES} for all "
                    "else; raise max_pixel_bytes if the file is sound"
                )
            file.seek(0)
            data = file.readall()
        else:
            data = file.read(size)
    return decode(data, name, frame, max_pixel_bytes=max_pixel_bytes)


def decode(
    data: bytes,
    name: str,
    frame: int = 0,
    *,
    max_pixel_bytes: int = MAX_PIXEL_BYTES,
    start: HeaderScan | None = None,
) -> Image:
    """Read one frame (counted from 0) of an image file's bytes.

    name  : of the file, for messages
    start : how the very same bytes start, where that is known

    The pixels are a read-only view of `data` where that can be. Raises as
    `read_image` does, but no OSError.
    """
    image = scan.decode(data, name, frame, max_pixel_bytes, start)
    if image is None:
        image = _full().decode(data, name, frame, max_pixel_bytes)
    return image


def _full() -> ModuleType:
    # Most programs never need pydicom, and importing it takes 0.2 s.
    from fastseg.dicom import fallback

    return fallback
