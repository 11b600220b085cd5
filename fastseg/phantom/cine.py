"""A synthetic cine-MR study of the heart in the layout of the Sunnybrook challenge.

Each patient has a stack of short-axis slices over one heartbeat: blood pool, muscle
ring, papillary muscles, right ventricle, chest, Rician noise and the smooth bias
field of a receive coil. As in the Sunnybrook data, end diastole and end systole have
an inner contour, and end diastole has an outer one and two of papillary muscles as
well.

Every image is a function of (seed, patient, slice, phase): the same call gives the same
files, and an image does not depend on the number of patients.
"""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from fastseg.phantom.drawing import (
    Array,
    Ring,
    fill_layers,
    make_uid,
    new_file,
    normal,
    set_pixels,
    uniform,
)
from fastseg.progress import Progress

# Width of the field of view; pixels are square.
FIELD_MM = 250.0
SLICE_MM = 10.0
HEARTBEAT_MS = 850.0
# Signal of each tissue, in stored values, and the standard deviation of the noise
# in both channels of the complex signal.
AIR, CHEST, LUNG, MUSCLE, BLOOD, FAT = 15.0, 260.0, 60.0, 190.0, 520.0, 640.0
NOISE = 14.0


def write_study(
    root: Path,
    shapes: list[tuple[int, int]],
    *,
    patients: int,
    slices: int,
    phases: int,
    seed: int,
    progress: Progress,
) -> None:
    """Write the images and contours of all patients into an empty folder."""
    with (root / "link.csv").open("x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["patient_id", "original_id"])
        writer.writerows([ids(patient) for patient in range(patients)])
    images = [
        (patient, slice_index, phase)
        for patient in range(patients)
        for slice_index in range(slices)
        for phase in range(phases)
    ]
    with progress("draw", len(images)) as advance:
        for patient, slice_index, phase in images:
            level = (slice_index + 0.5) / slices
            heart = _Heart.draw(seed, patient, level, phase, phases)
            _write_image(
                root,
                heart,
                shapes[patient % len(shapes)],
                number=slice_index * phases + phase + 1,
                key=(seed, patient, slice_index, phase),
                phase_ms=phase * HEARTBEAT_MS / phases,
            )
            advance()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heart:
    """One slice of a heart in one phase, in millimetres from the image's centre."""

    patient: int
    level: float  # from 0 at the base to 1 at the apex
    contoured: str  # "ED", "ES" or ""
    inner: Ring
    outer: Ring
    papillary: tuple[Ring, Ring]
    right: Ring

    @classmethod
    def draw(
        cls, seed: int, patient: int, level: float, phase: int, phases: int
    ) -> "_Heart":
        """Return a slice of a patient's heart; all rings follow from the arguments."""
        u = uniform((seed, patient, 0, 0), 20)  # the patient's anatomy
        systole = round(phases * 0.4)
        # Contraction: 0 at end diastole, 1 at end systole.
        if phase <= systole:
            squeeze = math.sin(math.pi / 2 * phase / systole) ** 2
        else:
            rest = (phase - systole) / (phases - systole)
            squeeze = math.cos(math.pi / 2 * rest) ** 2
        taper = math.sqrt(1 - (0.75 * level) ** 2)
        x = 12 * (u[0] - 0.5)
        y = 12 * (u[1] - 0.5)
        radius = (27 + 5 * u[2]) * taper * (1 - (0.28 + 0.1 * u[3]) * squeeze)
        wall = (8 + 3 * u[4]) * (1 + 0.35 * squeeze)
        waves = tuple(
            (size * (0.4 + u[5 + k]), 2 * math.pi * u[8 + k])
            for k, size in enumerate((0.04, 0.025, 0.015))
        )
        inner = Ring(x=x, y=y, radius=radius, waves=waves)
        # The same waves, damped, so that the outer ring contains the inner one.
        outer = Ring(
            x=x,
            y=y,
            radius=radius + wall,
            waves=tuple((a * radius / (radius + wall), p) for a, p in waves),
        )
        muscles = []
        for k in range(2):
            angle = math.pi * (0.3 + 0.1 * u[11 + k]) + k * math.pi * 0.55
            muscles.append(
                Ring(
                    x=x + 0.62 * radius * math.cos(angle),
                    y=y + 0.62 * radius * math.sin(angle),
                    radius=(0.18 + 0.04 * u[13 + k]) * radius,
                    waves=((0.12, 2 * math.pi * u[15 + k]),),
                )
            )
        right = Ring(
            x=x - 1.25 * (radius + wall),
            y=y - 4,
            radius=(24 + 4 * u[17]) * taper * (1 - 0.2 * squeeze),
            waves=((0.16, 0.4), (0.05, 2 * math.pi * u[18])),
        )
        contoured = {0: "ED", systole: "ES"}.get(phase, "")
        return cls(
            patient=patient,
            level=level,
            contoured=contoured,
            inner=inner,
            outer=outer,
            papillary=(muscles[0], muscles[1]),
            right=right,
        )

    def signal(self, x: Array, y: Array, pixel: float) -> Array:
        """Return the noiseless signal at points in millimetres.

        pixel : side of a pixel in millimetres

        Where a boundary crosses a pixel, its signal lies between those of both tissues.
        """

        body = Ring(x=0, y=8, radius=108, waves=((0.12, 0.0), (0.02, 1.0)))
        skin = Ring(x=0, y=8, radius=98, waves=((0.13, 0.0), (0.02, 1.0)))
        lungs = (
            Ring(x=-50, y=20, radius=32, waves=((0.2, math.pi),)),
            Ring(x=60, y=12, radius=28, waves=((0.2, math.pi),)),
        )
        spine = Ring(x=4, y=72, radius=14, waves=((0.1, 0.3),))
        layers = [(body, FAT), (skin, CHEST), *((lung, LUNG) for lung in lungs)]
        layers += [(spine, 0.8 * FAT), (self.right, 0.95 * BLOOD)]
        layers += [(self.outer, MUSCLE), (self.inner, BLOOD)]
        layers += [(muscle, MUSCLE) for muscle in self.papillary]
        signal = np.full_like(x, AIR)
        fill_layers(signal, layers, x, y, pixel)
        return signal

    def contours(self) -> dict[str, Ring]:
        """Return the rings that an expert draws in this phase, by class."""
        if not self.contoured:
            return {}
        rings = {"icontour": self.inner}
        if self.contoured == "ED":
            rings["ocontour"] = self.outer
            rings["p1contour"], rings["p2contour"] = self.papillary
        return rings


def _write_image(
    root: Path,
    heart: _Heart,
    shape: tuple[int, int],
    *,
    number: int,
    key: tuple[int, int, int, int],
    phase_ms: float,
) -> None:
    """Write one image, with its contour files if the phase is contoured.

    number   : InstanceNumber
    key      : (seed, patient, slice, phase)
    phase_ms : time after end diastole
    """
    rows, columns = shape
    image_id, contour_id = ids(heart.patient)
    pixel = FIELD_MM / columns
    centre_x, centre_y = (columns - 1) / 2, (rows - 1) / 2
    y, x = np.mgrid[:rows, :columns]
    x_mm, y_mm = (x - centre_x) * pixel, (y - centre_y) * pixel
    u = uniform((key[0], heart.patient, 0, 1), 4)  # the patient's coil
    bias = np.exp(
        0.35 * (u[0] - 0.5) * (x_mm / 100)
        - (0.15 + 0.3 * u[1]) * (y_mm / 160)
        - 0.18 * ((x_mm - 30 * u[2]) ** 2 + (y_mm - 30 * u[3]) ** 2) / 160**2
    )
    seed, patient, slice_index, phase = key
    noise = normal((seed, patient, slice_index + 1, phase), rows * columns)
    real, imaginary = noise.reshape(2, rows, columns)
    signal = bias * heart.signal(x_mm, y_mm, pixel) + NOISE * real
    magnitude = np.hypot(signal, NOISE * imaginary)
    stored = np.rint(np.clip(magnitude, 0, 4095)).astype("<u2")
    folder = root / "dicoms" / image_id
    folder.mkdir(parents=True, exist_ok=True)
    dataset = _dataset(stored, heart, number, key, pixel, phase_ms)
    path = folder / f"{number}.dcm"
    dataset.save_as(path, enforce_file_format=True, overwrite=False)
    for label, ring in heart.contours().items():
        folder = root / "contourfiles" / contour_id / f"{label[:-7]}-contours"
        folder.mkdir(parents=True, exist_ok=True)
        # About one vertex a pixel, as in contours drawn by hand.
        count = max(12, round(2 * math.pi * ring.radius / pixel))
        points = ring.vertices(count) / pixel + (centre_x, centre_y)
        text = "".join(f"{px:.2f} {py:.2f}\n" for px, py in points.tolist())
        path = folder / f"IM-0001-{number:04d}-{label}-manual.txt"
        with path.open("x", encoding="ascii", newline="\n") as file:
            file.write(text)


def _dataset(
    stored: NDArray[np.uint16],
    heart: _Heart,
    number: int,
    key: tuple[int, int, int, int],
    pixel: float,
    phase_ms: float,
) -> Dataset:
    """Return an MR image object (PS3.3 A.4) of one frame."""
    seed, patient = key[:2]
    ds = new_file(MRImageStorage, make_uid("image", *key))
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.ContentDate = "20000101"
    ds.ContentTime = "120000"
    ds.Modality = "MR"
    ds.PatientName = f"Phantom^{patient + 1}"
    ds.PatientID = ids(patient)[0]
    ds.BodyPartExamined = "HEART"
    ds.ScanningSequence = "GR"
    ds.SequenceVariant = "SS"
    ds.ScanOptions = "CG"
    ds.MRAcquisitionType = "2D"
    ds.SliceThickness = SLICE_MM
    ds.SpacingBetweenSlices = SLICE_MM
    ds.RepetitionTime = "3.4"
    ds.EchoTime = "1.5"
    ds.EchoTrainLength = 1
    ds.FlipAngle = "45"
    ds.TriggerTime = round(phase_ms, 3)
    ds.PatientPosition = "HFS"
    ds.StudyInstanceUID = make_uid("study", seed, patient)
    ds.SeriesInstanceUID = make_uid("series", seed, patient)
    ds.FrameOfReferenceUID = make_uid("frame", seed, patient)
    ds.SeriesNumber = 1
    ds.InstanceNumber = number
    rows, columns = stored.shape
    # The centre of the first pixel, in millimetres; the first slice is at z = 0.
    corner = [-(columns - 1) / 2 * pixel, -(rows - 1) / 2 * pixel, -key[2] * SLICE_MM]
    ds.ImagePositionPatient = [round(mm, 6) for mm in corner]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = [round(pixel, 6)] * 2
    ds.WindowCenter, ds.WindowWidth = 330, 660
    set_pixels(ds, stored, 12)
    return ds


def ids(patient: int) -> tuple[str, str]:
    """Return the IDs of images and of contours of a patient, counted from 0."""
    return f"PHANTOM{patient + 1:04d}", f"PH-{patient + 1}"
