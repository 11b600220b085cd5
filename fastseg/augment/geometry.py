"""What moves pixels."""

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
    check_always,
    check_choice,
    check_number,
    check_size,
    set_field,
    set_ranges,
    set_symmetric,
)
from fastseg.errors import OptionError, whole_number

# Half of the largest displacement, in control spacings, that can fold a cubic B-spline
# field is 1 / 2.0464 (Choi & Lee, "Injectivity conditions of 2D and 3D uniform cubic
# B-spline functions", Graphical Models 62, 2000); a little less keeps its inverse tame.
MOST_DISPLACEMENT = 0.48

Axis = Literal["horizontal", "vertical"]
AXES = get_args(Axis)


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine(Transform):
    """Rotate, magnify, shear and move, about the centre of the image.

    rotate           : degrees, counter-clockwise
    scale            : factor for both axes, uniform in its logarithm
    scale_x, scale_y : a further factor for one axis, uniform in its logarithm
    shear            : degrees by which vertical lines are tilted
    translate_x, translate_y : fractions of the width and the height, to the right and
        down

    A lone number n means (-n, n) for rotate, shear and translate, and a constant for
    the scales.
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
        """Return "on" and one value for each field."""
        values = Transform.draw(self, uniforms)
        names = ("rotate", "shear", "translate_x", "translate_y")
        for k, name in enumerate(names, 1):
            values[name] = between(getattr(self, name), uniforms[:, k])
        for k, name in enumerate(("scale", "scale_x", "scale_y"), 1 + len(names)):
            values[name] = between_logs(getattr(self, name), uniforms[:, k])
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip(Transform):
    """Mirror the image: axis is "horizontal" (left and right change) or "vertical"."""

    p: float = 0.5
    axis: Axis = "horizontal"

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        check_choice(self, "axis", self.axis, AXES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rot90(Transform):
    """Turn by one, two or three quarters, each as likely as the others."""

    draws: ClassVar[int] = 2

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on" and "quarters", counter-clockwise."""
        quarters = 1 + np.floor(3 * uniforms[:, 1]).astype(np.int64)
        return {**Transform.draw(self, uniforms), "quarters": quarters}


@dataclass(frozen=True, slots=True, kw_only=True)
class Elastic(Transform):
    """Bend by a smooth random field: a cubic B-spline on a coarse grid.

    magnitude : greatest displacement of a control point along an axis, in pixels
    spacing   : pixels between control points; a magnitude above 0.48 of it could fold
        the image and is refused
    """

    magnitude: float | Range = (0.0, 8.0)
    spacing: float = 32.0

    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        set_field(
            self, "spacing", check_number(self, "spacing", self.spacing, 2.0, 4096.0)
        )
        most = MOST_DISPLACEMENT * self.spacing
        set_ranges(self, 0.0, most, "magnitude")

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on" and "magnitude"; the control points are drawn by the kernel."""
        return {
            **Transform.draw(self, uniforms),
            "magnitude": between(self.magnitude, uniforms[:, 1]),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop(Transform):
    """Cut a window out of the image.

    What lies beyond it is still there: steps that follow, such as a turn, may bring it
    back into view.

    size   : (h, w) of the window, or one number for a square
    where  : "random", "center", or a class: then all of it is in the window with
        `margin` pixels around it, as far as that is possible, at a random place;
        where a sample has none of that class, the window is a random one
    pad    : whether the window may be larger than the image
    """

    size: int | tuple[int, int]
    where: str = "random"
    margin: int = 0
    pad: bool = False

    draws: ClassVar[int] = 3

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        check_always(self)
        set_field(self, "size", check_size(self, self.size))
        set_field(self, "margin", whole_number("Crop: margin", self.margin, 0))

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on" and the place of the window in its room: 0 to 1, (b,) each."""
        return {
            **Transform.draw(self, uniforms),
            "across": uniforms[:, 1].copy(),
            "down": uniforms[:, 2].copy(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize(Transform):
    """Stretch the image to a size: (h, w), or one number for a square."""

    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        check_always(self)
        set_field(self, "size", check_size(self, self.size))


@dataclass(frozen=True, slots=True, kw_only=True)
class Resample(Transform):
    """Stretch the image so that its pixels have a size in millimetres.

    spacing_mm : (between rows, between columns), or one number for both
    """

    spacing_mm: float | tuple[float, float]

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        check_always(self)
        given = self.spacing_mm
        pair = (given, given) if np.ndim(given) == 0 else tuple(given)  # type: ignore[arg-type]
        if len(pair) != 2:
            raise OptionError(
                f"Resample: spacing_mm is {given!r}, expected two numbers"
            )
        checked = tuple(check_number(self, "spacing_mm", x, 1e-3, 1e3) for x in pair)
        set_field(self, "spacing_mm", checked)
