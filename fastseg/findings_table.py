"""Tables of findings: what `check` writes as CSV, and `check` and `build` read again.

The table has a row for each sample of a finding. A person who has looked at a finding
keeps its rows in a table of accepted ones, or deletes the rows of images to be kept,
and builds a store without the others.
"""

from typing import Any, NamedTuple, get_args

from fastseg.choices import Severity
from fastseg.errors import LinkError, OptionError, choice, shown
from fastseg.escapes import unquoted
from fastseg.paths import StrPath, as_path
from fastseg.tables import Reject, Table, read_csv

# The worst one first.
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
TABLE = Table(
    "a table of findings",
    (
        *("finding", "rule", "severity", "patient", "source"),
        *("other", "label", "amount", "unit", "text"),
    ),
    ("patient", "source", "other", "label", "text"),
)
REQUIRED = ("finding", "rule", "severity", "source")
IDENTITY_DIGITS = 16
HEXADECIMAL = frozenset("0123456789abcdef")


class Row(NamedTuple):
    """What is read of a row.

    source : see `source_name`
    """

    line: int
    finding: str
    severity: Severity
    source: str


def source_name(path: str, frame: int, has_frames: bool) -> str:
    """Return how tables name an image.

    path       : its file below the root of the data set
    frame      : counted from 0
    has_frames : whether the file has several frames: then # and the number from 1
        stand behind the path
    """
    return f"{path}#{frame + 1}" if has_frames else path


def at_least(severity: Severity) -> tuple[Severity, ...]:
    """Return a severity and the worse ones, or raise OptionError."""
    known: Any = choice("severity", severity, SEVERITIES)
    return SEVERITIES[: SEVERITIES.index(known) + 1]


def read_rows(path: StrPath) -> list[Row]:
    """Read a table of findings, also one that lacks rows or columns of ours.

    Raises LinkError if the file is no such table, FileNotFoundError.
    """
    path = as_path("path", path)
    rows: list[Row] = []
    bad: list[Reject] = []
    for line, cells in read_csv(path, REQUIRED, bad):
        identity = cells["finding"]
        if len(identity) != IDENTITY_DIGITS or not HEXADECIMAL.issuperset(identity):
            raise LinkError(
                f"{path}, line {line}: finding is {shown(identity)}, expected "
                f"{IDENTITY_DIGITS} hexadecimal digits; a spreadsheet may have turned "
                "them into a number: keep them as text"
            )
        try:
            severity: Any = choice("severity", cells["severity"], SEVERITIES)
        except OptionError as exc:
            raise LinkError(f"{path}, line {line}: {exc}") from None
        rows.append(Row(line, identity, severity, unquoted(cells["source"])))
    if bad:
        raise LinkError(f"{path}, line {bad[0].line}: {bad[0].reason}")
    return rows
