"""Memory for batches, used again when nothing refers to a batch any more."""

import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

# A cache line: vector instructions may store whole ones.
ALIGNMENT = 64


class BufferPool:
    """Hands out arrays for batches, and takes their memory back by itself.

    arrays : shape and dtype of each array of a batch; the first axis is the sample
    most   : the memory of so many batches is kept for the next ones, others' is freed

    When the last view of a batch's arrays is gone, wherever it has been kept, their
    memory may be used again.
    """

    def __init__(self, arrays: Sequence[tuple[tuple[int, ...], DTypeLike]], most: int):
        self.most = most
        self._parts: list[tuple[int, tuple[int, ...], np.dtype[Any]]] = []
        self._size = 0
        for shape, dtype in arrays:
            self._parts.append((self._size, shape, np.dtype(dtype)))
            size = math.prod(shape) * np.dtype(dtype).itemsize
            self._size += -(-size // ALIGNMENT) * ALIGNMENT
        self._free: list[memoryview] = []
        # By the id of the reference that tells when it is free; arrays have no hash.
        self._lent: dict[int, tuple[weakref.ref[Any], memoryview]] = {}

    def take(self, count: int) -> list[NDArray[Any]]:
        """Return the arrays, aligned, of their first `count` samples each.

        In them is whatever was there before.
        """
        try:
            memory = self._free.pop()  # the last one, which the caches know best
        except IndexError:
            memory = _allocate(self._size)
        # numpy lets views of views refer to the first array; that of a memoryview
        # ends there. So it lives as long as any of them.
        whole = np.frombuffer(memory, np.uint8)
        reference = weakref.ref(whole, self._take_back)
        self._lent[id(reference)] = reference, memory
        return [
            np.ndarray((count, *shape[1:]), dtype, whole, start)
            for start, shape, dtype in self._parts
        ]

    @property
    def held(self) -> int:
        """Bytes of all memory that is handed out or kept."""
        return self._size * (len(self._free) + len(self._lent))

    def clear(self) -> None:
        """Free what is kept; what is handed out stays with its holders."""
        self._free.clear()

    def _take_back(self, reference: Any) -> None:
        # Called in whatever thread drops the last view.
        _, memory = self._lent.pop(id(reference))
        if len(self._free) < self.most:
            self._free.append(memory)


def _allocate(size: int) -> memoryview:
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memoryview(memory[start : start + size])  # type: ignore[arg-type]
