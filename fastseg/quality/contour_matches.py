"""Contours that are the same, at one place or moved, and how sure that is.

    points ──> Outlines ──┬─> same_place ───────────┬──> Matches
             (each ring   ├─> same_place_elsewhere ─┤
                  once)   └─> moved ────────────────┘

Rings whose vertices are equal bytes count as one outline. Pairs of outlines that may be
the same are found by what no change of the first vertex, of the direction or of the
number of vertices alters (`near_pairs`). Then their vertices are compared.

Contours of two people may agree by chance if they are small and simple, as circles are,
and there are many. `expected_by_chance` says how many such pairs to expect.
"""

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fastseg._kernels.contours.matching import compare_places, compare_shapes
from fastseg.quality.near_pairs import near_pairs

Points = NDArray[np.float64]

# Vertices that are measured at a time; so many take some 100 MB.
CHUNK_POINTS = 2**20
# Vertices farther from the origin than this, in pixels, are none of an image.
FARTHEST = 1e6
# Fewer vertices outline no area.
LEAST_VERTICES = 3
# Outlines of different owners are compared at so many tolerances, each so many times
# the one before.
TOLERANCES = 4
TOLERANCE_STEP = 5.0
# An outline with so many others beside it is not compared at larger tolerances.
CROWD = 4
# So many neighbours of an outline say how many outlines to expect near it.
NEIGHBOURS = 20
# Of many outlines about so many are looked at.
MOST_OTHERS = 10_000
# Fewer others say nothing.
LEAST_OTHERS = 5
# Rows of a kind whose neighbours are sought to learn what is usual.
SAMPLED = 50
# Outlines that are compared with the others at a time; so many take some megabytes.
ROWS_AT_ONCE = 64
# Steps of the grids, in pixels, on which tools round vertices, coarse ones first.
STEPS = (1.0, 0.5, 0.25, 0.1, 0.05, 0.01, 0.001)
# Vertices are multiples of a step if they are within this of one, in pixels.
STEP_ERROR = 1e-6
# Differences below this are rounding errors of computing, in pixels.
LEAST_ERROR = 1e-6
# The first moments say where an outline lies.
PLACES = 2


class Outlines(NamedTuple):
    """Rings, each once: their vertices, and measures by which they are compared.

    points : float64 (P, 2), (x, y) in pixels, of all rings
    number : int64 (R,), which outline each ring is; -1 if it has too few vertices, or
        some that are far from every image, or not finite
    first  : int64 (U,), the first ring that is this outline
    bounds : int64 (U, 2), start and stop of that ring in `points`
    vertex_count : int64 (U,), without those that repeat the one before
    low, high : float64 (U, 4), least and greatest x, y, x + y and x - y
    mean   : float64 (U, 2), of the vertices
    spread : float64 (U,), root of the mean squared distance of vertices from `mean`
    moments : float64 (U, 9), of the area inside, in pixels: its centre, and the means
        of second and third powers about it, divided by powers of `spread`
    """

    points: Points
    number: NDArray[np.int64]
    first: NDArray[np.int64]
    bounds: NDArray[np.int64]
    vertex_count: NDArray[np.int64]
    low: Points
    high: Points
    mean: Points
    spread: NDArray[np.float64]
    moments: NDArray[np.float64]

    def vertices(self, outline: int) -> Points:
        """Return the vertices of an outline, (n, 2), without repeated ones."""
        start, stop = self.bounds[outline].tolist()
        ring = np.asarray(self.points[start:stop])
        if len(ring) == self.vertex_count[outline]:
            return ring
        kept: Points = ring[_is_kept(ring, np.array([0, len(ring)]))]
        return kept

    def gather(self, numbers: NDArray[np.int64]) -> tuple[Points, NDArray[np.int64]]:
        """Return the vertices of some outlines, (P, 2), and where each begins.

        The second is int64 (len(numbers) + 1,), the last one where the last ends.
        """
        rings = [self.vertices(k) for k in numbers.tolist()]
        offsets = np.cumsum([0, *map(len, rings)])
        return np.concatenate([*rings, np.empty((0, 2))]), offsets


class Matches(NamedTuple):
    """Pairs of rows whose outlines are the same.

    pairs   : int64 (m, 2), the lower row first
    largest : float64 (m,), the largest distance, in pixels
    rms     : float64 (m,), the root of the mean squared distance
    """

    pairs: NDArray[np.int64]
    largest: NDArray[np.float64]
    rms: NDArray[np.float64]


def measure_outlines(points: Points, offsets: NDArray[np.int64]) -> Outlines:
    """Return the outlines of rings.

    points  : float64 (P, 2), (x, y) in pixels
    offsets : int64 (R + 1,); ring r is points[offsets[r]:offsets[r + 1]]
    """
    rings = len(offsets) - 1
    digests = np.zeros(rings, np.uint64)
    measures = np.full((rings, 21), np.nan)
    bounds = [0]
    while bounds[-1] < rings:
        last = np.searchsorted(offsets, offsets[bounds[-1]] + CHUNK_POINTS, "right") - 1
        bounds.append(max(int(last), bounds[-1] + 1))
    for start, stop in pairwise(bounds):
        begin, end = offsets[start], offsets[stop]
        _measure(
            np.ascontiguousarray(points[begin:end]),
            offsets[start : stop + 1] - begin,
            digests[start:stop],
            measures[start:stop],
        )
    valid = np.flatnonzero(np.isfinite(measures).all(axis=1))
    _, first, index = np.unique(digests[valid], return_index=True, return_inverse=True)
    # Outlines are numbered in the order of their first rings.
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    number = np.full(rings, -1)
    number[valid] = rank[index]
    chosen = valid[first[order]]
    of_each = measures[chosen]
    return Outlines(
        points,
        number,
        chosen,
        np.stack([offsets[chosen], offsets[chosen + 1]], axis=1),
        of_each[:, 11].astype(np.int64),
        of_each[:, 0:4],
        of_each[:, 4:8],
        of_each[:, 8:10],
        of_each[:, 10],
        of_each[:, 12:],
    )


def _measure(
    points: Points,
    offsets: NDArray[np.int64],
    digests: NDArray[np.uint64],
    measures: NDArray[np.float64],
) -> None:
    """Measure some rings: fill in their hashes, and NaN if they are no outlines."""
    kept = _is_kept(points, offsets)
    if not kept.all():
        ends = np.append(0, np.cumsum(kept))
        offsets = ends[offsets]
        points = points[kept]
    counts = np.diff(offsets)
    is_outline = counts >= LEAST_VERTICES
    # Not below either if they are NaN.
    far = np.flatnonzero(~(np.abs(points) <= FARTHEST).all(axis=1))
    is_outline[np.searchsorted(offsets, far, side="right") - 1] = False
    rows = np.flatnonzero(is_outline)
    if not len(rows):
        return
    starts = offsets[rows]
    # Rings that are left out lie between the others: `reduceat` must not add them.
    inside = np.repeat(is_outline, counts)
    if not inside.all():
        points = points[inside]
        starts = np.cumsum(counts[rows]) - counts[rows]
    counts = counts[rows]
    text = memoryview(points).cast("B")
    for row, start, count in zip(
        rows.tolist(), starts.tolist(), counts.tolist(), strict=True
    ):
        digests[row] = xxh3_64_intdigest(text[16 * start : 16 * (start + count)])
    x, y = points.T
    along = (x, y, x + y, x - y)
    low = np.column_stack([np.minimum.reduceat(axis, starts) for axis in along])
    high = np.column_stack([np.maximum.reduceat(axis, starts) for axis in along])
    # Sums of squares lose nothing if the origin lies in the ring.
    origin = low[:, :2]
    moved = points - np.repeat(origin, counts, axis=0)
    mean = np.add.reduceat(moved, starts) / counts[:, None]
    squares = np.add.reduceat(np.einsum("ij,ij->i", moved, moved), starts) / counts
    spread = np.sqrt((squares - (mean * mean).sum(axis=1)).clip(0))
    moments = _moments(moved, starts, counts, spread)
    moments[:, :PLACES] += origin
    measures[rows] = np.column_stack(
        [low, high, origin + mean, spread, counts, moments]
    )


def _moments(
    points: Points,
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
    spread: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the moments of the areas inside rings, (r, 9); see Outlines.

    Each edge adds the triangle between it and the origin, whose area has a sign. Rings
    without an area are points.
    """

    def over_area(values: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        sums = [np.add.reduceat(cross * value, starts) for value in values]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.column_stack(sums) / area[:, None]
        ratios[flat] = 0
        return ratios

    after = np.roll(points, -1, axis=0)
    after[starts + counts - 1] = points[starts]
    x, y = points.T
    u, v = after.T
    cross = x * v - u * y
    area = np.add.reduceat(cross, starts) / 2
    flat = np.abs(area) <= LEAST_ERROR * spread
    centre = over_area([(x + u) / 6, (y + v) / 6])
    moved = np.repeat(centre, counts, axis=0)
    x, y = (points - moved).T
    u, v = (after - moved).T
    cross = x * v - u * y
    xx, xu, uu = x * x, x * u, u * u
    yy, yv, vv = y * y, y * v, v * v
    second = over_area(
        [
            (xx + xu + uu) / 12,
            (x * (2 * y + v) + u * (y + 2 * v)) / 24,
            (yy + yv + vv) / 12,
        ]
    )
    third = over_area(
        [
            (x + u) * (xx + uu) / 20,
            (y * (3 * xx + 2 * xu + uu) + v * (xx + 2 * xu + 3 * uu)) / 60,
            (x * (3 * yy + 2 * yv + vv) + u * (yy + 2 * yv + 3 * vv)) / 60,
            (y + v) * (yy + vv) / 20,
        ]
    )
    scale = spread[:, None].clip(LEAST_ERROR)
    return np.column_stack([centre, second / scale, third / scale**2])


def _is_kept(points: Points, offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which vertices differ from the next one, bool (n,).

    The one after the last is the first: a ring may repeat its first vertex.
    """
    kept = np.ones(len(points), bool)
    kept[:-1] = (points[:-1, 0] != points[1:, 0]) | (points[:-1, 1] != points[1:, 1])
    starts, stops = offsets[:-1], offsets[1:]
    filled = stops > starts
    starts, lasts = starts[filled], stops[filled] - 1
    kept[lasts] = (points[starts] != points[lasts]).any(axis=1)
    return kept


# Measures of rows, float64 (n, d), and how far they differ at most, for `near_pairs`.
Rows = tuple[NDArray[np.float64], NDArray[np.float64]]


def same_place(
    outlines: Outlines,
    which: NDArray[np.int64],
    tolerance: float,
    owner: NDArray[np.int64],
) -> Matches:
    """Return rows of one owner with outlines no point of which is far from the other.

    which     : int64 (n,), the outline of each row
    tolerance : largest distance, in pixels
    owner     : int64 (n,), who each row belongs to

    The outlines may have other first vertices, directions and numbers of vertices. Of
    many that are the same, some pairs are found that connect them all.
    """
    pairs = near_pairs(*_boxes(outlines, which, tolerance), owner)
    return _compared(outlines, which, pairs, tolerance, is_placed=True)


def same_place_elsewhere(
    outlines: Outlines,
    which: NDArray[np.int64],
    tolerance: float,
    owner: NDArray[np.int64],
) -> Matches:
    """Return rows of different owners with the same outlines, as `same_place` does.

    The tolerance grows from a small one up to this. A row that others crowd around at
    one tolerance is left out of the larger ones.
    """
    return _at_tolerances(outlines, which, tolerance, owner, is_placed=True)


def moved(outlines: Outlines, which: NDArray[np.int64], tolerance: float) -> Matches:
    """Return rows with the same vertices after one of them is moved.

    which     : int64 (n,), the outline of each row
    tolerance : largest distance of vertices, in pixels, when their means agree

    The outlines may have other first vertices and directions. The tolerance grows as in
    `same_place_elsewhere`.
    """
    owner = np.arange(len(which))
    return _at_tolerances(outlines, which, tolerance, owner, is_placed=False)


def _boxes(outlines: Outlines, which: NDArray[np.int64], tolerance: float) -> Rows:
    """Return rows that agree if outlines are at the same place."""
    low, high = outlines.low[which], outlines.high[which]
    rows = [low[:, :2], high[:, :2], low[:, 2:], high[:, 2:], outlines.spread[which]]
    widths = np.repeat([1, math.sqrt(2), math.inf], [4, 4, 1])
    return np.column_stack(rows), tolerance * widths


def _shapes(outlines: Outlines, which: NDArray[np.int64], tolerance: float) -> Rows:
    """Return rows that agree if outlines are the same when moved."""
    low = outlines.low[which]
    extent = outlines.high[which] - low
    centre = outlines.mean[which] - low[:, :2]
    count = outlines.vertex_count[which].astype(np.float64)
    rows = [extent[:, :2], centre, extent[:, 2:], count, outlines.spread[which]]
    # Each end of an extent, and the mean, moves by the tolerance at most.
    widths = 2 * tolerance * np.repeat([1, math.sqrt(2), 0, 1], [4, 2, 1, 1])
    return np.column_stack(rows), widths


def _at_tolerances(
    outlines: Outlines,
    which: NDArray[np.int64],
    tolerance: float,
    owner: NDArray[np.int64],
    *,
    is_placed: bool,
) -> Matches:
    """Return rows of different owners that are the same, at growing tolerances."""
    active = np.arange(len(which))
    found = []
    tolerances = tolerance * TOLERANCE_STEP ** np.arange(1.0 - TOLERANCES, 1)
    for step, some in enumerate(tolerances.tolist()):
        measures = (_boxes if is_placed else _shapes)(outlines, which[active], some)
        pairs = active[near_pairs(*measures)]
        pairs = pairs[owner[pairs[:, 0]] != owner[pairs[:, 1]]]
        partners = np.bincount(pairs.ravel(), minlength=len(which))
        if step:
            pairs = pairs[(partners[pairs] < CROWD).all(axis=1)]
        found.append(_compared(outlines, which, pairs, some, is_placed=is_placed))
        active = active[partners[active] < CROWD]
    pairs, largest, rms = map(np.concatenate, zip(*found, strict=True))
    _, first = np.unique(pairs[:, 0] * len(which) + pairs[:, 1], return_index=True)
    return Matches(pairs[first], largest[first], rms[first])


def _compared(
    outlines: Outlines,
    which: NDArray[np.int64],
    pairs: NDArray[np.int64],
    tolerance: float,
    *,
    is_placed: bool,
) -> Matches:
    """Return the pairs of rows whose difference is within the tolerance."""
    compared = which[pairs]
    needed, index = np.unique(compared, return_inverse=True)
    points, offsets = outlines.gather(needed)
    numbers = np.ascontiguousarray(index.reshape(compared.shape), np.int64)
    largest, rms = np.empty(len(pairs)), np.empty(len(pairs))
    if is_placed:
        compare_places(points, offsets, numbers, tolerance, largest, rms)
    else:
        means = np.ascontiguousarray(outlines.mean[needed])
        compare_shapes(points, means, offsets, numbers, tolerance, largest, rms)
    near = largest <= tolerance
    return Matches(pairs[near], largest[near], rms[near])


def expected_by_chance(
    outlines: Outlines,
    which: NDArray[np.int64],
    kind: NDArray[np.int64],
    found: Matches,
    *,
    is_placed: bool,
    owner: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Return how many pairs of rows would be as near as these by chance, float64 (m,).

    which     : int64 (n,), the outline of each row
    kind      : int64 (n,), rows of one kind are different in as many ways
    found     : pairs of rows
    is_placed : whether they agree without being moved
    owner     : int64 (n,), if all pairs are of different ones: who each row belongs to.
        Those of one owner, such as neighbouring slices, are much alike, and say nothing
        of others

    The other outlines say how many to expect. Their number within a distance r of one
    grows like r**k, where k is how many ways they have of being different: few if they
    are circles, many if they are drawn by hand. The distances within which there are
    NEIGHBOURS of them, and half as many, give k. The nearest ones do not count, because
    they may be copies. The number is inf if there are too few others to say.
    """
    first = 0 if is_placed else PLACES
    moments = outlines.moments[which, first:]
    # Each outline once: of equal ones, all but one are copies.
    used = np.flatnonzero(np.bincount(which))
    every = max(len(used) // MOST_OTHERS, 1)
    used = used[::every]
    others = _Others(
        outlines.moments[used, first:],
        None
        if owner is None
        else owner[np.unique(which, return_index=True)[1]][::every],
    )
    a, b = found.pairs.T
    # Rows all over the store: those of the pairs may be unusual ones of their kind.
    usual = np.full(kind.max(initial=0) + 1, np.inf)
    for k in np.flatnonzero(np.bincount(kind[a])).tolist():
        rows = np.flatnonzero(kind == k)
        rows = rows[:: max(len(rows) // SAMPLED, 1)]
        near = others.neighbours(moments, rows, owner)
        usual[k] = _ways(near.logarithm.mean())
    near = others.neighbours(moments, a, owner)
    error = np.array(
        [
            rounding_error(outlines.vertices(k), is_equal=largest <= STEP_ERROR)
            for k, largest in zip(
                which[a].tolist(), found.largest.tolist(), strict=True
            )
        ]
    )
    apart = np.abs(moments[a] - moments[b]).max(axis=1, initial=0).clip(error)
    ways = np.minimum(_ways(near.logarithm), usual[kind[a]])
    ratio = apart / near.farthest.clip(error)
    expected: NDArray[np.float64] = len(which) * every * near.number * ratio**ways
    expected[near.number < LEAST_OTHERS] = np.inf
    return expected


def _ways(logarithm: Any) -> Any:
    """Return k from the logarithm of the ratio of two distances; see above."""
    return math.log(2) / np.maximum(logarithm, LEAST_ERROR)


class _Neighbours(NamedTuple):
    """The nearest others of rows.

    number    : int64 (m,), NEIGHBOURS, or how many others there are
    farthest  : float64 (m,), the distance within which there are so many
    logarithm : float64 (m,), of its ratio to that with half as many
    """

    number: NDArray[np.int64]
    farthest: NDArray[np.float64]
    logarithm: NDArray[np.float64]


class _Others(NamedTuple):
    """Some outlines, with which rows are compared.

    moments : float64 (o, d)
    owner   : int64 (o,), or None if it does not matter
    """

    moments: NDArray[np.float64]
    owner: NDArray[np.int64] | None

    def neighbours(
        self,
        moments: NDArray[np.float64],
        rows: NDArray[np.int64],
        owner: NDArray[np.int64] | None,
    ) -> _Neighbours:
        """Return the neighbours of some rows, without those of their owner.

        moments : float64 (n, d), of all rows
        rows    : int64 (m,)
        owner   : int64 (n,), of all rows, or None
        """
        most = min(NEIGHBOURS, len(self.moments) - 1)
        found = _Neighbours(
            np.full(len(rows), most), np.zeros(len(rows)), np.zeros(len(rows))
        )
        for first in range(0, len(rows), ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            chosen = rows[part]
            away = np.zeros((len(chosen), len(self.moments)))
            for k in range(moments.shape[1]):
                off = np.abs(self.moments[:, k] - moments[chosen, k, None])
                np.maximum(away, off, out=away)
            if self.owner is not None and owner is not None:
                is_own = self.owner == owner[chosen, None]
                away[is_own] = np.inf
                known = len(self.moments) - is_own.sum(axis=1)
                found.number[part] = np.clip(known - 1, 0, most)
            # The nearest one is most often the row itself, or its copy.
            nearest = np.sort(np.partition(away, most, axis=1)[:, : most + 1], axis=1)
            each = np.arange(len(chosen))
            count = found.number[part]
            far = nearest[each, count].clip(LEAST_ERROR)
            found.farthest[part] = far
            half = nearest[each, (count + 1) // 2].clip(LEAST_ERROR)
            found.logarithm[part] = np.log(far / half)
        return found


def rounding_error(vertices: Points, *, is_equal: bool) -> float:
    """Return by how much moments may differ though vertices agree after rounding.

    is_equal : whether all vertices are equal, else they only are so nearly

    Errors of many vertices average out. If all are equal, the outlines differ far less:
    among many, some vertex lies close to where another number would be the nearest.
    A tool that traces pixels has no choice between the steps of a grid, so these count,
    not how many vertices it has put there.
    """
    step = step_of(vertices)
    independent = float(len(vertices))
    if step:
        length = np.hypot(*(np.roll(vertices, -1, axis=0) - vertices).T).sum()
        independent = max(min(independent, length / (4 * step)), 1)
    averaged = independent if is_equal else math.sqrt(independent)
    return max(step / 2 / averaged, LEAST_ERROR)


def step_of(vertices: Points) -> float:
    """Return the step of the grid on which all vertices lie, or 0, in pixels.

    The grid may be moved: steps are counted from the first vertex.
    """
    steps = vertices - vertices[0]
    for step in STEPS:
        if (np.abs(steps - step * np.round(steps / step)) <= STEP_ERROR).all():
            return step
    return 0.0
