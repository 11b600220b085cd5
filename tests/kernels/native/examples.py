"""Small entries that take every kind of argument; compiled by the tests."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg._kernels.jit import brief_entry, empty, entry, kernel, zeros

ALL = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64")
ALL += ("uint64", "float32", "float64")


class Pair(NamedTuple):
    """Two arrays (n,)."""

    first: NDArray[np.int32]
    second: NDArray[np.uint8]


class OtherPair(NamedTuple):
    """The same fields as `Pair`, another class."""

    first: NDArray[np.int32]
    second: NDArray[np.uint8]


@kernel
def weight_of(row, column):
    """Return a number that tells cells apart."""
    return 1.0 + 31.0 * row + column


@entry(values="const T[:, ::1]", T=("int16", "float64"))
def weigh(values):
    """Return a sum of the cells of an array (n, m) in which each counts otherwise."""
    total = 0.0
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            total += float(values[row, column]) * weight_of(row, column)
    return total


@entry(values="float64[::1]", step="int64")
def add_to_all(values, step):
    """Add to each cell of an array (n,)."""
    for k in range(len(values)):
        values[k] += step


@brief_entry(
    a="bool", b="int8", c="uint64", d="float64", e="none | const float32[::1]",
    f="int64", g="uint16",
)  # fmt: skip
def echo(a, b, c, d, e, f, g):
    """Return the numbers, and whether e is None."""
    return a, b, c, d, e is None, f, g


@entry(pair=(Pair, "const int32[::1]", "uint8[::1]"), factor="int64")
def pour(pair, factor):
    """Write the first array times a factor to the second; return its length."""
    for k in range(len(pair.first)):
        pair.second[k] = pair.first[k] * factor
    return len(pair.second)


@entry(size="int64")
def sum_of_new(size):
    """Return the sum of new zeros, after some cells have been written."""
    values = zeros((size, 3), np.int64)
    part = empty(size, np.uint8)
    for k in range(size):
        part[k] = k
        values[k, 1] = part[k]
    total = 0
    for k in range(size):
        total += values[k, 0] + values[k, 1] + values[k, 2]
    return total
