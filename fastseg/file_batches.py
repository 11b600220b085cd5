"""Many files that are read into one buffer: by a kernel, or by `remote`."""

import os
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fastseg import remote
from fastseg._kernels.files import content
from fastseg._kernels.files.content import FileNames
from fastseg.urls import are_mounted, url_of


def join_paths(paths: Iterable[str | None]) -> FileNames:
    """Return paths as kernels take them; None becomes a path that does not exist."""
    joined = os.fsencode("\0".join([*(path or "" for path in paths), ""]))
    data = np.frombuffer(joined, np.uint8)
    return FileNames(data, np.concatenate([[0], np.flatnonzero(data == 0) + 1]))


class FileBatch:
    """Files that are read many at once.

    is_remote : whether any is an object behind a URL
    """

    def __init__(self, paths: Iterable[str | None]):
        """paths : without symbolic links, or URLs; None for a file not to be read"""
        self._paths = list(paths)
        # To look at each path would take as long as to join them.
        urls = {}
        if has_urls(self._paths):
            found = ((k, url_of(path)) for k, path in enumerate(self._paths) if path)
            urls = {k: url for k, url in found if url}
        self.is_remote = bool(urls)
        self._ahead = remote.Ahead(urls)
        self._urls = urls
        # Those on disks, as the kernel takes them, if it is to read all.
        self._names = join_paths(() if urls else self._paths)
        self._read: dict[int, remote.Beginning] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def pick(self, some: Sequence[int]) -> "FileBatch":
        """Return some of the files, given by their indices."""
        return FileBatch([self._paths[k] for k in some])

    def read(
        self,
        first: int,
        most: int,
        lead: int,
        buffer: NDArray[np.uint8],
        offsets: NDArray[np.int64],
        stamps: NDArray[np.int64],
        file_hashes: NDArray[np.uint64],
    ) -> int:
        """Do what the kernel `content.read_files` does with files on disks."""
        if not self._urls:
            stop: int = content.read_files(
                self._names, first, most, lead, buffer, offsets, stamps, file_hashes
            )
            return stop
        from xxhash import xxh3_64_intdigest

        self._read = {}
        end = 0
        largest = len(buffer) if most == content.WHOLE else content.WHOLE
        for k in range(first, len(self)):
            offsets[k] = content.UNREAD
            if k not in self._urls:
                continue
            found = self._ahead.take(k, most, largest)
            if found is None:
                continue
            offset = end + (-(end + lead) & (content.LINE - 1))
            size = len(found.data)
            if size > len(buffer) - offset:
                if end:
                    self._ahead.put_back(k, found)
                    return k
                continue
            buffer[offset : offset + size] = np.frombuffer(found.data, np.uint8)
            offsets[k] = offset
            end = offset + size
            stamps[k] = found.info.stamp
            file_hashes[k] = xxh3_64_intdigest(found.data)
            self._read[k] = found
        return len(self)

    def keep(self, some: NDArray[np.int64]) -> None:
        """Keep files of the last `read` for whoever reads them alone, in this thread.

        some : their indices

        Nothing is kept of files on disks, nor outside of `remote.keeping`.
        """
        if self._read:
            for k in some.tolist():
                if k in self._read:
                    self._ahead.keep(k, self._read[k])
            self._read = {}


def has_urls(paths: Iterable[str | None]) -> bool:
    """Return whether any of some paths is a URL, or stands for one."""
    return are_mounted() or any(path is not None and "://" in path for path in paths)
