"""The commands that write data: a links table, a store, a synthetic study.

The commands import what needs numpy when they run, so that help and completion are
quick.
"""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

import fastseg
from fastseg.choices import Edges, Fill, Origin, PhantomKind, Severity, Slices
from fastseg.cli.terminal import (
    EXIT_REJECTS,
    REJECTS_SHOWN,
    AliasesFile,
    AllowRejects,
    Force,
    MatchCase,
    Output,
    RoiPatterns,
    command,
    fail,
    in_folder,
    out_option,
    renamed,
    rules_differ,
)
from fastseg.errors import OutputError
from fastseg.reprs import many


@command
def link(
    output: Output,
    root: Annotated[
        Path, typer.Argument(metavar="ROOT", help="Folder of the data set.")
    ],
    out: Annotated[Path, out_option("Links table to write (CSV).")] = Path("links.csv"),
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<class>",
            help="Class of contours to link; repeat the option for several.",
            show_default="all classes",
        ),
    ] = None,
    slices: Annotated[
        Slices | None,
        typer.Option(
            help="Images to link: `labelled` (with a contour), `series` (whole series "
            "that have one, for volumes) or `all` (of any folder with DICOM files).",
            show_default="series with structure sets, else labelled",
        ),
    ] = None,
    keep_unlabelled: Annotated[
        bool,
        typer.Option("--keep-unlabelled", help="The same as `--slices all`."),
    ] = False,
    roi: RoiPatterns = None,
    aliases: AliasesFile = None,
    match_case: MatchCase = False,
    join: Annotated[
        bool,
        typer.Option(
            "--join",
            help="Join several ROIs of one class on one series; otherwise they are "
            "rejected.",
        ),
    ] = False,
    plane_tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="<mm>",
            help="Distance in mm that a contour of a structure set may lie off the "
            "plane of its image.",
            show_default="a tenth of the distance between slices, at least 0.1",
        ),
    ] = None,
    pseudonyms: Annotated[
        Path | None,
        typer.Option(
            metavar="KEYFILE",
            help="Write keyed hashes of patients' IDs in place of the IDs. The file "
            "holds a secret key of at least 16 bytes; the same key gives the same "
            "pseudonyms. Only the column `patient` changes: names of folders and files "
            "stay as they are.",
        ),
    ] = None,
    force: Force = False,
    allow_rejects: AllowRejects = False,
) -> None:
    """Find images and their contours and write a table of links.

    Example: `fastseg link data/sunnybrook -o links.csv --label icontour`

    Whole series, for volumes: `fastseg link data/sunnybrook --slices series`

    RT structure sets: `fastseg link studies --roi heart='Heart|HEART*'`

    All DICOM images of a folder: `fastseg link exports --slices all --pseudonyms key`
    """
    from fastseg.links import check_outputs
    from fastseg.sources.aliases import aliases_of_options

    check_outputs(out, force)  # before the files are read
    table = fastseg.link(
        root,
        labels=label or None,
        slices=slices,
        keep_unlabelled=keep_unlabelled,
        rois=aliases_of_options(roi, aliases, match_case),
        join=join,
        plane_tolerance_mm=plane_tolerance,
        pseudonyms=pseudonyms,
        progress=output.progress,
    )
    path = table.save(out, force=force)
    counts = ", ".join(f"{count} {name}" for name, count in table.counts().items())
    output.say(f"{out}: {many(table.images, 'image')}, {counts or 'no contours'}")
    output.written(out, path)
    for note in table.notes:
        output.say(note)
    listed = "" if output.verbose else " (--verbose lists them)"
    if table.left_out:
        kinds = [many(len(paths), kind) for kind, paths in table.left_out.items()]
        output.say(f"left out {', '.join(kinds)}{listed}")
        for kind, paths in table.left_out.items():
            for name in paths:
                output.detail(f"  {kind}: {name}")
    if table.ignored:
        output.say(
            f"ignored {many(len(table.ignored), 'file')} of another kind{listed}"
        )
        for name in table.ignored:
            output.detail(f"  ignored {name}")
    output.rejects(table.rejects, out, allow_rejects)


@command
def build(
    output: Output,
    links: Annotated[
        Path, typer.Argument(metavar="LINKS", help="Links table, as `link` writes it.")
    ],
    out: Annotated[Path, out_option("Store to write.")] = Path("store.h5"),
    edges: Annotated[
        Edges,
        typer.Option(
            help="Which pixels belong to a region if their centre lies exactly on its "
            "outline: `half-open` (on top and left edges), `closed` (all) or `open` "
            "(none)."
        ),
    ] = "half-open",
    fill: Annotated[
        Fill,
        typer.Option(
            help="Rule for overlapping rings of a class: `even-odd` (a ring within a "
            "ring is a hole), `nonzero` (only if it runs in the other direction) or "
            "`union` (never)."
        ),
    ] = "even-odd",
    origin: Annotated[
        Origin,
        typer.Option(
            help="Contour coordinates start at the `center` of the first pixel or at "
            "its `corner`."
        ),
    ] = "center",
    threads: Annotated[
        int,
        typer.Option(
            help="Number of threads; more than one helps where reading files is slow."
        ),
    ] = 1,
    max_pixel_bytes: Annotated[
        int,
        typer.Option(
            help="Reject an image file if its header announces more bytes of pixels "
            "than this.",
            show_default="1 GiB",
        ),
    ] = 2**30,
    decode_timeout: Annotated[
        float,
        typer.Option(
            help="Reject a compressed image if decoding it takes more seconds."
        ),
    ] = 60.0,
    root: Annotated[
        Path | None,
        typer.Option(
            help="Refuse a table that names files outside of this folder.",
            show_default="any folder",
        ),
    ] = None,
    without: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Table of findings, as `check` writes it: leave out its images.",
        ),
    ] = None,
    without_severity: Annotated[
        Severity,
        typer.Option(
            help="With --without: only images with a finding of this severity or a "
            "worse one."
        ),
    ] = "error",
    workers: Annotated[str | None, renamed("--threads")] = None,
    compress: Annotated[
        bool,
        typer.Option(
            "--compress",
            help="Compress images and masks: the store is smaller, but slower to read.",
        ),
    ] = False,
    force: Force = False,
    allow_rejects: AllowRejects = False,
) -> None:
    """Read the files of a links table and write them into a store.

    To continue an interrupted build, run the same command again. If the store exists,
    samples whose links, files and options have not changed are reused.

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
            decode_timeout=decode_timeout,
            compress=compress,
            root=root,
            without=without,
            without_severity=without_severity,
            force=force,
            progress=output.progress,
        )
    except OutputError:  # which is an OSError, too
        raise
    except (KeyboardInterrupt, OSError):
        if Path(f"{os.path.realpath(out)}.partial").exists():
            output.report(
                "finished samples are kept; run the same command again to continue"
            )
        raise
    except fastseg.errors.NothingBuiltError as exc:
        output.rejects(exc.rejects, out, allow=True)
        fail(output, str(exc), EXIT_REJECTS)
    seconds = time.perf_counter() - start
    size = out.stat().st_size / 1e6
    output.say(
        f"{out}: {many(report.samples, 'sample')}, "
        f"{many(report.contours, 'contour')}, {size:.1f} MB in {seconds:.1f} s"
    )
    output.written(out, report.path)
    for path in report.outer_roots[:REJECTS_SHOWN]:
        output.say(f"root: {path} (outside the folder of {links})")
    if len(report.outer_roots) > REJECTS_SHOWN:
        output.say(f"and {len(report.outer_roots) - REJECTS_SHOWN} more roots outside")
    if without is not None:
        output.say(
            f"{many(report.left_out, 'image')} left out: {without} has a finding of "
            f"severity {without_severity}"
            + ("" if without_severity == "error" else " or a worse one")
        )
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
    output.rejects(report.rejects, out, allow_rejects)


@command
def phantom(
    output: Output,
    out: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Folder to write the study to; new or empty.",
            callback=in_folder,
        ),
    ],
    kind: Annotated[
        PhantomKind,
        typer.Option(
            help="`cine`: MR of the heart with contours as text files. `rtstruct`: "
            "oblique CT of the chest with DICOM structure sets."
        ),
    ] = "cine",
    patients: Annotated[
        int | None,
        typer.Option(help="Number of patients.", show_default="4; rtstruct 3"),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<size>",
            help="Rows and columns of the images, as in 96 or 120x88. Repeat the "
            "option for several sizes, which patients get in turn.",
            show_default="96 for three patients, 120x88 for the fourth; rtstruct "
            "80x120, 96x104 and 104x96",
        ),
    ] = None,
    slices: Annotated[
        int | None,
        typer.Option(
            help="Number of slices along the body.", show_default="4; rtstruct 8"
        ),
    ] = None,
    phases: Annotated[
        int | None,
        typer.Option(
            help="Number of phases of the heartbeat, of `cine` alone.", show_default="6"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random anatomy.")] = 0,
) -> None:
    """Write a synthetic study with its contours: cine MR of the heart, or CT.

    Example: `fastseg phantom study --patients 10 --size 256 --slices 8 --phases 20`

    Structure sets: `fastseg phantom study --kind rtstruct`
    """
    study = fastseg.make_phantom(
        out,
        kind=kind,
        patients=patients,
        sizes=size or None,
        slices=slices,
        phases=phases,
        seed=seed,
        progress=output.progress,
    )
    images = [path for path in study.rglob("*.dcm") if path.name != "RS.dcm"]
    sets = len(list(study.rglob("RS.dcm")))
    counts = [many(len({path.parent for path in images}), "patient")]
    counts += [many(len(images), "image")]
    counts += [many(sets, "structure set")] if sets else []
    output.say(f"{out}: {', '.join(counts)}")
