"""Builds by parts on an executor: processes of this machine, or a cluster of Dask.

    build_on ──> plan ──> tasks ──> executor ──> journals ──> finish

A task is one part of the plan, `parts.build_part`. All that goes to a worker is the
path of the plan and the name of the part, and what comes back is a count: pixels and
records stay in the folder of the plan. So a build that ended early continues there,
whatever became of its workers.
"""

from concurrent.futures import Executor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastseg.errors import PlanError
from fastseg.ingest.parts import (
    PartReport,
    SeveralNamesError,
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
from fastseg.tasks import count_tasks, executor_of, run_tasks, workers_of

# Images that are read from a slow disk or decoded by pydicom take 10 ms: a task of 64
# blocks of 128 images takes a minute and a half.
BLOCKS_OF_A_TASK = 64


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
    report, rejects_file = finish_plan(
        plan, request.output, request.options.force, progress
    )
    return replace(report, path=request.target), rejects_file


def parts_of(blocks: int, workers: int) -> list[str]:
    """Return the names of the parts that are the tasks of a build."""
    count = count_tasks(blocks, BLOCKS_OF_A_TASK, workers)
    return [f"{number}/{count}" for number in range(1, count + 1)]


def _make_parts(
    executor: Executor, plan: PlanFolder, threads: int, progress: Progress
) -> None:
    """Have all parts made, those that are made already at the cost of reading them."""
    plan.check_software()
    # Workers of this machine, and others that have the same cache, find them compiled.
    buckets = [bucket for bucket, _ in plan.counts]
    prepare_kernels(buckets, plan.classes, plan.rules, plan.formats)
    tasks = [
        (str(plan.path), part, threads)
        for part in parts_of(plan.blocks, workers_of(executor))
    ]
    with (
        progress("build", plan.blocks) as advance,
        closing(run_tasks(executor, make_part, tasks, _name_part)) as results,
    ):
        for _, report in results:
            advance(report.blocks)


def make_part(plan: str, part: str, threads: int) -> PartReport:
    """Make a part of a plan, in a worker."""
    return build_part(plan, part, threads=threads)


def _name_part(plan: str, part: str, threads: int) -> str:
    return (
        f"part {part} of {plan}; what is made is kept: build again with the same table "
        "and options to continue"
    )
