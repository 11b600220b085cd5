"""Text from outside, as terminals and tables show it.

File names and values of files may hold control characters, which a terminal obeys, and
format characters, which are invisible or reverse what follows. `escaped` shows them.
Cells that begin like a formula are computed by spreadsheets; `quoted` prevents that.
"""

import re
import unicodedata

# Unicode's categories of control and format characters, lone surrogates (undecodable
# bytes of a file name), and separators of lines and paragraphs.
ESCAPED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
FORMULA = re.compile(r"'*[=+\-@\t\r]")
QUOTED = re.compile(r"'+[=+\-@\t\r]")


def escaped(text: str) -> str:
    r"""Return a text whose control and format characters are written as \x1b, \u202e.

    It is one line, and `escaped` does not change it again.
    """
    # True of nearly all texts; the code below takes some microseconds.
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ESCAPED
        else character
        for character in text
    )


def quoted(text: str) -> str:
    """Return a text as a cell of a table: with a ' in front if it looks like a formula.

    It looks like one if it begins with =, +, -, @, a tab or a carriage return, or with
    any number of ' before one of these.
    """
    return f"'{text}" if FORMULA.match(text) else text


def unquoted(cell: str) -> str:
    """Return the text of a cell that `quoted` has made."""
    return cell[1:] if QUOTED.match(cell) else cell
