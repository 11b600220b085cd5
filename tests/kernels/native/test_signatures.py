"""The types of entries as text: what is written is read again, and fits the values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastseg._kernels.native import signatures
from fastseg._kernels.native.signatures import Array, Number, Record
from tests.kernels.native.examples import OtherPair, Pair

NUMBERS = st.sampled_from(["none", *signatures.NUMBERS]).map(Number)
ARRAYS = st.builds(
    Array,
    st.sampled_from(sorted(signatures.DTYPES.values())),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
)
PLAIN = NUMBERS | ARRAYS
TYPES = st.recursive(
    PLAIN,
    lambda inner: st.builds(
        Record,
        st.just(signatures.class_name(Pair)),
        st.lists(inner, min_size=1, max_size=3).map(tuple),
    ),
    max_leaves=5,
)


@given(st.lists(TYPES, min_size=1, max_size=4).map(tuple))
def test_a_signature_survives_being_text(signature):
    assert signatures.parse(signatures.join(signature)) == signature


@pytest.mark.parametrize(
    "text",
    ["", "int7", "float32", "int64[", "int64[:", "const int64", "int64[x]",
     "int64[::2]", "complex64[:]", "const const int64[:]"],
)  # fmt: skip
def test_text_that_is_no_type_is_refused(text):
    with pytest.raises(ValueError, match="no type"):
        signatures.parse(text)


def test_declarations_stand_for_all_combinations():
    found = signatures.expand(
        {"a": "const T[:, ::1]", "b": "T", "c": "none | U[:]"},
        {"T": ("uint8", "uint16"), "U": ("int64",)},
    )
    assert [signatures.join(signature) for signature in found] == [
        "const uint8[:, ::1], uint8, none",
        "const uint8[:, ::1], uint8, int64[:]",
        "const uint16[:, ::1], uint16, none",
        "const uint16[:, ::1], uint16, int64[:]",
    ]


FIRST, SECOND = np.zeros(3, np.int32), np.zeros(3, np.uint8)
LOCKED = np.zeros((2, 3), np.float32)
LOCKED.flags.writeable = False


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        (True, "bool"),
        (-5, "int64"),
        (2**63, "uint64"),
        (0.5, "float64"),
        (LOCKED, "const float32[:, ::1]"),
        (SECOND[::2], "uint8[:]"),
        (Pair(FIRST, SECOND), f"{Pair.__module__}.Pair(int32[::1], uint8[::1])"),
    ],
)
def test_a_value_has_a_type_that_takes_it(value, text):
    found = signatures.type_of(value)
    assert str(found) == text
    assert signatures.accepts(found, value)
    assert not signatures.accepts(found, "text")


@pytest.mark.parametrize(
    "value",
    ["text", b"x", 1j, [1], (1,), {1}, np.zeros(()), np.zeros(2, ">i2"),
     np.zeros(2, "M8[s]"), np.zeros(3, "i1,i4"), np.zeros(9, "u1")[1:].view(">u8")],
    ids=repr,
)  # fmt: skip
def test_other_values_have_no_type(value):
    with pytest.raises(TypeError, match="kernels do not take"):
        signatures.type_of(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "uint32"),
        (np.zeros(2, np.int8), "const int8[::1]"),
        (np.zeros(4)[::2], "float64[:]"),
        (Pair(np.zeros(1), np.zeros(1, np.uint8)),
         "tests.kernels.native.examples.Pair(const float64[::1], uint8[::1])"),
        (2.5, "float64"),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_that_is_not_declared_gets_the_closest_type(value, text):
    """Only dtypes of arrays differ from a type that is declared, if that is enough."""
    kinds = ["uint32", "const int16[::1]"]
    pair = f"{signatures.class_name(Pair)}(const int32[::1], uint8[::1])"
    kinds = [signatures.parse_type(kind) for kind in (*kinds, pair)]
    assert str(signatures.closest(kinds, value)) == text


def test_only_the_class_that_is_declared_is_taken():
    kind = signatures.type_of(Pair(FIRST, SECOND))
    assert not signatures.accepts(kind, OtherPair(FIRST, SECOND))
    assert not signatures.accepts(kind, (FIRST, SECOND))


@pytest.mark.parametrize(
    ("value", "plain_type"),
    [(np.int16(3), int), (np.float32(0.5), float), (np.bool_(True), bool)],
)
def test_numbers_of_numpy_become_plain(value, plain_type):
    plain = signatures.plain(value)
    assert type(plain) is plain_type
    assert plain == value


def test_arrays_of_subclasses_become_plain_views():
    array = np.arange(6.0).view(np.matrix)
    plain = signatures.plain(Pair(array, SECOND))[0]
    assert type(plain) is np.ndarray
    assert np.shares_memory(plain, array)
