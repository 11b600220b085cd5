"""A store in the making: `<name>.partial` and its journal, beside the target.

    <name>.partial          the pixels, at the places that they have in the store
    <name>.partial.journal  a record of each finished item, see `journal`
    <name>.partial.old, <name>.partial.old.journal
                            those of an interrupted build of other items: what fits is
                            taken from it, then it is removed
    <name>.partial.index    what HDF5 must know, for the moment before the end
    <name>.partial.lock     held while somebody builds

The target is absent, or the older store, until the last step, a rename. All else can
be lost or cut short at any moment: an item counts as finished only if its record is
whole and its pixels have the checksums that the record tells.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fastseg.errors import BuildError
from fastseg.files import reserve
from fastseg.spool import Spool
from fastseg.store import layout
from fastseg.store.layout import Bucket
from fastseg.store.writing import hdf5_index
from fastseg.store.writing.hdf5_index import Batch
from fastseg.store.writing.journal import Journal
from fastseg.store.writing.pixel_file import PixelFile
from fastseg.store.writing.records import Record, Records, Slots, join, meta_dtype
from fastseg.store.writing.totals import Totals

# Journals of other versions are of no use.
JOURNAL_VERSION = 2
# Bytes of pixels after which the system is told to begin to write them to the disk.
BEGIN_AFTER = 2**22
# So many items are gathered before their columns are written.
ITEMS_AT_ONCE = 512


@contextlib.contextmanager
def sole_builder(target: Path) -> Iterator[None]:
    """Let nobody else build that store meanwhile, or raise BuildError.

    The lock is the system's: it is gone when the process that holds it is.
    """
    path = beside(target, ".partial.lock")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            try:
                yield
            finally:
                # Windows keeps the name of a file that is open; it does no harm.
                with contextlib.suppress(PermissionError):
                    path.unlink(missing_ok=True)
    except Timeout:
        raise BuildError(
            f"{target}: is being built by somebody else; wait until that is done or "
            "choose another name"
        ) from None


class Partial:
    """The files of an unfinished store.

    One thread calls `resumable`, `add` and `publish`; any number may call `resume`,
    `direct_output` and what begins with `write`. To be used in `with`; leaving it
    closes the files, which stay.
    """

    # How its pixels are compressed.
    compression = ""

    def __init__(
        self,
        target: Path,
        *,
        buckets: Sequence[tuple[Bucket, int]],
        parts: Callable[[], Iterable[Slots]],
        classes: Sequence[str],
        options: Mapping[str, Any],
        software: Mapping[str, str],
    ):
        """Begin a store, or go on where an earlier process stopped.

        buckets : each and how many items it has, by name
        parts   : gives the slots of all items, in their order
        """
        self.target, self.options, self.software = target, options, software
        self.shape = hdf5_index.Shape(
            classes=tuple(classes),
            counts=tuple(buckets),
            compression=self.compression,
        )
        self._index = beside(target, ".partial.index")
        self._masks = layout.mask_dtype(classes)
        self._tally = Totals(target.parent)
        # Of what is finished, its numbers in the journal and its slots.
        self._done: Spool[tuple[NDArray[np.int64], Slots]] = Spool(target.parent)
        sizes = [prod(b.shape) * b.dtype.itemsize for b, _ in buckets]
        self._bytes, self._added = np.array(sizes, np.int64), 0
        # What was made under other rules is of no use.
        rules = [list(classes), dict(options), dict(software), self.compression]
        versions = [layout.VERSION, JOURNAL_VERSION]
        self._kind = layout.canonical_json([*versions, *rules]).encode()
        self._works: list[PixelFile] = []
        self._plan()
        try:
            self._open(parts)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "Partial":
        return self

    def __exit__(self, *_: object) -> None:
        for work in self._works:
            work.close()

    def bucket(self, slots: Slots, k: int) -> Bucket:
        """Return the bucket of one of the items."""
        bucket, _ = self.shape.counts[int(slots.bucket[k])]
        return bucket

    def resumable(self, slots: Slots) -> dict[int, tuple[PixelFile, Record]]:
        """Return what an interrupted build has left of items, for `resume`."""
        left: dict[int, tuple[PixelFile, Record]] = {}
        for work in self._works:
            numbers = work.journal.resumable.find(slots.links)
            there = np.flatnonzero(numbers >= 0)
            records = work.journal.records(numbers[there])
            for k, record in zip(there.tolist(), records, strict=True):
                left.setdefault(k, (work, record))
        return left

    def resume(
        self, slots: Slots, k: int, work: PixelFile, record: Record
    ) -> Record | None:
        """Put pixels that an interrupted build has left where they belong.

        Returns the record of their new places, None if they are not what the record
        says: then the item is to be made again.
        """
        pixels = self._read(self.bucket(slots, k), work, record.offsets)
        (meta,) = np.frombuffer(record.meta, meta_dtype(self.shape.classes))
        sums = meta["image_xxh3"], meta["mask_xxh3"]
        if pixels is None or sums != tuple(xxh3_64_intdigest(x.data) for x in pixels):
            return None
        if work is self._works[0]:
            return record
        return record._replace(offsets=self.write(slots, k, *pixels))

    def add(self, slots: Slots, records: Records) -> None:
        """Note that the next items, all of these, are finished."""
        self._tally.add(records)
        journal = self._works[0].journal
        numbers = journal.resumable.find(slots.links)
        there = np.flatnonzero(numbers >= 0)
        if len(there):
            pairs = zip(
                journal.records(numbers[there]),
                records.pick(there).split(),
                strict=True,
            )
            # All but the points, of which the facts have a checksum.
            differ = [old[:-1] != new[:-1] for old, new in pairs]
            numbers[there[differ]] = -1
        new = np.flatnonzero(numbers < 0)
        if len(new):
            added = records if len(new) == len(numbers) else records.pick(new)
            numbers[new] = journal.append(added) + np.arange(len(new))
        self._done.append((numbers, slots))
        self._added += int(self._bytes[slots.bucket].sum())
        if self._added >= BEGIN_AFTER:
            self._added = 0
            self._works[0].start_writeback()

    def publish(self) -> str:
        """Complete the file and put it under its name; return its fingerprint.

        All items must be there.
        """
        complete, fingerprint = self._complete()
        for work in self._works:
            work.close()
        complete.replace(self.target)
        _sync_folder(self.target.parent)
        remove_work(self.target)
        return fingerprint

    # What follows differs where pixels are compressed.

    def _plan(self) -> None:
        """Find the places of all pixels, which are known from the start."""
        self._extents = hdf5_index.reserve_pixels(self._index, self.shape)
        self._first, self._size = hdf5_index.grid_of(self.shape, self._extents)

    def _starts(self, slots: Slots) -> NDArray[np.int64]:
        """Return where image and mask of n items begin in the file: (n, 2)."""
        row = slots.row[:, None]
        starts: NDArray[np.int64] = (
            self._first[slots.bucket] + self._size[slots.bucket] * row
        )
        return starts

    def _fit(self, slots: Slots, offsets: NDArray[np.int64]) -> bool:
        """Return whether the pixels of items may stay at their places, a row each."""
        return np.array_equal(offsets, self._starts(slots))

    def _prepare(self, path: Path) -> None:
        """Give the file its length, and room for the images; few masks may be drawn."""
        with path.open("wb" if self._is_new else "ab") as file:
            file.truncate(self._extents.size)
            for bucket, count in self.shape.counts:
                size = prod(bucket.shape) * bucket.dtype.itemsize * count
                reserve(file.fileno(), self._extents.images[bucket.name], size)

    def _read(
        self, bucket: Bucket, work: PixelFile, offsets: tuple[int, ...]
    ) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Return image and mask of an item as they are, None if they are damaged."""
        image = work.read(offsets[0], bucket.shape, bucket.dtype)
        return image, work.read(offsets[1], bucket.shape, self._masks)

    def write(
        self, slots: Slots, k: int, image: NDArray[Any], mask: NDArray[Any] | None
    ) -> tuple[int, ...]:
        """Write the pixels of one of the items; return their places for its record.

        mask : None is one without any pixel
        """
        data = image.reshape(-1).view(np.uint8)
        drawn = {} if mask is None else {0: mask}
        (offsets,) = self.write_many(slots.pick([k]), data, [0], drawn).tolist()
        return tuple(offsets)

    def write_many(
        self,
        slots: Slots,
        data: NDArray[np.uint8],
        starts: Sequence[int],
        masks: Mapping[int, NDArray[Any]],
    ) -> NDArray[np.int64]:
        """Write the pixels of n items of one bucket; return their places, a row each.

        starts : where in the data each image begins
        masks  : of those of the items, counted from 0, that have any
        """
        offsets, size = self._starts(slots), int(self._bytes[slots.bucket[0]])
        view = memoryview(data)
        images = [view[start : start + size] for start in starts]
        self._works[0].write_all(offsets[:, 0].tolist(), images)
        self.write_masks(slots, masks)
        return offsets

    def direct_output(self, slots: Slots) -> tuple[int, NDArray[np.int64]]:
        """Return a file, open to write, and the places of items, a row each.

        Their images may be written there at once, then `write_masks` is to be called.
        The file is -1 where only `write_many` knows how and where pixels are written.
        """
        return self._works[0].handle(), self._starts(slots)

    def write_masks(self, slots: Slots, masks: Mapping[int, NDArray[Any]]) -> None:
        """Write the masks of n items of one bucket, of which those may have none."""
        offsets, work = self._starts(slots)[:, 1].tolist(), self._works[0]
        if masks:
            drawn = [memoryview(mask).cast("B") for mask in masks.values()]
            work.write_all([offsets[j] for j in masks], drawn)
        if offsets and not self._is_new:  # else there are holes, which read as zeros
            empty = np.zeros(self.bucket(slots, 0).shape, self._masks)
            for j in set(range(len(offsets))).difference(masks):
                work.write(offsets[j], empty)

    def _complete(self) -> tuple[Path, str]:
        """Return the whole store's file, on the disk, and its fingerprint."""
        work = self._works[0]
        extents, fingerprint = hdf5_index.write_index(
            self._index,
            self.shape,
            self._batches,
            self._tally,
            options=self.options,
            software=self.software,
        )
        assert (extents.images, extents.masks) == (
            self._extents.images,
            self._extents.masks,
        ), "HDF5 has moved the pixels"
        with work.path.open("r+b") as file:
            hdf5_index.merge_index(self._index, file, self.shape, extents)
            file.flush()
            os.fsync(file.fileno())
        return work.path, fingerprint

    def _batches(self) -> Iterator[Batch]:
        """Yield all that is finished, in shares of hundreds of items."""
        journal, shares, count = self._works[0].journal, [], 0
        for k, share in enumerate(self._done, 1):
            shares.append(share)
            count += len(share[0])
            if count >= ITEMS_AT_ONCE or k == len(self._done):
                numbers, slots = zip(*shares, strict=True)
                yield Batch(
                    join(list(journal.read_all(np.concatenate(numbers)))),
                    Slots(*map(np.concatenate, zip(*slots, strict=True))),
                )
                shares, count = [], 0

    def _open(self, parts: Callable[[], Iterable[Slots]]) -> None:
        path, old = beside(self.target, ".partial"), beside(self.target, ".partial.old")
        journal = Journal(beside(path, ".journal"), self._kind, self.shape.classes)
        if len(journal.resumable) and not all(
            self._may_stay(journal, x) for x in parts()
        ):
            # The items are others now, and would be written over what is to be kept.
            journal.close()
            _set_aside(path, old)
            journal = Journal(journal.path, self._kind, self.shape.classes)
        self._is_new = not len(journal.resumable)
        self._works = [PixelFile(path, journal)]
        self._prepare(path)
        if old.exists() and beside(old, ".journal").exists():
            left = Journal(beside(old, ".journal"), self._kind, self.shape.classes)
            self._works.append(PixelFile(old, left))

    def _may_stay(self, journal: Journal, slots: Slots) -> bool:
        """Return whether what is kept of items stands where they will."""
        numbers = journal.resumable.find(slots.links)
        there = numbers >= 0
        return not there.any() or self._fit(
            slots.pick(there), journal.offsets(numbers[there])
        )


def beside(target: Path, suffix: str) -> Path:
    """Return the path with a suffix added to the name."""
    return target.with_name(target.name + suffix)


def _set_aside(path: Path, old: Path) -> None:
    """Move unfinished work, unless what was moved before has more in it."""
    journal, before = beside(path, ".journal"), beside(old, ".journal")
    if before.exists() and before.stat().st_size >= journal.stat().st_size:
        journal.unlink()
        return
    # Pixels first. Should the process die in between, they are moved already.
    with contextlib.suppress(FileNotFoundError):
        path.replace(old)
    journal.replace(before)


def remove_work(target: Path) -> None:
    """Remove what unfinished builds of a store have left."""
    for suffix in (".partial", ".partial.old"):
        for more in ("", ".journal"):
            beside(target, suffix + more).unlink(missing_ok=True)
    beside(target, ".partial.index").unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if os.name == "nt":
        return  # Windows cannot open folders, and keeps its names by itself
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
