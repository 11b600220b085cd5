"""The gate of arrays that users give: masked values and other kinds are refused."""

import sys
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastseg.errors import FastsegError, OptionError


def as_array(
    values: Any,
    name: str,
    error: type[FastsegError] = OptionError,
    *,
    kinds: str = "iuf",
) -> NDArray[Any]:
    """Return values as an array, or raise `error`.

    name  : of the values in messages
    kinds : of dtype that are allowed, as numpy names them; an array without elements
        may have any

    Raises also for arrays in which a value is masked, because numpy would take the
    number under the mask. Text is no number, and neither are True and False.
    """
    # Most arrays are plain ones, for which this takes less time than numpy.asarray.
    if type(values) is np.ndarray:
        array = values
    else:
        if _is_masked(values):
            raise error(
                f"{name} has masked values; remove them, or fill them with "
                "numpy.ma.filled"
            )
        try:
            array = np.asarray(values)
        except (TypeError, ValueError, OverflowError) as exc:
            raise error(f"{name} is no array: {exc}") from None
    if array.dtype.kind not in kinds and array.size:
        raise error(
            f"{name} has dtype {array.dtype}, expected {_words(kinds)}; convert it "
            "first"
        )
    return array


def as_contiguous(array: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """Return an array as kernels take it: C-contiguous, aligned, of a dtype."""
    result = np.ascontiguousarray(array, dtype=dtype)
    # One that begins anywhere in a file or in bytes need not be aligned.
    return result if result.flags.aligned else result.copy()


def _is_masked(values: Any) -> bool:
    """Return whether a value is masked, also in arrays within lists."""
    if "numpy.ma" not in sys.modules:  # to import it takes 8 ms
        return False
    while isinstance(values, list | tuple):
        kinds = set(map(type, values))
        if any(issubclass(kind, np.ma.MaskedArray) for kind in kinds):
            return any(map(np.ma.is_masked, values))
        if not kinds or not kinds <= {list, tuple}:
            return False
        values = list(chain.from_iterable(values))
    return bool(np.ma.is_masked(values))


def _words(kinds: str) -> str:
    known = {"iu": "whole numbers", "iuf": "real numbers", "biuf": "real numbers"}
    return known.get(kinds, "numbers or text")
