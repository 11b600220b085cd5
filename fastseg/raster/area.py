"""Contours to coverage: the fraction of each pixel that lies inside."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg._kernels.contours import area
from fastseg.calls import check_call
from fastseg.choices import Fill, Origin
from fastseg.raster.rings import Contours, as_grouped_rings, check_shape
from fastseg.raster.rules import make_rules


@check_call()
def coverage(
    contours: Contours,
    shape: tuple[int, int],
    *,
    groups: ArrayLike | None = None,
    fill: Fill = "even-odd",
    origin: Origin = "center",
) -> NDArray[np.float32]:
    """Return the fraction of each pixel's area that lies inside the contours.

    contours : one ring, array-like (n, 2), or a sequence of rings; columns (x, y)
        in pixels, closed implicitly; see `rasterize`
    shape : (rows, columns) of the result
    groups : as for `rasterize`; where groups overlap, the area counts once
    fill, origin : see `raster.rules.Rules`; a hole is a ring of its own. Pixel [r, c]
        is the square of side 1 around (x=c, y=r), or around (c + 0.5, r + 0.5) with
        origin="corner"

    Returns float32 (rows, columns), `[row, column]`, each from 0 to 1. Contours are
    cut at the border of the image; a contour wholly outside gives zeros.

    The area is computed, not sampled, for every polygon: rings may cross themselves
    and one another, overlap and coincide. The error is that of float64 arithmetic,
    about 1e-16 times the largest coordinate, and of rounding the result to float32.
    Pixels farther than 2**-30 from every edge are exactly 0 or 1, as in the mask that
    `rasterize` returns. The sum of all pixels is the area of the contours within the
    image. In rows where many edges cross one another, the time grows with the cube of
    the number of edges.

    Font rasterizers use the same method, see `fastseg._kernels.contours.area`.

    Raises GeometryError for vertices that are not finite numbers in an (n, 2)
    array or a ring with fewer than three distinct ones, OptionError for a bad
    shape, rule or group.
    """
    rules = make_rules("half-open", fill, origin)
    height, width = check_shape(shape)
    points, offsets, ring_groups = as_grouped_rings(contours, groups, rules)
    if ring_groups is not None:
        ring_groups = np.unique(ring_groups, return_inverse=True)[1] + 1
    out = np.empty((height, width), np.float32)
    area.cover_mask(
        points,
        offsets,
        ring_groups,
        0.5 - rules.shift,
        rules.fill == "nonzero",
        out,
        area.make_cover_scratch(len(points), len(offsets) - 1, height, width),
    )
    return out
