"""Panels: image, mask and both of a sample, its augmented versions, or planes.

Pixel centres are at integers, so that contours are drawn by their vertices.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.augment import Compose
from fastseg.augment.mapping import MappingArrays
from fastseg.colours import COLOURS, colour_of, rgb_of
from fastseg.loading.augmented import AugmentedPreprocessing
from fastseg.loading.format import BatchFormat
from fastseg.pictures.planes import VolumePlane, opposite
from fastseg.pictures.style import DETAIL_POINTS, GREY, WHITE, line_style
from fastseg.pictures.view import Crop, Ring, View, aspect_of, crop_to, rings_of
from fastseg.pictures.window import Limits, find_limits, normalize_limits, to_grey
from fastseg.raster.rings import join_rings
from fastseg.store.reader import Sample
from fastseg.store.volumes import Volume

# Augmented versions of each sample.
VERSIONS = 6
# Opacity of a mask over the image, and of the dark rim of outlines, which keeps them
# visible on a bright image.
OVERLAY_OPACITY = 0.27
RIM = (0, 0, 0, 0.7)
OUTLINE_POINTS, RIM_POINTS = 1.3, 2.7
# Black, and the colours of the classes.
PALETTE = np.rint(
    255 * np.array([(0, 0, 0), *map(rgb_of, range(len(COLOURS)))])
).astype(np.uint8)
# A scale bar is at most so long, as a fraction of the panel.
BAR = 0.3
BAR_POINTS = 2.5
BAR_END, BAR_Y = 0.96, 0.05  # offsets from the lower left corner of a panel
# The lines where other planes cross one of a volume, and offsets of letters from the
# lower left corner of a panel.
CROSSING_POINTS, CROSSING_OPACITY = 0.7, 0.4
LETTER_AT = {"left": 0.02, "right": 0.98, "center": 0.5, "top": 0.98, "bottom": 0.02}
# Images of no more rows and columns are enlarged smoothly, most of them by three or
# more: one would see squares and no anatomy. Masks are drawn pixel by pixel.
SMOOTH_PIXELS = 128
# A panel that is so many times as long as wide, or as wide as long, has no scale bar.
LONG_PANEL = 5
# An image whose sides differ by more than this factor is drawn thicker than it is, or
# it would vanish.
LONGEST_PANEL = 40


def draw_sample(axes: Any, view: View, sample: Sample) -> Limits:
    """Draw image, mask, and image with both; return the values of black and white."""
    items = view.store.items
    slope, intercept, spacing = (
        items[name][sample.index] for name in ("slope", "intercept", "spacing_mm")
    )
    rings = rings_of(view, sample.contours)
    image = sample.image
    crop = crop_to(view, image.shape, rings, spacing)
    image = crop.cut(image, view)
    limits = find_limits(view.window, sample.meta, image)
    black, white = ((value - intercept) / slope for value in limits)
    grey = to_grey(image, black, white)
    place = (crop, crop.steps(view), spacing)
    _draw_image(axes[0], grey, *place)
    if len(axes) > 1:
        labels = _labels(crop.cut(sample.mask, view), view.bits)
        _draw_pixels(axes[1], PALETTE[labels], *place)
        _draw_image(axes[2], grey, *place)
        _draw_pixels(axes[2], _translucent(labels), *place)
    draw_scale_bar(axes[0], spacing)
    if len(axes) > 1 and rings:
        _draw_contours(axes[-1], rings)
    elif len(axes) > 1:
        text = axes[1].text(0.5, 0.5, "not outlined", color=GREY, size=DETAIL_POINTS)
        text.set(transform=axes[1].transAxes, ha="center", clip_on=True)
    return limits


def draw_versions(
    axes: Any, view: View, sample: Sample, compose: Compose, seed: int
) -> Limits:
    """Draw a sample without augmentation, then as augmented in the first epochs.

    The same values are black and white in all of them, so that changes of brightness
    and contrast are visible. Returns these.
    """
    store = view.store
    chosen = np.array([sample.index])
    unchanged, augmented = (
        AugmentedPreprocessing(store, chosen, BatchFormat(augment=steps), seed=seed)
        for steps in (Compose([]), compose)
    )
    rings = rings_of(view, sample.contours)
    spacing = store.items["spacing_mm"][sample.index]
    original = sample.image
    crop = crop_to(view, original.shape, rings, spacing)
    limits = find_limits(view.window, sample.meta, crop.cut(original, view))
    black, white = normalize_limits(sample, limits)
    size = (crop.right - crop.left, crop.bottom - crop.top)
    versions = [(unchanged, 0), *((augmented, epoch) for epoch in range(VERSIONS))]
    for axis, (preprocessing, epoch) in zip(axes, versions, strict=True):
        image = np.empty((1, *preprocessing.image_shape), np.float32)
        mask = np.empty((1, *preprocessing.mask_shape), preprocessing.mask_dtype)
        preprocessing.fill(chosen, image, mask, epoch)
        drawn = preprocessing.draw(chosen, epoch)
        shown = preprocessing.locate(chosen, epoch)
        mappings = preprocessing.find_mappings(shown, drawn)
        spacing = mappings.spacing_mm[0]
        moved = _move_contours(sample.contours, mappings.arrays(drawn.key))
        rings = rings_of(view, moved)
        crop = crop_to(view, image.shape[2:], rings, spacing, size)
        grey = to_grey(crop.cut(image[0, 0], view), black, white)
        _draw_image(axis, grey, crop, crop.steps(view), spacing)
        _draw_contours(axis, rings)
        if preprocessing is unchanged:
            draw_scale_bar(axis, spacing)
    return limits


def _move_contours(
    contours: Mapping[str, list[Ring]], mapping: MappingArrays
) -> dict[str, list[Ring]]:
    """Return the rings of a sample in pixels of its augmented image."""
    moved = {}
    for name, rings in contours.items():
        points, offsets = mapping.move_rings(*join_rings(rings))
        moved[name] = np.split(points, offsets[1:-1])
    return moved


def draw_planes(
    axes: Any, view: View, volume: Volume, planes: Sequence[VolumePlane]
) -> Limits:
    """Draw planes, with masks and outlines; return the values of black and white."""
    # The planes have image values: one window for all slices, whatever their slopes.
    meta = view.store[volume.samples[0]].meta | {"slope": 1.0, "intercept": 0.0}
    images = [plane.crop.cut(plane.values, view) for plane in planes]
    pixels = np.concatenate([image.ravel() for image in images])
    limits = find_limits(view.window, meta, pixels)
    for axis, plane, image in zip(axes, planes, images, strict=True):
        place = (plane.crop, plane.crop.steps(view), plane.spacing_mm)
        _draw_image(axis, to_grey(image, *limits), *place)
        labels = _labels(plane.crop.cut(plane.mask, view), view.bits)
        _draw_pixels(axis, _translucent(labels), *place)
        _draw_contours(axis, plane.rings)
        _draw_directions(axis, plane)
    draw_scale_bar(axes[0], planes[0].spacing_mm)
    return limits


def sizes_of(axes: Any, planes: Sequence[VolumePlane]) -> list[tuple[float, float]]:
    """Return width and height of panels of planes in mm, none of them too thin."""
    widths = [
        float(plane.spacing_mm[1]) * (plane.crop.right - plane.crop.left)
        for plane in planes
    ]
    return [
        (width, width * axis.get_box_aspect())
        for width, axis in zip(widths, axes, strict=True)
    ]


def _draw_directions(axis: Any, plane: VolumePlane) -> None:
    """Draw where the other planes cross, and letters of the patient's directions."""
    from matplotlib.patheffects import withStroke

    x, y = plane.crossing
    line = {"color": WHITE, "alpha": CROSSING_OPACITY, "linewidth": CROSSING_POINTS}
    axis.axvline(x, **line)
    axis.axhline(y, **line)
    right, down = plane.letters
    for text, across, up in (
        (opposite(right), "left", "center"),
        (right, "right", "center"),
        (opposite(down), "center", "top"),
        (down, "center", "bottom"),
    ):
        at = axis.text(LETTER_AT[across], LETTER_AT[up], text, color=WHITE)
        at.set(fontsize=DETAIL_POINTS, ha=across, va=up, transform=axis.transAxes)
        at.set_path_effects([withStroke(linewidth=BAR_POINTS, foreground=RIM)])


def _translucent(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the colours of labels with their opacity, uint8 (h, w, 4)."""
    opacity = np.where(labels > 0, round(255 * OVERLAY_OPACITY), 0)
    return np.dstack([PALETTE[labels], opacity.astype(np.uint8)])


def _labels(mask: NDArray[Any], bits: Sequence[int]) -> NDArray[np.uint8]:
    """Return the index into PALETTE of each pixel, uint8 (h, w).

    The smallest region lies on top, so that one inside another stays visible.
    """
    labels = np.zeros(mask.shape, np.uint8)
    regions = [(mask & mask.dtype.type(1 << k)) != 0 for k in bits]
    for n in np.argsort([-r.sum() for r in regions], kind="stable").tolist():
        labels[regions[n]] = 1 + bits[n] % len(COLOURS)
    return labels


def _draw_image(
    axis: Any,
    grey: NDArray[np.uint8],
    crop: Crop,
    steps: tuple[int, int],
    spacing_mm: NDArray[np.float64],
) -> None:
    """Draw a part of an image, enlarged smoothly.

    grey  : uint8 (h, w, 1)
    steps : between its rows and columns, in pixels of the image
    """
    rows, columns, _ = grey.shape
    smooth = "bicubic" if max(rows, columns) <= SMOOTH_PIXELS else "antialiased"
    picture = np.broadcast_to(grey, (rows, columns, 3))
    _draw_pixels(axis, picture, crop, steps, spacing_mm, smooth)


def _draw_pixels(
    axis: Any,
    picture: NDArray[np.uint8],
    crop: Crop,
    steps: tuple[int, int],
    spacing_mm: NDArray[np.float64],
    interpolation: str = "antialiased",
) -> None:
    """Draw a part of a picture so that pixel centres are at integers.

    picture       : uint8 (h, w, 3) or with opacity (h, w, 4)
    steps         : as for `_draw_image`
    interpolation : as matplotlib names it; "antialiased" leaves the pixels of what is
        enlarged as they are
    """
    left, top, right, bottom = (side - 0.5 for side in crop)
    rows, columns, _ = picture.shape
    down, across = steps
    axis.imshow(
        picture,
        extent=(left, left + columns * across, top + rows * down, top),
        interpolation=interpolation,
    )
    axis.set_axis_off()
    axis.set_xlim(left, right)
    axis.set_ylim(bottom, top)
    axis.set_aspect("auto")
    ratio = (bottom - top) * aspect_of(spacing_mm) / (right - left)
    axis.set_box_aspect(min(max(ratio, 1 / LONGEST_PANEL), LONGEST_PANEL))


def _draw_contours(axis: Any, rings: Sequence[tuple[int, Ring]]) -> None:
    from matplotlib.patches import Polygon
    from matplotlib.patheffects import withStroke

    rim = withStroke(linewidth=RIM_POINTS, foreground=RIM)
    for k, ring in rings:
        outline = Polygon(ring, fill=False, edgecolor=colour_of(k))
        outline.set(linewidth=OUTLINE_POINTS, linestyle=line_style(k))
        outline.set_path_effects([rim])
        axis.add_patch(outline)


def draw_scale_bar(axis: Any, spacing_mm: NDArray[np.float64]) -> None:
    """Draw a bar of a round length, if the spacing says how long that is."""
    from matplotlib.patheffects import withStroke

    rows, columns = spacing_mm.tolist()
    is_known = rows > 0 and columns > 0 and aspect_of(spacing_mm) == rows / columns
    if not (is_known and 1 / LONG_PANEL < axis.get_box_aspect() < LONG_PANEL):
        return
    left, right = axis.get_xlim()
    width = (right - left) * columns
    decade = 10.0 ** math.floor(math.log10(width * BAR))
    length = max(n * decade for n in (1, 2, 5) if n * decade <= width * BAR)
    start = BAR_END - length / width
    (bar,) = axis.plot([start, BAR_END], [BAR_Y, BAR_Y], color=WHITE, scalex=False)
    bar.set(linewidth=BAR_POINTS, solid_capstyle="butt", transform=axis.transAxes)
    text = axis.text(BAR_END, BAR_Y + 0.02, f"{length:g} mm", color=WHITE)
    text.set(fontsize=DETAIL_POINTS, ha="right", va="bottom", transform=axis.transAxes)
    for artist in (bar, text):
        artist.set_path_effects([withStroke(linewidth=BAR_POINTS + 2, foreground=RIM)])
