"""Natural order of paths; that they stay inside their root is in test_links.py."""

import itertools

from hypothesis import assume, given
from hypothesis import strategies as st

from fastseg.paths import natural_key

names = st.text("0123459ab./-٣²", max_size=8)


@given(st.lists(names, max_size=5))
def test_natural_keys_order_all_texts(texts):
    """Different texts have different keys: each order of them sorts to the same."""
    expected = sorted(texts, key=natural_key)
    for other in itertools.islice(itertools.permutations(texts), 24):
        assert sorted(other, key=natural_key) == expected


@given(names, st.integers(0, 10**30), st.integers(0, 10**30), names)
def test_natural_keys_order_numbers_as_numbers(before, low, high, after):
    """Names that differ in one number sort by that number."""
    assume(low < high)
    keys = [natural_key(f"{before}{number}{after}") for number in (low, high)]
    assert keys[0] < keys[1]


def test_natural_keys_take_numbers_of_any_length():
    """Numbers of thousands of digits sort, though Python refuses to convert them."""
    assert natural_key("9" * 4999) < natural_key("9" * 5000)
