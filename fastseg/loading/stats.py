"""What a loader has done, and what held it up."""

import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from fastseg.loading.preprocessing import StageTimes
from fastseg.threads import usable_cores

# Waits that the median and the 99th percentile are taken of, the last ones.
WAITS_KEPT = 4096
# A consumer that waits for a smaller share of its time is not held up.
SMALL_WAIT = 0.05
# So many batches are read ahead after the last one for which the disk was waited for.
COLD_BATCHES = 64
# Threads that work for less of their time wait for something else.
FULLY_BUSY = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What a loader has done since it was made, in all its loops.

    batches, samples : that were handed over
    skipped          : samples that failed and were left out
    seconds          : that loops took, consumer included
    wait_seconds     : of these, spent in waiting for batches
    wait_median, wait_p99 : of the last 4,096 batches, in seconds
    ready            : mean number of batches that lay ready when one was asked for
    prefetch, threads : the loader's
    stages           : seconds of all threads together: "read" (finding pixels, or
        decompressing them), "image" (into place, scaled, augmented; masks too, unless
        they are augmented), "mask", "custom" (functions of your own)
    disk_reads       : how often the process had to wait for the disk meanwhile (major
        page faults); None where the system does not tell
    buffer_bytes     : memory for batches, handed out or kept for the next ones
    anonymous_bytes, mapped_bytes : memory of the whole process: its own, and the page
        cache's that it has mapped; None where the system does not tell
    """

    batches: int
    samples: int
    skipped: int
    seconds: float
    wait_seconds: float
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
        """Samples handed over per second of the loops, consumer included."""
        return self.samples / self.seconds if self.seconds else 0.0

    @property
    def busy(self) -> float:
        """Share of their time in which the threads worked, 0 to 1."""
        if not self.seconds:
            return 0.0
        return min(sum(self.stages.values()) / self.seconds / self.threads, 1.0)

    @property
    def bottleneck(self) -> str:
        """One sentence: what to change for more samples per second."""
        if not self.batches:
            return "Nothing has been loaded yet."
        share = self.wait_seconds / self.seconds
        if share < SMALL_WAIT:
            return (
                f"The consumer sets the pace: it waits for {share:.1%} of its time, "
                f"and the threads are busy for {self.busy:.0%} of theirs."
            )
        waits = f"The consumer waits for {share:.0%} of its time"
        if self.disk_reads and self.disk_reads > self.batches:
            return (
                f"{waits}, for the disk: {self.disk_reads / self.batches:.0f} reads "
                "for each batch. It will be faster once the store is in memory, if it "
                "fits."
            )
        if self.busy < FULLY_BUSY:
            return (
                f"{waits}, while the threads are busy for {self.busy:.0%} of theirs: "
                "something else keeps them from the cores or from Python's lock. "
                "Larger batches need it less often."
            )
        stage = max(self.stages, key=self.stages.__getitem__)
        part = self.stages[stage] / sum(self.stages.values())
        what = {
            "read": "decompressing: a store built without --compress needs none",
            "image": "reading and scaling images",
            "mask": "making masks",
            "custom": "functions of your own",
        }[stage]
        more = (
            f"; threads={usable_cores()} would use all cores"
            if self.threads < usable_cores()
            else ""
        )
        return f"{waits}, for threads that spend {part:.0%} of theirs on {what}{more}."

    def __str__(self) -> str:
        stages = ", ".join(f"{n} {s:.2f} s" for n, s in self.stages.items())
        lines = [
            f"{self.samples_per_second:,.0f} samples/s: {self.samples:,} samples in "
            f"{self.batches:,} batches in {self.seconds:.2f} s",
            f"consumer waited {self.wait_seconds:.2f} s, for a batch "
            f"{self.wait_median * 1e3:.2f} ms in the median, "
            f"{self.wait_p99 * 1e3:.2f} ms at the 99th percentile",
            f"{self.ready:.1f} of {self.prefetch} batches ready when asked for",
            f"{self.threads} threads, busy for {self.busy:.0%}: {stages}",
            f"memory: batches {_megabytes(self.buffer_bytes)}, process "
            f"{_megabytes(self.anonymous_bytes)} of its own and "
            f"{_megabytes(self.mapped_bytes)} of the page cache",
            *([f"{self.skipped} samples skipped"] if self.skipped else []),
            self.bottleneck,
        ]
        return "\n".join(lines)


class Counters:
    """Adds up what a loader's loops do; only their consumers' threads call it."""

    def __init__(self) -> None:
        self._batches = self._samples = self._ready = 0
        self._seconds = self._waited = self._since = 0.0
        self._waits: deque[float] = deque(maxlen=WAITS_KEPT)
        self._spent = [0] * len(StageTimes._fields)
        self._first_faults = self._faults = major_faults()
        self._cold = 0

    def begin(self) -> None:
        """Begin a loop."""
        self._since = perf_counter()

    def lap(self, samples: int = 0) -> None:
        """Count the time since the last lap, and what is handed over."""
        now = perf_counter()
        self._seconds += now - self._since
        self._since = now
        self._batches += samples > 0
        self._samples += samples

    def spent(self, spent: StageTimes) -> None:
        """Count what a thread has spent on a share of a batch."""
        for k, duration in enumerate(spent):
            self._spent[k] += duration

    def waited(self, seconds: float, ready: int) -> None:
        """Count a wait for a batch, and how many lay ready when it began."""
        self._waited += seconds
        self._waits.append(seconds)
        self._ready += ready

    def is_cold(self) -> bool:
        """Return whether reading ahead would help: somebody had to wait for the disk.

        To be asked once a batch. Where all is in memory, asking the system for each
        sample would cost a fifth of the time that a batch takes.
        """
        faults = major_faults()
        if faults != self._faults:
            self._faults, self._cold = faults, COLD_BATCHES
        self._cold -= 1
        return self._cold >= 0

    def stats(self, *, threads: int, prefetch: int, skipped: int, held: int) -> Stats:
        """Return what has been counted."""
        waits = np.array(self._waits or [0.0])
        median, late = np.percentile(waits, [50, 99]).tolist()
        faults = major_faults()
        own, mapped = resident_memory()
        return Stats(
            batches=self._batches,
            samples=self._samples,
            skipped=skipped,
            seconds=self._seconds,
            wait_seconds=self._waited,
            wait_median=median,
            wait_p99=late,
            ready=self._ready / max(self._batches, 1),
            prefetch=prefetch,
            threads=threads,
            stages=dict(
                zip(StageTimes._fields, [ns / 1e9 for ns in self._spent], strict=True)
            ),
            disk_reads=None if faults is None else faults - (self._first_faults or 0),
            buffer_bytes=held,
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
