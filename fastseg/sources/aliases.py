"""Aliases: which names of ROIs belong to which class.

    heart = ["Heart", "HEART*", "heart_v[0-9]"]

A pattern is a name in which `*` stands for any characters, `?` for one, and `[0-9]` for
one of some. `[*]` is the character itself.
"""

import fnmatch
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from fastseg.bounds import MAX_TEXT_BYTES
from fastseg.errors import LinkError, OptionError, is_iterable, shown, true_or_false
from fastseg.escapes import escaped
from fastseg.files import name_path, no_such_file, open_regular
from fastseg.paths import StrPath, as_path
from fastseg.tables import Reject, read_csv

# Bytes of a file of aliases; one of 10 000 names has 500 kB.
MOST_FILE_BYTES = 2**22
WILDCARDS = re.compile(r"[*?[]")
EXAMPLE = "heart='Heart|HEART*'"
COLUMNS = ("class", "pattern")


class Match(NamedTuple):
    """A class that a name belongs to, and the first of its patterns that says so."""

    label: str
    pattern: str

    def __str__(self) -> str:
        return f"{self.label!r} ({self.pattern!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Aliases:
    """Classes, and the patterns of the names that belong to each.

    patterns   : those of each class, in the order of the classes
    match_case : whether upper and lower case differ

    A pattern without a wildcard goes before those with one: a name that one class gives
    as it is does not belong to another class whose `*` fits it, too. Names are compared
    in Unicode's form NFC.
    """

    patterns: Mapping[str, tuple[str, ...]]
    match_case: bool = False
    # Folded names without wildcards, and the others, in order.
    _names: dict[str, list[Match]] = field(init=False, repr=False, compare=False)
    _regexes: list[tuple[re.Pattern[str], Match]] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Check classes and patterns; raise OptionError."""
        if not self.patterns:
            raise OptionError(
                f"there are no classes, expected some with ROI names, as in {EXAMPLE}"
            )
        names: dict[str, list[Match]] = {}
        regexes: list[tuple[re.Pattern[str], Match]] = []
        # By its folded form: no class may have the pattern of another.
        owners: dict[str, Match] = {}
        labels: dict[str, str] = {}
        for label, patterns in self.patterns.items():
            _check_label(label)
            twin = labels.setdefault(label.casefold(), label)
            if twin != label:
                raise OptionError(
                    f"the classes {twin!r} and {label!r} differ in upper and lower "
                    "case alone; give them one name"
                )
            if not patterns:
                raise OptionError(
                    f"class {label!r} has no ROI names; give it some, or leave it out"
                )
            for pattern in patterns:
                match = Match(label, pattern)
                key = self._fold(pattern)
                owner = owners.setdefault(key, match)
                if owner.label != label:
                    raise OptionError(
                        f"the classes {owner.label!r} and {label!r} both have the "
                        f"pattern {pattern!r}; take it from one of them"
                    )
                # A name may have a bracket, and stand here as it is.
                names.setdefault(key, []).append(match)
                if WILDCARDS.search(key):
                    regexes.append((re.compile(fnmatch.translate(key)), match))
        object.__setattr__(self, "_names", names)
        object.__setattr__(self, "_regexes", regexes)

    @classmethod
    def of(cls, rois: Any, match_case: bool = False) -> "Aliases":
        """Return aliases from any form that a caller may give.

        rois : a dict of classes with their patterns, in a list or separated by `|`; a
            list of texts such as "heart=Heart|HEART*"; the path of a file, see
            `read_aliases`; or Aliases

        Raises OptionError, and what `read_aliases` does.
        """
        match_case = true_or_false("match_case", match_case)
        if isinstance(rois, cls):
            return replace(rois, match_case=match_case or rois.match_case)
        if isinstance(rois, Mapping):
            patterns = {
                _text("a class", label): _patterns(f"class {shown(label)}", given)
                for label, given in rois.items()
            }
            return cls(patterns=patterns, match_case=match_case)
        if is_iterable(rois):
            return cls(patterns=_parse(rois, "rois"), match_case=match_case)
        if isinstance(rois, str) and "=" in rois and not Path(rois).suffix:
            raise OptionError(
                f"rois is {shown(rois)}, expected a list of such texts, a dict, or the "
                "path of a file"
            )
        return read_aliases(as_path("rois", rois), match_case)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in order."""
        return tuple(self.patterns)

    def matches(self, name: str) -> list[Match]:
        """Return each class that a name belongs to: more than one is a mistake."""
        key = self._fold(name)
        found = self._names.get(key)
        if found is None:
            found = [match for regex, match in self._regexes if regex.match(key)]
        first: dict[str, Match] = {}
        for match in found:
            first.setdefault(match.label, match)
        return list(first.values())

    def class_of(self, name: str) -> str | None:
        """Return the class that a name belongs to, None if there is none.

        Raises OptionError if it belongs to several.
        """
        found = self.matches(name)
        if len(found) > 1:
            raise OptionError(
                f"the ROI name {name!r} matches the classes "
                f"{' and '.join(map(str, found))}; give the name itself to the class "
                "that it belongs to, or narrow a pattern"
            )
        return found[0].label if found else None

    def unused(self, names: Iterable[str]) -> list[Match]:
        """Return the patterns that fit none of some names."""
        keys = {self._fold(name) for name in names}
        used = {match for key in keys for match in self._names.get(key, ())}
        for regex, match in self._regexes:
            if match not in used and any(map(regex.match, keys)):
                used.add(match)
        return [
            match
            for label, patterns in self.patterns.items()
            for match in (Match(label, pattern) for pattern in patterns)
            if match not in used
        ]

    def _fold(self, text: str) -> str:
        return folded(text, self.match_case)


def folded(text: str, match_case: bool) -> str:
    """Return a name or a pattern in the form in which both are compared."""
    text = unicodedata.normalize("NFC", text.strip())
    return text if match_case else text.casefold()


# What callers may give in place of Aliases.
Rois = Aliases | Mapping[str, str | Iterable[str]] | Iterable[str] | StrPath


def read_aliases(path: Path, match_case: bool = False) -> Aliases:
    """Read a file of aliases.

    A TOML file has a line for each class, as in `heart = ["Heart", "HEART*"]`. A CSV
    file has the columns `class` and `pattern`, and a row for each pattern.

    Raises OptionError if its name ends otherwise, LinkError if its content cannot be
    used, FileNotFoundError.
    """
    readers = {".toml": _read_toml, ".csv": _read_table}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise OptionError(
            f"{path}: is no file of aliases by its name, which ends with .toml or .csv"
        )
    try:
        patterns = reader(path)
    except FileNotFoundError:
        advice = "`fastseg rois STUDIES -o aliases.toml` writes one to start with"
        raise no_such_file(path, advice) from None
    try:
        return Aliases(patterns=patterns, match_case=match_case)
    except OptionError as exc:
        raise LinkError(f"{path}: {exc}") from None


def aliases_of_options(
    roi: Sequence[str] | None, file: Path | None, match_case: bool
) -> Aliases | None:
    """Return the aliases of the options --roi, --aliases and --match-case.

    roi  : texts such as "heart=Heart|HEART*"
    file : see `read_aliases`

    The patterns of --roi are added to those of the file. Returns None without both, so
    that each name is a class. Raises OptionError, and what `read_aliases` does.
    """
    if not roi and file is None:
        if match_case:
            raise OptionError(
                "--match-case says how --roi and --aliases are compared; give one of "
                "these"
            )
        return None
    patterns: dict[str, tuple[str, ...]] = {}
    if file is not None:
        patterns.update(read_aliases(file, match_case).patterns)
    for label, some in _parse(roi or (), "--roi").items():
        patterns[label] = (*patterns.get(label, ()), *some)
    return Aliases(patterns=patterns, match_case=match_case)


def _parse(texts: Iterable[Any], option: str) -> dict[str, tuple[str, ...]]:
    """Return the patterns by class of texts such as "heart=Heart|HEART*"."""
    patterns: dict[str, tuple[str, ...]] = {}
    for text in texts:
        label, sign, rest = text.partition("=") if isinstance(text, str) else ("",) * 3
        some = [pattern.strip() for pattern in rest.split("|")]
        if not sign or not label.strip() or not all(some):
            raise OptionError(
                f"{option} is {shown(text)}, expected a class and the ROI names that "
                f"belong to it, as in {EXAMPLE}"
            )
        label = label.strip()
        patterns[label] = (*patterns.get(label, ()), *some)
    return patterns


def _read_toml(path: Path) -> dict[str, tuple[str, ...]]:
    with name_path(path), open_regular(path) as file:
        data = file.read(MOST_FILE_BYTES + 1) or b""
    if len(data) > MOST_FILE_BYTES:
        raise LinkError(f"{path}: has more than {MOST_FILE_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise LinkError(f"{path}, line {line}: is not UTF-8 text") from None
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        where = re.search(r"\(at line (\d+)", str(exc))
        line = int(where[1]) if where else text.count("\n") + 1
        reason = re.sub(r" \(at .*\)$", "", str(exc))
        raise LinkError(
            f"{path}, line {line}: {reason}; expected a line for each class, as in "
            'heart = ["Heart", "HEART*"]; a name with spaces or letters beyond ASCII '
            "stands in quotes"
        ) from None
    except RecursionError:
        raise LinkError(f"{path}: is nested too deeply for aliases") from None
    patterns = {}
    for label, given in content.items():
        try:
            patterns[_text("a class", label)] = _patterns(f"class {label!r}", given)
        except OptionError as exc:
            at = f", line {line}" if (line := _line_of(label, text)) else ""
            raise LinkError(f"{path}{at}: {exc}") from None
    return patterns


def _line_of(label: str, text: str) -> int:
    """Return the line of a TOML text on which a class begins, 0 if it is not seen."""
    key = re.compile(rf"""\s*\[?\s*(["']?){re.escape(label)}\1\s*[=.\]]""")
    lines = enumerate(text.splitlines(), 1)
    return next((number for number, line in lines if key.match(line)), 0)


def _read_table(path: Path) -> dict[str, tuple[str, ...]]:
    rejects: list[Reject] = []
    patterns: dict[str, tuple[str, ...]] = {}
    for line, row in read_csv(path, COLUMNS, rejects, COLUMNS):
        label, pattern = row["class"], row["pattern"]
        if not label or not pattern:
            missing = "pattern" if label else "class"
            rejects.append(Reject(str(path), line, f"the row has no {missing}"))
            continue
        patterns[label] = (*patterns.get(label, ()), pattern)
    if rejects:
        first = min(rejects, key=lambda reject: reject.line or 0)
        raise LinkError(f"{path}, line {first.line}: {first.reason}")
    return patterns


def _patterns(what: str, given: Any) -> tuple[str, ...]:
    """Return patterns that are given in a list, or in a text with | between them."""
    if isinstance(given, Mapping) or not (isinstance(given, str) or is_iterable(given)):
        raise OptionError(
            f"{what} is {shown(given)}, expected a list of ROI names, as in "
            '["Heart", "HEART*"]'
        )
    some = given.split("|") if isinstance(given, str) else given
    return tuple(_text(f"an ROI name of {what}", pattern) for pattern in some)


def _text(what: str, given: Any) -> str:
    if not isinstance(given, str) or not given.strip():
        raise OptionError(f"{what} is {shown(given)}, expected a text")
    return given.strip()


def _check_label(label: str) -> None:
    """Raise OptionError for a class that a links table cannot hold."""
    if escaped(label) != label:
        raise OptionError(f"class {label!r} has control or format characters")
    if len(label.encode()) > MAX_TEXT_BYTES:
        raise OptionError(f"a class has more than {MAX_TEXT_BYTES} bytes")
