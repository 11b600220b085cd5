"""BatchFormat: what a sample becomes in a batch."""

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np

from fastseg.calls import check_call
from fastseg.choices import DTypeName
from fastseg.errors import (
    OptionError,
    choice,
    in_order,
    is_single,
    pair_of_sizes,
    real_number,
    shown,
    whole_number,
)
from fastseg.loading.normalization import (
    NORMALIZE,
    NORMALIZE_BY,
    Normalize,
    NormalizeBy,
    ValueStatistics,
)

if TYPE_CHECKING:
    from fastseg.augment import Compose

Missing = Literal["background", "ignore", "error"]
Labels = Literal["exact", "nearest"]
Beyond = Literal["nearest", "pad"]
MasksOf = Literal["middle", "all"]
PadValue = float | Literal["minimum"]

DTYPES = get_args(DTypeName)
MISSING = get_args(Missing)
LABELS = get_args(Labels)
BEYOND = get_args(Beyond)
MASKS_OF = get_args(MasksOf)
# A sample has at most this many neighbours on each side: more than a volume has slices.
MAX_NEIGHBOURS = 4096
MINIMUM: Literal["minimum"] = "minimum"


class _Default(str):
    """The default of an option, which differs from the same value given by a caller."""

    __slots__ = ()


# The default of `normalize`: "zscore", but None where the dtype is "raw".
ZSCORE_OR_RAW = cast("Normalize", _Default("zscore"))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFormat:
    """What a sample becomes: the options of images, masks and augmentation of `Loader`.

    The docstring of `Loader` describes them and what else may be given. The fields hold
    what is written here: a pair for one number, the name of a dtype, a Compose for a
    preset. Whether they fit a store is checked by Preprocessing, which also fills in
    `size`, `priority` and `missing`.

    Raises OptionError for values that fit no store, or not each other.
    """

    size: tuple[int, int] | None = None
    neighbours: int = 0
    beyond: Beyond = "nearest"
    masks_of: MasksOf = "middle"
    normalize: Normalize | None = ZSCORE_OR_RAW
    normalize_by: NormalizeBy = "image"
    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] = (1.0, 99.0)
    value_statistics: ValueStatistics | None = None
    pad_value: PadValue = MINIMUM
    dtype: DTypeName = "float32"
    masks: str = "labels"
    priority: tuple[str, ...] | None = None
    missing: Missing | None = None
    augment: "Compose | None" = None
    labels: Labels = "exact"

    def __post_init__(self) -> None:
        augment = self.augment
        if augment is not None:
            from fastseg.augment import as_compose  # 15 ms that plain batches save

            augment = as_compose(augment)
        size = None if self.size is None else pair_of_sizes("size", self.size)
        if augment is not None and size is None:
            sizes = [size for step in augment if (size := step.output_size())]
            size = sizes[-1] if sizes else None
        dtype = _dtype_name(self.dtype)
        if augment is not None and dtype != "float32":
            raise OptionError(f"dtype is {dtype!r}, but augmented images are 'float32'")
        cast_values = {
            "augment": augment,
            "size": size,
            "neighbours": whole_number(
                "neighbours", self.neighbours, 0, MAX_NEIGHBOURS
            ),
            "beyond": choice("beyond", self.beyond, BEYOND),
            "masks_of": choice("masks_of", self.masks_of, MASKS_OF),
            "dtype": dtype,
            "normalize": _normalize(self.normalize, dtype),
            "normalize_by": choice("normalize_by", self.normalize_by, NORMALIZE_BY),
            "window": _window(self.window),
            "percentiles": _pair_of_percentiles(self.percentiles),
            "value_statistics": _value_statistics(self.value_statistics),
            "pad_value": _pad_value(self.pad_value),
            "masks": _mask_name(self.masks),
            "priority": _priority(self.priority),
        }
        for name, value in cast_values.items():
            object.__setattr__(self, name, value)
        if self.missing is not None:
            choice("missing", self.missing, MISSING)
        if self.missing is not None and self.masks == "bits":
            raise OptionError(
                f"missing is {self.missing!r}, but masks 'bits' have no label for it; "
                "leave it out, or give other masks"
            )
        choice("labels", self.labels, LABELS)
        for name, default in (("beyond", BEYOND[0]), ("masks_of", MASKS_OF[0])):
            value = getattr(self, name)
            if self.neighbours == 0 and value != default:
                raise OptionError(
                    f"{name} is {value!r}, but neighbours is 0; give the number of "
                    "slices on each side, as in neighbours=2, or leave it out"
                )
        for name, method in (("window", "window"), ("value_statistics", "foreground")):
            value = getattr(self, name)
            if value is not None and self.normalize != method:
                raise OptionError(
                    f"{name} is {shown(value)}, but normalize is {self.normalize!r}; "
                    f"give normalize={method!r}, or leave it out"
                )

    def as_dict(self) -> dict[str, Any]:
        """Return all options as values for JSON, as the state of a Loader holds them.

        `labels` is among those of `augment`, which is None without augmentation.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        labels = values.pop("labels")
        if self.augment is not None:
            values["augment"] = {
                "transforms": [step.identity() for step in self.augment],
                "interpolation": self.augment.interpolation,
                "border": self.augment.border,
                "labels": labels,
            }
        # Lists instead of tuples, as after a round trip through JSON.
        as_json: dict[str, Any] = json.loads(json.dumps(values))
        return as_json


# Only the options of a torch Dataset come here as they are given.
BatchFormat.__init__ = check_call(  # type: ignore[method-assign]
    "Dataset(store, size=96)"
)(BatchFormat.__init__)


def _normalize(given: Any, dtype: str) -> Normalize | None:
    if dtype == "raw":
        if not isinstance(given, _Default | None):
            raise OptionError(
                f"normalize is {shown(given)}, but dtype 'raw' asks for stored values; "
                "leave one of them out"
            )
        return None
    if given is None:
        return None
    if given is False or (isinstance(given, str) and given == "none"):
        raise OptionError(f"normalize is {given!r}, expected None for no normalization")
    # The plain text of a _Default.
    return cast("Normalize", choice("normalize", given, NORMALIZE))


def _window(given: Any) -> tuple[float, float] | None:
    if given is None:
        return None
    expected = "(centre, width) in image values, with a width above 0"
    try:
        centre, width = (real_number("window", x) for x in in_order(given))
    except (TypeError, ValueError):  # OptionError is a ValueError
        centre, width = np.nan, np.nan
    if not width > 0:
        raise OptionError(f"window is {shown(given)}, expected {expected}")
    return centre, width


def _value_statistics(given: Any) -> ValueStatistics | None:
    if given is None:
        return None
    try:
        numbers = (real_number("value_statistics", x) for x in in_order(given))
        mean, std, low, high = numbers
    except (TypeError, ValueError):  # OptionError is a ValueError
        mean, std, low, high = (np.nan,) * 4
    if not (np.isfinite([mean, std, low, high]).all() and std >= 0 and low <= high):
        raise OptionError(
            f"value_statistics is {shown(given)}, expected (mean, std, low, high) in "
            "image values, as the value_statistics of a loader with "
            "normalize='foreground'"
        )
    return ValueStatistics(mean, std, low, high)


def _mask_name(given: Any) -> str:
    """Return the name of a kind of masks or of a class, which depends on the store."""
    if isinstance(given, str):
        return given
    if given is None:
        advice = "; a batch always has masks, leave it out"
    elif is_single(given):
        advice = ""
    else:
        advice = "; 'onehot' has a channel for each class, 'labels' a number"
    raise OptionError(
        f"masks is {shown(given)}, expected 'labels', 'onehot', 'bits' or the name of "
        f"one class{advice}"
    )


def _priority(given: Any) -> tuple[str, ...] | None:
    if given is None:
        return None
    names = (given,) if is_single(given) else tuple(given)
    if isinstance(given, set | frozenset) or not all(isinstance(x, str) for x in names):
        raise OptionError(
            f"priority is {shown(given)}, expected the names of the classes from top "
            "to bottom"
        )
    return names


def _dtype_name(given: Any) -> str:
    """Return the name of a dtype given by name or as numpy's or torch's."""
    name = given
    if type(given).__module__ == "torch":
        name = str(given).removeprefix("torch.")
    elif given is not None and not isinstance(given, str):
        try:
            name = np.dtype(given).name
        except TypeError:
            name = given
    return choice("dtype", name, DTYPES)


def _pair_of_percentiles(given: Any) -> tuple[float, float]:
    try:
        lower, upper = (real_number("percentiles", x) for x in in_order(given))
    except (TypeError, ValueError):  # OptionError is a ValueError
        lower, upper = np.nan, np.nan
    if not lower < upper:
        raise OptionError(f"percentiles is {shown(given)}, expected (lower, upper)")
    return lower, upper


def _pad_value(given: Any) -> PadValue:
    if isinstance(given, str) and given == MINIMUM:
        return MINIMUM
    return real_number("pad_value", given, f"a number or {MINIMUM!r}")
