"""Functional groups: what an enhanced file says of each of its frames.

Two sequences of a file hold them: one item for all frames together, and one item for
each frame. A *group* is a sequence in such an item; its first item has the elements. Of
those that belong together, such as slope and intercept, all come from one level: that
of the frame if it has any of them, else the shared one, else the top level of the file.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from fastseg._kernels.files.elements import find_grouped, vr_code
from fastseg.bounds import MAX_FRAMES
from fastseg.dicom.header import HEADER_ELEMENTS, value_error
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


class _Level(NamedTuple):
    """The items of one of the two sequences.

    size  : number of items
    value : returns the value of one of ELEMENTS in an item, by their indices; None if
        it is absent
    """

    size: int
    value: Callable[[int, int], Any]


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

    return _Level(len(items), value)


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

    return _Level(count, value)


@lru_cache(4096)
def _convert(tag: int, vr: str, data: bytes) -> Any:
    """Return the value that pydicom reads. Frames have most values in common."""
    raw = RawDataElement(Tag(tag), vr, len(data), data, 0, False, True)
    return convert_raw_data_element(raw).value
