"""ARCHITECTURE.md is the map of the code: its tree and its recipes are true."""

import re

import pytest

from tests.conftest import PROJECT
from tests.test_imports import LAYERS

TEXT = (PROJECT / "ARCHITECTURE.md").read_text(encoding="utf-8")
ENTRY = re.compile(r"^( *)([\w.]+/?) +\S")


def listed_files():
    """Return the files of the tree in ARCHITECTURE.md, each with a description."""
    tree = re.search(r"^```\nfastseg/\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)[1]
    folders, files = ["fastseg"], []
    for line in tree.splitlines():
        entry = ENTRY.match(line)
        assert entry, f"no file and description: {line!r}"
        depth, name = len(entry[1]) // 2, entry[2]
        del folders[depth:]
        if name.endswith("/"):
            folders.append(name.rstrip("/"))
        else:
            files.append("/".join([*folders, name]))
    return files


def test_the_tree_lists_every_file_once():
    """Each module of the package has one line with what it holds."""
    listed = listed_files()
    there = {
        path.relative_to(PROJECT).as_posix()
        for path in (PROJECT / "fastseg").rglob("*.py")
    }
    assert sorted(listed) == sorted(there)


def test_the_layers_are_those_of_the_import_test():
    """The table of layers and the test of imports say the same."""
    rows = re.findall(r"^\| \d \| (.*) \|$", TEXT, re.MULTILINE)
    told = [set(re.findall(r"`(\w+)`", row)) for row in rows]
    assert told == [layer - {"fastseg"} for layer in LAYERS]


def test_the_recipes_name_what_is_there():
    """Every file exists, and so does every name that stands in brackets after it."""
    pattern = r"`((?:fastseg|tests|benchmarks|docs)/[\w/.]+)`(?:\s+\(([^)]*)\))?"
    named = re.findall(pattern, TEXT)
    assert len(named) > 20
    for path, names in named:
        assert (PROJECT / path).exists(), path
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"\b{name}\b", (PROJECT / path).read_text()), (path, name)


@pytest.mark.parametrize(
    "module", re.findall(r"`((?:ingest|store|loading)\.[\w.]+)`", TEXT)
)
def test_the_flows_name_what_is_there(module):
    """A module or a name in one, as in `store.reader.Store`."""
    parts = module.split(".")
    path = PROJECT / "fastseg"
    while parts and (path / parts[0]).is_dir():
        path /= parts.pop(0)
    if parts:
        path = path / f"{parts.pop(0)}.py"
    assert path.exists(), module
    for name in parts:
        assert re.search(rf"\b{name}\b", path.read_text()), module
