"""Block: neighbouring images that a build makes together, and what it knows of them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fastseg.links import Link
from fastseg.paths import Paths
from fastseg.sources import format_of
from fastseg.store.layout import Bucket
from fastseg.store.writing.records import Slots
from fastseg.tables import Reject


@dataclass(slots=True, kw_only=True)
class Block:
    """Neighbouring images of one bucket, which a build makes together.

    items   : int64 (n,), their indices in the plan
    links   : the links of each image
    slots   : their rows in the store
    bucket  : of all
    is_todo : bool (n,), False for images that are done or rejected
    rejects : what was rejected, by index in the block
    """

    items: NDArray[np.int64]
    links: list[list[Link]]
    slots: Slots
    bucket: Bucket
    is_todo: NDArray[np.bool_]
    rejects: dict[int, list[Reject]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    def todo(self) -> list[int]:
        """Return the indices of the images that are neither done nor rejected."""
        return np.flatnonzero(self.is_todo).tolist()

    def pick(self, some: Sequence[int]) -> "Block":
        """Return a block of some of the images, all to be built."""
        return Block(
            items=self.items[some],
            links=[self.links[k] for k in some],
            slots=self.slots.pick(some),
            bucket=self.bucket,
            is_todo=np.ones(len(some), np.bool_),
        )

    def reject(self, k: int, reason: str) -> None:
        """Reject an image, and with it all its contours that are not yet rejected."""
        self.is_todo[k] = False
        self.rejects[k] = reject_image(self.links[k], reason, self.rejects.get(k, []))


def reject_image(
    links: Sequence[Link], reason: str, rejects: Sequence[Reject] = ()
) -> list[Reject]:
    """Return the rejects of an image and of all its contours.

    rejects : of those of its contours that have a reason of their own
    """
    path = links[0].dicom_path
    listed = Counter(reject.file for reject in rejects)
    linked = Counter(link.contour_path for link in links if link.contour_path)
    # Its other contours are rejected too, so that the list names all lost files. Of a
    # file of several contours, some may have been rejected before.
    because = f"its image {path} is rejected"
    return [
        *rejects,
        Reject(path, None, reason),
        *(
            Reject(file, None, because)
            for file, count in linked.items()
            if count > listed[file]
        ),
    ]


def number_files(links: Iterable[Link]) -> dict[tuple[str, str], int]:
    """Return the numbers of the contour files of an image, from 1, by path and root."""
    numbers: dict[tuple[str, str], int] = {}
    for link in links:
        if link.contour_path:
            numbers.setdefault((link.contour_path, link.root), len(numbers) + 1)
    return numbers


def hash_links(links: Iterable[Link], bucket: str, paths: Paths) -> int:
    """Return the XXH3-64 of rows of the table, with paths relative to the root.

    bucket : its name: pixels of another shape or dtype must never be reused
    """
    within = paths.within_root
    rows = [
        (
            link.patient,
            within(link.dicom_path, link.root),
            str(link.frame),
            within(link.contour_path, link.root) if link.contour_path else "",
            link.label,
            link.contour_key,
            format_of(link) if link.contour_path else "",
            # It depends on the other images of the series.
            "" if link.time is None else repr(link.time),
        )
        for link in links
    ]
    text = "\n".join([bucket, *map("\0".join, rows)])
    return xxh3_64_intdigest(text.encode(errors="replace"))
