"""Rows of cells in columns, for terminals of any width.

Nothing is cut off, and only words that are wider than the terminal are broken. A table
that is too wide is wrapped between words, turned (its rows become columns), or written
as one list for each row: whichever of these fits first.
"""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.table import Table

# Spaces on both sides of a cell, and those between the two columns of a list.
PADDING = 1
GAP = 2

Rows = Sequence[Sequence[str]]


def in_columns(rows: Rows, header: Sequence[str], width: int) -> list[Table | str]:
    """Return rows of cells below a header, laid out for so many columns of text.

    A table whose first header is empty has names in its first column and may be turned.
    Returns tables, and lines that stand between them.
    """
    options = [(rows, header)]
    if not header[0]:
        turned = list(zip(*rows, strict=True))
        names = list(header[1:])
        lines = [[name, *cells] for name, cells in zip(names, turned[1:], strict=True)]
        options.append((lines, ["", *turned[0]]))
    for by_word in False, True:
        for cells, titles in options:
            least = _widths(cells, titles, by_word)
            spare = width - sum(least) - 2 * PADDING * len(least)
            if spare >= 0:
                most = _widths(cells, titles, by_word=False)
                return [_table(cells, titles, _grow(least, most, spare))]
    parts: list[Table | str] = []
    cells, titles = options[-1]
    for name, *values in cells:
        parts.append(f"{titles[0]} {name}".strip())
        indented = [f"  {title}" for title in titles[1:]]
        parts.append(in_list(list(zip(indented, values, strict=True))))
    return parts


def in_list(rows: Rows) -> Table:
    """Return rows of a name and a value; long ones are folded into their column."""
    table = Table(box=None, show_header=False, padding=(0, GAP, 0, 0))
    for _ in range(2):
        table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _table(rows: Rows, header: Sequence[str], widths: Sequence[int]) -> Table:
    table = Table(box=None, padding=(0, PADDING))
    for title, width in zip(header, widths, strict=True):
        table.add_column(title, width=width, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _widths(rows: Rows, header: Sequence[str], by_word: bool) -> list[int]:
    """Return the widths of columns: of their longest words, or of their cells."""
    columns = zip(header, *rows, strict=True)
    texts = ([text for cell in c for text in _parts(cell, by_word)] for c in columns)
    return [max(map(cell_len, column)) for column in texts]


def _parts(cell: str, by_word: bool) -> list[str]:
    return (cell.split() or [""]) if by_word else [cell]


def _grow(least: list[int], most: list[int], spare: int) -> list[int]:
    """Return widths up to `most` that share so much spare width, the least needy first.

    rich would take from the widest column instead, and break its words.
    """
    widths = list(least)
    by_need = sorted(range(len(least)), key=lambda k: most[k] - least[k])
    for done, k in enumerate(by_need):
        more = min(most[k] - least[k], spare // (len(by_need) - done))
        widths[k] += more
        spare -= more
    return widths
