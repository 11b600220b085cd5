"""An unfinished store: its files, which lie beside the target `<name>`.

    <name>.partial          pixels, at the offsets that they will have in the store; for
                            a compressed store, chunks in any order
    <name>.partial.journal  the records of finished items, see `journal`
    <name>.partial.old, <name>.partial.old.journal
                            the same of an interrupted build of other items, from which
                            this build copies the items that it needs
    <name>.partial.index    the file that HDF5 writes, for a moment at the start and at
                            the end, see `hdf5_index`
    <name>.partial.lock     locked while a process builds the store

All are opened by `outputs`: never through a symbolic link, and never if they have other
names or belong to somebody else. Only `<name>.partial` has the permissions of the
store; the others are private.

The target is absent, or is the older store, until the last step renames the finished
file. A crash may damage all other files: an item counts as finished only if its record
is complete and its pixels have the checksums in the record.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fastseg.errors import BuildError
from fastseg.outputs import (
    Permissions,
    check_target,
    check_work,
    open_work,
    permissions_of,
    permit,
)
from fastseg.store import compression, layout
from fastseg.store.layout import Bucket
from fastseg.store.writing.hdf5_index import (
    Content,
    FinishedItems,
    StoreShape,
    reserve_pixels,
)
from fastseg.store.writing.journal import Frames, Journal
from fastseg.store.writing.older_store import STORE
from fastseg.store.writing.pixel_file import PixelFile
from fastseg.store.writing.pixel_writers import ChunkWriter, PixelWriter, PlannedWriter
from fastseg.store.writing.records import Records, Slots
from fastseg.store.writing.totals import Totals
from fastseg.store.writing.volumes import VolumeFinder

# A build does not resume from journals of other versions.
JOURNAL_VERSION = 5
# After this many bytes of images, the system is asked to begin to write to the disk.
WRITEBACK_BYTES = 2**22
# Columns are written in blocks of at least this many items.
ITEMS_AT_ONCE = 2048


@contextlib.contextmanager
def sole_builder(target: Path) -> Iterator[None]:
    """Lock a store for this build; raise BuildError if another process builds it.

    Raises OutputError if something else has the name of a working file. The system
    releases the lock when the process ends, however it ends.
    """
    path = beside(target, ".partial.lock")
    target.parent.mkdir(parents=True, exist_ok=True)
    check_work(path, owned=False)
    try:
        with FileLock(path, timeout=0):
            try:
                for other in _work(target):
                    check_work(other)
                yield
            finally:
                # Windows cannot remove an open file; that does no harm.
                with contextlib.suppress(PermissionError):
                    path.unlink(missing_ok=True)
    except Timeout:
        raise BuildError(
            f"{target}: is being built by somebody else; wait until that build ends or "
            "choose another name"
        ) from None


class Resumable(NamedTuple):
    """Items of a block that an interrupted build has finished.

    file    : that holds their pixels
    numbers : int64 (n,), of their records in the journal of this build; -1 if these are
        in another one
    items   : int64 (n,), indices in the block
    records : of these items
    """

    file: PixelFile
    numbers: NDArray[np.int64]
    items: NDArray[np.int64]
    records: Records

    def pick(self, some: list[int]) -> "Resumable":
        """Return some of the items."""
        return Resumable(
            self.file, self.numbers[some], self.items[some], self.records.pick(some)
        )


class Partial:
    """The files of an unfinished store, as a context manager.

    pixels : writes the pixels

    One thread calls `resumable`, `add` and `publish`; any thread may call `resume`, and
    the methods of `pixels`. Leaving the `with` block closes the files; they stay on the
    disk.
    """

    def __init__(
        self,
        target: Path,
        *,
        counts: Sequence[tuple[Bucket, int]],
        slots: Slots,
        classes: Sequence[str],
        options: Mapping[str, Any],
        software: Mapping[str, str],
        compress: bool,
        force: bool = False,
    ):
        """Begin a store, or continue where an earlier process stopped.

        counts : each bucket and how many items it has, sorted by name
        slots  : of all items, in their order
        force  : replace whatever is at the target, also if it is no store
        """
        self.target = target
        self._force = force
        self._permissions = permissions_of(target)
        self.options = options
        self.software = software
        self._slots = slots
        self._compression = compression.NAME if compress else ""
        self._classes = tuple(classes)
        self._counts = tuple(counts)
        self._index = beside(target, ".partial.index")
        # Number in the journal of the record of each item; -1 if it has none.
        self._numbers = np.full(len(slots.row), -1)
        self._image_bytes = np.array(
            [prod(bucket.shape) * bucket.dtype.itemsize for bucket, _ in counts]
        )
        self._new_bytes = 0
        # A build resumes only from files that were written by the same rules.
        rules = [list(classes), dict(options), dict(software), self._compression]
        versions = [layout.VERSION, JOURNAL_VERSION]
        self._rules = layout.canonical_json([*versions, *rules]).encode()
        shape = self._shape(counts)
        self.pixels: PixelWriter = (
            ChunkWriter(shape)
            if compress
            else PlannedWriter(reserve_pixels(self._index, shape), shape, slots)
        )
        # That of this build, then that of an interrupted one, if there is any.
        self._files: list[tuple[PixelFile, Journal]] = []
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "Partial":
        return self

    def __exit__(self, *_: object) -> None:
        for pixel_file, journal in self._files:
            pixel_file.close()
            journal.close()

    def bucket(self, number: int) -> Bucket:
        """Return a bucket by its index."""
        return self._counts[number][0]

    def resumable(self, slots: Slots) -> list[Resumable]:
        """Return what interrupted builds have finished of a block, for `resume`."""
        results = []
        is_left = np.ones(len(slots.row), np.bool_)
        for k, (pixel_file, journal) in enumerate(self._files):
            numbers = journal.resumable.find(slots.links)
            items = np.flatnonzero(is_left & (numbers >= 0))
            if len(items):
                is_left[items] = False
                records = journal.read(numbers[items])
                records = records._replace(offsets=records.offsets.copy())
                own = numbers[items] if k == 0 else np.full(len(items), -1)
                results.append(Resumable(pixel_file, own, items, records))
        return results

    def resume(self, slots: Slots, resumable: Resumable, j: int) -> bool:
        """Return whether the pixels of item j have the checksums of its record.

        If they are elsewhere, they are copied, and their new offsets are set in the
        record.
        """
        records = resumable.records
        slot = slots.pick(resumable.items[[j]])
        bucket = self.bucket(int(slot.bucket[0]))
        offsets = records.offsets[j].tolist()
        pixels = self.pixels.read(resumable.file, bucket, offsets)
        checksums = records.meta["image_xxh3"][j], records.meta["mask_xxh3"][j]
        if pixels is None or checksums != tuple(
            xxh3_64_intdigest(array.data) for array in pixels
        ):
            return False
        if resumable.numbers[j] < 0:
            image, mask = pixels
            records.offsets[j, ::2] = self.pixels.write_images(slot, [image])[0]
            records.offsets[j, 1::2] = self.pixels.write_masks(slot, {0: mask})[0]
        return True

    def add(self, items: NDArray[np.int64], records: Records) -> None:
        """Add the records of new items, whose pixels have been written.

        items : int64 (n,), indices in the plan
        """
        _, journal = self._files[0]
        self._numbers[items] = journal.append(records)
        self._new_bytes += int(self._image_bytes[self._slots.bucket[items]].sum())
        if self._new_bytes >= WRITEBACK_BYTES:
            self._new_bytes = 0
            self._files[0][0].start_writeback()

    def add_resumed(self, items: NDArray[np.int64], resumable: Resumable) -> None:
        """Add items that `resume` has found valid.

        items : int64 (n,), indices in the plan
        """
        if resumable.numbers[0] < 0:
            self.add(items, resumable.records)
        else:
            self._numbers[items] = resumable.numbers

    def publish(self) -> str:
        """Complete the file and rename it to the target; return its fingerprint.

        The store holds the items that were added; gaps of the others are closed.
        """
        _, journal = self._files[0]
        complete, fingerprint = write_store(
            self._index,
            self.pixels,
            self._shape(self._counts),
            self._slots,
            *(self._numbers, journal, self.options, self.software),
        )
        self.__exit__()
        replace_target(self.target, complete, self._force, self._permissions)
        remove_work(self.target)
        return fingerprint

    def _shape(self, counts: Sequence[tuple[Bucket, int]]) -> StoreShape:
        return StoreShape(
            classes=self._classes, counts=tuple(counts), compression=self._compression
        )

    def _open(self) -> None:
        path = beside(self.target, ".partial")
        old = beside(self.target, ".partial.old")
        journal = self._journal(path)
        numbers = journal.resumable.find(self._slots.links)
        known = np.flatnonzero(numbers >= 0)
        end = 0
        if len(journal.resumable):
            offsets = journal.offsets()
            end = int((offsets[:, :2] + offsets[:, 2:]).max())
            if not self.pixels.may_stay(
                self._slots.pick(known), offsets[numbers[known]]
            ):
                # Items have other rows now: to write there would overwrite pixels that
                # can still be resumed.
                journal.close()
                _move_to_old(path, old)
                journal = self._journal(path)
        self._files = [(PixelFile(path, self._permissions), journal)]
        self.pixels.open(self._files[0][0], not len(journal.resumable), end)
        if old.exists() and beside(old, ".journal").exists():
            self._files.append((PixelFile(old), self._journal(old)))

    def _journal(self, path: Path) -> Journal:
        return Journal(beside(path, ".journal"), self._rules, self._classes)


def write_store(
    index: Path,
    pixels: PixelWriter,
    shape: StoreShape,
    slots: Slots,
    numbers: NDArray[np.int64],
    journal: Frames,
    options: Mapping[str, Any],
    software: Mapping[str, str],
) -> tuple[Path, str]:
    """Write all but the pixels, which are written; return the file and fingerprint.

    index   : path of the file that HDF5 writes, for a moment
    shape, slots : of all items of the plan
    numbers : int64 (n,), of the record in the journal of each; -1 if it has none: then
        its gap is closed
    """
    is_done = numbers >= 0
    counted = np.bincount(slots.bucket[is_done], minlength=len(shape.counts))
    counts = tuple(
        (bucket, count)
        for (bucket, _), count in zip(shape.counts, counted.tolist(), strict=True)
        if count
    )
    # Buckets and rows without those that have no item.
    buckets = (np.cumsum(counted > 0) - 1)[slots.bucket]
    rows = slots.row.copy()
    for number in range(len(shape.counts)):
        is_in = slots.bucket == number
        rows[is_in] = np.cumsum(is_done[is_in]) - 1
    packed = Slots(slots.links, buckets, rows)

    def finished() -> Iterator[FinishedItems]:
        items = np.flatnonzero(is_done)
        for start in range(0, len(items), ITEMS_AT_ONCE):
            some = items[start : start + ITEMS_AT_ONCE]
            yield FinishedItems(journal.read(numbers[some]), packed.pick(some))

    finder = VolumeFinder()

    def records() -> Iterator[Records]:
        for some, where in finished():
            finder.add(some, where.bucket)
            yield some

    totals = Totals(records())
    volumes, positions = finder.finish()
    content = Content(finished, totals, volumes, positions, options, software)
    return pixels.complete(index, replace(shape, counts=counts), is_done, content)


def replace_target(
    target: Path, complete: Path, force: bool, permissions: Permissions | None
) -> None:
    """Give a file that is complete the name of the store.

    permissions : that the store gets if there is none yet; those of any new file if
        None
    """
    check_target(target, STORE, force)
    # Those of the file of pixels are the ones that any new file gets.
    wanted = (
        permissions_of(target)
        or permissions
        or permissions_of(beside(target, ".partial"))
    )
    with os.fdopen(open_work(complete), "rb") as file:
        if wanted:
            permit(file.fileno(), wanted)
    complete.replace(target)
    _sync_folder(target.parent)


def beside(target: Path, suffix: str) -> Path:
    """Return a path with a suffix appended to its name."""
    return target.with_name(target.name + suffix)


def _move_to_old(path: Path, old: Path) -> None:
    """Rename an unfinished store to `.old`, unless one that is there has more items."""
    journal = beside(path, ".journal")
    old_journal = beside(old, ".journal")
    if old_journal.exists() and old_journal.stat().st_size >= journal.stat().st_size:
        journal.unlink()
        return
    # Pixels first: if the process dies in between, the next build renames the journal.
    with contextlib.suppress(FileNotFoundError):
        path.replace(old)
    journal.replace(old_journal)


def _work(target: Path) -> list[Path]:
    """Return the paths of all working files of a store but the lock."""
    suffixes = ("", ".journal", ".old", ".old.journal", ".index")
    return [beside(target, f".partial{suffix}") for suffix in suffixes]


def remove_work(target: Path) -> None:
    """Remove all files of unfinished builds of a store, but for the lock."""
    for path in _work(target):
        path.unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    """Wait until the file names in a folder are on the disk."""
    if os.name == "nt":
        return  # Windows cannot open folders; it syncs names by itself
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
