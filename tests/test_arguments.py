"""What users give: masked values, text, True and dates are no numbers anywhere."""

import datetime
from array import array
from collections import UserString

import numpy as np
import pytest

import fastseg
from fastseg import augment, dicom
from fastseg.benchmark import bench
from fastseg.errors import (
    FastsegError,
    OptionError,
    real_number,
    true_or_false,
    whole_number,
)
from fastseg.phantom import make_phantom
from fastseg.raster import rings

RING = [(1, 1), (6, 1), (6, 6), (1, 6)]
MASKED_RING = np.ma.array(RING, mask=[[0, 0], [0, 0], [0, 0], [1, 1]])
NO_WHOLE_NUMBERS = [True, np.True_, 2.7, "5", b"5", 2 + 0j, None, np.ma.masked]
NO_WHOLE_NUMBERS += [np.ma.array(5, mask=True), np.array([5]), np.datetime64(5, "D")]
NO_NUMBERS = [True, np.True_, "0.5", b"1", np.str_("0.5"), 0.5 + 0j, np.nan, np.inf]
NO_NUMBERS += [np.ma.masked, np.ma.array(0.5, mask=True), np.array([0.5]), None]
NO_NUMBERS += [np.datetime64(1, "D"), datetime.date(2000, 1, 1), 10**400]


def kind_of(value):
    """Return the name of a value's type: a repr may differ from process to process."""
    return type(value).__name__


# `float` reads these as text.
TEXTS = [UserString("5"), memoryview(b"5"), bytearray(b"5"), array("b", b"5")]
NO_WHOLE_NUMBERS += TEXTS
NO_NUMBERS += TEXTS


@pytest.mark.parametrize("value", NO_WHOLE_NUMBERS, ids=kind_of)
@pytest.mark.parametrize("given", ["sides", "first side"])
def test_shapes_are_whole_numbers(value, given):
    """A side of a shape that is no whole number is refused by all of raster."""
    shape = (value, value) if given == "sides" else (value, 5)
    for draw in (fastseg.rasterize, fastseg.coverage, fastseg.signed_distance):
        with pytest.raises(OptionError, match="shape"):
            draw(RING, shape)
    with pytest.raises(OptionError, match="shape"):
        fastseg.rasterize_batch(RING, [0, 4], shape)
    with pytest.raises(OptionError, match="shape"):
        fastseg.rasterize_labels([RING], shape)


def test_sides_may_be_numpy_integers():
    """Whole numbers of numpy are sides of a shape."""
    shape = np.array([8, 9], np.uint16)
    assert fastseg.rasterize(RING, shape).shape == (8, 9)


MASKED_CONTOURS = {
    "a ring": MASKED_RING,
    "rings": [RING, MASKED_RING],
    "rows": [np.ma.array(xy, mask=[False, xy == (6, 6)]) for xy in RING],
    "a masked array of rings": np.ma.array([RING], mask=[MASKED_RING.mask]),
    "a constant": [[1, 1], [6, 1], [np.ma.masked, 6]],
}


@pytest.mark.parametrize("name", MASKED_CONTOURS)
@pytest.mark.filterwarnings("ignore:.*masked element")
def test_masked_vertices_are_refused(name):
    """A masked vertex is an error of every function that takes contours."""
    given = MASKED_CONTOURS[name]
    for draw in (fastseg.rasterize, fastseg.coverage, fastseg.signed_distance):
        with pytest.raises(FastsegError, match=r"masked|finite|real numbers"):
            draw(given, (8, 8))
    with pytest.raises(FastsegError, match=r"masked|finite|real numbers"):
        fastseg.rasterize_labels({"a": given}, (8, 8))


def test_masked_arrays_of_a_batch_are_refused():
    """Masked points, offsets and groups are errors, as is a masked array to draw on."""
    masked = np.ma.array([0, 4], mask=[False, True])
    calls = {
        "points": lambda: fastseg.rasterize_batch(MASKED_RING, [0, 4], (8, 8)),
        "offsets": lambda: fastseg.rasterize_batch(RING, masked, (8, 8)),
        "mask_offsets": lambda: fastseg.rasterize_batch(
            RING, [0, 4], (8, 8), mask_offsets=np.ma.array([0, 1], mask=[True, False])
        ),
        "groups": lambda: fastseg.rasterize(
            [RING], (8, 8), groups=np.ma.array([0], mask=[True])
        ),
    }
    for name, call in calls.items():
        with pytest.raises(FastsegError, match=rf"^{name} has masked values"):
            call()
    with pytest.raises(OptionError, match="out is"):
        fastseg.rasterize(RING, (8, 8), np.ma.zeros((8, 8), np.uint8))


def test_nothing_is_masked_in_most_masked_arrays():
    """A masked array in which no value is masked is drawn as its values are."""
    mask = fastseg.rasterize(np.ma.array(RING), (8, 8))
    assert np.array_equal(mask, fastseg.rasterize(RING, (8, 8)))


NO_VERTICES = [
    np.array(RING, bool),
    np.array(RING, complex),
    np.array(RING, object),
    np.array(RING, "M8[D]"),
    np.array(RING, str),
    [("1", "1"), ("6", "1"), ("6", "6")],
    [(True, False), (False, True), (True, True)],
]


@pytest.mark.parametrize(
    "given", NO_VERTICES, ids=lambda given: str(np.asarray(given).dtype)
)
def test_vertices_are_real_numbers(given):
    """Text, flags, dates, complex numbers and objects are no vertices."""
    with pytest.raises(FastsegError, match="expected real numbers"):
        fastseg.rasterize(given, (8, 8))
    with pytest.raises(FastsegError, match="expected real numbers"):
        rings.as_ring(given)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=kind_of)
def test_real_numbers(value, store):
    """What is no finite number is refused wherever an option is a float."""
    calls = [
        lambda: real_number("x", value),
        lambda: augment.Affine(p=value),
        lambda: augment.Affine(rotate=(0, value)),
        lambda: augment.Noise(std=(value, 1)),
        lambda: augment.Resample(spacing_mm=(value, 1)),
        lambda: store.split({"a": value, "b": 0.5}),
        lambda: (
            fastseg.Loader(store, batch_size=1, foreground=value)
            if value is not None
            else real_number("x", value)
        ),
        lambda: fastseg.Loader(store, batch_size=1, percentiles=(value, 99)),
        lambda: fastseg.signed_distance(RING, (8, 8), (value, 1.0)),
        lambda: bench(store, seconds=value),
    ]
    for call in calls:
        with pytest.raises(OptionError):
            call()


@pytest.mark.parametrize("value", NO_WHOLE_NUMBERS, ids=kind_of)
def test_whole_numbers(value, store, tmp_path):
    """What is no whole number is refused wherever an option is an integer."""
    loader = fastseg.Loader
    calls = [
        lambda: loader(store, batch_size=value),
        lambda: loader(store, batch_size=1, seed=value),
        lambda: loader(store, batch_size=1, prefetch=value),
        lambda: loader(store, batch_size=1, rank=value),
        lambda: loader(store, batch_size=1, size=(value, 8)),
        lambda: fastseg.rasterize_batch(RING, [0, 4], (8, 8), threads=value),
        lambda: fastseg.build("none.csv", tmp_path / "s.h5", threads=value),
        lambda: fastseg.build("none.csv", tmp_path / "s.h5", max_pixel_bytes=value),
        lambda: store.split({"a": 0.5, "b": 0.5}, seed=value),
        lambda: store.split_folds(value),
        lambda: fastseg.hold_out({"a": [0], "b": [1]}, value),
        lambda: dicom.read_image(__file__, frame=value),
        lambda: dicom.read_image(__file__, max_pixel_bytes=value),
        lambda: dicom.decode(b"", "a.dcm", frame=value),
        lambda: dicom.decode(b"", "a.dcm", max_pixel_bytes=value),
        lambda: store.select(shape=(value, 96)),
        lambda: augment.Crop(size=(value, 8)),
        lambda: augment.Resize(size=value),
        *(
            lambda name=name: (
                make_phantom(tmp_path / "p", **{name: value})
                if value is not None
                else whole_number(name, value, 1)
            )
            for name in ("patients", "slices", "phases")
        ),
        lambda: bench(store, rounds=value),
    ]
    for call in calls:
        with pytest.raises(OptionError):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [2**10 + 1, 2**31, 2**63, 10**400])
def test_numbers_of_threads_are_bounded(value, store, tmp_path):
    """A number of threads that no machine has is refused before any is started."""
    points = np.array(RING, float)
    options = {"batch_size": 1, "size": 8, "missing": "background"}
    calls = [
        lambda: fastseg.rasterize_batch(points, [0, 4], (8, 8), threads=value),
        lambda: fastseg.build("none.csv", tmp_path / "s.h5", threads=value),
        lambda: fastseg.verify(store, threads=value),
        lambda: fastseg.Loader(store, threads=value, **options),
        lambda: bench(store, threads=value, **options),
    ]
    for call in calls:
        with pytest.raises(OptionError, match=r"threads is .*, expected 1 to 1024"):
            call()
    with pytest.raises(OptionError, match=r"prefetch is .*, expected 1 to 65536"):
        fastseg.Loader(store, prefetch=2**16 + value, **options)
    with pytest.raises(OptionError, match=r"margin is .*, expected 0 to 134217728"):
        augment.Crop(size=8, margin=2**27 + value)


@pytest.mark.parametrize("pair", [{5, 6}, frozenset([5, 6]), {5: 1, 6: 2}], ids=repr)
def test_pairs_have_an_order(pair, store):
    """A set or dict is no pair: {6, 5} would be (5, 6)."""
    options = {"batch_size": 1, "missing": "background"}
    calls = [
        lambda: fastseg.rasterize(RING, pair),
        lambda: fastseg.signed_distance(RING, (8, 8), pair),
        lambda: fastseg.Loader(store, size=pair, **options),
        lambda: fastseg.Loader(store, size=8, percentiles=pair, **options),
        lambda: store.select(shape=pair),
        lambda: augment.Resize(size=pair),
        lambda: augment.Affine(rotate=pair),
        lambda: augment.Resample(spacing_mm=pair),
    ]
    for call in calls:
        with pytest.raises(OptionError):
            call()


BAD_INDICES = [
    np.ma.array([0, 1], mask=[False, True]),
    ["0", "1"],
    [True, False],
    [0.0, 1.0],
    [0j],
    np.array([0, 1], object),
    np.array([0, 1], "m8[s]"),
]


@pytest.mark.parametrize(
    "given", BAD_INDICES, ids=lambda given: str(np.asarray(given).dtype)
)
def test_indices_are_whole_numbers(given, store):
    """Indices that are masked or no whole numbers are refused by all that take them."""
    calls = [
        lambda: store.select(indices=given),
        lambda: store.split({"a": 0.5, "b": 0.5}, indices=given),
        lambda: fastseg.Loader(store, batch_size=1, indices=given),
        lambda: fastseg.check_split(store, {"a": given, "b": [2]}),
        lambda: fastseg.hold_out({"a": given, "b": [2]}, 0),
    ]
    for call in calls:
        with pytest.raises(OptionError, match="indices"):
            call()


def test_columns_of_samples_are_numbers(store):
    """Weights and strata that are masked or text of numbers are refused."""
    count = len(store)
    masked = np.ma.array(np.ones(count), mask=np.arange(count) == 1)
    for given in (masked, ["1"] * count, np.ones(count, complex), [None] * count):
        with pytest.raises(OptionError, match="weights"):
            fastseg.Loader(store, batch_size=1, weights=given)
    for given in (masked, np.ones(count, complex), [None] * count):
        with pytest.raises(OptionError, match="stratify"):
            store.split({"a": 0.5, "b": 0.5}, stratify=given)


@pytest.mark.parametrize("value", ["no", "False", b"", None, 2, [True], np.nan])
def test_flags(value, store):
    """An option that is a flag takes True and False, and no text."""
    calls = [
        lambda: true_or_false("x", value),
        lambda: fastseg.Loader(store, batch_size=1, shuffle=value),
        lambda: fastseg.Loader(store, batch_size=1, drop_last=value),
        lambda: augment.Crop(size=8, pad=value),
        lambda: augment.Gamma(invert=value),
        lambda: fastseg.build("none.csv", "none.h5", compress=value),
        lambda: fastseg.link("none", keep_unlabelled=value),
    ]
    for call in calls:
        with pytest.raises(OptionError, match="expected True or False"):
            call()


@pytest.mark.parametrize("name", ["frame", "rows", "position_mm"])
def test_numbers_of_links(name):
    """True is no number of a link."""
    link = fastseg.Link("p", "a.dcm", **{name: True})
    with pytest.raises(FastsegError, match=f"{name} is True"):
        fastseg.LinkTable(base=".", links=[link])


def test_a_store_is_indexed_by_numbers(store):
    """store[True] is no sample."""
    with pytest.raises(TypeError, match="not bool"):
        store[True]
