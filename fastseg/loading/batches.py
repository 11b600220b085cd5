"""Batches in the making: shares of them go to threads, and come back in any order."""

import contextlib
from collections import deque
from collections.abc import Iterator
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
from fastseg.loading.workers import WorkerPool

# A thread is not called for less than so much of a batch.
LEAST_SHARE_BYTES = 2**18


@dataclass(frozen=True, slots=True)
class Batch:
    """Stacked samples, yours to keep; `image, mask = batch` takes them apart.

    image : float32 (B, 1, h, w), or as the loader's `dtype` says
    mask  : as the loader's `masks` says
    index : int64 (B,), the samples' places in the store
    params : what was drawn for them, if the loader was told to return it: a dict for
        JSON, which `Loader.replay` takes

    The arrays can be written to, and speak DLPack, so that other libraries take them
    without a copy. Their memory is used for another batch when nothing refers to them
    any more, views and tensors included.
    """

    image: NDArray[Any]
    mask: NDArray[Any]
    index: NDArray[np.int64]
    params: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return iter((self.image, self.mask))

    def __len__(self) -> int:
        return len(self.index)


@dataclass(slots=True, eq=False)
class PendingBatch:
    """A batch that is being made.

    epoch, number : which batch of which epoch
    samples  : int64 (b,), places in the store
    left     : shares that are not done yet
    failures : what went wrong, by place in the batch
    """

    epoch: int
    number: int
    samples: NDArray[np.int64]
    left: int = 0
    failures: dict[int, BaseException] = field(default_factory=dict)
    _arrays: list[NDArray[Any]] | None = None
    _lock: Any = field(default_factory=Lock)

    def arrays(self, pool: BufferPool) -> list[NDArray[Any]]:
        """Return image and mask, which are got when the first thread needs them.

        Where batches are taken as soon as they are made, few are in use at a time, and
        these stay in the caches: 1.2 times the speed of having them from the start.
        """
        with self._lock:
            if self._arrays is None:
                self._arrays = pool.take(len(self.samples))
            return self._arrays

    def hand_over(self) -> Batch:
        """Return the batch, without what failed, and forget it.

        So its memory is free as soon as whoever gets it lets go.
        """
        assert self._arrays is not None, "no thread has begun"
        (image, mask), self._arrays = self._arrays, None
        if not self.failures:
            return Batch(image, mask, self.samples)
        good = np.delete(np.arange(len(self.samples)), list(self.failures))
        return Batch(image[good], mask[good], self.samples[good])


Task = tuple[PendingBatch, slice]
Result = tuple[PendingBatch, StageTimes, dict[int, BaseException]]


class BatchQueue:
    """Jobs in their order, and the threads that do them. To be used in `with`."""

    def __init__(
        self,
        preprocessing: Preprocessing,
        pool: BufferPool,
        threads: int,
        meter: Counters,
    ):
        work = partial(_fill, preprocessing, pool)
        self.crew: WorkerPool[Task, Result] = WorkerPool(
            threads, work, "fastseg-loader"
        )
        self._threads, self._meter = threads, meter
        self._sample_bytes = preprocessing.sample_bytes
        self._jobs: deque[PendingBatch] = deque()
        self._done = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def __enter__(self) -> "BatchQueue":
        return self

    def __exit__(self, *_: object) -> None:
        self.crew.close()

    def begin(self, job: PendingBatch) -> None:
        """Give a job to the threads, in shares: one batch keeps all of them busy.

        It stays whole where they have enough to do: each call hands over Python's lock.
        """
        count = len(job.samples)
        size = count * self._sample_bytes
        job.left = min(self._threads, count, 1 + size // LEAST_SHARE_BYTES)
        if len(self._jobs) - self._done >= self._threads:
            job.left = 1
        self._jobs.append(job)
        ends = [count * k // job.left for k in range(job.left + 1)]
        for start, stop in pairwise(ends):
            self.crew.give((job, slice(start, stop)))

    def finish(self) -> PendingBatch:
        """Wait for the job that was begun first, and return it."""
        for _ in range(self.crew.ready):
            self._receive()
        ready, began = self._done, perf_counter()
        job = self._jobs.popleft()
        while job.left:
            self._receive()
        self._done -= 1
        self._meter.waited(perf_counter() - began, ready)
        return job

    def _receive(self) -> None:
        job, spent, failures = self.crew.take()
        self._meter.spent(spent)
        job.failures |= failures
        job.left -= 1
        self._done += not job.left


def _fill(preprocessing: Preprocessing, pool: BufferPool, task: Task) -> Result:
    """Fill a share of a batch, in a thread; what goes wrong is part of the result."""
    job, part = task
    samples = job.samples[part]
    try:
        image, mask = (array[part] for array in job.arrays(pool))
    except BaseException as exc:  # there is no memory
        return job, StageTimes(), {part.start: exc}
    with contextlib.suppress(BaseException):
        return job, preprocessing.fill(samples, image, mask, job.epoch), {}
    # Which of the samples it was, is found by making them one by one.
    failures: dict[int, BaseException] = {}
    for j in range(len(samples)):
        one = slice(j, j + 1)
        try:
            preprocessing.fill(samples[one], image[one], mask[one], job.epoch)
        except BaseException as exc:
            failures[part.start + j] = exc
    return job, StageTimes(), failures
