"""The queue of batches that threads fill, each divided into ranges of entries."""

import contextlib
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from threading import Lock
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.loading.buffers import BufferPool
from fastseg.loading.preprocessing import Preprocessing, StageTimes
from fastseg.loading.stats import Counters
from fastseg.threads import WorkerPool

# A batch is divided among threads only into ranges of at least this size.
MIN_RANGE_BYTES = 2**18


@dataclass(slots=True, eq=False)
class PendingBatch:
    """A batch that threads are filling.

    epoch, number : number of the epoch, and of the batch in it
    entries    : int64 (b,), what the schedule orders: samples or patches
    corners    : int64 (b, 3), of patches, see `Batch`
    unfinished : number of ranges of entries that are not done
    failures   : exceptions, by index in `entries`
    """

    epoch: int
    number: int
    entries: NDArray[np.int64]
    unfinished: int = 0
    failures: dict[int, BaseException] = field(default_factory=dict)
    corners: NDArray[np.int64] = field(init=False)
    _arrays: list[NDArray[Any]] | None = None
    _lock: Any = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self.corners = np.empty((len(self.entries), 3), np.int64)

    def arrays(self, pool: BufferPool) -> list[NDArray[Any]]:
        """Return image and mask, allocated when the first thread asks for them.

        If the consumer takes batches as soon as they are done, few buffers are in use
        at a time, and they stay in the caches: 1.2 times the speed of allocating all
        of them in advance.
        """
        with self._lock:
            if self._arrays is None:
                self._arrays = pool.allocate(len(self.entries))
            return self._arrays

    def release(self) -> list[NDArray[Any]]:
        """Return image, mask, entries and corners without what failed; drop the arrays.

        So the consumer holds the only reference to their memory.
        """
        assert self._arrays is not None, "no thread has started"
        arrays = [*self._arrays, self.entries, self.corners]
        self._arrays = None
        if self.failures:
            valid = np.delete(np.arange(len(self.entries)), list(self.failures))
            arrays = [array[valid] for array in arrays]
        return arrays


Task = tuple[PendingBatch, slice]
Result = tuple[PendingBatch, StageTimes, dict[int, BaseException]]


class BatchQueue:
    """Batches in their order, and the threads that fill them.

    Use it in `with queue, queue:`, as a WorkerPool. Threads start with the first batch.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        pool: BufferPool,
        threads: int,
        counters: Counters,
    ):
        function = partial(_fill_range, preprocessing, pool)
        self.workers: WorkerPool[Task, Result] = WorkerPool(
            threads, function, "fastseg-loader"
        )
        self._threads = threads
        self._counters = counters
        self._sample_bytes = preprocessing.sample_bytes
        self._batches: deque[PendingBatch] = deque()
        self._finished = 0

    def __len__(self) -> int:
        return len(self._batches)

    def __enter__(self) -> "BatchQueue":
        return self

    def __exit__(self, *_: object) -> None:
        self.workers.close()

    def submit(self, batch: PendingBatch) -> None:
        """Append a batch, divided into ranges so that all threads work on it.

        It stays whole if the threads have enough other batches to fill, because each
        task has to acquire Python's interpreter lock.
        """
        count = len(batch.entries)
        size = count * self._sample_bytes
        ranges = min(self._threads, count, 1 + size // MIN_RANGE_BYTES)
        if len(self._batches) - self._finished >= self._threads:
            ranges = 1
        batch.unfinished = ranges
        self._batches.append(batch)
        ends = [count * k // ranges for k in range(ranges + 1)]
        for start, stop in pairwise(ends):
            self.workers.submit((batch, slice(start, stop)))

    def pop(self) -> PendingBatch:
        """Remove the first batch, wait until it is finished, and return it."""
        for _ in range(self.workers.results_ready):
            self._receive_result()
        ready = self._finished
        started = perf_counter()
        batch = self._batches.popleft()
        while batch.unfinished:
            self._receive_result()
        self._finished -= 1
        self._counters.add_wait(perf_counter() - started, ready)
        return batch

    def _receive_result(self) -> None:
        batch, times, failures = self.workers.get_result()
        self._counters.add_stage_times(times)
        batch.failures |= failures
        batch.unfinished -= 1
        self._finished += not batch.unfinished


def _fill_range(preprocessing: Preprocessing, pool: BufferPool, task: Task) -> Result:
    """Fill a range of a batch in a worker thread; return exceptions, never raise."""
    batch, span = task
    entries = batch.entries[span]
    try:
        image, mask = (array[span] for array in batch.arrays(pool))
    except BaseException as exc:  # out of memory
        return batch, StageTimes(), {span.start: exc}
    corners = batch.corners[span]
    with contextlib.suppress(BaseException):
        times = preprocessing.fill(entries, image, mask, batch.epoch, corners)
        return batch, times, {}
    # Fill the entries one by one to find those that fail.
    failures: dict[int, BaseException] = {}
    for j in range(len(entries)):
        one = slice(j, j + 1)
        try:
            arrays = entries[one], image[one], mask[one]
            preprocessing.fill(*arrays, batch.epoch, corners[one])
        except BaseException as exc:
            failures[span.start + j] = exc
    return batch, StageTimes(), failures
