"""The command line reports what it waits for: compilation, and long steps."""

import logging

import pytest

from fastseg.cli import terminal
from fastseg.cli.terminal import Output

LOG = "fastseg.compile"


@pytest.mark.parametrize(
    ("verbose", "quiet", "lines"),
    [
        (False, False, ["compiling a"]),
        (False, True, []),
        (True, False, ["compiling a", "compiled a"]),
    ],
)
def test_compilation_is_reported(capsys, verbose, quiet, lines):
    """Also where nobody watches; --verbose says more, --quiet nothing."""
    log = logging.getLogger(LOG)
    with Output(verbose, quiet).report_compilation():
        log.warning("compiling %s", "a")
        log.info("compiled %s", "a")
    log.info("compiled b")
    printed = capsys.readouterr()
    assert printed.err.splitlines() == lines
    assert not printed.out


@pytest.mark.parametrize(
    ("is_terminal", "after_s", "quiet", "is_shown"),
    [
        (True, -1, False, True),
        (True, 60, False, False),
        (True, -1, True, False),
        (False, -1, False, False),
    ],
)
def test_a_long_step_shows_a_bar_on_a_terminal(
    monkeypatch, capsys, is_terminal, after_s, quiet, is_shown
):
    """The bar counts what is done; a short step, a pipe and --quiet show nothing."""
    monkeypatch.setattr(terminal, "BAR_AFTER_S", after_s)
    monkeypatch.setenv("TERM", "xterm")
    if is_terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    with Output(False, quiet).progress("read", 9) as advance:
        advance()
        advance(3)
    printed = capsys.readouterr()
    assert not printed.out
    assert bool(printed.err) == is_shown
    assert ("read" in printed.err and "4/9" in printed.err) == is_shown
