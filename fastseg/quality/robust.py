"""What is usual among values, without regard to the few that are not."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

# Of a normal distribution: how many standard deviations its quantiles lie off its
# middle.
QUARTILE = 0.6745
DECILE = 1.2816


def deviations(values: Floats, floor: float) -> Floats:
    """Return by how many usual deviations each value lies off the median.

    values : float64 (n,); NaN stays NaN
    floor  : the least usual deviation

    What is usual is estimated on each side of the median for itself, because areas
    and intensities are skewed, and from a quartile and a decile, because tails may be
    long. One value in ten may be anything.
    """
    known = np.sort(values[np.isfinite(values)])
    count = len(known)
    if not count:
        return np.full(len(values), np.nan)
    middle = float(_quantile(known, 0.5))
    above = max(
        floor,
        (known[_rank(count, 0.75)] - middle) / QUARTILE,
        (known[_rank(count, 0.9)] - middle) / DECILE,
    )
    below = max(
        floor,
        (middle - known[count - 1 - _rank(count, 0.75)]) / QUARTILE,
        (middle - known[count - 1 - _rank(count, 0.9)]) / DECILE,
    )
    off = values - middle
    result: Floats = np.where(off > 0, off / above, off / below)
    return result


def median(values: Floats) -> float:
    """Return the median of the values that are not NaN; NaN without any."""
    known = np.sort(values[np.isfinite(values)])
    return _quantile(known, 0.5) if len(known) else np.nan


def mostly_below(values: Floats) -> float:
    """Return what nine in ten values do not exceed; 0 without any.

    Of several values, it is never the greatest one.
    """
    known = np.sort(values[np.isfinite(values)])
    return float(known[_rank(len(known), 0.9)]) if len(known) > 1 else 0.0


def group_medians(values: Floats, group: Indices, count: int) -> Floats:
    """Return the median of each group, float64 (count,); NaN for an empty one.

    values : float64 (n,); NaN counts as absent
    group  : int64 (n,), from 0 to count - 1
    """
    known = np.isfinite(values)
    values, group = values[known], group[known]
    order = np.lexsort((values, group))
    sizes = np.bincount(group, minlength=count)
    starts = np.cumsum(sizes) - sizes
    result = np.full(count, np.nan)
    filled = sizes > 0
    low = order[starts[filled] + (sizes[filled] - 1) // 2]
    high = order[starts[filled] + sizes[filled] // 2]
    result[filled] = (values[low] + values[high]) / 2
    return result


def _rank(count: int, fraction: float) -> int:
    """Return the index of a quantile among sorted values, rounded down."""
    return int(fraction * (count - 1))


def _quantile(known: Floats, fraction: float) -> float:
    """Return a quantile of sorted values, interpolated."""
    place = fraction * (len(known) - 1)
    low = int(place)
    high = min(low + 1, len(known) - 1)
    return float(known[low] + (place - low) * (known[high] - known[low]))
