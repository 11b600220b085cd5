"""Bounds on numbers and text from outside: each is on a page, and each is kept."""

import re

import pytest

from fastseg import bounds
from tests.conftest import PROJECT

PUBLIC = [name for name in vars(bounds) if name.isupper()]


@pytest.mark.parametrize("name", PUBLIC)
def test_the_page_gives_each_bound(name):
    """docs/limits.md has a row for each bound, with its number."""
    page = (PROJECT / "docs/limits.md").read_text(encoding="utf-8")
    section = page.split("## Bounds\n")[1].split("\n## ")[0]
    rows = re.findall(rf"^\|[^|]*\(`{name}`\) \| ([\d .e]+?) \|", section, re.MULTILINE)
    assert [float(row.replace(" ", "")) for row in rows] == [getattr(bounds, name)]


def test_the_page_lists_nothing_else():
    """Every bound that docs/limits.md names exists."""
    page = (PROJECT / "docs/limits.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\(`(MAX_\w+)`\)", page)) == sorted(PUBLIC)
