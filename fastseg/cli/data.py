"""The verbs that make something: a table of links, a store, a synthetic study."""

import time
from pathlib import Path
from typing import Annotated

import typer

import fastseg
from fastseg.cli.terminal import EXIT_REJECTS, AllowRejects, Output, command, fail, many


@command
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
    output.say(f"{out}: {many(table.images, 'image')}, {counts or 'no contours'}")
    if table.unlabelled:
        fate = "kept" if keep_unlabelled else "left out (--keep-unlabelled keeps them)"
        output.say(f"{many(table.unlabelled, 'image')} without a contour: {fate}")
    if table.ignored:
        output.say(
            f"ignored {many(len(table.ignored), 'file')} of another kind"
            + ("" if output.verbose else " (--verbose lists them)")
        )
        for name in table.ignored:
            output.detail(f"  ignored {name}")
    output.rejects(table.rejects, out, allow_rejects)


@command
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
    threads: Annotated[
        int,
        typer.Option(
            help="Threads that share the work; more pay where files come slowly."
        ),
    ] = 1,
    max_pixel_bytes: Annotated[
        int,
        typer.Option(help="Reject image files whose header promises more than this."),
    ] = 2**30,
    compress: Annotated[
        bool,
        typer.Option(
            "--compress", help="Compress images and masks: smaller, slower to read."
        ),
    ] = False,
    allow_rejects: AllowRejects = False,
) -> None:
    """Read all images and contours of a table into a store.

    A build that was interrupted goes on where it stopped when the same command is
    given again; one that is repeated makes anew only what has changed.

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
            threads=threads,
            max_pixel_bytes=max_pixel_bytes,
            compress=compress,
            progress=output.progress,
        )
    except (KeyboardInterrupt, OSError):
        if Path(f"{out}.partial").exists():
            output.err.print(
                "what is finished is kept; the same command goes on from there"
            )
        raise
    except fastseg.errors.NothingBuiltError as exc:
        output.rejects(exc.rejects, out, allow=True)
        fail(output, str(exc), EXIT_REJECTS)
    seconds = time.perf_counter() - start
    size = out.stat().st_size / 1e6
    output.say(
        f"{out}: {many(report.samples, 'sample')}, "
        f"{many(report.links, 'contour')}, {size:.1f} MB in {seconds:.1f} s"
    )
    if report.reused:
        output.say(f"{report.reused} of them unchanged since earlier work")
    output.detail(f"fingerprint {report.fingerprint}")
    if report.off_image:
        output.say(
            f"{many(len(report.off_image), 'empty mask')}: the contour covers no "
            "pixel of its image" + ("" if output.verbose else " (--verbose lists them)")
        )
        for name in report.off_image:
            output.detail(f"  covers no pixel: {name}")
    output.rejects(report.rejects, out, allow_rejects)


@command
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
    images = many(patients * slices * phases, "image")
    output.say(f"{out}: {many(patients, 'patient')}, {images}")
