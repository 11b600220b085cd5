"""Splits as tables: a CSV file with one row for each sample.

    part        name of the part; parts keep their order
    index       index of the sample in the store that was split
    source      file of its image, relative to the root of the data set
    frame       frame of that file, from 0
    image_xxh3  XXH3-64 of the image, as 16 hex digits
    patient, series, instance   as in the store, for people who read the table
    by          what is in one part only: patient, series, volume or sample
    store       first 16 hex digits of the fingerprint of the store that was split

`read_split` finds the samples by `source`, `frame` and `image_xxh3`, not by `index`. So
a table fits every store that holds these images, also one with other masks or with more
patients. The file has no comments, so that every CSV reader can read it.
"""

from collections.abc import Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg.calls import check_call
from fastseg.choices import By
from fastseg.errors import OptionError
from fastseg.escapes import escaped, unquoted
from fastseg.outputs import check_input, check_target
from fastseg.paths import StrPath, as_path
from fastseg.progress import Advance, Progress, silent
from fastseg.store.reader import Store, as_store
from fastseg.store.selection import check_indices
from fastseg.store.splits import check_parts
from fastseg.store.text import decode
from fastseg.tables import Reject, Table, read_csv

IDENTITY = ("source", "frame", "image_xxh3")
FOR_READERS = ("patient", "series", "instance")
COLUMNS = ("part", "index", *IDENTITY, *FOR_READERS, "by", "store")
TABLE = Table(
    "a table of a split",
    COLUMNS,
    ("part", "source", "patient", "series"),
)
# Digits of a fingerprint that are enough to distinguish stores.
FINGERPRINT_DIGITS = 16
# So many rows are made at once.
BLOCK_ROWS = 2**12


@check_call("check_split(store, parts)")
def check_split(
    store: Store | StrPath,
    parts: Mapping[str, ArrayLike],
    *,
    by: By = "patient",
    indices: ArrayLike | None = None,
) -> None:
    """Raise OptionError if a sample, or a patient, is in two parts.

    store   : a store, as `fastseg.open` returns it, or the path of one
    parts   : indices of samples, by name of the part
    by      : what must be in one part only: "patient", "series", "volume" or "sample"
    indices : if given, the parts together must hold exactly these samples
    """
    check_parts(as_store(store), parts, by=by, indices=indices)


@check_call("write_split('splits.csv', store, parts)")
def write_split(
    path: StrPath,
    store: Store | StrPath,
    parts: Mapping[str, ArrayLike],
    *,
    by: By = "patient",
    force: bool = False,
    progress: Progress = silent,
) -> Path:
    """Write a split of a store as CSV and return the file's path.

    store : a store, as `fastseg.open` returns it, or the path of one
    parts : indices of samples, by name of the part, as `Store.split` returns them
    by    : what is in one part only: "patient", "series", "volume" or "sample"; this is
        checked before anything is written
    force : replace any file; otherwise only a table of a split, or an empty file
    progress : reports how many rows are written, see `fastseg.progress`

    Rows are in the order of the parts, then of the store. If `path` is a symbolic link,
    the file is written where it points, and that path is returned. Raises OutputError
    if a file would be replaced that is something else, OptionError if a patient
    (series, volume, sample) is in two parts, or a part has no name or no sample, and
    what `fastseg.open` raises for a path.
    """
    path = as_path("path", path)
    opened = as_store(store)
    for source in opened.paths:
        check_input(path, source, "the store", TABLE)
    check_target(path, TABLE, force)
    check_parts(opened, parts, by=by)
    indices_of = {name: check_indices(opened, part) for name, part in parts.items()}
    for name, indices in indices_of.items():
        if not name or name != escaped(name.strip()) or not len(indices):
            raise OptionError(
                f"part {name!r} has {len(indices)} samples; each part needs a name, "
                "without spaces around it and control characters, and at least one "
                "sample"
            )
    with progress("write", sum(map(len, indices_of.values()))) as advance:
        return TABLE.save(path, _rows(opened, indices_of, by, advance), force)


def _rows(
    store: Store,
    indices_of: Mapping[str, NDArray[np.int64]],
    by: By,
    advance: Advance,
) -> Iterator[tuple[str | int, ...]]:
    """Yield the rows of a table."""
    fingerprint = store.fingerprint[:FINGERPRINT_DIGITS]
    for name, indices in indices_of.items():
        for start in range(0, len(indices), BLOCK_ROWS):
            block = indices[start : start + BLOCK_ROWS]
            yield from zip(
                repeat(name),
                block.tolist(),
                *_identity(store, block),
                *(_texts(store, store.items[column][block]) for column in FOR_READERS),
                repeat(by),
                repeat(fingerprint),
                strict=False,
            )
            advance(len(block))


@check_call("read_split('splits.csv', store)")
def read_split(path: StrPath, store: Store | StrPath) -> dict[str, NDArray[np.int64]]:
    """Read a split and return the indices of each part's samples in a store, sorted.

    store : a store, as `fastseg.open` returns it, or the path of one

    The store need not be the one that was split, if it holds the same images. Its
    samples that are not in the table are in no part. Raises OptionError if an image is
    not in the store, a row names no part or a patient is in two parts, LinkError if the
    file is not a table of a split, FileNotFoundError.
    """
    opened = as_store(store)
    parts, units = read_parts(path, opened)
    try:
        checked = {name: check_indices(opened, part) for name, part in parts.items()}
        for unit in units:
            check_parts(opened, checked, by=cast(By, unit))  # it refuses others
    except OptionError as exc:
        raise OptionError(f"{as_path('path', path)}: {exc}") from None
    return checked


def read_parts(
    path: StrPath, opened: Store
) -> tuple[dict[str, NDArray[np.int64]], set[str]]:
    """Read a split that may have a patient, or a sample, in two parts.

    Returns the indices of each part's samples, in the order of the rows, and what is in
    one part only by the column `by`. Raises what `read_split` does but for this.
    """
    path = as_path("path", path)
    identities = zip(*_identity(opened, np.arange(len(opened))), strict=True)
    index_of_image = {identity: index for index, identity in enumerate(identities)}
    if len(index_of_image) < len(opened):
        raise OptionError(
            f"{opened.name}: two samples have the same source, frame and pixels, "
            "but for spaces or control characters, which no build writes: a table "
            "cannot tell them apart. Build the store again"
        )
    indices_of_part: dict[str, list[int]] = {}
    units: set[str] = set()
    bad: list[Reject] = []
    for line, cells in read_csv(path, COLUMNS, bad, COLUMNS):
        row = cells | {name: unquoted(cells[name]) for name in TABLE.texts}
        index = index_of_image.get(tuple(row[name] for name in IDENTITY))
        if index is None:
            raise OptionError(
                f"{path}, line {line}: frame {row['frame']} of {row['source']} is not "
                f"in {opened.name}, or its image has changed. The table splits "
                f"the store with fingerprint {row['store']}, this store has "
                f"{opened.fingerprint[:FINGERPRINT_DIGITS]}: split this store again"
            )
        if not row["part"]:
            raise OptionError(
                f"{path}, line {line}: names no part; give it one, or remove the row"
            )
        indices_of_part.setdefault(row["part"], []).append(index)
        units.add(row["by"])
    if bad:
        raise OptionError(f"{path}, line {bad[0].line}: {bad[0].reason}")
    if not indices_of_part:
        raise OptionError(f"{path}: names no sample")
    parts = {name: np.array(part, np.int64) for name, part in indices_of_part.items()}
    return parts, units


def _identity(store: Store, indices: NDArray[np.int64]) -> list[list[str]]:
    """Return the columns that identify samples in any store, as texts."""
    items = store.items
    checksums = items["image_xxh3"][indices].tolist()
    return [
        _texts(store, store.sources["path"][items["source"][indices]]),
        _texts(store, items["frame"][indices]),
        [f"{checksum:016x}" for checksum in checksums],
    ]


def _texts(store: Store, column: NDArray[np.generic]) -> list[str]:
    # Tables have no control characters and `read_csv` strips fields, so the texts that
    # are compared with them have none either.
    if column.dtype.kind == "S":
        return [escaped(text.strip()) for text in decode(store, column.tolist())]
    return list(map(str, column.tolist()))
