"""Augmented batches: exact labels, the same with any number of threads, replayed."""

import json

import numba
import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastseg
from fastseg import Loader
from fastseg.augment import (
    Affine,
    BiasField,
    Blur,
    Brightness,
    Compose,
    Contrast,
    Crop,
    Custom,
    Elastic,
    Flip,
    Gamma,
    LowResolution,
    Noise,
    Resample,
    Resize,
    Rot90,
)
from fastseg.errors import OptionError, StateError, UnknownClassError

EVERYTHING = Compose(
    [
        Affine(rotate=(-40, 40), scale=(0.8, 1.25), shear=(-10, 10), p=0.7),
        Elastic(magnitude=(0, 6), spacing=24),
        Flip(),
        Rot90(p=0.5),
        Crop(size=(72, 64), where="icontour", margin=4),
        BiasField(p=0.5),
        Gamma(p=0.5),
        Brightness(multiply=(0.8, 1.2), p=0.5),
        Contrast(p=0.5),
        Blur(p=0.5),
        LowResolution(p=0.3),
        Noise(std=(0, 0.2), kind="rician", p=0.5),
        Noise(std=(0, 0.2), p=0.5),
    ]
)


def epoch(loader):
    batches = list(loader)
    order = np.argsort(np.concatenate([batch.index for batch in batches]))
    return tuple(
        np.concatenate([getattr(batch, name) for batch in batches])[order]
        for name in ("image", "mask")
    )


@pytest.mark.parametrize("masks", ["bits", "labels", "onehot", "icontour"])
@pytest.mark.parametrize("labels", ["exact", "nearest"])
@pytest.mark.parametrize("interpolation", ["nearest", "linear", "cubic"])
def test_identity_transforms_change_no_bit(store, masks, labels, interpolation):
    """Transforms with identity parameters give the batch without augmentation."""
    options = {"size": (100, 90), "masks": masks, "batch_size": 8, "pad_value": -3}
    steps = [Affine(), Flip(p=0), Gamma(p=0), Brightness()]
    compose = Compose(steps, interpolation)
    expected = epoch(Loader(store, **options))
    augmented = epoch(Loader(store, augment=compose, labels=labels, **options))
    for ours, theirs in zip(augmented, expected, strict=True):
        assert_array_equal(ours, theirs)


def test_images_and_labels_move_together(store):
    """Flips and quarter turns change images and labels as numpy does."""
    square = store.select(shape=96)
    options = {"indices": square, "batch_size": 8}
    image, mask = epoch(Loader(store, **options))
    for steps, flip in (
        ([Flip(p=1)], lambda x: x[..., ::-1]),
        ([Flip(p=1, axis="vertical")], lambda x: x[..., ::-1, :]),
        ([Flip(p=1), Flip(p=1, axis="vertical")], lambda x: x[..., ::-1, ::-1]),
    ):
        for labels in ("exact", "nearest"):
            loader = Loader(store, augment=steps, labels=labels, **options)
            got_image, got_mask = epoch(loader)
            assert_array_equal(got_image, flip(image))
            assert_array_equal(got_mask, flip(mask))
    loader = Loader(store, augment=[Rot90()], return_params=True, **options)
    for batch in loader:
        for k, index in enumerate(batch.index.tolist()):
            quarters = batch.params["steps"][0]["quarters"][k]
            assert_array_equal(batch.image[k, 0], np.rot90(image[index, 0], quarters))
            assert_array_equal(batch.mask[k], np.rot90(mask[index], quarters))


@pytest.mark.parametrize("edges", ["closed", "open", "half-open"])
def test_exact_labels_are_the_filled_moved_contours(sample_study, tmp_path, edges):
    """Exact labels equal `rasterize` of vertices that the test moves itself."""
    table = fastseg.link(sample_study)
    path = fastseg.build(table, tmp_path / "heart.h5", edges=edges).path
    store = fastseg.open(path)
    compose = Compose(
        [Affine(rotate=(-90, 90), scale=(0.7, 1.5)), Flip(), Crop(size=80)]
    )
    loader = Loader(store, augment=compose, masks="bits", batch_size=8, seed=3)
    preprocessing = loader.preprocessing
    for batch in loader:
        drawn = preprocessing.draw(batch.index, 0)
        mapping = preprocessing.find_mappings(
            preprocessing.locate(batch.index, 0), drawn
        )
        for k, index in enumerate(batch.index.tolist()):
            matrix = np.linalg.inv(mapping.inner[k] @ mapping.outer[k])
            contours = store[index].contours
            for bit, name in enumerate(store.classes):
                rings = [
                    ring @ matrix[:2, :2].T + matrix[:2, 2]
                    for ring in contours.get(name, [])
                ]
                expected = np.zeros(preprocessing.size, bool)
                if rings:
                    expected = fastseg.rasterize(rings, preprocessing.size, edges=edges)
                assert_array_equal((batch.mask[k] >> bit) & 1, expected)


def with_spacing(study, path, spacings):
    """Build a store of a study whose first images have other spacings, and open it.

    spacings : of the first images, the last one of all others
    """
    files = sorted(study.rglob("*.dcm"))
    for k, file in enumerate(files):
        header = pydicom.dcmread(file)
        header.PixelSpacing = list(spacings[min(k, len(spacings) - 1)])
        header.save_as(file)
    return fastseg.open(fastseg.build(fastseg.link(study), path).path)


def test_an_image_of_unequal_spacing_is_turned_in_millimetres(study, tmp_path):
    """Labels are the contours turned in mm, also by the params of another store."""
    steps = [Affine(rotate=(-170, 170))]
    options = {"augment": steps, "batch_size": 4, "masks": "bits", "size": 64}
    equal = fastseg.open(fastseg.build(fastseg.link(study), tmp_path / "old.h5").path)
    other = Loader(equal, return_params=True, shuffle=False, **options)
    store = with_spacing(study, tmp_path / "new.h5", [(0.5, 1.0)])
    batch = next(iter(other))
    again = Loader(store, **options).replay(batch.params)
    assert again.mask.any()
    for k, index in enumerate(batch.index.tolist()):
        angle = np.radians(batch.params["steps"][0]["rotate"][k])
        sample = store[index]
        centre = (np.array(sample.image.shape)[::-1] - 1) / 2
        for bit, name in enumerate(store.classes):
            rings = []
            for ring in sample.contours.get(name, []):
                x, y = ((ring - centre) * (1.0, 0.5)).T
                turned = (x + 1j * y) * np.exp(-1j * angle)
                rings.append(
                    np.column_stack([turned.real, turned.imag / 0.5])
                    + centre
                    + (64 - np.array(sample.image.shape)[::-1]) // 2
                )
            expected = np.zeros((64, 64), bool)
            if rings:
                expected = fastseg.rasterize(rings, (64, 64), edges="closed")
            assert_array_equal((again.mask[k] >> bit) & 1, expected)


def test_a_sample_with_pixels_of_absurd_shape_is_refused_at_once(study, tmp_path):
    """The Loader names it; steps that do not depend on the spacing take it."""
    store = with_spacing(study, tmp_path / "heart.h5", [(0.5, 1.0), (1, 9e9), (1, 1)])
    (wrong,) = np.flatnonzero(store.items["spacing_mm"][:, 1] == 9e9).tolist()
    options = {"size": 32, "batch_size": 2}
    with pytest.raises(OptionError, match=rf"Affine: sample {wrong} has pixels of .*9"):
        Loader(store, augment=[Affine(rotate=3)], **options)
    for steps in ("light", [Affine(rotate=3, in_mm=False)], [Affine(scale=2)]):
        Loader(store, augment=steps, **options)
    indices = np.delete(np.arange(len(store)), wrong)
    Loader(store, augment=[Affine(rotate=3)], indices=indices, **options)


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def test_exact_labels_are_more_accurate_than_nearest_ones(store):
    """Their Dice with the moved contours at 16 times the resolution is higher."""
    square = store.select(shape=96, classes=["icontour"], min_pixels=100)
    compose = Compose([Affine(rotate=(-30, 30), scale=(0.85, 1.15))])
    options = {"indices": square, "augment": compose, "masks": "icontour", "seed": 1}
    options["batch_size"] = len(square)
    exact, nearest = (
        next(iter(Loader(store, labels=labels, **options)))
        for labels in ("exact", "nearest")
    )
    loader = Loader(store, **options)
    drawn = loader.preprocessing.draw(exact.index, 0)
    mapping = loader.preprocessing.find_mappings(
        loader.preprocessing.locate(exact.index, 0), drawn
    )
    scores = {"exact": [], "nearest": []}
    for k, index in enumerate(exact.index.tolist()):
        matrix = np.linalg.inv(mapping.outer[k])
        fine = [
            (ring @ matrix[:2, :2].T + matrix[:2, 2] + 0.5) * 16 - 0.5
            for ring in store[index].contours["icontour"]
        ]
        truth = fastseg.rasterize(fine, (96 * 16, 96 * 16))
        for name, batch in (("exact", exact), ("nearest", nearest)):
            mask = batch.mask[k].astype(bool).repeat(16, axis=0).repeat(16, axis=1)
            scores[name].append(dice(mask, truth))
    assert np.mean(scores["exact"]) > np.mean(scores["nearest"]) + 0.003
    assert np.mean(scores["exact"]) > 0.965


def test_elastic_labels_follow_the_image(store):
    """With an Elastic, exact and nearest labels differ at outlines only."""
    options = {"indices": store.select(shape=96), "batch_size": 8, "masks": "icontour"}
    options["augment"] = Compose([Elastic(magnitude=10, spacing=32)])
    _, exact = epoch(Loader(store, **options))
    _, nearest = epoch(Loader(store, labels="nearest", **options))
    _, before = epoch(Loader(store, **{**options, "augment": None}))
    assert exact.sum() > 1000
    assert dice(exact == 1, nearest == 1) > 0.95
    assert dice(exact == 1, before == 1) < 0.9


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_batches_depend_on_seed_epoch_and_sample_alone(store, threads, batch_size):
    """Threads, ranges of a batch and neighbours in it change no bit."""
    options = {"augment": EVERYTHING, "seed": 11, "masks": "labels"}
    single = Loader(store, batch_size=4, threads=1, prefetch=1, **options)
    other = Loader(store, batch_size=batch_size, threads=threads, **options)
    for _ in range(2):
        for expected, got in zip(epoch(single), epoch(other), strict=True):
            assert_array_equal(got, expected)


def test_epochs_and_seeds_differ(store):
    """Each epoch and each seed draws other parameters, also (0, 1) and (1, 0)."""
    loader = Loader(store, augment=EVERYTHING, seed=0, batch_size=8)
    images = [epoch(loader)[0] for _ in range(2)]
    other = Loader(store, augment=EVERYTHING, seed=1, batch_size=8)
    images += [epoch(other)[0] for _ in range(2)]
    for k in range(4):
        for j in range(k):
            differs = (images[k] != images[j]).reshape(len(images[k]), -1).any(axis=1)
            assert differs.mean() > 0.9


def test_a_resumed_loop_continues_its_augmentation(store):
    """A state gives the same bits, and a loader with other transforms refuses it."""
    options = {"augment": EVERYTHING, "batch_size": 5, "seed": 2}
    loader = Loader(store, **options)
    running = iter(loader)
    next(running), next(running)
    state = json.loads(json.dumps(loader.state_dict()))
    other = Loader(store, threads=1, **options)
    other.load_state_dict(state)
    for ours, theirs in zip(running, other, strict=True):
        assert_array_equal(ours.image, theirs.image)
        assert_array_equal(ours.mask, theirs.mask)
    for changed in ({"augment": "light", "size": (72, 64)}, {"labels": "nearest"}):
        with pytest.raises(StateError, match="augment is"):
            Loader(store, **{**options, **changed}).load_state_dict(state)


def test_a_state_in_pixels_is_none_in_millimetres(store):
    """A state of a loader that turns in pixels is refused by one in millimetres."""
    options = {"batch_size": 5, "size": 64}
    pixels, millimetres = (
        Loader(store, augment=[Affine(rotate=9, in_mm=in_mm)], **options)
        for in_mm in (False, True)
    )
    state = pixels.state_dict()
    pixels.load_state_dict(state)
    with pytest.raises(StateError, match="'in_mm': False"):
        millimetres.load_state_dict(state)


def test_a_batch_is_replayed_from_its_params(store):
    """The params of a batch survive JSON, and `replay` makes the same batch again."""
    loader = Loader(
        store, augment=EVERYTHING, batch_size=6, seed=4, return_params=True, threads=2
    )
    list(loader)
    for batch in loader:
        params = json.loads(json.dumps(batch.params))
        assert params["epoch"] == 1
        assert params["index"] == batch.index.tolist()
        assert all(len(step["on"]) == len(batch) for step in params["steps"])
        again = Loader(store, augment=EVERYTHING, batch_size=2, seed=99).replay(params)
        assert_array_equal(again.image, batch.image)
        assert_array_equal(again.mask, batch.mask)
        assert_array_equal(again.index, batch.index)


def test_params_of_other_transforms_are_refused(store):
    """The error names the transforms of both."""
    loader = Loader(store, augment=[Flip()], size=64, batch_size=2, return_params=True)
    params = next(iter(loader)).params
    other = Loader(store, augment=[Rot90()], size=64, batch_size=2)
    with pytest.raises(OptionError, match=r"of the transforms Flip, expected .* Rot90"):
        other.replay(params)
    with pytest.raises(OptionError, match="params are invalid"):
        loader.replay({"steps": 3})
    with pytest.raises(OptionError, match="samples 3 to 99, expected 0 to 31"):
        loader.replay({**params, "index": [99, 3]})
    with pytest.raises(OptionError, match="replay needs a loader with augment"):
        Loader(store, size=64).replay(params)
    with pytest.raises(OptionError, match="return_params is given without augment"):
        Loader(store, size=64, return_params=True)


def test_images_of_mixed_shapes_get_one_size(store):
    """Resample, Crop and Resize make batches of one shape from all images."""
    for steps, size in (
        ([Resample(spacing_mm=2.0), Crop(size=(60, 50), pad=True)], (60, 50)),
        ([Resize(size=48)], (48, 48)),
        ([Crop(size=80), Resize(size=(40, 60))], (40, 60)),
    ):
        image, mask = epoch(Loader(store, augment=steps, batch_size=8))
        assert image.shape == (32, 1, *size)
        assert mask.shape == (32, *size)
        assert mask.any()


def test_resized_labels_cover_the_same_fraction(store):
    """A class covers the same fraction of an image of any size."""
    square = store.select(shape=96)
    options = {"indices": square, "batch_size": 8, "masks": "ocontour"}
    _, before = epoch(Loader(store, **options))
    _, after = epoch(Loader(store, augment=[Resize(size=192)], **options))
    assert_allclose(after.mean(axis=(1, 2)), before.mean(axis=(1, 2)), atol=1e-3)


def test_noise_has_its_moments_and_no_correlation(store):
    """Mean 0, deviation 1, no correlation of pixels, samples or epochs."""
    options = {"size": 64, "batch_size": 8, "normalize": None}
    clean, _ = epoch(Loader(store, **options))
    loader = Loader(store, augment=[Noise(std=3.0)], **options)
    noise = np.stack([epoch(loader)[0] - clean for _ in range(2)]) / 3
    noise = noise.reshape(2, len(store), 64, 64)
    count = noise.size
    assert abs(noise.mean()) < 4 / np.sqrt(count)
    assert abs(noise.std() - 1) < 4 / np.sqrt(2 * count)
    for first, second in (
        (noise[..., 1:], noise[..., :-1]),
        (noise[..., 1:, :], noise[..., :-1, :]),
        (noise[:, 1:], noise[:, :-1]),
        (noise[0], noise[1]),
    ):
        assert abs((first * second).mean()) < 4 / np.sqrt(first.size)


def invert(image, mask, random):
    image *= -1
    mask[:2] = random.integers(1, 3)


@numba.njit(nogil=True)
def invert_fast(image, mask, random):
    image *= -1
    mask[:2] = 1 + random % np.uint64(2)


@pytest.mark.parametrize("function", [invert, invert_fast])
def test_functions_of_custom_transforms_are_called(store, function):
    """They run between their neighbours in the list, with their own random numbers."""
    options = {"size": 64, "batch_size": 4, "threads": 2}
    image, _ = epoch(Loader(store, **options))
    steps = [Brightness(add=(1, 1)), Custom(function=function), Brightness(add=(2, 2))]
    loader = Loader(store, augment=steps, **options)
    changed, mask = epoch(loader)
    assert_allclose(changed, -(image + 1) + 2, atol=1e-5)
    assert set(np.unique(mask[:, :2])) == {1, 2}
    assert_array_equal(epoch(Loader(store, augment=steps, **options))[1], mask)
    assert loader.stats().stages["custom"] > 0
    assert "Custom" in str(loader.state_dict()["augment"])


def test_failing_functions_of_custom_transforms_raise(store):
    """The consumer gets their exception unchanged; a result that is not None raises."""

    def fail(image, mask, random):
        raise ZeroDivisionError("mine")

    options = {"size": 64, "batch_size": 4}
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        list(Loader(store, augment=[Custom(function=fail)], **options))
    notes = "\n".join(caught.value.__notes__)
    assert "in the function of a Custom transform" in notes
    assert "while making sample" in notes
    steps = [Custom(function=lambda image, mask, random: image + 1)]
    with pytest.raises(OptionError, match="Custom: function returned ndarray"):
        list(Loader(store, augment=steps, **options))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"augment": [Crop(size=97)]}, OptionError, "Crop: size is .97, 97., larger"),
        ({"augment": [Crop(size=9, where="liver")]}, UnknownClassError, "'liver'"),
        ({"augment": "hard"}, OptionError, "augment is 'hard', expected one of"),
        ({"augment": "light", "labels": "exakt"}, OptionError, "did you mean 'exact'"),
        ({"augment": "light", "dtype": "float16"}, OptionError, "dtype is 'float16'"),
        ({"augment": "light", "size": None}, OptionError, "several shapes"),
    ],
    ids=str,
)
def test_transforms_that_do_not_fit_the_store_are_refused(store, options, error, text):
    """The error comes when the loader is made, not during an epoch."""
    with pytest.raises(error, match=text):
        Loader(store, **{"size": 64, **options})


def test_an_unknown_spacing_is_refused_when_the_loader_is_made(store):
    """The error names the sample that has none, whichever it is."""
    spacing = np.array(store.items["spacing_mm"])
    spacing[17] = np.nan
    other = fastseg.open(store.path)
    other._items = {**store.items, "spacing_mm": spacing}
    with pytest.raises(OptionError, match=r"Resample: spacing_mm .* sample 17 has no"):
        Loader(other, augment=[Resample(spacing_mm=1), Resize(size=9)], batch_size=2)
