"""Links to store: the only room that sees images, contours and the store together."""

import warnings
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from fastseg import __version__
from fastseg.dicom import MAX_PIXEL_BYTES
from fastseg.errors import (
    BuildError,
    NothingBuiltError,
    RejectedWarning,
    StoreError,
    whole_number,
)
from fastseg.links import LinkTable, Paths, Reject, StrPath, save_rejects
from fastseg.making import Maker
from fastseg.planning import Planned, Refusal, plan_build
from fastseg.progress import Progress, in_order, silent
from fastseg.raster import Rules
from fastseg.store import compression, layout
from fastseg.store.packed import CompressedPartial
from fastseg.store.partial import Partial, Work, remove_work, sole_builder
from fastseg.store.reader import open_store
from fastseg.store.records import Record, unpack_facts
from fastseg.store.reuse import Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What a build did.

    path      : the store
    samples   : how many it holds
    kept      : how many of them were taken from an earlier store under that name or
        from an interrupted build, because nothing of theirs has changed
    links     : how many contours were drawn
    rejects   : what was not used, as listed in `<path>.rejects.csv`
    off_image : contour files whose contour covers no pixel of its image
    fingerprint : the store's
    """

    path: Path
    samples: int
    kept: int
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
    workers: int = 1,
    max_pixel_bytes: int = MAX_PIXEL_BYTES,
    compress: bool = False,
    progress: Progress = silent,
) -> BuildReport:
    """Read all linked images and contours and write them into a store.

    links  : a table, or the path of one
    output : the store; one that is there already is replaced when the new one is
        complete, and left alone if nothing has changed
    edges, fill, origin : what belongs to a region, see `raster.Rules`
    workers : threads that share the work; the bytes of the store do not depend on it.
        More than one pays where files are slow to come by, as from a network: with
        small files in the page cache, threads wait for one another in Python
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
    workers = whole_number("workers", workers, 1)
    max_pixel_bytes = whole_number("max_pixel_bytes", max_pixel_bytes, 1)
    if compress:
        compression.require("building a compressed store")
    table = links if isinstance(links, LinkTable) else LinkTable.load(links)
    target = Path(output)
    if len(table.classes) > layout.MAX_CLASSES:
        raise BuildError(
            f"the links have {len(table.classes)} classes, a store holds at most "
            f"{layout.MAX_CLASSES}; link fewer labels"
        )
    with sole_builder(target):
        work = _Build(
            table, target, rules, workers, max_pixel_bytes, compress, progress
        )
        fingerprint = work.run()
    rejects = tuple(dict.fromkeys(work.rejects))
    listed = save_rejects(output, rejects)
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
        kept=work.kept,
        links=work.drawn,
        rejects=rejects,
        off_image=tuple(work.off_image),
        fingerprint=fingerprint,
    )


class _Outcome(NamedTuple):
    """What became of an item: a record of what is stored, None if nothing is."""

    record: Record | None
    rejects: list[Reject]
    kept: bool = False


class _Build:
    """One build. Its workers share it; `_make` and what it calls change nothing."""

    def __init__(
        self,
        table: LinkTable,
        target: Path,
        rules: Rules,
        workers: int,
        max_pixel_bytes: int,
        compress: bool,
        progress: Progress,
    ):
        self.table, self.target = table, target
        self.workers, self.progress = workers, progress
        self.partial = CompressedPartial if compress else Partial
        self.options, self.versions = asdict(rules), _versions()
        zstd = {compression.NAME: compression.version()} if compress else {}
        self.software = {**self.versions, **zstd}
        paths = Paths(table.base)
        self.maker = Maker(paths, table.classes, rules, max_pixel_bytes)
        self.older = self._find_older()
        self.rejects = list(table.rejects)
        self.off_image: list[str] = []
        self.samples = self.kept = self.drawn = 0
        # Made by this build: what a second pass takes over was not there before.
        self.made: set[int] = set()

    def run(self) -> str | None:
        """Build, and return the fingerprint; None if there is nothing to build."""
        planned, rejects = plan_build(
            self.table,
            self.maker.paths,
            self.progress,
            self.workers,
            self.maker.max_pixel_bytes,
        )
        self.rejects += rejects
        if self.older is not None and self._is_up_to_date(self.older, planned):
            remove_work(self.target)
            self.samples = len(self.older.store)
            return self.older.store.fingerprint
        # A header may promise more than its file holds. What fails now is left out and
        # the store begun again; what is finished is taken over, not made again.
        while planned:
            with self.partial(
                self.target,
                buckets=[item.bucket for item in planned],
                links=[item.hash for item in planned],
                classes=self.maker.classes,
                options=self.options,
                software=self.software,
            ) as partial:
                failed = self._fill(partial, planned)
                if not failed:
                    self.older = None  # Windows replaces no file that is mapped
                    self.samples = len(planned)
                    return partial.publish()
            planned = [item for k, item in enumerate(planned) if k not in failed]
        remove_work(self.target)
        return None

    def _fill(self, partial: Partial, planned: list[Planned]) -> set[int]:
        """Make all items; return the places of those that cannot be made."""
        self.off_image, self.kept, self.drawn = [], 0, 0
        failed = set()

        def make(task: tuple[int, tuple[Work, Record] | None]) -> _Outcome:
            k, left = task
            return self._make(partial, k, planned[k], left)

        # Only this thread reads and writes the journal.
        tasks = ((k, partial.kept(k)) for k in range(len(planned)))
        with closing(in_order(make, tasks, self.workers)) as outcomes:
            told = self.progress(outcomes, "build", len(planned))
            for k, outcome in enumerate(told):
                self.rejects += outcome.rejects
                if outcome.record is None:
                    failed.add(k)
                else:
                    partial.add(k, outcome.record)
                    if not outcome.kept:
                        self.made.add(planned[k].hash)
                    self.kept += planned[k].hash not in self.made
                    if outcome.record.rings:
                        (facts,) = unpack_facts([outcome.record], self.maker.classes)
                        self._count(planned[k], facts["labelled"], facts["pixels"])
        return failed

    def _make(
        self, partial: Partial, k: int, item: Planned, left: tuple[Work, Record] | None
    ) -> _Outcome:
        """Put an item into the file, from earlier work if that will do."""
        if left is not None and left[1].stamps == self.maker.stamps(item):
            taken = partial.take(k, *left)
            if taken is not None:
                return _Outcome(record=taken, rejects=[], kept=True)
        try:
            material = self.maker.read(item)
            index = self.older.find(material.hash, item.bucket) if self.older else None
            if self.older and index is not None:
                pixels = self.older.pixels(index)
                if pixels is not None:
                    record = self.older.record(
                        index,
                        links=0 if material.rejects else item.hash,
                        stamps=material.stamps,
                    )
                    record = record._replace(places=partial.write(k, *pixels))
                    return _Outcome(record=record, rejects=material.rejects, kept=True)
            image = self.maker.decode(item, material)
        except Refusal as exc:
            return _Outcome(record=None, rejects=exc.rejects)
        record, mask = self.maker.make(item, material, image)
        record = record._replace(places=partial.write(k, image.pixels, mask))
        return _Outcome(record=record, rejects=material.rejects)

    def _find_older(self) -> Finished | None:
        """Return the store that is to be replaced, if its items can be used again."""
        if self.target.is_dir():
            raise BuildError(f"{self.target}: is a folder, expected a store's name")
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
        older = Finished(store)
        return older if alike and older.is_sound() else None

    def _is_up_to_date(self, older: Finished, planned: list[Planned]) -> bool:
        """Return whether a build would give the same store again.

        Contents decide, so every file is read; nothing is written.
        """
        store = older.store
        made = store.compression, store.software
        if made != (self.partial.compression, self.software):
            return False
        found, rejects = [], []

        def look(item: Planned) -> tuple[int | None, list[Reject]]:
            try:
                material = self.maker.read(item)
                index = older.find(material.hash, item.bucket)
                if index is None:  # it is new, unless it cannot be used anyway
                    self.maker.decode(item, material)
                return index, material.rejects
            except Refusal as exc:
                return -1, exc.rejects

        with closing(in_order(look, planned, self.workers)) as looks:
            told = self.progress(looks, "compare", len(planned))
            for item, (index, rejected) in zip(planned, told, strict=False):
                if index is None:
                    return False
                if index >= 0:
                    found.append(index)
                    items = older.store.items
                    labelled, pixels = items["labelled"][index], items["pixels"][index]
                    self.kept += 1
                    self._count(item, labelled, pixels)
                rejects += rejected
        if found != list(range(len(older.store))):
            return False
        self.rejects += rejects
        return True

    def _count(self, item: Planned, labelled: Any, pixels: Any) -> None:
        """Count the contours of an item of the store for the report."""
        bits = int(labelled)
        if not bits:
            return
        files = {link.label: link.contour_path for link in item.links}
        for bit, name in enumerate(self.maker.classes):
            if bits >> bit & 1:
                self.drawn += 1
                if not pixels[bit]:
                    self.off_image.append(files[name])


def _versions() -> dict[str, str]:
    packages = ("h5py", "numpy", "pydicom")
    return {"fastseg": __version__, **{name: version(name) for name in packages}}
