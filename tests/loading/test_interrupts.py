"""Interrupts at every line and at random times: no thread stays, nothing hangs."""

import os
import subprocess
import sys

import pytest

import fastseg

# Runs `scenario` again and again. In round n, KeyboardInterrupt is raised at the n-th
# line that the main thread executes in fastseg or in a module that it uses for threads.
# It ends with the first round that is over before its line comes.
EVERY_LINE = """
import contextlib, faulthandler, gc, os, sys, threading, time, warnings
import numpy as np
import fastseg
from fastseg.threads import map_ordered

WATCHED = [os.path.dirname(fastseg.__file__)]
WATCHED += [threading.__file__, contextlib.__file__]
store = fastseg.open(sys.argv[1])
loader = fastseg.Loader(store, batch_size=3, threads=2, prefetch=2, seed=4)
if sys.argv[2] == "tensors":
    torch_loader = fastseg.torch.as_torch(loader)
expected = [batch.image.tobytes() for batch in loader]
sys.unraisablehook = lambda _: None  # an interrupt while a generator is collected

def whole():
    list(loader)

def left():
    for _ in loader:
        break

def closed():
    with loader:
        running = iter(loader)
        next(running)

def tensors():
    list(torch_loader)

def mapped():
    for k, square in enumerate(map_ordered(lambda k: k * k, range(9), 2)):
        assert square == k * k

def trace(frame, event, arg):
    if not frame.f_code.co_filename.startswith(tuple(WATCHED)):
        return None
    return trace_line(frame, event, arg)

def trace_line(frame, event, arg):
    global left_to_go
    if event in ("call", "line"):
        left_to_go -= 1
        if left_to_go < 0:
            sys.settrace(None)
            raise KeyboardInterrupt
    return trace_line

def check(n):
    deadline = time.monotonic() + 5
    while (names := [t.name for t in threading.enumerate()][1:]):
        if time.monotonic() > deadline:
            sys.exit(f"line {n}: {names} are left")
        time.sleep(1e-4)

scenario = globals()[sys.argv[2]]
# In the second pass, the traceback is deleted before the threads are counted.
holds_traceback = sys.argv[3] == "held"
for n in range(100_000):
    faulthandler.dump_traceback_later(30, exit=True)
    left_to_go = n
    try:
        sys.settrace(trace)
        scenario()
        sys.settrace(None)
    except KeyboardInterrupt:
        sys.settrace(None)
        if holds_traceback:
            check(n)
    check(n)
    if left_to_go >= 0:
        break
loader.epoch = 0
again = [batch.image.tobytes() for batch in loader]
assert again == expected, "other batches after interrupts"
print(n, "lines")
"""

# Signals, as Ctrl-C sends them, at 1 000 random times.
RANDOM = """
import faulthandler, random, signal, sys, threading, time
import fastseg

def interrupt(number, frame):
    # A thread that the system has stopped may hand on a signal of the turn before.
    if is_armed:
        raise KeyboardInterrupt

is_armed = False
signal.signal(signal.SIGALRM, interrupt)
draw = random.Random(int(sys.argv[2]))
store = fastseg.open(sys.argv[1])
loader = fastseg.Loader(store, batch_size=2, threads=3, seed=1)
expected = [batch.mask.tobytes() for batch in loader]
faulthandler.dump_traceback_later(120, exit=True)
interrupts = 0
for turn in range(1000):
    loader.epoch = turn % 5
    try:
        is_armed = True
        signal.setitimer(signal.ITIMER_REAL, draw.uniform(2e-5, 2e-3))
        list(loader)
        is_armed = False
    except KeyboardInterrupt:
        is_armed = False
        interrupts += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
deadline = time.monotonic() + 5
while threading.active_count() > 1 and time.monotonic() < deadline:
    time.sleep(0.01)
assert threading.active_count() == 1, threading.enumerate()
loader.epoch = 0
assert [batch.mask.tobytes() for batch in loader] == expected
print(interrupts)
"""


def run(script, store, *arguments):
    """Run a script with a store and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, store.path, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A store of 8 samples of one shape."""
    folder = tmp_path_factory.mktemp("small")
    study = fastseg.make_phantom(folder / "study", patients=1, sizes=[32], phases=2)
    report = fastseg.build(fastseg.link(study), folder / "small.h5")
    return fastseg.open(report.path)


@pytest.mark.parametrize("held", ["held", "dropped"])
@pytest.mark.parametrize("scenario", ["whole", "left", "closed", "tensors", "mapped"])
def test_an_interrupt_at_any_line_leaves_no_thread(small, scenario, held):
    """Wherever KeyboardInterrupt comes, all threads end and the next loop is the same.

    That holds while the exception is handled ("held") and after it is gone.
    """
    if scenario == "tensors":
        pytest.importorskip("torch")
    if (scenario, held) == ("closed", "held"):
        pytest.skip("a loop that the traceback still refers to has not been left")
    lines = int(run(EVERY_LINE, small, scenario, held).split()[0])
    assert lines > 50


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_random_interrupts_leave_no_thread(small):
    """After 1 000 interrupts no thread is left, and the next batches are right."""
    assert int(run(RANDOM, small, "7")) > 300
