"""Normalization by volume, compared with numpy on the stacked image values."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import fastseg
from fastseg import Loader
from fastseg.errors import OptionError, StateError
from fastseg.links import LinkTable
from fastseg.loading.normalization import Bins, merge_bins
from tests.series import table_of, write_stack

# Bins of histograms of such images have one value each.
SHAPE = 256, 260
SLOPES = 0.25, 2, 1.5, 0.0078125
INTERCEPTS = -3, 0, 10, -0.5
# The samples of each volume, and the one that is in none.
VOLUMES = range(4), range(4, 7)
SINGLE = 7
# Corners (left, top, right, bottom) of what is outlined, by file and class.
OUTLINES = {
    (2, "liver"): (2, 3, 12, 9),
    (2, "spleen"): (10, 5, 17, 14),
    (3, "liver"): (1, 1, 5, 20),
    (20, "liver"): (4, 4, 8, 9),
    (21, "spleen"): (0, 0, 19, 23),
    (30, "liver"): (3, 3, 15, 15),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A volume of slices with rescales and windows of their own, another, an image."""
    base = tmp_path_factory.mktemp("volumes")
    each = [
        ("RescaleSlope", SLOPES),
        ("RescaleIntercept", INTERCEPTS),
        ("WindowCenter", (30, 50, 70, 90)),
        ("WindowWidth", (300, 500, 200, 100)),
    ]
    write_stack(base, range(4), series="1.1", shape=SHAPE, each=each, Modality="PT")
    usual = {"RescaleSlope": 1, "RescaleIntercept": -500, "shape": SHAPE}
    write_stack(base, [1, 4, 7], number=20, series="1.2", **usual)
    write_stack(base, [7], number=30, series="1.3", **usual)
    table = table_of(base)
    links = []
    for link in table.links:
        number = int(link.dicom_path.removesuffix(".dcm"))
        links.append(link)
        for (file, label), (left, top, right, bottom) in OUTLINES.items():
            if file == number:
                path = f"{file}-{label}.txt"
                corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
                (base / path).write_text("".join(f"{x} {y}\n" for x, y in corners))
                links.append(link._replace(label=label, contour_path=path))
    path = tmp_path_factory.mktemp("store") / "volumes.h5"
    fastseg.build(LinkTable(base=base, links=links), path)
    return fastseg.open(path)


def image_values(store, samples):
    """Return the image values of samples of one volume, float64 (n, H, W)."""
    items = store.items
    return np.stack(
        [store[k].image * items["slope"][k] + items["intercept"][k] for k in samples]
    )


def loaded(store, samples, **options):
    """Return what a Loader makes of samples, in their order."""
    loader = Loader(
        store, indices=samples, shuffle=False, missing="background", **options
    )
    return np.concatenate([batch.image[:, 0] for batch in loader])


@pytest.mark.parametrize("volume", VOLUMES)
def test_zscore_by_volume_is_that_of_all_image_values(store, volume):
    """Mean and deviation are those of all slices after rescale, also of one loaded."""
    values = image_values(store, volume)
    expected = (values - values.mean()) / values.std()
    options = {"normalize": "zscore", "normalize_by": "volume"}
    result = loaded(store, list(volume), **options)
    assert_allclose(result, expected, rtol=1e-5, atol=2e-6)
    one = loaded(store, volume[1:2], **options)
    assert_array_equal(one[0], result[1])


def test_zscore_by_image_differs_where_slices_do(store):
    """By image, which is the default, each slice has mean 0 and deviation 1."""
    result = loaded(store, list(VOLUMES[0]))
    assert_allclose(result.std(axis=(1, 2)), 1, rtol=1e-5)
    assert_array_equal(loaded(store, list(VOLUMES[0]), normalize_by="image"), result)


@pytest.mark.parametrize("volume", VOLUMES)
@pytest.mark.parametrize("percentiles", [(1, 99), (12.5, 60)])
def test_percentiles_by_volume_are_those_of_all_image_values(
    store, volume, percentiles
):
    """Histograms give those of all slices after rescale; values are clipped."""
    values = image_values(store, volume)
    low, high = np.percentile(values, percentiles, method="inverted_cdf")
    options = {"normalize_by": "volume", "percentiles": percentiles}
    result = loaded(store, list(volume), normalize="percentile", **options)
    expected = np.clip((values - low) / (high - low), 0, 1)
    assert_allclose(result, expected, atol=2e-6)


@pytest.mark.parametrize("samples", [[1, 2, 5], [2]])
def test_foreground_is_that_of_the_labelled_pixels_of_the_samples(store, samples):
    """Each labelled pixel of `indices` counts once, in image values, then clips all."""
    parts = []
    for k in samples:
        (values,) = image_values(store, [k])
        parts.append(values[store[k].mask != 0])
    labelled = np.concatenate(parts)
    low, high = np.percentile(labelled, [0.5, 99.5], method="inverted_cdf")
    values = image_values(store, samples)
    expected = (np.clip(values, low, high) - labelled.mean()) / labelled.std()
    result = loaded(store, samples, normalize="foreground")
    assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_validation_is_scaled_as_training(store):
    """With the numbers of another loader, also as JSON, samples are scaled as there."""
    options = {"normalize": "foreground", "missing": "background"}
    train = Loader(store, indices=[1, 2, 5], **options)
    numbers = train.value_statistics
    labelled = np.concatenate(
        [image_values(store, [k])[0][store[k].mask != 0] for k in (1, 2, 5)]
    )
    expected = np.percentile(labelled, [0.5, 99.5], method="inverted_cdf")
    assert_allclose(numbers, [labelled.mean(), labelled.std(), *expected], rtol=1e-9)
    alone = {"indices": [2], "shuffle": False}
    given = json.loads(json.dumps(numbers))
    val = Loader(store, value_statistics=given, **alone, **options)
    assert val.value_statistics == numbers
    own = Loader(store, **alone, **options)
    assert own.value_statistics != numbers
    same = loaded(store, [1, 2, 5], normalize="foreground")[1]
    assert_array_equal(next(iter(val)).image[0, 0], same)
    # Samples without a labelled pixel can be scaled now.
    Loader(store, indices=[0], value_statistics=numbers, **options)
    assert Loader(store, **alone, missing="background").value_statistics is None
    with pytest.raises(StateError, match="value_statistics is None in the state"):
        val.load_state_dict(own.state_dict())


@given(st.data())
def test_merged_bins_have_the_percentiles_of_their_values(data):
    """Bins of one value give them exactly, wider ones to less than their width."""
    extent = data.draw(st.sampled_from([0, 1, 7]))
    parts = data.draw(
        st.lists(
            st.lists(st.tuples(st.integers(-40, 40), st.integers(1, 9)), min_size=1),
            min_size=1,
            max_size=4,
        )
    )
    values, bins = [], []
    seed = np.random.default_rng(data.draw(st.integers(0, 99)))
    for part in parts:
        least, counts = np.array(part).T
        least = least * (extent + 1)
        bins.append(Bins(least + extent / 2, np.full(len(least), extent), counts))
        for start, count in zip(least.tolist(), counts.tolist(), strict=True):
            values += seed.integers(
                start, start + extent, count, endpoint=True
            ).tolist()
    percents = [0, 0.5, 12.5, 50, 99.5, 100]
    expected = np.percentile(values, percents, method="inverted_cdf")
    result = merge_bins(bins).percentiles(percents)
    assert_allclose(result, expected, atol=extent)


def test_the_window_by_volume_is_that_of_the_first_slice(store):
    """The window of the first header is applied to the image values of all slices."""
    values = image_values(store, VOLUMES[0])
    centre, width = 30, 300
    expected = np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    options = {"normalize": "window", "normalize_by": "volume"}
    assert_allclose(loaded(store, list(VOLUMES[0]), **options), expected, atol=1e-5)


@pytest.mark.parametrize("by", ["image", "volume"])
def test_a_given_window_is_that_of_all_samples(store, by):
    """Its ends become 0 and 1, whatever headers say; they may lack one."""
    samples = [k for volume in VOLUMES for k in volume]
    values = image_values(store, samples)
    expected = np.clip((values - 20) / 40, 0, 1)
    options = {"normalize": "window", "window": (40, 40), "normalize_by": by}
    assert_allclose(loaded(store, samples, **options), expected, atol=1e-5)


def test_a_constant_volume_becomes_zeros(tmp_path):
    """Rounding makes no deviation of slices that all have one value."""
    write_stack(tmp_path / "flat", range(3), shape=SHAPE, RescaleSlope=0.1)
    for path in (tmp_path / "flat").iterdir():
        content = path.read_bytes()
        size = 2 * SHAPE[0] * SHAPE[1]
        path.write_bytes(content[:-size] + b"\7\0" * (size // 2))
    path = tmp_path / "flat.h5"
    flat = fastseg.open(fastseg.build(table_of(tmp_path / "flat"), path).path)
    for method in ("zscore", "percentile"):
        result = loaded(flat, range(3), normalize=method, normalize_by="volume")
        assert_array_equal(result, 0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"normalize_by": "series"}, "normalize_by is 'series', expected"),
        ({"normalize_by": "volume"}, "1 of 8 samples are in no volume; choose"),
        ({"window": (40, 400)}, "normalize is 'zscore'; give normalize='window'"),
        ({"normalize": "window", "window": 40}, r"expected \(centre, width\)"),
        ({"normalize": "window", "window": (40, 0)}, "with a width above 0"),
        ({"normalize": "window", "window": (1, 2, 3)}, r"expected \(centre, width\)"),
        (
            {
                "normalize": "percentile",
                "normalize_by": "volume",
                "percentiles": (1, 101),
            }
            | {"indices": range(7)},
            r"percentiles are \(1.0, 101.0\), expected 0 to 100",
        ),
        (
            {"normalize": "foreground", "indices": [0, 3, 6]},
            "none of 3 samples has a pixel of any class; use another method",
        ),
        ({"normalize": "window"}, "4 of 8 samples have no window .* give one"),
        (
            {"normalize": "window", "normalize_by": "volume", "indices": range(7)},
            "1 of 2 volumes have no window .* of their first slice",
        ),
    ],
)
def test_what_does_not_fit_is_refused(store, options, text):
    """The error names the option, what is wrong, and what to do."""
    with pytest.raises(OptionError, match=text):
        Loader(store, missing="background", **options)
