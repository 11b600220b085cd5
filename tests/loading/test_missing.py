"""Classes that nobody outlined on a sample: what batches contain instead."""

import pickle
import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastseg
from fastseg import Loader
from fastseg.errors import MissingLabelsError, MissingLabelsWarning, OptionError

IGNORED = 255
# Half of the phantom's images have all four classes, the others only the first.
ALL, FIRST = 0b1111, 0b0001


def batch_of(store, **options):
    usual = {"size": (100, 110), "batch_size": len(store), "shuffle": False}
    return next(iter(Loader(store, **{**usual, **options})))


def expected_labels(store, bits, labelled):
    """Return labels pixel by pixel, in a loop over the classes by priority."""
    labels = np.zeros(bits.shape, np.uint8)
    priority = Loader(
        store, size=96, missing="background"
    ).preprocessing.format.priority
    order = [store.classes.index(name) for name in priority]
    for pixel in np.ndindex(bits.shape):
        for k in order:
            if bits[pixel] >> k & 1:
                labels[pixel] = k + 1
                break
            if not labelled >> k & 1:
                labels[pixel] = IGNORED
                break
    return labels


@pytest.mark.parametrize("augment", [None, "light"])
def test_ignored_labels_are_where_a_missing_class_could_be(store, augment):
    """A pixel is 255 where no class above a missing one shows, and nowhere else."""
    options = {"augment": augment, "seed": 4}
    bits = batch_of(store, masks="bits", **options).mask
    labels = batch_of(store, missing="ignore", **options).mask
    background = batch_of(store, missing="background", **options).mask
    labelled = store.items["labelled"]
    assert set(labelled.tolist()) == {ALL, FIRST}
    for k in (0, 5, 12, 31):
        assert_array_equal(labels[k], expected_labels(store, bits[k], labelled[k]))
    whole = labelled == ALL
    assert_array_equal(labels[whole], background[whole])
    assert (labels[~whole] == IGNORED).any()


@pytest.mark.parametrize("augment", [None, "light"])
def test_masks_of_a_missing_class_are_ignored_everywhere(store, augment):
    """Its channel and its own mask are 255 in every pixel, padding included."""
    options = {"augment": augment, "seed": 4, "missing": "ignore"}
    missing = store.items["labelled"] != ALL
    channels = batch_of(store, masks="onehot", **options).mask
    outer = batch_of(store, masks="ocontour", **options).mask
    inner = batch_of(store, masks="icontour", **options).mask
    assert (outer[missing] == IGNORED).all()
    assert (outer[~missing] <= 1).all()
    assert (inner <= 1).all()
    assert_array_equal(channels[:, 0], inner)
    assert_array_equal(channels[:, 1], outer)


def test_the_default_is_background_with_one_warning(store):
    """The warning counts the samples without a class and names the remedies."""
    with pytest.warns(MissingLabelsWarning) as caught:
        loader = Loader(store, size=96, batch_size=8)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    text = str(caught[0].message)
    assert "16 of 32 samples lack" in text
    assert "ocontour on 16, p1contour on 16, p2contour on 16" in text
    for remedy in ("store.select", "missing='ignore'", "missing='background'"):
        assert remedy in text
    silent = Loader(store, size=96, batch_size=8, missing="background")
    for batch, other in zip(loader, silent, strict=True):
        assert_array_equal(batch.mask, other.mask)
    # Each can load the state of the other.
    silent.load_state_dict(loader.state_dict())


@pytest.mark.parametrize(
    "options",
    [
        {"masks": "bits"},
        {"masks": "icontour"},
        {"missing": "ignore", "masks": "onehot"},
        {"indices": ALL},
    ],
    ids=str,
)
def test_there_is_no_warning_if_nothing_is_missing(store, options):
    """Only classes that the masks show, on samples that are loaded, count."""
    if "indices" in options:
        options = {"indices": np.flatnonzero(store.items["labelled"] == ALL)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader = Loader(store, size=96, batch_size=2, **options)
        pickle.loads(pickle.dumps(loader))


def test_labels_that_are_ignored_all_over_a_sample_are_counted(store):
    """A missing class on top hides what was outlined; one below hides nothing."""
    options = {"size": 96, "missing": "ignore", "batch_size": 32, "shuffle": False}
    with pytest.warns(MissingLabelsWarning, match="16 of 32 samples .* only 255") as c:
        batch = next(iter(Loader(store, **options)))
    assert "masks='onehot'" in str(c[0].message)
    assert c[0].filename == __file__
    assert (batch.mask == IGNORED).all(axis=(1, 2)).sum() == 16
    order = ["icontour", "p1contour", "p2contour", "ocontour"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = next(iter(Loader(store, priority=order, **options)))
    assert not (batch.mask == IGNORED).all(axis=(1, 2)).any()


def test_a_copy_does_not_warn_again(store):
    """Unpickling a loader does not warn, as its original has warned."""
    with pytest.warns(MissingLabelsWarning):
        loader = Loader(store, size=96, batch_size=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickle.loads(pickle.dumps(loader))


def test_missing_labels_can_be_an_error(store):
    """It is raised when the loader is made, and only if a label is missing."""
    with pytest.raises(MissingLabelsError, match="16 of 32 samples lack"):
        Loader(store, size=96, missing="error")
    chosen = store.select(classes=list(store.classes))
    Loader(store, size=96, indices=chosen, missing="error")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"masks": "bits", "missing": "ignore"}, "masks 'bits' have no label for it"),
        ({"missing": "ignor"}, "did you mean 'ignore'"),
        ({"normalize": "none"}, "expected None for no normalization"),
        ({"dtype": np.float64}, "dtype is 'float64', expected one of 'float32'"),
        ({"dtype": None}, "dtype is None"),
    ],
)
def test_options_that_do_not_fit_are_refused(store, options, text):
    """The error says what was expected."""
    with pytest.raises(OptionError, match=text):
        Loader(store, size=96, **options)


@pytest.mark.parametrize("dtype", [np.float16, np.dtype("float16"), "float16"])
def test_a_dtype_may_be_numpys(store, dtype):
    """A dtype object means what its name means."""
    loader = fastseg.Loader(store, size=96, dtype=dtype, missing="background")
    assert next(iter(loader)).image.dtype == np.float16
    assert loader.state_dict()["dtype"] == "float16"


def test_no_normalization_gives_image_values(store):
    """normalize=None and dtype="raw" give image values of a store without rescaling."""
    options = {"size": 96, "batch_size": 4, "shuffle": False, "masks": "bits"}
    values = next(iter(Loader(store, normalize=None, **options))).image
    stored = next(iter(Loader(store, dtype="raw", **options))).image
    assert values.dtype == np.float32
    assert_array_equal(values, stored)
    assert Loader(store, dtype="raw", normalize=None, **options)
