"""Base classes of transforms, and functions that check and draw parameters."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NamedTuple, NoReturn, TypeVar, dataclass_transform

import numpy as np
from numpy.typing import NDArray

from fastseg import randomness
from fastseg._kernels.augment import batch
from fastseg._kernels.augment.noise import Keys
from fastseg.augment.mapping import Mappings
from fastseg.calls import check_call
from fastseg.errors import (
    OptionError,
    choice,
    is_single,
    pair_of_sizes,
    real_number,
    shown,
    true_or_false,
)

C = TypeVar("C")
Range = tuple[float, float]
Values = dict[str, NDArray[Any]]
Uniforms = NDArray[np.float64]
# Parameters of a kernel.
Parameters = Sequence[Any]


@dataclass_transform(
    kw_only_default=True, frozen_default=True, field_specifiers=(field,)
)
def transform(cls: type[C]) -> type[C]:
    """Make a class of transforms a frozen dataclass.

    Its parameters are given by name, but for the one that it is named for, if there is
    one: `Crop(96)`. That field has `kw_only=False`.
    """
    made = dataclass(frozen=True, slots=True, kw_only=True)(cls)
    made.__init__ = check_call()(made.__init__)  # type: ignore[method-assign, misc]
    return made


class Context(NamedTuple):
    """What a step that changes values gets of b samples, besides its parameters.

    key         : key of the random numbers, see `fastseg.randomness`
    samples     : int64 (b,), what random numbers are drawn for: indices in the store,
        or entries of patches
    zero_signal : float32 (b,), the normalized value of an image value of 0, which
        stands for no signal
    number      : index of the step in the Compose
    repeat      : how many steps of the same class come before it
    """

    key: int
    samples: NDArray[np.int64]
    zero_signal: NDArray[np.float32]
    number: int
    repeat: int

    def draw(self, stream: int, count: int) -> Uniforms:
        """Return random numbers in [0, 1), float64 (b, count), other ones in each step.

        stream : that of the class, see `fastseg.randomness`
        """
        stream = randomness.step_stream(stream, self.repeat)
        return draw_uniforms(self.key, self.samples, stream, count)


class NoFunction:
    """What others make functions of images, and here Loaders and Datasets take."""

    __slots__ = ()

    def __call__(self, *_: object, **__: object) -> NoReturn:
        """Raise TypeError, which says who calls it."""
        raise TypeError(
            f"{type(self).__name__} is not called with images: give it to "
            "Loader(store, augment=...) or fastseg.torch.Dataset(store, augment=...)"
        )


@transform
class Transform(NoFunction):
    """Base class of all transforms.

    p : probability that the transform happens to a sample, 0 to 1
    """

    p: float = 1.0

    # Number of uniform random numbers per sample; the first one is compared with p.
    draws: ClassVar[int] = 1
    # Whether it depends on the millimetres between pixels.
    needs_spacing: ClassVar[bool] = False
    # Whether it calls `Mappings.bend`.
    bends: ClassVar[bool] = False
    # Whether it changes more than the plane of the slices of a volume.
    in_space: ClassVar[bool] = False

    def __post_init__(self) -> None:
        set_field(self, "p", check_number(self, "p", self.p, 0.0, 1.0))

    @property
    def tilts(self) -> bool:
        """Whether slices may cross those of the volume; nothing can bend them then."""
        return False

    @property
    def needs_ratio(self) -> bool:
        """Whether it depends on the shape of pixels, the ratio of their sides."""
        return False

    def draw(self, uniforms: Uniforms) -> Values:
        """Return the random parameters of b samples, each an array (b,), by name.

        "on", bool (b,), says to which samples the transform happens.

        uniforms : float64 (b, draws), random numbers in [0, 1)
        """
        return {"on": uniforms[:, 0] < self.p}

    def output_size(self) -> tuple[int, int] | None:
        """Return (height, width) if all images get the same size, else None."""
        return None

    def as_dict(self) -> dict[str, Any]:
        """Return the name and all options, for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"name": type(self).__name__, **values}

    def identity(self) -> dict[str, Any]:
        """Return what identifies the transform in the state of a loader, for JSON."""
        return self.as_dict()


@transform
class GeometricTransform(Transform, ABC):
    """Base class of transforms that move pixels and contours."""

    @abstractmethod
    def extend(self, mappings: Mappings, values: Values) -> None:
        """Extend the mappings of b samples by this transform.

        values : what `draw` returned for them
        """


@transform
class IntensityTransform(Transform, ABC):
    """Base class of transforms that change values by `_kernels.augment.intensity`."""

    # That of the kernel.
    code: ClassVar[int]

    @abstractmethod
    def parameters(self, values: Values, context: Context) -> Parameters:
        """Return the parameters of the kernel.

        values : what `draw` returned for b samples

        Each parameter is a number for all samples, or an array (b,).
        """


@transform
class ArrayTransform(Transform, ABC):
    """Base class of transforms that change images and masks in Python."""

    @abstractmethod
    def change(
        self,
        images: NDArray[np.float32],
        masks: NDArray[Any],
        values: Values,
        context: Context,
    ) -> None:
        """Change images and masks of b samples in place, after all earlier steps.

        images : (b, h, w), or with n neighbours (b, 2n + 1, h, w)
        masks  : as the loader's `masks` says, first axis b
        values : what `draw` returned for these samples
        """


def draw_uniforms(
    key: int, samples: NDArray[np.int64], stream: int, count: int
) -> Uniforms:
    """Return random numbers in [0, 1) of b samples, float64 (b, count)."""
    out = np.empty((len(samples), count))
    keys = samples.astype(np.uint64)
    batch.draw_uniforms(Keys(key, keys), stream, out)
    return out


def set_field(step: Transform, name: str, value: Any) -> None:
    """Set a field of a frozen transform during its construction."""
    object.__setattr__(step, name, value)


def set_ranges(step: Transform, least: float, most: float, *names: str) -> None:
    """Set fields to checked ranges; a single number n is (n, n)."""
    for name in names:
        set_field(step, name, check_range(step, name, getattr(step, name), least, most))


def set_symmetric(step: Transform, most: float, *names: str) -> None:
    """Set fields to checked ranges in -most to most; a single number n is (-n, n)."""
    for name in names:
        given = getattr(step, name)
        if is_single(given):
            number = check_number(step, name, given, -most, most)
            if number < 0:
                raise OptionError(
                    f"{type(step).__name__}: {name} is {given!r}, but a single number "
                    "n means -n to n and must not be negative; give (least, greatest)"
                )
            set_field(step, name, (0.0 - number, number))  # -number would be -0.0
        else:
            set_field(step, name, check_range(step, name, given, -most, most))


def set_flags(step: Transform, *names: str) -> None:
    """Set fields to True or False, or raise OptionError."""
    for name in names:
        where = f"{type(step).__name__}: {name}"
        set_field(step, name, true_or_false(where, getattr(step, name)))


def draw_one(step: Transform, name: str, uniforms: Uniforms) -> Values:
    """Return "on" and one parameter, drawn uniformly from its range."""
    value = between(getattr(step, name), uniforms[:, 1])
    return {**Transform.draw(step, uniforms), name: value}


def between(limits: Any, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map uniform random numbers, float64 (b,) in [0, 1), to a range."""
    least, most = limits
    drawn: NDArray[np.float64] = least + (most - least) * uniform
    return drawn


def between_logs(limits: Any, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map uniform random numbers to a range above 0, uniformly in the logarithm."""
    least, most = limits
    if least == most:  # exactly least, so that a scale of 1 changes nothing
        return np.full(len(uniform), least)
    drawn: NDArray[np.float64] = least * (most / least) ** uniform
    return drawn


def check_number(
    step: Transform, name: str, given: Any, least: float, most: float
) -> float:
    """Return a parameter as a finite float within limits, or raise OptionError."""
    where = f"{type(step).__name__}: {name}"
    if most == math.inf:
        limits = "a finite number"
        if least != -math.inf:
            limits += f" of at least {least:g}"
    else:
        limits = f"{least:g} to {most:g}"
    number = real_number(where, given, limits)
    if not least <= number <= most:
        raise OptionError(f"{where} is {given!r}, expected {limits}")
    return number


def check_range(
    step: Transform, name: str, given: Any, least: float, most: float
) -> Range:
    """Return a range, or a number as a range of one value, or raise OptionError."""
    if is_single(given):
        number = check_number(step, name, given, least, most)
        return number, number
    where = f"{type(step).__name__}: {name}"
    if isinstance(given, set | frozenset | dict) or len(given) != 2:
        raise OptionError(
            f"{where} is {shown(given)}, expected a number or (least, greatest)"
        )
    low, high = (check_number(step, name, x, least, most) for x in given)
    if low > high:
        raise OptionError(f"{where} is {given!r}, expected the lesser number first")
    return low, high


def check_size(step: Transform, given: Any) -> tuple[int, int]:
    """Return (height, width), also from one number, or raise OptionError."""
    return pair_of_sizes(f"{type(step).__name__}: size", given)


def check_choice(step: Any, name: str, given: Any, allowed: Sequence[str]) -> None:
    """Raise OptionError, with a suggestion, for a value that is not allowed."""
    choice(f"{type(step).__name__}: {name}", given, allowed)


def check_p_is_one(step: Transform) -> None:
    """Raise OptionError unless p is 1, which transforms that change sizes need."""
    if step.p != 1:
        raise OptionError(
            f"{type(step).__name__}: p is {step.p}, expected 1: all samples of a batch "
            "must have one size"
        )
