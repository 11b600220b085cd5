"""The fast path: reads uncompressed, little-endian files without pydicom.

A *header scan* finds the listed elements before the pixels of a file. It splits them
into *shared headers*, which the files of a series have in common, and *per-file
fields*: InstanceNumber, window, times, position, SOPInstanceUID and FrameOfReferenceUID
(the Sunnybrook data have another one in each file). The pixels start at the *pixel
offset*.

Functions here return exactly what pydicom would. Where that is not certain, because a
file deviates from the standard or holds anything unusual, they return None or UNKNOWN,
and `fallback` reads the file.
"""

import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from io import FileIO
from itertools import pairwise
from math import isnan, nan
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg._kernels.files import content, system
from fastseg._kernels.files.content import HeaderArrays
from fastseg._kernels.files.elements import (
    CHARACTER_SET,
    CUT,
    LONGEST_VALUE,
    PIXEL_DATA,
    vr_code,
)
from fastseg.bounds import MAX_DECIMAL, MAX_UID_BYTES
from fastseg.dicom.header import (
    HEADER_ELEMENTS,
    ITEM,
    PIXEL_ELEMENTS,
    Header,
    Image,
    as_vector,
    check_groups,
    check_header,
    check_request,
    have_pairs,
    is_padded,
    linear_window,
)
from fastseg.errors import DicomError
from fastseg.file_batches import FileBatch

# A header scan reads this many bytes of a file, and the next number if the header is
# longer. Most headers end within the first number, those of CT with private elements
# within the third, nearly all within the last.
SIZES = (2**12, 2**14, 2**16, 2**20)
# Bytes of all listed elements of a file that `scan_headers` keeps, at most; some 500 in
# most files.
VALUE_BYTES = 2**11
# Files that `scan_headers` reads in one call, at most: their arrays take 4 KB each.
MOST_FILES = 2**12
# Bytes of the buffer for the beginnings of many files.
BUFFER_BYTES = 2**20
DECIMAL = re.compile(rb" *[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)? *")
# pydicom compares the integer with a float, which holds 15 digits exactly.
INTEGER = re.compile(rb" *[+-]?[0-9]{1,15}")
CODE = re.compile(rb"[A-Z0-9_]{0,16}")
UID = re.compile(b"[0-9.]{0,%d}" % MAX_UID_BYTES)
# An item of a sequence that holds nothing.
EMPTY_ITEM = ITEM + bytes(4)
# These characters are the same in all character sets, but for the backslash, which
# separates values.
TEXT = re.compile(rb"[ -\[\]-~]*")
# The files of a series have most values in common. Caching single values and whole
# headers halves the 18 µs that a header takes.
cached = lru_cache(512)
# The character sets that pydicom knows (PS3.3 C.12.1.1.2). None of them changes a value
# that is read here, as `TEXT` takes ASCII alone; files with any other set go to the
# fallback.
CHARACTER_SETS = frozenset(
    [b"", b"ISO_IR 192", b"GB18030", b"GBK", b"ISO 2022 GBK"]
    + [b"ISO_IR %d" % k for k in (6, 13, 100, 101, 109, 110, 126, 127)]
    + [b"ISO_IR %d" % k for k in (138, 144, 148, 166)]
    + [b"ISO 2022 IR %d" % k for k in (6, 13, 58, 87, 100, 101, 109, 110, 126)]
    + [b"ISO 2022 IR %d" % k for k in (127, 138, 144, 148, 149, 159, 166)]
)
# The unsigned dtype of each size of a pixel in bytes.
UNSIGNED = {dtype.itemsize: dtype for dtype in map(np.dtype, ("u1", "<u2", "<u4"))}
# `HeaderScans.header_index` of a file that the fallback has to read.
UNKNOWN = -1
# The columns of `HeaderScans.per_file`.
INSTANCE, WINDOW_CENTRE, WINDOW_WIDTH, TEMPORAL_POSITION, TRIGGER_TIME, X, Y, Z = range(
    8
)
COLUMNS = 8


class HeaderScan(NamedTuple):
    """The header scan of one file.

    header       : the whole header
    pixel_offset, pixel_length : of the pixels of all frames, with padding, in bytes
    """

    header: Header
    pixel_offset: int
    pixel_length: int


class _Single(threading.local):
    """Arrays for the header of one file, of each thread."""

    def __init__(self) -> None:
        self.arrays = header_arrays(1, LONGEST_VALUE * len(WANTED))
        self.offsets = np.zeros(1, np.int64)
        self.sizes = np.empty(1, np.int64)


def scan_header(data: bytes) -> HeaderScan | None:
    """Scan the header of one file; None if the fallback has to read it.

    data : the first bytes of the file, or all of them
    """
    if not data:
        return None
    offsets, sizes, arrays = _single.offsets, _single.sizes, _single.arrays
    sizes[0] = len(data)
    # A kernel writes only what is there.
    arrays.per_file.fill(nan)
    arrays.uids.fill(0)
    arrays.irregular[0] = False
    content.note_headers(
        *(np.frombuffer(data, np.uint8), offsets, sizes, 0, 1, WANTED, 0, arrays)
    )
    count = int(arrays.counts[0])
    if count <= 0:
        return None
    elements = arrays.elements[0, :count].tolist()
    _, pixel_offset, pixel_length = elements.pop()
    raw = _raw_values(arrays.values[0], elements)
    texts = [raw.pop(row, b"") for row in PER_FILE]
    try:
        header, function = _header(tuple(raw.items()))
        if arrays.irregular[0]:
            row, uids = _parse_per_file(texts)
        else:
            row = arrays.per_file[0].tolist()
            uids = _as_text(arrays.uids)[:, 0].tolist()
    except (_NotStandardError, DicomError):
        return None  # the fallback finds the reason
    pair = [x for x in row[WINDOW_CENTRE : WINDOW_WIDTH + 1] if not isnan(x)]
    row[WINDOW_CENTRE : WINDOW_WIDTH + 1] = linear_window(pair, function) or (nan, nan)
    if header.frames > 1:
        row[X:] = nan, nan, nan
    return HeaderScan(_with_fields(header, row, uids), pixel_offset, pixel_length)


def _with_fields(header: Header, row: list[float], uids: Sequence[bytes]) -> Header:
    """Return a shared header with the per-file fields of a file.

    row  : of HeaderScans.per_file
    uids : SOPInstanceUID and FrameOfReferenceUID
    """
    instance, centre, width, temporal_position, trigger_time, x, y, z = row
    # In the order of Header.
    fields = (
        None if isnan(instance) else int(instance),
        None if isnan(width) else (centre, width),
        None if isnan(temporal_position) else int(temporal_position),
        None if isnan(trigger_time) else trigger_time,
        # Without the sign of -0.0.
        None if isnan(z) else (x + 0.0, y + 0.0, z + 0.0),
        uids[0].decode("ascii"),
        uids[1].decode("ascii"),
    )
    return Header._make(header[:SHARED] + fields)


class HeaderScans(NamedTuple):
    """The header scans of n files, as columns.

    headers      : the shared headers; their per-file fields are None and ""
    header_index : int64 (n,), index in `headers`; UNKNOWN if the fallback has to read
        the file
    per_file     : float64 (n, 8), the columns INSTANCE, WINDOW_CENTRE, WINDOW_WIDTH,
        TEMPORAL_POSITION, TRIGGER_TIME (ms), X, Y, Z (mm); NaN if absent
    sop_instances, frames_of_reference : bytes (n,), SOPInstanceUID and
        FrameOfReferenceUID
    """

    headers: list[Header]
    header_index: NDArray[np.int64]
    per_file: NDArray[np.float64]
    sop_instances: NDArray[np.bytes_]
    frames_of_reference: NDArray[np.bytes_]

    def header_of(self, k: int) -> Header:
        """Return the whole header of file k, which must not be UNKNOWN."""
        header = self.headers[self.header_index[k]]
        uids = self.sop_instances[k], self.frames_of_reference[k]
        return _with_fields(header, self.per_file[k].tolist(), uids)

    def all_headers(self) -> list[Header | None]:
        """Return the whole header of each file, None of those that are UNKNOWN."""
        columns = zip(
            self.header_index.tolist(),
            self.per_file.tolist(),
            self.sop_instances.tolist(),
            self.frames_of_reference.tolist(),
            strict=True,
        )
        return [
            None if index < 0 else _with_fields(self.headers[index], row, uids)
            for index, row, *uids in columns
        ]

    def put(self, k: int, header: Header) -> None:
        """Write the header of file k, which is that of one frame."""
        window = header.window or (nan, nan)
        position = header.position_mm or (nan, nan, nan)
        fields = header.instance, *window, header.temporal_position
        row = *fields, header.trigger_time_ms, *position
        self.per_file[k] = [nan if value is None else value for value in row]
        self.sop_instances[k] = header.sop_instance.encode("ascii")
        self.frames_of_reference[k] = header.frame_of_reference.encode("ascii")
        self.header_index[k] = len(self.headers)
        self.headers.append(_with_fields(header, [nan] * COLUMNS, (b"", b"")))


def header_arrays(count: int, value_bytes: int = VALUE_BYTES) -> HeaderArrays:
    """Return the arrays into which kernels write what they find in n headers.

    value_bytes : bytes of all listed elements of a file, at most
    """
    return HeaderArrays(
        elements=np.empty((count, len(WANTED), 3), np.int64),
        counts=np.zeros(count, np.int64),
        values=np.empty((count, value_bytes), np.uint8),
        per_file=np.full((count, COLUMNS), nan),
        uids=np.zeros((count, UIDS, content.UID_BYTES), np.uint8),
        irregular=np.zeros(count, np.bool_),
        repeats=np.zeros(count, np.bool_),
        pixels=np.full(count, content.UNREAD),
    )


def scan_headers(paths: Iterable[str | None]) -> HeaderScans:
    """Scan the headers of many files in one call.

    paths : as for FileBatch

    A file that cannot be read is UNKNOWN.
    """
    names = list(paths)
    parts = []
    for first in range(0, max(len(names), 1), MOST_FILES):
        batch = FileBatch(names[first : first + MOST_FILES])
        parts.append(read_headers(_scan_some(batch)))
    if len(parts) == 1:
        return parts[0]
    numbers = np.cumsum([0, *(len(part.headers) for part in parts)])
    return HeaderScans(
        [header for part in parts for header in part.headers],
        np.concatenate(
            [
                np.where(part.header_index < 0, UNKNOWN, part.header_index + number)
                for part, number in zip(parts, numbers.tolist(), strict=False)
            ]
        ),
        np.concatenate([part.per_file for part in parts]),
        np.concatenate([part.sop_instances for part in parts]),
        np.concatenate([part.frames_of_reference for part in parts]),
    )


def _scan_some(batch: FileBatch) -> HeaderArrays:
    """Return what headers of files hold, reading as many bytes of each as needed."""
    arrays = header_arrays(len(batch))
    if not system.AVAILABLE:
        return arrays
    buffer = np.empty(BUFFER_BYTES, np.uint8)
    # Another request takes longer than some more bytes.
    numbers = SIZES[1:] if batch.is_remote else SIZES
    file_sizes = _scan_beginnings(batch, numbers[0], buffer, arrays)
    for before, size in pairwise(numbers):
        is_longer = (arrays.counts == CUT) & (file_sizes > before)
        longer = np.flatnonzero(is_longer)
        if not len(longer):
            break
        again = header_arrays(len(longer))
        file_sizes[longer] = _scan_beginnings(
            batch.pick(longer.tolist()), size, buffer, again
        )
        # Which file was before in this call, may be another one in `batch`.
        again.repeats[1:] &= np.diff(longer) == 1
        columns: Any = zip(arrays, again, strict=True)
        for column, values in columns:
            column[longer] = values
    return arrays


def _scan_beginnings(
    batch: FileBatch, size: int, buffer: NDArray[np.uint8], arrays: HeaderArrays
) -> NDArray[np.int64]:
    """Read this many bytes of each file, and write what they say; return all sizes.

    buffer : at least of this size
    arrays : of so many files, as `header_arrays` returned them

    The size of a file that cannot be read is not defined.
    """
    count = len(batch)
    offsets = np.empty(count, np.int64)
    stamps = np.empty((count, 4), np.int64)
    hashes = np.empty(count, np.uint64)
    sizes = np.empty(count, np.int64)
    first = 0
    while first < count:
        stop = batch.read(first, size, 0, buffer, offsets, stamps, hashes)
        sizes[first:stop] = np.minimum(stamps[first:stop, 0], size)
        note_headers(buffer, offsets, sizes, arrays, first=first, stop=stop)
        batch.keep(np.arange(first, stop))
        first = stop
    return stamps[:, 0].copy()


def note_headers(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    sizes: NDArray[np.int64],
    arrays: HeaderArrays,
    *,
    first: int = 0,
    stop: int = 1,
    pixel_bytes: int = 0,
) -> None:
    """Write what files in memory say into the arrays that `header_arrays` returned.

    data        : uint8 (m,), the files or their beginnings
    offsets     : int64 (n,), where in the data each file begins; negative if it was not
        read
    sizes       : int64 (n,), how many bytes of each are there
    first, stop : the range of the files
    pixel_bytes : size of the pixels of a file, for `HeaderArrays.pixels`
    """
    content.note_headers(
        *(data, offsets, sizes, first, stop, WANTED, pixel_bytes, arrays)
    )


def read_headers(arrays: HeaderArrays) -> HeaderScans:
    """Return the header scans of n files whose elements kernels have found."""
    counts = arrays.counts
    count = len(counts)
    uids = _as_text(arrays.uids)
    scans = HeaderScans([], np.full(count, UNKNOWN), arrays.per_file, *uids)

    def raw_values(k: int) -> dict[int, Any]:
        elements = arrays.elements[k, : counts[k] - 1].tolist()
        return _raw_values(arrays.values[k], elements)

    # A block of neighbours that differ in nothing but per-file fields shares a header.
    is_first = (counts > 0) & ~arrays.repeats
    bounds = [*np.flatnonzero(is_first | (counts <= 0)).tolist(), count]
    for first, stop in pairwise(bounds):
        if counts[first] <= 0:
            continue
        shared = [pair for pair in raw_values(first).items() if pair[0] not in PER_FILE]
        try:
            header, function = _header(tuple(shared))
        except (_NotStandardError, DicomError):
            continue  # the fallback finds the reason
        scans.header_index[first:stop] = len(scans.headers)
        scans.headers.append(header)
        # The kernel parses fields that hold simple numbers and a UID.
        for k in (np.flatnonzero(arrays.irregular[first:stop]) + first).tolist():
            raw = raw_values(k)
            try:
                scans.per_file[k], uids[:, k] = _parse_per_file(
                    [raw.get(row, b"") for row in PER_FILE]
                )
            except _NotStandardError:
                scans.header_index[k] = UNKNOWN
        # The same as `linear_window`, for all files of the block.
        window = scans.per_file[first:stop, WINDOW_CENTRE : WINDOW_WIDTH + 1]
        if function == "LINEAR_EXACT":
            window += np.where(window[:, 1:] > 0, (0.5, 1.0), nan)
        elif function != "LINEAR":
            window[:] = nan
        is_ramp = (np.abs(window) <= MAX_DECIMAL).all(axis=1) & (window[:, 1] >= 1)
        window[~is_ramp] = nan
        position = scans.per_file[first:stop, X:]
        position += 0.0 if header.frames == 1 else nan  # -0.0 becomes 0.0
    return scans


def _as_text(uids: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """Return UIDs (n, u, UID_BYTES) as texts (u, n), a view."""
    return uids.view(f"S{content.UID_BYTES}")[:, :, 0].T


def _raw_values(values: NDArray[np.uint8], elements: list[list[int]]) -> dict[int, Any]:
    """Return the values of elements by their row in WANTED: numbers of US, or bytes.

    values, elements : of one file, as in HeaderArrays
    """
    texts = values.tobytes()
    return {
        row: value if READERS[row] is None else texts[value : value + length]
        for row, value, length in elements
    }


def _parse_per_file(raw: list[bytes]) -> tuple[list[float], list[bytes]]:
    """Return a row of `HeaderScans.per_file`, its window as it is, and the UIDs.

    raw : the values of PER_FILE
    """
    instance, temporal_position = _integer(raw[0]), _integer(raw[3])
    centres, widths, times, position = map(_decimals, (raw[1], raw[2], *raw[4:6]))
    if not have_pairs(centres, widths) or len(times) > 1 or len(position) not in (0, 3):
        raise _NotStandardError
    row = [
        nan if instance == "" else float(instance),
        *(centres[:1] or (nan,)),
        *(widths[:1] or (nan,)),
        nan if temporal_position == "" else float(temporal_position),
        *(time if abs(time) <= MAX_DECIMAL else nan for time in times or (nan,)),
        *((position and as_vector(position)) or (nan, nan, nan)),
    ]
    return row, [_uid(text).encode("ascii") for text in raw[6:]]


def read_header(file: FileIO) -> Header | None:
    """Read the header of an open file; None if the fallback has to."""
    scan = _scan_file(file)
    return scan and scan.header


def read_image(
    file: FileIO, name: str, frame: int, max_pixel_bytes: int
) -> Image | None:
    """Read one frame of an open file, and no other; None if the fallback has to."""
    scan = _scan_file(file)
    if scan is None:
        return None
    header = scan.header
    end = scan.pixel_offset + scan.pixel_length
    # The scan has not seen what follows the pixels.
    is_last = end == file.seek(0, os.SEEK_END)
    file.seek(scan.pixel_offset)
    if not is_last or not is_padded(scan.pixel_length, file.read(4), header):
        return None
    check_request(header, frame, max_pixel_bytes, name)
    size = header.pixel_bytes // header.frames
    file.seek(scan.pixel_offset + frame * size)
    data = file.read(size)
    return _image(data, 0, header) if len(data) == size else None


class ScannedFile(NamedTuple):
    """The content of a file, its pixels at a known offset."""

    data: bytes
    header: Header
    pixel_offset: int

    def read(self, frame: int) -> Image:
        """Return one frame; it must exist."""
        size = self.header.pixel_bytes // self.header.frames
        return _image(self.data, self.pixel_offset + frame * size, self.header)

    def header_of(self, _: int) -> Header:
        """Return the header, which is the same for all frames."""
        return self.header

    def start(self, frame: int, _: object) -> Callable[[], NDArray[Any]]:
        """Read one frame; call what is returned for its pixels, no view of `data`."""
        pixels = self.read(frame).pixels.copy()
        return lambda: pixels


def parse(data: bytes) -> ScannedFile | None:
    """Scan a file's bytes; None if the fallback has to read it."""
    scan = scan_header(data)
    if scan is None:
        return None
    offset, length = scan.pixel_offset, scan.pixel_length
    is_cut = offset + length > len(data)
    if is_cut or not is_padded(length, data[offset : offset + 4], scan.header):
        return None
    return ScannedFile(data, scan.header, scan.pixel_offset)


def _scan_file(file: FileIO) -> HeaderScan | None:
    for length in SIZES:
        file.seek(0)
        data = file.read(length)
        scan = scan_header(data)
        if scan or len(data) < length:
            return scan
    return None


@cached
def _header(raw: tuple[tuple[int, Any], ...]) -> tuple[Header, str]:
    """Return the shared header and VOILUTFunction.

    raw : (row in WANTED, raw value) of each element
    """
    meta: dict[str, Any] = {
        KEYWORDS[row]: read(value) if (read := READERS[row]) else value
        for row, value in raw
    }
    header = check_header(meta.get, "")
    check_groups(meta.get("PerFrameFunctionalGroupsSequence"), header, "")
    return header, meta.get("VOILUTFunction") or "LINEAR"


def _image(data: bytes, offset: int, header: Header) -> Image:
    """Return a frame of data: a view if it is aligned and its unused bits are clear."""
    shape = header.rows, header.columns
    pixels: NDArray[Any] = np.frombuffer(
        data, header.dtype, header.rows * header.columns, offset
    ).reshape(shape)
    pixels = clear_unused_bits(pixels, header.bits_stored)
    return Image(pixels if pixels.flags.aligned else pixels.copy(), header)


def clear_unused_bits(pixels: NDArray[Any], bits: int) -> NDArray[Any]:
    """Return pixels with the bits above the stored ones cleared or sign-extended.

    bits : number of stored bits

    They are the same pixels if nothing changes.
    """
    unused = 8 * pixels.dtype.itemsize - bits
    if unused and not _fits(pixels, bits):
        return pixels << unused >> unused
    return pixels


def _fits(pixels: NDArray[Any], bits: int) -> bool:
    """Return whether all values fit into this number of bits."""
    least, greatest = stored_range(pixels.dtype, bits)
    # Images with signed pixels seldom have a negative one: one pass tells.
    if pixels.view(UNSIGNED[pixels.dtype.itemsize]).max() <= greatest:
        return True
    return bool(least < 0 and least <= pixels.min() and pixels.max() <= greatest)


def stored_range(dtype: np.dtype[Any], bits: int) -> tuple[int, int]:
    """Return the least and the greatest value that this number of bits holds."""
    if dtype.kind == "u":
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


class _NotStandardError(Exception):
    """A value does not have the form that the standard prescribes for its VR."""


@cached
def _integer(raw: bytes) -> int | str:
    text = raw.rstrip(b" \0")
    if not text:
        return ""
    if not INTEGER.fullmatch(text):
        raise _NotStandardError
    return int(text)


@cached
def _decimals(raw: bytes) -> tuple[float, ...]:
    text = raw.rstrip(b" \0")
    numbers = text.split(b"\\") if text else []
    if not all(map(DECIMAL.fullmatch, numbers)):
        raise _NotStandardError
    return tuple(map(float, numbers))


@cached
def _code(raw: bytes) -> str:
    text = raw.rstrip(b" \0")
    if not CODE.fullmatch(text):
        raise _NotStandardError
    return text.decode("ascii")


@cached
def _uid(raw: bytes) -> str:
    text = raw.rstrip(b" \0")
    if not UID.fullmatch(text):
        raise _NotStandardError
    return text.decode("ascii")


@cached
def _text(raw: bytes) -> str:
    text = raw.strip(b" \0")
    if not TEXT.fullmatch(text):
        raise _NotStandardError
    return text.decode("ascii")


@cached
def _texts(raw: bytes) -> tuple[str, ...]:
    return tuple(raw.rstrip(b" \0").decode("latin-1").split("\\"))


@cached
def _empty_groups(raw: bytes) -> int:
    """Return the number of items without content: none, or one as in some MR files."""
    if raw not in (b"", EMPTY_ITEM):
        raise _NotStandardError
    return len(raw) // len(EMPTY_ITEM)


@cached
def _character_set(raw: bytes) -> str:
    names = raw.rstrip(b" \0").split(b"\\")
    if not CHARACTER_SETS.issuperset(names):
        raise _NotStandardError
    return ""


# How to read a value of each VR; None for US, which `find_elements` reads. A listed
# element of another VR, such as ModalityLUTSequence, sends its file to the fallback.
BY_VR: dict[str, Callable[[bytes], Any] | None] = {
    "CS": _code,
    "DS": _decimals,
    "IS": _integer,
    "LO": _text,
    "UI": _uid,
    "US": None,
}
# Elements that are read in another way than others of their VR.
BY_KEYWORD: dict[str, Callable[[bytes], Any]] = {
    "ImageType": _texts,
    "SharedFunctionalGroupsSequence": _empty_groups,
    "PerFrameFunctionalGroupsSequence": _empty_groups,
}
# The listed elements, tags ascending. KEYWORDS and READERS have a further entry at the
# beginning, for the character set.
ELEMENTS = sorted(
    (tag, vr, keyword)
    for keyword, (tag, vr) in (HEADER_ELEMENTS | PIXEL_ELEMENTS).items()
)
KEYWORDS = ["", *(keyword for _, _, keyword in ELEMENTS)]
READERS = [
    _character_set,
    *(BY_KEYWORD.get(keyword, BY_VR.get(vr)) for _, vr, keyword in ELEMENTS),
]
# The elements of per-file fields: columns 2 and 3 of WANTED.
PER_FILE_ELEMENTS = {
    "InstanceNumber": (1 + INSTANCE, 1),
    "WindowCenter": (1 + WINDOW_CENTRE, 1),
    "WindowWidth": (1 + WINDOW_WIDTH, 1),
    "TemporalPositionIdentifier": (1 + TEMPORAL_POSITION, 1),
    "TriggerTime": (1 + TRIGGER_TIME, 1),
    "ImagePositionPatient": (1 + X, 3),
    "SOPInstanceUID": (-1, 1),
    "FrameOfReferenceUID": (-2, 1),
}
# Their rows in WANTED, in the same order.
PER_FILE = tuple(map(KEYWORDS.index, PER_FILE_ELEMENTS))
UIDS = 2
# Number of the fields of a Header before the per-file fields.
SHARED = Header._fields.index("instance")


def _wanted(tag: int, vr: str, keyword: str) -> tuple[int, int, int, int]:
    """Return a row of WANTED."""
    column, count = PER_FILE_ELEMENTS.get(keyword, (content.SHARED, 1))
    is_read = vr in BY_VR or keyword in BY_KEYWORD
    return tag, vr_code(vr) if is_read else 0, column, count


# int64 (w, 4), as `content.note_headers` takes it. The VR is 0 if the fallback has to
# read a file with this element.
WANTED = np.array(
    [_wanted(CHARACTER_SET, "CS", "")]
    + [_wanted(*element) for element in ELEMENTS[:-1]]
    + [(PIXEL_DATA, vr_code("OW"), content.SHARED, 1)],
    np.int64,
)
_single = _Single()
