"""Compares the rasterizer with an exact oracle on a million polygons.

    python -m benchmarks.raster.soak [--polygons 1000000] [--seed 0]

Half of the polygons are random, half are difficult: vertices on pixel centres and one
float64 step beside them, coordinates from 5e-324 to 1e308, nearly horizontal edges,
repeated and collinear vertices, several rings. Every rule takes its turn. The oracle
works in whole numbers; tests compare it with rational arithmetic. The number of
differing pixels is printed; the exit status is 1 if any does.
"""

import argparse
import random
import sys
import time
from math import inf, nextafter

from fastseg.errors import GeometryError
from fastseg.raster.masks import rasterize
from fastseg.raster.rules import EDGES, FILLS, ORIGINS
from tests.reference import rasterize_whole


def coordinate(rng, difficult):
    """Return one coordinate about a canvas of up to ten pixels."""
    kind = rng.random()
    if not difficult:
        return rng.uniform(-3, 12)
    if kind < 0.45:
        return rng.randint(-6, 22) / 2
    if kind < 0.7:
        towards = rng.choice((-inf, inf))
        return nextafter(rng.randint(-6, 22) / 2, towards)
    if kind < 0.85:
        return rng.uniform(-3, 12)
    size = 10 ** (rng.uniform(-323, -1) if kind < 0.93 else rng.uniform(1, 308))
    return rng.choice((-1, 1)) * size


def polygon(rng):
    """Return rings: one or a few, some with repeated and collinear vertices."""
    difficult = rng.random() < 0.5
    rings = []
    for _ in range(rng.choice((1, 1, 1, 2, 3)) if difficult else 1):
        count = rng.randint(3, 8)
        ring = [
            (coordinate(rng, difficult), coordinate(rng, difficult))
            for _ in range(count)
        ]
        if difficult and rng.random() < 0.2:
            ring.insert(rng.randrange(count), rng.choice(ring))
        if difficult and rng.random() < 0.2:  # a nearly horizontal edge
            _, y = ring[0]
            ring[1] = (ring[1][0], nextafter(y, rng.choice((-inf, inf))))
        rings.append(ring)
    return rings


def main():
    """Compare and count."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--polygons", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    compared = 0
    pixels = 0
    differing = 0
    start = time.monotonic()
    while compared < arguments.polygons:
        rings = polygon(rng)
        shape = rng.randint(1, 8), rng.randint(1, 10)
        rule = {
            "edges": rng.choice(EDGES),
            "fill": rng.choice(FILLS),
            "origin": rng.choice(ORIGINS),
            "groups": rng.choice([None, [rng.randrange(2) for _ in rings]]),
        }
        try:
            mask = rasterize(rings, shape, **rule)
        except GeometryError:  # fewer than three distinct vertices
            continue
        wrong = int((mask != rasterize_whole(rings, shape, **rule)).sum())
        if wrong:
            print(f"{wrong} pixels differ: {rings!r}, {shape}, {rule}")
        compared += 1
        pixels += mask.size
        differing += wrong
        if compared % 100_000 == 0:
            seconds = time.monotonic() - start
            print(f"{compared:,} polygons, {differing} pixels differ, {seconds:.0f} s")
    print(f"{compared:,} polygons, {pixels:,} pixels, {differing} differ")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
