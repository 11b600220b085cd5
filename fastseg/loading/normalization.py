"""How stored values become network input: (value - shift) * gain, clipped.

Image values are slope * stored + intercept; the slope is negative where a MONOCHROME1
image was inverted. Each method is folded into one shift and one gain per sample, so
that a pixel costs one subtraction and one product.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fastseg.errors import OptionError, one_of
from fastseg.store.reader import Store

Column = NDArray[np.float64]
Normalize = Literal["zscore", "percentile", "window"]

_PAIR_WANTED = "percentiles is {}, expected (lower, upper)"

# Narrowest range, in stored values, over which a window rises from 0 to 1: a DICOM
# window of width 1 is a threshold and has none.
NARROWEST_WINDOW = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalization:
    """How to normalize stored values.

    normalize   : None         image values, rescaled as the DICOM file says
                  "zscore"     mean 0 and standard deviation 1 of each image
                  "percentile" the `percentiles` of each image to 0 and 1, clipped
                  "window"     the DICOM window to 0 and 1, clipped (PS3.3 C.11.2.1.2,
                               function LINEAR)
    percentiles : (lower, upper), two of those that the store holds

    A constant image becomes zeros under "zscore" and "percentile".
    """

    normalize: str | None
    percentiles: tuple[float, float] = (1.0, 99.0)

    def check(self, store: Store) -> None:
        """Raise OptionError if the store's samples cannot be normalized this way."""
        if self.normalize == "none":
            raise OptionError("normalize is 'none', expected None for no normalization")
        known = isinstance(self.normalize, str | None) and self.normalize in _METHODS
        if not known:
            names = [name for name in _METHODS if name]
            raise OptionError(one_of("normalize", self.normalize, names))
        if self.normalize == "percentile":
            lower, upper = _percentile_columns(self, store)
            if lower >= upper:
                raise OptionError(_PAIR_WANTED.format(self.percentiles))
        if self.normalize == "window":
            missing = int(np.isnan(store.items["window"][:, 0]).sum())
            if missing:
                raise OptionError(
                    f"normalize is 'window', but {missing} of {len(store)} samples "
                    "have no window in their DICOM header; use 'percentile' or 'zscore'"
                )

    @property
    def limits(self) -> tuple[np.float32, np.float32]:
        """(low, high), to which normalized values are clipped."""
        bounded = self.normalize in ("window", "percentile")
        low, high = (0.0, 1.0) if bounded else (-np.inf, np.inf)
        return np.float32(low), np.float32(high)

    def shift_and_gain(
        self, store: Store, samples: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return shift and gain of each sample, float32 (n,)."""
        shift, gain = _METHODS[self.normalize](self, store, samples)
        return shift.astype(np.float32), gain.astype(np.float32)


def _image_values(
    normalization: Normalization, store: Store, samples: NDArray[np.int64]
) -> tuple[Column, Column]:
    slope = store.items["slope"][samples]
    return -store.items["intercept"][samples] / slope, slope


def _window(
    normalization: Normalization, store: Store, samples: NDArray[np.int64]
) -> tuple[Column, Column]:
    centre, width = store.items["window"][samples].T
    slope = store.items["slope"][samples]
    intercept = store.items["intercept"][samples]
    black = (centre - 0.5 - (width - 1) / 2 - intercept) / slope
    rise = np.maximum((width - 1) / np.abs(slope), NARROWEST_WINDOW)
    return black, np.sign(slope) / rise


def _zscore(
    normalization: Normalization, store: Store, samples: NDArray[np.int64]
) -> tuple[Column, Column]:
    deviation = store.items["std"][samples]
    sign = np.sign(store.items["slope"][samples])
    return store.items["mean"][samples], sign * _reciprocal(deviation)


def _percentile(
    normalization: Normalization, store: Store, samples: NDArray[np.int64]
) -> tuple[Column, Column]:
    values = store.items["percentiles"][samples]
    low, high = (values[:, k] for k in _percentile_columns(normalization, store))
    upright = store.items["slope"][samples] > 0
    black = np.where(upright, low, high)
    return black, np.where(upright, 1.0, -1.0) * _reciprocal(high - low)


def _percentile_columns(normalization: Normalization, store: Store) -> tuple[int, int]:
    """Return the columns of the two percentiles in `store.items["percentiles"]`."""
    ranks = store.percentile_ranks
    try:
        low, high = (float(rank) for rank in normalization.percentiles)
    except (TypeError, ValueError):
        raise OptionError(_PAIR_WANTED.format(normalization.percentiles)) from None
    for rank in (low, high):
        if rank not in ranks:
            raise OptionError(one_of("percentile", rank, map(str, ranks)))
    return ranks.index(low), ranks.index(high)


def _reciprocal(values: Column) -> Column:
    """Return 1 / values, and 0 for 0: a constant image has nothing to scale."""
    return np.divide(1.0, values, out=np.zeros_like(values), where=values != 0)


_METHODS: dict[
    str | None,
    Callable[[Normalization, Store, NDArray[np.int64]], tuple[Column, Column]],
] = {
    None: _image_values,
    "window": _window,
    "zscore": _zscore,
    "percentile": _percentile,
}
