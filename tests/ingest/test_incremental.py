"""Builds over an older store: the same bytes, but only changes are built again."""

import os
import random
import shutil
import warnings
from contextlib import suppress
from dataclasses import replace

import h5py
import numpy as np
import pydicom
import pytest

import fastseg
from fastseg._kernels.files import system
from fastseg.errors import RejectedWarning, StoreVersionError
from fastseg.ingest import plan
from tests import steps

FIRST = "dicoms/PHANTOM0001/1.dcm"
CONTOUR = "contourfiles/PH-1/i-contours/IM-0001-0002-icontour-manual.txt"
# Columns of the index, whose damage no checksum of an item shows.
COLUMNS = [
    "items/mean",
    "items/patient",
    "items/labelled",
    "contours/class",
    "sources/xxh3",
]


class Stopped(Exception):
    """A test raises it to interrupt a build."""


def link(study):
    return fastseg.link(study, keep_unlabelled=True)


def build(study, output, **options):
    """Build a study; ignore rejects."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RejectedWarning)
        return fastseg.build(link(study), output, **options)


def inputs(path):
    """Return the hash of the inputs of each sample."""
    return set(fastseg.open(path).items["inputs_xxh3"].tolist())


def flip(path, offset=-1):
    """Change a bit of a file, but not its size and time."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture(params=[True, False], ids=["kernels", "python"])
def output(request, tmp_path, monkeypatch):
    """Path of a store whose images are read by kernels, or by Python alone."""
    monkeypatch.setattr(system, "AVAILABLE", system.AVAILABLE and request.param)
    return tmp_path / "o.h5"


def test_without_changes_the_store_is_not_written(study, output):
    """A store is not written again if only the times of its sources change."""
    first = build(study, output)
    assert first.reused == 0
    before = output.stat()
    for path in study.rglob("*.*"):
        os.utime(path, (1, 1))
    for threads in (1, 3):
        again = build(study, output, threads=threads)
        assert again == replace(first, reused=first.samples)
    after = output.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list(output.parent.glob("o.h5*")) == [output]


def test_equal_items_do_not_count_as_changes(study, output, tmp_path):
    """With the same data under two roots, only adding or removing one is a change."""
    shutil.copytree(study, tmp_path / "both" / "a")
    shutil.copytree(study, tmp_path / "both" / "b")
    table = fastseg.link(study, keep_unlabelled=True)
    links = [
        link._replace(
            root=root,
            dicom_path=f"{root}/{link.dicom_path}",
            contour_path=link.contour_path and f"{root}/{link.contour_path}",
        )
        for root in "ab"
        for link in table.links
    ]
    both = replace(table, base=tmp_path / "both", links=tuple(links))
    first = fastseg.build(both, output)
    before = output.stat()
    assert fastseg.build(both, output) == replace(first, reused=first.samples)
    after = output.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    fewer = replace(both, links=tuple(links[: len(table.links)]))
    assert fastseg.build(fewer, output).samples * 2 == first.samples
    assert fastseg.build(both, output).samples == first.samples


@pytest.mark.parametrize("name", [FIRST, CONTOUR])
def test_contents_decide_and_not_times(study, output, tmp_path, name):
    """Only the sample whose source has another bit is built again."""
    first = build(study, output)
    flip(study / name, -1 if name == FIRST else -3)
    again = build(study, output)
    assert (again.samples, again.reused) == (first.samples, first.samples - 1)
    assert again.fingerprint != first.fingerprint
    anew = build(study, tmp_path / "n.h5")
    assert output.read_bytes() == anew.path.read_bytes()


@pytest.mark.parametrize(
    "options", [{"edges": "closed"}, {"fill": "nonzero"}, {"origin": "corner"}]
)
def test_other_options_build_all_again(study, output, tmp_path, options):
    """No sample of other options is reused, also on the way back."""
    for chosen in (options, {}, options):
        report = build(study, output, **chosen)
        assert report.reused == 0
        anew = build(study, tmp_path / "n.h5", **chosen)
        assert output.read_bytes() == anew.path.read_bytes()
        anew.path.unlink()


def test_a_change_of_compression_reuses_all(study, output, tmp_path):
    """All samples are reused when a store is compressed or decompressed."""
    raw = build(study, output).path.read_bytes()
    compressed = build(study, tmp_path / "n.h5", compress=True).path.read_bytes()
    for compress, expected in ((True, compressed), (False, raw)):
        report = build(study, output, compress=compress)
        assert report.reused == report.samples
        assert output.read_bytes() == expected


def test_a_store_of_another_version_is_replaced(study, output):
    """`build` replaces a store that this version of fastseg cannot read."""
    data = build(study, output).path.read_bytes()
    with h5py.File(output, "r+") as file:
        file.attrs["version"] = 1
    with pytest.raises(StoreVersionError, match=r"has version 1, .*; build it again"):
        fastseg.open(output)
    assert build(study, output).reused == 0
    assert output.read_bytes() == data


def test_rejects_are_listed_by_each_build(study, tmp_path, fastseg_command):
    """Bad files are listed again, with status 3, if all other samples are reused."""
    link(study).save(tmp_path / "links.csv")
    (study / CONTOUR).write_text("")
    (study / FIRST).write_bytes(b"no image")
    results = []
    for _ in range(3):
        run = fastseg_command("build", "links.csv", "-o", "o.h5")
        data = (tmp_path / "o.h5").read_bytes()
        rejects = (tmp_path / "o.h5.rejects.csv").read_text()
        results.append((run.returncode, run.stderr, data, rejects))
    assert results[0] == results[1] == results[2]
    assert results[0][0] == 3
    assert CONTOUR in rejects
    assert FIRST in rejects
    assert "unchanged, reused from an earlier build" in run.stdout


@pytest.mark.parametrize("compress", [False, True])
def test_damaged_pixels_of_the_older_store_are_not_reused(study, output, compress):
    """A damaged item is built again by a build that finds another change."""
    build(study, output, compress=compress)
    store = fastseg.open(output)
    end = store.items["image_chunk"][0].sum() - 1 if compress else None
    flip(output, end or store.offsets["images/40x40_uint16"])
    assert not fastseg.verify(output).is_valid
    flip(study / FIRST.replace("1.dcm", "3.dcm"))
    report = build(study, output, compress=compress)
    # Kernels build all items again, and a damaged one counts as reused.
    assert report.reused == report.samples - (1 if system.AVAILABLE else 2)
    assert fastseg.verify(output).is_valid


@pytest.mark.parametrize("name", COLUMNS)
def test_damaged_columns_of_the_older_store_are_not_reused(
    study, output, tmp_path, name
):
    """A damaged index is not copied, which would give it a valid checksum."""
    build(study, output)
    flip(output, fastseg.open(output).offsets[name])
    flip(study / FIRST.replace("1.dcm", "3.dcm"))
    build(study, output)
    anew = build(study, tmp_path / "n.h5")
    assert output.read_bytes() == anew.path.read_bytes()


def test_only_earlier_work_counts_as_reused(study, output):
    """Items are not reused if the same build starts over without a bad image."""
    path = study / FIRST
    os.truncate(path, path.stat().st_size - 10)
    report = build(study, output)
    assert (report.samples, report.reused) == (link(study).images - 1, 0)


def test_pixels_of_another_shape_are_not_reused(study, output, tmp_path):
    """An image that changes back to its older shape during a build is rejected."""
    path = study / FIRST
    larger = (study / FIRST).read_bytes()
    build(study, output)
    dataset = pydicom.dcmread(path)
    pixels = dataset.pixel_array[:32, :32].copy()
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)
    flip(study / FIRST.replace("1.dcm", "3.dcm"))

    def change():
        path.write_bytes(larger)

    progress = steps.after("check", change)
    with pytest.warns(RejectedWarning):
        report = fastseg.build(link(study), output, progress=progress)
    assert "has changed while the store was built" in str(report.rejects)
    assert fastseg.verify(output).is_valid


class Changes:
    """Random changes of a study between two builds."""

    def __init__(self, study, away, seed):
        self.study = study
        self.away = away
        self.draw = random.Random(seed)
        self.options = {}
        away.mkdir()

    def change(self):
        """Make one random change and return its name."""
        names = [name for name in dir(type(self)) if name.startswith("do_")]
        name = self.draw.choice(names)
        getattr(self, name)()
        return name

    def some(self, pattern):
        return self.draw.choice(sorted(self.study.rglob(pattern)))

    def do_change_a_pixel(self):
        path = self.some("*.dcm")
        if path.stat().st_size:  # 0 if the image is already bad
            flip(path)

    def do_change_a_contour(self):
        ring = [[self.draw.uniform(5, 35) for _ in "xy"] for _ in range(5)]
        np.savetxt(self.some("*-manual.txt"), ring)

    def do_damage_a_contour(self):
        self.some("*-manual.txt").write_text(self.draw.choice(["", "1 2\n", "1 nan\n"]))

    def do_move_a_contour_off_the_image(self):
        self.some("*-manual.txt").write_text("900 900\n905 900\n900 905\n")

    def do_remove_a_file(self):
        path = self.some(self.draw.choice(["*.dcm", "*-manual.txt"]))
        target = self.away / path.relative_to(self.study)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)

    def do_restore_a_file(self):
        for path in sorted(self.away.rglob("*.*"))[:1]:
            path.replace(self.study / path.relative_to(self.away))

    def do_damage_an_image(self):
        path = self.some("*.dcm")
        path.write_bytes(path.read_bytes()[: self.draw.choice([0, 100, -10])])

    def do_change_times(self):
        os.utime(self.some("*.dcm"), (self.draw.random(), 1))

    def do_change_options(self):
        self.options["edges"] = self.draw.choice(["closed", "half-open"])

    def do_change_compression(self):
        self.options["compress"] = self.draw.random() < 0.5


@pytest.mark.parametrize("seed", range(3))
def test_random_changes_give_the_same_as_a_build_from_scratch(
    study, output, tmp_path, monkeypatch, seed
):
    """Bytes and report do not depend on earlier builds; unchanged items are reused."""
    monkeypatch.setattr(plan, "BLOCK_SIZE", 3)
    changes = Changes(study, tmp_path / "away", seed)
    done = []
    for _ in range(10):
        done.append(changes.change())
        before = options = None
        if output.exists():
            before = inputs(output)
            options = fastseg.open(output).options
        threads = changes.draw.choice([1, 2])
        if changes.draw.random() < 0.5:
            with suppress(Stopped):
                stop = stop_somewhere(changes.draw)
                build(study, output, progress=stop, **changes.options)
        report = build(study, output, threads=threads, **changes.options)
        anew = build(study, tmp_path / "n.h5", **changes.options)
        assert output.read_bytes() == anew.path.read_bytes(), done
        fields = {"path": anew.path, "reused": 0}
        assert replace(report, **fields) == replace(anew, **fields), done
        if options == fastseg.open(output).options:
            assert report.reused >= len(before & inputs(output)), done
        assert list(output.parent.glob("o.h5.partial*")) == []
        anew.path.unlink()
    assert fastseg.verify(output).is_valid
    assert fastseg.verify(output, sources=study).is_valid


def stop_somewhere(draw):
    """Return a progress function that interrupts a build at a random item."""
    stage, number = draw.choice(
        [("check", 3), ("compare", 2), ("build", 4), ("build", 1000)]
    )

    def stop(label, done, total):
        # 1000 is after all items.
        if label == stage and done >= min(number, total + 1):
            raise Stopped

    return steps.at(stop)
