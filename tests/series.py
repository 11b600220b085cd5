"""Series of images: written, linked in the order of a store, and read by pydicom."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from fastseg.links import Link, LinkTable

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def write_image(path, pixels, *, series="1.2.3", **elements):
    """Write an image of 16 bits, with these elements besides; None leaves one out."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    elements = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": f"1.2.3.{Path(path).stem}",
        "SeriesInstanceUID": series,
        "FrameOfReferenceUID": "1.2.9",
        "Modality": "CT",
        "PatientID": "A",
        "PixelSpacing": [0.5, 0.75],
        "ImageOrientationPatient": list(AXIAL),
        **elements,
    }
    meta.MediaStorageSOPInstanceUID = elements["SOPInstanceUID"]
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    for name, value in elements.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = elements.get("PixelRepresentation", 0)
    dataset.PixelData = np.ascontiguousarray(pixels, "<u2").tobytes()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def write_stack(folder, positions, *, number=1, shape=(6, 8), each=(), **elements):
    """Write an axial series with images at these positions along z, numbered.

    each : pairs of an element and its values, one for each image
    """
    draw = np.random.default_rng(number)
    for k, z in enumerate(positions):
        elements |= {name: values[k] for name, values in each}
        write_image(
            Path(folder) / f"{number + k}.dcm",
            draw.integers(0, 1000, shape),
            ImagePositionPatient=[-1.5, 2.25, z],
            **elements,
        )


def table_of(base, patient="A"):
    """Return a table of all images below a folder, in the order of a store.

    Times count the images of a series at one position, by TriggerTime.
    """
    images = defaultdict(lambda: defaultdict(list))
    for path in sorted(Path(base).rglob("*.dcm")):
        file = pydicom.dcmread(path, stop_before_pixels=True)
        series = images[str(file.get("SeriesInstanceUID", ""))]
        for frame, header in enumerate(frames_of(file)):
            time = file.get("TriggerTime", 0)
            series[position_of(header)].append((time, path, frame))
    links = [
        Link(
            patient=patient,
            dicom_path=path.relative_to(base).as_posix(),
            frame=frame,
            series=series,
            position_mm=position,
            time=float(time) if len(others) > 1 else None,
        )
        for series, by_position in images.items()
        for position, others in by_position.items()
        for time, (_, path, frame) in enumerate(sorted(others))
    ]
    links.sort(key=lambda x: (x.series, x.time or 0, x.position_mm or 0, x.dicom_path))
    return LinkTable(base=Path(base), links=links)


def frames_of(file):
    """Return position and orientation of each frame, as a Dataset."""
    frames = file.get("PerFrameFunctionalGroupsSequence")
    if not frames:
        return [file]
    shared = file.SharedFunctionalGroupsSequence[0]
    headers = []
    for groups in frames:
        header = pydicom.Dataset()
        for name in ("PlanePositionSequence", "PlaneOrientationSequence"):
            header.update((groups.get(name) or shared[name].value)[0])
        headers.append(header)
    return headers


def position_of(header):
    """Return the position of an image along its normal, None if it is not known."""
    origin = header.get("ImagePositionPatient")
    directions = header.get("ImageOrientationPatient")
    if not origin or not directions:
        return None
    row, column = np.array(directions, float).reshape(2, 3)
    normal = np.cross(row, column)
    return float(np.dot(np.array(origin, float), normal / np.linalg.norm(normal)))
