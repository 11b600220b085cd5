"""Counts and times of a loader, and its bottleneck."""

import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from fastseg.loading.preprocessing import StageTimes
from fastseg.threads import usable_cores

# The median and the 99th percentile are those of this many last waits.
MAX_WAITS = 4096
# If the consumer waits for less than this fraction of its time, it is the bottleneck.
SMALL_WAIT = 0.05
# The page cache counts as cold for this many batches after the last disk read.
COLD_BATCHES = 64
# If the threads work for less than this fraction of their time, they are not the
# bottleneck.
FULLY_BUSY = 0.7
# If this fraction of `prefetch` is ready on average, the threads are fast enough.
MOSTLY_READY = 0.5
# What the threads do in each stage, as the bottleneck names it.
WORK = {
    "read": "decompressing (stores built without --compress need none)",
    "image": "reading and scaling images",
    "mask": "making masks",
    "custom": "functions of Custom transforms",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counts and times of all loops over a loader since it was made.

    loops            : number of loops
    batches, samples : number that the consumer got
    skipped          : number of samples that failed and were left out
    seconds          : duration of all loops, including the consumer's work
    wait_seconds     : part of `seconds` in which the consumer waited for batches
    start_seconds    : part of `wait_seconds` in which it waited for the first batch of
        a loop, for which threads start, and kernels are compiled or loaded
    first_seconds    : part of `start_seconds` of the first loop
    wait_median, wait_p99 : median and 99th percentile of the waits for the last 4,096
        batches, in seconds
    ready            : mean number of batches that were ready when the consumer asked
        for one
    prefetch, threads : the loader's options
    stages           : seconds, summed over all threads: "read" (finding pixels, or
        decompressing them), "image" (copying, scaling and augmenting images; also
        masks, unless they are augmented), "mask", "custom" (functions of `Custom`)
    disk_reads       : number of times that the process had to wait for the disk (major
        page faults); None if the system does not report it
    buffer_bytes     : memory for batches, in use or kept for the next ones
    anonymous_bytes, mapped_bytes : memory of the whole process: its own, and the pages
        of files that it has mapped; None if the system does not report it
    """

    loops: int
    batches: int
    samples: int
    skipped: int
    seconds: float
    wait_seconds: float
    start_seconds: float
    first_seconds: float
    wait_median: float
    wait_p99: float
    ready: float
    prefetch: int
    threads: int
    stages: Mapping[str, float]
    disk_reads: int | None
    buffer_bytes: int
    anonymous_bytes: int | None
    mapped_bytes: int | None

    @property
    def samples_per_second(self) -> float:
        """Samples per second of the loops, including the consumer's work."""
        return self.samples / self.seconds if self.seconds else 0.0

    @property
    def busy(self) -> float:
        """Share of the loops' time in which the threads worked, 0 to 1."""
        if not self.seconds:
            return 0.0
        return min(sum(self.stages.values()) / self.seconds / self.threads, 1.0)

    @property
    def bottleneck(self) -> str:
        """One or two sentences on what limits the samples per second."""
        if not self.batches:
            return "Nothing has been loaded yet."
        fraction = self.wait_seconds / self.seconds
        if fraction < SMALL_WAIT:
            return (
                f"The consumer is the bottleneck: it waits for {fraction:.1%} of its "
                f"time, and the threads are busy for {self.busy:.0%} of theirs."
            )
        waits = f"The consumer waits for {fraction:.0%} of its time"
        if self.is_cold:
            return (
                f"{waits}, because the store is read from the disk: "
                f"{self.disk_reads_per_batch:.0f} reads for each batch. It will be "
                "faster once the store is in memory, if it fits."
            )
        if self.first_seconds > self.wait_seconds / 2:
            return (
                f"{waits}, mostly for the first batch of all, which took "
                f"{self.first_seconds:.1f} s: kernels are compiled when they are first "
                "used, or loaded from the disk. Later batches do not wait for that."
            )
        if self.starts_often:
            return (
                f"{waits}, mostly for the first batch of a loop, for which threads "
                "start and kernels are loaded. Loops of more batches (now "
                f"{self.batches / self.loops:.0f} on average) wait less."
            )
        if self.ready > MOSTLY_READY * self.prefetch:
            return (
                f"{waits}, though {self.ready:.1f} of {self.prefetch} batches are "
                "ready on average: some batches take much longer than others. A larger "
                "prefetch evens that out."
            )
        if self.busy < FULLY_BUSY:
            return (
                f"{waits}, while the threads are busy for {self.busy:.0%} of theirs: "
                "other work occupies the cores or Python's interpreter lock. Larger "
                "batches need the lock less often."
            )
        stage, fraction = self.longest_stage
        more = (
            f"; threads={usable_cores()} would use all cores"
            if self.threads < usable_cores()
            else ""
        )
        return (
            f"{waits}, for threads that spend {fraction:.0%} of theirs on "
            f"{WORK[stage]}{more}."
        )

    @property
    def disk_reads_per_batch(self) -> float:
        """Number of times that the process waited for the disk, for each batch."""
        return (self.disk_reads or 0) / self.batches if self.batches else 0.0

    @property
    def is_cold(self) -> bool:
        """Whether the disk is read more than once for each batch."""
        return self.disk_reads_per_batch > 1

    @property
    def starts_often(self) -> bool:
        """Whether the consumer waits mostly because loops start.

        If the threads are always busy, their work takes the time.
        """
        is_work = self.busy >= FULLY_BUSY
        return self.start_seconds > self.wait_seconds / 2 and not is_work

    @property
    def longest_stage(self) -> tuple[str, float]:
        """The stage that takes the threads longest, and its share of their work."""
        stage = max(self.stages, key=self.stages.__getitem__)
        total = sum(self.stages.values())
        return stage, self.stages[stage] / total if total else 0.0

    def __str__(self) -> str:
        lines = [
            f"{self.samples_per_second:,.0f} samples/s: {self.samples:,} samples in "
            f"{self.batches:,} batches in {self.seconds:.2f} s",
            f"consumer waited {self.wait_seconds:.2f} s; for one batch, median "
            f"{self.wait_median * 1e3:.2f} ms, 99th percentile "
            f"{self.wait_p99 * 1e3:.2f} ms",
            f"{self.ready:.1f} of {self.prefetch} batches were ready on average when "
            "the consumer asked for one",
            *self.work_lines(),
            self.bottleneck,
        ]
        return "\n".join(lines)

    def work_lines(self) -> list[str]:
        """Return lines on what the threads did, on memory and on skipped samples."""
        stages = ", ".join(f"{n} {s:.2f} s" for n, s in self.stages.items())
        noun = "thread" if self.threads == 1 else "threads"
        return [
            f"{self.threads} {noun}, busy for {self.busy:.0%}: {stages}",
            f"memory: batches {_megabytes(self.buffer_bytes)}, process "
            f"{_megabytes(self.anonymous_bytes)} of its own and "
            f"{_megabytes(self.mapped_bytes)} of mapped files",
            *([f"{self.skipped} samples skipped"] if self.skipped else []),
        ]


class Counters:
    """Sums of counts and times, for `Stats`; only threads of consumers change them."""

    def __init__(self) -> None:
        self._loops = 0
        self._is_start = False
        self._start_seconds = 0.0
        self._first_seconds = 0.0
        self._batches = 0
        self._samples = 0
        self._ready = 0
        self._seconds = 0.0
        self._wait_seconds = 0.0
        self._since = 0.0
        self._waits: deque[float] = deque(maxlen=MAX_WAITS)
        self._stage_times = [0] * len(StageTimes._fields)
        self._first_faults = major_faults()
        self._faults = self._first_faults
        self._cold_batches = 0

    def start_loop(self) -> None:
        """Note the time at which a loop starts."""
        self._since = perf_counter()
        self._loops += 1
        self._is_start = True

    def add_batch(self, samples: int) -> None:
        """Add a batch, unless it has 0 samples, and the time since the last call."""
        now = perf_counter()
        self._seconds += now - self._since
        self._since = now
        self._batches += samples > 0
        self._samples += samples

    def add_stage_times(self, times: StageTimes) -> None:
        """Add the times that a thread spent on a range of a batch."""
        for k, duration in enumerate(times):
            self._stage_times[k] += duration

    def add_wait(self, seconds: float, ready: int) -> None:
        """Add a wait for a batch, and the number of batches ready when it started."""
        self._wait_seconds += seconds
        if self._is_start:
            self._start_seconds += seconds
            self._first_seconds = self._first_seconds or seconds
            self._is_start = False
        self._waits.append(seconds)
        self._ready += ready

    def is_cold(self) -> bool:
        """Return whether the process has recently waited for the disk.

        If so, reading ahead helps. To be called once a batch. Reading ahead every time
        would take a fifth of a batch's time if the store is in memory.
        """
        faults = major_faults()
        if faults != self._faults:
            self._faults = faults
            self._cold_batches = COLD_BATCHES
        self._cold_batches -= 1
        return self._cold_batches >= 0

    def stats(
        self, *, threads: int, prefetch: int, skipped: int, buffer_bytes: int
    ) -> Stats:
        """Return the counts and times so far; the arguments become its other fields."""
        waits = np.array(self._waits or [0.0])
        median, p99 = np.percentile(waits, [50, 99]).tolist()
        seconds = [ns / 1e9 for ns in self._stage_times]
        faults = major_faults()
        own, mapped = resident_memory()
        return Stats(
            loops=self._loops,
            batches=self._batches,
            samples=self._samples,
            skipped=skipped,
            seconds=self._seconds,
            wait_seconds=self._wait_seconds,
            start_seconds=self._start_seconds,
            first_seconds=self._first_seconds,
            wait_median=median,
            wait_p99=p99,
            ready=self._ready / max(self._batches, 1),
            prefetch=prefetch,
            threads=threads,
            stages=dict(zip(StageTimes._fields, seconds, strict=True)),
            disk_reads=None if faults is None else faults - (self._first_faults or 0),
            buffer_bytes=buffer_bytes,
            anonymous_bytes=own,
            mapped_bytes=mapped,
        )


def major_faults() -> int | None:
    """Return how often this process has waited for the disk to read mapped memory."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def resident_memory() -> tuple[int | None, int | None]:
    """Return the bytes of anonymous and of file-backed memory of this process."""
    status = Path("/proc/self/status")
    if os.name == "nt" or not status.exists():
        return None, None
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    own, mapped = (int(lines[name].split()[0]) << 10 for name in ("RssAnon", "RssFile"))
    return own, mapped


def _megabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e6:,.0f} MB"
