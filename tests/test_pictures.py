"""Pictures of samples: their size, colours and bytes."""

import json
import re
import sys

import numpy as np
import pydicom
import pytest
from matplotlib import rc_context
from matplotlib.image import imread
from numpy.testing import assert_array_equal

import fastseg
from fastseg import make_phantom, show
from fastseg.augment import Resize, Rot90
from fastseg.errors import MissingExtraError, OptionError
from fastseg.pictures import _grey

# One patient with three images, two of which have contours.
SMALL = {"patients": 1, "sizes": [40], "slices": 1, "phases": 3}


def build(study, name="heart.h5", **options):
    """Build a store beside a study and open it."""
    path = study.with_name(name)
    fastseg.build(fastseg.link(study, **options), path)
    return fastseg.open(path)


def drawn_samples(store, path, **options):
    """Return the indices of the samples in a picture, read from its labels."""
    with rc_context({"svg.fonttype": "none"}):
        text = show(store, path, **options).read_text(encoding="utf-8")
    return [int(number) for number in re.findall(r">#(\d+)\s", text)]


def colour_fraction(path):
    """Return the fraction of pixels that are neither grey nor dark background."""
    pixels = imread(path)[..., :3]
    return (np.ptp(pixels, axis=2) > 0.1).mean()


@pytest.mark.parametrize("count", [1, 3])
def test_a_png_has_one_row_per_sample(store, tmp_path, count):
    """The picture is 12 inches wide, and 2.95 high per sample, at the given dpi."""
    path = tmp_path / "new" / "folder" / "picture.png"
    assert show(store, path, count=count, dpi=50) == path
    height, width, _ = imread(path).shape
    assert width == 12 * 50
    assert height == pytest.approx((2.95 * count + 0.7) * 50, abs=1)


def test_a_seed_gives_the_same_bytes(store, tmp_path):
    """Two pictures with the same seed are equal byte by byte."""
    first, second = (
        show(store, tmp_path / name, count=2, seed=3, dpi=50)
        for name in ("first.png", "second.png")
    )
    assert first.read_bytes() == second.read_bytes()


def test_another_seed_chooses_other_samples(store, tmp_path):
    """The seed determines which samples are drawn, each at most once."""
    chosen = [
        drawn_samples(store, tmp_path / "picture.svg", count=4, seed=seed)
        for seed in (0, 1, 0)
    ]
    assert chosen[0] == chosen[2]
    assert set(chosen[0]) != set(chosen[1])
    assert len(set(chosen[0])) == len(set(chosen[1])) == 4


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
    assert len(sizes) == (4 if steps is None else 7)


def test_a_store_without_classes_is_drawn(store, tmp_path):
    """The picture is grey without contours, and has colours with them."""
    study = make_phantom(tmp_path / "study", **SMALL)
    for path in study.rglob("*.txt"):
        path.unlink()
    bare = build(study, keep_unlabelled=True)
    assert bare.classes == ()
    assert colour_fraction(show(bare, tmp_path / "bare.png", count=2)) == 0
    assert colour_fraction(show(store, tmp_path / "full.png", count=2)) > 0.01


def test_samples_with_contours_come_first(tmp_path):
    """Of a store in which few samples have a contour, these are drawn."""
    study = make_phantom(tmp_path / "study", **SMALL)
    first = min(study.rglob("*icontour*.txt"))
    for path in study.rglob("*.txt"):
        if path != first:
            path.unlink()
    store = build(study, keep_unlabelled=True)
    (labelled,) = np.flatnonzero(store.items["labelled"]).tolist()
    assert len(store) > 2
    for seed in range(3):
        drawn = drawn_samples(store, tmp_path / "p.svg", count=1, seed=seed)
        assert drawn == [labelled]


def test_a_count_above_the_size_of_the_store_draws_all(tmp_path):
    """If the store has fewer samples than `count`, each is drawn once."""
    small = build(make_phantom(tmp_path / "study", **SMALL))
    drawn = drawn_samples(small, tmp_path / "picture.svg", count=99)
    assert sorted(drawn) == list(range(len(small))) == [0, 1]


def test_monochrome1_is_drawn_inverted(tmp_path):
    """The same stored values are drawn as a negative if low values are white."""
    study = make_phantom(tmp_path / "study", **SMALL)
    stores = [build(study, "upright.h5")]
    for path in study.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.PhotometricInterpretation = "MONOCHROME1"
        dataset.save_as(path)
    stores.append(build(study, "inverted.h5"))
    for upright, inverted in zip(*stores, strict=True):
        np.testing.assert_array_equal(upright.image, inverted.image)
        grey = _grey(upright)
        assert (grey.min(), grey.max()) == (0, 1)
        np.testing.assert_array_equal(_grey(inverted), 1 - grey)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("a.png", {"count": 0}, "count is 0, expected at least 1"),
        ("a.png", {"count": -2}, "count is -2"),
        ("a.png", {"seed": -1}, "seed is -1"),
        ("a.png", {"dpi": 0}, "dpi"),
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
    assert width > 2.5 * height
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
