"""The links of each image, for tables of any length."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import numpy as np

from fastseg.links import Link, LinkTable, Reject, StrPath, read_links, sort_key
from fastseg.progress import Progress
from fastseg.spool import Sorter

# Links with the same values of these belong to the same image.
IMAGE_OF = attrgetter("dicom_path", "frame")


class Images:
    """Yields the links of each image, in the order of the images' first links.

    base    : folder that the links' paths are relative to
    classes : names of the classes, sorted
    rejects : of the table

    Reads the links anew whenever it is iterated over. It keeps none of them, except
    those of images whose links are not neighbours.
    """

    def __init__(self, base: Path, links: Iterable[Link], rejects: Sequence[Reject]):
        """Read the links once; they must be iterable any number of times."""
        self.base = base
        self.rejects = rejects
        self._links = links
        classes: set[str] = set()
        hashes = array("q")
        for image, group in groupby(links, IMAGE_OF):
            hashes.append(hash(image))
            classes.update([link.label for link in group])
        self.classes = tuple(sorted(classes - {""}))
        self._count = len(hashes)
        # The hash of an image whose links are not neighbours occurs twice.
        ordered = np.sort(hashes)
        repeated = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
        self._scattered: dict[tuple[str, int], list[Link]] = {}
        if repeated:
            self._gather(repeated)

    @classmethod
    def of_table(cls, table: LinkTable) -> "Images":
        """Return the images of a table."""
        return cls(table.base, table.links, table.rejects)

    @classmethod
    def of_file(cls, path: StrPath, folder: Path, progress: Progress) -> "Images":
        """Return the images of a saved table, which need not fit into memory.

        folder : for a temporary file, if the table is long

        Raises LinkError for a file that is not a links table, OSError.
        """
        rejects: list[Reject] = []
        links: Sorter[Link] = Sorter(folder, sort_key)
        rows = max(_count_lines(path) - 1, 0)
        for link in progress(read_links(path, rejects), "read", rows):
            links.add(link)
        return cls(Path(path).parent, links, rejects)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[Link]]:
        yielded: set[tuple[str, int]] = set()
        for image, group in groupby(self._links, IMAGE_OF):
            if image not in self._scattered:
                yield list(group)
            elif image not in yielded:
                yielded.add(image)
                yield self._scattered[image]

    def _gather(self, hashes: set[int]) -> None:
        """Keep the links of images with these hashes; a sorted table has few."""
        for image, group in groupby(self._links, IMAGE_OF):
            if hash(image) in hashes:
                self._count -= image in self._scattered
                self._scattered.setdefault(image, []).extend(group)


def _count_lines(path: StrPath) -> int:
    """Return the number of lines of a file; a row with a quoted newline has several."""
    with Path(path).open("rb") as file:
        return sum(data.count(b"\n") for data in iter(lambda: file.read(2**16), b""))
