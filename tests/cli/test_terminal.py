"""The command line reports what it waits for: compilation, and long steps."""

import logging

import numba
import pytest

from fastseg._kernels import jit  # noqa: F401  which logs compilations
from fastseg.cli import terminal
from fastseg.cli.terminal import Output

LOG = "fastseg.compile"
REPORT = "compiling, the first time only; this may take a minute"


def test_each_compilation_of_a_kernel_is_logged_once(caplog):
    """The log names kernels of fastseg, not those they call, nor others' functions."""

    @numba.njit
    def inner(x):
        return x + 1

    @numba.njit
    def outer(x):
        return 2 * inner(x)

    for function in (inner, outer):
        function.py_func.__module__ = "fastseg.example"
    caplog.set_level(logging.INFO, LOG)
    for value in (1, 1, 1.5):
        outer(value)
    for module in ("elsewhere", None):

        def other(x):
            return x

        other.__module__ = module
        assert numba.njit(other)(1) == 1
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["compiling outer"] * 2


@pytest.mark.parametrize(
    ("is_terminal", "verbose", "quiet", "lines"),
    [
        (True, False, False, [REPORT]),
        (True, False, True, []),
        (False, False, False, []),
        (False, True, False, ["compiling a", "compiling b"]),
    ],
)
def test_the_first_compilation_is_reported(
    monkeypatch, capsys, is_terminal, verbose, quiet, lines
):
    """A terminal gets one line, --verbose one a kernel, a pipe or --quiet none."""
    monkeypatch.setenv("TERM", "dumb")
    if is_terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    log = logging.getLogger(LOG)
    with Output(verbose, quiet).report_compilation():
        log.info("compiling %s", "a")
        log.info("compiling %s", "b")
    log.info("compiling c")
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
