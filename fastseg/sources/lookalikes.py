"""Names of ROIs that look alike: variants of one name, and likely typing errors.

    Lung_L  LUNG L  Left lung  lung-lt     one spelling
    Heart   Herat   Heart_v2   Heart1      near one another
    Lung_L  Lung_R                         neither, and so it is with PTV and CTV

Nothing here knows anatomy. What is near is a hint for whoever chooses the names.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import NamedTuple

from fastseg.paths import natural_key

# Words that mean a side, in the languages of many clinics.
SIDES = {
    **dict.fromkeys(
        [
            "l",
            "left",
            "lt",
            "li",
            "links",
            "sin",
            "sinistra",
            "izq",
            "izquierda",
            "izquierdo",
        ],
        "l",
    ),
    **dict.fromkeys(
        [
            "r",
            "right",
            "rt",
            "re",
            "rechts",
            "dex",
            "dextra",
            "der",
            "derecha",
            "derecho",
        ],
        "r",
    ),
    **dict.fromkeys(["gauche", "gche", "sx"], "l"),
    **dict.fromkeys(["droit", "droite", "drt", "dx"], "r"),
    **dict.fromkeys(["bilat", "bilateral", "both"], "b"),
}
# Words that tell versions of a contour apart, beside v2.
VERSIONS = frozenset(
    [
        "copy",
        "new",
        "old",
        "final",
        "edit",
        "edited",
        "orig",
        "original",
        "ver",
        "version",
        "rev",
        "test",
        "tmp",
        "temp",
    ]
)
# As they are written where there are none; oesophagus is then esophagus, see below.
UMLAUTS = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue"}
)
# Between a small letter and a capital: HeartLV, LungLeft; behind L or R: LLung.
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?:(?<=^[LR])|(?<=[\W_][LR]))(?=[A-Z][a-z])")
# A vertebra or a version (T12, v2), a word, a number with its sign.
WORD = re.compile(r"(?<![^\W_])[^\W\d_]\d+(?![^\W_])|[^\W\d_]+|[+-]?\d+")
# Typing errors are looked for in words of so many letters, and swapped letters in those
# of one less: shorter ones are codes.
LEAST_LETTERS = 5
# Joined words are longer: those of Spinlcord and Spinal_Cord.
LEAST_JOINED = 8
# A letter that tells sides apart, in words without a separator: lungl, femurdx.
SIDE_LETTERS = frozenset("lrgdsx")
SIDE_PAIRS = (frozenset("lr"), frozenset("gd"), frozenset("sd"))
# Names of target volumes are codes, too: CTVhr and CTVir.
TARGET = re.compile("[gcip]tv")


class Spelling(NamedTuple):
    """What a name says, without case, separators and accents.

    words   : its words; equal if their letters are, wherever they are separated
    side    : "l", "r", "b" for both, or ""
    numbers : whole numbers, with their signs
    version : words that tell versions apart
    """

    words: tuple[str, ...]
    side: str
    numbers: tuple[str, ...]
    version: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
        """What names of one spelling have in common."""
        return "".join(self.words), self.side, self.numbers, self.version


class Group(NamedTuple):
    """Names of one spelling, and names that are near it and less frequent.

    names : the most frequent one first
    near  : so, too
    """

    names: list[str]
    near: list[str]


def spelling_of(name: str) -> Spelling:
    """Return what a name says."""
    text = unicodedata.normalize("NFKC", name).translate(UMLAUTS)
    text = unicodedata.normalize("NFKD", text)
    text = "".join(x for x in text if not unicodedata.combining(x))
    parts = WORD.findall(CAMEL.sub(" ", text).casefold())
    sides = {SIDES[part] for part in parts if part in SIDES}
    version = tuple(part for part in parts if part in VERSIONS or _is_version(part))
    numbers = tuple(part for part in parts if part[-1].isdigit() and _is_number(part))
    words = tuple(
        part.replace("oe", "e").replace("ae", "e")  # oesophagus, esophagus
        for part in parts
        if not (part in SIDES or part in version or part in numbers)
    )
    if not words:  # a name of nothing but a side, or of signs
        return Spelling((text.casefold(),), "", (), ())
    side = sides.pop() if len(sides) == 1 else "b" if sides else ""
    return Spelling(words, side, numbers, version)


def is_near(one: Spelling, other: Spelling) -> bool:
    """Return whether two names may mean the same, though they are spelt differently.

    They have one side. One may have a number of one digit that the other lacks, another
    version, its words in another order, or one letter too many, missing, wrong or in
    its neighbour's position, if that makes no other side.
    """
    if one.side != other.side:
        return False
    numbers = [[x.lstrip("+-") for x in spelling.numbers] for spelling in (one, other)]
    if numbers[0] != numbers[1]:
        less, more = sorted(numbers, key=len)
        if less or len(more) > 1 or len(more[0]) > 1:
            return False
    if sorted(one.words) == sorted(other.words):
        return True
    joined, other_joined = "".join(one.words), "".join(other.words)
    if joined == other_joined:
        return True
    if len(one.words) != len(other.words):
        least = min(len(joined), len(other_joined))
        return least >= LEAST_JOINED and _is_typo(joined, other_joined)
    pairs = zip(one.words, other.words, strict=True)
    changed = [pair for pair in pairs if pair[0] != pair[1]]
    return len(changed) == 1 and _is_typo(*changed[0])


def group_names(patients: Mapping[str, Collection[int]]) -> list[Group]:
    """Return all names in groups, each name once; groups alike in their first word.

    patients : those that have each name

    The order is that of the numbers of patients: first the word with the most frequent
    group, and below one word its groups. It depends on nothing else than what is given.
    """
    spellings = {name: spelling_of(name) for name in patients}

    def rank(name: str) -> tuple[object, ...]:
        return -len(patients[name]), natural_key(name), name

    def count(names: Collection[str]) -> int:
        return len(set().union(*(patients[name] for name in names)))

    by_spelling: dict[object, list[str]] = defaultdict(list)
    for name in sorted(patients, key=rank):
        by_spelling[spellings[name].key].append(name)
    variants = sorted(by_spelling.values(), key=lambda x: (-count(x), *rank(x[0])))
    groups: list[Group] = []
    # Indices of groups by side and by first letters: typing errors are in neither.
    by_letter: dict[tuple[str, str], list[int]] = defaultdict(list)
    for names in variants:
        spelling = spellings[names[0]]
        keys = {(spelling.side, word[:1]) for word in spelling.words}
        near = [
            k
            for k in {k for key in keys for k in by_letter[key]}
            if is_near(spellings[groups[k].names[0]], spelling)
        ]
        if near:
            groups[min(near)].near.extend(names)
            continue
        for key in keys:
            by_letter[key].append(len(groups))
        groups.append(Group(names, []))
    families: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        families[spellings[group.names[0]].words[0].rstrip("s")].append(group)
    sizes = {
        word: max(count(group.names) for group in some)
        for word, some in families.items()
    }
    order = sorted(families, key=lambda word: (-sizes[word], word))
    return [group for word in order for group in families[word]]


def _is_version(word: str) -> bool:
    return word[0] == "v" and word[1:].isdigit()


def _is_number(word: str) -> bool:
    return word.lstrip("+-").isdigit()


def _is_typo(one: str, other: str) -> bool:
    """Return whether two words differ in one letter, as by a slip of a finger.

    The first letter is right. Other letters at the end may mean a side or a plural.
    """
    short, long = sorted((one, other), key=len)
    start = next((k for k, x in enumerate(short) if x != long[k]), len(short))
    if start == 0 or len(long) - len(short) > 1 or TARGET.match(short):
        return False
    end, long_end = short[start:], long[start:]
    is_swapped = end[1::-1] == long_end[:2] and end[2:] == long_end[2:]
    if len(long) < LEAST_LETTERS:
        return is_swapped and len(long) == LEAST_LETTERS - 1
    if len(short) < len(long):
        return end == long_end[1:] and (end != "" or long_end not in SIDE_LETTERS)
    pair = frozenset((end[0], long_end[0]))
    is_wrong = end[1:] == long_end[1:] and len(end) > 1 and pair not in SIDE_PAIRS
    return is_swapped or is_wrong
