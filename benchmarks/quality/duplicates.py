"""How long it takes to look for equal ones among all pairs of 100 000 contours.

    python -m benchmarks.quality.duplicates [--contours 100000]

Contours are drawn at random, 60 to 380 vertices each, 20 of a patient, near the middle
of an image. One in fifty becomes a copy of one of another patient: the same vertices,
others in another order, rounded ones, twice as many, or moved. Printed are the seconds
of CPU of each step, and how many copies of each kind are found.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from benchmarks.tables import table_of
from fastseg.quality.contour_matches import (
    expected_by_chance,
    measure_outlines,
    moved,
    same_place,
    same_place_elsewhere,
)

Ring = NDArray[np.float64]

OF_PATIENT = 20
# Of so many contours, one is a copy.
ONE_OF = 50
# Distances in pixels, and the number of pairs, of the rules; see `duplicates`.
EQUAL, NEAR, MOVED, CHANCE = 0.05, 0.75, 0.02, 1.0


def double(ring: Ring) -> Ring:
    """Return a ring with a vertex in the middle of each edge."""
    middle = (ring + np.roll(ring, -1, axis=0)) / 2
    return np.stack([ring, middle], axis=1).reshape(-1, 2)


COPIES: dict[str, Callable[[Ring], Ring]] = {
    "equal": lambda ring: ring.copy(),
    "from another vertex": lambda ring: np.roll(ring[::-1], 7, axis=0),
    "rounded to 0.01 pixels": lambda ring: ring.round(2),
    "rounded to 0.5 pixels": lambda ring: (2 * ring).round() / 2,
    "twice as many vertices": double,
    "moved": lambda ring: ring + (6, -11),
}


def draw(rng: np.random.Generator) -> Ring:
    """Return a random ring about the middle of an image of 256 x 256 pixels."""
    count = int(rng.integers(60, 380))
    angle = np.arange(count) * 2 * np.pi / count
    order = np.arange(2, 9)[:, None]
    waves = 0.1 / order * rng.normal(size=(7, 1))
    radius = 1 + (waves * np.cos(order * angle + rng.uniform(0, 7, (7, 1)))).sum(axis=0)
    radius *= rng.uniform(10, 40)
    centre = rng.normal(128, 10, 2)
    return centre + np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])


def main() -> None:
    """Print the time of each step and how many copies are found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contours", type=int, default=100_000)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    rings = [draw(rng) for _ in range(options.contours)]
    patient = np.arange(len(rings)) // OF_PATIENT
    copied = put_copies(rings, patient, rng)
    points = np.concatenate(rings)
    offsets = np.cumsum([0, *map(len, rings)])
    del rings
    measure_outlines(points[: offsets[10]], offsets[:11])
    times: dict[str, float] = {}

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        start = time.process_time()
        yield
        times[step] = time.process_time() - start

    with timed("measure"):
        outlines = measure_outlines(points, offsets)
    which = outlines.number
    kind = np.zeros(len(which), np.int64)
    with timed("in patients"):
        same_place(outlines, which, EQUAL, patient)
    with timed("across patients"):
        place = same_place_elsewhere(outlines, which, NEAR, patient)
    with timed("moved"):
        shape = moved(outlines, which, MOVED)
    with timed("chance"):
        chances = [
            expected_by_chance(outlines, which, kind, found, is_placed=is_placed)
            for found, is_placed in ((place, True), (shape, False))
        ]
    found = set()
    for matches, chance in zip((place, shape), chances, strict=True):
        found |= {*map(tuple, matches.pairs[chance <= CHANCE].tolist())}
    print(f"{len(which):,} contours, {len(points):,} vertices")
    rows = [(step, f"{seconds:.2f} s") for step, seconds in times.items()]
    rows.append(("together", f"{sum(times.values()):.2f} s"))
    print(table_of([("step", "CPU"), *rows]))
    of_kind = [
        (name, str(len(pairs)), f"{len(pairs & found) / len(pairs):.1%}")
        for name, pairs in copied.items()
    ]
    print(table_of([("copy", "put", "found"), *of_kind]))
    others = found - set().union(*copied.values())
    print(f"other pairs: {len(others)}")


def put_copies(
    rings: list[Ring], patient: NDArray[np.int64], rng: np.random.Generator
) -> dict[str, set[tuple[int, int]]]:
    """Replace some rings by copies of others; return the pairs of each kind."""
    copied: dict[str, set[tuple[int, int]]] = {name: set() for name in COPIES}
    chosen = rng.permutation(len(rings))[: 2 * (len(rings) // ONE_OF)].reshape(-1, 2)
    for k, (a, b) in enumerate(np.sort(chosen, axis=1).tolist()):
        if patient[a] != patient[b]:
            name = [*COPIES][k % len(COPIES)]
            rings[b] = COPIES[name](rings[a])
            copied[name].add((a, b))
    return copied


if __name__ == "__main__":
    main()
