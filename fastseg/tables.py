"""CSV tables that users write, and lists of the input that was rejected."""

import contextlib
import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fastseg.errors import LinkError
from fastseg.escapes import escaped
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


def read_csv(
    path: Path,
    required: Sequence[str],
    rejects: list[Reject],
    columns: Sequence[str] | None = None,
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (1-based line, row) of a UTF-8 CSV file with a header, BOM or not.

    columns : the names that columns may have, in upper or lower case; None for any

    Appends rows with too few or too many fields to `rejects`. Raises LinkError for any
    other file, FileNotFoundError if there is none.
    """
    expected = f"expected a table with the columns {', '.join(columns or required)}"
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            names = [name.strip() for name in next(reader, [])]
            problems = [("no column", [x for x in required if x not in names])]
            if columns is not None:
                names = [name.lower() for name in names]
                doubled = sorted({x for x in names if names.count(x) > 1})
                unknown = sorted({*names}.difference(columns))
                problems = [
                    ("no column", [x for x in required if x not in names]),
                    ("a doubled column", doubled),
                    ("an unknown column", [x or "''" for x in unknown]),
                ]
            for problem, culprits in problems:
                if culprits:
                    raise LinkError(
                        f"{path}, line 1: {problem} {', '.join(culprits)}; {expected}"
                    )
            for row in reader:
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


def _first_undecodable_line(path: Path) -> int:
    # The reader does not know it: files are decoded some lines ahead.
    number = 0
    with path.open("rb") as file, contextlib.suppress(UnicodeDecodeError):
        for number, line in enumerate(file, 1):  # noqa: B007
            line.decode()
    return number


def rejects_path(output: StrPath) -> Path:
    """Return the path of the file that lists the rejects of an output."""
    return Path(f"{os.fspath(output)}.rejects.csv")


def save_rejects(output: StrPath, rejects: Iterable[Reject]) -> Path | None:
    """Write rejects to a file beside the output; if there are none, remove it.

    Returns the path of the file, None if there are none.
    """
    path = rejects_path(output)
    rows = list(rejects)
    if not rows:
        path.unlink(missing_ok=True)
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file name need not be UTF-8; bytes that are not are written as escapes.
    with path.open(
        "w", encoding="utf-8", newline="", errors="backslashreplace"
    ) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Reject._fields)
        writer.writerows(rows)
    return path
