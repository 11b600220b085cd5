"""The command line: thin verbs over the library."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

import fastseg
from fastseg.errors import OptionError
from fastseg.store.selection import has_class, torn
from fastseg.terminal import (
    EXIT_ERROR,
    EXIT_REJECTS,
    REJECTS_SHOWN,
    AllowRejects,
    Output,
    app,
    fail,
    many,
    verb,
)


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
    workers: Annotated[
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
            workers=workers,
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
    if report.kept:
        output.say(f"{report.kept} of them unchanged, taken from earlier work")
    output.detail(f"fingerprint {report.fingerprint}")
    if report.off_image:
        output.say(
            f"{many(len(report.off_image), 'empty mask')}: the contour covers no "
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
    if opened.compression:
        ratio = f"{opened.compression_ratio:.2f} times smaller"
        head.add_row("pixels", f"{opened.compression}, {ratio}")
    head.add_row("made from", f"{len(opened.sources['path'])} files")
    options = ", ".join(f"{name} {value}" for name, value in opened.options.items())
    head.add_row("masks", options)
    wrote = ", ".join(f"{name} {text}" for name, text in opened.software.items())
    head.add_row("written by", wrote)
    head.add_row("fingerprint", opened.fingerprint)
    output.out.print(head)
    output.say("")
    shapes = Table("bucket", "samples", "spacing (mm)", "values", box=None)
    order, start = items["bucket"].argsort(kind="stable"), 0
    counts = np.bincount(items["bucket"], minlength=len(opened.buckets))
    for name, count in zip(opened.buckets, counts.tolist(), strict=True):
        here = order[start : start + count]
        start += count
        spacing = items["spacing_mm"][here]
        values = f"{items['min'][here].min():g} to {items['max'][here].max():g}"
        shapes.add_row(name, str(count), _range(spacing), values)
    output.out.print(shapes)
    output.say("")
    classes = Table("class", "bit", "samples", "mean area (pixels)", box=None)
    for k, name in enumerate(opened.classes):
        labelled = has_class(items["labelled"], k)
        count = int(labelled.sum())
        area = items["pixels"][labelled, k].mean() if count else 0.0
        classes.add_row(name, str(k), str(count), f"{area:.0f}")
    output.out.print(classes)
    if output.verbose:
        for patient in opened.patients:
            output.say(f"patient {patient}")


def _range(values: Any) -> str:
    """Return a text for the least and greatest of some numbers, NaN if unknown."""
    if len(values) == 0 or (values != values).all():
        return "unknown"
    known = values[values == values]
    least, greatest = known.min(), known.max()
    return f"{least:g}" if least == greatest else f"{least:g} to {greatest:g}"


@verb
def verify(
    output: Output,
    store: Annotated[Path, typer.Argument(help="Store to prove.")],
    sources: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the data set: compare the original files as well."
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="How many read and hash.", show_default="one per core"),
    ] = None,
) -> None:
    """Prove that a store is what it was when it was written.

    Reads all of it and recomputes every checksum; the exit status is 1 if anything
    has changed.

    Example: `fastseg verify heart.h5 --sources data/sunnybrook`
    """
    start = time.perf_counter()
    report = fastseg.verify(
        store, sources=sources, threads=threads, progress=output.progress
    )
    seconds, size = time.perf_counter() - start, report.bytes_read / 1e9
    output.say(
        f"{store}: {'damaged' if report.damages else 'sound'}, "
        f"{many(report.samples, 'sample')}, {size:.3f} GB in {seconds:.1f} s "
        f"({size / seconds:.1f} GB/s)"
    )
    output.say(f"fingerprint {report.fingerprint}")
    _list(output, "damaged", report.damages)
    _list(output, "changed since the store was built", report.changed_sources)
    if not report.is_sound:
        raise typer.Exit(EXIT_ERROR)


def _list(output: Output, what: str, rows: Sequence[Any]) -> None:
    if not rows:
        return
    output.err.print(f"{len(rows)} {what}:", style="yellow")
    for row in rows if output.verbose else rows[:REJECTS_SHOWN]:
        output.err.print(f"  {row}")
    if len(rows) > REJECTS_SHOWN and not output.verbose:
        output.err.print(f"  and {len(rows) - REJECTS_SHOWN} more (--verbose lists)")


@verb
def split(
    output: Output,
    store: Annotated[Path, typer.Argument(help="Store to split.")],
    part: Annotated[
        list[str],
        typer.Option(help="A part and its fraction; repeat it for each part."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Table to write.")] = Path(
        "splits.csv"
    ),
    by: Annotated[
        str, typer.Option(help="What stays whole: `patient`, `series` or `sample`.")
    ] = "patient",
    seed: Annotated[int, typer.Option(help="Which split.")] = 0,
    stratify: Annotated[
        str | None,
        typer.Option(help="Make parts alike in labelled `classes` or image `shape`."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Only samples with this class; repeat for several."),
    ] = None,
) -> None:
    """Split a store into parts that share no patient, and write them as a table.

    Example: `fastseg split heart.h5 -o splits.csv --part train=0.8 --part val=0.2`
    """
    opened = fastseg.open(store)
    chosen = opened.select(classes=label or None)
    parts = opened.split(
        _fractions(part), by=by, seed=seed, stratify=stratify, indices=chosen
    )
    fastseg.write_split(out, opened, parts, by=by)
    table = Table("", *parts, box=None)
    patients = [set(opened.items["patient"][part].tolist()) for part in parts.values()]
    table.add_row("samples", *(str(len(part)) for part in parts.values()))
    table.add_row("share", *(f"{len(p) / len(chosen):.1%}" for p in parts.values()))
    table.add_row("patients", *(str(len(group)) for group in patients))
    for k, name in enumerate(opened.classes):
        labelled = has_class(opened.items["labelled"], k)
        table.add_row(name, *(str(labelled[p].sum()) for p in parts.values()))
    output.out.print(table)
    count = torn(opened, parts, by="patient")
    shared = many(count, "patient") if count else "no patient"
    output.say(
        f"{out}: {many(len(chosen), 'sample')} by {by}, seed {seed}; "
        f"{shared} in more than one part"
    )
    if output.verbose:
        for name, group in zip(parts, patients, strict=True):
            for patient in sorted(group):
                output.say(f"{name} {patient.decode()}")


def _fractions(parts: list[str]) -> dict[str, float]:
    """Return the fractions that texts like train=0.8 give."""
    given: dict[str, float] = {}
    for text in parts:
        name, equals, share = text.partition("=")
        try:
            fraction = float(share)
        except ValueError:
            equals = ""
        if not equals or name in given:
            raise OptionError(
                f"--part is {text!r}, expected a new name and a fraction, as in "
                "train=0.8"
            )
        given[name] = fraction
    return given


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
    images = many(patients * slices * phases, "image")
    output.say(f"{out}: {many(patients, 'patient')}, {images}")


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
