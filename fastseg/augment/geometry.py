"""Geometric transforms: they move pixels and contours."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from fastseg.augment.base import (
    Range,
    Transform,
    Uniforms,
    Values,
    between,
    between_logs,
    check_choice,
    check_number,
    check_p_is_one,
    check_size,
    set_field,
    set_ranges,
    set_symmetric,
)
from fastseg.errors import OptionError, whole_number

# Greatest displacement of a control point along an axis, in units of the spacing of the
# control points. A cubic B-spline field cannot fold below 1 / 2.0464 = 0.4887 (Choi &
# Lee, "Injectivity conditions of 2D and 3D uniform cubic B-spline functions", Graphical
# Models 62, 2000); a little less keeps its inverse smooth.
MAX_DISPLACEMENT = 0.48

Axis = Literal["horizontal", "vertical"]
AXES = get_args(Axis)


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine(Transform):
    """Scale, shear and rotate about the centre of the image, in this order, then shift.

    rotate           : degrees, counter-clockwise
    scale            : factor along both axes, 0.001 to 1000; above 1 magnifies
    scale_x, scale_y : additional factor along one axis, 0.001 to 1000
    shear            : degrees by which vertical lines tilt, -80 to 80; positive angles
        move the top to the right
    translate_x      : fraction of the image's width, positive to the right
    translate_y      : fraction of the image's height, positive down
    p                : probability, by default 1

    All but p are a range or a single number; the defaults change nothing. A single
    number n means (-n, n) for rotate, shear and the translations, and a constant for
    the scales. Scales are uniform in their logarithm, the others are uniform.
    """

    rotate: float | Range = 0.0
    scale: float | Range = 1.0
    scale_x: float | Range = 1.0
    scale_y: float | Range = 1.0
    shear: float | Range = 0.0
    translate_x: float | Range = 0.0
    translate_y: float | Range = 0.0

    draws: ClassVar[int] = 8

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        set_symmetric(self, math.inf, "rotate", "translate_x", "translate_y")
        set_symmetric(self, 80.0, "shear")
        set_ranges(self, 1e-3, 1e3, "scale", "scale_x", "scale_y")

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on", and a parameter for each field by its name."""
        values = Transform.draw(self, uniforms)
        names = ("rotate", "shear", "translate_x", "translate_y")
        for k, name in enumerate(names, 1):
            values[name] = between(getattr(self, name), uniforms[:, k])
        for k, name in enumerate(("scale", "scale_x", "scale_y"), 1 + len(names)):
            values[name] = between_logs(getattr(self, name), uniforms[:, k])
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip(Transform):
    """Mirror the image.

    p    : probability, by default 0.5
    axis : "horizontal" (default) swaps left and right, "vertical" top and bottom
    """

    p: float = 0.5
    axis: Axis = "horizontal"

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        check_choice(self, "axis", self.axis, AXES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rot90(Transform):
    """Rotate by 90, 180 or 270 degrees, with equal probability.

    p : probability that the image is rotated, by default 1
    """

    draws: ClassVar[int] = 2

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on" and "quarters", the number of counter-clockwise quarter turns."""
        quarters = 1 + np.floor(3 * uniforms[:, 1]).astype(np.int64)
        return {**Transform.draw(self, uniforms), "quarters": quarters}


@dataclass(frozen=True, slots=True, kw_only=True)
class Elastic(Transform):
    """Bend the image by a smooth random displacement field, a cubic B-spline.

    magnitude : greatest displacement of a control point along each axis, in pixels, at
        least 0; a range or a constant, by default (0, 8). The displacements of the
        control points are uniform between -magnitude and magnitude
    spacing   : distance between control points in pixels, 2 to 4096, by default 32. The
        magnitude may be at most 0.48 times this, because the field could fold beyond
    p         : probability, by default 1

    Pixels are those of the image after the transforms before this one.
    """

    magnitude: float | Range = (0.0, 8.0)
    spacing: float = 32.0

    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        set_field(
            self, "spacing", check_number(self, "spacing", self.spacing, 2.0, 4096.0)
        )
        most = MAX_DISPLACEMENT * self.spacing
        set_ranges(self, 0.0, most, "magnitude")

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on" and "magnitude"; a kernel draws the control points."""
        return {
            **Transform.draw(self, uniforms),
            "magnitude": between(self.magnitude, uniforms[:, 1]),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop(Transform):
    """Crop a window from the image.

    size   : (height, width) of the window in pixels, or one number for a square
    where  : "random" (default) or "center"; or the name of a class: a random window
        that contains the whole class and `margin` around it, as far as window and image
        are large enough; for a sample without pixels of the class, any window
    margin : pixels around the class, by default 0
    pad    : whether images may be smaller than the window; they then lie in its centre,
        and the `border` of Compose fills the rest. By default, such an image is an
        error

    Pixels outside the window are not lost: a later step, such as a rotation, may move
    them into view again. p must be 1.
    """

    size: int | tuple[int, int]
    where: str = "random"
    margin: int = 0
    pad: bool = False

    draws: ClassVar[int] = 3

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        check_p_is_one(self)
        set_field(self, "size", check_size(self, self.size))
        set_field(self, "margin", whole_number("Crop: margin", self.margin, 0))

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on", "across" and "down".

        "across" and "down" say where the window lies among all that `where` allows, as
        fractions in [0, 1): 0 is the leftmost and the topmost one.
        """
        return {
            **Transform.draw(self, uniforms),
            "across": uniforms[:, 1].copy(),
            "down": uniforms[:, 2].copy(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize(Transform):
    """Scale the image to a size, whatever its aspect ratio.

    size : (height, width) in pixels, or one number for a square

    The outer edges of the outermost pixels stay where they are, not their centres (as
    with align_corners=False in PyTorch). p must be 1.
    """

    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        check_p_is_one(self)
        set_field(self, "size", check_size(self, self.size))


@dataclass(frozen=True, slots=True, kw_only=True)
class Resample(Transform):
    """Scale the image to a pixel spacing in millimetres.

    spacing_mm : (between rows, between columns), 0.001 to 1000 mm, or one number for
        both

    The size of the image changes accordingly, rounded to whole pixels. The spacing of
    all images must be known. p must be 1.
    """

    spacing_mm: float | tuple[float, float]

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        check_p_is_one(self)
        given = self.spacing_mm
        pair = (given, given) if np.ndim(given) == 0 else tuple(given)  # type: ignore[arg-type]
        if len(pair) != 2:
            raise OptionError(
                f"Resample: spacing_mm is {given!r}, expected one number or (between "
                "rows, between columns)"
            )
        checked = tuple(check_number(self, "spacing_mm", x, 1e-3, 1e3) for x in pair)
        set_field(self, "spacing_mm", checked)
