"""Files read by kernels, compared with Python's readers, also unusual files."""

import os
import random
import warnings
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from xxhash import xxh3_64_intdigest

import fastseg
from fastseg._kernels.files import content, system
from fastseg.codecs.pool import Pool
from fastseg.dicom import scan
from fastseg.errors import RejectedWarning
from fastseg.file_batches import join_paths
from fastseg.files import stamp_of
from fastseg.ingest import annotations, images
from fastseg.ingest.block import Block
from fastseg.links import Link
from fastseg.paths import Paths
from fastseg.store.layout import Bucket
from fastseg.store.writing.records import Slots
from tests import dicom_damage as damage
from tests.dicom.test_read_image import dicom_bytes

needs_kernels = pytest.mark.skipif(not system.AVAILABLE, reason="needs Linux")


def read(paths, buffer_size=2**16, first=0, most=content.WHOLE, lead=0):
    """Call `read_files`; return its result and the arrays that it fills."""
    offsets = np.full(len(paths), 7)
    hashes = np.zeros(len(paths), np.uint64)
    stamps = np.zeros((len(paths), 4), np.int64)
    buffer = np.zeros(buffer_size, np.uint8)
    names = join_paths(map(str, paths))
    stop = content.read_files(names, first, most, lead, buffer, offsets, stamps, hashes)
    return stop, offsets[:stop].tolist(), stamps, hashes, buffer


@needs_kernels
@pytest.mark.kernel
def test_files_are_read_hashed_and_stamped(tmp_path):
    """Contents, stamps and hashes are those of the files."""
    contents = [b"abc", b"", bytes(range(200)), b"y" * 5000]
    paths = []
    for k, data in enumerate(contents):
        paths.append(tmp_path / f"{k} ü")
        paths[-1].write_bytes(data)
    stop, offsets, stamps, hashes, buffer = read(paths)
    assert stop == 4
    for path, data, offset, stamp, file_hash in zip(
        paths, contents, offsets, stamps, hashes, strict=True
    ):
        assert buffer[offset : offset + len(data)].tobytes() == data
        assert tuple(stamp) == stamp_of(path)
        assert file_hash == xxh3_64_intdigest(data)


@needs_kernels
@pytest.mark.kernel
def test_unexpected_files_are_not_read(tmp_path):
    """Folders, pipes, links, missing files and files over the buffer are UNREAD."""
    file = tmp_path / "file"
    file.write_bytes(b"123")
    (tmp_path / "link").symlink_to(file)
    os.mkfifo(tmp_path / "pipe")
    paths = [tmp_path, tmp_path / "pipe", tmp_path / "link", tmp_path / "none"]
    _, offsets, *_ = read([*paths, file])
    assert offsets[:-1] == [content.UNREAD] * 4
    assert offsets[-1] >= 0
    file.write_bytes(bytes(100))
    assert read([file], buffer_size=80)[1] == [content.UNREAD]


@needs_kernels
@pytest.mark.kernel
def test_reading_stops_where_the_buffer_is_full(tmp_path):
    """Files are read one after another up to the first one that does not fit."""
    paths = [tmp_path / name for name in "abcd"]
    for path, size in zip(paths, (100, 150, 0, 300), strict=True):
        path.write_bytes(bytes(size))
    for buffer_size in range(500):
        # Each begins at a multiple of 64.
        fits = [total <= buffer_size for total in (100, 278, 320, 620)]
        stop, offsets, *_ = read(paths, buffer_size)
        if buffer_size < 100:
            assert offsets[0] == content.UNREAD
        else:
            assert stop == sum(fits)
            assert offsets == [0, 128, 320][:stop]
    assert read(paths, 400, first=3)[0] == 4


@needs_kernels
@pytest.mark.kernel
def test_the_beginnings_of_files_are_read(tmp_path):
    """Of longer files `most` bytes are read and hashed; the stamp has the size."""
    contents = [b"abc", b"0123456789"]
    paths = [tmp_path / f"{k}" for k in range(2)]
    for path, data in zip(paths, contents, strict=True):
        path.write_bytes(data)
    _, offsets, stamps, hashes, buffer = read(paths, most=5)
    assert buffer[: offsets[1] + 6].tobytes() == b"abc" + bytes(61) + b"01234\0"
    assert stamps[:, 0].tolist() == [3, 10]
    assert hashes.tolist() == [xxh3_64_intdigest(data[:5]) for data in contents]


@needs_kernels
@pytest.mark.kernel
@pytest.mark.parametrize("lead", [0, 1, 63, 64, 1000])
def test_the_byte_after_the_lead_is_aligned(tmp_path, lead):
    """The byte `lead` of each file lies at a multiple of 64; files do not overlap."""
    paths = [tmp_path / f"{k}" for k in range(5)]
    for k, path in enumerate(paths):
        path.write_bytes(bytes([k] * (100 + k)))
    _, offsets, *_, buffer = read(paths, lead=lead)
    for k, offset in enumerate(offsets):
        assert (offset + lead) % content.LINE == 0
        assert buffer[offset : offset + 100 + k].tolist() == [k] * (100 + k)


class Written:
    """Keeps what would be written: images by their row in the store."""

    def __init__(self):
        self.images = {}

    def write_images(self, slots, pixels):
        """Keep copies; return offsets and sizes that tell the rows."""
        self.images.update(zip(slots.row.tolist(), map(np.copy, pixels), strict=True))
        return np.column_stack([slots.row, np.full(len(pixels), pixels[0].nbytes)])


def read_images(paths, dtype=np.uint16):
    """Read files as images of 4 x 5; return what is known, and what was written."""
    count = len(paths)
    rows = np.random.default_rng(7).permutation(count)
    block = Block(
        items=np.arange(count),
        links=[[Link("p", path.name)] for path in paths],
        slots=Slots(np.zeros(count, np.uint64), np.zeros(count, np.int64), rows),
        bucket=Bucket((4, 5), np.dtype(dtype)),
        is_todo=np.ones(count, np.bool_),
    )
    reader = images.ImageReader(
        *(Paths(paths[0].parent), Pool(1)), max_pixel_bytes=2**20, decode_timeout=1.0
    )
    written = Written()
    found = reader.read(block, written)
    for k in np.flatnonzero(found.is_read).tolist():
        pixels = written.images[rows[k]]
        assert found.offsets[k].tolist() == [rows[k], pixels.nbytes]
        assert found.measures.hashes[k] == xxh3_64_intdigest(pixels.tobytes())
    return found, [written.images.get(row) for row in rows.tolist()]


def write_image(path, pixels, **elements):
    """Write a DICOM file of an image of uint16, of which 12 bits are stored."""
    elements = {"BitsStored": 12, "HighBit": 11, **elements}
    path.write_bytes(dicom_bytes(pixels[None], **elements))


@needs_kernels
@pytest.mark.kernel
@pytest.mark.parametrize("files_in_buffer", [1.5, 3.5, 100])
def test_images_are_measured_and_written(tmp_path, monkeypatch, files_in_buffer):
    """Statistics are those of numpy, and each image is written to its own slot."""
    paths = []
    stack = np.random.default_rng(5).integers(0, 1000, (12, 4, 5)).astype(np.uint16)
    stack[7, 3] = 2**12  # above 12 bits
    for k, image in enumerate(stack):
        paths.append(tmp_path / f"{k}")
        comment = {"ImageComments": "x" * (2 * k)} if k > 5 else {}
        write_image(paths[-1], image.T if k == 4 else image, **comment)
    size = paths[-1].stat().st_size
    monkeypatch.setattr(images, "BUFFER_BYTES", int(files_in_buffer * size))
    monkeypatch.setattr(images, "HEADER_BYTES", size)
    found, written = read_images(paths)
    assert np.flatnonzero(~found.is_read).tolist() == [4, 7]
    for k in np.flatnonzero(found.is_read).tolist():
        image = stack[k]
        np.testing.assert_array_equal(written[k], image.reshape(-1))
        assert found.scans.headers[found.scans.header_index[k]].rows == 4
        assert tuple(found.stamps[k]) == stamp_of(paths[k])
        assert found.file_hashes[k] == xxh3_64_intdigest(paths[k].read_bytes())
        squares = int((image.astype(int) ** 2).sum())
        sums = [image.min(), image.max(), image.sum(), 0, squares]
        assert found.measures.sums[k].tolist() == sums
        ranked = np.sort(image, axis=None)[images.percentile_ranks(20)].tolist()
        assert found.measures.percentiles[k].tolist() == ranked


@needs_kernels
@pytest.mark.kernel
def test_longer_pixels_are_padded(tmp_path):
    """What follows the pixels is ignored, but for a frame more and for items."""
    pixels = np.arange(20, dtype=np.uint16)
    item = b"\xfe\xff\0\xe0" + (40).to_bytes(4, "little")
    stored = [b"", b"\7" * 2, b"\7" * 38, b"\7" * 40, b"\7" * 80]
    stored = [pixels.tobytes() + tail for tail in stored]
    stored += [pixels.tobytes()[:-2], item + pixels.tobytes()]
    paths = [tmp_path / f"{k}" for k in range(len(stored))]
    for path, data in zip(paths, stored, strict=True):
        write_image(path, pixels.reshape(4, 5), PixelData=data)
    found, written = read_images(paths)
    assert found.is_read.tolist() == [True] * 3 + [False] * 4
    for k in range(3):
        np.testing.assert_array_equal(written[k], pixels)
    assert found.measures.sums[:3].tolist() == [[0, 19, 190, 0, 2470]] * 3


@needs_kernels
@pytest.mark.kernel
def test_only_files_of_one_image_of_the_kind_are_read(tmp_path):
    """Files of several frames, of other bits or of signed pixels are left to Python."""
    pixels = np.arange(20, dtype=np.uint16).reshape(4, 5)
    paths = [tmp_path / f"{k}" for k in range(5)]
    write_image(paths[0], pixels)
    write_image(paths[1], pixels, NumberOfFrames="1")
    write_image(paths[2], pixels, NumberOfFrames="2")
    write_image(paths[3], pixels, PixelRepresentation=1)
    write_image(paths[4], pixels, BitsAllocated=8, BitsStored=8, HighBit=7)
    found, _ = read_images(paths)
    assert found.is_read.tolist() == [True, True, False, False, False]


@needs_kernels
@pytest.mark.kernel
def test_images_of_odd_offsets_are_aligned(tmp_path):
    """A pixel of four bytes is read, wherever in its file it begins."""
    paths = []
    pixels = np.arange(20, dtype=np.uint32).reshape(4, 5) * 1000
    for k in range(4):
        paths.append(tmp_path / f"{k}")
        bits = {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31}
        data = dicom_bytes(pixels[None], **bits, ImageComments="x" * (2 * k))
        paths[-1].write_bytes(data)
    found, written = read_images(paths, np.uint32)
    assert found.is_read.all()
    for image in written:
        np.testing.assert_array_equal(image, pixels.reshape(-1))


@needs_kernels
@pytest.mark.kernel
def test_scan_headers_equals_scan_header_for_damaged_files(tmp_path):
    """Where `scan_headers` returns a header, `scan_header` returns the same one."""
    rng = random.Random(5)
    paths = []
    contents = []
    for k in range(200):
        contents.append(damage.make_file(rng))
        if k % 3 == 0 and k:  # similar to the first one
            contents[-1] = damage.spoil_bytes(rng, contents[0], len(contents[0]))
        paths.append(tmp_path / f"{k}.dcm")
        paths[-1].write_bytes(contents[-1])
    assert compare_scans(paths, contents) > 20


@pytest.mark.parametrize(
    "keyword", ["InstanceNumber", "WindowCenter", "WindowWidth", "TriggerTime"]
)
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_scan_headers_equals_scan_header_for_odd_numbers(
    study, tmp_path, keyword, function
):
    """Both agree on numbers that are infinite, too large or malformed."""
    (image, *_) = sorted(study.glob("dicoms/*/*.dcm"))
    edit(image, VOILUTFunction=function, WindowCenter="40", WindowWidth="400")
    dataset = pydicom.dcmread(image)
    paths = []
    contents = []
    texts = "7,-7.5,0,0.5,1,1e5,1e400,-1e400,1e-400,1e15,9999999999999999,nan,inf,x,"
    for k, text in enumerate(texts.split(",")):
        value = text.encode() + b" " * (len(text) % 2)
        tag = pydicom.tag.Tag(keyword)
        vr = pydicom.datadict.dictionary_VR(tag)
        dataset[tag] = pydicom.dataelem.RawDataElement(
            tag, vr, len(value), value, 0, False, True
        )
        paths.append(tmp_path / f"{k}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
        contents.append(paths[-1].read_bytes())
    assert compare_scans(paths, contents) > 3


def compare_scans(paths, contents):
    """Compare `scan_headers` with `scan_header`; return how many files it scanned."""
    scans = scan.scan_headers(map(str, paths))
    scanned = 0
    for k, number in enumerate(scans.header_index.tolist()):
        single = scan.scan_header(contents[k])
        if number == scan.UNKNOWN:
            assert single is None
            continue
        scanned += 1
        assert repr(single.header) == repr(scans.header_of(k))
        assert single.header == scans.header_of(k)
    return scanned


def edit(path, **elements):
    """Change elements of a file."""
    dataset = pydicom.dcmread(path)
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)


def spoil(study):
    """Change most of a study's files so that each is unusual or bad in some respect."""
    images = sorted(study.glob("dicoms/*/*.dcm"))
    edit(images[0], PhotometricInterpretation="MONOCHROME1", RescaleSlope="1.5")
    edit(images[1], WindowCenter=["40", "400"], WindowWidth=["80", "2000"])
    edit(images[2], VOILUTFunction="LINEAR_EXACT", WindowWidth="0.5")
    edit(images[3], BitsStored=3, HighBit=2)  # higher bits are set
    edit(images[4], WindowCenter="1e2", WindowWidth="")
    images[5].rename(images[5].with_suffix(".away"))
    images[5].symlink_to(images[5].with_suffix(".away").name)
    os.truncate(images[6], images[6].stat().st_size - 2)
    images[7].write_bytes(images[7].read_bytes() + bytes(2))
    for image, tail in ((images[8], b"\1" * 100), (images[9], None)):
        pixels = pydicom.dcmread(image).PixelData
        edit(image, PixelData=pixels + (tail or pixels))
    contours = sorted(study.glob("contourfiles/*/*/*.txt"))
    contours[0].write_text("1e1 5\n\n20 5\n5 20\n")
    contours[1].write_text("")
    contours[2].write_text("5 5\n5 5\n5 9\n")
    contours[3].write_text("-100 -100\n-90 -100\n-100 -90\n")
    contours[4].unlink()
    contours[5].write_bytes(b"5.5 6.25\r\n20 7\r\n9 30.125\r\n")
    contours[6].write_text("".join(f"{k % 40} {k * k % 37}\n" for k in range(12_000)))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("buffer_size", [2**20, 2**10])  # bytes of the text buffer
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"edges": "closed", "origin": "corner", "fill": "union"},
        {"fill": "nonzero"},
    ],
)
def test_kernels_read_the_same_as_python(
    study, tmp_path, monkeypatch, compress, buffer_size, options
):
    """Bytes and report are the same, for usual and for unusual files."""
    monkeypatch.setattr(annotations, "TEXT_BYTES", buffer_size)
    table = fastseg.link(study, keep_unlabelled=True)
    links = [link._replace(format="other") for link in table.links[-1:]]
    table = replace(table, links=(*table.links[:-1], *links))
    spoil(study)
    reports = []
    for available in (system.AVAILABLE, False):
        monkeypatch.setattr(system, "AVAILABLE", available)
        path = tmp_path / f"{len(reports)}.h5"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RejectedWarning)
            reports.append(fastseg.build(table, path, compress=compress, **options))
    assert replace(reports[0], path=reports[1].path) == reports[1]
    assert reports[0].path.read_bytes() == reports[1].path.read_bytes()
    assert len(reports[0].rejects) > 4
