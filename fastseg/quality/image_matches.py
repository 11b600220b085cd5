"""Images that are the same: pixel by pixel, or but for a scale and an offset."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.quality.near_pairs import near_pairs

# Images with a smaller standard deviation, in stored values, have too few values to
# tell whether one is another one with other numbers.
LEAST_STD = 4.0
# Rounding moves a value by half, this margin included.
ROUNDING = 0.55
# Every so many rows and columns are compared before all are.
STRIDE = 8


class Rescaled(NamedTuple):
    """Pairs of images, one of which is the other one times a scale plus an offset.

    pairs  : int64 (m, 2), the image with the smaller standard deviation second
    scale  : float64 (m,), second = scale * first + offset
    offset : float64 (m,), in stored values
    """

    pairs: NDArray[np.int64]
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]


def same_pixels(
    bucket: NDArray[Any], checksum: NDArray[np.uint64], is_constant: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the first image that is the same as each one, int64 (n,).

    Images are the same if their bytes, shape and dtype are. Constant ones are like no
    other.
    """
    count = len(checksum)
    order = np.lexsort((np.arange(count), checksum, bucket))
    bucket, checksum = bucket[order], checksum[order]
    begins = np.ones(count, bool)
    begins[1:] = (bucket[1:] != bucket[:-1]) | (checksum[1:] != checksum[:-1])
    first = np.empty(count, np.int64)
    first[order] = order[np.flatnonzero(begins)][np.cumsum(begins) - 1]
    return np.where(is_constant, np.arange(count), first)


def find_rescaled(
    images: Callable[[int], NDArray[Any]],
    shape: NDArray[np.int64],
    mean: NDArray[np.float64],
    std: NDArray[np.float64],
    percentiles: NDArray[np.float64],
) -> Rescaled:
    """Return pairs of images that are the same but for a scale and an offset.

    images      : returns the stored values of image k, (H, W)
    shape       : int64 (n,), images are compared only if it is equal
    mean, std   : float64 (n,), of stored values
    percentiles : float64 (n, q), of stored values

    Scale and offset change no percentile relative to mean and standard deviation, but
    by rounding. Only images that agree in all of these are compared pixel by pixel.
    """
    usable = np.flatnonzero(np.isfinite(std) & (std >= LEAST_STD))
    usable = usable[np.argsort(std[usable], kind="stable")]
    relative = (percentiles[usable] - mean[usable, None]) / std[usable, None]
    # The coarser a pair's coarser image, the larger is the tolerance. So images whose
    # standard deviations lie in one octave are compared with those in higher ones.
    octave = np.floor(np.log2(std[usable])).astype(np.int64)
    found: list[tuple[int, int, float, float]] = []
    for low in np.flatnonzero(np.bincount(octave)).tolist():
        start = int(np.searchsorted(octave, low))
        tolerance = np.full(relative.shape[1], 2 * ROUNDING / 2.0**low)
        pairs = start + near_pairs(relative[start:], tolerance, shape[usable[start:]])
        for a, b in pairs[octave[pairs[:, 0]] == low].tolist():
            coarse, fine = int(usable[a]), int(usable[b])
            scale = float(std[coarse] / std[fine])
            offset = float(mean[coarse] - scale * mean[fine])
            if _agree(images(fine), images(coarse), scale, offset):
                found.append((fine, coarse, scale, offset))
    rows = np.array(found, np.float64).reshape(-1, 4)
    return Rescaled(rows[:, :2].astype(np.int64), rows[:, 2], rows[:, 3])


def _agree(
    fine: NDArray[Any], coarse: NDArray[Any], scale: float, offset: float
) -> bool:
    """Return whether coarse = scale * fine + offset, both rounded."""
    limit = ROUNDING * (1 + scale)
    some = fine[::STRIDE, ::STRIDE] * scale + offset - coarse[::STRIDE, ::STRIDE]
    if np.abs(some - np.round(some.mean())).max() > 2 * limit:
        return False
    x, y = fine.ravel().astype(np.float64), coarse.ravel().astype(np.float64)
    x -= x.mean()
    y -= y.mean()
    error = y - x * ((x @ y) / (x @ x))
    # Cut values, as of int16 turned into uint8, make an error that is not centred.
    return bool((error.max() - error.min()) / 2 <= limit)
