"""One page for randomness: no two uses share numbers."""

import itertools
import re

import numpy as np

from fastseg import randomness
from fastseg.loading.orders import random_words
from fastseg.randomness import MAX_STEPS, noise_stream, step_stream
from tests.conftest import PROJECT

NUMBERS = {k: v for k, v in vars(randomness).items() if k.isupper()}
ORDERS = {k: v for k, v in NUMBERS.items() if re.search("ORDER|START", k)}
LIMITS = {"SPLIT_EPOCH", "CLASSES", "MAX_STEPS", "NOISE"}
OF_CLASSES = {k: v for k, v in NUMBERS.items() if k not in {*ORDERS, *LIMITS}}
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
        int(step_stream(stream, repeat))
        for stream, repeat in itertools.product(OF_CLASSES.values(), repeats)
    ]
    assert len(set(streams)) == len(streams)
    # The steps in a row after step g have noise_stream(g), and up to MAX_STEPS more.
    starts = [max(streams), *(int(noise_stream(first)) for first in repeats), 2**32]
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
    assert drawing == {"randomness.py", "phantom.py"}


def test_keys_are_hashes_of_seed_and_epoch():
    """No two of many (seed, epoch) pairs share a key; (0, 1) is not (1, 0)."""
    pairs = itertools.product(range(100), repeat=2)
    assert len({randomness.augmentation_key(*pair) for pair in pairs}) == 10_000
