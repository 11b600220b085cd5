"""Entries take what they declare, compile the rest, and misread nothing."""

import contextlib
import gc
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numba.core.errors import NumbaError

from fastseg._kernels.jit import INTERPRETED
from fastseg._kernels.native import machine
from tests.kernels.native import examples
from tests.kernels.native.examples import OtherPair, Pair

pytestmark = pytest.mark.skipif(
    INTERPRETED or not machine.uses_objects(), reason="there is no object code here"
)


INT8, INT64, UINT64 = (
    st.integers(-128, 127),
    st.integers(-(2**63), 2**63 - 1),
    2**64 - 1,
)


@given(
    st.booleans(), INT8, st.integers(0, UINT64), st.floats(), st.booleans(), INT64,
    st.integers(0, 2**16 - 1),
)  # fmt: skip
@example(True, -128, UINT64, float("-inf"), True, -(2**63), 2**16 - 1)
def test_numbers_go_in_and_out_unchanged(a, b, c, d, is_none, f, g):
    e = None if is_none else np.zeros(2, np.float32)
    result = examples.echo(a, b, c, d, e, f, g)
    assert list(map(type, result)) == [bool, int, int, float, bool, int, int]
    assert repr(result) == repr((a, b, c, d, is_none, f, g))


GOOD = (True, 1, 2, 0.5, None, 3, 4)
BAD = [
    (0, 1), (0, np.array([True])), (0, None), (1, 128), (1, -129), (1, True), (1, 1.0),
    (1, 2**70), (2, -1), (2, 2**64), (3, 1), (3, "x"), (3, None), (4, 1),
    (4, np.zeros(2)), (4, np.zeros(2, ">f4")), (4, np.zeros((2, 2), np.float32)),
    (4, np.zeros(4, np.float32)[::2]), (5, 2**63), (6, -1), (6, 2**16),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value"), BAD, ids=[f"{k}-{v!r}" for k, v in BAD])
def test_what_is_not_declared_is_not_taken_for_what_is(place, value):
    """It is compiled for its own types, or refused; the other values stay right."""
    args = [*GOOD[:place], value, *GOOD[place + 1 :]]
    try:
        result = examples.echo(*args)
    except (TypeError, NumbaError):
        return
    expected = [*args[:4], args[4] is None, *args[5:]]
    assert [*result] == expected
    assert type(result[place]) is type(expected[place])


@pytest.mark.parametrize("count", [0, 6, 8])
def test_the_number_of_arguments_is_checked(count):
    with pytest.raises(TypeError, match=f"echo takes 7 arguments, not {count}"):
        examples.echo(*(*GOOD, 1)[:count])


class Subclass(np.ndarray):
    """An array of another class."""


@st.composite
def arrays(draw):
    """Draw an array of any dtype, byte order, strides, alignment and class."""
    dtype = np.dtype(draw(st.sampled_from(examples.ALL)))
    dtype = dtype.newbyteorder(draw(st.sampled_from("=<>")))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5))
    array = (np.arange(np.prod(shape)).reshape(shape) % 100).astype(dtype)
    form = draw(st.sampled_from(range(7)))
    if form == 1:
        array = np.repeat(array, 2, axis=-1)[..., ::2]
    elif form == 2:
        array = array[::-1]
    elif form == 3:
        array = array.view(Subclass)
    elif form == 4:
        space = np.zeros(array.nbytes + 1, np.uint8)[1:]
        shifted = space.view(dtype).reshape(shape)
        shifted[...] = array
        array = shifted
    elif form == 5:
        array.flags.writeable = False
    elif form == 6:
        array = np.asfortranarray(array)
    return array


@settings(max_examples=300)
@given(arrays())
def test_an_array_of_any_form_is_read_rightly_or_refused(array):
    is_plain = array.dtype.isnative and array.ndim == 2 and array.flags.aligned
    if is_plain:  # each type takes a second to compile
        assume(array.dtype.name in ("int16", "float64", "uint8"))
        rows, columns = np.indices(array.shape)
        expected = float((np.asarray(array) * (1.0 + 31.0 * rows + columns)).sum())
        assert examples.weigh(array) == expected
    elif array.ndim == 2:
        with pytest.raises(TypeError, match="do not take an array of type"):
            examples.weigh(array)


def test_an_array_that_is_written_to_must_be_writeable():
    array = np.zeros(5)
    examples.add_to_all(array, 3)
    assert (array == 3).all()
    spread = np.zeros(10)
    examples.add_to_all(spread[::2], 3)
    assert spread.tolist() == [3, 0] * 5
    array.flags.writeable = False
    with pytest.raises(NumbaError, match="Cannot modify readonly array"):
        examples.add_to_all(array, 1)
    assert (array == 3).all()


def test_a_named_tuple_is_taken_by_its_class():
    first, second = np.arange(4, dtype=np.int32), np.zeros(4, np.uint8)
    assert examples.pour(Pair(first, second), 2) == 4
    assert second.tolist() == [0, 2, 4, 6]
    examples.pour(Pair(first.view(Subclass), second), 3)
    assert second.tolist() == [0, 3, 6, 9]
    with pytest.raises(TypeError, match="kernels do not take"):
        examples.pour((first, second), 1)
    examples.pour(OtherPair(first, second), 1)  # compiled for this class
    assert second.tolist() == [0, 1, 2, 3]
    with pytest.raises(TypeError, match="do not take"):
        examples.pour(Pair(first, second.astype(">i2")), 1)


def test_memory_of_kernels_comes_and_goes():
    assert examples.sum_of_new(100) == sum(range(100))
    with pytest.raises(MemoryError):
        examples.sum_of_new(2**60)


def test_calls_leak_nothing():
    """References to arguments, None and classes stay as they were."""
    array = np.arange(12.0).reshape(3, 4)
    pair = Pair(np.arange(4, dtype=np.int32), np.zeros(4, np.uint8))
    text = "x"
    watched = [array, *pair, pair, None, Pair, np.ndarray, text]

    def call():
        examples.weigh(array)
        examples.pour(pair, 1)
        examples.echo(*GOOD)
        with contextlib.suppress(TypeError):
            examples.echo(*GOOD[:3], text, *GOOD[4:])

    call()
    gc.collect()
    before = [sys.getrefcount(thing) for thing in watched]
    for _ in range(500):
        call()
    gc.collect()
    after = [sys.getrefcount(thing) for thing in watched]
    assert all(abs(a - b) < 50 for a, b in zip(after, before, strict=True))


def test_the_lock_is_given_away_unless_brief():
    """Other threads run while a kernel does."""
    assert examples.weigh.nogil
    assert not examples.echo.nogil


def run(code, **environment):
    """Return what a new process prints."""
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not finished.returncode, finished.stderr
    return finished


def test_two_threads_may_make_the_first_call_at_once(tmp_path):
    code = """
        import sys, threading
        import numpy as np
        from tests.kernels.native import examples

        gate, results = threading.Barrier(4), []
        def call(dtype):
            array = np.arange(12).reshape(3, 4).astype(dtype)
            gate.wait()
            results.append(examples.weigh(array))
        threads = [threading.Thread(target=call, args=(name,))
                   for name in ("int16", "int16", "float64", "float64")]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(len(results), len(set(results)), "numba" in sys.modules)
    """
    finished = run(code, FASTSEG_CACHE_DIR=str(tmp_path / "cache"))
    assert finished.stdout.split() == ["4", "1", "False"]


def test_a_fork_in_the_middle_of_compiling_goes_on(tmp_path):
    code = """
        import os, threading, time
        import numpy as np
        from tests.kernels.native import examples

        array = np.arange(12.0).reshape(3, 4)
        thread = threading.Thread(target=examples.weigh, args=(array,))
        thread.start()
        time.sleep(0.4)
        child = os.fork()
        if child == 0:
            os._exit(0 if examples.weigh(array.astype("int16")) > 0 else 1)
        print(os.waitpid(child, 0)[1], thread.join())
    """
    finished = run(code, FASTSEG_CACHE_DIR=str(tmp_path / "cache"))
    assert finished.stdout.split() == ["0", "None"]


@pytest.mark.parametrize("count", [0, 1])
def test_a_named_tuple_with_too_few_items_is_refused(count):
    pair = Pair(np.arange(3, dtype=np.int32), np.zeros(3, np.uint8))
    examples.pour(pair, 2)
    with pytest.raises(TypeError):
        examples.pour(tuple.__new__(Pair, pair[:count]), 2)


# Makes each load take long, and tells when one has begun.
SLOW = """
    import os, signal, sys, threading, time
    import numpy as np
    from llvmlite import binding
    from tests.kernels.native import examples

    values = np.zeros(3)
    examples.add_to_all(values, 1)
    examples.weigh(np.ones((2, 2)))
    found = binding.ObjectFileRef.from_data
    begun = threading.Event()
    def slow(code):
        begun.set()
        time.sleep(0.5)
        return found(code)
"""


def run_slowly(cache, code):
    """Run code in a process that finds all compiled, and each load takes long there."""
    for lines in ("examples.weigh(np.ones((2, 2), np.int16))", code):
        finished = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(SLOW) + textwrap.dedent(lines)],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "FASTSEG_CACHE_DIR": str(cache),
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
    return finished


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_in_the_middle_of_a_load_leaves_no_lock(tmp_path):
    code = """
        binding.ObjectFileRef.from_data = slow
        load = examples.weigh, np.ones((2, 2), np.int16)
        thread = threading.Thread(target=load[0], args=load[1:])
        thread.start()
        begun.wait()
        child = os.fork()
        if not child:
            signal.alarm(30)
            os._exit(int(examples.weigh(np.ones((1, 1), np.int16))))
        thread.join()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    finished = run_slowly(tmp_path, code)
    assert finished.stdout == "1\n", finished.stderr


def test_a_handler_may_load_while_the_thread_loads(tmp_path):
    code = """
        def handle(number, frame):
            examples.add_to_all(values, np.int64(2))
            print(values.tolist(), flush=True)
        signal.signal(signal.SIGALRM, handle)
        binding.ObjectFileRef.from_data = slow
        examples.add_to_all._call = examples.add_to_all._first_call
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        print(examples.weigh(np.ones((1, 1), np.int16)))
    """
    finished = run_slowly(tmp_path, code)
    assert finished.stdout == "[3.0, 3.0, 3.0]\n1.0\n", finished.stderr


def test_threads_that_call_first_load_once(tmp_path):
    code = """
        loads = []
        def counted(code):
            loads.append(len(code))
            return slow(code)
        binding.ObjectFileRef.from_data = counted
        examples.weigh._call = examples.weigh._first_call
        cells = np.ones((1, 1))
        threads = [threading.Thread(target=examples.weigh, args=(cells,))
                   for _ in range(16)]
        sys.setswitchinterval(1e-6)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(len(loads))
    """
    finished = run_slowly(tmp_path, code)
    assert finished.stdout == "1\n", finished.stderr


def test_nothing_is_read_that_was_freed_when_python_ends(tmp_path):
    """The C library overwrites what is freed with a byte that would end the process."""
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SLOW)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "FASTSEG_CACHE_DIR": str(tmp_path),
            "PYTHONMALLOC": "malloc",
            "MALLOC_PERTURB_": "2",
        },
        capture_output=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
