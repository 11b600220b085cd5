"""Reading whole files, and telling whether they have changed since."""

import os
import stat
from typing import NamedTuple

from fastseg.errors import FileChangedError

# Without waiting, should it be a pipe, and on Windows without a change of line ends.
READ_ONLY = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class Stamp(NamedTuple):
    """What the file system says of a file; it changes when the file does."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int


def read_file(path: str, most: int) -> tuple[bytes, Stamp]:
    """Return the content of a regular file and its stamp.

    Raises OSError, also for a file of more than `most` bytes, and FileChangedError if
    somebody wrote to it meanwhile.
    """
    handle = os.open(path, READ_ONLY)
    try:
        before = _stamp(os.fstat(handle), path)
        if before.size > most:
            raise OSError(f"is {before.size} bytes long, over the limit of {most}")
        data = os.read(handle, before.size)
        while len(data) < before.size and (more := os.read(handle, before.size)):
            data += more
        if len(data) != before.size or _stamp(os.fstat(handle), path) != before:
            raise FileChangedError("has changed while it was read; build again")
    finally:
        os.close(handle)
    return data, before


def stamp_of(path: str) -> Stamp:
    """Return the stamp of a regular file, or raise OSError."""
    return _stamp(os.stat(path), path)  # noqa: PTH116  a Path costs more than the look


def _stamp(status: os.stat_result, path: str) -> Stamp:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(f"{path}: is a folder, expected a file")
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path}: is no regular file")
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
