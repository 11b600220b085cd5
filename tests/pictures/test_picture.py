"""`show` as a whole: its bytes, colours and proportions, and what it refuses."""

import json
import re
import sys

import numpy as np
import pydicom
import pytest
from matplotlib.image import imread
from numpy.testing import assert_array_equal

import fastseg
from fastseg import make_phantom, show
from fastseg.augment import Crop, Resize, Rot90
from fastseg.errors import MissingExtraError, OptionError, UnknownClassError
from tests.pictures.helpers import SMALL, build


def colour_fraction(path):
    """Return the fraction of pixels that are neither grey nor dark background."""
    pixels = imread(path)[..., :3]
    return (np.ptp(pixels, axis=2) > 0.1).mean()


def test_a_seed_gives_the_same_bytes(store, tmp_path):
    """Two pictures with the same seed are equal byte by byte."""
    first, second = (
        show(store, tmp_path / name, count=2, seed=3, dpi=50)
        for name in ("first.png", "second.png")
    )
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("steps", "ratios"),
    [
        (None, {0.5}),
        ([Resize(size=(20, 80))], {0.5}),
        ([Rot90()], {0.5, 2.0}),
    ],
)
def test_pictures_show_millimetres(tmp_path, steps, ratios):
    """Square images of 1 by 2 mm are half as high as wide, turned ones twice."""
    study = make_phantom(tmp_path / "study", **SMALL)
    for path in study.rglob("*.dcm"):
        header = pydicom.dcmread(path)
        header.PixelSpacing = [1, 2]
        header.save_as(path)
    text = show(build(study), tmp_path / "a.svg", count=1, augment=steps).read_text()
    sizes = re.findall(r'<image[^>]* width="([\d.]+)" height="([\d.]+)"', text)
    # The sizes are rounded to pixels of the picture.
    assert {round(float(height) / float(width), 1) for width, height in sizes} == ratios
    assert len(sizes) == (3 if steps is None else 7)


def test_a_store_without_classes_is_drawn(store, tmp_path):
    """The picture is grey without contours, and has colours with them."""
    study = make_phantom(tmp_path / "study", **SMALL)
    for path in study.rglob("*.txt"):
        path.unlink()
    bare = build(study, keep_unlabelled=True)
    assert bare.classes == ()
    assert colour_fraction(show(bare, tmp_path / "bare.png", count=2)) == 0
    with pytest.raises(UnknownClassError, match="'a', but the store has no classes"):
        show(bare, tmp_path / "bare.png", classes="a")
    assert colour_fraction(show(store, tmp_path / "full.png", count=2)) > 0.01


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("a.png", {"count": 0}, "count is 0, expected at least 1"),
        ("a.png", {"count": -2}, "count is -2"),
        ("a.png", {"seed": -1}, "seed is -1"),
        ("a.png", {"dpi": 0}, "dpi is 0, expected more than 0"),
        ("a.png", {"dpi": 1e-9}, "dpi"),
        ("a.png", {"zoom": "no"}, "zoom is 'no', expected True or False"),
        ("a.png", {"window": "heder"}, "did you mean 'header'"),
        ("a.png", {"window": (3, 1)}, "window is .3, 1., expected .low, high"),
        ("a.png", {"window": (3, np.nan)}, "window is nan"),
        ("a.png", {"window": (-1e308, 1e308)}, "expected image values up to 1e.20"),
        ("a.png", {"window": (0, 1e-300)}, "at least 1e-20 apart"),
        ("a.png", {"window": 7}, "expected .low, high"),
        ("a.png", {"window": {1, 2}}, "expected .low, high"),
        ("a.png", {"volume": 0}, "count is for samples: leave it out with a volume"),
        (
            "a.png",
            {"count": None, "volume": 0, "augment": Crop(8)},
            "augment has Crop, but patches have the size",
        ),
        ("a.xyz", {}, "a.xyz: .*png"),
        ("a", {}, "png"),
    ],
)
def test_invalid_options_are_refused(store, tmp_path, name, options, text):
    """An invalid option or suffix is an OptionError, and no file is written."""
    with pytest.raises(OptionError, match=text):
        show(store, tmp_path / name, **{"count": 1, **options})
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_error_says_how_to_install_it(
    store, tmp_path, monkeypatch
):
    """MissingExtraError contains the pip command, and nothing is written."""
    for name in [*sys.modules, "matplotlib"]:
        if name.split(".")[0] == "matplotlib":
            monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match="pip install matplotlib"):
        show(store, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_augmented_versions_are_drawn_beside_the_image(
    store, tmp_path, fastseg_command
):
    """Six versions of each sample, with contours, the same in each call."""
    first = show(store, tmp_path / "a.png", count=2, augment="standard")
    again = show(store, tmp_path / "b.png", count=2, augment="standard")
    pixels = imread(first)
    assert_array_equal(pixels, imread(again))
    height, width = pixels.shape[:2]
    assert width > 2 * height
    assert colour_fraction(first) > 0.005
    other = imread(show(store, tmp_path / "c.png", count=2, augment="light"))
    assert (other != pixels).any()
    compose = fastseg.augment.Compose([fastseg.augment.Flip(p=1)])
    path = tmp_path / "steps.json"
    path.write_text(json.dumps(compose.as_dict()))
    run = fastseg_command("show", store.path, "-o", "d.png", "--augment", path)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "d.png").exists()
    path.write_text("{")
    run = fastseg_command("show", store.path, "-o", "e.png", "--augment", path)
    assert run.returncode == 2
    assert "steps.json" in run.stderr
    assert not (tmp_path / "e.png").exists()
