"""Builds by parts: `plan_parts`, `build_part`, `finish_parts`, on any machines.

plan_parts ──> folder ──> build_part, on many machines ──> journals ──> finish_parts

A block of a build depends on its plan and its files alone, and the offsets of its
pixels are planned. So parts may be made in any order, several times, and at the same
time; the store has the bytes that `build` gives it.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastseg.bounds import MAX_DECODE_SECONDS, MAX_PIXEL_BYTES
from fastseg.calls import check_call
from fastseg.choices import Edges, Fill, Origin, Severity
from fastseg.codecs.pool import Pool
from fastseg.errors import (
    NothingBuiltError,
    OptionError,
    OutputError,
    PlanError,
    shown,
    true_or_false,
)
from fastseg.files import name_path
from fastseg.ingest.block import Block
from fastseg.ingest.images import ImageReader
from fastseg.ingest.items import ItemBuilder
from fastseg.ingest.part_journal import (
    CHUNKS,
    Journals,
    JournalWriter,
    Made,
    MadeRecords,
)
from fastseg.ingest.plan import plan_build
from fastseg.ingest.plan_folder import PlanFolder, folder_of, remove_plan, write_plan
from fastseg.ingest.report import BuildReport, Tally, warn_of
from fastseg.ingest.request import BuildOptions, Request, check_request, prepare_kernels
from fastseg.links import LinkTable
from fastseg.outputs import permissions_of
from fastseg.paths import Paths, StrPath, as_path
from fastseg.progress import Progress, silent
from fastseg.reprs import many
from fastseg.store.writing.partial import (
    beside,
    remove_work,
    replace_target,
    sole_builder,
    write_store,
)
from fastseg.store.writing.pixel_file import PixelFile
from fastseg.store.writing.pixel_writers import ChunkWriter, PixelWriter, PlannedWriter
from fastseg.store.writing.records import Slots
from fastseg.store.writing.shared_pixels import SharedWriter, write_edges
from fastseg.tables import save_rejects
from fastseg.threads import check_threads, frequent_switches, map_ordered

# After so many bytes of pixels, a part waits for the disk and notes what is done.
NOTED_BYTES = 2**28
# Blocks that an error names.
MOST_NAMED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """What `build_part` did.

    plan     : folder of the plan
    part     : as it was asked for, as in "3/64"
    blocks   : number of its blocks
    made     : number of these that this call has made; the others were made before
    samples  : number of samples in those that it has made
    rejected : number of images in these that could not be used
    """

    plan: Path
    part: str
    blocks: int
    made: int
    samples: int
    rejected: int


class SeveralNamesError(PlanError):
    """Two images of a plan are one file: it has to be planned anew."""


@check_call("plan_parts('links.csv', 'big.h5')")
def plan_parts(
    links: LinkTable | StrPath,
    output: StrPath,
    *,
    edges: Edges = "half-open",
    fill: Fill = "even-odd",
    origin: Origin = "center",
    max_pixel_bytes: int = MAX_PIXEL_BYTES,
    decode_timeout: float = MAX_DECODE_SECONDS,
    compress: bool = False,
    root: StrPath | None = None,
    without: StrPath | None = None,
    without_severity: Severity = "error",
    look_at_files: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> Path:
    """Plan a build by parts, and return the folder of the plan, `<output>.plan`.

    look_at_files : look at every file, to find images that have several names. By
        default, `finish_parts` finds them, when all parts are made

    The other arguments are those of `build`, and it raises what `build` does;
    OutputError also if the folder is there.
    """
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
    look_at_files = true_or_false("look_at_files", look_at_files)
    folder = folder_of(request.target)
    if folder.exists():
        raise OutputError(
            f"{folder}: is there already; finish that build, or remove the folder"
        )
    make_plan(request, progress, 1, look_at_files)
    return folder


def make_plan(
    request: Request, progress: Progress, threads: int, look_at_files: bool
) -> None:
    """Plan a build, and write the plan beside the store.

    Raises NothingBuiltError if no image can be built, OutputError if there is a plan.
    """
    plan, rejects = plan_build(
        request.table,
        Paths(request.table.base),
        request.options.max_pixel_bytes,
        request.options.compress,
        threads,
        progress,
        identify_all=look_at_files,
    )
    rejects = [*request.table.rejects, *rejects]
    if not len(plan):
        rejects_file = save_rejects(request.output, rejects, request.options.force)
        raise NothingBuiltError(
            f"nothing to build: {len(rejects)} rejected, see {rejects_file}",
            tuple(rejects),
        )
    write_plan(folder_of(request.target), request, plan, rejects, progress)


@check_call("build_part('big.h5.plan', '3/64')")
def build_part(
    plan: StrPath, part: str, *, threads: int = 1, progress: Progress = silent
) -> PartReport:
    """Make a part of a planned build.

    plan    : folder that `plan_parts` has made
    part    : which part of how many, from 1, as in "3/64"; the number may differ from
        call to call
    threads : number of threads

    Blocks that somebody has made are left as they are. It may be interrupted and called
    again, also while another machine makes the same part. Raises OptionError for a part
    that there is none, PlanError if the folder is no plan, is damaged, or was made with
    other packages, and OSError.
    """
    folder = PlanFolder(as_path("plan", plan))
    first, stop = blocks_of(part, folder.blocks)
    threads = check_threads(threads)
    folder.check_software()
    journals = Journals(folder.journals, folder.identity, folder.classes, (first, stop))
    with closing(journals):
        todo = {k for k in range(first, stop) if not journals.is_made(k)}
    samples = rejected = 0
    if todo:
        paths = Paths(folder.base)
        with (
            _hint("make the same part again"),
            name_path(folder.path),
            Pool() as decoders,
        ):
            images = ImageReader(
                paths,
                decoders,
                max_pixel_bytes=folder.max_pixel_bytes,
                decode_timeout=folder.decode_timeout,
            )
            builder = ItemBuilder(paths, folder.classes, folder.rules, images)
            buckets = [bucket for bucket, _ in folder.counts]
            prepare_kernels(buckets, folder.classes, folder.rules, folder.formats)
            is_new = not journals.has_begun(first, stop)
            journal = JournalWriter(
                *(folder.journals, folder.identity, part, first, stop)
            )
            work = _Part(folder, builder, decoders, journal, is_new)
            with closing(work):
                samples, rejected = work.run(first, stop, todo, threads, progress)
    return PartReport(
        plan=folder.path,
        part=part,
        blocks=stop - first,
        made=len(todo),
        samples=samples,
        rejected=rejected,
    )


@contextmanager
def _hint(remedy: str) -> Iterator[None]:
    """Add a note to what the system raises, as when a disk is full."""
    try:
        yield
    except OutputError:
        raise
    except OSError as exc:
        exc.add_note(f"what is made is kept: when you can write there, {remedy}")
        raise


def blocks_of(part: Any, blocks: int) -> tuple[int, int]:
    """Return the first block of a part and the one behind its last."""
    match = (
        re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", part)
        if isinstance(part, str)
        else None
    )
    if not match:
        raise OptionError(
            f"part is {shown(part)}, expected which part of how many, as in 3/64"
        )
    number, count = int(match[1]), int(match[2])
    if not 1 <= number <= count:
        raise OptionError(
            f"part is {part}, expected one from 1/{count} to {count}/{count}"
        )
    return blocks * (number - 1) // count, blocks * number // count


class _BuiltBlock(NamedTuple):
    """A block that was made, and its number."""

    number: int
    size: int
    made: Made


class _Part:
    """One call of `build_part`. Threads run `_build`."""

    def __init__(
        self,
        folder: PlanFolder,
        builder: ItemBuilder,
        decoders: Pool,
        journal: JournalWriter,
        is_new: bool,
    ):
        self.folder = folder
        self.builder = builder
        self.decoders = decoders
        self.journal = journal
        self.is_new = is_new
        self.chunks: ChunkWriter | None = None
        if folder.compress:
            self.file = PixelFile(journal.path.with_suffix(CHUNKS))
            self.chunks = ChunkWriter(folder.shape)
            self.chunks.open(self.file, True, 0)
        else:
            self.file = PixelFile(folder.pixels)

    def close(self) -> None:
        """Close all files."""
        self.file.close()
        self.journal.close()

    def run(
        self, first: int, stop: int, todo: set[int], threads: int, progress: Progress
    ) -> tuple[int, int]:
        """Make blocks, and return how many samples they have, and rejected images."""
        samples = rejected = written = 0
        waiting: list[_BuiltBlock] = []

        def blocks() -> Iterator[tuple[int, Block]]:
            for number, block in enumerate(self.folder.read_blocks(first, stop), first):
                if number in todo:
                    yield number, block

        with (
            frequent_switches(threads),
            progress("build", len(todo)) as advance,
            closing(
                map_ordered(self._build, blocks(), threads, self.decoders.stop)
            ) as results,
            closing(results),
        ):
            for built in results:
                waiting.append(built)
                samples += len(built.made.items)
                rejected += built.size - len(built.made.items)
                written += int(built.made.records.offsets[:, 2:].sum())
                if written >= NOTED_BYTES:
                    self._note(waiting)
                    written = 0
                advance()
            self._note(waiting)
        return samples, rejected

    def _build(self, todo: tuple[int, Block]) -> _BuiltBlock:
        """Make a block; its pixels are written, and it is not noted."""
        number, block = todo
        edges: Sequence[tuple[int, bytes]] = ()
        if self.chunks is not None:
            built = self.builder.build(block, self.chunks, None)
        else:
            assert self.folder.offsets is not None
            pixels = SharedWriter(
                *(self.folder.offsets, self.folder.shape, block.slots, self.file),
                is_new=self.is_new,
            )
            built = self.builder.build(block, pixels, None)
            edges = [(offset, bytes(data)) for offset, data in pixels.edges.items()]
        made = Made(built.items, built.records, block.rejects, edges)
        return _BuiltBlock(number, len(block), made)

    def _note(self, waiting: list[_BuiltBlock]) -> None:
        """Append blocks to the journal, once their pixels are on the disk."""
        if waiting:
            self.file.sync()
            for built in waiting:
                self.journal.append(built.number, built.made)
            self.journal.flush()
            waiting.clear()


@check_call("finish_parts('big.h5.plan')")
def finish_parts(plan: StrPath, *, progress: Progress = silent) -> BuildReport:
    """Join the parts of a planned build to the store, and remove the folder.

    What could not be used is listed in `<store>.rejects.csv`, and warned of, as `build`
    does. Raises PlanError if parts are missing, and names them; if two images are one
    file, and says how to plan; or if the folder is no plan or is damaged.
    NothingBuiltError if no sample remains; OutputError, OSError.
    """
    folder = PlanFolder(as_path("plan", plan))
    with sole_builder(folder.store):
        report, rejects_file = finish_plan(folder, folder.store, folder.force, progress)
    warn_of(report.rejects, rejects_file, report.copies, stacklevel=3)
    return report


def finish_plan(
    folder: PlanFolder, output: Path, force: bool, progress: Progress
) -> tuple[BuildReport, Path | None]:
    """Do what `finish_parts` does, for a caller that is the sole builder of the store.

    output : the list of rejects lies beside it
    force  : replace any file

    Returns the path of the list of rejects, too, and does not warn of them. Raises
    SeveralNamesError if two images are one file.
    """
    folder.check_software()
    folder.check_index()
    with _hint("call it again"), name_path(folder.path):
        if not folder.path.is_dir():
            raise PlanError(f"{folder.path}: somebody else has finished this build")
        journals = Journals(folder.journals, folder.identity, folder.classes)
        with closing(journals):
            missing = journals.missing(folder.blocks)
            if missing:
                raise _missing(folder, journals, missing)
            report, rejects = _join(folder, journals, force, progress)
    rejects_file = save_rejects(output, rejects, force)
    if report is None:
        raise NothingBuiltError(
            f"nothing to build: {len(rejects)} rejected, see {rejects_file}",
            tuple(rejects),
        )
    return report, rejects_file


def _join(
    folder: PlanFolder, journals: Journals, force: bool, progress: Progress
) -> tuple[BuildReport | None, list[Any]]:
    """Write the store; return the report, None if nothing is in it, and the rejects."""
    slots = Slots(
        np.zeros(folder.count, np.uint64),
        np.zeros(folder.count, np.int64),
        np.zeros(folder.count, np.int64),
    )
    numbers = np.full(folder.count, -1)
    tally = Tally(folder.classes, Paths(folder.base))
    shape = folder.shape
    joined = MadeRecords(journals)
    file: Any = journals.chunks() if folder.compress else PixelFile(folder.pixels)
    damaged = []
    with closing(file):
        with progress("join", folder.count) as advance:
            for k, block in enumerate(folder.read_blocks(0, folder.blocks)):
                made = journals.read(k)
                advance(len(block))
                for column, values in zip(slots, block.slots, strict=True):
                    column[block.items] = values
                if made is None:
                    damaged.append(k)
                    continue
                block.rejects = made.rejects
                tally.add_rejects(block)
                tally.add_rejected_images(block, made.items)
                tally.add(block, made.items, made.records, 0)
                if len(made.items):
                    numbers[block.items[made.items]] = joined.add(k, made.records)
                if not folder.compress:
                    write_edges(file, made.edges)
        if damaged:
            raise _missing(folder, journals, damaged)
        if tally.has_repeated_files:
            raise SeveralNamesError(
                f"{folder.path}: two images are one file under several names; remove "
                "the folder, and plan the build with look_at_files=True "
                "(--look-at-files)"
            )
        rejects = list(dict.fromkeys([*folder.rejects(), *tally.rejects()]))
        if not tally.samples:
            journals.close()  # Windows removes no file that is open
            remove_plan(folder.path)
            return None, rejects
        pixels: PixelWriter
        if folder.compress:
            pixels = ChunkWriter(shape)
        else:
            assert folder.offsets is not None
            pixels = PlannedWriter(folder.offsets, shape, slots)
        pixels.open(file, False, 0)
        complete, fingerprint = write_store(
            beside(folder.store, ".partial.index"),
            *(pixels, shape, slots, numbers, joined),
            *(asdict(folder.rules), folder.software),
        )
    journals.close()
    # Those that any new file gets.
    permissions = permissions_of(folder.path / "plan.json")
    replace_target(folder.store, complete, force, permissions)
    remove_work(folder.store)
    remove_plan(folder.path)
    report = tally.report(
        folder.store,
        planned=folder.count,
        left_out=folder.left_out,
        rejects=tuple(rejects),
        outer_roots=folder.outer_roots,
        copies=tally.find_copies(folder.store),
        fingerprint=fingerprint,
    )
    return report, rejects


def _missing(folder: PlanFolder, journals: Journals, missing: list[int]) -> PlanError:
    """Return the error that names the parts that have to be made."""
    counts = {int(part.split("/")[1]) for part in journals.parts}
    count = max(counts, default=1)
    parts = [
        number
        for number in range(1, count + 1)
        for first, stop in [blocks_of(f"{number}/{count}", folder.blocks)]
        if any(first <= block < stop for block in missing)
    ]
    named = ", ".join(f"{number}/{count}" for number in parts[:MOST_NAMED])
    more = f" and {len(parts) - MOST_NAMED} more" if len(parts) > MOST_NAMED else ""
    return PlanError(
        f"{folder.path}: {many(len(missing), 'block')} of {folder.blocks} "
        f"{'is' if len(missing) == 1 else 'are'} not made; make the parts {named}{more}"
    )
