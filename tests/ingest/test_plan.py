"""What a build does with the images of a table before it reads their pixels."""

import os
import random
import shutil
import tracemalloc
from dataclasses import replace

import h5py
import numpy as np
import pytest

import fastseg
from fastseg import files
from fastseg.errors import BuildError, CopiesWarning, LinkError, RejectedWarning
from fastseg.ingest import builder, images, plan
from fastseg.links import HEADER_COLUMNS, Link, LinkTable
from fastseg.paths import Paths
from fastseg.progress import silent
from fastseg.store import layout
from fastseg.store.writing import hdf5_index
from tests import steps
from tests.dicom.test_read_image import dicom_bytes

FIRST = "dicoms/PHANTOM0001/1.dcm"


@pytest.fixture
def table(study):
    return fastseg.link(study, keep_unlabelled=True)


@pytest.mark.parametrize("kind", ["symbolic", "hard", "dot", "parent"])
def test_two_names_of_one_file_are_one_image(study, table, tmp_path, kind):
    """The classes that links give to any name of a file belong to one sample."""
    other = "dicoms/PHANTOM0001/other.dcm"
    if kind == "symbolic":
        (study / other).symlink_to("1.dcm")
    elif kind == "hard":
        os.link(study / FIRST, study / other)
    elif kind == "dot":
        other = "dicoms/PHANTOM0001/./1.dcm"
    else:
        other = "dicoms/PHANTOM0001/../PHANTOM0001/1.dcm"
    names = [FIRST, other]
    count = 0
    links = []
    for link in table.links:
        if link.dicom_path == FIRST:
            link = link._replace(dicom_path=names[count % 2])
            count += 1
        links.append(link)
    assert count > 1
    report = fastseg.build(replace(table, links=links), tmp_path / "o.h5")
    expected = fastseg.open(fastseg.build(table, tmp_path / "e.h5").path)
    store = fastseg.open(report.path)
    assert report.samples == len(expected)
    assert (store[0].mask == expected[0].mask).all()
    assert sorted(store[0].contours) == sorted(expected[0].contours)


def test_one_file_of_two_patients_is_rejected(study, table, tmp_path):
    """If two names of a file belong to two patients, nobody knows whose it is."""
    other = "dicoms/PHANTOM0002/copy.dcm"
    os.link(study / FIRST, study / other)
    link = next(link for link in table.links if link.dicom_path != FIRST)
    stolen = link._replace(
        dicom_path=other, contour_path="", label="", patient="PHANTOM0002"
    )
    with pytest.warns(RejectedWarning):
        report = fastseg.build(
            replace(table, links=[*table.links, stolen]), tmp_path / "o.h5"
        )
    assert report.samples == table.images - 1
    reasons = {reject.file: reject.reason for reject in report.rejects}
    assert "is linked to several patients" in reasons[FIRST]


def without_headers(table):
    """Return a table that says nothing of the headers, as one written by hand."""
    unknown = {name: Link._field_defaults[name] for name in HEADER_COLUMNS}
    return replace(table, links=[link._replace(**unknown) for link in table.links])


@pytest.mark.parametrize("kind", ["is missing", "is a folder"])
@pytest.mark.parametrize("is_complete", [False, True])
def test_images_without_a_file_are_rejected(study, table, tmp_path, kind, is_complete):
    """They are found when they are read: before the build if the header has to be."""
    expected = "is a folder" if kind == "is a folder" else "No such file"
    (study / FIRST).unlink()
    if kind == "is a folder":
        (study / FIRST).mkdir()
    with pytest.warns(RejectedWarning):
        report = fastseg.build(
            table if is_complete else without_headers(table), tmp_path / "o.h5"
        )
    assert (report.samples, report.failed) == (table.images - 1, is_complete)
    reasons = {reject.file: reject.reason for reject in report.rejects}
    assert expected in reasons[FIRST]


def test_a_plan_from_a_complete_table_touches_no_file(study, table):
    """Where the table says shapes and dtypes, no file need be there."""
    shutil.rmtree(study / "dicoms")
    shutil.rmtree(study / "contourfiles")
    made, rejects = plan.plan_build(
        *(table, Paths(study), 2**30, False, 1, silent),
    )
    assert (len(made), rejects) == (table.images, [])


@pytest.mark.parametrize("column", ["dicom_path", "contour_path"])
def test_a_file_that_leads_outside_is_rejected_when_it_is_read(
    study, table, tmp_path, column
):
    """A symbolic link is followed to a file inside the root only."""
    link = next(link for link in table.links if link.contour_path)
    path = study / getattr(link, column)
    path.rename(tmp_path / "away")
    path.symlink_to(tmp_path / "away")
    with pytest.warns(RejectedWarning):
        report = fastseg.build(table, tmp_path / "o.h5")
    reasons = {reject.file: reject.reason for reject in report.rejects}
    assert "leads outside its root" in reasons[getattr(link, column)]


def test_copies_of_a_stamp_are_looked_at_once(study, table, tmp_path, monkeypatch):
    """A second plan looks at every file only if two of the first may be one."""
    calls = []
    make_plan = plan.plan_build

    def count(*arguments, **options):
        calls.append(options)
        return make_plan(*arguments, **options)

    monkeypatch.setattr(builder, "plan_build", count)
    fastseg.build(table, tmp_path / "a.h5")
    assert calls == [{"identify_all": False}]
    os.link(study / FIRST, study / f"{FIRST}.copy")
    link = next(link for link in table.links if link.dicom_path == FIRST)
    link = link._replace(dicom_path=f"{FIRST}.copy", contour_path="", label="")
    twice = replace(table, links=[*table.links, link])
    calls.clear()
    report = fastseg.build(twice, tmp_path / "b.h5")
    assert calls == [{"identify_all": False}, {"identify_all": True}]
    assert (report.samples, report.reused) == (table.images, 0)
    calls.clear()
    report = fastseg.build(twice, tmp_path / "b.h5")
    assert calls == [{"identify_all": False}, {"identify_all": True}]
    assert (report.samples, report.reused) == (table.images, table.images)


def test_a_copy_that_becomes_a_link_is_noticed(study, table, tmp_path):
    """A build without other changes sees that two images are one file now."""
    copy = "dicoms/PHANTOM0002/copy.dcm"
    shutil.copy(study / FIRST, study / copy)
    link = next(link for link in table.links if link.dicom_path == FIRST)
    link = link._replace(
        dicom_path=copy, contour_path="", label="", patient="PHANTOM0002"
    )
    twice = replace(table, links=[*table.links, link])
    with pytest.warns(CopiesWarning):
        report = fastseg.build(twice, tmp_path / "o.h5")
    assert report.samples == table.images + 1
    (study / copy).unlink()
    os.link(study / FIRST, study / copy)
    with pytest.warns(RejectedWarning):
        report = fastseg.build(twice, tmp_path / "o.h5")
    assert report.samples == table.images - 1
    reasons = {reject.file: reject.reason for reject in report.rejects}
    assert "is linked to several patients" in reasons[FIRST]


def test_a_rejected_image_that_has_another_name_is_noticed(study, table, tmp_path):
    """A file of two patients is rejected, also if one of its images fails."""
    other = "dicoms/PHANTOM0002/copy.dcm"
    os.link(study / FIRST, study / other)
    (study / "bad.txt").write_text("no number\n")
    link = next(link for link in table.links if link.dicom_path == FIRST)
    stolen = link._replace(
        dicom_path=other, contour_path="bad.txt", patient="PHANTOM0002"
    )
    with pytest.warns(RejectedWarning):
        report = fastseg.build(
            replace(table, links=[*table.links, stolen]), tmp_path / "o.h5"
        )
    reasons = {reject.file: reject.reason for reject in report.rejects}
    assert "is linked to several patients" in reasons[FIRST]


def test_a_table_without_shapes_gives_the_same_bytes(study, table, tmp_path):
    """If the table does not say shape and dtype, the headers are read."""
    expected = fastseg.build(table, tmp_path / "e.h5").path.read_bytes()
    bare = without_headers(table)
    links = list(bare.links)
    random.Random(0).shuffle(links)
    report = fastseg.build(replace(bare, links=links), tmp_path / "o.h5")
    assert report.path.read_bytes() == expected


@pytest.mark.parametrize(
    "names",
    [["position_mm", "time"], ["rows"], ["series", "columns"], ["time", "dtype"]],
)
@pytest.mark.parametrize("every", [1, 3])
def test_empty_cells_are_filled(study, table, tmp_path, names, every):
    """Whichever columns some or all rows lack, the store is the same."""
    if every > 1 and "rows" not in names and "columns" not in names:
        names = [*names, "dtype"]
    unknown = {name: Link._field_defaults[name] for name in names}
    links = [
        link if k % every else link._replace(**unknown)
        for k, link in enumerate(table.links)
    ]
    expected = fastseg.build(table, tmp_path / "e.h5").path.read_bytes()
    report = fastseg.build(replace(table, links=links), tmp_path / "o.h5")
    assert report.path.read_bytes() == expected
    assert fastseg.open(report.path).volumes


def test_what_a_table_says_of_times_stays(study, table, tmp_path):
    """A time that somebody has written is not replaced by what the header says."""
    links = [
        link._replace(rows=None, time=float(k)) for k, link in enumerate(table.links)
    ]
    report = fastseg.build(replace(table, links=links), tmp_path / "o.h5")
    times = fastseg.open(report.path).items["time"]
    assert set(times.tolist()) <= set(map(float, range(len(links))))
    assert len(set(times.tolist())) > 1


def test_an_image_that_is_not_as_the_table_says_is_rejected(study, table, tmp_path):
    """An image of another shape or dtype than in the table is not in the store."""
    links = [
        link._replace(rows=32) if link.dicom_path == FIRST else link
        for link in table.links
    ]
    with pytest.warns(RejectedWarning):
        report = fastseg.build(replace(table, links=links), tmp_path / "o.h5")
    reasons = {reject.file: reject.reason for reject in report.rejects}
    assert "it is 40x40_uint16, expected 32x40_uint16; link" in reasons[FIRST]
    assert (report.samples, report.failed) == (table.images - 1, 1)
    without = [link for link in table.links if link.dicom_path != FIRST]
    expected = fastseg.build(replace(table, links=without), tmp_path / "e.h5")
    assert report.path.read_bytes() == expected.path.read_bytes()


@pytest.mark.parametrize("compress", [False, True])
def test_gaps_of_failed_images_are_closed(study, table, tmp_path, compress):
    """Wherever bad images lie in the plan, the bytes are as if they were not linked."""
    bad = [sorted(study.rglob("*.dcm"))[k] for k in (0, 3, 4, 9)]
    paths = {path.relative_to(study).as_posix() for path in bad}
    good = [link for link in table.links if link.dicom_path not in paths]
    options = {"compress": compress}
    expected = fastseg.build(replace(table, links=good), tmp_path / "e.h5", **options)
    for path in bad:
        os.truncate(path, path.stat().st_size - 2)
    with pytest.warns(RejectedWarning):
        report = fastseg.build(table, tmp_path / "o.h5", **options)
    assert (report.failed, report.samples) == (4, expected.samples)
    assert report.path.read_bytes() == expected.path.read_bytes()
    assert {path.name for path in tmp_path.glob("o.h5*")} == {
        "o.h5",
        "o.h5.rejects.csv",
    }


def test_a_bucket_of_failed_images_is_left_out(study, table, tmp_path):
    """If all images of a shape are bad, the store has no bucket for them."""
    shapes = {link.dicom_path: link.columns for link in table.links}
    for path, columns in shapes.items():
        if columns == 36:
            os.truncate(study / path, (study / path).stat().st_size - 2)
    with pytest.warns(RejectedWarning):
        report = fastseg.build(table, tmp_path / "o.h5")
    assert list(fastseg.open(report.path).images) == ["40x40_uint16"]
    assert fastseg.verify(report.path).is_valid


def test_work_of_another_shape_is_not_resumed(study, table, tmp_path):
    """If the table says another dtype than before, finished pixels are not taken."""

    def stop(label, done, total):
        if label == "build" and done >= total:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fastseg.build(table, tmp_path / "o.h5", progress=steps.at(stop))
    wrong = [
        link._replace(dtype="int16") if link.dicom_path == FIRST else link
        for link in table.links
    ]
    with pytest.warns(RejectedWarning):
        report = fastseg.build(replace(table, links=wrong), tmp_path / "o.h5")
    assert (report.samples, report.failed) == (table.images - 1, 1)
    reasons = {reject.file: reject.reason for reject in report.rejects}
    assert "it is 40x40_uint16, expected 40x40_int16; link" in reasons[FIRST]


def test_failed_images_are_counted_by_each_build(study, table, tmp_path):
    """A build without changes counts them as the first one does."""
    os.truncate(study / FIRST, (study / FIRST).stat().st_size - 2)
    for reused in (0, table.images - 1):
        with pytest.warns(RejectedWarning):
            report = fastseg.build(table, tmp_path / "o.h5")
        assert (report.failed, report.reused) == (1, reused)


def frames_file(path, frames):
    """Write a DICOM file of several frames of 512 KB."""
    pixels = np.zeros((frames, 512, 512), np.uint16)
    pixels += np.arange(frames, dtype=np.uint16)[:, None, None]
    path.write_bytes(dicom_bytes(pixels))


def test_a_file_of_frames_is_read_once(tmp_path, monkeypatch):
    """A build, and one without changes, read a large file once for all its frames."""
    monkeypatch.setattr(plan, "BLOCK_SIZE", 2)
    frames_file(tmp_path / "a.dcm", 7)
    links = [Link("P", "a.dcm", frame=k) for k in range(7)]
    table = LinkTable(base=tmp_path, links=links)
    calls = []

    def count(path, most):
        calls.append(path)
        return files.read_file(path, most)

    monkeypatch.setattr(images, "read_file", count)
    for _ in range(2):
        report = fastseg.build(table, tmp_path / "o.h5")
        assert len(calls) == 1
        calls.clear()
    assert report.reused == 7
    store = fastseg.open(report.path)
    assert [int(sample.image.max()) for sample in store] == list(range(7))


def test_decoded_images_do_not_keep_their_files_in_memory(tmp_path):
    """One frame of each of many files takes the memory of a file, not of all."""
    links = []
    for k in range(12):
        frames_file(tmp_path / f"{k}.dcm", 8)  # 4 MB
        links.append(Link("P", f"{k}.dcm", frame=3))
    table = LinkTable(base=tmp_path, links=links)
    fastseg.build(table, tmp_path / "warm.h5")
    tracemalloc.start()
    try:
        fastseg.build(table, tmp_path / "o.h5")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * 8 * 2**19


@pytest.mark.parametrize("changes", [{"contour_path": "", "label": "a"}, {"label": ""}])
def test_a_contour_and_its_class_come_together(table, changes):
    """A link with only one of both is refused when the table is made."""
    link = next(link for link in table.links if link.label)
    with pytest.raises(LinkError, match="must be given together"):
        replace(table, links=[link._replace(**changes)])


def test_more_shapes_than_a_store_holds_are_refused_at_the_start(table, tmp_path):
    """HDF5 would refuse their names when all images are built."""
    first = table.links[0]
    links = [
        first._replace(dicom_path=f"dicoms/PHANTOM0001/{k}.dcm", rows=k, columns=k)
        for k in range(10_000, 14_500)
    ]
    many = LinkTable(base=table.base, links=links)
    with pytest.raises(BuildError, match=r"4500 shapes and dtypes, .* at most 3611"):
        fastseg.build(many, tmp_path / "store.h5", max_pixel_bytes=2**40)
    assert not list(tmp_path.glob("store.h5*"))


def test_hdf5_takes_as_many_shapes_as_are_not_refused(tmp_path):
    """Their names are one attribute, which HDF5 limits to 64 KiB."""
    name = "10000x10000_uint16"
    names = [name] * (layout.MAX_BUCKET_BYTES // len(name))
    with h5py.File(tmp_path / "store.h5", "w") as file:
        hdf5_index._set_attributes(file, buckets=hdf5_index._texts(names))
        assert len(file.attrs["buckets"]) == len(names)
