"""`build`: read the linked images and contours and write them into a store.

It plans the build, hands the blocks of the plan to threads, records finished blocks in
the journal, and publishes the store.
"""

from contextlib import closing
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.bounds import MAX_DECODE_SECONDS, MAX_PIXEL_BYTES
from fastseg.calls import check_call
from fastseg.choices import Edges, Fill, Origin, Severity
from fastseg.codecs.pool import Pool
from fastseg.errors import (
    NothingBuiltError,
    StoreError,
)
from fastseg.files import name_path
from fastseg.ingest.block import Block
from fastseg.ingest.executors import build_on
from fastseg.ingest.items import BuiltItems
from fastseg.ingest.plan import Plan, plan_build
from fastseg.ingest.report import (
    BuildReport,
    Tally,
    find_copies,
    have_repeats,
    identify_images,
    warn_of,
)
from fastseg.ingest.request import (
    BuildOptions,
    Request,
    check_request,
    item_builder,
    prepare_kernels,
    software_of,
)
from fastseg.links import LinkTable
from fastseg.paths import Paths, StrPath
from fastseg.progress import Progress, silent
from fastseg.sources import DEFAULT_FORMAT
from fastseg.store import compression
from fastseg.store.reader import open_store
from fastseg.store.writing.older_store import OlderStore
from fastseg.store.writing.partial import (
    Partial,
    Resumable,
    remove_work,
    sole_builder,
)
from fastseg.tables import save_rejects
from fastseg.threads import check_threads, frequent_switches, map_ordered

# Instead of the index of an item in an older store: -1 as `OlderStore.find` returns it.
ABSENT, REJECTED = -1, -2


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
    executor: Any = None,
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
    executor : a `concurrent.futures.Executor`, such as a ProcessPoolExecutor, or a
        Client of Dask: its workers make the store by parts, as `build_part` does, each
        with `threads` threads. They need the same paths and packages. The bytes are the
        same

    With an executor, nothing is reused of a store that exists, and an interrupted build
    continues from the folder `<output>.plan`, if table and options are the same, else
    it raises PlanError. What a task raises comes with a note that names its part; a
    worker that dies is an error of the executor, such as BrokenProcessPool, if that
    does not replace it.

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
    threads = check_threads(threads)
    options = BuildOptions(
        edges=edges,
        fill=fill,
        origin=origin,
        max_pixel_bytes=max_pixel_bytes,
        decode_timeout=decode_timeout,
        compress=compress,
        root=root,
        without=without,
        without_severity=without_severity,
        force=force,
    )
    request = check_request(links, output, options, progress)
    if executor is not None:
        report, rejects_file = build_on(executor, request, threads, progress)
        warn_of(report.rejects, rejects_file, report.copies, stacklevel=3)
        return report
    target = request.target
    with name_path(target.parent), sole_builder(target), Pool() as decoders:
        work = _Build(request, threads, decoders, progress)
        fingerprint = work.run()
    rejects = tuple(dict.fromkeys(work.rejects))
    rejects_file = save_rejects(request.output, rejects, force)
    if fingerprint is None:
        raise NothingBuiltError(
            f"nothing to build: {len(rejects)} rejected, see {rejects_file}"
            if rejects
            else "nothing to build: the table has no links",
            rejects,
        )
    copies = work.find_copies()
    # Of the caller of `build`, behind its decorator.
    warn_of(rejects, rejects_file, copies, stacklevel=3)
    return work.tally.report(
        target,
        planned=work.planned,
        left_out=request.left_out,
        rejects=rejects,
        outer_roots=request.outer_roots,
        copies=copies,
        fingerprint=fingerprint,
    )


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
        self, request: Request, threads: int, decoders: Pool, progress: Progress
    ):
        self.table = request.table
        self.target = request.target
        self.threads = threads
        self.progress = progress
        self.compress = request.options.compress
        self.force = request.options.force
        self.max_pixel_bytes = request.options.max_pixel_bytes
        self.rules = request.options.rules
        self.options = asdict(request.options.rules)
        self.software = software_of(request.options.compress)
        self.paths = Paths(self.table.base)
        self.decoders = decoders
        self.item_builder = item_builder(request, decoders)
        self.older = self._find_older()
        self._reset()

    def _reset(self) -> None:
        self.rejects = list(self.table.rejects)
        self.tally = self._new_tally()
        self.planned = 0

    def _new_tally(self) -> Tally:
        return Tally(self.table.classes, self.paths)

    def run(self) -> str | None:
        """Build, and return the fingerprint; None if there is nothing to build."""
        try:
            return self._run(identify_all=False)
        except _SeveralNamesError:
            # Links to files are rare, and to look for them takes as long as to look at
            # every file. All finished items but these are resumed.
            reused = self.tally.reused
            self._reset()
            fingerprint = self._run(identify_all=True)
            if self.older is None:  # it has resumed what this call has built before
                self.tally.reused = min(self.tally.reused, reused)
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
        self.planned = len(plan)
        fingerprint = None
        if self.older is not None and self._is_up_to_date(plan, identify_all):
            self.tally.samples = self.tally.reused = len(self.older.store)
            fingerprint = self.older.store.fingerprint
            remove_work(self.target)
        elif len(plan):
            self.tally = self._new_tally()
            fingerprint = self._build_store(plan, identify_all)
        if fingerprint is None:
            remove_work(self.target)
        self.rejects += self.tally.rejects()
        return fingerprint

    def _build_store(self, plan: Plan, identify_all: bool) -> str | None:
        """Build all items and publish the store; None if all items failed.

        Raises _SeveralNamesError if two items may be one image, unless `identify_all`.
        """
        formats = {text or DEFAULT_FORMAT for text in self.table.links.format.texts}
        buckets = [bucket for bucket, _ in plan.counts]
        prepare_kernels(buckets, self.table.classes, self.rules, formats)
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
            if not self.tally.samples:
                return None
            if not identify_all and self.tally.has_repeated_files:
                raise _SeveralNamesError
            self.older = None  # Windows replaces no file that is mapped
            return partial.publish()

    def _build_block(
        self, partial: Partial, block: Block, resumables: list[Resumable]
    ) -> _BuiltBlock:
        """Build the items of a block that cannot be resumed; write their pixels."""
        resumed = []
        for resumable in resumables:
            valid = self.item_builder.resume(block, partial, resumable)
            if valid:
                resumed.append(resumable.pick(valid))
        built = self.item_builder.build(block, partial.pixels, self.older)
        return _BuiltBlock(block, built, resumed)

    def _record(self, partial: Partial, result: _BuiltBlock) -> None:
        """Add the items of a block to the journal and to the report."""
        block, built, resumed = result
        self.tally.add_rejects(block)
        self.tally.add_rejected_images(block, built.items)
        if len(built.items):
            partial.add(block.items[built.items], built.records)
        reused = int(built.is_reused.sum())
        self.tally.add(block, built.items, built.records, reused)
        for some in resumed:
            partial.add_resumed(block.items[some.items], some)
            self.tally.add(block, some.items, some.records, len(some.items))

    def find_copies(self) -> tuple[tuple[str, ...], ...]:
        """Return `BuildReport.copies`, after the build."""
        if self.older is not None:  # then it is up to date, and nothing was built
            return find_copies(self.older.store)
        return self.tally.find_copies(self.target)

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
        options = self.item_builder.classes, self.options, software_of(False)
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
                self.tally.add_older(block, done, store, found[done])
                self.tally.add_rejects(block)
                older.store.release()
                advance(len(block))
        if identities and not identify_all and have_repeats(identities):
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


class _SeveralNamesError(Exception):
    """Two items of a plan may be the same frame of one file, under several names."""
