"""The loader: contents and order of batches, threads and failures."""

import gc
import threading
import time

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastseg
from fastseg import Loader
from fastseg.errors import OptionError, StoreError, UnknownClassError
from fastseg.loading import buffers


def loader_threads():
    return [t for t in threading.enumerate() if t.name.startswith("fastseg-loader")]


@pytest.fixture(autouse=True)
def _no_thread_stays_behind():
    yield
    gc.collect()
    assert loader_threads() == []


@pytest.fixture(scope="module")
def square(tmp_path_factory):
    """A store of one shape."""
    folder = tmp_path_factory.mktemp("square")
    study = fastseg.make_phantom(folder / "study", patients=2, sizes=[40], phases=3)
    report = fastseg.build(fastseg.link(study), folder / "square.h5")
    return fastseg.open(report.path)


def epoch(loader):
    batches = list(loader)
    return tuple(
        np.concatenate([getattr(batch, name) for batch in batches])
        for name in ("index", "image", "mask")
    )


def centred(image, size):
    height, width = image.shape
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return image[top : top + size[0], left : left + size[1]]


def test_batches_hold_the_samples_in_order(square):
    """Without shuffle, sample k of the epoch is sample k of the store, unchanged."""
    loader = Loader(square, batch_size=3, shuffle=False, normalize=None, masks="bits")
    index, image, mask = epoch(loader)
    assert_array_equal(index, np.arange(len(square)))
    for k, sample in enumerate(square):
        assert_array_equal(image[k, 0], sample.image)
        assert_array_equal(mask[k], sample.mask)
    first = next(iter(loader))
    assert first.image.shape == (3, 1, 40, 40)
    assert first.image.dtype == np.float32
    assert len(first) == 3
    got_image, got_mask = first
    assert got_image is first.image
    assert got_mask is first.mask


def test_shuffled_epochs_are_new_and_complete(square):
    """Each epoch has every sample once, in a new order."""
    loader = Loader(square, batch_size=5, seed=4)
    orders = [tuple(epoch(loader)[0]) for _ in range(4)]
    assert len(set(orders)) == 4
    assert all(sorted(order) == list(range(len(square))) for order in orders)
    assert loader.epoch == 4


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("prefetch", [1, 4])
@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_batches_depend_on_the_seed_alone(store, threads, prefetch, batch_size):
    """Threads and prefetch change no bit of any batch, in any epoch."""
    plain = Loader(store, batch_size=4, seed=7, size=80, threads=1, prefetch=1)
    other = Loader(
        store,
        batch_size=batch_size,
        seed=7,
        size=80,
        threads=threads,
        prefetch=prefetch,
    )
    for _ in range(2):
        for a, b in zip(epoch(plain), epoch(other), strict=True):
            assert_array_equal(a, b)


@pytest.mark.parametrize("together", ["patient", "series", "volume"])
def test_samples_of_each_come_one_after_another(store, together):
    """Patients, series or volumes follow each other in a random order, each once."""
    loader = Loader(store, together=together, size=96, masks="icontour", batch_size=5)
    index, _, _ = epoch(loader)
    assert_array_equal(np.sort(index), np.arange(len(store)))
    assert (np.diff(index) < 0).any()
    groups = store.items[together][index]
    changes = np.count_nonzero(groups[1:] != groups[:-1])
    assert changes == len(set(groups.tolist())) - 1


def test_length_and_drop_last(store):
    """`len` is the number of batches; drop_last leaves out a partial one."""
    for drop_last, sizes in ((False, [10, 10, 10, 2]), (True, [10, 10, 10])):
        loader = Loader(store, batch_size=10, size=64, drop_last=drop_last)
        assert [len(batch) for batch in loader] == sizes
        assert len(loader) == len(sizes)


def test_a_batch_larger_than_the_selection_is_one_smaller_batch(square):
    """It holds what the largest batch that fits would, and takes no more memory."""
    options = {"indices": [3, 8, 5], "seed": 2, "missing": "background"}
    expected = epoch(Loader(square, batch_size=3, **options))
    loader = Loader(square, batch_size=2**62, **options)
    (batch,) = list(loader)
    for a, b in zip((batch.index, *batch), expected, strict=True):
        assert_array_equal(a, b)
    assert loader.stats().buffer_bytes < 2 * (batch.image.nbytes + batch.mask.nbytes)
    loader.load_state_dict(loader.state_dict())
    assert loader.batch_size == 2**62


def test_normalization_equals_its_definition(square):
    """Each method equals its definition, to float32 rounding."""
    images = np.stack([sample.image for sample in square]).astype(float)
    meta = [sample.meta for sample in square]
    flat = images.reshape(len(images), -1)

    def normalized(**options):
        loader = Loader(square, shuffle=False, **options)
        return np.concatenate([batch.image for batch in loader])[:, 0]

    mean, std = (f(axis=1)[:, None, None] for f in (flat.mean, flat.std))
    zscores = normalized(normalize="zscore")
    np.testing.assert_allclose(zscores, (images - mean) / std, rtol=1e-5, atol=1e-5)
    assert_array_equal(normalized(normalize=None), images)
    p1, p99 = np.percentile(flat, [1, 99], axis=1, method="inverted_cdf")
    p1, p99 = p1[:, None, None], p99[:, None, None]
    expected = np.clip((images - p1) / (p99 - p1), 0, 1)
    np.testing.assert_allclose(normalized(normalize="percentile"), expected, atol=1e-6)
    centre, width = np.array([f["window"] for f in meta]).T[:, :, None, None]
    expected = np.clip((images - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    np.testing.assert_allclose(normalized(normalize="window"), expected, atol=1e-6)
    low, high = np.percentile(flat[0], [5, 95], method="inverted_cdf")
    first = normalized(normalize="percentile", percentiles=(5, 95))[0]
    expected = np.clip((images[0] - low) / (high - low), 0, 1)
    np.testing.assert_allclose(first, expected, atol=1e-6)


def test_all_kinds_of_masks_agree(store):
    """Bits, labels, one-hot channels and masks of one class are consistent."""
    size = (88, 80)

    def masks(kind, **options):
        loader = Loader(store, shuffle=False, size=size, masks=kind, **options)
        return np.concatenate([batch.mask for batch in loader])

    bits, onehot = masks("bits"), masks("onehot")
    assert bits.shape == (32, 88, 80)
    assert onehot.shape == (32, 4, 88, 80)
    assert onehot.dtype == np.uint8
    for k, name in enumerate(store.classes):
        one = (bits >> k) & 1
        assert_array_equal(onehot[:, k], one)
        assert_array_equal(masks(name), one)
        for i in (0, 30):
            assert_array_equal(one[i], centred(store[i].mask_of(name), size))
    labels = masks("labels")
    assert_array_equal(labels > 0, bits > 0)
    # Smaller classes on top: papillary muscles, blood pool, muscle ring.
    expected = np.zeros_like(labels)
    for k in (1, 0, 3, 2):
        expected[onehot[:, k] == 1] = k + 1
    assert_array_equal(labels, expected)
    reordered = masks(
        "labels", priority=["ocontour", "icontour", "p1contour", "p2contour"]
    )
    assert set(np.unique(reordered)) == {0, 1, 2}


def test_priority_is_by_mean_area(store):
    """By default the class that is smaller on average lies on top."""
    priority = Loader(store, size=64).preprocessing.format.priority
    assert set(priority[:2]) == {"p1contour", "p2contour"}
    assert priority[2:] == ("icontour", "ocontour")


def test_images_are_padded_about_their_centre(store):
    """If an image is smaller than the batch, `pad_value` surrounds it."""
    loader = Loader(
        store,
        shuffle=False,
        size=(100, 96),
        normalize=None,
        masks="bits",
        pad_value=-5,
        batch_size=1,
    )
    image = next(iter(loader)).image[0, 0]
    assert_array_equal(image[2:98], store[0].image)
    assert (image[:2] == -5).all()
    assert (image[98:] == -5).all()
    options = {"shuffle": False, "size": (100, 96), "batch_size": 1}
    mask = next(iter(Loader(store, masks="bits", **options))).mask
    assert_array_equal(mask[0, 2:98], store[0].mask)
    assert not mask[0, :2].any()


def test_several_shapes_without_a_size_are_refused(store):
    """The error names the shapes and the remedy."""
    with pytest.raises(OptionError, match=r"96x96, 120x88\).*size=\(120, 96\)"):
        Loader(store)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "batch_size is 0, expected at least 1"),
        ({"batch_size": 33, "drop_last": True}, "batch_size is 33 and drop_last"),
        ({"batch_size": 2.5}, "expected a whole number"),
        ({"threads": 0}, "threads is 0"),
        ({"prefetch": 0}, "prefetch is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is"),
        ({"size": 0}, "size is 0"),
        ({"size": (1, 2, 3)}, "expected .height, width"),
        ({"size": "big"}, "size"),
        ({"normalize": "z-score"}, "did you mean 'zscore'"),
        ({"normalize": "percentile", "percentiles": (2, 98)}, "percentile is"),
        ({"normalize": "percentile", "percentiles": (99, 1)}, "lower, upper"),
        ({"normalize": "percentile", "percentiles": 5}, "lower, upper"),
        ({"masks": "one-hot"}, "did you mean 'onehot'"),
        ({"masks": "icontuor"}, "did you mean 'icontour'"),
        ({"masks": "labels", "priority": ["icontour"]}, "each class once"),
    ],
)
def test_bad_options_are_refused(store, options, text):
    """The error names the option, its value and what was expected."""
    with pytest.raises(OptionError, match=text):
        Loader(store, **{"size": 64, **options})


def test_a_misspelt_option_is_refused(store):
    """The error names the Loader, the option and the one that is meant."""
    with pytest.raises(TypeError, match=r"Loader.* 'normalise'; did .* 'normalize'"):
        Loader(store, size=64, normalise=None)


def test_an_unknown_class_in_priority_is_refused(store):
    """A class that the store does not have is an UnknownClassError."""
    with pytest.raises(UnknownClassError, match="'liver'"):
        Loader(store, size=64, priority=["liver"])


def test_a_constant_image_becomes_zeros(study, tmp_path):
    """A standard deviation of 0 gives zeros, not NaN."""
    for path in study.glob("dicoms/*/*.dcm"):
        image = fastseg.dicom.read_image(path).pixels
        content = path.read_bytes()
        path.write_bytes(content[: -image.nbytes] + b"\7\0" * image.size)
    fastseg.build(fastseg.link(study), tmp_path / "flat.h5")
    store = fastseg.open(tmp_path / "flat.h5")
    for normalize in ("zscore", "percentile"):
        loader = Loader(store, size=32, normalize=normalize, batch_size=2)
        assert all((batch.image == 0).all() for batch in loader)


def test_a_store_without_windows_is_refused(study, tmp_path):
    """The error of normalize="window" counts the samples without a window."""
    import pydicom

    for path in study.glob("dicoms/*/*.dcm"):
        dataset = pydicom.dcmread(path)
        del dataset.WindowCenter
        dataset.save_as(path)
    fastseg.build(fastseg.link(study), tmp_path / "bare.h5")
    store = fastseg.open(tmp_path / "bare.h5")
    with pytest.raises(OptionError, match="8 of 8 samples have no window"):
        Loader(store, size=32, batch_size=2, normalize="window")


def test_leaving_early_ends_the_threads(square):
    """After break, an exception or deletion of the iterator, no thread is left."""
    loader = Loader(square, batch_size=1, threads=4, prefetch=4)
    for _ in range(50):
        for _batch in loader:
            break
        assert loader_threads() == []
    with pytest.raises(ZeroDivisionError):
        any(1 / (len(batch) - 1) for batch in loader)
    iterator = iter(loader)
    next(iterator)
    assert loader_threads() != []
    del iterator
    gc.collect()
    assert loader_threads() == []
    iterator = iter(loader)
    next(iterator)
    iterator.close()
    iterator.close()
    assert loader_threads() == []


def test_two_loops_run_side_by_side(square):
    """Two iterators of one loader are two epochs and do not affect each other."""
    pair = Loader(square, batch_size=2, seed=3)
    alone = Loader(square, batch_size=2, seed=3)
    both = list(zip(pair, pair, strict=True))
    for k, expected in enumerate(alone):
        assert_array_equal(both[k][0].index, expected.index)
    for k, expected in enumerate(alone):
        assert_array_equal(both[k][1].index, expected.index)


def test_a_failure_names_its_sample(square, monkeypatch):
    """The consumer gets the original exception; its note names sample and file."""

    def fail(size):
        raise MemoryError

    monkeypatch.setattr(buffers, "_allocate_aligned", fail)
    loader = Loader(square, batch_size=2, shuffle=False)
    with pytest.raises(MemoryError) as caught:
        list(loader)
    (note,) = caught.value.__notes__
    assert "while making sample 0 (patient PHANTOM0001, dicoms/PHANTOM0001/" in note
    assert "for batch 0 of epoch 0" in note


def test_a_truncated_store_is_an_exception(study, tmp_path):
    """A file that becomes shorter while mapped raises StoreError, not a signal."""
    path = tmp_path / "heart.h5"
    fastseg.build(fastseg.link(study), path)
    loader = Loader(fastseg.open(path), batch_size=2, size=32, shuffle=False)
    begun = iter(loader)
    with path.open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(StoreError) as caught:
        list(begun)
    (note,) = caught.value.__notes__
    assert f"while making sample 0 of {path}, for batch 0 of epoch 0" in note


def test_prefetch_is_bounded(square):
    """If the consumer stops, no more than `prefetch` further batches are made."""
    loader = Loader(square, batch_size=1, threads=4, prefetch=3)
    calls = []
    fill = loader.preprocessing.fill
    loader.preprocessing.fill = lambda *arrays: (calls.append(1), fill(*arrays))[1]
    iterator = iter(loader)
    next(iterator)
    deadline = time.monotonic() + 10
    while len(calls) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(calls) == 4  # the consumer has one, three are ahead
    iterator.close()


def test_kept_batches_do_not_change(square):
    """Batches that the consumer keeps do not change while others are made."""
    loader = Loader(square, batch_size=2)
    batches = list(loader)
    copies = [batch.image.copy() for batch in batches]
    for _ in range(3):
        list(loader)
    for batch, copy in zip(batches, copies, strict=True):
        assert_array_equal(batch.image, copy)


def test_one_side_of_a_split_is_loaded(store):
    """An epoch over chosen samples has each of them once and no other sample."""
    for indices in store.split({"train": 0.75, "val": 0.25}).values():
        loader = fastseg.Loader(store, indices=indices, batch_size=3, size=96)
        seen = np.concatenate([batch.index for batch in loader])
        assert_array_equal(np.sort(seen), indices)
        assert len(loader) == -(-len(indices) // 3)


def test_chosen_samples_of_one_shape_need_no_size(store):
    """Only the chosen samples must have one shape."""
    square = store.select(shape=96)
    assert fastseg.Loader(store, indices=square, batch_size=4).preprocessing.size == (
        96,
        96,
    )
