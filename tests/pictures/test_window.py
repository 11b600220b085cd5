"""Which image values are black and white."""

import numpy as np
import pydicom
import pytest
from numpy.testing import assert_array_equal

from fastseg import make_phantom
from tests.pictures.helpers import (
    SMALL,
    build,
    draw_panels,
    drawn_pixels,
    make_store,
    window_of,
)


def test_monochrome1_is_drawn_inverted(tmp_path):
    """The same stored values are drawn as a negative if low values are white."""
    study = make_phantom(tmp_path / "study", **SMALL)
    stores = [build(study, "upright.h5")]
    for path in study.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.PhotometricInterpretation = "MONOCHROME1"
        dataset.save_as(path)
    stores.append(build(study, "inverted.h5"))
    for index in range(len(stores[0])):
        for window in ("percentiles", "header"):
            grey, negative = (
                drawn_pixels(draw_panels(store, index, window=window)[0]).astype(int)
                for store in stores
            )
            assert (grey.min(), np.ptp(grey) > 200) == (0, True)
            # Both are rounded.
            assert abs(grey + negative - 255).max() <= 1


def test_the_window_of_ct_is_that_of_the_header(tmp_path):
    """It is read as the standard says, and given in Hounsfield units."""
    pixels = np.arange(0, 2000, 20).reshape(10, 10)
    window = {"WindowCenter": 40, "WindowWidth": 400}
    store = make_store(
        tmp_path, [pixels], RescaleIntercept=-1024, RescaleSlope=1, **window
    )
    assert window_of(store, tmp_path) == window_of(store, tmp_path, window="header")
    assert window_of(store, tmp_path) == "-160 to 239"
    (axis,) = draw_panels(store, 0)
    expected = (pixels - 1024 + 160) / 399 * 255
    assert_array_equal(drawn_pixels(axis)[..., 0], np.rint(expected.clip(0, 255)))


ELSEWHERE = {"WindowCenter": 9000, "WindowWidth": 10}
ON_SCREEN = {"WindowCenter": 0, "WindowWidth": 9}


@pytest.mark.parametrize(
    ("elements", "options", "expected"),
    [
        # CT without a window is shown in that of soft tissue.
        ({}, {}, "-160 to 240"),
        ({}, {"window": "header"}, "-816 to 752"),
        ({}, {"window": "percentiles"}, "-816 to 752"),
        ({}, {"window": (-1000, 200.0)}, "-1000 to 200"),
        # Nothing of the image lies within this window.
        (ELSEWHERE, {}, "-816 to 752"),
        (
            {"WindowCenter": 9000, "WindowWidth": 10},
            {"window": "header"},
            "8995 to 9004",
        ),
        # The window of other modalities was made for one screen.
        ({**ON_SCREEN, "Modality": "MR"}, {}, "-816 to 752"),
        ({**ON_SCREEN, "Modality": "MR"}, {"window": "header"}, "-4.5 to 3.5"),
    ],
)
def test_the_window_is_chosen_by_what_is_shown(tmp_path, elements, options, expected):
    """From the header of CT, by percentiles, or two given values."""
    pixels = np.arange(200, 1800, 16).reshape(10, 10)
    store = make_store(
        tmp_path, [pixels], RescaleIntercept=-1024, RescaleSlope=1, **elements
    )
    assert window_of(store, tmp_path, **options) == expected


def test_percentiles_are_of_what_is_zoomed_to(tmp_path):
    """A bright frame around the crop does not darken it."""
    pixels = np.full((64, 64), 4000)
    pixels[20:44, 20:44] = np.arange(24) + 100
    ring = [(26, 26), (36, 26), (36, 36), (26, 36)]
    store = make_store(tmp_path, [pixels], {"a": ring}, Modality="MR")
    assert window_of(store, tmp_path) == "100 to 4000"
    assert window_of(store, tmp_path, zoom=True) == "104 to 119"
