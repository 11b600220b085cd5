"""The pixels of a store in the making: a file that several threads write."""

import os
import threading
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.files import start_writeback
from fastseg.store.writing.journal import Journal

# Arrays that systems write in one call.
MOST_AT_ONCE = 1024


class PixelFile:
    """A file of pixels and the journal that tells what is in it."""

    def __init__(self, path: Path, journal: Journal):
        self.path, self.journal = path, journal
        self._local = threading.local()
        self._files: list[FileIO] = []

    def read(self, place: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return an array; zeros behind the end of the file."""
        array = np.zeros(shape, dtype)
        file, view, done = self._file(), memoryview(array).cast("B"), 0
        file.seek(place)
        while done < len(view) and (count := file.readinto(view[done:])):
            done += count
        return array

    def write(self, place: int, array: NDArray[Any]) -> None:
        """Write a C-contiguous array."""
        file, view = self._file(), memoryview(array).cast("B")
        file.seek(place)
        while len(view):  # a full disk may take a part before it says so
            view = view[file.write(view) :]

    def write_all(self, offsets: Sequence[int], parts: Sequence[memoryview]) -> None:
        """Write bytes; neighbours in one call, 1.4 times as fast as in 8."""
        first = end = 0
        for k, (place, part) in enumerate(zip(offsets, parts, strict=True)):
            if place != end or k - first == MOST_AT_ONCE:
                self._write_row(offsets[first], parts[first:k])
                first, end = k, place
            end += len(part)
        if parts:
            self._write_row(offsets[first], parts[first:])

    def _write_row(self, place: int, parts: Sequence[memoryview]) -> None:
        """Write bytes one behind the other."""
        if len(parts) == 1 or not hasattr(os, "pwritev"):
            for part in parts:
                self.write(place, np.frombuffer(part, np.uint8))
                place += len(part)
        elif parts:
            done = os.pwritev(self._file().fileno(), parts, place)
            if done != sum(map(len, parts)):
                # A full disk may take a part before it says so.
                rest = np.frombuffer(b"".join(parts)[done:], np.uint8)
                self.write(place + done, rest)

    def handle(self) -> int:
        """Return the number of a file that is open to read and write."""
        return self._file().fileno()

    def start_writeback(self) -> None:
        """Let the system begin to bring what was written to the disk."""
        start_writeback(self._file().fileno())

    def close(self) -> None:
        """Close the files, which stay."""
        self.journal.close()
        for file in self._files:
            file.close()

    def _file(self) -> FileIO:
        # One for each thread, since each has a position of its own.
        if not hasattr(self._local, "file"):
            self._local.file = FileIO(os.fspath(self.path), "r+")
            self._files.append(self._local.file)
        file: FileIO = self._local.file
        return file
