"""Pictures of samples: image, mask, segmented image, contours, augmented versions."""

import os
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg import __version__
from fastseg.augment import Compose, Transform, as_compose
from fastseg.augment.mapping import pixel_ratios
from fastseg.bounds import MAX_SPACING_RATIO
from fastseg.calls import check_call
from fastseg.colours import colour_of, rgb_of
from fastseg.errors import OptionError, missing_extra, real_number, whole_number
from fastseg.escapes import escaped
from fastseg.loading.augmented import AugmentedPreprocessing
from fastseg.loading.format import BatchFormat
from fastseg.loading.orders import check_seed, epoch_order
from fastseg.outputs import check_input, check_target, write_atomically
from fastseg.paths import StrPath, as_path
from fastseg.progress import Advance, Progress, silent
from fastseg.store.reader import Sample, Store, as_store

DARK = "#16181d"
# Augmented versions of each sample.
VERSIONS = 6
# matplotlib goes through a figure twice when it writes it: to lay it out, and to draw.
WRITING_PASSES = 2
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


@check_call("show(store, 'picture.png')")
def show(
    store: Store | StrPath,
    output: StrPath,
    *,
    count: int = 4,
    seed: int = 0,
    augment: Compose | Sequence[Transform] | str | None = None,
    dpi: float = 110,
    force: bool = False,
    progress: Progress = silent,
) -> Path:
    """Draw random samples, one in each row, and return the picture's path.

    Samples with contours come first. The columns are the image, its mask, the segmented
    image (darker where no class is) and the image with its contours; of a store without
    classes, the image alone. Lengths are those in millimetres: a pixel is as
    much higher than wide as the spacing says, and a square if it is unknown.

    store   : a store, as `fastseg.open` returns it, or the path of one
    output  : path of the picture; the suffix sets the format (.png, .pdf, .svg)
    count   : number of samples; all samples if the store has fewer
    seed    : of the random choice of samples, and of the augmentation
    augment : transforms, as `Loader` takes them. The columns are then the image and six
        augmented versions of it, each with its contours
    dpi     : pixels per inch; a sample is about 3 inches high, augmented 2.2
    force   : replace any file; otherwise only a picture that `show` has drawn, or an
        empty file
    progress : reports how far it is, see `fastseg.progress`

    If `output` is a symbolic link, the picture is written where it points, and that
    path is returned. Raises MissingExtraError without matplotlib, OutputError if a file
    would be replaced that is something else, OptionError.
    """
    count = whole_number("count", count, 1)
    dpi = real_number("dpi", dpi)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("drawing pictures", "show") from None
    store = as_store(store)
    path = as_path("output", output)
    suffix = path.suffix.lower()
    if suffix not in METADATA or path.is_dir():
        example = f"{path.parent / path.stem}.png" if path.suffix else f"{path}.png"
        raise OptionError(
            f"{path}: expected the name of a picture that ends with "
            f"{', '.join(METADATA)}, as in {example}"
        )
    check_input(path, store.path, "the store", PICTURE)
    check_target(path, PICTURE, force)
    shuffled = epoch_order(len(store), check_seed(seed), 0, shuffle=True)
    is_unlabelled = store.items["labelled"][shuffled] == 0
    chosen = shuffled[np.argsort(is_unlabelled, kind="stable")][:count]
    titles = ["image", "mask", "segmented", "contours"][: 4 if store.classes else 1]
    if augment is not None:
        compose = as_compose(augment)
        titles = ["image", *(f"epoch {k}" for k in range(VERSIONS))]
    side = 3.0 if augment is None else 2.2
    figure = Figure(
        figsize=(side * len(titles), (side - 0.05) * len(chosen) + 0.7),
        facecolor=DARK,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(chosen), len(titles), squeeze=False)
    with progress("draw", len(chosen)) as advance:
        for axes, index in zip(grid, chosen.tolist(), strict=True):
            if augment is None:
                _draw_sample(axes, store, store[index])
            else:
                _draw_versions(axes, store, index, compose, seed)
            _label(axes, store[index])
            advance()
    for axis, title in zip(grid[0], titles, strict=True):
        axis.set_title(title, color="white", fontsize=13)
    _draw_legend(figure, store)
    metadata = {METADATA[suffix]: f"{SOFTWARE} {__version__}"}
    with (
        write_atomically(path, PICTURE, force) as (target, file),
        progress("write", WRITING_PASSES * len(grid)) as advance,
    ):
        for axes in grid:
            _report_drawing(axes[0], advance)
        try:
            figure.savefig(
                file, format=suffix[1:], dpi=dpi, facecolor=DARK, metadata=metadata
            )
        except (ValueError, RuntimeError) as exc:  # a dpi that is too small
            raise OptionError(f"{path}: dpi is {dpi:g}: {exc}") from None
    return target


def _report_drawing(axis: Any, advance: Advance) -> None:
    """Call `advance` whenever matplotlib has drawn an axis, while it writes."""
    draw = axis.draw

    def draw_and_report(renderer: Any) -> None:
        draw(renderer)
        advance()

    axis.draw = draw_and_report


def _draw_sample(axes: Any, store: Store, sample: Sample) -> None:
    grey = _grey(sample)
    mask = np.zeros((*grey.shape, 3))
    covered = np.zeros(grey.shape, bool)
    # Larger regions first, so that the smaller ones inside them stay visible.
    regions = sorted(
        enumerate(store.classes), key=lambda pair: -sample.mask_of(pair[1]).sum()
    )
    for k, name in regions:
        region = sample.mask_of(name)
        mask[region] = rgb_of(k)
        covered |= region
    segmented = np.where(covered[..., None], 0.55, 0.3) * grey[..., None]
    segmented = np.where(covered[..., None], segmented + 0.45 * mask, segmented)
    pictures = (grey, mask, segmented, grey) if store.classes else (grey,)
    aspect = _aspect(store.items["spacing_mm"][[sample.index]])
    for axis, picture in zip(axes, pictures, strict=True):
        axis.imshow(
            picture,
            cmap="gray",
            vmin=0,
            vmax=1,
            interpolation="nearest",
            aspect=aspect,
        )
    _draw_contours(axes[-1], store, sample.contours)


def _draw_versions(
    axes: Any, store: Store, index: int, compose: Compose, seed: int
) -> None:
    """Draw a sample without augmentation, then as augmented in the first epochs."""
    chosen = np.array([index])
    # The same values are black and white in all versions, so that changes of
    # brightness and contrast are visible.
    low, *_, high = store.items["percentiles"][index].tolist()
    mean = float(store.items["mean"][index])
    std = float(store.items["std"][index])
    black, white = sorted((value - mean) / (std or 1) for value in (low, high))
    if store.items["slope"][index] < 0:
        black, white = -white, -black
    unchanged, augmented = (
        AugmentedPreprocessing(store, chosen, BatchFormat(augment=steps), seed=seed)
        for steps in (Compose([]), compose)
    )
    versions = [(unchanged, 0), *((augmented, epoch) for epoch in range(VERSIONS))]
    for axis, (preprocessing, epoch) in zip(axes, versions, strict=True):
        image = np.empty((1, *preprocessing.image_shape), np.float32)
        mask = np.empty((1, *preprocessing.mask_shape), preprocessing.mask_dtype)
        preprocessing.fill(chosen, image, mask, epoch)
        drawn = preprocessing.draw(chosen, epoch)
        mappings = preprocessing.find_mappings(chosen, drawn)
        axis.imshow(
            image[0, 0],
            cmap="gray",
            vmin=black,
            vmax=white if white > black else black + 1,
            interpolation="nearest",
            aspect=_aspect(mappings.spacing_mm),
        )
        _draw_contours(axis, store, preprocessing.contours(index, epoch))


def _aspect(spacing_mm: NDArray[np.float64]) -> float:
    """Return how many times as high as wide a pixel is drawn; spacing_mm is (1, 2)."""
    ratio = float(pixel_ratios(spacing_mm)[0])
    # Beyond, the spacing is wrong, and one side of the picture would vanish.
    return min(max(ratio, 1 / MAX_SPACING_RATIO), MAX_SPACING_RATIO)


def _draw_contours(axis: Any, store: Store, contours: Mapping[str, Any]) -> None:
    axis.autoscale(False)  # a contour may lie outside the image
    for name, rings in contours.items():
        for ring in rings:
            closed = np.vstack([ring, ring[:1]])
            colour = colour_of(store.classes.index(name))
            axis.plot(*closed.T, color=colour, linewidth=1.3)


def _label(axes: Any, sample: Sample) -> None:
    """Remove the frames of a row of pictures, and write the sample's name beside it."""
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
    meta = sample.meta
    # A file name is short, and usually contains the instance number.
    patient = escaped(meta["patient"])
    text = f"#{sample.index}  {patient}\n{escaped(Path(meta['source']).name)}"
    axes[0].set_ylabel(text, color="white", fontsize=10, parse_math=False)


def _grey(sample: Sample) -> Any:
    """Return the image in [0, 1] for display, from its 0.5th to 99.5th percentile."""
    meta = sample.meta
    values = sample.image.astype(np.float64)
    low, *_, high = meta["percentiles"]
    grey = np.clip((values - low) / ((high - low) or 1), 0, 1)
    return 1 - grey if meta["slope"] < 0 else grey


def _draw_legend(figure: Any, store: Store) -> None:
    from matplotlib.patches import Patch

    if store.classes:
        legend = figure.legend(
            handles=[
                Patch(color=colour_of(k), label=escaped(name))
                for k, name in enumerate(store.classes)
            ],
            loc="outside lower center",
            ncols=min(len(store.classes), 8),
            frameon=False,
            labelcolor="white",
            fontsize=12,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)  # a class may be named a$b$
