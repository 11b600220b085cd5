"""Several files read as one store: the same as one file that holds all samples."""

import gc
import os
import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastseg
from fastseg import Loader, PatchLoader
from fastseg.augment import Affine, Elastic, Flip, Noise
from fastseg.errors import OptionError, OutputError, StateError, StoreError
from fastseg.links import LinkTable
from fastseg.store.layout import TABLES

AUGMENT = [Flip(), Affine(rotate=20, scale=(0.8, 1.2)), Elastic(magnitude=2)]
OPTIONS = {"batch_size": 5, "size": 64, "seed": 3, "missing": "background"}
LOADERS = {
    "plain": {},
    "exact": {"augment": [*AUGMENT, Noise(std=0.1)], "labels": "exact"},
    "nearest": {"augment": AUGMENT, "labels": "nearest", "masks": "onehot"},
    "foreground": {"normalize": "foreground"},
    "raw": {"dtype": "raw", "masks": "bits", "missing": None},
    "neighbours": {"neighbours": 1, "masks_of": "all"},
    "together": {"together": "patient", "normalize": "percentile"},
}


def of_patients(table, patients):
    links = [link for link in table.links if link.patient in patients]
    return LinkTable(base=table.base, links=links)


@pytest.fixture(scope="module")
def built(sample_study, tmp_path_factory):
    """A store of all patients, and three that have one, one and two of them."""
    folder = tmp_path_factory.mktemp("concat")
    table = fastseg.link(sample_study)
    names = sorted({link.patient for link in table.links})
    paths = []
    for k, some in enumerate((names, names[:1], names[1:2], names[2:])):
        paths.append(folder / f"{k}.h5")
        fastseg.build(of_patients(table, some), paths[-1])
    return paths


@pytest.fixture(scope="module")
def compressed(built, sample_study):
    path = built[0].parent / "compressed.h5"
    table = fastseg.link(sample_study)
    names = sorted({link.patient for link in table.links})
    fastseg.build(of_patients(table, names[1:2]), path, compress=True)
    return path


@pytest.fixture
def whole(built):
    return fastseg.open(built[0])


@pytest.fixture
def parts(built):
    return fastseg.concat(built[1:])


def assert_same_batches(one, other):
    for expected, batch in zip(one, other, strict=True):
        assert_array_equal(batch.index, expected.index)
        assert_array_equal(batch.image, expected.image)
        assert_array_equal(batch.mask, expected.mask)


@pytest.mark.parametrize("table", TABLES)
def test_columns_equal_those_of_one_file(whole, parts, table):
    assert list(parts.tables[table]) == list(whole.tables[table])
    for name, column in whole.tables[table].items():
        if (table, name) != ("items", "row"):  # that in its file
            assert_array_equal(parts.tables[table][name], column)
            assert parts.tables[table][name].dtype.kind == column.dtype.kind
            assert not parts.tables[table][name].flags.writeable


def test_samples_equal_those_of_one_file(whole, parts):
    assert len(parts) == len(whole)
    for expected, sample in zip(whole, parts, strict=True):
        assert_array_equal(sample.image, expected.image)
        assert_array_equal(sample.mask, expected.mask)
        assert {**sample.meta, "row": 0, "spacing_mm": 0} == {
            **expected.meta,
            "row": 0,
            "spacing_mm": 0,
        }
        assert sample.contours.keys() == expected.contours.keys()
        for name, rings in expected.contours.items():
            for ring, other in zip(rings, sample.contours[name], strict=True):
                assert_array_equal(ring, other)


def test_volumes_equal_those_of_one_file(whole, parts):
    assert len(parts.volumes) == len(whole.volumes) > 0
    for expected, volume in zip(whole.volumes, parts.volumes, strict=True):
        assert volume.samples == expected.samples
        assert_array_equal(volume.image, expected.image)
        assert_array_equal(volume.mask, expected.mask)
        assert_array_equal(volume.affine, expected.affine)
        assert (volume.patient, volume.series) == (expected.patient, expected.series)


def test_summary_selections_and_splits_equal_those_of_one_file(whole, parts, tmp_path):
    differ = {"path", "bytes", "fingerprint"}
    summary = parts.summary()
    assert {k for k, value in whole.summary().items() if summary[k] != value} == differ
    assert summary["bytes"] == sum(path.stat().st_size for path in parts.paths)
    assert parts.patients == whole.patients
    for options in ({"classes": "icontour"}, {"patients": whole.patients[-1]}):
        assert_array_equal(parts.select(**options), whole.select(**options))
    split = parts.split({"train": 0.5, "val": 0.5}, stratify="classes")
    expected = whole.split({"train": 0.5, "val": 0.5}, stratify="classes")
    for name, samples in expected.items():
        assert_array_equal(split[name], samples)
    # A table of a split fits both.
    fastseg.write_split(tmp_path / "split.csv", parts, split)
    for name, samples in fastseg.read_split(tmp_path / "split.csv", whole).items():
        assert_array_equal(split[name], samples)
    assert len(fastseg.check(parts)) == len(fastseg.check(whole))


@pytest.mark.parametrize("name", LOADERS)
def test_batches_equal_those_of_one_file(whole, parts, name):
    options = {**OPTIONS, **LOADERS[name]}
    size = whole.buckets[next(reversed(whole.buckets))].shape
    options["indices"] = whole.select(shape=size)
    assert_same_batches(Loader(whole, **options), Loader(parts, **options))


@pytest.mark.parametrize("augment", [None, AUGMENT[:2]])
def test_patches_equal_those_of_one_file(whole, parts, augment):
    options = {"batch_size": 3, "patch": (2, 40, 40), "missing": "background"}
    options |= {"augment": augment, "seed": 1, "per_volume": 2}
    one, other = (PatchLoader(store, **options) for store in (whole, parts))
    for expected, batch in zip(one, other, strict=True):
        assert_array_equal(batch.image, expected.image)
        assert_array_equal(batch.mask, expected.mask)
        assert_array_equal(batch.corner, expected.corner)


def test_samples_of_several_files_are_one_stack(parts):
    name = next(
        n for n in parts.buckets if sum(n in f.buckets for f in parts.files) > 1
    )
    number = list(parts.buckets).index(name)
    samples = np.flatnonzero(parts.items["bucket"] == number)[::-1].copy()
    assert len({parts.path_of(sample) for sample in samples.tolist()}) > 1
    (stack,) = parts.stacks(samples)
    for row, sample in zip(stack.rows, samples.tolist(), strict=True):
        assert_array_equal(stack.images[row], parts[sample].image)
        assert_array_equal(stack.masks[row], parts[sample].mask)
    assert not stack.images.flags.writeable
    assert not stack.masks.flags.writeable
    parts.release()
    assert_array_equal(stack.images[stack.rows[0]], parts[samples[0]].image)
    assert_array_equal(stack.masks[stack.rows[0]], parts[samples[0]].mask)


def test_arrays_that_cannot_be_joined_are_stacks_of_their_own(
    whole, parts, monkeypatch
):
    monkeypatch.setattr("fastseg.store.joined_map.MOST_RESERVED", 0)
    loaders = (Loader(store, **OPTIONS, augment=AUGMENT) for store in (whole, parts))
    assert_same_batches(*loaders)
    assert len(list(parts.stacks(np.arange(len(parts))))) > len(parts.buckets)


def test_compressed_and_plain_files_are_read_together(built, compressed, whole):
    mixed = fastseg.concat([built[1], compressed, built[3]])
    assert mixed.compression == "zstd"
    assert mixed.compression_ratio > 1
    for name in ("plain", "exact", "neighbours"):
        options = {**OPTIONS, **LOADERS[name]}
        assert_same_batches(Loader(whole, **options), Loader(mixed, **options))
    assert_array_equal(mixed.volumes[2].image, whole.volumes[2].image)


def test_a_loader_resumes_and_is_pickled(parts, built):
    loader = Loader(parts, **OPTIONS)
    batches = iter(loader)
    next(batches)
    state, copy = loader.state_dict(), pickle.loads(pickle.dumps(loader))
    rest = [(batch.index.copy(), batch.image.copy()) for batch in batches]
    resumed = Loader(fastseg.concat(built[1:]), **OPTIONS)
    resumed.load_state_dict(state)
    copy.load_state_dict(state)
    for again in (copy, resumed):
        for (index, image), batch in zip(rest, again, strict=True):
            assert_array_equal(batch.index, index)
            assert_array_equal(batch.image, image)
    # In another order, the samples have other numbers.
    with pytest.raises(StateError, match="store is"):
        Loader(fastseg.concat(built[:0:-1]), **OPTIONS).load_state_dict(state)


def test_one_store_and_open_stores_may_be_given(whole, built):
    one = fastseg.concat([whole])
    assert repr(one).startswith("<ConcatStore 0.h5: 32 samples of 4 patients")
    assert_same_batches(Loader(whole, **OPTIONS), Loader(one, **OPTIONS))
    assert len(fastseg.concat(fastseg.open(path) for path in built[1:])) == 32


def test_a_patient_in_two_files_is_one(sample_study, tmp_path):
    table = fastseg.link(sample_study)
    patient = table.links[0].patient
    images = sorted(
        {link.dicom_path for link in table.links if link.patient == patient}
    )
    for k, some in enumerate((images[::2], images[1::2])):
        links = [link for link in table.links if link.dicom_path in some]
        fastseg.build(LinkTable(base=table.base, links=links), tmp_path / f"{k}.h5")
    parts = fastseg.concat([tmp_path / "0.h5", tmp_path / "1.h5"])
    assert parts.patients == (patient,)
    with pytest.raises(OptionError, match="2 parts of 8 samples in 1 groups"):
        parts.split({"train": 0.5, "val": 0.5})


def test_sources_of_one_path_that_differ_get_the_name_of_their_store(tmp_path):
    for k, folder in enumerate(("a", "b")):
        root = fastseg.make_phantom(
            tmp_path / f"study{k}", patients=1, sizes=(40,), slices=2, phases=2, seed=k
        )
        (tmp_path / folder).mkdir()
        fastseg.build(fastseg.link(root), tmp_path / folder / "site.h5")
    parts = fastseg.concat([tmp_path / "a" / "site.h5", tmp_path / "b" / "site.h5"])
    paths = [sample.meta["source"] for sample in parts]
    own = [sample.meta["source"] for file in parts.files for sample in file]
    count = len(parts.files[0])
    assert paths[:count] == [f"a/site.h5/{path}" for path in own[:count]]
    assert paths[count:] == [f"b/site.h5/{path}" for path in own[count:]]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([], "stores is empty"),
        ("a.h5", "expected a list of stores or paths"),
        (Path("a.h5"), "expected a list of stores or paths"),
        (None, "expected a list of stores or paths"),
        ([7], "store is 7, expected a Store"),
    ],
)
def test_what_is_no_list_of_stores_is_refused(given, text):
    with pytest.raises(OptionError, match=text):
        fastseg.concat(given)


def test_stores_of_other_classes_or_options_are_refused(built, sample_study, tmp_path):
    table = fastseg.link(sample_study)
    links = [link for link in table.links if link.label == "icontour"]
    fastseg.build(LinkTable(base=table.base, links=links), tmp_path / "classes.h5")
    with pytest.raises(OptionError, match=r"classes are .*1\.h5, but .*classes\.h5"):
        fastseg.concat([built[1], tmp_path / "classes.h5"])
    fastseg.build(table, tmp_path / "options.h5", edges="closed")
    with pytest.raises(OptionError, match=r"edges is 'half-open' in .*options\.h5"):
        fastseg.concat([built[1], tmp_path / "options.h5"])


def test_the_same_samples_twice_are_refused(built, parts, tmp_path):
    (tmp_path / "link.h5").symlink_to(built[1])
    os.link(built[1], tmp_path / "hard.h5")
    shutil.copy(built[1], tmp_path / "copy.h5")
    opened = fastseg.open(built[1])
    for other in (built[1], opened, *sorted(tmp_path.iterdir())):
        with pytest.raises(OptionError, match="same samples"):
            fastseg.concat([opened, built[2], other])
    with pytest.raises(OptionError, match="several files"):
        fastseg.concat([parts])


def test_a_file_of_another_version_is_refused(built, tmp_path):
    path = shutil.copy(built[2], tmp_path / "old.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 1
    with pytest.raises(StoreError, match=r"old\.h5: has version 1"):
        fastseg.concat([built[1], path])


def test_a_file_that_changes_while_it_is_open_is_noticed(built, tmp_path, monkeypatch):
    monkeypatch.setattr("fastseg.store.concat.SECONDS_PER_FILE", 0)
    paths = [Path(shutil.copy(path, tmp_path)) for path in built[1:]]
    parts = fastseg.concat(paths)
    loader = Loader(parts, **OPTIONS)
    next(iter(loader))
    os.utime(paths[1], ns=(0, 0))
    assert parts.state == "changed"
    for read in (
        parts.check,
        lambda: parts[len(parts.files[0])],
        lambda: list(loader),
        lambda: parts.check_files(np.arange(len(parts))),
        lambda: pickle.dumps(parts),
    ):
        with pytest.raises(StoreError, match=r"2\.h5: was changed"):
            read()
    # Samples of the other files do not need it.
    parts.check_files(np.arange(len(parts.files[0])))
    assert_array_equal(parts[0].image, parts.files[0][0].image)


def test_a_change_is_noticed_at_the_end_of_an_epoch(built, tmp_path, monkeypatch):
    """However seldom files are looked at, an epoch that ends used no changed bytes."""
    monkeypatch.setattr("fastseg.store.concat.SECONDS_PER_FILE", 1e6)
    paths = [Path(shutil.copy(path, tmp_path)) for path in built[1:]]
    parts = fastseg.concat(paths)
    loader = Loader(parts, **OPTIONS)
    count = 0
    with pytest.raises(StoreError, match=r"2\.h5: was changed"):  # noqa: PT012
        for _ in loader:
            count += 1
            os.utime(paths[1], ns=(count, count))
    assert count == len(loader) - 1
    # Where it takes long to make a batch, the next one tells.
    monkeypatch.setattr("fastseg.store.concat.SECONDS_PER_FILE", 0)
    batches = iter(Loader(fastseg.concat(paths), **OPTIONS, threads=1, prefetch=1))
    next(batches)
    os.utime(paths[1], ns=(0, 0))
    with pytest.raises(StoreError, match=r"2\.h5: was changed"):
        next(batches)


def test_rings_that_cannot_be_joined_are_copied(whole, parts, monkeypatch):
    """Batches and contours are the same where vertices cannot be mapped as one."""
    samples = np.arange(len(parts))[::-3].copy()
    joined = parts.rings(samples)
    monkeypatch.setattr("fastseg.store.joined_map.MOST_RESERVED", 0)
    copied = fastseg.concat(parts.paths).rings(samples)
    contours, ranges = whole.rings(samples)
    for columns, rows in (joined, copied):
        for (low, high), (start, stop) in zip(rows, ranges, strict=True):
            for name in ("class", "group"):
                assert_array_equal(columns[name][low:high], contours[name][start:stop])
            bounds = columns["offsets"][low : high + 1]
            own = contours["offsets"][start : stop + 1]
            assert_array_equal(np.diff(bounds), np.diff(own))
            points = columns["points"][bounds[0] : bounds[-1]]
            assert_array_equal(points, contours["points"][own[0] : own[-1]])
        assert not any(column.flags.writeable for column in columns.values())


def test_verify_says_to_verify_each_file(parts):
    with pytest.raises(OptionError, match="one by one"):
        fastseg.verify(parts)
    with pytest.raises(StoreError, match="files"):
        parts.images  # noqa: B018
    with pytest.raises(StoreError, match="files"):
        parts.open_file()


def test_no_file_is_replaced_by_an_output(parts):
    split = parts.split({"a": 0.5, "b": 0.5})
    with pytest.raises(OutputError, match="that is read"):
        fastseg.write_split(parts.paths[2], parts, split, force=True)


def maps_of(path):
    return Path("/proc/self/maps").read_text().count(str(path))


def test_close_gives_all_files_back(built, tmp_path):
    paths = [Path(shutil.copy(path, tmp_path)) for path in built[1:]]
    with fastseg.concat(paths) as parts:
        sample, loader = parts[0], Loader(parts, **OPTIONS)
        next(iter(loader))
        if Path("/proc/self/maps").exists():
            assert maps_of(tmp_path) > len(paths)
    gc.collect()
    if Path("/proc/self/maps").exists():
        assert maps_of(tmp_path) == 0
    assert parts.is_closed
    for read in (
        lambda: parts.items,
        lambda: parts[0],
        lambda: sample.image,
        lambda: sample.contours,
        lambda: next(iter(loader)),
        lambda: parts.stacks(np.arange(2)),
        lambda: parts.read_ahead(np.arange(2)),
        lambda: parts.release(),
        lambda: parts.check_files(np.arange(2)),
    ):
        with pytest.raises(StoreError, match="closed"):
            read()
    assert "closed" in repr(parts)


def test_a_store_that_nothing_refers_to_is_freed_at_once(built, tmp_path):
    paths = [Path(shutil.copy(path, tmp_path)) for path in built[1:]]
    gc.disable()
    try:
        parts = fastseg.concat(paths)
        list(parts.stacks(np.arange(len(parts))))
        items = parts.items
        del parts
        assert len(items["patient"]) == 32
        del items
        if Path("/proc/self/maps").exists():
            assert maps_of(tmp_path) == 0
    finally:
        gc.enable()
