"""Turns the results of benchmarks/test_raster.py into the tables of the README.

    python benchmarks/raster_table.py results.json

writes benchmarks/results/raster.md and puts it into the README.
"""

import json
import platform
import sys
from pathlib import Path

from epoch_rate import put_into_readme

PROJECT = Path(__file__).parents[1]
NAMES = {
    "fastseg": "fastseg.rasterize_batch",
    "cv2": "cv2.fillPoly, fixed-point vertices ready",
    "cv2-hot": "the same into one mask, nothing kept",
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


def per_mask(cell):
    """Return a benchmark's median in µs a mask."""
    return cell["stats"]["median"] * 1e6 / cell["extra_info"]["masks"]


if __name__ == "__main__":
    main()
