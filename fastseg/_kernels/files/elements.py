"""Finds the elements of a DICOM file: what is not fully understood is refused.

Understood are uncompressed little-endian files in which tags ascend and lengths are
even. All lengths come from the file and are believed by nobody: every offset is
compared with the size of the data before it is used, and grows with every step.
"""

import numpy as np

from fastseg._kernels.jit import inlined, kernel

META_START = 132  # after the preamble and this word
DICM = int.from_bytes(b"DICM", "little")
META_LENGTH, LAST_META = 0x00020000, 0x0002FFFF
TRANSFER_SYNTAX = 0x00020010
CHARACTER_SET = 0x00080005
PIXEL_DATA = 0x7FE00010
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
DELIMITERS = 0xFFFE0000  # the first tag of their group
UNDEFINED = 0xFFFFFFFF
# Sequences inside sequences, and bytes of a fact, beyond which a file is refused.
DEEPEST, LONGEST = 16, 256

IMPLICIT = np.frombuffer(b"1.2.840.10008.1.2\0", np.uint8)
EXPLICIT = np.frombuffer(b"1.2.840.10008.1.2.1\0", np.uint8)


def vr_code(name: str) -> int:
    """Return a VR as the two letters stand in a file, read as one number."""
    return int.from_bytes(name.encode(), "little")


UL, US, UI, SQ, OB, OW = map(vr_code, ("UL", "US", "UI", "SQ", "OB", "OW"))
# Bytes from tag to value, by the two letters of a VR (PS3.5 7.1.2); 0 if unknown.
HEADER_SIZES = np.zeros((256, 256), np.uint8)
for size, names in [
    (8, b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US"),
    (12, b"OB OD OF OL OV OW SQ SV UC UN UR UT UV"),
]:
    HEADER_SIZES[list(names[::3]), list(names[1::3])] = size


@inlined
def u16(data, at):
    """Return the little-endian number in two bytes."""
    return np.int64(data[at]) | np.int64(data[at + 1]) << 8


@inlined
def u32(data, at):
    """Return the little-endian number in four bytes."""
    return u16(data, at) | u16(data, at + 2) << 16


@inlined
def read_tag(data, at):
    """Return a tag as one number: group, element."""
    return u16(data, at) << 16 | u16(data, at + 2)


@inlined
def read_element(data, at, explicit):
    """Return (tag, VR, place of the value, length); the place is 0 if refused."""
    if at + 8 > len(data):
        return 0, 0, 0, 0
    tag = read_tag(data, at)
    if not explicit:
        return tag, 0, at + 8, u32(data, at + 4)
    vr = u16(data, at + 4)
    size = HEADER_SIZES[data[at + 4], data[at + 5]]
    if size == 8:
        return tag, vr, at + 8, u16(data, at + 6)
    # Two bytes are reserved between a long VR and its length.
    if size == 12 and at + 12 <= len(data) and u16(data, at + 6) == 0:
        return tag, vr, at + 12, u32(data, at + 8)
    return 0, 0, 0, 0


@inlined
def read_meta(data):
    """Return (place of the dataset, whether its VRs are explicit); 0 if refused."""
    size = len(data)
    if size < META_START + 12:
        return 0, False
    tag, vr, value, length = read_element(data, META_START, True)
    if u32(data, META_START - 4) != DICM or tag != META_LENGTH or vr != UL:
        return 0, False
    if length != 4:
        return 0, False
    implicit = explicit = False
    while True:
        last, at = tag, value + length
        if at + 8 > size:
            return 0, False
        if u16(data, at) != 2:
            break
        tag, vr, value, length = read_element(data, at, True)
        if value == 0 or tag <= last or length & 1 or length > size - value:
            return 0, False
        if tag == TRANSFER_SYNTAX and vr == UI:
            name = data[value : value + length]
            implicit = np.array_equal(name, IMPLICIT)
            explicit = np.array_equal(name, EXPLICIT)
    # pydicom, which knows liars, takes two capitals in the place of the first
    # element's VR for one, whatever the transfer syntax says.
    capitals = 65 <= data[at + 4] <= 90 and 65 <= data[at + 5] <= 90
    if explicit or (implicit and not capitals):
        return at, explicit
    return 0, False


@inlined
def end_of_sequence(data, at, explicit):
    """Return the place after a sequence of undefined length, 0 if it is refused."""
    size, depth, in_item = len(data), 0, False
    ends = np.empty(DEEPEST, np.int64)  # of the open items; -1 where undefined
    while at + 8 <= size:
        if in_item and at == ends[depth]:
            in_item = False
            continue
        tag = read_tag(data, at)
        if tag < DELIMITERS:
            tag, vr, value, length = read_element(data, at, explicit)
            # A character set of its own would have to be one that is known.
            if not in_item or value == 0 or tag == CHARACTER_SET:
                return 0
            if length != UNDEFINED:
                # Behind the end of its item only the end of the data follows.
                at = value + length
            elif explicit and vr == SQ and depth + 1 < DEEPEST:
                at, depth, in_item = value, depth + 1, False
            else:
                return 0
            continue
        length = u32(data, at + 4)
        at += 8
        if tag == ITEM and not in_item:
            ends[depth] = -1 if length == UNDEFINED else at + length
            in_item = True
        elif tag == ITEM_END and in_item and ends[depth] < 0 and length == 0:
            in_item = False
        elif tag == SEQUENCE_END and not in_item and length == 0:
            if depth == 0:
                return at
            depth, in_item = depth - 1, True
        else:
            return 0
    return 0


@inlined
def skip_sequence(data, start, explicit):
    """Return the place after a sequence of undefined length, 0 if it is refused.

    start : where its first item is
    """
    end = end_of_sequence(data, start, explicit)
    if not explicit:
        # What pydicom's dictionary does not call a sequence may end for it at the
        # first delimiter, wherever that is.
        for at in range(start, end - 8):
            if read_tag(data, at) == SEQUENCE_END:
                return 0
    return end


@kernel
def find_elements(data, wanted, found):
    """Find elements of a file; return how many, 0 if it is not understood.

    data   : uint8 (n,), the file or its beginning
    wanted : int64 (k, 2), tag and VR (`vr_code`), tags ascending, the last PixelData;
        a file that has one with VR 0 is refused
    found  : int64 (k, 3), for each in turn its row in wanted, the place of its value,
        or of a US the value, and the length; the last is PixelData

    Pixels may reach beyond the data. Elements behind them are looked at if any of
    them is in the data.
    """
    size, k, count, last = len(data), 0, 0, LAST_META
    at, explicit = read_meta(data)
    while 0 < at < size:
        tag, vr, value, length = read_element(data, at, explicit)
        if value == 0 or tag <= last or tag >= DELIMITERS:
            return 0
        last = tag
        while k < len(wanted) and wanted[k, 0] < tag:
            k += 1
        is_wanted = k < len(wanted) and wanted[k, 0] == tag
        if length == UNDEFINED:
            if is_wanted or (explicit and vr != SQ):
                return 0
            at = skip_sequence(data, value, explicit)
            continue
        at = value + length
        if length & 1:
            return 0
        if is_wanted:
            alike = vr == wanted[k, 1] or (vr == OB and tag == PIXEL_DATA)
            if wanted[k, 1] == 0 or (explicit and not alike):
                return 0
            if length > LONGEST and tag != PIXEL_DATA:
                return 0
            found[count, 0], found[count, 1], found[count, 2] = k, value, length
            if wanted[k, 1] == US:
                if length != 2 or at > size:
                    return 0
                found[count, 1] = u16(data, value)
            count += 1
            if tag == PIXEL_DATA and at > size:
                return count
    has_pixels = count > 0 and found[count - 1, 0] == len(wanted) - 1
    return count if at == size and has_pixels else 0
