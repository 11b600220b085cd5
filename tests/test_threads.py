"""Worker pools and ordered maps: results, errors, and threads that end."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing

import pytest

from fastseg.threads import WorkerPool, frequent_switches, map_ordered


def pool_threads():
    return [t for t in threading.enumerate() if t.name.startswith("fastseg")]


def wait_for_no_threads():
    deadline = time.monotonic() + 5
    while pool_threads() and time.monotonic() < deadline:
        time.sleep(0.001)
    return pool_threads()


@pytest.mark.parametrize("threads", [1, 3])
def test_results_are_in_the_order_of_the_items(threads):
    """`map_ordered` yields each result once, in order, however long each takes."""

    def slow(k):
        time.sleep(0.002 * (k % 3))
        return k * k

    assert list(map_ordered(slow, range(20), threads)) == [k * k for k in range(20)]
    assert pool_threads() == []


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_comes_in_place_of_its_result(threads):
    """Results before it are yielded, the exception is the function's own."""
    error = ZeroDivisionError("mine")

    def fail(k):
        if k == 5:
            raise error
        return k

    results = []
    with pytest.raises(ZeroDivisionError) as caught:
        results.extend(map_ordered(fail, range(20), threads))
    assert caught.value is error
    assert pool_threads() == []


def test_the_last_of_several_users_restores_the_switch_interval():
    """Whatever order they end in; one thread changes nothing."""
    usual = sys.getswitchinterval()
    with frequent_switches(1):
        assert sys.getswitchinterval() == usual
    first, second = ExitStack(), ExitStack()
    with second:
        with first:
            first.enter_context(frequent_switches(2))
            short = sys.getswitchinterval()
            assert short < usual
            second.enter_context(frequent_switches(2))
        assert sys.getswitchinterval() == short
    assert sys.getswitchinterval() == usual


def test_few_items_are_taken_in_advance():
    """At most 2 * threads + 1 items are taken and not yet yielded."""
    taken = []
    items = (taken.append(k) or k for k in range(100))
    with closing(map_ordered(abs, items, 3)) as results:
        for number, _ in enumerate(results):
            assert len(taken) <= number + 7
    assert len(taken) == 100


def test_a_pool_that_is_collected_ends_its_threads():
    """Nobody has to close a pool: its threads end when nothing refers to it."""
    pool = WorkerPool(3, lambda task: task, "fastseg-test")
    for k in range(5):
        pool.submit(k + 1)
    assert sorted(pool.get_result() for _ in range(5)) == [1, 2, 3, 4, 5]
    assert pool_threads()
    del pool
    assert wait_for_no_threads() == []


def test_a_pool_may_be_closed_by_its_own_thread():
    """Garbage collection may do that; a thread does not wait for itself."""
    pools = [WorkerPool(2, lambda task: (pools[0].close(), task)[1], "fastseg-test")]
    with pools[0] as pool:
        pool.submit(7)
        deadline = time.monotonic() + 5
        while pool_threads() and time.monotonic() < deadline:
            time.sleep(0.001)
    assert pool_threads() == []
    with pytest.raises(RuntimeError, match="closed"):
        pool.get_result()


def test_threads_that_close_each_others_pools_end():
    """Two threads that close the pool of the other one at once do not wait for ever."""
    pools = []
    barrier = threading.Barrier(2, timeout=10)

    def close_other(k):
        barrier.wait()
        pools[1 - k].close()
        return [k]

    for _ in range(2):
        pools.append(WorkerPool(1, close_other, "fastseg-test"))
    for k, pool in enumerate(pools):
        pool.submit(k)
    assert wait_for_no_threads() == []
    gc.collect()


def test_an_exception_of_a_function_reaches_the_caller():
    """A function that raises ends neither its thread nor the wait for its result."""
    with WorkerPool(1, lambda task: 1 / task, "fastseg-test") as pool:
        for task in (0, 2):
            pool.submit(task)
        with pytest.raises(ZeroDivisionError):
            pool.get_result()
        assert pool.get_result() == 0.5


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_second_interrupt_waits_until_a_map_has_ended():
    """Files that the function writes to may be closed after `map_ordered` is."""
    script = """
import sys, time
from contextlib import ExitStack, closing
from fastseg.threads import map_ordered

running = []
def slow(k):
    running.append(k)
    print("working", flush=True)
    time.sleep(1)
    running.remove(k)

try:
    with closing(map_ordered(slow, range(9), 2)) as results:
        list(results)
except KeyboardInterrupt:
    print("running", running)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], text=True, stdout=subprocess.PIPE
    )
    # Both threads print, and both line ends may come last.
    assert process.stdout.readline().startswith("working")
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    output, _ = process.communicate(timeout=60)
    assert output.splitlines()[-1] == "running []"
