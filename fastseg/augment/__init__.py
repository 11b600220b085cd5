"""Transforms for a Loader: immutable objects that hold ranges and probabilities.

A `Loader` takes a `Compose` of transforms, a list of them or the name of a preset. A
transform draws its random parameters for many samples at once. With them, it extends
the samples' mappings, or names a kernel that changes their values.

A range is (least, greatest); values are drawn uniformly from it unless a class says
otherwise. Where values have a sign (rotate, shear, translate, add), a single number n
means (-n, n); elsewhere it is a constant. Angles are in degrees; positive ones turn
counter-clockwise on the screen. Factors of scale above 1 magnify.

Their one parameter may be given without its name where a transform is named for it:
`Crop(96)`, `Gamma((0.7, 1.5))`. All others have names.
"""

from typing import TYPE_CHECKING, Any

from fastseg.augment import intensity, spatial
from fastseg.augment.base import Transform
from fastseg.augment.compose import (
    BORDERS,
    PRESETS,
    Compose,
    as_compose,
    from_dict,
    light,
    standard,
    standard_3d,
)
from fastseg.augment.intensity import *  # noqa: F403
from fastseg.augment.spatial import *  # noqa: F403
from fastseg.calls import unknown_attribute

__all__ = [
    "BORDERS",
    "PRESETS",
    "Compose",
    "Transform",
    "as_compose",
    "from_dict",
    "light",
    "standard",
    "standard_3d",
]
__all__ += spatial.__all__
__all__ += intensity.__all__

# What to write instead of names that other libraries have.
_ELSEWHERE = {
    other: instead
    for others, instead in (
        (
            "Rotate Rotation RandomRotation RandRotate RandomRotate SafeRotate",
            "Affine(rotate=15)",
        ),
        (
            "RandomAffine RandAffine ShiftScaleRotate Scale Zoom RandZoom Shear "
            "Translate RandomPerspective",
            "Affine, or Affine3D for patches of volumes",
        ),
        ("Rotate90 RandomRotate90 RandRotate90 Transpose", "Rot90"),
        (
            "HorizontalFlip RandomHorizontalFlip RandFlip RandomFlip Mirror",
            "Flip(axis='horizontal')",
        ),
        ("VerticalFlip RandomVerticalFlip", "Flip(axis='vertical')"),
        (
            "RandomCrop RandSpatialCrop RandCropByPosNegLabel RandomResizedCrop "
            "CropNonEmptyMaskIfExists",
            "Crop(96), or Crop(96, where='icontour')",
        ),
        ("CenterCrop CenterSpatialCrop", "Crop(96, where='center')"),
        ("Pad SpatialPad PadIfNeeded ResizeWithPadOrCrop", "Crop(96, pad=True)"),
        ("RandomScale LongestMaxSize SmallestMaxSize", "Resize or Affine(scale=...)"),
        ("Spacing Spacingd", "Resample(1.0)"),
        (
            "ElasticTransform ElasticDeformation RandomElasticDeformation "
            "Rand2DElastic GridDistortion OpticalDistortion",
            "Elastic",
        ),
        (
            "GaussNoise GaussianNoise RandomNoise RandGaussianNoise RandRicianNoise",
            "Noise",
        ),
        ("GaussianBlur RandGaussianSmooth RandomBlur MedianBlur MotionBlur", "Blur"),
        ("RandomGamma AdjustContrast RandAdjustContrast", "Gamma"),
        (
            "ColorJitter RandomBrightnessContrast RandomBrightness RandScaleIntensity "
            "RandShiftIntensity",
            "Brightness and Contrast",
        ),
        ("RandomContrast CLAHE", "Contrast"),
        ("RandomBiasField RandBiasField", "BiasField"),
        ("SimulateLowResolution Downscale RandSimulateLowResolution", "LowResolution"),
        ("Lambda RandLambda FromFloat", "Custom(function)"),
        (
            "Normalize NormalizeIntensity ZNormalization ScaleIntensity",
            "the option normalize of a Loader",
        ),
        ("ToTensor ToTensorV2 EnsureType", "fastseg.torch.as_torch(loader)"),
        (
            "OneOf SomeOf RandomApply RandomChoice RandomOrder",
            "the p of each transform",
        ),
        ("Sequential Transforms", "Compose"),
    )
    for other in others.split()
}

# Type checkers do not see this function, so that they find misspelt names.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        raise unknown_attribute(__name__, name, __all__, _ELSEWHERE)
