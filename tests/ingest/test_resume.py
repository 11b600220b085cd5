"""Builds that end at a chosen moment, and what they go on with afterwards."""

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
from fastseg.store.writing import partial
from fastseg.store.writing.journal import FRAME
from tests.conftest import PROJECT

# Calls that change what is on the disk.
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
    """Ends a build where a test wants it to end."""


def stop_at(place, which=1):
    """Return a progress that stops before an item, in which pass over all items."""
    times = []

    def stop(items, label, total):
        times.append(label)
        for k, item in enumerate(items):
            if k == place and times.count("build") == which and label == "build":
                raise Stopped
            yield item

    return stop


def stop_build(table, output, place, **options):
    with pytest.raises(Stopped):
        fastseg.build(table, output, progress=stop_at(place), **options)


def without(table, count):
    """Return a table that lacks the first images."""
    paths = sorted({link.dicom_path for link in table.links})[:count]
    links = tuple(link for link in table.links if link.dicom_path not in paths)
    return replace(table, links=links)


def build_the_rest(table, output, **options):
    """Build what can be built of a table with something bad."""
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


def beside(output, suffix=""):
    return Path(f"{output}.partial{suffix}")


def is_alone(output):
    return list(output.parent.glob("o.h5*")) == [output]


@contextmanager
def watched(see):
    """Tell `see` of each call of a compiled function: event, name, file, arguments."""

    def watch(frame, event, called):
        if event.startswith("c_"):
            see(event, called.__name__, Path(frame.f_code.co_filename).name)

    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(None)


def die_at_every_step(study, folder):
    """Kill builds before each step; to be run in a process that may fork."""
    table, few = fastseg.link(study, keep_unlabelled=True), fastseg.link(study)
    table, few = (replace(t, links=t.links[:8]) for t in (table, few))
    plan.BLOCK_SIZE = 1
    for compress in (False, True):
        options = {"threads": 1, "compress": compress}
        whole = fastseg.build(table, folder / "w.h5", **options).path.read_bytes()
        older = fastseg.build(few, folder / "few.h5", origin="corner").path.read_bytes()
        step, output = 1, folder / "o.h5"
        while True:
            output.unlink(missing_ok=True)
            before = older if step % 2 else None
            if before:
                output.write_bytes(before)
            if not dies(step, lambda: fastseg.build(table, output, **options)):  # noqa: B023
                break
            found = output.read_bytes() if output.exists() else None
            assert found in (before, whole), step
            fastseg.build(table, output, **options)
            assert output.read_bytes() == whole, step
            assert is_alone(output), step
            step += 1
        assert step > 20


def dies(step, action):
    """Return whether an action comes to that step, at which its process is killed."""
    child = os.fork()
    if child == 0:
        left, hdf5 = step, 0

        def die(event, name, file):
            nonlocal left, hdf5
            # HDF5 writes in many small pieces: one in 16 will do.
            hdf5 += file == "output.py" and name == "write"
            counts = file != "output.py" or hdf5 % 16 == 0
            left -= event == "c_call" and name in STEPS and counts
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            with watched(die):
                action()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_build_survives_death_at_every_step(small_study, tmp_path):
    """Killed before any change of the disk, the target is the older store, absent or
    whole, and the same build then ends with the same bytes and nothing beside."""
    call = (
        "import sys, pathlib, tests.ingest.test_resume as t; t.die_at_every_step(*map("
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


def test_bytes_are_on_the_disk_before_their_name(table, output):
    """The file is synced, renamed, its folder synced; only then leftovers go."""
    seen = []
    with watched(lambda event, name, file: seen.append((event, name, file))):
        fastseg.build(table, output, threads=1)
    steps = [name for event, name, file in seen if event == "c_call" and name in STEPS]
    end = len(steps) - steps[::-1].index("write")  # also of the list of rejects
    assert [s for s in steps[end:] if s not in ("flush", "truncate")][:4] == [
        *("fsync", "replace", "fsync", "unlink")
    ]


@pytest.mark.parametrize(
    "names",
    [("",), ("", ".journal"), (".journal",), (".old",), (".old", ".old.journal")],
    ids="+".join,
)
def test_leftovers_of_any_kind_do_no_harm(table, whole, output, names):
    """Files of a build of other items, in part or mixed up, cost work at most."""
    stop_build(without(table, 2), output, 6)
    saved = {suffix: beside(output, suffix) for suffix in ("", ".journal")}
    saved = {suffix: path.read_bytes() for suffix, path in saved.items()}
    for suffix in saved:
        beside(output, suffix).unlink()
    for name in names:
        data = saved[".journal" if name.endswith("journal") else ""]
        beside(output, name).write_bytes(data)
    for suffix in (".index", ".lock"):
        beside(output, suffix).write_bytes(b"stale")
    report = fastseg.build(table, output)
    assert report.reused == (6 if len(names) == 2 else 0)
    assert output.read_bytes() == whole
    assert is_alone(output)


def test_death_while_work_is_set_aside_loses_nothing(table, whole, output):
    """Pixels that were moved without their journal are taken over all the same."""
    stop_build(without(table, 2), output, 6)
    beside(output).rename(beside(output, ".old"))
    assert fastseg.build(table, output).reused == 6
    assert output.read_bytes() == whole


def test_little_work_does_not_displace_much(table, whole, output):
    """Builds of changing items that are interrupted early keep what the first did."""
    stop_build(without(table, 2), output, 9)
    for count in (1, 2, 1):
        stop_build(without(table, count), output, 1)
    assert fastseg.build(table, output).reused >= 9
    assert output.read_bytes() == whole


def test_death_after_a_bad_image_keeps_the_rest(study, table, output, tmp_path):
    """A build that is begun again without an image, and dies, has lost no other one."""
    path = study / table.links[-1].dicom_path
    os.truncate(path, path.stat().st_size - 10)
    with pytest.raises(Stopped):
        fastseg.build(table, output, progress=stop_at(3, which=2))
    report, path = build_the_rest(table, output), tmp_path / "n.h5"
    assert report.reused == report.samples == table.images - 1
    build_the_rest(table, path)
    assert output.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("size", [1, 4])
def test_no_flipped_bit_of_a_journal_does_harm(table, whole, output, monkeypatch, size):
    """What is behind a damaged length or checksum is made again, the rest kept."""
    monkeypatch.setattr(plan, "BLOCK_SIZE", size)
    stop_build(table, output, 9)
    data = beside(output, ".journal").read_bytes()
    pixels = beside(output).read_bytes()
    places, place = [], 0
    while place < len(data):
        places.append(place)
        place += FRAME.size + FRAME.unpack_from(data, place)[0]
    frames = -(-9 // size)
    assert len(places) == 1 + frames  # the rules, then the items
    for number in {0, 1, frames // 2, frames}:
        for bit in range(0, 8 * FRAME.size, 5):
            damaged = bytearray(data)
            damaged[places[number] + bit // 8] ^= 1 << bit % 8
            beside(output, ".journal").write_bytes(damaged)
            beside(output).write_bytes(pixels)
            kept = max(number - 1, 0) * size
            assert fastseg.build(table, output).reused == kept
            assert output.read_bytes() == whole
            output.unlink()


@pytest.mark.parametrize(("step", "kept"), [("check", 0), ("build", 7)])
def test_ctrl_c_leaves_no_thread(table, whole, output, step, kept):
    """SIGINT in the middle ends all threads, and the next build goes on."""

    def press(items, label, total):
        for k, item in enumerate(items):
            if (label, k) == (step, 7):
                signal.raise_signal(signal.SIGINT)
            yield item

    with pytest.raises(KeyboardInterrupt) as interrupt:
        fastseg.build(table, output, threads=3, progress=press)
    assert interrupt  # which holds what a caller's traceback would
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("fastseg")]
    assert not output.exists()
    assert fastseg.build(table, output, threads=1).reused == kept
    assert output.read_bytes() == whole


def test_a_dead_process_holds_no_lock(table, whole, output):
    """Another process keeps builds away while it lives; its lock file does not."""
    command = [sys.executable, "-c", LOCK, str(output)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=PROJECT, **pipes) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BuildError, match="being built by somebody else"):
            fastseg.build(table, output)
        holder.kill()
    assert beside(output, ".lock").exists()
    fastseg.build(table, output)
    assert output.read_bytes() == whole
    assert is_alone(output)


FULL = """
set -e
mount -t tmpfs -o size=120k none "$1" || exit 77
cp "$2" "$1/o.h5"
build() { "$3" -m fastseg.cli build "$4" -o "$1/o.h5" $5; }
build "$@" 2> "$1.err" && exit 1 || test $? = 1
cmp "$2" "$1/o.h5"
mount -o remount,size=2m "$1"
build "$@"
cmp "$6" "$1/o.h5"
test "$(ls "$1")" = o.h5
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
@pytest.mark.parametrize("option", ["--edges=closed", "--compress"])
def test_a_full_disk_spares_the_older_store(small_study, table, tmp_path, option):
    """The command says what is wrong, exits with 1, and later goes on."""
    older = fastseg.build(fastseg.link(small_study), tmp_path / "older.h5").path
    links, disk = table.save(tmp_path / "links.csv"), tmp_path / "disk"
    # By a process of its own: this one may know hdf5plugin, whose name HDF5 would note.
    whole = tmp_path / "whole.h5"
    command = [sys.executable, "-m", "fastseg.cli", "build", links, "-o", whole, option]
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
    told = Path(f"{disk}.err").read_text()
    assert "No space left on device" in told
    assert "run the same command again to continue" in told


def test_what_is_made_again_is_noted_anew(table, output, tmp_path, monkeypatch):
    """Of pixels that are lost, no record stays, though nothing else tells of a change.

    Some file systems keep no time of a change, and people set the other one back.
    """
    monkeypatch.setattr(system, "AVAILABLE", False)
    stamp = files._stamp
    monkeypatch.setattr(files, "_stamp", lambda x: stamp(x)._replace(changed_ns=0))
    stop_build(table, output, 4)
    beside(output).write_bytes(b"")
    path = table.base / min(link.dicom_path for link in table.links)
    times, data = path.stat(), path.read_bytes()
    path.write_bytes(data[:-2] + bytes([data[-2] ^ 1, data[-1]]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    fastseg.build(table, output)
    anew = fastseg.build(table, tmp_path / "anew.h5")
    assert output.read_bytes() == anew.path.read_bytes()


def test_inodes_have_up_to_64_bits(table, output, monkeypatch):
    """Some network file systems use all of them; as compiled code reads them."""
    monkeypatch.setattr(system, "AVAILABLE", False)
    stamp, inodes = files._stamp, set()

    def large(status):
        names = "st_mode", "st_size", "st_mtime_ns", "st_ctime_ns"
        fields = {name: getattr(status, name) for name in names}
        found = stamp(SimpleNamespace(st_ino=2**64 - status.st_ino, **fields))
        inodes.add(found.inode + status.st_ino)
        return found

    monkeypatch.setattr(files, "_stamp", large)
    stop_build(table, output, 4)
    assert fastseg.build(table, output).reused == 4
    assert inodes == {0}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="files cannot be told")
def test_a_build_that_cannot_begin_leaves_no_file_open(table, output, monkeypatch):
    """Not even while the error is at hand; Windows could not begin once more."""

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(partial, "reserve", refuse)
    with pytest.raises(OSError, match="No space") as told:
        fastseg.build(table, output)
    names = [path.resolve() for path in Path("/proc/self/fd").iterdir()]
    assert not [name for name in names if name.is_relative_to(output.parent)]
    assert told.value.filename == str(output.parent)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda p: p.write_bytes(b"")])
@pytest.mark.parametrize("stage", ["before", "check", "build"])
def test_a_file_that_is_lost_is_told(study, table, output, tmp_path, spoil, stage):
    """Lost since an interrupted build, or in this one, it is left out; or was used."""
    lost = table.links[0].dicom_path

    def lose(items, label, total):
        yield from items
        if label == stage and (study / lost).exists():
            spoil(study / lost)

    stop_build(table, output, 5)
    if stage == "build":
        assert fastseg.build(table, output, progress=lose).rejects == ()
    elif stage == "before":
        spoil(study / lost)
    report = build_the_rest(table, output, progress=lose)
    anew = build_the_rest(table, tmp_path / "n.h5")
    assert output.read_bytes() == anew.path.read_bytes()
    assert report.samples == table.images - 1
    told = [{reject.file for reject in each.rejects} for each in (report, anew)]
    assert lost in told[0] == told[1]


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    """Neither content that grew nor content that was replaced is taken for whole."""
    path = tmp_path / "file"
    for content in (b"12345", b"abc", b"12"):
        path.write_bytes(b"123")

        def change(event, name, file, content=content):
            if (event, name, file) == ("c_return", "read", "files.py"):
                path.write_bytes(content)
                os.utime(path, (1, 1))  # the clock of files may be a coarse one

        with (
            pytest.raises(FileChangedError, match="while it was read"),
            watched(change),
        ):
            read_file(str(path), 100)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_change_no_byte(table, whole, output, threads):
    """However many share the work, begun by another number, the bytes are the same."""
    stop_build(table, output, 5, threads=threads)
    fastseg.build(table, output, threads=threads)
    assert output.read_bytes() == whole
