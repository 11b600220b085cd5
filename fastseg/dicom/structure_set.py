"""RT structure sets: the ROIs and contours of a file.

    bytes ──> where the dataset begins ──> walk_sequences ──> columns ──> StructureSet
                                              └─ read_contours ──> points ──┘

Compiled code finds the elements, in explicit and implicit VR, with lengths or without,
of either byte order, and as UN; and it reads and checks the points, each once. What is
wrong with single ROIs and contours are problems of the set; a file whose elements do
not fit into one another is refused as a whole, because what follows would be a guess.
"""

import re
import zlib
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg._kernels.files import contour_points, sequences
from fastseg.bounds import (
    MAX_CONTOUR_PROBLEMS,
    MAX_ROIS,
    MAX_STRUCTURE_SET_BYTES,
    MAX_STRUCTURE_SET_VALUES,
    MAX_TEXT_BYTES,
    MAX_UID_BYTES,
)
from fastseg.dicom.header import is_uid
from fastseg.errors import ContourError, DicomError
from fastseg.escapes import escaped
from fastseg.geometry import MAX_COORDINATE_MM

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

STRUCTURE_SET = b"1.2.840.10008.5.1.4.1.1.481.3"
DEFLATED = b"1.2.840.10008.1.2.1.99"
BIG_ENDIAN = b"1.2.840.10008.1.2.2"
# The class of a file in its meta group, or in a dataset without one: explicit, implicit
# or big-endian.
CLASS = re.compile(
    rb"(?:\x02\0\x02\0UI\x1e\0|\x08\0\x16\0(?:UI\x1e\0|\x1e\0\0\0)|\0\x08\0\x16UI\0\x1e)"
    + re.escape(STRUCTURE_SET)
    + rb"[\0 ]"
)

# Values of ContourGeometricType; the kind of a contour is its index here.
KINDS = (
    "CLOSED_PLANAR",
    "CLOSEDPLANAR_XOR",
    "OPEN_PLANAR",
    "OPEN_NONPLANAR",
    "POINT",
)
CLOSED_PLANAR, CLOSEDPLANAR_XOR, OPEN_PLANAR, OPEN_NONPLANAR, POINT = range(5)
UNKNOWN_KIND = -1

# What is read: of the dataset, and of the items of each kind. A sequence is named as
# the kind of its items.
ITEMS = ("dataset", "frame", "study", "series", "roi", "outline", "contour", "image")
ELEMENTS: dict[str, dict[str, int]] = {
    "dataset": {
        "character set": 0x00080005,
        "SOPClassUID": 0x00080016,
        "SOPInstanceUID": 0x00080018,
        "PatientID": 0x00100020,
        "StudyInstanceUID": 0x0020000D,
        "FrameOfReferenceUID": 0x00200052,
        "frame": 0x30060010,  # ReferencedFrameOfReferenceSequence
        "roi": 0x30060020,  # StructureSetROISequence
        "outline": 0x30060039,  # ROIContourSequence
    },
    "frame": {
        "frame of series": 0x00200052,
        "study": 0x30060012,  # RTReferencedStudySequence
    },
    "study": {"series": 0x30060014},  # RTReferencedSeriesSequence
    "series": {"SeriesInstanceUID": 0x0020000E},
    "roi": {
        "character set of ROI": 0x00080005,
        "ROINumber": 0x30060022,
        "frame of ROI": 0x30060024,  # ReferencedFrameOfReferenceUID
        "ROIName": 0x30060026,
    },
    "outline": {
        "contour": 0x30060040,  # ContourSequence
        "ReferencedROINumber": 0x30060084,
    },
    "contour": {
        "image": 0x30060016,  # ContourImageSequence
        "ContourGeometricType": 0x30060042,
        "ContourOffsetVector": 0x30060045,
        "NumberOfContourPoints": 0x30060046,
        "ContourData": 0x30060050,
    },
    "image": {
        "ReferencedSOPInstanceUID": 0x00081155,
        "ReferencedFrameNumber": 0x00081160,
    },
}
NUMBERS = {
    name: number
    for number, name in enumerate((n for x in ELEMENTS.values() for n in x), 1)
}
# int64 (w, 4), as `walk_sequences` takes it.
WANTED = np.array(
    [
        (kind, tag, NUMBERS[name], ITEMS.index(name) if name in ITEMS else -1)
        for kind, item in enumerate(ITEMS)
        for name, tag in ELEMENTS[item].items()
    ],
    np.int64,
)
# The character sets without escapes whose bytes are those of Latin-1. That is also what
# pydicom reads where none is named.
LATIN = (b"", b"ISO_IR 6", b"ISO_IR 100", b"ISO 2022 IR 6", b"ISO 2022 IR 100")
UTF_8 = b"ISO_IR 192"
# Numbers of a DS. DICOM allows 16 characters each (PS3.5 6.2).
DECIMAL = (
    rb" *[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,9})? *"
)
DECIMALS = re.compile(DECIMAL + rb"(?:\\" + DECIMAL + rb")*")
# The number of a frame.
WHOLE = re.compile(rb"[ \0]*\+?[0-9]{1,15}[ \0]*")
# Rows of elements at first; where there are more, the file is walked once more.
FIRST_ROWS = 2**13
# Bytes of a contour that cannot be read as a whole, in which points are looked for.
READABLE_BYTES = 2**12
# Bytes of the points of a contour that Python splits at a time.
PIECE_BYTES = 2**16

# The kernels that `read_structure_set` calls.
KERNELS = (
    sequences.walk_sequences,
    sequences.copy_texts,
    contour_points.read_whole_numbers,
    contour_points.read_contours,
)

WRONG = {
    sequences.BEYOND: "ends behind what encloses it; the file is damaged or truncated",
    sequences.NO_VR: "has no known VR; the file is damaged",
    sequences.MISPLACED: "does not belong there; the file is damaged",
    sequences.TWICE: "is there twice; the file is damaged",
    sequences.NO_SEQUENCE: "is a sequence or none, against its VR; the file is damaged",
    sequences.TOO_DEEP: f"is nested deeper than {sequences.DEEPEST} sequences",
}


class NamedSeries(NamedTuple):
    """A series that RTReferencedSeriesSequence names, and its FrameOfReferenceUID."""

    uid: str
    frame_of_reference: str


class Roi(NamedTuple):
    """A region of interest.

    number             : ROINumber; -1 if it is no number from 0
    frame_of_reference : ReferencedFrameOfReferenceUID, "" if it is unknown
    """

    number: int
    name: str
    frame_of_reference: str


class Problem(NamedTuple):
    """What is wrong with an ROI or a contour.

    roi            : index in `StructureSet.rois`, -1 if it belongs to none
    contour        : index in the columns, -1 for the ROI as a whole
    covers_nothing : whether the contour has fewer than three distinct points, so that a
        mask without it is whole
    """

    roi: int
    contour: int
    reason: str
    covers_nothing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Contours:
    """All contours of a structure set, in the order of the file.

    roi           : int64 (c,), index in `StructureSet.rois`, -1 if it belongs to none
    number        : int64 (c,), from 1 in the ContourSequence of the ROI
    kind          : int64 (c,), CLOSED_PLANAR and so on, or UNKNOWN_KIND
    count         : int64 (c,), number of points, 0 if they cannot be read
    is_valid      : bool (c,), False for those with a problem, also one of their ROI
    ref_bounds    : int64 (c + 1,): contour k references the images from ref_bounds[k]
        to ref_bounds[k + 1] - 1
    ref_instances : S64 (m,), SOPInstanceUIDs; empty if one is missing or invalid
    ref_frames    : int64 (m,), frame from 1, 0 if no frame is named
    """

    roi: Ints
    number: Ints
    kind: Ints
    count: Ints
    is_valid: NDArray[np.bool_]
    ref_bounds: Ints
    ref_instances: NDArray[np.bytes_]
    ref_frames: Ints


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StructureSet:
    """An RT structure set.

    study, sop_instance, frame_of_reference : UIDs, "" if they are unknown
    series   : those that RTReferencedSeriesSequence names
    rois     : in the order of StructureSetROISequence
    problems : what is wrong with single ROIs and contours, and with names of series
    """

    patient_id: str = field(repr=False)
    study: str
    sop_instance: str
    frame_of_reference: str
    series: tuple[NamedSeries, ...]
    rois: tuple[Roi, ...]
    contours: Contours
    problems: tuple[Problem, ...]
    _data: NDArray[np.uint8] = field(repr=False)
    _spans: Ints = field(repr=False)
    _points: Floats = field(repr=False)
    _starts: Ints = field(repr=False)
    _ranges: dict[int, range] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays, with those of the file: nearly all that it holds."""
        columns = [getattr(self.contours, column.name) for column in fields(Contours)]
        own = self._data, self._spans, self._points, self._starts
        return sum(array.nbytes for array in (*own, *columns))

    def find(self, roi_number: int) -> range:
        """Return the indices of the contours of an ROI, by their numbers from 1.

        Raises ContourError if no single ROI has this number.
        """
        contours = self._ranges.get(roi_number)
        if contours is None:
            raise ContourError(f"no ROI with number {roi_number} can be used")
        return contours

    def points(self, contours: Ints) -> tuple[Floats, Ints]:
        """Return the points of some contours, by their indices.

        Returns (float64 (n, 3), (x, y, z) in mm, int64 (k + 1,)): those of contour j
        are points[ends[j]:ends[j + 1]]. A contour has none if they cannot be read.
        """
        contours = np.asarray(contours, np.int64)
        counts = self.contours.count[contours]
        ends = np.zeros(len(contours) + 1, np.int64)
        np.cumsum(counts, out=ends[1:])
        starts = self._starts[contours]
        first = int(starts[0]) if len(starts) else 0
        if (starts - ends[:-1] == first).all():  # they lie side by side
            return self._points[first : first + int(ends[-1])], ends
        rows = np.repeat(starts - ends[:-1], counts)
        rows += np.arange(len(rows))
        return self._points[rows], ends

    def have_contours(self) -> list[bool]:
        """Return which ROIs have contours; if several share a number, all of them."""
        indices = np.flatnonzero(np.bincount(self.contours.roi + 1)).tolist()
        # Contours that belong to no ROI may be those of one without a number.
        outlined = {self.rois[k - 1].number if k else -1 for k in indices}
        return [roi.number in outlined for roi in self.rois]

    def text(self, contour: int) -> bytes:
        """Return the points of a contour as the text that they have in the file."""
        offset, length = self._spans[contour].tolist()
        return self._data[offset : offset + max(length, 0)].tobytes()

    def text_lengths(self, contours: Ints) -> Ints:
        """Return how many bytes the points of some contours have in the file."""
        lengths: Ints = self._spans[contours, 1]
        return lengths

    def readable_points(self, contour: int) -> Floats:
        """Return points that can be read of a contour of which others cannot.

        Returns float64 (n, 3), mm, of the first READABLE_BYTES.
        """
        offset, length = self._spans[contour].tolist()
        text = self._data[offset : offset + min(length, READABLE_BYTES)].tobytes()
        values = [value.strip(b" \0") for value in text.split(b"\\")]
        if length > READABLE_BYTES:
            values.pop()  # it may be cut
        numbers = [float(x) if DECIMALS.fullmatch(x) else np.nan for x in values]
        points = np.array(numbers[: len(numbers) // 3 * 3]).reshape(-1, 3)
        readable: Floats = points[(np.abs(points) <= MAX_COORDINATE_MM).all(axis=1)]
        return readable


def is_structure_set(head: bytes) -> bool:
    """Return whether a file's first bytes say that it is an RT structure set.

    The first kilobyte is enough for nearly all of them.
    """
    return CLASS.search(head) is not None


def read_structure_set(data: bytes, name: str) -> StructureSet:
    """Read a structure set.

    name : name of the file in messages

    Raises DicomError if the file as a whole cannot be used.
    """
    if len(data) > MAX_STRUCTURE_SET_BYTES:
        raise DicomError(
            f"{name}: is {len(data)} bytes long, over the limit of "
            f"{MAX_STRUCTURE_SET_BYTES}"
        )
    data, offset, explicit, big = _find_dataset(data, name)
    content = np.frombuffer(data, np.uint8)
    rows = FIRST_ROWS
    while True:
        found = np.empty((rows, 4), np.int64)
        wrong, count, where, tag = sequences.walk_sequences(
            content, offset, explicit, big, WANTED, found
        )
        if wrong != sequences.FINE:
            element = f"element ({tag >> 16:04X},{tag & 0xFFFF:04X}) at byte {where}"
            raise DicomError(f"{name}: {element} {WRONG[wrong]}")
        if count <= rows:
            break
        _check_count(count, MAX_STRUCTURE_SET_VALUES, "values and items", name)
        rows = count
    return _Reading(_Elements(content, found[:count]), name).structure_set()


def _find_dataset(data: bytes, name: str) -> tuple[bytes, int, bool, int]:
    """Return (data, offset of the dataset, whether VRs are explicit, 1 if big-endian).

    Deflated data are inflated.
    """
    offset = 132 if data[128:132] == b"DICM" else 0
    syntax = b""
    while data[offset : offset + 2] == b"\2\0":
        head = data[offset : offset + 12]
        is_long = head[4:6] in (b"OB", b"OW", b"UN", b"UT", b"SQ")
        size = 12 if is_long else 8
        length = int.from_bytes(head[8:12] if is_long else head[6:8], "little")
        value = data[offset + size : offset + size + length]
        if len(value) < length or len(head) < size or not head[4:6].isalpha():
            raise DicomError(f"{name}: its meta group is damaged or truncated")
        if head[:4] == b"\2\0\x10\0":
            syntax = value.strip(b" \0")
        offset += size + length
    if syntax == DEFLATED:
        data, offset = _inflate(data, offset, name), 0
    first = data[offset : offset + 6]
    # The letters of a VR, as pydicom does, whatever the syntax says.
    explicit = len(first) == 6 and first[4:].isalpha() and first[4:].isupper()
    big = syntax == BIG_ENDIAN or (not syntax and first[:2] == b"\0\x08")
    if len(first) < 6 or (big and not explicit):
        raise DicomError(f"{name}: has no dataset; it is damaged or no DICOM file")
    return data, offset, explicit, int(big)


def _inflate(data: bytes, offset: int, name: str) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflater.decompress(data[offset:], MAX_STRUCTURE_SET_BYTES + 1)
    except zlib.error:
        raise DicomError(f"{name}: its deflated data are damaged") from None
    if len(content) > MAX_STRUCTURE_SET_BYTES:
        raise DicomError(
            f"{name}: inflates to more than {MAX_STRUCTURE_SET_BYTES} bytes, the limit"
        )
    if not inflater.eof:
        raise DicomError(f"{name}: its deflated data end too early; it is truncated")
    return content


def _check_count(count: int, most: int, what: str, name: str) -> None:
    if count > most:
        raise DicomError(f"{name}: has {count} {what}, over the limit of {most}")


class _Elements:
    """The elements that `walk_sequences` has found, by items and names."""

    def __init__(self, data: NDArray[np.uint8], found: Ints):
        self.data = data
        number, self._offset, self._length, self._parent = found.T
        # The numbers of items are below 0, those of elements above.
        order = np.argsort(number, kind="stable")
        first = -len(ITEMS) + 1
        bounds = np.searchsorted(number[order], np.arange(first, len(NUMBERS) + 2))
        rows = [order[a:b] for a, b in pairwise(bounds.tolist())]
        self._elements = {name: rows[k - first] for name, k in NUMBERS.items()}
        self._items = {item: rows[-k - first] for k, item in enumerate(ITEMS)}
        self._index = np.full(len(found), -1)  # of items among those of their kind
        for of_kind in self._items.values():
            self._index[of_kind] = np.arange(len(of_kind))
        self._items["dataset"] = np.array([-1])

    def count(self, item: str) -> int:
        """Return how many items of a kind there are."""
        return len(self._items[item])

    def parents(self, item: str) -> Ints:
        """Return the index of the item in which each item of a kind lies."""
        parents: Ints = self._index[self._parent[self._items[item]]]
        return parents

    def spans(self, item: str, name: str) -> Ints:
        """Return offset and length of an element in all items of a kind, int64 (n, 2).

        The length is -1 where it is absent.
        """
        spans = np.zeros((self.count(item), 2), np.int64)
        spans[:, 1] = -1
        rows = self._elements[name]
        items = self._index[self._parent[rows]] if item != "dataset" else rows * 0
        spans[items, 0] = self._offset[rows]
        spans[items, 1] = self._length[rows]
        return spans

    def values(self, item: str, name: str) -> list[bytes | None]:
        """Return an element of all items of a kind, None where it is absent."""
        return [
            self.bytes_at(*span) if span[1] >= 0 else None
            for span in self.spans(item, name).tolist()
        ]

    def bytes_at(self, offset: int, length: int) -> bytes:
        """Return a value; it is empty if its length is negative."""
        return self.data[offset : offset + max(length, 0)].tobytes()

    def texts(self, item: str, name: str, width: int) -> NDArray[np.uint8]:
        """Return short texts of all items of a kind, as `copy_texts` does."""
        spans = self.spans(item, name)
        texts = np.empty((len(spans), width), np.uint8)
        sequences.copy_texts(self.data, spans, texts)
        return texts

    def numbers(self, item: str, name: str) -> Ints:
        """Return whole numbers of all items of a kind, as `read_whole_numbers` does."""
        spans = self.spans(item, name)
        numbers = np.empty(len(spans), np.int64)
        contour_points.read_whole_numbers(self.data, spans, numbers)
        return numbers


class _Reading:
    """Makes a StructureSet of elements, and collects problems."""

    def __init__(self, elements: _Elements, name: str):
        self._elements = elements
        self._name = name
        self._problems: list[Problem] = []

    def structure_set(self) -> StructureSet:
        elements, name = self._elements, self._name
        sop_class = self._uid("SOPClassUID")
        if sop_class and sop_class.encode() != STRUCTURE_SET:
            raise DicomError(
                f"{name}: is no RT structure set, but of class {sop_class}"
            )
        _check_count(elements.count("roi"), MAX_ROIS, "ROIs", name)
        _check_count(elements.count("outline"), MAX_ROIS, "ROIs with contours", name)
        if not sop_class and not elements.count("roi"):
            raise DicomError(f"{name}: is no RT structure set, and has no SOPClassUID")
        (character_set,) = elements.values("dataset", "character set")
        character_set = (character_set or b"").strip(b" \0")
        (patient,) = elements.values("dataset", "PatientID")
        series = self._series()
        rois = self._rois(character_set)
        spans = elements.spans("contour", "ContourData")
        contours, ranges, points, starts = self._contours(rois, spans)
        return StructureSet(
            patient_id=decode_text(patient or b"", character_set)[0],
            study=self._uid("StudyInstanceUID"),
            sop_instance=self._uid("SOPInstanceUID"),
            frame_of_reference=self._uid("FrameOfReferenceUID"),
            series=series,
            rois=rois,
            contours=contours,
            problems=tuple(self._problems),
            _data=elements.data,
            _spans=spans,
            _points=points,
            _starts=starts,
            _ranges=ranges,
        )

    def _uid(self, name: str) -> str:
        (value,) = self._elements.values("dataset", name)
        uid = _as_uid(value)
        if uid is None:
            raise DicomError(
                f"{self._name}: {name} is text of {len(value or b'')} bytes, expected "
                "a UID"
            )
        return uid

    def _series(self) -> tuple[NamedSeries, ...]:
        elements = self._elements
        frames = [_as_uid(x) for x in elements.values("frame", "frame of series")]
        frame_of = elements.parents("study")[elements.parents("series")]
        series: dict[NamedSeries, None] = {}
        uids = elements.values("series", "SeriesInstanceUID")
        for value, frame in zip(uids, frame_of.tolist(), strict=True):
            uid = _as_uid(value)
            if uid:
                series[NamedSeries(uid, frames[frame] or "")] = None
            else:
                reason = "RTReferencedSeriesSequence names a series without a valid UID"
                self._problems.append(Problem(-1, -1, reason))
        return tuple(series)

    def _rois(self, character_set: bytes) -> tuple[Roi, ...]:
        elements = self._elements
        numbers = np.maximum(elements.numbers("roi", "ROINumber"), -1).tolist()
        names = elements.values("roi", "ROIName")
        frames = elements.values("roi", "frame of ROI")
        character_sets = elements.values("roi", "character set of ROI")
        counts = Counter(numbers)
        rois = []
        columns = zip(numbers, names, frames, character_sets, strict=True)
        for k, (number, raw, frame, own_set) in enumerate(columns):
            in_set = character_set if own_set is None else own_set.strip(b" \0")
            name, is_decoded = decode_text(raw or b"", in_set)
            uid = _as_uid(frame)
            rois.append(Roi(number, name, uid or ""))
            reasons = []
            if number < 0:
                reasons.append("ROINumber is missing, or no number from 0")
            elif counts[number] > 1:
                reasons.append(f"{counts[number]} ROIs have the ROINumber {number}")
            if not name:
                reasons.append("ROIName is empty")
            elif not is_decoded:
                reasons.append("ROIName is not written in the SpecificCharacterSet")
            elif escaped(name) != name:
                reasons.append("ROIName has control or format characters")
            elif len(name.encode()) > MAX_TEXT_BYTES:
                reasons.append(f"ROIName has more than {MAX_TEXT_BYTES} bytes")
            if uid is None:
                reasons.append("ReferencedFrameOfReferenceUID is no UID")
            self._problems += [Problem(k, -1, reason) for reason in reasons]
        return tuple(rois)

    def _match_outlines(
        self, rois: tuple[Roi, ...]
    ) -> tuple[Ints, Ints, dict[int, range]]:
        """Find the ROI of each item of ROIContourSequence, and its contours.

        Returns (int64 (n,), index of the ROI or -1; int64 (n + 1,), the first contour
        of each item; the contours of each ROINumber that can be used).
        """
        elements = self._elements
        bad = {problem.roi for problem in self._problems}
        indices = {roi.number: k for k, roi in reversed([*enumerate(rois)])}
        indices.pop(-1, None)
        numbers = elements.numbers("outline", "ReferencedROINumber").tolist()
        parents = elements.parents("contour")
        bounds = np.searchsorted(parents, np.arange(len(numbers) + 1))
        ranges = {roi.number: range(0) for k, roi in enumerate(rois) if k not in bad}
        found = np.full(len(numbers), -1)
        used = set()
        columns = zip(numbers, pairwise(bounds.tolist()), strict=True)
        for j, (number, (start, stop)) in enumerate(columns):
            found[j] = roi = indices.get(number, -1)
            if start == stop:
                continue
            if roi < 0:
                reason = (
                    f"item {j + 1} of ROIContourSequence belongs to no ROI: its "
                    "ReferencedROINumber is "
                    + (f"{number}" if number >= 0 else "missing or no number from 0")
                )
                self._problems.append(Problem(-1, start, reason))
            elif roi in used:
                reason = "several items of ROIContourSequence have its number"
                if ranges.pop(number, None) is not None:
                    self._problems.append(Problem(roi, -1, reason))
            elif number in ranges:
                ranges[number] = range(start, stop)
            used.add(roi)
        return found, bounds, ranges

    def _contours(
        self, rois: tuple[Roi, ...], spans: Ints
    ) -> tuple[Contours, dict[int, range], Floats, Ints]:
        """Return the contours, those of each ROINumber, and their points.

        spans : int64 (c, 2), offset and length of each ContourData

        The points are float64 (p, 3), mm, of all contours that can be read; and int64
        (c,), the index of the first one of each contour.
        """
        elements = self._elements
        roi_of_item, bounds, ranges = self._match_outlines(rois)
        item = elements.parents("contour")
        checks, points, starts = _read_points(elements.data, spans)
        can_be_read = checks[:, 0] >= contour_points.FEW_POINTS
        ref_bounds, ref_instances, ref_frames, has_bad_frame = self._references()
        texts = elements.texts("contour", "ContourGeometricType", len(KINDS[1]))
        kind = np.full(len(spans), UNKNOWN_KIND)
        for code, text in enumerate(KINDS):
            kind[_as_strings(texts) == text.encode()] = code
        contours = Contours(
            roi=roi_of_item[item],
            number=np.arange(len(spans)) - bounds[item] + 1,
            kind=kind,
            count=np.where(can_be_read, checks[:, 1] // 3, 0),
            is_valid=np.zeros(len(spans), bool),
            ref_bounds=ref_bounds,
            ref_instances=ref_instances,
            ref_frames=ref_frames,
        )
        for usable in ranges.values():
            contours.is_valid[usable.start : usable.stop] = True
        self._check_contours(contours, checks, has_bad_frame)
        return contours, ranges, points, starts

    def _check_contours(
        self, contours: Contours, checks: Ints, has_bad_frame: NDArray[np.bool_]
    ) -> None:
        """Note the first problem of each contour, and mark it as invalid."""
        elements = self._elements
        status, values = checks.T
        count, kind = contours.count, contours.kind
        announced = elements.numbers("contour", "NumberOfContourPoints")
        is_other = (announced >= 0) & (announced != count) & (count > 0)
        few = contour_points.FEW_POINTS
        has_few = (status == few) & np.isin(kind, (CLOSED_PLANAR, CLOSEDPLANAR_XOR))
        tests: list[tuple[NDArray[np.bool_], Callable[[int], str]]] = [
            (
                kind == UNKNOWN_KIND,
                lambda _: "ContourGeometricType is missing or unknown",
            ),
            (
                status == contour_points.EMPTY,
                lambda _: "has no ContourData",
            ),
            (
                status == contour_points.NO_NUMBER,
                lambda k: f"value {values[k]} of ContourData is no number",
            ),
            (
                status == contour_points.NO_TRIPLES,
                lambda k: f"ContourData has {values[k]} values, no multiple of three",
            ),
            (
                status == contour_points.TOO_FAR,
                lambda _: f"a coordinate is over {MAX_COORDINATE_MM:g} mm",
            ),
            (
                announced == contour_points.NOT_WHOLE,
                lambda _: "NumberOfContourPoints is no whole number",
            ),
            (
                is_other,
                lambda k: (
                    f"has {count[k]} points, but NumberOfContourPoints is "
                    f"{announced[k]}"
                ),
            ),
            (
                self._has_offset(),
                lambda _: "has a ContourOffsetVector, which is not supported",
            ),
            (
                has_bad_frame,
                lambda _: "ReferencedFrameNumber is no number from 1",
            ),
            (
                has_few,
                lambda _: "has fewer than three distinct points",
            ),
        ]
        is_bad = np.logical_or.reduce([mask for mask, _ in tests])
        bad = np.flatnonzero(is_bad).tolist()
        what = "contours that cannot be used"
        _check_count(len(bad), MAX_CONTOUR_PROBLEMS, what, self._name)
        for k in bad:
            j = next(j for j, (mask, _) in enumerate(tests) if mask[k])
            reason = tests[j][1](k)
            roi = int(contours.roi[k])
            self._problems.append(Problem(roi, k, reason, j == len(tests) - 1))
        contours.is_valid[bad] = False

    def _has_offset(self) -> NDArray[np.bool_]:
        """Return which contours have a ContourOffsetVector that is not zero."""
        elements = self._elements
        spans = elements.spans("contour", "ContourOffsetVector")
        has_offset = spans[:, 1] > 0
        for k in np.flatnonzero(has_offset).tolist():
            values, wrong = _read_numbers(elements.bytes_at(*spans[k].tolist()))
            has_offset[k] = wrong > 0 or any(values)
        return has_offset

    def _references(
        self,
    ) -> tuple[Ints, NDArray[np.bytes_], Ints, NDArray[np.bool_]]:
        """Return the columns of references, and which contours have a bad frame."""
        elements = self._elements
        contour = elements.parents("image")
        texts = elements.texts("image", "ReferencedSOPInstanceUID", MAX_UID_BYTES)
        is_digit = (texts >= ord("0")) & (texts <= ord("9"))
        texts[~(is_digit | (texts == ord(".")) | (texts == 0)).all(axis=1)] = 0
        frames = elements.numbers("image", "ReferencedFrameNumber")
        has_bad_frame = np.zeros(elements.count("contour"), bool)
        has_bad_frame[contour[frames == 0]] = True
        several = np.flatnonzero(frames == contour_points.NOT_WHOLE).tolist()
        repeats = np.ones(len(frames), np.int64)
        lists = {}
        spans = elements.spans("image", "ReferencedFrameNumber")
        total = len(frames)
        for k in several:
            raw = elements.bytes_at(*spans[k].tolist())
            repeats[k] = 1 + raw.count(b"\\")
            total += int(repeats[k])
            _check_count(total, MAX_STRUCTURE_SET_VALUES, "references", self._name)
            lists[k] = [
                int(text) if WHOLE.fullmatch(text) else 0 for text in raw.split(b"\\")
            ]
            has_bad_frame[contour[k]] |= 0 in lists[k]
        all_frames = np.repeat(np.maximum(frames, 0), repeats)
        starts = np.cumsum(repeats) - repeats
        for k, numbers in lists.items():
            all_frames[starts[k] : starts[k] + repeats[k]] = numbers
        contour = np.repeat(contour, repeats)
        bounds = np.searchsorted(contour, np.arange(len(has_bad_frame) + 1))
        instances = np.repeat(_as_strings(texts), repeats)
        return bounds, instances, all_frames, has_bad_frame


def _as_strings(texts: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """Return texts (n, w) of `copy_texts` as strings (n,), a view."""
    return texts.view(f"S{texts.shape[1]}").reshape(len(texts))


def _as_uid(value: bytes | None) -> str | None:
    """Return a UID, "" if it is absent; None if it is no UID."""
    text = (value or b"").strip(b" \0").decode("latin-1")
    return text if is_uid(text) else None


def _read_numbers(text: bytes) -> tuple["array[float]", int]:
    """Return the numbers of a DS, and 0; or some of them, and which value is none.

    The value is counted from 1.
    """
    numbers = array("d")
    text = text.strip(b" \0")
    start = 0
    while start <= len(text):
        stop = text.find(b"\\", start + PIECE_BYTES)
        stop = len(text) if stop < 0 else stop
        values = text[start:stop].split(b"\\")
        if not DECIMALS.fullmatch(text, start, stop):
            matches = [DECIMALS.fullmatch(value) is not None for value in values]
            return numbers, len(numbers) + 1 + matches.index(False)
        numbers.extend(map(float, values))
        start = stop + 1
    return numbers, 0


def _read_points(data: NDArray[np.uint8], spans: Ints) -> tuple[Ints, Floats, Ints]:
    """Read and check the points of contours.

    spans : int64 (c, 2), offset and length of each ContourData

    Returns (int64 (c, 2), as `read_contours` writes it; float64 (p, 3), mm, the points
    of all contours that can be read; int64 (c,), where those of each begin).
    """
    checks = np.empty((len(spans), 2), np.int64)
    # There is a backslash between two numbers of a contour.
    most = len(spans) + int(np.count_nonzero(data == ord("\\")))
    numbers = np.empty(most)
    count = contour_points.read_contours(
        data, spans, MAX_COORDINATE_MM, checks, numbers
    )
    # Memory that is not written to takes no room.
    parts = [numbers[:count]]
    values = np.where(checks[:, 0] >= contour_points.FEW_POINTS, checks[:, 1], 0)
    starts = np.cumsum(values) - values
    for k in np.flatnonzero(checks[:, 0] == contour_points.IRREGULAR).tolist():
        offset, length = spans[k].tolist()
        text = data[offset : offset + length].tobytes()
        status, given = _read_irregular(text)
        checks[k] = status
        if checks[k, 0] >= contour_points.FEW_POINTS:
            starts[k] = count
            parts.append(given)
            count += len(given)
    points = (parts[0] if len(parts) == 1 else np.concatenate(parts)).reshape(-1, 3)
    points.flags.writeable = False
    return checks, points, starts // 3


def _read_irregular(text: bytes) -> tuple[tuple[int, int], Floats]:
    """Return what a ContourData is, as `read_contours` does, and its numbers."""
    numbers, wrong = _read_numbers(text)
    given = np.frombuffer(numbers)
    if wrong:
        return (contour_points.NO_NUMBER, wrong), given
    if len(numbers) % 3:
        return (contour_points.NO_TRIPLES, len(numbers)), given
    if max(map(abs, numbers)) > MAX_COORDINATE_MM:
        return (contour_points.TOO_FAR, len(numbers)), given
    values = iter(numbers)
    distinct = set()
    for point in zip(values, values, values, strict=True):
        distinct.add(point)
        if len(distinct) == 3:
            return (contour_points.VALID, len(numbers)), given
    return (contour_points.FEW_POINTS, len(numbers)), given


def decode_text(raw: bytes, character_set: bytes) -> tuple[str, bool]:
    """Return a text without blanks around it, and whether it could be decoded.

    character_set : the value of SpecificCharacterSet
    """
    text = ""
    try:
        if b"\x1b" not in raw and (raw.isascii() or character_set in LATIN):
            text = raw.decode("latin-1")
        elif character_set == UTF_8:
            text = raw.decode("utf-8")
        else:
            text = _decode_with_pydicom(raw, character_set)
    except (UnicodeDecodeError, DicomError):
        text = raw.decode("ascii", "replace")
    return text.strip(" \0"), "\ufffd" not in text


def _decode_with_pydicom(raw: bytes, character_set: bytes) -> str:
    from pydicom.charset import convert_encodings, decode_bytes
    from pydicom.valuerep import TEXT_VR_DELIMS

    from fastseg.dicom.fallback import pydicom_failures

    names = [name.strip() for name in character_set.decode("latin-1").split("\\")]
    with pydicom_failures(""):
        text: str = decode_bytes(raw, convert_encodings(names), TEXT_VR_DELIMS)
        return text
