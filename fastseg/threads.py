"""Threads that apply a function to many items, and that are certain to end.

    caller ── tasks ──> workers ── results ──> caller
                           │
                      supervisor: starts the workers, and waits until they have ended

Python raises KeyboardInterrupt in the main thread between any two instructions, also in
the midst of `Thread.start` or of a `finally`. So nothing here depends on a line that
the main thread may not reach:

- The caller starts one thread, the supervisor, by a single call into C. No interrupt
  reaches the supervisor, so it knows every worker that it has started.
- A worker ends by itself when the pool is closed or garbage-collected. Nobody has to
  know it. What wakes it, it passes on to the next worker.
- `close` may be interrupted and called again. The collection of a pool wakes its
  workers by a single call into C.
"""

import atexit
import contextlib
import os
import sys
import time
import weakref
from _thread import start_new_thread
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from queue import Empty, SimpleQueue
from threading import Lock, Thread, get_ident
from types import TracebackType
from typing import Any, Generic, TypeVar

from fastseg.bounds import MAX_THREADS
from fastseg.errors import whole_number

T = TypeVar("T")
R = TypeVar("R")

# Seconds that a thread takes at least from its last line to its end.
WORKER_END = 2e-5
# Seconds until a thread looks again that waits for the end of a pool, and that an
# interrupt or another thread has deprived of the message.
WAIT = 0.1
# Seconds after which a thread that runs Python lets another one run that waits.
SWITCH_INTERVAL = 5e-4


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def check_threads(threads: Any) -> int:
    """Return the option `threads` as an int, or raise OptionError."""
    return whole_number("threads", threads, 1, MAX_THREADS)


def keep_ahead(items: Iterable[T], most: int) -> Iterator[T]:
    """Yield items in their order, each after up to `most` further ones were taken."""
    ahead: deque[T] = deque()
    for item in items:
        ahead.append(item)
        if len(ahead) > most:
            yield ahead.popleft()
    yield from ahead


_switching = Lock()
# How many `frequent_switches` are entered, and Python's interval before the first.
_switchers = 0
_usual_interval = 0.0


@contextlib.contextmanager
def frequent_switches(threads: int) -> Iterator[None]:
    """Let threads of this process that run Python take turns often, if there are many.

    A thread that returns from a kernel or from writing a file waits until another one
    that runs Python lets it: 5 ms, by default, which is as long as the kernel took. So
    builds with two threads take a quarter less time.
    """
    global _switchers, _usual_interval
    if threads == 1:
        yield
        return
    with _switching:
        if not _switchers:
            _usual_interval = sys.getswitchinterval()
            sys.setswitchinterval(min(_usual_interval, SWITCH_INTERVAL))
        _switchers += 1
    try:
        yield
    finally:
        with _switching:
            _switchers -= 1
            if not _switchers:
                sys.setswitchinterval(_usual_interval)


def map_ordered(
    function: Callable[[T], R],
    items: Iterable[T],
    threads: int,
    stop: Callable[[], None] = lambda: None,
) -> Generator[R, None, None]:
    """Yield the result of a function for each item, in the order of the items.

    threads : number of worker threads; with 1, the calling thread does the work
    stop    : called if not all results are taken, before the threads are joined; it
        ends what these wait for

    At most 2 * threads + 1 items are submitted and not yet yielded. An exception of the
    function is raised in place of its result. Exhaust or close the generator: that ends
    the worker threads. Each item costs 50 us of overhead.
    """
    if threads == 1:
        yield from map(function, items)
        return
    pool = _PatientPool[tuple[int, T], _Outcome](
        threads, partial(_try, function), "fastseg-map"
    )
    finished: dict[int, _Outcome] = {}
    submitted = yielded = 0
    with pool, pool:  # twice, see WorkerPool
        try:
            for item in items:
                pool.submit((submitted, item))
                submitted += 1
                if submitted - yielded > 2 * threads:
                    yield _take(pool, finished, yielded)
                    yielded += 1
            while yielded < submitted:
                yield _take(pool, finished, yielded)
                yielded += 1
        except BaseException:  # also if the generator is closed
            stop()
            raise


# Number of an item, the function's result, and its exception or None.
_Outcome = tuple[int, Any, BaseException | None]


def _try(function: Callable[[Any], Any], task: tuple[int, Any]) -> _Outcome:
    number, item = task
    try:
        return number, function(item), None
    except BaseException as exc:
        return number, None, exc


def _take(
    pool: "WorkerPool[Any, _Outcome]", finished: dict[int, _Outcome], number: int
) -> Any:
    """Wait for the result of an item, and return it or raise its exception."""
    while number not in finished:
        outcome = pool.get_result()
        finished[outcome[0]] = outcome
    _, result, error = finished.pop(number)
    if error is None:
        return result
    try:
        raise error
    finally:
        del error  # its traceback refers to this frame


class WorkerPool(Generic[T, R]):
    """Threads that call a function with each task, in the order of submission.

    Use it in `with pool, pool:`. On exit, or on `close`, the tasks that are running are
    finished, the waiting ones are dropped, and all threads end. The pool is named
    twice, because an interrupt may hit the first exit before it has begun. The threads
    also end, without anybody waiting for them, when the pool is garbage-collected.

    The function must not refer to the object that owns the pool, nor return None.
    """

    def __init__(self, threads: int, function: Callable[[T], R], name: str):
        self._shared = _Shared(self)
        self._function = function
        self._names = [f"{name}-{k}" for k in range(threads)]
        self._is_started = False

    def submit(self, task: T) -> None:
        """Queue a task. The first one starts the threads."""
        self._shared.tasks.put(task)
        if not self._is_started:
            start_new_thread(_supervise, (self._shared, self._function, self._names))
            self._is_started = True

    @property
    def results_ready(self) -> int:
        """Number of results that `get_result` returns without waiting.

        Raises RuntimeError in a forked process, even if results were ready before the
        fork.
        """
        self._check_process()
        return self._shared.results.qsize()

    def get_result(self) -> R:
        """Wait for the next result and return it. Results come in any order.

        Raises the exception of a function that raises one, or of a system that has no
        more threads. Raises RuntimeError after `close`, and in a forked process.
        """
        self._check_process()
        shared = self._shared
        received = None if shared.is_closed else shared.results.get()
        if received is None:
            raise RuntimeError("the loop has been closed")
        if isinstance(received, BaseException):
            raise received
        result: R = received
        return result

    def _check_process(self) -> None:
        if self._shared.process != os.getpid():
            raise RuntimeError(
                "a loop cannot continue in a forked process, because its threads run "
                "only in the parent; start a new loop"
            )

    def end(self) -> None:
        """Let the threads end after the tasks that they run, without waiting."""
        self._shared.end()

    def close(self) -> None:
        """End the threads. Any thread may call this, more than once."""
        self._shared.end()
        self._shared.wait()

    def __enter__(self) -> "WorkerPool[T, R]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _PatientPool(WorkerPool[T, R]):
    """A pool for functions that write to files which the caller closes after the pool.

    A thread that still wrote to a file that is closed would write to whatever file gets
    its descriptor.
    """

    def close(self) -> None:
        """End the threads; raise interrupts only after they have ended."""
        interrupt = None
        while True:
            try:
                super().close()
                break
            except KeyboardInterrupt as exc:
                interrupt = exc
        if interrupt is not None:
            raise interrupt


class _Shared:
    """What a pool shares with its threads, which do not refer to the pool itself.

    tasks      : tasks, and None or a dead reference to wake a worker that has to end
    results    : results and exceptions; None when all workers have ended
    is_closed  : whether the pool has been closed
    is_running : whether the supervisor is running, and with it perhaps workers
    ended      : an entry for each worker that has done its work
    finished   : an entry when the supervisor has ended
    """

    def __init__(self, pool: WorkerPool[Any, Any]):
        self.tasks: SimpleQueue[Any] = SimpleQueue()
        self.results: SimpleQueue[Any] = SimpleQueue()
        self.is_closed = False
        self.is_running = False
        self.ended: SimpleQueue[None] = SimpleQueue()
        self.finished: SimpleQueue[None] = SimpleQueue()
        self.process = os.getpid()
        # When the pool is collected, the reference itself becomes a task.
        self._pool = weakref.ref(pool, self.tasks.put)

    def is_over(self) -> bool:
        """Return whether threads have to end."""
        return self.is_closed or self._pool() is None

    def end(self) -> None:
        """Make threads end after the tasks that they run."""
        self.is_closed = True
        self.tasks.put(None)

    def wait(self) -> None:
        """Wait until all workers have ended, which `end` or a collection has started.

        If the supervisor has not begun, it will not start any. A forked process has no
        threads to wait for. Garbage collection may close a pool in a thread of this or
        of another pool, and threads that wait for each other would never end.
        """
        if self.process == os.getpid() and get_ident() not in _own_threads:
            while self.is_running:
                # A queue, not a lock: no line may have to release anything.
                with contextlib.suppress(Empty):
                    self.finished.get(timeout=WAIT)


# Of all running workers and supervisors.
_own_threads: set[int] = set()
# Shared by supervisors that are running.
_running: set[_Shared] = set()
_is_exiting = False


def _supervise(
    shared: _Shared, function: Callable[[Any], Any], names: Iterable[str]
) -> None:
    """Start workers, and wait until they have ended."""
    _own_threads.add(get_ident())
    workers: list[Thread] = []
    shared.is_running = True
    _running.add(shared)
    try:
        for name in names:
            if shared.is_over() or _is_exiting:
                break
            # Daemon threads, because Python joins all others before it calls
            # `_end_all`.
            worker = Thread(
                target=_work, args=(shared, function), name=name, daemon=True
            )
            workers.append(worker)
            worker.start()
            del worker
    except BaseException as exc:  # the system has no more threads or memory
        shared.results.put(exc)
        workers = [worker for worker in workers if worker.is_alive()]
    for _ in workers:
        shared.ended.get()
    # Not `join`, which up to Python 3.12 registers this thread in `threading` for ever.
    while any(worker.is_alive() for worker in workers):
        time.sleep(WORKER_END)
    # Here and not in the main thread, where an interrupt could be lost: Python calls a
    # function of `threading` for each.
    workers.clear()
    shared.results.put(None)  # wakes a consumer that waits in `get_result`
    _running.discard(shared)
    shared.is_running = False
    shared.finished.put(None)
    _own_threads.discard(get_ident())


def _work(shared: _Shared, function: Callable[[Any], Any]) -> None:
    """Call the function with each task, until the pool is closed or collected."""
    _own_threads.add(get_ident())
    while True:
        task = shared.tasks.get()
        if shared.is_over():
            shared.tasks.put(None)  # wakes the next worker
            break
        try:
            result = function(task)
        except BaseException as exc:
            result = exc
        shared.results.put(result)
        # Else they stay in memory while the thread waits for the next task.
        del task, result
    _own_threads.discard(get_ident())
    shared.ended.put(None)


@atexit.register
def _end_all() -> None:
    # A kernel that still runs while the interpreter shuts down would write to memory
    # that has been freed.
    global _is_exiting
    _is_exiting = True
    running = list(_running)
    for shared in running:
        shared.end()
    for shared in running:
        shared.wait()
