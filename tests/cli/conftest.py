"""The command line in this process: a process of its own takes a second to start."""

import logging
import sys
from typing import NamedTuple

import pytest

import fastseg
from fastseg.__main__ import main


class Finished(NamedTuple):
    """What a call of the command line has printed, and its exit status."""

    status: int
    out: str
    err: str


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command line with words, or a text of words, in the current folder."""
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)

    def run(words):
        words = words.split() if isinstance(words, str) else words
        monkeypatch.setattr(sys, "argv", ["fastseg", *map(str, words)])
        with pytest.raises(SystemExit) as exited:
            main()
        return Finished(exited.value.code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def built(tmp_path_factory, small_study):
    """A folder with study/, folder/, links.csv and heart.h5, not to be written to."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "folder").mkdir()
    (folder / "study").symlink_to(small_study)
    fastseg.link(folder / "study").save(folder / "links.csv")
    fastseg.build(folder / "links.csv", folder / "heart.h5")
    return folder
