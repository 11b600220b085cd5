"""Splits: parts of a store that share no patient, and which group goes to which."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from xxhash import xxh3_64_intdigest

from fastseg.errors import OptionError, whole_number
from fastseg.store.selection import (
    Indices,
    check_indices,
    choice,
    groups_of,
    has_class,
    shapes_of,
)

if TYPE_CHECKING:
    from fastseg.store.reader import Store

STRATIFY = ("classes", "shape")
# Fractions are typed by hand: three times 0.333333 is one, three times 0.33 is not.
SUM_TOLERANCE = 2e-6
# As many as classes: of more, a part could hardly get its share of each.
MOST_STRATA = 64
# What one sample too many weighs in a stratum of one. Weights are whole numbers, so
# that every machine finds the same split; in int64 they allow 10**8 samples.
WEIGHT = 2**30
# Each change brings the parts nearer to their shares; a dozen is usual.
MOST_CHANGES = 1000
# Swaps are tried among up to so many groups; more fit by moves alone.
MOST_SWAPPED = 300


def split(
    store: "Store",
    parts: Mapping[str, float],
    *,
    by: str = "patient",
    seed: int = 0,
    stratify: str | ArrayLike | None = None,
    indices: ArrayLike | None = None,
) -> dict[str, Indices]:
    """Return the samples of each part; see `Store.split`."""
    fractions = _fractions(parts)
    seed = whole_number("seed", seed, 0, 2**64 - 1)
    chosen = check_indices(store, indices)
    keys, group = groups_of(store, by)
    used = np.bincount(group[chosen], minlength=len(keys)) > 0
    keys, group = keys[used], (np.cumsum(used) - 1)[group[chosen]]
    if len(keys) < len(fractions):
        raise OptionError(
            f"{len(fractions)} parts of {len(chosen)} samples in {len(keys)} groups "
            f"(by {by}): each part needs a group of its own"
        )
    strata = _strata(store, chosen, stratify)
    part = deal(keys, group, strata, seed, fractions)
    made = {name: chosen[part[group] == k] for k, name in enumerate(parts)}
    check_split(store, made, by=by, indices=chosen)
    return made


def check_split(
    store: "Store",
    parts: Mapping[str, ArrayLike],
    *,
    by: str = "patient",
    indices: ArrayLike | None = None,
) -> None:
    """Raise OptionError if a sample, or a patient, is in two parts.

    parts   : places of samples, by name of the part
    by      : what must lie wholly in one part: "patient", "series" or "sample"
    indices : places that the parts must make up together, if given
    """
    for unit in ("sample", by):
        count = count_shared(store, parts, by=unit)
        if count:
            raise OptionError(
                f"the parts are not apart: they share {count} of their groups "
                f"(by {unit})"
            )
    if indices is not None:
        held = np.sort(
            np.concatenate([check_indices(store, p) for p in parts.values()])
        )
        if not np.array_equal(held, check_indices(store, indices)):
            raise OptionError("the parts do not make up the samples that were split")


def count_shared(store: "Store", parts: Mapping[str, ArrayLike], *, by: str) -> int:
    """Return how many patients, series or samples lie in more than one part."""
    keys, group = groups_of(store, by)
    places = [check_indices(store, part) for part in parts.values()]
    last = np.empty(len(keys), np.int64)
    for k, each in enumerate(places):
        last[group[each]] = k
    strays = [group[each][last[group[each]] != k] for k, each in enumerate(places)]
    return len(np.unique(np.concatenate([*strays, np.empty(0, np.int64)])))


def _strata(
    store: "Store", places: Indices, stratify: str | ArrayLike | None
) -> NDArray[np.bool_]:
    """Return which samples belong to which stratum, bool (S, n); they may overlap."""
    if stratify is None:
        return np.empty((0, len(places)), bool)
    if isinstance(stratify, str):
        if choice("stratify", stratify, STRATIFY) == "classes":
            labelled = store.items["labelled"][places]
            bits = range(len(store.classes))
            return np.array([has_class(labelled, k) for k in bits])
        values = shapes_of(store, places)
    else:
        given = np.asarray(stratify)
        if given.shape != (len(store),) or given.dtype.kind not in "biufSU":
            raise OptionError(
                f"stratify is {given.dtype} of shape {given.shape}, expected a text or "
                f"number for each of the store's {len(store)} samples, or one of "
                f"{', '.join(STRATIFY)}"
            )
        values = given[places]
    kinds = np.unique(values)
    if len(kinds) > MOST_STRATA:
        raise OptionError(
            f"stratify has {len(kinds)} different values, expected at most "
            f"{MOST_STRATA}: put them into classes first"
        )
    belongs: NDArray[np.bool_] = values == kinds[:, None]
    return belongs


def _fractions(parts: Mapping[str, Any]) -> list[float]:
    """Return the parts' fractions, or raise OptionError if they do not sum to one."""
    shares = []
    for name, share in parts.items():
        if not isinstance(name, str) or not name or name != name.strip():
            raise OptionError(f"a part is named {name!r}, expected a word")
        if not isinstance(share, Real) or not 0 < float(share) <= 1:
            raise OptionError(f"part {name} is {share!r}, expected above 0 and up to 1")
        shares.append(float(share))
    total = math.fsum(shares)
    if abs(total - 1) > SUM_TOLERANCE:
        raise OptionError(
            f"the parts sum to {total:g}, expected 1 within {SUM_TOLERANCE:g}"
        )
    return shares


def deal(
    keys: NDArray[Any],
    group: NDArray[np.int64],
    strata: NDArray[np.bool_],
    seed: int,
    fractions: list[float],
) -> NDArray[np.int64]:
    """Return the part of each group, int64 (G,); each part gets at least one.

    keys      : (G,), the groups' names, sorted: IDs as bytes, or places of samples
    group     : int64 (n,), the group of each sample
    strata    : bool (S, n), which samples belong to which stratum; they may overlap
    fractions : of the parts, at most G; they sum to about 1

    The answer is a function of the keys, what each group holds, and the seed: the
    order of the samples does not matter.
    """
    draws = _draws(keys, seed)
    if len(keys) == len(group):
        return _deal_singles(strata[:, np.argsort(group)], draws, fractions)
    return _balance(_tally(group, strata), draws, fractions)


def _draws(keys: NDArray[Any], seed: int) -> NDArray[np.uint64]:
    """Return a random number per group, a function of its key and the seed.

    A patient's comes from the ID, so it is the same in any store; a sample's comes
    from its place.
    """
    if keys.dtype.kind == "S":
        numbers = [xxh3_64_intdigest(key, seed) for key in keys.tolist()]
        return np.array(numbers, np.uint64)
    # The key of no epoch of a loader, whose orders come from the same generator.
    key = np.array([seed, 2**64 - 1], np.uint64)
    draws: NDArray[np.uint64] = np.random.Philox(key=key).random_raw(keys[-1] + 1)[keys]
    return draws


def _deal_singles(
    strata: NDArray[np.bool_], draws: NDArray[np.uint64], fractions: list[float]
) -> NDArray[np.int64]:
    """Return the part of each of n groups of one sample, int64 (n,).

    The samples are laid in a row, like ones together and shuffled among themselves,
    and dealt to the parts in turns spread evenly: so any stretch of the row, hence
    any stratum, falls to the parts in their proportion.
    """
    counts = _apportion(len(draws), fractions)
    turns = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    dealer = np.argsort(turns, kind="stable")
    dealt = np.repeat(np.arange(len(counts)), counts)[dealer]
    part = np.empty(len(draws), np.int64)
    # Who comes first is drawn too: else one of its kind always had the same part.
    start = int(draws[0] % np.uint64(len(draws)))
    part[np.lexsort((draws, *strata))] = np.roll(dealt, start)
    return part


def _apportion(total: int, fractions: list[float]) -> list[int]:
    """Return counts by largest remainder, each at least one."""
    exact = [fraction * total for fraction in fractions]
    counts = [max(math.floor(share), 1) for share in exact]
    while (missing := total - sum(counts)) != 0:
        step = 1 if missing > 0 else -1
        able = [k for k, count in enumerate(counts) if count + step > 0]
        counts[max(able, key=lambda k: step * (exact[k] - counts[k]))] += step
    return counts


def _tally(group: NDArray[np.int64], strata: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return how many samples a group has, in all and per stratum: (G, 1 + S)."""
    count = group.max() + 1
    members = [group, *(group[inside] for inside in strata)]
    return np.stack([np.bincount(each, minlength=count) for each in members], axis=1)


def _balance(
    tally: NDArray[np.int64], draws: NDArray[np.uint64], fractions: list[float]
) -> NDArray[np.int64]:
    """Return the part of each of G groups of any size, int64 (G,).

    tally : int64 (G, S), samples of a group, in all and per stratum

    In the order of their draws, groups go where their samples are missed most; then
    they move, or two change places, as long as that brings the parts nearer to their
    shares. Far is the sum of squared deviations, each divided by its stratum's size.
    """
    totals = tally.sum(axis=0)
    missed = np.rint(np.outer(fractions, totals)).astype(np.int64)
    pulls = tally * (WEIGHT // np.maximum(totals, 1))
    part = np.empty(len(tally), np.int64)
    empty = set(range(len(fractions)))
    order = np.argsort(draws, kind="stable").tolist()
    for done, group in enumerate(order):
        need = missed @ pulls[group]
        last_chance = len(order) - done == len(empty)
        targets = sorted(empty) if last_chance else range(len(need))
        part[group] = best = max(targets, key=need.__getitem__)
        missed[best] -= tally[group]
        empty.discard(best)
    _settle(part, missed, tally, pulls)
    return part


def _settle(
    part: NDArray[np.int64],
    missed: NDArray[np.int64],
    tally: NDArray[np.int64],
    pulls: NDArray[np.int64],
) -> None:
    """Change `part` by the move that gains most, or else the swap, until none gains.

    missed : int64 (K, S), samples that a part lacks, below 0 where it has too many
    pulls  : int64 (G, S), `tally` times the weights of the strata
    """
    groups = np.arange(len(part))
    own = (pulls * tally).sum(axis=1)
    for _ in range(MOST_CHANGES):
        need = pulls @ missed.T
        gain = need - (need[groups, part] + own)[:, None]
        # A part keeps its last group.
        alone = np.bincount(part, minlength=len(missed))[part] == 1
        best, group, target = _highest(np.where(alone[:, None], 0, gain))
        changes = [(group, target)]
        if best <= 0 and len(part) <= MOST_SWAPPED:
            there = gain[:, part]
            best, one, other = _highest(there + there.T + 2 * pulls @ tally.T)
            changes = [(one, int(part[other])), (other, int(part[one]))]
        if best <= 0:
            break
        for group, target in changes:
            missed[part[group]] += tally[group]
            missed[target] -= tally[group]
            part[group] = target


def _highest(gain: NDArray[np.int64]) -> tuple[int, int, int]:
    """Return the highest value of a table, its row and its column."""
    row, column = divmod(int(gain.argmax()), gain.shape[1])
    return int(gain[row, column]), row, column
