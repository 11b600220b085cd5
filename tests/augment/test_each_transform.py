"""Every transform of the package changes batches, exactly as its oracle says."""

import importlib
import inspect
import pkgutil
from typing import NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage
from xxhash import xxh3_64_intdigest

from fastseg import Loader, augment
from fastseg.augment import Transform, base, compose
from fastseg.augment.base import GeometricTransform
from tests.augment.test_mapping import centred
from tests.intensity_reference import (
    bias_reference,
    contrast_reference,
    gamma_reference,
    lower_reference,
)
from tests.noise_reference import normals, uniforms
from tests.warp_reference import IDENTITY, NO_CONTROL, resample

SEED = 7
# Errors of float32 coordinates times the steepest slope of an image, and those that the
# kernels of intensities promise.
GEOMETRIC_ERROR, INTENSITY_ERROR = 2e-3, 2e-4


def every_transform():
    """Return the classes that a module of the package defines, without base classes."""
    kinds = set()
    for module in pkgutil.iter_modules(augment.__path__, "fastseg.augment."):
        for value in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(value) and issubclass(value, Transform):
                kinds.add(value)
    kinds = [kind for kind in kinds if not inspect.isabstract(kind)]
    return sorted({*kinds} - {Transform}, key=lambda kind: kind.__name__)


class Case(NamedTuple):
    """One sample, and what was drawn for it.

    image : float64 (h, w), without augmentation
    zero  : the value in image that means no signal
    size  : (height, width) of the batch
    """

    step: Transform
    values: dict
    image: np.ndarray
    zero: float
    size: tuple
    spacing_mm: np.ndarray
    key: int
    sample: int


def warped(case, matrix, size=None, control=NO_CONTROL, spacing=1.0):
    """Return the image through a mapping; its least value outside.

    NaN where rounding decides.
    """
    size = size or case.image.shape
    mapping = matrix, control, spacing, IDENTITY
    values, doubtful = resample(case.image, mapping, size, 1, "constant")
    values = np.nan_to_num(values, nan=case.image.min())
    values[doubtful] = np.nan
    return centred(values, case.size, case.image.min())


def affine(case):
    """Scale, shear and rotate about the centre, in this order, then shift."""
    v = case.values
    height, width = case.image.shape
    turn, tilt = np.radians(v["rotate"]), np.tan(np.radians(v["shear"]))
    scale = np.diag([v["scale"] * v["scale_x"], v["scale"] * v["scale_y"]])
    shear = np.array([[1, -tilt], [0, 1]])
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    inverse = np.linalg.inv(rotation @ shear @ scale)
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    moved = centre + (v["translate_x"] * width, v["translate_y"] * height)
    return warped(case, np.column_stack([inverse, centre - inverse @ moved]))


def flip(case):
    flips = {"horizontal": np.fliplr, "vertical": np.flipud}
    return flips[case.step.axis](case.image)


def rot90(case):
    turned = np.rot90(case.image, case.values["quarters"])
    return centred(turned, case.size, case.image.min())


def elastic(case):
    spacing = case.step.spacing
    grid = [int(np.ceil((n - 1) / spacing)) + 4 for n in case.image.shape]
    drawn = uniforms(case.key, case.sample, 1, 2 * grid[0] * grid[1])
    control = case.values["magnitude"] * (2 * drawn - 1)
    return warped(case, IDENTITY, control=control.reshape(*grid, 2), spacing=spacing)


def crop(case):
    surplus = np.subtract(case.image.shape, case.step.size)
    fractions = case.values["down"], case.values["across"]
    top, left = np.floor(np.multiply(fractions, surplus + 1)).astype(int)
    height, width = case.step.size
    return case.image[top : top + height, left : left + width]


def stretched(case, size, factors):
    """Return the image with pixels that are larger by factors, (down, across)."""
    down, across = factors
    matrix = np.array(
        [[across, 0, (across - 1) / 2], [0, down, (down - 1) / 2]], dtype=float
    )
    return warped(case, matrix, size)


def resize(case):
    return stretched(case, case.step.size, np.divide(case.image.shape, case.step.size))


def resampled(case):
    factors = np.divide(case.step.spacing_mm, case.spacing_mm)
    size = np.rint(np.divide(case.image.shape, factors)).astype(int)
    return stretched(case, tuple(size.tolist()), factors)


def gamma(case):
    step = case.step
    return gamma_reference(
        case.image, case.values["gamma"], step.invert, step.keep_stats
    )


def brightness(case):
    return case.image * case.values["multiply"] + case.values["add"]


def contrast(case):
    return contrast_reference(
        case.image, case.values["factor"], case.step.preserve_range
    )


def noise(case):
    std, size = case.values["std"], case.image.size
    if case.step.kind == "gaussian":
        drawn = normals(case.key, case.sample, 2**16, size)
        return case.image + std * drawn.reshape(case.image.shape)
    # Of each 1024 numbers, the first half are real parts.
    pairs = normals(case.key, case.sample, 2**16, 2 * size + 1024)
    pairs = pairs[: pairs.size // 1024 * 1024].reshape(-1, 2, 512)
    real, imaginary = pairs.transpose(1, 0, 2).reshape(2, -1)[:, :size]
    signal = case.image - case.zero
    real, imaginary = (x.reshape(signal.shape) * std for x in (real, imaginary))
    return case.zero + np.hypot(signal + real, imaginary)


def blur(case):
    return ndimage.gaussian_filter(case.image, case.values["sigma"], truncate=4)


def bias_field(case):
    drawn = 2 * uniforms(case.key, case.sample, 2, 10) - 1
    return bias_reference(case.image, case.zero, case.values["magnitude"] * drawn)


def low_resolution(case):
    return lower_reference(case.image, case.values["factor"])


def negate(image, mask, random):
    image *= -1
    mask[:] = 0


def custom(case):
    return -case.image


# Of each transform: steps that are not neutral, and the oracle of an image.
ORACLES = {
    augment.Affine: (
        [
            augment.Affine(rotate=90, scale=(0.7, 1.4), scale_x=1.2, shear=20),
            augment.Affine(scale_y=0.8, translate_x=0.2, translate_y=(0.1, 0.2)),
        ],
        affine,
    ),
    augment.Flip: (
        [augment.Flip(p=1), augment.Flip(p=1, axis="vertical")],
        flip,
    ),
    augment.Rot90: ([augment.Rot90()], rot90),
    augment.Elastic: ([augment.Elastic(magnitude=(4, 8), spacing=20)], elastic),
    augment.Crop: ([augment.Crop(size=(50, 70))], crop),
    augment.Resize: ([augment.Resize(size=(70, 101))], resize),
    augment.Resample: ([augment.Resample(spacing_mm=(2, 3.5))], resampled),
    augment.Gamma: (
        [augment.Gamma(), augment.Gamma(gamma=2, invert=True, keep_stats=False)],
        gamma,
    ),
    augment.Brightness: ([augment.Brightness(multiply=(1.1, 2), add=1)], brightness),
    augment.Contrast: (
        [augment.Contrast(factor=2), augment.Contrast(preserve_range=False)],
        contrast,
    ),
    augment.Noise: ([augment.Noise(), augment.Noise(kind="rician")], noise),
    augment.Blur: ([augment.Blur(sigma=(0.5, 2))], blur),
    augment.BiasField: ([augment.BiasField()], bias_field),
    augment.LowResolution: ([augment.LowResolution(factor=0.4)], low_resolution),
    augment.Custom: ([augment.Custom(function=negate)], custom),
}
STEPS = [step for steps, _ in ORACLES.values() for step in steps]


def names_of(steps):
    steps = steps if isinstance(steps, list) else [steps]
    return "-".join(type(step).__name__ for step in steps)


def one_batch(store, indices, **options):
    """Return the batch of some samples."""
    options = {"batch_size": len(indices), "seed": SEED, **options}
    return next(iter(Loader(store, indices=indices, masks="onehot", **options)))


def tall_samples(store):
    """Return samples of one shape that is not a square."""
    return store.select(shape=(120, 88))[:6]


def test_every_transform_is_public_and_has_an_oracle():
    """Each class is in `__all__`, of one of three kinds, and has an oracle here."""
    kinds = every_transform()
    assert len(kinds) >= 15
    public = [getattr(augment, name) for name in augment.__all__]
    for kind in kinds:
        assert kind in public, f"{kind.__name__} is not in __all__ of its module"
        assert kind in compose._TRANSFORMS.values()
        families = base.GeometricTransform, base.IntensityTransform, base.ArrayTransform
        assert sum(issubclass(kind, family) for family in families) == 1, kind
        if kind.in_space:  # see tests/loading/test_patches_in_space.py
            continue
        assert kind in ORACLES, f"{kind.__name__} has no entry in ORACLES"
        steps, _ = ORACLES[kind]
        assert steps
        assert all(type(step) is kind for step in steps)


@pytest.mark.parametrize("step", STEPS, ids=names_of)
def test_every_transform_has_an_effect(store, step):
    """It changes nearly all images of a batch; one that moves pixels, masks too."""
    indices = tall_samples(store)
    batch = one_batch(store, indices, augment=[step])
    plain = one_batch(store, indices, size=batch.image.shape[-2:])
    for name in ("image", "mask"):
        if name == "image" or isinstance(step, GeometricTransform):
            before, after = (getattr(b, name).astype(float) for b in (plain, batch))
            changed = (after != before).reshape(len(indices), -1).any(axis=1)
            assert changed.mean() > 0.8, name


@pytest.mark.parametrize("step", STEPS, ids=names_of)
def test_every_transform_equals_its_oracle(store, step):
    """Each image is that of the oracle, with the parameters that the batch reports."""
    indices = tall_samples(store)
    batch = one_batch(store, indices, augment=[step], return_params=True)
    plain = one_batch(store, indices)
    key = xxh3_64_intdigest(np.array([SEED, 0], "<u8").tobytes())
    (params,) = batch.params["steps"]
    del params["name"]
    _, oracle = ORACLES[type(step)]
    is_geometric = isinstance(step, GeometricTransform)
    error = GEOMETRIC_ERROR if is_geometric else INTENSITY_ERROR
    for k, sample in enumerate(batch.index.tolist()):
        image = plain.image[plain.index.tolist().index(sample), 0].astype(float)
        # The line from stored to normalized values, at an image value of 0.
        stored = store[sample].image.astype(float)
        slope, shift = np.polyfit(stored.ravel(), image.ravel(), 1)
        items = {name: store.items[name][sample] for name in ("intercept", "slope")}
        case = Case(
            step=step,
            values={name: values[k] for name, values in params.items()},
            image=image,
            zero=shift - slope * items["intercept"] / items["slope"],
            size=batch.image.shape[-2:],
            spacing_mm=store.items["spacing_mm"][sample],
            key=key,
            sample=sample,
        )
        expected = oracle(case)
        sure = np.isfinite(expected)
        assert sure.mean() > 0.9
        actual = batch.image[k, 0]
        assert_allclose(actual[sure], expected[sure], rtol=0, atol=error)


def add_one_number(image, mask, random):
    image += np.float32(random.random())


NOISE = augment.Noise(std=1.0)
CUSTOM = augment.Custom(function=add_one_number)
FIELD = augment.BiasField(magnitude=0.3)


@pytest.mark.parametrize(
    "steps",
    [[NOISE] * 2, [NOISE, CUSTOM, NOISE], [CUSTOM] * 2, [CUSTOM, NOISE, CUSTOM]]
    + [[FIELD] * 2, [FIELD, augment.Flip(p=0), FIELD]],
    ids=names_of,
)
def test_two_equal_steps_draw_independent_numbers(store, steps):
    """What the last step adds has no correlation with what the first one added."""
    every = np.arange(len(store))
    made = []
    for some in ([], steps[:1], steps[:-1], steps):
        batch = one_batch(store, every, augment=some, size=64, normalize=None)
        image = batch.image[np.argsort(batch.index), 0].astype(float)
        # A field multiplies, so that its logarithm is added.
        made.append(np.log(np.maximum(image, 1)) if FIELD in steps else image)
    first, last = made[1] - made[0], made[3] - made[2]
    if NOISE is not steps[0]:  # one number or field for all pixels of a sample
        first, last = first.mean(axis=(1, 2)), last.mean(axis=(1, 2))
    assert np.abs(last - first).max() > 0.1
    correlation = np.corrcoef(first.ravel(), last.ravel())[0, 1]
    assert abs(correlation) < 4 / np.sqrt(first.size)


@pytest.mark.parametrize(
    "step",
    [step for step in STEPS if step.draws > 1 and type(step) is not augment.Elastic],
    ids=names_of,
)
def test_two_equal_steps_draw_other_parameters(store, step):
    """Each step has its own random parameters."""
    loader = Loader(store, augment=[step, step], size=(50, 70), batch_size=2)
    first, second = loader.preprocessing.draw(np.arange(len(store)), 0).values
    for name in first:
        is_constant = len(np.unique(first[name])) == 1
        assert is_constant or (first[name] != second[name]).any(), name


def test_a_class_of_no_kind_is_refused(store, monkeypatch):
    """A transform that a Loader cannot apply is an error; it is never skipped."""

    class Strange(Transform):
        pass

    monkeypatch.setitem(compose._TRANSFORMS, "Strange", Strange)
    with pytest.raises(TypeError, match="of no kind that a Loader applies"):
        Loader(store, augment=[Strange()], size=64)


def test_a_geometric_class_without_its_method_cannot_be_made():
    """A class that does not say how it moves pixels is refused by Python."""

    class Idle(GeometricTransform):
        pass

    with pytest.raises(TypeError, match="extend"):
        Idle()
