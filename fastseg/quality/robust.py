"""What is usual among values, without regard to the few that are not."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

# Of a normal distribution: how many standard deviations its quantiles lie off its
# middle.
QUARTILE = 0.6745
DECILE = 1.2816
FORTIETH = 1.96
# The tail is asked of this many values; it shortens a deviation to this part, at most.
FEWEST_IN_TAIL = 40
SHORTEST_TAIL = 0.6


def deviations(values: Floats, floor: float, others: Floats | None = None) -> Floats:
    """Return by how many usual deviations each value lies off the median.

    values : float64 (n,); NaN stays NaN
    floor  : the least usual deviation
    others : float64 (m,), which say what is usual, by default the values

    What is usual is estimated on each side of the median for itself, because areas
    and intensities are skewed, see `_spread`. One value in ten may be anything.
    """
    others = values if others is None else others
    known = np.sort(others[np.isfinite(others)])
    count = len(known)
    if not count:
        return np.full(len(values), np.nan)
    middle = float(_quantile(known, 0.5))
    above = max(floor, _spread(known - middle))
    below = max(floor, _spread((middle - known)[::-1]))
    off = values - middle
    result: Floats = np.where(off > 0, off / above, off / below)
    return result


def median(values: Floats) -> float:
    """Return the median of the values that are not NaN; NaN without any."""
    known = np.sort(values[np.isfinite(values)])
    return _quantile(known, 0.5) if len(known) else np.nan


def mostly_below(values: Floats, fraction: float) -> float:
    """Return what a fraction of values do not exceed; 0 without any.

    Of several values, it is never the greatest one.
    """
    known = np.sort(values[np.isfinite(values)])
    return float(known[_rank(len(known), fraction)]) if len(known) > 1 else 0.0


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


def _spread(off: Floats) -> float:
    """Return the usual deviation above the median.

    off : sorted differences from the median

    It is estimated from a decile. Where that is less than from a quartile, tails are
    short, and what is estimated from one value in forty may be still less.
    """
    count = len(off)
    quartile = float(off[_rank(count, 0.75)]) / QUARTILE
    decile = float(off[_rank(count, 0.9)]) / DECILE
    if decile >= quartile or count < FEWEST_IN_TAIL:
        return max(quartile, decile)
    tail = float(off[_rank(count, 0.975)]) / FORTIETH
    return min(max(tail, SHORTEST_TAIL * decile), quartile)


def _rank(count: int, fraction: float) -> int:
    """Return the index of a quantile among sorted values, rounded down."""
    return int(fraction * (count - 1))


def _quantile(known: Floats, fraction: float) -> float:
    """Return a quantile of sorted values, interpolated."""
    place = fraction * (len(known) - 1)
    low = int(place)
    high = min(low + 1, len(known) - 1)
    return float(known[low] + (place - low) * (known[high] - known[low]))
