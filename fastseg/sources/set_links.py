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
    StructureSet,
)
from fastseg.reprs import listed
from fastseg.sources.rtstruct import make_key, name_ranges
from fastseg.sources.stacks import (
    BY_FRAME,
    BY_SERIES,
    NOWHERE,
    Candidates,
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
    rois    : names of its ROIs
    names   : the same, as messages call them
    labels  : the classes of its ROIs, None for those that are not linked
    images, roi : int64 (r,), image and ROI of each row
    keys    : `contour_key` of each row
    rejects : what cannot be used of it, and why
    ways    : the number of contours that were matched in each way
    left_out : ROI and number of the contours that are no rings, by their kind
    without_contours : ROIs
    lacking : images and ROIs whose contours there cannot be used, or not all of them
    lost    : classes of the ROIs that have contours of which nobody knows on which
        images they lie
    series  : those on which contours may lie
    has_other_frame : whether it names images of another frame of reference
    has_other_series : whether it names series that are not here, and contours lie on
        others
    is_empty : whether it has neither contours nor problems
    """

    path: str
    sop_instance: str
    rois: list[str]
    names: list[str]
    labels: list[str | None] = field(default_factory=list)
    images: Ints = field(default_factory=_no_rows)
    roi: Ints = field(default_factory=_no_rows)
    keys: list[str] = field(default_factory=list)
    rejects: list[str] = field(default_factory=list)
    ways: Counter[int] = field(default_factory=Counter)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    without_contours: list[int] = field(default_factory=list)
    lacking: set[tuple[int, int]] = field(default_factory=set)
    lost: dict[int, str] = field(default_factory=dict)
    series: set[int] = field(default_factory=set)
    has_other_frame: bool = False
    has_other_series: bool = False
    is_empty: bool = False

    def drop(self, is_dropped: NDArray[np.bool_]) -> None:
        """Drop some rows."""
        kept = np.flatnonzero(~is_dropped)
        self.images, self.roi = self.images[kept], self.roi[kept]
        self.keys = [self.keys[k] for k in kept.tolist()]

    def reject(self, roi: int, contours: Iterable[int], reason: str) -> None:
        """List contours of an ROI as not usable."""
        numbers = sorted(contours)
        named = f"contour {numbers[0]}"
        if len(numbers) > 1:
            named = f"contours {name_ranges(numbers).replace(',', ', ')}, each"
        self.rejects.append(f"ROI {self.names[roi]}, {named}: {reason}")

    def refuse(
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
    ):
        self._stacks = stacks
        self._patients = patients
        self._set = structure_set
        rois = [roi.name for roi in structure_set.rois]
        counts = Counter(rois)
        self._result = SetLinks(
            path=path,
            sop_instance=structure_set.sop_instance,
            rois=rois,
            names=[
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
        if not len(chosen) and not result.lost:
            return result
        owner, image = resolve(self._stacks, parsed, chosen)
        patient, problem = self._patient(image)
        if problem:
            result.rejects.append(problem)
            return result
        candidates = [
            self._candidates(roi.frame_of_reference, patient) for roi in parsed.rois
        ]
        if not len(owner) and not any(x.series for x in candidates):
            result.rejects.append(self._nowhere())
            return result
        result.series = {*self._stacks.series[image].tolist()}
        result.series.update(*(some.series for some in candidates))
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
        """Return the labels, None for ROIs that are lost or have no contours.

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
                result.lost[k] = label
                result.rejects.append(f"ROI {result.names[k]}: {problems[k, -1]}")
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
                result.left_out[name] = [
                    f"ROI {result.names[contours.roi[k]]}, contour {contours.number[k]}"
                    for k in of_kind.tolist()
                ]
        nothing: dict[tuple[int, str], list[int]] = defaultdict(list)
        for roi, contour, text, covers_nothing in self._set.problems:
            if covers_nothing and is_ring[contour]:
                is_ring[contour] = False
                nothing[roi, text].append(int(contours.number[contour]))
        for (roi, text), numbers in nothing.items():
            result.reject(roi, numbers, text)
        return np.flatnonzero(is_ring)

    def _patient(self, images: Ints) -> tuple[str, str]:
        """Return the patient of the structure set, and why it cannot be linked.

        images : those that it names

        The patient is "" if nobody knows it. The reason quotes no ID.
        """
        parsed, stacks = self._set, self._stacks
        own = parsed.patient_id or self._patients.named("", parsed.study)
        if not parsed.patient_id and own not in stacks.patients_known:
            own = ""
        series = {*stacks.series[images].tolist()}
        theirs = {stacks.patient_of(k) for k in series}
        for named in parsed.series:
            some = {stacks.patient_of(k) for k in stacks.in_series(named.uid)}
            theirs |= {own} if own in some else some
        if not own and len(theirs) == 1:
            (own,) = theirs
        # Images that have lost their PatientID are those of their study.
        is_lost = own not in stacks.patients_known or theirs == {parsed.study}
        if is_lost and parsed.study in stacks.patients_known:
            own = parsed.study
        if len(theirs) > 1:
            return own, "names images of several patients; it is damaged, or mixed up"
        if theirs - {own}:
            return own, (
                "is of another patient than the images that it names; correct "
                "PatientID, or remove the files that do not belong together"
            )
        return own, ""

    def _candidates(self, frame: str, patient: str) -> Candidates:
        """Return where contours of an ROI may lie whose references are not resolved.

        frame : frame of reference of the ROI
        """
        stacks, parsed = self._stacks, self._set
        named: dict[int, set[str]] = defaultdict(set)
        for series in parsed.series:
            for number in stacks.in_series(series.uid):
                if stacks.patient_of(number) == patient:
                    named[number].add(series.frame_of_reference)
        if named:
            # What tells several of them apart: the items that name them, or else their
            # images.
            ours = [k for k, frames in named.items() if frame and frame in frames]
            if len(named) > 1 and len(ours) in (0, len(named)):
                in_frame = stacks.in_frame(frame, patient)
                ours = [k for k in named if k in in_frame]
            return Candidates(BY_SERIES, tuple(ours or named))
        frame = frame or parsed.frame_of_reference
        found = stacks.in_frame(frame, patient) if frame else []
        if len({stacks.patient_of(k) for k in found}) > 1:
            found = []
        return Candidates(BY_FRAME, tuple(found), frame)

    def _nowhere(self) -> str:
        """Return why no contour can be matched."""
        uids = [series.uid for series in self._set.series]
        named = f" (it names {listed(uids)})" if uids else ""
        return f"{NOWHERE}{named}; add the images that it was drawn on"

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
        lacking, lost = self._refuse(matches, chosen, problems)
        result.lacking = lacking
        result.lost.update({of: result.labels[of] or "" for of in lost})
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
        if lost:
            reason = "is left out: nobody knows on which image another contour lies"
            reasons[reason] = np.array([of in lost for of in result.roi.tolist()])
        if lacking:
            reason = "is left out: another contour of its image cannot be used"
            pairs_of_rows = zip(
                result.images.tolist(), result.roi.tolist(), strict=True
            )
            reasons[reason] = np.array([pair in lacking for pair in pairs_of_rows])
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
            result.left_out[COPY] = [
                f"ROI {result.names[contours.roi[k]]}, contour {contours.number[k]}"
                for k in copies
            ]
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
            for of, some in by_roi.items():
                result.reject(of, some, reason)
        if is_dropped.any():
            images, rois = result.images[is_dropped], result.roi[is_dropped]
            result.lacking.update(zip(images.tolist(), rois.tolist(), strict=True))
            result.drop(is_dropped)

    def _refuse(
        self,
        matches: Matches,
        chosen: Ints,
        problems: Mapping[tuple[int, int], str],
    ) -> tuple[set[tuple[int, int]], set[int]]:
        """Reject the contours that are damaged or belong to no image.

        Returns the images and ROIs that lack a contour, and the ROIs of which nobody
        knows which images do.
        """
        contours, result = self._set.contours, self._result
        roi, number = contours.roi[chosen].tolist(), contours.number[chosen].tolist()
        is_valid = contours.is_valid[chosen]
        refused: dict[tuple[int, str], list[tuple[int, str, float]]] = defaultdict(list)
        for k in np.flatnonzero(~is_valid).tolist():
            text = problems[roi[k], int(chosen[k])]
            refused[roi[k], text].append((number[k], text, np.nan))
        lacking: set[tuple[int, int]] = set()
        lost: set[int] = set()
        for k, kind, text, off, images in matches.unmatched:
            lacking.update((image, roi[k]) for image in images)
            if is_valid[k]:
                refused[roi[k], kind].append((number[k], text, off))
            elif not images and np.isnan(off):
                lost.add(roi[k])
        for pair in np.flatnonzero(~is_valid[matches.contour]).tolist():
            lacking.add((int(matches.image[pair]), roi[matches.contour[pair]]))
        counts: Counter[str] = Counter()
        for (_, kind), some in refused.items():
            counts[kind] += len(some)
        for (of, kind), some in refused.items():
            if counts[kind] > CONTOURS_LISTED:
                result.refuse(of, kind, some)
                continue
            for n, reason, _ in some:
                result.reject(of, [n], reason)
        return lacking, lost
