"""`bench`: its measurements are consistent, and the command prints them."""

import json
import os
import signal
import sys
import threading

import pytest

import fastseg
from fastseg.benchmark import _Copier
from fastseg.errors import OptionError


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
    assert "The consumer" in run.stdout
    run = fastseg_command("bench", store.path, *options, "--json")
    assert json.loads(run.stdout)["sample_bytes"] == 96 * 80 * (4 + 1)
    run = fastseg_command("bench", store.path, "--size", "96xx")
    assert run.returncode == 1
    assert "--size is '96xx', expected rows and columns" in run.stderr
