"""The command line: thin verbs over the library.

Exit status: 0 if all was done and nothing lost, 1 for an error, 2 for a command that
cannot be meant, 3 if some input was rejected, 130 after Ctrl-C.
"""

import functools
import inspect
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

import fastseg
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

    def say(self, text: str) -> None:
        """Print a line of the result, unless quiet."""
        self.out.print(text)

    def detail(self, text: str) -> None:
        """Print a line that only a curious reader wants."""
        if self.verbose:
            self.err.print(text)

    def progress(self, items: Iterable[T], label: str, total: int) -> Iterator[T]:
        """Yield items under a bar, if a person is watching and it takes a while."""
        watched = self.err.is_terminal and not self.quiet
        start, bar, task = time.monotonic(), None, None
        try:
            for done, item in enumerate(items):
                if watched and bar is None and time.monotonic() - start > BAR_AFTER_S:
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


Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function whose first argument is the Output."""

    @functools.wraps(function)
    def run(
        *args: Any, verbose: bool, quiet: bool, debug: bool, **options: Any
    ) -> None:
        # Rejects are told in full by the verbs themselves.
        warnings.simplefilter("ignore", RejectedWarning)
        output = Output(verbose, quiet)
        try:
            function(output, *args, **options)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            _fail(output, "interrupted", EXIT_INTERRUPT)
        except Exception as exc:
            if debug:
                raise
            known = isinstance(exc, FastsegError | OSError)
            text = str(exc) if known else f"{type(exc).__name__}: {exc}"
            hint = "" if known else " (a defect of fastseg; --debug shows where)"
            _fail(output, f"{text}{hint}", EXIT_ERROR)

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


def _fail(output: Output, text: str, status: int) -> NoReturn:
    output.err.print(f"error: {text}", style="bold red")
    raise typer.Exit(status)


AllowRejects = Annotated[
    bool,
    typer.Option(
        "--allow-rejects", help="Exit with status 0 even if some input was rejected."
    ),
]


@verb
def link(
    output: Output,
    root: Annotated[Path, typer.Argument(help="Folder of the data set.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Table to write.")] = Path(
        "links.csv"
    ),
    label: Annotated[
        list[str] | None,
        typer.Option(help="Class to link, all by default; repeat for several."),
    ] = None,
    keep_unlabelled: Annotated[
        bool,
        typer.Option("--keep-unlabelled", help="Keep images without contours as well."),
    ] = False,
    allow_rejects: AllowRejects = False,
) -> None:
    """Find images and contours and join them into a table.

    Example: `fastseg link data/sunnybrook -o links.csv --label icontour`
    """
    table = fastseg.link(
        root,
        labels=label or None,
        keep_unlabelled=keep_unlabelled,
        progress=output.progress,
    )
    table.save(out)
    counts = ", ".join(f"{count} {name}" for name, count in table.counts().items())
    output.say(f"{out}: {_many(table.images, 'image')}, {counts or 'no contours'}")
    if table.unlabelled:
        fate = "kept" if keep_unlabelled else "left out (--keep-unlabelled keeps them)"
        output.say(f"{_many(table.unlabelled, 'image')} without a contour: {fate}")
    if table.ignored:
        output.say(
            f"ignored {_many(len(table.ignored), 'file')} of another kind"
            + ("" if output.verbose else " (--verbose lists them)")
        )
        for name in table.ignored:
            output.detail(f"  ignored {name}")
    output.rejects(table.rejects, out, allow_rejects)


@verb
def build(
    output: Output,
    links: Annotated[Path, typer.Argument(help="Table that `link` wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Store to write.")] = Path(
        "store.h5"
    ),
    edges: Annotated[
        str,
        typer.Option(
            help="Pixels centred on an outline: `half-open` (top and left in), "
            "`closed` (all in) or `open` (none in)."
        ),
    ] = "half-open",
    fill: Annotated[
        str, typer.Option(help="Overlapping rings: `even-odd` or `nonzero`.")
    ] = "even-odd",
    origin: Annotated[
        str,
        typer.Option(
            help="Zero of the contours: `center` of the first pixel or its `corner`."
        ),
    ] = "center",
    allow_rejects: AllowRejects = False,
) -> None:
    """Read all images and contours of a table into a store.

    Example: `fastseg build links.csv -o heart.h5`
    """
    start = time.perf_counter()
    try:
        report = fastseg.build(
            links,
            out,
            edges=edges,
            fill=fill,
            origin=origin,
            progress=output.progress,
        )
    except fastseg.errors.NothingBuiltError as exc:
        output.rejects(exc.rejects, out, allow=True)
        _fail(output, str(exc), EXIT_REJECTS)
    seconds = time.perf_counter() - start
    size = out.stat().st_size / 1e6
    output.say(
        f"{out}: {_many(report.samples, 'sample')}, "
        f"{_many(report.links, 'contour')}, {size:.1f} MB in {seconds:.1f} s"
    )
    output.detail(f"fingerprint {report.fingerprint}")
    if report.off_image:
        output.say(
            f"{_many(len(report.off_image), 'empty mask')}: the contour covers no "
            "pixel of its image" + ("" if output.verbose else " (--verbose lists them)")
        )
        for name in report.off_image:
            output.detail(f"  covers no pixel: {name}")
    output.rejects(report.rejects, out, allow_rejects)


@verb
def info(
    output: Output,
    store: Annotated[Path, typer.Argument(help="Store to look into.")],
) -> None:
    """Print what is in a store.

    Example: `fastseg info heart.h5`
    """
    opened = fastseg.open(store)
    items = opened.items
    head = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    head.add_row("store", str(store))
    head.add_row("samples", str(len(opened)))
    head.add_row("patients", str(len(opened.patients)))
    head.add_row("size", f"{store.stat().st_size / 1e6:.1f} MB")
    head.add_row("made from", f"{len(opened.sources['path'])} files")
    options = ", ".join(f"{name} {value}" for name, value in opened.options.items())
    head.add_row("masks", options)
    wrote = ", ".join(f"{name} {text}" for name, text in opened.software.items())
    head.add_row("written by", wrote)
    head.add_row("fingerprint", opened.fingerprint)
    output.out.print(head)
    output.say("")
    shapes = Table("bucket", "samples", "spacing (mm)", "values", box=None)
    for k, (name, images) in enumerate(opened.images.items()):
        here = items["bucket"] == k
        spacing = items["spacing_mm"][here]
        values = f"{items['min'][here].min():g} to {items['max'][here].max():g}"
        shapes.add_row(name, str(len(images)), _range(spacing), values)
    output.out.print(shapes)
    output.say("")
    classes = Table("class", "bit", "samples", "mean area (pixels)", box=None)
    for k, name in enumerate(opened.classes):
        labelled = (items["labelled"] >> items["labelled"].dtype.type(k)) & 1 == 1
        count = int(labelled.sum())
        area = items["pixels"][labelled, k].mean() if count else 0.0
        classes.add_row(name, str(k), str(count), f"{area:.0f}")
    output.out.print(classes)
    if output.verbose:
        for patient in opened.patients:
            output.say(f"patient {patient}")


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _range(values: Any) -> str:
    """Return a text for the least and greatest of some numbers, NaN if unknown."""
    if len(values) == 0 or (values != values).all():
        return "unknown"
    known = values[values == values]
    least, greatest = known.min(), known.max()
    return f"{least:g}" if least == greatest else f"{least:g} to {greatest:g}"


@verb
def show(
    output: Output,
    store: Annotated[Path, typer.Argument(help="Store to draw from.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture to write.")] = Path(
        "picture.png"
    ),
    count: Annotated[int, typer.Option("--count", "-n", help="Samples to draw.")] = 4,
    seed: Annotated[int, typer.Option(help="Which samples.")] = 0,
) -> None:
    """Draw random samples: image, mask, segmented image and contours.

    Example: `fastseg show heart.h5 -o picture.png --count 6`
    """
    opened = fastseg.open(store)
    fastseg.show(opened, out, count=count, seed=seed)
    output.say(f"{out}: {min(count, len(opened))} of {len(opened)} samples")


@verb
def phantom(
    output: Output,
    out: Annotated[Path, typer.Argument(help="New folder for the study.")],
    patients: Annotated[int, typer.Option(help="How many.")] = 4,
    size: Annotated[
        list[str] | None,
        typer.Option(
            help="Rows and columns, as in 96 or 120x88; repeat it and the patients "
            "take them in turn.",
            show_default="three of 96, one of 120x88",
        ),
    ] = None,
    slices: Annotated[int, typer.Option(help="Images along the heart.")] = 4,
    phases: Annotated[int, typer.Option(help="Images over a heartbeat.")] = 6,
    seed: Annotated[int, typer.Option(help="Which hearts.")] = 0,
) -> None:
    """Draw a synthetic cine-MR study of the heart with its contours.

    Example: `fastseg phantom study --patients 10 --size 256 --slices 8 --phases 20`
    """
    sizes = {"sizes": size} if size else {}
    fastseg.make_phantom(
        out,
        patients=patients,
        slices=slices,
        phases=phases,
        seed=seed,
        progress=output.progress,
        **sizes,  # type: ignore[arg-type]
    )
    images = _many(patients * slices * phases, "image")
    output.say(f"{out}: {_many(patients, 'patient')}, {images}")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fastseg {fastseg.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Medical images and hand-drawn contours into training batches.

    Example: `fastseg link data/phantom -o links.csv`, then
    `fastseg build links.csv -o heart.h5`, then `fastseg show heart.h5`
    """


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
