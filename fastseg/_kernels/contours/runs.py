"""Write the pixels of a mask from the bits that mark where its runs begin and end.

A row of a mask has one bit per column. At the column of each set bit the mask changes
from outside to inside or back. `polygon.FillScratch` describes the arrays: bits, group,
marks, winding. Numbers of rows are uint64.
"""

import numpy as np

from fastseg._kernels.jit import inlined, kernel, trailing_zeros

# Hot loops index with unsigned numbers: numba then leaves out the test for negative
# indices, which takes a tenth of the time.
u64 = np.uint64
ONE = np.uint64(1)
ZERO = np.uint64(0)
# Pixels in a block that vector instructions write.
WIDE, NARROW = np.uint64(32), np.uint64(16)


@inlined
def group_shift(words):
    """Return the shift that maps the words of a row to at most 64 groups."""
    shift = 0
    while words > (64 << shift):
        shift += 1
    return shift


@inlined
def touch_column(bits, group, row, column):
    """Note that a column's word may have set bits."""
    bits[row, u64(bits.shape[1] - 1)] |= ONE << (u64(column >> 6) >> u64(group))


@inlined
def toggle_column(bits, group, row, column):
    """Toggle a column's bit."""
    bits[row, u64(column >> 6)] ^= ONE << u64(column & 63)
    touch_column(bits, group, row, column)


@inlined
def set_column(bits, group, row, column):
    """Set a column's bit."""
    bits[row, u64(column >> 6)] |= ONE << u64(column & 63)
    touch_column(bits, group, row, column)


@inlined
def mark_column(bits, marks, group, row, column):
    """Mark a column as one on the outline."""
    marks[row, u64(column >> 6)] |= ONE << u64(column & 63)
    touch_column(bits, group, row, column)


@kernel
def apply_winding(bits, winding, group, row):
    """Keep only the bits of a row where the winding number becomes or leaves zero."""
    words = bits.shape[1] - 1
    groups = bits[row, u64(words)]
    total = 0
    while groups:
        first = trailing_zeros(groups) << group
        groups &= groups - ONE
        for word in range(first, min(first + (1 << group), words)):
            pending = bits[row, u64(word)]
            result = ZERO
            while pending:
                bit = trailing_zeros(pending)
                pending &= pending - ONE
                column = u64((word << 6) + bit)
                before = total
                total += winding[row, column]
                winding[row, column] = 0
                if (before == 0) != (total == 0):
                    result |= ONE << u64(bit)
            bits[row, u64(word)] = result


@kernel
def apply_marks(bits, marks, group, row, closed):
    """Add the marked columns to the runs of a row, or remove them if not `closed`."""
    words = bits.shape[1] - 1
    groups = bits[row, u64(words)]
    inside = ZERO  # all ones if the word begins inside a run
    before = ZERO  # 1 if the column before this word is in the result
    word = 0
    while word < words and (groups >> u64(word >> group) or before):
        filled = bits[row, u64(word)]
        for shift in (1, 2, 4, 8, 16, 32):
            filled ^= filled << u64(shift)
        filled ^= inside
        inside = ZERO - (filled >> u64(63))
        if closed:
            filled |= marks[row, u64(word)]
        else:
            filled &= ~marks[row, u64(word)]
        marks[row, u64(word)] = 0
        bits[row, u64(word)] = filled ^ ((filled << ONE) | before)
        before = filled >> u64(63)
        word += 1
    bits[row, u64(words)] = ~ZERO


@inlined
def fill_block(cells, start, size, value):
    """Set cells[start:start + size] to value; size is a constant, so vectors do it."""
    for i in range(size):
        cells[start + u64(i)] = value


@inlined
def fill_run(cells, start, stop, value):
    """Set cells[start:stop] to value; start and stop are uint64.

    It writes blocks of fixed size, each with a few vector instructions; the last block
    overlaps the one before it. For the 40 pixels of a typical run this is faster than
    a loop with a remainder, and than memset.
    """
    length = stop - start
    if length >= WIDE:
        while start + WIDE < stop:
            fill_block(cells, start, WIDE, value)
            start += WIDE
        fill_block(cells, stop - WIDE, WIDE, value)
    elif length >= NARROW:
        fill_block(cells, start, NARROW, value)
        fill_block(cells, stop - NARROW, NARROW, value)
    else:
        fill_block(cells, start, stop - start, value)


@kernel
def add_run(cells, start, stop, value):
    """Set the bits of value in cells[start:stop]; start and stop are uint64."""
    for index in range(start, stop):
        cells[u64(index)] |= value


@inlined
def write_run(cells, done, start, stop, value, clear):
    """Write one run; return the new value of `done`.

    done  : all cells before this index are written
    clear : whether to overwrite all cells, those between the runs with 0. Each cell is
        written once and in order: up to 1.3 times faster than clearing a mask first.
        Without it, the bits of value are added to the run's cells
    """
    if clear:
        fill_run(cells, done, start, ZERO)
        fill_run(cells, start, stop, value)
        return stop
    add_run(cells, start, stop, value)
    return done


@inlined
def write_runs(bits, group, row, cells, done, row_start, value, clear):
    """Write the runs between the set bits of a row; return the new value of `done`.

    The bits are cleared.

    cells       : 1-D view of the masks
    row_start   : uint64, index of the row's first pixel in cells
    done, clear : as for `write_run`
    """
    inside = False
    start = row_start
    words = bits.shape[1] - 1
    groups = bits[row, u64(words)]
    bits[row, u64(words)] = 0
    while groups:
        word = trailing_zeros(groups) << group
        groups &= groups - ONE
        last = word + (1 << group)
        last = last if last < words else words
        while word < last:
            pending = bits[row, u64(word)]
            bits[row, u64(word)] = 0
            word_start = row_start + u64(word << 6)
            word += 1
            while pending:
                index = word_start + u64(trailing_zeros(pending))
                pending &= pending - ONE
                if inside:
                    done = write_run(cells, done, start, index, value, clear)
                start = index
                inside = not inside
    return done
