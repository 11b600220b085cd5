"""A pool of threads that is certain to end."""

import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class WorkerPool(Generic[T, R]):
    """Threads that call a function with each task, in the order of submission.

    Use it in a `with` statement. On exit, or on `close`, the tasks that are running are
    finished, the waiting ones are dropped, and all threads end. The function must not
    raise, and must not refer to the object that owns the pool.
    """

    def __init__(self, threads: int, function: Callable[[T], R], name: str):
        self._tasks: SimpleQueue[T | None] = SimpleQueue()
        self._results: SimpleQueue[R | None] = SimpleQueue()
        self._closed = False
        self._process = os.getpid()
        self._threads: list[threading.Thread] = []
        _OPEN_POOLS.add(self)
        for k in range(threads):
            # Daemon threads, because Python joins all others before it calls
            # `_close_all`.
            arguments = (function, self._tasks, self._results)
            thread = threading.Thread(
                target=_run_tasks, args=arguments, name=f"{name}-{k}", daemon=True
            )
            try:
                thread.start()
            except BaseException:  # the system has no more threads, or Ctrl-C
                self.close()
                raise
            self._threads.append(thread)

    def submit(self, task: T) -> None:
        """Queue a task."""
        self._tasks.put(task)

    @property
    def results_ready(self) -> int:
        """Number of results that `get_result` returns without waiting.

        Raises RuntimeError in a forked process, even if results were ready before the
        fork.
        """
        self._check_process()
        return self._results.qsize()

    def get_result(self) -> R:
        """Wait for the next result and return it. Results come in any order.

        Raises RuntimeError after `close`, and in a forked process.
        """
        self._check_process()
        result = None if self._closed else self._results.get()
        if result is None:
            raise RuntimeError("the loop has been closed")
        return result

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise RuntimeError(
                "a loop over a Loader cannot continue in a forked process, because its "
                "threads run only in the parent; start a new loop"
            )

    def close(self) -> None:
        """End the threads. Any thread may call this, more than once."""
        with contextlib.suppress(Empty):
            while True:
                self._tasks.get_nowait()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            # Garbage collection may run `close` in a worker thread, which cannot join
            # itself.
            if thread is not threading.current_thread():
                thread.join()
        self._threads = []
        self._closed = True
        self._results.put(None)  # wakes a consumer that waits in `get_result`

    def __enter__(self) -> "WorkerPool[T, R]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _run_tasks(
    function: Callable[[Any], Any], tasks: SimpleQueue[Any], results: SimpleQueue[Any]
) -> None:
    while (task := tasks.get()) is not None:
        results.put(function(task))
        del task  # else it stays in memory while the thread waits for the next one


_OPEN_POOLS: weakref.WeakSet[WorkerPool[Any, Any]] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # A kernel that still runs while the interpreter shuts down would write to memory
    # that has been freed.
    for pool in list(_OPEN_POOLS):
        pool.close()
