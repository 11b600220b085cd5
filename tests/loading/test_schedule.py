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
    """Return a schedule of 10 samples in batches of 3, with these options."""
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


def batches_by_hand(samples, ranks, size, *, drop_last, uneven, in_blocks):
    """Assign an order to ranks and batches, one sample at a time: slow and simple."""
    samples = list(samples)
    if drop_last:
        samples = samples[: len(samples) // (size * ranks) * size * ranks]
    elif uneven == "repeat":
        for k in range(-len(samples) % ranks):
            samples.append(samples[k])
    of_ranks = [[] for _ in range(ranks)]
    for k in range(len(samples)):
        of_ranks[k % ranks].append(samples[k])
    if in_blocks:
        rest = iter(samples)
        of_ranks = [[next(rest) for _ in own] for own in of_ranks]
    assigned = []
    for own in of_ranks:
        batches = []
        while own:
            batches.append(own[:size])
            own = own[size:]
        assigned.append(batches)
    for batches in assigned:
        if len(batches) < len(assigned[0]):
            batches.append([batches[-1].pop()])
    return assigned


@st.composite
def options_of_schedules(draw, **fixed):
    """Valid options without rank: any numbers of samples, batches and ranks."""
    count = draw(st.integers(1, 60))
    indices = draw(st.sets(st.integers(0, 200), min_size=count, max_size=count))
    world_size = draw(st.integers(1, 7))
    drop_last = draw(st.booleans())
    uneven = draw(st.sampled_from(["split", "repeat"]))
    drop_last = fixed.get("drop_last", drop_last)
    uneven = fixed.get("uneven", uneven)
    # Without drop_last, a batch may be larger than what a rank has.
    most = count // world_size if drop_last else count + 20
    least = 2 if uneven == "split" and not drop_last and count % world_size else 1
    assume(least <= most)
    assume(drop_last or uneven == "repeat" or count >= world_size)
    return {
        "indices": np.array(sorted(indices)),
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


kinds = st.sampled_from(["usual", "weights", "groups"])


@given(options_of_schedules(), kinds, epochs, st.data())
def test_batches_equal_those_made_by_hand(options, kind, epoch, data):
    """The batches of all ranks equal those of `batches_by_hand`."""
    count = len(options["indices"])
    seed = options["seed"]
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
        in_blocks=kind == "groups",
    )


@st.composite
def options_with_foreground(draw, **fixed):
    """Options with a share of foreground in hundredths."""
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
def test_ranks_have_the_same_number_of_batches(options, epoch):
    """All ranks have `len` batches, none of them empty or larger than batch_size."""
    of_ranks = every_rank(options, epoch)
    size = options["batch_size"]
    for rank, batches in enumerate(of_ranks):
        assert len(batches) == len(Schedule(**options, rank=rank)) == len(of_ranks[0])
        sizes = [len(batch) for batch in batches]
        assert set(sizes[:-2]) <= {size}
        assert all(1 <= length <= size for length in sizes)
        if options["drop_last"]:
            assert set(sizes) == {size}


@given(options_of_schedules(uneven="split", drop_last=False), epochs)
def test_ranks_divide_all_samples(options, epoch):
    """With "split", each sample comes once, and ranks differ by at most one sample."""
    of_ranks = [joined(batches) for batches in every_rank(options, epoch)]
    assert sorted(joined(of_ranks)) == options["indices"].tolist()
    assert np.ptp([len(samples) for samples in of_ranks]) <= 1


@given(options_of_schedules(drop_last=True), epochs)
def test_drop_last_leaves_full_batches(options, epoch):
    """No sample comes twice, and fewer are left out than a batch of each rank has."""
    came = joined(joined(every_rank(options, epoch)))
    assert len(set(came)) == len(came)
    dropped = len(options["indices"]) - len(came)
    assert 0 <= dropped < options["batch_size"] * options["world_size"]


@given(options_of_schedules(uneven="repeat", drop_last=False), epochs)
def test_repeats_make_ranks_equal(options, epoch):
    """With "repeat", all samples come, none twice on a rank, and ranks are equal."""
    of_ranks = [joined(batches) for batches in every_rank(options, epoch)]
    assert set(joined(of_ranks)) == set(options["indices"].tolist())
    assert len({len(samples) for samples in of_ranks}) == 1
    assert all(len(set(samples)) == len(samples) for samples in of_ranks)


@given(options_with_foreground(), epochs)
def test_every_batch_of_every_rank_has_its_foreground(options, epoch):
    """Each batch has its share; an epoch is a permutation if that is possible."""
    share, flags = options["foreground"]
    chosen, ranks = options["indices"].tolist(), options["world_size"]
    flagged = {index for index, flag in zip(chosen, flags, strict=True) if flag}
    batches = joined(every_rank(options, epoch))
    typed = Fraction(round(share * 100), 100)
    needed = [math.ceil(typed * len(batch)) for batch in batches]
    for least, batch in zip(needed, batches, strict=True):
        assert sum(sample in flagged for sample in batch) >= least
    came = joined(batches)
    if sum(needed) <= len(flagged) and len(came) <= len(chosen):
        assert len(set(came)) == len(came)
        if len(came) == len(chosen):
            assert sorted(came) == chosen
    if options["uneven"] == "repeat" and not options["drop_last"]:
        assert len(came) == len(chosen) + -len(chosen) % ranks


@given(options_with_foreground(world_size=1), epochs)
def test_foreground_of_one_rank_is_that_of_its_sizes(options, epoch):
    """The batches of one rank are `foreground_order` for the usual batch sizes."""
    share, flags = options["foreground"]
    without = {**options, "foreground": None}
    sizes = np.array([len(batch) for batch in batches_of(Schedule(**without))])
    order = foreground_order(flags, share, sizes, options["seed"], epoch)
    came = joined(batches_of(Schedule(**options), epoch))
    assert came == options["indices"][order].tolist()


@given(
    options_of_schedules(shuffle=True, uneven="split", drop_last=False),
    epochs,
    st.data(),
)
def test_few_groups_are_divided_among_ranks(options, epoch, data):
    """At most world_size - 1 groups are on several ranks; others stay together."""
    groups = np.array(along(options, st.integers(0, 9), data))
    options["groups"] = groups
    group_of = dict(zip(options["indices"].tolist(), groups.tolist(), strict=True))
    of_ranks = [joined(batches) for batches in every_rank(options, epoch)]
    numbers = [group_of[sample] for sample in joined(of_ranks)]
    assert np.count_nonzero(np.diff(numbers)) + 1 == len(set(numbers))
    on_ranks = joined({group_of[sample] for sample in own} for own in of_ranks)
    assert len(on_ranks) - len(set(on_ranks)) <= options["world_size"] - 1


def kinds_of_schedules():
    """Options of each kind of schedule, for 40 samples."""
    samples = np.arange(40)
    return {
        "usual": {},
        "weights": {"weights": samples + 1.0},
        "foreground": {"foreground": (0.5, samples < 10)},
        "groups": {"groups": samples // 5},
    }


@pytest.mark.parametrize("kind", kinds_of_schedules())
def test_an_epoch_is_a_function_of_seed_and_epoch(kind):
    """The same pair always gives the same samples; other pairs give others."""
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


def test_a_schedule_copies_its_arrays():
    """Later changes of weights have no effect."""
    weights = np.arange(10.0)
    schedule = make(weights=weights)
    before = schedule.epoch(3)[0]
    weights[:] = weights[::-1].copy()
    assert_array_equal(schedule.epoch(3)[0], before)


def test_a_rank_with_fewer_samples_has_smaller_batches():
    """With 9 samples for 2 ranks, the rank with 4 has batches of 2, 1 and 1."""
    options = {"indices": np.arange(9), "batch_size": 2, "seed": 0, "shuffle": False}
    assert every_rank(options | {"world_size": 2}) == [
        [[0, 2], [4, 6], [8]],
        [[1, 3], [5], [7]],
    ]


def test_groups_without_shuffle_keep_the_order():
    """Ranks then get blocks of the samples in the order of the store."""
    options = {"indices": np.arange(7), "batch_size": 2, "seed": 0, "shuffle": False}
    options |= {"groups": np.array([1, 1, 0, 0, 0, 1, 1])}
    assert every_rank(options | {"world_size": 2}) == [
        [[0, 1], [2, 3]],
        [[4, 5], [6]],
    ]


@pytest.mark.parametrize("kind", kinds_of_schedules())
@pytest.mark.parametrize("uneven", ["split", "repeat"])
def test_a_batch_larger_than_what_is_chosen_is_one_batch(kind, uneven):
    """Each rank then has one batch, of any size of batches that is large enough."""
    options = {"indices": np.arange(40), "seed": 3, "world_size": 3, "uneven": uneven}
    options |= kinds_of_schedules()[kind]
    expected = every_rank(options | {"batch_size": 14})
    assert [len(batches) for batches in expected] == [1, 1, 1]
    for size in (15, 41, 2**63, 10**30):
        assert every_rank(options | {"batch_size": size}) == expected
        assert Schedule(**options, batch_size=size).largest_batch == 14


ten = np.arange(10)
REFUSED = [
    ({"batch_size": 0}, "batch_size is 0, expected at least 1"),
    ({"batch_size": 2.5}, "batch_size is 2.5, expected a whole number"),
    (
        {"batch_size": 11, "drop_last": True},
        "batch_size is 11 and drop_last is True, but only 10 samples are chosen, which "
        "make no full batch: give a batch_size of at most 10, or drop_last=False",
    ),
    (
        {"batch_size": 4, "world_size": 3, "drop_last": True},
        "batch_size is 4 and drop_last is True, but only 10 samples are chosen, which "
        "make no full batch for each of 3 ranks: give a batch_size of at most 3, or "
        "drop_last=False",
    ),
    (
        {"batch_size": 4, "world_size": 11, "drop_last": True},
        "batch_size is 4 and drop_last is True, but only 10 samples are chosen, which "
        "make no full batch for each of 11 ranks: give fewer ranks, or drop_last=False "
        "and uneven='repeat'",
    ),
    (
        {"batch_size": 20, "world_size": 11},
        "batch_size is 20 and 10 samples are chosen, which 11 ranks cannot divide into "
        "equal numbers of batches, expected at least 11: give uneven='repeat' to load "
        "some twice, or fewer ranks",
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
        "batch_size is 1 and 10 samples are chosen, which 3 ranks cannot divide into "
        "equal numbers of batches, expected a multiple of 3: give uneven='repeat' to "
        "load some twice, "
        "drop_last=True to leave some out, or a larger batch_size",
    ),
    (
        {"batch_size": 1, "world_size": 11},
        "batch_size is 1 and 10 samples are chosen, which 11 ranks cannot divide into "
        "equal numbers of batches, expected at least 11: give uneven='repeat' to load "
        "some twice, or fewer ranks",
    ),
    (
        {"weights": ten[:9]},
        "weights are int64 of shape (9,), expected float64 of shape (10,): one for "
        "each chosen sample",
    ),
    (
        {"weights": ["much"] * 10},
        "weights has dtype <U4, expected real numbers; convert it first",
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
        "the weights of all 10 chosen samples are 0, expected at least one above 0",
    ),
    *(
        (
            {"foreground": (share, ten > 1)},
            f"foreground is {share!r}, expected a fraction of each batch, above 0 and "
            "up to 1",
        )
        for share in (0, -0.5, 1.01, math.nan, "half")
    ),
    (
        {"foreground": (0.5, ten > 10)},
        "foreground is 0.5, but none of the 10 chosen samples has foreground: choose "
        "others, or leave foreground out",
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
        "weights and foreground are given, but each of them determines the order, "
        "expected at most one: leave the other out",
    ),
    (
        {"weights": ten, "groups": ten},
        "weights and together are given, but each of them determines the order, "
        "expected at most one: leave the other out",
    ),
    (
        {"foreground": (0.5, ten > 1), "groups": ten},
        "foreground and together are given, but each of them determines the order, "
        "expected at most one: leave the other out",
    ),
    (
        {"weights": ten, "shuffle": False},
        "shuffle is False, but weights needs a random order: leave one of them out",
    ),
    (
        {"foreground": (0.5, ten > 1), "shuffle": False},
        "shuffle is False, but foreground needs a random order: leave one of them out",
    ),
]


@pytest.mark.parametrize(("options", "text"), REFUSED)
def test_invalid_options_are_refused(options, text):
    """The error says what was expected, what was given, and what to do."""
    with pytest.raises(OptionError) as caught:
        make(**options)
    assert str(caught.value) == text


@pytest.mark.parametrize("epoch", [-1, 2**64, 0.5])
def test_an_epoch_is_a_whole_number_of_64_bits(epoch):
    """Other numbers are refused, not wrapped around."""
    with pytest.raises(OptionError, match="epoch is"):
        make().epoch(epoch)


def test_options_of_numpy_types_become_python_types():
    """They are stored as int and bool, which JSON supports."""
    schedule = make(batch_size=np.int64(2), rank=np.uint8(0), shuffle=np.bool_(False))
    values = (schedule.batch_size, schedule.rank, schedule.shuffle)
    assert [type(value) for value in values] == [int, int, bool]
