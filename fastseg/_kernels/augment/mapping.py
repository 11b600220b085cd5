"""Mappings: which point of the image each pixel of the output shows.

A mapping gives the point q of the image that pixel (x, y) of the output shows:

    p = outer (x, y)     r = p + displacement at p     q = inner (r)

outer and inner are affine; `spline` describes the displacement. Pixel centres are at
integers. As the displacement is added to p, q is inner(outer(x, y)) plus the
displacement times the linear part of `inner`.

Kernels take displacements, or None where nothing is displaced: the code for
displacements is then left out, a third of an entry's.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from fastseg._kernels.augment.spline import Displacement
from fastseg._kernels.jit import flat, inlined, kernel

u64 = np.uint64


class Affine(NamedTuple):
    """Maps (x, y) to (xx * x + xy * y + x0, yx * x + yy * y + y0); all float64."""

    xx: float
    xy: float
    x0: float
    yx: float
    yy: float
    y0: float


class Affines(NamedTuple):
    """The affine parts of the mappings of b samples.

    outer, inner : float64 (b, 2, 3), applied to (x, y, 1)
    """

    outer: Any
    inner: Any


class Displacements(NamedTuple):
    """The displacements of b samples.

    control : float64 (b, gy, gx, 2), control points, see `spline`; an empty grid for
        none
    spacing : float64, distance between control points, pixels
    """

    control: Any
    spacing: float


class Mapping(NamedTuple):
    """The affine parts of a sample's mapping.

    outer, inner : Affine
    whole        : Affine, outer and then inner
    """

    outer: Affine
    inner: Affine
    whole: Affine


# Their types in entries.
AFFINES = (Affines, "const float64[:, :, ::1]", "const float64[:, :, ::1]")
DISPLACEMENTS = ["none", (Displacements, "const float64[:, :, :, ::1]", "float64")]


@inlined
def affine_of(matrices, j):
    """Return an Affine, matrices[j] of float64 (b, 2, 3)."""
    cells, k = flat(matrices), u64(6 * j)
    return Affine(
        cells[k],
        cells[k + u64(1)],
        cells[k + u64(2)],
        cells[k + u64(3)],
        cells[k + u64(4)],
        cells[k + u64(5)],
    )


@kernel
def mapping_of(affines, j):
    """Return the Mapping of sample j."""
    outer, inner = affine_of(affines.outer, j), affine_of(affines.inner, j)
    whole = Affine(
        inner.xx * outer.xx + inner.xy * outer.yx,
        inner.xx * outer.xy + inner.xy * outer.yy,
        inner.xx * outer.x0 + inner.xy * outer.y0 + inner.x0,
        inner.yx * outer.xx + inner.yy * outer.yx,
        inner.yx * outer.xy + inner.yy * outer.yy,
        inner.yx * outer.x0 + inner.yy * outer.y0 + inner.y0,
    )
    return Mapping(outer, inner, whole)


@kernel
def is_whole(affine):
    """Return whether all elements of an Affine are whole numbers.

    It then maps pixel centres to pixel centres.
    """
    for value in affine:  # noqa: SIM110 (numba has no generators here)
        if value != math.floor(value):
            return False
    return True


@kernel
def invert_affine(affine):
    """Return the inverse of an Affine."""
    a, b, c, d = affine.xx, affine.xy, affine.yx, affine.yy
    determinant = a * d - b * c
    xx, xy = d / determinant, -b / determinant
    yx, yy = -c / determinant, a / determinant
    x0 = -(xx * affine.x0 + xy * affine.y0)
    y0 = -(yx * affine.x0 + yy * affine.y0)
    return Affine(xx, xy, x0, yx, yy, y0)


@inlined
def apply_affine(affine, x, y):
    """Return the point to which an Affine maps (x, y)."""
    return (
        affine.xx * x + affine.xy * y + affine.x0,
        affine.yx * x + affine.yy * y + affine.y0,
    )


@inlined
def displacement_of(displacements, j):
    """Return the Displacement of sample j; None for None."""
    if displacements is None:
        return None
    return Displacement(displacements.control[j], displacements.spacing)
