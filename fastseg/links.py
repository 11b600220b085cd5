"""LinkTable: which contour belongs to which image, and what was rejected."""

import contextlib
import csv
import errno
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

from fastseg.errors import LinkError, PathError
from fastseg.files import NO_LINK, READ_ONLY

StrPath = str | os.PathLike[str]


class Reject(NamedTuple):
    """Input that is not used: its file, the 1-based line or None, and the reason."""

    file: str
    line: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One row: this contour of this class belongs to this image.

    Paths are relative to the table's folder, with forward slashes.

    patient      : ID of the patient
    dicom_path   : image file
    contour_path : contour file, "" for an image without contours
    frame        : frame of the image file, counted from 0
    label        : class of the contour, "" without one
    contour_key  : names one contour of a file that holds several, else ""
    format       : format of the contour file, a key of `sources.READERS`
    root         : folder in which both files must lie
    """

    patient: str
    dicom_path: str
    contour_path: str = ""
    frame: int = 0
    label: str = ""
    contour_key: str = ""
    format: str = ""
    root: str = "."


# Last components of a path that name a folder and no file.
FOLDER_NAMES = ("", ".", "..")
COLUMNS = tuple(field.name for field in fields(Link))
# Columns with few different texts; memory holds each text once.
INTERNED = {"patient", "label", "format", "root"}
REQUIRED = ("patient", "dicom_path", "contour_path", "label")
# Number of folders whose real paths `Paths` remembers; a table may name one folder for
# each image.
MOST_FOLDERS = 2**14


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkTable:
    """The links of a data set.

    base       : folder that the links' paths are relative to
    links      : sorted
    rejects    : files and rows that cannot be used
    unlabelled : number of images without a contour, None if unknown
    ignored    : files that are neither images nor contours
    """

    base: Path
    links: tuple[Link, ...]
    rejects: tuple[Reject, ...] = ()
    unlabelled: int | None = None
    ignored: tuple[str, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.links)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, sorted."""
        return tuple(sorted({link.label for link in self.links if link.label}))

    @property
    def images(self) -> int:
        """Number of images that the links name."""
        return len({(link.dicom_path, link.frame) for link in self.links})

    def counts(self) -> Mapping[str, int]:
        """Return the number of links of each class."""
        labels = Counter(link.label for link in self.links if link.label)
        return {name: labels[name] for name in self.classes}

    def save(self, path: StrPath) -> Path:
        """Write the table as CSV, with paths relative to the folder of that file.

        Writes the rejects to `<path>.rejects.csv`. Raises LinkError if no relative
        path leads from that folder to the data.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        links = _relative_to(self.links, self.base, target.parent)
        partial = target.with_name(target.name + ".partial")
        with partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            for link in links:
                writer.writerow({name: getattr(link, name) for name in COLUMNS})
        partial.replace(target)
        save_rejects(target, self.rejects)
        return target

    @classmethod
    def load(cls, path: StrPath) -> "LinkTable":
        """Read a table; rows that cannot be used are in its `rejects`.

        Raises LinkError for a file that is not a links table, FileNotFoundError.
        """
        rejects: list[Reject] = []
        links = sorted(read_links(path, rejects), key=sort_key)
        return cls(base=Path(path).parent, links=tuple(links), rejects=tuple(rejects))


def read_links(path: StrPath, rejects: list[Reject]) -> Iterator[Link]:
    """Yield the rows of a table; append those that cannot be used to `rejects`.

    Raises LinkError for a file that is not a links table, FileNotFoundError.
    """
    source = Path(path)
    paths = Paths(source.parent)
    for line, row in read_csv(source, REQUIRED, rejects):
        try:
            link = _parse_row(row)
            paths.resolve(link.dicom_path, link.root)
            paths.resolve(link.contour_path or link.dicom_path, link.root)
        except LinkError as exc:
            rejects.append(Reject(str(source), line, str(exc)))
        else:
            yield link


class Paths:
    """Opens the files of a table and refuses those that lie outside their root.

    base : folder of the table

    All methods take `path` and `root` as the table holds them: relative to `base`, with
    forward slashes. A *real path* contains no symbolic link.
    """

    def __init__(self, base: Path):
        self._base = os.fspath(base)
        # (folder, root) -> (real path of the folder, whether it lies in the root).
        # The files of a patient lie in few folders, and to resolve one takes a dozen
        # system calls.
        self._folders: dict[tuple[str, str], tuple[str, bool]] = {}

    def resolve(self, path: str, root: str) -> str:
        """Return the real path of a file, or raise PathError if it is outside root."""
        folder, slash, name = path.rpartition("/")
        parent, inside = self._folder(folder + slash, root)
        real = f"{parent}{os.sep}{name}"
        if name in FOLDER_NAMES or os.path.islink(real):  # noqa: PTH114
            real = os.path.realpath(real)
            inside = is_inside(real, self._folder(root, root)[0])
        if not inside:
            raise PathError(
                f"{path} leads outside its root {root!r}; a path must stay inside the "
                "data folder, also where it follows symbolic links"
            )
        return real

    def open(self, path: str, root: str) -> int:
        """Open a file to read and return its handle; raise OSError or PathError."""
        real = self.direct(path, root)
        if real is not None:
            try:
                return os.open(real, READ_ONLY | NO_LINK)
            except OSError as exc:
                if exc.errno not in (errno.ELOOP, errno.EMLINK):
                    raise
        return os.open(self.resolve(path, root), READ_ONLY)

    def direct(self, path: str, root: str) -> str | None:
        """Return a path that is safe to open with NO_LINK; None if there is none.

        The path is real unless the file itself is a symbolic link, which the system
        then refuses to open. This saves the system call by which `resolve` checks the
        file. Where None is returned, `resolve` has to be called.
        """
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


def is_inside(real_path: StrPath, real_folder: StrPath) -> bool:
    """Return whether a real path lies in a real folder."""
    return Path(real_path).is_relative_to(real_folder)


def sort_key(link: Link) -> tuple[object, ...]:
    """Order links by patient, image, frame and class; 2.dcm comes before 10.dcm."""
    return (
        natural_key(link.patient),
        natural_key(link.dicom_path),
        link.frame,
        link.label,
        natural_key(link.contour_path),
        natural_key(link.contour_key),
    )


def natural_key(text: str) -> str:
    """Return a sort key in which runs of digits compare as numbers."""
    # The number of its digits precedes a number: digits of equal length sort like the
    # number. The text takes a seventh of the memory of nested tuples that sort alike.
    return "".join(
        f"\1{chr(len(run.lstrip('0')))}{run.lstrip('0')}{chr(len(run))}"
        if run[0] in "0123456789"
        else f"\2{run}\0"
        for run in re.findall(r"[0-9]+|[^0-9]+", text)
    )


def reason_of(exc: Exception, *paths: StrPath) -> str:
    """Return an error's text as a reject's reason: without the path of the file."""
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    text = str(exc)
    line = getattr(exc, "line", None)
    for path in paths:
        text = text.removeprefix(f"{os.fspath(path)}: ")
        text = text.removeprefix(f"{os.fspath(path)}, line {line}: ")
    return text


def read_csv(
    path: Path, required: Sequence[str], rejects: list[Reject]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (1-based line, row) of a UTF-8 CSV file with a header, BOM or not.

    Appends rows with too few or too many fields to `rejects`. Raises LinkError for any
    other file, FileNotFoundError if there is none.
    """
    expected = f"expected a table with the columns {', '.join(required)}"
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            names = [name.strip() for name in next(reader, [])]
            missing = [name for name in required if name not in names]
            if missing:
                raise LinkError(
                    f"{path}, line 1: no column {', '.join(missing)}; {expected}"
                )
            for row in reader:
                if len(row) == len(names):
                    values = (value.strip() for value in row)
                    yield reader.line_num, dict(zip(names, values, strict=True))
                elif row:
                    reason = f"the row has {len(row)} fields, expected {len(names)}"
                    rejects.append(Reject(str(path), reader.line_num, reason))
        except UnicodeDecodeError as exc:
            line = _first_undecodable_line(path)
            reason = f"is not UTF-8 text ({exc.reason})"
            raise LinkError(f"{path}, line {line}: {reason}; {expected}") from None
        except csv.Error as exc:
            line = reader.line_num
            raise LinkError(f"{path}, line {line}: {exc}; {expected}") from None


def _first_undecodable_line(path: Path) -> int:
    # The reader does not know it: files are decoded some lines ahead.
    number = 0
    with path.open("rb") as file, contextlib.suppress(UnicodeDecodeError):
        for number, line in enumerate(file, 1):  # noqa: B007
            line.decode()
    return number


def rejects_path(output: StrPath) -> Path:
    """Return the path of the file that lists the rejects of an output."""
    return Path(f"{os.fspath(output)}.rejects.csv")


def save_rejects(output: StrPath, rejects: Iterable[Reject]) -> Path | None:
    """Write rejects to a file beside the output; if there are none, remove it.

    Returns the path of the file, None if there are none.
    """
    path = rejects_path(output)
    rows = list(rejects)
    if not rows:
        path.unlink(missing_ok=True)
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file name need not be UTF-8; bytes that are not are written as escapes.
    with path.open(
        "w", encoding="utf-8", newline="", errors="backslashreplace"
    ) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Reject._fields)
        writer.writerows(rows)
    return path


def _parse_row(row: Mapping[str, str]) -> Link:
    values = {name: row[name] for name in COLUMNS if row.get(name)}
    for name in INTERNED & values.keys():
        values[name] = sys.intern(values[name])
    for name in ("patient", "dicom_path"):
        if name not in values:
            raise LinkError(f"the field {name} is empty")
    for name, value in values.items():
        if re.search(r"[\0-\x1f\x7f]", value) and "path" not in name:
            raise LinkError(f"{name} is {value!r}, expected text without controls")
    if bool(row["contour_path"]) != bool(row["label"]):
        raise LinkError("contour_path and label must be given together or not at all")
    for name in ("dicom_path", "contour_path", "root"):
        _check_relative(name, values.get(name, ""))
    frame = values.pop("frame", "0")
    if not re.fullmatch("[0-9]{1,9}", frame):
        raise LinkError(f"frame is {frame!r}, expected a whole number from 0")
    link = Link(**values, frame=int(frame))  # type: ignore[arg-type]
    if link.contour_path and not link.format:
        link = replace(link, format="sunnybrook")
    return link


def _check_relative(name: str, text: str) -> None:
    if "\\" in text or "\0" in text or ":" in text.partition("/")[0]:
        raise PathError(f"{name} is {text!r}, expected a path with forward slashes")
    if text.startswith("/"):
        raise PathError(f"{name} is {text!r}, expected a path relative to the table")


def _relative_to(links: Iterable[Link], base: Path, folder: Path) -> Iterable[Link]:
    """Yield links whose paths, relative to `base`, are relative to `folder` instead."""
    # Real paths, because `..` after a symbolic link leads elsewhere.
    start = os.path.realpath(folder)
    end = os.path.realpath(base)

    def convert(path: str) -> str:
        try:
            relative = os.path.relpath(os.path.join(end, path), start)  # noqa: PTH118
        except ValueError as exc:  # another drive
            raise LinkError(f"no relative path from {start} to {end}: {exc}") from None
        return relative.replace(os.sep, "/")

    for link in links:
        yield replace(
            link,
            dicom_path=convert(link.dicom_path),
            contour_path=convert(link.contour_path) if link.contour_path else "",
            root=convert(link.root),
        )
