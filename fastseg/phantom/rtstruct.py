"""A synthetic CT study of the chest, with a structure set for each patient.

Each patient has an oblique series of slices, with rectangular pixels and images, and
one structure set, as planning systems write them: names of ROIs that differ among
patients, holes and islands as further rings, a hole that a keyhole opens to the
outside, rings of CLOSEDPLANAR_XOR, an isocentre, an ROI without contours, and contours
that name their image or leave it to be found by its plane.

Slices are counted from the feet's end of the series.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ImplicitVRLittleEndian,
    RTStructureSetStorage,
)

from fastseg.geometry import Plane
from fastseg.phantom.chest import Chest
from fastseg.phantom.drawing import (
    Array,
    make_uid,
    new_file,
    normal,
    set_pixels,
    uniform,
)
from fastseg.progress import Progress

# Height and width of the field of view.
FIELD_MM = (260.0, 340.0)
# Distances between slices; patients have them in turn.
SLICE_DISTANCES_MM = (3.0, 4.0, 5.0)
# Largest angle by which a series is turned about each axis.
LARGEST_TILT = math.radians(25)
# The first vertex of a ring lies to the back of its centre.
BACK = math.pi / 2
# Distance between vertices along a ring, and the digits after the point of their
# coordinates: those of common planning systems.
VERTEX_MM = 4.0
VERTEX_DIGITS = 2
# Standard deviation of the noise, in Hounsfield units.
NOISE = 16.0
RESCALE_INTERCEPT = -1024
# The retired class by which structure sets name their study.
DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"

Form = Literal["rings", "keyhole", "xor", "point", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """A structure of the chest, and what a structure set has of it.

    names : of its ROI; patients have them in turn
    kind  : RTROIInterpretedType
    form  : how its rings are written: each as a contour, the second one joined to the
        first by a keyhole, each as a contour of CLOSEDPLANAR_XOR, a point, or nothing
    """

    names: tuple[str, str, str]
    kind: str
    colour: list[int]
    form: Form = "rings"


STRUCTURES = {
    "body": Structure(
        names=("BODY", "External", "Body"), kind="EXTERNAL", colour=[200, 200, 200]
    ),
    "lung_left": Structure(
        names=("Lung_L", "LungLeft", "Lung L"), kind="ORGAN", colour=[0, 160, 255]
    ),
    "lung_right": Structure(
        names=("Lung_R", "LungRight", "Lung R"), kind="ORGAN", colour=[0, 210, 160]
    ),
    "heart": Structure(
        names=("Heart", "HEART", "heart_v2"), kind="ORGAN", colour=[255, 60, 60]
    ),
    "oesophagus": Structure(
        names=("Esophagus", "Oesophagus", "esophagus"),
        kind="ORGAN",
        colour=[255, 160, 0],
        form="xor",
    ),
    "vertebra": Structure(
        names=("Vertebra", "VERTEBRA", "vertebra_1"),
        kind="ORGAN",
        colour=[255, 240, 120],
        form="keyhole",
    ),
    "cord": Structure(
        names=("SpinalCord", "Cord", "Spinal Cord"), kind="ORGAN", colour=[255, 255, 0]
    ),
    "tumour": Structure(names=("GTV", "GTV1", "gtv"), kind="GTV", colour=[255, 0, 255]),
    "target": Structure(
        names=("PTV", "PTV1", "ptv"), kind="PTV", colour=[160, 0, 255], form="none"
    ),
    "isocentre": Structure(
        names=("ISO", "Isocenter", "iso"),
        kind="ISOCENTER",
        colour=[255, 255, 255],
        form="point",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Where the slices of a patient lie.

    shape      : (rows, columns)
    distance   : mm between slices
    directions : (3, 3), unit vectors along rows, along columns and from slice to slice
    middle     : (3,), mm, LPS: the centre of the series
    """

    seed: int
    patient: int
    slices: int
    shape: tuple[int, int]
    distance: float
    directions: Array
    middle: Array

    @classmethod
    def draw(
        cls, seed: int, patient: int, slices: int, shape: tuple[int, int]
    ) -> "Series":
        """Return the series of a patient, which follows from the arguments."""
        u = uniform((seed, patient, 0, 3), 6)
        directions = np.eye(3)
        for axis, part in enumerate(u[:3].tolist()):
            # Away from 0, so that no series is upright.
            angle = LARGEST_TILT * (0.2 + 0.8 * abs(2 * part - 1))
            angle = math.copysign(angle, part - 0.5)
            turn = np.eye(3)
            first, second = (axis + 1) % 3, (axis + 2) % 3
            turn[first, first] = turn[second, second] = math.cos(angle)
            turn[first, second] = -math.sin(angle)
            turn[second, first] = math.sin(angle)
            directions = directions @ turn
        return cls(
            seed=seed,
            patient=patient,
            slices=slices,
            shape=shape,
            distance=SLICE_DISTANCES_MM[patient % len(SLICE_DISTANCES_MM)],
            directions=directions,
            middle=(u[3:] - 0.5) * (60, 60, 800),
        )

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """Distance between rows and between columns."""
        rows, columns = self.shape
        return round(FIELD_MM[0] / rows, 4), round(FIELD_MM[1] / columns, 4)

    def chest(self, index: int) -> Chest:
        """Return what a slice shows; slice 0 is at the feet's end."""
        return Chest.draw(self.seed, self.patient, (index + 0.5) / self.slices)

    def plane(self, index: int) -> Plane:
        """Return the plane of a slice."""
        along = (index - (self.slices - 1) / 2) * self.distance
        x, y = self.mm_to_pixel(np.zeros((1, 2)))[0]
        height, width = self.spacing_mm
        offset = np.array([-x * width, -y * height, along])
        return Plane(
            origin=self.middle + offset @ self.directions,
            row_direction=self.directions[0],
            column_direction=self.directions[1],
            spacing_mm=self.spacing_mm,
        )

    def mm_to_pixel(self, points: Array) -> Array:
        """Return where points of an image lie among its pixels.

        points : float64 (n, 2), (x, y) in mm from the image's centre

        Returns float64 (n, 2), (x, y) in pixels, pixel centres at integers.
        """
        (rows, columns), (height, width) = self.shape, self.spacing_mm
        pixels: Array = points / (width, height) + ((columns - 1) / 2, (rows - 1) / 2)
        return pixels

    def uid(self, *parts: object) -> UID:
        """Return a UID of this patient; a slice's index names an image."""
        return make_uid("rtstruct", self.seed, self.patient, *parts)

    def number(self, index: int) -> int:
        """Return the InstanceNumber of a slice: they are counted from the head."""
        return self.slices - index


def write_study(
    root: Path,
    shapes: list[tuple[int, int]],
    *,
    patients: int,
    slices: int,
    seed: int,
    progress: Progress,
) -> None:
    """Write the images and structure sets of all patients into an empty folder."""
    with progress("draw", patients * slices) as advance:
        for patient in range(patients):
            series = Series.draw(seed, patient, slices, shapes[patient % len(shapes)])
            folder = root / patient_id(patient)
            (folder / "CT").mkdir(parents=True)
            for index in range(slices):
                image = _image(series, index)
                _save(image, folder / "CT" / f"{series.number(index)}.dcm")
                advance()
            _save(_structure_set(series), folder / "RS.dcm")


def patient_id(patient: int) -> str:
    """Return the PatientID, which differs from those of the cine study."""
    return f"PHANTOMCT{patient + 1:04d}"


def _image(series: Series, index: int) -> Dataset:
    """Return a CT image object (PS3.3 A.3) of a slice."""
    rows, columns = series.shape
    height, width = series.spacing_mm
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    middle_x, middle_y = series.mm_to_pixel(np.zeros((1, 2)))[0]
    x_mm, y_mm = (x - middle_x) * width, (y - middle_y) * height
    image = series.chest(index).hounsfield(x_mm, y_mm, math.sqrt(height * width))
    key = (series.seed, series.patient, index + 1, 0)
    image += NOISE * normal(key, rows * columns)[0].reshape(rows, columns)
    stored = np.rint(np.clip(image - RESCALE_INTERCEPT, 0, 4095)).astype("<i2")

    ds = new_file(CTImageStorage, series.uid("image", index))
    _describe(ds, series, "CT", 1)
    plane = series.plane(index)
    ds.ImageType = ["DERIVED", "SECONDARY", "MPR"]
    ds.ContentDate = "20000101"
    ds.ContentTime = "120000"
    ds.BodyPartExamined = "CHEST"
    ds.KVP = "120"
    ds.SliceThickness = series.distance
    ds.PatientPosition = "HFS"
    ds.AcquisitionNumber = 1
    ds.InstanceNumber = series.number(index)
    ds.ImagePositionPatient = [round(mm, 6) for mm in plane.origin.tolist()]
    cosines = [*plane.row_direction.tolist(), *plane.column_direction.tolist()]
    ds.ImageOrientationPatient = [round(cosine, 10) for cosine in cosines]
    ds.PixelSpacing = list(series.spacing_mm)
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = RESCALE_INTERCEPT, 1, "HU"
    ds.WindowCenter, ds.WindowWidth = 40, 400
    set_pixels(ds, stored, 16)
    return ds


def _describe(ds: Dataset, series: Series, modality: str, number: int) -> None:
    """Set the elements of the patient, study and series."""
    ds.Modality = modality
    ds.PatientName = f"Phantom^CT{series.patient + 1}"
    ds.PatientID = patient_id(series.patient)
    ds.StudyInstanceUID = series.uid("study")
    ds.SeriesInstanceUID = series.uid("series", modality)
    ds.FrameOfReferenceUID = series.uid("frame of reference")
    ds.SeriesNumber = number


def _structure_set(series: Series) -> Dataset:
    """Return an RT structure set (PS3.3 A.19) of a patient's series."""
    ds = new_file(
        RTStructureSetStorage, series.uid("structure set"), ImplicitVRLittleEndian
    )
    _describe(ds, series, "RTSTRUCT", 2)
    ds.OperatorsName = ""
    ds.InstanceNumber = 1
    ds.StructureSetLabel = "PHANTOM"
    ds.StructureSetDate = "20000101"
    ds.StructureSetTime = "120000"
    ds.ApprovalStatus = "UNAPPROVED"
    of_series = _item(
        SeriesInstanceUID=series.uid("series", "CT"),
        ContourImageSequence=[_reference(series, k) for k in range(series.slices)],
    )
    of_study = _item(
        ReferencedSOPClassUID=DETACHED_STUDY,
        ReferencedSOPInstanceUID=series.uid("study"),
        RTReferencedSeriesSequence=[of_series],
    )
    ds.ReferencedFrameOfReferenceSequence = [
        _item(
            FrameOfReferenceUID=ds.FrameOfReferenceUID,
            RTReferencedStudySequence=[of_study],
        )
    ]
    ds.StructureSetROISequence = []
    ds.ROIContourSequence = []
    ds.RTROIObservationsSequence = []
    for number, (name, structure) in enumerate(STRUCTURES.items(), 1):
        ds.StructureSetROISequence.append(
            _item(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=ds.FrameOfReferenceUID,
                ROIName=structure.names[series.patient % len(structure.names)],
                ROIGenerationAlgorithm="MANUAL",
            )
        )
        item = _item(ROIDisplayColor=structure.colour, ReferencedROINumber=number)
        contours = [
            contour
            for index in range(series.slices)
            for contour in _contours(series, index, name)
        ]
        if contours:
            item.ContourSequence = contours
        ds.ROIContourSequence.append(item)
        ds.RTROIObservationsSequence.append(
            _item(
                ObservationNumber=number,
                ReferencedROINumber=number,
                RTROIInterpretedType=structure.kind,
                ROIInterpreter="",
            )
        )
    return ds


def _contours(series: Series, index: int, name: str) -> list[Dataset]:
    """Return the contours of a structure on a slice."""
    form = STRUCTURES[name].form
    rings = series.chest(index).structures().get(name, ())
    # Keyholes join the first vertices, where a vertebra is thinnest.
    outlines = [
        ring.vertices(max(12, round(2 * math.pi * ring.radius / VERTEX_MM)), BACK)
        for ring in rings
    ]
    geometric_type = "CLOSED_PLANAR"
    if form == "keyhole":
        # Around the structure, in to the hole, around it the other way, and back out.
        outer, hole = outlines
        outlines = [np.concatenate([outer, outer[:1], hole[:1], hole[::-1]])]
    elif form == "xor":
        geometric_type = "CLOSEDPLANAR_XOR"
    elif form == "point":
        geometric_type = "POINT"
        outlines = [np.zeros((1, 2))] if index == series.slices // 2 else []
    contours = []
    for outline in outlines:
        points = series.plane(index).pixel_to_patient(series.mm_to_pixel(outline))
        contour = _item(
            ContourGeometricType=geometric_type,
            NumberOfContourPoints=len(points),
            ContourData=[f"{mm:.{VERTEX_DIGITS}f}" for mm in points.ravel().tolist()],
        )
        # Every third patient's images are to be found by the contours' planes.
        if series.patient % 3 != 2:
            contour.ContourImageSequence = [_reference(series, index)]
        contours.append(contour)
    return contours


def _reference(series: Series, index: int) -> Dataset:
    """Return an item that references the image of a slice."""
    return _item(
        ReferencedSOPClassUID=CTImageStorage,
        ReferencedSOPInstanceUID=series.uid("image", index),
    )


def _item(**elements: object) -> Dataset:
    """Return an item of a sequence with these elements."""
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def _save(ds: Dataset, path: Path) -> None:
    ds.save_as(path, enforce_file_format=True, overwrite=False)
