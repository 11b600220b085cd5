"""Histograms of a store: how often stored values occur, in images and in classes."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.errors import StoreError
from fastseg.store.layout import ANY_CLASS, MAX_BINS, WHOLE_IMAGE

if TYPE_CHECKING:
    from fastseg.store.reader import Store

# Bytes of a count, at most: seven bits each of a number of 32.
MAX_CODE = 5


class Histograms(NamedTuple):
    """Histograms of some samples, one of each that has one.

    sample : int64 (g,), their samples
    pixels : int64 (g,), how many values they count
    mean, std : float64 (g,), of these
    width  : int64 (g,), how many values a bin has
    owner  : int64 (b,), the number of its histogram of each bin that is not empty
    least  : int64 (b,), the least value of the bin
    counts : int64 (b,), how many values it has
    """

    sample: NDArray[np.int64]
    pixels: NDArray[np.int64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    width: NDArray[np.int64]
    owner: NDArray[np.int64]
    least: NDArray[np.int64]
    counts: NDArray[np.int64]


def read_histograms(
    store: "Store", samples: NDArray[np.int64], kind: int
) -> Histograms:
    """Return the histograms of samples, by rising sample.

    samples : int64 (n,), at least one
    kind    : index of a class, or layout.WHOLE_IMAGE or layout.ANY_CLASS

    A sample without such pixels has none. Raises StoreError if they are damaged.
    """
    parts = []
    owners = 0
    for part, first, some in store.by_file(np.sort(samples)):
        found = _read_file(part, some, kind)
        moved = found._replace(sample=found.sample + first, owner=found.owner + owners)
        parts.append(moved)
        owners += len(found.sample)
    return Histograms(*map(np.concatenate, zip(*parts, strict=True)))


def _read_file(store: "Store", samples: NDArray[np.int64], kind: int) -> Histograms:
    """Do the work of `read_histograms` for the samples of one file."""
    table = store.tables["histograms"]
    # Rows are ordered by sample: only those from the first to the last one are read.
    low, high = int(samples.min()), int(samples.max())
    is_chosen = np.zeros(high - low + 1, np.bool_)
    is_chosen[samples - low] = True
    start, stop = np.searchsorted(table["item"], [low, high + 1]).tolist()
    owners = table["item"][start:stop] - low
    if not ((owners >= 0) & (owners <= high - low)).all():
        raise _damaged(store)
    is_wanted = (table["class"][start:stop] == kind) & is_chosen[owners]
    expected = low + np.flatnonzero(is_chosen)
    if kind != WHOLE_IMAGE:
        counted = store.items["pixels"][expected]
        has_pixels = counted if kind == ANY_CLASS else counted[:, kind : kind + 1]
        expected = expected[has_pixels.any(axis=1)]
    if not np.array_equal(low + owners[is_wanted], expected):
        raise _damaged(store)
    rows = start + np.flatnonzero(is_wanted)
    sample, pixels, mean, std, width, first = (
        table[name][rows]
        for name in ("item", "pixels", "mean", "std", "width", "least")
    )
    starts, stops = (table["offsets"][rows + k] for k in range(2))
    codes = table["counts"]
    if not ((starts >= 0) & (starts < stops) & (stops <= len(codes))).all():
        raise _damaged(store)
    extents = zip(starts.tolist(), stops.tolist(), strict=True)
    parts = [codes[start:stop] for start, stop in extents]
    sizes = stops - starts
    decoded = decode_counts(np.concatenate([codes[:0], *parts]), sizes)
    if decoded is None:
        raise _damaged(store)
    owner, bins, counts = decoded
    sums = np.bincount(owner, counts, len(rows))
    is_power = (width > 0) & (width & (width - 1) == 0)
    in_range = (first >= -(2**31)) & (first < 2**32) & (width < 2**32)
    if not ((sums == pixels) & is_power & in_range).all():
        raise _damaged(store)
    least = first[owner] + width[owner] * bins
    return Histograms(sample, pixels, mean, std, width, owner, least, counts)


def decode_counts(
    codes: NDArray[np.uint8], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] | None:
    """Return of each bin with values its histogram, index and count, int64 (b,) each.

    codes : uint8 (m,), of histograms one behind the other, see `layout`
    sizes : int64 (g,), bytes of each

    Returns None if they are damaged.
    """
    is_last = codes < 128
    ends = np.cumsum(sizes)
    if not is_last[ends - 1].all():
        return None
    # The numbers, from the bytes of each.
    begins = np.flatnonzero(np.append(True, is_last)[:-1])
    lengths = np.diff(begins, append=len(codes))
    if not len(begins):
        return begins, begins, begins
    if lengths.max() > MAX_CODE:
        return None
    shifts = 7 * (np.arange(len(codes)) - np.repeat(begins, lengths))
    numbers = np.add.reduceat((codes & 127).astype(np.int64) << shifts, begins)
    owner = np.repeat(np.arange(len(sizes)), sizes)[begins]
    # What follows a 0 is a number of empty bins.
    is_zero = numbers == 0
    is_run = np.append(False, is_zero)[:-1]
    if (is_zero & is_run).any() or (is_run[1:] & (owner[1:] != owner[:-1])).any():
        return None
    steps = np.where(is_run, numbers, ~is_zero)
    after = np.cumsum(steps)
    firsts = np.searchsorted(owner, np.arange(len(sizes)))
    before = (after - steps)[firsts]
    bins = after - steps - before[owner]
    if is_zero[-1] or bins.max() >= MAX_BINS:
        return None
    is_count = ~is_zero & ~is_run
    return owner[is_count], bins[is_count], numbers[is_count]


def _damaged(store: "Store") -> StoreError:
    return StoreError(f"{store.path}: /histograms is damaged; build it again")
