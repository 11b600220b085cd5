"""Pictures of samples: image, mask and contours, or augmented versions.

A picture is made of blocks, one for each sample: lines of text, and below them its
panels. Sizes and offsets on the figure are in inches.
"""

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg import __version__
from fastseg.augment import Compose, Transform, as_compose
from fastseg.augment.mapping import pixel_ratios
from fastseg.bounds import MAX_DECIMAL, MAX_SPACING_RATIO
from fastseg.calls import check_call
from fastseg.choices import Window
from fastseg.colours import COLOURS, colour_of, rgb_of
from fastseg.errors import (
    OptionError,
    in_order,
    missing_extra,
    one_of,
    real_number,
    shown,
    true_or_false,
    whole_number,
)
from fastseg.loading.augmented import AugmentedPreprocessing
from fastseg.loading.format import BatchFormat
from fastseg.loading.orders import check_seed, epoch_order
from fastseg.outputs import check_input, check_target, write_atomically
from fastseg.paths import StrPath, as_path
from fastseg.progress import Advance, Progress, silent
from fastseg.reprs import short
from fastseg.store.reader import Sample, Store, as_store
from fastseg.store.selection import has_class

# Samples that are drawn if nobody says how many.
COUNT = 4
# Augmented versions of each sample.
VERSIONS = 6
# Most pixels of a picture in a row or column: many viewers open no larger ones.
MAX_SIDE = 2**15

DARK = "#16181d"
WHITE = "#f2f2f2"
GREY = "#9aa3ad"
# Opacity of a mask over the image, and of the dark rim of outlines, which keeps them
# visible on a bright image.
OVERLAY_OPACITY = 0.27
RIM = (0, 0, 0, 0.7)
OUTLINE_POINTS, RIM_POINTS = 1.3, 2.7
# Outlines of the classes for which the colours come again.
LINE_STYLES = ("solid", (0, (4, 1.6)), (0, (1, 1.3)), (0, (5, 1.3, 1, 1.3)))

# Longest side of a panel: image, mask and overlay; and with augmented versions.
PANEL = 3.4
VERSION_PANEL = 2.2
# Blocks in a row, where the only panel of a block is the image.
COLUMNS = 3
# A panel takes at least this fraction of its longest side as width.
NARROWEST = 0.6
MARGIN = 0.15
GAP = 0.1
ROW_GAP = 0.22
NAME_POINTS, DETAIL_POINTS, HEADING_POINTS, LEGEND_POINTS = 12, 9.5, 11, 11
HEADING_HEIGHT = 0.24
NAME_HEIGHT = 0.25
DETAIL_HEIGHT = 0.2
LEGEND_HEIGHT = 0.27
# The width in the legend of all but the name of a class.
LEGEND_INDENT = 0.8
# Lines of details, at most.
DETAIL_LINES = 3
# Mean width of a character, in units of the font size.
CHARACTER = 0.62
POINTS = 72  # in an inch
SEPARATOR = "  \u00b7  "
# Characters of a series' UID that are shown: the last ones.
SERIES = 8

# A scale bar is at most so long, as a fraction of the panel.
BAR = 0.3
BAR_POINTS = 2.5
BAR_END, BAR_Y = 0.96, 0.05  # offsets from the lower left corner of a panel
# A window that is chosen from the header must show at least this fraction of the
# pixels as greys between black and white.
LEAST_GREYS = 0.01
# The window of soft tissue, in Hounsfield units: of CT without one in the header.
SOFT_TISSUE = (-160.0, 240.0)
ROBUST_PERCENTS = (0.5, 99.5)
# A zoom shows this many times what is labelled, and at least so many pixels.
ZOOM_MARGIN = 1.6
ZOOM_PIXELS = 16
# Of an image with more pixels for one of the picture, some rows and columns are left
# out: 16 times as many are enough for matplotlib to average.
OVERSAMPLING = 4
# A panel that is so many times as long as wide, or as wide as long, has no scale bar.
LONG_PANEL = 5
# An image whose sides differ by more than this factor is drawn thicker than it is, or
# it would vanish.
LONGEST_PANEL = 40

WINDOWS = get_args(Window)

# Name in the metadata of a picture, and the field that holds it, by format.
SOFTWARE = "fastseg"
METADATA = {".png": "Software", ".pdf": "Creator", ".svg": "Creator"}
# The metadata stand within so many bytes of the begin or the end of a picture.
METADATA_BYTES = 2**16
# What a picture of each format begins with, and what stands before the metadata.
MARKS = (
    (b"\x89PNG\r\n\x1a\n", b"tEXtSoftware\0"),
    (b"%PDF-", b"/Creator ("),
    (b"<?xml", b"<dc:creator>\n     <cc:Agent>\n      <dc:title>"),
)


class _PictureKind:
    """The kind of output that `show` writes, see `outputs.Kind`."""

    name = "a picture"

    def recognises(self, file: FileIO) -> bool:
        """Return whether a file is a picture with fastseg in its metadata."""
        data = file.read(METADATA_BYTES)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - METADATA_BYTES, 0))  # where a PDF has it
        data += file.read()
        return any(
            data.startswith(start) and mark + SOFTWARE.encode() + b" " in data
            for start, mark in MARKS
        )


PICTURE = _PictureKind()

# The image values that are black and white.
Limits = tuple[float, float]
# Vertices (x, y) in pixels, float64 (n, 2).
Ring = NDArray[np.float64]
# Black, and the colours of the classes.
PALETTE = np.rint(
    255 * np.array([(0, 0, 0), *map(rgb_of, range(len(COLOURS)))])
).astype(np.uint8)


@check_call("show(store, 'picture.png')")
def show(
    store: Store | StrPath,
    output: StrPath,
    *,
    count: int | None = None,
    patients: str | Sequence[str] | None = None,
    classes: str | Sequence[str] | None = None,
    indices: ArrayLike | None = None,
    window: Window | tuple[float, float] = "auto",
    zoom: bool = False,
    seed: int = 0,
    augment: Compose | Sequence[Transform] | str | None = None,
    dpi: float = 110,
    force: bool = False,
    progress: Progress = silent,
) -> Path:
    """Draw samples, one below the other, and return the picture's path.

    The panels of a sample are the image, the mask, and the image with both: a
    translucent mask, and the contours as outlines. Above them stand its index, patient,
    modality, series, position, time, file and window. Of a store without classes, the
    image alone is drawn, three in a row. Lengths are those in millimetres: a pixel is
    as much higher than wide as the spacing says, with a scale bar, and a square without
    one if the spacing is unknown.

    store   : a store, as `fastseg.open` returns it, or the path of one
    output  : path of the picture; the suffix sets the format (.png, .pdf, .svg)
    count   : number of samples, by default 4, or all that `indices` names. They are
        chosen at random, samples with contours before others, and drawn in the order of
        the store. All are drawn if there are fewer
    patients : only samples of one of these patients
    classes : only samples with a contour of one of these classes; no other is drawn
    indices : only these samples, in this order
    window  : the values that are black and white. "header" takes the window of the
        image's header, "percentiles" the 0.5th and 99.5th percentile of what is shown,
        and (low, high) two image values, such as Hounsfield units. "auto" takes for CT
        the header's window, or -160 to 240 if there is none, for all else the
        percentiles. Percentiles also stand in for a window that the header lacks, or
        ("auto") that would leave less than 1 % of the pixels between black and white
    zoom    : show what is labelled, with a margin; a sample without it is shown whole
    seed    : of the random choice of samples, and of the augmentation
    augment : transforms, as `Loader` takes them. The panels are then the original and
        six augmented versions of it, each with its contours
    dpi     : pixels per inch; a panel is 3.4 inches wide or high, augmented 2.2
    force   : replace any file; otherwise only a picture that `show` has drawn, or an
        empty file
    progress : reports how far it is, see `fastseg.progress`

    If `output` is a symbolic link, the picture is written where it points, and that
    path is returned. Raises MissingExtraError without matplotlib, OutputError if a file
    would be replaced that is something else, UnknownClassError, OptionError, also if no
    sample meets the conditions, or for more samples than a picture can hold.
    """
    dpi = real_number("dpi", dpi)
    zoom = true_or_false("zoom", zoom)
    window = _check_window(window)
    compose = None if augment is None else as_compose(augment)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("drawing pictures", "show") from None
    store = as_store(store)
    path = as_path("output", output)
    suffix = path.suffix.lower()
    if suffix not in METADATA:
        example = f"{path.parent / path.stem}.png" if path.suffix else f"{path}.png"
        raise OptionError(
            f"{path}: expected the name of a picture that ends with "
            f"{', '.join(METADATA)}, as in {example}"
        )
    check_input(path, store.path, "the store", PICTURE)
    check_target(path, PICTURE, force)
    chosen = choose_samples(
        store,
        count=count,
        patients=patients,
        classes=classes,
        indices=indices,
        seed=seed,
    )
    wanted = store.classes if classes is None else classes
    wanted = [wanted] if isinstance(wanted, str) else wanted
    bits = tuple(sorted({store.class_index(name) for name in wanted}))
    if compose is not None:
        headings = ["original", *(f"epoch {k}" for k in range(VERSIONS))]
    else:
        headings = ["image", "mask", "mask and contours"][: 3 if bits else 1]
    panel = PANEL if compose is None else VERSION_PANEL
    labelled = store.items["labelled"][chosen]
    legend = {k: short(store.classes[k]) for k in bits if has_class(labelled, k).any()}
    layout = _Layout(samples=len(chosen), headings=headings, panel=panel, legend=legend)
    layout.check_size(dpi)
    figure = Figure(facecolor=DARK)
    FigureCanvasAgg(figure)
    view = _View(store, bits, window, zoom, math.ceil(OVERSAMPLING * panel * dpi))
    blocks = []
    with progress("draw", len(chosen)) as advance:
        for index in chosen.tolist():
            axes = [figure.add_axes((0, 0, 1, 1)) for _ in headings]
            sample = store[index]
            if compose is None:
                limits = _draw_sample(axes, view, sample)
            else:
                limits = _draw_versions(axes, view, sample, compose, seed)
            name = f"#{index}  {short(sample.patient)}"
            blocks.append(_Block(axes, name, _details(sample, limits)))
            advance()
    layout.arrange(figure, blocks)
    metadata = {METADATA[suffix]: f"{SOFTWARE} {__version__}"}
    with (
        write_atomically(path, PICTURE, force) as (target, file),
        progress("write", len(blocks)) as advance,
        warnings.catch_warnings(),
    ):
        # A name may have characters that the font lacks: they are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        for block in blocks:
            _report_drawing(block.axes[0], advance)
        try:
            figure.savefig(
                file, format=suffix[1:], dpi=dpi, facecolor=DARK, metadata=metadata
            )
        except (ValueError, RuntimeError) as exc:  # a dpi that is too small
            raise OptionError(f"{path}: dpi is {dpi:g}: {exc}") from None
    return target


def choose_samples(
    store: Store,
    *,
    count: int | None,
    patients: str | Sequence[str] | None,
    classes: str | Sequence[str] | None,
    indices: ArrayLike | None,
    seed: int,
) -> NDArray[np.int64]:
    """Return the samples that `show` draws with these arguments, in its order."""
    if count is not None:
        count = whole_number("count", count, 1)
    seed = check_seed(seed)
    samples = store.select(
        patients=patients, classes=classes, match="any", indices=indices
    )
    if not len(samples):
        raise OptionError(
            "no sample meets all conditions: patients, classes and indices; give fewer"
        )
    if indices is not None:
        given = np.asarray(indices, np.int64)
        return given[np.isin(given, samples)][:count]
    shuffled = samples[epoch_order(len(samples), seed, 0, shuffle=True)]
    is_unlabelled = store.items["labelled"][shuffled] == 0
    labelled_first = shuffled[np.argsort(is_unlabelled, kind="stable")]
    return np.sort(labelled_first[: count or COUNT])


def _check_window(window: Any) -> Window | tuple[float, float]:
    """Return the option `window`, or raise OptionError."""
    if isinstance(window, str):
        if window in WINDOWS:
            return window  # type: ignore[return-value]
        raise OptionError(one_of("window", window, (*WINDOWS, "(low, high)")))
    expected = "(low, high), two image values, the first one lower"
    try:
        low, high = in_order(window)
    except (TypeError, ValueError):
        raise OptionError(f"window is {shown(window)}, expected {expected}") from None
    limits = real_number("window", low), real_number("window", high)
    if limits[0] >= limits[1]:
        raise OptionError(f"window is {shown(window)}, expected {expected}")
    if max(map(abs, limits)) > MAX_DECIMAL or limits[1] - limits[0] < 1 / MAX_DECIMAL:
        raise OptionError(
            f"window is {shown(window)}, expected image values up to {MAX_DECIMAL:g}, "
            f"at least {1 / MAX_DECIMAL:g} apart"
        )
    return limits


@dataclass(frozen=True, slots=True)
class _View:
    """What is shown of each sample.

    bits        : of the classes that are drawn
    most_pixels : rows and columns of an image that are drawn at most, about
    """

    store: Store
    bits: tuple[int, ...]
    window: Window | tuple[float, float]
    zoom: bool
    most_pixels: int


class _Crop(NamedTuple):
    """The part of an image that is shown: from left and top to before right, bottom."""

    left: int
    top: int
    right: int
    bottom: int

    def steps(self, view: _View) -> tuple[int, int]:
        """Return the distances between the rows and between the columns drawn."""
        height, width = self.bottom - self.top, self.right - self.left
        return max(1, height // view.most_pixels), max(1, width // view.most_pixels)

    def cut(self, image: NDArray[Any], view: _View) -> NDArray[Any]:
        """Return the pixels that are drawn; of several, the one in the middle."""
        down, across = self.steps(view)
        return image[
            self.top + down // 2 : self.bottom : down,
            self.left + across // 2 : self.right : across,
        ]


def _draw_sample(axes: Any, view: _View, sample: Sample) -> Limits:
    """Draw image, mask, and image with both; return the values of black and white."""
    items = view.store.items
    slope, intercept, spacing = (
        items[name][sample.index] for name in ("slope", "intercept", "spacing_mm")
    )
    rings = _rings(view, sample.contours)
    image = sample.image
    crop = _crop(view, image.shape, rings, spacing)
    image = crop.cut(image, view)
    limits = _limits(view.window, sample, image)
    black, white = ((value - intercept) / slope for value in limits)
    grey = _to_grey(image, black, white)
    pictures = [grey]
    if len(axes) > 1:
        labels = _labels(crop.cut(sample.mask, view), view.bits)
        flat = PALETTE[labels]
        overlay = np.repeat(grey, 3, axis=2)
        covered = labels > 0
        blend = (1 - OVERLAY_OPACITY) * grey[covered] + OVERLAY_OPACITY * flat[covered]
        overlay[covered] = np.rint(blend)
        pictures = [grey, flat, overlay]
    for axis, picture in zip(axes, pictures, strict=True):
        _draw_image(axis, picture, crop, crop.steps(view), spacing)
    _draw_scale_bar(axes[0], spacing)
    if len(axes) > 1 and rings:
        _draw_contours(axes[-1], rings)
    elif len(axes) > 1:
        text = axes[1].text(0.5, 0.5, "not outlined", color=GREY, size=DETAIL_POINTS)
        text.set(transform=axes[1].transAxes, ha="center", clip_on=True)
    return limits


def _draw_versions(
    axes: Any, view: _View, sample: Sample, compose: Compose, seed: int
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
    rings = _rings(view, sample.contours)
    spacing = store.items["spacing_mm"][sample.index]
    original = sample.image
    crop = _crop(view, original.shape, rings, spacing)
    limits = _limits(view.window, sample, crop.cut(original, view))
    black, white = _normalized(sample, limits)
    size = (crop.right - crop.left, crop.bottom - crop.top)
    versions = [(unchanged, 0), *((augmented, epoch) for epoch in range(VERSIONS))]
    for axis, (preprocessing, epoch) in zip(axes, versions, strict=True):
        image = np.empty((1, *preprocessing.image_shape), np.float32)
        mask = np.empty((1, *preprocessing.mask_shape), preprocessing.mask_dtype)
        preprocessing.fill(chosen, image, mask, epoch)
        drawn = preprocessing.draw(chosen, epoch)
        spacing = preprocessing.find_mappings(chosen, drawn).spacing_mm[0]
        rings = _rings(view, preprocessing.contours(sample.index, epoch))
        crop = _crop(view, image.shape[2:], rings, spacing, size)
        grey = _to_grey(crop.cut(image[0, 0], view), black, white)
        _draw_image(axis, grey, crop, crop.steps(view), spacing)
        _draw_contours(axis, rings)
        if preprocessing is unchanged:
            _draw_scale_bar(axis, spacing)
    return limits


def _rings(view: _View, contours: Mapping[str, list[Ring]]) -> list[tuple[int, Ring]]:
    """Return the rings of the classes that are drawn, each with its class."""
    names = view.store.classes
    return [(k, ring) for k in view.bits for ring in contours.get(names[k], ())]


def _crop(
    view: _View,
    shape: tuple[int, ...],
    rings: Sequence[tuple[int, Ring]],
    spacing_mm: NDArray[np.float64],
    size: tuple[int, int] | None = None,
) -> _Crop:
    """Return the part of an image that is shown: all of it, or around its contours.

    shape : (height, width) of the image
    size  : (width, height) of the part in pixels, by default from the contours: a
        square in millimetres
    """
    height, width = shape
    if not (view.zoom and rings):
        return _Crop(0, 0, width, height)
    points = np.concatenate([ring for _, ring in rings])
    points = points.clip((-0.5, -0.5), (width - 0.5, height - 0.5))
    low, high = points.min(axis=0), points.max(axis=0)
    if size is None:
        # Heights count as many times as widths as a pixel is higher than wide.
        unit = np.array([1.0, _aspect(spacing_mm)])
        side = max(ZOOM_MARGIN * ((high - low) * unit).max(), ZOOM_PIXELS)
        across, down = np.ceil(side / unit).astype(int).tolist()
        size = (across, down)
    start, stop = [], []
    for middle, part, most in zip((low + high) / 2, size, (width, height), strict=True):
        part = min(part, most)
        first = min(max(round(middle - (part - 1) / 2), 0), most - part)
        start.append(first)
        stop.append(first + part)
    return _Crop(*start, *stop)


def _limits(window: Any, sample: Sample, pixels: NDArray[Any]) -> Limits:
    """Return the image values that are black and white.

    pixels : what is shown of the stored values
    """
    if isinstance(window, tuple):
        return window
    meta = sample.meta
    slope, intercept = meta["slope"], meta["intercept"]
    is_hounsfield = meta["modality"] == "CT"
    if window == "header" or (window == "auto" and is_hounsfield):
        limits = SOFT_TISSUE if window == "auto" else None
        centre, width = meta["window"]
        if not math.isnan(centre):
            black = centre - 0.5 - (width - 1) / 2  # PS3.3 C.11.2.1.2, LINEAR
            limits = (black, black + width - 1)
        if limits is not None:
            first, last = sorted((value - intercept) / slope for value in limits)
            greys = np.count_nonzero((pixels > first) & (pixels < last))
            if window == "header" or greys >= LEAST_GREYS * pixels.size:
                return limits
    low, high = np.percentile(pixels, ROBUST_PERCENTS).tolist()
    if low == high:  # as in PET, where most may be 0
        low, high = float(pixels.min()), float(pixels.max())
    black, white = sorted(slope * value + intercept for value in (low, high))
    return black, white


def _normalized(sample: Sample, limits: Limits) -> Limits:
    """Return image values as a Loader normalizes them by default."""
    meta = sample.meta
    mean = meta["slope"] * meta["mean"] + meta["intercept"]
    std = abs(meta["slope"]) * meta["std"] or 1
    black, white = ((value - mean) / std for value in limits)
    return black, white


def _to_grey(image: NDArray[Any], black: float, white: float) -> NDArray[np.uint8]:
    """Return greys from 0 for black to 255 for white, uint8 (h, w, 1)."""
    values = image[..., None].astype(np.float64)
    values -= black
    values *= 255 / ((white - black) or 1)
    greys: NDArray[np.uint8] = np.rint(values.clip(0, 255)).astype(np.uint8)
    return greys


def _labels(mask: NDArray[Any], bits: Sequence[int]) -> NDArray[np.uint8]:
    """Return the index into PALETTE of each pixel, uint8 (h, w).

    The smallest region lies on top, so that one inside another stays visible.
    """
    labels = np.zeros(mask.shape, np.uint8)
    regions = [(mask & mask.dtype.type(1 << k)) != 0 for k in bits]
    for n in np.argsort([-r.sum() for r in regions], kind="stable").tolist():
        labels[regions[n]] = 1 + bits[n] % len(COLOURS)
    return labels


def _aspect(spacing_mm: NDArray[np.float64]) -> float:
    """Return how many times as high as wide a pixel is drawn; spacing_mm is (2,)."""
    ratio = float(pixel_ratios(spacing_mm[None])[0])
    # Beyond, the spacing is wrong, and one side of the picture would vanish.
    return min(max(ratio, 1 / MAX_SPACING_RATIO), MAX_SPACING_RATIO)


def _draw_image(
    axis: Any,
    picture: NDArray[np.uint8],
    crop: _Crop,
    steps: tuple[int, int],
    spacing_mm: NDArray[np.float64],
) -> None:
    """Draw a part of an image so that pixel centres are at integers.

    picture : uint8 (h, w, 1) or (h, w, 3)
    steps   : between its rows and columns, in pixels of the image
    """
    left, top, right, bottom = (side - 0.5 for side in crop)
    rows, columns, _ = picture.shape
    down, across = steps
    axis.imshow(
        np.broadcast_to(picture, (rows, columns, 3)),
        extent=(left, left + columns * across, top + rows * down, top),
        interpolation="antialiased",
    )
    axis.set_axis_off()
    axis.set_xlim(left, right)
    axis.set_ylim(bottom, top)
    axis.set_aspect("auto")
    ratio = (bottom - top) * _aspect(spacing_mm) / (right - left)
    axis.set_box_aspect(min(max(ratio, 1 / LONGEST_PANEL), LONGEST_PANEL))


def _draw_contours(axis: Any, rings: Sequence[tuple[int, Ring]]) -> None:
    from matplotlib.patches import Polygon
    from matplotlib.patheffects import withStroke

    rim = withStroke(linewidth=RIM_POINTS, foreground=RIM)
    for k, ring in rings:
        outline = Polygon(ring, fill=False, edgecolor=colour_of(k))
        outline.set(linewidth=OUTLINE_POINTS, linestyle=_line_style(k))
        outline.set_path_effects([rim])
        axis.add_patch(outline)


def _line_style(k: int) -> Any:
    return LINE_STYLES[k // len(COLOURS) % len(LINE_STYLES)]


def _draw_scale_bar(axis: Any, spacing_mm: NDArray[np.float64]) -> None:
    """Draw a bar of a round length, if the spacing says how long that is."""
    from matplotlib.patheffects import withStroke

    rows, columns = spacing_mm.tolist()
    is_known = rows > 0 and columns > 0 and _aspect(spacing_mm) == rows / columns
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


def _details(sample: Sample, limits: Limits) -> list[str]:
    """Return what is written about a sample, below its index and patient."""
    meta = sample.meta
    details = [meta["modality"]]
    if meta["series"]:
        start = "..." if len(meta["series"]) > SERIES else ""
        details.append(f"series {start}{meta['series'][-SERIES:]}")
    if not math.isnan(meta["position_mm"]):
        position = round(meta["position_mm"], 1) + 0.0  # not -0.0
        details.append(f"position {position:.1f} mm")
    if not math.isnan(meta["time"]):
        details.append(f"time {meta['time']:g}")
    span = limits[1] - limits[0] or 1
    black, white = (_rounded(value, span) for value in limits)
    details.append(f"window {black} to {white}")
    # A file name is short, and usually contains the instance number.
    details.append(Path(meta["source"]).name)
    return [short(detail) for detail in details if detail]


def _rounded(value: float, span: float) -> str:
    """Return a number with three digits of a span, and all before the point."""
    digits = max(0, 2 - math.floor(math.log10(span)))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if digits else text


def _wrap(details: Sequence[str], width: float) -> list[str]:
    """Return lines of details that fit into a width, if they can."""
    most = int(width / _text_width(1, DETAIL_POINTS))
    lines: list[str] = []
    for detail in details:
        longer = f"{lines[-1]}{SEPARATOR}{detail}" if lines else detail
        if lines and (len(longer) <= most or len(lines) == DETAIL_LINES):
            lines[-1] = longer
        else:
            lines.append(detail)
    return lines


def _text_width(characters: int, points: float) -> float:
    return characters * CHARACTER * points / POINTS


class _Block(NamedTuple):
    """The panels of a sample, and what is written above them."""

    axes: Sequence[Any]
    name: str
    details: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Where the blocks and the legend lie on a picture.

    samples  : their number
    headings : of the panels of a block
    panel    : longest side of a panel
    legend   : the names of the classes in the picture, by their bit
    """

    samples: int
    headings: Sequence[str]
    panel: float
    legend: Mapping[int, str]

    @property
    def columns(self) -> int:
        """Number of blocks in a row."""
        return min(self.samples, COLUMNS if len(self.headings) == 1 else 1)

    def check_size(self, dpi: float) -> None:
        """Raise OptionError if the picture may have more than MAX_SIDE pixels."""
        width = self._width(self.panel)
        row = NAME_HEIGHT + DETAIL_LINES * DETAIL_HEIGHT + self.panel + ROW_GAP
        rest = 2 * MARGIN + HEADING_HEIGHT + self._legend_height(width)
        most_dpi = MAX_SIDE / max(width, row + rest)
        if not 0 < dpi <= most_dpi:
            raise OptionError(
                f"dpi is {dpi:g}, expected more than 0 and at most {most_dpi:.0f}"
            )
        most = int((MAX_SIDE / dpi - rest) / row) * self.columns
        if self.samples > most:
            raise OptionError(
                f"{self.samples} samples are too many, expected at most {most}: few "
                f"programs open a picture of more than {MAX_SIDE} rows; give a count, "
                "and draw the others into another picture, by their indices"
            )

    def arrange(self, figure: Any, blocks: Sequence[_Block]) -> None:
        """Give the figure its size and the panels their positions, and write text."""
        sizes = [[self._size(axis) for axis in block.axes] for block in blocks]
        # Side by side as near as the widest ones allow.
        panel = max(width for block in sizes for width, _ in block)
        panel = max(panel, NARROWEST * self.panel)
        block_width = self._width(panel, 1) - 2 * MARGIN
        texts = [_wrap(block.details, block_width) for block in blocks]
        starts = range(0, len(blocks), self.columns)
        rows = [slice(start, start + self.columns) for start in starts]
        text_heights = [
            NAME_HEIGHT + max(map(len, texts[row])) * DETAIL_HEIGHT for row in rows
        ]
        if len(self.headings) > 1:
            text_heights[0] += HEADING_HEIGHT
            for axis, heading in zip(blocks[0].axes, self.headings, strict=True):
                axis.set_title(heading, loc="left", color=WHITE, size=HEADING_POINTS)
        panel_heights = [
            max(height for block in sizes[row] for _, height in block) for row in rows
        ]
        width = self._width(panel)
        height = 2 * MARGIN + sum(text_heights) + sum(panel_heights)
        height += len(rows) * ROW_GAP + self._legend_height(width)
        figure.set_size_inches(width, height)
        top = height - MARGIN
        for row, text_height, panel_height in zip(
            rows, text_heights, panel_heights, strict=True
        ):
            for n, block in enumerate(blocks[row]):
                left = MARGIN + n * (block_width + GAP)
                lines = texts[row][n]
                _write(figure, block.name, lines, left / width, top / height)
                for k, axis in enumerate(block.axes):
                    across, down = sizes[row][n][k]
                    x = left + k * (panel + GAP)
                    y = top - text_height - down
                    inches = np.array([x, y, across, down])
                    axis.set_position(inches / (width, height, width, height))
            top -= text_height + panel_height + ROW_GAP
        if self.legend:
            self._draw_legend(figure, width, height)

    def _size(self, axis: Any) -> tuple[float, float]:
        """Return width and height of axes whose longer side is that of a panel."""
        ratio = axis.get_box_aspect()
        return min(self.panel, self.panel / ratio), min(self.panel, self.panel * ratio)

    def _width(self, panel: float, columns: int | None = None) -> float:
        """Return the width of a picture, from that of the panels."""
        panels = (columns or self.columns) * len(self.headings)
        return panels * (panel + GAP) - GAP + 2 * MARGIN

    def _legend_columns(self, width: float) -> int:
        """Return the number of columns of the legend, which go from top to bottom."""
        lengths = np.array([len(name) for name in self.legend.values()])
        for columns in range(len(lengths), 1, -1):
            longest = [part.max() for part in np.array_split(lengths, columns)]
            names = _text_width(sum(longest), LEGEND_POINTS)
            if names + columns * LEGEND_INDENT <= width - 2 * MARGIN:
                return columns
        return 1

    def _legend_height(self, width: float) -> float:
        return LEGEND_HEIGHT * -(-len(self.legend) // self._legend_columns(width))

    def _draw_legend(self, figure: Any, width: float, height: float) -> None:
        from matplotlib.patches import Patch

        patches = [
            Patch(
                facecolor=(*rgb_of(k), 0.5),
                edgecolor=colour_of(k),
                linestyle=_line_style(k),
                label=name,
            )
            for k, name in self.legend.items()
        ]
        legend = figure.legend(
            handles=patches,
            loc="lower left",
            bbox_to_anchor=(MARGIN / width, MARGIN / height),
            ncols=self._legend_columns(width),
            frameon=False,
            labelcolor=WHITE,
            fontsize=LEGEND_POINTS,
            borderpad=0,
            borderaxespad=0,
            labelspacing=LEGEND_HEIGHT * POINTS / LEGEND_POINTS - 1,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)


def _write(
    figure: Any, name: str, details: Sequence[str], left: float, top: float
) -> None:
    """Write the name and the details of a sample, from the top down."""
    lines: list[tuple[str, float, str, float]] = [
        (name, NAME_POINTS, WHITE, NAME_HEIGHT),
        *((line, DETAIL_POINTS, GREY, DETAIL_HEIGHT) for line in details),
    ]
    for line, points, colour, line_height in lines:
        text = figure.text(left, top, line, size=points, color=colour)
        text.set_verticalalignment("top")
        text.set_parse_math(False)  # a patient may be named a$b$
        top -= line_height / figure.get_figheight()


def _report_drawing(axis: Any, advance: Advance) -> None:
    """Call `advance` when matplotlib draws an axis, while it writes."""
    draw = axis.draw

    def draw_and_report(renderer: Any) -> None:
        draw(renderer)
        advance()

    axis.draw = draw_and_report
