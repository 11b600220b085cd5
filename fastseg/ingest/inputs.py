"""The files of what is plain of a share, as columns for compiled code."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg import dicom, sources
from fastseg._kernels.files import content, system
from fastseg.ingest.item import Maker
from fastseg.ingest.plan import NO_START, Part, join_names
from fastseg.links import Link
from fastseg.store.layout import Bucket


class Commons:
    """What the kernels must know of headers that files have in common, as columns."""

    def __init__(self, commons: list[dicom.Header]):
        self.plain = np.array([each.frames == 1 for each in commons], np.bool_)
        inverted = [each.photometric != "MONOCHROME2" for each in commons]
        self.inverted = np.array(inverted, np.bool_)
        self.limits = np.array(list(map(_limits, commons)), np.int64).reshape(-1, 2)
        self.maps = np.array([each.value_map for each in commons]).reshape(-1, 2)
        spacings = [each.spacing_mm or (np.nan, np.nan) for each in commons]
        self.spacings = np.array(spacings).reshape(-1, 2)


class Files(NamedTuple):
    """The files of n items of one bucket: first all images, then all contours.

    items  : which of the part they are
    links  : of each image, then of each contour
    rings  : int64 (n + 1,), item k has the contours from rings[k] to rings[k + 1]
    bits   : int64 (c,), of the contours' classes
    names, starts : real paths, each with NUL behind it, and where each begins
    sizes, leads  : int64, bytes of a file, -1 if not known, and of what stands before
        an image's pixels
    heads  : uint64 (n,), XXH3-64 of the latter
    limits : int64 (n, 2), the least and the greatest value that may be
    """

    part: Part
    commons: Commons
    items: NDArray[np.int64]
    links: list[Link]
    rings: NDArray[np.int64]
    bits: NDArray[np.int64]
    names: NDArray[np.uint8]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    leads: NDArray[np.int64]
    heads: NDArray[np.uint64]
    limits: NDArray[np.int64]


def group_plain(
    part: Part, items: Sequence[int], maker: Maker
) -> Iterator[tuple[Bucket, Files]]:
    """Yield the files of what is plain of some items, by bucket."""
    common, chosen = part.looks.common, np.asarray(items, np.int64)
    commons = Commons(part.looks.commons)
    chosen = chosen[common[chosen] != NO_START]
    chosen = chosen[commons.plain[common[chosen]]]
    if system.AVAILABLE:
        buckets = part.slots.bucket[chosen]
        for number in np.unique(buckets).tolist():
            bucket, some = part.buckets[number], chosen[buckets == number]
            yield bucket, _files_of(bucket, part, commons, some.tolist(), maker)


def _files_of(
    bucket: Bucket, part: Part, commons: Commons, items: list[int], maker: Maker
) -> Files:
    """Return the files of those items whose links and paths are plain."""
    looks, direct = part.looks, maker.paths.direct
    bits = {name: bit for bit, name in enumerate(maker.classes)}
    size = bucket.shape[0] * bucket.shape[1] * bucket.dtype.itemsize
    plain, images, contours, rings = [], [], [], [0]
    names: tuple[list[str], list[str]] = [], []
    right = looks.places[items, 1] == size + size % 2
    for k in itertools.compress(items, right.tolist()):
        links = part.links[k]
        link = links[0]
        name = direct(link.dicom_path, link.root)
        if name is None:
            continue
        if len(links) > 1 or link.contour_path:
            drawn = [each for each in links if each.contour_path]
            more = [direct(each.contour_path, each.root) for each in drawn]
            if not _are_plain(drawn, more):
                continue
            contours += drawn
            names[1].extend(filter(None, more))
        plain.append(k)
        images.append(link)
        names[0].append(name)
        rings.append(len(contours))
    joined, starts = join_names([*names[0], *names[1]])
    places = looks.places[plain]
    unknown = np.full(len(contours), content.UNKNOWN)
    return Files(
        part=part,
        commons=commons,
        items=np.array(plain, np.int64),
        links=images + contours,
        rings=np.array(rings, np.int64),
        bits=np.array([bits[link.label] for link in contours], np.int64),
        names=np.frombuffer(joined, np.uint8),
        starts=starts,
        sizes=np.concatenate([places.sum(axis=1), unknown]),
        leads=np.concatenate([places[:, 0], np.zeros_like(unknown)]),
        heads=looks.heads[plain],
        limits=commons.limits[looks.common[plain]],
    )


def _are_plain(contours: list[Link], paths: list[str | None]) -> bool:
    """Return whether kernels read an image's contours that have these real paths."""
    are_pairs = all(x.format in sources.PLAIN and not x.contour_key for x in contours)
    is_one_each = len({link.label for link in contours}) == len(contours)
    return are_pairs and is_one_each and None not in paths


def _limits(common: dicom.Header) -> tuple[int, int]:
    """Return the least and the greatest value that the stored bits can tell."""
    if common.dtype.kind == "u":
        return 0, 2**common.bits_stored - 1
    half = 2 ** (common.bits_stored - 1)
    return -half, half - 1
