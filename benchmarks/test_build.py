"""Times linking files, building stores and verifying them."""

import pytest

from benchmarks.cases import cases_of
from fastseg import LinkTable


@pytest.mark.parametrize("case", cases_of("build"), ids=str)
def test_build(timed, case):
    """All images of the study are linked, stored and verified."""
    result, items = timed(case)
    count = result.images if isinstance(result, LinkTable) else result.samples
    assert count == items
    if case.name == "build-again":
        assert result.reused == items
