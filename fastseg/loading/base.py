"""What all loaders do: threads fill batches, a few ahead of the consumer."""

import weakref
from collections.abc import Generator, Iterator, Mapping
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Literal, Self, get_args

import numpy as np

from fastseg.bounds import MAX_PREFETCH
from fastseg.errors import OptionError, choice, true_or_false, whole_number
from fastseg.loading import state
from fastseg.loading.batch_queue import BatchQueue, PendingBatch
from fastseg.loading.batches import Batch
from fastseg.loading.buffers import BufferPool
from fastseg.loading.normalization import ValueStatistics
from fastseg.loading.preprocessing import Preprocessing
from fastseg.loading.schedule import Schedule
from fastseg.loading.stats import Counters, Stats
from fastseg.reprs import listed, many, once_made, short
from fastseg.store.reader import Store
from fastseg.threads import WorkerPool, check_threads, usable_cores

# The default is at most this many threads, because a training script needs cores for
# other work, and because memory limits plain batches: two threads make 1.5 times as
# many as one. Two threads augment 1.9 times as many (docs/benchmarks.md).
MOST_DEFAULT_THREADS = 4
# While the store has to be read from the disk, the system is asked for the pixels of
# this many batches in advance.
READ_AHEAD_BATCHES = 8
# If all buffers together are larger than this, they do not stay in the caches, and
# kernels write past the caches.
STREAM_FROM_BYTES = 2**23
OnError = Literal["raise", "skip"]

ON_ERROR = get_args(OnError)


class BatchLoader:
    """Iterates over the batches of a schedule; the base class of loaders.

    A subclass makes the Schedule, which orders entries, and the Preprocessing, which
    makes batches of entries, and calls `_prepare`. `_options` are the arguments of its
    constructor, but for the store.
    """

    # What an entry of the schedule is, in one word.
    _entry = "sample"

    store: Store
    schedule: Schedule
    preprocessing: Preprocessing
    _options: Mapping[str, Any]

    def _prepare(
        self,
        *,
        threads: int | None,
        prefetch: int,
        on_error: OnError,
        return_params: bool,
    ) -> None:
        """Check the options of the work, and allocate what loops share."""
        if threads is None:
            threads = min(usable_cores(), MOST_DEFAULT_THREADS)
        self.threads = check_threads(threads)
        self.prefetch = whole_number("prefetch", prefetch, 1, MAX_PREFETCH)
        self.on_error = choice("on_error", on_error, ON_ERROR)
        self.return_params = true_or_false("return_params", return_params)
        if self.return_params and self.preprocessing.format.augment is None:
            raise OptionError(
                "return_params is given without augment: give both, or leave it out"
            )
        # Error text of each skipped sample, by its index in the store; of a volume, the
        # one of the last patch that was skipped.
        self.skipped: dict[int, str] = {}
        self._counters = Counters()
        preprocessing = self.preprocessing
        self.batch_size = self.schedule.batch_size
        count = self.schedule.largest_batch
        image = (count, *preprocessing.image_shape), preprocessing.image_dtype
        mask = (count, *preprocessing.mask_shape), preprocessing.mask_dtype
        # `prefetch` batches ahead, the one that the consumer waits for, and the one
        # that it uses.
        buffers = self.prefetch + 2
        self._pool = BufferPool([image, mask], buffers)
        preprocessing.streams = (
            buffers * count * preprocessing.sample_bytes > STREAM_FROM_BYTES
        )
        # Of loops; each reference removes itself when its pool is collected. Unlike
        # those of a WeakSet, all steps are single calls into C, which no interrupt
        # leaves half done.
        self._worker_pools: set[weakref.ref[WorkerPool[Any, Any]]] = set()
        # Epoch and batch at which the next loop starts.
        self._start = (0, 0)
        # Epoch and batch that follow the batch that the consumer got last.
        self._position = (0, 0)

    def __len__(self) -> int:
        return len(self.schedule)

    @once_made("_position")
    def __repr__(self) -> str:
        preprocessing = self.preprocessing
        schedule = self.schedule
        count = many(len(schedule.indices), self._entry)
        words = [f"{count} in {many(len(self), 'batch')} of {self.batch_size}"]
        if schedule.world_size > 1:
            words.append(f"rank {schedule.rank} of {schedule.world_size}")
        words += [
            f"image {_describe(preprocessing.image_shape, preprocessing.image_dtype)}",
            f"mask {_describe(preprocessing.mask_shape, preprocessing.mask_dtype)} "
            f"({short(preprocessing.format.masks)})",
        ]
        augment = preprocessing.format.augment
        if augment is not None:
            steps = [type(step).__name__ for step in augment]
            words.append(f"augment {listed(steps)}")
        words.append(many(self.threads, "thread"))
        if self.store.state:
            words.append(f"store {self.store.state}")
        name = type(self).__name__
        return f"<{name} of {short(self.store.name)}: {', '.join(words)}>"

    def __getitem__(self, index: object) -> Any:
        raise TypeError(
            f"a {type(self).__name__} has no batch by number: next(iter(loader)) is "
            "one, for batch in loader all of an epoch, and store[k] is a sample"
        )

    @property
    def value_statistics(self) -> ValueStatistics | None:
        """By what "foreground" scales, to be given to other loaders; else None."""
        return self.preprocessing.value_statistics

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next loop loads; may be set."""
        return self._start[0]

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._start = (whole_number("epoch", epoch, 0, 2**64 - 1), 0)
        self._position = self._start

    def __iter__(self) -> Iterator[Batch]:
        self.store.check()
        self._position = self._start
        return self._run()

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which `load_state_dict` resumes, a dict for JSON.

        The resumed loop starts with the batch after the one that the consumer got
        last, however many have been made ahead.
        """
        epoch, batch = self._position
        return {"epoch": epoch, "batch": batch, **self._identity}

    def load_state_dict(self, given: Mapping[str, Any]) -> None:
        """Make the next loop continue where `state_dict` was called.

        The batches are the same, bit for bit, whatever `threads` and `prefetch` are.
        A rank may load the state of any other rank. Raises StateError for a state of
        another store, seed or configuration.
        """
        self._start = state.parse_state(given, self._identity, len(self))
        self._position = self._start

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return state.identify(self.store, self.schedule, self.preprocessing.identity())

    def replay(self, params: Mapping[str, Any]) -> Batch:
        """Make a batch again from its `params`.

        They may come from a loader of another store with the same transforms, if entry
        i of both shows the same anatomy, as in two sequences of one scan. Raises
        OptionError if they do not fit.
        """
        batch = self.preprocessing.replay(params)
        self.store.check()  # it may have changed while it was read
        return batch

    def stats(self) -> Stats:
        """Return counts, times and the bottleneck of all loops so far."""
        return self._counters.stats(
            threads=self.threads,
            prefetch=self.prefetch,
            skipped=len(self.skipped),
            buffer_bytes=self._pool.total_bytes,
        )

    def close(self) -> None:
        """End all loops and free the unused buffers. The loader can still be used."""
        references = list(self._worker_pools)
        pools = [pool for pool in (each() for each in references) if pool is not None]
        for pool in pools:  # all, before an interrupt can come while waiting for one
            pool.end()
        for pool in pools:
            pool.close()
        self._pool.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> Any:
        # `missing` has its default filled in, so that the copy does not warn again.
        make = partial(
            type(self),
            **{**self._options, "missing": self.preprocessing.format.missing},
        )
        return make, (self.store,), (self._start, self._position)

    def __setstate__(self, positions: Any) -> None:
        self._start, self._position = positions

    def _run(self) -> Generator[Batch, None, None]:
        """Yield the batches of the next epoch, from the one on at which it starts.

        The epoch is used up when its first batch is asked for: Lightning calls `iter`
        twice before it trains, and drops the first iterator.
        """
        epoch, first = self._position = self._start
        self._start = (epoch + 1, 0)
        queue = BatchQueue(self.preprocessing, self._pool, self.threads, self._counters)
        pools = self._worker_pools
        pools.add(weakref.ref(queue.workers, pools.discard))
        with queue, queue:  # twice, see WorkerPool
            self._counters.start_loop()
            try:
                for pending in self._finished_batches(queue, epoch, first):
                    self._handle_failures(pending)
                    count = len(pending.entries) - len(pending.failures)
                    self._counters.add_batch(count)
                    if count:
                        yield self._deliver(pending)
                    else:
                        self._position = self._after(pending)
            finally:
                # Add the time since the last batch.
                self._counters.add_batch(0)

    def _deliver(self, pending: PendingBatch) -> Batch:
        """Return a finished batch, and move the position behind it at the last moment.

        So a batch that an interrupt takes away is not counted as one that the consumer
        got. The store is checked again, because the batch may be of bytes that have
        been changed after the check before it was made; all of it for the last batch.
        """
        if pending.number + 1 < len(self):
            self.store.check_regularly()
        else:
            self.store.check()
        image, mask, entries, corners = pending.release()
        arrays = image, mask, entries, corners
        batch = self.preprocessing.assemble(
            *arrays, pending.epoch, with_params=self.return_params
        )
        self._position = self._after(pending)
        return batch

    def _after(self, pending: PendingBatch) -> tuple[int, int]:
        """Return epoch and number of the batch that follows a batch."""
        after = pending.number + 1
        return (pending.epoch, after) if after < len(self) else (pending.epoch + 1, 0)

    def _finished_batches(
        self, queue: BatchQueue, epoch: int, first: int
    ) -> Iterator[PendingBatch]:
        """Yield each batch when it is finished and `prefetch` later ones are queued."""
        entries, bounds = self.schedule.epoch(epoch)
        requested = first  # batches before this one have been read ahead
        for k in range(first, len(self)):
            if self._counters.is_cold():
                start = max(requested, k)
                requested = min(k + READ_AHEAD_BATCHES, len(self))
                wanted = entries[bounds[start] : bounds[requested]]
                self.preprocessing.read_ahead(wanted, epoch)
            chosen = entries[bounds[k] : bounds[k + 1]].copy()
            queue.submit(PendingBatch(epoch, k, chosen))
            if len(queue) > self.prefetch:
                yield queue.pop()
        while len(queue):
            yield queue.pop()

    def _handle_failures(self, pending: PendingBatch) -> None:
        """Raise the exception of the first failed entry, or add all to `skipped`."""
        if not pending.failures:
            return
        unchanged = self.store.is_unchanged
        fatal = [k for k, exc in pending.failures.items() if self._is_fatal(exc)]
        if fatal or not unchanged:
            first = min(fatal or pending.failures)
            exc = pending.failures[first]
            name = self.preprocessing.describe_entry(int(pending.entries[first]))
            exc.add_note(
                f"while making {name}, for batch {pending.number} of epoch "
                f"{pending.epoch}"
            )
            raise exc
        for k, exc in pending.failures.items():
            self.skipped[self.preprocessing.index_of(int(pending.entries[k]))] = (
                f"{type(exc).__name__}: {exc}"
            )

    def _is_fatal(self, exc: BaseException) -> bool:
        return self.on_error == "raise" or not isinstance(exc, Exception)


def _describe(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    return f"{dtype.name} {'x'.join(map(str, shape))}"
