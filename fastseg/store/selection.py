"""Selections: samples of a store that meet conditions.

A selection is a sorted int64 array of indices of samples. It depends on the columns of
the store alone, not on the pixels.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg.arrays import as_array
from fastseg.choices import By
from fastseg.errors import (
    OptionError,
    choice,
    in_order,
    is_iterable,
    is_single,
    one_of,
    shown,
    true_or_false,
    whole_number,
)
from fastseg.store.text import decode

if TYPE_CHECKING:
    from fastseg.store.reader import Store

Indices = NDArray[np.int64]

Match = Literal["all", "any"]

MATCH = get_args(Match)
BY = get_args(By)

# With more patients than this, an error gives their number instead of their IDs.
MOST_LISTED = 20


def select(
    store: "Store",
    *,
    classes: str | Sequence[str] | None = None,
    match: Match = "all",
    min_pixels: int = 0,
    patients: str | Sequence[str] | None = None,
    series: str | Sequence[str] | None = None,
    shape: int | tuple[int, int] | None = None,
    in_volume: bool | None = None,
    volumes: int | Sequence[int] | None = None,
    indices: ArrayLike | None = None,
) -> Indices:
    """Return the samples that meet all conditions; see `Store.select`."""
    chosen = check_indices(store, indices)
    if choice("match", match, MATCH) and classes is not None:
        bits = [store.class_index(name) for name in _names("classes", classes)]
        area = whole_number("min_pixels", min_pixels, 0, 2**63 - 1)
        labelled = store.items["labelled"][chosen]
        pixels = store.items["pixels"]
        met = [has_class(labelled, k) & (pixels[chosen, k] >= area) for k in bits]
        chosen = chosen[np.all(met, axis=0) if match == "all" else np.any(met, axis=0)]
    elif min_pixels:
        raise OptionError(
            "min_pixels is given without classes; give the classes whose pixels it "
            "counts"
        )
    for column, wanted in (("patient", patients), ("series", series)):
        if wanted is not None:
            keys, group = distinct(store.items[column])
            names = decode(store, keys.tolist())
            chosen = chosen[_is_wanted(column, wanted, names)[group[chosen]]]
    if shape is not None:
        chosen = chosen[shapes_of(store, chosen) == _known_shape(store, shape)]
    if in_volume is not None:
        is_wanted = true_or_false("in_volume", in_volume)
        chosen = chosen[(store.items["volume"][chosen] >= 0) == is_wanted]
    if volumes is not None:
        chosen = chosen[_are_in(store, volumes)[store.items["volume"][chosen]]]
    return chosen


def has_class(labelled: NDArray[Any], bit: int) -> NDArray[np.bool_]:
    """Return whether each sample has a contour of a class.

    labelled : the column /items/labelled, or some rows of it
    """
    is_labelled: NDArray[np.bool_] = (labelled >> labelled.dtype.type(bit)) & 1 == 1
    return is_labelled


def check_indices(store: "Store", indices: ArrayLike | None) -> Indices:
    """Return indices of samples, checked and sorted; all samples if None is given."""
    count = len(store)
    if indices is None:
        return np.arange(count, dtype=np.int64)
    if isinstance(indices, str | Mapping):
        parts = list(indices)[:1] if isinstance(indices, Mapping) else [indices]
        example = f"parts[{parts[0]!r}]" if parts else "parts['train']"
        raise OptionError(
            f"indices is {shown(indices)}, expected a list of whole numbers, as one "
            f"part of a split is: {example}"
        )
    given = as_array(indices, "indices", kinds="biufSUO")
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise OptionError(
            f"indices are {given.dtype} of shape {given.shape}, expected a list of "
            "whole numbers (np.flatnonzero turns a boolean mask into one)"
        )
    checked = given.astype(np.int64)
    if not (checked[1:] > checked[:-1]).all():
        checked.sort()
    if checked.size and not 0 <= checked[0] <= checked[-1] < count:
        raise OptionError(
            f"indices are {checked[0]} to {checked[-1]}, expected 0 to {count - 1}"
        )
    repeated = checked[1:][checked[1:] == checked[:-1]]
    if repeated.size:
        raise OptionError(f"indices name sample {repeated[0]} twice")
    return checked


def groups_of(store: "Store", by: By) -> tuple[NDArray[Any], Indices]:
    """Return the key of each group, sorted, and the group of each sample of the store.

    by : what is a group: the samples of a "patient", of a "series", of a "volume", or
        one "sample". The key is the ID as bytes; of a volume, the index of its first
        sample; of a sample, its index. A sample that is in no volume is a group
    """
    if choice("by", by, BY) == "sample":
        return np.arange(len(store)), np.arange(len(store))
    if by == "volume":
        volume = store.items["volume"]
        # Those of a volume are neighbours.
        is_first = np.ones(len(volume), bool)
        is_first[1:] = (volume[1:] != volume[:-1]) | (volume[1:] < 0)
        return np.flatnonzero(is_first), np.cumsum(is_first) - 1
    column = store.items[by]
    if by == "series" and not column.all():
        # Samples without a SeriesInstanceUID count as one series per patient.
        column = np.where(column == b"", store.items["patient"], column)
    return distinct(column)


def distinct(column: NDArray[Any]) -> tuple[NDArray[Any], Indices]:
    """Return the distinct values, sorted, and the index into them of each item."""
    # Samples of a patient are neighbours. To sort one value of each row of equal
    # neighbours, not all values, is 15 times faster (a million samples of 10 000
    # patients: 20 instead of 320 ms).
    starts = np.flatnonzero(np.append(True, column[1:] != column[:-1])[: len(column)])
    keys, index = np.unique(column[starts], return_inverse=True)
    return keys, np.repeat(index, np.diff(np.append(starts, len(column))))


def shapes_of(store: "Store", indices: Indices) -> NDArray[np.str_]:
    """Return the shape of each sample's image as a text like 256x256."""
    names = np.array([_shape_name(bucket.shape) for bucket in store.buckets.values()])
    shapes: NDArray[np.str_] = names[store.items["bucket"][indices]]
    return shapes


def _shape_name(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"


def _known_shape(store: "Store", shape: Any) -> str:
    try:
        height, width = (shape, shape) if is_single(shape) else in_order(shape)
        sides = whole_number("shape", height, 1), whole_number("shape", width, 1)
        name = _shape_name(sides)
    except (TypeError, ValueError):
        raise OptionError(
            f"shape is {shown(shape)}, expected (height, width)"
        ) from None
    known = {_shape_name(bucket.shape) for bucket in store.buckets.values()}
    return choice("shape", name, sorted(known))


def _are_in(store: "Store", volumes: Any) -> NDArray[np.bool_]:
    """Return whether each volume is one of those given; last, False for no volume."""
    count = len(store.tables["volumes"]["first"])
    given = list(volumes) if is_iterable(volumes) else [volumes]
    if not given:
        raise OptionError(
            f"volumes is {shown(volumes)}, expected one number or several"
        )
    if not count:
        raise OptionError(f"volumes is {shown(volumes)}, but the store has no volumes")
    are_in = np.zeros(count + 1, bool)
    are_in[[whole_number("volumes", k, 0, count - 1) for k in given]] = True
    return are_in


def _is_wanted(
    column: str, wanted: str | Sequence[str], names: Sequence[str]
) -> NDArray[np.bool_]:
    """Return whether each of a column's distinct values is wanted.

    names : the distinct values
    """
    known = {name: k for k, name in enumerate(names)}
    is_wanted = np.zeros(len(names), bool)
    for name in _names(column, wanted):
        if name not in known:
            if len(known) <= MOST_LISTED:
                raise OptionError(one_of(column, name, known))
            raise OptionError(
                f"{column} is {name!r}, which is none of the {len(known):,} that the "
                "store holds"
            )
        is_wanted[known[name]] = True
    return is_wanted


def _names(what: str, names: str | Sequence[str]) -> list[str]:
    listed: list[Any] = [names] if is_single(names) else list(names)
    if not listed or not all(isinstance(name, str) for name in listed):
        raise OptionError(f"{what} is {shown(names)}, expected one name or several")
    return listed
