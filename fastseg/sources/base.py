"""What a reader of contour files must do, and a source, which also finds them.

folder ── recognise ──> find_links ──> LinkTable
contour file ── parse, once ──> rings, for each of its links ──> groups of rings
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fastseg.choices import Slices
from fastseg.dicom import Header
from fastseg.links import Link, LinkTable
from fastseg.progress import Progress
from fastseg.reprs import many


class Group(NamedTuple):
    """Rings that are filled together.

    rings  : each float64 (n, 2), (x, y) in pixels, pixel centres at integers
    is_xor : whether the rule is always even-odd, whatever the user chose
    """

    rings: list[NDArray[np.float64]]
    is_xor: bool = False


class Reader(Protocol):
    """One format of contour files: what a build needs of it.

    format        : name in the column `format` of a links table
    is_point_list : whether every contour file holds one ring, nearly always as lines of
        two decimals without an exponent; compiled kernels then read most files
    joins         : whether an image may have several links of one class: their groups
        are joined. If not, such links are rejected
    is_in_pixels  : whether its files say where pixels are, as whoever drew the contours
        counted them. If not, `origin` of a build does not apply: the header of the
        image says where pixel centres lie
    max_bytes     : of a contour file; larger ones are rejected
    """

    format: str
    is_point_list: bool
    joins: bool
    is_in_pixels: bool
    max_bytes: int

    def parse(self, data: bytes, name: str) -> Any:
        """Return the content of a contour file, in any form that `rings` takes.

        name : name of the file in messages

        A build calls it once for each file, and keeps some of what it returns for
        later: as much as fits into a limit by its `nbytes`, or if it has no such
        attribute, by the size of the file. Raises ContourError with the invalid line.
        """

    def rings(self, parsed: Any, link: Link, header: Header | None) -> list[Group]:
        """Return the rings of one link, in groups that are filled together.

        parsed : what `parse` has returned for the link's contour file
        header : of the link's image, None if it is not known

        Raises ContourError if the file has no rings for the link.
        """


@runtime_checkable
class ManyRingsReader(Reader, Protocol):
    """A reader that returns the rings of many links faster than one by one."""

    def many_rings(
        self, parsed: Any, links: Sequence[Link], headers: Sequence[Header]
    ) -> list[list[Group] | None]:
        """Return what `rings` returns for each link, bit for bit.

        parsed  : what `parse` has returned for their contour file
        headers : of the image of each link

        None stands for a link for which `rings` has to be called: that raises its
        error, if it has one.
        """


class Source(Reader, Protocol):
    """One kind of data set, with the format of its contour files.

    outline : how its files are arranged, in words, for messages
    """

    outline: str

    def recognise(self, root: Path) -> list[str]:
        """Return how the files in a folder are arranged, in words, for messages.

        Several texts if the folder holds several data sets at once, none if there is
        none that this source knows.
        """

    def has_contours(self, root: Path) -> bool:
        """Return whether a folder that `recognise` knows has a folder of contours."""

    def find_links(
        self,
        root: Path,
        labels: Sequence[str] | None,
        slices: Slices,
        progress: Progress,
    ) -> LinkTable:
        """Link the images and contours of a data set that `recognise` has returned.

        labels : the classes to link, None for all
        slices : "labelled" for images with a contour, "series" for all images of each
            series that has one, "all" for all images

        In the table, `rejects` has files and rows that cannot be used, `ignored` files
        of another kind, `left_out` DICOM files that are no images to learn from, and
        `notes` what else a user should know, one line each. Raises LinkError if the
        folder as a whole cannot be used, OptionError for an unknown class.
        """


def note_unlabelled(
    count: int, *, images: int, linked: int, slices: Slices
) -> list[str]:
    """Return a note on the images without a contour, unless there are no or only such.

    count  : number of images without a contour
    images : number of all images
    linked : number of those without a contour that are linked
    """
    if count in (0, images):
        return []
    result = f"{linked} linked"
    if slices == "labelled":
        result = "left out (--slices series or all keeps them)"
    elif linked < count:
        result += (
            f", {count - linked} left out, because no image of their series has one"
        )
    return [f"{many(count, 'image')} without a contour: {result}"]
