"""Checks that a store is what it was when it was written.

`verify` reads and hashes the whole file again: images, masks and vertices of each
sample, each column, and all bytes that are no data. It compares the hashes with the
checksums of the store, and the fingerprint with these and the other attributes.
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from io import FileIO
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64, xxh3_64_intdigest

from fastseg.calls import check_call, refuse_renamed_attributes
from fastseg.errors import (
    OptionError,
    StoreError,
)
from fastseg.files import name_path, open_regular
from fastseg.paths import Paths, StrPath, as_path
from fastseg.progress import Progress, silent
from fastseg.store import checks, compression, layout
from fastseg.store.compression import Codec
from fastseg.store.layout import mask_dtype
from fastseg.store.metadata import Range, metadata_checksum, metadata_ranges
from fastseg.store.reader import Store, open_store
from fastseg.tables import reason_of
from fastseg.threads import check_threads, map_ordered, usable_cores

Job = TypeVar("Job")
Result = TypeVar("Result")

# Each thread reads files into a buffer, not through the map. The map would be faster
# for cached files (18 GB/s a core instead of 10), but a bad sector, or a file that
# becomes shorter, would kill the process; here both are reported. This size is the
# fastest, as the buffer stays in the core's own cache (128 KB: 7 GB/s).
BUFFER_BYTES = 2**20
# A thread checks a block and then reports. A block has about this many bytes of pixels,
# or this many samples (vertices), compressed chunks or original files.
BLOCK_BYTES = 2**24
BLOCK_SAMPLES = 2**14
BLOCK_CHUNKS = 2**6
BLOCK_FILES = 2**6

# Bytes that HDF5 sets while a program has a store open for writing.
CONSISTENCY_FLAGS = 20, 24

CHANGED = "differs from what was written"


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A part of a store that is not what was written.

    part    : "image", "mask" or "contours" of a sample; else the name of a dataset, as
        in "items/row", or of an attribute, "software" or "fingerprint"; "metadata" for
        the bytes that are no data, as those by which HDF5 finds and reads the data
    reason  : what is wrong with it
    sample  : index of the sample, None where the part belongs to no sample
    patient, source : patient and image file of the sample, "" without a sample
    """

    part: str
    reason: str
    sample: int | None = None
    patient: str = ""
    source: str = ""

    def __str__(self) -> str:
        if self.sample is None:
            return f"{self.part} {self.reason}"
        return f"sample {self.sample} ({self.source}): {self.part} {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedSource:
    """An original file that has changed since the store was made from it, and how."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@refuse_renamed_attributes(is_sound="is_valid")
@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """The result of `verify`.

    path            : the store
    samples         : how many samples it holds
    fingerprint     : fingerprint of the store
    damages         : what is not as it was written, in order of the samples
    changed_sources : original files that have changed, in order of their paths
    bytes_read      : bytes read from the store and the original files
    """

    path: Path
    samples: int
    fingerprint: str
    damages: tuple[Damage, ...]
    changed_sources: tuple[ChangedSource, ...]
    bytes_read: int

    @property
    def is_valid(self) -> bool:
        """Whether nothing is damaged and no original file has changed."""
        return not self.damages and not self.changed_sources

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a dict that JSON can hold."""
        return {
            "path": str(self.path),
            "is_valid": self.is_valid,
            "samples": self.samples,
            "fingerprint": self.fingerprint,
            "bytes_read": self.bytes_read,
            "damages": [asdict(damage) for damage in self.damages],
            "changed_sources": [asdict(change) for change in self.changed_sources],
        }


@check_call()
def verify(
    store: Store | StrPath,
    *,
    sources: StrPath | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> VerifyReport:
    """Recompute every checksum of a store and compare.

    store   : its path, or a Store, of which the file at its path is verified; it must
        be one file, not what `concat` returns
    sources : root of the data set; if given, also compare the files that the store was
        made from
    threads : how many threads read and hash, by default one per core

    Damage raises no error: the report lists it. Raises StoreError if the file cannot be
    opened as a store or becomes shorter meanwhile, OptionError, OSError.
    """
    count = usable_cores() if threads is None else check_threads(threads)
    root = None if sources is None else as_path("sources", sources)
    opened = open_store(
        _path_of(store) if isinstance(store, Store) else as_path("store", store)
    )
    findings = _attribute_findings(opened)
    bytes_read = 0
    changed: list[ChangedSource] = []
    with name_path(opened.path), ExitStack() as stack:
        files = [stack.enter_context(opened.open_file()) for _ in range(count)]
        if opened.compression:
            findings += _index_findings(opened, files[0])
        columns = _Columns(opened, files[0])
        originals = [] if root is None else _originals(columns, root)
        blocks = list(_blocks(columns))
        for more, size in _map_threads(_check, blocks, files, progress, "verify"):
            findings += more
            bytes_read += size
        for changes, size in _map_threads(
            _compare, originals, files, progress, "sources"
        ):
            changed += changes
            bytes_read += size
    opened.check()  # the report reads the columns through the map
    return VerifyReport(
        path=opened.path,
        samples=len(opened),
        fingerprint=opened.fingerprint,
        damages=tuple(_damage(opened, *finding) for finding in sorted(findings)),
        changed_sources=tuple(changed),
        bytes_read=bytes_read,
    )


@dataclass(frozen=True, slots=True)
class ByteRanges:
    """Adjacent ranges of a file: range k has the bytes bounds[k] to bounds[k + 1]."""

    bounds: Sequence[int]

    @property
    def size(self) -> int:
        """Bytes of all ranges."""
        return self.bounds[-1] - self.bounds[0]

    def digests_or_reasons(self, file: FileIO, buffer: memoryview) -> list[int | str]:
        """Return the XXH3-64 of each range, or why it cannot be read."""
        try:
            return list(self.digests(file, buffer))
        except OSError as exc:
            if len(self.bounds) == 2:
                return [f"cannot be read: {reason_of(exc)}"]
        # Read the ranges one by one, to find those that cannot be read.
        singles = map(ByteRanges, pairwise(self.bounds))
        return [single.digests_or_reasons(file, buffer)[0] for single in singles]

    def digests(self, file: FileIO, buffer: memoryview) -> Iterator[int]:
        """Yield the XXH3-64 of each range.

        Reads as many ranges at once as fit into the buffer. xxhash releases the GIL for
        large buffers, and takes a microsecond for small ones.
        """
        bounds = self.bounds
        first = 0
        while first < len(bounds) - 1:
            start = bounds[first]
            stop = bisect_right(bounds, start + len(buffer)) - 1
            if stop > first:
                block = read(file, start, bounds[stop], buffer)
                for begin, end in pairwise(bounds[first : stop + 1]):
                    yield xxh3_64_intdigest(block[begin - start : end - start])
                first = stop
            else:
                digest = xxh3_64()
                end = bounds[first + 1]
                for begin in range(start, end, len(buffer)):
                    stop = min(begin + len(buffer), end)
                    digest.update(read(file, begin, stop, buffer))
                yield digest.intdigest()
                first += 1


@dataclass(frozen=True, slots=True)
class CompressedChunks:
    """Chunks of a compressed store: offset in the file and size of each; its codec."""

    extents: Sequence[tuple[int, int]]
    codecs: Sequence[Codec]

    @property
    def size(self) -> int:
        """Bytes of all chunks."""
        return sum(size for _, size in self.extents)

    def digests_or_reasons(self, file: FileIO, buffer: memoryview) -> list[int | str]:
        """Return the XXH3-64 of each decoded array, or why it cannot be read."""
        results: list[int | str] = []
        for (offset, size), codec in zip(self.extents, self.codecs, strict=True):
            space = buffer if size <= len(buffer) else memoryview(bytearray(size))
            try:
                chunk = read(file, offset, offset + size, space)
            except OSError as exc:
                results.append(f"cannot be read: {reason_of(exc)}")
                continue
            try:
                results.append(xxh3_64_intdigest(codec.decode(chunk).data))
            except StoreError as exc:
                results.append(str(exc))
        return results


@dataclass(frozen=True, slots=True)
class MetadataRanges:
    """The ranges of a store that are no data, and their checksum as it stands there."""

    ranges: Sequence[Range]
    text: bytes

    @property
    def size(self) -> int:
        """Bytes of all ranges."""
        return sum(stop - start for start, stop in self.ranges)

    def digests_or_reasons(self, file: FileIO, buffer: memoryview) -> list[int | str]:
        """Return the checksum, or why it cannot be computed, as a list of one."""
        try:
            digest, offsets = metadata_checksum(
                self.ranges, partial(_read_new, file), self.text
            )
        except OSError as exc:
            return [f"cannot be read: {reason_of(exc)}"]
        if any(_read_new(file, *CONSISTENCY_FLAGS)):
            return ["is in use: a program has the file open for writing, or died so"]
        if len(offsets) != 1:
            return [f"holds its checksum {len(offsets)} times, expected once"]
        return [digest]


def _read_new(file: FileIO, start: int, stop: int) -> memoryview:
    """Return bytes of a file in new memory."""
    return read(file, start, stop, memoryview(bytearray(stop - start)))


def read(file: FileIO, start: int, stop: int, buffer: memoryview) -> memoryview:
    """Read bytes of a file into the buffer; raise StoreError if the file ends first."""
    view = buffer[: stop - start]
    file.seek(start)
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            raise StoreError(f"{file.name!s}: was truncated while it was in use")
        done += count
    return view


# What is wrong: index of the sample or -1, part, reason.
_Finding = tuple[int, str, str]


@dataclass(frozen=True, slots=True)
class _Columns:
    """Reads columns of a store from its file, by name as in "items/row"."""

    store: Store
    file: FileIO

    def __getitem__(self, name: str) -> NDArray[Any]:
        table, _, column = name.partition("/")
        values: NDArray[Any] = np.empty_like(self.store.tables[table][column])
        buffer = values.reshape(-1).view(np.uint8)
        offset = self.store.offsets[name]
        read(self.file, offset, offset + len(buffer), memoryview(buffer))
        return values


@dataclass(frozen=True, slots=True)
class _Block:
    """Some ranges of a store's file, which one thread checks.

    part      : as in Damage
    ranges    : where the data are
    checksums : of each range, when it was written
    samples   : to which each range belongs, -1 for a column and for metadata
    """

    part: str
    ranges: ByteRanges | CompressedChunks | MetadataRanges
    checksums: Sequence[int]
    samples: Sequence[int]


def _blocks(columns: _Columns) -> Iterator[_Block]:
    """Yield all data that have a checksum, in about the order of the file."""
    store = columns.store
    if store.compression:
        yield from _compressed_pixels(columns)
    else:
        yield from _mapped_pixels(columns)
    vertex_bytes = store.contours["points"].itemsize * 2
    bounds = columns["contours/offsets"] * vertex_bytes
    bounds += store.offsets["contours/points"]
    all_rings = columns["items/contours"]
    checksums = columns["items/contour_xxh3"]
    for first in range(0, len(store), BLOCK_SAMPLES):
        rings = all_rings[first : first + BLOCK_SAMPLES]
        yield _Block(
            "contours",
            ByteRanges(bounds[[rings[0, 0], *rings[:, 1]]].tolist()),
            checksums[first : first + BLOCK_SAMPLES].tolist(),
            range(first, first + len(rings)),
        )
    for table, arrays in store.tables.items():
        for column, values in arrays.items():
            name = f"{table}/{column}"
            if name in store.checksums:
                offset = store.offsets[name]
                ranges = ByteRanges([offset, offset + values.nbytes])
                yield _Block(name, ranges, [int(store.checksums[name], 16)], [-1])
    length = os.fstat(columns.file.fileno()).st_size
    text = store.metadata_checksum
    metadata = MetadataRanges(metadata_ranges(_extents(columns), length), text.encode())
    yield _Block("metadata", metadata, [int(text, 16)], [-1])


def _extents(columns: _Columns) -> Iterator[NDArray[np.int64]]:
    """Yield offset in the file and size in bytes of all data, int64 (n, 2) each."""
    store = columns.store
    pixels = (store.images, store.masks) if not store.compression else ()
    for group, arrays in zip(("images", "masks"), pixels, strict=False):
        for name, array in arrays.items():
            yield np.array([[store.offsets[f"{group}/{name}"], array.nbytes]], np.int64)
    for table, columns_there in store.tables.items():
        for name, array in columns_there.items():
            yield np.array([[store.offsets[f"{table}/{name}"], array.nbytes]], np.int64)
    for name in layout.CHUNK_COLUMNS if store.compression else ():
        yield columns[f"items/{name}"]


def _compressed_pixels(columns: _Columns) -> Iterator[_Block]:
    """Yield the pixels of a compressed store."""
    store = columns.store
    masks = mask_dtype(store.classes)
    codecs = [compression.codecs(bucket, masks) for bucket in store.buckets.values()]
    buckets = columns["items/bucket"].tolist()
    for k, part in enumerate(("image", "mask")):
        extents = columns[f"items/{part}_chunk"]
        checksums = columns[f"items/{part}_xxh3"]
        for first in range(0, len(store), BLOCK_CHUNKS):
            block = slice(first, first + BLOCK_CHUNKS)
            chunks = CompressedChunks(
                extents[block].tolist(),
                [codecs[bucket][k] for bucket in buckets[block]],
            )
            samples = range(first, first + len(chunks.codecs))
            yield _Block(part, chunks, checksums[block].tolist(), samples)


def _mapped_pixels(columns: _Columns) -> Iterator[_Block]:
    """Yield the pixels of a store that is not compressed."""
    store = columns.store
    counts = [len(images) for images in store.images.values()]
    starts = np.cumsum([0, *counts])
    # The sample of each row, bucket after bucket. In a damaged store, a row may have
    # none, which is -1.
    sample_of = np.full(starts[-1], -1)
    rows = starts[columns["items/bucket"]] + columns["items/row"]
    sample_of[rows] = np.arange(len(store))
    checksums = {
        "image": columns["items/image_xxh3"],
        "mask": columns["items/mask_xxh3"],
    }
    for name, (start, stop) in zip(
        store.buckets, pairwise(starts.tolist()), strict=True
    ):
        for part, arrays in (("image", store.images), ("mask", store.masks)):
            offset = store.offsets[f"{part}s/{name}"]
            size = arrays[name][0].nbytes if start < stop else 0
            length = max(BLOCK_BYTES // max(size, 1), 1)
            for first in range(start, stop, length):
                samples = sample_of[first : min(first + length, stop)]
                begin = offset + (first - start) * size
                end = begin + len(samples) * size
                yield _Block(
                    part,
                    ByteRanges(range(begin, end + 1, size)),
                    checksums[part][samples].tolist(),
                    samples.tolist(),
                )


def _path_of(store: Store) -> Path:
    """Return the path of a store that is one file, or raise OptionError."""
    if len(store.paths) > 1:
        raise OptionError(
            f"the store is {len(store.paths)} files, which are verified one by one: "
            "for path in store.paths: fastseg.verify(path)"
        )
    return store.path


def _attribute_findings(store: Store) -> list[_Finding]:
    """Check the attributes `software` and `fingerprint`."""
    findings = []
    software = layout.canonical_json(dict(store.software))
    if layout.checksum(software.encode()) != store.checksums["software"]:
        findings.append((-1, "software", CHANGED))
    fingerprint = layout.fingerprint(
        store.classes, list(store.buckets), store.options, store.checksums
    )
    if fingerprint != store.fingerprint:
        reason = "does not fit the classes, buckets, options and checksums"
        findings.append((-1, "fingerprint", reason))
    return findings


def _index_findings(store: Store, file: FileIO) -> list[_Finding]:
    """Compare offsets and sizes of chunks in the columns with those that HDF5 has.

    file : the store
    """
    findings: list[_Finding] = []
    bucket, row = store.items["bucket"], store.items["row"]
    with checks.open_hdf5(file) as hdf5:
        for part in ("image", "mask"):
            chunks = store.items[f"{part}_chunk"]
            for number, name in enumerate(store.buckets):
                try:
                    index = compression.chunk_index(hdf5[f"{part}s/{name}"])
                except Exception as exc:  # HDF5 reports damage by a dozen types
                    reason = f"has an index that HDF5 cannot read: {exc}"
                    findings.append((-1, f"{part}s/{name}", reason))
                    continue
                samples = np.flatnonzero(bucket == number)
                differs = (index[row[samples]] != chunks[samples]).any(axis=1)
                reason = "has another offset or size in HDF5's index"
                findings += [(k, part, reason) for k in samples[differs].tolist()]
    return findings


def _check(
    block: _Block, file: FileIO, buffer: memoryview
) -> tuple[list[_Finding], int]:
    """Return what is wrong in a block, and its size in bytes."""
    findings = [
        (sample, block.part, CHANGED if isinstance(result, int) else result)
        for result, checksum, sample in zip(
            block.ranges.digests_or_reasons(file, buffer),
            block.checksums,
            block.samples,
            strict=True,
        )
        if result != checksum
    ]
    return findings, block.ranges.size


@dataclass(frozen=True, slots=True)
class _Originals:
    """Some of the files that the store was made from, as it knows them."""

    root: Paths
    paths: Sequence[str]
    sizes: Sequence[int]
    checksums: Sequence[int]


def _originals(columns: _Columns, root: Path) -> list[_Originals]:
    if not root.is_dir():
        raise OptionError(f"sources is {str(root)!r}, expected a folder")
    resolver = Paths(root)
    paths = [_text(path) for path in columns["sources/path"].tolist()]
    sizes = columns["sources/size"].tolist()
    checksums = columns["sources/xxh3"].tolist()
    blocks = [slice(k, k + BLOCK_FILES) for k in range(0, len(paths), BLOCK_FILES)]
    return [
        _Originals(resolver, paths[block], sizes[block], checksums[block])
        for block in blocks
    ]


def _compare(
    originals: _Originals, _: FileIO, buffer: memoryview
) -> tuple[list[ChangedSource], int]:
    """Return the files that have changed, and how many bytes were read."""
    changed = []
    bytes_read = 0
    for path, size, checksum in zip(
        originals.paths, originals.sizes, originals.checksums, strict=True
    ):
        real = path
        try:
            real = originals.root.resolve(path, ".")
            with open_regular(real) as file:
                now = os.fstat(file.fileno()).st_size
                if now != size:
                    reason = f"has {now} bytes, had {size} when it was read"
                else:
                    (digest,) = ByteRanges((0, size)).digests(file, buffer)
                    bytes_read += size
                    reason = "" if digest == checksum else "has other content"
        except (FileNotFoundError, NotADirectoryError):
            reason = "is missing"
        except (OSError, ValueError) as exc:
            reason = f"cannot be read: {reason_of(exc, real)}"
        if reason:
            changed.append(ChangedSource(path=path, reason=reason))
    return changed, bytes_read


def _map_threads(
    function: Callable[[Job, FileIO, memoryview], Result],
    jobs: Sequence[Job],
    files: Sequence[FileIO],
    progress: Progress,
    label: str,
) -> Iterator[Result]:
    """Yield the result of each job, in order.

    files : the store, opened once for each thread
    """
    free: SimpleQueue[tuple[FileIO, memoryview]] = SimpleQueue()
    for file in files:
        free.put((file, memoryview(bytearray(BUFFER_BYTES))))

    def run(job: Job) -> Result:
        file, buffer = free.get()
        try:
            return function(job, file, buffer)
        finally:
            free.put((file, buffer))

    with (
        progress(label, len(jobs)) as advance,
        closing(map_ordered(run, jobs, len(files))) as results,
    ):
        for result in results:
            yield result
            advance()


def _damage(store: Store, sample: int, part: str, reason: str) -> Damage:
    if sample < 0:
        return Damage(part=part, reason=reason)
    source = store.sources["path"][store.items["source"][sample]]
    return Damage(
        part=part,
        reason=reason,
        sample=sample,
        patient=_text(store.items["patient"][sample]),
        source=_text(source),
    )


def _text(value: bytes) -> str:
    # A damaged text may not be UTF-8.
    return bytes(value).decode(errors="replace")
