"""What an interrupted build leaves, and how the next build continues it."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import pytest

import fastseg
from fastseg.errors import BuildError
from fastseg.ingest import plan
from tests import steps

SUFFIXES = (".partial", ".partial.journal")


@pytest.fixture
def stopped(study, tmp_path):
    """A table, an output whose build stopped halfway, and the bytes of the store."""
    table = fastseg.link(study)
    whole = fastseg.build(table, tmp_path / "whole.h5").path.read_bytes()
    output = tmp_path / "o.h5"
    stop_halfway(table, output)
    return table, output, whole


def stop_halfway(table, output, **options):
    def stop(label, done, total):
        if label == "build" and done >= total // 2:
            raise InterruptedError("stopped")

    with (
        mock.patch.object(plan, "BLOCK_SIZE", 1),
        pytest.raises(InterruptedError, match="stopped"),
    ):
        fastseg.build(table, output, progress=steps.at(stop), **options)


def leftovers(output):
    return {path.name[len(output.name) :] for path in output.parent.glob("o.h5?*")}


def test_finished_items_are_resumed(stopped):
    """The next build resumes half of the items and gives the same bytes."""
    table, output, whole = stopped
    assert leftovers(output) == set(SUFFIXES)
    report = fastseg.build(table, output, threads=2)
    assert 0 < report.reused < report.samples
    assert output.read_bytes() == whole
    assert leftovers(output) == set()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("damage", ["gone", "cut", "flipped", "empty"])
def test_damaged_leftovers_do_no_harm(stopped, suffix, damage):
    """Whatever their damage, the next build gives the same bytes."""
    table, output, whole = stopped
    path = Path(f"{output}{suffix}")
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "flipped":
        for offset in range(0, len(data), 97):
            data[offset] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(data[: len(data) * 2 // 3] if damage == "cut" else b"")
    fastseg.build(table, output)
    assert output.read_bytes() == whole
    assert leftovers(output) == set()


def test_a_cut_journal_is_read_up_to_its_last_whole_frame(study, tmp_path, monkeypatch):
    """Wherever the journal is cut, only the items before the cut are resumed."""
    monkeypatch.setattr(plan, "BLOCK_SIZE", 3)
    table = fastseg.link(study)
    output = tmp_path / "o.h5"
    whole = fastseg.build(table, tmp_path / "whole.h5").path.read_bytes()
    stop_halfway(table, output)
    journal = Path(f"{output}.partial.journal")
    saved = {suffix: Path(f"{output}{suffix}").read_bytes() for suffix in SUFFIXES}
    reused = []
    for size in range(0, len(saved[".partial.journal"]), 1013):
        for suffix, data in saved.items():
            Path(f"{output}{suffix}").write_bytes(data)
        journal.write_bytes(saved[".partial.journal"][:size])
        reused.append(fastseg.build(table, output).reused)
        assert output.read_bytes() == whole
        output.unlink()
    assert reused == sorted(reused)
    assert reused[0] == 0 < reused[-1]


def test_other_options_start_over(stopped):
    """Items that were built with other options are not resumed."""
    table, output, _ = stopped
    report = fastseg.build(table, output, edges="closed")
    assert report.reused == 0
    anew = fastseg.build(table, output.with_name("n.h5"), edges="closed")
    assert output.read_bytes() == anew.path.read_bytes()
    assert leftovers(output) == set()


def test_a_longer_table_resumes_items(stopped, study):
    """If images are added, the pixels of finished items move and are resumed."""
    table, output, _ = stopped
    more = fastseg.link(study, keep_unlabelled=True)
    assert len(more) > len(table)
    report = fastseg.build(more, output)
    assert report.reused > 0
    anew = fastseg.build(more, output.with_name("n.h5"))
    assert output.read_bytes() == anew.path.read_bytes()
    assert leftovers(output) == set()


def test_a_source_that_has_changed_is_read_again(stopped, study):
    """An item that the interrupted build has finished is built from the new content."""
    table, output, _ = stopped
    path = study / table.links[0].contour_path
    path.write_text("1 1\n9 1\n9 9\n")
    fastseg.build(table, output)
    sample = fastseg.open(output)[0]
    assert sample.contours[table.links[0].label][0].tolist() == [[1, 1], [9, 1], [9, 9]]


def test_only_one_builds_at_a_time(study, tmp_path):
    """The second build of a store is refused, and the first completes."""
    table = fastseg.link(study)
    output = tmp_path / "o.h5"
    entered = threading.Event()
    leave = threading.Event()

    def wait(label, done, total):
        entered.set()
        assert leave.wait(60)

    first = threading.Thread(
        target=fastseg.build, args=(table, output), kwargs={"progress": steps.at(wait)}
    )
    first.start()
    assert entered.wait(60)
    try:
        with pytest.raises(BuildError, match="being built by somebody else"):
            fastseg.build(table, output)
    finally:
        leave.set()
        first.join()
    assert len(fastseg.open(output)) > 0
    assert leftovers(output) == set()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_after_ctrl_c_a_build_can_be_continued(tmp_path, fastseg_command):
    """The command exits with 130 and says how to continue; the bytes are the same."""
    study = tmp_path / "study"
    fastseg.make_phantom(study, patients=1, slices=2, phases=3, seed=3)
    fastseg.link(study, keep_unlabelled=True).save(tmp_path / "links.csv")
    # The build waits after its first block, so that it is interrupted there however
    # slow the machine is.
    script = """
import time
from fastseg.__main__ import main
from fastseg.ingest import plan
from fastseg.store.writing.partial import Partial
add = Partial.add
def add_and_wait(self, *records):
    add(self, *records)
    print("added", flush=True)
    time.sleep(300)
Partial.add = add_and_wait
plan.BLOCK_SIZE = 2
main()
"""
    command = [sys.executable, "-c", script, "build", "links.csv", "-o", "o.h5"]
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout.readline() == "added\n"
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate()
    assert running.returncode == 130
    assert "run the same command again to continue" in stderr
    assert not (tmp_path / "o.h5").exists()
    report = fastseg.build(tmp_path / "links.csv", tmp_path / "o.h5")
    assert report.reused > 0
    anew = fastseg.build(tmp_path / "links.csv", tmp_path / "n.h5")
    assert report.path.read_bytes() == anew.path.read_bytes()


FULL_DISK = """
import errno, os, subprocess, sys
from pathlib import Path
import fastseg
from fastseg.store.writing import pixel_writers
folder, links, whole = map(Path, sys.argv[1:])
table = fastseg.LinkTable.load(links)
size = len(whole.read_bytes())
# Size of the disk as a fraction of the store's, and which step fails.
cases = [(x, "reserving") for x in (0.2, 0.5, 0.8, 1.0, 1.02)]
# Some systems cannot reserve space; a write fails there.
cases += [(x, "writing") for x in (0.2, 0.5, 0.8)]
for fraction, step in cases:
    if step != "reserving":
        pixel_writers.reserve = lambda *arguments: None
    disk = folder / f"disk{fraction}{step}"
    disk.mkdir()
    options = f"size={int(size * fraction)}"
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", disk]
    if subprocess.run(mount, capture_output=True).returncode:
        sys.exit(77)
    output = disk / "o.h5"
    try:
        fastseg.build(table, output, threads=2)
        full = False
    except OSError as exc:
        assert exc.errno == errno.ENOSPC and str(disk) in str(exc), exc
        full = True
    assert full and not output.exists(), (fraction, step)
    subprocess.run([*mount[:4], f"remount,size={3 * size}", "none", disk], check=True)
    report = fastseg.build(table, output)
    assert output.read_bytes() == whole.read_bytes()
    assert [path.name for path in disk.iterdir()] == ["o.h5"]
print("all")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a small tmpfs")
def test_a_build_on_a_full_disk_can_be_continued(study, tmp_path):
    """ENOSPC at any stage leaves no target; with more space the build completes."""
    fastseg.link(study, keep_unlabelled=True).save(tmp_path / "links.csv")
    whole = fastseg.build(tmp_path / "links.csv", tmp_path / "whole.h5").path
    arguments = [tmp_path, tmp_path / "links.csv", whole]
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare is not installed")
    run = subprocess.run(
        [unshare, "--user", "--map-root-user", "--mount", sys.executable, "-c"]
        + [FULL_DISK, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode == 77 or "unshare failed" in run.stderr:
        pytest.skip("mounting a tmpfs is not permitted here")
    assert (run.returncode, run.stdout) == (0, "all\n"), run.stderr
    assert "Exception ignored" not in run.stderr
