"""Transforms for a Loader: immutable objects that hold ranges and probabilities.

A `Loader` takes a `Compose` of transforms, a list of them or the name of a preset. A
transform draws its random parameters for many samples at once; `loading.mapping` and
the kernels apply them to pixels and contours.

A range is (least, greatest); values are drawn uniformly from it unless a class says
otherwise. Where values have a sign (rotate, shear, translate, add), a single number n
means (-n, n); elsewhere it is a constant. Angles are in degrees; positive ones turn
counter-clockwise on the screen. Factors of scale above 1 magnify.
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
