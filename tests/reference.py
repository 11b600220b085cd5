"""Reference implementations of rasterizing: slow and obviously right."""

from fractions import Fraction

import numpy as np


def split_groups(rings, fill, groups=None):
    """Return [(rings, fill)] of each group: what is inside any of them is inside.

    Rings with equal numbers in `groups` are a group, and negative ones are even-odd.
    """
    if groups is None:
        groups = range(len(rings)) if fill == "union" else [0] * len(rings)
    members = {}
    for ring, group in zip(rings, groups, strict=True):
        members.setdefault(int(group), []).append(ring)
    return [
        (some, "nonzero" if fill == "nonzero" and group >= 0 else "even-odd")
        for group, some in members.items()
    ]


def rasterize_exact(
    rings, shape, edges="half-open", fill="even-odd", origin="center", groups=None
):
    """Return the mask of rings, pixel by pixel in rational arithmetic."""
    mask = np.zeros(shape, dtype=bool)
    for some, rule in split_groups(rings, fill, groups):
        mask |= fill_exact(some, shape, edges, rule, origin)
    return mask


def fill_exact(rings, shape, edges, fill, origin):
    """Return the mask of one group of rings, in rational arithmetic."""
    shift = Fraction(1, 2) if origin == "corner" else 0
    segments = []
    for ring in rings:
        pts = [(Fraction(x), Fraction(y)) for x, y in np.asarray(ring).tolist()]
        segments += zip(pts, pts[1:] + pts[:1], strict=True)
    mask = np.zeros(shape, dtype=bool)
    for r in range(shape[0]):
        crossings, touched = cut_at(segments, r + shift)
        for c in range(shape[1]):
            x = c + shift
            if edges != "half-open" and any(a <= x <= b for a, b in touched):
                mask[r, c] = edges == "closed"
                continue
            signs = [sign for crossing, sign in crossings if crossing <= x]
            mask[r, c] = sum(signs) != 0 if fill == "nonzero" else len(signs) % 2 == 1
    return mask


def cut_at(segments, y):
    """Return where line segments cross and touch the horizontal line at y.

    crossings : list of (x, 1 if the segment runs to larger y, else -1)
    touched   : list of (least x, greatest x) that a segment has on the line
    """
    crossings = []
    touched = []
    for (x0, y0), (x1, y1) in segments:
        if not min(y0, y1) <= y <= max(y0, y1):
            continue
        if y0 == y1:
            touched.append((min(x0, x1), max(x0, x1)))
            continue
        x = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
        touched.append((x, x))
        if (y0 <= y) != (y1 <= y):
            crossings.append((x, 1 if y0 < y1 else -1))
    return crossings, touched


def rasterize_whole(
    rings, shape, edges="half-open", fill="even-odd", origin="center", groups=None
):
    """Return the mask of rings, row by row in integers: exact and fast."""
    mask = np.zeros(shape, dtype=bool)
    for some, rule in split_groups(rings, fill, groups):
        mask |= fill_whole(some, shape, edges, rule, origin)
    return mask


def fill_whole(rings, shape, edges, fill, origin):
    """Return the mask of one group of rings, in integers.

    All coordinates are scaled by one power of two that makes them integers.
    """
    ratios = [
        [(x.as_integer_ratio(), y.as_integer_ratio()) for x, y in ring]
        for ring in rings
    ]
    unit = max(2, *(d for ring in ratios for pair in ring for _, d in pair))
    shift = unit // 2 if origin == "corner" else 0
    height, width = shape
    change = [[0] * (width + 1) for _ in range(height)]
    outline = [set() for _ in range(height)]
    for ring in ratios:
        whole = [
            (xn * (unit // xd) - shift, yn * (unit // yd) - shift)
            for (xn, xd), (yn, yd) in ring
        ]
        for (x0, y0), (x1, y1) in zip(whole, whole[1:] + whole[:1], strict=True):
            sign = 1 if y0 < y1 else -1
            xa, ya, xb, yb = (x0, y0, x1, y1) if y0 < y1 else (x1, y1, x0, y0)
            rows = range(max(0, -(-ya // unit)), min(height, yb // unit + 1))
            for r in rows:
                y = r * unit
                if ya == yb:
                    first, last = -(-min(xa, xb) // unit), max(xa, xb) // unit
                    outline[r].update(range(max(first, 0), min(last, width - 1) + 1))
                    continue
                across = xa * (yb - ya) + (y - ya) * (xb - xa)
                column, rest = divmod(across, unit * (yb - ya))
                if rest == 0 and 0 <= column < width:
                    outline[r].add(column)
                if y < yb:
                    after = column + (rest > 0)
                    change[r][min(max(after, 0), width)] += (
                        sign if fill == "nonzero" else 1
                    )
    mask = np.zeros(shape, dtype=bool)
    for r in range(height):
        totals = np.cumsum(change[r][:-1])
        mask[r] = totals != 0 if fill == "nonzero" else totals % 2 == 1
        if edges != "half-open":
            mask[r, list(outline[r])] = edges == "closed"
    return mask
