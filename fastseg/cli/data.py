"""The commands that write data: a links table, a store, a synthetic study.

The commands import what needs numpy when they run, so that help and completion are
quick.
"""

from pathlib import Path
from typing import Annotated

import typer

import fastseg
from fastseg.choices import PhantomKind, Slices
from fastseg.cli.executors import Dask, Processes, executor_of_options
from fastseg.cli.terminal import (
    AliasesFile,
    AllowRejects,
    Force,
    MatchCase,
    Output,
    RoiPatterns,
    command,
    in_folder,
    out_option,
)
from fastseg.reprs import many


@command
def link(
    output: Output,
    root: Annotated[
        str,
        typer.Argument(metavar="ROOT", help="Folder of the data set, or its URL."),
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
    processes: Processes = None,
    dask: Dask = None,
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
    advice = "run the same command again"
    with executor_of_options(output, processes, dask, advice) as executor:
        table = fastseg.link(
            root,
            labels=label or None,
            slices=slices,
            keep_unlabelled=keep_unlabelled,
            rois=aliases_of_options(roi, aliases, match_case),
            join=join,
            plane_tolerance_mm=plane_tolerance,
            pseudonyms=pseudonyms,
            executor=executor,
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
            "oblique CT of the chest with DICOM structure sets. `faulty`: small `cine` "
            "with faults for `check` to find, listed in faults.csv."
        ),
    ] = "cine",
    patients: Annotated[
        int | None,
        typer.Option(
            help="Number of patients.", show_default="4; rtstruct 3; faulty 6"
        ),
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

    Faults in labels and images: `fastseg phantom study --kind faulty`
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
