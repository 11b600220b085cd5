"""Panels: colours, outlines and scale bars lie where they belong."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.testing import assert_allclose, assert_array_equal

import fastseg
from fastseg import show
from fastseg.colours import colour_of
from fastseg.pictures.panels import (
    OVERLAY_OPACITY,
    PALETTE,
    draw_planes,
    draw_scale_bar,
    sizes_of,
)
from fastseg.pictures.planes import orthogonal_planes
from fastseg.pictures.style import line_style
from fastseg.pictures.view import View
from fastseg.store.layout import MAX_CLASSES
from tests.pictures.helpers import (
    build,
    draw_panels,
    drawn_pixels,
    make_store,
    texts_of,
)
from tests.series import table_of, write_image


def test_the_overlay_is_as_bright_as_the_image(store):
    """Outside of all classes it equals the image; inside, a colour shines through."""
    index = int(store.select(classes=["icontour", "p1contour"])[0])
    axes = draw_panels(store, index)
    image, flat, below = map(drawn_pixels, axes)
    above = np.asarray(axes[2].images[1].get_array())
    covered = store[index].mask != 0
    assert_array_equal(below, image)
    assert_array_equal(flat[~covered], 0)
    assert_array_equal(above[..., :3], flat)
    assert_array_equal(above[..., 3], np.where(covered, 69, 0))
    assert pytest.approx(69 / 255, abs=0.5 / 255) == OVERLAY_OPACITY
    # The small class lies on top of the one around it.
    small = store[index].mask_of("p1contour")
    expected = PALETTE[1 + store.class_index("p1contour")]
    assert (flat[small] == expected).all()


def test_images_are_enlarged_smoothly_and_masks_are_not(store, tmp_path):
    """Ten pixels fill a panel: greys between theirs are drawn, but no other colours."""
    ring = [(2, 2), (7, 2), (7, 7), (2, 7)]
    pixels = np.add.outer(np.zeros(10), np.arange(10) % 2)
    small = make_store(tmp_path, [pixels], {"a": ring}, Modality="MR")
    path = show(small, tmp_path / "a.png", window=(0, 1), dpi=100)
    drawn = np.rint(imread(path)[100:400, :, :3] * 255).astype(int)
    image, mask = drawn[:, 20:350], drawn[:, 370:700]
    colours = {tuple(colour) for colour in mask.reshape(-1, 3).tolist()}
    assert colours == {(0, 0, 0), tuple(PALETTE[1].tolist())}
    assert len(np.unique(image)) > 100


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
    draw_scale_bar(axis, np.array(spacing, float))
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
    styles = {(colour_of(k), str(line_style(k))) for k in range(MAX_CLASSES)}
    assert len(styles) == MAX_CLASSES


def draw_planes_of(store, bits, window="auto", most=10**6):
    """Return the axes on which planes of the first volume are drawn, and the planes."""
    view = View(store, bits, window, False, most)
    planes = orthogonal_planes(view, store.volumes[0])
    axes = [Figure().add_axes((0, 0, 1, 1)) for _ in planes]
    draw_planes(axes, view, store.volumes[0], planes)
    return axes, planes


def test_planes_of_a_volume_have_one_scale(store):
    """Each is as large as its voxels say in mm, and shows values by one window."""
    axes, planes = draw_planes_of(store, (0,), (0, 700))
    volume = store.volumes[0]
    d, h, w = (np.array(volume.shape) * volume.spacing_mm).tolist()
    sizes = sizes_of(axes, planes)
    assert_allclose(sizes, [(w, h), (w, d), (h, d)])
    for axis, plane, (width, height) in zip(axes, planes, sizes, strict=True):
        assert axis.get_box_aspect() == pytest.approx(height / width)
        greys = np.rint(plane.values / 700 * 255).clip(0, 255)
        assert_array_equal(drawn_pixels(axis), np.dstack([greys] * 3))
        above = np.asarray(axis.images[1].get_array())
        assert_array_equal(above[..., 3] > 0, plane.mask & 1 == 1)
        assert len(axis.patches) == len(plane.rings) > 0
    # Left, right, top, bottom; the first panel has a scale bar as well.
    letters = [[text.get_text() for text in axis.texts[:4]] for axis in axes]
    assert letters == [[*"RLAP"], [*"RLHF"], [*"APHF"]]


def test_flat_volumes_are_drawn(tmp_path):
    """Thin slices are drawn thicker than they are: no panel of them vanishes."""
    for k in (0, 1):
        write_image(
            tmp_path / f"{k}.dcm",
            np.full((200, 300), 7 + k),
            ImagePositionPatient=[0, 0, 0.5 * k],
            PixelSpacing=[1, 1],
        )
    store = fastseg.open(fastseg.build(table_of(tmp_path), tmp_path / "s.h5").path)
    sizes = sizes_of(*draw_planes_of(store, ()))
    assert_allclose(sizes, [(300, 200), (300, 300 / 40), (200, 200 / 40)])
    show(store, tmp_path / "a.png", volume=0)


def test_large_volumes_are_thinned(store):
    """Planes of more pixels than the picture has are drawn with some of them."""
    axes, _ = draw_planes_of(store, (0,), most=24)
    shapes = [drawn_pixels(axis).shape for axis in axes]
    assert shapes == [(24, 24, 3), (4, 24, 3), (4, 24, 3)]
