"""Links to store: the only room that sees images, contours and the store together."""

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
    whole_number,
)
from fastseg.files import name_folder
from fastseg.ingest.fast_path import FastPath
from fastseg.ingest.images import Images
from fastseg.ingest.item import ItemMaker
from fastseg.ingest.plan import Block, ItemRejected, Plan, PlannedItem, plan_build
from fastseg.links import (
    Link,
    LinkTable,
    Paths,
    Reject,
    StrPath,
    read_links,
    save_rejects,
)
from fastseg.progress import Progress, silent
from fastseg.raster.rules import Rules
from fastseg.store import compression, layout
from fastseg.store.reader import open_store
from fastseg.store.writing.compressed import CompressedPartial
from fastseg.store.writing.older_store import OlderStore
from fastseg.store.writing.partial import Partial, remove_work, sole_builder
from fastseg.store.writing.pixel_file import PixelFile
from fastseg.store.writing.records import Record, Records, gather, join
from fastseg.threads import map_ordered


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What a build did.

    path      : the store
    samples   : how many it holds
    reused    : how many of them were in an earlier store under that name, or finished
        in an interrupted build, and are unchanged
    links     : how many contours were drawn
    rejects   : what was not used, as listed in `<path>.rejects.csv`
    off_image : contour files whose contour covers no pixel of its image
    fingerprint : the store's
    """

    path: Path
    samples: int
    reused: int
    links: int
    rejects: tuple[Reject, ...]
    off_image: tuple[str, ...]
    fingerprint: str


def build(
    links: LinkTable | StrPath,
    output: StrPath,
    *,
    edges: str = "half-open",
    fill: str = "even-odd",
    origin: str = "center",
    threads: int = 1,
    max_pixel_bytes: int = MAX_PIXEL_BYTES,
    compress: bool = False,
    progress: Progress = silent,
) -> BuildReport:
    """Read all linked images and contours and write them into a store.

    links  : a table, or the path of one; samples stand in the order of a table, and a
        file is sorted as `link` sorts
    output : the store; one that is there already is replaced when the new one is
        complete, and left alone if nothing has changed
    edges, fill, origin : what belongs to a region, see `raster.rules.Rules`
    threads : how many share the work; the bytes of the store do not depend on it
    max_pixel_bytes : an image file whose header promises more, all frames together,
        is rejected before anything is allocated
    compress : compress images and masks, which readers of the store then decompress:
        fewer bytes, the same content and the same fingerprint

    A build that was interrupted goes on where it stopped when it is called again, and
    one that is repeated makes anew only what has changed. What cannot be used is left
    out, listed in `<output>.rejects.csv` and told by a RejectedWarning; the rest is
    built. Raises NothingBuiltError where nothing is left, BuildError where the target
    may not be replaced or somebody else is building it, LinkError for a malformed
    table, MissingExtraError, OptionError, OSError.
    """
    rules = Rules(edges=edges, fill=fill, origin=origin)
    threads = whole_number("threads", threads, 1)
    max_pixel_bytes = whole_number("max_pixel_bytes", max_pixel_bytes, 1)
    if compress:
        compression.require("building a compressed store")
    target = Path(output)
    if not target.name or (target.exists() and not target.is_file()):
        is_folder = not target.name or target.is_dir()
        found = "a folder" if is_folder else "no regular file"
        raise BuildError(f"{target}: is {found}, expected a store's name")
    if not isinstance(links, LinkTable):
        next(read_links(links, []), None)  # what is no table is told before all else
    with sole_builder(target), name_folder(target.parent):
        if isinstance(links, LinkTable):
            images = Images.of_table(links)
        else:
            images = Images.of_file(links, target.parent, progress)
        layout.check_classes(images.classes)
        work = _Build(
            images, target, rules, threads, max_pixel_bytes, compress, progress
        )
        fingerprint = work.run()
    rejects = tuple(dict.fromkeys(work.rejects))
    listed = save_rejects(target, rejects)
    if fingerprint is None:
        raise NothingBuiltError(
            f"nothing to build: {len(rejects)} rejected, see {listed}"
            if rejects
            else "nothing to build: the table has no links",
            rejects,
        )
    if rejects:
        warnings.warn(
            f"{len(rejects)} links or files were rejected, see {listed}",
            RejectedWarning,
            stacklevel=2,
        )
    return BuildReport(
        path=target,
        samples=work.samples,
        reused=work.kept,
        links=work.drawn,
        rejects=rejects,
        off_image=tuple(work.off_image),
        fingerprint=fingerprint,
    )


@dataclass(slots=True)
class _Share:
    """A part of the plan, and what became of it; items are counted from 0.

    left    : what an interrupted build has left of some of them
    made    : which of them are in the file, in their order
    records : of these, in their order
    kept    : which of them were there already, unchanged
    rejects : of all, by item
    """

    part: Block
    left: dict[int, tuple[PixelFile, Record]]
    made: list[int] = field(default_factory=list)
    records: Records | None = None
    kept: set[int] = field(default_factory=set)
    rejects: dict[int, list[Reject]] = field(default_factory=dict)


class _Build:
    """One build. Its threads share it; `_make` changes nothing but the share's own."""

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
        self.images, self.target = images, target
        self.threads, self.progress = threads, progress
        self.partial = CompressedPartial if compress else Partial
        self.options, self.versions = asdict(rules), _versions()
        zstd = {compression.NAME: compression.version()} if compress else {}
        self.software = {**self.versions, **zstd}
        paths = Paths(images.base)
        self.maker = ItemMaker(paths, images.classes, rules, max_pixel_bytes)
        self.older = self._find_older()
        self.rejects = list(images.rejects)
        self.off_image: list[str] = []
        self.samples = self.kept = self.drawn = 0
        # Made by this build: what a second pass takes over was not there before.
        self.fresh = np.zeros(0, np.bool_)

    def run(self) -> str | None:
        """Build, and return the fingerprint; None if there is nothing to build."""
        plan, rejects = plan_build(
            self.images,
            self.maker.paths,
            self.target.parent,
            self.progress,
            self.threads,
            self.maker.max_pixel_bytes,
        )
        self.rejects += rejects
        if self.older is not None and self._is_up_to_date(self.older, plan):
            remove_work(self.target)
            self.samples = len(self.older.store)
            return self.older.store.fingerprint
        # A header may promise more than its file holds. What fails now is left out and
        # the store begun again; what is finished is taken over, not made again.
        self.fresh = np.zeros(len(plan), np.bool_)
        while len(plan):
            with self.partial(
                self.target,
                buckets=plan.buckets,
                parts=plan.slots,
                classes=self.maker.classes,
                options=self.options,
                software=self.software,
            ) as partial:
                failed = self._fill(partial, plan)
                if not failed:
                    self.older = None  # Windows replaces no file that is mapped
                    self.samples = len(plan)
                    return partial.publish()
            plan = plan.without(failed)
            self.fresh = np.delete(self.fresh, list(failed))
        remove_work(self.target)
        return None

    def _fill(self, partial: Partial, plan: Plan) -> set[int]:
        """Make all items; return the places of those that cannot be made."""
        self.off_image, self.kept, self.drawn = [], 0, 0
        failed = set()
        bulk = FastPath(self.maker)

        def make(share: _Share) -> _Share:
            self._make(partial, bulk, share)
            return share

        # Only this thread reads and writes the journal.
        shares = (_Share(part, partial.resumable(part.slots)) for part in plan.parts())
        with closing(map_ordered(make, shares, self.threads)) as done:
            each = ((share, k) for share in done for k in range(len(share.part)))
            share, passed = None, -1
            try:
                for share, passed in self.progress(each, "build", len(plan)):
                    if passed not in share.made:
                        failed.add(share.part.first + passed)
                    if passed == len(share.part) - 1:
                        self._note(partial, share, passed)
                        if self.older is not None:
                            self.older.store.release()
            except BaseException:
                if share is not None and passed != len(share.part) - 1:
                    self._note(partial, share, passed)
                raise
        return failed

    def _note(self, partial: Partial, share: _Share, last: int) -> None:
        """Put into the journal and the report what became of a share, up to an item."""
        for k, rejects in share.rejects.items():
            if k <= last:
                self.rejects += rejects
        made, records = [k for k in share.made if k <= last], share.records
        if records is None or not made:
            return
        if len(made) < records.items:
            records = records.pick(range(len(made)))
        partial.add(share.part.slots.pick(made), records)
        first = share.part.first
        self.fresh[[first + k for k in made if k not in share.kept]] = True
        self.kept += len(made) - int(self.fresh[[first + k for k in made]].sum())
        for j in np.flatnonzero(records.meta["labelled"]).tolist():
            meta = records.meta[j]
            self._count(share.part.links[made[j]], meta["labelled"], meta["pixels"])

    def _make(self, partial: Partial, bulk: FastPath, share: _Share) -> None:
        """Put a share's items into the file."""
        # What an interrupted build has left is compared one by one.
        everything = range(len(share.part))
        fresh = [k for k in everything if k not in share.left]
        done, records = bulk.make(share.part, fresh, partial)
        if self.older is not None and records is not None:
            # To make them again takes no longer than to copy them.
            buckets = [partial.bucket(share.part.slots, k) for k in done]
            found = self.older.find(records.meta["inputs_xxh3"].tolist(), buckets)
            share.kept.update(np.array(done)[found >= 0].tolist())
        singles: list[Record] = []
        made = done.copy()
        for k in sorted({*everything}.difference(done)):
            try:
                singles.append(self._make_one(partial, k, share))
                made.append(k)
            except ItemRejected as exc:
                share.rejects[k] = exc.rejects
        if singles:
            more = gather(singles, self.maker.classes)
            records = more if records is None else join([records, more])
        share.made = sorted(made)
        if records is not None:
            map_ordered = share.made == made
            share.records = records if map_ordered else records.pick(np.argsort(made))

    def _make_one(self, partial: Partial, k: int, share: _Share) -> Record:
        """Put an item into the file, from earlier work if that will do."""
        item, left, slots = share.part[k], share.left.get(k), share.part.slots
        if left is not None and left[1].stamps == self.maker.stamps(item):
            taken = partial.resume(slots, k, *left)
            if taken is not None:
                share.kept.add(k)
                return taken
        material = self.maker.read(item)
        if material.rejects:
            share.rejects[k] = material.rejects
        if self.older:
            (index,) = self.older.find([material.hash], [item.bucket])
            pixels = self.older.pixels(index) if index >= 0 else None
            if pixels is not None:
                share.kept.add(k)
                record = self.older.record(
                    index,
                    links=0 if material.rejects else item.hash,
                    stamps=material.stamps,
                )
                return record._replace(offsets=partial.write(slots, k, *pixels))
        image = self.maker.decode(item, material)
        record, mask = self.maker.make(item, material, image)
        return record._replace(offsets=partial.write(slots, k, image.pixels, mask))

    def _find_older(self) -> OlderStore | None:
        """Return the store that is to be replaced, if its items can be used again."""
        if not self.target.exists():
            return None
        try:
            store = open_store(self.target)
        except StoreError as exc:
            raise BuildError(
                f"{self.target}: exists and is no sound store ({exc}); remove it or "
                "choose another name"
            ) from None
        # Pixels are the same, whether compressed or not, and by which zstd.
        versions = {n: v for n, v in store.software.items() if n != compression.NAME}
        made = store.classes, store.options, versions
        alike = made == (self.maker.classes, self.options, self.versions)
        older = OlderStore(store)
        return older if alike and older.is_valid() else None

    def _is_up_to_date(self, older: OlderStore, plan: Plan) -> bool:
        """Return whether a build would give the same store again.

        Contents decide, so every file is read; nothing is written.
        """
        store, rejects = older.store, []
        made = store.compression, store.software
        if made != (self.partial.compression, self.software):
            return False
        with closing(compare(older, plan, self.maker, self.threads)) as items:
            for links, place, rejected in self.progress(items, "compare", len(plan)):
                rejects += rejected
                if place is None:  # it cannot be used, so it is not in the store
                    continue
                if place < 0 or self.kept == len(store):
                    return False
                if not older.same_inputs(place, self.kept):
                    return False
                self.kept += 1
                meta = [store.items[name][place] for name in ("labelled", "pixels")]
                self._count(links, *meta)
        if self.kept != len(store):
            return False
        self.rejects += rejects
        return True

    def _count(self, links: Sequence[Link], labelled: Any, pixels: Any) -> None:
        """Count the contours of an item of the store for the report."""
        bits = int(labelled)
        if not bits:
            return
        files = {link.label: link.contour_path for link in links}
        for bit, name in enumerate(self.maker.classes):
            if bits >> bit & 1:
                self.drawn += 1
                if not pixels[bit]:
                    self.off_image.append(files[name])


class Seen(NamedTuple):
    """An item beside an older store: its place there, -1 if new, None if unusable."""

    links: Sequence[Link]
    place: int | None
    rejects: list[Reject]


def compare(
    older: OlderStore, plan: Plan, maker: ItemMaker, threads: int
) -> Generator[Seen, None, None]:
    """Yield what an older store has of each item, in the order of the plan.

    Contents decide, so every file is read.
    """
    bulk = FastPath(maker)

    def look(part: Block) -> list[Seen]:
        known = bulk.digests(part)
        buckets = [part.buckets[part.slots.bucket[k]] for k in known]
        found = older.find(list(known.values()), buckets).tolist()
        seen = {
            k: Seen(part.links[k], place, [])
            for k, place in zip(known, found, strict=True)
            if place >= 0
        }
        older.store.release()
        return [seen.get(k) or _see(older, part[k], maker) for k in range(len(part))]

    with closing(map_ordered(look, plan.parts(), threads)) as parts:
        for part in parts:
            yield from part


def _see(older: OlderStore, item: PlannedItem, maker: ItemMaker) -> Seen:
    try:
        material = maker.read(item)
        (index,) = older.find([material.hash], [item.bucket]).tolist()
        if index < 0:  # it is new, unless it cannot be used anyway
            maker.decode(item, material)
        return Seen(item.links, index, material.rejects)
    except ItemRejected as exc:
        return Seen(item.links, None, exc.rejects)


@cache
def _versions() -> dict[str, str]:
    packages = ("h5py", "numpy", "pydicom")
    return {"fastseg": __version__, **{name: version(name) for name in packages}}
