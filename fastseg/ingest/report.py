"""What a build reports: BuildReport, and the Tally that counts for it by blocks."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastseg.calls import refuse_renamed_attributes
from fastseg.errors import CopiesWarning, LinkError, RejectedWarning
from fastseg.files import stamp_of
from fastseg.ingest.block import Block
from fastseg.ingest.items import find_several
from fastseg.links import Link
from fastseg.paths import Paths
from fastseg.store.reader import Store, open_store
from fastseg.store.writing.records import Records
from fastseg.tables import Reject

# Odd factors, which make one number of 64 bits of a stamp and a frame.
MIXING = np.array(
    [
        *(0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9),
        *(0xD6E8FEB86659FD93, 0xA0761D6478BD642F),
    ],
    np.uint64,
)
# Columns of /items that a report counts.
COUNTED = ("labelled", "rule_dependent", "pixels")
T = TypeVar("T")


@refuse_renamed_attributes(kept="reused")
@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What a build did.

    path      : of the store; where `output` points, if that is a symbolic link
    samples   : number of samples in the store
    reused    : number of these that were taken unchanged from an older store of that
        name or from an interrupted build
    failed    : number of images that were planned and could not be used, because they
        or all their contours turned out to be bad when they were read
    left_out  : number of images that were left out, as `without` says
    links     : number of links whose contours are in the store
    contours  : number of these contours; a link of a structure set may have several
    rejects   : input that was not used, as listed in `<path>.rejects.csv`
    several_rings : number of classes on images, counted image by image, that have
        several rings there
    rule_dependent : image file and class of those of them on which even-odd, nonzero
        and union give different masks
    off_image : contour files whose contour covers no pixel of its image; with class and
        image, if a file holds several contours
    outer_roots : real paths of the roots of the table that do not lie in its folder,
        and those that are URLs
    copies    : files of images that have the same pixels and belong to several
        patients, together in a tuple; images of one value are left out. All are in the
        store: if these patients are one person, a split does not know it
    fingerprint : of the store
    """

    path: Path
    samples: int
    reused: int
    failed: int
    left_out: int
    links: int
    contours: int
    rejects: tuple[Reject, ...]
    several_rings: int
    rule_dependent: tuple[tuple[str, str], ...]
    off_image: tuple[str, ...]
    outer_roots: tuple[Path | str, ...]
    copies: tuple[tuple[str, ...], ...]
    fingerprint: str


class Tally:
    """What is known of the items of a build so far, for its report.

    samples, reused : numbers of items
    drawn, contours, several_rings : as in BuildReport
    """

    def __init__(self, classes: Sequence[str], paths: Paths):
        self._bits = {name: bit for bit, name in enumerate(classes)}
        self._paths = paths
        self.samples = 0
        self.reused = 0
        self.drawn = 0
        self.contours = 0
        self.several_rings = 0
        # By item of the plan: what was rejected, image and class whose mask depends on
        # `fill`, and contours off the image.
        self._rejects: dict[int, list[Reject]] = {}
        self._rule_dependent: dict[int, list[tuple[str, str]]] = {}
        self._off_image: dict[int, list[str]] = {}
        # Of each block, numbers that differ for different files and frames, and the
        # checksums of images of more than one value.
        self._identities: list[NDArray[np.uint64]] = []
        self._varied: list[NDArray[np.uint64]] = []

    def add_rejects(self, block: Block) -> None:
        """Add what was rejected of a block."""
        for k, rejects in block.rejects.items():
            self._rejects[int(block.items[k])] = rejects

    def add(
        self, block: Block, items: NDArray[np.int64], records: Records, reused: int
    ) -> None:
        """Add items that are in the store.

        items  : int64 (n,), indices in the block
        reused : how many of them were not built by this call
        """
        meta = records.meta
        firsts = np.cumsum(records.file_counts) - records.file_counts
        self._identities.append(identify_images(records.stamps[firsts], meta["frame"]))
        self._varied.append(meta["image_xxh3"][meta["min"] != meta["max"]])
        rings = records.rings
        self._count_contours(block, items, meta, rings[:, 0], rings[:, 1])
        self.samples += len(items)
        self.reused += reused

    def add_rejected_images(self, block: Block, items: NDArray[np.int64]) -> None:
        """Keep what tells whether an image that is rejected is another one, too.

        items : int64 (n,), indices in the block of those that are in the store
        """
        for k in set(block.rejects).difference(items.tolist()):
            link = block.links[k][0]
            with suppress(LinkError, OSError):  # then it is not
                stamp = stamp_of(self._paths.resolve(link.dicom_path, link.root))
                row = np.array([stamp], np.int64), np.array([link.frame])
                self._identities.append(identify_images(*row))

    def add_older(
        self,
        block: Block,
        items: NDArray[np.int64],
        store: Store,
        samples: NDArray[np.int64],
    ) -> None:
        """Count the contours of items that are samples of an older store."""
        columns = _contours_in_store(store, samples)
        self._count_contours(block, items, *columns)

    @property
    def has_repeated_files(self) -> bool:
        """Whether two items may be the same frame of one file, under several names."""
        return have_repeats(self._identities)

    def rejects(self) -> Iterator[Reject]:
        """Yield what was rejected, in the order of the plan."""
        return _in_order(self._rejects)

    def find_copies(self, path: Path) -> tuple[tuple[str, ...], ...]:
        """Return `BuildReport.copies` of the store that was built."""
        # To open the store takes a twentieth of the time of a build of 500 images.
        return find_copies(open_store(path)) if have_repeats(self._varied) else ()

    def report(
        self,
        path: Path,
        *,
        planned: int,
        left_out: int,
        rejects: tuple[Reject, ...],
        outer_roots: tuple[Path | str, ...],
        copies: tuple[tuple[str, ...], ...],
        fingerprint: str,
    ) -> BuildReport:
        """Return the report.

        planned : number of images of the plan
        """
        return BuildReport(
            path=path,
            samples=self.samples,
            reused=self.reused,
            failed=planned - self.samples,
            left_out=left_out,
            links=self.drawn,
            contours=self.contours,
            rejects=rejects,
            several_rings=self.several_rings,
            rule_dependent=tuple(_in_order(self._rule_dependent)),
            off_image=tuple(_in_order(self._off_image)),
            outer_roots=outer_roots,
            copies=copies,
            fingerprint=fingerprint,
        )

    def _count_contours(
        self,
        block: Block,
        items: NDArray[np.int64],
        meta: Any,
        item: NDArray[np.int64],
        bit: NDArray[np.int64],
    ) -> None:
        """Count the contours of items for the report.

        items : indices in the block
        meta  : COUNTED of the items, as in a store
        item, bit : int64 (r,), the index in `items` and the bit of the class of each
            ring
        """
        self.contours += len(item)
        pairs, _, _ = find_several(item, bit)
        self.several_rings += len(pairs)
        # The class and the image of each link.
        rows = [block.links[k] for k in items.tolist()]
        links = list(chain.from_iterable(rows))
        counts = np.array([len(some) for some in rows], np.int64)
        image = np.repeat(np.arange(len(rows)), counts)
        bits = self._bits
        number = np.array([bits.get(link.label, -1) for link in links], np.int64)
        # All links of a class are used, or none.
        labelled = meta["labelled"].astype(np.uint64)[image]
        is_drawn = labelled >> np.maximum(number, 0).astype(np.uint64) & 1 > 0
        drawn = np.flatnonzero(is_drawn & (number >= 0))
        self.drawn += len(drawn)
        is_off = meta["pixels"][image[drawn], number[drawn]] == 0
        off_image: dict[int, list[str]] = {}
        for j in drawn[is_off].tolist():
            names = off_image.setdefault(int(block.items[items[image[j]]]), [])
            names.append(name_contour(links[j]))
        for k, names in off_image.items():
            self._off_image[k] = list(dict.fromkeys(names))
        dependent = meta["rule_dependent"]
        for j in np.flatnonzero(dependent).tolist():
            k = int(items[j])
            file = name_image(block.links[k][0])
            classes = int(dependent[j])
            self._rule_dependent[int(block.items[k])] = [
                (file, name) for name, bit in bits.items() if classes >> bit & 1
            ]


def name_contour(link: Link) -> str:
    """Return what a report calls the contour of a link."""
    if not link.contour_key:
        return link.contour_path
    return f"{link.contour_path}, {link.label} on {name_image(link)}"


def name_image(link: Link) -> str:
    """Return what a report calls an image."""
    return link.dicom_path + (f", frame {link.frame}" if link.frame else "")


def _in_order(by_item: Mapping[int, Sequence[T]]) -> Iterator[T]:
    """Yield what is known of items in the order of the plan."""
    for _, values in sorted(by_item.items()):
        yield from values


def _contours_in_store(
    store: Store, samples: NDArray[np.int64]
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64], NDArray[np.int64]]:
    """Return the same of samples of a store."""
    meta = {name: store.items[name][samples] for name in COUNTED}
    starts, stops = store.items["contours"][samples].T
    sizes = stops - starts
    firsts = np.cumsum(sizes) - sizes
    rings = np.repeat(starts - firsts, sizes) + np.arange(sizes.sum())
    item = np.repeat(np.arange(len(samples)), sizes)
    return meta, item, store.contours["class"][rings]


def identify_images(
    stamps: NDArray[np.int64], frames: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Return uint64 (n,): equal for the same frame of one file, and seldom else.

    stamps : int64 (n, 4), of the files
    frames : int64 (n,)
    """
    rows = np.column_stack([stamps, frames]).view(np.uint64)
    return np.asarray(rows @ MIXING)


def have_repeats(blocks: list[NDArray[np.uint64]]) -> bool:
    """Return whether a number occurs twice."""
    numbers = np.sort(np.concatenate(blocks))
    return bool((numbers[1:] == numbers[:-1]).any())


def find_copies(store: Store) -> tuple[tuple[str, ...], ...]:
    """Return the files of images that have the same pixels under several patients."""
    items = store.items
    # Images of one value, such as empty ones, may well be equal.
    varied = np.flatnonzero(items["min"] != items["max"])
    columns = [items[name][varied] for name in ("image_xxh3", "bucket")]
    order = np.lexsort(columns[::-1])
    hashes, buckets = (column[order] for column in columns)
    samples = varied[order]
    patients = items["patient"][samples]
    is_same = (hashes[1:] == hashes[:-1]) & (buckets[1:] == buckets[:-1])
    group = np.concatenate([[0], np.cumsum(~is_same)])
    differs = is_same & (patients[1:] != patients[:-1])
    several = np.flatnonzero(np.bincount(group[1:][differs]))
    copies = []
    for start, stop in zip(
        *np.searchsorted(group, [several, several + 1]), strict=True
    ):
        members = np.sort(samples[start:stop])
        paths = store.sources["path"][items["source"][members]].tolist()
        copies.append(
            tuple(
                path.decode() + (f", frame {frame}" if frame else "")
                for path, frame in zip(paths, items["frame"][members], strict=True)
            )
        )
    return tuple(sorted(copies))


def warn_of(
    rejects: Sequence[Reject],
    rejects_file: Path | None,
    copies: Sequence[Any],
    stacklevel: int,
) -> None:
    """Issue a RejectedWarning and a CopiesWarning if there is something to warn of.

    stacklevel : of the caller of the public function, as for `warnings.warn` there
    """
    if rejects:
        warnings.warn(
            f"{len(rejects)} links or files were rejected, see {rejects_file}",
            RejectedWarning,
            stacklevel=stacklevel + 1,
        )
    if copies:
        noun = "image is" if len(copies) == 1 else "images are"
        warnings.warn(
            f"{len(copies)} {noun} in the store under several patients, see `copies` "
            "of the report; leave out all but one, or give these patients one ID, or "
            "parts of a split share images",
            CopiesWarning,
            stacklevel=stacklevel + 1,
        )
