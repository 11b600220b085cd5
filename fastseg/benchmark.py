"""How fast a store is loaded on this machine, beside what its memory allows."""

import statistics
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.errors import OptionError
from fastseg.loading.loader import Loader
from fastseg.loading.stats import Stats
from fastseg.progress import Progress, silent
from fastseg.store.reader import Store

# Copied from, in turn: more than any cache holds, as a store is.
SOURCE_BYTES = 2**28


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """What `bench` has measured. Rates are in samples per second, times in seconds.

    batch_size, threads, prefetch : as they were
    sample_bytes : of one sample in a batch, image and mask
    first_batch  : from making the loader to its first batch, compiling kernels or
        loading them from the disk
    next_batch   : the same again, now that they are there
    first_epoch  : rate of the first epoch, cut off after `seconds`; the store may have
        to be read from the disk
    rates        : of all rounds
    copy_rates   : of copying batches of that size from memory to memory, by as many
        threads, measured in turn with `rates`
    wait_median, wait_p99 : for a batch
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
        """Median of the rates."""
        return statistics.median(self.rates)

    @property
    def share(self) -> float:
        """Median, over the rounds, of the loader's rate by that of copying."""
        pairs = zip(self.rates, self.copy_rates, strict=True)
        return statistics.median(ours / copy for ours, copy in pairs)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, for JSON."""
        return {
            **asdict(self),
            "rate": self.rate,
            "share": self.share,
            "bottleneck": self.stats.bottleneck,
        }


def bench(
    store: Store,
    *,
    seconds: float = 0.5,
    rounds: int = 5,
    progress: Progress = silent,
    **options: Any,
) -> BenchReport:
    """Measure how fast a Loader makes batches of a store, with nobody using them.

    seconds, rounds : of measuring, each for loading and for copying
    options : of the Loader

    Raises OptionError, and what `Loader` does.
    """
    if not (seconds > 0 and rounds >= 1):
        raise OptionError(
            f"seconds is {seconds!r} and rounds is {rounds!r}, expected more than 0"
        )
    began = perf_counter()
    next(iter(Loader(store, **options)))
    first_batch = perf_counter() - began
    began = perf_counter()
    loader = Loader(store, **options)
    next(iter(loader))
    next_batch = perf_counter() - began
    copier = _Copier(
        loader.batch_size * loader.preprocessing.sample_bytes, loader.threads
    )
    first_epoch = _rate(lambda: _load(loader, seconds, epochs=1))
    pairs = [
        (
            _rate(lambda: _load(loader, seconds)),
            _rate(lambda: copier.copy(seconds) * loader.batch_size),
        )
        for _ in progress(range(rounds), "measure", rounds)
    ]
    rates, copy_rates = zip(*pairs, strict=True)
    return BenchReport(
        batch_size=loader.batch_size,
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
    """Return the samples per second of work that returns how many it did."""
    began = perf_counter()
    samples = work()
    return samples / (perf_counter() - began)


def _load(loader: Loader, seconds: float, epochs: int | None = None) -> int:
    """Load batches for so long, or so many epochs; return the number of samples."""
    samples, end = 0, perf_counter() + seconds
    while epochs is None or epochs > 0:
        for batch in loader:
            samples += len(batch)
            if perf_counter() > end:
                return samples
        epochs = None if epochs is None else epochs - 1
    return samples


class _Copier:
    """Copies batches from memory to memory, by several threads, each into its own."""

    def __init__(self, size: int, threads: int):
        self._source = np.zeros(max(SOURCE_BYTES, 2 * size), np.uint8)
        self._source[::4096] = 1  # else there is one page of zeros behind it
        self._targets = [np.ones(size, np.uint8) for _ in range(threads)]

    def copy(self, seconds: float) -> int:
        """Copy for so long; return how many batches."""
        counts, end = [0] * len(self._targets), perf_counter() + seconds

        def work(number: int) -> None:
            target: NDArray[Any] = self._targets[number]
            starts = range(0, len(self._source) - len(target) + 1, len(target))
            while True:
                for start in starts:
                    np.copyto(target, self._source[start : start + len(target)])
                    counts[number] += 1
                    if perf_counter() > end:
                        return

        threads = [
            threading.Thread(target=work, args=(number,))
            for number in range(len(self._targets))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts)
