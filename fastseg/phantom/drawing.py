"""What both kinds of study are drawn with: rings, random numbers and DICOM files."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """A closed curve, star-shaped about its centre, in millimetres.

    x, y   : the centre
    radius : mean radius
    waves  : (amplitude relative to the radius, phase) of orders 2, 3, 4
    dents  : (depth relative to the radius, angle, width as an angle), each a bell curve
    """

    x: float
    y: float
    radius: float
    waves: tuple[tuple[float, float], ...] = ()
    dents: tuple[tuple[float, float, float], ...] = ()

    def radius_at(self, angle: Array) -> Array:
        """Return the radius at an angle."""
        wave = sum(
            (a * np.cos(k * angle + p) for k, (a, p) in enumerate(self.waves, 2)),
            start=np.zeros_like(angle),
        )
        for depth, middle, width in self.dents:
            away = np.remainder(angle - middle + np.pi, 2 * np.pi) - np.pi
            wave = wave - depth * np.exp(-((away / width) ** 2))
        return self.radius * (1 + wave)

    def depth(self, x: Array, y: Array) -> Array:
        """Return how far points lie inside, in millimetres along the radius."""
        dx, dy = x - self.x, y - self.y
        depth: Array = self.radius_at(np.arctan2(dy, dx)) - np.hypot(dx, dy)
        return depth

    def vertices(self, count: int, start: float = 0.0) -> Array:
        """Return (count, 2) points of the curve, the first at the angle `start`."""
        angle: Array = start + np.arange(count) * (2 * np.pi / count)
        radius = self.radius_at(angle)
        return np.column_stack(
            [self.x + radius * np.cos(angle), self.y + radius * np.sin(angle)]
        )


def fill_layers(
    signal: Array, layers: list[tuple[Ring, float]], x: Array, y: Array, pixel: float
) -> None:
    """Give the inside of each ring its signal, in this order.

    signal : updated in place
    x, y   : the centres of the pixels, in millimetres
    pixel  : side of a pixel, in millimetres. Where a boundary crosses a pixel, the
        signal lies between those of both sides
    """
    for ring, tissue in layers:
        fraction_inside = np.clip(ring.depth(x, y) / pixel + 0.5, 0, 1)
        signal += fraction_inside * (tissue - signal)


# The key of random numbers is (seed, patient, stream, phase). Stream 0 holds what the
# slices of a patient share, stream k + 1 the noise of slice k.
Key = tuple[int, int, int, int]


def uniform(key: Key, count: int) -> Array:
    """Return `count` numbers in (0, 1), a function of the key alone."""
    # numpy guarantees the raw numbers of Philox in all versions, but not the floats
    # that it makes of them, so they are converted here.
    seed, patient, stream, phase = key
    words = np.array([seed, patient << 40 | stream << 20 | phase], np.uint64)
    raw = np.random.Philox(key=words).random_raw(count)
    numbers: Array = ((raw >> np.uint64(12)) + 0.5) * 2.0**-52
    return numbers


def normal(key: Key, count: int) -> Array:
    """Return two rows of `count` standard normal numbers (Box and Muller, 1958)."""
    u, v = uniform(key, 2 * count).reshape(2, count)
    radius = np.sqrt(-2 * np.log(u))
    angle = 2 * np.pi * v
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)])


def make_uid(*parts: object) -> UID:
    """Return a UID that is a function of the parts."""
    # One text with separators: generate_uid would join 1, 10 and 11, 0 alike.
    return generate_uid(entropy_srcs=[f"fastseg phantom {parts}"])


def new_file(
    sop_class: UID, sop_instance: UID, syntax: UID = ExplicitVRLittleEndian
) -> Dataset:
    """Return a DICOM file with the elements that all files of a study share."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = sop_instance
    meta.TransferSyntaxUID = syntax
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = sop_instance
    ds.StudyDate = ds.SeriesDate = "20000101"
    ds.StudyTime = ds.SeriesTime = "120000"
    ds.AccessionNumber = ""
    ds.Manufacturer = "fastseg"
    ds.ManufacturerModelName = "phantom"
    ds.ReferringPhysicianName = ""
    ds.PatientBirthDate = ds.PatientSex = ""
    ds.PositionReferenceIndicator = ""
    ds.StudyID = "1"
    return ds


def set_pixels(ds: Dataset, stored: NDArray[Any], bits: int) -> None:
    """Set the elements of an image of one sample a pixel, of `bits` bits in 16."""
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, bits, bits - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    ds.PixelData = stored.tobytes()
