"""What is written above the panels of a sample or volume, in lines that fit."""

import math
from collections.abc import Sequence
from pathlib import Path

from fastseg.pictures.style import DETAIL_POINTS
from fastseg.pictures.window import Limits
from fastseg.reprs import short
from fastseg.store.reader import Sample
from fastseg.store.volumes import Volume

# Characters of a series' UID that are shown: the last ones.
SERIES = 8
SEPARATOR = "  \u00b7  "
# Lines of details, at most.
DETAIL_LINES = 3
# Mean width of a character, in units of the font size.
CHARACTER = 0.62
POINTS = 72  # in an inch


def details_of(sample: Sample, limits: Limits) -> list[str]:
    """Return what is written about a sample, below its index and patient."""
    meta = sample.meta
    details = [meta["modality"], _end_of_series(meta["series"])]
    if not math.isnan(meta["position_mm"]):
        position = round(meta["position_mm"], 1) + 0.0  # not -0.0
        details.append(f"position {position:.1f} mm")
    if not math.isnan(meta["time"]):
        details.append(f"time {meta['time']:g}")
    details.append(_window_text(limits))
    # A file name is short, and usually contains the instance number.
    details.append(Path(meta["source"]).name)
    return [short(detail) for detail in details if detail]


def details_of_volume(volume: Volume, limits: Limits) -> list[str]:
    """Return what is written about a volume, below its index and patient."""
    details = [volume.modality, _end_of_series(volume.series)]
    if volume.time is not None:
        details.append(f"time {volume.time:g}")
    details.append("x".join(map(str, volume.shape)))
    details.append(f"{' x '.join(f'{mm:.4g}' for mm in volume.spacing_mm)} mm")
    details.append(_window_text(limits))
    return [short(detail) for detail in details if detail]


def _end_of_series(uid: str) -> str:
    """Return the end of a SeriesInstanceUID, "" if there is none."""
    start = "..." if len(uid) > SERIES else ""
    return f"series {start}{uid[-SERIES:]}" if uid else ""


def _window_text(limits: Limits) -> str:
    span = limits[1] - limits[0] or 1
    black, white = (_rounded(value, span) for value in limits)
    return f"window {black} to {white}"


def _rounded(value: float, span: float) -> str:
    """Return a number with three digits of a span, and all before the point."""
    digits = max(0, 2 - math.floor(math.log10(span)))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if digits else text


def wrap(details: Sequence[str], width: float) -> list[str]:
    """Return lines of details that fit into a width, if they can."""
    most = int(width / text_width(1, DETAIL_POINTS))
    lines: list[str] = []
    for detail in details:
        longer = f"{lines[-1]}{SEPARATOR}{detail}" if lines else detail
        if lines and (len(longer) <= most or len(lines) == DETAIL_LINES):
            lines[-1] = longer
        else:
            lines.append(detail)
    return lines


def text_width(characters: int, points: float) -> float:
    """Return about how wide a text is, in inches."""
    return characters * CHARACTER * points / POINTS
