"""The file of a store, mapped into memory, and the check that it is still the same."""

import io
import mmap
import os
import weakref
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn, cast

from fastseg.errors import StoreError
from fastseg.store import checks


class MappedFile:
    """A file that is mapped into memory.

    file : the open file, which the caller may close

    map        : all its bytes
    status     : `os.stat_result` of the file when it was mapped
    attributes : of the store, to be set by whoever reads them
    """

    attributes: checks.Attributes

    def __init__(self, file: FileIO):
        self._path = str(file.name)
        self._handle = os.dup(file.fileno())
        # At the end of the process, threads may still need it.
        weakref.finalize(self, os.close, self._handle).atexit = False
        self.status = os.fstat(self._handle)
        self.map = mmap.mmap(self._handle, self.status.st_size, access=mmap.ACCESS_READ)
        self._seen = (
            self.status.st_size,
            self.status.st_mtime_ns,
            self.status.st_ctime_ns,
        )

    @property
    def handle(self) -> int:
        """Handle of the open file."""
        return self._handle

    def map_privately(self, offset: int, size: int) -> memoryview:
        """Return bytes of the file that may be written to, and map them again.

        Writing to a page copies it first, so that it changes neither the file nor what
        others see of it.
        """
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        pages = mmap.mmap(
            self._handle,
            offset + size - start,
            access=mmap.ACCESS_COPY,
            offset=start,
        )
        return memoryview(pages)[offset - start :]

    def check(self) -> None:
        """Raise StoreError if the file has changed since it was mapped, in 4 us.

        Whoever writes to a file changes its modification time. If only the time of its
        last change of status is another, as after `chmod`, a new link or a rename, the
        attributes of the store are read again and compared, once: they have checksums
        of all else.
        """
        try:
            now = os.fstat(self._handle)
        except OSError as exc:  # as on a network, or in a process that closes all files
            raise StoreError(
                f"{self._path}: cannot be checked for changes ({exc.strerror}); open "
                "it again"
            ) from exc
        if (now.st_size, now.st_mtime_ns, now.st_ctime_ns) == self._seen:
            return
        then = self.status
        if now.st_size < then.st_size:
            raise StoreError(
                f"{self._path}: was truncated while it was in use; copy or build it "
                "again, and open it again"
            )
        is_same = now.st_size == then.st_size and now.st_mtime_ns == then.st_mtime_ns
        if not is_same or self._read_attributes() != self.attributes:
            raise StoreError(
                f"{self._path}: was changed while it was in use; open it again"
            )
        self._seen = now.st_size, now.st_mtime_ns, now.st_ctime_ns

    def _read_attributes(self) -> checks.Attributes:
        # The mapped file, whatever file has its name now.
        reader = cast("FileIO", _Reader(self._handle, self._path))
        with checks.open_hdf5(reader) as file:
            return checks.read_attributes(file)


class Closed:
    """What a closed store has instead of its map and arrays: each use raises.

    path : of the store
    """

    __slots__ = ("_path",)

    def __init__(self, path: Path):
        self._path = path

    def check(self) -> NoReturn:
        """Raise StoreError."""
        raise StoreError(
            f"{self._path}: the store was closed; open it again with fastseg.open"
        )

    def __getattr__(self, name: str) -> NoReturn:
        self.check()

    def __getitem__(self, key: object) -> NoReturn:
        self.check()


class _Reader(io.RawIOBase):
    """Reads a file with a position of its own.

    Duplicates of a descriptor share their position, also with forked processes.
    """

    def __init__(self, handle: int, name: str):
        self.name = name
        self._handle = handle
        self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position and return it."""
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            offset += os.fstat(self._handle).st_size
        self._position = offset
        return offset

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read bytes at the position into a buffer and return their number."""
        count = os.preadv(self._handle, [buffer], self._position)
        self._position += count
        return count
