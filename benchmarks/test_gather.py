"""Times batches of a loader that does not augment."""

import pytest

from benchmarks.cases import cases_of


@pytest.mark.parametrize("case", cases_of("gather"), ids=str)
def test_gather(timed, case):
    """All samples come."""
    result, items = timed(case)
    assert result == items
