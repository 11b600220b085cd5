"""Text from outside, as terminals and tables show it."""

import csv
import io
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastseg.escapes import escaped, quoted, unquoted

# Texts in which the characters that matter are frequent.
CELLS = st.text(st.sampled_from("'=+-@\t\r a1") | st.characters())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("heart.h5", "heart.h5"),
        ("Jürgen 心臓 \\n", "Jürgen 心臓 \\n"),
        ("\x1b]0;OWNED\x07", r"\x1b]0;OWNED\x07"),
        ("a\nb\tc\rd\0e\x7f\x85", r"a\nb\tc\rd\x00e\x7f\x85"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("a\u200bb\u2066c\ufeffd\U000e0041", r"a\u200bb\u2066c\ufeffd\U000e0041"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("\udcff.dcm", r"\udcff.dcm"),
        ("no\xa0break", "no\xa0break"),
    ],
)
def test_control_and_format_characters_are_escaped(text, expected):
    """Others stay, also spaces and backslashes; escaping twice changes nothing."""
    assert escaped(text) == expected
    assert escaped(expected) == expected


@given(st.text(st.characters(exclude_categories=())))
def test_an_escaped_text_can_be_printed(text):
    """It is one line of UTF-8 without any character that is not seen."""
    shown = escaped(text)
    assert len(shown.encode().decode().splitlines()) <= 1
    assert not {"Cc", "Cf", "Cs"} & set(map(unicodedata.category, shown))


@given(CELLS)
@example("'=1")
@example("''")
def test_a_quoted_cell_is_read_as_the_text(text):
    """No cell begins like a formula, and reading gives back the text."""
    cell = quoted(text)
    assert cell[:1] not in tuple("=+-@\t\r")
    assert unquoted(cell) == text
    file = io.StringIO()
    csv.writer(file).writerow([cell])
    ((again,),) = csv.reader(io.StringIO(file.getvalue(), newline=""))
    assert unquoted(again) == text


@pytest.mark.parametrize("text", ["", "a", "'", "'a", "''", "1-3", "a=b"])
def test_other_texts_are_not_quoted(text):
    """A cell that is no formula stays as it is, also with ' in front."""
    assert quoted(text) == unquoted(text) == text
