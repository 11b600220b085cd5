"""Splits: a store is divided into parts that share no patient.

The samples of one patient (or series, or volume, or one sample, see `by`) form a group.
`split` assigns whole groups to parts, so that the parts come near to their fractions of
all samples and of each stratum, and warns if they do not. `split_folds` makes parts of
one size, of which `hold_out` takes one for validation. `check_parts` checks that no
group is in two parts.
"""

import math
import reprlib
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from xxhash import xxh3_64_intdigest

from fastseg.arrays import as_array
from fastseg.calls import check_call
from fastseg.choices import By, Stratify
from fastseg.errors import (
    OptionError,
    SplitWarning,
    choice,
    real_number,
    shown,
    whole_number,
)
from fastseg.randomness import SAMPLE_ORDER, SPLIT_EPOCH, philox
from fastseg.store.selection import (
    Indices,
    check_indices,
    groups_of,
    has_class,
    shapes_of,
)

if TYPE_CHECKING:
    from fastseg.store.reader import Store

STRATIFY = get_args(Stratify)
# Users type fractions: three times 0.333333 counts as 1, three times 0.33 does not.
SUM_TOLERANCE = 2e-6
# The same limit as for classes: a part could hardly get its fraction of more strata.
MOST_STRATA = 64
# A stratum of n samples has the weight WEIGHT // n. Weights are whole numbers, so that
# every machine finds the same split. Sums fit into int64 up to 10**8 samples.
WEIGHT = 2**30
# Most moves and swaps that `_improve` makes; about a dozen are usual.
MOST_CHANGES = 1000
# Swaps are tried up to this number of groups; more groups fit by moves alone.
MOST_SWAPPED = 300
# A part is far from its fraction if it has over a third more or fewer samples. From
# about eight patients of usual sizes on, parts are closer than a tenth of that.
FAR = 1 / 3
# Most parts that a warning describes.
MOST_DESCRIBED = 5
PLURALS = {
    "patient": "patients",
    "series": "series",
    "volume": "volumes",
    "sample": "samples",
}


def split(
    store: "Store",
    parts: Mapping[str, float],
    *,
    by: By = "patient",
    seed: int = 0,
    stratify: Stratify | ArrayLike | None = None,
    indices: ArrayLike | None = None,
) -> dict[str, Indices]:
    """Return the samples of each part; see `Store.split`."""
    fractions = _fractions(parts)
    return _divide(store, fractions, "part", by, seed, stratify, indices)


def split_folds(
    store: "Store",
    folds: int,
    *,
    by: By = "patient",
    seed: int = 0,
    stratify: Stratify | ArrayLike | None = None,
    indices: ArrayLike | None = None,
) -> dict[str, Indices]:
    """Return the samples of each fold; see `Store.split_folds`."""
    count = whole_number("folds", folds, 2, max(len(store), 2))
    fractions = {f"fold{k}": 1 / count for k in range(count)}
    return _divide(store, fractions, "fold", by, seed, stratify, indices)


@check_call("hold_out(folds, 0)")
def hold_out(
    parts: Mapping[str, ArrayLike], fold: int | str
) -> tuple[Indices, Indices]:
    """Return the samples to train on and those to validate on, of one fold.

    parts : indices of samples, by name of the fold, as `Store.split_folds` and
        `read_split` return them
    fold  : the fold that is held out: its name, or its number, from 0, in the order of
        `parts`

    Returns two sorted int64 arrays for `Loader(indices=...)`: the samples of all other
    folds, and those of this one. Raises OptionError if there are fewer than two folds,
    there is none of that name or number, or a sample is in two of them.
    """
    if not isinstance(parts, Mapping) or len(parts) < 2:
        raise OptionError(
            f"parts is {reprlib.repr(parts)}, expected at least two folds by name, as "
            "Store.split_folds and read_split return them"
        )
    if isinstance(fold, str):
        held = [*parts].index(choice("fold", fold, parts))
    else:
        held = whole_number("fold", fold, 0, len(parts) - 1)
    folds = [
        as_array(part, "indices", kinds="iu").astype(np.int64)
        for part in parts.values()
    ]
    if any(part.ndim != 1 for part in folds):
        raise OptionError("indices of a fold are no list, expected one for each fold")
    distinct, counts = np.unique(np.concatenate(folds), return_counts=True)
    if (counts > 1).any():
        raise OptionError(
            f"the folds overlap: sample {distinct[counts > 1][0]} is in them "
            f"{counts.max()} times, expected once"
        )
    val = folds.pop(held)
    return np.sort(np.concatenate(folds)), np.sort(val)


def _divide(
    store: "Store",
    fractions: dict[str, float],
    kind: str,
    by: By,
    seed: int,
    stratify: Stratify | ArrayLike | None,
    indices: ArrayLike | None,
) -> dict[str, Indices]:
    """Return the samples of each part, checked; warn if some are far from fractions.

    kind : what a part is called in messages: "part" or "fold"
    """
    seed = whole_number("seed", seed, 0, 2**64 - 1)
    chosen = check_indices(store, indices)
    keys, group = groups_of(store, by)
    used = np.bincount(group[chosen], minlength=len(keys)) > 0
    keys = keys[used]
    group = (np.cumsum(used) - 1)[group[chosen]]
    if len(keys) < len(fractions):
        raise OptionError(
            f"{len(fractions)} {kind}s of {len(chosen)} samples in {len(keys)} groups "
            f"(by {by}): each {kind} needs a group of its own"
        )
    strata = _strata(store, chosen, stratify)
    wanted = list(fractions.values())
    part = assign_groups(keys, group, strata, seed, wanted)
    samples = {name: chosen[part[group] == k] for k, name in enumerate(fractions)}
    check_parts(store, samples, by=by, indices=chosen)
    sizes = np.bincount(group)
    if far := _far_parts(part, sizes, fractions, by):
        without = assign_groups(keys, group, strata[:0], seed, wanted)
        is_near_without = not _far_parts(without, sizes, fractions, by)
        text = _describe_far(far, sizes, kind, by, is_near_without)
        # The caller of the method of Store, behind its decorator.
        warnings.warn(text, SplitWarning, stacklevel=5)
    return samples


def _far_parts(
    part: NDArray[np.int64],
    sizes: NDArray[np.int64],
    fractions: dict[str, float],
    by: By,
) -> list[str]:
    """Return a description of each part that is far from what was asked for.

    part, sizes : int64 (G,), the part of each group and its number of samples

    A part is far if it has over a third more or fewer samples than its fraction says,
    and over one sample; or if it has a single group, though its fraction of the groups
    is at least two.
    """
    total = int(sizes.sum())
    described = []
    for k, (name, fraction) in enumerate(fractions.items()):
        count = int(sizes[part == k].sum())
        groups = int((part == k).sum())
        asked = fraction * total
        of_groups = f"{groups} of {len(part)} {PLURALS[by]}"
        if abs(count - asked) > max(FAR * asked, 1) * (1 + SUM_TOLERANCE):
            described.append(
                f"{name} has {count / total:.1%} of the samples instead of "
                f"{fraction:.1%} ({of_groups})"
            )
        elif groups == 1 and fraction * len(part) * (1 + SUM_TOLERANCE) >= 2:
            described.append(f"{name} has only {of_groups}")
    return described


def _describe_far(
    far: list[str],
    sizes: NDArray[np.int64],
    kind: str,
    by: By,
    is_near_without: bool,
) -> str:
    """Return the text of a SplitWarning: what is far, why, and what to do.

    is_near_without : whether no part would be far without strata
    """
    described = far[:MOST_DESCRIBED]
    if len(far) > MOST_DESCRIBED:
        described.append(f"and {len(far) - MOST_DESCRIBED} more {kind}s")
    if is_near_without:
        reason = (
            f"Without stratify, each {kind} would be near: leave it out, or give fewer "
            "strata"
        )
    else:
        remedy = (
            "make fewer folds"
            if kind == "fold"
            else "give other fractions, or make folds, which validate on every sample"
        )
        reason = (
            f"A {by} stays whole, and the largest has {sizes.max() / sizes.sum():.1%} "
            f"of the samples: {remedy}"
        )
        if sizes.min() < sizes.max():
            reason += ". Another seed may come nearer"
    return f"the split is far from what was asked for: {'; '.join(described)}. {reason}"


def check_parts(
    store: "Store",
    parts: Mapping[str, ArrayLike],
    *,
    by: By = "patient",
    indices: ArrayLike | None = None,
) -> None:
    """Raise OptionError if a sample, or a patient, is in two parts; see `check_split`.

    Also raises it if `parts` holds no indices by name of the part.
    """
    if not isinstance(parts, Mapping):
        raise OptionError(
            f"parts is {shown(parts)}, expected the indices of each part by its name, "
            "as Store.split returns them"
        )
    for unit in ("sample", by):
        count = count_shared(store, parts, by=unit)
        if count:
            raise OptionError(
                f"the parts overlap: they share {count} of their groups (by {unit})"
            )
    if indices is not None:
        held = np.sort(
            np.concatenate([check_indices(store, p) for p in parts.values()])
        )
        if not np.array_equal(held, check_indices(store, indices)):
            raise OptionError("the parts do not hold exactly the samples to be split")


def count_shared(store: "Store", parts: Mapping[str, ArrayLike], *, by: By) -> int:
    """Return how many patients (series, volumes, samples) are in several parts."""
    keys, group = groups_of(store, by)
    groups = [group[check_indices(store, part)] for part in parts.values()]
    # The last part in which each group is. A group in any other part is shared.
    last = np.empty(len(keys), np.int64)
    for k, present in enumerate(groups):
        last[present] = k
    shared = [present[last[present] != k] for k, present in enumerate(groups)]
    return len(np.unique(np.concatenate([*shared, np.empty(0, np.int64)])))


def _strata(
    store: "Store", indices: Indices, stratify: Stratify | ArrayLike | None
) -> NDArray[np.bool_]:
    """Return which samples belong to which stratum, bool (S, n); strata may overlap."""
    if stratify is None:
        return np.empty((0, len(indices)), bool)
    if isinstance(stratify, str):
        if choice("stratify", stratify, STRATIFY) == "classes":
            labelled = store.items["labelled"][indices]
            bits = range(len(store.classes))
            return np.array([has_class(labelled, k) for k in bits])
        values = shapes_of(store, indices)
    else:
        given = as_array(stratify, "stratify", kinds="biufSU")
        if given.shape != (len(store),):
            raise OptionError(
                f"stratify is {given.dtype} of shape {given.shape}, expected a text or "
                f"number for each of the store's {len(store)} samples, or one of "
                f"{', '.join(STRATIFY)}"
            )
        values = given[indices]
    distinct = np.unique(values)
    if len(distinct) > MOST_STRATA:
        raise OptionError(
            f"stratify has {len(distinct)} different values, expected at most "
            f"{MOST_STRATA}: replace them by fewer, such as ranges"
        )
    belongs: NDArray[np.bool_] = values == distinct[:, None]
    return belongs


def _fractions(parts: Mapping[str, Any]) -> dict[str, float]:
    """Return the parts' fractions, or raise OptionError if they do not sum to 1."""
    if not isinstance(parts, Mapping) or not parts:
        raise OptionError(
            f"parts is {shown(parts)}, expected the fraction of each part by its name, "
            "as in {'train': 0.8, 'val': 0.2}"
        )
    fractions = {}
    for name, fraction in parts.items():
        if not isinstance(name, str) or not name or name != name.strip():
            raise OptionError(f"a part is named {name!r}, expected a word")
        expected = "above 0 and up to 1"
        number = real_number(f"part {name}", fraction, expected)
        if not 0 < number <= 1:
            raise OptionError(f"part {name} is {fraction!r}, expected {expected}")
        fractions[name] = number
    total = math.fsum(fractions.values())
    if abs(total - 1) > SUM_TOLERANCE:
        raise OptionError(
            f"the parts sum to {total:g}, expected 1 within {SUM_TOLERANCE:g}"
        )
    return fractions


def assign_groups(
    keys: NDArray[Any],
    group: NDArray[np.int64],
    strata: NDArray[np.bool_],
    seed: int,
    fractions: list[float],
) -> NDArray[np.int64]:
    """Return the part of each group, int64 (G,); each part gets at least one group.

    keys      : (G,), sorted: the groups' IDs as bytes, or indices of samples
    group     : int64 (n,), the group of each sample
    strata    : bool (S, n), which samples belong to which stratum; strata may overlap
    fractions : of the P parts, at most G; they sum to about 1

    The result depends on the keys, on how many samples each group has in each stratum,
    and on the seed. It does not depend on the order of the samples, unless their
    indices are the keys.
    """
    numbers = _random_numbers(keys, seed)
    if len(keys) == len(group):
        return _assign_single_samples(strata[:, np.argsort(group)], numbers, fractions)
    return _assign_balanced(_count_samples(group, strata), numbers, fractions)


def _random_numbers(keys: NDArray[Any], seed: int) -> NDArray[np.uint64]:
    """Return a random number for each group, uint64 (G,).

    The number of a patient or series is a hash of its ID and the seed, so it is the
    same in every store. The number of a sample, or of the first one of a volume,
    depends on its index in the store and the seed, so the same image has another number
    where it has another index.
    """
    if keys.dtype.kind == "S":
        hashes = [xxh3_64_intdigest(key, seed) for key in keys.tolist()]
        return np.array(hashes, np.uint64)
    generator = philox(seed, SPLIT_EPOCH, SAMPLE_ORDER)
    numbers: NDArray[np.uint64] = generator.random_raw(keys[-1] + 1)[keys]
    return numbers


def _assign_single_samples(
    strata: NDArray[np.bool_], numbers: NDArray[np.uint64], fractions: list[float]
) -> NDArray[np.int64]:
    """Return the part of each of n groups of one sample, int64 (n,).

    Sorts the samples by their strata, and by their random numbers where these are
    equal. Then the samples get the parts of a sequence in which each part is spread
    evenly. So each range of sorted samples, and with it each stratum, is divided in
    proportion.
    """
    counts = _largest_remainder(len(numbers), fractions)
    # In the sequence, entry i of part k is at (i + 0.5) / counts[k], between 0 and 1.
    positions = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    order = np.argsort(positions, kind="stable")
    sequence = np.repeat(np.arange(len(counts)), counts)[order]
    part = np.empty(len(numbers), np.int64)
    # The start is random: otherwise the first sample would always get the same part.
    start = int(numbers[0] % np.uint64(len(numbers)))
    part[np.lexsort((numbers, *strata))] = np.roll(sequence, start)
    return part


def _largest_remainder(total: int, fractions: list[float]) -> list[int]:
    """Return whole numbers near fractions of a total, at least 1 each, with that sum.

    This is the method of largest remainders, as for seats of a parliament.
    """
    exact = [fraction * total for fraction in fractions]
    counts = [max(math.floor(number), 1) for number in exact]
    while (missing := total - sum(counts)) != 0:
        step = 1 if missing > 0 else -1
        able = [k for k, count in enumerate(counts) if count + step > 0]
        counts[max(able, key=lambda k: step * (exact[k] - counts[k]))] += step
    return counts


def _count_samples(
    group: NDArray[np.int64], strata: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return how many samples each group has, in all and per stratum: (G, 1 + S)."""
    groups = group.max() + 1
    members = [group, *(group[inside] for inside in strata)]
    return np.stack([np.bincount(each, minlength=groups) for each in members], axis=1)


def _assign_balanced(
    counts: NDArray[np.int64], numbers: NDArray[np.uint64], fractions: list[float]
) -> NDArray[np.int64]:
    """Return the part of each of G groups of any size, int64 (G,).

    counts : int64 (G, 1 + S), samples of each group, in all and per stratum

    First, in random order, each group goes to the part with the largest deficit of
    samples like its own. Then `_improve` moves and swaps groups.
    """
    totals = counts.sum(axis=0)
    deficits = np.rint(np.outer(fractions, totals)).astype(np.int64)
    weighted = counts * (WEIGHT // np.maximum(totals, 1))
    part = np.empty(len(counts), np.int64)
    empty = set(range(len(fractions)))
    order = np.argsort(numbers, kind="stable").tolist()
    for done, group in enumerate(order):
        need = deficits @ weighted[group]
        # As many groups are left as parts have none: each of these gets one.
        is_last_chance = len(order) - done == len(empty)
        targets = sorted(empty) if is_last_chance else range(len(need))
        part[group] = best = max(targets, key=need.__getitem__)
        deficits[best] -= counts[group]
        empty.discard(best)
    _improve(part, deficits, counts, weighted)
    return part


def _improve(
    part: NDArray[np.int64],
    deficits: NDArray[np.int64],
    counts: NDArray[np.int64],
    weighted: NDArray[np.int64],
) -> None:
    """Change `part` in place until no change brings parts nearer to their fractions.

    deficits : int64 (P, 1 + S), samples that each part lacks in all and per stratum;
        negative where it has too many
    weighted : int64 (G, 1 + S), `counts` times the weights of the strata

    A change moves one group or, if no move helps, swaps two; the best one is made
    first. The parts are nearer if the sum of their squared deficits, each divided by
    the size of its stratum, is smaller.
    """
    groups = np.arange(len(part))
    squares = (weighted * counts).sum(axis=1)
    for _ in range(MOST_CHANGES):
        need = weighted @ deficits.T
        # By how much half that sum shrinks if a group (row) moves to a part (column).
        gain = need - (need[groups, part] + squares)[:, None]
        # A part keeps its last group.
        is_alone = np.bincount(part, minlength=len(deficits))[part] == 1
        best, group, target = _highest(np.where(is_alone[:, None], 0, gain))
        changes = [(group, target)]
        if best <= 0 and len(part) <= MOST_SWAPPED:
            # The gain if a group (row) moves to the part of another one (column).
            moved = gain[:, part]
            best, one, other = _highest(moved + moved.T + 2 * weighted @ counts.T)
            changes = [(one, int(part[other])), (other, int(part[one]))]
        if best <= 0:
            break
        for group, target in changes:
            deficits[part[group]] += counts[group]
            deficits[target] -= counts[group]
            part[group] = target


def _highest(gain: NDArray[np.int64]) -> tuple[int, int, int]:
    """Return the highest value of a table, its row and its column."""
    row, column = divmod(int(gain.argmax()), gain.shape[1])
    return int(gain[row, column]), row, column
