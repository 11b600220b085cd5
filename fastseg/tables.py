"""CSV tables: those that users write, and those that fastseg writes.

Texts in a table of ours have no control characters, and a cell that looks like a
formula begins with one more ', see `escapes`.
"""

import contextlib
import csv
import io
import os
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
        is_text = [name in self.texts for name in self.columns]
        with write_atomically(path, self, force, like) as (target, file):
            text = io.TextIOWrapper(file, encoding="utf-8", newline="")
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(self.columns)
            writer.writerows(
                [
                    quoted(escaped(cell)) if known else cell
                    for cell, known in zip(row, is_text, strict=True)
                ]
                for row in rows
            )
            text.flush()
            text.detach()
        return target


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

    Appends rows with too few or too many fields to `rejects`. Raises LinkError for any
    other file, FileNotFoundError if there is none.
    """
    expected = f"expected a table with the columns {', '.join(columns or required)}"
    with name_path(path), _open_text(path) as file:
        lines = _Lines(file)
        reader = csv.reader(lines, strict=True)
        try:
            names = [name.strip() for name in next(reader, [])]
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
                        f"{path}, line 1: {problem} {', '.join(culprits)}; {expected}"
                    )
            lines.characters = 0
            for row in reader:
                lines.characters = 0
                if len(row) == len(names):
                    values = (value.strip() for value in row)
                    yield reader.line_num, dict(zip(names, values, strict=True))
                elif row:
                    reason = f"the row has {len(row)} fields, expected {len(names)}"
                    rejects.append(Reject(str(path), reader.line_num, reason))
        except UnicodeDecodeError as exc:
            line = _first_undecodable_line(path)
            reason = f"is not UTF-8 text ({exc.reason})"
            raise LinkError(f"{path}, line {line}: {reason}; {expected}") from None
        except csv.Error as exc:
            line = reader.line_num
            raise LinkError(f"{path}, line {line}: {exc}; {expected}") from None
        except _TooLongError:
            line = reader.line_num + 1
            raise LinkError(
                f"{path}, line {line}: a row has more than {MAX_ROW_CHARACTERS} "
                f"characters; {expected}"
            ) from None


class _TooLongError(Exception):
    """A row is longer than MAX_ROW_CHARACTERS."""


class _Lines:
    """Iterates over the lines of a file, and reads no row that is too long.

    characters : of the current row so far; the caller sets it to 0 after each row
    """

    def __init__(self, file: TextIO):
        self._file = file
        self.characters = 0

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
        return line


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
