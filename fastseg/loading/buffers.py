"""Memory for batches, reused when no array refers to it any more."""

import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

# A cache line, in bytes: vector instructions may write a whole one.
ALIGNMENT = 64


class BufferPool:
    """Allocates the arrays of batches and reuses their memory.

    arrays   : shape and dtype of each array of a batch; the first axis is the sample
    max_free : number of unused buffers that are kept for later batches; further ones
        are freed

    A buffer becomes unused when the last array or view that refers to it is deleted.
    """

    def __init__(
        self, arrays: Sequence[tuple[tuple[int, ...], DTypeLike]], max_free: int
    ):
        self.max_free = max_free
        # Offset in a buffer, shape and dtype of each array.
        self._layout: list[tuple[int, tuple[int, ...], np.dtype[Any]]] = []
        self.buffer_bytes = 0
        for shape, dtype in arrays:
            self._layout.append((self.buffer_bytes, shape, np.dtype(dtype)))
            size = math.prod(shape) * np.dtype(dtype).itemsize
            self.buffer_bytes += -(-size // ALIGNMENT) * ALIGNMENT
        self._free: list[memoryview] = []
        # Keyed by the id of the weak reference, because arrays cannot be hashed.
        self._in_use: dict[int, tuple[weakref.ref[Any], memoryview]] = {}

    def allocate(self, count: int) -> list[NDArray[Any]]:
        """Return the arrays of a batch of `count` samples, aligned, not initialized."""
        try:
            memory = self._free.pop()  # the last one, most likely still in the caches
        except IndexError:
            memory = _allocate_aligned(self.buffer_bytes)
        # numpy makes a view of a view refer to the first array of the chain. This is
        # the first one, because its own base is a memoryview: it lives as long as any
        # view.
        whole = np.frombuffer(memory, np.uint8)
        reference = weakref.ref(whole, self._reclaim)
        self._in_use[id(reference)] = reference, memory
        return [
            np.ndarray((count, *shape[1:]), dtype, whole, start)
            for start, shape, dtype in self._layout
        ]

    @property
    def total_bytes(self) -> int:
        """Bytes of all buffers, in use and free."""
        return self.buffer_bytes * (len(self._free) + len(self._in_use))

    def clear(self) -> None:
        """Free the unused buffers. Those in use stay valid."""
        self._free.clear()

    def _reclaim(self, reference: Any) -> None:
        # Python calls this in the thread that deletes the last view.
        _, memory = self._in_use.pop(id(reference))
        if len(self._free) < self.max_free:
            self._free.append(memory)


def _allocate_aligned(size: int) -> memoryview:
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memoryview(memory[start : start + size])  # type: ignore[arg-type]
