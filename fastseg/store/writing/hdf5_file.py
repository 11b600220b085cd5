"""What HDF5 writes to: a file that never fails it.

Where a write fails, as on a full disk, HDF5 cannot close its file any more, and ends
the process later on (h5py 3.11 to 3.16). So it is told that all is well, and what was
wrong is raised when it is done.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import h5py


@contextmanager
def open_hdf5(path: Path, mode: str, **options: Any) -> Iterator[Any]:
    """Open an HDF5 file to write, or raise OSError when it is left.

    mode    : "w" for a new file, "r+" for one that goes on
    options : as for h5py.File
    """
    output = _Output(path, mode)
    try:
        with h5py.File(output, mode, **options) as file:
            yield file
    except Exception:
        if output.failure is None:  # else HDF5 has stumbled over what is not there
            raise
    finally:
        output.close()
    if output.failure is not None:
        raise output.failure


class _Output:
    """A file for h5py's driver of Python files; `failure` is what went wrong first."""

    def __init__(self, path: Path, mode: str):
        self._file = FileIO(os.fspath(path), "w+" if mode == "w" else mode)
        self.failure: BaseException | None = None

    def __repr__(self) -> str:
        return str(self._file.name)

    def write(self, data: Any) -> int:
        """Write all of it."""

        def write() -> None:
            view = memoryview(data)
            while len(view):
                view = view[self._file.write(view) :]

        self._attempt(write)
        return len(data)

    def readinto(self, data: Any) -> int:
        """Read all of it, zeros where nothing has been written."""

        def read() -> None:
            view = memoryview(data)
            while len(view) and (count := self._file.readinto(view)):
                view = view[count:]

        memoryview(data)[:] = bytes(len(data))
        self._attempt(read)
        return len(data)

    # h5py takes for a file what has this; it calls `readinto`.
    read = readinto

    def seek(self, place: int, whence: int = 0) -> int:
        """Go to a place."""
        return self._file.seek(place, whence)

    def tell(self) -> int:
        """Return the place."""
        return self._file.tell()

    def truncate(self, size: int) -> int:
        """Give the file its length."""
        self._attempt(lambda: self._file.truncate(size))
        return size

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _attempt(self, action: Callable[[], Any]) -> None:
        if self.failure is None:
            try:
                action()
            except BaseException as exc:  # Ctrl-C, too, is no business of HDF5's
                self.failure = exc
