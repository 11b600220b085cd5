"""Output files: what they may replace, and how they are written.

An output replaces only an empty file or an earlier output of its own kind, which the
`Kind` recognises by its content, unless the user forces it. A target that is a symbolic
link is written where the link points, and the link stays. An output that replaces a
file gets its mode.

A file is written under a temporary name beside its target, and renamed when it is
complete. No symbolic link is followed there, and nothing is written to a file that has
other names (hard links) or belongs to somebody else.
"""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from fastseg.errors import OutputError, true_or_false
from fastseg.files import NO_LINK, name_path, open_regular
from fastseg.paths import StrPath

READ_WRITE = os.O_RDWR | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
NEW = os.O_CREAT | os.O_EXCL | NO_LINK
# Links that lead to one another; the system follows no more of them.
MOST_LINKS = 40
# The permissions of a private file, and those that the process's umask reduces.
PRIVATE = 0o600
DEFAULT = 0o666


class Kind(Protocol):
    """A kind of output."""

    @property
    def name(self) -> str:
        """The kind with its article, as in "a links table"."""

    def recognises(self, file: FileIO) -> bool:
        """Return whether an open file, at its start, is an output of this kind."""


class Permissions(NamedTuple):
    """Who may use a file: its mode and its group."""

    mode: int
    group: int


def check_target(path: StrPath, kind: Kind, force: bool = False) -> Path:
    """Return the path that an output is written to: where a link points, else `path`.

    Raises OutputError if that is no regular file; if the link, or a link where it
    points, belongs to somebody else; or if it exists, is not empty, is not recognised
    as an output of this kind, and `force` is not set.
    """
    force = true_or_false("force", force)
    target = link = Path(path)
    for _ in range(MOST_LINKS):
        if not link.is_symlink():
            break
        if not _is_ours(link, link.lstat()):
            raise OutputError(
                f"{link}: is a symbolic link of another user, which fastseg does not "
                "follow; remove it, or choose another name"
            )
        link = link.parent / link.readlink()
    real = Path(os.path.realpath(target)) if target.is_symlink() else target
    try:
        status = target.stat()
    except FileNotFoundError:
        return real
    if not stat.S_ISREG(status.st_mode):
        problem = "is a folder" if target.is_dir() else "is no regular file"
        raise OutputError(f"{path}: {problem}, expected the name of {kind.name}")
    if not (force or status.st_size == 0 or is_output(target, kind)):
        raise OutputError(
            f"{path}: is not recognised as {kind.name} that fastseg wrote, and is not "
            "replaced; choose another name, or replace it by --force (in Python, "
            "force=True)"
        )
    return real


def check_input(output: StrPath, source: StrPath, what: str, kind: Kind) -> None:
    """Raise OutputError if an output is the file that it is made from.

    what : that file is, with its article

    Nothing may force this: the file would be lost.
    """
    with contextlib.suppress(FileNotFoundError):
        if Path(output).samefile(source):
            raise OutputError(
                f"{output}: is {what} that is read, and is not replaced; choose "
                f"another name for {kind.name}"
            )


def is_output(path: Path, kind: Kind) -> bool:
    """Return whether a regular file is recognised as an output of a kind."""
    with name_path(path), open_regular(path) as file:
        return kind.recognises(file)


@contextlib.contextmanager
def write_atomically(
    path: StrPath, kind: Kind, force: bool = False, like: Path | None = None
) -> Iterator[tuple[Path, BinaryIO]]:
    """Open a file to write, which becomes the output when the `with` block ends.

    Yields the path that it will have, see `check_target`, and the file.

    like : a file whose permissions a new output gets

    If the block fails, the target stays as it was. Raises OutputError as `check_target`
    does, also if the target has become another file meanwhile.
    """
    target = check_target(path, kind, force)
    target.parent.mkdir(parents=True, exist_ok=True)
    permissions = permissions_of(target) or (like and permissions_of(like))
    temporary = target.with_name(f".fastseg-{secrets.token_hex(4)}.partial")
    handle = _create(temporary, PRIVATE if permissions else DEFAULT)
    try:
        with name_path(target), os.fdopen(handle, "wb") as file:
            yield target, file
            if permissions:
                permit(handle, permissions)
            file.flush()
            os.fsync(handle)  # else a power cut could leave an empty file of that name
        check_target(path, kind, force)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def permissions_of(path: Path) -> Permissions | None:
    """Return the permissions of a file, None if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return Permissions(stat.S_IMODE(status.st_mode) & 0o777, status.st_gid)


def permit(handle: int, permissions: Permissions) -> None:
    """Give an open file these permissions, or fewer if its group cannot be set.

    Does nothing on Windows, whose modes protect nothing.
    """
    if os.name == "nt":
        return
    mode, group = permissions
    status = os.fstat(handle)
    if status.st_gid != group:
        try:
            os.fchown(handle, -1, group)
        except OSError:  # nobody else may read what only that group could
            mode &= ~0o070
    if stat.S_IMODE(status.st_mode) != mode:
        os.fchmod(handle, mode)


def check_work(path: Path, *, owned: bool = True) -> None:
    """Raise OutputError if a working file exists and fastseg may not write to it.

    owned : whether it must belong to this user, or to the owner of the folder, who
        could replace it at any time
    """
    with contextlib.suppress(FileNotFoundError):
        _check_status(path, path.lstat(), owned)


def create_work(path: Path, mode: int = PRIVATE) -> int:
    """Create a working file, and return its handle, open to read and write.

    A file of an earlier process under that name is removed. Raises OutputError as
    `check_work` does.
    """
    check_work(path)
    path.unlink(missing_ok=True)
    return _create(path, mode)


def open_work(path: Path) -> int:
    """Open a working file to read and write, and return its handle.

    Raises OutputError as `check_work` does, FileNotFoundError.
    """
    _check_status(path, path.lstat())
    try:
        handle = os.open(path, READ_WRITE | NO_LINK)
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.EMLINK):
            check_work(path)
        raise
    try:
        _check_status(path, os.fstat(handle))
    except BaseException:
        os.close(handle)
        raise
    return handle


def _create(path: Path, mode: int) -> int:
    """Create a file that does not exist, and return its handle, to read and write."""
    return os.open(path, READ_WRITE | NEW, mode)


def _is_ours(path: Path, status: os.stat_result) -> bool:
    """Return whether a file belongs to this user or to the owner of its folder."""
    if os.name == "nt":
        return True
    return status.st_uid in (os.geteuid(), path.parent.stat().st_uid)


def _check_status(path: Path, status: os.stat_result, owned: bool = True) -> None:
    """Raise OutputError unless a file with this status is a working file of ours."""
    problem = None
    if stat.S_ISLNK(status.st_mode):
        problem = "is a symbolic link"
    elif not stat.S_ISREG(status.st_mode):
        problem = "is no regular file"
    elif status.st_nlink > 1:
        problem = "has another name (a hard link)"
    elif owned and not _is_ours(path, status):
        problem = "belongs to another user"
    if problem:
        raise OutputError(
            f"{path}: {problem}, and fastseg writes nothing there; remove it, or "
            "choose another name for the output"
        )
