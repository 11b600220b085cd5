"""Hostile polygons, drawn by `rasterize` and row by row in whole numbers.

Vertices lie on pixel centres and one float64 step beside them, coordinates run from
5e-324 to 1e308, edges nearly coincide, rings run over themselves. Every rule takes its
turn. Tests compare the oracle with rational arithmetic.
"""

import random

import numpy as np

import fastseg
from tests.reference import rasterize_whole
from tests.soak import Fault

HUGE = (1e15, 1e16, 1e100, 1e300, 1.7e308)
TINY = (5e-324, 1e-300, 1e-17, 2.0**-52)


def run(folder, tries, seed):
    """Yield the kind of each polygon."""
    for k in range(tries):
        rng = random.Random(seed * 1_000_003 + k)
        kind = rng.choice(list(KINDS))
        rings = [KINDS[kind](rng) for _ in range(rng.choice((1, 1, 2, 3)))]
        options = {
            "edges": rng.choice(("half-open", "closed", "open")),
            "fill": rng.choice(("even-odd", "nonzero", "union")),
            "origin": rng.choice(("center", "corner")),
            "groups": rng.choice((None, [rng.randrange(3) for _ in rings])),
        }
        shape = rng.randint(1, 13), rng.randint(1, 17)
        if any(len(set(ring)) < 3 for ring in rings):
            yield "fewer than three vertices, not drawn"
            continue
        mask = fastseg.rasterize(rings, shape, **options)
        if not np.array_equal(mask, rasterize_whole(rings, shape, **options)):
            yield Fault(f"{kind}: rasterize({rings}, {shape}, **{options})")
        else:
            yield kind


def vertices(rng, coordinate, most=12):
    return [
        (coordinate(rng), coordinate(rng)) for _ in range(rng.choice((3, 4, 6, most)))
    ]


def on_grid(rng):
    return float(rng.randint(-2, 18))


def beside_the_grid(rng):
    return float(np.nextafter(rng.randint(-2, 18), rng.choice((-99, 99))))


def halves(rng):
    return rng.randint(-4, 36) / 2


def any_size(rng):
    number = rng.choice((*HUGE, *TINY, rng.uniform(-3, 18), float(rng.randint(0, 16))))
    return number * rng.choice((-1, 1))


def thin(rng):
    """Return a sliver between two long lines that nearly coincide."""
    x, y = rng.uniform(-3, 18), rng.uniform(-3, 14)
    slope = rng.choice((0.0, 1.0, 1 / 3, rng.uniform(-2, 2)))
    far = rng.choice((5.0, 20.0, 1e9))
    near = y + far * slope
    return [(x, y), (x + far, near), (x + far, float(np.nextafter(near, 99)))]


def spikes(rng):
    """Return a ring that runs to and fro along lines, over its own vertices."""
    ring = vertices(rng, halves)
    return ring + ring[::-1][: rng.randrange(len(ring))] + [ring[0]]


KINDS = {
    "on the grid": lambda rng: vertices(rng, on_grid),
    "beside the grid": lambda rng: vertices(rng, beside_the_grid),
    "at halves": lambda rng: vertices(rng, halves),
    "of any size": lambda rng: vertices(rng, any_size),
    "many vertices": lambda rng: vertices(rng, lambda r: r.uniform(-3, 20), 200),
    "slivers": thin,
    "spikes": spikes,
}
