"""Proves that a store is what it was when it was written.

All content is read again and hashed: images, masks and vertices by sample, columns
whole. The fingerprint ties the columns to what the attributes say.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from stat import S_ISREG
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64, xxh3_64_intdigest

from fastseg.errors import OptionError, StoreError, whole_number
from fastseg.links import Paths, StrPath, reason_of
from fastseg.progress import Progress, silent
from fastseg.store import checks, compression, layout
from fastseg.store.compression import Codec
from fastseg.store.layout import mask_dtype
from fastseg.store.reader import Store, open_store
from fastseg.threads import usable_cores

Job = TypeVar("Job")
Found = TypeVar("Found")

# Files are read into one buffer per thread and not through the map. The map would be
# faster on cached files (18 GB/s a core against 10), but there a bad sector, or a file
# that becomes shorter, ends the process; here both are told. This size is the fastest:
# the buffer stays in the core's own cache (128 KB: 7 GB/s).
BLOCK = 2**20
# What a thread does before it reports: about so many bytes, samples or files.
STRETCH, SAMPLES, CHUNKS, FILES = 2**24, 2**14, 2**6, 2**6

CHANGED = "differs from what was written"


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A part of a store that is not what was written.

    part    : "image", "mask" or "contours" of a sample; else the name of a dataset,
        as "items/row", or of an attribute, "software" or "fingerprint"
    reason  : what is wrong with it
    sample  : its place in the store, None where the part belongs to none
    patient, source : the sample's patient and image file, "" without sample
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
    """A file that is not what the store was made from, and what has become of it."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a verification found.

    path            : the store
    samples         : how many it holds
    fingerprint     : the store's
    damages         : what is not as it was written, by sample
    changed_sources : original files that are not as they were, by path
    bytes_read      : of the store and of the original files
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


def verify(
    store: Store | StrPath,
    *,
    sources: StrPath | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> VerifyReport:
    """Recompute every checksum of a store and compare.

    store   : its path; a Store stands for the file at its path
    sources : root of the data set; the files that the store was made from are then
        compared as well
    threads : how many read and hash, by default one per core

    Damage raises nothing: it is listed in the report. Raises StoreError if the file
    cannot be opened as a store or becomes shorter meanwhile, OptionError, OSError.
    """
    count = whole_number("threads", usable_cores() if threads is None else threads, 1)
    opened = open_store(store.path if isinstance(store, Store) else store)
    findings, bytes_read = _attribute_findings(opened), 0
    if opened.compression:
        findings += _index_findings(opened)
    changed: list[ChangedSource] = []
    with ExitStack() as stack:
        files = [stack.enter_context(opened.open_file()) for _ in range(count)]
        columns = _Columns(opened, files[0])
        originals = [] if sources is None else _originals(columns, Path(sources))
        stretches = list(_stretches(columns))
        for found, read in _spread(_check, stretches, files, progress, "verify"):
            findings += found
            bytes_read += read
        for changes, read in _spread(_compare, originals, files, progress, "sources"):
            changed += changes
            bytes_read += read
    opened.check_size()  # the columns are read now
    return VerifyReport(
        path=opened.path,
        samples=len(opened),
        fingerprint=opened.fingerprint,
        damages=tuple(_damage(opened, *finding) for finding in sorted(findings)),
        changed_sources=tuple(changed),
        bytes_read=bytes_read,
    )


@dataclass(frozen=True, slots=True)
class Pieces:
    """Neighbours: piece k lies from bounds[k] to bounds[k + 1]."""

    bounds: Sequence[int]

    @property
    def size(self) -> int:
        """Bytes of all."""
        return self.bounds[-1] - self.bounds[0]

    def digests_or_reasons(self, file: FileIO, buffer: memoryview) -> list[int | str]:
        """Return the XXH3-64 of each piece, or why it cannot be read."""
        try:
            return list(self.digests(file, buffer))
        except OSError as exc:
            if len(self.bounds) == 2:
                return [f"cannot be read: {reason_of(exc)}"]
        pairs = map(Pieces, pairwise(self.bounds))
        return [pair.digests_or_reasons(file, buffer)[0] for pair in pairs]

    def digests(self, file: FileIO, buffer: memoryview) -> Iterator[int]:
        """Yield the XXH3-64 of each piece.

        As many pieces as fit into the buffer are read at once. xxhash releases the GIL
        for large buffers, and for small ones takes a microsecond.
        """
        bounds, first = self.bounds, 0
        while first < len(bounds) - 1:
            start = bounds[first]
            stop = bisect_right(bounds, start + len(buffer)) - 1
            if stop > first:
                block = read(file, start, bounds[stop], buffer)
                for begin, end in pairwise(bounds[first : stop + 1]):
                    yield xxh3_64_intdigest(block[begin - start : end - start])
                first = stop
            else:
                digest, end = xxh3_64(), bounds[first + 1]
                for begin in range(start, end, len(buffer)):
                    stop = min(begin + len(buffer), end)
                    digest.update(read(file, begin, stop, buffer))
                yield digest.intdigest()
                first += 1


@dataclass(frozen=True, slots=True)
class Chunks:
    """Compressed arrays: where each begins and how many bytes it has; its codec."""

    places: Sequence[tuple[int, int]]
    codecs: Sequence[Codec]

    @property
    def size(self) -> int:
        """Bytes of all."""
        return sum(size for _, size in self.places)

    def digests_or_reasons(self, file: FileIO, buffer: memoryview) -> list[int | str]:
        """Return the XXH3-64 of what each holds, or why it cannot be had."""
        found: list[int | str] = []
        for (start, size), codec in zip(self.places, self.codecs, strict=True):
            space = buffer if size <= len(buffer) else memoryview(bytearray(size))
            try:
                chunk = read(file, start, start + size, space)
            except OSError as exc:
                found.append(f"cannot be read: {reason_of(exc)}")
                continue
            try:
                found.append(xxh3_64_intdigest(codec.decode(chunk).data))
            except StoreError as exc:
                found.append(str(exc))
        return found


def read(file: FileIO, start: int, stop: int, buffer: memoryview) -> memoryview:
    """Return bytes of a file, in the buffer; raise StoreError where it ends."""
    view = buffer[: stop - start]
    file.seek(start)
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            raise StoreError(f"{file.name!s}: was truncated while it was in use")
        done += count
    return view


# What is wrong: sample or -1, part, reason.
_Finding = tuple[int, str, str]


@dataclass(frozen=True, slots=True)
class _Columns:
    """Reads columns of a store from its file, as everything here."""

    store: Store
    file: FileIO

    def __getitem__(self, name: str) -> NDArray[Any]:
        table, _, column = name.partition("/")
        values: NDArray[Any] = np.empty_like(getattr(self.store, table)[column])
        start, buffer = self.store.offsets[name], values.reshape(-1).view(np.uint8)
        read(self.file, start, start + len(buffer), memoryview(buffer))
        return values


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Some pieces of a store's file.

    sums    : their checksums when they were written
    samples : whose they are; -1 for a column
    """

    part: str
    pieces: Pieces | Chunks
    sums: Sequence[int]
    samples: Sequence[int]


def _stretches(columns: _Columns) -> Iterator[_Stretch]:
    """Yield all that has a checksum, in about the order of the file."""
    store = columns.store
    yield from _chunks(columns) if store.compression else _mapped(columns)
    vertex = store.contours["points"].itemsize * 2
    ends = columns["contours/offsets"] * vertex + store.offsets["contours/points"]
    all_rings, sums = columns["items/contours"], columns["items/contour_xxh3"]
    for first in range(0, len(store), SAMPLES):
        rings = all_rings[first : first + SAMPLES]
        yield _Stretch(
            "contours",
            Pieces(ends[[rings[0, 0], *rings[:, 1]]].tolist()),
            sums[first : first + SAMPLES].tolist(),
            range(first, first + len(rings)),
        )
    for table in ("items", "contours", "sources"):
        for column, values in getattr(store, table).items():
            name = f"{table}/{column}"
            if name in store.checksums:
                offset, wanted = store.offsets[name], int(store.checksums[name], 16)
                place = Pieces([offset, offset + values.nbytes])
                yield _Stretch(name, place, [wanted], [-1])


def _chunks(columns: _Columns) -> Iterator[_Stretch]:
    """Yield the pixels of a compressed store."""
    store, masks = columns.store, mask_dtype(columns.store.classes)
    codecs = [compression.codecs(bucket, masks) for bucket in store.buckets.values()]
    numbers = columns["items/bucket"].tolist()
    for k, part in enumerate(("image", "mask")):
        places, sums = columns[f"items/{part}_chunk"], columns[f"items/{part}_xxh3"]
        for first in range(0, len(store), CHUNKS):
            run = slice(first, first + CHUNKS)
            chunks = Chunks(
                places[run].tolist(), [codecs[number][k] for number in numbers[run]]
            )
            samples = range(first, first + len(chunks.codecs))
            yield _Stretch(part, chunks, sums[run].tolist(), samples)


def _mapped(columns: _Columns) -> Iterator[_Stretch]:
    """Yield the pixels of a store that is not compressed."""
    store = columns.store
    counts = [len(images) for images in store.images.values()]
    starts = np.cumsum([0, *counts])
    # Whose each row is, bucket after bucket. A damaged column may leave one without.
    owner = np.full(starts[-1], -1)
    places = starts[columns["items/bucket"]] + columns["items/row"]
    owner[places] = np.arange(len(store))
    image_sums = {
        "image": columns["items/image_xxh3"],
        "mask": columns["items/mask_xxh3"],
    }
    for name, (start, stop) in zip(
        store.buckets, pairwise(starts.tolist()), strict=True
    ):
        for part, arrays in (("image", store.images), ("mask", store.masks)):
            offset = store.offsets[f"{part}s/{name}"]
            size = arrays[name][0].nbytes if start < stop else 0
            length = max(STRETCH // max(size, 1), 1)
            for first in range(start, stop, length):
                samples = owner[first : min(first + length, stop)]
                begin = offset + (first - start) * size
                end = begin + len(samples) * size
                yield _Stretch(
                    part,
                    Pieces(range(begin, end + 1, size)),
                    image_sums[part][samples].tolist(),
                    samples.tolist(),
                )


def _attribute_findings(store: Store) -> list[_Finding]:
    findings = []
    software = layout.canonical_json(dict(store.software))
    if layout.checksum(software.encode()) != store.checksums["software"]:
        findings.append((-1, "software", CHANGED))
    fingerprint = layout.fingerprint(
        store.classes, list(store.buckets), store.options, store.checksums
    )
    if fingerprint != store.fingerprint:
        reason = "is not that of the classes, buckets, options and checksums"
        findings.append((-1, "fingerprint", reason))
    return findings


def _index_findings(store: Store) -> list[_Finding]:
    """Compare where the columns say that chunks are with what HDF5 says."""
    findings: list[_Finding] = []
    bucket, row = store.items["bucket"], store.items["row"]
    with checks.reading(store.path) as file:
        for part in ("image", "mask"):
            chunks = store.items[f"{part}_chunk"]
            for number, name in enumerate(store.buckets):
                try:
                    index = compression.chunk_index(file[f"{part}s/{name}"])
                except Exception as exc:  # HDF5 tells of damage by a dozen kinds
                    reason = f"has an index that HDF5 cannot read: {exc}"
                    findings.append((-1, f"{part}s/{name}", reason))
                    continue
                here = np.flatnonzero(bucket == number)
                differs = (index[row[here]] != chunks[here]).any(axis=1)
                reason = "lies elsewhere in HDF5's index"
                findings += [(k, part, reason) for k in here[differs].tolist()]
    return findings


def _check(
    stretch: _Stretch, file: FileIO, buffer: memoryview
) -> tuple[list[_Finding], int]:
    """Return what is wrong in a stretch, and its length in bytes."""
    findings = [
        (sample, stretch.part, CHANGED if isinstance(found, int) else found)
        for found, wanted, sample in zip(
            stretch.pieces.digests_or_reasons(file, buffer),
            stretch.sums,
            stretch.samples,
            strict=True,
        )
        if found != wanted
    ]
    return findings, stretch.pieces.size


@dataclass(frozen=True, slots=True)
class _Originals:
    """Some of the files that the store was made from."""

    root: Paths
    paths: Sequence[str]
    sizes: Sequence[int]
    sums: Sequence[int]


def _originals(columns: _Columns, root: Path) -> list[_Originals]:
    if not root.is_dir():
        raise OptionError(f"sources is {str(root)!r}, which is no folder")
    resolver = Paths(root)
    paths = [_text(path) for path in columns["sources/path"].tolist()]
    sizes, sums = columns["sources/size"].tolist(), columns["sources/xxh3"].tolist()
    runs = [slice(k, k + FILES) for k in range(0, len(paths), FILES)]
    return [_Originals(resolver, paths[k], sizes[k], sums[k]) for k in runs]


def _compare(
    originals: _Originals, _: FileIO, buffer: memoryview
) -> tuple[list[ChangedSource], int]:
    """Return the files that have changed, and how many bytes were compared."""
    changed, bytes_read = [], 0
    for path, size, wanted in zip(
        originals.paths, originals.sizes, originals.sums, strict=True
    ):
        try:
            place = Path(originals.root.resolve(path, "."))
            stat = place.stat()
            if not S_ISREG(stat.st_mode):
                reason = "is no file"
            elif stat.st_size != size:
                reason = f"has {stat.st_size} bytes, had {size}"
            else:
                with FileIO(place) as file:
                    (digest,) = Pieces((0, size)).digests(file, buffer)
                bytes_read += size
                reason = "" if digest == wanted else "has other content"
        except (FileNotFoundError, NotADirectoryError):
            reason = "is missing"
        except (OSError, ValueError) as exc:
            reason = f"cannot be read: {reason_of(exc)}"
        if reason:
            changed.append(ChangedSource(path=path, reason=reason))
    return changed, bytes_read


def _spread(
    work: Callable[[Job, FileIO, memoryview], Found],
    jobs: Sequence[Job],
    files: Sequence[FileIO],
    progress: Progress,
    label: str,
) -> Iterator[Found]:
    """Yield the result of each job, in order; one thread works on each file."""
    tools: SimpleQueue[tuple[FileIO, memoryview]] = SimpleQueue()
    for file in files:
        tools.put((file, memoryview(bytearray(BLOCK))))

    def run(job: Job) -> Found:
        file, buffer = tools.get()
        try:
            return work(job, file, buffer)
        finally:
            tools.put((file, buffer))

    pool = ThreadPoolExecutor(len(files), thread_name_prefix="fastseg-verify")
    try:
        yield from progress(pool.map(run, jobs), label, len(jobs))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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
    # What is damaged need not be UTF-8.
    return bytes(value).decode(errors="replace")
