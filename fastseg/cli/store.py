"""The commands that read a store and do not change it.

The commands import what needs numpy when they run, so that help and completion are
quick.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

import fastseg
from fastseg.bounds import MAX_JSON_BYTES
from fastseg.choices import By, DTypeName, MaskForm, Preset, Stratify, Window
from fastseg.cli.terminal import (
    EXIT_ERROR,
    REJECTS_SHOWN,
    AsJson,
    Force,
    Output,
    choice_or,
    command,
    out_option,
    rules_differ,
)
from fastseg.errors import OptionError, one_of
from fastseg.files import read_file
from fastseg.outputs import check_target
from fastseg.reprs import listed, many
from fastseg.urls import is_url

# Most characters of a UID in a table.
UID_SHOWN = 15
# Most paths of stores in a table.
STORES_SHOWN = 5


def stores_argument(text: str) -> Any:
    """Return the argument of a command that reads several stores as one."""
    return typer.Argument(
        metavar="STORE", help=f"{text}; several are read as one.", show_default=False
    )


def open_as_one(stores: Sequence[Path]) -> "fastseg.Store":
    """Open a store, or several as one."""
    return fastseg.open(stores[0]) if len(stores) == 1 else fastseg.concat(stores)


@command
def info(
    output: Output,
    stores: Annotated[list[Path], stores_argument("Store to describe")],
    volumes: Annotated[
        bool, typer.Option("--volumes", help="List the volumes instead.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print what a store holds: samples, shapes, classes, options.

    Example: `fastseg info heart.h5`

    Its volumes: `fastseg info heart.h5 --volumes`

    Several as one: `fastseg info site1.h5 site2.h5`
    """
    opened = open_as_one(stores)
    summary = opened.summary()
    if as_json:
        if len(stores) > 1:
            summary["files"] = list(map(str, opened.paths))
        if output.verbose:
            summary["patient_ids"] = list(opened.patients)
        if volumes:
            summary["volumes"]["list"] = list(map(_as_dict, opened.volumes))
        output.json(summary)
        return
    if volumes:
        _list_volumes(output, opened, summary)
        return
    rows = [
        ("store" if len(stores) == 1 else "stores", _names(stores, output.verbose)),
        ("samples", str(summary["samples"])),
        ("patients", str(summary["patients"])),
        ("series", str(summary["series"])),
        ("modality", _modalities(summary["modalities"])),
        ("volumes", _volumes(summary)),
        ("size", f"{summary['bytes'] / 1e6:.1f} MB"),
    ]
    if summary["compression"]:
        ratio = f"{summary['compression_ratio']:.2f} times smaller"
        rows.append(("pixels", f"{summary['compression']}, {ratio}"))
    rows += [
        ("made from", f"{summary['source_files']} files"),
        ("masks", _pairs(summary["options"])),
        ("written by", _pairs(summary["software"])),
        ("fingerprint", summary["fingerprint"]),
    ]
    output.table(rows)
    output.say("")
    shapes = [
        (
            bucket["name"],
            str(bucket["samples"]),
            _range(bucket["spacing_mm"]),
            _range(bucket["values"]),
        )
        for bucket in summary["buckets"]
    ]
    output.table(shapes, ("bucket", "samples", "spacing (mm)", "values"))
    output.say("")
    classes = [
        (c["name"], str(c["bit"]), str(c["samples"]), f"{c['mean_pixels'] or 0:.0f}")
        for c in summary["classes"]
    ]
    if classes:
        output.table(classes, ("class", "bit", "samples", "mean area (pixels)"))
        several, dependent = (
            sum(entry[name] for entry in summary["classes"])
            for name in ("several_rings", "rule_dependent")
        )
        if several:
            output.say("")
            output.say(rules_differ(dependent, several))
    else:
        output.say("no classes: no image has a contour")
    if output.verbose:
        output.say("")
        for patient in opened.patients:
            output.say(f"patient {patient}")


def _list_volumes(
    output: Output, store: "fastseg.Store", summary: Mapping[str, Any]
) -> None:
    rows = [
        (
            str(volume.index),
            volume.patient,
            volume.series if output.verbose else _end_of(volume.series),
            "" if volume.time is None else f"{volume.time:g}",
            "x".join(map(str, volume.shape)),
            " x ".join(f"{mm:.4g}" for mm in volume.spacing_mm),
            ", ".join(volume.classes),
        )
        for volume in store.volumes
    ]
    if rows:
        header = "volume", "patient", "series", "time", "shape", "spacing (mm)"
        output.table(rows, (*header, "classes"))
        output.say("")
    output.say(f"volumes: {_volumes(summary)}")


def _names(stores: Sequence[Path], is_verbose: bool) -> str:
    """Return the paths of stores, the first ones of many unless it is verbose."""
    shown = stores if is_verbose else stores[:STORES_SHOWN]
    more = len(stores) - len(shown)
    return ", ".join(map(str, shown)) + (f" and {more} more" if more else "")


def _end_of(uid: str) -> str:
    """Return the last characters of a UID, in which series mostly differ."""
    return uid if len(uid) <= UID_SHOWN else f"...{uid[3 - UID_SHOWN :]}"


def _as_dict(volume: "fastseg.Volume") -> dict[str, Any]:
    return {
        "patient": volume.patient,
        "series": volume.series,
        "time": volume.time,
        "classes": list(volume.classes),
        "first_sample": volume.samples.start,
        "shape": list(volume.shape),
        "spacing_mm": list(volume.spacing_mm),
        "affine": volume.affine.tolist(),
    }


def _pairs(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _modalities(modalities: Sequence[Mapping[str, Any]]) -> str:
    names = [modality["name"] or "unknown" for modality in modalities]
    if len(names) == 1:
        return str(names[0])
    counts = [many(modality["samples"], "sample") for modality in modalities]
    return ", ".join(
        f"{name} ({count})" for name, count in zip(names, counts, strict=True)
    )


def _volumes(summary: Mapping[str, Any]) -> str:
    volumes = summary["volumes"]
    text = "none"
    if volumes["count"]:
        # Distances are computed: one of 10 mm is 9.99997.
        apart, pixels = (
            _range([round(mm, 3) for mm in volumes[name]])
            for name in ("spacing_mm", "pixel_spacing_mm")
        )
        shapes = listed([f"{rows}x{columns}" for rows, columns in volumes["shapes"]])
        text = (
            f"{volumes['count']} of {_range(volumes['slices'])} slices of {shapes}, "
            f"{apart} mm apart, pixels of {pixels} mm"
        )
    others = summary["samples"] - volumes["samples"]
    if not others:
        return text
    reasons = [f"{why['name']} {why['samples']}" for why in volumes["in_none"] or ()]
    why = f" ({', '.join(reasons)})" if reasons else ""
    return f"{text}; {many(others, 'sample')} in no volume{why}"


def _range(values: Sequence[float] | None) -> str:
    """Return the least and greatest of some numbers as text."""
    if values is None:
        return "unknown"
    least, greatest = values
    return f"{least:g}" if least == greatest else f"{least:g} to {greatest:g}"


@command
def verify(
    output: Output,
    stores: Annotated[
        list[str],
        typer.Argument(
            metavar="STORE",
            help="Store to check, or the URL of one that was uploaded; or several.",
        ),
    ],
    sources: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the data set: also check that the original files are "
            "unchanged."
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Number of threads that read and hash.", show_default="one per core"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that a store is unchanged since it was written.

    Reads the whole store and recomputes every checksum. The exit status is 1 if
    anything has changed, in any of several stores.

    Example: `fastseg verify heart.h5 --sources data/sunnybrook`

    Of a URL, as `build --upload` writes it, all bytes are compared with the checksum
    beside it.
    """
    results = [
        _verify_one(output, store, sources, threads, as_json) for store in stores
    ]
    is_valid = all(result["is_valid"] for result in results)
    if as_json:
        several = {"is_valid": is_valid, "stores": results}
        output.json(several if len(stores) > 1 else results[0])
    if not is_valid:
        raise typer.Exit(EXIT_ERROR)


@command
def upload(
    output: Output,
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Store to copy.")],
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Where to, as in s3://bucket/heart.h5.")
    ],
    force: Force = False,
) -> None:
    """Copy a store to a URL, with its SHA-256 beside it.

    Example: `fastseg upload heart.h5 s3://bucket/heart.h5`, and
    `fastseg verify s3://bucket/heart.h5`
    """
    done = fastseg.upload(store, url, force=force, progress=output.progress)
    state = "uploaded" if done.sent else "the same is there already"
    output.say(f"{done.url}: {state}, sha256 {done.sha256}")


def _verify_one(
    output: Output, store: str, sources: Path | None, threads: int | None, as_json: bool
) -> dict[str, Any]:
    """Verify a store or an upload, print the result, and return it for JSON."""
    start = time.perf_counter()
    if is_url(store):
        if sources is not None or threads is not None:
            raise OptionError("--sources and --threads are for a store on a disk")
        found = fastseg.verify_upload(store, progress=output.progress)
        seconds = time.perf_counter() - start
        if not as_json:
            state = "valid" if found.is_valid else f"damaged: {found.reason}"
            size = found.size / 1e9
            output.say(f"{store}: {state}, {size:.3f} GB in {seconds:.1f} s")
            output.say(f"sha256 {found.sha256}")
        return found.as_dict() | {"seconds": seconds}
    report = fastseg.verify(
        store, sources=sources, threads=threads, progress=output.progress
    )
    seconds = time.perf_counter() - start
    if not as_json:
        _print_report(output, store, report, seconds)
    return report.as_dict() | {"seconds": seconds}


def _print_report(
    output: Output, store: str, report: "fastseg.VerifyReport", seconds: float
) -> None:
    size = report.bytes_read / 1e9
    output.say(
        f"{store}: {'damaged' if report.damages else 'valid'}, "
        f"{many(report.samples, 'sample')}, {size:.3f} GB in {seconds:.1f} s "
        f"({size / seconds:.1f} GB/s)"
    )
    output.say(f"fingerprint {report.fingerprint}")
    _list(output, "damaged", report.damages)
    _list(output, "changed since the store was built", report.changed_sources)


def _list(output: Output, what: str, rows: Sequence[Any]) -> None:
    if not rows:
        return
    output.report(f"{len(rows)} {what}:", "yellow")
    for row in rows if output.verbose else rows[:REJECTS_SHOWN]:
        output.report(f"  {row}")
    if len(rows) > REJECTS_SHOWN and not output.verbose:
        output.report(f"  and {len(rows) - REJECTS_SHOWN} more (--verbose lists all)")


@command
def split(
    output: Output,
    stores: Annotated[list[Path], stores_argument("Store to split")],
    part: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<name=fraction>",
            help="Name of a part and its fraction of the samples, as in train=0.8; "
            "repeat the option for each part.",
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(help="Number of folds, for cross-validation; instead of --part."),
    ] = None,
    out: Annotated[Path, out_option("Table of the split to write (CSV).")] = Path(
        "splits.csv"
    ),
    by: Annotated[
        By,
        typer.Option(
            help="Keep all samples of a `patient`, a `series` or a `volume` in one "
            "part, or assign each `sample` by itself."
        ),
    ] = "patient",
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    stratify: Annotated[
        Stratify | None,
        typer.Option(
            help="Balance the parts by labelled `classes` or by image `shape`."
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<class>",
            help="Split only samples that have this class; repeat the option to "
            "require several classes.",
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Split a store into parts, by patient, and write a table.

    Example: `fastseg split heart.h5 -o splits.csv --part train=0.8 --part val=0.2`
    """
    from fastseg.store.selection import has_class
    from fastseg.store.split_table import TABLE
    from fastseg.store.splits import count_shared
    from fastseg.store.text import decode

    if bool(part) == (folds is not None):
        raise OptionError(
            "give --part for each part, as in --part train=0.8 --part val=0.2, or "
            "--folds 5"
        )
    check_target(out, TABLE, force)
    opened = open_as_one(stores)
    chosen = opened.select(classes=label or None)
    options: Any = {"by": by, "seed": seed, "stratify": stratify, "indices": chosen}
    with output.progress("split", 0):
        parts = (
            opened.split(_fractions(part or []), **options)
            if folds is None
            else opened.split_folds(folds, **options)
        )
    path = fastseg.write_split(
        out, opened, parts, by=by, force=force, progress=output.progress
    )
    patients = [set(opened.items["patient"][part].tolist()) for part in parts.values()]
    rows = [
        ("samples", *(str(len(part)) for part in parts.values())),
        ("fraction", *(f"{len(part) / len(chosen):.1%}" for part in parts.values())),
        ("patients", *(str(len(group)) for group in patients)),
    ]
    for k, name in enumerate(opened.classes):
        labelled = has_class(opened.items["labelled"], k)
        rows.append((name, *(str(labelled[p].sum()) for p in parts.values())))
    output.table(rows, ("", *parts))
    count = count_shared(opened, parts, by="patient")
    shared = many(count, "patient") if count else "no patient"
    output.say(
        f"{out}: {many(len(chosen), 'sample')} by {by}, seed {seed}; "
        f"{shared} in more than one part"
    )
    output.written(out, path)
    if output.verbose:
        for name, group in zip(parts, patients, strict=True):
            for patient in decode(opened, sorted(group)):
                output.say(f"{name} {patient}")


def _fractions(parts: list[str]) -> dict[str, float]:
    """Return the fraction of each part, from texts like train=0.8."""
    fractions: dict[str, float] = {}
    for text in parts:
        name, equals, number = text.partition("=")
        try:
            fraction = float(number)
        except ValueError:
            equals = ""
        if not equals or name in fractions:
            raise OptionError(
                f"--part is {text!r}, expected a new name and a fraction, as in "
                "train=0.8"
            )
        fractions[name] = fraction
    return fractions


@command
def show(
    output: Output,
    stores: Annotated[list[Path], stores_argument("Store to draw from")],
    out: Annotated[Path, out_option("Picture to write (.png, .pdf, .svg).")] = Path(
        "picture.png"
    ),
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            "-n",
            help="Number of samples to draw, chosen at random; those with contours "
            "first.",
            show_default="4, or all of --index",
        ),
    ] = None,
    patient: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<patient>",
            help="Only samples of this patient; repeat the option for several.",
            show_default="all patients",
        ),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="<class>",
            help="Draw only this class, and only samples that have it; repeat the "
            "option for several.",
            show_default="all classes",
        ),
    ] = None,
    index: Annotated[
        list[int] | None,
        typer.Option(
            metavar="<number>",
            help="Draw this sample of the store; repeat the option for several.",
            show_default="any",
        ),
    ] = None,
    volume: Annotated[
        int | None,
        typer.Option(
            metavar="<number>",
            help="Draw three orthogonal planes of this volume of the store instead of "
            "samples.",
            show_default="none",
        ),
    ] = None,
    window: Annotated[
        str,
        choice_or(
            "LOW,HIGH",
            Window,
            "Values that are black and white: the `header`'s window, two "
            "`percentiles` of what is shown, or two numbers, as in -160,240; `auto` is "
            "the header's for CT and percentiles for all else.",
        ),
    ] = "auto",
    zoom: Annotated[
        bool, typer.Option("--zoom", help="Show only what is labelled, with a margin.")
    ] = False,
    seed: Annotated[
        int, typer.Option(help="Seed of the choice of samples and of the augmentation.")
    ] = 0,
    augment: Annotated[
        str | None,
        choice_or(
            "FILE",
            Preset,
            "Draw each sample with six augmented versions of it, or the volume with "
            "three, by a preset or by a .json file of a Compose.",
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Draw samples: image, mask, and the image with mask and contours; or a volume.

    Example: `fastseg show heart.h5 -o picture.png --count 6 --zoom`

    Chosen samples: `fastseg show heart.h5 --patient PHANTOM0001 --class icontour`

    A volume: `fastseg show heart.h5 --volume 0 -o volume.png`

    What a PatchLoader makes of it: add `--augment standard`
    """
    from fastseg.pictures.samples import choose_samples

    opened = open_as_one(stores)
    compose: fastseg.augment.Compose | str | None = augment
    if augment is not None and augment not in get_args(Preset):
        if not augment.endswith(".json"):
            text = one_of("--augment", augment, get_args(Preset))
            raise OptionError(f"{text}; a file of a Compose ends with .json")
        compose = _read_compose(Path(augment))
    options: dict[str, Any] = {"count": count, "patients": patient, "indices": index}
    drawn = f"volume {volume}"
    if volume is None:
        chosen = choose_samples(opened, classes=classes, seed=seed, **options)
        options = {"indices": chosen}
        drawn = f"{len(chosen)} of {len(opened)} samples"
    path = fastseg.show(
        opened,
        out,
        **options,
        volume=volume,
        classes=classes,
        window=_window(window),
        zoom=zoom,
        seed=seed,
        augment=compose,
        force=force,
        progress=output.progress,
    )
    output.say(f"{out}: {drawn}")
    output.written(out, path)


@command
def bench(
    output: Output,
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Store to load.")],
    batch_size: Annotated[int, typer.Option(help="Samples per batch.")] = 32,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="<size>",
            help="Rows and columns of the images in a batch, as in 96 or 120x88.",
            show_default="as in the store",
        ),
    ] = None,
    neighbours: Annotated[
        int,
        typer.Option(help="Slices on each side of a sample that are loaded with it."),
    ] = 0,
    dtype: Annotated[
        DTypeName,
        typer.Option(
            help="Type of the pixels in a batch: `float32`, `float16`, or `raw` for "
            "stored values."
        ),
    ] = "float32",
    masks: Annotated[
        str,
        choice_or(
            "CLASS",
            MaskForm,
            "Masks in a batch: of all classes, or of one by its name.",
        ),
    ] = "labels",
    threads: Annotated[
        int | None,
        typer.Option(
            help="Number of threads that make batches.", show_default="one per core"
        ),
    ] = None,
    prefetch: Annotated[
        int, typer.Option(help="Number of batches made ahead of the loop.")
    ] = 4,
    seconds: Annotated[
        float, typer.Option(help="Seconds to measure in each round.")
    ] = 0.5,
    rounds: Annotated[int, typer.Option(help="Number of rounds.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Measure how fast a store is loaded, compared with copying memory.

    Example: `fastseg bench heart.h5 --batch-size 16 --size 96`
    """
    import numpy as np

    report = fastseg.bench(
        fastseg.open(store),
        batch_size=batch_size,
        size=_size(size),
        neighbours=neighbours,
        dtype=dtype,
        masks=masks,
        # It takes as long, whatever becomes of classes that nobody outlined.
        missing=None if masks == "bits" else "background",
        threads=threads,
        prefetch=prefetch,
        seconds=seconds,
        rounds=rounds,
        progress=output.progress,
    )
    if as_json:
        output.json(report.as_dict())
        return
    rows = []
    for name, rates in (
        ("Loader", report.rates),
        ("copying batches in memory", report.copy_rates),
        ("first epoch", (report.first_epoch,)),
    ):
        median = float(np.median(rates))
        spread = f"({min(rates):,.0f} to {max(rates):,.0f})" if len(rates) > 1 else ""
        speed = f"{median * report.sample_bytes / 1e9:.2f}"
        rows.append((name, f"{median:,.0f}", spread, speed))
    output.table(rows, ("", "samples/s", "range", "GB/s"))
    output.say(
        f"batches of {report.batch_size}, {many(report.threads, 'thread')}, "
        f"{report.prefetch} ahead, {report.sample_bytes / 1e3:,.1f} kB a sample"
    )
    output.say(
        f"first batch after {report.first_batch:.2f} s, with compiling or loading the "
        f"kernels; that of a second Loader after {report.next_batch * 1e3:.1f} ms"
    )
    for line in (*report.stats.work_lines(), report.bottleneck):
        output.say(line)


def _read_compose(path: Path) -> "fastseg.augment.Compose":
    try:
        text, _ = read_file(str(path), MAX_JSON_BYTES)
        return fastseg.augment.from_dict(json.loads(text.decode()))
    except ValueError as exc:  # from json or Unicode decoding, or an OptionError
        raise OptionError(f"{path}: {exc}") from None
    except OSError as exc:
        if exc.filename is not None:
            raise
        raise OptionError(f"{path}: {exc}") from None
    except RecursionError:
        raise OptionError(f"{path}: is nested too deeply for a Compose") from None


def _window(text: str) -> Any:
    """Return the option `window` of `fastseg.show`, from a text like -160,240."""
    if "," not in text:
        if text in get_args(Window):
            return text
        words = one_of("--window", text, get_args(Window))
        raise OptionError(f"{words}; or two numbers, as in -160,240")
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise OptionError(
            f"--window is {text!r}, expected two numbers, as in -160,240"
        ) from None
    return low, high


def _size(text: str | None) -> int | tuple[int, int] | None:
    """Return (rows, columns) from a text like 96 or 120x88."""
    if text is None:
        return None
    try:
        sides = [int(side) for side in text.split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise OptionError(f"--size is {text!r}, expected rows and columns, as in 96x80")
    return sides[0], sides[-1]
