"""A file object for h5py that records write errors and raises them at the end.

If a write fails, as on a full disk, HDF5 cannot close its file and later aborts the
process (h5py 3.11 to 3.16). So the file object reports success to HDF5, and `open_hdf5`
raises the first error after HDF5 has closed the file.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import h5py

from fastseg.outputs import create_work, open_work


@contextmanager
def open_hdf5(path: Path, mode: str, **options: Any) -> Iterator[Any]:
    """Open an HDF5 file for writing; raise the first error of a write at the end.

    mode    : "w" for a new file, "r+" to continue one
    options : as for h5py.File
    """
    output = _Output(path, mode)
    try:
        with h5py.File(output, mode, **options) as file:
            yield file
    except Exception:
        if output.failure is None:  # otherwise this error is a consequence of it
            raise
    finally:
        output.close()
    if output.failure is not None:
        raise output.failure


class _Output:
    """A Python file object for h5py; `failure` is the first error."""

    def __init__(self, path: Path, mode: str):
        self._name = path
        self._file = FileIO(create_work(path) if mode == "w" else open_work(path), "r+")
        self.failure: BaseException | None = None

    def __repr__(self) -> str:
        return str(self._name)

    def write(self, data: Any) -> int:
        """Write all bytes, unless there was a failure."""

        def write() -> None:
            view = memoryview(data)
            while len(view):
                view = view[self._file.write(view) :]

        self._attempt(write)
        return len(data)

    def readinto(self, data: Any) -> int:
        """Fill a buffer, with zeros beyond the end of the file."""

        def read() -> None:
            view = memoryview(data)
            while len(view) and (count := self._file.readinto(view)):
                view = view[count:]

        memoryview(data)[:] = bytes(len(data))
        self._attempt(read)
        return len(data)

    # h5py accepts an object with `read` as a file, but calls `readinto`.
    read = readinto

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set the position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def truncate(self, size: int) -> int:
        """Set the length of the file."""
        self._attempt(lambda: self._file.truncate(size))
        return size

    def flush(self) -> None:
        """Do nothing: no write is buffered."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _attempt(self, action: Callable[[], Any]) -> None:
        if self.failure is None:
            try:
                action()
            except BaseException as exc:  # Ctrl-C, too, must not reach HDF5
                self.failure = exc
