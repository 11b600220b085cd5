"""The size in a code stream is compared with the header before anything is decoded."""

import struct

import pytest
from pydicom import uid
from pydicom.encaps import encapsulate

from fastseg import bounds
from fastseg.codecs.codestream import CodedFrame, check_fragments, check_stream
from fastseg.errors import DicomError

ROWS, COLUMNS = 100, 70


def check(data, syntax, bits=16, rows=ROWS, columns=COLUMNS):
    frame = CodedFrame(
        data, str(syntax), rows, columns, bits, bits, False, "MONOCHROME2"
    )
    check_stream(frame, "a.dcm")


def segment(marker, data):
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def jpeg(marker=0xC0, rows=ROWS, columns=COLUMNS, components=1, precision=8, after=b""):
    head = struct.pack(">BHHB", precision, rows, columns, components)
    frame = segment(marker, head + b"\1\x11\0" * components)
    # An application segment that looks like a frame, and fill bytes, come before it.
    app = segment(0xE1, segment(0xC0, struct.pack(">BHHB", 8, 9, 9, 1)))
    scan = segment(0xDA, b"\1\1\0\0\0\0")
    begin = b"\xff\xd8" + app + b"\xff\xff\xff" + frame[1:] + after
    return begin + scan + b"data\xff\xd9"


def extended_size(width, rows, columns):
    """Return the segment of JPEG-LS for sizes over 65 535."""
    numbers = rows.to_bytes(width, "big") + columns.to_bytes(width, "big")
    return segment(0xF8, bytes([4, width]) + numbers)


def jpeg_2000(
    rows=ROWS,
    columns=COLUMNS,
    offset=(0, 0),
    tile=(4096, 4096),
    components=1,
    precision=12,
    step=1,
):
    """Return SOC and SIZ; offset and tile are (x, y)."""
    x, y = offset
    numbers = (columns + x, rows + y, x, y, *tile, 0, 0)
    siz = struct.pack(">H8IH", 0, *numbers, components)
    siz += bytes([precision - 1, step, step]) * components
    return b"\xff\x4f" + segment(0x51, siz) + segment(0x52, bytes(10))


def jp2(stream, length=None):
    """Return a code stream in the boxes of a JP2 file."""
    box = struct.pack(">I4s", 20, b"ftyp") + bytes(12)
    box += struct.pack(">I4sQ", 1, b"jp2h", 20) + bytes(4)
    head = struct.pack(">I4s", 8 + len(stream) if length is None else length, b"jp2c")
    return b"\0\0\0\x0cjP  \r\n\x87\n" + box + head + stream


def rle(*segments, count=None, first=64):
    offsets = [first]
    for data in segments:
        offsets.append(offsets[-1] + len(data))
    numbers = [len(segments) if count is None else count, *offsets[:-1]]
    return struct.pack("<16I", *(numbers + [0] * 16)[:16]) + b"".join(segments)


BASELINE, LOSSLESS = uid.JPEGBaseline8Bit, uid.JPEGLosslessSV1
LS, J2K, HTJ2K, RLE = uid.JPEGLSLossless, uid.JPEG2000, uid.HTJ2K, uid.RLELossless

VALID = {
    "baseline": (jpeg(), BASELINE),
    "extended": (jpeg(0xC1, precision=12), uid.JPEGExtended12Bit),
    "progressive": (jpeg(0xC2), BASELINE),
    "lossless": (jpeg(0xC3, precision=16), LOSSLESS),
    "tables behind the frame": (jpeg(after=segment(0xC4, bytes(20))), BASELINE),
    "JPEG-LS": (jpeg(0xF7, precision=12), LS),
    "JPEG-LS with parameters": (jpeg(0xF7, after=segment(0xF8, b"\1" * 11)), LS),
    "JPEG-LS with its rows elsewhere": (
        jpeg(0xF7, rows=0, after=extended_size(3, ROWS, COLUMNS)),
        uid.JPEGLSNearLossless,
    ),
    "JPEG 2000": (jpeg_2000(), J2K),
    "JPEG 2000 with an offset": (jpeg_2000(offset=(3, 5)), uid.JPEG2000Lossless),
    "JPEG 2000 in tiles": (jpeg_2000(tile=(32, 4096)), J2K),
    "JPEG 2000 in one row of thin tiles": (jpeg_2000(tile=(70, 100)), J2K),
    "JP2": (jp2(jpeg_2000()), J2K),
    "JP2 to the end of the file": (jp2(jpeg_2000(), 0), J2K),
    "HTJ2K": (jpeg_2000(precision=16), HTJ2K),
    "signed": (jpeg_2000(precision=128 + 12), J2K),
    "RLE": (rle(b"a" * 200, b"b" * 200), RLE),
}
REFUSED = {
    "rows": (jpeg(rows=101), BASELINE, "of 101 x 70 pixels, its header says 100 x 70"),
    "columns": (jpeg(columns=7), BASELINE, "of 100 x 7 pixels"),
    "no rows": (jpeg(rows=0), BASELINE, "of 0 x 70 pixels"),
    "components": (jpeg(components=3), BASELINE, "3 components, its header says 1"),
    "precision": (jpeg(0xC3, precision=17), LOSSLESS, "17 bits, its header allocates"),
    "no precision": (jpeg(precision=0), LOSSLESS, "values of 0 bits"),
    "two frames": (jpeg(after=segment(0xC1, bytes(9))), BASELINE, "2 frame headers"),
    "no frame": (jpeg(0xE0), BASELINE, "0 frame headers"),
    "JPEG for JPEG-LS": (jpeg(), LS, "0 frame headers"),
    "JPEG-LS for JPEG": (jpeg(0xF7), BASELINE, "0 frame headers"),
    "no SOI": (jpeg()[1:], BASELINE, "does not begin as JPEG"),
    "nothing": (b"", BASELINE, "does not begin as JPEG"),
    "cut": (jpeg()[:30], BASELINE, "its header is cut"),
    "end": (b"\xff\xd8\xff\xd9", BASELINE, "ends before its frame"),
    "no length": (b"\xff\xd8\xff\xe0\0\1", BASELINE, "has no length"),
    "no marker": (b"\xff\xd8\0\xc0" + bytes(20), BASELINE, "a marker is missing"),
    "another extended size": (
        jpeg(0xF7, rows=0, after=extended_size(4, 60_000, COLUMNS)),
        LS,
        "of 60000 x 70 pixels",
    ),
    "two sizes": (
        jpeg(0xF7, after=extended_size(4, 60_000, COLUMNS)),
        LS,
        "several sizes",
    ),
    "an extended size without numbers": (
        jpeg(0xF7, after=segment(0xF8, b"\4\2\0\0")),
        LS,
        "another length",
    ),
    "JPEG 2000 of 60000 x 60000": (
        jpeg_2000(60_000, 60_000),
        J2K,
        "of 60000 x 60000 pixels, its header says 100 x 70",
    ),
    "HTJ2K of 60000 x 60000": (jpeg_2000(60_000, 60_000), HTJ2K, "of 60000 x 60000"),
    "JP2 of 60000 x 60000": (jp2(jpeg_2000(60_000, 60_000)), J2K, "of 60000 x 60000"),
    "JP2 without a stream": (jp2(b"")[:-8], J2K, "its header is cut"),
    "JP2 with an empty box": (
        jp2(b"").replace(b"\0\0\0\x14ftyp", bytes(4) + b"ftyp"),
        J2K,
        "a box of its header has no length",
    ),
    "JP2 with a box of exabytes": (
        jp2(jpeg_2000()).replace(b"jp2h" + bytes(7), b"jp2h" + b"\xff" * 7),
        J2K,
        "its header is cut",
    ),
    "components of JPEG 2000": (jpeg_2000(components=3), J2K, "3 components"),
    "16 384 components": (jpeg_2000(components=16_384), J2K, "16384 components"),
    "38 bits": (jpeg_2000(precision=38), J2K, "values of 38 bits"),
    "subsampled": (jpeg_2000(step=2), J2K, "subsampled"),
    "step 0": (jpeg_2000(step=0), J2K, "subsampled"),
    "7 000 tiles": (jpeg_2000(tile=(1, 1)), J2K, "tiles of 1 pixels a side"),
    "tiles of no width": (jpeg_2000(tile=(0, 64)), J2K, "hold no pixel"),
    "tiles beside the image": (
        jpeg_2000(offset=(5000, 0)),
        J2K,
        "hold no pixel",
    ),
    "no SIZ": (b"\xff\x4f" + segment(0x52, bytes(60)), J2K, "begin as JPEG 2000"),
    "a cut SIZ": (jpeg_2000()[:40], J2K, "its header is cut"),
    "another length of SIZ": (
        jpeg_2000().replace(b"\xff\x51\0\x29", b"\xff\x51\0\x28"),
        J2K,
        "another length",
    ),
    "one segment of RLE": (rle(b"a" * 99), RLE, "1 segments, expected 2"),
    "4 billion segments": (rle(b"aa", b"bb", count=2**32 - 1), RLE, "4294967295 seg"),
    "a segment in the header": (
        rle(b"aa", b"bb", first=60),
        RLE,
        "one after the other",
    ),
    "a segment behind the end": (rle(b"aa", b"bb", first=66), RLE, "one after the"),
    "an empty segment": (rle(b"", b"bb"), RLE, "one after the other"),
    "a segment of 50 times its image": (rle(b"a" * 350_000, b"b"), RLE, "one after"),
    "no header of RLE": (b"\2\0", RLE, "its header is cut"),
}


@pytest.mark.parametrize("name", VALID)
def test_streams_of_the_announced_size_pass(name):
    """A code stream of any form passes if it has the size that its header announces."""
    check(*VALID[name])


@pytest.mark.parametrize("name", REFUSED)
def test_streams_of_another_size_are_refused(name):
    """A code stream that disagrees with the header or has no size raises DicomError."""
    data, syntax, message = REFUSED[name]
    with pytest.raises(DicomError, match=rf"^a\.dcm: its code stream .*{message}"):
        check(data, syntax)


@pytest.mark.parametrize("name", VALID)
def test_cut_streams_raise_nothing_else(name):
    """A code stream cut anywhere in its header passes or raises DicomError."""
    data, syntax = VALID[name]
    refused = 0
    for stop in range(len(data)):
        try:
            check(data[:stop], syntax)
        except DicomError:
            refused += 1
    assert refused > 20


TABLE = b"\xfe\xff\x00\xe0" + bytes(4)
END = b"\xfe\xff\xdd\xe0" + bytes(4)


@pytest.mark.parametrize("has_table", [True, False])
def test_the_frames_are_those_of_the_header(has_table):
    """Fewer fragments than frames, or an offset table of others, are refused."""
    items = [b"abcd", b"efgh"]
    one, two = (encapsulate(items[:n], has_bot=has_table) for n in (1, 2))
    check_fragments(one, 1, "a.dcm")
    check_fragments(two, 2, "a.dcm")
    check_fragments(encapsulate(items[:1], fragments_per_frame=2), 1, "a.dcm")
    with pytest.raises(DicomError, match=r"a\.dcm: .* 1 fragments.* says 2 frames"):
        check_fragments(one, 2, "a.dcm")
    with pytest.raises(DicomError, match=r"a\.dcm: .* 0 fragments.* says 1 frames"):
        check_fragments(TABLE + END, 1, "a.dcm")
    if has_table:
        with pytest.raises(DicomError, match=r"2 frames in their offset table"):
            check_fragments(two, 1, "a.dcm")
    else:  # the two may be one frame
        check_fragments(two, 1, "a.dcm")


def test_the_number_of_fragments_is_bounded(monkeypatch):
    """More fragments than the bound are refused; those of a real file are not."""
    monkeypatch.setattr("fastseg.codecs.codestream.MAX_FRAGMENTS", 3)
    item = b"\xfe\xff\x00\xe0\2\0\0\0ab"
    for count in range(1, 4):
        check_fragments(TABLE + item * count + END, 1, "a.dcm")
    with pytest.raises(DicomError, match=r"a\.dcm: .* more than 3 fragments"):
        check_fragments(TABLE + item * 5, 1, "a.dcm")
    assert bounds.MAX_FRAGMENTS > 100_000


def test_the_number_of_segments_is_bounded():
    """Megabytes of empty segments are refused at once, fill bytes cost nothing."""
    count = bounds.MAX_SEGMENTS
    assert count > 10_000
    for part in (segment(0xE0, b""), b"\xff\1"):
        # The frame and the segment before it are two more.
        check(b"\xff\xd8" + part * (count - 3) + jpeg()[2:], BASELINE)
        with pytest.raises(DicomError, match="more than 65536 segments"):
            check(b"\xff\xd8" + part * (count - 2) + jpeg()[2:], BASELINE)
    check(b"\xff\xd8" + b"\xff" * 10**7 + jpeg()[2:], BASELINE)
    box = struct.pack(">I4s", 8, b"free")
    begin, rest = jp2(jpeg_2000())[:12], jp2(jpeg_2000())[12:]
    # The signature is one more, and so are the three boxes of `jp2`.
    check(begin + box * (count - 4) + rest, J2K)
    with pytest.raises(DicomError, match="more than 65536 boxes"):
        check(begin + box * (count - 3) + rest, J2K)
