"""Colours, lines and sizes of letters in pictures."""

from typing import Any

from fastseg.colours import COLOURS

DARK = "#16181d"
WHITE = "#f2f2f2"
GREY = "#9aa3ad"
# Outlines of the classes for which the colours come again.
LINE_STYLES = ("solid", (0, (4, 1.6)), (0, (1, 1.3)), (0, (5, 1.3, 1, 1.3)))
NAME_POINTS, DETAIL_POINTS, HEADING_POINTS, LEGEND_POINTS = 12, 9.5, 11, 11


def line_style(k: int) -> Any:
    """Return the line style of outlines of class k, as matplotlib takes it."""
    return LINE_STYLES[k // len(COLOURS) % len(LINE_STYLES)]
