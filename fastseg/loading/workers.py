"""Threads that work through tasks, and are certain to end."""

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
    """Threads that call a function of each task, in the order in which they are given.

    To be used in `with`: after it, or after `close`, no thread is left; a task that is
    being worked on is brought to its end, the others are dropped. The function must
    not raise, nor refer to whoever holds the crew.
    """

    def __init__(self, threads: int, function: Callable[[T], R], name: str):
        self._tasks: SimpleQueue[T | None] = SimpleQueue()
        self._results: SimpleQueue[R | None] = SimpleQueue()
        self._closed = False
        self._process = os.getpid()
        self._threads: list[threading.Thread] = []
        _AT_WORK.add(self)
        for k in range(threads):
            # Daemons, since Python waits for others before it calls `_close_all`.
            work = (function, self._tasks, self._results)
            thread = threading.Thread(
                target=_work, args=work, name=f"{name}-{k}", daemon=True
            )
            try:
                thread.start()
            except BaseException:  # the system has no more threads, or Ctrl-C
                self.close()
                raise
            self._threads.append(thread)

    def give(self, task: T) -> None:
        """Add a task."""
        self._tasks.put(task)

    @property
    def ready(self) -> int:
        """How many results can be taken without waiting.

        Raises RuntimeError in a forked process, even if some were made before it.
        """
        self._stay_in_process()
        return self._results.qsize()

    def take(self) -> R:
        """Wait for a result and return it; they come in no order.

        Raises RuntimeError after `close`, and in a forked process.
        """
        self._stay_in_process()
        result = None if self._closed else self._results.get()
        if result is None:
            raise RuntimeError("the loop has been closed")
        return result

    def _stay_in_process(self) -> None:
        if self._process != os.getpid():
            raise RuntimeError(
                "a loop over a Loader cannot go on in a forked process, where its "
                "threads are missing; begin a new one there"
            )

    def close(self) -> None:
        """End the threads. May be called twice, and from any thread."""
        with contextlib.suppress(Empty):
            while True:
                self._tasks.get_nowait()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            # A worker's own, if its garbage collection has found the loop.
            if thread is not threading.current_thread():
                thread.join()
        self._threads = []
        self._closed = True
        self._results.put(None)  # for whoever waits

    def __enter__(self) -> "WorkerPool[T, R]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _work(
    function: Callable[[Any], Any], tasks: SimpleQueue[Any], results: SimpleQueue[Any]
) -> None:
    while (task := tasks.get()) is not None:
        results.put(function(task))
        del task  # not to be held while waiting for the next one


_AT_WORK: weakref.WeakSet[WorkerPool[Any, Any]] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # A kernel that still runs while Python takes itself apart would write to memory
    # that is gone.
    for crew in list(_AT_WORK):
        crew.close()
