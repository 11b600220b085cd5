"""Augmented patches: exact labels, one mapping for all slices, replayed."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import map_coordinates

import fastseg
from fastseg import PatchLoader
from fastseg.augment import (
    Affine,
    Blur,
    Compose,
    Crop,
    Custom,
    Elastic,
    Flip,
    Gamma,
    Noise,
    Resize,
    Rot90,
)
from fastseg.errors import OptionError
from fastseg.loading.preprocessing import EntrySlices
from tests.loading.test_patches import build, part_of, patches_of

pytestmark = pytest.mark.filterwarnings("ignore::fastseg.errors.MissingLabelsWarning")

PATCH = (3, 40, 31)
MOVES = Compose([Affine(rotate=(-40, 40), scale=(0.7, 1.4)), Flip(p=0.5)])
BENDS = Compose([Affine(rotate=20), Elastic(magnitude=(2, 4), spacing=12)])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of three volumes of 8 slices, each of another shape."""
    return fastseg.open(build(tmp_path_factory.mktemp("volumes")))


def batches_of(store, augment, patch=PATCH, **options):
    """Return a loader of augmented patches, and all batches of an epoch."""
    options = {"per_volume": 3, "batch_size": 3, "seed": 4, **options}
    loader = PatchLoader(store, patch, augment=augment, **options)
    return loader, list(loader)


@pytest.mark.parametrize("masks", ["labels", "bits", "onehot", "heart"])
@pytest.mark.parametrize("labels", ["exact", "nearest"])
@pytest.mark.parametrize("patch", [PATCH, (8, 104, 40)])
def test_identity_transforms_change_no_bit(store, masks, labels, patch):
    """Under the identity, images and masks are those without augmentation."""
    _, plain = batches_of(store, None, patch, masks=masks)
    identity = [Affine(rotate=0, scale=1)]
    _, augmented = batches_of(store, identity, patch, masks=masks, labels=labels)
    for one, other in zip(plain, augmented, strict=True):
        assert_array_equal(one.corner, other.corner)
        assert_array_equal(one.image, other.image, strict=True)
        assert_array_equal(one.mask, other.mask, strict=True)


def points_of(arrays, j, size):
    """Return the point (x, y) of the image that each pixel of patch j shows."""
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    outer, inner = arrays.affines.outer[j], arrays.affines.inner[j]
    points = np.stack([x, y, np.ones_like(x)], axis=-1) @ outer.T
    points = np.concatenate([points, np.ones((*size, 1))], axis=-1)
    return points @ inner.T


def test_images_are_those_of_the_mapping(store):
    """Each slice is sampled linearly at the points of one mapping about the patch."""
    loader, batches = batches_of(store, MOVES)
    preprocessing = loader.preprocessing
    entries, bounds = loader.schedule.epoch(0)
    for n, batch in enumerate(batches):
        chosen = entries[bounds[n] : bounds[n + 1]]
        shown = preprocessing.locate(chosen, 0)
        drawn = preprocessing.draw(chosen, 0)
        arrays = preprocessing.find_mappings(shown, drawn).arrays(drawn.key)
        for j, (image, _, k, corner) in enumerate(patches_of(batch)):
            whole, _ = loader.load_volume(k)
            points = points_of(arrays, j, PATCH[1:])
            # The middle of the patch shows the middle of the window, if nothing is cut.
            middle = (points[0, 0] + points[-1, -1]) / 2
            half = (np.array(PATCH[2:0:-1]) - 1) / 2
            assert_allclose(middle, np.array(corner[2:0:-1]) + half, atol=1e-9)
            height, width = whole.shape[2:]
            inside = (
                (points[..., 0] >= 0)
                & (points[..., 0] <= width - 1)
                & (points[..., 1] >= 0)
                & (points[..., 1] <= height - 1)
            )
            rows_and_columns = points[..., ::-1].transpose(2, 0, 1)
            for z in range(PATCH[0]):
                plane = whole[0, corner[0] + z].astype(np.float64)
                expected = map_coordinates(plane, rows_and_columns, order=1)
                assert_allclose(image[z][inside], expected[inside], atol=2e-4)


@pytest.mark.parametrize("compose", [MOVES, BENDS], ids=["moves", "bends"])
def test_labels_are_drawn_of_the_moved_contours(store, compose):
    """On each slice, labels equal what `rasterize` makes of the moved rings."""
    name = "heart"
    loader, batches = batches_of(store, compose, masks=name, centred=1.0)
    preprocessing = loader.preprocessing
    entries, bounds = loader.schedule.epoch(0)
    covered = 0
    for n, batch in enumerate(batches):
        chosen = entries[bounds[n] : bounds[n + 1]]
        shown = preprocessing.locate(chosen, 0)
        drawn = preprocessing.draw(chosen, 0)
        arrays = preprocessing.find_mappings(shown, drawn).arrays(drawn.key)
        for j, (_, mask, k, corner) in enumerate(patches_of(batch)):
            alone = arrays.select(slice(j, j + 1))
            for z in range(PATCH[0]):
                sample = store[store.volumes[k].samples[corner[0] + z]]
                rings = sample.contours.get(name, [])
                expected = np.zeros(PATCH[1:], bool)
                if rings:
                    offsets = np.cumsum([0, *map(len, rings)])
                    points, offsets = alone.move_rings(np.concatenate(rings), offsets)
                    moved = np.split(points, offsets[1:-1])
                    expected = fastseg.rasterize(moved, PATCH[1:])
                assert_array_equal(mask[z], expected)
                covered += int(expected.sum())
    assert covered > 1000


def test_a_whole_slice_is_augmented_as_by_a_loader(store):
    """With the same numbers, a patch of one whole slice is a sample of a Loader."""
    samples = np.array(store.volumes[1].samples[2:4])
    shape = store.volumes[1].shape[1:]
    compose = Compose([*BENDS, Gamma(), Noise(std=(0.1, 0.2))])
    slices = fastseg.Loader(
        store, indices=samples, augment=compose, normalize_by="volume"
    ).preprocessing
    patches = PatchLoader(
        store, (1, *shape), indices=store.volumes[1].samples, augment=compose
    ).preprocessing
    drawn = slices.draw(samples, 3)
    results = []
    for made in (slices, patches):
        image = np.empty((2, *made.image_shape), np.float32)
        mask = np.empty((2, *made.mask_shape), np.uint8)
        corners = None
        if made is patches:
            first = samples - store.volumes[1].samples.start
            corners = np.stack([first, 0 * first, 0 * first], axis=1)
        beyond = np.zeros((2, 1), bool)
        shown = EntrySlices(samples, samples[:, None], beyond, corners)
        made.fill_drawn(shown, image, mask, drawn)
        results += [image.reshape(2, *shape), mask.reshape(2, *shape)]
    assert_array_equal(results[0], results[2])
    assert_array_equal(results[1], results[3])


@pytest.mark.parametrize("masks", ["labels", "onehot"])
@pytest.mark.parametrize("labels", ["exact", "nearest"])
def test_flips_of_slices_reverse_patches(store, masks, labels):
    """Images and masks come in reverse order, but with the same corners."""
    for patch in (PATCH, (8, 20, 120)):
        options = {"masks": masks, "per_volume": 2}
        _, plain = batches_of(store, None, patch, **options)
        steps = [Flip("slices", p=1)]
        _, flipped = batches_of(store, steps, patch, labels=labels, **options)
        _, twice = batches_of(store, 2 * steps, patch, labels=labels, **options)
        for one, other, same in zip(plain, flipped, twice, strict=True):
            assert_array_equal(other.image, one.image[:, :, ::-1])
            assert_array_equal(other.mask, one.mask[..., ::-1, :, :])
            assert_array_equal(other.corner, one.corner)
            assert_array_equal(same.image, one.image)


def test_flips_of_slices_reverse_neighbours(store):
    """A sample stays in the middle; samples of one slice cannot be reversed."""
    options = {"size": 80, "batch_size": 4, "shuffle": False, "masks_of": "all"}
    plain = fastseg.Loader(store, neighbours=2, **options)
    steps = [Flip("slices", p=1)]
    flipped = fastseg.Loader(store, neighbours=2, augment=steps, **options)
    for one, other in zip(plain, flipped, strict=True):
        assert_array_equal(other.image, one.image[:, ::-1])
        assert_array_equal(other.mask, one.mask[:, ::-1])
        assert_array_equal(other.is_beyond, one.is_beyond[:, ::-1])
    assert one.is_beyond.any()
    with pytest.raises(OptionError, match="but images have one slice"):
        fastseg.Loader(store, size=80, augment=steps)


def test_noise_differs_from_slice_to_slice(store):
    """Noise is another one in each voxel, and has its deviation over the patch."""
    _, (plain, *_) = batches_of(store, None, centred=0)
    _, (noisy, *_) = batches_of(store, [Noise(std=0.5)], centred=0)
    noise = noisy.image - plain.image
    assert abs(noise.std() - 0.5) < 0.01
    one, other = noise[:, 0, 0].ravel(), noise[:, 0, 1].ravel()
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1


def test_gamma_uses_the_range_of_the_whole_patch(store):
    """The least and the greatest value are those of the patch, not of its slices."""
    _, (plain, *_) = batches_of(store, None)
    _, (changed, *_) = batches_of(store, [Gamma(2.0, keep_stats=False)])
    for before, after in zip(plain.image[:, 0], changed.image[:, 0], strict=True):
        low, high = before.min(), before.max()
        expected = ((before - low) / (high - low)) ** 2 * (high - low) + low
        assert_allclose(after, expected, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 3])
def test_patches_depend_on_seed_epoch_and_patch_alone(store, threads):
    """Batch size and threads change nothing."""
    compose = [*BENDS, Gamma(), Blur(), Noise()]
    found = {}
    for size in (1, 4):
        _, batches = batches_of(store, compose, batch_size=size, threads=threads)
        for batch in batches:
            for image, mask, *where in patches_of(batch):
                key = str(where)
                if key in found:
                    assert_array_equal(found[key][0], image)
                    assert_array_equal(found[key][1], mask)
                found[key] = image.copy(), mask.copy()
    assert len(found) == 9


def test_a_batch_of_patches_is_replayed(store):
    """`replay` makes the same batch of a loader with another seed."""
    compose = [*MOVES, Noise()]
    _, batches = batches_of(store, compose, return_params=True)
    other = PatchLoader(store, PATCH, augment=compose, seed=99)
    for batch in batches:
        again = other.replay(json.loads(json.dumps(batch.params)))
        assert_array_equal(again.image, batch.image)
        assert_array_equal(again.mask, batch.mask)
        assert_array_equal(again.corner, batch.corner)
        assert_array_equal(again.index, batch.index)
    without = {k: v for k, v in batch.params.items() if k != "corner"}
    with pytest.raises(OptionError, match="expected those of a batch of patches"):
        other.replay(without)
    with pytest.raises(OptionError, match="of volume 7, which is none of the 3"):
        other.replay({**batch.params, "index": [7, *batch.params["index"][1:]]})
    one = store.volumes[1].samples
    other = PatchLoader(store, PATCH, augment=compose, indices=one)
    with pytest.raises(OptionError, match="which is none of the 1 volume of this"):
        other.replay(batches[0].params)


def test_functions_get_patches(store):
    """A Custom transform gets the images and masks of whole patches."""
    seen = []

    def note(image, mask, rng):
        seen.append((image.shape, mask.shape))
        image += 1

    _, plain = batches_of(store, None)
    _, batches = batches_of(store, [Custom(note)], threads=1)
    assert_allclose(batches[0].image, plain[0].image + 1)
    assert set(seen) == {(PATCH, PATCH)}


@pytest.mark.parametrize("step", [Crop(20), Resize(20)])
def test_steps_that_change_the_size_are_refused(store, step):
    """A patch has the size that `patch` says."""
    with pytest.raises(OptionError, match=f"augment has {type(step).__name__}, but"):
        PatchLoader(store, PATCH, augment=[step])


def test_quarter_turns_and_flips_move_no_value(store):
    """A square patch is turned about its centre, all slices alike."""
    patch = (3, 30, 30)
    _, (plain, *_) = batches_of(store, None, patch)
    _, (turned, *_) = batches_of(store, [Rot90()], patch)
    ways = set()
    for before, after in zip(plain.image[:, 0], turned.image[:, 0], strict=True):
        turns = [k for k in range(4) if (np.rot90(before, k, (1, 2)) == after).all()]
        assert len(turns) == 1
        ways.add(turns[0])
    assert part_of(plain.image[0, 0], (0, 0, 0), patch, 0).shape == patch
