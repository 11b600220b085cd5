"""What a build is going to do, from the links table and the headers of images."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fastseg import dicom
from fastseg.errors import DicomError, LinkError
from fastseg.files import stamp_of
from fastseg.ingest.images import Images
from fastseg.links import Link, Paths, Reject, reason_of
from fastseg.progress import Progress
from fastseg.spool import Spool
from fastseg.store.layout import Bucket
from fastseg.store.writing.records import Slots
from fastseg.threads import map_ordered

# Images that are handled together: what is done once for all of them costs little
# for each, and an interrupted build loses no more of them.
SHARE = 128
NOT_SCANNED = dicom.UNKNOWN


class PlannedItem(NamedTuple):
    """An image that is to be built.

    links : all its rows of the table
    hash  : XXH3-64 of them, with paths relative to the data set's root
    start : how the image's file starts; None where pydicom has to read it
    head  : XXH3-64 of what stands there before the pixels
    """

    links: Sequence[Link]
    hash: int
    bucket: Bucket
    start: dicom.HeaderScan | None
    head: int

    def files(self) -> list[tuple[Link, str]]:
        """Return the image's file and those of the contours, each with its link."""
        contours = [(link, link.contour_path) for link in self.links]
        image = [(self.links[0], self.links[0].dicom_path)]
        return image + [pair for pair in contours if pair[1]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Neighbours among the images that are to be built, as columns.

    first   : place of the first in the plan
    links   : of each image
    slots   : where they will stand in the store
    buckets : of the store
    scans   : how their files start; NO_START where pydicom has to read
    """

    first: int
    links: list[list[Link]]
    slots: Slots
    buckets: list[Bucket]
    scans: dicom.HeaderScans

    def __len__(self) -> int:
        return len(self.links)

    def __getitem__(self, k: int) -> PlannedItem:
        scans, start = self.scans, None
        if scans.header_index[k] != NOT_SCANNED:
            instance, *window = scans.per_file[k].tolist()
            start = dicom.HeaderScan(
                scans.headers[scans.header_index[k]],
                int(instance) if instance == instance else None,
                (window[0], window[1]) if window[0] == window[0] else None,
                *scans.pixel_spans[k].tolist(),
            )
        return PlannedItem(
            links=self.links[k],
            hash=int(self.slots.links[k]),
            bucket=self.buckets[self.slots.bucket[k]],
            start=start,
            head=int(scans.header_hashes[k]),
        )


class _Share(NamedTuple):
    """What was found of neighbours among all images, as columns but for the rejects.

    size    : how many
    kept    : int64 (n,), which of them are to be built
    hashes  : uint64 (n,), of their links
    bucket  : int64 (n,), which of the buckets
    rejects : of the others
    """

    size: int
    kept: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    bucket: NDArray[np.int64]
    buckets: list[Bucket]
    scans: dicom.HeaderScans
    rejects: dict[int, list[Reject]]

    def keep(self, some: NDArray[np.int64] | NDArray[np.bool_]) -> "_Share":
        """Return it with only these of those that were to be built."""
        scans = self.scans
        return self._replace(
            kept=self.kept[some],
            hashes=self.hashes[some],
            bucket=self.bucket[some],
            scans=scans._replace(
                header_index=scans.header_index[some],
                per_file=scans.per_file[some],
                pixel_spans=scans.pixel_spans[some],
                header_hashes=scans.header_hashes[some],
            ),
        )


class Plan:
    """The images that are to be built, in parts; on the disk, but for small ones."""

    def __init__(self, images: Images, folder: Path):
        self._images, self._folder = images, folder
        self._shares: Spool[_Share] = Spool(folder)
        self._counts: Counter[Bucket] = Counter()

    def __len__(self) -> int:
        return self._counts.total()

    @property
    def buckets(self) -> list[tuple[Bucket, int]]:
        """Each bucket and how many items it has, by name."""
        return sorted(self._counts.items(), key=lambda pair: pair[0].name)

    def add(self, share: _Share) -> None:
        """Add the next share of all images."""
        counts = np.bincount(share.bucket, minlength=len(share.buckets)).tolist()
        for bucket, count in zip(share.buckets, counts, strict=True):
            if count:
                self._counts[bucket] += count
        self._shares.append(share._replace(rejects={}))

    def parts(self) -> Iterator[Block]:
        """Yield all of it, in the order of the table; links are read again."""
        images, first = iter(self._images), 0
        buckets = [bucket for bucket, _ in self.buckets]
        numbers = {bucket: k for k, bucket in enumerate(buckets)}
        ends = np.zeros(len(buckets), np.int64)
        for share in self._shares:
            links = list(islice(images, share.size))
            if len(share.kept) < share.size:
                links = [links[k] for k in share.kept.tolist()]
            if not links:
                continue
            known = [numbers.get(bucket, -1) for bucket in share.buckets]
            bucket = np.array(known, np.int64)[share.bucket]
            row = np.empty_like(bucket)
            for number in set(bucket.tolist()):
                own = bucket == number
                stop = ends[number] + np.count_nonzero(own)
                row[own] = np.arange(ends[number], stop)
                ends[number] = stop
            yield Block(
                first=first,
                links=links,
                slots=Slots(share.hashes, bucket, row),
                buckets=buckets,
                scans=share.scans,
            )
            first += len(links)

    def slots(self) -> Iterator[Slots]:
        """Yield where its images will stand in the store."""
        return (part.slots for part in self.parts())

    def without(self, items: Iterable[int]) -> "Plan":
        """Return the plan without some of its images, told by their places in it."""
        left, start = Plan(self._images, self._folder), 0
        out = np.sort(np.fromiter(items, np.int64))
        for share in self._shares:
            stop = start + len(share.kept)
            some = out[np.searchsorted(out, start) : np.searchsorted(out, stop)]
            kept = np.ones(len(share.kept), np.bool_)
            kept[some - start] = False
            left.add(share.keep(kept))
            start = stop
        return left


class ItemRejected(Exception):
    """An image cannot be built; `rejects` says why, and lists what falls with it."""

    def __init__(self, links: Iterable[Link], reason: str, rejects: Iterable[Reject]):
        links = list(links)
        path = links[0].dicom_path
        rejected = list(rejects)
        listed = {reject.file for reject in rejected}
        # So that nothing is lost silently, each of its contours is rejected too.
        because = f"its image {path} is rejected"
        self.rejects = [
            *rejected,
            Reject(path, None, reason),
            *(
                Reject(link.contour_path, None, because)
                for link in links
                if link.contour_path and link.contour_path not in listed
            ),
        ]
        super().__init__(reason)


def plan_build(
    images: Images,
    paths: Paths,
    folder: Path,
    progress: Progress,
    threads: int,
    max_pixel_bytes: int,
) -> tuple[Plan, list[Reject]]:
    """Look at the header of every image, so that the store's shape is known.

    folder : for a temporary file, should there be many

    Returns the images that can be built, in the order of the table, and the rejects.
    """
    plan = Plan(images, folder)
    rejects: list[Reject] = []

    def look(groups: list[list[Link]]) -> _Share:
        return _look_at(groups, paths, max_pixel_bytes)

    with closing(map_ordered(look, _shares_of(images, threads), threads)) as shares:
        each = ((share, k) for share in shares for k in range(share.size))
        for share, k in progress(each, "check", len(images)):
            if k == 0:
                plan.add(share)
            rejects += share.rejects.get(k, ())
    return plan, rejects


def _shares_of(images: Images, threads: int) -> Iterator[list[list[Link]]]:
    """Yield the links of images in shares, some for each worker."""
    each, size = iter(images), SHARE
    if threads > 1:
        size = min(SHARE, max(1, len(images) // (4 * threads)))
    while share := list(islice(each, size)):
        yield share


def join_names(paths: Sequence[str]) -> tuple[bytes, NDArray[np.int64]]:
    """Return paths with NUL behind each, and where each begins; the last is the end."""
    names = os.fsencode("\0".join([*paths, ""]))
    ends = np.flatnonzero(np.frombuffer(names, np.uint8) == 0) + 1
    return names, np.concatenate([[0], ends])


def _look_at(groups: list[list[Link]], paths: Paths, max_pixel_bytes: int) -> _Share:
    """Look at files of images, many at a time; those that are not plain, one by one."""
    names = [paths.direct(links[0].dicom_path, links[0].root) for links in groups]
    # A path that does not exist stands for one that others must look at.
    scans = dicom.scan_headers(*join_names([name or "" for name in names]))
    buckets = list(map(_bucket, scans.headers))
    small = [each.pixel_bytes <= max_pixel_bytes for each in scans.headers]
    hashes, bucket, rejects = [], [], {}
    for k, (links, number) in enumerate(
        zip(groups, scans.header_index.tolist(), strict=True)
    ):
        # Nearly always, nothing else can be wrong.
        if (
            number == NOT_SCANNED
            or not small[number]
            or len(links) > 1
            or links[0].frame
        ):
            header = None if number == NOT_SCANNED else scans.headers[number]
            try:
                header = _check(links, header, paths, max_pixel_bytes)
            except ItemRejected as exc:
                rejects[k] = exc.rejects
            else:
                number = len(buckets)
                buckets.append(_bucket(header))
        bucket.append(number)
        hashes.append(0 if k in rejects else hash_links(links, paths))
    share = _Share(
        size=len(groups),
        kept=np.arange(len(groups)),
        hashes=np.array(hashes, np.uint64),
        bucket=np.array(bucket, np.int64),
        buckets=buckets,
        scans=scans,
        rejects=rejects,
    )
    if rejects:
        kept = sorted({*range(len(groups))}.difference(rejects))
        share = share.keep(np.array(kept, np.int64))
    return share


def _bucket(header: dicom.Header) -> Bucket:
    return Bucket((header.rows, header.columns), header.dtype)


def _check(
    links: Sequence[Link],
    header: dicom.Header | None,
    paths: Paths,
    max_pixel_bytes: int,
) -> dicom.Header:
    """Return the header of an image, read if need be, or raise Refusal."""
    link = links[0]
    file = link.dicom_path
    try:
        if len(links) > 1:
            patients = {other.patient for other in links}
            if len(patients) > 1:
                reason = f"is linked to several patients: {sorted(patients)}"
                raise LinkError(reason)
        if header is None:
            file = paths.resolve(file, link.root)
            stamp_of(file)  # raises for what is no file
            header = dicom.read_header(file)
        dicom.check_request(header, link.frame, max_pixel_bytes, file)
    except (DicomError, LinkError, OSError) as exc:
        raise ItemRejected(links, reason_of(exc, file, link.dicom_path), ()) from None
    return header


def hash_links(links: Iterable[Link], paths: Paths) -> int:
    """Return the XXH3-64 of rows of the table, paths relative to the root."""
    within = paths.within_root
    rows = [
        (
            link.patient,
            within(link.dicom_path, link.root),
            str(link.frame),
            within(link.contour_path, link.root) if link.contour_path else "",
            link.label,
            link.contour_key,
            link.format,
        )
        for link in links
    ]
    return xxh3_64_intdigest("\n".join(map("\0".join, rows)).encode(errors="replace"))
