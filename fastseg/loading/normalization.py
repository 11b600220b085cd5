"""How stored values become network input: (value - shift) * gain, clipped.

Image values are slope * stored + intercept; the slope is negative where a MONOCHROME1
image was inverted. Each method is folded into one shift and one gain per sample, so
that a pixel costs one subtraction and one product:

None         image values, rescaled as the DICOM file says
"zscore"     mean 0 and standard deviation 1 of each image
"percentile" two percentiles of each image to 0 and 1, clipped
"window"     the DICOM window to 0 and 1, clipped (PS3.3 C.11.2.1.2, function LINEAR),
             or a given one (C.11.2.1.3.2, function LINEAR_EXACT)

With normalize_by "volume", mean, deviation and percentiles are those of the image
values of all slices of a volume, each of which may have a slope of its own, and the
DICOM window is that of its first slice.

What is constant becomes zeros under "zscore" and "percentile".
"""

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from fastseg.errors import OptionError, one_of
from fastseg.store.reader import Store

if TYPE_CHECKING:
    from fastseg.loading.format import BatchFormat

Normalize = Literal["zscore", "percentile", "window"]
NormalizeBy = Literal["image", "volume"]
Column = NDArray[np.float64]
Indices = NDArray[np.int64]

NORMALIZE = get_args(Normalize)
NORMALIZE_BY = get_args(NormalizeBy)
# Narrowest range, in stored values, over which a window rises from 0 to 1: a DICOM
# window of width 1 is a threshold and has none.
NARROWEST_WINDOW = 1e-6


class ImageScaling(NamedTuple):
    """How the images of a store are scaled.

    shift, gain : float32 (len(store),), of each sample
    low, high   : to which the results are clipped
    """

    shift: NDArray[np.float32]
    gain: NDArray[np.float32]
    low: float
    high: float

    def apply(self, values: Column) -> NDArray[np.float32]:
        """Return stored values as kernels scale them, bit for bit, one per sample."""
        scaled = (values.astype(np.float32) - self.shift) * self.gain
        clipped: NDArray[np.float32] = np.clip(scaled, self.low, self.high)
        return clipped


def find_scaling(
    store: Store, indices: Indices, format: "BatchFormat", read: Indices
) -> ImageScaling:
    """Return how the images of a store are scaled.

    indices : int64 (n,), the samples that will be loaded. By volume, the other slices
        of their volumes are scaled as they are, and what else the store has by image
    read    : int64 (m,), these samples and all neighbours that are loaded with them

    Raises OptionError if these samples cannot be normalized this way.
    """
    by_volume = format.normalize_by == "volume" and format.normalize is not None
    volumes = _volumes_of(store, indices) if by_volume else None
    match format.normalize:
        case None:
            shift, gain = _image_values(store)
        case "window":
            shift, gain = _window(store, read, format.window, volumes)
        case "zscore":
            shift, gain = _zscore(store)
            if volumes is not None:
                _zscore_by_volume(store, volumes, shift, gain)
        case "percentile":
            if volumes is not None:
                raise OptionError(
                    "normalize_by is 'volume', which 'percentile' cannot do yet; use "
                    "'zscore' or 'window'"
                )
            shift, gain = _percentile(store, format.percentiles)
        case _:
            raise OptionError(one_of("normalize", format.normalize, NORMALIZE))
    bounded = format.normalize in ("window", "percentile")
    limits = (0.0, 1.0) if bounded else (-np.inf, np.inf)
    return ImageScaling(shift.astype(np.float32), gain.astype(np.float32), *limits)


def minima(store: Store) -> Column:
    """Return the stored value of the darkest pixel of each sample, (len(store),).

    It is the greatest stored value where the slope is negative.
    """
    items = store.items
    least: Column = np.where(items["slope"] > 0, items["min"], items["max"])
    return least


class _Volumes(NamedTuple):
    """The volumes that some samples belong to.

    slices : int64 (n,), the samples that are their slices, volume by volume
    owner  : int64 (n,), the number of the volume of each, from 0
    first  : int64 (v,), the index in `slices` of the first one of each volume
    """

    slices: Indices
    owner: Indices
    first: Indices

    def mean(self, values: Column) -> Column:
        """Return the mean over the slices of each volume, (v,), of values (n,).

        It is exact where all slices of a volume have the same value.
        """
        one = values[self.first]
        sums = np.bincount(self.owner, values - one[self.owner], len(one))
        mean: Column = one + sums / np.bincount(self.owner, minlength=len(one))
        return mean


def _volumes_of(store: Store, indices: Indices) -> _Volumes:
    """Return the volumes of samples, or raise OptionError if some are in none."""
    numbers = store.items["volume"][indices]
    missing = int((numbers < 0).sum())
    if missing:
        raise OptionError(
            f"normalize_by is 'volume', but {missing} of {len(indices)} samples are in "
            "no volume; choose the others, as store.select(in_volume=True) does, or "
            "give normalize_by='image'"
        )
    table = store.tables["volumes"]
    used = np.flatnonzero(np.bincount(numbers, minlength=len(table["first"])))
    counts = table["slices"][used]
    ends = np.cumsum(counts)
    first = ends - counts
    owner = np.repeat(np.arange(len(used)), counts)
    slices = np.arange(len(owner)) + (table["first"][used] - first)[owner]
    return _Volumes(slices, owner, first)


def _image_values(store: Store) -> tuple[Column, Column]:
    slope = store.items["slope"]
    return -store.items["intercept"] / slope, slope


def _window(
    store: Store,
    indices: Indices,
    given: tuple[float, float] | None,
    volumes: _Volumes | None,
) -> tuple[Column, Column]:
    if given is not None:
        centre, width = given
        black = np.full(len(store), centre - width / 2)
        rise = np.full(len(store), width)
    else:
        windows = store.items["window"]
        owners, noun = indices, "samples have no window in their DICOM header"
        if volumes is not None:
            windows = windows.copy()
            owners = volumes.slices[volumes.first]
            noun = "volumes have no window in the DICOM header of their first slice"
            windows[volumes.slices] = windows[owners][volumes.owner]
        missing = int(np.isnan(windows[owners, 0]).sum())
        if missing:
            raise OptionError(
                f"normalize is 'window', but {missing} of {len(owners)} {noun}; give "
                "one, as in window=(40, 400), or use 'percentile' or 'zscore'"
            )
        centre, width = windows.T
        black = centre - 0.5 - (width - 1) / 2
        rise = width - 1
    slope = store.items["slope"]
    rise = np.maximum(rise / np.abs(slope), NARROWEST_WINDOW)
    return (black - store.items["intercept"]) / slope, np.sign(slope) / rise


def _zscore(store: Store) -> tuple[Column, Column]:
    sign = np.sign(store.items["slope"])
    return store.items["mean"].copy(), sign * _reciprocal(store.items["std"])


def _zscore_by_volume(
    store: Store, volumes: _Volumes, shift: Column, gain: Column
) -> None:
    """Set shift and gain of the slices of volumes.

    Deviations of image values add up to that of the volume, as all slices have as many
    pixels: that of each slice within, and that of the means of slices.
    """
    slope, intercept, mean, std = (
        store.items[name][volumes.slices]
        for name in ("slope", "intercept", "mean", "std")
    )
    means = slope * mean + intercept
    centre = volumes.mean(means)[volumes.owner]
    squares = (slope * std) ** 2 + (means - centre) ** 2
    deviation = np.sqrt(volumes.mean(squares))[volumes.owner]
    shift[volumes.slices] = (centre - intercept) / slope
    gain[volumes.slices] = slope * _reciprocal(deviation)


def _percentile(
    store: Store, percentiles: tuple[float, float]
) -> tuple[Column, Column]:
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
