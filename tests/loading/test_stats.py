"""Stats: what limits a loop, in each of the cases that a user meets."""

import time
from dataclasses import replace

import pytest

from fastseg.loading.loader import Loader
from fastseg.loading.stats import Stats
from fastseg.threads import usable_cores

# A loop that waits for threads that are always busy with images.
BUSY = Stats(
    loops=2,
    batches=400,
    samples=6400,
    skipped=0,
    seconds=10.0,
    wait_seconds=9.0,
    start_seconds=0.1,
    first_seconds=0.1,
    wait_median=0.02,
    wait_p99=0.05,
    ready=0.4,
    prefetch=4,
    threads=usable_cores(),
    stages={
        "read": 0.0,
        "image": 9.0 * usable_cores(),
        "mask": 0.5 * usable_cores(),
        "custom": 0.0,
    },
    disk_reads=3,
    buffer_bytes=10**7,
    anonymous_bytes=10**8,
    mapped_bytes=10**8,
)
IDLE = {"read": 0.0, "image": 1.0, "mask": 0.0, "custom": 0.0}
CASES = {
    "the consumer is slow": (
        {"wait_seconds": 0.2, "stages": IDLE},
        "The consumer is the bottleneck: it waits for 2.0% of its time",
    ),
    "images": ({}, "spend 95% of theirs on reading and scaling images."),
    "compressed": (
        {"stages": IDLE | {"read": 9.0 * usable_cores()}},
        "on decompressing (stores built without --compress need none)",
    ),
    "custom": (
        {"stages": IDLE | {"custom": 9.0 * usable_cores()}},
        "on functions of Custom transforms",
    ),
    "cold": ({"disk_reads": 4000}, "is read from the disk: 10 reads for each batch"),
    "an unknown disk": ({"disk_reads": None}, "reading and scaling images"),
    "the lock": ({"stages": IDLE}, "other work occupies the cores or Python's"),
    "two batches": (
        {"loops": 200, "start_seconds": 8.9, "stages": IDLE},
        "mostly for the first batch of a loop, for which threads start and kernels are "
        "loaded. Loops of more batches (now 2 on average) wait less.",
    ),
    "compilation": (
        {"disk_reads": 0, "start_seconds": 8.9, "first_seconds": 8.8},
        "mostly for the first batch of all, which took 8.8 s: kernels are compiled",
    ),
    "two slow batches": (
        {"loops": 200, "start_seconds": 8.9},
        "spend 95% of theirs on reading and scaling images.",
    ),
    "some slow batches": (
        {"wait_seconds": 1.0, "ready": 3.5, "stages": IDLE},
        "though 3.5 of 4 batches are ready on average: some batches take much longer",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_bottleneck_is_named(name):
    """Each case gets the sentence that says what limits it."""
    changes, text = CASES[name]
    assert text in replace(BUSY, **changes).bottleneck


def test_more_threads_are_advised_only_where_cores_are_free():
    """The number of cores is given if fewer threads are used."""
    assert "would use all cores" not in BUSY.bottleneck
    if usable_cores() > 1:
        one = replace(BUSY, threads=1)
        assert f"threads={usable_cores()} would use all cores" in one.bottleneck
        assert "1 thread, busy" in str(one)


def test_waits_for_first_batches_are_counted(store):
    """Each loop has one first batch, whose wait is a part of all waits."""
    loader = Loader(store, batch_size=16, size=96, missing="background", threads=1)
    fill = loader.preprocessing.fill

    def slow_fill(*arrays):
        time.sleep(0.01)
        return fill(*arrays)

    loader.preprocessing.fill = slow_fill
    for _ in range(3):
        list(loader)
    stats = loader.stats()
    assert (stats.loops, stats.batches) == (3, 6)
    assert 0.03 <= stats.start_seconds < stats.wait_seconds
    assert 0.01 <= stats.first_seconds < stats.start_seconds
