"""Where the blocks of a picture and its legend lie.

A block is a sample or a volume: lines of text, and below them its panels. Sizes and
offsets on the figure are in inches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastseg.colours import colour_of, rgb_of
from fastseg.errors import OptionError
from fastseg.pictures.style import (
    DETAIL_POINTS,
    GREY,
    HEADING_POINTS,
    LEGEND_POINTS,
    NAME_POINTS,
    WHITE,
    line_style,
)
from fastseg.pictures.titles import DETAIL_LINES, POINTS, text_width, wrap

# Most pixels of a picture in a row or column: many viewers open no larger ones.
MAX_SIDE = 2**15
# Longest side of a panel: image, mask and overlay; and with augmented versions.
PANEL = 3.4
VERSION_PANEL = 2.2
# Blocks in a row, where the only panel of a block is the image.
COLUMNS = 3
# A panel takes at least this fraction of its longest side as width.
NARROWEST = 0.6
MARGIN = 0.15
GAP = 0.1
ROW_GAP = 0.22
HEADING_HEIGHT = 0.24
NAME_HEIGHT = 0.25
DETAIL_HEIGHT = 0.2
LEGEND_HEIGHT = 0.27
# The width in the legend of all but the name of a class.
LEGEND_INDENT = 0.8


class Block(NamedTuple):
    """The panels of a sample or volume, and what is written above them.

    sizes_mm : width and height of each panel, if all have one scale
    """

    axes: Sequence[Any]
    name: str
    details: list[str]
    sizes_mm: Sequence[tuple[float, float]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the blocks and the legend lie on a picture.

    samples  : number of blocks
    headings : of the panels of a block
    panel    : longest side of a panel
    legend   : the names of the classes in the picture, by their bit
    """

    samples: int
    headings: Sequence[str]
    panel: float
    legend: Mapping[int, str]

    @property
    def columns(self) -> int:
        """Number of blocks in a row."""
        return min(self.samples, COLUMNS if len(self.headings) == 1 else 1)

    def check_size(self, dpi: float) -> None:
        """Raise OptionError if the picture may have more than MAX_SIDE pixels."""
        width = self._width(self.panel)
        row = NAME_HEIGHT + DETAIL_LINES * DETAIL_HEIGHT + self.panel + ROW_GAP
        rest = 2 * MARGIN + HEADING_HEIGHT + self._legend_height(width)
        most_dpi = MAX_SIDE / max(width, row + rest)
        if not 0 < dpi <= most_dpi:
            raise OptionError(
                f"dpi is {dpi:g}, expected more than 0 and at most {most_dpi:.0f}"
            )
        most = int((MAX_SIDE / dpi - rest) / row) * self.columns
        if self.samples > most:
            raise OptionError(
                f"{self.samples} samples are too many, expected at most {most}: few "
                f"programs open a picture of more than {MAX_SIDE} rows; give a count, "
                "and draw the others into another picture, by their indices"
            )

    def arrange(self, figure: Any, blocks: Sequence[Block]) -> None:
        """Give the figure its size and the panels their positions, and write text."""
        sizes = [self._sizes(block) for block in blocks]
        # Side by side as near as the widest ones allow.
        panel = max(width for block in sizes for width, _ in block)
        panel = max(panel, NARROWEST * self.panel)
        block_width = self._width(panel, 1) - 2 * MARGIN
        texts = [wrap(block.details, block_width) for block in blocks]
        starts = range(0, len(blocks), self.columns)
        rows = [slice(start, start + self.columns) for start in starts]
        text_heights = [
            NAME_HEIGHT + max(map(len, texts[row])) * DETAIL_HEIGHT for row in rows
        ]
        if len(self.headings) > 1:
            text_heights[0] += HEADING_HEIGHT
            for axis, heading in zip(blocks[0].axes, self.headings, strict=True):
                axis.set_title(heading, loc="left", color=WHITE, size=HEADING_POINTS)
        panel_heights = [
            max(height for block in sizes[row] for _, height in block) for row in rows
        ]
        width = self._width(panel)
        height = 2 * MARGIN + sum(text_heights) + sum(panel_heights)
        height += len(rows) * ROW_GAP + self._legend_height(width)
        figure.set_size_inches(width, height)
        top = height - MARGIN
        for row, text_height, panel_height in zip(
            rows, text_heights, panel_heights, strict=True
        ):
            for n, block in enumerate(blocks[row]):
                left = MARGIN + n * (block_width + GAP)
                lines = texts[row][n]
                _write(figure, block.name, lines, left / width, top / height)
                for k, axis in enumerate(block.axes):
                    across, down = sizes[row][n][k]
                    x = left + k * (panel + GAP)
                    y = top - text_height - down
                    inches = np.array([x, y, across, down])
                    axis.set_position(inches / (width, height, width, height))
            top -= text_height + panel_height + ROW_GAP
        if self.legend:
            self._draw_legend(figure, width, height)

    def _sizes(self, block: Block) -> list[tuple[float, float]]:
        """Return width and height of the panels of a block."""
        if block.sizes_mm is None:
            return [self._size(axis) for axis in block.axes]
        scale = self.panel / float(np.max(block.sizes_mm))
        return [(width * scale, height * scale) for width, height in block.sizes_mm]

    def _size(self, axis: Any) -> tuple[float, float]:
        """Return width and height of axes whose longer side is that of a panel."""
        ratio = axis.get_box_aspect()
        return min(self.panel, self.panel / ratio), min(self.panel, self.panel * ratio)

    def _width(self, panel: float, columns: int | None = None) -> float:
        """Return the width of a picture, from that of the panels."""
        panels = (columns or self.columns) * len(self.headings)
        return panels * (panel + GAP) - GAP + 2 * MARGIN

    def _legend_columns(self, width: float) -> int:
        """Return the number of columns of the legend, which go from top to bottom."""
        lengths = np.array([len(name) for name in self.legend.values()])
        for columns in range(len(lengths), 1, -1):
            longest = [part.max() for part in np.array_split(lengths, columns)]
            names = text_width(sum(longest), LEGEND_POINTS)
            if names + columns * LEGEND_INDENT <= width - 2 * MARGIN:
                return columns
        return 1

    def _legend_height(self, width: float) -> float:
        return LEGEND_HEIGHT * -(-len(self.legend) // self._legend_columns(width))

    def _draw_legend(self, figure: Any, width: float, height: float) -> None:
        from matplotlib.patches import Patch

        patches = [
            Patch(
                facecolor=(*rgb_of(k), 0.5),
                edgecolor=colour_of(k),
                linestyle=line_style(k),
                label=name,
            )
            for k, name in self.legend.items()
        ]
        legend = figure.legend(
            handles=patches,
            loc="lower left",
            bbox_to_anchor=(MARGIN / width, MARGIN / height),
            ncols=self._legend_columns(width),
            frameon=False,
            labelcolor=WHITE,
            fontsize=LEGEND_POINTS,
            borderpad=0,
            borderaxespad=0,
            labelspacing=LEGEND_HEIGHT * POINTS / LEGEND_POINTS - 1,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)


def _write(
    figure: Any, name: str, details: Sequence[str], left: float, top: float
) -> None:
    """Write the name and the details of a sample, from the top down."""
    lines: list[tuple[str, float, str, float]] = [
        (name, NAME_POINTS, WHITE, NAME_HEIGHT),
        *((line, DETAIL_POINTS, GREY, DETAIL_HEIGHT) for line in details),
    ]
    for line, points, colour, line_height in lines:
        text = figure.text(left, top, line, size=points, color=colour)
        text.set_verticalalignment("top")
        text.set_parse_math(False)  # a patient may be named a$b$
        top -= line_height / figure.get_figheight()
