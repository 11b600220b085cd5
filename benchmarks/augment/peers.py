"""The sides of benchmarks/augment/race.py: ours and each peer, by task.

A side is a function of the ScaledSamples that returns another one, `fill(indices,
image, mask, epoch)`: it augments these samples and writes them into a batch, float32
(B, 1, H, W) and uint8 (B, H, W). All read the same uint16 images and uint8 masks from
the same map of a file, scale what they read, and draw from the same ranges. Each is set
up as its documentation advises, which is quoted where it decides; where the
documentation leaves a choice, the faster one was taken, or both are sides. A side
imports what it needs: one that is not installed raises ImportError.
"""

import math
import os
import warnings
from functools import partial

import numpy as np

import fastseg
from benchmarks.inputs import SIDE
from benchmarks.loader.samples import Samples
from fastseg import augment
from fastseg.loading.augmented import AugmentedPreprocessing
from fastseg.loading.format import BatchFormat
from fastseg.loading.normalization import find_scaling
from fastseg.loading.preprocessing import Preprocessing

# Ranges of the first task, for everybody. The scales are their own reciprocals, because
# in some libraries a greater one makes objects smaller.
DEGREES = (-180.0, 180.0)
SCALES = (0.8, 1.25)
GAMMAS = (0.7, 1.5)
NOISE = (0.0, 0.1)
# Of elastic fields, in pixels: the largest shift of a point, and the distance of
# control points. A Gaussian as wide as a cubic B-spline of that spacing has this
# deviation.
SHIFTS = (0.0, 8.0)
SPACING = 32.0
SIGMA = SPACING / math.sqrt(3)
UNIT = {"normalize": "percentile", "percentiles": (0.5, 99.5)}
MIDDLE = (SIDE - 1) / 2, (SIDE - 1) / 2
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def limit_threads():
    """Give everybody one thread, before they are imported.

    albumentations' FAQ and MONAI's maintainers advise these settings.
    """
    os.environ |= dict.fromkeys(THREADS, "1")
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would look for a newer version
    warnings.simplefilter("ignore")
    for limit in (limit_opencv, limit_torch, limit_itk):
        try:
            limit()
        except ImportError:  # its side is left out later
            continue


def limit_opencv():
    """One thread for OpenCV, and no GPU."""
    import cv2

    cv2.setNumThreads(0)
    cv2.ocl.setUseOpenCL(False)


def limit_torch():
    """One thread for PyTorch."""
    import torch

    torch.set_num_threads(1)


def limit_itk():
    """One thread for SimpleITK."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


class ScaledSamples:
    """What all sides read, scaled in the two ways that sides need.

    images : uint16 (n, H, W), masks : uint8 (n, H, W), bit fields; maps of the store
    labels : uint8 (n, H, W), one class per pixel
    """

    def __init__(self, folder):
        samples = Samples(folder)
        self.count = samples.count
        self.images, self.masks = samples.maps()
        self.store = fastseg.open(samples.path)
        every = np.arange(self.count)
        preprocessing = Preprocessing(
            self.store, every, BatchFormat(normalize="zscore", masks="labels")
        )
        images = np.empty((self.count, 1, SIDE, SIDE), np.float32)
        self.labels = np.empty((self.count, SIDE, SIDE), np.uint8)
        preprocessing.fill(every, images, self.labels)
        zero_mean, unit_range = BatchFormat(normalize="zscore"), BatchFormat(**UNIT)
        self.zero_mean, self.unit_range = (
            find_scaling(self.store, every, form)[:2]
            for form in (zero_mean, unit_range)
        )

    def scored(self, index, out=None):
        """Return an image with mean 0 and deviation 1, float32."""
        shift, gain = self.zero_mean
        image = np.subtract(self.images[index], shift[index], out, dtype=np.float32)
        image *= gain[index]
        return image

    def unit(self, index):
        """Return an image from 0 to 1, float32, as most libraries expect it."""
        shift, gain = self.unit_range
        image = np.subtract(self.images[index], shift[index], dtype=np.float32)
        image *= gain[index]
        return np.clip(image, 0, 1, out=image)


def each(augment_one):
    """Return the `fill` that calls augment_one(index, image, mask) for each sample."""

    def fill(indices, image, mask, epoch):
        for j, index in enumerate(indices.tolist()):
            augment_one(index, image[j, 0], mask[j])

    return fill


def seeded():
    """Return a source of random numbers, and seed numpy's global one."""
    np.random.seed(0)  # noqa: NPY002, batchgeneratorsv2 uses it
    return np.random.default_rng(0)


# Ours ---------------------------------------------------------------------------------

MIXED = augment.Compose(
    [
        augment.Affine(rotate=DEGREES, scale=SCALES),
        augment.Flip(),
        augment.Gamma(gamma=GAMMAS, keep_stats=False),  # no peer does that by default
        augment.Noise(std=NOISE),
    ]
)
AFFINE = augment.Compose([augment.Affine(rotate=DEGREES, scale=SCALES)])
ELASTIC = augment.Compose([augment.Elastic(magnitude=SHIFTS, spacing=SPACING)])


def ours(inputs, steps, labels="exact", masks="bits", normalize="zscore", **options):
    """The function that the threads of a loader of such batches call."""
    form = BatchFormat(
        augment=steps, labels=labels, masks=masks, normalize=normalize, **options
    )
    every = np.arange(inputs.count)
    preprocessing = AugmentedPreprocessing(inputs.store, every, form)
    preprocessing.streams = True
    return preprocessing.fill


# OpenCV -------------------------------------------------------------------------------


def matrices(preprocessing, indices, epoch):
    """Return the matrices that ours draws for AFFINE, as OpenCV takes them."""
    import cv2

    (values,) = preprocessing.draw(indices, epoch).values
    turns = zip(values["rotate"].tolist(), values["scale"].tolist(), strict=True)
    return [cv2.getRotationMatrix2D(MIDDLE, *turn) for turn in turns]


def opencv_affine(inputs, scaled):
    """warpAffine on both, straight into the batch, by the same matrices as ours.

    scaled : the image is float32 already, and stays in the cache: that of the first
        sample is warped instead of all others
    """
    import cv2

    size = (SIDE, SIDE)
    form = BatchFormat(augment=AFFINE, masks="bits", normalize="zscore")
    every = np.arange(inputs.count)
    preprocessing = AugmentedPreprocessing(inputs.store, every, form)
    source = np.empty(size, np.float32)

    def fill(indices, image, mask, epoch):
        drawn = matrices(preprocessing, indices, epoch)
        for j, (index, matrix) in enumerate(zip(indices.tolist(), drawn, strict=True)):
            if j == 0 or not scaled:
                inputs.scored(index, source)
            field = inputs.masks[index]
            cv2.warpAffine(source, matrix, size, image[j, 0], cv2.INTER_LINEAR)
            cv2.warpAffine(field, matrix, size, mask[j], cv2.INTER_NEAREST)

    return fill


def opencv_by_hand(inputs):
    """One step after the other, as people write it: OpenCV warps and flips, numpy the
    rest.

    The generator and its float32 are the faster ones that numpy has.
    """
    import cv2

    random = seeded()
    size = (SIDE, SIDE)

    def augment_one(index, image, mask):
        pixels, field = inputs.unit(index), inputs.masks[index]
        matrix = cv2.getRotationMatrix2D(
            MIDDLE, random.uniform(*DEGREES), random.uniform(*SCALES)
        )
        pixels = cv2.warpAffine(pixels, matrix, size, flags=cv2.INTER_LINEAR)
        field = cv2.warpAffine(field, matrix, size, flags=cv2.INTER_NEAREST)
        if random.random() < 0.5:
            pixels, field = cv2.flip(pixels, 1), cv2.flip(field, 1)
        low, high = pixels.min(), pixels.max()
        pixels = (pixels - low) / (high - low)
        pixels = pixels ** np.float32(random.uniform(*GAMMAS)) * (high - low) + low
        deviation = np.float32(random.uniform(*NOISE))
        noise = random.standard_normal(pixels.shape, np.float32)
        image[:] = pixels + deviation * noise
        mask[:] = field

    return each(augment_one)


def opencv_tuned(inputs):
    """The same, as an expert of OpenCV writes it.

    The flip is part of the matrix, all steps work in place, in the batch, and OpenCV's
    own power and noise are faster than numpy's.
    """
    import cv2

    random = seeded()
    size = (SIDE, SIDE)
    noise = np.empty((SIDE, SIDE), np.float32)

    def augment_one(index, image, mask):
        matrix = cv2.getRotationMatrix2D(
            MIDDLE, random.uniform(*DEGREES), random.uniform(*SCALES)
        )
        if random.random() < 0.5:
            matrix[0] = -matrix[0]
            matrix[0, 2] += SIDE - 1
        source = inputs.unit(index)
        cv2.warpAffine(source, matrix, size, image, cv2.INTER_LINEAR)
        cv2.warpAffine(inputs.masks[index], matrix, size, mask, cv2.INTER_NEAREST)
        low, high, _, _ = cv2.minMaxLoc(image)
        span = high - low
        np.subtract(image, np.float32(low), image)
        np.multiply(image, np.float32(1 / span), image)
        cv2.pow(image, random.uniform(*GAMMAS), image)
        cv2.randn(noise, low, random.uniform(*NOISE))
        cv2.scaleAdd(image, span, noise, image)

    return each(augment_one)


# albumentations -----------------------------------------------------------------------


def albumentations_side(inputs, scale, steps):
    """Return the `fill` of steps. Float images are "in the range [0, 1]"."""
    import albumentations

    compose = albumentations.Compose(steps, seed=0)

    def augment_one(index, image, mask):
        result = compose(image=scale(index), mask=inputs.masks[index])
        image[:] = result["image"]
        mask[:] = result["mask"]

    return each(augment_one)


def albumentations_mixed(inputs):
    """As advised, "Affine instead of separate rotate, scale, translate, and shear"."""
    import albumentations as a

    gammas = tuple(100 * gamma for gamma in GAMMAS)
    steps = [
        a.Affine(rotate=DEGREES, scale=SCALES, p=1),
        a.HorizontalFlip(p=0.5),
        a.RandomGamma(gamma_limit=gammas, p=1),
        a.GaussNoise(std_range=NOISE, p=1),
    ]
    return albumentations_side(inputs, inputs.unit, steps)


def albumentations_elastic(inputs, approximate):
    """A field of noise, blurred by a Gaussian; `alpha` for shifts of some 4 pixels.

    "The approximate method can be faster": its kernel of 17 x 17 pixels is narrower
    than the Gaussian, and so its field is stronger and rougher.
    """
    import albumentations as a

    alpha = 60 if approximate else 4 * math.sqrt(math.pi) * SIGMA
    step = a.ElasticTransform(alpha, SIGMA, approximate=approximate, p=1)
    return albumentations_side(inputs, inputs.scored, [step])


# MONAI --------------------------------------------------------------------------------


def monai_side(inputs, scale, steps):
    """Return the `fill` of steps, on tensors without metadata, which are faster."""
    import torch
    from monai.data import set_track_meta
    from monai.transforms import Compose

    set_track_meta(False)
    compose = Compose(steps).set_random_state(0)

    def augment_one(index, image, mask):
        pixels = torch.from_numpy(scale(index)[None])
        field = torch.from_numpy(inputs.masks[index][None].copy())
        result = compose({"image": pixels, "mask": field})
        image[:] = result["image"][0].numpy()
        mask[:] = result["mask"][0].numpy()

    return each(augment_one)


BOTH = {"keys": ["image", "mask"], "prob": 1.0, "padding_mode": "zeros"}
MODES = {"mode": ("bilinear", "nearest")}


def monai_mixed(inputs):
    """RandAffined resamples once for turn and scale; the flip copies.

    A lazy Compose, which resamples once for all three, takes half as long again.
    """
    from monai import transforms as m

    scales = tuple(scale - 1 for scale in SCALES)  # "a 1.0 is added"
    steps = [
        m.RandAffined(
            rotate_range=math.pi,
            scale_range=(scales, scales),
            cache_grid=True,
            spatial_size=(SIDE, SIDE),
            **BOTH,
            **MODES,
        ),
        m.RandFlipd(["image", "mask"], prob=0.5, spatial_axis=1),
        m.RandAdjustContrastd(["image"], prob=1.0, gamma=GAMMAS),
        m.RandGaussianNoised(["image"], prob=1.0, std=NOISE[1]),
    ]
    return monai_side(inputs, inputs.unit, steps)


def monai_elastic(inputs):
    """Rand2DElasticd: control points at the same distance, interpolated by cubics."""
    from monai import transforms as m

    step = m.Rand2DElasticd(
        spacing=(SPACING, SPACING),
        magnitude_range=SHIFTS,
        spatial_size=(SIDE, SIDE),
        **BOTH,
        **MODES,
    )
    return monai_side(inputs, inputs.scored, [step])


# TorchIO ------------------------------------------------------------------------------


def torchio_mixed(inputs):
    """A volume of one slice, as TorchIO has no images; without copies: it is faster."""
    import torch
    import torchio as t

    uncopied = {"copy": False}

    steps = t.Compose(
        [
            t.RandomAffine(
                scales=SCALES,
                degrees=(0, 0, 0, 0, *DEGREES),
                isotropic=True,
                default_pad_value=0,
                **uncopied,
            ),
            t.RandomFlip(axes=1, flip_probability=0.5, **uncopied),
            t.RandomGamma(log_gamma=tuple(map(math.log, GAMMAS)), **uncopied),
            t.RandomNoise(std=NOISE, **uncopied),
        ],
        **uncopied,
    )
    torch.manual_seed(0)

    def augment_one(index, image, mask):
        pixels = torch.from_numpy(inputs.unit(index)[None, :, :, None])
        field = torch.from_numpy(inputs.masks[index][None, :, :, None].copy())
        subject = t.Subject(image=t.ScalarImage(tensor=pixels))
        subject.add_image(t.LabelMap(tensor=field), "mask")
        result = steps(subject)
        image[:] = result["image"].data[0, :, :, 0].numpy()
        mask[:] = result["mask"].data[0, :, :, 0].numpy()

    return each(augment_one)


# batchgeneratorsv2 --------------------------------------------------------------------


def batchgenerators_side(inputs, compose, fields):
    """Return the `fill` of transforms; segmentations are int16, as in nnU-Net."""
    import torch

    seeded()
    torch.manual_seed(0)

    def augment_one(index, image, mask):
        pixels = torch.from_numpy(inputs.scored(index)[None])
        field = torch.from_numpy(fields[index][None].astype(np.int16))
        result = compose(image=pixels, segmentation=field)
        image[:] = result["image"][0].numpy()
        mask[:] = result["segmentation"][0].numpy()

    return each(augment_one)


def batchgenerators_elastic(inputs):
    """The elastic part of its SpatialTransform, with nearest pixels of the mask."""
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

    width = SIGMA / SIDE
    step = SpatialTransform(
        (SIDE, SIDE),
        patch_center_dist_from_border=0,
        random_crop=False,
        p_elastic_deform=1,
        elastic_deform_scale=(width, width),
        elastic_deform_magnitude=SHIFTS,
        mode_seg="nearest",
    )
    return batchgenerators_side(inputs, step, inputs.masks)


def nnunet_default(inputs, mode_seg="bilinear"):
    """The transforms of nnU-Net 2 for 2-D: nnUNetTrainer.get_training_transforms.

    They have the arguments that its `configure_rotation_dummyDA_mirroring_and_inital_
    patch_size` gives for a square patch, without cascade, regions, masks for
    normalization and deep supervision. The patch has the size of the result; nnU-Net
    cuts a larger one from larger images, to have fewer corners without image.
    """
    from batchgeneratorsv2.transforms.intensity.brightness import (
        MultiplicativeBrightnessTransform,
    )
    from batchgeneratorsv2.transforms.intensity.contrast import (
        BGContrast,
        ContrastTransform,
    )
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import (
        GaussianNoiseTransform,
    )
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import (
        SimulateLowResolutionTransform,
    )
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform
    from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform

    unsynchronized = {"synchronize_channels": False}

    def gamma(invert):
        return GammaTransform(
            BGContrast((0.7, 1.5)),
            p_invert_image=invert,
            p_per_channel=1,
            p_retain_stats=1,
            **unsynchronized,
        )

    spatial = SpatialTransform(
        (SIDE, SIDE),
        patch_center_dist_from_border=0,
        random_crop=False,
        p_elastic_deform=0,
        p_rotation=0.2,
        rotation=(-math.pi, math.pi),
        p_scaling=0.2,
        scaling=(0.7, 1.4),
        p_synchronize_scaling_across_axes=1,
        bg_style_seg_sampling=False,
        mode_seg=mode_seg,
    )
    noise = GaussianNoiseTransform((0, 0.1), p_per_channel=1, synchronize_channels=True)
    blur = GaussianBlurTransform(
        (0.5, 1.0),
        synchronize_axes=False,
        p_per_channel=0.5,
        benchmark=True,
        **unsynchronized,
    )
    brightness = MultiplicativeBrightnessTransform(
        BGContrast((0.75, 1.25)), p_per_channel=1, **unsynchronized
    )
    contrast = ContrastTransform(
        BGContrast((0.75, 1.25)), preserve_range=True, p_per_channel=1, **unsynchronized
    )
    low_resolution = SimulateLowResolutionTransform(
        scale=(0.5, 1),
        synchronize_axes=True,
        ignore_axes=None,
        allowed_channels=None,
        p_per_channel=0.5,
        **unsynchronized,
    )
    compose = ComposeTransforms(
        [
            spatial,
            RandomTransform(noise, apply_probability=0.1),
            RandomTransform(blur, apply_probability=0.2),
            RandomTransform(brightness, apply_probability=0.15),
            RandomTransform(contrast, apply_probability=0.15),
            RandomTransform(low_resolution, apply_probability=0.25),
            RandomTransform(gamma(1), apply_probability=0.1),
            RandomTransform(gamma(0), apply_probability=0.3),
            MirrorTransform(allowed_axes=(0, 1)),
            RemoveLabelTansform(-1, 0),
        ]
    )
    return batchgenerators_side(inputs, compose, inputs.labels)


# --------------------------------------------------------------------------------------

OURS, NEAREST = "fastseg", "fastseg, labels nearest"
CV2_READY, CV2_SAME = "cv2.warpAffine, images scaled before", "cv2.warpAffine"
CV2_HAND, CV2_TUNED = "cv2 and numpy, written by hand", "cv2, written by hand, tuned"
NNUNET = "batchgeneratorsv2, nnU-Net's default"
MIX_TASK, AFFINE_TASK = "rotate + scale + flip + gamma + noise", "affine"
ELASTIC_TASK, STANDARD_TASK = "elastic", "`standard`"

TASKS = {
    MIX_TASK: {
        OURS: partial(ours, steps=MIXED, **UNIT),
        NEAREST: partial(ours, steps=MIXED, labels="nearest", **UNIT),
        "albumentations": albumentations_mixed,
        CV2_HAND: opencv_by_hand,
        CV2_TUNED: opencv_tuned,
        "MONAI": monai_mixed,
        "TorchIO": torchio_mixed,
    },
    AFFINE_TASK: {
        OURS: partial(ours, steps=AFFINE),
        NEAREST: partial(ours, steps=AFFINE, labels="nearest"),
        CV2_SAME: partial(opencv_affine, scaled=False),
        CV2_READY: partial(opencv_affine, scaled=True),
    },
    ELASTIC_TASK: {
        OURS: partial(ours, steps=ELASTIC),
        NEAREST: partial(ours, steps=ELASTIC, labels="nearest"),
        "albumentations": partial(albumentations_elastic, approximate=False),
        "albumentations, approximate": partial(
            albumentations_elastic, approximate=True
        ),
        "MONAI": monai_elastic,
        "batchgeneratorsv2": batchgenerators_elastic,
    },
    STANDARD_TASK: {
        OURS: partial(ours, steps="standard", masks="labels"),
        NEAREST: partial(ours, steps="standard", masks="labels", labels="nearest"),
        NNUNET: nnunet_default,
        f"{NNUNET}, nearest labels": partial(nnunet_default, mode_seg="nearest"),
    },
}
