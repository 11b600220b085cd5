"""Memory for batches, reused when no array refers to it any more."""

import math
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

# A cache line, in bytes: vector instructions may write a whole one.
ALIGNMENT = 64


class _Reference(weakref.ref[Any]):
    """A weak reference to an array, with what its callback keeps or drops.

    It can be an element of a set, although arrays have no hash.
    """

    __slots__ = ("holds",)
    holds: Any
    __hash__ = object.__hash__
    __eq__ = object.__eq__


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
        # When the last view of a batch is deleted, two callbacks run: one appends a
        # reference that holds the memory to `_free`, the other removes a reference that
        # holds the first one from `_in_use`. Both are calls into C: an interrupt can
        # neither be lost in them nor leave them half done.
        self._free: deque[_Reference] = deque(maxlen=max_free)
        self._in_use: set[_Reference] = set()

    def allocate(self, count: int) -> list[NDArray[Any]]:
        """Return the arrays of a batch of `count` samples, aligned, not initialized."""
        try:
            # The last one is most likely still in the caches.
            memory = self._free.pop().holds
        except IndexError:
            memory = _allocate_aligned(self.buffer_bytes)
        # numpy makes a view of a view refer to the first array of the chain. This is
        # the first one, because its own base is a memoryview: it lives as long as any
        # view.
        whole = np.frombuffer(memory, np.uint8)
        to_free = _Reference(whole, self._free.append)
        to_free.holds = memory
        in_use = _Reference(whole, self._in_use.discard)
        in_use.holds = to_free
        self._in_use.add(in_use)
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


def _allocate_aligned(size: int) -> memoryview:
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memoryview(memory[start : start + size])  # type: ignore[arg-type]
