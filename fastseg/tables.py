"""CSV tables: those that users write, and those that fastseg writes.

Texts in a table of ours have no control characters, and a cell that looks like a
formula begins with one more ', see `escapes`.
"""

import contextlib
import csv
import io
import os
import re
from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from fastseg.bounds import MAX_ROW_CHARACTERS
from fastseg.errors import LinkError, OutputError
from fastseg.escapes import escaped, quoted
from fastseg.files import name_path, open_regular
from fastseg.outputs import check_target, is_output, write_atomically
from fastseg.paths import StrPath

# What may separate the columns of a table that somebody else has written, in words.
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
# The first line that tells Excel what separates the columns.
SEPARATOR_LINE = re.compile('"?sep=(.)"?', re.IGNORECASE)


class Reject(NamedTuple):
    """Input that is not used: its file, the 1-based line or None, and the reason."""

    file: str
    line: int | None
    reason: str


def reason_of(exc: Exception, *paths: StrPath) -> str:
    """Return an error's text as a reject's reason: without the path of the file."""
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    text = str(exc)
    line = getattr(exc, "line", None)
    for path in paths:
        name = escaped(os.fspath(path))
        text = text.removeprefix(f"{name}: ").removeprefix(f"{name}, line {line}: ")
    return text


class Table(NamedTuple):
    """A kind of table that fastseg writes, a `Kind` of output.

    name    : the kind with its article
    columns : names of all columns, in their order
    texts   : names of those that hold texts; the others hold numbers or our own words

    A file is recognised by its first line, which must be the one that `save` writes.
    """

    name: str
    columns: tuple[str, ...]
    texts: tuple[str, ...]

    def recognises(self, file: io.FileIO) -> bool:
        """Return whether a file begins with the names of all columns."""
        header = ",".join(self.columns).encode()
        return file.readline(len(header) + 2).rstrip(b"\r\n") == header

    def save(
        self,
        path: StrPath,
        rows: Iterable[Sequence[Any]],
        force: bool = False,
        like: Path | None = None,
    ) -> Path:
        """Write rows as UTF-8 and return the path of the file, see `write_atomically`.

        Raises OutputError.
        """
        with write_atomically(path, self, force, like) as (target, file):
            text = io.TextIOWrapper(file, encoding="utf-8", newline="")
            self._write(text, [self.columns])
            self._write(text, rows)
            text.flush()
            text.detach()
        return target

    def lines(self, rows: Iterable[Sequence[Any]]) -> str:
        """Return rows as `save` writes them; those of the header are `[columns]`."""
        text = io.StringIO()
        self._write(text, rows)
        return text.getvalue()

    def _write(self, file: TextIO, rows: Iterable[Sequence[Any]]) -> None:
        is_text = [name in self.texts for name in self.columns]
        csv.writer(file, lineterminator="\n").writerows(
            [
                quoted(escaped(cell)) if known else cell
                for cell, known in zip(row, is_text, strict=True)
            ]
            for row in rows
        )


REJECTS = Table("a list of rejects", Reject._fields, ("file", "reason"))


def read_csv(
    path: Path,
    required: Sequence[str],
    rejects: list[Reject],
    columns: Sequence[str] | None = None,
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (1-based line, row) of a UTF-8 CSV file with a header, BOM or not.

    columns : the names that columns may have, in upper or lower case; None for any, of
        which only the required ones may not be doubled

    Columns are separated by commas, semicolons or tabs: the separator is the one that
    gives the header its required columns, or that a first line such as `sep=;` names,
    as Excel writes it. Empty lines and rows do not count.

    Appends rows with too few or too many fields to `rejects`. Raises LinkError for any
    other file, FileNotFoundError if there is none.
    """
    expected = f"expected a table with the columns {', '.join(columns or required)}"
    with name_path(path), _open_text(path) as file:
        lines = _Lines(file)
        try:
            separator = _find_separator(lines, required, columns is not None)
            names, reader = _read_header(lines, separator)
            if columns is not None:
                names = [name.lower() for name in names]
            known = required if columns is None else names
            doubled = sorted({x for x in known if names.count(x) > 1})
            unknown = [] if columns is None else sorted({*names}.difference(columns))
            problems = (
                ("no column", [x for x in required if x not in names]),
                ("a doubled column", doubled),
                ("an unknown column", [x or "''" for x in unknown]),
            )
            for problem, culprits in problems:
                if culprits:
                    raise LinkError(
                        f"{path}, line {max(lines.count, 1)}: {problem} "
                        f"{', '.join(culprits)}; {expected}"
                    )
            for row in reader:
                lines.characters = 0
                if not any(row):  # spreadsheets write separators for an empty row
                    continue
                if len(row) == len(names):
                    values = map(str.strip, row)
                    yield lines.count, dict(zip(names, values, strict=True))
                else:
                    reason = f"the row has {len(row)} fields, expected {len(names)}"
                    rejects.append(Reject(str(path), lines.count, reason))
        except UnicodeDecodeError as exc:
            line = _first_undecodable_line(path)
            reason = f"is not UTF-8 text ({exc.reason})"
            raise LinkError(f"{path}, line {line}: {reason}; {expected}") from None
        except (csv.Error, _SeparatorError) as exc:
            line = max(lines.count, 1)
            raise LinkError(f"{path}, line {line}: {exc}; {expected}") from None
        except _TooLongError:
            line = lines.count + 1
            raise LinkError(
                f"{path}, line {line}: a row has more than {MAX_ROW_CHARACTERS} "
                f"characters; {expected}"
            ) from None


class _TooLongError(Exception):
    """A row is longer than MAX_ROW_CHARACTERS."""


class _SeparatorError(Exception):
    """It is not clear what separates the columns of a table."""


class _Lines:
    """Iterates over the lines of a file, and reads no row that is too long.

    characters : of the current row so far; the caller sets it to 0 after each row
    count      : of the lines so far
    """

    def __init__(self, file: TextIO):
        self._file = file
        self.characters = 0
        self.count = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        # A row has several lines if a quoted field contains line ends.
        line = self._file.readline(MAX_ROW_CHARACTERS + 1 - self.characters)
        self.characters += len(line)
        if self.characters > MAX_ROW_CHARACTERS:
            raise _TooLongError
        if not line:
            raise StopIteration
        self.count += 1
        return line

    def rewind(self) -> None:
        """Begin at the first line again."""
        self._file.seek(0)
        self.characters = self.count = 0


def _find_separator(lines: _Lines, required: Sequence[str], lower: bool) -> str:
    """Return the separator of a table's columns.

    lower : whether upper and lower case are the same in names of columns

    If none gives the required columns, it is the one that the header has, or a comma.
    Raises _SeparatorError if it has several.
    """
    declared = SEPARATOR_LINE.fullmatch(next(lines, "").strip("\r\n"))
    if declared and declared[1] not in SEPARATORS:
        raise _SeparatorError(
            f"the columns are separated by {declared[1]!r}, expected a comma, a "
            "semicolon or a tab"
        )
    if declared:
        return declared[1]
    used = []
    for separator in SEPARATORS:
        try:
            names, _ = _read_header(lines, separator)
        except csv.Error:  # such as "a";"b" by commas
            continue
        if {*required} <= {name.lower() if lower else name for name in names}:
            return separator
        if len(names) > 1:
            used.append(separator)
    if len(used) > 1:
        raise _SeparatorError(
            f"the header has {' and '.join(map(SEPARATORS.__getitem__, used))} between "
            "its names, use one of them"
        )
    return used[0] if used else ","


def _read_header(lines: _Lines, separator: str) -> tuple[list[str], Any]:
    """Return the names of a table's columns, and the reader of its rows.

    There are no names if the table is empty.
    """
    lines.rewind()
    reader = csv.reader(lines, strict=True, delimiter=separator)
    for row in reader:
        lines.characters = 0
        is_first = lines.count == 1 and SEPARATOR_LINE.fullmatch(separator.join(row))
        if any(map(str.strip, row)) and not is_first:
            return [name.strip() for name in row], reader
    return [], reader


def count_lines(path: Path) -> int:
    """Return the number of line ends in a regular file, or raise OSError."""
    with name_path(path), open_regular(path) as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))


def _open_text(path: Path) -> TextIOWrapper:
    raw = BufferedReader(open_regular(path))
    return TextIOWrapper(raw, encoding="utf-8-sig", newline="")


def _first_undecodable_line(path: Path) -> int:
    # The reader does not know it: files are decoded some lines ahead.
    number = 0
    # Cut lines are safe: no byte of a character that is cut looks like a line end.
    decoder = getincrementaldecoder("utf-8")()
    with (
        BufferedReader(open_regular(path)) as file,
        contextlib.suppress(UnicodeDecodeError),
    ):
        number = 1
        while line := file.readline(MAX_ROW_CHARACTERS):
            decoder.decode(line)
            number += line.endswith(b"\n")
    return number


def rejects_path(output: StrPath) -> Path:
    """Return the path of the file that lists the rejects of an output."""
    return Path(f"{os.fspath(output)}.rejects.csv")


def check_rejects(output: StrPath, force: bool = False) -> Path:
    """Return the path that the rejects of an output are written to.

    Raises OutputError if another file would be replaced, unless it is forced; and if
    the path is a symbolic link, because the user has not named it.
    """
    path = rejects_path(output)
    if path.is_symlink():
        raise OutputError(
            f"{path}: is a symbolic link, and the rejects are listed there; remove it, "
            "or choose another name for the output"
        )
    return check_target(path, REJECTS, force)


def save_rejects(
    output: StrPath, rejects: Iterable[Reject], force: bool = False
) -> Path | None:
    """Write rejects to a file beside the output; if there are none, remove it.

    A new list gets the permissions of the output. Returns the path of the file, None if
    there are none. Raises OutputError if the file is no list of rejects, unless it is
    forced; such a file is never removed.
    """
    path = check_rejects(output, force)
    rows = list(rejects)
    if rows:
        return REJECTS.save(path, rows, force, like=Path(output))
    if path.exists() and is_output(path, REJECTS):
        path.unlink()
    return None
