"""What a person at the command line is told while nothing moves."""

import logging

import numba
import pytest

from fastseg._kernels import jit  # noqa: F401  which listens to numba
from fastseg.cli.terminal import Output

LOG = "fastseg.compile"
TOLD = "compiling, the first time only; this may take a minute"


def test_what_is_compiled_is_logged_once(caplog):
    """A kernel is named when it is compiled; what it calls and what is not ours, no."""

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
    ("watched", "verbose", "quiet", "told"),
    [
        (
            True,
            False,
            False,
            [TOLD],
        ),
        (True, False, True, []),
        (False, False, False, []),
        (False, True, False, ["compiling a", "compiling b"]),
    ],
)
def test_the_first_compilation_is_told(
    monkeypatch, capsys, watched, verbose, quiet, told
):
    """A person is told once, each kernel with --verbose; a pipe or --quiet, nothing."""
    monkeypatch.setenv("TERM", "dumb")
    if watched:
        monkeypatch.setenv("FORCE_COLOR", "1")
    log = logging.getLogger(LOG)
    with Output(verbose, quiet).telling_of_compiling():
        log.info("compiling %s", "a")
        log.info("compiling %s", "b")
    log.info("compiling c")
    printed = capsys.readouterr()
    assert printed.err.splitlines() == told
    assert not printed.out
