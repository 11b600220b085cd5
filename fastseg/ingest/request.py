"""What is asked of a build, checked: before anything is read but the links table."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fastseg import __version__
from fastseg._kernels.contours import labels, planes
from fastseg._kernels.files import content
from fastseg._kernels.images import statistics
from fastseg._kernels.native.entries import prepare
from fastseg.choices import Edges, Fill, Origin, Severity
from fastseg.codecs.pool import Pool, check_timeout
from fastseg.errors import OptionError, PathError, shown, true_or_false, whole_number
from fastseg.ingest.annotations import point_lists
from fastseg.ingest.images import ImageReader
from fastseg.ingest.items import ItemBuilder
from fastseg.ingest.left_out import without_findings
from fastseg.links import LinkTable
from fastseg.outputs import check_input, check_target
from fastseg.paths import Paths, StrPath, as_path, is_inside, path_text
from fastseg.progress import Progress
from fastseg.raster.rules import Rules
from fastseg.sources import DEFAULT_FORMAT, READERS
from fastseg.sources.rtstruct import RtStruct
from fastseg.store import compression, layout
from fastseg.store.layout import Bucket
from fastseg.store.writing.older_store import STORE
from fastseg.tables import check_rejects, rejects_path
from fastseg.urls import is_below, is_url


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """The options of `build` and `plan_parts` alike, as these take them; checked.

    None has a default, so that none is forgotten: these two and `fastseg.cli.building`
    have the defaults.
    """

    edges: Edges
    fill: Fill
    origin: Origin
    max_pixel_bytes: int
    decode_timeout: float
    compress: bool
    root: StrPath | None
    without: StrPath | None
    without_severity: Severity
    force: bool

    def __post_init__(self) -> None:
        assert self.rules  # they check themselves
        root = None if self.root is None else path_text("root", self.root)
        checked = {
            "max_pixel_bytes": whole_number("max_pixel_bytes", self.max_pixel_bytes, 1),
            "compress": true_or_false("compress", self.compress),
            "decode_timeout": check_timeout(self.decode_timeout),
            "root": root,
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.compress:
            compression.require("building a compressed store")

    @property
    def rules(self) -> Rules:
        """Which pixels belong to a region."""
        return Rules(edges=self.edges, fill=self.fill, origin=self.origin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A build that may begin.

    table    : its links, without images that are left out
    output   : as it was given; target: where it leads, if it is a symbolic link
    left_out : number of images that are
    outer_roots : as in BuildReport
    """

    table: LinkTable
    output: Path
    target: Path
    options: BuildOptions
    left_out: int
    outer_roots: tuple[Path | str, ...]


def check_request(
    links: LinkTable | StrPath,
    output: StrPath,
    options: BuildOptions,
    progress: Progress,
) -> Request:
    """Check what `build` takes, and load the links table; raises what `build` does."""
    output = as_path("output", output)
    if not isinstance(links, LinkTable):
        links = _check_table(links)
        for written in () if is_url(links) else (output, rejects_path(output)):
            check_input(written, links, "the links table", STORE)
    target = check_target(output, STORE, options.force)
    check_rejects(output, options.force)
    # Refuse a file that is not a links table before anything is created.
    table = links if isinstance(links, LinkTable) else LinkTable.load(links, progress)
    left_out = 0
    if options.without is not None:
        table, left_out = without_findings(
            table, options.without, options.without_severity
        )
    layout.check_classes(table.classes)
    _check_origin(table, options.rules)
    return Request(
        table=table,
        output=output,
        target=target,
        options=options,
        left_out=left_out,
        outer_roots=_outer_roots(table, options.root),
    )


def item_builder(request: Request, decoders: Pool) -> ItemBuilder:
    """Return what builds the items of a request."""
    paths = Paths(request.table.base)
    images = ImageReader(
        paths,
        decoders,
        max_pixel_bytes=request.options.max_pixel_bytes,
        decode_timeout=request.options.decode_timeout,
    )
    return ItemBuilder(paths, request.table.classes, request.options.rules, images)


def prepare_kernels(
    buckets: Sequence[Bucket],
    classes: Sequence[str],
    rules: Rules,
    formats: Collection[str],
) -> None:
    """Compile what blocks are going to need, if it is not there.

    formats : of the contours
    """
    masks = layout.mask_dtype(classes).name
    wanted: list[tuple[Any, dict[str, Any]]] = [
        (content.read_files, {}),
        (content.note_headers, {}),
        (labels.parse_files, {}),
    ]
    if not {*formats} <= point_lists():  # else each class has one ring
        wanted.append((labels.compare_rules, {}))
    if RtStruct.format in formats:
        wanted.append((planes.project_points, {}))
    for bucket in buckets:
        rule = rules.kernel_rule(*bucket.shape)
        wanted.append((labels.draw_masks, {"T": masks, "rule": rule}))
        wanted.append((statistics.measure_images, {"T": bucket.dtype.name}))
        both = {"T": bucket.dtype.name, "M": masks}
        wanted.append((statistics.write_histograms, both))
    prepare(wanted)


def _check_table(links: Any) -> str:
    """Return the path or URL of a links table, or raise OptionError."""
    if isinstance(links, str | os.PathLike):
        return path_text("links", links)
    raise OptionError(
        f"links is {shown(links)}, expected a LinkTable, as fastseg.link returns it, "
        "or the path of a saved one"
    )


def _check_origin(table: LinkTable, rules: Rules) -> None:
    """Raise OptionError if contours in millimetres would be shifted by `origin`."""
    if rules.origin == "center":
        return
    codes, texts = table.links.format
    for code in np.flatnonzero(np.bincount(codes, minlength=len(texts))).tolist():
        reader = READERS.get(texts[code] or DEFAULT_FORMAT)
        if reader is not None and not reader.is_in_pixels:
            raise OptionError(
                f"origin is {rules.origin!r}, but the table has contours of format "
                f"{reader.format!r}: they are in millimetres, and the headers of the "
                "images say where pixel centres lie; build them with origin 'center' "
                "(--origin center)"
            )


def _outer_roots(table: LinkTable, folder: StrPath | None) -> tuple[Path | str, ...]:
    """Return the real paths of a table's roots that do not lie in its folder, sorted.

    Raises PathError for a root outside of `folder`, which may be a URL.
    """
    folder = None if folder is None else os.fspath(folder)
    is_remote = folder is not None and is_url(folder)
    if folder is not None and not is_remote and not Path(folder).is_dir():
        raise OptionError(f"root is {folder!r}, expected a folder")
    base = os.path.realpath(table.base)
    codes, texts = table.links.root
    outer: set[Path | str] = set()
    # Not np.unique, which imports numpy.ma when it is first called: 8 ms.
    for code in np.flatnonzero(np.bincount(codes)).tolist():
        text = texts[code]
        real = text if is_url(text) else os.path.realpath(table.base / text)
        if folder is not None and is_remote != is_url(text):
            is_allowed = False
        elif folder is not None and is_remote:
            is_allowed = is_below(text, folder)
        else:
            is_allowed = folder is None or is_inside(real, os.path.realpath(folder))
        if not is_allowed:
            raise PathError(
                f"the table has the root {texts[code]!r}, which is {real} and lies "
                f"outside {folder}; give the folder that holds the data as root "
                "(--root), if you trust the table"
            )
        if is_url(text):
            outer.add(text)
        elif not is_inside(real, base):
            outer.add(Path(real))
    return tuple(sorted(outer, key=str))


def software_of(compress: bool) -> dict[str, str]:
    """Return the versions of the packages that write a store."""
    return _versions() | ({compression.NAME: compression.version()} if compress else {})


@cache
def _versions() -> dict[str, str]:
    packages = ("h5py", "numpy", "pydicom")
    installed = {name: _installed_version(name) for name in packages}
    return {"fastseg": __version__, **installed}


def _installed_version(package: str) -> str:
    """Return the version of a package, which need not be imported.

    The name of the folder beside it tells the version (PEP 376).
    """
    spec = find_spec(package)
    if spec is not None and spec.origin:
        site = Path(spec.origin).parents[1]
        names = [x.name for x in site.glob(f"{package}-*.dist-info")]
        if len(names) == 1:
            return names[0].removeprefix(f"{package}-").removesuffix(".dist-info")
    from importlib.metadata import version  # 20 ms, a fourteenth of a first build

    return version(package)
