"""What changes intensities, in units of the batch: after normalization."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from fastseg.augment.base import (
    Range,
    Transform,
    Uniforms,
    Values,
    between,
    check_choice,
    draw_one,
    set_ranges,
    set_symmetric,
)
from fastseg.errors import OptionError

NoiseKind = Literal["gaussian", "rician"]
NOISE_KINDS = get_args(NoiseKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gamma(Transform):
    """Raise values to a power, between the least and the greatest of the image.

    gamma      : exponent; below 1 brightens
    invert     : do so with the negative of the image
    keep_stats : restore mean and standard deviation afterwards
    """

    gamma: float | Range = (0.7, 1.5)
    invert: bool = False
    keep_stats: bool = True

    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        set_ranges(self, 1e-2, 1e2, "gamma")

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on" and "gamma"."""
        return draw_one(self, "gamma", uniforms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Brightness(Transform):
    """Multiply values, and add to them.

    multiply : factor; a lone number is a constant
    add      : in units of the batch; a lone number n means (-n, n)
    """

    multiply: float | Range = 1.0
    add: float | Range = 0.0

    draws: ClassVar[int] = 3

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        set_ranges(self, -math.inf, math.inf, "multiply")
        set_symmetric(self, math.inf, "add")

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on", "multiply" and "add"."""
        return {
            **Transform.draw(self, uniforms),
            "multiply": between(self.multiply, uniforms[:, 1]),
            "add": between(self.add, uniforms[:, 2]),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast(Transform):
    """Multiply the distance of values from their mean.

    preserve_range : clip to the least and greatest value of before
    """

    factor: float | Range = (0.75, 1.25)
    preserve_range: bool = True

    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        set_ranges(self, 0.0, math.inf, "factor")

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on" and "factor"."""
        return draw_one(self, "factor", uniforms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise(Transform):
    """Add noise that differs from pixel to pixel.

    std  : standard deviation, in units of the batch
    kind : "gaussian", or "rician" as the magnitude of MR images has it, about the
        value of the image that stands for no signal, its least one
    """

    std: float | Range = (0.0, 0.3)
    kind: NoiseKind = "gaussian"

    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        set_ranges(self, 0.0, math.inf, "std")
        check_choice(self, "kind", self.kind, NOISE_KINDS)

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on" and "std"."""
        return draw_one(self, "std", uniforms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blur(Transform):
    """Blur by a Gaussian of so many pixels."""

    sigma: float | Range = (0.5, 1.0)

    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        set_ranges(self, 0.0, 32.0, "sigma")

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on" and "sigma"."""
        return draw_one(self, "sigma", uniforms)


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasField(Transform):
    """Multiply by a smooth field, as coils of an MR machine do.

    magnitude : greatest size of a coefficient of the field's logarithm, a polynomial
        of third order over the image, as TorchIO has it (0.5 by default there)
    """

    magnitude: float | Range = (0.0, 0.5)

    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        set_ranges(self, 0.0, 3.0, "magnitude")

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on" and "magnitude"; the field follows from the sample."""
        return draw_one(self, "magnitude", uniforms)


@dataclass(frozen=True, slots=True, kw_only=True)
class LowResolution(Transform):
    """Take every few pixels only and interpolate between them.

    factor : of the number of pixels along an axis
    """

    factor: float | Range = (0.5, 1.0)

    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        set_ranges(self, 1e-2, 1.0, "factor")

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on" and "factor"."""
        return draw_one(self, "factor", uniforms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Custom(Transform):
    """A function of your own: function(image, mask, random), which changes both.

    image  : float32 (h, w), after normalization and the steps before this one
    mask   : of that sample, as the loader's `masks` says; its last axes are (h, w)
    random : numpy.random.Generator, a function of (seed, epoch, sample); of functions
        compiled by numba, a uint64 in its place

    It is called in the loader's threads and works in place. A Python function holds
    the interpreter's lock meanwhile; one compiled with `numba.njit(nogil=True)` runs at
    full speed. It must return None.
    """

    function: Callable[[Any, Any, Any], None]

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        if not callable(self.function):
            raise OptionError(
                f"Custom: function is {self.function!r}, expected one of "
                "(image, mask, random)"
            )

    def as_dict(self) -> dict[str, Any]:
        """Raise OptionError: a function is not a matter of JSON."""
        raise OptionError("Custom: a function cannot be described in JSON")
