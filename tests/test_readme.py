"""The README's commands and code run, and its table is the measured one."""

import re
import shlex
import shutil
from importlib.util import find_spec

import pytest

from tests.conftest import PROJECT

README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_commands_and_code_run_in_order(fastseg_command, tmp_path, monkeypatch, capsys):
    """From top to bottom, each block does what the text around it says."""
    shutil.copytree(PROJECT / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for language, block in BLOCKS:
        if language == "console":
            for line in block.splitlines():
                program, *arguments = shlex.split(line.removeprefix("$ "))
                assert program == "fastseg"
                run = fastseg_command(*arguments)
                assert (run.returncode, run.stderr) == (0, ""), line
        elif "torch" in block and find_spec("torch") is None:
            compile(block, "README.md", "exec")  # as far as it goes without PyTorch
        else:
            assert language == "python"
            exec(compile(block, "README.md", "exec"), scope)
    assert {"links.csv", "heart.h5", "picture.png"} <= {
        path.name for path in tmp_path.iterdir()
    }
    assert scope["image"].shape == (96, 96)
    printed = capsys.readouterr().out
    assert "(96, 96) uint16" in printed
    assert "dicoms/PHANTOM0001/1.dcm" in printed


@pytest.mark.parametrize(
    "table", ["epoch_rate", "raster", "build", "loader", "augment"]
)
def test_the_tables_are_the_measured_ones(table):
    """The figures are those that the benchmarks wrote."""
    measured = (PROJECT / f"benchmarks/results/{table}.md").read_text("utf-8")
    assert measured.strip() in README


@pytest.mark.parametrize("name", ["demo", "test", "bench"])
def test_every_make_command_exists(name):
    """What the README tells to type is a target of the Makefile."""
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    assert f"make {name}" in README
    assert re.search(rf"^{name}:", makefile, re.MULTILINE)


def test_every_file_that_is_named_exists():
    """Links and paths lead somewhere."""
    for path in re.findall(r"\]\(([^)]+)\)|`((?:fastseg|benchmarks)/[\w/.]+)`", README):
        assert (PROJECT / (path[0] or path[1])).exists(), path
