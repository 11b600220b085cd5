"""What the verbs of the command line share: output, options, exit status.

Exit status: 0 if all was done and nothing lost, 1 for an error, 2 for a command that
cannot be meant, 3 if some input was rejected, 130 after Ctrl-C.
"""

import contextlib
import functools
import inspect
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from fastseg.errors import FastsegError, RejectedWarning
from fastseg.links import Reject, rejects_path

T = TypeVar("T")

# A bar appears for what takes longer than this.
BAR_AFTER_S = 1.0
# So many rejects are printed; all are in the file.
REJECTS_SHOWN = 5
EXIT_ERROR, EXIT_REJECTS, EXIT_INTERRUPT = 1, 3, 130

app = typer.Typer(
    name="fastseg",
    help="Medical images and hand-drawn contours into training batches.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Output:
    """Where a verb prints: results on stdout, everything else on stderr."""

    def __init__(self, verbose: bool, quiet: bool):
        self.verbose, self.quiet = verbose, quiet
        self.out = Console(quiet=quiet, highlight=False, soft_wrap=True, markup=False)
        self.err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
        self._watched = self.err.is_terminal and not quiet

    def say(self, text: str) -> None:
        """Print a line of the result, unless quiet."""
        self.out.print(text)

    def detail(self, text: str) -> None:
        """Print a line that only a curious reader wants."""
        if self.verbose:
            self.err.print(text)

    def progress(self, items: Iterable[T], label: str, total: int) -> Iterator[T]:
        """Yield items under a bar, if a person is watching and it takes a while."""
        late, bar, task = time.monotonic() + BAR_AFTER_S, None, None
        try:
            for done, item in enumerate(items):
                if self._watched and bar is None and time.monotonic() > late:
                    columns = (TextColumn(f"{label:>12}"), BarColumn())
                    counters = (MofNCompleteColumn(), TimeRemainingColumn())
                    bar = Bar(*columns, *counters, console=self.err, transient=True)
                    bar.start()
                    task = bar.add_task(label, total=total)
                if bar is not None and task is not None:
                    bar.update(task, completed=done)
                yield item
        finally:
            if bar is not None:
                bar.stop()

    @contextlib.contextmanager
    def telling_of_compiling(self) -> Iterator[None]:
        """Say why nothing moves: kernels are compiled when they are first used."""
        log, notes = logging.getLogger("fastseg.compile"), _Notes(self._note)
        log.addHandler(notes)
        log.setLevel(logging.INFO)
        try:
            yield
        finally:
            log.removeHandler(notes)

    def _note(self, text: str, is_first: bool) -> None:
        if is_first and self._watched:
            self.err.print("compiling, the first time only; this may take a minute")
        self.detail(text)

    def rejects(self, rejects: Iterable[Reject], output: Path, allow: bool) -> None:
        """Say what was rejected and leave with status 3 unless that is allowed."""
        rows = list(rejects)
        if not rows:
            return
        listed = rejects_path(output)
        self.err.print(f"{len(rows)} rejected, listed in {listed}:", style="yellow")
        for reject in rows if self.verbose else rows[:REJECTS_SHOWN]:
            place = (
                reject.file if reject.line is None else f"{reject.file}:{reject.line}"
            )
            self.err.print(f"  {place}: {reject.reason}")
        if len(rows) > REJECTS_SHOWN and not self.verbose:
            self.err.print(f"  and {len(rows) - REJECTS_SHOWN} more")
        if not allow:
            self.err.print(
                "the rest is done; exit status 3 says that something is missing "
                "(--allow-rejects accepts it)"
            )
            raise typer.Exit(EXIT_REJECTS)


class _Notes(logging.Handler):
    """Hands what is logged to a function, and whether it is the first."""

    def __init__(self, tell: Callable[[str, bool], None]):
        super().__init__()
        self._tell, self._is_first = tell, True

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage(), self._is_first)
        self._is_first = False


Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
AllowRejects = Annotated[
    bool,
    typer.Option(
        "--allow-rejects", help="Exit with status 0 even if some input was rejected."
    ),
]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function whose first argument is the Output."""

    @functools.wraps(function)
    def run(
        *args: Any, verbose: bool, quiet: bool, debug: bool, **options: Any
    ) -> None:
        # Rejects are told in full by the verbs themselves.
        warnings.simplefilter("ignore", RejectedWarning)
        output = Output(verbose, quiet)
        try:
            with output.telling_of_compiling():
                function(output, *args, **options)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            fail(output, "interrupted", EXIT_INTERRUPT)
        except Exception as exc:
            if debug:
                raise
            known = isinstance(exc, FastsegError | OSError)
            text = str(exc) if known else f"{type(exc).__name__}: {exc}"
            hint = "" if known else " (a defect of fastseg; --debug shows where)"
            fail(output, f"{text}{hint}", EXIT_ERROR)

    signature = inspect.signature(function)
    shared = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=a
        )
        for name, a in (("verbose", Verbose), ("quiet", Quiet), ("debug", Debug))
    ]
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in list(signature.parameters.values())[1:]
    ]
    run.__signature__ = signature.replace(parameters=own + shared)  # type: ignore[attr-defined]
    return app.command()(run)


def fail(output: Output, text: str, status: int) -> NoReturn:
    """Print an error and leave with a status."""
    output.err.print(f"error: {text}", style="bold red")
    raise typer.Exit(status)


def many(count: int, noun: str) -> str:
    """Return "1 image", "2 images"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
