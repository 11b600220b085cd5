"""What all commands share: output, options, exit status.

Exit status: 0 for success without rejects, 1 for an error, 2 for a usage error, 3 if
input was rejected, 4 if a check has found faults, 130 after Ctrl-C, 141 if the program
that reads stdout has ended. A usage error is what the parser refuses, and what the
library raises as one of USAGE_ERRORS: a value on the command line is wrong. Missing or
damaged input is an error.

Names and values may hold characters that a terminal obeys. All that is printed goes
through `Output`, which shows them as escapes.
"""

import contextlib
import functools
import inspect
import json
import logging
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple, NoReturn, get_args

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.table import Table
from typer.core import TyperCommand, TyperGroup

from fastseg.cli.columns import in_columns, in_list
from fastseg.errors import (
    CopiesWarning,
    FastsegError,
    OptionError,
    OutputError,
    RejectedWarning,
    UnknownClassError,
    one_of,
)
from fastseg.escapes import escaped
from fastseg.progress import Advance
from fastseg.reprs import many
from fastseg.tables import Reject, rejects_path

# A step that takes longer than this shows a progress bar.
BAR_AFTER_S = 1.0
BAR_EVERY_S = 0.1
# Number of rejects that are printed; the file lists all.
REJECTS_SHOWN = 5
# Characters of the reason of a reject that are printed; the file has all of them.
REASON_CHARACTERS = 320
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_REJECTS = 3
EXIT_INTERRUPT = 130
# As shells report a program that a broken pipe has ended: `fastseg info x | head -1`.
EXIT_BROKEN_PIPE = 141
# On narrower terminals, progress is shown without a bar.
NARROW = 40
# What is no terminal has lines of any length: scripts read them.
PIPE_WIDTH = 2**20

# The error of typer's parser; it has another module in each version of typer.
UsageError: Any = typer.BadParameter.__mro__[1]
# Errors of the library that a value on the command line causes.
USAGE_ERRORS = (OptionError, OutputError, UnknownClassError)


@contextlib.contextmanager
def _one_line(command: str = "fastseg") -> Iterator[None]:
    """Print a usage error, or that the user pressed Ctrl-C, in one line, and exit."""
    try:
        yield
    except KeyboardInterrupt:
        fail(Output(), "interrupted", EXIT_INTERRUPT)
    except UsageError as exc:
        command = exc.ctx.command_path if exc.ctx else command
        help_text = f"{command} --help shows what it takes"
        fail(Output(), f"{_text_of(exc)} ({help_text})", EXIT_USAGE)


def _text_of(exc: Any) -> str:
    """Return the text of a usage error; of a wrong value, as the library writes it."""
    choices = re.search("'(.*)' is not one of (.+)", exc.message)
    if choices:
        listed = re.findall("'([^']+)'", choices[2])
        return one_of(exc.param.opts[0], choices[1], listed)
    number = re.search("valid (integer|number|float)", exc.message)
    if number and isinstance(exc.__cause__, ValueError) and exc.param:
        # Of pydantic, whose text lacks the value; versions of typer without it have it.
        given = exc.__cause__.errors()[0]["input"]  # type: ignore[attr-defined]
        kind = "a whole number" if number[1] == "integer" else "a number"
        return f"{exc.param.opts[0]} is {given!r}, expected {kind}"
    return " ".join(exc.format_message().split())


def _occupy_standard_files() -> None:
    """Open nothing in the place of a standard file that the shell has closed.

    The next file that is opened would get its number, and a library that prints would
    write into a store. Printing raises an error then, instead of doing nothing.
    """
    number = os.open(os.devnull, os.O_RDONLY)
    while number <= 2:
        number = os.open(os.devnull, os.O_RDONLY)
    os.close(number)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115


def _of_stdout(exc: OSError) -> OSError:
    """Return an error that names stdout, which cannot be written to any more."""
    _discard(sys.stdout)
    return OSError(exc.errno, exc.strerror, "standard output")


def _discard(file: IO[str]) -> None:
    """Let what a file still holds be written to nowhere when the program ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, file.fileno())
    os.close(nowhere)


class _Commands(TyperGroup):
    """All commands; the shell may give them file names as arguments."""

    def main(self, *args: Any, **options: Any) -> Any:
        _occupy_standard_files()
        try:
            return super().main(*args, **options)
        # From --help and --version; commands report their own.
        except SystemExit as exc:
            if isinstance(exc.__context__, BrokenPipeError):
                raise SystemExit(EXIT_BROKEN_PIPE) from None
            raise
        except OSError as exc:
            if "--debug" in sys.argv:
                raise
            Output(False, False).report(f"error: {_of_stdout(exc)}", "bold red")
            raise SystemExit(EXIT_ERROR) from None

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _one_line():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with _one_line():
            return super().invoke(ctx)


class _Command(TyperCommand):
    """A command; errors of its parser name it, and its usage has plain names."""

    def make_context(self, info_name: str | None, *args: Any, **options: Any) -> Any:
        with _one_line(f"fastseg {info_name}"):
            return super().make_context(info_name, *args, **options)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        # Some versions of typer write {STORE} for an argument that is required.
        pieces = super().collect_usage_pieces(ctx)
        return [piece.replace("{", "").replace("}", "") for piece in pieces]


app = typer.Typer(
    name="fastseg",
    cls=_Commands,
    # Plain text: rich cuts long names of options in narrow terminals, and takes half a
    # second to import what it formats with.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _Console(Console):
    """A console that ends the program quietly if nobody reads what it prints."""

    def on_broken_pipe(self) -> None:
        _discard(self.file)
        raise SystemExit(EXIT_BROKEN_PIPE)


class Output:
    """Prints results on stdout and everything else on stderr."""

    def __init__(self, verbose: bool = False, quiet: bool = False):
        self.verbose = verbose
        self.quiet = quiet
        style: Any = {"highlight": False, "soft_wrap": True}
        style |= {"markup": False, "emoji": False}  # a name may contain :x: or [x]
        self._out = _Console(**style)
        self._err = _Console(stderr=True, **style)
        self._is_watched = self._err.is_terminal and not quiet
        if not self._out.file.isatty():
            self._out.width = PIPE_WIDTH

    def say(self, text: str) -> None:
        """Print a line of the result, unless quiet."""
        if not self.quiet:
            self._print(escaped(text))

    def table(self, rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> None:
        """Print rows of cells in columns, unless quiet.

        Without a header, a row is a name and a value. A table that is wider than the
        terminal is laid out otherwise, see `columns`.
        """
        if self.quiet:
            return
        cells = [list(map(escaped, row)) for row in rows]
        if not header:
            self._print(in_list(cells))
            return
        for part in in_columns(cells, list(map(escaped, header)), self._out.width):
            self._print(part)

    def json(self, content: Mapping[str, Any]) -> None:
        """Print an object as JSON in ASCII, also if quiet: it was asked for."""
        text = json.dumps(content, indent=2, allow_nan=False)
        self._print(text.replace("\x7f", r"\u007f"))  # json escapes all but this one

    def _print(self, content: Table | str) -> None:
        try:
            self._out.print(content)
        except OSError as exc:
            raise _of_stdout(exc) from None

    def report(self, text: str, style: str | None = None) -> None:
        """Print a line on stderr, also if quiet."""
        self._err.print(escaped(text), style=style)

    def detail(self, text: str) -> None:
        """Print a line on stderr if --verbose is given."""
        if self.verbose:
            self.report(text)

    def warning(self, message: Warning | str, *_: Any, **__: Any) -> None:
        """Print a warning; takes what `warnings.showwarning` does."""
        self.report(f"warning: {message}")

    def log(self, record: logging.LogRecord) -> None:
        """Print a message that a library logs."""
        self.report(f"warning: {record.getMessage()}")

    def written(self, asked: Path, path: Path) -> None:
        """Say where an output is, if a symbolic link leads there."""
        if path != asked:
            self.say(f"{asked} is a symbolic link, written to {path}")

    @contextlib.contextmanager
    def progress(self, label: str, total: int) -> Iterator[Advance]:
        """Show a progress bar on a terminal while a step runs, if it takes a while.

        It appears on time even if nothing advances, as while kernels are compiled.
        """
        done = 0

        def advance(n: int = 1) -> None:
            nonlocal done
            done += n

        if not self._is_watched:
            yield advance
            return
        columns: list[ProgressColumn] = [
            TextColumn(f"{escaped(label):>12}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        ]
        if self._err.width < NARROW:  # rich would cut off the numbers
            columns = [TextColumn(escaped(label), markup=False), columns[2]]
        bar = Bar(
            *columns,
            console=self._err,
            transient=True,
            auto_refresh=False,  # `draw` does it
        )
        task = bar.add_task(label, total=total or None)
        is_over = threading.Event()
        bar_after = time.monotonic() + BAR_AFTER_S

        def draw() -> None:
            is_over.wait(BAR_AFTER_S)
            if time.monotonic() < bar_after:
                return
            with bar:
                while not is_over.wait(BAR_EVERY_S):
                    bar.update(task, completed=done, refresh=True)
                bar.update(task, completed=done, refresh=True)

        thread = threading.Thread(target=draw, name="fastseg-bar", daemon=True)
        thread.start()
        try:
            yield advance
        finally:
            is_over.set()
            thread.join()

    @contextlib.contextmanager
    def report_compilation(self) -> Iterator[None]:
        """Say on stderr what is compiled, which takes seconds on first use.

        Unless quiet; and with --verbose, what has been compiled in how many seconds.
        """
        log = logging.getLogger("fastseg.compile")
        handler = _CallbackHandler(self._print_compilation)
        level, propagate = log.level, log.propagate
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(level)
            log.propagate = propagate

    def _print_compilation(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            self.detail(record.getMessage())
        elif not self.quiet:
            self.report(record.getMessage())

    def rejects(self, rejects: Iterable[Reject], output: Path, allow: bool) -> None:
        """Print what was rejected and exit with status 3, unless `allow` is set."""
        rows = list(rejects)
        if not rows:
            return
        listed = rejects_path(output)
        self.report(f"{len(rows)} rejected, listed in {listed}:", "yellow")
        for reject in rows if self.verbose else rows[:REJECTS_SHOWN]:
            line = "" if reject.line is None else f":{reject.line}"
            reason = reject.reason if self.verbose else _shorten(reject.reason)
            self.report(f"  {reject.file}{line}: {reason}")
        if len(rows) > REJECTS_SHOWN and not self.verbose:
            self.report(f"  and {len(rows) - REJECTS_SHOWN} more")
        if not allow:
            self.report(
                "all other input is used; the exit status is 3 because of the rejects "
                "(0 with --allow-rejects)"
            )
            raise typer.Exit(EXIT_REJECTS)


def _shorten(reason: str) -> str:
    """Return a reason that fits into some lines: its beginning and its end."""
    if len(reason) <= REASON_CHARACTERS:
        return reason
    half = REASON_CHARACTERS // 2
    return f"{reason[:half]} ... {reason[-half:]}"


class _CallbackHandler(logging.Handler):
    """Calls a function with each record."""

    def __init__(self, callback: Callable[[logging.LogRecord], None], level: int = 0):
        super().__init__(level)
        self._callback = callback

    def emit(self, record: logging.LogRecord) -> None:
        self._callback(record)


Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print more details.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only errors and rejects.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
AllowRejects = Annotated[
    bool,
    typer.Option(
        "--allow-rejects", help="Exit with status 0 even if input was rejected."
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object with all values.")
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Replace any file at --out, not only an empty one or one that this "
        "command has written.",
    ),
]

RoiPatterns = Annotated[
    list[str] | None,
    typer.Option(
        "--roi",
        metavar="<class=names>",
        help="A class and the names of ROIs that belong to it, with | between them, as "
        "in heart='Heart|HEART*|heart_v[0-9]'. Repeat the option for each class.",
        show_default="each name is a class",
    ),
]
AliasesFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help='File of classes and names: TOML, as in heart = ["Heart", "HEART*"], '
        "or CSV with the columns class and pattern. `fastseg rois -o` writes one to "
        "start with.",
    ),
]
MatchCase = Annotated[
    bool,
    typer.Option(
        "--match-case", help="Upper and lower case differ in --roi and --aliases."
    ),
]


class Switches(NamedTuple):
    """The options that stand before the command or after it."""

    verbose: bool
    quiet: bool
    debug: bool


def in_folder(path: Path) -> Path:
    """Return the path of an output if its folder exists, else raise a usage error."""
    # os.path says no where Path raises, as for a name that is too long.
    real = os.path.realpath(path) if os.path.islink(path) else path  # noqa: PTH114
    folder = Path(real).parent
    if not os.path.isdir(folder):  # noqa: PTH112
        raise typer.BadParameter(
            f"there is no folder {folder}; make it, or choose another name"
        )
    return path


def choice_or(other: str | None, choices: Any, help_text: str, **more: Any) -> Any:
    """Return an option that takes the words of a Literal, and other values, too.

    other : what to call these, or None if there are none
    """
    words = get_args(choices)

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    listed = words if other is None else (*words, other)
    return typer.Option(
        metavar=f"<{'|'.join(listed)}>", help=help_text, autocompletion=complete, **more
    )


def out_option(help_text: str) -> Any:
    """Return the option --out of a file that a command writes."""
    return typer.Option("--out", "-o", help=help_text, callback=in_folder)


def renamed(new: str) -> Any:
    """Return a hidden option that refuses an old name of an option."""

    def refuse(value: str | None) -> None:
        if value is not None:
            raise typer.BadParameter(f"the option was renamed: {new}")

    return typer.Option(hidden=True, callback=refuse)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a function, whose first argument is the Output, as a command.

    It adds --verbose, --quiet and --debug, and prints errors in one line.
    """

    @functools.wraps(function)
    def run(
        ctx: typer.Context, verbose: bool, quiet: bool, debug: bool, **options: Any
    ) -> None:
        before: Switches = ctx.obj
        verbose |= before.verbose
        quiet |= before.quiet
        if verbose and quiet:
            raise UsageError("--verbose and --quiet exclude each other", ctx=ctx)
        # The commands print the rejects themselves.
        warnings.simplefilter("ignore", RejectedWarning)
        warnings.simplefilter("ignore", CopiesWarning)
        output = Output(verbose, quiet)
        # Other libraries quote values of files in warnings and logs.
        warnings.showwarning = output.warning
        logging.lastResort = _CallbackHandler(output.log, logging.WARNING)
        try:
            with output.report_compilation():
                function(output, **options)
        except (typer.Exit, typer.Abort):
            raise
        except Exception as exc:
            if debug or before.debug:
                raise
            if isinstance(exc, FastsegError | OSError):
                text = str(exc)
            else:
                name = type(exc).__name__
                text = f"{name}: {exc} (a bug in fastseg; --debug shows the traceback)"
            is_usage = isinstance(exc, USAGE_ERRORS)
            fail(output, text, EXIT_USAGE if is_usage else EXIT_ERROR)

    def keyword(name: str, annotation: Any, default: Any = False) -> inspect.Parameter:
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(name, kind, default=default, annotation=annotation)

    signature = inspect.signature(function)
    shared = [
        keyword("verbose", Verbose),
        keyword("quiet", Quiet),
        keyword("debug", Debug),
        keyword("ctx", typer.Context, inspect.Parameter.empty),
    ]
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in list(signature.parameters.values())[1:]
    ]
    run.__signature__ = signature.replace(parameters=parameters + shared)  # type: ignore[attr-defined]
    return app.command(cls=_Command)(run)


def fail(output: Output, text: str, status: int) -> NoReturn:
    """Print an error and exit with a status."""
    output.report(f"error: {text}", "bold red")
    raise typer.Exit(status)


def rules_differ(dependent: int, several: int) -> str:
    """Return how many masks of classes with several rings depend on the fill rule."""
    return (
        f"{dependent} of {many(several, 'mask')} with several rings depend on --fill: "
        "even-odd, nonzero and union differ"
    )
