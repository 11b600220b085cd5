"""Transforms of intensities: they change the values of normalized images."""

import math
import sys
from collections.abc import Callable
from dataclasses import field
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fastseg import randomness
from fastseg._kernels.augment import intensity as kernels
from fastseg.augment.base import (
    ArrayTransform,
    Context,
    IntensityTransform,
    NoFunction,
    Parameters,
    Range,
    Transform,
    Uniforms,
    Values,
    between,
    check_choice,
    draw_one,
    set_flags,
    set_ranges,
    set_symmetric,
    transform,
)
from fastseg.errors import OptionError

# The public transforms of this module; `Compose` takes those that are listed here.
__all__ = [
    "BiasField",
    "Blur",
    "Brightness",
    "Contrast",
    "Custom",
    "Gamma",
    "LowResolution",
    "Noise",
]

NoiseKind = Literal["gaussian", "rician"]
NOISE_KINDS = get_args(NoiseKind)


@transform
class Gamma(IntensityTransform):
    """Raise values to a power; the range of the image is scaled to (0, 1) and back.

    gamma      : exponent, 0.01 to 100, a range or a constant, by default (0.7, 1.5);
        below 1 brightens, or darkens if `invert` is set
    invert     : whether to do this with the negative of the image; by default not
    keep_stats : whether to restore the mean and standard deviation that the image had
        before; by default yes
    p          : probability, by default 1
    """

    gamma: float | Range = field(default=(0.7, 1.5), kw_only=False)
    invert: bool = False
    keep_stats: bool = True

    code: ClassVar[int] = kernels.GAMMA
    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        set_ranges(self, 1e-2, 1e2, "gamma")
        set_flags(self, "invert", "keep_stats")

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on" and "gamma"."""
        return draw_one(self, "gamma", uniforms)

    def parameters(self, values: Values, context: Context) -> Parameters:
        """Return gamma, invert and keep_stats."""
        return values["gamma"], self.invert, self.keep_stats


@transform
class Brightness(IntensityTransform):
    """Multiply values by a factor and add a constant: value * multiply + add.

    multiply : factor, a range or a constant, by default 1
    add      : summand in units of the normalized image, a range, by default 0; a single
        number n means (-n, n)
    p        : probability, by default 1
    """

    multiply: float | Range = 1.0
    add: float | Range = 0.0

    code: ClassVar[int] = kernels.BRIGHTNESS
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

    def parameters(self, values: Values, context: Context) -> Parameters:
        """Return multiply and add."""
        return values["multiply"], values["add"]


@transform
class Contrast(IntensityTransform):
    """Multiply the difference between each value and the image's mean.

    factor         : at least 0, a range or a constant, by default (0.75, 1.25); above 1
        increases the contrast
    preserve_range : whether to clip to the least and greatest value that the image had
        before; by default yes
    p              : probability, by default 1
    """

    factor: float | Range = field(default=(0.75, 1.25), kw_only=False)
    preserve_range: bool = True

    code: ClassVar[int] = kernels.CONTRAST
    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        set_ranges(self, 0.0, math.inf, "factor")
        set_flags(self, "preserve_range")

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on" and "factor"."""
        return draw_one(self, "factor", uniforms)

    def parameters(self, values: Values, context: Context) -> Parameters:
        """Return factor and preserve_range."""
        return values["factor"], self.preserve_range


@transform
class Noise(IntensityTransform):
    """Add random noise, independent for each pixel.

    std  : standard deviation in units of the normalized image, at least 0, a range or a
        constant, by default (0, 0.3)
    kind : "gaussian" (default), or "rician", the noise of MR magnitude images; an image
        value of 0 before normalization stands for no signal
    p    : probability, by default 1
    """

    std: float | Range = field(default=(0.0, 0.3), kw_only=False)
    kind: NoiseKind = "gaussian"

    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        set_ranges(self, 0.0, math.inf, "std")
        check_choice(self, "kind", self.kind, NOISE_KINDS)

    @property
    def code(self) -> int:  # type: ignore[override]
        """That of the kernel."""
        return {"gaussian": kernels.GAUSSIAN, "rician": kernels.RICIAN}[self.kind]

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on" and "std"."""
        return draw_one(self, "std", uniforms)

    def parameters(self, values: Values, context: Context) -> Parameters:
        """Return standard deviation and the value of no signal."""
        return values["std"], context.zero_signal


@transform
class Blur(IntensityTransform):
    """Blur by a Gaussian.

    sigma : standard deviation in pixels, 0 to 32, a range or a constant, by default
        (0.5, 1); below 1/8 changes nothing
    p     : probability, by default 1
    """

    sigma: float | Range = field(default=(0.5, 1.0), kw_only=False)

    code: ClassVar[int] = kernels.BLUR
    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        set_ranges(self, 0.0, 32.0, "sigma")

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on" and "sigma"."""
        return draw_one(self, "sigma", uniforms)

    def parameters(self, values: Values, context: Context) -> Parameters:
        """Return sigma."""
        return (values["sigma"],)


@transform
class BiasField(IntensityTransform):
    """Multiply by a smooth random field, as inhomogeneous coils of MR scanners do.

    magnitude : greatest absolute value of the coefficients, 0 to 3, a range or a
        constant, by default (0, 0.5). The field is exp(polynomial) with a polynomial of
        third order over the image, as in TorchIO (0.5 by default there); its
        coefficients are uniform between -magnitude and magnitude
    p         : probability, by default 1

    The field multiplies the signal: an image value of 0 before normalization stays.
    """

    magnitude: float | Range = field(default=(0.0, 0.5), kw_only=False)

    code: ClassVar[int] = kernels.BIAS_FIELD
    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        set_ranges(self, 0.0, 3.0, "magnitude")

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on" and "magnitude"."""
        return draw_one(self, "magnitude", uniforms)

    def parameters(self, values: Values, context: Context) -> Parameters:
        """Return the value of no signal and the coefficients."""
        uniforms = context.draw(randomness.BIAS_FIELD, kernels.COEFFICIENTS)
        coefficients = values["magnitude"][:, None] * (2 * uniforms - 1)
        return context.zero_signal, *coefficients.T


@transform
class LowResolution(IntensityTransform):
    """Reduce the resolution, then interpolate back to the same size.

    factor : fraction of the pixels that is kept along each axis, 0.01 to 1, a range or
        a constant, by default (0.5, 1)
    p      : probability, by default 1

    Reducing takes the nearest pixels, interpolating back is linear.
    """

    factor: float | Range = field(default=(0.5, 1.0), kw_only=False)

    code: ClassVar[int] = kernels.LOW_RESOLUTION
    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        set_ranges(self, 1e-2, 1.0, "factor")

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on" and "factor"."""
        return draw_one(self, "factor", uniforms)

    def parameters(self, values: Values, context: Context) -> Parameters:
        """Return factor."""
        return (values["factor"],)


@transform
class Custom(ArrayTransform):
    """Call a function of your own: function(image, mask, random).

    image  : float32 (h, w), with n neighbours (2n + 1, h, w), or a patch (d, h, w);
        normalized, after all geometric transforms and the transforms before this one
    mask   : mask of the same sample, after all geometric transforms, as the loader's
        `masks` says; its last axes are (h, w)
    random : numpy.random.Generator, or a random uint64 if numba has compiled the
        function; a function of (seed, epoch, sample or patch)
    p      : probability, by default 1

    The function changes both arrays in place and returns None. The loader's threads
    call it: a Python function holds the interpreter lock meanwhile; a function compiled
    with `numba.njit(nogil=True)` does not, and runs in parallel.
    """

    function: Callable[[Any, Any, Any], None] = field(kw_only=False)

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        if not callable(self.function) or isinstance(self.function, NoFunction):
            raise OptionError(
                f"Custom: function is {self.function!r}, expected a function of "
                "(image, mask, random)"
            )

    def change(
        self,
        images: NDArray[np.float32],
        masks: NDArray[Any],
        values: Values,
        context: Context,
    ) -> None:
        """Call the function for each sample to which the transform happens.

        Raises OptionError if it returns anything, and what it raises, with a note.
        """
        function: Callable[..., Any] = self.function
        compiled = _is_compiled(function)
        for j in np.flatnonzero(values["on"]).tolist():
            sample = context.samples[j]
            stream = (randomness.CUSTOM, context.number)
            bits = randomness.philox(context.key, sample, *stream)
            random = (
                np.uint64(bits.random_raw()) if compiled else np.random.Generator(bits)
            )
            try:
                returned = function(images[j], masks[j], random)
            except Exception as exc:
                exc.add_note("in the function of a Custom transform")
                raise
            if returned is not None:
                raise OptionError(
                    f"Custom: function returned {type(returned).__name__}, expected "
                    "None: the function must change image and mask in place"
                )

    def identity(self) -> dict[str, Any]:
        """Return the name of the function, by which alone it is identified."""
        function = self.function
        name = getattr(function, "__qualname__", type(function).__qualname__)
        return {"name": "Custom", "p": self.p, "function": str(name)}

    def as_dict(self) -> dict[str, Any]:
        """Raise OptionError, because JSON cannot hold a function."""
        raise OptionError("Custom: JSON cannot hold a function")


def _is_compiled(function: Any) -> bool:
    """Return whether numba has compiled a function, without importing numba."""
    registry = sys.modules.get("numba.core.registry")
    return registry is not None and isinstance(function, registry.CPUDispatcher)
