"""Patches of volumes by one tool, in a process of its own.

    python patches.py TOOL STUDY

benchmarks/volumes/peers.py starts this script with the Python of the environment of
TOOL, a name of TOOLS. STUDY is the folder of study.py. Each line of the input is a JSON
object {"task", "count", "seed", "is_measured"}: the tool makes so many patches, chosen
by the seed, and a line of JSON answers with the milliseconds of CPU time that one took,
so that it does not matter what else the machine does. If "is_measured", also with
moments of what they show in the middle, where no side shows what lies outside of a
crop. The first line of the output lists the tasks of the tool, or names the package
that is missing.

Every side cuts patches of SHAPE from the map of the store, scales them to float32,
and takes the labels of the same voxels as uint8. Ranges of transforms are the same for
all. A side is set up as its documentation advises; where that leaves a choice, the
faster one is taken, or both are sides. It imports what it needs.
"""

import json
import math
import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

SHAPE = (32, 128, 128)
# Patches that a loader makes together: nnU-Net's batches for 3-D have two by default.
# All other sides make one after the other, as their data loaders do.
BATCH = 2
# What is compared: whatever the angle, it shows voxels of the crop.
MIDDLE = (slice(12, 20), slice(48, 80), slice(48, 80))
TURN = math.pi  # largest angle in plane
TILT = math.pi / 6  # largest angle about each axis, as in nnU-Net
SCALES = (0.8, 1.25)
GAMMAS = (0.7, 1.5)
NOISE = (0.0, 0.1)
CROP = "patch at stored spacing, z-score"
IN_PLANE = "rotate in plane + scale + flips + gamma + noise"
ANY_AXIS = "rotate about any axis"


class Study:
    """The volumes, as maps of files.

    images : int16 (n, H, W); masks : uint8 (n, H, W), bit fields
    labels : uint8 (n, H, W), one class for each voxel
    """

    def __init__(self, folder):
        layout = json.loads((folder / "layout.json").read_text(encoding="utf-8"))
        shape = tuple(layout["shape"])
        self.store = layout["store"]
        self.images = np.memmap(self.store, "<i2", "r", layout["offsets"][0], shape)
        self.masks = np.memmap(self.store, "u1", "r", layout["offsets"][1], shape)
        self.labels = np.load(folder / "labels.npy", mmap_mode="r")
        self.first = layout["first"]
        self.slices = layout["slices"]
        self.scalings = {name: layout[name] for name in ("zscore", "unit")}

    def corners(self, count, seed):
        """Return the first voxels of patches, (row of the stack, y, x)."""
        random = np.random.default_rng(seed)
        _, height, width = self.images.shape
        first = random.choice(self.first, count)
        limits = self.slices - SHAPE[0], height - SHAPE[1], width - SHAPE[2]
        z, y, x = (random.integers(0, n + 1, count) for n in limits)
        return np.stack([first + z, y, x], axis=1).tolist()

    def crop(self, corner, scaling):
        """Return image, float32, and labels of a patch, copied from the maps."""
        z, y, x = corner
        d, h, w = SHAPE
        part = slice(z, z + d), slice(y, y + h), slice(x, x + w)
        shift, gain = self.scalings[scaling]
        image = np.subtract(self.images[part], np.float32(shift), dtype=np.float32)
        image *= np.float32(gain)
        return image, np.ascontiguousarray(self.labels[part])


# Ours, the limit, and plain numpy ----------------------------------------------------


def by_fastseg(study):
    """What a thread of a PatchLoader calls, with the corners of all other sides."""
    from fastseg import PatchLoader, open
    from fastseg.augment import Affine, Affine3D, Flip, Gamma, Noise

    store = open(study.store)
    in_plane = [
        Affine(rotate=(-math.degrees(TURN), math.degrees(TURN)), scale=SCALES),
        *(Flip(axis) for axis in ("horizontal", "vertical", "slices")),
        Gamma(GAMMAS, keep_stats=False),
        Noise(NOISE),
    ]
    any_axis = [Affine3D(rotate=math.degrees(TILT), inplane="never")]
    # The window of "unit"; stored values are image values.
    low, gain = study.scalings["unit"]
    unit = {"normalize": "window", "window": (low + 0.5 / gain, 1 / gain)}
    # Where classes overlap, labels are those of labels.npy.
    options = {"priority": store.classes[::-1], "missing": "background"}
    loaders = {
        CROP: PatchLoader(store, SHAPE, **options),
        IN_PLANE: PatchLoader(store, SHAPE, augment=in_plane, **unit, **options),
        ANY_AXIS: PatchLoader(store, SHAPE, augment=any_axis, **options),
    }
    # All others turn voxels as if they were cubes.
    made = loaders[ANY_AXIS].preprocessing
    made.grids = made.grids._replace(spacing_mm=np.ones((len(study.first), 3)))
    return {task: our_batches(study, loader) for task, loader in loaders.items()}


def our_batches(study, loader):
    """Return a function that makes the patches at BATCH corners by a PatchLoader."""
    from fastseg.loading.placement import VOLUME_BITS

    preprocessing = loader.preprocessing
    image = np.empty((BATCH, 1, *SHAPE), np.float32)
    mask = np.empty((BATCH, *SHAPE), np.uint8)
    repeats = np.arange(BATCH, dtype=np.int64) << VOLUME_BITS
    epochs, firsts = iter(range(2**31)), np.array(study.first)

    def patches(corners):
        count = len(corners)
        z, y, x = np.array(corners).T
        volumes = np.searchsorted(firsts, z, side="right") - 1
        within = np.stack([z - firsts[volumes], y, x], axis=1)
        preprocessing.positions.corners = lambda entries, epoch: within
        # Each epoch draws other parameters, and each repeat.
        entries = volumes | repeats[:count]
        preprocessing.fill(entries, image[:count], mask[:count], next(epochs))
        return zip(image[:count, 0], mask[:count], strict=True)

    return patches


def bare_gather(study):
    """One compiled call, into the same arrays over and over: what memory can do."""
    import numba

    @numba.njit(nogil=True, error_model="numpy")
    def gather(images, masks, corner, shift, gain, image, mask):
        z, y, x = corner
        depth, height, width = image.shape
        for k in range(depth):
            for row in range(height):
                pixels, scaled = images[z + k, y + row], image[k, row]
                bits, copied = masks[z + k, y + row], mask[k, row]
                for column in range(width):
                    value = np.float32(pixels[x + column])
                    scaled[column] = (value - shift) * gain
                for column in range(width):
                    copied[column] = bits[x + column]

    image, mask = np.empty(SHAPE, np.float32), np.empty(SHAPE, np.uint8)
    arrays = np.asarray(study.images), np.asarray(study.labels)
    shift, gain = map(np.float32, study.scalings["zscore"])

    def patch(corner):
        gather(*arrays, tuple(corner), shift, gain, image, mask)
        return image, mask

    return {CROP: patch}


def by_numpy(study):
    """Cuts the patch and scales it, as people write it."""
    return {CROP: partial(study.crop, scaling="zscore")}


# batchgeneratorsv2 -------------------------------------------------------------------


def by_batchgenerators(study):
    """In plane, slices are channels, as nnU-Net does it for volumes of thick slices.

    Labels are those of the nearest voxels, which is faster than its default.
    """
    import torch
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import (
        GaussianNoiseTransform,
    )
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.pseudo2d import (
        Convert2DTo3DTransform,
        Convert3DTo2DTransform,
    )

    torch.set_num_threads(1)
    shared = {
        "patch_center_dist_from_border": 0,
        "random_crop": False,
        "p_rotation": 1,
        "mode_seg": "nearest",
    }
    in_plane = ComposeTransforms(
        [
            Convert3DTo2DTransform(),
            SpatialTransform(
                SHAPE[1:],
                rotation=(-TURN, TURN),
                p_scaling=1,
                scaling=SCALES,
                p_synchronize_scaling_across_axes=1,
                **shared,
            ),
            Convert2DTo3DTransform(),
            MirrorTransform((0, 1, 2)),
            GammaTransform(
                GAMMAS,
                p_invert_image=0,
                synchronize_channels=True,
                p_per_channel=1,
                p_retain_stats=0,
            ),
            GaussianNoiseTransform(NOISE, p_per_channel=1, synchronize_channels=True),
        ]
    )
    any_axis = SpatialTransform(SHAPE, rotation=(-TILT, TILT), **shared)

    def patch(corner, steps, scaling):
        image, labels = study.crop(corner, scaling)
        result = steps(
            image=torch.from_numpy(image[None]),
            segmentation=torch.from_numpy(labels[None].astype(np.int16)),
        )
        return result["image"][0].numpy(), result["segmentation"][0].numpy()

    return {
        IN_PLANE: partial(patch, steps=in_plane, scaling="unit"),
        ANY_AXIS: partial(patch, steps=any_axis, scaling="zscore"),
    }


# MONAI -------------------------------------------------------------------------------


def by_monai(study, slices_are_channels=False):
    """One resampling for turn and scale, on tensors without metadata: it is faster.

    slices_are_channels : the mapping is one of images with 32 channels; MONAI's
        documentation does not say so, but that is less work than one in 3-D
    """
    import torch
    from monai.data import set_track_meta
    from monai.transforms import (
        Compose,
        RandAdjustContrastd,
        RandAffined,
        RandFlipd,
        RandGaussianNoised,
    )

    torch.set_num_threads(1)
    set_track_meta(False)
    both = {"keys": ["image", "mask"], "prob": 1.0}
    shared = {
        **both,
        "mode": ("bilinear", "nearest"),
        "padding_mode": "zeros",
        "cache_grid": True,
    }
    scales = tuple(scale - 1 for scale in SCALES)  # "a 1.0 is added"
    if slices_are_channels:
        mapping = RandAffined(
            rotate_range=TURN,
            scale_range=(scales, scales),
            spatial_size=SHAPE[1:],
            **shared,
        )
    else:
        mapping = RandAffined(
            rotate_range=(TURN, 0, 0),
            scale_range=((0, 0), scales, scales),
            spatial_size=SHAPE,
            **shared,
        )
    mapping.set_random_state(0)
    others = Compose(
        [
            *(
                RandFlipd(["image", "mask"], prob=0.5, spatial_axis=axis)
                for axis in range(3)
            ),
            RandAdjustContrastd(["image"], prob=1.0, gamma=GAMMAS),
            RandGaussianNoised(["image"], prob=1.0, std=NOISE[1]),
        ]
    ).set_random_state(0)
    any_axis = RandAffined(rotate_range=(TILT,) * 3, spatial_size=SHAPE, **shared)
    any_axis.set_random_state(0)

    def patch(corner, mapping, others, scaling, channels=1):
        image, labels = study.crop(corner, scaling)
        shape = SHAPE if channels > 1 else (1, *SHAPE)
        given = {"image": image.reshape(shape), "mask": labels.reshape(shape)}
        result = mapping({key: torch.from_numpy(x) for key, x in given.items()})
        result = {key: x.reshape(1, *SHAPE) for key, x in result.items()}
        result = others(result) if others else result
        return result["image"][0].numpy(), result["mask"][0].numpy()

    channels = SHAPE[0] if slices_are_channels else 1
    tasks = {IN_PLANE: partial(patch, mapping=mapping, others=others, scaling="unit")}
    tasks[IN_PLANE].keywords["channels"] = channels
    if not slices_are_channels:
        tasks[ANY_AXIS] = partial(
            patch, mapping=any_axis, others=None, scaling="zscore"
        )
    return tasks


# TorchIO -----------------------------------------------------------------------------


def by_torchio(study):
    """Axes are (z, y, x), so that nothing is transposed; without copies."""
    import SimpleITK
    import torch
    import torchio as t

    torch.set_num_threads(1)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    torch.manual_seed(0)
    shared = {"copy": False}
    mapping = {"default_pad_value": 0, **shared}
    turn, tilt = math.degrees(TURN), math.degrees(TILT)
    in_plane = t.Compose(
        [
            t.RandomAffine(
                scales=(1, 1, *SCALES, *SCALES),
                degrees=(-turn, turn, 0, 0, 0, 0),
                **mapping,
            ),
            t.RandomFlip(axes=(0, 1, 2), flip_probability=0.5, **shared),
            t.RandomGamma(log_gamma=tuple(map(math.log, GAMMAS)), **shared),
            t.RandomNoise(std=NOISE, **shared),
        ],
        **shared,
    )
    any_axis = t.RandomAffine(scales=(1, 1), degrees=(-tilt, tilt), **mapping)

    def patch(corner, steps, scaling):
        image, labels = study.crop(corner, scaling)
        subject = t.Subject(
            image=t.ScalarImage(tensor=torch.from_numpy(image[None])),
            mask=t.LabelMap(tensor=torch.from_numpy(labels[None])),
        )
        result = steps(subject)
        return result["image"].data[0].numpy(), result["mask"].data[0].numpy()

    return {
        IN_PLANE: partial(patch, steps=in_plane, scaling="unit"),
        ANY_AXIS: partial(patch, steps=any_axis, scaling="zscore"),
    }


# -------------------------------------------------------------------------------------

OURS = "fastseg"
TOOLS = {
    OURS: by_fastseg,
    "bare gather": bare_gather,
    "numpy": by_numpy,
    "batchgeneratorsv2": by_batchgenerators,
    "MONAI": by_monai,
    "MONAI, slices as channels": partial(by_monai, slices_are_channels=True),
    "TorchIO": by_torchio,
}


def moments_of(image, labels):
    """Return mean and deviation of an image, and the fraction of voxels in organs."""
    image, labels = image[MIDDLE], labels[MIDDLE]
    # Label 1 is BODY, nearly everywhere.
    return [float(image.mean()), float(image.std()), float((labels > 1).mean())]


def make(patches, corners, is_measured):
    """Make the patches of some corners; return milliseconds, and moments if asked."""
    moments = []
    start = time.process_time()  # of all threads
    for first in range(0, len(corners), BATCH):
        for image, labels in patches(corners[first : first + BATCH]):
            if is_measured:
                assert image.shape == labels.shape == SHAPE
                assert image.dtype == np.float32
                assert np.isfinite(image).all()
                moments.append(moments_of(image, labels))
    answer = {"ms": 1000 * (time.process_time() - start) / len(corners)}
    if is_measured:
        answer["moments"] = np.mean(moments, axis=0).tolist()
    return answer


def one_by_one(patch):
    """Return a function of several corners, of one that makes the patch at a corner."""
    return partial(map, patch)


def main():
    """Answer the lines of the input."""
    tool, folder = sys.argv[1:]
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a tool prints is no answer
    np.random.seed(0)  # noqa: NPY002, batchgeneratorsv2 uses it
    study = Study(Path(folder))
    try:
        tasks = TOOLS[tool](study)
        if tool != OURS:
            tasks = {task: one_by_one(patch) for task, patch in tasks.items()}
    except ImportError as exc:
        print(json.dumps({"missing": exc.name}), file=answers)
        return
    print(json.dumps({"tasks": [*tasks]}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        corners = study.corners(asked["count"], asked["seed"])
        answer = make(tasks[asked["task"]], corners, asked["is_measured"])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
