"""Transforms for a Loader: immutable objects that hold ranges and probabilities.

A `Loader` takes a `Compose` of transforms, a list of them or the name of a preset. A
transform draws its random parameters for many samples at once. With them, it extends
the samples' mappings, or names a kernel that changes their values.

A range is (least, greatest); values are drawn uniformly from it unless a class says
otherwise. Where values have a sign (rotate, shear, translate, add), a single number n
means (-n, n); elsewhere it is a constant. Angles are in degrees; positive ones turn
counter-clockwise on the screen. Factors of scale above 1 magnify.
"""

from fastseg.augment import geometry, intensity
from fastseg.augment.base import Transform
from fastseg.augment.compose import (
    BORDERS,
    PRESETS,
    Compose,
    as_compose,
    from_dict,
    light,
    standard,
)
from fastseg.augment.geometry import *  # noqa: F403
from fastseg.augment.intensity import *  # noqa: F403

__all__ = [
    "BORDERS",
    "PRESETS",
    "Compose",
    "Transform",
    "as_compose",
    "from_dict",
    "light",
    "standard",
]
__all__ += geometry.__all__
__all__ += intensity.__all__
