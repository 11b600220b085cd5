"""Lists of rejects; reading of CSV files is in test_links.py."""

import csv

from fastseg.tables import Reject, rejects_path, save_rejects


def test_rejects_are_listed_beside_the_output_and_removed_again(tmp_path):
    """Rejects become a CSV with a header; without any, an older list is removed."""
    output = tmp_path / "new" / "links.csv"
    rejects = [Reject("a,b.dcm", None, 'is a "no"'), Reject("c", 3, "two\nlines")]
    path = save_rejects(output, rejects)
    assert path == rejects_path(output) == tmp_path / "new" / "links.csv.rejects.csv"
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["file", "line", "reason"],
            ["a,b.dcm", "", 'is a "no"'],
            ["c", "3", "two\\nlines"],
        ]
    assert save_rejects(output, []) is None
    assert not path.exists()
    assert save_rejects(output, []) is None
