"""The data set as plots, by matplotlib, each an SVG inside the page.

As images they can run no scripts, and letters are drawn as outlines: names in them are
only shapes. The same store gives the same bytes.
"""

import io
import math
import warnings
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.colours import colour_of
from fastseg.quality.report.dataset import Areas, areas_of, count, number
from fastseg.reprs import many, short
from fastseg.store.histograms import read_histograms
from fastseg.store.layout import WHOLE_IMAGE
from fastseg.store.reader import Store
from fastseg.store.selection import distinct, has_class
from fastseg.store.text import decode

# Readable on white and on black: pages are either.
GREY = "#808a97"
FAINT = "#b9c0c9"
PLAIN = "#6f8fb5"
# Inches; a page shows an inch as 96 pixels or more.
WIDTH, HEIGHT = 5.4, 2.9
ROW = 0.21
# Names of patients below bars; more are only counted.
MOST_NAMES = 24
MOST_MODALITIES = 3
MOST_SPACINGS = 10
# Histograms that are added up: a regular choice, if there are more samples.
MOST_HISTOGRAMS = 2000
BINS = 120
# Areas are on a logarithmic axis if the greatest is so many times the least.
WIDE = 30
STYLE: dict[str, Any] = {
    "svg.hashsalt": "fastseg",
    "svg.fonttype": "path",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": GREY,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": FAINT,
    "grid.alpha": 0.35,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


class Plot(NamedTuple):
    """A plot on the page.

    image : a data URI
    width, height : in pixels of CSS
    """

    title: str
    note: str
    image: str
    width: int
    height: int


def draw_plots(store: Store) -> list[Plot]:
    """Return all plots that the data of a store allow."""
    from matplotlib import rc_context, rcdefaults

    with rc_context(), warnings.catch_warnings():
        # A name may have characters that the font lacks: they are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        rcdefaults()
        with rc_context(STYLE):
            makers: list[Callable[[Store], Iterator[Plot]]] = [
                _patients,
                _labels,
                _areas,
                _intensities,
                _spacings,
            ]
            return [plot for make in makers for plot in make(store)]


def _patients(store: Store) -> Iterator[Plot]:
    """Samples of each patient, with and without contours."""
    keys, patient = distinct(store.items["patient"])
    is_labelled = store.items["labelled"] != 0
    total = np.bincount(patient, minlength=len(keys))
    with_contours = np.bincount(patient[is_labelled], minlength=len(keys))
    order = np.argsort(-total, kind="stable")
    figure, axes = _figure()
    place = np.arange(len(keys))
    # Bars of many patients touch, else one would see stripes.
    width = 0.8 if len(keys) <= MOST_NAMES else 1.0
    axes.bar(place, with_contours[order], width, color=PLAIN, label="with contours")
    axes.bar(
        place,
        (total - with_contours)[order],
        width,
        bottom=with_contours[order],
        color=FAINT,
        label="without",
    )
    if len(keys) <= MOST_NAMES:
        names = decode(store, keys[order].tolist())
        axes.set_xticks(place, [_name(x) for x in names], rotation=40, ha="right")
    else:
        axes.set_xlabel("patients, by their number of samples")
        axes.set_xticks([])
    axes.set_xlim(-0.6, len(keys) - 0.4)
    axes.grid(axis="y")
    if is_labelled.any() and not is_labelled.all():
        figure.legend(loc="outside upper right", ncols=2)
    axes.yaxis.get_major_locator().set_params(integer=True)
    note = (
        f"{count(int(with_contours.sum()))} of {many(len(store), 'sample')} with "
        f"contours; {number(float(np.median(total)))} a patient in the median"
    )
    yield _save(figure, "Samples by patient", note)


def _labels(store: Store) -> Iterator[Plot]:
    """How many samples of each patient have which class."""
    keys, patient = distinct(store.items["patient"])
    if not store.classes or len(keys) < 2:
        return
    total = np.bincount(patient, minlength=len(keys))
    labelled = store.items["labelled"]
    shares = np.array(
        [
            np.bincount(patient[has_class(labelled, k)], minlength=len(keys)) / total
            for k in range(len(store.classes))
        ]
    )
    order = np.lexsort((np.arange(len(keys)), -shares.mean(axis=0)))
    figure, axes = _figure(_height(len(store.classes)))
    shown = np.ma.masked_equal(shares[:, order] * 100, 0)
    axes.set_facecolor("#8884")
    image = axes.imshow(
        shown, aspect="auto", vmin=0, vmax=100, cmap="viridis", interpolation="nearest"
    )
    figure.colorbar(image, ax=axes, pad=0.02, label="% of the samples")
    _name_classes(axes, store)
    if len(keys) <= MOST_NAMES:
        names = decode(store, keys[order].tolist())
        places = range(len(names))
        axes.set_xticks(places, [_name(x) for x in names], rotation=40, ha="right")
    else:
        axes.set_xticks([])
        axes.set_xlabel(f"{count(len(keys))} patients")
    missing = int((shares == 0).sum())
    note = (
        f"grey: {missing} times, a patient has no contour of a class"
        if missing
        else "every patient has contours of every class"
    )
    yield _save(figure, "Which patient has which class", note)


def _areas(store: Store) -> Iterator[Plot]:
    """The areas of the classes."""
    areas = areas_of(store)
    if any(len(values) and values.max() > 0 for values in areas.values):
        yield _area_plot(store, areas)


def _area_plot(store: Store, areas: Areas) -> Plot:
    figure, axes = _figure(_height(len(store.classes)))
    boxes = []
    for values in areas.values:
        known = values if len(values) else np.array([np.nan])
        low, first, middle, third, high = np.percentile(known, (1, 25, 50, 75, 99))
        boxes.append(
            {
                "whislo": low,
                "q1": first,
                "med": middle,
                "q3": third,
                "whishi": high,
                "fliers": [],
            }
        )
    drawn = axes.bxp(
        boxes,
        positions=range(len(boxes)),
        orientation="horizontal",
        showfliers=False,
        patch_artist=True,
        widths=0.6,
        medianprops={"color": "#fff", "linewidth": 1.4},
        whiskerprops={"color": GREY},
        capprops={"color": GREY},
    )
    for k, box in enumerate(drawn["boxes"]):
        # The edge is all there is to see if all areas are alike.
        box.set(facecolor=colour_of(k), edgecolor=colour_of(k), linewidth=2)
    positive = np.concatenate([values[values > 0] for values in areas.values])
    if positive.max() > WIDE * positive.min():
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        axes.set_xscale("log")
        axes.set_xlim(left=float(positive.min()) / 1.3)
        # Its own formatter writes powers as formulas.
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=8))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(left=0)
    _name_classes(axes, store)
    axes.set_ylim(len(boxes) - 0.4, -0.6)
    axes.set_xlabel(areas.unit)
    axes.grid(axis="x")
    note = "of a class on an image: box from 25 % to 75 %, line from 1 % to 99 %"
    return _save(figure, "Areas", note)


def _intensities(store: Store) -> Iterator[Plot]:
    """How often values occur, in images and in classes, for each modality."""
    keys, modality = distinct(store.items["modality"])
    sizes = np.bincount(modality, minlength=len(keys))
    chosen = np.argsort(-sizes, kind="stable")[:MOST_MODALITIES]
    names = decode(store, keys.tolist())
    for k in chosen.tolist():
        samples = np.flatnonzero(modality == k)
        step = -(-len(samples) // MOST_HISTOGRAMS)
        title = f"Intensities, {names[k]}" if names[k] else "Intensities"
        yield _intensity_plot(store, samples[::step], title)


def _intensity_plot(store: Store, samples: NDArray[np.int64], title: str) -> Plot:
    items = store.items
    slope, intercept = items["slope"][samples], items["intercept"][samples]
    ends = items["percentiles"][samples][:, [0, -1]] * slope[:, None]
    ends = (ends + intercept[:, None]).ravel()
    low, high = float(ends.min()), float(ends.max())
    if not math.isfinite(high - low) or low == high:
        low, high = low - 0.5, low + 0.5
    edges = np.linspace(low, high, BINS + 1)
    figure, axes = _figure()
    top = 1e-9
    present = np.bitwise_or.reduce(items["pixels"][samples] > 0, axis=0)
    kinds = [WHOLE_IMAGE, *np.flatnonzero(present).tolist()]
    for kind in kinds:
        histograms = read_histograms(store, samples, kind)
        if not len(histograms.sample):
            continue
        place = np.searchsorted(samples, histograms.sample)
        values = histograms.least + histograms.width[histograms.owner] / 2 - 0.5
        owner = place[histograms.owner]
        counts, _ = np.histogram(
            slope[owner] * values + intercept[owner], edges, weights=histograms.counts
        )
        share = counts * (100 / max(float(histograms.counts.sum()), 1.0))
        is_image = kind == WHOLE_IMAGE
        top = max(top, float(np.sort(share)[-1 - BINS // 20 if is_image else -1]))
        axes.stairs(
            share,
            edges,
            fill=is_image,
            color=FAINT if is_image else colour_of(kind),
            linewidth=1.3,
            label="whole images" if is_image else _name(store.classes[kind]),
        )
    axes.set_xlim(low, high)
    # The background of an image would hide all else: its bars may end at the top.
    axes.set_ylim(0, 1.15 * top)
    axes.set_ylabel("% of the pixels")
    axes.grid(axis="y")
    if len(kinds) <= 8:
        figure.legend(loc="outside upper right", ncols=4, fontsize=8)
    note = f"values of {many(len(samples), 'sample')}, without the outermost 0.5 %"
    return _save(figure, title, note)


def _spacings(store: Store) -> Iterator[Plot]:
    """The distances between pixels and between slices."""
    pixels = store.items["spacing_mm"]
    known = pixels[np.isfinite(pixels).all(axis=1)]
    if not len(known):
        return
    slices = store.tables["volumes"]
    of_pixels = Counter[str]()
    pairs, times_of = np.unique(known, axis=0, return_counts=True)
    for pair, times in zip(pairs.tolist(), times_of.tolist(), strict=True):
        a, b = (f"{mm:.3g}" for mm in pair)
        of_pixels[a if a == b else f"{a} × {b}"] += times
    groups = [("samples", "between pixels, mm", of_pixels)]
    between = Counter(f"{mm:.3g}" for mm in slices["spacing_mm"].tolist())
    if between:
        groups.append(("volumes", "between slices, mm", between))
    longest = max(min(len(counter), MOST_SPACINGS + 1) for *_, counter in groups)
    figure, axes = _figure(_height(longest), columns=len(groups))
    for axis, (what, label, counter) in zip(np.ravel(axes), groups, strict=True):
        common = counter.most_common(MOST_SPACINGS)
        others = len(counter) - len(common)
        common.sort(key=lambda pair: [float(x) for x in pair[0].split(" × ")])
        if others:
            rest = sum(counter.values()) - sum(n for _, n in common)
            common.append((f"{others} others", rest))
        numbers = [n for _, n in common]
        axis.barh(range(len(common)), numbers, 0.7, color=PLAIN)
        axis.set_yticks(range(len(common)), [name for name, _ in common])
        axis.set_ylim(len(common) - 0.4, -0.6)
        axis.set_xlabel(what)
        axis.set_title(label, loc="left", fontsize=9, color=GREY)
        axis.grid(axis="x")
        axis.locator_params(axis="x", nbins=4, integer=True)
    unknown = len(pixels) - len(known)
    note = f"{many(unknown, 'sample')} without a spacing" if unknown else ""
    yield _save(figure, "Spacing", note)


def _figure(height: float = HEIGHT, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasSVG(figure)
    return figure, figure.subplots(1, columns)


def _height(rows: int) -> float:
    """Return the height of a plot with rows of text."""
    return max(1.6, min(HEIGHT, 0.9 + 0.32 * rows), 0.9 + ROW * rows)


def _name(text: str) -> str:
    return short(text)[:22]


def _name_classes(axes: Any, store: Store) -> None:
    axes.set_yticks(range(len(store.classes)), [_name(name) for name in store.classes])


def _save(figure: Any, title: str, note: str) -> Plot:
    file = io.BytesIO()
    metadata = {"Date": None, "Creator": None}
    figure.savefig(file, format="svg", metadata=metadata)
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    data = b64encode(file.getvalue()).decode()
    return Plot(title, note, f"data:image/svg+xml;base64,{data}", width, height)
