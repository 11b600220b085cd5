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
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fastseg.errors import BuildError
from fastseg.files import reserve
from fastseg.store import layout, writer
from fastseg.store.journal import Journal
from fastseg.store.layout import Bucket
from fastseg.store.records import Record, Records, fact_dtype
from fastseg.store.tally import Tally
from fastseg.store.work import Work

# Journals of other versions are of no use.
JOURNAL_VERSION = 2
# Bytes of pixels after which the system is told to begin to write them to the disk.
BEGIN_AFTER = 2**22


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

    One thread calls `kept`, `add` and `publish`; any number may call `write` and
    `take`. To be used in `with`; leaving it closes the files, which stay.
    """

    # How its pixels are compressed.
    compression = ""

    def __init__(
        self,
        target: Path,
        *,
        buckets: Sequence[Bucket],
        links: NDArray[np.uint64],
        classes: Sequence[str],
        options: Mapping[str, Any],
        software: Mapping[str, str],
    ):
        """Begin a store, or go on where an earlier process stopped.

        buckets, links : of each item, its bucket and the hash of its links
        """
        self.target, self.options, self.software = target, options, software
        self.shape = writer.Shape(
            classes=tuple(classes),
            buckets=tuple(buckets),
            compression=self.compression,
        )
        self._links = links
        self._index = beside(target, ".partial.index")
        self._tally = Tally()
        self._at = np.full(len(links), -1, np.int64)
        self._added = 0
        sizes = {b: prod(b.shape) * b.dtype.itemsize for b in set(self.shape.buckets)}
        self._bytes = np.array([sizes[bucket] for bucket in self.shape.buckets])
        # What was made under other rules is of no use.
        rules = [list(classes), dict(options), dict(software), self.compression]
        versions = [layout.VERSION, JOURNAL_VERSION]
        self._kind = layout.canonical_json([*versions, *rules]).encode()
        self._plan()
        self._open()

    def __enter__(self) -> "Partial":
        return self

    def __exit__(self, *_: object) -> None:
        for work in self._works:
            work.close()

    def kept(self, items: range) -> dict[int, tuple[Work, Record]]:
        """Return what an interrupted build has left of items, for `take`."""
        left = {}
        for work in self._works:
            if not work.journal.kept:
                continue
            for k in items:
                found = work.journal.kept.get(int(self._links[k]))
                if found is not None and k not in left:
                    left[k] = work, work.journal.read(found.at)
        return left

    def take(self, k: int, work: Work, record: Record) -> Record | None:
        """Put pixels that an interrupted build has left where they belong.

        Returns the record of their new places, None if they are not what the record
        says: then the item is to be made again.
        """
        pixels = self._read(k, work, record.places)
        (facts,) = np.frombuffer(record.facts, fact_dtype(self.shape.classes))
        sums = facts["image_xxh3"], facts["mask_xxh3"]
        if pixels is None or sums != tuple(xxh3_64_intdigest(x.data) for x in pixels):
            return None
        if work is self._works[0]:
            return record
        return record._replace(places=self.write(k, *pixels))

    def add(self, items: Sequence[int], records: Records) -> None:
        """Note that these items, in their order, are finished."""
        self._tally.add(records)
        journal, chosen = self._works[0].journal, np.asarray(items)
        at = np.full(len(chosen), -1, np.int64)
        if journal.kept:
            at[:] = [self._number_of(k, records, j) for j, k in enumerate(items)]
        new = np.flatnonzero(at < 0)
        if len(new):
            added = records if len(new) == len(at) else records.pick(new)
            at[new] = journal.append(added) + np.arange(len(new))
        self._at[chosen] = at
        self._added += int(self._bytes[chosen].sum())
        if self._added >= BEGIN_AFTER:
            self._added = 0
            self._works[0].begin_to_write()

    def _number_of(self, k: int, records: Records, j: int) -> int:
        """Return the number of the same record in the journal, -1 if there is none."""
        journal = self._works[0].journal
        found = journal.kept.get(int(self._links[k]))
        if found is None or found.places != tuple(records.places[j].tolist()):
            return -1
        alike = journal.read(found.at).stamps == records.one(j).stamps
        return found.at if alike else -1

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
        self._extents = writer.reserve_pixels(self._index, self.shape)
        self._starts = writer.starts_of(self.shape, self._extents)

    def _places(self, k: int) -> tuple[int, int]:
        image, mask = self._starts[k].tolist()
        return image, mask

    def _fits(self, k: int, places: tuple[int, ...]) -> bool:
        """Return whether the pixels of an item may stay at their places."""
        return places == self._places(k)

    def _prepare(self, path: Path) -> None:
        """Give the file its length, and room for the images; few masks may be drawn."""
        with path.open("wb" if self._is_new else "ab") as file:
            file.truncate(self._extents.size)
            for bucket, count in self.shape.counts:
                size = prod(bucket.shape) * bucket.dtype.itemsize * count
                reserve(file.fileno(), self._extents.images[bucket.name], size)

    def _read(
        self, k: int, work: Work, places: tuple[int, ...]
    ) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Return image and mask of an item as they are, None if they are damaged."""
        bucket = self.shape.buckets[k]
        masks = layout.mask_dtype(self.shape.classes)
        image = work.read(places[0], bucket.shape, bucket.dtype)
        return image, work.read(places[1], bucket.shape, masks)

    def write(
        self, k: int, image: NDArray[Any], mask: NDArray[Any] | None
    ) -> tuple[int, ...]:
        """Write the pixels of an item; return their places for its record.

        mask : None is one without any pixel
        """
        places = self._places(k)
        self._works[0].write(places[0], image)
        if mask is not None:
            self._works[0].write(places[1], mask)
        elif not self._is_new:  # else there is a hole, which reads as zeros
            empty = layout.mask_dtype(self.shape.classes)
            self._works[0].write(places[1], np.zeros(image.shape, empty))
        return places

    def write_many(
        self,
        items: NDArray[np.int64],
        data: NDArray[np.uint8],
        starts: Sequence[int],
        masks: Mapping[int, NDArray[Any]],
    ) -> NDArray[np.int64]:
        """Write the pixels of n items of one bucket; return their places, a row each.

        starts : where in the data each image begins
        masks  : of those of the items, counted from 0, that have any
        """
        places, work = self._starts[items], self._works[0]
        bucket = self.shape.buckets[items[0]]
        size, view = prod(bucket.shape) * bucket.dtype.itemsize, memoryview(data)
        images = [view[start : start + size] for start in starts]
        work.write_all(places[:, 0].tolist(), images)
        if masks:
            drawn = [memoryview(mask).cast("B") for mask in masks.values()]
            work.write_all(places[list(masks), 1].tolist(), drawn)
        if not self._is_new:  # else there are holes, which read as zeros
            empty = np.zeros(bucket.shape, layout.mask_dtype(self.shape.classes))
            for j in set(range(len(items))).difference(masks):
                work.write(int(places[j, 1]), empty)
        return places

    def _complete(self) -> tuple[Path, str]:
        """Return the whole store's file, on the disk, and its fingerprint."""
        work = self._works[0]
        extents, fingerprint = writer.write_index(
            self._index,
            self.shape,
            self._records,
            self._tally,
            options=self.options,
            software=self.software,
        )
        assert (extents.images, extents.masks) == (
            self._extents.images,
            self._extents.masks,
        ), "HDF5 has moved the pixels"
        with work.path.open("r+b") as file:
            writer.merge_index(self._index, file, self.shape, extents)
            file.flush()
            os.fsync(file.fileno())
        return work.path, fingerprint

    def _records(self) -> Iterator[Records]:
        return self._works[0].journal.read_all(self._at)

    def _open(self) -> None:
        path, old = beside(self.target, ".partial"), beside(self.target, ".partial.old")
        journal = Journal(beside(path, ".journal"), self._kind, self.shape.classes)
        kept = journal.kept
        if kept and any(
            not self._fits(k, kept[links].places)
            for k, links in enumerate(self._links.tolist())
            if links in kept
        ):
            # The items are others now, and would be written over what is to be kept.
            journal.close()
            _set_aside(path, old)
            journal = Journal(journal.path, self._kind, self.shape.classes)
        self._is_new = not journal.kept
        self._works = [Work(path, journal)]
        self._prepare(path)
        if old.exists() and beside(old, ".journal").exists():
            left = Journal(beside(old, ".journal"), self._kind, self.shape.classes)
            self._works.append(Work(old, left))


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
