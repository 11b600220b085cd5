"""Tasks on an executor: processes of this machine, or a cluster of Dask.

    tasks ──> run_tasks ──> executor: a few for each worker ──> results, as they come

A task is minutes of work on many files, and there are few of them at a time: a
scheduler holds what it is given, and no worker waits for the next one.
"""

import multiprocessing
import os
import pickle
import re
import secrets
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from fastseg.errors import OptionError, missing_extra, shown, whole_number
from fastseg.threads import usable_cores

R = TypeVar("R")
Task = tuple[Any, ...]

# So many tasks for each worker, where there is enough work: one that is slow does not
# hold up all others.
TASKS_OF_A_WORKER = 4
# So many tasks for each worker are under way, so that none waits for the next one, and
# the scheduler has few to remember.
UNDER_WAY = 2
# Seconds after which the number of workers is looked at again.
LOOK_EVERY_S = 5.0
MAX_PROCESSES = 1024
ADDRESS = re.compile(r"[a-z]+://.+:[0-9]+")


def executor_of(executor: Any) -> Executor:
    """Return an executor, also of a Client of Dask, or raise OptionError."""
    if isinstance(executor, Executor):
        return executor
    if hasattr(executor, "get_executor"):
        found: Executor = executor.get_executor(pure=False)
        return found
    raise OptionError(
        f"executor is {shown(executor)}, expected a concurrent.futures.Executor, or a "
        "Client of Dask"
    )


def workers_of(executor: Executor) -> int:
    """Return how many tasks an executor runs at once; at least 1.

    On Dask, workers come and go.
    """
    nthreads = getattr(getattr(executor, "_client", None), "nthreads", None)
    if nthreads is not None:
        threads: dict[str, int] = nthreads()
        return max(1, sum(threads.values()))
    for name in ("_max_workers", "num_workers"):
        number = getattr(executor, name, None)
        if isinstance(number, int) and number > 0:
            return number
    return usable_cores()


def count_tasks(size: int, most: int, workers: int) -> int:
    """Return into how many tasks to divide some work, at least 1.

    size : number of its indivisible parts
    most : how many of these a task has, at most
    """
    return max(1, min(max(-(-size // most), TASKS_OF_A_WORKER * workers), size))


def run_tasks(
    executor: Executor,
    function: Callable[..., R],
    tasks: Iterable[Task],
    name: Callable[..., str],
) -> Generator[tuple[int, R], None, None]:
    """Yield the number and the result of each task, as they are done.

    function : a function of a module, which workers import
    tasks    : its arguments
    name     : returns in words where an error of a task lies; has the same arguments

    What a task raises is raised, with a note that names the task; others that wait are
    cancelled then, and if the generator is closed. So close it.
    """
    # Dask takes calls with the same arguments for one call, and would return what an
    # earlier one got.
    call = secrets.token_hex(8)
    todo = enumerate(tasks)
    running: dict[Future[R], tuple[int, Task]] = {}
    task: Task | None = None
    try:
        while True:
            while len(running) < UNDER_WAY * workers_of(executor):
                number, task = next(todo, (-1, None))
                if task is None:
                    break
                future = executor.submit(_run, call, function, *task)
                running[future] = number, task
            if not running:
                break
            done, _ = wait(running, LOOK_EVERY_S, FIRST_COMPLETED)
            for future in done:
                number, task = running.pop(future)
                yield number, future.result()
    except Exception as exc:
        if task is not None:
            exc.add_note(f"in {name(*task)}")
        raise
    finally:
        for future in running:
            future.cancel()


def _run(call: str, function: Callable[..., R], *task: Any) -> R:
    """Do a task, in a worker."""
    return function(*(x.load() if isinstance(x, _Pickled) else x for x in task))


def in_order(results: Iterable[tuple[int, R]]) -> Iterator[R]:
    """Yield the results of `run_tasks` in the order of the tasks."""
    early: dict[int, R] = {}
    number = 0
    for done, result in results:
        early[done] = result
        while number in early:
            yield early.pop(number)
            number += 1


def share(executor: Executor, value: Any) -> Any:
    """Return an argument for many tasks, which get the value in its place.

    Dask brings it to each worker once. For other executors it is pickled once.
    """
    client = getattr(executor, "_client", None)
    if client is not None:
        return client.scatter(value, broadcast=True, hash=False)
    return _Pickled(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))


@dataclass(frozen=True, slots=True)
class _Pickled:
    """A value that tasks share."""

    data: bytes

    def load(self) -> Any:
        """Return the value."""
        return pickle.loads(self.data)


@contextmanager
def process_pool(processes: int) -> Iterator[Executor]:
    """Yield an executor of processes that end with the `with` block, whatever they do.

    They also end if this process is killed.
    """
    processes = whole_number("processes", processes, 1, MAX_PROCESSES)
    # A fork would copy locks that threads of this process hold.
    context = multiprocessing.get_context("spawn")
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, context, _begin_worker)
    try:
        yield pool
    except BaseException:
        # A task may take minutes; what it has not noted is made again.
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        pool.shutdown()


@contextmanager
def dask_client(address: str) -> Iterator[Any]:
    """Yield a Client of the cluster whose scheduler has an address; see `build_on`."""
    if not ADDRESS.fullmatch(address):
        raise OptionError(
            f"dask is {shown(address)}, expected the address of a scheduler, as in "
            "tcp://host:8786"
        )
    try:
        from distributed import Client
    except ImportError:
        raise missing_extra("a cluster of Dask", "dask") from None
    with Client(address, set_as_default=False) as client:
        yield client


def has_lost_workers(exc: BaseException) -> bool:
    """Return whether an executor raises an error because workers have died."""
    # Of Dask, which need not be installed.
    is_killed = type(exc).__name__ == "KilledWorker"
    return is_killed or isinstance(exc, BrokenExecutor | CancelledError)


def _begin_worker() -> None:
    """Let this process end with its parent, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
