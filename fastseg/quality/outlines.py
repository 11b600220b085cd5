"""Rings of vertices, looked at one by one: crossings, spikes, jumps."""

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg._kernels.contours.crossings import find_crossings

if TYPE_CHECKING:
    from fastseg.quality.facts import Facts

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Vertices that are looked at in one go, so that memory does not grow with the store.
POINTS_AT_ONCE = 2**16
# Crossings of a ring that are kept.
MOST_KEPT = 20
# At a tip, the outline turns back: the angle between its edges has a larger cosine.
TIP = math.cos(math.radians(80))
# So does it along an edge that is at most so long, in pixels, if those before and after
# it run back along each other.
BLUNT = 1.0
# The sides of a spike part by at most this fraction of their length (20 degrees).
SLENDER = 0.35
# A contour has at least so many times the area of its spike: else it is thin itself.
SPIKE_AREA = 4.0
# A ring with fewer vertices is a polygon, not an outline.
LEAST_VERTICES = 8
MOST_JUMPS = 4
GAP = 3.0
# The sine of the angle to rows or columns below which an edge runs along them.
PARALLEL = 0.005
# Two rings whose extents differ by less are the same, in pixels.
SAME = 0.01
# Two edges whose ends are so near to each other are the sides of a keyhole, in pixels.
KEYHOLE = 1.0


def chunks_of(facts: "Facts") -> list[tuple[int, int]]:
    """Return first and stop of ranges of rings with about POINTS_AT_ONCE vertices."""
    stops = facts.rings.stop
    total = int(stops[-1]) if len(stops) else 0
    cuts = np.searchsorted(stops, np.arange(0, total, POINTS_AT_ONCE), side="right")
    return list(pairwise(sorted({0, *cuts.tolist(), len(stops)})))


def edges_of(facts: "Facts", first: int, stop: int) -> tuple[Floats, Indices, Indices]:
    """Return vertices of rings first to stop - 1, the vertex after each, and bounds.

    Ring first + k has the vertices bounds[k] to bounds[k + 1] - 1.
    """
    rings = facts.rings
    begin = int(rings.start[first])
    points = np.ascontiguousarray(facts.points[begin : int(rings.stop[stop - 1])])
    bounds = np.append(rings.start[first:stop], rings.stop[stop - 1]) - begin
    return points, next_vertices(bounds), bounds


def next_vertices(bounds: Indices) -> Indices:
    """Return the index of the vertex after each, in rings that follow each other."""
    following = np.arange(1, int(bounds[-1]) + 1)
    following[bounds[1:] - 1] = bounds[:-1]
    return following


def crossings_of(
    facts: "Facts", first: int, stop: int
) -> list[tuple[int, int, Indices]]:
    """Return rings that cross themselves: ring, how often, and some pairs of edges.

    The edges are int64 (m, 2), with m at most MOST_KEPT; edge k begins at vertex k.
    """
    points, following, bounds = edges_of(facts, first, stop)
    found = np.empty((stop - first, MOST_KEPT, 2), np.int64)
    counts = np.zeros(stop - first, np.int64)
    find_crossings(points, following, bounds, 0, stop - first, found, counts)
    return [
        (first + k, int(counts[k]), found[k, : counts[k]] - bounds[k])
        for k in np.flatnonzero(counts).tolist()
    ]


def rings_cross(outlines: list[Floats]) -> tuple[float, float] | None:
    """Return a point where the outlines of two different rings cross, or None."""
    bounds = np.cumsum([0, *(len(points) for points in outlines)])
    points = np.concatenate(outlines)
    following = next_vertices(bounds)
    found = np.empty((1, MOST_KEPT, 2), np.int64)
    counts = np.zeros(1, np.int64)
    find_crossings(points, following, bounds[[0, -1]], 0, 1, found, counts)
    ring = np.searchsorted(bounds, found[0, : counts[0]], side="right")
    for (i, j), (a, b) in zip(
        found[0, : counts[0]].tolist(), ring.tolist(), strict=True
    ):
        if a != b:
            x, y = _crossing(points[[i, following[i], j, following[j]]])
            return x, y
    return None


class Relation(NamedTuple):
    """How rings of a class lie to each other on an image, where fill rules differ.

    kind   : "cross": in part within each other, or the same twice; else one lies within
        another or touches it, and both run in "opposite" directions, or in the "same"
    rings  : all rings of the class on the image
    place  : (x, y) in pixels, where to look
    """

    kind: Literal["cross", "opposite", "same"]
    rings: list[int]
    place: tuple[float, float]


def relate_rings(facts: "Facts") -> list[Relation]:
    """Return how rings lie to each other wherever the fill rules differ."""
    labels, bits = facts.labels, facts.items["rule_dependent"]
    depends = bits[labels.sample] >> labels.klass.astype(bits.dtype) & bits.dtype.type(
        1
    )
    return [_relate(facts, label) for label in np.flatnonzero(depends).tolist()]


def _relate(facts: "Facts", label: int) -> Relation:
    rings = facts.rings_of(label).tolist()
    outlines = [facts.ring_points(ring) for ring in rings]
    place = rings_cross(outlines)
    if place is not None:
        return Relation("cross", rings, place)
    all_rings = facts.rings
    # From the largest to the smallest, so that an inner ring follows its outer one.
    order = sorted(range(len(rings)), key=lambda k: -abs(all_rings.area[rings[k]]))
    kind: Literal["opposite", "same"] = "same"
    place = tuple(outlines[order[-1]][0].tolist())
    for k, inner in enumerate(order):
        for outer in order[:k]:
            if _are_same(facts, rings[inner], rings[outer]):
                place = tuple(outlines[inner][0].tolist())
                return Relation("cross", rings, place)
            area = all_rings.area[[rings[inner], rings[outer]]]
            first = outlines[inner][0]
            if area[0] * area[1] < 0 and is_inside(first, outlines[outer]):
                kind, place = "opposite", tuple(first.tolist())
    return Relation(kind, rings, place)


def _are_same(facts: "Facts", ring: int, other: int) -> bool:
    """Return whether two rings have the same extent and area."""
    rings = facts.rings
    near = np.abs(rings.low[ring] - rings.low[other]).max() <= SAME
    near &= np.abs(rings.high[ring] - rings.high[other]).max() <= SAME
    apart = abs(abs(rings.area[ring]) - abs(rings.area[other]))
    return bool(near and apart <= SAME * (1 + rings.length[ring]))


def is_inside(point: Floats, ring: Floats) -> bool:
    """Return whether a point lies inside a ring, by even-odd."""
    (x0, y0), (x1, y1) = ring.T, np.roll(ring, -1, axis=0).T
    x, y = point.tolist()
    crosses = (y0 <= y) != (y1 <= y)
    x0, y0, x1, y1 = (values[crosses] for values in (x0, y0, x1, y1))
    at = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
    return int((at <= x).sum()) % 2 == 1


def loops_of(points: Floats, edges: Indices) -> list[tuple[float, float, float]]:
    """Return area and (x, y) of crossings of a ring that matter.

    points : float64 (n, 2)
    edges  : int64 (m, 2), pairs of edges that cross

    A crossing divides the ring into two loops; the area is that of the smaller one. If
    this lies within the larger one and runs the other way round, it is the hole of a
    keyhole, and all fill rules leave it out.
    """
    loops = []
    for i, j in edges.tolist():
        place = _crossing(points[[i, (i + 1) % len(points), j, (j + 1) % len(points)]])
        parts = [
            points[i + 1 : j + 1],
            np.concatenate([points[j + 1 :], points[: i + 1]]),
        ]
        parts = [np.concatenate([place[None], part]) for part in parts]
        small, large = sorted(parts, key=lambda part: abs(area_of(part)))
        area = area_of(small)
        is_hole = area * area_of(large) < 0 and is_inside(small[len(small) // 2], large)
        if not is_hole:
            loops.append((abs(area), *place.tolist()))
    return loops


def _crossing(ends: Floats) -> Floats:
    """Return the point where the edges from ends 0 to 1 and 2 to 3 cross."""
    along, other, between = ends[1] - ends[0], ends[3] - ends[2], ends[2] - ends[0]
    across = along[0] * other[1] - along[1] * other[0]
    fraction = (between[0] * other[1] - between[1] * other[0]) / across
    point: Floats = ends[0] + min(max(fraction, 0.0), 1.0) * along
    return point


def area_of(points: Floats) -> float:
    """Return the area of a ring, positive if x turns towards y."""
    x, y = (points - points[0]).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def rings_with_tips(facts: "Facts", first: int, stop: int) -> Indices:
    """Return the rings that have a sharp vertex, or two vertices at one point."""
    points, following, bounds = edges_of(facts, first, stop)
    before = np.empty_like(following)
    before[following] = np.arange(len(points))
    sharp, blunt = _turns(points, before, following)
    return first + np.flatnonzero(np.logical_or.reduceat(sharp | blunt, bounds[:-1]))


def _turns(points: Floats, before: Indices, following: Indices) -> tuple[Bools, Bools]:
    """Return at which vertices the outline turns back, and along which short edges."""
    along = points[following] - points
    length = np.sqrt((along**2).sum(axis=1))
    out, back = along[before], along[following]
    sharp = -(along * out).sum(axis=1) >= TIP * length * length[before]
    blunt = -(back * out).sum(axis=1) >= TIP * length[following] * length[before]
    return sharp, blunt & (length <= BLUNT)


def spikes_of(points: Floats, least: float) -> list[tuple[float, float, float]]:
    """Return length and (x, y) of the tips of a ring's spikes.

    least : least length of a spike, in pixels

    The outline is followed from a tip to both sides, as far as they stay together.
    """
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    count = len(points)
    if count < 4:
        return []
    numbers = np.arange(count)
    sharp, blunt = _turns(points, numbers - 1, (numbers + 1) % count)
    x, y = np.concatenate([points, points[:1]]).T.copy()
    steps = np.hypot(np.diff(x), np.diff(y))
    at = np.append(0.0, np.cumsum(steps))
    around, area = float(at[-1]), abs(area_of(points))

    def point(place: Floats) -> Floats:
        return np.array([np.interp(place % around, at, column) for column in (x, y)])

    places = np.concatenate([at[:-1][sharp], (at[:-1] + steps / 2)[blunt]])
    tips, lengths = point(places), np.zeros(len(places))
    # All tips at once: a ring of 20 000 vertices in noise has as many.
    rows, distance = np.arange(len(places)), least
    while len(rows) and distance <= around / 4:
        start, end = point(places[rows] - distance), point(places[rows] + distance)
        apart = np.hypot(*(end - start))
        together = (apart <= SLENDER * distance) & (
            apart * distance * SPIKE_AREA <= 2 * area
        )
        rows = rows[together]
        middle = (start + end)[:, together] / 2
        lengths[rows] = np.hypot(*(tips[:, rows] - middle))
        distance *= 1.25
    kept: list[int] = []
    for row in np.flatnonzero(lengths > 0).tolist():
        if (np.hypot(*(tips[:, kept] - tips[:, [row]])) > least).all():
            kept.append(row)
    return [(float(lengths[k]), *tips[:, k].tolist()) for k in kept]


def rings_with_long_edges(
    facts: "Facts", first: int, stop: int, factor: float, least: float
) -> Indices:
    """Return the rings of which `jumps_of` may find jumps, and some more."""
    points, following, bounds = edges_of(facts, first, stop)
    length = np.sqrt(((points[following] - points) ** 2).sum(axis=1))
    longest = np.maximum.reduceat(length, bounds[:-1])
    total = np.add.reduceat(length, bounds[:-1])
    vertices = np.diff(bounds)
    # Without the two longest edges, the mean is at least this.
    mean = (total - 2 * longest).clip(0) / (vertices - 2).clip(1)
    chosen = (longest > least) & (longest > factor * mean)
    return first + np.flatnonzero(chosen & (vertices >= LEAST_VERTICES))


def jumps_of(
    points: Floats, factor: float, least: float
) -> list[tuple[float, float, float]]:
    """Return length and middle (x, y) of the edges of a ring that are far too long.

    factor : how many times the usual length they have at least
    least  : their least length, in pixels

    Half of the outline, without its two longest edges, consists of edges of at most the
    usual length. Up to MOST_JUMPS edges jump, if they are GAP times as long as all
    others. Edges along rows and columns may have any length, because outlines of masks
    have such edges, and so may the two sides of a keyhole.
    """
    following = np.roll(points, -1, axis=0)
    length = np.sqrt(((following - points) ** 2).sum(axis=1))
    order = np.sort(length)
    sums = np.cumsum(order[:-2])
    usual = float(order[np.searchsorted(sums, sums[-1] / 2)])
    gaps = order[-MOST_JUMPS:] > GAP * order[-MOST_JUMPS - 1 : -1]
    if not gaps.any():
        return []
    shortest = float(order[-MOST_JUMPS:][gaps][-1])
    long = np.flatnonzero(
        (length >= shortest)
        & (length > least)
        & (length > factor * usual)
        & (np.abs(following - points).min(axis=1) > PARALLEL * length)
    )
    jumps = []
    for k in long.tolist():
        start, end = points[k], following[k]
        back = np.abs(points - end).max(axis=1) <= KEYHOLE
        back &= np.abs(following - start).max(axis=1) <= KEYHOLE
        if not back.any():
            jumps.append((float(length[k]), *((start + end) / 2).tolist()))
    return jumps
