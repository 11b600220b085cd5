"""The fast path for plain files: uncompressed, little-endian, nothing unusual in them.

A file is read here only if pydicom would certainly say the same of it. Whatever is
not quite as the standard has it, is left to `full`: every function answers None then.
"""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from io import FileIO
from itertools import pairwise
from math import nan
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fastseg._kernels.files import content, system
from fastseg._kernels.files.elements import (
    CHARACTER_SET,
    PIXEL_DATA,
    find_elements,
    vr_code,
)
from fastseg._kernels.images.statistics import range_of_values
from fastseg.dicom.header import (
    HEADER_ELEMENTS,
    PIXEL_ELEMENTS,
    Header,
    Image,
    check_header,
    check_request,
    linear_window,
)
from fastseg.errors import DicomError

# Most headers end in the first piece of a file, nearly all in the last.
PIECES = (2**12, 2**14, 2**20)
DECIMAL = re.compile(rb" *[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)? *")
# As many digits as a float holds exactly: pydicom compares the two.
INTEGER = re.compile(rb" *[+-]?[0-9]{1,15}")
TEXT = re.compile(rb"[A-Z0-9_.]*")
# The files of a series have most values in common: remembering what they mean, one by
# one and all together, halves the 18 µs that a header takes.
remembered = lru_cache(512)
# Which one is used matters to no fact, but pydicom must know it (PS3.3 C.12.1.1.2).
CHARACTER_SETS = frozenset(
    [b"", b"ISO_IR 192", b"GB18030", b"GBK", b"ISO 2022 GBK"]
    + [b"ISO_IR %d" % k for k in (6, 13, 100, 101, 109, 110, 126, 127)]
    + [b"ISO_IR %d" % k for k in (138, 144, 148, 166)]
    + [b"ISO 2022 IR %d" % k for k in (6, 13, 58, 87, 100, 101, 109, 110, 126)]
    + [b"ISO 2022 IR %d" % k for k in (127, 138, 144, 148, 149, 159, 166)]
)


UNKNOWN = -1


class HeaderScan(NamedTuple):
    """What stands before the pixels of a file, and where and how long these are.

    shared           : the header but for what tells the files of a series apart
    instance, window : that
    """

    shared: Header
    instance: int | None
    window: tuple[float, float] | None
    pixel_offset: int
    pixel_length: int

    @property
    def header(self) -> Header:
        """The whole header."""
        return replace(self.shared, instance=self.instance, window=self.window)

    def holds(self, data: bytes, digest: int) -> bool:
        """Return whether `scan_header` would say the same of a whole file.

        digest : XXH3-64 of what stood before the pixels when it was looked at

        It would if the same stands there now, and nothing behind the pixels.
        """
        is_whole = self.pixel_offset + self.pixel_length == len(data)
        return is_whole and digest == xxh3_64_intdigest(data[: self.pixel_offset])


def scan_header(data: bytes) -> HeaderScan | None:
    """Return how a file starts, from its first bytes or all of them."""
    if not data:
        return None
    found = np.empty((len(WANTED), 3), np.int64)
    count = find_elements(np.frombuffer(data, np.uint8), WANTED, found)
    if not count:
        return None
    *places, (_, pixels, pixels_length) = found[:count].tolist()
    raw = {
        k: start if READERS[k] is None else data[start : start + length]
        for k, start, length in places
    }
    own = [raw.pop(k, b"") for k in OWN]
    try:
        header, function = _header(tuple(raw.items()))
        instance, centre, width = _integer(own[0]), _decimals(own[1]), _decimals(own[2])
    except (_Doubt, DicomError):
        return None  # for pydicom to say
    return HeaderScan(
        shared=header,
        instance=None if instance == "" else int(instance),
        window=linear_window([*centre[:1], *width[:1]], function),
        pixel_offset=pixels,
        pixel_length=pixels_length,
    )


class HeaderScans(NamedTuple):
    """How n files start, as columns.

    headers : the headers, but for what tells the files of a series apart
    header_index : int64 (n,), which of them a file has; UNKNOWN if it is not plain
    per_file : float64 (n, 3), InstanceNumber, centre and width of the window; NaN if
        absent
    pixel_spans : int64 (n, 2), where the pixels begin, and their length
    header_hashes : uint64 (n,), XXH3-64 of what stands before them
    """

    headers: list[Header]
    header_index: NDArray[np.int64]
    per_file: NDArray[np.float64]
    pixel_spans: NDArray[np.int64]
    header_hashes: NDArray[np.uint64]


def scan_headers(names: bytes, starts: NDArray[np.int64]) -> HeaderScans:
    """Return how files start; one that cannot be read is not plain.

    names, starts : real paths, each with NUL behind it, and where each begins
    """
    count = len(starts) - 1
    scans = HeaderScans(
        headers=[],
        header_index=np.full(count, UNKNOWN),
        per_file=np.full((count, len(OWN)), np.nan),
        pixel_spans=np.zeros((count, 2), np.int64),
        header_hashes=np.zeros(count, np.uint64),
    )
    if not system.AVAILABLE or not count:
        return scans
    data = np.empty((count, PIECES[0]), np.uint8)
    found = np.empty((count, len(WANTED), 3), np.int64)
    counts, odd = np.empty(count, np.int64), np.empty(count, np.bool_)
    text = np.frombuffer(names, np.uint8)
    alike = content.scan_headers(
        text,
        starts,
        WANTED,
        data,
        found,
        counts,
        scans.per_file,
        odd,
        scans.header_hashes,
    )
    scans.pixel_spans[:] = found[np.arange(count), np.maximum(counts, 1) - 1, 1:]
    is_first = (counts > 0) & ~alike
    bounds = [*np.flatnonzero(is_first | (counts == 0)).tolist(), count]
    for first, stop in pairwise(bounds):
        if not counts[first]:
            continue
        raw = _values(data[first], found[first, : counts[first] - 1])
        try:
            header, function = _header(
                tuple(pair for pair in raw.items() if pair[0] not in OWN)
            )
        except (_Doubt, DicomError):
            continue  # for pydicom to say
        scans.header_index[first:stop] = len(scans.headers)
        scans.headers.append(header)
        for k in (np.flatnonzero(odd[first:stop]) + first).tolist():
            raw = _values(data[k], found[k, : counts[k] - 1])
            try:
                scans.per_file[k] = _own([raw.get(row, b"") for row in OWN])
            except _Doubt:
                scans.header_index[k] = UNKNOWN
        window = scans.per_file[first:stop, 1:]
        if function == "LINEAR_EXACT":
            window += np.where(window[:, 1:] > 0, (0.5, 1.0), np.nan)
        elif function != "LINEAR":
            window[:] = np.nan
        is_ramp = np.isfinite(window).all(axis=1) & (window[:, 1] >= 1)
        window[~is_ramp] = np.nan
    return scans


def _values(data: NDArray[np.uint8], found: NDArray[np.int64]) -> dict[int, Any]:
    """Return the values of elements by their row in WANTED."""
    return {
        row: at if READERS[row] is None else data[at : at + size].tobytes()
        for row, at, size in found.tolist()
    }


def _own(raw: list[bytes]) -> tuple[float, float, float]:
    """Return InstanceNumber, and centre and width of the window; NaN if absent."""
    instance, (centre, *_), (width, *_) = (
        _integer(raw[0]),
        _decimals(raw[1]) or (nan,),
        _decimals(raw[2]) or (nan,),
    )
    return nan if instance == "" else float(instance), centre, width


def read_header(file: FileIO) -> Header | None:
    """Read the listed facts of an open file from its first piece."""
    found = _scan_file(file)
    return found and found.header


def read_image(
    file: FileIO, name: str, frame: int, max_pixel_bytes: int
) -> Image | None:
    """Read one frame of an open file and nothing of the others."""
    found = _scan_file(file)
    if found is None:
        return None
    header, end = found.header, found.pixel_offset + found.pixel_length
    # What stands behind the pixels has not been looked at.
    is_last = end == file.seek(0, os.SEEK_END)
    if not is_last or found.pixel_length != _padded(header.pixel_bytes):
        return None
    check_request(header, frame, max_pixel_bytes, name)
    size = header.pixel_bytes // header.frames
    file.seek(found.pixel_offset + frame * size)
    data = file.read(size)
    return _image(data, 0, header) if len(data) == size else None


def decode(
    data: bytes,
    name: str,
    frame: int,
    max_pixel_bytes: int,
    start: HeaderScan | None = None,
) -> Image | None:
    """Read one frame of a file's bytes; start is how it starts, where that is known."""
    found = start or scan_header(data)
    if found is None:
        return None
    header = found.header
    check_request(header, frame, max_pixel_bytes, name)
    size = header.pixel_bytes
    if found.pixel_offset + found.pixel_length > len(
        data
    ) or found.pixel_length != _padded(size):
        return None
    return _image(data, found.pixel_offset + frame * (size // header.frames), header)


def _scan_file(file: FileIO) -> HeaderScan | None:
    for length in PIECES:
        file.seek(0)
        data = file.read(length)
        found = scan_header(data)
        if found or len(data) < length:
            return found
    return None


@remembered
def _header(raw: tuple[tuple[int, Any], ...]) -> tuple[Header, str]:
    """Return header and VOILUTFunction of values, each given by its row in WANTED."""
    meta = {KEYWORDS[k]: read(v) if (read := READERS[k]) else v for k, v in raw}
    return check_header(meta.get, ""), meta.get("VOILUTFunction") or "LINEAR"


def _image(data: bytes, start: int, header: Header) -> Image:
    """Return a frame: a view of the data if no unused bit has to be cleared."""
    shape = header.rows, header.columns
    pixels: NDArray[Any] = np.frombuffer(
        data, header.dtype, header.rows * header.columns, start
    ).reshape(shape)
    spare = 8 * header.dtype.itemsize - header.bits_stored
    if spare and not _fits(pixels, header.bits_stored):
        pixels = pixels << spare >> spare
    elif not pixels.flags.aligned:
        pixels = pixels.copy()
    return Image(pixels, header)


def _fits(pixels: NDArray[Any], bits: int) -> bool:
    """Return whether all values can be told by so many bits."""
    least, greatest = range_of_values(pixels)
    if pixels.dtype.kind == "u":
        return bool(greatest < 2**bits)
    half = 2 ** (bits - 1)
    return bool(least >= -half and greatest < half)


def _padded(length: int) -> int:
    return length + length % 2


class _Doubt(Exception):
    """A value is not written as the standard has it."""


@remembered
def _integer(raw: bytes) -> int | str:
    text = raw.rstrip(b" \0")
    if not text:
        return ""
    if not INTEGER.fullmatch(text):
        raise _Doubt
    return int(text)


@remembered
def _decimals(raw: bytes) -> tuple[float, ...]:
    text = raw.rstrip(b" \0")
    numbers = text.split(b"\\") if text else []
    if not all(map(DECIMAL.fullmatch, numbers)):
        raise _Doubt
    return tuple(map(float, numbers))


@remembered
def _text(raw: bytes) -> str:
    text = raw.rstrip(b" \0")
    if not TEXT.fullmatch(text):
        raise _Doubt
    return text.decode("ascii")


@remembered
def _character_set(raw: bytes) -> str:
    names = raw.rstrip(b" \0").split(b"\\")
    if not CHARACTER_SETS.issuperset(names):
        raise _Doubt
    return ""


# A US is read by the kernel; what is not here is refused.
BY_VR: dict[str, Callable[[bytes], Any] | None] = {
    "CS": _text,
    "DS": _decimals,
    "IS": _integer,
    "UI": _text,
    "US": None,
}
# The character set comes first, the pixels last.
ELEMENTS = sorted(
    (tag, vr, keyword)
    for keyword, (tag, vr) in (HEADER_ELEMENTS | PIXEL_ELEMENTS).items()
)
KEYWORDS = ["", *(keyword for _, _, keyword in ELEMENTS)]
READERS = [_character_set, *(BY_VR.get(vr) for _, vr, _ in ELEMENTS)]
# What differs from file to file of a series.
OWN = tuple(map(KEYWORDS.index, ("InstanceNumber", "WindowCenter", "WindowWidth")))
WANTED = np.array(
    [(CHARACTER_SET, vr_code("CS"), 0)]
    + [
        (tag, vr_code(vr) if vr in BY_VR else 0, 1 + OWN.index(k) if k in OWN else 0)
        for k, (tag, vr, _) in enumerate(ELEMENTS[:-1], 1)
    ]
    + [(PIXEL_DATA, vr_code("OW"), 0)],
    np.int64,
)
