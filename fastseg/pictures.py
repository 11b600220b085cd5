"""Pictures of samples, for people who would rather look than read."""

from pathlib import Path
from typing import Any

import numpy as np

from fastseg.errors import OptionError, missing_extra
from fastseg.links import StrPath
from fastseg.loading.sampling import check_seed, epoch_order
from fastseg.store.reader import Sample, Store

# Okabe and Ito's palette: told apart by people of any colour vision.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
DARK = "#16181d"


def show(
    store: Store, output: StrPath, *, count: int = 4, seed: int = 0, dpi: int = 110
) -> Path:
    """Draw random samples, a row each, and return the picture's path.

    The columns are the image, its mask, the segmented image (what no class covers is
    darkened) and the contours drawn over the image.

    count : how many samples, at most those of the store
    seed  : which ones
    output: the picture; its ending says the format (.png, .pdf, .svg)

    Raises MissingExtraError without matplotlib, OptionError.
    """
    if count < 1:
        raise OptionError(f"count is {count}, expected at least 1")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("drawing pictures", "show") from None
    path = Path(output)
    if not path.suffix or path.is_dir():
        raise OptionError(f"{path}: expected the name of a picture, as in {path}.png")
    chosen = epoch_order(len(store), check_seed(seed), 0, shuffle=True)[:count]
    figure = Figure(
        figsize=(12, 2.95 * len(chosen) + 0.7), facecolor=DARK, layout="constrained"
    )
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(chosen), 4, squeeze=False)
    for axes, index in zip(grid, chosen.tolist(), strict=True):
        _draw_sample(axes, store, store[index])
    for axis, title in zip(
        grid[0], ("image", "mask", "segmented", "contours"), strict=True
    ):
        axis.set_title(title, color="white", fontsize=13)
    _draw_legend(figure, store)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(path, dpi=dpi, facecolor=DARK)
    except ValueError as exc:  # an ending that matplotlib does not know
        raise OptionError(f"{path}: {exc}") from None
    return path


def _draw_sample(axes: Any, store: Store, sample: Sample) -> None:
    grey = _grey(sample)
    mask, covered = np.zeros((*grey.shape, 3)), np.zeros(grey.shape, bool)
    # Larger regions first, so that what lies inside stays visible.
    regions = sorted(
        enumerate(store.classes), key=lambda named: -sample.mask_of(named[1]).sum()
    )
    for k, name in regions:
        region = sample.mask_of(name)
        mask[region] = _rgb(_colour(k))
        covered |= region
    segmented = np.where(covered[..., None], 0.55, 0.3) * grey[..., None]
    segmented = np.where(covered[..., None], segmented + 0.45 * mask, segmented)
    pictures = (grey, mask, segmented, grey)
    for axis, picture in zip(axes, pictures, strict=True):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
    axes[3].autoscale(False)  # a contour may leave the image
    for name, rings in sample.contours.items():
        for ring in rings:
            closed = np.vstack([ring, ring[:1]])
            colour = _colour(store.classes.index(name))
            axes[3].plot(*closed.T, color=colour, linewidth=1.3)
    facts = sample.facts
    # The file name tells what the instance number does; both are short.
    text = f"#{sample.index}  {facts['patient']}\n{Path(facts['source']).name}"
    axes[0].set_ylabel(text, color="white", fontsize=10, parse_math=False)


def _grey(sample: Sample) -> Any:
    """Return the image in [0, 1] for display, from its 0.5th to 99.5th percentile."""
    facts, values = sample.facts, sample.image.astype(np.float64)
    low, *_, high = facts["percentiles"]
    grey = np.clip((values - low) / ((high - low) or 1), 0, 1)
    return 1 - grey if facts["slope"] < 0 else grey


def _draw_legend(figure: Any, store: Store) -> None:
    from matplotlib.patches import Patch

    if store.classes:
        legend = figure.legend(
            handles=[
                Patch(color=_colour(k), label=name)
                for k, name in enumerate(store.classes)
            ],
            loc="outside lower center",
            ncols=min(len(store.classes), 8),
            frameon=False,
            labelcolor="white",
            fontsize=12,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)  # a class may be called a$b$


def _colour(k: int) -> str:
    return COLOURS[k % len(COLOURS)]


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))
    return red, green, blue
