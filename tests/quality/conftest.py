"""Studies that several modules of tests put faults into."""

import pytest

from tests.quality.study import Study


@pytest.fixture(scope="session")
def cine(tmp_path_factory):
    """A clean study of 16 hearts, 192 images in whole series, 128 with contours."""
    return Study.phantom(
        tmp_path_factory.mktemp("cine"),
        link={"slices": "series"},
        patients=16,
        phases=3,
        sizes=96,
        seed=5,
    )


@pytest.fixture(scope="session")
def chests(tmp_path_factory):
    """A clean study of 12 chests with structure sets, 48 images."""
    folder = tmp_path_factory.mktemp("chests")
    return Study.phantom(folder, "rtstruct", patients=12, slices=4, seed=3)
