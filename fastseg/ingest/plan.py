"""The plan of a build: which images go where in the store.

It is made from the links table and the headers of the images, before any pixels are
read.
"""

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

from fastseg import dicom, sources
from fastseg.errors import DicomError, LinkError
from fastseg.files import stamp_of
from fastseg.ingest.images import Images
from fastseg.links import Link
from fastseg.paths import Paths
from fastseg.progress import Progress
from fastseg.spool import Spool
from fastseg.store.layout import Bucket
from fastseg.store.writing.records import Slots
from fastseg.tables import Reject, reason_of
from fastseg.threads import map_ordered

# Images in a block. Work that is done once for a block costs each image little, and
# an interrupted build loses only the blocks that are not yet in its journal.
BLOCK_SIZE = 128
NOT_SCANNED = dicom.UNKNOWN


class PlannedItem(NamedTuple):
    """An image that is to be built.

    links       : all rows of the table that name it
    links_hash  : XXH3-64 of these rows, with paths relative to the data set's root
    header_scan : None where pydicom has to read the image's file
    header_hash : XXH3-64 of the bytes of that file before the pixels
    """

    links: Sequence[Link]
    links_hash: int
    bucket: Bucket
    header_scan: dicom.HeaderScan | None
    header_hash: int

    def files(self) -> list[tuple[Link, str]]:
        """Return the image's file and those of the contours, each with its link."""
        contours = [(link, link.contour_path) for link in self.links]
        image = [(self.links[0], self.links[0].dicom_path)]
        return image + [pair for pair in contours if pair[1]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Neighbouring images of the plan, as columns; `block[k]` is one of them.

    first   : index in the plan of the first image
    links   : the links of each image
    slots   : the position of each image in the store
    buckets : all buckets of the store; `slots.bucket` is an index in this list
    scans   : the header scan of each image; `header_index` is NOT_SCANNED where
        pydicom has to read the file
    """

    first: int
    links: list[list[Link]]
    slots: Slots
    buckets: list[Bucket]
    scans: dicom.HeaderScans

    def __len__(self) -> int:
        return len(self.links)

    def __getitem__(self, k: int) -> PlannedItem:
        scans = self.scans
        header_scan = None
        if scans.header_index[k] != NOT_SCANNED:
            instance, *window = scans.per_file[k].tolist()
            header_scan = dicom.HeaderScan(
                scans.headers[scans.header_index[k]],
                int(instance) if instance == instance else None,
                (window[0], window[1]) if window[0] == window[0] else None,
                *scans.pixel_spans[k].tolist(),
            )
        return PlannedItem(
            links=self.links[k],
            links_hash=int(self.slots.links[k]),
            bucket=self.buckets[self.slots.bucket[k]],
            header_scan=header_scan,
            header_hash=int(scans.header_hashes[k]),
        )


class _CheckedBlock(NamedTuple):
    """Neighbouring images of the table after their headers have been checked.

    size         : number of these images, invalid ones included
    valid        : int64 (n,), indices of the n images that can be built
    links_hashes : uint64 (n,), as `PlannedItem.links_hash`
    bucket       : int64 (n,), index in `buckets`
    scans        : the header scans of the n images
    rejects      : of the other images, by index
    """

    size: int
    valid: NDArray[np.int64]
    links_hashes: NDArray[np.uint64]
    bucket: NDArray[np.int64]
    buckets: list[Bucket]
    scans: dicom.HeaderScans
    rejects: dict[int, list[Reject]]

    def pick(self, some: NDArray[np.int64] | NDArray[np.bool_]) -> "_CheckedBlock":
        """Return the block with only some of its valid images."""
        scans = self.scans
        return self._replace(
            valid=self.valid[some],
            links_hashes=self.links_hashes[some],
            bucket=self.bucket[some],
            scans=scans._replace(
                header_index=scans.header_index[some],
                per_file=scans.per_file[some],
                pixel_spans=scans.pixel_spans[some],
                header_hashes=scans.header_hashes[some],
            ),
        )


class Plan:
    """The images that are to be built, in blocks; a large plan is kept on the disk."""

    def __init__(self, images: Images, folder: Path):
        self._images = images
        self._folder = folder
        self._blocks: Spool[_CheckedBlock] = Spool(folder)
        self._counts: Counter[Bucket] = Counter()

    def __len__(self) -> int:
        return self._counts.total()

    @property
    def buckets(self) -> list[tuple[Bucket, int]]:
        """Each bucket and its number of items, sorted by name."""
        return sorted(self._counts.items(), key=lambda pair: pair[0].name)

    def add(self, checked: _CheckedBlock) -> None:
        """Add the next images of the table."""
        counts = np.bincount(checked.bucket, minlength=len(checked.buckets)).tolist()
        for bucket, count in zip(checked.buckets, counts, strict=True):
            if count:
                self._counts[bucket] += count
        self._blocks.append(checked._replace(rejects={}))

    def blocks(self) -> Iterator[Block]:
        """Yield all blocks in the order of the table; links are read again."""
        images = iter(self._images)
        first = 0
        buckets = [bucket for bucket, _ in self.buckets]
        numbers = {bucket: k for k, bucket in enumerate(buckets)}
        ends = np.zeros(len(buckets), np.int64)
        for checked in self._blocks:
            links = list(islice(images, checked.size))
            if len(checked.valid) < checked.size:
                links = [links[k] for k in checked.valid.tolist()]
            if not links:
                continue
            new_numbers = [numbers.get(bucket, -1) for bucket in checked.buckets]
            bucket = np.array(new_numbers, np.int64)[checked.bucket]
            row = np.empty_like(bucket)
            for number in set(bucket.tolist()):
                is_member = bucket == number
                stop = ends[number] + np.count_nonzero(is_member)
                row[is_member] = np.arange(ends[number], stop)
                ends[number] = stop
            yield Block(
                first=first,
                links=links,
                slots=Slots(checked.links_hashes, bucket, row),
                buckets=buckets,
                scans=checked.scans,
            )
            first += len(links)

    def slots(self) -> Iterator[Slots]:
        """Yield the positions in the store of the images of each block."""
        return (block.slots for block in self.blocks())

    def without(self, items: Iterable[int]) -> "Plan":
        """Return the plan without some of its images, given by their indices."""
        plan = Plan(self._images, self._folder)
        removed = np.sort(np.fromiter(items, np.int64))
        first = 0
        for checked in self._blocks:
            stop = first + len(checked.valid)
            start, end = np.searchsorted(removed, [first, stop])
            remains = np.ones(len(checked.valid), np.bool_)
            remains[removed[start:end] - first] = False
            plan.add(checked.pick(remains))
            first = stop
        return plan


class ItemRejected(Exception):
    """An image cannot be built; `rejects` holds it and each of its contours."""

    def __init__(self, links: Iterable[Link], reason: str, rejects: Iterable[Reject]):
        """Reject an image.

        links   : of the image
        reason  : what is wrong with it
        rejects : of those of its contours that have a reason of their own
        """
        links = list(links)
        path = links[0].dicom_path
        rejected = list(rejects)
        listed = {reject.file for reject in rejected}
        # Its other contours are rejected too, so that the list names all lost files.
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
    """Check the header of every image, so that the size of the store is known.

    folder : for a temporary file, if there are many images

    Returns the images that can be built, in the order of the table, and the rejects.
    """
    plan = Plan(images, folder)
    rejects: list[Reject] = []

    def check(block: list[list[Link]]) -> _CheckedBlock:
        return _check_block(block, paths, max_pixel_bytes)

    with (
        closing(map_ordered(check, _split(images, threads), threads)) as results,
        progress("check", len(images)) as advance,
    ):
        for checked in results:
            plan.add(checked)
            for k in range(checked.size):
                advance()
                rejects += checked.rejects.get(k, ())
    return plan, rejects


def _split(images: Images, threads: int) -> Iterator[list[list[Link]]]:
    """Yield blocks of images, each as the links of its images."""
    remaining = iter(images)
    size = BLOCK_SIZE
    if threads > 1:  # smaller blocks, so that each thread has at least four
        size = min(BLOCK_SIZE, max(1, len(images) // (4 * threads)))
    while block := list(islice(remaining, size)):
        yield block


def join_paths(paths: Sequence[str]) -> tuple[bytes, NDArray[np.int64]]:
    """Return paths as kernels read them: joined, and the offset at which each begins.

    A NUL follows each path. The offsets have one entry more, the end of the last path.
    """
    joined = os.fsencode("\0".join([*paths, ""]))
    ends = np.flatnonzero(np.frombuffer(joined, np.uint8) == 0) + 1
    return joined, np.concatenate([[0], ends])


def _check_block(
    block: list[list[Link]], paths: Paths, max_pixel_bytes: int
) -> _CheckedBlock:
    """Check the headers of images: kernels scan them, `_check_image` takes the rest.

    block : the links of each image
    """
    direct = [paths.direct(links[0].dicom_path, links[0].root) for links in block]
    # An empty path does not exist, so that the scan leaves that image to _check_image.
    scans = dicom.scan_headers(*join_paths([path or "" for path in direct]))
    buckets = list(map(_bucket_of, scans.headers))
    is_small = [header.pixel_bytes <= max_pixel_bytes for header in scans.headers]
    hashes = []
    bucket = []
    rejects = {}
    for k, (links, number) in enumerate(
        zip(block, scans.header_index.tolist(), strict=True)
    ):
        # Nearly all images have one link, which names frame 0, and a scanned header
        # of allowed size. Nothing can be wrong with these.
        if (
            number == NOT_SCANNED
            or not is_small[number]
            or len(links) > 1
            or links[0].frame
        ):
            header = None if number == NOT_SCANNED else scans.headers[number]
            try:
                header = _check_image(links, header, paths, max_pixel_bytes)
            except ItemRejected as exc:
                rejects[k] = exc.rejects
            else:
                number = len(buckets)
                buckets.append(_bucket_of(header))
        bucket.append(number)
        hashes.append(0 if k in rejects else hash_links(links, paths))
    checked = _CheckedBlock(
        size=len(block),
        valid=np.arange(len(block)),
        links_hashes=np.array(hashes, np.uint64),
        bucket=np.array(bucket, np.int64),
        buckets=buckets,
        scans=scans,
        rejects=rejects,
    )
    if rejects:
        valid = sorted({*range(len(block))}.difference(rejects))
        checked = checked.pick(np.array(valid, np.int64))
    return checked


def _bucket_of(header: dicom.Header) -> Bucket:
    return Bucket((header.rows, header.columns), header.dtype)


def _check_image(
    links: Sequence[Link],
    header: dicom.Header | None,
    paths: Paths,
    max_pixel_bytes: int,
) -> dicom.Header:
    """Return the header of an image, or raise ItemRejected.

    header : None if it has yet to be read
    """
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
            stamp_of(file)  # raises OSError unless it is a regular file
            header = dicom.read_header(file)
        dicom.check_request(header, link.frame, max_pixel_bytes, file)
    except (DicomError, LinkError, OSError) as exc:
        raise ItemRejected(links, reason_of(exc, file, link.dicom_path), ()) from None
    return header


def hash_links(links: Iterable[Link], paths: Paths) -> int:
    """Return the XXH3-64 of rows of the table, with paths relative to the root."""
    within = paths.within_root
    rows = [
        (
            link.patient,
            within(link.dicom_path, link.root),
            str(link.frame),
            within(link.contour_path, link.root) if link.contour_path else "",
            link.label,
            link.contour_key,
            sources.format_of(link),
        )
        for link in links
    ]
    return xxh3_64_intdigest("\n".join(map("\0".join, rows)).encode(errors="replace"))
