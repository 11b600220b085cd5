"""The links of each image, for tables of any length."""

from collections.abc import Iterator
from itertools import pairwise

from fastseg.links import Link, LinkTable

# Images whose links are held as Python objects at a time.
IMAGES_AT_ONCE = 2**10


class Images:
    """Yields the links of each image, in the order of the images' first links.

    base    : folder that the links' paths are relative to
    classes : names of the classes, sorted
    rejects : of the table
    """

    def __init__(self, table: LinkTable):
        self.base = table.base
        self.rejects = table.rejects
        self.classes = table.classes
        self._links = table.links
        self._rows, self._bounds = table.links.images()

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __iter__(self) -> Iterator[list[Link]]:
        for first in range(0, len(self), IMAGES_AT_ONCE):
            bounds = self._bounds[first : first + IMAGES_AT_ONCE + 1].tolist()
            links = self._links.take(self._rows[bounds[0] : bounds[-1]])
            for start, stop in pairwise(bounds):
                yield links[start - bounds[0] : stop - bounds[0]]
