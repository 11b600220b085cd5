"""What a build is going to do, from the links table and the headers of images."""

import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fastseg import dicom
from fastseg.errors import DicomError, LinkError
from fastseg.files import stamp_of
from fastseg.links import Link, LinkTable, Paths, Reject, reason_of
from fastseg.progress import Progress, in_order
from fastseg.store.layout import Bucket

# Images that are handled together: what is done once for all of them costs little
# for each, and an interrupted build loses no more of them.
SHARE = 128
NO_START = dicom.UNKNOWN


class Planned(NamedTuple):
    """An image that is to be built.

    links : all its rows of the table
    hash  : XXH3-64 of them, with paths relative to the data set's root
    start : how the image's file starts; None where pydicom has to read it
    head  : XXH3-64 of what stands there before the pixels
    """

    links: Sequence[Link]
    hash: int
    bucket: Bucket
    start: dicom.Start | None
    head: int

    def files(self) -> list[tuple[Link, str]]:
        """Return the image's file and those of the contours, each with its link."""
        contours = [(link, link.contour_path) for link in self.links]
        image = [(self.links[0], self.links[0].dicom_path)]
        return image + [pair for pair in contours if pair[1]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The images that are to be built, as columns: a fourth of what objects take.

    links   : of the table, those of an image together
    bounds  : int64 (n, 2), which of them are an image's
    hashes, heads : uint64 (n,), see `Planned`
    bucket, common : int64 (n,), indices into `buckets` and `commons`, which have what
        the files of a series have in common; NO_START where pydicom has to read
    places  : int64 (n, 2), where in its file an image's pixels begin, and their length
    own     : float64 (n, 3), InstanceNumber, centre and width of the window; NaN if
        absent
    """

    links: Sequence[Link]
    bounds: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    heads: NDArray[np.uint64]
    bucket: NDArray[np.int64]
    buckets: list[Bucket]
    common: NDArray[np.int64]
    commons: list[dicom.Header]
    places: NDArray[np.int64]
    own: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.bounds)

    def __getitem__(self, k: int) -> Planned:
        start, common = None, int(self.common[k])
        if common != NO_START:
            instance, *window = self.own[k].tolist()
            start = dicom.Start(
                self.commons[common],
                int(instance) if instance == instance else None,
                (window[0], window[1]) if window[0] == window[0] else None,
                *self.places[k].tolist(),
            )
        return Planned(
            links=self.links_of(k),
            hash=int(self.hashes[k]),
            bucket=self.buckets[self.bucket[k]],
            start=start,
            head=int(self.heads[k]),
        )

    def links_of(self, k: int) -> Sequence[Link]:
        """Return the links of an image."""
        first, stop = self.bounds[k].tolist()
        return self.links[first:stop]

    def without(self, items: Iterable[int]) -> "Plan":
        """Return the plan without some of its images."""
        kept = np.ones(len(self), np.bool_)
        kept[list(items)] = False
        names = ("bounds", "hashes", "heads", "bucket", "common", "places", "own")
        return replace(self, **{name: getattr(self, name)[kept] for name in names})


class Refusal(Exception):
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
    table: LinkTable,
    paths: Paths,
    progress: Progress,
    workers: int,
    max_pixel_bytes: int,
) -> tuple[Plan, list[Reject]]:
    """Look at the header of every image, so that the store's shape is known.

    Returns the images that can be built, in the order of the table, and the rejects.
    """
    links, bounds = _by_image(table.links)
    count = len(bounds) - 1
    buckets: dict[Bucket, int] = {}
    commons: dict[dicom.Header, int] = {}
    plan = Plan(
        links=links,
        bounds=np.column_stack([bounds[:-1], bounds[1:]]),
        hashes=np.zeros(count, np.uint64),
        heads=np.zeros(count, np.uint64),
        bucket=np.zeros(count, np.int64),
        buckets=[],
        common=np.full(count, NO_START),
        commons=[],
        places=np.zeros((count, 2), np.int64),
        own=np.full((count, 3), np.nan),
    )

    def look(items: range) -> _Share:
        groups = [links[bounds[k] : bounds[k + 1]] for k in items]
        return _look_at(items, groups, paths, max_pixel_bytes)

    def note(share: _Share) -> None:
        some, looks = slice(share.items.start, share.items.stop), share.looks
        plan.hashes[some], plan.heads[some] = share.hashes, looks.heads
        plan.places[some], plan.own[some] = looks.places, looks.own
        numbers = [commons.setdefault(each, len(commons)) for each in looks.commons]
        known = looks.common != NO_START
        plan.common[some][known] = np.array(numbers, np.int64)[looks.common[known]]
        kinds = [buckets.setdefault(each, len(buckets)) for each in share.buckets]
        plan.bucket[some] = np.array(kinds or [0], np.int64)[share.bucket]

    refused: list[int] = []
    rejects: list[Reject] = []
    shares = in_order(look, shares_of(count, workers), workers)
    each = ((share, k) for share in shares for k in share.items)
    for share, k in progress(each, "check", count):
        if k == share.items[0]:
            note(share)
        if k in share.rejects:
            refused.append(k)
            rejects += share.rejects[k]
    plan.buckets.extend(buckets)
    plan.commons.extend(commons)
    return plan.without(refused) if refused else plan, rejects


def shares_of(count: int, workers: int) -> Iterator[range]:
    """Yield the places of so many images in shares, some for each worker."""
    size = SHARE if workers == 1 else min(SHARE, max(1, count // (4 * workers)))
    for first in range(0, count, size):
        yield range(first, min(first + size, count))


def join_names(paths: Sequence[str]) -> tuple[bytes, NDArray[np.int64]]:
    """Return paths with NUL behind each, and where each begins; the last is the end."""
    names = os.fsencode("\0".join([*paths, ""]))
    ends = np.flatnonzero(np.frombuffer(names, np.uint8) == 0) + 1
    return names, np.concatenate([[0], ends])


def within_root(path: str, link: Link) -> str:
    """Return a path of a link relative to the data set's root."""
    start = "" if link.root == "." else link.root + "/"
    rest = path[len(start) :]
    # Nearly all are plain; the general way takes 5 us.
    if path.startswith(start) and "./" not in rest and "//" not in rest:
        return rest
    return posixpath.relpath(path, link.root)


class _Share(NamedTuple):
    """What was found of neighbours among images, as columns but for the rejects.

    bucket : int64 (n,), which of the buckets; 0 where there is a reject
    """

    items: range
    looks: dicom.Looks
    hashes: NDArray[np.uint64]
    bucket: NDArray[np.int64]
    buckets: list[Bucket]
    rejects: dict[int, list[Reject]]


def _by_image(
    links: tuple[Link, ...],
) -> tuple[Sequence[Link], NDArray[np.int64]]:
    """Return links, those of an image together, and where each image's begin."""
    firsts: dict[tuple[str, int], int] = {}
    numbers = np.array(
        [firsts.setdefault((x.dicom_path, x.frame), len(firsts)) for x in links],
        np.int64,
    )
    bounds = np.cumsum([0, *np.bincount(numbers, minlength=len(firsts))])
    if (np.diff(numbers) < 0).any():  # a table that is not sorted
        links = tuple(links[k] for k in np.argsort(numbers, kind="stable"))
    return links, bounds


def _look_at(
    items: range, groups: list[Sequence[Link]], paths: Paths, max_pixel_bytes: int
) -> _Share:
    """Look at files of images, many at a time; those that are not plain, one by one."""
    names = [paths.direct(links[0].dicom_path, links[0].root) for links in groups]
    # A path that does not exist stands for one that others must look at.
    looks = dicom.look_at_files(*join_names([name or "" for name in names]))
    buckets = list(map(_bucket, looks.commons))
    small = [each.pixel_bytes <= max_pixel_bytes for each in looks.commons]
    count = len(items)
    hashes, bucket = np.zeros(count, np.uint64), np.zeros(count, np.int64)
    share = _Share(items, looks, hashes, bucket, buckets, {})
    common = looks.common.tolist()
    for k, links, number in zip(items, groups, common, strict=True):
        # Nearly always, nothing else can be wrong.
        if number == NO_START or not small[number] or len(links) > 1 or links[0].frame:
            header = None if number == NO_START else looks.commons[number]
            try:
                header = _check(links, header, paths, max_pixel_bytes)
            except Refusal as exc:
                share.rejects[k] = exc.rejects
                continue
            number = len(buckets)
            buckets.append(_bucket(header))
        share.bucket[k - items.start] = number
        share.hashes[k - items.start] = hash_links(links)
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
        raise Refusal(links, reason_of(exc, file, link.dicom_path), ()) from None
    return header


def hash_links(links: Iterable[Link]) -> int:
    """Return the XXH3-64 of rows of the table, paths relative to the root."""
    rows = [
        (
            link.patient,
            within_root(link.dicom_path, link),
            str(link.frame),
            within_root(link.contour_path, link) if link.contour_path else "",
            link.label,
            link.contour_key,
            link.format,
        )
        for link in links
    ]
    return xxh3_64_intdigest("\n".join(map("\0".join, rows)).encode(errors="replace"))
