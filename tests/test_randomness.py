"""One page for randomness: no two uses share numbers, and numbers never change."""

import itertools
import re

import numpy as np
import pytest

from fastseg import randomness
from fastseg.augment import BiasField
from fastseg.augment.base import Context, draw_uniforms
from fastseg.augment.mapping import Mappings
from fastseg.loading.orders import random_words
from fastseg.randomness import MAX_STEPS, noise_stream, philox, step_stream
from tests.conftest import PROJECT
from tests.noise_reference import uniforms

NUMBERS = {k: v for k, v in vars(randomness).items() if k.isupper()}
ORDERS = {k: v for k, v in NUMBERS.items() if re.search("ORDER|START", k)}
LIMITS = {"SPLIT_EPOCH", "CLASSES", "MAX_STEPS", "NOISE"}
OF_CLASSES = {k: v for k, v in NUMBERS.items() if k not in {*ORDERS, *LIMITS}}
# Of seed 42, epoch 3 and sample 5.
KEY = 15261883871997112144
DRAWN = [0.5881894973158699, 0.19704177513109344]
FIELDS = [0.5545837072370545, -0.8957720669708151, 0.7880717801288706]
CONTROL = [0.3894306024549372, 0.9656890159565361]
WORD = 1276298413240258564
EVERY_CLASS = {"PARAMETERS", "ELASTIC", "BIAS_FIELD", "CUSTOM"}


def test_orders_have_no_number_in_common():
    """The random numbers of different streams of an epoch differ."""
    assert len(ORDERS) == len(set(ORDERS.values())) == 8
    numbers = np.concatenate([random_words(10_000, 1, 2, s) for s in ORDERS.values()])
    assert len(np.unique(numbers)) == len(ORDERS) * 10_000


def test_streams_of_a_sample_do_not_overlap():
    """In the longest Compose, no step gets the stream of another class or step."""
    assert {*OF_CLASSES} >= EVERY_CLASS
    assert max(OF_CLASSES.values()) < randomness.CLASSES
    repeats = range(MAX_STEPS)
    streams = [
        step_stream(stream, repeat)
        for stream, repeat in itertools.product(OF_CLASSES.values(), repeats)
    ]
    assert len(set(streams)) == len(streams)
    # The steps in a row after step g have noise_stream(g), and up to MAX_STEPS more.
    starts = [max(streams), *(noise_stream(first) for first in repeats), 2**32]
    assert starts[1] > starts[0]
    assert (np.diff(starts[1:]) >= MAX_STEPS).all()


def test_the_page_names_every_number():
    """The table lists the stream of each class, and no other module makes numbers."""
    for name in (*OF_CLASSES, "SPLIT_EPOCH", "noise_stream", "*_ORDER"):
        assert name in randomness.__doc__, name
    drawing = {
        path.relative_to(PROJECT / "fastseg").as_posix()
        for path in (PROJECT / "fastseg").rglob("*.py")
        if re.search(r"Philox\(|default_rng|RandomState", path.read_text())
    }
    assert drawing == {"randomness.py", "phantom/drawing.py"}


def test_keys_are_hashes_of_seed_and_epoch():
    """No two of many (seed, epoch) pairs share a key; (0, 1) is not (1, 0)."""
    pairs = itertools.product(range(100), repeat=2)
    assert len({randomness.augmentation_key(*pair) for pair in pairs}) == 10_000


@pytest.mark.parametrize(
    "stream", [0, 2, 2**16, 2**32 - 1], ids=lambda stream: f"stream {stream}"
)
def test_uniform_numbers_equal_the_reference(stream):
    """Each sample has the numbers of its own key, in [0, 1), of 53 bits."""
    key = randomness.augmentation_key(4, 2)
    samples = np.array([0, 3, 2**40])
    actual = draw_uniforms(key, samples, stream, 600)
    for row, sample in zip(actual, samples.tolist(), strict=True):
        assert row.tolist() == uniforms(key, sample, stream, 600).tolist()


def test_numbers_never_change_between_versions():
    """Keys and numbers are as written here, because resumed runs depend on them."""
    key = randomness.augmentation_key(42, 3)
    assert key == KEY
    sample = np.array([5])
    assert draw_uniforms(key, sample, randomness.PARAMETERS, 2)[0].tolist() == DRAWN
    values = {"magnitude": np.array([1.0])}
    for repeat, expected in enumerate(FIELDS):
        context = Context(key, sample, np.zeros(1, np.float32), 0, repeat)
        _, first, *others = BiasField().parameters(values, context)
        assert len(others) == 9
        assert first.tolist() == [expected]
    mappings = Mappings(sample, np.array([[9, 9]]), np.ones((1, 2)), {}.get)
    mappings.bend(4.0, np.array([1.0]))
    assert mappings.arrays(key).displacements.control[0, 0, 0].tolist() == CONTROL
    assert noise_stream(0) == 2**16
    assert noise_stream(3) == 2**18
    assert philox(key, 5, randomness.CUSTOM, 1).random_raw() == WORD
