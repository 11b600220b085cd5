"""The contours of a block: annotation files to rings of vertices.

Kernels read the files that are plain lists of points, many in one call. All other files
are read and parsed by their reader, each once for all links that name it.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
from xxhash import xxh3_64_intdigest

from fastseg import dicom
from fastseg._kernels.contours import labels
from fastseg._kernels.files import content, system
from fastseg.dicom import join_paths
from fastseg.errors import ContourError, GeometryError, LinkError
from fastseg.files import read_handle
from fastseg.ingest.block import Block
from fastseg.links import Link
from fastseg.paths import Paths
from fastseg.raster.rings import as_ring
from fastseg.sources import READERS, format_of, reader_of
from fastseg.sources.base import Group, Reader
from fastseg.tables import Reject, reason_of

# Parsed files that are kept for further links. Links are sorted by patient, and the
# files of a patient are few.
FILES_KEPT = 32
# Bytes of the buffer for the texts of many files. A line of a text takes at least four
# bytes, so its vertices take at most four times as many.
TEXT_BYTES = 2**20


class File(NamedTuple):
    """An annotation file: its stamp and XXH3-64, and what its reader made of it."""

    stamp: tuple[int, ...]
    xxh3: int
    parsed: Any


class Contour(NamedTuple):
    """The groups of rings of one link, and the file that they are from."""

    link: Link
    file: File
    groups: list[Group]


class Annotations:
    """Reads the contours of blocks. Threads share it."""

    def __init__(self, paths: Paths):
        self._paths = paths
        self._files: OrderedDict[tuple[str, ...], Future[File]] = OrderedDict()
        self._lock = threading.Lock()
        self._local = threading.local()

    def read_lists(self, block: Block) -> dict[Link, File]:
        """Read the files of a block that hold one ring as a list of points.

        Returns the file of each link, `parsed` is the ring; leaves out the links whose
        files kernels cannot read or parse.
        """
        point_lists = {name for name, x in READERS.items() if x.is_point_list}
        links = [
            link
            for k in block.todo()
            for link in block.links[k]
            if link.contour_path
            and not link.contour_key
            and format_of(link) in point_lists
        ]
        files: dict[Link, File] = {}
        if not links or not system.AVAILABLE:
            return files
        direct = (self._paths.direct(link.contour_path, link.root) for link in links)
        names = join_paths(direct)
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
            stop = content.read_files(
                *(names, first, content.WHOLE, 0, text, offsets, stamps, hashes)
            )
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
        lists: dict[Link, File],
        header: dicom.Header,
    ) -> list[Contour]:
        """Return the contours of image k that can be used; reject the others.

        lists  : what `read_lists` has returned for the block
        header : of the image
        """
        links = [link for link in block.links[k] if link.contour_path]
        labels = [link.label for link in links]
        contours = []
        rejects = []
        for link in links:
            try:
                count = labels.count(link.label)
                if count > 1:
                    raise LinkError(
                        f"is one of {count} links of class "
                        f"{link.label} to {link.dicom_path}, frame {link.frame}; keep "
                        "one"
                    )
                if link in lists:
                    file = lists[link]
                    groups = [Group([file.parsed])]
                else:
                    reader = reader_of(link)
                    file = self._read(link, reader)
                    groups = list(self._groups(link, reader, file, header))
            except (ContourError, LinkError, OSError) as exc:
                line = exc.line if isinstance(exc, ContourError) else None
                reason = reason_of(exc, link.contour_path)
                rejects.append(Reject(link.contour_path, line, reason))
            else:
                contours.append(Contour(link, file, groups))
        if rejects:
            block.rejects[k] = rejects
            if not contours:
                block.reject(k, "left out: none of its contours can be used")
        return contours

    def _read(self, link: Link, reader: Reader) -> File:
        """Return the parsed file of a link; raise its error for each of its links."""
        key = reader.format, link.root, link.contour_path
        with self._lock:
            known = self._files.get(key)
            future = known or Future()
            self._files[key] = future
            self._files.move_to_end(key)
            if len(self._files) > FILES_KEPT:
                self._files.popitem(last=False)
        if known is None:
            try:
                handle = self._paths.open(link.contour_path, link.root)
                data, stamp = read_handle(handle, reader.max_bytes)
                parsed = reader.parse(data, link.contour_path)
                future.set_result(File(tuple(stamp), xxh3_64_intdigest(data), parsed))
            except BaseException as exc:
                future.set_exception(exc)
        return future.result()

    def _groups(
        self, link: Link, reader: Reader, file: File, header: dicom.Header
    ) -> Iterator[Group]:
        """Yield the groups of a link, with their rings checked."""
        name = link.contour_path
        groups = reader.rings(file.parsed, link, header)
        if not any(group.rings for group in groups):
            raise ContourError(f"{name}: holds no contour of this image")
        for group in groups:
            try:
                yield group._replace(rings=list(map(as_ring, group.rings)))
            except GeometryError as exc:
                raise ContourError(f"{name}: {exc}") from None
