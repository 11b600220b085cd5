"""Which links belong to the same image, for tables of any length."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import numpy as np

from fastseg.links import Link, LinkTable, Reject, StrPath, read_links, sort_key
from fastseg.progress import Progress
from fastseg.spool import Sorter

# What tells one image from another.
IMAGE_OF = attrgetter("dicom_path", "frame")


class Images:
    """The links of each image: those of one together, in the order of their first.

    base    : folder that the links' paths are relative to
    classes : names of the classes, sorted
    rejects : what was found and does not fit

    Reads the links anew whenever it is iterated over, and keeps none of them.
    """

    def __init__(self, base: Path, links: Iterable[Link], rejects: Sequence[Reject]):
        """Look at links, which can be iterated over any number of times."""
        self.base, self.rejects, self._links = base, rejects, links
        classes: set[str] = set()
        hashes = array("q")
        for image, group in groupby(links, IMAGE_OF):
            hashes.append(hash(image))
            classes.update([link.label for link in group])
        self.classes = tuple(sorted(classes - {""}))
        self._count = len(hashes)
        # Where links of an image do not stand together, its hash is there twice.
        ordered = np.sort(hashes)
        twice = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
        self._scattered: dict[tuple[str, int], list[Link]] = {}
        if twice:
            self._gather(twice)

    @classmethod
    def of_table(cls, table: LinkTable) -> "Images":
        """Return the images of a table."""
        return cls(table.base, table.links, table.rejects)

    @classmethod
    def of_file(cls, path: StrPath, folder: Path, progress: Progress) -> "Images":
        """Return the images of a table that was saved, which need not fit into memory.

        folder : for a temporary file, should it be long

        Raises LinkError for a file that is no links table, OSError.
        """
        rejects: list[Reject] = []
        links: Sorter[Link] = Sorter(folder, sort_key)
        rows = max(_lines_of(path) - 1, 0)
        for link in progress(read_links(path, rejects), "read", rows):
            links.add(link)
        return cls(Path(path).parent, links, rejects)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[Link]]:
        given: set[tuple[str, int]] = set()
        for image, group in groupby(self._links, IMAGE_OF):
            if image not in self._scattered:
                yield list(group)
            elif image not in given:
                given.add(image)
                yield self._scattered[image]

    def _gather(self, hashes: set[int]) -> None:
        """Keep the links of images with these hashes, few unless nobody sorted them."""
        for image, group in groupby(self._links, IMAGE_OF):
            if hash(image) in hashes:
                self._count -= image in self._scattered
                self._scattered.setdefault(image, []).extend(group)


def _lines_of(path: StrPath) -> int:
    """Return how many lines a file has: so many rows, unless some are odd."""
    with Path(path).open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**16), b""))
