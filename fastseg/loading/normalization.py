"""How stored values become network input: (value - shift) * gain, clipped.

Image values are slope * stored + intercept; the slope is negative where a MONOCHROME1
image was inverted. Each method is folded into one shift and one gain per sample, so
that a pixel costs one subtraction and one product:

None         image values, rescaled as the DICOM file says
"zscore"     mean 0 and standard deviation 1 of each image
"percentile" two percentiles of each image to 0 and 1, clipped
"window"     the DICOM window to 0 and 1, clipped (PS3.3 C.11.2.1.2, function LINEAR),
             or a given one (C.11.2.1.3.2, function LINEAR_EXACT)
"foreground" as nnU-Net does for CT: clipped to the 0.5th and the 99.5th percentile of
             the image values of the pixels that belong to any class, on the samples
             chosen, then their mean to 0 and their standard deviation to 1; or by such
             numbers that are given

With normalize_by "volume", mean, deviation and percentiles are those of the image
values of all slices of a volume, each of which may have a slope of its own, and the
DICOM window is that of its first slice.

What is constant becomes zeros under "zscore", "percentile" and "foreground".

Statistics of several images are merged from those that the store holds, without reading
a pixel: means and deviations to rounding; percentiles from histograms, so that they are
exact where all bins have one value, and else within a bin.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from fastseg.errors import OptionError, one_of
from fastseg.store.histograms import Histograms, read_histograms
from fastseg.store.layout import ANY_CLASS, WHOLE_IMAGE
from fastseg.store.reader import Store
from fastseg.store.volumes import samples_of_volumes

if TYPE_CHECKING:
    from fastseg.loading.format import BatchFormat

Normalize = Literal["zscore", "percentile", "window", "foreground"]
NormalizeBy = Literal["image", "volume"]
Column = NDArray[np.float64]
Indices = NDArray[np.int64]

NORMALIZE = get_args(Normalize)
NORMALIZE_BY = get_args(NormalizeBy)
# Narrowest range, in stored values, over which a window rises from 0 to 1: a DICOM
# window of width 1 is a threshold and has none.
NARROWEST_WINDOW = 1e-6
# Percentiles of labelled pixels to which "foreground" clips, as nnU-Net does.
CLIPPED_PERCENTILES = 0.5, 99.5
# Samples whose histograms are in memory at a time.
SAMPLES_AT_ONCE = 2**12


class ValueStatistics(NamedTuple):
    """Of the image values of all labelled pixels, by which "foreground" scales.

    mean, std : their mean and standard deviation
    low, high : their 0.5th and 99.5th percentile, to which values are clipped
    """

    mean: float
    std: float
    low: float
    high: float


class ImageScaling(NamedTuple):
    """How the images of a store are scaled.

    shift, gain : float32 (len(store),), of each sample
    low, high   : to which the results are clipped
    statistics  : those of "foreground", else None
    """

    shift: NDArray[np.float32]
    gain: NDArray[np.float32]
    low: float
    high: float
    statistics: ValueStatistics | None

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
    limits = -np.inf, np.inf
    statistics = None
    by_volume = (
        format.normalize_by == "volume"
        and format.normalize in ("zscore", "percentile", "window")
        and format.window is None
    )
    volumes = _volumes_of(store, indices) if by_volume else None
    match format.normalize:
        case None:
            shift, gain = _image_values(store)
        case "window":
            limits = 0.0, 1.0
            shift, gain = _window(store, read, format.window, volumes)
        case "zscore":
            shift, gain = _zscore(store)
            if volumes is not None:
                _zscore_by_volume(store, volumes, shift, gain)
        case "percentile":
            limits = 0.0, 1.0
            if volumes is None:
                shift, gain = _percentile(store, format.percentiles)
            else:
                shift, gain = _image_values(store)
                _percentile_by_volume(store, volumes, format.percentiles, shift, gain)
        case "foreground":
            statistics = format.value_statistics or _foreground(store, indices)
            shift, gain, limits = _by_statistics(store, statistics)
        case _:
            raise OptionError(one_of("normalize", format.normalize, NORMALIZE))
    columns = shift.astype(np.float32), gain.astype(np.float32)
    return ImageScaling(*columns, *limits, statistics)


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
    used = np.flatnonzero(np.bincount(numbers))
    slices, first = samples_of_volumes(store, used)
    owner = np.repeat(np.arange(len(used)), np.diff(first, append=len(slices)))
    return _Volumes(slices, owner, first)


def _image_values(store: Store) -> tuple[Column, Column]:
    slope = store.items["slope"]
    return -store.items["intercept"] / slope, slope.copy()


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


def _percentile_by_volume(
    store: Store,
    volumes: _Volumes,
    percentiles: tuple[float, float],
    shift: Column,
    gain: Column,
) -> None:
    """Set shift and gain of the slices of volumes."""
    for percent in percentiles:
        if not 0 <= percent <= 100:
            raise OptionError(f"percentiles are {percentiles}, expected 0 to 100")
    ends = np.append(volumes.first, len(volumes.slices))[1:]
    slope, intercept = (store.items[name] for name in ("slope", "intercept"))
    for start, stop in zip(volumes.first.tolist(), ends.tolist(), strict=True):
        slices = volumes.slices[start:stop]
        bins = merge_bins([*_bins_of(store, slices, WHOLE_IMAGE)])
        low, high = bins.percentiles(percentiles)
        shift[slices] = (low - intercept[slices]) / slope[slices]
        gain[slices] = slope[slices] * _reciprocal(np.array(high - low))


def _foreground(store: Store, indices: Indices) -> ValueStatistics:
    """Return those of the pixels that belong to any class; each counts once."""
    samples = np.flatnonzero(np.bincount(indices))
    blocks = []
    moments = []
    for start in range(0, len(samples), SAMPLES_AT_ONCE):
        some = samples[start : start + SAMPLES_AT_ONCE]
        histograms = read_histograms(store, some, ANY_CLASS)
        scale, offset = _rescale(store, histograms)
        means = scale * histograms.mean + offset
        moments.append((histograms.pixels, means, scale * histograms.std))
        blocks.append(merge_bins([_in_image_values(histograms, scale, offset)]))
    bins = merge_bins(blocks)
    if not len(bins.counts):
        raise OptionError(
            f"normalize is 'foreground', but none of {len(indices)} samples has a "
            "pixel of any class; use another method, choose samples that have, as "
            "store.select(classes=..., min_pixels=1) does, or give the "
            "value_statistics of another loader"
        )
    pixels, means, deviations = map(np.concatenate, zip(*moments, strict=True))
    mean = means[0] + np.average(means - means[0], weights=pixels)
    squares = deviations**2 + (means - mean) ** 2
    std = np.sqrt(np.average(squares, weights=pixels))
    low, high = bins.percentiles(CLIPPED_PERCENTILES)
    return ValueStatistics(float(mean), float(std), low, high)


def _by_statistics(
    store: Store, statistics: ValueStatistics
) -> tuple[Column, Column, tuple[float, float]]:
    """Return shift, gain and limits."""
    mean, std, low, high = statistics
    inverse = _reciprocal(std)
    slope, intercept = (store.items[name] for name in ("slope", "intercept"))
    limits = float((low - mean) * inverse), float((high - mean) * inverse)
    return (mean - intercept) / slope, slope * inverse, limits


class Bins(NamedTuple):
    """How often image values occur.

    middle : float64 (b,), of the values of each bin
    extent : float64 (b,), from the least to the greatest of them
    counts : int64 (b,)
    """

    middle: Column
    extent: Column
    counts: NDArray[np.int64]

    def percentiles(self, percents: Sequence[float]) -> list[float]:
        """Return percentiles by nearest rank; the bins must ascend.

        Within a bin, values are taken to be evenly spread.
        """
        after = np.cumsum(self.counts)
        results = []
        for percent in percents:
            rank = max(ceil(Fraction(str(percent)) * int(after[-1]) / 100), 1) - 1
            k = int(np.searchsorted(after, rank, "right"))
            count = int(self.counts[k])
            part = (rank - int(after[k]) + count + 0.5) / count
            results.append(float(self.middle[k] + (part - 0.5) * self.extent[k]))
        return results


def merge_bins(bins: Sequence[Bins]) -> Bins:
    """Return bins in ascending order, those with the same middle as one."""
    middle, extent, counts = map(np.concatenate, zip(*bins, strict=True))
    order = np.argsort(middle, kind="stable")
    middle = middle[order]
    starts = np.flatnonzero(np.append(True, middle[1:] != middle[:-1])[: len(middle)])
    if not len(starts):
        return Bins(middle, extent, counts)
    return Bins(
        middle[starts],
        np.maximum.reduceat(extent[order], starts),
        np.add.reduceat(counts[order], starts),
    )


def _bins_of(store: Store, samples: Indices, kind: int) -> Iterator[Bins]:
    """Yield the bins of the histograms of samples."""
    for start in range(0, len(samples), SAMPLES_AT_ONCE):
        some = samples[start : start + SAMPLES_AT_ONCE]
        histograms = read_histograms(store, some, kind)
        yield _in_image_values(histograms, *_rescale(store, histograms))


def _rescale(store: Store, histograms: Histograms) -> tuple[Column, Column]:
    """Return slope and intercept of the sample of each histogram."""
    samples = histograms.sample
    return store.items["slope"][samples], store.items["intercept"][samples]


def _in_image_values(histograms: Histograms, slope: Column, intercept: Column) -> Bins:
    """Return the bins of histograms."""
    owner = histograms.owner
    extent = histograms.width - 1.0
    middle = histograms.least + extent[owner] / 2
    return Bins(
        slope[owner] * middle + intercept[owner],
        (np.abs(slope) * extent)[owner],
        histograms.counts,
    )


def _reciprocal(values: Any) -> Column:
    """Return 1 / values, and 0 for 0: a constant image has nothing to scale."""
    numbers: Column = np.asarray(values)
    return np.divide(1.0, numbers, out=np.zeros_like(numbers), where=numbers != 0)
