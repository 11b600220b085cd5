"""Lists of rejects; separators of CSV files, more of them in test_links.py."""

import csv

import pytest

from fastseg.errors import LinkError
from fastseg.tables import Reject, read_csv, rejects_path, save_rejects


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


NAMES = ("patient", "label")
ROWS = [{"patient": "a;b,c", "label": "x\ty"}, {"patient": "d", "label": ""}]
BEGINNINGS = {
    "nothing": "",
    "an empty line": "\n",
    "several": "\n\n  \n",
    "an empty row": "{0}\n{0}\n",
    "a declaration": "sep={0}\n",
    "a quoted one and a line": '"sep={0}"\n\n',
}


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["no BOM", "BOM"])
@pytest.mark.parametrize("beginning", BEGINNINGS)
@pytest.mark.parametrize("separator", [",", ";", "\t"], ids=["comma", "semi", "tab"])
def test_tables_of_spreadsheets_are_read(tmp_path, separator, beginning, mark, end):
    """Columns are separated by commas, semicolons or tabs; lines keep their numbers."""
    before = BEGINNINGS[beginning].format(separator)
    header = f'"patient"{separator}label\n'
    rows = [
        f'"a;b,c"{separator}"x\ty"',
        separator,
        f"d{separator}",
        f"e{separator * 2}",
    ]
    text = mark + before + header + "\n".join(rows)
    path = tmp_path / "t.csv"
    path.write_bytes(text.replace("\n", end).encode())
    first = before.count("\n") + 2
    for columns in (None, NAMES):
        rejects: list[Reject] = []
        found = list(read_csv(path, NAMES, rejects, columns))
        assert found == list(zip((first, first + 2), ROWS, strict=True))
        reason = "the row has 3 fields, expected 2"
        assert rejects == [Reject(str(path), first + 3, reason)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient;label,x\n", "line 1: the header has commas and semicolons between"),
        ("\npatient\tlabel,x\n", "line 2: the header has commas and tabs between"),
        ("patient;lable\n", "line 1: no column label; expected"),
        ("\n\npatient\tlable\n", "line 3: no column label; expected"),
        ("sep=|\npatient|label\n", r"line 1: the columns are separated by '\|'"),
        ("sep=;\npatient,label\n", "line 2: no column patient, label; expected"),
        ("sep=;\n", "line 1: no column patient, label; expected"),
        ("\n\n", "line 2: no column patient, label; expected"),
        ('"patient;label\n', "line 1: unexpected end of data"),
        ('patient;label\n\na;"b\n', "line 3: unexpected end of data"),
        ("patient;label\n" + "x" * 70_000, "line 2: a row has more than 65536"),
    ],
)
def test_a_table_without_a_clear_separator_is_refused(tmp_path, text, message):
    """What separates the columns must be clear; errors name the line of the file."""
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(LinkError, match=rf"t\.csv, {message}"):
        list(read_csv(path, NAMES, []))
