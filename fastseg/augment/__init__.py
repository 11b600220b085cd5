"""What may change a sample: frozen descriptions, with ranges and probabilities.

A `Compose` of them is given to a `Loader`. Each description can say its parameters for
many samples at once, from uniform random numbers; what they do to pixels and vertices
is in `loading.mapping` and the kernels. Angles are in degrees, counter-clockwise on the
screen; factors above 1 magnify; a range is (least, greatest), or one number.
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
