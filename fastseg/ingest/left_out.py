"""Leaves out the images of a links table that a table of findings names."""

from itertools import pairwise

import numpy as np

from fastseg.choices import Severity
from fastseg.errors import LinkError, OptionError
from fastseg.escapes import escaped
from fastseg.findings_table import at_least, read_rows, source_name
from fastseg.links import LinkTable
from fastseg.paths import Paths, StrPath


def without_findings(
    table: LinkTable, path: StrPath, severity: Severity
) -> tuple[LinkTable, int]:
    """Return a table without images that have findings, and the number of these.

    path     : of a table of findings
    severity : of this severity or a worse one

    Raises OptionError if the file is no such table, or if it names images, but none of
    these; FileNotFoundError.
    """
    wanted = at_least(severity)
    try:
        rows = read_rows(path)
    except LinkError as exc:
        raise OptionError(str(exc)) from None
    severity_of = {row.source: False for row in rows}
    for row in rows:
        severity_of[row.source] |= row.severity in wanted
    links, paths = table.links, Paths(table.base)
    members, bounds = links.images()
    is_kept = np.ones(len(links), np.bool_)
    named = left_out = 0
    for first, last in pairwise(bounds.tolist()):
        (link,) = links.take(members[first : first + 1])
        within = paths.within_root(link.dicom_path, link.root)
        names = [escaped(source_name(within, link.frame, True))]
        if link.frame == 0:
            names.append(escaped(within))
        found = [severity_of[name] for name in names if name in severity_of]
        named += bool(found)
        if any(found):
            is_kept[members[first:last]] = False
            left_out += 1
    if rows and not named:
        raise OptionError(
            f"{path}: names no image of the links table; are these findings of another "
            "data set?"
        )
    kept = LinkTable(
        base=table.base,
        links=links.pick(np.flatnonzero(is_kept)),
        rejects=table.rejects,
        ignored=table.ignored,
        left_out=table.left_out,
        notes=table.notes,
    )
    return kept, left_out
