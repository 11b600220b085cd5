"""Makes DICOM files, valid and spoilt, without pydicom, and compares both readers.

A file is a list of elements, written as PS3.5 section 7.1 prescribes. All faults come
from a `random.Random`, so that a seed determines the file.
"""

from io import BytesIO
from typing import NamedTuple

from fastseg.dicom import check_request, fallback, scan
from fastseg.errors import FastsegError

LONG_VRS = (b"OB", b"OW", b"OF", b"SQ", b"UN", b"UT", b"UC", b"UR", b"OV", b"SV")
SHORT_VRS = (
    b"US",
    b"IS",
    b"DS",
    b"CS",
    b"UI",
    b"LO",
    b"SH",
    b"UL",
    b"PN",
    b"DA",
    b"SS",
)
UNDEFINED = 2**32 - 1
ITEM, ITEM_END, END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
SYNTAXES = {True: b"1.2.840.10008.1.2.1\0", False: b"1.2.840.10008.1.2\0"}
LIMIT = 2**20
# Usual numbers, and rare or invalid ones.
NUMBERS = [b"1 ", b"0.5 ", b"-3", b"1e3 ", b" 7 ", b"+.5 ", b"5. ", b"007 ", b"1\\2 "]
RARE_NUMBERS = [
    b"",
    b"  ",
    b"\0\0",
    b"5\0",
    b"1\\",
    b"\\1",
    b"nan ",
    b"inf ",
    b"1_0 ",
]
RARE_NUMBERS += [
    b"0x10",
    b"\xb2 ",
    b"1,5 ",
    b"1e999 ",
    b"1\0 2",
    b"1\n",
    b"\t1",
    b". ",
]
RARE_NUMBERS += [b"1 2 ", b"--1 ", b"\xa01", b"\xd9\xa3", b"0 ", b"-0", b"9" * 18]
RARE_NUMBERS += [b"1.0 ", b"2.5 ", b"9" * 300, b"1\\\0\0", b"1\\ \\2", b"e1", b"1e "]
# Positions and directions, and invalid ones.
POSITIONS = [b"1\\-2.5\\3 ", b"-0.0\\0\\-0", b"-1e-3\\1E2\\+.5", b" 1 \\ 2\\3\0"]
RARE_POSITIONS = [
    b"1\\2 ",
    b"1\\2\\3\\4",
    b"1\\\\3 ",
    b"1\\2\\",
    b"\\\\",
    b"1\\2\\1e21",
]
RARE_POSITIONS += [
    b"1\\2\\nan ",
    b"1\\2\\3x",
    b"1 2\\3\\4",
    b"",
    b"    ",
    b"1\\2\\1_0 ",
]
RARE_POSITIONS += [
    b"12345678.12345678\\2\\3 ",
    b"123456789012345678\\0\\0",
    b"0\\0\\\0\0",
]
DIRECTIONS = [b"1\\0\\0\\0\\1\\0", b"-0\\.6\\-.8\\1\\-0.0\\0", b"0\\0\\0\\0\\0\\0"]
TYPES = [b"ORIGINAL\\PRIMARY\\LOCALIZER", b"DERIVED\\SECONDARY", b"\\\\ LOCALIZER\0"]
TYPES += [b"a\\b\\LOCALIZER\\c", b"", b"\xff\\\\", b"ORIGINAL\\PRIMARY\\LOCALIZER2"]
UIDS = [b"1.2.3\0", b"1.2.840.10008.5.1.4.1.1.4 ", b"", b"9" * 64]
RARE_UIDS = [
    b"1.2\\3",
    b"1.\xe9 ",
    b" 1.2",
    b"1.2 \0 ",
    b"9" * 65 + b" ",
    b"1.2\0003",
    b"x",
]
IDS = [
    b"AB-12 ",
    b" a~b_c ",
    b"Zo\xc3\xab",
    b"a\\b ",
    b"\x1b$B;3\x1b(B",
    b"12^3\0",
    b"",
    b"\t1",
]
CHARACTER_SETS = [b"ISO_IR 100", b"ISO_IR 192", b"", b"\\ISO 2022 IR 87", b"ISO_IR 999"]
CHARACTER_SETS += [
    b"utf8",
    b"\0\0",
    b"ISO-IR 100",
    b"latin\0 1",
    b"ISO 2022 IR 13\\GBK",
]
# Tags of sequences, of other known elements, of private elements and an unknown one.
TAGS = [0x00081140, 0x00082112, 0x00400275, 0x00409096, 0x00081030, 0x00091010]
TAGS += [0x00091002, 0x00080099, 0x00290010, 0x00291010, 0x60003000, 0x7FE00000]
TAGS += [0x00080000, 0x00280000, 0xFFFAFFFA, 0xFFFCFFFC, 0x00283010, 0x00020102]
TAGS += [0x00000002, 0x00010001, 0xFFFEE000, 0xFFFEE0DD, 0xFFFFFFFF, 0x7FE00002]
SPOILT_LENGTHS = [0, 1, 2, 3, 7, 2**16 - 1, 2**31, UNDEFINED - 1, UNDEFINED]


class Element(NamedTuple):
    """One element; `length` is what the file gives, by default the true length."""

    tag: int
    vr: bytes
    value: bytes
    length: int | None = None

    def encode(self, explicit):
        """Return the element's bytes."""
        tag = (self.tag >> 16).to_bytes(2, "little") + word(self.tag & 0xFFFF, 2)
        length = len(self.value) if self.length is None else self.length
        if not explicit or self.tag >= 0xFFFE0000:
            return tag + word(length) + self.value
        if self.vr in LONG_VRS:
            return tag + self.vr + b"\0\0" + word(length) + self.value
        return tag + self.vr + word(length & 0xFFFF, 2) + self.value


def word(number, size=4):
    return number.to_bytes(size, "little")


def even(value):
    return value + b" " * (len(value) % 2)


def file_head(explicit):
    """Return a preamble and a file meta group."""
    syntax = Element(0x00020010, b"UI", SYNTAXES[explicit]).encode(True)
    return (
        bytes(128)
        + b"DICM"
        + Element(0x20000, b"UL", word(len(syntax))).encode(True)
        + syntax
    )


def write_file(elements, explicit):
    """Return a file's bytes, its elements in the given order."""
    return file_head(explicit) + b"".join(e.encode(explicit) for e in elements)


def make_elements(rng, explicit, unusual):
    """Return the elements of a small image.

    unusual : probability that a value is unusual or invalid
    """

    def short(usual, *others):
        number = rng.choice(others) if others and rng.random() < unusual else usual
        return word(number, 2) if rng.random() > unusual / 4 else word(number, 4)

    def number(*usual):
        is_unusual = rng.random() < unusual
        value = rng.choice(RARE_NUMBERS if is_unusual else usual or NUMBERS[:-1])
        return value if is_unusual else even(value)

    def text(usual, *others):
        return even(rng.choice(others) if rng.random() < unusual else usual)

    rows, columns, frames = rng.randint(1, 4), rng.randint(1, 5), rng.randint(1, 3)
    allocated = rng.choice((8, 16, 16, 16, 32))
    stored = rng.choice((allocated, allocated - 4, rng.randint(1, allocated)))
    size = rows * columns * frames * allocated // 8
    size += size % 2 + (rng.choice((-2, 2, 40)) if rng.random() < unusual / 4 else 0)
    pixels = rng.choice((rng.randbytes(size), bytes(size)))
    photometric = rng.choice((b"MONOCHROME2", b"MONOCHROME2 ", b"MONOCHROME1\0"))
    elements = [
        Element(0x00200013, b"IS", number(b"17", b" 007 ", b"-1 ", b"+4")),
        Element(
            0x0020000E, b"UI", text(b"1.2.3\0", b"", b"1.2\\3", b"1.\xe9 ", b" 1.2")
        ),
        Element(0x00280002, b"US", short(1, 3, 0)),
        Element(0x00280004, b"CS", text(photometric, b"RGB", b"", b" MONOCHROME2")),
        Element(0x00280010, b"US", short(rows, 0, 9)),
        Element(0x00280011, b"US", short(columns, 0, 9)),
        Element(0x00280100, b"US", short(allocated, 12, 1, 64)),
        Element(0x00280101, b"US", short(stored, 0, 40)),
        Element(0x00280103, b"US", short(rng.randint(0, 1), 2)),
        Element(0x7FE00010, rng.choice((b"OW", b"OB")), pixels),
    ]
    maybe = [
        Element(0x00080005, b"CS", even(rng.choice(CHARACTER_SETS[:4]))),
        Element(0x00280102, b"US", short(stored - 1, 20)),
        Element(0x00280030, b"DS", number(b"1\\2 ", b"0.5\\1e-1")),
        Element(0x00080008, b"CS", even(rng.choice(TYPES))),
        Element(0x00080016, b"UI", text(UIDS[1], *RARE_UIDS)),
        Element(0x00080018, b"UI", text(rng.choice(UIDS), *RARE_UIDS)),
        Element(0x00080060, b"CS", text(b"MR", b"CT\0", b" CT", b"", b"mr", b"CT\\MR")),
        Element(0x00100020, b"LO", text(rng.choice(IDS[:4]), *IDS)),
        Element(0x00180050, b"DS", number()),
        Element(0x00181060, b"DS", number()),
        Element(0x0020000D, b"UI", text(rng.choice(UIDS), *RARE_UIDS)),
        Element(0x00200032, b"DS", text(rng.choice(POSITIONS), *RARE_POSITIONS)),
        Element(0x00200037, b"DS", text(rng.choice(DIRECTIONS), *RARE_POSITIONS)),
        Element(0x00200052, b"UI", text(rng.choice(UIDS), *RARE_UIDS)),
        Element(0x00200100, b"IS", number(b"3 ", b"10")),
        Element(0x00281050, b"DS", number(*NUMBERS)),
        Element(0x00281051, b"DS", number(*NUMBERS)),
        Element(0x00281052, b"DS", number()),
        Element(0x00281053, b"DS", number()),
        Element(0x00281056, b"CS", text(b"LINEAR", b"SIGMOID", b"LINEAR_EXACT", b"x")),
    ]
    rare = [
        Element(0x00080005, b"CS", even(rng.choice(CHARACTER_SETS))),
        Element(0x00280006, b"US", short(0, 1)),
        Element(0x00283000, b"SQ", b""),
        Element(0x52009229, b"SQ", rng.choice((b"", b"\xfe\xff\0\xe0" + bytes(4)))),
        Element(0x52009230, b"SQ", rng.choice((b"", b"\xfe\xff\0\xe0" + bytes(4)))),
        make_sequence(rng, 0x52009230, explicit, unusual),
        Element(0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.4.1\0"),
        Element(0x7FE00001, b"OV", bytes(8)),
        Element(0x7FE00009, b"OF", bytes(8)),
    ]
    elements += [e for e in maybe if rng.random() < 0.5]
    if frames > 1 or rng.random() < 0.2:
        elements.append(Element(0x00280008, b"IS", text(b"%d" % frames, b"0", b"1.5")))
    if rng.random() < unusual:
        elements.append(rng.choice(rare))
    elements += [
        make_extra(rng, explicit, unusual) for _ in range(rng.choice((0, 1, 3)))
    ]
    # One element of each tag, tags ascending.
    return sorted({e.tag: e for e in elements}.values())


def make_extra(rng, explicit, unusual):
    """Return an element that fastseg does not read: text, random bytes, a sequence."""
    tag = rng.choice(TAGS if rng.random() < unusual else TAGS[:16])
    kind = rng.random()
    if kind < 0.3:
        return Element(
            tag, rng.choice(SHORT_VRS), even(rng.randbytes(rng.randint(0, 9)))
        )
    if kind < 0.4:
        return Element(tag, rng.choice(LONG_VRS), bytes(rng.choice((0, 4, 300))))
    return make_sequence(rng, tag, explicit ^ (rng.random() < unusual), unusual)


def make_sequence(rng, tag, explicit, unusual, depth=0):
    """Return a sequence; its length and those of its items are defined or not."""

    def delimiter(tag):
        length = rng.randint(0, 9) if rng.random() < unusual / 4 else 0
        return Element(tag, b"", b"", length).encode(True)

    items = b""
    for _ in range(rng.choice((0, 1, 2))):
        inside = [Element(0x00081150, b"UI", b"1.2\0")]
        if rng.random() < 0.3:
            inside.append(Element(0x00081155, b"UI", rng.choice((b"", b"1.23"))))
        if rng.random() < unusual:
            value = rng.choice((word(END) + bytes(4), b"\xfe\xff\xdd\xe0", b"x"))
            inside.append(Element(0x00091010, rng.choice((b"LO", b"UN")), value))
        if rng.random() < unusual / 2:
            inside.append(Element(0x00080005, b"CS", even(rng.choice(CHARACTER_SETS))))
        if depth < 3 and rng.random() < 0.3:
            inner = rng.choice(TAGS)
            inside.append(make_sequence(rng, inner, explicit, unusual, depth + 1))
        content = b"".join(e.encode(explicit) for e in inside)
        ends = rng.random() < 0.5
        length = UNDEFINED if ends else len(content)
        if rng.random() < unusual / 2:
            length = rng.choice((UNDEFINED, len(content), len(content) - 4, 20))
        items += Element(ITEM, b"", content, length).encode(explicit)
        if ends != (rng.random() < unusual / 4):
            items += delimiter(ITEM_END)
    vr = b"SQ" if rng.random() > unusual else rng.choice((b"UN", b"OB", b"LO"))
    if rng.random() < 0.4:
        return Element(tag, vr, items)
    if rng.random() > unusual / 2:
        items += delimiter(END)
    return Element(tag, vr, items, UNDEFINED)


def spoil_elements(rng, elements):
    """Change one thing in a list of elements."""
    k = rng.randrange(len(elements))
    other = rng.randrange(len(elements))
    element = elements[k]
    kind = rng.randrange(7)
    if kind == 0:
        elements.insert(other, element)
    elif kind == 1:
        del elements[k]
    elif kind == 2:
        elements[k], elements[other] = elements[other], element
    elif kind == 3:
        elements[k] = element._replace(length=rng.choice(SPOILT_LENGTHS))
    elif kind == 4:
        near = len(element.value) + rng.choice((-2, -1, 1, 2))
        elements[k] = element._replace(length=max(near, 0))
    elif kind == 5:
        vrs = [
            *SHORT_VRS,
            *LONG_VRS,
            rng.randbytes(2),
            b"ZZ",
            b"  ",
            b"us",
            b"OB\0"[:2],
        ]
        elements[k] = element._replace(vr=rng.choice(vrs))
    else:
        tag = (element.tag + rng.choice((-1, 1, 1 << 16))) % 2**32
        elements[k] = element._replace(tag=tag)


def spoil_bytes(rng, data, end=None):
    """Return data with one thing changed, mostly before `end`."""
    if len(data) < 140:  # nothing remains but a preamble
        return data
    damaged = bytearray(data)
    at = (
        rng.randrange(len(data))
        if rng.random() < 0.1
        else rng.randrange(128, end or len(data))
    )
    kind = rng.randrange(8)
    if kind < 3:
        damaged[at] = rng.choice((0, 255, 1, 0x41, rng.randrange(256)))
    elif kind == 3:
        damaged[at] ^= 1 << rng.randrange(8)
    elif kind == 4:
        del damaged[rng.choice((at, len(data) - rng.randint(0, 12))) :]
    elif kind == 5:
        damaged[at:at] = rng.randbytes(rng.choice((1, 2, 4, 8)))
    elif kind == 6:
        del damaged[at : at + rng.choice((1, 2, 4, 8))]
    else:
        damaged += rng.choice((bytes(rng.randint(1, 12)), rng.randbytes(8)))
    return bytes(damaged)


def split_file(data):
    """Return (elements, pixel offset) of a valid explicit file."""
    at = 144 + int.from_bytes(data[140:144], "little")
    elements = []
    while at < len(data):
        tag = int.from_bytes(data[at : at + 2], "little") << 16
        tag |= int.from_bytes(data[at + 2 : at + 4], "little")
        vr, is_long = data[at + 4 : at + 6], data[at + 4 : at + 6] in LONG_VRS
        length_at, size = (at + 8, 4) if is_long else (at + 6, 2)
        start = length_at + size
        at = start + int.from_bytes(data[length_at:start], "little")
        elements.append(Element(tag, vr, data[start:at]))
    return elements, start


def make_file(rng):
    """Return a small file; half of them are spoilt."""
    explicit = rng.random() < 0.6
    spoilt = rng.random() < 0.5
    elements = make_elements(rng, explicit, rng.choice((0, 0, 0.02, 0.1)))
    if spoilt and rng.random() < 0.6:
        for _ in range(rng.choice((1, 1, 2))):
            if elements:
                spoil_elements(rng, elements)
    data = write_file(elements, explicit)
    if spoilt and rng.random() < 0.1:
        data = data.replace(b"UI", rng.choice((b"LO", b"UN", b"OB", b"DS")), 1)
    if spoilt and rng.random() < 0.6:
        for _ in range(rng.choice((1, 1, 3))):
            data = spoil_bytes(rng, data)
    return data


class File(BytesIO):
    """An open file in memory."""

    name = "a.dcm"


def outcome(read, *arguments):
    """Return what a reader returned or raised, in a form that can be compared."""
    try:
        result = read(*arguments)
    except FastsegError as exc:
        return type(exc), str(exc)
    if result is None:
        return None
    header = getattr(result, "header", result)
    fields = [repr(header), header.patient_id]  # differs for -0.0 and 0.0
    if header is not result:
        pixels = result.pixels
        fields += [pixels.dtype.str, pixels.shape, pixels.tobytes()]
    return fields


def decode(reader, data, name, *options):
    """Read one frame of a file's bytes by one reader; None if it declines."""
    frame, limit = options
    file = reader.parse(data, name, limit) if reader is fallback else reader.parse(data)
    if file is None:
        return None
    check_request(file.header, frame, limit, name)
    return file.read(frame)


def compare(data, frame=0):
    """Read a file by the fast path and by the fallback, each in three ways.

    Returns how many of the three the fast path answers, and both results of those
    that differ. What the fast path does not answer, it leaves to the fallback, so that
    nothing can differ.
    """
    name = "a.dcm"
    more = frame, LIMIT
    ours = {
        "decode": outcome(decode, scan, data, name, *more),
        "read_image": outcome(scan.read_image, File(data), name, *more),
        "read_header": outcome(scan.read_header, File(data)),
    }
    ours = {kind: result for kind, result in ours.items() if result is not None}
    image = header = None
    if ours.keys() - {"read_header"}:
        image = outcome(decode, fallback, data, name, *more)
    if "read_header" in ours:
        header = outcome(fallback.read_header, File(data), name)
    theirs = {"decode": image, "read_image": image, "read_header": header}
    differing = {
        kind: (result, theirs[kind])
        for kind, result in ours.items()
        if result != theirs[kind]
    }
    return len(ours), differing
