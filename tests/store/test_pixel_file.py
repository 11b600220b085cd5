"""The file of pixels: buffers are written where they belong, in few calls."""

import os
from collections import Counter

import pytest

from fastseg.store.writing import pixel_file
from fastseg.store.writing.pixel_file import PixelFile

# Offset and bytes of each buffer: neighbours, a gap, and one longer than a call.
BUFFERS = [(3, 4), (7, 4), (11, 4), (15, 4), (30, 9), (39, 25), (64, 2), (66, 2)]


@pytest.mark.skipif(not hasattr(os, "pwritev"), reason="the system has no pwritev")
@pytest.mark.parametrize(
    ("at_once", "bytes_at_once", "calls"),
    [
        (1024, 2**21, [4, 4]),
        (1024, 12, [3, 2]),
        (1024, 8, [2, 2, 2]),
        (3, 2**21, [3, 3]),
        (1024, 1, []),
    ],
)
def test_adjacent_buffers_are_written_in_calls_of_bounded_size(
    tmp_path, monkeypatch, at_once, bytes_at_once, calls
):
    """Several at once up to both bounds, each byte at its offset."""
    monkeypatch.setattr(pixel_file, "MOST_AT_ONCE", at_once)
    monkeypatch.setattr(pixel_file, "BYTES_AT_ONCE", bytes_at_once)
    numbers = []
    pwritev = os.pwritev

    def count(handle, buffers, offset):
        numbers.append(len(buffers))
        return pwritev(handle, buffers, offset)

    monkeypatch.setattr(os, "pwritev", count)
    file = PixelFile(tmp_path / "pixels")
    file.begin(is_new=True)
    data = [bytes([65 + k]) * size for k, (_, size) in enumerate(BUFFERS)]
    file.write_all([offset for offset, _ in BUFFERS], list(map(memoryview, data)))
    file.close()
    written = (tmp_path / "pixels").read_bytes()
    expected = bytearray(68)
    for (offset, size), buffer in zip(BUFFERS, data, strict=True):
        expected[offset : offset + size] = buffer
    assert written == expected
    assert Counter(numbers) == Counter(calls)
