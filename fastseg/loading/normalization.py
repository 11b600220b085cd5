"""How stored values become network input: (value - shift) * gain, clipped.

Image values are slope * stored + intercept; the slope is negative where a MONOCHROME1
image was inverted. Each method is folded into one shift and one gain per sample, so
that a pixel costs one subtraction and one product:

None         image values, rescaled as the DICOM file says
"zscore"     mean 0 and standard deviation 1 of each image
"percentile" two percentiles of each image to 0 and 1, clipped
"window"     the DICOM window to 0 and 1, clipped (PS3.3 C.11.2.1.2, function LINEAR)

A constant image becomes zeros under "zscore" and "percentile".
"""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fastseg.errors import OptionError, one_of
from fastseg.store.reader import Store

Normalize = Literal["zscore", "percentile", "window"]
Percentiles = tuple[float, float]
Column = NDArray[np.float64]

NORMALIZE = get_args(Normalize)
# Narrowest range, in stored values, over which a window rises from 0 to 1: a DICOM
# window of width 1 is a threshold and has none.
NARROWEST_WINDOW = 1e-6


def shift_and_gain(
    store: Store, normalize: Normalize | None, percentiles: Percentiles
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return shift and gain of each sample of a store, float32 (len(store),).

    percentiles : (lower, upper), two of those that the store holds

    Raises OptionError if the store's samples cannot be normalized this way.
    """
    shift, gain = _METHODS[normalize](store, percentiles)
    return shift.astype(np.float32), gain.astype(np.float32)


def limits(normalize: Normalize | None) -> tuple[float, float]:
    """Return (low, high), to which normalized values are clipped."""
    bounded = normalize in ("window", "percentile")
    return (0.0, 1.0) if bounded else (-np.inf, np.inf)


def minima(store: Store) -> Column:
    """Return the stored value of the darkest pixel of each sample, (len(store),).

    It is the greatest stored value where the slope is negative.
    """
    items = store.items
    least: Column = np.where(items["slope"] > 0, items["min"], items["max"])
    return least


def scale(
    values: Column,
    shift: NDArray[np.float32],
    gain: NDArray[np.float32],
    limits: tuple[float, float],
) -> NDArray[np.float32]:
    """Return stored values as kernels scale them, bit for bit, one per sample."""
    scaled = (values.astype(np.float32) - shift) * gain
    clipped: NDArray[np.float32] = np.clip(scaled, *limits)
    return clipped


def _image_values(store: Store, percentiles: Percentiles) -> tuple[Column, Column]:
    slope = store.items["slope"]
    return -store.items["intercept"] / slope, slope


def _window(store: Store, percentiles: Percentiles) -> tuple[Column, Column]:
    centre, width = store.items["window"].T
    missing = int(np.isnan(centre).sum())
    if missing:
        raise OptionError(
            f"normalize is 'window', but {missing} of {len(store)} samples have no "
            "window in their DICOM header; use 'percentile' or 'zscore'"
        )
    slope = store.items["slope"]
    black = (centre - 0.5 - (width - 1) / 2 - store.items["intercept"]) / slope
    rise = np.maximum((width - 1) / np.abs(slope), NARROWEST_WINDOW)
    return black, np.sign(slope) / rise


def _zscore(store: Store, percentiles: Percentiles) -> tuple[Column, Column]:
    sign = np.sign(store.items["slope"])
    return store.items["mean"], sign * _reciprocal(store.items["std"])


def _percentile(store: Store, percentiles: Percentiles) -> tuple[Column, Column]:
    ranks = store.percentile_ranks
    for rank in percentiles:
        if rank not in ranks:
            raise OptionError(one_of("percentile", rank, map(str, ranks)))
    values = store.items["percentiles"]
    low, high = (values[:, ranks.index(rank)] for rank in percentiles)
    upright = store.items["slope"] > 0
    black = np.where(upright, low, high)
    return black, np.where(upright, 1.0, -1.0) * _reciprocal(high - low)


def _reciprocal(values: Column) -> Column:
    """Return 1 / values, and 0 for 0: a constant image has nothing to scale."""
    return np.divide(1.0, values, out=np.zeros_like(values), where=values != 0)


_METHODS: dict[
    Normalize | None, Callable[[Store, Percentiles], tuple[Column, Column]]
] = {
    None: _image_values,
    "window": _window,
    "zscore": _zscore,
    "percentile": _percentile,
}
