"""Builds over an older store: as from scratch, but only what has changed is made."""

import os
import random
import shutil
import warnings
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pydicom
import pytest

import fastseg
from fastseg._kernels.files import system
from fastseg.errors import RejectedWarning

FIRST = "dicoms/PHANTOM0001/1.dcm"
DRAWN = "contourfiles/PH-1/i-contours/IM-0001-0002-icontour-manual.txt"
# Of a column of the index, whose damage no checksum of an item tells.
NAMES = [
    "items/mean",
    "items/patient",
    "items/labelled",
    "contours/class",
    "sources/xxh3",
]


class Stopped(Exception):
    """Ends a build where a test wants it to end."""


def link(study):
    return fastseg.link(study, keep_unlabelled=True)


def build(study, output, **options):
    """Build whatever can be built."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RejectedWarning)
        return fastseg.build(link(study), output, **options)


def inputs(path):
    """Return the hashes of what each sample was made from."""
    return set(fastseg.open(path).items["inputs_xxh3"].tolist())


def flip(path, place=-1):
    """Change a bit of a file and nothing that the file system tells."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture(params=[True, False], ids=["many", "single"])
def output(request, tmp_path, monkeypatch):
    """Where a build goes: of many images at a time, where systems allow, or of one."""
    monkeypatch.setattr(system, "AVAILABLE", system.AVAILABLE and request.param)
    return tmp_path / "o.h5"


def test_nothing_changed_leaves_the_file_alone(study, output):
    """Other times of the sources do not have the store written again."""
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


def test_twins_leave_the_file_alone(study, output, tmp_path):
    """The same data under two roots is no change either, unless one is left out."""
    shutil.copytree(study, tmp_path / "both" / "a")
    shutil.copytree(study, tmp_path / "both" / "b")
    table = fastseg.link(study, keep_unlabelled=True)
    links = [
        replace(
            link,
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


@pytest.mark.parametrize("name", [FIRST, DRAWN])
def test_contents_decide_and_not_times(study, output, tmp_path, name):
    """A source of the same size and time but another bit is read again, it alone."""
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
def test_other_options_make_all_anew(study, output, tmp_path, options):
    """Nothing drawn by other rules is kept; back again, nothing either."""
    for chosen in (options, {}, options):
        report = build(study, output, **chosen)
        assert report.reused == 0
        anew = build(study, tmp_path / "n.h5", **chosen)
        assert output.read_bytes() == anew.path.read_bytes()
        anew.path.unlink()


def test_compression_keeps_what_was_made(study, output, tmp_path):
    """Compressing a store, or undoing it, draws nothing again."""
    plain = build(study, output).path.read_bytes()
    packed = build(study, tmp_path / "n.h5", compress=True).path.read_bytes()
    for compress, expected in ((True, packed), (False, plain)):
        report = build(study, output, compress=compress)
        assert report.reused == report.samples
        assert output.read_bytes() == expected


def test_rejects_are_told_each_time(study, tmp_path, fastseg_command):
    """What is still bad is listed again, with status 3, though all else is kept."""
    link(study).save(tmp_path / "links.csv")
    (study / DRAWN).write_text("")
    (study / FIRST).write_bytes(b"no image")
    told = []
    for _ in range(3):
        run = fastseg_command("build", "links.csv", "-o", "o.h5")
        told.append((run.returncode, run.stderr, (tmp_path / "o.h5").read_bytes()))
        told[-1] += ((tmp_path / "o.h5.rejects.csv").read_text(),)
    assert told[0] == told[1] == told[2]
    assert told[0][0] == 3
    assert DRAWN in told[0][3]
    assert FIRST in told[0][3]
    assert "unchanged, reused from an earlier build" in run.stdout


@pytest.mark.parametrize("compress", [False, True])
def test_damaged_pixels_of_the_older_store_are_not_taken(study, output, compress):
    """An item that is no longer what it was is made again when something changes."""
    build(study, output, compress=compress)
    store = fastseg.open(output)
    place = store.items["image_chunk"][0].sum() - 1 if compress else None
    flip(output, place or store.offsets["images/40x40_uint16"])
    assert not fastseg.verify(output).is_valid
    flip(study / FIRST.replace("1.dcm", "3.dcm"))
    report = build(study, output, compress=compress)
    # What is plain is made anew in any case, as fast as it would be copied.
    assert report.reused == report.samples - (1 if system.AVAILABLE else 2)
    assert fastseg.verify(output).is_valid


@pytest.mark.parametrize("name", NAMES)
def test_damaged_columns_of_the_older_store_are_not_taken(
    study, output, tmp_path, name
):
    """Damage of the index is not copied and given a sound checksum."""
    build(study, output)
    flip(output, fastseg.open(output).offsets[name])
    flip(study / FIRST.replace("1.dcm", "3.dcm"))
    build(study, output)
    anew = build(study, tmp_path / "n.h5")
    assert output.read_bytes() == anew.path.read_bytes()


def test_only_earlier_work_counts_as_kept(study, output):
    """A build that is begun again without a bad image made the others itself."""
    path = study / FIRST
    os.truncate(path, path.stat().st_size - 10)
    report = build(study, output)
    assert (report.samples, report.reused) == (link(study).images - 1, 0)


def test_pixels_of_another_shape_are_not_taken(study, output, tmp_path):
    """An image that is, behind the build's back, the older one again does no harm."""
    path, larger = study / FIRST, (study / FIRST).read_bytes()
    build(study, output)
    dataset = pydicom.dcmread(path)
    pixels = dataset.pixel_array[:32, :32].copy()
    (dataset.Rows, dataset.Columns), dataset.PixelData = pixels.shape, pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)
    flip(study / FIRST.replace("1.dcm", "3.dcm"))

    def change(items, label, total):
        yield from items
        if label == "check":
            path.write_bytes(larger)

    with pytest.warns(RejectedWarning):
        report = fastseg.build(link(study), output, progress=change)
    assert "has changed while the store was built" in str(report.rejects)
    assert fastseg.verify(output).is_valid


class Changes:
    """What may happen to a study between two builds, at random."""

    def __init__(self, study, away, seed):
        self.study, self.away, self.draw = study, away, random.Random(seed)
        self.options = {}
        away.mkdir()

    def happen(self):
        """Let one thing happen and return its name."""
        names = [name for name in dir(type(self)) if name.startswith("then_")]
        name = self.draw.choice(names)
        getattr(self, name)()
        return name

    def some(self, pattern):
        return self.draw.choice(sorted(self.study.rglob(pattern)))

    def then_a_pixel_changes(self):
        path = self.some("*.dcm")
        if path.stat().st_size:  # else it is bad
            flip(path)

    def then_a_contour_changes(self):
        ring = [[self.draw.uniform(5, 35) for _ in "xy"] for _ in range(5)]
        np.savetxt(self.some("*-manual.txt"), ring)

    def then_a_contour_is_bad(self):
        self.some("*-manual.txt").write_text(self.draw.choice(["", "1 2\n", "1 nan\n"]))

    def then_a_contour_is_off_the_image(self):
        self.some("*-manual.txt").write_text("900 900\n905 900\n900 905\n")

    def then_a_file_goes(self):
        path = self.some(self.draw.choice(["*.dcm", "*-manual.txt"]))
        target = self.away / path.relative_to(self.study)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)

    def then_a_file_comes_back(self):
        for path in sorted(self.away.rglob("*.*"))[:1]:
            path.replace(self.study / path.relative_to(self.away))

    def then_an_image_is_bad(self):
        path = self.some("*.dcm")
        path.write_bytes(path.read_bytes()[: self.draw.choice([0, 100, -10])])

    def then_times_change(self):
        os.utime(self.some("*.dcm"), (self.draw.random(), 1))

    def then_options_change(self):
        self.options["edges"] = self.draw.choice(["closed", "half-open"])

    def then_compression_changes(self):
        self.options["compress"] = self.draw.random() < 0.5


@pytest.mark.parametrize("seed", range(4))
def test_any_changes_give_what_a_build_from_scratch_gives(
    study, output, tmp_path, seed
):
    """Bytes and report are the same whatever came before; all else is kept."""
    changes, done = Changes(study, tmp_path / "away", seed), []
    for _ in range(15):
        done.append(changes.happen())
        before = options = None
        if output.exists():
            before, options = inputs(output), fastseg.open(output).options
        threads = changes.draw.choice([1, 2])
        if changes.draw.random() < 0.5:
            with suppress(Stopped):
                stop = stop_somewhere(changes.draw)
                build(study, output, progress=stop, **changes.options)
        report = build(study, output, threads=threads, **changes.options)
        anew = build(study, tmp_path / "n.h5", **changes.options)
        assert output.read_bytes() == anew.path.read_bytes(), done
        assert replace(report, path=anew.path, reused=0) == replace(anew, reused=0), (
            done
        )
        if options == fastseg.open(output).options:
            assert report.reused >= len(before & inputs(output)), done
        assert list(output.parent.glob("o.h5.partial*")) == []
        anew.path.unlink()
    assert fastseg.verify(output).is_valid
    assert fastseg.verify(output, sources=study).is_valid


def stop_somewhere(draw):
    """Return a progress that ends a build in one of its first steps."""
    stage, place = draw.choice(
        [("check", 3), ("compare", 2), ("build", 4), ("build", 20)]
    )

    def stop(items, label, total):
        for k, item in enumerate(items):
            if (label, k) == (stage, place):
                raise Stopped
            yield item
        if (label, place) == ("build", 20):  # more than there are
            raise Stopped

    return stop
