"""Sequences of transforms, their JSON form, and presets."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fastseg import randomness
from fastseg.augment import intensity, spatial
from fastseg.augment.base import NoFunction, Transform, check_choice
from fastseg.augment.intensity import (
    Blur,
    Brightness,
    Contrast,
    Gamma,
    LowResolution,
    Noise,
)
from fastseg.augment.spatial import Affine, Affine3D, Flip
from fastseg.calls import check_call
from fastseg.errors import OptionError, choice, is_iterable, shown

Interpolation = Literal["nearest", "linear", "cubic"]
Border = Literal["constant", "edge", "reflect"]

INTERPOLATIONS = get_args(Interpolation)
BORDERS = get_args(Border)
_TRANSFORMS: dict[str, type[Transform]] = {
    name: getattr(module, name)
    for module in (spatial, intensity)
    for name in module.__all__
}


@dataclass(frozen=True, slots=True)
class Compose(NoFunction):
    """A sequence of transforms.

    transforms    : transforms in the order in which they happen, or a single one.
        Geometric ones come first in any case: they are combined into one mapping, so
        that an image is interpolated once. The others follow
    interpolation : of images: "nearest", "linear" (default) or "cubic" (B-spline)
    border        : values around images: "constant" (default; the loader's
        `pad_value`), "edge" (the nearest pixel) or "reflect"
        (d c b a | a b c d | d c b a)

    Raises OptionError if an element is no transform, if there is more than one Elastic,
    if there are more than 4096 transforms, or if Affine3D turns patches about x or y
    where there is an Elastic, another interpolation or the border "reflect".
    """

    transforms: Sequence[Transform]
    interpolation: Interpolation = "linear"
    border: Border = "constant"

    def __post_init__(self) -> None:
        object.__setattr__(self, "transforms", _as_steps("Compose", self.transforms))
        if isinstance(self.interpolation, Transform):
            raise OptionError(
                "Compose: several transforms are given one by one, expected one list: "
                "Compose([first, second])"
            )
        if len(self.transforms) > randomness.MAX_STEPS:
            raise OptionError(
                f"Compose: {len(self.transforms)} transforms given, expected at most "
                f"{randomness.MAX_STEPS}"
            )
        bending = [type(step).__name__ for step in self.transforms if step.bends]
        if len(bending) > 1:
            raise OptionError(
                f"Compose: {' and '.join(bending)} given, expected at most one "
                "transform that bends the image"
            )
        check_choice(self, "interpolation", self.interpolation, INTERPOLATIONS)
        check_choice(self, "border", self.border, BORDERS)
        self._check_tilts(bending)

    def _check_tilts(self, bending: list[str]) -> None:
        """Raise OptionError for what is not there where slices are tilted."""
        names = [type(step).__name__ for step in self.transforms if step.tilts]
        if not names:
            return
        if bending:
            raise OptionError(
                f"Compose: {names[0]} and {bending[0]} given, but patches are bent in "
                "the plane of their slices: leave one of them out, or turn about z "
                f"alone, as {names[0]}(inplane='always') does"
            )
        for name, allowed in (
            ("interpolation", ("linear",)),
            ("border", ("constant", "edge")),
        ):
            given = getattr(self, name)
            if given not in allowed:
                raise OptionError(
                    f"Compose: {name} is {given!r}, but {names[0]} turns about any "
                    f"axis: expected {' or '.join(map(repr, allowed))}"
                )

    def __iter__(self) -> Iterator[Transform]:
        return iter(self.transforms)

    def as_dict(self) -> dict[str, Any]:
        """Return the transforms and options for JSON; `from_dict` reads them."""
        return {
            "transforms": [step.as_dict() for step in self.transforms],
            "interpolation": self.interpolation,
            "border": self.border,
        }


Compose.__init__ = check_call(  # type: ignore[method-assign]
    "Compose([Flip(), Affine(rotate=15)])"
)(Compose.__init__)


@check_call()
def from_dict(given: Mapping[str, Any]) -> Compose:
    """Return the Compose that `Compose.as_dict` turned into a dict.

    The dict may have been written to JSON and read again, so that tuples are lists. An
    option that is left out has its default.

    Raises OptionError if the dict is invalid.
    """
    try:
        options = dict(given)
        steps = [dict(step) for step in options.pop("transforms")]
        names = [step.pop("name") for step in steps]
    except (TypeError, ValueError, KeyError) as exc:
        raise OptionError(
            f"{shown(given)} is invalid ({exc!r}), expected a dict of Compose.as_dict"
        ) from None
    for name in names:
        choice("transform", name, _TRANSFORMS)
    try:
        transforms = [
            _TRANSFORMS[name](**{key: _tuples(value) for key, value in step.items()})
            for name, step in zip(names, steps, strict=True)
        ]
        return Compose(transforms, **options)
    except TypeError as exc:  # an unknown parameter
        raise OptionError(
            f"{shown(given)} is invalid ({exc}), expected a dict of Compose.as_dict"
        ) from None


def light() -> Compose:
    """Return small rotations, scalings and shifts, and slight changes of intensity.

    Rotations are in pixels, see `in_mm` of Affine.
    """
    return Compose(
        [
            Affine(
                in_mm=False,
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
    """Return the default augmentation of nnU-Net for 2-D images, as far as possible.

    Probabilities and ranges are those of nnU-Net 2 (Isensee et al., "nnU-Net: a
    self-configuring method", Nature Methods 2021; `nnUNetTrainer.get_training_
    transforms` with batchgeneratorsv2 0.3, which uses the "variance" of noise as its
    standard deviation). Differences: scales are uniform in their logarithm. Gammas are
    uniform (in nnU-Net, half of them are below 1). What nnU-Net draws for each channel
    is drawn once for an image and its neighbours, or for a patch. A blur has one sigma,
    not one per axis. Labels are drawn again from the contours, or taken from the
    nearest pixel, not interpolated. Outside the image, values are `pad_value`. Nothing
    is cropped.

    Rotations are in pixels, as in nnU-Net (`in_mm=False` of Affine).
    """
    return Compose(
        [
            Affine(rotate=(-180, 180), in_mm=False, p=0.2),
            Affine(scale=(0.7, 1.4), in_mm=False, p=0.2),
            Flip(axis="horizontal"),
            Flip(axis="vertical"),
            *_standard_intensities(),
        ]
    )


def standard_3d(*, inplane: bool = False) -> Compose:
    """Return the default augmentation of nnU-Net for 3-D patches, as far as possible.

    inplane : whether slices are thick: patches are then turned in their plane, by up to
        180 degrees, and scaled there, as nnU-Net does with patches that have more than
        3 times as many pixels along an axis as slices. Otherwise they are turned by up
        to 30 degrees about each axis, and scaled along all

    A PatchLoader makes this preset of "standard", `inplane` if its slices are more than
    3 times as far apart as its pixels: those of `spacing`, or of the volume in the
    middle, by this ratio. Single volumes with such slices are turned in plane also if
    `inplane` is False.

    Differences to nnU-Net 2, besides those of `standard`: turns are in millimetres, not
    in voxels. Blur and low resolution change slice by slice, not along z. Patches that
    are turned about x or y have labels of the nearest voxels. Patches show the volume
    beyond them, so that they have no empty corners.
    """
    moves = [Affine3D(rotate=30, p=0.2), Affine3D(scale=(0.7, 1.4), p=0.2)]
    if inplane:
        moves = [
            Affine3D(rotate_z=180, inplane="always", p=0.2),
            Affine3D(scale=(0.7, 1.4), inplane="always", p=0.2),
        ]
    return Compose(
        [
            *moves,
            Flip(axis="horizontal"),
            Flip(axis="vertical"),
            Flip(axis="slices"),
            *_standard_intensities(),
        ]
    )


def _standard_intensities() -> list[Transform]:
    """Return the steps of nnU-Net that change values, in its order."""
    return [
        Noise(std=(0, 0.1), p=0.1),
        Blur(sigma=(0.5, 1.0), p=0.1),
        Brightness(multiply=(0.75, 1.25), p=0.15),
        Contrast(factor=(0.75, 1.25), p=0.15),
        LowResolution(factor=(0.5, 1.0), p=0.125),
        Gamma(gamma=(0.7, 1.5), invert=True, p=0.1),
        Gamma(gamma=(0.7, 1.5), p=0.3),
    ]


PRESETS = {"light": light, "standard": standard}


def as_compose(given: Any) -> Compose:
    """Return the Compose of a Compose, a preset's name or one or more transforms."""
    if isinstance(given, Compose):
        return given
    if isinstance(given, str):
        return PRESETS[choice("augment", given, PRESETS)]()
    return Compose(_as_steps("augment", given))


def _as_steps(name: str, given: Any) -> tuple[Transform, ...]:
    """Return one or several transforms that are given, or raise OptionError."""
    steps = given
    if isinstance(given, type | Mapping) or not is_iterable(given):
        steps = (given,)
    steps = tuple(steps)
    for step in steps:
        if type(step) not in _TRANSFORMS.values():
            raise OptionError(
                f"{name}: {shown(step)} is no transform of fastseg{_advice(step)}"
            )
    return steps


def _advice(step: Any) -> str:
    """Return what to write instead of something that is no transform."""
    if isinstance(step, type):
        return f" but a class; write {step.__name__}(...)"
    if isinstance(step, Compose):
        return " but a list of them; write [*first, *second] to join two"
    if isinstance(step, str):
        return "; name a preset alone, as in augment='light', or give transforms"
    if isinstance(step, Mapping):
        return "; fastseg.augment.from_dict makes a Compose of a dict"
    if callable(step):
        return "; Custom(function) calls one of your own"
    return f", expected one or more of {', '.join(_TRANSFORMS)}"


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
