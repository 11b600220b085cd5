"""A loader resumes from the state of another one with the same bits."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import fastseg
from fastseg import Loader
from fastseg.errors import StateError

SIZE = 40


def assert_same(first, second):
    for ours, theirs in zip(first, second, strict=True):
        assert_array_equal(ours.index, theirs.index)
        assert_array_equal(ours.image, theirs.image)
        assert_array_equal(ours.mask, theirs.mask)


def epochs(loader, count):
    return [batch for _ in range(count) for batch in loader]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shuffle": False},
        {"drop_last": True},
        {"foreground": 0.5},
        {"weights": np.arange(32.0)},
        {"together": "patient"},
        {"rank": 1, "world_size": 3},
    ],
    ids=str,
)
def test_resumed_at_every_batch(store, options):
    """Resumed after any batch, the following batches are those without a stop."""
    options = {"batch_size": 5, "size": SIZE, "seed": 9, **options}
    whole = epochs(Loader(store, **options), 2)
    running = Loader(store, **options)
    number = 0
    for _ in range(2):
        for _ in running:
            number += 1
            state = json.loads(json.dumps(running.state_dict()))
            other = Loader(store, threads=1 + number % 3, prefetch=1, **options)
            other.load_state_dict(state)
            assert other.state_dict() == state
            rest = []
            while len(rest) < len(whole) - number:
                rest += other
            assert_same(rest, whole[number:])


@given(data=st.data())
def test_a_stopped_loop_is_continued(store, data):
    """If a loop is left and resumed any number of times, each sample comes once."""
    size = data.draw(st.integers(1, 32))
    options = {"batch_size": size, "size": SIZE, "masks": "labels", "seed": 3}
    order = []
    state = None
    while len(order) < len(store):
        loader = Loader(store, threads=data.draw(st.integers(1, 3)), **options)
        if state:
            loader.load_state_dict(state)
        more = data.draw(st.integers(1, 8))
        for number, batch in enumerate(loader, 1):
            order += batch.index.tolist()
            if number == more:
                break
        state = loader.state_dict()
    expected = [k for batch in Loader(store, **options) for k in batch.index.tolist()]
    assert order == expected
    assert (state["epoch"], state["batch"]) == (1, 0)


def test_states_before_between_and_after_loops(store):
    """A state always names the next batch."""
    loader = Loader(store, batch_size=8, size=SIZE)

    def position():
        state = loader.state_dict()
        return state["epoch"], state["batch"]

    assert position() == (0, 0)
    running = iter(loader)
    assert position() == (0, 0)
    for number in range(1, 4):
        next(running)
        assert position() == (0, number)
    next(running)
    assert position() == (1, 0)
    next(iter(loader))
    assert position() == (1, 1)
    loader.epoch = 7
    assert position() == (7, 0)
    list(loader)
    assert position() == (8, 0)
    assert loader.epoch == 8


def test_an_iterator_that_is_dropped_uses_up_no_epoch(store):
    """The epoch begins with its first batch, as it was set or loaded until then."""
    loader = Loader(store, size=SIZE, batch_size=5)
    expected = epochs(Loader(store, size=SIZE, batch_size=5), 2)
    dropped, first = iter(loader), iter(loader)
    assert (loader.epoch, loader.state_dict()["batch"]) == (0, 0)
    got = [next(first)]
    state = loader.state_dict()
    got += [*first, *dropped]
    assert_same(got, expected)
    late = iter(loader)
    loader.load_state_dict(state)
    assert_same(late, expected[1 : len(loader)])
    for batches in zip(loader, loader, strict=True):
        assert not np.array_equal(*(batch.index for batch in batches))
    assert loader.epoch == 3


def test_a_state_fits_all_ranks(store):
    """A rank that loads the state of another one continues at the same batch."""
    options = {"batch_size": 4, "size": SIZE, "world_size": 2}
    first, second = (Loader(store, rank=rank, **options) for rank in (0, 1))
    next(iter(first))
    expected = list(second)[1:]
    second.load_state_dict(first.state_dict())
    assert_same(second, expected)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"seed": 1}, "seed is 0 in the state, 1 here"),
        ({"batch_size": 5}, "batch_size is 4 in the state, 5 here"),
        ({"shuffle": False}, "shuffle is True in the state, False here"),
        ({"indices": range(30)}, "indices is '32 samples, .*' in the state, '30"),
        ({"size": 41}, r"size is \[40, 40\] in the state, \[41, 41\] here"),
        ({"normalize": None}, "normalize is 'zscore' in the state, None here"),
        ({"dtype": "float16"}, "dtype is 'float32'"),
        ({"masks": "onehot"}, "masks is 'labels'"),
        ({"missing": "ignore"}, "missing is 'background' in the state"),
        ({"pad_value": 1}, "pad_value is 'minimum' in the state, 1.0 here"),
        ({"world_size": 2}, "world_size is 1 in the state, 2 here"),
        ({"weights": np.arange(32)}, "weights is None in the state"),
        ({"foreground": 0.5}, "foreground is None in the state"),
        ({"together": "patient"}, "together is None in the state"),
    ],
    ids=str,
)
def test_a_state_of_another_configuration_is_refused(store, options, text):
    """The error names each option that differs, with both values."""
    usual = {"batch_size": 4, "size": SIZE}
    state = Loader(store, **usual).state_dict()
    loader = Loader(store, **{**usual, **options})
    with pytest.raises(StateError, match=text):
        loader.load_state_dict(state)
    assert loader.epoch == 0


def test_the_keys_of_a_state_change_with_its_version(store):
    """A state of version 7 has these keys, so that saved ones can be loaded."""
    order = "indices batch_size seed shuffle drop_last world_size uneven weights"
    images = (
        "size neighbours beyond masks_of normalize normalize_by window percentiles "
        "value_statistics pad_value dtype masks priority missing augment"
    )
    keys = f"version store {order} foreground together {images} epoch batch".split()
    state = Loader(store, batch_size=4, size=SIZE, augment="light").state_dict()
    assert (state["version"], sorted(state)) == (7, sorted(keys))
    steps = ["border", "interpolation", "labels", "transforms"]
    assert sorted(state["augment"]) == steps


def test_a_state_of_another_store_is_refused(store, small_study, tmp_path):
    """The error names the fingerprints of both stores."""
    path = fastseg.build(fastseg.link(small_study), tmp_path / "other.h5").path
    state = Loader(fastseg.open(path), batch_size=4, size=SIZE).state_dict()
    with pytest.raises(StateError, match=r"store is '[0-9a-f]{64}' in the state"):
        Loader(store, batch_size=4, size=SIZE).load_state_dict(state)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"batch": 8}, "a batch below 8"),
        ({"batch": -1}, "batch -1"),
        ({"epoch": "1"}, "epoch '1'"),
        ({"epoch": 1.0}, "epoch 1.0"),
        ({"extra": 1}, r"unknown keys \['extra'\]"),
        ({"version": 1}, "version is 1 in the state, 7 here"),
    ],
    ids=str,
)
def test_an_invalid_state_is_refused(store, change, text):
    """A dict that `state_dict` cannot have returned raises StateError."""
    loader = Loader(store, batch_size=4, size=SIZE)
    with pytest.raises(StateError, match=text):
        loader.load_state_dict({**loader.state_dict(), **change})
    state = loader.state_dict()
    del state["batch"]
    with pytest.raises(StateError, match=r"lacks \['batch'\]"):
        loader.load_state_dict(state)
    with pytest.raises(StateError, match="a state is a dict"):
        loader.load_state_dict([1])
