"""Times opening stores and reading samples one by one."""

import pytest

from benchmarks.cases import cases_of


@pytest.mark.parametrize("case", cases_of("open"), ids=str)
def test_open(timed, case):
    """What is opened or read has samples."""
    result, items = timed(case)
    assert len(result) >= items
