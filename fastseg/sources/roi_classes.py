"""The classes of ROIs: which are linked; what if several ROIs are of one class."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from fastseg.errors import LinkError, choice
from fastseg.links import MAX_CLASSES
from fastseg.paths import natural_key
from fastseg.reprs import listed, many
from fastseg.sources.aliases import Aliases, folded
from fastseg.sources.set_links import SetLinks
from fastseg.sources.stacks import Stacks, list_names, name_series

JOIN = "join the ROIs with --join (join=True)"
TELL_APART = "tell them apart with --roi (rois)"


@dataclass(frozen=True, slots=True)
class RoiClasses:
    """The class of each ROI.

    labels : the classes that are wanted, None for all
    rois   : names of ROIs by class; None if each name is a class
    """

    labels: Sequence[str] | None
    rois: Aliases | None

    def of(self, name: str) -> str | None:
        """Return the class of an ROI, None if it has none, or OptionError."""
        return name if self.rois is None else self.rois.class_of(name)

    def wanted(self, name: str) -> str | None:
        """Return the class of an ROI, None if it is not wanted."""
        label = self.of(name)
        is_wanted = self.labels is None or label in self.labels
        return label if is_wanted else None

    def check(self, root: object, names: Iterable[str], outlined: Counter[str]) -> None:
        """Raise OptionError for labels that no ROI has, LinkError for too many classes.

        names    : of all ROIs
        outlined : classes that have contours, and in how many structure sets
        """
        classes = [self.of(name) for name in names]
        known = dict.fromkeys([*(self.rois.classes if self.rois else ()), *classes])
        for label in self.labels or ():
            choice("label", label, [x for x in known if x is not None])
        if len(outlined) > MAX_CLASSES:
            frequent = [f"{x!r} ({n})" for x, n in outlined.most_common(6)]
            raise LinkError(
                f"{root}: the structure sets have ROIs of {len(outlined)} classes, and "
                f"a store holds at most {MAX_CLASSES}. Choose some with --label "
                "(labels), or map names of ROIs to classes with --roi or --aliases "
                "(rois); `fastseg rois` lists all names. The most frequent classes are "
                f"{', '.join(frequent)}"
            )

    def other(self, names: Mapping[str, int]) -> list[tuple[str, int]]:
        """Return the names that have no class, the most frequent ones first."""
        found = [(name, n) for name, n in names.items() if self.of(name) is None]
        return sorted(found, key=lambda pair: (-pair[1], natural_key(pair[0])))


def reject_shared_classes(sets: Sequence[SetLinks], stacks: Stacks) -> None:
    """Reject the ROIs of a series that belong to one class."""
    owners: dict[tuple[int, str], list[tuple[int, int]]] = defaultdict(list)
    for number, set_links in enumerate(sets):
        series = stacks.series[set_links.images]
        pairs = [*zip(series.tolist(), set_links.roi.tolist(), strict=True)]
        linked = {(one, set_links.labels[roi]) for one, roi in pairs}
        # What is left of a class may be another ROI than the one that is damaged.
        pairs += [(int(stacks.series[x]), roi) for x, roi in set_links.incomplete]
        pairs += [(one, roi) for one in set_links.series for roi in set_links.unlocated]
        for one, roi in dict.fromkeys(pairs):
            label = set_links.unlocated.get(roi, set_links.labels[roi])
            if (one, label) in linked:
                owners[one, label or ""].append((number, roi))
    # Classes that the same structure sets have on the same series, and their ROIs.
    shared: dict[tuple[int, tuple[int, ...]], list[tuple[str, list[str]]]]
    shared = defaultdict(list)
    for (one, label), rois in owners.items():
        if len(rois) == 1:
            continue
        numbers = tuple(dict.fromkeys(k for k, _ in rois))
        for number in numbers:
            set_links = sets[number]
            is_label = np.array([x == label for x in set_links.labels])
            is_there = stacks.series[set_links.images] == one
            set_links.drop(is_label[set_links.roi] & is_there)
        if len({k for k, _ in rois}) == len(rois):
            names = [sets[k].rois[roi] for k, roi in rois]
            shared[one, numbers].append((label, names))
            continue
        if len(numbers) > 1:
            named = list_names(
                [f"ROI {sets[k].quoted[roi]} of {sets[k].path}" for k, roi in rois]
            )
        else:  # the reject has the path
            named = f"ROIs {list_names([sets[k].quoted[roi] for k, roi in rois])}"
        for number in numbers:
            sets[number].rejects.append(
                f"{named} are of one class, {label!r}, on one series "
                f"({name_series(stacks, one)}); {JOIN}, or {TELL_APART}"
            )
    for (one, numbers), found in shared.items():
        labels = listed([repr(label) for label, _ in found])
        classes = many(len(found), "class")
        remedy = f"keep one of these structure sets, or {JOIN}"
        if any(len({*names}) > 1 for _, names in found):
            remedy = f"keep one of these structure sets, {JOIN}, or {TELL_APART}"
        for number in numbers:
            others = list_names([sets[k].path for k in numbers if k != number])
            sets[number].rejects.append(
                f"has {classes} ({labels}) in common with {others} on one series "
                f"({name_series(stacks, one)}); {remedy}"
            )


def drop_incomplete(sets: Sequence[SetLinks], stacks: Stacks) -> None:
    """Drop classes where one of their ROIs cannot be used."""
    incomplete: set[tuple[int, str | None]] = set()
    unlocated: set[tuple[int, str | None]] = set()
    for set_links in sets:
        incomplete |= {(k, set_links.labels[roi]) for k, roi in set_links.incomplete}
        unlocated |= {*product(set_links.series, set_links.unlocated.values())}
    if not incomplete and not unlocated:
        return
    for set_links in sets:
        images = set_links.images.tolist()
        labels = [set_links.labels[roi] for roi in set_links.roi.tolist()]
        series = stacks.series[set_links.images].tolist()
        is_dropped = np.array(
            [
                (image, label) in incomplete or (one, label) in unlocated
                for image, one, label in zip(images, series, labels, strict=True)
            ],
            np.bool_,
        )
        for roi in dict.fromkeys(set_links.roi[is_dropped].tolist()):
            rows = set_links.images[is_dropped & (set_links.roi == roi)].tolist()
            paths = list_names([stacks.images[row].path for row in rows])
            set_links.rejects.append(
                f"ROI {set_links.quoted[roi]}: is left out on "
                f"{many(len(rows), 'image')} ({paths}), where another ROI of its "
                f"class, {set_links.labels[roi]!r}, cannot be used"
            )
        set_links.drop(is_dropped)


def note_similar(labels: Iterable[str], rois: Aliases | None) -> list[str]:
    """Return a note on classes that differ in case or Unicode form alone."""
    if rois is not None:
        return []
    spellings: dict[str, list[str]] = defaultdict(list)
    for label in sorted(labels):
        spellings[folded(label, match_case=False)].append(label)
    alike = [" and ".join(map(repr, x)) for x in spellings.values() if len(x) > 1]
    if not alike:
        return []
    return [
        f"classes that differ in upper and lower case alone: {list_names(alike)}; make "
        "one of them with --roi (rois), or look at `fastseg rois`"
    ]
