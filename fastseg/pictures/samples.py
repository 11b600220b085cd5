"""Which samples, or slices of a volume, a picture shows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg.errors import OptionError, shown, whole_number
from fastseg.loading.orders import check_seed, epoch_order
from fastseg.store.reader import Store

# Samples that are drawn if nobody says how many.
COUNT = 4


def choose_samples(
    store: Store,
    *,
    count: int | None,
    patients: str | Sequence[str] | None,
    classes: str | Sequence[str] | None,
    indices: ArrayLike | None,
    seed: int,
) -> NDArray[np.int64]:
    """Return the samples that `show` draws with these arguments, in its order."""
    if count is not None:
        count = whole_number("count", count, 1)
    seed = check_seed(seed)
    samples = store.select(
        patients=patients, classes=classes, match="any", indices=indices
    )
    if not len(samples):
        raise OptionError(
            "no sample meets all conditions: patients, classes and indices; give fewer"
        )
    if indices is not None:
        given = np.asarray(indices, np.int64)
        return given[np.isin(given, samples)][:count]
    shuffled = samples[epoch_order(len(samples), seed, 0, shuffle=True)]
    is_unlabelled = store.items["labelled"][shuffled] == 0
    labelled_first = shuffled[np.argsort(is_unlabelled, kind="stable")]
    return np.sort(labelled_first[: count or COUNT])


def choose_slices(
    store: Store, volume: int, classes: str | Sequence[str] | None
) -> NDArray[np.int64]:
    """Return the slices of a volume, or those with a contour of one of some classes."""
    if not store.volumes:
        raise OptionError(f"volume is {shown(volume)}, but the store has none")
    number = whole_number("volume", volume, 0, len(store.volumes) - 1)
    slices = store.select(volumes=number, classes=classes, match="any")
    if not len(slices):
        raise OptionError(f"volume {number} has no contour of the classes asked for")
    return slices
