"""Walks the elements of a DICOM file, also those within sequences.

A length in a file may be wrong: every offset is compared with the end of what encloses
it before it is used, and grows with every step, so that the time is linear in the bytes
of the file. Sequences that nobody wants are skipped by their lengths, or walked if they
have none.
"""

import numpy as np

from fastseg._kernels.files.elements import (
    DELIMITERS,
    HEADER_SIZES,
    ITEM,
    ITEM_END,
    SEQUENCE_END,
    SQ,
    UNDEFINED,
    A,
    starts_with_letters,
    vr_code,
)
from fastseg._kernels.jit import empty, entry, inlined, kernel

UN = vr_code("UN")
FIRST_TAG = (
    0x00080000  # of datasets; others are commands, the meta group, or a DICOMDIR
)
# A file is refused if sequences that are walked are nested deeper than this.
DEEPEST = 16
# What is wrong with a file that is refused; `walk_sequences` says where.
FINE, BEYOND, NO_VR, MISPLACED, TWICE, NO_SEQUENCE, TOO_DEEP = range(7)
# Columns of the stack: where an open item or sequence ends (-1: at a delimiter), where
# it has to end at most, its kind (-1: nothing is wanted), its row in `found`, whether
# its VRs are explicit, and a bit field of the numbers that it has.
END, LIMIT, KIND, ROW, EXPLICIT, SEEN = range(6)
SPACE = 32


@inlined
def read_u16(data, offset, big):
    """Return the number in two bytes; big is 1 if they are big-endian, else 0."""
    return np.int64(data[offset + big]) | np.int64(data[offset + 1 - big]) << 8


@inlined
def read_u32(data, offset, big):
    """Return the number in four bytes; big is 1 if they are big-endian, else 0."""
    low = read_u16(data, offset + 2 * big, big)
    return low | read_u16(data, offset + 2 - 2 * big, big) << 16


@kernel
def are_zeros(data, offset):
    """Return whether all bytes from an offset on are zeros."""
    for k in range(offset, len(data)):  # noqa: SIM110 (numba has no generators here)
        if data[k] != 0:
            return False
    return True


@kernel
def read_head(data, offset, limit, explicit, big):
    """Read the beginning of an element; at least 8 bytes are there.

    limit : end of what encloses it

    Returns (what is wrong, VR or 0, offset of its value, length).
    """
    if not explicit:
        return FINE, 0, offset + 8, read_u32(data, offset + 4, big)
    if not starts_with_letters(data, offset + 4):
        return NO_VR, 0, 0, 0
    vr = read_u16(data, offset + 4, 0)
    size = HEADER_SIZES[data[offset + 4] - A, data[offset + 5] - A]
    if size == 8:
        return FINE, vr, offset + 8, read_u16(data, offset + 6, big)
    if size != 12:
        return NO_VR, 0, 0, 0
    if offset + 12 > limit:
        return BEYOND, 0, 0, 0
    return FINE, vr, offset + 12, read_u32(data, offset + 8, big)


@kernel
def find_wanted(wanted, kind, tag):
    """Return the number of a wanted element and the kind of its items, or -1, -1."""
    if kind >= 0:
        for k in range(len(wanted)):
            if wanted[k, 1] == tag and wanted[k, 0] == kind:
                return wanted[k, 2], wanted[k, 3]
    return np.int64(-1), np.int64(-1)


@kernel
def push_level(stack, depth, offset, length, kind, row, explicit):
    """Put an open item or sequence on the stack.

    offset : of its content
    length : of its content, UNDEFINED if it ends with a delimiter
    """
    is_defined = length != UNDEFINED
    stack[depth, END] = offset + length if is_defined else -1
    stack[depth, LIMIT] = offset + length if is_defined else stack[depth - 1, LIMIT]
    stack[depth, KIND] = kind
    stack[depth, ROW] = row
    stack[depth, EXPLICIT] = explicit
    stack[depth, SEEN] = 0


@kernel
def add_row(found, count, number, offset, length, row):
    """Write a row of `found` if there is one; return the number of rows."""
    if count < len(found):
        found[count, 0] = number
        found[count, 1] = offset
        found[count, 2] = length
        found[count, 3] = row
    return count + 1


@entry(
    data="const uint8[::1]",
    offset="int64",
    explicit="bool",
    big="int64",
    wanted="const int64[:, ::1]",
    found="int64[:, ::1]",
)
def walk_sequences(data, offset, explicit, big, wanted, found):
    """Find the wanted elements of a dataset and of the items of wanted sequences.

    data     : uint8 (n,), the file
    offset   : of the first element of the dataset
    explicit : whether VRs are explicit. The items of sequences of an explicit file are
        implicit if no letters follow their first tag (PS3.5 6.2.2, note 4)
    big      : 1 if numbers are big-endian, else 0
    wanted   : int64 (w, 4): the kind of items in which the element lies (0: the
        dataset), its tag, its number from 1 to 62, and the kind of its own items from
        1, -1 if it is no sequence
    found    : int64 (m, 4), written, in the order of the file. For each wanted value
        its number, and for each item of a wanted sequence its kind, negative; the
        offset of its content and its length in bytes (UNDEFINED if an item ends with a
        delimiter); the row of the item in which it lies, -1 for the dataset

    Returns (what is wrong, number of rows, offset and tag of the element at fault).
    There may be more rows than `found` has.
    """
    # The open items (at even depths) and sequences, the dataset first.
    stack = empty((2 * DEEPEST + 1, 6), np.int64)
    depth = 0
    count = 0
    stack[0, END] = stack[0, LIMIT] = len(data)
    stack[0, KIND] = stack[0, SEEN] = 0
    stack[0, ROW] = -1
    stack[0, EXPLICIT] = explicit
    while True:
        kind, row, limit = stack[depth, KIND], stack[depth, ROW], stack[depth, LIMIT]
        if offset == stack[depth, END]:
            if depth == 0:
                return FINE, count, 0, 0
            depth -= 1
            continue
        if offset + 8 > limit:
            wrong = FINE if depth == 0 and are_zeros(data, offset) else BEYOND
            return wrong, count, offset, 0
        tag = read_u16(data, offset, big) << 16 | read_u16(data, offset + 2, big)
        if depth & 1 or tag >= DELIMITERS:
            length = read_u32(data, offset + 4, big)
            offset += 8
            if depth & 1 and tag == ITEM:
                if length != UNDEFINED and length > limit - offset:
                    return BEYOND, count, offset - 8, tag
                if kind >= 0:
                    count = add_row(found, count, -kind, offset, length, row)
                    row = count - 1
                is_explicit = stack[depth, EXPLICIT] != 0 and (
                    big == 1
                    or offset + 6 > limit
                    or starts_with_letters(data, offset + 4)
                )
                depth += 1
                push_level(stack, depth, offset, length, kind, row, is_explicit)
                continue
            end = SEQUENCE_END if depth & 1 else ITEM_END
            if tag != end or stack[depth, END] >= 0 or length != 0:
                return MISPLACED, count, offset - 8, tag
            depth -= 1
            continue
        if depth == 0 and tag < FIRST_TAG:
            is_padding = tag == 0 and are_zeros(data, offset)
            return (FINE if is_padding else MISPLACED), count, offset, tag
        wrong, vr, start, length = read_head(
            data, offset, limit, stack[depth, EXPLICIT] != 0, big
        )
        if wrong != FINE:
            return wrong, count, offset, tag
        if length != UNDEFINED and length > limit - start:
            return BEYOND, count, offset, tag
        number, inner = find_wanted(wanted, kind, tag)
        if number >= 0:
            if stack[depth, SEEN] >> number & 1:
                return TWICE, count, offset, tag
            stack[depth, SEEN] |= np.int64(1) << number
        if length == UNDEFINED or inner >= 0:
            # What is UN may be a sequence, whose items are implicit then.
            if (vr != 0 and vr != SQ and vr != UN) or (number >= 0 and inner < 0):
                return NO_SEQUENCE, count, offset, tag
            if depth == 2 * DEEPEST:
                return TOO_DEEP, count, offset, tag
            depth += 1
            push_level(
                stack, depth, start, length, inner, row, stack[depth - 1, EXPLICIT]
            )
            offset = start
            continue
        if number >= 0:
            count = add_row(found, count, number, start, length, row)
        offset = start + length


@kernel
def trim(data, start, stop):
    """Return the range of data[start:stop] without spaces and zeros around it."""
    while start < stop and data[start] in (0, SPACE):
        start += 1
    while start < stop and data[stop - 1] in (0, SPACE):
        stop -= 1
    return start, stop


@entry(data="const uint8[::1]", spans="const int64[:, ::1]", out="uint8[:, ::1]")
def copy_texts(data, spans, out):
    """Copy short texts, without spaces and zeros around them.

    data  : uint8 (n,)
    spans : int64 (m, 2), offset and length of each text; the length is negative if
        there is none
    out   : uint8 (m, w), written: each text with zeros behind it; 1 and zeros for one
        that is longer
    """
    for k in range(len(spans)):
        start, length = spans[k, 0], spans[k, 1]
        start, stop = trim(data, start, start + max(length, 0))
        is_long = stop - start > out.shape[1]
        for j in range(out.shape[1]):
            inside = j < stop - start and not is_long
            out[k, j] = data[start + j] if inside else np.uint8(0)
        if is_long:
            out[k, 0] = 1
