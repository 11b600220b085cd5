"""The links of one structure set: which of its contours belong to which images.

structure set ── resolve, match ──> rows: image, ROI, contour_key; and what is wrong
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128_digest

from fastseg.bounds import MAX_TEXT_BYTES
from fastseg.dicom.structure_set import (
    CLOSED_PLANAR,
    OPEN_NONPLANAR,
    OPEN_PLANAR,
    POINT,
    Contours,
    StructureSet,
)
from fastseg.sources.named_series import (
    explain_nowhere,
    find_candidates,
    find_patient,
)
from fastseg.sources.rtstruct import make_key, name_ranges
from fastseg.sources.stacks import (
    BY_FRAME,
    Matches,
    Stacks,
    match,
    resolve,
)
from fastseg.sources.tree import Patients

# Types of contours that have no inside.
LEFT_OUT = {
    POINT: "POINT contour",
    OPEN_PLANAR: "OPEN_PLANAR contour",
    OPEN_NONPLANAR: "OPEN_NONPLANAR contour",
}
# A ring that its ROI has twice on an image.
COPY = "repeated contour"
# Contours of a structure set that are rejected one by one for a kind of reason; if more
# are, each ROI has one reject.
CONTOURS_LISTED = 20

Ints = NDArray[np.int64]


def _no_rows() -> Ints:
    return np.empty(0, np.int64)


@dataclass(slots=True, kw_only=True)
class SetLinks:
    """What one structure set gave.

    path    : relative to the root of the tree
    sop_instance : its SOPInstanceUID
    digest  : hash of its bytes
    rois    : names of its ROIs
    quoted  : the same, as messages call them
    labels  : the classes of its ROIs, None for those that are not linked
    images, roi : int64 (r,), image and ROI of each row
    keys    : `contour_key` of each row
    rejects : what cannot be used of it, and why
    ways    : the number of contours that were matched in each way
    left_out : ROI and number of the contours that are no rings, by their kind
    without_contours : ROIs
    incomplete : pairs of an image and an ROI that has contours there, of which some
        cannot be used
    unlocated : classes of the ROIs that have contours whose images are not known
    series  : those on which contours may lie
    has_other_frame : whether it names images of another frame of reference
    has_other_series : whether it names series that are not here, and contours lie on
        others
    is_empty : whether it has neither contours nor problems
    """

    path: str
    sop_instance: str
    digest: bytes
    rois: list[str]
    quoted: list[str]
    labels: list[str | None] = field(default_factory=list)
    images: Ints = field(default_factory=_no_rows)
    roi: Ints = field(default_factory=_no_rows)
    keys: list[str] = field(default_factory=list)
    rejects: list[str] = field(default_factory=list)
    ways: Counter[int] = field(default_factory=Counter)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    without_contours: list[int] = field(default_factory=list)
    incomplete: set[tuple[int, int]] = field(default_factory=set)
    unlocated: dict[int, str] = field(default_factory=dict)
    series: set[int] = field(default_factory=set)
    has_other_frame: bool = False
    has_other_series: bool = False
    is_empty: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the ROIs that are linked, each once."""
        return tuple(dict.fromkeys([x for x in self.labels if x is not None]))

    def drop(self, is_dropped: NDArray[np.bool_]) -> None:
        """Drop some rows."""
        kept = np.flatnonzero(~is_dropped)
        self.images, self.roi = self.images[kept], self.roi[kept]
        self.keys = [self.keys[k] for k in kept.tolist()]

    def name_contours(self, contours: Contours, indices: Iterable[int]) -> list[str]:
        """Return contours in words: "ROI 'Heart', contour 3"."""
        return [
            f"ROI {self.quoted[contours.roi[k]]}, contour {contours.number[k]}"
            for k in indices
        ]

    def reject(self, roi: int, contours: Iterable[int], reason: str) -> None:
        """List contours of an ROI as not usable."""
        numbers = sorted(contours)
        named = f"contour {numbers[0]}"
        if len(numbers) > 1:
            named = f"contours {name_ranges(numbers).replace(',', ', ')}, each"
        self.rejects.append(f"ROI {self.quoted[roi]}, {named}: {reason}")

    def reject_together(
        self, roi: int, kind: str, contours: Sequence[tuple[int, str, float]]
    ) -> None:
        """List contours of an ROI that cannot be used for one kind of reason, at once.

        contours : number, reason, and distance from the plane or NaN
        """
        if len(contours) == 1:
            ((number, reason, _),) = contours
            self.reject(roi, [number], reason)
            return
        off = [distance for _, _, distance in contours if distance == distance]
        if off:
            least, most = f"{min(off):.4g}", f"{max(off):.4g}"
            kind += f", by {least if least == most else f'{least} to {most}'} mm"
        self.reject(roi, [number for number, _, _ in contours], kind)


class SetLinker:
    """Links the contours of one structure set."""

    def __init__(
        self,
        stacks: Stacks,
        patients: Patients,
        structure_set: StructureSet,
        path: str,
        digest: bytes,
    ):
        self._stacks = stacks
        self._patients = patients
        self._set = structure_set
        rois = [roi.name for roi in structure_set.rois]
        counts = Counter(rois)
        self._result = SetLinks(
            path=path,
            sop_instance=structure_set.sop_instance,
            digest=digest,
            rois=rois,
            quoted=[
                repr(name) + (f" (number {roi.number})" if counts[name] > 1 else "")
                for name, roi in zip(rois, structure_set.rois, strict=True)
            ],
        )

    def link(self, labels: Sequence[str | None]) -> SetLinks:
        """Return the rows of the structure set, and what is wrong with it.

        labels : the class of each ROI, None for one that is not wanted
        """
        parsed, result = self._set, self._result
        result.is_empty = not len(parsed.contours.roi) and not parsed.problems
        problems = self._problems()
        result.labels = self._usable(labels, problems)
        chosen = self._rings()
        if not len(chosen) and not result.unlocated:
            return result
        owner, image = resolve(self._stacks, parsed, chosen)
        patient, problem = find_patient(self._stacks, self._patients, parsed, image)
        if problem:
            result.rejects.append(problem)
            return result
        candidates = find_candidates(self._stacks, parsed, patient)
        if not len(owner) and not any(x.series for x in candidates):
            result.rejects.append(explain_nowhere(parsed))
            return result
        result.series = {*self._stacks.series[image].tolist()}
        result.series.update(*(candidate.series for candidate in candidates))
        if not len(chosen):
            return result
        matches = match(
            self._stacks,
            self._points(chosen),
            (owner, image),
            candidates,
            parsed.contours.roi[chosen],
        )
        self._note_frames(matches, chosen)
        self._add_rows(matches, chosen, problems)
        result.has_other_series = bool(parsed.series and result.ways[BY_FRAME])
        return result

    def _points(self, chosen: Ints) -> tuple[NDArray[np.float64], Ints]:
        """Return the points of contours; of those that are damaged what can be read.

        It says on which image another ring is missing.
        """
        points, ends = self._set.points(chosen)
        is_valid = self._set.contours.is_valid[chosen]
        unread = np.flatnonzero(~is_valid & (np.diff(ends) == 0)).tolist()
        if not unread:
            return points, ends
        parts = np.split(points, ends[1:-1])
        for k in unread:
            parts[k] = self._set.readable_points(int(chosen[k]))
        ends = np.cumsum([0, *map(len, parts)])
        return np.concatenate(parts), ends

    def _problems(self) -> dict[tuple[int, int], str]:
        """Return what is wrong with ROIs and contours; reject what belongs to no ROI.

        By index of the ROI and of the contour, -1 for a whole ROI.
        """
        problems: dict[tuple[int, int], str] = {}
        for roi, contour, text, _ in self._set.problems:
            if roi < 0:
                self._result.rejects.append(text)
            elif (roi, contour) in problems:
                problems[roi, contour] += f"; {text}"
            else:
                problems[roi, contour] = text
        return problems

    def _usable(
        self,
        labels: Sequence[str | None],
        problems: Mapping[tuple[int, int], str],
    ) -> list[str | None]:
        """Return the labels, None for ROIs that cannot be used or have no contours.

        Both are noted in the result. An ROI that has no contours, or is not wanted,
        loses nothing by its problems.
        """
        result = self._result
        has_contours = self._set.have_contours()
        usable = list(labels)
        for k, label in enumerate(labels):
            if label is None:
                continue
            if not has_contours[k]:
                usable[k] = None
                result.without_contours.append(k)
            elif (k, -1) in problems:
                usable[k] = None
                result.unlocated[k] = label
                result.rejects.append(f"ROI {result.quoted[k]}: {problems[k, -1]}")
        return usable

    def _rings(self) -> Ints:
        """Return the indices of the contours to link; list those that are no rings."""
        contours, result = self._set.contours, self._result
        # The last one is for contours that belong to no ROI.
        is_wanted = [*(label is not None for label in result.labels), False]
        is_ring = np.array(is_wanted)[contours.roi]
        for kind, name in LEFT_OUT.items():
            of_kind = np.flatnonzero(is_ring & (contours.kind == kind))
            is_ring[of_kind] = False
            if len(of_kind):
                result.left_out[name] = result.name_contours(contours, of_kind.tolist())
        nothing: dict[tuple[int, str], list[int]] = defaultdict(list)
        for roi, contour, text, covers_nothing in self._set.problems:
            if covers_nothing and is_ring[contour]:
                is_ring[contour] = False
                nothing[roi, text].append(int(contours.number[contour]))
        for (roi, text), numbers in nothing.items():
            result.reject(roi, numbers, text)
        return np.flatnonzero(is_ring)

    def _note_frames(self, matches: Matches, chosen: Ints) -> None:
        """Note whether images have another frame of reference than the contours."""
        rois = self._set.contours.roi[chosen[matches.contour]]
        series = self._stacks.series[matches.image]
        for roi, number in {*zip(rois.tolist(), series.tolist(), strict=True)}:
            frame = self._set.rois[roi].frame_of_reference
            row = self._stacks.first_row(number)
            other = self._stacks.images[row].header.frame_of_reference
            if frame and other and frame != other:
                self._result.has_other_frame = True

    def _add_rows(
        self,
        matches: Matches,
        chosen: Ints,
        problems: Mapping[tuple[int, int], str],
    ) -> None:
        """Add a row for each ROI and image, unless any of its contours is unusable.

        A mask without one of its rings would be wrong, and nobody would see it.
        """
        result, contours = self._result, self._set.contours
        incomplete, unlocated = self._refuse(matches, chosen, problems)
        result.incomplete = incomplete
        result.unlocated.update({of: result.labels[of] or "" for of in unlocated})
        is_valid = contours.is_valid[chosen]
        ways = matches.ways[is_valid & (matches.ways >= 0)]
        result.ways.update(ways.tolist())
        pairs = np.flatnonzero(is_valid[matches.contour])
        image, contour = matches.image[pairs], chosen[matches.contour[pairs]]
        order = np.lexsort((contour, contours.roi[contour], image))
        image, contour = image[order], contour[order]
        # A contour may name an image twice.
        is_new = (np.diff(image, prepend=-1) != 0) | (np.diff(contour, prepend=-1) != 0)
        is_new &= ~self._are_copies(image, contour)
        image, contour, pairs = image[is_new], contour[is_new], pairs[order[is_new]]
        off, middle = matches.off_mm[pairs], matches.middle_mm[pairs]
        roi, kind = contours.roi[contour], contours.kind[contour]
        is_first = np.diff(image, prepend=-1) != 0
        is_first |= np.diff(roi, prepend=-1) != 0
        first = np.flatnonzero(is_first)
        result.images, result.roi = image[first], roi[first]
        if not len(first):
            return
        numbers = contours.number[contour].tolist()
        counts = np.bincount(contours.roi[contours.roi >= 0]).tolist()
        columns = zip(
            result.roi.tolist(),
            pairwise([*first.tolist(), len(image)]),
            np.maximum.reduceat(off, first).tolist(),
            strict=True,
        )
        result.keys = [
            make_key(self._set.rois[k].number, numbers[start:stop], counts[k], farthest)
            for k, (start, stop), farthest in columns
        ]
        reasons: dict[str, NDArray[np.bool_]] = {}
        if unlocated:
            reason = "is left out: nobody knows on which image another contour lies"
            reasons[reason] = np.array([of in unlocated for of in result.roi.tolist()])
        if incomplete:
            reason = "is left out: another contour of its image cannot be used"
            pairs_of_rows = zip(
                result.images.tolist(), result.roi.tolist(), strict=True
            )
            reasons[reason] = np.array([pair in incomplete for pair in pairs_of_rows])
        reason = (
            "lies on an image with both CLOSED_PLANAR and CLOSEDPLANAR_XOR contours of "
            "the ROI, which do not go together"
        )
        reasons[reason] = np.minimum.reduceat(kind, first) != np.maximum.reduceat(
            kind, first
        )
        spread = np.maximum.reduceat(middle, first) - np.minimum.reduceat(middle, first)
        reason = (
            "is not as far off the plane of its image as other contours of the ROI "
            "there; they are of several slices"
        )
        reasons[reason] = spread > self._stacks.spreads[result.images]
        if max(map(len, result.keys)) > MAX_TEXT_BYTES:
            reason = "is one of too many on its image"
            reasons[reason] = np.array([len(x) > MAX_TEXT_BYTES for x in result.keys])
        self._drop(reasons, roi, numbers, is_first)

    def _are_copies(self, image: Ints, contour: Ints) -> NDArray[np.bool_]:
        """Return which contours are copies of another one of their ROI and image.

        image, contour : int64 (p,), pairs, sorted by image, ROI and contour

        By the even-odd rule, two equal rings would cover nothing. They are left out,
        but in CLOSEDPLANAR_XOR, where that is meant.
        """
        contours, result = self._set.contours, self._result
        roi = contours.roi[contour]
        is_copy = np.zeros(len(contour), np.bool_)
        if not len(contour):
            return is_copy
        # Those of equal length are few; only these are compared.
        columns = [contour, self._set.text_lengths(contour), roi, image]
        order = np.lexsort(columns)
        is_like = np.all([np.diff(x[order]) == 0 for x in columns[1:]], axis=0)
        several = order[np.append(is_like, False) | np.append(False, is_like)]
        seen: dict[tuple[int, int, bytes], int] = {}
        for k in several.tolist():
            index = int(contour[k])
            if contours.kind[index] != CLOSED_PLANAR:
                continue
            digest = xxh3_128_digest(self._set.text(index))
            key = (int(image[k]), int(roi[k]), digest)
            if seen.setdefault(key, index) != index:
                is_copy[k] = True
        copies = dict.fromkeys(contour[is_copy].tolist())
        if copies:
            result.left_out[COPY] = result.name_contours(contours, copies)
        return is_copy

    def _drop(
        self,
        reasons: Mapping[str, NDArray[np.bool_]],
        roi: Ints,
        numbers: Sequence[int],
        is_first: NDArray[np.bool_],
    ) -> None:
        """Drop rows for some reasons, and reject their contours.

        reasons  : bool (r,), which rows each is for
        roi, numbers, is_first : of their contours: ROI, number, and whether it is the
            first one of a row
        """
        result = self._result
        row = np.cumsum(is_first) - 1
        is_dropped = np.zeros(len(result.keys), np.bool_)
        for reason, is_so in reasons.items():
            dropped = np.flatnonzero((is_so & ~is_dropped)[row])
            is_dropped |= is_so
            by_roi: dict[int, set[int]] = defaultdict(set)
            for k in dropped.tolist():
                by_roi[int(roi[k])].add(numbers[k])
            for of, dropped_numbers in by_roi.items():
                result.reject(of, dropped_numbers, reason)
        if is_dropped.any():
            images, rois = result.images[is_dropped], result.roi[is_dropped]
            result.incomplete.update(zip(images.tolist(), rois.tolist(), strict=True))
            result.drop(is_dropped)

    def _refuse(
        self,
        matches: Matches,
        chosen: Ints,
        problems: Mapping[tuple[int, int], str],
    ) -> tuple[set[tuple[int, int]], set[int]]:
        """Reject the contours that are damaged or belong to no image.

        Returns `SetLinks.incomplete`, and the ROIs of `SetLinks.unlocated`.
        """
        contours, result = self._set.contours, self._result
        roi, number = contours.roi[chosen].tolist(), contours.number[chosen].tolist()
        is_valid = contours.is_valid[chosen]
        refused: dict[tuple[int, str], list[tuple[int, str, float]]] = defaultdict(list)
        for k in np.flatnonzero(~is_valid).tolist():
            text = problems[roi[k], int(chosen[k])]
            refused[roi[k], text].append((number[k], text, np.nan))
        incomplete: set[tuple[int, int]] = set()
        unlocated: set[int] = set()
        for k, kind, text, off, images in matches.unmatched:
            incomplete.update((image, roi[k]) for image in images)
            if is_valid[k]:
                refused[roi[k], kind].append((number[k], text, off))
            elif not images and np.isnan(off):
                unlocated.add(roi[k])
        for pair in np.flatnonzero(~is_valid[matches.contour]).tolist():
            incomplete.add((int(matches.image[pair]), roi[matches.contour[pair]]))
        counts: Counter[str] = Counter()
        for (_, kind), contours_of in refused.items():
            counts[kind] += len(contours_of)
        for (of, kind), contours_of in refused.items():
            if counts[kind] > CONTOURS_LISTED:
                result.reject_together(of, kind, contours_of)
                continue
            for n, reason, _ in contours_of:
                result.reject(of, [n], reason)
        return incomplete, unlocated
