"""Help and completion list what may be typed, and are quick."""

import os
import shutil
import subprocess
import sys
from typing import get_args

import pytest
import typer.main

import fastseg
from fastseg import choices
from fastseg._kernels.native import machine
from fastseg.cli.main import app
from tests.conftest import PROJECT

COMMANDS = typer.main.get_command(app).commands
OFFERED = {
    "link": [choices.Slices],
    "build": [choices.Edges, choices.Fill, choices.Origin, choices.Severity],
    "plan": [choices.Edges, choices.Fill, choices.Origin, choices.Severity],
    "split": [choices.By, choices.Stratify],
    "show": [choices.Preset, choices.Window],
    "check": [choices.Severity],
    "bench": [choices.DTypeName, choices.MaskForm],
    "phantom": [choices.PhantomKind],
    "warmup": [choices.Cpu],
}


# Commands that have no option with a default.
NO_DEFAULTS = ("info", "rules", "finish", "upload")


@pytest.mark.parametrize("width", [60, 100])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_all_options_and_choices(call, monkeypatch, command, width):
    """It names each option in full, also in a narrow terminal, but no old one."""
    monkeypatch.setenv("COLUMNS", str(width))
    done = call([command, "--help"])
    assert (done.status, done.err) == (0, "")
    assert f"Example: `fastseg {command} " in done.out
    parameters = COMMANDS[command].params
    arguments = [
        p.metavar + ("..." if p.nargs < 0 else "")
        for p in parameters
        if p.param_type_name != "option"
    ]
    assert len(arguments) == {"warmup": 0, "rules": 0, "part": 2, "upload": 2}.get(
        command, 1
    )
    usage = " ".join(["Usage: fastseg", command, "[OPTIONS]", *arguments])
    assert done.out.splitlines()[0] == usage
    assert all(len(line) <= width for line in done.out.splitlines())
    for option in COMMANDS[command].params:
        for name in option.opts:
            shown = option.metavar if name == option.name else name
            assert (shown in done.out) != getattr(option, "hidden", False)
    for offered in OFFERED.get(command, []):
        assert "|".join(get_args(offered)) in done.out
    assert ("[default:" in done.out) == (command not in NO_DEFAULTS)


def test_all_choices_are_offered():
    """Each list of `fastseg.choices` is that of an option of a command."""
    there = {name for name in vars(choices) if get_args(getattr(choices, name))}
    listed = [offered for several in OFFERED.values() for offered in several]
    assert {getattr(choices, name) for name in there} == {*listed}
    assert get_args(choices.Preset) == (*fastseg.augment.PRESETS,)
    assert get_args(choices.Cpu) == (*machine.LEVELS,)


QUICK = """
import contextlib, io, os, sys
from fastseg.__main__ import main
for words in (
    "--help", "--version", "build --help", "build --edges opn", "warmup --cpu v3"
):
    sys.argv = ["fastseg", *words.split()]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main()
slow = ("numpy", "numba", "llvmlite", "h5py", "pydicom", "matplotlib")
print([name for name in slow if name in sys.modules])
"""


def test_help_imports_nothing_slow():
    """Help, the version and usage errors come without numpy and what needs it."""
    command = [sys.executable, "-c", QUICK]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


COMPLETE = """
fastseg --install-completion >&2
source ~/.bashrc
complete -p fastseg
complete_words() {
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
    _fastseg_completion fastseg
    echo "${COMPREPLY[*]}"
}
complete_words fastseg b
complete_words fastseg build links.csv --edges ""
complete_words fastseg -q show heart.h5 --augment s
complete_words fastseg info h
complete_words fastseg warmup --cpu x86-64-v
"""


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_bash_completes_commands_choices_and_files(tmp_path):
    """bash, where the completion is installed, asks fastseg for words.

    Where there are none, as for a file, `-o default` completes names of files.
    """
    program = tmp_path / "fastseg"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fastseg "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    script = tmp_path / "complete.sh"
    script.write_text(COMPLETE)
    run = subprocess.run(
        ["bash", script], env=environment, capture_output=True, text=True, check=True
    )
    assert "bash completion installed" in run.stderr
    assert run.stdout.splitlines() == [
        "complete -o default -F _fastseg_completion fastseg",
        "build bench",
        "half-open closed open",
        "standard",
        "",
        "x86-64-v4 x86-64-v3 x86-64-v2",
    ]
