"""Hypothesis strategies for rings of vertices; failures shrink to readable numbers."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from fastseg._kernels import jit

# Examples of a property at most where kernels run as Python: that takes long, and the
# same property was tried with the compiled kernels.
MOST_INTERPRETED = 10


def examples(count):
    """Return the settings of a test of kernels with so many examples, compiled."""
    most = MOST_INTERPRETED if jit.INTERPRETED else count
    return settings(max_examples=min(count, most))


# Vertices on pixel centres and borders, where ties occur.
half_pixels = st.integers(-8, 32).map(lambda k: k / 2)


@st.composite
def near_pixel_centres(draw):
    """An integer, or the next smaller or larger floating-point number."""
    value = float(draw(st.integers(-3, 14)))
    direction = draw(st.sampled_from([0.0, -np.inf, np.inf]))
    return float(np.nextafter(value, direction)) if direction else value


# Every finite float64: magnitudes from 5e-324 to 1.7e308.
any_finite = st.floats(allow_nan=False, allow_infinity=False)
near_image = st.floats(-4, 16, allow_nan=False)
coordinates = st.one_of(half_pixels, near_pixel_centres(), near_image, any_finite)


def rings(coordinate=coordinates, most=9, fewest=3):
    """Rings of `fewest` to `most` vertices, at least 3 of them distinct."""
    vertex = st.tuples(coordinate, coordinate)
    return st.lists(vertex, min_size=fewest, max_size=most).filter(
        # -0.0 and 0.0 are the same coordinate
        lambda ring: len({(x + 0.0, y + 0.0) for x, y in ring}) >= 3
    )


shapes = st.tuples(st.integers(1, 12), st.integers(1, 14))


@st.composite
def rings_split_at_a_chord(draw, coordinate=coordinates):
    """(whole, left, right): a ring and the two parts that a chord cuts it into."""
    ring = draw(rings(coordinate, fewest=4))
    cut = draw(st.integers(2, len(ring) - 2))
    return ring, ring[: cut + 1], [*ring[cut:], ring[0]]
