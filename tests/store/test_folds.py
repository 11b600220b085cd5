"""Folds for cross-validation, and the warning of parts far from their fractions."""

import warnings

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import fastseg
from fastseg.errors import OptionError, SplitWarning
from fastseg.store import splits
from tests.store.test_selection import Columns, columns, keys_of, seeds, strata, units

quiet = pytest.mark.filterwarnings("ignore::fastseg.errors.SplitWarning")


def study(sizes):
    """Return a store of patients with these numbers of samples."""
    return Columns([(f"P{k}", "", 0, 0) for k, n in enumerate(sizes) for _ in range(n)])


def patients(store, part):
    return set(store.items["patient"][part].tolist())


@quiet
@given(columns, st.integers(2, 6), units, strata, seeds)
def test_folds_are_a_partition_into_whole_groups(store, count, by, stratify, seed):
    """Each sample is in one fold, each patient or series too, and no fold is empty."""
    keys = keys_of(store, by)
    options = {"by": by, "seed": seed, "stratify": stratify}
    assume(count <= len(store))
    if len(set(keys)) < count:
        with pytest.raises(OptionError, match="each fold needs a group of its own"):
            splits.split_folds(store, count, **options)
        return
    folds = splits.split_folds(store, count, **options)
    assert list(folds) == [f"fold{k}" for k in range(count)]
    samples = np.concatenate([*folds.values()])
    assert_array_equal(np.sort(samples), np.arange(len(store)))
    held = [{keys[index] for index in fold.tolist()} for fold in folds.values()]
    assert sum(map(len, held)) == len(set(keys))
    assert all(held)
    again = splits.split_folds(store, count, **options)
    assert all(map(np.array_equal, folds.values(), again.values()))


@quiet
@given(st.lists(st.integers(1, 30), min_size=2, max_size=15), st.integers(2, 6), seeds)
def test_folds_differ_by_at_most_the_largest_patient(sizes, count, seed):
    """No two folds differ by more samples than one patient has."""
    assume(len(sizes) >= count)
    folds = splits.split_folds(study(sizes), count, seed=seed)
    lengths = [len(fold) for fold in folds.values()]
    assert max(lengths) - min(lengths) <= max(sizes)


@given(st.integers(2, 200), st.integers(2, 9), seeds)
def test_folds_of_single_samples_differ_by_one(samples, count, seed):
    """With by="sample", the sizes of folds are as equal as they can be."""
    assume(samples >= count)
    folds = splits.split_folds(study([samples]), count, by="sample", seed=seed)
    lengths = [len(fold) for fold in folds.values()]
    assert max(lengths) - min(lengths) <= 1


@quiet
@given(columns, st.integers(2, 4), strata, seeds, st.randoms(use_true_random=False))
def test_folds_do_not_depend_on_the_order_of_samples(
    store, count, stratify, seed, random
):
    """Each patient gets the same fold, whatever the order of the samples."""
    assume(len(patients(store, slice(None))) >= count)
    shuffled = [*store.rows]
    random.shuffle(shuffled)
    other = Columns(shuffled)
    mine, theirs = (
        [
            patients(one, fold)
            for fold in splits.split_folds(one, count, **options).values()
        ]
        for one, options in (
            (store, {"seed": seed, "stratify": stratify}),
            (other, {"seed": seed, "stratify": stratify}),
        )
    )
    assert mine == theirs


@quiet
@given(columns, st.integers(2, 4), seeds)
def test_each_patient_is_validated_on_once(store, count, seed):
    """Train and validation of a fold share no patient, and have all samples."""
    assume(len(patients(store, slice(None))) >= count)
    folds = splits.split_folds(store, count, seed=seed)
    validated = []
    for k in range(count):
        train, val = fastseg.hold_out(folds, k)
        assert_array_equal(val, folds[f"fold{k}"])
        assert_array_equal(train, np.setdiff1d(np.arange(len(store)), val))
        assert (train.dtype, val.dtype) == (np.int64, np.int64)
        assert not patients(store, train) & patients(store, val)
        validated += patients(store, val)
    assert sorted(validated) == sorted(patients(store, slice(None)))


def test_folds_never_change_between_versions():
    """A seed gives the same folds in every version."""
    store = study(range(4, 14))
    folds = splits.split_folds(store, 3, seed=3)
    assert [sorted(patients(store, fold)) for fold in folds.values()] == [
        [b"P2", b"P5", b"P9"],
        [b"P1", b"P7", b"P8"],
        [b"P0", b"P3", b"P4", b"P6"],
    ]


def test_folds_are_written_and_read(store, tmp_path):
    """A table holds folds as parts fold0, fold1, ...; a loader takes either side."""
    folds = store.split_folds(4, seed=2, stratify="classes")
    fastseg.check_split(store, folds, indices=range(len(store)))
    path = fastseg.write_split(tmp_path / "folds.csv", store, folds)
    again = fastseg.read_split(path, store)
    assert list(again) == list(folds)
    assert all(map(np.array_equal, folds.values(), again.values()))
    train, val = fastseg.hold_out(again, 3)
    loader = fastseg.Loader(store, indices=val, batch_size=8, size=96)
    assert len(loader.indices) == 8
    assert len(train) == 24


@pytest.mark.parametrize(
    ("folds", "text"),
    [
        (1, "folds is 1, expected 2 to 32"),
        (0, "folds is 0, expected 2 to 32"),
        (-5, "folds is -5, expected"),
        (10**12, "folds is 1000000000000, expected 2 to 32"),
        (2.5, "folds is 2.5, expected a whole number"),
        ("five", "folds is 'five', expected a whole number"),
        (True, "folds is True, expected a whole number"),
        (None, "folds is None, expected a whole number"),
        ({"train": 0.8}, "expected a whole number"),
        (5, r"5 folds of 32 samples in 4 groups \(by patient\): each fold needs"),
    ],
)
def test_invalid_numbers_of_folds_are_refused(store, folds, text):
    """An OptionError says what came and what was expected."""
    with pytest.raises(OptionError, match=text):
        store.split_folds(folds)


@pytest.mark.parametrize(
    ("parts", "fold", "text"),
    [
        ({"fold0": [0], "fold1": [1]}, 2, "fold is 2, expected 0 to 1"),
        ({"fold0": [0], "fold1": [1]}, -1, "fold is -1, expected 0 to 1"),
        ({"fold0": [0], "fold1": [1]}, "fold2", "expected one of 'fold0', 'fold1'"),
        ({"fold0": [0], "fold1": [1]}, None, "fold is None, expected a whole"),
        ({"fold0": [0]}, 0, "expected at least two folds by name"),
        ({}, 0, "expected at least two folds by name"),
        ("folds.csv", 0, "parts is 'folds.csv', expected at least two folds"),
        ({"a": [0.5], "b": [1]}, 0, "indices has dtype float64, expected"),
        ({"a": 0, "b": [1]}, 0, "indices of a fold are no list"),
        ({"a": [0, 2], "b": [2, 3]}, "a", "overlap: sample 2 is in them 2 times"),
        ({"a": [0], "b": [2, 3], "c": [3]}, "a", "overlap: sample 3 is in them"),
    ],
)
def test_folds_that_hold_out_cannot_use_are_refused(parts, fold, text):
    """An OptionError says which folds there are, or what is wrong with them."""
    with pytest.raises(OptionError, match=text):
        fastseg.hold_out(parts, fold)


def far(store, parts, **options):
    """Return the text of the warning of a split, "" if there is none."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        splits.split(store, parts, **options)
    assert all(each.category is SplitWarning for each in caught)
    assert len(caught) <= 1
    return str(caught[0].message) if caught else ""


@pytest.mark.parametrize(
    ("sizes", "parts", "is_far"),
    [
        # A third more is near, anything beyond is far.
        ([60, 40], {"train": 0.7, "val": 0.3}, False),
        ([599, 401], {"train": 0.7, "val": 0.3}, True),
        ([80, 20], {"train": 0.7, "val": 0.3}, False),
        ([801, 199], {"train": 0.7, "val": 0.3}, True),
        ([20, 20, 30, 30], {"train": 0.7, "val": 0.15, "test": 0.15}, False),
        ([1, 1, 1], dict.fromkeys("abc", 0.333333), False),
        # Equal patients: 4 make a quarter, 3 only a third.
        ([8] * 4, {"train": 0.8, "val": 0.2}, False),
        ([8] * 3, {"train": 0.8, "val": 0.2}, True),
        # One sample is rounding, two are not.
        ([1] * 3, {"train": 0.8, "val": 0.2}, False),
        ([2] * 3, {"train": 0.8, "val": 0.2}, False),
        ([4] * 3, {"train": 0.8, "val": 0.2}, True),
        # One patient with most of the samples.
        ([90, *[1] * 10], {"train": 0.5, "val": 0.5}, True),
        ([55, 45], {"train": 0.8, "val": 0.2}, True),
        # A single patient where two are due, though the samples fit.
        ([80, *[1] * 20], {"train": 0.8, "val": 0.2}, True),
        ([16, *[4] * 4], {"train": 0.5, "val": 0.5}, True),
        ([8, 4, 4], {"train": 0.5, "val": 0.5}, False),
        ([10], {"all": 1}, False),
    ],
)
def test_parts_far_from_their_fractions_are_warned_of(sizes, parts, is_far):
    """Over a third and over a sample away is far, and so is a lonely patient."""
    text = far(study(sizes), parts)
    assert bool(text) == is_far, text


@given(st.integers(1, 300), st.integers(1, 4), seeds)
def test_single_samples_are_never_far_by_rounding(count, parts, seed):
    """With by="sample" there is no warning if each part can have a sample or more."""
    assume(count >= parts)
    fractions = {f"part{k}": 1 / parts for k in range(parts)}
    assert not far(study([count]), fractions, by="sample", seed=seed)


@given(
    st.lists(st.integers(1, 30), min_size=2, max_size=10),
    st.floats(0.05, 0.95),
    seeds,
)
def test_the_warning_agrees_with_a_simple_rule(sizes, fraction, seed):
    """A loop over the parts, written from the documentation, decides the same."""
    store = study(sizes)
    parts = {"train": fraction, "val": 1 - fraction}
    text = far(store, parts, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = splits.split(store, parts, seed=seed)
    expected = []
    for name, part in result.items():
        asked = parts[name] * len(store)
        away = abs(len(part) - asked)
        is_lonely = len(patients(store, part)) == 1 and parts[name] * len(sizes) >= 2
        if (away > asked / 3 and away > 1) or is_lonely:
            expected.append(name)
        assume(abs(away - asked / 3) > 1e-3 and abs(away - 1) > 1e-3)
        assume(abs(parts[name] * len(sizes) - 2) > 1e-3)
    assert [name for name in parts if f"{name} has " in text] == expected


def test_the_warning_says_what_came_and_what_to_do(store):
    """It gives both fractions, the number of patients and the largest, at our line."""
    text = far(study([90, *[1] * 10]), {"train": 0.8, "val": 0.2})
    assert text == (
        "the split is far from what was asked for: train has only 1 of 11 patients; "
        "val has 10.0% of the samples instead of 20.0% (10 of 11 patients). A patient "
        "stays whole, and the largest has 90.0% of the samples: give other fractions, "
        "or make folds, which validate on every sample. Another seed may come nearer"
    )
    for call in (
        lambda: store.split({"train": 0.9, "val": 0.1}),
        lambda: store.split({"train": 0.7, "val": 0.15, "test": 0.15}, by="series"),
        lambda: store.split_folds(3),
    ):
        with pytest.warns(SplitWarning, match="instead of") as caught:
            call()
        assert caught[0].filename == __file__
        assert "PHANTOM" not in str(caught[0].message)


def test_strata_are_named_only_where_they_are_the_cause():
    """If the split without strata is near, the warning says so, otherwise not."""
    sizes = [18, 3, 4, 8, 12, 14, 14]
    stratum = np.repeat([2, 0, 0, 0, 0, 2, 1], sizes)
    parts = {"train": 0.8, "val": 0.2}
    assert not far(study(sizes), parts)
    text = far(study(sizes), parts, stratify=stratum)
    assert "Without stratify, each part would be near" in text
    text = far(study([90, 5, 5]), parts, stratify=np.arange(100) % 2)
    assert "the largest has 90.0%" in text
    assert "stratify" not in text


def test_many_far_folds_are_counted():
    """A warning describes five parts at most."""
    with pytest.warns(SplitWarning, match=r"\); and \d more folds\. A pat") as caught:
        splits.split_folds(study([100, *[1] * 11]), 12)
    assert "make fewer folds. Another seed" in str(caught[0].message)
    # Patients of one size cannot be shared better.
    with pytest.warns(SplitWarning, match="make fewer folds$"):
        splits.split_folds(study([4] * 11), 5)


def test_the_command_makes_folds(fastseg_command, store, tmp_path):
    """--folds writes the folds that `split_folds` makes, and prints their sizes."""
    arguments = ("split", store.path, "-o", "folds.csv", "--seed", 3)
    run = fastseg_command(*arguments, "--folds", 4)
    assert (run.returncode, run.stderr) == (0, "")
    lines = [line.split() for line in run.stdout.splitlines()]
    assert ["fold0", "fold1", "fold2", "fold3"] in lines
    assert ["samples", "8", "8", "8", "8"] in lines
    assert "folds.csv: 32 samples by patient, seed 3; no patient in" in run.stdout
    expected = store.split_folds(4, seed=3)
    folds = fastseg.read_split(tmp_path / "folds.csv", store)
    assert all(map(np.array_equal, folds.values(), expected.values()))
    # Uneven folds are written, too, and the warning is shown also if quiet.
    run = fastseg_command(*arguments, "-q", "--folds", 3)
    assert (run.returncode, run.stdout) == (0, "")
    assert "warning: the split is far from what was asked for: fold" in run.stderr
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ((), "give --part for each part, as in"),
        (("--folds", "4", "--part", "a=1"), "give --part for each part, as in"),
        (("--folds", "0"), "folds is 0, expected 2 to 32"),
    ],
)
def test_invalid_folds_are_refused_by_the_command(
    fastseg_command, store, tmp_path, options, text
):
    """No table is written, and the message says what was expected."""
    run = fastseg_command("split", store.path, *options)
    assert run.returncode in (1, 2)
    assert text in run.stderr
    assert run.stderr.count("\n") == 1
    assert not (tmp_path / "splits.csv").exists()
