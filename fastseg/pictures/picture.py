"""`show`: checks its options, draws samples or a volume, and writes the picture."""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from fastseg import __version__
from fastseg.augment import Compose, Transform, as_compose
from fastseg.calls import check_call
from fastseg.choices import Window
from fastseg.errors import OptionError, missing_extra, real_number, true_or_false
from fastseg.outputs import check_input, check_target, write_atomically
from fastseg.paths import StrPath, as_path
from fastseg.pictures.files import METADATA, PICTURE, SOFTWARE
from fastseg.pictures.layout import PANEL, VERSION_PANEL, Block, Layout
from fastseg.pictures.panels import (
    VERSIONS,
    draw_planes,
    draw_sample,
    draw_versions,
    sizes_of,
)
from fastseg.pictures.planes import (
    Augment,
    VolumePlane,
    augmented_version,
    orthogonal_planes,
)
from fastseg.pictures.samples import choose_samples, choose_slices
from fastseg.pictures.style import DARK
from fastseg.pictures.titles import details_of, details_of_volume
from fastseg.pictures.view import View
from fastseg.pictures.window import check_window
from fastseg.progress import Advance, Progress, silent
from fastseg.reprs import short
from fastseg.store.reader import Sample, Store, as_store
from fastseg.store.selection import has_class
from fastseg.store.volumes import Volume

# Of an image with more pixels for one of the picture, some rows and columns are left
# out: 16 times as many are enough for matplotlib to average.
OVERSAMPLING = 4
# Augmented versions of a volume.
VOLUME_VERSIONS = 3


@check_call("show(store, 'picture.png')")
def show(
    store: Store | StrPath,
    output: StrPath,
    *,
    count: int | None = None,
    patients: str | Sequence[str] | None = None,
    classes: str | Sequence[str] | None = None,
    indices: ArrayLike | None = None,
    volume: int | None = None,
    window: Window | tuple[float, float] = "auto",
    zoom: bool = False,
    seed: int = 0,
    augment: Compose | Sequence[Transform] | str | None = None,
    dpi: float = 110,
    force: bool = False,
    progress: Progress = silent,
) -> Path:
    """Draw samples, one below the other, or a volume, and return the picture's path.

    The panels of a sample are the image, the mask, and the image with both: a
    translucent mask, and the contours as outlines. Above them stand its index, patient,
    modality, series, position, time, file and window. Of a store without classes, the
    image alone is drawn, three in a row. Lengths are those in millimetres: a pixel is
    as much higher than wide as the spacing says, with a scale bar, and a square without
    one if the spacing is unknown.

    The panels of a volume are three orthogonal planes on one scale, through the centre
    of what is labelled: a slice with its contours, and planes along its rows and its
    columns with the outlines of the masks. Letters say where the patient's left (L) and
    right (R), front (A) and back (P), head (H) and feet (F) are.

    store   : a store, as `fastseg.open` returns it, or the path of one
    output  : path of the picture; the suffix sets the format (.png, .pdf, .svg)
    count   : number of samples, by default 4, or all that `indices` names. They are
        chosen at random, samples with contours before others, and drawn in the order of
        the store. All are drawn if there are fewer
    patients : only samples of one of these patients
    classes : only samples with a contour of one of these classes; no other is drawn
    indices : only these samples, in this order
    volume  : draw this one of the store's volumes, and no samples
    window  : the values that are black and white. "header" takes the window of the
        image's header, "percentiles" the 0.5th and 99.5th percentile of what is shown,
        and (low, high) two image values, such as Hounsfield units. "auto" takes for CT
        the header's window, or -160 to 240 if there is none, for all else the
        percentiles. Percentiles also stand in for a window that the header lacks, or
        ("auto") that would leave less than 1 % of the pixels between black and white
    zoom    : show what is labelled, with a margin; what is not labelled is shown whole
    seed    : of the random choice of samples, and of the augmentation
    augment : transforms, as `Loader` takes them. The panels are then the original and
        six augmented versions of it, each with its contours. Of a volume, as
        `PatchLoader` takes them: below its planes, the same planes of three augmented
        versions, with the outlines of the masks
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
    window = check_window(window)
    compose = None if augment is None or volume is not None else as_compose(augment)
    if volume is not None:
        given = {"count": count, "patients": patients, "indices": indices}
        for name, option in given.items():
            if option is not None:
                raise OptionError(f"{name} is for samples: leave it out with a volume")
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
    for source in store.paths:
        check_input(path, source, "the store", PICTURE)
    check_target(path, PICTURE, force)
    if volume is None:
        chosen = choose_samples(
            store,
            count=count,
            patients=patients,
            classes=classes,
            indices=indices,
            seed=seed,
        )
    else:
        chosen = choose_slices(store, volume, classes)
    wanted = store.classes if classes is None else classes
    wanted = [wanted] if isinstance(wanted, str) else wanted
    bits = tuple(sorted({store.class_index(name) for name in wanted}))
    panel = PANEL if compose is None else VERSION_PANEL
    view = View(store, bits, window, zoom, math.ceil(OVERSAMPLING * panel * dpi))
    draw: list[Callable[[list[Any]], Block]]
    if volume is not None:
        of_volume = store.volumes[volume]
        planes = orthogonal_planes(view, of_volume)
        headings = [plane.heading for plane in planes]
        draw = [partial(_volume_block, view, of_volume, planes)]
        if augment is not None:
            draw += [
                partial(_version_block, view, of_volume, augment, seed, epoch)
                for epoch in range(VOLUME_VERSIONS)
            ]
    else:
        headings = ["image", "mask", "mask and contours"][: 3 if bits else 1]
        if compose is not None:
            headings = ["original", *(f"epoch {k}" for k in range(VERSIONS))]
        samples = [store[index] for index in chosen.tolist()]
        draw = [partial(_sample_block, view, x, compose, seed) for x in samples]
    labelled = store.items["labelled"][chosen]
    legend = {k: short(store.classes[k]) for k in bits if has_class(labelled, k).any()}
    layout = Layout(samples=len(draw), headings=headings, panel=panel, legend=legend)
    layout.check_size(dpi)
    figure = Figure(facecolor=DARK)
    FigureCanvasAgg(figure)
    blocks = []
    with progress("draw", len(draw)) as advance:
        for draw_block in draw:
            blocks.append(draw_block([figure.add_axes((0, 0, 1, 1)) for _ in headings]))
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


def _sample_block(
    view: View, sample: Sample, compose: Compose | None, seed: int, axes: list[Any]
) -> Block:
    """Draw a sample, or its augmented versions."""
    if compose is None:
        limits = draw_sample(axes, view, sample)
    else:
        limits = draw_versions(axes, view, sample, compose, seed)
    name = f"#{sample.index}  {short(sample.patient)}"
    return Block(axes, name, details_of(sample, limits))


def _volume_block(
    view: View, volume: Volume, planes: Sequence[VolumePlane], axes: list[Any]
) -> Block:
    """Draw planes of a volume."""
    limits = draw_planes(axes, view, volume, planes)
    name = f"volume {volume.index}  {short(volume.patient)}"
    details = details_of_volume(volume, limits)
    return Block(axes, name, details, sizes_of(axes, planes))


def _version_block(
    view: View,
    volume: Volume,
    augment: Augment,
    seed: int,
    epoch: int,
    axes: list[Any],
) -> Block:
    """Draw planes of a volume as it is augmented in an epoch."""
    version = augmented_version(view.store, volume, augment, seed, epoch)
    planes = orthogonal_planes(view, volume, version)
    draw_planes(axes, view, volume, planes)
    return Block(axes, f"epoch {epoch}", [], sizes_of(axes, planes))


def _report_drawing(axis: Any, advance: Advance) -> None:
    """Call `advance` when matplotlib draws an axis, while it writes."""
    draw = axis.draw

    def draw_and_report(renderer: Any) -> None:
        draw(renderer)
        advance()

    axis.draw = draw_and_report
