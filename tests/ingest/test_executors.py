"""Builds on executors: the bytes of a build, whatever becomes of the workers."""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import (
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from concurrent.futures.process import BrokenProcessPool

import pytest

import fastseg
from fastseg.errors import (
    MissingExtraError,
    NothingBuiltError,
    OptionError,
    OutputError,
    PlanError,
)
from fastseg.ingest import executors
from fastseg.ingest import plan as plan_module
from fastseg.ingest.executors import parts_of
from fastseg.tasks import (
    UNDER_WAY,
    dask_client,
    has_lost_workers,
    process_pool,
    workers_of,
)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Let the sample data have 20 blocks; a plan says so to its workers."""
    monkeypatch.setattr(plan_module, "BLOCK_SIZE", 5)


@pytest.fixture(scope="module")
def links(sample_study, tmp_path_factory):
    """All images of the sample data: two shapes, and many without contours."""
    folder = tmp_path_factory.mktemp("links")
    return fastseg.link(sample_study, slices="series").save(folder / "links.csv")


@pytest.fixture(scope="module")
def whole(links, tmp_path_factory):
    """The report of a build at once."""
    return fastseg.build(links, tmp_path_factory.mktemp("whole") / "whole.h5")


@pytest.fixture
def threads():
    with ThreadPoolExecutor(2) as executor:
        yield executor


def killer(pids, moment):
    """Return a progress that kills a process when a number of tasks are done."""

    @contextlib.contextmanager
    def progress(label, total):
        done = 0

        def advance(n=1):
            nonlocal done
            done += 1
            if label == "build" and done == moment:
                os.kill(random.Random(moment).choice(pids()), signal.SIGKILL)

        yield advance

    return progress


def test_processes_give_the_bytes_of_a_build(links, whole, tmp_path):
    """They do with each option that a build has, and report the same."""
    steps = []

    @contextlib.contextmanager
    def progress(label, total):
        steps.append([label, total, 0])

        def advance(n=1):
            steps[-1][2] += n

        yield advance

    with process_pool(2) as executor:
        report = fastseg.build(
            links, tmp_path / "a.h5", executor=executor, progress=progress
        )
        packed = fastseg.build(
            links, tmp_path / "c.h5", executor=executor, compress=True, threads=2
        )
    assert report.path.read_bytes() == whole.path.read_bytes()
    for name in ("samples", "links", "contours", "off_image", "fingerprint", "rejects"):
        assert getattr(report, name) == getattr(whole, name)
    assert ["build", 20, 20] in steps
    assert packed.fingerprint == whole.fingerprint
    expected = fastseg.build(links, tmp_path / "d.h5", compress=True)
    assert packed.path.read_bytes() == expected.path.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "c.h5", "d.h5"]


@pytest.mark.parametrize("moment", [3])
def test_a_process_that_is_killed_leaves_what_is_made(links, whole, tmp_path, moment):
    """The error of the pool names a part, and the next build makes the others."""
    before = set(multiprocessing.active_children())

    def pids():
        return [p.pid for p in set(multiprocessing.active_children()) - before]

    output = tmp_path / "a.h5"
    with pytest.raises(BrokenProcessPool) as caught, process_pool(2) as executor:
        fastseg.build(links, output, executor=executor, progress=killer(pids, moment))
    (note,) = caught.value.__notes__
    assert "in part " in note
    assert str(tmp_path / "a.h5.plan") in note
    assert (tmp_path / "a.h5.plan" / "plan.json").exists()
    with process_pool(2) as executor:
        report = fastseg.build(links, output, executor=executor)
    assert report.path.read_bytes() == whole.path.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_a_cluster_of_dask_replaces_a_worker_that_is_killed(
    links, whole, sample_study, fastseg_command, tmp_path
):
    """The build goes on and gives the same bytes, as later ones on the cluster do."""
    distributed = pytest.importorskip("distributed", reason="needs Dask's distributed")
    # In one test, because a cluster takes some seconds of a processor to start.
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        cluster.get_client() as client,
    ):

        def pids():
            return [worker.pid for worker in cluster.workers.values() if worker.pid]

        output = tmp_path / "a.h5"
        for moment in (1, 5):
            client.wait_for_workers(2)
            progress = killer(pids, moment)
            report = fastseg.build(links, output, executor=client, progress=progress)
            assert report.path.read_bytes() == whole.path.read_bytes()
            assert [*tmp_path.iterdir()] == [output]
            output.unlink()
        # Dask remembers results by their arguments: no build takes another's.
        executor = client.get_executor()
        assert workers_of(executor) in (1, 2)
        report = fastseg.build(links, output, executor=executor)
        assert report.path.read_bytes() == whole.path.read_bytes()
        address = cluster.scheduler_address
        output.unlink()
        done = fastseg_command("build", str(links), "-o", "a.h5", "--dask", address)
        assert done.returncode == 0, done.stderr
        assert output.read_bytes() == whole.path.read_bytes()
        # What all tasks need travels once.
        study = sample_study.parent / "phantom_rt"
        linked = [fastseg.link(study, executor=of) for of in (client, None)]
        assert linked[0].links == linked[1].links
        assert linked[0].notes == linked[1].notes
        found = [fastseg.check(output, executor=of) for of in (client, None)]
        assert list(found[0]) == list(found[1])
        assert found[0].not_run == found[1].not_run
        assert cluster.workers


def test_the_error_of_a_task_names_its_part(links, tmp_path):
    """It is the one that the task has raised; tasks that wait are cancelled."""

    class Full(ThreadPoolExecutor):
        """Its third task finds the disk full."""

        futures = ()

        def submit(self, function, *arguments):
            self.futures = (*self.futures, super().submit(function, *arguments))
            if len(self.futures) == 3:
                failed = Future()
                failed.set_exception(OSError(28, "No space left on device"))
                return failed
            return self.futures[-1]

    with Full(1) as executor, pytest.raises(OSError, match="No space left") as caught:
        fastseg.build(links, tmp_path / "a.h5", executor=executor)
    (note,) = caught.value.__notes__
    assert note.startswith(f"in part 3/4 of {tmp_path / 'a.h5.plan'}; what is made is ")
    assert len(executor.futures) < 5


def test_tasks_that_are_forgotten_end_the_build(links, whole, tmp_path):
    """As those of Dask are if its scheduler is started anew; what is made is kept."""

    class Forgetful(ThreadPoolExecutor):
        def submit(self, function, *arguments):
            future = super().submit(function, *arguments)
            if self._work_queue.qsize() and future.cancel():
                future.set_running_or_notify_cancel()
            return future

    output = tmp_path / "a.h5"
    with Forgetful(1) as executor, pytest.raises(CancelledError) as caught:
        fastseg.build(links, output, executor=executor)
    assert has_lost_workers(caught.value)
    assert "build again with the same table" in caught.value.__notes__[0]
    assert not output.exists()
    with ThreadPoolExecutor(1) as executor:
        report = fastseg.build(links, output, executor=executor)
    assert report.path.read_bytes() == whole.path.read_bytes()


def test_a_plan_continues_only_the_same_build(links, whole, tmp_path, threads):
    """Another table or other options are refused; a plan of the command line is not."""
    output = tmp_path / "a.h5"
    plan = fastseg.plan_parts(links, output)
    fastseg.build_part(plan, "2/3")
    table = fastseg.LinkTable.load(links)
    fewer = fastseg.LinkTable(base=table.base, links=list(table.links)[1:])
    for other, options in ((links, {"edges": "closed"}), (fewer, {})):
        with pytest.raises(PlanError, match=r"a\.h5\.plan: is the plan of another tab"):
            fastseg.build(other, output, executor=threads, **options)
    report = fastseg.build(table, output, executor=threads, force=True)
    assert report.path.read_bytes() == whole.path.read_bytes()
    assert not plan.exists()


def test_rejects_are_those_of_a_build(links, sample_study, tmp_path, threads):
    """They are listed and warned of, at the line that calls `build`."""
    study = shutil.copytree(sample_study, tmp_path / "study")
    table = fastseg.link(study)
    (study / table.links[3].dicom_path).write_bytes(b"no image")
    with pytest.warns(fastseg.errors.RejectedWarning):
        expected = fastseg.build(table, tmp_path / "b.h5")
    with pytest.warns(fastseg.errors.RejectedWarning) as warned:
        report = fastseg.build(table, tmp_path / "a.h5", executor=threads)
    assert warned[0].filename == __file__
    assert report.rejects == expected.rejects
    assert report.path.read_bytes() == expected.path.read_bytes()
    for path in study.rglob("*.dcm"):
        path.write_bytes(b"no image")
    with pytest.raises(NothingBuiltError, match="nothing to build"):
        fastseg.build(table, tmp_path / "c.h5", executor=threads)
    assert not (tmp_path / "c.h5.plan").exists()


def test_images_with_several_names_are_planned_anew(study, tmp_path, threads):
    """As `build` does, by itself."""
    links = list(fastseg.link(study).links)
    other = links[0].dicom_path.replace(".dcm", "-again.dcm")
    (study / other).symlink_to(study / links[0].dicom_path)
    links.append(links[0]._replace(dicom_path=other, contour_path="", label=""))
    table = fastseg.LinkTable(base=study, links=links)
    expected = fastseg.build(table, tmp_path / "b.h5")
    report = fastseg.build(table, tmp_path / "a.h5", executor=threads)
    assert report.path.read_bytes() == expected.path.read_bytes()


def test_the_command_line_builds_on_processes(links, whole, fastseg_command, tmp_path):
    """The store is the same, and nothing else remains."""
    done = fastseg_command("build", str(links), "-o", "a.h5", "--processes", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("a.h5: 96 samples, 80 contours, ")
    assert len(done.stdout.splitlines()) == 2  # and a root
    assert (tmp_path / "a.h5").read_bytes() == whole.path.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_without_dask_its_package_is_named(monkeypatch):
    """With the command that installs it."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(MissingExtraError, match=r"of Dask needs .* install distributed"),
        dask_client("tcp://host:8786"),
    ):
        pass


def test_what_is_no_executor_is_refused(links, tmp_path):
    """With what is expected; so is another's file, before any task begins."""
    with pytest.raises(OptionError, match="executor is 4, expected a concurrent"):
        fastseg.build(links, tmp_path / "a.h5", executor=4)
    for number in (0, 1.5, "2"):
        with pytest.raises(OptionError, match="processes is"), process_pool(number):
            pass
    (tmp_path / "a.h5").write_text("a diary")
    with ThreadPoolExecutor(1) as executor, pytest.raises(OutputError):
        fastseg.build(links, tmp_path / "a.h5", executor=executor)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_a_task_has_many_blocks():
    """But no more than 64, and each worker has some."""
    assert parts_of(1, 8) == ["1/1"]
    assert len(parts_of(20, 2)) == 8
    assert len(parts_of(6400, 2)) == 100
    assert len(parts_of(6401, 2)) == 101
    assert len(parts_of(1000, 1000)) == 1000
    assert workers_of(ProcessPoolExecutor(3)) == 3
    assert workers_of(Executor()) >= 1


def test_few_tasks_are_under_way(links, tmp_path, monkeypatch):
    """Two for each worker, however many there are."""
    monkeypatch.setattr(executors, "BLOCKS_OF_A_TASK", 1)
    most = 0

    class Counting(ThreadPoolExecutor):
        def submit(self, function, *arguments):
            nonlocal most
            most = max(most, self._work_queue.qsize() + 1)
            return super().submit(function, *arguments)

    with Counting(1) as executor:
        fastseg.build(links, tmp_path / "a.h5", executor=executor)
    assert most <= UNDER_WAY


PROCESSES = """
import sys, time
from fastseg.tasks import process_pool
if __name__ == "__main__":
    with process_pool(1) as executor:
        print(executor.submit(__import__("os").getpid).result(), flush=True)
        task = executor.submit(time.sleep, 600)
        task.result()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_the_one_that_has_started_them(tmp_path, number):
    """At once, although a task takes minutes, and also if that one is killed."""
    script = tmp_path / "script.py"
    script.write_text(PROCESSES)
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True
    )
    with process:
        worker = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(60)
    for _ in range(600):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the worker has not ended")
