"""The plan of a build: which images are built, and their rows in the store.

It is made from the links table before any pixels are read. Where the table does not
say shape and dtype, the headers of the images are read.
"""

from array import array
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg import bounds, dicom
from fastseg.dicom import join_paths
from fastseg.errors import DicomError, LinkError
from fastseg.files import identify
from fastseg.ingest.block import Block, hash_links, reject_image
from fastseg.links import Link, Links, LinkTable
from fastseg.paths import Paths
from fastseg.progress import Progress
from fastseg.store.layout import Bucket
from fastseg.store.writing.records import Slots
from fastseg.tables import Reject, reason_of
from fastseg.threads import map_ordered

# Images in a block. Work that is done once for a block costs each image little, and
# an interrupted build loses only the blocks that are not yet in its journal.
BLOCK_SIZE = 128
# Links that are Python objects at once.
TAKEN_AT_ONCE = 1024


class ImageLinks(NamedTuple):
    """The links of n images: image k has the rows[bounds[k]:bounds[k + 1]] of a table.

    rows   : int64 (r,)
    bounds : int64 (n + 1,)
    """

    rows: NDArray[np.int64]
    bounds: NDArray[np.int64]

    def pick(self, images: NDArray[np.int64]) -> "ImageLinks":
        """Return the rows of some images."""
        sizes = np.diff(self.bounds)[images]
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        shift = np.repeat(self.bounds[images] - bounds[:-1], sizes)
        return ImageLinks(self.rows[shift + np.arange(len(shift))], bounds)

    def take(self, links: Links, images: NDArray[np.int64]) -> list[list[Link]]:
        """Return the links of some images."""
        picked = self.pick(images)
        taken = links.take(picked.rows)
        return [taken[start:stop] for start, stop in pairwise(picked.bounds.tolist())]


class Plan:
    """The images that are to be built, in the order of the table.

    counts : each bucket and its number of images, sorted by name
    slots  : of all images
    """

    def __init__(
        self,
        links: Links,
        image_links: ImageLinks,
        hashes: NDArray[np.uint64],
        kinds: NDArray[np.int64],
        buckets: Sequence[Bucket],
    ):
        """Make the plan of n images.

        image_links : of each image
        hashes : uint64 (n,), `hash_links` of each
        kinds  : int64 (n,), index in `buckets` of each
        """
        self._links = links
        self._image_links = image_links
        counted = np.bincount(kinds, minlength=len(buckets)).tolist()
        used = [k for k, count in enumerate(counted) if count]
        used.sort(key=lambda k: buckets[k].name)
        self.counts = [(buckets[k], counted[k]) for k in used]
        numbers = np.zeros(len(buckets), np.int64)
        rows = np.empty(len(kinds), np.int64)
        for number, k in enumerate(used):
            numbers[k] = number
            rows[kinds == k] = np.arange(counted[k])
        self.slots = Slots(hashes, numbers[kinds], rows)

    def __len__(self) -> int:
        return len(self.slots.row)

    def blocks(self, threads: int) -> Iterator[Block]:
        """Yield all images in blocks, bucket by bucket."""
        size = BLOCK_SIZE
        if threads > 1:  # smaller blocks, so that each thread has at least four
            size = min(BLOCK_SIZE, max(1, len(self) // (4 * threads)))
        for number, (bucket, _) in enumerate(self.counts):
            members = np.flatnonzero(self.slots.bucket == number)
            for start in range(0, len(members), size):
                items = members[start : start + size]
                yield Block(
                    items=items,
                    links=self._image_links.take(self._links, items),
                    slots=self.slots.pick(items),
                    bucket=bucket,
                    is_todo=np.ones(len(items), np.bool_),
                )


def plan_build(
    table: LinkTable,
    paths: Paths,
    max_pixel_bytes: int,
    compress: bool,
    threads: int,
    progress: Progress,
) -> tuple[Plan, list[Reject]]:
    """Check every image, so that the size of the store is known.

    compress : whether the store will be compressed, which bounds the pixels of an image

    Returns the images that can be built, in the order of the table, and the rejects.
    """
    links = table.links
    image_links, missing = _find_images(links, paths)
    count = len(image_links.bounds) - 1
    every = np.arange(count)
    blocks = [every[k : k + BLOCK_SIZE] for k in range(0, count, BLOCK_SIZE)]
    rejects: list[Reject] = []
    hashes = np.zeros(count, np.uint64)
    kinds = np.full(count, -1)
    numbers: dict[Bucket, int] = {}
    last, number = None, -1

    def check(images: NDArray[np.int64]) -> list[tuple[Bucket, int] | list[Reject]]:
        block = image_links.take(links, images)
        reasons = [missing.get(k) for k in images.tolist()]
        return _check_images(block, reasons, paths, max_pixel_bytes, compress)

    with (
        progress("check", count) as advance,
        closing(map_ordered(check, blocks, threads)) as checked,
    ):
        for images, results in zip(blocks, checked, strict=True):
            for k, result in zip(images.tolist(), results, strict=True):
                if isinstance(result, tuple):
                    bucket, hashes[k] = result
                    if bucket is not last:  # to hash one takes longer than all else
                        last, number = bucket, numbers.setdefault(bucket, len(numbers))
                    kinds[k] = number
                else:
                    rejects += result
            advance(len(images))
    valid = np.flatnonzero(kinds >= 0)
    plan = Plan(
        links, image_links.pick(valid), hashes[valid], kinds[valid], list(numbers)
    )
    return plan, rejects


def _find_images(links: Links, paths: Paths) -> tuple[ImageLinks, dict[int, str]]:
    """Return the links of each image, and why some have no file, by index of the image.

    Two names of one file, by any kind of link, are one image.
    """
    image_links = ImageLinks(*links.images())
    count = len(image_links.bounds) - 1
    # Device and inode of each file; -1 and the image's index if it has none.
    devices = array("q")
    inodes = array("q")
    missing = {}
    firsts = image_links.rows[image_links.bounds[:-1]]
    for start in range(0, count, TAKEN_AT_ONCE):
        rows = firsts[start : start + TAKEN_AT_ONCE]
        named = links.dicom_path.pick(rows).values(), links.root.pick(rows).values()
        for k, (path, root) in enumerate(zip(*named, strict=True), start):
            found = None
            try:
                file = paths.direct(path, root)
                if file is not None:
                    found = identify(file)
                if found is None:
                    found = identify(paths.resolve(path, root))
            except (LinkError, OSError) as exc:
                missing[k] = reason_of(exc, path)
            device, inode = found or (-1, k)
            devices.append(device)
            inodes.append(inode)
    identity = np.column_stack([devices, inodes, links.frame[firsts]])
    order = np.lexsort(identity.T)
    repeats = (np.diff(identity[order], axis=0) == 0).all(axis=1)
    if repeats.any():
        # lexsort is stable, so the first of several names comes first in the table.
        first_names = np.arange(count)
        for k in np.flatnonzero(repeats).tolist():
            first_names[order[k + 1]] = first_names[order[k]]
        by_image = np.argsort(first_names, kind="stable")
        sizes = np.diff(image_links.bounds)
        joined = np.zeros(count, np.int64)
        np.add.at(joined, first_names, sizes)
        is_first = joined > 0
        bounds = np.concatenate([[0], np.cumsum(joined[is_first])])
        numbers = np.cumsum(is_first) - 1
        missing = {int(numbers[k]): reason for k, reason in missing.items()}
        image_links = ImageLinks(image_links.pick(by_image).rows, bounds)
    return image_links, missing


def _check_images(
    block: list[list[Link]],
    reasons: list[str | None],
    paths: Paths,
    max_pixel_bytes: int,
    compress: bool,
) -> list[tuple[Bucket, int] | list[Reject]]:
    """Return the bucket of each image and `hash_links`, or its rejects.

    reasons : why an image has no file
    """
    buckets = [
        _bucket_of(links[0].rows, links[0].columns, links[0].dtype, max_pixel_bytes)
        for links in block
    ]
    unknown = [
        k for k, bucket in enumerate(buckets) if bucket is None and reasons[k] is None
    ]
    headers = _scan([block[k][0] for k in unknown], paths)
    for k, header in zip(unknown, headers, strict=True):
        link = block[k][0]
        file = link.dicom_path
        try:
            if header is None:
                file = paths.resolve(file, link.root)
                header = dicom.read_header(file)
            dicom.check_request(header, link.frame, max_pixel_bytes, file)
            buckets[k] = Bucket((header.rows, header.columns), header.dtype)
        except (DicomError, LinkError, OSError) as exc:
            reasons[k] = reason_of(exc, file, link.dicom_path)
    results: list[tuple[Bucket, int] | list[Reject]] = []
    last, name, too_large = None, "", ""
    for links, bucket, reason in zip(block, buckets, reasons, strict=True):
        if bucket is not last and bucket is not None:
            last, name = bucket, bucket.name  # numpy takes long to name a dtype
            too_large = _reason_not_to_compress(bucket) if compress else ""
        patients = {link.patient for link in links} if len(links) > 1 else ()
        if len(patients) > 1:
            reason = f"is linked to several patients: {sorted(patients)}"
        if reason is not None or bucket is None:
            results.append(reject_image(links, str(reason)))
        elif too_large:
            results.append(reject_image(links, too_large))
        else:
            results.append((bucket, hash_links(links, name, paths)))
    return results


def _reason_not_to_compress(bucket: Bucket) -> str:
    """Return why no compressed store holds images of a bucket, "" if one may."""
    height, width = bucket.shape
    if height * width <= bounds.MAX_COMPRESSED_PIXELS:
        return ""
    return (
        f"has {height} x {width} pixels, a compressed store holds images of at most "
        f"{bounds.MAX_COMPRESSED_PIXELS}; build it without compression"
    )


@lru_cache(1024)  # the images of a table have few shapes
def _bucket_of(
    rows: int | None, columns: int | None, dtype: str, max_pixel_bytes: int
) -> Bucket | None:
    """Return the bucket of an image, None if its header has to be read.

    The header decides also if the pixels are over the limit.
    """
    if not (rows and columns and dtype):
        return None
    bucket = Bucket((rows, columns), np.dtype(dtype))
    return bucket if rows * columns * bucket.dtype.itemsize <= max_pixel_bytes else None


def _scan(links: list[Link], paths: Paths) -> list[dicom.Header | None]:
    """Return the shared headers of images, None where another reader is needed."""
    if not links:
        return []
    direct = [paths.direct(link.dicom_path, link.root) for link in links]
    scans = dicom.scan_headers(join_paths(direct))
    return [scans.headers[k] if k >= 0 else None for k in scans.header_index.tolist()]
