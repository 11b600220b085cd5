"""Tasks on executors: `link` and `check` say the same, wherever their work is done."""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest

import fastseg
from fastseg.errors import CopiesWarning, OptionError, RejectedWarning
from fastseg.sources import tree as tree_module
from fastseg.tasks import count_tasks, in_order, process_pool, run_tasks, share


@pytest.fixture(scope="module")
def pool():
    """Two processes, which start in another folder than the tests that use them."""
    with process_pool(2) as executor:
        yield executor


@pytest.fixture
def folder(studies, tmp_path, monkeypatch):
    """The current folder, with structure sets, images and files that are neither."""
    study = shutil.copytree(studies["rtstruct"], tmp_path / "study")
    (study / "notes.txt").write_text("no image")
    (study / "bad.dcm").write_text("no image")
    (study / "again.dcm").symlink_to(next(study.rglob("*[0-9].dcm")))
    sets = sorted(study.rglob("RS*.dcm"))
    sets[0].write_bytes(sets[0].read_bytes()[:-300])
    # So that a few files are many tasks.
    monkeypatch.setattr(tree_module, "FILES_AT_ONCE", 4)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextlib.contextmanager
def counted(steps, label, total):
    """A progress that adds up what is reported of each step."""
    steps[label] = [total, 0]

    def advance(n=1):
        steps[label][1] += n

    yield advance


def says(table):
    """What a LinkTable has besides its links."""
    return (
        table.rejects,
        table.unlabelled,
        table.ignored,
        table.left_out,
        table.notes,
        table.counts(),
    )


@pytest.mark.parametrize("slices", ["all", "labelled"])
def test_processes_link_as_this_one_does(folder, pool, slices):
    """Also below a relative path: links, what is rejected, and what is noted."""
    with pytest.warns(RejectedWarning):
        expected = fastseg.link("study", slices=slices)
    steps = {}
    with pytest.warns(RejectedWarning):
        table = fastseg.link(
            "study",
            slices=slices,
            executor=pool,
            progress=lambda *step: counted(steps, *step),
        )
    assert says(table) == says(expected)
    assert len(table.rejects) >= 2
    saved = [x.save(f"{x is table}.csv").read_bytes() for x in (table, expected)]
    assert saved[0] == saved[1]
    for label in ("read headers", "read structure sets"):
        total, done = steps[label]
        assert total == done > 0


def test_processes_check_as_this_one_does(studies, pool, tmp_path, monkeypatch):
    """Findings, their identities, what was not asked, and what was accepted."""
    monkeypatch.chdir(tmp_path)
    with pytest.warns(CopiesWarning):
        fastseg.build(fastseg.link(studies["faulty"]), "a.h5")
    expected = fastseg.check("a.h5")
    fastseg.write_findings("all.csv", expected)
    steps = {}
    for options in ({}, {"skip": "overlap", "accept": "all.csv", "threads": 2}):
        found = fastseg.check(
            "a.h5",
            executor=pool,
            progress=lambda *step: counted(steps, *step),
            **options,
        )
        wanted = fastseg.check("a.h5", **options)
        assert list(found) == list(wanted)
        assert len(found) > 5
        assert found.rules == wanted.rules
        assert found.not_run == wanted.not_run != {}
    total, done = steps["ask rules"]
    assert total == done == len(wanted.rules)
    joined = fastseg.concat(["a.h5"])
    assert list(fastseg.check(joined, executor=pool)) == list(expected)


def test_a_worker_that_dies_is_an_error_that_names_files(folder):
    """They are those of its task, or of the next one."""
    before = set(multiprocessing.active_children())

    @contextlib.contextmanager
    def kill(label, total):
        def advance(n=1):
            if label == "read headers":
                for process in set(multiprocessing.active_children()) - before:
                    os.kill(process.pid, signal.SIGKILL)

        yield advance

    with pytest.raises(BrokenProcessPool) as caught, process_pool(1) as executor:
        fastseg.link("study", executor=executor, progress=kill)
    (note,) = caught.value.__notes__
    assert note.startswith(f"in the headers of files from {folder / 'study'}{os.sep}")


def test_the_error_of_a_task_names_what_it_reads(store):
    """It is the one that the task has raised."""

    class Failing(ThreadPoolExecutor):
        def submit(self, function, *arguments):
            future = Future()
            future.set_exception(OSError(5, "Input/output error"))
            return future

    with Failing(1) as executor, pytest.raises(OSError, match="Input/out") as caught:
        fastseg.check(store, executor=executor)
    assert caught.value.__notes__ == [f"in the check of {store.path}"]


@pytest.mark.parametrize("function", [fastseg.link, fastseg.check])
def test_what_is_no_executor_is_refused(function, store, sample_study):
    """With what is expected."""
    of = sample_study if function is fastseg.link else store
    with pytest.raises(OptionError, match="executor is 2, expected a concurrent"):
        function(of, executor=2)


def test_the_command_line_links_and_checks_on_processes(
    sample_study, fastseg_command, tmp_path
):
    """It writes the same files, and has the same exit status."""
    study = sample_study.parent / "phantom_rt"
    for name, options in (("a", []), ("b", ["--processes", "2"])):
        done = fastseg_command("link", study, "-o", f"{name}.csv", *options)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    fastseg.build(tmp_path / "a.csv", tmp_path / "a.h5")
    found = [
        fastseg_command("check", "a.h5", "--json", *options)
        for options in ([], ["--processes", "2"])
    ]
    assert found[0].stdout == found[1].stdout
    assert found[0].returncode == found[1].returncode
    assert json.loads(found[0].stdout)["findings"] is not None


def double(k):
    """Twice a number, in a worker."""
    return 2 * k


def test_results_come_back_in_order():
    """Whatever the order in which tasks are done; each is done once."""
    assert list(in_order([(2, "c"), (0, "a"), (1, "b")])) == ["a", "b", "c"]
    with ThreadPoolExecutor(3) as executor:
        tasks = [(k,) for k in range(50)]
        done = list(in_order(run_tasks(executor, double, tasks, str)))
        assert done == [2 * k for k in range(50)]
        shared = [(share(executor, 21),)] * 2
        assert list(in_order(run_tasks(executor, double, shared, str))) == [42, 42]


def test_tasks_are_as_many_as_workers_can_use():
    """Four for each, more only if they would be too large."""
    assert count_tasks(0, 64, 2) == 1
    assert count_tasks(3, 64, 2) == 3
    assert count_tasks(100, 64, 2) == 8
    assert count_tasks(6401, 64, 2) == 101
