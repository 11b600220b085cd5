"""Small DICOM files for tests of trees, each element as a test wants it."""

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)


def uid(*parts):
    """Return a UID that depends on some parts alone."""
    return generate_uid(entropy_srcs=[f"fastseg test {parts}"])


def make_slice(k=0, *, patient="P1", series="S1", pixels=None, **elements):
    """Return slice k of a CT series as a dataset.

    elements : further ones, or others; None removes an element
    """
    meta = FileMetaDataset()
    ds = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = uid(patient, series, k)
    ds.Modality = "CT"
    ds.PatientName = "Secret^Name"
    ds.PatientID = patient
    ds.StudyInstanceUID = uid(patient)
    ds.SeriesInstanceUID = uid(patient, series)
    ds.InstanceNumber = k + 1
    ds.SliceThickness = 2
    ds.ImagePositionPatient = [-8, -8, 2 * k]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.FrameOfReferenceUID = uid(patient, "frame")
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = 8, 8
    ds.PixelSpacing = [1, 1]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelRepresentation = 0
    if pixels is None:
        pixels = np.arange(64) + k
    ds.PixelData = np.asarray(pixels, np.uint16).tobytes()
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def make_frames(*heights, **options):
    """Return an enhanced file as a dataset, with one frame at each z in mm.

    options : of `make_slice`; the pixels are those of all frames
    """
    ds = make_slice(**options, NumberOfFrames=len(heights))
    ds.SOPClassUID = EnhancedCTImageStorage
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient"):
        delattr(ds, keyword)
    groups = []
    for z in heights:
        group = Dataset()
        group.PlanePositionSequence = [Dataset()]
        group.PlanePositionSequence[0].ImagePositionPatient = [0, 0, z]
        groups.append(group)
    shared = Dataset()
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence = [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = [1, 1]
    shared.PixelValueTransformationSequence = [Dataset()]
    shared.PixelValueTransformationSequence[0].RescaleSlope = 1
    shared.PixelValueTransformationSequence[0].RescaleIntercept = 0
    del ds.PixelSpacing
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = groups
    return ds


def save(ds, path):
    """Write a dataset as a DICOM file, into a folder that is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID") or uid("none")
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pydicom.dcmwrite(path, ds, enforce_file_format=True)
    return path


def save_slice(path, k=0, **options):
    """Write a slice of `make_slice` and return its path."""
    return save(make_slice(k, **options), path)
