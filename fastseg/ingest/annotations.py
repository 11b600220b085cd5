"""The contours of a block: annotation files to rings of vertices.

Kernels read the files that are plain lists of points, many in one call. All other files
are read and parsed by their reader, each once for all links that name it.
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from xxhash import xxh3_64_intdigest

from fastseg import dicom
from fastseg._kernels.contours import labels, polygon
from fastseg._kernels.files import content, system
from fastseg.dicom.structure_set import is_structure_set
from fastseg.errors import ContourError, GeometryError, LinkError
from fastseg.file_batches import FileBatch
from fastseg.files import open_regular
from fastseg.ingest.block import Block
from fastseg.links import Link
from fastseg.paths import Paths
from fastseg.raster.rings import as_ring, join_rings
from fastseg.sources import DEFAULT_FORMAT, READERS, format_of, reader_of
from fastseg.sources.base import Group, ManyRingsReader
from fastseg.sources.rtstruct import RtStruct
from fastseg.sources.tree import HEAD_BYTES
from fastseg.tables import Reject, reason_of

# Bytes of parsed files that are kept for blocks to come. Links are sorted by patient
# and series, so the blocks that need a file follow each other.
KEPT_BYTES = 2**25
# Bytes that each of them counts besides, so that their number is bounded, too.
ENTRY_BYTES = 2**10
# Bytes of the buffer for the texts of many files. A line of a text takes at least four
# bytes, so its vertices take at most four times as many.
TEXT_BYTES = 2**20


# Format, root and path of a contour file.
Key = tuple[str, str, str]


class File(NamedTuple):
    """An annotation file: its stamp and XXH3-64, and what its reader made of it."""

    stamp: tuple[int, ...]
    xxh3: int
    parsed: Any


class Contour(NamedTuple):
    """The groups of rings of one link; stamp and XXH3-64 of the file they are from."""

    link: Link
    stamp: tuple[int, ...]
    xxh3: int
    groups: list[Group]


class _ParsedFiles:
    """Parsed files, or why they cannot be used, by key. Threads share it.

    It knows all files that a block refers to, and keeps those that were used last: up
    to KEPT_BYTES of them, and at least one.
    """

    def __init__(self) -> None:
        self._known: WeakValueDictionary[Key, Future[File | Reject]]
        self._known = WeakValueDictionary()
        self._kept: OrderedDict[Key, Future[File | Reject]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(
        self, key: Key, read: Callable[[], File | Reject]
    ) -> "Future[File | Reject]":
        """Return a file that has been read; it is known as long as this is kept.

        read : reads it, if it is not known
        """
        with self._lock:
            future = self._known.get(key)
            is_new = future is None
            if future is None:
                future = self._known[key] = Future()
        if is_new:
            try:
                future.set_result(read())
            except BaseException as exc:
                future.set_exception(exc)
        size = _size(future)  # waits for the thread that reads it
        with self._lock:
            if self._kept.get(key) is not future:
                self._kept[key] = future
                self._bytes += size
            self._kept.move_to_end(key)
            while self._bytes > KEPT_BYTES and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= _size(oldest)
        return future


def _size(future: "Future[File | Reject]") -> int:
    """Return the bytes that a file counts, or raise what reading it has raised.

    They are the `nbytes` of what its reader returned, or of the file if it has none.
    """
    file = future.result()
    if not isinstance(file, File):
        return ENTRY_BYTES
    held: int = getattr(file.parsed, "nbytes", file.stamp[0])
    return ENTRY_BYTES + held


@dataclass(slots=True, kw_only=True)
class BlockFiles:
    """What is known of the contour files of a block.

    lists     : the files that kernels have read, by link: `parsed` is the ring
    contours  : those that have been read beforehand, many at once
    remaining : how many links of each other file are still to be read
    parsed    : such files that have been read, as long as links remain
    """

    lists: dict[Link, File]
    remaining: Counter[Key]
    contours: dict[Link, Contour] = field(default_factory=dict)
    parsed: dict[Key, "Future[File | Reject]"] = field(default_factory=dict)

    def count_read(self, key: Key, count: int) -> None:
        """Note that links of a file have been read."""
        self.remaining[key] -= count
        if not self.remaining[key]:
            self.parsed.pop(key, None)


class Annotations:
    """Reads the contours of blocks. Threads share it."""

    def __init__(self, paths: Paths):
        self._paths = paths
        self._files = _ParsedFiles()
        self._local = threading.local()

    def read(self, block: Block) -> BlockFiles:
        """Read the files of a block that kernels can read, and count all others."""
        lists = self._read_lists(block)
        rest = (
            _key(link)
            for k in block.todo()
            for link in block.links[k]
            if link.contour_path and link not in lists
        )
        return BlockFiles(lists=lists, remaining=Counter(rest))

    def read_many(
        self, block: Block, files: BlockFiles, scans: dicom.HeaderScans
    ) -> None:
        """Read the contours of files whose readers return many at once.

        files : what `read` has returned for the block, to which they are added
        scans : headers of the images; contours of an UNKNOWN one are left out

        What cannot be used is left to `contours`, which says why.
        """
        by_file: dict[Key, list[tuple[Link, int]]] = {}
        for k in block.todo():
            if scans.header_index[k] == dicom.UNKNOWN:
                continue
            for link in block.links[k]:
                if link.contour_path and link not in files.lists:
                    by_file.setdefault(_key(link), []).append((link, k))
        headers: dict[int, dicom.Header] = {}
        for key, pairs in by_file.items():
            reader = READERS.get(key[0])
            if not isinstance(reader, ManyRingsReader):
                continue
            links = [link for link, _ in pairs]
            for _, k in pairs:
                if k not in headers:
                    headers[k] = scans.header_of(k)
            file = self._parsed(links[0], files)
            if isinstance(file, Reject):
                continue
            own = [headers[k] for _, k in pairs]
            results = reader.many_rings(file.parsed, links, own)
            found = [
                Contour(link, file.stamp, file.xxh3, groups)
                for link, groups in zip(links, results, strict=True)
                if groups
            ]
            points, offsets = join_rings(
                [ring for x in found for group in x.groups for ring in group.rings]
            )
            if polygon.check_rings(points, offsets)[0] < 0:
                files.contours.update((x.link, x) for x in found)
                files.count_read(key, len(found))

    def _read_lists(self, block: Block) -> dict[Link, File]:
        """Read the files of a block that hold one ring as a list of points.

        Returns `BlockFiles.lists`; leaves out the links whose files kernels cannot read
        or parse.
        """
        formats = point_lists()
        links = [
            link
            for k in block.todo()
            for link in block.links[k]
            if link.contour_path and not link.contour_key and format_of(link) in formats
        ]
        files: dict[Link, File] = {}
        if not links or not system.AVAILABLE:
            return files
        direct = (self._paths.direct(link.contour_path, link.root) for link in links)
        batch = FileBatch(direct)
        if not hasattr(self._local, "text"):
            self._local.text = np.empty(TEXT_BYTES, np.uint8)
            self._local.vertices = np.empty((TEXT_BYTES // 4, 2))
        text, vertices = self._local.text, self._local.vertices
        offsets = np.empty(len(links), np.int64)
        stamps = np.empty((len(links), 4), np.int64)
        hashes = np.empty(len(links), np.uint64)
        counts = np.empty(len(links), np.int64)
        first = 0
        while first < len(links):
            stop = batch.read(first, content.WHOLE, 0, text, offsets, stamps, hashes)
            labels.parse_files(
                text, offsets, stamps[:, 0], first, stop, vertices, counts
            )
            points = vertices[: counts[first:stop].sum()].copy()
            ends = np.cumsum(counts[first:stop]).tolist()
            start = 0
            for k, end in enumerate(ends, first):
                if end > start:
                    stamp = tuple(stamps[k].tolist())
                    files[links[k]] = File(stamp, int(hashes[k]), points[start:end])
                start = end
            first = stop
        return files

    def contours(
        self,
        block: Block,
        k: int,
        files: BlockFiles,
        header: Callable[[], dicom.Header],
    ) -> list[Contour]:
        """Return the contours of image k that can be used; reject the others.

        files  : what `read` has returned for the block
        header : returns that of the image, or raises DicomError
        """
        links = [link for link in block.links[k] if link.contour_path]
        if not links:
            return []
        counts = Counter(link.label for link in links)
        contours = []
        rejects = []
        incomplete = set()
        for link in links:
            try:
                if counts[link.label] > 1:
                    _check_joins(link, links)
                contour = self._contour(link, files, header)
            except (ContourError, LinkError, OSError) as exc:
                line = exc.line if isinstance(exc, ContourError) else None
                reason = reason_of(exc, link.contour_path)
                contour = Reject(link.contour_path, line, reason)
            if isinstance(contour, Reject):
                rejects.append(contour)
                incomplete.add(link.label)
            else:
                contours.append(contour)
        if rejects:
            for contour in contours:
                if contour.link.label in incomplete:
                    rejects.append(_reject_part(contour.link))
            contours = [x for x in contours if x.link.label not in incomplete]
            block.rejects[k] = rejects
            if not contours:
                block.reject(k, "left out: none of its contours can be used")
        return contours

    def _contour(
        self, link: Link, files: BlockFiles, header: Callable[[], dicom.Header]
    ) -> Contour | Reject:
        """Return the contour of a link, or why its file cannot be used.

        Raises ContourError, LinkError or OSError.
        """
        ring = files.lists.get(link)
        if ring is not None:
            return Contour(link, ring.stamp, ring.xxh3, [Group([ring.parsed])])
        known = files.contours.get(link)
        if known is not None:
            return known
        file = self._parsed(link, files)
        files.count_read(_key(link), 1)
        if isinstance(file, Reject):
            return file
        groups = list(self._groups(link, file, header()))
        return Contour(link, file.stamp, file.xxh3, groups)

    def _parsed(self, link: Link, files: BlockFiles) -> File | Reject:
        """Return the parsed file of a link, and keep it while others need it."""
        key = _key(link)
        future = files.parsed.get(key)
        if future is None:
            future = self._files.get(key, lambda: self._parse(link))
            files.parsed[key] = future
        return future.result()

    def _parse(self, link: Link) -> File | Reject:
        """Return the parsed file of a link, or why it cannot be used."""
        name = link.contour_path
        try:
            reader = reader_of(link)
            data, stamp = self._paths.read(name, link.root, reader.max_bytes)
            return File(tuple(stamp), xxh3_64_intdigest(data), reader.parse(data, name))
        except (ContourError, LinkError, OSError) as exc:
            # Not the error itself, which refers to what all callers were doing.
            line = exc.line if isinstance(exc, ContourError) else None
            reason = reason_of(exc, name)
            if not link.format and self._is_structure_set(link):
                line = None
                reason = (
                    f"is an RT structure set, but `format` is empty, which means "
                    f"{DEFAULT_FORMAT}; write {RtStruct.format}"
                )
            return Reject(name, line, reason)

    def _is_structure_set(self, link: Link) -> bool:
        """Return whether the contour file of a link is a structure set."""
        with (
            suppress(LinkError, OSError),
            open_regular(self._paths.resolve(link.contour_path, link.root)) as file,
        ):
            return is_structure_set(file.read(HEAD_BYTES) or b"")
        return False

    def _groups(self, link: Link, file: File, header: dicom.Header) -> Iterator[Group]:
        """Yield the groups of a link, with their rings checked."""
        name = link.contour_path
        groups = reader_of(link).rings(file.parsed, link, header)
        if not any(group.rings for group in groups):
            raise ContourError(f"{name}: holds no contour of this image")
        for group in groups:
            try:
                yield group._replace(rings=list(map(as_ring, group.rings)))
            except GeometryError as exc:
                raise ContourError(f"{name}: {exc}") from None


def point_lists() -> set[str]:
    """Return the formats whose files hold one ring each, as a list of points."""
    return {name for name, reader in READERS.items() if reader.is_point_list}


def _key(link: Link) -> Key:
    """Return the key of a link's contour file."""
    return format_of(link), link.root, link.contour_path


def _check_joins(link: Link, links: Sequence[Link]) -> None:
    """Raise LinkError unless the links of a class can be joined.

    links : of the image
    """
    same = [other for other in links if other.label == link.label]
    if sum(_names_same(link, other) for other in same) > 1:
        raise LinkError(
            f"{link.label} on {link.dicom_path}, frame {link.frame}: the table has "
            "this contour twice; keep one"
        )
    if not all(reader_of(other).joins for other in same):
        raise LinkError(
            f"is one of {len(same)} links of class {link.label} to {link.dicom_path}, "
            f"frame {link.frame}; keep one"
        )


def _names_same(link: Link, other: Link) -> bool:
    """Return whether two links of a class name the same contour of a file."""
    return _key(link) == _key(other) and link.contour_key == other.contour_key


def _reject_part(link: Link) -> Reject:
    """Return the reject of a contour whose class lacks another one on its image."""
    return Reject(
        link.contour_path,
        None,
        f"{link.label} on {link.dicom_path}, frame {link.frame}: left out, because "
        "another contour of the class on this image is rejected",
    )
