"""The links table: which contour belongs to which image.

Link       one row
Links      all rows as columns, which are Texts, FilePaths or arrays of numbers
LinkTable  links and what was rejected; reads and writes CSV files
"""

import math
import operator
import os
import posixpath
import re
import shutil
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from fastseg.bounds import MAX_NAME_BYTES, MAX_PATH_BYTES, MAX_TEXT_BYTES
from fastseg.calls import advise_attributes, check_call
from fastseg.dicom import header
from fastseg.errors import LinkError, OptionError, PathError, is_iterable, one_of, shown
from fastseg.escapes import escaped, unquoted
from fastseg.files import EMPTY, TEXT, kind_of, no_such_file, open_regular
from fastseg.outputs import check_target
from fastseg.paths import Paths, StrPath, as_path, natural_key
from fastseg.progress import Advance, Progress, silent
from fastseg.reprs import MOST_COUNTED, listed, many, once_made, short
from fastseg.tables import (
    Reject,
    Table,
    check_rejects,
    count_lines,
    read_csv,
    save_rejects,
)
from fastseg.urls import check_url, is_url


class Link(NamedTuple):
    """One row: this contour of this class belongs to this image.

    Paths are relative to the table's folder, with forward slashes; or they are URLs, as
    `root` then is, too.

    patient      : ID of the patient
    dicom_path   : image file
    contour_path : contour file, "" for an image without contours
    frame        : frame of the image file, counted from 0
    label        : class of the contour, "" without one
    contour_key  : names one contour of a file that holds several, else ""
    format       : format of the contour file, a key of `sources.READERS`; "" means
        `sources.DEFAULT_FORMAT`
    root         : folder in which both files must lie

    What the header of the image says, "" or None where it is unknown:

    series       : SeriesInstanceUID
    position_mm  : position of the image along the normal of its series
    time         : tells apart the images of a series at one position
    rows, columns : of the image
    dtype        : name of the numpy dtype of its pixels, one of `DTYPES`
    """

    patient: str
    dicom_path: str
    contour_path: str = ""
    frame: int = 0
    label: str = ""
    contour_key: str = ""
    format: str = ""
    root: str = "."
    series: str = ""
    position_mm: float | None = None
    time: float | None = None
    rows: int | None = None
    columns: int | None = None
    dtype: str = ""


COLUMNS = Link._fields
REQUIRED = ("patient", "dicom_path", "contour_path", "label")
PATHS = ("dicom_path", "contour_path")
# Columns that may hold URLs.
URLS = (*PATHS, "root")
# What the header of an image says.
HEADER_COLUMNS = ("series", "position_mm", "time", "rows", "columns", "dtype")
DTYPES = tuple(dtype.name for dtype in header.DTYPES.values())
PAIRED = "contour_path and label must be given together or not at all"
WHOLE = re.compile(r"[0-9]{1,9}")
DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
# Classes of a store, and bits of a mask: as in `store.layout`, which is above.
MAX_CLASSES = 64
# No files left out: a default that nobody can change.
NOTHING: Mapping[str, Iterable[str]] = MappingProxyType({})
# Rows that are held as Python objects at a time.
ROWS_AT_ONCE = 2**12


class Numbers(NamedTuple):
    """What a column of numbers holds.

    typecode : of an array
    unknown  : stands for an unknown number, None if the number must be known
    expected : valid numbers in words
    """

    typecode: str
    unknown: float | None
    least: float
    most: float
    expected: str


LARGEST = sys.float_info.max
NUMBERS = {
    "frame": Numbers("q", None, 0, 10**9 - 1, "a whole number from 0"),
    "position_mm": Numbers(
        "d", np.nan, -LARGEST, LARGEST, "a finite number such as 0.5"
    ),
    "time": Numbers("d", np.nan, -LARGEST, LARGEST, "a finite number such as 0.5"),
    "rows": Numbers("i", -1, 1, 10**9 - 1, "a whole number from 1"),
    "columns": Numbers("i", -1, 1, 10**9 - 1, "a whole number from 1"),
}
TABLE = Table(
    "a links table", COLUMNS, tuple(name for name in COLUMNS if name not in NUMBERS)
)


class Texts(NamedTuple):
    """A column of texts with few distinct values: row k is `texts[codes[k]]`.

    codes : int32 (n,)
    texts : distinct; some may occur in no row
    """

    codes: NDArray[np.int32]
    texts: tuple[str, ...]

    def pick(self, rows: Any) -> "Texts":
        """Return the column of some rows."""
        return Texts(self.codes[rows], self.texts)

    def distinct(self) -> "Texts":
        """Return the column without repeated texts."""
        numbers: dict[str, int] = {}
        codes = [numbers.setdefault(text, len(numbers)) for text in self.texts]
        return Texts(np.array(codes, np.int32)[self.codes], tuple(numbers))

    def values(self) -> list[str]:
        """Return the texts of all rows."""
        return list(map(self.texts.__getitem__, self.codes.tolist()))

    def ranks(self, key: Callable[[str], Any]) -> NDArray[np.int32]:
        """Return int32 (n,), numbers that sort the rows as `key` sorts their texts."""
        order = sorted(range(len(self.texts)), key=[*map(key, self.texts)].__getitem__)
        ranks = np.empty(len(order), np.int32)
        ranks[order] = np.arange(len(order))
        return ranks[self.codes]


class FilePaths(NamedTuple):
    """A column of paths: row k is the text of `folders` plus `names[k]`.

    folders : each "" or with a slash at its end
    names   : bytes (n,), in UTF-8
    """

    folders: Texts
    names: NDArray[np.bytes_]

    def pick(self, rows: Any) -> "FilePaths":
        """Return the column of some rows."""
        return FilePaths(self.folders.pick(rows), self.names[rows])

    def values(self) -> list[str]:
        """Return the paths of all rows."""
        names = map(bytes.decode, self.names.tolist())
        return list(map(operator.add, self.folders.values(), names))

    def moved(self, convert: Callable[[str], str]) -> "FilePaths":
        """Return the paths with converted folders; an empty path stays empty."""
        codes, texts = self.folders
        is_base = np.array([folder == "" for folder in texts], np.bool_)
        is_empty = is_base[codes] & (self.names == b"")
        folders = [convert(folder or ".") for folder in texts]
        folders = ["" if folder == "." else f"{folder}/" for folder in folders]
        codes = np.where(is_empty, np.int32(len(folders)), codes)
        return FilePaths(Texts(codes, (*folders, "")), self.names)

    def ranks(self) -> NDArray[np.int32]:
        """Return int32 (2, n), two keys that sort the rows by natural order."""
        folder_ranks = self.folders.ranks(natural_key)
        first, numbers = _distinct(self.names)
        folders = sorted(self.folders.texts)
        # If a folder contains another, it precedes it in this list, with nothing in
        # between that it does not contain. Then whole paths have to be compared.
        is_nested = any(b.startswith(a) for a, b in pairwise(folders))
        if is_nested:
            folder_ranks = np.zeros_like(folder_ranks)
            first = np.arange(len(self.names))
            numbers = first.astype(np.int32)
        keys = np.empty(len(first), np.dtypes.StringDType())
        for rows in _blocks(len(keys)):
            some = self.pick(first[rows])
            names = map(bytes.decode, some.names.tolist())
            texts = some.values() if is_nested else names
            keys[rows] = list(map(natural_key, texts))
        return np.stack([folder_ranks, _distinct(keys)[1][numbers]])


def _distinct(texts: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the index of each distinct text, sorted, and the number of each in these.

    Unlike numpy.unique, it does not copy the texts.
    """
    order = np.argsort(texts, kind="stable")
    is_first = np.ones(len(texts), np.bool_)
    for rows in _blocks(len(texts) - 1):
        is_first[1:][rows] = texts[order[1:][rows]] != texts[order[:-1][rows]]
    numbers = np.empty(len(texts), np.int32)
    numbers[order] = np.cumsum(is_first) - 1
    return order[is_first], numbers


Column = Texts | FilePaths | NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Links(Sequence[Link]):
    """Links in columns: 1 000 000 rows take about 150 MB.

    A sequence of Link whose attributes are columns, named like the fields of Link.

    patient, label, contour_key, format, root, series, dtype : Texts
    dicom_path, contour_path : FilePaths
    frame             : int64 (n,)
    position_mm, time : float64 (n,), NaN where unknown
    rows, columns     : int32 (n,), -1 where unknown
    """

    patient: Texts
    dicom_path: FilePaths
    contour_path: FilePaths
    frame: NDArray[np.int64]
    label: Texts
    contour_key: Texts
    format: Texts
    root: Texts
    series: Texts
    position_mm: NDArray[np.float64]
    time: NDArray[np.float64]
    rows: NDArray[np.int32]
    columns: NDArray[np.int32]
    dtype: Texts

    @classmethod
    def of(cls, links: Iterable[Link]) -> "Links":
        """Return links in columns, in the same order.

        Raises LinkError for a value that its column cannot hold.
        """
        if isinstance(links, cls):
            return links
        builders = {name: _Builder(name) for name in COLUMNS}
        remaining = iter(links)
        while block := list(islice(remaining, ROWS_AT_ONCE)):
            if others := {type(link).__name__ for link in block} - {"Link"}:
                raise LinkError(f"links holds {', '.join(others)}, expected Link")
            for name, values in zip(COLUMNS, zip(*block, strict=True), strict=True):
                builders[name].add(values)
            if any(bool(link.contour_path) != bool(link.label) for link in block):
                raise LinkError(PAIRED)
        return cls(*(builders.pop(name).column() for name in COLUMNS))

    def __len__(self) -> int:
        return len(self.frame)

    @overload
    def __getitem__(self, k: int) -> Link: ...
    @overload
    def __getitem__(self, k: slice) -> "Links": ...
    def __getitem__(self, k: int | slice) -> "Link | Links":
        if isinstance(k, slice):
            return self.pick(k)
        return self.take(np.array([range(len(self))[k]]))[0]

    def __iter__(self) -> Iterator[Link]:
        for rows in _blocks(len(self)):
            yield from self.take(rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Links of {len(self)} rows>"

    def take(self, rows: NDArray[np.int64] | slice) -> list[Link]:
        """Return some rows, given by their indices, as Link objects."""
        columns = map(_values, self.pick(rows)._columns())
        return list(map(Link._make, zip(*columns, strict=True)))

    def pick(self, rows: NDArray[np.int64] | slice) -> "Links":
        """Return the links of some rows, given by their indices."""
        columns: list[Any] = [
            column[rows] if isinstance(column, np.ndarray) else column.pick(rows)
            for column in self._columns()
        ]
        return Links(*columns)

    def sorted(self) -> "Links":
        """Return the links in the `order` of all tables."""
        order = self.order()
        is_sorted = bool((order[1:] > order[:-1]).all())
        return self if is_sorted else self.pick(order)

    def order(self) -> NDArray[np.int64]:
        """Return int64 (n,), the rows sorted as in all tables.

        By patient, series, time, position, image, frame and class. Numbers in texts
        compare by their value: 2.dcm comes before 10.dcm. An unknown series comes
        first, an unknown time or position last.
        """
        keys: list[NDArray[Any]] = [
            self.patient.ranks(natural_key),
            self.series.ranks(natural_key),
            self.time,
            self.position_mm,
            *self.dicom_path.ranks(),
            self.frame,
            self.label.ranks(str),
            *self.contour_path.ranks(),
            self.contour_key.ranks(natural_key),
        ]
        return np.lexsort(keys[::-1])

    def filled(self, rows: NDArray[np.int64], given: "Links") -> "Links":
        """Return the links with what the header says taken from others.

        rows  : int64 (n,), the rows to fill, each once
        given : n links

        Shape and dtype are those of the others; what is known of series, position and
        time stays.
        """
        columns: dict[str, Any] = {}
        for name in HEADER_COLUMNS:
            old, new = getattr(self, name), getattr(given, name)
            if isinstance(old, Texts):
                is_empty = np.array([text == "" for text in old.texts], np.bool_)
                empty = is_empty[old.codes[rows]] | (name == "dtype")
                codes = old.codes.copy()
                codes[rows[empty]] = (new.codes + np.int32(len(old.texts)))[empty]
                columns[name] = Texts(codes, (*old.texts, *new.texts)).distinct()
            else:
                empty = np.isnan(old[rows]) | (name in ("rows", "columns"))
                columns[name] = old.copy()
                columns[name][rows[empty]] = new[empty]
        return replace(self, **columns)

    def moved(self, convert: Callable[[str], str]) -> "Links":
        """Return the links with converted folders and roots.

        convert : takes "." for the folder of the table
        """
        return replace(
            self,
            dicom_path=self.dicom_path.moved(convert),
            contour_path=self.contour_path.moved(convert),
            root=self.root._replace(texts=tuple(map(convert, self.root.texts))),
        )

    def images(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Group the links by image: by `dicom_path` and `frame`.

        Returns rows int64 (n,) and bounds int64 (m + 1,): image k of m has the links
        `rows[bounds[k]:bounds[k + 1]]`, in the order of the table. Images are in the
        order of their first links.
        """
        _, names = _distinct(self.dicom_path.names)
        columns = np.stack([self.dicom_path.folders.codes, names, self.frame])
        order = np.lexsort(columns)
        columns = columns[:, order]
        is_first = np.ones(len(self), np.bool_)
        is_first[1:] = (columns[:, 1:] != columns[:, :-1]).any(axis=0)
        # The first link of each image, by the image's number in `order`.
        first = order[is_first]
        numbers = np.empty(len(first), np.int64)
        numbers[np.argsort(first)] = np.arange(len(first))
        image = np.empty(len(self), np.int64)
        image[order] = numbers[np.cumsum(is_first) - 1]
        bounds = np.zeros(len(first) + 1, np.int64)
        np.cumsum(np.bincount(image, minlength=len(first)), out=bounds[1:])
        return np.argsort(image, kind="stable"), bounds

    def _columns(self) -> list[Column]:
        return [getattr(self, name) for name in COLUMNS]


def _blocks(count: int) -> Iterator[slice]:
    """Yield slices of up to ROWS_AT_ONCE rows."""
    for start in range(0, count, ROWS_AT_ONCE):
        yield slice(start, min(start + ROWS_AT_ONCE, count))


def _values(column: Column) -> list[Any]:
    """Return the values of a column as the fields of Link hold them."""
    if not isinstance(column, np.ndarray):
        return column.values()
    values: list[Any] = column.tolist()
    if column.dtype == np.float64:
        return [None if value != value else value for value in values]
    if column.dtype == np.int32:
        return [None if value == -1 else value for value in values]
    return values


class _Codes(dict[str, int]):
    """The code of each text; a new text is checked and gets the next code."""

    def __init__(self, name: str):
        super().__init__()
        self._name = name

    def __missing__(self, text: str) -> int:
        check_text(self._name, text)
        self[text] = code = len(self)
        return code


class _Builder:
    """A column to which values are added; each is checked."""

    def __init__(self, name: str):
        self._name = name
        # An array of Python's grows without a copy.
        self._values = array(NUMBERS[name].typecode if name in NUMBERS else "i")
        self._codes = _Codes(name)
        self._names: list[NDArray[np.bytes_]] = [np.empty(0, "S1")]

    def add(self, values: Sequence[Any]) -> None:
        """Add values as the fields of Link hold them, or raise LinkError."""
        if self._name in NUMBERS:
            self._values.extend(_check_numbers(self._name, values))
            return
        texts: Sequence[str] = values
        if self._name in PATHS and len(values):
            _check_paths(self._name, values)
            parts = [path.rpartition("/") for path in values]
            texts = [folder + slash for folder, slash, _ in parts]
            self._names.append(np.array([file.encode() for _, _, file in parts]))
        self._values.extend(map(self._codes.__getitem__, texts))

    def column(self) -> Any:
        """Return the column."""
        column: NDArray[Any] = np.asarray(self._values)
        if self._name in NUMBERS:
            return column
        texts = Texts(column, tuple(self._codes))
        if self._name in PATHS:
            return FilePaths(texts, np.concatenate(self._names))
        return texts


def column_of(name: str, values: Sequence[Any]) -> Any:
    """Return a column of Links that holds values, or raise LinkError.

    values : as the fields of Link hold them
    """
    builder = _Builder(name)
    builder.add(values)
    return builder.column()


def _check_paths(name: str, paths: Sequence[Any]) -> None:
    """Raise LinkError unless a column can hold some paths."""
    # Nearly all are short and have no spaces: checked together, in a tenth of the time.
    if {*map(type, paths)} == {str} and 4 * max(map(len, paths)) <= MAX_NAME_BYTES:
        joined = "".join(paths)
        if (
            "://" not in joined
            and joined.isascii()
            and joined.isprintable()
            and " " not in joined
        ):
            return
    for path in paths:
        check_text(name, path)


def _check_numbers(name: str, values: Sequence[Any]) -> Iterable[Any]:
    """Return numbers as their column holds them, or raise LinkError."""
    typecode, unknown, least, most, _ = NUMBERS[name]
    kinds = {*map(type, values)}
    if kinds == {type(None)} and unknown is not None:
        return repeat(unknown, len(values))
    # Nearly all are of Python's own types: checked together, in a tenth of the time.
    # Of numbers with NaN, any may be the least one.
    is_plain = kinds == {float if typecode == "d" else int}
    has_nan = is_plain and any(map(math.isnan, values))
    if is_plain and not has_nan and least <= min(values) and max(values) <= most:
        return values
    return [check_number(name, value) for value in values]


def check_text(name: str, text: object) -> None:
    """Raise LinkError unless a column can hold a value.

    name : of the column
    """
    if not isinstance(text, str):
        raise LinkError(f"{name} is of type {type(text).__name__}, expected text")
    if name in URLS and is_url(text):
        check_url(name, text)  # first: what is wrong may be a secret
    if escaped(text) != text:
        raise LinkError(
            f"{name} is '{escaped(text)}', expected text without control or format "
            "characters"
        )
    if text != text.strip():  # which no table keeps
        raise LinkError(f"{name} is {text!r}, expected text without spaces around it")
    _check_length(name, text)
    if name == "dtype" and text not in ("", *DTYPES):
        raise LinkError(one_of(name, text, DTYPES))


def _check_length(name: str, text: str) -> None:
    """Raise LinkError for a text that is longer than any real one."""
    if 4 * len(text) <= MAX_NAME_BYTES:
        return
    is_path = name in PATHS or name == "root"
    size = len(text.encode())
    most = MAX_PATH_BYTES if is_path else MAX_TEXT_BYTES
    if size > most:
        raise LinkError(f"{name} has {size} bytes, expected at most {most}")
    size = len(text.rpartition("/")[2].encode()) if name in PATHS else 0
    if size > MAX_NAME_BYTES:
        raise LinkError(
            f"{name} has a file name of {size} bytes, expected at most {MAX_NAME_BYTES}"
        )


def check_number(name: str, value: Any) -> float:
    """Return a number as its column holds it, or raise LinkError.

    name  : of the column
    value : None for an unknown number
    """
    typecode, unknown, least, most, expected = NUMBERS[name]
    if value is None and unknown is not None:
        return unknown
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    is_number = is_whole or (typecode == "d" and isinstance(value, float | np.floating))
    if not is_number or not least <= value <= most:
        raise LinkError(f"{name} is {value!r}, expected {expected}")
    number: float = value
    return number


@advise_attributes(
    rows="links holds the rows, len(table) is their number",
    contours="links holds the rows, counts() the number of each class",
    labels="classes are the names, counts() the number of links of each",
    patients="links.patient holds the patient of each row",
    to_csv="save(path) writes the table as CSV",
    write="save(path) writes the table as CSV",
    build="fastseg.build(table, 'heart.h5') writes a store",
    **dict.fromkeys(
        ("df", "to_pandas", "to_dataframe"),
        "pandas.DataFrame(list(table.links)) holds the rows",
    ),
)
@dataclass(frozen=True, slots=True, init=False, repr=False)
class LinkTable:
    """The links of a data set.

    base       : folder that the links' paths are relative to
    links      : in columns
    rejects    : files and rows that cannot be used
    unlabelled : number of images without a contour, None if unknown
    ignored    : files that are neither images nor contours
    left_out   : DICOM files that `link` left out, by what they are, such as "localizer"
    notes      : what `link` found besides, in words
    """

    base: Path
    links: Links
    rejects: tuple[Reject, ...]
    unlabelled: int | None
    ignored: tuple[str, ...]
    left_out: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]

    @check_call()
    def __init__(
        self,
        *,
        base: StrPath,
        links: Iterable[Link],
        rejects: Iterable[Reject] = (),
        unlabelled: int | None = None,
        ignored: Iterable[str] = (),
        left_out: Mapping[str, Iterable[str]] = NOTHING,
        notes: Iterable[str] = (),
    ):
        """Make a table of links in any form, see `Links.of`."""
        for name, given in (("links", links), ("rejects", rejects)):
            if not is_iterable(given):
                raise OptionError(f"{name} is {shown(given)}, expected a list")
        for name, texts in (("ignored", ignored), ("notes", notes)):
            if not is_iterable(texts):
                raise OptionError(f"{name} is {shown(texts)}, expected a list of texts")
        if not isinstance(left_out, Mapping):
            raise OptionError(
                f"left_out is {shown(left_out)}, expected paths of files by kind"
            )
        object.__setattr__(self, "base", as_path("base", base))
        object.__setattr__(self, "links", Links.of(links))
        object.__setattr__(self, "rejects", tuple(rejects))
        object.__setattr__(self, "unlabelled", unlabelled)
        object.__setattr__(self, "ignored", tuple(ignored))
        files = {kind: tuple(paths) for kind, paths in left_out.items()}
        object.__setattr__(self, "left_out", files)
        object.__setattr__(self, "notes", tuple(notes))

    def __len__(self) -> int:
        return len(self.links)

    @once_made("notes")
    def __repr__(self) -> str:
        links = many(len(self), "link")
        if len(self) <= MOST_COUNTED:
            links += f" of {many(self.images, 'image')}"
        codes, texts = self.links.patient
        patients = np.count_nonzero(np.bincount(codes, minlength=len(texts)))
        counts = [f"{name} {count}" for name, count in self.counts().items()]
        words = [links, many(int(patients), "patient"), f"classes {listed(counts)}"]
        if self.rejects:
            words.append(many(len(self.rejects), "reject"))
        return f"<LinkTable {short(str(self.base))}: {', '.join(words)}>"

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, sorted."""
        return tuple(self.counts())

    @property
    def images(self) -> int:
        """Number of images that the links name."""
        return len(self.links.images()[1]) - 1

    def counts(self) -> Mapping[str, int]:
        """Return the number of links of each class, sorted by name."""
        codes, texts = self.links.label
        counts = np.bincount(codes, minlength=len(texts)).tolist()
        pairs = sorted(zip(texts, counts, strict=True))
        return {text: count for text, count in pairs if text and count}

    @check_call()
    def save(self, path: StrPath, *, force: bool = False) -> Path:
        """Write the table as CSV, with paths relative to the folder of that file.

        force : replace any file; otherwise only a table that `save` has written, or an
            empty file

        Writes the rejects to `<path>.rejects.csv`. If `path` is a symbolic link, the
        table is written where it points, with paths relative to the folder of the link,
        and that path is returned. Raises OutputError if a file would be
        replaced that is something else, LinkError if no relative path leads from that
        folder to the data, or one has control characters.
        """
        path = as_path("path", path)
        check_outputs(path, force)
        links = _relative_to(self.links, self.base, Path(path).parent)
        target = TABLE.save(path, links, force)
        save_rejects(path, self.rejects, force)
        return target

    @classmethod
    @check_call()
    def load(cls, path: StrPath, progress: Progress = silent) -> "LinkTable":
        """Read a table and sort its links, see `Links.sorted`.

        Of a text that begins with ' before =, +, -, @ or more ', that ' is left out.

        The path may be a URL: paths of the table are then relative to its folder, too.
        Rows that cannot be used are in its `rejects`. Raises LinkError for a file that
        is not a links table, FileNotFoundError; of a URL RemoteError, NoAnswerError.
        """
        if is_url(path):
            return _load_url(check_url("path", os.fspath(path)), progress)
        rejects: list[Reject] = []
        source = as_path("path", path)
        _check_is_text(source)
        with progress("read", count_lines(source)) as advance:
            links = Links.of(_read_links(source, rejects, advance))
        return cls(base=source.parent, links=links.sorted(), rejects=rejects)


def _load_url(url: str, progress: Progress) -> "LinkTable":
    """Read a table behind a URL; what is relative in it becomes a URL."""
    folder = url.rpartition("/")[0]
    host_end = folder.find("/", folder.index("://") + 3)
    host, start = (
        (folder, "") if host_end < 0 else (folder[:host_end], folder[host_end:])
    )

    def to_url(path: str) -> str:
        if is_url(path):
            return path.rstrip("/")
        below = posixpath.normpath(f"{start or '/'}/{path}").strip("/")
        return f"{host}/{below}" if below else host

    with TemporaryDirectory(prefix="fastseg-") as working:
        local = Path(working) / "links.csv"
        with open_regular(url) as source, local.open("xb") as target:
            shutil.copyfileobj(source, target, 2**20)
        try:
            table = LinkTable.load(local, progress)
        except LinkError as exc:
            exc.args = tuple(str(x).replace(str(local), url) for x in exc.args)
            raise
    links = table.links.moved(to_url)
    rejects = [reject._replace(file=url) for reject in table.rejects]
    return LinkTable(base=".", links=links, rejects=rejects)


def _check_is_text(path: Path) -> None:
    """Raise LinkError for a folder, and for a file of a kind that is no table."""
    try:
        kind = kind_of(path)
    except FileNotFoundError:
        raise no_such_file(path, "`fastseg link` writes a links table") from None
    if kind not in ("", EMPTY, TEXT):
        raise LinkError(
            f"{path}: is {kind}, expected a links table; `fastseg link FOLDER` (in "
            "Python, fastseg.link) makes one from a data set"
        )


def check_outputs(path: StrPath, force: bool) -> Path:
    """Return the path that `LinkTable.save` would write to.

    Raises OutputError if a table there, or its list of rejects, would replace something
    else.
    """
    check_rejects(path, force)
    return check_target(path, TABLE, force)


def _read_links(path: Path, rejects: list[Reject], advance: Advance) -> Iterator[Link]:
    """Yield the rows of a table; append those that cannot be used to `rejects`."""
    paths = Paths(path.parent)
    cells = {name: _Cells(name) for name in COLUMNS}
    for line, row in read_csv(path, REQUIRED, rejects, COLUMNS):
        advance()
        try:
            link = _parse_row(row, cells)
            # Whether a file is a link that leads outside is seen when it is opened.
            paths.locate(link.dicom_path, link.root)
            if link.contour_path:
                paths.locate(link.contour_path, link.root)
        except LinkError as exc:
            rejects.append(Reject(str(path), line, str(exc)))
        else:
            yield link


class _Cells(dict[str, Any]):
    """The values of the cells of a column: a cell that is repeated is parsed once."""

    def __init__(self, name: str):
        super().__init__()
        self._name = name

    def __missing__(self, cell: str) -> Any:
        if len(self) >= ROWS_AT_ONCE:
            self.clear()
        self[cell] = value = _parse_cell(self._name, cell)
        return value


def _parse_row(row: Mapping[str, str], cells: Mapping[str, Mapping[str, Any]]) -> Link:
    values = {name: cells[name][cell] for name, cell in row.items() if cell}
    for name in ("patient", "dicom_path"):
        if name not in values:
            raise LinkError(f"the field {name} is empty")
    if ("contour_path" in values) != ("label" in values):
        raise LinkError(PAIRED)
    return Link(**values)


def _parse_cell(name: str, cell: str) -> str | float:
    """Return the value of a cell that is not empty, or raise LinkError."""
    numbers = NUMBERS.get(name)
    if numbers is None:
        text = unquoted(cell)
        _check_length(name, text)
        if name in PATHS or name == "root":
            _check_relative(name, text)
        check_text(name, text)
        return text
    _check_length(name, cell)
    is_whole = numbers.typecode != "d"
    if not (WHOLE if is_whole else DECIMAL).fullmatch(cell):
        raise LinkError(f"{name} is {cell!r}, expected {numbers.expected}")
    return check_number(name, int(cell) if is_whole else float(cell))


def _check_relative(name: str, text: str) -> None:
    if is_url(text):
        check_url(name, text)
        return
    if "\\" in text or "\0" in text or ":" in text.partition("/")[0]:
        raise PathError(f"{name} is {text!r}, expected a path with forward slashes")
    if text.startswith("/"):
        raise PathError(f"{name} is {text!r}, expected a path relative to the table")


def _relative_to(links: Links, base: Path, folder: Path) -> Links:
    """Return links with paths relative to `folder`, not to `base`."""
    # Real paths, because `..` after a symbolic link leads elsewhere.
    start = os.path.realpath(folder)
    end = os.path.realpath(base)

    def convert(path: str) -> str:
        if is_url(path):
            return path.rstrip("/")
        try:
            relative = os.path.relpath(os.path.join(end, path), start)  # noqa: PTH118
        except ValueError as exc:  # another drive
            raise LinkError(f"no relative path from {start} to {end}: {exc}") from None
        return relative.replace(os.sep, "/")

    moved = links.moved(convert)
    # The links had valid texts; the folders between may have other characters.
    for name in PATHS:
        for text in getattr(moved, name).folders.texts:
            check_text(name, text)
    for text in moved.root.texts:
        check_text("root", text)
    return moved
