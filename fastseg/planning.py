"""What a build is going to do, from the links table and the headers of images."""

import posixpath
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from xxhash import xxh3_64_intdigest

from fastseg import dicom
from fastseg.errors import DicomError, LinkError
from fastseg.files import read_start
from fastseg.links import Link, LinkTable, Paths, Reject, reason_of
from fastseg.progress import Progress, in_order
from fastseg.store.layout import Bucket


class Planned(NamedTuple):
    """An image that is to be built.

    links : all its rows of the table
    hash  : XXH3-64 of them, with paths relative to the data set's root
    start, common : how the image's file starts, packed, see `dicom.Start`; common is
        None where pydicom has to read it
    """

    links: tuple[Link, ...]
    hash: int
    bucket: Bucket
    start: bytes
    common: dicom.Header | None

    def files(self) -> list[tuple[Link, str]]:
        """Return the image's file and those of the contours, each with its link."""
        contours = [(link, link.contour_path) for link in self.links]
        image = [(self.links[0], self.links[0].dicom_path)]
        return image + [pair for pair in contours if pair[1]]


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
) -> tuple[list[Planned], list[Reject]]:
    """Look at the header of every image, so that the store's shape is known.

    Returns the images that can be built, in the order of the table, and the rejects.
    """
    groups: dict[tuple[str, int], list[Link]] = defaultdict(list)
    for link in table.links:
        groups[link.dicom_path, link.frame].append(link)
    buckets: dict[tuple[Any, ...], Bucket] = {}

    def look(links: list[Link]) -> Planned | list[Reject]:
        try:
            header, start = _look_at(links, paths, max_pixel_bytes)
        except Refusal as exc:
            return exc.rejects
        key = header.rows, header.columns, header.dtype
        bucket = buckets.get(key)
        if bucket is None:
            bucket = buckets.setdefault(key, Bucket(key[:2], header.dtype))
        return Planned(
            links=tuple(links),
            hash=hash_links(links),
            bucket=bucket,
            start=start,
            common=header if start else None,
        )

    planned: list[Planned] = []
    rejects: list[Reject] = []
    looks = in_order(look, groups.values(), workers)
    for found in progress(looks, "check", len(groups)):
        if isinstance(found, Planned):
            planned.append(found)
        else:
            rejects += found
    return planned, rejects


def within_root(path: str, link: Link) -> str:
    """Return a path of a link relative to the data set's root."""
    start = "" if link.root == "." else link.root + "/"
    rest = path[len(start) :]
    # Nearly all are plain; the general way takes 5 us.
    if path.startswith(start) and "./" not in rest and "//" not in rest:
        return rest
    return posixpath.relpath(path, link.root)


def _look_at(
    links: list[Link], paths: Paths, max_pixel_bytes: int
) -> tuple[dicom.Header, bytes]:
    """Return `common` and packed start of an image's file, or its header and b""."""
    link = links[0]
    file, start = link.dicom_path, None
    try:
        patients = {other.patient for other in links[1:]} - {link.patient}
        if patients:
            patients.add(link.patient)
            raise LinkError(f"is linked to several patients: {sorted(patients)}")
        data = read_start(paths.open(file, link.root), dicom.FIRST_PIECE)
        start = dicom.look(data)
        if start:
            header = start.common
        else:
            file = paths.resolve(file, link.root)
            header = dicom.read_header(file)
        dicom.check_request(header, link.frame, max_pixel_bytes, file)
    except (DicomError, LinkError, OSError) as exc:
        raise Refusal(links, reason_of(exc, file, link.dicom_path), ()) from None
    return header, start.pack(data) if start else b""


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
