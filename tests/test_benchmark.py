"""`bench`: its measurements are consistent, and the command prints them."""

import json
import os
import signal
import sys
import threading
from dataclasses import replace

import pytest

import fastseg
from fastseg.benchmark import BenchReport, _Copier
from fastseg.errors import OptionError
from tests.loading.test_stats import BUSY, IDLE


def test_rates_and_times_are_measured(store):
    """Every round gives two rates, and the batches are as the options say."""
    report = fastseg.bench(
        store, batch_size=4, size=64, masks="onehot", seconds=0.02, rounds=3, threads=2
    )
    assert len(report.rates) == len(report.copy_rates) == 3
    assert min(report.rates) <= report.rate <= max(report.rates)
    assert all(rate > 0 for rate in (*report.rates, *report.copy_rates))
    assert report.share > 0
    assert report.sample_bytes == 64 * 64 * (4 + 4)
    assert report.next_batch > 0
    assert report.first_batch > 0
    assert report.stats.samples > 0
    assert json.loads(json.dumps(report.as_dict()))["rate"] == report.rate


@pytest.mark.parametrize("options", [{"seconds": 0}, {"rounds": 0}])
def test_measuring_nothing_is_refused(store, options):
    """`seconds` and `rounds` must be above 0."""
    with pytest.raises(OptionError, match=r"expected (more than 0|at least 1)"):
        fastseg.bench(store, size=64, **options)


# A fifth of the speed of copying, with threads that are always busy.
REPORT = BenchReport(
    batch_size=16,
    threads=BUSY.threads,
    prefetch=4,
    sample_bytes=10_000,
    first_batch=1.0,
    next_batch=0.01,
    first_epoch=500.0,
    rates=(190.0, 200.0, 210.0),
    copy_rates=(950.0, 1000.0, 1050.0),
    stats=BUSY,
)
CASES = {
    "work": ({}, {}, "95% of which is reading and scaling images. More cores than"),
    "compressed": (
        {},
        {"stages": IDLE | {"read": 9.0 * BUSY.threads}},
        "is decompressing (stores built without --compress need none).",
    ),
    "memory": ({"rates": (600.0,) * 3}, {}, "copying memory. Memory limits it: only"),
    "near copying, but idle": (
        {"rates": (600.0,) * 3},
        {"stages": IDLE},
        "lock limits it, or other programs",
    ),
    "disk": ({}, {"disk_reads": 4000}, "The disk limits it, with 10 reads for each"),
    "two batches": (
        {},
        {"loops": 200, "start_seconds": 8.9, "stages": IDLE},
        "The start of each epoch limits it, when threads start and no batch is ready: "
        "the mean loop has 2 batches.",
    ),
    "the lock": ({}, {"stages": IDLE}, "lock limits it, or other programs"),
    "a busy machine": (
        {"rates": (100.0, 200.0, 210.0)},
        {},
        "The fastest round is 2.1 times as fast as the slowest: measure again",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_limit_is_named_and_waiting_is_no_fault(name):
    """Each case gets a sentence on what limits it, and none on the loop's waits."""
    changes, stats, text = CASES[name]
    report = replace(REPORT, stats=replace(BUSY, **stats), **changes)
    assert text in report.bottleneck
    assert report.bottleneck.startswith(f"The Loader reaches {report.share:.0%} of")
    assert "wait" not in report.bottleneck
    assert ("measure again" in report.bottleneck) == (name == "a busy machine")
    assert report.as_dict()["bottleneck"] == report.bottleneck


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_ends_the_threads_that_copy(threads):
    """After Ctrl-C no thread copies on, however long a round takes."""
    copier = _Copier(2**12, threads)
    known = set(threading.enumerate())
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        copier.copy(60)
    timer.join()
    for thread in set(threading.enumerate()) - known:
        thread.join(1)
        assert not thread.is_alive()


def test_the_command_prints_a_table_or_json(store, fastseg_command):
    """The command prints a table, or one JSON object with --json."""
    options = ("--size", "96x80", "--batch-size", 4, "--seconds", 0.02, "--rounds", 2)
    run = fastseg_command("bench", store.path, *options)
    assert run.returncode == 0, run.stderr
    assert "samples/s" in run.stdout
    assert "The Loader reaches" in run.stdout
    assert "consumer" not in run.stdout
    run = fastseg_command("bench", store.path, *options, "--json")
    assert json.loads(run.stdout)["sample_bytes"] == 96 * 80 * (4 + 1)
    run = fastseg_command("bench", store.path, "--size", "96xx")
    assert run.returncode == 2
    assert "--size is '96xx', expected rows and columns" in run.stderr
