"""Turns the results of benchmarks/test_raster.py into the tables of the README.

    python benchmarks/raster_table.py results.json

writes benchmarks/results/raster.md and puts it into the README, which shows
benchmarks/results/raster.png as well.
"""

import json
import platform
import sys
from pathlib import Path

from epoch_rate import put_into_readme
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PROJECT = Path(__file__).parents[1]
NAMES = {
    "fastseg": "fastseg.rasterize_batch",
    "cv2": "cv2.fillPoly, fixed-point vertices ready",
    "cv2-hot": "cv2.fillPoly into one mask, nothing kept",
    "fastseg-closed": 'fastseg.rasterize_batch, edges="closed"',
    "fastseg-single": "fastseg.rasterize, one call a contour",
    "fastseg-coverage": "fastseg.coverage, areas of at least half a pixel",
    "cv2-float": "cv2.fillPoly from floats",
    "pil": "PIL ImageDraw.polygon",
    "skimage": "skimage.draw.polygon2mask",
}


def main():
    """Read the results, write the tables."""
    results = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    cells = {
        (b["extra_info"]["case"], b["extra_info"]["tool"]): b
        for b in results["benchmarks"]
    }
    lines = []
    for case, title in (
        ("sunnybrook", "54 real contours of about 250 vertices, 256x256"),
        ("phantom", "48 contours of the sample data, 256x256"),
    ):
        if (case, "fastseg") not in cells:
            continue
        lines += [
            f"{title}:",
            "",
            "| tool | µs a mask | ratio (quartiles) | pixels wrong | area |",
            "|---|---|---|---|---|",
        ]
        for tool, name in NAMES.items():
            if (case, tool) not in cells:
                continue
            cell = cells[case, tool]
            info = cell["extra_info"]
            low, ratio, high = info.get("ratio", (1, 1, 1))
            spread = f"{ratio:.1f} ({low:.1f} to {high:.1f})" if ratio != 1 else "1"
            lines.append(
                f"| {name} | {per_mask(cell):,.1f} | {spread} | "
                f"{info['differing']:,} | {info['bias']:+.1%} |"
            )
        lines.append("")
    stars = [case for case, tool in cells if tool == "fastseg" and case[0].isdigit()]
    sides = sorted({int(case.split("-")[0]) for case in stars})
    counts = sorted({int(case.split("-")[1]) for case in stars})
    lines += [
        "Noisy stars, a mask each: how many times faster `rasterize_batch` is than "
        "`cv2.fillPoly` with fixed-point vertices ready (below 1 we lose):",
        "",
        "| side | " + " | ".join(f"{count:,} vertices" for count in counts) + " |",
        "|---" * (len(counts) + 1) + "|",
    ]
    for side in sides:
        pairs = [cells[f"{side}-{count}", "cv2"] for count in counts]
        row = [cell["extra_info"]["ratio"][1] for cell in pairs]
        lines.append(
            f"| {side} | " + " | ".join(f"{ratio:.1f}" for ratio in row) + " |"
        )
    if ("sunnybrook", "threads") in cells:
        info = cells["sunnybrook", "threads"]["extra_info"]
        low, ratio, high = info["ratio"]
        lines += [
            "",
            f"Two threads, {info['masks']:,} real contours: {ratio:.2f} ({low:.2f} to "
            f"{high:.2f}) times as fast as one, on {info['cores']} cores; clearing "
            f"the same masks alone: {info['zeros'][1]:.2f}.",
        ]
    lines += [
        "",
        "One thread each, clearing or making the mask included; ratios are medians of "
        "calls in turn, since the machine's clock changes. Wrong pixels are "
        "counted against exact arithmetic under the rule for edges that suits the tool "
        f"better. {platform.machine()}, {results['datetime'][:10]}.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    (PROJECT / "benchmarks/results/raster.md").write_text(text, encoding="utf-8")
    put_into_readme("raster", text)
    draw(cells, sides, counts, PROJECT / "benchmarks/results/raster.png")


def draw(cells, sides, counts, path):
    """Draw time per real contour, and the ratio to cv2 over the noisy stars."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    bars, lines = figure.subplots(1, 2, width_ratios=(3, 2))
    # The single calls and the variants stand in the table.
    shown = ("skimage", "pil", "cv2-float", "cv2", "fastseg")
    case = "sunnybrook" if ("sunnybrook", "fastseg") in cells else "phantom"
    ours_cell = cells[case, "fastseg"]
    ours, count = per_mask(ours_cell), ours_cell["extra_info"]["masks"]
    for place, tool in enumerate(tool for tool in shown if (case, tool) in cells):
        info = cells[case, tool]["extra_info"]
        ratio = info.get("ratio", (1, 1, 1))[1]
        color = "#1f77b4" if tool == "fastseg" else "#b0b0b0"
        bars.barh(place, ours * ratio, color=color, height=0.6)
        wrong = f"{info['differing']:,} pixels" if info["differing"] else "none"
        bars.text(ours * ratio * 1.15, place, f"{ratio:.1f}x, {wrong}", va="center")
    names = [NAMES[tool].split(",")[0] for tool in shown if (case, tool) in cells]
    bars.set(
        xscale="log",
        xlim=(1, ours * 1e4),
        xlabel="µs a mask, 256x256, one thread",
        title=f"{count} contours: times slower, and wrong by",
    )
    bars.set_yticks(range(len(names)), names)
    for side in sides:
        ratios = [
            cells[f"{side}-{count}", "cv2"]["extra_info"]["ratio"][1]
            for count in counts
        ]
        lines.plot(counts, ratios, marker="o", label=f"{side}x{side}")
    lines.axhline(1, color="black", linewidth=1)
    lines.set(
        xscale="log",
        xlabel="vertices",
        ylim=(0, None),
        title="Noisy stars: times faster than cv2.fillPoly",
    )
    lines.legend(frameon=False)
    for axes in (bars, lines):
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize("medium")
    figure.savefig(path, dpi=110)


def per_mask(cell):
    """Return a benchmark's median in µs a mask."""
    return cell["stats"]["median"] * 1e6 / cell["extra_info"]["masks"]


if __name__ == "__main__":
    main()
