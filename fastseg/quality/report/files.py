"""How a later call recognises its own reports."""

from io import FileIO

from fastseg import __version__

# What a report begins with; a version and more follow.
START = (
    b'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    b'<meta name="generator" content="fastseg '
)
GENERATOR = f"fastseg {__version__} check"
# A version is shorter.
MOST_BYTES = len(START) + 60


class _ReportKind:
    """The kind of output that `write_report` writes, see `outputs.Kind`."""

    name = "a report"

    def recognises(self, file: FileIO) -> bool:
        """Return whether a file begins as a report does."""
        data = file.read(MOST_BYTES)
        return data.startswith(START) and b' check">' in data


REPORT = _ReportKind()
