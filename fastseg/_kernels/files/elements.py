"""Finds elements in the bytes of a DICOM file, or refuses the file.

It accepts uncompressed little-endian files with ascending tags and even lengths. As a
length in a file may be wrong, every offset is compared with the size of the data before
it is used, and grows with every step.
"""

import numpy as np

from fastseg._kernels.jit import empty, entry, inlined, kernel
from fastseg.bounds import MAX_ELEMENTS

META_START = 132  # after the preamble and DICM
DICM = int.from_bytes(b"DICM", "little")
META_LENGTH, LAST_META = 0x00020000, 0x0002FFFF
TRANSFER_SYNTAX = 0x00020010
CHARACTER_SET = 0x00080005
PIXEL_DATA = 0x7FE00010
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
DELIMITERS = 0xFFFE0000  # the lowest tag of their group
UNDEFINED = 0xFFFFFFFF
CUT = -1  # instead of a number of elements
# A file is refused if sequences of undefined length are nested deeper than this.
DEEPEST = 16
# A file is refused if a wanted value other than the pixels has more bytes.
LONGEST_VALUE = 256

# Standard sequences that images have before their pixels; ascending. In implicit files,
# where no VR says what is a sequence, pydicom looks into its dictionary.
STANDARD_SEQUENCES = np.array(
    [
        *(0x00080051, 0x00080082, 0x00080096, 0x00080110, 0x00081032, 0x00081049),
        *(0x00081052, 0x00081062, 0x00081072, 0x00081084, 0x00081110, 0x00081111),
        *(0x00081115, 0x00081120, 0x0008113A, 0x00081140, 0x0008114A, 0x00081198),
        *(0x00081199, 0x00081200, 0x00081250, 0x00082112, 0x00082218, 0x00082220),
        *(0x00082228, 0x00082230, 0x00089092, 0x00089121, 0x00089215, 0x00100024),
        *(0x00100050, 0x00101002, 0x00120064, 0x00180012, 0x00180014, 0x00180026),
        *(0x00180029, 0x0018002A, 0x00321064, 0x00380004, 0x00400008, 0x00400026),
        *(0x00400027, 0x00400039, 0x00400260, 0x00400275, 0x00400293, 0x00400440),
        *(0x00400555, 0x0040100A, 0x00401012, 0x0040A043, 0x0040A073, 0x0040A088),
        *(0x0040A168, 0x0040A170, 0x0040A370, 0x0040A730, 0x00540012),
        *(0x00540013, 0x00540016, 0x00540022, 0x00540032, 0x00540052, 0x00540062),
        *(0x00540063, 0x00540072, 0x00540220, 0x00540222, 0x00540300, 0x00540302),
        *(0x00540304, 0x00540306, 0x00540410, 0x00540412, 0x00540414),
    ],
    np.int64,
)

IMPLICIT = np.frombuffer(b"1.2.840.10008.1.2\0", np.uint8)
EXPLICIT = np.frombuffer(b"1.2.840.10008.1.2.1\0", np.uint8)


def vr_code(name: str) -> int:
    """Return the number that `u16` reads from the two letters of a VR."""
    return int.from_bytes(name.encode(), "little")


UL, US, UI, SQ, OB, OW = map(vr_code, ("UL", "US", "UI", "SQ", "OB", "OW"))
# Bytes from tag to value, by the two letters of a VR (PS3.5 7.1.2); 0 if unknown.
A, LETTERS = ord("A"), 26
HEADER_SIZES = np.zeros((LETTERS, LETTERS), np.uint8)
for size, names in [
    (8, "AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US"),
    (12, "OB OD OF OL OV OW SQ SV UC UN UR UT UV"),
]:
    for name in names.split():
        HEADER_SIZES[ord(name[0]) - A, ord(name[1]) - A] = size


@inlined
def u16(data, offset):
    """Return the little-endian number in two bytes."""
    return np.int64(data[offset]) | np.int64(data[offset + 1]) << 8


@inlined
def u32(data, offset):
    """Return the little-endian number in four bytes."""
    return u16(data, offset) | u16(data, offset + 2) << 16


@inlined
def read_tag(data, offset):
    """Return a tag as one number: group, element."""
    return u16(data, offset) << 16 | u16(data, offset + 2)


@inlined
def starts_with_letters(data, offset):
    """Return whether two capital letters are at an offset, as in an explicit VR."""
    first, second = np.int64(data[offset]) - A, np.int64(data[offset + 1]) - A
    return 0 <= first < LETTERS and 0 <= second < LETTERS


@kernel
def read_element(data, offset, explicit):
    """Return (tag, VR, offset of the value, length); offset 0 if refused."""
    if offset + 8 > len(data):
        return 0, 0, 0, 0
    tag = read_tag(data, offset)
    if not explicit:
        return tag, 0, offset + 8, u32(data, offset + 4)
    if not starts_with_letters(data, offset + 4):
        return 0, 0, 0, 0
    vr = u16(data, offset + 4)
    size = HEADER_SIZES[data[offset + 4] - A, data[offset + 5] - A]
    if size == 8:
        return tag, vr, offset + 8, u16(data, offset + 6)
    # A long header has two reserved bytes between the VR and the length.
    if size == 12 and offset + 12 <= len(data) and u16(data, offset + 6) == 0:
        return tag, vr, offset + 12, u32(data, offset + 8)
    return 0, 0, 0, 0


@kernel
def is_text(data, start, size, text):
    """Return whether `size` bytes at an offset are a text."""
    if size != len(text):
        return False
    for k in range(size):  # noqa: SIM110 (numba has no generators here)
        if data[start + k] != text[k]:
            return False
    return True


@kernel
def read_meta(data):
    """Return (offset of the dataset, whether VRs are explicit); offset 0 if refused."""
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
        last_tag, offset = tag, value + length
        if offset + 8 > size:
            return 0, False
        if u16(data, offset) != 2:
            break
        tag, vr, value, length = read_element(data, offset, True)
        if value == 0 or tag <= last_tag or length & 1 or length > size - value:
            return 0, False
        if tag == TRANSFER_SYNTAX and vr == UI:
            implicit = is_text(data, value, length, IMPLICIT)
            explicit = is_text(data, value, length, EXPLICIT)
    # If two capital letters follow the first tag, pydicom reads explicit VRs, even in a
    # file whose transfer syntax is implicit.
    if explicit or (implicit and not starts_with_letters(data, offset + 4)):
        return offset, explicit
    return 0, False


@kernel
def starts_sequence(data, offset):
    """Return whether the value at an offset begins as that of a sequence does."""
    tag = read_tag(data, offset)
    return tag in (ITEM, SEQUENCE_END)


@kernel
def is_standard_sequence(tag):
    """Return whether a tag is one of STANDARD_SEQUENCES."""
    for known in STANDARD_SEQUENCES:
        if known >= tag:
            return known == tag
    return False


@kernel
def end_of_sequence(data, offset, explicit, lenient):
    """Return the offset after a sequence of undefined length.

    lenient : accept what pydicom might not read as a sequence, or read in another
        character set

    Returns 0 if it is refused, -1 if the data end before the sequence.
    """
    size = len(data)
    depth = 0
    in_item = False
    ends = empty(DEEPEST, np.int64)  # of the open items; -1 if undefined
    while offset + 8 <= size:
        if in_item and offset == ends[depth]:
            in_item = False
            continue
        tag = read_tag(data, offset)
        if tag < DELIMITERS:
            tag, vr, value, length = read_element(data, offset, explicit)
            if value == 0 and offset + 12 > size:
                return -1
            # `dicom.scan` checks the character set of the file, but none of an item.
            if not in_item or value == 0 or (tag == CHARACTER_SET and not lenient):
                return 0
            if length != UNDEFINED:
                # If the value ends beyond its item, the offset never equals the end of
                # the item, and the file is refused at the end of the data.
                offset = value + length
            elif not explicit and value + 4 > size:
                return -1
            elif depth + 1 < DEEPEST and (
                vr == SQ
                if explicit
                else starts_sequence(data, value)
                and (lenient or is_standard_sequence(tag))
            ):
                offset, depth, in_item = value, depth + 1, False
            else:
                return 0
            continue
        length = u32(data, offset + 4)
        offset += 8
        if tag == ITEM and not in_item:
            ends[depth] = -1 if length == UNDEFINED else offset + length
            in_item = True
        elif tag == ITEM_END and in_item and ends[depth] < 0 and length == 0:
            in_item = False
        elif tag == SEQUENCE_END and not in_item and length == 0:
            if depth == 0:
                return offset
            depth, in_item = depth - 1, True
        else:
            return 0
    return -1


@kernel
def skip_sequence(data, tag, start, explicit):
    """Return the offset after a sequence of undefined length; 0 or -1 if refused.

    start : offset of its first item
    """
    end = end_of_sequence(data, start, explicit, False)
    if not explicit and not is_standard_sequence(tag):
        # If its dictionary does not list the element as a sequence, pydicom ends it at
        # the first bytes that look like a delimiter, wherever they are.
        for offset in range(start, end - 8):
            if read_tag(data, offset) == SEQUENCE_END:
                return 0
    return end


@kernel
def find_elements(data, wanted, elements):
    """Find the wanted elements of a file; return their number.

    Returns 0 if the file is refused, CUT if the data end before the pixels.

    data     : uint8 (n,), the file or its beginning
    wanted   : int64 (w, 4): tag, VR (`vr_code`), and columns that only
        `content.note_headers` reads. Tags ascend; the last one is PixelData. A file
        that contains an element with VR 0 is refused
    elements : int64 (w, 3), written: for each wanted element in the file its row in
        wanted, the offset of its value (for a US the value itself) and its length in
        bytes. The last one is PixelData

    The pixels may end beyond the data. If they do not, the elements after them must end
    where the data ends.
    """
    size = len(data)
    k = 0
    count = 0
    read = 0
    last_tag = LAST_META
    offset, explicit = read_meta(data)
    while 0 < offset < size:
        tag, vr, value, length = read_element(data, offset, explicit)
        read += 1
        if value == 0 and offset + 12 > size:
            return CUT
        if value == 0 or tag <= last_tag or tag >= DELIMITERS or read > MAX_ELEMENTS:
            return 0
        last_tag = tag
        while k < len(wanted) and wanted[k, 0] < tag:
            k += 1
        is_wanted = k < len(wanted) and wanted[k, 0] == tag
        if length == UNDEFINED:
            if is_wanted or (explicit and vr != SQ):
                return 0
            offset = skip_sequence(data, tag, value, explicit)
            continue
        offset = value + length
        if length & 1:
            return 0
        if is_wanted:
            has_same_vr = vr == wanted[k, 1] or (vr == OB and tag == PIXEL_DATA)
            if wanted[k, 1] == 0 or (explicit and not has_same_vr):
                return 0
            if length > LONGEST_VALUE and tag != PIXEL_DATA:
                return 0
            elements[count, 0] = k
            elements[count, 1] = value
            elements[count, 2] = length
            if wanted[k, 1] == US:
                if length != 2:
                    return 0
                if offset > size:
                    return CUT
                elements[count, 1] = u16(data, value)
            count += 1
            if tag == PIXEL_DATA and offset > size:
                return count
    has_pixels = count > 0 and elements[count - 1, 0] == len(wanted) - 1
    if has_pixels:
        return count if offset == size else 0
    return CUT if offset < 0 or offset >= size else 0


@entry(data="const uint8[::1]", offset="int64", explicit="bool", spans="int64[:, ::1]")
def find_sequences(data, offset, explicit, spans):
    """Find the sequences of undefined length before the pixels, and their lengths.

    data     : uint8 (n,), a little-endian file or its beginning
    offset   : of the first element of the dataset
    explicit : whether VRs are explicit
    spans    : int64 (m, 2), written: for each sequence the offset of the four bytes
        that give its length, and its true length

    Returns the number of sequences up to the first element that is not understood, or
    -1 if the data end before that.
    """
    size = len(data)
    count = 0
    while offset + 12 <= size:
        tag, vr, value, length = read_element(data, offset, explicit)
        if value == 0 or tag >= PIXEL_DATA or count == len(spans):
            return count
        offset = value + length
        if length == UNDEFINED:
            if explicit and vr != SQ:
                return count
            if value + 4 > size:
                return -1
            if not explicit and not starts_sequence(data, value):
                return count
            offset = end_of_sequence(data, value, explicit, True)
            if offset <= 0:
                return count if offset == 0 else -1
            spans[count, 0] = value - 4
            spans[count, 1] = offset - value
            count += 1
    return -1


@kernel
def read_in_item(data, offset, end, explicit):
    """Read the next element of an item.

    end : offset after the item; -1 if its length is undefined

    Returns (tag, VR, offset of the value, its end, offset after the element). The tag
    is ITEM_END after the last element. The last offset is 0 if the item is refused.
    """
    size = len(data)
    if offset == end:
        return ITEM_END, 0, offset, offset, offset
    if offset + 8 > size:
        return 0, 0, 0, 0, 0
    if end < 0 and read_tag(data, offset) == ITEM_END:
        return ITEM_END, 0, offset, offset, offset + 8
    tag, vr, value, length = read_element(data, offset, explicit)
    if value == 0 or tag >= DELIMITERS:
        return 0, 0, 0, 0, 0
    after = value + length
    if length == UNDEFINED:
        if explicit and vr != SQ:
            return 0, 0, 0, 0, 0
        after = end_of_sequence(data, value, explicit, True)
    if after <= 0 or after > size or (end >= 0 and after > end):
        return 0, 0, 0, 0, 0
    return tag, vr, value, after, after


@kernel
def open_item(data, offset, stop):
    """Return (offset of an item's first element, end as for `read_in_item`).

    Returns (0, 0) if no item that ends before `stop` is at the offset.
    """
    if offset + 8 > stop or read_tag(data, offset) != ITEM:
        return 0, 0
    length = u32(data, offset + 4)
    if length == UNDEFINED:
        return offset + 8, -1
    end = offset + 8 + length
    return (offset + 8, end) if end <= stop else (0, 0)


@kernel
def find_in_group(data, start, stop, explicit, sequence, wanted, found):
    """Find the wanted elements of one functional group; return whether it is valid.

    data[start:stop] : the value of the group's sequence, whose first item is read
    sequence         : its tag
    found            : int64 (w, 2), written as in `find_grouped`
    """
    if stop - start < 8 or read_tag(data, start) == SEQUENCE_END:
        return True
    offset, end = open_item(data, start, stop)
    while offset > 0:
        tag, vr, value, value_end, offset = read_in_item(data, offset, end, explicit)
        if offset > 0 and tag == ITEM_END:
            return True
        for j in range(len(wanted)):
            if wanted[j, 0] == sequence and wanted[j, 1] == tag:
                if explicit and vr != wanted[j, 2]:
                    return False
                found[j, 0] = value
                found[j, 1] = value_end - value
    return False


@entry(
    data="const uint8[::1]",
    explicit="bool",
    wanted="const int64[:, ::1]",
    found="int64[:, :, ::1]",
)
def find_grouped(data, explicit, wanted, found):
    """Find the wanted elements in functional groups, in the items of a sequence.

    data     : uint8 (n,), the value of the sequence, little-endian
    explicit : whether VRs are explicit
    wanted   : int64 (w, 3): tag of a group's sequence, tag and VR of an element in its
        first item
    found    : int64 (m, w, 2), written for the first m items: offset and length of each
        value in bytes; what is not there keeps its value

    Returns the number of items, or -1 if the data are refused.
    """
    size = len(data)
    offset = np.int64(0)
    count = 0
    while offset + 8 <= size:
        if read_tag(data, offset) == SEQUENCE_END:
            return count
        offset, end = open_item(data, offset, size)
        while offset > 0:
            tag, vr, value, value_end, offset = read_in_item(
                *(data, offset, end, explicit)
            )
            if offset > 0 and tag == ITEM_END:
                break
            is_wanted = False
            for j in range(len(wanted)):
                is_wanted |= wanted[j, 0] == tag
            if is_wanted and count < len(found):
                if explicit and vr != SQ:
                    return -1
                if not find_in_group(
                    *(data, value, value_end, explicit, tag, wanted, found[count])
                ):
                    return -1
        if offset == 0:
            return -1
        count += 1
    return count if offset == size else -1
