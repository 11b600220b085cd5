"""The codec of compressed stores: HDF5's byte shuffle, then zstd, one chunk an image.

It works without HDF5 and outside its lock. HDF5 finds the same filters declared in the
file, so that other tools read it with hdf5plugin.
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
# Cine-MR images become 3.5 times smaller; level 3 adds 0.3 % to that and 9 adds 1 %,
# but takes 7 times as long, and both are read a little slower.
LEVEL = 1
# zstd stores at most 128 KiB in a block, which has at least 4 bytes.
MOST_RATIO = 2**15

# A filter of HDF5: its number and parameters.
Filter = tuple[int, tuple[int, ...]]

_contexts = threading.local()


@dataclass(frozen=True, slots=True)
class Codec:
    """How arrays of one shape and dtype become chunks, and arrays again."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    shuffles: bool  # its bytes, before zstd

    @property
    def size(self) -> int:
        """Bytes of an array."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def filters(self) -> list[Filter]:
        """Those that HDF5 is told of, in the order of writing."""
        shuffled = [(SHUFFLE, (self.dtype.itemsize,))] if self.shuffles else []
        return [*shuffled, (ZSTD, (LEVEL,))]

    def reads(self, filters: list[Filter]) -> bool:
        """Return whether that is how HDF5 was told of chunks, at whatever level."""
        numbers = [number for number, _ in filters]
        expected = [number for number, _ in self.filters]
        return numbers == expected and filters[:-1] == self.filters[:-1]

    def encode(self, array: NDArray[Any]) -> bytes:
        """Return the chunk of an array; the same array gives the same bytes."""
        content = array
        if self.shuffles:
            content = np.empty((self.dtype.itemsize, array.size), np.uint8)
            shuffle.split_bytes(array.reshape(-1).view(self._whole), content)
        return bytes(_context().compress(content.data))

    def decode(self, chunk: Any) -> NDArray[Any]:
        """Return the array of a chunk, read-only, or raise StoreError.

        No more memory is taken than an array needs, whatever the chunk says.
        """
        content = np.frombuffer(self._decompress(chunk), np.uint8)
        if self.shuffles:
            values = np.empty(prod(self.shape), self._whole)
            shuffle.join_bytes(content.reshape(self.dtype.itemsize, -1), values)
            values.flags.writeable = False
        else:
            values = content
        return values.view(self.dtype).reshape(self.shape)

    @property
    def _whole(self) -> str:
        """Kernels take values as unsigned numbers."""
        return f"<u{self.dtype.itemsize}"

    def _decompress(self, chunk: Any) -> bytes:
        zstd, size = _zstandard(), self.size
        try:
            frame = zstd.get_frame_parameters(chunk)
            if frame.content_size != size:
                raise StoreError(f"promises {frame.content_size} bytes, not {size}")
            if size > len(chunk) * MOST_RATIO or frame.window_size > max(size, 1024):
                raise StoreError("asks for more memory than it can need")
            content = _context().decompress(chunk, allow_extra_data=False)
        except zstd.ZstdError as exc:
            raise StoreError(f"cannot be decompressed ({exc})") from None
        if len(content) != size:  # a skippable frame holds nothing
            raise StoreError(f"holds {len(content)} bytes, not {size}")
        return bytes(content)


def codecs(bucket: Bucket, masks: np.dtype[Any]) -> tuple[Codec, Codec]:
    """Return the codecs of a bucket's images and of its masks, of that dtype.

    Images are shuffled: their high bytes make long runs, as masks do by themselves.
    """
    shuffles = bucket.dtype.itemsize > 1
    return Codec(bucket.shape, bucket.dtype, shuffles), Codec(
        bucket.shape, masks, False
    )


def chunk_index(dataset: Any) -> NDArray[np.int64]:
    """Return where HDF5 has each chunk of an open dataset, and its bytes: (n, 2).

    Zeros stand for a chunk that is not there or that a filter has left out.
    """
    index = np.zeros((len(dataset), 2), np.int64)

    def note(chunk: Any) -> None:
        if chunk.filter_mask == 0:
            index[chunk.chunk_offset[0]] = chunk.byte_offset, chunk.size

    dataset.id.chunk_iter(note)
    return index


def require(purpose: str) -> None:
    """Raise MissingExtraError if the package for zstd is not installed."""
    try:
        _zstandard()
    except ImportError:
        raise missing_extra(purpose, "compress") from None


def version() -> str:
    """Return the version of zstd: others may make other bytes of the same array."""
    return ".".join(map(str, _zstandard().ZSTD_VERSION))


def _zstandard() -> ModuleType:
    import zstandard

    return zstandard


class _Context:
    """What zstd keeps from one call to the next."""

    def __init__(self) -> None:
        zstd = _zstandard()
        self.compress = zstd.ZstdCompressor(level=LEVEL).compress
        self.decompress = zstd.ZstdDecompressor().decompress


def _context() -> _Context:
    """Return this thread's context, which no other may use."""
    if not hasattr(_contexts, "own"):
        _contexts.own = _Context()
    own: _Context = _contexts.own
    return own
