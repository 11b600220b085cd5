"""The patient of a structure set, and the series on which its contours may lie."""

from collections import defaultdict

from fastseg.dicom.structure_set import StructureSet
from fastseg.reprs import listed
from fastseg.sources.stacks import (
    BY_FRAME,
    BY_SERIES,
    NOWHERE,
    Candidates,
    Ints,
    Stacks,
)
from fastseg.sources.tree import Patients


def find_patient(
    stacks: Stacks, patients: Patients, structure_set: StructureSet, images: Ints
) -> tuple[str, str]:
    """Return the patient of a structure set, and why it cannot be linked.

    images : those that it names

    The patient is "" if nobody knows it. The reason quotes no ID.
    """
    study = structure_set.study
    own = structure_set.patient_id or patients.named("", study)
    if not structure_set.patient_id and own not in stacks.patients_known:
        own = ""
    theirs = {stacks.patient_of(k) for k in {*stacks.series[images].tolist()}}
    for series in structure_set.series:
        named = {stacks.patient_of(k) for k in stacks.in_series(series.uid)}
        theirs |= {own} if own in named else named
    if not own and len(theirs) == 1:
        (own,) = theirs
    # Images that have lost their PatientID are those of their study.
    is_lost = own not in stacks.patients_known or theirs == {study}
    if is_lost and study in stacks.patients_known:
        own = study
    if len(theirs) > 1:
        return own, "names images of several patients; it is damaged, or mixed up"
    if theirs - {own}:
        return own, (
            "is of another patient than the images that it names; correct "
            "PatientID, or remove the files that do not belong together"
        )
    return own, ""


def find_candidates(
    stacks: Stacks, structure_set: StructureSet, patient: str
) -> list[Candidates]:
    """Return where contours of each ROI may lie whose references are not resolved."""
    named: dict[int, set[str]] = defaultdict(set)
    for series in structure_set.series:
        for number in stacks.in_series(series.uid):
            if stacks.patient_of(number) == patient:
                named[number].add(series.frame_of_reference)
    frames = [roi.frame_of_reference for roi in structure_set.rois]
    if named:
        return [_of_named(stacks, named, frame, patient) for frame in frames]
    candidates = []
    for own in frames:
        frame = own or structure_set.frame_of_reference
        found = stacks.in_frame(frame, patient) if frame else []
        if len({stacks.patient_of(k) for k in found}) > 1:
            found = []
        candidates.append(Candidates(BY_FRAME, tuple(found), frame))
    return candidates


def _of_named(
    stacks: Stacks, named: dict[int, set[str]], frame: str, patient: str
) -> Candidates:
    """Return which of the series that a structure set names are those of an ROI.

    named : their frames of reference as the structure set says, by number
    frame : of the ROI
    """
    # What tells several of them apart: the items that name them, or else their images.
    ours = [k for k, frames in named.items() if frame and frame in frames]
    if len(named) > 1 and len(ours) in (0, len(named)):
        in_frame = stacks.in_frame(frame, patient)
        ours = [k for k in named if k in in_frame]
    return Candidates(BY_SERIES, tuple(ours or named))


def explain_nowhere(structure_set: StructureSet) -> str:
    """Return why no contour of a structure set can be matched."""
    uids = [series.uid for series in structure_set.series]
    named = f" (it names {listed(uids)})" if uids else ""
    return f"{NOWHERE}{named}; add the images that it was drawn on"
