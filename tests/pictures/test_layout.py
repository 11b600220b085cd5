"""Sizes of pictures, and the text in them: titles, headings, legend."""

import re
import warnings

import numpy as np
import pytest
from matplotlib.image import imread

from fastseg import show
from fastseg.errors import OptionError
from fastseg.pictures.planes import NAMES
from tests.pictures.helpers import draw_panels, make_store, texts_of


def test_each_sample_has_a_row_of_three_panels(store, tmp_path):
    """A picture of square images is 10.7 inches wide, and higher by 4.07 per sample."""
    heights = []
    for count in (1, 3):
        path = tmp_path / "new" / "folder" / "picture.png"
        indices = range(count)
        assert show(store, path, indices=indices, dpi=100) == path
        height, width, _ = imread(path).shape
        assert width == 1070
        heights.append(height)
    assert heights[1] - heights[0] == pytest.approx(2 * 407, abs=1)


def test_too_many_samples_are_refused(store, tmp_path):
    """The error gives the most at this resolution, and that number is drawn."""
    with pytest.raises(OptionError, match="32 samples are too many, expected at most"):
        show(store, tmp_path / "a.png", count=32, dpi=300)
    with pytest.raises(OptionError) as error:
        show(store, tmp_path / "a.png", count=32, dpi=2800)
    most = int(re.search(r"at most (\d+)", str(error.value))[1])
    assert most == 2
    with pytest.raises(OptionError, match=r"dpi is 1e\+06, expected more than 0"):
        show(store, tmp_path / "a.png", count=1, dpi=1e6)
    assert not list(tmp_path.iterdir())


def test_titles_say_what_is_drawn(store, tmp_path):
    """Index and patient, modality, end of the series, position, time, window, file."""
    sample = store[9]
    texts = texts_of(store, tmp_path, indices=[9], window=(0, 700))
    meta = sample.meta
    first = texts.index(f"#9  {meta['patient']}")
    assert texts[first + 1] == "  \u00b7  ".join(
        [
            "MR",
            f"series ...{meta['series'][-8:]}",
            f"position {meta['position_mm']:.1f} mm",
            f"time {meta['time']:g}",
            "window 0 to 700",
            meta["source"].rpartition("/")[2],
        ]
    )
    headings = ["image", "mask", "mask and contours"]
    assert [text for text in texts if text in headings] == headings
    texts = texts_of(store, tmp_path, indices=[9], augment="light")
    headings = ["original", *(f"epoch {k}" for k in range(6))]
    assert [text for text in texts if text in headings] == headings


def test_titles_say_which_volume_is_drawn(store, tmp_path):
    """Index and patient, modality, series, time, shape, spacing and window; planes."""
    volume = store.volumes[0]
    texts = texts_of(store, tmp_path, volume=0, window=(0, 700))
    first = texts.index(f"volume 0  {volume.patient}")
    assert texts[first + 1] == "  \u00b7  ".join(
        [
            "MR",
            f"series ...{volume.series[-8:]}",
            f"time {volume.time:g}",
            "4x96x96",
            f"{' x '.join(f'{mm:.4g}' for mm in volume.spacing_mm)} mm",
            "window 0 to 700",
        ]
    )
    headings = ["axial, slice 2", "coronal, row 46", "sagittal, column 45"]
    assert [text for text in texts if text.partition(",")[0] in NAMES] == headings
    assert {*volume.classes} <= {*texts}
    texts = texts_of(store, tmp_path, volume=0, classes="ocontour")
    assert {*volume.classes} & {*texts} == {"ocontour"}
    texts = texts_of(store, tmp_path, volume=0, augment="light")
    names = [f"volume 0  {volume.patient}", "epoch 0", "epoch 1", "epoch 2"]
    assert [text for text in texts if text in names] == names


def test_unknown_metadata_are_left_out(tmp_path):
    """Without series, position and modality, the window and the file remain."""
    names = ("SeriesInstanceUID", "ImagePositionPatient", "Modality")
    store = make_store(tmp_path, [np.eye(9)], **dict.fromkeys(names))
    texts = texts_of(store, tmp_path, window=(0, 1))
    assert texts[:2] == ["#0  P1", "window 0 to 1  \u00b7  0.dcm"]


def test_a_long_name_is_cut_and_math_is_text(tmp_path):
    """A name of 200 characters fits, and dollars are dollars."""
    ring = [(1, 1), (6, 1), (6, 6)]
    store = make_store(tmp_path, [np.eye(9)], {"$a$ " + "x" * 200: ring})
    texts = texts_of(store, tmp_path)
    assert texts[-1] == "$a$ " + "x" * 33 + "..."


def test_characters_that_the_font_lacks_give_no_warning(tmp_path):
    """They are boxes in the picture, and nobody can do anything about them."""
    ring = [(1, 1), (6, 1), (6, 6)]
    store = make_store(tmp_path, [np.eye(9)], {"\u5fc3\u81d3": ring})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        show(store, tmp_path / "a.png")


def test_64_classes_have_a_legend(tmp_path):
    """All names are there, and only those of classes in the picture."""
    rings = {
        f"class {k:02d}": [(k, 1), (k + 3, 1), (k + 3, 6), (k, 6)] for k in range(64)
    }
    store = make_store(tmp_path, [np.zeros((9, 80))], rings)
    assert [t for t in texts_of(store, tmp_path) if t.startswith("class")] == list(
        rings
    )
    texts = texts_of(store, tmp_path, classes=["class 07", "class 63"])
    assert texts[-2:] == ["class 07", "class 63"]


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1)])
def test_thin_images_are_drawn(tmp_path, shape):
    """A picture of one pixel, or of one row of them, has a size and a title."""
    ring = [(-0.4, -0.4), (0.4, -0.4), (0.4, 0.4), (-0.4, 0.4)]
    store = make_store(tmp_path, [np.full(shape, 7)], {"a": ring})
    for options in ({}, {"zoom": True}, {"augment": "light"}):
        height, width, _ = imread(show(store, tmp_path / "a.png", **options)).shape
        assert height > 50
        assert width > 500
    for axis in draw_panels(store, 0):
        assert 1 / 40 <= axis.get_box_aspect() <= 40  # it does not vanish
