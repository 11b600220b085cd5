"""Builds by parts: the same bytes as at once, whatever happens to the parts."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pydicom
import pytest

import fastseg
from fastseg.errors import NothingBuiltError, OptionError, OutputError, PlanError
from fastseg.ingest import part_journal
from fastseg.ingest import parts as parts_module
from fastseg.ingest import plan as plan_module
from fastseg.ingest.part_journal import Journals
from fastseg.ingest.parts import blocks_of
from fastseg.ingest.plan_folder import PlanFolder

try:
    import resource
except ImportError:  # on Windows
    resource = None


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Let the sample data have 20 blocks."""
    monkeypatch.setattr(plan_module, "BLOCK_SIZE", 5)


@pytest.fixture(scope="module")
def links(sample_study, tmp_path_factory):
    """All images of the sample data: two shapes, and many without contours."""
    folder = tmp_path_factory.mktemp("links")
    return fastseg.link(sample_study, slices="series").save(folder / "links.csv")


@pytest.fixture(scope="module")
def whole(links, tmp_path_factory):
    """The bytes of the store that a build makes at once, by `compress`."""
    folder = tmp_path_factory.mktemp("whole")
    return {
        compress: fastseg.build(links, folder / f"{compress}.h5", compress=compress)
        for compress in (False, True)
    }


@pytest.mark.parametrize("compress", [False, True])
def test_parts_in_any_order_give_the_bytes_of_a_build(links, whole, tmp_path, compress):
    """Also if shares overlap, and parts are made twice."""
    plan = fastseg.plan_parts(links, tmp_path / "a.h5", compress=compress)
    assert plan == tmp_path / "a.h5.plan"
    shares = ["3/3", "1/7", "2/7", "1/7", "1/2", "2/3"]
    made = [fastseg.build_part(plan, share, threads=2).made for share in shares]
    assert sum(made) == PlanFolder(plan).blocks == 20
    assert made[3] == 0
    report = fastseg.finish_parts(plan)
    expected = whole[compress]
    assert report.path.read_bytes() == expected.path.read_bytes()
    for name in ("samples", "links", "contours", "off_image", "fingerprint", "rejects"):
        assert getattr(report, name) == getattr(expected, name)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_structure_sets_are_built_by_parts(studies, tmp_path):
    """Reports count their rings as a build does."""
    table = fastseg.link(studies["rtstruct"])
    expected = fastseg.build(table, tmp_path / "b.h5")
    plan = fastseg.plan_parts(table, tmp_path / "a.h5")
    for share in ("2/2", "1/2"):
        fastseg.build_part(plan, share)
    report = fastseg.finish_parts(plan)
    assert report.path.read_bytes() == expected.path.read_bytes()
    assert report.rule_dependent == expected.rule_dependent
    assert report.several_rings == expected.several_rings


def test_rejects_are_those_of_a_build(links, sample_study, tmp_path):
    """Gaps of images that fail are closed; one list names all that is lost."""
    study = shutil.copytree(sample_study, tmp_path / "study")
    table = fastseg.link(study, slices="series")
    for name in ("PHANTOM0002/5.dcm", "PHANTOM0003/7.dcm"):
        (study / "dicoms" / name).write_bytes(b"no image")
    (study / "dicoms" / "PHANTOM0001" / "9.dcm").unlink()
    with pytest.warns(fastseg.errors.RejectedWarning):
        expected = fastseg.build(table, tmp_path / "b.h5")
    plan = fastseg.plan_parts(table, tmp_path / "a.h5")
    reports = [fastseg.build_part(plan, share) for share in ("1/2", "2/2")]
    with pytest.warns(fastseg.errors.RejectedWarning):
        report = fastseg.finish_parts(plan)
    assert report.rejects == expected.rejects
    assert report.failed == expected.failed == 3
    assert sum(part.rejected for part in reports) == 3
    assert report.path.read_bytes() == expected.path.read_bytes()
    listed = [tmp_path / f"{name}.h5.rejects.csv" for name in "ab"]
    assert listed[0].read_bytes() == listed[1].read_bytes()


def test_nothing_is_left_of_a_plan_of_which_nothing_can_be_used(study, tmp_path):
    """The error lists why."""
    table = fastseg.link(study)
    plan = fastseg.plan_parts(table, tmp_path / "a.h5")
    for path in study.rglob("*.dcm"):
        path.write_bytes(b"no image")
    fastseg.build_part(plan, "1/1")
    with pytest.raises(NothingBuiltError) as caught:
        fastseg.finish_parts(plan)
    assert caught.value.rejects
    assert not plan.exists()


PART = """
import sys
from fastseg.ingest import parts, plan
plan.BLOCK_SIZE = 5
parts.NOTED_BYTES = 100_000
parts.build_part(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize("seed", range(3))
def test_parts_that_are_killed_or_made_twice_at_once(links, whole, tmp_path, seed):
    """Processes are killed at random moments, and others make the same blocks."""
    rng = random.Random(seed)
    plan = fastseg.plan_parts(links, tmp_path / "a.h5")
    command = [sys.executable, "-c", PART, str(plan)]
    running = [subprocess.Popen([*command, share]) for share in ("1/2", "1/2", "2/2")]
    time.sleep(rng.uniform(0.3, 1.5))
    running[rng.randrange(3)].send_signal(signal.SIGKILL)
    for process in running:
        process.wait()
    for share in ("1/2", "2/2"):
        fastseg.build_part(plan, share)
    report = fastseg.finish_parts(plan)
    assert report.path.read_bytes() == whole[False].path.read_bytes()


@pytest.mark.parametrize("compress", [False, True])
def test_frames_that_were_cut_or_damaged_are_made_again(
    links, whole, tmp_path, compress
):
    """`finish` names the part, and to make it again mends it."""
    plan = fastseg.plan_parts(links, tmp_path / "a.h5", compress=compress)
    for share in ("1/4", "2/4", "3/4", "4/4"):
        fastseg.build_part(plan, share)
    journals = sorted((plan / "journals").glob("*.journal"))
    data = bytearray(journals[1].read_bytes())
    data[-200] ^= 255
    journals[1].write_bytes(data)
    os.truncate(journals[2], journals[2].stat().st_size - 10)
    with pytest.raises(PlanError, match=r"1 block of 20 is not made; make the part"):
        fastseg.finish_parts(plan)
    parts = [fastseg.build_part(plan, f"{k}/4") for k in range(1, 5)]
    assert sum(part.made for part in parts) == 2
    report = fastseg.finish_parts(plan)
    assert report.path.read_bytes() == whole[compress].path.read_bytes()


def test_edges_of_blocks_are_written_by_finish_alone(links, tmp_path):
    """A part changes only whole pages within its blocks."""
    plan = fastseg.plan_parts(links, tmp_path / "a.h5")
    folder = PlanFolder(plan)
    before = np.fromfile(folder.pixels, np.uint8)
    fastseg.build_part(plan, "2/4")
    after = np.fromfile(folder.pixels, np.uint8)
    changed = np.flatnonzero(before != after)
    first, stop = blocks_of("2/4", folder.blocks)
    with closing(
        Journals(folder.journals, folder.identity, folder.classes)
    ) as journals:
        made = [journals.read(block) for block in range(first, stop)]
    edges = [(offset, offset + len(data)) for m in made for offset, data in m.edges]
    assert edges
    for low, high in edges:
        assert not ((changed >= low) & (changed < high)).any()


def test_finish_names_the_parts_that_are_missing(links, tmp_path):
    """In the shares that were made."""
    plan = fastseg.plan_parts(links, tmp_path / "a.h5")
    fastseg.build_part(plan, "2/4")
    with pytest.raises(
        PlanError, match="15 blocks of 20 are not made; make the parts "
    ):
        fastseg.finish_parts(plan)
    with pytest.raises(PlanError, match="1/4, 3/4, 4/4"):
        fastseg.finish_parts(plan)
    assert plan.is_dir()


def test_blocks_are_shared_out_once():
    """Whatever the numbers of blocks and parts."""
    for blocks in (0, 1, 7, 100):
        for count in (1, 3, 7, 150):
            spans = [blocks_of(f"{k}/{count}", blocks) for k in range(1, count + 1)]
            numbers = [k for first, stop in spans for k in range(first, stop)]
            assert numbers == [*range(blocks)]


@pytest.mark.parametrize("part", ["3", "0/4", "5/4", "1/0", "a/b", "1/2/3", 3, None])
def test_a_part_that_there_is_none_is_refused(links, tmp_path, part):
    """With an example of one."""
    plan = fastseg.plan_parts(links, tmp_path / "a.h5")
    with pytest.raises(OptionError, match="part is"):
        fastseg.build_part(plan, part)


def test_plans_and_journals_that_do_not_belong_here_are_refused(links, tmp_path):
    """So is a folder that is none, or was made by other versions."""
    plan = fastseg.plan_parts(links, tmp_path / "a.h5")
    with pytest.raises(OutputError, match="is there already"):
        fastseg.plan_parts(links, tmp_path / "a.h5")
    other = fastseg.plan_parts(links, tmp_path / "b.h5", edges="closed")
    fastseg.build_part(other, "1/4")
    (journal,) = (other / "journals").iterdir()
    stray = shutil.copy(journal, plan / "journals" / journal.name)
    with pytest.raises(PlanError, match="belongs to another plan"):
        fastseg.build_part(plan, "1/4")
    stray.unlink()
    # A part opens no journals of other blocks; `finish` opens all.
    stray = shutil.copy(journal, plan / "journals" / "15-20-0.journal")
    assert fastseg.build_part(plan, "1/4").made == 5
    with pytest.raises(PlanError, match=r"15-20-0\.journal: belongs to another plan"):
        fastseg.finish_parts(plan)
    stray.unlink()
    (tmp_path / "c.plan").mkdir()
    (tmp_path / "c.plan" / "plan.json").write_text("[]")
    with pytest.raises(PlanError, match="holds no plan"):
        fastseg.build_part(tmp_path / "c.plan", "1/4")
    with pytest.raises(FileNotFoundError):
        fastseg.build_part(tmp_path / "nowhere.plan", "1/4")
    with pytest.raises(PlanError, match="is no folder"):
        fastseg.build_part(links, "1/4")
    content = json.loads((plan / "plan.json").read_text())
    for changed, text in (
        ({"version": 99}, "is a plan of version 99"),
        (
            {"software": content["software"] | {"numpy": "1.0"}},
            r"numpy .* \(there 1.0\)",
        ),
    ):
        (plan / "plan.json").write_text(json.dumps(content | changed))
        with pytest.raises(PlanError, match=text):
            fastseg.build_part(plan, "1/4")


@pytest.mark.parametrize("name", ["blocks", "blocks.index", "rejects.json"])
def test_a_damaged_plan_is_refused(links, tmp_path, name):
    """When it is read."""
    plan = fastseg.plan_parts(links, tmp_path / "a.h5")
    fastseg.build_part(plan, "1/2")
    fastseg.build_part(plan, "2/2")
    data = bytearray((plan / name).read_bytes())
    data[len(data) // 2] ^= 1
    (plan / name).write_bytes(data)
    with pytest.raises((PlanError, ValueError), match=r"is damaged|JSON"):
        fastseg.finish_parts(plan)


def test_a_plan_may_be_moved_with_its_data(sample_study, whole, tmp_path):
    """Paths are relative to its folder: machines mount shared folders anywhere."""
    root = tmp_path / "here"
    shutil.copytree(sample_study, root / "study")
    links = fastseg.link(root / "study", slices="series").save(root / "links.csv")
    plan = fastseg.plan_parts(links, root / "a.h5")
    fastseg.build_part(plan, "1/2")
    root.rename(tmp_path / "there")
    moved = tmp_path / "there" / "a.h5.plan"
    fastseg.build_part(moved, "2/2")
    report = fastseg.finish_parts(moved)
    assert report.path == tmp_path / "there" / "a.h5"
    assert report.path.read_bytes() == whole[False].path.read_bytes()


@contextlib.contextmanager
def limited(kind, most):
    """Let the system refuse this process larger files, or more open ones."""
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


@pytest.mark.skipif(resource is None, reason="needs limits on the size of files")
@pytest.mark.parametrize("compress", [False, True])
def test_a_disk_that_turns_full_costs_what_is_not_noted(
    links, whole, tmp_path, monkeypatch, compress
):
    """Under a part, when it begins or later, and when the parts are joined."""
    monkeypatch.setattr(parts_module, "NOTED_BYTES", 100_000)
    plan = fastseg.plan_parts(links, tmp_path / "a.h5", compress=compress)
    size = whole[compress].path.stat().st_size
    for most in (1, size // 2, size // 4):
        with (
            pytest.raises(OSError, match="File too large") as caught,
            limited(resource.RLIMIT_FSIZE, most),
        ):
            fastseg.build_part(plan, "1/1")
        assert str(plan) in caught.value.filename
        assert "make the same part again" in caught.value.__notes__[0]
    made = fastseg.build_part(plan, "1/1").made
    assert 0 < made < 20
    with (
        pytest.raises(OSError, match="File too large") as caught,
        limited(resource.RLIMIT_FSIZE, size // 2),
    ):
        fastseg.finish_parts(plan)
    assert "what is made is kept" in caught.value.__notes__[0]
    report = fastseg.finish_parts(plan)
    assert report.path.read_bytes() == whole[compress].path.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    # Anybody may read it whom the umask lets, as a store that was built at once.
    assert report.path.stat().st_mode == whole[compress].path.stat().st_mode


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_that_turns_read_only(links, whole, tmp_path):
    """The error names it, and to be allowed again is enough."""
    plan = fastseg.plan_parts(links, tmp_path / "a.h5")
    fastseg.build_part(plan, "1/2")
    for name in ("journals", "pixels"):
        mode = (plan / name).stat().st_mode
        (plan / name).chmod(0o555 if name == "journals" else 0o444)
        with pytest.raises(PermissionError, match=name):
            fastseg.build_part(plan, "2/2")
        (plan / name).chmod(mode)
    fastseg.build_part(plan, "2/2")
    report = fastseg.finish_parts(plan)
    assert report.path.read_bytes() == whole[False].path.read_bytes()


@pytest.mark.skipif(resource is None, reason="needs limits on the number of files")
@pytest.mark.parametrize("compress", [False, True])
def test_parts_may_be_more_than_files_can_be_open(
    links, whole, tmp_path, monkeypatch, compress
):
    """Each has a journal, and a file of pixels if these are compressed."""
    monkeypatch.setattr(part_journal, "MOST_OPEN", 4)
    plan = fastseg.plan_parts(links, tmp_path / "a.h5", compress=compress)
    for k in range(1, 21):
        fastseg.build_part(plan, f"{k}/20")
    # So that twelve more files can be opened, whatever is open.
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(12)]
    for file in opened:
        os.close(file)
    with limited(resource.RLIMIT_NOFILE, max(opened) + 1):
        report = fastseg.finish_parts(plan)
    assert report.path.read_bytes() == whole[compress].path.read_bytes()


def test_a_part_opens_no_journals_of_other_parts(links, tmp_path):
    """With thousands of parts, each would read what all others have written."""
    plan = fastseg.plan_parts(links, tmp_path / "a.h5")
    fastseg.build_part(plan, "1/2")
    (journal,) = (plan / "journals").iterdir()
    journal.write_bytes(b'{"plan": "of another one", "part": 1, "first": 0, "stop": 1}')
    assert fastseg.build_part(plan, "2/2").made == 10
    with pytest.raises(PlanError, match="belongs to another plan"):
        fastseg.build_part(plan, "2/3")


def test_clocks_of_machines_do_not_matter(links, whole, tmp_path):
    """Whatever the times of files, older or newer than what they depend on."""
    plan = fastseg.plan_parts(links, tmp_path / "a.h5")
    for part, second in (("1/2", 0), ("2/2", 2**32), ("1/3", 1)):
        fastseg.build_part(plan, part)
        for path in (*(plan / "journals").iterdir(), *plan.iterdir(), plan):
            os.utime(path, (second, second))
    report = fastseg.finish_parts(plan)
    assert report.path.read_bytes() == whole[False].path.read_bytes()


def test_a_table_and_files_that_change_after_the_plan(sample_study, tmp_path):
    """The plan holds the links; files are read when their part is made.

    One of another shape, or that is gone, is rejected.
    """
    study = shutil.copytree(sample_study, tmp_path / "study")
    saved = fastseg.link(study).save(tmp_path / "links.csv")
    table = fastseg.LinkTable.load(saved)
    names = sorted({*table.links.dicom_path.values()})
    plan = fastseg.plan_parts(saved, tmp_path / "a.h5")
    saved.write_text("not a table any more")
    (tmp_path / names[0]).write_bytes((tmp_path / names[-1]).read_bytes())
    (tmp_path / names[1]).unlink()
    dataset = pydicom.dcmread(tmp_path / names[2])
    dataset.PixelData = bytes(reversed(dataset.PixelData))
    dataset.save_as(tmp_path / names[2])
    reports = [fastseg.build_part(plan, part) for part in ("2/2", "1/2")]
    assert sum(report.rejected for report in reports) == 2
    with pytest.warns(fastseg.errors.RejectedWarning):
        report = fastseg.finish_parts(plan)
    # So are their contours.
    rejected = {Path(reject.file).name for reject in report.rejects}
    images = {name for name in rejected if name.endswith(".dcm")}
    assert images == {Path(name).name for name in names[:2]}
    with fastseg.open(report.path) as store:
        assert len(store) == len(names) - 2
    assert fastseg.verify(report.path, sources=study).is_valid


def test_a_plan_may_be_renamed_or_named_from_within(
    links, whole, fastseg_command, tmp_path
):
    """The store keeps the name that was planned, beside the folder."""
    for inside in (False, True):
        folder = fastseg.plan_parts(links, tmp_path / "a.h5", force=True)
        folder = folder.rename(tmp_path / "plan")
        name, cwd = (".", folder) if inside else ("plan/", tmp_path)
        assert fastseg_command("part", name, "1/1", cwd=cwd).returncode == 0
        done = fastseg_command("finish", name, cwd=cwd)
        assert done.returncode == 0, done.stderr
        assert "96 samples" in done.stdout
        assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
        assert (tmp_path / "a.h5").read_bytes() == whole[False].path.read_bytes()
    done = fastseg_command("part", "plan", "1/1")
    assert "there is no plan; `fastseg plan` makes one" in done.stderr


def test_images_with_several_names_are_found_at_the_end(study, tmp_path):
    """`finish` says how to plan then."""
    links = list(fastseg.link(study).links)
    other = links[0].dicom_path.replace(".dcm", "-again.dcm")
    (study / other).symlink_to(study / links[0].dicom_path)
    links.append(links[0]._replace(dicom_path=other, contour_path="", label=""))
    table = fastseg.LinkTable(base=study, links=links)
    plan = fastseg.plan_parts(table, tmp_path / "a.h5")
    fastseg.build_part(plan, "1/1")
    with pytest.raises(PlanError, match="--look-at-files"):
        fastseg.finish_parts(plan)
    shutil.rmtree(plan)
    plan = fastseg.plan_parts(table, tmp_path / "a.h5", look_at_files=True)
    fastseg.build_part(plan, "1/1")
    expected = fastseg.build(table, tmp_path / "b.h5")
    report = fastseg.finish_parts(plan)
    assert report.path.read_bytes() == expected.path.read_bytes()


def test_the_command_line_builds_by_parts(links, whole, fastseg_command, tmp_path):
    """Each step says what it did."""
    done = fastseg_command("plan", str(links), "-o", "a.h5")
    assert done.stdout == "a.h5.plan: 96 images in 2 blocks\n"
    done = fastseg_command("finish", "a.h5.plan")
    assert done.returncode == 1
    assert "make the parts 1/1" in done.stderr
    done = fastseg_command("part", "a.h5.plan", "1/1", "--threads", "2")
    assert done.stdout == "a.h5.plan: part 1/1, 2 blocks, 96 samples made\n"
    done = fastseg_command("part", "a.h5.plan", "1/1")
    assert "0 samples made, 2 blocks made before" in done.stdout
    done = fastseg_command("finish", "a.h5.plan")
    assert done.stdout.startswith("a.h5: 96 samples, 80 contours, ")
    assert "symbolic link" not in done.stdout
    assert (tmp_path / "a.h5").read_bytes() == whole[False].path.read_bytes()
