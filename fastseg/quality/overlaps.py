"""How the classes of an image lie to each other: what they share, and how they differ.

How two classes usually lie is learned from the store itself, from all images where both
have pixels. An image is unlike the rest if what holds nearly everywhere else does not
hold there.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fastseg.quality.facts import Facts

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Bools = NDArray[np.bool_]

# With fewer images where both classes are, nothing is learned about them.
LEAST_IMAGES = 8
# One class is taken to lie inside another if it does on so many of their images.
USUALLY_INSIDE = 0.8

# Two labels look swapped if the first differs from the second as usual, but the other
# way round. Differences count in units of their usual spread, which is at least this
# fraction of the usual difference, this many mm, and this much in the logarithm of the
# ratio of areas.
LEAST_SPREAD = 0.15
LEAST_SPREAD_MM = 1.0
LEAST_SPREAD_LOG = 0.1
# At least so far from the usual difference, at most so far from its opposite, and at
# most this fraction as far.
FAR, NEAR, NEARER = 6.0, 8.0, 0.5
# Standard deviations of a normal distribution in its median absolute deviation.
SIGMA = 1.4826


class Overlaps(NamedTuple):
    """How many pixels classes share: a row for each image and two classes on it.

    sample        : int64 (n,)
    first, second : int64 (n,), classes that both have pixels, first < second
    shared        : int64 (n,), pixels of both
    of_first, of_second : int64 (n,), pixels of each
    pairs         : int64 (p, 2), the pairs of classes; their rows follow each other
    bounds        : int64 (p + 1,), pair k has the rows bounds[k]:bounds[k + 1]
    """

    sample: Indices
    first: Indices
    second: Indices
    shared: Indices
    of_first: Indices
    of_second: Indices
    pairs: Indices
    bounds: Indices

    def each(self) -> Iterator[tuple[int, int, slice]]:
        """Yield each pair of classes, with its rows."""
        for k, (first, second) in enumerate(self.pairs.tolist()):
            yield first, second, self._rows(k)

    def of(self, inner: int, outer: int) -> tuple[slice, Indices, Indices]:
        """Return the rows of two classes, and the pixels of each in these."""
        pair = [min(inner, outer), max(inner, outer)]
        found = np.flatnonzero((self.pairs == pair).all(axis=1))
        rows = self._rows(int(found[0])) if len(found) else slice(0, 0)
        sizes = self.of_first[rows], self.of_second[rows]
        return (rows, *sizes) if inner < outer else (rows, *sizes[::-1])

    def _rows(self, pair: int) -> slice:
        return slice(*self.bounds[pair : pair + 2].tolist())


def count_overlaps(facts: "Facts") -> Overlaps:
    """Return how many pixels classes share, counted in the masks."""
    pixels, boxes = facts.items["pixels"], facts.items["bbox"]
    present = pixels > 0
    samples = np.flatnonzero(present.sum(axis=1) > 1)

    def count(sample: int) -> Indices:
        classes = np.flatnonzero(present[sample])
        top, left = boxes[sample, classes, :2].min(axis=0)
        bottom, right = boxes[sample, classes, 2:].max(axis=0)
        shared = _count_shared(facts.mask(sample)[top:bottom, left:right], classes)
        first, second = np.triu_indices(len(classes), 1)
        rows = np.empty((len(first), 4), np.int64)
        rows[:, 0] = sample
        rows[:, 1], rows[:, 2] = classes[first], classes[second]
        rows[:, 3] = shared[first, second]
        return rows

    counted = facts.map(count, samples.tolist(), "compare classes")
    table = np.concatenate([np.zeros((0, 4), np.int64), *counted])
    order = np.lexsort([table[:, 0], table[:, 2], table[:, 1]])
    sample, first, second, shared = table[order].T
    starts = np.flatnonzero(np.diff(first * pixels.shape[1] + second, prepend=-1))
    return Overlaps(
        sample=sample,
        first=first,
        second=second,
        shared=shared,
        of_first=pixels[sample, first],
        of_second=pixels[sample, second],
        pairs=np.stack([first[starts], second[starts]], axis=1),
        bounds=np.append(starts, len(sample)),
    )


def _count_shared(mask: NDArray[Any], classes: Indices) -> Floats:
    """Return how many pixels each two classes share, (k, k).

    mask    : unsigned (h, w), a bit field
    classes : the bits that count
    """
    cells = mask.ravel()
    if cells.dtype.itemsize <= 2:
        counts = np.bincount(cells)
        values = np.flatnonzero(counts)
        counts = counts[values]
    else:
        values, counts = np.unique(cells, return_counts=True)
    covered = values.astype(np.uint64)[:, None] >> classes.astype(np.uint64)
    # As floats, because matrices of integers take longer to multiply.
    bits = (covered & np.uint64(1)).astype(np.float64)
    shared: Floats = (bits.T * counts) @ bits
    return shared


def infer_inside(overlaps: Overlaps) -> tuple[tuple[int, int], ...]:
    """Return the pairs (inner, outer) of classes of which one usually lies inside."""
    pairs = []
    for first, second, rows in overlaps.each():
        shared = overlaps.shared[rows]
        if len(shared) < LEAST_IMAGES:
            continue
        first_inside = float(np.mean(shared == overlaps.of_first[rows]))
        second_inside = float(np.mean(shared == overlaps.of_second[rows]))
        if max(first_inside, second_inside) < USUALLY_INSIDE:
            continue
        if first_inside > second_inside:
            pairs.append((first, second))
        elif second_inside > first_inside:
            pairs.append((second, first))
    return tuple(pairs)


def find_swapped(facts: "Facts") -> Bools:
    """Return which rows of the overlaps are of classes whose labels look swapped.

    Either the class that lies inside the other one elsewhere contains it; or they
    differ in position and area as they do elsewhere, but the other way round.
    """
    overlaps = facts.overlaps
    swapped = np.zeros(len(overlaps.sample), bool)
    for inner, outer in facts.inside_pairs:
        rows, of_inner, of_outer = overlaps.of(inner, outer)
        swapped[rows] = (overlaps.shared[rows] == of_outer) & (of_inner > of_outer)
    differences = _differences(facts)
    for _, _, rows in overlaps.each():
        if rows.stop - rows.start >= LEAST_IMAGES:
            swapped[rows] |= are_opposite(differences[rows])
    return swapped


def _differences(facts: "Facts") -> Floats:
    """Return how the first class of each row differs from the second, float64 (n, 4).

    From centroid to centroid along x, y and z of the patient, in mm, or along columns
    and rows, in pixels, if the plane of an image is not known; then the logarithm of
    the ratio of areas.
    """
    overlaps, labels = facts.overlaps, facts.labels
    sample = overlaps.sample
    width = max(len(facts.classes), 1)
    known = labels.sample * width + labels.klass
    first = np.searchsorted(known, sample * width + overlaps.first)
    second = np.searchsorted(known, sample * width + overlaps.second)
    away = labels.centroid[first] - labels.centroid[second]
    steps = facts.spacing_mm[sample]
    directions = facts.items["directions"][sample]
    in_mm = away[:, :1] * steps[:, 1:] * directions[:, :3]
    in_mm += away[:, 1:] * steps[:, :1] * directions[:, 3:]
    if not np.isfinite(in_mm).all():
        in_mm = np.pad(away, [(0, 0), (0, 1)])
    return np.column_stack([in_mm, np.log(overlaps.of_first / overlaps.of_second)])


def are_opposite(differences: Floats) -> Bools:
    """Return which rows are near to the opposite of what is usual among all.

    differences : float64 (n, 4), a vector in mm and a logarithm
    """
    usual = np.quantile(differences, 0.5, axis=0)
    spread = SIGMA * np.quantile(np.abs(differences - usual), 0.5, axis=0)
    distance = float(np.sqrt(usual[:3] @ usual[:3]))
    spread[:3] = spread[:3].clip(max(LEAST_SPREAD * distance, LEAST_SPREAD_MM))
    least = max(LEAST_SPREAD * abs(float(usual[3])), LEAST_SPREAD_LOG)
    spread[3] = max(float(spread[3]), least)
    from_usual = np.sqrt((((differences - usual) / spread) ** 2).sum(axis=1))
    from_opposite = np.sqrt((((differences + usual) / spread) ** 2).sum(axis=1))
    opposite: Bools = (
        (from_usual > FAR)
        & (from_opposite < NEAR)
        & (from_opposite < NEARER * from_usual)
    )
    return opposite
