"""What the races share: tables in Markdown, and the files that they are written to."""

import sys
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from benchmarks.inputs import PROJECT

RESULTS = PROJECT / "benchmarks" / "results"
PAGE = PROJECT / "docs" / "benchmarks.md"


def spread(values, form):
    """Return median and quartiles in words."""
    low, median, high = (form.format(x) for x in np.percentile(values, [25, 50, 75]))
    return f"{median} ({low} to {high})"


def table_of(rows):
    """Return rows as a table in Markdown; the first one holds the headings."""
    first, *others = rows
    lines = [first, ["---"] * len(first), *others]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def versions(packages):
    """Return packages with their versions, in words."""
    words = []
    for name in packages:
        try:
            words.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            words.append(f"no {name}")
    return ", ".join(words)


def publish(name, text, page=None):
    """Write a table to benchmarks/results/<name>.md, and between markers of a page.

    page : by default that of benchmarks
    """
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    before, after = split_page(name, page)
    page = page or PAGE
    page.write_text(before + text + after, encoding="utf-8")


def split_page(name, page=None):
    """Return a page up to a table, and from its end on; see `publish`.

    A script that publishes calls this first, so that a page without the markers ends it
    before hours of measuring.
    """
    first, last = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    page = page or PAGE
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    before, start, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not (start and end):
        sys.exit(
            f"{page}: has no table between the lines {first.strip()} and {last}; add "
            "these where the table belongs, or measure with --no-save"
        )
    return before + first, last + after
