"""Contours to coverage: how much of each pixel lies inside."""

import numpy as np
from numpy.typing import NDArray

from fastseg._kernels.contours import area
from fastseg.raster.rings import Contours, as_rings, check_shape
from fastseg.raster.rules import Rules


def coverage(
    contours: Contours,
    shape: tuple[int, int],
    *,
    fill: str = "even-odd",
    origin: str = "center",
) -> NDArray[np.float32]:
    """Return which part of the area of each pixel lies inside the contours.

    contours : one ring, array-like (n, 2), or a sequence of rings; columns (x, y)
        in pixels, closed implicitly (a repeated last vertex is fine)
    shape : (rows, columns) of the result
    fill, origin : see `raster.rules.Rules`; holes are further rings. Pixel [r, c]
        is the square of side 1 around (x=c, y=r), or around (c + 0.5, r + 0.5) with
        origin="corner"

    Returns float32 (rows, columns), `[row, column]`, from 0 to 1 in pixels of area.
    Parts outside the image are cut off; a contour wholly outside gives zeros.

    The area is computed, not sampled, and right for every polygon: rings may cross
    themselves and one another, overlap and coincide. What is not exact is float64
    arithmetic, to about 1e-16 times the largest coordinate, and the rounding of the
    result to float32. Pixels farther than 2**-30 from every edge are exactly 0 or 1,
    as in the mask that `rasterize` returns, and the sum is the area of what lies in
    the image. The time grows with the cube of the edges in a row in which many edges
    cross one another.

    The method is that of font rasterizers, see `fastseg._kernels.contours.area`.

    Raises GeometryError for vertices that are not finite numbers in an (n, 2)
    array or a ring with fewer than three distinct ones, OptionError for a bad
    shape or rule.
    """
    rules = Rules(fill=fill, origin=origin)
    height, width = check_shape(shape)
    points, offsets = as_rings(contours)
    mask = np.empty((height, width), np.float32)
    count = len(points)
    # Each edge of a drawn contour lies in one or two rows; more take more blocks.
    room = 2 * (count + height)
    area.cover_mask(
        points,
        offsets,
        0,
        len(offsets) - 1,
        0.5 - rules.shift,
        rules.fill == "nonzero",
        mask.reshape(-1),
        height,
        width,
        np.empty(height + 2, np.int64),
        np.empty((room, 4), np.float64),
        np.empty(room, np.int64),
        np.empty((area.MOST_CHAINS, 4), np.float64),
        np.empty((area.MOST_CHAINS, 3), np.int64),
        np.empty(2 * count, np.float64),
        np.empty((count, 2), np.float64),
        np.empty(count, np.int64),
        np.zeros((width + 1, 2), np.float64),
        np.zeros(width // 64 + 1, np.uint64),
    )
    return mask
