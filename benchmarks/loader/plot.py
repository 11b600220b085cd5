"""The bar plot of benchmarks/loader_speed.py."""

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
    places = np.arange(len(rows))
    axes.barh(places, middle, color=[colours[kind] for _, kind, _ in rows], height=0.72)
    axes.errorbar(
        middle, places, xerr=[middle - low, high - middle], fmt="none", ecolor="#333"
    )
    for place, value, end in zip(places, middle, high, strict=True):
        axes.annotate(
            f"{value:,.0f}",
            (end, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(places, [name for name, _, _ in rows], fontsize=9)
    axes.set_xlim(0, 1.12 * high.max())
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("samples a second (median; the line spans the quartiles)")
    axes.set_title(title, loc="left", fontsize=10)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
