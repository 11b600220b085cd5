"""The plan of a build: which images are built, and their rows in the store.

It is made from the links table before any pixels are read. Where the rows of a patient
say shapes, dtypes and positions, as those that `link` writes, no file is touched, only
the folders. Where one does not, as in tables written by hand, the headers of the
patient's images are read, and what `link` would have written is filled in.
"""

import os
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128_digest

from fastseg import bounds, dicom, remote
from fastseg.errors import DicomError, LinkError
from fastseg.files import identify
from fastseg.ingest.block import Block, hash_links, reject_image
from fastseg.links import Link, Links, LinkTable
from fastseg.paths import Paths
from fastseg.progress import Progress
from fastseg.sources.series import place_images
from fastseg.store.layout import Bucket, check_buckets
from fastseg.store.writing.records import Slots
from fastseg.tables import Reject, reason_of
from fastseg.threads import map_ordered
from fastseg.urls import is_url

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
    *,
    identify_all: bool = False,
) -> tuple[Plan, list[Reject]]:
    """Check every image, so that the size of the store is known.

    compress     : whether the store will be compressed, which bounds the pixels of an
        image
    identify_all : whether to look at every file, and find all names of it

    Returns the images that can be built, and the rejects. The images are in the order
    of the table; in that of a sorted one if headers had to be read. Raises BuildError
    if they have too many shapes.
    """
    links = table.links
    known = _are_known(links, max_pixel_bytes)
    untouched = known & (not identify_all)
    image_links, reasons = _find_images(links, paths, untouched)
    firsts = image_links.rows[image_links.bounds[:-1]]
    unknown = [k for k in np.flatnonzero(~known[firsts]).tolist() if k not in reasons]
    if unknown:
        headers = _read_headers(
            *(links, firsts, np.array(unknown), reasons, paths),
            *(max_pixel_bytes, threads, progress),
        )
        read = np.array([k for k in unknown if k in headers], np.int64)
        placed = place_images(
            links.pick(firsts[read]), [headers.pop(k) for k in read.tolist()]
        )
        picked = image_links.pick(read)
        number = np.repeat(np.arange(len(read)), np.diff(picked.bounds))
        links = links.filled(picked.rows, placed.pick(number))
        image_links, order = _sort(image_links, links.order())
        reasons = {
            new: reasons[old]
            for new, old in enumerate(order.tolist())
            if old in reasons
        }
    return _check_images(
        links, image_links, reasons, paths, max_pixel_bytes, compress, progress
    )


def _sort(
    image_links: ImageLinks, rows: NDArray[np.int64]
) -> tuple[ImageLinks, NDArray[np.int64]]:
    """Return images, and the rows of each, in the order of rows; and their old indices.

    rows : int64 (r,), all rows of the table
    """
    sizes = np.diff(image_links.bounds)
    image = np.empty(len(rows), np.int64)
    image[image_links.rows] = np.repeat(np.arange(len(sizes)), sizes)
    image = image[rows]
    first = np.empty(len(sizes), np.int64)
    first[image[::-1]] = np.arange(len(rows))[::-1]
    order = np.argsort(first)
    number = np.argsort(order)
    bounds = np.concatenate([[0], np.cumsum(sizes[order])])
    by_image = np.argsort(number[image], kind="stable")
    return ImageLinks(rows[by_image], bounds), order


def _are_known(links: Links, max_pixel_bytes: int) -> NDArray[np.bool_]:
    """Return the rows of a table whose headers need not be read, bool (n,).

    They say shape and dtype, and a row of their series says a position. Where pixels
    are over the limit, the header decides. If one image of a patient has to be read,
    so have all of them: times are counted within a series.
    """
    sizes = [np.dtype(text).itemsize if text else 0 for text in links.dtype.texts]
    heights = links.rows.astype(np.int64)
    widths = links.columns.astype(np.int64)
    pixel_bytes = heights * widths * np.array(sizes, np.int64)[links.dtype.codes]
    known = (heights > 0) & (pixel_bytes > 0) & (pixel_bytes <= max_pixel_bytes)
    patients = links.patient.codes
    pairs = patients * np.int64(len(links.series.texts)) + links.series.codes
    series = np.unique(pairs, return_inverse=True)[1]
    known &= (np.bincount(series, np.isfinite(links.position_mm)) > 0)[series]
    unread: NDArray[np.bool_] = np.bincount(patients, ~known)[patients] == 0
    return unread


def _find_images(
    links: Links, paths: Paths, untouched: NDArray[np.bool_]
) -> tuple[ImageLinks, dict[int, str]]:
    """Return the links of each image, and why some have no file, by index of the image.

    untouched : bool (r,), the rows whose files are not looked at

    Two names of one file are one image: by its device and inode, or where no file is
    touched, by the real path of its folder and its name.
    """
    image_links = ImageLinks(*links.images())
    count = len(image_links.bounds) - 1
    firsts = image_links.rows[image_links.bounds[:-1]]
    # Two numbers that name each file; -1 and the image's index if it has none.
    high = array("q")
    low = array("q")
    missing = {}
    for start in range(0, count, TAKEN_AT_ONCE):
        rows = firsts[start : start + TAKEN_AT_ONCE]
        columns = (
            links.dicom_path.pick(rows).values(),
            links.root.pick(rows).values(),
            untouched[rows].tolist(),
        )
        for k, file in enumerate(zip(*columns, strict=True), start):
            names = -1, k
            try:
                names = _name_file(paths, *file)
            except (LinkError, OSError) as exc:
                missing[k] = reason_of(exc, file[0])
            high.append(names[0])
            low.append(names[1])
    identity = np.column_stack([high, low, links.frame[firsts]])
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


def _name_file(
    paths: Paths, path: str, root: str, is_untouched: bool
) -> tuple[int, int]:
    """Return two numbers that all names of a file share, or raise LinkError, OSError.

    is_untouched : whether not to look at the file

    An object behind a URL has one name.
    """
    if is_untouched or is_url(path):
        digest = xxh3_128_digest(os.fsencode(paths.locate(path, root)))
        high, low = struct.unpack("<qq", digest)
        return high, low
    file = paths.direct(path, root)
    found = identify(file) if file is not None else None
    if found is None:
        found = identify(paths.resolve(path, root))
    if found is None:  # a link has just been put in its place
        raise OSError("has changed while it was read; build again")
    return found


def _read_headers(
    links: Links,
    firsts: NDArray[np.int64],
    unknown: NDArray[np.int64],
    reasons: dict[int, str],
    paths: Paths,
    max_pixel_bytes: int,
    threads: int,
    progress: Progress,
) -> dict[int, dicom.Header]:
    """Return the headers of images by their index; add why others have none to reasons.

    firsts  : int64 (n,), the first row of each image
    unknown : int64 (m,), the images whose header to read
    """
    blocks = [unknown[k : k + BLOCK_SIZE] for k in range(0, len(unknown), BLOCK_SIZE)]
    headers = {}

    def read(images: NDArray[np.int64]) -> list[dicom.Header | str]:
        return _read_block(links.take(firsts[images]), paths, max_pixel_bytes)

    with (
        progress("read headers", len(unknown)) as advance,
        closing(map_ordered(read, blocks, threads)) as results,
    ):
        for images, block in zip(blocks, results, strict=True):
            for k, result in zip(images.tolist(), block, strict=True):
                if isinstance(result, str):
                    reasons[k] = result
                else:
                    headers[k] = result
            advance(len(images))
    return headers


@remote.keeping()
def _read_block(
    links: list[Link], paths: Paths, max_pixel_bytes: int
) -> list[dicom.Header | str]:
    """Return the header of each image, or why it cannot be used."""
    direct = [paths.direct(link.dicom_path, link.root) for link in links]
    scans = dicom.scan_headers(direct)
    results: list[dicom.Header | str] = []
    for k, link in enumerate(links):
        file = link.dicom_path
        try:
            if scans.header_index[k] != dicom.UNKNOWN:
                header = scans.header_of(k)
            else:
                file = paths.resolve(file, link.root)
                header = dicom.read_header(file, link.frame)
            dicom.check_request(header, link.frame, max_pixel_bytes, file)
            results.append(header)
        except (DicomError, LinkError, OSError) as exc:
            results.append(reason_of(exc, file, link.dicom_path))
    return results


def _check_images(
    links: Links,
    image_links: ImageLinks,
    reasons: Mapping[int, str],
    paths: Paths,
    max_pixel_bytes: int,
    compress: bool,
    progress: Progress,
) -> tuple[Plan, list[Reject]]:
    """Return the plan of the images that can be built, and the rejects.

    reasons : why an image cannot be used, by its index
    """
    count = len(image_links.bounds) - 1
    rejects: list[Reject] = []
    hashes = np.zeros(count, np.uint64)
    kinds = np.full(count, -1)
    numbers: dict[Bucket, int] = {}
    last, number, name, too_large = None, -1, "", ""
    with progress("check", count) as advance:
        for start in range(0, count, BLOCK_SIZE):
            images = np.arange(start, min(start + BLOCK_SIZE, count))
            for k, rows in enumerate(image_links.take(links, images), start):
                first = rows[0]
                bucket = _bucket_of(first.rows, first.columns, first.dtype)
                # To hash or name a bucket takes longer than all else.
                if bucket is not last and bucket is not None:
                    last, name = bucket, bucket.name
                    number = numbers.setdefault(bucket, len(numbers))
                    too_large = _reason_not_to_compress(bucket) if compress else ""
                reason = reasons.get(k) or too_large
                patients = {link.patient for link in rows} if len(rows) > 1 else ()
                if len(patients) > 1:
                    reason = f"is linked to several patients: {sorted(patients)}"
                if reason or bucket is None:
                    rejects += reject_image(rows, reason)
                else:
                    kinds[k] = number
                    hashes[k] = hash_links(rows, name, paths)
            advance(len(images))
    valid = np.flatnonzero(kinds >= 0)
    plan = Plan(
        links, image_links.pick(valid), hashes[valid], kinds[valid], list(numbers)
    )
    check_buckets([bucket for bucket, _ in plan.counts])
    return plan, rejects


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
def _bucket_of(rows: int | None, columns: int | None, dtype: str) -> Bucket | None:
    """Return the bucket of an image, None if the table does not say it."""
    if not (rows and columns and dtype):
        return None
    return Bucket((rows, columns), np.dtype(dtype))
