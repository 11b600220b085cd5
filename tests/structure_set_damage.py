"""Random structure sets, valid or spoilt, and what both readers make of them.

`compare` reads a file by `read_structure_set` and by pydicom. What the first returns
without a problem must be what pydicom reads; what it cannot use must be an error or a
problem that names the contour or its ROI.
"""

import re
import struct
import warnings
from io import BytesIO

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from fastseg.dicom.structure_set import KINDS, read_structure_set
from fastseg.errors import DicomError
from tests.structure_sets import (
    SYNTAXES,
    encode,
    make_contour,
    make_structure_set,
    set_data,
)

NAMES = (
    "Heart",
    "HEART",
    "Lunge links",
    "Niere  re.",
    "Schädel",
    "Lünge_1",
    "PTV 60.5",
)
SEQUENCES = (
    *("ROIContourSequence", "ContourSequence", "ContourImageSequence", "ContourData"),
    *("StructureSetROISequence", "ReferencedFrameOfReferenceSequence"),
)
# Texts that are put in place of others: of numbers, kinds, names and UIDs.
JUNK = (
    *(
        "",
        " ",
        "0",
        "-1",
        "1\\2",
        "1\\\\2",
        "nan",
        "inf",
        "1e400",
        "1e5",
        "1_0",
        "0x10",
    ),
    *("1,5", "+3", "3.0", "9" * 20, "1" * 70, "\0", "1.2.3", "A^B", "POINT", "x" * 70),
    *("CLOSED_PLANAR ", "OPEN_PLANAR", "closed_planar", "\x1b$B", "\n", "1.5e-3\\2\\3"),
)


def number_text(rng):
    """Return the text of a coordinate in one of the forms that files have."""
    value = rng.choice((rng.uniform(-500, 500), rng.randrange(-300, 300), 0.0, -0.0))
    form = rng.choice(
        ("{:.2f}", "{:.1e}", "{:g}", " {:.3f}", "{:+.4f}", "{!r}", "{:.9f} ")
    )
    return form.format(float(value))


def make_points(rng, count):
    """Return the text of so many points."""
    return "\\".join(number_text(rng) for _ in range(3 * count))


def make_set(rng):
    """Return a random structure set as a dataset, in which nothing is wrong."""
    rois = []
    for _ in range(rng.randrange(5)):
        contours = []
        for _ in range(rng.choice((0, 1, 1, 2, 5))):
            kind = rng.choice((*KINDS[:1] * 4, *KINDS))
            count = 1 if kind == "POINT" else rng.randrange(3, 9)
            images = [
                rng.choice(("1.2.3", "1.2.4.5", ("1.2.6", 1), ("1.2.7", 2, 3)))
                for _ in range(rng.choice((0, 1, 1, 2)))
            ]
            text = make_points(rng, count)
            contours.append(
                make_contour([0] * count, kind=kind, images=images, data=text)
            )
        rois.append((rng.choice(NAMES), rng.choice((contours, contours, None))))
    numbers = rng.sample(range(20), len(rois))
    series = rng.sample(("S1", "S2", "1.2.3.4"), rng.randrange(3))
    ds = make_structure_set(rois, series=series, numbers=numbers)
    ds.SpecificCharacterSet = rng.choice(
        ("ISO_IR 100", "ISO_IR 192", "ISO 2022 IR 100")
    )
    return ds


def encode_somehow(rng, ds):
    """Return a structure set as the bytes of a file in a random encoding."""
    syntax = rng.choice((*SYNTAXES, "explicit", "explicit", "implicit"))
    unknown = rng.sample(SEQUENCES, rng.choice((0, 0, 1, 2)))
    undefined = rng.random() < 0.4
    return encode(ds, syntax, undefined=undefined, unknown=unknown)


def make_file(rng):
    """Return the bytes of a structure set, two of three times spoilt."""
    ds = make_set(rng)
    way = rng.randrange(3)
    if way == 1:
        for _ in range(rng.choice((1, 1, 2, 4))):
            spoil_elements(rng, ds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = encode_somehow(rng, ds)
    if way == 2:
        for _ in range(rng.choice((1, 1, 2, 4))):
            data = spoil_bytes(rng, data)
    return data


def spoil_elements(rng, ds):
    """Change, remove or double something in a random item of a structure set."""
    items = [ds]
    for item in items:
        elements = map(item.get_item, item.keys())  # which keeps the texts of values
        items += [x for e in elements if e.VR == "SQ" for x in e.value]
    item = rng.choice(items)
    tags = list(item.keys())
    if not tags:
        return
    tag = rng.choice(tags)
    element = item.get_item(tag)
    way = rng.randrange(4)
    if way == 0:
        del item[tag]
    elif element.VR == "SQ":
        values = list(element.value)
        if way == 1:
            values.append(Dataset())
        elif way == 2 and values:
            values.append(rng.choice(values))
        elif values:
            values.pop(rng.randrange(len(values)))
        item[tag].value = values
    else:
        spoil_value(rng, item, tag, element.VR)


def spoil_value(rng, item, tag, vr):
    """Replace a value that is no sequence by another text, whatever its VR allows."""
    text = rng.choice(JUNK).encode("latin-1")
    if tag == 0x30060050 and rng.random() < 0.7:
        values = bytes(item.get_item(tag).value).split(b"\\")
        values[rng.randrange(len(values))] = text
        if rng.random() < 0.3:
            del values[rng.randrange(len(values))]
        text = b"\\".join(values)
    if tag == 0x30060050:
        set_data(item, text)
        return
    text += b" " * (len(text) % 2)
    item[tag] = pydicom.dataelem.RawDataElement(
        tag, vr, len(text), text, 0, False, True
    )


def spoil_bytes(rng, data):
    """Return a file with some bytes changed, lost, added or doubled."""
    start = rng.randrange(128, max(len(data), 129))
    size = rng.choice((1, 1, 2, 4, 8, rng.randrange(1, 100)))
    way = rng.randrange(7)
    if way == 0:
        return data[:start]
    if way == 1:
        return data[:start] + data[start + size :]
    if way == 2:
        return data[:start] + data[start : start + size] + data[start:]
    if way == 3:
        return data[:start] + rng.randbytes(size) + data[start:]
    if way == 4:
        byte = rng.choice(b"\\ .-0123456789eE\0\xff\x01")
        return data[:start] + bytes([byte]) * size + data[start + size :]
    if way == 5:
        return data[:start] + rng.randbytes(size) + data[start + size :]
    # A length that is wrong, behind the tag of an item or an element of the set.
    starts = [
        k for k in range(len(data) - 12) if data[k : k + 2] in (b"\6\x30", b"\xfe\xff")
    ]
    if not starts:
        return data
    start = rng.choice(starts) + rng.choice((4, 6, 8))
    length = rng.choice((0, 1, 2, 8, size, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFE, 2**31))
    return data[:start] + struct.pack("<I", length) + data[start + 4 :]


def read_with_pydicom(data):
    """Return what pydicom reads: (SOPInstanceUID, series), ROIs and contours.

    The contours are arguments of `read_contour`.
    """
    ds = pydicom.dcmread(BytesIO(data), force=True)
    series = []
    for frame in ds.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            for item in study.get("RTReferencedSeriesSequence") or ():
                uids = item.get("SeriesInstanceUID"), frame.get("FrameOfReferenceUID")
                series.append(tuple(map(_uid, uids)))
    series = [pair for pair in dict.fromkeys(series) if pair[0]]
    rois = list(map(_read_roi, ds.get("StructureSetROISequence") or ()))
    contours = []
    for outline in ds.get("ROIContourSequence") or ():
        for k, item in enumerate(outline.get("ContourSequence") or (), 1):
            contours.append((outline, k, item))
    return (_uid(ds.get("SOPInstanceUID")), series), rois, contours


def _uid(value):
    """Return a UID, "" if it is none."""
    uid = str(value or "").strip(" \0")
    return uid if re.fullmatch(r"[0-9.]{0,64}", uid) else ""


def _read_roi(item):
    try:
        names = item.ROIName
        name = names if isinstance(names, str) else "\\".join(names)
        return int(item.ROINumber), name.strip(" \0")
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        return repr(error)


def read_contour(outline, number, item):
    """Return (ROINumber, number, kind, points, references) of a contour, by pydicom."""
    value = item.ContourData
    if isinstance(value, bytes):  # UN of more than 65 534 bytes
        value = value.decode().strip(" \0").split("\\")
    points = np.array(value, float).reshape(-1, 3)
    references = []
    for image in item.get("ContourImageSequence") or ():
        frames = image.get("ReferencedFrameNumber")
        frames = [0] if frames in (None, "") else frames
        frames = [frames] if isinstance(frames, int) else frames
        uid = _uid(image.get("ReferencedSOPInstanceUID"))
        references += [(uid, int(frame)) for frame in frames]
    kind = item.ContourGeometricType
    return int(outline.ReferencedROINumber), number, kind, points, references


def compare(data):
    """Read a file in both ways; return the outcome, and what differs or "".

    The outcome is "refused", "with problems" or "without problems".
    """
    try:
        ours = read_structure_set(data, "a.dcm")
    except DicomError as error:
        is_named = str(error).startswith("a.dcm: ")
        return "refused", "" if is_named else f"an error without the name: {error}"
    outcome = "with problems" if ours.problems else "without problems"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return outcome, _find_difference(data, ours)


def _find_difference(data, ours):
    try:
        of_file, rois, expected = read_with_pydicom(data)
    except Exception as error:
        return f"pydicom cannot read it: {error!r}"
    if of_file != (ours.sop_instance, [tuple(pair) for pair in ours.series]):
        return f"it has {ours.sop_instance, ours.series}, not {of_file}"
    contours = ours.contours
    if len(rois) != len(ours.rois) or len(expected) != len(contours.roi):
        return f"{len(ours.rois)} of {len(rois)} ROIs, {len(contours.roi)} contours"
    whole = {p.roi for p in ours.problems if p.contour < 0}
    for k, (roi, pair) in enumerate(zip(ours.rois, rois, strict=True)):
        if k not in whole and pair != (roi.number, roi.name):
            return f"ROI {k} is {roi}, not {pair}"
    singly = {p.contour for p in ours.problems}
    points, ends = ours.points(np.arange(len(expected)))
    for k, parts in enumerate(expected):
        roi = int(contours.roi[k])
        if not contours.is_valid[k]:
            if roi >= 0 and not (k in singly or roi in whole):
                return f"contour {k} has no problem, and is not valid"
            if roi < 0 and not any(p.roi < 0 and p.contour >= 0 for p in ours.problems):
                return f"contour {k} has no ROI and no problem"
            continue
        if k in singly or roi in whole:
            return f"contour {k} has a problem, and is valid"
        try:
            number, index, kind, xyz, references = read_contour(*parts)
        except Exception as error:
            return f"pydicom cannot read contour {k}: {error!r}"
        bounds = slice(*contours.ref_bounds[k : k + 2].tolist())
        instances = [x.decode() for x in contours.ref_instances[bounds]]
        found = list(zip(instances, contours.ref_frames[bounds].tolist(), strict=True))
        pairs = [
            (ours.rois[roi].number, number),
            (int(contours.number[k]), index),
            (KINDS[contours.kind[k]], kind),
            (points[ends[k] : ends[k + 1]].tolist(), xyz.tolist()),
            (found, references),
        ]
        for mine, theirs in pairs:
            if mine != theirs:
                return f"contour {k} has {mine}, not {theirs}"
    return ""
