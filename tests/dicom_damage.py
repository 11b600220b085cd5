"""Makes DICOM files, sound and spoilt, without pydicom; holds `plain` against `full`.

A file is a list of elements, written as PS3.5 section 7.1 has it; what is not quite
right in it comes from `random.Random`, so that a seed tells all of it.
"""

from io import BytesIO
from typing import NamedTuple

from fastseg.dicom import fallback, scan
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
# Numbers, and what is nearly one.
NUMBERS = [b"1 ", b"0.5 ", b"-3", b"1e3 ", b" 7 ", b"+.5 ", b"5. ", b"007 ", b"1\\2 "]
ODD_NUMBERS = [b"", b"  ", b"\0\0", b"5\0", b"1\\", b"\\1", b"nan ", b"inf ", b"1_0 "]
ODD_NUMBERS += [b"0x10", b"\xb2 ", b"1,5 ", b"1e999 ", b"1\0 2", b"1\n", b"\t1", b". "]
ODD_NUMBERS += [b"1 2 ", b"--1 ", b"\xa01", b"\xd9\xa3", b"0 ", b"-0", b"9" * 18]
ODD_NUMBERS += [b"1.0 ", b"2.5 ", b"9" * 300, b"1\\\0\0", b"1\\ \\2", b"e1", b"1e "]
CHARACTER_SETS = [b"ISO_IR 100", b"ISO_IR 192", b"", b"\\ISO 2022 IR 87", b"ISO_IR 999"]
CHARACTER_SETS += [
    b"utf8",
    b"\0\0",
    b"ISO-IR 100",
    b"latin\0 1",
    b"ISO 2022 IR 13\\GBK",
]
# Sequences by the dictionary, others by it, private ones and an unknown one.
PLACES = [0x00081140, 0x00082112, 0x00400275, 0x52009229, 0x00081030, 0x00091010]
PLACES += [0x00091002, 0x00080099, 0x00290010, 0x00291010, 0x60003000, 0x7FE00000]
PLACES += [0x00080000, 0x00280000, 0xFFFAFFFA, 0xFFFCFFFC, 0x00283010, 0x00020102]
PLACES += [0x00000002, 0x00010001, 0xFFFEE000, 0xFFFEE0DD, 0xFFFFFFFF, 0x7FE00002]
SPOILT_LENGTHS = [0, 1, 2, 3, 7, 2**16 - 1, 2**31, UNDEFINED - 1, UNDEFINED]


class Element(NamedTuple):
    """One element: `length` is what the file says, by default what is true."""

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
    """Return a file's bytes: elements in the order in which they are given."""
    return file_head(explicit) + b"".join(e.encode(explicit) for e in elements)


def make_elements(rng, explicit, odd):
    """Return the elements of a small image; a share of values is odd."""

    def short(usual, *others):
        number = rng.choice(others) if others and rng.random() < odd else usual
        return word(number, 2) if rng.random() > odd / 4 else word(number, 4)

    def number(*usual):
        odd_one = rng.random() < odd
        value = rng.choice(ODD_NUMBERS if odd_one else usual or NUMBERS[:-1])
        return value if odd_one else even(value)

    def text(usual, *others):
        return even(rng.choice(others) if rng.random() < odd else usual)

    rows, columns, frames = rng.randint(1, 4), rng.randint(1, 5), rng.randint(1, 3)
    allocated = rng.choice((8, 16, 16, 16, 32))
    stored = rng.choice((allocated, allocated - 4, rng.randint(1, allocated)))
    size = rows * columns * frames * allocated // 8
    size += size % 2 + (rng.choice((-2, 2, 40)) if rng.random() < odd / 4 else 0)
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
        Element(0x00181164, b"DS", number(b"1\\2 ", b"0.5\\1e-1")),
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
        Element(0x7FE00001, b"OV", bytes(8)),
        Element(0x7FE00009, b"OF", bytes(8)),
    ]
    elements += [e for e in maybe if rng.random() < 0.5]
    if frames > 1 or rng.random() < 0.2:
        elements.append(Element(0x00280008, b"IS", text(b"%d" % frames, b"0", b"1.5")))
    if rng.random() < odd:
        elements.append(rng.choice(rare))
    elements += [make_extra(rng, explicit, odd) for _ in range(rng.choice((0, 1, 3)))]
    # One of each tag, in order.
    return sorted({e.tag: e for e in elements}.values())


def make_extra(rng, explicit, odd):
    """Return an element that is no fact: text, rubbish or a sequence."""
    tag, kind = rng.choice(PLACES if rng.random() < odd else PLACES[:16]), rng.random()
    if kind < 0.3:
        return Element(
            tag, rng.choice(SHORT_VRS), even(rng.randbytes(rng.randint(0, 9)))
        )
    if kind < 0.4:
        return Element(tag, rng.choice(LONG_VRS), bytes(rng.choice((0, 4, 300))))
    return make_sequence(rng, tag, explicit ^ (rng.random() < odd), odd)


def make_sequence(rng, tag, explicit, odd, depth=0):
    """Return a sequence, its lengths and those of its items defined or not."""

    def delimiter(tag):
        length = rng.randint(0, 9) if rng.random() < odd / 4 else 0
        return Element(tag, b"", b"", length).encode(True)

    items = b""
    for _ in range(rng.choice((0, 1, 2))):
        inside = [Element(0x00081150, b"UI", b"1.2\0")]
        if rng.random() < 0.3:
            inside.append(Element(0x00081155, b"UI", rng.choice((b"", b"1.23"))))
        if rng.random() < odd:
            value = rng.choice((word(END) + bytes(4), b"\xfe\xff\xdd\xe0", b"x"))
            inside.append(Element(0x00091010, rng.choice((b"LO", b"UN")), value))
        if rng.random() < odd / 2:
            inside.append(Element(0x00080005, b"CS", even(rng.choice(CHARACTER_SETS))))
        if depth < 3 and rng.random() < 0.3:
            place = rng.choice(PLACES)
            inside.append(make_sequence(rng, place, explicit, odd, depth + 1))
        content = b"".join(e.encode(explicit) for e in inside)
        ends = rng.random() < 0.5
        length = UNDEFINED if ends else len(content)
        if rng.random() < odd / 2:
            length = rng.choice((UNDEFINED, len(content), len(content) - 4, 20))
        items += Element(ITEM, b"", content, length).encode(explicit)
        if ends != (rng.random() < odd / 4):
            items += delimiter(ITEM_END)
    vr = b"SQ" if rng.random() > odd else rng.choice((b"UN", b"OB", b"LO"))
    if rng.random() < 0.4:
        return Element(tag, vr, items)
    if rng.random() > odd / 2:
        items += delimiter(END)
    return Element(tag, vr, items, UNDEFINED)


def spoil_elements(rng, elements):
    """Change one thing in a list of elements."""
    k, other = rng.randrange(len(elements)), rng.randrange(len(elements))
    element, kind = elements[k], rng.randrange(7)
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
    if len(data) < 140:  # nothing but a preamble is left
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
    """Return (elements, where the pixels begin) of a sound explicit file."""
    at = 144 + int.from_bytes(data[140:144], "little")
    elements = []
    while at < len(data):
        tag = int.from_bytes(data[at : at + 2], "little") << 16
        tag |= int.from_bytes(data[at + 2 : at + 4], "little")
        vr, is_long = data[at + 4 : at + 6], data[at + 4 : at + 6] in LONG_VRS
        place, size = (at + 8, 4) if is_long else (at + 6, 2)
        start = place + size
        at = start + int.from_bytes(data[place:start], "little")
        elements.append(Element(tag, vr, data[start:at]))
    return elements, start


def make_file(rng):
    """Return a small file; half of them are spoilt."""
    explicit, spoilt = rng.random() < 0.6, rng.random() < 0.5
    elements = make_elements(rng, explicit, rng.choice((0, 0.03, 0.1, 0.2)))
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
    """Return what comes of reading: a header or an image in parts, or the error."""
    try:
        result = read(*arguments)
    except FastsegError as exc:
        return type(exc), str(exc)
    if result is None:
        return None
    header = getattr(result, "header", result)
    told = [repr(header)]  # tells -0.0 from 0.0
    if header is not result:
        pixels = result.pixels
        told += [pixels.dtype.str, pixels.shape, pixels.tobytes()]
    return told


def compare(data, frame=0):
    """Return (how many of three readings `plain` answers, those that differ).

    Where it does not answer, `full` does in its stead; what does not differ then.
    """
    name, more = "a.dcm", (frame, LIMIT)
    ours = {
        "decode": outcome(scan.decode, data, name, *more),
        "read_image": outcome(scan.read_image, File(data), name, *more),
        "read_header": outcome(scan.read_header, File(data)),
    }
    ours = {kind: result for kind, result in ours.items() if result is not None}
    image = header = None
    if ours.keys() - {"read_header"}:
        image = outcome(fallback.decode, data, name, *more)
    if "read_header" in ours:
        header = outcome(fallback.read_header, File(data), name)
    theirs = {"decode": image, "read_image": image, "read_header": header}
    differing = {
        kind: (result, theirs[kind])
        for kind, result in ours.items()
        if result != theirs[kind]
    }
    return len(ours), differing
