"""Builds that are interrupted at a chosen step, and what the next one resumes."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import fastseg
from fastseg import files
from fastseg._kernels.files import system
from fastseg.errors import BuildError, FileChangedError, RejectedWarning
from fastseg.files import read_file
from fastseg.ingest import plan
from fastseg.store.writing import pixel_writers
from fastseg.store.writing.journal import FRAME
from fastseg.store.writing.records import from_bytes
from tests import steps
from tests.conftest import PROJECT

# Calls that change files.
STEPS = {"write", "pwritev", "truncate", "flush", "fsync", "replace", "unlink"}
LOCK = """
import sys
from pathlib import Path
from fastseg.store.writing.partial import sole_builder
with sole_builder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


class Stopped(Exception):
    """A test raises it to interrupt a build."""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """A build can be interrupted after each item."""
    monkeypatch.setattr(plan, "BLOCK_SIZE", 1)


def stop_at(index):
    """Return a progress function that interrupts a build after this many items."""

    def stop(label, done, total):
        if label == "build" and index <= done <= total:
            raise Stopped

    return steps.at(stop)


def stop_build(table, output, index, **options):
    with pytest.raises(Stopped):
        fastseg.build(table, output, progress=stop_at(index), **options)


def without(table, count):
    """Return a table without the first `count` images."""
    paths = sorted({link.dicom_path for link in table.links})[:count]
    links = tuple(link for link in table.links if link.dicom_path not in paths)
    return replace(table, links=links)


def build_with_rejects(table, output, **options):
    """Build a table with a bad file."""
    with pytest.warns(RejectedWarning):
        return fastseg.build(table, output, **options)


@pytest.fixture
def table(study):
    return fastseg.link(study, keep_unlabelled=True)


@pytest.fixture
def whole(table, tmp_path):
    return fastseg.build(table, tmp_path / "whole.h5").path.read_bytes()


@pytest.fixture
def output(tmp_path):
    return tmp_path / "o.h5"


def partial_path(output, suffix=""):
    return Path(f"{output}.partial{suffix}")


def is_alone(output):
    return list(output.parent.glob("o.h5*")) == [output]


@contextmanager
def c_calls(callback):
    """Call `callback` for each call of a C function: event, name, calling file."""

    def profile(frame, event, called):
        if event.startswith("c_"):
            callback(event, called.__name__, Path(frame.f_code.co_filename).name)

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)


def kill_at_every_step(study, folder):
    """Kill builds before each step; a process without threads has to run it."""
    table = fastseg.link(study, keep_unlabelled=True)
    table = replace(table, links=table.links[:8])
    few = fastseg.link(study)
    few = replace(few, links=few.links[:8])
    plan.BLOCK_SIZE = 1
    for compress in (False, True):
        options = {"threads": 1, "compress": compress}
        whole = fastseg.build(table, folder / "w.h5", **options).path.read_bytes()
        older = fastseg.build(few, folder / "few.h5", origin="corner").path.read_bytes()
        output = folder / "o.h5"
        step = 1
        while True:
            output.unlink(missing_ok=True)
            before = older if step % 2 else None
            if before:
                output.write_bytes(before)
            if not kill_at(step, lambda: fastseg.build(table, output, **options)):  # noqa: B023
                break
            after = output.read_bytes() if output.exists() else None
            assert after in (before, whole), step
            fastseg.build(table, output, **options)
            assert output.read_bytes() == whole, step
            assert is_alone(output), step
            step += 1
        assert step > 20


def kill_at(step, action):
    """Run an action in a child process and kill it before its n-th step.

    Returns False if the action has fewer steps.
    """
    child = os.fork()
    if child == 0:
        remaining = step
        hdf5_writes = 0

        def count_down(event, name, file):
            nonlocal remaining, hdf5_writes
            # HDF5 makes many small writes; only one in 16 counts as a step.
            hdf5_writes += file == "hdf5_file.py" and name == "write"
            is_step = file != "hdf5_file.py" or hdf5_writes % 16 == 0
            remaining -= event == "c_call" and name in STEPS and is_step
            if remaining == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            with c_calls(count_down):
                action()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_build_survives_being_killed_at_every_step(small_study, tmp_path):
    """If a build is killed before any change of a file, the target is the older store,
    absent or complete; the next build gives the same bytes and leaves no other file."""
    call = (
        "import sys, pathlib, tests.ingest.test_resume as t; t.kill_at_every_step(*map("
    )
    run = subprocess.run(
        [sys.executable, "-c", call + "pathlib.Path, sys.argv[1:]))"]
        + [str(small_study), str(tmp_path)],
        cwd=PROJECT,
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_the_file_is_synced_before_it_is_renamed(table, output):
    """It is synced, renamed, its folder synced; then leftovers are removed."""
    calls = []
    with c_calls(lambda event, name, file: calls.append((event, name))):
        fastseg.build(table, output, threads=1)
    steps = [name for event, name in calls if event == "c_call" and name in STEPS]
    end = len(steps) - steps[::-1].index("write")  # after the last write
    assert [s for s in steps[end:] if s not in ("flush", "truncate")][:4] == [
        *("fsync", "replace", "fsync", "unlink")
    ]


@pytest.mark.parametrize(
    "names",
    [("",), ("", ".journal"), (".journal",), (".old",), (".old", ".old.journal")],
    ids="+".join,
)
def test_leftovers_of_other_items_do_no_harm(table, whole, output, names):
    """Files of a build of other items, also some or mixed up, give the same bytes."""
    stop_build(without(table, 2), output, 6)
    saved = {suffix: partial_path(output, suffix) for suffix in ("", ".journal")}
    saved = {suffix: path.read_bytes() for suffix, path in saved.items()}
    for suffix in saved:
        partial_path(output, suffix).unlink()
    for name in names:
        data = saved[".journal" if name.endswith("journal") else ""]
        partial_path(output, name).write_bytes(data)
    for suffix in (".index", ".lock"):
        partial_path(output, suffix).write_bytes(b"stale")
    report = fastseg.build(table, output)
    assert report.reused == (6 if len(names) == 2 else 0)
    assert output.read_bytes() == whole
    assert is_alone(output)


def test_a_kill_between_two_renames_loses_nothing(table, whole, output):
    """Pixels that were renamed before their journal are resumed."""
    stop_build(without(table, 2), output, 6)
    partial_path(output).rename(partial_path(output, ".old"))
    assert fastseg.build(table, output).reused == 6
    assert output.read_bytes() == whole


@pytest.mark.parametrize("compress", [False, True])
def test_pixels_of_other_images_are_not_overwritten(table, output, compress):
    """A build of other images keeps the work of an interrupted one."""
    paths = sorted({link.dicom_path for link in table.links})
    halves = [
        replace(table, links=[x for x in table.links if x.dicom_path in some])
        for some in (paths[:7], paths[7:])
    ]
    stop_build(halves[0], output, 6, compress=compress)
    stop_build(halves[1], output, 3, compress=compress)
    assert fastseg.build(halves[0], output, compress=compress).reused == 6
    assert fastseg.verify(output).is_valid


def test_few_finished_items_do_not_replace_many(table, whole, output):
    """Builds of other items that are interrupted early keep the items of the first."""
    stop_build(without(table, 2), output, 9)
    for count in (1, 2, 1):
        stop_build(without(table, count), output, 1)
    assert fastseg.build(table, output).reused >= 9
    assert output.read_bytes() == whole


def test_an_interruption_after_a_bad_image_loses_nothing(
    study, table, output, tmp_path
):
    """If a build is interrupted after all items, one of them bad, the other items are
    resumed."""
    path = study / table.links[-1].dicom_path
    os.truncate(path, path.stat().st_size - 10)
    with pytest.raises(Stopped):
        fastseg.build(table, output, progress=stop_at(table.images))
    report = build_with_rejects(table, output)
    assert report.reused == report.samples == table.images - 1
    anew = build_with_rejects(table, tmp_path / "n.h5")
    assert output.read_bytes() == anew.path.read_bytes()


@pytest.mark.parametrize("size", [1, 4])
def test_no_flipped_bit_of_a_journal_does_harm(table, whole, output, monkeypatch, size):
    """Items after a damaged length or checksum are built again, the others resumed."""
    monkeypatch.setattr(plan, "BLOCK_SIZE", size)
    stop_build(table, output, 9)
    data = partial_path(output, ".journal").read_bytes()
    pixels = partial_path(output).read_bytes()
    starts = []
    items = []
    offset = 0
    while offset < len(data):
        starts.append(offset)
        end = offset + FRAME.size + FRAME.unpack_from(data, offset)[0]
        if len(starts) > 1:  # the first frame holds the options
            body = data[offset + FRAME.size : end]
            items.append(from_bytes(body, table.classes).items)
        offset = end
    frames = len(items)
    assert sum(items) >= 9
    assert max(items) == size
    for number in {0, 1, frames // 2, frames}:
        for bit in range(0, 8 * FRAME.size, 11):
            damaged = bytearray(data)
            damaged[starts[number] + bit // 8] ^= 1 << bit % 8
            partial_path(output, ".journal").write_bytes(damaged)
            partial_path(output).write_bytes(pixels)
            reused = sum(items[: max(number - 1, 0)])
            assert fastseg.build(table, output).reused == reused
            assert output.read_bytes() == whole
            output.unlink()


@pytest.mark.parametrize(("step", "reused"), [("check", 0), ("build", 7)])
def test_ctrl_c_leaves_no_thread(table, whole, output, step, reused):
    """SIGINT ends all threads, and the next build resumes the finished items."""

    def press(label, done, total):
        if (label, done) == (step, 7):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as interrupt:
        fastseg.build(table, output, threads=3, progress=steps.at(press))
    assert interrupt  # it holds a traceback, as it would for a caller
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("fastseg")]
    assert not output.exists()
    assert fastseg.build(table, output, threads=1).reused == reused
    assert output.read_bytes() == whole


def test_a_killed_process_holds_no_lock(table, whole, output):
    """Another process prevents a build while it runs; its lock file does not."""
    command = [sys.executable, "-c", LOCK, str(output)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=PROJECT, **pipes) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BuildError, match="being built by somebody else"):
            fastseg.build(table, output)
        holder.kill()
    assert partial_path(output, ".lock").exists()
    fastseg.build(table, output)
    assert output.read_bytes() == whole
    assert is_alone(output)


FULL = """
set -e
mount -t tmpfs -o size=120k none "$1" || exit 77
cp "$2" "$1/o.h5"
build() { "$3" -m fastseg build "$4" -o "$1/o.h5" $5; }
build "$@" 2> "$1.err" && exit 1 || test $? = 1
cmp "$2" "$1/o.h5"
mount -o remount,size=2m "$1"
build "$@"
cmp "$6" "$1/o.h5"
test "$(ls "$1")" = o.h5
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
@pytest.mark.parametrize("option", ["--edges=closed", "--compress"])
def test_a_full_disk_keeps_the_older_store(small_study, table, tmp_path, option):
    """The command names the error, exits with 1, and continues if there is space."""
    older = fastseg.build(fastseg.link(small_study), tmp_path / "older.h5").path
    links = table.save(tmp_path / "links.csv")
    disk = tmp_path / "disk"
    # In a process of its own: if hdf5plugin is imported in this one, HDF5 writes the
    # name of its filter into the file.
    whole = tmp_path / "whole.h5"
    command = [sys.executable, "-m", "fastseg", "build", links, "-o", whole, option]
    subprocess.run(command, check=True, capture_output=True)
    disk.mkdir()
    run = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", FULL, "sh"]
        + list(map(str, [disk, older, sys.executable, links, option, whole])),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode == 77 or "unshare failed" in run.stderr:
        pytest.skip("mounting a tmpfs is not permitted here")
    assert run.returncode == 0, run.stdout + run.stderr
    stderr = Path(f"{disk}.err").read_text()
    assert "No space left on device" in stderr
    assert "run the same command again to continue" in stderr


def test_an_item_that_is_built_again_has_a_new_record(
    table, output, tmp_path, monkeypatch
):
    """If the pixels of an item are lost, its old record is not used, also if neither
    size nor times show that the source has changed.

    Some file systems keep no ctime, and people set the mtime.
    """
    monkeypatch.setattr(system, "AVAILABLE", False)
    stamp = files._stamp
    monkeypatch.setattr(files, "_stamp", lambda x: stamp(x)._replace(changed_ns=0))
    stop_build(table, output, 4)
    partial_path(output).write_bytes(b"")
    path = table.base / min(link.dicom_path for link in table.links)
    times = path.stat()
    data = path.read_bytes()
    path.write_bytes(data[:-2] + bytes([data[-2] ^ 1, data[-1]]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    fastseg.build(table, output)
    anew = fastseg.build(table, tmp_path / "anew.h5")
    assert output.read_bytes() == anew.path.read_bytes()


def test_inodes_have_up_to_64_bits(table, output, monkeypatch):
    """Inodes above 2**63, as some network file systems have them, are compared too."""
    monkeypatch.setattr(system, "AVAILABLE", False)
    stamp = files._stamp
    inodes = set()

    def large(status):
        names = "st_mode", "st_size", "st_mtime_ns", "st_ctime_ns"
        fields = {name: getattr(status, name) for name in names}
        large_stamp = stamp(SimpleNamespace(st_ino=2**64 - status.st_ino, **fields))
        inodes.add(large_stamp.inode + status.st_ino)
        return large_stamp

    monkeypatch.setattr(files, "_stamp", large)
    stop_build(table, output, 4)
    assert fastseg.build(table, output).reused == 4
    assert inodes == {0}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no list of open files")
def test_a_build_that_cannot_start_leaves_no_file_open(table, output, monkeypatch):
    """Files are closed while the error is still held; else Windows could not retry."""

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pixel_writers, "reserve", refuse)
    with pytest.raises(OSError, match="No space") as caught:
        fastseg.build(table, output)
    names = [path.resolve() for path in Path("/proc/self/fd").iterdir()]
    assert not [name for name in names if name.is_relative_to(output.parent)]
    assert caught.value.filename == str(output.parent)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda p: p.write_bytes(b"")])
@pytest.mark.parametrize("stage", ["before", "check", "build"])
def test_a_lost_file_is_rejected(study, table, output, tmp_path, spoil, stage):
    """A file that is lost before a build has read it is rejected."""
    lost = table.links[0].dicom_path

    def spoil_it():
        if (study / lost).exists():
            spoil(study / lost)

    lose = steps.after(stage, spoil_it)

    stop_build(table, output, 5)
    if stage == "build":
        assert fastseg.build(table, output, progress=lose).rejects == ()
    elif stage == "before":
        spoil(study / lost)
    report = build_with_rejects(table, output, progress=lose)
    anew = build_with_rejects(table, tmp_path / "n.h5")
    assert output.read_bytes() == anew.path.read_bytes()
    assert report.samples == table.images - 1
    files = [{reject.file for reject in each.rejects} for each in (report, anew)]
    assert lost in files[0] == files[1]


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    """`read_file` raises if the content grows, shrinks or is replaced."""
    path = tmp_path / "file"
    for content in (b"12345", b"abc", b"12"):
        path.write_bytes(b"123")

        def change(event, name, file, content=content):
            if (event, name, file) == ("c_return", "read", "files.py"):
                path.write_bytes(content)
                os.utime(path, (1, 1))  # file times may have a coarse resolution

        with (
            pytest.raises(FileChangedError, match="while it was read"),
            c_calls(change),
        ):
            read_file(str(path), 100)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_change_no_byte(table, whole, output, threads):
    """Bytes do not depend on the number of threads, also of a continued build."""
    stop_build(table, output, 5, threads=threads)
    fastseg.build(table, output, threads=threads)
    assert output.read_bytes() == whole
