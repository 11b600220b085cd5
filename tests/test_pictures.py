"""Pictures of samples: which ones, their greys and colours, text, size and bytes."""

import json
import re
import sys
import warnings

import numpy as np
import pydicom
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.testing import assert_array_equal

import fastseg
from fastseg import make_phantom, show
from fastseg.augment import Resize, Rot90
from fastseg.colours import colour_of
from fastseg.errors import MissingExtraError, OptionError, UnknownClassError
from fastseg.links import Link, LinkTable
from fastseg.pictures import (
    OVERLAY_OPACITY,
    PALETTE,
    _crop,
    _draw_sample,
    _draw_scale_bar,
    _line_style,
    _View,
)
from fastseg.store.layout import MAX_CLASSES
from tests.sources.dicom_files import save_slice

# One patient with three images, two of which have contours.
SMALL = {"patients": 1, "sizes": [40], "slices": 1, "phases": 3}


def build(study, name="heart.h5", **options):
    """Build a store beside a study and open it."""
    path = study.with_name(name)
    fastseg.build(fastseg.link(study, **options), path)
    return fastseg.open(path)


def texts_of(store, folder, **options):
    """Return the texts in a picture, in their order."""
    with rc_context({"svg.fonttype": "none"}):
        path = show(store, folder / "picture.svg", **{"dpi": 40, **options})
    svg = path.read_text(encoding="utf-8")
    return re.findall(r"<text[^>]*>([^<]*)<", svg)


def drawn_samples(store, folder, **options):
    """Return the indices of the samples in a picture, from top to bottom."""
    texts = texts_of(store, folder, **options)
    return [int(text.split()[0][1:]) for text in texts if text.startswith("#")]


def window_of(store, folder, **options):
    """Return the window that is written above the only sample of a picture."""
    (line,) = (t for t in texts_of(store, folder, **options) if "window" in t)
    return re.search(r"window ([^ ]+ to [^ ]+)", line)[1]


def draw_panels(store, index, *, classes=None, window="auto", zoom=False, most=10**6):
    """Return the axes on which a sample is drawn."""
    axes = [Figure().add_axes((0, 0, 1, 1)) for _ in range(3 if store.classes else 1)]
    bits = tuple(map(store.class_index, store.classes if classes is None else classes))
    _draw_sample(axes, _View(store, bits, window, zoom, most), store[index])
    return axes


def drawn_pixels(axis):
    """Return the pixels of an image as it is drawn, uint8 (h, w, 3)."""
    return np.asarray(axis.images[0].get_array())


def make_store(folder, images, contours=None, **elements):
    """Build a store of CT images of one patient, with the same contours on each.

    contours : rings by class
    """
    links = []
    for k, pixels in enumerate(images):
        rows, columns = pixels.shape
        path = save_slice(
            folder / f"{k}.dcm",
            k,
            pixels=pixels,
            Rows=rows,
            Columns=columns,
            **elements,
        )
        rows = [("", "")]
        for n, (label, ring) in enumerate((contours or {}).items()):
            np.savetxt(folder / f"{n}.txt", ring)
            rows = [*(row for row in rows if row[0]), (label, f"{n}.txt")]
        links += [
            Link(patient="P1", dicom_path=path.name, contour_path=file, label=label)
            for label, file in rows
        ]
    report = fastseg.build(LinkTable(base=folder, links=links), folder / "store.h5")
    return fastseg.open(report.path)


def colour_fraction(path):
    """Return the fraction of pixels that are neither grey nor dark background."""
    pixels = imread(path)[..., :3]
    return (np.ptp(pixels, axis=2) > 0.1).mean()


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


def test_a_seed_gives_the_same_bytes(store, tmp_path):
    """Two pictures with the same seed are equal byte by byte."""
    first, second = (
        show(store, tmp_path / name, count=2, seed=3, dpi=50)
        for name in ("first.png", "second.png")
    )
    assert first.read_bytes() == second.read_bytes()


def test_another_seed_chooses_other_samples(store, tmp_path):
    """The seed determines which samples are drawn, each at most once."""
    chosen = [drawn_samples(store, tmp_path, count=4, seed=seed) for seed in (0, 1, 0)]
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
        drawn = drawn_samples(store, tmp_path, count=1, seed=seed)
        assert drawn == [labelled]


def test_a_count_above_the_size_of_the_store_draws_all(tmp_path):
    """If the store has fewer samples than `count`, each is drawn once."""
    small = build(make_phantom(tmp_path / "study", **SMALL))
    drawn = drawn_samples(small, tmp_path, count=99)
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
    for index in range(len(stores[0])):
        for window in ("percentiles", "header"):
            grey, negative = (
                drawn_pixels(draw_panels(store, index, window=window)[0]).astype(int)
                for store in stores
            )
            assert (grey.min(), np.ptp(grey) > 200) == (0, True)
            # Both are rounded.
            assert abs(grey + negative - 255).max() <= 1


def test_samples_are_chosen_by_patient_and_class(store, tmp_path):
    """All conditions are met, and no other class is drawn."""
    options = {"patients": "PHANTOM0002", "classes": ["ocontour", "p1contour"]}
    texts = texts_of(store, tmp_path, count=99, **options)
    drawn = [int(text.split()[0][1:]) for text in texts if text.startswith("#")]
    expected = store.select(match="any", **options)
    assert drawn == expected.tolist()
    assert len(drawn) < len(store.select(patients="PHANTOM0002"))
    assert texts[-2:] == ["ocontour", "p1contour"]
    axes = draw_panels(store, drawn[0], classes=options["classes"])
    colours = {patch.get_edgecolor() for patch in axes[-1].patches}
    assert len(colours) == 2


def test_indices_are_drawn_in_their_order(store, tmp_path, fastseg_command):
    """All of them by default, or the first ones; those of another patient are not."""
    assert drawn_samples(store, tmp_path, indices=[9, 2, 30, 4, 11]) == [
        9,
        2,
        30,
        4,
        11,
    ]
    assert drawn_samples(store, tmp_path, indices=[9, 2], count=1) == [9]
    assert drawn_samples(store, tmp_path, indices=[9, 2], patients="PHANTOM0001") == [2]
    words = ["--index", 9, "--index", 2, "--class", "icontour", "--window=-100,900"]
    run = fastseg_command("show", store.path, *words, "--zoom", "-o", "a.png")
    assert (run.returncode, run.stdout) == (0, "a.png: 2 of 32 samples\n"), run.stderr


def test_samples_are_drawn_in_the_order_of_the_store(store, tmp_path):
    """Chosen at random, but neighbours in the store are neighbours in the picture."""
    drawn = drawn_samples(store, tmp_path, count=8, seed=5)
    assert drawn == sorted(drawn)


def test_what_the_store_lacks_is_refused(store, tmp_path):
    """An unknown class or patient, an index beyond the store, and no sample at all."""
    for options, error, text in (
        ({"classes": "icontuor"}, UnknownClassError, "icontour"),
        ({"patients": "Z"}, OptionError, "PHANTOM0001"),
        ({"indices": [32]}, OptionError, "expected 0 to 31"),
        ({"indices": [0], "patients": "PHANTOM0002"}, OptionError, "no sample meets"),
    ):
        with pytest.raises(error, match=text):
            show(store, tmp_path / "a.png", **options)
    assert not list(tmp_path.iterdir())


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


def test_the_overlay_is_as_bright_as_the_image(store):
    """Outside of all classes it equals the image; inside, a colour shines through."""
    index = int(store.select(classes=["icontour", "p1contour"])[0])
    image, flat, overlay = (
        drawn_pixels(axis).astype(int) for axis in draw_panels(store, index)
    )
    covered = store[index].mask != 0
    assert_array_equal(overlay[~covered], image[~covered])
    assert_array_equal(flat[~covered], 0)
    blend = (1 - OVERLAY_OPACITY) * image + OVERLAY_OPACITY * flat
    assert abs(overlay - blend)[covered].max() <= 0.5
    # The small class lies on top of the one around it.
    small = store[index].mask_of("p1contour")
    expected = PALETTE[1 + store.class_index("p1contour")]
    assert (flat[small] == expected).all()


def test_outlines_are_the_stored_contours(store):
    """Every vertex lies where the store says, with pixel centres at integers."""
    index = int(store.select(classes="ocontour")[0])
    axis = draw_panels(store, index, classes=["ocontour"])[-1]
    (ring,) = store[index].contours["ocontour"]
    (patch,) = axis.patches
    assert_array_equal(patch.get_xy()[:-1], ring)
    height, width = store[index].image.shape
    assert axis.get_xlim() == (-0.5, width - 0.5)
    assert axis.get_ylim() == (height - 0.5, -0.5)
    assert axis.images[0].get_extent() == [-0.5, width - 0.5, height - 0.5, -0.5]


def test_a_sample_that_nobody_outlined_says_so(study, tmp_path):
    """Its mask is no background: the panel says "not outlined"."""
    store = build(study, keep_unlabelled=True)
    bare = np.flatnonzero(store.items["labelled"] == 0)[:1]
    assert texts_of(store, tmp_path, indices=bare).count("not outlined") == 1
    assert "not outlined" not in texts_of(store, tmp_path, count=1)


def test_a_zoom_shows_all_contours_in_a_square(tmp_path):
    """It is square in millimetres, holds every contour, and lies in the image."""
    ring = [(30, 5), (60, 5), (60, 15), (30, 15)]
    images = [np.zeros((40, 120))]
    store = make_store(tmp_path, images, {"a": ring}, PixelSpacing=[2, 1])
    axis = draw_panels(store, 0, zoom=True)[0]
    left, right = axis.get_xlim()
    bottom, top = axis.get_ylim()
    assert left < 30
    assert right > 60
    assert (top, bottom) == (-0.5, 23.5)
    assert right - left == pytest.approx(2 * (bottom - top), abs=2)
    assert axis.get_box_aspect() == pytest.approx(1, abs=0.05)
    assert drawn_pixels(axis).shape == (bottom - top, right - left, 3)


def test_a_zoom_without_contours_shows_all(study):
    """An image that nobody outlined is shown whole."""
    store = build(study, keep_unlabelled=True)
    (bare,) = np.flatnonzero(store.items["labelled"] == 0)[:1].tolist()
    shape = drawn_pixels(draw_panels(store, bare, zoom=True)[0]).shape
    assert shape[:2] == store[bare].image.shape


def test_versions_are_zoomed_alike(store):
    """The crop has the same size around moved contours, so that scales compare."""
    view = _View(store, (0,), "auto", True, 1000)
    spacing = store.items["spacing_mm"][0]
    ring = np.array([(10.0, 10.0), (14.0, 10.0), (14.0, 14.0)])
    first = _crop(view, (96, 96), [(0, ring)], spacing)
    size = (first.right - first.left, first.bottom - first.top)
    assert size == (16, 16)
    moved = _crop(view, (96, 96), [(0, ring * 5 + 20)], spacing, size)
    assert (moved.right - moved.left, moved.bottom - moved.top) == size
    assert moved.left < 80 < moved.right


@pytest.mark.parametrize(
    ("spacing", "shape", "length"),
    [
        ((1, 1), (100, 200), 50),
        ((3, 0.5), (100, 400), 50),
        ((0.01, 0.01), (30, 30), 0.05),
        ((1, 2), (1, 1), 0.5),
        ((np.nan, np.nan), (50, 50), None),
        ((1e-9, 1.0), (50, 50), None),
        ((1, 1), (2, 400), None),
    ],
)
def test_the_scale_bar_is_as_long_as_it_says(spacing, shape, length):
    """Along a row, where the spacing between columns counts; none if it is unknown."""
    height, width = shape
    axis = Figure().add_axes((0, 0, 1, 1))
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_box_aspect(height / width)
    _draw_scale_bar(axis, np.array(spacing, float))
    assert axis.get_xlim() == (-0.5, width - 0.5)
    if length is None:
        assert not axis.lines
        assert not axis.texts
        return
    (bar,), (text,) = axis.lines, axis.texts
    assert text.get_text() == f"{length:g} mm"
    start, end = bar.get_xdata()
    assert (end - start) * width * spacing[1] == pytest.approx(length)


def test_many_classes_differ_in_colour_or_line():
    """As many classes as a store holds can be told apart by their outlines."""
    styles = {(colour_of(k), str(_line_style(k))) for k in range(MAX_CLASSES)}
    assert len(styles) == MAX_CLASSES


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


def test_large_images_are_thinned(tmp_path):
    """At most about so many rows and columns are drawn, in their positions."""
    pixels = np.add.outer(np.arange(300), np.zeros(90))
    store = make_store(tmp_path, [pixels], Modality="MR")
    (axis,) = draw_panels(store, 0, window=(0, 255), most=100)
    drawn = drawn_pixels(axis)
    assert drawn.shape == (100, 90, 3)
    # Of three rows, the one in the middle is drawn.
    assert_array_equal(drawn[:80, 0, 0], np.arange(1, 240, 3))
    assert axis.images[0].get_extent() == [-0.5, 89.5, 299.5, -0.5]


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
