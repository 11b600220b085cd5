"""What a loader's options say of the samples: weights, foreground, groups."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg.errors import OptionError, one_of
from fastseg.store.reader import Store
from fastseg.store.selection import groups_of

TOGETHER = ("patient", "series")

Indices = NDArray[np.int64]


def weights_along(
    store: Store, indices: Indices, weights: ArrayLike | None
) -> NDArray[np.float64] | None:
    """Return the weights of the chosen samples, float64 (n,), from those of all."""
    if weights is None:
        return None
    try:
        given = np.asarray(weights, np.float64)
    except (TypeError, ValueError):
        raise OptionError(
            f"weights are {weights!r}, expected a number for each sample"
        ) from None
    if given.shape != (len(store),):
        raise OptionError(
            f"weights have shape {given.shape}, expected one for each of the store's "
            f"{len(store)} samples"
        )
    return given[indices]


def foreground_along(
    store: Store, indices: Indices, wanted: Any
) -> tuple[float, NDArray[np.bool_]] | None:
    """Return the share of foreground and which of the chosen samples have it.

    wanted : a share, or a class and a share
    """
    if wanted is None:
        return None
    name, share = (
        wanted if np.ndim(wanted) == 1 and len(wanted) == 2 else (None, wanted)
    )
    try:
        share = float(share)
    except (TypeError, ValueError):
        raise OptionError(
            f"foreground is {wanted!r}, expected a share, as in 0.5, or a class and a "
            "share, as in ('icontour', 0.5)"
        ) from None
    pixels = store.items["pixels"]
    bits = slice(None) if name is None else [store.class_index(name)]
    flags: NDArray[np.bool_] = np.any(pixels[indices][:, bits] > 0, axis=1)
    return share, flags


def groups_along(
    store: Store, indices: Indices, together: str | None
) -> NDArray[np.int64] | None:
    """Return the number of each chosen sample's patient or series, int64 (n,)."""
    if together is None:
        return None
    if together not in TOGETHER:
        raise OptionError(one_of("together", together, TOGETHER))
    _, group = groups_of(store, together)
    return group[indices]
