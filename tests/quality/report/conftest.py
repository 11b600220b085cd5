"""What the tests of the report share."""

import pytest

from tests.quality.report.findings import hostile_store, some_findings


@pytest.fixture(scope="session")
def findings(store):
    """Findings of all severities on the sample data, with pictures of all kinds."""
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    return some_findings(store, 40)


@pytest.fixture(scope="session")
def hostile(small_study, tmp_path_factory):
    """A store whose patients, classes and files have names with HTML in them."""
    return hostile_store(small_study, tmp_path_factory.mktemp("hostile"))
