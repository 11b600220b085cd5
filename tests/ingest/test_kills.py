"""What a build leaves when it ends before its end, and how the next one goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import fastseg
from fastseg.errors import BuildError
from fastseg.ingest import plan
from tests.conftest import PROJECT

SUFFIXES = (".partial", ".partial.journal")


@pytest.fixture
def stopped(study, tmp_path):
    """Return a table, an output whose build stopped halfway, and the whole bytes."""
    table = fastseg.link(study)
    whole = fastseg.build(table, tmp_path / "whole.h5").path.read_bytes()
    output = tmp_path / "o.h5"
    stop_halfway(table, output)
    return table, output, whole


def stop_halfway(table, output, **options):
    def stop(items, label, total):
        for k, item in enumerate(items):
            if label == "build" and k == total // 2:
                raise InterruptedError("stopped")
            yield item

    with pytest.raises(InterruptedError, match="stopped"):
        fastseg.build(table, output, progress=stop, **options)


def leftovers(output):
    return {path.name[len(output.name) :] for path in output.parent.glob("o.h5?*")}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_build_survives_being_killed_at_any_moment(tmp_path):
    """After 50 deaths the target is absent or whole, and the next build completes."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.kills", str(tmp_path), "50", "7"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert sum(found.values()) == 50
    assert len(found) > 3  # they died at different stages


def test_what_is_finished_is_kept(stopped):
    """The next build takes over half of the items and gives the same bytes."""
    table, output, whole = stopped
    assert leftovers(output) == set(SUFFIXES)
    report = fastseg.build(table, output, threads=2)
    assert 0 < report.reused < report.samples
    assert output.read_bytes() == whole
    assert leftovers(output) == set()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("damage", ["gone", "cut", "flipped", "empty"])
def test_damaged_leftovers_do_no_harm(stopped, suffix, damage):
    """Whatever befalls them, the next build gives the same bytes."""
    table, output, whole = stopped
    path = Path(f"{output}{suffix}")
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "flipped":
        for place in range(0, len(data), 97):
            data[place] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(data[: len(data) * 2 // 3] if damage == "cut" else b"")
    fastseg.build(table, output)
    assert output.read_bytes() == whole
    assert leftovers(output) == set()


def test_a_torn_journal_is_cut_at_its_last_whole_frame(study, tmp_path, monkeypatch):
    """Cut anywhere, it gives back the records before the cut and no other."""
    monkeypatch.setattr(plan, "BLOCK_SIZE", 3)
    table, output = fastseg.link(study), tmp_path / "o.h5"
    whole = fastseg.build(table, tmp_path / "whole.h5").path.read_bytes()
    stop_halfway(table, output)
    journal = Path(f"{output}.partial.journal")
    saved = {suffix: Path(f"{output}{suffix}").read_bytes() for suffix in SUFFIXES}
    kept = []
    for size in range(0, len(saved[".partial.journal"]), 1013):
        for suffix, data in saved.items():
            Path(f"{output}{suffix}").write_bytes(data)
        journal.write_bytes(saved[".partial.journal"][:size])
        kept.append(fastseg.build(table, output).reused)
        assert output.read_bytes() == whole
        output.unlink()
    assert kept == sorted(kept)
    assert kept[0] == 0 < kept[-1]


def test_other_options_start_anew(stopped):
    """Nothing that was made under other rules is taken over."""
    table, output, _ = stopped
    report = fastseg.build(table, output, edges="closed")
    assert report.reused == 0
    anew = fastseg.build(table, output.with_name("n.h5"), edges="closed")
    assert output.read_bytes() == anew.path.read_bytes()
    assert leftovers(output) == set()


def test_other_items_take_over_what_fits(stopped, study):
    """Images that came or went meanwhile move the pixels of those that stay."""
    table, output, _ = stopped
    more = fastseg.link(study, keep_unlabelled=True)
    assert len(more) > len(table)
    report = fastseg.build(more, output)
    assert report.reused > 0
    anew = fastseg.build(more, output.with_name("n.h5"))
    assert output.read_bytes() == anew.path.read_bytes()
    assert leftovers(output) == set()


def test_a_source_that_changed_meanwhile_is_read_again(stopped, study):
    """The interrupted build has done it, but contents decide."""
    table, output, _ = stopped
    path = study / table.links[0].contour_path
    path.write_text("1 1\n9 1\n9 9\n")
    fastseg.build(table, output)
    sample = fastseg.open(output)[0]
    assert sample.contours[table.links[0].label][0].tolist() == [[1, 1], [9, 1], [9, 9]]


def test_only_one_builds_at_a_time(study, tmp_path):
    """The second build of a store is refused, the first goes on undisturbed."""
    table, output = fastseg.link(study), tmp_path / "o.h5"
    entered, leave = threading.Event(), threading.Event()

    def wait(items, label, total):
        entered.set()
        assert leave.wait(60)
        return items

    first = threading.Thread(
        target=fastseg.build, args=(table, output), kwargs={"progress": wait}
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
def test_ctrl_c_ends_a_build_in_order(tmp_path, fastseg_command):
    """Status 130, a sentence on how to go on, and the same bytes in the end."""
    study = tmp_path / "study"
    fastseg.make_phantom(study, patients=6, slices=10, phases=12, seed=3)
    fastseg.link(study, keep_unlabelled=True).save(tmp_path / "links.csv")
    # It waits where it is to be interrupted, however slow or busy the machine is.
    script = """
from fastseg.cli import main
from fastseg.store.writing.partial import Partial
add = Partial.add
def add_and_wait(self, *records):
    add(self, *records)
    print("added", flush=True)
    time.sleep(300)
Partial.add = add_and_wait
main.main()
"""
    command = [sys.executable, "-c", script, "build", "links.csv", "-o", "o.h5"]
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout.readline() == "added\n"
        running.send_signal(signal.SIGINT)
        _, told = running.communicate()
    assert running.returncode == 130
    assert "run the same command again to continue" in told
    assert not (tmp_path / "o.h5").exists()
    report = fastseg.build(tmp_path / "links.csv", tmp_path / "o.h5")
    assert report.reused > 0
    anew = fastseg.build(tmp_path / "links.csv", tmp_path / "n.h5")
    assert report.path.read_bytes() == anew.path.read_bytes()


FULL_DISK = """
import errno, os, subprocess, sys
from pathlib import Path
import fastseg
from fastseg import spool
from fastseg.store.writing import partial
folder, links, whole = map(Path, sys.argv[1:])
table = fastseg.LinkTable.load(links)
size = len(whole.read_bytes())
shares = [(x, "") for x in (0.2, 0.5, 0.8, 1.0, 1.02)]
# Where systems cannot be asked for room, it is the writing that fails.
shares += [(x, "writing") for x in (0.2, 0.5, 0.8)]
# What a build notes for itself may be what the disk has no room for.
shares += [(x, "notes") for x in (0.001, 0.01, 0.02, 0.04, 0.2)]
in_memory = spool.BYTES_IN_MEMORY
for share, fails in shares:
    if fails:
        partial.reserve = lambda *place: None
    spool.BYTES_IN_MEMORY = 1 if fails == "notes" else in_memory
    disk = folder / f"disk{share}{fails}"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={int(size * share)}", "none", disk]
    if subprocess.run(mount, capture_output=True).returncode:
        sys.exit(77)
    output = disk / "o.h5"
    try:
        fastseg.build(table, output, threads=2)
        full = False
    except OSError as exc:
        assert exc.errno == errno.ENOSPC and str(disk) in str(exc), exc
        full = True
    assert full and not output.exists(), share
    subprocess.run([*mount[:4], f"remount,size={3 * size}", "none", disk], check=True)
    report = fastseg.build(table, output)
    assert output.read_bytes() == whole.read_bytes()
    assert [path.name for path in disk.iterdir()] == ["o.h5"]
print("all")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a small tmpfs")
def test_a_full_disk_is_told_and_survived(study, tmp_path):
    """ENOSPC at any stage leaves no target, and with more room the build completes."""
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
