"""The fallback: pydicom reads every file that `scan` does not fully understand."""

import logging
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO, FileIO
from typing import Any, BinaryIO

import numpy as np
import pydicom
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from fastseg.bounds import MAX_HEADER_BYTES, MAX_PIXEL_BYTES
from fastseg.dicom.header import (
    HEADER_ELEMENTS,
    PIXEL_ELEMENTS,
    Header,
    Image,
    check_header,
    describe,
    is_uid,
    value_error,
)
from fastseg.errors import DicomError, FastsegError, missing_extra

# `catch_warnings` changes and restores state of the whole process.
_WARNINGS_LOCK = threading.RLock()
_LOGGER = logging.getLogger("pydicom")
# Put before an inflated dataset: a preamble and the shortest file meta group that
# declares the dataset explicit and little-endian.
INFLATED_HEAD = (
    bytes(128)
    + b"DICM\2\0\0\0UL\4\0\x1c\0\0\0"
    + b"\2\0\x10\0UI\x14\0"
    + ExplicitVRLittleEndian.encode()
    + b"\0"
)


def read_header(raw: FileIO, name: str) -> Header:
    """Read the metadata of an open file without its pixels.

    Raises DicomError unless the header is that of a valid grey-scale image.
    """
    with _File(raw) as file:
        limit = MAX_PIXEL_BYTES + MAX_HEADER_BYTES
        dataset = _parse(file, name, HEADER_ELEMENTS, limit, stop_before_pixels=True)
    return _header(dataset, name)


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """The content of a file as pydicom parses it; `name` names it in messages."""

    dataset: Any
    header: Header
    name: str

    def read(self, frame: int) -> Image:
        """Return one frame, which must exist.

        Raises DicomError unless its pixels are valid, MissingExtraError if their
        decoder is not installed.
        """
        dataset, header, name = self.dataset, self.header, self.name
        with _pydicom_failures(name):
            has_pixels = bool(dataset.get("PixelData"))
        if not has_pixels:
            if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
                raise DicomError(f"{name}: floating-point pixel data are not supported")
            raise DicomError(f"{name}: has no pixel data; it is damaged or no image")
        with _pydicom_failures(name, quotes=True):
            _set_transfer_syntax(dataset)
            syntax = dataset.file_meta.TransferSyntaxUID
            if syntax.is_encapsulated:
                _require_decoder(syntax, name)
            else:
                _check_length(len(dataset.PixelData), header.pixel_bytes, name)
            pixels = pixel_array(dataset, raw=True, index=frame)
        if pixels.shape != (header.rows, header.columns):
            raise DicomError(
                f"{name}: decodes to shape {pixels.shape}, its header says "
                f"{(header.rows, header.columns)}"
            )
        return Image(np.ascontiguousarray(pixels, dtype=header.dtype), header)


def parse(data: bytes, name: str, max_pixel_bytes: int) -> ParsedFile:
    """Parse a file's bytes.

    Raises DicomError unless the header is that of a valid grey-scale image.
    """
    limit = max_pixel_bytes + MAX_HEADER_BYTES
    dataset = _parse(BytesIO(data), name, HEADER_ELEMENTS | PIXEL_ELEMENTS, limit)
    return ParsedFile(dataset, _header(dataset, name), name)


class _File(BufferedReader):
    """A reader that never requests more bytes than remain in the file.

    pydicom requests the length that an element gives: a damaged length of 4 GB would
    allocate 4 GB.
    """

    def __init__(self, raw: FileIO):
        super().__init__(raw)
        self.size = self.seek(0, 2)
        self.seek(0)

    def read(self, size: int | None = -1) -> bytes:
        remaining = max(self.size - self.tell(), 0)
        if size is None or size < 0:
            return super().read(remaining)
        return super().read(min(size, remaining))


def _parse(
    file: BinaryIO, name: str, elements: dict[str, Any], limit: int, **options: Any
) -> Any:
    head = file.read(132)
    if not head:
        raise DicomError(f"{name}: is empty")
    if not any(head):
        # Such as a file that was allocated and never written. pydicom would read it as
        # empty elements of eight zeros each, for minutes.
        raise DicomError(f"{name}: begins with zeros only; it is damaged or no image")
    with _pydicom_failures(name):
        file = _inflate(file, name, limit)
        file.seek(0)
        dataset = pydicom.dcmread(
            file, force=True, specific_tags=list(elements), **options
        )
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
    if not is_uid(syntax.strip(" \0")):
        raise DicomError(
            f"{name}: TransferSyntaxUID is {describe(syntax)}, expected a UID"
        )
    if "Rows" not in dataset or "Columns" not in dataset:
        if head[128:] != b"DICM":
            raise DicomError(f"{name}: is not a DICOM file")
        raise DicomError(
            f"{name}: has no Rows and Columns; it is truncated or no image"
        )
    return dataset


def _inflate(file: BinaryIO, name: str, limit: int) -> BinaryIO:
    """Return a deflated file uncompressed, and any other file as it is.

    pydicom would inflate without a limit: a 1 MB file can become 1 GB.
    """
    file.seek(0)
    read_preamble(file, force=True)
    meta = read_dataset(
        file,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, vr, length: tag >> 16 != 2,
    )
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return file
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflater.decompress(file.read(), limit + 1)
    if len(data) > limit:
        raise DicomError(
            f"{name}: inflates to more than {limit} bytes; raise max_pixel_bytes if "
            "the file is valid"
        )
    if not inflater.eof:
        raise DicomError(f"{name}: its deflated data end too early; it is truncated")
    return BytesIO(INFLATED_HEAD + data)


def _header(dataset: Any, name: str) -> Header:
    """Return the header of a dataset, checked."""

    def get(keyword: str) -> Any:
        raw = dataset.get_item(keyword)
        if raw is None:
            return None
        try:
            return dataset.get(keyword)
        except Exception as exc:
            # pydicom converts a value when it is first read.
            raise value_error(name, keyword, raw.value) from exc

    with _pydicom_failures(name):
        return check_header(get, name)


@contextmanager
def _pydicom_failures(name: str, *, quotes: bool = False) -> Iterator[None]:
    """Turn any exception, which damaged files make pydicom raise, into a DicomError.

    quotes : whether to quote the exception's text. It may contain any text of the
        header, such as a patient's name in an element for numbers. So this is for
        pixels only, when the header has been checked

    pydicom's warnings and logs quote values, and concern those that fastseg does not
    use or checks itself.
    """
    try:
        with _WARNINGS_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            was_disabled, _LOGGER.disabled = _LOGGER.disabled, True
            try:
                yield
            finally:
                _LOGGER.disabled = was_disabled
    except FastsegError:
        raise
    except Exception as exc:
        text = " ".join(str(exc).split()) if quotes else ""
        text = text or f"pydicom raised {type(exc).__name__}"
        raise DicomError(f"{name}: cannot be read: {text}") from exc


def _set_transfer_syntax(dataset: Any) -> None:
    """Give a file without a file meta group the syntax that pydicom parsed it by."""
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
