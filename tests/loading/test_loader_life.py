"""The loader's threads, memory and failures: no hangs, no leaks, no lost errors."""

import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastseg
from fastseg import Loader
from fastseg.errors import OptionError, StoreError
from fastseg.loading.buffers import ALIGNMENT, BufferPool
from fastseg.threads import WorkerPool


def loader_threads():
    return [t for t in threading.enumerate() if t.name.startswith("fastseg-loader")]


@pytest.fixture(autouse=True)
def _no_thread_stays_behind():
    yield
    gc.collect()
    assert loader_threads() == []


@pytest.fixture(scope="module")
def square(tmp_path_factory):
    """A store of one shape: 16 samples of 40 x 40."""
    folder = tmp_path_factory.mktemp("square")
    study = fastseg.make_phantom(folder / "study", patients=2, sizes=[40], phases=2)
    report = fastseg.build(fastseg.link(study), folder / "square.h5")
    return fastseg.open(report.path)


def order(loader):
    return np.concatenate([batch.index for batch in loader])


def test_a_thousand_early_breaks_leave_no_thread_and_no_memory(square):
    """At whatever batch a loop is left, its threads end and its memory is freed."""
    loader = Loader(square, batch_size=2, threads=2, prefetch=3)
    for k in range(1000):
        for number, _batch in enumerate(loader):
            if number == k % 8:
                break
        assert loader_threads() == []
    del _batch
    gc.collect()
    assert loader.stats().buffer_bytes <= 5 * 2 * 40 * 40 * (4 + 1)


def test_two_hundred_failing_samples_are_raised(square):
    """The consumer gets each exception unchanged, and no thread is left."""
    for k in range(200):
        loader = Loader(square, batch_size=3, threads=2, seed=k)
        fill, bad = loader.preprocessing.fill, k % len(square)
        error = ZeroDivisionError("mine")

        def failing(samples, *arrays, fill=fill, bad=bad, error=error):
            if bad in samples:
                raise error
            return fill(samples, *arrays)

        loader.preprocessing.fill = failing
        with pytest.raises(ZeroDivisionError) as caught:
            list(loader)
        assert caught.value is error
        assert f"while making sample {bad} (patient" in caught.value.__notes__[0]
        assert loader_threads() == []


@pytest.fixture
def damaged(study, tmp_path):
    """A compressed store with two damaged samples, 1 and 6."""
    path = tmp_path / "heart.h5"
    fastseg.build(fastseg.link(study), path, compress=True)
    chunks = fastseg.open(path).items["image_chunk"].tolist()
    with path.open("r+b") as file:
        for k in (1, 6):
            file.seek(chunks[k][0])
            file.write(b"\xff" * chunks[k][1])
    return fastseg.open(path)


@pytest.mark.parametrize("threads", [1, 3])
def test_damaged_samples_can_be_skipped(damaged, threads):
    """`on_error="skip"` leaves them out, lists them with errors, and counts them."""
    options = {"size": 48, "batch_size": 3, "shuffle": False, "threads": threads}
    loader = Loader(damaged, on_error="skip", **options)
    batches = list(loader)
    assert [batch.index.tolist() for batch in batches] == [[0, 2], [3, 4, 5], [7]]
    assert sorted(loader.skipped) == [1, 6]
    assert "image of sample 6" in loader.skipped[6]
    assert loader.stats().skipped == 2
    for batch in batches:
        for k, image in zip(batch.index, batch.image, strict=True):
            alone = Loader(damaged, indices=[k], batch_size=1, size=48)
            assert_array_equal(image, next(iter(alone)).image[0])
    with pytest.raises(StoreError, match="image of sample 1") as caught:
        list(Loader(damaged, **options))
    assert "while making sample 1 (patient" in caught.value.__notes__[0]


def test_a_batch_without_valid_samples_is_skipped(damaged):
    """The consumer gets no empty batch, but the next one."""
    loader = Loader(
        damaged, size=48, batch_size=1, shuffle=False, on_error="skip", indices=[1, 2]
    )
    assert [batch.index.tolist() for batch in loader] == [[2]]


def test_a_truncated_store_is_not_skipped(study, tmp_path):
    """`on_error="skip"` raises if the file became shorter, as all samples may fail."""
    path = tmp_path / "heart.h5"
    fastseg.build(fastseg.link(study), path)
    loader = Loader(fastseg.open(path), batch_size=2, size=32, on_error="skip")
    with path.open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(StoreError, match="truncated"):
        list(loader)


def test_close_ends_all_loops(square):
    """After `close` no thread is left, and a running loop raises RuntimeError."""
    loader = Loader(square, batch_size=1, threads=2)
    first, second = iter(loader), iter(loader)
    next(first), next(second)
    loader.close()
    loader.close()
    assert loader_threads() == []
    with pytest.raises(RuntimeError, match="closed"):
        list(first)
    assert len(list(loader)) == len(square)
    with Loader(square, batch_size=1) as other:
        running = iter(other)
        next(running)
    assert loader_threads() == []
    second.close()


def test_close_wakes_a_consumer_that_waits(square):
    """A consumer that waits in another thread gets a RuntimeError."""
    loader = Loader(square, batch_size=1, threads=1)
    begun, slow = threading.Event(), threading.Event()
    fill = loader.preprocessing.fill
    loader.preprocessing.fill = lambda *arrays: (
        begun.set(),
        slow.wait(9),
        fill(*arrays),
    )[2]
    errors = []

    def consume():
        try:
            list(loader)
        except RuntimeError as exc:
            errors.append(str(exc))

    consumer = threading.Thread(target=consume)
    consumer.start()
    assert begun.wait(10)
    threading.Timer(0.1, slow.set).start()
    loader.close()
    consumer.join(10)
    assert not consumer.is_alive()
    assert errors == ["the loop has been closed"]


def test_a_loop_in_a_reference_cycle_is_collected(square):
    """Garbage collection of a loop in a reference cycle ends its threads."""
    iterator = iter(Loader(square, batch_size=1))
    next(iterator)
    cycle = [iterator]
    cycle.append(cycle)
    del iterator, cycle
    gc.collect()
    assert loader_threads() == []


def test_memory_is_reused(square):
    """Epochs need only the memory of `prefetch` + 2 batches."""
    loader = Loader(square, batch_size=4, prefetch=2, threads=2)
    size = 4 * 40 * 40 * (4 + 1)
    addresses = set()
    for _ in range(30):
        for batch in loader:
            addresses.add(batch.image.ctypes.data)
            assert batch.image.ctypes.data % ALIGNMENT == 0
            assert batch.mask.ctypes.data % ALIGNMENT == 0
            assert loader.stats().buffer_bytes <= 4 * size
    assert len(addresses) <= 4


@pytest.mark.parametrize(
    "keep",
    [
        lambda batch: batch.image[1:, :, ::2],
        lambda batch: batch.mask,
        lambda batch: memoryview(batch.image),
        lambda batch: np.from_dlpack(batch.image),
        lambda batch: batch.image[0].reshape(-1).view(np.uint8)[3:5],
    ],
    ids=["view", "mask", "buffer", "dlpack", "view of view"],
)
def test_memory_in_use_is_not_overwritten(square, keep):
    """Any reference into a batch keeps the memory of the whole batch in use."""
    loader = Loader(square, batch_size=2)
    kept = []
    copies = []
    for batch in loader:
        kept.append(keep(batch))
        copies.append(np.array(kept[-1]))
        del batch
    for _ in range(3):
        list(loader)
    for reference, copy in zip(kept, copies, strict=True):
        assert_array_equal(np.asarray(reference), copy)


def test_a_pool_keeps_at_most_max_free_buffers():
    """Further unused buffers are freed; arrays stay valid after the pool is deleted."""
    pool = BufferPool([((4, 3), np.float32), ((4,), np.uint8)], max_free=2)
    batches = [pool.allocate(4) for _ in range(5)]
    assert [array.shape for array in batches[0]] == [(4, 3), (4,)]
    assert pool.total_bytes == 5 * 128
    del batches
    assert pool.total_bytes == 2 * 128
    values, _ = pool.allocate(2)
    assert values.shape == (2, 3)
    values[:] = 7
    del pool, _
    gc.collect()
    assert (values == 7).all()


@pytest.mark.parametrize("compress", [False, True])
def test_only_pixels_are_read_ahead(study, tmp_path, compress):
    """`read_ahead` asks the system for exactly the bytes of the samples' pixels."""
    path = tmp_path / "heart.h5"
    fastseg.build(fastseg.link(study), path, compress=compress)
    store, content = fastseg.open(path), path.read_bytes()
    samples = np.array([5, 0, 3])
    store.read_ahead(samples)
    extents = [content[a : a + size] for a, size in store._pixels.extents(samples)]
    if compress:
        assert all(extent.startswith(b"\x28\xb5\x2f\xfd") for extent in extents)
        assert len(extents) == 6
        return
    expected = [
        array.tobytes()
        for k in samples
        for array in (store[int(k)].image, store[int(k)].mask)
    ]
    assert extents == expected


def test_a_loader_can_be_pickled(square):
    """The copy maps the file again and continues with the same epoch."""
    loader = Loader(square, batch_size=3, seed=5, masks="labels", size=32)
    list(loader)
    other = pickle.loads(pickle.dumps(loader))
    assert other.epoch == 1
    assert other.state_dict() == loader.state_dict()
    for ours, theirs in zip(loader, other, strict=True):
        assert_array_equal(ours.image, theirs.image)
        assert_array_equal(ours.mask, theirs.mask)


def _send_order(loader, connection):
    connection.send(order(loader))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_loader_works_in_another_process(square, method):
    """Forked or spawned while its parent runs a loop, it loads the same epoch."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    context = multiprocessing.get_context(method)
    loader = Loader(square, batch_size=3, seed=2, threads=2)
    running = iter(loader)
    next(running)
    loader.epoch = 1
    expected = order(Loader(square, batch_size=3, seed=2))
    ours, theirs = context.Pipe()
    loader.epoch = 0
    process = context.Process(target=_send_order, args=(loader, theirs))
    process.start()
    assert ours.poll(60)
    assert_array_equal(ours.recv(), expected)
    process.join(60)
    assert process.exitcode == 0
    assert len(list(running)) == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("all_ready", [False, True])
def test_a_loop_does_not_continue_in_a_fork(square, all_ready):
    """The child gets a RuntimeError and does not wait for threads that it lacks."""
    loader = Loader(square, batch_size=1, prefetch=4)
    calls = []
    fill = loader.preprocessing.fill
    loader.preprocessing.fill = lambda *arrays: (calls.append(1), fill(*arrays))[1]
    running = iter(loader)
    next(running)
    if all_ready:  # the child's next batch is finished and received before the fork
        deadline = time.monotonic() + 10
        while len(calls) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        next(running)
    child = os.fork()
    if not child:
        status = 1
        try:
            next(running)
        except RuntimeError as exc:
            status = 0 if "forked" in str(exc) else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    rest = len(list(running))
    assert os.waitstatus_to_exitcode(status) == 0
    assert rest == len(square) - 1 - all_ready


def run_script(store, text, **options):
    script = f"""
    import fastseg, sys, time
    store = fastseg.open({str(store.path)!r})
    loader = fastseg.Loader(store, batch_size=1, threads=2)
    """
    code = textwrap.dedent(script) + textwrap.dedent(text)
    return subprocess.Popen([sys.executable, "-c", code], text=True, **options)


def test_a_program_may_end_during_a_loop(square):
    """A loop that is still referenced does not keep the interpreter alive."""
    process = run_script(square, "running = iter(loader); next(running)")
    assert process.wait(60) == 0


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_ends_a_loop_that_waits(square):
    """A consumer that waits for a batch gets KeyboardInterrupt, and all threads end."""
    text = """
    import threading
    fill, slow = loader.preprocessing.fill, threading.Event()
    def wait(*arrays):
        print("waiting", flush=True)
        slow.wait(0.5)
        return fill(*arrays)
    loader.preprocessing.fill = wait
    try:
        list(loader)
    except KeyboardInterrupt:
        names = [t.name for t in threading.enumerate() if "fastseg" in t.name]
        print("left", names)
    """
    process = run_script(square, text, stdout=subprocess.PIPE)
    # Both threads print, and both line ends may come last.
    assert process.stdout.readline().startswith("waiting")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert output.splitlines()[-1] == "left []"
    assert process.returncode == 0


def test_a_pool_that_cannot_start_ends_its_threads(monkeypatch):
    """If the system refuses a thread, those that have started end."""
    start = threading.Thread.start
    started = []

    def limited(thread):
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with WorkerPool(3, lambda task: task, "fastseg-loader") as pool:
        pool.submit(1)
        with pytest.raises(RuntimeError, match="can't start"):
            [pool.get_result() for _ in range(2)]
    assert len(started) == 2
    assert not any(thread.is_alive() for thread in started)


def test_stats_are_correct(square):
    """Counts are exact, times add up, and `bottleneck` describes the bottleneck."""
    loader = Loader(square, batch_size=5, threads=2, prefetch=2)
    assert "Nothing" in loader.stats().bottleneck
    began = time.perf_counter()
    for _ in loader:
        time.sleep(0.01)
    took = time.perf_counter() - began
    stats = loader.stats()
    assert (stats.batches, stats.samples, stats.skipped) == (4, 16, 0)
    assert 0.04 <= stats.seconds <= took
    assert stats.wait_seconds < stats.seconds
    assert stats.samples_per_second == 16 / stats.seconds
    assert set(stats.stages) == {"read", "image", "mask", "custom"}
    # One call makes images and masks.
    assert stats.stages["custom"] == stats.stages["mask"] == 0
    assert min(stats.stages["read"], stats.stages["image"]) > 0
    assert 0 <= stats.ready <= 2
    assert stats.buffer_bytes % 1 == 0
    assert str(stats).endswith(stats.bottleneck)
    loader.preprocessing.fill = lambda *arrays: (
        (time.sleep(0.02), type(stats))[0] or (0, 0, 0)
    )
    for _ in range(3):
        list(loader)
    assert loader.stats().bottleneck.startswith("The consumer waits for ")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"on_error": "ignore"},
            "on_error is 'ignore', expected one of 'raise', 'skip'",
        ),
        ({"dtype": "float23"}, "did you mean 'float32'"),
        ({"dtype": "raw", "normalize": "zscore"}, "leave one of them out"),
        (
            {"dtype": "raw", "pad_value": 0.5},
            "pad_value is 0.5, expected a value of uint16",
        ),
        (
            {"dtype": "raw", "pad_value": -1},
            "pad_value is -1, expected a value of uint16",
        ),
        ({"dtype": "float16", "pad_value": 70000}, "expected a value of float16"),
        ({"pad_value": np.nan}, "pad_value is nan"),
        ({"pad_value": "black"}, "pad_value is 'black', expected a number"),
        ({"weights": [1, 2]}, r"weights have shape \(2,\), expected one for each"),
        ({"weights": "heavy"}, "weights is 'heavy', expected a number for each"),
        ({"weights": -np.ones(16)}, "weight of sample 0 is -1.0"),
        ({"weights": np.zeros(16)}, "weight"),
        ({"weights": np.full(16, np.inf)}, "weight of sample 0 is inf"),
        ({"foreground": 1.5}, "foreground"),
        ({"foreground": "most"}, "expected a fraction"),
        ({"foreground": ("icontuor", 0.5)}, "did you mean 'icontour'"),
        ({"together": "patients"}, "did you mean 'patient'"),
        ({"rank": 2, "world_size": 2}, "rank"),
        ({"rank": -1}, "rank"),
        ({"world_size": 0}, "world_size"),
        ({"uneven": "drop"}, "uneven"),
        ({"indices": []}, "no sample|0 samples"),
        ({"indices": [3, 3]}, "sample 3 twice"),
        ({"indices": [16]}, "expected 0 to 15"),
        ({"batch_size": 17, "drop_last": True}, "batch_size of at most 16"),
        ({"batch_size": 9, "world_size": 2, "drop_last": True}, "at most 8"),
    ],
)
def test_bad_options_are_refused(square, options, text):
    """The error names the option, its value and what was expected."""
    errors = (OptionError, fastseg.errors.UnknownClassError)
    with pytest.raises(errors, match=text):
        Loader(square, **{"batch_size": 4, **options})
