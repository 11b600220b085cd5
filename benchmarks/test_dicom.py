"""Times reading DICOM files: headers, pixels, and decoding alone."""

import pytest

from benchmarks.cases import cases_of


@pytest.mark.parametrize("case", cases_of("dicom"), ids=str)
def test_dicom(timed, case):
    """Each file gives one result."""
    result, items = timed(case)
    assert len(result) == items
