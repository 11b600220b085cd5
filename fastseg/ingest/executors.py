"""Builds by parts on an executor: processes of this machine, or a cluster of Dask.

    build_on ──> plan ──> tasks ──> executor ──> journals ──> finish

A task is one part of the plan, `parts.build_part`. All that goes to a worker is the
path of the plan and the name of the part, and what comes back is a count: pixels and
records stay in the folder of the plan. So a build that ended early continues there,
whatever became of its workers.
"""

import multiprocessing
import os
import re
import secrets
import signal
import threading
from collections.abc import Iterator
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
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastseg.errors import OptionError, PlanError, missing_extra, shown, whole_number
from fastseg.ingest.parts import (
    PartReport,
    SeveralNamesError,
    blocks_of,
    build_part,
    finish_plan,
    make_plan,
)
from fastseg.ingest.plan_folder import (
    PlanFolder,
    folder_of,
    remove_plan,
    request_digest,
)
from fastseg.ingest.report import BuildReport
from fastseg.ingest.request import Request, prepare_kernels
from fastseg.progress import Progress
from fastseg.store.writing.partial import sole_builder
from fastseg.threads import usable_cores

# Images that are read from a slow disk or decoded by pydicom take 10 ms: a task of 64
# blocks of 128 images takes a minute and a half.
BLOCKS_OF_A_TASK = 64
# So many tasks for each worker, where there are enough blocks: one that is slow does
# not hold up all others.
TASKS_OF_A_WORKER = 4
# So many tasks for each worker are under way, so that none waits for the next one, and
# the scheduler has few to remember.
UNDER_WAY = 2
# Seconds after which the number of workers is looked at again.
LOOK_EVERY_S = 5.0
MAX_PROCESSES = 1024
ADDRESS = re.compile(r"[a-z]+://.+:[0-9]+")


def build_on(
    executor: Any, request: Request, threads: int, progress: Progress
) -> tuple[BuildReport, Path | None]:
    """Build a store by tasks of an executor; return its report and list of rejects.

    executor : a `concurrent.futures.Executor`, or a Client of Dask
    threads  : of each task

    Continues with the plan that is there. Raises PlanError if it is the plan of another
    table or other options; what a task raises, with a note that names its part; and
    what `build` does.
    """
    pool = executor_of(executor)
    folder = folder_of(request.target)
    with sole_builder(request.target):
        if not folder.exists():
            make_plan(request, progress, threads, look_at_files=False)
        try:
            return _build(pool, request, threads, progress)
        except SeveralNamesError:
            # Links to files are rare, and to look for them takes as long as to look at
            # every file.
            remove_plan(folder)
        make_plan(request, progress, threads, look_at_files=True)
        return _build(pool, request, threads, progress)


def _build(
    pool: Executor, request: Request, threads: int, progress: Progress
) -> tuple[BuildReport, Path | None]:
    """Make and join the parts of the plan that is there."""
    folder = folder_of(request.target)
    plan = PlanFolder(folder.absolute())
    if plan.request != request_digest(request, folder):
        raise PlanError(
            f"{folder}: is the plan of another table or of other options; finish that "
            "build (fastseg finish), or remove the folder"
        )
    _make_parts(pool, plan, threads, progress)
    report, rejects_file = finish_plan(plan, request.output, request.force, progress)
    return replace(report, path=request.target), rejects_file


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


def parts_of(blocks: int, workers: int) -> list[str]:
    """Return the names of the parts that are the tasks of a build."""
    count = max(-(-blocks // BLOCKS_OF_A_TASK), TASKS_OF_A_WORKER * workers)
    count = max(1, min(count, blocks))
    return [f"{number}/{count}" for number in range(1, count + 1)]


def _make_parts(
    executor: Executor, plan: PlanFolder, threads: int, progress: Progress
) -> None:
    """Have all parts made, those that are made already at the cost of reading them."""
    plan.check_software()
    # Workers of this machine, and others that have the same cache, find them compiled.
    buckets = [bucket for bucket, _ in plan.counts]
    prepare_kernels(buckets, plan.classes, plan.rules, plan.formats)
    call = secrets.token_hex(8)
    todo = iter(parts_of(plan.blocks, workers_of(executor)))
    running: dict[Future[PartReport], str] = {}
    part = ""
    try:
        with progress("build", plan.blocks) as advance:
            while True:
                while len(running) < UNDER_WAY * workers_of(executor):
                    part = next(todo, "")
                    if not part:
                        break
                    task = executor.submit(
                        make_part, str(plan.path), part, threads, call
                    )
                    running[task] = part
                if not running:
                    break
                done, _ = wait(running, LOOK_EVERY_S, FIRST_COMPLETED)
                for task in done:
                    part = running.pop(task)
                    task.result()
                    first, stop = blocks_of(part, plan.blocks)
                    advance(stop - first)
    except Exception as exc:
        exc.add_note(
            f"in part {part} of {plan.path}; what is made is kept: build again with "
            "the same table and options to continue"
        )
        raise
    finally:
        for task in running:
            task.cancel()


def make_part(plan: str, part: str, threads: int, call: str) -> PartReport:
    """Make a part of a plan, in a worker.

    call : another one in each build: Dask takes calls with the same arguments for one
        call, and would return what an earlier build got
    """
    return build_part(plan, part, threads=threads)


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
        raise missing_extra("building on Dask", "dask") from None
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
