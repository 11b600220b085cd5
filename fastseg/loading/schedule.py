"""Schedule: which samples come in which batch of which rank."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg.arrays import as_array
from fastseg.errors import (
    OptionError,
    choice,
    is_single,
    real_number,
    true_or_false,
    whole_number,
)
from fastseg.loading.orders import (
    MAX_WORD,
    check_seed,
    epoch_order,
    foreground_order,
    grouped_order,
    weighted_order,
)
from fastseg.store.reader import Store
from fastseg.store.selection import groups_of

Uneven = Literal["split", "repeat"]
Together = Literal["patient", "series", "volume"]

UNEVEN = get_args(Uneven)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Schedule:
    """Which samples come in which batch of a rank: a function of (seed, epoch).

    indices    : int64 (n,), distinct: indices in the store, sorted, or the entries of
        patches, see `placement`
    batch_size : samples in a batch; if there are fewer, they are one smaller batch
    seed       : 0 to 2**64 - 1
    shuffle    : a new order in every epoch, else always that of indices
    drop_last  : full batches only, n // (batch_size * world_size) on each rank
    rank, world_size : number of this process, from 0, and number of processes that
        divide the order of an epoch among them
    uneven     : what to do if n is no multiple of world_size, unless drop_last is set:
        "split": all ranks load the same number of batches, but some of them one sample
            less
        "repeat": all ranks load the same number of samples: the first samples of the
            order come again

    At most one of these, each along indices; the first two only with shuffle:

    weights    : float64 (n,), how often a sample comes, relative to the others; an
        epoch still has n samples, see `orders.weighted_order`
    foreground : (fraction, flags), fraction above 0 and up to 1, flags bool (n,): at
        least this fraction of the samples of each batch is flagged, see
        `orders.foreground_order`
    groups     : int64 (n,), samples with the same number come one after another. Each
        rank loads a block of the order, instead of every world_size-th sample. Without
        shuffle, the order is that of indices

    Raises OptionError for options that are out of range or exclude each other.
    """

    indices: NDArray[np.int64]
    batch_size: int
    seed: int
    shuffle: bool = True
    drop_last: bool = False
    rank: int = 0
    world_size: int = 1
    uneven: Uneven = "split"
    weights: NDArray[np.float64] | None = None
    foreground: tuple[float, NDArray[np.bool_]] | None = None
    groups: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "batch_size": whole_number("batch_size", self.batch_size, 1),
            "seed": check_seed(self.seed),
            "shuffle": true_or_false("shuffle", self.shuffle),
            "drop_last": true_or_false("drop_last", self.drop_last),
            "rank": whole_number("rank", self.rank, 0),
            "world_size": whole_number("world_size", self.world_size, 1),
        }
        if self.weights is not None:
            checked["weights"] = self._checked_weights(self.weights)
        if self.foreground is not None:
            checked["foreground"] = self._checked_foreground(*self.foreground)
        if self.groups is not None:
            checked["groups"] = self._column("groups", self.groups, np.int64)
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        self._check_ranks()
        self._check_combination()

    def __len__(self) -> int:
        """Return the number of batches of an epoch, the same for all ranks."""
        return -(-self._count(0) // self.batch_size)

    def epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the samples of an epoch on this rank, in order, and batch bounds.

        samples : int64 (m,), indices in the store
        bounds  : int64 (len(self) + 1,); batch k is samples[bounds[k] : bounds[k + 1]]

        Raises OptionError for an epoch that is not from 0 to 2**64 - 1.
        """
        epoch = whole_number("epoch", epoch, 0, MAX_WORD)
        return self.indices[self._order_of_rank(epoch)], self._bounds(self.rank)

    def _order_of_rank(self, epoch: int) -> NDArray[np.int64]:
        """Return this rank's samples in their order, as indices into `indices`."""
        ranks = self.world_size
        if self.foreground is not None:
            fraction, flags = self.foreground
            # The first batches of all ranks, then the second ones, and so on, so that
            # repeats of a sample are far apart.
            bounds = np.stack([self._bounds(rank) for rank in range(ranks)], axis=1)
            sizes = np.diff(bounds, axis=0).ravel()
            order = foreground_order(flags, fraction, sizes, self.seed, epoch)
            mine = np.repeat(np.arange(len(sizes)) % ranks == self.rank, sizes)
            return order[np.flatnonzero(mine)]
        order = np.resize(self._order(epoch), self._total)
        if self.groups is None:
            return order[self.rank :: ranks]
        block: NDArray[np.int64] = np.array_split(order, ranks)[self.rank]
        return block

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Return the order that the ranks divide, as indices into `indices`."""
        if self.weights is not None:
            return weighted_order(self.weights, self.seed, epoch)
        if self.groups is not None and self.shuffle:
            return grouped_order(self.groups, self.seed, epoch)
        return epoch_order(len(self.indices), self.seed, epoch, self.shuffle)

    @property
    def largest_batch(self) -> int:
        """Number of samples in the largest batch of any rank."""
        return min(self.batch_size, self._count(0))

    @property
    def _total(self) -> int:
        """Number of samples that all ranks together load in an epoch."""
        count = len(self.indices)
        ranks = self.world_size
        if self.drop_last:
            return count - count % (self.batch_size * ranks)
        return count + -count % ranks if self.uneven == "repeat" else count

    def _count(self, rank: int) -> int:
        """Return the number of samples that a rank loads in an epoch."""
        return len(range(rank, self._total, self.world_size))

    def _bounds(self, rank: int) -> NDArray[np.int64]:
        count = self._count(rank)
        bounds = np.minimum(np.arange(len(self) + 1) * self.largest_batch, count)
        # A rank with one sample less than others may have none for its last batch: then
        # the batch before is one sample smaller.
        bounds[-2] = min(bounds[-2], count - 1)
        return bounds

    def _check_ranks(self) -> None:
        """Raise OptionError if the ranks cannot divide the samples into batches."""
        count = len(self.indices)
        size = self.batch_size
        ranks = self.world_size
        if self.rank >= ranks:
            raise OptionError(
                f"rank is {self.rank} and world_size is {ranks}, expected a rank from "
                "0 to world_size - 1"
            )
        choice("uneven", self.uneven, UNEVEN)
        if not count:
            raise OptionError(
                "no samples are chosen, expected at least 1: the store or the "
                "selection is empty"
            )
        if self.drop_last and not self._total:
            most = count // ranks
            each = f" for each of {ranks} ranks" if ranks > 1 else ""
            remedy = f"give a batch_size of at most {most}, or drop_last=False"
            if not most:
                remedy = "give fewer ranks, or drop_last=False and uneven='repeat'"
            raise OptionError(
                f"batch_size is {size} and drop_last is True, but only {count} samples "
                f"are chosen, which make no full batch{each}: {remedy}"
            )
        # The last ranks have one sample less, if the samples do not divide evenly.
        if self._total // ranks < len(self):
            remedies = "uneven='repeat' to load some twice"
            if count > ranks:
                remedies += ", drop_last=True to leave some out, or a larger batch_size"
            else:
                remedies += ", or fewer ranks"
            raise OptionError(
                f"batch_size is {size} and {count} samples are chosen, which {ranks} "
                "ranks cannot divide into equal numbers of batches, expected "
                f"{'at least' if count < ranks else 'a multiple of'} {ranks}: give "
                f"{remedies}"
            )

    def _check_combination(self) -> None:
        """Raise OptionError for options that exclude each other."""
        given = [
            option
            for name, option in (
                ("weights", "weights"),
                ("foreground", "foreground"),
                ("groups", "together"),
            )
            if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise OptionError(
                f"{' and '.join(given)} are given, but each of them determines the "
                "order, expected at most one: leave the other out"
            )
        if given and given != ["together"] and not self.shuffle:
            raise OptionError(
                f"shuffle is False, but {given[0]} needs a random order: leave one of "
                "them out"
            )

    def _checked_weights(self, given: Any) -> NDArray[np.float64]:
        weights = self._column("weights", given, np.float64)
        bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
        if bad.size:
            raise OptionError(
                f"the weight of sample {self.indices[bad[0]]} is {weights[bad[0]]}, "
                "expected a finite number, 0 or above"
            )
        if weights.size and not weights.any():
            raise OptionError(
                f"the weights of all {weights.size} chosen samples are 0, expected at "
                "least one above 0"
            )
        return weights

    def _checked_foreground(
        self, fraction: Any, given: Any
    ) -> tuple[float, NDArray[np.bool_]]:
        expected = "a fraction of each batch, above 0 and up to 1"
        if not 0 < real_number("foreground", fraction, expected) <= 1:
            raise OptionError(f"foreground is {fraction!r}, expected {expected}")
        flags = self._column("foreground", given, np.bool_)
        if flags.size and not flags.any():
            raise OptionError(
                f"foreground is {fraction!r}, but none of the {flags.size} chosen "
                "samples has foreground: choose others, or leave foreground out"
            )
        return float(fraction), flags

    def _column(self, name: str, given: Any, dtype: type) -> NDArray[Any]:
        """Return an array along indices, cast to dtype, or raise OptionError."""
        column = as_array(given, name, kinds="biuf")
        count = len(self.indices)
        castable = np.can_cast(column.dtype, dtype, "same_kind")
        if column.shape != (count,) or not castable:
            raise OptionError(
                f"{name} are {column.dtype} of shape {column.shape}, expected "
                f"{dtype.__name__} of shape ({count},): one for each chosen sample"
            )
        return column.astype(dtype)


TOGETHER = get_args(Together)

Indices = NDArray[np.int64]


def select_weights(
    store: Store, indices: Indices, weights: ArrayLike | None
) -> NDArray[np.float64] | None:
    """Return the weights of the chosen samples, float64 (n,), from those of all."""
    if weights is None:
        return None
    if isinstance(weights, str):
        raise OptionError(
            f"weights is {weights!r}, expected a number for each of the store's "
            f"{len(store)} samples"
        )
    given = as_array(weights, "weights", kinds="biuf").astype(np.float64)
    if given.shape != (len(store),):
        raise OptionError(
            f"weights have shape {given.shape}, expected one for each of the store's "
            f"{len(store)} samples"
        )
    return given[indices]


def select_foreground(
    store: Store, indices: Indices, foreground: Any
) -> tuple[float, NDArray[np.bool_]] | None:
    """Return the fraction of foreground, and which chosen samples have any, bool (n,).

    foreground : a fraction, or a class and a fraction
    """
    if foreground is None:
        return None
    name = None
    fraction = foreground
    if not is_single(foreground) and len(foreground) == 2:
        name, fraction = foreground
    expected = "a fraction, as in 0.5, or a class and one, as in ('icontour', 0.5)"
    fraction = real_number("foreground", fraction, expected)
    pixels = store.items["pixels"]
    classes = slice(None) if name is None else [store.class_index(name)]
    flags: NDArray[np.bool_] = np.any(pixels[indices][:, classes] > 0, axis=1)
    return fraction, flags


def select_groups(
    store: Store, indices: Indices, together: Together | None
) -> NDArray[np.int64] | None:
    """Return a number for the patient, series or volume of chosen samples, int64 (n,).

    A sample in no volume has a number of its own.
    """
    if together is None:
        return None
    choice("together", together, TOGETHER)
    _, group = groups_of(store, together)
    return group[indices]
