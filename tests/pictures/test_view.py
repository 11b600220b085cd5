"""Which part of an image is shown, and how many of its pixels."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from fastseg.pictures.view import View, crop_to
from tests.pictures.helpers import build, draw_panels, drawn_pixels, make_store


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
    view = View(store, (0,), "auto", True, 1000)
    spacing = store.items["spacing_mm"][0]
    ring = np.array([(10.0, 10.0), (14.0, 10.0), (14.0, 14.0)])
    first = crop_to(view, (96, 96), [(0, ring)], spacing)
    size = (first.right - first.left, first.bottom - first.top)
    assert size == (16, 16)
    moved = crop_to(view, (96, 96), [(0, ring * 5 + 20)], spacing, size)
    assert (moved.right - moved.left, moved.bottom - moved.top) == size
    assert moved.left < 80 < moved.right


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
