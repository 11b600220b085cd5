"""A tree of DICOM files: fastseg finds them and reads their headers, beside pydicom.

    python -m benchmarks.dicom.tree [--files 10000] [--rounds 5]

The files are made in a temporary folder: CT series of 250 slices, each in a folder of
its own, with the elements that scanners write and small pixels, as no header needs
them. They are in the page cache. All readers take turns in each round; a ratio is that
of two calls of one round. Positions and SOPInstanceUIDs of all readers must be equal.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from benchmarks.tables import spread, table_of
from fastseg.sources.tree import read_tree

SLICES = 250
SIDE = 32
ONE, TWO = "fastseg, 1 thread", "fastseg, 2 threads"
PYDICOM = "pydicom, dcmread(stop_before_pixels=True)"


def uid(*parts):
    """Return a UID that depends on some parts alone."""
    return generate_uid(entropy_srcs=[f"fastseg tree benchmark {parts}"])


def make_slice(series, number):
    """Return a CT slice with the elements that scanners write."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = uid("image", series, number)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"]
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20200102"
    ds.StudyTime = ds.SeriesTime = "101500.265000"
    ds.AcquisitionTime = ds.ContentTime = f"10{number % 60:02d}00.{number:06d}"
    ds.AccessionNumber = "12345678"
    ds.Modality = "CT"
    ds.Manufacturer = "SIEMENS"
    ds.InstitutionName = "Hospital"
    ds.ReferringPhysicianName = ds.PerformingPhysicianName = ""
    ds.StudyDescription = "Thorax^Routine (Adult)"
    ds.SeriesDescription = "Thorax 1.0 B31f"
    ds.ManufacturerModelName = "Sensation 64"
    ds.PatientName = f"Benchmark^{series}"
    ds.PatientID = f"B{series // 2:05d}"
    ds.PatientBirthDate = ""
    ds.PatientSex = "O"
    ds.PatientAge = "060Y"
    ds.BodyPartExamined = "THORAX"
    ds.SliceThickness = "1"
    ds.KVP = "120"
    ds.DataCollectionDiameter = "500"
    ds.DeviceSerialNumber = "54321"
    ds.SoftwareVersions = "syngo CT 2007A"
    ds.ProtocolName = "Thorax Routine"
    ds.ReconstructionDiameter = "350"
    ds.DistanceSourceToDetector = "1040"
    ds.DistanceSourceToPatient = "570"
    ds.GantryDetectorTilt = "0"
    ds.TableHeight = "155"
    ds.RotationDirection = "CW"
    ds.ExposureTime = "500"
    ds.XRayTubeCurrent = str(150 + number % 40)
    ds.Exposure = str(100 + number % 40)
    ds.FilterType = "0"
    ds.GeneratorPower = "25"
    ds.FocalSpots = "1.2"
    ds.ConvolutionKernel = "B31f"
    ds.PatientPosition = "HFS"
    ds.StudyInstanceUID = uid("study", series // 2)
    ds.SeriesInstanceUID = uid("series", series)
    ds.StudyID = "1"
    ds.SeriesNumber = str(series % 2 + 1)
    ds.AcquisitionNumber = "1"
    ds.InstanceNumber = str(number + 1)
    ds.ImagePositionPatient = ["-174.658203125", "-344.658203125", f"{-number - 0.5}"]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.FrameOfReferenceUID = uid("frame", series // 2)
    ds.PositionReferenceIndicator = ""
    ds.SliceLocation = f"{-number - 0.5}"
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows = ds.Columns = SIDE
    ds.PixelSpacing = ["0.68359375", "0.68359375"]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelRepresentation = 0
    ds.WindowCenter, ds.WindowWidth = "40", "400"
    ds.RescaleIntercept, ds.RescaleSlope = "-1024", "1"
    ds.RescaleType = "HU"
    ds.PixelData = np.full((SIDE, SIDE), number, np.uint16).tobytes()
    return ds


def make_files(root, count):
    """Write CT slices, a series a folder."""
    for k in range(count):
        series, number = divmod(k, SLICES)
        folder = root / f"P{series // 2:04d}" / f"S{series}"
        if not number:
            folder.mkdir(parents=True)
        make_slice(series, number).save_as(
            folder / f"IM-{number + 1:04d}.dcm", enforce_file_format=True
        )


def read_by_fastseg(root, threads):
    """Return SOPInstanceUID and position of all files."""
    images = read_tree(root, threads=threads).images
    return {(x.header.sop_instance, *x.header.position_mm) for x in images}


def read_by_pydicom(root):
    """Return SOPInstanceUID and position of all files."""
    found = set()
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118  as programs do
            ds = pydicom.dcmread(path, stop_before_pixels=True)
            found.add((str(ds.SOPInstanceUID), *map(float, ds.ImagePositionPatient)))
    return found


READERS = {
    ONE: lambda root: read_by_fastseg(root, 1),
    TWO: lambda root: read_by_fastseg(root, 2),
    PYDICOM: read_by_pydicom,
}


def measure(root, rounds):
    """Return the seconds of each reader, float64 (rounds,), by name."""
    seconds = {name: [] for name in READERS}
    for _ in range(rounds):
        results = []
        for name, read in READERS.items():
            start = time.perf_counter()
            results.append(read(root))
            seconds[name].append(time.perf_counter() - start)
        if any(result != results[0] for result in results):
            sys.exit("the readers do not agree")
    return {name: np.array(values) for name, values in seconds.items()}


def main():
    """Make the files, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_files(root, arguments.files)
        size = np.mean([path.stat().st_size for path in root.rglob("*.dcm")])
        for read in READERS.values():  # compiles, and fills the page cache
            read(root)
        seconds = measure(root, arguments.rounds)
    rows = [("reader", "µs a file (median)", "times fastseg (median, quartiles)")]
    for name, values in seconds.items():
        micros = f"{np.median(values) / arguments.files * 1e6:.0f}"
        rows.append((name, micros, spread(values / seconds[ONE], "{:.2f}")))
    print(table_of(rows))
    print(
        f"{arguments.files} files of {size / 1000:.1f} kB, page cache warm, "
        f"{arguments.rounds} rounds on {os.cpu_count()} cores ({platform.machine()}); "
        "positions and UIDs equal."
    )


if __name__ == "__main__":
    main()
