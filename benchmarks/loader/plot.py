"""The bar plot of benchmarks/loader/race.py, and its colours."""

from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("agg")
from matplotlib import pyplot as plt

LIMIT, OURS, PEER = "#b9bec6", "#c2410c", "#5b7fa6"


def draw(rows, title, path: Path):
    """Draw a bar for each row: name, kind ("limit", "ours", "peer"), rates by round."""
    rows = sorted(rows, key=lambda row: np.median(row[2]))
    colours = {"limit": LIMIT, "ours": OURS, "peer": PEER}
    low, middle, high = np.array([np.percentile(r[2], [25, 50, 75]) for r in rows]).T
    figure, axes = plt.subplots(figsize=(9, 0.34 * len(rows) + 1.3), dpi=150)
    bars(axes, (low, middle, high), [colours[kind] for _, kind, _ in rows])
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=9)
    axes.set_xlim(0, 1.12 * high.max())
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("samples a second (median; the line spans the quartiles)")
    axes.set_title(title, loc="left", fontsize=10)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def bars(axes, quartiles, colours):
    """Draw horizontal bars of medians with lines from quartile to quartile."""
    low, middle, high = quartiles
    y = np.arange(len(middle))
    axes.barh(y, middle, color=colours, height=0.72)
    error = [middle - low, high - middle]
    axes.errorbar(middle, y, xerr=error, fmt="none", ecolor="#333")
    for height, value, end in zip(y, middle, high, strict=True):
        axes.annotate(
            f"{value:,.0f}",
            (end, height),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_ylim(-0.7, len(middle) - 0.3)
