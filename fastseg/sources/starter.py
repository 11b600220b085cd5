"""A file of aliases to start with: names that look alike in groups, to be edited.

It is an output like others, but one that its user changes. Its first line holds a
digest of the rest, so that only a file that nobody has edited is replaced.
"""

import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fastseg.bounds import MAX_TEXT_BYTES
from fastseg.errors import OptionError
from fastseg.escapes import escaped
from fastseg.outputs import write_atomically
from fastseg.paths import StrPath, as_path
from fastseg.reprs import many
from fastseg.sources.aliases import MOST_FILE_BYTES, folded
from fastseg.sources.lookalikes import Group, spelling_of

# The most frequent groups become classes, as many as a store may have, if at least such
# a share of the patients has them. The others are comments.
MOST_CLASSES = 64
LEAST_SHARE = 0.1
DIGITS = 16
MARK = b"# Written by `fastseg rois`, and not edited since: "
BARE_KEY = re.compile("[A-Za-z0-9_-]+")
HEAD = """\
#
# A class, and in brackets the names of ROIs that belong to it. Edit this file: rename
# classes, move names, delete what you do not need. Then look at what it means:
#
#     fastseg rois STUDIES --aliases THIS_FILE
#
# In a name, * stands for any characters, ? for one, [0-9] for a digit, and [*] for a *.
# {case}
# Behind a name: how many of {patients} have contours of it. A line that begins
# with # has no effect: remove its first # if that name means the same.
"""
REST = """\
# Names that are in no class above. Remove the # of a class that you need, or give its
# names to another.
#
"""


class Line(NamedTuple):
    """A pattern, and what a comment says of it."""

    pattern: str
    note: str


class Section(NamedTuple):
    """A class: its patterns, and those that may belong to it, as comments.

    is_used : whether the whole class is none
    """

    label: str
    lines: Sequence[Line]
    near: Sequence[Line]
    is_used: bool


class _Kind:
    name = "an unedited file of aliases"

    def recognises(self, file: io.FileIO) -> bool:
        """Return whether a file has the digest of its content in its first line."""
        data = file.read(MOST_FILE_BYTES) or b""
        first, _, rest = data.partition(b"\n")
        return first == _first_line(rest)


KIND = _Kind()


def check_name(path: StrPath) -> Path:
    """Return the path of a file to write, or raise OptionError for another ending."""
    path = as_path("path", path)
    if path.suffix.lower() != ".toml":
        raise OptionError(f"{path}: expected a name that ends with .toml")
    return path


def save(path: StrPath, text: str, force: bool = False) -> Path:
    """Write a text of `text_of` and return the path, see `write_atomically`.

    Raises OutputError if there is another file, or an edited one, and OptionError for
    another ending than .toml.
    """
    data = text.encode()
    with write_atomically(check_name(path), KIND, force) as (target, file):
        file.write(_first_line(data) + b"\n" + data)
    return target


def sections_of(
    groups: Iterable[Group],
    patients: Mapping[str, Collection[int]],
    total: int,
    taken: Iterable[str] = (),
    match_case: bool = False,
) -> list[Section]:
    """Return a section for each group of names that has patients; some are used.

    patients   : those that have each name
    total      : number of all patients
    taken      : classes that there are already
    match_case : as in Aliases
    """
    groups = [group for group in groups if any(patients[x] for x in group.names)]
    used = _frequent(groups, patients, total)
    labels = {label.casefold() for label in taken}
    sections = []
    for k, group in enumerate(groups):
        label = _label_of(group.names[0], labels)
        labels.add(label.casefold())
        lines = _lines_of(group.names, patients, match_case)
        near = [
            line._replace(note=f"{line.note}, like {escaped(group.names[0])}")
            for line in _lines_of(group.near, patients, match_case)
        ]
        sections.append(Section(label, lines, near, k in used))
    return sections


def _frequent(
    groups: Sequence[Group], patients: Mapping[str, Collection[int]], total: int
) -> set[int]:
    """Return the indices of the groups that become classes, with both of two sides."""
    sides: dict[object, list[int]] = defaultdict(list)
    for k, group in enumerate(groups):
        words, _, *others = spelling_of(group.names[0]).key
        sides[words, *others].append(k)
    sizes = [len(set().union(*(patients[x] for x in group.names))) for group in groups]
    used: set[int] = set()
    for some in sorted(sides.values(), key=lambda some: -max(sizes[k] for k in some)):
        is_frequent = max(sizes[k] for k in some) >= LEAST_SHARE * total
        if is_frequent and len(used) + len(some) <= MOST_CLASSES:
            used.update(some)
    return used


def _lines_of(
    names: Sequence[str], patients: Mapping[str, Collection[int]], match_case: bool
) -> list[Line]:
    """Return a line for each name; names that are the same to Aliases share one."""
    variants: dict[str, list[str]] = {}
    for name in names:
        variants.setdefault(folded(name, match_case), []).append(name)
    lines = []
    for first, *others in variants.values():
        count = len(set().union(*(patients[x] for x in (first, *others))))
        also = f", with {', '.join(map(escaped, others))}" if others else ""
        lines.append(Line(as_pattern(first), f"{count}{also}"))
    return lines


def text_of(sections: Iterable[Section], patients: int, match_case: bool) -> str:
    """Return the text of a file with some sections, made from so many patients."""
    case = "Upper and lower case are the same, unless you give --match-case."
    if match_case:
        case = "Upper and lower case differ: give --match-case."
    parts = [HEAD.format(case=case, patients=many(patients, "patient"))]
    sections = list(sections)
    parts += [_block(section) for section in sections if section.is_used]
    rest = [_block(section) for section in sections if not section.is_used]
    if rest:
        lines = [f"# {line}\n" for block in rest for line in block.splitlines()]
        parts.append("".join([REST, *lines]))
    return "\n".join(parts)


def _block(section: Section) -> str:
    """Return the lines of a class: one, if it has one pattern."""
    key = _key(section.label)
    if len(section.lines) == 1 and not section.near:
        ((pattern, note),) = section.lines
        return f"{key} = [{quoted(pattern)}]{_comment(note)}\n"
    lines = [f"    {quoted(x)},{_comment(note)}\n" for x, note in section.lines]
    lines += [f"    # {quoted(x)},{_comment(note)}\n" for x, note in section.near]
    return "".join([f"{key} = [\n", *lines, "]\n"])


def as_pattern(name: str) -> str:
    """Return the pattern that fits a name alone."""
    return re.sub(r"([*?[])", r"[\1]", name)


def quoted(text: str) -> str:
    """Return a text as a basic string of TOML."""
    characters = [
        f"\\{x}" if x in '"\\' else x if x.isprintable() else f"\\U{ord(x):08x}"
        for x in text
    ]
    return f'"{"".join(characters)}"'


def _comment(note: str) -> str:
    return f"  # {note}" if note else ""


def _key(label: str) -> str:
    return label if BARE_KEY.fullmatch(label) else quoted(label)


def _label_of(name: str, taken: Collection[str]) -> str:
    """Return a class for a name: small letters, digits and _, unlike those taken."""
    word = re.sub(r"\W+", "_", name.casefold()).strip("_") or "roi"
    word = word.encode()[: MAX_TEXT_BYTES // 2].decode(errors="ignore")
    label = word
    number = 1
    while label.casefold() in taken:
        number += 1
        label = f"{word}_{number}"
    return label


def _first_line(rest: bytes) -> bytes:
    return MARK + hashlib.sha256(rest).hexdigest()[:DIGITS].encode()
