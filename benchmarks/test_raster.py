"""Times drawing contours: masks, labels, areas and distances."""

import pytest

from benchmarks.cases import cases_of


@pytest.mark.parametrize("case", cases_of("raster"), ids=str)
def test_raster(timed, case):
    """Each contour gives one image."""
    result, items = timed(case)
    assert len(result) == items
