"""Filling contours: fastseg beside the tools that people use for it.

    python -m benchmarks.raster.race [--quick] [--no-save]

Every tool works on one thread and does the same work. It is timed in turns with
`fastseg.rasterize_batch`, because the clock of a shared machine changes from one second
to the next, and a ratio is that of two calls right after each other. Its masks are
compared with the exact ones, half-open and closed; the smaller number of differing
pixels is shown, since a tool may follow either rule. The real contours are those of the
Sunnybrook data, or of the sample data where those are absent.

The tables and the plot are saved to benchmarks/results, and the tables are put into
docs/benchmarks.md.
"""

import argparse
import os
import platform
import time
from typing import NamedTuple

import numpy as np

from benchmarks.inputs import SUNNYBROOK
from benchmarks.raster import peers
from benchmarks.raster.peers import CV2, OURS, SIDES, TOOLS, VERTICES
from benchmarks.tables import RESULTS, publish, split_page, table_of
from fastseg.raster.masks import rasterize_batch
from fastseg.raster.rings import as_rings, shoelace_area

# Seconds that two tools are compared for, and the least number of turns.
SECONDS, QUICK_SECONDS = 0.4, 0.05
LEAST_TURNS = 7
# Repeats of the real contours for two threads.
THREADED_TIMES = 40
BARS = (
    "skimage.draw.polygon2mask",
    "PIL ImageDraw.polygon",
    "cv2.fillPoly from floats",
    CV2,
    OURS,
)


class Result(NamedTuple):
    """What a tool did to the contours.

    seconds   : median of a call
    masks     : number of masks of a call
    ratio     : quartiles of its time over that of fastseg.rasterize_batch
    differing : number of pixels that differ from the exact masks
    bias      : relative error of the sum of areas
    """

    seconds: float
    masks: int
    ratio: tuple[float, float, float]
    differing: int
    bias: float

    @property
    def micros(self) -> float:
        """Microseconds a mask."""
        return self.seconds * 1e6 / self.masks


def measure(tool, side, contours, seconds):
    """Return the Result of a tool."""
    fill = tool(side, contours)
    differing, bias = compare_masks(getattr(fill, "checked", fill)(), side, contours)
    times = in_turns(fill, peers.fastseg_batch(side, contours), seconds)
    low, middle, high = np.percentile(times[0] / times[1], [25, 50, 75]).tolist()
    return Result(
        seconds=float(np.median(times[0])),
        masks=len(contours),
        ratio=(low, middle, high),
        differing=differing,
        bias=bias,
    )


def compare_masks(masks, side, contours):
    """Return how many pixels differ from the exact masks, and the error of areas."""
    masks = np.asarray(masks)
    if masks.dtype == np.float32:  # covered areas: a mask holds those from half on
        masks = masks >= 0.5
    masks = masks.astype(bool)
    points, offsets = as_rings(contours)
    exact = [
        rasterize_batch(points, offsets, (side, side), edges=edges)
        for edges in ("half-open", "closed")
    ]
    area = sum(shoelace_area(*as_rings(ring)) for ring in contours)
    differing = min(int((masks != mask).sum()) for mask in exact)
    return differing, float(masks.sum() / area - 1)


def in_turns(theirs, ours, seconds):
    """Return the seconds of calls of two functions in turns: float64 (2, turns).

    Each is called twice and timed the second time, when its data are in the cache.
    """
    times = []
    end = time.perf_counter() + seconds
    while len(times) < LEAST_TURNS or time.perf_counter() < end:
        turn = []
        for fill in (theirs, ours):
            fill()
            start = time.perf_counter()
            fill()
            turn.append(time.perf_counter() - start)
        times.append(turn)
    return np.array(times).T


def measure_contours(side, contours, seconds):
    """Return the Results of all tools that are installed, by name."""
    results = {}
    for name, tool in TOOLS.items():
        try:
            results[name] = measure(tool, side, contours, seconds)
        except ImportError as exc:
            print(f"{name}: left out, {exc.name} is not installed", flush=True)
    return results


def measure_stars(seconds):
    """Return cv2's time over ours for stars, {(side, vertices): ratio}.

    Empty where OpenCV is not installed.
    """
    ratios = {}
    for side in SIDES:
        for vertices in VERTICES:
            contours = peers.stars(side, vertices)
            try:
                result = measure(TOOLS[CV2], side, contours, seconds)
            except ImportError:
                return {}
            ratios[side, vertices] = result.ratio[1]
    return ratios


def measure_threads(contours, side, seconds):
    """Return a sentence about two threads beside one."""
    points, offsets = as_rings(contours * THREADED_TIMES)
    out = np.empty((len(offsets) - 1, side, side), np.bool_)

    def fill(threads, shift=0):
        return rasterize_batch(
            points + shift, offsets, (side, side), out, threads=threads
        )

    one = fill(1).copy()
    assert np.array_equal(fill(2), one)
    times = in_turns(lambda: fill(1), lambda: fill(2), seconds)
    low, middle, high = np.percentile(times[0] / times[1], [25, 50, 75])
    # Contours off the image leave nothing to do but writing zeros.
    zeros = in_turns(lambda: fill(1, 1e6), lambda: fill(2, 1e6), seconds)
    return (
        f"Two threads, {len(out):,} real contours: {middle:.2f} ({low:.2f} to "
        f"{high:.2f}) times as fast as one, on {os.cpu_count()} cores; clearing the "
        f"same masks alone: {np.median(zeros[0] / zeros[1]):.2f}."
    )


def tool_rows(results):
    """Yield the rows of the table of tools."""
    yield "tool", "µs a mask", "ratio (quartiles)", "pixels wrong", "area"
    for name, result in results.items():
        low, middle, high = result.ratio
        spread = "1" if name == OURS else f"{middle:.1f} ({low:.1f} to {high:.1f})"
        wrong = f"{result.differing:,}"
        yield name, f"{result.micros:,.1f}", spread, wrong, f"{result.bias:+.1%}"


def star_rows(ratios):
    """Yield the rows of the table of stars."""
    yield "side", *(f"{vertices:,} vertices" for vertices in VERTICES)
    for side in SIDES:
        yield str(side), *(f"{ratios[side, vertices]:.1f}" for vertices in VERTICES)


def draw(results, ratios, path):
    """Draw time per real contour, and the ratio to cv2 over the noisy stars."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    bars, lines = figure.subplots(1, 2, width_ratios=(3, 2))
    ours = results[OURS].micros
    shown = [name for name in BARS if name in results]
    for y, name in enumerate(shown):
        result = results[name]
        ratio = result.ratio[1] if name != OURS else 1.0
        color = "#1f77b4" if name == OURS else "#b0b0b0"
        bars.barh(y, ours * ratio, color=color, height=0.6)
        wrong = f"{result.differing:,} pixels" if result.differing else "none"
        bars.text(ours * ratio * 1.15, y, f"{ratio:.1f}x, {wrong}", va="center")
    bars.set(
        xscale="log",
        xlim=(1, ours * 1e4),
        xlabel="µs a mask, 256x256, one thread",
        title=f"{results[OURS].masks} contours: times slower, and wrong by",
    )
    bars.set_yticks(range(len(shown)), [name.split(",")[0] for name in shown])
    for side in SIDES if ratios else ():
        values = [ratios[side, vertices] for vertices in VERTICES]
        lines.plot(VERTICES, values, marker="o", label=f"{side}x{side}")
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


def main():
    """Measure, print and save the tables and the plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--no-save", action="store_true", help="print only")
    arguments = parser.parse_args()
    if not arguments.no_save:
        split_page("raster")
    seconds = QUICK_SECONDS if arguments.quick else SECONDS
    lines = []
    shown = {}
    if SUNNYBROOK.is_dir():
        contours = peers.sunnybrook_contours()
        shown = measure_contours(256, contours, seconds)
        lines += [
            "54 real contours of about 250 vertices, 256x256:\n",
            table_of(tool_rows(shown)),
        ]
        threads = measure_threads(contours, 256, seconds)
    contours = peers.phantom_contours()
    results = measure_contours(256, contours, seconds)
    lines += [
        f"{len(contours)} contours of the sample data, 256x256:\n",
        table_of(tool_rows(results)),
    ]
    if not shown:
        shown = results
        threads = measure_threads(contours, 256, seconds)
    ratios = measure_stars(seconds)
    if ratios:
        lines += [
            "Noisy stars, a mask each: how many times faster `rasterize_batch` is than "
            "`cv2.fillPoly` with fixed-point vertices ready (below 1 we lose):\n",
            table_of(star_rows(ratios)),
        ]
    lines += [
        f"{threads}\n",
        "One thread each, clearing or making the mask included; ratios are medians of "
        "calls in turns, since the machine's clock changes. Wrong pixels are counted "
        "against exact arithmetic under the rule for edges that suits the tool better. "
        f"{platform.machine()}, {time.strftime('%Y-%m-%d')}.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if not arguments.no_save:
        publish("raster", text)
        draw(shown, ratios, RESULTS / "raster.png")


if __name__ == "__main__":
    main()
