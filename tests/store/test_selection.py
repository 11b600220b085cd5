"""Selections choose the right samples; splits keep each patient in one part."""

import csv
import shutil
from itertools import groupby, product
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import fastseg
from fastseg.errors import LinkError, OptionError, UnknownClassError
from fastseg.store import selection, split_table, splits

# Drawn fractions and patients seldom fit; test_folds.py tests the warning.
pytestmark = pytest.mark.filterwarnings("ignore::fastseg.errors.SplitWarning")

CLASSES = ("inner", "outer", "papillary")
SHAPES = ((96, 96), (120, 88))


class Columns(SimpleNamespace):
    """The columns of a store that selections and splits read, made from rows.

    rows : (patient, series, labelled, bucket) of each sample; two or more neighbours of
        one series and bucket are a volume
    """

    def __init__(self, rows):
        patient, series, labelled, bucket = zip(*rows, strict=True)
        volume = []
        count = 0
        for (name, _), group in groupby(zip(series, bucket, strict=True)):
            is_volume = len(slices := list(group)) > 1 and bool(name)
            volume += [count if is_volume else -1] * len(slices)
            count += is_volume
        super().__init__(
            rows=rows,
            classes=CLASSES,
            buckets={
                f"{shape}": SimpleNamespace(shape=shape, name=f"{shape}")
                for shape in SHAPES
            },
            items={
                "row": np.arange(len(rows)),
                "patient": np.array(patient, "S8"),
                "series": np.array(series, "S8"),
                "labelled": np.array(labelled, "u1"),
                "bucket": np.array(bucket, "u2"),
                "volume": np.array(volume, "i8"),
            },
        )

    def __len__(self):
        return len(self.items["row"])


# A series belongs to one patient; the text is empty where it is unknown.
rows = st.tuples(
    st.integers(0, 6), st.integers(0, 2), st.integers(0, 7), st.integers(0, 1)
).map(lambda r: (f"P{r[0]}", f"{r[0]}.{r[1]}" if r[1] else "", r[2], r[3]))
columns = st.lists(rows, min_size=1, max_size=40).map(Columns)
weights = st.lists(st.integers(1, 20), min_size=1, max_size=4)
fractions = weights.map(lambda w: {f"part{k}": x / sum(w) for k, x in enumerate(w)})
units = st.sampled_from(selection.BY)
strata = st.sampled_from([None, *splits.STRATIFY])
seeds = st.integers(0, 2**64 - 1)


def keys_of(store, by):
    """Return the key of each sample's group, by a loop."""
    patient, series = store.items["patient"].tolist(), store.items["series"].tolist()
    if by == "sample":
        return list(range(len(store)))
    if by == "volume":
        volumes = store.items["volume"].tolist()
        return [str(v) if v >= 0 else k for k, v in enumerate(volumes)]
    return (
        patient
        if by == "patient"
        else [s or p for s, p in zip(series, patient, strict=True)]
    )


@given(columns, fractions, units, strata, seeds)
def test_parts_are_a_partition_into_whole_groups(store, parts, by, stratify, seed):
    """Each sample, and each patient or series, is in one part; no part is empty."""
    keys = keys_of(store, by)
    if len(set(keys)) < len(parts):
        with pytest.raises(OptionError, match="each part needs a group of its own"):
            splits.split(store, parts, by=by, seed=seed, stratify=stratify)
        return
    result = splits.split(store, parts, by=by, seed=seed, stratify=stratify)
    assert list(result) == list(parts)
    assert_array_equal(
        np.sort(np.concatenate([*result.values()])), np.arange(len(store))
    )
    for part in result.values():
        assert part.dtype == np.int64
        assert_array_equal(part, np.unique(part))
        assert len(part)
    held = [{keys[index] for index in part.tolist()} for part in result.values()]
    assert sum(map(len, held)) == len(set(keys))


@given(columns, fractions, strata, seeds, st.randoms(use_true_random=False))
def test_a_split_does_not_depend_on_the_order_of_samples(
    store, parts, stratify, seed, random
):
    """Each patient gets the same part, whatever the order of the samples."""
    assume(len(set(keys_of(store, "patient"))) >= len(parts))
    shuffled = [*store.rows]
    random.shuffle(shuffled)
    other = Columns(shuffled)

    def patients(one):
        result = splits.split(one, parts, seed=seed, stratify=stratify)
        return [set(one.items["patient"][part].tolist()) for part in result.values()]

    assert patients(store) == patients(other)


@given(columns, fractions, seeds, st.data())
def test_samples_that_are_not_chosen_are_in_no_part(store, parts, seed, data):
    """A split of chosen samples is the split of a store that holds only these."""
    chosen = data.draw(st.sets(st.integers(0, len(store) - 1), min_size=1))
    alone = Columns([store.rows[k] for k in sorted(chosen)])
    assume(len(set(keys_of(alone, "patient"))) >= len(parts))
    result = splits.split(store, parts, seed=seed, indices=list(chosen))
    expected = splits.split(alone, parts, seed=seed)
    for name, part in result.items():
        assert_array_equal(part, np.array(sorted(chosen))[expected[name]])


@given(st.lists(st.integers(1, 30), min_size=2, max_size=12), fractions, seeds)
def test_no_move_and_no_swap_brings_sizes_nearer(sizes, parts, seed):
    """No move of a patient, and no swap of two, brings parts nearer to fractions."""
    assume(len(sizes) >= len(parts) and max(sizes) > 1)
    store = Columns(
        [(f"P{k}", "", 0, 0) for k, n in enumerate(sizes) for _ in range(n)]
    )
    result = splits.split(store, parts, seed=seed)
    over = {
        name: len(part) - round(parts[name] * len(store))
        for name, part in result.items()
    }
    held = {
        name: np.unique(store.items["patient"][part], return_counts=True)[1]
        for name, part in result.items()
    }
    for one, other in product(result, result):
        if one == other:
            continue
        gap = over[one] - over[other]
        moves = held[one] if len(held[one]) > 1 else np.array([], int)
        for moved in [*moves, *np.subtract.outer(held[one], held[other]).flat]:
            assert moved <= 0 or gap <= moved


@given(st.integers(1, 300), fractions, seeds)
def test_single_samples_are_split_by_largest_remainder(count, parts, seed):
    """Sizes are the rounded fractions, wherever these give each part a sample."""
    assume(count >= len(parts))
    result = splits.split(Columns([("P", "", 0, 0)] * count), parts, by="sample")
    for name, part in result.items():
        exact = parts[name] * count
        smallest = min(parts.values()) * count
        assert smallest < 1 or abs(len(part) - exact) < 1 + 1e-9


@given(columns, fractions, seeds)
def test_parts_get_strata_of_samples_in_proportion(store, parts, seed):
    """Each part gets its fraction of each combination of classes, within a few."""
    assume(len(store) >= len(parts))
    result = splits.split(store, parts, by="sample", seed=seed, stratify="classes")
    for labels in range(8):
        total = (store.items["labelled"] == labels).sum()
        for part in result.values():
            expected = len(part) / len(store) * total
            count = (store.items["labelled"][part] == labels).sum()
            # Parts alternate evenly along the sorted samples, from a random start.
            assert abs(count - expected) <= 2 * (1 + len(parts))


def test_parts_get_strata_of_patients_in_proportion():
    """60 patients with 4 diagnoses and 5 to 39 images each are split in proportion."""
    random = np.random.default_rng(7)
    patient = np.repeat(np.arange(60), random.integers(5, 40, 60))
    random.shuffle(patient)
    diagnosis = np.array(["HF-I", "HF-NI", "HYP", "N"])[patient % 4]
    labelled = np.where(patient % 3 == 0, random.integers(0, 8, len(patient)), 1)
    store = Columns(
        [(f"P{p}", "", c, 0) for p, c in zip(patient, labelled, strict=True)]
    )
    parts = {"train": 0.7, "val": 0.15, "test": 0.15}
    result = splits.split(store, parts, stratify=diagnosis)
    for name, part in result.items():
        assert abs(len(part) / len(store) - parts[name]) < 0.01
        for kind in np.unique(diagnosis):
            fraction = (diagnosis[part] == kind).sum() / (diagnosis == kind).sum()
            assert abs(fraction - parts[name]) < 0.05
    result = splits.split(store, parts, stratify="classes")
    for name, part in result.items():
        for k in range(3):
            labelled = selection.has_class(store.items["labelled"], k)
            assert abs(labelled[part].sum() / labelled.sum() - parts[name]) < 0.05


def test_no_patient_is_tied_to_a_part():
    """Over 400 seeds, each of 10 patients is in the smaller part about 120 times."""
    store = Columns([(f"P{k}", "", 0, 0) for k in range(10) for _ in range(3 * k + 3)])
    parts = {"train": 0.7, "val": 0.3}
    times = np.zeros(10)
    for seed in range(400):
        val = splits.split(store, parts, seed=seed)["val"]
        times[[int(p[1:]) for p in set(store.items["patient"][val].tolist())]] += 1
    assert times.min() > 60
    assert times.max() < 200


def test_splits_never_change_between_versions():
    """A seed gives the same split in every version, so a published split stays true."""
    store = Columns([(f"P{k}", "", k, 0) for k in range(7) for _ in range(k + 1)])
    result = splits.split(store, {"train": 0.6, "val": 0.4}, seed=3)
    patients = set(store.items["patient"][result["val"]].tolist())
    assert sorted(patients) == [b"P0", b"P1", b"P2", b"P4"]
    result = splits.split(store, {"train": 0.8, "val": 0.2}, by="sample", seed=3)
    assert result["val"].tolist() == [2, 9, 11, 14, 18, 27]
    store = Columns([("P", f"{k}", 0, 0) for k in range(9) for _ in range(k + 1)])
    result = splits.split(store, {"train": 0.8, "val": 0.2}, by="volume", seed=3)
    assert set(store.items["series"][result["val"]].tolist()) == {b"0", b"7"}


def test_extreme_fractions_leave_no_part_empty():
    """A part of a thousandth of three patients still gets one."""
    parts = {"train": 0.998, "val": 0.001, "test": 0.001}
    for by, copies in (("patient", 5), ("sample", 1)):
        store = Columns([(f"P{k}", "", 0, 0) for k in range(3) for _ in range(copies)])
        result = splits.split(store, parts, by=by)
        assert [len(part) for part in result.values()] == [copies] * 3


def test_a_split_without_changes_is_a_partition(monkeypatch):
    """Where MOST_CHANGES forbids moves and swaps, each sample is still in one part."""
    monkeypatch.setattr(splits, "MOST_CHANGES", 0)
    store = Columns([(f"P{k}", "", 0, 0) for k in range(9) for _ in range(k + 1)])
    result = splits.split(store, {"a": 0.5, "b": 0.5})
    assert sorted(np.concatenate([*result.values()])) == list(range(len(store)))


def test_a_split_is_checked_before_it_is_returned(monkeypatch):
    """If a sample were lost, `split` would raise an error and return no parts."""
    monkeypatch.setattr(splits, "assign_groups", lambda *_: np.array([0, 1, 2]))
    store = Columns([(f"P{k}", "", 0, 0) for k in range(3)])
    with pytest.raises(OptionError, match="do not hold exactly the samples"):
        splits.split(store, {"a": 0.5, "b": 0.5})


def test_samples_without_a_series_stay_together_by_patient():
    """Without SeriesInstanceUID, all samples of a patient count as one series."""
    store = Columns([("P1", "", 0, 0), ("P2", "", 0, 0), ("P1", "", 0, 0)])
    result = splits.split(store, {"a": 0.7, "b": 0.3}, by="series")
    assert {name: part.tolist() for name, part in result.items()} == {
        "a": [0, 2],
        "b": [1],
    }


def test_check_split_refuses_parts_that_overlap(store):
    """Parts that share a sample or a patient, or that lack samples, are refused."""
    with pytest.raises(OptionError, match=r"share 1 of their groups \(by sample\)"):
        fastseg.check_split(store, {"a": [0, 1], "b": [1, 2]}, by="sample")
    with pytest.raises(OptionError, match=r"share 2 of their groups \(by patient\)"):
        fastseg.check_split(store, {"a": [0, 8], "b": [1, 9], "c": [2, 16]})
    with pytest.raises(OptionError, match="do not hold exactly"):
        fastseg.check_split(store, {"a": [0], "b": [8]}, indices=[0, 8, 9])
    fastseg.check_split(store, {"a": [0], "b": [1]}, by="sample")
    fastseg.check_split(store, {})


def matching(store, condition):
    """Return the indices of samples that meet a condition, by a loop."""
    return [k for k, sample in enumerate(store) if condition(sample)]


def test_conditions_choose_what_a_loop_chooses(store):
    """Each condition, and all together, select the samples that a loop selects."""
    inner = matching(store, lambda s: "icontour" in s.contours)
    both = matching(store, lambda s: {"icontour", "ocontour"} <= set(s.contours))
    assert 0 < len(both) < len(inner)
    assert_array_equal(store.select(), np.arange(32))
    assert_array_equal(store.select(classes="icontour"), inner)
    assert_array_equal(store.select(classes=["icontour", "ocontour"]), both)
    either = store.select(classes=["icontour", "ocontour"], match="any")
    assert_array_equal(either, inner)
    pixels = [sample.meta["pixels"][0] for sample in store]
    limit = sorted(pixels)[16]
    assert_array_equal(
        store.select(classes="icontour", min_pixels=limit),
        [k for k in inner if pixels[k] >= limit],
    )
    wanted = ["PHANTOM0003", "PHANTOM0001"]
    of_patients = matching(store, lambda s: s.patient in wanted)
    assert_array_equal(store.select(patients=wanted), of_patients)
    uid = store[9].meta["series"]
    of_series = matching(store, lambda s: s.meta["series"] == uid)
    assert_array_equal(store.select(series=uid), of_series)
    assert_array_equal(
        store.select(shape=(120, 88)),
        matching(store, lambda s: s.image.shape == (120, 88)),
    )
    assert_array_equal(
        store.select(shape=96), matching(store, lambda s: s.image.shape == (96, 96))
    )
    together = store.select(
        classes="ocontour", patients=wanted, shape=96, indices=[31, 3, 17, 0, 1]
    )
    assert_array_equal(together, sorted({0, 1, 3, 17, 31} & set(both) & {*of_patients}))
    nothing = store.select(classes="icontour", min_pixels=10**6)
    assert (nothing.dtype, len(nothing)) == (np.int64, 0)


@pytest.mark.parametrize(
    ("conditions", "text"),
    [
        ({"classes": []}, "classes is .*, expected one name or several"),
        ({"classes": [3]}, "expected one name or several"),
        ({"classes": "icontour", "match": "al"}, "did you mean 'all'"),
        ({"classes": "icontour", "min_pixels": -1}, "min_pixels is -1, expected 0 to"),
        ({"classes": "icontour", "min_pixels": 1.5}, "expected a whole number"),
        ({"min_pixels": 4}, "without classes"),
        ({"patients": "PHANTOM0009"}, "patient is 'PHANTOM0009', expected one of"),
        ({"series": ["1.2"]}, "series is '1.2', expected one of"),
        ({"shape": (96, 97)}, "did you mean '96x96'"),
        ({"shape": "96x96"}, "expected \\(height, width\\)"),
        ({"shape": (96, 96, 1)}, "expected \\(height, width\\)"),
        ({"in_volume": "yes"}, "in_volume is 'yes', expected True or False"),
        ({"volumes": 8}, "volumes is 8, expected 0 to 7"),
        ({"volumes": [0, -1]}, "volumes is -1, expected 0 to 7"),
        ({"volumes": []}, "volumes is .*, expected one number or several"),
        ({"volumes": "1"}, "volumes is '1', expected a whole number"),
        ({"volumes": [True]}, "volumes is True, expected a whole number"),
        ({"indices": [32]}, "expected 0 to 31"),
        ({"indices": [5, -1]}, "indices are -1 to 5"),
        ({"indices": [5, 4, 5]}, "name sample 5 twice"),
        ({"indices": [0.5]}, "expected a list of whole numbers"),
        ({"indices": np.ones(32, bool)}, "np.flatnonzero"),
        ({"indices": 3}, "expected a list of whole numbers"),
    ],
)
def test_invalid_conditions_are_refused(store, conditions, text):
    """An OptionError says what came and what was expected."""
    with pytest.raises(OptionError, match=text):
        store.select(**conditions)


def test_an_unknown_class_is_refused_in_a_selection(store):
    """The error is the same as from all functions that take a class."""
    with pytest.raises(UnknownClassError, match="did you mean 'icontour'"):
        store.select(classes=["icontor"])


def test_an_error_does_not_list_many_patients():
    """With more than 20 patients, the error gives only their number."""
    store = Columns([(f"P{k}", "", 0, 0) for k in range(21)])
    with pytest.raises(OptionError, match="none of the 21 that the store") as caught:
        selection.select(store, patients="P21")
    assert "P20" not in str(caught.value)


@pytest.mark.parametrize(
    ("parts", "options", "text"),
    [
        ({"a": 0.5, "b": 0.4}, {}, "sum to 0.9, expected 1 within"),
        ({}, {}, "expected the fraction of each part"),
        ({"a": 1.5, "b": -0.5}, {}, "part a is 1.5, expected above 0"),
        ({"a": 1, "b": 0}, {}, "part b is 0, expected above 0"),
        ({"a": float("nan")}, {}, "part a is nan"),
        ({"a": "1"}, {}, "part a is '1'"),
        ({" a": 1}, {}, "named ' a', expected a word"),
        ({1: 1}, {}, "named 1, expected a word"),
        ({"a": 1}, {"by": "patients"}, "did you mean 'patient'"),
        ({"a": 1}, {"seed": -1}, "seed is -1, expected 0 to"),
        ({"a": 1}, {"seed": 0.5}, "seed is 0.5, expected a whole number"),
        ({"a": 1}, {"stratify": "class"}, "did you mean 'classes'"),
        ({"a": 1}, {"stratify": [1, 2]}, "each of the store's 32 samples"),
        ({"a": 1}, {"stratify": [None] * 32}, "expected numbers or text"),
        ({"a": 1}, {"indices": []}, "1 parts of 0 samples in 0 groups"),
        (dict.fromkeys("abcde", 0.2), {}, "5 parts of 32 samples in 4 groups"),
    ],
)
def test_invalid_splits_are_refused(store, parts, options, text):
    """An OptionError says what came and what was expected."""
    with pytest.raises(OptionError, match=text):
        store.split(parts, **options)


def test_too_many_strata_are_refused():
    """A column with more than 64 different values is refused."""
    store = Columns([("P", "", 0, 0)] * 65)
    with pytest.raises(OptionError, match="65 different values, expected at most 64"):
        splits.split(store, {"a": 1}, stratify=np.arange(65))


def test_thirds_may_be_typed():
    """Fractions whose sum differs from 1 in the last typed digit are accepted."""
    store = Columns([(f"P{k}", "", 0, 0) for k in range(9)])
    result = splits.split(store, dict.fromkeys("abc", 0.333333))
    assert [len(part) for part in result.values()] == [3, 3, 3]


@pytest.fixture
def table(store, tmp_path):
    """The CSV file of a split of the store."""
    parts = store.split({"train": 0.75, "val": 0.25}, seed=1)
    return fastseg.write_split(tmp_path / "deep" / "splits.csv", store, parts)


def test_a_split_is_read_as_it_was_written(store, table):
    """Parts keep order, names and samples; the rows hold the metadata of the store."""
    parts = store.split({"train": 0.75, "val": 0.25}, seed=1)
    again = fastseg.read_split(table, store)
    assert list(again) == ["train", "val"]
    for name, part in parts.items():
        assert again[name].dtype == np.int64
        assert_array_equal(again[name], part)
    with table.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == split_table.COLUMNS
    assert [int(line["index"]) for line in lines] == [*parts["train"], *parts["val"]]
    for line in lines:
        meta = store[int(line["index"])].meta
        for name in ("source", "frame", "patient", "series", "instance"):
            assert line[name] == str(meta[name])
        assert int(line["image_xxh3"], 16) == meta["image_xxh3"]
        assert (line["by"], line["store"]) == ("patient", store.fingerprint[:16])
    assert not list(table.parent.glob("*.partial"))


def test_a_split_fits_a_store_that_was_built_anew(store, table, sample_study, tmp_path):
    """Other masks change no image: the same samples are found at their new indices."""
    path = tmp_path / "other.h5"
    links = fastseg.link(sample_study, labels=["icontour"])
    fastseg.build(links, path, edges="closed")
    other = fastseg.open(path)
    assert other.fingerprint != store.fingerprint
    for name, part in fastseg.read_split(table, other).items():
        mine = fastseg.read_split(table, store)[name]
        sums = [s.items["image_xxh3"] for s in (store, other)]
        assert_array_equal(sums[0][mine], sums[1][part])


def test_a_split_of_another_store_is_refused(table, small_study, tmp_path):
    """The error names the line, its image file and both stores."""
    fastseg.build(fastseg.link(small_study), tmp_path / "other.h5")
    other = fastseg.open(tmp_path / "other.h5")
    text = r"splits\.csv, line 2: frame 0 of dicoms/\S+ is not in other\.h5"
    with pytest.raises(OptionError, match=text) as caught:
        fastseg.read_split(table, other)
    assert other.fingerprint[:16] in str(caught.value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda t: t.replace("\nval,", "\ntrain,", 1).replace(
                "\ntrain,", "\nval,", 1
            ),
            r"share \d of their groups \(by patient\)",
        ),
        (lambda t: t + t.splitlines()[-1] + "\n", "name sample \\d+ twice"),
        (
            lambda t: t.replace(",patient,", ",people,").replace(
                ",people,", ",patient,", 1
            ),
            "by is 'people'",
        ),
        (lambda t: t + "train,1\n", "line 34: the row has 2 fields"),
        (lambda t: t.splitlines()[0], "names no sample"),
        (lambda t: t.replace("\ntrain,", "\n,", 1), r"line \d+: names no part"),
    ],
)
def test_a_damaged_table_is_refused(store, table, change, text):
    """A patient in two parts, a repeated, short or nameless row is an error."""
    table.write_text(change(table.read_text()))
    with pytest.raises(OptionError, match=text):
        fastseg.read_split(table, store)


def test_a_file_that_is_not_a_split_is_refused(store, tmp_path):
    """Another table raises LinkError, a missing file FileNotFoundError."""
    (tmp_path / "links.csv").write_text("patient,dicom_path\n")
    with pytest.raises(LinkError, match="no column part, index"):
        fastseg.read_split(tmp_path / "links.csv", store)
    with pytest.raises(FileNotFoundError):
        fastseg.read_split(tmp_path / "none.csv", store)


def test_a_split_that_a_spreadsheet_has_saved_is_read(store, table):
    """Semicolons may separate the columns."""
    expected = fastseg.read_split(table, store)
    assert ";" not in table.read_text()
    table.write_text("sep=;\n" + table.read_text().replace(",", ";"))
    for name, part in fastseg.read_split(table, store).items():
        assert part.tolist() == expected.pop(name).tolist()
    assert not expected


@pytest.mark.parametrize("name", ["part", "Part", "note", ""])
def test_a_table_with_another_column_is_refused(store, table, name):
    """A column that is there twice or is not ours says nothing of any sample."""
    header, *rows = table.read_text().splitlines()
    lines = [f"{header},{name}", *(f"{row},x" for row in rows)]
    table.write_text("\n".join(lines))
    kind = "a doubled column part" if name.lower() == "part" else "an unknown column"
    with pytest.raises(LinkError, match=kind):
        fastseg.read_split(table, store)


def test_only_a_valid_split_is_written(store, tmp_path):
    """A patient in two parts, an empty part or a part without a name leaves no file."""
    for parts, text in (
        ({"a": [0], "b": [1]}, "share 1"),
        ({"a": [0], "b": []}, "part 'b' has 0 samples"),
        ({" ": [0]}, "needs a name"),
    ):
        with pytest.raises(OptionError, match=text):
            fastseg.write_split(tmp_path / "splits.csv", store, parts)
    assert not list(tmp_path.iterdir())


def test_a_store_that_was_cut_is_not_read(store, tmp_path):
    """Selections and splits check the size of the file before they read it."""
    path = shutil.copy(store.path, tmp_path / "cut.h5")
    opened = fastseg.open(path)
    with path.open("r+b") as file:
        file.truncate(10_000)
    for call in (opened.select, lambda: opened.split({"a": 1})):
        with pytest.raises(fastseg.errors.StoreError, match="truncated"):
            call()


def test_sources_that_differ_only_by_spaces_are_refused(study, tmp_path):
    """A table strips names, so it cannot find samples of a store that has both."""
    names = ("a.dcm", "b.dcm")
    for name in names:
        shutil.copy(next(study.rglob("*.dcm")), study / name)
    table = fastseg.LinkTable(
        base=study, links=[fastseg.Link("P", name) for name in names]
    )
    path = fastseg.build(table, tmp_path / "s.h5").path
    with h5py.File(path, "r+") as file:  # as only a damaged store can have it
        file["sources/path"][:] = [b"a.dcm", b"a.dcm "]
    opened = fastseg.open(path)
    split = fastseg.write_split(tmp_path / "p.csv", opened, {"a": [1]})
    with pytest.raises(OptionError, match=r"s\.h5: two samples have the same source"):
        fastseg.read_split(split, opened)


def test_texts_of_a_split_are_safe_in_a_spreadsheet(study, tmp_path):
    """No cell begins like a formula or has control characters, and it is read again."""
    names = ("=1.dcm", "'@2.dcm")
    for image, name in zip(study.rglob("*.dcm"), names, strict=False):
        shutil.copy(image, study / name)
    links = map(fastseg.Link, ("+P", "-Q"), names)
    table = fastseg.LinkTable(base=study, links=links)
    path = fastseg.build(table, tmp_path / "s.h5").path
    with h5py.File(path, "r+") as file:  # as only a damaged store can have it
        file["items/patient"][1] = b"-\x1b"
    opened = fastseg.open(path)
    parts = {"-train": [0], "@val": [1]}
    split = fastseg.write_split(tmp_path / "p.csv", opened, parts)
    with split.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["part"] for row in rows] == ["'-train", "'@val"]
    assert [row["source"] for row in rows] == ["'=1.dcm", "''@2.dcm"]
    assert [row["patient"] for row in rows] == ["'+P", r"'-\x1b"]
    again = fastseg.read_split(split, opened)
    assert {name: part.tolist() for name, part in again.items()} == parts
    with pytest.raises(OptionError, match="control characters"):
        fastseg.write_split(tmp_path / "p.csv", opened, {"a\x1b": [0, 1]})
