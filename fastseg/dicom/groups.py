"""Functional groups: what an enhanced file says of each of its frames.

Two sequences of a file hold them: one item for all frames together, and one item for
each frame. A *group* is a sequence in such an item; its first item has the elements. Of
those that belong together, such as slope and intercept, all come from one level: that
of the frame if it has any of them, else the shared one, else the top level of the file.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from fastseg._kernels.files.elements import find_grouped, vr_code
from fastseg.bounds import MAX_FRAMES
from fastseg.dicom.header import ENHANCED, HEADER_ELEMENTS, Header, value_error
from fastseg.errors import DicomError

SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
# Bytes of a sequence that only pydicom can read, such as one in big-endian order, at
# most: it takes seconds for them.
MAX_PARSED_BYTES = 2**22


class Grouped(NamedTuple):
    """An element of a group.

    group   : tag of the group's sequence
    tag, vr : of the element
    keyword : of HEADER_ELEMENTS, whose value it replaces
    """

    group: int
    tag: int
    vr: str
    keyword: str


def _of(group: int, *keywords: str) -> list[Grouped]:
    return [Grouped(group, *HEADER_ELEMENTS[keyword], keyword) for keyword in keywords]


# Elements that belong together, by group (PS3.3 C.7.6.16.2).
SETS = [
    _of(0x00289110, "PixelSpacing"),
    _of(0x00289110, "SliceThickness"),
    _of(0x00209113, "ImagePositionPatient"),
    _of(0x00209116, "ImageOrientationPatient"),
    _of(0x00289145, "RescaleSlope", "RescaleIntercept"),
    _of(0x00289132, "WindowCenter", "WindowWidth", "VOILUTFunction"),
    # TemporalPositionIndex in Frame Content.
    [Grouped(0x00209111, 0x00209128, "UL", "TemporalPositionIdentifier")],
    # NominalCardiacTriggerDelayTime in Cardiac Synchronization.
    [Grouped(0x00189118, 0x00209153, "FD", "TriggerTime")],
]
ELEMENTS = [element for elements in SETS for element in elements]
# int64 (w, 3), as `find_grouped` takes it.
WANTED = np.array(
    [(element.group, element.tag, vr_code(element.vr)) for element in ELEMENTS],
    np.int64,
)
RESCALE = ("RescaleSlope", "RescaleIntercept")
# Classes whose values are Hounsfield units: those of Enhanced CT and of its legacy
# conversion. What is stored is something else, so that they need a rescale. Other
# classes may lack it: values of MR have no unit, and the group is optional there (PS3.3
# A.71.4); Enhanced PET should have it (A.56.4), but without one its values are taken as
# stored, as those of a PET file of one frame are.
HOUNSFIELD = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")


class _Level(NamedTuple):
    """The items of one of the two sequences.

    size  : number of items
    value : returns the value of one of ELEMENTS in an item, by their indices; None if
        it is absent
    given : returns for each item whether it has a value of one of ELEMENTS, by its
        index
    """

    size: int
    value: Callable[[int, int], Any]
    given: Callable[[int], list[bool]]


class Groups(NamedTuple):
    """The functional groups of a file; None for a sequence that it does not have."""

    shared: _Level | None
    per_frame: _Level | None

    def values(self, frame: int) -> dict[str, Any]:
        """Return what they say of a frame, by keyword of HEADER_ELEMENTS.

        An element that belongs to one of these, and is absent beside it, is None.
        """
        values: dict[str, Any] = {}
        j = 0
        for elements in SETS:
            for level, item in ((self.per_frame, frame), (self.shared, 0)):
                if level is None or item >= level.size:
                    continue
                some = {
                    element.keyword: level.value(item, j + k)
                    for k, element in enumerate(elements)
                }
                if any(value not in (None, "") for value in some.values()):
                    values |= some
                    break
            j += len(elements)
        return values

    @property
    def frames(self) -> int | None:
        """Of how many frames there are groups; None if the file does not say."""
        return None if self.per_frame is None else self.per_frame.size


def read_groups(dataset: Any, name: str) -> Groups:
    """Return the functional groups of a dataset.

    Raises DicomError, and what pydicom raises for damaged data.
    """
    return Groups(*(_level(dataset, keyword, name) for keyword in (SHARED, PER_FRAME)))


def check_rescale(
    groups: Groups, get: Callable[[str], Any], header: Header, name: str
) -> None:
    """Raise DicomError if the rescale of a frame would be a guess.

    get    : returns the value of a keyword at the top level of the file
    header : of the first frame; there are groups of each frame or of none

    Either all frames have a slope or none has, and so with the intercept. Both are
    needed where values are Hounsfield units, but for localizers.
    """
    if groups.shared is None and groups.per_frame is None:
        return
    first = [element.keyword for element in ELEMENTS].index(RESCALE[0])

    def given(level: _Level | None) -> Sequence[tuple[bool, ...]]:
        columns = [level.given(first + k) for k in range(2)] if level else []
        return list(zip(*columns, strict=True))

    # What frames have that give neither.
    others = tuple(get(keyword) not in (None, "") for keyword in RESCALE)
    others = next((pair for pair in given(groups.shared)[:1] if any(pair)), others)
    pairs = [pair if any(pair) else others for pair in given(groups.per_frame)]
    for k, keyword in enumerate(RESCALE):
        column = [pair[k] for pair in pairs or [others]]
        if all(column):
            continue
        if any(column):
            raise DicomError(
                f"{name}: frame {column.index(False)}, counted from 0, has no "
                f"{keyword}, but other frames have; its values would be a guess. Get "
                "the file again"
            )
        if header.sop_class in HOUNSFIELD and not header.is_localizer:
            raise DicomError(
                f"{name}: is of the class {ENHANCED[header.sop_class]} but has no "
                f"{keyword}; its Hounsfield units would be a guess. Get the file again"
            )


def _level(dataset: Any, keyword: str, name: str) -> _Level | None:
    raw = dataset.get_item(keyword)
    if raw is None:
        return None
    if isinstance(raw, RawDataElement):
        data = raw.value or b""
        if raw.is_little_endian and (raw.is_implicit_VR or raw.VR == "SQ"):
            level = _scan(data, not raw.is_implicit_VR, name)
            if level is not None:
                return level
        if len(data) > MAX_PARSED_BYTES:
            raise DicomError(
                f"{name}: {keyword} has {len(data)} bytes and a form that only pydicom "
                f"reads, expected at most {MAX_PARSED_BYTES}"
            )
    items = dataset.get(keyword) or []
    if not all(isinstance(item, Dataset) for item in items):
        raise value_error(name, keyword, raw.value)

    def value(item: int, j: int) -> Any:
        group = items[item].get(Tag(ELEMENTS[j].group))
        if group is None or not group.value:
            return None
        element = group.value[0].get(Tag(ELEMENTS[j].tag))
        return None if element is None else element.value

    def is_given(item: Dataset, j: int) -> bool:
        group = item.get(Tag(ELEMENTS[j].group))
        element = group and group.value and group.value[0].get_item(ELEMENTS[j].tag)
        return bool(element) and not _is_blank(element.value)

    return _Level(len(items), value, lambda j: [is_given(item, j) for item in items])


def _is_blank(value: Any) -> bool:
    """Return whether the value of an element, converted or not, is empty."""
    if isinstance(value, bytes):
        return not value.strip(b" \0")
    return value is None or value == ""


def _scan(data: bytes, is_explicit: bool, name: str) -> _Level | None:
    """Return the items in the bytes of a sequence; None if the kernel refuses them.

    pydicom takes 15 us for each element in them, and converts only those that are
    wanted here.
    """
    content = np.frombuffer(data, np.uint8)
    nothing = np.zeros((0, len(ELEMENTS), 2), np.int64)
    count = find_grouped(content, is_explicit, WANTED, nothing)
    if count < 0:
        return None
    if count > MAX_FRAMES:
        raise DicomError(
            f"{name}: has functional groups of {count} frames, expected at most "
            f"{MAX_FRAMES}"
        )
    found = np.zeros((count, len(ELEMENTS), 2), np.int64)
    find_grouped(content, is_explicit, WANTED, found)

    def value(item: int, j: int) -> Any:
        offset, size = found[item, j].tolist()
        if not offset:
            return None
        element = ELEMENTS[j]
        text = data[offset : offset + size]
        try:
            return _convert(element.tag, element.vr, text)
        except Exception as exc:
            raise value_error(name, element.keyword, text) from exc

    def given(j: int) -> list[bool]:
        return [
            not _is_blank(data[offset : offset + size])
            for offset, size in found[:, j].tolist()
        ]

    return _Level(count, value, given)


@lru_cache(4096)
def _convert(tag: int, vr: str, data: bytes) -> Any:
    """Return the value that pydicom reads. Frames have most values in common."""
    raw = RawDataElement(Tag(tag), vr, len(data), data, 0, False, True)
    return convert_raw_data_element(raw).value
