"""The fast path gives what building item by item gives, also for unusual files."""

import os
import random
import warnings
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from xxhash import xxh3_64_intdigest

import fastseg
from fastseg._kernels.files import content, system, transfer
from fastseg.dicom import scan
from fastseg.errors import RejectedWarning
from fastseg.files import stamp_of
from fastseg.ingest import fast_path
from tests import dicom_damage as damage

needs_kernels = pytest.mark.skipif(not system.AVAILABLE, reason="needs Linux")


def names_of(paths):
    """Return paths as kernels take them: joined, and the offset of each."""
    names = [os.fsencode(path) + b"\0" for path in paths]
    return b"".join(names), np.cumsum([0, *map(len, names)])


def read(paths, sizes, buffer_size=2**16):
    """Call `read_files`; return its result and the arrays that it fills.

    The bytes from offset 3 on are aligned.
    """
    names, starts = names_of(paths)
    offsets = np.full(len(paths), 7)
    hashes = np.zeros(len(paths), np.uint64)
    stamps = np.zeros((len(paths), 4), np.int64)
    buffer = np.zeros(buffer_size, np.uint8)
    stop = content.read_files(
        *(np.frombuffer(names, np.uint8), starts, 0, np.array(sizes)),
        *(np.full(len(paths), 3), buffer, offsets, stamps, hashes),
    )
    return stop, offsets[:stop].tolist(), stamps, hashes, buffer


@needs_kernels
@pytest.mark.kernel
def test_files_are_read_hashed_and_stamped(tmp_path):
    """Contents, stamps and hashes are those of the files; the pixels are aligned."""
    contents = [b"abc", b"", bytes(range(200)), b"y" * 5000]
    paths = []
    for k, data in enumerate(contents):
        paths.append(tmp_path / f"{k} ü")
        paths[-1].write_bytes(data)
    stop, offsets, stamps, hashes, buffer = read(paths, [3, 0, 200, content.UNKNOWN])
    assert stop == 4
    for path, data, offset, stamp, file_hash in zip(
        paths, contents, offsets, stamps, hashes, strict=True
    ):
        assert buffer[offset : offset + len(data)].tobytes() == data
        assert (buffer.ctypes.data + offset + 3) % content.LINE == 0
        assert tuple(stamp) == stamp_of(path)
        assert file_hash == xxh3_64_intdigest(data)
    assert read(paths, [3, 0, 200, 5000], buffer_size=2000)[0] == 3


@needs_kernels
@pytest.mark.kernel
def test_unexpected_files_are_not_read(tmp_path):
    """Folders, pipes, links, missing files, other sizes and large files are UNREAD."""
    file = tmp_path / "file"
    file.write_bytes(b"123")
    (tmp_path / "link").symlink_to(file)
    os.mkfifo(tmp_path / "pipe")
    paths = [tmp_path, tmp_path / "pipe", tmp_path / "link", tmp_path / "none"]
    paths += [file, file, file]
    _, offsets, *_ = read(paths, [content.UNKNOWN] * 4 + [2, 4, 3])
    assert offsets[:-1] == [content.UNREAD] * 6
    assert offsets[-1] >= 0
    file.write_bytes(bytes(100))
    assert read([file], [content.UNKNOWN], buffer_size=80)[1] == [content.UNREAD]


@needs_kernels
@pytest.mark.kernel
def test_a_file_of_unknown_size_that_does_not_fit_is_not_read(tmp_path):
    """Whatever remains of the buffer, each file is complete or UNREAD."""
    buffer_size = 1024
    paths = [tmp_path / name for name in "abc"]
    for path, data in zip(paths, (b"", b"few letters", b""), strict=True):
        path.write_bytes(data)
    unread_counts = set()
    for size in range(buffer_size - 200, buffer_size + 1):
        paths[0].write_bytes(bytes(size))
        stop, offsets, *_ = read(paths, [content.UNKNOWN] * 3, buffer_size)
        assert stop == 3
        for offset, path in zip(offsets, paths, strict=True):
            assert (
                offset == content.UNREAD or offset + path.stat().st_size <= buffer_size
            )
        unread_counts.add(offsets.count(content.UNREAD))
    assert unread_counts >= {0, 1, 2}


def transfer_images(paths, header_hashes, handle, targets, buffer_size, first=0):
    """Call `transfer_images` for files of a header of 8 bytes and 20 uint16 pixels.

    Returns its result and the arrays that it fills.
    """
    names, starts = names_of(paths)
    count = len(paths)
    ranks = np.array([0, 10])
    limits = np.tile([0, 2000], (count, 1))
    buffer = np.zeros(buffer_size, np.uint8)
    offsets = np.full(count, 7)
    stamps = np.zeros((count, 4), np.int64)
    file_hashes = np.zeros(count, np.uint64)
    sums = np.zeros((count, 5), np.int64)
    percentiles = np.zeros((count, 2))
    pixel_hashes = np.zeros(count, np.uint64)
    valid = np.zeros(count, np.bool_)
    stop = transfer.transfer_images(
        *(np.frombuffer(names, np.uint8), starts, first, np.full(count, 48)),
        *(np.full(count, 8), header_hashes, limits, np.empty(0, np.uint16), 20),
        *(2**17, ranks, handle, targets, buffer, offsets, stamps, file_hashes),
        *(sums, percentiles, pixel_hashes, valid),
    )
    return stop, offsets, file_hashes, sums, percentiles, pixel_hashes, valid, buffer


@needs_kernels
@pytest.mark.kernel
@pytest.mark.parametrize("buffer_size", [150, 10_000])
def test_images_are_measured_and_written(tmp_path, buffer_size):
    """Statistics are those of numpy, and each image is written to its target offset."""
    paths = []
    images = np.random.default_rng(5).integers(0, 1000, (12, 20)).astype(np.uint16)
    images[7, 3] = 2001  # above the limit
    for k, image in enumerate(images):
        paths.append(tmp_path / f"{k}")
        paths[-1].write_bytes(b"12345678" + image.tobytes())
    header_hashes = np.full(12, xxh3_64_intdigest(b"12345678"), np.uint64)
    header_hashes[4] += np.uint64(1)  # that of another header
    targets = np.array([400, 440, 480, 0, 0, 520, 560, 600, 640, 40, 80, 120])
    output = tmp_path / "output"
    output.write_bytes(bytes(700))
    handle = os.open(output, os.O_RDWR)
    try:
        results = transfer_images(paths, header_hashes, handle, targets, buffer_size)
    finally:
        os.close(handle)
    stop, _, file_hashes, sums, percentiles, pixel_hashes, valid, _ = results
    assert stop == 12
    assert np.flatnonzero(~valid).tolist() == [4, 7]
    expected = bytearray(700)
    for k in np.flatnonzero(valid).tolist():
        image = images[k]
        expected[targets[k] : targets[k] + 40] = image.tobytes()
        assert file_hashes[k] == xxh3_64_intdigest(paths[k].read_bytes())
        assert pixel_hashes[k] == xxh3_64_intdigest(image.tobytes())
        squares = int((image.astype(int) ** 2).sum())
        assert sums[k].tolist() == [image.min(), image.max(), image.sum(), 0, squares]
        assert percentiles[k].tolist() == np.sort(image)[[0, 10]].tolist()
    assert output.read_bytes() == expected


@needs_kernels
@pytest.mark.kernel
def test_images_that_are_not_written_stay_in_the_buffer(tmp_path):
    """They do so without an output file, and if the file cannot be written."""
    paths = []
    for k in range(6):
        paths.append(tmp_path / f"{k}")
        paths[-1].write_bytes(b"12345678" + bytes([k, 0] * 20))
    hashes = np.full(6, xxh3_64_intdigest(b"12345678"), np.uint64)
    targets = np.arange(6) * 40 + 1000
    buffer_size = 63 + 2 * 64 + 48  # for three, wherever in a cache line it begins
    results = transfer_images(paths, hashes, -1, targets, buffer_size)
    stop, offsets, *_, valid, buffer = results
    assert stop == 3
    assert valid.tolist() == [True] * 3 + [False] * 3
    for k in range(3):
        assert buffer[offsets[k] + 8 : offsets[k] + 48].tolist() == [k, 0] * 20
    assert transfer_images(paths, hashes, -1, targets, buffer_size, first=3)[0] == 6
    handle = os.open(paths[0], os.O_RDONLY)
    try:
        for first in (0, 2):
            results = transfer_images(
                paths, hashes, handle, targets, buffer_size, first
            )
            stop, offsets, *_, buffer = results
            assert stop == first
            assert buffer[offsets[stop] + 8] == stop
    finally:
        os.close(handle)


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


@pytest.mark.parametrize("keyword", ["InstanceNumber", "WindowCenter", "WindowWidth"])
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
    scans = scan.scan_headers(*names_of(paths))
    scanned = 0
    for k, number in enumerate(scans.header_index.tolist()):
        single = scan.scan_header(contents[k][: scan.PIECES[0]])
        if number == scan.UNKNOWN:
            assert single is None
            continue
        scanned += 1
        instance, *window = scans.per_file[k].tolist()
        assert single.shared == scans.headers[number]
        assert single.instance == (None if np.isnan(instance) else instance)
        assert single.window == (None if np.isnan(window[0]) else tuple(window))
        assert [single.pixel_offset, single.pixel_length] == scans.pixel_spans[
            k
        ].tolist()
        assert single.holds(
            contents[k][: single.pixel_offset + single.pixel_length],
            int(scans.header_hashes[k]),
        )
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
def test_the_fast_path_gives_the_same_as_item_by_item(
    study, tmp_path, monkeypatch, compress, buffer_size, options
):
    """Bytes and report are the same, for usual and for unusual files."""
    monkeypatch.setitem(fast_path.BUFFER_BYTES, "text", buffer_size)
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
