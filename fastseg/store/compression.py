"""The codec of compressed stores: HDF5's byte shuffle, then zstd; a chunk is one array.

fastseg encodes and decodes chunks itself, without HDF5 and its global lock. The file
declares the same filters to HDF5, so that other tools read it with hdf5plugin.
"""

import threading
from dataclasses import dataclass
from math import prod
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg._kernels.images import shuffle
from fastseg.errors import StoreError, missing_extra
from fastseg.store.layout import Bucket

NAME = "zstd"
# Numbers of HDF5's own shuffle and of the registered filter for zstd.
SHUFFLE, ZSTD = 2, 32015
# At level 1, cine-MR images become 3.5 times smaller. Level 3 gains 0.3 % more; level 9
# gains 1 %, but takes 7 times as long. Both are read a little slower.
LEVEL = 1
# A block of zstd takes at least 4 bytes and holds at most 128 KiB.
MOST_RATIO = 2**15

# A filter of HDF5: its number and its parameters.
Filter = tuple[int, tuple[int, ...]]

_contexts = threading.local()


@dataclass(frozen=True, slots=True)
class Codec:
    """Encodes arrays of one shape and dtype to chunks, and decodes them."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    shuffles: bool  # whether HDF5's byte shuffle comes before zstd

    @property
    def size(self) -> int:
        """Bytes of an array before compression."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def filters(self) -> list[Filter]:
        """The filters that the file declares to HDF5, in the order of writing."""
        shuffled = [(SHUFFLE, (self.dtype.itemsize,))] if self.shuffles else []
        return [*shuffled, (ZSTD, (LEVEL,))]

    def reads(self, filters: list[Filter]) -> bool:
        """Return whether this codec decodes chunks with these filters, at any level."""
        numbers = [number for number, _ in filters]
        expected = [number for number, _ in self.filters]
        return numbers == expected and filters[:-1] == self.filters[:-1]

    def encode(self, array: NDArray[Any]) -> bytes:
        """Return the chunk of an array; the same array gives the same bytes."""
        content = array
        if self.shuffles:
            content = np.empty((self.dtype.itemsize, array.size), np.uint8)
            shuffle.split_bytes(array.reshape(-1).view(self._unsigned), content)
        return bytes(_context().compress(content.data))

    def blank(self) -> NDArray[Any]:
        """Return an array that holds anything."""
        return np.empty(self.shape, self.dtype)

    def decode(self, chunk: Any) -> NDArray[Any]:
        """Return the array of a chunk, read-only, or raise StoreError.

        Takes no more memory than the array needs, whatever size the chunk claims.
        """
        content = np.frombuffer(self._decompress(chunk), np.uint8)
        if self.shuffles:
            values = np.empty(prod(self.shape), self._unsigned)
            shuffle.join_bytes(content.reshape(self.dtype.itemsize, -1), values)
            values.flags.writeable = False
        else:
            values = content
        return values.view(self.dtype).reshape(self.shape)

    @property
    def _unsigned(self) -> str:
        """The unsigned dtype of the same size, which the shuffle kernels take."""
        return f"<u{self.dtype.itemsize}"

    def _decompress(self, chunk: Any) -> bytes:
        zstd = _zstandard()
        size = self.size
        try:
            frame = zstd.get_frame_parameters(chunk)
            if frame.content_size != size:
                raise StoreError(
                    f"claims to hold {frame.content_size} bytes, expected {size}"
                )
            if size > len(chunk) * MOST_RATIO or frame.window_size > max(size, 1024):
                raise StoreError("asks for more memory than a valid chunk needs")
            content = _context().decompress(chunk, allow_extra_data=False)
        except zstd.ZstdError as exc:
            raise StoreError(f"cannot be decompressed ({exc})") from None
        if len(content) != size:  # a skippable frame holds nothing
            raise StoreError(f"holds {len(content)} bytes, expected {size}")
        return bytes(content)


def codecs(bucket: Bucket, masks: np.dtype[Any]) -> tuple[Codec, Codec]:
    """Return the codecs of a bucket's images and of its masks.

    masks : dtype of the masks

    Images are shuffled, because their high bytes hardly differ and compress better side
    by side. Masks compress well without that.
    """
    shuffles = bucket.dtype.itemsize > 1
    image_codec = Codec(bucket.shape, bucket.dtype, shuffles)
    return image_codec, Codec(bucket.shape, masks, False)


def chunk_index(dataset: Any) -> NDArray[np.int64]:
    """Return offset and size in bytes of each chunk of an open dataset, int64 (n, 2).

    Both are 0 for a chunk that is missing or to which not all filters were applied.
    """
    index = np.zeros((len(dataset), 2), np.int64)

    def note(chunk: Any) -> None:
        if chunk.filter_mask == 0:
            index[chunk.chunk_offset[0]] = chunk.byte_offset, chunk.size

    dataset.id.chunk_iter(note)
    return index


def require(purpose: str) -> None:
    """Raise MissingExtraError if the package zstandard is not installed.

    purpose : what needs it, for the message
    """
    try:
        _zstandard()
    except ImportError:
        raise missing_extra(purpose, "compress") from None


def version() -> str:
    """Return the version of zstd; another one may encode an array to other bytes."""
    return ".".join(map(str, _zstandard().ZSTD_VERSION))


def _zstandard() -> ModuleType:
    import zstandard

    return zstandard


class _Context:
    """A compressor and a decompressor, which zstd reuses from call to call."""

    def __init__(self) -> None:
        zstd = _zstandard()
        self.compress = zstd.ZstdCompressor(level=LEVEL).compress
        self.decompress = zstd.ZstdDecompressor().decompress


def _context() -> _Context:
    """Return the context of this thread; no two threads may use the same."""
    if not hasattr(_contexts, "context"):
        _contexts.context = _Context()
    context: _Context = _contexts.context
    return context
