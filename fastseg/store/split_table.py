"""Splits as tables: a CSV file with a row per sample that says which part it is in.

    part        name of the part; parts keep their order
    index       place of the sample in the store that was split
    source      file of its image, relative to the root of the data set
    frame       frame of that file, from 0
    image_xxh3  checksum of the image, 16 hex digits
    patient, series, instance   as in the store, for those who read the table
    by          what is whole: patient, series or sample
    store       first 16 hex digits of the store's fingerprint

A split outlives its store: it is read by `source`, `frame` and `image_xxh3`, so
it fits each store that holds these images, were it built with other masks or more
patients. All is in columns, without comments, so any reader of CSV takes it.
"""

import csv
from collections.abc import Mapping
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg.errors import OptionError
from fastseg.links import Reject, StrPath, read_csv
from fastseg.store.selection import check_indices
from fastseg.store.splits import check_split

if TYPE_CHECKING:
    from fastseg.store.reader import Store

IDENTITY = ("source", "frame", "image_xxh3")
ABOUT = ("patient", "series", "instance")
COLUMNS = ("part", "index", *IDENTITY, *ABOUT, "by", "store")
# Digits of a fingerprint that tell stores apart.
SHORT = 16


def write_split(
    path: StrPath,
    store: "Store",
    parts: Mapping[str, ArrayLike],
    *,
    by: str = "patient",
) -> Path:
    """Write a split of a store as CSV and return the file's path.

    parts : places of samples, by name of the part, as `Store.split` returns them
    by    : what is whole in it; proved before anything is written

    Rows are in the order of the parts, then of the store. Raises OptionError if a
    patient (series, sample) is in two parts, or a part has no name or no sample.
    """
    check_split(store, parts, by=by)
    places_of = {name: check_indices(store, part) for name, part in parts.items()}
    for name, places in places_of.items():
        if not name or name != name.strip() or not len(places):
            raise OptionError(
                f"part {name!r} has {len(places)} samples; a table holds parts that "
                "have a name and a sample"
            )
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for name, places in places_of.items():
            about = [_texts(store.items[column][places]) for column in ABOUT]
            meta = places.tolist(), *_identity(store, places), *about
            made = repeat(by), repeat(store.fingerprint[:SHORT])
            writer.writerows(zip(repeat(name), *meta, *made, strict=False))
    partial.replace(target)
    return target


def read_split(path: StrPath, store: "Store") -> dict[str, NDArray[np.int64]]:
    """Read a split and return the places of each part's samples in a store, sorted.

    The store may be another one than was split, if it holds the same images; its
    samples that the table does not name are in no part. Raises OptionError if an
    image is not in the store or a patient is in two parts, LinkError if the file is
    no such table, FileNotFoundError.
    """
    every = _identity(store, np.arange(len(store)))
    known = {meta: place for place, meta in enumerate(zip(*every, strict=True))}
    found: dict[str, list[int]] = {}
    units: set[str] = set()
    bad: list[Reject] = []
    for line, row in read_csv(Path(path), COLUMNS, bad):
        place = known.get(tuple(row[name] for name in IDENTITY))
        if place is None:
            raise OptionError(
                f"{path}, line {line}: frame {row['frame']} of {row['source']} is not "
                f"in {store.path.name}, or its image has changed. The table splits "
                f"the store {row['store']}, this is {store.fingerprint[:SHORT]}: "
                "split it anew"
            )
        found.setdefault(row["part"], []).append(place)
        units.add(row["by"])
    if bad:
        raise OptionError(f"{path}, line {bad[0].line}: {bad[0].reason}")
    if not found:
        raise OptionError(f"{path}: names no sample")
    try:
        parts = {name: check_indices(store, part) for name, part in found.items()}
        for unit in units:
            check_split(store, parts, by=unit)
    except OptionError as exc:
        raise OptionError(f"{path}: {exc}") from None
    return parts


def _identity(store: "Store", places: NDArray[np.int64]) -> list[list[str]]:
    """Return the columns that find a sample again, as texts."""
    items = store.items
    sums = items["image_xxh3"][places].tolist()
    return [
        _texts(store.sources["path"][items["source"][places]]),
        _texts(items["frame"][places]),
        [f"{value:016x}" for value in sums],
    ]


def _texts(column: NDArray[np.generic]) -> list[str]:
    # Readers of CSV strip fields, so what is compared with them is stripped too.
    if column.dtype.kind == "S":
        return [value.decode().strip() for value in column.tolist()]
    return list(map(str, column.tolist()))
