"""Fixtures of the tests of sources."""

import pytest

from tests.sources.dicom_files import save_slice


@pytest.fixture
def scan(tmp_path):
    """A folder with a series of four slices, at z = 0, 2, 4 and 6 mm."""
    for k in range(4):
        save_slice(tmp_path / "ct" / f"{k}.dcm", k)
    return tmp_path
