"""What is usual among values."""

import numpy as np

from fastseg.quality.robust import deviations, group_medians, mostly_below


def test_deviations_are_those_of_a_normal_distribution():
    """And one value in twenty that is far off does not change them much."""
    values = np.random.default_rng(0).normal(5, 2, 4000)
    np.testing.assert_allclose(deviations(values, 0.1), (values - 5) / 2, atol=0.3)
    values[::20] = 1e6
    far = deviations(values, 0.1)
    assert (far[::20] > 1e4).all()
    np.testing.assert_allclose(far[1:20], (values[1:20] - 5) / 2, atol=0.4)


def test_each_side_of_the_median_has_its_own_deviation():
    """A long tail upwards makes nothing usual downwards."""
    values = np.random.default_rng(1).lognormal(0, 1, 2000)
    far = deviations(np.append(values, [-4, 10.0]), 0.01)
    assert far[-2] < -6
    assert far[-1] < 5


def test_the_floor_bounds_the_usual_deviation_from_below():
    """Values that are all alike but one."""
    values = np.append(np.full(30, 2.0), 3.0)
    assert deviations(values, 0.25)[-1] == 4
    assert np.isnan(deviations(np.array([np.nan]), 1.0)).all()
    assert np.isnan(deviations(np.array([1.0, np.nan, 2.0]), 1.0)).tolist() == [
        False,
        True,
        False,
    ]


def test_medians_of_groups_equal_those_of_numpy():
    """With NaN, ties and empty groups."""
    rng = np.random.default_rng(2)
    values = rng.integers(0, 9, 200).astype(float)
    values[::7] = np.nan
    group = rng.integers(0, 12, 200)
    group[group == 5] = 6
    values[group == 8] = np.nan
    expected = [
        np.nanmedian(values[group == k]) if k not in (5, 8) else np.nan
        for k in range(12)
    ]
    np.testing.assert_array_equal(group_medians(values, group, 12), expected)


def test_the_greatest_of_several_values_is_not_what_most_are_below():
    """So one fault among few values does not hide itself."""
    assert mostly_below(np.array([1.0, 2.0, 50.0]), 0.9) == 2
    assert mostly_below(np.arange(101.0), 0.9) == 90
    assert mostly_below(np.array([7.0]), 0.5) == mostly_below(np.array([]), 0.5) == 0
