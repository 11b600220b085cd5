"""`build`: read the linked images and contours and write them into a store.

It plans the build, hands the blocks of the plan to threads, records finished blocks in
the journal, publishes the store, and reports what was built, reused and rejected.
"""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastseg import __version__
from fastseg._kernels.contours import labels, planes
from fastseg._kernels.files import content
from fastseg._kernels.images import statistics
from fastseg._kernels.native.entries import prepare
from fastseg.bounds import MAX_DECODE_SECONDS, MAX_PIXEL_BYTES
from fastseg.calls import check_call, refuse_renamed_attributes
from fastseg.choices import Edges, Fill, Origin, Severity
from fastseg.codecs.pool import Pool, check_timeout
from fastseg.errors import (
    CopiesWarning,
    LinkError,
    NothingBuiltError,
    OptionError,
    PathError,
    RejectedWarning,
    StoreError,
    shown,
    true_or_false,
    whole_number,
)
from fastseg.files import name_path, stamp_of
from fastseg.ingest.annotations import point_lists
from fastseg.ingest.block import Block
from fastseg.ingest.images import ImageReader
from fastseg.ingest.items import BuiltItems, ItemBuilder, find_several
from fastseg.ingest.left_out import without_findings
from fastseg.ingest.plan import Plan, plan_build
from fastseg.links import Link, LinkTable
from fastseg.outputs import check_input, check_target
from fastseg.paths import Paths, StrPath, as_path, is_inside
from fastseg.progress import Progress, silent
from fastseg.raster.rules import Rules
from fastseg.sources import DEFAULT_FORMAT, READERS
from fastseg.sources.rtstruct import RtStruct
from fastseg.store import compression, layout
from fastseg.store.reader import Store, open_store
from fastseg.store.writing.older_store import STORE, OlderStore
from fastseg.store.writing.partial import (
    Partial,
    Resumable,
    remove_work,
    sole_builder,
)
from fastseg.store.writing.records import Records
from fastseg.tables import Reject, check_rejects, rejects_path, save_rejects
from fastseg.threads import check_threads, frequent_switches, map_ordered

# Odd factors, which make one number of 64 bits of a stamp and a frame.
MIXING = np.array(
    [
        *(0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9),
        *(0xD6E8FEB86659FD93, 0xA0761D6478BD642F),
    ],
    np.uint64,
)
# Instead of the index of an item in an older store: -1 as `OlderStore.find` returns it.
ABSENT, REJECTED = -1, -2
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
    outer_roots : real paths of the roots of the table that do not lie in its folder
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
    outer_roots: tuple[Path, ...]
    copies: tuple[tuple[str, ...], ...]
    fingerprint: str


@check_call("build('links.csv', 'heart.h5')", workers="threads")
def build(
    links: LinkTable | StrPath,
    output: StrPath,
    *,
    edges: Edges = "half-open",
    fill: Fill = "even-odd",
    origin: Origin = "center",
    threads: int = 1,
    max_pixel_bytes: int = MAX_PIXEL_BYTES,
    decode_timeout: float = MAX_DECODE_SECONDS,
    compress: bool = False,
    root: StrPath | None = None,
    without: StrPath | None = None,
    without_severity: Severity = "error",
    force: bool = False,
    progress: Progress = silent,
) -> BuildReport:
    """Read all linked images and contours and write them into a store.

    links  : a LinkTable, or the path of a saved one. What rows lack of what `link`
        writes is read from headers. The table is sorted as `link` sorts if it was saved
        or had to be completed; else samples are in the order of its links
    output : path of the store; an existing store is replaced when the new one is
        complete, and not touched if it would not change
    edges, fill, origin : which pixels belong to a region, see `raster.rules.Rules`
    threads : number of worker threads; the bytes of the store do not depend on it
    max_pixel_bytes : an image file is rejected, before its pixels are read, if its
        header announces more bytes of pixels than this in all frames together
    decode_timeout : seconds that decoding one compressed image may take; a file that
        takes longer is rejected, and tried again by the next build
    compress : compress images and masks; readers of the store decompress them.
        Content and fingerprint stay the same
    root   : a folder; a table is refused if it has a root outside of it, symbolic links
        resolved. By default, a table may name any root
    without : a table of findings, as `write_findings` writes it: its images are left
        out. A volume that lacks an inner slice is no volume
    without_severity : only those with a finding of this severity or a worse one
    force  : replace any file at `output`; otherwise only a store, of any version and
        also if it is damaged, or an empty file

    If an earlier build of the store was interrupted, this one continues it. If the
    store exists, samples whose links and files have not changed are reused. Input that
    cannot be used is left out, listed in `<output>.rejects.csv` and counted in a
    RejectedWarning; a CopiesWarning counts images that several patients share. A
    symbolic link is written where it points. A store that replaces a file has its
    permissions. Raises NothingBuiltError if no sample remains, OutputError if a file
    would be replaced or written that is not fastseg's, BuildError if the store is being
    built by somebody else or cannot hold the classes, LinkError for a malformed table,
    PathError if it leads out of `root`, DecoderStartError if no process can be started
    for a decoder, MissingExtraError, OptionError, RenamedError, OSError.
    """
    rules = Rules(edges=edges, fill=fill, origin=origin)
    threads = check_threads(threads)
    max_pixel_bytes = whole_number("max_pixel_bytes", max_pixel_bytes, 1)
    compress = true_or_false("compress", compress)
    decode_timeout = check_timeout(decode_timeout)
    if compress:
        compression.require("building a compressed store")
    output = as_path("output", output)
    root = None if root is None else as_path("root", root)
    if not isinstance(links, LinkTable):
        links = _check_table(links)
        for written in (output, rejects_path(output)):
            check_input(written, links, "the links table", STORE)
    target = check_target(output, STORE, force)
    check_rejects(output, force)
    # Refuse a file that is not a links table before anything is created.
    table = links if isinstance(links, LinkTable) else LinkTable.load(links, progress)
    left_out = 0
    if without is not None:
        table, left_out = without_findings(table, without, without_severity)
    layout.check_classes(table.classes)
    _check_origin(table, rules)
    outer_roots = _outer_roots(table, root)
    with name_path(target.parent), sole_builder(target), Pool() as decoders:
        images = ImageReader(
            Paths(table.base),
            decoders,
            max_pixel_bytes=max_pixel_bytes,
            decode_timeout=decode_timeout,
        )
        work = _Build(
            *(table, target, rules, threads, max_pixel_bytes, images),
            *(compress, force, progress),
        )
        fingerprint = work.run()
    rejects = tuple(dict.fromkeys(work.rejects))
    rejects_file = save_rejects(output, rejects, force)
    if fingerprint is None:
        raise NothingBuiltError(
            f"nothing to build: {len(rejects)} rejected, see {rejects_file}"
            if rejects
            else "nothing to build: the table has no links",
            rejects,
        )
    if rejects:
        warnings.warn(
            f"{len(rejects)} links or files were rejected, see {rejects_file}",
            RejectedWarning,
            stacklevel=3,  # the caller of `build`, behind its decorator
        )
    copies = work.find_copies()
    if copies:
        noun = "image is" if len(copies) == 1 else "images are"
        warnings.warn(
            f"{len(copies)} {noun} in the store under several patients, see `copies` "
            "of the report; leave out all but one, or give these patients one ID, or "
            "parts of a split share images",
            CopiesWarning,
            stacklevel=3,
        )
    return BuildReport(
        path=target,
        samples=work.samples,
        reused=work.reused,
        failed=work.failed,
        left_out=left_out,
        links=work.drawn,
        contours=work.contours,
        rejects=rejects,
        several_rings=work.several_rings,
        rule_dependent=tuple(in_order(work.rule_dependent)),
        off_image=tuple(in_order(work.off_image)),
        outer_roots=outer_roots,
        copies=copies,
        fingerprint=fingerprint,
    )


def _check_table(links: Any) -> Path:
    """Return the path of a links table, or raise OptionError."""
    if isinstance(links, str | os.PathLike):
        return as_path("links", links)
    raise OptionError(
        f"links is {shown(links)}, expected a LinkTable, as fastseg.link returns it, "
        "or the path of a saved one"
    )


def _check_origin(table: LinkTable, rules: Rules) -> None:
    """Raise OptionError if contours in millimetres would be shifted by `origin`."""
    if rules.origin == "center":
        return
    codes, texts = table.links.format
    for code in np.flatnonzero(np.bincount(codes, minlength=len(texts))).tolist():
        reader = READERS.get(texts[code] or DEFAULT_FORMAT)
        if reader is not None and not reader.is_in_pixels:
            raise OptionError(
                f"origin is {rules.origin!r}, but the table has contours of format "
                f"{reader.format!r}: they are in millimetres, and the headers of the "
                "images say where pixel centres lie; build them with origin 'center' "
                "(--origin center)"
            )


def _outer_roots(table: LinkTable, folder: StrPath | None) -> tuple[Path, ...]:
    """Return the real paths of a table's roots that do not lie in its folder, sorted.

    Raises PathError for a root outside of `folder`.
    """
    if folder is not None and not Path(folder).is_dir():
        raise OptionError(f"root is {os.fspath(folder)!r}, expected a folder")
    base = os.path.realpath(table.base)
    codes, texts = table.links.root
    outer = set()
    # Not np.unique, which imports numpy.ma when it is first called: 8 ms.
    for code in np.flatnonzero(np.bincount(codes)).tolist():
        real = os.path.realpath(table.base / texts[code])
        if folder is not None and not is_inside(real, os.path.realpath(folder)):
            raise PathError(
                f"the table has the root {texts[code]!r}, which is {real} and lies "
                f"outside {folder}; give the folder that holds the data as root "
                "(--root), if you trust the table"
            )
        if not is_inside(real, base):
            outer.add(Path(real))
    return tuple(sorted(outer))


class _BuiltBlock(NamedTuple):
    """A block after it has been built.

    built   : the new items
    resumed : those that an interrupted build has finished
    """

    block: Block
    built: BuiltItems
    resumed: list[Resumable]


class _Build:
    """One build. Threads run `_build_block`, which changes only its own block."""

    def __init__(
        self,
        table: LinkTable,
        target: Path,
        rules: Rules,
        threads: int,
        max_pixel_bytes: int,
        images: ImageReader,
        compress: bool,
        force: bool,
        progress: Progress,
    ):
        self.table = table
        self.target = target
        self.threads = threads
        self.progress = progress
        self.compress = compress
        self.force = force
        self.max_pixel_bytes = max_pixel_bytes
        self.options = asdict(rules)
        self.versions = _versions()
        zstd = {compression.NAME: compression.version()} if compress else {}
        self.software = {**self.versions, **zstd}
        self.paths = Paths(table.base)
        self.decoders = images.decoders
        self.item_builder = ItemBuilder(self.paths, table.classes, rules, images)
        self.older = self._find_older()
        self._bits = {name: bit for bit, name in enumerate(table.classes)}
        self._reset()

    def _reset(self) -> None:
        self.rejects = list(self.table.rejects)
        self.samples = 0
        self.reused = 0
        self.failed = 0
        self._rejects: dict[int, list[Reject]] = {}
        self._reset_counts()
        # Of each block, numbers that differ for different files and frames, and the
        # checksums of images of more than one value.
        self._identities: list[NDArray[np.uint64]] = []
        self._varied: list[NDArray[np.uint64]] = []

    def _reset_counts(self) -> None:
        self.drawn = 0
        self.contours = 0
        self.several_rings = 0
        # By item of the plan: image and class whose mask depends on `fill`, and
        # contours off the image.
        self.rule_dependent: dict[int, list[tuple[str, str]]] = {}
        self.off_image: dict[int, list[str]] = {}

    def run(self) -> str | None:
        """Build, and return the fingerprint; None if there is nothing to build."""
        try:
            return self._run(identify_all=False)
        except _SeveralNamesError:
            # Links to files are rare, and to look for them takes as long as to look at
            # every file. All finished items but these are resumed.
            reused = self.reused
            self._reset()
            fingerprint = self._run(identify_all=True)
            if self.older is None:  # it has resumed what this call has built before
                self.reused = min(self.reused, reused)
            return fingerprint

    def _run(self, identify_all: bool) -> str | None:
        plan, rejects = plan_build(
            self.table,
            self.paths,
            self.max_pixel_bytes,
            self.compress,
            self.threads,
            self.progress,
            identify_all=identify_all,
        )
        self.rejects += rejects
        fingerprint = None
        if self.older is not None and self._is_up_to_date(plan, identify_all):
            self.samples = self.reused = len(self.older.store)
            fingerprint = self.older.store.fingerprint
            remove_work(self.target)
        elif len(plan):
            self._rejects.clear()
            self._reset_counts()
            fingerprint = self._build_store(plan, identify_all)
        if fingerprint is None:
            remove_work(self.target)
        self.failed = len(plan) - self.samples
        for _, rejects in sorted(self._rejects.items()):
            self.rejects += rejects
        return fingerprint

    def _build_store(self, plan: Plan, identify_all: bool) -> str | None:
        """Build all items and publish the store; None if all items failed.

        Raises _SeveralNamesError if two items may be one image, unless `identify_all`.
        """
        self._prepare_kernels(plan)
        with Partial(
            self.target,
            counts=plan.counts,
            slots=plan.slots,
            classes=self.item_builder.classes,
            options=self.options,
            software=self.software,
            compress=self.compress,
            force=self.force,
        ) as partial:

            def build_block(todo: tuple[Block, list[Resumable]]) -> _BuiltBlock:
                return self._build_block(partial, *todo)

            # Only this thread reads and writes the journal.
            todo = (
                (block, partial.resumable(block.slots))
                for block in plan.blocks(self.threads)
            )
            with (
                frequent_switches(self.threads),
                self.progress("build", len(plan)) as advance,
                closing(
                    map_ordered(build_block, todo, self.threads, self.decoders.stop)
                ) as results,
                # Twice, because an interrupt may hit the first exit before it has
                # closed, and then the files would be closed while threads write.
                closing(results),
            ):
                for result in results:
                    self._record(partial, result)
                    if self.older is not None:
                        self.older.store.release()
                    advance(len(result.block))
            if not self.samples:
                return None
            if not identify_all and _have_repeats(self._identities):
                raise _SeveralNamesError
            self.older = None  # Windows replaces no file that is mapped
            return partial.publish()

    def _prepare_kernels(self, plan: Plan) -> None:
        """Compile what all blocks are going to need, if it is not there."""
        masks = layout.mask_dtype(self.item_builder.classes).name
        rules = Rules(**self.options)
        wanted: list[tuple[Any, dict[str, Any]]] = [
            (content.read_files, {}),
            (content.note_headers, {}),
            (labels.parse_files, {}),
        ]
        formats = {text or DEFAULT_FORMAT for text in self.table.links.format.texts}
        if not formats <= point_lists():  # else each class has one ring
            wanted.append((labels.compare_rules, {}))
        if RtStruct.format in formats:
            wanted.append((planes.project_points, {}))
        for bucket, _ in plan.counts:
            rule = rules.kernel_rule(*bucket.shape)
            wanted.append((labels.draw_masks, {"T": masks, "rule": rule}))
            wanted.append((statistics.measure_images, {"T": bucket.dtype.name}))
            both = {"T": bucket.dtype.name, "M": masks}
            wanted.append((statistics.write_histograms, both))
        prepare(wanted)

    def _build_block(
        self, partial: Partial, block: Block, resumables: list[Resumable]
    ) -> _BuiltBlock:
        """Build the items of a block that cannot be resumed; write their pixels."""
        resumed = []
        for resumable in resumables:
            valid = self.item_builder.resume(block, partial, resumable)
            if valid:
                resumed.append(resumable.pick(valid))
        built = self.item_builder.build(block, partial, self.older)
        return _BuiltBlock(block, built, resumed)

    def _record(self, partial: Partial, result: _BuiltBlock) -> None:
        """Add the items of a block to the journal and to the report."""
        block, built, resumed = result
        for k, rejects in block.rejects.items():
            self._rejects[int(block.items[k])] = rejects
        for k in set(block.rejects).difference(built.items.tolist()):
            self._note_rejected(block.links[k][0])
        if len(built.items):
            partial.add(block.items[built.items], built.records)
        self._note_images(built.records)
        self._count_contours(block, built.items, *contours_of(built.records))
        self.samples += len(built.items)
        self.reused += int(built.is_reused.sum())
        for some in resumed:
            partial.add_resumed(block.items[some.items], some)
            self._note_images(some.records)
            self._count_contours(block, some.items, *contours_of(some.records))
            self.samples += len(some.items)
            self.reused += len(some.items)

    def _note_images(self, records: Records) -> None:
        """Keep what tells whether a file has several names, or an image copies."""
        meta = records.meta
        firsts = np.cumsum(records.file_counts) - records.file_counts
        self._identities.append(identify_images(records.stamps[firsts], meta["frame"]))
        self._varied.append(meta["image_xxh3"][meta["min"] != meta["max"]])

    def _note_rejected(self, link: Link) -> None:
        """Keep what tells whether a rejected image is another one, too."""
        with suppress(LinkError, OSError):  # then it is not
            stamp = stamp_of(self.paths.resolve(link.dicom_path, link.root))
            row = np.array([stamp], np.int64), np.array([link.frame])
            self._identities.append(identify_images(*row))

    def find_copies(self) -> tuple[tuple[str, ...], ...]:
        """Return `BuildReport.copies`, after the build."""
        if self.older is not None:  # then it is up to date, and nothing was built
            return _find_copies(self.older.store)
        # To open the store takes a twentieth of the time of a build of 500 images.
        if not _have_repeats(self._varied):
            return ()
        return _find_copies(open_store(self.target))

    def _find_older(self) -> OlderStore | None:
        """Return the store that is to be replaced, None if no item can be reused.

        `check_target` has allowed to replace whatever is there.
        """
        if not self.target.exists():
            return None
        try:
            store = open_store(self.target)
        except StoreError:  # of another version, damaged, or no store, but forced
            return None
        # Pixels do not depend on compression, nor on the version of zstd.
        versions = {n: v for n, v in store.software.items() if n != compression.NAME}
        older_options = store.classes, store.options, versions
        options = self.item_builder.classes, self.options, self.versions
        older = OlderStore(store)
        return older if older_options == options and older.is_valid() else None

    def _is_up_to_date(self, plan: Plan, identify_all: bool) -> bool:
        """Return whether a build would give the same store as the older one.

        It compares the contents of all files, not their times, and writes nothing.
        Raises _SeveralNamesError as `_build_store` does.
        """
        older = self.older
        assert older is not None
        store = older.store
        if (store.compression, store.software) != (
            compression.NAME if self.compress else "",
            self.software,
        ):
            return False
        # The index in the older store of each item of the plan.
        indices = np.full(len(plan), REJECTED)

        identities = []

        def compare(
            block: Block,
        ) -> tuple[Block, NDArray[np.int64], NDArray[np.uint64]]:
            return block, *self._compare_block(older, block)

        with (
            self.progress("compare", len(plan)) as advance,
            closing(
                map_ordered(
                    *(compare, plan.blocks(self.threads), self.threads),
                    self.decoders.stop,
                )
            ) as results,
        ):
            for block, found, identity in results:
                if (found == ABSENT).any():
                    return False
                identities.append(identity)
                indices[block.items] = found
                done = np.flatnonzero(found != REJECTED)
                columns = _contours_in_store(store, found[done])
                self._count_contours(block, done, *columns)
                for k, rejects in block.rejects.items():
                    self._rejects[int(block.items[k])] = rejects
                older.store.release()
                advance(len(block))
        if identities and not identify_all and _have_repeats(identities):
            raise _SeveralNamesError
        return older.has_same_items(indices[indices != REJECTED])

    def _compare_block(
        self, older: OlderStore, block: Block
    ) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Return the index of each item in an older store, or ABSENT or REJECTED.

        Also returns the identities of the images that can be read.
        """
        digests, stamps = self.item_builder.input_hashes(block)
        frames = np.array([links[0].frame for links in block.links])
        is_read = (stamps >= 0).any(axis=1)
        identity = identify_images(stamps[is_read], frames[is_read])
        indices = older.find([digest or 0 for digest in digests])
        is_unknown = [digest is None for digest in digests]
        new = np.flatnonzero((indices < 0) | is_unknown)
        if len(new):
            # Items that are new, that cannot be built, or whose contours are rejected
            # in part.
            rest = block.pick(new.tolist())
            built = self.item_builder.build(rest, None, older)
            indices[new] = REJECTED
            found = older.find(built.records.meta["inputs_xxh3"])
            indices[new[built.items]] = found
            block.rejects = {
                int(new[k]): rejects for k, rejects in rest.rejects.items()
            }
        return indices, identity

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
        for j in np.flatnonzero(meta["labelled"]).tolist():
            k = int(items[j])
            labelled, dependent, pixels = (meta[name][j].tolist() for name in COUNTED)
            off_image = []
            for link in block.links[k]:
                # All links of a class are used, or none.
                number = self._bits.get(link.label)
                if number is not None and labelled >> number & 1:
                    self.drawn += 1
                    if not pixels[number]:
                        off_image.append(name_contour(link))
            if off_image:
                self.off_image[int(block.items[k])] = list(dict.fromkeys(off_image))
            if dependent:
                image = name_image(block.links[k][0])
                self.rule_dependent[int(block.items[k])] = [
                    (image, name)
                    for name, number in self._bits.items()
                    if dependent >> number & 1
                ]


def name_contour(link: Link) -> str:
    """Return what a report calls the contour of a link."""
    if not link.contour_key:
        return link.contour_path
    return f"{link.contour_path}, {link.label} on {name_image(link)}"


def name_image(link: Link) -> str:
    """Return what a report calls an image."""
    return link.dicom_path + (f", frame {link.frame}" if link.frame else "")


def in_order(by_item: Mapping[int, Sequence[T]]) -> Iterator[T]:
    """Yield what is known of items in the order of the plan."""
    for _, values in sorted(by_item.items()):
        yield from values


def contours_of(
    records: Records,
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """Return the metadata of items, and item and class of each of their rings."""
    return records.meta, records.rings[:, 0], records.rings[:, 1]


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


class _SeveralNamesError(Exception):
    """Two items of a plan may be the same frame of one file, under several names."""


def identify_images(
    stamps: NDArray[np.int64], frames: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Return uint64 (n,): equal for the same frame of one file, and seldom else.

    stamps : int64 (n, 4), of the files
    frames : int64 (n,)
    """
    rows = np.column_stack([stamps, frames]).view(np.uint64)
    return np.asarray(rows @ MIXING)


def _have_repeats(blocks: list[NDArray[np.uint64]]) -> bool:
    """Return whether a number occurs twice."""
    numbers = np.sort(np.concatenate(blocks))
    return bool((numbers[1:] == numbers[:-1]).any())


def _find_copies(store: Store) -> tuple[tuple[str, ...], ...]:
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


@cache
def _versions() -> dict[str, str]:
    packages = ("h5py", "numpy", "pydicom")
    installed = {name: _installed_version(name) for name in packages}
    return {"fastseg": __version__, **installed}


def _installed_version(package: str) -> str:
    """Return the version of a package, which need not be imported.

    The name of the folder beside it tells the version (PEP 376).
    """
    spec = find_spec(package)
    if spec is not None and spec.origin:
        site = Path(spec.origin).parents[1]
        names = [x.name for x in site.glob(f"{package}-*.dist-info")]
        if len(names) == 1:
            return names[0].removeprefix(f"{package}-").removesuffix(".dist-info")
    from importlib.metadata import version  # 20 ms, a fourteenth of a first build

    return version(package)
