"""Write memory past the caches, with non-temporal stores.

A batch is larger than the caches, and several more are written before it is read. An
ordinary store first reads the line of memory into a cache, and evicts data that is in
use. A non-temporal store does neither: where the memory of several batches is used in
turn, two threads make 1.3 times as many batches.
"""

from typing import Any

from fastseg._kernels.jit import INTERPRETED, intrinsic

# Values to compute in the first-level cache before `put` writes them.
CHUNK = 1024

if INTERPRETED:

    def put(values: Any, count: int, cells: Any, start: int, streams: bool) -> None:
        """Copy values[:count] to cells[start : start + count].

        values, cells : 1-D, C-contiguous, of the same dtype
        streams : whether to write past the caches; then call `settle` after the last
            write
        """
        cells[start : start + count] = values[:count]

    def settle() -> None:
        """Make all streamed writes visible to other cores."""

else:
    # Built as LLVM instructions: a numba function would count references to its arrays,
    # which drains the buffers of non-temporal stores and halves the speed.
    put = intrinsic("put")
    settle = intrinsic("settle")
