"""How far outlines are from each other, pair by pair.

Most pairs that are compared differ: a few points show it. So each comparison ends at
the first distance beyond its limit. Where outlines agree, the point of one that is
nearest to a vertex of the other lies close to that of the vertex before, and is sought
there first.
"""

import math

from fastseg._kernels.jit import entry, inlined, kernel

# So many vertices, evenly spaced, are looked at before all others.
SAMPLED = 8
# Segments on either side of the last nearest one that are tried first.
BESIDE = 3


@inlined
def squared_distance(x, y, points, start, stop, k):
    """Return the squared distance from (x, y) to segment k of an outline.

    points : float64 (P, 2); the outline is points[start:stop]
    """
    after = k + 1 if k + 1 < stop else start
    ax, ay = points[k, 0], points[k, 1]
    step_x, step_y = points[after, 0] - ax, points[after, 1] - ay
    dx, dy = x - ax, y - ay
    length = step_x * step_x + step_y * step_y
    along = (dx * step_x + dy * step_y) / length if length > 0.0 else 0.0
    along = min(max(along, 0.0), 1.0)
    dx -= along * step_x
    dy -= along * step_y
    return dx * dx + dy * dy


@kernel
def nearest_segment(x, y, points, start, stop):
    """Return the squared distance to the nearest segment of an outline, and which."""
    least = math.inf
    nearest = start
    for k in range(start, stop):
        square = squared_distance(x, y, points, start, stop, k)
        if square < least:
            least = square
            nearest = k
    return least, nearest


@kernel
def add_distances(points, a_start, a_stop, b_start, b_stop, limit):
    """Return the largest and the sum of the squared distances of vertices of a from b.

    Both are inf if one is beyond the limit. A distance that is within the limit may be
    that of a segment beside the nearest one, so that it is too large.
    """
    every = max((a_stop - a_start) // SAMPLED, 1)
    for k in range(a_start, a_stop, every):
        square, _ = nearest_segment(points[k, 0], points[k, 1], points, b_start, b_stop)
        if square > limit:
            return math.inf, math.inf
    largest = 0.0
    total = 0.0
    near = -1
    count = b_stop - b_start
    for k in range(a_start, a_stop):
        x, y = points[k, 0], points[k, 1]
        least = math.inf
        if near >= 0:
            nearest = near
            for j in range(near - BESIDE, near + BESIDE + 1):
                other = b_start + (j - b_start) % count
                square = squared_distance(x, y, points, b_start, b_stop, other)
                if square < least:
                    least = square
                    nearest = other
            near = nearest
        if least > limit:
            least, near = nearest_segment(x, y, points, b_start, b_stop)
            if least > limit:
                return math.inf, math.inf
        largest = max(largest, least)
        total += least
    return largest, total


@entry(
    points="const float64[:, ::1]",
    offsets="const int64[::1]",
    pairs="const int64[:, ::1]",
    tolerance="float64",
    largest="float64[::1]",
    rms="float64[::1]",
)
def compare_places(points, offsets, pairs, tolerance, largest, rms):
    """Write how far the outlines of each pair are from each other.

    points  : float64 (P, 2), (x, y) in pixels
    offsets : int64 (U + 1,); outline k is points[offsets[k]:offsets[k + 1]], not empty
    pairs   : int64 (m, 2), numbers of outlines
    largest : float64 (m,), written: the largest distance of a vertex from the other
        outline, in pixels; inf if it is beyond the tolerance
    rms     : float64 (m,), written: the root of the mean squared distance, likewise
    """
    limit = tolerance * tolerance
    for k in range(len(pairs)):
        a, b = pairs[k, 0], pairs[k, 1]
        largest[k] = rms[k] = math.inf
        most, total = add_distances(
            points, offsets[a], offsets[a + 1], offsets[b], offsets[b + 1], limit
        )
        if most > limit:
            continue
        most_back, total_back = add_distances(
            points, offsets[b], offsets[b + 1], offsets[a], offsets[a + 1], limit
        )
        if most_back > limit:
            continue
        count = offsets[a + 1] - offsets[a] + offsets[b + 1] - offsets[b]
        largest[k] = math.sqrt(max(most, most_back))
        rms[k] = math.sqrt((total + total_back) / count)


@entry(
    points="const float64[:, ::1]",
    means="const float64[:, ::1]",
    offsets="const int64[::1]",
    pairs="const int64[:, ::1]",
    tolerance="float64",
    largest="float64[::1]",
    rms="float64[::1]",
)
def compare_shapes(points, means, offsets, pairs, tolerance, largest, rms):
    """Write how far the vertices of each pair are apart when their means agree.

    points, offsets, pairs : as of `compare_places`; both of a pair have as many
        vertices, none of which repeats the one before
    means        : float64 (U, 2), of the vertices
    largest, rms : float64 (m,), written: of the distances of corresponding vertices, in
        pixels; inf if one is beyond the tolerance, whatever the first vertex and the
        direction
    """
    limit = tolerance * tolerance
    for k in range(len(pairs)):
        a, b = pairs[k, 0], pairs[k, 1]
        largest[k] = rms[k] = math.inf
        start, first = offsets[a], offsets[b]
        count = offsets[a + 1] - start
        dx, dy = means[b, 0] - means[a, 0], means[b, 1] - means[a, 1]
        for turn in range(count):
            for direction in (1, -1):
                most = 0.0
                total = 0.0
                for j in range(count):
                    other = first + (turn + direction * j) % count
                    x = points[other, 0] - points[start + j, 0] - dx
                    y = points[other, 1] - points[start + j, 1] - dy
                    square = x * x + y * y
                    if square > limit:
                        most = math.inf
                        break
                    most = max(most, square)
                    total += square
                if most <= limit and math.sqrt(total / count) < rms[k]:
                    largest[k] = math.sqrt(most)
                    rms[k] = math.sqrt(total / count)
