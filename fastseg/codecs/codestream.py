"""The size that a code stream gives itself, compared with the header of its file.

A decoder allocates what the stream says: 560 bytes of JPEG 2000 can ask for 20 GB.
"""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from struct import Struct, error, unpack_from
from typing import NamedTuple

from fastseg.bounds import MAX_FRAGMENTS, MAX_SEGMENTS, MIN_TILE_SIDE
from fastseg.errors import DicomError

# Transfer syntaxes by the form of their code streams.
JPEG = tuple(f"1.2.840.10008.1.2.4.{k}" for k in (50, 51, 57, 70))
JPEG_LS = tuple(f"1.2.840.10008.1.2.4.{k}" for k in (80, 81))
JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{k}" for k in (90, 91, 201, 202, 203))
RLE = ("1.2.840.10008.1.2.5",)
# Those without loss of which pydicom leaves the bits above the stored ones as they are.
LOSSLESS = (JPEG_LS[0], JPEG_2000[0], *JPEG_2000[2:4])
JPEG_EXTENDED = JPEG[1]
JPEG_LS_LOSSY = JPEG_LS[1]

SOI, EOI, SOS, LSE = 0xD8, 0xD9, 0xDA, 0xF8
END_OF_IMAGE = b"\xff\xd9"
# A marker of JPEG follows one byte of 255 or more.
FILL = re.compile(b"\xff+")
# Markers of JPEG that have no length: TEM and RST0 to RST7.
WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD8))
# Start of frame of JPEG: all of SOF0 to SOF15 but DHT, JPG and DAC.
FRAMES = tuple(k for k in range(0xC0, 0xD0) if k not in (0xC4, 0xC8, 0xCC))
JPEG_LS_FRAME = 0xF7
# Precision; rows; columns; components.
FRAME_HEADER = Struct(">BHHB")
# Markers SOC and SIZ; length; capabilities; size, offset of the image, size and offset
# of its tiles, each (x, y); components.
SIZ = Struct(">HHHHIIIIIIIIH")
SOC_SIZ = 0xFF4F, 0xFF51
JP2_BEGIN = b"\0\0\0\x0cjP  \r\n\x87\n"
RLE_HEADER = 64


class CodedFrame(NamedTuple):
    """One compressed frame, and what the header of its file says about it.

    data   : its code stream
    syntax : UID of the transfer syntax
    photometric : PhotometricInterpretation
    """

    data: bytes
    syntax: str
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    is_signed: bool
    photometric: str

    @property
    def pixel_bytes(self) -> int:
        """Size of the decoded pixels, in bytes."""
        return self.rows * self.columns * self.bits_allocated // 8


class _Size(NamedTuple):
    rows: int
    columns: int
    components: int
    precision: int


def check_stream(frame: CodedFrame, name: str) -> None:
    """Raise DicomError unless a code stream has the size that its header announces.

    name : name of the file in messages
    """
    try:
        if frame.syntax in RLE:
            _check_segments(frame)
            return
        size = _read_size(frame)
    except (_StreamError, error, IndexError) as exc:
        reason = str(exc) if isinstance(exc, _StreamError) else "its header is cut"
        raise DicomError(f"{name}: its code stream is damaged: {reason}") from None
    expected = (frame.rows, frame.columns)
    if (size.rows, size.columns) != expected:
        raise DicomError(
            f"{name}: its code stream is of {size.rows} x {size.columns} pixels, its "
            f"header says {frame.rows} x {frame.columns}; it is damaged"
        )
    if size.components != 1:
        raise DicomError(
            f"{name}: its code stream has {size.components} components, its header "
            "says 1; it is damaged"
        )
    if not 0 < size.precision <= frame.bits_allocated:
        raise DicomError(
            f"{name}: its code stream has values of {size.precision} bits, its header "
            f"allocates {frame.bits_allocated}; it is damaged"
        )
    # libjpeg fills what is cut off with zeros, without a word. One byte may follow for
    # an even length; some writers add more.
    if needs_libjpeg(frame) and not frame.data.rstrip(b"\0").endswith(END_OF_IMAGE):
        raise DicomError(f"{name}: its code stream has no end; it is truncated")


def needs_libjpeg(frame: CodedFrame) -> str:
    """Return what a code stream is, in words, if GDCM cannot read it but libjpeg can.

    frame : one that `check_stream` accepts

    Returns "" for all others.
    """
    if frame.syntax not in (JPEG_EXTENDED, *JPEG_LS):
        return ""
    bits = _read_size(frame).precision
    stored = frame.bits_stored
    if frame.syntax == JPEG_EXTENDED:
        return "" if bits == stored == 8 else f"JPEG Extended with {bits} bits"
    is_lossy = frame.syntax == JPEG_LS_LOSSY
    is_short = bits < 8 or (frame.is_signed and stored < 8)
    if {6, 7} & {bits, stored} or (is_lossy and is_short):
        return f"JPEG-LS with {min(bits, stored)} bits"
    return ""


def check_fragments(data: bytes, frames: int, name: str) -> None:
    """Raise DicomError unless compressed pixels may hold a number of frames.

    data : the value of PixelData: items, the first of them the offset table

    A frame has one fragment or more. More fragments than any real file has are refused
    too: finding a frame takes a microsecond for each.
    """
    offset = count = 0
    listed = int.from_bytes(data[4:8], "little") // 4
    while data[offset : offset + 4] == b"\xfe\xff\x00\xe0":
        offset += 8 + int.from_bytes(data[offset + 4 : offset + 8], "little")
        count += 1
        if count > MAX_FRAGMENTS + 1:
            raise DicomError(
                f"{name}: its pixels are in more than {MAX_FRAGMENTS} fragments; it is "
                "damaged"
            )
    if 0 < count <= frames or (count and listed not in (0, frames)):
        raise DicomError(
            f"{name}: its compressed pixels are {count - 1} fragments, {listed} frames "
            f"in their offset table, and its header says {frames} frames; correct "
            "NumberOfFrames, or get the file again"
        )


def _read_size(frame: CodedFrame) -> _Size:
    """Return the size that a code stream gives; it is no RLE."""
    readers: dict[tuple[str, ...], Callable[[bytes], _Size]] = {
        JPEG: _jpeg_size,
        JPEG_LS: _jpeg_ls_size,
        JPEG_2000: _jpeg_2000_size,
    }
    (read,) = (read for syntaxes, read in readers.items() if frame.syntax in syntaxes)
    return read(frame.data)


class _StreamError(Exception):
    """A code stream does not have the form that its standard prescribes."""


def _jpeg_size(data: bytes) -> _Size:
    sizes = [
        FRAME_HEADER.unpack_from(data, offset)
        for marker, offset, _ in _segments(data)
        if marker in FRAMES
    ]
    return _one_size(sizes)


def _jpeg_ls_size(data: bytes) -> _Size:
    sizes = []
    extended = []
    for marker, offset, length in _segments(data):
        if marker == JPEG_LS_FRAME:
            sizes.append(FRAME_HEADER.unpack_from(data, offset))
        elif marker == LSE and data[offset] == 4:
            # Sizes over 65 535 (ISO 14495-1, C.2.4.1.4): bytes of a number, rows,
            # columns. The frame then has 0 rows or columns.
            width = data[offset + 1]
            if length != 2 + 2 * width or not 2 <= width <= 4:
                raise _StreamError("its extended size has another length")
            numbers = data[offset + 2 : offset + length]
            extended.append(
                [int.from_bytes(numbers[k : k + width], "big") for k in (0, width)]
            )
    size = _one_size(sizes)
    if not extended:
        return size
    (rows, columns), *more = extended
    given = size.rows or rows, size.columns or columns
    if more or given != (rows, columns):
        raise _StreamError("it gives several sizes")
    return size._replace(rows=rows, columns=columns)


def _one_size(sizes: list[tuple[int, int, int, int]]) -> _Size:
    if len(sizes) != 1:
        raise _StreamError(f"it has {len(sizes)} frame headers, expected 1")
    precision, rows, columns, components = sizes[0]
    return _Size(rows, columns, components, precision)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, offset, length) of the segments of JPEG before the first scan.

    offset, length : of a segment's bytes behind its own length
    """
    if data[:2] != b"\xff\xd8":
        raise _StreamError("it does not begin as JPEG")
    offset = 2
    for _ in range(MAX_SEGMENTS):
        fill = FILL.match(data, offset)
        if not fill:
            raise _StreamError("a marker is missing in its header")
        offset = fill.end()
        marker = data[offset]
        offset += 1
        if marker == SOS:
            return
        if marker in (SOI, EOI, 0):
            raise _StreamError("its header ends before its frame")
        if marker in WITHOUT_LENGTH:
            continue
        (length,) = unpack_from(">H", data, offset)
        if length < 2:
            raise _StreamError("a segment of its header has no length")
        yield marker, offset + 2, length - 2
        offset += length
        if offset >= len(data):
            raise _StreamError("its header is cut")
    raise _StreamError(f"its header has more than {MAX_SEGMENTS} segments")


def _jpeg_2000_size(data: bytes) -> _Size:
    start = _codestream_offset(data) if data.startswith(JP2_BEGIN) else 0
    soc, siz, length, _, *numbers, components = SIZ.unpack_from(data, start)
    if (soc, siz) != SOC_SIZ:
        raise _StreamError("it does not begin as JPEG 2000")
    if length != 38 + 3 * components or not components:
        raise _StreamError("its header has another length")
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top = numbers
    depth, step_x, step_y = unpack_from(">BBB", data, start + SIZ.size)
    if (step_x, step_y) != (1, 1):
        raise _StreamError("its pixels are subsampled")
    for low, high, tile, first in (
        (left, right, tile_width, tile_left),
        (top, bottom, tile_height, tile_top),
    ):
        if low >= high or not first <= low < first + tile:
            raise _StreamError("its image or tiles hold no pixel")
        if tile < MIN_TILE_SIDE and first + tile < high:
            raise _StreamError(f"it has tiles of {tile} pixels a side")
    return _Size(bottom - top, right - left, components, (depth & 0x7F) + 1)


def _codestream_offset(data: bytes) -> int:
    """Return the offset of the code stream in the boxes of a JP2 file."""
    offset = 0
    for _ in range(MAX_SEGMENTS):
        length, kind = unpack_from(">I4s", data, offset)
        head = 8
        if length == 1:
            (length,) = unpack_from(">Q", data, offset + 8)
            head = 16
        if kind == b"jp2c":
            return offset + head
        if length < head:
            raise _StreamError("a box of its header has no length")
        offset += length
        # A length may have 64 bits, which is no offset for `unpack_from`.
        if offset >= len(data):
            raise _StreamError("its header is cut")
    raise _StreamError(f"its header has more than {MAX_SEGMENTS} boxes")


def _check_segments(frame: CodedFrame) -> None:
    """Check the header of an RLE frame (PS3.5 G.5)."""
    data = frame.data
    (count,) = unpack_from("<I", data)
    expected = frame.bits_allocated // 8
    if count != expected:
        raise _StreamError(f"it has {count} segments, expected {expected}")
    offsets = [*unpack_from(f"<{count}I", data, 4), len(data)]
    # The worst encoding writes a byte before each byte; a real one, before each 128.
    longest = 2 * frame.rows * frame.columns + RLE_HEADER
    begin = RLE_HEADER
    for start, stop in pairwise(offsets):
        if not begin <= start < stop or stop - start > longest:
            raise _StreamError("its segments do not lie one after the other")
        begin = stop
