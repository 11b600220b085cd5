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

The target is absent, or is the older store, until the last step renames the finished
file. A crash may damage all other files: an item counts as finished only if its record
is complete and its pixels have the checksums in the record.
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
from fastseg.store.writing.hdf5_index import FinishedItems
from fastseg.store.writing.journal import Journal
from fastseg.store.writing.pixel_file import PixelFile
from fastseg.store.writing.records import Record, Records, Slots, join, meta_dtype
from fastseg.store.writing.totals import Totals

# A build does not resume from journals of other versions.
JOURNAL_VERSION = 2
# After this many bytes of images, the system is asked to begin to write to the disk.
WRITEBACK_BYTES = 2**22
# Columns are written in blocks of at least this many items.
ITEMS_AT_ONCE = 512


@contextlib.contextmanager
def sole_builder(target: Path) -> Iterator[None]:
    """Lock a store for this build; raise BuildError if another process builds it.

    The system releases the lock when the process ends, however it ends.
    """
    path = beside(target, ".partial.lock")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            try:
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


class Partial:
    """The files of an unfinished store, as a context manager.

    One thread calls `resumable`, `add` and `publish`. Any thread may call `resume`,
    `direct_output`, `write`, `write_many` and `write_masks`. Leaving the `with` block
    closes the files; they stay on the disk.
    """

    # "zstd" in CompressedPartial.
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
        """Begin a store, or continue where an earlier process stopped.

        buckets : each bucket and how many items it has, sorted by name
        parts   : a function that yields the slots of all items, in their order
        """
        self.target = target
        self.options = options
        self.software = software
        self.shape = hdf5_index.StoreShape(
            classes=tuple(classes),
            counts=tuple(buckets),
            compression=self.compression,
        )
        self._index = beside(target, ".partial.index")
        self._masks = layout.mask_dtype(classes)
        self._totals = Totals(target.parent)
        # Blocks of finished items: the numbers of their records, and their slots.
        self._done: Spool[tuple[NDArray[np.int64], Slots]] = Spool(target.parent)
        sizes = [prod(b.shape) * b.dtype.itemsize for b, _ in buckets]
        self._image_bytes = np.array(sizes, np.int64)
        self._new_bytes = 0
        # A build resumes only from files that were written by the same rules.
        rules = [list(classes), dict(options), dict(software), self.compression]
        versions = [layout.VERSION, JOURNAL_VERSION]
        self._rules = layout.canonical_json([*versions, *rules]).encode()
        # The file of this build, then that of an interrupted one, if there is any.
        self._pixel_files: list[PixelFile] = []
        self._prepare_offsets()
        try:
            self._open(parts)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "Partial":
        return self

    def __exit__(self, *_: object) -> None:
        for pixel_file in self._pixel_files:
            pixel_file.close()

    def bucket(self, slots: Slots, k: int) -> Bucket:
        """Return the bucket of one of the items."""
        bucket, _ = self.shape.counts[int(slots.bucket[k])]
        return bucket

    def resumable(self, slots: Slots) -> dict[int, tuple[PixelFile, Record]]:
        """Return what an interrupted build finished of these items, for `resume`.

        The keys are indices into the slots; the values are the file that has the pixels
        of the item, and its record.
        """
        results: dict[int, tuple[PixelFile, Record]] = {}
        for pixel_file in self._pixel_files:
            numbers = pixel_file.journal.resumable.find(slots.links)
            known = np.flatnonzero(numbers >= 0)
            records = pixel_file.journal.records(numbers[known])
            for k, record in zip(known.tolist(), records, strict=True):
                results.setdefault(k, (pixel_file, record))
        return results

    def resume(
        self, slots: Slots, k: int, pixel_file: PixelFile, record: Record
    ) -> Record | None:
        """Check the pixels of a resumable item, and copy them if they are elsewhere.

        Returns the record with their offsets in the file of this build. Returns None if
        the pixels do not have the checksums of the record; then the item must be made
        again.
        """
        pixels = self._read(self.bucket(slots, k), pixel_file, record.offsets)
        (meta,) = np.frombuffer(record.meta, meta_dtype(self.shape.classes))
        checksums = meta["image_xxh3"], meta["mask_xxh3"]
        if pixels is None or checksums != tuple(
            xxh3_64_intdigest(array.data) for array in pixels
        ):
            return None
        if pixel_file is self._pixel_files[0]:
            return record
        return record._replace(offsets=self.write(slots, k, *pixels))

    def add(self, slots: Slots, records: Records) -> None:
        """Add the records of the next items, whose pixels have been written."""
        self._totals.add(records)
        journal = self._pixel_files[0].journal
        numbers = journal.resumable.find(slots.links)
        known = np.flatnonzero(numbers >= 0)
        if len(known):
            pairs = zip(
                journal.records(numbers[known]),
                records.pick(known).split(),
                strict=True,
            )
            # Without the points, because the metadata has their checksum.
            differ = [old[:-1] != new[:-1] for old, new in pairs]
            numbers[known[differ]] = -1
        new = np.flatnonzero(numbers < 0)
        if len(new):
            added = records if len(new) == len(numbers) else records.pick(new)
            numbers[new] = journal.append(added) + np.arange(len(new))
        self._done.append((numbers, slots))
        self._new_bytes += int(self._image_bytes[slots.bucket].sum())
        if self._new_bytes >= WRITEBACK_BYTES:
            self._new_bytes = 0
            self._pixel_files[0].start_writeback()

    def publish(self) -> str:
        """Complete the file and rename it to the target; return its fingerprint.

        All items must have been added.
        """
        complete, fingerprint = self._complete()
        for pixel_file in self._pixel_files:
            pixel_file.close()
        complete.replace(self.target)
        _sync_folder(self.target.parent)
        remove_work(self.target)
        return fingerprint

    # CompressedPartial overrides most of the methods below.

    def _prepare_offsets(self) -> None:
        """Let HDF5 choose the offsets of all pixels."""
        self._offsets = hdf5_index.reserve_pixels(self._index, self.shape)
        self._first, self._size = hdf5_index.offsets_and_sizes(
            self.shape, self._offsets
        )

    def _offsets_of(self, slots: Slots) -> NDArray[np.int64]:
        """Return the offsets of image and mask of n items, int64 (n, 2)."""
        row = slots.row[:, None]
        offsets: NDArray[np.int64] = (
            self._first[slots.bucket] + self._size[slots.bucket] * row
        )
        return offsets

    def _may_stay(self, slots: Slots, offsets: NDArray[np.int64]) -> bool:
        """Return whether items with pixels at these offsets need not be moved."""
        return np.array_equal(offsets, self._offsets_of(slots))

    def _prepare_file(self, path: Path) -> None:
        """Set the length of the file, and reserve space on the disk for its images.

        Masks get no space now, because few images may have one.
        """
        with path.open("wb" if self._is_new else "ab") as file:
            file.truncate(self._offsets.file_size)
            for bucket, count in self.shape.counts:
                size = prod(bucket.shape) * bucket.dtype.itemsize * count
                reserve(file.fileno(), self._offsets.images[bucket.name], size)

    def _read(
        self, bucket: Bucket, pixel_file: PixelFile, offsets: tuple[int, ...]
    ) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Return image and mask of an item, None if they cannot be decoded."""
        image = pixel_file.read(offsets[0], bucket.shape, bucket.dtype)
        return image, pixel_file.read(offsets[1], bucket.shape, self._masks)

    def write(
        self, slots: Slots, k: int, image: NDArray[Any], mask: NDArray[Any] | None
    ) -> tuple[int, ...]:
        """Write image and mask of item k of the slots; return offsets for its record.

        mask : None if it is empty
        """
        data = image.reshape(-1).view(np.uint8)
        masks = {} if mask is None else {0: mask}
        (offsets,) = self.write_many(slots.pick([k]), data, [0], masks).tolist()
        return tuple(offsets)

    def write_many(
        self,
        slots: Slots,
        data: NDArray[np.uint8],
        starts: Sequence[int],
        masks: Mapping[int, NDArray[Any]],
    ) -> NDArray[np.int64]:
        """Write the pixels of n items of one bucket; return their offsets, a row each.

        data   : bytes of the images
        starts : at which byte of the data each image begins
        masks  : by index of the item in the slots; other items have an empty mask
        """
        offsets = self._offsets_of(slots)
        size = int(self._image_bytes[slots.bucket[0]])
        view = memoryview(data)
        images = [view[start : start + size] for start in starts]
        self._pixel_files[0].write_all(offsets[:, 0].tolist(), images)
        self.write_masks(slots, masks)
        return offsets

    def direct_output(self, slots: Slots) -> tuple[int, NDArray[np.int64]]:
        """Return a file descriptor, and the offsets of items, a row each.

        The caller writes their images there and then calls `write_masks`. If the
        descriptor is -1, as for a compressed store, it must call `write_many` instead.
        """
        return self._pixel_files[0].handle(), self._offsets_of(slots)

    def write_masks(self, slots: Slots, masks: Mapping[int, NDArray[Any]]) -> None:
        """Write the masks of n items of one bucket.

        masks : by index of the item in the slots; other items have an empty mask
        """
        offsets = self._offsets_of(slots)[:, 1].tolist()
        pixel_file = self._pixel_files[0]
        if masks:
            buffers = [memoryview(mask).cast("B") for mask in masks.values()]
            pixel_file.write_all([offsets[j] for j in masks], buffers)
        # A new file has holes there, which read as zeros.
        if offsets and not self._is_new:
            empty = np.zeros(self.bucket(slots, 0).shape, self._masks)
            for j in set(range(len(offsets))).difference(masks):
                pixel_file.write(offsets[j], empty)

    def _complete(self) -> tuple[Path, str]:
        """Write the complete store and sync it; return its path and fingerprint."""
        path = self._pixel_files[0].path
        offsets, fingerprint = hdf5_index.write_index(
            self._index,
            self.shape,
            self._finished_items,
            self._totals,
            options=self.options,
            software=self.software,
        )
        assert (offsets.images, offsets.masks) == (
            self._offsets.images,
            self._offsets.masks,
        ), "HDF5 has moved the pixels"
        with path.open("r+b") as file:
            hdf5_index.merge_index(self._index, file, self.shape, offsets)
            file.flush()
            os.fsync(file.fileno())
        return path, fingerprint

    def _finished_items(self) -> Iterator[FinishedItems]:
        """Yield all items that were added, in blocks of hundreds."""
        journal = self._pixel_files[0].journal
        blocks = []
        count = 0
        for k, block in enumerate(self._done, 1):
            blocks.append(block)
            count += len(block[0])
            if count >= ITEMS_AT_ONCE or k == len(self._done):
                numbers, slots = zip(*blocks, strict=True)
                yield FinishedItems(
                    join(list(journal.read_all(np.concatenate(numbers)))),
                    Slots(*map(np.concatenate, zip(*slots, strict=True))),
                )
                blocks = []
                count = 0

    def _open(self, parts: Callable[[], Iterable[Slots]]) -> None:
        path = beside(self.target, ".partial")
        old = beside(self.target, ".partial.old")
        journal = Journal(beside(path, ".journal"), self._rules, self.shape.classes)
        if len(journal.resumable) and not all(
            self._may_all_stay(journal, slots) for slots in parts()
        ):
            # The items have changed: their pixels would overwrite resumable ones.
            journal.close()
            _move_to_old(path, old)
            journal = Journal(journal.path, self._rules, self.shape.classes)
        self._is_new = not len(journal.resumable)
        self._pixel_files = [PixelFile(path, journal)]
        self._prepare_file(path)
        if old.exists() and beside(old, ".journal").exists():
            old_journal = Journal(
                beside(old, ".journal"), self._rules, self.shape.classes
            )
            self._pixel_files.append(PixelFile(old, old_journal))

    def _may_all_stay(self, journal: Journal, slots: Slots) -> bool:
        """Return whether no resumable one of these items must be moved."""
        numbers = journal.resumable.find(slots.links)
        is_known = numbers >= 0
        return not is_known.any() or self._may_stay(
            slots.pick(is_known), journal.offsets(numbers[is_known])
        )


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


def remove_work(target: Path) -> None:
    """Remove all files of unfinished builds of a store, but for the lock."""
    for suffix in (".partial", ".partial.old"):
        for more in ("", ".journal"):
            beside(target, suffix + more).unlink(missing_ok=True)
    beside(target, ".partial.index").unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    """Wait until the file names in a folder are on the disk."""
    if os.name == "nt":
        return  # Windows cannot open folders; it syncs names by itself
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
