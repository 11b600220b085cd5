"""Mappings and resampling, slow and obviously right, and strategies for mappings."""

import math

import numpy as np
from hypothesis import strategies as st
from scipy import ndimage

IDENTITY = np.eye(2, 3)
NO_CONTROL = np.empty((0, 0, 2))
MODES = ("constant", "nearest", "reflect")
# How numpy continues an image in each mode, where a spline needs it.
PADDINGS = {"constant": "reflect", "nearest": "edge", "reflect": "symmetric"}
# Pixels after which one no longer influences a spline: 0.27**REACH is 1e-14.
REACH = 25
# Greatest error of the kernels' coordinates, in pixels.
COORDINATE_ERROR = 1e-5


def basis(x):
    """Return the cubic B-spline by its definition, as a sum of truncated powers."""
    terms = (1, -4, 6, -4, 1)
    return sum(sign * np.maximum(x + 2 - k, 0) ** 3 for k, sign in enumerate(terms)) / 6


def displacement(control, spacing, points):
    """Return the displacement at points, (n, 2), by its definition.

    It is the sum over all control points; the outermost ones are repeated far enough.
    """
    x, y = points.T / spacing + 1
    beyond = 2 + math.ceil(np.abs([x, y]).max(initial=0))
    j, i = (np.arange(-beyond, count + beyond) for count in control.shape[:2])
    extended = np.pad(control, ((beyond, beyond), (beyond, beyond), (0, 0)), "edge")
    weights_y = basis(np.subtract.outer(y, j))
    weights_x = basis(np.subtract.outer(x, i))
    return np.einsum("nj,jic,ni->nc", weights_y, extended, weights_x, optimize=True)


def apply(matrix, points):
    """Return the points to which a matrix (2, 3) maps points (n, 2)."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def output_to_image(mapping, points):
    """Return the points of the image that points (n, 2) of the output show."""
    outer, control, spacing, inner = mapping
    p = apply(outer, points)
    if control.size:
        p = p + displacement(control, spacing, p)
    return apply(inner, p)


def pixel_centres(shape):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.column_stack([x.ravel(), y.ravel()]).astype(float)


def resample(image, mapping, shape, order, mode):
    """Return (values, doubtful), by scipy; NaN outside the image in mode constant.

    doubtful : bool, pixels whose points are so close to a tie or to the border that
        the kernels' error decides
    """
    points = output_to_image(mapping, pixel_centres(shape))
    size = np.array(image.shape[::-1])
    within = points_within(points, size, mode)
    values = ndimage.map_coordinates(
        image.astype(float), within.T[::-1], order=order, mode=mode
    )
    doubtful = np.zeros(len(points), bool)
    if mode == "constant":
        values[(np.abs(points - (size - 1) / 2) > size / 2).any(axis=1)] = np.nan
        gap = np.minimum(np.abs(points + 0.5), np.abs(points + 0.5 - size))
        doubtful |= (gap < COORDINATE_ERROR).any(axis=1)
    if order == 0:
        gap = np.abs(within - np.floor(within) - 0.5)
        doubtful |= (gap < COORDINATE_ERROR).any(axis=1)
    return values.reshape(shape), doubtful.reshape(shape)


def spline_coefficients(image, mode):
    """Return the coefficients of the cubic spline through an image, continued by mode.

    They begin REACH outside the image, and end as far behind it.
    """
    coefficients = np.pad(image.astype(float), REACH, PADDINGS[mode])
    for _ in range(2):
        count = len(coefficients)
        weights = basis(np.subtract.outer(np.arange(count), np.arange(count)))
        coefficients = np.linalg.solve(weights, coefficients).T
    return coefficients


def interpolate(image, points, order, mode):
    """Return the values of an image at points (n, 2), by the definition of each order.

    points : between the outermost pixel centres, (x, y)
    """
    start = 0
    if order == 3:
        image, start = spline_coefficients(image, mode), REACH
    weigh = {
        0: lambda gap: (gap >= -0.5) & (gap < 0.5),  # of two, the right or lower one
        1: lambda gap: np.maximum(1 - np.abs(gap), 0),
        3: basis,
    }[order]
    x, y = points.T + start
    along, down = (
        weigh(np.subtract.outer(at, np.arange(count))).astype(float)
        for at, count in ((x, image.shape[1]), (y, image.shape[0]))
    )
    return np.einsum("ny,yx,nx->n", down, image, along)


def points_within(points, size, mode):
    """Return the points between the outermost pixel centres that points show.

    points : float64 (n, 2); size : width and height of the image
    """
    if mode == "reflect":  # d c b a | a b c d, at half a pixel outside
        points = np.mod(points + 0.5, 2 * size)
        points = np.minimum(points, 2 * size - points) - 0.5
    return np.clip(points, 0, size - 1)


def rotation(degrees, scale, shift=(0.0, 0.0)):
    """Return the matrix (2, 3) of a rotation with a scale and a shift."""
    a = math.radians(degrees)
    cos, sin = scale * math.cos(a), scale * math.sin(a)
    return np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])


def product(*matrices):
    """Return the product of matrices (2, 3); the last one is applied first."""
    total = np.eye(3)
    for matrix in matrices:
        total = total @ np.vstack([matrix, [0, 0, 1]])
    return total[:2]


seeds = st.integers(0, 2**32 - 1)


@st.composite
def affines(draw, reach=20.0):
    """Draw invertible matrices (2, 3) that rotate, scale, shear, shift and flip."""
    matrix = rotation(
        draw(st.floats(-180, 180)),
        draw(st.floats(0.4, 2.5)),
        (draw(st.floats(-reach, reach)), draw(st.floats(-reach, reach))),
    )
    shear = np.array([[1, draw(st.floats(-0.5, 0.5)), 0], [0, 1, 0]])
    flip = np.diag([draw(st.sampled_from([1.0, -1.0])), 1.0, 1.0])[:2]
    return product(matrix, shear, flip)


@st.composite
def mappings(draw, strength=0.48, straight=None):
    """Draw (outer, control, spacing, inner), without a displacement if straight.

    strength : greatest coefficient, in control spacings
    """
    if straight is None:
        straight = draw(st.booleans())
    if straight:
        return draw(affines()), NO_CONTROL, 1.0, IDENTITY
    spacing = draw(st.floats(3, 12))
    shape = draw(st.integers(1, 8)), draw(st.integers(1, 8)), 2
    greatest = strength * spacing
    random = np.random.default_rng(draw(seeds))
    control = random.uniform(-greatest, greatest, shape)
    scale = st.floats(0.5, 2)
    if draw(st.booleans()):
        outer = np.array([[draw(scale), 0, 3.5], [0, -draw(scale), 9]])
    else:
        outer = draw(affines())
    return outer, control, spacing, draw(affines())
