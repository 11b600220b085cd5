"""A synthetic cine-MR study of the heart, for samples, tests and benchmarks.

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
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from fastseg.bounds import MAX_PHANTOM_IMAGES
from fastseg.calls import check_call
from fastseg.errors import OptionError, OutputError, whole_number
from fastseg.loading.orders import check_seed
from fastseg.paths import StrPath, as_path
from fastseg.progress import Progress, silent

Array = NDArray[np.floating[Any]]

# Width of the field of view; pixels are square.
FIELD_MM = 250.0
SLICE_MM = 10.0
HEARTBEAT_MS = 850.0
# Signal of each tissue, in stored values, and the standard deviation of the noise
# in both channels of the complex signal.
AIR, CHEST, LUNG, MUSCLE, BLOOD, FAT = 15.0, 260.0, 60.0, 190.0, 520.0, 640.0
NOISE = 14.0
SMALLEST_SIDE = 32
LARGEST_SIDE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """A closed curve, star-shaped about its centre, in millimetres.

    x, y   : the centre
    radius : mean radius
    waves  : (amplitude relative to the radius, phase) of orders 2, 3, 4
    """

    x: float
    y: float
    radius: float
    waves: tuple[tuple[float, float], ...] = ()

    def radius_at(self, angle: Array) -> Array:
        """Return the radius at an angle."""
        wave = sum(
            (a * np.cos(k * angle + p) for k, (a, p) in enumerate(self.waves, 2)),
            start=np.zeros_like(angle),
        )
        return self.radius * (1 + wave)

    def depth(self, x: Array, y: Array) -> Array:
        """Return how far points lie inside, in millimetres along the radius."""
        dx, dy = x - self.x, y - self.y
        depth: Array = self.radius_at(np.arctan2(dy, dx)) - np.hypot(dx, dy)
        return depth

    def vertices(self, count: int) -> Array:
        """Return (count, 2) points of the curve."""
        angle: Array = np.arange(count) * (2 * np.pi / count)
        radius = self.radius_at(angle)
        return np.column_stack(
            [self.x + radius * np.cos(angle), self.y + radius * np.sin(angle)]
        )


@check_call()
def make_phantom(
    output: StrPath,
    *,
    patients: int = 4,
    sizes: int | str | Sequence[int | str | tuple[int, int]] = (96, 96, 96, "120x88"),
    slices: int = 4,
    phases: int = 6,
    seed: int = 0,
    progress: Progress = silent,
) -> Path:
    """Write a study in the Sunnybrook challenge layout and return its folder.

    output   : a new or empty folder
    patients : number of patients
    sizes    : (rows, columns) of the patients' images, "ROWSxCOLUMNS", or one number
        for a square; of several sizes, patient k has the k-th, in rotation
    slices, phases : numbers of a patient's images along the heart and over a heartbeat
    seed     : seed of the random anatomy and noise, below 2**64

    Raises OptionError for an invalid option, OutputError if the folder has files.
    """
    patients = whole_number("patients", patients, 1)
    slices = whole_number("slices", slices, 1)
    phases = whole_number("phases", phases, 2)
    if patients * slices * phases > MAX_PHANTOM_IMAGES:
        raise OptionError(
            f"{patients} patients of {slices} slices in {phases} phases are "
            f"{patients * slices * phases} images, expected at most "
            f"{MAX_PHANTOM_IMAGES}"
        )
    seed = check_seed(seed)
    several = [sizes] if isinstance(sizes, int | str) else list(sizes)
    if not several:
        raise OptionError("sizes is empty, expected at least one")
    shapes = [parse_size(size) for size in several]
    root = as_path("output", output)
    # A link to nothing is there, too.
    is_there = root.exists() or root.is_symlink()
    if is_there and (not root.is_dir() or any(root.iterdir())):
        raise OutputError(f"{root}: is not an empty folder; choose a new folder")
    root.mkdir(parents=True, exist_ok=True)
    with (root / "link.csv").open("x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["patient_id", "original_id"])
        writer.writerows([_ids(patient) for patient in range(patients)])
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
    return root


def parse_size(size: int | str | tuple[int, int]) -> tuple[int, int]:
    """Return (rows, columns) of 96, "96", "120x88" or (120, 88)."""
    if isinstance(size, str):
        match = re.fullmatch(r"(\d{1,5})(?:[x×](\d{1,5}))?", size.strip())
        if not match:
            raise OptionError(f"size is {size!r}, expected as in 96 or 120x88")
        rows, columns = int(match[1]), int(match[2] or match[1])
    else:
        try:
            sides: Any = size if isinstance(size, Sequence) else (size, size)
            rows, columns = (whole_number("size", side, 1) for side in sides)
        except (TypeError, ValueError):
            raise OptionError(
                f"size is {size!r}, expected rows and columns, or one number"
            ) from None
    if not all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in (rows, columns)):
        raise OptionError(
            f"size is {rows}x{columns}, expected {SMALLEST_SIDE} to {LARGEST_SIDE}"
        )
    return rows, columns


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
        u = _uniform((seed, patient, 0, 0), 20)  # the patient's anatomy
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

        def fraction_inside(ring: Ring) -> Array:
            fraction: Array = np.clip(ring.depth(x, y) / pixel + 0.5, 0, 1)
            return fraction

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
        for ring, tissue in layers:
            signal += fraction_inside(ring) * (tissue - signal)
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
    image_id, contour_id = _ids(heart.patient)
    pixel = FIELD_MM / columns
    centre_x, centre_y = (columns - 1) / 2, (rows - 1) / 2
    y, x = np.mgrid[:rows, :columns]
    x_mm, y_mm = (x - centre_x) * pixel, (y - centre_y) * pixel
    u = _uniform((key[0], heart.patient, 0, 1), 4)  # the patient's coil
    bias = np.exp(
        0.35 * (u[0] - 0.5) * (x_mm / 100)
        - (0.15 + 0.3 * u[1]) * (y_mm / 160)
        - 0.18 * ((x_mm - 30 * u[2]) ** 2 + (y_mm - 30 * u[3]) ** 2) / 160**2
    )
    real, imaginary = _normal(key, rows * columns).reshape(2, rows, columns)
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

    def uid(*parts: object) -> Any:
        # One text with separators: generate_uid would join 1, 10 and 11, 0 alike.
        return generate_uid(entropy_srcs=[f"fastseg phantom {parts}"])

    seed, patient = key[:2]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = uid("image", *key)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.SOPClassUID = meta.MediaStorageSOPClassUID
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = "20000101"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = "120000"
    ds.AccessionNumber = ""
    ds.Modality = "MR"
    ds.Manufacturer = "fastseg"
    ds.ManufacturerModelName = "phantom"
    ds.ReferringPhysicianName = ""
    ds.PatientName = f"Phantom^{patient + 1}"
    ds.PatientID = _ids(patient)[0]
    ds.PatientBirthDate = ds.PatientSex = ""
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
    ds.StudyInstanceUID = uid("study", seed, patient)
    ds.SeriesInstanceUID = uid("series", seed, patient)
    ds.FrameOfReferenceUID = uid("frame", seed, patient)
    ds.PositionReferenceIndicator = ""
    ds.StudyID = "1"
    ds.SeriesNumber = 1
    ds.InstanceNumber = number
    rows, columns = stored.shape
    # The centre of the first pixel, in millimetres; the first slice is at z = 0.
    corner = [-(columns - 1) / 2 * pixel, -(rows - 1) / 2 * pixel, -key[2] * SLICE_MM]
    ds.ImagePositionPatient = [round(mm, 6) for mm in corner]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = rows, columns
    ds.PixelSpacing = [round(pixel, 6)] * 2
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelRepresentation = 0
    ds.WindowCenter, ds.WindowWidth = 330, 660
    ds.PixelData = stored.tobytes()
    return ds


def _ids(patient: int) -> tuple[str, str]:
    """Return a patient's IDs of images and of contours."""
    return f"PHANTOM{patient + 1:04d}", f"PH-{patient + 1}"


def _uniform(key: tuple[int, int, int, int], count: int) -> Array:
    """Return `count` numbers in (0, 1), a function of the key alone.

    key : (seed, patient, stream, phase). Stream 0 holds what slices share: anatomy in
        phase 0, coil in phase 1. Stream k + 1 holds the noise of slice k.
    """
    # numpy guarantees the raw numbers of Philox in all versions, but not the floats
    # that it makes of them, so they are converted here.
    seed, patient, stream, phase = key
    words = np.array([seed, patient << 40 | stream << 20 | phase], np.uint64)
    raw = np.random.Philox(key=words).random_raw(count)
    numbers: Array = ((raw >> np.uint64(12)) + 0.5) * 2.0**-52
    return numbers


def _normal(key: tuple[int, int, int, int], count: int) -> Array:
    """Return two rows of `count` standard normal numbers (Box and Muller, 1958).

    key : (seed, patient, slice, phase)
    """
    seed, patient, slice_index, phase = key
    stream = slice_index + 1
    u, v = _uniform((seed, patient, stream, phase), 2 * count).reshape(2, count)
    radius = np.sqrt(-2 * np.log(u))
    angle = 2 * np.pi * v
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)])
