"""The commands that build a store: at once, or by parts on several machines."""

import functools
import inspect
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

import fastseg
from fastseg.choices import Edges, Fill, Origin, Severity
from fastseg.cli.executors import Dask, Processes, executor_of_options
from fastseg.cli.terminal import (
    EXIT_REJECTS,
    REJECTS_SHOWN,
    AllowRejects,
    Force,
    Output,
    command,
    fail,
    out_option,
    renamed,
    rules_differ,
)
from fastseg.errors import OutputError
from fastseg.reprs import many

LinksArgument = Annotated[
    str,
    typer.Argument(
        metavar="LINKS", help="Links table, as `link` writes it, or its URL."
    ),
]
PlanArgument = Annotated[
    Path, typer.Argument(metavar="PLAN", help="Folder of a plan, as `plan` makes it.")
]
EdgesOption = Annotated[
    Edges,
    typer.Option(
        help="Which pixels belong to a region if their centre lies exactly on its "
        "outline: `half-open` (on top and left edges), `closed` (all) or `open` (none)."
    ),
]
FillOption = Annotated[
    Fill,
    typer.Option(
        help="Rule for overlapping rings of a class: `even-odd` (a ring within a ring "
        "is a hole), `nonzero` (only if it runs in the other direction) or `union` "
        "(never)."
    ),
]
OriginOption = Annotated[
    Origin,
    typer.Option(
        help="Contour coordinates start at the `center` of the first pixel or at its "
        "`corner`."
    ),
]
Threads = Annotated[
    int,
    typer.Option(
        help="Number of threads; more than one helps where reading files is slow."
    ),
]
MaxPixelBytes = Annotated[
    int,
    typer.Option(
        help="Reject an image file if its header announces more bytes of pixels than "
        "this.",
        show_default="1 GiB",
    ),
]
DecodeTimeout = Annotated[
    float,
    typer.Option(help="Reject a compressed image if decoding it takes more seconds."),
]
Root = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="Refuse a table that names files outside of this folder or URL.",
        show_default="any folder",
    ),
]
Without = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Table of findings, as `check` writes it: leave out its images.",
    ),
]
WithoutSeverity = Annotated[
    Severity,
    typer.Option(
        help="With --without: only images with a finding of this severity or a worse "
        "one."
    ),
]
Upload = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Copy the store to this URL when it is complete, with its SHA-256 beside "
        "it. `fastseg verify URL` says whether it has arrived.",
    ),
]
Compress = Annotated[
    bool,
    typer.Option(
        "--compress",
        help="Compress images and masks: the store is smaller, but slower to read.",
    ),
]


def _build_options(
    edges: EdgesOption = "half-open",
    fill: FillOption = "even-odd",
    origin: OriginOption = "center",
    max_pixel_bytes: MaxPixelBytes = 2**30,
    decode_timeout: DecodeTimeout = 60.0,
    root: Root = None,
    without: Without = None,
    without_severity: WithoutSeverity = "error",
    compress: Compress = False,
    force: Force = False,
) -> dict[str, Any]:
    """Return the options of `build` and `plan` alike, by name."""
    return locals()


def _with_build_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a build in place of its parameter `options`."""

    @functools.wraps(function)
    def run(output: Output, **given: Any) -> None:
        options = {name: given.pop(name) for name in shared}
        function(output, options=_build_options(**options), **given)

    signature = inspect.signature(function)
    shared = inspect.signature(_build_options).parameters
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        added = shared.values() if name == "options" else [parameter]
        parameters += [x.replace(kind=parameter.kind) for x in added]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


@command
@_with_build_options
def build(
    output: Output,
    *,
    links: LinksArgument,
    out: Annotated[Path, out_option("Store to write.")] = Path("store.h5"),
    options: dict[str, Any],
    threads: Threads = 1,
    workers: Annotated[str | None, renamed("--threads")] = None,
    processes: Processes = None,
    dask: Dask = None,
    upload: Upload = None,
    allow_rejects: AllowRejects = False,
) -> None:
    """Read the files of a links table and write them into a store.

    To continue an interrupted build, run the same command again. If the store exists,
    samples whose links, files and options have not changed are reused.

    Example: `fastseg build links.csv -o heart.h5`

    With --processes or --dask, nothing is reused of a store that exists.

    On several machines: `fastseg plan links.csv -o heart.h5`, or `--dask`
    """
    start = time.perf_counter()
    _check_upload(upload, options["force"])
    try:
        advice = "run the same command again to continue"
        with executor_of_options(output, processes, dask, advice) as executor:
            report = fastseg.build(
                links,
                out,
                **options,
                threads=threads,
                executor=executor,
                progress=output.progress,
            )
    except OutputError:  # which is an OSError, too
        raise
    except (KeyboardInterrupt, OSError, fastseg.errors.NoAnswerError):
        begun = ".partial" if processes is None and dask is None else ".plan"
        if Path(f"{os.path.realpath(out)}{begun}").exists():
            output.report(
                "finished samples are kept; run the same command again to continue"
            )
        raise
    except fastseg.errors.NothingBuiltError as exc:
        output.rejects(exc.rejects, out, allow=True)
        fail(output, str(exc), EXIT_REJECTS)
    _print_report(output, report, out, time.perf_counter() - start, str(links))
    _say_left_out(output, report.left_out, options)
    _upload(output, out, upload, options["force"])
    output.rejects(report.rejects, out, allow_rejects)


def _check_upload(url: str | None, force: bool) -> None:
    """Refuse a URL to upload to, before anything is built."""
    if url is not None:
        from fastseg.store.uploads import check_upload

        check_upload(url, force, "--upload")


def _upload(output: Output, store: Path, url: str | None, force: bool) -> None:
    """Copy a store to a URL, if there is one."""
    if url is None:
        return
    try:
        done = fastseg.upload(store, url, force=force, progress=output.progress)
    except (OSError, fastseg.errors.NoAnswerError):
        output.report(f"{store} is complete; `fastseg upload {store} {url}` copies it")
        raise
    state = "uploaded" if done.sent else "the same is there already"
    output.say(f"{done.url}: {state}, sha256 {done.sha256}")


@command
@_with_build_options
def plan(
    output: Output,
    *,
    links: LinksArgument,
    out: Annotated[
        Path, out_option("Store that the parts will make; the plan is <out>.plan.")
    ] = Path("store.h5"),
    options: dict[str, Any],
    look_at_files: Annotated[
        bool,
        typer.Option(
            "--look-at-files",
            help="Look at every file, to find those that have several names.",
        ),
    ] = False,
) -> None:
    """Plan a build, so that several machines can make parts of it.

    Example: `fastseg plan links.csv -o big.h5`, then, anywhere and in any order,
    `fastseg part big.h5.plan 1/2` and `fastseg part big.h5.plan 2/2`, and at last
    `fastseg finish big.h5.plan`
    """
    from fastseg.ingest.plan_folder import PlanFolder

    path = fastseg.plan_parts(
        links,
        out,
        **options,
        look_at_files=look_at_files,
        progress=output.progress,
    )
    made = PlanFolder(path)
    output.say(f"{path}: {many(made.count, 'image')} in {many(made.blocks, 'block')}")
    _say_left_out(output, made.left_out, options)
    rejects = made.rejects()
    if rejects:
        output.report(
            f"{len(rejects)} rejected; `fastseg finish` lists them with the others",
            "yellow",
        )


@command
def part(
    output: Output,
    plan: PlanArgument,
    part: Annotated[
        str,
        typer.Argument(
            metavar="K/N", help="Which part of how many, from 1, as in 3/64."
        ),
    ],
    threads: Threads = 1,
) -> None:
    """Make a part of a planned build; what is made already stays as it is.

    It may be interrupted and run again, and two machines may make the same part.

    Example: `fastseg part big.h5.plan 3/64`
    """
    with _say_kept(output, plan):
        report = fastseg.build_part(
            plan, part, threads=threads, progress=output.progress
        )
    before = report.blocks - report.made
    output.say(
        f"{plan}: part {part}, {many(report.blocks, 'block')}, "
        f"{many(report.samples, 'sample')} made"
        + (f", {many(before, 'block')} made before" if before else "")
    )
    if report.rejected:
        output.report(
            f"{many(report.rejected, 'image')} rejected; `fastseg finish` lists them",
            "yellow",
        )


@command
def finish(
    output: Output,
    plan: PlanArgument,
    upload: Upload = None,
    allow_rejects: AllowRejects = False,
) -> None:
    """Join the parts of a planned build to the store, and remove the plan.

    Example: `fastseg finish big.h5.plan`
    """
    from fastseg.ingest.plan_folder import PlanFolder

    start = time.perf_counter()
    _check_upload(upload, False)
    out = PlanFolder(plan).store
    try:
        with _say_kept(output, plan):
            report = fastseg.finish_parts(plan, progress=output.progress)
    except fastseg.errors.NothingBuiltError as exc:
        output.rejects(exc.rejects, out, allow=True)
        fail(output, str(exc), EXIT_REJECTS)
    seconds = time.perf_counter() - start
    _print_report(output, report, out, seconds, "the links table")
    _upload(output, out, upload, False)
    output.rejects(report.rejects, out, allow_rejects)


@contextmanager
def _say_kept(output: Output, plan: Path) -> Iterator[None]:
    """Say how to continue after an interrupt, or what a full disk may raise."""
    try:
        yield
    except OutputError:  # which is an OSError, too
        raise
    except (KeyboardInterrupt, OSError):
        if (plan / "journals").is_dir():
            output.report(
                "finished blocks are kept; run the same command again to continue"
            )
        raise


def _say_left_out(output: Output, count: int, options: dict[str, Any]) -> None:
    table, severity = options["without"], options["without_severity"]
    if table is None:
        return
    output.say(
        f"{many(count, 'image')} left out: {table} has a finding of severity {severity}"
        + ("" if severity == "error" else " or a worse one")
    )


def _print_report(
    output: Output,
    report: "fastseg.BuildReport",
    out: Path,
    seconds: float,
    table: str,
) -> None:
    """Print what a build did, but for its rejects.

    table : what to call the links table
    """
    size = out.stat().st_size / 1e6
    output.say(
        f"{out}: {many(report.samples, 'sample')}, "
        f"{many(report.contours, 'contour')}, {size:.1f} MB in {seconds:.1f} s"
    )
    output.written(out, report.path)
    for path in report.outer_roots[:REJECTS_SHOWN]:
        output.say(f"root: {path} (outside the folder of {table})")
    if len(report.outer_roots) > REJECTS_SHOWN:
        output.say(f"and {len(report.outer_roots) - REJECTS_SHOWN} more roots outside")
    if report.reused:
        output.say(f"{report.reused} of them unchanged, reused from an earlier build")
    if report.failed:
        output.say(f"{many(report.failed, 'image')} could not be used when read")
    output.detail(f"fingerprint {report.fingerprint}")
    if report.several_rings:
        dependent = report.rule_dependent
        listed = " (--verbose lists them)" if dependent and not output.verbose else ""
        output.say(rules_differ(len(dependent), report.several_rings) + listed)
        for image, name in dependent:
            output.detail(f"  rules differ: {name} on {image}")
    if report.off_image:
        output.say(
            f"{many(len(report.off_image), 'empty mask')}: the contour covers no "
            "pixel of its image" + ("" if output.verbose else " (--verbose lists them)")
        )
        for name in report.off_image:
            output.detail(f"  covers no pixel: {name}")
    if report.copies:
        output.report(
            f"{many(len(report.copies), 'image')} under several patients: files of "
            "different patients have the same pixels"
            + ("" if output.verbose else " (--verbose lists them)"),
            style="yellow",
        )
        for names in report.copies:
            output.detail(f"  the same pixels: {'; '.join(names)}")
