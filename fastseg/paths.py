"""Paths of a table: opened only inside their root, and sorted by natural order."""

import errno
import os
import re
from pathlib import Path
from typing import Any

from fastseg.errors import OptionError, PathError, shown
from fastseg.files import NO_LINK, Stamp, open_handle, read_file, read_handle
from fastseg.urls import check_url, is_below, is_url

StrPath = str | os.PathLike[str]
# Last components of a path that name a folder and no file.
FOLDER_NAMES = ("", ".", "..")
# Number of folders whose real paths `Paths` remembers; a table may name one folder for
# each image.
MOST_FOLDERS = 2**14
NUMBER = re.compile("[0-9]+")
COLLAPSED = re.compile(r"[a-z][a-z0-9+.-]+:/")


def as_path(name: str, given: Any) -> Path:
    """Return a path that a caller gives, or raise OptionError.

    name : of the argument
    """
    if isinstance(given, str | os.PathLike) and not isinstance(
        path := os.fspath(given), bytes
    ):
        # A Path of a URL has one slash where that has two.
        if ":/" in path and (is_url(path) or COLLAPSED.match(path)):
            raise OptionError(
                f"{name} is a URL, expected a path: only links tables and the data "
                "that they name are read from URLs, and `fastseg upload` copies a "
                "store there"
            )
        # Making another takes as long as opening a file.
        return given if isinstance(given, Path) else Path(path)
    raise OptionError(f"{name} is {shown(given)}, expected a path, as text or a Path")


def path_text(name: str, given: Any) -> str:
    """Return a path or URL that a caller gives as a text, or raise OptionError."""
    if is_url(given):
        return check_url(name, given)
    return os.fspath(as_path(name, given))


class Paths:
    """Opens the files of a table and refuses those that lie outside their root.

    base : folder of the table

    All methods take `path` and `root` as the table holds them: relative to `base`, with
    forward slashes; or both are URLs. A *real path* contains no symbolic link, or is a
    URL.
    """

    def __init__(self, base: Path):
        self._base = os.fspath(base)
        # (folder, root) -> (real path of the folder, whether it lies in the root).
        # The files of a patient lie in few folders, and to resolve one takes a dozen
        # system calls.
        self._folders: dict[tuple[str, str], tuple[str, bool]] = {}

    def resolve(self, path: str, root: str) -> str:
        """Return the real path of a file, or raise PathError if it is outside root."""
        real = self.locate(path, root)
        if not is_url(real) and os.path.islink(real):  # noqa: PTH114
            real = os.path.realpath(real)
            if not is_inside(real, self._folder(root, root)[0]):
                raise _outside(path, root)
        return real

    def locate(self, path: str, root: str) -> str:
        """Return the real path of a file's folder, and its name, without a look at it.

        This is the real path of the file unless it is a symbolic link. Raises PathError
        if the folder lies outside root.
        """
        if is_url(path):
            return _locate_url(path, root)
        folder, slash, name = path.rpartition("/")
        parent, inside = self._folder(folder + slash, root)
        real = f"{parent}{os.sep}{name}"
        if name in FOLDER_NAMES:
            real = os.path.realpath(real)
            inside = is_inside(real, self._folder(root, root)[0])
        if not inside:
            raise _outside(path, root)
        return real

    def read(self, path: str, root: str, most: int) -> tuple[bytes, Stamp]:
        """Read a file as `files.read_file` does; raise OSError or PathError."""
        if is_url(path):
            return read_file(self.locate(path, root), most)
        return read_handle(self.open(path, root), most)

    def open(self, path: str, root: str) -> int:
        """Open a file on a disk and return its handle; raise OSError or PathError."""
        real = self.direct(path, root)
        if real is not None:
            try:
                return open_handle(real, NO_LINK)
            except OSError as exc:
                if exc.errno not in (errno.ELOOP, errno.EMLINK):
                    raise
        return open_handle(self.resolve(path, root))

    def direct(self, path: str, root: str) -> str | None:
        """Return a path that is safe to open with NO_LINK; None if there is none.

        The path is real unless the file itself is a symbolic link, which the system
        then refuses to open. This saves the system call by which `resolve` checks the
        file. Where None is returned, `resolve` has to be called.
        """
        if is_url(path):
            try:
                return _locate_url(path, root)
            except PathError:
                return None
        folder, slash, name = path.rpartition("/")
        known = self._folders.get((folder + slash, root))
        parent, inside = known or self._folder(folder + slash, root)
        if NO_LINK and inside and name not in FOLDER_NAMES and "\0" not in name:
            return f"{parent}{os.sep}{name}"
        return None

    def within_root(self, path: str, root: str) -> str:
        """Return a path relative to its root; no symbolic link in it is resolved."""
        prefix = "" if root == "." else root + "/"
        rest = path[len(prefix) :]
        # True of nearly all paths; the code below takes 10 us.
        if path.startswith(prefix) and "./" not in rest and "//" not in rest:
            return rest
        # If the root lies above the table, the result contains the name of `base`.
        real = os.path.realpath(self._base)
        relative = os.path.relpath(f"{real}{os.sep}{path}", f"{real}{os.sep}{root}")
        return relative.replace(os.sep, "/")

    def _folder(self, folder: str, root: str) -> tuple[str, bool]:
        """Return the real path of a folder and whether it lies in the root."""
        known = self._folders.get((folder, root))
        if known is None:
            real, real_root = (
                os.path.realpath(os.path.join(self._base, path))  # noqa: PTH118
                for path in (folder, root)
            )
            if len(self._folders) >= MOST_FOLDERS:
                self._folders.clear()
            known = real, is_inside(real, real_root)
            self._folders[folder, root] = known
        return known


def _locate_url(url: str, root: str) -> str:
    """Return a URL that a table holds, or raise PathError."""
    check_url("a path of the table", url)
    if not is_url(root):
        raise PathError(
            f"{url} is a URL, but its root is {root!r}; write the URL of the folder "
            "that holds the data into the column root"
        )
    if not is_below(url, check_url("a root of the table", root)):
        raise _outside(url, root)
    return url


def _outside(path: str, root: str) -> PathError:
    return PathError(
        f"{path} leads outside its root {root!r}; a path must stay inside the data "
        "folder, also where it follows symbolic links"
    )


def is_inside(real_path: StrPath, real_folder: StrPath) -> bool:
    """Return whether a real path lies in a real folder."""
    return Path(real_path).is_relative_to(real_folder)


def natural_key(text: str) -> str:
    """Return a sort key in which runs of digits compare as numbers."""
    return NUMBER.sub(_number_key, text)


def _number_key(match: re.Match[str]) -> str:
    # The number of its digits precedes a number: digits of equal length sort like the
    # number. The key has no NUL, because numpy's texts with NUL sort in another order.
    digits = match[0].lstrip("0")
    return f"\1{_letters(len(digits))}{digits}{_letters(len(match[0]))}"


def _letters(number: int) -> str:
    """Return letters that sort like the number; few letters for a small one."""
    if number < 1000:
        return chr(number + 1)
    return chr(1001) + chr(number // 2**12 + 1) + chr(number % 2**12 + 1)
