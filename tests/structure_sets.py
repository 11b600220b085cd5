"""Small RT structure sets, each element and its encoding as a test wants them.

`make_slice` in `tests/sources/dicom_files.py` makes images to which they belong: both
make the same UIDs from the names of a patient and a series.
"""

import zlib

import numpy as np
import pydicom
from pydicom.charset import convert_encodings
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element, write_file_meta_info
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RTStructureSetStorage,
)
from pydicom.valuerep import format_number_as_ds

from tests.sources.dicom_files import uid

SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "big-endian": ExplicitVRBigEndian,
}
CONTOUR_DATA = Tag(0x3006, 0x0050)
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
LONG = ("OB", "OW", "SQ", "UC", "UN", "UT", "UR")


def ds_text(points):
    """Return numbers as the text of a DS, at most 16 characters each."""
    numbers = np.asarray(points, float).ravel().tolist()
    return "\\".join(format_number_as_ds(number) for number in numbers)


def rounded(points):
    """Return points (n, 3) as their DS texts say, float64."""
    return np.array(ds_text(points).split("\\"), float).reshape(-1, 3)


def make_contour(points, *, kind="CLOSED_PLANAR", images=(), data=None, **elements):
    """Return an item of a ContourSequence as a dataset.

    points   : (n, 3), (x, y, z) in mm
    images   : SOPInstanceUIDs that it references, or (UID, frame, frame ...) with
        frames counted from 1
    data     : the text of its ContourData, instead of the points
    elements : further ones, or others; None removes an element
    """
    ds = Dataset()
    if images:
        ds.ContourImageSequence = [_reference(image) for image in images]
    ds.ContourGeometricType = kind
    ds.NumberOfContourPoints = len(points)
    set_data(ds, ds_text(points) if data is None else data)
    return _change(ds, elements)


def set_data(contour, text):
    """Replace the ContourData of a contour by any text or bytes, padded to be even."""
    value = text if isinstance(text, bytes) else text.encode()
    value += b" " * (len(value) % 2)
    contour[CONTOUR_DATA] = RawDataElement(
        CONTOUR_DATA, "DS", len(value), value, 0, False, True
    )


def make_structure_set(
    rois, *, patient="P1", series=("S1",), frame=None, numbers=None, **elements
):
    """Return a structure set as a dataset; `make_contour` makes its contours.

    rois     : {name: contours}, or pairs of these; None instead of contours leaves out
        the ContourSequence
    series   : names of series of the patient as in `make_slice`, or SeriesInstanceUIDs,
        that RTReferencedSeriesSequence names; it is left out if there are none
    frame    : FrameOfReferenceUID; by default that of `make_slice`
    numbers  : ROINumbers; by default from 1
    elements : further ones, or others; None removes an element
    """
    frame = uid(patient, "frame") if frame is None else frame
    pairs = list(rois.items() if isinstance(rois, dict) else rois)
    numbers = list(range(1, len(pairs) + 1)) if numbers is None else numbers
    ds = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=bytes(128))
    ds.SOPClassUID = RTStructureSetStorage
    ds.SOPInstanceUID = uid(patient, series, [name for name, _ in pairs], "set")
    ds.Modality = "RTSTRUCT"
    ds.PatientName = "Secret^Name"
    ds.PatientID = patient
    ds.StudyInstanceUID = uid(patient)
    ds.SeriesInstanceUID = uid(patient, "structure sets")
    ds.StructureSetLabel = "TEST"
    if frame:
        ds.FrameOfReferenceUID = frame
    if series:
        ds.ReferencedFrameOfReferenceSequence = [make_frame(patient, series, frame)]
    ds.StructureSetROISequence = []
    ds.ROIContourSequence = []
    for number, (name, contours) in zip(numbers, pairs, strict=True):
        roi = Dataset()
        roi.ROINumber = number
        roi.ReferencedFrameOfReferenceUID = frame
        roi.ROIName = name
        roi.ROIGenerationAlgorithm = ""
        ds.StructureSetROISequence.append(roi)
        ds.ROIContourSequence.append(make_roi_contour(number, contours))
    return _change(ds, elements)


def make_roi_contour(number, contours):
    """Return an item of a ROIContourSequence; without contours if they are None."""
    ds = Dataset()
    ds.ROIDisplayColor = [255, 0, 0]
    if contours is not None:
        ds.ContourSequence = list(contours)
    ds.ReferencedROINumber = number
    return ds


def make_frame(patient, series, frame):
    """Return an item of a ReferencedFrameOfReferenceSequence that names series."""
    named = []
    for name in series:
        item = Dataset()
        item.SeriesInstanceUID = (
            name if name[:2] in ("1.", "2.") else uid(patient, name)
        )
        item.ContourImageSequence = []
        named.append(item)
    study = Dataset()
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID = uid(patient)
    study.RTReferencedSeriesSequence = named
    ds = Dataset()
    ds.FrameOfReferenceUID = frame
    ds.RTReferencedStudySequence = [study]
    return ds


def _reference(image):
    instance, *frames = (image,) if isinstance(image, str) else image
    ds = Dataset()
    ds.ReferencedSOPClassUID = CT_IMAGE
    ds.ReferencedSOPInstanceUID = instance
    if frames:
        ds.ReferencedFrameNumber = frames
    return ds


def _change(ds, elements):
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def encode(ds, syntax="explicit", *, undefined=False, unknown=()):
    """Return a structure set as the bytes of a file.

    syntax    : one of SYNTAXES
    undefined : write sequences and items with undefined lengths
    unknown   : keywords of elements that get the VR UN, whose content is then implicit
        (neither in big-endian nor in implicit)

    All values are written as texts: the numbers of a structure set are texts, too.
    """
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID") or uid("none")
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID") or uid("none")
    ds.file_meta.TransferSyntaxUID = SYNTAXES[syntax]
    head = DicomBytesIO()
    head.write(bytes(128) + b"DICM")
    write_file_meta_info(head, ds.file_meta, enforce_standard=True)
    encodings = convert_encodings(ds.get("SpecificCharacterSet"))
    order = "big" if syntax == "big-endian" else "little"
    unknown = () if order == "big" else unknown
    options = undefined, unknown, encodings, order
    body = _encode_elements(ds, syntax != "implicit", options)
    if syntax == "deflated":
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = deflate.compress(body) + deflate.flush()
        body += bytes(len(body) % 2)
    return head.getvalue() + body


def _encode_elements(ds, explicit, options):
    undefined, unknown, encodings, order = options
    parts = []
    for tag in sorted(ds.keys()):
        element = ds.get_item(tag)
        is_unknown = explicit and pydicom.datadict.keyword_for_tag(tag) in unknown
        vr = "UN" if is_unknown else element.VR
        if element.VR == "SQ":
            value = _encode_items(element.value, explicit and not is_unknown, options)
        else:
            file = DicomBytesIO()
            file.is_little_endian, file.is_implicit_VR = True, True
            write_data_element(file, element, encodings)
            value = file.getvalue()[8:]
        length = len(value)
        if element.VR == "SQ" and undefined:
            length = 0xFFFFFFFF
            value += _tag_bytes(0xFFFEE0DD, order) + bytes(4)
        # A value that is too long for a short header is written as UN (PS3.5 6.2.2).
        if explicit and vr not in LONG and length > 0xFFFE:
            vr = "UN"
        parts.append(_tag_bytes(tag, order))
        if explicit:
            parts.append(vr.encode() + bytes(2 * (vr in LONG)))
        size = 2 if explicit and vr not in LONG else 4
        parts += [length.to_bytes(size, order), value]
    return b"".join(parts)


def _encode_items(items, explicit, options):
    undefined, *_, order = options
    parts = []
    for item in items:
        content = _encode_elements(item, explicit, options)
        length = 0xFFFFFFFF if undefined else len(content)
        end = _tag_bytes(0xFFFEE00D, order) + bytes(4) if undefined else b""
        head = _tag_bytes(0xFFFEE000, order) + length.to_bytes(4, order)
        parts += [head, content, end]
    return b"".join(parts)


def _tag_bytes(tag, order):
    return (tag >> 16).to_bytes(2, order) + (tag & 0xFFFF).to_bytes(2, order)


def save(ds, path, syntax="explicit", **options):
    """Write a structure set, into a folder that is made if it is missing.

    options : of `encode`
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(ds, syntax, **options))
    return path
