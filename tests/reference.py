"""Oracles: slow and obviously right."""

from fractions import Fraction

import numpy as np


def rasterize_exact(rings, shape):
    """Even-odd, half-open fill in rational arithmetic."""
    mask = np.zeros(shape, dtype=bool)
    for ring in rings:
        pts = [(Fraction(x), Fraction(y)) for x, y in np.asarray(ring).tolist()]
        for (x0, y0), (x1, y1) in zip(pts, pts[1:] + pts[:1], strict=True):
            for r in range(shape[0]):
                if (y0 <= r) != (y1 <= r):
                    crossing = x0 + (r - y0) * (x1 - x0) / (y1 - y0)
                    for c in range(shape[1]):
                        mask[r, c] ^= crossing <= c
    return mask
