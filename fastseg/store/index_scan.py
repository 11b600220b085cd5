"""Reads where the datasets of a store lie, without HDF5: in a fifth of the time.

HDF5 takes 10 ms to open the sixty datasets of a store, most of what opening it takes.
This module reads the few structures of HDF5 that fastseg writes, as HDF5's file format
specification names them, and nothing else: whatever is unusual raises Unusual, and HDF5
is asked instead. So do all damaged files, because the checksum of all bytes that are no
data is compared first. So this is how a store looks that nobody has changed; errors of
others are those of HDF5.

It reads by system calls, not by the map: there, a read that fails ends the process.
"""

import math
import os
import struct
from collections.abc import Iterator, Mapping
from io import FileIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.store.metadata import metadata_checksum, metadata_ranges

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Versions of the superblock, free space, root group, and of shared headers; sizes of
# offsets and lengths; how many links a node of a group has; flags.
SUPERBLOCK = bytes([0, 0, 0, 0, 0, 8, 8, 0, 4, 0, 16, 0, 0, 0, 0, 0])
NOWHERE = 2**64 - 1
# Bytes that are read at once. A header has 272, a group some 2 000.
BLOCK = 2**14
# Types of messages in the header of an object.
DATASPACE, DATATYPE, FILL_VALUE, LAYOUT = 0x01, 0x03, 0x05, 0x08
ATTRIBUTE, CONTINUATION, SYMBOL_TABLE, NOTHING = 0x0C, 0x10, 0x11, 0x00
DATASET_MESSAGES = {DATASPACE, DATATYPE, FILL_VALUE, LAYOUT}
# Constant, and not to be shared; others change what a message is.
HARMLESS_FLAGS = 0b101
# A header of a store has some dozen messages.
MOST_MESSAGES = 256

_MESSAGE = struct.Struct("<HHB3x")
_HEADER = struct.Struct("<BxHII4x")
_LAYOUT = struct.Struct("<BBQQ")
_LINK = struct.Struct("<QQI20x")
_ATTRIBUTE = struct.Struct("<BxHHH")


class Unusual(Exception):
    """The file has what this module does not read."""


class ScannedDataset(NamedTuple):
    """Where a dataset lies: shape, dtype and offset in the file; its attributes."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    attributes: Mapping[str, NDArray[Any]]

    @property
    def size(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * self.dtype.itemsize

    def get_offset(self) -> int:
        """Return the offset, as a dataset of h5py does."""
        return self.offset


class ScannedFile(NamedTuple):
    """The attributes of a file, and its datasets by name, as in "items/row"."""

    attributes: Mapping[str, NDArray[Any]]
    datasets: Mapping[str, ScannedDataset]

    def attribute(self, name: str, kind: str | None) -> Any:
        """Return a number, text or array; None if there is none, or of another type.

        kind : "|S" or a dtype; None for any
        """
        value = self.attributes.get(name)
        if value is None or (kind is not None and not value.dtype.str.startswith(kind)):
            return None
        return value[()]


def scan(file: FileIO) -> ScannedFile:
    """Return the attributes and datasets of a file, or raise Unusual.

    All data lie inside of the file. Raises OSError if it cannot be read.
    """
    length = os.fstat(file.fileno()).st_size
    blocks = _Blocks(file, length)
    try:
        scanned = _scan(blocks)
        text = scanned.attributes["metadata_checksum"].item()
        extents = [
            (dataset.offset, dataset.size)
            for dataset in scanned.datasets.values()
            if dataset.size
        ]
        ranges = metadata_ranges([np.array(extents, np.int64)], length)
        digest, offsets = metadata_checksum(ranges, blocks.read, text)
    except (struct.error, ValueError, KeyError, TypeError, IndexError) as exc:
        raise Unusual from exc
    if len(offsets) != 1 or text != f"{digest:016x}".encode():
        raise Unusual
    return scanned


class _Blocks:
    """The bytes of a file; those that are read lie in blocks, each is read once."""

    def __init__(self, file: FileIO, length: int):
        self._file = file
        self._length = length
        self._blocks: dict[int, bytes] = {}

    @property
    def length(self) -> int:
        """Bytes of the file."""
        return self._length

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from start to stop, or raise Unusual."""
        if not 0 <= start <= stop <= self._length:
            raise Unusual
        first = start // BLOCK
        low = start - first * BLOCK
        if stop <= (first + 1) * BLOCK:
            return self._block(first)[low : low + stop - start]
        last = -(-stop // BLOCK)
        joined = b"".join(map(self._block, range(first, last)))
        return joined[low : low + stop - start]

    def _block(self, number: int) -> bytes:
        block = self._blocks.get(number)
        if block is None:
            start = number * BLOCK
            size = min(BLOCK, self._length - start)
            buffer = bytearray(size)
            self._file.seek(start)
            if self._file.readinto(buffer) != size:
                raise Unusual
            block = self._blocks[number] = bytes(buffer)
        return block


def _scan(blocks: _Blocks) -> ScannedFile:
    start = blocks.read(0, 96)
    base, free, end, driver, _, root = struct.unpack_from("<6Q", start, 24)
    is_usual = start[: len(SIGNATURE) + len(SUPERBLOCK)] == SIGNATURE + SUPERBLOCK and (
        base,
        free,
        end,
        driver,
    ) == (0, NOWHERE, blocks.length, NOWHERE)
    if not is_usual:
        raise Unusual
    attributes = {}
    table = None
    for kind, data in _messages(blocks, root):
        if kind == ATTRIBUTE:
            name, value = _attribute(data)
            attributes[name] = value
        elif kind == SYMBOL_TABLE:
            table = data
        else:
            raise Unusual
    datasets = {}
    for group, address in _links(blocks, table):
        ((kind, data),) = _messages(blocks, address)
        if kind != SYMBOL_TABLE:
            raise Unusual
        for name, header in _links(blocks, data):
            datasets[f"{group}/{name}"] = _dataset(blocks, header)
    return ScannedFile(attributes, datasets)


def _messages(blocks: _Blocks, address: int) -> Iterator[tuple[int, bytes]]:
    """Yield type and data of each message of a header, but for empty ones."""
    version, count, _, size = _HEADER.unpack(blocks.read(address, address + 16))
    if version != 1 or count > MOST_MESSAGES:
        raise Unusual
    ranges = [(address + 16, size)]
    for start, size in ranges:
        if size > blocks.length or len(ranges) > MOST_MESSAGES:
            raise Unusual
        block = blocks.read(start, start + size)
        position = 0
        while position < size:
            kind, length, flags = _MESSAGE.unpack_from(block, position)
            position += 8
            data = block[position : position + length]
            position += length
            count -= 1
            if len(data) != length or flags & ~HARMLESS_FLAGS:
                raise Unusual
            if kind == CONTINUATION:
                ranges.append(struct.unpack("<QQ", data))
            elif kind != NOTHING:
                yield kind, data
    if count:
        raise Unusual


def _links(blocks: _Blocks, table: bytes | None) -> Iterator[tuple[str, int]]:
    """Yield name and address of the header of each object that a group holds.

    table : the data of the message that says where its names lie
    """
    if table is None:
        raise Unusual
    tree, heap = struct.unpack("<QQ", table)
    node = blocks.read(tree, tree + 24)
    signature, kind, level, count, left, right = struct.unpack("<4sBBHQQ", node)
    if (signature, kind, level, left, right) != (b"TREE", 0, 0, NOWHERE, NOWHERE):
        raise Unusual
    keys_and_children = blocks.read(tree + 24, tree + 24 + 16 * count)
    signature, version, size, _, start = struct.unpack(
        "<4sB3xQQQ", blocks.read(heap, heap + 32)
    )
    if (signature, version) != (b"HEAP", 0) or size > blocks.length:
        raise Unusual
    names = blocks.read(start, start + size)
    for (child,) in struct.iter_unpack("<8xQ", keys_and_children):
        signature, version, links = struct.unpack(
            "<4sBxH", blocks.read(child, child + 8)
        )
        if (signature, version) != (b"SNOD", 1):
            raise Unusual
        entries = blocks.read(child + 8, child + 8 + links * _LINK.size)
        for offset, header, cached in _LINK.iter_unpack(entries):
            if cached not in (0, 1):  # 2 is a symbolic link
                raise Unusual
            yield names[offset : names.index(b"\0", offset)].decode(), header


def _dataset(blocks: _Blocks, address: int) -> ScannedDataset:
    attributes = {}
    messages = {}
    for kind, data in _messages(blocks, address):
        if kind == ATTRIBUTE:
            name, value = _attribute(data)
            attributes[name] = value
        elif kind in messages:
            raise Unusual
        else:
            messages[kind] = data
    if messages.keys() != DATASET_MESSAGES:
        raise Unusual
    shape = _shape(messages[DATASPACE])
    dtype = _dtype(messages[DATATYPE])
    version, kind, offset, size = _LAYOUT.unpack_from(messages[LAYOUT])
    dataset = ScannedDataset(shape, dtype, offset if size else 0, attributes)
    # Contiguous data.
    if (version, kind) != (3, 1) or not shape or size != dataset.size:
        raise Unusual
    if dataset.offset + size > blocks.length:
        raise Unusual
    return dataset


def _attribute(data: bytes) -> tuple[str, NDArray[Any]]:
    version, *sizes = _ATTRIBUTE.unpack_from(data)
    if version != 1:
        raise Unusual
    start = _ATTRIBUTE.size
    parts = []
    for size in sizes:
        parts.append(data[start : start + size])
        start += -(-size // 8) * 8
    name, kind, space = parts
    shape, dtype = _shape(space), _dtype(kind)
    count = math.prod(shape)
    if name.find(b"\0") != len(name) - 1 or count * dtype.itemsize > len(data) - start:
        raise Unusual
    values = np.frombuffer(data, dtype, count, start).reshape(shape)
    return name[:-1].decode(), values


def _shape(space: bytes) -> tuple[int, ...]:
    version, rank, flags = space[:3]
    numbers = struct.unpack_from(f"<{rank * (1 + flags)}Q", space, 8)
    shape = numbers[:rank]
    # With flag 1, a largest shape follows.
    if version != 1 or flags not in (0, 1) or numbers[rank:] not in ((), shape):
        raise Unusual
    return shape


def _dtype(kind: bytes) -> np.dtype[Any]:
    """Return the dtype of a type of HDF5, or raise Unusual."""
    dtype = _DTYPES.get(kind.ljust(24, b"\0"))
    if dtype is None:
        (size,) = struct.unpack_from("<I", kind, 4)
        # Of a fixed length, in UTF-8, padded with NUL.
        if not size or kind.ljust(24, b"\0") != _encode(0x13, 0x11, 0, size):
            raise Unusual
        dtype = np.dtype(f"S{size}")
    return dtype


def _encode(kind: int, bits: int, sign: int, size: int, *rest: int) -> bytes:
    """Return a datatype message: class, its bits, the size, and what the class adds."""
    words = struct.pack(f"<BBBBI{len(rest)}H", kind, bits, sign, 0, size, *rest)
    return words.ljust(24, b"\0")


def _number_types() -> Iterator[tuple[bytes, np.dtype[Any]]]:
    for size in (1, 2, 4, 8):
        for letter, bits in (("u", 0), ("i", 8)):
            # Offset and number of bits.
            yield (
                _encode(0x10, bits, 0, size, 0, 8 * size),
                np.dtype(f"<{letter}{size}"),
            )
    for size, exponent in ((2, 5), (4, 8), (8, 11)):
        mantissa = 8 * size - 1 - exponent
        fields = mantissa | exponent << 8, mantissa << 8
        bias = 2 ** (exponent - 1) - 1
        encoded = _encode(0x11, 0x20, 8 * size - 1, size, 0, 8 * size, *fields, bias, 0)
        yield encoded, np.dtype(f"<f{size}")


# By the bytes of their messages, of numbers.
_DTYPES = dict(_number_types())
