"""The file of pixels of an unfinished store, which several threads write at once."""

import os
import threading
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.files import start_writeback
from fastseg.outputs import (
    DEFAULT,
    PRIVATE,
    Permissions,
    create_work,
    open_work,
    permit,
)

# The most buffers that Linux and macOS write in one call.
MOST_AT_ONCE = 1024
# Bytes of several buffers in one call, at most. For longer writes Linux takes huge
# pages into its cache. In a virtual machine it has often returned these to the host
# before: with calls of 4 MB for masks, a build of CT images took twice the system time.
BYTES_AT_ONCE = 2**21


class PixelFile:
    """A file of pixels; each thread has a file object of its own.

    permissions : those that the file gets when `begin` creates or continues it; those
        of any new file, if None
    """

    def __init__(self, path: Path, permissions: Permissions | None = None):
        self.path = path
        self._permissions = permissions
        self._local = threading.local()
        self._files: list[FileIO] = []

    def begin(self, is_new: bool) -> None:
        """Create the file, or continue with the one that is there.

        Raises OutputError if it is not an earlier process's, see `outputs.check_work`.
        """
        permissions = self._permissions
        if is_new or not os.path.lexists(self.path):
            handle = create_work(self.path, PRIVATE if permissions else DEFAULT)
        else:
            handle = open_work(self.path)
        self._keep(handle)
        if permissions:
            # The owner must be able to open it again.
            mode = permissions.mode | PRIVATE
            permit(handle, permissions._replace(mode=mode))

    def read(self, offset: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return an array; it is zero beyond the end of the file."""
        array = np.zeros(shape, dtype)
        file = self._file()
        view = memoryview(array).cast("B")
        done = 0
        file.seek(offset)
        while done < len(view) and (count := file.readinto(view[done:])):
            done += count
        return array

    def write(self, offset: int, array: NDArray[Any]) -> None:
        """Write a C-contiguous array."""
        file = self._file()
        view = memoryview(array).cast("B")
        file.seek(offset)
        while len(view):  # a full disk may take some bytes before it raises an error
            view = view[file.write(view) :]

    def write_all(self, offsets: Sequence[int], buffers: Sequence[memoryview]) -> None:
        """Write buffers; adjacent ones in one call, 1.4 times as fast as in 8 calls.

        At most MOST_AT_ONCE of them, and BYTES_AT_ONCE unless one alone is longer.
        """
        first = end = 0
        for k, (offset, buffer) in enumerate(zip(offsets, buffers, strict=True)):
            is_full = k - first == MOST_AT_ONCE
            is_full |= end + len(buffer) - offsets[first] > BYTES_AT_ONCE
            if offset != end or is_full:
                self._write_adjacent(offsets[first], buffers[first:k])
                first = k
                end = offset
            end += len(buffer)
        if buffers:
            self._write_adjacent(offsets[first], buffers[first:])

    def _write_adjacent(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Write buffers one behind the other."""
        if len(buffers) == 1 or not hasattr(os, "pwritev"):
            for buffer in buffers:
                self.write(offset, np.frombuffer(buffer, np.uint8))
                offset += len(buffer)
        elif buffers:
            done = os.pwritev(self._file().fileno(), buffers, offset)
            if done != sum(map(len, buffers)):
                # A full disk may take some bytes before it raises an error.
                rest = np.frombuffer(b"".join(buffers)[done:], np.uint8)
                self.write(offset + done, rest)

    def handle(self) -> int:
        """Return the descriptor of this thread's file, open to read and write."""
        return self._file().fileno()

    def start_writeback(self) -> None:
        """Let the system begin to write new bytes to the disk."""
        start_writeback(self._file().fileno())

    def sync(self) -> None:
        """Wait until all that was written is on the disk."""
        os.fsync(self._file().fileno())

    def close(self) -> None:
        """Close all files; none is removed."""
        for file in self._files:
            file.close()

    def _file(self) -> FileIO:
        # One file object for each thread, because `seek` sets a position.
        if not hasattr(self._local, "file"):
            self._keep(open_work(self.path))
        file: FileIO = self._local.file
        return file

    def _keep(self, handle: int) -> None:
        self._local.file = FileIO(handle, "r+")
        self._files.append(self._local.file)
