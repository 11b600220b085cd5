"""`bench`: how fast a Loader makes batches, compared with copying memory."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from threading import Event, Thread
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.calls import check_call
from fastseg.errors import OptionError, real_number, whole_number
from fastseg.loading.loader import Loader
from fastseg.loading.stats import FULLY_BUSY, WORK, Stats
from fastseg.paths import StrPath
from fastseg.progress import Advance, Progress, silent
from fastseg.store.reader import Store, as_store
from fastseg.threads import map_ordered, usable_cores

# Bytes that are copied from: more than the caches of a processor hold, as in a store.
SOURCE_BYTES = 2**28
# If the Loader is this near to the speed of copying, memory limits it: making a sample
# also reads what is stored.
NEAR_COPYING = 0.5
# If the fastest round is this many times as fast as the slowest, other programs are
# likely to use the machine.
UNSTEADY = 1.5
# How often each measurement reports its progress.
TICKS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """The measurements of `bench`. Rates are in samples per second, times in seconds.

    batch_size, threads, prefetch : of the loader
    sample_bytes : of one sample in a batch, image and mask
    first_batch  : from making a loader to its first batch; kernels are compiled, or
        loaded from the disk
    next_batch   : the same for a second loader, with the kernels in memory
    first_epoch  : rate of the first epoch, of at most `seconds`; the store may have
        to be read from the disk
    rates        : of the loader, one of each round
    copy_rates   : of copying batches of the same size in memory with the same number of
        threads, one of each round
    stats        : of the loader
    """

    batch_size: int
    threads: int
    prefetch: int
    sample_bytes: int
    first_batch: float
    next_batch: float
    first_epoch: float
    rates: tuple[float, ...]
    copy_rates: tuple[float, ...]
    stats: Stats

    @property
    def rate(self) -> float:
        """Median of `rates`."""
        return statistics.median(self.rates)

    @property
    def share(self) -> float:
        """Median, over the rounds, of the loader's rate divided by that of copying."""
        pairs = zip(self.rates, self.copy_rates, strict=True)
        return statistics.median(ours / copy for ours, copy in pairs)

    @property
    def bottleneck(self) -> str:
        """What limits the rate, and what could be done about it, in a few sentences.

        Unlike that of `stats`, it does not count the loop's waiting as a fault: a loop
        that does nothing with its batches can only wait for the next one.
        """
        text = (
            f"The Loader reaches {self.share:.0%} of the speed of copying memory. "
            f"{self._limit}"
        )
        ratio = max(self.rates) / min(self.rates)
        if ratio > UNSTEADY:
            text += (
                f" The fastest round is {ratio:.1f} times as fast as the slowest: "
                "measure again when no other program uses the machine."
            )
        return text

    @property
    def _limit(self) -> str:
        stats = self.stats
        if stats.is_cold:
            return (
                "The disk limits it, with "
                f"{stats.disk_reads_per_batch:.0f} reads for each batch. It will be "
                "faster once the store is in memory, if it fits."
            )
        if stats.starts_often:
            return (
                "The start of each epoch limits it, when threads start and no batch is "
                f"ready: the mean loop has {stats.batches / stats.loops:.0f} batches. "
                "Measure a larger store, or smaller batches."
            )
        if stats.busy < FULLY_BUSY:
            return (
                f"The threads are busy for {stats.busy:.0%} of their time: Python's "
                "interpreter lock limits it, or other programs that use the cores. "
                "Larger batches need the lock less often."
            )
        if self.share > NEAR_COPYING:
            return (
                "Memory limits it: only smaller samples would be faster, as with "
                'another size or dtype="float16".'
            )
        stage, fraction = stats.longest_stage
        cores = usable_cores()
        more = (
            f"threads={cores} would use all cores."
            if self.threads < cores
            else f"More cores than {cores} would be faster."
        )
        return (
            f"The work of the threads limits it, {fraction:.0%} of which is "
            f"{WORK[stage]}. {more}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a dict that JSON can hold."""
        return {
            **asdict(self),
            "rate": self.rate,
            "share": self.share,
            "bottleneck": self.bottleneck,
        }


@check_call()
def bench(
    store: Store | StrPath,
    *,
    seconds: float = 0.5,
    rounds: int = 5,
    progress: Progress = silent,
    **options: Any,
) -> BenchReport:
    """Measure how fast a Loader makes batches if the loop does nothing with them.

    store    : a store, as `fastseg.open` returns it, or the path of one
    seconds  : in each round, for loading and again for copying
    rounds   : number of rounds
    progress : reports how far it is, see `fastseg.progress`
    options  : of the Loader

    Raises OptionError, and the errors of `Loader`.
    """
    rounds = whole_number("rounds", rounds, 1)
    if not real_number("seconds", seconds) > 0:
        raise OptionError(f"seconds is {seconds!r}, expected more than 0")
    store = as_store(store)
    with progress("first batch", 2) as advance:
        start = perf_counter()
        next(iter(Loader(store, **options)))
        first_batch = perf_counter() - start
        advance()
        start = perf_counter()
        loader = Loader(store, **options)
        next(iter(loader))
        next_batch = perf_counter() - start
        advance()
    # A batch is smaller than batch_size if fewer samples are chosen.
    count = loader.schedule.largest_batch
    copier = _Copier(count * loader.preprocessing.sample_bytes, loader.threads)
    pairs = []
    with progress("measure", (1 + 2 * rounds) * TICKS) as advance:
        with _ticking(seconds, advance):
            first_epoch = _rate(lambda: _load(loader, seconds, epochs=1))
        for _ in range(rounds):
            with _ticking(seconds, advance):
                rate = _rate(lambda: _load(loader, seconds))
            with _ticking(seconds, advance):
                copy_rate = _rate(lambda: copier.copy(seconds) * count)
            pairs.append((rate, copy_rate))
    rates, copy_rates = zip(*pairs, strict=True)
    return BenchReport(
        batch_size=count,
        threads=loader.threads,
        prefetch=loader.prefetch,
        sample_bytes=loader.preprocessing.sample_bytes,
        first_batch=first_batch,
        next_batch=next_batch,
        first_epoch=first_epoch,
        rates=rates,
        copy_rates=copy_rates,
        stats=loader.stats(),
    )


def _rate(work: Callable[[], int]) -> float:
    """Return samples per second of a function that returns its number of samples."""
    start = perf_counter()
    samples = work()
    return samples / (perf_counter() - start)


@contextmanager
def _ticking(seconds: float, advance: Advance) -> Iterator[None]:
    """Advance by TICKS in all while something runs that takes about so many seconds.

    A thread does it, so that what is measured has nothing else to do.
    """
    is_over = Event()
    done = 0

    def tick() -> None:
        nonlocal done
        while done < TICKS - 1 and not is_over.wait(seconds / TICKS):
            advance()
            done += 1

    thread = Thread(target=tick, name="fastseg-bench", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        advance(TICKS - done)


def _load(loader: Loader, seconds: float, epochs: int | None = None) -> int:
    """Load batches and return the number of samples.

    It ends after `seconds`, or after `epochs` if they take less.
    """
    samples = 0
    end = perf_counter() + seconds
    while epochs is None or epochs > 0:
        for batch in loader:
            samples += len(batch)
            if perf_counter() > end:
                return samples
        epochs = None if epochs is None else epochs - 1
    return samples


class _Copier:
    """Copies batches in memory with several threads, each into its own array."""

    def __init__(self, size: int, threads: int):
        self._source = np.zeros(max(SOURCE_BYTES, 2 * size), np.uint8)
        # Write to each page: pages that were never written share one page of zeros.
        self._source[::4096] = 1
        self._targets = [np.ones(size, np.uint8) for _ in range(threads)]

    def copy(self, seconds: float) -> int:
        """Copy for `seconds`; return the number of batches."""
        end = perf_counter() + seconds
        is_stopped = Event()

        def copy_batches(target: NDArray[Any]) -> int:
            count = 0
            starts = range(0, len(self._source) - len(target) + 1, len(target))
            while True:
                for start in starts:
                    np.copyto(target, self._source[start : start + len(target)])
                    count += 1
                    if perf_counter() > end or is_stopped.is_set():
                        return count

        counts = map_ordered(
            copy_batches, self._targets, len(self._targets), is_stopped.set
        )
        # Twice, because an interrupt may hit the first exit before it has closed.
        with closing(counts), closing(counts):
            return sum(counts)
