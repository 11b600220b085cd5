"""Volumes of a store: which samples they have, where they lie, and damaged tables."""

import pickle
import re
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import fastseg
from fastseg import geometry
from fastseg.errors import (
    MissingExtraError,
    OptionError,
    RejectedWarning,
    SplitWarning,
    StoreError,
)
from fastseg.geometry import Plane
from fastseg.links import LinkTable
from fastseg.store import checks, layout, summary
from fastseg.store.writing import volumes as writing_volumes
from fastseg.store.writing.records import Records, as_texts, meta_dtype
from tests.series import AXIAL, position_of, table_of, write_stack

# The samples of the last volume of `opened`.
LATER = range(8, 11)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A cine of 4 positions and 2 times, a stack of 3 slices, and 2 single images."""
    base = tmp_path_factory.mktemp("volumes")
    for time in range(2):
        write_stack(
            *(base / "cine", np.arange(4) * 2.5 - 1),
            number=1 + 4 * time,
            series="1.1",
            TriggerTime=100 * time,
            TemporalPositionIdentifier=time + 1,
            SliceThickness=2.5,
            Modality="MR",
        )
    write_stack(base / "stack", [7, 4, 1], number=20, series="1.2", shape=(5, 9))
    write_stack(base / "single", [7], number=30, series="1.3")
    write_stack(base / "none", [7], number=31, series="1.4", PixelSpacing=None)
    return base


@pytest.fixture(scope="module")
def opened(folder, tmp_path_factory):
    """The store of these."""
    path = tmp_path_factory.mktemp("store") / "volumes.h5"
    return fastseg.open(fastseg.build(table_of(folder), path).path)


def build(table, path, **options):
    """Build a store and open it."""
    return fastseg.open(fastseg.build(table, path, **options).path)


def headers_of(store, folder):
    """Return what pydicom reads of each sample."""
    return [pydicom.dcmread(folder / sample.meta["source"]) for sample in store]


def test_volumes_are_those_of_the_series(opened):
    """A cine has a volume for each time; single images are in none."""
    volumes = opened.volumes
    assert len(volumes) == 3
    assert [volume.samples for volume in volumes] == [range(4), range(4, 8), LATER]
    assert [volume.series for volume in volumes] == ["1.1", "1.1", "1.2"]
    assert [volume.time for volume in volumes] == [0, 1, None]
    assert {volume.patient for volume in volumes} == {"A"}
    assert [volume.shape for volume in volumes] == [(4, 6, 8), (4, 6, 8), (3, 5, 9)]
    assert [len(volume) for volume in volumes] == [4, 4, 3]
    assert [v.spacing_mm for v in volumes] == 2 * [(2.5, 0.5, 0.75)] + [(3, 0.5, 0.75)]
    assert opened.items["volume"].tolist() == [0] * 4 + [1] * 4 + [2] * 3 + [-1] * 2


def test_a_volume_is_a_view_of_its_slices(opened, folder):
    """Image and mask are read-only views of the map, by rising position."""
    headers = headers_of(opened, folder)
    for volume in opened.volumes:
        images = opened.images[opened[volume.samples[0]].meta["bucket"]]
        assert np.shares_memory(volume.image, images)
        assert not volume.image.flags.writeable
        assert not volume.mask.flags.writeable
        members = [headers[k] for k in volume.samples]
        pixels = np.stack([header.pixel_array for header in members])
        assert_array_equal(volume.image, pixels, strict=True)
        assert_array_equal(volume.mask, [opened[k].mask for k in volume.samples])
        positions = [position_of(header) for header in members]
        assert all(one < two for one, two in pairwise(positions))


def test_the_affine_puts_voxels_where_the_planes_are(opened):
    """It maps the index in `image` to the point that the slice's plane gives."""
    for volume in opened.volumes:
        for z, plane in enumerate(volume.planes):
            points = np.array([[0, 0], [3.5, 1], [7, 4]])
            x, y = points.T
            ends = np.column_stack([np.full(3, z), y, x, np.ones(3)])
            mapped = ends @ volume.affine.T
            assert_allclose(mapped[:, :3], plane.pixel_to_patient(points), atol=1e-9)
            assert_array_equal(mapped[:, 3], 1)
        steps = np.linalg.norm(volume.affine[:3, :3], axis=0)
        assert_allclose(steps, volume.spacing_mm)


def test_slices_that_a_volume_lacks_are_refused(opened):
    """`plane` counts like a list, and says how many slices there are."""
    volume = opened.volumes[1]
    assert_array_equal(volume.plane(-1).origin, volume.planes[3].origin)
    for k in (4, -5):
        message = f"slice {k} is outside volume 1, which has 4 slices"
        with pytest.raises(IndexError, match=message):
            volume.plane(k)
    for wrong in (1.5, "1", True):
        with pytest.raises(
            TypeError, match=f"a whole number, not {type(wrong).__name__}"
        ):
            volume.plane(wrong)


def test_a_volume_knows_its_modality_and_what_was_outlined(folder, tmp_path):
    """`modality` is the header's; `labelled` has the classes with a contour."""
    base = shutil.copytree(folder, tmp_path / "data")
    (base / "ring.txt").write_text("1 1\n4 1\n4 3\n")
    links = list(table_of(base).links)
    a, b = ({"contour_path": "ring.txt", "label": name} for name in ("a", "b"))
    links[1] = links[1]._replace(**b)
    links[2:3] = [links[2]._replace(**a), links[2]._replace(**b)]
    store = build(LinkTable(base=base, links=links), tmp_path / "s.h5")
    assert [volume.modality for volume in store.volumes] == ["MR", "MR", "CT"]
    assert [volume.labelled.tolist() for volume in store.volumes] == [
        [0, 0b10, 0b11, 0],
        [0] * 4,
        [0] * 3,
    ]
    assert [volume.classes for volume in store.volumes] == [("a", "b"), (), ()]
    first, *others = (volume.contours for volume in store.volumes)
    assert [[*rings] for rings in first] == [[], ["b"], ["a", "b"], []]
    assert_array_equal(first[2]["a"], [[[1, 1], [4, 1], [4, 3]]])
    assert others == [({},) * 4, ({},) * 3]
    for name in ("modalities", "outlined"):
        with pytest.raises(AttributeError, match=r"modality is|labelled is"):
            getattr(store.volumes[0], name)


def outlined(folder, base, count, **options):
    """Build a store in which a slice has a contour of each of `count` classes."""
    base = shutil.copytree(folder, base)
    (base / "ring.txt").write_text("1 1\n4 1\n4 3\n")
    links = list(table_of(base).links)
    links[1:2] = [
        links[1]._replace(contour_path="ring.txt", label=f"class{k}")
        for k in range(count)
    ]
    return build(LinkTable(base=base, links=links), base / "s.h5", **options)


def test_samples_are_selected_by_volume(opened):
    """`in_volume` and `volumes` choose slices, and a split keeps those of one."""
    assert opened.select(in_volume=True).tolist() == list(range(11))
    assert opened.select(in_volume=False).tolist() == [11, 12]
    assert opened.select(volumes=1).tolist() == [4, 5, 6, 7]
    assert opened.select(volumes=[2, 0]).tolist() == [0, 1, 2, 3, 8, 9, 10]
    assert opened.select(volumes=np.arange(2), indices=[3, 4, 12]).tolist() == [3, 4]
    parts = opened.split({"a": 0.5, "b": 0.5}, by="volume")
    fastseg.check_split(opened, parts, by="volume", indices=range(13))
    with pytest.warns(SplitWarning, match=r"1 of 2 volumes.* A volume stays whole"):
        opened.split({"a": 0.9, "b": 0.1}, by="volume", indices=range(8))
    with pytest.raises(OptionError, match=r"share 1 of their groups \(by volume\)"):
        fastseg.check_split(opened, {"a": [0], "b": [1]}, by="volume")


def test_a_store_without_volumes_has_none_to_select(folder, tmp_path):
    """No sample is in a volume, and a number of one is refused."""
    store = build(table_of(folder / "single"), tmp_path / "s.h5")
    assert store.select(in_volume=True).tolist() == []
    assert store.select(in_volume=False).tolist() == [0]
    with pytest.raises(OptionError, match="volumes is 0, but the store has no volumes"):
        store.select(volumes=0)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("count", [8, 9, 17, 33])
def test_tensors_have_what_arrays_have(folder, tmp_path, compress, count):
    """They have its shape and values; wide bit fields are signed, so that >> works."""
    torch = pytest.importorskip("torch")
    store = outlined(folder, tmp_path / "data", count, compress=compress)
    for volume in store.volumes:
        image, mask = volume.tensor(), volume.mask_tensor()
        assert image.dtype == torch.uint16
        assert_array_equal(image.numpy(), volume.image, strict=True)
        assert mask.element_size() == volume.mask.itemsize
        for k in range(count):
            covered = (mask >> k) & 1 == 1
            assert_array_equal(covered.numpy(), volume.mask_of(f"class{k}"))
    assert store.volumes[0].mask_of("class0")[1].any()


@pytest.mark.parametrize("compress", [False, True])
def test_writing_to_a_tensor_changes_it_alone(folder, tmp_path, compress):
    """Neither the file nor any other array or tensor sees what is written."""
    torch = pytest.importorskip("torch")
    store = outlined(folder, tmp_path / "data", 2, compress=compress)
    volume = store.volumes[1]
    before = store.path.read_bytes(), volume.image.copy(), volume.mask.copy()
    image, other, mask = volume.tensor(), volume.tensor(), volume.mask_tensor()
    image.view(torch.int16).zero_()
    mask.bitwise_not_()
    assert not image.numpy().any()
    assert_array_equal(mask.numpy(), ~before[2])
    assert_array_equal(other.numpy(), before[1])
    assert_array_equal(volume.image, before[1])
    assert_array_equal(volume.mask, before[2])
    assert store.path.read_bytes() == before[0]
    store.close()
    assert not image.numpy().any()
    assert_array_equal(other.numpy(), before[1])


def test_a_tensor_is_a_view_of_the_file(opened):
    """Its memory is a private map of the file, which is unmapped with the tensor."""
    pytest.importorskip("torch")

    def private_maps():
        lines = Path("/proc/self/maps").read_text().splitlines()
        return [line for line in lines if "rw-p" in line and str(opened.path) in line]

    tensor = opened.volumes[2].tensor()
    (line,) = private_maps()
    start, stop = (int(number, 16) for number in line.split()[0].split("-"))
    assert start <= tensor.data_ptr() < stop
    del tensor
    assert not private_maps()


def test_tensors_need_torch(opened, monkeypatch):
    """Without it, the error says what to install."""
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("tensor", "mask_tensor"):
        message = f"Volume.{name} needs an optional package: pip install torch"
        with pytest.raises(MissingExtraError, match=message):
            getattr(opened.volumes[0], name)()


def test_samples_know_their_plane(opened, folder):
    """`plane` has what the header says, and is None if the spacing is absent."""
    for sample, header in zip(opened, headers_of(opened, folder), strict=True):
        plane = sample.plane
        if "PixelSpacing" not in header:
            assert plane is None
            continue
        assert isinstance(plane, Plane)
        assert_array_equal(plane.origin, header.ImagePositionPatient)
        assert_array_equal(plane.row_direction, AXIAL[:3])
        assert_array_equal(plane.column_direction, AXIAL[3:])
        assert tuple(plane.spacing_mm) == (0.5, 0.75)
    assert sum(sample.plane is None for sample in opened) == 1


def test_metadata_are_those_of_the_headers(opened, folder):
    """Each new column holds what pydicom reads, or what stands for nothing."""
    for sample, header in zip(opened, headers_of(opened, folder), strict=True):
        meta = sample.meta
        assert meta["modality"] == header.Modality
        assert meta["sop_instance"] == header.SOPInstanceUID
        assert meta["frame_of_reference"] == header.FrameOfReferenceUID
        assert meta["origin_mm"] == list(header.ImagePositionPatient)
        assert meta["directions"] == list(header.ImageOrientationPatient)
        assert meta["position_mm"] == position_of(header)
        assert meta["temporal_position"] == header.get("TemporalPositionIdentifier", -1)
        for name, keyword in (
            ("slice_thickness_mm", "SliceThickness"),
            ("trigger_time_ms", "TriggerTime"),
        ):
            assert_array_equal(meta[name], header.get(keyword, np.nan))


def test_volumes_are_a_sequence(opened):
    """Length, negative indices, slices, iteration and errors are those of a list."""
    volumes = opened.volumes
    assert [volume.index for volume in volumes] == [0, 1, 2]
    assert volumes[-1].index == volumes[np.int64(2)].index == 2
    assert [volume.index for volume in volumes[1:]] == [1, 2]
    with pytest.raises(IndexError, match="volume 3 is outside a store of 3 volumes"):
        volumes[3]
    with pytest.raises(TypeError, match="indexed by one whole number, not str"):
        volumes["1.2"]
    for read in (lambda volume: volume[1], list, np.asarray):
        with pytest.raises(TypeError, match=r"a volume has no .*volume.image is the"):
            read(volumes[0])


def test_volumes_say_what_they_are(opened):
    """`repr` gives shape, dtype, spacing, patient and time."""
    assert repr(opened.volumes) == "<3 volumes of volumes.h5>"
    assert repr(opened.volumes[1]) == (
        "<Volume 1 of volumes.h5: 4x6x8 uint16, 2.5 x 0.5 x 0.75 mm, patient A, time 1>"
    )
    assert opened.volumes[1]._repr_html_().count("<img") == 4


def test_volumes_can_be_pickled(opened):
    """A copy finds the same volume in its own map."""
    copy = pickle.loads(pickle.dumps(opened.volumes[2]))
    assert_array_equal(copy.image, opened.volumes[2].image)
    assert len(pickle.loads(pickle.dumps(opened.volumes))) == 3


def test_volumes_of_a_closed_store_raise(opened):
    """Whatever reads the file raises StoreError; `repr` says that it is closed."""
    store = fastseg.open(opened.path)
    volume, volumes = store.volumes[0], store.volumes
    store.close()
    for read in (
        lambda: store.volumes,
        lambda: len(volumes),
        lambda: volumes[0],
        lambda: volume.image,
        lambda: volume.mask_of("a"),
        lambda: volume.tensor(),
        lambda: volume.mask_tensor(),
        lambda: volume.contours,
        lambda: volume.classes,
        lambda: volume.samples,
        lambda: volume.affine,
        lambda: volume.plane(0),
        lambda: volume.time,
    ):
        with pytest.raises(StoreError, match="was closed"):
            read()
    assert repr(volume) == "<Volume 0 of volumes.h5, which is closed>"
    assert repr(volumes) == "<Volumes of volumes.h5, which is closed>"


def test_a_compressed_store_has_the_same_volumes(opened, folder, tmp_path):
    """Its slices are decompressed into one read-only array."""
    small = build(table_of(folder), tmp_path / "small.h5", compress=True)
    assert small.fingerprint == opened.fingerprint
    for one, two in zip(opened.volumes, small.volumes, strict=True):
        assert_array_equal(one.image, two.image, strict=True)
        assert_array_equal(one.mask, two.mask, strict=True)
        assert_array_equal(one.affine, two.affine)
        assert not two.image.flags.writeable
    assert fastseg.verify(small).is_valid


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_no_byte(opened, folder, tmp_path, threads):
    """Volumes do not depend on how images are divided among threads."""
    path = fastseg.build(table_of(folder), tmp_path / "s.h5", threads=threads).path
    assert path.read_bytes() == opened.path.read_bytes()


def test_a_rejected_slice_leaves_a_gap(folder, tmp_path):
    """A stack without one of its inner slices is no volume, its images are samples."""
    base = shutil.copytree(folder, tmp_path / "data")
    table = table_of(base)
    (base / "cine" / "2.dcm").write_bytes(b"damaged")
    with pytest.warns(RejectedWarning):
        store = build(table, tmp_path / "s.h5")
    assert len(store) == len(table.links) - 1
    assert [volume.samples for volume in store.volumes] == [range(3, 7), range(7, 10)]
    assert [volume.time for volume in store.volumes] == [1, None]
    assert reasons(store) == {"uneven": 3, "no plane": 1, "single": 1}


def reasons(store):
    """Return how many samples are in no volume, by the reason in the summary."""
    return {
        why["name"]: why["samples"] for why in store.summary()["volumes"]["in_none"]
    }


def test_slices_in_another_order_are_no_volume(folder, tmp_path):
    """Where samples are not by rising position, no view of them is a volume."""
    table = fastseg.link(folder, slices="all")
    first, *others = [x.samples for x in build(table, tmp_path / "a.h5").volumes]
    links = [*table.links]
    k = first.start
    links[k], links[k + 1] = links[k + 1], links[k]
    store = build(LinkTable(base=folder, links=links), tmp_path / "s.h5")
    assert [volume.samples for volume in store.volumes] == others != []
    assert reasons(store) == {"interleaved": 4, "no plane": 1, "single": 1}


def test_a_time_that_changes_in_the_table_changes_the_store(folder, tmp_path):
    """An item whose time is another one is not taken from the older store."""
    path = tmp_path / "s.h5"
    table = fastseg.link(folder, slices="all")
    before = [volume.time for volume in build(table, path).volumes]
    links = table.links
    later = [x._replace(time=None if x.time is None else x.time + 5) for x in links]
    store = build(LinkTable(base=folder, links=later), path)
    assert before == [0, 1, None]
    assert [volume.time for volume in store.volumes] == [5, 6, None]
    assert_array_equal(store.items["time"][:8], [5] * 4 + [6] * 4)


def test_images_without_a_series_are_in_no_volume(tmp_path):
    """Nothing says that files without a SeriesInstanceUID belong together."""
    write_stack(tmp_path / "data", range(4), series=None)
    store = build(table_of(tmp_path / "data"), tmp_path / "s.h5")
    assert (len(store), len(store.volumes)) == (4, 0)
    assert fastseg.verify(store).is_valid
    assert reasons(store) == {"no series": 4}


def test_reasons_are_not_searched_among_too_many_samples(opened, monkeypatch):
    """`info` must not wait: it counts the samples in no volume without the reasons."""
    monkeypatch.setattr(summary, "MOST_COUNTED", 1)
    assert opened.summary()["volumes"]["in_none"] is None
    monkeypatch.setattr(summary, "MOST_COUNTED", 2)
    assert reasons(opened) == {"no plane": 1, "single": 1}


def test_summary_counts_volumes(opened, fastseg_command):
    """`summary` and `fastseg info` give their number, slices and spacing."""
    found = opened.summary()
    assert found["volumes"] == {
        "count": 3,
        "samples": 11,
        "slices": [3, 4],
        "shapes": [[5, 9], [6, 8]],
        "spacing_mm": [2.5, 3.0],
        "pixel_spacing_mm": [0.5, 0.75],
        "in_none": [
            {"name": "no plane", "samples": 1},
            {"name": "single", "samples": 1},
        ],
    }
    assert found["series"] == 4
    assert found["modalities"] == [
        {"name": "CT", "samples": 5},
        {"name": "MR", "samples": 8},
    ]
    lines = fastseg_command("info", opened.path).stdout.splitlines()
    assert [line.strip() for line in lines[3:6]] == [
        "series       4",
        "modality     CT (5 samples), MR (8 samples)",
        "volumes      3 of 3 to 4 slices of 5x9, 6x8, 2.5 to 3 mm apart, pixels of 0.5 "
        "to 0.75 mm; 2 samples in no volume (no plane 1, single 1)",
    ]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(2, 5)), max_size=6),
    st.integers(0, 4),
    st.data(),
)
def test_the_column_volume_follows_from_the_table(volumes, tail, data):
    """`volumes_of_items` is what a loop over the volumes writes, for any range."""
    first, slices, end = [], [], 0
    for gap, count in volumes:
        first.append(end + gap)
        slices.append(count)
        end += gap + count
    expected = np.full(end + tail, -1)
    for k, (start, count) in enumerate(zip(first, slices, strict=True)):
        expected[start : start + count] = k
    start = data.draw(st.integers(0, end + tail))
    stop = data.draw(st.integers(start, end + tail))
    columns = np.array(first, np.int64), np.array(slices, np.int64)
    column = layout.volumes_of_items(*columns, start, stop)
    assert_array_equal(column, expected[start:stop])


def records_of(rows, first):
    """Return Records and buckets of items, of which `first` is the first.

    A row is (patient, series, z, bucket).
    """
    count = len(rows)
    patient, series, z, bucket = zip(*rows, strict=True)
    meta = np.zeros(count, meta_dtype(()))
    meta["origin_mm"][:, 2] = z
    meta["directions"] = AXIAL
    meta["spacing_mm"] = 1
    meta["time"] = meta["slice_thickness_mm"] = np.nan
    empty = as_texts([""] * count)
    records = Records(
        links=np.zeros(count, "<u8"),
        offsets=np.zeros((count, 4), "<i8"),
        patient=as_texts(patient),
        series=as_texts(series),
        modality=empty,
        sop_instance=empty,
        frame_of_reference=empty,
        file_counts=np.ones(count, "<i8"),
        stamps=np.zeros((count, 4), "<i8"),
        path=as_texts(f"{first + k}.dcm" for k in range(count)),
        size=np.zeros(count, "<i8"),
        xxh3=np.zeros(count, "<u8"),
        rings=np.zeros((0, 5), "<i8"),
        meta=meta,
        points=np.empty((0, 2)),
        histograms=np.zeros((0, 6), "<i8"),
        moments=np.empty((0, 2)),
        codes=np.empty(0, "u1"),
    )
    return records, np.array(bucket)


runs = st.tuples(
    st.sampled_from("AB"),
    st.sampled_from(["1", "1.22", ""]),
    st.lists(st.sampled_from([0, 1, 2, 3, 5]), min_size=1, max_size=5),
    st.integers(0, 1),
)


@given(
    st.lists(runs, min_size=1, max_size=5),
    st.lists(st.integers(1, 30)),
    st.sampled_from([1, 4, 2**12]),
)
def test_volumes_do_not_depend_on_the_blocks_of_records(groups, ends, at_once):
    """They are those that `find_volumes` finds in each series by itself, in order."""
    rows = [(p, s, z, b) for p, s, positions, b in groups for z in positions]
    expected = []
    start = 0
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and rows[stop][:2] == rows[start][:2] and rows[start][1]:
            stop += 1
        count = stop - start
        found = geometry.find_volumes(
            origins=np.array([(0, 0, z) for *_, z, _ in rows[start:stop]], float),
            directions=np.tile(AXIAL, (count, 1)),
            spacings_mm=np.ones((count, 2)),
            thicknesses_mm=np.full(count, np.nan),
            kinds=np.array([bucket for *_, bucket in rows[start:stop]]),
            times=np.full(count, np.nan),
        )
        for members, spacing in zip(found.members, found.spacings_mm, strict=True):
            if (np.diff(members) == 1).all():
                expected.append((start + members[0], len(members), spacing))
        start = stop
    bounds = [0, *sorted({end for end in ends if end < len(rows)}), len(rows)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing_volumes, "SEARCHED_AT_ONCE", at_once)
        finder = writing_volumes.VolumeFinder()
        for start, stop in pairwise(bounds):
            finder.add(*records_of(rows[start:stop], start))
        columns, positions = finder.finish()
    assert len(positions) == len(rows)
    assert list(zip(*(x.tolist() for x in columns), strict=True)) == sorted(expected)


def put(name, index, value):
    """Return a function that changes a value in a file."""
    return lambda file: file[name].__setitem__(index, value)


def shorten(name):
    def change(file):
        values = file[name][:-1]
        del file[name]
        file[name] = values

    return change


def swap_rows(file):
    rows = file["items/row"][:2]
    file["items/row"][:2] = rows[::-1]


def join_volumes(file):
    """Say that the two volumes of the cine are one, also in the column of items."""
    file["volumes/first"][:] = [0, 9, 11]
    file["volumes/slices"][:] = [9, 2, 2]
    file["items/volume"][:] = [0] * 9 + [1] * 2 + [2] * 2


DAMAGE = {
    "no slices": (put("volumes/slices", 0, 0), "volumes/slices is invalid"),
    "one slice": (put("volumes/slices", 0, 1), "volumes/slices is invalid"),
    "negative slices": (put("volumes/slices", 0, -4), "volumes/slices is invalid"),
    "huge slices": (put("volumes/slices", 2, 2**62), "volumes/slices is invalid"),
    "beyond the end": (put("volumes/slices", 2, 6), "volumes/slices is invalid"),
    "negative first": (put("volumes/first", 0, -1), "volumes/first is invalid"),
    "first outside": (put("volumes/first", 2, 13), "volumes/first is invalid"),
    "huge first": (put("volumes/first", 2, 2**63 - 1), "volumes/first is invalid"),
    "overlap": (put("volumes/first", 1, 3), "volumes/first is invalid"),
    "not in order": (put("volumes/first", 0, 8), "volumes/first is invalid"),
    "one sample more": (put("volumes/slices", 2, 4), "items/volume is invalid"),
    "one sample less": (put("volumes/slices", 0, 3), "items/volume is invalid"),
    "another volume": (put("items/volume", 5, 0), "items/volume is invalid"),
    "no such volume": (put("items/volume", 5, 3), "items/volume is invalid"),
    "below -1": (put("items/volume", 12, -2), "items/volume is invalid"),
    "a sample in none": (put("items/volume", 5, -1), "items/volume is invalid"),
    "rows not in order": (swap_rows, "items/volume is invalid"),
    "several buckets": (join_volumes, "items/volume is invalid"),
    "no spacing": (put("volumes/spacing_mm", 0, 0), "volumes/spacing_mm is invalid"),
    "NaN": (put("volumes/spacing_mm", 1, np.nan), "volumes/spacing_mm is invalid"),
    "infinite": (put("volumes/spacing_mm", 1, np.inf), "volumes/spacing_mm is invalid"),
    "short": (shorten("volumes/time"), "/volumes has columns of lengths [2, 3]"),
    "missing": (lambda file: file.__delitem__("volumes/first"), "volumes/first"),
    "no table": (lambda file: file.__delitem__("volumes"), "volumes/first"),
}


@pytest.mark.parametrize("at_once", [1, 3, 13, 14])
def test_volumes_may_cross_blocks_of_samples(opened, monkeypatch, at_once):
    """However many samples are checked at once, a valid store opens."""
    monkeypatch.setattr(checks, "SAMPLES_AT_ONCE", at_once)
    assert len(fastseg.open(opened.path).volumes) == 3


@pytest.mark.parametrize(("change", "text"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_volumes_are_refused(opened, tmp_path, monkeypatch, change, text):
    """A table of volumes that is no view of the pixels does not open."""
    monkeypatch.setattr(checks, "SAMPLES_AT_ONCE", 3)
    path = tmp_path / "damaged.h5"
    path.write_bytes(opened.path.read_bytes())
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(StoreError, match=re.escape(text)):
        fastseg.open(path)


@pytest.mark.parametrize("name", ["patient", "series"])
def test_text_of_a_volume_that_is_not_utf8_is_named(opened, tmp_path, name):
    """StoreError says where it stands; `verify` reports the column."""
    path = tmp_path / "damaged.h5"
    path.write_bytes(opened.path.read_bytes())
    with h5py.File(path, "r+") as file:
        file[f"volumes/{name}"][1] = b"\xff"
    volume = fastseg.open(path).volumes[1]
    with pytest.raises(StoreError, match=f"volumes/{name} of volume 1 is not UTF-8"):
        getattr(volume, name)
    assert [d.part for d in fastseg.verify(path).damages] == [f"volumes/{name}"]


def test_columns_of_volumes_are_verified(opened, tmp_path):
    """A changed spacing or time is damage of its column."""
    path = tmp_path / "damaged.h5"
    path.write_bytes(opened.path.read_bytes())
    with h5py.File(path, "r+") as file:
        file["volumes/spacing_mm"][0] = 2.25
        file["volumes/time"][0] = 7
        file["items/origin_mm"][0] = 7
    parts = [damage.part for damage in fastseg.verify(path).damages]
    assert parts == ["items/origin_mm", "volumes/spacing_mm", "volumes/time"]
