"""The files below the folder of a data set, and what is wrong with the others."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fastseg.escapes import escaped
from fastseg.files import NOT_REGULAR
from fastseg.paths import is_inside, natural_key
from fastseg.tables import Reject, reason_of

# Files that editors and file managers leave behind.
JUNK_NAME = re.compile(r"\..*|.*~|.*\.sw[a-p]|Thumbs\.db|desktop\.ini", re.IGNORECASE)
UNFIT = (
    "has a backslash, a control or format character, spaces at its ends, or bytes that "
    "are not UTF-8 in its name; rename it"
)
OUTSIDE = "leads outside the data folder by a symbolic link"
FOLDER_LINK = "is a symbolic link to a folder; links to files work"


@dataclass(slots=True)
class Folder:
    """The folder of a data set, whose files its methods find.

    rejects : files and rows that cannot be used
    ignored : files that are of no use, relative to the root
    """

    root: Path
    rejects: list[Reject] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    def relative(self, path: Path) -> str:
        """Return a path below the root relative to it, with forward slashes."""
        return path.relative_to(self.root).as_posix()

    def reject(self, path: Path, reason: str, line: int | None = None) -> None:
        """List a file, a folder or a line of a file as not usable."""
        self.rejects.append(Reject(str(path), line, reason))

    def files(self, folder: Path) -> Iterator[str]:
        """Yield the files in a folder and in those below it, in natural order.

        Junk is skipped. Rejects links that lead out of the root, links to folders,
        which may form a cycle, links to themselves, what is no regular file, and names
        that a links table cannot hold.
        """
        real_root = os.path.realpath(self.root)
        if not is_inside(os.path.realpath(folder), real_root):
            self.reject(folder, OUTSIDE)
            return
        if not fits_table(self.relative(folder)):
            self.reject(folder, UNFIT)
            return
        # Of each open folder, the entries that are still to come, the last one first.
        remaining = [self._entries(os.fspath(folder))]
        while remaining:
            if not remaining[-1]:
                remaining.pop()
                continue
            entry = remaining[-1].pop()
            path = entry.path
            is_link = entry.is_symlink()
            if is_link and not is_inside(os.path.realpath(path), real_root):
                self.reject(Path(path), OUTSIDE)
            elif not fits_table(entry.name):
                self.reject(Path(path), UNFIT)
            elif entry.is_dir(follow_symlinks=False):
                remaining.append(self._entries(path))
            elif is_link and os.path.isdir(path):  # noqa: PTH112
                self.reject(Path(path), FOLDER_LINK)
            elif problem := _file_problem(entry):
                self.reject(Path(path), problem)
            elif entry.name != entry.name.strip():
                self.reject(Path(path), UNFIT)
            else:
                yield path

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        """Return what a folder holds but junk, in reverse natural order."""
        try:
            with os.scandir(folder) as entries:
                kept = [x for x in entries if not JUNK_NAME.fullmatch(x.name)]
        except OSError as exc:
            self.reject(Path(folder), reason_of(exc))
            return []
        kept.sort(key=lambda entry: (natural_key(entry.name), entry.name), reverse=True)
        return kept


def fits_table(name: str) -> bool:
    """Return whether a links table can hold the name of a file or folder."""
    return "\\" not in name and escaped(name) == name


def is_named_image(name: str) -> bool:
    """Return whether the name of a file says that it is an image."""
    return name.lower().endswith(".dcm")


def _file_problem(entry: os.DirEntry[str]) -> str:
    """Return why an entry is no regular file, "" if it is or cannot be told."""
    try:
        is_file = entry.is_file()
    except OSError as exc:  # such as a symbolic link to itself
        return reason_of(exc)
    # A file that is gone, or a link to one, is reported by whoever opens it.
    may_be_file = is_file or not os.path.exists(entry.path)  # noqa: PTH110
    return "" if may_be_file else NOT_REGULAR
