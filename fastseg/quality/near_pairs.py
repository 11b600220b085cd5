"""Pairs of rows that nearly agree, found without comparing all pairs; groups of pairs.

Rows are numbers in several dimensions, and two of them agree if they differ by at most
a tolerance in each. A grid with cells of twice the tolerance puts two such rows into
one cell, or their difference lies across a border: then it does not in the grid that is
moved by half a cell. So each pair shares a cell of one of the 2**d grids that are moved
along some of d dimensions. Rows are sorted by their cells.
"""

import itertools

import numpy as np
from numpy.typing import NDArray

# Along these dimensions at most rows are sorted into cells; the others are compared.
# There are 2**GRID_DIMENSIONS grids.
GRID_DIMENSIONS = 4
# A row is compared with so many rows of its cell that follow it, those first that agree
# best in the last dimension. This keeps the work in proportion to the number of rows,
# also where hundreds lie within the tolerance.
MOST_FOLLOWING = 4
# Odd numbers that spread cells over 64 bits. Cells of one number are told apart later.
SPREAD = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93],
    np.uint64,
)
SPREAD_CODE = np.uint64(0xFF51AFD7ED558CCD)

Pairs = NDArray[np.int64]


def near_pairs(
    rows: NDArray[np.float64],
    tolerance: NDArray[np.float64],
    codes: NDArray[np.int64] | None = None,
) -> Pairs:
    """Return the pairs of rows that agree, int64 (m, 2), the lower number first.

    rows      : float64 (n, d), finite; the first dimensions should tell most rows apart
    tolerance : float64 (d,), largest difference in each dimension; above 0 in
        those that a grid has
    codes     : int64 (n,), if given: rows agree only if their codes are equal

    Of many rows within the tolerance of each other, each has only some pairs: they
    connect all of a cell, and each row with those most alike in the last dimension.
    """
    count, dimensions = rows.shape
    if count < 2:
        return np.empty((0, 2), np.int64)
    grid = min(dimensions, GRID_DIMENSIONS)
    scaled = rows[:, :grid] / (2 * tolerance[:grid])
    base = np.zeros(count, np.uint64)
    if codes is not None:
        base += codes.astype(np.uint64) * SPREAD_CODE
    # For each dimension the part of the key in both grids, (grid, 2, n).
    parts = [
        [
            np.floor(scaled[:, k] + moved).astype(np.int64).view(np.uint64) * SPREAD[k]
            for moved in (0.0, 0.5)
        ]
        for k in range(grid)
    ]
    found = []
    for moved in itertools.product((0, 1), repeat=grid):
        key = base.copy()
        for k, which in enumerate(moved):
            key += parts[k][which]
        found.append(_pairs_of_cells(key, rows, tolerance, codes))
    numbers, _ = np.unique(np.concatenate(found), return_index=True)
    return np.stack(np.divmod(numbers, count), axis=1)


def _pairs_of_cells(
    key: NDArray[np.uint64],
    rows: NDArray[np.float64],
    tolerance: NDArray[np.float64],
    codes: NDArray[np.int64] | None,
) -> NDArray[np.int64]:
    """Return the pairs that share a cell and agree: lower * n + higher, int64 (m,)."""
    count = len(key)
    order = np.argsort(key)
    repeats = key[order[1:]] == key[order[:-1]]
    if not repeats.any():
        return np.empty(0, np.int64)
    # Only rows that are not alone in their cell.
    shared = np.append(repeats, False) | np.append(False, repeats)
    order = order[shared]
    order = order[np.lexsort((rows[order, -1], key[order]))]
    cell = key[order]
    found = []
    first = np.arange(len(order) - 1)
    for step in range(1, MOST_FOLLOWING + 1):
        first = first[: np.searchsorted(first, len(order) - step)]
        first = first[cell[first] == cell[first + step]]
        if not len(first):
            break
        a, b = order[first], order[first + step]
        agree = np.ones(len(a), bool)
        if codes is not None:
            agree &= codes[a] == codes[b]
        for k in range(rows.shape[1]):
            agree &= np.abs(rows[a, k] - rows[b, k]) <= tolerance[k]
        a, b = a[agree], b[agree]
        found.append(np.minimum(a, b) * count + np.maximum(a, b))
    return np.concatenate(found) if found else np.empty(0, np.int64)


def join_pairs(count: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the group of each of `count` rows, int64 (count,).

    pairs : int64 (m, 2), rows that belong together

    A group is numbered after its lowest row, so that a row in no pair has its own.
    """
    group = list(range(count))

    def lowest(row: int) -> int:
        while group[row] != row:
            group[row] = group[group[row]]
            row = group[row]
        return row

    for a, b in pairs.tolist():
        a, b = lowest(a), lowest(b)
        group[max(a, b)] = min(a, b)
    joined = np.array(group, np.int64)
    # A row refers to a lower one, so that some passes reach the lowest.
    while True:
        further = joined[joined]
        if (further == joined).all():
            return joined
        joined = further


def members_of(group: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the rows of each group of at least two, by its lowest row.

    group : int64 (n,), as `join_pairs` returns it
    """
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(group[order]) != 0)[: len(order)])
    return [rows for rows in np.split(order, starts[1:]) if len(rows) > 1]
