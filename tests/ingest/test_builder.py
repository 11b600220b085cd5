"""A build, compared with a simple computation, and its rejects and errors."""

import contextlib
import csv
import os
import shutil
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import groupby
from math import isnan, sqrt
from pathlib import Path

import h5py
import numpy as np
import pydicom
import pytest
from numpy.testing import assert_array_equal
from xxhash import xxh3_64_intdigest

import fastseg
from fastseg.errors import (
    BuildError,
    LinkError,
    NothingBuiltError,
    OptionError,
    RejectedWarning,
)
from fastseg.ingest import plan
from fastseg.links import Link, LinkTable
from fastseg.store.writing.partial import sole_builder
from fastseg.tables import rejects_path
from tests import steps

# The image and the only contour of the second sample of a store.
SECOND = "dicoms/PHANTOM0001/2.dcm"
CONTOUR = "contourfiles/PH-1/i-contours/IM-0001-0002-icontour-manual.txt"


def build(table, path, **options):
    """Build a store and open it."""
    return fastseg.open(fastseg.build(table, path, **options).path)


def edit(path, pixels, **elements):
    """Replace the pixels and elements of a DICOM file."""
    dataset = pydicom.dcmread(path)
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
    dataset.HighBit = 8 * pixels.itemsize - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = pixels.tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)


def statistics(pixels, ranks):
    """Return the statistics of an image, computed in rational arithmetic."""
    values = pixels.ravel().tolist()
    mean = Fraction(sum(values), len(values))
    variance = Fraction(sum(value * value for value in values), len(values)) - mean**2
    meta = {"mean": float(mean), "min": min(values), "max": max(values)}
    meta["std"] = pytest.approx(sqrt(variance), rel=2**-52, abs=0)  # the last bit
    ranked = np.percentile(values, ranks, method="inverted_cdf")
    return meta | {"percentiles": ranked.tolist()}


def volumes_of(headers, times):
    """Return the volume of each image, -1 for none: a run of one series and time."""
    keys = list(zip((h.SeriesInstanceUID for h in headers), times, strict=True))
    volumes, number = [], 0
    for _, run in groupby(range(len(keys)), keys.__getitem__):
        z = [headers[k].ImagePositionPatient[2] for k in run]
        is_volume = len(z) > 1 and z == sorted(set(z))
        volumes += [number if is_volume else -1] * len(z)
        number += is_volume
    return volumes


def bounding_box(mask):
    y, x = np.nonzero(mask)
    return [y.min(), x.min(), y.max() + 1, x.max() + 1] if mask.any() else [0] * 4


def sample_of(store, path):
    """Return the sample of an image file."""
    (sample,) = [sample for sample in store if sample.meta["source"] == path]
    return sample


@pytest.mark.parametrize("origin", ["center", "corner"])
def test_a_store_equals_a_simple_computation(study, tmp_path, origin):
    """Images, masks, contours and metadata are those of the linked files, in order."""
    table = fastseg.link(study, keep_unlabelled=True)
    (study / CONTOUR).write_text("1005 5\n1009 5\n1005 9\n")  # off the image
    report = fastseg.build(table, tmp_path / "new" / "heart.h5", origin=origin)
    store = fastseg.open(report.path)
    paths = list(dict.fromkeys(link.dicom_path for link in table.links))
    assert (report.samples, report.links, report.rejects) == (len(paths), 20, ())
    assert (report.path, report.fingerprint) == (store.path, store.fingerprint)
    assert (store.classes, store.options["origin"]) == (table.classes, origin)
    assert list(store.images) == list(store.masks) == ["40x40_uint16", "48x36_uint16"]
    off_image = []
    headers = [pydicom.dcmread(study / path) for path in paths]
    times = {link.dicom_path: link.time for link in table.links}
    volumes = volumes_of(headers, [times[path] for path in paths])
    rows = Counter()
    for sample, path, header in zip(store, paths, headers, strict=True):
        image = fastseg.dicom.read_image(study / path).pixels
        assert_array_equal(sample.image, image, strict=True)
        links = [link for link in table.links if link.label and link.dicom_path == path]
        covered = np.zeros((4, *image.shape), bool)
        for link in links:
            ring = np.loadtxt(study / link.contour_path)
            inside = fastseg.rasterize(ring, image.shape, origin=origin)
            covered[store.class_index(link.label)] = inside
            off_image += [] if inside.any() else [link.contour_path]
            shifted = ring - (0.5 if origin == "corner" else 0)
            assert_array_equal(sample.contours[link.label], [shifted])
        mask = sum(plane.astype(np.uint8) << k for k, plane in enumerate(covered))
        assert_array_equal(sample.mask, mask, strict=True)
        rings = [ring for (ring,) in sample.contours.values()]
        meta = sample.meta
        assert np.diff(meta.pop("contours")) == len(rings) == len(links)
        meta.pop("inputs_xxh3")  # a hash of the inputs, which later builds compare
        expected = {"source": path, "frame": 0, "instance": header.InstanceNumber}
        expected |= {"row": rows[image.shape], "volume": volumes[sample.index]}
        rows[image.shape] += 1
        meta["time"] = None if isnan(meta["time"]) else meta["time"]
        expected |= {"time": times[path]}
        expected |= {"patient": header.PatientID, "series": header.SeriesInstanceUID}
        expected |= {"window": [header.WindowCenter, header.WindowWidth]}
        expected |= {"slope": 1, "intercept": 0, "spacing_mm": [*header.PixelSpacing]}
        expected |= {"modality": "MR", "sop_instance": header.SOPInstanceUID}
        expected |= {"frame_of_reference": header.FrameOfReferenceUID}
        expected |= {"origin_mm": [*header.ImagePositionPatient]}
        expected |= {"directions": [*header.ImageOrientationPatient]}
        expected |= {"position_mm": header.ImagePositionPatient[2]}  # axial
        expected |= {"slice_thickness_mm": header.SliceThickness}
        expected |= {"temporal_position": -1, "trigger_time_ms": header.TriggerTime}
        expected |= {"bucket": f"{header.Rows}x{header.Columns}_uint16"}
        expected |= statistics(image, store.percentile_ranks)
        expected |= {
            "labelled": sum(1 << store.class_index(link.label) for link in links),
            "rule_dependent": 0,  # each class has one ring
            "pixels": [plane.sum() for plane in covered],
            "bbox": [bounding_box(plane) for plane in covered],
            "image_xxh3": xxh3_64_intdigest(image.tobytes()),
            "mask_xxh3": xxh3_64_intdigest(mask.tobytes()),
            "contour_xxh3": xxh3_64_intdigest(b"".join(map(bytes, rings))),
        }
        assert meta == expected
    assert {CONTOUR} <= set(off_image) == set(report.off_image)


def test_a_store_lists_its_sources(study, tmp_path):
    """Each used file is listed once, as first used, with path, size and checksum."""
    table = fastseg.link(study)
    store = build(table.save(tmp_path / "far" / "links.csv"), tmp_path / "s.h5")
    paths = [bytes(path).decode() for path in store.sources["path"]]
    used = [path for x in table.links for path in (x.dicom_path, x.contour_path)]
    assert paths == list(dict.fromkeys(used))
    data = [(study / path).read_bytes() for path in paths]
    assert_array_equal(store.sources["size"], [len(content) for content in data])
    assert_array_equal(store.sources["xxh3"], [xxh3_64_intdigest(x) for x in data])
    contours = [link.contour_path for link in table.links]
    assert [paths[k] for k in store.contours["source"]] == contours


def test_sources_are_relative_to_the_root_wherever_the_table_is(study, tmp_path):
    """A table inside the data, read from any folder, gives the same paths and bytes."""
    table = fastseg.link(study)
    inside = table.save(study / "dicoms" / "links.csv")
    expected = fastseg.build(table, tmp_path / "expected.h5").path.read_bytes()
    for k, folder in enumerate((tmp_path, study, study / "dicoms", Path("/"))):
        with contextlib.chdir(folder):
            path = fastseg.build(inside, tmp_path / f"{k}.h5").path
        assert path.read_bytes() == expected
    assert not fastseg.verify(path, sources=study).changed_sources


def test_the_same_inputs_give_the_same_bytes(study, tmp_path):
    """A repeated build, a moved table and leftovers of a build change no byte."""
    table = fastseg.link(study)
    first = fastseg.build(table, tmp_path / "a.h5").path.read_bytes()
    (tmp_path / "b.h5.partial").write_text("leftovers of a build that was killed")
    assert fastseg.build(table, tmp_path / "b.h5").path.read_bytes() == first
    copy = fastseg.link(shutil.copytree(study, tmp_path / "copy"))
    for other in (table.save(tmp_path / "far" / "away" / "links.csv"), copy):
        assert fastseg.build(other, tmp_path / "a.h5").path.read_bytes() == first


def test_datasets_have_no_time_stamp(store):
    """HDF5 stores no time, which would make the bytes of each build differ."""
    with h5py.File(store.path) as file:
        datasets = [file[group][name] for group in file for name in file[group]]
        times = {h5py.h5g.get_objinfo(dataset.id).mtime for dataset in datasets}
    assert times == {0}


def change(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("edit_study", "origin", "same"),
    [
        (lambda s: (s / SECOND).rename(s / SECOND.replace("2", "02")), "center", True),
        (lambda s: change(s / SECOND, -1), "center", False),  # a pixel
        (lambda s: change(s / CONTOUR, -2), "center", False),  # a vertex
        (lambda s: None, "corner", False),
    ],
)
def test_the_fingerprint_depends_on_content(study, tmp_path, edit_study, origin, same):
    """A pixel, a vertex or the origin changes it; the name of a file does not."""
    before = fastseg.build(fastseg.link(study), tmp_path / "s.h5").fingerprint
    edit_study(study)
    after = fastseg.build(fastseg.link(study), tmp_path / "s.h5", origin=origin)
    assert (after.fingerprint == before) == same


def test_a_contour_that_becomes_a_point_is_stored(study, tmp_path):
    """If all vertices are equal after the shift by half a pixel, they are stored."""
    (study / CONTOUR).write_text("0 0\n1e-20 0\n0 1e-20\n")
    store = build(fastseg.link(study), tmp_path / "s.h5", origin="corner")
    contours = sample_of(store, SECOND).contours["icontour"]
    assert_array_equal(contours, np.full((1, 3, 2), -0.5))


@pytest.mark.parametrize("dtype", ["<u2", "<i2"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_slope_and_intercept_give_image_values(study, tmp_path, photometric, dtype):
    """Pixels keep stored values; slope and intercept rescale and invert MONOCHROME1."""
    low, high = (-2048, 2047) if dtype == "<i2" else (0, 4095)
    pixels = np.linspace(low, high, 40 * 40).astype(dtype).reshape(40, 40)
    stored = {"BitsStored": 12, "HighBit": 11, "PhotometricInterpretation": photometric}
    edit(study / SECOND, pixels, **stored, RescaleSlope=2, RescaleIntercept=-10)
    store = build(fastseg.link(study), tmp_path / "s.h5")
    sample = sample_of(store, SECOND)
    assert_array_equal(sample.image, pixels, strict=True)
    meta = sample.meta
    values = pixels.astype(float) * 2 - 10
    if photometric == "MONOCHROME1":
        values = values.min() + values.max() - values
    assert_array_equal(pixels * meta["slope"] + meta["intercept"], values)


draw = np.random.default_rng(0).integers
HUGE = {
    "unsigned": draw(2**32, size=(41, 37), dtype=np.uint32),
    "signed": draw(-(2**31), 2**31, (40, 50), np.int32),
    "many": np.full((725, 725), 5, np.uint16),  # more pixels than 16 bits can count
    "constant": np.full((40, 40), 2**32 - 1, np.uint32),
    "extremes": np.where(np.eye(64) > 0, np.int32(-(2**31)), np.int32(2**31 - 1)),
    "narrow": np.arange(2**32 - 40_000, 2**32, dtype=np.uint32).reshape(200, 200),
}


@pytest.mark.parametrize("pixels", HUGE.values(), ids=HUGE)
def test_statistics_of_huge_values_are_exact(study, tmp_path, pixels):
    """Statistics of 32-bit images are equal to those of rational arithmetic."""
    edit(study / SECOND, pixels)
    store = build(fastseg.link(study), tmp_path / "s.h5")
    sample = sample_of(store, SECOND)
    assert_array_equal(sample.image, pixels, strict=True)
    expected = statistics(pixels, store.percentile_ranks)
    assert {name: sample.meta[name] for name in expected} == expected


@pytest.mark.parametrize("count", [1, 8, 9, 16, 17, 32, 33, 64])
def test_a_mask_has_a_bit_for_each_class(study, tmp_path, count):
    """The mask's dtype is the smallest that fits; more than 64 classes are refused."""
    (link,) = [
        link for link in fastseg.link(study).links if link.contour_path == CONTOUR
    ]
    links = tuple(link._replace(label=f"c{k:02}") for k in range(65))
    store = build(LinkTable(base=study, links=links[:count]), tmp_path / "s.h5")
    full = np.array(2**count - 1, np.min_scalar_type(2**count - 1))
    inside = fastseg.rasterize(np.loadtxt(study / CONTOUR), (40, 40))
    assert_array_equal(store[0].mask, inside * full, strict=True)
    assert_array_equal(store[0].mask_of(f"c{count - 1:02}"), inside)
    assert store[0].meta["labelled"] == full
    with pytest.raises(BuildError, match="65 classes, a store holds at most 64"):
        fastseg.build(LinkTable(base=study, links=links), tmp_path / "s.h5")


def test_images_without_contours_make_a_store(study, tmp_path):
    """A table without any contour is built into a store without classes."""
    store = build(fastseg.link(study, labels=[], keep_unlabelled=True), tmp_path / "s")
    assert (len(store), store.classes, store[0].mask.any()) == (12, (), False)


def test_bad_input_is_listed_and_the_rest_is_built(study, tmp_path):
    """All bad files are listed at once; the store is as if they were not linked."""
    table = fastseg.link(study)
    output = tmp_path / "s.h5"
    links = table.links
    by_name = sorted(links, key=lambda link: (link.dicom_path, link.label))
    cut = by_name[5]
    text = by_name[10]
    alone = by_name[14]
    empty = by_name[1].contour_path
    infinite = by_name[17].contour_path
    expected = {
        (cut.dicom_path, None): "bytes of pixel data, its header says 3200",
        (text.dicom_path, None): "is not a DICOM file",
        (alone.dicom_path, None): "left out: none of its contours can be used",
        (alone.contour_path, None): "No such file",
        (empty, None): "is empty",
        (infinite, 3): "is not finite",
    }
    lost = [x for x in links if x.dicom_path in (cut.dicom_path, text.dicom_path)]
    expected |= {(x.contour_path, None): f"its image {x.dicom_path} is" for x in lost}
    os.truncate(study / cut.dicom_path, 4000)
    (study / text.dicom_path).write_text("no image")
    (study / alone.contour_path).unlink()
    (study / empty).write_text("")
    (study / infinite).write_text("1 2\n5 2\nnan 5\n")
    with pytest.warns(RejectedWarning, match=f"^{len(expected)} links or") as caught:
        report = fastseg.build(table, output)
    assert caught[0].filename == __file__
    assert {(file, line) for file, line, _ in report.rejects} == set(expected)
    assert all(expected[file, line] in why for file, line, why in report.rejects)
    _, *rows = csv.reader(rejects_path(output).read_text().splitlines())
    assert rows == [[file, str(line or ""), why] for file, line, why in report.rejects]
    bad = {file for file, _ in expected}
    good = tuple(x for x in links if not bad & {x.dicom_path, x.contour_path})
    assert (report.links, report.samples, len(report.rejects)) == (len(good), 5, 14)
    data = output.read_bytes()
    again = fastseg.build(replace(table, links=good), output)
    assert again.off_image == report.off_image != ()
    assert output.read_bytes() == data
    assert not rejects_path(output).exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"patient": "PHANTOM0009"}, "is linked to several patients"),
        ({"label": "icontour"}, "is one of 2 links of class icontour"),
        ({"format": "sunybrook"}, "format is 'sunybrook', expected one of 'sunnybr"),
        ({"contour_path": "../outside.txt"}, "../outside.txt leads outside its root"),
        ({"dicom_path": "link.csv"}, "is not a DICOM file"),
    ],
)
def test_an_invalid_link_is_rejected(study, tmp_path, changes, reason):
    """A link that contradicts its files or another link is rejected with a reason."""
    table = fastseg.link(study)
    links = (table.links[0], table.links[1]._replace(**changes), *table.links[2:])
    with pytest.warns(RejectedWarning):
        report = fastseg.build(replace(table, links=links), tmp_path / "s.h5")
    files = {x.file for x in report.rejects if x.reason.startswith(reason)}
    assert files & {links[1].dicom_path, links[1].contour_path}


def fail_at_item_3(label, done, total):
    if (label, done) == ("build", 3):
        raise RuntimeError("failed")


@pytest.mark.parametrize("end", [10, -10, None])
def test_a_build_that_fails_keeps_the_older_store(study, tmp_path, monkeypatch, end):
    """It only leaves a list of rejects, or the files to continue it."""
    monkeypatch.setattr(plan, "BLOCK_SIZE", 1)
    table = fastseg.link(study)
    old, new = tmp_path / "old.h5", tmp_path / "new.h5"
    before = fastseg.build(table, old, origin="corner").path.read_bytes()
    for path in study.rglob("*.dcm"):
        path.write_bytes(path.read_bytes()[:end])
    for output in (old, new):
        progress = {} if end else {"progress": steps.at(fail_at_item_3)}
        with pytest.raises(NothingBuiltError if end else RuntimeError) as caught:
            fastseg.build(table, output, **progress)
        assert len(getattr(caught.value, "rejects", ())) == (28 if end else 0)
    suffixes = [".rejects.csv"] if end else [".partial", ".partial.journal"]
    leftovers = {
        Path(f"{output}{suffix}") for output in (old, new) for suffix in suffixes
    }
    assert set(tmp_path.iterdir()) == {study, old} | leftovers
    assert old.read_bytes() == before


@pytest.mark.parametrize(
    "make",
    [
        lambda path, store: path.mkdir(),
        lambda path, store: path.write_text("mine"),
        lambda path, store: path.write_bytes(store.path.read_bytes()[:-10]),
        lambda path, store: h5py.File(path, "w").close(),
        pytest.param(
            lambda path, store: os.mkfifo(path),
            marks=pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes"),
        ),
    ],
)
def test_only_a_store_is_replaced(study, store, tmp_path, make):
    """A folder, or a file that is not a valid store, is refused and not changed."""
    target = tmp_path / "target"
    make(target, store)
    before = not target.is_file() or target.read_bytes()
    with pytest.raises(BuildError, match="target"):
        fastseg.build(fastseg.link(study), target)
    assert (not target.is_file() or target.read_bytes()) == before
    assert set(tmp_path.iterdir()) == {study, target}


@pytest.mark.parametrize("target", ["", ".", "..", "/"])
def test_a_folder_is_no_target(study, target):
    """However the folder is written, it is refused before anything is created."""
    before = set(study.rglob("*"))
    with (
        contextlib.chdir(study / "dicoms"),
        pytest.raises(BuildError, match="expected the name of a store"),
    ):
        fastseg.build(fastseg.link(study), target)
    assert set(study.rglob("*")) == before


def test_a_slash_after_the_name_is_ignored(study, tmp_path):
    """Store and rejects are written under the name without the slash."""
    next(study.rglob("*-icontour-*")).write_text("1 2\n")
    with pytest.warns(RejectedWarning):
        report = fastseg.build(fastseg.link(study), f"{tmp_path}/s.h5/")
    assert report.path == tmp_path / "s.h5"
    assert (tmp_path / "s.h5.rejects.csv").exists()


def test_the_longest_names_of_classes_fit_into_a_store(study, tmp_path):
    """64 names of 1000 bytes are stored; a longer one is refused before building."""
    table = fastseg.link(study)
    names = [f"{k:02}" + "é" * 499 for k in range(64)]
    links = [
        link._replace(label=name, contour_path=table.links[0].contour_path)
        for name in names
        for link in table.links[:1]
    ]
    store = build(replace(table, links=links), tmp_path / "s.h5")
    assert list(store.classes) == names
    links[0] = links[0]._replace(label=names[0] + "x")
    with pytest.raises(BuildError, match="at most 1000; use a shorter label"):
        fastseg.build(replace(table, links=links), tmp_path / "n.h5")


def test_each_frame_is_an_image(study, tmp_path):
    """Only the frames that links name are read from a file, as one image each."""
    frames = np.random.default_rng(3).integers(0, 4000, (5, 7, 9)).astype("u2")
    dataset = pydicom.dcmread(study / SECOND)
    dataset.NumberOfFrames = 5
    dataset.Rows, dataset.Columns = frames.shape[1:]
    dataset.PixelData = frames.tobytes()
    dataset.save_as(study / SECOND, enforce_file_format=True)
    links = tuple(
        Link(patient="PHANTOM0001", dicom_path=SECOND, frame=frame)
        for frame in (0, 3, 4)
    )
    store = build(LinkTable(base=study, links=links), tmp_path / "s.h5")
    assert store.items["frame"].tolist() == [0, 3, 4]
    for sample in store:
        assert_array_equal(sample.image, frames[sample.meta["frame"]])
    beyond = (*links, links[0]._replace(frame=5))
    with pytest.warns(RejectedWarning):
        report = fastseg.build(LinkTable(base=study, links=beyond), tmp_path / "t.h5")
    assert "has no frame 5, expected 0 to 4" in report.rejects[0].reason


def test_each_frame_has_its_functional_groups(study, tmp_path):
    """Each frame of an enhanced file has its own rescale, spacing and window."""
    dataset = pydicom.dcmread(study / SECOND)
    pixels = dataset.PixelData
    dataset.SOPClassUID = pydicom.uid.EnhancedMRImageStorage
    dataset.NumberOfFrames = 3
    dataset.PixelData = pixels * 3
    groups = []
    for k in range(3):
        measures, rescale, window, item = (pydicom.Dataset() for _ in range(4))
        measures.PixelSpacing = [1 + k, 2 + k]
        rescale.RescaleSlope, rescale.RescaleIntercept = 2 + k, -k
        window.WindowCenter, window.WindowWidth = 40 + k, 400
        item.PixelMeasuresSequence = [measures]
        item.PixelValueTransformationSequence = [rescale]
        item.FrameVOILUTSequence = [window]
        groups.append(item)
    dataset.PerFrameFunctionalGroupsSequence = groups
    dataset.save_as(study / SECOND, enforce_file_format=True)
    links = tuple(
        Link(patient="PHANTOM0001", dicom_path=SECOND, frame=frame) for frame in (0, 2)
    )
    items = build(LinkTable(base=study, links=links), tmp_path / "s.h5").items
    assert items["spacing_mm"].tolist() == [[1, 2], [3, 4]]
    assert items["slope"].tolist() == [2, 4]
    assert items["intercept"].tolist() == [0, -2]
    assert items["window"].tolist() == [[40, 400], [42, 400]]


def test_max_pixel_bytes_limits_images(study, tmp_path):
    """Images with more bytes of pixels are rejected, the others are built."""
    table = fastseg.link(study)
    sizes = {link.dicom_path: 2 * pixels(study, link) for link in table.links}
    least, most = min(sizes.values()), max(sizes.values())
    assert least < most
    with pytest.warns(RejectedWarning):
        report = fastseg.build(table, tmp_path / "s.h5", max_pixel_bytes=most - 1)
    refused = {x.file for x in report.rejects if "raise max_pixel_bytes" in x.reason}
    assert refused == {path for path, size in sizes.items() if size == most}
    with pytest.raises(OptionError, match="max_pixel_bytes is 0, expected"):
        fastseg.build(table, tmp_path / "t.h5", max_pixel_bytes=0)


def pixels(study, link):
    header = pydicom.dcmread(study / link.dicom_path, stop_before_pixels=True)
    return header.Rows * header.Columns


@pytest.mark.parametrize("keyword", ["InstanceNumber", "WindowWidth", "RescaleSlope"])
def test_a_header_that_changes_after_the_plan_is_read_again(study, tmp_path, keyword):
    """The metadata in the store are those of the file as it was built."""
    table = fastseg.link(study)
    dataset = pydicom.dcmread(study / SECOND)
    setattr(dataset, keyword, 3)
    dataset.save_as(study / SECOND, enforce_file_format=True)
    dataset = pydicom.dcmread(study / SECOND)
    setattr(dataset, keyword, 4)
    dataset.save_as(tmp_path / "other.dcm", enforce_file_format=True)
    assert (study / SECOND).stat().st_size == (tmp_path / "other.dcm").stat().st_size

    def change():
        shutil.copy(tmp_path / "other.dcm", study / SECOND)

    progress = steps.after("check", change)
    store = build(table, tmp_path / "s.h5", progress=progress)
    meta = sample_of(store, SECOND).meta
    assert 4 in (meta["instance"], meta["window"][1], meta["slope"])


@pytest.mark.parametrize("text", [None, "a;b\n"])
def test_a_bad_table_is_refused_before_anything_else(tmp_path, text):
    """No file is created, and another build of the same store does not matter."""
    table = tmp_path / "t.csv"
    output = tmp_path / "new" / "o.h5"
    if text is not None:
        table.write_text(text)
    with pytest.raises((FileNotFoundError, LinkError), match=r"t\.csv"):
        fastseg.build(table, output)
    assert not output.parent.exists()
    with (
        sole_builder(output),
        pytest.raises((FileNotFoundError, LinkError), match=r"t\.csv"),
    ):
        fastseg.build(table, output)
