"""Contours to signed distances: from each pixel centre to the outline."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg._kernels.contours import distance
from fastseg.calls import check_call
from fastseg.choices import Fill, Origin
from fastseg.errors import OptionError, in_order, real_number
from fastseg.raster.masks import draw_rings
from fastseg.raster.rings import (
    Contours,
    as_grouped_rings,
    check_shape,
    shift_origin,
)
from fastseg.raster.rules import Rules

# Edges that reach farther than both limits (in units, in image sides) are cut to the
# segment that is nearest to the image, in rational arithmetic. Float64 could not say
# where a longer edge passes the image; within the limits it errs by 1e-10 units.
REACH = 2.0**16
REACH_IN_SIDES = 4
# The square of a larger coordinate might overflow. Seen from that far, the whole image
# is one point.
FAR = 2.0**400
# If all edges are farther than FAR, the unit is multiplied by two to this power.
RAISE = 600


@check_call()
def signed_distance(
    contours: Contours,
    shape: tuple[int, int],
    spacing: tuple[float, float] = (1.0, 1.0),
    *,
    groups: ArrayLike | None = None,
    fill: Fill = "even-odd",
    origin: Origin = "center",
) -> NDArray[np.float32]:
    """Return the distance of each pixel centre from the contours, negative inside.

    contours : one ring, array-like (n, 2), or a sequence of rings; columns (x, y)
        in pixels, closed implicitly; see `rasterize`
    shape : (rows, columns) of the image
    spacing : millimetres between rows and between columns, as in DICOM PixelSpacing
    groups : as for `rasterize`
    fill, origin : see `Rules`; a hole is a ring of its own

    Returns float32 (rows, columns), `[row, column]`, in millimetres: the Euclidean
    distance from the centre to the nearest point of the outline, which is every edge of
    every ring. Edges that do not bound the region count too, such as those of a ring
    within another under `fill="nonzero"`, or of one group within another. The distance
    is negative where `rasterize` covers the centre and 0 on the outline. Without
    contours it is +inf everywhere; a distance that is too large for float32 is infinite
    as well.

    The distance is that to the polygon, not to a mask of it. For every finite input,
    and images of up to a million rows and columns, its error is at most 1e-6 of the
    distance, plus 1e-9 of the larger spacing, plus the smallest float32. Branch and
    bound over blocks of pixels finds the nearest edge and skips no edge that could be
    nearest (see `_kernels.contours.distance`).

    Raises GeometryError and OptionError as `rasterize` does, and OptionError for a
    spacing that is not two positive finite numbers.
    """
    rules = Rules(fill=fill, origin=origin)
    height, width = check_shape(shape)
    row_mm, column_mm = _check_spacing(spacing)
    points, offsets, ring_groups = as_grouped_rings(contours, groups, rules)
    if not len(points):
        return np.full((height, width), np.inf, np.float32)
    inside = np.empty((height, width), np.uint8)
    draw_rings(points, offsets, inside, 0, rules, groups=ring_groups, clear=True)

    # Each spacing is a weight in [1, 2) times a power of two. The larger of the two
    # powers is the unit: scaling by a power of two rounds nothing.
    wx, power_x = _split(column_mm)
    wy, power_y = _split(row_mm)
    power = max(power_x, power_y)
    steps = np.ldexp(1.0, [power_x - power, power_y - power])
    ends = _edges(shift_origin(points, origin) * steps, offsets)
    right = (width - 1) * float(steps[0])
    bottom = (height - 1) * float(steps[1])
    limit = max(REACH, REACH_IN_SIDES * max(right, bottom))
    for k in np.flatnonzero(np.abs(ends).max(axis=1) > limit):
        ends[k] = _cut_to_image(ends[k], right, bottom, wx, wy)
    far = np.abs(ends).max(axis=1) > FAR
    raised = 0
    if far.all():
        raised = RAISE
        ends = np.ldexp(ends, -raised)
        steps = np.ldexp(steps, -raised)
    elif far.any():
        ends = ends[~far]

    step_x, step_y = steps.tolist()
    grid = distance.Grid(
        np.arange(width) * step_x,
        step_x,
        step_y,
        wx,
        wy,
        math.ldexp(1.0, power),
        math.ldexp(1.0, raised),
    )
    out = np.empty((height, width), np.float32)
    scratch = distance.make_distance_scratch(len(ends))
    distance.measure_distances(ends, grid, inside, scratch, out)
    return out


def _check_spacing(spacing: Any) -> tuple[float, float]:
    """Return spacing as two floats, or raise OptionError."""
    try:
        rows, columns = (real_number("spacing", step) for step in in_order(spacing))
    except (TypeError, ValueError):  # OptionError is a ValueError
        rows = columns = math.nan
    if not (rows > 0 and columns > 0):
        raise OptionError(
            f"spacing is {spacing!r}, expected millimetres (between rows, between "
            "columns), two positive finite numbers"
        )
    return rows, columns


def _split(step: float) -> tuple[float, int]:
    """Return (weight in [1, 2), power) with weight * 2**power == step."""
    weight, power = math.frexp(step)
    return 2 * weight, power - 1


def _edges(
    points: NDArray[np.float64], offsets: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the edges of all rings, (P, 4): x, y of the start and of the end."""
    following = np.arange(1, len(points) + 1)
    following[offsets[1:] - 1] = offsets[:-1]
    return np.hstack([points, points[following]])


def _cut_to_image(
    edge: NDArray[np.float64],
    right: float,
    bottom: float,
    wx: float,
    wy: float,
) -> tuple[float, float, float, float]:
    """Return the ends of the segment of an edge that is nearest to the image.

    edge : float64 (4,), ax, ay, bx, by

    The image spans [0, right] x [0, bottom]. The segment contains, for each point of
    the image, the nearest point of the edge: it reaches from the first to the last of
    the projections of the image's corners. Only the result is rounded.
    """
    x, y, end_x, end_y = (Fraction(number) for number in edge.tolist())
    dx, dy = end_x - x, end_y - y
    px = dx * Fraction(wx) ** 2
    py = dy * Fraction(wy) ** 2
    square = dx * px + dy * py
    if not square:
        return float(x), float(y), float(end_x), float(end_y)
    # 0 is the start of the edge, 1 its end.
    projections = [
        ((column - x) * px + (row - y) * py) / square
        for column in (Fraction(0), Fraction(right))
        for row in (Fraction(0), Fraction(bottom))
    ]
    first, last = (
        min(max(projection, Fraction(0)), Fraction(1))
        for projection in (min(projections), max(projections))
    )
    return (
        float(x + first * dx),
        float(y + first * dy),
        float(x + last * dx),
        float(y + last * dy),
    )
