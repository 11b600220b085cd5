"""Transforms for a Loader: frozen descriptions, with ranges and probabilities.

A `Compose` of transforms is given to a `Loader`. A transform draws its parameters
for many samples at once from uniform random numbers; `loading.mapping` and the kernels
apply them to pixels and vertices. Angles are in degrees, counter-clockwise on the
screen; factors above 1 magnify.

A range is (least, greatest). Where values have a sign (rotate, shear, translate, add),
a lone number n means (-n, n); elsewhere it is a constant.
"""

from fastseg.augment.base import Transform
from fastseg.augment.compose import (
    BORDERS,
    INTENSITY,
    PRESETS,
    Compose,
    as_compose,
    from_dict,
    light,
    standard,
)
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

__all__ = [
    "BORDERS",
    "INTENSITY",
    "PRESETS",
    "Affine",
    "BiasField",
    "Blur",
    "Brightness",
    "Compose",
    "Contrast",
    "Crop",
    "Custom",
    "Elastic",
    "Flip",
    "Gamma",
    "LowResolution",
    "Noise",
    "Resample",
    "Resize",
    "Rot90",
    "Transform",
    "as_compose",
    "from_dict",
    "light",
    "standard",
]
