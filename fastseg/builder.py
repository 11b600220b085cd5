"""Links to store: the only room that sees images, contours and the store together."""

import posixpath
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cache
from importlib.metadata import version
from math import ceil, nan, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fastseg import __version__, dicom, sources
from fastseg._kernels import tone
from fastseg.errors import (
    BuildError,
    ContourError,
    DicomError,
    LinkError,
    NothingBuiltError,
    RejectedWarning,
    StoreError,
)
from fastseg.links import (
    Link,
    LinkTable,
    Paths,
    Reject,
    StrPath,
    reason_of,
    save_rejects,
)
from fastseg.progress import Progress, silent
from fastseg.raster import Rules, draw_rings, join_rings, shift_origin
from fastseg.store import layout
from fastseg.store.layout import Bucket
from fastseg.store.reader import open_store
from fastseg.store.writer import Item, Source, write_store

# Order statistics are counted up to this range of values and sorted beyond it.
WIDEST_COUNT = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What a build did.

    path      : the store
    samples   : how many it holds
    links     : how many contours were drawn
    rejects   : what was not used, as listed in `<path>.rejects.csv`
    off_image : contour files whose contour covers no pixel of its image
    fingerprint : the store's
    """

    path: Path
    samples: int
    links: int
    rejects: tuple[Reject, ...]
    off_image: tuple[str, ...]
    fingerprint: str


def build(
    links: LinkTable | StrPath,
    output: StrPath,
    *,
    edges: str = "half-open",
    fill: str = "even-odd",
    origin: str = "center",
    progress: Progress = silent,
) -> BuildReport:
    """Read all linked images and contours and write them into a store.

    links  : a table, or the path of one
    output : the store; one that is there already is replaced when the new one is
        complete
    edges, fill, origin : what belongs to a region, see `raster.Rules`

    What cannot be used is left out, listed in `<output>.rejects.csv` and told by a
    RejectedWarning; the rest is built. Raises NothingBuiltError where nothing is left,
    BuildError where the target may not be replaced, LinkError for a malformed table,
    OptionError, OSError.
    """
    rules = Rules(edges=edges, fill=fill, origin=origin)
    table = links if isinstance(links, LinkTable) else LinkTable.load(links)
    target = Path(output)
    _check_target(target)
    if len(table.classes) > layout.MAX_CLASSES:
        raise BuildError(
            f"the links have {len(table.classes)} classes, a store holds at most "
            f"{layout.MAX_CLASSES}; link fewer labels"
        )
    rejects = list(table.rejects)
    samples = _plan(table, rejects, progress)
    off_image: list[str] = []
    while samples:
        # A header may promise more than its file holds. What fails now is left out
        # and the store is written again, as if it had never been linked.
        off_image.clear()
        items = (_item(sample, table, rules, rejects, off_image) for sample in samples)
        failed = write_store(
            target,
            progress(items, "build", len(samples)),
            buckets=[sample.bucket for sample in samples],
            classes=table.classes,
            options=asdict(rules),
            software=_versions(),
        )
        if not failed:
            break
        samples = [sample for k, sample in enumerate(samples) if k not in failed]
    listed = save_rejects(output, rejects)
    if not samples:
        raise NothingBuiltError(
            f"nothing to build: {len(rejects)} rejected, see {listed}"
            if rejects
            else "nothing to build: the table has no links",
            tuple(rejects),
        )
    if rejects:
        warnings.warn(
            f"{len(rejects)} links or files were rejected, see {listed}",
            RejectedWarning,
            stacklevel=2,
        )
    return BuildReport(
        path=target,
        samples=len(samples),
        links=sum(len(sample.contours) for sample in samples),
        rejects=tuple(rejects),
        off_image=tuple(off_image),
        fingerprint=open_store(target).fingerprint,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contour:
    label: str
    file: str
    source: Source
    rings: list[NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """An image that is to be built, and its contours."""

    link: Link
    file: Path
    bucket: Bucket
    contours: list[_Contour]


def _plan(table: LinkTable, rejects: list[Reject], progress: Progress) -> list[_Sample]:
    """Look at every file but the pixels, so that the store's shape is known."""
    groups: dict[tuple[str, int], list[Link]] = defaultdict(list)
    for link in table.links:
        groups[link.dicom_path, link.frame].append(link)
    paths = Paths(table.base)
    samples = []
    for group in progress(groups.values(), "check", len(groups)):
        sample = _plan_sample(group, paths, rejects)
        if sample is not None:
            samples.append(sample)
    return samples


def _plan_sample(
    links: list[Link], paths: Paths, rejects: list[Reject]
) -> _Sample | None:
    link = links[0]
    file = Path(link.dicom_path)
    try:
        file = paths.resolve(link.dicom_path, link.root)
        patients = {other.patient for other in links}
        if len(patients) > 1:
            raise LinkError(f"is linked to several patients: {sorted(patients)}")
        header = dicom.read_header(file)
        if link.frame >= header.frames:
            raise LinkError(f"has {header.frames} frames, no frame {link.frame}")
    except (DicomError, LinkError, OSError) as exc:
        reason = reason_of(exc, file, link.dicom_path)
        _reject_image(link, links, reason, rejects)
        return None
    seen = Counter(other.label for other in links)
    contours = []
    for other in links:
        if not other.contour_path:
            continue
        try:
            if seen[other.label] > 1:
                raise LinkError(
                    f"is one of {seen[other.label]} links of class {other.label} to "
                    f"{other.dicom_path}, frame {other.frame}; keep one"
                )
            contours.append(_read_contour(other, paths))
        except (ContourError, LinkError, OSError) as exc:
            line = exc.line if isinstance(exc, ContourError) else None
            reason = reason_of(exc, other.contour_path)
            rejects.append(Reject(other.contour_path, line, reason))
    if not contours and any(other.contour_path for other in links):
        rejects.append(
            Reject(link.dicom_path, None, "left out: none of its contours can be used")
        )
        return None
    bucket = Bucket((header.rows, header.columns), header.dtype)
    return _Sample(link=link, file=file, bucket=bucket, contours=contours)


def _read_contour(link: Link, paths: Paths) -> _Contour:
    data = paths.resolve(link.contour_path, link.root).read_bytes()
    rings = sources.read_rings(data, link.contour_path, link.format, link.contour_key)
    return _Contour(
        label=link.label,
        file=link.contour_path,
        source=_source(link.contour_path, link.root, data),
        rings=rings,
    )


def _item(
    sample: _Sample,
    table: LinkTable,
    rules: Rules,
    rejects: list[Reject],
    off_image: list[str],
) -> Item | None:
    """Read the pixels and draw the contours; None after rejecting the image."""
    link = sample.link
    try:
        data = sample.file.read_bytes()
        image = dicom.decode(data, link.dicom_path, link.frame)
        if Bucket(image.pixels.shape, image.pixels.dtype) != sample.bucket:
            raise DicomError("has changed while the store was built; build again")
    except (DicomError, ImportError, OSError) as exc:
        links = [replace(link, contour_path=c.file) for c in sample.contours]
        _reject_image(link, links, reason_of(exc, link.dicom_path), rejects)
        return None
    mask = np.zeros(image.pixels.shape, layout.mask_dtype(table.classes))
    rings = []
    for contour in sample.contours:
        k = table.classes.index(contour.label)
        draw_rings(*join_rings(contour.rings), mask, k, rules)
        # Stored in the frame in which pixel centres are integers.
        moved = [shift_origin(ring, rules.origin) for ring in contour.rings]
        rings.append((k, contour.source, moved))
    pixels = np.empty(len(table.classes), np.int64)
    boxes = np.empty((len(table.classes), 4), np.int64)
    tone.measure_classes(mask, pixels, boxes)
    for (k, *_), contour in zip(rings, sample.contours, strict=True):
        if not pixels[k]:
            off_image.append(contour.file)
    slope, intercept = image.header.value_map
    return Item(
        image=image.pixels,
        mask=mask,
        rings=rings,
        source=_source(link.dicom_path, link.root, data),
        facts={
            "patient": link.patient,
            "series": image.header.series,
            "instance": _or(image.header.instance, -1),
            "frame": link.frame,
            "spacing_mm": _or(image.header.spacing_mm, (nan, nan)),
            "slope": slope,
            "intercept": intercept,
            "window": _or(image.header.value_window, (nan, nan)),
            "pixels": pixels,
            "bbox": boxes,
            **_statistics(image.pixels),
        },
    )


def _reject_image(
    link: Link, links: Iterable[Link], reason: str, rejects: list[Reject]
) -> None:
    """Reject an image and, so that nothing is lost silently, each of its contours."""
    rejects.append(Reject(link.dicom_path, None, reason))
    for other in links:
        if other.contour_path:
            rejects.append(
                Reject(
                    other.contour_path, None, f"its image {link.dicom_path} is rejected"
                )
            )


def _source(path: str, root: str, data: bytes) -> Source:
    return Source(
        path=posixpath.relpath(path, root), size=len(data), xxh3=xxh3_64_intdigest(data)
    )


def _statistics(image: NDArray[Any]) -> dict[str, Any]:
    """Return the statistics columns of stored values, exact before the last rounding.

    Sums are whole numbers, so they depend on neither order nor machine.
    """
    least, greatest, total, high, low = tone.sum_values(image)
    squares = (int(high) << 32) + int(low)
    count, total = image.size, int(total)
    variance = Fraction(count * squares - total * total, count * count)
    ranks = _percentile_ranks(count)
    if greatest - least < WIDEST_COUNT:
        percentiles = np.empty(len(ranks))
        tone.rank_values(image, least, greatest, ranks, percentiles)
    else:
        percentiles = np.partition(image, ranks, axis=None)[ranks].astype(np.float64)
    return {
        "mean": total / count,
        "std": sqrt(variance),
        "min": float(least),
        "max": float(greatest),
        "percentiles": percentiles,
    }


@cache
def _percentile_ranks(count: int) -> NDArray[np.int64]:
    """Return the nearest ranks (0 the smallest) of `layout.PERCENTILES`."""
    shares = (Fraction(str(q)) / 100 for q in layout.PERCENTILES)
    return np.array([max(ceil(share * count), 1) - 1 for share in shares], np.int64)


def _check_target(target: Path) -> None:
    if target.is_dir():
        raise BuildError(f"{target}: is a folder, expected the name of a store")
    if target.exists():
        try:
            open_store(target)
        except StoreError as exc:
            raise BuildError(
                f"{target}: exists and is no sound store ({exc}); remove it or choose "
                "another name"
            ) from None


def _versions() -> dict[str, str]:
    packages = ("h5py", "numpy", "pydicom")
    return {"fastseg": __version__, **{name: version(name) for name in packages}}


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
