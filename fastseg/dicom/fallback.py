"""The fallback: pydicom reads every file that `scan` does not fully understand."""

import logging
import os
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BufferedReader, BytesIO, FileIO
from math import inf
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset, read_partial, read_preamble
from pydicom.pixels import get_decoder, pixel_array
from pydicom.pixels.decoders.base import Decoder
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    ParametricMapStorage,
    SegmentationStorage,
    UID_dictionary,
)

from fastseg._kernels.files.elements import find_sequences
from fastseg.bounds import (
    MAX_DECODE_SECONDS,
    MAX_ELEMENTS,
    MAX_HEADER_BYTES,
    MAX_VALUE_BYTES,
)
from fastseg.codecs import pool
from fastseg.codecs.codestream import (
    LOSSLESS,
    CodedFrame,
    check_fragments,
    check_stream,
    needs_libjpeg,
)
from fastseg.codecs.pool import Pool
from fastseg.dicom import groups
from fastseg.dicom.header import (
    HEADER_ELEMENTS,
    ITEM,
    PIXEL_ELEMENTS,
    Header,
    Image,
    check_frame,
    check_frames,
    check_grey,
    check_groups,
    check_header,
    check_request,
    describe,
    is_padded,
    is_uid,
    value_error,
)
from fastseg.dicom.scan import clear_unused_bits
from fastseg.errors import DicomError, FastsegError, NoImageError, missing_extra

# The tags of pixels that are numbers with a point, and of any pixels.
FLOAT_PIXELS = tuple(
    PIXEL_ELEMENTS[keyword][0] for keyword in ("FloatPixelData", "DoubleFloatPixelData")
)
ANY_PIXELS = (*FLOAT_PIXELS, PIXEL_ELEMENTS["PixelData"][0])
# How elements begin that may be long, in either byte order: those of the pixels' group,
# and functional groups.
PIXEL_GROUPS = (b"\xe0\x7f", b"\x7f\xe0")
FUNCTIONAL_GROUPS = (
    *(b"\x00\x52\x29\x92", b"\x00\x52\x30\x92"),
    *(b"\x52\x00\x92\x29", b"\x52\x00\x92\x30"),
)
# `catch_warnings` changes and restores state of the whole process.
_WARNINGS_LOCK = threading.RLock()
_LOGGER = logging.getLogger("pydicom")
# Bytes that are read or inflated at a time.
PIECE_BYTES = 2**20
# Sequences of undefined length whose end is found before pydicom reads a file.
MOST_SEQUENCES = 2**10
# Put before an inflated dataset: a preamble and the shortest file meta group that
# declares the dataset explicit and little-endian.
INFLATED_HEAD = (
    bytes(128)
    + b"DICM\2\0\0\0UL\4\0\x1c\0\0\0"
    + b"\2\0\x10\0UI\x14\0"
    + ExplicitVRLittleEndian.encode()
    + b"\0"
)


def read_header(raw: FileIO, name: str, frame: int = 0) -> Header:
    """Read the metadata of a frame of an open file without its pixels.

    Raises DicomError unless the header is that of a valid grey-scale image, and the
    frame exists.
    """
    with BufferedReader(raw) as file:
        headers = _Headers(_parse(file, name, None), name)
    check_frame(headers.first, frame, name)
    return headers.of(frame)


def read_frame_headers(raw: FileIO, name: str) -> Iterator[Header]:
    """Read the metadata of an open file; yield the header of each frame.

    Raises the same errors as `read_header`.
    """
    with BufferedReader(raw) as file:
        headers = _Headers(_parse(file, name, None), name)
    check_frames(headers.first, name)
    return map(headers.of, range(headers.first.frames))


class _Headers:
    """The headers of the frames of a dataset, checked.

    first : that of the first frame

    Raises DicomError for an invalid one.
    """

    def __init__(self, dataset: Any, name: str):
        self._dataset = dataset
        self._name = name
        self._values: dict[str, Any] = {}
        with pydicom_failures(name):
            self._groups = groups.read_groups(dataset, name)
        self.first = self._read(0)
        check_groups(self._groups.frames, self.first, name)
        with pydicom_failures(name):
            groups.check_rescale(self._groups, self._get, self.first, name)

    def of(self, frame: int) -> Header:
        """Return the header of a frame, which must exist."""
        return self._read(frame) if frame and self._groups.frames else self.first

    def _read(self, frame: int) -> Header:
        with pydicom_failures(self._name):
            return check_header(self._get, self._name, self._groups.values(frame))

    def _get(self, keyword: str) -> Any:
        if keyword not in self._values:
            self._values[keyword] = _value(self._dataset, keyword, self._name)
        return self._values[keyword]


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """The content of a file as pydicom parses it.

    name           : of the file in messages
    decode_timeout : seconds that decoding one frame may take
    """

    dataset: Any
    headers: _Headers
    name: str
    is_compressed: bool
    decode_timeout: float

    @property
    def header(self) -> Header:
        """The header of the first frame."""
        return self.headers.first

    def header_of(self, frame: int) -> Header:
        """Return the header of one frame, which must exist, or raise DicomError."""
        return self.headers.of(frame)

    def read(self, frame: int) -> Image:
        """Return one frame, which must exist.

        Raises DicomError unless its pixels are valid, MissingExtraError if their
        decoder is not installed, DecoderStartError.
        """
        self._require_pixels()
        header = self.header_of(frame)
        if not self.is_compressed:
            return Image(self._uncompressed(frame), header)
        coded = self._coded_frame(frame)
        pixels = pool.DEFAULT.decode(coded, self.name, self.decode_timeout)
        return Image(_as_image(pixels, coded.syntax, header), header)

    def start(self, frame: int, decoders: Pool) -> Callable[[], NDArray[Any]]:
        """Start to read one frame; call what is returned for its pixels.

        They are not a view of the file. Both raise the same errors as `read`.
        """
        self._require_pixels()
        if not self.is_compressed:
            pixels = self._uncompressed(frame).copy()
            return lambda: pixels
        # What is returned must not keep the whole file in memory.
        coded, header = self._coded_frame(frame), self.header
        syntax = coded.syntax
        decoding = decoders.start(coded, self.name, self.decode_timeout)
        return lambda: _as_image(decoding.result(), syntax, header)

    def _require_pixels(self) -> None:
        """Raise DicomError if the file has no pixels that can be used."""
        dataset, name = self.dataset, self.name
        with pydicom_failures(name):
            has_pixels = bool(dataset.get("PixelData"))
        if not has_pixels:
            raise DicomError(f"{name}: has no pixel data; it is damaged or no image")

    def _uncompressed(self, frame: int) -> NDArray[Any]:
        header, name = self.header, self.name
        with pydicom_failures(name, quotes=True):
            element = self.dataset["PixelData"]
            element.value = _without_padding(
                element.value, bool(element.is_undefined_length), header, name
            )
            self.dataset.NumberOfFrames = header.frames  # pydicom takes no blanks
            pixels = pixel_array(self.dataset, raw=True, index=frame)
        if pixels.shape != (header.rows, header.columns):
            raise DicomError(
                f"{name}: decodes to shape {pixels.shape}, its header says "
                f"{(header.rows, header.columns)}"
            )
        return np.ascontiguousarray(pixels, dtype=header.dtype)

    def _coded_frame(self, frame: int) -> CodedFrame:
        """Return a frame of compressed pixels, its size checked."""
        dataset, header, name = self.dataset, self.header, self.name
        with pydicom_failures(name, quotes=True):
            syntax = dataset.file_meta.TransferSyntaxUID
            decoder = _decoder(syntax, name)
            tables = [
                dataset.get(keyword)
                for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
            ]
            data = get_frame(
                dataset.PixelData,
                frame,
                number_of_frames=header.frames,
                extended_offsets=(tables[0], tables[1]) if all(tables) else None,
            )
        coded = CodedFrame(
            data=data,
            syntax=str(syntax),
            rows=header.rows,
            columns=header.columns,
            bits_allocated=8 * header.dtype.itemsize,
            bits_stored=header.bits_stored,
            is_signed=header.dtype.kind == "i",
            photometric=header.photometric,
        )
        check_stream(coded, name)
        if kind := needs_libjpeg(coded):
            if "pylibjpeg" not in decoder.available_plugins:
                raise missing_extra(f"{name}: decoding {kind}", "codecs-gpl")
        elif not decoder.is_available:
            raise missing_extra(f"{name}: decoding {syntax.name}", "codecs")
        return coded


def _as_image(pixels: bytearray, syntax: str, header: Header) -> NDArray[Any]:
    """Return decoded pixels as an array (H, W)."""
    array = np.frombuffer(pixels, header.dtype)
    if syntax in LOSSLESS:
        # Whatever the precision of the code stream: pixels are the same as without
        # compression. What a lossy one has above the stored bits is its error.
        array = clear_unused_bits(array, header.bits_stored)
    return array.reshape(header.rows, header.columns)


def parse(
    data: bytes,
    name: str,
    max_pixel_bytes: int,
    decode_timeout: float = MAX_DECODE_SECONDS,
) -> ParsedFile:
    """Parse a file's bytes.

    decode_timeout : seconds that decoding one frame may take

    Raises DicomError unless the header is that of a valid grey-scale image.
    """
    dataset = _parse(BytesIO(data), name, max_pixel_bytes)
    headers = _Headers(dataset, name)
    with pydicom_failures(name, quotes=True):
        _set_transfer_syntax(dataset)
        is_compressed = bool(dataset.file_meta.TransferSyntaxUID.is_encapsulated)
        if is_compressed:
            check_fragments(dataset.get("PixelData") or b"", headers.first.frames, name)
    return ParsedFile(dataset, headers, name, is_compressed, decode_timeout)


class _Deflated:
    """An inflated file for pydicom, of which no more is inflated than is read.

    file  : the file, at the beginning of its deflated dataset
    limit : bytes to inflate at most
    """

    def __init__(self, file: BinaryIO, name: str, limit: int):
        self._file = file
        self._name = name
        self._limit = limit
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._content = bytearray(INFLATED_HEAD)
        self._position = 0

    def read(self, size: int) -> bytes:
        stop = self._position + size
        self._inflate(stop)
        data = bytes(self._content[self._position : stop])
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (self._position if whence else 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def _inflate(self, size: int) -> None:
        """Inflate until the file has at least this size, or ends."""
        while len(self._content) < size and not self._inflater.eof:
            tail = self._inflater.unconsumed_tail or self._file.read(PIECE_BYTES)
            try:
                self._content += self._inflater.decompress(tail, PIECE_BYTES)
            except zlib.error:
                raise DicomError(
                    f"{self._name}: its deflated data are damaged"
                ) from None
            if not tail and not self._inflater.eof:
                raise DicomError(
                    f"{self._name}: its deflated data end too early; it is truncated"
                )
            if len(self._content) > self._limit:
                raise DicomError(
                    f"{self._name}: inflates to more than {self._limit} bytes, which "
                    "is more than a header and the pixels that it announces"
                )


class _Bounded:
    """A file for pydicom: it allocates nothing for false lengths, and ends in time.

    file    : what is read
    size    : of the file, None if only reading shows it
    lengths : true lengths of sequences, by the offset of the four bytes that give an
        undefined one. pydicom then skips a sequence instead of parsing it, which takes
        15 us for each element
    header_only : whether the pixels are not read
    """

    def __init__(
        self,
        file: Any,
        size: int | None,
        name: str,
        lengths: dict[int, int],
        header_only: bool,
    ):
        self._file = file
        self._size = size
        self._name = name
        self._lengths = lengths
        self._header_only = header_only
        self._elements = 0
        self._most: float = MAX_VALUE_BYTES  # bytes of the value of this element
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        start = self._file.tell()
        if size > self._most:
            raise DicomError(
                f"{self._name}: has a value of {size} bytes in its header, expected at "
                f"most {self._most}"
            )
        if self._size is not None:
            size = min(size, max(self._size - start, 0))
        data: bytes = self._file.read(size)
        if size == 8:  # tag, VR and length of an element
            self._count(start)
            self._most = MAX_VALUE_BYTES
            if data[:2] in PIXEL_GROUPS:
                self._most = inf
            elif data[:4] in FUNCTIONAL_GROUPS:
                self._most = MAX_HEADER_BYTES
            if start + 4 in self._lengths:
                return data[:4] + self._lengths[start + 4].to_bytes(4, "little")
        elif size == 4 and start in self._lengths:
            return self._lengths[start].to_bytes(4, "little")
        return data

    def _count(self, position: int) -> None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            raise DicomError(
                f"{self._name}: has more than {MAX_ELEMENTS} elements in its header"
            )
        if self._header_only and position > MAX_HEADER_BYTES:
            raise DicomError(
                f"{self._name}: has a header of more than {MAX_HEADER_BYTES} bytes"
            )


def _parse(file: BinaryIO, name: str, max_pixel_bytes: int | None) -> Any:
    """Return the listed elements of a file as a dataset of pydicom.

    max_pixel_bytes : None to stop before the pixels
    """
    file.seek(0)
    head = file.read(132)
    if not head:
        raise DicomError(f"{name}: is empty")
    if not any(head):
        # Such as a file that was allocated and never written. pydicom would read it as
        # empty elements of eight zeros each, for minutes.
        raise DicomError(f"{name}: begins with zeros only; it is damaged or no image")
    header_only = max_pixel_bytes is None
    elements = HEADER_ELEMENTS if header_only else HEADER_ELEMENTS | PIXEL_ELEMENTS
    size: int | None = file.seek(0, os.SEEK_END)
    with pydicom_failures(name):
        syntax, start = _read_meta(_Bounded(file, size, name, {}, True), name)
        source: Any = file
        if syntax == DeflatedExplicitVRLittleEndian:
            limit = MAX_HEADER_BYTES
            if max_pixel_bytes is not None:
                # The header says how much there is to inflate.
                header = _Headers(_parse(file, name, None), name).first
                check_request(header, 0, max_pixel_bytes, name)
                limit += header.pixel_bytes
            file.seek(start)
            source, size, start = _Deflated(file, name, limit), None, len(INFLATED_HEAD)
        lengths = _sequence_lengths(source, size, start, syntax)
        source.seek(0)
        # The elements of pixels in the file, of which a header needs no more.
        pixel_tags: list[int] = []

        def is_end(tag: int, vr: str | None, length: int) -> bool:
            if tag in ANY_PIXELS:
                pixel_tags.append(tag)
            return header_only and tag in ANY_PIXELS

        dataset = read_partial(
            _Bounded(source, size, name, lengths, header_only),  # type: ignore[arg-type]
            is_end,
            force=True,
            specific_tags=[*map(Tag, elements)],
        )
        _check_kind(dataset, pixel_tags, name)
    if "Rows" not in dataset or "Columns" not in dataset:
        if head[128:] != b"DICM":
            raise DicomError(f"{name}: is not a DICOM file")
        with pydicom_failures(name):
            check_grey(partial(_value, dataset, name=name), name)
        raise DicomError(
            f"{name}: has no Rows and Columns; it is truncated or no image"
        )
    return dataset


def _check_kind(dataset: Any, pixel_tags: list[int], name: str) -> None:
    """Raise DicomError for a file that is known to hold something else than an image.

    pixel_tags : the elements of pixels that the file has

    This comes before any element is missed: a structure set needs no Rows. The class is
    quoted by its name in the standard.
    """
    uids = [
        str(content.get(keyword) or "").strip(" \0")
        for content, keyword in (
            (dataset, "SOPClassUID"),
            (dataset.file_meta, "MediaStorageSOPClassUID"),
        )
    ]
    kind = next((UID(uid).name for uid in uids if uid in UID_dictionary), "")
    if set(pixel_tags) & set(FLOAT_PIXELS):
        problem = f"{name}: floating-point pixel data are not supported"
        if kind == ParametricMapStorage.name:
            raise NoImageError(problem, kind)
        raise DicomError(problem)
    if kind == SegmentationStorage.name:
        raise NoImageError(
            f"{name}: is no image but a DICOM segmentation (SEG), whose pixels are "
            "labels",
            kind,
        )
    if pixel_tags:
        return
    if kind == MediaStorageDirectoryStorage.name:
        raise NoImageError(
            f"{name}: is no image but a DICOMDIR, which lists files", kind
        )
    is_named = any(uid and is_uid(uid) for uid in uids)
    if is_named and not kind and "Rows" not in dataset:
        # Vendors have classes for raw data, such as CSA Non-Image of Siemens.
        raise NoImageError(
            f"{name}: is no image; it is of a class that the standard does not list, "
            "and has neither Rows nor pixel data"
        )
    # An image without pixels is cut, or a header alone.
    if kind and "Image" not in kind:
        raise NoImageError(
            f"{name}: is no image; it is of the class {kind} and has no pixel data",
            kind,
        )


def _read_meta(file: Any, name: str) -> tuple[str, int]:
    """Return the transfer syntax of a file, "" if unknown, and where it applies."""
    file.seek(0)
    read_preamble(file, force=True)
    meta = read_dataset(
        file,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, vr, length: tag >> 16 != 2,
    )
    syntax = str(meta.get("TransferSyntaxUID") or "").strip(" \0")
    if not is_uid(syntax):
        raise DicomError(
            f"{name}: TransferSyntaxUID is {describe(syntax)}, expected a UID"
        )
    return syntax, file.tell()


def _sequence_lengths(
    source: Any, size: int | None, start: int, syntax: str
) -> dict[int, int]:
    """Return the lengths of sequences that do not give theirs, as for `_Bounded`."""
    if syntax in ("", ExplicitVRBigEndian) or (size or PIECE_BYTES) < PIECE_BYTES:
        return {}
    explicit = syntax != ImplicitVRLittleEndian
    spans = np.empty((MOST_SEQUENCES, 2), np.int64)
    amount = PIECE_BYTES
    while amount <= MAX_HEADER_BYTES:
        source.seek(0)
        data = source.read(amount)
        count = find_sequences(np.frombuffer(data, np.uint8), start, explicit, spans)
        if count >= 0 or len(data) < amount:
            break
        amount *= 8
    return dict(spans[: max(count, 0)].tolist())


def _value(dataset: Any, keyword: str, name: str) -> Any:
    """Return the value of an element, None if it is absent, or raise DicomError."""
    raw = dataset.get_item(keyword)
    if raw is None:
        return None
    try:
        return dataset.get(keyword)
    except Exception as exc:
        # pydicom converts a value when it is first read.
        raise value_error(name, keyword, raw.value) from exc


@contextmanager
def pydicom_failures(name: str, *, quotes: bool = False) -> Iterator[None]:
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
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        syntax = ImplicitVRLittleEndian if implicit else explicit
        dataset.file_meta.TransferSyntaxUID = syntax


def _decoder(syntax: Any, name: str) -> Decoder:
    """Return pydicom's decoder of a transfer syntax, or raise DicomError."""
    try:
        return get_decoder(syntax)
    except NotImplementedError:
        raise DicomError(
            f"{name}: transfer syntax {syntax.name} cannot be decoded"
        ) from None


def _without_padding(
    data: bytes, is_undefined: bool, header: Header, name: str
) -> bytes:
    """Return uncompressed pixel data without padding but that to an even length.

    is_undefined : whether the file does not give their length

    Raises DicomError if they are too short, or so long that they must be more than the
    header announces. Zeros are padding, however many they are.
    """
    needed = header.pixel_bytes
    given = len(data)
    even = needed + needed % 2
    has_padding = not is_undefined and is_padded(given, data[:4], header)
    if has_padding or given in (needed, even):
        return data[:even]
    lengths = f"holds {given} bytes of pixel data, its header says {needed}"
    if given < needed:
        raise DicomError(f"{name}: {lengths}; it is truncated or damaged")
    if data[:4] == ITEM or is_undefined:
        raise DicomError(
            f"{name}: {lengths}; they are in items, as compressed pixels are, but its "
            "transfer syntax is one of uncompressed pixels"
        )
    if data.count(0, needed) == given - needed:
        return data[:even]
    raise DicomError(
        f"{name}: {lengths}: {header.frames} frames of {header.rows} x "
        f"{header.columns} in {8 * header.dtype.itemsize} bits. A frame or more is no "
        "padding; correct NumberOfFrames, Rows, Columns or BitsAllocated"
    )
