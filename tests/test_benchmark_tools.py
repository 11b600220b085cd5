"""The tools of benchmarks/: what changed, which cases there are, and usage errors."""

import subprocess
import sys

import pytest

from benchmarks import changes, tables
from benchmarks.cases import CASES
from tests.conftest import PROJECT


def saved_run(**medians):
    """Return a run as pytest-benchmark saves it, quartiles 1 % from the medians."""
    return {
        "datetime": "2026-01-31T12:00:00",
        "commit_info": {"id": "0123456789", "dirty": False},
        "benchmarks": [
            {
                "fullname": name,
                "name": name,
                "param": f"{name}-phantom",
                "extra_info": {"case": name, "unit": "mask", "items": 10},
                "stats": {"median": x, "q1": 0.99 * x, "q3": 1.01 * x},
            }
            for name, x in medians.items()
        ],
    }


def test_what_changed_between_two_runs_is_said_in_words():
    """Slower and faster benchmarks have a line each; small changes are counted."""
    before = saved_run(slow=0.1, fast=0.1, same=0.1, gone=0.1)
    after = saved_run(slow=0.2, fast=0.05, same=0.102, added=0.1)
    first, slower, faster, *others = changes.compare(before, after)
    assert first == "Compared with the run of 2026-01-31 12:00, commit 0123456:"
    assert (
        " ".join(slower.split()) == "slower slow-phantom, per mask 10 ms -> 20 ms +100%"
    )
    assert (
        " ".join(faster.split()) == "faster fast-phantom, per mask 10 ms -> 5 ms -50%"
    )
    assert others[0].split()[:2] == ["1", "changed"]
    assert others[1:3] == ["  new: added", "  not run: gone"]
    assert others[-1].endswith("compare.py 0123456 . --only slow")


def test_every_subject_has_a_test_file():
    """A case whose subject has no file would never be timed."""
    for subject in {case.subject for case in CASES.values()}:
        source = (PROJECT / f"benchmarks/test_{subject}.py").read_text(encoding="utf-8")
        assert f'cases_of("{subject}")' in source


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-commit", "."], "is no commit of the repository"),
        ([".", ".", "--only", "nonsense"], "the cases are rasterize,"),
        ([".", ".", "--rounds", "0"], "expected a number from 1 on, got '0'"),
    ],
)
def test_comparing_reports_usage_errors(arguments, message):
    """A wrong commit, case or number is a usage error, before anything is timed."""
    command = [sys.executable, "benchmarks/compare.py", *arguments]
    run = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert message in run.stderr
    assert "Traceback" not in run.stderr


def test_a_page_without_markers_ends_a_script(tmp_path, monkeypatch):
    """A table goes between its markers; without them, the message names both."""
    page = tmp_path / "benchmarks.md"
    monkeypatch.setattr(tables, "PAGE", page)
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match="<!-- raster --> and <!-- /raster -->"):
        tables.split_page("raster")
    page.write_text("a\n<!-- raster -->\nold\n<!-- /raster -->\nb\n", encoding="utf-8")
    tables.publish("raster", "new\n")
    text = page.read_text(encoding="utf-8")
    assert text == "a\n<!-- raster -->\nnew\n<!-- /raster -->\nb\n"
