"""Which samples come in which batch of which rank."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from fastseg.errors import OptionError
from fastseg.loading.orders import (
    epoch_order,
    foreground_order,
    grouped_order,
    weighted_order,
)
from fastseg.loading.schedule import Schedule

words = st.integers(0, 2**64 - 1)
epochs = st.integers(0, 5)


def make(**options):
    """Return a schedule of 10 samples in batches of 3, but for what is given."""
    usual = {"indices": np.arange(100, 110), "batch_size": 3, "seed": 1}
    return Schedule(**(usual | options))


def batches_of(schedule, epoch=0):
    """Return the batches of an epoch as lists of samples."""
    samples, bounds = schedule.epoch(epoch)
    assert samples.dtype == bounds.dtype == np.int64
    assert bounds[0] == 0
    assert bounds[-1] == len(samples)
    assert len(bounds) == len(schedule) + 1
    return [samples[a:b].tolist() for a, b in pairwise(bounds)]


def every_rank(options, epoch=0):
    """Return the batches of each rank."""
    ranks = options["world_size"]
    return [batches_of(Schedule(**options, rank=rank), epoch) for rank in range(ranks)]


def joined(lists):
    return [item for each in lists for item in each]


def batches_by_hand(samples, ranks, size, *, drop_last, uneven, in_stretches):
    """Deal an order to ranks in batches, one sample at a time: the obvious way."""
    samples = list(samples)
    if drop_last:
        samples = samples[: len(samples) // (size * ranks) * size * ranks]
    elif uneven == "repeat":
        for k in range(-len(samples) % ranks):
            samples.append(samples[k])
    hands = [[] for _ in range(ranks)]
    for k in range(len(samples)):
        hands[k % ranks].append(samples[k])
    if in_stretches:
        rest = iter(samples)
        hands = [[next(rest) for _ in hand] for hand in hands]
    dealt = []
    for hand in hands:
        batches = []
        while hand:
            batches.append(hand[:size])
            hand = hand[size:]
        dealt.append(batches)
    for batches in dealt:
        if len(batches) < len(dealt[0]):
            batches.append([batches[-1].pop()])
    return dealt


@st.composite
def options_of_schedules(draw, **fixed):
    """Options that can be met, without rank: any number of samples, batches, ranks."""
    count = draw(st.integers(1, 60))
    places = draw(st.sets(st.integers(0, 200), min_size=count, max_size=count))
    world_size = draw(st.integers(1, 7))
    drop_last, uneven = draw(st.booleans()), draw(st.sampled_from(["split", "repeat"]))
    drop_last, uneven = fixed.get("drop_last", drop_last), fixed.get("uneven", uneven)
    most = count // world_size if drop_last else math.ceil(count / world_size)
    least = 2 if uneven == "split" and not drop_last and count % world_size else 1
    assume(least <= most)
    return {
        "indices": np.array(sorted(places)),
        "batch_size": draw(st.integers(least, most)),
        "seed": draw(words),
        "shuffle": draw(st.booleans()),
        "drop_last": drop_last,
        "world_size": world_size,
        "uneven": uneven,
    } | fixed


def along(options, values, data):
    """Draw a value for each sample."""
    count = len(options["indices"])
    return data.draw(st.lists(values, min_size=count, max_size=count))


kinds = st.sampled_from(["plain", "weights", "groups"])


@given(options_of_schedules(), kinds, epochs, st.data())
def test_an_order_is_dealt_as_by_hand(options, kind, epoch, data):
    """Batches of all ranks are those of one order, dealt one sample at a time."""
    count, seed = len(options["indices"]), options["seed"]
    order = epoch_order(count, seed, epoch, options["shuffle"])
    if kind == "weights":
        options["shuffle"] = True
        weights = along(options, st.integers(0, 3), data)
        assume(any(weights))
        options["weights"] = np.array(weights, float)
        order = weighted_order(options["weights"], seed, epoch)
    if kind == "groups":
        options["groups"] = np.array(along(options, st.integers(0, 5), data))
        if options["shuffle"]:
            order = grouped_order(options["groups"], seed, epoch)
    assert every_rank(options, epoch) == batches_by_hand(
        options["indices"][order].tolist(),
        options["world_size"],
        options["batch_size"],
        drop_last=options["drop_last"],
        uneven=options["uneven"],
        in_stretches=kind == "groups",
    )


@st.composite
def options_with_foreground(draw, **fixed):
    """Options with a share of foreground, typed in hundredths."""
    options = draw(options_of_schedules(shuffle=True, **fixed))
    count = len(options["indices"])
    flags = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    assume(any(flags))
    share = draw(st.integers(1, 100)) / 100
    return options | {"foreground": (share, np.array(flags))}


any_options = st.one_of(
    options_of_schedules(),
    options_with_foreground(),
    options_of_schedules(shuffle=True).map(
        lambda options: options | {"groups": options["indices"] // 10}
    ),
)


@given(any_options, epochs)
def test_ranks_have_as_many_batches(options, epoch):
    """All ranks have `len` batches, none of them empty or larger than batch_size."""
    dealt = every_rank(options, epoch)
    size = options["batch_size"]
    for rank, batches in enumerate(dealt):
        assert len(batches) == len(Schedule(**options, rank=rank)) == len(dealt[0])
        sizes = [len(batch) for batch in batches]
        assert set(sizes[:-2]) <= {size}
        assert all(1 <= length <= size for length in sizes)
        if options["drop_last"]:
            assert set(sizes) == {size}


@given(options_of_schedules(uneven="split", drop_last=False), epochs)
def test_ranks_share_all_samples(options, epoch):
    """Split, each sample comes once on one rank; shares differ by one at most."""
    shares = [joined(batches) for batches in every_rank(options, epoch)]
    assert sorted(joined(shares)) == options["indices"].tolist()
    assert np.ptp([len(share) for share in shares]) <= 1


@given(options_of_schedules(drop_last=True), epochs)
def test_dropping_leaves_full_batches(options, epoch):
    """With drop_last no sample comes twice, and fewer are left out than a round has."""
    came = joined(joined(every_rank(options, epoch)))
    assert len(set(came)) == len(came)
    left = len(options["indices"]) - len(came)
    assert 0 <= left < options["batch_size"] * options["world_size"]


@given(options_of_schedules(uneven="repeat", drop_last=False), epochs)
def test_repeating_makes_shares_equal(options, epoch):
    """With repeats all samples come, each rank as many, and no rank has one twice."""
    shares = [joined(batches) for batches in every_rank(options, epoch)]
    assert set(joined(shares)) == set(options["indices"].tolist())
    assert len({len(share) for share in shares}) == 1
    assert all(len(set(share)) == len(share) for share in shares)


@given(options_with_foreground(), epochs)
def test_every_batch_of_every_rank_has_its_foreground(options, epoch):
    """Each batch has its share; an epoch is a permutation where that is possible."""
    share, flags = options["foreground"]
    chosen, ranks = options["indices"].tolist(), options["world_size"]
    flagged = {place for place, flag in zip(chosen, flags, strict=True) if flag}
    batches = joined(every_rank(options, epoch))
    typed = Fraction(round(share * 100), 100)
    needed = [math.ceil(typed * len(batch)) for batch in batches]
    for least, batch in zip(needed, batches, strict=True):
        assert sum(place in flagged for place in batch) >= least
    came = joined(batches)
    if sum(needed) <= len(flagged) and len(came) <= len(chosen):
        assert len(set(came)) == len(came)
        if len(came) == len(chosen):
            assert sorted(came) == chosen
    if options["uneven"] == "repeat" and not options["drop_last"]:
        assert len(came) == len(chosen) + -len(chosen) % ranks


@given(options_with_foreground(world_size=1), epochs)
def test_foreground_of_one_rank_is_that_of_its_sizes(options, epoch):
    """Batches of one rank are `foreground_order` of the sizes of any batches."""
    share, flags = options["foreground"]
    plain = {**options, "foreground": None}
    sizes = np.array([len(batch) for batch in batches_of(Schedule(**plain))])
    order = foreground_order(flags, share, sizes, options["seed"], epoch)
    came = joined(batches_of(Schedule(**options), epoch))
    assert came == options["indices"][order].tolist()


@given(
    options_of_schedules(shuffle=True, uneven="split", drop_last=False),
    epochs,
    st.data(),
)
def test_few_groups_are_torn_between_ranks(options, epoch, data):
    """At most world_size - 1 groups are on several ranks, and none comes in pieces."""
    groups = np.array(along(options, st.integers(0, 9), data))
    options["groups"] = groups
    group_of = dict(zip(options["indices"].tolist(), groups.tolist(), strict=True))
    shares = [joined(batches) for batches in every_rank(options, epoch)]
    numbers = [group_of[place] for place in joined(shares)]
    assert np.count_nonzero(np.diff(numbers)) + 1 == len(set(numbers))
    held = joined({group_of[place] for place in share} for share in shares)
    assert len(held) - len(set(held)) <= options["world_size"] - 1


def kinds_of_schedules():
    """One schedule of each kind, of 40 samples."""
    forty = np.arange(40)
    return {
        "plain": {},
        "weights": {"weights": forty + 1.0},
        "foreground": {"foreground": (0.5, forty < 10)},
        "groups": {"groups": forty // 5},
    }


@pytest.mark.parametrize("kind", kinds_of_schedules())
def test_an_epoch_is_a_function_of_seed_and_epoch(kind):
    """The same pair gives the same samples, in any order of asking; others do not."""
    options = {"indices": np.arange(40), "batch_size": 6} | kinds_of_schedules()[kind]
    seen = {}
    for seed in (0, 1, 2**64 - 1):
        schedule = Schedule(seed=seed, **options)
        for epoch in (5, 0, 1, 2**64 - 1):
            seen[seed, epoch] = schedule.epoch(epoch)[0].tolist()
    for (seed, epoch), samples in seen.items():
        again = Schedule(seed=seed, **options).epoch(epoch)[0]
        assert again.tolist() == samples
    assert len(set(map(tuple, seen.values()))) == len(seen)


def test_what_the_caller_does_later_changes_nothing():
    """A schedule holds copies of weights, flags and groups."""
    weights = np.arange(10.0)
    schedule = make(weights=weights)
    before = schedule.epoch(3)[0]
    weights[:] = weights[::-1].copy()
    assert_array_equal(schedule.epoch(3)[0], before)


def test_a_short_rank_takes_its_last_batch_from_the_one_before():
    """9 samples for 2 ranks in batches of 2: 2, 2, 1 and, of four samples, 2, 1, 1."""
    options = {"indices": np.arange(9), "batch_size": 2, "seed": 0, "shuffle": False}
    assert every_rank(options | {"world_size": 2}) == [
        [[0, 2], [4, 6], [8]],
        [[1, 3], [5], [7]],
    ]


def test_groups_without_shuffle_stay_in_place():
    """Ranks then get stretches of the samples as they are."""
    options = {"indices": np.arange(7), "batch_size": 2, "seed": 0, "shuffle": False}
    options |= {"groups": np.array([1, 1, 0, 0, 0, 1, 1])}
    assert every_rank(options | {"world_size": 2}) == [
        [[0, 1], [2, 3]],
        [[4, 5], [6]],
    ]


ten = np.arange(10)
REFUSED = [
    ({"batch_size": 0}, "batch_size is 0, expected at least 1"),
    ({"batch_size": 2.5}, "batch_size is 2.5, expected a whole number"),
    ({"batch_size": 11}, "batch_size is 11, 10 samples are chosen"),
    (
        {"batch_size": 6, "world_size": 2},
        "batch_size is 6, 10 samples are chosen, at most 5 for each of 2 ranks",
    ),
    (
        {"batch_size": 4, "world_size": 3, "drop_last": True},
        "batch_size is 4, 10 samples are chosen, at most 3 for each of 3 ranks",
    ),
    (
        {"indices": np.empty(0, np.int64)},
        "no samples are chosen, expected at least 1: the store or the selection is "
        "empty",
    ),
    (
        {"indices": np.empty(0, np.int64), "weights": [], "batch_size": 1},
        "no samples are chosen, expected at least 1: the store or the selection is "
        "empty",
    ),
    ({"seed": -1}, f"seed is -1, expected 0 to {2**64 - 1}"),
    ({"rank": -1}, "rank is -1, expected at least 0"),
    (
        {"rank": 2, "world_size": 2},
        "rank is 2 and world_size is 2, expected a rank from 0 to world_size - 1",
    ),
    ({"world_size": 0}, "world_size is 0, expected at least 1"),
    (
        {"uneven": "splt"},
        "uneven is 'splt', expected one of 'split', 'repeat'; did you mean 'split'?",
    ),
    (
        {"batch_size": 1, "world_size": 3},
        "10 samples are chosen, which 3 ranks cannot load in as many batches of 1, "
        "expected a multiple of 3: give uneven='repeat' to load some twice, "
        "drop_last=True to leave some out, or a larger batch_size",
    ),
    (
        {"batch_size": 1, "world_size": 11},
        "10 samples are chosen, which 11 ranks cannot load in as many batches of 1, "
        "expected a multiple of 11: give uneven='repeat' to load some twice",
    ),
    (
        {"weights": ten[:9]},
        "weights are int64 of shape (9,), expected float64 of shape (10,): one for "
        "each chosen sample",
    ),
    (
        {"weights": ["much"] * 10},
        "weights are <U4 of shape (10,), expected float64 of shape (10,): one for "
        "each chosen sample",
    ),
    (
        {"weights": 4 - ten},
        "the weight of sample 105 is -1.0, expected a finite number, 0 or above",
    ),
    (
        {"weights": np.where(ten == 2, np.nan, 1)},
        "the weight of sample 102 is nan, expected a finite number, 0 or above",
    ),
    (
        {"weights": np.where(ten == 3, np.inf, 1)},
        "the weight of sample 103 is inf, expected a finite number, 0 or above",
    ),
    (
        {"weights": np.zeros(10)},
        "the weights of all 10 chosen samples are 0, expected one above 0 at least",
    ),
    *(
        (
            {"foreground": (share, ten > 1)},
            f"foreground is {share!r}, expected the share of each batch, above 0 and "
            "up to 1",
        )
        for share in (0, -0.5, 1.01, math.nan, "half")
    ),
    (
        {"foreground": (0.5, ten > 10)},
        "foreground is 0.5, but none of the 10 chosen samples has any: choose others, "
        "or leave foreground out",
    ),
    (
        {"foreground": (0.5, ten)},
        "foreground are int64 of shape (10,), expected bool of shape (10,): one for "
        "each chosen sample",
    ),
    (
        {"groups": ten / 2},
        "groups are float64 of shape (10,), expected int64 of shape (10,): one for "
        "each chosen sample",
    ),
    (
        {"weights": ten, "foreground": (0.5, ten > 1)},
        "weights and foreground are given, of which each decides about the order, "
        "expected at most one: leave the other out",
    ),
    (
        {"weights": ten, "groups": ten},
        "weights and together are given, of which each decides about the order, "
        "expected at most one: leave the other out",
    ),
    (
        {"foreground": (0.5, ten > 1), "groups": ten},
        "foreground and together are given, of which each decides about the order, "
        "expected at most one: leave the other out",
    ),
    (
        {"weights": ten, "shuffle": False},
        "shuffle is False, but weights makes samples come in a random order: leave "
        "one of them out",
    ),
    (
        {"foreground": (0.5, ten > 1), "shuffle": False},
        "shuffle is False, but foreground makes samples come in a random order: leave "
        "one of them out",
    ),
]


@pytest.mark.parametrize(("options", "text"), REFUSED)
def test_what_cannot_be_meant_is_refused(options, text):
    """The error says what was expected, what came, and what to do."""
    with pytest.raises(OptionError) as caught:
        make(**options)
    assert str(caught.value) == text


@pytest.mark.parametrize("epoch", [-1, 2**64, 0.5])
def test_an_epoch_is_a_whole_number_of_64_bits(epoch):
    """Others are refused, not wrapped round."""
    with pytest.raises(OptionError, match="epoch is"):
        make().epoch(epoch)


def test_numbers_become_plain_ones():
    """Options of numpy types are kept as Python's, which JSON takes."""
    schedule = make(batch_size=np.int64(2), rank=np.uint8(0), shuffle=np.bool_(False))
    kept = (schedule.batch_size, schedule.rank, schedule.shuffle)
    assert [type(value) for value in kept] == [int, int, bool]
