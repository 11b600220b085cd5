"""Transforms one after another, as text and as presets."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fastseg.augment.base import Transform, check_choice
from fastseg.augment.geometry import (
    Affine,
    Crop,
    Elastic,
    Flip,
    Resample,
    Resize,
    Rot90,
)
from fastseg.augment.intensity import (
    BiasField,
    Blur,
    Brightness,
    Contrast,
    Custom,
    Gamma,
    LowResolution,
    Noise,
)
from fastseg.errors import OptionError, one_of

Interpolation = Literal["nearest", "linear", "cubic"]
Border = Literal["constant", "edge", "reflect"]

INTERPOLATIONS = get_args(Interpolation)
BORDERS = get_args(Border)


@dataclass(frozen=True, slots=True)
class Compose:
    """Transforms, one after another, as one step of a Loader.

    transforms    : geometric ones become one mapping, in their order; then come the
        others, in theirs
    interpolation : of images: "nearest", "linear" or "cubic" (B-spline)
    border        : what lies around images: "constant" (the loader's `pad_value`),
        "edge" (the nearest pixel) or "reflect" (d c b a | a b c d | d c b a)

    Raises OptionError for what is no transform, or more than one Elastic.
    """

    transforms: Sequence[Transform]
    interpolation: Interpolation = "linear"
    border: Border = "constant"

    def __post_init__(self) -> None:
        object.__setattr__(self, "transforms", tuple(self.transforms))
        for step in self.transforms:
            if type(step) not in _KINDS.values():
                raise OptionError(
                    f"Compose: {step!r} is no transform, expected some of "
                    f"{', '.join(_KINDS)}"
                )
        if sum(isinstance(step, Elastic) for step in self.transforms) > 1:
            raise OptionError("Compose: two Elastic given, expected one at most")
        check_choice(self, "interpolation", self.interpolation, INTERPOLATIONS)
        check_choice(self, "border", self.border, BORDERS)

    def __iter__(self) -> Iterator[Transform]:
        return iter(self.transforms)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON; `from_dict` is the way back."""
        return {
            "transforms": [step.as_dict() for step in self.transforms],
            "interpolation": self.interpolation,
            "border": self.border,
        }


GEOMETRIC = (Affine, Flip, Rot90, Elastic, Crop, Resize, Resample)
INTENSITY = (Gamma, Brightness, Contrast, Noise, Blur, BiasField, LowResolution, Custom)
_KINDS: dict[str, type[Transform]] = {k.__name__: k for k in (*GEOMETRIC, *INTENSITY)}


def from_dict(given: Mapping[str, Any]) -> Compose:
    """Return what `Compose.as_dict` has described, also after a way through JSON.

    Raises OptionError for what it cannot have described.
    """
    try:
        options = dict(given)
        steps = [dict(step) for step in options.pop("transforms")]
        names = [step.pop("name") for step in steps]
    except (TypeError, ValueError, KeyError) as exc:
        raise OptionError(f"{given!r} describes no Compose ({exc!r})") from None
    for name in names:
        if name not in _KINDS:
            raise OptionError(one_of("transform", name, _KINDS))
    try:
        made = [
            _KINDS[name](**{key: _tuples(value) for key, value in step.items()})
            for name, step in zip(names, steps, strict=True)
        ]
        return Compose(made, **options)
    except TypeError as exc:  # a parameter that is not there
        raise OptionError(f"{given!r} describes no Compose ({exc})") from None


def light() -> Compose:
    """Return what harms no anatomy: small turns and shifts, little noise."""
    return Compose(
        [
            Affine(
                rotate=(-15, 15),
                scale=(0.9, 1.1),
                translate_x=(-0.05, 0.05),
                translate_y=(-0.05, 0.05),
            ),
            Brightness(multiply=(0.9, 1.1), p=0.3),
            Gamma(gamma=(0.8, 1.25), p=0.3),
            Noise(std=(0, 0.1), p=0.3),
        ]
    )


def standard() -> Compose:
    """Return what nnU-Net does by default to 2-D images, as far as it makes sense here.

    Probabilities and ranges are those of nnU-Net 2 (Isensee et al., "nnU-Net: a
    self-configuring method", Nature Methods 2021; `nnUNetTrainer.get_training_
    transforms` with batchgeneratorsv2 0.3, which takes the "variance" of noise for its
    deviation). It differs in these: scales are drawn in their logarithm; gammas
    uniformly (there, half of them are below 1); images have one channel, so chances per
    channel are chances per image; a blur has one sigma, not one per axis; labels are
    drawn anew from contours, or taken from the nearest pixel, not interpolated; outside
    of images is `pad_value`; nothing is cropped.
    """
    return Compose(
        [
            Affine(rotate=(-180, 180), p=0.2),
            Affine(scale=(0.7, 1.4), p=0.2),
            Flip(axis="horizontal"),
            Flip(axis="vertical"),
            Noise(std=(0, 0.1), p=0.1),
            Blur(sigma=(0.5, 1.0), p=0.1),
            Brightness(multiply=(0.75, 1.25), p=0.15),
            Contrast(factor=(0.75, 1.25), p=0.15),
            LowResolution(factor=(0.5, 1.0), p=0.125),
            Gamma(gamma=(0.7, 1.5), invert=True, p=0.1),
            Gamma(gamma=(0.7, 1.5), p=0.3),
        ]
    )


PRESETS = {"light": light, "standard": standard}


def as_compose(given: Any) -> Compose:
    """Return a Compose from one, a preset's name, or a sequence of transforms."""
    if isinstance(given, Compose):
        return given
    if isinstance(given, str):
        if given not in PRESETS:
            raise OptionError(one_of("augment", given, PRESETS))
        return PRESETS[given]()
    if isinstance(given, Transform):
        return Compose([given])
    try:
        return Compose(list(given))
    except TypeError:
        raise OptionError(
            f"augment is {given!r}, expected a Compose or one of {', '.join(PRESETS)}"
        ) from None


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
