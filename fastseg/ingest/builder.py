"""`build`: read the linked images and contours and write them into a store.

It plans the build, hands the blocks of the plan to threads, records finished blocks in
the journal, publishes the store, and reports what was built, reused and rejected.
"""

import warnings
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastseg import __version__
from fastseg.dicom import MAX_PIXEL_BYTES
from fastseg.errors import (
    BuildError,
    NothingBuiltError,
    RejectedWarning,
    StoreError,
    refuse_renamed,
    refuse_renamed_attributes,
    whole_number,
)
from fastseg.files import name_folder
from fastseg.ingest.fast_path import FastPath
from fastseg.ingest.images import Images
from fastseg.ingest.item import ItemBuilder
from fastseg.ingest.plan import Block, ItemRejected, Plan, PlannedItem, plan_build
from fastseg.links import Link, LinkTable
from fastseg.paths import Paths, StrPath
from fastseg.progress import Progress, silent
from fastseg.raster.rules import Edges, Fill, Origin, Rules
from fastseg.store import compression, layout
from fastseg.store.reader import open_store
from fastseg.store.writing.compressed import CompressedPartial
from fastseg.store.writing.older_store import OlderStore
from fastseg.store.writing.partial import Partial, remove_work, sole_builder
from fastseg.store.writing.pixel_file import PixelFile
from fastseg.store.writing.records import Record, Records, gather, join
from fastseg.tables import Reject, save_rejects
from fastseg.threads import map_ordered


@refuse_renamed_attributes(kept="reused")
@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What a build did.

    path      : of the store
    samples   : number of samples in the store
    reused    : number of these that were taken unchanged from an older store of that
        name or from an interrupted build
    links     : number of links whose contour is in the store
    rejects   : input that was not used, as listed in `<path>.rejects.csv`
    off_image : contour files whose contour covers no pixel of its image
    fingerprint : of the store
    """

    path: Path
    samples: int
    reused: int
    links: int
    rejects: tuple[Reject, ...]
    off_image: tuple[str, ...]
    fingerprint: str


@refuse_renamed(workers="threads")
def build(
    links: LinkTable | StrPath,
    output: StrPath,
    *,
    edges: Edges = "half-open",
    fill: Fill = "even-odd",
    origin: Origin = "center",
    threads: int = 1,
    max_pixel_bytes: int = MAX_PIXEL_BYTES,
    compress: bool = False,
    progress: Progress = silent,
) -> BuildReport:
    """Read all linked images and contours and write them into a store.

    links  : a LinkTable, or the path of a saved one; samples are in the order of a
        LinkTable, and a saved one is first sorted as `link` sorts
    output : path of the store; an existing store is replaced when the new one is
        complete, and not touched if it would not change
    edges, fill, origin : which pixels belong to a region, see `raster.rules.Rules`
    threads : number of worker threads; the bytes of the store do not depend on it
    max_pixel_bytes : an image file is rejected, before its pixels are read, if its
        header announces more bytes of pixels than this in all frames together
    compress : compress images and masks; readers of the store decompress them.
        Content and fingerprint stay the same

    If an earlier build of the store was interrupted, this one continues it. If the
    store exists, samples whose links and files have not changed are reused. Input that
    cannot be used is left out, listed in `<output>.rejects.csv` and counted in a
    RejectedWarning. Raises NothingBuiltError if no sample remains, BuildError if the
    target cannot be replaced, is being built by somebody else or cannot hold the
    classes, LinkError for a malformed table, MissingExtraError, OptionError,
    RenamedError, OSError.
    """
    rules = Rules(edges=edges, fill=fill, origin=origin)
    threads = whole_number("threads", threads, 1)
    max_pixel_bytes = whole_number("max_pixel_bytes", max_pixel_bytes, 1)
    if compress:
        compression.require("building a compressed store")
    target = Path(output)
    if not target.name or (target.exists() and not target.is_file()):
        is_folder = not target.name or target.is_dir()
        kind = "a folder" if is_folder else "not a regular file"
        raise BuildError(f"{target}: is {kind}, expected the name of a store")
    if not isinstance(links, LinkTable):
        # A file that is not a links table is refused before anything is created.
        links = LinkTable.load(links)
    with sole_builder(target), name_folder(target.parent):
        images = Images(links)
        layout.check_classes(images.classes)
        work = _Build(
            images, target, rules, threads, max_pixel_bytes, compress, progress
        )
        fingerprint = work.run()
    rejects = tuple(dict.fromkeys(work.rejects))
    rejects_file = save_rejects(target, rejects)
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
    return BuildReport(
        path=target,
        samples=work.samples,
        reused=work.reused,
        links=work.drawn,
        rejects=rejects,
        off_image=tuple(work.off_image),
        fingerprint=fingerprint,
    )


@dataclass(slots=True)
class _BlockResult:
    """A block and the results of its items, which are given by index in the block.

    resumable : the work of an interrupted build, by item: the file that holds the
        pixels, and the record
    done      : items whose pixels are in the file, sorted
    records   : of the items that are done, in the same order; None if there are none
    reused    : items that were taken unchanged from earlier work
    rejects   : what was rejected, by item
    """

    block: Block
    resumable: dict[int, tuple[PixelFile, Record]]
    done: list[int] = field(default_factory=list)
    records: Records | None = None
    reused: set[int] = field(default_factory=set)
    rejects: dict[int, list[Reject]] = field(default_factory=dict)


class _Build:
    """One build. Threads run `_build_block`, which changes only its own result."""

    def __init__(
        self,
        images: Images,
        target: Path,
        rules: Rules,
        threads: int,
        max_pixel_bytes: int,
        compress: bool,
        progress: Progress,
    ):
        self.images = images
        self.target = target
        self.threads = threads
        self.progress = progress
        self.partial_class = CompressedPartial if compress else Partial
        self.options = asdict(rules)
        self.versions = _versions()
        zstd = {compression.NAME: compression.version()} if compress else {}
        self.software = {**self.versions, **zstd}
        paths = Paths(images.base)
        self.item_builder = ItemBuilder(paths, images.classes, rules, max_pixel_bytes)
        self.older = self._find_older()
        self.rejects = list(images.rejects)
        self.off_image: list[str] = []
        self.samples = 0
        self.reused = 0
        self.drawn = 0
        # bool (n,), the items of the plan that this build has built. If it starts over
        # without failed items, it resumes these, but does not count them as reused.
        self.is_own = np.zeros(0, np.bool_)

    def run(self) -> str | None:
        """Build, and return the fingerprint; None if there is nothing to build."""
        plan, rejects = plan_build(
            self.images,
            self.item_builder.paths,
            self.target.parent,
            self.progress,
            self.threads,
            self.item_builder.max_pixel_bytes,
        )
        self.rejects += rejects
        if self.older is not None and self._is_up_to_date(self.older, plan):
            remove_work(self.target)
            self.samples = len(self.older.store)
            return self.older.store.fingerprint
        # Some files turn out to be bad only when their pixels are read. The store is
        # then started over without these items; finished items are resumed.
        self.is_own = np.zeros(len(plan), np.bool_)
        while len(plan):
            with self.partial_class(
                self.target,
                buckets=plan.buckets,
                parts=plan.slots,
                classes=self.item_builder.classes,
                options=self.options,
                software=self.software,
            ) as partial:
                failed = self._build_items(partial, plan)
                if not failed:
                    self.older = None  # Windows replaces no file that is mapped
                    self.samples = len(plan)
                    return partial.publish()
            plan = plan.without(failed)
            self.is_own = np.delete(self.is_own, list(failed))
        remove_work(self.target)
        return None

    def _build_items(self, partial: Partial, plan: Plan) -> set[int]:
        """Build all items; return the indices of those that failed."""
        self.off_image = []
        self.reused = 0
        self.drawn = 0
        failed = set()
        fast_path = FastPath(self.item_builder)

        def build_block(result: _BlockResult) -> _BlockResult:
            self._build_block(partial, fast_path, result)
            return result

        # Only this thread reads and writes the journal.
        todo = (
            _BlockResult(block, partial.resumable(block.slots))
            for block in plan.blocks()
        )
        with closing(map_ordered(build_block, todo, self.threads)) as results:
            pairs = (
                (result, k) for result in results for k in range(len(result.block))
            )
            result: _BlockResult | None = None
            k = -1
            try:
                with self.progress("build", len(plan)) as advance:
                    for pair in pairs:
                        advance()
                        result, k = pair
                        if k not in result.done:
                            failed.add(result.block.first + k)
                        if k == len(result.block) - 1:
                            self._record(partial, result, k)
                            if self.older is not None:
                                self.older.store.release()
            except BaseException:
                if result is not None and k != len(result.block) - 1:
                    self._record(partial, result, k)
                raise
        return failed

    def _record(self, partial: Partial, result: _BlockResult, last: int) -> None:
        """Add the items of a block up to index `last` to the journal and the report."""
        for k, rejects in result.rejects.items():
            if k <= last:
                self.rejects += rejects
        done = [k for k in result.done if k <= last]
        records = result.records
        if records is None or not done:
            return
        if len(done) < records.items:
            records = records.pick(range(len(done)))
        partial.add(result.block.slots.pick(done), records)
        first = result.block.first
        self.is_own[[first + k for k in done if k not in result.reused]] = True
        self.reused += len(done) - int(self.is_own[[first + k for k in done]].sum())
        for j in np.flatnonzero(records.meta["labelled"]).tolist():
            meta = records.meta[j]
            links = result.block.links[done[j]]
            self._count_contours(links, meta["labelled"], meta["pixels"])

    def _build_block(
        self, partial: Partial, fast_path: FastPath, result: _BlockResult
    ) -> None:
        """Build the items of a block and write their pixels."""
        block = result.block
        items = range(len(block))
        # Items that an interrupted build has finished are checked one by one.
        not_resumable = [k for k in items if k not in result.resumable]
        done, records = fast_path.build_items(block, not_resumable, partial)
        if self.older is not None and records is not None:
            # The fast path builds an item in the time that copying it would take, so
            # unchanged items of the older store are only counted.
            buckets = [partial.bucket(block.slots, k) for k in done]
            hashes = records.meta["inputs_xxh3"].tolist()
            indices = self.older.find(hashes, buckets)
            result.reused.update(np.array(done)[indices >= 0].tolist())
        single_records: list[Record] = []
        for k in sorted({*items}.difference(done)):
            try:
                single_records.append(self._build_item(partial, k, result))
                done.append(k)
            except ItemRejected as exc:
                result.rejects[k] = exc.rejects
        if single_records:
            more = gather(single_records, self.item_builder.classes)
            records = more if records is None else join([records, more])
        result.done = sorted(done)
        if records is not None:
            is_sorted = result.done == done
            result.records = records if is_sorted else records.pick(np.argsort(done))

    def _build_item(self, partial: Partial, k: int, result: _BlockResult) -> Record:
        """Build an item, or reuse earlier work, write its pixels; return its record."""
        item = result.block[k]
        slots = result.block.slots
        resumable = result.resumable.get(k)
        if resumable is not None:
            pixel_file, record = resumable
            if record.stamps == self.item_builder.stamps(item):
                resumed = partial.resume(slots, k, pixel_file, record)
                if resumed is not None:
                    result.reused.add(k)
                    return resumed
        inputs = self.item_builder.read(item)
        if inputs.rejects:
            result.rejects[k] = inputs.rejects
        if self.older:
            (index,) = self.older.find([inputs.hash], [item.bucket])
            pixels = self.older.pixels(index) if index >= 0 else None
            if pixels is not None:
                result.reused.add(k)
                record = self.older.record(
                    index,
                    links=0 if inputs.rejects else item.links_hash,
                    stamps=inputs.stamps,
                )
                return record._replace(offsets=partial.write(slots, k, *pixels))
        image = self.item_builder.decode(item, inputs)
        record, mask = self.item_builder.draw_and_measure(item, inputs, image)
        return record._replace(offsets=partial.write(slots, k, image.pixels, mask))

    def _find_older(self) -> OlderStore | None:
        """Return the store that is to be replaced, None if no item can be reused."""
        if not self.target.exists():
            return None
        try:
            store = open_store(self.target)
        except StoreError as exc:
            raise BuildError(
                f"{self.target}: exists and is not a valid store ({exc}); remove it or "
                "choose another name"
            ) from None
        # Pixels do not depend on compression, nor on the version of zstd.
        versions = {n: v for n, v in store.software.items() if n != compression.NAME}
        older_options = store.classes, store.options, versions
        options = self.item_builder.classes, self.options, self.versions
        older = OlderStore(store)
        return older if older_options == options and older.is_valid() else None

    def _is_up_to_date(self, older: OlderStore, plan: Plan) -> bool:
        """Return whether a build would give the same store again.

        It compares the contents of all files, not their times, and writes nothing.
        """
        store = older.store
        rejects: list[Reject] = []
        if store.compression != self.partial_class.compression:
            return False
        if store.software != self.software:
            return False
        with (
            closing(compare(older, plan, self.item_builder, self.threads)) as items,
            self.progress("compare", len(plan)) as advance,
        ):
            for links, index, rejected in items:
                advance()
                rejects += rejected
                if index is None:  # it cannot be used, so it is not in the store
                    continue
                if index < 0 or self.reused == len(store):
                    return False
                if not older.same_inputs(index, self.reused):
                    return False
                self.reused += 1
                labelled = store.items["labelled"][index]
                pixels = store.items["pixels"][index]
                self._count_contours(links, labelled, pixels)
        if self.reused != len(store):
            return False
        self.rejects += rejects
        return True

    def _count_contours(
        self, links: Sequence[Link], labelled: Any, pixels: Any
    ) -> None:
        """Count the contours of an item of the store for the report."""
        bits = int(labelled)
        if not bits:
            return
        files = {link.label: link.contour_path for link in links}
        for bit, name in enumerate(self.item_builder.classes):
            if bits >> bit & 1:
                self.drawn += 1
                if not pixels[bit]:
                    self.off_image.append(files[name])


class Comparison(NamedTuple):
    """An item of the plan, looked up in an older store.

    older_index : of the equal item in the older store, -1 if there is none, None if
        the planned item cannot be built
    rejects     : of the planned item
    """

    links: Sequence[Link]
    older_index: int | None
    rejects: list[Reject]


def compare(
    older: OlderStore, plan: Plan, item_builder: ItemBuilder, threads: int
) -> Generator[Comparison, None, None]:
    """Look up each item of the plan in an older store, in order.

    Reads every file, because contents decide.
    """
    fast_path = FastPath(item_builder)

    def compare_block(block: Block) -> list[Comparison]:
        hashes = fast_path.inputs_hashes(block)
        buckets = [block.buckets[block.slots.bucket[k]] for k in hashes]
        indices = older.find(list(hashes.values()), buckets).tolist()
        equal = {
            k: Comparison(block.links[k], index, [])
            for k, index in zip(hashes, indices, strict=True)
            if index >= 0
        }
        older.store.release()
        return [
            equal.get(k) or _compare_item(older, block[k], item_builder)
            for k in range(len(block))
        ]

    with closing(map_ordered(compare_block, plan.blocks(), threads)) as blocks:
        for comparisons in blocks:
            yield from comparisons


def _compare_item(
    older: OlderStore, item: PlannedItem, item_builder: ItemBuilder
) -> Comparison:
    try:
        inputs = item_builder.read(item)
        (index,) = older.find([inputs.hash], [item.bucket]).tolist()
        if index < 0:  # a new item, unless its pixels cannot be decoded
            item_builder.decode(item, inputs)
        return Comparison(item.links, index, inputs.rejects)
    except ItemRejected as exc:
        return Comparison(item.links, None, exc.rejects)


@cache
def _versions() -> dict[str, str]:
    packages = ("h5py", "numpy", "pydicom")
    return {"fastseg": __version__, **{name: version(name) for name in packages}}
