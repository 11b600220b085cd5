"""Times batches of a loader that augments."""

import pytest

from benchmarks.cases import cases_of


@pytest.mark.parametrize("case", cases_of("augment"), ids=str)
def test_augment(timed, case):
    """All samples come."""
    result, items = timed(case)
    assert result == items
