"""Oracles: slow and obviously right."""

from fractions import Fraction

import numpy as np


def rasterize_exact(rings, shape, edges="half-open", fill="even-odd", origin="center"):
    """Fill rings in rational arithmetic, pixel by pixel."""
    shift = Fraction(1, 2) if origin == "corner" else 0
    lines = []
    for ring in rings:
        pts = [(Fraction(x), Fraction(y)) for x, y in np.asarray(ring).tolist()]
        lines += zip(pts, pts[1:] + pts[:1], strict=True)
    mask = np.zeros(shape, dtype=bool)
    for r, c in np.ndindex(shape):
        mask[r, c] = covers(lines, c + shift, r + shift, edges, fill)
    return mask


def covers(lines, x, y, edges, fill):
    """Return whether the region inside the lines covers a point."""
    crossings = winding = 0
    for (x0, y0), (x1, y1) in lines:
        if (y0 <= y) != (y1 <= y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x:
            crossings += 1
            winding += 1 if y0 < y1 else -1
    inside = crossings % 2 == 1 if fill == "even-odd" else winding != 0
    if edges != "half-open" and any(lies_on(line, x, y) for line in lines):
        return edges == "closed"
    return inside


def lies_on(line, x, y):
    """Return whether a point lies on a line segment, its ends included."""
    (x0, y0), (x1, y1) = line
    return (
        min(x0, x1) <= x <= max(x0, x1)
        and min(y0, y1) <= y <= max(y0, y1)
        and (x1 - x0) * (y - y0) == (x - x0) * (y1 - y0)
    )
