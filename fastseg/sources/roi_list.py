"""RoiList: the names of ROIs below a folder, as a list, as JSON and as aliases."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastseg.escapes import escaped
from fastseg.paths import StrPath
from fastseg.reprs import many, short
from fastseg.sources import starter
from fastseg.sources.aliases import Aliases, Match
from fastseg.sources.lookalikes import group_names
from fastseg.tables import Reject

# Names, and combinations of names, that a line of the summary lists.
MOST_LISTED = 10
# Names are aligned up to this width.
WIDEST_NAME = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class RoiName:
    """A name of ROIs, and where it occurs.

    patients       : number of patients in whom it has contours that can be used
    structure_sets : so, too
    empty          : number of structure sets in which it has none
    contours       : number of closed contours that can be used
    others         : number of other contours, by their kind in DICOM or "invalid"
    classes        : those that it belongs to by the aliases: one, none, or more by
        mistake; without aliases, the name is the class
    like           : another name that may mean the same, "" if there is none; that one
        belongs to a class, if there are aliases
    like_class     : the class of that name, "" without aliases
    """

    name: str
    patients: int
    structure_sets: int
    empty: int
    contours: int
    others: Mapping[str, int]
    classes: tuple[str, ...]
    like: str = ""
    like_class: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoiClass:
    """A class of the aliases: its patterns, and the names that belong to it.

    patients : number of those in whom one of the names has contours
    missing  : structure sets of the other patients, relative to the root
    """

    name: str
    patterns: tuple[str, ...]
    names: tuple[str, ...]
    patients: int
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeveralRois:
    """ROIs of one class on one series: they are joined, or none of them is linked.

    names : of the ROIs, each as often as it occurs
    files : the structure sets, relative to the root
    """

    label: str
    names: tuple[str, ...]
    patients: int
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoiList:
    """The names of ROIs below a folder.

    root     : the folder, or its URL
    names    : those of each class one after the other, with names that are like them;
        then the others. Names that look alike stand together, and frequent ones first
    classes  : of the aliases, in their order
    several  : classes that have several ROIs on one series
    unused   : patterns that fit no name
    without_set : an image of each patient who has no structure set, relative to the
        root
    rejects  : structure sets that cannot be used
    notes    : what else there is, in words
    """

    root: Path | str
    structure_sets: int
    patients: int
    names: tuple[RoiName, ...]
    classes: tuple[RoiClass, ...]
    several: tuple[SeveralRois, ...]
    unused: tuple[Match, ...]
    without_set: tuple[str, ...]
    rejects: tuple[Reject, ...]
    notes: tuple[str, ...]
    aliases: Aliases | None
    _patients: Mapping[str, frozenset[int]]

    def __repr__(self) -> str:
        return (
            f"<RoiList {short(str(self.root))}: {many(len(self.names), 'name')} in "
            f"{many(self.structure_sets, 'structure set')} of "
            f"{many(self.patients, 'patient')}>"
        )

    def __str__(self) -> str:
        """One line for each name, below a header."""
        header = ("patients", "sets", "contours", "name", "class", "")
        rows = [header, *map(self._row, self.names)]
        if self.aliases is None:
            rows = [(*row[:4], row[5], "") for row in rows]
        widths = [max(len(row[k]) for row in rows) for k in range(5)]
        lines = []
        for *numbers, name, label, note in rows:
            cells = [x.rjust(width) for x, width in zip(numbers, widths, strict=False)]
            cells += [name.ljust(min(widths[3], WIDEST_NAME)), label.ljust(widths[4])]
            lines.append("  ".join([*cells, note]).rstrip())
        return "\n".join(lines)

    def _row(self, name: RoiName) -> tuple[str, str, str, str, str, str]:
        notes = [f"like {escaped(name.like)}"] if name.like else []
        notes += [f"{count} {kind}" for kind, count in name.others.items()]
        if name.empty:
            notes.append(f"no contours in {many(name.empty, 'set')}")
        label = " and ".join(name.classes)
        if name.like_class:
            label = f"{name.like_class}?"
        return (
            str(name.patients),
            str(name.structure_sets),
            str(name.contours),
            escaped(name.name),
            escaped(label) or "-",
            ", ".join(notes),
        )

    def summary(self) -> list[str]:
        """Return lines on all of it: the classes, and what is wrong with them."""
        lines = [
            f"{many(len(self.names), 'name')} of ROIs in "
            f"{many(self.structure_sets, 'structure set')} of "
            f"{many(self.patients, 'patient')}"
        ]
        for label in self.classes:
            names = many(len(label.names), "name")
            share = f"{label.patients} of {many(self.patients, 'patient')}"
            lines.append(f"{escaped(label.name)}: {names} in {share}")
        near = [name for name in self.names if name.like_class]
        if near:
            near.sort(key=lambda name: -name.patients)
            likely = [f"{escaped(x.name)} ({escaped(x.like_class)}?)" for x in near]
            lines.append(
                f"{many(len(near), 'name')} of no class, but like one that has a "
                f"class: {_listed(likely)}"
            )
        rest = sum(not name.classes for name in self.names) - len(near)
        if rest and self.aliases is not None:
            lines.append(f"{many(rest, 'other name')} of no class")
        twice: dict[str, list[str]] = defaultdict(list)
        for name in self.names:
            if self.aliases is not None and len(name.classes) > 1:
                matches = self.aliases.matches(name.name)
                twice[" and ".join(map(str, matches))].append(escaped(name.name))
        for both, some in twice.items():
            lines.append(
                f"{many(len(some), 'name')} of several classes, {both}: "
                f"{_listed(some)}; give each name to its class, or narrow a pattern"
            )
        lines += [
            f"no name matches {match.pattern!r} of {escaped(match.label)}"
            for match in self.unused
        ]
        for several in self.several[:MOST_LISTED]:
            names = " and ".join(
                f"{count} times {escaped(name)}" if count > 1 else escaped(name)
                for name, count in Counter(several.names).items()
            )
            count = many(several.patients, "patient")
            lines.append(
                f"{escaped(several.label)}: several ROIs on one series in {count}: "
                f"{names}, as in {escaped(several.files[0])}"
            )
        if len(self.several) > MOST_LISTED:
            lines.append(f"and {len(self.several) - MOST_LISTED} more such cases")
        if self.several:
            lines.append(
                "`fastseg link` joins several ROIs of a class with --join, and else "
                "rejects them"
            )
        return [*lines, *self.notes]

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return {
            "root": str(self.root),
            "structure_sets": self.structure_sets,
            "patients": self.patients,
            "names": list(map(asdict, self.names)),
            "classes": list(map(asdict, self.classes)),
            "several": list(map(asdict, self.several)),
            "unused": [match._asdict() for match in self.unused],
            "without_set": list(self.without_set),
            "rejects": [{"file": x.file, "reason": x.reason} for x in self.rejects],
            "notes": list(self.notes),
        }

    def save_aliases(self, path: StrPath, *, force: bool = False) -> Path:
        """Write a file of aliases to start with, and return its path.

        It groups names that look alike, as TOML, and is to be edited. With aliases, it
        has their classes, the names that are like those of a class, and the other
        groups as comments.

        Raises OutputError if another file would be replaced, or an edited one, unless
        it is forced; OptionError if the name does not end with .toml.
        """
        path = starter.check_name(path)
        if self.aliases is None:
            groups = group_names(self._patients)
            match_case = False
            sections = starter.sections_of(groups, self._patients, self.patients)
        else:
            match_case = self.aliases.match_case
            sections = self._known_sections() + self._other_sections(match_case)
        text = starter.text_of(sections, self.patients, match_case)
        return starter.save(path, text, force)

    def _known_sections(self) -> list[starter.Section]:
        """Return the classes of the aliases, with names that are like theirs."""
        sections = []
        for label in self.classes:
            lines = [starter.Line(pattern, "") for pattern in label.patterns]
            near = [
                starter.Line(
                    starter.as_pattern(name.name),
                    f"{name.patients}, like {escaped(name.like)}",
                )
                for name in self.names
                if name.like_class == label.name
            ]
            sections.append(starter.Section(label.name, lines, near, is_used=True))
        return sections

    def _other_sections(self, match_case: bool) -> list[starter.Section]:
        """Return the names that have nothing to do with the classes of the aliases."""
        patients = {
            name.name: self._patients[name.name]
            for name in self.names
            if not (name.classes or name.like)
        }
        taken = [label.name for label in self.classes]
        sections = starter.sections_of(
            *(group_names(patients), patients, self.patients, taken, match_case)
        )
        return [section._replace(is_used=False) for section in sections]


def _listed(words: Sequence[str]) -> str:
    """Return the first of some words, and how many more there are."""
    more = len(words) - MOST_LISTED
    first = ", ".join(words[:MOST_LISTED])
    return f"{first} and {more} more" if more > 0 else first
