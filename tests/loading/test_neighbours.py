"""Samples between their neighbours: a channel is what a Loader makes of a slice."""

import json
import pickle
from itertools import count

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastseg
from fastseg import Loader
from fastseg.augment import Affine, Custom, Elastic, Flip, Gamma, Noise
from fastseg.errors import MissingLabelsError, OptionError, StateError
from fastseg.links import LinkTable
from tests.series import table_of, write_stack

# The first and last sample of each sample's volume; the last sample is in none.
ENDS = [(0, 3)] * 4 + [(4, 6)] * 3 + [(7, 7)]
SIZE = 30, 15
# Corners (left, top, right, bottom) of what is outlined, by file and class.
OUTLINES = {
    (1, "liver"): (2, 3, 12, 9),
    (1, "spleen"): (10, 5, 17, 14),
    (2, "liver"): (1, 1, 5, 20),
    (4, "liver"): (6, 6, 9, 9),
    (20, "spleen"): (0, 0, 19, 23),
    (21, "liver"): (4, 4, 8, 9),
    (30, "liver"): (3, 3, 15, 15),
}


@pytest.fixture(scope="module", params=[False, True], ids=["mapped", "compressed"])
def store(request, tmp_path_factory):
    """A volume of four slices, one of three of another shape, and a single image."""
    base = tmp_path_factory.mktemp("volumes")
    slopes = [("RescaleSlope", (1, 2, 0.5, 4)), ("WindowCenter", (300, 500, 200, 100))]
    usual = {"RescaleIntercept": -100, "WindowWidth": 400}
    write_stack(base, range(4), series="1.1", shape=(24, 20), each=slopes, **usual)
    usual |= {"RescaleSlope": 1, "WindowCenter": 400, "shape": (33, 12)}
    write_stack(base, [1, 4, 7], number=20, series="1.2", **usual)
    write_stack(base, [7], number=30, series="1.3", **usual)
    links = []
    for link in table_of(base).links:
        number = int(link.dicom_path.removesuffix(".dcm"))
        links.append(link)
        for (file, label), (left, top, right, bottom) in OUTLINES.items():
            if file == number:
                path = f"{file}-{label}.txt"
                corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
                (base / path).write_text("".join(f"{x} {y}\n" for x, y in corners))
                links.append(link._replace(label=label, contour_path=path))
    path = tmp_path_factory.mktemp("store") / "volumes.h5"
    fastseg.build(LinkTable(base=base, links=links), path, compress=request.param)
    return fastseg.open(path)


def load(store, **options):
    """Return the batches of a Loader in store order."""
    defaults = {"shuffle": False, "batch_size": 3, "size": SIZE}
    if options.get("masks") != "bits":
        defaults["missing"] = "background"
    return list(Loader(store, **{**defaults, **options}))


def join(batches, name):
    return np.concatenate([batch[name] for batch in batches])


def slices_of(sample, neighbours):
    """Return index and `is_beyond` of a sample between its neighbours."""
    first, last = ENDS[sample]
    wanted = range(sample - neighbours, sample + neighbours + 1)
    return [(min(max(k, first), last), not first <= k <= last) for k in wanted]


FORMATS = [
    {},
    {"masks": "onehot", "missing": "ignore"},
    {"masks": "spleen", "missing": "ignore", "dtype": "float16"},
    {"masks": "labels", "missing": "ignore", "normalize": "percentile"},
    {"masks": "bits", "dtype": "raw"},
    {"normalize": "window", "size": (20, 20)},
    {"normalize": None, "size": (40, 8)},
]


@pytest.mark.parametrize("masks_of", ["middle", "all"])
@pytest.mark.parametrize("options", FORMATS, ids=map(str, count()))
@pytest.mark.parametrize("neighbours", [1, 5])
def test_channels_are_slices_as_samples(store, options, masks_of, neighbours):
    """Every channel, and every mask, is bit for bit that of its slice as a sample."""
    one_by_one = load(store, **options)
    images, masks = (join(one_by_one, name) for name in ("image", "mask"))
    batches = load(store, neighbours=neighbours, masks_of=masks_of, **options)
    assert_array_equal(join(batches, "index"), np.arange(len(store)))
    found_images, found_masks = (join(batches, name) for name in ("image", "mask"))
    for sample in range(len(store)):
        nearest, is_beyond = zip(*slices_of(sample, neighbours), strict=True)
        assert_array_equal(found_images[sample], images[list(nearest), 0], strict=True)
        assert_array_equal(join(batches, "is_beyond")[sample], is_beyond)
        expected = masks[sample]
        if masks_of == "all":
            axis = 1 if options.get("masks") == "onehot" else 0
            expected = np.stack([masks[k] for k in nearest], axis=axis)
        assert_array_equal(found_masks[sample], expected, strict=True)


@pytest.mark.parametrize("options", FORMATS, ids=map(str, count()))
@pytest.mark.parametrize("pad_value", ["minimum", 3])
def test_slices_beyond_are_padding(store, options, pad_value):
    """With "pad", they hold what lies around the nearest slice, masks as well."""
    options = {**options, "pad_value": pad_value}
    # Of a size that pads all images at their first pixel.
    around = load(store, **{**options, "size": (60, 60)})
    images, masks = (join(around, name) for name in ("image", "mask"))
    options |= {"neighbours": 2, "masks_of": "all"}
    padded, nearest = (load(store, beyond=b, **options) for b in ("pad", "nearest"))
    is_beyond = join(padded, "is_beyond")
    assert is_beyond.any(axis=0).tolist() == [True, True, False, True, True]
    for sample, j in np.argwhere(is_beyond).tolist():
        k = slices_of(sample, 2)[j][0]
        assert (join(padded, "image")[sample, j] == images[k, 0, 0, 0]).all()
        found = join(padded, "mask")[sample]
        if options.get("masks") == "onehot":
            assert (found[:, j] == masks[k, :, :1, :1]).all()
        else:
            assert (found[j] == masks[k, 0, 0]).all()
    image, other = (join(batches, "image") for batches in (padded, nearest))
    assert_array_equal(image[~is_beyond], other[~is_beyond])


def test_neighbours_need_not_be_chosen(store):
    """A sample alone has the same channels as among all; it is the one in the batch."""
    options = {"neighbours": 2, "dtype": "raw", "masks_of": "all"}
    every = load(store, **options)
    (batch,) = load(store, indices=[2], **options)
    assert batch.index.tolist() == [2]
    assert_array_equal(batch.image[0], join(every, "image")[2])
    assert_array_equal(batch.mask[0], join(every, "mask")[2])


def test_volumes_may_be_normalized_as_a_whole(store):
    """With normalize_by="volume", all channels have the scaling of their volume."""
    options = {"indices": store.select(in_volume=True), "normalize_by": "volume"}
    images = join(load(store, **options), "image")
    found = join(load(store, neighbours=1, **options), "image")
    for sample in options["indices"]:
        nearest = [k for k, _ in slices_of(sample, 1)]
        assert_array_equal(found[sample], images[nearest, 0])


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_are_the_same_whatever_makes_them(store, threads):
    """Threads, a copy by pickle, and resuming change no bit of shuffled batches."""
    options = {"neighbours": 1, "shuffle": True, "seed": 5, "threads": threads}
    expected = load(store, **{**options, "threads": 2})
    make = {"batch_size": 3, "size": SIZE, "missing": "background"}
    loader = Loader(store, **make, **options)
    copied = pickle.loads(pickle.dumps(loader))
    next(iter(loader))
    state = json.loads(json.dumps(loader.state_dict()))
    resumed = Loader(store, **make, **options)
    resumed.load_state_dict(state)
    for batches, others in ((expected, copied), (expected[1:], resumed)):
        for one, other in zip(batches, others, strict=True):
            for name in dict(one):
                assert_array_equal(one[name], other[name], strict=True)
    with pytest.raises(StateError, match="neighbours"):
        Loader(store, **make, **{**options, "neighbours": 2}).load_state_dict(state)


def test_a_batch_says_which_slices_are_beyond_only_with_neighbours(store):
    """Without neighbours, batches have no such field."""
    assert "is_beyond" not in load(store)[0]
    batch = load(store, neighbours=1)[0]
    assert "is_beyond" in batch
    assert batch["is_beyond"] is dict(batch)["is_beyond"] is batch.is_beyond
    assert batch.is_beyond.dtype == bool


def test_all_slices_that_are_shown_must_be_labelled(store):
    """With masks of all slices, those of neighbours are checked as well."""
    liver = {"masks": "liver", "indices": [1], "missing": "error", "neighbours": 1}
    assert len(load(store, **liver)) == 1
    with pytest.raises(MissingLabelsError, match="1 of 3 samples lack"):
        load(store, **liver, masks_of="all")


def test_all_slices_that_are_read_must_have_a_window(tmp_path):
    """A neighbour without a window is counted, although it is not chosen."""
    each = [("WindowCenter", (1, 2, None)), ("WindowWidth", (10, 20, None))]
    write_stack(tmp_path / "stack", range(3), each=each)
    path = tmp_path / "windows.h5"
    store = fastseg.open(fastseg.build(table_of(tmp_path / "stack"), path).path)
    options = {"normalize": "window", "indices": [1]}
    assert len(load(store, **options)) == 1
    with pytest.raises(OptionError, match="1 of 3 samples have no window"):
        load(store, neighbours=1, **options)


def test_a_store_without_volumes_repeats_each_sample(tmp_path):
    """All neighbours are beyond, as of samples that are in no volume."""
    write_stack(tmp_path / "stack", [0], shape=(24, 20))
    path = tmp_path / "single.h5"
    store = fastseg.open(fastseg.build(table_of(tmp_path / "stack"), path).path)
    (batch,) = load(store, neighbours=2)
    assert batch.is_beyond.tolist() == [[True, True, False, True, True]]
    assert_array_equal(batch.image, batch.image[:, [2] * 5])


MOVES = [
    Affine(rotate=180, scale=(0.8, 1.25), translate_x=3, shear=10),
    Flip(axis="horizontal"),
    Gamma((0.7, 1.5), p=0),
]


def augmented(store, masks_of, **options):
    """Return what is made of slices alone, and the batch of all with neighbours.

    The first result is a function of a sample and of the index of a slice: image and
    mask of the slice with what was drawn for the sample.
    """
    usual = {"batch_size": len(store), "shuffle": False, "size": (40, 30), "seed": 3}
    if options.get("masks") != "bits":
        usual["missing"] = "background"
    options = {**usual, "augment": MOVES, **options}
    alone = Loader(store, **options).preprocessing

    def make(sample, k):
        image = np.empty((1, *alone.image_shape), np.float32)
        mask = np.empty((1, *alone.mask_shape), alone.mask_dtype)
        drawn = alone.draw(np.array([sample]), 0)
        alone.fill_drawn(alone.locate(np.array([k]), 0), image, mask, drawn)
        return image[0, 0], mask[0]

    (batch,) = Loader(store, neighbours=2, masks_of=masks_of, **options)
    return make, batch


@pytest.mark.parametrize("masks_of", ["middle", "all"])
@pytest.mark.parametrize("labels", ["exact", "nearest"])
@pytest.mark.parametrize("masks", ["labels", "onehot", "liver", "bits"])
def test_augmentation_moves_all_slices_alike(store, masks, labels, masks_of):
    """Each slice, and its mask, is as if it had been drawn what its sample was."""
    make, batch = augmented(store, masks_of, masks=masks, labels=labels)
    assert batch.mask.any()
    for sample in range(len(store)):
        made = [make(sample, k) for k, _ in slices_of(sample, 2)]
        images, masks_made = zip(*made, strict=True)
        assert_array_equal(batch.image[sample], images)
        expected = masks_made[2]
        if masks_of == "all":
            expected = np.stack(masks_made, axis=1 if masks == "onehot" else 0)
        assert_array_equal(batch.mask[sample], expected, strict=True)


@pytest.mark.parametrize("labels", ["exact", "nearest"])
@pytest.mark.parametrize("masks", ["labels", "onehot", "bits"])
def test_slices_beyond_stay_padding_when_moved(store, masks, labels):
    """With "pad", an augmented slice beyond its volume is uniform and has no class."""
    options = {"masks": masks, "labels": labels, "beyond": "pad", "pad_value": 7}
    (batch,) = Loader(
        store,
        batch_size=len(store),
        size=(40, 30),
        neighbours=2,
        masks_of="all",
        augment=MOVES,
        missing=None if masks == "bits" else "background",
        **options,
    )
    masks_by_slice = np.moveaxis(batch.mask, 2, 1) if masks == "onehot" else batch.mask
    assert (batch.image[batch.is_beyond] == 7).all()
    assert not masks_by_slice[batch.is_beyond].any()
    assert masks_by_slice[~batch.is_beyond].any()


def test_bent_slices_have_one_bend(store):
    """A displacement is that of the sample for all slices: repeated ones are equal."""
    options = {"augment": [Elastic()], "labels": "exact", "masks": "onehot"}
    usual = {"missing": "background", "size": (33, 12), "indices": [7]}
    (plain,) = Loader(store, **usual, **options)
    (batch,) = Loader(store, neighbours=1, masks_of="all", **usual, **options)
    assert_array_equal(batch.image, np.repeat(plain.image, 3, axis=1))
    assert_array_equal(batch.mask, np.repeat(plain.mask[:, :, None], 3, axis=2))


def test_intensity_steps_are_those_of_the_stack(store):
    """Gamma takes the range of all slices; noise differs from slice to slice."""
    usual = {"missing": "background", "size": (24, 20), "indices": [1]}
    usual |= {"normalize": None, "neighbours": 1}
    (plain,) = Loader(store, **usual)
    (batch,) = Loader(store, augment=[Gamma(2.0, keep_stats=False)], **usual)
    low, high = plain.image.min(), plain.image.max()
    expected = ((plain.image - low) / (high - low)) ** 2 * (high - low) + low
    assert_allclose(batch.image, expected, rtol=1e-3, atol=1e-3 * (high - low))
    (noisy,) = Loader(store, augment=[Noise(50)], **usual)
    noise = (noisy.image - plain.image)[0].reshape(3, -1)
    assert np.abs(np.corrcoef(noise) - np.eye(3)).max() < 0.2


def test_a_function_gets_the_stack(store):
    """A Custom transform changes all slices of a sample and its mask in one call."""
    shapes = []

    def stir(image, mask, random):
        shapes.append((image.shape, mask.shape))
        image[2] = 5

    (batch,) = Loader(
        store,
        batch_size=len(store),
        size=(24, 20),
        neighbours=1,
        masks_of="all",
        missing="background",
        augment=[Custom(stir)],
        threads=1,
    )
    assert shapes == [((3, 24, 20), (3, 24, 20))] * len(store)
    assert (batch.image[:, 2] == 5).all()
    assert (batch.image[:, :2] != 5).any(axis=(1, 2, 3)).all()


def test_augmented_stacks_are_made_again_from_their_params(store):
    """`replay` gives the same batch, and says which slices are beyond."""
    loader = Loader(
        store,
        batch_size=3,
        size=SIZE,
        neighbours=1,
        missing="background",
        augment="standard",
        return_params=True,
    )
    for batch in loader:
        again = loader.replay(json.loads(json.dumps(batch.params)))
        for name in ("image", "mask", "index", "is_beyond"):
            assert_array_equal(batch[name], again[name], strict=True)
