"""Reads files with a stamp that shows later changes; allocates and flushes files."""

import contextlib
import ctypes
import errno
import os
import re
import stat
import sys
from codecs import getincrementaldecoder
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import NamedTuple, cast

from fastseg.errors import FileChangedError
from fastseg.urls import url_of

# O_NONBLOCK: opening a pipe does not wait. O_BINARY: Windows does not change line ends.
READ_ONLY = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

# Makes `os.open` fail for a symbolic link; 0 where the system has no such flag.
NO_LINK = getattr(os, "O_NOFOLLOW", 0)

# Holds functions that only Linux has and that Python does not offer.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
# Errors by which `fallocate` reports that it does not work here, not that the disk is
# full.
_UNSUPPORTED = (
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EINVAL,
    errno.EPERM,
    errno.EINTR,
)


# Errors of opening a socket, or a device that is not there.
_NO_FILE = (errno.ENXIO, errno.EOPNOTSUPP, errno.ENODEV)
NOT_REGULAR = "is no regular file"


# What files of known kinds begin with, at an offset.
TEXT = "a text file"
EMPTY = "an empty file"
HDF5 = "an HDF5 file"
_MARKS = {
    (0, b"\x89HDF\r\n\x1a\n"): HDF5,
    (128, b"DICM"): "a DICOM file",
    (0, b"\x89PNG"): "a PNG picture",
    (0, b"\xff\xd8\xff"): "a JPEG picture",
    (0, b"%PDF-"): "a PDF",
    (0, b"II*\0"): "a TIFF picture",
    (0, b"MM\0*"): "a TIFF picture",
    (0, b"\x93NUMPY"): "a numpy array",
    (0, b"PK\3\4"): "a zip archive",
    (0, b"\x1f\x8b"): "a gzip archive",
    (344, b"n+1\0"): "a NIfTI image",
}
_HEAD_BYTES = 512
# Files of a folder in which a similar name is looked for.
_MOST_NAMES = 1000


class Stamp(NamedTuple):
    """Status of a file; it changes when the file changes.

    All fields are int64; of a longer inode number, the low 64 bits.
    """

    size: int
    modified_ns: int
    changed_ns: int
    inode: int


def open_handle(path: str | os.PathLike[str], flags: int = 0) -> int:
    """Open a file to read, without waiting, and return its handle.

    flags : more flags of `os.open`

    Raises OSError. `read_handle` refuses what is no regular file.
    """
    try:
        return os.open(path, READ_ONLY | flags)
    except OSError as exc:
        if exc.errno not in _NO_FILE:
            raise
        raise OSError(NOT_REGULAR) from None


def open_regular(path: str | os.PathLike[str]) -> FileIO:
    """Open a regular file for reading, unbuffered.

    Raises OSError. If its `errno` is None, the path is no regular file, and its text
    begins with the path and says what it is instead: to read a pipe could take for
    ever. The object behind a URL has all methods but `fileno`.
    """
    if url := url_of(path):
        from fastseg.remote import RangeFile

        return cast(FileIO, RangeFile(url))
    try:
        _stamp(os.stat(path))  # noqa: PTH116  some devices act when they are opened
        file = FileIO(path, opener=_open)
        try:
            _stamp(os.fstat(file.fileno()))
        except BaseException:
            file.close()
            raise
    except OSError as exc:
        if exc.errno is not None:
            raise
        raise type(exc)(f"{os.fspath(path)}: {exc}") from None
    return file


def read_file(path: str, most: int) -> tuple[bytes, Stamp]:
    """Return the content of a regular file and its stamp.

    Raises OSError, also for a file of more than `most` bytes, and FileChangedError if
    the file changed while it was read. Of a URL, reads the object.
    """
    if url := url_of(path):
        from fastseg.remote import read_object

        data, stamp = read_object(url, most)
        return data, Stamp(*stamp)
    return read_handle(open_handle(path), most)


def read_handle(handle: int, most: int) -> tuple[bytes, Stamp]:
    """Read an open file as `read_file` does, and close it."""
    try:
        before = _stamp(os.fstat(handle))
        if before.size > most:
            raise OSError(f"is {before.size} bytes long, over the limit of {most}")
        data = os.read(handle, before.size)
        while len(data) < before.size and (more := os.read(handle, before.size)):
            data += more
        if len(data) != before.size or _stamp(os.fstat(handle)) != before:
            raise FileChangedError("has changed while it was read; try again")
    finally:
        os.close(handle)
    return data, before


def stamp_of(path: str) -> Stamp:
    """Return the stamp of a regular file, or of the object behind a URL.

    Raises OSError.
    """
    if url := url_of(path):
        from fastseg.remote import info_of

        return Stamp(*info_of(url).stamp)
    # A Path costs more than the system call.
    return _stamp(os.stat(path))  # noqa: PTH116


def stamps_of(paths: Sequence[str]) -> list[Stamp | OSError]:
    """Return what `stamp_of` returns or raises for many files, in less time."""
    results: list[Stamp | OSError] = []
    urls = [url for path in paths if (url := url_of(path))]
    if urls:
        from fastseg.remote import infos_of

        found = dict(zip(urls, infos_of(urls), strict=True))
    for path in paths:
        if url := url_of(path):
            info = found[url]
            results.append(info if isinstance(info, OSError) else Stamp(*info.stamp))
            continue
        try:
            results.append(stamp_of(path))
        except OSError as exc:
            results.append(exc)
    return results


def identify(path: str) -> tuple[int, int] | None:
    """Return device and inode of a regular file, which its hard links share.

    Returns None for a symbolic link. Raises OSError.
    """
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return None
    if not stat.S_ISREG(status.st_mode):
        _stamp(status)  # raises the reason
    return status.st_dev, ctypes.c_int64(status.st_ino).value


def reserve(handle: int, start: int, length: int) -> None:
    """Allocate disk space for a range of bytes of a file, or raise OSError.

    Does nothing on systems without `fallocate`. Writing to the range then takes two
    thirds of the time, and the bytes lie together on the disk.
    """
    if _libc is None or not hasattr(_libc, "fallocate"):
        return
    numbers = map(ctypes.c_int64, (start, length))
    if _libc.fallocate(handle, 0, *numbers) and ctypes.get_errno() not in _UNSUPPORTED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def start_writeback(handle: int) -> None:
    """Start to write the changed bytes of a file to the disk, and do not wait.

    Does nothing on systems without `sync_file_range`. A later fsync then has little to
    do: of a file of 64 MB, 128 KB take 55 µs instead of 78 until they are on the disk.
    """
    if _libc is not None and hasattr(_libc, "sync_file_range"):
        everything = ctypes.c_int64(0)
        _libc.sync_file_range(handle, everything, everything, ctypes.c_uint(2))


def kind_of(path: str | os.PathLike[str]) -> str:
    """Return in words, with the article, what is at a path, from its first bytes.

    For messages. "" for what is not known. Raises OSError.
    """
    if os.path.isdir(path):  # noqa: PTH112  a Path costs more than the system call
        return "a folder"
    with name_path(Path(path)), open_regular(path) as file:
        head = file.read(_HEAD_BYTES) or b""
    for (start, mark), kind in _MARKS.items():
        if head[start : start + len(mark)] == mark:
            return kind
    if not head:
        return EMPTY
    try:
        # The last character may be cut.
        text = getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return ""
    return "" if re.search(r"[\0-\10\16-\37]", text) else TEXT


def no_such_file(path: Path, advice: str) -> FileNotFoundError:
    """Return the error for a file that is not there, with a name that may be meant.

    advice : how to make the file, if no other has a similar name
    """
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = [entry.name for entry in islice(os.scandir(path.parent), _MOST_NAMES)]
    near = get_close_matches(path.name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else advice
    return FileNotFoundError(errno.ENOENT, f"No such file ({hint})", str(path))


@contextlib.contextmanager
def name_path(path: Path) -> Iterator[None]:
    """Re-raise an OSError that names no file with a path added.

    For the file or folder that a function works on: to read, lock and close an open
    file can fail, and the system's error does not say which file it was.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno is None or exc.filename is not None:
            raise
        raise OSError(exc.errno, exc.strerror, str(path)) from exc


def _open(path: str, flags: int) -> int:
    return open_handle(path, flags)


def _stamp(status: os.stat_result) -> Stamp:
    if not stat.S_ISREG(status.st_mode):
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError("is a folder, expected a file")
        raise OSError(NOT_REGULAR)
    inode = ctypes.c_int64(status.st_ino).value
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, inode)
